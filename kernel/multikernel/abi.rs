// SPDX-License-Identifier: GPL-2.0

//! Every layout that two kernels share.
//!
//! The shared area of an instance is [`SHARED_SIZE`] bytes of the host's memory, apart from the
//! ranges that are lent. The host writes the header before each start; the spawn, if it has guest
//! support, finds the area by `multikernel=ADDRESS` on its command line. The same file is compiled
//! into the host kernel, the spawn kernel, `mkctl` and the tests, and it is a wire format: fields
//! are little-endian, of fixed width, only ever appended, and every offset is asserted below.
//! Nothing here is trusted by the side that reads it: each field is copied once, checked, then
//! used.
//!
//! | offset | bytes | what |
//! | --- | --- | --- |
//! | `0x0` | 4096 | [`SharedHeader`] |
//! | `0x1000` | 4096 | [`ConsoleRings`]: positions of both console rings |
//! | `0x2000` | 4096 | bytes of the input ring (host to spawn) |
//! | `0x3000` | 20480 | [`CpuRegisters`] of the spawn's first 80 CPUs at its end |
//! | `0x8000` | 32768 | [`CpuBeat`] of each of the spawn's CPUs |
//! | `0x10000` | 65536 | bytes of the output ring (spawn to host) |
//!
//! A *link* joins two kernels: one region of memory, told of by `link_base`, with [`LinkHeader`] at
//! its beginning; `link/layout.rs` says where the rest is.
//!
//! This file has no code but constants, and needs no lock.

// `pub`, not `pub(crate)`: in the test workspace and in mkctl the file is a library's.
// Nor has any of those who compile it use for all of it.
#![allow(unreachable_pub, dead_code)]

/// Version of this ABI. A reader refuses a header of another version.
pub const ABI_VERSION: u32 = 1;

/// Minor version of this ABI: counts what has been appended. A reader does without what the other
/// side does not know.
///
/// 1: links.
/// 2: a spawn kernel says its version, and whether it refuses the host's.
pub const ABI_MINOR: u32 = 2;

/// `SharedHeader::magic`: "MKSHARED" in ASCII, first letter in the lowest byte.
pub const SHARED_MAGIC: u64 = u64::from_le_bytes(*b"MKSHARED");

/// Bytes of the shared area.
pub const SHARED_SIZE: u64 = 0x20000;

/// Offset of [`ConsoleRings`] in the shared area, in bytes.
pub const CONSOLE_RINGS_OFFSET: u64 = 0x1000;
/// Offset of the input ring's bytes in the shared area.
pub const CONSOLE_IN_OFFSET: u64 = 0x2000;
/// Size of the input ring in bytes; a power of two.
pub const CONSOLE_IN_SIZE: u64 = 0x1000;
/// Offset of the output ring's bytes in the shared area.
pub const CONSOLE_OUT_OFFSET: u64 = 0x10000;
/// Size of the output ring in bytes; a power of two.
pub const CONSOLE_OUT_SIZE: u64 = 0x10000;

/// Offset of the array of [`CpuRegisters`] in the shared area.
pub const CPU_REGISTERS_OFFSET: u64 = 0x3000;
/// Elements of the array of [`CpuRegisters`]; the registers of further CPUs are not kept.
pub const CPU_REGISTERS_MAX: usize = 80;
/// Offset of the array of [`CpuBeat`] in the shared area.
pub const CPU_BEATS_OFFSET: u64 = 0x8000;
/// Elements of the array of [`CpuBeat`]; as many as an instance can have CPUs.
pub const CPU_BEATS_MAX: usize = 512;

/// Bytes of a panic's message, the terminating zero included.
pub const MESSAGE_LENGTH: usize = 256;

/// Bytes of a name, the terminating zero included.
pub const NAME_LENGTH: usize = 64;

/// `guest_state`: nothing heard from the spawn in this life.
pub const GUEST_SILENT: u32 = 0;
/// `guest_state`: guest support is up; `guest_vector` and `guest_apic_id` are valid.
pub const GUEST_RUNNING: u32 = 1;
/// `guest_state`: powered off or halted; its CPUs are idle with interrupts off.
pub const GUEST_POWEROFF: u32 = 2;
/// `guest_state`: it asked for a restart.
pub const GUEST_RESTART: u32 = 3;
/// `guest_state`: it panicked.
pub const GUEST_PANIC: u32 = 4;

