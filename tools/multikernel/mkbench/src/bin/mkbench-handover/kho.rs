// SPDX-License-Identifier: GPL-2.0

//! The program as the first process of a machine without spawns, which reboots by kexec: a memfd,
//! with a small service's count in it, is preserved by the live update orchestrator
//! (`/dev/liveupdate`) and Kexec HandOver, and got back by this program in the next kernel.
//!
//! It says what it measured in one line of the kernel's log, `mkbench: kho handover=NANOSECONDS
//! service=NANOSECONDS`, or `mkbench: kho failed: WHY`. The first is from the request, reboot(2),
//! until the memfd's contents are there to be read; the second is from the last answer of the
//! service, which has a client in this same process, to its next one. Loading the next kernel and
//! preserving the memfd comes before, as it does not interrupt anybody.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use multikernel::device::SharedMap;

use crate::machine::{mount_devices, ticks};

/// Who is told by the command line what to do is told so by the environment: the kernel passes on
/// what it does not know.
const BEFORE: &str = "MKBENCH_KHO";
const AFTER: &str = "MKBENCH_KHO_AFTER";

/// The next kernel, and its initrd.
const KERNEL: &str = "/kernel";
const INITRD: &str = "/initrd";

const NAME: &[u8] = b"bench";
const TOKEN: u64 = 1;

/// The first words of the memfd: that it is one, the request's time, the last answer's, the count.
const MAGIC: u64 = u64::from_le_bytes(*b"mk-bench");
const REQUESTED: usize = 1;
const ANSWERED: usize = 2;
const COUNT: usize = 3;
/// How often the service is called before.
const CALLS: u64 = 100;

/// What the machine is to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Request {
    /// Preserve so many bytes, and reboot.
    Before(usize),
    /// Get so many bytes back.
    After(usize),
}

/// Whether this is such a machine.
pub fn wanted() -> Option<Request> {
    parse(|name| std::env::var(name).ok())
}

fn parse(variable: impl Fn(&str) -> Option<String>) -> Option<Request> {
    let bytes = |name| {
        let bytes: usize = variable(name)?.parse().ok()?;
        // The words above, and a last one.
        (bytes >= 64 && bytes.is_multiple_of(8)).then_some(bytes)
    };
    match bytes(AFTER) {
        Some(size) => Some(Request::After(size)),
        None => bytes(BEFORE).map(Request::Before),
    }
}

/// `struct liveupdate_ioctl_create_session` and `..._retrieve_session`.
#[repr(C)]
struct SessionRequest {
    size: u32,
    fd: i32,
    name: [u8; 64],
}

/// `struct liveupdate_session_preserve_fd` and `..._retrieve_fd`.
#[repr(C)]
struct FdRequest {
    size: u32,
    fd: i32,
    token: u64,
}

// include/uapi/linux/liveupdate.h
const CREATE_SESSION: libc::c_ulong = 0xba00;
const RETRIEVE_SESSION: libc::c_ulong = 0xba01;
const PRESERVE_FD: libc::c_ulong = 0xba40;
const RETRIEVE_FD: libc::c_ulong = 0xba41;

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    match result {
        ..0 => Err(io::Error::last_os_error()),
        _ => Ok(result),
    }
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(check(fd)?).map_err(|_| io::ErrorKind::InvalidData)?;
    // SAFETY: The kernel has just made it, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn session(command: libc::c_ulong) -> io::Result<OwnedFd> {
    let device = File::options()
        .read(true)
        .write(true)
        .open("/dev/liveupdate")?;
    let mut name = [0; 64];
    name[..NAME.len()].copy_from_slice(NAME);
    let mut request = SessionRequest {
        size: size_of::<SessionRequest>() as u32,
        fd: -1,
        name,
    };
    // SAFETY: The pointer is to the structure that these ioctls take, which outlives the call.
    check(unsafe { libc::ioctl(device.as_raw_fd(), command, &raw mut request) }.into())?;
    owned(request.fd.into())
}

