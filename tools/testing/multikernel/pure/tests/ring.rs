// SPDX-License-Identifier: GPL-2.0

//! The byte rings against queues that cannot be wrong, and against positions that are.

use core::cell::Cell;
use std::collections::VecDeque;

use multikernel_pure::ring::{append, follow, overwrite, take, Broken, RingMemory, CHUNK};
use proptest::prelude::*;

const SIZE: usize = 512;

struct Memory {
    tail: Cell<u64>,
    head: Cell<u64>,
    bytes: [Cell<u8>; SIZE],
}

impl Memory {
    fn at(position: u64) -> Self {
        Self {
            tail: Cell::new(position),
            head: Cell::new(position),
            bytes: [const { Cell::new(0) }; SIZE],
        }
    }
}

impl RingMemory for Memory {
    const SIZE: usize = SIZE;

    fn tail(&self) -> u64 {
        self.tail.get()
    }
    fn set_tail(&self, position: u64) {
        self.tail.set(position);
    }
    fn head(&self) -> u64 {
        self.head.get()
    }
    fn set_head(&self, position: u64) {
        self.head.set(position);
    }
    // An index out of range panics here, and is memory of somebody else's in a kernel.
    fn load(&self, index: usize) -> u8 {
        self.bytes[index].get()
    }
    fn store(&self, index: usize, byte: u8) {
        self.bytes[index].set(byte);
    }
    fn fence(&self) {}
}

/// Positions at which something might wrap.
fn position() -> impl Strategy<Value = u64> {
    prop_oneof![
        2 => 0..4 * SIZE as u64,
        1 => (-600i64..600).prop_map(|by| (1u64 << 32).wrapping_add_signed(by)),
        1 => (0..600u64).prop_map(|by| u64::MAX - by),
        1 => any::<u64>(),
    ]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => prop::collection::vec(any::<u8>(), 0..80),
        1 => prop::collection::vec(any::<u8>(), CHUNK - 1..3 * SIZE),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<u8>),
    Read(usize),
    /// The peer stores something senseless, and later what it should have.
    Disturb(u64, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => bytes().prop_map(Step::Write),
        3 => (0..SIZE + 50).prop_map(Step::Read),
        1 => (position(), 0..100usize).prop_map(|(position, room)| Step::Disturb(position, room)),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 3000,
        failure_persistence: None,
        ..Default::default()
    })]

    /// What a follower reads and what it is told it lost are, together, all that was written.
    #[test]
    fn overwriting(steps in steps()) {
        let ring = Memory::at(0);
        let mut written: Vec<u8> = Vec::new();
        let (mut tail, mut position) = (0, 0);
        for step in steps {
            match step {
                Step::Write(bytes) => {
                    tail = overwrite(&ring, tail, &bytes);
                    written.extend(bytes);
                    prop_assert_eq!(tail, written.len() as u64);
                    prop_assert_eq!(ring.tail(), tail);
                }
                Step::Read(room) => {
                    let mut buffer = vec![0; room];
                    let read = follow(&ring, position, &mut buffer);
                    let start = position + read.lost;
                    prop_assert_eq!(read.position, start + read.count as u64);
                    prop_assert_eq!(
                        &buffer[..read.count],
                        &written[start as usize..read.position as usize]
                    );
                    // Nothing is given up that is certain to be whole.
                    let behind = (tail - position) as usize;
                    prop_assert_eq!(read.lost as usize, behind.saturating_sub(SIZE - CHUNK));
                    prop_assert_eq!(read.count, room.min(behind.min(SIZE - CHUNK)));
                    position = read.position;
                }
                Step::Disturb(hostile, room) => {
                    ring.set_tail(hostile);
                    let mut buffer = vec![0; room];
                    let read = follow(&ring, position, &mut buffer);
                    prop_assert!(read.count <= room);
                    prop_assert!(read.position <= hostile);
                    ring.set_tail(tail);
                }
            }
        }
    }

    /// A reader that asks for any position, of a ring with any tail.
    #[test]
    fn following_anything(tail in position(), position in position(), room in 0..2 * SIZE) {
        let ring = Memory::at(tail);
        let mut buffer = vec![0; room];
        let read = follow(&ring, position, &mut buffer);
        prop_assert!(read.count <= room.min(SIZE - CHUNK));
        prop_assert!(read.position <= tail);
        // It never goes back, but for a writer that started anew.
        prop_assert!(read.position >= position || position > tail);
    }

    #[test]
    fn bounded(start in position(), steps in steps()) {
        let ring = Memory::at(start);
        let mut queue: VecDeque<u8> = VecDeque::new();
        let (mut tail, mut head) = (start, start);
        for step in steps {
            match step {
                Step::Write(bytes) => {
                    let count = append(&ring, tail, &bytes);
                    prop_assert_eq!(count, bytes.len().min(SIZE - queue.len()));
                    queue.extend(&bytes[..count]);
                    tail = tail.wrapping_add(count as u64);
                    prop_assert_eq!(ring.tail(), tail);
                }
                Step::Read(room) => {
                    let mut buffer = vec![0; room];
                    let count = take(&ring, head, &mut buffer);
                    prop_assert_eq!(count, Ok(room.min(queue.len())));
                    let count = count.unwrap_or(0);
                    prop_assert!(queue.drain(..count).eq(buffer[..count].iter().copied()));
                    head = head.wrapping_add(count as u64);
                    prop_assert_eq!(ring.head(), head);
                }
                Step::Disturb(hostile, room) => {
                    // The reader's word, as the writer finds it: it decides only how many bytes
                    // are accepted. They are taken out again, as a right reader has not got them.
                    ring.set_head(hostile);
                    let used = tail.wrapping_sub(hostile);
                    let count = append(&ring, tail, &vec![0; room]);
                    let free = (SIZE as u64).saturating_sub(used);
                    prop_assert_eq!(count as u64, (room as u64).min(free));
                    prop_assume!(queue.len() + count <= SIZE);
                    queue.extend(vec![0; count]);
                    tail = tail.wrapping_add(count as u64);
                    ring.set_head(head);
                    // The writer's word, as the reader finds it.
                    ring.set_tail(hostile);
                    let mut buffer = vec![0; 0];
                    match take(&ring, head, &mut buffer) {
                        Ok(0) => prop_assert!(hostile.wrapping_sub(head) <= SIZE as u64),
                        Ok(_) => prop_assert!(false, "more than the buffer"),
                        Err(Broken { tail }) => {
                            prop_assert_eq!(tail, hostile);
                            prop_assert!(hostile.wrapping_sub(head) > SIZE as u64);
                        }
                    }
                    prop_assert_eq!(ring.head(), head);
                    ring.set_tail(tail);
                }
            }
        }
    }

    /// One side with any position of its own, the other with any in shared memory.
    #[test]
    fn any_positions(own in position(), other in position(), room in 0..2 * SIZE) {
        let ring = Memory::at(other);
        prop_assert!(append(&ring, own, &vec![1; room]) <= room.min(SIZE));
        let ring = Memory::at(other);
        let mut buffer = vec![0; room];
        match take(&ring, own, &mut buffer) {
            Ok(count) => prop_assert!(count <= room.min(SIZE)),
            Err(Broken { tail }) => prop_assert_eq!(tail, other),
        }
        let ring = Memory::at(other);
        prop_assert_eq!(overwrite(&ring, own, &vec![1; room]), own.wrapping_add(room as u64));
    }
}
