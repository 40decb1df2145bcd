// SPDX-License-Identifier: GPL-2.0

//! Lanes: rings of 64-byte slots from one CPU of one kernel to one CPU of another. The pure part.
//!
//! A lane has one [`Sender`] and one [`Receiver`]. The sender writes slots and nothing else; the
//! receiver writes the lane's head and nothing else. Slot `p & (slots - 1)` carries position `p`,
//! and the first of its eight words, the *stamp*, says so: it is stored last, with release
//! ordering, and a slot counts only once its stamp has the position and the epoch that the receiver
//! waits for. So a message that fits in a slot moves one cache line and no other: there is no tail
//! to be fetched, and the head is written only every quarter of the ring and looked at only by a
//! sender that has run out of credit.
//!
//! A message that spans slots is published by the stamp of its first slot, after all others have
//! been written. A sender that dies at any instruction therefore leaves whole messages, and then
//! nothing.
//!
//! Neither side trusts the other. A slot's words are read once; the length of a message and the
//! head are bounded by constants before they are used; indexes are masked by the side's own mask;
//! and no loop runs longer than a lane has slots. What cannot be gives [`Broken`], after which that
//! lane is not used any more.
//!
//! This file uses `core` alone and has no `unsafe`: the kernel and the tests compile it and bring
//! their own [`LaneMemory`]. It takes no locks: a `Sender` or `Receiver` belongs to who has it in
//! hand, most often one CPU with interrupts off.

// The tests and the benchmark use more of it than the kernel does.
#![allow(unreachable_pub, dead_code)]

use crate::abi;

/// Words of a slot.
pub const WORDS: usize = abi::LANE_SLOT_BYTES / 8;
/// Bytes of payload in the first slot of a message: all but the stamp and the header.
pub const FIRST_BYTES: usize = abi::LANE_SLOT_BYTES - 16;
/// Bytes of payload in each further slot: all but the stamp.
pub const NEXT_BYTES: usize = abi::LANE_SLOT_BYTES - 8;

/// The memory of one lane, as one side sees it. The other side may change it at any time.
pub trait LaneMemory {
    /// Reads a word of a slot. `slot` is below the lane's number of slots, `word` below [`WORDS`].
    fn load(&self, slot: usize, word: usize) -> u64;
    /// Writes a word of a slot.
    fn store(&self, slot: usize, word: usize, value: u64);
    /// Reads word 0 of a slot, with acquire ordering.
    fn load_stamp(&self, slot: usize) -> u64;
    /// Writes word 0 of a slot, with release ordering.
    fn store_stamp(&self, slot: usize, value: u64);
    /// Reads the head, with acquire ordering.
    fn load_head(&self) -> u64;
    /// Writes the head, with release ordering.
    fn store_head(&self, value: u64);
}

/// What a lane looks like; the same on both sides, and not read from shared memory twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    mask: usize,
    epoch: u16,
}

impl Shape {
    /// A lane of `slots` slots in a link of that epoch, of which the low 16 bits count.
    ///
    /// Returns `None` if the number of slots is no power of two from [`abi::LANE_SLOTS_MIN`] to
    /// [`abi::LANE_SLOTS_MAX`].
    pub fn new(slots: u32, epoch: u32) -> Option<Self> {
        let allowed = abi::LANE_SLOTS_MIN..=abi::LANE_SLOTS_MAX;
        (slots.is_power_of_two() && allowed.contains(&slots)).then(|| Self {
            mask: slots as usize - 1,
            // CAST: Masked.
            epoch: (epoch & 0xffff) as u16,
        })
    }

    /// Slots of the lane.
    pub fn slots(&self) -> usize {
        self.mask + 1
    }

    /// Bytes of the longest message: it takes half of the slots, so that the next one can be
    /// written while it is read.
    pub fn longest(&self) -> usize {
        FIRST_BYTES + (self.slots() / 2 - 1) * NEXT_BYTES
    }

    #[inline]
    fn index(&self, position: u64) -> usize {
        // CAST: Masked to what is below the number of slots.
        (position & self.mask as u64) as usize
    }

