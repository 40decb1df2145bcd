// SPDX-License-Identifier: GPL-2.0

//! The other end is in the spawn: what connects the two.
//!
//! A facility is a [`Channel`] at either end, one that this file opens on the host, and one that
//! `serve.rs` opens in the spawn. To add one takes a line in `contest.rs` and two functions.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use multikernel_sys as sys;

use crate::channel::{Channel, Job};
use crate::local;
use crate::spawn::Spawn;

/// The port at which the spawn serves by read(2) and write(2).
pub const PORT: u32 = sys::MULTIKERNEL_PORT_USER + 0x40;
/// The port at which the spawn serves over AF_VSOCK.
pub const VSOCK_PORT: u32 = 5001;

/// Opens a channel to the spawn. It is kept for all rounds.
pub type Open = fn(&Spawn) -> io::Result<Box<dyn Channel>>;

/// Opens a port of the link behind a file: an instance's, or in a spawn the device's.
pub fn open_port(fd: BorrowedFd<'_>, port: u32) -> io::Result<Box<dyn Channel>> {
    let mut request = sys::multikernel_ioctl_open_port {
        size: size_of::<sys::multikernel_ioctl_open_port>() as u32,
        port,
        ..Default::default()
    };
    let argument = &raw mut request;
    // SAFETY: The pointer is to the structure that this ioctl takes, which outlives the call.
    match unsafe { libc::ioctl(fd.as_raw_fd(), sys::MULTIKERNEL_IOCTL_OPEN_PORT, argument) } {
        0 => {}
        _ => return Err(io::Error::last_os_error()),
    }
    // SAFETY: The kernel has just made it, and nobody else knows of it.
    let opened = unsafe { OwnedFd::from_raw_fd(request.fd) };
    let to = File::from(opened);
    let from = to.try_clone()?;
    Ok(Box::new(crate::channel::Files { from, to }))
}

/// A port, by read(2) and write(2).
pub fn port(spawn: &Spawn) -> io::Result<Box<dyn Channel>> {
    // The CPU on which it is opened looks after it.
    local::pin(local::CPUS[0])?;
    open_port(spawn.instance().as_fd(), PORT)
}

/// AF_VSOCK over the link, whose CID is the instance's id.
pub fn vsock(spawn: &Spawn) -> io::Result<Box<dyn Channel>> {
    let files = local::vsock_connect(spawn.instance().id(), VSOCK_PORT)?;
    Ok(Box::new(files))
}

/// A lane that is mapped: not known to this program's library yet.
pub fn mapped(_spawn: &Spawn) -> io::Result<Box<dyn Channel>> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

/// Does a job with the spawn at the far end.
pub fn run<T>(
    channel: &mut dyn Channel,
    job: Job,
    near: impl FnOnce(&mut dyn Channel) -> io::Result<T>,
) -> io::Result<T> {
    channel.send(&job.to_bytes())?;
    near(channel)
}
