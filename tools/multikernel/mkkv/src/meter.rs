// SPDX-License-Identifier: GPL-2.0

//! How many answers came, and for how long none did.
//!
//! An *interruption* begins when a connection breaks, and is as long as from the last answer that
//! anybody had before to the first one that anybody has by a connection made since. Connections
//! know by which interruption they were made, so that one that breaks late, of those from before,
//! is no further interruption.

use std::time::{Duration, Instant};

/// Between which interruptions a connection was made.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Era(u64);

/// The meter of all writers.
#[derive(Debug)]
pub struct Meter {
    start: Instant,
    era: Era,
    broken: bool,
    last: Instant,
    /// Acknowledged writes.
    pub acknowledged: u64,
    /// How long each interruption was.
    pub interruptions: Vec<Duration>,
}

impl Meter {
    /// From this moment on.
    pub fn new(start: Instant) -> Self {
        Self {
            start,
            era: Era(0),
            broken: false,
            last: start,
            acknowledged: 0,
            interruptions: Vec::new(),
        }
    }

    /// What a connection that is made now is of.
    pub fn era(&self) -> Era {
        Era(self.era.0 + u64::from(self.broken))
    }

    /// An answer came; returns the interruption that it ended.
    pub fn answered(&mut self, era: Era, now: Instant) -> Option<Duration> {
        let mut ended = None;
        if self.broken && era > self.era {
            let gap = now.saturating_duration_since(self.last);
            self.interruptions.push(gap);
            self.broken = false;
            self.era = era;
            ended = Some(gap);
        }
        self.last = self.last.max(now);
        ended
    }

    /// A connection broke.
    pub fn broke(&mut self, era: Era) {
        if era == self.era {
            self.broken = true;
        }
    }

    /// How long there has been no answer.
    pub fn silence(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last)
    }

    /// How long it has run.
    pub fn elapsed(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.start)
    }
}

/// Of sorted values the one that `part` of them are not above, by nearest rank.
pub fn quantile(sorted: &[f64], part: f64) -> Option<f64> {
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn an_interruption_is_from_answer_to_answer() {
        let start = Instant::now();
        let mut meter = Meter::new(start);
        let (one, two) = (meter.era(), meter.era());
        assert_eq!(meter.answered(one, start + 10 * MS), None);
        meter.broke(one);
        // What was on its way already.
        assert_eq!(meter.answered(two, start + 11 * MS), None);
        let again = meter.era();
        assert!(again > one);
        // A connection that comes to nothing.
        meter.broke(again);
        assert_eq!(meter.era(), again);
        assert_eq!(meter.answered(again, start + 61 * MS), Some(50 * MS));
        // The second one finds out late.
        meter.broke(two);
        assert_eq!(meter.answered(meter.era(), start + 70 * MS), None);
        assert_eq!(meter.interruptions, [50 * MS]);
        // The next one.
        meter.broke(again);
        meter.broke(again);
        let third = meter.era();
        assert_eq!(meter.answered(third, start + 75 * MS), Some(5 * MS));
        assert_eq!(meter.silence(start + 80 * MS), 5 * MS);
        assert_eq!(meter.elapsed(start + 80 * MS), 80 * MS);
    }

    #[test]
    fn quantiles() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(quantile(&values, 0.5), Some(50.0));
        assert_eq!(quantile(&values, 0.99), Some(99.0));
        assert_eq!(quantile(&values, 1.0), Some(100.0));
        assert_eq!(quantile(&[3.0], 0.99), Some(3.0));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
