// SPDX-License-Identifier: GPL-2.0

//! The shared area, mapped into this kernel.
//!
//! Owns the mapping: first an early one, made on the boot CPU alone, then one for good. Neither is
//! RAM to this kernel: the host keeps the area out of the spawn's memory map, and that is checked.
//! All accesses are atomic or volatile, for the host and other CPUs access the area as well. There
//! is no lock.

use core::{
    fmt,
    mem::offset_of, //
};

use kernel::{
    bindings,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Relaxed,
            Release, //
        },
        barrier,
        Arc, //
    }, //
};

use crate::{
    abi::{
        ConsoleRing,
        ConsoleRings,
        CpuBeat,
        CpuRegisters,
        SharedHeader,
        CONSOLE_IN_OFFSET,
        CONSOLE_IN_SIZE,
        CONSOLE_OUT_OFFSET,
        CONSOLE_OUT_SIZE,
        CONSOLE_RINGS_OFFSET,
        CPU_BEATS_MAX,
        CPU_BEATS_OFFSET,
        CPU_REGISTERS_MAX,
        CPU_REGISTERS_OFFSET,
        MESSAGE_LENGTH,
        REFUSED_LINK,
        REGISTERS_VALID,
        SHARED_SIZE, //
    },
    link::{
        layout,
        region::{
            Lease,
            Region, //
        },
        sibling, //
    },
    ring::RingMemory,
    version::claim, //
};

/// The most bytes that a link is believed to have.
const LINK_BYTES_MAX: u64 = 1 << 30;

/// Bytes of the shared area.
const SIZE: usize = SHARED_SIZE as usize;

/// Physical address of the shared area; 0 if there is none.
static PHYSICAL: Atomic<u64> = Atomic::new(0);

/// Where the shared area is mapped now, or null.
///
/// # Invariants
///
/// Null, or the page-aligned start of [`SIZE`] bytes that can be read and written, and stay so
/// until another value is stored by [`map_for_good()`] or [`unmap_early()`].
static MAPPED: Atomic<*mut c_void> = Atomic::new(core::ptr::null_mut());

/// Why there is no shared area at an address.
#[derive(Clone, Copy, Debug)]
pub(super) enum Unusable {
    /// Not page-aligned, or the end wraps.
    Address,
    /// It overlaps what the memory map calls RAM.
    Ram,
    /// It cannot be mapped.
    Mapping,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Address => "not a usable address",
            Self::Ram => "is RAM of this kernel",
            Self::Mapping => "cannot be mapped",
        })
    }
}

/// Maps the shared area at the physical address `base` early and returns a copy of its header.
///
/// # Errors
///
/// Why it cannot be; nothing is mapped then.
#[link_section = ".init.text"]
pub(super) fn map_early(base: u64) -> Result<SharedHeader, Unusable> {
    let end = base.checked_add(SHARED_SIZE).ok_or(Unusable::Address)?;
    // Physical addresses have at most 52 bits (SDM volume 3, "4.1.4 Enumeration of Paging
    // Features by CPUID"); what this CPU lacks of them faults in no worse way than any wrong one.
    if base == 0 || base % bindings::PAGE_SIZE as u64 != 0 || end > 1 << 52 {
        return Err(Unusable::Address);
    }
    // SAFETY: The memory map has been read by the time that early parameters are parsed.
    if unsafe { bindings::e820__mapped_any(base, end, bindings::e820_type_E820_TYPE_RAM) } {
        return Err(Unusable::Ram);
    }
    // SAFETY: Called before `early_ioremap` ends, on a range that is not RAM.
    let mapped = unsafe { bindings::early_memremap(base, SIZE) };
    if mapped.is_null() {
        return Err(Unusable::Mapping);
    }
    PHYSICAL.store(base, Relaxed);
    // INVARIANT: `early_memremap()` mapped `SIZE` bytes from `base`, which is page-aligned.
    MAPPED.store(mapped, Release);
    // SAFETY: `SharedHeader` fits into the mapped bytes, is aligned to at most a page, and consists
    // of integers, so that any bytes are a value of it. The read is volatile because the host may
    // write at the same time; the copy is what gets checked and used.
    Ok(unsafe { mapped.cast::<SharedHeader>().read_volatile() })
}

