// SPDX-License-Identifier: GPL-2.0

//! What a writer remembers of its writes, and what it finds when it reads them back.
//!
//! A write is *acknowledged* once the server has answered it. One whose connection broke before
//! that is *open*: it may have been done or not. No connection but the writer's last one can do
//! anything (see [`crate::writer`]), so that reading its place once settles it: from then on it was
//! acknowledged, or never made.

use std::collections::HashSet;

use serde::Serialize;

use crate::record::{Hand, Place};

/// What was not as it has to be.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Wrong {
    /// Acknowledged writes that are not there.
    pub lost: u64,
    /// Places with bytes that nobody wrote, or with a write that was not made.
    pub changed: u64,
    /// Writes that are there more than once.
    pub doubled: u64,
}

impl Wrong {
    /// The sum of both.
    pub fn add(&mut self, other: Self) {
        self.lost += other.lost;
        self.changed += other.changed;
        self.doubled += other.doubled;
    }

    /// Whether there is anything.
    pub fn any(&self) -> bool {
        *self != Self::default()
    }
}

/// A write.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Write {
    /// Its number, from 1.
    pub number: u64,
    /// Where it goes.
    pub place: Place,
}

/// What a writer remembers.
#[derive(Debug)]
pub struct Memory {
    hand: Hand,
    /// The last acknowledged write of each key.
    slots: Vec<Option<u64>>,
    /// All acknowledged writes to the list, in order.
    log: Vec<u64>,
    open: Option<Write>,
    made: u64,
}

impl Memory {
    /// Of a writer that has not written yet.
    pub fn new(hand: Hand, slots: u32) -> Self {
        Self {
            hand,
            slots: vec![None; slots as usize],
            log: Vec::new(),
            open: None,
            made: 0,
        }
    }

    /// The next write, which is open from now on.
    pub fn next(&mut self) -> Write {
        self.made += 1;
        let number = self.made;
        // In turn, and each key after many others.
        let place = match number % 2 {
            0 => Place::Log,
            _ => Place::Slot((number / 2 % self.slots.len().max(1) as u64) as u32),
        };
        let write = Write { number, place };
        self.open = Some(write);
        write
    }

    /// The write whose outcome is not known.
    pub fn open(&self) -> Option<Write> {
        self.open
    }

    /// The open write was acknowledged.
    pub fn acknowledged(&mut self) {
        let Some(Write { number, place }) = self.open.take() else {
            return;
        };
        match place {
            Place::Log => self.log.push(number),
            Place::Slot(slot) => {
                if let Some(slot) = self.slots.get_mut(slot as usize) {
                    *slot = Some(number);
                }
            }
        }
    }

    /// What is at the place of the open write now settles it.
    pub fn settle(&mut self, found: Option<&[u8]>) {
        let Some(Write { number, place }) = self.open else {
            return;
        };
        if found.and_then(|record| self.hand.read(record, place)) == Some(number) {
            self.acknowledged();
        } else {
            // Whether it is what was there before is for the check.
            self.open = None;
        }
    }

    /// How many writes to the list are acknowledged.
    pub fn log_length(&self) -> usize {
        self.log.len()
    }

    /// What is wrong with the keys, all of which were read while no write was open.
    pub fn check_slots(&self, found: &[Option<Vec<u8>>]) -> Wrong {
        let mut wrong = Wrong::default();
        for (slot, expected) in (0..).zip(&self.slots) {
            let record = found.get(slot as usize).and_then(Option::as_deref);
            match (record, *expected) {
                (None, None) => {}
                (None, Some(_)) => wrong.lost += 1,
                (Some(record), expected) => {
                    let number = self.hand.read(record, Place::Slot(slot));
                    match (number, expected) {
                        (Some(number), Some(expected)) if number == expected => {}
                        // An older one in place of it.
                        (Some(number), Some(expected)) if number < expected => wrong.lost += 1,
                        _ => wrong.changed += 1,
                    }
                }
            }
        }
        wrong
    }

