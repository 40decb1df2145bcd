// SPDX-License-Identifier: GPL-2.0

//! Byte rings between two kernels: the pure part.
//!
//! A ring is a power of two of bytes and two positions, `tail` and `head`, that count every byte
//! that ever went through (see `ConsoleRing` in `abi.rs`). There are two kinds, told apart by what
//! the writer does when the reader is slow:
//!
//! - *overwriting* ([`overwrite()`], [`follow()`]): the writer never waits and the oldest bytes are
//!   lost. `head` is not used, there may be any number of readers, and the last bytes are there to
//!   be read after the writer has died. Carries a spawn's log.
//! - *bounded* ([`append()`], [`take()`]): the writer stops when the ring is full. One writer, one
//!   reader. Carries a spawn's console input.
//!
//! One side stores `tail`, the other stores `head`, and each keeps its own position privately: what
//! is in shared memory is a report to the other side and is never read back. What the other side
//! reports is only ever used masked or bounded by [`RingMemory::SIZE`], so a wrong value costs
//! bytes of this ring and nothing else.
//!
//! This file uses `core` alone and has no `unsafe`: the kernel, `mkctl` and the tests compile it
//! and bring their own [`RingMemory`]. It takes no locks; callers that share one side serialise it.

// `mkctl` and the tests make this file part of a library's interface; in the kernel nothing is.
#![allow(unreachable_pub)]

/// The most bytes that a writer of an overwriting ring stores before it publishes its tail.
///
/// Part of the protocol: a reader must expect this many bytes beyond the tail to be in flux.
pub const CHUNK: usize = 256;

/// One ring's memory, as one side sees it.
///
/// The other side changes it at any time.
pub trait RingMemory {
    /// Bytes in the ring: a power of two, above [`CHUNK`].
    const SIZE: usize;

    /// Reads the tail, with acquire ordering.
    fn tail(&self) -> u64;
    /// Publishes the tail, with release ordering.
    fn set_tail(&self, position: u64);
    /// Reads the head, with acquire ordering.
    fn head(&self) -> u64;
    /// Publishes the head, with release ordering.
    fn set_head(&self, position: u64);
    /// Reads the byte at `index`, which is below [`Self::SIZE`].
    fn load(&self, index: usize) -> u8;
    /// Writes the byte at `index`, which is below [`Self::SIZE`].
    fn store(&self, index: usize, byte: u8);
    /// Orders all accesses to the ring before it against all that follow.
    fn fence(&self);
}

/// Index of the byte at `position`.
fn index<M: RingMemory>(position: u64) -> usize {
    const { assert!(M::SIZE.is_power_of_two() && M::SIZE > CHUNK) };
    // CAST: the mask leaves a value below `SIZE`, which is a `usize`.
    (position & (M::SIZE as u64 - 1)) as usize
}

/// Stores `bytes` from `position` on.
fn put<M: RingMemory>(ring: &M, position: u64, bytes: &[u8]) {
    for (p, byte) in (0u64..).zip(bytes) {
        ring.store(index::<M>(position.wrapping_add(p)), *byte);
    }
}

/// Loads `bytes` from `position` on.
fn get<M: RingMemory>(ring: &M, position: u64, bytes: &mut [u8]) {
    for (p, byte) in (0u64..).zip(bytes) {
        *byte = ring.load(index::<M>(position.wrapping_add(p)));
    }
}

/// Writes all of `bytes` at `tail`, over what is oldest, and returns the new tail.
///
/// `tail` is the writer's own position, not one read from the ring.
pub fn overwrite<M: RingMemory>(ring: &M, tail: u64, bytes: &[u8]) -> u64 {
    let mut tail = tail;
    for chunk in bytes.chunks(CHUNK) {
        put(ring, tail, chunk);
        tail = tail.wrapping_add(chunk.len() as u64);
        ring.set_tail(tail);
        // A reader that sees a byte of the next chunk must also see this tail. Pairs with the fence
        // in `follow()`.
        ring.fence();
    }
    tail
}

/// What [`follow()`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(test), allow(dead_code))] // Only user space and tests read an overwriting ring.
pub struct Followed {
    /// Bytes that were overwritten before they could be read; they came before what was read.
    pub lost: u64,
    /// Bytes read.
    pub count: usize,
    /// Where to go on.
    pub position: u64,
}

