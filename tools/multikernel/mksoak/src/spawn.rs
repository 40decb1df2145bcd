// SPDX-License-Identifier: GPL-2.0

//! The first process of a spawn: works, says how far it is, and ends its kernel when told.
//!
//! It is told by lines on the console `hvc0`, or where there is none by the command line. It
//! answers through the kernel's log, which every console shows:
//!
//! | line | meaning |
//! | --- | --- |
//! | `soak: ready tsc=T` | up and working since the time-stamp counter read T |
//! | `soak: report STEPS SUM` | answer to `report`: how far the first worker is |
//! | `soak: fault tsc=T` | answer to `fault KIND SEED`: it comes next |
//! | `soak: broken: ...` | a worker found what it had not written |
//! | `soak: player...` | answers to `player begin NAME`, `do DEED`, `kill`, `end`; see `player` |
//! | `soak: hold`, `soak: held N` | answers to `hold N`, `held`: a step that this kernel holds |
//! | `soak: alive: ...` | a fault that should have ended the kernel did not |

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use multikernel::device::Arena;
use rustix::mount::{mount, MountFlags};
use rustix::system::{reboot, RebootCommand};
use rustix::termios::{tcgetattr, tcsetattr, LocalModes, OptionalActions};

use crate::clock::tsc;
use crate::cpio::Archive;
use crate::player::Process;
use crate::stamp::stamp;
use crate::work::Work;

/// Pages of each worker's table.
pub const PAGES: usize = 256;
/// Steps at a time, and the pause after them: the machine has other things to do.
const BATCH: usize = 8;
const PAUSE: Duration = Duration::from_millis(5);
/// Where debugfs is.
const DEBUGFS: &str = "/debug";
/// Where the devices are that the kernel knows.
const DEVICES: &str = "/devices";
/// Bytes by which memory is used up.
const PIECE: usize = 1 << 20;

/// Words of the command line.
pub const SEED: &str = "soak.seed=";
/// See [`SEED`]: a fault to commit after `soak.delay_us=`, without being told.
pub const FAULT: &str = "soak.fault=";
/// See [`SEED`].
pub const DELAY_US: &str = "soak.delay_us=";
/// Nobody works.
pub const IDLE: &str = "soak.idle";

/// The initial ram file system in which this program is the first process.
pub fn initrd(program: &[u8]) -> Vec<u8> {
    let mut archive = Archive::default();
    for folder in ["dev", "proc", "sbin", &DEBUGFS[1..], &DEVICES[1..]] {
        archive.folder(folder);
    }
    archive.device("dev/console", 5, 1);
    archive.device("dev/null", 1, 3);
    archive.device("dev/kmsg", 1, 11);
    archive.device("dev/hvc0", 229, 0);
    archive.link("dev/multikernel", "/devices/multikernel");
    archive.program("init", program);
    // What the kernel calls to power off in order.
    archive.link("sbin/poweroff", "/init");
    archive.finish()
}

/// Says something through the kernel's log, at a level that "quiet" leaves.
fn say(text: &str) {
    // There is nobody else to tell when this fails; the host waits for the line, and then gives up.
    let _ = fs::write("/dev/kmsg", format!("<3>soak: {text}\n"));
}

/// What a word of the command line says.
fn word<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.split_ascii_whitespace()
        .find_map(|word| word.strip_prefix(key))
}

/// Works for ever.
fn work(work: &Mutex<Work>) {
    loop {
        for _ in 0..BATCH {
            let step = lock(work).step();
            if let Err(what) = step {
                say(&format!("broken: {what}"));
            }
        }
        thread::sleep(PAUSE);
    }
}

/// A worker that panicked has been reported as such; what it did until then still counts.
fn lock(work: &Mutex<Work>) -> std::sync::MutexGuard<'_, Work> {
    work.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends this kernel in the way that is asked for.
fn fault(kind: &str, seed: &str) -> std::io::Result<()> {
    match kind {
        "sysrq" => fs::write("/proc/sysrq-trigger", "c"),
        "restart" => Ok(reboot(RebootCommand::Restart)?),
        "poweroff" => Ok(reboot(RebootCommand::PowerOff)?),
        "oom" => {
            fs::write("/proc/sys/vm/panic_on_oom", "1")?;
            let mut taken = Vec::new();
            loop {
                taken.push(std::hint::black_box(vec![1_u8; PIECE]));
            }
        }
        _ => fs::write(
            format!("{DEBUGFS}/multikernel/crash"),
            format!("{kind} {seed}"),
        ),
    }
}

/// Announces a fault and commits it.
fn announced_fault(kind: &str, seed: &str) {
    say(&format!("fault tsc={}", tsc()));
    if let Err(error) = fault(kind, seed) {
        say(&format!("alive: {kind}: {error}"));
    }
}

/// Begins to stamp an arena.
fn stamp_arena(name: String) {
    thread::spawn(move || {
        let device = Path::new(DEVICES).join("multikernel");
        let map = Arena::open_at(&device, &name, false).and_then(|arena| arena.map());
        match map {
            Ok(map) => stamp(map.words().unwrap_or_default()),
            Err(error) => say(&format!("alive: {error}")),
        }
    });
}

