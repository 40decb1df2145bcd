// SPDX-License-Identifier: GPL-2.0

//! The moment before a crash kernel takes the machine.
//!
//! `machine_ops.crash_shutdown` is called by `__crash_kexec()` on the CPU that failed, while IPIs
//! can still be sent; paravirtualized platforms replace it as well (`hv_machine_crash_shutdown()`).
//! It is written during boot only, and needs no lock.

use kernel::{
    bindings,
    prelude::*,
    sync::SetOnce, //
};

type Shutdown = unsafe extern "C" fn(*mut bindings::pt_regs);

/// What was there before, and what is called first.
static CHAIN: SetOnce<(Shutdown, fn())> = SetOnce::new();

/// Has `first` called before a crash kernel is entered. To be called once, by an initcall.
///
/// # Errors
///
/// `EBUSY` if it was called before; `EOPNOTSUPP` if the platform has nothing to go on to.
pub(crate) fn call_before_crash_kernel(first: fn()) -> Result {
    // SAFETY: `machine_ops` is written by nobody else while initcalls run.
    let before = unsafe { bindings::machine_ops.crash_shutdown };
    if !CHAIN.populate((before.ok_or(EOPNOTSUPP)?, first)) {
        return Err(EBUSY);
    }
    // SAFETY: As above; it is read-only only after all initcalls.
    unsafe { bindings::machine_ops.crash_shutdown = Some(shutdown) };
    Ok(())
}

/// `machine_ops::crash_shutdown`.
///
/// # Safety
///
/// As for what was there before.
unsafe extern "C" fn shutdown(registers: *mut bindings::pt_regs) {
    if let Some((before, first)) = CHAIN.as_ref() {
        first();
        // SAFETY: Passed on to the caller.
        unsafe { before(registers) };
    }
}
