// SPDX-License-Identifier: GPL-2.0

//! An instance: its name, its state, what it holds.
//!
//! ```text
//! Empty -> Ready -> Loaded -> Running -> Stopping -> Stopped | Crashed
//!            ^         ^                    |
//!            |         +-- another load ----+-------------> Failed -> Stopping
//!            +-- unload
//! ```
//!
//! Everything here is guarded by the registry's mutex; see [`crate::registry`] for how a call gets
//! an instance to itself.

use kernel::{
    cpu::CpuId,
    prelude::*,
    sync::Arc,
    uapi, //
};

use crate::{
    abi,
    arch::identity_map::IdentityMap,
    cpu::Held,
    image::Room,
    ledger::{InstanceId, Region},
    link::{
        outbox::Link,
        region, //
    },
    memory::SharedPages,
    pulse::Pulse,
    registry::Subsystem, //
};

/// Which instance a file descriptor means: an id can be used again, a serial number is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Handle {
    pub(crate) id: InstanceId,
    pub(crate) serial: u64,
}

/// A name of 1 to 63 bytes of `[A-Za-z0-9._-]` that is neither `.` nor `..`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Name([u8; abi::NAME_LENGTH]);

impl Name {
    /// Checks a name that fills a field of fixed size and ends with a zero byte.
    ///
    /// # Errors
    ///
    /// `ENAMETOOLONG` if there is no zero byte; `EINVAL` if it is empty, has other characters or
    /// something behind the zero byte, or is `.` or `..`.
    pub(crate) fn new(field: &[u8; abi::NAME_LENGTH]) -> Result<Self> {
        let length = field.iter().position(|&byte| byte == 0);
        let (name, rest) = field.split_at(length.ok_or(ENAMETOOLONG)?);
        let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
        if name.is_empty()
            || name == b"."
            || name == b".."
            || !name.iter().all(allowed)
            || rest.iter().any(|&byte| byte != 0)
        {
            return Err(EINVAL);
        }
        Ok(Self(*field))
    }

    /// The name in a field of fixed size.
    pub(crate) fn field(&self) -> &[u8; abi::NAME_LENGTH] {
        &self.0
    }

    /// The name.
    pub(crate) fn as_str(&self) -> &str {
        let name = self.0.split(|&byte| byte == 0).next().unwrap_or(&[]);
        core::str::from_utf8(name).unwrap_or("")
    }
}

/// What an instance is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// Being created or destroyed.
    Empty,
    /// Holds CPUs and memory.
    Ready,
    /// Has an image that can be started.
    Loaded,
    /// Its spawn kernel runs.
    Running,
    /// A stop is being confirmed.
    Stopping,
    /// Ended on request.
    Stopped,
    /// Ended by itself.
    Crashed,
    /// A CPU is not confirmed parked.
    Failed,
}

impl State {
    /// `MULTIKERNEL_STATE_*`.
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Empty => uapi::MULTIKERNEL_STATE_EMPTY,
            Self::Ready => uapi::MULTIKERNEL_STATE_READY,
            Self::Loaded => uapi::MULTIKERNEL_STATE_LOADED,
            Self::Running => uapi::MULTIKERNEL_STATE_RUNNING,
            Self::Stopping => uapi::MULTIKERNEL_STATE_STOPPING,
            Self::Stopped => uapi::MULTIKERNEL_STATE_STOPPED,
            Self::Crashed => uapi::MULTIKERNEL_STATE_CRASHED,
            Self::Failed => uapi::MULTIKERNEL_STATE_FAILED,
        }
    }
}

/// Why an instance is not running any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reason {
    /// It has not ended.
    None,
    /// Stopped by force.
    Forced,
    /// The spawn powered off or halted.
    Poweroff,
    /// The spawn asked to be restarted.
    Restart,
    /// The spawn's kernel panicked.
    Panic,
    /// A CPU did not reach the park code.
    NoConfirm,
    /// One of its CPUs took no interrupts for too long.
    Hung,
}

impl Reason {
    /// `MULTIKERNEL_REASON_*`.
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::None => uapi::MULTIKERNEL_REASON_NONE,
            Self::Forced => uapi::MULTIKERNEL_REASON_FORCED,
            Self::Poweroff => uapi::MULTIKERNEL_REASON_POWEROFF,
            Self::Restart => uapi::MULTIKERNEL_REASON_RESTART,
            Self::Panic => uapi::MULTIKERNEL_REASON_PANIC,
            Self::NoConfirm => uapi::MULTIKERNEL_REASON_NO_CONFIRM,
            Self::Hung => uapi::MULTIKERNEL_REASON_HUNG,
        }
    }

    /// What a spawn says of its own end in `SharedHeader::guest_state`; `None` if it has not ended,
    /// or says something that has no meaning.
    pub(crate) fn from_guest(state: u32) -> Option<Self> {
        match state {
            abi::GUEST_POWEROFF => Some(Self::Poweroff),
            abi::GUEST_RESTART => Some(Self::Restart),
            abi::GUEST_PANIC => Some(Self::Panic),
            _ => None,
        }
    }
}

/// An image that can be started, once.
#[derive(Clone, Copy)]
pub(crate) struct Image {
    /// Where the boot CPU enters it.
    pub(crate) entry: u64,
    /// Sum of its segments in memory.
    pub(crate) bytes: u64,
}

