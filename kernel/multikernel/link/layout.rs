// SPDX-License-Identifier: GPL-2.0

//! Where in a link's memory things are. The pure part.
//!
//! Everything follows from the few numbers in [`LinkHeader`], which are checked here before
//! anything is used; so both sides compute the same places, and none is read from shared memory.
//!
//! | what | where |
//! | --- | --- |
//! | [`LinkHeader`] | page 0 |
//! | then for each side, from a page's beginning on: | |
//! | [`LinkState`] | 64 bytes |
//! | [`LinkBell`], as many as CPUs | 64 bytes each |
//! | [`LinkLane`], as many as lanes | 64 bytes each |
//! | lanes, each from a page's beginning on | [`LANE_HEAD_BYTES`] and the slots |
//! | data | from a page's beginning on |
//!
//! So a process that has a lane mapped has nothing else of the link.
//!
//! This file uses `core` alone, has no `unsafe` and needs no lock.

#![allow(unreachable_pub)]

use core::{
    fmt,
    mem::size_of, //
};

use crate::abi::{
    LinkBell,
    LinkHeader,
    LinkLane,
    LinkSide,
    LinkState,
    ABI_MINOR,
    LANE_ALIGN,
    LANE_HEAD_BYTES,
    LANE_SLOTS_MAX,
    LANE_SLOTS_MIN,
    LANE_SLOT_BYTES,
    LINK_CPUS_MAX,
    LINK_DATA_MAX,
    LINK_LANES_MAX,
    LINK_MAGIC, //
};

const PAGE: u64 = 4096;

/// Why a link's header is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// It is no header.
    Magic,
    /// Its version is not ours.
    Version(u32),
    /// Lanes of that many slots there are not.
    LaneSlots(u32),
    /// A side cannot have what this one has.
    Side(usize),
    /// The size is not what follows from the rest, or there is less memory.
    Size(u64),
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic => write!(f, "no header there"),
            Self::Version(version) => write!(f, "version {version}"),
            Self::LaneSlots(slots) => write!(f, "lanes of {slots} slots"),
            Self::Side(side) => write!(f, "side {side} is out of range"),
            Self::Size(size) => write!(f, "{size:#x} bytes cannot be"),
        }
    }
}

/// Where the parts of one side begin, in bytes from the link's beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Places {
    state: u64,
    bells: u64,
    directory: u64,
    lanes: u64,
    data: u64,
}

/// The layout of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    sides: [LinkSide; 2],
    places: [Places; 2],
    lane_slots: u32,
    epoch: u32,
    size: u64,
}

impl Layout {
    /// The layout of a link in which the sides have that much.
    ///
    /// # Errors
    ///
    /// [`Unusable`] if a number is out of its range.
    pub fn new(sides: [LinkSide; 2], lane_slots: u32, epoch: u32) -> Result<Self, Unusable> {
        let slots = LANE_SLOTS_MIN..=LANE_SLOTS_MAX;
        if !lane_slots.is_power_of_two() || !slots.contains(&lane_slots) {
            return Err(Unusable::LaneSlots(lane_slots));
        }
        let mut end = PAGE;
        let mut place = |number: usize| {
            let side = sides[number];
            if !(1..=LINK_CPUS_MAX).contains(&side.cpus)
                || !(1..=LINK_LANES_MAX).contains(&side.lanes)
                || side.data_bytes > LINK_DATA_MAX
                || u64::from(side.data_bytes) % PAGE != 0
            {
                return Err(Unusable::Side(number));
            }
            // No sum or product comes near 2^64 within these bounds.
            let state = end;
            let bells = state + size_of::<LinkState>() as u64;
            let directory = bells + u64::from(side.cpus) * size_of::<LinkBell>() as u64;
            let lanes = (directory + u64::from(side.lanes) * size_of::<LinkLane>() as u64)
                .next_multiple_of(LANE_ALIGN);
            let data = lanes + u64::from(side.lanes) * lane_bytes(lane_slots);
            end = data + u64::from(side.data_bytes);
            Ok(Places {
                state,
                bells,
                directory,
                lanes,
                data,
            })
        };
        let places = [place(0)?, place(1)?];
        Ok(Self {
            sides,
            places,
            lane_slots,
            epoch,
            size: end,
        })
    }

    /// The layout of a link whose memory has `available` bytes and begins with a copy of this
    /// header, as a kernel with this version of the ABI has it. What a newer minor version has
    /// appended behind it is left alone.
    ///
    /// # Errors
    ///
    /// Why it cannot be used.
    pub fn of_header(header: &LinkHeader, available: u64, version: u32) -> Result<Self, Unusable> {
        if header.magic != LINK_MAGIC {
            return Err(Unusable::Magic);
        }
        if header.version != version {
            return Err(Unusable::Version(header.version));
        }
        let layout = Self::new(header.sides, header.lane_slots, header.epoch)?;
        let fits = if header.minor > ABI_MINOR {
            layout.size <= header.size
        } else {
            layout.size == header.size
        };
        if !fits || header.size > available {
            return Err(Unusable::Size(header.size));
        }
        Ok(layout)
    }

    /// Bytes of the link's memory: a multiple of 4096.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Slots of each lane.
    pub fn lane_slots(&self) -> u32 {
        self.lane_slots
    }

    /// Epoch of the link.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// What a side has; sides are 0 and 1.
    pub fn side(&self, side: usize) -> &LinkSide {
        &self.sides[side & 1]
    }

    fn places(&self, side: usize) -> &Places {
        &self.places[side & 1]
    }

    /// Where a side's [`LinkState`] is.
    pub fn state(&self, side: usize) -> u64 {
        self.places(side).state
    }

