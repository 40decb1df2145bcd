// SPDX-License-Identifier: GPL-2.0

//! Making, granting, resizing and removing arenas, and their files on the host.
//!
//! What is in the pool is zeroed, so a new arena is; what leaves one is zeroed before it is the
//! pool's. Which arenas there are is guarded by the registry's mutex, which is not held while
//! memory is zeroed or copied: meanwhile the arena's [`Region`] is out, and nobody gets to use it.

use core::cmp::Ordering;

use kernel::{
    prelude::*,
    str::CStr,
    sync::Arc, //
};

use super::{
    arenas::Place,
    wire::Granted, //
};
use crate::{
    file::{
        self,
        AnonFile, //
    },
    foreign::SharedBytes,
    instance::{
        Handle,
        Instance,
        Name, //
    },
    ledger::{
        InstanceId,
        Region,
        Request, //
    },
    link::outbox::Link,
    registry::{
        Registry,
        Room,
        Subsystem, //
    }, //
};

/// Where the header of a session is, at least: a page.
const HEAD: u64 = 4096;

/// Whether an instance may be using what it was granted.
pub(super) fn may_run(instances: &[KBox<Instance>], handle: Handle) -> bool {
    instances
        .iter()
        .any(|instance| instance.handle() == handle && instance.may_run())
}

/// An arena that is open on the host.
pub(crate) struct ArenaFile {
    place: Place,
    bytes: SharedBytes,
    writable: bool,
}

impl ArenaFile {
    /// Opens an arena.
    ///
    /// # Errors
    ///
    /// `ENOENT`; `EBUSY` if it is being resized or removed, or a session is in it.
    pub(crate) fn open(subsystem: &Subsystem, name: &Name, writable: bool) -> Result<Self> {
        let place = subsystem.lock().arenas.open(name)?;
        Ok(Self::new(place, writable))
    }

    /// Opens an arena for the session that is in it.
    ///
    /// # Errors
    ///
    /// `ENOENT`; `EBUSY` if it is being resized or removed.
    pub(super) fn open_for_session(subsystem: &Subsystem, name: &Name) -> Result<Self> {
        let place = subsystem.lock().arenas.open_in_any_case(name)?;
        Ok(Self::new(place, true))
    }

    /// A file that has been counted.
    fn new(place: Place, writable: bool) -> Self {
        Self {
            // SAFETY: As long as it is counted the arena is not resized or removed.
            bytes: unsafe { SharedBytes::of_arena(place.base, place.size) },
            place,
            writable,
        }
    }

    /// What is in it.
    pub(super) fn bytes(&self) -> &SharedBytes {
        &self.bytes
    }

    /// Whether it was opened to be written to.
    pub(super) fn is_writable(&self) -> bool {
        self.writable
    }

    /// Where it is.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }
}

impl AnonFile for ArenaFile {
    const NAME: &'static CStr = c"[multikernel-arena]";
    const MAPPED_WHEN_TOUCHED: bool = true;

    fn writable(&self) -> bool {
        self.writable
    }

    /// It cannot be resized or removed while it is open.
    fn mapping(&self, offset: u64, bytes: u64) -> Result<u64> {
        file::part(self.place.base, self.place.size, offset, bytes)
    }
}

impl Drop for ArenaFile {
    fn drop(&mut self) {
        if let Ok(subsystem) = Subsystem::get() {
            subsystem.lock().arenas.close(self.place.id);
        }
    }
}

/// Has what a session of before, or anything else, left at the begin of an arena be none: who makes
/// one there may end before it has written its own. With the registry's mutex held, and nobody at
/// work in the arena.
pub(super) fn wipe_head(place: &Place) {
    // SAFETY: Arenas are not removed or resized without that mutex.
    let bytes = unsafe { SharedBytes::of_arena(place.base, place.size) };
    // An arena has a page at least.
    let _ = bytes.zero(0, HEAD.min(place.size));
}

/// Creates an arena, and has `publish` tell of it, whose result is returned. Until that is done
/// nobody else gets to use it, so that it can be undone: the file that was made is closed later.
///
/// # Errors
///
/// `EEXIST`; `EBUSY` while the host goes down; those of [`crate::ledger::MemoryLedger::take`] and
/// of `publish`; there is no arena then.
pub(crate) fn create<T>(
    subsystem: &Subsystem,
    name: Name,
    request: &Request,
    publish: impl FnOnce(ArenaFile) -> Result<T>,
) -> Result<T> {
    let room = Room {
        memory: 2,
        arenas: 1,
        ..Room::default()
    };
    let mut guard = subsystem.lock_with_room(room)?;
    let registry: &mut Registry = &mut guard;
    if registry.is_closed() {
        return Err(EBUSY);
    }
    let memory = &mut registry.memory;
    let place = registry
        .arenas
        .create(name, |id| memory.take(request, id))?;
    // It is there, and nobody else knows of it.
    let (id, region) = registry.arenas.take_out(&name, |_| false)?;
    drop(guard);
    // It is counted below; until then its region is out.
    let published = publish(ArenaFile::new(place, true));
    let mut guard = subsystem.lock();
    let registry: &mut Registry = &mut guard;
    if published.is_ok() {
        registry.arenas.put_back(id, region);
        // That of the file. It is there, with its region.
        registry.arenas.open(&name)?;
    } else {
        // Nobody has seen the file, so that its memory is as it was.
        registry.arenas.strike(id);
        give_back(registry, region);
    }
    published
}

