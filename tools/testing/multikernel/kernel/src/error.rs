// SPDX-License-Identifier: GPL-2.0

//! Errors of the kernel: `rust/kernel/error.rs`.

use crate::alloc::{AllocError, InsertError, PushError, RemoveError};

/// An errno.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Error(i32);

/// A `Result` whose error is an errno.
pub type Result<T = (), E = Error> = core::result::Result<T, E>;

impl Error {
    /// The errno, negative.
    pub fn to_errno(self) -> i32 {
        -self.0
    }
}

macro_rules! codes {
    ($($name:ident = $number:literal, $text:literal;)*) => {
        /// The errors that pure modules return; numbers as in `include/uapi/asm-generic/`.
        pub mod code {
            use super::Error;

            $(#[doc = $text] pub const $name: Error = Error($number);)*
        }

        impl core::fmt::Debug for Error {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match self.0 {
                    $($number => f.write_str(stringify!($name)),)*
                    other => write!(f, "Error({other})"),
                }
            }
        }
    };
}

codes! {
    ENOENT = 2, "No such file or directory.";
    ENOEXEC = 8, "Exec format error.";
    ENOMEM = 12, "Out of memory.";
    EACCES = 13, "Permission denied.";
    EFAULT = 14, "Bad address.";
    EBUSY = 16, "Device or resource busy.";
    EEXIST = 17, "File exists.";
    ENODEV = 19, "No such device.";
    EINVAL = 22, "Invalid argument.";
    ENOSPC = 28, "No space left on device.";
    ENAMETOOLONG = 36, "File name too long.";
    ENOLINK = 67, "Link has been severed.";
    EPROTONOSUPPORT = 93, "Protocol not supported.";
    EOPNOTSUPP = 95, "Operation not supported on transport endpoint.";
    EADDRNOTAVAIL = 99, "Cannot assign requested address.";
    EISCONN = 106, "Transport endpoint is already connected.";
    ETIMEDOUT = 110, "Connection timed out.";
    EALREADY = 114, "Operation already in progress.";
    ESTALE = 116, "Stale file handle.";
    EUCLEAN = 117, "Structure needs cleaning.";
}

impl From<AllocError> for Error {
    fn from(_: AllocError) -> Self {
        code::ENOMEM
    }
}

impl<T> From<PushError<T>> for Error {
    fn from(_: PushError<T>) -> Self {
        code::EINVAL
    }
}

impl<T> From<InsertError<T>> for Error {
    fn from(_: InsertError<T>) -> Self {
        code::EINVAL
    }
}

impl From<RemoveError> for Error {
    fn from(_: RemoveError) -> Self {
        code::EINVAL
    }
}
