// SPDX-License-Identifier: GPL-2.0

//! Messages that are too large for a lane: buffers in the data area of a link. The pure part.
//!
//! Each side has a data area (see `layout.rs`), which it alone writes. Each lane in which it sends
//! has a part of that area, used as a ring of bytes. A [`Writer`] copies a payload to the next free
//! place there, and then sends, in one slot of the lane, a message of the same kind and port with
//! [`LANE_BUFFER`] set and a [`BufferName`] for payload. A [`Reader`] copies out what is named.
//!
//! | byte of the payload | what |
//! | --- | --- |
//! | 0 to 3 | offset from the beginning of the sender's data area, little-endian |
//! | 4 to 7 | bytes, little-endian |
//!
//! The lane's head gives a buffer back: it passes the message when the receiver has copied, and
//! buffers become free in the order in which they were named. So there is no word for it in shared
//! memory, and the receiver writes nothing but its head, as ever.
//!
//! Where a buffer lies is read once and checked against the size of the whole area, so a wrong name
//! breaks that lane and nothing else. What is in the buffer may change while it is copied, if the
//! sender is malicious; who gets the copy checks the copy.
//!
//! This file uses `core` alone and has no `unsafe`: the kernel, the user-space library and the
//! tests compile it and bring their own [`DataMemory`]. It takes no locks: a `Writer` belongs to
//! who has the lane's `Sender` in hand, a `Reader` to who has the `Receiver`.

#![allow(unreachable_pub)]

use core::mem::size_of;

use super::lane::{
    Broken,
    Header,
    LaneMemory,
    Receiver,
    SendError,
    Sender, //
};
use crate::abi::{
    BufferName,
    BUFFER_ALIGN,
    LANE_BUFFER,
    LINK_DATA_MAX, //
};

/// The longest payload that goes through the lane itself, in bytes: beyond it, one more line for
/// the name costs less than the stamps do.
pub const INLINE_BYTES: usize = 1024;

const NAME_BYTES: usize = size_of::<BufferName>();

/// A data area, as one side sees it. The other side may read it at any time, and may write it if it
/// is malicious.
pub trait DataMemory {
    /// Copies `bytes` to `offset`. `None`: they do not lie within the area, and nothing is written.
    fn write(&self, offset: usize, bytes: &[u8]) -> Option<()>;
    /// Fills `bytes` from `offset` on. `None`: they do not lie within the area.
    fn read(&self, offset: usize, bytes: &mut [u8]) -> Option<()>;
}

/// A buffer that has been named.
#[derive(Clone, Copy, Debug)]
struct Named {
    /// Position in the lane of the message that names it.
    position: u64,
    /// Where its bytes end, and the padding after them; counts like [`Writer::next`].
    end: u64,
}

/// The sending side of a lane's part of a data area. At most `BUFFERS` buffers are in use.
#[derive(Debug)]
pub struct Writer<M, const BUFFERS: usize = 64> {
    memory: M,
    start: u32,
    /// Bytes of the part.
    size: u64,
    /// Where the next buffer begins: counts all bytes since the beginning, modulo `size` a place.
    next: u64,
    /// Everything before this is free again; counts like `next`.
    free: u64,
    /// Those that are in use, oldest first: `used` of them from `oldest` on, modulo `BUFFERS`.
    named: [Named; BUFFERS],
    oldest: usize,
    used: usize,
}

impl<M: DataMemory, const BUFFERS: usize> Writer<M, BUFFERS> {
    /// A writer of the part from `start` on, `size` bytes of it; both are multiples of
    /// [`BUFFER_ALIGN`], and the part ends within [`LINK_DATA_MAX`]. `None` if they are not.
    pub fn new(memory: M, start: u32, size: u32) -> Option<Self> {
        let end = start.checked_add(size)?;
        if start % BUFFER_ALIGN != 0 || size % BUFFER_ALIGN != 0 || end > LINK_DATA_MAX {
            return None;
        }
        Some(Self {
            memory,
            start,
            size: size.into(),
            next: 0,
            free: 0,
            named: [Named {
                position: 0,
                end: 0,
            }; BUFFERS],
            oldest: 0,
            used: 0,
        })
    }

    /// Bytes of the longest message that the lane carries with this part of the data area.
    pub fn longest<L: LaneMemory>(&self, lane: &Sender<L>) -> usize {
        // CAST: Not above `LINK_DATA_MAX`.
        (self.size as usize).max(lane.shape().longest())
    }

    /// Sends a message, through a buffer if it is long: it is with the receiver when this has
    /// returned. Never waits. `kind` is below [`LANE_BUFFER`].
    ///
    /// `lane` is the same at each call.
    ///
    /// # Errors
    ///
    /// [`SendError`]; the message has not been sent then. `Full` also says that there is no room in
    /// the data area, or no buffer left.
    #[inline]
    pub fn send<L: LaneMemory>(
        &mut self,
        lane: &mut Sender<L>,
        kind: u8,
        port: u32,
        payload: &[u8],
    ) -> Result<(), SendError> {
        let through_lane = payload.len() <= lane.shape().longest();
        // CAST: A `usize` has 64 bits.
        let fits = payload.len() as u64 <= self.size;
        if !fits || (through_lane && payload.len() <= INLINE_BYTES) {
            return lane.send(kind & !LANE_BUFFER, port, payload);
        }
        self.send_buffer(lane, kind, port, payload)
    }

