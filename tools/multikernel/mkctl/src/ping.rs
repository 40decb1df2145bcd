// SPDX-License-Identifier: GPL-2.0

//! `mkctl ping`: round trips to the kernel at the other end of a link.

use std::io;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use multikernel::device::{Call, Host, HostPeer, Peer};
use multikernel::{Error, Result};
use serde::Serialize;

use crate::args::PingArgs;
use crate::events;
use crate::signals::Signals;

/// How many are sent unless it is said.
const COUNT: u64 = 4;
/// The same as fast as possible.
const COUNT_FLOOD: u64 = 1000;
/// Where too many calls wait, how long until it is tried again: those whose answers make room are
/// to have the CPU meanwhile.
const ROOM_PAUSE: Duration = Duration::from_micros(100);

/// What became of one call.
enum Outcome {
    Answered(Duration),
    Lost,
    /// A signal ended the wait: not one that counts.
    Interrupted,
}

/// What became of all.
struct Tally {
    /// Round trips of those that were answered.
    times: Vec<Duration>,
    lost: u64,
}

/// What is told at the end. Times are microseconds.
#[derive(Debug, PartialEq, Serialize)]
struct Summary<'a> {
    to: &'a str,
    bytes: usize,
    cpu: Option<u32>,
    sent: u64,
    answered: u64,
    lost: u64,
    min_us: Option<f64>,
    median_us: Option<f64>,
    avg_us: Option<f64>,
    max_us: Option<f64>,
    /// Each one, in order; not if only the summary was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    round_trips_us: Option<Vec<f64>>,
}

fn microseconds(time: Duration) -> f64 {
    // To a tenth: what is below is noise, and no use to who reads it.
    (time.as_secs_f64() * 1e7).round() / 10.0
}

impl<'a> Summary<'a> {
    fn new(to: &'a str, args: &PingArgs, tally: &Tally) -> Self {
        let mut sorted = tally.times.clone();
        sorted.sort_unstable();
        // The lower one of the two in the middle.
        let median = sorted.get(sorted.len().saturating_sub(1) / 2);
        let sum: Duration = sorted.iter().sum();
        let answered = sorted.len() as u64;
        let avg = (answered > 0).then(|| sum.div_f64(answered as f64));
        Self {
            to,
            bytes: args.bytes,
            cpu: args.cpu,
            sent: answered + tally.lost,
            answered,
            lost: tally.lost,
            min_us: sorted.first().copied().map(microseconds),
            median_us: median.copied().map(microseconds),
            avg_us: avg.map(microseconds),
            max_us: sorted.last().copied().map(microseconds),
            round_trips_us: (!args.quiet)
                .then(|| tally.times.iter().copied().map(microseconds).collect()),
        }
    }

    fn print(&self) {
        say!("--- {} ---", self.to);
        say!(
            "{} sent, {} answered, {} lost",
            self.sent,
            self.answered,
            self.lost
        );
        if let (Some(min), Some(median), Some(avg), Some(max)) =
            (self.min_us, self.median_us, self.avg_us, self.max_us)
        {
            say!("min/median/avg/max = {min:.1}/{median:.1}/{avg:.1}/{max:.1} us");
        }
    }
}

/// Whom to call, and what to call it.
fn peer(args: &PingArgs) -> Result<(Box<dyn Peer>, &str)> {
    match &args.name {
        Some(name) => Ok((Box::new(Host::open()?.instance(name)?), name)),
        None => Ok((Box::new(HostPeer::open()?), "the host")),
    }
}

/// A payload that no other ping of this run has.
fn fill(payload: &mut [u8], sequence: u64) {
    for (at, byte) in payload.iter_mut().enumerate() {
        *byte = match at {
            0..8 => sequence.to_le_bytes()[at],
            _ => (at as u64).wrapping_mul(31).wrapping_add(sequence) as u8,
        };
    }
}

