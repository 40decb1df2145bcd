// SPDX-License-Identifier: GPL-2.0

//! A caller that looks for its answer before it sleeps.
//!
//! It does so in the inbox of the CPU that it runs on, on which it stays that long: meanwhile the
//! other side need not ring for messages of that link to that CPU. For how long the *window* of
//! the CPU says, see `poll.rs`, which is guarded by a spinlock that the caller holds all the time,
//! with interrupts on. It comes before the inbox.
//!
//! The bell says "awake" then. A doorbell of which a sender had thought before takes messages as
//! always, but does not put the bell to sleep; the caller does when it ends, in the way of everyone
//! else: it says so, and looks once more.

use kernel::{
    cpu::CpuId,
    sync::{
        atomic::Relaxed,
        lock::{
            spinlock::SpinLockBackend,
            Guard, //
        },
        Arc, //
    }, //
};

use super::{
    super::{
        outbox::Link,
        poll::Window,
        tune, //
    },
    attached::{
        Attached,
        LANE_BUDGET, //
    },
    inboxes,
    CpuInbox,
    Port,
    Rest,
    DOORBELL_BUDGET, //
};
use crate::{
    cpu,
    event, //
};

/// A task that is about to wait for an answer looks for it.
///
/// Ends when it is dropped, which looks once more, and lets doorbells ring again. Meanwhile the
/// task must not sleep.
pub(crate) struct Poll<'a> {
    inbox: &'static Arc<CpuInbox>,
    link: &'a Arc<Link>,
    ns: u64,
    _window: Guard<'static, Window, SpinLockBackend>,
}

/// Nanoseconds for which may be polled.
pub(super) fn max_ns() -> u64 {
    u64::from(tune::POLL_US.get()) * 1_000
}

impl<'a> Poll<'a> {
    /// Begins, if it has been of use lately.
    pub(crate) fn begin(link: &'a Arc<Link>) -> Option<Self> {
        match max_ns() {
            0 => None,
            // The others would only come later, with what they have to send.
            _ if !cpu::is_alone() => None,
            most => Self::begin_if(link, |window| window.ns(most)),
        }
    }

    /// Begins, for so long whether it has been of use or not.
    #[cfg(CONFIG_MULTIKERNEL_BENCH)]
    pub(crate) fn begin_for(link: &'a Arc<Link>, ns: u64) -> Option<Self> {
        Self::begin_if(link, |_| ns)
    }

    fn begin_if(link: &'a Arc<Link>, ns: impl FnOnce(&Window) -> u64) -> Option<Self> {
        // Where spinlocks sleep, they do not keep a task on its CPU without others in between.
        if cfg!(CONFIG_PREEMPT_RT) {
            return None;
        }
        let cpu = CpuId::current();
        let inbox = inboxes().get(cpu.as_u32() as usize)?;
        let window = inbox.polling.try_lock()?;
        let ns = ns(&window);
        if ns == 0 || CpuId::current() != cpu {
            return None;
        }
        inbox.with_link(link, |_, attached| {
            attached.polled = true;
            attached.wake(inbox.cpu);
        })?;
        Some(Self {
            inbox,
            link,
            ns,
            _window: window,
        })
    }

    /// Takes messages until the answer is among them, or it is not worth it any longer.
    pub(crate) fn until(&self, answered: impl Fn() -> bool) {
        self.inbox.counters.polls.add(1, Relaxed);
        let end = event::now().saturating_add(self.ns);
        loop {
            let there = self.inbox.with_link(self.link, |ports, attached| {
                let mut budget = LANE_BUDGET;
                if attached.has_message(self.inbox.cpu) {
                    attached.deliver(ports, &mut budget);
                } else {
                    attached.wait();
                }
            });
            if answered() {
                self.inbox.counters.polled.add(1, Relaxed);
                return;
            }
            if there.is_none() || cpu::need_resched() || event::now() >= end {
                return;
            }
        }
    }

    /// On which CPU it is.
    pub(crate) fn cpu(&self) -> u32 {
        self.inbox.cpu
    }
}

impl Drop for Poll<'_> {
    fn drop(&mut self) {
        let unset = |_: &[Port], attached: &mut Attached| attached.polled = false;
        let _ = self.inbox.with_link(self.link, unset);
        let taken = self.inbox.take(DOORBELL_BUDGET, Rest::Always);
        self.inbox.take_later(taken.left);
    }
}

/// A call made on that CPU, or on any if it did not poll, has waited for its answer that long.
pub(crate) fn waited(cpu: u32, ns: u64) {
    let inbox = inboxes().get(cpu as usize);
    // If somebody polls there, his wait is as good.
    if let Some(mut window) = inbox.and_then(|inbox| inbox.polling.try_lock()) {
        window.waited(ns, max_ns());
    }
}

impl CpuInbox {
    /// Does something with a link in this inbox and its ports; `None` if it is not there any more.
    fn with_link<T>(
        &self,
        link: &Arc<Link>,
        work: impl FnOnce(&[Port], &mut Attached) -> T,
    ) -> Option<T> {
        let mut inbox = self.inbox.lock();
        let super::Inbox { links, ports, .. } = &mut *inbox;
        let mut links = links.iter_mut();
        let attached = links.find(|attached| Arc::ptr_eq(&attached.link, link))?;
        Some(work(ports, attached))
    }
}
