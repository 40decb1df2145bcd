// SPDX-License-Identifier: GPL-2.0

//! What inboxes hold: links and ports that come and go, and CPUs that do.
//!
//! Who adds something holds the mutex of all inboxes for it, so that the room that he has made
//! stays his, and each inbox's lock for a moment, one after another.

use kernel::{
    cpu::CpuId,
    prelude::*,
    sync::{
        atomic::Relaxed,
        lock::{
            mutex::MutexBackend,
            Guard, //
        },
        Arc, //
    }, //
};

use super::{
    super::outbox::Link,
    attached::Attached,
    inboxes,
    CpuInbox,
    Handler,
    Inbox,
    Left,
    Rest,
    INBOXES,
    WORK_BUDGET, //
};
use crate::room;

/// Id of the host's side of a link.
const HOST_ID: u32 = 0;

/// Takes the mutex of those who add something.
///
/// # Errors
///
/// `EOPNOTSUPP` before [`set_up`](super::set_up), or where it failed.
fn changes() -> Result<Guard<'static, (), MutexBackend>> {
    let inboxes = INBOXES.as_ref().ok_or(EOPNOTSUPP)?;
    Ok(inboxes.changes.lock())
}

fn apic_id(cpu: u32) -> u32 {
    CpuId::from_u32(cpu).map_or(0, crate::arch::apic::number_of_cpu)
}

impl CpuInbox {
    /// Says in the bell of its CPU who is to be rung. With the inbox locked, so that a CPU which
    /// goes or comes just now has the last word.
    fn announce(&self, link: &Link) {
        let Some(bell) = link.region.bell(link.side, self.cpu) else {
            return;
        };
        let known = link.peer_id() == HOST_ID || !self.late.load(Relaxed);
        let own = known && !self.orphaned.load(Relaxed);
        bell.announce(apic_id(if own { self.cpu } else { 0 }), own);
    }
}

/// Makes room in a list of each inbox; [`changes`] keeps it there.
fn with_room<T>(
    inbox: &CpuInbox,
    list: impl Fn(&mut Inbox) -> &mut KVec<T>,
    add: impl FnOnce(&mut KVec<T>),
) -> Result {
    let missing = room::lacks(list(&mut inbox.inbox.lock()), 1);
    let larger = KVec::with_capacity(missing.unwrap_or(0), GFP_KERNEL)?;
    let mut guard = inbox.inbox.lock();
    let list = list(&mut guard);
    room::adopt(list, larger);
    add(list);
    Ok(())
}

/// Has messages of a link taken from now on. The other side may be there already or not.
///
/// # Errors
///
/// `ENOMEM`; the link is in no inbox then.
pub(crate) fn attach(link: &Arc<Link>) -> Result {
    let _guard = changes()?;
    let cpus = link.region.layout().side(link.side).cpus;
    let result = inboxes().iter().try_for_each(|inbox| {
        if inbox.cpu >= cpus {
            return Ok(());
        }
        let attached = KBox::new(Attached::new(link)?, GFP_KERNEL)?;
        with_room(
            inbox,
            |inbox| &mut inbox.links,
            // There is room.
            |links| drop(links.push_within_capacity(attached)),
        )?;
        announce(inbox, link);
        Ok(())
    });
    if result.is_err() {
        detach(link);
    }
    result
}

/// Says in a CPU's bell of a link how it is woken: from now on it is.
fn announce(inbox: &CpuInbox, link: &Arc<Link>) {
    let guard = inbox.inbox.lock();
    inbox.announce(link);
    drop(guard);
    // Falls asleep, unless there is something already.
    inbox.take_later(inbox.take(WORK_BUDGET, Rest::Always).left);
}

/// Takes no messages of a link any more. When it returns, no handler is at work on one.
///
/// Does not wait for those who add links and ports: they allocate, and a forced stop calls this.
pub(crate) fn detach(link: &Arc<Link>) {
    for inbox in inboxes() {
        let mut guard = inbox.inbox.lock();
        let at = guard
            .links
            .iter()
            .position(|attached| Arc::ptr_eq(&attached.link, link));
        let gone = at.and_then(|at| guard.links.remove(at).ok());
        drop(guard);
        // Freed without the lock.
        drop(gone);
    }
}

/// Gives a port to a handler.
///
/// # Errors
///
/// `EADDRINUSE` if it has one, `ENOMEM`.
pub(crate) fn add_port(port: u32, handler: Arc<dyn Handler>) -> Result {
    let _guard = changes()?;
    let taken = |inbox: &Inbox| inbox.ports.iter().any(|(number, _)| *number == port);
    if inboxes()
        .first()
        .is_some_and(|inbox| taken(&inbox.inbox.lock()))
    {
        return Err(EADDRINUSE);
    }
    let result = inboxes().iter().try_for_each(|inbox| {
        let handler = handler.clone();
        with_room(
            inbox,
            |inbox| &mut inbox.ports,
            // There is room.
            |ports| drop(ports.push_within_capacity((port, handler))),
        )
    });
    if result.is_err() {
        remove_port(port);
    }
    result
}

/// Takes a port from its handler, if it has one. May sleep; not to be called by a handler. When it
/// returns, the handler is not at work any more, and has been dropped.
pub(crate) fn take_port_back(port: u32) {
    if let Ok(_guard) = changes() {
        remove_port(port);
    }
}

/// Takes a port from its handler. The caller has [`changes`]; when this returns, the handler is not
/// at work any more.
fn remove_port(port: u32) {
    for inbox in inboxes() {
        let mut guard = inbox.inbox.lock();
        let at = guard.ports.iter().position(|(number, _)| *number == port);
        let gone = at.and_then(|at| guard.ports.remove(at).ok());
        drop(guard);
        drop(gone);
    }
}

/// A CPU goes on or off line: what is sent to it is from now on its own or CPU 0's to take.
pub(crate) fn cpu_changed(cpu: u32, online: bool) {
    let Some(inbox) = inboxes().get(cpu as usize) else {
        return;
    };
    let guard = inbox.inbox.lock();
    inbox.orphaned.store(!online, Relaxed);
    for attached in &guard.links {
        inbox.announce(&attached.link);
    }
    drop(guard);
    // What came in between, whoever was rung for it.
    inbox.take_later(Left::Messages);
}

/// This kernel, a spawn, is given a CPU that it has not run on yet.
#[cfg(CONFIG_MULTIKERNEL_GUEST)]
pub(crate) fn came_late(cpu: u32) {
    if let Some(inbox) = inboxes().get(cpu as usize) {
        inbox.late.store(true, Relaxed);
    }
}

/// The links that are attached.
///
/// # Errors
///
/// `ENOMEM`.
pub(crate) fn links() -> Result<KVec<Arc<Link>>> {
    let mut list = KVec::new();
    let Some(first) = inboxes().first() else {
        return Ok(list);
    };
    loop {
        let inbox = first.inbox.lock();
        if inbox.links.len() <= list.capacity() {
            for attached in &inbox.links {
                // There is room.
                let _ = list.push_within_capacity(attached.link.clone());
            }
            return Ok(list);
        }
        let wanted = inbox.links.len();
        drop(inbox);
        list.reserve(wanted, GFP_KERNEL)?;
    }
}
