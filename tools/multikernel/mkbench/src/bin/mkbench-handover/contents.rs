// SPDX-License-Identifier: GPL-2.0

//! What is handed over: written by who has it, looked at by who gets it.
//!
//! A session has one entry. Bytes are got, all of them; of pages, which are mapped, the first and
//! the last word are read before they count as there to be read.

use multikernel::device::{ArenaMap, EntryKind, Session};
use multikernel::{Error, Result};

/// The entry's key.
const KEY: &str = "contents";
/// In pages a word is written each so many bytes, the size of a large page.
const STRIDE: usize = 2 << 20;

/// What is in a session.
pub enum Contents {
    /// All of it.
    Bytes(Vec<u8>),
    /// Mapped.
    Pages(ArenaMap),
}

fn word(round: u64, number: usize) -> u64 {
    // Any that differs from the next one's, and from that of the next round.
    (round << 40 | number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// As many bytes as nobody else writes.
pub fn bytes(round: u64, size: usize) -> Vec<u8> {
    let words = (0..size.div_ceil(8)).flat_map(|number| word(round, number).to_le_bytes());
    words.take(size).collect()
}

/// Where words are in pages of that size: one in each large page, and the last one.
fn places(size: usize) -> impl Iterator<Item = usize> {
    let last = size.saturating_sub(8);
    (0..last).step_by(STRIDE).chain([last])
}

fn wrong() -> Error {
    Error::new("cannot measure", "the pages are too short").with_errno(libc::EPROTO)
}

fn read_word(map: &ArenaMap, at: usize) -> Result<u64> {
    let mut bytes = [0; 8];
    map.read(at, &mut bytes).ok_or_else(wrong)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Puts contents into a session.
pub fn write(session: &Session, pages: bool, round: u64, size: usize) -> Result<()> {
    if !pages {
        return session.put(KEY, &bytes(round, size));
    }
    let there = |entry: &multikernel::device::Entry| {
        entry.kind == EntryKind::Pages && entry.length == size as u64
    };
    let map = match session.entries()?.iter().any(there) {
        true => session.get_pages(KEY, true)?,
        false => session.put_pages(KEY, size as u64)?,
    };
    for at in places(size) {
        map.write(at, &word(round, at).to_le_bytes())
            .ok_or_else(wrong)?;
    }
    Ok(())
}

/// Has the contents of a session readable.
pub fn take(session: &Session, pages: bool, size: usize) -> Result<Contents> {
    if !pages {
        return session.get(KEY).map(Contents::Bytes);
    }
    let map = session.get_pages(KEY, false)?;
    for at in [0, size.saturating_sub(8)] {
        std::hint::black_box(read_word(&map, at)?);
    }
    Ok(Contents::Pages(map))
}

/// That they are those of this round.
pub fn check(contents: &Contents, round: u64, size: usize) -> Result<()> {
    let right = match contents {
        Contents::Bytes(got) => *got == bytes(round, size),
        Contents::Pages(map) => {
            let mut right = map.bytes() == size;
            for at in places(size) {
                right &= read_word(map, at)? == word(round, at);
            }
            right
        }
    };
    match right {
        true => Ok(()),
        false => Err(
            Error::new("cannot measure", "what came is not what was handed over")
                .with_errno(libc::EILSEQ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_differ_in_each_word() {
        let (one, two) = (bytes(1, 1001), bytes(2, 1001));
        assert_eq!(one.len(), 1001);
        let pairs = one.chunks_exact(8).zip(two.chunks_exact(8));
        assert!(pairs.into_iter().all(|(a, b)| a != b));
        assert!(check(&Contents::Bytes(one.clone()), 1, 1001).is_ok());
        assert!(check(&Contents::Bytes(one.clone()), 2, 1001).is_err());
        assert!(check(&Contents::Bytes(one), 1, 1000).is_err());
    }

    #[test]
    fn each_large_page_and_the_last_word() {
        let all: Vec<_> = places(5 << 20).collect();
        assert_eq!(all, [0, 2 << 20, 4 << 20, (5 << 20) - 8]);
        assert_eq!(places(4096).collect::<Vec<_>>(), [0, 4088]);
    }
}
