// SPDX-License-Identifier: GPL-2.0

//! Lanes: rings of 64-byte slots from one CPU of one kernel to one CPU of another. The pure part.
//!
//! A lane has one [`Sender`] and one [`Receiver`]. The sender writes slots and nothing else; the
//! receiver writes the lane's head and nothing else. Slot `p & (slots - 1)` carries position `p`,
//! and the first of its eight words, the *stamp*, says so: it is stored last, with release
//! ordering, and a slot counts only once its stamp has the position and the epoch that the receiver
//! waits for. So a message that fits in a slot moves one cache line and no other: there is no tail
//! to be fetched, and the head is written only every quarter of the ring and looked at only by a
//! sender that has run out of credit.
//!
//! A message that spans slots is published by the stamp of its first slot, after all others have
//! been written; a batch of messages by the stamp of the first one's first slot, so that the
//! receiver does not ask for lines that are still being written. A sender that dies at any
//! instruction therefore leaves whole messages, and then nothing.
//!
//! Neither side trusts the other. A slot's words are read once; the length of a message and the
//! head are bounded by constants before they are used; indexes are masked by the side's own mask;
//! and no loop runs longer than a lane has slots. What cannot be gives [`Broken`], after which that
//! lane is not used any more.
//!
//! This file uses `core` alone and has no `unsafe`: the kernel and the tests compile it and bring
//! their own [`LaneMemory`]. It takes no locks: a `Sender` or `Receiver` belongs to who has it in
//! hand, most often one CPU with interrupts off.

// The tests and the benchmark use more of it than the kernel does.
#![allow(unreachable_pub, dead_code)]

#[path = "lane/receiver.rs"]
mod receiver;
#[path = "lane/sender.rs"]
mod sender;
#[path = "turns.rs"]
mod turns;

pub use self::{
    receiver::Receiver,
    sender::Sender, //
};
use crate::abi;

/// Words of a slot.
pub const WORDS: usize = abi::LANE_SLOT_BYTES / 8;
/// Bytes of payload in the first slot of a message: all but the stamp and the header.
pub const FIRST_BYTES: usize = abi::LANE_SLOT_BYTES - 16;
/// Bytes of payload in each further slot: all but the stamp.
pub const NEXT_BYTES: usize = abi::LANE_SLOT_BYTES - 8;

/// The memory of one lane, as one side sees it. The other side may change it at any time.
pub trait LaneMemory {
    /// Reads a word of a slot. `slot` is below the lane's number of slots, `word` below [`WORDS`].
    fn load(&self, slot: usize, word: usize) -> u64;
    /// Writes a word of a slot.
    fn store(&self, slot: usize, word: usize, value: u64);
    /// Reads word 0 of a slot, with acquire ordering.
    fn load_stamp(&self, slot: usize) -> u64;
    /// Writes word 0 of a slot, with release ordering.
    fn store_stamp(&self, slot: usize, value: u64);
    /// Reads the head, with acquire ordering.
    fn load_head(&self) -> u64;
    /// Writes the head, with release ordering.
    fn store_head(&self, value: u64);
    /// Reads word 0 of a slot, for nothing but to learn whether it is worth a [`Self::prefetch`]; 0
    /// where that does nothing.
    #[inline]
    fn peek_stamp(&self, _slot: usize) -> u64 {
        0
    }
    /// Says that a slot will be read soon. A hint: it may do nothing.
    #[inline]
    fn prefetch(&self, _slot: usize) {}
    /// Says that a slot will be written soon. A hint: it may do nothing.
    #[inline]
    fn prefetch_for_write(&self, _slot: usize) {}
}

/// What a lane looks like; the same on both sides, and not read from shared memory twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    mask: usize,
    epoch: u16,
}

impl Shape {
    /// A lane of `slots` slots in a link of that epoch, of which the low 16 bits count.
    ///
    /// Returns `None` if the number of slots is no power of two from [`abi::LANE_SLOTS_MIN`] to
    /// [`abi::LANE_SLOTS_MAX`].
    pub fn new(slots: u32, epoch: u32) -> Option<Self> {
        let allowed = abi::LANE_SLOTS_MIN..=abi::LANE_SLOTS_MAX;
        (slots.is_power_of_two() && allowed.contains(&slots)).then(|| Self {
            mask: slots as usize - 1,
            // CAST: Masked.
            epoch: (epoch & 0xffff) as u16,
        })
    }

