// SPDX-License-Identifier: GPL-2.0

//! Checks the host's part of the shared header: from bytes that anybody may have written to facts.
//!
//! Pure; takes a copy, so that what was checked is what is used. Owns nothing and needs no lock.

use core::fmt;

use super::clock::{
    Clock,
    Wall, //
};
use crate::abi::{
    SharedHeader,
    SHARED_MAGIC, //
};

/// Ids are 1 to this; `MULTIKERNEL_ID_MAX` in `include/uapi/linux/multikernel.h`.
const ID_MAX: u32 = 2047;

/// The slowest clock that is believed, in kHz. No x86-64 CPU comes near it.
const KHZ_MIN: u32 = 1_000;

/// The host's doorbell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Doorbell {
    /// APIC id to ring.
    pub(super) apic_id: u32,
    /// Vector, 32..=255.
    pub(super) vector: u32,
}

/// What the host told, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// This instance's id.
    pub(super) id: u32,
    /// Which life of the instance this is.
    pub(super) epoch: u32,
    /// Clocks.
    pub(super) clock: Clock,
    /// How to reach the host, if it can be reached.
    pub(super) host: Option<Doorbell>,
    /// Where this life's console output begins.
    pub(super) console_start: u64,
    /// Physical address and size of the link to the host, if there is one.
    pub(super) link: Option<(u64, u64)>,
}

/// Why a header is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Magic,
    Version(u32),
    Id(u32),
    Epoch,
    TscFrequency(u32),
    LapicFrequency(u32),
    WallClock(u32),
    Vector(u32),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic => write!(f, "no header there"),
            Self::Version(version) => {
                write!(f, "version {version}, which this kernel does not know")
            }
            Self::Id(id) => write!(f, "instance id {id}"),
            Self::Epoch => write!(f, "epoch 0"),
            Self::TscFrequency(khz) => write!(f, "TSC of {khz} kHz"),
            Self::LapicFrequency(khz) => write!(f, "local APIC timer of {khz} kHz"),
            Self::WallClock(nanoseconds) => write!(f, "{nanoseconds} nanoseconds in a second"),
            Self::Vector(vector) => write!(f, "doorbell vector {vector}"),
        }
    }
}

/// The version and minor version of this kernel.
#[derive(Clone, Copy)]
pub(super) struct Ours {
    pub(super) version: u32,
    pub(super) minor: u32,
}

/// Checks a header.
///
/// # Errors
///
/// The first field that cannot be right.
pub(super) fn check(header: &SharedHeader, ours: Ours) -> Result<Facts, Refusal> {
    if header.magic != SHARED_MAGIC {
        return Err(Refusal::Magic);
    }
    if header.version != ours.version {
        return Err(Refusal::Version(header.version));
    }
    if header.id == 0 || header.id > ID_MAX {
        return Err(Refusal::Id(header.id));
    }
    if header.epoch == 0 {
        return Err(Refusal::Epoch);
    }
    let tsc_khz = frequency(header.tsc_khz).ok_or(Refusal::TscFrequency(header.tsc_khz))?;
    let lapic_khz = frequency(header.lapic_khz).ok_or(Refusal::LapicFrequency(header.lapic_khz))?;
    if header.wall_nanoseconds >= 1_000_000_000 {
        return Err(Refusal::WallClock(header.wall_nanoseconds));
    }
    let host = match header.host_vector {
        0 => None,
        vector @ 32..=255 => Some(Doorbell {
            apic_id: header.host_apic_id,
            vector,
        }),
        vector => return Err(Refusal::Vector(vector)),
    };
    Ok(Facts {
        id: header.id,
        epoch: header.epoch,
        clock: Clock {
            tsc_khz,
            lapic_khz,
            wall: Wall {
                seconds: header.wall_seconds,
                nanoseconds: header.wall_nanoseconds,
                tsc: header.wall_tsc,
            },
        },
        host,
        console_start: header.console_start,
        // A host of minor version 0 has zeroes there, and a spawn of that does not know it.
        link: (header.minor.min(ours.minor) >= 1 && header.link_base != 0)
            .then_some((header.link_base, header.link_size)),
    })
}

/// Sorts a frequency into known, not known, and (outer `None`) impossible.
fn frequency(khz: u32) -> Option<Option<u32>> {
    match khz {
        0 => Some(None),
        KHZ_MIN.. => Some(Some(khz)),
        _ => None,
    }
}

