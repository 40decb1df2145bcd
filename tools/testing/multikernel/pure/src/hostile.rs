// SPDX-License-Identifier: GPL-2.0

//! The other side of a link at its worst: any word changes to any value before any access.
//!
//! What happens is decided by a string of bytes, which property tests and the fuzzer make up. Each
//! function panics if our side did anything that it must not.

use core::cell::{Cell, RefCell};
use std::vec::Vec;

use crate::{
    abi,
    link::{
        lane::{
            Broken, Header, LaneMemory, Receiver, SendError, Sender, Shape, FIRST_BYTES,
            NEXT_BYTES, WORDS,
        },
        layout::{lane_bytes, Layout},
    },
};

/// Slots of the largest lane that is tried.
const SLOTS_MAX: usize = 64;

/// Bytes that decide; when they have run out, zeroes.
pub(crate) struct Input<'a>(Cell<&'a [u8]>);

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(Cell::new(bytes))
    }

    pub(crate) fn byte(&self) -> u8 {
        let Some((first, rest)) = self.0.get().split_first() else {
            return 0;
        };
        self.0.set(rest);
        *first
    }

    pub(crate) fn number(&self, bytes: usize) -> u64 {
        (0..bytes).fold(0, |sum, _| sum << 8 | u64::from(self.byte()))
    }

    pub(crate) fn pick<T: Copy>(&self, from: &[T]) -> T {
        from[usize::from(self.byte()) % from.len()]
    }

    /// A position at which something might wrap.
    fn position(&self) -> u64 {
        let by = self.byte().into();
        match self.byte() % 4 {
            0 => by,
            1 => (1 << 32) - by,
            2 => u64::MAX - by,
            _ => self.number(8),
        }
    }

    fn is_empty(&self) -> bool {
        self.0.get().is_empty()
    }
}

/// One access of our side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Load(usize, usize, u64),
    Store(usize, usize),
    LoadHead(u64),
    StoreHead(u64),
}

/// Memory that the other side changes. It keeps account of what our side does.
struct Memory<'a> {
    input: &'a Input<'a>,
    shape: Shape,
    epoch: u32,
    words: Vec<Cell<u64>>,
    head: Cell<u64>,
    /// Around which position changes are most often made.
    position: Cell<u64>,
    calm: Cell<bool>,
    log: RefCell<Vec<Access>>,
}

impl<'a> Memory<'a> {
    fn new(input: &'a Input<'a>) -> Self {
        let slots = input.pick(&[16, 32, SLOTS_MAX as u32]);
        let epoch = input.pick(&[1, 2, 0x1_0000, u32::MAX]);
        Self {
            input,
            shape: Shape::new(slots, epoch).expect("a number of slots that is allowed"),
            epoch,
            words: vec![Cell::new(0); slots as usize * WORDS],
            head: Cell::new(0),
            position: Cell::new(0),
            calm: Cell::new(true),
            log: RefCell::new(Vec::new()),
        }
    }

    /// Makes a word that is nearly right: a stamp, a header, a position.
    fn value(&self, word: usize) -> u64 {
        let near = i64::from(self.input.byte() as i8 / 8);
        let position = self.position.get().wrapping_add_signed(near);
        match (self.input.byte() % 8, word) {
            (0, _) => self.input.number(8),
            (1, _) => position,
            (_, 0) => {
                let kind = self.input.pick(&[abi::LANE_FIRST, abi::LANE_NEXT, 0xff, 1]);
                let high = self.input.pick(&[0, 0, 0, 1, 0x80]);
                stamp(position, self.epoch, kind) | high << 56
            }
            _ => (self.input.number(4) << 32) | (self.input.number(2) % 4096),
        }
    }

    /// What the other side does before an access of ours.
    fn disturb(&self) {
        if self.calm.get() || self.input.byte() & 3 != 0 {
            return;
        }
        let slot = self.input.byte() as usize % self.shape.slots();
        let word = [0, 0, 1, 1, 2, 3, 6, 7][self.input.byte() as usize % 8];
        match self.input.byte() % 4 {
            0 => self.head.set(self.value(1)),
            // Where our side is, or will be next.
            1 | 2 => {
                let slot = self.position.get().wrapping_add(slot as u64 % 3);
                let index = slot as usize % self.shape.slots() * WORDS + word;
                self.words[index].set(self.value(word));
            }
            _ => self.words[slot * WORDS + word].set(self.value(word)),
        }
    }

