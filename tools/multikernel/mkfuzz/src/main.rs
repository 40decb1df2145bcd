// SPDX-License-Identifier: GPL-2.0

//! Calls the kernel's multikernel interface at random, from several processes that are killed at
//! random moments, and sees whether the host bears it.
//!
//! What is to be found is a kernel that warns, crashes or hangs, and things that are left when
//! all has been taken apart: instances, CPUs, ranges, memory. The host's log is for the one who
//! starts this to look at. See Documentation/multikernel/fuzzing.rst.

mod arena;
mod calls;
mod counters;
mod host;
mod image;
mod random;
mod worker;

use std::fs;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitCode};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;

use crate::counters::{Call, Counters};
use crate::host::Snapshot;
use crate::random::Random;
use crate::worker::Worker;

/// Calls /dev/multikernel at random, and sees whether the host bears it
#[derive(Parser)]
#[command(version)]
struct Args {
    /// How long
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Where the random numbers begin; by default somewhere else each time
    #[arg(long)]
    seed: Option<u64>,
    /// How many processes at a time
    #[arg(long, default_value_t = 6)]
    processes: usize,
    /// Have no allocations fail, and no CPU not answer
    #[arg(long)]
    no_faults: bool,
    /// Be one of the processes: its number, its life, and the file with the counters
    #[arg(long, hide = true, num_args = 3)]
    worker: Option<Vec<u64>>,
}

/// How long a process may take to go when it has been killed: a call that is not interrupted may
/// have to wait for CPUs that do not answer.
const DEATH: Duration = Duration::from_secs(60);
/// How long what is in flight at the end may take to be over.
const SETTLE: Duration = Duration::from_secs(20);
/// Bytes that the pool has at the beginning.
const POOL: u64 = 64 << 20;
/// Memory that may be missing at the end: what the host's own caches grew by.
const TOLERANCE_KB: u64 = 16 << 10;

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match &args.worker {
        Some(worker) => work(&args, worker),
        None => supervise(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mkfuzz: {error}");
            ExitCode::FAILURE
        }
    }
}

fn work(args: &Args, worker: &[u64]) -> Result<(), String> {
    let &[process, life, file] = worker else {
        return Err("--worker takes three numbers".to_owned());
    };
    let random = Random::new(args.seed.unwrap_or(0), process, life);
    let counters = Counters::of_file(file as i32).map_err(|error| format!("counters: {error}"))?;
    Worker::new(random, counters, !args.no_faults)
        .map_err(|error| format!("a process could not begin: {error}"))?
        .run(None);
    Ok(())
}

/// A process and when it will be killed.
struct Process {
    child: Child,
    end: Instant,
}

fn spawn(
    args: &Args,
    seed: u64,
    number: usize,
    life: u64,
    counters: &Counters,
) -> io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command.args(["--seed", &seed.to_string()]);
    if args.no_faults {
        command.arg("--no-faults");
    }
    command.arg("--worker");
    command.args([number as u64, life, counters.file() as u64].map(|number| number.to_string()));
    // A group of its own, so that its children are killed with it.
    command.process_group(0).spawn()
}

