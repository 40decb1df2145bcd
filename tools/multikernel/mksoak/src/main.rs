// SPDX-License-Identifier: GPL-2.0

//! Crashes instances at random, a thousand times, and watches what the host loses.
//!
//! On the host it plays rounds ([`run`]): a spawn at work ends in one of many ways ([`plan`]), the
//! host has to see it as what it is, and the spawn is started again. Meanwhile the host itself and
//! a second spawn work on data that notice any change ([`work`], [`hostwork`], [`sibling`]). After
//! each round everything that the host has is counted ([`balance`]).
//!
//! In further rounds a spawn writes to an arena as it panics, which must show nothing else
//! ([`stamps`]).
//!
//! Instead it can play the crash matrix of a hand-over ([`matrix`]), by processes that have a
//! session open ([`player`]).
//!
//! Or it replaces the kernel under a key-value server again and again, under load ([`upgrades`]).
//!
//! In a spawn the same program is the first process ([`spawn`]): one file is all there is to its
//! user space. Documentation/multikernel/testing.rst says more.

mod balance;
mod clock;
mod cpio;
mod hostwork;
mod life;
mod matrix;
mod plan;
mod player;
mod report;
mod run;
mod sibling;
mod spawn;
mod stamp;
mod stamps;
mod upgrades;
mod work;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser;
use multikernel::cmdline::Uart;
use multikernel::device::Host;
use multikernel::spec::{parse_size, CpuList};
use multikernel::{Error, Result};

use life::Files;
use plan::Plan;
use run::{Break, Settings};

/// Crashes instances at random and watches what the host loses.
#[derive(Parser)]
struct Args {
    /// How many rounds
    #[arg(long, default_value_t = 100)]
    rounds: u64,
    /// How many rounds beside them in which a spawn stamps an arena and panics
    #[arg(long, default_value_t = 0)]
    stamps: u64,
    /// What all choices follow from [default: the time]
    #[arg(long)]
    seed: Option<u64>,
    /// Play only this round of the seed
    #[arg(long)]
    round: Option<u64>,
    /// Begin no further round after so many seconds
    #[arg(long)]
    time: Option<u64>,
    /// When a spawn counts as hung, in milliseconds
    #[arg(long, default_value_t = 1000)]
    hang_ms: u32,
    /// Memory that the project's kernel needs more than usual, because it is built for debugging
    #[arg(long, default_value = "0", value_parser = parse_size)]
    more_memory: u64,
    /// CPUs to lend to the instances that crash
    #[arg(long, default_value = "3-5")]
    cpus: CpuList,
    /// The CPU of the instance that works all along
    #[arg(long, default_value_t = 2)]
    sibling_cpu: u32,
    /// The project's kernel as a vmlinux
    #[arg(long, default_value = "/boot/vmlinux")]
    vmlinux: PathBuf,
    /// The same as a bzImage
    #[arg(long, default_value = "/boot/bzImage")]
    bzimage: PathBuf,
    /// A kernel without guest support; left out if there is no such file
    #[arg(long, default_value = "/boot/debian-vmlinuz")]
    stock: PathBuf,
    /// A UART to lend to that one
    #[arg(long, default_value = "ttyS2")]
    uart: Uart,
    /// The file in which what that UART says arrives
    #[arg(long, default_value = "/run/ttyS2.log")]
    uart_log: PathBuf,
    /// Where files of the run go; memory that is in use there counts as lost
    #[arg(long, default_value = "/tmp/mksoak")]
    folder: PathBuf,
    /// Break something on purpose in every round, to see that it is noticed
    #[arg(long = "break")]
    breaks: Option<Break>,
    /// Replace the kernel of a server under load so often, and nothing else
    #[arg(long)]
    upgrades: Option<u64>,
    /// The kernels that take turns in that, a space between them
    #[arg(long, default_value = "/boot/bzImage /boot/vmlinux")]
    kernels: String,
    /// Play the lines of this file, a crash matrix, and nothing else
    #[arg(long)]
    matrix: Option<PathBuf>,
    /// Of the matrix only lines that contain this
    #[arg(long, default_value = "")]
    only: String,
    /// Be a player of the matrix for the session of this name
    #[arg(long, hide = true)]
    player: Option<String>,
    /// Only calculate the sum of SEED and STEPS: what the host's work does in processes
    #[arg(long, num_args = 2, value_names = ["SEED", "STEPS"], hide = true)]
    checksum: Option<Vec<u64>>,
}

fn soak(args: Args) -> Result<bool> {
    let time = args.time.map(Duration::from_secs);
    if let Some(rounds) = args.upgrades {
        let kernels = args.kernels.split_ascii_whitespace().map(PathBuf::from);
        return upgrades::run(&Host::open()?, rounds, &kernels.collect::<Vec<_>>(), time);
    }
    let wrong = |error| Error::new("cannot begin", error);
    let program = std::env::current_exe().map_err(wrong)?;
    fs::create_dir_all(&args.folder).map_err(wrong)?;
    let seed = args.seed.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.map_or(0, |now| now.as_millis() as u64)
    });
    let files = Files {
        vmlinux: args.vmlinux,
        bzimage: args.bzimage,
        stock: args.stock,
        initrd: args.folder.join("initrd"),
        uart: args.uart,
        uart_log: args.uart_log,
    };
    run::write_initrd(&program, &files.initrd)?;
    if let Some(file) = &args.matrix {
        let host = Host::open()?;
        return matrix::run(&host, &files, &args.cpus.0, &program, file, &args.only);
    }
    let settings = Settings {
        plan: Plan {
            seed,
            cpus: args.cpus.0,
            stock: life::exists(&files.stock),
            more_memory: args.more_memory,
        },
        rounds: args.rounds,
        stamps: args.stamps,
        only: args.round,
        time,
        hang_ms: args.hang_ms,
        sibling_cpu: args.sibling_cpu,
        folder: args.folder,
        program,
        breaks: args.breaks,
    };
    let host = Host::open()?;
    let report = run::run(&host, &files, &settings)?;
    let json = serde_json::to_string(&report)
        .map_err(|error| Error::new("cannot write the report", error))?;
    println!("# json {json}");
    Ok(report.is_clean())
}

fn main() -> ExitCode {
    if std::process::id() == 1 {
        spawn::main();
    }
    if std::env::args()
        .next()
        .is_some_and(|name| name.ends_with("/poweroff"))
    {
        return spawn::power_off();
    }
    let args = Args::parse();
    if let Some(&[seed, steps]) = args.checksum.as_deref() {
        return match hostwork::process(seed, steps) {
            Ok(progress) => {
                println!("{}", progress.sum);
                ExitCode::SUCCESS
            }
            Err(what) => {
                eprintln!("mksoak: {what}");
                ExitCode::FAILURE
            }
        };
    }
    if let Some(name) = &args.player {
        return player::main(name);
    }
    match soak(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("mksoak: {error}");
            ExitCode::FAILURE
        }
    }
}