    /// Does something of ours while the other side does what it likes, and returns the accesses.
    fn hostile<T>(&self, position: u64, action: impl FnOnce() -> T) -> (T, Vec<Access>) {
        self.position.set(position);
        self.log.borrow_mut().clear();
        self.calm.set(false);
        let result = action();
        self.calm.set(true);
        (result, self.log.take())
    }
}

impl LaneMemory for &Memory<'_> {
    fn load(&self, slot: usize, word: usize) -> u64 {
        self.disturb();
        assert!(slot < self.shape.slots() && word < WORDS);
        let value = self.words[slot * WORDS + word].get();
        self.log.borrow_mut().push(Access::Load(slot, word, value));
        value
    }
    fn store(&self, slot: usize, word: usize, value: u64) {
        self.disturb();
        assert!(slot < self.shape.slots() && word < WORDS);
        self.words[slot * WORDS + word].set(value);
        self.log.borrow_mut().push(Access::Store(slot, word));
    }
    fn load_stamp(&self, slot: usize) -> u64 {
        self.load(slot, 0)
    }
    fn store_stamp(&self, slot: usize, value: u64) {
        self.store(slot, 0, value);
    }
    fn load_head(&self) -> u64 {
        self.disturb();
        let value = self.head.get();
        self.log.borrow_mut().push(Access::LoadHead(value));
        value
    }
    fn store_head(&self, value: u64) {
        self.disturb();
        self.head.set(value);
        self.log.borrow_mut().push(Access::StoreHead(value));
    }
    fn peek_stamp(&self, slot: usize) -> u64 {
        // Of no consequence, so it is not among the accesses.
        self.disturb();
        self.words[slot * WORDS].get()
    }
    fn prefetch(&self, slot: usize) {
        assert!(slot < self.shape.slots());
    }
    fn prefetch_for_write(&self, slot: usize) {
        assert!(slot < self.shape.slots());
    }
}

/// The stamp of a slot, as the wire format has it.
pub fn stamp(position: u64, epoch: u32, kind: u8) -> u64 {
    (position.wrapping_add(1) & 0xffff_ffff)
        | (u64::from(epoch & 0xffff) << 32)
        | (u64::from(kind) << 48)
}

/// Slots that a message takes, as the wire format has it.
pub fn slots_of(length: usize) -> usize {
    match length.checked_sub(FIRST_BYTES) {
        None => 1,
        Some(more) => 1 + more.div_ceil(NEXT_BYTES),
    }
}

/// A receiver whose sender does what it likes.
pub fn sender_against_receiver(bytes: &[u8]) {
    let input = &Input::new(bytes);
    let memory = &Memory::new(input);
    let start = input.position();
    let mut sender = Sender::at(memory, memory.shape, start);
    let mut receiver = Receiver::at(memory, memory.shape, start);
    let longest = memory.shape.longest();
    let mut published = start;
    let mut broken = false;
    while !input.is_empty() {
        let before = receiver.head();
        match input.byte() % 8 {
            // Half of what it does makes sense, but that it may be of any length.
            0 => {
                let length = input.number(2) % (memory.words.len() as u64 * 8 + 100);
                for by in 0..memory.shape.slots() as u64 {
                    let kind = if by == 0 {
                        abi::LANE_FIRST
                    } else {
                        abi::LANE_NEXT
                    };
                    let at = before.wrapping_add(by);
                    let slot = at as usize % memory.shape.slots();
                    memory.words[slot * WORDS].set(stamp(at, memory.epoch, kind));
                    if by == 0 {
                        memory.words[slot * WORDS + 1].set(length);
                    }
                }
            }
            1 | 2 => {
                let length = input.number(2) as usize % (longest + 1);
                let payload: Vec<u8> = (0..length).map(|i| i as u8).collect();
                let _ = sender.send(input.byte(), 7, &payload);
            }
            3 => {
                let (has, log) = memory.hostile(before, || receiver.has_message());
                assert!(log.len() <= 1 && !(has && broken));
            }
            4 => {
                let ((), log) = memory.hostile(before, || receiver.publish());
                judge_accesses(&log, before, &mut published);
                assert_eq!(published, before);
            }
            _ => {
                let room = if input.byte().is_multiple_of(4) {
                    input.number(2) as usize % (longest + 2)
                } else {
                    longest
                };
                let mut buffer = vec![0xee; room];
                let (result, log) = memory.hostile(before, || receiver.receive(&mut buffer));
                let moved = receiver.head().wrapping_sub(before) as usize;
                match result {
                    Ok(Some(header)) => {
                        assert!(!broken);
                        assert_eq!(moved, slots_of(header.length as usize));
                        judge_message(memory, before, header, &buffer, &log);
                    }
                    Ok(None) => assert!(!broken && moved == 0),
                    Err(Broken) => {
                        broken = true;
                        assert_eq!(moved, 0);
                    }
                }
                judge_accesses(&log, before, &mut published);
                // What was taken before this call has been told, but for less than a quarter.
                let late = before.wrapping_sub(published) as usize;
                assert!(broken || late < memory.shape.slots() / 4);
                assert!(result != Ok(None) || late == 0);
            }
        }
        assert_eq!(receiver.is_broken(), broken);
    }
}

