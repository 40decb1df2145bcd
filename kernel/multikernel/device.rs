// SPDX-License-Identifier: GPL-2.0

//! `/dev/multikernel` and the instance fd: user requests in, answers out.
//!
//! Every structure is copied once, checked for form here, and handed on as a value of the
//! subsystem's own types. What the ioctls mean is in `include/uapi/linux/multikernel.h`. No state
//! of its own; the registry's mutex is held only to look things up.

use kernel::{
    bindings,
    cpu::CpuId,
    error::to_result,
    fs::File,
    ioctl::_IO,
    miscdevice::{MiscDevice, MiscDeviceRegistration},
    prelude::*,
    str::CStr,
    sync::{
        poll::PollTable,
        Arc, //
    },
    uaccess::UserSlice,
    uapi, //
};

#[cfg(CONFIG_MULTIKERNEL_GUEST)]
use crate::link::peer;
use crate::{
    abi,
    add_cpus,
    arch::{apic, platform},
    connect,
    cpu,
    cpu_ledger::CpuOwner,
    create::{self, Wanted},
    event::{self, Reader},
    file::{self, AnonFile, NewFile},
    handover,
    image,
    instance::{Handle, Name, Reason},
    ledger::{Entry, InstanceId, Owner, Request},
    memory::{SharedPages, PAGE_SIZE},
    message::{self, CALL, LINK_STATS, OPEN_PORT},
    pool,
    registry::{Purpose, Registry, Subsystem},
    rename,
    run,
    user::{self, UserStruct}, //
};

/// The number of one of our ioctls.
pub(crate) const fn command(number: u32) -> u32 {
    _IO(uapi::MULTIKERNEL_IOCTL_TYPE, number)
}

const HOST_INFO: u32 = command(uapi::MULTIKERNEL_CMD_HOST_INFO);
const POOL_GROW: u32 = command(uapi::MULTIKERNEL_CMD_POOL_GROW);
const POOL_SHRINK: u32 = command(uapi::MULTIKERNEL_CMD_POOL_SHRINK);
const LIST_MEMORY: u32 = command(uapi::MULTIKERNEL_CMD_LIST_MEMORY);
const LIST_CPUS: u32 = command(uapi::MULTIKERNEL_CMD_LIST_CPUS);
const LIST_INSTANCES: u32 = command(uapi::MULTIKERNEL_CMD_LIST_INSTANCES);
const CREATE: u32 = command(uapi::MULTIKERNEL_CMD_CREATE);
const OPEN: u32 = command(uapi::MULTIKERNEL_CMD_OPEN);
const EVENTS: u32 = command(uapi::MULTIKERNEL_CMD_EVENTS);
const LIST_LINKS: u32 = command(uapi::MULTIKERNEL_CMD_LIST_LINKS);
const GET_INFO: u32 = command(uapi::MULTIKERNEL_CMD_GET_INFO);
const START: u32 = command(uapi::MULTIKERNEL_CMD_START);
const STOP: u32 = command(uapi::MULTIKERNEL_CMD_STOP);
const DESTROY: u32 = command(uapi::MULTIKERNEL_CMD_DESTROY);
const RING: u32 = command(uapi::MULTIKERNEL_CMD_RING);
const READ_MEMORY: u32 = command(uapi::MULTIKERNEL_CMD_READ_MEMORY);
const CONNECT: u32 = command(uapi::MULTIKERNEL_CMD_CONNECT);
const DISCONNECT: u32 = command(uapi::MULTIKERNEL_CMD_DISCONNECT);
const ADD_CPUS: u32 = command(uapi::MULTIKERNEL_CMD_ADD_CPUS);
const EXCHANGE_NAMES: u32 = command(uapi::MULTIKERNEL_CMD_EXCHANGE_NAMES);

/// Every call needs CAP_SYS_BOOT, as kexec_load does.
pub(crate) fn check_capable() -> Result {
    // SAFETY: Looks at the current task's credentials.
    if unsafe { bindings::capable(bindings::CAP_SYS_BOOT as i32) } {
        Ok(())
    } else {
        Err(EPERM)
    }
}

/// That no other flags are set than those that are known.
///
/// # Errors
///
/// `EINVAL`.
pub(crate) fn check_flags(flags: u32, known: u32) -> Result {
    if flags & !known != 0 {
        return Err(EINVAL);
    }
    Ok(())
}

