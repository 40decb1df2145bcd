// SPDX-License-Identifier: GPL-2.0

//! A caller that looks for its answer in the inbox of its CPU, beside that CPU's doorbell, in every
//! order: when it has ended, no message is left there unrung. And a work item that looks for more
//! behind a doorbell's message.
//!
//! As in `link/inbox.rs` and `link/inbox/polling.rs` of the kernel: who looks holds the inbox's
//! lock for each look, the softirq behind a doorbell for all of its work. A doorbell comes as soon
//! as it is rung, or later; the model has who rings do its work, and that of the work item.

use std::sync::Arc;

use loom::{
    sync::{
        atomic::{fence, AtomicU64, Ordering::*},
        Mutex, Notify,
    },
    thread,
};
use multikernel_pure::link::wake::{must_ring, BellMemory, Rung, Sleeper};

/// What may be wrong with a model.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// The caller ends without a last look.
    NoLastLook,
    /// The caller has its last look while it still counts as one who looks.
    LooksTooEarly,
    /// Who says that the bell is asleep does not look again.
    NoSecondLook,
    /// The work item does not put the bell to sleep in the end.
    StaysAwake,
}

/// When who has found nothing more lets the bell sleep.
#[derive(Clone, Copy, PartialEq)]
enum Rest {
    Always,
    IfNothingCame,
    Never,
}

/// What the lock of an inbox guards.
struct Inbox {
    sleeper: Sleeper,
    polled: bool,
    taken: u64,
}

struct Shared {
    fault: Fault,
    asleep: AtomicU64,
    rung: AtomicU64,
    /// How many messages have been sent.
    lane: AtomicU64,
    inbox: Mutex<Inbox>,
    doorbell: Notify,
}

impl BellMemory for &Shared {
    fn asleep(&self) -> u64 {
        self.asleep.load(Relaxed)
    }
    fn set_asleep(&self, value: u64) {
        self.asleep.store(value, Relaxed);
    }
    fn barrier(&self) {
        fence(SeqCst);
    }
}

impl Rung for &Shared {
    fn exchange(&self, sleep: u64) -> u64 {
        self.rung.swap(sleep, Relaxed)
    }
    fn get(&self) -> u64 {
        self.rung.load(Relaxed)
    }
}

impl Shared {
    fn new(fault: Fault) -> Self {
        let shared = Self {
            fault,
            asleep: AtomicU64::new(0),
            rung: AtomicU64::new(0),
            lane: AtomicU64::new(0),
            inbox: Mutex::new(Inbox {
                sleeper: Sleeper::new(),
                polled: false,
                taken: 0,
            }),
            doorbell: Notify::new(),
        };
        shared.take(Rest::Always);
        shared
    }

    /// Takes what there is; whether there was something.
    fn look(&self, inbox: &mut Inbox) -> bool {
        let sent = self.lane.load(Acquire);
        core::mem::replace(&mut inbox.taken, sent) != sent
    }

    /// Takes what there is; whether who takes has to look again.
    fn take(&self, rest: Rest) -> bool {
        let mut inbox = self.inbox.lock().expect("no poison");
        let mut any = false;
        loop {
            inbox.sleeper.wake(&self);
            while self.look(&mut inbox) {
                any = true;
            }
            if inbox.polled {
                return false;
            }
            if rest == Rest::Never || (rest == Rest::IfNothingCame && any) {
                return true;
            }
            inbox.sleeper.sleep(&self);
            if self.fault == Fault::NoSecondLook || !self.look(&mut inbox) {
                return false;
            }
            any = true;
        }
    }

    /// The CPU of which a doorbell rings until so many messages have come: its softirq, and the
    /// work item behind it, which looks so often before the bell sleeps.
    fn receive(&self, messages: u64, looks: usize) {
        while self.inbox.lock().expect("no poison").taken != messages {
            self.doorbell.wait();
            if self.take(Rest::IfNothingCame) {
                for _ in 0..looks {
                    self.take(Rest::Never);
                }
                if self.fault != Fault::StaysAwake {
                    self.take(Rest::Always);
                }
            }
        }
    }

    /// Looks so often.
    fn poll(&self, looks: usize) {
        let mut inbox = self.inbox.lock().expect("no poison");
        inbox.polled = true;
        inbox.sleeper.wake(&self);
        drop(inbox);
        for _ in 0..looks {
            let mut inbox = self.inbox.lock().expect("no poison");
            self.look(&mut inbox);
        }
        if self.fault == Fault::LooksTooEarly {
            self.take(Rest::Always);
        }
        self.inbox.lock().expect("no poison").polled = false;
        if self.fault != Fault::NoLastLook && self.fault != Fault::LooksTooEarly {
            self.take(Rest::Always);
        }
    }

    fn send(&self, messages: u64, ring: impl Fn(&Self)) {
        for number in 1..=messages {
            self.lane.store(number, Release);
            if must_ring(&self, &self) {
                ring(self);
            }
        }
    }
}

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(4);
    builder.check(model);
}

/// A sender of so many messages, and a caller that looks so often, so many times.
fn caller(fault: Fault, messages: u64, looks: usize, polls: usize) {
    check(move || {
        let shared = Arc::new(Shared::new(fault));
        let sender = {
            let shared = Arc::clone(&shared);
            let ring = |shared: &Shared| {
                shared.take(Rest::Always);
            };
            thread::spawn(move || shared.send(messages, ring))
        };
        for _ in 0..polls {
            shared.poll(looks);
        }
        sender.join().expect("the sender's end");
        let taken = shared.inbox.lock().expect("no poison").taken;
        assert_eq!(taken, messages, "a message is left unrung");
    });
}

/// A sender of so many messages, and a work item that looks so often. A message that is left unrung
/// is a deadlock.
fn work_item(fault: Fault, messages: u64, looks: usize) {
    check(move || {
        let shared = Arc::new(Shared::new(fault));
        let sender = {
            let shared = Arc::clone(&shared);
            let ring = |shared: &Shared| shared.doorbell.notify();
            thread::spawn(move || shared.send(messages, ring))
        };
        shared.receive(messages, looks);
        sender.join().expect("the sender's end");
    });
}

#[test]
fn one_message() {
    caller(Fault::None, 1, 1, 1);
}

#[test]
fn two_messages() {
    caller(Fault::None, 2, 1, 1);
}

#[test]
fn one_message_beside_two_calls() {
    caller(Fault::None, 1, 1, 2);
}

#[test]
fn a_work_item() {
    work_item(Fault::None, 2, 1);
    work_item(Fault::None, 3, 1);
}

// The models can fail.

#[test]
#[should_panic(expected = "left unrung")]
fn the_caller_has_to_look_once_more() {
    caller(Fault::NoLastLook, 1, 1, 1);
}

#[test]
#[should_panic(expected = "left unrung")]
fn only_who_has_ended_puts_the_bell_to_sleep() {
    caller(Fault::LooksTooEarly, 1, 1, 1);
}

#[test]
#[should_panic(expected = "left unrung")]
fn after_that_he_has_to_look_again() {
    caller(Fault::NoSecondLook, 1, 0, 1);
}

#[test]
#[should_panic(expected = "deadlock")]
fn the_work_item_has_to_put_the_bell_to_sleep() {
    work_item(Fault::StaysAwake, 2, 1);
}

#[test]
#[should_panic(expected = "deadlock")]
fn and_to_look_again() {
    work_item(Fault::NoSecondLook, 2, 0);
}