/// Kills a process and its children; an error if it does not go.
fn kill(process: &mut Process) -> Result<(), String> {
    let pid = process.child.id();
    if let Ok(Some(status)) = process.child.try_wait() {
        return Err(format!("a process ended by itself: {status}"));
    }
    // SAFETY: The group is that of a child which has not been waited for.
    unsafe { libc::kill(-(pid as i32), libc::SIGKILL) };
    let deadline = Instant::now() + DEATH;
    loop {
        match process.child.try_wait() {
            Ok(Some(status)) if status.signal() == Some(libc::SIGKILL) => return Ok(()),
            Ok(Some(status)) => return Err(format!("a process ended by itself: {status}")),
            Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(1)),
            Ok(None) => {
                let stack = fs::read_to_string(format!("/proc/{pid}/stack"));
                let stack = stack.unwrap_or_else(|error| error.to_string());
                return Err(format!("a process cannot be killed; it is at\n{stack}"));
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// Allocations that may wait fail too, and none says so in the log.
fn prepare_faults() {
    for (name, value) in [
        ("failslab/ignore-gfp-wait", "N"),
        ("fail_page_alloc/ignore-gfp-wait", "N"),
        ("fail_page_alloc/ignore-gfp-highmem", "N"),
        ("fail_page_alloc/min-order", "0"),
        ("failslab/verbose", "0"),
        ("fail_page_alloc/verbose", "0"),
        ("fail_usercopy/verbose", "0"),
    ] {
        // A kernel without them is fuzzed without.
        let _ = fs::write(format!("/sys/kernel/debug/{name}"), value);
    }
}

fn supervise(args: &Args) -> Result<(), String> {
    let said = |what: &str| {
        let what = what.to_owned();
        move |error: io::Error| format!("{what}: {error}")
    };
    let clock = SystemTime::now().duration_since(UNIX_EPOCH);
    let clock = clock.map_or(0, |time| time.as_nanos() as u64);
    let seed = args.seed.unwrap_or(clock);
    println!(
        "mkfuzz: seed {seed}, {} processes, {} s",
        args.processes, args.seconds
    );
    let device = host::open_device().map_err(said("/dev/multikernel"))?;
    let before = Snapshot::take(device).map_err(said("the host's lists"))?;
    if !before.instances.is_empty() {
        return Err("there are instances; they would not survive this".to_owned());
    }
    if before.cpus.len() < 3 {
        return Err("the host has too few CPUs to lend some".to_owned());
    }
    if !args.no_faults {
        prepare_faults();
    }
    let (free_before, slab_before) = host::free_memory().map_err(said("/proc/meminfo"))?;
    let counters = Counters::new().map_err(said("memory for counters"))?;

    // So that instances can be created from the first moment on.
    host::grow(device, POOL).map_err(said("the pool"))?;
    let mut faults = run(args, seed, &counters)?;
    print!("{}", counters.table());
    println!("mkfuzz: {} calls", counters.total());

    faults += &settle(device, &before).map_err(said("the host's lists"))?;
    let (free, slab) = wait_for_memory(free_before).map_err(said("/proc/meminfo"))?;
    println!(
        "mkfuzz: free memory {free_before} KiB, then {free}; \
         slab that cannot be dropped {slab_before} KiB, then {slab}"
    );
    if free + TOLERANCE_KB < free_before {
        faults += &format!("{} KiB of memory are missing\n", free_before - free);
    }
    for call in [
        Call::Create,
        Call::KexecLoad,
        Call::Start,
        Call::StopForce,
        Call::Destroy,
    ] {
        if counters.of(call, 0) == 0 {
            faults += &format!("{call:?} never succeeded: nothing has been tested\n");
        }
    }
    if faults.is_empty() {
        println!("mkfuzz: ok");
        return Ok(());
    }
    Err(format!("seed {seed}:\n{faults}"))
}

/// Keeps the processes going until the time is up. Returns what went wrong.
fn run(args: &Args, seed: u64, counters: &Counters) -> Result<String, String> {
    let mut random = Random::new(seed, u64::MAX, 0);
    let mut processes: Vec<Option<Process>> = (0..args.processes).map(|_| None).collect();
    let mut lives = vec![0; args.processes];
    let mut faults = String::new();
    let deadline = Instant::now() + Duration::from_secs(args.seconds);
    while Instant::now() < deadline && faults.is_empty() {
        for (number, slot) in processes.iter_mut().enumerate() {
            let over = slot.as_mut().is_some_and(|process| {
                Instant::now() >= process.end || matches!(process.child.try_wait(), Ok(Some(_)))
            });
            if over {
                if let Some(Err(error)) = slot.as_mut().map(kill) {
                    faults += &format!("{error} (process {number}, life {})\n", lives[number]);
                }
                *slot = None;
            }
            if slot.is_none() {
                lives[number] += 1;
                let child = spawn(args, seed, number, lives[number], counters)
                    .map_err(|error| format!("a process could not be started: {error}"))?;
                // Some hardly begin, most come far.
                let most = if random.once_in(4) { 200 } else { 5000 };
                let life = Duration::from_millis(random.below(most) as u64);
                *slot = Some(Process {
                    child,
                    end: Instant::now() + life,
                });
            }
        }
        thread::sleep(Duration::from_millis(5));
    }
    for process in processes.iter_mut().flatten() {
        if let Err(error) = kill(process) {
            faults += &format!("{error}\n");
        }
    }
    println!("mkfuzz: {} lives", lives.iter().sum::<u64>());
    Ok(faults)
}

/// Takes everything apart, until all is as before: killed processes may have a call to end. What
/// remains, or differs.
fn settle(device: i32, before: &Snapshot) -> io::Result<String> {
    let (done, ended) = mpsc::channel();
    let wanted = before.clone();
    // In a thread, as a call that should end may not: a stop waits for whoever has the instance.
    thread::spawn(move || {
        let deadline = Instant::now() + SETTLE;
        let remains = loop {
            let remains = host::clean_up(device);
            let over = match (&remains, Snapshot::take(device)) {
                (Ok(remains), Ok(after)) => remains.is_empty() && wanted == after,
                _ => true,
            };
            if over || Instant::now() >= deadline {
                break remains;
            }
            thread::sleep(Duration::from_millis(20));
        };
        // Nobody listens any more if it took too long.
        let _ = done.send(remains);
    });
    let remains = match ended.recv_timeout(2 * SETTLE) {
        Ok(remains) => remains?,
        Err(_) => "an instance cannot be stopped: the call does not return\n".to_owned(),
    };
    Ok(remains + &before.differences(&Snapshot::take(device)?))
}

/// What [`host::free_memory`] says once pages on their way to the free lists have arrived.
fn wait_for_memory(before: u64) -> io::Result<(u64, u64)> {
    let deadline = Instant::now() + SETTLE;
    loop {
        let now = host::free_memory()?;
        if now.0 + TOLERANCE_KB >= before || Instant::now() >= deadline {
            return Ok(now);
        }
        thread::sleep(Duration::from_millis(100));
    }
}