/// `/dev/multikernel`, open.
pub(crate) struct Device;

#[vtable]
impl MiscDevice for Device {
    type Ptr = Pin<KBox<Self>>;

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<Self::Ptr> {
        check_capable()?;
        Ok(KBox::new(Self, GFP_KERNEL)?.into())
    }

    fn ioctl(_device: Pin<&Self>, _file: &File, command: u32, argument: usize) -> Result<isize> {
        check_capable()?;
        #[cfg(CONFIG_MULTIKERNEL_GUEST)]
        if crate::guest::active() {
            return match command {
                CALL | OPEN_PORT | LINK_STATS => {
                    message::ioctl(|| peer::host().cloned().ok_or(ENOTCONN), command, argument)
                }
                OPEN => crate::guest::siblings::open(argument),
                handover::ioctl::OPEN => handover::guest::open(argument),
                _ => handover::session_file::ioctl(command, argument),
            }
            .map(|()| 0);
        }
        let subsystem = Subsystem::get()?;
        match command {
            HOST_INFO => host_info(subsystem, argument),
            POOL_GROW => pool_grow(subsystem, argument),
            POOL_SHRINK => pool_shrink(subsystem, argument),
            LIST_MEMORY => list_memory(subsystem, argument),
            LIST_CPUS => list_cpus(subsystem, argument),
            LIST_INSTANCES => list_instances(subsystem, argument),
            CREATE => create_instance(subsystem, argument),
            OPEN => open_instance(subsystem, argument),
            EVENTS => open_events(subsystem, argument),
            LIST_LINKS => list_links(subsystem, argument),
            _ => handover::ioctl::ioctl(subsystem, command, argument),
        }?;
        Ok(0)
    }
}

fn host_info(subsystem: &Subsystem, argument: usize) -> Result {
    let mut info = UserStruct::<uapi::multikernel_ioctl_host_info>::read(argument)?;
    let barred = subsystem.shorthands_barred();
    let registry = subsystem.lock();
    let tables = registry
        .instances
        .iter()
        .filter_map(|instance| instance.holdings.as_ref())
        .fold(0, |sum, holdings| sum + holdings.tables.bytes());
    let shared = registry.instances.iter().fold(0, |sum, instance| {
        let link = instance.link.as_ref().map_or(0, |link| link.bytes());
        sum + instance.shared.size() + link
    });
    let regions = registry.grants.regions().map(|region| region.bytes());
    let shared = shared + regions.sum::<u64>();
    info.value = uapi::multikernel_ioctl_host_info {
        size: 0,
        abi_version: abi::ABI_VERSION,
        features: if apic::x2apic_mode() {
            uapi::MULTIKERNEL_HOST_X2APIC.into()
        } else {
            0
        } | if barred {
            uapi::MULTIKERNEL_HOST_SHORTHAND_OFF.into()
        } else {
            0
        },
        tsc_khz: platform::tsc_khz(),
        lapic_khz: platform::lapic_khz(),
        cpus_online: cpu::online_count(),
        cpus_lent: registry.cpus.len() as u32,
        instances: registry.instances.len() as u32,
        segments_max: image::SEGMENTS_MAX as u32,
        shared_size: abi::SHARED_SIZE,
        kernel_bytes: subsystem.trampoline.bytes() + tables + shared,
    };
    drop(registry);
    info.write()
}

/// Makes a list of what the registry has. Memory for it is allocated without the registry's mutex:
/// who waits for that may be waiting for a spawn to be stopped.
pub(crate) fn collect<T>(
    subsystem: &Subsystem,
    list: impl Fn(&Registry, &mut dyn FnMut(T)),
) -> Result<KVec<T>> {
    /// Against becoming too long between the two looks that this most often takes.
    const SPARE: usize = 8;

    let mut items = KVec::new();
    loop {
        let mut missing = 0;
        let registry = subsystem.lock();
        list(&registry, &mut |item| {
            if items.push_within_capacity(item).is_err() {
                missing += 1;
            }
        });
        drop(registry);
        if missing == 0 {
            return Ok(items);
        }
        let wanted = items.len() + missing + SPARE;
        items.clear();
        items.reserve(wanted, GFP_KERNEL)?;
    }
}