/// No word is read twice, no slot is written, and the head that is told is that from before.
fn judge_accesses(log: &[Access], head: u64, published: &mut u64) {
    let mut seen = [[false; WORDS]; SLOTS_MAX];
    for access in log {
        match *access {
            Access::Load(slot, word, _) => {
                let before = core::mem::replace(&mut seen[slot][word], true);
                assert!(!before, "a word is read twice");
            }
            Access::StoreHead(value) => {
                assert_eq!(value, head);
                *published = value;
            }
            other => panic!("a receiver's {other:?}"),
        }
    }
}

/// What was received is what was read, and was checked.
fn judge_message(
    memory: &Memory<'_>,
    position: u64,
    header: Header,
    buffer: &[u8],
    log: &[Access],
) {
    let mut words = [[None; WORDS]; SLOTS_MAX];
    for access in log {
        if let Access::Load(slot, word, value) = *access {
            words[slot][word] = Some(value);
        }
    }
    let read = |position: u64, word: usize| words[position as usize % memory.shape.slots()][word];
    let length = header.length as usize;
    assert!(length <= memory.shape.longest() && header.kind < 128);
    let first = stamp(position, memory.epoch, abi::LANE_FIRST | header.kind);
    assert_eq!(read(position, 0), Some(first));
    let word = u64::from(header.port) << 32 | u64::from(header.length);
    assert_eq!(read(position, 1), Some(word));
    let mut places: Vec<(u64, usize)> = (2..WORDS).map(|word| (position, word)).collect();
    for by in 1..slots_of(length) as u64 {
        let position = position.wrapping_add(by);
        let next = stamp(position, memory.epoch, abi::LANE_NEXT);
        assert_eq!(read(position, 0), Some(next));
        places.extend((1..WORDS).map(|word| (position, word)));
    }
    for (i, byte) in buffer.iter().enumerate() {
        let wanted = if i < length {
            let (position, word) = places[i / 8];
            read(position, word)
                .expect("a word of the payload is read")
                .to_le_bytes()[i % 8]
        } else {
            0xee
        };
        assert_eq!(*byte, wanted);
    }
}

