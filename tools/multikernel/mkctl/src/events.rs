// SPDX-License-Identifier: GPL-2.0

//! `mkctl events`: a line for each change of an instance's state.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use multikernel::device::{Event, EventRead, Events, Host, Instance};
use multikernel::{Error, Result};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::time::{clock_gettime, ClockId};
use serde::Serialize;

use crate::args::EventsArgs;

/// What is watched.
enum Watched {
    All(Events),
    One(Instance),
}

impl Watched {
    fn read(&self) -> Result<EventRead> {
        match self {
            Self::All(events) => events.read(),
            Self::One(instance) => instance.read_events(),
        }
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::All(events) => events.as_fd(),
            Self::One(instance) => instance.as_fd(),
        }
    }
}

/// Waits until one of several can be read, or until a deadline; says which can.
pub fn wait<const N: usize>(
    fds: [BorrowedFd<'_>; N],
    deadline: Option<Instant>,
) -> Result<[bool; N]> {
    let mut polled = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.map(|left| Timespec {
            tv_sec: left.as_secs().cast_signed(),
            tv_nsec: left.subsec_nanos().into(),
        });
        match poll(&mut polled, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Error::new("cannot wait for events", io::Error::from(error))),
            // Hung up counts too: what is left can be read, then the end.
            Ok(_) => return Ok(std::array::from_fn(|i| !polled[i].revents().is_empty())),
        }
    }
}

/// The wall clock at a time of CLOCK_MONOTONIC, in RFC 3339.
fn wall_clock(time_ns: u64) -> String {
    let now = clock_gettime(ClockId::Monotonic);
    let now = Duration::new(now.tv_sec.cast_unsigned(), now.tv_nsec as u32);
    let ago = now.saturating_sub(Duration::from_nanos(time_ns));
    let time = SystemTime::now().checked_sub(ago);
    humantime::format_rfc3339_micros(time.unwrap_or(SystemTime::UNIX_EPOCH)).to_string()
}

#[derive(Serialize)]
struct Line<'a> {
    time: &'a str,
    #[serde(flatten)]
    event: &'a Event,
}

fn show(event: &Event, json: bool) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    let time = &wall_clock(event.time_ns);
    if json {
        let text = serde_json::to_string(&Line { time, event })?;
        return writeln!(stdout, "{text}");
    }
    if event.lost > 0 {
        writeln!(stdout, "[mkctl: {} events lost]", event.lost)?;
    }
    writeln!(
        stdout,
        "{time:<27} {:<16} {:<9} {:<11} {:>5}",
        event.name, event.state, event.reason, event.epoch
    )
}

/// Shows what comes until the end; how many of `--count` are left then.
fn follow(watched: &Watched, args: &EventsArgs) -> Result<Option<u64>> {
    let deadline = args
        .timeout
        .map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut left = args.count;
    while left != Some(0) {
        let [readable] = wait([watched.as_fd()], deadline)?;
        let EventRead::Events(events) = (match readable {
            true => watched.read()?,
            false => break,
        }) else {
            break;
        };
        for event in &events {
            match show(event, args.json.json) {
                // Whoever read this has seen enough.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(None),
                Err(error) => return Err(Error::new("cannot print events", error)),
                Ok(()) => {}
            }
            left = left.map(|left| left - 1);
            if left == Some(0) {
                break;
            }
        }
    }
    Ok(left)
}

pub fn events(args: &EventsArgs) -> Result<ExitCode> {
    let host = Host::open()?;
    let watched = match &args.name {
        Some(name) => Watched::One(host.instance(name)?),
        None => Watched::All(host.events()?),
    };
    // Printed once no event can be missed any more: who waits for this line can go on.
    if !args.json.json {
        say!(
            "{:<27} {:<16} {:<9} {:<11} {:>5}",
            "TIME",
            "NAME",
            "STATE",
            "REASON",
            "START"
        );
    }
    Ok(match follow(&watched, args)? {
        None | Some(0) => ExitCode::SUCCESS,
        Some(_) => ExitCode::FAILURE,
    })
}
