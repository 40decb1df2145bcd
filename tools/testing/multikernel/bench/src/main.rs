// SPDX-License-Identifier: GPL-2.0

//! Measures lanes between two cores of the machine it runs on, beside what two cores can do at best
//! and beside other queues: `lane-bench [--runs N] [--only WORD] [--json FILE]`.
//!
//! Every contestant runs once in each round, so that what else the machine does hits all of them.
//! The first round is for warming up. A run in which a thread lost its core is repeated, a few
//! times. A run's figure is its mean; the table has the median, least and greatest of the runs, and
//! "p99": the time within which 99 of 100 messages came, or the rate that 99 of 100 parts of runs
//! reached.

use std::process::ExitCode;
use std::{env, fs};

mod contest;
mod lanes;
mod pair;
mod queues;
mod raw;
mod row;

use contest::{contests, Contest};
use pair::Pair;
use row::Row;

/// How often a run is repeated at most in which a thread lost its core.
const TRIES: usize = 20;

struct Args {
    runs: usize,
    only: String,
    json: Option<String>,
}

impl Args {
    fn parse() -> Result<Self, String> {
        let mut args = Self {
            runs: 31,
            only: String::new(),
            json: None,
        };
        let mut words = env::args().skip(1);
        while let Some(option) = words.next() {
            let value = words
                .next()
                .ok_or(format!("{option}: a value is missing"))?;
            match &*option {
                "--runs" => {
                    args.runs = value.parse().map_err(|error| format!("--runs: {error}"))?
                }
                "--only" => args.only = value,
                "--json" => args.json = Some(value),
                _ => {
                    return Err(format!(
                        "{option}: only --runs, --only and --json are known"
                    ))
                }
            }
        }
        if args.runs == 0 {
            return Err("--runs: at least one".to_owned());
        }
        Ok(args)
    }
}

/// Runs all contests in rounds; returns their rows and how many runs were repeated.
fn measure(pair: &Pair, contests: &[Contest], runs: usize) -> (Vec<Row>, usize) {
    let mut rows: Vec<Vec<Row>> = contests.iter().map(Contest::rows).collect();
    let mut repeated = 0;
    for round in 0..=runs {
        for (contest, rows) in contests.iter().zip(&mut rows) {
            let figures = (0..TRIES).find_map(|_| {
                let figures = contest.run(pair);
                repeated += usize::from(figures.is_none());
                figures
            });
            if round == 0 {
                continue;
            }
            let mut figures = figures.into_iter().flatten();
            rows.iter_mut().for_each(|row| row.add(figures.next()));
        }
    }
    (rows.into_iter().flatten().collect(), repeated)
}

fn run() -> Result<(), String> {
    let args = Args::parse()?;
    let pair = Pair::new().map_err(|error| format!("nothing is measured: {error}"))?;
    let mut contests = contests();
    contests.retain(|contest| contest.matches(&args.only));
    let (rows, repeated) = measure(&pair, &contests, args.runs);
    let rows = row::finish(rows);
    row::print(&rows);
    println!(
        "CPUs {:?}; {repeated} runs were repeated because a thread lost its CPU",
        pair.cores()
    );
    if let Some(path) = args.json {
        fs::write(&path, row::to_json(&rows)).map_err(|error| format!("{path}: {error}"))?;
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("lane-bench: {text}");
            ExitCode::FAILURE
        }
    }
}