fn pool_request(pool: &uapi::multikernel_ioctl_pool) -> Result<Request> {
    let fixed = pool.flags & uapi::MULTIKERNEL_RANGE_FIXED != 0;
    if pool.reserved != 0 || (!fixed && pool.base != 0) || pool.nid < -1 {
        return Err(EINVAL);
    }
    Ok(Request {
        size: pool.bytes,
        base: fixed.then_some(pool.base),
        nid: check_node(pool.nid)?,
        below_4g: pool.flags & uapi::MULTIKERNEL_RANGE_BELOW_4G != 0,
        above_4g: pool.flags & uapi::MULTIKERNEL_RANGE_ABOVE_4G != 0,
    })
}

pub(crate) fn check_node(nid: i32) -> Result<Option<i32>> {
    match nid {
        -1 => Ok(None),
        nid if crate::memory::node_exists(nid) => Ok(Some(nid)),
        _ => Err(EINVAL),
    }
}

fn pool_grow(subsystem: &Subsystem, argument: usize) -> Result {
    let mut pool = UserStruct::<uapi::multikernel_ioctl_pool>::read(argument)?;
    check_flags(
        pool.value.flags,
        uapi::MULTIKERNEL_RANGE_BELOW_4G | uapi::MULTIKERNEL_RANGE_ABOVE_4G,
    )?;
    let request = pool_request(&pool.value)?;
    let base = pool::grow(subsystem, &request)?;
    pool.value.base = base;
    pool.write().inspect_err(|_| {
        let undo = Request {
            base: Some(base),
            ..request
        };
        // If somebody has been faster and taken it, it stays in the pool, which is no harm.
        let _ = pool::shrink(subsystem, &undo);
    })
}

fn pool_shrink(subsystem: &Subsystem, argument: usize) -> Result {
    let pool = UserStruct::<uapi::multikernel_ioctl_pool>::read(argument)?;
    check_flags(
        pool.value.flags,
        uapi::MULTIKERNEL_RANGE_FIXED
            | uapi::MULTIKERNEL_RANGE_BELOW_4G
            | uapi::MULTIKERNEL_RANGE_ABOVE_4G,
    )?;
    pool::shrink(subsystem, &pool_request(&pool.value)?)
}

fn list_memory(subsystem: &Subsystem, argument: usize) -> Result {
    let mut list = UserStruct::<uapi::multikernel_ioctl_list>::read(argument)?;
    let items = collect(subsystem, |registry, add| {
        let low = registry.low.entries().iter().map(|entry| (entry, true));
        let memory = registry.memory.entries().iter().map(|entry| (entry, false));
        Iterator::chain(low, memory).for_each(|(entry, low)| add(memory_item(entry, low)));
    })?;
    list.value.nr = user::write_array(list.value.items, list.value.nr, &items)?;
    list.write()
}

fn memory_item(entry: &Entry, low: bool) -> uapi::multikernel_range {
    let (owner, id) = match entry.owner {
        Owner::Pool => (uapi::MULTIKERNEL_OWNER_POOL, 0),
        Owner::Instance(id) => (uapi::MULTIKERNEL_OWNER_INSTANCE, id.get()),
        Owner::Arena(id) => (uapi::MULTIKERNEL_OWNER_ARENA, id.get()),
    };
    let low = if low { uapi::MULTIKERNEL_RANGE_LOW } else { 0 };
    let boot = if entry.boot {
        uapi::MULTIKERNEL_RANGE_BOOT
    } else {
        0
    };
    uapi::multikernel_range {
        base: entry.base,
        size: entry.size,
        nid: entry.nid,
        owner,
        id,
        flags: low | boot,
    }
}

fn cpu_item(cpu: CpuId, owner: Option<CpuOwner>) -> uapi::multikernel_cpu {
    let (owner, id) = match owner {
        None => (uapi::MULTIKERNEL_OWNER_HOST, 0),
        Some(CpuOwner::Instance(id)) => (uapi::MULTIKERNEL_OWNER_INSTANCE, id.get()),
        Some(CpuOwner::Lending(id) | CpuOwner::Returning(id)) => {
            (uapi::MULTIKERNEL_OWNER_TRANSITION, id.get())
        }
    };
    uapi::multikernel_cpu {
        cpu: cpu.as_u32(),
        apic_id: apic::number_of_cpu(cpu),
        nid: cpu::node(cpu),
        owner,
        id,
        online: cpu::is_online(cpu).into(),
    }
}

