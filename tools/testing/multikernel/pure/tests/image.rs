// SPDX-License-Identifier: GPL-2.0

//! `image::check` against a second check that is as naive as can be: every number is 128 bits wide,
//! so that nothing wraps, and every pair is looked at.

use kernel::error::{code::*, Result};
use multikernel_pure::{
    image::{check, Room, Segment, SEGMENTS_MAX},
    ledger::{InstanceId, MemoryLedger, Region, Request}, //
};
use proptest::prelude::*;

const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;

/// The instance's ranges: two that touch, as a segment must not straddle them; one above 4 GiB.
const RANGES: [(u64, u64); 3] = [
    (64 * MIB, 2 * MIB),
    (66 * MIB, 4 * MIB),
    (0x1_0000_0000, 2 * MIB),
];
const LOW: (u64, u64) = (0x10000, 0x10000);

fn region(base: u64, size: u64) -> Region {
    let mut ledger = MemoryLedger::new(PAGE);
    ledger.insert(base, size, 0, false).unwrap();
    let request = Request {
        size,
        ..Request::default()
    };
    ledger.take(&request, InstanceId::new(3).unwrap()).unwrap()
}

fn reference(segments: &[Segment], entry: u64, ranges: &[(u64, u64)]) -> Result<u64> {
    const WRAPS: u128 = 1 << 64;
    let wide = |segment: &Segment| {
        let start = u128::from(segment.mem);
        start..start + u128::from(segment.memsz)
    };
    let malformed = |segment: &Segment| {
        wide(segment).end >= WRAPS
            || u128::from(segment.buf) + u128::from(segment.bufsz) >= WRAPS
            || segment.memsz == 0
            || !segment.mem.is_multiple_of(PAGE)
            || !segment.memsz.is_multiple_of(PAGE)
            || segment.bufsz > segment.memsz
    };
    if segments.is_empty() || segments.len() > SEGMENTS_MAX || segments.iter().any(malformed) {
        return Err(EINVAL);
    }
    for (i, one) in segments.iter().enumerate() {
        for other in &segments[i + 1..] {
            if wide(one).start < wide(other).end && wide(other).start < wide(one).end {
                return Err(EINVAL);
            }
        }
    }
    let inside = |segment: &Segment| {
        ranges.iter().any(|&(base, size)| {
            let (base, size) = (u128::from(base), u128::from(size));
            base <= wide(segment).start && wide(segment).end <= base + size
        })
    };
    let entered = segments
        .iter()
        .any(|segment| wide(segment).contains(&u128::from(entry)));
    if !segments.iter().all(inside) || !entered {
        return Err(EADDRNOTAVAIL);
    }
    Ok(segments.iter().map(|segment| segment.memsz).sum())
}

/// An address at or beside a border.
fn border() -> impl Strategy<Value = u64> {
    let borders: Vec<u64> = RANGES
        .iter()
        .chain([&LOW, &(0, 0), &(1 << 52, 0)])
        .flat_map(|&(base, size)| [base, base + size])
        .collect();
    let offset = prop_oneof![
        12 => (-3i64..=3).prop_map(|pages| pages * PAGE as i64),
        1 => -2i64..=2,
    ];
    (prop::sample::select(borders), offset).prop_map(|(at, by)| at.wrapping_add_signed(by))
}

fn length() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => (1..=4u64).prop_map(|pages| pages * PAGE),
        2 => prop::sample::select(vec![2 * MIB - PAGE, 2 * MIB, 2 * MIB + PAGE, 4 * MIB, 6 * MIB]),
        1 => 0..2 * PAGE,
        1 => border().prop_map(|at| 0u64.wrapping_sub(at)),
    ]
}

prop_compose! {
    fn segment()(
        mem in border(),
        memsz in length(),
        buf in prop_oneof![9 => 0..1u64 << 47, 1 => u64::MAX - 2 * PAGE..],
        less in prop_oneof![4 => 0..2 * PAGE, 1 => Just(u64::MAX)],
    ) -> Segment {
        // Mostly at most `memsz`; now and then, by wrapping, one more.
        let bufsz = match less {
            u64::MAX => memsz.wrapping_add(1),
            _ => memsz.saturating_sub(less),
        };
        Segment { buf, bufsz, mem, memsz }
    }
}

/// Well-formed lists of pages side by side, so that what is near a border is not refused for
/// something else, with at most one thing wrong.
fn near_miss() -> impl Strategy<Value = Vec<Segment>> {
    let list = (
        prop::sample::select(RANGES.to_vec()),
        prop::collection::vec(1..6u64, 1..SEGMENTS_MAX + 2),
        any::<bool>(),
    );
    let list = list.prop_map(|((base, size), pages, from_end)| {
        let total: u64 = pages.iter().sum::<u64>() * PAGE;
        let mut mem = if from_end { base + size - total } else { base };
        let mut segments = Vec::new();
        for pages in pages {
            let memsz = pages * PAGE;
            segments.push(Segment {
                buf: 0x1000,
                bufsz: memsz - 1,
                mem,
                memsz,
            });
            mem += memsz;
        }
        segments
    });
    (list, any::<prop::sample::Index>(), 0..8, any::<u64>()).prop_map(
        |(mut segments, which, wrong, seed)| {
            let at = which.index(segments.len());
            let segment = &mut segments[at];
            match wrong {
                0 => segment.mem -= PAGE,
                1 => segment.mem += PAGE,
                2 => segment.memsz += PAGE,
                3 => segment.mem += 1,
                4 => segment.memsz -= 1,
                // The order must not matter.
                5 => segments.reverse(),
                6 => segments.rotate_left((seed % 16) as usize % at.max(1)),
                _ => {}
            }
            segments
        },
    )
}

fn entry() -> impl Strategy<Value = u64> {
    prop_oneof![3 => border(), 1 => 64 * MIB..70 * MIB, 1 => any::<u64>()]
}

fn compare(segments: &[Segment], entry: u64, with_low: bool) -> Result<u64> {
    let regions: Vec<Region> = RANGES
        .iter()
        .map(|&(base, size)| region(base, size))
        .collect();
    let low = region(LOW.0, LOW.1);
    let room = Room {
        ranges: &regions,
        low: with_low.then_some(&low),
    };
    let mut ranges = RANGES.to_vec();
    if with_low {
        ranges.push(LOW);
    }
    let got = check(segments, entry, &room);
    assert_eq!(got, reference(segments, entry, &ranges));
    got
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 20_000,
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn any_list(
        segments in prop::collection::vec(segment(), 0..4),
        entry in entry(),
        with_low: bool,
    ) {
        let _ = compare(&segments, entry, with_low);
    }

    #[test]
    fn a_list_with_one_thing_wrong(
        segments in near_miss(),
        which in any::<prop::sample::Index>(),
        by in 0..3 * PAGE,
    ) {
        let entry = segments[which.index(segments.len())].mem + by;
        let _ = compare(&segments, entry, false);
    }
}

/// The generators must not make only lists that are refused at once.
#[test]
fn all_answers_are_met() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};

    let mut runner = TestRunner::deterministic();
    let mut met = [0; 3];
    for _ in 0..2000 {
        let segments = near_miss().new_tree(&mut runner).unwrap().current();
        let got = compare(&segments, segments[0].mem, false);
        met[match got {
            Ok(_) => 0,
            Err(EINVAL) => 1,
            Err(_) => 2,
        }] += 1;
    }
    assert!(met.iter().all(|&count| count >= 50), "{met:?}");
}
