// SPDX-License-Identifier: GPL-2.0

//! Receiving: what a CPU does when its doorbell rings.
//!
//! Each CPU has an *inbox*: the links that are up, each with the lanes that lead to this CPU, and
//! the ports that messages go to. It is guarded by a spinlock with interrupts off, which nobody but
//! its own CPU takes unless links or ports come and go, so that CPUs which receive share nothing.
//! The softirq behind a doorbell's interrupt takes a bounded number of messages; if there are more,
//! a work item on the same CPU takes the rest, without any further doorbell, until there are none.
//! A link that has had its share of the CPU waits, and so do doorbells for nothing, see `limit.rs`.
//! A caller that waits for its answer may look for it here, before it sleeps: [`polling`]. So may
//! the work item for more, behind messages that have come, if the CPU is idle.
//!
//! The inbox of a CPU that is offline is looked after by CPU 0, whose APIC id is in its bells.

use kernel::{
    cpu::CpuId,
    fmt,
    new_mutex,
    new_spinlock,
    new_spinlock_irq,
    prelude::*,
    processor::cpu_relax,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        Mutex,
        SetOnce,
        SpinLock,
        SpinLockIrq, //
    },
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

use super::{
    lane::Header,
    limit::{
        Budget,
        Gate, //
    },
    outbox::Link,
    poll::Window,
    ports,
    stats::Stats,
    tune, //
};
use crate::{
    abi,
    cpu,
    event,
    registry::Subsystem, //
};

mod attached;
mod members;
pub(super) mod polling;

use attached::Attached;
#[cfg(CONFIG_MULTIKERNEL_GUEST)]
pub(crate) use members::came_late;
pub(crate) use members::{
    add_port,
    attach,
    cpu_changed,
    detach,
    links,
    take_port_back, //
};

/// Messages that one doorbell takes at most, of one link.
const DOORBELL_BUDGET: usize = 64;
/// Messages that the work item takes before others get to run, of one link.
const WORK_BUDGET: usize = 256;

/// For how long the work item looks for more at a time.
const LINGER_NS: u64 = 1_000_000;

/// How long nothing more is said of a peer that wants too much of a CPU.
const REPORT_NS: u64 = 10_000_000_000;

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

/// A port, and who has it.
type Port = (u32, Arc<dyn Handler>);

#[derive(Default)]
struct Inbox {
    links: KVec<KBox<Attached>>,
    ports: KVec<Port>,
    /// What all links together have had of this CPU.
    total: Budget,
    gate: Gate,
    /// When it was last reported that doorbells ring for nothing; 0 if never.
    reported_ns: u64,
    /// For how long the work item looks for more behind a message.
    window: Window,
    /// When the last message came.
    last_ns: u64,
}

/// The inbox of a CPU.
#[pin_data]
struct CpuInbox {
    cpu: u32,
    /// Whether CPU 0 looks after it.
    orphaned: Atomic<bool>,
    /// Whether this kernel, a spawn, was given the CPU while it ran. Other spawns may not know its
    /// APIC id, and would not ring it: CPU 0 looks after their messages to it, as after those to
    /// an orphan.
    late: Atomic<bool>,
    /// When a doorbell is looked at next, CLOCK_MONOTONIC in nanoseconds; 0 for at once.
    next_look: Atomic<u64>,
    /// Whether there was one that was not.
    owed: Atomic<bool>,
    /// Whether there was something in an inbox that this CPU looks after for another one.
    others: Atomic<bool>,
    counters: Counters,
    #[pin]
    inbox: SpinLockIrq<Inbox>,
    /// Held by the task on this CPU that looks for its answer, which stays on it that long. Comes
    /// before the inbox.
    #[pin]
    polling: SpinLock<Window>,
    #[pin]
    work: Work<CpuInbox>,
    /// As `work`, in a moment.
    #[pin]
    later: DelayedWork<CpuInbox, 1>,
    /// What a doorbell is about.
    #[pin]
    rung: Work<CpuInbox, 2>,
}

/// What has been counted on a CPU, and by it.
struct Counters {
    /// Doorbells that rang.
    doorbells: Atomic<u64>,
    /// Those that were looked at and for nothing.
    idle: Atomic<u64>,
    /// Those that had to wait to be looked at.
    held: Atomic<u64>,
    /// How often a caller looked for its answer, or the work item for more.
    polls: Atomic<u64>,
    /// How often something came meanwhile.
    polled: Atomic<u64>,
}

impl Counters {
    const fn new() -> Self {
        Self {
            doorbells: Atomic::new(0),
            idle: Atomic::new(0),
            held: Atomic::new(0),
            polls: Atomic::new(0),
            polled: Atomic::new(0),
        }
    }
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
        let owed = this.owed.xchg(false, Relaxed);
        let taken = this.linger();
        // If there is more, it comes again, behind the other work of this CPU.
        this.take_later(taken.left);
        if owed {
            taken.reap();
        }
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
    /// In a moment: answers to be sent when there is credit, or messages of a link that has had
    /// its share.
    Later,
    /// Messages to be taken.
    Messages,
}

