// SPDX-License-Identifier: GPL-2.0

//! Links to other spawns, as the host offers them and takes them back.
//!
//! Owns the list of them, and their memory, which is the host's: it is mapped when a link is
//! offered, and unmapped when the link has been withdrawn and nobody uses it any more, of which the
//! host is told then, if it was not at once. One mutex guards it all; it is held for looking things
//! up, and by the one work item of `link/sibling.rs`, which alone changes something.

use kernel::{
    fs::File,
    new_mutex,
    prelude::*,
    str::CStr,
    sync::{
        poll::PollTable,
        Arc,
        Mutex,
        SetOnce, //
    },
    uapi, //
};

use super::{
    shared::Mapped,
    FACTS, //
};
use crate::{
    abi::{
        self,
        LinksMessage,
        NAME_LENGTH, //
    },
    device::check_capable,
    file::{
        self,
        AnonFile, //
    },
    instance::Name,
    link::{
        call,
        offer::{
            self,
            Message, //
        },
        outbox::Link,
        peer,
        sibling, //
    },
    message,
    user::UserStruct, //
};

/// How long to wait for the host's answer, which takes it no longer than to look.
const ANSWER_MS: u32 = 1000;

/// A link that is up.
struct Sibling {
    name: Name,
    id: u32,
    link: Arc<Link>,
}

/// Memory that is mapped, or of which the host is to be told that it is not any more.
struct Held {
    id: u32,
    epoch: u32,
    mapped: Option<Arc<Mapped>>,
    /// The host waits to be told.
    owed: bool,
}

/// An offer of which some APIC ids are still to come.
struct Pending {
    head: LinksMessage,
    ids: KVec<u32>,
}

struct Inner {
    siblings: KVec<Sibling>,
    held: KVec<Held>,
    pending: Option<Pending>,
    /// Instances, and the last epoch of a link to each that was withdrawn: an offer that comes late
    /// is not for memory that is somebody else's by now.
    ended: KVec<(u32, u32)>,
    /// The host knows that this kernel takes part.
    announced: bool,
}

#[pin_data]
struct Siblings {
    #[pin]
    inner: Mutex<Inner>,
}

static SIBLINGS: SetOnce<Pin<KBox<Siblings>>> = SetOnce::new();

/// From now on links are taken up. To be called once, when the link to the host is there.
///
/// # Errors
///
/// `ENOMEM`.
pub(super) fn set_up() -> Result {
    SIBLINGS.populate(KBox::pin_init(
        pin_init!(Siblings {
            inner <- new_mutex!(
                Inner {
                    siblings: KVec::new(),
                    held: KVec::new(),
                    pending: None,
                    ended: KVec::new(),
                    announced: false,
                },
                "multikernel::siblings"
            ),
        }),
        GFP_KERNEL,
    )?);
    sibling::set_up()?;
    // Tells the host.
    sibling::look();
    Ok(())
}

/// The host says something of a link. What it is told in return, if it is to be told a number.
///
/// # Errors
///
/// - `EPERM`: it was not the host. `EINVAL`: it makes no sense.
/// - `ESTALE`: an offer of a link that has been withdrawn already, or is another instance's.
/// - `EBUSY`: a part of an offer whose beginning has not come; it is to be begun anew.
/// - `EPROTO`: what is at the address is no such link. `ENOMEM`.
pub(crate) fn told(link: &Arc<Link>, message: &Message<'_>) -> Result<u32> {
    if !peer::host().is_some_and(|host| Arc::ptr_eq(host, link)) {
        return Err(EPERM);
    }
    let siblings = SIBLINGS.as_ref().ok_or(EOPNOTSUPP)?;
    match message.head.operation {
        abi::LINKS_OFFER => siblings.offered(message).map(|()| 0),
        abi::LINKS_WITHDRAW => siblings.withdrawn(&message.head),
        _ => Err(EOPNOTSUPP),
    }
}

