// SPDX-License-Identifier: GPL-2.0

//! What two cores can do at best: the limits that queues are held against.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::pair::{wait, Sink, Source};

/// A number with two cache lines of its own.
#[repr(align(128))]
#[derive(Default)]
pub struct Flag(AtomicU64);

/// Says by a flag that there is a message, and nothing of what is in it.
pub struct Raise<'a> {
    flag: &'a Flag,
    value: u64,
    step: u64,
}

/// Waits for a flag.
pub struct Await<'a>(Raise<'a>);

impl Flag {
    /// The two ends of a flag. With a step of 2, there is room for another pair of ends in between,
    /// which starts at 2.
    pub fn ends(&self, start: u64, step: u64) -> (Raise<'_>, Await<'_>) {
        let end = || Raise {
            flag: self,
            value: start,
            step,
        };
        (end(), Await(end()))
    }
}

impl<const N: usize> Source<N> for Raise<'_> {
    fn send(&mut self, messages: &[[u8; N]]) {
        for _ in messages {
            self.flag.0.store(self.value, Ordering::Release);
            self.value += self.step;
        }
    }
}

impl<const N: usize> Sink<N> for Await<'_> {
    fn receive(&mut self, _: &mut [[u8; N]]) -> usize {
        let Raise { flag, value, step } = &mut self.0;
        wait(|| (flag.0.load(Ordering::Acquire) == *value).then_some(()));
        *value += *step;
        1
    }
}

/// A cache line that may change while somebody looks.
#[repr(C, align(64))]
struct Line(UnsafeCell<[u8; 64]>);

/// Memory that both threads copy to and from with memcpy, never the same part at once.
pub struct Area(Box<[Line]>);

// SAFETY: Who calls `write()` and `read()` sees to it that no two of them meet.
unsafe impl Sync for Area {}

impl Area {
    /// An area of zeroes; `size` is a multiple of 64.
    pub fn new(size: usize) -> Self {
        let line = || Line(UnsafeCell::new([0; 64]));
        Self((0..size / 64).map(|_| line()).collect())
    }

    /// Bytes of the area.
    pub fn size(&self) -> usize {
        self.0.len() * 64
    }

    /// Where so many bytes from `offset` on are; `None` if they are not within the area.
    #[inline]
    fn place(&self, offset: usize, length: usize) -> Option<*mut u8> {
        let end = offset.checked_add(length)?;
        let first = UnsafeCell::raw_get(self.0.as_ptr().cast::<UnsafeCell<u8>>());
        (end <= self.size()).then(|| first.wrapping_add(offset))
    }

    /// Copies bytes to a place in the area. `None` if they do not lie within.
    ///
    /// # Safety
    ///
    /// Nobody else uses that part of it at the same time.
    #[inline]
    pub unsafe fn write(&self, offset: usize, bytes: &[u8]) -> Option<()> {
        let place = self.place(offset, bytes.len())?;
        // SAFETY: As many bytes from `place` on are the area's, which may change, and by the
        // contract nobody uses them now.
        unsafe { place.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Some(())
    }

    /// Copies bytes from a place in the area. `None` if they do not lie within.
    ///
    /// # Safety
    ///
    /// Nobody writes to that part of it at the same time.
    #[inline]
    pub unsafe fn read(&self, offset: usize, bytes: &mut [u8]) -> Option<()> {
        let place = self.place(offset, bytes.len())?;
        // SAFETY: As many bytes from `place` on are the area's, and by the contract nobody writes
        // to them now.
        unsafe {
            bytes
                .as_mut_ptr()
                .copy_from_nonoverlapping(place, bytes.len())
        };
        Some(())
    }
}

/// A message is copied by one core and then by the other, and that is all.
pub struct Copies {
    area: Area,
    filled: Flag,
    emptied: Flag,
}

/// The end of [`Copies`] that copies in, or out.
pub struct Copier<'a, const OUT: bool> {
    of: &'a Copies,
    done: usize,
    seen: usize,
}

impl Copies {
    /// Room for so many bytes.
    pub fn new(size: usize) -> Self {
        Self {
            area: Area::new(size),
            filled: Flag::default(),
            emptied: Flag::default(),
        }
    }

    /// The end that copies in, and the one that copies out.
    pub fn ends(&mut self) -> (Copier<'_, false>, Copier<'_, true>) {
        let (done, seen) = (0, 0);
        let of = &*self;
        (Copier { of, done, seen }, Copier { of, done, seen })
    }
}

impl<const N: usize> Source<N> for Copier<'_, false> {
    fn send(&mut self, messages: &[[u8; N]]) {
        let room = self.of.area.size() / N;
        for message in messages {
            if self.done - self.seen == room {
                self.seen = wait(|| {
                    let emptied = self.of.emptied.0.load(Ordering::Acquire) as usize;
                    (self.done - emptied < room).then_some(emptied)
                });
            }
            // SAFETY: The other end has emptied this part, and does not touch it until it is told.
            let written = unsafe { self.of.area.write(self.done % room * N, message) };
            assert!(written.is_some());
            self.done += 1;
        }
        self.of.filled.0.store(self.done as u64, Ordering::Release);
    }
}

impl<const N: usize> Sink<N> for Copier<'_, true> {
    fn receive(&mut self, messages: &mut [[u8; N]]) -> usize {
        let room = self.of.area.size() / N;
        if self.done == self.seen {
            self.seen = wait(|| {
                let filled = self.of.filled.0.load(Ordering::Acquire) as usize;
                (filled != self.done).then_some(filled)
            });
        }
        let number = messages.len().min(self.seen - self.done);
        for message in &mut messages[..number] {
            // SAFETY: The other end has filled this part, and does not touch it until it is told.
            let read = unsafe { self.of.area.read(self.done % room * N, message) };
            assert!(read.is_some());
            self.done += 1;
        }
        self.of.emptied.0.store(self.done as u64, Ordering::Release);
        number
    }
}