/// When who has found nothing more to take lets the bell sleep.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    Always,
    /// If something came, the work item looks again.
    IfNothingCame,
    /// Not now: he looks again.
    Never,
}

/// What has been done, and what is left to be done.
struct Taken {
    left: Left,
    /// Whether a message has been taken, now.
    came: bool,
    /// Whether a message has been taken, here or since a doorbell was last looked at, or somebody
    /// woken.
    any: bool,
    /// Whether the other side of a link has ended, as far as it says, or is not there.
    ended: bool,
}

impl Taken {
    /// After a doorbell: who rings has sent a message, or has ended; in the same moment perhaps
    /// both.
    fn reap(&self) {
        if !self.any || self.ended {
            Subsystem::schedule_reap();
        }
    }
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
                next_look: Atomic::new(0),
                owed: Atomic::new(false),
                others: Atomic::new(false),
                counters: Counters::new(),
                inbox <- new_spinlock_irq!(Inbox::default(), "multikernel::inbox"),
                polling <- new_spinlock!(Window::new(), "multikernel::polling"),
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
        inbox.take_later(Left::Later);
    }
}

fn inboxes() -> &'static [Arc<CpuInbox>] {
    INBOXES.as_ref().map_or(&[], |inboxes| &inboxes.list)
}

fn is_online(cpu: u32) -> bool {
    CpuId::from_u32(cpu).is_some_and(crate::cpu::is_online)
}

/// This CPU has been rung. Called in its interrupt, which leaves the work to the softirq behind it:
/// inboxes have locks that sleep where the kernel is preemptible for real time.
pub(crate) fn doorbell() {
    let this = CpuId::current().as_u32();
    let Some(own) = inboxes().get(this as usize) else {
        return;
    };
    own.counters.doorbells.add(1, Relaxed);
    let next = own.next_look.load(Relaxed);
    let held = next != 0 && event::now() < next;
    own.counters.held.add(held.into(), Relaxed);
    for inbox in inboxes() {
        let cared_for = inbox.orphaned.load(Relaxed) || inbox.late.load(Relaxed);
        if inbox.cpu != this && (this != 0 || !cared_for) {
            continue;
        }
        // An error means that it is queued already, which is as good: what rang is seen.
        if !held {
            let _ = workqueue::system_bh_highpri().enqueue::<_, 2>(inbox.clone());
        } else {
            inbox.owed.store(true, Relaxed);
            inbox.take_later(Left::Later);
        }
    }
}

impl WorkItem<2> for CpuInbox {
    type Pointer = Arc<CpuInbox>;

    fn run(this: Arc<CpuInbox>) {
        let taken = this.look();
        this.take_later(taken.left);
        taken.reap();
    }
}

impl CpuInbox {
    /// Takes messages, at most `budget` of each link.
    fn take(&self, budget: usize, rest: Rest) -> Taken {
        self.take_from(&mut self.inbox.lock(), budget, rest)
    }

    fn take_from(&self, inbox: &mut Inbox, budget: usize, rest: Rest) -> Taken {
        let Inbox {
            links,
            ports: handlers,
            total,
            ..
        } = &mut *inbox;
        let mut taken = Taken {
            left: Left::None,
            came: false,
            any: false,
            ended: false,
        };
        let percent = tune::RECEIVE_PERCENT.get();
        let mut now = event::now();
        let count = links.len();
        for attached in links.iter_mut() {
            let link = &attached.link;
            // Or it is not there yet, and perhaps never will: then it can end without saying so.
            taken.ended |= link.region.state(link.peer()) != abi::LINK_UP;
            if attached.has_had_its_share(total, count, self.cpu, now, percent) {
                taken.left = taken.left.max(Left::Later);
                continue;
            }
            let (left, came) = attached.take(self.cpu, handlers, budget, rest);
            let link = &attached.link;
            taken.left = taken.left.max(left);
            taken.came |= came;
            taken.any |= attached.came;
            if link.send_deferred() {
                taken.left = taken.left.max(Left::Later);
            }
            // For these there is a doorbell each time.
            taken.any |= rest != Rest::Never && ports::doorbell(link, self.cpu);
            let end = event::now();
            // Who looks for more does so because nobody else wants this CPU.
            if came || rest != Rest::Never {
                attached.use_up(total, end.saturating_sub(now));
            }
            now = end;
        }
        if taken.came {
            inbox.last_ns = now;
        }
        taken
    }

    /// Takes what a doorbell is about.
    fn look(&self) -> Taken {
        let mut inbox = self.inbox.lock();
        let (begin, last) = (event::now(), inbox.last_ns);
        let max_ns = polling::max_ns();
        let rest = match inbox.window.ns(max_ns) {
            ns if ns > 0 && cpu::is_idle() => Rest::IfNothingCame,
            _ => Rest::Always,
        };
        let mut taken = self.take_from(&mut inbox, DOORBELL_BUDGET - 1, rest);
        if taken.came {
            inbox.window.waited(begin.saturating_sub(last), max_ns);
        }
        // Who has been woken by what came is not held up.
        if rest != Rest::Always && !cpu::is_idle() {
            let more = self.take_from(&mut inbox, 1, Rest::Always);
            taken.left = more.left;
            taken.ended |= more.ended;
        }
        // Who has had his share may have rung for a port: that is for the work item, then.
        if taken.left == Left::Later {
            self.owed.store(true, Relaxed);
        }
        self.looked(&mut inbox, taken.any);
        taken
    }

