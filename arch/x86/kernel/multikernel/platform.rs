// SPDX-License-Identifier: GPL-2.0

//! Clocks and modes of this machine that a spawn or its loader is told.
//!
//! Reads only, and needs no lock.

use kernel::{
    bindings,
    prelude::*, //
};

/// TSC frequency in kHz, 0 if the host does not know it.
pub(crate) fn tsc_khz() -> u32 {
    // SAFETY: A plain read of an integer that is written during boot only.
    unsafe { bindings::multikernel_tsc_khz() }
}

/// Input clock of the local APIC timer in kHz, 0 if the host has not measured it.
pub(crate) fn lapic_khz() -> u32 {
    // SAFETY: As for `tsc_khz`. The unit is clocks per tick of the kernel, before the divider
    // (calibrate_APIC_clock() in arch/x86/kernel/apic/apic.c).
    let period = unsafe { bindings::multikernel_lapic_timer_period() };
    let hertz = u64::from(period) * u64::from(bindings::CONFIG_HZ);
    u32::try_from(hertz / 1000).unwrap_or(0)
}

/// The wall clock, and the TSC at the same moment.
pub(crate) struct WallClock {
    /// Seconds since 1970-01-01 UTC.
    pub(crate) seconds: u64,
    /// Nanoseconds within the second.
    pub(crate) nanoseconds: u32,
    /// The TSC.
    pub(crate) tsc: u64,
}

/// Reads the wall clock and the TSC.
pub(crate) fn wall_clock() -> WallClock {
    let mut now = bindings::timespec64::default();
    // SAFETY: `now` is a valid place to write to; reading the TSC has no precondition.
    let tsc = unsafe {
        bindings::ktime_get_real_ts64(&mut now);
        bindings::multikernel_rdtsc()
    };
    WallClock {
        seconds: u64::try_from(now.tv_sec).unwrap_or(0),
        nanoseconds: u32::try_from(now.tv_nsec).unwrap_or(0),
        tsc,
    }
}

/// That this machine can run instances at all.
///
/// # Errors
///
/// `EOPNOTSUPP` where memory is encrypted by the CPU: page tables and trampoline would have to
/// carry the encryption bit, and a spawn could not read what the host wrote.
pub(crate) fn check_machine() -> Result {
    // SAFETY: Only reads platform state that is fixed since boot.
    if unsafe { bindings::multikernel_memory_encrypted() } {
        return Err(EOPNOTSUPP);
    }
    Ok(())
}
