// SPDX-License-Identifier: GPL-2.0

//! Making an instance and taking it apart: the way of CPUs and memory there and back.
//!
//! Both are done in two steps under the registry's mutex, with the slow part between them outside:
//! first it is written down who is to have what, then it is done, then the instance is made usable,
//! or everything is taken back.

use kernel::{
    cpu::CpuId,
    prelude::*,
    sync::Arc,
    uapi, //
};

use crate::{
    abi::SHARED_SIZE,
    arch::{
        apic::ApicId,
        identity_map::IdentityMap,
        trampoline::Slot, //
    },
    connect,
    cpu::{self, Cpu, Held},
    cpu_ledger::CpuOwner,
    handover::arbiter,
    instance::{Handle, Holdings, Instance, Name, RangeInfo, Reason, State},
    ledger::{InstanceId, Region, Request},
    memory::SharedPages,
    pulse::Pulse,
    registry::{Purpose, Registry, Room, Subsystem}, //
};

/// Bytes below 1 MiB that an instance gets if it does not say: its kernel's real-mode code takes
/// about 32 KiB.
pub(crate) const DEFAULT_LOW_BYTES: u64 = 64 << 10;
/// The most that it can ask for.
pub(crate) const MAX_LOW_BYTES: u64 = 512 << 10;

/// What is wanted. Checked for form, not yet against what there is.
pub(crate) struct Wanted {
    pub(crate) name: Name,
    pub(crate) cpus: KVec<u32>,
    pub(crate) memory: KVec<Request>,
    pub(crate) low_bytes: u64,
}

/// Creates an instance. `publish` is called when all is done but for the instance being usable, and
/// what it returns is returned.
///
/// # Errors
///
/// As `MULTIKERNEL_IOCTL_CREATE` documents them, and those of `publish`; everything is where it
/// was.
pub(crate) fn create<T>(
    subsystem: &Subsystem,
    wanted: Wanted,
    publish: impl FnOnce(Handle) -> Result<T>,
) -> Result<T> {
    let cpus = check_cpus(&wanted.cpus)?;
    let shared = Arc::new(SharedPages::new(SHARED_SIZE)?, GFP_KERNEL)?;
    let mut room = KVec::with_capacity(1, GFP_KERNEL)?;

    let body = Body {
        cpus,
        shared: shared.clone(),
    };
    let (handle, memory, low) = reserve(subsystem, &wanted, body, &mut room)?;

    subsystem.bar_shorthands();
    let furnished = furnish(subsystem, handle.id, &wanted, memory, low, &shared);
    let (memory, low, error) = match furnished {
        Ok(holdings) => match publish(handle) {
            Ok(published) => {
                subsystem.put_back(handle, holdings, |instance| {
                    instance.change(subsystem, State::Ready, Reason::None);
                });
                return Ok(published);
            }
            Err(error) => {
                return_cpus(subsystem, handle.id, holdings.cpus);
                (holdings.memory, holdings.low, error)
            }
        },
        Err(unfurnished) => unfurnished,
    };
    forget(subsystem, handle, memory, low);
    subsystem.unbar_shorthands();
    Err(error)
}

/// Checks that the host has the CPUs, runs on them, and can do without. Who has them is for the
/// ledger to say.
pub(crate) fn check_cpus(numbers: &[u32]) -> Result<KVec<CpuId>> {
    let twice = |(i, cpu): (usize, &u32)| numbers.iter().take(i).any(|other| other == cpu);
    if numbers.iter().enumerate().any(twice) {
        return Err(EINVAL);
    }
    let subsystem = Subsystem::get()?;
    let mut cpus = KVec::with_capacity(numbers.len(), GFP_KERNEL)?;
    let registry = subsystem.lock();
    for &number in numbers {
        let cpu = CpuId::from_u32(number)
            .filter(|&cpu| cpu::is_present(cpu))
            .ok_or(ENODEV)?;
        if number == 0 {
            return Err(EOPNOTSUPP);
        }
        if registry.cpus.owner(number).is_some() {
            return Err(EBUSY);
        }
        if !cpu::is_online(cpu) {
            return Err(ENETDOWN);
        }
        ApicId::of_cpu(cpu)?;
        // There is room for all of them.
        let _ = cpus.push_within_capacity(cpu);
    }
    if cpus.len() >= cpu::online_count() as usize {
        return Err(EOPNOTSUPP);
    }
    Ok(cpus)
}