fn list_cpus(subsystem: &Subsystem, argument: usize) -> Result {
    let mut list = UserStruct::<uapi::multikernel_ioctl_list>::read(argument)?;
    let items = collect(subsystem, |registry, add| {
        (0..kernel::cpu::nr_cpu_ids())
            .filter_map(CpuId::from_u32)
            .filter(|&cpu| cpu::is_present(cpu))
            .for_each(|cpu| add(cpu_item(cpu, registry.cpus.owner(cpu.as_u32()))));
    })?;
    list.value.nr = user::write_array(list.value.items, list.value.nr, &items)?;
    list.write()
}

fn list_instances(subsystem: &Subsystem, argument: usize) -> Result {
    let mut list = UserStruct::<uapi::multikernel_ioctl_list>::read(argument)?;
    let items: KVec<u32> = collect(subsystem, |registry, add| {
        let ids = registry.instances.iter().map(|instance| instance.id.get());
        ids.for_each(add);
    })?;
    list.value.nr = user::write_array(list.value.items, list.value.nr, &items)?;
    list.write()
}

fn list_links(subsystem: &Subsystem, argument: usize) -> Result {
    let mut list = UserStruct::<uapi::multikernel_ioctl_list>::read(argument)?;
    let items = collect(subsystem, |registry, add| {
        registry
            .grants
            .list()
            .for_each(|it| add(connect::item(&it)));
    })?;
    list.value.nr = user::write_array(list.value.items, list.value.nr, &items)?;
    list.write()
}

fn memory_request(range: &uapi::multikernel_range) -> Result<Request> {
    check_flags(
        range.flags,
        uapi::MULTIKERNEL_RANGE_FIXED
            | uapi::MULTIKERNEL_RANGE_BELOW_4G
            | uapi::MULTIKERNEL_RANGE_ABOVE_4G,
    )?;
    let fixed = range.flags & uapi::MULTIKERNEL_RANGE_FIXED != 0;
    if range.owner != 0 || range.id != 0 || (!fixed && range.base != 0) {
        return Err(EINVAL);
    }
    Ok(Request {
        size: range.size,
        base: fixed.then_some(range.base),
        nid: check_node(range.nid)?,
        below_4g: range.flags & uapi::MULTIKERNEL_RANGE_BELOW_4G != 0,
        above_4g: range.flags & uapi::MULTIKERNEL_RANGE_ABOVE_4G != 0,
    })
}

/// Whether two requests want the same byte; those that leave the address to us never do.
fn overlap(one: &Request, other: &Request) -> bool {
    let (Some(base), Some(other_base)) = (one.base, other.base) else {
        return false;
    };
    base < other_base.saturating_add(other.size) && other_base < base.saturating_add(one.size)
}

fn create_instance(subsystem: &Subsystem, argument: usize) -> Result {
    let mut request = UserStruct::<uapi::multikernel_ioctl_create>::read(argument)?;
    let value = &request.value;
    check_flags(value.flags, 0)?;
    if value.reserved != 0 {
        return Err(EINVAL);
    }
    let name = Name::new(&value.name)?;
    let low_bytes = match u64::from(value.low_bytes) {
        0 => create::DEFAULT_LOW_BYTES,
        bytes if bytes % PAGE_SIZE == 0 && bytes <= create::MAX_LOW_BYTES => bytes,
        _ => return Err(EINVAL),
    };
    let cpus: KVec<u32> = user::read_array(value.cpus, value.nr_cpus, uapi::MULTIKERNEL_CPUS_MAX)?;
    let ranges: KVec<uapi::multikernel_range> =
        user::read_array(value.ranges, value.nr_ranges, uapi::MULTIKERNEL_RANGES_MAX)?;
    let mut memory = KVec::with_capacity(ranges.len(), GFP_KERNEL)?;
    for range in &ranges {
        let request = memory_request(range)?;
        if memory.iter().any(|other| overlap(other, &request)) {
            return Err(EINVAL);
        }
        memory.push(request, GFP_KERNEL)?;
    }

    let wanted = Wanted {
        name,
        cpus,
        memory,
        low_bytes,
    };
    let file = create::create(subsystem, wanted, |handle| {
        let file = InstanceFile::open(subsystem, handle)?;
        request.value.id = handle.id.get();
        request.value.fd = file.descriptor();
        request.write()?;
        Ok(file)
    })?;
    file.install();
    Ok(())
}