impl Siblings {
    /// A part of an offer, or all of it.
    fn offered(&self, message: &Message<'_>) -> Result {
        let head = LinksMessage {
            first: 0,
            ..message.head
        };
        let before = if message.head.first == 0 {
            None
        } else {
            let pending = self.inner.lock().pending.take();
            Some(pending.filter(|it| it.head == head).ok_or(EBUSY)?)
        };
        let mut ids = before.map_or(KVec::new(), |pending| pending.ids);
        if !message.follows_on(ids.len()) {
            return Err(EINVAL);
        }
        ids.reserve(head.cpus as usize - ids.len(), GFP_KERNEL)?;
        for id in message.ids() {
            // There is room.
            let _ = ids.push_within_capacity(id);
        }
        if ids.len() < head.cpus as usize {
            self.inner.lock().pending = Some(Pending { head, ids });
            return Ok(());
        }
        self.join(&head, ids)
    }

    /// Takes part in a link.
    fn join(&self, head: &LinksMessage, ids: KVec<u32>) -> Result {
        let own = FACTS.as_ref().ok_or(EOPNOTSUPP)?.id;
        let name = Name::new(&head.name)?;
        if head.peer == 0 || head.peer == own || head.side > 1 {
            return Err(EINVAL);
        }
        let mut inner = self.inner.lock();
        let late = |&(id, epoch): &(u32, u32)| id == head.peer && epoch >= head.epoch;
        if inner.ended.iter().any(late) {
            return Err(ESTALE);
        }
        let same = |it: &Sibling| it.id == head.peer || it.name == name;
        let before = inner.siblings.iter().position(same);
        if let Some(sibling) = before.and_then(|at| inner.siblings.get(at)) {
            if sibling.link.region.layout().epoch() == head.epoch {
                // The answer to it came too late.
                return Ok(());
            }
            // The host does not do this. Whatever it means, what it says last counts.
            let sibling = before.and_then(|at| inner.siblings.remove(at).ok());
            drop(inner);
            if let Some(sibling) = sibling {
                peer::close(&sibling.link);
            }
            inner = self.inner.lock();
        }
        inner.siblings.reserve(1, GFP_KERNEL)?;
        inner.held.reserve(1, GFP_KERNEL)?;
        drop(inner);

        let mapped = Arc::new(Mapped::new(head.base, head.size)?, GFP_KERNEL)?;
        let region = Mapped::lease(&mapped)?;
        let layout = region.layout();
        // CAST: 0 or 1.
        let side = head.side as usize;
        if layout.side(side).id != own
            || layout.side(side ^ 1).id != head.peer
            || layout.epoch() != head.epoch
        {
            return Err(ESTALE);
        }
        let link = peer::join(Arc::new(region, GFP_KERNEL)?, side, Some(ids))?;
        let mut inner = self.inner.lock();
        // There is room for both.
        let _ = inner.held.push_within_capacity(Held {
            id: head.peer,
            epoch: head.epoch,
            mapped: Some(mapped),
            owed: false,
        });
        let _ = inner.siblings.push_within_capacity(Sibling {
            name,
            id: head.peer,
            link,
        });
        drop(inner);
        pr_info!("link to {} (instance {})\n", name.as_str(), head.peer);
        Ok(())
    }

    /// Ends a link: nobody is rung for it any more. 1 if its memory is mapped still.
    fn withdrawn(&self, head: &LinksMessage) -> Result<u32> {
        let mut inner = self.inner.lock();
        inner.ended.reserve(1, GFP_KERNEL)?;
        match inner.ended.iter_mut().find(|(id, _)| *id == head.peer) {
            Some((_, epoch)) => *epoch = head.epoch.max(*epoch),
            // There is room.
            None => drop(inner.ended.push_within_capacity((head.peer, head.epoch))),
        }
        let this = |it: &Sibling| {
            it.id == head.peer && it.link.region.layout().epoch() == head.epoch //
        };
        let at = inner.siblings.iter().position(this);
        let gone = at.and_then(|at| inner.siblings.remove(at).ok());
        drop(inner);
        if let Some(sibling) = gone {
            peer::close(&sibling.link);
            pr_info!(
                "no link to {} (instance {}) any more\n",
                sibling.name.as_str(),
                sibling.id
            );
        }
        let mut inner = self.inner.lock();
        let this = |it: &Held| it.id == head.peer && it.epoch == head.epoch;
        let Some(at) = inner.held.iter().position(this) else {
            return Ok(0);
        };
        let over = |it: &Held| it.mapped.as_ref().is_none_or(|mapped| mapped.is_over());
        if inner.held.get(at).is_some_and(over) {
            let held = inner.held.remove(at);
            drop(inner);
            // Unmapped before the host hears of it.
            drop(held);
            return Ok(0);
        }
        if let Some(held) = inner.held.get_mut(at) {
            held.owed = true;
        }
        Ok(1)
    }

