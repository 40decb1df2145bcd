// SPDX-License-Identifier: GPL-2.0

//! The memory that the kernel is given pointers into, and nothing else of the process is near.
//!
//! It is a reservation of 1 GiB at an address of its own, with a few pages in it: a pointer of
//! which some bits are changed hits the reservation, or nothing at all, but never what this program
//! works with.

use std::io;
use std::ptr::NonNull;

use crate::calls::{self, Plain};
use crate::image;
use crate::random::Random;

const PAGE: usize = 4096;
/// The reservation's size, and the alignment of its address.
const RESERVED: usize = 1 << 30;
const ADDRESS: usize = 0x1000 << 32;
/// Pages for structures, from the reservation's start on; the next one is not mapped.
const DATA: usize = 16 * PAGE;
/// A page that can only be read.
const READ_ONLY: usize = 1 << 20;
/// What images are loaded from; it can only be read.
const CODE: usize = 16 << 20;
/// Bytes of it.
const CODE_SIZE: usize = 4 << 20;

/// The reservation.
pub struct Arena {
    base: NonNull<u8>,
    next: usize,
}

impl Arena {
    /// Sets it up. There can be one in a process.
    pub fn new() -> io::Result<Self> {
        // SAFETY: MAP_FIXED_NOREPLACE fails rather than to replace what is there.
        let base = unsafe {
            libc::mmap(
                ADDRESS as *mut libc::c_void,
                RESERVED,
                libc::PROT_NONE,
                libc::MAP_PRIVATE
                    | libc::MAP_ANONYMOUS
                    | libc::MAP_NORESERVE
                    | libc::MAP_FIXED_NOREPLACE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let arena = Self { base, next: 0 };
        arena.protect(0, DATA, libc::PROT_READ | libc::PROT_WRITE)?;
        arena.protect(CODE, CODE_SIZE, libc::PROT_READ | libc::PROT_WRITE)?;
        // SAFETY: Just made accessible, and nobody else has a reference to it.
        let code =
            unsafe { std::slice::from_raw_parts_mut(arena.base.add(CODE).as_ptr(), CODE_SIZE) };
        image::fill(code);
        arena.protect(CODE, CODE_SIZE, libc::PROT_READ)?;
        arena.protect(READ_ONLY, PAGE, libc::PROT_READ)?;
        Ok(arena)
    }

    fn protect(&self, at: usize, size: usize, protection: i32) -> io::Result<()> {
        // SAFETY: Inside the reservation, in which Rust has no objects.
        match unsafe { libc::mprotect(self.base.add(at).as_ptr().cast(), size, protection) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn address(&self) -> usize {
        self.base.as_ptr() as usize
    }

    /// Where code lies, and how many bytes of it.
    pub fn code(&self) -> (u64, u64) {
        ((self.address() + CODE) as u64, CODE_SIZE as u64)
    }

    /// Forgets what was put, before the next call.
    pub fn clear(&mut self) {
        self.next = 0;
    }

    /// Copies a structure to where the kernel is told that it is: now and then right before the
    /// end of the accessible memory.
    pub fn put(&mut self, random: &mut Random, bytes: &[u8]) -> u64 {
        let room = DATA - PAGE;
        if bytes.len() > PAGE || bytes.is_empty() {
            return self.bad(random);
        }
        let at = if random.once_in(8) {
            DATA - bytes.len()
        } else {
            if self.next + bytes.len() > room {
                self.next = 0;
            }
            let at = self.next;
            self.next = (at + bytes.len()).next_multiple_of(8);
            at
        };
        // SAFETY: `at` is inside the data pages with all of `bytes`; the pages are writable, and
        // the kernel is not at work on them between calls.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.add(at).as_ptr(), bytes.len());
        }
        (self.address() + at) as u64
    }

    /// A place for `size` bytes that the kernel fills.
    pub fn room(&mut self, random: &mut Random, size: usize) -> u64 {
        self.put(random, &vec![0xa5; size.clamp(1, PAGE)])
    }

    /// Reads back what the kernel has written to a structure that was put at `address`.
    pub fn get<T: Plain>(&self, address: u64) -> Option<T> {
        let at = (address as usize).checked_sub(self.address())?;
        if at.checked_add(size_of::<T>())? > DATA {
            return None;
        }
        // SAFETY: Inside the data pages by the check above; the kernel is not at work on them
        // between calls.
        let data =
            unsafe { std::slice::from_raw_parts(self.base.add(at).as_ptr(), size_of::<T>()) };
        calls::of_bytes(data)
    }

    /// An address that a call should refuse.
    pub fn bad(&self, random: &mut Random) -> u64 {
        match random.below(6) {
            0 => 0,
            1 => (self.address() + READ_ONLY) as u64,
            // The last byte before what is not mapped.
            2 => (self.address() + DATA - 1 - random.below(8)) as u64,
            3 => (self.address() + DATA + random.below(PAGE)) as u64,
            // The kernel's: the direct map begins somewhere there.
            4 => 0xffff_8880_0000_0000 + random.next() % (1 << 32),
            _ => 0x7fff_ffff_f000 - 4 + random.next() % 8,
        }
    }
}