/// What finds an instance that is given by its id or, if that is 0, by its name.
///
/// # Errors
///
/// `EINVAL`, `ENAMETOOLONG`: the name is none, or there is one beside an id. What is returned fails
/// with `ENOENT`.
fn find_instance(
    id: u32,
    name: &[u8; abi::NAME_LENGTH],
) -> Result<impl FnOnce(&mut Registry) -> Result<Handle>> {
    let name = match id {
        0 => Some(Name::new(name)?),
        _ if name.iter().any(|&byte| byte != 0) => return Err(EINVAL),
        _ => None,
    };
    Ok(move |registry: &mut Registry| match name {
        Some(name) => {
            let found = registry.instances.iter().find(|other| other.name == name);
            Ok(found.ok_or(ENOENT)?.handle())
        }
        None => Ok(registry
            .find_id(InstanceId::new(id).ok_or(ENOENT)?)?
            .handle()),
    })
}

/// What finds the other instance of `MULTIKERNEL_IOCTL_CONNECT` and `MULTIKERNEL_IOCTL_DISCONNECT`.
fn other_instance(argument: usize) -> Result<impl FnOnce(&mut Registry) -> Result<Handle>> {
    let request = UserStruct::<uapi::multikernel_ioctl_connect>::read(argument)?;
    check_flags(request.value.flags, 0)?;
    check_flags(request.value.reserved, 0)?;
    find_instance(request.value.id, &request.value.name)
}

fn open_instance(subsystem: &Subsystem, argument: usize) -> Result {
    let mut request = UserStruct::<uapi::multikernel_ioctl_open>::read(argument)?;
    let value = &request.value;
    if value.reserved != 0 {
        return Err(EINVAL);
    }
    let handle = find_instance(value.id, &value.name)?(&mut subsystem.lock())?;
    let file = InstanceFile::open(subsystem, handle)?;
    request.value.id = handle.id.get();
    request.value.fd = file.descriptor();
    request.write()?;
    file.install();
    Ok(())
}

/// What is behind an instance fd.
///
/// It keeps the shared pages, so that they stay what they are for whoever has them mapped, whatever
/// becomes of the instance.
struct InstanceFile {
    handle: Handle,
    shared: Arc<SharedPages>,
    reader: Reader,
}

impl InstanceFile {
    fn open(subsystem: &Subsystem, handle: Handle) -> Result<NewFile> {
        let mut registry = subsystem.lock();
        let instance = registry.find(handle)?;
        let file = Self {
            handle,
            shared: instance.shared.clone(),
            reader: Reader::of_instance(instance),
        };
        drop(registry);
        file::open(file)
    }
}

impl AnonFile for InstanceFile {
    const NAME: &'static CStr = c"[multikernel]";

