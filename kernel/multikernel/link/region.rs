// SPDX-License-Identifier: GPL-2.0

//! A link's memory, as this kernel has it mapped: the wrappers that touch it.
//!
//! The other side may write to it at any time, so all access is by single atomic words, at offsets
//! that [`Layout`] gives. What a word says is for the pure modules to judge. It needs no lock.

use core::mem::{
    offset_of,
    size_of, //
};

use kernel::{
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

use super::{
    layout::{
        lane_bytes,
        Layout, //
    },
    wake::{
        BellMemory,
        Rung, //
    }, //
};
use crate::{
    abi::{
        LaneHead,
        LinkBell,
        LinkHeader,
        LinkLane,
        LinkState,
        LANE_HEAD_BYTES,
        LANE_SLOT_BYTES,
        LINK_MAGIC, //
    },
    memory::SharedPages,
    version::claim, //
};

mod lane_words;

pub(crate) use lane_words::LaneWords;

/// The memory of a link.
///
/// # Invariants
///
/// `base` is page-aligned, and the start of `layout.size()` bytes that can be read and written for
/// as long as `self` lives.
pub(crate) struct Region {
    base: *mut u8,
    /// The same, as physical address.
    phys: u64,
    layout: Layout,
    /// What keeps the memory, if it is this kernel's own.
    pages: Option<SharedPages>,
    /// What keeps it mapped, if it is another kernel's, and not mapped for ever.
    _lease: Option<Arc<dyn Lease>>,
}

/// What keeps the memory of another kernel mapped for as long as it lives.
pub(crate) trait Lease: Send + Sync {}

// SAFETY: Plain memory, accessed by atomic words only.
unsafe impl Send for Region {}
// SAFETY: As above.
unsafe impl Sync for Region {}

#[cfg(CONFIG_MULTIKERNEL_GUEST)]
use super::layout::Unusable;

impl Region {
    /// A link in pages of this kernel.
    ///
    /// # Errors
    ///
    /// `EINVAL` if they are too few.
    pub(crate) fn in_pages(pages: SharedPages, layout: Layout) -> Result<Self> {
        if pages.size() < layout.size() {
            return Err(EINVAL);
        }
        // INVARIANT: Pages begin at a page's beginning, and live for as long as `pages`.
        Ok(Self {
            base: pages.address(),
            phys: pages.phys(),
            layout,
            pages: Some(pages),
            _lease: None,
        })
    }

    /// A link in memory of another kernel, as its header says.
    ///
    /// # Errors
    ///
    /// Why the header is refused.
    ///
    /// # Safety
    ///
    /// `base` is page-aligned, and `size` bytes from there can be read and written for as long as
    /// the lease lives, or for ever if there is none; they are those at the physical address
    /// `phys`.
    #[cfg(CONFIG_MULTIKERNEL_GUEST)]
    pub(crate) unsafe fn of_other(
        base: *mut u8,
        phys: u64,
        size: u64,
        lease: Option<Arc<dyn Lease>>,
    ) -> Result<Self, Unusable> {
        if size < size_of::<LinkHeader>() as u64 {
            return Err(Unusable::Size(size));
        }
        // SAFETY: The header is inside by the check above and the caller's promise, and consists of
        // integers. The copy is what is checked and used.
        let header = unsafe { base.cast::<LinkHeader>().read_volatile() };
        // INVARIANT: By the caller's promise; the layout is not larger than `size`.
        Ok(Self {
            base,
            phys,
            layout: Layout::of_header(&header, size, claim::link_version())?,
            pages: None,
            _lease: lease,
        })
    }

    /// Bytes of this kernel's memory that it takes.
    pub(crate) fn bytes(&self) -> u64 {
        self.pages.as_ref().map_or(0, SharedPages::size)
    }

    /// Physical address of it, if it is this kernel's memory.
    pub(crate) fn phys(&self) -> Option<u64> {
        self.pages.as_ref().map(SharedPages::phys)
    }

    /// Where things are.
    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The 64-bit word at `offset`, if it is inside and aligned.
    fn long(&self, offset: u64) -> Option<&Atomic<u64>> {
        let inside = offset % 8 == 0 && offset.checked_add(8)? <= self.layout.size();
        // SAFETY: Inside and aligned; this kernel accesses this word atomically, in this size only.
        inside.then(|| unsafe { Atomic::from_ptr(self.base.add(offset as usize).cast()) })
    }

    /// The 32-bit word at `offset`, if it is inside and aligned.
    fn word(&self, offset: u64) -> Option<&Atomic<u32>> {
        let inside = offset % 4 == 0 && offset.checked_add(4)? <= self.layout.size();
        // SAFETY: As in `long()`.
        inside.then(|| unsafe { Atomic::from_ptr(self.base.add(offset as usize).cast()) })
    }

    fn read(&self, offset: u64) -> u32 {
        self.word(offset).map_or(0, |word| word.load(Acquire))
    }

    fn write(&self, offset: u64, value: u32) {
        if let Some(word) = self.word(offset) {
            word.store(value, Release);
        }
    }

    /// The 64-bit word at `offset`, if there is one.
    #[cfg(CONFIG_MULTIKERNEL_GUEST_CRASH_TEST)]
    pub(crate) fn peek(&self, offset: u64) -> Option<u64> {
        Some(self.long(offset)?.load(Relaxed))
    }

    /// Writes anything anywhere, for tests: both sides are made for it.
    #[cfg(CONFIG_MULTIKERNEL_GUEST_CRASH_TEST)]
    pub(crate) fn scribble(&self, offset: u64, value: u64) {
        if let Some(word) = self.long(offset) {
            word.store(value, Release);
        }
    }

    /// As [`Self::scribble`], 32 bits.
    #[cfg(CONFIG_MULTIKERNEL_GUEST_CRASH_TEST)]
    pub(crate) fn scribble_short(&self, offset: u64, value: u32) {
        self.write(offset, value);
    }

    /// Writes the header. All the rest of a new link is zero, as its pages are.
    pub(crate) fn write_header(&self) {
        let put = |offset: usize, value: u64| {
            if let Some(word) = self.long(offset as u64) {
                word.store(value, Relaxed);
            }
        };
        self.write(
            offset_of!(LinkHeader, version) as u64,
            claim::link_version(),
        );
        self.write(offset_of!(LinkHeader, minor) as u64, claim::minor());
        put(offset_of!(LinkHeader, features), claim::features());
        self.write(offset_of!(LinkHeader, epoch) as u64, self.layout.epoch());
        let slots = self.layout.lane_slots();
        self.write(offset_of!(LinkHeader, lane_slots) as u64, slots);
        let size = self.layout.size() + claim::appended();
        put(offset_of!(LinkHeader, size), size);
        for number in 0..2 {
            let at = offset_of!(LinkHeader, sides) + number * size_of::<crate::abi::LinkSide>();
            let side = self.layout.side(number);
            for (i, value) in [side.id, side.cpus, side.lanes, side.data_bytes]
                .into_iter()
                .enumerate()
            {
                self.write((at + i * 4) as u64, value);
            }
        }
        put(offset_of!(LinkHeader, magic), LINK_MAGIC);
    }

    /// A field of what a side says of itself.
    fn state_field(&self, side: usize, field: usize) -> u64 {
        self.layout.state(side) + field as u64
    }

    /// `LinkState::state` of a side: any value.
    pub(crate) fn state(&self, side: usize) -> u32 {
        self.read(self.state_field(side, offset_of!(LinkState, state)))
    }

    /// `LinkState::vector` of a side: any value.
    pub(crate) fn vector(&self, side: usize) -> u32 {
        self.read(self.state_field(side, offset_of!(LinkState, vector)))
    }

    /// `LinkState::minor` of a side: any value.
    pub(crate) fn minor(&self, side: usize) -> u32 {
        self.read(self.state_field(side, offset_of!(LinkState, minor)))
    }

    /// `LinkState::version` of a side: any value.
    pub(crate) fn version(&self, side: usize) -> u32 {
        self.read(self.state_field(side, offset_of!(LinkState, version)))
    }

    /// Whether a side has this kernel's version of the ABI. A minor version below 2 says none.
    pub(crate) fn is_known(&self, side: usize) -> bool {
        let version = self.version(side);
        version == 0 || version == claim::version()
    }

    /// How many lanes a side says it uses, as far as there can be so many: none that this kernel
    /// would not understand.
    pub(crate) fn lanes(&self, side: usize) -> u32 {
        if !self.is_known(side) {
            return 0;
        }
        self.read(self.state_field(side, offset_of!(LinkState, lanes)))
            .min(self.layout.side(side).lanes)
    }

    /// Says of a side what it is; the state last.
    pub(crate) fn announce(&self, side: usize, state: u32, vector: u32) {
        self.write(
            self.state_field(side, offset_of!(LinkState, vector)),
            vector,
        );
        self.write(
            self.state_field(side, offset_of!(LinkState, minor)),
            claim::minor(),
        );
        let version = if claim::says_version() {
            claim::version()
        } else {
            0
        };
        self.write(
            self.state_field(side, offset_of!(LinkState, version)),
            version,
        );
        if claim::features() != 0 {
            let unknown = [
                offset_of!(LinkState, features),
                offset_of!(LinkState, reserved),
            ];
            for field in unknown {
                if let Some(word) = self.long(self.state_field(side, field)) {
                    word.store(claim::features(), Relaxed);
                }
            }
        }
        self.write(self.state_field(side, offset_of!(LinkState, state)), state);
    }

    /// From which CPU to which a side says that a lane leads: any values.
    pub(crate) fn lane_ends(&self, side: usize, lane: u32) -> Option<(u32, u32)> {
        let at = self.layout.directory(side, lane)?;
        Some((
            self.read(at + offset_of!(LinkLane, from) as u64),
            self.read(at + offset_of!(LinkLane, to) as u64),
        ))
    }

    /// Says where a lane leads, and then that it is used: lanes are taken into use one after
    /// another.
    ///
    /// # Errors
    ///
    /// `ENOSPC` if there is no such lane.
    pub(crate) fn open_lane(&self, side: usize, lane: u32, ends: LaneEnds) -> Result {
        let at = self.layout.directory(side, lane).ok_or(ENOSPC)?;
        self.write(at + offset_of!(LinkLane, from) as u64, ends.from);
        self.write(at + offset_of!(LinkLane, to) as u64, ends.to);
        self.set_port_state(side, lane, ends.state, ends.cpu);
        let used = self.state_field(side, offset_of!(LinkState, lanes));
        self.write(used, lane + 1);
        Ok(())
    }

    /// Says that something has been opened or closed on a side, which alone says so, by one CPU at
    /// a time.
    pub(crate) fn change(&self, side: usize) {
        let at = self.state_field(side, offset_of!(LinkState, changes));
        self.write(at, self.read(at).wrapping_add(1));
    }

    /// `LinkState::changes` of a side: any value.
    pub(crate) fn changes(&self, side: usize) -> u32 {
        self.read(self.state_field(side, offset_of!(LinkState, changes)))
    }

    /// A field of a lane's entry in a side's directory.
    fn lane_field(&self, side: usize, lane: u32, field: usize) -> Option<&Atomic<u32>> {
        self.word(self.layout.directory(side, lane)? + field as u64)
    }

    /// `LinkLane::state` and `LinkLane::cpu` of a port's lane: any values.
    pub(crate) fn port_state(&self, side: usize, lane: u32) -> (u32, u32) {
        let read = |field| {
            let word = self.lane_field(side, lane, field);
            word.map_or(0, |word| word.load(Acquire))
        };
        (
            read(offset_of!(LinkLane, state)),
            read(offset_of!(LinkLane, cpu)),
        )
    }

    /// Says whether the sender of a port's lane is there, and which CPU looks after it.
    pub(crate) fn set_port_state(&self, side: usize, lane: u32, state: u32, cpu: u32) {
        let write = |field, value| {
            if let Some(word) = self.lane_field(side, lane, field) {
                word.store(value, Release);
            }
        };
        write(offset_of!(LinkLane, cpu), cpu);
        write(offset_of!(LinkLane, state), state);
    }

    /// Which CPU the receiver of a lane says looks after it: any value.
    pub(crate) fn reader_cpu(&self, side: usize, lane: u32) -> u32 {
        let at = self.layout.lane(side, lane).unwrap_or(0);
        self.read(at + offset_of!(LaneHead, cpu) as u64)
    }

    /// Says which CPU looks after the receiving end of a lane.
    pub(crate) fn set_reader_cpu(&self, side: usize, lane: u32, cpu: u32) {
        if let Some(at) = self.layout.lane(side, lane) {
            self.write(at + offset_of!(LaneHead, cpu) as u64, cpu);
        }
    }

    /// The bell of the receiver of a port's lane in which `side` sends.
    pub(crate) fn reader_bell(&self, side: usize, lane: u32) -> Option<PortBell<'_>> {
        let at = self.layout.lane(side, lane)? + offset_of!(LaneHead, asleep) as u64;
        Some(PortBell(self.long(at)?))
    }

    /// The bell of the sender of a port's lane, who waits for credit.
    pub(crate) fn writer_bell(&self, side: usize, lane: u32) -> Option<PortBell<'_>> {
        let at = self.layout.lane(side, lane)? + offset_of!(LaneHead, waiting) as u64;
        Some(PortBell(self.long(at)?))
    }

    /// The bell of a side's CPU.
    pub(crate) fn bell(&self, side: usize, cpu: u32) -> Option<Bell<'_>> {
        let at = self.layout.bell(side, cpu)?;
        Some(Bell {
            asleep: self.long(at + offset_of!(LinkBell, asleep) as u64)?,
            apic_id: self.word(at + offset_of!(LinkBell, apic_id) as u64)?,
            online: self.word(at + offset_of!(LinkBell, online) as u64)?,
        })
    }

    /// Where the pages of a lane are in which a side sends: physical address and bytes, which are
    /// nobody else's, and stay for as long as `self` lives.
    pub(crate) fn lane_pages(&self, side: usize, lane: u32) -> Option<(u64, u64)> {
        let at = self.layout.lane(side, lane)?;
        Some((self.phys + at, lane_bytes(self.layout.lane_slots())))
    }

    /// The memory of a lane in which a side sends.
    pub(crate) fn lane(self: &Arc<Self>, side: usize, lane: u32) -> Option<LaneWords> {
        let at = self.layout.lane(side, lane)?;
        let slots = self.layout.lane_slots();
        // The layout is right, so this is; but what follows stands on it.
        let bytes = LANE_HEAD_BYTES as u64 + u64::from(slots) * LANE_SLOT_BYTES as u64;
        if !slots.is_power_of_two() || at.checked_add(bytes)? > self.layout.size() || at % 8 != 0 {
            return None;
        }
        // INVARIANT: As just checked.
        Some(LaneWords {
            region: self.clone(),
            offset: at as usize,
            mask: slots as usize - 1,
        })
    }
}

