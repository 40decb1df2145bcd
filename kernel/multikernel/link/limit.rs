// SPDX-License-Identifier: GPL-2.0

//! How much of a CPU a peer can have: limits to doorbells and to messages. The pure part.
//!
//! An interrupt does not say who sent it, and nothing holds it off. What can be bounded is what
//! follows from it: a [`Gate`] has a CPU look at its lanes less often where doorbells ring for
//! nothing. A message says over which link it came: a [`Budget`] bounds the time that one link has
//! of one CPU, and all of them together.
//!
//! No lock and no state of its own: both are in the inbox of a CPU, guarded by its lock. Times are
//! nanoseconds of a clock that does not go back.

#![allow(unreachable_pub)]

/// Doorbells for nothing that are looked at without delay, in a row or nearly so.
pub const IDLE_MAX: u32 = 64;
/// How long it takes until one of them is forgotten.
const FORGET_NS: u64 = 200_000;
/// Once there have been as many, how long until the next look at what rings.
pub const LOOK_NS: u64 = 200_000;
/// In which a link has its share of a CPU. A few ticks, so that what waits for a tick fits in.
pub const PERIOD_NS: u64 = 20_000_000;

/// How often a CPU looks at its lanes because of a doorbell.
///
/// A sender that keeps to the rules rings for a message, which may have been taken before: so there
/// are at most as many doorbells for nothing as doorbells for something. Each of these makes up for
/// one of those.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gate {
    /// Doorbells for nothing, less what has been made up for or forgotten.
    idle: u32,
    /// Up to when they have been forgotten.
    since_ns: u64,
}

impl Gate {
    /// A CPU that has not been rung.
    pub const fn new() -> Self {
        Self {
            idle: 0,
            since_ns: 0,
        }
    }

    /// A doorbell has been looked at, and was for something or not. Returns when the next may be: 0
    /// for at once.
    pub fn looked(&mut self, now_ns: u64, any: bool) -> u64 {
        let forgotten = now_ns.saturating_sub(self.since_ns) / FORGET_NS;
        self.idle = self
            .idle
            .saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX));
        self.since_ns = match self.idle {
            0 => now_ns,
            _ => self.since_ns.saturating_add(forgotten * FORGET_NS),
        };
        self.idle = match any {
            true => self.idle.saturating_sub(1),
            false => (self.idle + 1).min(IDLE_MAX),
        };
        match self.idle < IDLE_MAX {
            true => 0,
            false => now_ns.saturating_add(LOOK_NS),
        }
    }
}

/// What one link may take of one CPU's time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Budget {
    /// When the period began.
    begin_ns: u64,
    /// What has been used in it, and what was used too much before.
    used_ns: u64,
    /// Whether it has been found used up in this period.
    spent: bool,
}

/// Whether there is something left of a [`Budget`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// There is.
    Some,
    /// There is not, which is new in this period.
    SpentNow,
    /// There is not.
    Spent,
}

impl Budget {
    /// That of a link of which nothing has come yet.
    pub const fn new() -> Self {
        Self {
            begin_ns: 0,
            used_ns: 0,
            spent: false,
        }
    }

    /// Whether the link may have some of the CPU now, of which it has a share of `percent`, 1 to
    /// 100. Of 100 there is always something left.
    pub fn left(&mut self, now_ns: u64, percent: u32) -> Left {
        let share_ns = share_ns(percent);
        let periods = now_ns.saturating_sub(self.begin_ns) / PERIOD_NS;
        if periods > 0 {
            // What was too much is taken from what comes.
            self.used_ns = self
                .used_ns
                .saturating_sub(share_ns.saturating_mul(periods));
            self.begin_ns = self
                .begin_ns
                .saturating_add(periods.saturating_mul(PERIOD_NS));
            self.spent = false;
        }
        if percent >= 100 || self.used_ns < share_ns {
            return Left::Some;
        }
        self.spend()
    }

