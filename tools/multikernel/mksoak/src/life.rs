// SPDX-License-Identifier: GPL-2.0

//! An instance of the soak: created, started, listened to, told to fail, seen to end.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use multikernel::cmdline::Uart;
use multikernel::device::{CreateRequest, EventRead, HangTimeout, Host, Instance, SharedMap};
use multikernel::device::{Reason, State};
use multikernel::load::{self, LoadSpec};
use multikernel::shared::{self, OutputReader};
use multikernel::spec::{CpuList, MemoryRequest, Side};
use multikernel::{Error, Result};
use rustix::event::{poll, PollFd, PollFlags};
use rustix::time::Timespec;

use crate::plan::{Kernel, Shape};

/// How often the log is looked at; the times themselves are in what it says.
const INTERVAL: Duration = Duration::from_millis(5);
/// What is kept of a log for the case that something is wrong.
const KEPT: usize = 64 << 10;

/// Where everything is that a spawn is made of.
#[derive(Clone, Debug)]
pub struct Files {
    /// The project's kernel as an ELF file.
    pub vmlinux: PathBuf,
    /// The same as a bzImage.
    pub bzimage: PathBuf,
    /// A kernel without guest support.
    pub stock: PathBuf,
    /// The initial ram file system, see [`crate::spawn::initrd`].
    pub initrd: PathBuf,
    /// The UART that is lent to a kernel without guest support.
    pub uart: Uart,
    /// The file in which what that UART says arrives.
    pub uart_log: PathBuf,
}

/// How and when a life ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct End {
    /// The state after it.
    pub state: State,
    /// The reason for it.
    pub reason: Reason,
    /// CLOCK_MONOTONIC, in nanoseconds.
    pub at_ns: u64,
}

/// Calls again what a signal interrupted.
///
/// Nobody sends any. But while another thread starts a process it blocks all signals, and a
/// SIGCHLD that comes then is not ignored as it is by default: it goes to any thread that does not
/// block it, and ends that one's wait before it is found to be for nothing.
fn again<T>(mut call: impl FnMut() -> Result<T>) -> Result<T> {
    loop {
        match call() {
            Err(error) if error.errno() == Some(libc::EINTR) => {}
            other => return other,
        }
    }
}

/// An instance.
pub struct Life<'a> {
    host: &'a Host,
    files: &'a Files,
    instance: Instance,
    map: SharedMap,
    shape: Shape,
    reader: Option<OutputReader>,
    /// Where the present life begins in the UART's log.
    uart_from: usize,
    /// What it said in this life.
    log: String,
    /// Up to where lines have been looked at.
    looked: usize,
    epoch: u32,
}

fn request(shape: &Shape) -> MemoryRequest {
    MemoryRequest {
        bytes: shape.memory,
        node: None,
        base: None,
        side: Side::Any,
    }
}

impl<'a> Life<'a> {
    /// Adds its memory to the pool and creates it.
    pub fn create(host: &'a Host, files: &'a Files, name: &str, shape: &Shape) -> Result<Self> {
        host.grow(shape.memory, None, Side::Any)?;
        let create = || {
            let instance = host.create(&CreateRequest {
                name,
                cpus: &CpuList(shape.cpus.clone()),
                memory: &[request(shape)],
                low_bytes: 0,
            })?;
            let map = instance.map_shared()?;
            Ok((instance, map))
        };
        let (instance, map) = create().inspect_err(|_| {
            // The error that is reported is the first one.
            let _ = host.shrink(shape.memory, None);
        })?;
        Ok(Self {
            host,
            files,
            instance,
            map,
            shape: shape.clone(),
            reader: None,
            uart_from: 0,
            log: String::new(),
            looked: 0,
            epoch: 0,
        })
    }

    /// The instance's id.
    pub fn id(&self) -> u32 {
        self.instance.id()
    }

    fn stock(&self) -> bool {
        self.shape.kernel == Kernel::Stock
    }

    /// Loads its kernel, with these words on the command line, and starts it.
    pub fn start(&mut self, append: &str, hang_ms: u32) -> Result<()> {
        let (kernel, guest) = match self.shape.kernel {
            Kernel::Vmlinux => (&self.files.vmlinux, true),
            Kernel::BzImage => (&self.files.bzimage, true),
            Kernel::Stock => (&self.files.stock, false),
        };
        let quiet = if guest { "" } else { "quiet " };
        let spec = LoadSpec {
            kernel: kernel.clone(),
            initrd: Some(self.files.initrd.clone()),
            // Whatever is wrong in it is to end it.
            append: format!("{quiet}oops=panic rdinit=/init {append}"),
            fast: false,
            uarts: if guest {
                Vec::new()
            } else {
                vec![self.files.uart]
            },
            guest,
            later_cpus: Vec::new(),
            pmem: Vec::new(),
        };
        let loaded = load::load(self.host, &self.instance, &spec)?;
        self.uart_from = fs::metadata(&self.files.uart_log).map_or(0, |file| file.len() as usize);
        self.log.clear();
        self.looked = 0;
        self.reader = None;
        let hang = HangTimeout::Milliseconds(hang_ms);
        self.instance.start_with(loaded.argument, hang, 0)?;
        self.epoch += 1;
        Ok(())
    }

