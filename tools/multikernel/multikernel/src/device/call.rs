// SPDX-License-Identifier: GPL-2.0

//! Calls to ports of the kernel at the other end of a link.
//!
//! Both ends are a [`Peer`]: on the host an instance, whose spawn kernel is called; in a spawn the
//! host's kernel.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use multikernel_sys as sys;

use super::{syscall, LinkStats, DEVICE};
use crate::explain::explain;
use crate::port::{OpenPort, Port};
use crate::{Error, Result};

/// What is called.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The port, not 0.
    pub port: u32,
    /// The other kernel's CPU on which it is called; `None` for any.
    pub cpu: Option<u32>,
    /// How long to wait for the answer: 1 ms to an hour.
    pub timeout: Duration,
    /// What is sent, at most [`Call::BYTES_MAX`].
    pub request: &'a [u8],
}

impl<'a> Call<'a> {
    /// The most bytes of a call, and of an answer.
    pub const BYTES_MAX: usize = sys::MULTIKERNEL_CALL_MAX as usize;

    /// A call of the port that answers with what it was sent, on any CPU, within a second.
    pub fn echo(request: &'a [u8]) -> Self {
        Self {
            port: sys::MULTIKERNEL_PORT_ECHO,
            cpu: None,
            timeout: Duration::from_secs(1),
            request,
        }
    }
}

/// The kernel at the other end of a link.
pub trait Peer {
    /// Calls a port and waits for the answer, which is put at the beginning of `answer`; says how
    /// many bytes it has.
    ///
    /// # Errors
    ///
    /// By errno:
    ///
    /// - `ENOTCONN`: the other kernel does not take part in the link, or is not up yet.
    /// - `EPROTONOSUPPORT`: the other kernel has another version of the ABI.
    /// - `EALREADY`: the instance is not running.
    /// - `EPIPE`: the other kernel ended, before or meanwhile.
    /// - `ECONNREFUSED`: nobody has the port.
    /// - `EINVAL`: the other kernel has no such CPU, or a value is out of its range.
    /// - `EMSGSIZE`: the request is longer than [`Call::BYTES_MAX`], or the answer than `answer`.
    /// - `ETIMEDOUT`, `EINTR`: the call has been sent, and what it does is done, unless there was
    ///   no room for it all the time.
    /// - `EBUSY`: it has not been sent, as too many calls wait.
    /// - `EPROTO`: the other kernel broke the rules of the link.
    /// - any other that the port answers with.
    fn call(&self, call: &Call<'_>, answer: &mut [u8]) -> Result<usize>;

    /// Counters of the link.
    ///
    /// # Errors
    ///
    /// By errno: `EALREADY` if the instance is not running, `ENOTCONN` if this kernel has no link
    /// to its host, `ENOTTY` if the kernel has no such counters, or is no spawn.
    fn link_stats(&self) -> Result<LinkStats>;
}

/// The host, as a spawn sees it.
#[derive(Debug)]
pub struct HostPeer {
    file: File,
}

impl HostPeer {
    /// Opens the device, in a spawn. That this is one turns out at the first call.
    pub fn open() -> Result<Self> {
        Self::open_at(Path::new(DEVICE))
    }

    /// Opens the device at another path.
    pub fn open_at(path: &Path) -> Result<Self> {
        super::host::open_device(path).map(|file| Self { file })
    }
}

impl Peer for HostPeer {
    fn call(&self, call: &Call<'_>, answer: &mut [u8]) -> Result<usize> {
        Callee::Host.call(self.file.as_fd(), call, answer)
    }

    fn link_stats(&self) -> Result<LinkStats> {
        Callee::Host.link_stats(self.file.as_fd())
    }
}

impl OpenPort for HostPeer {
    fn open_port(&self, number: u32) -> Result<Port> {
        Port::open(self.file.as_fd(), Callee::Host, number)
    }
}

/// Whom an error is about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Callee<'a> {
    /// An instance of this name.
    Instance(&'a str),
    /// The host of this spawn.
    Host,
}

impl fmt::Display for Callee<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instance(name) => write!(f, "instance \"{name}\""),
            Self::Host => f.write_str("the host"),
        }
    }
}

