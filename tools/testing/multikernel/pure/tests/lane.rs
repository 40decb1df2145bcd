// SPDX-License-Identifier: GPL-2.0

//! Lanes against a queue that cannot be wrong, against other sides that are, and against death.

use core::cell::{Cell, RefCell};
use std::collections::VecDeque;

use multikernel_pure::{
    hostile::{self, slots_of},
    link::lane::{Header, LaneMemory, Receiver, SendError, Sender, Shape, WORDS},
};
use proptest::prelude::*;

const EPOCH: u32 = 5;

/// Memory that both sides are right with; it notes every store of a slot's word.
struct Memory {
    head: Cell<u64>,
    slots: Vec<[Cell<u64>; WORDS]>,
    stores: RefCell<Vec<(usize, usize, u64)>>,
}

impl Memory {
    fn new(slots: u32) -> Self {
        Self {
            head: Cell::new(0),
            slots: (0..slots)
                .map(|_| [const { Cell::new(0) }; WORDS])
                .collect(),
            stores: RefCell::default(),
        }
    }
}

impl LaneMemory for &Memory {
    fn load(&self, slot: usize, word: usize) -> u64 {
        self.slots[slot][word].get()
    }
    fn store(&self, slot: usize, word: usize, value: u64) {
        self.stores.borrow_mut().push((slot, word, value));
        self.slots[slot][word].set(value);
    }
    fn load_stamp(&self, slot: usize) -> u64 {
        self.load(slot, 0)
    }
    fn store_stamp(&self, slot: usize, value: u64) {
        self.store(slot, 0, value);
    }
    fn load_head(&self) -> u64 {
        self.head.get()
    }
    fn store_head(&self, value: u64) {
        self.head.set(value);
    }
}

fn shape(slots: u32) -> Shape {
    Shape::new(slots, EPOCH).expect("a number of slots that is allowed")
}

/// Positions at which something might wrap.
fn position() -> impl Strategy<Value = u64> {
    prop_oneof![
        2 => 0..100u64,
        1 => (0..200u64).prop_map(|by| (1 << 32) - by),
        1 => (0..200u64).prop_map(|by| u64::MAX - by),
        1 => any::<u64>(),
    ]
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..60),
        1 => prop::collection::vec(any::<u8>(), 0..1000),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Send(u8, u32, Vec<u8>),
    Batch(u8, u32, Vec<Vec<u8>>),
    Receive(usize),
    Drain,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..128u8, any::<u32>(), payload())
            .prop_map(|(kind, port, bytes)| Step::Send(kind, port, bytes)),
        2 => (0..128u8, any::<u32>(), prop::collection::vec(payload(), 0..20))
            .prop_map(|(kind, port, batch)| Step::Batch(kind, port, batch)),
        6 => (0..1000usize).prop_map(Step::Receive),
        1 => Just(Step::Drain),
    ];
    prop::collection::vec(step, 1..120)
}