/// A sender whose receiver does what it likes.
pub fn receiver_against_sender(bytes: &[u8]) {
    let input = &Input::new(bytes);
    let memory = &Memory::new(input);
    let start = input.position();
    memory.head.set(start);
    let mut sender = Sender::at(memory, memory.shape, start);
    let slots = memory.shape.slots();
    let mut broken = false;
    // The head that the sender must know.
    let mut head = start;
    while !input.is_empty() {
        let tail = sender.tail();
        let stalls = sender.stalls();
        if input.byte().is_multiple_of(2) {
            // A head that may well be.
            let by = input.byte() as u64 % (tail.wrapping_sub(head) + 2);
            memory.head.set(head.wrapping_add(by));
        }
        let mut heads = |log: &[Access]| {
            for access in log {
                if let Access::LoadHead(value) = *access {
                    broken |= value.wrapping_sub(head) > tail.wrapping_sub(head);
                    if !broken {
                        head = value;
                    }
                }
            }
            broken
        };
        if input.byte().is_multiple_of(4) {
            let (result, log) = memory.hostile(tail, || sender.taken());
            assert!(matches!(log[..], [Access::LoadHead(_)]));
            let broken = heads(&log);
            assert_eq!(result, if broken { Err(Broken) } else { Ok(head) });
            assert_eq!(sender.tail(), tail);
            continue;
        }
        let length = input.number(2) as usize % (memory.shape.longest() + 2);
        let payload = vec![0x55; length];
        let (result, log) = memory.hostile(tail, || sender.send(1, 2, &payload));
        let loads = log.iter().filter(|at| matches!(at, Access::LoadHead(_)));
        assert!(loads.count() <= 1);
        let broken = heads(&log);
        let needed = slots_of(length);
        let fits = tail.wrapping_sub(head) as usize + needed <= slots;
        match result {
            Ok(()) => {
                assert!(!broken && fits);
                assert_eq!(sender.tail(), tail.wrapping_add(needed as u64));
                judge_stores(&log, tail, needed, slots);
                continue;
            }
            Err(SendError::TooLong) => assert!(length > memory.shape.longest()),
            Err(SendError::Broken) => assert!(broken),
            Err(SendError::Full) => {
                assert!(!broken && !fits);
                assert_eq!(sender.stalls(), stalls + 1);
            }
        }
        assert_eq!(sender.tail(), tail);
        assert!(!log.iter().any(|access| matches!(access, Access::Store(..))));
    }
}

/// Lanes that are taken back from a program that did what it likes in them, as does the other side.
pub fn program_against_recovery(bytes: &[u8]) {
    let input = &Input::new(bytes);
    let memory = &Memory::new(input);
    let start = input.position();
    memory.head.set(start);
    let mut sender = Sender::at(memory, memory.shape, start);
    let mut receiver = Receiver::at(memory, memory.shape, start);
    let slots = memory.shape.slots();
    let mut broken = (false, false);
    while !input.is_empty() {
        let (tail, head) = (sender.tail(), receiver.head());
        match input.byte() % 8 {
            // What a good program does, or the kernel.
            0 | 1 => {
                let length = input.number(2) as usize % (memory.shape.longest() + 1);
                let _ = sender.send(1, 2, &vec![0x55; length]);
            }
            2 => {
                let _ = receiver.receive(&mut []);
            }
            3 => receiver.publish(),
            4 => {
                let (_, log) = memory.hostile(tail, || sender.finds_credit(slots / 2));
                assert!(log.len() <= 1 + 2 * slots);
                assert!(log
                    .iter()
                    .all(|at| matches!(at, Access::Load(..) | Access::LoadHead(_))));
            }
            5 => {
                let (_, log) = memory.hostile(head, || receiver.finds_message());
                assert!(matches!(
                    log[..],
                    [Access::LoadHead(_), Access::Load(_, 0, _)]
                ));
            }
            6 => {
                let (result, log) = memory.hostile(tail, || sender.recover());
                let heads = log.iter().filter_map(|access| match access {
                    Access::LoadHead(head) => Some(*head),
                    _ => None,
                });
                let heads: Vec<u64> = heads.collect();
                assert_eq!(heads.len(), 1);
                assert!(log.len() <= 2 + 4 * slots);
                let used = sender.tail().wrapping_sub(heads[0]) as usize;
                assert!(result.is_err() || (!broken.0 && used <= slots));
                broken.0 |= result.is_err();
                for access in &log {
                    if let Access::Store(slot, word) = *access {
                        // A stamp in a slot that is free.
                        let by = slot.wrapping_sub(sender.tail() as usize) % slots;
                        assert!(result.is_ok() && word == 0 && by < slots - used);
                    }
                }
                if broken.0 {
                    assert_eq!(sender.tail(), tail);
                    assert!(sender.send(1, 2, b"x").is_err());
                }
            }
            _ => {
                let (result, log) = memory.hostile(head, || receiver.recover());
                assert!(log.len() <= 3 && matches!(log[0], Access::LoadHead(_)));
                broken.1 |= result.is_err();
                match result {
                    Ok(()) => assert_eq!(log[0], Access::LoadHead(receiver.head())),
                    Err(Broken) => assert_eq!(receiver.head(), head),
                }
                assert!(!broken.1 || receiver.is_broken());
            }
        }
    }
}

