// SPDX-License-Identifier: GPL-2.0

//! Two threads on two cores, and what is measured between them.

use std::arch::x86_64::_rdtsc;
use std::hint::{black_box, spin_loop};
use std::io;
use std::mem;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

/// Where messages of `N` bytes go in.
pub trait Source<const N: usize>: Send {
    /// Sends the messages in their order, and waits for room as long as there is none.
    fn send(&mut self, messages: &[[u8; N]]);
}

/// Where messages of `N` bytes come out.
pub trait Sink<const N: usize>: Send {
    /// Copies messages to the beginning of `messages`, waits for the first, and returns how many.
    fn receive(&mut self, messages: &mut [[u8; N]]) -> usize;
}

/// Waits until `ready` gives something.
pub fn wait<T>(mut ready: impl FnMut() -> Option<T>) -> T {
    loop {
        if let Some(value) = ready() {
            return value;
        }
        for _ in 0..1 {
            spin_loop();
        }
    }
}

/// How many messages of `N` bytes are sent or taken in one call, at most: some KiB.
pub const fn batch<const N: usize>() -> usize {
    match 4096 / N {
        0 => 1,
        1..=32 => 4096 / N,
        _ => 32,
    }
}

/// What came of a run in which messages followed each other.
pub struct Stream {
    /// Messages in a second.
    pub rate: f64,
    /// The same for each part of the run.
    pub parts: Vec<f64>,
}

/// What came of a run in which each message waited for the answer to the one before. All times are
/// in nanoseconds.
pub struct Trips {
    /// There and back, on average, with no clock read in between.
    pub round: f64,
    /// There and back, each by the clock.
    pub rounds: Vec<f64>,
    /// One way, the mean of there and back, so that a difference between the clocks cancels.
    pub ways: Vec<f64>,
}

/// The two cores.
pub struct Pair {
    cores: [usize; 2],
    ticks_per_ns: f64,
}

/// Parts of a run of which each has a rate of its own. The first two only warm the caches.
const PARTS: usize = 34;

impl Pair {
    /// The last two cores that this process may use, which the calling thread is pinned to.
    ///
    /// # Errors
    ///
    /// There is but one, or threads cannot be pinned.
    pub fn new() -> io::Result<Self> {
        let allowed = allowed_cores()?;
        let [.., first, second] = allowed[..] else {
            return Err(io::Error::other("it takes two cores, and there is one"));
        };
        pin(first)?;
        let start = (Instant::now(), ticks());
        while start.0.elapsed() < Duration::from_millis(50) {}
        let ticks_per_ns = (ticks() - start.1) as f64 / start.0.elapsed().as_nanos() as f64;
        Ok(Self {
            cores: [first, second],
            ticks_per_ns,
        })
    }

    /// The numbers of the cores.
    pub fn cores(&self) -> [usize; 2] {
        self.cores
    }

    fn ns(&self, ticks: u64) -> f64 {
        ticks as f64 / self.ticks_per_ns
    }

    /// Runs one closure on each core, begun together. `None`: one of them lost its core to somebody
    /// else in between, so that it says nothing of the cores.
    fn both<A, B: Send>(
        &self,
        near: impl FnOnce() -> A,
        far: impl FnOnce() -> B + Send,
    ) -> Option<(A, B)> {
        let ready = AtomicU32::new(0);
        let meet = || {
            ready.fetch_add(1, Ordering::SeqCst);
            wait(|| (ready.load(Ordering::SeqCst) == 2).then_some(()));
            preemptions()
        };
        let far_core = self.cores[1];
        let there = &Barrier::new(2);
        thread::scope(|scope| {
            let far = scope.spawn(move || {
                pin(far_core).expect("the core was there a moment ago");
                there.wait();
                let _urgent = Urgent::new();
                let before = meet();
                let value = far();
                (value, preemptions() == before)
            });
            // It begins its life on the core of this thread, which must sleep to let it go.
            there.wait();
            let urgent = Urgent::new();
            let before = meet();
            let value = near();
            let near_alone = preemptions() == before;
            drop(urgent);
            let (far_value, far_alone) = far.join().expect("the other thread has failed");
            (near_alone && far_alone).then_some((value, far_value))
        })
    }

    /// Sends `count` messages as fast as they will go.
    pub fn stream<const N: usize>(
        &self,
        mut source: impl Source<N>,
        mut sink: impl Sink<N>,
        count: usize,
    ) -> Option<Stream> {
        let part = count.div_ceil(PARTS * batch::<N>()) * batch::<N>();
        let count = part * PARTS;
        let mut out = vec![[0x5a; N]; batch::<N>()];
        let mut into = vec![[0; N]; batch::<N>()];
        let near = move || {
            for first in (0..count).step_by(batch::<N>()) {
                for (message, number) in out.iter_mut().zip(first as u64..) {
                    message[..8].copy_from_slice(&number.to_le_bytes());
                }
                source.send(black_box(&out));
            }
            // What it is made of must be there until the other side has taken all.
            source
        };
        let far = move || {
            let mut times = Vec::with_capacity(PARTS);
            let mut taken = 0;
            while taken < count {
                let number = sink.receive(&mut into);
                for message in black_box(&into[..number]) {
                    let word = message.first_chunk().map(|word| u64::from_le_bytes(*word));
                    assert_eq!(word, Some(taken as u64), "a message is not what was sent");
                    taken += 1;
                    if taken % part == 0 {
                        times.push((taken, ticks()));
                    }
                }
            }
            (times, sink)
        };
        let (_source, (times, _sink)) = self.both(near, far)?;
        let rate = |(n0, t0), (n1, t1)| (n1 - n0) as f64 * 1e9 / self.ns(t1 - t0);
        Some(Stream {
            rate: rate(times[1], times[PARTS - 1]),
            parts: times[1..]
                .windows(2)
                .map(|two| rate(two[0], two[1]))
                .collect(),
        })
    }