/// `guest_refused`: there is nothing that the spawn refuses.
pub const REFUSED_NOTHING: u32 = 0;
/// `guest_refused`: the version of the shared area. The spawn goes on without guest support.
pub const REFUSED_SHARED: u32 = 1;
/// `guest_refused`: the version of the link. The spawn goes on without a link.
pub const REFUSED_LINK: u32 = 2;

/// `request`: nothing is asked of the spawn.
pub const REQUEST_NONE: u32 = 0;
/// `request`: power off in order.
pub const REQUEST_POWEROFF: u32 = 1;

/// `guest_features`: a tty and the kernel log go through the console rings.
pub const GUEST_FEATURE_CONSOLE: u64 = 1 << 0;
/// `guest_features`: `request` is looked at when the doorbell rings.
pub const GUEST_FEATURE_REQUEST: u64 = 1 << 1;
/// `guest_features`: every CPU that is online counts in its [`CpuBeat`] when the doorbell rings it.
pub const GUEST_FEATURE_BEATS: u64 = 1 << 2;
/// `guest_features`: the message and the CPUs' registers are left behind at a panic.
pub const GUEST_FEATURE_REGISTERS: u64 = 1 << 3;

/// The first page of the shared area.
///
/// Who writes what is said once, here: the *host* part is written by the host before a start and,
/// `request` alone, while the spawn runs; the *guest* part is zeroed by the host before a start and
/// written only by the spawn afterwards.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SharedHeader {
    // Host part.
    /// [`SHARED_MAGIC`].
    pub magic: u64,
    /// [`ABI_VERSION`].
    pub version: u32,
    /// The instance's id, 3..=2047.
    pub id: u32,
    /// How often the instance has been started, this time included. From 1.
    pub epoch: u32,
    /// One of `REQUEST_*`.
    pub request: u32,
    /// Feature bits of the host; none are defined yet.
    pub host_features: u64,
    /// TSC frequency in kHz, 0 if not known.
    pub tsc_khz: u32,
    /// Input clock of the local APIC timer in kHz (before its divider), 0 if not known.
    pub lapic_khz: u32,
    /// Wall clock at `wall_tsc`: seconds since 1970-01-01 UTC.
    pub wall_seconds: u64,
    /// Nanoseconds within `wall_seconds`, below 10^9.
    pub wall_nanoseconds: u32,
    /// APIC id that the spawn rings to reach the host.
    pub host_apic_id: u32,
    /// TSC when the wall clock was read.
    pub wall_tsc: u64,
    /// Interrupt vector of the host's doorbell, 32..=255; 0 if it has none.
    pub host_vector: u32,
    /// The host's [`ABI_MINOR`].
    pub minor: u32,
    /// `ConsoleRing::tail` of the output ring when this life began.
    pub console_start: u64,
    /// The instance's name, zero-terminated.
    pub name: [u8; NAME_LENGTH],
    /// Physical address of the link to the host, page-aligned; 0 if there is none.
    pub link_base: u64,
    /// Bytes of the link's memory.
    pub link_size: u64,
    /// Zero.
    pub reserved1: [u8; 96],

    // Guest part, from offset 256.
    /// One of `GUEST_*`.
    pub guest_state: u32,
    /// Interrupt vector of the spawn's doorbell, 32..=255; 0 if it has none.
    pub guest_vector: u32,
    /// APIC id that the host rings to reach the spawn; one of the instance's.
    pub guest_apic_id: u32,
    /// CPUs that the spawn has online.
    pub guest_cpus: u32,
    /// Feature bits of the spawn: `GUEST_FEATURE_*`.
    pub guest_features: u64,
    /// Physical address of the spawn's VMCOREINFO ELF note, 0 if it has none. See
    /// `paddr_vmcoreinfo_note()` in kernel/vmcore_info.c.
    pub vmcoreinfo_base: u64,
    /// Bytes of that note at most; what follows the note is zero.
    pub vmcoreinfo_size: u32,
    /// APIC id of the CPU that ended the kernel; of meaning after the end only.
    pub end_apic_id: u32,
    /// What the panic said, zero-terminated; empty after any other end.
    pub end_message: [u8; MESSAGE_LENGTH],
    /// The spawn's [`ABI_VERSION`]; 0 if its minor version is below 2, or nothing is heard yet.
    ///
    /// This and the next two, and `magic` and `version`, are where they are in all versions: they
    /// are what a spawn says that refuses the host's version.
    pub guest_version: u32,
    /// The spawn's [`ABI_MINOR`].
    pub guest_minor: u32,
    /// One of `REFUSED_*`.
    pub guest_refused: u32,
    /// Zero.
    pub reserved2: u32,
}