/// Reads an overwriting ring from `position` on, which the reader keeps.
///
/// A `position` that the writer has not reached, which happens if the writer started anew, counts
/// as the oldest byte that there is.
#[cfg_attr(not(test), allow(dead_code))]
pub fn follow<M: RingMemory>(ring: &M, position: u64, buffer: &mut [u8]) -> Followed {
    // The writer may be storing up to one chunk beyond its tail, where the oldest bytes are.
    let oldest = |tail: u64| tail.saturating_sub((M::SIZE - CHUNK) as u64);

    let tail = ring.tail();
    let asked = if position > tail {
        oldest(tail)
    } else {
        position
    };
    let start = asked.max(oldest(tail));
    // CAST: `oldest()` bounds the difference by `SIZE`.
    let count = buffer.len().min((tail - start) as usize);
    let Some(read) = buffer.get_mut(..count) else {
        return Followed {
            lost: 0,
            count: 0,
            position: start,
        };
    };
    get(ring, start, read);

    // What the writer has overwritten in the meantime is not what was at these positions.
    ring.fence();
    let stale = oldest(ring.tail()).saturating_sub(start).min(count as u64);
    // CAST: `stale` is at most `count`.
    read.copy_within(stale as usize.., 0);
    Followed {
        lost: start - asked + stale,
        count: count - stale as usize,
        position: start + count as u64,
    }
}

/// Appends to a bounded ring as much of `bytes` as fits and returns how many bytes that was.
///
/// `tail` is the writer's own position and moves by what is returned. A head that cannot be counts
/// as a full ring.
#[cfg_attr(not(test), allow(dead_code))] // The host's side of a bounded ring is in user space.
pub fn append<M: RingMemory>(ring: &M, tail: u64, bytes: &[u8]) -> usize {
    let used = tail.wrapping_sub(ring.head());
    let free = (M::SIZE as u64).saturating_sub(used);
    // CAST: `free` is at most `SIZE`.
    let count = bytes.len().min(free as usize);
    put(ring, tail, bytes.get(..count).unwrap_or(&[]));
    ring.set_tail(tail.wrapping_add(count as u64));
    count
}

/// The writer's tail cannot be: it is more than a ring ahead of the reader, or behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The tail that the writer claims. Reading on from there works again.
    pub tail: u64,
}

/// Takes up to `buffer.len()` bytes from a bounded ring and returns how many they were.
///
/// `head` is the reader's own position and moves by what is returned.
///
/// # Errors
///
/// [`Broken`] if the writer's tail makes no sense; nothing was read.
pub fn take<M: RingMemory>(ring: &M, head: u64, buffer: &mut [u8]) -> Result<usize, Broken> {
    let tail = ring.tail();
    let available = tail.wrapping_sub(head);
    if available > M::SIZE as u64 {
        return Err(Broken { tail });
    }
    // CAST: `available` is at most `SIZE`.
    let count = buffer.len().min(available as usize);
    if let Some(read) = buffer.get_mut(..count) {
        get(ring, head, read);
    }
    ring.set_head(head.wrapping_add(count as u64));
    Ok(count)
}

#[cfg(any(test, CONFIG_MULTIKERNEL_KUNIT_TEST))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(multikernel_ring))]
mod tests {
    use super::*;
    use core::cell::Cell;

    const SIZE: usize = 512;

    struct Memory {
        tail: Cell<u64>,
        head: Cell<u64>,
        bytes: [Cell<u8>; SIZE],
        /// Bytes that a writer on another CPU stores while a reader copies.
        racing: Cell<&'static [u8]>,
    }

