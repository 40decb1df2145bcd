// SPDX-License-Identifier: GPL-2.0

//! Looking after running spawns: whether they still take interrupts, and whether one has ended
//! without being able to ring.
//!
//! A work item that runs as long as an instance does whose spawn is to be watched. What it knows
//! of each is in [`crate::pulse`], guarded by the registry's mutex.

use core::mem::{offset_of, size_of};

use kernel::{
    prelude::*,
    time::msecs_to_jiffies, //
};

use crate::{
    abi::{self, CpuBeat, SharedHeader},
    arch::apic,
    event,
    instance::{Handle, Instance, Reason, State},
    memory::SharedPages,
    pulse,
    registry::{Purpose, Subsystem},
    run,
    version, //
};

/// Milliseconds after which the work item looks again, whatever is due when: so that a spawn which
/// is started with a short bound waits no longer for its first round.
const LONGEST_MS: u64 = 1000;

/// Milliseconds after which it looks again at the earliest: a round that is due is not done while
/// somebody has the instance in hand.
const SHORTEST_MS: u64 = 10;

/// A spawn has been started, whose CPUs may stay silent for so long.
pub(crate) fn begin(limit_ms: Option<u32>) {
    if let Some(limit_ms) = limit_ms {
        let round_ms = (limit_ms / pulse::ROUNDS).min(LONGEST_MS as u32);
        Subsystem::schedule_watch(msecs_to_jiffies(round_ms));
    }
}

/// Looks after all running spawns once, and has itself called again while there is one.
pub(crate) fn look(subsystem: &Subsystem) {
    let mut seen = 0;
    while let Some((handle, epoch)) = next_hung(subsystem, seen) {
        seen = handle.serial;
        pr_notice!(
            "instance {} is hung: a CPU takes no interrupts\n",
            handle.id.get()
        );
        // It may have found its last words meanwhile; those count.
        let same =
            |instance: &Instance| instance.epoch == epoch && run::last_words(instance).is_none();
        match run::stop_if(subsystem, handle, Purpose::Stop, Reason::Hung, same) {
            // The others: somebody else is at it.
            Ok(_) | Err(EBUSY | EALREADY | ESTALE) => {}
            Err(error) => pr_err!(
                "instance {} hangs and could not be stopped: {}\n",
                handle.id.get(),
                error.to_errno()
            ),
        }
    }
    if let Some(delay_ms) = next_round_ms(subsystem) {
        // CAST: Not above `LONGEST_MS`.
        Subsystem::schedule_watch(msecs_to_jiffies(delay_ms as u32));
    }
    Subsystem::schedule_reap();
}

/// Does the rounds that are due; the first instance with a serial number above `seen` that is hung.
fn next_hung(subsystem: &Subsystem, seen: u64) -> Option<(Handle, u32)> {
    let mut registry = subsystem.lock();
    // Now, and not before somebody else had the lock: the rounds must not come closer together.
    let now = event::now();
    registry
        .instances
        .iter_mut()
        .filter(|instance| instance.serial > seen && is_watched(instance))
        .find_map(|instance| {
            // The log says it if its kernel has another version; nothing else comes of it here.
            let _ = version::check(instance);
            is_hung(instance, now).then(|| (instance.handle(), instance.epoch))
        })
}

fn is_watched(instance: &Instance) -> bool {
    instance.state == State::Running && instance.pulse.limit_ms().is_some()
}

/// Milliseconds until the next round of any instance; `None` if none is watched.
fn next_round_ms(subsystem: &Subsystem) -> Option<u64> {
    let registry = subsystem.lock();
    let now = event::now();
    registry
        .instances
        .iter()
        .filter(|instance| is_watched(instance))
        .filter_map(|instance| instance.pulse.due_ns())
        .map(|due| (due.saturating_sub(now) / 1_000_000).clamp(SHORTEST_MS, LONGEST_MS))
        .min()
}

/// Does one round, if it is due.
fn is_hung(instance: &mut Instance, now: u64) -> bool {
    // Somebody works on it: nothing is due as long as its CPUs may be anywhere.
    if instance.holdings.is_none() {
        return false;
    }
    let word = |offset: usize| instance.shared.read_u32(offset as u64);
    let features = instance
        .shared
        .read_u64(offset_of!(SharedHeader, guest_features) as u64);
    let alive = word(offset_of!(SharedHeader, guest_state)) == abi::GUEST_RUNNING;
    // A spawn that cannot be asked, or not yet, owes nothing: its CPUs are not rung.
    let vector = if alive && features & abi::GUEST_FEATURE_BEATS != 0 {
        run::guest_vector(instance)
    } else {
        None
    };
    let mut pulse = core::mem::take(&mut instance.pulse);
    let hung = pulse.round(
        now,
        |number| read_beat(&instance.shared, number),
        |id| match (vector, run::own_cpu(instance, id)) {
            (Some(vector), Some(id)) => {
                apic::send_interrupt(id, vector);
                true
            }
            _ => false,
        },
    );
    instance.pulse = pulse;
    hung
}

/// The record of the spawn's CPU of that number, as it is now.
fn read_beat(shared: &SharedPages, number: usize) -> CpuBeat {
    let at =
        abi::CPU_BEATS_OFFSET + (number.min(abi::CPU_BEATS_MAX - 1) * size_of::<CpuBeat>()) as u64;
    CpuBeat {
        beats: shared.read_u64(at + offset_of!(CpuBeat, beats) as u64),
        apic_id: shared.read_u32(at + offset_of!(CpuBeat, apic_id) as u64),
        online: shared.read_u32(at + offset_of!(CpuBeat, online) as u64),
        reserved: [0; 6],
    }
}