/// Gives up a mapping of [`map_early()`], and with it the shared area.
#[link_section = ".init.text"]
pub(super) fn unmap_early() {
    // INVARIANT: Null is always right.
    let mapped = MAPPED.xchg(core::ptr::null_mut(), Relaxed);
    PHYSICAL.store(0, Relaxed);
    if !mapped.is_null() {
        // SAFETY: This is what `map_early()` mapped; nothing refers to it any more, as there is one
        // CPU and `Area` is never kept.
        unsafe { bindings::early_memunmap(mapped, SIZE) };
    }
}

/// Replaces the early mapping by one for good.
///
/// Runs in `console_init()`: there is still one CPU and one task, so nothing that interrupts this
/// function goes on using the old mapping after it has returned here.
///
/// # Errors
///
/// `ENOMEM`; the shared area is given up then, because the early mapping must not stay.
#[link_section = ".init.text"]
pub(super) fn map_for_good() -> Result {
    let base = PHYSICAL.load(Relaxed);
    // SAFETY: The range is not RAM, and `ioremap()` works since `vmalloc_init()`.
    let mapped = unsafe {
        bindings::memremap(base, SIZE, bindings::MEMREMAP_WB as usize) //
    };
    // INVARIANT: Null, or what `memremap()` mapped from a page-aligned address, and never unmaps.
    let early = MAPPED.xchg(mapped, kernel::sync::atomic::Full);
    if !early.is_null() {
        // SAFETY: This is what `map_early()` mapped; `MAPPED` no longer gives it to anyone, and
        // whoever got it before has returned, see above.
        unsafe { bindings::early_memunmap(early, SIZE) };
    }
    if mapped.is_null() {
        return Err(ENOMEM);
    }
    Ok(())
}

/// Maps the link to the host for good.
///
/// # Errors
///
/// Those of [`Mapped::new`] and [`region`].
#[link_section = ".init.text"]
pub(super) fn map_link(base: u64, size: u64) -> Result<Region> {
    let mapped = Mapped::new(base, size)?;
    let region = region(&mapped, None)?;
    // It is never unmapped.
    core::mem::forget(mapped);
    Ok(region)
}

/// Memory of a link that is mapped.
///
/// # Invariants
///
/// `base` is page-aligned, and the start of `size` bytes that `memremap()` has mapped, which are
/// those at the physical address `phys`.
pub(super) struct Mapped {
    base: *mut c_void,
    phys: u64,
    size: u64,
    /// Whether the region in it is not used any more.
    over: Atomic<bool>,
}

// SAFETY: The address of a mapping that is valid on all CPUs.
unsafe impl Send for Mapped {}
// SAFETY: As above.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// Maps the memory of a link. Sleeps.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it cannot be where it is said to be, with a message; `ENOMEM`.
    pub(super) fn new(base: u64, size: u64) -> Result<Self> {
        let end = base.checked_add(size).ok_or(EINVAL)?;
        if base % bindings::PAGE_SIZE as u64 != 0 || end > 1 << 52 || size > LINK_BYTES_MAX {
            pr_err!("no link: {:#x} and {:#x} bytes cannot be\n", base, size);
            return Err(EINVAL);
        }
        // SAFETY: The memory map has been read.
        if unsafe { bindings::e820__mapped_any(base, end, bindings::e820_type_E820_TYPE_RAM) } {
            pr_err!("no link: {:#x} is RAM of this kernel\n", base);
            return Err(EINVAL);
        }
        // SAFETY: The range is not RAM, and `ioremap()` works.
        let mapped = unsafe {
            bindings::memremap(base, size as usize, bindings::MEMREMAP_WB as usize)
            //
        };
        if mapped.is_null() {
            return Err(ENOMEM);
        }
        // INVARIANT: As just mapped, from a page-aligned address.
        Ok(Self {
            base: mapped,
            phys: base,
            size,
            over: Atomic::new(false),
        })
    }

    /// The link in it. There is one, and [`Self::is_over`] says when it is gone.
    ///
    /// # Errors
    ///
    /// Those of [`region`]; `ENOMEM`.
    pub(super) fn lease(this: &Arc<Self>) -> Result<Region> {
        let leased = Arc::new(Leased(this.clone()), GFP_KERNEL)?;
        region(this, Some(leased))
    }

    /// Whether nobody uses the link in it any more.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Acquire)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: By the invariants. Who has a region in it has it kept: by a [`Leased`], or, of
        // the link to the host, by never dropping it.
        unsafe { bindings::memunmap(self.base) };
    }
}

