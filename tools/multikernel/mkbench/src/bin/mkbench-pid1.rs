// SPDX-License-Identifier: GPL-2.0

//! The first process of a machine that is only to say when it got there.
//!
//! Writes one line to the kernel's log, `mkbench: pid1 tsc=TICKS boot=NANOSECONDS`: the time-stamp
//! counter, which the kernels of one machine share, and this kernel's own clock. The log reaches
//! every console, also those that no process can open. Then it sleeps for ever.

use std::arch::x86_64::_rdtsc;
use std::fs;

fn main() {
    // SAFETY: Every x86-64 CPU has the instruction, and Linux lets processes use it.
    let tsc = unsafe { _rdtsc() };
    let mut boot = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `boot` is valid for writes.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut boot) };
    let boot = boot.tv_sec * 1_000_000_000 + boot.tv_nsec;
    // Who waits for the line sees from its absence that this failed; there is nobody else to tell.
    let _ = fs::write(
        "/dev/kmsg",
        format!("mkbench: pid1 tsc={tsc} boot={boot}\n"),
    );
    loop {
        std::thread::park();
    }
}
