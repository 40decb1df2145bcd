// SPDX-License-Identifier: GPL-2.0

//! A service whose kernel is replaced, as a client sees it that calls it all the time.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use multikernel::device::{ArenaRequest, Host, Session};
use multikernel::port::{OpenPort, Port};
use multikernel::spec::Side;
use multikernel::{Error, Result};

use crate::machine::{pin, ticks};
use crate::order::{receive, reply, to_bytes, Order, What, CONTROL, DEADLINE, NAP, SERVICE};
use crate::pid1::READY;
use crate::samples::Samples;
use crate::service::{make_count, Answer};
use crate::spawn::Spawn;
use crate::{sessions, Args};

/// The instance that serves.
pub const NAME: &str = "service";
/// The name of session and arena.
const SESSION: &str = "count";
/// How long it is.
const SESSION_BYTES: u64 = 2 << 20;
/// How many answers are to come before and after.
const ANSWERS: usize = 100;
/// Until the next try to connect to a kernel that is not up.
const RETRY: Duration = Duration::from_millis(1);

/// An answer that came.
#[derive(Clone, Copy, Debug)]
struct Seen {
    at: u64,
    answer: Answer,
}

/// The service as who calls it by its name sees it.
struct Client {
    host: Host,
    port: Port,
    request: u64,
}

impl Client {
    fn connect() -> Result<Self> {
        let host = Host::open()?;
        let port = host.instance(NAME)?.open_port(SERVICE)?;
        let request = 0;
        Ok(Self {
            host,
            port,
            request,
        })
    }

