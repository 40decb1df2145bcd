// SPDX-License-Identifier: GPL-2.0

//! When a doorbell is rung. The pure part.
//!
//! A CPU that is about to stop looking at its lanes says so in its [`LinkBell`](crate::abi), and
//! looks once more; a sender looks at the bell after each message or batch, and rings if it says
//! so. Between the two writes and the two reads stands a full barrier on either side, so that at
//! least one of them sees what the other wrote (the pattern "SB" of the litmus tests in
//! tools/memory-model): a message is never left in a lane whose CPU sleeps.
//!
//! ```text
//! receiver                      sender
//! asleep = odd number           slot = message
//! full barrier                  full barrier
//! read slot: nothing, sleep     read asleep: even, do not ring
//!        (not both)
//! ```
//!
//! Each sleep has a number of its own, so that many senders ring once for it, without writing to
//! the receiver's memory. A doorbell therefore uses a number up: a receiver that has been rung is
//! awake, and needs another number before it rests, even if it finds nothing. It may have taken the
//! message before it fell asleep, while the sender came to look at the bell only afterwards.
//!
//! This file uses `core` alone, has no `unsafe` and needs no lock.

#![allow(unreachable_pub)]

/// The memory of a bell, as one side sees it, and what goes with it.
pub trait BellMemory {
    /// Reads [`LinkBell::asleep`](crate::abi::LinkBell).
    fn asleep(&self) -> u64;
    /// Writes it. Only the receiver does.
    fn set_asleep(&self, value: u64);
    /// Orders all accesses before it against all that follow, of this CPU.
    fn barrier(&self);
}

/// What those who send to one CPU know in common, in their own kernel's memory. It begins with 0
/// when the receiver begins with [`Sleeper::new`]: numbers of an earlier life mean nothing.
pub trait Rung {
    /// Replaces the number of the last sleep for which somebody rang, atomically, and returns what
    /// it was.
    fn exchange(&self, sleep: u64) -> u64;
    /// Reads it.
    fn get(&self) -> u64;
}

/// The receiver's side of a bell.
#[derive(Debug, Default)]
pub struct Sleeper {
    sleep: u64,
}

impl Sleeper {
    /// A receiver that is awake.
    pub const fn new() -> Self {
        Self { sleep: 0 }
    }

    /// Announces that a doorbell is needed from now on. The caller looks at all of its lanes once
    /// more after this, and if there is a message calls [`Self::wake`] and goes on.
    pub fn sleep<B: BellMemory>(&mut self, bell: &B) {
        // Odd for ever: 0, 1, 3, 5 ...
        self.sleep = self.sleep.wrapping_add(1) | 1;
        bell.set_asleep(self.sleep);
        bell.barrier();
    }

    /// Announces that none is needed. To be called whenever a doorbell has rung, and when there is
    /// a message after [`Self::sleep`].
    pub fn wake<B: BellMemory>(&mut self, bell: &B) {
        if self.sleep & 1 != 0 {
            self.sleep = self.sleep.wrapping_add(1);
            bell.set_asleep(self.sleep);
        }
    }

    /// Whether `asleep` is what this sleeper said last, or what a program that shares the bell with
    /// it made of that: the next even number.
    pub fn is_own(&self, asleep: u64) -> bool {
        asleep == self.sleep || (self.is_asleep() && asleep == self.sleep.wrapping_add(1))
    }

    /// Whether it has announced that a doorbell is needed.
    pub fn is_asleep(&self) -> bool {
        self.sleep & 1 != 0
    }
}

/// Whether the sender has to ring, now that it has written what it had to say.
///
/// A bell that changes all the time costs its own CPU doorbells, at most one for each call.
pub fn must_ring<B: BellMemory, R: Rung>(bell: &B, rung: &R) -> bool {
    bell.barrier();
    let sleep = bell.asleep();
    sleep & 1 != 0 && rung.get() != sleep && rung.exchange(sleep) != sleep
}