impl Callee<'_> {
    pub(super) fn call(
        self,
        fd: BorrowedFd<'_>,
        call: &Call<'_>,
        answer: &mut [u8],
    ) -> Result<usize> {
        let cpu = call.cpu.unwrap_or(sys::MULTIKERNEL_CPU_ANY);
        // What does not fit is out of range to the kernel too.
        let timeout_ms = u32::try_from(call.timeout.as_millis()).unwrap_or(u32::MAX);
        let (result, bytes) = syscall::call(fd, call.port, cpu, timeout_ms, call.request, answer);
        match result {
            Ok(()) if bytes <= answer.len() => Ok(bytes),
            Ok(()) => Err(Error::new(
                self.cannot(call),
                "the kernel says that the answer is longer than there is room",
            )),
            Err(error) => Err(self.explain(call, answer.len(), bytes, &error)),
        }
    }

    /// What an errno says of the link itself, if it does.
    pub(crate) fn explain_link(self, asked: &str, errno: i32) -> Option<Error> {
        let (wrong, advice) = match (errno, self) {
            (libc::ENOTCONN, Self::Instance(name)) => (
                "its kernel does not take part in the link, or is not up yet",
                format!(
                    "It needs guest support (CONFIG_MULTIKERNEL_GUEST); 'mkctl logs {name}' shows \
                     how far it is"
                ),
            ),
            (libc::ENOTCONN, Self::Host) => (
                "this kernel has no link to its host",
                "This kernel's log says why; a host without links offers none".to_owned(),
            ),
            (libc::EPROTONOSUPPORT, _) => (
                "the other kernel has another version of the ABI",
                "The kernel logs of both say which; use kernels of the same version".to_owned(),
            ),
            (libc::EALREADY, Self::Instance(name)) => (
                "it is not running",
                format!("Start it with 'mkctl start {name}'"),
            ),
            (libc::EPIPE, Self::Instance(_)) => (
                "its kernel ended, and does not answer any more",
                "'mkctl ps' shows why".to_owned(),
            ),
            (libc::EPIPE, Self::Host) => (
                "the link has ended",
                "There is another one when this instance is started again".to_owned(),
            ),
            (libc::ENOTTY, Self::Host) => (
                "this kernel is no spawn, or does not know links",
                "On a host, name the instance".to_owned(),
            ),
            _ => return None,
        };
        Some(Error::new(asked, wrong).advice(advice).with_errno(errno))
    }

    pub(super) fn link_stats(self, fd: BorrowedFd<'_>) -> Result<LinkStats> {
        LinkStats::read(fd).map_err(|error| {
            let asked = format!("cannot tell what the link to {self} carried");
            let errno = error.raw_os_error().unwrap_or(0);
            self.explain_link(&asked, errno)
                .unwrap_or_else(|| explain(asked, &error))
        })
    }

    fn cannot(self, call: &Call<'_>) -> String {
        format!("cannot call port {} of {self}", call.port)
    }

    /// What an errno means here; `room` for an answer there was, `bytes` the kernel said it has.
    fn explain(self, call: &Call<'_>, room: usize, bytes: usize, error: &io::Error) -> Error {
        let asked = self.cannot(call);
        let errno = error.raw_os_error();
        if let Some(error) = errno.and_then(|errno| self.explain_link(&asked, errno)) {
            return error;
        }
        let (wrong, advice) = match (errno, self) {
            (Some(libc::ECONNREFUSED), _) => (
                "nobody has that port there".to_owned(),
                format!(
                    "Start what is to answer, or choose another port; port {} answers always",
                    sys::MULTIKERNEL_PORT_ECHO
                ),
            ),
            (Some(libc::EMSGSIZE), _) if call.request.len() > Call::BYTES_MAX => (
                format!("the request has {} bytes", call.request.len()),
                format!("Send at most {}", Call::BYTES_MAX),
            ),
            (Some(libc::EMSGSIZE), _) if bytes > room => (
                format!("the answer has {bytes} bytes, and there is room for {room}"),
                format!("Make room; no answer has more than {}", Call::BYTES_MAX),
            ),
            (Some(libc::ETIMEDOUT), Self::Instance(name)) => (
                format!("no answer came within {} ms", call.timeout.as_millis()),
                format!(
                    "It may be busy, or hang; 'mkctl inspect {name}' shows whether its CPUs still \
                     take interrupts (beats)"
                ),
            ),
            (Some(libc::ETIMEDOUT), Self::Host) => (
                format!("no answer came within {} ms", call.timeout.as_millis()),
                "The host may be busy; try again with a longer timeout".to_owned(),
            ),
            (Some(libc::EBUSY), _) => (
                "too many calls wait for their answers".to_owned(),
                "Try again when some have ended".to_owned(),
            ),
            (Some(libc::EINVAL), _) => match call.cpu {
                Some(cpu) => (
                    format!("it has no CPU {cpu}, or another value is out of its range"),
                    "CPUs are numbered from 0, as the other kernel numbers them".to_owned(),
                ),
                None => return explain(asked, error),
            },
            _ => return explain(asked, error),
        };
        Error::new(asked, wrong)
            .advice(advice)
            .with_errno(errno.unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: Call<'_> = Call {
        port: 9,
        cpu: Some(3),
        timeout: Duration::from_millis(250),
        request: b"abc",
    };
    const WEB: Callee<'_> = Callee::Instance("web");

    fn said(callee: Callee<'_>, call: &Call<'_>, errno: i32) -> String {
        let error = io::Error::from_raw_os_error(errno);
        let error = callee.explain(call, 16, 40, &error);
        assert_eq!(error.errno(), Some(errno));
        error.to_string()
    }

    #[test]
    fn what_was_asked_what_is_wrong_what_to_do() {
        assert_eq!(
            said(WEB, &CALL, libc::ENOTCONN),
            "cannot call port 9 of instance \"web\": its kernel does not take part in the link, or \
             is not up yet. It needs guest support (CONFIG_MULTIKERNEL_GUEST); 'mkctl logs web' \
             shows how far it is."
        );
        assert_eq!(
            said(Callee::Host, &CALL, libc::EPIPE),
            "cannot call port 9 of the host: the link has ended. There is another one when this \
             instance is started again."
        );
        for (errno, words) in [
            (libc::EPROTONOSUPPORT, "another version of the ABI"),
            (libc::EALREADY, "'mkctl start web'"),
            (libc::EPIPE, "'mkctl ps'"),
            (libc::ECONNREFUSED, "port 1 answers always"),
            (
                libc::EMSGSIZE,
                "the answer has 40 bytes, and there is room for 16",
            ),
            (
                libc::ETIMEDOUT,
                "within 250 ms. It may be busy, or hang; 'mkctl inspect web'",
            ),
            (libc::EBUSY, "too many calls wait"),
            (libc::EINVAL, "no CPU 3"),
            (libc::EAGAIN, "no room for a message at the moment"),
            (libc::EPROTO, "start the instance anew"),
            (libc::EINTR, "interrupted by a signal"),
        ] {
            let text = said(WEB, &CALL, errno);
            assert!(text.contains(words), "{text}");
            assert!(!text.contains("os error"), "{text}");
        }
        for (errno, words) in [
            (libc::ENOTCONN, "no link to its host"),
            (libc::ENOTTY, "no spawn"),
            (libc::ETIMEDOUT, "The host may be busy"),
        ] {
            let text = said(Callee::Host, &CALL, errno);
            assert!(text.contains(words), "{text}");
        }
    }

    #[test]
    fn which_of_two_is_too_long() {
        let long = Call {
            request: &[0; Call::BYTES_MAX + 1],
            ..CALL
        };
        let text = said(WEB, &long, libc::EMSGSIZE);
        assert!(
            text.contains("the request has 1025 bytes. Send at most 1024."),
            "{text}"
        );
        // Neither: the other side's own, of which nothing more is known.
        let error = io::Error::from_raw_os_error(libc::EMSGSIZE);
        let text = WEB.explain(&CALL, 1024, 1024, &error).to_string();
        assert!(
            text.contains("a message or an answer is too long"),
            "{text}"
        );
    }

    #[test]
    fn a_value_out_of_range_without_a_cpu() {
        let any = Call { cpu: None, ..CALL };
        let text = said(WEB, &any, libc::EINVAL);
        assert!(text.contains("out of its range"), "{text}");
        assert!(!text.contains("CPU"), "{text}");
    }

    #[test]
    fn a_file_that_is_not_the_device() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let host = HostPeer::open_at(file.path()).unwrap();
        let error = host.call(&Call::echo(b"x"), &mut [0; 8]).unwrap_err();
        assert_eq!(error.errno(), Some(libc::ENOTTY));
        assert!(error.to_string().contains("name the instance"), "{error}");
        let error = HostPeer::open_at(Path::new("/nonexistent/multikernel")).unwrap_err();
        assert!(error.to_string().contains("CONFIG_MULTIKERNEL"), "{error}");
    }

    #[test]
    fn an_echo_is_port_one_on_any_cpu() {
        let echo = Call::echo(b"x");
        assert_eq!((echo.port, echo.cpu, echo.request), (1, None, &b"x"[..]));
        assert_eq!(Call::BYTES_MAX, 1024);
    }
}