/// What an instance has that is in no ledger.
struct Body {
    cpus: KVec<CpuId>,
    shared: Arc<SharedPages>,
}

/// Writes down that the instance is to have what it wants, or nothing at all.
fn reserve(
    subsystem: &Subsystem,
    wanted: &Wanted,
    body: Body,
    room: &mut KVec<Region>,
) -> Result<(Handle, KVec<Region>, Region)> {
    let mut memory = KVec::with_capacity(wanted.memory.len(), GFP_KERNEL)?;
    let mut ranges = KVec::with_capacity(wanted.memory.len() + 1, GFP_KERNEL)?;
    let mut taken = KVec::with_capacity(wanted.memory.len(), GFP_KERNEL)?;
    for _ in &wanted.memory {
        // There is room for all of them.
        let _ = taken.push_within_capacity(None);
    }
    let place = KBox::<Instance>::new_uninit(GFP_KERNEL)?;
    let mut guard = subsystem.lock_with_room(Room {
        memory: 2 * wanted.memory.len(),
        low: 2,
        cpus: body.cpus.len(),
        instances: 1,
        ..Room::default()
    })?;
    let registry: &mut Registry = &mut guard;
    if registry.is_closed() {
        return Err(EBUSY);
    }
    if registry
        .instances
        .iter()
        .any(|other| other.name == wanted.name)
    {
        return Err(EEXIST);
    }
    let id = registry.free_id()?;

    let result = take_memory(registry, wanted, id, taken, &mut memory, room)
        .and_then(|()| registry.cpus.lend(&wanted.cpus, id))
        .and_then(|()| room.pop().ok_or(ENOSPC));
    let low = match result {
        Ok(low) => low,
        Err(error) => {
            for region in memory {
                registry.memory.give_back(region);
            }
            if let Some(low) = room.pop() {
                registry.low.give_back(low);
            }
            return Err(error);
        }
    };

    let given = memory.iter().map(|region| (region, false));
    for (region, low) in Iterator::chain(given, [(&low, true)]) {
        // There is room: no error to come, and nothing to undo.
        let _ = ranges.push_within_capacity(RangeInfo {
            base: region.base(),
            size: region.size(),
            nid: region.nid(),
            low,
        });
    }
    let handle = Handle {
        id,
        serial: registry.next_serial,
    };
    let instance = place.write(Instance {
        id,
        serial: handle.serial,
        name: wanted.name,
        state: State::Empty,
        reason: Reason::None,
        epoch: 0,
        refusal_told: 0,
        cpus: body.cpus,
        cpus_max: 0,
        gains: false,
        ranges,
        shared: body.shared,
        link: None,
        unparked: None,
        session_requests: 0,
        events: 0,
        pulse: Pulse::default(),
        image: None,
        holdings: None,
    });
    // There is room for it.
    let _ = registry.instances.push_within_capacity(instance);
    registry.next_serial += 1;
    Ok((handle, memory, low))
}

