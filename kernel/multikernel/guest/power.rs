// SPDX-License-Identifier: GPL-2.0

//! How a spawn ends: it tells the host, and idles until the host takes its CPUs back.
//!
//! Restart, halt, power-off and panic of a kernel that has a machine to itself reset the machine.
//! A spawn's leave behind what a post-mortem needs (the panic's message, the registers of all
//! CPUs), write one word to the shared area and ring the host. The first last word stands: a panic
//! stays a panic when the panicking CPU then asks for a restart.
//!
//! Owns `guest_state` and everything else in the shared area that is about the end; no lock.

use kernel::{
    bindings,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Full,
            Relaxed, //
        },
        SetOnce, //
    }, //
};

use super::{
    header::Doorbell,
    shared,
    x86, //
};
use crate::{
    abi::{
        self,
        CpuRegisters, //
    },
    link::peer,
    notifier::Notifier, //
};

/// The last `guest_state` that was published.
static STATE: Atomic<u32> = Atomic::new(abi::GUEST_SILENT);

/// The host's doorbell. Set once the local APIC can be used, if the host has one.
static HOST: SetOnce<Doorbell> = SetOnce::new();

/// Comes last, so that what other notifiers print is in the ring before the host hears of it.
static NOTIFIER: Notifier = Notifier::new(panicked, c_int::MIN);

/// Puts ourselves where a kernel ends; early, for it may end at any moment.
pub(super) fn setup() {
    x86::replace_machine_ops();
    if NOTIFIER.watch_panic().is_err() {
        pr_err!("the host will take a panic for a restart\n");
    }
}

/// From now on changes of the state ring the host.
pub(super) fn set_host(host: Doorbell) {
    HOST.populate(host);
}

/// Tells the host that guest support is up. Everything it stands for must have been published.
pub(super) fn announce_running() {
    // Whoever was last before this stays so.
    if STATE
        .cmpxchg(abi::GUEST_SILENT, abi::GUEST_RUNNING, Full)
        .is_ok()
    {
        publish(abi::GUEST_RUNNING);
    }
}

/// Notes that this kernel has ended, and how: one of the states after `GUEST_RUNNING`.
fn note_end(state: u32) {
    loop {
        let old = STATE.load(Relaxed);
        if old > abi::GUEST_RUNNING || STATE.cmpxchg(old, state, Full).is_ok() {
            return;
        }
    }
}

/// Has a panic go on to [`end`] at once: nothing there resets the machine, and the host knows best
/// what comes next.
pub(super) fn end_on_panic() {
    // SAFETY: An aligned integer, which is written in one piece. Beside the sysctl that sets it,
    // only `panic()` reads it.
    unsafe { (&raw mut bindings::panic_timeout).write_volatile(-1) };
}

/// Writes the state to the shared area and rings the host.
fn publish(state: u32) {
    if state > abi::GUEST_RUNNING {
        peer::leave_host();
    }
    if let Some(area) = shared::area() {
        area.set_guest_state(state);
    }
    if let Some(host) = HOST.as_ref() {
        x86::ring(host.apic_id, host.vector);
    }
}

/// Called by `panic()` once the other CPUs are stopped and the message is printed.
///
/// Only notes it: what is printed after this is to be in the ring before the host, which will park
/// this CPU, hears of it. It hears from [`end`], which comes last as there is no `panic_timeout`.
///
/// # Safety
///
/// `message` must be null or a zero-terminated string.
unsafe extern "C" fn panicked(
    _block: *mut bindings::notifier_block,
    _event: usize,
    message: *mut c_void,
) -> c_int {
    note_end(abi::GUEST_PANIC);
    // User space may have set another one since, by which this kernel would wait, or stay.
    end_on_panic();
    if let (Some(area), false) = (shared::area(), message.is_null()) {
        // SAFETY: Not null, so it is a string by the caller's promise; it is a buffer of `panic()`
        // that no longer changes.
        let message = unsafe { CStr::from_char_ptr(message.cast::<c_char>()) };
        area.set_end_message(message.to_bytes());
    }
    // CAST: a small constant.
    bindings::NOTIFY_DONE as c_int
}

/// Asks user space to power off, and powers off without it if it cannot be asked.
pub(super) fn orderly_poweroff() {
    // SAFETY: May be called from any context.
    unsafe { bindings::orderly_poweroff(true) };
}

/// What a kernel that has a machine to itself does with the machine.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// `reboot(2)` with RESTART.
    Restart,
    /// `reboot(2)` with POWER_OFF or HALT.
    PowerOff,
    /// A restart in the middle of something: after a panic, or by SysRq-B.
    EmergencyRestart,
}

/// Leaves behind the registers of a CPU.
pub(super) fn keep_registers(cpu: u32, registers: &CpuRegisters) {
    if let Some(area) = shared::area() {
        area.set_registers(cpu, registers);
    }
}

/// Ends this kernel.
pub(super) fn end(end: End) -> ! {
    match end {
        End::Restart | End::PowerOff => x86::shutdown(),
        End::EmergencyRestart => x86::stop_other_cpus(),
    }
    let cpu = x86::this_cpu();
    // Here, and not where the panic was noticed: the stack above this is that of `panic()` and
    // stays what it is for whoever reads the dump.
    keep_registers(cpu, &x86::own_registers());
    if let Some(area) = shared::area() {
        area.set_end_cpu(x86::apic_id(cpu));
    }
    note_end(match end {
        End::Restart | End::EmergencyRestart => abi::GUEST_RESTART,
        End::PowerOff => abi::GUEST_POWEROFF,
    });
    publish(STATE.load(Relaxed));
    x86::idle_for_good()
}
