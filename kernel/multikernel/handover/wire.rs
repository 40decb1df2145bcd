// SPDX-License-Identifier: GPL-2.0

//! What a spawn and its host say to each other about arenas, byte by byte.
//!
//! The layouts are [`ArenaRequest`] and [`ArenaAnswer`]. What comes from the other kernel is
//! checked here before anybody uses it. The file uses `core` alone, has no `unsafe` and needs no
//! lock.

#![allow(unreachable_pub)]

use core::mem::{
    offset_of,
    size_of, //
};

use crate::abi::{
    ArenaAnswer,
    ArenaRequest,
    ARENA_OPEN,
    ARENA_WRITABLE,
    NAME_LENGTH, //
};

/// Bytes of a request.
pub const REQUEST_BYTES: usize = size_of::<ArenaRequest>();
/// Bytes of an answer.
pub const ANSWER_BYTES: usize = size_of::<ArenaAnswer>();

/// Arenas begin at multiples of this, and are as long: a large page.
const ALIGN: u64 = 2 << 20;

/// Physical addresses have at most 52 bits (SDM volume 3, "4.1.4 Enumeration of Paging Features by
/// CPUID").
const ADDRESSES: u64 = 1 << 52;

fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    let (word, _) = bytes.get(offset..)?.split_first_chunk()?;
    Some(u32::from_le_bytes(*word))
}

fn long(bytes: &[u8], offset: usize) -> Option<u64> {
    let (long, _) = bytes.get(offset..)?.split_first_chunk()?;
    Some(u64::from_le_bytes(*long))
}

fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    for (to, from) in bytes.iter_mut().skip(offset).zip(value) {
        *to = *from;
    }
}

/// The request for an arena of this name.
pub fn request(name: &[u8; NAME_LENGTH]) -> [u8; REQUEST_BYTES] {
    let mut bytes = [0; REQUEST_BYTES];
    let operation = offset_of!(ArenaRequest, operation);
    put(&mut bytes, operation, &ARENA_OPEN.to_le_bytes());
    put(&mut bytes, offset_of!(ArenaRequest, name), name);
    bytes
}

/// The name of the arena that is asked for; `None` if the request makes no sense.
pub fn name_of(bytes: &[u8]) -> Option<[u8; NAME_LENGTH]> {
    if bytes.len() != REQUEST_BYTES
        || word(bytes, offset_of!(ArenaRequest, operation))? != ARENA_OPEN
        || word(bytes, offset_of!(ArenaRequest, reserved))? != 0
    {
        return None;
    }
    let (name, _) = bytes
        .get(offset_of!(ArenaRequest, name)..)?
        .split_first_chunk()?;
    Some(*name)
}

/// An arena that has been granted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Granted {
    /// First byte, physical.
    pub base: u64,
    /// Bytes.
    pub size: u64,
    /// Whether it may be written to.
    pub writable: bool,
}

impl Granted {
    /// The answer that says so.
    pub fn answer(&self) -> [u8; ANSWER_BYTES] {
        let mut bytes = [0; ANSWER_BYTES];
        let flags = if self.writable { ARENA_WRITABLE } else { 0 };
        let mut put = |offset, value: &[u8]| put(&mut bytes, offset, value);
        put(offset_of!(ArenaAnswer, base), &self.base.to_le_bytes());
        put(offset_of!(ArenaAnswer, size), &self.size.to_le_bytes());
        put(offset_of!(ArenaAnswer, flags), &flags.to_le_bytes());
        bytes
    }

    /// What an answer says; `None` if it makes no sense: too short, or a range that is empty, not
    /// of whole large pages, or beyond what an address can be. Flags and bytes that this kernel
    /// does not know are ignored.
    pub fn of_answer(bytes: &[u8]) -> Option<Self> {
        let base = long(bytes, offset_of!(ArenaAnswer, base))?;
        let size = long(bytes, offset_of!(ArenaAnswer, size))?;
        let flags = word(bytes, offset_of!(ArenaAnswer, flags))?;
        let end = base.checked_add(size)?;
        let possible = base != 0 && size != 0 && (base | size) & (ALIGN - 1) == 0;
        (possible && end <= ADDRESSES).then_some(Self {
            base,
            size,
            writable: flags & ARENA_WRITABLE != 0,
        })
    }
}

#[cfg(any(test, CONFIG_MULTIKERNEL_KUNIT_TEST))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(multikernel_arena_wire))]
mod tests {
    use super::*;

    const GOOD: Granted = Granted {
        base: 0x4000_0000,
        size: 0x20_0000,
        writable: true,
    };

    #[test]
    fn requests() {
        let mut name = [0; NAME_LENGTH];
        put(&mut name, 0, b"web");
        let bytes = request(&name);
        assert_eq!(name_of(&bytes), Some(name));
        assert_eq!(name_of(&[]), None);
        assert_eq!(name_of(bytes.get(1..).unwrap_or_default()), None);
        for changed in 0..8 {
            let mut bytes = bytes;
            if let Some(byte) = bytes.get_mut(changed) {
                *byte ^= 0x80;
            }
            assert_eq!(name_of(&bytes), None);
        }
    }

    #[test]
    fn answers() {
        let read_only = Granted {
            writable: false,
            ..GOOD
        };
        for granted in [GOOD, read_only] {
            assert_eq!(Granted::of_answer(&granted.answer()), Some(granted));
        }
        let short = GOOD.answer();
        assert_eq!(
            Granted::of_answer(short.get(..19).unwrap_or_default()),
            None
        );
        for (base, size) in [
            (0, ALIGN),
            (ALIGN, 0),
            (ALIGN + 4096, ALIGN),
            (ALIGN, ALIGN + 4096),
            (ALIGN, ALIGN / 2),
            (u64::MAX - ALIGN + 1, ALIGN),
            (u64::MAX - ALIGN + 1, 2 * ALIGN),
            (ALIGN, ADDRESSES),
            (ADDRESSES, ALIGN),
        ] {
            let bad = Granted { base, size, ..GOOD };
            assert_eq!(Granted::of_answer(&bad.answer()), None);
        }
    }
}