/// A CPU of the spawn, at the index of its number there. Written by the spawn.
///
/// A CPU that no longer takes interrupts no longer counts: so the host sees it hang.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CpuBeat {
    /// How often the doorbell rang on this CPU.
    pub beats: u64,
    /// Its APIC id.
    pub apic_id: u32,
    /// 1 while the spawn has it online.
    pub online: u32,
    /// Zero; keeps CPUs on cache lines of their own.
    pub reserved: [u64; 6],
}

/// `CpuRegisters::valid`: the registers have been written.
pub const REGISTERS_VALID: u32 = 1;

/// Registers of a CPU of the spawn when its kernel ended. Written by the spawn.
///
/// Those in `user` are in the order of `struct user_regs_struct`
/// (arch/x86/include/asm/user_64.h), as an ELF note of type `NT_PRSTATUS` has them: r15 r14 r13 r12
/// bp bx r11 r10 r9 r8 ax cx dx si di orig_ax ip cs flags sp ss fs_base gs_base ds es fs gs.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CpuRegisters {
    /// [`REGISTERS_VALID`], or 0.
    pub valid: u32,
    /// The CPU's APIC id.
    pub apic_id: u32,
    /// The registers of `struct user_regs_struct`.
    pub user: [u64; 27],
    /// CR2, the address of the last page fault.
    pub cr2: u64,
    /// CR3, the physical address of the page table, and its PCID.
    pub cr3: u64,
    /// Zero.
    pub reserved: [u64; 2],
}

/// Positions of one byte ring.
///
/// Positions count every byte that ever went through and never wrap in practice (2^64 bytes); the
/// byte at position `p` is at index `p & (size - 1)`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ConsoleRing {
    /// Where the writer writes next. Only the writer stores it, after the bytes.
    pub tail: u64,
    /// Zero; keeps writer and reader on cache lines of their own.
    pub reserved0: [u64; 7],
    /// Where the reader reads next. Only the reader stores it.
    pub head: u64,
    /// Zero.
    pub reserved1: [u64; 7],
}

/// The second page of the shared area.
///
/// `output` is written by the spawn and never waits: it overwrites what is oldest, so that the last
/// [`CONSOLE_OUT_SIZE`] bytes survive any crash; its `head` is not used. `input` is written by the
/// host's user space and read by the spawn; the writer stops when the ring is full.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ConsoleRings {
    /// Spawn to host.
    pub output: ConsoleRing,
    /// Host to spawn.
    pub input: ConsoleRing,
}

/// `LinkHeader::magic`: "MKLINK" in ASCII and two zeroes, first letter in the lowest byte.
pub const LINK_MAGIC: u64 = u64::from_le_bytes(*b"MKLINK\0\0");

/// The side of a link that made it, and wrote its [`LinkHeader`].
pub const LINK_SIDE_HOST: usize = 0;
/// The other side.
pub const LINK_SIDE_SPAWN: usize = 1;

/// Bytes of a slot of a lane: a cache line.
pub const LANE_SLOT_BYTES: usize = 64;
/// The fewest slots of a lane.
pub const LANE_SLOTS_MIN: u32 = 16;
/// The most slots of a lane.
pub const LANE_SLOTS_MAX: u32 = 65536;
/// Bytes of a lane before its slots, with [`LaneHead`]: two pairs of cache lines, of which those of
/// a pair may be fetched together.
pub const LANE_HEAD_BYTES: usize = 256;
/// What lanes begin at a multiple of, and fill: a page, so that a process can be given a lane and
/// nothing else.
pub const LANE_ALIGN: u64 = 4096;

/// Kind of a slot (bits 48 to 55 of its stamp): the first of a message, whose kind is in
/// [`LANE_KIND`].
pub const LANE_FIRST: u8 = 0x80;
/// Kind of a slot: any but the first.
pub const LANE_NEXT: u8 = 0;
/// The bits of a first slot's kind that say what the message is: `MESSAGE_*`.
pub const LANE_KIND: u8 = 0x7f;
/// Bit of a message's kind: the payload is a [`BufferName`], and what it names is what was sent. So
/// `MESSAGE_*` are below this.
pub const LANE_BUFFER: u8 = 0x40;

