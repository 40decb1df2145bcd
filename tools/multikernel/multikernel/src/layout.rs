// SPDX-License-Identifier: GPL-2.0

//! Where kernel, initrd and boot area go inside an instance's memory.
//!
//! Arithmetic only. What comes out is aligned to pages, inside the given ranges, outside the shared
//! area, and does not overlap; or it is an error that says what did not fit.
//!
//! The kernel goes as low as it can, everything else as high as it can: the kernel's first
//! allocations come from the memory behind it, and the boot area next to the shared area spoils
//! only one 2 MiB page between them.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::spec::format_size;

/// Page size, in bytes.
pub const PAGE: u64 = 0x1000;
/// Page table reach below which a kernel that cannot be above 4 GiB has to stay.
pub const FOUR_GIB: u64 = 1 << 32;

/// A range of physical memory.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Range {
    /// First address.
    pub base: u64,
    /// Bytes.
    pub size: u64,
}

impl Range {
    /// A range by its first address and its size.
    pub const fn new(base: u64, size: u64) -> Self {
        Self { base, size }
    }

    /// The address behind the last byte; saturates, so that a wrapping range contains nothing more.
    pub const fn end(&self) -> u64 {
        self.base.saturating_add(self.size)
    }

    /// Whether all of `other` is in this range.
    pub const fn contains(&self, other: &Range) -> bool {
        self.base <= other.base && other.end() <= self.end()
    }

    /// Whether the two share a byte.
    pub const fn overlaps(&self, other: &Range) -> bool {
        self.base < other.end() && other.base < self.end() && self.size > 0 && other.size > 0
    }
}

/// What a kernel image asks of the memory that it is put in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct KernelNeed {
    /// Bytes that the kernel uses before it reads the memory map.
    pub size: u64,
    /// Alignment of its base, a power of two.
    pub align: u64,
    /// Where it would be without relocation.
    pub preferred: u64,
    /// The lowest base that it can be given.
    pub lowest: u64,
    /// Whether it runs anywhere but at `preferred`.
    pub relocatable: bool,
    /// Whether kernel, boot_params and initrd may be above 4 GiB.
    pub above_4g: bool,
}

/// Everything that has to be placed.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The instance's memory, without the pages below 1 MiB.
    pub ranges: &'a [Range],
    /// The shared area: nothing is put there, should it be in one of `ranges`.
    pub shared: Range,
    /// The kernel.
    pub kernel: KernelNeed,
    /// Size of the initrd, 0 if there is none.
    pub initrd: u64,
    /// Size of the boot area: boot_params, command line, ACPI tables.
    pub boot: u64,
}

/// Where everything goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Layout {
    /// The kernel and all the memory that it needs before it reads the memory map.
    pub kernel: Range,
    /// The initrd, rounded up to pages.
    pub initrd: Option<Range>,
    /// The boot area, rounded up to pages.
    pub boot: Range,
}

/// Why there is no layout.
#[derive(Clone, Debug, Error, Eq, PartialEq)]
pub enum LayoutError {
    /// The kernel runs at one address only, and that is not (free) in the instance's memory.
    #[error(
        "the kernel is not relocatable and needs {} at {address:#x}, which is not in the \
         instance's memory", format_size(*size)
    )]
    FixedKernel {
        /// Where it has to be.
        address: u64,
        /// Bytes.
        size: u64,
    },
    /// No range has room for the part.
    #[error(
        "the {part} needs {} in one piece{}, the largest free piece there is {}",
        format_size(*size), if *below_4g { " below 4 GiB" } else { "" }, format_size(*largest)
    )]
    TooSmall {
        /// kernel, initrd or boot area.
        part: &'static str,
        /// Bytes.
        size: u64,
        /// Only memory below 4 GiB would do.
        below_4g: bool,
        /// Largest piece that is free.
        largest: u64,
    },
    /// A size that no machine has.
    #[error("the {0} is larger than any memory")]
    Absurd(&'static str),
}

/// Rounds down; `align` is a power of two.
pub const fn align_down(value: u64, align: u64) -> u64 {
    value & !(align - 1)
}

/// Rounds up; `None` when that is beyond 64 bits.
pub const fn align_up(value: u64, align: u64) -> Option<u64> {
    match value.checked_add(align - 1) {
        Some(sum) => Some(align_down(sum, align)),
        None => None,
    }
}

