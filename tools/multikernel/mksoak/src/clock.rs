// SPDX-License-Identifier: GPL-2.0

//! Time that host and spawns share: the time-stamp counter, and the host's clock by it.

use std::arch::x86_64::_rdtsc;

use rustix::time::{clock_gettime, ClockId};

/// The time-stamp counter, which all kernels of a machine share.
pub fn tsc() -> u64 {
    // SAFETY: Every x86-64 CPU has the instruction, and Linux lets processes use it.
    unsafe { _rdtsc() }
}

/// The host's clock and the counter at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    tsc: u64,
    /// CLOCK_MONOTONIC in nanoseconds.
    pub ns: i64,
    khz: u32,
}

impl Clock {
    /// Reads both; the counter's frequency is in kHz.
    pub fn read(khz: u32) -> Self {
        let now = clock_gettime(ClockId::Monotonic);
        Self {
            tsc: tsc(),
            ns: now.tv_sec * 1_000_000_000 + now.tv_nsec,
            khz,
        }
    }

    /// CLOCK_MONOTONIC when the counter read `tsc`, in nanoseconds.
    pub fn at(&self, tsc: u64) -> i64 {
        let ticks = i128::from(tsc) - i128::from(self.tsc);
        self.ns + (ticks * 1_000_000 / i128::from(self.khz.max(1))) as i64
    }
}

/// Milliseconds from one time to another, both in nanoseconds.
pub fn milliseconds(from_ns: i64, to_ns: i64) -> f64 {
    (to_ns - from_ns) as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_is_converted() {
        let clock = Clock {
            tsc: 1_000_000,
            ns: 500,
            khz: 2_000_000,
        };
        assert_eq!(clock.at(1_000_000), 500);
        assert_eq!(clock.at(1_000_200), 600);
        assert_eq!(clock.at(999_800), 400);
        assert_eq!(milliseconds(1_000_000, 3_500_000), 2.5);
        assert!(Clock::read(1).ns > 0 && tsc() != tsc());
    }
}