    /// Slots of the lane.
    pub fn slots(&self) -> usize {
        self.mask + 1
    }

    /// Bytes of the longest message: it takes half of the slots, so that the next one can be
    /// written while it is read.
    pub fn longest(&self) -> usize {
        FIRST_BYTES + (self.slots() / 2 - 1) * NEXT_BYTES
    }

    #[inline]
    fn index(&self, position: u64) -> usize {
        // CAST: Masked to what is below the number of slots.
        (position & self.mask as u64) as usize
    }

    /// Whether a stamp is that of `position` in this life of the link, of whatever kind.
    #[inline(always)]
    fn is_stamp(&self, stamp: u64, position: u64) -> bool {
        (stamp ^ self.stamp(position, 0)) & 0xffff_ffff_ffff == 0
    }

    /// The stamp of a slot. Never 0, which is what fresh memory has: of the position the lower half
    /// of the successor counts, and where that is 0 the slot has been written before.
    #[inline]
    fn stamp(&self, position: u64, kind: u8) -> u64 {
        (position.wrapping_add(1) & 0xffff_ffff)
            | u64::from(self.epoch) << 32
            | u64::from(kind) << 48
    }
}

/// The other side did what it must not; the lane is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// Why a message was not sent. Nothing has been written that the receiver would look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// No credit: the receiver has not yet taken what was sent before.
    Full,
    /// Longer than [`Shape::longest`].
    TooLong,
    /// The receiver has published a head that cannot be.
    Broken,
}

/// What a message is, beside its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// `MESSAGE_*`, below 128; lanes do not look at it.
    pub kind: u8,
    /// Where it is to go; lanes do not look at it.
    pub port: u32,
    /// Bytes of payload.
    pub length: u32,
}

/// Number of slots that a payload of that many bytes takes.
pub fn slots_for(length: usize) -> usize {
    1 + length.saturating_sub(FIRST_BYTES).div_ceil(NEXT_BYTES)
}

#[cfg(any(test, CONFIG_MULTIKERNEL_KUNIT_TEST))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(multikernel_link_lane))]
mod tests {
    use super::*;
    use core::cell::Cell;

    pub(super) const SLOTS: usize = abi::LANE_SLOTS_MIN as usize;
    pub(super) const LONGEST: usize = FIRST_BYTES + (SLOTS / 2 - 1) * NEXT_BYTES;
    pub(super) const SHAPE: Shape = Shape {
        mask: SLOTS - 1,
        epoch: 3,
    };
    /// Where each test begins: at 0, before the stamps' sequence wraps, and before positions do.
    pub(super) const STARTS: [u64; 3] = [0, (1 << 32) - 37, u64::MAX - 36];

    pub(super) struct Memory {
        pub(super) head: Cell<u64>,
        pub(super) slots: [[Cell<u64>; WORDS]; SLOTS],
    }

    impl Memory {
        pub(super) fn new() -> Self {
            Self {
                head: Cell::new(0),
                slots: [const { [const { Cell::new(0) }; WORDS] }; SLOTS],
            }
        }

        pub(super) fn word(&self, position: u64, word: usize) -> &Cell<u64> {
            &self.slots[position as usize % SLOTS][word]
        }
    }

    impl LaneMemory for &Memory {
        fn load(&self, slot: usize, word: usize) -> u64 {
            self.slots[slot][word].get()
        }
        fn store(&self, slot: usize, word: usize, value: u64) {
            self.slots[slot][word].set(value);
        }
        fn load_stamp(&self, slot: usize) -> u64 {
            self.load(slot, 0)
        }
        fn store_stamp(&self, slot: usize, value: u64) {
            self.store(slot, 0, value);
        }
        fn load_head(&self) -> u64 {
            self.head.get()
        }
        fn store_head(&self, value: u64) {
            self.head.set(value);
        }
    }