    /// The stamp of a slot. Never 0, which is what fresh memory has: of the position the lower half
    /// of the successor counts, and where that is 0 the slot has been written before.
    #[inline]
    fn stamp(&self, position: u64, kind: u8) -> u64 {
        (position.wrapping_add(1) & 0xffff_ffff)
            | u64::from(self.epoch) << 32
            | u64::from(kind) << 48
    }
}

/// The other side did what it must not; the lane is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// Why a message was not sent. Nothing has been written that the receiver would look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// No credit: the receiver has not yet taken what was sent before.
    Full,
    /// Longer than [`Shape::longest`].
    TooLong,
    /// The receiver has published a head that cannot be.
    Broken,
}

/// What a message is, beside its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// `MESSAGE_*`, below 128; lanes do not look at it.
    pub kind: u8,
    /// Where it is to go; lanes do not look at it.
    pub port: u32,
    /// Bytes of payload.
    pub length: u32,
}

/// Number of slots that a payload of that many bytes takes.
pub fn slots_for(length: usize) -> usize {
    1 + length.saturating_sub(FIRST_BYTES).div_ceil(NEXT_BYTES)
}

/// The sending side of a lane.
#[derive(Debug)]
pub struct Sender<M> {
    memory: M,
    shape: Shape,
    /// The next position to be written.
    tail: u64,
    /// The head as last seen: everything before it is the sender's again.
    head: u64,
    /// How often there was no credit.
    stalls: u64,
    broken: bool,
}

impl<M: LaneMemory> Sender<M> {
    /// The sender of a lane whose memory is zeroed, or was last used in an earlier epoch.
    pub fn new(memory: M, shape: Shape) -> Self {
        Self {
            memory,
            shape,
            tail: 0,
            head: 0,
            stalls: 0,
            broken: false,
        }
    }

    /// What the lane looks like.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Slots that have been sent, since the beginning.
    pub fn tail(&self) -> u64 {
        self.tail
    }

    /// How often a message could not be sent for want of credit.
    pub fn stalls(&self) -> u64 {
        self.stalls
    }

    /// Position up to which the receiver has taken everything.
    ///
    /// # Errors
    ///
    /// [`Broken`] if it says something that cannot be.
    pub fn taken(&mut self) -> Result<u64, Broken> {
        let head = self.memory.load_head();
        // Both differences wrap where the head is before what it was, or beyond the tail.
        let ahead = head.wrapping_sub(self.head);
        if self.broken || ahead > self.tail.wrapping_sub(self.head) {
            self.broken = true;
            // No credit ever after, so that `send()` need not look at `broken` while it has some.
            self.head = self.tail.wrapping_sub(self.shape.slots() as u64);
            return Err(Broken);
        }
        self.head = head;
        Ok(head)
    }

    /// Whether `slots` slots are free; looks at the receiver's head only if it has to.
    ///
    /// # Errors
    ///
    /// [`Broken`] if the head cannot be.
    #[inline(always)]
    pub fn has_credit(&mut self, slots: usize) -> Result<bool, Broken> {
        let used = |this: &Self| this.tail.wrapping_sub(this.head) as usize;
        if used(self) + slots <= self.shape.slots() {
            return Ok(true);
        }
        self.taken()?;
        Ok(used(self) + slots <= self.shape.slots())
    }

    /// Counts a message that could not be sent for want of credit.
    ///
    /// # Errors
    ///
    /// [`SendError::Full`], always.
    #[cold]
    pub fn stall(&mut self) -> Result<(), SendError> {
        self.stalls += 1;
        Err(SendError::Full)
    }

    /// Sends a message: it is with the receiver when this has returned. Never waits.
    ///
    /// # Errors
    ///
    /// [`SendError`]; the message has not been sent then.
    #[inline(always)]
    pub fn send(&mut self, kind: u8, port: u32, payload: &[u8]) -> Result<(), SendError> {
        if payload.len() > FIRST_BYTES {
            return self.send_long(kind, port, payload);
        }
        match self.has_credit(1) {
            Ok(true) => {}
            Ok(false) => return self.stall(),
            Err(Broken) => return Err(SendError::Broken),
        }
        self.put_first(kind, port, payload.len(), payload);
        self.tail = self.tail.wrapping_add(1);
        Ok(())
    }

