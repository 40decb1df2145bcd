// SPDX-License-Identifier: GPL-2.0

//! Entries of the kernel's notifier chains.
//!
//! A [`Notifier`] is static and registered for good, so that nobody has to take it off a chain. The
//! chain alone writes to it, under a lock of its own.

use core::ptr;

use kernel::{
    bindings,
    error::to_result,
    ffi::{c_int, c_ulong, c_void},
    prelude::*,
    types::Opaque, //
};

/// What a chain calls: with its own entry, what happens, and something that depends on the chain.
pub(crate) type Call =
    unsafe extern "C" fn(*mut bindings::notifier_block, c_ulong, *mut c_void) -> c_int;

/// An entry of a notifier chain.
#[repr(transparent)]
pub(crate) struct Notifier(Opaque<bindings::notifier_block>);

// SAFETY: Once it is registered the notifier core alone accesses it, under its own lock; before,
// nobody does.
unsafe impl Sync for Notifier {}

impl Notifier {
    /// An entry that has `call` called; the higher its priority, the earlier.
    pub(crate) const fn new(call: Call, priority: c_int) -> Self {
        Self(Opaque::new(bindings::notifier_block {
            notifier_call: Some(call),
            next: ptr::null_mut(),
            priority,
        }))
    }

    /// Puts it on the chain of reboot, halt and kexec.
    ///
    /// # Errors
    ///
    /// `EEXIST` if it is there already.
    pub(crate) fn watch_reboot(&'static self) -> Result {
        // SAFETY: The entry is static and the core refuses one that it has.
        to_result(unsafe { bindings::register_reboot_notifier(self.0.get()) })
    }

    /// Puts it on the chain of suspend and hibernation.
    ///
    /// # Errors
    ///
    /// As [`Self::watch_reboot`].
    #[cfg(CONFIG_PM_SLEEP)]
    pub(crate) fn watch_suspend(&'static self) -> Result {
        // SAFETY: As in `watch_reboot`.
        to_result(unsafe { bindings::register_pm_notifier(self.0.get()) })
    }

    /// Puts it on the chain of `panic()`, which calls it on the only CPU that still runs.
    ///
    /// # Errors
    ///
    /// As [`Self::watch_reboot`].
    pub(crate) fn watch_panic(&'static self) -> Result {
        // SAFETY: As in `watch_reboot`; the chain is static as well.
        to_result(unsafe {
            bindings::atomic_notifier_chain_register(
                &raw mut bindings::panic_notifier_list,
                self.0.get(),
            )
        })
    }
}
