// SPDX-License-Identifier: GPL-2.0

//! APIC ids and the interprocessor interrupts (IPIs) that start and stop a CPU.
//!
//! No lock: an IPI is one write of the interrupt command register, done with interrupts off. No
//! state but one flag, for a kernel that ends.

use kernel::{
    bindings,
    cpu::CpuId,
    prelude::*,
    sync::atomic::{Atomic, Relaxed}, //
};

/// The id of a CPU's local APIC, to which the current APIC mode can send an IPI.
///
/// # Invariants
///
/// Below 255 in xAPIC mode, whose destination field has 8 bits and in which 255 means all CPUs
/// (Intel SDM volume 3, "Interrupt Command Register"); below 0xffffffff in x2APIC mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ApicId(u32);

impl ApicId {
    /// The APIC id of a CPU.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` if the host's APIC mode cannot address it.
    pub(crate) fn of_cpu(cpu: CpuId) -> Result<Self> {
        Self::new(number_of_cpu(cpu))
    }

    /// Checks a number that came from elsewhere.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` if the host's APIC mode cannot address it.
    pub(crate) fn new(id: u32) -> Result<Self> {
        let broadcast = if x2apic_mode() { u32::MAX } else { 0xff };
        if id >= broadcast {
            return Err(EOPNOTSUPP);
        }
        // INVARIANT: Checked against the current mode, which Linux does not change after boot.
        Ok(Self(id))
    }

    /// The number.
    pub(crate) fn get(self) -> u32 {
        self.0
    }
}

/// The number of a CPU's local APIC, as firmware told it.
pub(crate) fn number_of_cpu(cpu: CpuId) -> u32 {
    // SAFETY: A `CpuId` is below `nr_cpu_ids`, so there is a per-CPU area for it.
    unsafe { bindings::multikernel_cpu_apic_id(cpu.as_u32()) }
}

/// Whether the host's local APICs are in x2APIC mode.
pub(crate) fn x2apic_mode() -> bool {
    // SAFETY: Only reads CPU feature and MSR state.
    unsafe { bindings::multikernel_x2apic_enabled() }
}

/// Sends INIT: whatever the CPU runs ends, and it waits for a SIPI without touching memory.
///
/// The caller has to own the CPU: [`crate::cpu`] is the only user.
pub(crate) fn send_init(id: ApicId) {
    // SAFETY: The id can be addressed by its invariant.
    unsafe { bindings::multikernel_send_init(id.get()) }
}

/// Whether this kernel has failed, or ends, and starts no other CPU for an instance any more.
static ENDED: Atomic<bool> = Atomic::new(false);

/// From now on no CPU is started from here. One that is being started at this moment may be.
pub(crate) fn start_no_more() {
    ENDED.store(true, Relaxed);
}

/// Sends INIT and two SIPIs: the CPU starts in real mode at `page`, a page below 1 MiB.
///
/// As for [`send_init`]. That the CPU got there is for the caller to find out.
pub(crate) fn send_startup(id: ApicId, page: u64) {
    if ENDED.load(Relaxed) {
        return;
    }
    // SAFETY: The id can be addressed by its invariant. The result says only that the interrupts
    // were accepted, which the acknowledgment in the mailbox says better.
    unsafe { bindings::multikernel_send_startup(id.get(), page as usize) };
}

/// Sends an interrupt of this vector, 32..=255.
pub(crate) fn send_interrupt(id: ApicId, vector: u8) {
    // SAFETY: The id can be addressed by its invariant.
    unsafe { bindings::multikernel_send_ipi(id.get(), vector) }
}

/// Keeps the host from sending IPIs to "all but self", which also reach CPUs that run another
/// kernel, or allows it again. When this returns none is under way.
pub(crate) fn bar_ipi_shorthands(bar: bool) {
    // SAFETY: In process context, with no lock held that nests inside the CPU hotplug lock.
    unsafe {
        bindings::multikernel_bar_ipi_shorthand(bar);
        // A CPU that had decided for the shorthand before the switch sends it with preemption off.
        bindings::multikernel_synchronize_rcu();
    }
}
