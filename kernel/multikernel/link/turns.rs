// SPDX-License-Identifier: GPL-2.0

//! Taking turns in a lane: a program that has it mapped sends or receives where its kernel has
//! stopped, and the kernel goes on where that has stopped. A part of `lane.rs`, and as pure.
//!
//! Where the other has stopped only the memory says: the head, and the stamps from there on. Both
//! may be garbage; then it is [`Broken`], or a place in the lane that is as good as another.

use super::{
    slots_for,
    Broken,
    LaneMemory,
    Receiver,
    Sender,
    Shape, //
};
use crate::abi;

impl<M: LaneMemory> Sender<M> {
    /// The sender of a lane in which somebody else has sent up to the position `tail`.
    ///
    /// # Errors
    ///
    /// [`Broken`] if the receiver has published a head that cannot be.
    pub fn resume(memory: M, shape: Shape, tail: u64) -> Result<Self, Broken> {
        let head = memory.load_head();
        if tail.wrapping_sub(head) > shape.slots() as u64 {
            return Err(Broken);
        }
        Ok(Self {
            tail,
            head,
            ..Self::new(memory, shape)
        })
    }

    /// The head as the receiver says, and where the messages end that are in the lane from there
    /// on; both any value if one of the sides did what it must not.
    fn find_ends(&self) -> (u64, u64) {
        let head = self.memory.load_head();
        let mut tail = head;
        // A message has a slot at least.
        for _ in 0..self.shape.slots() {
            let slot = self.shape.index(tail);
            let stamp = self.memory.load_stamp(slot);
            let first = stamp >> 48 & !u64::from(abi::LANE_KIND) == u64::from(abi::LANE_FIRST);
            // CAST: The lower half.
            let length = self.memory.load(slot, 1) as u32 as usize;
            let after = tail.wrapping_add(slots_for(length) as u64);
            if !first
                || !self.shape.is_stamp(stamp, tail)
                || length > self.shape.longest()
                || after.wrapping_sub(head) > self.shape.slots() as u64
            {
                break;
            }
            tail = after;
        }
        (head, tail)
    }

    /// How many slots are in use of a lane in which somebody else sends, going by its memory.
    pub fn finds_used(&self) -> usize {
        let (head, tail) = self.find_ends();
        // CAST: At most the number of slots.
        tail.wrapping_sub(head) as usize
    }

    /// Whether `slots` slots are free in a lane in which somebody else sends, going by its memory.
    pub fn finds_credit(&self, slots: usize) -> bool {
        self.finds_used() + slots <= self.shape.slots()
    }

    /// Goes on where somebody else has stopped, who has sent in this lane since: behind what he
    /// published last. What he had begun is taken back.
    ///
    /// # Errors
    ///
    /// [`Broken`] if that cannot be found, now and ever after.
    pub fn recover(&mut self) -> Result<(), Broken> {
        let (head, tail) = self.find_ends();
        let last = tail.wrapping_sub(1);
        let stamp = self.memory.load_stamp(self.shape.index(last));
        let forward = |from: u64, to: u64| to.wrapping_sub(from) <= u64::MAX / 2;
        if self.broken
            || !forward(self.head, head)
            || !forward(self.tail, tail)
            || (tail != 0 && !self.shape.is_stamp(stamp, last))
        {
            return Err(self.fail());
        }
        let end = head.wrapping_add(self.shape.slots() as u64);
        let mut position = tail;
        while position != end {
            let slot = self.shape.index(position);
            if self.shape.is_stamp(self.memory.load_stamp(slot), position) {
                // A part of what was begun would be taken for a message in its turn.
                self.memory.store_stamp(slot, 0);
            }
            position = position.wrapping_add(1);
        }
        (self.head, self.tail) = (head, tail);
        Ok(())
    }
}

impl<M: LaneMemory> Receiver<M> {
    /// The receiver of a lane from which somebody else has taken everything up to `head`, and told
    /// the sender.
    pub fn resume(memory: M, shape: Shape, head: u64) -> Self {
        Self {
            head,
            published: head,
            ..Self::new(memory, shape)
        }
    }

    /// Whether there is a message in a lane in which somebody else receives, going by its memory:
    /// as far as he has told the sender.
    pub fn finds_message(&self) -> bool {
        let head = self.memory.load_head();
        let stamp = self.memory.load_stamp(self.shape.index(head));
        self.shape.is_stamp(stamp, head)
    }

    /// Goes on where somebody else has told the sender last, who has received in this lane since.
    ///
    /// # Errors
    ///
    /// [`Broken`] if that cannot be, now and ever after.
    pub fn recover(&mut self) -> Result<(), Broken> {
        let head = self.memory.load_head();
        let last = head.wrapping_sub(1);
        let is_stamp = |position| {
            let stamp = self.memory.load_stamp(self.shape.index(position));
            self.shape.is_stamp(stamp, position)
        };
        // The slot before has been overwritten only if this one is there.
        let sent = head == 0 || is_stamp(last) || is_stamp(head);
        if self.broken || head.wrapping_sub(self.head) > u64::MAX / 2 || !sent {
            return Err(self.fail());
        }
        (self.head, self.published) = (head, head);
        Ok(())
    }
}

#[cfg(any(test, CONFIG_MULTIKERNEL_KUNIT_TEST))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(multikernel_link_turns))]
mod tests {
    use super::super::{
        tests::{
            header,
            pair,
            payload,
            send,
            Memory,
            LONGEST,
            SHAPE,
            SLOTS,
            STARTS, //
        },
        SendError,
        FIRST_BYTES, //
    };
    use super::*;

