// SPDX-License-Identifier: GPL-2.0

//! Replaces the kernel under a key-value server again and again, while a client writes.
//!
//! The server is Redis in a spawn, its data in an arena (`--pmem`), the client `mkkv`. Each round
//! is one `mkctl upgrade` to the next of the kernels: the server stops in the old one when the new
//! one is up, and starts in that ([`SHELL`]). After each round what the host has is counted as in
//! the other soak; in the end the client reads back everything that was acknowledged.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use multikernel::device::Host;
use multikernel::{Error, Result};
use serde::Serialize;
use serde_json::Value;

use crate::balance::{losses, median, points, trend, Exact, Look, Used, WARM_UP};

const NAME: &str = "kv";
const ARENA: &str = "kv-data";
const ARENA_SIZE: &str = "256M";
/// For the arena and two instances, the old one and the new.
const POOL: &str = "640M";
const MEMORY: &str = "160M";
const CPU: &str = "2";
const INITRD: &str = "/boot/kv.cpio.gz";
const CLIENT: &str = "/boot/mkkv";
const BOOT: Duration = Duration::from_secs(180);
/// Until somebody has an answer again.
const ANSWER: Duration = Duration::from_secs(120);
const INTERVAL: Duration = Duration::from_millis(50);
/// What is on the new kernel's command line: the first starts the server, the others are told to.
const FIRST: &str = "spawn.run=/usr/bin/kv oops=panic";
const LATER: &str = "spawn.run=/usr/bin/kv oops=panic kv.wait";

/// `kv INSTANCE WORD SECONDS`, for the commands of an upgrade: see initramfs.d/kv.
///
/// The answer is there when its last line is, however long the other end keeps the connection.
const SHELL: &str = r#"kv() {
	id=$(mkctl inspect "$1" --json | sed -n 's/^ *"id": \([0-9]*\).*/\1/p' | head -n 1)
	: >/tmp/kv.said
	echo "$2" | socat -T "$3" -t "$3" - "VSOCK-CONNECT:$id:1026" >/tmp/kv.said 2>&1 &
	until grep -q '^ok$\|^failed' /tmp/kv.said || ! kill -0 $! 2>/dev/null; do
		usleep 50000
	done
	kill $! 2>/dev/null
	[ "$(tail -n 1 /tmp/kv.said)" = ok ] || { cat /tmp/kv.said >&2; false; }
}
"#;
/// It is up when it obeys.
const READY: &str = r#"kv "$MKCTL_INSTANCE" status 3 2>/dev/null"#;
/// Only one of the two may have the file system mounted. If the new one cannot, the old one goes
/// on.
const HANDOVER: &str = r#"kv "$MKCTL_OLD" stop 60 && kv "$MKCTL_INSTANCE" start 60 && exit 0
kv "$MKCTL_INSTANCE" stop 60 && kv "$MKCTL_OLD" start 60
exit 1"#;

/// What came of it.
#[derive(Debug, Default, Serialize)]
struct Report {
    upgrades_asked: u64,
    upgrades: u64,
    /// How often each kernel took over, by its release.
    releases: BTreeMap<String, u64>,
    seconds: f64,
    /// The median and the longest time of an upgrade, in seconds.
    upgrade_s: Option<(f64, f64)>,
    free_kib_per_round: Option<f64>,
    slab_kib_per_round: Option<f64>,
    /// What the client says: writes, those lost, changed and doubled, interruptions.
    client: Value,
    leaks: Vec<String>,
    failures: Vec<String>,
}

fn failed(what: &str, why: impl std::fmt::Display) -> Error {
    Error::new(format!("cannot {what}"), why)
}

/// Runs a program to its end; what it says is an error if it fails.
fn run_program(program: &str, arguments: &[&str]) -> Result<String> {
    let what = format!("run {program} {}", arguments.first().unwrap_or(&""));
    let done = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(&what, error))?;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    if done.status.success() {
        return Ok(said);
    }
    let wrong = String::from_utf8_lossy(&done.stderr);
    Err(failed(
        &what,
        format_args!("{}: {said}{wrong}", done.status),
    ))
}

fn mkctl(arguments: &[&str]) -> Result<String> {
    run_program("mkctl", arguments)
}