/// Starts a player, and passes its answers on. Its end is waited for on request only: what it
/// does may take until the host lets it.
fn begin_player(name: &str) -> multikernel::Result<Process> {
    let mut player = Process::start(Path::new("/init"), name)?;
    let (_, none) = std::sync::mpsc::channel();
    let answers = std::mem::replace(&mut player.answers, none);
    thread::spawn(move || {
        for answer in answers {
            say(&format!("player: {answer}"));
        }
    });
    say("player begun");
    Ok(player)
}

/// Does something with the player.
fn play(player: &mut Option<Process>, words: &[&str]) -> multikernel::Result<()> {
    match (words, player) {
        (["begin", name], player) => *player = Some(begin_player(name)?),
        (["kill"], Some(player)) => {
            player.kill()?;
            say("player killed");
        }
        (["end"], Some(player)) => {
            player.end()?;
            say("player ended");
        }
        (["do", deed @ ..], Some(player)) => player.tell(&deed.join(" "))?,
        (words, _) => say(&format!("alive: no player for {words:?}")),
    }
    Ok(())
}

/// Has this kernel hold a step, or says which it holds.
fn hold(step: Option<&str>) -> std::io::Result<()> {
    match step {
        Some(step) => {
            fs::write(format!("{DEBUGFS}/multikernel/hold_step"), step)?;
            say("hold");
        }
        None => {
            let held = fs::read_to_string(format!("{DEBUGFS}/multikernel/held_step"))?;
            say(&format!("held {}", held.trim()));
        }
    }
    Ok(())
}

/// Opens the console; `None` where there is none that takes input.
fn open_console() -> Option<File> {
    let console = File::options()
        .read(true)
        .write(true)
        .open("/dev/hvc0")
        .ok()?;
    if let Ok(mut settings) = tcgetattr(&console) {
        settings.local_modes.remove(LocalModes::ECHO);
        // With an echo there would be more to read, nothing else.
        let _ = tcsetattr(&console, OptionalActions::Now, &settings);
    }
    Some(console)
}

fn tell_alive(done: std::io::Result<()>) {
    if let Err(error) = done {
        say(&format!("alive: {error}"));
    }
}

/// Answers what comes over the console until there is none.
fn serve(console: File, first: &Mutex<Work>) {
    let mut player = None;
    for line in BufReader::new(console).lines().map_while(Result::ok) {
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        match words[..] {
            ["report"] => {
                let progress = lock(first).progress();
                say(&format!("report {} {:#x}", progress.steps, progress.sum));
            }
            ["fault", kind, seed] => announced_fault(kind, seed),
            ["stamp", arena] => stamp_arena(arena.to_owned()),
            ["player", ref words @ ..] => {
                if let Err(error) = play(&mut player, words) {
                    say(&format!("alive: {error}"));
                }
            }
            ["hold", step] => tell_alive(hold(Some(step))),
            ["held"] => tell_alive(hold(None)),
            ["spoil"] => lock(first).spoil(),
            _ => say(&format!("alive: not understood: {line:?}")),
        }
    }
}

fn mount_all() {
    for (kind, at) in [
        ("proc", "/proc"),
        ("debugfs", DEBUGFS),
        ("devtmpfs", DEVICES),
    ] {
        // Without the last two it is not asked for what needs them.
        let _ = mount(kind, at, kind, MountFlags::empty(), None);
    }
    // Else lines are dropped when there are many.
    let _ = fs::write("/proc/sys/kernel/printk_devkmsg", "on");
}

/// Runs as the first process; never returns, as the kernel would panic.
pub fn main() -> ! {
    mount_all();
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let seed: u64 = word(&line, SEED)
        .and_then(|word| word.parse().ok())
        .unwrap_or(0);

    let first = Arc::new(Mutex::new(Work::new(seed, PAGES)));
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let idle = line.split_ascii_whitespace().any(|word| word == IDLE);
    for worker in 0..if idle { 0 } else { cpus as u64 } {
        let mine = match worker {
            0 => first.clone(),
            other => Arc::new(Mutex::new(Work::new(seed.wrapping_add(other), PAGES))),
        };
        thread::spawn(move || work(&mine));
    }
    let console = open_console();
    say(&format!("ready tsc={}", tsc()));

    if let Some(kind) = word(&line, FAULT) {
        let delay = word(&line, DELAY_US).and_then(|word| word.parse().ok());
        thread::sleep(Duration::from_micros(delay.unwrap_or(0)));
        announced_fault(kind, "0");
    } else if let Some(console) = console {
        serve(console, &first);
    }
    loop {
        thread::park();
    }
}

/// Runs as `/sbin/poweroff`.
pub fn power_off() -> std::process::ExitCode {
    match reboot(RebootCommand::PowerOff) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(_) => std::process::ExitCode::FAILURE,
    }
}