/// Takes memory for an instance; what was taken before an error is in `memory` and `low`. `taken`
/// has a place for each range.
fn take_memory(
    registry: &mut Registry,
    wanted: &Wanted,
    id: InstanceId,
    mut taken: KVec<Option<Region>>,
    memory: &mut KVec<Region>,
    low: &mut KVec<Region>,
) -> Result {
    // Ranges at given addresses first, so that the others do not get in their way; the order of
    // the result is that of the request.
    let mut result = Ok(());
    for fixed in [true, false] {
        for (i, request) in wanted.memory.iter().enumerate() {
            if request.base.is_some() != fixed || result.is_err() {
                continue;
            }
            match (registry.memory.take(request, id), taken.get_mut(i)) {
                (Ok(region), Some(place)) => *place = Some(region),
                (Ok(region), None) => drop(registry.memory.give_back(region)),
                (Err(error), _) => result = Err(error),
            }
        }
    }
    for region in taken.into_iter().flatten() {
        // There is room for all of them.
        let _ = memory.push_within_capacity(region);
    }
    result?;
    let request = Request {
        size: wanted.low_bytes,
        ..Request::default()
    };
    let region = registry.low.take(&request, id)?;
    // There is room for one.
    let _ = low.push_within_capacity(region);
    Ok(())
}

type Unfurnished = (KVec<Region>, Region, Error);

/// Does what [`reserve`] wrote down: builds page tables, takes the CPUs.
fn furnish(
    subsystem: &Subsystem,
    id: InstanceId,
    wanted: &Wanted,
    memory: KVec<Region>,
    low: Region,
    shared: &SharedPages,
) -> Result<Holdings, Unfurnished> {
    let tables = match prepare_memory(subsystem, &memory, &low, shared) {
        Ok(tables) => tables,
        Err(error) => return Err((memory, low, error)),
    };
    match take_cpus(subsystem, id, &wanted.cpus) {
        Ok(cpus) => Ok(Holdings {
            cpus,
            memory,
            low,
            tables,
        }),
        Err(error) => Err((memory, low, error)),
    }
}

fn prepare_memory(
    subsystem: &Subsystem,
    memory: &[Region],
    low: &Region,
    shared: &SharedPages,
) -> Result<IdentityMap> {
    let mut tables = IdentityMap::new()?;
    tables.map_read_only(subsystem.trampoline.page())?;
    // The decompressor of a bzImage looks at the BIOS data area for the end of memory below 1 MiB
    // (find_trampoline_placement() in arch/x86/boot/compressed/pgtable_64.c), some before they can
    // take a page fault.
    tables.map_read_only(0)?;
    tables.map(shared.phys(), shared.size())?;
    for region in Iterator::chain(memory.iter(), [low]) {
        tables.map(region.base(), region.size())?;
    }
    // Unlike the pool's, these pages are as firmware left them until they are lent.
    low.zero(low.base(), low.size())?;
    Ok(tables)
}

/// Takes CPUs from the host, all or none. The ledger says already that they are being lent to this
/// instance; after an error they are the host's in the ledger too, as far as they had been taken.
pub(crate) fn take_cpus(
    subsystem: &Subsystem,
    id: InstanceId,
    numbers: &[u32],
) -> Result<KVec<Held>> {
    let mut held = KVec::with_capacity(numbers.len(), GFP_KERNEL)?;
    for &number in numbers {
        match take_cpu(subsystem, id, number) {
            // There is room for all of them.
            Ok(cpu) => drop(held.push_within_capacity(Held::Parked(cpu))),
            Err(error) => {
                return_cpus(subsystem, id, held);
                return Err(error);
            }
        }
    }
    Ok(held)
}

fn take_cpu(subsystem: &Subsystem, id: InstanceId, number: u32) -> Result<Cpu<cpu::Parked>> {
    let cpu = CpuId::from_u32(number).ok_or(ENODEV)?;
    let slot = subsystem
        .lock()
        .slots
        .take(subsystem.trampoline, ApicId::of_cpu(cpu)?)?;
    match Cpu::from_host(cpu, slot) {
        Ok(cpu) => {
            let mut registry = subsystem.lock();
            registry.cpus.set(number, CpuOwner::Instance(id));
            Ok(cpu)
        }
        Err((slot, error)) => {
            // ENETDOWN: somebody else took it offline in between, and has it stay so.
            if error == ENETDOWN || cpu::is_online(cpu) {
                subsystem.lock().slots.give_back(slot);
            } else {
                return_cpu(subsystem, id, cpu, slot);
            }
            Err(error)
        }
    }
}