/// Removes an arena.
///
/// # Errors
///
/// `ENOENT`; `EBUSY` if it is open, granted to an instance that runs, or being resized or removed.
pub(crate) fn remove(subsystem: &Subsystem, name: &Name) -> Result {
    let mut guard = subsystem.lock();
    let registry: &mut Registry = &mut guard;
    let instances = &registry.instances;
    let (id, region) = registry
        .arenas
        .take_out(name, |handle| may_run(instances, handle))?;
    drop(guard);
    // Until this is done the name is taken, so that who removes it finds the memory in the pool.
    zero(&region);
    let mut registry = subsystem.lock();
    registry.arenas.strike(id);
    give_back(&mut registry, region);
    Ok(())
}

fn zero(region: &Region) {
    // Cannot fail: it is the region's own range.
    let _ = region.zero(region.base(), region.size());
}

fn give_back(registry: &mut Registry, region: Region) {
    if !registry.memory.give_back(region) {
        pr_err!("an arena's memory was not in the ledger\n");
    }
}

/// Makes an arena longer or shorter. What is in it stays, as far as there is room for it; what is
/// new is zero. If there is no free memory behind it, it moves, to other memory of its node.
///
/// # Errors
///
/// As [`remove`]; `EINVAL` for an impossible size, `ENOSPC`, `ENOMEM`; nothing has changed then.
pub(crate) fn resize(subsystem: &Subsystem, name: &Name, size: u64) -> Result {
    let room = Room {
        memory: 2,
        ..Room::default()
    };
    let mut guard = subsystem.lock_with_room(room)?;
    let registry: &mut Registry = &mut guard;
    registry.memory.check(0, size)?;
    if registry.is_closed() {
        return Err(EBUSY);
    }
    let instances = &registry.instances;
    let (id, mut region) = registry
        .arenas
        .take_out(name, |handle| may_run(instances, handle))?;
    let memory = &mut registry.memory;
    let was = region.size();
    // What is the pool's again when it has been zeroed, and what is to be the arena's instead.
    let change = match size.cmp(&was) {
        Ordering::Equal => Ok((None, None)),
        Ordering::Less => memory
            .split(&mut region, size)
            .map(|rest| (Some(rest), None)),
        Ordering::Greater => match memory.extend(&mut region, size - was) {
            Ok(()) => Ok((None, None)),
            Err(ENOSPC) => {
                let request = Request {
                    size,
                    nid: (region.nid() >= 0).then_some(region.nid()),
                    ..Request::default()
                };
                memory.take(&request, id).map(|other| (None, Some(other)))
            }
            Err(error) => Err(error),
        },
    };
    let (rest, other) = match change {
        Ok((None, None)) => {
            registry.arenas.put_back(id, region);
            return Ok(());
        }
        Ok(change) => change,
        Err(error) => {
            registry.arenas.put_back(id, region);
            return Err(error);
        }
    };
    drop(guard);

    let (region, rest) = match other {
        Some(other) => {
            other.copy_from(&region);
            (other, Some(region))
        }
        None => (region, rest),
    };
    if let Some(rest) = &rest {
        zero(rest);
    }
    let mut guard = subsystem.lock();
    let registry: &mut Registry = &mut guard;
    // It is there: nobody strikes out an arena whose region is not in hand.
    let lost = registry.arenas.put_back(id, region);
    for region in Iterator::chain(rest.into_iter(), lost) {
        give_back(registry, region);
    }
    Ok(())
}

/// Allows an instance to have an arena, from its next look on.
///
/// # Errors
///
/// `ENOENT` if there is no such arena or instance; `EBUSY` if an instance that runs would lose the
/// right to write; `ENOMEM`.
pub(crate) fn grant(subsystem: &Subsystem, name: &Name, id: InstanceId, writable: bool) -> Result {
    let room = Room {
        grants: 1,
        ..Room::default()
    };
    let mut guard = subsystem.lock_with_room(room)?;
    let registry: &mut Registry = &mut guard;
    let instance = registry.find_id(id)?;
    let (handle, runs) = (instance.handle(), instance.may_run());
    registry.arenas.grant(name, handle, writable, runs)
}

/// Takes a grant back.
///
/// # Errors
///
/// `ENOENT` if there is no such arena or instance; `EACCES` if it was not granted; `EBUSY` if the
/// instance runs.
pub(crate) fn revoke(subsystem: &Subsystem, name: &Name, id: InstanceId) -> Result {
    let mut guard = subsystem.lock();
    let registry: &mut Registry = &mut guard;
    let instance = registry.find_id(id)?;
    let (handle, runs) = (instance.handle(), instance.may_run());
    registry.arenas.revoke(name, handle, runs)
}

/// What the spawn at the other end of a link may have. As long as it runs, this holds.
///
/// # Errors
///
/// `ESTALE` if it does not run any more; as [`super::arenas::Arenas::granted`].
pub(crate) fn granted(subsystem: &Subsystem, link: &Arc<Link>, name: &Name) -> Result<Granted> {
    let registry = subsystem.lock();
    let instance = at_link(&registry, link)?;
    let (grant, place) = registry.arenas.granted(name, instance.handle())?;
    Ok(Granted {
        base: place.base,
        size: place.size,
        writable: grant.writable,
    })
}

/// The instance whose spawn is at the other end of a link.
///
/// # Errors
///
/// `ESTALE` if it does not run any more.
pub(super) fn at_link<'a>(registry: &'a Registry, link: &Arc<Link>) -> Result<&'a Instance> {
    let linked = |instance: &&KBox<Instance>| {
        let own = instance.link.as_ref();
        instance.may_run() && own.is_some_and(|own| Arc::ptr_eq(own, link))
    };
    let instance = registry.instances.iter().find(linked);
    instance.map(|instance| &**instance).ok_or(ESTALE)
}
