// SPDX-License-Identifier: GPL-2.0

//! Ports: messages to and from a program in the kernel at the other end of a link.
//!
//! Two programs that have opened the same number, one at each end, are connected, in both
//! directions. There are three faces to one port:
//!
//! | | each message is | for |
//! | --- | --- | --- |
//! | [`Port`] | a system call | waiting for one thing at a time |
//! | [`MappedPort`] | a few writes to memory | polling, and sleeping after a while |
#![cfg_attr(
    feature = "tokio",
    doc = "| [`AsyncPort`] | a system call | programs on tokio |"
)]
//!
//! Both ends choose theirs for themselves.
//!
//! ```no_run
//! use multikernel::device::Host;
//! use multikernel::port::{OpenPort, Received};
//!
//! # fn main() -> multikernel::Result<()> {
//! let port = Host::open()?.instance("web")?.open_port(0x10007)?;
//! port.send(b"good morning")?;
//! let mut buffer = port.buffer();
//! if let Received::Message(bytes) = port.recv(&mut buffer)? {
//!     println!("{}", String::from_utf8_lossy(&buffer[..bytes]));
//! }
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "tokio")]
mod asynchronous;
// The kernel's own files. It uses more of them than this library does.
#[allow(missing_docs)]
#[path = "../../../../../kernel/multikernel/link/lane.rs"]
mod lane;
mod mapped;
#[allow(dead_code)]
#[path = "../../../../../kernel/multikernel/link/wake.rs"]
mod wake;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::thread;
use std::time::{Duration, Instant};

use multikernel_sys as sys;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fs::{fcntl_getfl, fcntl_setfl, OFlags};

use crate::device::call::Callee;
use crate::device::syscall;
use crate::explain::explain;
use crate::{Error, Result};

#[cfg(feature = "tokio")]
pub use asynchronous::AsyncPort;
pub use mapped::MappedPort;

/// How long to wait for a port to be opened again at the other end, of which nothing tells, until
/// another look.
const NAP: Duration = Duration::from_millis(10);

/// What has become of a wish to receive.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Received {
    /// A message of so many bytes, which are at the beginning of the buffer.
    Message(usize),
    /// There is none, or none has come in time.
    Nothing,
    /// The other end has closed the port, or its kernel has ended, and all that it sent has been
    /// received. In the first case there may be more when it is opened there again.
    Closed,
}

/// What has a link to another kernel, and so can open ports.
pub trait OpenPort {
    /// Opens a port, [`Port::FIRST`] or above.
    ///
    /// # Errors
    ///
    /// By errno:
    ///
    /// - `ENOTCONN`: the other kernel does not take part in the link, or is not up yet.
    /// - `EALREADY`: the instance is not running.
    /// - `EPIPE`: the other kernel ended.
    /// - `EADDRINUSE`: somebody has opened it here.
    /// - `ENOSPC`: the link has no lane left.
    /// - `EINVAL`: it is below [`Port::FIRST`].
    fn open_port(&self, number: u32) -> Result<Port>;
}

/// A port, open at this end.
///
/// Dropping it closes it, and what has come and was not received is lost.
#[derive(Debug)]
pub struct Port {
    fd: OwnedFd,
    /// For errors: `port 0x10007 to instance "web"`.
    name: String,
}

impl Port {
    /// The first port that programs can open.
    pub const FIRST: u32 = sys::MULTIKERNEL_PORT_USER;

    /// The most bytes of a message, as links are made today. A message has one at least.
    pub const BYTES_MAX: usize = 1784;

    /// Opens a port of the link behind `fd`.
    pub(crate) fn open(fd: BorrowedFd<'_>, to: Callee<'_>, number: u32) -> Result<Self> {
        let name = format!("port {number:#x} to {to}");
        let asked = format!("cannot open {name}");
        let opened = syscall::open_port(fd, number).and_then(|fd| Self::from_fd(fd, name));
        opened.map_err(|error| explain_open(to, asked, &error))
    }

    /// A port over a file that keeps messages apart: a port fd, or a test's socket.
    fn from_fd(fd: OwnedFd, name: String) -> io::Result<Self> {
        let flags = fcntl_getfl(&fd)?;
        fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        Ok(Self { fd, name })
    }

    /// A buffer that no message is too long for.
    pub fn buffer(&self) -> Vec<u8> {
        vec![0; Self::BYTES_MAX]
    }

    /// Sends a message, if there is room for it at once; says whether there was.
    ///
    /// # Errors
    ///
    /// By errno: `EMSGSIZE` if it is longer than [`Self::BYTES_MAX`], `EINVAL` if it has no bytes,
    /// `EPIPE` if the other kernel has ended, `EPROTO` if it broke the rules.
    pub fn try_send(&self, message: &[u8]) -> Result<bool> {
        loop {
            match rustix::io::write(&self.fd, message) {
                Ok(_) => return Ok(true),
                Err(rustix::io::Errno::AGAIN) => return Ok(false),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(self.explain("send on", &error.into())),
            }
        }
    }