/// Gives parked CPUs back to the host.
pub(crate) fn return_cpus(subsystem: &Subsystem, id: InstanceId, held: KVec<Held>) {
    for cpu in held {
        let Held::Parked(cpu) = cpu else {
            // Only of an instance that is idle are CPUs returned, and there all are parked.
            continue;
        };
        let (number, slot) = cpu.into_slot();
        return_cpu(subsystem, id, number, slot);
    }
}

/// Gives a CPU back to the host. Its mailbox is free only when the host has started it: until then
/// the CPU has its stack there.
fn return_cpu(subsystem: &Subsystem, id: InstanceId, number: CpuId, slot: Slot) {
    let mut registry = subsystem.lock();
    registry.cpus.set(number.as_u32(), CpuOwner::Returning(id));
    drop(registry);
    let left = cpu::return_to_host(number);
    let mut registry = subsystem.lock();
    if left {
        registry.slots.give_back(slot);
    } else {
        registry.slots.strand(slot);
    }
    registry.cpus.give_back(number.as_u32(), id);
}

/// Strikes an instance off the ledgers, and out of the list.
fn forget(subsystem: &Subsystem, handle: Handle, memory: KVec<Region>, low: Region) {
    let mut guard = subsystem.lock();
    let registry: &mut Registry = &mut guard;
    for region in memory {
        if !registry.memory.give_back(region) {
            pr_err!("a memory range was not in the ledger\n");
        }
    }
    if !registry.low.give_back(low) {
        pr_err!("a range below 1 MiB was not in the ledger\n");
    }
    connect::forget(registry, handle.serial);
    let gone = registry
        .instances
        .iter()
        .position(|instance| instance.handle() == handle);
    let mut gone = gone.and_then(|at| registry.instances.remove(at).ok());
    arbiter::forget(registry, handle);
    if let Some(instance) = &mut gone {
        // Also of one that was never finished: somebody may have opened it, and be reading.
        subsystem
            .events()
            .note(instance, uapi::MULTIKERNEL_STATE_GONE);
        for cpu in &instance.cpus {
            registry.cpus.give_back(cpu.as_u32(), handle.id);
        }
    }
    drop(guard);
    // Freed without the lock: it holds the last reference to the shared pages, most often.
    drop(gone);
    subsystem.notify();
}

/// Takes an instance apart.
///
/// # Errors
///
/// `EBUSY` if it runs, has failed, or another call works on it; `EINTR` for a signal while other
/// spawns are told that it does not run any more; `ESTALE`.
pub(crate) fn destroy(subsystem: &Subsystem, handle: Handle) -> Result {
    let idle = |instance: &mut Instance| match instance.gains {
        false => instance.check_idle(),
        true => Err(EBUSY),
    };
    let holdings = subsystem.take_holdings(handle, Purpose::Work, idle)?;
    let settled = connect::settle(subsystem, handle).and_then(|()| {
        let mut registry = subsystem.lock();
        let instance = registry.find(handle)?;
        // CPUs may have been promised to it since; from here on none are.
        if instance.gains {
            return Err(EBUSY);
        }
        instance.state = State::Empty;
        instance.image = None;
        Ok(())
    });
    if let Err(error) = settled {
        subsystem.put_back(handle, holdings, |_| {});
        return Err(error);
    }
    let Holdings {
        cpus,
        memory,
        low,
        tables,
    } = holdings;
    return_cpus(subsystem, handle.id, cpus);
    drop(tables);
    for region in &memory {
        // Cannot fail: it is the region's own range.
        let _ = region.zero(region.base(), region.size());
    }
    forget(subsystem, handle, memory, low);
    subsystem.unbar_shorthands();
    Ok(())
}