    /// Sends and takes some messages by another pair, as a program does that has the lane mapped,
    /// and leaves `more` in the lane.
    fn take_turns(memory: &Memory, start: u64, count: usize, more: usize) -> u64 {
        let Ok(mut sender) = Sender::resume(memory, SHAPE, start) else {
            assert_eq!(memory.head.get(), start);
            return 0;
        };
        let mut receiver = Receiver::resume(memory, SHAPE, start);
        for number in 0..count {
            assert_eq!(
                send(&mut sender, &payload(number)[..number % LONGEST]),
                Ok(())
            );
            assert_eq!(
                receiver.receive(&mut [0; LONGEST]).map(|got| got.is_some()),
                Ok(true)
            );
        }
        receiver.publish();
        for _ in 0..more {
            assert_eq!(send(&mut sender, &[7; FIRST_BYTES + 1]), Ok(()));
        }
        sender.tail()
    }

    #[test]
    fn turns_are_taken_where_the_other_stopped() {
        for start in STARTS {
            for (count, more) in [(0, 0), (1, 0), (7, 0), (40, 0), (0, 1), (5, 8), (33, 3)] {
                let memory = Memory::new();
                let (mut sender, mut receiver) = pair(&memory, start);
                // So that there is a slot before.
                assert_eq!(send(&mut sender, b"x"), Ok(()));
                assert_eq!(receiver.receive(&mut []), header(1));
                receiver.publish();
                let tail = take_turns(&memory, start.wrapping_add(1), count, more);
                assert!(sender.finds_credit(SLOTS - 2 * more));
                assert!(!sender.finds_credit(SLOTS - 2 * more + 1));
                assert_eq!(receiver.finds_message(), more != 0);
                assert_eq!(sender.recover(), Ok(()));
                assert_eq!(sender.tail(), tail);
                assert_eq!(receiver.recover(), Ok(()));
                // Also a second time, without anything in between.
                assert_eq!(sender.recover(), Ok(()));
                assert_eq!(receiver.recover(), Ok(()));
                let mut got = [0; LONGEST];
                for _ in 0..more {
                    assert_eq!(receiver.receive(&mut got), header(FIRST_BYTES + 1));
                }
                assert_eq!(receiver.receive(&mut got), Ok(None));
                for length in 0..LONGEST {
                    assert_eq!(send(&mut sender, &payload(length)[..length]), Ok(()));
                    assert_eq!(receiver.receive(&mut got), header(length));
                    assert!(got[..length] == payload(length)[..length]);
                }
            }
        }
    }

    #[test]
    fn what_was_begun_is_taken_back() {
        for start in STARTS {
            let memory = Memory::new();
            let (mut sender, mut receiver) = pair(&memory, start);
            assert_eq!(send(&mut sender, b"x"), Ok(()));
            // All of a message but its first slot.
            for by in 2..8 {
                let position = start.wrapping_add(by);
                let stamp = SHAPE.stamp(position, abi::LANE_NEXT);
                memory.word(position, 0).set(stamp);
            }
            assert_eq!(sender.recover(), Ok(()));
            let mut got = [0; LONGEST];
            assert_eq!(receiver.receive(&mut got), header(1));
            for _ in 0..SLOTS {
                assert_eq!(receiver.receive(&mut got), Ok(None));
                assert_eq!(send(&mut sender, b"one"), Ok(()));
                assert_eq!(receiver.receive(&mut got), header(3));
            }
        }
    }

    #[test]
    fn garbage_cannot_be_recovered() {
        for start in STARTS {
            let broken = |spoil: fn(&Memory, u64)| {
                let memory = Memory::new();
                let (mut sender, mut receiver) = pair(&memory, start);
                for _ in 0..5 {
                    assert_eq!(send(&mut sender, b"x"), Ok(()));
                    assert_eq!(receiver.receive(&mut []), header(1));
                }
                receiver.publish();
                assert_eq!(sender.taken(), Ok(start.wrapping_add(5)));
                spoil(&memory, start);
                let found = (sender.recover().is_err(), receiver.recover().is_err());
                // For ever, and nothing is sent or taken.
                if found.0 {
                    assert_eq!(send(&mut sender, b"x"), Err(SendError::Broken));
                    assert_eq!(sender.recover(), Err(Broken));
                }
                if found.1 {
                    assert_eq!(receiver.receive(&mut []), Err(Broken));
                    assert_eq!(receiver.recover(), Err(Broken));
                }
                found
            };
            assert_eq!(broken(|_, _| ()), (false, false));
            let both = (true, true);
            // The head before what it was, or where no slot was ever sent.
            assert_eq!(
                broken(|memory, start| memory.head.set(start.wrapping_add(4))),
                both
            );
            assert_eq!(
                broken(|memory, start| memory.head.set(start.wrapping_add(7))),
                both
            );
            assert_eq!(
                broken(|memory, start| memory.head.set(start.wrapping_sub(SLOTS as u64))),
                both
            );
            // The slot before does not say what it must.
            assert_eq!(
                broken(|memory, start| memory.word(start.wrapping_add(4), 0).set(0)),
                both
            );
            // A message that is too long ends what can be found; so it was never published.
            let long = |memory: &Memory, start: u64| {
                let position = start.wrapping_add(5);
                memory.word(position, 1).set(LONGEST as u64 + 1);
                memory
                    .word(position, 0)
                    .set(SHAPE.stamp(position, abi::LANE_FIRST));
            };
            assert_eq!(broken(long), (false, false));
        }
    }
}