    /// Where the [`LinkBell`] of a side's CPU is; `None` if it has no such CPU.
    pub fn bell(&self, side: usize, cpu: u32) -> Option<u64> {
        (cpu < self.side(side).cpus)
            .then(|| self.places(side).bells + u64::from(cpu) * size_of::<LinkBell>() as u64)
    }

    /// Where the [`LinkLane`] of a lane is in which a side sends; `None` if there is no such lane.
    pub fn directory(&self, side: usize, lane: u32) -> Option<u64> {
        (lane < self.side(side).lanes)
            .then(|| self.places(side).directory + u64::from(lane) * size_of::<LinkLane>() as u64)
    }

    /// Where a lane is in which a side sends; `None` if there is no such lane.
    pub fn lane(&self, side: usize, lane: u32) -> Option<u64> {
        (lane < self.side(side).lanes)
            .then(|| self.places(side).lanes + u64::from(lane) * lane_bytes(self.lane_slots))
    }

    /// Where a side's data begins.
    pub fn data(&self, side: usize) -> u64 {
        self.places(side).data
    }
}

/// Bytes of a lane: whole pages.
pub fn lane_bytes(slots: u32) -> u64 {
    ((LANE_HEAD_BYTES + slots as usize * LANE_SLOT_BYTES) as u64).next_multiple_of(LANE_ALIGN)
}

#[cfg(any(test, CONFIG_MULTIKERNEL_KUNIT_TEST))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(multikernel_link_layout))]
mod tests {
    use super::*;
    use crate::abi::ABI_VERSION;

    const SIDES: [LinkSide; 2] = [
        LinkSide {
            id: 0,
            cpus: 4,
            lanes: 8,
            data_bytes: 4096,
        },
        LinkSide {
            id: 3,
            cpus: 2,
            lanes: 3,
            data_bytes: 0,
        },
    ];

    fn header(layout: &Layout) -> LinkHeader {
        LinkHeader {
            magic: LINK_MAGIC,
            version: ABI_VERSION,
            minor: 0,
            epoch: layout.epoch(),
            lane_slots: layout.lane_slots(),
            size: layout.size(),
            features: 0,
            sides: SIDES,
        }
    }

    #[test]
    fn nothing_overlaps() {
        let layout = Layout::new(SIDES, 64, 1);
        let Ok(layout) = layout else {
            assert!(layout.is_ok());
            return;
        };
        let mut end = PAGE;
        let mut next = |place: Option<u64>, bytes: u64| {
            assert!(place.is_some_and(|place| place >= end));
            end = place.unwrap_or(0) + bytes;
        };
        for (side, has) in SIDES.iter().enumerate() {
            next(Some(layout.state(side)), 64);
            (0..has.cpus).for_each(|cpu| next(layout.bell(side, cpu), 64));
            (0..has.lanes).for_each(|lane| next(layout.directory(side, lane), 64));
            (0..has.lanes).for_each(|lane| next(layout.lane(side, lane), lane_bytes(64)));
            next(Some(layout.data(side)), has.data_bytes.into());
            assert_eq!(layout.bell(side, has.cpus), None);
            assert_eq!(layout.lane(side, has.lanes), None);
            assert_eq!(layout.directory(side, has.lanes), None);
            assert_eq!(layout.lane(side, 0).map(|at| at % PAGE), Some(0));
            assert_eq!(layout.lane(side, 1).map(|at| at % PAGE), Some(0));
        }
        assert_eq!(end, layout.size());
        assert_eq!(layout.size() % PAGE, 0);
    }

    #[test]
    fn a_header_is_checked() {
        let layout = Layout::new(SIDES, 64, 7);
        let Ok(layout) = layout else {
            assert!(layout.is_ok());
            return;
        };
        let size = layout.size();
        let good = header(&layout);
        let refused = |bad: LinkHeader| Layout::of_header(&bad, size, ABI_VERSION).err();
        assert_eq!(Layout::of_header(&good, size, ABI_VERSION), Ok(layout));
        assert_eq!(
            Layout::of_header(&good, size - 1, ABI_VERSION),
            Err(Unusable::Size(size))
        );
        assert_eq!(
            refused(LinkHeader { magic: 0, ..good }),
            Some(Unusable::Magic)
        );
        assert_eq!(
            refused(LinkHeader { version: 2, ..good }),
            Some(Unusable::Version(2))
        );
        // One of version 2 takes only its own.
        assert_eq!(Layout::of_header(&good, size, 2), Err(Unusable::Version(1)));
        for slots in [0, 8, 65, 1 << 17] {
            assert_eq!(
                refused(LinkHeader {
                    lane_slots: slots,
                    ..good
                }),
                Some(Unusable::LaneSlots(slots))
            );
        }
        for side in [
            LinkSide {
                cpus: 0,
                ..SIDES[1]
            },
            LinkSide {
                cpus: 513,
                ..SIDES[1]
            },
            LinkSide {
                lanes: 0,
                ..SIDES[1]
            },
            LinkSide {
                lanes: u32::MAX,
                ..SIDES[1]
            },
            LinkSide {
                data_bytes: 4095,
                ..SIDES[1]
            },
            LinkSide {
                data_bytes: 0xffff_f000,
                ..SIDES[1]
            },
        ] {
            let sides = [SIDES[0], side];
            assert_eq!(
                refused(LinkHeader { sides, ..good }),
                Some(Unusable::Side(1))
            );
        }
        let more = [
            SIDES[0],
            LinkSide {
                lanes: 4,
                ..SIDES[1]
            },
        ];
        assert_eq!(
            refused(LinkHeader {
                sides: more,
                ..good
            }),
            Some(Unusable::Size(size))
        );
    }
}