/// Calls the echo port once. Where too many calls wait it tries again until the timeout.
fn one(peer: &dyn Peer, call: &Call<'_>, answer: &mut [u8]) -> Result<Outcome> {
    let begin = Instant::now();
    loop {
        let error = match peer.call(call, answer) {
            Ok(bytes) if answer.get(..bytes) == Some(call.request) => {
                return Ok(Outcome::Answered(begin.elapsed()))
            }
            Ok(bytes) => {
                return Err(Error::new(
                    "cannot go on",
                    format_args!("an answer of {bytes} bytes is not what was sent"),
                )
                .advice("One of the two kernels, or the memory between them, is broken"))
            }
            Err(error) => error,
        };
        match error.errno() {
            Some(libc::ETIMEDOUT) => return Ok(Outcome::Lost),
            Some(libc::EINTR) => return Ok(Outcome::Interrupted),
            Some(libc::EBUSY) if begin.elapsed() < call.timeout => {
                thread::sleep(ROOM_PAUSE);
            }
            Some(libc::EBUSY) => return Ok(Outcome::Lost),
            _ => return Err(error),
        }
    }
}

/// Pings until all are sent or a signal comes; what was counted is there also after an error.
fn all(
    peer: &dyn Peer,
    to: &str,
    args: &PingArgs,
    signals: &Signals,
    tally: &mut Tally,
) -> Result<()> {
    let count = args
        .count
        .unwrap_or(if args.flood { COUNT_FLOOD } else { COUNT });
    let mut payload = vec![0; args.bytes];
    let mut answer = vec![0; args.bytes];
    let on = args
        .cpu
        .map_or_else(String::new, |cpu| format!(" CPU {cpu}"));
    for sequence in 1..=count {
        let begin = Instant::now();
        fill(&mut payload, sequence);
        let call = Call {
            cpu: args.cpu,
            timeout: Duration::from_millis(args.timeout.into()),
            ..Call::echo(&payload)
        };
        let outcome = one(peer, &call, &mut answer)?;
        let silent = args.quiet || args.json.json;
        match outcome {
            Outcome::Answered(time) => {
                tally.times.push(time);
                if !silent {
                    say!(
                        "{} bytes from {to}{on}: seq={sequence} time={:.1} us",
                        args.bytes,
                        microseconds(time)
                    );
                }
            }
            Outcome::Lost => {
                tally.lost += 1;
                if !silent {
                    say!("no answer from {to}{on}: seq={sequence}");
                }
            }
            Outcome::Interrupted => {}
        }
        if signals.came() {
            break;
        }
        if sequence < count && !args.flood {
            events::wait([signals.as_fd()], Some(begin + args.interval.0))?;
            if signals.came() {
                break;
            }
        }
    }
    Ok(())
}

