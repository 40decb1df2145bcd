// SPDX-License-Identifier: GPL-2.0

//! When a spawn that has ended is started again, and after what pause.
//!
//! Decisions only: who waits for the end and starts again is `mkctl run --restart`.

use std::str::FromStr;
use std::time::Duration;

use crate::device::{Reason, State};

/// The pause before the first restart in a row.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// What doubling the pause stops at.
const BACKOFF_LAST: Duration = Duration::from_secs(30);
/// A life of this length ends a row of restarts.
const LONG_LIFE: Duration = Duration::from_secs(10);

/// What is asked for: the words are those of container engines and systemd.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Policy {
    /// It stays as it ended.
    #[default]
    Never,
    /// It is started again unless it powered off.
    OnFailure,
    /// It is started again however it ended.
    Always,
}

impl Policy {
    /// The words of all policies.
    pub const WORDS: [&'static str; 3] = ["never", "on-failure", "always"];
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "never" => Ok(Self::Never),
            "on-failure" => Ok(Self::OnFailure),
            "always" => Ok(Self::Always),
            _ => Err(format!(
                "\"{text}\" is no restart policy: there are {}",
                Self::WORDS.join(", ")
            )),
        }
    }
}

/// How a spawn ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct End {
    /// The state that the instance is in now.
    pub state: State,
    /// The reason for it.
    pub reason: Reason,
    /// The host had asked it to power off: somebody wanted it to end.
    pub asked: bool,
}

/// What follows from an end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Start it again.
    Restart,
    /// Leave it; it ended as somebody wanted.
    Done,
    /// Leave it; it ended by a failure.
    GiveUp,
}

impl End {
    /// What the policy makes of it.
    pub fn verdict(self, policy: Policy) -> Verdict {
        if self.asked && self.reason == Reason::Poweroff {
            return Verdict::Done;
        }
        match (self.state, self.reason, policy) {
            // Somebody stopped, removed or reloaded it: it is theirs now.
            (State::Gone | State::Ready | State::Loaded | State::Empty, _, _)
            | (_, Reason::Forced, _) => Verdict::Done,
            // It cannot be started again before a CPU of it has confirmed.
            (State::Failed, _, _) | (_, Reason::NoConfirm, _) => Verdict::GiveUp,
            (_, Reason::Poweroff, Policy::Always) => Verdict::Restart,
            (_, Reason::Poweroff, _) => Verdict::Done,
            (_, _, Policy::OnFailure | Policy::Always) => Verdict::Restart,
            (_, _, Policy::Never) => Verdict::GiveUp,
        }
    }
}

/// Pauses between restarts, and how many there may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Backoff {
    next: Duration,
    left: Option<u32>,
}

impl Backoff {
    /// At most `limit` restarts, or as many as need be.
    pub fn new(limit: Option<u32>) -> Self {
        Self {
            next: BACKOFF_FIRST,
            left: limit,
        }
    }

    /// How long to wait before the next restart, after a life that took so long; `None` if there is
    /// to be no further one.
    pub fn pause(&mut self, life: Duration) -> Option<Duration> {
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(1)?;
        }
        if life >= LONG_LIFE {
            self.next = BACKOFF_FIRST;
        }
        let pause = self.next;
        self.next = (pause * 2).min(BACKOFF_LAST);
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn policies() {
        use Policy::{Always, Never, OnFailure};
        use Reason::{Forced, Hung, NoConfirm, Panic, Poweroff, Restart as Reboot};
        use State::{Crashed, Failed, Gone, Loaded, Ready, Stopped};
        use Verdict::{Done, GiveUp, Restart};

        for (state, reason, asked, never, on_failure, always) in [
            (Stopped, Poweroff, false, Done, Done, Restart),
            (Stopped, Poweroff, true, Done, Done, Done),
            (Stopped, Reboot, false, GiveUp, Restart, Restart),
            (Crashed, Panic, false, GiveUp, Restart, Restart),
            // Asked, it panicked on its way down.
            (Crashed, Panic, true, GiveUp, Restart, Restart),
            (Crashed, Hung, false, GiveUp, Restart, Restart),
            (Crashed, Reason::Unknown, false, GiveUp, Restart, Restart),
            (Stopped, Forced, false, Done, Done, Done),
            (Stopped, Forced, true, Done, Done, Done),
            (Failed, NoConfirm, false, GiveUp, GiveUp, GiveUp),
            (Gone, Reason::None, false, Done, Done, Done),
            (Ready, Reason::None, false, Done, Done, Done),
            (Loaded, Reason::None, false, Done, Done, Done),
        ] {
            let end = End {
                state,
                reason,
                asked,
            };
            assert_eq!(end.verdict(Never), never, "{end:?} never");
            assert_eq!(end.verdict(OnFailure), on_failure, "{end:?} on-failure");
            assert_eq!(end.verdict(Always), always, "{end:?} always");
        }
    }

    #[test]
    fn words() {
        let all = [Policy::Never, Policy::OnFailure, Policy::Always];
        for (word, policy) in Policy::WORDS.into_iter().zip(all) {
            assert_eq!(word.parse(), Ok(policy));
        }
        let error = "no".parse::<Policy>().unwrap_err();
        assert!(error.contains("never, on-failure, always"), "{error}");
    }

    #[test]
    fn the_pause_doubles_up_to_its_bound() {
        let mut backoff = Backoff::new(None);
        let mut pauses = || backoff.pause(Duration::ZERO).unwrap().as_millis();
        let first: Vec<_> = (0..11).map(|_| pauses()).collect();
        assert_eq!(
            first,
            [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000]
        );
        let long = backoff.pause(Duration::from_secs(10)).unwrap();
        assert_eq!(long.as_millis(), 100);
        let short = backoff.pause(Duration::from_millis(9999)).unwrap();
        assert_eq!(short.as_millis(), 200);
    }

    #[test]
    fn the_limit_counts_all_restarts() {
        assert_eq!(Backoff::new(Some(0)).pause(Duration::ZERO), None);
        let mut backoff = Backoff::new(Some(2));
        assert!(backoff.pause(Duration::from_secs(100)).is_some());
        assert!(backoff.pause(Duration::from_secs(100)).is_some());
        assert_eq!(backoff.pause(Duration::from_secs(100)), None);
        assert_eq!(backoff.pause(Duration::from_secs(100)), None);
    }

    proptest! {
        #[test]
        fn pauses_stay_in_their_bounds(
            lives in proptest::collection::vec(0u64..20_000, 1..64),
            limit in proptest::option::of(0u32..80),
        ) {
            let mut backoff = Backoff::new(limit);
            let mut before = None;
            let mut count = 0;
            for life in &lives {
                let life = Duration::from_millis(*life);
                let Some(pause) = backoff.pause(life) else { break };
                count += 1;
                prop_assert!((BACKOFF_FIRST..=BACKOFF_LAST).contains(&pause));
                match before {
                    Some(before) if life < LONG_LIFE => {
                        prop_assert_eq!(pause, Duration::min(before * 2, BACKOFF_LAST));
                    }
                    _ => prop_assert_eq!(pause, BACKOFF_FIRST),
                }
                before = Some(pause);
            }
            let most = limit.map_or(lives.len(), |limit| lives.len().min(limit as usize));
            prop_assert_eq!(count, most);
        }
    }
}