/// The most CPUs that a side of a link may have.
pub const LINK_CPUS_MAX: u32 = 512;
/// The most lanes that a side of a link may have.
pub const LINK_LANES_MAX: u32 = 4096;
/// The most bytes of data that a side of a link may have.
pub const LINK_DATA_MAX: u32 = 1 << 30;

/// `LinkState::state`: the side is not there, or not yet.
pub const LINK_DOWN: u32 = 0;
/// `LinkState::state`: the side takes messages.
pub const LINK_UP: u32 = 1;
/// `LinkState::state`: the side takes no messages any more.
pub const LINK_GONE: u32 = 2;

/// Beginning of a link's memory, page 0. Written before any other side is told of it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LinkHeader {
    /// [`LINK_MAGIC`].
    pub magic: u64,
    /// [`ABI_VERSION`].
    pub version: u32,
    /// [`ABI_MINOR`] of who wrote this.
    pub minor: u32,
    /// Epoch of the link: other than before, whenever a side has started anew. From 1.
    pub epoch: u32,
    /// Slots of each lane: a power of two from [`LANE_SLOTS_MIN`] to [`LANE_SLOTS_MAX`].
    pub lane_slots: u32,
    /// Bytes of the link's memory, as they follow from what is below.
    pub size: u64,
    /// Feature bits; none are defined yet.
    pub features: u64,
    /// What each side has.
    pub sides: [LinkSide; 2],
}

/// What a side of a link has, as laid down when the link was made.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkSide {
    /// The instance's id, 0 for the host.
    pub id: u32,
    /// CPUs, 1 to [`LINK_CPUS_MAX`]: each has a [`LinkBell`].
    pub cpus: u32,
    /// Lanes in which it sends, 1 to [`LINK_LANES_MAX`].
    pub lanes: u32,
    /// Bytes of data that it may name in messages: a multiple of 4096, up to [`LINK_DATA_MAX`].
    pub data_bytes: u32,
}

/// What a side says of itself; written by that side alone.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LinkState {
    /// One of `LINK_DOWN`, `LINK_UP`, `LINK_GONE`.
    pub state: u32,
    /// Interrupt vector of its doorbell, 32..=255; 0 if it has none.
    pub vector: u32,
    /// Its [`ABI_MINOR`].
    pub minor: u32,
    /// How many of its lanes it uses: so many [`LinkLane`] are valid.
    pub lanes: u32,
    /// Feature bits; none are defined yet.
    pub features: u64,
    /// Another number whenever a port has been opened or closed.
    pub changes: u32,
    /// Its [`ABI_VERSION`], before it is up; 0 if its minor version is below 2.
    pub version: u32,
    /// Zero; keeps it on a cache line of its own.
    pub reserved: [u64; 4],
}

/// How a CPU is woken; written by that CPU's side alone.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LinkBell {
    /// Odd: a message for this CPU needs a doorbell. Another odd number each time.
    pub asleep: u64,
    /// APIC id to be rung.
    pub apic_id: u32,
    /// 1 while it takes messages.
    pub online: u32,
    /// Zero; keeps CPUs on cache lines of their own.
    pub reserved: [u64; 6],
}

/// `LinkLane::from` of a lane that belongs to a port: `to` is the port's number.
pub const LANE_OF_PORT: u32 = u32::MAX;

/// `LinkLane::state`: nobody sends in it. So it is also before it is used.
pub const LANE_CLOSED: u32 = 0;
/// `LinkLane::state`: its sender is there.
pub const LANE_OPEN: u32 = 1;

/// Where a lane leads; written by the sending side alone.
///
/// A lane belongs to two CPUs, or to a port, as long as the link lives; who opens a port again goes
/// on in its lane.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LinkLane {
    /// Number of the CPU that sends, or [`LANE_OF_PORT`].
    pub from: u32,
    /// Number of the other side's CPU that receives, or the port.
    pub to: u32,
    /// One of `LANE_CLOSED`, `LANE_OPEN`; of a port's lane only.
    pub state: u32,
    /// Which CPU of the sending side looks after a port's lane.
    pub cpu: u32,
    /// Zero; keeps lanes on cache lines of their own.
    pub reserved: [u64; 6],
}

