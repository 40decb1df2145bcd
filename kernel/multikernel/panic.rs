// SPDX-License-Identifier: GPL-2.0

//! The host's panic, and what becomes of the instances.
//!
//! By default nothing: a spawn is a kernel of its own, at work, and needs nothing of the host to go
//! on. Nothing in a panic reaches it either, as all interrupts that stop the host's CPUs are sent
//! to its online CPUs one by one. What then resets the machine, `panic=N` or a crash kernel that is
//! done, ends the spawns with it.
//!
//! With `multikernel.stop_on_panic=1` every lent CPU gets INIT instead, before a crash kernel is
//! entered and before the panic notifiers: for machines where something that the spawns share with
//! the host, an arena of memory or a device, must not be changed any more when the host is dead.
//! The CPUs then wait for a SIPI and touch no memory.
//!
//! Everything here runs in a kernel that has failed: no lock is taken, nothing is allocated. It
//! goes by [`cpu::halt_all_for_good`], which needs neither.

use kernel::{
    bindings,
    ffi::{c_int, c_ulong, c_void},
    prelude::*, //
};

use crate::{
    arch::crash,
    cpu,
    module_parameters,
    notifier::Notifier, //
};

/// Before those that could fail themselves.
static NOTIFIER: Notifier = Notifier::new(notify, c_int::MAX);

fn stop_all() {
    let count = cpu::halt_all_for_good();
    if count != 0 {
        pr_emerg!(
            "the host's kernel has failed: {} lent CPUs stopped\n",
            count
        );
    }
}

/// # Safety
///
/// Called by `panic()`, on the only CPU that the host still runs on.
unsafe extern "C" fn notify(
    _block: *mut bindings::notifier_block,
    _event: c_ulong,
    _message: *mut c_void,
) -> c_int {
    stop_all();
    bindings::NOTIFY_DONE as c_int
}

/// Sets up what `multikernel.stop_on_panic` asks for.
///
/// # Errors
///
/// What the notifier core says.
pub(crate) fn watch() -> Result {
    if !*module_parameters::stop_on_panic.value_ref() {
        return Ok(());
    }
    pr_info!("a panic of the host will stop all instances\n");
    // panic() enters a crash kernel before it calls notifiers.
    match crash::call_before_crash_kernel(stop_all) {
        // Without CONFIG_CRASH_DUMP there is no crash kernel, and nothing to come before.
        Ok(()) | Err(EOPNOTSUPP) => {}
        Err(error) => return Err(error),
    }
    NOTIFIER.watch_panic()
}
