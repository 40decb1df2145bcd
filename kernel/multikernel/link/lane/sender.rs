// SPDX-License-Identifier: GPL-2.0

//! The sending side of a lane: see `lane.rs`.

use super::{
    slots_for,
    Broken,
    LaneMemory,
    SendError,
    Shape,
    FIRST_BYTES,
    NEXT_BYTES, //
};
use crate::abi;

/// So many slots before it is written a slot's line is asked for, or half of a shorter lane: the
/// receiver has read it at the last turn, so it has to be fetched from there. It is long enough
/// before for many such fetches to be under way.
const AHEAD: usize = 64;

/// The sending side of a lane.
#[derive(Debug)]
pub struct Sender<M> {
    pub(super) memory: M,
    pub(super) shape: Shape,
    /// The next position to be written.
    pub(super) tail: u64,
    /// The head as last seen: everything before it is the sender's again.
    pub(super) head: u64,
    /// How often there was no credit.
    pub(super) stalls: u64,
    pub(super) broken: bool,
    /// Whether somebody has been told of that.
    pub(super) told: bool,
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
            told: false,
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

    /// Whether the lane has been found broken.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether the lane has been found broken, the first time that this is asked: to be counted.
    pub fn is_newly_broken(&mut self) -> bool {
        self.broken && !core::mem::replace(&mut self.told, true)
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
            return Err(self.fail());
        }
        self.head = head;
        Ok(head)
    }

    /// Sends nothing any more: the lane was not what it had to be.
    pub fn fail(&mut self) -> Broken {
        self.broken = true;
        // No credit ever after, so that `send()` need not look at `broken` while it has some.
        self.head = self.tail.wrapping_sub(self.shape.slots() as u64);
        Broken
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
        let mut slots = 1;
        if payload.len() > FIRST_BYTES {
            if payload.len() > self.shape.longest() {
                return Err(SendError::TooLong);
            }
            slots = slots_for(payload.len());
        }
        match self.has_credit(slots) {
            Ok(true) => {}
            Ok(false) => return self.stall(),
            Err(Broken) => return Err(SendError::Broken),
        }
        self.tail = self.write(self.tail, kind, port, payload);
        Ok(())
    }

    /// Sends messages of one kind to one port, as far as there is credit for them, and returns how
    /// many; at least one, if there are any. Never waits.
    ///
    /// The receiver sees none of them before all have been written: then it finds whole lines, and
    /// both sides touch each of them once. Without that a receiver who keeps up takes lines away
    /// from a sender who is still writing to them.
    ///
    /// # Errors
    ///
    /// [`SendError`], of the first message; none has been sent then.
    #[inline]
    pub fn send_batch<P: AsRef<[u8]>>(
        &mut self,
        kind: u8,
        port: u32,
        payloads: &[P],
    ) -> Result<usize, SendError> {
        let (mut count, mut slots) = (0, 0);
        for payload in payloads {
            let length = payload.as_ref().len();
            let too_long = length > self.shape.longest();
            if too_long && count == 0 {
                return Err(SendError::TooLong);
            }
            if too_long {
                break;
            }
            slots += slots_for(length);
            match self.has_credit(slots) {
                Ok(true) => count += 1,
                Ok(false) if count == 0 => return self.stall().map(|()| 0),
                Ok(false) => break,
                Err(Broken) => return Err(SendError::Broken),
            }
        }
        let batch = payloads.get(..count).unwrap_or_default();
        let Some((first, rest)) = batch.split_first() else {
            return Ok(0);
        };
        let first = first.as_ref();
        let mut position = self.tail.wrapping_add(slots_for(first.len()) as u64);
        for payload in rest {
            position = self.write(position, kind, port, payload.as_ref());
        }
        self.write(self.tail, kind, port, first);
        self.tail = position;
        Ok(count)
    }

    /// Writes a message from `position` on, where there is credit for it, its first slot last;
    /// returns the position after it.
    #[inline(always)]
    fn write(&self, position: u64, kind: u8, port: u32, payload: &[u8]) -> u64 {
        self.prefetch(position);
        let (first, next) = match payload.split_at_checked(FIRST_BYTES) {
            Some((first, rest)) if !rest.is_empty() => (first, self.put_rest(position, rest)),
            _ => (payload, position.wrapping_add(1)),
        };
        self.put_first(position, kind, port, payload.len(), first);
        next
    }

    /// Writes what does not fit in the slot at `position` into those behind it; returns the
    /// position after them.
    #[inline(always)]
    fn put_rest(&self, mut position: u64, rest: &[u8]) -> u64 {
        let (whole, last) = rest.as_chunks::<NEXT_BYTES>();
        for chunk in whole {
            position = position.wrapping_add(1);
            self.put_next(position, chunk);
        }
        if !last.is_empty() {
            position = position.wrapping_add(1);
            self.put_next(position, last);
        }
        position.wrapping_add(1)
    }

    /// Asks for the line of a slot that will be written some messages later; not for one whose
    /// message may still be read.
    #[inline(always)]
    fn prefetch(&self, position: u64) {
        let slots = self.shape.slots();
        let ahead = position.wrapping_add(AHEAD.min(slots / 2) as u64);
        if (ahead.wrapping_sub(self.head) as usize) < slots {
            self.memory.prefetch_for_write(self.shape.index(ahead));
        }
    }

    /// Writes a further slot of a message.
    #[inline(always)]
    fn put_next(&self, position: u64, bytes: &[u8]) {
        self.prefetch(position);
        let slot = self.shape.index(position);
        self.put(slot, 1, bytes);
        let stamp = self.shape.stamp(position, abi::LANE_NEXT);
        self.memory.store_stamp(slot, stamp);
    }

    /// Writes the first slot of a message of so many bytes, which publishes it.
    #[inline(always)]
    fn put_first(&self, position: u64, kind: u8, port: u32, length: usize, first: &[u8]) {
        let slot = self.shape.index(position);
        // CAST: Bounded by `longest()`.
        let header = u64::from(port) << 32 | length as u64;
        self.memory.store(slot, 1, header);
        // Inlined twice: with a constant length there is no loop.
        match <&[u8; FIRST_BYTES]>::try_from(first) {
            Ok(full) => self.put(slot, 2, full),
            Err(_) => self.put(slot, 2, first),
        }
        let kind = abi::LANE_FIRST | (kind & abi::LANE_KIND);
        let stamp = self.shape.stamp(position, kind);
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
