// SPDX-License-Identifier: GPL-2.0

//! Sleep and doorbell in every order: no message is left while its receiver sleeps unrung.
//!
//! Accesses are relaxed, so that the barriers alone are what holds. A receiver that sleeps with a
//! message left is a deadlock, which the model finds. The doorbell may ring for nothing, as it does
//! on a machine.

use core::cell::Cell;
use std::sync::{Arc, Mutex};

use loom::{
    sync::{
        atomic::{fence, AtomicU64, Ordering::*},
        Notify,
    },
    thread,
};
use multikernel_pure::link::wake::{must_ring, BellMemory, Rung, Sleeper};

/// What may be wrong with a model.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// The receiver's barrier does nothing.
    ReceiverBarrier,
    /// The senders' barriers do nothing.
    SenderBarrier,
    /// The exchange is a load and a store.
    Exchange,
    /// A receiver that was rung and found nothing sleeps on under the same number.
    SameSleep,
}

/// The receiver's bell, as one side sees it.
struct Bell<'a> {
    shared: &'a Shared,
    has_barrier: bool,
}

struct Shared {
    fault: Fault,
    asleep: AtomicU64,
    rung: AtomicU64,
    doorbell: Notify,
    /// How many messages each sender has sent.
    lanes: Vec<AtomicU64>,
    /// The sleeps for which somebody rang.
    sleeps: Mutex<Vec<u64>>,
}

impl BellMemory for Bell<'_> {
    fn asleep(&self) -> u64 {
        self.shared.asleep.load(Relaxed)
    }
    fn set_asleep(&self, value: u64) {
        self.shared.asleep.store(value, Relaxed);
    }
    fn barrier(&self) {
        if self.has_barrier {
            fence(SeqCst);
        }
    }
}

/// What one sender knows of doorbells.
struct Ringer<'a> {
    shared: &'a Shared,
    /// The sleep that it asked for last.
    sleep: Cell<u64>,
}

impl Rung for Ringer<'_> {
    fn exchange(&self, sleep: u64) -> u64 {
        self.sleep.set(sleep);
        if self.shared.fault == Fault::Exchange {
            let last = self.shared.rung.load(Relaxed);
            self.shared.rung.store(sleep, Relaxed);
            last
        } else {
            self.shared.rung.swap(sleep, Relaxed)
        }
    }
    fn get(&self) -> u64 {
        self.shared.rung.load(Relaxed)
    }
}

fn send(shared: &Shared, lane: usize, messages: u64) {
    let bell = Bell {
        shared,
        has_barrier: shared.fault != Fault::SenderBarrier,
    };
    let ringer = Ringer {
        shared,
        sleep: Cell::new(0),
    };
    for number in 1..=messages {
        shared.lanes[lane].store(number, Release);
        if must_ring(&bell, &ringer) {
            let mut sleeps = shared.sleeps.lock().expect("no poison");
            sleeps.push(ringer.sleep.get());
            drop(sleeps);
            shared.doorbell.notify();
        }
    }
}

/// Receives until all messages have come.
fn receive(shared: &Shared, messages: u64) {
    let bell = Bell {
        shared,
        has_barrier: shared.fault != Fault::ReceiverBarrier,
    };
    let mut sleeper = Sleeper::new();
    let mut taken = vec![0; shared.lanes.len()];
    let mut look = || {
        let mut any = false;
        for (lane, taken) in shared.lanes.iter().zip(&mut taken) {
            let sent = lane.load(Acquire);
            any |= sent != *taken;
            *taken = sent;
        }
        (any, taken.iter().all(|taken| *taken == messages))
    };
    loop {
        let (any, all) = look();
        if all {
            return;
        }
        if any {
            sleeper.wake(&bell);
            continue;
        }
        if !sleeper.is_asleep() {
            sleeper.sleep(&bell);
            continue;
        }
        shared.doorbell.wait();
        if shared.fault != Fault::SameSleep {
            sleeper.wake(&bell);
        }
    }
}

/// So many senders send so many messages each to one receiver.
fn model(fault: Fault, senders: usize, messages: u64, preemptions: Option<usize>) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(move || {
        // Not loom's `Arc`, which may not be dropped any more when the model fails.
        let shared = Arc::new(Shared {
            fault,
            asleep: AtomicU64::new(0),
            rung: AtomicU64::new(0),
            doorbell: Notify::new(),
            lanes: (0..senders).map(|_| AtomicU64::new(0)).collect(),
            sleeps: Mutex::new(Vec::new()),
        });
        let spawn = |lane| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || send(&shared, lane, messages))
        };
        let threads: Vec<_> = (0..senders).map(spawn).collect();
        receive(&shared, messages);
        for thread in threads {
            thread.join().expect("a sender's end");
        }
        // With one message each there is nobody who comes late twice.
        let mut sleeps = shared.sleeps.lock().expect("no poison").clone();
        let rung = sleeps.len();
        sleeps.sort_unstable();
        sleeps.dedup();
        assert!(
            messages > 1 || sleeps.len() == rung,
            "rung twice for a sleep"
        );
    });
}

#[test]
fn one_sender() {
    model(Fault::None, 1, 1, None);
}

#[test]
fn one_sender_of_two_messages() {
    model(Fault::None, 1, 2, Some(4));
}

#[test]
fn two_senders() {
    model(Fault::None, 2, 1, Some(3));
}

// The models can fail.

#[test]
#[should_panic(expected = "deadlock")]
fn the_receiver_needs_its_barrier() {
    model(Fault::ReceiverBarrier, 1, 1, None);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_sender_needs_its_barrier() {
    model(Fault::SenderBarrier, 1, 1, None);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_doorbell_uses_a_sleep_up() {
    model(Fault::SameSleep, 1, 2, None);
}

#[test]
#[should_panic(expected = "rung twice for a sleep")]
fn the_exchange_has_to_be_atomic() {
    model(Fault::Exchange, 2, 1, Some(3));
}