/// Lines of 64 bytes of which the first word says which it is: a lane with nothing checked.
pub struct Lines {
    lines: Box<[LineWords]>,
    emptied: Flag,
}

#[repr(C, align(64))]
#[derive(Default)]
struct LineWords([AtomicU64; 8]);

/// The end of [`Lines`] that writes lines, or reads them.
pub struct Liner<'a, const OUT: bool> {
    of: &'a Lines,
    done: usize,
    seen: usize,
}

impl Lines {
    /// Room for so many lines, a power of two.
    pub fn new(lines: usize) -> Self {
        Self {
            lines: (0..lines).map(|_| LineWords::default()).collect(),
            emptied: Flag::default(),
        }
    }

    /// The end that writes, and the one that reads.
    pub fn ends(&mut self) -> (Liner<'_, false>, Liner<'_, true>) {
        let (done, seen) = (0, 0);
        let of = &*self;
        (Liner { of, done, seen }, Liner { of, done, seen })
    }
}

impl Source<48> for Liner<'_, false> {
    fn send(&mut self, messages: &[[u8; 48]]) {
        let lines = &self.of.lines;
        for message in messages {
            if self.done - self.seen == lines.len() {
                self.seen = wait(|| {
                    let emptied = self.of.emptied.0.load(Ordering::Acquire) as usize;
                    (self.done - emptied < lines.len()).then_some(emptied)
                });
            }
            let LineWords(words) = &lines[self.done & (lines.len() - 1)];
            self.done += 1;
            for (word, bytes) in words[1..].iter().zip(message.as_chunks::<8>().0) {
                word.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
            }
            words[0].store(self.done as u64, Ordering::Release);
        }
    }
}

impl Sink<48> for Liner<'_, true> {
    fn receive(&mut self, messages: &mut [[u8; 48]]) -> usize {
        let lines = &self.of.lines;
        for message in &mut *messages {
            let LineWords(words) = &lines[self.done & (lines.len() - 1)];
            self.done += 1;
            let number = self.done as u64;
            wait(|| (words[0].load(Ordering::Acquire) == number).then_some(()));
            for (bytes, word) in message.as_chunks_mut::<8>().0.iter_mut().zip(&words[1..]) {
                *bytes = word.load(Ordering::Relaxed).to_le_bytes();
            }
            if self.done - self.seen >= lines.len() / 4 {
                self.seen = self.done;
                self.of.emptied.0.store(number, Ordering::Release);
            }
        }
        messages.len()
    }
}

/// Lines of 64 bytes that are copied word by word, as a kernel has to, which has no wider registers
/// at hand. Whether they have been written is said once a batch, and not in the lines: what stamps
/// cost is what [`Lines`] are slower.
pub struct Unstamped(Lines, Flag);

/// The end of [`Unstamped`] that writes lines, or reads them.
pub struct Unstamper<'a, const OUT: bool> {
    liner: Liner<'a, OUT>,
    filled: &'a Flag,
    limit: usize,
}

impl Unstamped {
    /// Room for so many lines, a power of two.
    pub fn new(lines: usize) -> Self {
        Self(Lines::new(lines), Flag::default())
    }

    /// The end that writes, and the one that reads.
    pub fn ends(&mut self) -> (Unstamper<'_, false>, Unstamper<'_, true>) {
        let Self(lines, filled) = self;
        let filled = &*filled;
        let (source, sink) = lines.ends();
        let source = Unstamper {
            liner: source,
            filled,
            limit: 0,
        };
        let sink = Unstamper {
            liner: sink,
            filled,
            limit: 0,
        };
        (source, sink)
    }
}

impl Source<64> for Unstamper<'_, false> {
    fn send(&mut self, messages: &[[u8; 64]]) {
        let Liner { of, done, seen } = &mut self.liner;
        let mask = of.lines.len() - 1;
        for message in messages {
            if *done - *seen == of.lines.len() {
                *seen = wait(|| {
                    let emptied = of.emptied.0.load(Ordering::Acquire) as usize;
                    (*done - emptied < of.lines.len()).then_some(emptied)
                });
            }
            let LineWords(words) = &of.lines[*done & mask];
            *done += 1;
            for (word, bytes) in words.iter().zip(message.as_chunks::<8>().0) {
                word.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
            }
        }
        self.filled.0.store(*done as u64, Ordering::Release);
    }
}

impl Sink<64> for Unstamper<'_, true> {
    fn receive(&mut self, messages: &mut [[u8; 64]]) -> usize {
        let Liner { of, done, .. } = &mut self.liner;
        let mask = of.lines.len() - 1;
        if *done == self.limit {
            self.limit = wait(|| {
                let filled = self.filled.0.load(Ordering::Acquire) as usize;
                (filled != *done).then_some(filled)
            });
        }
        let number = messages.len().min(self.limit - *done);
        for message in &mut messages[..number] {
            let LineWords(words) = &of.lines[*done & mask];
            *done += 1;
            for (bytes, word) in message.as_chunks_mut::<8>().0.iter_mut().zip(words) {
                *bytes = word.load(Ordering::Relaxed).to_le_bytes();
            }
        }
        of.emptied.0.store(*done as u64, Ordering::Release);
        number
    }
}