    impl Memory {
        fn at(position: u64) -> Self {
            Self {
                tail: Cell::new(position),
                head: Cell::new(position),
                bytes: [const { Cell::new(0) }; SIZE],
                racing: Cell::new(&[]),
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
        fn load(&self, index: usize) -> u8 {
            let racing = self.racing.take();
            if !racing.is_empty() {
                overwrite(self, self.tail.get(), racing);
            }
            self.bytes[index].get()
        }
        fn store(&self, index: usize, byte: u8) {
            self.bytes[index].set(byte);
        }
        fn fence(&self) {}
    }

    #[test]
    fn overwriting_ring_is_read_in_order() {
        // The last position before the index wraps, twice the ring's size later.
        let ring = Memory::at(3 * SIZE as u64 - 2);
        let start = ring.tail();
        let tail = overwrite(&ring, start, b"across the end");
        assert_eq!(tail, start + 14);
        let mut buffer = [0; 6];
        let first = follow(&ring, start, &mut buffer);
        assert_eq!(
            first,
            Followed {
                lost: 0,
                count: 6,
                position: start + 6
            }
        );
        assert_eq!(&buffer, b"across");
        let mut buffer = [0; 64];
        let second = follow(&ring, first.position, &mut buffer);
        assert_eq!(
            second,
            Followed {
                lost: 0,
                count: 8,
                position: tail
            }
        );
        assert_eq!(&buffer[..8], b" the end");
        assert_eq!(follow(&ring, tail, &mut buffer).count, 0);
    }

    #[test]
    fn slow_reader_is_told_what_it_lost() {
        let ring = Memory::at(0);
        let mut tail = 0;
        for n in 0..SIZE as u64 * 3 {
            tail = overwrite(&ring, tail, &[n as u8]);
        }
        let mut buffer = [0; SIZE];
        let read = follow(&ring, 10, &mut buffer);
        assert_eq!(read.count, SIZE - CHUNK);
        assert_eq!(read.position, tail);
        assert_eq!(read.lost, tail - 10 - read.count as u64);
        assert_eq!(buffer[0], (tail - read.count as u64) as u8);
    }

    #[test]
    fn bytes_overwritten_during_the_copy_are_dropped() {
        static RACING: [u8; 128] = [b'x'; 128];
        let ring = Memory::at(0);
        let tail = overwrite(&ring, 0, &[b'a'; SIZE - CHUNK]);
        ring.racing.set(&RACING);
        let mut buffer = [0; SIZE];
        let read = follow(&ring, 0, &mut buffer);
        assert_eq!(read.lost, 128);
        assert_eq!(read.count, SIZE - CHUNK - 128);
        assert_eq!(read.position, tail);
        assert!(buffer[..read.count].iter().all(|byte| *byte == b'a'));
    }

    #[test]
    fn writer_that_started_anew_is_followed() {
        let ring = Memory::at(0);
        overwrite(&ring, 0, b"new life");
        let mut buffer = [0; 16];
        let read = follow(&ring, 1 << 40, &mut buffer);
        assert_eq!(
            read,
            Followed {
                lost: 0,
                count: 8,
                position: 8
            }
        );
    }

    #[test]
    fn bounded_ring_fills_and_drains() {
        let ring = Memory::at(SIZE as u64 - 1);
        let start = ring.tail();
        assert_eq!(append(&ring, start, &[7; SIZE + 1]), SIZE);
        let tail = start + SIZE as u64;
        assert_eq!(append(&ring, tail, b"more"), 0);
        let mut buffer = [0; 100];
        assert_eq!(take(&ring, start, &mut buffer), Ok(100));
        assert_eq!(append(&ring, tail, b"more"), 4);
        assert_eq!(ring.head(), start + 100);
    }

    #[test]
    fn positions_that_cannot_be_are_refused() {
        let ring = Memory::at(100);
        let mut buffer = [0; 4];
        ring.set_tail(100 + SIZE as u64 + 1);
        assert_eq!(
            take(&ring, 100, &mut buffer),
            Err(Broken {
                tail: 101 + SIZE as u64
            })
        );
        ring.set_tail(99);
        assert_eq!(take(&ring, 100, &mut buffer), Err(Broken { tail: 99 }));
        assert_eq!(ring.head(), 100);
        // A head beyond the tail reads as a full ring.
        ring.set_head(101);
        assert_eq!(append(&ring, 100, b"x"), 0);
        // A reader of an overwriting ring survives any tail.
        ring.set_tail(u64::MAX);
        let read = follow(&ring, 0, &mut buffer);
        assert_eq!(read.count, 4);
    }
}
