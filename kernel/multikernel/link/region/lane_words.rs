// SPDX-License-Identifier: GPL-2.0

//! The memory of one lane of a link, word by word. No lock: see `region.rs`.

use core::mem::offset_of;

use kernel::{
    bindings,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Relaxed,
            Release, //
        },
        Arc, //
    }, //
};

use super::{
    super::lane::{
        LaneMemory,
        WORDS, //
    },
    Region, //
};
use crate::abi::{
    LaneHead,
    LANE_HEAD_BYTES,
    LANE_SLOT_BYTES, //
};

/// The memory of one lane.
///
/// # Invariants
///
/// `mask + 1` is a power of two, and that many slots behind a head at `offset` are inside the
/// region; `offset` is a multiple of 8.
pub(crate) struct LaneWords {
    pub(super) region: Arc<Region>,
    pub(super) offset: usize,
    pub(super) mask: usize,
}

impl LaneWords {
    #[inline]
    fn slot(&self, slot: usize, word: usize) -> &Atomic<u64> {
        let at = LANE_HEAD_BYTES + (slot & self.mask) * LANE_SLOT_BYTES + (word % WORDS) * 8;
        // SAFETY: The masks keep it inside the lane, which is inside the region, and it is aligned.
        // This kernel accesses it atomically, in this size only.
        unsafe { Atomic::from_ptr(self.region.base.add(self.offset + at).cast()) }
    }

    /// Waits until somebody writes to a slot, whose first word was `stamp`, a microsecond at most.
    pub(crate) fn wait_for_write(&self, slot: usize, stamp: u64) {
        let word = core::ptr::from_ref(self.slot(slot, 0)).cast();
        // SAFETY: The word is there, by `slot()`. It is read at once, and written-back memory that
        // can be monitored.
        unsafe { bindings::multikernel_wait_for_write(word, stamp) };
    }

    #[inline]
    fn head(&self) -> &Atomic<u64> {
        const { assert!(offset_of!(LaneHead, head) == 0) };
        // SAFETY: As in `slot()`.
        unsafe { Atomic::from_ptr(self.region.base.add(self.offset).cast()) }
    }
}

impl LaneMemory for LaneWords {
    #[inline]
    fn load(&self, slot: usize, word: usize) -> u64 {
        self.slot(slot, word).load(Relaxed)
    }

    #[inline]
    fn store(&self, slot: usize, word: usize, value: u64) {
        self.slot(slot, word).store(value, Relaxed);
    }

    #[inline]
    fn load_stamp(&self, slot: usize) -> u64 {
        self.slot(slot, 0).load(Acquire)
    }

    #[inline]
    fn store_stamp(&self, slot: usize, value: u64) {
        self.slot(slot, 0).store(value, Release);
    }

    #[inline]
    fn load_head(&self) -> u64 {
        self.head().load(Acquire)
    }

    #[inline]
    fn store_head(&self, value: u64) {
        self.head().store(value, Release);
    }

    #[inline]
    fn peek_stamp(&self, slot: usize) -> u64 {
        self.slot(slot, 0).load(Relaxed)
    }

    #[inline]
    fn prefetch(&self, slot: usize) {
        let line = core::ptr::from_ref(self.slot(slot, 0)).cast();
        // SAFETY: A hint, which any address would do for.
        unsafe { bindings::multikernel_prefetch(line) };
    }

    #[inline]
    fn prefetch_for_write(&self, slot: usize) {
        let line = core::ptr::from_ref(self.slot(slot, 0)).cast();
        // SAFETY: A hint, which any address would do for.
        unsafe { bindings::multikernel_prefetchw(line) };
    }
}