    /// Sends a message of at most `size` bytes through a buffer.
    fn send_buffer<L: LaneMemory>(
        &mut self,
        lane: &mut Sender<L>,
        kind: u8,
        port: u32,
        payload: &[u8],
    ) -> Result<(), SendError> {
        // Before the payload is copied in vain.
        if !lane.has_credit(1).map_err(|Broken| SendError::Broken)? {
            return lane.stall();
        }
        // CAST: A `usize` has 64 bits.
        let bytes = (payload.len() as u64).next_multiple_of(BUFFER_ALIGN.into());
        let mut place = self.place(bytes);
        if place.is_none() {
            let taken = lane.taken().map_err(|Broken| SendError::Broken)?;
            self.reclaim(lane.tail(), taken);
            place = self.place(bytes);
        }
        let Some(begin) = place else {
            return lane.stall();
        };
        // CAST: The sum is within `LINK_DATA_MAX`, as is the length.
        let name = BufferName {
            offset: self.start + (begin % self.size) as u32,
            length: payload.len() as u32,
        };
        if self.memory.write(name.offset as usize, payload).is_none() {
            return Err(SendError::TooLong);
        }
        let position = lane.tail();
        lane.send(kind | LANE_BUFFER, port, &to_bytes(name))?;
        let end = begin + bytes;
        if let Some(slot) = self.named.get_mut((self.oldest + self.used) % BUFFERS) {
            *slot = Named { position, end };
        }
        self.used += 1;
        self.next = end;
        Ok(())
    }

    /// Where so many bytes can begin now, in one piece; counts like `next`.
    fn place(&mut self, bytes: u64) -> Option<u64> {
        let at = self.next % self.size;
        let begin = match at + bytes <= self.size {
            true => self.next,
            false => self.next + (self.size - at),
        };
        if self.used == 0 {
            self.free = begin;
        }
        (self.used < BUFFERS && begin + bytes - self.free <= self.size).then_some(begin)
    }

    /// Frees what the receiver has done with, whose head is at `taken`.
    fn reclaim(&mut self, tail: u64, taken: u64) {
        let waiting = tail.wrapping_sub(taken);
        while self.used > 0 {
            let Some(oldest) = self.named.get(self.oldest) else {
                return;
            };
            if tail.wrapping_sub(oldest.position) <= waiting {
                return;
            }
            self.free = oldest.end;
            self.oldest = (self.oldest + 1) % BUFFERS;
            self.used -= 1;
        }
    }
}

/// The receiving side: reads the other side's data area, all of it.
#[derive(Debug)]
pub struct Reader<M> {
    memory: M,
    size: u32,
}

impl<M: DataMemory> Reader<M> {
    /// A reader of an area of `size` bytes.
    pub fn new(memory: M, size: u32) -> Self {
        Self { memory, size }
    }

    /// Takes the next message, if there is one, and copies its payload to the beginning of
    /// `buffer`; what does not fit is lost. The header is as if it had come through the lane.
    ///
    /// # Errors
    ///
    /// [`Broken`] if what is there cannot be a message, now and ever after.
    #[inline]
    pub fn receive<L: LaneMemory>(
        &self,
        lane: &mut Receiver<L>,
        buffer: &mut [u8],
    ) -> Result<Option<Header>, Broken> {
        // A name is always read, however little the caller wants.
        let mut least = [0; NAME_BYTES];
        let small = buffer.len() < NAME_BYTES;
        let got = match small {
            true => lane.receive(&mut least),
            false => lane.receive(buffer),
        };
        let Some(mut header) = got? else {
            return Ok(None);
        };
        if header.kind & LANE_BUFFER == 0 {
            if small {
                buffer
                    .iter_mut()
                    .zip(least)
                    .for_each(|(to, from)| *to = from);
            }
            return Ok(Some(header));
        }
        if let (false, Some(bytes)) = (small, buffer.first_chunk()) {
            least = *bytes;
        }
        let whole = header.length as usize == NAME_BYTES;
        let Some(length) = whole
            .then(|| self.copy(from_bytes(least), buffer))
            .flatten()
        else {
            return Err(lane.fail());
        };
        header.kind &= !LANE_BUFFER;
        header.length = length;
        // At once: the sender may be waiting for the buffer while there are other messages.
        lane.publish();
        Ok(Some(header))
    }

    /// Copies what is named, as far as there is room for it, and returns its whole length.
    fn copy(&self, name: BufferName, buffer: &mut [u8]) -> Option<u32> {
        let end = name.offset.checked_add(name.length)?;
        if end > self.size || name.offset % BUFFER_ALIGN != 0 {
            return None;
        }
        let wanted = buffer.len().min(name.length as usize);
        self.memory
            .read(name.offset as usize, buffer.get_mut(..wanted)?)?;
        Some(name.length)
    }
}

fn to_bytes(name: BufferName) -> [u8; NAME_BYTES] {
    (u64::from(name.offset) | u64::from(name.length) << 32).to_le_bytes()
}

fn from_bytes(bytes: [u8; NAME_BYTES]) -> BufferName {
    let word = u64::from_le_bytes(bytes);
    // CAST: Each is half of it.
    BufferName {
        offset: word as u32,
        length: (word >> 32) as u32,
    }
}
