// SPDX-License-Identifier: GPL-2.0

//! Links between two spawns: the host lets them talk to each other, and no longer.
//!
//! What is granted and what has been made of it is in [`crate::link::grant`], guarded by the
//! registry's mutex. Each pair has a work item, which asks there what is to be done next, does it
//! without a lock, most often by calling one of the two spawns, and says how it went. Whatever may
//! have changed something has the work item run: a grant, a spawn that says it is ready, the end of
//! one. So a spawn that does not answer holds up nobody but its own pairs.
//!
//! The region of a link is the host's memory; the host itself is no side of it.

use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        lock::{
            mutex::MutexBackend,
            Guard, //
        },
        Arc,
        CondVarTimeoutResult, //
    },
    time::msecs_to_jiffies,
    uapi,
    workqueue::{
        self,
        impl_has_delayed_work,
        impl_has_work,
        new_delayed_work,
        new_work,
        DelayedWork,
        Work,
        WorkItem, //
    }, //
};

use crate::{
    abi::{
        self,
        LinksMessage,
        LINK_GONE, //
    },
    arch::apic,
    instance::{
        Handle,
        Instance,
        State, //
    },
    link::{
        call,
        grant::{
            self,
            End,
            Listed,
            Lives,
            Party,
            Standing,
            Step,
            Table,
            Wanted, //
        },
        offer::{
            self,
            Message, //
        },
        outbox::Link,
        peer,
        region::Region, //
    },
    registry::{
        Registry,
        Subsystem, //
    },
    version, //
};

/// Milliseconds that a spawn has for an answer.
const ANSWER_MS: u32 = 1000;
/// Milliseconds until a spawn that has not answered is told again.
const AGAIN_MS: u32 = 1000;
/// Milliseconds that who gives CPUs to another kernel, or revokes a grant, waits for the spawn at
/// the other end of a link.
const SETTLE_MS: u32 = 500;
/// Steps that a work item does before others get to run.
const STEPS_MAX: usize = 16;

/// All grants, and their regions.
pub(crate) type Grants = Table<Arc<Region>, Arc<Pair>>;

/// What looks after a pair of instances.
#[pin_data]
pub(crate) struct Pair {
    parties: [Party; 2],
    /// How often one of the two has not answered since it last did.
    silent: Atomic<u32>,
    #[pin]
    work: Work<Pair>,
    /// As `work`, in a moment.
    #[pin]
    later: DelayedWork<Pair, 1>,
}

impl_has_work! {
    impl HasWork<Self> for Pair { self.work }
}

impl_has_delayed_work! {
    impl HasDelayedWork<Self, 1> for Pair { self.later }
}

impl WorkItem for Pair {
    type Pointer = Arc<Pair>;

    fn run(this: Arc<Pair>) {
        let Ok(subsystem) = Subsystem::get() else {
            return;
        };
        if this.look_after(subsystem) {
            let queue = workqueue::system_long();
            // An error means that it is queued already, which is as good.
            let _ = queue.enqueue_delayed::<_, 1>(this, msecs_to_jiffies(AGAIN_MS));
        }
    }
}

impl WorkItem<1> for Pair {
    type Pointer = Arc<Pair>;

    fn run(this: Arc<Pair>) {
        // Not here: the two must not be at it at the same time.
        this.schedule();
    }
}

/// The instances, as the table of grants asks for them.
struct Instances<'a>(&'a [KBox<Instance>]);

impl Instances<'_> {
    fn find(&self, serial: u64) -> Option<&Instance> {
        let mut instances = self.0.iter();
        let found = instances.find(|instance| instance.serial == serial);
        found.map(|instance| &**instance)
    }

    /// The link of the host to an instance that takes part in links to its siblings.
    fn link(&self, serial: u64) -> Option<&Arc<Link>> {
        let instance = self.find(serial)?;
        let link = instance.link.as_ref()?;
        let up = instance.state == State::Running
            && link.takes_links.load(Relaxed)
            && link.check_up().is_ok();
        up.then_some(link)
    }
}

impl Lives for Instances<'_> {
    fn alive(&self, serial: u64) -> Option<u32> {
        let instance = self.find(serial)?;
        match instance.state {
            State::Running | State::Stopping | State::Failed => Some(instance.epoch),
            _ => None,
        }
    }

    fn up(&self, serial: u64) -> Option<u32> {
        self.link(serial)?;
        Some(self.find(serial)?.epoch)
    }
}

fn party(instance: &Instance) -> Party {
    Party {
        serial: instance.serial,
        id: instance.id.get(),
    }
}

