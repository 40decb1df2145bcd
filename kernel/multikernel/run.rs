// SPDX-License-Identifier: GPL-2.0

//! Starting and stopping a spawn kernel.
//!
//! A start and a forced stop take the instance's holdings out of it for the few milliseconds that
//! they need. An asked-for stop does not: it waits, without a lock, until the spawn has said that
//! it ended and the doorbell's work has parked its CPUs.

use core::mem::offset_of;

use kernel::{
    prelude::*,
    sync::{
        Arc,
        CondVarTimeoutResult, //
    },
    time::msecs_to_jiffies,
    transmute::AsBytes,
    uapi, //
};

use crate::{
    abi::{self, SharedHeader},
    arch::{apic, doorbell, platform},
    connect,
    cpu,
    event,
    handover::arbiter,
    instance::{Handle, Instance, Reason, State},
    link::{outbox::Link, peer},
    memory::SharedPages,
    pulse::Pulse,
    registry::{Purpose, Subsystem},
    version::claim,
    watch, //
};

// SAFETY: `SharedHeader` is `#[repr(C)]`, of integers and arrays of them; abi.rs asserts the offset
// of each field, which leaves no room for padding.
unsafe impl AsBytes for SharedHeader {}

/// Starts the image that is loaded, whose tables tell of `cpus_max` CPUs; 0 stands for those that
/// the instance has.
///
/// # Errors
///
/// - `ENOEXEC`: none is loaded.
/// - `EINVAL`: it has more CPUs than `cpus_max`.
/// - `ENOMEM`: for the link.
/// - `EADDRNOTAVAIL`: `argument` is not 0 and not in the instance's memory.
/// - `EBUSY`: it runs already, or another call works on it.
/// - `ETIMEDOUT`: the boot CPU did not confirm; the instance is Failed.
/// - `EINTR`: a signal while other spawns are told that the life before has ended.
/// - `ESTALE`.
pub(crate) fn start(
    subsystem: &Subsystem,
    handle: Handle,
    argument: u64,
    hang_ms: Option<u32>,
    cpus_max: u32,
) -> Result {
    let mut image = None;
    let mut life = None;
    // Allocated without the registry's mutex: how many CPUs it has is not known yet.
    let mut apic_ids = KVec::with_capacity(uapi::MULTIKERNEL_CPUS_MAX as usize, GFP_KERNEL)?;
    let mut holdings = subsystem.take_holdings(handle, Purpose::Work, |instance| {
        instance.check_idle()?;
        image = Some(instance.image.ok_or(ENOEXEC)?);
        let inside = |holdings: &crate::instance::Holdings| {
            argument == 0 || holdings.room().contains(argument, 1)
        };
        if !instance.holdings.as_ref().is_some_and(inside) {
            return Err(EADDRNOTAVAIL);
        }
        for &cpu in &instance.cpus {
            // There is room for as many as an instance can have.
            let _ = apic_ids.push_within_capacity(apic::number_of_cpu(cpu));
        }
        let cpus_max = match cpus_max as usize {
            0 => instance.cpus.len(),
            cpus_max if cpus_max < instance.cpus.len() => return Err(EINVAL),
            cpus_max => cpus_max,
        };
        life = Some(begin_life(
            instance,
            core::mem::take(&mut apic_ids),
            cpus_max,
        )?);
        Ok(())
    })?;
    // Its CPUs become another kernel's, which the siblings of the one before must not ring.
    let settled = connect::settle(subsystem, handle);
    let prepared = settled.and_then(|()| {
        let life = life.as_mut().ok_or(ENOEXEC)?;
        let pulse = Pulse::new(life.cpus_max)?;
        Ok((open_link(life)?, pulse))
    });
    let (link, pulse) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            subsystem.put_back(handle, holdings, |_| {});
            return Err(error);
        }
    };
    let (image, life) = (image.ok_or(ENOEXEC)?, life.ok_or(ENOEXEC)?);
    write_header(&life.shared, life.header);
    if let Ok(instance) = subsystem.lock().find(handle) {
        // The spawn changes what was loaded: it cannot be started again as it is.
        instance.image = None;
        instance.epoch = life.header.epoch;
        instance.cpus_max = life.cpus_max;
        instance.link = Some(link);
        instance.session_requests = 0;
        instance.pulse = pulse;
        instance.pulse.begin(hang_ms, event::now());
        instance.change(subsystem, State::Running, Reason::None);
    }

    // SAFETY: `tables` were built in `create::furnish` to map the trampoline page and all memory of
    // the instance; the check of the image found `entry` in that memory. They are part of the
    // holdings, which are taken apart only when the CPUs have been parked.
    let result =
        unsafe { cpu::enter_spawn(&mut holdings.cpus, &holdings.tables, image.entry, argument) };
    if result.is_err() {
        close_link(subsystem, handle, false);
    }
    subsystem.put_back(handle, holdings, |instance| {
        if result.is_err() {
            instance.change(subsystem, State::Failed, Reason::NoConfirm);
        }
    });
    connect::changed(&subsystem.lock(), handle.serial);
    watch::begin(hang_ms);
    // A spawn that ended at once rang while the instance was not to be had.
    Subsystem::schedule_reap();
    result
}