/// What is left of `ranges` when `hole` is cut out of them.
pub fn subtract(ranges: &[Range], hole: Range) -> Vec<Range> {
    let mut left = Vec::with_capacity(ranges.len() + 1);
    for range in ranges {
        if !range.overlaps(&hole) {
            left.push(*range);
            continue;
        }
        if range.base < hole.base {
            left.push(Range::new(range.base, hole.base - range.base));
        }
        if hole.end() < range.end() {
            left.push(Range::new(hole.end(), range.end() - hole.end()));
        }
    }
    left
}

/// Places kernel, boot area and initrd.
pub fn plan(request: &Request<'_>) -> Result<Layout, LayoutError> {
    let need = &request.kernel;
    let limit = if need.above_4g { u64::MAX } else { FOUR_GIB };
    let mut free: Vec<Range> = request
        .ranges
        .iter()
        .filter_map(|range| {
            let base = align_up(range.base, PAGE)?;
            let end = align_down(range.end().min(limit), PAGE);
            (base < end).then(|| Range::new(base, end - base))
        })
        .collect();
    free = subtract(&free, outward(request.shared));
    free.sort_unstable();

    let kernel = place_kernel(&free, need)?;
    free = subtract(&free, kernel);
    let boot = place_high(&free, "boot area", request.boot, need.above_4g)?;
    free = subtract(&free, boot);
    let initrd = match request.initrd {
        0 => None,
        bytes => Some(place_high(&free, "initrd", bytes, need.above_4g)?),
    };
    Ok(Layout {
        kernel,
        initrd,
        boot,
    })
}

/// The pages that a range touches.
fn outward(range: Range) -> Range {
    let base = align_down(range.base, PAGE);
    let end = align_up(range.end(), PAGE).unwrap_or(u64::MAX);
    Range::new(base, end - base)
}

fn largest(free: &[Range]) -> u64 {
    free.iter().map(|range| range.size).max().unwrap_or(0)
}

fn place_kernel(free: &[Range], need: &KernelNeed) -> Result<Range, LayoutError> {
    let size = align_up(need.size, PAGE).ok_or(LayoutError::Absurd("kernel"))?;
    let fits_at = |base: u64| {
        let wanted = Range::new(base, size);
        base.checked_add(size).is_some() && free.iter().any(|range| range.contains(&wanted))
    };

    // Without a reason to move it, a kernel is where it was linked to be.
    if need.preferred.is_multiple_of(PAGE)
        && need.preferred >= need.lowest
        && fits_at(need.preferred)
    {
        return Ok(Range::new(need.preferred, size));
    }
    if !need.relocatable {
        return Err(LayoutError::FixedKernel {
            address: need.preferred,
            size,
        });
    }
    free.iter()
        .filter_map(|range| align_up(range.base.max(need.lowest), need.align.max(PAGE)))
        .find(|&base| fits_at(base))
        .map(|base| Range::new(base, size))
        .ok_or(LayoutError::TooSmall {
            part: "kernel",
            size,
            below_4g: !need.above_4g,
            largest: largest(free),
        })
}

