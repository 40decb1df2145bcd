// SPDX-License-Identifier: GPL-2.0

//! What `mkctl run` does when it stays: waits for the spawn's end, starts it again if the policy
//! says so, and stops it when a signal says so.
//!
//! An event only wakes it; what is the case then, it asks the kernel. So it does not matter how
//! many events there were, or whether some were lost.

use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use multikernel::device::{EventRead, HangTimeout, Host, Instance, InstanceInfo, Reason, State};
use multikernel::load::{self, LoadSpec};
use multikernel::restart::{Backoff, End, Policy, Verdict};
use multikernel::state::Store;
use multikernel::Result;

use crate::events::wait;
use crate::instance;
use crate::signals::Signals;

/// How long to wait before the next try, at most, while another call works on the instance.
const BUSY_INTERVAL: Duration = Duration::from_millis(100);

/// What the user asked for.
pub struct Supervisor<'a> {
    pub host: &'a Host,
    /// Another one by the same name takes its place after an upgrade.
    pub instance: &'a mut Instance,
    pub name: &'a str,
    pub spec: LoadSpec,
    pub policy: Policy,
    pub limit: Option<u32>,
    pub hang: HangTimeout,
    pub stop_timeout: Duration,
    pub signals: &'a Signals,
}

/// How the supervision ended.
pub struct Outcome {
    /// The exit status that says whether the spawn ended as somebody wanted.
    pub status: ExitCode,
    /// Whether the instance is there, has ended, and is nobody else's by now.
    pub ours: bool,
}

/// What ended a wait.
enum Wake {
    Changed,
    Signal,
    Deadline,
}

/// An end, with what is to be said of it.
struct Ended {
    end: End,
    message: String,
    epoch: u32,
}

