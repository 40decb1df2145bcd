// SPDX-License-Identifier: GPL-2.0

//! Several pairs of CPUs at once, each one of the host and one of the spawn, and what doorbells
//! they need.
//!
//! A pair is a thread on a CPU of the host, which calls the echo port on the spawn's CPU of the
//! same number; there the kernel itself answers. Pairs share no lane and no bell: with as many
//! processors as CPUs, two of them take no longer than one.

use std::io;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use multikernel::device::{Call, Instance, Peer};

use crate::kernel::Counts;
use crate::local;
use crate::row::Figure;

/// Bytes of each message: it fills a slot of a lane, with the header of a call and of a slot.
pub const BYTES: usize = 32;

/// How long a call may take until it counts as lost.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Calls the echo port on a CPU of the spawn, or on any.
pub fn call(instance: &Instance, cpu: Option<u32>, request: &[u8]) -> io::Result<()> {
    let call = Call {
        cpu,
        timeout: TIMEOUT,
        ..Call::echo(request)
    };
    let mut answer = [0; Call::BYTES_MAX];
    match instance.call(&call, &mut answer) {
        Ok(bytes) if answer.get(..bytes) == Some(request) => Ok(()),
        Ok(_) => Err(io::Error::other("an answer is not what was sent")),
        Err(error) => Err(io::Error::other(error.to_string())),
    }
}

/// Has `pairs` pairs do `count` calls each, with `callers` threads each that call at once; how long
/// each pair took.
fn flood(
    instance: &Instance,
    pairs: usize,
    callers: usize,
    count: usize,
) -> io::Result<Vec<Duration>> {
    let start = Barrier::new(pairs * callers);
    let one = |pair: usize| {
        // All meet, also who cannot go on.
        let pinned = local::pin(pair);
        start.wait();
        pinned?;
        let begin = Instant::now();
        for _ in 0..count.div_ceil(callers) {
            call(instance, Some(pair as u32), &[0x5a; BYTES])?;
        }
        Ok(begin.elapsed())
    };
    let times: io::Result<Vec<Duration>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..pairs * callers)
            .map(|number| scope.spawn(move || one(number / callers)))
            .collect();
        let join = |thread: thread::ScopedJoinHandle<'_, io::Result<Duration>>| {
            let failed = |_| Err(io::Error::other("a thread has failed"));
            thread.join().unwrap_or_else(failed)
        };
        threads.into_iter().map(join).collect()
    });
    Ok(slowest(&times?, callers))
}

/// The longest time of each `callers` in a row.
fn slowest(times: &[Duration], callers: usize) -> Vec<Duration> {
    let longest = |times: &[Duration]| times.iter().copied().max().unwrap_or_default();
    times.chunks(callers).map(longest).collect()
}

/// Doorbells for a thousand messages.
fn per_thousand(counts: Counts) -> f64 {
    counts.rung as f64 * 1e3 / counts.sent.max(1) as f64
}

/// So many pairs at once: thousands of calls in a second of each pair, of all together, and the
/// doorbells that the host rang for a thousand of them.
pub fn scaling(instance: &Instance, pairs: usize, count: usize) -> io::Result<Vec<Figure>> {
    let before = Counts::of(instance.id())?;
    let times = flood(instance, pairs, 1, count)?;
    let counts = Counts::of(instance.id())?.since(before);
    let rates: Vec<f64> = times
        .iter()
        .map(|time| count as f64 / time.as_secs_f64() / 1e3)
        .collect();
    let longest = slowest(&times, pairs)[0];
    let all = (count * pairs) as f64 / longest.as_secs_f64() / 1e3;
    Ok(vec![
        Figure::of_parts(rates),
        Figure::of_parts(vec![all]),
        Figure::of_parts(vec![per_thousand(counts)]),
    ])
}

/// Doorbells for a thousand messages where each finds the receiver asleep.
pub fn steady(instance: &Instance, count: usize) -> io::Result<Figure> {
    const PAUSE: Duration = Duration::from_millis(2);

    local::pin(local::CPUS[0])?;
    let before = Counts::of(instance.id())?;
    for _ in 0..count {
        call(instance, Some(0), &[0x5a; BYTES])?;
        thread::sleep(PAUSE);
    }
    let counts = Counts::of(instance.id())?.since(before);
    Ok(Figure::of_parts(vec![per_thousand(counts)]))
}

/// Doorbells for a thousand messages of many callers on one CPU.
pub fn saturated(instance: &Instance, count: usize) -> io::Result<Figure> {
    const CALLERS: usize = 32;

    let before = Counts::of(instance.id())?;
    flood(instance, 1, CALLERS, count)?;
    let counts = Counts::of(instance.id())?.since(before);
    Ok(Figure::of_parts(vec![per_thousand(counts)]))
}

/// Doorbells in a second, rung and heard, over a link on which nothing is sent.
pub fn idle(instance: &Instance) -> io::Result<Figure> {
    let begin = Instant::now();
    let before = Counts::of(instance.id())?;
    thread::sleep(Duration::from_millis(500));
    let counts = Counts::of(instance.id())?.since(before);
    let all = (counts.rung + counts.heard) as f64;
    Ok(Figure::of_parts(vec![all / begin.elapsed().as_secs_f64()]))
}

/// Doorbells rung for a thousand messages, which `run` sends over a port.
pub fn doorbells(
    instance: &Instance,
    count: usize,
    run: impl FnOnce() -> io::Result<Figure>,
) -> io::Result<Vec<Figure>> {
    let before = Counts::of(instance.id())?;
    let figure = run()?;
    let counts = Counts::of(instance.id())?.since(before);
    let share = counts.rung as f64 * 1e3 / count as f64;
    Ok(vec![figure, Figure::of_parts(vec![share])])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_takes_as_long_as_its_slowest_caller() {
        let times = [3, 9, 4, 1].map(Duration::from_millis);
        assert_eq!(slowest(&times, 2), [9, 4].map(Duration::from_millis));
        assert_eq!(slowest(&times, 4), [9].map(Duration::from_millis));
    }

    #[test]
    fn doorbells_of_messages() {
        let counts = |sent, rung| Counts {
            sent,
            rung,
            heard: 7,
        };
        assert_eq!(per_thousand(counts(4000, 10)), 2.5);
        assert_eq!(per_thousand(counts(0, 0)), 0.0);
    }
}