fn place_high(
    free: &[Range],
    part: &'static str,
    bytes: u64,
    above_4g: bool,
) -> Result<Range, LayoutError> {
    let size = align_up(bytes.max(1), PAGE).ok_or(LayoutError::Absurd(part))?;
    free.iter()
        .rev()
        .find(|range| range.size >= size)
        .map(|range| Range::new(range.end() - size, size))
        .ok_or(LayoutError::TooSmall {
            part,
            size,
            below_4g: !above_4g,
            largest: largest(free),
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    fn need(size: u64) -> KernelNeed {
        KernelNeed {
            size,
            align: 2 * MIB,
            preferred: 16 * MIB,
            lowest: 16 * MIB,
            relocatable: true,
            above_4g: true,
        }
    }

    fn request(ranges: &[Range], kernel: KernelNeed) -> Request<'_> {
        let first = ranges[0];
        Request {
            ranges,
            shared: Range::new(first.end() - 0x20000, 0x20000),
            kernel,
            initrd: 5 * MIB + 1,
            boot: 0x3000,
        }
    }

    #[test]
    fn kernel_low_rest_high() {
        let ranges = [Range::new(512 * MIB, 256 * MIB)];
        let layout = plan(&request(&ranges, need(40 * MIB))).unwrap();
        assert_eq!(layout.kernel, Range::new(512 * MIB, 40 * MIB));
        assert_eq!(layout.boot.end(), 768 * MIB - 0x20000);
        assert_eq!(layout.initrd.unwrap().end(), layout.boot.base);
    }

    #[test]
    fn preferred_address_is_used_when_it_is_lent() {
        let ranges = [Range::new(8 * MIB, 256 * MIB)];
        let layout = plan(&request(&ranges, need(40 * MIB))).unwrap();
        assert_eq!(layout.kernel.base, 16 * MIB);
    }

    #[test]
    fn kernel_that_cannot_move() {
        let ranges = [Range::new(512 * MIB, 256 * MIB)];
        let mut kernel = need(40 * MIB);
        kernel.relocatable = false;
        let error = plan(&request(&ranges, kernel)).unwrap_err();
        assert!(matches!(error, LayoutError::FixedKernel { .. }), "{error}");
    }

    #[test]
    fn kernel_that_must_be_below_4g() {
        let ranges = [Range::new(FOUR_GIB, 256 * MIB)];
        let mut kernel = need(40 * MIB);
        kernel.above_4g = false;
        let error = plan(&request(&ranges, kernel)).unwrap_err();
        assert!(error.to_string().contains("below 4 GiB"), "{error}");
    }

    #[test]
    fn too_small() {
        let ranges = [Range::new(512 * MIB, 32 * MIB)];
        let error = plan(&request(&ranges, need(40 * MIB))).unwrap_err();
        assert!(
            error.to_string().starts_with("the kernel needs 40M"),
            "{error}"
        );
        let error = plan(&request(&ranges, need(30 * MIB))).unwrap_err();
        assert!(error.to_string().starts_with("the initrd needs"), "{error}");
    }

    fn any_ranges() -> impl Strategy<Value = Vec<Range>> {
        // Gaps and sizes in units of 2 MiB; some gaps jump over 4 GiB.
        proptest::collection::vec((prop_oneof![1u64..64, Just(4096)], 1u64..128), 1..8).prop_map(
            |parts| {
                let mut at = 0;
                parts
                    .into_iter()
                    .map(|(gap, size)| {
                        let range = Range::new(at + gap * 2 * MIB, size * 2 * MIB);
                        at = range.end();
                        range
                    })
                    .collect()
            },
        )
    }

    proptest! {
        #[test]
        fn parts_are_inside_aligned_and_apart(
            ranges in any_ranges(),
            first in 0usize..8,
            size in 1u64..200 * MIB,
            initrd in 0u64..64 * MIB,
            boot in 1u64..0x10000,
            align in prop_oneof![Just(2 * MIB), Just(16 * MIB)],
            above_4g: bool,
            relocatable: bool,
        ) {
            let with_shared = ranges[first % ranges.len()];
            let shared = Range::new(with_shared.end() - 0x20000, 0x20000);
            let kernel = KernelNeed { align, above_4g, relocatable, ..need(size) };
            let request = Request { ranges: &ranges, shared, kernel, initrd, boot };
            if let Ok(layout) = plan(&request) {
                let mut parts = vec![layout.kernel, layout.boot];
                parts.extend(layout.initrd);
                prop_assert_eq!(layout.initrd.is_some(), initrd > 0);
                prop_assert!(layout.kernel.size >= size && layout.kernel.base >= 16 * MIB);
                prop_assert!(layout.kernel.base % align == 0);
                prop_assert!(layout.boot.size >= boot);
                prop_assert!(layout.initrd.is_none_or(|range| range.size >= initrd));
                for (i, part) in parts.iter().enumerate() {
                    prop_assert!(part.base % PAGE == 0 && part.size % PAGE == 0);
                    prop_assert!(ranges.iter().any(|range| range.contains(part)));
                    prop_assert!(!part.overlaps(&shared));
                    prop_assert!(above_4g || part.end() <= FOUR_GIB);
                    prop_assert!(parts[i + 1..].iter().all(|other| !part.overlaps(other)));
                }
            }
        }

        #[test]
        fn no_input_panics(
            ranges in proptest::collection::vec((any::<u64>(), any::<u64>()), 0..4),
            shared in (any::<u64>(), any::<u64>()),
            size: u64, initrd: u64, boot: u64, preferred: u64, lowest: u64,
            above_4g: bool, relocatable: bool, shift in 0u32..64,
        ) {
            let ranges: Vec<_> = ranges.into_iter().map(|(b, s)| Range::new(b, s)).collect();
            let kernel = KernelNeed {
                size, align: 1 << shift, preferred, lowest, relocatable, above_4g,
            };
            let shared = Range::new(shared.0, shared.1);
            let _ = plan(&Request { ranges: &ranges, shared, kernel, initrd, boot });
        }
    }
}
