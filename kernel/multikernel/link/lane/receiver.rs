// SPDX-License-Identifier: GPL-2.0

//! The receiving side of a lane: see `lane.rs`.

use super::{
    slots_for,
    Broken,
    Header,
    LaneMemory,
    Shape,
    FIRST_BYTES,
    NEXT_BYTES, //
};
use crate::abi;

/// A receiver that has found so many slots written, one after another, asks for as many more at
/// once.
const AHEAD: u64 = 16;

/// The receiving side of a lane.
#[derive(Debug)]
pub struct Receiver<M> {
    pub(super) memory: M,
    pub(super) shape: Shape,
    /// The next position to be read.
    pub(super) head: u64,
    /// The head that the sender has been told.
    pub(super) published: u64,
    /// Where [`Self::look_ahead()`] was last called, or there was nothing.
    pub(super) looked: u64,
    pub(super) broken: bool,
    /// Whether somebody has been told of that.
    pub(super) told: bool,
}

impl<M: LaneMemory> Receiver<M> {
    /// The receiver of a lane whose memory is zeroed, or was last used in an earlier epoch.
    pub fn new(memory: M, shape: Shape) -> Self {
        Self {
            memory,
            shape,
            head: 0,
            published: 0,
            looked: 0,
            broken: false,
            told: false,
        }
    }

    /// The lane's memory.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Slots that have been taken, since the beginning.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// Slots of which the sender has been told that they have been taken.
    pub fn published(&self) -> u64 {
        self.published
    }

    /// Whether the lane has been found broken, the first time that this is asked: to be counted.
    pub fn is_newly_broken(&mut self) -> bool {
        self.broken && !core::mem::replace(&mut self.told, true)
    }

    /// Whether the lane has been found broken.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether there is a message.
    #[inline]
    pub fn has_message(&self) -> bool {
        let slot = self.shape.index(self.head);
        !self.broken && self.shape.is_stamp(self.memory.load_stamp(slot), self.head)
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
        if !self.shape.is_stamp(stamp, self.head) {
            self.looked = self.head;
            self.publish();
            return Ok(None);
        }
        // What was taken at earlier calls is done with by now, and buffers that it named as well.
        if self.head.wrapping_sub(self.published) as usize >= self.shape.slots() / 4 {
            self.publish();
        }
        if self.head.wrapping_sub(self.looked) >= AHEAD {
            self.look_ahead();
        }
        match self.take(slot, stamp, buffer) {
            Some(header) => Ok(Some(header)),
            None => Err(self.fail()),
        }
    }

    /// Asks for the lines of messages that are already there, some of them at a time, so that many
    /// fetches are under way together. That they are there the stamp of the last one says: a line
    /// that is still to be written is best left with the sender.
    #[inline]
    fn look_ahead(&mut self) {
        self.looked = self.head;
        let last = self.head.wrapping_add(2 * AHEAD - 1);
        if self
            .shape
            .is_stamp(self.memory.peek_stamp(self.shape.index(last)), last)
        {
            for by in AHEAD..2 * AHEAD - 1 {
                let slot = self.shape.index(self.head.wrapping_add(by));
                self.memory.prefetch(slot);
            }
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
    #[inline(always)]
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
impl<M: LaneMemory> Receiver<M> {
    /// The receiver of a lane in which `position` slots have been sent and taken, for tests.
    pub fn at(memory: M, shape: Shape, position: u64) -> Self {
        memory.store_head(position);
        Self {
            head: position,
            published: position,
            looked: position,
            ..Self::new(memory, shape)
        }
    }
}
