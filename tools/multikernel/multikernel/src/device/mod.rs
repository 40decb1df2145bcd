// SPDX-License-Identifier: GPL-2.0

//! `/dev/multikernel`: every ioctl, kexec_load(2), events and the mapped shared area, typed.
//!
//! [`Host`] is the device itself, [`Instance`] the fd of an instance, [`HostPeer`] the device
//! inside a spawn. All system calls of the library that concern instances are in `syscall`.

mod arena;
pub(crate) mod call;
mod cpus;
mod event;
mod host;
mod instance;
mod link;
mod session;
mod stats;
pub(crate) mod syscall;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use multikernel_sys as sys;
use serde::{Serialize, Serializer};

use crate::layout::Range;

pub use arena::{Arena, ArenaGrant, ArenaInfo, ArenaRequest};
pub use call::{Call, HostPeer, Peer};
pub use event::{Event, EventRead, Events};
pub use host::{CreateRequest, Host, HostInfo, DEVICE};
pub use instance::{Instance, InstanceInfo};
pub use link::{LinkInfo, LinkState};
pub use session::{Entry, EntryKind, Offer, Session, SessionInfo, SessionState};
pub use stats::{CpuStats, Lane, LaneEnds, LaneStats, LinkRates, LinkStats, PeerState, Rate};
pub use syscall::{ArenaMap, SharedMap};

/// Who owns a CPU or a piece of memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Owner {
    /// The host kernel uses it.
    Host,
    /// In the pool, lent to nobody.
    Pool,
    /// Lent to an instance.
    Instance,
    /// On the way from one to another.
    Transition,
    /// That of an arena.
    Arena,
    /// Something that this library does not know.
    Unknown,
}

impl Owner {
    fn from_abi(owner: u32) -> Self {
        match owner {
            sys::MULTIKERNEL_OWNER_HOST => Self::Host,
            sys::MULTIKERNEL_OWNER_POOL => Self::Pool,
            sys::MULTIKERNEL_OWNER_INSTANCE => Self::Instance,
            sys::MULTIKERNEL_OWNER_TRANSITION => Self::Transition,
            sys::MULTIKERNEL_OWNER_ARENA => Self::Arena,
            _ => Self::Unknown,
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Host => "host",
            Self::Pool => "pool",
            Self::Instance => "instance",
            Self::Transition => "transition",
            Self::Arena => "arena",
            Self::Unknown => "unknown",
        })
    }
}

/// State of an instance.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Being created.
    Empty,
    /// Holds CPUs and memory, no image.
    Ready,
    /// Has an image that can be started.
    Loaded,
    /// Its kernel runs.
    Running,
    /// A stop is being confirmed.
    Stopping,
    /// Ended on request.
    Stopped,
    /// Ended by itself.
    Crashed,
    /// A CPU is not confirmed parked.
    Failed,
    /// Destroyed; in events only.
    Gone,
    /// Something that this library does not know.
    Unknown,
}

impl State {
    fn from_abi(state: u32) -> Self {
        match state {
            sys::MULTIKERNEL_STATE_EMPTY => Self::Empty,
            sys::MULTIKERNEL_STATE_READY => Self::Ready,
            sys::MULTIKERNEL_STATE_LOADED => Self::Loaded,
            sys::MULTIKERNEL_STATE_RUNNING => Self::Running,
            sys::MULTIKERNEL_STATE_STOPPING => Self::Stopping,
            sys::MULTIKERNEL_STATE_STOPPED => Self::Stopped,
            sys::MULTIKERNEL_STATE_CRASHED => Self::Crashed,
            sys::MULTIKERNEL_STATE_FAILED => Self::Failed,
            sys::MULTIKERNEL_STATE_GONE => Self::Gone,
            _ => Self::Unknown,
        }
    }

