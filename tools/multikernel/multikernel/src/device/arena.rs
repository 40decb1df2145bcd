// SPDX-License-Identifier: GPL-2.0

//! Arenas: memory with a name that outlives the kernels that use it.
//!
//! On the host [`Host`] makes, grants and removes them. [`Arena`] is one that is open, on the host
//! or in a spawn, to be mapped.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use multikernel_sys as sys;
use serde::Serialize;

use super::{syscall, ArenaMap, Host, DEVICE};
use crate::explain::explain;
use crate::spec::format_size;
use crate::{Error, Result};

/// What an arena is made of.
#[derive(Clone, Copy, Debug)]
pub struct ArenaRequest<'a> {
    /// Its name.
    pub name: &'a str,
    /// How long it is, a multiple of 2 MiB.
    pub bytes: u64,
    /// At this physical address.
    pub base: Option<u64>,
    /// On this NUMA node.
    pub node: Option<i32>,
}

/// That an instance may have an arena.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct ArenaGrant {
    /// The instance.
    pub id: u32,
    /// Only to be read.
    pub read_only: bool,
}

/// What there is to know about an arena.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct ArenaInfo {
    /// Its name.
    pub name: String,
    /// Its number.
    pub id: u32,
    /// Physical address.
    pub base: u64,
    /// Bytes.
    pub size: u64,
    /// Its NUMA node.
    pub node: Option<u32>,
    /// How many files of the host have it open.
    pub files: u32,
    /// The instances that may have it.
    pub grants: Vec<ArenaGrant>,
}

/// An arena that is open.
#[derive(Debug)]
pub struct Arena {
    fd: OwnedFd,
    name: String,
    bytes: u64,
    read_only: bool,
}

impl Arena {
    /// Opens an arena, on the host or in a spawn.
    ///
    /// # Errors
    ///
    /// By errno: `ENOENT`: there is none; `EACCES`: it was not granted to this spawn, or only to be
    /// read; `EBUSY`: it is just being resized or removed; and those of [`super::Peer::call`] where
    /// the host cannot be asked.
    pub fn open(name: &str, read_only: bool) -> Result<Self> {
        Self::open_at(Path::new(DEVICE), name, read_only)
    }

