// SPDX-License-Identifier: GPL-2.0

//! Giving CPUs to an instance that is there already, and may be running.
//!
//! They come from the host, by the way that they take when an instance is created, or from another
//! instance in which nothing runs. Either way they are values of [`Held`] in the park code when the
//! instance gets them, in one step under the registry's mutex: before it they are somebody else's,
//! after it whatever stops the instance stops them too. A spawn kernel that runs may start them
//! from then on, as it may start those that it had from the beginning.

use kernel::{
    cpu::CpuId,
    prelude::*,
    sync::lock::{mutex::MutexBackend, Guard},
    uapi, //
};

use crate::{
    arch::apic,
    connect,
    cpu::Held,
    create,
    instance::{Handle, Instance, State},
    ledger::InstanceId,
    registry::{Purpose, Registry, Room, Subsystem},
    room, //
};

/// That an instance can be given so many more CPUs.
///
/// # Errors
///
/// `EBUSY` if it is being created, stopped or destroyed, or has failed; `ENOSPC` if it would have
/// more than it can have, in its life or at all.
fn check_room(instance: &Instance, more: usize) -> Result {
    let most = match instance.state {
        State::Running => instance.cpus_max,
        _ => {
            instance.check_idle()?;
            uapi::MULTIKERNEL_CPUS_MAX as usize
        }
    };
    if instance.cpus.len() + more > most {
        return Err(ENOSPC);
    }
    Ok(())
}

/// CPUs that are to be given.
struct Gift<'a> {
    /// The host's numbers of them.
    numbers: &'a [u32],
    cpus: KVec<CpuId>,
    apic_ids: KVec<u32>,
}

impl<'a> Gift<'a> {
    /// # Errors
    ///
    /// `EINVAL` if there is none or one is named twice, `ENODEV` if this kernel can have no such
    /// CPU, `ENOMEM`.
    fn new(numbers: &'a [u32]) -> Result<Self> {
        let twice = |(i, cpu): (usize, &u32)| numbers.iter().take(i).any(|other| other == cpu);
        if numbers.is_empty() || numbers.iter().enumerate().any(twice) {
            return Err(EINVAL);
        }
        let mut cpus = KVec::with_capacity(numbers.len(), GFP_KERNEL)?;
        let mut apic_ids = KVec::with_capacity(numbers.len(), GFP_KERNEL)?;
        for &number in numbers {
            let cpu = CpuId::from_u32(number).ok_or(ENODEV)?;
            // There is room for all of them.
            let _ = cpus.push_within_capacity(cpu);
            let _ = apic_ids.push_within_capacity(apic::number_of_cpu(cpu));
        }
        Ok(Self {
            numbers,
            cpus,
            apic_ids,
        })
    }

    /// Lets the host ring them for messages to a spawn kernel that runs in the instance.
    ///
    /// # Errors
    ///
    /// `ENOSPC` if the link has no room for them all; then it has none of them.
    fn allow(&self, instance: &Instance) -> Result {
        match (instance.state, &instance.link) {
            (State::Running, Some(link)) => link.allow(&self.apic_ids),
            _ => Ok(()),
        }
    }

    /// Makes them, parked, the instance's, in whose lists there is room.
    fn give(&self, instance: &mut Instance, held: KVec<Held>) {
        let runs = instance.state == State::Running;
        let list = instance.holdings.as_mut().map(|it| &mut it.cpus);
        if let Some(list) = list {
            for mut cpu in held {
                if runs {
                    cpu.leave_to_spawn();
                }
                let _ = list.push_within_capacity(cpu);
            }
        }
        for &cpu in &self.cpus {
            let _ = instance.cpus.push_within_capacity(cpu);
        }
    }
}

/// Takes CPUs from the host for an instance.
///
/// # Errors
///
/// As `MULTIKERNEL_IOCTL_ADD_CPUS` documents them; everything is where it was.
pub(crate) fn from_host(subsystem: &Subsystem, handle: Handle, numbers: &[u32]) -> Result {
    create::check_cpus(numbers)?;
    let gift = Gift::new(numbers)?;
    let mut registry = subsystem.lock_with_room(Room {
        cpus: numbers.len(),
        ..Room::default()
    })?;
    if registry.is_closed() {
        return Err(EBUSY);
    }
    let instance = registry.find(handle)?;
    check_room(instance, numbers.len())?;
    if instance.gains {
        return Err(EBUSY);
    }
    registry.cpus.lend(numbers, handle.id)?;
    set_gains(&mut registry, handle, true);
    drop(registry);

    let result = take(subsystem, handle, &gift);
    let mut registry = subsystem.lock();
    if result.is_err() {
        // Nobody else lends CPUs to this instance meanwhile, so that no other's are struck off.
        for &number in numbers {
            registry.cpus.give_back(number, handle.id);
        }
    }
    set_gains(&mut registry, handle, false);
    result
}