#[cfg(any(test, CONFIG_MULTIKERNEL_KUNIT_TEST))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(multikernel_guest_header))]
mod tests {
    use super::*;
    use crate::abi::{
        ABI_MINOR,
        ABI_VERSION,
        MESSAGE_LENGTH,
        NAME_LENGTH, //
    };

    const OURS: Ours = Ours {
        version: ABI_VERSION,
        minor: ABI_MINOR,
    };

    fn good() -> SharedHeader {
        SharedHeader {
            magic: SHARED_MAGIC,
            version: ABI_VERSION,
            id: 7,
            epoch: 1,
            request: 0,
            host_features: 0,
            tsc_khz: 2_500_000,
            lapic_khz: 1_000_000,
            wall_seconds: 1_700_000_000,
            wall_nanoseconds: 999_999_999,
            host_apic_id: 3,
            wall_tsc: 12345,
            host_vector: 247,
            minor: 1,
            link_base: 0,
            link_size: 0,
            console_start: 99,
            name: [0; NAME_LENGTH],
            reserved1: [0; 96],
            guest_state: 0,
            guest_vector: 0,
            guest_apic_id: 0,
            guest_cpus: 0,
            guest_features: 0,
            vmcoreinfo_base: 0,
            vmcoreinfo_size: 0,
            end_apic_id: 0,
            end_message: [0; MESSAGE_LENGTH],
            guest_version: 0,
            guest_minor: 0,
            guest_refused: 0,
            reserved2: 0,
        }
    }

    #[test]
    fn good_header_gives_its_facts() {
        let facts = check(&good(), OURS);
        assert!(facts.is_ok_and(|facts| facts.id == 7
            && facts.console_start == 99
            && facts.clock.tsc_khz == Some(2_500_000)
            && facts.host
                == Some(Doorbell {
                    apic_id: 3,
                    vector: 247
                })));
    }

    #[test]
    fn a_link_needs_a_minor_version_of_both() {
        let header = |minor| SharedHeader {
            minor,
            link_base: 0x1000,
            link_size: 0x2000,
            ..good()
        };
        let link = |theirs, minor| {
            let ours = Ours { minor, ..OURS };
            check(&header(theirs), ours)
                .ok()
                .and_then(|facts| facts.link)
        };
        assert_eq!(link(0, ABI_MINOR), None);
        assert_eq!(link(1, 0), None);
        assert_eq!(link(1, 1), Some((0x1000, 0x2000)));
        assert_eq!(link(99, ABI_MINOR), Some((0x1000, 0x2000)));
    }

    #[test]
    fn unknown_is_not_wrong() {
        let mut header = good();
        header.tsc_khz = 0;
        header.lapic_khz = 0;
        header.host_vector = 0;
        let facts = check(&header, OURS);
        assert!(facts.is_ok_and(|facts| facts.clock.tsc_khz.is_none()
            && facts.clock.lapic_khz.is_none()
            && facts.host.is_none()));
    }

    #[test]
    fn each_wrong_field_is_refused() {
        let refused = |change: fn(&mut SharedHeader)| {
            let mut header = good();
            change(&mut header);
            check(&header, OURS).err()
        };
        assert_eq!(refused(|header| header.magic = 0), Some(Refusal::Magic));
        assert_eq!(
            refused(|header| header.version = 2),
            Some(Refusal::Version(2))
        );
        assert_eq!(refused(|header| header.id = 0), Some(Refusal::Id(0)));
        assert_eq!(refused(|header| header.id = 2048), Some(Refusal::Id(2048)));
        assert_eq!(refused(|header| header.epoch = 0), Some(Refusal::Epoch));
        assert_eq!(
            refused(|header| header.tsc_khz = 999),
            Some(Refusal::TscFrequency(999))
        );
        assert_eq!(
            refused(|header| header.lapic_khz = 1),
            Some(Refusal::LapicFrequency(1))
        );
        assert_eq!(
            refused(|header| header.wall_nanoseconds = 1_000_000_000),
            Some(Refusal::WallClock(1_000_000_000))
        );
        assert_eq!(
            refused(|header| header.host_vector = 31),
            Some(Refusal::Vector(31))
        );
        assert_eq!(
            refused(|header| header.host_vector = 256),
            Some(Refusal::Vector(256))
        );
    }
}