    fn ioctl(&self, command: u32, argument: usize) -> Result {
        check_capable()?;
        let subsystem = Subsystem::get()?;
        match command {
            GET_INFO => get_info(subsystem, self.handle, argument),
            START => {
                let request = UserStruct::<uapi::multikernel_ioctl_start>::read(argument)?;
                let value = &request.value;
                check_flags(value.flags, 0)?;
                let hang_ms = hang_limit(value.hang_ms)?;
                if value.cpus_max > uapi::MULTIKERNEL_CPUS_MAX {
                    return Err(EINVAL);
                }
                let (argument, cpus_max) = (value.argument, value.cpus_max);
                run::start(subsystem, self.handle, argument, hang_ms, cpus_max)
            }
            STOP => stop(subsystem, self.handle, argument),
            DESTROY => {
                let request = UserStruct::<uapi::multikernel_ioctl_simple>::read(argument)?;
                check_flags(request.value.flags, 0)?;
                create::destroy(subsystem, self.handle)
            }
            RING => {
                let request = UserStruct::<uapi::multikernel_ioctl_simple>::read(argument)?;
                check_flags(request.value.flags, 0)?;
                run::ring(subsystem, self.handle)
            }
            READ_MEMORY => read_memory(subsystem, self.handle, argument),
            CONNECT => {
                let other = other_instance(argument)?;
                connect::connect(subsystem, self.handle, other)
            }
            DISCONNECT => {
                let other = other_instance(argument)?;
                connect::disconnect(subsystem, self.handle, other)
            }
            ADD_CPUS => add_cpus(subsystem, self.handle, argument),
            EXCHANGE_NAMES => {
                let request = UserStruct::<uapi::multikernel_ioctl_exchange_names>::read(argument)?;
                let flags = request.value.flags;
                check_flags(flags, uapi::MULTIKERNEL_EXCHANGE_SESSIONS)?;
                check_flags(request.value.reserved, 0)?;
                let sessions = flags & uapi::MULTIKERNEL_EXCHANGE_SESSIONS != 0;
                rename::exchange(subsystem, self.handle, request.value.id, sessions)
            }
            CALL | OPEN_PORT | LINK_STATS => message::ioctl(
                || message::link_of(subsystem, self.handle),
                command,
                argument,
            ),
            _ => Err(ENOTTY),
        }
    }

    fn mapping(&self, offset: u64, bytes: u64) -> Result<u64> {
        check_capable()?;
        if offset != 0 || bytes > abi::SHARED_SIZE {
            return Err(EINVAL);
        }
        Ok(self.shared.phys())
    }

    fn read(&self, address: usize, bytes: usize, wait: bool) -> Result<usize> {
        self.reader.read(address, bytes, wait)
    }

    fn poll(&self, file: &File, table: PollTable<'_>) -> u32 {
        self.reader.poll(file, table)
    }
}

/// What `multikernel_ioctl_start::hang_ms` means; `None` for never.
fn hang_limit(hang_ms: u32) -> Result<Option<u32>> {
    const MIN: u32 = uapi::MULTIKERNEL_HANG_MS_MIN;
    const MAX: u32 = uapi::MULTIKERNEL_HANG_MS_MAX;

    match hang_ms {
        0 => Ok(Some(uapi::MULTIKERNEL_HANG_MS_DEFAULT)),
        MIN..=MAX => Ok(Some(hang_ms)),
        uapi::MULTIKERNEL_HANG_NEVER => Ok(None),
        _ => Err(EINVAL),
    }
}

fn add_cpus(subsystem: &Subsystem, handle: Handle, argument: usize) -> Result {
    let request = UserStruct::<uapi::multikernel_ioctl_add_cpus>::read(argument)?;
    let value = &request.value;
    check_flags(value.flags, 0)?;
    let cpus: KVec<u32> = user::read_array(value.cpus, value.nr_cpus, uapi::MULTIKERNEL_CPUS_MAX)?;
    match value.from {
        0 => add_cpus::from_host(subsystem, handle, &cpus),
        id => {
            let from = InstanceId::new(id).ok_or(ENOENT)?;
            add_cpus::from_instance(subsystem, handle, from, &cpus)
        }
    }
}

fn open_events(subsystem: &Subsystem, argument: usize) -> Result {
    let mut request = UserStruct::<uapi::multikernel_ioctl_events>::read(argument)?;
    check_flags(request.value.flags, 0)?;
    check_flags(request.value.reserved, 0)?;
    let file = event::open(subsystem)?;
    request.value.fd = file.descriptor();
    request.write()?;
    file.install();
    Ok(())
}

fn read_memory(subsystem: &Subsystem, handle: Handle, argument: usize) -> Result {
    let request = UserStruct::<uapi::multikernel_ioctl_read_memory>::read(argument)?;
    let value = request.value;
    check_flags(value.flags, 0)?;
    if value.bytes == 0 || value.bytes > uapi::MULTIKERNEL_READ_MAX.into() {
        return Err(EINVAL);
    }
    // SAFETY: Looks at the current task's credentials and the lockdown state.
    to_result(unsafe {
        bindings::multikernel_locked_down(bindings::lockdown_reason_LOCKDOWN_KCORE)
    })?;
    // By way of memory of the host: the caller's may take any time to be written to, and nobody
    // could stop the spawn meanwhile.
    let mut bytes = KVVec::from_elem(0u8, value.bytes as usize, GFP_KERNEL)?;
    let holdings = subsystem.take_holdings(handle, Purpose::Work, |_| Ok(()))?;
    let read = match holdings.region(value.base, value.bytes) {
        Some(region) => region.read(value.base, &mut bytes),
        None => Err(EADDRNOTAVAIL),
    };
    subsystem.put_back(handle, holdings, |_| ());
    // A spawn that ended meanwhile was not to be had.
    Subsystem::schedule_reap();
    read?;
    UserSlice::new(UserPtr::from_addr(value.buffer as usize), bytes.len())
        .writer()
        .write_slice(&bytes)
}