/// Keeps a mapping for a region. It may end in any context; unmapping is left to who looks then.
struct Leased(Arc<Mapped>);

impl Lease for Leased {}

impl Drop for Leased {
    fn drop(&mut self) {
        self.0.over.store(true, Release);
        sibling::look();
    }
}

/// The link in memory that is mapped for as long as the lease lives, or for ever.
///
/// # Errors
///
/// `EPROTO` if its header is refused, with a message.
fn region(mapped: &Mapped, lease: Option<Arc<dyn Lease>>) -> Result<Region> {
    let (base, phys, size) = (mapped.base.cast(), mapped.phys, mapped.size);
    // SAFETY: By the invariants of `Mapped`, which a lease keeps; without one the caller does not
    // drop it once this has succeeded.
    unsafe { Region::of_other(base, phys, size, lease) }.map_err(|why| {
        pr_err!("no link at {:#x}: {}\n", phys, format_args!("{why}"));
        if let (layout::Unusable::Version(_), Some(area)) = (why, area()) {
            area.set_refused(REFUSED_LINK);
        }
        EPROTO
    })
}

/// Returns the shared area, if it is mapped.
///
/// Callers use it at once and do not keep it.
pub(super) fn area() -> Option<Area> {
    let base = MAPPED.load(Acquire);
    // INVARIANT: By the invariants of `MAPPED`.
    (!base.is_null()).then(|| Area(base.cast()))
}

/// The shared area at work.
///
/// # Invariants
///
/// The start of [`SIZE`] bytes that can be read and written, page-aligned.
#[derive(Clone, Copy)]
pub(super) struct Area(*mut u8);

impl Area {
    /// The 32-bit word at `OFFSET`.
    fn word<const OFFSET: usize>(&self) -> &Atomic<u32> {
        const { assert!(OFFSET + 4 <= SIZE && OFFSET % 4 == 0) };
        // SAFETY: By the type's invariants and the assertion, the word is aligned and inside the
        // area. This kernel accesses it through here only, atomically.
        unsafe { Atomic::from_ptr(self.0.add(OFFSET).cast()) }
    }

    /// The 64-bit word at `OFFSET`.
    fn long<const OFFSET: usize>(&self) -> &Atomic<u64> {
        const { assert!(OFFSET + 8 <= SIZE && OFFSET % 8 == 0) };
        // SAFETY: As in `word()`.
        unsafe { Atomic::from_ptr(self.0.add(OFFSET).cast()) }
    }

    /// What the host asks for; any value.
    pub(super) fn request(&self) -> u32 {
        self.word::<{ offset_of!(SharedHeader, request) }>()
            .load(Acquire)
    }

    /// Publishes `guest_state`, after everything else that was written.
    pub(super) fn set_guest_state(&self, state: u32) {
        self.word::<{ offset_of!(SharedHeader, guest_state) }>()
            .store(state, Release);
    }

    /// Publishes where and how the host rings this kernel.
    pub(super) fn set_guest_doorbell(&self, apic_id: u32, vector: u32) {
        self.word::<{ offset_of!(SharedHeader, guest_apic_id) }>()
            .store(apic_id, Relaxed);
        self.word::<{ offset_of!(SharedHeader, guest_vector) }>()
            .store(vector, Release);
    }

    /// Publishes how many CPUs this kernel runs on.
    pub(super) fn set_guest_cpus(&self, cpus: u32) {
        self.word::<{ offset_of!(SharedHeader, guest_cpus) }>()
            .store(cpus, Relaxed);
    }

