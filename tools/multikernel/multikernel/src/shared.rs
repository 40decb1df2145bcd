// SPDX-License-Identifier: GPL-2.0

//! The shared area of an instance: its header and the console rings.
//!
//! The layout is [`crate::abi`]. The spawn may write anything at any time, so every field is read
//! once, by an atomic access, and checked before it is used; a wrong value spoils what is shown of
//! the console and nothing else. All accesses are to whole 64-bit words.

use std::mem::offset_of;
use std::sync::atomic::{fence, AtomicU64, Ordering};

use thiserror::Error;

use crate::abi::{
    self, ConsoleRing, ConsoleRings, SharedHeader, CONSOLE_IN_OFFSET, CONSOLE_IN_SIZE,
    CONSOLE_OUT_OFFSET, CONSOLE_OUT_SIZE, CONSOLE_RINGS_OFFSET, NAME_LENGTH, SHARED_SIZE,
};

/// What the spawn may have overwritten of a full ring's oldest bytes before it moves `tail`.
pub const IN_FLIGHT: u64 = 1024;

const WORD: u64 = 8;

/// Why the shared area cannot be used.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum SharedError {
    /// It is smaller than the ABI says.
    #[error("the shared area is too small")]
    Size,
    /// The instance was never started.
    #[error("the instance has not been started yet")]
    NeverStarted,
    /// Not what the host wrote.
    #[error("the header of the shared area is damaged")]
    Damaged,
    /// Another version of the ABI.
    #[error("the shared area has ABI version {0}, this mkctl knows version {known}",
            known = abi::ABI_VERSION)]
    Version(u32),
    /// `head` and `tail` of the input ring contradict each other.
    #[error("the spawn has damaged the positions of its console's input")]
    Positions,
}

/// The header, copied.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    /// The instance's id.
    pub id: u32,
    /// How often it has been started.
    pub epoch: u32,
    /// Position in the output ring where this life began.
    pub console_start: u64,
    /// One of `abi::GUEST_*`.
    pub guest_state: u32,
    /// CPUs that the spawn has online.
    pub guest_cpus: u32,
    /// `abi::GUEST_FEATURE_*`.
    pub guest_features: u64,
    /// Counts up while the spawn takes timer interrupts.
    pub heartbeat: u64,
}

impl Header {
    /// Whether the spawn's console goes through the rings.
    pub fn has_console(&self) -> bool {
        self.guest_features & abi::GUEST_FEATURE_CONSOLE != 0
    }
}

/// The shared area as words that the spawn may change.
#[derive(Clone, Copy, Debug)]
pub struct Area<'a> {
    words: &'a [AtomicU64],
}

impl<'a> Area<'a> {
    /// Takes at least [`SHARED_SIZE`] bytes.
    pub fn new(words: &'a [AtomicU64]) -> Result<Self, SharedError> {
        let words = words
            .get(..(SHARED_SIZE / WORD) as usize)
            .ok_or(SharedError::Size)?;
        Ok(Self { words })
    }