fn get_info(subsystem: &Subsystem, handle: Handle, argument: usize) -> Result {
    let mut info = UserStruct::<uapi::multikernel_ioctl_get_info>::read(argument)?;
    if info.value.reserved != 0 {
        return Err(EINVAL);
    }
    let mut guard = subsystem.lock();
    let instance = guard.find(handle)?;
    let (mut nr_cpus, nr_ranges) = (instance.cpus.len(), instance.ranges.len());
    drop(guard);
    // The ranges are fixed for an instance's life, so that there will be room for all of them.
    let mut ranges = KVec::with_capacity(nr_ranges, GFP_KERNEL)?;
    let (mut guard, mut cpus) = loop {
        let cpus = KVec::with_capacity(nr_cpus, GFP_KERNEL)?;
        let mut guard = subsystem.lock();
        nr_cpus = guard.find(handle)?.cpus.len();
        if nr_cpus <= cpus.capacity() {
            break (guard, cpus);
        }
    };
    let registry = &mut *guard;
    let lent = &registry.cpus;
    let instance = registry
        .instances
        .iter()
        .find(|instance| instance.handle() == handle)
        .ok_or(ESTALE)?;
    run::look_after(instance);
    for &cpu in &instance.cpus {
        let _ = cpus.push_within_capacity(cpu_item(cpu, lent.owner(cpu.as_u32())));
    }
    for range in &instance.ranges {
        let _ = ranges.push_within_capacity(uapi::multikernel_range {
            base: range.base,
            size: range.size,
            nid: range.nid,
            owner: uapi::MULTIKERNEL_OWNER_INSTANCE,
            id: handle.id.get(),
            flags: if range.low {
                uapi::MULTIKERNEL_RANGE_LOW
            } else {
                0
            },
        });
    }
    info.value = uapi::multikernel_ioctl_get_info {
        id: handle.id.get(),
        name: *instance.name.field(),
        state: instance.state.number(),
        reason: instance.reason.number(),
        epoch: instance.epoch,
        shared_base: instance.shared.phys(),
        shared_size: abi::SHARED_SIZE,
        entry: instance.image.map_or(0, |image| image.entry),
        image_bytes: instance.image.map_or(0, |image| image.bytes),
        hang_ms: match (instance.epoch, instance.pulse.limit_ms()) {
            (0, _) => 0,
            (_, limit) => limit.unwrap_or(uapi::MULTIKERNEL_HANG_NEVER),
        },
        reserved2: 0,
        ..info.value
    };
    drop(guard);
    info.value.nr_cpus = user::write_array(info.value.cpus, info.value.nr_cpus, &cpus)?;
    info.value.nr_ranges = user::write_array(info.value.ranges, info.value.nr_ranges, &ranges)?;
    info.write()
}

fn stop(subsystem: &Subsystem, handle: Handle, argument: usize) -> Result {
    const LONGEST_MS: u32 = 3_600_000;

    let mut request = UserStruct::<uapi::multikernel_ioctl_stop>::read(argument)?;
    let (flags, timeout_ms) = (request.value.flags, request.value.timeout_ms);
    check_flags(flags, uapi::MULTIKERNEL_STOP_FORCE)?;
    let force = flags & uapi::MULTIKERNEL_STOP_FORCE != 0;
    let reason = match (force, timeout_ms) {
        (true, 0) => run::stop(subsystem, handle, Purpose::StopWaiting, Reason::Forced)?,
        (false, 1..=LONGEST_MS) => run::stop_in_order(subsystem, handle, timeout_ms)?,
        _ => return Err(EINVAL),
    };
    request.value.reason = reason.number();
    request.write()
}
