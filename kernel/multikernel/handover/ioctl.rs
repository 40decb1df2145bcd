// SPDX-License-Identifier: GPL-2.0

//! What user space asks for about arenas on `/dev/multikernel`, and which sessions there are.
//!
//! As `device.rs`, whose calls these are too: every structure is copied once and checked for form
//! here. No state of its own, no lock.

use kernel::{
    prelude::*,
    uapi, //
};

use super::{
    arena::{
        self,
        ArenaFile, //
    },
    ownership::Party,
    session_file, //
};
use crate::{
    device::{
        check_flags,
        check_node,
        collect,
        command, //
    },
    file,
    instance::{
        Handle,
        Name, //
    },
    ledger::{
        InstanceId,
        Request, //
    },
    registry::Subsystem,
    user::{
        self,
        UserStruct, //
    }, //
};

const CREATE: u32 = command(uapi::MULTIKERNEL_CMD_ARENA_CREATE);
/// ioctl(MULTIKERNEL_IOCTL_ARENA_OPEN), which there is in a spawn as well.
pub(crate) const OPEN: u32 = command(uapi::MULTIKERNEL_CMD_ARENA_OPEN);
const REMOVE: u32 = command(uapi::MULTIKERNEL_CMD_ARENA_REMOVE);
const GRANT: u32 = command(uapi::MULTIKERNEL_CMD_ARENA_GRANT);
const REVOKE: u32 = command(uapi::MULTIKERNEL_CMD_ARENA_REVOKE);
const RESIZE: u32 = command(uapi::MULTIKERNEL_CMD_ARENA_RESIZE);
const LIST: u32 = command(uapi::MULTIKERNEL_CMD_LIST_ARENAS);
const LIST_GRANTS: u32 = command(uapi::MULTIKERNEL_CMD_LIST_GRANTS);
const LIST_SESSIONS: u32 = command(uapi::MULTIKERNEL_CMD_LIST_SESSIONS);

/// One of the ioctls above, on a host.
///
/// # Errors
///
/// `ENOTTY` if it is none; as `include/uapi/linux/multikernel.h` documents them.
pub(crate) fn ioctl(subsystem: &Subsystem, command: u32, argument: usize) -> Result {
    match command {
        CREATE => create(subsystem, argument),
        OPEN => open(subsystem, argument),
        REMOVE => {
            let request = UserStruct::<uapi::multikernel_ioctl_arena_remove>::read(argument)?;
            check_flags(request.value.flags, 0)?;
            arena::remove(subsystem, &Name::new(&request.value.name)?)
        }
        GRANT => {
            let (name, id, read_only) = grant_request(argument, uapi::MULTIKERNEL_ARENA_READ_ONLY)?;
            arena::grant(subsystem, &name, id, !read_only)
        }
        REVOKE => {
            let (name, id, _) = grant_request(argument, 0)?;
            arena::revoke(subsystem, &name, id)
        }
        RESIZE => {
            let request = UserStruct::<uapi::multikernel_ioctl_arena_resize>::read(argument)?;
            check_flags(request.value.flags, 0)?;
            let name = Name::new(&request.value.name)?;
            arena::resize(subsystem, &name, request.value.bytes)
        }
        LIST => list(subsystem, argument),
        LIST_GRANTS => list_grants(subsystem, argument),
        LIST_SESSIONS => list_sessions(subsystem, argument),
        _ => session_file::ioctl(command, argument),
    }
}

fn create(subsystem: &Subsystem, argument: usize) -> Result {
    let mut request = UserStruct::<uapi::multikernel_ioctl_arena_create>::read(argument)?;
    let value = &request.value;
    check_flags(
        value.flags,
        uapi::MULTIKERNEL_RANGE_FIXED
            | uapi::MULTIKERNEL_RANGE_BELOW_4G
            | uapi::MULTIKERNEL_RANGE_ABOVE_4G,
    )?;
    let fixed = value.flags & uapi::MULTIKERNEL_RANGE_FIXED != 0;
    if !fixed && value.base != 0 {
        return Err(EINVAL);
    }
    let name = Name::new(&value.name)?;
    let wanted = Request {
        size: value.bytes,
        base: fixed.then_some(value.base),
        nid: check_node(value.nid)?,
        below_4g: value.flags & uapi::MULTIKERNEL_RANGE_BELOW_4G != 0,
        above_4g: value.flags & uapi::MULTIKERNEL_RANGE_ABOVE_4G != 0,
    };
    let file = arena::create(subsystem, name, &wanted, |arena| {
        request.value.base = arena.place().base;
        let file = file::open(arena)?;
        request.value.fd = file.descriptor();
        request.write()?;
        Ok(file)
    })?;
    file.install();
    Ok(())
}

