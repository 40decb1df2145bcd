// SPDX-License-Identifier: GPL-2.0

//! What an errno of the user ABI means, in words.
//!
//! One errno stands for one cause (include/uapi/linux/multikernel.h); what an operation adds to
//! that is said where the operation is.

use std::io;

use crate::Error;

/// The cause, and what to do, for an errno.
fn cause(errno: i32) -> (&'static str, Option<&'static str>) {
    match errno {
        libc::EPERM => (
            "the kernel does not permit it",
            Some(
                "Run as root (CAP_SYS_BOOT), on a kernel that is not locked down; \
                 'mkctl doctor' tells which it is",
            ),
        ),
        libc::ENOTTY | libc::ENOSYS => (
            "the running kernel does not know this call",
            Some("Use the mkctl that was built with this kernel"),
        ),
        libc::E2BIG => (
            "this mkctl is newer than the running kernel",
            Some("Use the mkctl that was built with this kernel"),
        ),
        libc::EINVAL => (
            "the kernel found a value in the request that is out of its range",
            None,
        ),
        libc::EEXIST => (
            "an instance of this name exists",
            Some("Choose another name, or remove that one with 'mkctl rm'"),
        ),
        libc::ENOENT => (
            "there is no such instance",
            Some("'mkctl ps' lists those there are"),
        ),
        libc::ESTALE => ("the instance has been removed meanwhile", None),
        libc::ENODEV => (
            "a CPU of that number does not exist on this machine",
            Some(CPUS),
        ),
        libc::ENETDOWN => (
            "one of the CPUs is offline",
            Some("Bring it online first, by writing 1 to /sys/devices/system/cpu/cpuN/online"),
        ),
        libc::EOPNOTSUPP => ("this machine cannot do that", None),
        libc::EBUSY => ("it is in use", None),
        libc::EADDRNOTAVAIL => (
            "the memory is not in the pool",
            Some("'mkctl pool' shows what is"),
        ),
        libc::ENOSPC => (
            "the pool, or the memory below 1 MiB, has no free range that is large enough",
            Some("Enlarge the pool with 'mkctl pool grow SIZE', or ask for less"),
        ),
        libc::ENOMEM => ("the host kernel is out of memory", None),
        libc::ENOEXEC => ("no image is loaded", Some("Load one with 'mkctl load'")),
        libc::EALREADY => ("the instance is not running", None),
        libc::EINTR => ("it was interrupted by a signal", Some("Try again")),
        libc::ETIMEDOUT => ("the deadline passed", None),
        libc::EAGAIN => (
            "the other kernel has no room for a message at the moment",
            Some("Try again"),
        ),
        libc::ENOTCONN => (
            "the other kernel does not take part in the link, or is not up yet",
            Some("It needs guest support (CONFIG_MULTIKERNEL_GUEST); its log says more"),
        ),
        libc::EISCONN => ("the two instances are linked already", None),
        libc::ENOLINK => ("the two instances are not linked", None),
        libc::EPROTONOSUPPORT => (
            "the other kernel has another version of the ABI",
            Some("The kernel logs of both say which; use kernels of the same version"),
        ),
        libc::EPIPE => ("the other kernel ended meanwhile", None),
        libc::ECONNREFUSED => ("nobody has that port in the other kernel", None),
        libc::EMSGSIZE => ("a message or an answer is too long", None),
        libc::EPROTO => (
            "the other kernel broke the rules of the link",
            Some("The kernel log says which; start the instance anew"),
        ),
        _ => ("", None),
    }
}

/// Advice where a CPU number is wrong.
pub const CPUS: &str = "Choose with --cpus from those that 'mkctl pool' lists as host";

/// Turns an errno into an error, without more knowledge than the errno.
pub fn explain(asked: impl Into<String>, error: &io::Error) -> Error {
    let Some(errno) = error.raw_os_error() else {
        return Error::new(asked, error);
    };
    let (wrong, advice) = cause(errno);
    let explained = match wrong {
        "" => Error::new(asked, error),
        _ => Error::new(asked, wrong),
    };
    let explained = explained.with_errno(errno);
    match advice {
        Some(advice) => explained.advice(advice),
        None => explained,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_errno_of_the_abi_has_words() {
        for errno in [
            libc::EPERM,
            libc::ENOTTY,
            libc::E2BIG,
            libc::EINVAL,
            libc::EEXIST,
            libc::ENOENT,
            libc::ESTALE,
            libc::ENODEV,
            libc::ENETDOWN,
            libc::EOPNOTSUPP,
            libc::EBUSY,
            libc::EADDRNOTAVAIL,
            libc::ENOSPC,
            libc::ENOMEM,
            libc::ENOEXEC,
            libc::EALREADY,
            libc::EINTR,
            libc::ETIMEDOUT,
            libc::EAGAIN,
            libc::ENOTCONN,
            libc::EISCONN,
            libc::ENOLINK,
            libc::EPROTONOSUPPORT,
            libc::EPIPE,
            libc::ECONNREFUSED,
            libc::EMSGSIZE,
            libc::EPROTO,
        ] {
            let error = explain("cannot", &io::Error::from_raw_os_error(errno));
            assert_eq!(error.errno(), Some(errno));
            assert!(!error.to_string().contains("os error"), "{error}");
        }
        let other = explain("cannot", &io::Error::from_raw_os_error(libc::EIO));
        assert!(other.to_string().contains("os error 5"), "{other}");
    }
}