fn fd_request(session: &OwnedFd, command: libc::c_ulong, fd: i32) -> io::Result<i32> {
    let mut request = FdRequest {
        size: size_of::<FdRequest>() as u32,
        fd,
        token: TOKEN,
    };
    // SAFETY: As above.
    check(unsafe { libc::ioctl(session.as_raw_fd(), command, &raw mut request) }.into())?;
    Ok(request.fd)
}

fn memfd(bytes: usize) -> io::Result<File> {
    // SAFETY: A string that lives for ever.
    let fd = owned(unsafe { libc::memfd_create(c"bench".as_ptr(), 0) }.into())?;
    let file = File::from(fd);
    file.set_len(bytes as u64)?;
    Ok(file)
}

/// Loads the next kernel, which is to be told that it comes after.
fn load(bytes: usize) -> io::Result<()> {
    let (kernel, initrd) = (File::open(KERNEL)?, File::open(INITRD)?);
    let line = fs::read_to_string("/proc/cmdline")?;
    let line = format!("{} {AFTER}={bytes}", line.trim_end());
    let line = CString::new(line)?;
    let length = line.as_bytes_with_nul().len();
    // SAFETY: Files that are open, and a string of that length with its end.
    let loaded = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            kernel.as_raw_fd(),
            initrd.as_raw_fd(),
            length,
            line.as_ptr(),
            0,
        )
    };
    check(loaded).map(drop)
}

/// The service: counts in a word of `map` what comes over a socket, and answers with the count.
fn serve(map: &SharedMap, mut socket: UnixStream) -> io::Result<()> {
    let count = map.words().get(COUNT).ok_or(io::ErrorKind::InvalidData)?;
    let mut request = [0; 8];
    while socket.read_exact(&mut request).is_ok() {
        let answer = count.fetch_add(1, Ordering::Relaxed) + 1;
        socket.write_all(&answer.to_le_bytes())?;
    }
    Ok(())
}

/// Calls the service so often; returns the last answer, and when it came.
fn call(map: &SharedMap, calls: u64) -> io::Result<(u64, u64)> {
    let (mut near, far) = UnixStream::pair()?;
    thread::scope(|scope| {
        scope.spawn(|| serve(map, far));
        let mut last = Err(io::ErrorKind::InvalidInput.into());
        for request in 0..calls {
            near.write_all(&request.to_le_bytes())?;
            let mut answer = [0; 8];
            near.read_exact(&mut answer)?;
            last = Ok((u64::from_le_bytes(answer), ticks()));
        }
        // Which ends the service.
        drop(near);
        last
    })
}

fn fill(map: &SharedMap) {
    for (at, word) in map.words().iter().enumerate().skip(COUNT + 1) {
        word.store(at as u64, Ordering::Relaxed);
    }
}

/// That all words are what `fill` made them.
fn is_filled(map: &SharedMap) -> bool {
    let words = map.words().iter().enumerate().skip(COUNT + 1);
    words
        .into_iter()
        .all(|(at, word)| word.load(Ordering::Relaxed) == at as u64)
}

fn before(bytes: usize) -> io::Result<()> {
    let file = memfd(bytes)?;
    let map = SharedMap::new(file.as_fd(), bytes)?;
    fill(&map);
    let word = |at: usize| map.words().get(at).ok_or(io::ErrorKind::InvalidData);
    word(0)?.store(MAGIC, Ordering::Relaxed);
    let session = session(CREATE_SESSION)?;
    fd_request(&session, PRESERVE_FD, file.as_raw_fd())?;
    load(bytes)?;
    let (_, answered) = call(&map, CALLS)?;
    word(ANSWERED)?.store(answered, Ordering::Relaxed);
    word(REQUESTED)?.store(ticks(), Ordering::Relaxed);
    // SAFETY: There is nothing left to do in this kernel.
    check(unsafe { libc::reboot(libc::LINUX_REBOOT_CMD_KEXEC) }.into()).map(drop)
}