/// Which arena is to be opened, and whether only to be read.
///
/// # Errors
///
/// `EINVAL`, `ENAMETOOLONG`.
pub(super) fn check_open(value: &uapi::multikernel_ioctl_arena_open) -> Result<(Name, bool)> {
    check_flags(value.flags, uapi::MULTIKERNEL_ARENA_READ_ONLY)?;
    check_flags(value.reserved, 0)?;
    let read_only = value.flags & uapi::MULTIKERNEL_ARENA_READ_ONLY != 0;
    Ok((Name::new(&value.name)?, read_only))
}

fn open(subsystem: &Subsystem, argument: usize) -> Result {
    let mut request = UserStruct::<uapi::multikernel_ioctl_arena_open>::read(argument)?;
    let (name, read_only) = check_open(&request.value)?;
    let arena = ArenaFile::open(subsystem, &name, !read_only)?;
    request.value.bytes = arena.place().size;
    let file = file::open(arena)?;
    request.value.fd = file.descriptor();
    request.write()?;
    file.install();
    Ok(())
}

fn grant_request(argument: usize, known: u32) -> Result<(Name, InstanceId, bool)> {
    let request = UserStruct::<uapi::multikernel_ioctl_arena_grant>::read(argument)?;
    let value = &request.value;
    check_flags(value.flags, known)?;
    check_flags(value.reserved, 0)?;
    let name = Name::new(&value.name)?;
    let id = InstanceId::new(value.id).ok_or(ENOENT)?;
    let read_only = value.flags & uapi::MULTIKERNEL_ARENA_READ_ONLY != 0;
    Ok((name, id, read_only))
}

fn list(subsystem: &Subsystem, argument: usize) -> Result {
    let mut list = UserStruct::<uapi::multikernel_ioctl_list>::read(argument)?;
    let items = collect(subsystem, |registry, add| {
        for arena in registry.arenas.list() {
            let place = arena.place();
            add(uapi::multikernel_arena {
                name: *arena.name.field(),
                base: place.base,
                bytes: place.size,
                nid: place.nid,
                id: place.id.get(),
                // CAST: Far fewer than there are instances, and files.
                grants: registry.arenas.grants_of(place.id) as u32,
                files: arena.files() as u32,
            });
        }
    })?;
    list.value.nr = user::write_array(list.value.items, list.value.nr, &items)?;
    list.write()
}

fn list_grants(subsystem: &Subsystem, argument: usize) -> Result {
    let mut list = UserStruct::<uapi::multikernel_ioctl_list>::read(argument)?;
    let items = collect(subsystem, |registry, add| {
        // Who only looks at a session was granted it by nobody.
        for grant in registry.arenas.grants().iter().filter(|it| !it.to_look) {
            add(uapi::multikernel_arena_grant {
                arena: grant.arena.get(),
                id: grant.holder.id.get(),
                flags: if grant.writable {
                    0
                } else {
                    uapi::MULTIKERNEL_ARENA_READ_ONLY
                },
                reserved: 0,
            });
        }
    })?;
    list.value.nr = user::write_array(list.value.items, list.value.nr, &items)?;
    list.write()
}

/// How user space is told of a party.
fn number(party: Party<Handle>) -> u32 {
    match party {
        Party::Host => 0,
        Party::Instance(handle) => handle.id.get(),
    }
}

fn list_sessions(subsystem: &Subsystem, argument: usize) -> Result {
    let mut list = UserStruct::<uapi::multikernel_ioctl_list>::read(argument)?;
    let items = collect(subsystem, |registry, add| {
        for arena in registry.arenas.list() {
            let Some(ownership) = arena.session() else {
                continue;
            };
            let offer = ownership.offer_made();
            add(uapi::multikernel_session {
                name: *arena.name.field(),
                bytes: arena.place().size,
                ticket: offer.map_or(0, |offer| offer.ticket),
                owner: number(ownership.owner()),
                to: offer.map_or(0, |offer| number(offer.to)),
                state: match offer {
                    None => uapi::MULTIKERNEL_SESSION_OWNED,
                    Some(offer) if offer.accepted => uapi::MULTIKERNEL_SESSION_ACCEPTED,
                    Some(_) => uapi::MULTIKERNEL_SESSION_OFFERED,
                },
                reserved: 0,
            });
        }
    })?;
    list.value.nr = user::write_array(list.value.items, list.value.nr, &items)?;
    list.write()
}
