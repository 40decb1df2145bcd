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
    self, ConsoleRing, ConsoleRings, CpuBeat, CpuRegisters, SharedHeader, CONSOLE_IN_OFFSET,
    CONSOLE_IN_SIZE, CONSOLE_OUT_OFFSET, CONSOLE_OUT_SIZE, CONSOLE_RINGS_OFFSET, CPU_BEATS_MAX,
    CPU_BEATS_OFFSET, CPU_REGISTERS_MAX, CPU_REGISTERS_OFFSET, MESSAGE_LENGTH, NAME_LENGTH,
    REGISTERS_VALID, SHARED_SIZE,
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
    /// Physical address of the spawn's VMCOREINFO note, 0 if it has none.
    pub vmcoreinfo_base: u64,
    /// Bytes of that note at most.
    pub vmcoreinfo_size: u32,
    /// APIC id of the CPU that ended the kernel; of meaning after a panic only.
    pub end_apic_id: u32,
    /// The host has asked it to power off.
    pub asked_to_end: bool,
}

impl Header {
    /// Whether the spawn's console goes through the rings.
    pub fn has_console(&self) -> bool {
        self.guest_features & abi::GUEST_FEATURE_CONSOLE != 0
    }
}

/// Registers that a CPU of the spawn left behind when its kernel ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Registers {
    /// The CPU's APIC id.
    pub apic_id: u32,
    /// In the order of `struct user_regs_struct`.
    pub user: [u64; 27],
    /// The address of the last page fault.
    pub cr2: u64,
    /// The page table's physical address, and its PCID.
    pub cr3: u64,
}

/// How often a CPU of the spawn has answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Beat {
    /// How often the host's doorbell rang on it.
    pub beats: u64,
    /// Its APIC id.
    pub apic_id: u32,
    /// Whether the spawn has it online.
    pub online: bool,
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
            vmcoreinfo_base: self.u64_at(offset_of!(SharedHeader, vmcoreinfo_base)),
            vmcoreinfo_size: self.u32_at(offset_of!(SharedHeader, vmcoreinfo_size)),
            end_apic_id: self.u32_at(offset_of!(SharedHeader, end_apic_id)),
            asked_to_end: self.u32_at(offset_of!(SharedHeader, request)) == abi::REQUEST_POWEROFF,
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

    /// What the spawn's panic said, on one line; empty after any other end.
    ///
    /// It goes to terminals and logs: whatever is not printable ASCII is replaced.
    pub fn message(&self) -> String {
        let start = offset_of!(SharedHeader, end_message);
        let text: String = (start..start + MESSAGE_LENGTH)
            .step_by(8)
            .flat_map(|offset| self.u64_at(offset).to_le_bytes())
            .take_while(|byte| *byte != 0)
            .map(|byte| match byte {
                b' '..=b'~' => char::from(byte),
                b'\n' | b'\t' => ' ',
                _ => '?',
            })
            .collect();
        text.trim().to_owned()
    }

    /// The registers that a CPU of the spawn left behind, by its number there.
    pub fn registers(&self, cpu: usize) -> Option<Registers> {
        if cpu >= CPU_REGISTERS_MAX {
            return None;
        }
        let start = CPU_REGISTERS_OFFSET as usize + cpu * size_of::<CpuRegisters>();
        let field = |offset: usize| self.u64_at(start + offset);
        (self.u32_at(start + offset_of!(CpuRegisters, valid)) == REGISTERS_VALID).then(|| {
            Registers {
                apic_id: self.u32_at(start + offset_of!(CpuRegisters, apic_id)),
                user: std::array::from_fn(|i| field(offset_of!(CpuRegisters, user) + 8 * i)),
                cr2: field(offset_of!(CpuRegisters, cr2)),
                cr3: field(offset_of!(CpuRegisters, cr3)),
            }
        })
    }

    /// The beats of a CPU of the spawn, by its number there.
    pub fn beat(&self, cpu: usize) -> Option<Beat> {
        if cpu >= CPU_BEATS_MAX {
            return None;
        }
        let start = CPU_BEATS_OFFSET as usize + cpu * size_of::<CpuBeat>();
        Some(Beat {
            beats: self.u64_at(start + offset_of!(CpuBeat, beats)),
            apic_id: self.u32_at(start + offset_of!(CpuBeat, apic_id)),
            online: self.u32_at(start + offset_of!(CpuBeat, online)) == 1,
        })
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
mod tests;