/// What an instance owns. Values, not descriptions: whoever has them can use them.
pub(crate) struct Holdings {
    /// Its CPUs; the first is the boot CPU.
    pub(crate) cpus: KVec<Held>,
    /// Its memory.
    pub(crate) memory: KVec<Region>,
    /// Its pages below 1 MiB.
    pub(crate) low: Region,
    /// Page tables for its entry.
    pub(crate) tables: IdentityMap,
}

impl Holdings {
    /// Where segments and entry may be.
    pub(crate) fn room(&self) -> Room<'_> {
        Room {
            ranges: &self.memory,
            low: Some(&self.low),
        }
    }

    /// The region that `size` bytes at `base` are in.
    pub(crate) fn region(&self, base: u64, size: u64) -> Option<&Region> {
        Iterator::chain(self.memory.iter(), [&self.low]).find(|region| region.contains(base, size))
    }
}

/// A range that an instance holds, for those who only want to know.
#[derive(Clone, Copy)]
pub(crate) struct RangeInfo {
    pub(crate) base: u64,
    pub(crate) size: u64,
    pub(crate) nid: i32,
    pub(crate) low: bool,
}

/// An instance.
pub(crate) struct Instance {
    pub(crate) id: InstanceId,
    pub(crate) serial: u64,
    pub(crate) name: Name,
    pub(crate) state: State,
    pub(crate) reason: Reason,
    /// How often it has been started.
    pub(crate) epoch: u32,
    /// In which epoch the log has said that its kernel has another version of the ABI.
    pub(crate) refusal_told: u32,
    /// The CPUs that it was given, in that order.
    pub(crate) cpus: KVec<CpuId>,
    /// How many it may have in this life, or had in the last.
    pub(crate) cpus_max: usize,
    /// Whether a call is about to give it CPUs of the host: it is not destroyed meanwhile.
    pub(crate) gains: bool,
    /// The ranges that it was given, in that order, then those below 1 MiB. Fixed for its life.
    pub(crate) ranges: KVec<RangeInfo>,
    /// The area that it shares with the host.
    pub(crate) shared: Arc<SharedPages>,
    /// Its link to the host, in this life.
    pub(crate) link: Option<Arc<Link>>,
    /// The memory of a link that has ended while a CPU was not known to be parked, which may still
    /// use it.
    pub(crate) unparked: Option<Arc<region::Region>>,
    /// Its link's last request for a session that was looked at.
    pub(crate) session_requests: u64,
    /// How many events there have been about it.
    pub(crate) events: u64,
    /// How its CPUs are watched while it runs.
    pub(crate) pulse: Pulse,
    /// What can be started.
    pub(crate) image: Option<Image>,
    /// What it owns; `None` while a call works on it.
    pub(crate) holdings: Option<Holdings>,
}

impl Instance {
    /// Its handle.
    pub(crate) fn handle(&self) -> Handle {
        Handle {
            id: self.id,
            serial: self.serial,
        }
    }

    /// Changes its state, and tells those who want to know.
    pub(crate) fn change(&mut self, subsystem: &Subsystem, state: State, reason: Reason) {
        let before = (self.state, self.reason);
        self.state = state;
        self.reason = reason;
        if before != (state, reason) {
            subsystem.events().note(self, state.number());
        }
    }

    /// Whether a spawn kernel runs in it, or may run in it as nobody has confirmed that none does.
    pub(crate) fn may_run(&self) -> bool {
        matches!(self.state, State::Running | State::Stopping | State::Failed)
    }

    /// That no spawn kernel runs in it or may run in it, and that it is not being made or undone.
    ///
    /// # Errors
    ///
    /// `EBUSY`.
    pub(crate) fn check_idle(&self) -> Result {
        match self.state {
            State::Ready | State::Loaded | State::Stopped | State::Crashed => Ok(()),
            State::Empty | State::Running | State::Stopping | State::Failed => Err(EBUSY),
        }
    }
}

#[cfg(CONFIG_MULTIKERNEL_KUNIT_TEST)]
#[kunit_tests(multikernel_instance)]
mod tests {
    use super::*;

    fn field(name: &[u8]) -> [u8; abi::NAME_LENGTH] {
        let mut field = [0; abi::NAME_LENGTH];
        for (to, from) in field.iter_mut().zip(name) {
            *to = *from;
        }
        field
    }

    #[test]
    fn names() {
        assert!(Name::new(&field(b"web-1.example_x")).is_ok());
        assert!(Name::new(&field(&[b'a'; 63])).is_ok());
        let refused = |name: &[u8], error| Name::new(&field(name)).err() == Some(error);
        assert!(refused(&[b'a'; 64], ENAMETOOLONG));
        assert!(refused(b"", EINVAL));
        assert!(refused(b".", EINVAL));
        assert!(refused(b"..", EINVAL));
        assert!(refused(b"a/b", EINVAL));
        assert!(refused(b"a b", EINVAL));
        assert!(refused(b"a\xff", EINVAL));
        assert!(refused(b"a\0b", EINVAL));
    }

    #[test]
    fn a_guest_can_say_only_so_much() {
        assert!(Reason::from_guest(abi::GUEST_SILENT).is_none());
        assert!(Reason::from_guest(abi::GUEST_RUNNING).is_none());
        assert_eq!(Reason::from_guest(abi::GUEST_PANIC), Some(Reason::Panic));
        assert!(Reason::from_guest(u32::MAX).is_none());
    }
}
