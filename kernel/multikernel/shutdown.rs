// SPDX-License-Identifier: GPL-2.0

//! The end of the host while instances run: reboot, halt, kexec.
//!
//! A reboot notifier runs before devices are shut down, in all three cases. It closes the registry,
//! so that nothing new begins, asks every spawn kernel to power off, waits a bounded time, stops
//! the rest by force, and leaves all lent CPUs waiting for a SIPI: in that state they need none of
//! the memory that the next kernel will overwrite.

use kernel::{
    bindings,
    ffi::{c_int, c_ulong, c_void},
    prelude::*,
    time::{delay::fsleep, Delta, Instant, Monotonic}, //
};

use crate::{
    cpu,
    instance::{Handle, Reason, State},
    notifier::Notifier,
    registry::{Purpose, Subsystem},
    run, //
};

/// How long each step may take: calls in flight, spawns that power off, a forced stop.
const GRACE_MS: i64 = 5000;

/// Before those of drivers, whose devices an instance may be using.
static NOTIFIER: Notifier = Notifier::new(notify, c_int::MAX);

/// # Safety
///
/// Called by the reboot notifier chain, in process context.
unsafe extern "C" fn notify(
    _block: *mut bindings::notifier_block,
    _action: c_ulong,
    _data: *mut c_void,
) -> c_int {
    if let Ok(subsystem) = Subsystem::get() {
        end_all(subsystem);
    }
    bindings::NOTIFY_DONE as c_int
}

/// Has [`end_all`] called at reboot, halt and kexec.
///
/// # Errors
///
/// What the notifier core says.
pub(crate) fn watch() -> Result {
    NOTIFIER.watch_reboot()
}

/// How often to look whether something has come to its end.
const INTERVAL: Delta = Delta::from_millis(2);

/// Waits until `done` says so, at most `milliseconds`. Whether it did.
fn wait_for(milliseconds: i64, mut done: impl FnMut() -> bool) -> bool {
    let start = Instant::<Monotonic>::now();
    while !done() {
        if start.elapsed().as_millis() >= milliseconds {
            return false;
        }
        fsleep(INTERVAL);
    }
    true
}

/// That no call works on any instance: all holdings are where they belong, and no CPUs on their
/// way.
fn is_quiet(subsystem: &Subsystem) -> bool {
    let registry = subsystem.lock();
    registry
        .instances
        .iter()
        .all(|instance| instance.holdings.is_some() && !instance.gains)
}

/// The first instance with a serial number above `seen` whose spawn may still run.
fn next_live(subsystem: &Subsystem, seen: u64) -> Option<Handle> {
    let registry = subsystem.lock();
    registry
        .instances
        .iter()
        .filter(|instance| {
            matches!(
                instance.state,
                State::Running | State::Stopping | State::Failed
            )
        })
        .map(|instance| instance.handle())
        .find(|handle| handle.serial > seen)
}

/// Asks all spawns to power off at once. How many look at the request.
fn ask_all(subsystem: &Subsystem) -> usize {
    let registry = subsystem.lock();
    registry
        .instances
        .iter()
        .filter(|instance| instance.state == State::Running && instance.holdings.is_some())
        .filter(|instance| {
            pr_notice!(
                "asking instance {} to power off before the host ends\n",
                instance.name.as_str()
            );
            run::ask_to_end(instance).is_ok()
        })
        .count()
}

fn count_asked_live(subsystem: &Subsystem) -> usize {
    let registry = subsystem.lock();
    registry
        .instances
        .iter()
        .filter(|instance| matches!(instance.state, State::Running | State::Stopping))
        .filter(|instance| run::looks_at_requests(instance))
        .count()
}

fn end_all(subsystem: &Subsystem) {
    let mut registry = subsystem.lock();
    registry.ending = true;
    drop(registry);
    if !wait_for(GRACE_MS, || is_quiet(subsystem)) {
        pr_warn!("a call on an instance does not come to its end\n");
    }
    if ask_all(subsystem) != 0 {
        wait_for(GRACE_MS, || count_asked_live(subsystem) == 0);
    }

    let mut unstopped = 0;
    let mut seen = 0;
    while let Some(handle) = next_live(subsystem, seen) {
        seen = handle.serial;
        // EBUSY: its own end is being worked on at this moment.
        let mut result = Ok(());
        wait_for(GRACE_MS, || {
            result = run::stop(subsystem, handle, Purpose::Stop, Reason::Forced).map(|_| ());
            !matches!(result, Err(EBUSY))
        });
        if matches!(result, Err(EBUSY | ETIMEDOUT)) {
            unstopped += 1;
            pr_emerg!("instance {} could not be stopped\n", handle.id.get());
        }
    }
    let registry = subsystem.lock();
    for instance in &registry.instances {
        if matches!(instance.state, State::Stopped | State::Crashed) {
            pr_notice!(
                "instance {} has ended: {:?}\n",
                instance.name.as_str(),
                instance.reason
            );
        }
    }
    drop(registry);
    // All of them, stopped in order or not: what they run on will be overwritten.
    cpu::halt_all_for_good();
    if unstopped != 0 && kexec_in_progress() {
        pr_emerg!(
            "{} instances may still write to memory: no kexec, the machine is reset\n",
            unstopped
        );
        // SAFETY: Nothing else is to be done by this kernel.
        unsafe { bindings::emergency_restart() };
    }
}

/// Whether the next kernel is about to be entered without a reset of the machine.
fn kexec_in_progress() -> bool {
    // SAFETY: Set before the notifiers are called, by who calls them.
    unsafe { bindings::multikernel_kexec_in_progress() }
}