    /// Publishes what this kernel can do.
    pub(super) fn set_guest_features(&self, features: u64) {
        self.long::<{ offset_of!(SharedHeader, guest_features) }>()
            .store(features, Relaxed);
    }

    /// Publishes which version of the ABI this kernel has. One of version 1 whose
    /// minor version is below 2 says nothing.
    pub(super) fn set_version(&self) {
        if !claim::says_version() {
            return;
        }
        self.word::<{ offset_of!(SharedHeader, guest_minor) }>()
            .store(claim::minor(), Relaxed);
        self.word::<{ offset_of!(SharedHeader, guest_version) }>()
            .store(claim::version(), Release);
    }

    /// Publishes that this kernel refuses a version of the host's: one of `REFUSED_*`.
    pub(super) fn set_refused(&self, what: u32) {
        self.word::<{ offset_of!(SharedHeader, guest_refused) }>()
            .store(what, Release);
    }

    /// Publishes where this kernel describes itself to those who read a dump of it.
    pub(super) fn set_vmcoreinfo(&self, base: u64, size: u32) {
        self.long::<{ offset_of!(SharedHeader, vmcoreinfo_base) }>()
            .store(base, Relaxed);
        self.word::<{ offset_of!(SharedHeader, vmcoreinfo_size) }>()
            .store(size, Relaxed);
    }

    /// Leaves behind which CPU ended this kernel.
    pub(super) fn set_end_cpu(&self, apic_id: u32) {
        self.word::<{ offset_of!(SharedHeader, end_apic_id) }>()
            .store(apic_id, Relaxed);
    }

    /// Leaves behind what a panic said, as far as there is room for it.
    pub(super) fn set_end_message(&self, message: &[u8]) {
        const OFFSET: usize = offset_of!(SharedHeader, end_message);
        // The last byte stays zero.
        for (i, &byte) in message.iter().take(MESSAGE_LENGTH - 1).enumerate() {
            const { assert!(OFFSET + MESSAGE_LENGTH <= SIZE) };
            // SAFETY: Inside the area by the bound above and the assertion. Accesses of single
            // bytes that are volatile do not tear.
            unsafe { self.0.add(OFFSET + i).write_volatile(byte) };
        }
    }

    /// The 32-bit word at a field's offset in the record of a CPU, if it has one.
    fn beat_word(&self, cpu: u32, field: usize) -> Option<&Atomic<u32>> {
        const { assert!(CPU_BEATS_OFFSET as usize + CPU_BEATS_MAX * size_of::<CpuBeat>() <= SIZE) };
        if cpu as usize >= CPU_BEATS_MAX || field % 4 != 0 || field + 4 > size_of::<CpuBeat>() {
            return None;
        }
        let offset = CPU_BEATS_OFFSET as usize + cpu as usize * size_of::<CpuBeat>() + field;
        // SAFETY: By the checks above, the word is aligned and inside the area. This kernel
        // accesses it atomically only, in this size.
        Some(unsafe { Atomic::from_ptr(self.0.add(offset).cast()) })
    }

    /// Publishes whether a CPU is to be rung to see whether it takes interrupts.
    pub(super) fn set_cpu_online(&self, cpu: u32, apic_id: u32, online: bool) {
        let id = self.beat_word(cpu, offset_of!(CpuBeat, apic_id));
        let flag = self.beat_word(cpu, offset_of!(CpuBeat, online));
        if let (Some(id), Some(flag)) = (id, flag) {
            id.store(apic_id, Relaxed);
            flag.store(online.into(), Release);
        }
    }

    /// Counts a doorbell that rang on this CPU, which alone counts here.
    pub(super) fn count_beat(&self, cpu: u32) {
        // The lower half of a 64-bit counter: what the host compares is whether it changed.
        if let Some(beats) = self.beat_word(cpu, offset_of!(CpuBeat, beats)) {
            beats.store(beats.load(Relaxed).wrapping_add(1), Relaxed);
        }
    }

