// SPDX-License-Identifier: GPL-2.0

//! Messages without system calls, and that there are none: by seccomp(2) in its strict mode, in
//! which any but read(2), write(2) and exit(2) kills.

use std::hint;
use std::thread;
use std::time::Duration;

use multikernel::port::{MappedPort, Received};

use crate::{said, Result};

/// Bytes of the messages.
const BYTES: usize = 64;
/// What ends an echo.
const END: u8 = 0xff;
/// What is sent until it comes back: an echo that is about to end drops it.
const HELLO: u8 = 0x80;

/// From here on a system call kills.
fn enter() -> Result<()> {
    // SAFETY: Takes numbers alone, and changes what this thread may do.
    match unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT) } {
        0 => Ok(()),
        _ => Err(format!("seccomp: {}", std::io::Error::last_os_error())),
    }
}

/// Ends this process in strict mode, with status 0 if all was well.
fn exit(well: bool) -> ! {
    // SAFETY: Ends the only thread of the process. exit_group(2), of libc's `_exit`, would kill.
    unsafe { libc::syscall(libc::SYS_exit, libc::c_int::from(!well)) };
    unreachable!("exit(2) does not return");
}

/// Runs something in a child process of one thread, and returns its id.
fn fork(child: impl FnOnce() -> Result<()>) -> Result<libc::pid_t> {
    // SAFETY: This process has one thread, so that the child finds no lock held.
    match unsafe { libc::fork() } {
        -1 => Err(format!("fork: {}", std::io::Error::last_os_error())),
        0 => {
            let done = child();
            if let Err(why) = &done {
                println!("mkport: strict: {why}");
            }
            exit(done.is_ok())
        }
        id => Ok(id),
    }
}

fn wait_for(id: libc::pid_t) -> Result<()> {
    let mut status = 0;
    // SAFETY: Writes the status to a place that is there.
    if unsafe { libc::waitpid(id, &mut status, 0) } != id {
        return Err(format!("waitpid: {}", std::io::Error::last_os_error()));
    }
    match status {
        0 => Ok(()),
        _ => Err(format!("the strict process ended with status {status:#x}")),
    }
}

/// Looks until there is a message.
fn next(port: &mut MappedPort, buffer: &mut [u8]) -> Result<usize> {
    loop {
        if let Some(bytes) = port.try_recv(buffer).map_err(said)? {
            return Ok(bytes);
        }
        hint::spin_loop();
    }
}

/// Returns what comes, without system calls, until [`END`].
fn echo(mut port: MappedPort) -> Result<()> {
    let mut buffer = [0; BYTES];
    // The first one says that the other end is there; this waits and makes system calls.
    loop {
        match port.recv(&mut buffer).map_err(said)? {
            Received::Message(bytes) => {
                port.send(&buffer[..bytes]).map_err(said)?;
                break;
            }
            _ => thread::sleep(Duration::from_millis(5)),
        }
    }
    enter()?;
    while buffer[0] != END {
        let bytes = next(&mut port, &mut buffer)?;
        while !port.try_send(&buffer[..bytes]).map_err(said)? {}
    }
    // munmap(2) and close(2) are not for this process any more.
    std::mem::forget(port);
    Ok(())
}

/// Has a child process serve one such port, and another one when that has ended.
pub fn serve_apart(open: fn() -> Result<MappedPort>) -> Result<()> {
    fork(move || loop {
        wait_for(fork(move || echo(open()?))?)?;
    })
    .map(drop)
}

/// Sends so many messages to such an echo and has each back, without system calls at either end.
pub fn ping(open: impl FnOnce() -> Result<MappedPort>, count: u32) -> Result<()> {
    wait_for(fork(move || {
        let mut port = open()?;
        let mut buffer = [0; BYTES];
        loop {
            port.send(&[HELLO; BYTES]).map_err(said)?;
            let second = Duration::from_secs(1);
            match port.recv_timeout(&mut buffer, second).map_err(said)? {
                Received::Message(_) => break,
                _ => thread::sleep(Duration::from_millis(5)),
            }
        }
        // Let the other end leave its last system call: it rings who sleeps, and that is over.
        thread::sleep(Duration::from_millis(200));
        enter()?;
        for number in 1..=count {
            let mut message = [number as u8 & 0x7f; BYTES];
            if number == count {
                message[0] = END;
            }
            while !port.try_send(&message).map_err(said)? {}
            let bytes = loop {
                let bytes = next(&mut port, &mut buffer)?;
                if buffer[0] != HELLO {
                    break bytes;
                }
            };
            if buffer[..bytes] != message {
                return Err(format!("message {number} came back as another"));
            }
        }
        std::mem::forget(port);
        Ok(())
    })?)
}
