// SPDX-License-Identifier: GPL-2.0

//! A CPU on its way from the host to an instance and back.
//!
//! A CPU that is not the host's is a value, [`Cpu`], and its type says what runs on it. Only a
//! parked CPU can enter a spawn kernel or go back to the host, and a CPU is parked only after it
//! has said so itself: what cannot be said in these types does not happen.
//!
//! The host's CPU hotplug lock is taken here, so none of the subsystem's locks may be held.

use core::marker::PhantomData;

use kernel::{
    bindings,
    cpu::CpuId,
    prelude::*,
    sync::atomic::{Atomic, Relaxed}, //
};

use crate::arch::{
    apic::{self, ApicId},
    identity_map::IdentityMap,
    trampoline::Slot, //
};

/// The CPU is in the park code, interrupts off, and has confirmed it.
pub(crate) enum Parked {}

/// A spawn kernel runs on the CPU, or may start it at any moment.
pub(crate) enum Spawn {}

/// A CPU that is not the host's.
///
/// # Invariants
///
/// The host is not running on it, and will not start it: the CPU ledger says so, and the hotplug
/// callback in [`crate::hotplug`] heeds that.
pub(crate) struct Cpu<State> {
    number: CpuId,
    slot: Slot,
    state: PhantomData<State>,
}

impl<State> Cpu<State> {
    fn into_state<Next>(self) -> Cpu<Next> {
        Cpu {
            number: self.number,
            slot: self.slot,
            state: PhantomData,
        }
    }
}

/// Which CPUs are values of the type [`Cpu`] at this moment, for those who can take no lock. Set
/// and cleared by whoever makes and ends the value.
static LENT: [Atomic<bool>; bindings::CONFIG_NR_CPUS as usize] =
    [const { Atomic::new(false) }; bindings::CONFIG_NR_CPUS as usize];

fn note_lent(number: CpuId, lent: bool) {
    if let Some(flag) = LENT.get(number.as_u32() as usize) {
        flag.store(lent, Relaxed);
    }
}

/// Whether another task is to have this CPU.
pub(crate) fn need_resched() -> bool {
    // SAFETY: Looks at the current task's flags.
    unsafe { bindings::multikernel_need_resched() }
}

/// Whether nothing else wants this CPU than the task that asks. A hint: it changes at any time.
pub(crate) fn is_alone() -> bool {
    // SAFETY: Reads a counter of this CPU's run queue.
    unsafe { bindings::multikernel_is_alone() }
}

/// Whether this CPU has nothing to do but the interrupt or softirq that asks. A hint, as
/// [`is_alone`].
pub(crate) fn is_idle() -> bool {
    // SAFETY: Reads words of this CPU's run queue.
    unsafe { bindings::multikernel_is_idle() }
}

/// Whether the host runs on the CPU.
pub(crate) fn is_online(cpu: CpuId) -> bool {
    // SAFETY: Reads a bit of a mask that has one for every `CpuId`.
    unsafe { bindings::multikernel_cpu_online(cpu.as_u32()) }
}

/// Whether the machine has the CPU.
pub(crate) fn is_present(cpu: CpuId) -> bool {
    // SAFETY: As in `is_online`.
    unsafe { bindings::multikernel_cpu_present(cpu.as_u32()) }
}

/// Number of CPUs that the host runs on.
pub(crate) fn online_count() -> u32 {
    // SAFETY: Reads a counter.
    unsafe { bindings::multikernel_num_online_cpus() }
}

/// The CPU's NUMA node, -1 if none.
pub(crate) fn node(cpu: CpuId) -> i32 {
    // SAFETY: A `CpuId` has per-CPU data.
    unsafe { bindings::multikernel_cpu_to_node(cpu.as_u32()) }
}

fn take_offline(cpu: CpuId) -> Result {
    // SAFETY: In process context, no lock held.
    match unsafe { bindings::multikernel_cpu_device_set_online(cpu.as_u32(), false) } {
        0 => Ok(()),
        // device_offline(): it was offline already.
        1 => Err(ENETDOWN),
        // Not the caller's lack of permission: the host does not let go of this CPU.
        error => match Error::from_errno(error) {
            EPERM => Err(EOPNOTSUPP),
            error => Err(error),
        },
    }
}

/// How often the host tries to bring a CPU online. Its own hotplug code gives up on a CPU that has
/// missed its SIPIs.
const ONLINE_TRIES: usize = 3;

