// SPDX-License-Identifier: GPL-2.0

//! kexec segments of an instance: the check.
//!
//! An image is a list of segments and an entry address, as `kexec_load(2)` takes them, but every
//! segment goes straight to its place in the instance's memory. This file owns the rules that a
//! list must keep; copying is done by [`crate::load`] after the whole list has passed. It has no
//! state and needs no lock.
//!
//! The file is pure: it is compiled into the kernel and into the test workspace.

// `pub`, not `pub(crate)`: in the test workspace and in mkctl the file is a library's.
#![allow(unreachable_pub)]

use kernel::prelude::*;

use crate::ledger::Region;

/// Most segments in a list: `KEXEC_SEGMENT_MAX` of `include/uapi/linux/kexec.h`.
pub const SEGMENTS_MAX: usize = 16;

/// Segments start and end on a page, as for a plain kexec.
const PAGE: u64 = 4096;

/// `struct kexec_segment`, as user space gives it on x86-64.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// User address of the bytes to copy.
    pub buf: u64,
    /// Bytes to copy; at most `memsz`.
    pub bufsz: u64,
    /// Physical address, a multiple of 4096.
    pub mem: u64,
    /// Bytes in memory, a multiple of 4096; what `bufsz` does not fill becomes zero.
    pub memsz: u64,
}

impl Segment {
    fn end(&self) -> Option<u64> {
        self.mem.checked_add(self.memsz)
    }
}

/// Where an image may go: the instance's memory.
pub struct Room<'a> {
    /// The ranges that the instance holds.
    pub ranges: &'a [Region],
    /// The pages below 1 MiB that it holds.
    pub low: Option<&'a Region>,
}

impl Room<'_> {
    /// Whether all bytes are inside one range.
    pub fn contains(&self, base: u64, size: u64) -> bool {
        Iterator::chain(self.ranges.iter(), self.low).any(|range| range.contains(base, size))
    }
}

/// Checks a list of segments and its entry against the instance's memory, and returns the sum of
/// the segments' sizes in memory.
///
/// # Errors
///
/// - `EINVAL`: no or too many segments, a segment that is empty, unaligned, wraps, has more bytes
///   to copy than its size, or overlaps another.
/// - `EADDRNOTAVAIL`: a segment that is not wholly inside one range of the instance's memory; an
///   entry that is in no segment.
pub fn check(segments: &[Segment], entry: u64, room: &Room<'_>) -> Result<u64> {
    if segments.is_empty() || segments.len() > SEGMENTS_MAX {
        return Err(EINVAL);
    }
    let mut total: u64 = 0;
    for (i, segment) in segments.iter().enumerate() {
        let end = segment.end().ok_or(EINVAL)?;
        if segment.memsz == 0
            || (segment.mem | segment.memsz) & (PAGE - 1) != 0
            || segment.bufsz > segment.memsz
            || segment.buf.checked_add(segment.bufsz).is_none()
        {
            return Err(EINVAL);
        }
        let overlap = |other: &Segment| match other.end() {
            Some(other_end) => segment.mem < other_end && other.mem < end,
            None => true,
        };
        if segments.iter().take(i).any(overlap) {
            return Err(EINVAL);
        }
        total = total.checked_add(segment.memsz).ok_or(EINVAL)?;
    }
    for segment in segments {
        if !room.contains(segment.mem, segment.memsz) {
            return Err(EADDRNOTAVAIL);
        }
    }
    let holds_entry =
        |segment: &Segment| segment.mem <= entry && segment.end().is_some_and(|end| entry < end);
    if !segments.iter().any(holds_entry) {
        return Err(EADDRNOTAVAIL);
    }
    Ok(total)
}

#[cfg(CONFIG_MULTIKERNEL_KUNIT_TEST)]
#[kunit_tests(multikernel_image)]
mod tests {
    use super::*;
    use crate::ledger::{InstanceId, MemoryLedger, Request};

    const MIB: u64 = 1 << 20;
    const BASE: u64 = 64 * MIB;
    const SIZE: u64 = 64 * MIB;

    fn with_room(test: impl Fn(&Room<'_>)) -> Result {
        let mut ledger = MemoryLedger::new(2 * MIB);
        ledger.insert(BASE, SIZE, 0, false)?;
        let request = Request {
            size: SIZE,
            ..Request::default()
        };
        let region = ledger.take(&request, InstanceId::new(3).ok_or(EINVAL)?)?;
        test(&Room {
            ranges: core::slice::from_ref(&region),
            low: None,
        });
        assert!(ledger.give_back(region));
        Ok(())
    }

    fn segment(mem: u64, memsz: u64) -> Segment {
        Segment {
            buf: 0x1000,
            bufsz: memsz.min(16),
            mem,
            memsz,
        }
    }

    #[test]
    fn a_good_list_passes() -> Result {
        with_room(|room| {
            let list = [segment(BASE, MIB), segment(BASE + MIB, PAGE)];
            assert_eq!(check(&list, BASE + 0x200, room), Ok(MIB + PAGE));
            let last = [segment(BASE + SIZE - PAGE, PAGE)];
            assert_eq!(check(&last, BASE + SIZE - 1, room), Ok(PAGE));
        })
    }

    #[test]
    fn malformed_lists_are_refused() -> Result {
        with_room(|room| {
            let refused = |list: &[Segment]| check(list, BASE, room) == Err(EINVAL);
            assert!(refused(&[]));
            assert!(refused(&[segment(BASE, PAGE); 2]));
            assert!(refused(&[segment(BASE, 0)]));
            assert!(refused(&[segment(BASE + 1, PAGE)]));
            assert!(refused(&[segment(BASE, PAGE + 1)]));
            assert!(refused(&[segment(0u64.wrapping_sub(PAGE), 2 * PAGE)]));
            assert!(refused(&[Segment {
                bufsz: PAGE + 1,
                ..segment(BASE, PAGE)
            }]));
            assert!(refused(&[Segment {
                buf: u64::MAX,
                ..segment(BASE, PAGE)
            }]));
            let mut many = [segment(BASE, PAGE); SEGMENTS_MAX + 1];
            for (i, one) in many.iter_mut().enumerate() {
                one.mem += i as u64 * PAGE;
            }
            assert!(refused(&many));
        })
    }

    #[test]
    fn nothing_outside_is_reached() -> Result {
        with_room(|room| {
            let outside = |list: &[Segment], entry| check(list, entry, room) == Err(EADDRNOTAVAIL);
            assert!(outside(&[segment(BASE - PAGE, PAGE)], BASE - PAGE));
            assert!(outside(&[segment(BASE - PAGE, 2 * PAGE)], BASE));
            assert!(outside(&[segment(BASE + SIZE, PAGE)], BASE + SIZE));
            assert!(outside(&[segment(BASE, SIZE + PAGE)], BASE));
            assert!(outside(&[segment(BASE, PAGE)], BASE + PAGE));
            assert!(outside(&[segment(BASE, PAGE)], BASE - 1));
            assert!(outside(&[segment(BASE, PAGE)], 0));
        })
    }
}