    /// As [`Self::left`], of one of so many links whose CPU time `total` has. Once they have had
    /// the share together, each has its part of it and not more: so the share is that of all, and
    /// one that wants little gets it.
    pub fn left_beside(
        &mut self,
        total: &mut Self,
        links: usize,
        now_ns: u64,
        percent: u32,
    ) -> Left {
        let left = self.left(now_ns, percent);
        if left != Left::Some || total.left(now_ns, percent) == Left::Some {
            return left;
        }
        if self.used_ns < share_ns(percent) / (links as u64).max(1) {
            return Left::Some;
        }
        self.spend()
    }

    fn spend(&mut self) -> Left {
        match core::mem::replace(&mut self.spent, true) {
            true => Left::Spent,
            false => Left::SpentNow,
        }
    }

    /// It has had that much. More than a period at a time is not its own: somebody else had this
    /// CPU, a hypervisor below it for example.
    pub fn use_up(&mut self, ns: u64) {
        self.used_ns = self.used_ns.saturating_add(ns.min(PERIOD_NS));
    }
}

/// Nanoseconds of a period.
fn share_ns(percent: u32) -> u64 {
    PERIOD_NS / 100 * u64::from(percent.clamp(1, 100))
}

#[cfg(any(test, CONFIG_MULTIKERNEL_KUNIT_TEST))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(multikernel_link_limit))]
mod tests {
    use super::*;

    const START: u64 = 1_000_000_000_000;

    /// Rings that often for nothing, in steps of `step_ns`; how many were looked at.
    fn flood(gate: &mut Gate, from_ns: u64, rings: u64, step_ns: u64) -> u64 {
        let (mut looks, mut next) = (0, 0);
        for ring in 0..rings {
            let now = from_ns + ring * step_ns;
            if now >= next {
                looks += 1;
                next = gate.looked(now, false);
            }
        }
        looks
    }

    #[test]
    fn doorbells_for_nothing_are_looked_at_less_often() {
        let mut gate = Gate::new();
        // A second of a doorbell each microsecond.
        let looks = flood(&mut gate, START, 1_000_000, 1_000);
        // The first ones, one for each that was forgotten, and one each LOOK_NS.
        assert!(looks >= 1_000_000_000 / LOOK_NS);
        let forgotten = 1_000_000_000 / FORGET_NS;
        assert!(looks <= 1_000_000_000 / LOOK_NS + forgotten + u64::from(IDLE_MAX));
        // After a while of peace, the next need not wait, nor the one after it.
        let later = START + 2_000_000_000;
        assert_eq!(gate.looked(later, false), 0);
        assert_eq!(gate.looked(later, false), 0);
    }

    #[test]
    fn one_for_nothing_for_each_message_is_none_too_many() {
        let mut gate = Gate::new();
        for ring in 0..100_000 {
            assert_eq!(gate.looked(START + ring, ring % 2 == 0), 0);
        }
        // Nor are many at a pace that a user's console has.
        let looks = flood(&mut gate, START, 10_000, 1_000_000);
        assert_eq!(looks, 10_000);
    }

    #[test]
    fn messages_among_the_flood_open_it_again() {
        let mut gate = Gate::new();
        for _ in 0..IDLE_MAX {
            gate.looked(START, false);
        }
        assert_eq!(gate.looked(START, false), START + LOOK_NS);
        assert_eq!(gate.looked(START, true), 0);
        assert_eq!(gate.looked(START, false), START + LOOK_NS);
    }

    #[test]
    fn a_clock_that_stands_or_starts_anywhere() {
        let mut gate = Gate::new();
        for _ in 0..IDLE_MAX - 1 {
            assert_eq!(gate.looked(0, false), 0);
        }
        assert_eq!(gate.looked(0, false), LOOK_NS);
        assert_eq!(gate.looked(u64::MAX, false), 0);
        let mut budget = Budget::new();
        assert_eq!(budget.left(u64::MAX, 50), Left::Some);
        budget.use_up(u64::MAX);
        budget.use_up(u64::MAX);
        assert_eq!(budget.left(u64::MAX, 50), Left::SpentNow);
        assert_eq!(budget.left(0, 50), Left::Spent);
    }

