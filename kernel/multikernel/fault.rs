// SPDX-License-Identifier: GPL-2.0

//! Faults to order: a CPU that does not confirm.
//!
//! What the host asks of itself can be made to fail by the kernel's own fault injection
//! (Documentation/fault-injection/). A CPU that does not come to the park code cannot be had from
//! it, nor from an emulator. With `CONFIG_MULTIKERNEL_FAULT_INJECTION`, two files in debugfs order
//! it: a number that is written to `fail_confirm` is how many of the next waits for a CPU's answer
//! end at once as if the time were up, and to `fail_roll_call`, how many answers to a roll call are
//! overlooked. Where the CPU is at that moment is not known, just as after a real timeout.
//!
//! Three more have the host pass for one of another version of the ABI in what it writes for spawns
//! that are started from then on: `claim_version`, `claim_link_version` (in headers of links
//! alone) and `claim_minor`.
//!
//! Without the option nothing of this is compiled in. No lock: each count is one atomic word.

#[cfg(not(CONFIG_MULTIKERNEL_FAULT_INJECTION))]
pub(crate) use disabled::*;
#[cfg(CONFIG_MULTIKERNEL_FAULT_INJECTION)]
pub(crate) use enabled::*;

#[cfg(CONFIG_MULTIKERNEL_FAULT_INJECTION)]
mod enabled {
    use kernel::{
        debugfs::{Dir, File, Reader, Writer},
        fmt,
        prelude::*,
        sync::atomic::{Atomic, Relaxed},
        uaccess::UserSliceReader, //
    };

    use crate::version::claim;

    /// How many faults of one kind are still to come.
    struct Count(Atomic<u32>);

    static CONFIRM: Count = Count(Atomic::new(0));
    static ROLL_CALL: Count = Count(Atomic::new(0));

    impl Count {
        /// Takes one off. Whether there was one.
        fn take(&self) -> bool {
            let mut left = self.0.load(Relaxed);
            while left != 0 {
                match self.0.cmpxchg(left, left - 1, Relaxed) {
                    Ok(_) => return true,
                    Err(now) => left = now,
                }
            }
            false
        }
    }

    /// A number as a file; debugfs has files that own their data, and these numbers are static.
    struct Knob(&'static Atomic<u32>);

    impl Writer for Knob {
        fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            writeln!(f, "{}", self.0.load(Relaxed))
        }
    }

    impl Reader for Knob {
        fn read_from_slice(&self, reader: &mut UserSliceReader) -> Result {
            self.0.read_from_slice(reader)
        }
    }

    /// The files, which are there as long as this is.
    pub(crate) struct Knobs {
        _files: [Pin<KBox<File<Knob>>>; 5],
    }

    impl Knobs {
        /// Creates the files.
        ///
        /// # Errors
        ///
        /// `ENOMEM`.
        pub(crate) fn new(directory: &Dir) -> Result<Self> {
            let file = |name, word| {
                let file = directory.read_write_file(name, Knob(word));
                KBox::pin_init(file, GFP_KERNEL)
            };
            Ok(Self {
                _files: [
                    file(c"fail_confirm", &CONFIRM.0)?,
                    file(c"fail_roll_call", &ROLL_CALL.0)?,
                    file(c"claim_version", &claim::VERSION)?,
                    file(c"claim_link_version", &claim::LINK_VERSION)?,
                    file(c"claim_minor", &claim::MINOR)?,
                ],
            })
        }
    }

    /// Whether a CPU's answer is to count as missing.
    pub(crate) fn confirmation_is_lost() -> bool {
        CONFIRM.take()
    }

    /// Whether a CPU's answer to a roll call is to be overlooked.
    pub(crate) fn roll_call_is_missed() -> bool {
        ROLL_CALL.take()
    }
}

#[cfg(not(CONFIG_MULTIKERNEL_FAULT_INJECTION))]
mod disabled {
    use kernel::{
        debugfs::Dir,
        prelude::*, //
    };

    /// No files.
    pub(crate) struct Knobs;

    impl Knobs {
        /// Creates none.
        ///
        /// # Errors
        ///
        /// None.
        pub(crate) fn new(_directory: &Dir) -> Result<Self> {
            Ok(Self)
        }
    }

    /// It never is.
    pub(crate) fn confirmation_is_lost() -> bool {
        false
    }

    /// It never is.
    pub(crate) fn roll_call_is_missed() -> bool {
        false
    }
}