pub fn ping(args: &PingArgs) -> Result<ExitCode> {
    let (peer, to) = peer(args)?;
    let signals = Signals::hold()?;
    if !args.quiet && !args.json.json {
        say!("PING {to}: {} bytes", args.bytes);
    }
    let mut tally = Tally {
        times: Vec::new(),
        lost: 0,
    };
    let ended = all(&*peer, to, args, &signals, &mut tally);
    let summary = Summary::new(to, args, &tally);
    if args.json.json {
        let text = serde_json::to_string(&summary)
            .map_err(|error| Error::new("cannot print JSON", io::Error::from(error)))?;
        say!("{text}");
    } else {
        summary.print();
    }
    ended?;
    Ok(match summary.lost == 0 && summary.answered > 0 {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Verb};
    use clap::Parser;
    use multikernel::device::LinkStats;
    use std::cell::RefCell;

    fn args(more: &[&str]) -> PingArgs {
        let words = ["mkctl", "ping", "web"].iter().chain(more);
        match Cli::parse_from(words).verb {
            Verb::Ping(args) => args,
            other => panic!("{other:?}"),
        }
    }

    /// Answers with what it was sent, unless the next errno is not 0.
    struct Fake {
        errnos: RefCell<Vec<i32>>,
        garble: bool,
    }

    impl Fake {
        fn new(errnos: &[i32]) -> Self {
            Self {
                errnos: RefCell::new(errnos.iter().rev().copied().collect()),
                garble: false,
            }
        }
    }

    impl Peer for Fake {
        fn call(&self, call: &Call<'_>, answer: &mut [u8]) -> Result<usize> {
            match self.errnos.borrow_mut().pop() {
                None | Some(0) => {
                    answer[..call.request.len()].copy_from_slice(call.request);
                    if self.garble {
                        answer[0] ^= 1;
                    }
                    Ok(call.request.len())
                }
                Some(errno) => Err(Error::new("cannot", "it").with_errno(errno)),
            }
        }

        fn link_stats(&self) -> Result<LinkStats> {
            Err(Error::new("cannot", "tell").with_errno(libc::ENOTTY))
        }
    }

    fn run(fake: &Fake, more: &[&str]) -> (Tally, Result<()>) {
        let mut tally = Tally {
            times: Vec::new(),
            lost: 0,
        };
        let args = args(&[&["--flood", "-q"], more].concat());
        let signals = Signals::hold().unwrap();
        let ended = all(fake, "web", &args, &signals, &mut tally);
        (tally, ended)
    }

    #[test]
    fn answered_lost_and_without_room() {
        let fake = Fake::new(&[0, libc::ETIMEDOUT, libc::EBUSY, 0, libc::EINTR]);
        let (tally, ended) = run(&fake, &["--count", "5"]);
        assert!(ended.is_ok());
        assert_eq!((tally.times.len(), tally.lost), (3, 1));
        // For ever without room is lost, in the end.
        let fake = Fake::new(&[libc::EBUSY; 1 << 20]);
        let (tally, ended) = run(&fake, &["--count", "1", "--timeout", "1"]);
        assert!(ended.is_ok());
        assert_eq!((tally.times.len(), tally.lost), (0, 1));
    }

    #[test]
    fn other_errors_end_it() {
        for errno in [
            libc::EPIPE,
            libc::ENOTCONN,
            libc::ECONNREFUSED,
            libc::EINVAL,
        ] {
            let (tally, ended) = run(&Fake::new(&[0, 0, errno]), &[]);
            assert_eq!(ended.unwrap_err().errno(), Some(errno));
            assert_eq!((tally.times.len(), tally.lost), (2, 0));
        }
    }

    #[test]
    fn a_wrong_answer_is_an_error() {
        let mut fake = Fake::new(&[]);
        fake.garble = true;
        let error = run(&fake, &[]).1.unwrap_err();
        assert!(error.to_string().contains("not what was sent"), "{error}");
    }

    #[test]
    fn how_many() {
        assert_eq!(run(&Fake::new(&[]), &[]).0.times.len(), 1000);
        assert_eq!(run(&Fake::new(&[]), &["--count", "7"]).0.times.len(), 7);
        assert_eq!(run(&Fake::new(&[]), &["--bytes", "0"]).0.times.len(), 1000);
    }

    #[test]
    fn payloads_differ() {
        let (mut one, mut other) = ([0; 1024], [0; 1024]);
        fill(&mut one, 1);
        fill(&mut other, 257);
        assert_ne!(one, other);
        assert_eq!(one[..8], 1u64.to_le_bytes());
        // Also short ones, one after another.
        fill(&mut one[..1], 1);
        fill(&mut other[..1], 2);
        assert_ne!(one[0], other[0]);
    }

    fn tally(times: &[u64], lost: u64) -> Tally {
        Tally {
            times: times.iter().copied().map(Duration::from_micros).collect(),
            lost,
        }
    }

    #[test]
    fn summaries() {
        let all = args(&["--cpu", "1"]);
        let summary = Summary::new("web", &all, &tally(&[30, 10, 20, 40], 2));
        assert_eq!((summary.sent, summary.answered, summary.lost), (6, 4, 2));
        assert_eq!(summary.min_us, Some(10.0));
        assert_eq!(summary.median_us, Some(20.0));
        assert_eq!(summary.avg_us, Some(25.0));
        assert_eq!(summary.max_us, Some(40.0));
        let json = serde_json::to_value(&summary).unwrap();
        assert_eq!(json["to"], "web");
        assert_eq!(json["cpu"], 1);
        assert_eq!(json["round_trips_us"][0], 30.0);

        let quiet = args(&["-q"]);
        let none = Summary::new("web", &quiet, &tally(&[], 3));
        assert_eq!((none.sent, none.lost, none.avg_us), (3, 3, None));
        let json = serde_json::to_value(&none).unwrap();
        assert_eq!(json["min_us"], serde_json::Value::Null);
        assert!(json.get("round_trips_us").is_none());
    }
}
