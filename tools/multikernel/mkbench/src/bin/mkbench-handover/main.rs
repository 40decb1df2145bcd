// SPDX-License-Identifier: GPL-2.0

//! Measures how long state takes from kernel to kernel, and for how long a service is silent whose
//! kernel is replaced, beside what else there is for either.
//!
//! It starts spawns whose first process is this same program (`pid1.rs`), which carries out orders
//! and serves. All times are by the time-stamp counter, which the kernels of one machine share. The
//! samples are printed as JSON, in nanoseconds; what to make of them is up to
//! scripts/multikernel/bench. A machine of its own, without spawns, in which the program is the
//! first process too, shows a kexec with the same state handed over by KHO (`kho.rs`).

use std::path::PathBuf;
use std::process::{self, ExitCode};

use clap::{Parser, Subcommand};
use multikernel::device::Host;
use multikernel::spec::{CpuList, MemoryRequest};
use multikernel::{Error, Result};

mod bulk;
mod contents;
mod kho;
#[path = "../../machine.rs"]
mod machine;
mod order;
mod pid1;
mod samples;
mod service;
mod sessions;
// Of the programs that have it none needs all of it.
#[allow(dead_code)]
#[path = "../mkbench-msg/spawn.rs"]
mod spawn;
mod upgrade;

use samples::Samples;
use spawn::Spawn;

/// Measures hand-over and replacement of kernels.
#[derive(Parser)]
struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Measure, and print the samples
    Measure(Args),
    /// Have the old service of an upgrade offer its session and the new one accept it; for
    /// 'mkctl upgrade --handover-command'
    Switch,
}

/// What is measured, and with what.
#[derive(clap::Args)]
struct Args {
    /// How often each is measured
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// The spawns' kernel, with support for guests
    #[arg(long)]
    kernel: PathBuf,
    /// An initrd whose /pid1 is this program
    #[arg(long)]
    initrd: PathBuf,
    /// The CPU of the spawn that sessions are handed to
    #[arg(long)]
    cpu: CpuList,
    /// Its memory: more than twice what is copied
    #[arg(long)]
    memory: MemoryRequest,
    /// The CPU of the first kernel with the service; the next one's is one that is left
    #[arg(long)]
    service_cpu: CpuList,
    /// Memory of each of them
    #[arg(long)]
    service_memory: MemoryRequest,
    /// Only this: sessions, copies or upgrades
    #[arg(long, value_enum)]
    only: Option<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
enum Part {
    Sessions,
    Copies,
    Upgrades,
}

fn measure(args: &Args) -> Result<()> {
    let tsc_khz = Host::open()?.info()?.tsc_khz;
    if tsc_khz == 0 {
        return Err(Error::new(
            "cannot measure",
            "the host does not know its TSC's frequency",
        ));
    }
    let mut samples = Samples::new(tsc_khz);
    let wanted = |part| args.only.is_none_or(|only| only == part);
    let runs = args.runs as usize;
    if wanted(Part::Sessions) || wanted(Part::Copies) {
        let spawn = Spawn::start("bench", &args.kernel, &args.initrd, &args.cpu, &args.memory)?;
        if wanted(Part::Sessions) {
            sessions::hand_over(&spawn, runs, &mut samples)?;
        }
        if wanted(Part::Copies) {
            sessions::copy(&spawn, runs, &mut samples)?;
        }
        spawn.end()?;
    }
    if wanted(Part::Upgrades) {
        upgrade::measure(args, &mut samples)?;
    }
    println!("{}", samples.to_json());
    Ok(())
}

fn switch() -> Result<()> {
    let name = |variable| {
        std::env::var(variable)
            .map_err(|error| Error::new("cannot switch", format_args!("{variable}: {error}")))
    };
    upgrade::switch(&name("MKCTL_OLD")?, &name("MKCTL_INSTANCE")?)
}

fn main() -> ExitCode {
    if process::id() == 1 {
        return match kho::wanted() {
            Some(request) => kho::first_process(request),
            None => pid1::first_process(),
        };
    }
    let done = match Command::parse().verb {
        Verb::Measure(args) => measure(&args),
        Verb::Switch => switch(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mkbench-handover: {error}");
            ExitCode::FAILURE
        }
    }
}