/// Brings a CPU online that this kernel may start.
///
/// # Errors
///
/// What the hotplug core says.
pub(crate) fn bring_online(cpu: CpuId) -> Result {
    let mut result = Ok(());
    for _ in 0..ONLINE_TRIES {
        // SAFETY: In process context, no lock held.
        result = match unsafe { bindings::multikernel_cpu_device_set_online(cpu.as_u32(), true) } {
            // 1: it is online already, because somebody else was faster.
            0 | 1 => return Ok(()),
            error => Err(Error::from_errno(error)),
        };
    }
    result
}

impl Cpu<Parked> {
    /// Takes a CPU from the host by the ordinary hot-unplug path, and parks it.
    ///
    /// The CPU ledger has to say already that it is being lent, so that nobody brings it online in
    /// between.
    ///
    /// # Errors
    ///
    /// What hot-unplug says; `ETIMEDOUT` if the CPU did not confirm. The slot comes back with the
    /// error, and the CPU is the host's, online if it could be.
    pub(crate) fn from_host(number: CpuId, mut slot: Slot) -> Result<Self, (Slot, Error)> {
        if let Err(error) = take_offline(number) {
            return Err((slot, error));
        }
        slot.halt();
        slot.park();
        if let Err(error) = slot.confirm_parked() {
            pr_err!("CPU {} did not reach the park code\n", number.as_u32());
            return Err((slot, error));
        }
        slot.rest();
        note_lent(number, true);
        // INVARIANT: The host left it, and the ledger keeps the host from starting it.
        Ok(Self {
            number,
            slot,
            state: PhantomData,
        })
    }

    /// Ends the CPU's life outside the host; [`return_to_host`] is what has to follow.
    pub(crate) fn into_slot(self) -> (CpuId, Slot) {
        note_lent(self.number, false);
        (self.number, self.slot)
    }

    /// Has the CPU enter a spawn kernel.
    ///
    /// # Safety
    ///
    /// As for [`Slot::enter`].
    ///
    /// # Errors
    ///
    /// `ETIMEDOUT` if it did not confirm; it may yet enter.
    unsafe fn enter(
        mut self,
        tables: &IdentityMap,
        entry: u64,
        argument: u64,
    ) -> (Cpu<Spawn>, Result) {
        // SAFETY: Passed on to the caller.
        unsafe { self.slot.enter(tables.root(), entry, argument) };
        let confirmed = self.slot.confirm_entered();
        if confirmed.is_ok() {
            self.slot.disarm();
        }
        (self.into_state(), confirmed)
    }
}

/// Gives a CPU back to the host, which brings it online by its ordinary hotplug path. The CPU
/// ledger has to allow that already. Whether the CPU has left the park code for the host.
pub(crate) fn return_to_host(number: CpuId) -> bool {
    let online = bring_online(number);
    if let Err(error) = online {
        pr_err!(
            "CPU {} is the host's again, but could not be brought online: {}. Try: echo 1 > /sys/devices/system/cpu/cpu{}/online\n",
            number.as_u32(),
            error.to_errno(),
            number.as_u32(),
        );
    }
    online.is_ok()
}

/// A CPU that an instance holds.
pub(crate) enum Held {
    /// In the park code.
    Parked(Cpu<Parked>),
    /// The spawn kernel's.
    Spawn(Cpu<Spawn>),
    /// Only while it changes from one to the other.
    Moving,
}

impl Held {
    fn slot(&mut self) -> Option<&mut Slot> {
        match self {
            Self::Parked(cpu) => Some(&mut cpu.slot),
            Self::Spawn(cpu) => Some(&mut cpu.slot),
            Self::Moving => None,
        }
    }

    /// The host's number of it.
    pub(crate) fn number(&self) -> Option<CpuId> {
        match self {
            Self::Parked(cpu) => Some(cpu.number),
            Self::Spawn(cpu) => Some(cpu.number),
            Self::Moving => None,
        }
    }

    /// Leaves it to the spawn kernel that runs on the instance's other CPUs, to be started.
    pub(crate) fn leave_to_spawn(&mut self) {
        self.change(|cpu| match cpu {
            Self::Parked(cpu) => Self::Spawn(cpu.into_state()),
            other => other,
        });
    }