/// What a life of an instance begins with.
struct Life {
    shared: Arc<SharedPages>,
    header: SharedHeader,
    /// Of the CPUs that the spawn has.
    apic_ids: KVec<u32>,
    /// How many it may have.
    cpus_max: usize,
}

/// Makes the link for a life, and notes in its header where it is.
fn open_link(life: &mut Life) -> Result<Arc<Link>> {
    let header = &mut life.header;
    let apic_ids = core::mem::take(&mut life.apic_ids);
    let link;
    (link, header.link_base, header.link_size) =
        peer::open(header.id, header.epoch, apic_ids, life.cpus_max)?;
    Ok(link)
}

/// Ends an instance's link, if it has one, before anybody can start it again. Its memory is kept
/// until all CPUs are known to be `parked`: one that has not confirmed may still use it.
fn close_link(subsystem: &Subsystem, handle: Handle, parked: bool) {
    let mut registry = subsystem.lock();
    let mut unused = None;
    let link = registry.find(handle).ok().and_then(|it| {
        let link = it.link.take();
        if parked {
            unused = it.unparked.take();
        } else if let Some(link) = &link {
            it.unparked = Some(link.region.clone());
        }
        link
    });
    let mut instances = registry.instances.iter();
    if let Some(instance) = instances.find(|it| it.handle() == handle) {
        connect::gone(&registry, instance);
    }
    arbiter::ended(&mut registry, handle, parked);
    drop(registry);
    drop(unused);
    if let Some(link) = link {
        peer::close(&link);
    }
}

/// Makes what the next life of an instance begins with.
fn begin_life(instance: &Instance, apic_ids: KVec<u32>, cpus_max: usize) -> Result<Life> {
    let clock = platform::wall_clock();
    let host = doorbell::apic_id()?;
    let tail = abi::CONSOLE_RINGS_OFFSET
        + (offset_of!(abi::ConsoleRings, output) + offset_of!(abi::ConsoleRing, tail)) as u64;
    let header = SharedHeader {
        magic: abi::SHARED_MAGIC,
        version: claim::version(),
        id: instance.id.get(),
        epoch: instance.epoch.wrapping_add(1).max(1),
        request: abi::REQUEST_NONE,
        host_features: claim::features(),
        tsc_khz: platform::tsc_khz(),
        lapic_khz: platform::lapic_khz(),
        wall_seconds: clock.seconds,
        wall_nanoseconds: clock.nanoseconds,
        host_apic_id: host.get(),
        wall_tsc: clock.tsc,
        host_vector: u32::from(doorbell::VECTOR),
        minor: claim::minor(),
        link_base: 0,
        link_size: 0,
        console_start: instance.shared.read_u64(tail),
        name: *instance.name.field(),
        // CAST: The upper byte.
        reserved1: [(claim::features() >> 56) as u8; 96],
        guest_state: abi::GUEST_SILENT,
        guest_vector: 0,
        guest_apic_id: 0,
        guest_cpus: 0,
        guest_features: 0,
        vmcoreinfo_base: 0,
        vmcoreinfo_size: 0,
        end_apic_id: 0,
        end_message: [0; abi::MESSAGE_LENGTH],
        guest_version: 0,
        guest_minor: 0,
        guest_refused: abi::REFUSED_NOTHING,
        reserved2: 0,
    };
    Ok(Life {
        shared: instance.shared.clone(),
        header,
        apic_ids,
        cpus_max,
    })
}

