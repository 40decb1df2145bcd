// SPDX-License-Identifier: GPL-2.0

//! Measures the boot and life of instances on the host it runs on.
//!
//! Each run takes an instance through its whole life, for each way to boot it, and notes how long
//! each step took. The end of a boot is when the spawn's first process, `mkbench-pid1`, has read
//! the time-stamp counter, which host and spawn share. The samples are printed as JSON, in
//! nanoseconds; what to make of them is up to scripts/multikernel/bench.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use multikernel::cmdline::Uart;
use multikernel::device::{CreateRequest, Host, Instance};
use multikernel::load::{self, LoadSpec};
use multikernel::shared::OutputReader;
use multikernel::spec::{CpuList, MemoryRequest, Side};
use multikernel::{Error, Result};

// Of the programs that have it none needs all of it.
#[allow(dead_code)]
mod machine;

use machine::ticks as tsc;

/// How long a spawn may take to its first process.
const DEADLINE: Duration = Duration::from_secs(30);
/// How often its output is looked at; the time itself is in what it says.
const INTERVAL: Duration = Duration::from_millis(2);

/// Measures the boot and life of instances.
#[derive(Parser)]
struct Args {
    /// How often each step is measured
    #[arg(long, default_value_t = 10)]
    runs: usize,
    /// The kernel as a bzImage
    #[arg(long)]
    bzimage: PathBuf,
    /// The same kernel as a vmlinux
    #[arg(long)]
    vmlinux: PathBuf,
    /// An initrd whose /pid1 is mkbench-pid1
    #[arg(long)]
    initrd: PathBuf,
    /// CPUs to lend
    #[arg(long)]
    cpus: CpuList,
    /// Memory to lend
    #[arg(long)]
    memory: MemoryRequest,
    /// A UART to lend to spawns without guest support
    #[arg(long)]
    uart: Uart,
    /// The file in which what that UART says arrives
    #[arg(long)]
    uart_log: PathBuf,
}

/// One way to boot.
struct Way {
    name: &'static str,
    vmlinux: bool,
    guest: bool,
}

const WAYS: [Way; 3] = [
    Way {
        name: "boot/spawn-bzimage",
        vmlinux: false,
        guest: false,
    },
    Way {
        name: "boot/spawn-vmlinux",
        vmlinux: true,
        guest: false,
    },
    Way {
        name: "boot/spawn-guest",
        vmlinux: true,
        guest: true,
    },
];

/// What has been measured, by name.
#[derive(Default)]
struct Samples(BTreeMap<String, Vec<u64>>);

impl Samples {
    fn add(&mut self, name: &str, value: u64) {
        self.0.entry(name.to_owned()).or_default().push(value);
    }

    /// Does something and notes how many nanoseconds it took.
    fn time<T>(&mut self, name: &str, what: impl FnOnce() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let done = what()?;
        self.add(name, start.elapsed().as_nanos() as u64);
        Ok(done)
    }
}

/// What the first process said: TSC and its kernel's own clock in nanoseconds.
fn parse(text: &str) -> Option<(u64, u64)> {
    let line = text.split("mkbench: pid1 tsc=").nth(1)?;
    let (line, _) = line.split_once('\n')?;
    let (tsc, boot) = line.trim().split_once(" boot=")?;
    Some((tsc.parse().ok()?, boot.parse().ok()?))
}

struct Bench {
    args: Args,
    host: Host,
    tsc_khz: u64,
    samples: Samples,
}

impl Bench {
    fn spec(&self, way: &Way) -> LoadSpec {
        LoadSpec {
            kernel: match way.vmlinux {
                true => self.args.vmlinux.clone(),
                false => self.args.bzimage.clone(),
            },
            initrd: Some(self.args.initrd.clone()),
            append: "rdinit=/pid1".into(),
            fast: false,
            uarts: match way.guest {
                true => Vec::new(),
                false => vec![self.args.uart],
            },
            guest: way.guest,
            later_cpus: Vec::new(),
            pmem: Vec::new(),
        }
    }