#[cfg(any(test, CONFIG_MULTIKERNEL_KUNIT_TEST))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(multikernel_link_wake))]
mod tests {
    use super::*;
    use core::cell::Cell;

    /// A bell, and what was done to it: a decimal digit for each access, in order.
    #[derive(Default)]
    struct Bell {
        asleep: Cell<u64>,
        done: Cell<u64>,
    }

    const LOAD: u64 = 1;
    const STORE: u64 = 2;
    const BARRIER: u64 = 3;

    impl Bell {
        fn note(&self, what: u64) {
            self.done.set(self.done.get().wrapping_mul(10) + what);
        }
    }

    impl BellMemory for Bell {
        fn asleep(&self) -> u64 {
            self.note(LOAD);
            self.asleep.get()
        }
        fn set_asleep(&self, value: u64) {
            self.note(STORE);
            self.asleep.set(value);
        }
        fn barrier(&self) {
            self.note(BARRIER);
        }
    }

    impl Rung for Cell<u64> {
        fn exchange(&self, sleep: u64) -> u64 {
            self.replace(sleep)
        }
        fn get(&self) -> u64 {
            Cell::get(self)
        }
    }

    #[test]
    fn one_doorbell_for_each_sleep() {
        let (bell, rung) = (Bell::default(), Cell::new(0));
        let mut sleeper = Sleeper::new();
        assert!(!must_ring(&bell, &rung));
        for _ in 0..5 {
            sleeper.sleep(&bell);
            assert!(sleeper.is_asleep());
            assert!(must_ring(&bell, &rung));
            assert!(!must_ring(&bell, &rung));
            sleeper.wake(&bell);
            assert!(!sleeper.is_asleep());
            assert!(!must_ring(&bell, &rung));
        }
        // Two announcements without a message in between are two sleeps.
        sleeper.sleep(&bell);
        assert!(must_ring(&bell, &rung));
        sleeper.sleep(&bell);
        assert!(must_ring(&bell, &rung));
    }

    #[test]
    fn barriers_are_where_they_belong() {
        let (bell, rung) = (Bell::default(), Cell::new(0));
        let mut sleeper = Sleeper::new();
        sleeper.sleep(&bell);
        assert_eq!(bell.done.take(), STORE * 10 + BARRIER);
        assert!(must_ring(&bell, &rung));
        assert_eq!(bell.done.take(), BARRIER * 10 + LOAD);
        sleeper.wake(&bell);
        assert_eq!(bell.done.take(), STORE);
        // Who is awake writes nothing to memory that senders look at.
        sleeper.wake(&bell);
        assert_eq!(bell.done.take(), 0);
    }

    #[test]
    fn a_late_sender_costs_a_doorbell_at_most() {
        let (bell, rung) = (Bell::default(), Cell::new(0));
        let mut sleeper = Sleeper::new();
        sleeper.sleep(&bell);
        let old = Bell::default();
        old.asleep.set(bell.asleep.get());
        sleeper.wake(&bell);
        sleeper.sleep(&bell);
        assert!(must_ring(&bell, &rung));
        // It read the bell before that, and comes to the exchange only now.
        assert!(must_ring(&old, &rung));
        // The next one does not take the old number for its own.
        assert!(must_ring(&bell, &rung));
        assert!(!must_ring(&bell, &rung));
    }

    #[test]
    fn sleeps_are_odd_for_ever() {
        for sleep in [0, u64::MAX - 2, u64::MAX - 1, u64::MAX] {
            let bell = Bell::default();
            let mut sleeper = Sleeper { sleep };
            for _ in 0..3 {
                let before = bell.asleep.get();
                sleeper.sleep(&bell);
                assert_eq!(bell.asleep.get() % 2, 1);
                assert!(bell.asleep.get() != before);
                sleeper.wake(&bell);
                assert_eq!(bell.asleep.get() % 2, 0);
            }
        }
    }
}
