// SPDX-License-Identifier: GPL-2.0

//! A lane between two threads, in every order in which its words may become visible.
//!
//! Stamps and the head are atomic. The other words are plain memory, whose every access the model
//! checks: a read that does not come after the write by what acquire and release order is a data
//! race, and fails it. So does a write to a slot that is still being read.

use core::sync::atomic::{AtomicU64 as Plain, Ordering::Relaxed};

use loom::{
    cell::UnsafeCell,
    sync::{
        atomic::{AtomicU64, Ordering},
        Arc,
    },
    thread,
};
use multikernel_pure::link::lane::{
    Header, LaneMemory, Receiver, SendError, Sender, Shape, FIRST_BYTES, WORDS,
};

const SLOTS: usize = 16;

/// How stamps and head are read and written.
#[derive(Clone, Copy)]
struct Orders {
    load_stamp: Ordering,
    store_stamp: Ordering,
    load_head: Ordering,
    store_head: Ordering,
}

/// What [`LaneMemory`] asks for.
const ORDERS: Orders = Orders {
    load_stamp: Ordering::Acquire,
    store_stamp: Ordering::Release,
    load_head: Ordering::Acquire,
    store_head: Ordering::Release,
};

/// A word of plain memory: its value, and what tells the model of each access.
struct Word(Plain, UnsafeCell<()>);

struct Memory {
    orders: Orders,
    head: AtomicU64,
    stamps: Vec<AtomicU64>,
    words: Vec<Word>,
}

// SAFETY: The cells hold nothing, and are there to have the model check accesses; values are
// atomic.
unsafe impl Sync for Memory {}

impl Memory {
    fn new(orders: Orders) -> Arc<Self> {
        let word = |_| Word(Plain::new(0), UnsafeCell::new(()));
        Arc::new(Self {
            orders,
            head: AtomicU64::new(0),
            stamps: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
            words: (0..SLOTS * WORDS).map(word).collect(),
        })
    }
}

#[derive(Clone)]
struct Lane(Arc<Memory>);

impl LaneMemory for Lane {
    fn load(&self, slot: usize, word: usize) -> u64 {
        let word = &self.0.words[slot * WORDS + word];
        word.1.with(|_| word.0.load(Relaxed))
    }
    fn store(&self, slot: usize, word: usize, value: u64) {
        let word = &self.0.words[slot * WORDS + word];
        word.1.with_mut(|_| word.0.store(value, Relaxed));
    }
    fn load_stamp(&self, slot: usize) -> u64 {
        self.0.stamps[slot].load(self.0.orders.load_stamp)
    }
    fn store_stamp(&self, slot: usize, value: u64) {
        self.0.stamps[slot].store(value, self.0.orders.store_stamp);
    }
    fn load_head(&self) -> u64 {
        self.0.head.load(self.0.orders.load_head)
    }
    fn store_head(&self, value: u64) {
        self.0.head.store(value, self.0.orders.store_head);
    }
}

fn shape() -> Shape {
    Shape::new(SLOTS as u32, 1).expect("a number of slots that is allowed")
}

fn payload(number: usize, length: usize) -> Vec<u8> {
    (0..length).map(|i| (number * 50 + i) as u8).collect()
}

/// Receives one message, for which it waits, and checks it.
fn expect(receiver: &mut Receiver<Lane>, number: usize, length: usize) {
    let mut buffer = vec![0; shape().longest()];
    loop {
        match receiver.receive(&mut buffer).expect("a right sender") {
            Some(header) => {
                let (kind, port) = (number as u8, 7);
                let length = length as u32;
                assert_eq!(header, Header { kind, port, length });
                break;
            }
            None => thread::yield_now(),
        }
    }
    assert_eq!(buffer[..length], payload(number, length));
}

