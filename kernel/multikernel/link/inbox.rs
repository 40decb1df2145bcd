// SPDX-License-Identifier: GPL-2.0

//! Receiving: what a CPU does when its doorbell rings.
//!
//! Each CPU has an *inbox*: the links that are up, each with the lanes that lead to this CPU, and
//! the ports that messages go to. It is guarded by a spinlock with interrupts off, which nobody but
//! its own CPU takes unless links or ports come and go, so that CPUs which receive share nothing.
//! The softirq behind a doorbell's interrupt takes a bounded number of messages; if there are more,
//! a work item on the same CPU takes the rest, without any further doorbell, until there are none.
//!
//! The inbox of a CPU that is offline is looked after by CPU 0, whose APIC id is in its bells.

use kernel::{
    cpu::CpuId,
    new_mutex,
    new_spinlock_irq,
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
        Mutex,
        SetOnce,
        SpinLockIrq, //
    },
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

use super::{
    call,
    channel,
    lane::{
        Header,
        Receiver, //
    },
    outbox::Link,
    region::{
        Bell,
        LaneWords, //
    },
    wake::Sleeper, //
};
use crate::{
    abi,
    registry::Subsystem,
    room, //
};

/// Messages that one doorbell takes at most, of one link.
const DOORBELL_BUDGET: usize = 64;
/// Messages that are taken from one lane before it is the next one's turn.
const LANE_BUDGET: usize = 16;
/// Id of the host's side of a link.
const HOST_ID: u32 = 0;
/// Messages that the work item takes before others get to run, of one link.
const WORK_BUDGET: usize = 256;

/// A message that has come.
pub(crate) struct Incoming<'a> {
    /// Over which link.
    pub(crate) link: &'a Arc<Link>,
    /// The CPU of the other side that sent it, as that side says.
    pub(crate) from: u32,
    /// What it is.
    pub(crate) header: Header,
    /// A copy of its payload, which nobody else changes.
    pub(crate) payload: &'a [u8],
}

/// What receives the messages to a port.
pub(crate) trait Handler: Send + Sync {
    /// A message has come. Called on the CPU that it was sent to, or on one that stands in for it,
    /// most often in a softirq, with interrupts off and an inbox locked: it must be short, must not
    /// sleep, and must not add ports or links.
    fn receive(&self, message: &Incoming<'_>);
}

/// A link in an inbox.
struct Attached {
    link: Arc<Link>,
    /// The other side's CPU, and the lane from there to here.
    lanes: KVec<(u32, Receiver<LaneWords>)>,
    /// How many of the other side's lanes have been looked at.
    seen: u32,
    sleeper: Sleeper,
    /// For one message.
    buffer: KVec<u8>,
}

/// A port, and who has it.
type Port = (u32, Arc<dyn Handler>);

#[derive(Default)]
struct Inbox {
    links: KVec<KBox<Attached>>,
    ports: KVec<Port>,
}

/// The inbox of a CPU.
#[pin_data]
struct CpuInbox {
    cpu: u32,
    /// Whether CPU 0 looks after it.
    orphaned: Atomic<bool>,
    /// Whether this kernel, a spawn, was given the CPU while it ran. Other spawns may not know its
    /// APIC id, and would not ring it: CPU 0 looks after their messages to it, as after an orphan's.
    late: Atomic<bool>,
    #[pin]
    inbox: SpinLockIrq<Inbox>,
    #[pin]
    work: Work<CpuInbox>,
    /// As `work`, in a moment.
    #[pin]
    later: DelayedWork<CpuInbox, 1>,
    /// What a doorbell is about.
    #[pin]
    rung: Work<CpuInbox, 2>,
}

impl_has_work! {
    impl HasWork<Self> for CpuInbox { self.work }
    impl HasWork<Self, 2> for CpuInbox { self.rung }
}

impl_has_delayed_work! {
    impl HasDelayedWork<Self, 1> for CpuInbox { self.later }
}

impl WorkItem for CpuInbox {
    type Pointer = Arc<CpuInbox>;

    fn run(this: Arc<CpuInbox>) {
        // If there is more, it comes again, behind the other work of this CPU.
        this.take_later(this.take(WORK_BUDGET).left);
    }
}

impl WorkItem<1> for CpuInbox {
    type Pointer = Arc<CpuInbox>;

    fn run(this: Arc<CpuInbox>) {
        <Self as WorkItem<0>>::run(this);
    }
}

/// What is left to be done.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Left {
    /// Nothing, until a doorbell rings.
    None,
    /// Answers to be sent when there is credit.
    Answers,
    /// Messages to be taken.
    Messages,
}