/// Beginning of a lane; written by the receiving side, all but `waiting`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LaneHead {
    /// Position up to which slots have been taken.
    pub head: u64,
    /// Zero; keeps what changes with every message away from what does not.
    pub reserved0: [u64; 7],
    /// Odd: the receiver of a port's lane sleeps, and needs a doorbell. Another odd number each
    /// time.
    pub asleep: u64,
    /// Which CPU of the receiving side looks after a port's lane.
    pub cpu: u32,
    /// Zero.
    pub reserved1: u32,
    /// Zero; keeps what the sides write on cache lines of their own.
    pub reserved2: [u64; 6],
    /// Odd: the sender of a port's lane waits for credit, and needs a doorbell. Another odd number
    /// each time. Written by the sending side.
    pub waiting: u64,
    /// Zero; keeps it away from the slots.
    pub reserved3: [u64; 15],
}

/// A buffer in the data area of the side that sends. Payload of a message with [`LANE_BUFFER`].
///
/// It is the receiver's to read until its head has passed the message, and then the sender's again.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferName {
    /// Where it is, in bytes from the beginning of the data area: a multiple of [`BUFFER_ALIGN`].
    pub offset: u32,
    /// Bytes of the payload.
    pub length: u32,
}

/// What buffers are aligned to: a cache line.
pub const BUFFER_ALIGN: u32 = 64;

/// Kind of a message: nobody waits for an answer.
pub const MESSAGE_DATA: u8 = 0;
/// Kind of a message: a call; the payload begins with [`CallHeader`].
pub const MESSAGE_CALL: u8 = 1;
/// Kind of a message: the answer to a call; the payload begins with the call's [`CallHeader`].
pub const MESSAGE_REPLY: u8 = 2;

/// Beginning of the payload of a call and of its answer.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallHeader {
    /// Chosen by the caller; the answer has the same.
    pub token: u64,
    /// The port that the answer goes to.
    pub reply_port: u32,
    /// Of an answer: 0, or a positive errno. Of a call: 0.
    pub status: u32,
}

/// Port 0: nobody's.
pub const PORT_NONE: u32 = 0;
/// The port of a kernel that answers every call with what it was called with.
pub const PORT_ECHO: u32 = 1;
/// The port of a kernel to which the answers to its own calls go.
pub const PORT_REPLY: u32 = 2;
/// Packets of AF_VSOCK.
pub const PORT_VSOCK: u32 = 3;
/// The port of a kernel by which host and spawn speak of links to other spawns: [`LinksMessage`].
pub const PORT_LINKS: u32 = 4;
/// The port of a host to which a spawn's [`ArenaRequest`]s go.
pub const PORT_ARENA: u32 = 16;
/// The port of a host to which a spawn's [`SessionRequest`]s go; of a spawn, the port to which the
/// host sends an empty message when something has become of a session that the spawn has to do
/// with.
pub const PORT_SESSION: u32 = 17;
/// Where the host tells a spawn of CPUs, and a spawn asks the host about them.
pub const PORT_CPUS: u32 = 18;
/// The first port of a kernel that is not this subsystem's own.
pub const PORT_KERNEL: u32 = 0x100;
/// The first port that user space may open by its number.
pub const PORT_USER: u32 = 1 << 16;
/// The first port that is given to those who do not care which they get.
pub const PORT_EPHEMERAL: u32 = 1 << 31;

/// `LinksMessage::operation`, from a spawn: it takes part in links to other spawns.
pub const LINKS_READY: u32 = 1;
/// `LinksMessage::operation`, from the host: there is a link to another spawn.
pub const LINKS_OFFER: u32 = 2;
/// `LinksMessage::operation`, from the host: a link ends. The answer has four bytes: 1 if the
/// memory is still mapped, which ends with a [`LINKS_RELEASED`], 0 if not.
pub const LINKS_WITHDRAW: u32 = 3;
/// `LinksMessage::operation`, from a spawn: a link that has ended is not mapped any more.
pub const LINKS_RELEASED: u32 = 4;