fn set_gains(registry: &mut Registry, handle: Handle, gains: bool) {
    // It is there: it is not destroyed as long as this is so.
    if let Ok(instance) = registry.find(handle) {
        instance.gains = gains;
    }
}

/// Does what the ledger says already.
fn take(subsystem: &Subsystem, handle: Handle, gift: &Gift<'_>) -> Result {
    let held = create::take_cpus(subsystem, handle.id, gift.numbers)?;
    let ready = lock_to_give(subsystem, handle, held.len(), true).and_then(|mut registry| {
        gift.allow(registry.find(handle)?)?;
        Ok(registry)
    });
    match ready {
        Ok(mut registry) => {
            gift.give(registry.find(handle)?, held);
            Ok(())
        }
        Err(error) => {
            create::return_cpus(subsystem, handle.id, held);
            Err(error)
        }
    }
}

/// Moves CPUs from an instance in which nothing runs to another one.
///
/// # Errors
///
/// As `MULTIKERNEL_IOCTL_ADD_CPUS` documents them; everything is where it was.
pub(crate) fn from_instance(
    subsystem: &Subsystem,
    handle: Handle,
    from: InstanceId,
    numbers: &[u32],
) -> Result {
    let gift = Gift::new(numbers)?;
    let mut moved = KVec::with_capacity(numbers.len(), GFP_KERNEL)?;
    let mut registry = subsystem.lock();
    check_room(registry.find(handle)?, numbers.len())?;
    let giver = registry.find_id(from)?.handle();
    drop(registry);
    if giver == handle {
        return Err(EINVAL);
    }

    let mut holdings = subsystem.take_holdings(giver, Purpose::Work, |instance| {
        instance.check_idle()?;
        if instance.image.is_some() || instance.gains {
            return Err(EBUSY);
        }
        if !gift.cpus.iter().all(|cpu| instance.cpus.contains(cpu)) {
            return Err(ENODEV);
        }
        if gift.cpus.len() >= instance.cpus.len() {
            return Err(EINVAL);
        }
        Ok(())
    })?;
    // They become another kernel's, which the siblings of the one before must not ring.
    let result = connect::settle(subsystem, giver).and_then(|()| {
        // Not waited for: who has that one in hand may be waiting for this one.
        let mut registry = lock_to_give(subsystem, handle, numbers.len(), false)?;
        registry.find(handle)?;
        // The host says that it may start them to whoever is allowed to ring them, so not before
        // the ledger says the same.
        registry.cpus.pass(numbers, from, handle.id)?;
        let allowed = registry.find(handle).and_then(|it| gift.allow(it));
        if let Err(error) = allowed {
            // It has just passed the other way.
            let _ = registry.cpus.pass(numbers, handle.id, from);
            return Err(error);
        }
        // From here on nothing fails.
        for &cpu in &gift.cpus {
            let same = |held: &Held| held.number() == Some(cpu);
            let at = holdings.cpus.iter().position(same);
            if let Some(held) = at.and_then(|at| holdings.cpus.remove(at).ok()) {
                // There is room for all of them.
                let _ = moved.push_within_capacity(held);
            }
        }
        if let Ok(instance) = registry.find(giver) {
            instance.cpus.retain(|cpu| !gift.cpus.contains(cpu));
        }
        gift.give(registry.find(handle)?, moved);
        Ok(())
    });
    subsystem.put_back(giver, holdings, |_| {});
    result
}

/// Takes the registry's mutex when the instance can be given so many CPUs, has its holdings, and
/// has room in its lists.
///
/// # Errors
///
/// `EBUSY`, `EINTR` for a signal while the holdings are waited for, `ENOMEM`, `ESTALE`; those of
/// [`check_room`].
fn lock_to_give(
    subsystem: &Subsystem,
    handle: Handle,
    more: usize,
    wait: bool,
) -> Result<Guard<'_, Registry, MutexBackend>> {
    loop {
        let mut registry = subsystem.lock();
        if registry.is_closed() {
            return Err(EBUSY);
        }
        let instance = registry.find(handle)?;
        let Some(holdings) = &instance.holdings else {
            if !wait {
                return Err(EBUSY);
            }
            if subsystem.changed().wait_interruptible(&mut registry) {
                return Err(EINTR);
            }
            continue;
        };
        check_room(instance, more)?;
        let held = room::lacks(&holdings.cpus, more);
        let cpus = room::lacks(&instance.cpus, more);
        if held.or(cpus).is_none() {
            return Ok(registry);
        }
        drop(registry);
        let held = KVec::with_capacity(held.unwrap_or(0), GFP_KERNEL)?;
        let cpus = KVec::with_capacity(cpus.unwrap_or(0), GFP_KERNEL)?;
        let mut registry = subsystem.lock();
        let instance = registry.find(handle)?;
        if let Some(holdings) = &mut instance.holdings {
            room::adopt(&mut holdings.cpus, held);
        }
        room::adopt(&mut instance.cpus, cpus);
    }
}