    /// Sends a message that takes more than a slot.
    #[inline(never)]
    fn send_long(&mut self, kind: u8, port: u32, payload: &[u8]) -> Result<(), SendError> {
        let Some((first, rest)) = payload.split_at_checked(FIRST_BYTES) else {
            return Err(SendError::TooLong);
        };
        if payload.len() > self.shape.longest() {
            return Err(SendError::TooLong);
        }
        match self.has_credit(slots_for(payload.len())) {
            Ok(true) => {}
            Ok(false) => return self.stall(),
            Err(Broken) => return Err(SendError::Broken),
        }
        let mut position = self.tail;
        let (whole, last) = rest.as_chunks::<NEXT_BYTES>();
        for chunk in whole {
            position = position.wrapping_add(1);
            let slot = self.shape.index(position);
            self.put(slot, 1, chunk);
            let stamp = self.shape.stamp(position, abi::LANE_NEXT);
            self.memory.store_stamp(slot, stamp);
        }
        if !last.is_empty() {
            position = position.wrapping_add(1);
            let slot = self.shape.index(position);
            self.put(slot, 1, last);
            let stamp = self.shape.stamp(position, abi::LANE_NEXT);
            self.memory.store_stamp(slot, stamp);
        }
        self.put_first(kind, port, payload.len(), first);
        self.tail = position.wrapping_add(1);
        Ok(())
    }

    /// Writes the first slot of a message of so many bytes, which publishes it.
    #[inline(always)]
    fn put_first(&self, kind: u8, port: u32, length: usize, first: &[u8]) {
        let slot = self.shape.index(self.tail);
        // CAST: Bounded by `longest()`.
        let header = u64::from(port) << 32 | length as u64;
        self.memory.store(slot, 1, header);
        // Inlined twice: with a constant length there is no loop.
        match <&[u8; FIRST_BYTES]>::try_from(first) {
            Ok(full) => self.put(slot, 2, full),
            Err(_) => self.put(slot, 2, first),
        }
        let kind = abi::LANE_FIRST | (kind & abi::LANE_KIND);
        let stamp = self.shape.stamp(self.tail, kind);
        self.memory.store_stamp(slot, stamp);
    }

    /// Writes bytes into a slot from `word` on; of the last word, what is beyond them is 0.
    #[inline(always)]
    fn put(&self, slot: usize, word: usize, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for (i, chunk) in words.iter().enumerate() {
            self.memory
                .store(slot, word + i, u64::from_le_bytes(*chunk));
        }
        if !rest.is_empty() {
            let mut last = [0; 8];
            for (to, from) in last.iter_mut().zip(rest) {
                *to = *from;
            }
            self.memory
                .store(slot, word + words.len(), u64::from_le_bytes(last));
        }
    }
}

/// The receiving side of a lane.
#[derive(Debug)]
pub struct Receiver<M> {
    memory: M,
    shape: Shape,
    /// The next position to be read.
    head: u64,
    /// The head that the sender has been told.
    published: u64,
    broken: bool,
}

impl<M: LaneMemory> Receiver<M> {
    /// The receiver of a lane whose memory is zeroed, or was last used in an earlier epoch.
    pub fn new(memory: M, shape: Shape) -> Self {
        Self {
            memory,
            shape,
            head: 0,
            published: 0,
            broken: false,
        }
    }

    /// Slots that have been taken, since the beginning.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// Whether the lane has been found broken.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether there is a message.
    #[inline]
    pub fn has_message(&self) -> bool {
        let slot = self.shape.index(self.head);
        !self.broken && self.is_next(self.memory.load_stamp(slot), self.head)
    }

