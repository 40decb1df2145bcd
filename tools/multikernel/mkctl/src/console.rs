// SPDX-License-Identifier: GPL-2.0

//! `mkctl logs` and `console`: the console rings of an instance.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use multikernel::device::{Host, Instance, State};
use multikernel::shared::{self, Area, OutputReader, Progress};
use multikernel::state::Store;
use multikernel::{Error, Result};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fs::{flock, FlockOperation};
use rustix::termios::{tcgetattr, tcsetattr, OptionalActions, Termios};

use crate::args::LogsArgs;

/// How often to look into the ring.
const INTERVAL: Duration = Duration::from_millis(10);
/// How often to ask the kernel whether the instance still runs.
const STATE_INTERVAL: Duration = Duration::from_millis(100);
/// What ends an attached console after the end of its input, in milliseconds of silence.
pub const LINGER: u64 = 500;
/// Ctrl-]
const DETACH: u8 = 0x1d;

/// Asks now and then whether the instance still runs.
struct Liveness<'a> {
    instance: &'a Instance,
    next: Instant,
    live: bool,
}

impl<'a> Liveness<'a> {
    fn new(instance: &'a Instance) -> Self {
        Self {
            instance,
            next: Instant::now(),
            live: true,
        }
    }

    /// Must be asked before the last look into the ring: what was written before the end is there
    /// then.
    fn is_live(&mut self) -> Result<bool> {
        if self.live && Instant::now() >= self.next {
            self.next = Instant::now() + STATE_INTERVAL;
            self.live = self.instance.state()?.0.is_live();
        }
        Ok(self.live)
    }
}

/// Copies output to stdout, and says what was lost.
fn show(bytes: &[u8], progress: Progress) -> Result<()> {
    let mut stdout = io::stdout().lock();
    let mut write = || {
        if progress.lost > 0 {
            writeln!(stdout, "[mkctl: {} bytes lost]", progress.lost)?;
        }
        stdout.write_all(bytes)?;
        stdout.flush()
    };
    write().map_err(|error| Error::new("cannot print the console", error))
}

/// Looks for a text in what comes piece by piece.
pub struct Until<'a> {
    text: &'a [u8],
    line: Vec<u8>,
}

impl<'a> Until<'a> {
    /// A line without end is cut here, so that it cannot take all memory.
    const LINE_MAX: usize = 64 << 10;

    pub fn new(text: &'a str) -> Self {
        Self {
            text: text.as_bytes(),
            line: Vec::new(),
        }
    }

    /// Whether the text is in the present line, with these bytes, or in one that they end.
    pub fn found(&mut self, bytes: &[u8]) -> bool {
        if self.text.is_empty() {
            return true;
        }
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(piece);
            let found = self
                .line
                .windows(self.text.len())
                .any(|part| part == self.text);
            if found {
                return true;
            }
            if piece.ends_with(b"\n") || self.line.len() > Self::LINE_MAX {
                self.line.clear();
            }
        }
        false
    }
}

pub fn logs(args: &LogsArgs) -> Result<ExitCode> {
    let instance = Host::open()?.instance(&args.name)?;
    let map = instance.map_shared()?;
    let refuse = |error| {
        Error::new(
            format!("cannot show the console of \"{}\"", args.name),
            error,
        )
    };
    let area = map.area().map_err(refuse)?;
    let header = area.header().map_err(refuse)?;

    let deadline = args
        .timeout
        .map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let goes_on = args.follow || args.until.is_some();
    let mut until = args.until.as_deref().map(Until::new);
    let mut live = Liveness::new(&instance);
    let mut reader = match args.all {
        true => OutputReader::from_oldest(&area),
        false => OutputReader::from_start(&header),
    };
    loop {
        let running = live.is_live()?;
        let mut bytes = Vec::new();
        let progress = reader.read(&area, &mut bytes);
        show(&bytes, progress)?;
        if until.as_mut().is_some_and(|until| until.found(&bytes)) {
            return Ok(ExitCode::SUCCESS);
        }
        let late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if !goes_on || !running || late {
            break;
        }
        thread::sleep(INTERVAL);
    }
    Ok(match args.until {
        Some(_) => ExitCode::FAILURE,
        None => ExitCode::SUCCESS,
    })
}

/// A terminal in raw mode; as it was again on drop.
struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    fn new() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Drain, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.before);
    }
}

pub fn attach_by_name(name: &str, linger: u64) -> Result<()> {
    attach(&Host::open()?.instance(name)?, linger)
}

/// The ring has room for one writer: the lock is held as long as the file is open.
fn lock(name: &str) -> Result<File> {
    let asked = || format!("cannot connect to the console of instance \"{name}\"");
    let file = Store::default()
        .console_lock(name)
        .map_err(|error| Error::new(asked(), error))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(_) => Err(Error::new(asked(), "another mkctl is connected to it")
            .advice("End that one with Ctrl-], or use 'mkctl logs --follow' to watch only")),
    }
}