/// Payload of a call of [`PORT_LINKS`], behind its [`CallHeader`]. What an operation has no use for
/// is zero.
///
/// An offer is followed by APIC ids, four bytes each: those that the spawn may ring for this link.
/// Where they do not fit into one call, more calls follow, which differ in `first` and the ids.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinksMessage {
    /// One of `LINKS_*`.
    pub operation: u32,
    /// `LinkHeader::epoch` of the link: no two links to spawns of a host have the same.
    pub epoch: u32,
    /// Id of the other spawn's instance.
    pub peer: u32,
    /// Which side of the link the receiver of an offer is, 0 or 1.
    pub side: u32,
    /// Physical address of the link, page-aligned.
    pub base: u64,
    /// Bytes of the link's memory.
    pub size: u64,
    /// How many APIC ids there are in all.
    pub cpus: u32,
    /// How many came in calls before this one.
    pub first: u32,
    /// Name of the other spawn's instance, zero-terminated.
    pub name: [u8; NAME_LENGTH],
}

/// `CpusRequest::operation`, to the host: whether the CPU with this APIC id may be started. The
/// answer's status is 0 or EPERM.
pub const CPUS_MAY_START: u32 = 1;
/// `CpusRequest::operation`, to a spawn: it may start CPUs with these APIC ids from now on, and is
/// to bring them online. The answer comes when that has been tried; its status is 0 if all are
/// online, ENODEV if the spawn's tables do not have one of them, or why one could not be started.
pub const CPUS_ADDED: u32 = 2;

/// What is asked of [`PORT_CPUS`], behind its [`CallHeader`]; `count` APIC ids, four bytes each,
/// follow.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CpusRequest {
    /// One of `CPUS_*`.
    pub operation: u32,
    /// How many APIC ids follow, 1 to [`CPUS_REQUEST_MAX`].
    pub count: u32,
}

/// APIC ids of one request of [`PORT_CPUS`] at most.
pub const CPUS_REQUEST_MAX: usize = 128;

/// `ArenaRequest::operation`: where the arena of this name is, to be mapped.
pub const ARENA_OPEN: u32 = 1;

/// What a spawn asks of [`PORT_ARENA`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ArenaRequest {
    /// One of `ARENA_*`.
    pub operation: u32,
    /// Zero.
    pub reserved: u32,
    /// The arena's name, zero-terminated; what follows is zero too.
    pub name: [u8; NAME_LENGTH],
}

/// `ArenaAnswer::flags`: the spawn may also write to the arena.
pub const ARENA_WRITABLE: u32 = 1 << 0;

