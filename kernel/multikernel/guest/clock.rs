// SPDX-License-Identifier: GPL-2.0

//! The clocks that the host hands over: what they are and the arithmetic on them.
//!
//! Pure; owns nothing and needs no lock. What they are put into is in `x86`.

/// Nanoseconds in a second.
const NSEC_PER_SEC: u64 = 1_000_000_000;

/// A wall-clock reading and the TSC when it was taken.
///
/// All CPUs of a machine count the same TSC; the kernels on them can compare values as long as no
/// one writes to `IA32_TSC_ADJUST`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wall {
    /// Seconds since 1970-01-01 UTC.
    pub(super) seconds: u64,
    /// Nanoseconds within the second, below 10^9.
    pub(super) nanoseconds: u32,
    /// TSC at that moment.
    pub(super) tsc: u64,
}

/// What the host knows about the clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Clock {
    /// TSC frequency in kHz.
    pub(super) tsc_khz: Option<u32>,
    /// Input clock of the local APIC timer in kHz, before its divider.
    pub(super) lapic_khz: Option<u32>,
    /// Wall clock.
    pub(super) wall: Wall,
}

impl Clock {
    /// Returns the wall clock, seconds and nanoseconds, when the TSC reads `tsc`.
    ///
    /// Without a known TSC frequency, or with a TSC from before the reading, that is the reading
    /// itself: late, but no worse than not knowing.
    pub(super) fn wall_at(&self, tsc: u64) -> (u64, u32) {
        let elapsed = tsc.saturating_sub(self.wall.tsc);
        let (seconds, nanoseconds) = match self.tsc_khz {
            Some(khz) if khz != 0 => {
                let hz = u64::from(khz) * 1000;
                // Below 2^42 * 10^6, which is below 2^62.
                (elapsed / hz, elapsed % hz * 1_000_000 / u64::from(khz))
            }
            _ => (0, 0),
        };
        let nanoseconds = u64::from(self.wall.nanoseconds) + nanoseconds;
        (
            self.wall
                .seconds
                .saturating_add(seconds)
                .saturating_add(nanoseconds / NSEC_PER_SEC),
            // CAST: the remainder is below 10^9.
            (nanoseconds % NSEC_PER_SEC) as u32,
        )
    }

    /// Returns the local APIC timer's input clocks in one tick of `hz`.
    ///
    /// `calibrate_APIC_clock()` multiplies what it counts by the divider, so this is the unit of
    /// `lapic_timer_period`.
    pub(super) fn lapic_period(&self, hz: u32) -> Option<u32> {
        let clocks = u64::from(self.lapic_khz?) * 1000;
        u32::try_from(clocks.checked_div(u64::from(hz))?).ok()
    }
}

#[cfg(any(test, CONFIG_MULTIKERNEL_KUNIT_TEST))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(multikernel_guest_clock))]
mod tests {
    use super::*;

    fn clock(tsc_khz: Option<u32>) -> Clock {
        Clock {
            tsc_khz,
            lapic_khz: Some(1_000_000),
            wall: Wall {
                seconds: 1_700_000_000,
                nanoseconds: 999_999_999,
                tsc: 1000,
            },
        }
    }

    #[test]
    fn wall_clock_moves_with_the_tsc() {
        let clock = clock(Some(2_000_000));
        assert_eq!(clock.wall_at(1000), (1_700_000_000, 999_999_999));
        assert_eq!(clock.wall_at(1002), (1_700_000_001, 0));
        assert_eq!(
            clock.wall_at(1002 + 3_000_000_000),
            (1_700_000_002, 500_000_000)
        );
    }

    #[test]
    fn wall_clock_never_runs_backwards_or_overflows() {
        let mut fast = clock(Some(u32::MAX));
        assert_eq!(fast.wall_at(0), (1_700_000_000, 999_999_999));
        assert!(fast.wall_at(u64::MAX).0 > 1_700_000_000);
        fast.wall.seconds = u64::MAX;
        assert_eq!(fast.wall_at(u64::MAX).0, u64::MAX);
        assert_eq!(clock(None).wall_at(u64::MAX), (1_700_000_000, 999_999_999));
    }

    #[test]
    fn lapic_period_is_exact_for_every_hz() {
        let clock = clock(None);
        assert_eq!(clock.lapic_period(1000), Some(1_000_000));
        // 1000 / 300 would lose a tenth.
        assert_eq!(clock.lapic_period(300), Some(3_333_333));
        assert_eq!(clock.lapic_period(0), None);
    }
}
