// SPDX-License-Identifier: GPL-2.0

//! What the host does all along: work in memory, files, processes. Nothing of it may get lost.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::work::{Progress, Reference, Work};

/// Pages of each table, and how many workers have one.
const PAGES: usize = 1024;
const TABLES: u64 = 2;
/// Steps at a time, and the pause after them.
const BATCH: usize = 8;
const PAUSE: Duration = Duration::from_millis(5);
/// The pause after a file, and after a process.
const FILE_PAUSE: Duration = Duration::from_millis(20);
const PROCESS_PAUSE: Duration = Duration::from_millis(200);
/// How long the first pieces of work may take.
const START: Duration = Duration::from_secs(20);
/// Bytes of a file at most.
const FILE_BYTES: usize = 128 << 10;
/// Steps of a process, and pages of its table.
const PROCESS_STEPS: u64 = 16;
pub const PROCESS_PAGES: usize = 4;

/// What all workers share.
struct Shared {
    /// Taken by each worker for a piece of work, by who wants the host quiet for writing.
    gate: RwLock<()>,
    stop: AtomicBool,
    complaints: Mutex<Vec<String>>,
    files: AtomicU64,
    processes: AtomicU64,
    /// The longest that a pause of [`PAUSE`] took too long, in microseconds.
    worst_delay_us: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The workers.
pub struct HostWork {
    shared: Arc<Shared>,
    tables: Vec<(Arc<Mutex<Work>>, Reference)>,
    before: (u64, u64),
    threads: Vec<JoinHandle<()>>,
}

/// The sum that a process is asked for.
pub fn process(seed: u64, steps: u64) -> Result<Progress, String> {
    let mut work = Work::new(seed, PROCESS_PAGES);
    for _ in 0..steps {
        work.step()?;
    }
    Ok(work.progress())
}

impl Shared {
    fn complain(&self, text: String) {
        lock(&self.complaints).push(text);
    }

    /// Does pieces of work, with pauses, until it is told to stop.
    fn repeat(&self, pause: Duration, mut piece: impl FnMut() -> Result<(), String>) {
        while !self.stop.load(Ordering::Relaxed) {
            {
                let _open = self.gate.read().unwrap_or_else(PoisonError::into_inner);
                if let Err(what) = piece() {
                    self.complain(what);
                }
            }
            let start = Instant::now();
            thread::sleep(pause);
            if pause == PAUSE {
                let late = start.elapsed().saturating_sub(pause);
                self.worst_delay_us
                    .fetch_max(late.as_micros() as u64, Ordering::Relaxed);
            }
        }
    }
}

/// Writes a file, reads it back under another name, removes it.
fn one_file(folder: &Path, rng: &mut fastrand::Rng) -> io::Result<bool> {
    let bytes: Vec<u8> = (0..rng.usize(1..=FILE_BYTES)).map(|at| at as u8).collect();
    let (from, to) = (folder.join("written"), folder.join("renamed"));
    fs::write(&from, &bytes)?;
    fs::rename(&from, &to)?;
    let same = fs::read(&to)? == bytes;
    fs::remove_file(&to)?;
    Ok(same)
}

/// Has a process calculate, and checks its answer.
fn one_process(program: &Path, seed: u64) -> Result<(), String> {
    let said = Command::new(program)
        .args(["--checksum", &seed.to_string(), &PROCESS_STEPS.to_string()])
        .output()
        .map_err(|error| format!("a process cannot be started: {error}"))?;
    let expected = Reference::new(seed, PROCESS_PAGES).after(PROCESS_STEPS);
    let text = String::from_utf8_lossy(&said.stdout);
    match said.status.success() && text.trim() == expected.to_string() {
        true => Ok(()),
        false => Err(format!(
            "a process said \"{}\" and not {expected}",
            text.trim()
        )),
    }
}

impl HostWork {
    /// Starts the workers, and waits until each has done something: what a thread needs once, it
    /// then has. Files go to a folder of their own.
    pub fn start(seed: u64, folder: PathBuf, program: PathBuf) -> Self {
        let shared = Arc::new(Shared {
            gate: RwLock::new(()),
            stop: AtomicBool::new(false),
            complaints: Mutex::default(),
            files: AtomicU64::new(0),
            processes: AtomicU64::new(0),
            worst_delay_us: AtomicU64::new(0),
        });
        let mut threads = Vec::new();
        let mut tables = Vec::new();
        for number in 0..TABLES {
            let seed = seed.wrapping_add(number);
            let work = Arc::new(Mutex::new(Work::new(seed, PAGES)));
            tables.push((work.clone(), Reference::new(seed, PAGES)));
            let shared = shared.clone();
            threads.push(thread::spawn(move || {
                shared.repeat(PAUSE, || {
                    let mut work = lock(&work);
                    (0..BATCH).try_for_each(|_| work.step())
                });
            }));
        }
        let for_files = shared.clone();
        threads.push(thread::spawn(move || {
            let mut rng = fastrand::Rng::with_seed(seed);
            for_files.repeat(FILE_PAUSE, || {
                match one_file(&folder, &mut rng) {
                    Ok(true) => {}
                    Ok(false) => return Err("a file is not what was written".into()),
                    Err(error) => return Err(format!("a file cannot be used: {error}")),
                }
                for_files.files.fetch_add(1, Ordering::Relaxed);
                Ok(())
            });
        }));
        let for_processes = shared.clone();
        threads.push(thread::spawn(move || {
            let mut rng = fastrand::Rng::with_seed(seed);
            for_processes.repeat(PROCESS_PAUSE, || {
                one_process(&program, rng.u64(..))?;
                for_processes.processes.fetch_add(1, Ordering::Relaxed);
                Ok(())
            });
        }));
        let work = Self {
            shared,
            tables,
            before: (0, 0),
            threads,
        };
        let deadline = Instant::now() + START;
        // Whoever did not get there in time stands still, which the first check says.
        while !work.all_began() && Instant::now() < deadline {
            thread::sleep(PAUSE);
        }
        work
    }