    /// Takes messages, and looks for more for a while after the last one, if that has been of use
    /// and nobody else wants this CPU: the other side need not ring for them.
    fn linger(&self) -> Taken {
        let max_ns = polling::max_ns();
        let ns = self.inbox.lock().window.ns(max_ns);
        let begin = event::now();
        let latest = begin.saturating_add(LINGER_NS);
        let mut end = begin.saturating_add(ns);
        let mut came = false;
        while ns > 0 && !cpu::need_resched() && cpu::is_alone() {
            let taken = self.take(WORK_BUDGET, Rest::Never);
            let now = event::now();
            if taken.came {
                came = true;
                end = now.saturating_add(ns);
            }
            match taken.left {
                // It is the others' turn.
                Left::Messages => return taken,
                Left::Later => break,
                Left::None if now >= end => break,
                Left::None if now >= latest => {
                    let left = Left::Messages;
                    return Taken { left, ..taken };
                }
                Left::None if taken.came => {}
                Left::None => self.wait(),
            }
        }
        if ns > 0 {
            self.counters.polls.add(1, Relaxed);
            self.counters.polled.add(came.into(), Relaxed);
        }
        self.take(WORK_BUDGET, Rest::Always)
    }

    /// Waits for a message, a microsecond at most.
    fn wait(&self) {
        let inbox = self.inbox.lock();
        match &*inbox.links {
            [only] => only.wait(),
            _ => {
                drop(inbox);
                cpu_relax();
            }
        }
    }

    /// A doorbell has been looked at: when is the next? Of one that rang on CPU 0, which may be for
    /// other CPUs, the others tell what they found at the next one.
    fn looked(&self, inbox: &mut Inbox, any: bool) {
        let now = event::now();
        for attached in &mut inbox.links {
            attached.came = false;
        }
        if CpuId::current().as_u32() != self.cpu {
            if let Some(keeper) = inboxes().first().filter(|_| any) {
                keeper.others.store(true, Relaxed);
            }
            return;
        }
        let any = any | self.others.xchg(false, Relaxed);
        if !any {
            self.counters.idle.add(1, Relaxed);
        }
        let next = inbox.gate.looked(now, any);
        self.next_look.store(next, Relaxed);
        if next != 0 && is_due(&mut inbox.reported_ns, now) {
            pr_warn!(
                "CPU {} is rung too often for nothing by one of these kernels:{}\n",
                self.cpu,
                Peers(&inbox.links)
            );
        }
    }

    /// Has the rest done by a work item, on the CPU that this runs on.
    fn take_later(&self, left: Left) {
        let Some(this) = inboxes().get(self.cpu as usize) else {
            return;
        };
        // An error means that it is queued already, which is as good.
        match left {
            Left::None => {}
            Left::Later => {
                let queue = workqueue::system_highpri();
                let _ = queue.enqueue_delayed::<_, 1>(this.clone(), 1);
            }
            Left::Messages => {
                let _ = workqueue::system_highpri().enqueue::<_, 0>(this.clone());
            }
        }
    }
}

/// Whether something is to be reported that was last reported then; notes that it is now.
fn is_due(reported_ns: &mut u64, now: u64) -> bool {
    let due = *reported_ns == 0 || now.saturating_sub(*reported_ns) >= REPORT_NS;
    if due {
        *reported_ns = now;
    }
    due
}

/// The kernels at the other ends, each as its number behind a blank.
struct Peers<'a>(&'a [KBox<Attached>]);

impl fmt::Display for Peers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for attached in self.0 {
            write!(f, " {}", attached.link.peer_id())?;
        }
        Ok(())
    }
}

/// Tells of the lanes and CPUs in which a link's messages come. There is room for each.
pub(super) fn stats(link: &Link, stats: &mut Stats) {
    let cpus = link.region.layout().side(link.side).cpus;
    for inbox in inboxes().iter().take(cpus as usize) {
        let guard = inbox.inbox.lock();
        let mut links = guard.links.iter();
        let Some(attached) = links.find(|attached| core::ptr::eq(&*attached.link, link)) else {
            continue;
        };
        let delayed = attached.stats(inbox.cpu, stats);
        let counters = &inbox.counters;
        let _ = stats.cpus.push_within_capacity(uapi::multikernel_link_cpu {
            cpu: inbox.cpu,
            flags: 0,
            doorbells: counters.doorbells.load(Relaxed),
            idle: counters.idle.load(Relaxed),
            held: counters.held.load(Relaxed),
            delayed,
            polls: counters.polls.load(Relaxed),
            polled: counters.polled.load(Relaxed),
        });
    }
}