    fn word(&self, offset: u64) -> &'a AtomicU64 {
        // Offsets come from the ABI's constants and masked positions, all inside the area.
        &self.words[(offset / WORD) as usize]
    }

    fn u32_at(&self, offset: usize) -> u32 {
        let word = self.word(offset as u64).load(Ordering::Relaxed);
        match offset % 8 {
            0 => word as u32,
            _ => (word >> 32) as u32,
        }
    }

    fn u64_at(&self, offset: usize) -> u64 {
        self.word(offset as u64).load(Ordering::Relaxed)
    }

    /// Copies and checks the header.
    pub fn header(&self) -> Result<Header, SharedError> {
        match self.u64_at(offset_of!(SharedHeader, magic)) {
            abi::SHARED_MAGIC => {}
            0 => return Err(SharedError::NeverStarted),
            _ => return Err(SharedError::Damaged),
        }
        let version = self.u32_at(offset_of!(SharedHeader, version));
        if version != abi::ABI_VERSION {
            return Err(SharedError::Version(version));
        }
        let header = Header {
            id: self.u32_at(offset_of!(SharedHeader, id)),
            epoch: self.u32_at(offset_of!(SharedHeader, epoch)),
            console_start: self.u64_at(offset_of!(SharedHeader, console_start)),
            guest_state: self.u32_at(offset_of!(SharedHeader, guest_state)),
            guest_cpus: self.u32_at(offset_of!(SharedHeader, guest_cpus)),
            guest_features: self.u64_at(offset_of!(SharedHeader, guest_features)),
            heartbeat: self.u64_at(offset_of!(SharedHeader, heartbeat)),
        };
        if header.id == 0 || header.epoch == 0 {
            return Err(SharedError::Damaged);
        }
        Ok(header)
    }

    /// The name that the host wrote into the header, cut at what is not printable.
    pub fn name(&self) -> String {
        let start = offset_of!(SharedHeader, name);
        (start..start + NAME_LENGTH)
            .step_by(8)
            .flat_map(|offset| self.u64_at(offset).to_le_bytes())
            .take_while(u8::is_ascii_graphic)
            .map(char::from)
            .collect()
    }

    fn position(&self, ring: usize, field: usize) -> &'a AtomicU64 {
        self.word(CONSOLE_RINGS_OFFSET + (ring + field) as u64)
    }

    fn output_tail(&self) -> u64 {
        self.position(
            offset_of!(ConsoleRings, output),
            offset_of!(ConsoleRing, tail),
        )
        .load(Ordering::Acquire)
    }

    /// Copies bytes of the output ring from a position on.
    fn copy_output(&self, position: u64, count: u64, bytes: &mut Vec<u8>) {
        let mut at = position;
        let end = position.wrapping_add(count);
        while at != end {
            let index = at & (CONSOLE_OUT_SIZE - 1);
            let word = self
                .word(CONSOLE_OUT_OFFSET + index)
                .load(Ordering::Relaxed)
                .to_le_bytes();
            let skip = index % WORD;
            let take = (WORD - skip).min(end.wrapping_sub(at));
            bytes.extend_from_slice(&word[skip as usize..(skip + take) as usize]);
            at = at.wrapping_add(take);
        }
    }
}

/// What one look at the output ring brought.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Progress {
    /// Bytes that were read.
    pub read: u64,
    /// Bytes that had been overwritten before they could be read; they come before those read.
    pub lost: u64,
}

/// Reads the output ring. Any number of readers can: none leaves a trace in it.
#[derive(Clone, Copy, Debug)]
pub struct OutputReader {
    cursor: u64,
}

impl OutputReader {
    /// Starts at the oldest byte of the present life.
    pub fn from_start(header: &Header) -> Self {
        Self {
            cursor: header.console_start,
        }
    }

    /// Starts at the oldest byte that is there, whichever life it is from.
    pub fn from_oldest(area: &Area<'_>) -> Self {
        Self {
            cursor: oldest(area.output_tail()),
        }
    }

    /// Starts behind the last byte.
    pub fn from_end(area: &Area<'_>) -> Self {
        Self {
            cursor: area.output_tail(),
        }
    }

    /// Appends to `bytes` what has come since the last look.
    pub fn read(&mut self, area: &Area<'_>, bytes: &mut Vec<u8>) -> Progress {
        let before = bytes.len();
        let tail = area.output_tail();
        if tail < self.cursor {
            // No writer that follows the ABI does this: start over from where it is now.
            self.cursor = tail;
            return Progress::default();
        }
        let start = self.cursor.max(oldest(tail));
        area.copy_output(start, tail - start, bytes);

        // What was copied may have been overwritten meanwhile. The copies come before this second
        // look at tail, so that what it says to be intact was.
        fence(Ordering::Acquire);
        let tail_after = area.output_tail();
        let spoilt = match tail_after {
            same if same == tail => 0,
            later => oldest(later).clamp(start, tail) - start,
        };
        bytes.drain(before..before + spoilt as usize);
        let progress = Progress {
            read: tail - start - spoilt,
            lost: start - self.cursor + spoilt,
        };
        self.cursor = tail;
        progress
    }
}

/// The first position that the writer is sure not to be writing to.
fn oldest(tail: u64) -> u64 {
    tail.saturating_sub(CONSOLE_OUT_SIZE - IN_FLIGHT)
}

/// Writes as many bytes as fit into the input ring, and says how many.
///
/// There must be one writer only: who calls this holds the lock on the instance's console.
pub fn write_input(area: &Area<'_>, bytes: &[u8]) -> Result<usize, SharedError> {
    let ring = offset_of!(ConsoleRings, input);
    let tail_word = area.position(ring, offset_of!(ConsoleRing, tail));
    // Acquire: the reader has taken the bytes before head, so that their places may be reused.
    let head = area
        .position(ring, offset_of!(ConsoleRing, head))
        .load(Ordering::Acquire);
    let tail = tail_word.load(Ordering::Relaxed);
    let used = tail.checked_sub(head).ok_or(SharedError::Positions)?;
    let space = CONSOLE_IN_SIZE
        .checked_sub(used)
        .ok_or(SharedError::Positions)?;
    let count = bytes.len().min(space as usize);
    let end = tail
        .checked_add(count as u64)
        .ok_or(SharedError::Positions)?;
    for (position, &byte) in (tail..end).zip(bytes) {
        let index = position & (CONSOLE_IN_SIZE - 1);
        let word = area.word(CONSOLE_IN_OFFSET + index);
        let shift = 8 * (index % WORD);
        let others = word.load(Ordering::Relaxed) & !(0xff << shift);
        word.store(others | u64::from(byte) << shift, Ordering::Relaxed);
    }
    tail_word.store(end, Ordering::Release);
    Ok(count)
}

