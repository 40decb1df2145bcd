// SPDX-License-Identifier: GPL-2.0

//! What two processes within one kernel have: the other end is a child process.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::channel::{serve, Channel, Files, Job};
pub use crate::machine::pin;

/// The CPU of the process that measures, and that of the other one.
pub const CPUS: [usize; 2] = [0, 1];

/// Both ends of something; the near one first.
pub type Ends = fn() -> io::Result<(Files, Files)>;

fn owned(fd: i32) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: A system call has just returned it, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn check(result: i32) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// One file that is read and written.
pub fn both_ways(fd: OwnedFd) -> io::Result<Files> {
    let from = File::from(fd);
    let to = from.try_clone()?;
    Ok(Files { from, to })
}

/// Two pipes.
pub fn pipes() -> io::Result<(Files, Files)> {
    let pipe = || io::pipe().map(|(from, to)| (OwnedFd::from(from), OwnedFd::from(to)));
    let (far_from, near_to) = pipe()?;
    let (near_from, far_to) = pipe()?;
    let files = |from: OwnedFd, to: OwnedFd| Files {
        from: from.into(),
        to: to.into(),
    };
    Ok((files(near_from, near_to), files(far_from, far_to)))
}

/// Two eventfds.
pub fn eventfds() -> io::Result<(Files, Files)> {
    // SAFETY: No pointers.
    let eventfd = || owned(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) }).map(File::from);
    let (there, back) = (eventfd()?, eventfd()?);
    let far = Files {
        from: there.try_clone()?,
        to: back.try_clone()?,
    };
    let near = Files {
        from: back,
        to: there,
    };
    Ok((near, far))
}

fn unix_sockets(kind: i32) -> io::Result<(Files, Files)> {
    let mut fds = [-1; 2];
    let kind = kind | libc::SOCK_CLOEXEC;
    // SAFETY: There is room for two.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) })?;
    Ok((both_ways(owned(fds[0])?)?, both_ways(owned(fds[1])?)?))
}

/// AF_UNIX, stream.
pub fn unix_stream() -> io::Result<(Files, Files)> {
    unix_sockets(libc::SOCK_STREAM)
}

/// AF_UNIX, seqpacket.
pub fn unix_seqpacket() -> io::Result<(Files, Files)> {
    unix_sockets(libc::SOCK_SEQPACKET)
}

fn vsock_socket() -> io::Result<OwnedFd> {
    // SAFETY: No pointers.
    owned(unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })
}

fn vsock_address(cid: u32, port: u32) -> libc::sockaddr_vm {
    // SAFETY: A struct of integers, for which zero is a value.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    address.svm_cid = cid;
    address.svm_port = port;
    address
}

const ADDRESS_BYTES: libc::socklen_t = size_of::<libc::sockaddr_vm>() as libc::socklen_t;

/// A vsock that listens on a port, of whatever CID.
pub fn vsock_listen(port: u32) -> io::Result<OwnedFd> {
    let socket = vsock_socket()?;
    let address = vsock_address(libc::VMADDR_CID_ANY, port);
    // SAFETY: The pointer is to an address of that size, which outlives the call.
    check(unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            ADDRESS_BYTES,
        )
    })?;
    // SAFETY: No pointers.
    check(unsafe { libc::listen(socket.as_raw_fd(), 1) })?;
    Ok(socket)
}

/// Takes a connection.
pub fn accept(listener: &OwnedFd) -> io::Result<Files> {
    let null = std::ptr::null_mut();
    // SAFETY: Who it is from is not asked.
    let fd = unsafe { libc::accept(listener.as_raw_fd(), null, std::ptr::null_mut()) };
    both_ways(owned(fd)?)
}

/// A vsock that is connected.
pub fn vsock_connect(cid: u32, port: u32) -> io::Result<Files> {
    let socket = vsock_socket()?;
    let address = vsock_address(cid, port);
    // SAFETY: The pointer is to an address of that size, which outlives the call.
    check(unsafe {
        libc::connect(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            ADDRESS_BYTES,
        )
    })?;
    both_ways(socket)
}

/// AF_VSOCK within this kernel.
pub fn vsock_loopback() -> io::Result<(Files, Files)> {
    const PORT: u32 = 5000;

    let listener = vsock_listen(PORT)?;
    let near = vsock_connect(libc::VMADDR_CID_LOCAL, PORT)?;
    Ok((near, accept(&listener)?))
}

/// Does a job with a child process at the far end, on its own CPU.
pub fn run<T>(
    ends: Ends,
    job: Job,
    near: impl FnOnce(&mut dyn Channel) -> io::Result<T>,
) -> io::Result<T> {
    let (mut own, mut other) = ends()?;
    // SAFETY: This process has no other thread while something local is measured, so the child can
    // do whatever the parent could.
    let child = unsafe { libc::fork() };
    if child < 0 {
        return Err(io::Error::last_os_error());
    }
    if child == 0 {
        // If the parent ends, so does the read.
        drop(own);
        let done = pin(CPUS[1]).and_then(|()| serve(&mut other, job));
        // SAFETY: Ends the child, without what is the parent's to do at its end.
        unsafe { libc::_exit(i32::from(done.is_err())) };
    }
    drop(other);
    let result = near(&mut own);
    // The child hears of it if this end has failed.
    drop(own);
    let mut status = 0;
    // SAFETY: The pointer is to an integer that outlives the call.
    if unsafe { libc::waitpid(child, &raw mut status, 0) } != child {
        return Err(io::Error::last_os_error());
    }
    let value = result?;
    if status != 0 {
        return Err(io::Error::other("the other process has failed"));
    }
    Ok(value)
}