    /// Takes over what it has said since the last look.
    fn listen(&mut self) -> Result<()> {
        let mut bytes = Vec::new();
        if self.stock() {
            let log = fs::read(&self.files.uart_log).unwrap_or_default();
            bytes = log.get(self.uart_from..).unwrap_or_default().to_vec();
            self.uart_from += bytes.len();
        } else {
            let wrong = |error| Error::new("cannot listen to a spawn", error);
            let area = self.map.area().map_err(wrong)?;
            if self.reader.is_none() {
                let header = area.header().map_err(wrong)?;
                self.reader = Some(OutputReader::from_start(&header));
            }
            if let Some(reader) = &mut self.reader {
                reader.read(&area, &mut bytes);
            }
        }
        self.log.push_str(&String::from_utf8_lossy(&bytes));
        Ok(())
    }

    /// The rest of the next line that has `mark`, without waiting.
    pub fn line(&mut self, mark: &str) -> Result<Option<String>> {
        self.listen()?;
        while let Some(length) = self.log[self.looked..].find('\n') {
            let line = &self.log[self.looked..self.looked + length];
            self.looked += length + 1;
            if let Some(at) = line.find(mark) {
                return Ok(Some(line[at + mark.len()..].trim().to_owned()));
            }
        }
        if self.looked > KEPT {
            let mut cut = self.looked - KEPT / 2;
            while !self.log.is_char_boundary(cut) {
                cut += 1;
            }
            self.log.drain(..cut);
            self.looked -= cut;
        }
        Ok(None)
    }

    /// Waits for a line that has `mark`, and returns the rest of it.
    pub fn wait_line(&mut self, mark: &str, timeout: Duration) -> Result<String> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(rest) = self.line(mark)? {
                return Ok(rest);
            }
            if Instant::now() > deadline {
                return Err(Error::new(
                    format!("cannot go on with instance \"{}\"", self.instance.name()),
                    format!("it did not say \"{mark}\" within {timeout:?}"),
                ));
            }
            thread::sleep(INTERVAL);
        }
    }

    /// Waits for a line of the form `mark NUMBER`.
    pub fn wait_tsc(&mut self, mark: &str, timeout: Duration) -> Result<u64> {
        let rest = self.wait_line(mark, timeout)?;
        rest.parse().map_err(|_| {
            Error::new(
                "cannot understand a spawn",
                format!("it said \"{mark}{rest}\""),
            )
        })
    }

    /// Whether a worker of it found something wrong; call it when all has been read.
    pub fn complaint(&mut self) -> Result<Option<String>> {
        self.listen()?;
        let mut lines = self.log.lines();
        Ok(lines
            .find_map(|line| {
                ["soak: broken", "soak: alive"]
                    .iter()
                    .find_map(|mark| line.find(mark).map(|at| &line[at..]))
            })
            .map(str::to_owned))
    }

    /// The last lines that it said.
    pub fn last_lines(&self, count: usize) -> Vec<String> {
        let lines: Vec<_> = self.log.lines().map(str::to_owned).collect();
        lines[lines.len().saturating_sub(count)..].to_vec()
    }

    /// Types a line on its console.
    pub fn tell(&self, line: &str) -> Result<()> {
        let asked = "cannot type on the console of a spawn";
        let area = self.map.area().map_err(|error| Error::new(asked, error))?;
        let bytes = format!("{line}\n");
        match shared::write_input(&area, bytes.as_bytes()) {
            Ok(count) if count == bytes.len() => self.instance.ring(),
            Ok(_) => Err(Error::new(asked, "it does not read what came before")),
            Err(error) => Err(Error::new(asked, error)),
        }
    }

    /// Waits for the end of the present life; `None` if there is none in time.
    pub fn wait_end(&self, timeout: Duration) -> Result<Option<End>> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let wait = Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut fds = [PollFd::from_borrowed_fd(
                self.instance.as_fd(),
                PollFlags::IN,
            )];
            match poll(&mut fds, Some(&wait)) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) => return Err(Error::new("cannot wait for an instance", error)),
            }
            let EventRead::Events(events) = self.instance.read_events()? else {
                return Err(Error::new("cannot wait for an instance", "it is gone"));
            };
            let ended = |state| matches!(state, State::Stopped | State::Crashed | State::Failed);
            let end = events
                .iter()
                .rfind(|event| event.epoch == self.epoch && ended(event.state));
            if let Some(end) = end {
                return Ok(Some(End {
                    state: end.state,
                    reason: end.reason,
                    at_ns: end.time_ns,
                }));
            }
        }
    }

    /// Stops it by force.
    pub fn kill(&self) -> Result<()> {
        again(|| self.instance.kill()).map(drop)
    }

    /// Asks it to power off.
    pub fn stop(&self, timeout: Duration) -> Result<()> {
        again(|| self.instance.stop(timeout)).map(drop)
    }

    /// Its state.
    pub fn state(&self) -> Result<(State, Reason)> {
        self.instance.state()
    }

    /// Gives everything back.
    pub fn destroy(self) -> Result<()> {
        if self.state()?.0.is_live() {
            self.kill()?;
        }
        again(|| self.instance.destroy())?;
        self.host.shrink(self.shape.memory, None)
    }
}

/// Whether there is such a file.
pub fn exists(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() > 0)
}
