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
//! This file uses `core` alone and has no `unsafe`: the kernel and the tests compile it and bring
//! their own [`DataMemory`]. It takes no locks: a `Writer` belongs to who has the lane's `Sender`
//! in hand, a `Reader` to who has the `Receiver`.

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
pub const INLINE_BYTES: usize = 512;

/// A receiver publishes its head when it has copied so many bytes, so that the sender gets its
/// buffers back.
pub const PUBLISH_BYTES: u32 = 4096;

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
        const { assert!(BUFFERS > 0) };
        let end = start.checked_add(size)?;
        if !start.is_multiple_of(BUFFER_ALIGN)
            || !size.is_multiple_of(BUFFER_ALIGN)
            || end > LINK_DATA_MAX
        {
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
    #[inline(always)]
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
    #[inline(never)]
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
    /// Bytes copied since a head was last published for their sake.
    copied: u32,
}

impl<M: DataMemory> Reader<M> {
    /// A reader of an area of `size` bytes.
    pub fn new(memory: M, size: u32) -> Self {
        Self {
            memory,
            size,
            copied: 0,
        }
    }

    /// Takes the next message, if there is one, and copies its payload to the beginning of
    /// `buffer`; what does not fit is lost. The header is as if it had come through the lane.
    ///
    /// # Errors
    ///
    /// [`Broken`] if what is there cannot be a message, now and ever after.
    #[inline(always)]
    pub fn receive<L: LaneMemory>(
        &mut self,
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
        let Some(header) = got? else {
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
        self.receive_buffer(lane, header, least, buffer).map(Some)
    }

    /// Copies the buffer that a message names.
    #[inline(never)]
    fn receive_buffer<L: LaneMemory>(
        &mut self,
        lane: &mut Receiver<L>,
        mut header: Header,
        name: [u8; NAME_BYTES],
        buffer: &mut [u8],
    ) -> Result<Header, Broken> {
        let whole = header.length as usize == NAME_BYTES;
        let Some(length) = whole.then(|| self.copy(from_bytes(name), buffer)).flatten() else {
            return Err(lane.fail());
        };
        header.kind &= !LANE_BUFFER;
        header.length = length;
        // The sender may be waiting for the buffers while there are other messages.
        self.copied = self.copied.saturating_add(length);
        if self.copied >= PUBLISH_BYTES {
            self.copied = 0;
            lane.publish();
        }
        Ok(header)
    }

    /// Copies what is named, as far as there is room for it, and returns its whole length.
    fn copy(&self, name: BufferName, buffer: &mut [u8]) -> Option<u32> {
        let end = name.offset.checked_add(name.length)?;
        if end > self.size || !name.offset.is_multiple_of(BUFFER_ALIGN) {
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

#[cfg(any(test, CONFIG_MULTIKERNEL_KUNIT_TEST))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(multikernel_link_data))]
mod tests {
    use core::cell::Cell;

    use super::*;
    use crate::link::lane::{
        Shape,
        WORDS, //
    };

    const SLOTS: usize = 16;
    const AREA: usize = 4096;
    /// The writer's part of the area.
    const START: u32 = 1024;
    const SIZE: u32 = 2048;
    /// Longer than the longest message of the lane itself.
    const LONG: usize = 600;

    struct Memory {
        slots: [[Cell<u64>; WORDS]; SLOTS],
        head: Cell<u64>,
        area: [Cell<u8>; AREA],
    }

    impl Memory {
        fn new() -> Self {
            Self {
                slots: [const { [const { Cell::new(0) }; WORDS] }; SLOTS],
                head: Cell::new(0),
                area: [const { Cell::new(0) }; AREA],
            }
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

    impl DataMemory for &Memory {
        fn write(&self, offset: usize, bytes: &[u8]) -> Option<()> {
            let part = self.area.get(offset..offset + bytes.len())?;
            part.iter().zip(bytes).for_each(|(to, from)| to.set(*from));
            Some(())
        }
        fn read(&self, offset: usize, bytes: &mut [u8]) -> Option<()> {
            let part = self.area.get(offset..offset + bytes.len())?;
            bytes
                .iter_mut()
                .zip(part)
                .for_each(|(to, from)| *to = from.get());
            Some(())
        }
    }

    struct Ends<'a> {
        sender: Sender<&'a Memory>,
        writer: Writer<&'a Memory, 4>,
        receiver: Receiver<&'a Memory>,
        reader: Reader<&'a Memory>,
    }

    impl<'a> Ends<'a> {
        fn new(memory: &'a Memory) -> Option<Self> {
            let shape = Shape::new(SLOTS as u32, 7)?;
            Some(Self {
                sender: Sender::new(memory, shape),
                writer: Writer::new(memory, START, SIZE)?,
                receiver: Receiver::new(memory, shape),
                reader: Reader::new(memory, AREA as u32),
            })
        }

        /// Sends a message of so many bytes, all of which are `byte`.
        fn send(&mut self, length: usize, byte: u8) -> Result<(), SendError> {
            let payload = [byte; AREA];
            self.writer.send(&mut self.sender, 1, 2, &payload[..length])
        }

        /// Whether the next message is what `send()` sends.
        fn receives(&mut self, length: usize, byte: u8) -> bool {
            let mut buffer = [0; AREA];
            let header = Header {
                kind: 1,
                port: 2,
                length: length as u32,
            };
            self.reader.receive(&mut self.receiver, &mut buffer) == Ok(Some(header))
                && buffer[..length].iter().all(|got| *got == byte)
                && buffer[length..].iter().all(|got| *got == 0)
        }

        /// Whether there is no message; the sender is told what has been taken.
        fn finds_nothing(&mut self) -> bool {
            self.reader.receive(&mut self.receiver, &mut []) == Ok(None)
        }
    }

    fn ends(memory: &Memory) -> Ends<'_> {
        Ends::new(memory).expect("a part that is allowed")
    }

    #[test]
    fn messages_of_all_lengths_arrive() {
        let memory = Memory::new();
        let mut ends = ends(&memory);
        assert_eq!(ends.writer.longest(&ends.sender), SIZE as usize);
        for length in (0..=SIZE as usize).step_by(13).chain([SIZE as usize]) {
            assert_eq!(ends.send(length, length as u8 | 1), Ok(()));
            assert!(ends.receives(length, length as u8 | 1));
            assert!(ends.finds_nothing());
        }
        assert_eq!(ends.send(SIZE as usize + 1, 0), Err(SendError::TooLong));
        // Nothing outside of its part has been written.
        let (before, part) = memory.area.split_at(START as usize);
        let after = part[SIZE as usize..].iter();
        assert!(before.iter().chain(after).all(|byte| byte.get() == 0));
    }

    #[test]
    fn buffers_come_back_when_the_head_has_passed() {
        let memory = Memory::new();
        let mut ends = ends(&memory);
        for lap in 0..20 {
            // 640 bytes each: the fourth does not fit.
            for number in 0..3 {
                assert_eq!(ends.send(LONG, lap + number), Ok(()));
            }
            assert_eq!(ends.send(LONG, 99), Err(SendError::Full));
            for number in 0..3 {
                assert!(ends.receives(LONG, lap + number));
            }
            if lap == 0 {
                // They have been read, but the sender has not been told.
                assert_eq!(ends.send(LONG, 99), Err(SendError::Full));
            }
            assert!(ends.finds_nothing());
        }
        assert_eq!(ends.sender.stalls(), 21);
    }

    #[test]
    fn buffers_do_not_overlap() {
        let memory = Memory::new();
        let mut ends = ends(&memory);
        assert_eq!(ends.send(1024, 1), Ok(()));
        assert_eq!(ends.send(1024, 2), Ok(()));
        assert!(ends.receives(1024, 1));
        ends.receiver.publish();
        assert_eq!(ends.send(1025, 3), Err(SendError::Full));
        assert_eq!(ends.send(1024, 3), Ok(()));
        assert!(ends.receives(1024, 2));
        assert!(ends.receives(1024, 3));
    }

    #[test]
    fn heads_are_published_after_many_bytes() {
        let memory = Memory::new();
        let mut ends = ends(&memory);
        // More than the part has, and the receiver never finds the lane empty.
        assert_eq!(ends.send(1000, 0), Ok(()));
        assert_eq!(ends.send(1000, 1), Ok(()));
        let mut copied = 0;
        for number in 2..40 {
            assert!(ends.receives(1000, number - 2));
            copied += 1000;
            if copied < PUBLISH_BYTES {
                ends.receiver.publish();
            } else {
                copied = 0;
            }
            assert_eq!(ends.send(1000, number), Ok(()));
        }
    }

    #[test]
    fn buffers_are_counted() {
        let memory = Memory::new();
        let mut ends = ends(&memory);
        let shape = ends.sender.shape();
        let length = shape.longest() + 1;
        for number in 0..4 {
            assert_eq!(ends.send(length, number), Ok(()));
        }
        assert_eq!(ends.send(length, 99), Err(SendError::Full));
        // Short messages need none.
        assert_eq!(ends.send(8, 4), Ok(()));
        for number in 0..4 {
            assert!(ends.receives(length, number));
        }
        assert!(ends.receives(8, 4));
    }

    #[test]
    fn what_does_not_fit_is_lost() {
        let memory = Memory::new();
        let mut ends = ends(&memory);
        for (length, room) in [(LONG, 100), (LONG, 3), (LONG, 0), (20, 3), (6, 7)] {
            assert_eq!(ends.send(length, 9), Ok(()));
            let mut buffer = [0; 128];
            let got = ends.reader.receive(&mut ends.receiver, &mut buffer[..room]);
            assert!(got.is_ok_and(|header| header
                .is_some_and(|header| { header.length as usize == length && header.kind == 1 })));
            let copied = length.min(room);
            assert!(buffer[..copied].iter().all(|byte| *byte == 9));
            assert!(buffer[copied..].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn impossible_names_break_the_lane() {
        let area = AREA as u32;
        let refused = |offset, length, bytes: usize| {
            let memory = Memory::new();
            let mut ends = ends(&memory);
            let name = to_bytes(BufferName { offset, length });
            let sent = ends.sender.send(LANE_BUFFER, 0, &name[..bytes]);
            assert_eq!(sent, Ok(()));
            let mut buffer = [0; 64];
            let got = ends.reader.receive(&mut ends.receiver, &mut buffer);
            assert_eq!(ends.receiver.is_broken(), got.is_err());
            got.is_err()
        };
        assert!(!refused(0, area, NAME_BYTES));
        assert!(!refused(area - 64, 64, NAME_BYTES));
        assert!(!refused(area, 0, NAME_BYTES));
        assert!(refused(area - 64, 65, NAME_BYTES));
        assert!(refused(0, area + 1, NAME_BYTES));
        assert!(refused(area, 1, NAME_BYTES));
        assert!(refused(64, u32::MAX, NAME_BYTES));
        assert!(refused(u32::MAX - 63, 64, NAME_BYTES));
        assert!(refused(u32::MAX - 63, u32::MAX, NAME_BYTES));
        assert!(refused(8, 8, NAME_BYTES));
        // Less than a name.
        assert!(refused(0, 8, 7));
        assert!(refused(0, 0, 0));
    }

    #[test]
    fn parts_are_checked() {
        let memory = Memory::new();
        let possible = |start, size| Writer::<_, 4>::new(&memory, start, size).is_some();
        assert!(possible(0, 0));
        assert!(possible(LINK_DATA_MAX - 64, 64));
        assert!(!possible(LINK_DATA_MAX, 64));
        assert!(!possible(1, 64));
        assert!(!possible(64, 63));
        assert!(!possible(u32::MAX - 63, 64));
        // A writer without any room sends what the lane can carry.
        let memory = Memory::new();
        let mut ends = ends(&memory);
        let writer = Writer::<_, 4>::new(&memory, 0, 0);
        let mut writer = writer.expect("a part that is allowed");
        assert_eq!(writer.send(&mut ends.sender, 1, 2, &[5; 300]), Ok(()));
        assert!(ends.receives(300, 5));
        let long = writer.send(&mut ends.sender, 1, 2, &[5; LONG]);
        assert_eq!(long, Err(SendError::TooLong));
    }
}
