// SPDX-License-Identifier: GPL-2.0

//! Measures messages between this kernel, a host, and a spawn, beside what programs within one
//! kernel have to talk to each other.
//!
//! It starts a spawn of its own, whose first process is this same program: that one serves what the
//! host asks of it (`serve.rs`). Every contestant runs once in each round, so that whatever else
//! the machine does hits all of them; the first round is for warming up. One that this kernel does
//! not have is left out, with a line that says so. The rows are printed as JSON, in the form that
//! scripts/multikernel/bench keeps them.

use std::path::PathBuf;
use std::process::{self, ExitCode};

use clap::Parser;
use multikernel::spec::{CpuList, MemoryRequest};
use multikernel::{Error, Result};

mod channel;
mod contest;
mod kernel;
mod local;
#[path = "../../machine.rs"]
mod machine;
mod pairs;
mod remote;
// The same statistics and the same rows as on the build machine.
#[path = "../../../../../testing/multikernel/bench/src/row.rs"]
mod row;
mod serve;
mod spawn;

use spawn::Spawn;

/// Measures messages between kernels.
#[derive(Parser)]
struct Args {
    /// Rounds that count
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Round trips in a run; of messages that follow each other it is ten times as many
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    trips: u32,
    /// The spawn's kernel, with support for guests
    #[arg(long)]
    kernel: PathBuf,
    /// An initrd whose /pid1 is this program
    #[arg(long)]
    initrd: PathBuf,
    /// CPUs to lend
    #[arg(long)]
    cpus: CpuList,
    /// Memory to lend
    #[arg(long)]
    memory: MemoryRequest,
}

fn measure(args: &Args) -> Result<()> {
    let spawn = Spawn::start(
        "bench",
        &args.kernel,
        &args.initrd,
        &args.cpus,
        &args.memory,
    )?;
    let fault = |error: std::io::Error| Error::new("cannot measure", error);
    let trips = args.trips as usize;
    let (mut contests, skipped) = contest::contests(&spawn, trips).map_err(fault)?;
    for line in skipped {
        eprintln!("skipped: {line}");
    }
    let mut rows: Vec<_> = contests.iter().map(|contest| contest.rows()).collect();
    for round in 0..=args.runs {
        eprintln!("round {round} of {}", args.runs);
        for (contest, rows) in contests.iter_mut().zip(&mut rows) {
            let figures = contest.run().map_err(|error| {
                let what = format!("cannot measure {}", contest.name());
                Error::new(what, error)
            })?;
            if round > 0 {
                for (row, figure) in rows.iter_mut().zip(figures) {
                    row.add(Some(figure));
                }
            }
        }
    }
    drop(contests);
    spawn.end()?;
    let rows = row::finish(rows.into_iter().flatten().collect());
    println!("{}", row::to_json(&rows));
    Ok(())
}

fn main() -> ExitCode {
    if process::id() == 1 {
        return serve::first_process();
    }
    match measure(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mkbench-msg: {error}");
            ExitCode::FAILURE
        }
    }
}