/// Writes the header, strikes out what the CPUs said in an earlier life, and empties the input
/// ring: what was typed for that is not for this one. The output ring is kept.
fn write_header(shared: &SharedPages, header: SharedHeader) {
    shared.write_words(0, header.as_bytes());
    for offset in (abi::CPU_REGISTERS_OFFSET..abi::CONSOLE_OUT_OFFSET).step_by(8) {
        shared.write_u64(offset, 0);
    }
    let input = abi::CONSOLE_RINGS_OFFSET + offset_of!(abi::ConsoleRings, input) as u64;
    shared.write_u64(input + offset_of!(abi::ConsoleRing, tail) as u64, 0);
    shared.write_u64(input + offset_of!(abi::ConsoleRing, head) as u64, 0);
}

/// Stops a spawn kernel at once, whatever it does.
///
/// # Errors
///
/// - `EALREADY`: none runs.
/// - `EBUSY`: another call works on the instance; with `Purpose::StopWaiting` that is waited for.
/// - `EINTR`: a signal in that wait; nothing was done.
/// - `ETIMEDOUT`: a CPU did not confirm; the instance is Failed, and can be stopped again.
/// - `ESTALE`.
pub(crate) fn stop(
    subsystem: &Subsystem,
    handle: Handle,
    purpose: Purpose,
    reason: Reason,
) -> Result<Reason> {
    stop_if(subsystem, handle, purpose, reason, |_| true)
}

/// [`stop`], if `still` says so when the instance is in hand; `EALREADY` if not.
pub(crate) fn stop_if(
    subsystem: &Subsystem,
    handle: Handle,
    purpose: Purpose,
    reason: Reason,
    still: impl FnOnce(&Instance) -> bool,
) -> Result<Reason> {
    let mut holdings = subsystem.take_holdings(handle, purpose, |instance| {
        if !still(instance) {
            return Err(EALREADY);
        }
        match instance.state {
            State::Running | State::Failed => {
                instance.change(subsystem, State::Stopping, Reason::None);
            }
            State::Empty | State::Stopping => return Err(EBUSY),
            State::Ready | State::Loaded | State::Stopped | State::Crashed => return Err(EALREADY),
        }
        Ok(())
    })?;
    let result = cpu::park_all(&mut holdings.cpus);
    close_link(subsystem, handle, result.is_ok());
    subsystem.put_back(handle, holdings, |instance| match result {
        Ok(()) => {
            let state = match reason {
                Reason::Panic | Reason::Hung => State::Crashed,
                _ => State::Stopped,
            };
            instance.change(subsystem, state, reason);
        }
        Err(_) => instance.change(subsystem, State::Failed, Reason::NoConfirm),
    });
    connect::changed(&subsystem.lock(), handle.serial);
    result.map(|()| reason)
}

/// Asks a spawn kernel to power off, and waits until it has.
///
/// # Errors
///
/// - `EALREADY`: none runs.
/// - `EOPNOTSUPP`: it does not look at requests.
/// - `ETIMEDOUT`, `EINTR`: it has been asked and still runs.
/// - `EBUSY`, `ESTALE`.
pub(crate) fn stop_in_order(
    subsystem: &Subsystem,
    handle: Handle,
    timeout_ms: u32,
) -> Result<Reason> {
    let mut registry = subsystem.lock();
    let instance = registry.find(handle)?;
    match instance.state {
        // Just being started: what it said in its last life does not count.
        State::Running if instance.holdings.is_none() => return Err(EBUSY),
        State::Running => {}
        State::Empty | State::Stopping | State::Failed => return Err(EBUSY),
        State::Ready | State::Loaded | State::Stopped | State::Crashed => return Err(EALREADY),
    }
    ask_to_end(instance)?;

    let epoch = instance.epoch;
    let mut left = msecs_to_jiffies(timeout_ms);
    loop {
        let instance = registry.find(handle)?;
        if instance.epoch != epoch {
            // The life that was to end is over, and somebody has begun the next one.
            return Ok(Reason::None);
        }
        match instance.state {
            State::Running | State::Stopping => {}
            State::Failed => return Err(ETIMEDOUT),
            _ => return Ok(instance.reason),
        }
        let error = match subsystem
            .changed()
            .wait_interruptible_timeout(&mut registry, left)
        {
            CondVarTimeoutResult::Woken { jiffies } => {
                left = jiffies;
                continue;
            }
            CondVarTimeoutResult::Timeout => ETIMEDOUT,
            CondVarTimeoutResult::Signal { .. } => EINTR,
        };
        // It may have ended at the last moment.
        let instance = registry.find(handle)?;
        return match instance.state {
            _ if instance.epoch != epoch => Ok(Reason::None),
            State::Running | State::Stopping | State::Failed => Err(error),
            _ => Ok(instance.reason),
        };
    }
}

