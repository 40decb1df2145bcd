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

    /// A count as a file; debugfs has files that own their data, and these counts are static.
    struct Knob(&'static Count);

    impl Writer for Knob {
        fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            writeln!(f, "{}", self.0 .0.load(Relaxed))
        }
    }

    impl Reader for Knob {
        fn read_from_slice(&self, reader: &mut UserSliceReader) -> Result {
            self.0 .0.read_from_slice(reader)
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
            let confirm = directory.read_write_file(c"fail_confirm", Knob(&CONFIRM));
            let roll_call = directory.read_write_file(c"fail_roll_call", Knob(&ROLL_CALL));
            Ok(Self {
                _files: [
                    KBox::pin_init(confirm, GFP_KERNEL)?,
                    KBox::pin_init(roll_call, GFP_KERNEL)?,
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