/// Messages of these lengths go over an empty lane.
fn messages(orders: Orders, lengths: &'static [usize]) {
    loom::model(move || {
        let lane = Lane(Memory::new(orders));
        let mut sender = Sender::new(lane.clone(), shape());
        let mut receiver = Receiver::new(lane, shape());
        let other = thread::spawn(move || {
            for (number, &length) in lengths.iter().enumerate() {
                assert_eq!(
                    sender.send(number as u8, 7, &payload(number, length)),
                    Ok(())
                );
            }
        });
        for (number, &length) in lengths.iter().enumerate() {
            expect(&mut receiver, number, length);
        }
        other.join().expect("the sender's end");
    });
}

/// A batch of messages of these lengths goes over an empty lane.
fn batch(orders: Orders, lengths: &'static [usize]) {
    loom::model(move || {
        let lane = Lane(Memory::new(orders));
        let mut sender = Sender::new(lane.clone(), shape());
        let mut receiver = Receiver::new(lane, shape());
        let other = thread::spawn(move || {
            let payloads: Vec<Vec<u8>> = lengths.iter().map(|&length| payload(0, length)).collect();
            assert_eq!(sender.send_batch(0, 7, &payloads), Ok(lengths.len()));
        });
        expect(&mut receiver, 0, lengths[0]);
        // What follows is there with the first.
        let mut buffer = vec![0; shape().longest()];
        for &length in &lengths[1..] {
            let got = receiver.receive(&mut buffer).expect("a right sender");
            assert_eq!(got.map(|header| header.length), Some(length as u32));
            assert_eq!(buffer[..length], payload(0, length));
        }
        other.join().expect("the sender's end");
    });
}

/// A sender without credit waits for it, and writes over slots that have just been read.
fn credit(orders: Orders) {
    loom::model(move || {
        let lane = Lane(Memory::new(orders));
        let mut sender = Sender::new(lane.clone(), shape());
        let mut receiver = Receiver::new(lane, shape());
        for number in 0..SLOTS {
            assert_eq!(sender.send(number as u8, 7, &payload(number, 8)), Ok(()));
        }
        // One more, and the head is told.
        for number in 0..SLOTS / 4 - 1 {
            expect(&mut receiver, number, 8);
        }
        let other = thread::spawn(move || loop {
            // Over all of the four slots that come free.
            match sender.send(SLOTS as u8, 7, &payload(SLOTS, FIRST_BYTES + 2 * 56 + 1)) {
                Ok(()) => break,
                Err(SendError::Full) => thread::yield_now(),
                Err(error) => panic!("{error:?}"),
            }
        });
        for number in SLOTS / 4 - 1..SLOTS {
            expect(&mut receiver, number, 8);
        }
        expect(&mut receiver, SLOTS, FIRST_BYTES + 2 * 56 + 1);
        other.join().expect("the sender's end");
    });
}

#[test]
fn messages_are_seen_whole_and_in_order() {
    messages(ORDERS, &[8, FIRST_BYTES + 1, 0]);
}

#[test]
fn a_long_message_is_seen_whole() {
    messages(ORDERS, &[FIRST_BYTES + 2 * 56 + 1, 8]);
}

#[test]
fn a_batch_is_seen_whole() {
    batch(ORDERS, &[8, FIRST_BYTES + 1, 0]);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_batch_has_to_be_released() {
    let orders = Orders {
        store_stamp: Ordering::Relaxed,
        ..ORDERS
    };
    batch(orders, &[8, 8]);
}

#[test]
fn slots_are_written_again_only_after_they_were_read() {
    credit(ORDERS);
}

// The models can fail: each of the four orders is needed.

#[test]
#[should_panic(expected = "Causality violation")]
fn a_stamp_has_to_be_released() {
    let orders = Orders {
        store_stamp: Ordering::Relaxed,
        ..ORDERS
    };
    messages(orders, &[8]);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_stamp_has_to_be_acquired() {
    let orders = Orders {
        load_stamp: Ordering::Relaxed,
        ..ORDERS
    };
    messages(orders, &[8]);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_head_has_to_be_released() {
    let orders = Orders {
        store_head: Ordering::Relaxed,
        ..ORDERS
    };
    credit(orders);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_head_has_to_be_acquired() {
    let orders = Orders {
        load_head: Ordering::Relaxed,
        ..ORDERS
    };
    credit(orders);
}