/// What a side says of one of its lanes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct LaneEnds {
    /// [`LinkLane::from`].
    pub(crate) from: u32,
    /// [`LinkLane::to`].
    pub(crate) to: u32,
    /// [`LinkLane::state`].
    pub(crate) state: u32,
    /// [`LinkLane::cpu`].
    pub(crate) cpu: u32,
}

impl LaneEnds {
    /// Those of a lane from CPU to CPU.
    pub(crate) fn of_cpus(from: u32, to: u32) -> Self {
        Self {
            from,
            to,
            state: 0,
            cpu: 0,
        }
    }
}

/// The bell of a CPU.
pub(crate) struct Bell<'a> {
    asleep: &'a Atomic<u64>,
    apic_id: &'a Atomic<u32>,
    online: &'a Atomic<u32>,
}

impl Bell<'_> {
    /// The APIC id to be rung: any value.
    pub(crate) fn apic_id(&self) -> u32 {
        self.apic_id.load(Relaxed)
    }

    /// Whether the CPU itself takes messages, and not another one for it.
    pub(crate) fn is_online(&self) -> bool {
        self.online.load(Acquire) == 1
    }

    /// Says which APIC id to ring, and whether the CPU takes messages.
    pub(crate) fn announce(&self, apic_id: u32, online: bool) {
        self.apic_id.store(apic_id, Relaxed);
        self.online.store(online.into(), Release);
    }
}

impl BellMemory for Bell<'_> {
    fn asleep(&self) -> u64 {
        self.asleep.load(Relaxed)
    }

    fn set_asleep(&self, value: u64) {
        self.asleep.store(value, Release);
    }

    fn barrier(&self) {
        barrier::smp_mb(barrier::Full);
    }
}

/// The bell of who waits at one end of a port's lane.
pub(crate) struct PortBell<'a>(&'a Atomic<u64>);

impl BellMemory for PortBell<'_> {
    fn asleep(&self) -> u64 {
        self.0.load(Relaxed)
    }

    fn set_asleep(&self, value: u64) {
        self.0.store(value, Release);
    }

    fn barrier(&self) {
        barrier::smp_mb(barrier::Full);
    }
}

/// Number of the last sleep of a CPU for which somebody here rang.
pub(crate) struct LastRung(pub(crate) Atomic<u64>);

impl Rung for LastRung {
    fn exchange(&self, sleep: u64) -> u64 {
        self.0.xchg(sleep, kernel::sync::atomic::Full)
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