    /// Waits for the first process of the life that was just begun.
    fn first_process(&self, instance: &Instance, way: &Way, skip: u64) -> Result<(u64, u64)> {
        let deadline = Instant::now() + DEADLINE;
        let map = instance.map_shared()?;
        let fault =
            |error: &dyn std::fmt::Display| Error::new("cannot read what a spawn says", error);
        let mut text = Vec::new();
        let mut reader = None;
        while Instant::now() < deadline {
            if way.guest {
                let area = map.area().map_err(|error| fault(&error))?;
                if reader.is_none() {
                    let header = area.header().map_err(|error| fault(&error))?;
                    reader = Some(OutputReader::from_start(&header));
                }
                if let Some(reader) = reader.as_mut() {
                    reader.read(&area, &mut text);
                }
            } else {
                let log = fs::read(&self.args.uart_log).map_err(|error| fault(&error))?;
                text = log.get(skip as usize..).unwrap_or_default().to_vec();
            }
            if let Some(found) = parse(&String::from_utf8_lossy(&text)) {
                return Ok(found);
            }
            thread::sleep(INTERVAL);
        }
        Err(Error::new(
            format!("no first process of {} in time", way.name),
            "it is lost",
        ))
    }

    fn log_length(&self) -> u64 {
        fs::metadata(&self.args.uart_log).map_or(0, |file| file.len())
    }

    fn nanoseconds(&self, from: u64, to: u64) -> u64 {
        (u128::from(to.saturating_sub(from)) * 1_000_000 / u128::from(self.tsc_khz)) as u64
    }

    fn run(&mut self, way: &Way) -> Result<()> {
        let spec = self.spec(way);
        let before = self.host.info()?.kernel_bytes;
        let mut skip = self.log_length();

        let request = tsc();
        let create = CreateRequest {
            name: "bench",
            cpus: &self.args.cpus,
            memory: std::slice::from_ref(&self.args.memory),
            low_bytes: 0,
        };
        let host = &self.host;
        let instance = self.samples.time("life/create", || host.create(&create))?;
        let loaded = self
            .samples
            .time("life/load", || load::load(host, &instance, &spec))?;
        let started = tsc();
        self.samples
            .time("life/start", || instance.start(loaded.argument))?;
        let (reached, clock) = self.first_process(&instance, way, skip)?;
        let whole = self.nanoseconds(request, reached);
        let alone = self.nanoseconds(started, reached);
        self.samples.add(way.name, whole);
        self.samples.add(&format!("{}-from-start", way.name), alone);
        self.samples.add(&format!("{}-own-clock", way.name), clock);
        let bytes = host.info()?.kernel_bytes - before;
        self.samples.add("memory/per-instance", bytes);

        self.samples.time("life/kill", || instance.kill())?;
        skip = self.log_length();
        let again = tsc();
        let loaded = load::load(host, &instance, &spec)?;
        instance.start(loaded.argument)?;
        let (reached, _) = self.first_process(&instance, way, skip)?;
        let respawn = self.nanoseconds(again, reached);
        if way.guest {
            self.samples.add("life/respawn", respawn);
        }
        self.samples.time("life/kill", || instance.kill())?;
        self.samples.time("life/return", || instance.destroy())
    }
}

fn measure(args: Args) -> Result<()> {
    let host = Host::open()?;
    let info = host.info()?;
    if info.tsc_khz == 0 {
        return Err(Error::new(
            "cannot measure",
            "the host does not know its TSC's frequency",
        ));
    }
    host.grow(args.memory.bytes, None, Side::Any)?;
    let runs = args.runs;
    let mut bench = Bench {
        args,
        host,
        tsc_khz: info.tsc_khz.into(),
        samples: Samples::default(),
    };
    // A kernel that has to calibrate its timer gets it wrong when the machine is busy with other
    // things, and does not come up. That is counted and said, not hidden.
    let mut lost = 0;
    for run in 1..=runs {
        for way in &WAYS {
            eprintln!("run {run} of {runs}: {}", way.name);
            while let Err(error) = bench.run(way) {
                eprintln!("mkbench: {error}");
                lost += 1;
                if lost > runs {
                    return Err(error);
                }
                let instance = bench.host.instance("bench")?;
                instance.kill()?;
                instance.destroy()?;
            }
        }
    }
    eprintln!("{lost} boots were lost and done again");
    println!("{}", serde_json::json!(bench.samples.0));
    Ok(())
}

fn main() -> ExitCode {
    match measure(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mkbench: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_first_process() {
        assert_eq!(
            parse("x\nmkbench: pid1 tsc=12 boot=34\r\nmore"),
            Some((12, 34))
        );
        assert_eq!(parse("mkbench: pid1 tsc=12 boot=3"), None);
        assert_eq!(parse("mkbench: pid1 tsc= boot=3\n"), None);
        assert_eq!(parse(""), None);
    }
}
