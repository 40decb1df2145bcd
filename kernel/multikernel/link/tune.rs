// SPDX-License-Identifier: GPL-2.0

//! What an administrator may set of links: at boot by `multikernel.NAME=`, later by a file of that
//! name in `/sys/kernel/debug/multikernel/`.
//!
//! No lock: each setting is one atomic word, which is looked at whenever it matters.

use kernel::{
    debugfs::{
        Dir,
        File,
        Reader,
        Writer, //
    },
    fmt,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    uaccess::UserSliceReader, //
};

/// A number that can be set.
pub(crate) struct Setting {
    value: Atomic<u32>,
    least: u32,
    most: u32,
}

/// For how long at most a call looks for its answer before it sleeps, and an idle CPU for more
/// behind a message, in microseconds; 0 for not at all.
pub(crate) static POLL_US: Setting = Setting::new(POLL_US_DEFAULT, 0, 10_000);

/// How much of a CPU's time one link may have at most for what it brings, in percent; 100 for all.
pub(crate) static RECEIVE_PERCENT: Setting = Setting::new(RECEIVE_PERCENT_DEFAULT, 1, 100);

/// [`POLL_US`] unless it is set: what KVM has for x86 (`halt_poll_ns`).
pub(crate) const POLL_US_DEFAULT: u32 = 200;
/// [`RECEIVE_PERCENT`] unless it is set.
pub(crate) const RECEIVE_PERCENT_DEFAULT: u32 = 75;

impl Setting {
    const fn new(value: u32, least: u32, most: u32) -> Self {
        Self {
            value: Atomic::new(value),
            least,
            most,
        }
    }

    /// What is set now.
    pub(crate) fn get(&self) -> u32 {
        self.value.load(Relaxed)
    }

    /// Sets it.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it is out of its range.
    fn set(&self, value: u32) -> Result {
        if !(self.least..=self.most).contains(&value) {
            return Err(EINVAL);
        }
        self.value.store(value, Relaxed);
        Ok(())
    }
}

/// Sets what the command line says.
pub(crate) fn set_up(poll_us: u32, receive_percent: u32) {
    for (name, setting, value) in [
        ("poll_us", &POLL_US, poll_us),
        ("receive_percent", &RECEIVE_PERCENT, receive_percent),
    ] {
        if setting.set(value).is_err() {
            pr_warn!(
                "{}={} is not from {} to {}\n",
                name,
                value,
                setting.least,
                setting.most
            );
        }
    }
}

/// A setting as a file; debugfs has files that own their data, and settings are static.
struct Knob(&'static Setting);

impl Writer for Knob {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.0.get())
    }
}

impl Reader for Knob {
    fn read_from_slice(&self, reader: &mut UserSliceReader) -> Result {
        let value = Atomic::new(0u32);
        value.read_from_slice(reader)?;
        self.0.set(value.load(Relaxed))
    }
}

/// The files, which are there as long as this is.
pub(crate) struct Knobs {
    _files: [Pin<KBox<File<Knob>>>; 2],
}

impl Knobs {
    /// Creates the files.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(directory: &Dir) -> Result<Self> {
        let poll = directory.read_write_file(c"poll_us", Knob(&POLL_US));
        let percent = directory.read_write_file(c"receive_percent", Knob(&RECEIVE_PERCENT));
        Ok(Self {
            _files: [
                KBox::pin_init(poll, GFP_KERNEL)?,
                KBox::pin_init(percent, GFP_KERNEL)?,
            ],
        })
    }
}