fn wait_until(what: &str, timeout: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + timeout;
    while !done()? {
        if Instant::now() > deadline {
            return Err(failed("go on", format_args!("{what} within {timeout:?}")));
        }
        thread::sleep(INTERVAL);
    }
    Ok(())
}

/// The client. Killed when it is dropped.
struct Client {
    child: Child,
    /// Writes have begun.
    begun: Arc<AtomicU64>,
    interruptions: Arc<AtomicU64>,
    said: Arc<Mutex<String>>,
}

impl Client {
    fn start() -> Result<Self> {
        let wrong = |error| failed("start mkkv", error);
        let mut child = Command::new(CLIENT)
            .args(["--json", "--timeout", "600", NAME, &format!("{NAME}.next")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(wrong)?;
        let errors = child.stderr.take();
        let this = Self {
            child,
            begun: Arc::default(),
            interruptions: Arc::default(),
            said: Arc::default(),
        };
        let (begun, count) = (this.begun.clone(), this.interruptions.clone());
        let said = this.said.clone();
        thread::spawn(move || {
            let Some(errors) = errors else { return };
            for line in BufReader::new(errors)
                .lines()
                .map_while(std::io::Result::ok)
            {
                if line.contains("first write is acknowledged") {
                    begun.fetch_add(1, Ordering::Relaxed);
                } else if line.contains("mkkv: interruption") {
                    count.fetch_add(1, Ordering::Relaxed);
                } else {
                    let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
                    said.push_str(&line);
                    said.push('\n');
                }
            }
        });
        wait_until("no write was acknowledged", ANSWER, || {
            Ok(this.begun.load(Ordering::Relaxed) != 0)
        })?;
        Ok(this)
    }

    fn id(&self) -> u32 {
        self.child.id()
    }

    fn interruptions(&self) -> u64 {
        self.interruptions.load(Ordering::Relaxed)
    }

    /// Has it read back everything, and report.
    fn finish(&mut self) -> Result<(bool, Value)> {
        let wrong = |error: std::io::Error| failed("end mkkv", error);
        // SAFETY: The process has not been waited for, so its id is still its own.
        let sent = unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
        if sent != 0 {
            return Err(wrong(std::io::Error::last_os_error()));
        }
        let mut report = String::new();
        if let Some(mut output) = self.child.stdout.take() {
            output.read_to_string(&mut report).map_err(wrong)?;
        }
        let status = self.child.wait().map_err(wrong)?;
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        for line in said.lines() {
            println!("# {line}");
        }
        let report = serde_json::from_str(&report)
            .map_err(|error| failed("understand mkkv", format_args!("{error}: {report}")))?;
        Ok((status.success(), report))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // It has ended already, or does now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The release of the kernel that runs there, as its first process says.
fn release() -> Result<String> {
    let said = mkctl(&["logs", NAME])?;
    let line = said
        .lines()
        .find_map(|line| line.split_once("spawn: uname: Linux "));
    line.and_then(|(_, rest)| rest.split_ascii_whitespace().nth(1))
        .map(str::to_owned)
        .ok_or_else(|| failed("tell the kernel", "its log does not say"))
}

fn upgrade(kernel: &Path, client: &Client, round: u64) -> Result<()> {
    let kernel = kernel.to_str().ok_or_else(|| failed("upgrade", "a name"))?;
    let said = mkctl(&[
        "upgrade",
        NAME,
        "--kernel",
        kernel,
        "--append",
        LATER,
        "--timeout",
        "240",
        "--ready-command",
        &format!("{SHELL}{READY}"),
        "--handover-command",
        &format!("{SHELL}{HANDOVER}"),
        "--json",
    ])?;
    // How long each step took.
    println!("# {}", said.trim());
    wait_until("nobody had an answer", ANSWER, || {
        Ok(client.interruptions() >= round)
    })
}

/// All of it but the count before and after.
fn play(
    host: &Host,
    rounds: u64,
    kernels: &[PathBuf],
    time: Option<Duration>,
    report: &mut Report,
) -> Result<()> {
    let first = kernels.first().and_then(|kernel| kernel.to_str());
    let first = first.ok_or_else(|| failed("begin", "there is no kernel"))?;
    mkctl(&["arena", "create", ARENA, ARENA_SIZE])?;
    mkctl(&[
        "run", "--kernel", first, "--initrd", INITRD, "--memory", MEMORY, "--cpus", CPU,
        "--append", FIRST, "--name", NAME, "--pmem", ARENA,
    ])?;
    let status = format!("{SHELL}kv {NAME} status 3 && grep -qx running /tmp/kv.said");
    wait_until("there is no server", BOOT, || {
        Ok(run_program("sh", &["-c", &status]).is_ok())
    })?;
    let mut client = Client::start()?;
    let mut looks = Vec::new();
    let mut times = Vec::new();
    let mut exact: Option<(u64, u32, usize)> = None;
    let start = Instant::now();
    for round in 1..=rounds {
        if time.is_some_and(|time| start.elapsed() > time) {
            println!("ok {round} upgrade # SKIP no time left");
            continue;
        }
        let began = Instant::now();
        let kernel = &kernels[round as usize % kernels.len()];
        upgrade(kernel, &client, round)?;
        let took = began.elapsed().as_secs_f64();
        times.push(took);
        report.upgrades = round;
        let release = release()?;
        println!(
            "ok {round} upgrade to {}, {release}: {took:.1} s",
            kernel.display()
        );
        *report.releases.entry(release).or_default() += 1;

        let now = Exact::look(host)?;
        let counted = (now.kernel_bytes, now.instances, now.files);
        let was = *exact.get_or_insert(counted);
        // Links and their tables differ between kernels, not in number.
        if (was.1, was.2) != (counted.1, counted.2) {
            let what = format!("round {round}: instances, files: {was:?} became {counted:?}");
            report.leaks.push(what);
        }
        looks.push(Look {
            round: round as f64,
            used: Used::look(host, true, Some(client.id()))?,
        });
    }
    report.seconds = start.elapsed().as_secs_f64();
    report.upgrade_s = median(&mut times).zip(times.last().copied());
    let settled = looks.get(WARM_UP..).unwrap_or_default();
    report.free_kib_per_round = trend(&points(settled, |used| used.free_kib));
    report.slab_kib_per_round = trend(&points(settled, |used| used.slab_kib));
    report.leaks.extend(losses(&looks));
    let (clean, said) = client.finish()?;
    report.client = said;
    let wrong = ["lost", "changed", "doubled"].map(|key| report.client[key].as_u64());
    let acknowledged = report.client["acknowledged"].as_u64().unwrap_or(0);
    if !clean || wrong != [Some(0); 3] || acknowledged == 0 {
        report.failures.push(format!("writes: {}", report.client));
    }
    mkctl(&["rm", "--force", NAME])?;
    mkctl(&["arena", "rm", ARENA]).map(drop)
}

/// Replaces the kernel so often by the next of those. Whether nothing was lost.
pub fn run(host: &Host, rounds: u64, kernels: &[PathBuf], time: Option<Duration>) -> Result<bool> {
    println!("TAP version 13\n1..{}", rounds + 2);
    let before = Exact::look(host)?;
    mkctl(&["pool", "grow", POOL])?;
    let mut report = Report {
        upgrades_asked: rounds,
        ..Report::default()
    };
    match play(host, rounds, kernels, time, &mut report) {
        Ok(()) => {
            mkctl(&["pool", "shrink", POOL])?;
            report.leaks.extend(before.differences(&Exact::look(host)?));
        }
        Err(error) => {
            println!("not ok {} upgrade", report.upgrades + 1);
            report.failures.push(error.to_string());
        }
    }
    if report.upgrades == 0 {
        report.failures.push("there was no upgrade".to_owned());
    }
    let results = [
        ("no write was lost, changed or doubled", &report.failures),
        ("the host has what it had", &report.leaks),
    ];
    for (number, (what, bad)) in (rounds + 1..).zip(results) {
        for line in bad.iter().flat_map(|text| text.lines()) {
            println!("# {line}");
        }
        let ok = if bad.is_empty() { "ok" } else { "not ok" };
        println!("{ok} {number} {what}");
    }
    let clean = report.failures.is_empty() && report.leaks.is_empty();
    let json = serde_json::to_string(&report).map_err(|error| failed("report", error))?;
    println!("# json {json}");
    Ok(clean)
}