impl Supervisor<'_> {
    fn wait(&self, deadline: Option<Instant>) -> Result<Wake> {
        let fds = [self.signals.as_fd(), self.instance.as_fd()];
        match wait(fds, deadline)? {
            [true, _] => Ok(Wake::Signal),
            [_, true] => match self.instance.read_events()? {
                EventRead::Events(_) | EventRead::Gone => Ok(Wake::Changed),
            },
            _ => Ok(Wake::Deadline),
        }
    }

    /// `None` once it has been removed.
    fn info(&self) -> Result<Option<InstanceInfo>> {
        match self.instance.info() {
            Ok(info) => Ok(Some(info)),
            Err(error) if error.errno() == Some(libc::ESTALE) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The end, if it has ended.
    fn ended(&self) -> Result<Option<Ended>> {
        let Some(info) = self.info()? else {
            return Ok(Some(Ended {
                end: End {
                    state: State::Gone,
                    reason: Reason::None,
                    asked: false,
                },
                message: String::new(),
                epoch: 0,
            }));
        };
        if info.state.is_live() {
            return Ok(None);
        }
        let map = self.instance.map_shared().ok();
        let area = map.as_ref().and_then(|map| map.area().ok());
        let header = area.and_then(|area| area.header().ok());
        Ok(Some(Ended {
            end: End {
                state: info.state,
                reason: info.reason,
                asked: header.is_some_and(|header| header.asked_to_end),
            },
            message: area.map(|area| area.message()).unwrap_or_default(),
            epoch: info.epoch,
        }))
    }

    fn say(&self, ended: &Ended) {
        let Ended {
            end,
            message,
            epoch,
        } = ended;
        let name = self.name;
        let message = match message.as_str() {
            "" => String::new(),
            message => format!(": {message}"),
        };
        match end.state {
            State::Gone => say!("instance \"{name}\" was removed"),
            State::Stopped | State::Crashed | State::Failed => say!(
                "instance \"{name}\" {} ({}), start {epoch}{message}",
                end.state,
                end.reason
            ),
            state => say!("instance \"{name}\" is {state}: somebody else works on it"),
        }
    }

    /// Turns to the instance that has taken over the name, if one has by an upgrade; whether one
    /// has.
    fn follow(&mut self) -> Result<bool> {
        if self.info()?.is_some_and(|info| info.name == self.name) {
            return Ok(false);
        }
        let successor = match self.host.instance(self.name) {
            Ok(instance) => instance,
            Err(error) if error.errno() == Some(libc::ENOENT) => return Ok(false),
            Err(error) => return Err(error),
        };
        let record = Store::default().get(self.name, successor.id());
        // One that others have removed, and made anew, is theirs.
        let after = record.and_then(|record| record.successor_of);
        if after != Some(self.instance.id()) {
            return Ok(false);
        }
        say!(
            "instance \"{}\" was upgraded, and is id {} now",
            self.name,
            successor.id()
        );
        *self.instance = successor;
        Ok(true)
    }

    /// Until nothing is to be started again.
    pub fn run(&mut self) -> Result<Outcome> {
        let mut backoff = Backoff::new(self.limit);
        'life: loop {
            let began = Instant::now();
            let ended = loop {
                if self.follow()? {
                    continue 'life;
                }
                if let Some(ended) = self.ended()? {
                    break ended;
                }
                if let Wake::Signal = self.wait(None)? {
                    return self.shut_down();
                }
            };
            // Somebody may have upgraded it between the two looks.
            if self.follow()? {
                continue 'life;
            }
            self.say(&ended);
            let mut life = began.elapsed();
            let ours = matches!(
                ended.end.state,
                State::Stopped | State::Crashed | State::Failed
            );
            let status = match ended.end.verdict(self.policy) {
                Verdict::Restart => None,
                Verdict::Done => Some(ExitCode::SUCCESS),
                Verdict::GiveUp => Some(ExitCode::FAILURE),
            };
            if let Some(status) = status {
                return Ok(Outcome { status, ours });
            }
            // Tries until it runs.
            loop {
                let Some(pause) = backoff.pause(life) else {
                    say!("it is not started again: the limit of restarts is reached");
                    let status = ExitCode::FAILURE;
                    return Ok(Outcome { status, ours });
                };
                say!("starting it again in {} ms", pause.as_millis());
                match self.pause(pause)? {
                    Some(Wake::Signal) => return self.shut_down(),
                    // Somebody else started or removed it.
                    Some(_) => continue 'life,
                    None => {}
                }
                if self.follow()? {
                    continue 'life;
                }
                match self.start() {
                    Ok(()) => {
                        say!("started instance \"{}\" again", self.name);
                        continue 'life;
                    }
                    Err(error) if error.errno() == Some(libc::ESTALE) => continue 'life,
                    Err(error) => {
                        eprintln!("mkctl: {error}");
                        life = Duration::ZERO;
                    }
                }
            }
        }
    }

    /// Waits; comes back early by a signal, or when the instance runs or is gone.
    fn pause(&self, pause: Duration) -> Result<Option<Wake>> {
        let deadline = Instant::now() + pause;
        loop {
            match self.wait(Some(deadline))? {
                Wake::Deadline => return Ok(None),
                Wake::Signal => return Ok(Some(Wake::Signal)),
                Wake::Changed => match self.info()? {
                    Some(info) if !info.state.is_live() => {}
                    _ => return Ok(Some(Wake::Changed)),
                },
            }
        }
    }

    fn start(&self) -> Result<()> {
        // What was loaded last, should somebody have loaded another image.
        let record = Store::default().get(self.name, self.instance.id());
        let spec = record.map_or_else(|| self.spec.clone(), |record| record.spec);
        let record = instance::load_with(self.host, self.instance, self.name, spec)?;
        load::start(
            self.host,
            self.instance,
            &record.spec,
            &record.loaded,
            self.hang,
        )
    }

    /// A signal came.
    fn shut_down(&self) -> Result<Outcome> {
        say!("stopping instance \"{}\"", self.name);
        let deadline = Instant::now() + self.stop_timeout;
        loop {
            match instance::stop_with(self.instance, self.stop_timeout, true) {
                Ok(reason) => say!("stopped instance \"{}\" ({reason})", self.name),
                // It has ended, or has been removed.
                Err(error) if matches!(error.errno(), Some(libc::EALREADY | libc::ESTALE)) => {}
                // Somebody else is starting or stopping it, which takes milliseconds.
                Err(error) if error.errno() == Some(libc::EBUSY) && Instant::now() < deadline => {
                    let soon = Instant::now() + BUSY_INTERVAL;
                    if let [true] = wait([self.instance.as_fd()], Some(soon))? {
                        self.instance.read_events()?;
                    }
                    continue;
                }
                Err(error) => return Err(error),
            }
            break;
        }
        Ok(Outcome {
            status: ExitCode::SUCCESS,
            ours: self.info()?.is_some_and(|info| !info.state.is_live()),
        })
    }
}
