// SPDX-License-Identifier: GPL-2.0

//! Keeps the host's CPU hotplug away from lent CPUs.
//!
//! To bring a CPU online the host sends it INIT, which would end the spawn kernel that runs there.
//! So a callback at the head of the bring-up path refuses CPUs that the ledger says are lent. It
//! takes the registry's mutex under the CPU hotplug lock. And what other kernels send to a CPU that
//! goes offline is from then on for another one to take.

use kernel::{
    bindings,
    error::to_result,
    ffi::{c_int, c_uint},
    prelude::*, //
};

use crate::{
    cpu_ledger::CpuOwner,
    link::inbox,
    registry::Subsystem, //
};

/// # Safety
///
/// Called by the hotplug core, in process context.
unsafe extern "C" fn prepare(cpu: c_uint) -> c_int {
    let Ok(subsystem) = Subsystem::get() else {
        return 0;
    };
    match subsystem.lock().cpus.owner(cpu) {
        None | Some(CpuOwner::Returning(_)) => 0,
        Some(CpuOwner::Lending(id) | CpuOwner::Instance(id)) => {
            pr_notice!(
                "CPU {} is lent to instance {} and cannot be brought online\n",
                cpu,
                id.get()
            );
            EBUSY.to_errno()
        }
    }
}

/// # Safety
///
/// Called by the hotplug core, on a CPU that is up.
unsafe extern "C" fn online(cpu: c_uint) -> c_int {
    inbox::cpu_changed(cpu, true);
    0
}

/// # Safety
///
/// Called by the hotplug core, on a CPU that is about to go.
unsafe extern "C" fn offline(cpu: c_uint) -> c_int {
    inbox::cpu_changed(cpu, false);
    0
}

/// Has the messages for a CPU that goes taken by another one, for good.
///
/// # Errors
///
/// Those of `cpuhp_setup_state()`.
pub(crate) fn watch_for_messages() -> Result {
    // SAFETY: The name is static and so are the functions, of the type that this state expects.
    let state = unsafe {
        bindings::__cpuhp_setup_state(
            bindings::cpuhp_state_CPUHP_AP_ONLINE_DYN,
            c"multikernel:online".as_char_ptr(),
            false,
            Some(online),
            Some(offline),
            false,
        )
    };
    to_result(state.min(0))
}

/// Installs the callback, for good.
///
/// # Errors
///
/// `ENOSPC` if the hotplug core has no room.
pub(crate) fn watch() -> Result {
    // SAFETY: The name is static and the callback stays valid; it is not called from here.
    let state = unsafe {
        bindings::multikernel_cpuhp_setup(
            bindings::cpuhp_state_CPUHP_BP_PREPARE_DYN,
            c"multikernel:prepare".as_char_ptr(),
            Some(prepare),
        )
    };
    to_result(state.min(0))
}
