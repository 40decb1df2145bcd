// SPDX-License-Identifier: GPL-2.0

//! What programs that measure need of the machine they run on.

use std::arch::x86_64::_rdtsc;
use std::{fs, io};

/// The time-stamp counter, which the kernels of one machine share.
pub fn ticks() -> u64 {
    // SAFETY: Every x86-64 CPU has the instruction, and Linux lets processes use it.
    unsafe { _rdtsc() }
}

fn check(result: i32) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has the calling thread run on a CPU of this kernel and nowhere else.
pub fn pin(cpu: usize) -> io::Result<()> {
    // SAFETY: An array of integers, for which zero is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: Just checked.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: The pointer is to a set of that size, which outlives the call.
    check(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) })
}

/// Mounts the files of devices, where the kernel has not done so: for a first process.
pub fn mount_devices() -> io::Result<()> {
    fs::create_dir_all("/dev")?;
    let (kind, target) = (c"devtmpfs".as_ptr(), c"/dev".as_ptr());
    // SAFETY: Strings that live for ever; this kind takes no data.
    match check(unsafe { libc::mount(kind, target, kind, 0, std::ptr::null()) }) {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(()),
        mounted => mounted,
    }
}