/// Takes the registry's mutex when there is that much room for grants and regions.
///
/// # Errors
///
/// `ENOMEM`; the mutex is not held then.
fn lock_with_room(
    subsystem: &Subsystem,
    grants: usize,
    regions: usize,
) -> Result<Guard<'_, Registry, MutexBackend>> {
    loop {
        let registry = subsystem.lock();
        let grants = registry.grants.lacks_grants(grants);
        let regions = registry.grants.lacks_regions(regions);
        if grants.or(regions).is_none() {
            return Ok(registry);
        }
        drop(registry);
        let lists = grant::new_lists(grants.unwrap_or(0), regions.unwrap_or(0))?;
        subsystem.lock().grants.adopt(lists);
    }
}

/// Lets two instances talk to each other from now on, whenever both run. `other` finds the second
/// one.
///
/// # Errors
///
/// `EINVAL` if they are the same, `EISCONN` if they may already; `ENOMEM`, `ESTALE`; those of
/// `other`.
pub(crate) fn connect(
    subsystem: &Subsystem,
    handle: Handle,
    other: impl FnOnce(&mut Registry) -> Result<Handle>,
) -> Result {
    let mut registry = lock_with_room(subsystem, 1, 0)?;
    let one = party(registry.find(handle)?);
    let other = other(&mut registry)?;
    let other = party(registry.find(other)?);
    drop(registry);
    let pair = Arc::pin_init(
        pin_init!(Pair {
            parties: grant::in_order(one, other),
            silent: Atomic::new(0),
            work <- new_work!("multikernel::pair_work"),
            later <- new_delayed_work!("multikernel::pair_later"),
        }),
        GFP_KERNEL,
    )?;
    let mut registry = lock_with_room(subsystem, 1, 0)?;
    // One of them may have been destroyed meanwhile: nobody would take its grant away again.
    let there = Instances(&registry.instances);
    if there.find(one.serial).is_none() {
        return Err(ESTALE);
    }
    if there.find(other.serial).is_none() {
        return Err(ENOENT);
    }
    registry.grants.connect(one, other, pair)?.schedule();
    Ok(())
}

/// Takes a grant back, and waits until neither of the two rings the other any more.
///
/// # Errors
///
/// - `EINVAL` if they are the same, `ENOLINK` if there is no grant; `ESTALE`; those of `other`.
/// - `ETIMEDOUT`, `EINTR`: the grant has been taken back, and a spawn has not answered yet.
pub(crate) fn disconnect(
    subsystem: &Subsystem,
    handle: Handle,
    other: impl FnOnce(&mut Registry) -> Result<Handle>,
) -> Result {
    let mut registry = subsystem.lock();
    let one = party(registry.find(handle)?);
    let other = other(&mut registry)?;
    let other = party(registry.find(other)?);
    registry.grants.disconnect(one, other)?.schedule();
    drop(registry);
    let over = |grants: &Grants, lives: &Instances<'_>| grants.is_over(one, other, lives);
    if wait(subsystem, over)? {
        Ok(())
    } else {
        Err(ETIMEDOUT)
    }
}