    /// As [`Self::open`], by the device at another path.
    pub fn open_at(device: &Path, name: &str, read_only: bool) -> Result<Self> {
        let device = super::host::open_device(device)?;
        let flags = match read_only {
            true => sys::MULTIKERNEL_ARENA_READ_ONLY,
            false => 0,
        };
        let (bytes, fd) = syscall::arena_open(device.as_fd(), name, flags)
            .map_err(|error| explain_arena(cannot("open", name), &error))?;
        Ok(Self {
            fd,
            name: name.to_owned(),
            bytes,
            read_only,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How long it is.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Maps all of it.
    pub fn map(&self) -> Result<ArenaMap> {
        let error = |error| explain_arena(cannot("map", &self.name), &error);
        let bytes = usize::try_from(self.bytes)
            .map_err(|_| error(io::Error::from_raw_os_error(libc::ENOMEM)))?;
        ArenaMap::new(self.fd.as_fd(), bytes, !self.read_only).map_err(error)
    }
}

impl AsFd for Arena {
    /// The file, which may be passed to other processes.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn cannot(what: &str, name: &str) -> String {
    format!("cannot {what} arena \"{name}\"")
}

/// What an errno means where an arena is concerned.
fn explain_arena(asked: String, error: &io::Error) -> Error {
    let (wrong, advice) = match error.raw_os_error() {
        Some(libc::ENOENT) => (
            "there is no such arena",
            "'mkctl arena ls' on the host lists those there are",
        ),
        Some(libc::EEXIST) => (
            "an arena of this name exists",
            "Choose another name, or remove that one with 'mkctl arena rm'",
        ),
        Some(libc::EACCES) => (
            "it was not granted to the instance, or only to be read",
            "'mkctl arena grant' on the host does that; with --read-only it is read",
        ),
        Some(libc::EBUSY) => (
            "it is open on the host, granted to an instance that runs, or being changed",
            "'mkctl arena ls' shows by whom it is used; stop those instances first",
        ),
        Some(libc::ECONNREFUSED) => (
            "the host's kernel knows no arenas",
            "Boot the host with a kernel that does",
        ),
        _ => return explain(asked, error),
    };
    Error::new(asked, wrong)
        .advice(advice)
        .with_errno(error.raw_os_error().unwrap_or(0))
}

impl Host {
    /// Makes an arena. What is in it is zero.
    pub fn create_arena(&self, request: &ArenaRequest<'_>) -> Result<Arena> {
        let fixed = match request.base {
            Some(_) => sys::MULTIKERNEL_RANGE_FIXED,
            None => 0,
        };
        let value = sys::multikernel_ioctl_arena_create {
            size: super::size_field::<sys::multikernel_ioctl_arena_create>(),
            flags: fixed,
            name: super::name_field(request.name),
            base: request.base.unwrap_or(0),
            bytes: request.bytes,
            nid: request.node.unwrap_or(-1),
            fd: -1,
        };
        let fd = syscall::arena_create(self.file().as_fd(), value).map_err(|error| {
            let asked = cannot("create", request.name);
            match error.raw_os_error() {
                Some(errno @ libc::ENOSPC) => Error::new(
                    asked,
                    format!(
                        "the pool has no {} in one piece",
                        format_size(request.bytes)
                    ),
                )
                .advice("Enlarge the pool with 'mkctl pool grow SIZE', or ask for less")
                .with_errno(errno),
                Some(libc::EBUSY) => explain(asked, &error),
                _ => explain_arena(asked, &error),
            }
        })?;
        Ok(Arena {
            fd,
            name: request.name.to_owned(),
            bytes: request.bytes,
            read_only: false,
        })
    }

    /// Removes an arena, and what is in it.
    pub fn remove_arena(&self, name: &str) -> Result<()> {
        let mut request = syscall::ArenaRemove(sys::multikernel_ioctl_arena_remove {
            size: super::size_field::<sys::multikernel_ioctl_arena_remove>(),
            flags: 0,
            name: super::name_field(name),
        });
        syscall::ioctl(self.file().as_fd(), &mut request)
            .map_err(|error| explain_arena(cannot("remove", name), &error))
    }

    /// Makes an arena longer or shorter.
    pub fn resize_arena(&self, name: &str, bytes: u64) -> Result<()> {
        let mut request = syscall::ArenaResize(sys::multikernel_ioctl_arena_resize {
            size: super::size_field::<sys::multikernel_ioctl_arena_resize>(),
            flags: 0,
            name: super::name_field(name),
            bytes,
        });
        syscall::ioctl(self.file().as_fd(), &mut request)
            .map_err(|error| explain_arena(cannot("resize", name), &error))
    }

    /// Lets an instance have an arena.
    pub fn grant_arena(&self, name: &str, id: u32, read_only: bool) -> Result<()> {
        let flags = match read_only {
            true => sys::MULTIKERNEL_ARENA_READ_ONLY,
            false => 0,
        };
        let request = grant_request(name, id, flags);
        syscall::ioctl(self.file().as_fd(), &mut syscall::ArenaGrant(request))
            .map_err(|error| explain_arena(cannot("grant", name), &error))
    }

    /// Takes that back.
    pub fn revoke_arena(&self, name: &str, id: u32) -> Result<()> {
        let request = grant_request(name, id, 0);
        syscall::ioctl(self.file().as_fd(), &mut syscall::ArenaRevoke(request))
            .map_err(|error| explain_arena(cannot("revoke", name), &error))
    }

    /// All arenas.
    pub fn arenas(&self) -> Result<Vec<ArenaInfo>> {
        let grants = self.list::<sys::multikernel_arena_grant>("grants of arenas")?;
        let arenas = self.list::<sys::multikernel_arena>("arenas")?;
        Ok(arenas
            .iter()
            .map(|arena| ArenaInfo {
                name: text(&arena.name),
                id: arena.id,
                base: arena.base,
                size: arena.bytes,
                node: u32::try_from(arena.nid).ok(),
                files: arena.files,
                grants: grants
                    .iter()
                    .filter(|grant| grant.arena == arena.id)
                    .map(|grant| ArenaGrant {
                        id: grant.id,
                        read_only: grant.flags & sys::MULTIKERNEL_ARENA_READ_ONLY != 0,
                    })
                    .collect(),
            })
            .collect())
    }
}

fn grant_request(name: &str, id: u32, flags: u32) -> sys::multikernel_ioctl_arena_grant {
    sys::multikernel_ioctl_arena_grant {
        size: super::size_field::<sys::multikernel_ioctl_arena_grant>(),
        flags,
        name: super::name_field(name),
        id,
        reserved: 0,
    }
}

pub(super) fn text(field: &[u8]) -> String {
    let name = field.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(name).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_wrong_is_said_of_the_arena() {
        let said = |errno| {
            let error = io::Error::from_raw_os_error(errno);
            explain_arena(cannot("open", "state"), &error).to_string()
        };
        assert_eq!(
            said(libc::ENOENT),
            "cannot open arena \"state\": there is no such arena. 'mkctl arena ls' on the host \
             lists those there are."
        );
        assert!(said(libc::EACCES).contains("not granted"));
        assert!(said(libc::EBUSY).contains("stop those instances"));
        assert!(said(libc::EPERM).contains("CAP_SYS_BOOT"));
    }

    #[test]
    fn a_file_that_is_not_the_device() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Arena::open_at(file.path(), "state", true).unwrap_err();
        assert_eq!(error.errno(), Some(libc::ENOTTY));
        let host = Host::open_at(file.path()).unwrap();
        assert_eq!(host.arenas().unwrap_err().errno(), Some(libc::ENOTTY));
        assert_eq!(
            host.remove_arena("state").unwrap_err().errno(),
            Some(libc::ENOTTY)
        );
    }

    #[test]
    fn a_map_ends_where_it_ends() {
        use std::os::fd::AsFd;
        use std::sync::atomic::Ordering;
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let map = ArenaMap::new(file.as_fd(), 4096, true).unwrap();
        assert_eq!(map.write(4090, b"abcdef"), Some(()));
        assert_eq!(map.write(4091, b"abcdef"), None);
        assert_eq!(map.write(usize::MAX, b"ab"), None);
        let mut bytes = [0; 6];
        assert_eq!(map.read(4090, &mut bytes), Some(()));
        assert_eq!(&bytes, b"abcdef");
        assert_eq!(map.read(4091, &mut bytes), None);
        let read_only = ArenaMap::new(file.as_fd(), 4096, false).unwrap();
        assert_eq!(read_only.write(0, b"a"), None);
        assert!(read_only.words().is_none());
        let words = map.words().unwrap();
        assert_eq!(words.len(), 512);
        words[511].store(u64::from_le_bytes(*b"..abcdef"), Ordering::Relaxed);
        assert_eq!(read_only.read(4090, &mut bytes), Some(()));
    }
}
