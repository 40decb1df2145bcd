// SPDX-License-Identifier: GPL-2.0

//! What messages cost without user space, for the benchmark.
//!
//! With `CONFIG_MULTIKERNEL_BENCH` the host has the file `/sys/kernel/debug/multikernel/bench`.
//! What is written to it is measured at once, by the process that writes and on its CPU; reading
//! gives the time of each round trip in nanoseconds, one a line, of the measurement before:
//!
//! | request | what is measured |
//! | --- | --- |
//! | `ipi CPU COUNT` | `smp_call_function_single()` of a CPU of this kernel, which it waits for |
//! | `sleep ID CPU BYTES COUNT` | calls of the echo port of an instance's CPU, by who sleeps |
//! | `spin ID CPU BYTES COUNT` | the same by who looks for the answer meanwhile |
//!
//! Owns the times; a mutex of its own guards them, and is held while something is measured. The
//! links' locks nest inside it. Without the option nothing of this is compiled in.

#[cfg(not(CONFIG_MULTIKERNEL_BENCH))]
pub(crate) use disabled::*;
#[cfg(CONFIG_MULTIKERNEL_BENCH)]
pub(crate) use enabled::*;

#[cfg(CONFIG_MULTIKERNEL_BENCH)]
mod enabled {
    use core::ffi::c_void;

    use kernel::{
        bindings,
        debugfs::{
            Dir,
            File,
            Reader,
            Writer, //
        },
        error::to_result,
        fmt,
        new_mutex,
        prelude::*,
        sync::Mutex,
        time::{
            delay::fsleep,
            Delta,
            Instant,
            Monotonic, //
        },
        uaccess::UserSliceReader, //
    };

    use crate::{
        abi::PORT_ECHO,
        link::{
            call::{
                self,
                CALL_MAX, //
            },
            inbox, //
        },
    };

    /// The longest request.
    const LONGEST: usize = 64;
    /// How often something is measured at most.
    const COUNT_MAX: usize = 100_000;
    /// How long an answer may take, in milliseconds. Who spins does so no longer.
    const TIMEOUT_MS: u32 = 1000;

    /// Before each, so that the other CPU does not look for it any more, but has to be rung.
    const PAUSE: Delta = Delta::from_millis(2);

    /// The times of the last measurement, in nanoseconds.
    #[pin_data]
    struct Times {
        #[pin]
        list: Mutex<KVec<u64>>,
    }

    impl Writer for Times {
        fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.list
                .lock()
                .iter()
                .try_for_each(|time| writeln!(f, "{}", time))
        }
    }

    impl Reader for Times {
        fn read_from_slice(&self, reader: &mut UserSliceReader) -> Result {
            let mut buffer = [0; LONGEST];
            let text = buffer.get_mut(..reader.len()).ok_or(EINVAL)?;
            reader.read_slice(text)?;
            let text = core::str::from_utf8(text).map_err(|_| EINVAL)?;
            let mut words = text.split_ascii_whitespace();
            let what = words.next().ok_or(EINVAL)?;
            let mut number = || -> Result<u32> {
                let word = words.next().ok_or(EINVAL)?;
                word.parse().map_err(|_| EINVAL)
            };
            let mut times = self.list.lock();
            times.clear();
            match what {
                "ipi" => {
                    let cpu = number()?;
                    measure(&mut times, number()?, || call_function(cpu))
                }
                "sleep" | "spin" => {
                    let (id, cpu, bytes, count) = (number()?, number()?, number()?, number()?);
                    let request = [0x5a; CALL_MAX];
                    let request = request.get(..bytes as usize).ok_or(EMSGSIZE)?;
                    let mut answer = KVec::from_elem(0u8, CALL_MAX, GFP_KERNEL)?;
                    let links = inbox::links()?;
                    let link = links.iter().find(|link| link.peer_id() == id);
                    let link = link.ok_or(ENOENT)?;
                    let one = match what {
                        "spin" => call::call_spinning,
                        _ => call::call,
                    };
                    measure(&mut times, count, || {
                        let to = Some(cpu);
                        one(link, to, PORT_ECHO, request, &mut answer, TIMEOUT_MS).map(drop)
                    })
                }
                _ => Err(EINVAL),
            }
        }
    }

    /// Does something so often, each time after a pause, and adds how long it took.
    fn measure(times: &mut KVec<u64>, count: u32, mut what: impl FnMut() -> Result) -> Result {
        let count = count as usize;
        if !(1..=COUNT_MAX).contains(&count) {
            return Err(EINVAL);
        }
        times.reserve(count, GFP_KERNEL)?;
        for _ in 0..count {
            fsleep(PAUSE);
            let begin = Instant::<Monotonic>::now();
            what()?;
            let time = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(0);
            // There is room.
            let _ = times.push_within_capacity(time);
        }
        Ok(())
    }

    /// What a CPU is to do: to be there.
    ///
    /// # Safety
    ///
    /// It can be called in any context.
    unsafe extern "C" fn nothing(_: *mut c_void) {}

    /// Has another CPU of this kernel call a function that does nothing, and waits for it.
    ///
    /// # Errors
    ///
    /// `ENXIO` if it is not online.
    fn call_function(cpu: u32) -> Result {
        let cpu = i32::try_from(cpu).map_err(|_| ENXIO)?;
        // An int in Linux 7.2.
        #[allow(clippy::useless_conversion)]
        let wait = true.into();
        // SAFETY: In process context with interrupts on. The function touches nothing, and has
        // returned when this does.
        to_result(unsafe {
            bindings::smp_call_function_single(cpu, Some(nothing), core::ptr::null_mut(), wait)
        })
    }

    /// The file, which is there as long as this is.
    pub(crate) struct Bench {
        _file: Pin<KBox<File<Times>>>,
    }

    impl Bench {
        /// Creates the file.
        ///
        /// # Errors
        ///
        /// `ENOMEM`.
        pub(crate) fn new(directory: &Dir) -> Result<Self> {
            let times = pin_init!(Times {
                list <- new_mutex!(KVec::new(), "multikernel::bench"),
            });
            let file = directory.read_write_file(c"bench", times);
            Ok(Self {
                _file: KBox::pin_init(file, GFP_KERNEL)?,
            })
        }
    }
}

#[cfg(not(CONFIG_MULTIKERNEL_BENCH))]
mod disabled {
    use kernel::{
        debugfs::Dir,
        prelude::*, //
    };

    /// No file.
    pub(crate) struct Bench;

    impl Bench {
        /// Creates none.
        ///
        /// # Errors
        ///
        /// None.
        pub(crate) fn new(_directory: &Dir) -> Result<Self> {
            Ok(Self)
        }
    }
}
