// SPDX-License-Identifier: GPL-2.0

//! Signals that would end mkctl half-way.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use multikernel::{Error, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

/// Holds SIGHUP, SIGINT and SIGTERM until whoever has this looks at them.
pub struct Signals {
    came: Arc<AtomicBool>,
    released: Arc<AtomicBool>,
    /// Becomes readable when one comes, and stays so.
    wake: UnixStream,
}

impl Signals {
    pub fn hold() -> Result<Self> {
        let failed = |error| Error::new("cannot watch for signals", error);
        let (wake, send) = UnixStream::pair().map_err(failed)?;
        let signals = Self {
            came: Arc::default(),
            released: Arc::default(),
            wake,
        };
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            let send = send.try_clone().map_err(failed)?;
            flag::register_conditional_default(signal, Arc::clone(&signals.released))
                .and_then(|_| flag::register(signal, Arc::clone(&signals.came)))
                .and_then(|_| low_level::pipe::register(signal, send))
                .map_err(failed)?;
        }
        Ok(signals)
    }

    /// Whether one has come.
    pub fn came(&self) -> bool {
        self.came.load(Ordering::Relaxed)
    }

    /// From here on, or no longer, a signal ends mkctl as usual.
    pub fn release(&self, released: bool) {
        self.released.store(released, Ordering::Relaxed);
    }
}

/// Readable to poll(2) once a signal has come.
impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}