    /// Sends one message at a time, each when the answer to the one before has come.
    pub fn trips<const N: usize>(
        &self,
        (mut call, mut called): (impl Source<N>, impl Sink<N>),
        (mut answer, mut answered): (impl Source<N>, impl Sink<N>),
        count: usize,
    ) -> Option<Trips> {
        // Warm-up, without a clock, with one clock, with the clocks of both.
        let phases = [count / 4, count, count, count];
        let near = move || {
            let mut message = [[0x5a; N]];
            let mut trip = |stamp: u64, number: usize| {
                message[0][..8].copy_from_slice(&stamp.to_le_bytes());
                message[0][8..16].copy_from_slice(&(number as u64).to_le_bytes());
                call.send(black_box(&message));
                answered.receive(&mut message);
                assert_eq!(&message[0][8..16], &(number as u64).to_le_bytes());
                u64::from_le_bytes(*message[0].first_chunk().unwrap_or(&[0; 8]))
            };
            (0..phases[0]).for_each(|number| {
                black_box(trip(0, number));
            });
            let start = ticks();
            (0..phases[1]).for_each(|number| {
                black_box(trip(0, number));
            });
            let plain = ticks() - start;
            let mut rounds = Vec::with_capacity(count);
            for number in 0..phases[2] {
                let start = ticks();
                trip(0, number);
                rounds.push(ticks() - start);
            }
            let mut ways = Vec::with_capacity(count);
            for number in 0..phases[3] {
                let stamp = trip(ticks(), number);
                ways.push(ticks().wrapping_sub(stamp) as i64);
            }
            (plain, rounds, ways, call, answered)
        };
        let far = move || {
            let mut message = [[0; N]];
            let mut ways = Vec::with_capacity(count);
            for _ in 0..phases[..3].iter().sum() {
                called.receive(&mut message);
                answer.send(&message);
            }
            for _ in 0..phases[3] {
                called.receive(&mut message);
                let now = ticks();
                let stamp = u64::from_le_bytes(*message[0].first_chunk().unwrap_or(&[0; 8]));
                ways.push(now.wrapping_sub(stamp) as i64);
                message[0][..8].copy_from_slice(&ticks().to_le_bytes());
                answer.send(&message);
            }
            (ways, answer, called)
        };
        let ((plain, rounds, there, ..), (back, ..)) = self.both(near, far)?;
        let both_ways = there.iter().zip(&back).map(|(there, back)| there + back);
        Some(Trips {
            round: self.ns(plain) / count as f64,
            rounds: rounds.into_iter().map(|ticks| self.ns(ticks)).collect(),
            ways: both_ways
                .map(|sum| sum as f64 / 2.0 / self.ticks_per_ns)
                .collect(),
        })
    }
}

/// The time-stamp counter.
pub fn ticks() -> u64 {
    // SAFETY: Every x86-64 CPU has the instruction, and Linux lets processes use it.
    unsafe { _rdtsc() }
}

/// The calling thread has real-time priority, if it may: other programs are kept off its core for
/// the millisecond or two that a run takes.
struct Urgent;

impl Urgent {
    fn new() -> Self {
        Self::set(libc::SCHED_FIFO, 1);
        Self
    }

    fn set(policy: i32, priority: i32) {
        let parameters = libc::sched_param {
            sched_priority: priority,
        };
        // SAFETY: The pointer is to a `struct sched_param` that outlives the call. Whether it has
        // succeeded is of no matter: who loses its core runs again.
        unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) };
    }
}

impl Drop for Urgent {
    fn drop(&mut self) {
        Self::set(libc::SCHED_OTHER, 0);
    }
}

/// How often the calling thread has lost its core to another one.
fn preemptions() -> i64 {
    // SAFETY: A struct of integers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { mem::zeroed() };
    // SAFETY: The pointer is to a `struct rusage` that outlives the call.
    unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
    usage.ru_nivcsw
}

fn allowed_cores() -> io::Result<Vec<usize>> {
    // SAFETY: An array of integers, for which zero is a value.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: The pointer is to a set of that size, which outlives the call.
    if unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: Every number is below the number of bits of a set.
    let has = |core: &usize| unsafe { libc::CPU_ISSET(*core, &set) };
    Ok((0..libc::CPU_SETSIZE as usize).filter(has).collect())
}

fn pin(core: usize) -> io::Result<()> {
    // SAFETY: An array of integers, for which zero is a value.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: `core` comes from `allowed_cores()`, so it is below the number of bits of a set.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: The pointer is to a set of that size, which outlives the call.
    if unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