    /// Whether a stamp is that of `position` in this life of the link, of whatever kind.
    #[inline(always)]
    fn is_next(&self, stamp: u64, position: u64) -> bool {
        (stamp ^ self.shape.stamp(position, 0)) & 0xffff_ffff_ffff == 0
    }

    /// Takes the next message, if there is one, and copies its payload to the beginning of
    /// `buffer`, which should have [`Shape::longest`] bytes; what does not fit is lost.
    ///
    /// # Errors
    ///
    /// [`Broken`] if what is there cannot be a message, now and ever after.
    #[inline(always)]
    pub fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<Header>, Broken> {
        let slot = self.shape.index(self.head);
        let stamp = self.memory.load_stamp(slot);
        if self.broken {
            return Err(Broken);
        }
        if !self.is_next(stamp, self.head) {
            self.publish();
            return Ok(None);
        }
        // What was taken at earlier calls is done with by now, and buffers that it named as well.
        if self.head.wrapping_sub(self.published) as usize >= self.shape.slots() / 4 {
            self.publish();
        }
        match self.take(slot, stamp, buffer) {
            Some(header) => Ok(Some(header)),
            None => Err(self.fail()),
        }
    }

    /// Takes nothing from the lane any more: a message was not what it had to be.
    pub fn fail(&mut self) -> Broken {
        self.broken = true;
        Broken
    }

    /// Takes the message whose first slot has been published.
    #[inline(always)]
    fn take(&mut self, slot: usize, stamp: u64, buffer: &mut [u8]) -> Option<Header> {
        let kind = stamp >> 48;
        if kind & !u64::from(abi::LANE_KIND) != u64::from(abi::LANE_FIRST) {
            return None;
        }
        let word = self.memory.load(slot, 1);
        let header = Header {
            // CAST: Masked.
            kind: (kind & u64::from(abi::LANE_KIND)) as u8,
            port: (word >> 32) as u32,
            // CAST: The lower half.
            length: word as u32,
        };
        let length = header.length as usize;
        if length > FIRST_BYTES {
            self.head = self.take_rest(length, buffer)?;
        } else {
            self.head = self.head.wrapping_add(1);
        }
        // Where the payload is longer, this is its beginning.
        let wanted = length.min(FIRST_BYTES).min(buffer.len());
        let first = buffer.get_mut(..wanted)?;
        match <&mut [u8; FIRST_BYTES]>::try_from(&mut *first) {
            Ok(full) => self.get(slot, 2, full),
            Err(_) => self.get(slot, 2, first),
        }
        Some(header)
    }

    /// Copies what is in the further slots of a message to where it belongs in `buffer`, and
    /// returns the position after it.
    #[inline(never)]
    fn take_rest(&self, length: usize, buffer: &mut [u8]) -> Option<u64> {
        if length > self.shape.longest() {
            return None;
        }
        let wanted = length.min(buffer.len());
        let rest = buffer.get_mut(FIRST_BYTES.min(wanted)..wanted)?;
        let mut chunks = rest.chunks_mut(NEXT_BYTES);
        let mut position = self.head;
        for _ in 1..slots_for(length) {
            position = position.wrapping_add(1);
            let slot = self.shape.index(position);
            if self.memory.load_stamp(slot) != self.shape.stamp(position, abi::LANE_NEXT) {
                return None;
            }
            if let Some(chunk) = chunks.next() {
                match <&mut [u8; NEXT_BYTES]>::try_from(&mut *chunk) {
                    Ok(full) => self.get(slot, 1, full),
                    Err(_) => self.get(slot, 1, chunk),
                }
            }
        }
        Some(position.wrapping_add(1))
    }

    /// Reads bytes of a slot from `word` on.
    #[inline(always)]
    fn get(&self, slot: usize, word: usize, bytes: &mut [u8]) {
        let (words, rest) = bytes.as_chunks_mut::<8>();
        let whole = words.len();
        for (i, chunk) in words.iter_mut().enumerate() {
            *chunk = self.memory.load(slot, word + i).to_le_bytes();
        }
        if !rest.is_empty() {
            let last = self.memory.load(slot, word + whole).to_le_bytes();
            for (to, from) in rest.iter_mut().zip(last) {
                *to = from;
            }
        }
    }