/// Ticks of the time-stamp counter in a second, by this kernel's clock.
fn ticks_per_second() -> f64 {
    const SAMPLE: Duration = Duration::from_millis(500);

    let (begin, from) = (Instant::now(), ticks());
    thread::sleep(SAMPLE);
    let to = ticks();
    to.saturating_sub(from) as f64 / begin.elapsed().as_secs_f64()
}

fn after(bytes: usize) -> io::Result<String> {
    let session = session(RETRIEVE_SESSION)?;
    let file = owned(fd_request(&session, RETRIEVE_FD, -1)?.into())?;
    let map = SharedMap::new(file.as_fd(), bytes)?;
    let word = |at: usize| match map.words().get(at) {
        Some(word) => Ok(word.load(Ordering::Relaxed)),
        None => Err(io::Error::from(io::ErrorKind::InvalidData)),
    };
    let (magic, last) = (word(0)?, word(bytes / 8 - 1)?);
    let there = ticks();
    let (count, answered) = call(&map, 1)?;
    if magic != MAGIC || last != (bytes / 8 - 1) as u64 || !is_filled(&map) || count != CALLS + 1 {
        return Err(io::Error::other("the memfd is not what was preserved"));
    }
    let per_second = ticks_per_second();
    let nanoseconds = |from: u64, to: u64| to.saturating_sub(from) as f64 / per_second * 1e9;
    Ok(format!(
        "handover={:.0} service={:.0}",
        nanoseconds(word(REQUESTED)?, there),
        nanoseconds(word(ANSWERED)?, answered)
    ))
}

fn mount_proc() -> io::Result<()> {
    let (kind, target) = (c"proc".as_ptr(), c"/proc".as_ptr());
    // SAFETY: Strings that live for ever; this kind takes no data.
    check(unsafe { libc::mount(kind, target, kind, 0, std::ptr::null()) }.into()).map(drop)
}

/// Does what is wanted, and says so.
pub fn first_process(request: Request) -> ExitCode {
    let done = mount_devices().and_then(|()| match request {
        Request::Before(bytes) => {
            mount_proc()?;
            before(bytes)?;
            Err(io::Error::other("the machine has not rebooted"))
        }
        Request::After(bytes) => after(bytes),
    });
    let line = done.unwrap_or_else(|error| format!("failed: {error}"));
    // Who waits for the line sees from its absence that this failed; there is nobody else to tell.
    let _ = fs::write("/dev/kmsg", format!("mkbench: kho {line}\n"));
    loop {
        thread::park();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_environment_says() {
        let of = |pairs: &[(&str, &str)]| {
            parse(|name| {
                let found = pairs.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[(BEFORE, "1024")]), Some(Request::Before(1024)));
        // The next kernel's command line has both.
        let both = of(&[(BEFORE, "1024"), (AFTER, "1024")]);
        assert_eq!(both, Some(Request::After(1024)));
        for wrong in ["", "63", "1025", "-8", "x"] {
            assert_eq!(of(&[(BEFORE, wrong)]), None, "{wrong}");
        }
    }

    #[test]
    fn the_service_counts_on() {
        let file = memfd(4096).unwrap();
        let map = SharedMap::new(file.as_fd(), 4096).unwrap();
        fill(&map);
        assert_eq!(call(&map, 3).unwrap().0, 3);
        assert_eq!(call(&map, 2).unwrap().0, 5);
        assert!(is_filled(&map));
        map.words()[511].store(0, Ordering::Relaxed);
        assert!(!is_filled(&map));
    }

    #[test]
    fn structures_as_the_kernel_has_them() {
        assert_eq!(size_of::<SessionRequest>(), 72);
        assert_eq!(size_of::<FdRequest>(), 16);
    }
}
