// SPDX-License-Identifier: GPL-2.0

//! A small service: it counts requests, and answers with how many there have been.
//!
//! The count is in pages of a session, and goes with it to the next kernel. While it is on offer
//! nobody is answered; requests wait until it is known whose it is. Who has handed it over answers
//! each request with that, for the client to go where the service is now.

use std::sync::atomic::Ordering;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use multikernel::device::{ArenaMap, Offer, Session};
use multikernel::port::Port;
use multikernel::{Error, Result};

use crate::machine::ticks;
use crate::order;

/// Bytes of the pages.
pub const BYTES: u64 = 4096;
/// The entry's key.
const KEY: &str = "count";
/// The first word: that this is a count. The second is the count.
const MAGIC: u64 = u64::from_le_bytes(*b"mk-count");
/// How long a decision is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Answer {
    /// The request's number.
    pub request: u64,
    /// How many requests there have been; 0: the service is another kernel's.
    pub count: u64,
    /// What tells this life of the service from others.
    pub life: u64,
    /// When it had accepted the session, and when it knew it for its own, by the time-stamp
    /// counter.
    pub accepted: u64,
    /// See there.
    pub owned: u64,
}

impl Answer {
    /// As a message.
    pub fn to_bytes(self) -> Vec<u8> {
        order::to_bytes(&[
            self.request,
            self.count,
            self.life,
            self.accepted,
            self.owned,
        ])
    }

    /// From a message; `None` if it is none.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let [request, count, life, accepted, owned] = order::from_bytes(bytes)?;
        Some(Self {
            request,
            count,
            life,
            accepted,
            owned,
        })
    }
}

enum State {
    /// It has no session, or has offered it.
    Waiting,
    /// It answers.
    Serving(ArenaMap),
    /// The session has gone to another.
    Gone,
}

/// The service.
pub struct Service {
    life: u64,
    inner: Mutex<Inner>,
    changed: Condvar,
}

struct Inner {
    state: State,
    session: Option<Session>,
    accepted: u64,
    owned: u64,
}

fn bad_count() -> Error {
    Error::new("cannot serve", "the session has no count").with_errno(libc::EUCLEAN)
}

/// Makes the count in a session.
pub fn make_count(session: &Session) -> Result<()> {
    let map = session.put_pages(KEY, BYTES)?;
    map.write(0, &MAGIC.to_le_bytes()).ok_or_else(bad_count)
}

fn check(map: &ArenaMap) -> Result<()> {
    let mut magic = [0; 8];
    map.read(0, &mut magic).ok_or_else(bad_count)?;
    match magic == MAGIC.to_le_bytes() {
        true => Ok(()),
        false => Err(bad_count()),
    }
}

impl Service {
    /// Without a session.
    pub fn new() -> Self {
        Self {
            life: ticks(),
            inner: Mutex::new(Inner {
                state: State::Waiting,
                session: None,
                accepted: 0,
                owned: 0,
            }),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves with a session that is this kernel's.
    pub fn serve(&self, session: Session) -> Result<()> {
        let map = session.get_pages(KEY, true)?;
        check(&map)?;
        let mut inner = self.lock();
        inner.owned = ticks();
        inner.session = Some(session);
        inner.state = State::Serving(map);
        drop(inner);
        self.changed.notify_all();
        Ok(())
    }

    /// Accepts a session, calls `accepted`, waits until the host has committed it, and serves.
    pub fn adopt(&self, name: &str, accepted: impl FnOnce(u64) -> Result<()>) -> Result<()> {
        let session = Session::accept(name, PATIENCE)?;
        check(&session.get_pages(KEY, false)?)?;
        let now = ticks();
        self.lock().accepted = now;
        accepted(now)?;
        match session.wait(PATIENCE)? {
            Offer::Committed => self.serve(session),
            Offer::Aborted => {
                Err(Error::new("cannot serve", "the offer was called off")
                    .with_errno(libc::ECANCELED))
            }
        }
    }

    /// Ceases to serve, offers the session to an instance, calls `offered`, and waits for what
    /// becomes of that.
    pub fn hand_over(&self, to: &str, offered: impl FnOnce(u64) -> Result<()>) -> Result<()> {
        let mut inner = self.lock();
        let session = inner.session.take().ok_or_else(|| {
            Error::new("cannot hand over", "there is no session").with_errno(libc::ENOENT)
        })?;
        // With the mapping, as pages that are mapped are not offered.
        inner.state = State::Waiting;
        drop(inner);
        let made = session.offer(Some(to)).and_then(|_| {
            offered(ticks())?;
            session.wait(PATIENCE)
        });
        if matches!(made, Ok(Offer::Committed)) {
            self.lock().state = State::Gone;
            self.changed.notify_all();
            return Ok(());
        }
        if made.is_err() {
            // It may never have been offered.
            let _ = session.abort();
        }
        self.serve(session)?;
        made.map(drop)
    }

    /// Answers a request, when it is known who is to answer it.
    fn answer(&self, request: u64) -> Answer {
        let mut inner = self.lock();
        loop {
            let count = match &inner.state {
                State::Waiting => None,
                State::Serving(map) => Some(map.words().and_then(|words| words.get(1)).map_or(
                    0,
                    |count| {
                        // Nobody else does.
                        let next = count.load(Ordering::Relaxed).wrapping_add(1);
                        count.store(next, Ordering::Relaxed);
                        next
                    },
                )),
                State::Gone => Some(0),
            };
            if let Some(count) = count {
                return Answer {
                    request,
                    count,
                    life: self.life,
                    accepted: inner.accepted,
                    owned: inner.owned,
                };
            }
            let waited = self.changed.wait(inner);
            inner = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Answers all that comes over a port, for ever.
    pub fn run(&self, port: &Port) -> Result<()> {
        loop {
            let message = order::receive(port, None)?;
            if let Some([request]) = order::from_bytes(&message) {
                port.send(&self.answer(request).to_bytes())?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::thread;

    #[test]
    fn answers_as_messages() {
        let answer = Answer {
            request: 1,
            count: 2,
            life: 3,
            accepted: 4,
            owned: 5,
        };
        assert_eq!(Answer::from_bytes(&answer.to_bytes()), Some(answer));
        assert_eq!(Answer::from_bytes(&answer.to_bytes()[..32]), None);
    }

    #[test]
    fn requests_wait_until_it_is_known_who_answers() {
        let service = Arc::new(Service::new());
        let waits = thread::spawn({
            let service = service.clone();
            move || service.answer(7)
        });
        service.lock().state = State::Gone;
        service.changed.notify_all();
        let answer = waits.join().unwrap();
        assert_eq!((answer.request, answer.count), (7, 0));
        let none = service.hand_over("web", |_| Ok(())).unwrap_err();
        assert_eq!(none.errno(), Some(libc::ENOENT));
    }
}