    /// Tells the sender what has been taken. [`Self::receive()`] does it, of what was taken before:
    /// every quarter of the ring, and when there is nothing left, so that a sender which waits for
    /// credit does not wait for ever.
    pub fn publish(&mut self) {
        if self.published != self.head {
            self.published = self.head;
            self.memory.store_head(self.head);
        }
    }
}

#[cfg(any(test, CONFIG_MULTIKERNEL_KUNIT_TEST))]
impl<M: LaneMemory> Sender<M> {
    /// The sender of a lane in which `position` slots have been sent and taken, for tests.
    pub fn at(memory: M, shape: Shape, position: u64) -> Self {
        Self {
            tail: position,
            head: position,
            ..Self::new(memory, shape)
        }
    }
}

#[cfg(any(test, CONFIG_MULTIKERNEL_KUNIT_TEST))]
impl<M: LaneMemory> Receiver<M> {
    /// The receiver of a lane in which `position` slots have been sent and taken, for tests.
    pub fn at(memory: M, shape: Shape, position: u64) -> Self {
        memory.store_head(position);
        Self {
            head: position,
            published: position,
            ..Self::new(memory, shape)
        }
    }
}

#[cfg(any(test, CONFIG_MULTIKERNEL_KUNIT_TEST))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(multikernel_link_lane))]
mod tests {
    use super::*;
    use core::cell::Cell;

    const SLOTS: usize = abi::LANE_SLOTS_MIN as usize;
    const LONGEST: usize = FIRST_BYTES + (SLOTS / 2 - 1) * NEXT_BYTES;
    const SHAPE: Shape = Shape {
        mask: SLOTS - 1,
        epoch: 3,
    };
    /// Where each test begins: at 0, before the stamps' sequence wraps, and before positions do.
    const STARTS: [u64; 3] = [0, (1 << 32) - 37, u64::MAX - 36];

    struct Memory {
        head: Cell<u64>,
        slots: [[Cell<u64>; WORDS]; SLOTS],
    }

    impl Memory {
        fn new() -> Self {
            Self {
                head: Cell::new(0),
                slots: [const { [const { Cell::new(0) }; WORDS] }; SLOTS],
            }
        }

        fn word(&self, position: u64, word: usize) -> &Cell<u64> {
            &self.slots[position as usize % SLOTS][word]
        }
    }