/// Takes a message from both, and returns whether there was one.
fn receive(
    receiver: &mut Receiver<&Memory>,
    queue: &mut VecDeque<(u8, u32, Vec<u8>)>,
    room: usize,
) -> Result<bool, TestCaseError> {
    let mut buffer = vec![0xee; room];
    prop_assert_eq!(receiver.has_message(), !queue.is_empty());
    let got = receiver.receive(&mut buffer);
    let Some((kind, port, bytes)) = queue.pop_front() else {
        prop_assert_eq!(got, Ok(None));
        return Ok(false);
    };
    let length = bytes.len() as u32;
    prop_assert_eq!(got, Ok(Some(Header { kind, port, length })));
    let fits = bytes.len().min(room);
    prop_assert_eq!(&buffer[..fits], &bytes[..fits]);
    prop_assert!(buffer[fits..].iter().all(|byte| *byte == 0xee));
    Ok(true)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn like_a_queue(
        slots in prop::sample::select(&[16u32, 32, 128][..]),
        start in position(),
        steps in steps(),
    ) {
        let memory = &Memory::new(slots);
        let shape = shape(slots);
        let slots = slots as usize;
        let mut sender = Sender::at(memory, shape, start);
        let mut receiver = Receiver::at(memory, shape, start);
        let mut queue = VecDeque::new();
        // Slots of the message that was taken last.
        let mut last = 0;
        for step in steps {
            let used = sender.tail().wrapping_sub(receiver.head()) as usize;
            match step {
                Step::Send(kind, port, bytes) => {
                    let needed = slots_of(bytes.len());
                    match sender.send(kind, port, &bytes) {
                        Ok(()) => {
                            prop_assert!(used + needed <= slots);
                            queue.push_back((kind, port, bytes));
                        }
                        Err(SendError::TooLong) => prop_assert!(bytes.len() > shape.longest()),
                        // The last message, and before it less than a quarter, are taken and not
                        // yet told of.
                        Err(SendError::Full) => {
                            prop_assert!(used + needed + last + slots / 4 > slots);
                        }
                        Err(SendError::Broken) => prop_assert!(false),
                    }
                }
                Step::Batch(kind, port, batch) => {
                    let tail = sender.tail();
                    let needed = batch.first().map_or(0, |bytes| slots_of(bytes.len()));
                    match sender.send_batch(kind, port, &batch) {
                        Ok(count) => {
                            prop_assert!(count > 0 || batch.is_empty());
                            let sent = batch.iter().take(count);
                            let took: usize = sent.clone().map(|bytes| slots_of(bytes.len())).sum();
                            prop_assert_eq!(sender.tail(), tail.wrapping_add(took as u64));
                            prop_assert!(used + took <= slots);
                            // No more of them were, only if the next one could not be.
                            if let Some(next) = batch.get(count) {
                                let more = slots_of(next.len());
                                prop_assert!(
                                    next.len() > shape.longest()
                                        || used + took + more + last + slots / 4 > slots
                                );
                            }
                            queue.extend(sent.map(|bytes| (kind, port, bytes.clone())));
                        }
                        Err(SendError::TooLong) => {
                            prop_assert!(batch[0].len() > shape.longest());
                        }
                        Err(SendError::Full) => {
                            prop_assert!(used + needed + last + slots / 4 > slots);
                        }
                        Err(SendError::Broken) => prop_assert!(false),
                    }
                }
                Step::Receive(room) => {
                    let head = receiver.head();
                    receive(&mut receiver, &mut queue, room)?;
                    last = receiver.head().wrapping_sub(head) as usize;
                }
                Step::Drain => {
                    while receive(&mut receiver, &mut queue, shape.longest())? {}
                    prop_assert_eq!(sender.taken(), Ok(sender.tail()));
                }
            }
        }
    }

    /// A sender dies after any single store: whole messages are left, and nothing else. Of a batch
    /// it is all or none.
    #[test]
    fn death_at_any_store(
        start in position(),
        batch in any::<bool>(),
        before in 0..40usize,
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..5),
    ) {
        let memory = &Memory::new(16);
        let shape = shape(16);
        let mut sender = Sender::at(memory, shape, start);
        let mut receiver = Receiver::at(memory, shape, start);
        let mut buffer = vec![0; shape.longest()];
        // Slots have something of an earlier lap in them.
        for _ in 0..before {
            prop_assert_eq!(sender.send(9, 9, &[9; 40]), Ok(()));
            prop_assert!(matches!(receiver.receive(&mut buffer), Ok(Some(_))));
        }
        let begin = sender.tail();
        let left: Vec<[u64; WORDS]> = memory.slots.iter()
            .map(|slot| core::array::from_fn(|word| slot[word].get()))
            .collect();
        memory.stores.take();
        // How many stores it took to send each.
        let mut sent = Vec::new();
        if batch {
            let count = sender.send_batch(1, 2, &payloads).unwrap_or(0);
            let stores = memory.stores.borrow().len();
            sent.extend(payloads.into_iter().take(count).map(|bytes| (stores, bytes)));
        } else {
            for bytes in payloads {
                if sender.send(1, 2, &bytes) == Ok(()) {
                    sent.push((memory.stores.borrow().len(), bytes));
                }
            }
        }
        let stores = memory.stores.take();
        for cut in 0..=stores.len() {
            let memory = &Memory::new(16);
            for (slot, words) in memory.slots.iter().zip(&left) {
                slot.iter().zip(words).for_each(|(word, value)| word.set(*value));
            }
            for (slot, word, value) in &stores[..cut] {
                memory.slots[*slot][*word].set(*value);
            }
            let mut receiver = Receiver::at(memory, shape, begin);
            for (_, bytes) in sent.iter().filter(|(last, _)| *last <= cut) {
                let length = bytes.len() as u32;
                let got = receiver.receive(&mut buffer);
                prop_assert_eq!(got, Ok(Some(Header { kind: 1, port: 2, length })));
                prop_assert_eq!(&buffer[..bytes.len()], &bytes[..]);
            }
            prop_assert_eq!(receiver.receive(&mut buffer), Ok(None));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 10000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn hostile_sender(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        hostile::sender_against_receiver(&bytes);
    }

    #[test]
    fn hostile_receiver(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        hostile::receiver_against_sender(&bytes);
    }

    #[test]
    fn hostile_program(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        hostile::program_against_recovery(&bytes);
    }

    #[test]
    fn any_header(bytes in prop::collection::vec(any::<u8>(), 40..80)) {
        hostile::header_against_layout(&bytes);
    }
}
