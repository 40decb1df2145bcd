// SPDX-License-Identifier: GPL-2.0

//! No suspend and no hibernation while there are instances.
//!
//! Suspend to RAM takes power from lent CPUs as well, and nobody brings their kernels back.
//! Hibernation saves lent memory while it is being changed, and a restored image has the CPUs where
//! it remembers them. Suspend to idle would leave lent CPUs running, but not the host that looks
//! after them; a notifier cannot tell it from the others, so it is refused as well.
//!
//! While the host is on its way to sleep and back no instance comes into being: what the notifier
//! found has to stay true. Both are decided under the registry's mutex.

use kernel::{
    bindings,
    ffi::{c_int, c_ulong, c_void},
    prelude::*, //
};

use crate::{
    notifier::Notifier,
    registry::Subsystem, //
};

/// First: what is refused need not be undone by others.
static NOTIFIER: Notifier = Notifier::new(notify, c_int::MAX);

/// # Safety
///
/// Called by the power management notifier chain, in process context.
unsafe extern "C" fn notify(
    _block: *mut bindings::notifier_block,
    action: c_ulong,
    _data: *mut c_void,
) -> c_int {
    let result = match (action as u32, Subsystem::get()) {
        (
            bindings::PM_SUSPEND_PREPARE
            | bindings::PM_HIBERNATION_PREPARE
            | bindings::PM_RESTORE_PREPARE,
            Ok(subsystem),
        ) => prepare(subsystem),
        (
            bindings::PM_POST_SUSPEND | bindings::PM_POST_HIBERNATION | bindings::PM_POST_RESTORE,
            Ok(subsystem),
        ) => {
            let mut registry = subsystem.lock();
            registry.sleepers = registry.sleepers.saturating_sub(1);
            Ok(())
        }
        _ => Ok(()),
    };
    match result {
        Ok(()) => bindings::NOTIFY_DONE as c_int,
        // As notifier_from_errno(): the errno is what the write to /sys/power/state fails with.
        Err(error) => {
            bindings::NOTIFY_STOP_MASK as c_int | (bindings::NOTIFY_OK as c_int - error.to_errno())
        }
    }
}

/// # Errors
///
/// `EBUSY` if there is an instance, whatever its state: it has CPUs and memory.
fn prepare(subsystem: &Subsystem) -> Result {
    let mut registry = subsystem.lock();
    if let Some(instance) = registry.instances.first() {
        pr_notice!(
            "no suspend while instance {} has CPUs and memory ({} in all); remove it first\n",
            instance.name.as_str(),
            registry.instances.len()
        );
        return Err(EBUSY);
    }
    // Counted: a hibernation from user space is prepared long before it happens, and there may be
    // an ordinary suspend in between.
    registry.sleepers += 1;
    Ok(())
}

/// Has the host ask before it goes to sleep.
///
/// # Errors
///
/// What the notifier core says.
pub(crate) fn watch() -> Result {
    NOTIFIER.watch_suspend()
}
