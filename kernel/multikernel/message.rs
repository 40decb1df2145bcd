// SPDX-License-Identifier: GPL-2.0

//! Messages of user space: the ioctls that call a port, open one and tell what a link has carried.
//! `port.rs` has the port fd.
//!
//! The same on the host, where an instance fd says which kernel is meant, and in a spawn, where it
//! is the host. No state of its own, no lock.

use kernel::{
    prelude::*,
    sync::Arc,
    uaccess::UserSlice,
    uapi, //
};

use crate::{
    abi,
    device::{
        check_flags,
        command, //
    },
    instance::Handle,
    link::{
        call,
        channel::Channel,
        outbox::Link,
        stats, //
    },
    port,
    registry::Subsystem,
    user::{
        self,
        UserStruct, //
    },
    version, //
};

/// ioctl(MULTIKERNEL_IOCTL_CALL).
pub(crate) const CALL: u32 = command(uapi::MULTIKERNEL_CMD_CALL);
/// ioctl(MULTIKERNEL_IOCTL_OPEN_PORT).
pub(crate) const OPEN_PORT: u32 = command(uapi::MULTIKERNEL_CMD_OPEN_PORT);

/// ioctl(MULTIKERNEL_IOCTL_LINK_STATS).
pub(crate) const LINK_STATS: u32 = command(uapi::MULTIKERNEL_CMD_LINK_STATS);

/// The longest wait for an answer, in milliseconds.
pub(crate) const TIMEOUT_MAX: u32 = 3_600_000;

/// The link to a spawn that runs.
///
/// # Errors
///
/// `EALREADY` if none does, `EPROTONOSUPPORT` if it has another version of the ABI, `ESTALE`.
pub(crate) fn link_of(subsystem: &Subsystem, handle: Handle) -> Result<Arc<Link>> {
    let mut registry = subsystem.lock();
    let instance = registry.find(handle)?;
    let link = instance.link.clone().ok_or(EALREADY)?;
    version::check(instance)?;
    Ok(link)
}

/// One of the ioctls above, on a link, which is asked for when all else is right.
///
/// # Errors
///
/// As `include/uapi/linux/multikernel.h` documents them.
pub(crate) fn ioctl(
    link: impl FnOnce() -> Result<Arc<Link>>,
    command: u32,
    argument: usize,
) -> Result {
    match command {
        CALL => call_port(link, argument),
        OPEN_PORT => open_port(link, argument),
        LINK_STATS => link_stats(link, argument),
        _ => Err(ENOTTY),
    }
}

fn call_port(link: impl FnOnce() -> Result<Arc<Link>>, argument: usize) -> Result {
    let mut request = UserStruct::<uapi::multikernel_ioctl_call>::read(argument)?;
    let value = &request.value;
    check_flags(value.flags, 0)?;
    check_flags(value.reserved, 0)?;
    if value.port == abi::PORT_NONE || !(1..=TIMEOUT_MAX).contains(&value.timeout_ms) {
        return Err(EINVAL);
    }
    if value.request_bytes as usize > call::CALL_MAX {
        return Err(EMSGSIZE);
    }
    let mut sent = KVec::new();
    let from = UserPtr::from_addr(value.request as usize);
    UserSlice::new(from, value.request_bytes as usize).read_all(&mut sent, GFP_KERNEL)?;
    let cpu = (value.cpu != uapi::MULTIKERNEL_CPU_ANY).then_some(value.cpu);
    let link = link()?;
    let mut answer = KVec::from_elem(0u8, call::CALL_MAX, GFP_KERNEL)?;
    let bytes = call::call(&link, cpu, value.port, &sent, &mut answer, value.timeout_ms)?;
    let got = answer.get(..bytes).ok_or(EMSGSIZE)?;
    let fits = bytes <= value.answer_bytes as usize;
    if fits {
        let to = UserPtr::from_addr(value.answer as usize);
        UserSlice::new(to, bytes).writer().write_slice(got)?;
    }
    // CAST: At most `CALL_MAX`.
    request.value.answer_bytes = bytes as u32;
    request.write()?;
    if !fits {
        return Err(EMSGSIZE);
    }
    Ok(())
}

fn open_port(link: impl FnOnce() -> Result<Arc<Link>>, argument: usize) -> Result {
    let mut request = UserStruct::<uapi::multikernel_ioctl_open_port>::read(argument)?;
    check_flags(request.value.flags, 0)?;
    if request.value.port < abi::PORT_USER {
        return Err(EINVAL);
    }
    let file = port::open(Channel::open(&link()?, request.value.port)?)?;
    request.value.fd = file.descriptor();
    request.write()?;
    file.install();
    Ok(())
}

fn link_stats(link: impl FnOnce() -> Result<Arc<Link>>, argument: usize) -> Result {
    let mut request = UserStruct::<uapi::multikernel_ioctl_link_stats>::read(argument)?;
    let value = request.value;
    check_flags(value.flags, 0)?;
    user::check_element::<uapi::multikernel_link_lane>(value.lane_size)?;
    user::check_element::<uapi::multikernel_link_cpu>(value.cpu_size)?;
    let stats = stats::of(&*link()?)?;
    request.value = uapi::multikernel_ioctl_link_stats {
        nr_lanes: user::write_sized_array(
            value.lanes,
            value.nr_lanes,
            value.lane_size,
            &stats.lanes,
        )?,
        nr_cpus: user::write_sized_array(value.cpus, value.nr_cpus, value.cpu_size, &stats.cpus)?,
        peer: stats.peer,
        epoch: stats.epoch,
        state: stats.state,
        lane_slots: stats.lane_slots,
        time_ns: stats.time_ns,
        undeliverable: stats.undeliverable,
        broken: stats.broken,
        ..value
    };
    request.write()
}