/// What has been done, and what is left to be done.
struct Taken {
    left: Left,
    /// Whether a message has been taken, or somebody woken.
    any: bool,
    /// Whether the other side of a link has ended, as far as it says, or is not there.
    ended: bool,
}

/// All inboxes.
#[pin_data]
struct Inboxes {
    list: KVec<Arc<CpuInbox>>,
    /// Held by who adds links or ports.
    #[pin]
    changes: Mutex<()>,
}

static INBOXES: SetOnce<Arc<Inboxes>> = SetOnce::new();

/// Makes an inbox for each CPU. To be called once, at boot.
///
/// # Errors
///
/// `ENOMEM`.
pub(crate) fn set_up() -> Result {
    let mut inboxes = KVec::with_capacity(kernel::cpu::nr_cpu_ids() as usize, GFP_KERNEL)?;
    for cpu in 0..kernel::cpu::nr_cpu_ids() {
        let online = is_online(cpu);
        let inbox = Arc::pin_init(
            pin_init!(CpuInbox {
                cpu,
                orphaned: Atomic::new(!online),
                late: Atomic::new(false),
                inbox <- new_spinlock_irq!(Inbox::default(), "multikernel::inbox"),
                work <- new_work!("multikernel::inbox_work"),
                later <- new_delayed_work!("multikernel::inbox_later"),
                rung <- new_work!("multikernel::inbox_rung"),
            }),
            GFP_KERNEL,
        )?;
        // There is room.
        let _ = inboxes.push_within_capacity(inbox);
    }
    INBOXES.populate(Arc::pin_init(
        pin_init!(Inboxes {
            list: inboxes,
            changes <- new_mutex!((), "multikernel::inbox_changes"),
        }),
        GFP_KERNEL,
    )?);
    Ok(())
}

/// An answer waits for credit: has it tried again. In any context but an NMI.
pub(super) fn answers_wait() {
    if let Some(inbox) = inboxes().first() {
        inbox.take_later(Left::Answers);
    }
}

fn inboxes() -> &'static [Arc<CpuInbox>] {
    INBOXES.as_ref().map_or(&[], |inboxes| &inboxes.list)
}

/// Takes the mutex of those who add something.
///
/// # Errors
///
/// `EOPNOTSUPP` before [`set_up`], or where it failed.
fn changes() -> Result<Guard<'static, (), MutexBackend>> {
    let inboxes = INBOXES.as_ref().ok_or(EOPNOTSUPP)?;
    Ok(inboxes.changes.lock())
}

fn is_online(cpu: u32) -> bool {
    CpuId::from_u32(cpu).is_some_and(crate::cpu::is_online)
}

fn apic_id(cpu: u32) -> u32 {
    CpuId::from_u32(cpu).map_or(0, crate::arch::apic::number_of_cpu)
}

/// This CPU has been rung. Called in its interrupt, which leaves the work to the softirq behind it:
/// inboxes have locks that sleep where the kernel is preemptible for real time.
pub(crate) fn doorbell() {
    let this = CpuId::current().as_u32();
    for inbox in inboxes() {
        let cared_for = inbox.orphaned.load(Relaxed) || inbox.late.load(Relaxed);
        if inbox.cpu == this || (this == 0 && cared_for) {
            // An error means that it is queued already, which is as good.
            let _ = workqueue::system_bh_highpri().enqueue::<_, 2>(inbox.clone());
        }
    }
}

impl WorkItem<2> for CpuInbox {
    type Pointer = Arc<CpuInbox>;

    fn run(this: Arc<CpuInbox>) {
        let taken = this.take(DOORBELL_BUDGET);
        this.take_later(taken.left);
        // Who rings has sent a message, or has ended; in the same moment perhaps both.
        if !taken.any || taken.ended {
            Subsystem::schedule_reap();
        }
    }
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

    /// Takes messages, at most `budget` of each link.
    fn take(&self, budget: usize) -> Taken {
        let mut inbox = self.inbox.lock();
        let Inbox { links, ports } = &mut *inbox;
        let mut taken = Taken {
            left: Left::None,
            any: false,
            ended: false,
        };
        for attached in links {
            let (left, any) = attached.take(self.cpu, ports, budget);
            let link = &attached.link;
            taken.left = taken.left.max(left);
            taken.any |= any;
            if link.send_deferred() {
                taken.left = taken.left.max(Left::Answers);
            }
            taken.any |= channel::doorbell(link, self.cpu);
            // Or it is not there yet, and perhaps never will: then it can end without saying so.
            taken.ended |= link.region.state(link.peer()) != abi::LINK_UP;
        }
        taken
    }