    pub(super) fn pair(memory: &Memory, start: u64) -> (Sender<&Memory>, Receiver<&Memory>) {
        (
            Sender::at(memory, SHAPE, start),
            Receiver::at(memory, SHAPE, start),
        )
    }

    /// Bytes of which no two neighbours are equal, and no two payloads.
    pub(super) fn payload(seed: usize) -> [u8; LONGEST] {
        core::array::from_fn(|i| (i * 7 + seed * 13 + 1) as u8)
    }

    pub(super) fn header(length: usize) -> Result<Option<Header>, Broken> {
        Ok(Some(Header {
            kind: 5,
            port: 0xfedc_ba98,
            length: length as u32,
        }))
    }

    pub(super) fn send(sender: &mut Sender<&Memory>, bytes: &[u8]) -> Result<(), SendError> {
        sender.send(5, 0xfedc_ba98, bytes)
    }

    #[test]
    fn shapes_are_checked() {
        for slots in [0, 1, 8, 24, SLOTS as u32 + 1, 1 << 17, 1 << 31, u32::MAX] {
            assert_eq!(Shape::new(slots, 1), None);
        }
        assert_eq!(Shape::new(16, 0x7_0003), Some(SHAPE));
        assert_eq!(SHAPE.longest(), LONGEST);
        let largest = Shape::new(abi::LANE_SLOTS_MAX, 1);
        assert_eq!(largest.map(|shape| shape.slots()), Some(65536));
    }

    #[test]
    fn every_length_arrives() {
        for start in STARTS {
            let memory = Memory::new();
            let (mut sender, mut receiver) = pair(&memory, start);
            for length in 0..=LONGEST {
                let sent = payload(length);
                assert!(!receiver.has_message());
                assert_eq!(send(&mut sender, &sent[..length]), Ok(()));
                assert!(receiver.has_message());
                let mut got = [0xee; LONGEST + 1];
                assert_eq!(receiver.receive(&mut got), header(length));
                assert!(got[..length] == sent[..length]);
                assert!(got[length..].iter().all(|byte| *byte == 0xee));
                assert_eq!(receiver.head(), sender.tail());
                assert_eq!(receiver.receive(&mut got), Ok(None));
            }
            assert_eq!(sender.taken(), Ok(sender.tail()));
            assert_eq!(sender.stalls(), 0);
        }
    }

    #[test]
    fn what_does_not_fit_in_the_buffer_is_lost() {
        for start in STARTS {
            let memory = Memory::new();
            let (mut sender, mut receiver) = pair(&memory, start);
            for room in 0..LONGEST {
                let sent = payload(room);
                assert_eq!(send(&mut sender, &sent), Ok(()));
                let mut got = [0xee; LONGEST];
                assert_eq!(receiver.receive(&mut got[..room]), header(LONGEST));
                assert!(got[..room] == sent[..room]);
                assert!(got[room..].iter().all(|byte| *byte == 0xee));
            }
            assert_eq!(receiver.head(), sender.tail());
        }
    }

    #[test]
    fn credit_comes_back_by_quarters() {
        for start in STARTS {
            let memory = Memory::new();
            let (mut sender, mut receiver) = pair(&memory, start);
            let mut got = [0; LONGEST];
            for _ in 0..SLOTS {
                assert_eq!(send(&mut sender, b"one"), Ok(()));
            }
            assert_eq!(send(&mut sender, b""), Err(SendError::Full));
            for _ in 0..SLOTS / 4 {
                assert_eq!(receiver.receive(&mut got), header(3));
            }
            // The head is not yet told, as the last message may still be in use.
            assert_eq!(memory.head.get(), start);
            assert_eq!(send(&mut sender, b""), Err(SendError::Full));
            assert_eq!(sender.stalls(), 2);
            assert_eq!(receiver.receive(&mut got), header(3));
            assert_eq!(sender.taken(), Ok(start.wrapping_add(SLOTS as u64 / 4)));
            let four = FIRST_BYTES + (SLOTS / 4 - 1) * NEXT_BYTES;
            assert_eq!(send(&mut sender, &got[..four + 1]), Err(SendError::Full));
            assert_eq!(send(&mut sender, &got[..four]), Ok(()));
            assert_eq!(send(&mut sender, b""), Err(SendError::Full));
            // Who finds nothing any more gives all back.
            while receiver.receive(&mut got) != Ok(None) {}
            assert_eq!(sender.taken(), Ok(sender.tail()));
            assert_eq!(receiver.head(), sender.tail());
        }
    }