/// Waits until something holds of the grants, for [`SETTLE_MS`] at most; whether it does.
///
/// # Errors
///
/// `EINTR`.
fn wait(subsystem: &Subsystem, holds: impl Fn(&Grants, &Instances<'_>) -> bool) -> Result<bool> {
    let mut left = msecs_to_jiffies(SETTLE_MS);
    let mut registry = subsystem.lock();
    loop {
        if holds(&registry.grants, &Instances(&registry.instances)) {
            return Ok(true);
        }
        if left == 0 {
            return Ok(false);
        }
        left = match subsystem
            .changed()
            .wait_interruptible_timeout(&mut registry, left)
        {
            CondVarTimeoutResult::Woken { jiffies } => jiffies,
            CondVarTimeoutResult::Timeout => 0,
            CondVarTimeoutResult::Signal { .. } => return Err(EINTR),
        };
    }
}

/// Waits until no other spawn rings the CPUs of an instance that does not run, for what it was
/// told when it did; they are about to be another kernel's. One that has not said so in time is
/// taken not to: its region says that nobody is there to be rung.
///
/// # Errors
///
/// `EINTR`.
pub(crate) fn settle(subsystem: &Subsystem, handle: Handle) -> Result {
    let settled = |grants: &Grants, lives: &Instances<'_>| grants.is_settled(handle.serial, lives);
    wait(subsystem, settled).map(|_| ())
}

/// The CPUs of an instance have been parked, or are taken to be: says so in its name to those who
/// talk to it. Does not wait for anything.
pub(crate) fn gone(registry: &Registry, instance: &Instance) {
    let (serial, life) = (instance.serial, instance.epoch);
    let grants = &registry.grants;
    grants.for_each_region(serial, life, |region, side| {
        region.announce(side, LINK_GONE, 0);
    });
}

/// Something has changed with an instance: has its pairs looked after.
pub(crate) fn changed(registry: &Registry, serial: u64) {
    registry.grants.for_each_of(serial, Pair::schedule);
}

/// An instance is destroyed.
pub(crate) fn forget(registry: &mut Registry, serial: u64) {
    registry.grants.remove(serial);
    changed(registry, serial);
}

/// A spawn says something of links to its siblings.
///
/// # Errors
///
/// `EOPNOTSUPP` if it is nothing that this kernel knows.
pub(crate) fn told(link: &Arc<Link>, message: &Message<'_>) -> Result {
    let subsystem = Subsystem::get()?;
    match message.head.operation {
        abi::LINKS_READY => {
            link.takes_links.store(true, Relaxed);
            let registry = subsystem.lock();
            let own = |other: &Arc<Link>| Arc::ptr_eq(link, other);
            let instance = registry
                .instances
                .iter()
                .find(|instance| instance.link.as_ref().is_some_and(own));
            if let Some(instance) = instance {
                changed(&registry, instance.serial);
            }
            Ok(())
        }
        abi::LINKS_RELEASED => {
            let mut registry = subsystem.lock();
            let pair = registry.grants.released(message.head.epoch, link.peer_id());
            if let Some(pair) = pair {
                pair.schedule();
            }
            Ok(())
        }
        _ => Err(EOPNOTSUPP),
    }
}

/// A grant, for user space.
pub(crate) fn item(listed: &Listed) -> uapi::multikernel_link {
    uapi::multikernel_link {
        ids: listed.ids,
        state: match listed.standing {
            Standing::Down => uapi::MULTIKERNEL_LINK_DOWN,
            Standing::Up => uapi::MULTIKERNEL_LINK_UP,
            Standing::Changing => uapi::MULTIKERNEL_LINK_CHANGING,
        },
        epoch: listed.epoch,
    }
}

/// What a spawn is told.
struct Telling {
    link: Arc<Link>,
    head: LinksMessage,
    /// APIC ids of the other spawn's CPUs.
    ids: KVec<u32>,
}

impl Telling {
    /// Calls the spawn; by another one of its CPUs the next time, as one may hang. The number that
    /// it answers.
    fn call(&self, attempt: u32) -> Result<u32> {
        let cpus = self.link.region.layout().side(self.link.peer()).cpus.max(1);
        let mut buffer = KVec::from_elem(0u8, call::CALL_MAX, GFP_KERNEL)?;
        let mut answer = [0; 4];
        let mut first = 0;
        loop {
            let ids = self.ids.get(first..).unwrap_or_default();
            let head = LinksMessage {
                // CAST: At most `MULTIKERNEL_CPUS_MAX`.
                first: first as u32,
                ..self.head
            };
            let length = offer::compose(&mut buffer, &head, ids).ok_or(EMSGSIZE)?;
            let request = buffer.get(..length).ok_or(EMSGSIZE)?;
            let to = Some(attempt % cpus);
            call::call(
                &self.link,
                to,
                abi::PORT_LINKS,
                request,
                &mut answer,
                ANSWER_MS,
            )?;
            first += offer::IDS_MAX;
            if first >= self.ids.len() {
                return Ok(u32::from_le_bytes(answer));
            }
        }
    }
}

impl Pair {
    /// Has the work item run.
    fn schedule(self: &Arc<Self>) {
        // An error means that it is queued already, which is as good.
        let _ = workqueue::system_long().enqueue::<_, 0>(self.clone());
    }

    /// Does what is to be done; whether it is to be tried again.
    fn look_after(self: &Arc<Self>, subsystem: &Subsystem) -> bool {
        let mut skip = [false; 2];
        for _ in 0..STEPS_MAX {
            match self.step(subsystem, &mut skip) {
                Ok(true) => {}
                Ok(false) => return skip != [false; 2],
                Err(_) => return true,
            }
        }
        self.schedule();
        false
    }

    /// Does one thing; whether there may be another.
    fn step(&self, subsystem: &Subsystem, skip: &mut [bool; 2]) -> Result<bool> {
        let mut ids = KVec::with_capacity(uapi::MULTIKERNEL_CPUS_MAX as usize, GFP_KERNEL)?;
        let mut guard = lock_with_room(subsystem, 0, 1)?;
        let registry = &mut *guard;
        let lives = Instances(&registry.instances);
        let step = registry.grants.next(self.parties, &lives, *skip);
        match step {
            Step::Rest => Ok(false),
            Step::Free(region) => {
                drop(guard);
                drop(region);
                Ok(true)
            }
            Step::Make(wanted) => {
                let cpus = |party: Party| lives.find(party.serial).map_or(1, |it| it.cpus_max);
                let sides = wanted.parties.map(|party| (party.id, cpus(party)));
                drop(guard);
                make(subsystem, wanted, sides)?;
                Ok(true)
            }
            Step::Offer(end, region) => {
                let head = LinksMessage {
                    // CAST: 0 or 1.
                    side: end.side as u32,
                    base: region.phys().ok_or(EINVAL)?,
                    size: region.layout().size() + version::claim::appended(),
                    ..offer::about(abi::LINKS_OFFER, end.peer.id, end.epoch)
                };
                let told = tell(&lives, end, head, &mut ids);
                drop(guard);
                self.offer(subsystem, end, told, skip);
                // The last reference may be this one.
                drop(region);
                Ok(true)
            }
            Step::Withdraw(end) => {
                let head = offer::about(abi::LINKS_WITHDRAW, end.peer.id, end.epoch);
                let told = tell(&lives, end, head, &mut KVec::new());
                drop(guard);
                self.withdraw(subsystem, end, told, skip);
                Ok(true)
            }
        }
    }

    /// Notes how it went to tell a spawn something: what it answered, or that it is to be skipped
    /// for now.
    fn answered(&self, end: End, told: Option<Telling>, skip: &mut [bool; 2]) -> Result<u32> {
        let attempt = self.silent.load(Relaxed);
        let result = told.ok_or(EPIPE).and_then(|it| it.call(attempt));
        match result {
            Err(ETIMEDOUT) => {
                if attempt == 0 {
                    pr_warn!(
                        "instance {} does not answer about its link to instance {}\n",
                        end.party.id,
                        end.peer.id
                    );
                }
                self.silent.store(attempt.wrapping_add(1), Relaxed);
            }
            _ => self.silent.store(0, Relaxed),
        }
        if result.is_err() {
            if let Some(skipped) = skip.get_mut(end.side) {
                *skipped = true;
            }
        }
        result
    }

    fn offer(&self, subsystem: &Subsystem, end: End, told: Option<Telling>, skip: &mut [bool; 2]) {
        let result = self.answered(end, told, skip);
        match result {
            // It may do so another time, or has ended.
            Err(ETIMEDOUT | EBUSY | EINTR | ENOMEM | EPIPE | ENOTCONN) => return,
            Err(error) => pr_warn!(
                "instance {} refuses a link to instance {}: {}\n",
                end.party.id,
                end.peer.id,
                error.to_errno()
            ),
            Ok(_) => {}
        }
        let mut registry = subsystem.lock();
        registry.grants.offered(end, result.is_ok());
        drop(registry);
        if result.is_err() {
            // It has answered: what comes next is to withdraw it.
            *skip = [false; 2];
        }
        subsystem.notify();
    }

    fn withdraw(
        &self,
        subsystem: &Subsystem,
        end: End,
        told: Option<Telling>,
        skip: &mut [bool; 2],
    ) {
        if let Ok(mapped) = self.answered(end, told, skip) {
            subsystem.lock().grants.withdrawn(end, mapped != 0);
            subsystem.notify();
        }
    }
}

/// Makes a region, if it is still wanted; if not, that turns out at the next step.
fn make(subsystem: &Subsystem, wanted: Wanted, sides: [peer::Side; 2]) -> Result {
    let (region, _, _) = peer::make(sides, wanted.epoch)?;
    let mut registry = lock_with_room(subsystem, 0, 1)?;
    registry.grants.made(wanted, region)
}

/// What is needed to tell a side of a link something; `None` if its spawn has just ended. `ids` has
/// room for the APIC ids of the other side.
fn tell(
    lives: &Instances<'_>,
    end: End,
    mut head: LinksMessage,
    ids: &mut KVec<u32>,
) -> Option<Telling> {
    let link = lives.link(end.party.serial)?.clone();
    let other = lives.find(end.peer.serial);
    if let Some(other) = other {
        head.name = *other.name.field();
        for &cpu in &other.cpus {
            // There is room for as many as an instance can have, or for none.
            let _ = ids.push_within_capacity(apic::number_of_cpu(cpu));
        }
        // CAST: At most `MULTIKERNEL_CPUS_MAX`. It may be given more in this life, to which it does
        // not have itself rung over this link: see `link/inbox.rs`.
        head.cpus = ids.len() as u32;
    }
    Some(Telling {
        link,
        head,
        ids: core::mem::take(ids),
    })
}