    fn all_began(&self) -> bool {
        let began = |count: &AtomicU64| count.load(Ordering::Relaxed) > 0;
        began(&self.shared.files)
            && began(&self.shared.processes)
            && self
                .tables
                .iter()
                .all(|(work, _)| lock(work).progress().steps > 0)
    }

    /// Waits until every worker is at a pause, and keeps them there.
    pub fn quiet(&self) -> RwLockWriteGuard<'_, ()> {
        self.shared
            .gate
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether all that was done since the last call is right, and something was done at all.
    pub fn check(&mut self) -> Vec<String> {
        let mut found = std::mem::take(&mut *lock(&self.shared.complaints));
        for (number, (work, reference)) in self.tables.iter_mut().enumerate() {
            let progress = lock(work).progress();
            if progress.steps <= reference.steps() {
                found.push(format!("worker {number} stands still"));
            } else if progress.sum != reference.after(progress.steps) {
                found.push(format!("worker {number} has lost work"));
            }
        }
        let files = self.shared.files.load(Ordering::Relaxed);
        let processes = self.shared.processes.load(Ordering::Relaxed);
        if files <= self.before.0 || processes <= self.before.1 {
            found.push("the work with files or processes stands still".into());
        }
        self.before = (files, processes);
        found
    }

    /// Changes one bit of what a worker works on.
    pub fn spoil(&self) {
        lock(&self.tables[0].0).spoil();
    }

    /// The longest that a thread that slept for 5 ms was late, in milliseconds.
    pub fn worst_delay_ms(&self) -> f64 {
        self.shared.worst_delay_us.load(Ordering::Relaxed) as f64 / 1e3
    }

    /// Units of work done: steps, files, processes.
    pub fn done(&self) -> (u64, u64, u64) {
        let steps = self
            .tables
            .iter()
            .map(|(work, _)| lock(work).progress().steps)
            .sum();
        (steps, self.before.0, self.before.1)
    }

    /// Ends the workers.
    pub fn stop(self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            // One that panicked ended the whole process.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_back() {
        let folder = std::env::temp_dir().join(format!("mksoak-test-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let mut rng = fastrand::Rng::with_seed(1);
        assert!(one_file(&folder, &mut rng).unwrap());
        fs::remove_dir(&folder).unwrap();
    }

    #[test]
    fn a_process_does_what_the_reference_does() {
        let expected = Reference::new(9, PROCESS_PAGES).after(33);
        assert_eq!(process(9, 33).unwrap().sum, expected);
        assert!(one_process(Path::new("/bin/false"), 1).is_err());
        assert!(one_process(Path::new("/nonexistent"), 1).is_err());
    }
}