    /// Sends a message, when there is room for it.
    ///
    /// # Errors
    ///
    /// As [`Self::try_send`].
    pub fn send(&self, message: &[u8]) -> Result<()> {
        self.send_until(message, None).map(drop)
    }

    /// Sends a message if there is room for it within that time; says whether there was.
    ///
    /// # Errors
    ///
    /// As [`Self::try_send`].
    pub fn send_timeout(&self, message: &[u8], timeout: Duration) -> Result<bool> {
        self.send_until(message, Some(Instant::now() + timeout))
    }

    fn send_until(&self, message: &[u8], deadline: Option<Instant>) -> Result<bool> {
        while !self.try_send(message)? {
            let ready = self.wait_for(PollFlags::OUT, deadline)?;
            if ready.is_empty() {
                return Ok(false);
            }
            if !ready.contains(PollFlags::OUT) {
                nap(deadline);
            }
        }
        Ok(true)
    }

    /// Receives a message, if there is one. What is longer than the buffer is cut off.
    ///
    /// # Errors
    ///
    /// `EPROTO` if the other kernel broke the rules; the message is lost.
    pub fn try_recv(&self, buffer: &mut [u8]) -> Result<Received> {
        loop {
            match rustix::io::read(&self.fd, &mut *buffer) {
                Ok(0) => return Ok(Received::Closed),
                Ok(bytes) => return Ok(Received::Message(bytes)),
                Err(rustix::io::Errno::AGAIN) => return Ok(Received::Nothing),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(self.explain("receive on", &error.into())),
            }
        }
    }

    /// Receives a message, when there is one.
    ///
    /// # Errors
    ///
    /// As [`Self::try_recv`].
    pub fn recv(&self, buffer: &mut [u8]) -> Result<Received> {
        self.recv_until(buffer, None)
    }

    /// Receives a message, if there is one within that time.
    ///
    /// # Errors
    ///
    /// As [`Self::try_recv`].
    pub fn recv_timeout(&self, buffer: &mut [u8], timeout: Duration) -> Result<Received> {
        self.recv_until(buffer, Some(Instant::now() + timeout))
    }

    fn recv_until(&self, buffer: &mut [u8], deadline: Option<Instant>) -> Result<Received> {
        loop {
            match self.try_recv(buffer)? {
                Received::Nothing => {}
                received => return Ok(received),
            }
            if self.wait_for(PollFlags::IN, deadline)?.is_empty() {
                return Ok(Received::Nothing);
            }
        }
    }

    /// Whether the other kernel has ended, and not only closed the port; then it has to be opened
    /// anew, in its next life.
    ///
    /// # Errors
    ///
    /// That the kernel cannot be asked.
    pub fn has_ended(&self) -> Result<bool> {
        match syscall::ring_port(self.as_fd()) {
            Ok(()) => Ok(false),
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => Ok(true),
            Err(error) => Err(self.explain("look at", &error)),
        }
    }

    /// Takes the port over, to send and receive without system calls.
    ///
    /// # Errors
    ///
    /// By errno: `EPERM` without CAP_SYS_BOOT, `EPIPE` if the other kernel has ended, `EPROTO` if
    /// it broke the rules, `ENOMEM`.
    pub fn map(self) -> Result<MappedPort> {
        MappedPort::new(self)
    }

    /// Waits until there is one of these things to do, or the port is hung up, and says what;
    /// nothing if the time is over.
    fn wait_for(&self, events: PollFlags, deadline: Option<Instant>) -> Result<PollFlags> {
        let mut polled = [PollFd::new(&self.fd, events)];
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let timeout = left.map(|left| Timespec {
                tv_sec: left.as_secs().cast_signed(),
                tv_nsec: left.subsec_nanos().into(),
            });
            match poll(&mut polled, timeout.as_ref()) {
                Ok(_) => return Ok(polled[0].revents()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(self.explain("wait for", &error.into())),
            }
        }
    }

    fn cannot(&self, what: &str) -> String {
        format!("cannot {what} {}", self.name)
    }

    fn explain(&self, what: &str, error: &io::Error) -> Error {
        let asked = self.cannot(what);
        let (wrong, advice) = match error.raw_os_error() {
            Some(libc::EMSGSIZE) => (
                "the message is too long",
                format!("A message has 1 to {} bytes", Self::BYTES_MAX),
            ),
            Some(libc::EINVAL) => (
                "the message is empty",
                format!("A message has 1 to {} bytes", Self::BYTES_MAX),
            ),
            Some(libc::EPIPE) => (
                "the other kernel has ended",
                "Open the port again when it is up again".to_owned(),
            ),
            _ => return explain(asked, error),
        };
        Error::new(asked, wrong)
            .advice(advice)
            .with_errno(error.raw_os_error().unwrap_or(0))
    }
}