    #[test]
    fn a_batch_is_seen_at_once() {
        /// Memory in which the receiver looks after each store but the last.
        struct Watched<'a>(&'a Memory, u64, Cell<bool>);

        impl LaneMemory for Watched<'_> {
            fn load(&self, slot: usize, word: usize) -> u64 {
                self.0.load(slot, word)
            }
            fn store(&self, slot: usize, word: usize, value: u64) {
                assert!(!self.2.get());
                self.0.store(slot, word, value);
                self.2
                    .set(Receiver::at(self.0, SHAPE, self.1).has_message());
            }
            fn load_stamp(&self, slot: usize) -> u64 {
                self.load(slot, 0)
            }
            fn store_stamp(&self, slot: usize, value: u64) {
                self.store(slot, 0, value);
            }
            fn load_head(&self) -> u64 {
                self.0.load_head()
            }
            fn store_head(&self, value: u64) {
                self.0.store_head(value);
            }
        }

        for start in STARTS {
            let memory = Memory::new();
            let watched = Watched(&memory, start, Cell::new(false));
            let mut sender = Sender::at(watched, SHAPE, start);
            let bytes = payload(1);
            let batch = [
                &bytes[..3],
                &bytes[..FIRST_BYTES + NEXT_BYTES],
                &[],
                &bytes[..60],
            ];
            assert_eq!(sender.send_batch(5, 0xfedc_ba98, &batch), Ok(4));
            let mut receiver = Receiver::at(&memory, SHAPE, start);
            let mut got = [0; LONGEST];
            for sent in batch {
                assert_eq!(receiver.receive(&mut got), header(sent.len()));
                assert!(got[..sent.len()] == *sent);
            }
            assert_eq!(receiver.receive(&mut got), Ok(None));
        }
    }

    #[test]
    fn of_a_batch_goes_what_there_is_credit_for() {
        for start in STARTS {
            let memory = Memory::new();
            let (mut sender, mut receiver) = pair(&memory, start);
            let none: [&[u8]; 0] = [];
            assert_eq!(sender.send_batch(5, 7, &none), Ok(0));
            let two = [0; FIRST_BYTES + 1];
            assert_eq!(sender.send_batch(5, 7, &[two; SLOTS]), Ok(SLOTS / 2));
            assert_eq!(sender.send_batch(5, 7, &[two; SLOTS]), Err(SendError::Full));
            assert_eq!(sender.stalls(), 1);
            let mut got = [0; LONGEST];
            while receiver.receive(&mut got) != Ok(None) {}
            // The one that is too long ends the batch, or is refused.
            let long = [0; LONGEST + 1];
            assert_eq!(sender.send_batch(5, 7, &[&two[..], &long, &two]), Ok(1));
            assert_eq!(sender.send_batch(5, 7, &[long]), Err(SendError::TooLong));
            assert_eq!(sender.tail(), receiver.head().wrapping_add(2));
        }
    }

    #[test]
    fn too_long_is_not_sent() {
        let memory = Memory::new();
        let (mut sender, mut receiver) = pair(&memory, 0);
        let sent = [1; LONGEST + 1];
        assert_eq!(send(&mut sender, &sent), Err(SendError::TooLong));
        assert!(memory.slots.iter().flatten().all(|word| word.get() == 0));
        assert_eq!(receiver.receive(&mut []), Ok(None));
        assert_eq!(sender.stalls(), 0);
    }

    #[test]
    fn an_older_epoch_is_not_seen() {
        let memory = Memory::new();
        let (mut sender, _) = pair(&memory, 0);
        for _ in 0..SLOTS {
            assert_eq!(send(&mut sender, b"old"), Ok(()));
        }
        let shape = Shape { epoch: 4, ..SHAPE };
        let mut sender = Sender::at(&memory, shape, 0);
        let mut receiver = Receiver::at(&memory, shape, 0);
        let mut got = [0; LONGEST];
        assert!(!receiver.has_message());
        assert_eq!(receiver.receive(&mut got), Ok(None));
        assert_eq!(send(&mut sender, &payload(1)), Ok(()));
        assert_eq!(receiver.receive(&mut got), header(LONGEST));
        assert!(got == payload(1));
        assert_eq!(receiver.receive(&mut got), Ok(None));
    }

    #[test]
    fn a_hostile_sender_breaks_its_lane() {
        let next = |position| SHAPE.stamp(position, abi::LANE_NEXT);
        for start in STARTS {
            let second = start.wrapping_add(1);
            // Word of the first or second slot, and what it is other than it should be.
            for (position, word, value) in [
                (start, 0, next(start)),
                (start, 0, SHAPE.stamp(start, abi::LANE_KIND)),
                (start, 0, SHAPE.stamp(start, abi::LANE_FIRST) | 1 << 56),
                (start, 0, SHAPE.stamp(start, abi::LANE_FIRST) | 1 << 63),
                (start, 1, LONGEST as u64 + 1),
                (start, 1, u64::from(u32::MAX)),
                (second, 0, 0),
                (second, 0, next(start)),
                (second, 0, next(second.wrapping_add(SLOTS as u64))),
                (second, 0, next(second) ^ 1 << 32),
                (second, 0, next(second) | 1 << 56),
                (second, 0, SHAPE.stamp(second, abi::LANE_FIRST)),
            ] {
                let memory = Memory::new();
                let (mut sender, mut receiver) = pair(&memory, start);
                let mut got = [0; LONGEST];
                assert_eq!(send(&mut sender, &payload(1)), Ok(()));
                let right = memory.word(position, word).replace(value);
                assert_eq!(receiver.receive(&mut got), Err(Broken));
                // For ever, whatever is there.
                memory.word(position, word).set(right);
                assert!(receiver.is_broken());
                assert!(!receiver.has_message());
                assert_eq!(receiver.receive(&mut got), Err(Broken));
                assert_eq!(memory.head.get(), start);
            }
        }
    }

    #[test]
    fn a_message_longer_than_the_longest_is_none() {
        for start in STARTS {
            for (length, right) in [(LONGEST, true), (LONGEST + 1, false), (SLOTS * 64, false)] {
                let memory = Memory::new();
                let (_, mut receiver) = pair(&memory, start);
                // Every slot of the lane goes on with it.
                for at in (1..SLOTS as u64).map(|by| start.wrapping_add(by)) {
                    memory.word(at, 0).set(SHAPE.stamp(at, abi::LANE_NEXT));
                }
                memory.word(start, 1).set(length as u64);
                memory
                    .word(start, 0)
                    .set(SHAPE.stamp(start, abi::LANE_FIRST));
                assert_eq!(receiver.receive(&mut []).is_ok(), right);
            }
        }
    }

    #[test]
    fn a_hostile_receiver_breaks_its_lane() {
        for start in STARTS {
            // Sixteen slots have been sent, of which four are known to have been taken.
            for by in [-1, 3, SLOTS as i64 + 1, i64::MAX, i64::MIN] {
                let memory = Memory::new();
                let (mut sender, _) = pair(&memory, start);
                for _ in 0..SLOTS {
                    assert_eq!(send(&mut sender, b"x"), Ok(()));
                }
                memory.head.set(start.wrapping_add(4));
                assert_eq!(sender.taken(), Ok(start.wrapping_add(4)));
                memory.head.set(start.wrapping_add_signed(by));
                assert_eq!(sender.taken(), Err(Broken));
                // For ever, and with what was left of its credit.
                memory.head.set(sender.tail());
                assert_eq!(send(&mut sender, b"x"), Err(SendError::Broken));
                assert_eq!(sender.taken(), Err(Broken));
                assert_eq!(sender.tail(), start.wrapping_add(SLOTS as u64));
            }
        }
    }
}
