// SPDX-License-Identifier: GPL-2.0

//! Which version of the ABI this kernel speaks, and what it makes of a spawn kernel that speaks
//! another.
//!
//! Each kernel says its version and minor version in what it writes for the other (`abi.rs`). Of
//! another minor version it uses what both know. Of another version it uses nothing: a spawn that
//! finds one says so in the shared area, at a place that all versions have in common, and the host
//! refuses calls and ports to it.
//!
//! With `CONFIG_MULTIKERNEL_FAULT_INJECTION` a host, and with
//! `CONFIG_MULTIKERNEL_GUEST_CRASH_TEST` a spawn, can be made to pass for one of another version;
//! see [`claim`]. No lock: each claim is one atomic word.

use core::mem::offset_of;

use kernel::prelude::*;

use crate::{
    abi::{
        self,
        SharedHeader, //
    },
    instance::Instance, //
};

/// What a spawn kernel has said of versions.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Nothing that is against talking to it.
    Fits,
    /// It has this version, and refuses ours.
    Refuses(u32),
    /// It has this version, and says so although it goes on: we refuse it.
    Refused(u32),
}

/// That the spawn kernel of an instance and this one have a version in common, as far as it has
/// said. If not, the log says so once in a life.
///
/// # Errors
///
/// `EPROTONOSUPPORT`.
pub(crate) fn check(instance: &mut Instance) -> Result {
    let verdict = verdict(instance);
    if verdict == Verdict::Fits {
        return Ok(());
    }
    if instance.refusal_told != instance.epoch {
        instance.refusal_told = instance.epoch;
        let (id, ours) = (instance.id.get(), claim::version());
        match verdict {
            Verdict::Refused(theirs) => pr_warn!(
                "instance {}: its kernel has ABI version {}, this one {}: not talked to\n",
                id,
                theirs,
                ours
            ),
            Verdict::Refuses(theirs) => pr_warn!(
                "instance {}: its kernel refuses ABI version {}, it has {}: not talked to\n",
                id,
                ours,
                theirs
            ),
            Verdict::Fits => {}
        }
    }
    Err(EPROTONOSUPPORT)
}

fn verdict(instance: &Instance) -> Verdict {
    let word = |offset: usize| instance.shared.read_u32(offset as u64);
    let theirs = word(offset_of!(SharedHeader, guest_version));
    if word(offset_of!(SharedHeader, guest_refused)) != abi::REFUSED_NOTHING {
        return Verdict::Refuses(theirs);
    }
    // A spawn of a minor version below 2 says neither.
    let foreign = |version: u32| version != 0 && version != claim::version();
    let in_link = instance
        .link
        .as_ref()
        .map_or(0, |link| link.region.version(link.peer()));
    [theirs, in_link]
        .into_iter()
        .find(|version| foreign(*version))
        .map_or(Verdict::Fits, Verdict::Refused)
}

/// What this kernel says of itself.
#[cfg(not(any(
    CONFIG_MULTIKERNEL_FAULT_INJECTION,
    CONFIG_MULTIKERNEL_GUEST_CRASH_TEST
)))]
pub(crate) mod claim {
    use crate::abi;

    /// Its version.
    pub(crate) fn version() -> u32 {
        abi::ABI_VERSION
    }

    /// Its version, as the header of a link says.
    pub(crate) fn link_version() -> u32 {
        abi::ABI_VERSION
    }

    /// Its minor version.
    pub(crate) fn minor() -> u32 {
        abi::ABI_MINOR
    }

    /// Whether it says its version at all.
    pub(crate) fn says_version() -> bool {
        true
    }

    /// Feature bits that nobody knows, and what is in fields that nobody knows.
    pub(crate) fn features() -> u64 {
        0
    }

    /// Bytes that have been appended to a link.
    pub(crate) fn appended() -> u64 {
        0
    }
}

/// What this kernel says of itself, which may not be true.
#[cfg(any(
    CONFIG_MULTIKERNEL_FAULT_INJECTION,
    CONFIG_MULTIKERNEL_GUEST_CRASH_TEST
))]
pub(crate) mod claim {
    use kernel::sync::atomic::{
        Atomic,
        Relaxed, //
    };

    use crate::abi;

    /// The version that is said.
    pub(crate) static VERSION: Atomic<u32> = Atomic::new(abi::ABI_VERSION);
    /// That in the header of a link.
    pub(crate) static LINK_VERSION: Atomic<u32> = Atomic::new(abi::ABI_VERSION);
    /// The minor version that is said. With one that is above this kernel's, fields and feature
    /// bits that nobody knows yet are not 0.
    pub(crate) static MINOR: Atomic<u32> = Atomic::new(abi::ABI_MINOR);

    /// Its version.
    pub(crate) fn version() -> u32 {
        VERSION.load(Relaxed)
    }

    /// Its version, as the header of a link says.
    pub(crate) fn link_version() -> u32 {
        LINK_VERSION.load(Relaxed)
    }

    /// Its minor version.
    pub(crate) fn minor() -> u32 {
        MINOR.load(Relaxed)
    }

    /// Whether it says its version at all.
    pub(crate) fn says_version() -> bool {
        version() != 1 || minor() >= 2
    }

    /// Feature bits that nobody knows, and what is in fields that nobody knows.
    pub(crate) fn features() -> u64 {
        if minor() > abi::ABI_MINOR {
            !0 << 32
        } else {
            0
        }
    }

    /// Bytes that have been appended to a link.
    pub(crate) fn appended() -> u64 {
        if minor() > abi::ABI_MINOR {
            4096
        } else {
            0
        }
    }
}
