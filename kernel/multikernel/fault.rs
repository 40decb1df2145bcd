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
//! A step with a session takes an instant, in which nobody can be made to end from outside. A
//! number that is written to `hold_step` has each such step stay where it is until another number
//! is written, for [`HOLD_MS`] at most: the operation of `handover/abi.rs` before the host makes
//! it, with [`HOLD_MADE`] before its answer goes out, and [`HOLD_PUT`] holds a change of the
//! entries, in this kernel, before it is in force. `held_step` is what is held at the moment, else
//! 0.
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
        time::{delay::fsleep, Delta},
        uaccess::UserSliceReader, //
    };

    use crate::version::claim;

    /// How many faults of one kind are still to come.
    struct Count(Atomic<u32>);

    static CONFIRM: Count = Count(Atomic::new(0));
    static ROLL_CALL: Count = Count(Atomic::new(0));

    /// Where steps with sessions are held, and where one is.
    static HOLD_STEP: Atomic<u32> = Atomic::new(0);
    static HELD_STEP: Atomic<u32> = Atomic::new(0);

    /// Added to an operation: it has been made, and nobody knows.
    pub(crate) const HOLD_MADE: u32 = 0x100;
    /// A change of entries: contents are written, and not in force.
    pub(crate) const HOLD_PUT: u32 = 0x200;
    /// For how long a step is held at most, in milliseconds: less than who has asked waits.
    const HOLD_MS: u32 = 6_000;
    /// How often it is looked whether it is still to be held, in milliseconds.
    const LOOK_MS: u32 = 1;

    /// Holds who comes here with this step, if that is ordered, unless it is a process that is
    /// killed. Sleeps.
    pub(crate) fn hold(step: u32) {
        if HOLD_STEP.load(Relaxed) != step {
            return;
        }
        HELD_STEP.store(step, Relaxed);
        for _ in 0..HOLD_MS / LOOK_MS {
            if HOLD_STEP.load(Relaxed) != step || kernel::current!().signal_pending() {
                break;
            }
            fsleep(Delta::from_millis(LOOK_MS.into()));
        }
        HELD_STEP.store(0, Relaxed);
    }

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
        _files: [Pin<KBox<File<Knob>>>; 7],
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
                    file(c"hold_step", &HOLD_STEP)?,
                    file(c"held_step", &HELD_STEP)?,
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

    /// Added to an operation.
    pub(crate) const HOLD_MADE: u32 = 0x100;
    /// A change of entries.
    pub(crate) const HOLD_PUT: u32 = 0x200;

    /// Nobody is held.
    pub(crate) fn hold(_step: u32) {}
}