    /// The same of the list, of which everything from entry `from` on was read.
    pub fn check_log(&self, from: usize, found: &[Vec<u8>]) -> Wrong {
        let mut wrong = Wrong::default();
        let expected = self.log.get(from..).unwrap_or_default();
        let known: HashSet<u64> = expected.iter().copied().collect();
        let mut seen = HashSet::new();
        let mut last = 0;
        for record in found {
            match self.hand.read(record, Place::Log) {
                Some(number) if seen.contains(&number) => wrong.doubled += 1,
                Some(number) if known.contains(&number) => {
                    if number < last {
                        wrong.changed += 1;
                    }
                    last = number;
                    seen.insert(number);
                }
                _ => wrong.changed += 1,
            }
        }
        wrong.lost += (known.len() - seen.len()) as u64;
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HAND: Hand = Hand {
        seed: 1,
        writer: 0,
        bytes: 32,
    };

    /// A server that keeps everything.
    struct Kept {
        memory: Memory,
        slots: Vec<Option<Vec<u8>>>,
        log: Vec<Vec<u8>>,
    }

    impl Kept {
        fn new(writes: usize) -> Self {
            let mut kept = Self {
                memory: Memory::new(HAND, 4),
                slots: vec![None; 4],
                log: Vec::new(),
            };
            for _ in 0..writes {
                let write = kept.memory.next();
                kept.store(write);
                kept.memory.acknowledged();
            }
            kept
        }

        fn store(&mut self, write: Write) {
            let record = HAND.write(write.number, write.place);
            match write.place {
                Place::Log => self.log.push(record),
                Place::Slot(slot) => self.slots[slot as usize] = Some(record),
            }
        }

        fn check(&self) -> Wrong {
            let mut wrong = self.memory.check_slots(&self.slots);
            wrong.add(self.memory.check_log(0, &self.log));
            wrong
        }
    }

    fn wrong(lost: u64, changed: u64, doubled: u64) -> Wrong {
        Wrong {
            lost,
            changed,
            doubled,
        }
    }

    #[test]
    fn what_is_kept_is_right() {
        for writes in [0, 1, 2, 3, 100] {
            let kept = Kept::new(writes);
            assert!(!kept.check().any(), "{writes}");
        }
        let kept = Kept::new(100);
        assert_eq!(kept.memory.log_length(), 50);
        assert!(!kept.memory.check_log(40, &kept.log[40..]).any());
    }

    #[test]
    fn an_open_write_may_be_done_or_not() {
        for done in [true, false] {
            for before in [8, 9] {
                let mut kept = Kept::new(before);
                let write = kept.memory.next();
                if done {
                    kept.store(write);
                }
                assert_eq!(kept.memory.open(), Some(write));
                let found = match write.place {
                    Place::Log => kept.log.last().cloned(),
                    Place::Slot(slot) => kept.slots[slot as usize].clone(),
                };
                kept.memory.settle(found.as_deref());
                assert_eq!(kept.memory.open(), None);
                assert!(!kept.check().any());
                if !done {
                    // Done after all, when it had been settled that it was not.
                    kept.store(write);
                    assert_eq!(kept.check(), wrong(0, 1, 0));
                }
            }
        }
    }

    #[test]
    fn losses_are_found() {
        let mut kept = Kept::new(100);
        kept.slots[1] = None;
        assert_eq!(kept.check(), wrong(1, 0, 0));
        let mut kept = Kept::new(100);
        // The write to this key before the last one.
        kept.slots[2] = Some(HAND.write(100 - 11, Place::Slot(2)));
        assert_eq!(
            HAND.read(kept.slots[2].as_deref().unwrap(), Place::Slot(2)),
            Some(89)
        );
        assert!(kept.check().lost == 1 || kept.memory.slots[2] == Some(89));
        let mut kept = Kept::new(100);
        kept.log.remove(7);
        kept.log.pop();
        assert_eq!(kept.check(), wrong(2, 0, 0));
    }

    #[test]
    fn changes_are_found() {
        let mut kept = Kept::new(100);
        kept.slots[1].as_mut().unwrap()[20] ^= 4;
        kept.log[3][0] ^= 1;
        // The entry that was there is lost as well.
        assert_eq!(kept.check(), wrong(1, 2, 0));
        let mut kept = Kept::new(100);
        kept.log.swap(3, 4);
        assert_eq!(kept.check(), wrong(0, 1, 0));
    }

    #[test]
    fn doubles_are_found() {
        let mut kept = Kept::new(100);
        let again = kept.log[30].clone();
        kept.log.push(again);
        assert_eq!(kept.check(), wrong(0, 0, 1));
    }
}