    /// Whether its kernel may still be executing.
    pub fn is_live(self) -> bool {
        matches!(self, Self::Running | Self::Stopping)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Empty => "empty",
            Self::Ready => "ready",
            Self::Loaded => "loaded",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Crashed => "crashed",
            Self::Failed => "failed",
            Self::Gone => "gone",
            Self::Unknown => "unknown",
        })
    }
}

/// Why an instance is stopped, crashed or failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// It is not.
    None,
    /// Stopped by force.
    Forced,
    /// Powered off or halted by itself.
    Poweroff,
    /// Asked to be restarted.
    Restart,
    /// Its kernel panicked.
    Panic,
    /// A CPU did not reach the park code.
    NoConfirm,
    /// One of its CPUs took no interrupt for too long.
    Hung,
    /// Something that this library does not know.
    Unknown,
}

impl Reason {
    fn from_abi(reason: u32) -> Self {
        match reason {
            sys::MULTIKERNEL_REASON_NONE => Self::None,
            sys::MULTIKERNEL_REASON_FORCED => Self::Forced,
            sys::MULTIKERNEL_REASON_POWEROFF => Self::Poweroff,
            sys::MULTIKERNEL_REASON_RESTART => Self::Restart,
            sys::MULTIKERNEL_REASON_PANIC => Self::Panic,
            sys::MULTIKERNEL_REASON_NO_CONFIRM => Self::NoConfirm,
            sys::MULTIKERNEL_REASON_HUNG => Self::Hung,
            _ => Self::Unknown,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::None => "-",
            Self::Forced => "forced",
            Self::Poweroff => "poweroff",
            Self::Restart => "restart",
            Self::Panic => "panic",
            Self::NoConfirm => "no-confirm",
            Self::Hung => "hung",
            Self::Unknown => "unknown",
        })
    }
}

/// How long a CPU of a spawn may take no interrupt before the spawn counts as hung.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HangTimeout {
    /// So many milliseconds, in the bounds of the user ABI.
    Milliseconds(u32),
    /// However long.
    Never,
}

impl Default for HangTimeout {
    fn default() -> Self {
        Self::Milliseconds(sys::MULTIKERNEL_HANG_MS_DEFAULT)
    }
}

impl HangTimeout {
    /// As GET_INFO tells it: `None` where the instance was never started.
    fn from_abi(hang_ms: u32) -> Option<Self> {
        match hang_ms {
            0 => None,
            sys::MULTIKERNEL_HANG_NEVER => Some(Self::Never),
            milliseconds => Some(Self::Milliseconds(milliseconds)),
        }
    }

    fn to_abi(self) -> u32 {
        match self {
            Self::Milliseconds(milliseconds) => milliseconds,
            Self::Never => sys::MULTIKERNEL_HANG_NEVER,
        }
    }
}

impl FromStr for HangTimeout {
    type Err = String;

    /// Seconds, with a fraction if need be, or `never`.
    fn from_str(text: &str) -> Result<Self, String> {
        const MIN: Duration = Duration::from_millis(sys::MULTIKERNEL_HANG_MS_MIN as u64);
        const MAX: Duration = Duration::from_millis(sys::MULTIKERNEL_HANG_MS_MAX as u64);
        if text == "never" {
            return Ok(Self::Never);
        }
        let seconds = text.parse().map(Duration::try_from_secs_f64);
        match seconds {
            Ok(Ok(time)) if (MIN..=MAX).contains(&time) => {
                Ok(Self::Milliseconds(time.as_millis() as u32))
            }
            _ => Err(format!(
                "\"{text}\" is neither a number of seconds from {} to {} nor \"never\"",
                MIN.as_secs_f64(),
                MAX.as_secs()
            )),
        }
    }
}

impl fmt::Display for HangTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Milliseconds(milliseconds) => write!(f, "{} ms", milliseconds),
            Self::Never => f.write_str("never"),
        }
    }
}

/// A number of milliseconds, or `"never"`.
impl Serialize for HangTimeout {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Milliseconds(milliseconds) => serializer.serialize_u32(*milliseconds),
            Self::Never => serializer.serialize_str("never"),
        }
    }
}

