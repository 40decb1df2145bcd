// SPDX-License-Identifier: GPL-2.0

//! Links between two instances: granted, revoked, listed.

use std::fmt;
use std::io;

use multikernel_sys as sys;
use serde::Serialize;

use crate::explain::explain;
use crate::Error;

/// How it stands with two instances that are connected.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// One of them does not take part: it does not run, is not up yet, or cannot.
    Down,
    /// Their kernels can talk.
    Up,
    /// One of the kernels has not answered yet.
    Changing,
    /// Something that this library does not know.
    Unknown,
}

impl LinkState {
    fn from_abi(state: u32) -> Self {
        match state {
            sys::MULTIKERNEL_LINK_DOWN => Self::Down,
            sys::MULTIKERNEL_LINK_UP => Self::Up,
            sys::MULTIKERNEL_LINK_CHANGING => Self::Changing,
            _ => Self::Unknown,
        }
    }
}

impl fmt::Display for LinkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Down => "down",
            Self::Up => "up",
            Self::Changing => "changing",
            Self::Unknown => "unknown",
        })
    }
}

/// Two instances that are connected.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct LinkInfo {
    /// Their ids, the lower one first.
    pub ids: [u32; 2],
    /// How it stands.
    pub state: LinkState,
    /// Epoch of the link between their kernels, 0 unless it is up.
    pub epoch: u32,
}

impl LinkInfo {
    pub(super) fn from_abi(link: &sys::multikernel_link) -> Self {
        Self {
            ids: link.ids,
            state: LinkState::from_abi(link.state),
            epoch: link.epoch,
        }
    }

    /// The other one, if an instance is one of the two.
    pub fn peer_of(&self, id: u32) -> Option<u32> {
        match self.ids {
            [one, other] if one == id => Some(other),
            [other, one] if one == id => Some(other),
            _ => None,
        }
    }
}

/// What an errno of connect or disconnect means.
pub(super) fn explain_connect(asked: String, error: &io::Error) -> Error {
    let errno = error.raw_os_error();
    let (wrong, advice) = match errno {
        Some(libc::EISCONN) => ("they are linked already", "'mkctl inspect' shows how"),
        Some(libc::ENOLINK) => ("they are not linked", "'mkctl inspect' shows what is"),
        Some(libc::EINVAL) => (
            "an instance cannot be linked with itself",
            "Name two instances",
        ),
        Some(libc::ETIMEDOUT) => (
            "they are not linked any more, but a kernel has not said that it knows",
            "It may be busy, or hang; it is told again until it answers, or ends",
        ),
        Some(libc::EINTR) => (
            "they are not linked any more, but the wait for their kernels was interrupted",
            "They are told again until they answer, or end",
        ),
        _ => return explain(asked, error),
    };
    Error::new(asked, wrong)
        .advice(advice)
        .with_errno(errno.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_one() {
        let link = LinkInfo::from_abi(&sys::multikernel_link {
            ids: [3, 5],
            state: sys::MULTIKERNEL_LINK_UP,
            epoch: 7,
        });
        assert_eq!(link.peer_of(3), Some(5));
        assert_eq!(link.peer_of(5), Some(3));
        assert_eq!(link.peer_of(4), None);
        assert_eq!(link.state, LinkState::Up);
        assert_eq!(
            serde_json::to_string(&link).unwrap(),
            r#"{"ids":[3,5],"state":"up","epoch":7}"#
        );
    }

    #[test]
    fn states_of_a_newer_kernel() {
        assert_eq!(LinkState::from_abi(99), LinkState::Unknown);
        assert_eq!(format!("{:<9}|", LinkState::Changing), "changing |");
    }

    #[test]
    fn what_is_wrong() {
        for (errno, words) in [
            (libc::EISCONN, "linked already"),
            (libc::ENOLINK, "not linked."),
            (libc::EINVAL, "with itself"),
            (libc::ETIMEDOUT, "not linked any more"),
            (libc::EINTR, "interrupted"),
            (libc::ENOENT, "no such instance"),
        ] {
            let error = io::Error::from_raw_os_error(errno);
            let error = explain_connect("cannot link".to_owned(), &error);
            assert_eq!(error.errno(), Some(errno));
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}
