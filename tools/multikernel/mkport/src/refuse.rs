// SPDX-License-Identifier: GPL-2.0

//! What a port fd cannot be asked for, and a mapping cannot be made into.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

use multikernel::device::SharedMap;
use multikernel::port::Port;
use multikernel_sys as sys;

use crate::case::open;
use crate::{Result, ALONE, ECHO_PLAIN};

/// What MAP_PORT said.
pub struct Raw {
    /// As the kernel filled it.
    pub info: sys::multikernel_ioctl_map_port,
}

impl Raw {
    /// Takes a port over.
    pub fn take(port: &Port) -> Result<Self> {
        let mut info = request();
        map_port(port, &mut info).map_err(|error| format!("MAP_PORT: {error}"))?;
        Ok(Self { info })
    }

    fn lane(&self, port: &Port, offset: u64) -> Result<SharedMap> {
        SharedMap::at(port.as_fd(), offset, self.info.lane_bytes as usize)
            .map_err(|error| format!("mmap at {offset:#x}: {error}"))
    }

    /// Maps the lane in which this end sends.
    pub fn send_lane(&self, port: &Port) -> Result<SharedMap> {
        self.lane(port, self.info.send_offset)
    }

    /// Maps the other one.
    pub fn receive_lane(&self, port: &Port) -> Result<SharedMap> {
        self.lane(port, self.info.receive_offset)
    }

    /// Rings the other end.
    pub fn ring(&self, port: &Port) -> Result<()> {
        ring_port(port, 0).map_err(|error| format!("RING_PORT: {error}"))
    }
}

fn request() -> sys::multikernel_ioctl_map_port {
    sys::multikernel_ioctl_map_port {
        size: size_of::<sys::multikernel_ioctl_map_port>() as u32,
        ..Default::default()
    }
}

fn done(result: libc::c_int) -> io::Result<()> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn map_port(port: &Port, request: &mut sys::multikernel_ioctl_map_port) -> io::Result<()> {
    let number = sys::MULTIKERNEL_IOCTL_MAP_PORT;
    // SAFETY: The kernel reads and writes this structure, at most as large as it says.
    done(unsafe { libc::ioctl(port.as_raw_fd(), number, ptr::from_mut(request)) })
}

fn ring_port(port: &Port, flags: u32) -> io::Result<()> {
    let size = size_of::<sys::multikernel_ioctl_simple>() as u32;
    let mut request = sys::multikernel_ioctl_simple { size, flags };
    let number = sys::MULTIKERNEL_IOCTL_RING_PORT;
    // SAFETY: The kernel reads this structure.
    done(unsafe { libc::ioctl(port.as_raw_fd(), number, ptr::from_mut(&mut request)) })
}

/// mmap(2), at an address of the kernel's choice.
fn mmap(port: &Port, offset: u64, bytes: usize, protection: i32, flags: i32) -> io::Result<usize> {
    let fd = port.as_raw_fd();
    // SAFETY: A new mapping at an address of the kernel's choice touches no other memory.
    let at = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, fd, offset as i64) };
    match at {
        libc::MAP_FAILED => Err(io::Error::last_os_error()),
        _ => Ok(at.addr()),
    }
}

/// That something fails with this errno.
fn fails<T>(what: &str, result: io::Result<T>, errno: i32) -> Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(errno) => Ok(()),
        Err(error) => Err(format!("{what}: {error}, not errno {errno}")),
        Ok(_) => Err(format!("{what} is not refused")),
    }
}