/// One CPU of the machine.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct CpuInfo {
    /// The host's number of it.
    pub cpu: u32,
    /// Its APIC id.
    pub apic_id: u32,
    /// Its NUMA node.
    pub node: Option<u32>,
    /// Who owns it.
    pub owner: Owner,
    /// The instance that has it, 0 if none.
    pub id: u32,
    /// Whether the host runs on it.
    pub online: bool,
}

impl CpuInfo {
    fn from_abi(cpu: &sys::multikernel_cpu) -> Self {
        Self {
            cpu: cpu.cpu,
            apic_id: cpu.apic_id,
            node: u32::try_from(cpu.nid).ok(),
            owner: Owner::from_abi(cpu.owner),
            id: cpu.id,
            online: cpu.online != 0,
        }
    }
}

/// One piece of memory of the pool or of an instance.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct MemoryInfo {
    /// Physical address.
    pub base: u64,
    /// Bytes.
    pub size: u64,
    /// Its NUMA node.
    pub node: Option<u32>,
    /// Who owns it.
    pub owner: Owner,
    /// The instance or arena that has it, 0 if none.
    pub id: u32,
    /// Set aside at boot: it cannot leave the pool.
    pub boot: bool,
    /// Pages below 1 MiB.
    pub low: bool,
}

impl MemoryInfo {
    fn from_abi(range: &sys::multikernel_range) -> Self {
        Self {
            base: range.base,
            size: range.size,
            node: u32::try_from(range.nid).ok(),
            owner: Owner::from_abi(range.owner),
            id: range.id,
            boot: range.flags & sys::MULTIKERNEL_RANGE_BOOT != 0,
            low: range.flags & sys::MULTIKERNEL_RANGE_LOW != 0,
        }
    }

    /// As an address range.
    pub fn range(&self) -> Range {
        Range::new(self.base, self.size)
    }
}

/// A time as a field of the user ABI has it.
fn milliseconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

/// `sizeof` as the first field of every request has it.
pub(crate) const fn size_field<T>() -> u32 {
    size_of::<T>() as u32
}

/// A name as the user ABI has it; longer ones are cut to what the kernel then refuses.
fn name_field(name: &str) -> [u8; sys::MULTIKERNEL_NAME_LENGTH as usize] {
    let mut field = [0; sys::MULTIKERNEL_NAME_LENGTH as usize];
    let count = name.len().min(field.len());
    field[..count].copy_from_slice(&name.as_bytes()[..count]);
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(&name_field("web")[..4], b"web\0");
        assert_eq!(name_field(&"a".repeat(99)), [b'a'; 64]);
    }

    #[test]
    fn hang_timeouts() {
        assert_eq!("10".parse(), Ok(HangTimeout::default()));
        assert_eq!("0.1".parse(), Ok(HangTimeout::Milliseconds(100)));
        assert_eq!("3600".parse(), Ok(HangTimeout::Milliseconds(3_600_000)));
        assert_eq!("never".parse(), Ok(HangTimeout::Never));
        for bad in ["", "0", "0.09", "3601", "-1", "nan", "inf", "1e99", "10s"] {
            assert!(bad.parse::<HangTimeout>().is_err(), "{bad}");
        }
        assert_eq!(HangTimeout::from_abi(0), None);
        for timeout in [HangTimeout::Never, HangTimeout::Milliseconds(250)] {
            assert_eq!(HangTimeout::from_abi(timeout.to_abi()), Some(timeout));
        }
        let json = |timeout| serde_json::to_string(&timeout).unwrap();
        assert_eq!(json(HangTimeout::Never), "\"never\"");
        assert_eq!(json(HangTimeout::default()), "10000");
    }

    #[test]
    fn values_from_a_newer_kernel_are_unknown() {
        assert_eq!(Owner::from_abi(99), Owner::Unknown);
        assert_eq!(State::from_abi(99), State::Unknown);
        assert_eq!(Reason::from_abi(99), Reason::Unknown);
    }
}