/// How many bytes of input the spawn has not taken yet.
pub fn input_pending(area: &Area<'_>) -> u64 {
    let ring = offset_of!(ConsoleRings, input);
    let head = area
        .position(ring, offset_of!(ConsoleRing, head))
        .load(Ordering::Acquire);
    let tail = area
        .position(ring, offset_of!(ConsoleRing, tail))
        .load(Ordering::Relaxed);
    tail.saturating_sub(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn memory() -> Vec<AtomicU64> {
        (0..SHARED_SIZE / WORD).map(|_| AtomicU64::new(0)).collect()
    }

    fn put(area: &Area<'_>, offset: u64, byte: u8) {
        let word = area.word(offset);
        let shift = 8 * (offset % WORD);
        let others = word.load(Ordering::Relaxed) & !(0xff << shift);
        word.store(others | u64::from(byte) << shift, Ordering::Relaxed);
    }

    fn put_u32(area: &Area<'_>, offset: usize, value: u32) {
        for (i, byte) in value.to_le_bytes().into_iter().enumerate() {
            put(area, (offset + i) as u64, byte);
        }
    }

    fn start(area: &Area<'_>) {
        area.word(0).store(abi::SHARED_MAGIC, Ordering::Relaxed);
        put_u32(area, offset_of!(SharedHeader, version), abi::ABI_VERSION);
        put_u32(area, offset_of!(SharedHeader, id), 3);
        put_u32(area, offset_of!(SharedHeader, epoch), 2);
        for (i, byte) in b"web".iter().enumerate() {
            put(area, (offset_of!(SharedHeader, name) + i) as u64, *byte);
        }
    }

    /// The spawn's side, as the ABI has it.
    fn spawn_writes(area: &Area<'_>, bytes: &[u8]) {
        let word = area.position(0, 0);
        let tail = word.load(Ordering::Relaxed);
        for (position, &byte) in (tail..).zip(bytes) {
            put(
                area,
                CONSOLE_OUT_OFFSET + (position & (CONSOLE_OUT_SIZE - 1)),
                byte,
            );
        }
        word.store(tail + bytes.len() as u64, Ordering::Release);
    }

    fn spawn_reads(area: &Area<'_>, count: u64) -> Vec<u8> {
        let ring = offset_of!(ConsoleRings, input);
        let tail = area.position(ring, 0).load(Ordering::Acquire);
        let head = area.position(ring, 64);
        let first = head.load(Ordering::Relaxed);
        let end = tail.min(first + count);
        let bytes = (first..end)
            .map(|position| {
                let offset = CONSOLE_IN_OFFSET + (position & (CONSOLE_IN_SIZE - 1));
                (area.word(offset).load(Ordering::Relaxed) >> (8 * (offset % WORD))) as u8
            })
            .collect();
        head.store(end, Ordering::Release);
        bytes
    }

    #[test]
    fn header_is_checked() {
        let memory = memory();
        let area = Area::new(&memory).unwrap();
        assert_eq!(area.header(), Err(SharedError::NeverStarted));
        start(&area);
        let header = area.header().unwrap();
        assert_eq!((header.id, header.epoch), (3, 2));
        assert_eq!(area.name(), "web");
        assert!(!header.has_console());
        put_u32(&area, offset_of!(SharedHeader, version), 9);
        assert_eq!(area.header(), Err(SharedError::Version(9)));
        put(&area, 0, b'X');
        assert_eq!(area.header(), Err(SharedError::Damaged));
        assert!(Area::new(&memory[1..]).is_err());
    }

    #[test]
    fn lapped_reader_says_what_it_lost() {
        let memory = memory();
        let area = Area::new(&memory).unwrap();
        start(&area);
        let mut reader = OutputReader::from_start(&area.header().unwrap());
        let text = vec![b'a'; CONSOLE_OUT_SIZE as usize];
        spawn_writes(&area, &text);
        spawn_writes(&area, &text);
        let mut bytes = Vec::new();
        let progress = reader.read(&area, &mut bytes);
        assert_eq!(progress.read, CONSOLE_OUT_SIZE - IN_FLIGHT);
        assert_eq!(progress.read + progress.lost, 2 * CONSOLE_OUT_SIZE);
        assert_eq!(reader.read(&area, &mut bytes), Progress::default());
    }

    #[test]
    fn earlier_lives_are_there_for_those_who_ask() {
        let memory = memory();
        let area = Area::new(&memory).unwrap();
        start(&area);
        spawn_writes(&area, b"first");
        area.word(offset_of!(SharedHeader, console_start) as u64)
            .store(5, Ordering::Relaxed);
        spawn_writes(&area, b"second");
        let read = |mut reader: OutputReader| {
            let mut bytes = Vec::new();
            reader.read(&area, &mut bytes);
            String::from_utf8(bytes).unwrap()
        };
        assert_eq!(
            read(OutputReader::from_start(&area.header().unwrap())),
            "second"
        );
        assert_eq!(read(OutputReader::from_oldest(&area)), "firstsecond");
        assert_eq!(read(OutputReader::from_end(&area)), "");
    }

    #[test]
    fn full_input_stops_the_writer() {
        let memory = memory();
        let area = Area::new(&memory).unwrap();
        let text = vec![b'x'; 5000];
        assert_eq!(write_input(&area, &text), Ok(4096));
        assert_eq!(write_input(&area, &text), Ok(0));
        assert_eq!(spawn_reads(&area, 10).len(), 10);
        assert_eq!(write_input(&area, &text), Ok(10));
        assert_eq!(input_pending(&area), 4096);
    }

    #[test]
    fn lying_spawn_breaks_only_its_own_console() {
        let memory = memory();
        let area = Area::new(&memory).unwrap();
        start(&area);
        let ring = offset_of!(ConsoleRings, input);
        area.position(ring, 64).store(1, Ordering::Relaxed);
        assert_eq!(write_input(&area, b"a"), Err(SharedError::Positions));
        area.position(ring, 0).store(u64::MAX, Ordering::Relaxed);
        assert_eq!(write_input(&area, b"a"), Err(SharedError::Positions));
        area.position(ring, 64).store(u64::MAX, Ordering::Relaxed);
        assert_eq!(write_input(&area, b"a"), Err(SharedError::Positions));

        let mut reader = OutputReader::from_oldest(&area);
        let mut bytes = Vec::new();
        area.position(0, 0).store(u64::MAX, Ordering::Relaxed);
        let progress = reader.read(&area, &mut bytes);
        assert!(progress.read <= CONSOLE_OUT_SIZE);
        area.position(0, 0).store(7, Ordering::Relaxed);
        assert_eq!(reader.read(&area, &mut bytes), Progress::default());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Against a model that keeps everything that was ever written.
        #[test]
        fn output_is_what_was_written_less_what_is_counted_as_lost(
            steps in proptest::collection::vec((0usize..70_000, any::<bool>()), 1..24),
        ) {
            let memory = memory();
            let area = Area::new(&memory).unwrap();
            start(&area);
            let mut reader = OutputReader::from_start(&area.header().unwrap());
            let mut written = Vec::new();
            let mut position = 0usize;
            for (length, read) in steps {
                let chunk: Vec<u8> =
                    (written.len()..written.len() + length).map(|i| (i * 7 % 251) as u8).collect();
                spawn_writes(&area, &chunk);
                written.extend_from_slice(&chunk);
                if read {
                    let mut bytes = Vec::new();
                    let progress = reader.read(&area, &mut bytes);
                    position += progress.lost as usize;
                    prop_assert_eq!(progress.read as usize, bytes.len());
                    prop_assert!(bytes == written[position..position + bytes.len()]);
                    position += bytes.len();
                    prop_assert_eq!(position, written.len());
                }
            }
        }

        #[test]
        fn input_arrives_in_order(
            steps in proptest::collection::vec((0usize..6000, 0u64..6000), 1..24),
        ) {
            let memory = memory();
            let area = Area::new(&memory).unwrap();
            let mut sent = Vec::new();
            let mut received = Vec::new();
            for (length, taken) in steps {
                let chunk: Vec<u8> =
                    (sent.len()..sent.len() + length).map(|i| (i * 7 % 251) as u8).collect();
                let count = write_input(&area, &chunk).unwrap();
                sent.extend_from_slice(&chunk[..count]);
                received.extend(spawn_reads(&area, taken));
                prop_assert!(received == sent[..received.len()]);
                prop_assert_eq!(input_pending(&area) as usize, sent.len() - received.len());
            }
        }
    }
}
