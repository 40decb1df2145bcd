// SPDX-License-Identifier: GPL-2.0

//! Lanes, from the files that the kernel is built from, over memory that two threads share.

use std::arch::asm;
use std::arch::x86_64::{_mm_prefetch, _MM_HINT_T0};
use std::sync::atomic::{AtomicU64, Ordering};

use multikernel_pure::abi::{LANE_SLOT_BYTES, MESSAGE_DATA, PORT_ECHO};
use multikernel_pure::link::data::{DataMemory, Reader, Writer};
use multikernel_pure::link::lane::{LaneMemory, Receiver, SendError, Sender, Shape, WORDS};

use crate::pair::{wait, Sink, Source};
use crate::raw::Area;

/// Buffers of a lane that may be in use at once.
const BUFFERS: usize = 64;

#[repr(C, align(64))]
#[derive(Default)]
struct Slot([AtomicU64; WORDS]);

#[repr(C, align(128))]
#[derive(Default)]
struct Head(AtomicU64);

/// A lane's memory, and its part of a data area.
pub struct Lane {
    slots: Box<[Slot]>,
    head: Head,
    data: Area,
}

impl Lane {
    /// A lane of so many slots, a power of two, and a data area of so many bytes.
    pub fn new(slots: usize, data: usize) -> Self {
        const { assert!(size_of::<Slot>() == LANE_SLOT_BYTES) };
        Self {
            slots: (0..slots).map(|_| Slot::default()).collect(),
            head: Head::default(),
            data: Area::new(data),
        }
    }

    /// Both ends, messages of at most a lane's longest sent in batches.
    pub fn batch_ends(&mut self) -> (BatchSource<'_>, LaneSink<'_>) {
        let (source, sink) = self.ends();
        (BatchSource(source), sink)
    }

    /// Both ends.
    pub fn ends(&mut self) -> (LaneSource<'_>, LaneSink<'_>) {
        let memory = Shared {
            slots: &self.slots,
            head: &self.head.0,
            data: &self.data,
        };
        let size = self.data.size() as u32;
        let shape = Shape::new(self.slots.len() as u32, 1).expect("an impossible lane");
        let source = LaneSource {
            lane: Sender::new(memory, shape),
            data: Writer::new(memory, 0, size).expect("an impossible data area"),
        };
        let sink = LaneSink {
            lane: Receiver::new(memory, shape),
            data: Reader::new(memory, size),
        };
        (source, sink)
    }
}

/// A lane's memory as both sides have it.
#[derive(Clone, Copy)]
struct Shared<'a> {
    slots: &'a [Slot],
    head: &'a AtomicU64,
    data: &'a Area,
}

impl Shared<'_> {
    #[inline]
    fn word(&self, slot: usize, word: usize) -> &AtomicU64 {
        let Slot(words) = &self.slots[slot];
        &words[word]
    }
}

impl LaneMemory for Shared<'_> {
    #[inline]
    fn load(&self, slot: usize, word: usize) -> u64 {
        self.word(slot, word).load(Ordering::Relaxed)
    }

    #[inline]
    fn store(&self, slot: usize, word: usize, value: u64) {
        self.word(slot, word).store(value, Ordering::Relaxed);
    }

    #[inline]
    fn load_stamp(&self, slot: usize) -> u64 {
        self.word(slot, 0).load(Ordering::Acquire)
    }

    #[inline]
    fn store_stamp(&self, slot: usize, value: u64) {
        self.word(slot, 0).store(value, Ordering::Release);
    }

    #[inline]
    fn load_head(&self) -> u64 {
        self.head.load(Ordering::Acquire)
    }

    #[inline]
    fn store_head(&self, value: u64) {
        self.head.store(value, Ordering::Release);
    }

    #[inline]
    fn peek_stamp(&self, slot: usize) -> u64 {
        self.word(slot, 0).load(Ordering::Relaxed)
    }

    #[inline]
    fn prefetch(&self, slot: usize) {
        let line: *const Slot = &raw const self.slots[slot];
        // SAFETY: A hint, of a line that is there; the instruction is every x86-64 CPU's.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
    }

    #[inline]
    fn prefetch_for_write(&self, slot: usize) {
        let line: *const Slot = &raw const self.slots[slot];
        // SAFETY: As above. CPUs that do not have it take it for a NOP (SDM volume 2, PREFETCHW).
        unsafe { asm!("prefetchw [{}]", in(reg) line, options(nostack, preserves_flags)) };
    }
}

impl DataMemory for Shared<'_> {
    #[inline]
    fn write(&self, offset: usize, bytes: &[u8]) -> Option<()> {
        // SAFETY: A `Writer` writes where the receiver has done with what was there, which reads
        // nothing else until it is told of it.
        unsafe { self.data.write(offset, bytes) }
    }

    #[inline]
    fn read(&self, offset: usize, bytes: &mut [u8]) -> Option<()> {
        // SAFETY: A `Reader` reads what the sender has named, which does not write to it before it
        // sees the receiver's head beyond it.
        unsafe { self.data.read(offset, bytes) }
    }
}

/// The end of a lane where messages go in.
pub struct LaneSource<'a> {
    lane: Sender<Shared<'a>>,
    data: Writer<Shared<'a>, BUFFERS>,
}

/// The same, where messages of a batch become visible together.
pub struct BatchSource<'a>(LaneSource<'a>);

/// The end where they come out.
pub struct LaneSink<'a> {
    lane: Receiver<Shared<'a>>,
    data: Reader<Shared<'a>>,
}

impl<const N: usize> Source<N> for LaneSource<'_> {
    fn send(&mut self, messages: &[[u8; N]]) {
        for message in messages {
            wait(|| {
                let sent = self
                    .data
                    .send(&mut self.lane, MESSAGE_DATA, PORT_ECHO, message);
                (sent != Err(SendError::Full)).then_some(sent)
            })
            .expect("the other end is ours");
        }
    }
}

impl<const N: usize> Source<N> for BatchSource<'_> {
    fn send(&mut self, messages: &[[u8; N]]) {
        let mut left = messages;
        wait(|| {
            match self.0.lane.send_batch(MESSAGE_DATA, PORT_ECHO, left) {
                Err(SendError::Full) => {}
                sent => left = &left[sent.expect("the other end is ours")..],
            }
            left.is_empty().then_some(())
        });
    }
}

impl<const N: usize> Sink<N> for LaneSink<'_> {
    fn receive(&mut self, messages: &mut [[u8; N]]) -> usize {
        for message in &mut *messages {
            let header = wait(|| {
                let header = self.data.receive(&mut self.lane, message);
                header.expect("the other end is ours")
            });
            assert_eq!(header.length as usize, N, "a message is not what was sent");
        }
        messages.len()
    }
}