    impl LaneMemory for &Memory {
        fn load(&self, slot: usize, word: usize) -> u64 {
            self.slots[slot][word].get()
        }
        fn store(&self, slot: usize, word: usize, value: u64) {
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

    fn pair(memory: &Memory, start: u64) -> (Sender<&Memory>, Receiver<&Memory>) {
        (
            Sender::at(memory, SHAPE, start),
            Receiver::at(memory, SHAPE, start),
        )
    }

    /// Bytes of which no two neighbours are equal, and no two payloads.
    fn payload(seed: usize) -> [u8; LONGEST] {
        core::array::from_fn(|i| (i * 7 + seed * 13 + 1) as u8)
    }

    fn header(length: usize) -> Result<Option<Header>, Broken> {
        Ok(Some(Header {
            kind: 5,
            port: 0xfedc_ba98,
            length: length as u32,
        }))
    }

    fn send(sender: &mut Sender<&Memory>, bytes: &[u8]) -> Result<(), SendError> {
        sender.send(5, 0xfedc_ba98, bytes)
    }

    #[test]
    fn shapes_are_checked() {
        for slots in [0, 1, 8, 24, SLOTS as u32 + 1, 1 << 17, 1 << 31, u32::MAX] {
            assert_eq!(Shape::new(slots, 1), None);
        }
        assert_eq!(Shape::new(16, 0x7_0003), Some(SHAPE));
        assert_eq!(SHAPE.longest(), LONGEST);
        let largest = Shape::new(abi::LANE_SLOTS_MAX, 1);
        assert_eq!(largest.map(|shape| shape.slots()), Some(65536));
    }

    #[test]
    fn every_length_arrives() {
        for start in STARTS {
            let memory = Memory::new();
            let (mut sender, mut receiver) = pair(&memory, start);
            for length in 0..=LONGEST {
                let sent = payload(length);
                assert!(!receiver.has_message());
                assert_eq!(send(&mut sender, &sent[..length]), Ok(()));
                assert!(receiver.has_message());
                let mut got = [0xee; LONGEST + 1];
                assert_eq!(receiver.receive(&mut got), header(length));
                assert!(got[..length] == sent[..length]);
                assert!(got[length..].iter().all(|byte| *byte == 0xee));
                assert_eq!(receiver.head(), sender.tail());
                assert_eq!(receiver.receive(&mut got), Ok(None));
            }
            assert_eq!(sender.taken(), Ok(sender.tail()));
            assert_eq!(sender.stalls(), 0);
        }
    }

    #[test]
    fn what_does_not_fit_in_the_buffer_is_lost() {
        for start in STARTS {
            let memory = Memory::new();
            let (mut sender, mut receiver) = pair(&memory, start);
            for room in 0..LONGEST {
                let sent = payload(room);
                assert_eq!(send(&mut sender, &sent), Ok(()));
                let mut got = [0xee; LONGEST];
                assert_eq!(receiver.receive(&mut got[..room]), header(LONGEST));
                assert!(got[..room] == sent[..room]);
                assert!(got[room..].iter().all(|byte| *byte == 0xee));
            }
            assert_eq!(receiver.head(), sender.tail());
        }
    }

    #[test]
    fn credit_comes_back_by_quarters() {
        for start in STARTS {
            let memory = Memory::new();
            let (mut sender, mut receiver) = pair(&memory, start);
            let mut got = [0; LONGEST];
            for _ in 0..SLOTS {
                assert_eq!(send(&mut sender, b"one"), Ok(()));
            }
            assert_eq!(send(&mut sender, b""), Err(SendError::Full));
            for _ in 0..SLOTS / 4 {
                assert_eq!(receiver.receive(&mut got), header(3));
            }
            // The head is not yet told, as the last message may still be in use.
            assert_eq!(memory.head.get(), start);
            assert_eq!(send(&mut sender, b""), Err(SendError::Full));
            assert_eq!(sender.stalls(), 2);
            assert_eq!(receiver.receive(&mut got), header(3));
            assert_eq!(sender.taken(), Ok(start.wrapping_add(SLOTS as u64 / 4)));
            let four = FIRST_BYTES + (SLOTS / 4 - 1) * NEXT_BYTES;
            assert_eq!(send(&mut sender, &got[..four + 1]), Err(SendError::Full));
            assert_eq!(send(&mut sender, &got[..four]), Ok(()));
            assert_eq!(send(&mut sender, b""), Err(SendError::Full));
            // Who finds nothing any more gives all back.
            while receiver.receive(&mut got) != Ok(None) {}
            assert_eq!(sender.taken(), Ok(sender.tail()));
            assert_eq!(receiver.head(), sender.tail());
        }
    }

    #[test]
    fn too_long_is_not_sent() {
        let memory = Memory::new();
        let (mut sender, mut receiver) = pair(&memory, 0);
        let sent = [1; LONGEST + 1];
        assert_eq!(send(&mut sender, &sent), Err(SendError::TooLong));
        assert!(memory.slots.iter().flatten().all(|word| word.get() == 0));
        assert_eq!(receiver.receive(&mut []), Ok(None));
        assert_eq!(sender.stalls(), 0);
    }

    #[test]
    fn an_older_epoch_is_not_seen() {
        let memory = Memory::new();
        let (mut sender, _) = pair(&memory, 0);
        for _ in 0..SLOTS {
            assert_eq!(send(&mut sender, b"old"), Ok(()));
        }
        let shape = Shape { epoch: 4, ..SHAPE };
        let mut sender = Sender::at(&memory, shape, 0);
        let mut receiver = Receiver::at(&memory, shape, 0);
        let mut got = [0; LONGEST];
        assert!(!receiver.has_message());
        assert_eq!(receiver.receive(&mut got), Ok(None));
        assert_eq!(send(&mut sender, &payload(1)), Ok(()));
        assert_eq!(receiver.receive(&mut got), header(LONGEST));
        assert!(got == payload(1));
        assert_eq!(receiver.receive(&mut got), Ok(None));
    }

    #[test]
    fn a_hostile_sender_breaks_its_lane() {
        let next = |position| SHAPE.stamp(position, abi::LANE_NEXT);
        for start in STARTS {
            let second = start.wrapping_add(1);
            // Word of the first or second slot, and what it is other than it should be.
            for (position, word, value) in [
                (start, 0, next(start)),
                (start, 0, SHAPE.stamp(start, abi::LANE_KIND)),
                (start, 0, SHAPE.stamp(start, abi::LANE_FIRST) | 1 << 56),
                (start, 0, SHAPE.stamp(start, abi::LANE_FIRST) | 1 << 63),
                (start, 1, LONGEST as u64 + 1),
                (start, 1, u64::from(u32::MAX)),
                (second, 0, 0),
                (second, 0, next(start)),
                (second, 0, next(second.wrapping_add(SLOTS as u64))),
                (second, 0, next(second) ^ 1 << 32),
                (second, 0, next(second) | 1 << 56),
                (second, 0, SHAPE.stamp(second, abi::LANE_FIRST)),
            ] {
                let memory = Memory::new();
                let (mut sender, mut receiver) = pair(&memory, start);
                let mut got = [0; LONGEST];
                assert_eq!(send(&mut sender, &payload(1)), Ok(()));
                let right = memory.word(position, word).replace(value);
                assert_eq!(receiver.receive(&mut got), Err(Broken));
                // For ever, whatever is there.
                memory.word(position, word).set(right);
                assert!(receiver.is_broken());
                assert!(!receiver.has_message());
                assert_eq!(receiver.receive(&mut got), Err(Broken));
                assert_eq!(memory.head.get(), start);
            }
        }
    }

    #[test]
    fn a_message_longer_than_the_longest_is_none() {
        for start in STARTS {
            for (length, right) in [(LONGEST, true), (LONGEST + 1, false), (SLOTS * 64, false)] {
                let memory = Memory::new();
                let (_, mut receiver) = pair(&memory, start);
                // Every slot of the lane goes on with it.
                for at in (1..SLOTS as u64).map(|by| start.wrapping_add(by)) {
                    memory.word(at, 0).set(SHAPE.stamp(at, abi::LANE_NEXT));
                }
                memory.word(start, 1).set(length as u64);
                memory
                    .word(start, 0)
                    .set(SHAPE.stamp(start, abi::LANE_FIRST));
                assert_eq!(receiver.receive(&mut []).is_ok(), right);
            }
        }
    }

    #[test]
    fn a_hostile_receiver_breaks_its_lane() {
        for start in STARTS {
            // Sixteen slots have been sent, of which four are known to have been taken.
            for by in [-1, 3, SLOTS as i64 + 1, i64::MAX, i64::MIN] {
                let memory = Memory::new();
                let (mut sender, _) = pair(&memory, start);
                for _ in 0..SLOTS {
                    assert_eq!(send(&mut sender, b"x"), Ok(()));
                }
                memory.head.set(start.wrapping_add(4));
                assert_eq!(sender.taken(), Ok(start.wrapping_add(4)));
                memory.head.set(start.wrapping_add_signed(by));
                assert_eq!(sender.taken(), Err(Broken));
                // For ever, and with what was left of its credit.
                memory.head.set(sender.tail());
                assert_eq!(send(&mut sender, b"x"), Err(SendError::Broken));
                assert_eq!(sender.taken(), Err(Broken));
                assert_eq!(sender.tail(), start.wrapping_add(SLOTS as u64));
            }
        }
    }
}