    /// Leaves behind a CPU's registers, if there is room for those of this CPU.
    pub(super) fn set_registers(&self, cpu: u32, registers: &CpuRegisters) {
        const { assert!(CPU_REGISTERS_OFFSET as usize % align_of::<CpuRegisters>() == 0) };
        if cpu as usize >= CPU_REGISTERS_MAX {
            return;
        }
        let offset = CPU_REGISTERS_OFFSET as usize + cpu as usize * size_of::<CpuRegisters>();
        // SAFETY: abi.rs asserts that the array is inside the area, and it is aligned. Nothing of
        // this kernel reads it, and of its CPUs only this one writes this element.
        unsafe {
            let place: *mut CpuRegisters = self.0.add(offset).cast();
            place.write_volatile(CpuRegisters {
                valid: 0,
                ..*registers
            });
            // The host looks at it only once this is there.
            barrier::smp_mb(barrier::Write);
            (&raw mut (*place).valid).write_volatile(REGISTERS_VALID);
        }
    }

    /// The ring that carries console output.
    pub(super) fn output(&self) -> OutputRing<'_> {
        Ring(self)
    }

    /// The ring that carries console input.
    pub(super) fn input(&self) -> InputRing<'_> {
        Ring(self)
    }
}

/// Offset of the output ring's positions.
const OUT_POSITIONS: usize = CONSOLE_RINGS_OFFSET as usize + offset_of!(ConsoleRings, output);
/// Offset of the input ring's positions.
const IN_POSITIONS: usize = CONSOLE_RINGS_OFFSET as usize + offset_of!(ConsoleRings, input);

/// The output ring: bytes and positions.
pub(super) type OutputRing<'a> = Ring<
    'a,
    { CONSOLE_OUT_OFFSET as usize },
    { CONSOLE_OUT_SIZE as usize },
    { OUT_POSITIONS + offset_of!(ConsoleRing, tail) },
    { OUT_POSITIONS + offset_of!(ConsoleRing, head) },
>;

/// The input ring: bytes and positions.
pub(super) type InputRing<'a> = Ring<
    'a,
    { CONSOLE_IN_OFFSET as usize },
    { CONSOLE_IN_SIZE as usize },
    { IN_POSITIONS + offset_of!(ConsoleRing, tail) },
    { IN_POSITIONS + offset_of!(ConsoleRing, head) },
>;

/// A ring of `SIZE` bytes at offset `BYTES` whose positions are at the offsets `TAIL` and `HEAD`.
pub(super) struct Ring<
    'a,
    const BYTES: usize,
    const LENGTH: usize,
    const TAIL: usize,
    const HEAD: usize,
>(&'a Area);

impl<const BYTES: usize, const LENGTH: usize, const TAIL: usize, const HEAD: usize> RingMemory
    for Ring<'_, BYTES, LENGTH, TAIL, HEAD>
{
    const SIZE: usize = LENGTH;

    fn tail(&self) -> u64 {
        self.0.long::<TAIL>().load(Acquire)
    }

    fn set_tail(&self, position: u64) {
        self.0.long::<TAIL>().store(position, Release);
    }

    fn head(&self) -> u64 {
        self.0.long::<HEAD>().load(Acquire)
    }

    fn set_head(&self, position: u64) {
        self.0.long::<HEAD>().store(position, Release);
    }

    fn load(&self, index: usize) -> u8 {
        const { assert!(LENGTH.is_power_of_two() && BYTES + LENGTH <= SIZE) };
        // SAFETY: The mask keeps the offset inside the ring's bytes, which the assertion keeps
        // inside the area. Accesses of single bytes that are volatile do not tear.
        unsafe {
            self.0
                 .0
                .add(BYTES + (index & (LENGTH - 1)))
                .read_volatile()
        }
    }

    fn store(&self, index: usize, byte: u8) {
        const { assert!(LENGTH.is_power_of_two() && BYTES + LENGTH <= SIZE) };
        // SAFETY: As in `load()`.
        unsafe {
            self.0
                 .0
                .add(BYTES + (index & (LENGTH - 1)))
                .write_volatile(byte)
        }
    }

    fn fence(&self) {
        barrier::smp_mb(barrier::Full);
    }
}