/// Only the message's own slots are written, no slot is read, and the first stamp is last.
fn judge_stores(log: &[Access], tail: u64, needed: usize, slots: usize) {
    let mut seen = [[false; WORDS]; SLOTS_MAX];
    let mut last = None;
    for access in log {
        match *access {
            Access::Store(slot, word) => {
                let before = core::mem::replace(&mut seen[slot][word], true);
                let by = slot.wrapping_sub(tail as usize) % slots;
                assert!(by < needed && !before);
                last = Some((slot, word));
            }
            Access::LoadHead(_) => assert_eq!(last, None),
            other => panic!("a sender's {other:?}"),
        }
    }
    assert_eq!(last, Some((tail as usize % slots, 0)));
}

/// A link whose header says anything.
pub fn header_against_layout(bytes: &[u8]) {
    let input = &Input::new(bytes);
    let mut sides = [0, 1].map(|_| abi::LinkSide {
        id: input.number(2) as u32,
        cpus: input.number(2) as u32 % 520,
        lanes: input.number(2) as u32 % 4100,
        data_bytes: input.number(3) as u32 % 0x4_0010 * 4096,
    });
    let mut slots = 1 << (input.byte() % 20);
    if input.byte().is_multiple_of(8) {
        let word = input.number(4) as u32;
        let side = &mut sides[usize::from(input.byte() % 2)];
        match input.byte() % 4 {
            0 => side.cpus = word,
            1 => side.lanes = word,
            2 => side.data_bytes = word,
            _ => slots = word,
        }
    }
    // The right size, most often: no fuzzer guesses it.
    let right = Layout::new(sides, slots, 1).map_or(0, |layout| layout.size());
    let nearly = |value: u64| match input.byte() % 8 {
        0 => input.number(8),
        1 => value.wrapping_add_signed(i64::from(input.byte() as i8)),
        _ => value,
    };
    let header = abi::LinkHeader {
        magic: nearly(abi::LINK_MAGIC),
        version: nearly(abi::ABI_VERSION.into()) as u32,
        minor: input.byte().into(),
        epoch: 1,
        lane_slots: slots,
        size: nearly(right),
        features: input.byte().into(),
        sides,
    };
    let available = nearly(right);
    let Ok(layout) = Layout::of_header(&header, available, abi::ABI_VERSION) else {
        return;
    };
    assert!(header.magic == abi::LINK_MAGIC && header.version == abi::ABI_VERSION);
    let newer = header.minor > abi::ABI_MINOR;
    assert!(layout.size() == header.size || newer && layout.size() < header.size);
    assert!(header.size <= available);
    assert_eq!(layout.size() % 4096, 0);
    assert!(Shape::new(layout.lane_slots(), layout.epoch()).is_some());
    let mut end = 4096;
    let mut next = |place: Option<u64>, bytes: u64, align: u64| {
        let place = place.expect("a place for what the side has");
        assert!(place >= end && place.is_multiple_of(align));
        end = place + bytes;
        assert!(end <= header.size);
    };
    for (number, side) in sides.iter().enumerate() {
        assert_eq!(layout.side(number), side);
        next(Some(layout.state(number)), 64, 64);
        (0..side.cpus).for_each(|cpu| next(layout.bell(number, cpu), 64, 64));
        (0..side.lanes).for_each(|lane| next(layout.directory(number, lane), 8, 8));
        let bytes = lane_bytes(slots);
        (0..side.lanes).for_each(|lane| next(layout.lane(number, lane), bytes, 128));
        next(Some(layout.data(number)), side.data_bytes.into(), 4096);
        assert_eq!(layout.bell(number, side.cpus), None);
        assert_eq!(layout.directory(number, side.lanes), None);
        assert_eq!(layout.lane(number, side.lanes), None);
    }
}