/// What the host answers. It holds until the end of the spawn's life.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ArenaAnswer {
    /// Physical address of the arena, a multiple of 2 MiB. It is none of the spawn's own memory.
    pub base: u64,
    /// Its bytes, a multiple of 2 MiB.
    pub size: u64,
    /// [`ARENA_WRITABLE`], or 0.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = {
    use core::mem::{offset_of, size_of};

    assert!(size_of::<CpusRequest>() == 8);
    assert!(offset_of!(CpusRequest, count) == 4);
    assert!(offset_of!(SharedHeader, version) == 8);
    assert!(offset_of!(SharedHeader, id) == 12);
    assert!(offset_of!(SharedHeader, epoch) == 16);
    assert!(offset_of!(SharedHeader, request) == 20);
    assert!(offset_of!(SharedHeader, host_features) == 24);
    assert!(offset_of!(SharedHeader, tsc_khz) == 32);
    assert!(offset_of!(SharedHeader, lapic_khz) == 36);
    assert!(offset_of!(SharedHeader, wall_seconds) == 40);
    assert!(offset_of!(SharedHeader, wall_nanoseconds) == 48);
    assert!(offset_of!(SharedHeader, host_apic_id) == 52);
    assert!(offset_of!(SharedHeader, wall_tsc) == 56);
    assert!(offset_of!(SharedHeader, host_vector) == 64);
    assert!(offset_of!(SharedHeader, console_start) == 72);
    assert!(offset_of!(SharedHeader, name) == 80);
    assert!(offset_of!(SharedHeader, minor) == 68);
    assert!(offset_of!(SharedHeader, link_base) == 144);
    assert!(offset_of!(SharedHeader, link_size) == 152);
    assert!(offset_of!(SharedHeader, guest_state) == 256);
    assert!(offset_of!(SharedHeader, guest_vector) == 260);
    assert!(offset_of!(SharedHeader, guest_apic_id) == 264);
    assert!(offset_of!(SharedHeader, guest_cpus) == 268);
    assert!(offset_of!(SharedHeader, guest_features) == 272);
    assert!(offset_of!(SharedHeader, vmcoreinfo_base) == 280);
    assert!(offset_of!(SharedHeader, vmcoreinfo_size) == 288);
    assert!(offset_of!(SharedHeader, end_apic_id) == 292);
    assert!(offset_of!(SharedHeader, end_message) == 296);
    assert!(offset_of!(SharedHeader, guest_version) == 552);
    assert!(offset_of!(SharedHeader, guest_minor) == 556);
    assert!(offset_of!(SharedHeader, guest_refused) == 560);
    assert!(size_of::<SharedHeader>() == 568);
    assert!(size_of::<SharedHeader>() <= CONSOLE_RINGS_OFFSET as usize);

    assert!(offset_of!(ConsoleRing, head) == 64);
    assert!(size_of::<ConsoleRing>() == 128);
    assert!(offset_of!(ConsoleRings, input) == 128);

    assert!(CONSOLE_IN_SIZE.is_power_of_two() && CONSOLE_OUT_SIZE.is_power_of_two());
    assert!(CONSOLE_IN_OFFSET + CONSOLE_IN_SIZE == CPU_REGISTERS_OFFSET);
    assert!(offset_of!(CpuRegisters, user) == 8);
    assert!(size_of::<CpuRegisters>() == 256);
    assert!(CPU_REGISTERS_OFFSET + 256 * CPU_REGISTERS_MAX as u64 == CPU_BEATS_OFFSET);
    assert!(size_of::<CpuBeat>() == 64);
    assert!(CPU_BEATS_OFFSET + 64 * CPU_BEATS_MAX as u64 == CONSOLE_OUT_OFFSET);
    assert!(CONSOLE_OUT_OFFSET + CONSOLE_OUT_SIZE == SHARED_SIZE);

    assert!(offset_of!(LinkHeader, version) == 8);
    assert!(offset_of!(LinkHeader, minor) == 12);
    assert!(offset_of!(LinkHeader, epoch) == 16);
    assert!(offset_of!(LinkHeader, lane_slots) == 20);
    assert!(offset_of!(LinkHeader, size) == 24);
    assert!(offset_of!(LinkHeader, features) == 32);
    assert!(offset_of!(LinkHeader, sides) == 40);
    assert!(offset_of!(LinkSide, data_bytes) == 12);
    assert!(size_of::<LinkSide>() == 16);
    assert!(size_of::<LinkHeader>() == 72);
    assert!(offset_of!(LinkState, features) == 16);
    assert!(size_of::<LinkState>() == 64);
    assert!(offset_of!(LinkBell, apic_id) == 8);
    assert!(offset_of!(LinkBell, online) == 12);
    assert!(size_of::<LinkBell>() == 64);
    assert!(offset_of!(LinkState, changes) == 24);
    assert!(offset_of!(LinkState, version) == 28);
    assert!(offset_of!(LinkLane, to) == 4);
    assert!(offset_of!(LinkLane, state) == 8);
    assert!(offset_of!(LinkLane, cpu) == 12);
    assert!(size_of::<LinkLane>() == 64);
    assert!(offset_of!(LaneHead, asleep) == 64);
    assert!(offset_of!(LaneHead, cpu) == 72);
    assert!(offset_of!(LaneHead, waiting) == 128);
    assert!(size_of::<LaneHead>() == LANE_HEAD_BYTES);
    assert!(LANE_BUFFER & LANE_KIND == LANE_BUFFER && MESSAGE_REPLY < LANE_BUFFER);
    assert!(offset_of!(BufferName, length) == 4);
    assert!(size_of::<BufferName>() == 8);
    assert!(size_of::<CallHeader>() == 16);
    assert!(offset_of!(LinksMessage, base) == 16);
    assert!(offset_of!(LinksMessage, cpus) == 32);
    assert!(offset_of!(LinksMessage, name) == 40);
    assert!(size_of::<LinksMessage>() == 104);
    assert!(size_of::<ArenaRequest>() == 72);
    assert!(offset_of!(ArenaRequest, name) == 8);
    assert!(size_of::<ArenaAnswer>() == 24);
    assert!(offset_of!(ArenaAnswer, flags) == 16);
};