    /// To whoever has the name now.
    fn reconnect(&mut self) -> Result<()> {
        let begin = Instant::now();
        loop {
            match self.host.instance(NAME)?.open_port(SERVICE) {
                Ok(port) => {
                    self.port = port;
                    return Ok(());
                }
                // It is not up yet, or just ending.
                Err(error)
                    if begin.elapsed() < DEADLINE
                        && matches!(
                            error.errno(),
                            Some(libc::ENOTCONN | libc::EALREADY | libc::EPIPE | libc::EBUSY)
                        ) =>
                {
                    thread::sleep(RETRY);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// One try; `None` if it is to be made again, with another kernel.
    fn ask(&mut self) -> Result<Option<Answer>> {
        let again = |error: Error| match error.errno() {
            Some(libc::EPIPE) => Ok(None),
            _ => Err(error),
        };
        if let Err(error) = self.port.send(&to_bytes(&[self.request])) {
            return again(error);
        }
        loop {
            let message = match receive(&self.port, Some(Instant::now() + DEADLINE)) {
                Ok(message) => message,
                Err(error) => return again(error),
            };
            match Answer::from_bytes(&message) {
                Some(answer) if answer.request != self.request => {}
                Some(answer) => return Ok((answer.count != 0).then_some(answer)),
                None => return Err(Error::new("cannot measure", "an answer makes no sense")),
            }
        }
    }

    fn call(&mut self) -> Result<Seen> {
        self.request += 1;
        loop {
            if let Some(answer) = self.ask()? {
                let at = ticks();
                return Ok(Seen { at, answer });
            }
            self.reconnect()?;
        }
    }
}

/// What a client saw of a change from one life of the service to the next.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Change {
    /// The last answer of the old life.
    last: u64,
    /// The first of the new one.
    first: u64,
    /// The longest time between any two answers: from, to.
    longest: (u64, u64),
    /// When the new one had accepted the session, and when it was its own.
    accepted: u64,
    /// See there.
    owned: u64,
    /// Requests that were counted and not answered.
    unanswered: u64,
}

/// The one change that there was; the error says what is wrong.
fn change(seen: &[Seen]) -> std::result::Result<Change, &'static str> {
    let mut found = None;
    let mut longest = (0, 0);
    let mut unanswered = 0;
    for pair in seen.windows(2) {
        let [before, after] = pair else {
            continue;
        };
        let counted = after.answer.count.checked_sub(before.answer.count);
        unanswered += match counted {
            None | Some(0) => return Err("the service has forgotten requests"),
            Some(counted) => counted - 1,
        };
        let span = |(from, to): (u64, u64)| to.saturating_sub(from);
        if span((before.at, after.at)) > span(longest) {
            longest = (before.at, after.at);
        }
        if before.answer.life != after.answer.life && found.replace((before, after)).is_some() {
            return Err("the service has changed kernels more than once");
        }
    }
    let (before, after) = found.ok_or("the service has not changed kernels")?;
    Ok(Change {
        last: before.at,
        first: after.at,
        longest,
        accepted: after.answer.accepted,
        owned: after.answer.owned,
        unanswered,
    })
}

/// Calls the service all the time while `work` is done, and some time before and after.
fn watch(client: &mut Client, work: impl FnOnce() -> Result<()>) -> Result<Change> {
    let (warm, done) = (AtomicBool::new(false), AtomicBool::new(false));
    let seen = thread::scope(|scope| {
        let calls = scope.spawn(|| -> Result<Vec<Seen>> {
            // A CPU of its own, as a client on another machine would have it.
            pin(0).map_err(|error| Error::new("cannot measure", error))?;
            let mut seen = Vec::new();
            let mut left = ANSWERS;
            while left > 0 {
                seen.push(client.call()?);
                if seen.len() >= ANSWERS {
                    warm.store(true, Ordering::Release);
                }
                if done.load(Ordering::Acquire) {
                    left -= 1;
                }
            }
            Ok(seen)
        });
        while !warm.load(Ordering::Acquire) && !calls.is_finished() {
            thread::sleep(NAP);
        }
        let worked = match calls.is_finished() {
            true => Ok(()),
            false => work(),
        };
        done.store(true, Ordering::Release);
        let seen = calls
            .join()
            .unwrap_or_else(|_| Err(Error::new("cannot measure", "the client has failed")));
        worked.and(seen)
    })?;
    change(&seen).map_err(|why| Error::new("cannot measure an upgrade", why))
}

/// Replaces the kernel by `mkctl upgrade`.
fn upgrade(args: &Args) -> Result<()> {
    let cannot = |why: String| Error::new("cannot run mkctl upgrade", why);
    let own = std::env::current_exe().map_err(|error| cannot(error.to_string()))?;
    let got = Command::new("mkctl")
        .args(["upgrade", NAME, "--append", "rdinit=/pid1"])
        .args(["--timeout", "120", "--stop-timeout", "0", "--ready", READY])
        .arg("--kernel")
        .arg(&args.kernel)
        .arg("--initrd")
        .arg(&args.initrd)
        .arg("--handover-command")
        .arg(format!("exec '{}' switch", own.display()))
        .stdin(Stdio::null())
        .output()
        .map_err(|error| cannot(error.to_string()))?;
    match got.status.success() {
        true => Ok(()),
        false => Err(cannot(format!(
            "{}: {}",
            got.status,
            String::from_utf8_lossy(&got.stderr).trim_end()
        ))),
    }
}

fn order_and_wait(instance: &impl OpenPort, what: What) -> Result<()> {
    let control = sessions::control(instance)?;
    control.send(&Order::named(what, SESSION).to_bytes())?;
    reply(&control).map(drop)
}

/// Measures upgrades, and what there is in their place.
pub fn measure(args: &Args, samples: &mut Samples) -> Result<()> {
    let runs = args.runs as usize;
    let first = Spawn::start(
        NAME,
        &args.kernel,
        &args.initrd,
        &args.service_cpu,
        &args.service_memory,
    )?;
    let host = Host::open()?;
    let base = host.grow(SESSION_BYTES, None, Side::Any)?;
    drop(host.create_arena(&ArenaRequest {
        name: SESSION,
        bytes: SESSION_BYTES,
        base: None,
        node: None,
    })?);
    let session = Session::create(SESSION)?;
    make_count(&session)?;
    session.offer(Some(NAME))?;
    order_and_wait(first.instance(), What::Serve)?;
    drop(session);

    let mut client = Client::connect()?;
    eprintln!("{runs} times upgrade/kill-and-start");
    for _ in 0..runs {
        let seen = watch(&mut client, || {
            first.instance().kill()?;
            first.boot()?;
            order_and_wait(first.instance(), What::Resume)
        })?;
        if seen.unanswered > 1 {
            return Err(Error::new("cannot measure", "requests were counted twice"));
        }
        samples.add("upgrade/kill-and-start", seen.last, seen.first);
    }
    eprintln!("{runs} times upgrade/interruption");
    for _ in 0..runs {
        let seen = watch(&mut client, || upgrade(args))?;
        if seen.unanswered > 0 {
            return Err(Error::new(
                "cannot measure",
                "a request was counted and not answered",
            ));
        }
        samples.add("upgrade/interruption", seen.last, seen.first);
        samples.add("upgrade/interruption-accept", seen.last, seen.accepted);
        samples.add("upgrade/interruption-commit", seen.accepted, seen.owned);
        samples.add("upgrade/interruption-answer", seen.owned, seen.first);
        let (from, to) = seen.longest;
        samples.add("upgrade/longest-wait", from, to);
    }
    let last = host.instance(NAME)?;
    last.kill()?;
    last.destroy()?;
    Session::remove(SESSION)?;
    host.remove_arena(SESSION)?;
    host.shrink(SESSION_BYTES, Some(base))
}

/// What `mkctl upgrade` runs before it commits: has the old service offer its session and the new
/// one accept it.
pub fn switch(old: &str, new: &str) -> Result<()> {
    let host = Host::open()?;
    let old = host.instance(old)?.open_port(CONTROL)?;
    let new_control = host.instance(new)?.open_port(CONTROL)?;
    new_control.send(&Order::named(What::Adopt, SESSION).to_bytes())?;
    reply(&new_control)?;
    old.send(&Order::named(What::HandOver, new).to_bytes())?;
    reply(&old)?;
    reply(&new_control).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(at: u64, count: u64, life: u64) -> Seen {
        let answer = Answer {
            request: 0,
            count,
            life,
            accepted: life,
            owned: life + 1,
        };
        Seen { at, answer }
    }

    #[test]
    fn the_last_of_the_old_and_the_first_of_the_new() {
        let all = [
            seen(10, 1, 5),
            seen(60, 2, 5),
            seen(70, 3, 5),
            seen(90, 4, 80),
            seen(91, 5, 80),
        ];
        let change = change(&all).unwrap();
        assert_eq!((change.last, change.first), (70, 90));
        assert_eq!(change.longest, (10, 60));
        assert_eq!((change.accepted, change.owned), (80, 81));
        assert_eq!(change.unanswered, 0);
    }

    #[test]
    fn what_is_lost_or_doubled_is_seen() {
        let (a, b) = (seen(1, 7, 1), seen(2, 8, 1));
        assert!(change(&[a, b]).unwrap_err().contains("not changed"));
        assert!(change(&[]).is_err());
        let lost = change(&[a, seen(2, 7, 2)]);
        assert!(lost.unwrap_err().contains("forgotten"));
        let often = change(&[a, seen(2, 8, 2), seen(3, 9, 3)]);
        assert!(often.unwrap_err().contains("more than once"));
        let twice = change(&[a, seen(2, 9, 2)]).unwrap();
        assert_eq!(twice.unanswered, 1);
    }
}