    /// Takes out one that is not used any more.
    fn take_over(&self) -> Option<Held> {
        let mut inner = self.inner.lock();
        let over = |it: &Held| it.mapped.as_ref().is_none_or(|mapped| mapped.is_over());
        let at = inner.held.iter().position(over)?;
        inner.held.remove(at).ok()
    }
}

/// Tells the host what it is to be told; whether all of it has been.
pub(crate) fn tidy() -> bool {
    let Some(siblings) = SIBLINGS.as_ref() else {
        return true;
    };
    if !siblings.inner.lock().announced {
        if !tell(abi::LINKS_READY, 0, 0) {
            return false;
        }
        siblings.inner.lock().announced = true;
    }
    while let Some(mut held) = siblings.take_over() {
        // Unmapped before the host hears of it.
        held.mapped = None;
        if held.owed && !tell(abi::LINKS_RELEASED, held.id, held.epoch) {
            // There is room: it was there before, and nobody else adds something.
            let _ = siblings.inner.lock().held.push_within_capacity(held);
            return false;
        }
    }
    true
}

/// Calls the host; whether that need not be tried again.
fn tell(operation: u32, peer: u32, epoch: u32) -> bool {
    let mut buffer = [0; offer::HEAD];
    let head = offer::about(operation, peer, epoch);
    let (Some(host), Some(_)) = (peer::host(), offer::compose(&mut buffer, &head, &[])) else {
        return true;
    };
    let result = call::call(host, None, abi::PORT_LINKS, &buffer, &mut [0; 4], ANSWER_MS);
    // The others: a host that does not know of this, or that is not there any more.
    !matches!(result, Err(ETIMEDOUT | EBUSY | EINTR | ENOMEM))
}

/// The link to the spawn of this name.
///
/// # Errors
///
/// `ENOTCONN` if there is none at the moment.
fn link_to(name: &Name) -> Result<Arc<Link>> {
    let siblings = SIBLINGS.as_ref().ok_or(ENOTCONN)?;
    let inner = siblings.inner.lock();
    let found = inner.siblings.iter().find(|it| it.name == *name);
    found.map(|it| it.link.clone()).ok_or(ENOTCONN)
}

/// ioctl(MULTIKERNEL_IOCTL_OPEN) in a spawn.
///
/// # Errors
///
/// `ENOENT` if there is no link to such a spawn at the moment, and as
/// `include/uapi/linux/multikernel.h` documents them.
pub(crate) fn open(argument: usize) -> Result {
    let mut request = UserStruct::<uapi::multikernel_ioctl_open>::read(argument)?;
    let value = &request.value;
    if value.reserved != 0 {
        return Err(EINVAL);
    }
    let wanted = if value.id == 0 {
        Some(Name::new(&value.name)?)
    } else if value.name == [0; NAME_LENGTH] {
        None
    } else {
        return Err(EINVAL);
    };
    let id = value.id;
    let inner = SIBLINGS.as_ref().ok_or(ENOENT)?.inner.lock();
    let is_wanted = |it: &&Sibling| wanted.map_or(it.id == id, |name| it.name == name);
    let found = inner.siblings.iter().find(is_wanted).ok_or(ENOENT)?;
    let (id, name) = (found.id, found.name);
    drop(inner);
    let file = file::open(SiblingFile(name))?;
    request.value.id = id;
    request.value.fd = file.descriptor();
    request.write()?;
    file.install();
    Ok(())
}

/// What is behind an fd for another spawn: its name, whatever lives and links it goes through.
struct SiblingFile(Name);

impl AnonFile for SiblingFile {
    const NAME: &'static CStr = c"[multikernel-sibling]";

    fn ioctl(&self, command: u32, argument: usize) -> Result {
        check_capable()?;
        message::ioctl(|| link_to(&self.0), command, argument)
    }

    fn read(&self, _address: usize, _bytes: usize, _wait: bool) -> Result<usize> {
        Err(EINVAL)
    }

    fn poll(&self, _file: &File, _table: PollTable<'_>) -> u32 {
        0
    }
}