    fn change(&mut self, change: impl FnOnce(Held) -> Held) {
        let before = core::mem::replace(self, Self::Moving);
        *self = change(before);
    }
}

/// Has the first of the CPUs enter a spawn kernel; the others are its to start.
///
/// # Safety
///
/// `tables` map the trampoline page, and the spawn kernel's memory around `entry`, to themselves,
/// and live until [`park_all`] has succeeded.
///
/// # Errors
///
/// `ETIMEDOUT` if the CPU did not confirm; it may yet enter, and only [`park_all`] helps.
/// `EBUSY` if they are not all parked; nothing is done.
pub(crate) unsafe fn enter_spawn(
    cpus: &mut [Held],
    tables: &IdentityMap,
    entry: u64,
    argument: u64,
) -> Result {
    if cpus.iter().any(|cpu| !matches!(cpu, Held::Parked(_))) {
        return Err(EBUSY);
    }
    let mut result = Err(EBUSY);
    for (i, cpu) in cpus.iter_mut().enumerate() {
        cpu.change(|cpu| match cpu {
            Held::Parked(cpu) if i == 0 => {
                // SAFETY: Passed on to the caller.
                let (cpu, confirmed) = unsafe { cpu.enter(tables, entry, argument) };
                result = confirmed;
                Held::Spawn(cpu)
            }
            other => other,
        });
        cpu.leave_to_spawn();
    }
    result
}

/// How often [`park_all`] starts over.
const ROUNDS: usize = 16;

/// Stops whatever runs on the CPUs and parks them all.
///
/// INIT cannot be refused. But while one CPU is stopped, another that still runs may start it anew:
/// a spawn kernel that is just bringing its CPUs up does so. So when all have confirmed there is a
/// roll call through the mailboxes, which only the park code answers. A CPU can be taken out of the
/// park code only by one that runs a spawn kernel; if all answer, then at the beginning of the roll
/// call none did, and so none ever will.
///
/// # Errors
///
/// `ETIMEDOUT`: at least one CPU did not confirm, or the roll call was never complete. All count as
/// running a spawn kernel; trying again is possible at any time.
pub(crate) fn park_all(cpus: &mut [Held]) -> Result {
    let parked = try_park_all(cpus);
    // Also after a failure: those that did park need not stay awake until the next try.
    for slot in cpus.iter_mut().filter_map(Held::slot) {
        slot.rest();
    }
    parked?;
    for cpu in cpus {
        cpu.change(|cpu| match cpu {
            Held::Spawn(cpu) => Held::Parked(cpu.into_state()),
            other => other,
        });
    }
    Ok(())
}

fn try_park_all(cpus: &mut [Held]) -> Result {
    for _ in 0..ROUNDS {
        for slot in cpus.iter_mut().filter_map(Held::slot) {
            slot.halt();
        }
        for slot in cpus.iter_mut().filter_map(Held::slot) {
            slot.park();
        }
        for slot in cpus.iter_mut().filter_map(Held::slot) {
            slot.confirm_parked()?;
        }
        for slot in cpus.iter_mut().filter_map(Held::slot) {
            slot.call_roll();
        }
        let mut waited = 0;
        let absent = cpus
            .iter_mut()
            .filter_map(Held::slot)
            .any(|slot| !slot.is_present(&mut waited));
        if !absent {
            return Ok(());
        }
    }
    Err(ETIMEDOUT)
}

/// How often [`halt_all_for_good`] goes over all CPUs: one that has got its INIT may be started
/// again by a spawn's CPU that has not. A spawn starts its CPUs one after another, so that the
/// second time finds what the first one missed; the third is for a chain of two.
const PASSES: usize = 3;

/// Sends INIT to all CPUs that are lent and leaves them waiting for a SIPI, in which they need no
/// memory; how many they are. For the end of the host, which starts no CPU from now on. Takes no
/// lock, and may be called in any context.
pub(crate) fn halt_all_for_good() -> usize {
    apic::start_no_more();
    let mut count = 0;
    for pass in 0..PASSES {
        for (number, lent) in (0..kernel::cpu::nr_cpu_ids()).zip(&LENT) {
            let id = CpuId::from_u32(number).and_then(|cpu| ApicId::of_cpu(cpu).ok());
            if let (true, Some(id)) = (lent.load(Relaxed), id) {
                apic::send_init(id);
                count += usize::from(pass == 0);
            }
        }
    }
    count
}