    /// Nanoseconds that a link has in a second which takes all it gets, in pieces.
    fn had(percent: u32, piece_ns: u64) -> u64 {
        let (mut budget, mut now, mut sum) = (Budget::new(), START, 0);
        while now < START + 1_000_000_000 {
            match budget.left(now, percent) {
                Left::Some => {
                    budget.use_up(piece_ns);
                    sum += piece_ns;
                    now += piece_ns;
                }
                // A tick.
                _ => now += 4_000_000,
            }
        }
        sum
    }

    #[test]
    fn a_link_has_its_share_and_not_more() {
        for percent in [1, 25, 50, 75, 99] {
            for piece in [1_000, 300_000, 5_000_000] {
                let share = 10_000_000 * u64::from(percent);
                let had = had(percent, piece);
                assert!(had <= share + PERIOD_NS + piece);
                // Not less either, but for ticks that do not fit.
                assert!(had + 500_000_000 >= share);
            }
        }
        assert!(had(100, 300_000) >= 1_000_000_000);
    }

    #[test]
    fn many_links_have_the_share_together() {
        for links in [1, 2, 3, 7] {
            let (mut total, mut now, mut had) = (Budget::new(), START, [0; 7]);
            let mut budgets = [const { Budget::new() }; 7];
            // The last of them wants a little only.
            let quiet = links - 1;
            let mut refused = 0;
            while now < START + 1_000_000_000 {
                let before = now;
                for (link, budget) in budgets.iter_mut().enumerate().take(links) {
                    let piece = match link == quiet && links > 1 {
                        true => 10_000,
                        false => 300_000,
                    };
                    if budget.left_beside(&mut total, links, now, 75) == Left::Some {
                        budget.use_up(piece);
                        total.use_up(piece);
                        had[link] += piece;
                        now += piece;
                    } else if link == quiet {
                        refused += 1;
                    }
                }
                if now == before || links > 1 && now == before + 10_000 {
                    // A tick.
                    now += 4_000_000;
                }
            }
            let sum: u64 = had.iter().sum();
            assert!(sum <= 750_000_000 + 2 * PERIOD_NS);
            assert!(sum >= 500_000_000);
            if links > 1 {
                assert_eq!(refused, 0);
                // The others have the same, nearly.
                let (most, least) = (had[..quiet].iter().max(), had[..quiet].iter().min());
                assert!(most
                    .zip(least)
                    .is_some_and(|(most, least)| most - least <= PERIOD_NS));
            }
        }
    }

    #[test]
    fn told_once_in_a_period() {
        let mut budget = Budget::new();
        assert_eq!(budget.left(START, 50), Left::Some);
        budget.use_up(PERIOD_NS / 2);
        assert_eq!(budget.left(START, 50), Left::SpentNow);
        assert_eq!(budget.left(START + 1, 50), Left::Spent);
        let next = START + PERIOD_NS;
        assert_eq!(budget.left(next, 50), Left::Some);
        // Who has had two shares waits for a period.
        budget.use_up(PERIOD_NS);
        assert_eq!(budget.left(next, 50), Left::SpentNow);
        assert_eq!(budget.left(next + PERIOD_NS, 50), Left::SpentNow);
        assert_eq!(budget.left(next + 2 * PERIOD_NS, 50), Left::Some);
        // Not for longer, whatever the clock says.
        budget.use_up(PERIOD_NS * 100);
        assert_eq!(budget.left(next + 5 * PERIOD_NS, 50), Left::Some);
        // Unless the limit is taken away.
        budget.use_up(PERIOD_NS);
        assert_eq!(budget.left(next + 5 * PERIOD_NS, 100), Left::Some);
    }
}
