// SPDX-License-Identifier: GPL-2.0

//! System calls on raw numbers: file descriptors that may be closed, addresses that may be wrong.
//!
//! That is what a fuzzer is for, so nothing here can promise what Rust wants to know of pointers.
//! It rests on where the addresses come from: [`crate::arena`], or a structure of the caller's own.

use std::io;

use multikernel_sys as sys;

/// A structure of the user ABI.
///
/// # Safety
///
/// It is made of integers, pointers that are never followed, and arrays of them, without padding;
/// its first field is its size, but for elements of arrays.
pub unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($name:ident)*) => {
        // SAFETY: Laid out in include/uapi/linux/multikernel.h, in natural alignment without gaps;
        // `kexec_segment` in include/uapi/linux/kexec.h.
        $(unsafe impl Plain for sys::$name {})*
    };
}

plain! {
    multikernel_range
    multikernel_ioctl_host_info multikernel_ioctl_pool multikernel_ioctl_list
    multikernel_ioctl_create multikernel_ioctl_open multikernel_ioctl_events
    multikernel_ioctl_get_info multikernel_ioctl_start multikernel_ioctl_stop
    multikernel_ioctl_simple multikernel_ioctl_read_memory multikernel_ioctl_call
    multikernel_ioctl_connect multikernel_ioctl_add_cpus multikernel_ioctl_exchange_names
    multikernel_arena multikernel_ioctl_arena_create multikernel_ioctl_arena_open
    multikernel_ioctl_arena_remove multikernel_ioctl_arena_grant multikernel_ioctl_arena_resize
    multikernel_ioctl_link_stats
    multikernel_session multikernel_session_entry multikernel_ioctl_session
    multikernel_ioctl_session_entry multikernel_ioctl_session_offer
    multikernel_ioctl_session_step
    kexec_segment
}

/// The bytes of a structure.
pub fn bytes_of<T: Plain>(value: &T) -> Vec<u8> {
    // SAFETY: A `Plain` value has no padding, so that all its bytes are initialised.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }.to_vec()
}

/// The structure that has these bytes; `None` if they are too few.
pub fn of_bytes<T: Plain>(bytes: &[u8]) -> Option<T> {
    let enough = bytes.len() >= size_of::<T>();
    // SAFETY: There are enough bytes, and any of them are a value of a `Plain` type.
    enough.then(|| unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

fn result(value: libc::c_long) -> io::Result<()> {
    match value {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// The errno of a result, 0 for success.
pub fn errno<T>(result: &io::Result<T>) -> i32 {
    match result {
        Ok(_) => 0,
        Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
    }
}

/// ioctl(2).
pub fn ioctl(fd: i32, command: libc::Ioctl, argument: *mut libc::c_void) -> io::Result<()> {
    // SAFETY: The argument is a structure that the caller owns, with pointers to what it owns; or
    // an address in or out of the arena, which holds nothing of Rust's.
    result(unsafe { libc::ioctl(fd, command, argument) }.into())
}

/// kexec_load(2).
pub fn kexec_load(entry: u64, count: u64, segments: u64, flags: u64) -> io::Result<()> {
    // SAFETY: The kernel reads through `segments` and writes nothing of this process.
    result(unsafe { libc::syscall(libc::SYS_kexec_load, entry, count, segments, flags) })
}

/// A segment of an image.
pub fn segment(buf: u64, bufsz: u64, mem: u64, memsz: u64) -> sys::kexec_segment {
    sys::kexec_segment {
        buf: buf as *const libc::c_void,
        bufsz: bufsz as usize,
        mem,
        memsz: memsz as usize,
    }
}

/// read(2), without the data.
pub fn read(fd: i32, address: u64, size: usize) -> io::Result<usize> {
    // SAFETY: As for `ioctl`.
    let count = unsafe { libc::read(fd, address as *mut libc::c_void, size) };
    result(count as libc::c_long).map(|()| count as usize)
}

/// write(2).
pub fn write(fd: i32, address: u64, size: usize) -> io::Result<()> {
    // SAFETY: The kernel only reads.
    result(unsafe { libc::write(fd, address as *const libc::c_void, size) } as libc::c_long)
}

/// poll(2) on one file, without waiting.
pub fn poll(fd: i32) -> io::Result<()> {
    let mut request = libc::pollfd {
        fd,
        events: libc::POLLIN | libc::POLLOUT | libc::POLLPRI,
        revents: 0,
    };
    // SAFETY: One structure, which is ours.
    result(unsafe { libc::poll(&mut request, 1, 0) }.into())
}

/// lseek(2).
pub fn seek(fd: i32, offset: i64, whence: i32) -> io::Result<()> {
    // SAFETY: Takes numbers only.
    result(unsafe { libc::lseek(fd, offset, whence) })
}

/// A memfd of so many bytes.
pub fn memory_file(size: usize) -> io::Result<i32> {
    // SAFETY: The name is zero-terminated.
    let fd = unsafe { libc::memfd_create(c"mkfuzz-entry".as_ptr(), libc::MFD_CLOEXEC) };
    result(fd.into())?;
    truncate(fd, size as i64)?;
    Ok(fd)
}

/// ftruncate(2).
pub fn truncate(fd: i32, size: i64) -> io::Result<()> {
    // SAFETY: Takes numbers only; used on files of the kernel's.
    result(unsafe { libc::ftruncate(fd, size) }.into())
}

/// dup(2).
pub fn duplicate(fd: i32) -> io::Result<i32> {
    // SAFETY: Takes a number only.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) };
    result(copy.into()).map(|()| copy)
}

/// Has read(2) not wait.
pub fn set_nonblocking(fd: i32) -> io::Result<()> {
    // SAFETY: Takes numbers only.
    result(unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK) }.into())
}

/// close(2).
pub fn close(fd: i32) -> io::Result<()> {
    // SAFETY: The caller closes only what it opened, and forgets it.
    result(unsafe { libc::close(fd) }.into())
}

/// mmap(2) at an address of the kernel's choice.
pub fn map(
    fd: i32,
    size: usize,
    protection: i32,
    flags: i32,
    offset: i64,
) -> io::Result<(*mut u8, usize)> {
    // SAFETY: Nothing that is mapped is replaced.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), size, protection, flags, fd, offset) };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok((address.cast(), size))
}

/// munmap(2) of what [`map`] gave.
pub fn unmap((address, size): (*mut u8, usize)) -> io::Result<()> {
    // SAFETY: The caller got it from `map`, and forgets it.
    result(unsafe { libc::munmap(address.cast(), size) }.into())
}
