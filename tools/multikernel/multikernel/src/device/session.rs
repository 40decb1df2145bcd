// SPDX-License-Identifier: GPL-2.0

//! Sessions: state that one kernel hands to another.
//!
//! [`Session`] is one that is open, on the host or in a spawn. Whose it is stays as it is when the
//! value is dropped, except that what was accepted and not committed stays with its owner.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use multikernel_sys as sys;
use serde::Serialize;

use super::arena::text;
use super::{syscall, ArenaMap, Host, DEVICE};
use crate::explain::explain;
use crate::{Error, Result};

/// How it stands with a session.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionState {
    /// Its owner has it, and has not offered it.
    Owned,
    /// It is offered to another.
    Offered,
    /// The other has accepted, and not committed.
    Accepted,
    /// Something that this library does not know.
    Unknown,
}

impl SessionState {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owned => "owned",
            Self::Offered => "offered",
            Self::Accepted => "accepted",
            Self::Unknown => "unknown",
        }
    }
}

/// What there is to know about a session, on the host.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct SessionInfo {
    /// Its name, which is its arena's.
    pub name: String,
    /// How long that is.
    pub bytes: u64,
    /// The instance that owns it, 0 is the host.
    pub owner: u32,
    /// The instance that it is offered to, 0 is the host.
    pub to: Option<u32>,
    /// How it stands.
    pub state: SessionState,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// Bytes.
    Bytes,
    /// Pages, to be mapped.
    Pages,
    /// What was in a memfd, or in a file.
    Memfd,
    /// Something that this library does not know.
    Unknown,
}

impl EntryKind {
    fn from_abi(kind: u32) -> Self {
        match kind {
            sys::MULTIKERNEL_ENTRY_BYTES => Self::Bytes,
            sys::MULTIKERNEL_ENTRY_PAGES => Self::Pages,
            sys::MULTIKERNEL_ENTRY_MEMFD => Self::Memfd,
            _ => Self::Unknown,
        }
    }

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Pages => "pages",
            Self::Memfd => "memfd",
            Self::Unknown => "unknown",
        }
    }
}

/// An entry of a session.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Entry {
    /// Its key.
    pub key: String,
    /// What it is.
    pub kind: EntryKind,
    /// How many bytes it has.
    pub length: u64,
}

/// What has become of an offer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Offer {
    /// The session is the other's.
    Committed,
    /// The owner has kept it.
    Aborted,
}

/// A session that is open.
#[derive(Debug)]
pub struct Session {
    fd: OwnedFd,
    name: String,
    ticket: u64,
}

fn request(name: &str, flags: u32, timeout: Duration) -> sys::multikernel_ioctl_session {
    sys::multikernel_ioctl_session {
        size: super::size_field::<sys::multikernel_ioctl_session>(),
        flags,
        name: super::name_field(name),
        ticket: 0,
        timeout_ms: super::milliseconds(timeout),
        fd: -1,
    }
}

impl Session {
    /// Makes a session without entries in the arena of this name, whatever was there.
    ///
    /// # Errors
    ///
    /// By errno: `ENOENT`: there is no such arena; `EEXIST`: there is a session in it; `EACCES`: it
    /// was not granted to this spawn, to be written to; `EBUSY`: somebody has it open, or it is
    /// granted to another instance that runs.
    pub fn create(name: &str) -> Result<Self> {
        let value = request(name, 0, Duration::ZERO);
        Self::by("create", name, syscall::SessionCreate, |it| &it.0, value)
    }

    /// Opens a session that this kernel owns.
    ///
    /// # Errors
    ///
    /// By errno: `ENOENT`; `EACCES`: another owns it; `EBUSY`: another process has it open;
    /// `EUCLEAN`: it is damaged.
    pub fn open(name: &str) -> Result<Self> {
        let value = request(name, 0, Duration::ZERO);
        Self::by("open", name, syscall::SessionOpen, |it| &it.0, value)
    }

    /// Takes a session from its owner, an instance that does not run, and opens it, on the host.
    ///
    /// # Errors
    ///
    /// As [`Self::open`]; `EBUSY` also if the owner runs.
    pub fn seize(name: &str) -> Result<Self> {
        let value = request(name, sys::MULTIKERNEL_SESSION_SEIZE, Duration::ZERO);
        Self::by("seize", name, syscall::SessionOpen, |it| &it.0, value)
    }