/// Connects stdin and stdout to the console.
pub fn attach(instance: &Instance, linger: u64) -> Result<()> {
    let name = instance.name();
    let refuse = |error| {
        Error::new(
            format!("cannot connect to the console of instance \"{name}\""),
            error,
        )
        .advice(format!("Start it with 'mkctl start {name}'"))
    };
    let _lock = lock(name)?;
    let map = instance.map_shared()?;
    let area = map.area().map_err(refuse)?;
    let header = area.header().map_err(refuse)?;
    if instance.state()?.0 != State::Running {
        return Err(refuse(shared::SharedError::NeverStarted).advice(format!(
            "It is not running: 'mkctl logs {name}' shows what it wrote, 'mkctl start {name}' starts it"
        )));
    }
    let terminal = io::stdin().is_terminal();
    let _raw = match terminal {
        true => {
            eprintln!("connected to instance \"{name}\"; Ctrl-] disconnects");
            let raw = RawTerminal::new().map_err(|e| Error::new("cannot use the terminal", e))?;
            Some(raw)
        }
        false => None,
    };
    // Someone who connects to a shell wants the prompt, not the boot messages once more; someone
    // who has just started it wants all.
    let mut session = Session {
        instance,
        area,
        reader: match terminal && header.has_console() {
            true => OutputReader::from_end(&area),
            false => OutputReader::from_start(&header),
        },
        pending: Vec::new(),
        input_open: true,
        terminal,
    };
    session.run(Duration::from_millis(linger))
}

struct Session<'a> {
    instance: &'a Instance,
    area: Area<'a>,
    reader: OutputReader,
    /// Input that the ring had no room for yet.
    pending: Vec<u8>,
    input_open: bool,
    terminal: bool,
}

impl Session<'_> {
    fn run(&mut self, linger: Duration) -> Result<()> {
        let instance = self.instance;
        let mut live = Liveness::new(instance);
        let mut quiet_since = Instant::now();
        loop {
            let running = live.is_live()?;
            let mut bytes = Vec::new();
            let progress = self.reader.read(&self.area, &mut bytes);
            if progress != Progress::default() {
                quiet_since = Instant::now();
                show(&bytes, progress)?;
            }
            if !running {
                eprint!(
                    "instance \"{}\" has ended{}",
                    instance.name(),
                    self.line_end()
                );
                return Ok(());
            }
            if self.send()? {
                quiet_since = Instant::now();
            }
            let sent = self.pending.is_empty() && shared::input_pending(&self.area) == 0;
            if !self.input_open && sent && quiet_since.elapsed() >= linger {
                return Ok(());
            }
            if self.receive()? {
                eprint!("disconnected{}", self.line_end());
                return Ok(());
            }
        }
    }

    /// In raw mode a line feed does not return the carriage.
    fn line_end(&self) -> &'static str {
        match self.terminal {
            true => "\r\n",
            false => "\n",
        }
    }

    /// Moves pending input into the ring; says whether some went.
    fn send(&mut self) -> Result<bool> {
        if self.pending.is_empty() {
            return Ok(false);
        }
        let count = shared::write_input(&self.area, &self.pending)
            .map_err(|error| Error::new("cannot write to the console", error))?;
        if count == 0 {
            return Ok(false);
        }
        self.pending.drain(..count);
        match self.instance.ring() {
            // Without a doorbell it looks by itself, or is not up yet, or has just ended.
            Err(error) if !matches!(error.errno(), Some(libc::EOPNOTSUPP | libc::EALREADY)) => {
                Err(error)
            }
            _ => Ok(true),
        }
    }

    /// Waits for input, at most an interval; says whether to disconnect.
    fn receive(&mut self) -> Result<bool> {
        if !self.input_open || !self.pending.is_empty() {
            thread::sleep(INTERVAL);
            return Ok(false);
        }
        let failed = |error: io::Error| Error::new("cannot read the input", error);
        let stdin = io::stdin();
        let interval = Timespec {
            tv_sec: 0,
            tv_nsec: INTERVAL.as_nanos() as i64,
        };
        match poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&interval)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(false),
            Ok(_) => {}
            Err(error) => return Err(failed(error.into())),
        }
        let mut buffer = [0; 1024];
        // Not through std's buffer, which poll does not see.
        let count = rustix::io::read(&stdin, &mut buffer).map_err(|e| failed(e.into()))?;
        if count == 0 {
            self.input_open = false;
            return Ok(false);
        }
        let mut input = &buffer[..count];
        let detach = self
            .terminal
            .then(|| input.iter().position(|b| *b == DETACH))
            .flatten();
        if let Some(at) = detach {
            input = &input[..at];
        }
        self.pending.extend_from_slice(input);
        if detach.is_some() {
            // What was typed before it still goes, as far as there is room.
            self.send()?;
        }
        Ok(detach.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_across_pieces() {
        let mut until = Until::new("spawn: ready");
        assert!(!until.found(b"spawn: re"));
        assert!(until.found(b"ady\n"));
    }

    #[test]
    fn text_is_looked_for_within_lines() {
        let mut until = Until::new("ab");
        assert!(!until.found(b"a\nb\n"));
        assert!(until.found(b"xaby"));
        assert!(Until::new("").found(b""));
        let mut until = Until::new("end");
        assert!(!until.found(&vec![b'x'; 200_000]));
        assert!(until.found(b"end"));
    }
}