/// Whether a spawn has said that it looks at requests.
pub(crate) fn looks_at_requests(instance: &Instance) -> bool {
    let offset = offset_of!(SharedHeader, guest_features) as u64;
    instance.shared.read_u64(offset) & abi::GUEST_FEATURE_REQUEST != 0
}

/// Asks a spawn to power off, and does not wait.
///
/// # Errors
///
/// `EOPNOTSUPP` if it does not look at requests.
pub(crate) fn ask_to_end(instance: &Instance) -> Result {
    if !looks_at_requests(instance) {
        return Err(EOPNOTSUPP);
    }
    let (id, vector) = guest_doorbell(instance)?;
    instance.shared.write_u32(
        offset_of!(SharedHeader, request) as u64,
        abi::REQUEST_POWEROFF,
    );
    apic::send_interrupt(id, vector);
    Ok(())
}

/// Rings a spawn's doorbell.
///
/// # Errors
///
/// `EALREADY` if none runs, `EOPNOTSUPP` if it has not advertised one, `ESTALE`.
pub(crate) fn ring(subsystem: &Subsystem, handle: Handle) -> Result {
    let mut registry = subsystem.lock();
    let instance = registry.find(handle)?;
    if instance.state != State::Running {
        return Err(EALREADY);
    }
    if instance.holdings.is_none() {
        return Err(EBUSY);
    }
    let (id, vector) = guest_doorbell(instance)?;
    apic::send_interrupt(id, vector);
    Ok(())
}

/// The spawn's word is good only for a CPU that is its own and a vector that no exception has.
fn guest_doorbell(instance: &Instance) -> Result<(apic::ApicId, u8)> {
    let id = instance
        .shared
        .read_u32(offset_of!(SharedHeader, guest_apic_id) as u64);
    let vector = guest_vector(instance).ok_or(EOPNOTSUPP)?;
    Ok((own_cpu(instance, id).ok_or(EOPNOTSUPP)?, vector))
}

/// The vector of a spawn's doorbell, if it has said a possible one.
pub(crate) fn guest_vector(instance: &Instance) -> Option<u8> {
    let offset = offset_of!(SharedHeader, guest_vector) as u64;
    let vector = u8::try_from(instance.shared.read_u32(offset)).ok()?;
    (vector >= 32).then_some(vector)
}

/// The CPU of an instance that has this APIC id, to be sent an interrupt.
pub(crate) fn own_cpu(instance: &Instance, id: u32) -> Option<apic::ApicId> {
    let own = |cpu: &&kernel::cpu::CpuId| apic::number_of_cpu(**cpu) == id;
    apic::ApicId::of_cpu(*instance.cpus.iter().find(own)?).ok()
}

/// Parks the CPUs of every spawn that has said it ended.
pub(crate) fn reap(subsystem: &Subsystem) {
    let mut seen = 0;
    while let Some((handle, reason)) = ended(subsystem, seen) {
        seen = handle.serial;
        // What was said is looked at again: since then the instance may have begun a new life.
        let same = |instance: &Instance| last_words(instance) == Some(reason);
        match stop_if(subsystem, handle, Purpose::Stop, reason, same) {
            // The others: somebody else is at it, who has us called again, or stops it.
            Ok(_) | Err(EBUSY | EALREADY | ESTALE) => {}
            Err(error) => pr_err!(
                "instance {} ended but could not be stopped: {}\n",
                handle.id.get(),
                error.to_errno()
            ),
        }
    }
}

/// The first instance with a serial number above `seen` whose spawn says that it has ended.
fn ended(subsystem: &Subsystem, seen: u64) -> Option<(Handle, Reason)> {
    let registry = subsystem.lock();
    registry
        .instances
        .iter()
        .filter(|instance| instance.serial > seen)
        .find_map(|instance| Some((instance.handle(), last_words(instance)?)))
}

/// Why a running spawn says it has ended; `None` if it has not, or says nothing.
pub(crate) fn last_words(instance: &Instance) -> Option<Reason> {
    if instance.state != State::Running {
        return None;
    }
    let state = offset_of!(SharedHeader, guest_state) as u64;
    Reason::from_guest(instance.shared.read_u32(state))
}

/// Looks after a spawn that may have ended without being able to ring.
pub(crate) fn look_after(instance: &Instance) {
    if last_words(instance).is_some() {
        Subsystem::schedule_reap();
    }
}