/// Everything that is refused, and that it changes nothing.
pub fn refused(name: &str) -> Result<()> {
    const BOTH: i32 = libc::PROT_READ | libc::PROT_WRITE;
    const SHARED: i32 = libc::MAP_SHARED;

    let port = open(name, ALONE)?;
    fails(
        "mmap before MAP_PORT",
        mmap(&port, 0, 8192, BOTH, SHARED),
        libc::ENXIO,
    )?;
    for (what, errno, bad) in [
        (
            "a flag",
            libc::EINVAL,
            sys::multikernel_ioctl_map_port {
                flags: 1,
                ..request()
            },
        ),
        (
            "a small size",
            libc::EINVAL,
            sys::multikernel_ioctl_map_port {
                size: 60,
                ..request()
            },
        ),
        (
            "a large size",
            libc::E2BIG,
            sys::multikernel_ioctl_map_port {
                size: 5000,
                ..request()
            },
        ),
    ] {
        fails(what, map_port(&port, &mut { bad }), errno)?;
    }
    fails("a flag of RING_PORT", ring_port(&port, 1), libc::EINVAL)?;
    port.try_send(b"not taken over yet").map_err(crate::said)?;

    let info = Raw::take(&port)?.info;
    if info.connected != 0 || info.send_position == 0 || info.lane_bytes % 4096 != 0 {
        return Err(format!("MAP_PORT: {info:?}"));
    }
    let bytes = info.lane_bytes as usize;
    let (send, receive) = (info.send_offset, info.receive_offset);
    for (what, offset, bytes, protection, flags, errno) in [
        (
            "the lane of nobody",
            receive,
            bytes,
            BOTH,
            SHARED,
            libc::ENXIO,
        ),
        ("another offset", 4096, bytes, BOTH, SHARED, libc::EINVAL),
        (
            "an offset behind",
            bytes as u64,
            bytes,
            BOTH,
            SHARED,
            libc::EINVAL,
        ),
        ("a part", send, bytes / 2, BOTH, SHARED, libc::EINVAL),
        ("more", send, bytes * 2, BOTH, SHARED, libc::EINVAL),
        (
            "a private mapping",
            send,
            bytes,
            BOTH,
            libc::MAP_PRIVATE,
            libc::EINVAL,
        ),
        (
            "PROT_EXEC",
            send,
            bytes,
            BOTH | libc::PROT_EXEC,
            SHARED,
            libc::EPERM,
        ),
    ] {
        fails(what, mmap(&port, offset, bytes, protection, flags), errno)?;
    }
    for what in [port.try_send(b"x").err(), port.try_recv(&mut [0; 8]).err()] {
        if what.as_ref().and_then(multikernel::Error::errno) != Some(libc::EBUSY) {
            return Err(format!("read or write of a port taken over: {what:?}"));
        }
    }

    let at = mmap(&port, send, bytes, BOTH, SHARED).map_err(|error| format!("mmap: {error}"))?;
    let address = ptr::with_exposed_provenance_mut::<libc::c_void>(at);
    // SAFETY: The mapping was just made, and nobody refers to it.
    let executable = done(unsafe { libc::mprotect(address, bytes, BOTH | libc::PROT_EXEC) });
    fails("mprotect to PROT_EXEC", executable, libc::EACCES)?;
    // SAFETY: As above; it fails, and changes nothing.
    let grown = match unsafe { libc::mremap(address, bytes, bytes * 2, libc::MREMAP_MAYMOVE) } {
        libc::MAP_FAILED => Err(io::Error::last_os_error()),
        _ => Ok(()),
    };
    fails("mremap to more", grown, libc::EFAULT)?;
    not_inherited(address, bytes)?;

    // The mapping keeps the port open, and nothing else does.
    drop(port);
    match open(name, ALONE) {
        Err(why) if why.contains("has it open") => {}
        other => return Err(format!("open while it is mapped: {other:?}")),
    }
    // SAFETY: The mapping is not used any more.
    done(unsafe { libc::munmap(address, bytes) }).map_err(|error| format!("munmap: {error}"))?;
    let port = open(name, ALONE)?;
    port.try_send(b"goes on").map_err(crate::said)?;

    // The other end of this one is there.
    let port = open(name, ECHO_PLAIN)?;
    let info = Raw::take(&port)?.info;
    if info.connected != 1 {
        return Err(format!("the other end is not there: {info:?}"));
    }
    println!("all of it");
    Ok(())
}

/// That a child has no such mapping.
fn not_inherited(address: *mut libc::c_void, bytes: usize) -> Result<()> {
    // SAFETY: The child makes one system call and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let mut resident = [0u8; 16];
        // SAFETY: The kernel writes a byte for each page, and there is room for them.
        let there = unsafe { libc::mincore(address, bytes, resident.as_mut_ptr()) };
        let absent = there == -1 && io::Error::last_os_error().raw_os_error() == Some(libc::ENOMEM);
        // SAFETY: Ends the child.
        unsafe { libc::_exit(i32::from(!absent)) };
    }
    let mut status = -1;
    // SAFETY: Writes the status to a place that is there.
    unsafe { libc::waitpid(child, &mut status, 0) };
    match status {
        0 => Ok(()),
        _ => Err("fork passes a mapping on".to_owned()),
    }
}
