// SPDX-License-Identifier: GPL-2.0

//! Writes to a key-value server (Redis) in an instance all the time, and sees that nothing that it
//! acknowledged is lost, changed or there twice, whatever becomes of the server and its kernel.
//!
//! Several [`writer`]s write numbered records with checksums ([`record`]) to keys and to lists,
//! remember what was acknowledged ([`memory`]), connect again when a connection breaks, and read
//! back everything. The [`meter`] has how long nobody had an answer.
//! Documentation/multikernel/handover.rst says what the server has to do for that.

mod memory;
mod meter;
mod record;
mod server;
mod writer;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::{ArgGroup, Parser};
use multikernel::spec;
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};

use memory::Wrong;
use meter::{quantile, Meter};
use record::Hand;
use server::Address;
use writer::{Break, Found, Shared, Writer};

/// How often it is looked whether a signal has come.
const TICK: Duration = Duration::from_millis(20);

/// Writes to a key-value server in an instance, and sees that nothing is lost.
///
/// It ends after --seconds or --interruptions, or by SIGINT or SIGTERM, and then reads back all
/// that was acknowledged. Status 0 if nothing of that was lost, changed or doubled.
#[derive(Parser)]
#[command(group = ArgGroup::new("where").required(true).args(["names", "unix"]))]
struct Args {
    /// The instance that the server is in, or several, of which the first that answers is taken
    #[arg(value_name = "NAME", value_parser = spec::parse_name)]
    names: Vec<String>,
    /// The vsock port of the server there
    #[arg(long, default_value_t = 1025)]
    port: u32,
    /// A server at this socket, in place of one in an instance
    #[arg(long, value_name = "PATH")]
    unix: Option<PathBuf>,
    /// How many connections write at the same time
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    writers: u32,
    /// Keys of each
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1024))]
    keys: u32,
    /// Bytes of each value
    #[arg(long, default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(20..=1_048_576))]
    bytes: u32,
    /// Write for so many seconds
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Write until there have been so many interruptions
    #[arg(long, value_name = "N")]
    interruptions: Option<usize>,
    /// Give up when there has been no answer for so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    timeout: u64,
    /// Break a connection when an answer takes so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 20,
          value_parser = clap::value_parser!(u64).range(1..))]
    answer_timeout: u64,
    /// What the values and keys follow from [default: the time]
    #[arg(long)]
    seed: Option<u64>,
    /// Break something on purpose, to see that it is noticed
    #[arg(long = "break", value_name = "WHAT")]
    breaks: Option<Break>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How long interruptions were, in milliseconds.
#[derive(Debug, Serialize)]
struct Interruptions {
    count: usize,
    median_ms: Option<f64>,
    p99_ms: Option<f64>,
    max_ms: Option<f64>,
    each_ms: Vec<f64>,
}

/// What came of a run.
#[derive(Debug, Serialize)]
struct Report {
    seed: u64,
    seconds: f64,
    acknowledged: u64,
    /// Over all of the run, and over the part in which there was an answer.
    writes_per_second: f64,
    writes_per_second_answered: f64,
    #[serde(flatten)]
    wrong: Wrong,
    gave_up: Vec<String>,
    interruptions: Interruptions,
}

impl Report {
    fn new(seed: u64, meter: &Meter, written: Duration, found: Vec<Found>) -> Self {
        let mut wrong = Wrong::default();
        let mut gave_up = Vec::new();
        for one in found {
            wrong.add(one.wrong);
            gave_up.extend(one.gave_up);
        }
        let each_ms: Vec<f64> = meter
            .interruptions
            .iter()
            .map(|gap| gap.as_secs_f64() * 1e3)
            .collect();
        let mut sorted = each_ms.clone();
        sorted.sort_by(f64::total_cmp);
        let seconds = written.as_secs_f64();
        let silent = each_ms.iter().sum::<f64>() / 1e3;
        Self {
            seed,
            seconds,
            acknowledged: meter.acknowledged,
            writes_per_second: meter.acknowledged as f64 / seconds,
            writes_per_second_answered: meter.acknowledged as f64 / (seconds - silent).max(1e-3),
            wrong,
            gave_up,
            interruptions: Interruptions {
                count: each_ms.len(),
                median_ms: quantile(&sorted, 0.5),
                p99_ms: quantile(&sorted, 0.99),
                max_ms: sorted.last().copied(),
                each_ms,
            },
        }
    }

    fn is_clean(&self) -> bool {
        !self.wrong.any() && self.gave_up.is_empty() && self.acknowledged > 0
    }

    fn print(&self) {
        let Wrong {
            lost,
            changed,
            doubled,
        } = self.wrong;
        println!(
            "{} writes acknowledged in {:.1} s, {:.0} a second, {:.0} without interruptions; seed {}",
            self.acknowledged,
            self.seconds,
            self.writes_per_second,
            self.writes_per_second_answered,
            self.seed
        );
        println!("{lost} lost, {changed} changed, {doubled} doubled");
        let all = &self.interruptions;
        if let (Some(median), Some(p99), Some(max)) = (all.median_ms, all.p99_ms, all.max_ms) {
            println!(
                "{} interruptions: median {median:.1} ms, p99 {p99:.1} ms, max {max:.1} ms",
                all.count
            );
        }
        for why in &self.gave_up {
            println!("gave up: {why}");
        }
    }
}

fn run(args: Args) -> Result<Report, String> {
    let seed = args.seed.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.map_or(0, |now| now.as_millis() as u64)
    });
    let start = Instant::now();
    let shared = Shared {
        address: match args.unix {
            Some(path) => Address::Unix(path),
            None => Address::Instances(args.names, args.port),
        },
        answer_timeout: Duration::from_secs(args.answer_timeout),
        silence: Duration::from_secs(args.timeout),
        meter: Mutex::new(Meter::new(start)),
        stop: AtomicBool::new(false),
        enough: args.interruptions,
        breaks: args.breaks,
    };
    let signalled = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&signalled))
            .map_err(|error| format!("cannot watch for signals: {error}"))?;
    }
    let deadline = args
        .seconds
        .map(|seconds| start + Duration::from_secs(seconds));
    let (found, written) = thread::scope(|scope| {
        let writers: Vec<_> = (0..args.writers)
            .map(|writer| {
                let hand = Hand {
                    seed,
                    writer,
                    bytes: args.bytes as usize,
                };
                let writer = Writer::new(&shared, hand, args.keys);
                scope.spawn(|| writer.run())
            })
            .collect();
        while !shared.stop.load(Ordering::Relaxed) {
            let late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if late || signalled.load(Ordering::Relaxed) {
                shared.stop.store(true, Ordering::Relaxed);
            }
            thread::sleep(TICK);
        }
        let written = start.elapsed();
        let found: Vec<Found> = writers
            .into_iter()
            .map(|writer| {
                writer.join().unwrap_or_else(|_| Found {
                    wrong: Wrong::default(),
                    gave_up: Some("a writer panicked".into()),
                })
            })
            .collect();
        (found, written)
    });
    let meter = shared.meter();
    Ok(Report::new(seed, &meter, written, found))
}

fn main() -> ExitCode {
    let args = Args::parse();
    let json = args.json;
    let report = match run(args) {
        Ok(report) => report,
        Err(why) => {
            eprintln!("mkkv: {why}");
            return ExitCode::FAILURE;
        }
    };
    if json {
        println!("{}", serde_json::json!(report));
    } else {
        report.print();
    }
    match report.is_clean() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