    /// Has the rest done by a work item, on the CPU that this runs on.
    fn take_later(&self, left: Left) {
        let Some(this) = inboxes().get(self.cpu as usize) else {
            return;
        };
        // An error means that it is queued already, which is as good.
        match left {
            Left::None => {}
            Left::Answers => {
                let queue = workqueue::system_highpri();
                let _ = queue.enqueue_delayed::<_, 1>(this.clone(), 1);
            }
            Left::Messages => {
                let _ = workqueue::system_highpri().enqueue::<_, 0>(this.clone());
            }
        }
    }
}

impl Attached {
    fn new(link: &Arc<Link>) -> Result<Self> {
        let lanes = link.region.layout().side(link.peer()).lanes as usize;
        let mut buffer = KVec::new();
        buffer.resize(link.shape().longest(), 0, GFP_KERNEL)?;
        Ok(Self {
            link: link.clone(),
            lanes: KVec::with_capacity(lanes, GFP_KERNEL)?,
            seen: 0,
            sleeper: Sleeper::new(),
            buffer,
        })
    }

    /// Takes note of lanes that the other side has taken into use since.
    fn discover(&mut self, cpu: u32) {
        let region = &self.link.region;
        let peer = self.link.peer();
        // At most as many as the layout has.
        let used = region.lanes(peer);
        while self.seen < used {
            let number = self.seen;
            self.seen += 1;
            match region.lane_ends(peer, number) {
                Some((from, to)) if to == cpu && from != abi::LANE_OF_PORT => {
                    if let Some(memory) = region.lane(peer, number) {
                        let lane = Receiver::new(memory, self.link.shape());
                        // There is room for as many as the layout has.
                        let _ = self.lanes.push_within_capacity((from, lane));
                    }
                }
                _ => {}
            }
        }
    }

    fn has_message(&mut self, cpu: u32) -> bool {
        self.discover(cpu);
        self.lanes.iter().any(|(_, lane)| lane.has_message())
    }

    /// Takes at most `budget` messages, and says whether there was one; if there are none left, the
    /// other side has to ring again.
    fn take(&mut self, cpu: u32, ports: &[Port], budget: usize) -> (Left, bool) {
        let mut left = budget;
        loop {
            // Also of a sleep in which nothing came: whoever rang for it does not ring again.
            self.with_bell(cpu, |sleeper, bell| sleeper.wake(bell));
            while left > 0 && self.has_message(cpu) {
                let before = left;
                self.deliver(ports, &mut left);
                if left == before {
                    // What was there is gone: no honest sender takes a message back.
                    break;
                }
            }
            if left == 0 {
                return (Left::Messages, true);
            }
            self.with_bell(cpu, |sleeper, bell| sleeper.sleep(bell));
            if !self.has_message(cpu) {
                return (Left::None, left != budget);
            }
            // A round costs something even if what was there is gone by now: the other side must
            // not keep this CPU busy.
            left -= 1;
        }
    }

    /// Has the sleeper say something in this CPU's bell.
    fn with_bell(&mut self, cpu: u32, say: impl FnOnce(&mut Sleeper, &Bell<'_>)) {
        if let Some(bell) = self.link.region.bell(self.link.side, cpu) {
            say(&mut self.sleeper, &bell);
        }
    }

    /// Takes some messages from each lane.
    fn deliver(&mut self, ports: &[Port], budget: &mut usize) {
        for (from, lane) in &mut self.lanes {
            let end = budget.saturating_sub(LANE_BUDGET);
            while *budget > end && !lane.is_broken() {
                let header = match lane.receive(&mut self.buffer) {
                    Ok(Some(header)) => header,
                    Ok(None) => break,
                    Err(_) => {
                        self.link.note_broken("from CPU", *from);
                        break;
                    }
                };
                *budget -= 1;
                self.link.counters.received.add(1, Relaxed);
                let port = ports.iter().find(|(number, _)| *number == header.port);
                let message = Incoming {
                    link: &self.link,
                    from: *from,
                    header,
                    // It has room for the longest.
                    payload: self
                        .buffer
                        .get(..header.length as usize)
                        .unwrap_or_default(),
                };
                match port {
                    Some((_, handler)) => handler.receive(&message),
                    None => {
                        self.link.counters.undeliverable.add(1, Relaxed);
                        call::refuse(&message);
                    }
                }
            }
        }
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
    inbox.take_later(inbox.take(WORK_BUDGET).left);
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