    /// Accepts a session that is offered to this kernel, or will be within `timeout`. It is this
    /// kernel's by [`Self::commit`]; dropped before, it stays its owner's.
    ///
    /// # Errors
    ///
    /// By errno: `ENOENT`, `EACCES`: it is not offered to this kernel; `ETIMEDOUT`: nor has it been
    /// within that time; `EUCLEAN`, `EPROTONOSUPPORT`: what is in the arena is no session that this
    /// kernel can read.
    pub fn accept(name: &str, timeout: Duration) -> Result<Self> {
        let value = request(name, 0, timeout);
        Self::by("accept", name, syscall::SessionAccept, |it| &it.0, value)
    }

    /// Leaves the arena of this name without the session that is in it, which is this kernel's.
    ///
    /// # Errors
    ///
    /// By errno: `ENOENT`, `EACCES`: another owns it; `EBUSY`: it is open, or offered.
    pub fn remove(name: &str) -> Result<()> {
        let device = super::host::open_device(Path::new(DEVICE))?;
        let mut request = syscall::SessionRemove(request(name, 0, Duration::ZERO));
        syscall::ioctl(device.as_fd(), &mut request)
            .map_err(|error| explain_session(cannot("remove", name), &error))
    }

    fn by<R: syscall::Request>(
        what: &str,
        name: &str,
        call: impl FnOnce(sys::multikernel_ioctl_session) -> R,
        structure: impl FnOnce(&R) -> &sys::multikernel_ioctl_session,
        value: sys::multikernel_ioctl_session,
    ) -> Result<Self> {
        let device = super::host::open_device(Path::new(DEVICE))?;
        let (ticket, fd) = syscall::session(device.as_fd(), call, structure, value)
            .map_err(|error| explain_session(cannot(what, name), &error))?;
        Ok(Self {
            fd,
            name: name.to_owned(),
            ticket,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number of the offer that stood when it was opened, 0 if none did.
    pub fn ticket(&self) -> u64 {
        self.ticket
    }

    fn failed(&self, what: &str, error: &io::Error) -> Error {
        explain_session(cannot(what, &self.name), error)
    }

    fn entry_failed(&self, what: &str, key: &str, error: &io::Error) -> Error {
        let asked = format!("cannot {what} \"{key}\" of session \"{}\"", self.name);
        match error.raw_os_error() {
            Some(errno @ libc::ENOENT) => {
                Error::new(asked, "there is no such entry").with_errno(errno)
            }
            _ => explain_session(asked, error),
        }
    }

    /// Puts bytes into the session, in the place of what the key has had.
    ///
    /// # Errors
    ///
    /// By errno: `ENOSPC`; `EINVAL`: more than a mebibyte; `EBUSY`: it is offered; `ESTALE`: it has
    /// gone to another.
    pub fn put(&self, key: &str, bytes: &[u8]) -> Result<()> {
        syscall::session_put(self.as_fd(), key, bytes)
            .map_err(|error| self.entry_failed("put", key, &error))
    }

    /// Puts into the session what is in a file, a memfd for example; returns how many bytes.
    ///
    /// # Errors
    ///
    /// As [`Self::put`].
    pub fn put_file(&self, key: &str, file: &File) -> Result<u64> {
        syscall::session_put_file(self.as_fd(), key, file.as_fd())
            .map_err(|error| self.entry_failed("put", key, &error))
    }

    /// Puts into the session what is in a file that is preserved in a session of `/dev/liveupdate`,
    /// whose descriptor is `preserved_in`; returns how many bytes. The file stays preserved there.
    ///
    /// # Errors
    ///
    /// By errno: `ENOENT`: no file is preserved with this token; `EINVAL`: the descriptor is of
    /// something else; `EOPNOTSUPP`: the kernel has no such sessions; and as [`Self::put`].
    pub fn put_preserved(
        &self,
        key: &str,
        preserved_in: BorrowedFd<'_>,
        token: u64,
    ) -> Result<u64> {
        syscall::session_put_preserved(self.as_fd(), key, preserved_in, token)
            .map_err(|error| self.entry_failed("put", key, &error))
    }

    /// Puts pages into the session, zeroed, and maps them.
    ///
    /// # Errors
    ///
    /// As [`Self::put`].
    pub fn put_pages(&self, key: &str, bytes: u64) -> Result<ArenaMap> {
        let entry = syscall::session_put_pages(self.as_fd(), key, bytes);
        self.map("put", key, entry, true)
    }

    fn map(
        &self,
        what: &str,
        key: &str,
        entry: io::Result<syscall::SessionEntry>,
        writable: bool,
    ) -> Result<ArenaMap> {
        let map = || {
            let entry = entry?;
            let bad = || io::Error::from_raw_os_error(libc::EINVAL);
            let fd = entry.fd.ok_or_else(bad)?;
            let length = usize::try_from(entry.length).map_err(|_| bad())?;
            ArenaMap::new(fd.as_fd(), length, writable)
        };
        map().map_err(|error| self.entry_failed(what, key, &error))
    }

    /// The bytes of an entry.
    ///
    /// # Errors
    ///
    /// By errno: `ENOENT`; `EINVAL`: it is of another kind; and as [`Self::put`].
    pub fn get(&self, key: &str) -> Result<Vec<u8>> {
        let mut bytes = vec![0; sys::MULTIKERNEL_ENTRY_BYTES_MAX as usize];
        let entry = syscall::session_get(self.as_fd(), key, &mut bytes)
            .map_err(|error| self.entry_failed("get", key, &error))?;
        bytes.truncate(usize::try_from(entry.length).unwrap_or(usize::MAX));
        Ok(bytes)
    }

    /// Writes to a file what was in a memfd, or in a file; returns how many bytes.
    ///
    /// # Errors
    ///
    /// As [`Self::get`].
    pub fn get_file(&self, key: &str, file: &File) -> Result<u64> {
        syscall::session_get_file(self.as_fd(), key, file.as_fd())
            .map_err(|error| self.entry_failed("get", key, &error))
    }

    /// Maps the pages of an entry; of a session that was accepted and not committed, only to be
    /// read.
    ///
    /// # Errors
    ///
    /// As [`Self::get`].
    pub fn get_pages(&self, key: &str, writable: bool) -> Result<ArenaMap> {
        let entry = syscall::session_get(self.as_fd(), key, &mut []);
        self.map("get", key, entry, writable)
    }

    /// Takes an entry out.
    ///
    /// # Errors
    ///
    /// As [`Self::get`].
    pub fn delete(&self, key: &str) -> Result<()> {
        syscall::session_delete(self.as_fd(), key)
            .map_err(|error| self.entry_failed("delete", key, &error))
    }

    /// All entries.
    ///
    /// # Errors
    ///
    /// Those of the ioctl.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let empty = sys::multikernel_session_entry {
            key: super::name_field(""),
            length: 0,
            kind: 0,
            reserved: 0,
        };
        let mut items = vec![empty; sys::MULTIKERNEL_ENTRIES_MAX as usize];
        let count =
            syscall::list(self.as_fd(), &mut items).map_err(|error| self.failed("list", &error))?;
        let entry = |item: &sys::multikernel_session_entry| Entry {
            key: text(&item.key),
            kind: EntryKind::from_abi(item.kind),
            length: item.length,
        };
        Ok(items.iter().take(count).map(entry).collect())
    }

    /// Offers the session to an instance, `None` is the host; returns the offer's number.
    ///
    /// # Errors
    ///
    /// By errno: `EACCES`: another owns it; `ENOENT`: there is no such instance; `EBUSY`: it is
    /// offered to another, or pages of it are mapped.
    pub fn offer(&self, to: Option<&str>) -> Result<u64> {
        let mut request = syscall::SessionOffer(sys::multikernel_ioctl_session_offer {
            size: super::size_field::<sys::multikernel_ioctl_session_offer>(),
            flags: 0,
            to: super::name_field(to.unwrap_or_default()),
            ticket: 0,
        });
        syscall::ioctl(self.as_fd(), &mut request).map_err(|error| self.failed("offer", &error))?;
        Ok(request.0.ticket)
    }

    /// Makes what was accepted this kernel's. May be called again; after `EINTR`, `ETIMEDOUT` and
    /// `EPIPE` it has to be.
    ///
    /// # Errors
    ///
    /// By errno: `ESTALE`: the offer was called off.
    pub fn commit(&self) -> Result<()> {
        syscall::ioctl(
            self.as_fd(),
            &mut syscall::SessionCommit(step(Duration::ZERO)),
        )
        .map_err(|error| self.failed("commit", &error))
    }

    /// Calls off an offer, by its owner or by who has accepted it. As [`Self::commit`].
    ///
    /// # Errors
    ///
    /// By errno: `ESTALE`: it was committed.
    pub fn abort(&self) -> Result<()> {
        syscall::ioctl(
            self.as_fd(),
            &mut syscall::SessionAbort(step(Duration::ZERO)),
        )
        .map_err(|error| self.failed("call off the offer of", &error))
    }

    /// Waits until an offer that was made has been committed or called off.
    ///
    /// # Errors
    ///
    /// By errno: `ETIMEDOUT`; `EINVAL`: none was made.
    pub fn wait(&self, timeout: Duration) -> Result<Offer> {
        let mut request = syscall::SessionWait(step(timeout));
        syscall::ioctl(self.as_fd(), &mut request).map_err(|error| {
            let asked = format!("cannot see session \"{}\" taken over", self.name);
            match error.raw_os_error() {
                Some(errno @ libc::ETIMEDOUT) => {
                    Error::new(asked, "nobody has taken it over in that time")
                        .advice("It stays offered; 'mkctl handover abort' calls that off")
                        .with_errno(errno)
                }
                _ => explain_session(asked, &error),
            }
        })?;
        Ok(match request.0.state {
            sys::MULTIKERNEL_SESSION_COMMITTED => Offer::Committed,
            _ => Offer::Aborted,
        })
    }
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn step(timeout: Duration) -> sys::multikernel_ioctl_session_step {
    sys::multikernel_ioctl_session_step {
        size: super::size_field::<sys::multikernel_ioctl_session_step>(),
        flags: 0,
        timeout_ms: super::milliseconds(timeout),
        state: 0,
    }
}

fn cannot(what: &str, name: &str) -> String {
    format!("cannot {what} session \"{name}\"")
}

/// What an errno means where a session is concerned.
fn explain_session(asked: String, error: &io::Error) -> Error {
    let (wrong, advice) = match error.raw_os_error() {
        Some(libc::ENOENT) => (
            "there is no such session, arena or instance",
            "'mkctl handover ls', 'mkctl arena ls' and 'mkctl ps' on the host list those there are",
        ),
        Some(libc::EEXIST) => (
            "there is a session of this name",
            "Open it, or remove it with 'mkctl handover rm'",
        ),
        Some(libc::EACCES) => (
            "it is another's, or not offered to this kernel; or its arena was not granted to it",
            "'mkctl handover ls' on the host shows whose it is",
        ),
        Some(libc::EBUSY) => (
            "it is open elsewhere, offered to another, or pages of it are mapped",
            "'mkctl handover ls' on the host shows whether it is offered, and to whom",
        ),
        Some(libc::ESTALE) => (
            "it has gone to another, or the offer is over",
            "'mkctl handover ls' on the host shows whose it is",
        ),
        Some(libc::ENOSPC) => (
            "it has no room for that",
            "Delete entries, or make the session anew in a larger arena",
        ),
        Some(libc::EUCLEAN) => (
            "what is in its arena is no session, or a damaged one",
            "The kernel log says what is wrong; its owner has kept it",
        ),
        Some(libc::EPROTONOSUPPORT) => (
            "it was written by a kernel with another version of the format",
            "The kernel log says what is not known; its owner has kept it",
        ),
        Some(libc::ECONNREFUSED) => (
            "the host's kernel knows no sessions",
            "Boot the host with a kernel that does",
        ),
        _ => return explain(asked, error),
    };
    Error::new(asked, wrong)
        .advice(advice)
        .with_errno(error.raw_os_error().unwrap_or(0))
}

impl Host {
    /// All sessions.
    pub fn sessions(&self) -> Result<Vec<SessionInfo>> {
        let sessions = self.list::<sys::multikernel_session>("sessions")?;
        let info = |it: &sys::multikernel_session| SessionInfo {
            name: text(&it.name),
            bytes: it.bytes,
            owner: it.owner,
            to: (it.state != sys::MULTIKERNEL_SESSION_OWNED).then_some(it.to),
            state: match it.state {
                sys::MULTIKERNEL_SESSION_OWNED => SessionState::Owned,
                sys::MULTIKERNEL_SESSION_OFFERED => SessionState::Offered,
                sys::MULTIKERNEL_SESSION_ACCEPTED => SessionState::Accepted,
                _ => SessionState::Unknown,
            },
        };
        Ok(sessions.iter().map(info).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_wrong_is_said_of_the_session() {
        let said = |errno| {
            let error = io::Error::from_raw_os_error(errno);
            explain_session(cannot("open", "state"), &error).to_string()
        };
        assert!(said(libc::ENOENT).starts_with("cannot open session \"state\": there is no such"));
        assert!(said(libc::EACCES).contains("another's"));
        assert!(said(libc::EUCLEAN).contains("damaged"));
        assert!(said(libc::EPERM).contains("CAP_SYS_BOOT"));
    }
}
