// SPDX-License-Identifier: GPL-2.0

//! A process that has a session open, and does with it what it is told.
//!
//! It is the same on the host and in a spawn, and a process of its own, so that it can be killed
//! in the middle of what it does. It is told by lines of standard input, and answers each by one
//! of standard output: `ok`, with a number where one was asked for, or `errno N`.
//!
//! | line | does |
//! | --- | --- |
//! | `create`, `open`, `accept` | has it open from then on |
//! | `close` | has not any more |
//! | `offer TO`, `commit`, `abort`, `wait` | the steps; `offer -` is to the host |
//! | `put N`, `get` | the entry, which is this number again and again |
//! | `remove` | has it be none |

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use multikernel::device::Session;
use multikernel::{Error, Result};

/// The argument by which this program is one.
pub const ARGUMENT: &str = "--player";
/// The key of the entry, and how often the number is in it: more than a page.
const KEY: &str = "state";
const WORDS: usize = 8192;

fn contents(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(WORDS)
}

fn number_of(bytes: &[u8]) -> Result<u64> {
    let first = bytes
        .first_chunk()
        .map(|first| u64::from_le_bytes(*first))
        .filter(|number| contents(*number) == bytes);
    first.ok_or_else(|| Error::new("cannot read the entry", "it is of two changes, or of none"))
}

struct Player {
    name: String,
    session: Option<Session>,
}

impl Player {
    fn session(&self) -> Result<&Session> {
        let none = || Error::new("cannot do that", "it is not open").with_errno(libc::EBADF);
        self.session.as_ref().ok_or_else(none)
    }

    fn open(&mut self, opened: Result<Session>) -> Result<Option<u64>> {
        self.session = Some(opened?);
        Ok(None)
    }

    fn obey(&mut self, line: &str) -> Result<Option<u64>> {
        let name = self.name.clone();
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        let done = match words[..] {
            ["create"] => return self.open(Session::create(&name)),
            ["open"] => return self.open(Session::open(&name)),
            ["accept"] => return self.open(Session::accept(&name, Duration::ZERO)),
            ["close"] => {
                self.session = None;
                Ok(())
            }
            ["remove"] => Session::remove(&name),
            ["offer", to] => self.session()?.offer((to != "-").then_some(to)).map(drop),
            ["commit"] => self.session()?.commit(),
            ["abort"] => self.session()?.abort(),
            ["wait"] => self.session()?.wait(Duration::ZERO).map(drop),
            ["put", number] => {
                let wrong = |error| Error::new(format!("cannot put {number}"), error);
                let number = number.parse().map_err(wrong)?;
                self.session()?.put(KEY, &contents(number))
            }
            ["get"] => return number_of(&self.session()?.get(KEY)?).map(Some),
            _ => Err(Error::new("cannot obey", format!("{line:?} is no deed"))),
        };
        done.map(|()| None)
    }
}

/// Runs as the process.
pub fn main(name: &str) -> ExitCode {
    let mut player = Player {
        name: name.to_owned(),
        session: None,
    };
    for line in io::stdin().lines().map_while(io::Result::ok) {
        let answer = match player.obey(&line) {
            Ok(None) => "ok".to_owned(),
            Ok(Some(number)) => format!("ok {number}"),
            Err(error) => format!("errno {} {error}", error.errno().unwrap_or(0)),
        };
        let mut out = io::stdout().lock();
        if writeln!(out, "{answer}")
            .and_then(|()| out.flush())
            .is_err()
        {
            break;
        }
    }
    ExitCode::SUCCESS
}

/// The process, for who has started it. Killed when it is dropped.
pub struct Process {
    child: Child,
    input: ChildStdin,
    /// Its answers; closed when it has ended.
    pub answers: Receiver<String>,
}

impl Process {
    /// Starts it, from this program's file.
    pub fn start(program: &Path, name: &str) -> Result<Self> {
        let failed = |error: io::Error| Error::new("cannot start a player", error);
        let mut child = Command::new(program)
            .args([ARGUMENT, name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let missing = || failed(io::ErrorKind::BrokenPipe.into());
        let input = child.stdin.take().ok_or_else(missing)?;
        let output = child.stdout.take().ok_or_else(missing)?;
        let (sender, answers) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(io::Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            child,
            input,
            answers,
        })
    }

    /// Tells it something.
    pub fn tell(&mut self, line: &str) -> Result<()> {
        writeln!(self.input, "{line}").map_err(|error| Error::new("cannot tell a player", error))
    }

    /// Kills it; it may take until [`Self::end`] returns before it is gone.
    pub fn kill(&mut self) -> Result<()> {
        let failed = |error| Error::new("cannot kill a player", error);
        self.child.kill().map_err(failed)
    }

    /// Waits for its end: all of its files are closed then.
    pub fn end(&mut self) -> Result<()> {
        let failed = |error| Error::new("cannot wait for a player", error);
        self.child.wait().map(drop).map_err(failed)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended already, or does now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_entry_has_no_number() {
        let mut bytes = contents(7);
        assert_eq!(number_of(&bytes).unwrap(), 7);
        bytes[8 * WORDS / 2] ^= 1;
        assert!(number_of(&bytes).is_err());
        assert!(number_of(&bytes[..16]).is_err());
        assert!(number_of(&[]).is_err());
    }
}