impl AsRawFd for Port {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The other end is closed, and there is no room: waits a while for it to be opened again.
fn nap(deadline: Option<Instant>) {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    thread::sleep(left.map_or(NAP, |left| left.min(NAP)));
}

fn explain_open(to: Callee<'_>, asked: String, error: &io::Error) -> Error {
    let errno = error.raw_os_error().unwrap_or(0);
    if let Some(error) = to.explain_link(&asked, errno) {
        return error;
    }
    let (wrong, advice) = match errno {
        libc::EADDRINUSE => (
            "a program in this kernel has it open",
            "Choose another port, or end that program".to_owned(),
        ),
        libc::ENOSPC => (
            "the link has no lane left",
            "A port keeps its lane as long as both kernels run: use one that was open before"
                .to_owned(),
        ),
        libc::EINVAL => (
            "programs cannot open that port",
            format!("Choose one from {:#x} on", Port::FIRST),
        ),
        _ => return explain(asked, error),
    };
    Error::new(asked, wrong).advice(advice).with_errno(errno)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{socketpair, AddressFamily, SocketFlags, SocketType};

    /// Two ports that are connected, over a socket that keeps messages apart.
    pub(super) fn pair() -> (Port, Port) {
        let (one, other) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let port = |fd| Port::from_fd(fd, "port 0x10007 to the host".to_owned()).unwrap();
        (port(one), port(other))
    }

    #[test]
    fn there_and_back() {
        let (one, other) = pair();
        let mut buffer = other.buffer();
        assert_eq!(other.try_recv(&mut buffer).unwrap(), Received::Nothing);
        one.send(b"first").unwrap();
        assert!(one.send_timeout(b"second", Duration::ZERO).unwrap());
        assert_eq!(other.recv(&mut buffer).unwrap(), Received::Message(5));
        assert_eq!(&buffer[..5], b"first");
        // What does not fit is cut off.
        assert_eq!(other.recv(&mut buffer[..3]).unwrap(), Received::Message(3));
        assert_eq!(&buffer[..3], b"sec");
        drop(one);
        assert_eq!(other.recv(&mut buffer).unwrap(), Received::Closed);
        let error = other.send(b"late").unwrap_err();
        assert_eq!(error.errno(), Some(libc::EPIPE));
        assert_eq!(
            error.to_string(),
            "cannot send on port 0x10007 to the host: the other kernel has ended. Open the port \
             again when it is up again."
        );
    }

    #[test]
    fn time_runs_out() {
        let (one, other) = pair();
        let mut buffer = other.buffer();
        let short = Duration::from_millis(5);
        let begin = Instant::now();
        let received = other.recv_timeout(&mut buffer, short).unwrap();
        assert_eq!(received, Received::Nothing);
        assert!(begin.elapsed() >= short);
        while one.try_send(&buffer).unwrap() {}
        assert!(!one.send_timeout(&buffer, short).unwrap());
        let received = other.recv_timeout(&mut buffer, short).unwrap();
        assert_eq!(received, Received::Message(Port::BYTES_MAX));
        assert!(one.send_timeout(&buffer, short).unwrap());
    }

    #[test]
    fn who_waits_is_woken() {
        let (one, other) = pair();
        let waits = std::thread::spawn(move || {
            let mut buffer = other.buffer();
            (other.recv(&mut buffer).unwrap(), buffer[0])
        });
        one.send(b"x").unwrap();
        assert_eq!(waits.join().unwrap(), (Received::Message(1), b'x'));
    }

    #[test]
    fn why_a_port_cannot_be_opened() {
        let said = |to, errno| {
            let error = io::Error::from_raw_os_error(errno);
            let error = explain_open(to, "cannot open port 0x10007".to_owned(), &error);
            assert_eq!(error.errno(), Some(errno));
            error.to_string()
        };
        let web = Callee::Instance("web");
        for (errno, words) in [
            (libc::EADDRINUSE, "end that program"),
            (libc::ENOSPC, "no lane left"),
            (libc::EINVAL, "from 0x10000 on"),
            (libc::EALREADY, "'mkctl start web'"),
            (libc::ENOTCONN, "'mkctl logs web'"),
            (libc::EPERM, "CAP_SYS_BOOT"),
        ] {
            let text = said(web, errno);
            assert!(text.contains(words), "{text}");
        }
        let text = said(Callee::Host, libc::ENOTTY);
        assert!(text.contains("On a host, name the instance"), "{text}");
    }

    #[test]
    fn the_longest_message_is_that_of_the_lanes() {
        // What kernel/multikernel/link/peer.rs makes.
        let shape = lane::Shape::new(64, 1).unwrap();
        assert_eq!(shape.longest(), Port::BYTES_MAX);
    }
}
