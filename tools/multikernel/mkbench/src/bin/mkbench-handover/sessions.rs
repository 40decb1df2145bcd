// SPDX-License-Identifier: GPL-2.0

//! Hand-over of sessions, and of the same bytes by stopping, copying and starting.

use std::thread;
use std::time::{Duration, Instant};

use multikernel::device::{ArenaRequest, Host, Offer, Session};
use multikernel::port::{OpenPort, Port};
use multikernel::{Error, Result};

use crate::machine::ticks;
use crate::order::{reply, Order, What, CONTROL, DEADLINE, NAP};
use crate::samples::Samples;
use crate::spawn::Spawn;
use crate::{bulk, contents};

/// The name of session and arena.
const NAME: &str = "bench";
/// Room in an arena beside the contents: tables, and a second entry while the first is replaced.
const ROOM: u64 = 4 << 20;
/// So long after it was told to, the spawn does wait for an offer.
const SETTLING: Duration = Duration::from_millis(20);

/// What is handed over.
struct Kind {
    name: &'static str,
    pages: bool,
    size: usize,
}

const KINDS: [Kind; 4] = [
    Kind {
        name: "handover/session-1k",
        pages: false,
        size: 1 << 10,
    },
    Kind {
        name: "handover/session-1m",
        pages: false,
        size: 1 << 20,
    },
    Kind {
        name: "handover/session-pages-1m",
        pages: true,
        size: 1 << 20,
    },
    Kind {
        name: "handover/session-pages-256m",
        pages: true,
        size: 256 << 20,
    },
];

/// What is copied: the name, bytes, and by how much it is done less often.
const COPIES: [(&str, usize, usize); 3] = [
    ("handover/stop-copy-start-1k", 1 << 10, 1),
    ("handover/stop-copy-start-1m", 1 << 20, 1),
    ("handover/stop-copy-start-256m", 256 << 20, 10),
];

/// Opens a port of a spawn whose user space may not be up yet.
pub fn control(spawn: &impl OpenPort) -> Result<Port> {
    let begin = Instant::now();
    loop {
        match spawn.open_port(CONTROL) {
            Err(error) if begin.elapsed() < DEADLINE && error.errno() == Some(libc::ENOTCONN) => {
                thread::sleep(NAP);
            }
            opened => return opened,
        }
    }
}

/// Commits what was accepted; again where it is not known whether that was done.
fn commit(session: &Session) -> Result<()> {
    match session.commit() {
        Err(error) if matches!(error.errno(), Some(libc::EINTR | libc::ETIMEDOUT)) => {
            session.commit()
        }
        done => done,
    }
}

/// From the host to the spawn; returns when it was offered, and when it was there.
fn there(control: &Port, session: Session, to: &str, order: &Order) -> Result<(u64, u64)> {
    contents::write(&session, order.pages, order.round, order.size)?;
    control.send(&order.to_bytes())?;
    reply(control)?;
    thread::sleep(SETTLING);
    let offered = ticks();
    session.offer(Some(to))?;
    match session.wait(DEADLINE)? {
        Offer::Committed => Ok((offered, reply(control)?)),
        Offer::Aborted => Err(Error::new(
            "cannot hand over",
            "the spawn has not taken the session",
        )),
    }
}

/// From the spawn to the host; also the session.
fn back(control: &Port, order: &Order) -> Result<(u64, u64, Session)> {
    control.send(&order.to_bytes())?;
    let session = Session::accept(&order.name, DEADLINE)?;
    commit(&session)?;
    let got = contents::take(&session, order.pages, order.size)?;
    let now = ticks();
    contents::check(&got, order.round, order.size)?;
    Ok((reply(control)?, now, session))
}

/// Hands sessions over, there and back.
pub fn hand_over(spawn: &Spawn, runs: usize, samples: &mut Samples) -> Result<()> {
    let host = Host::open()?;
    for kind in &KINDS {
        eprintln!("{runs} times {}", kind.name);
        // In this life of the spawn.
        let control = control(spawn.instance())?;
        let bytes = (kind.size as u64).next_multiple_of(2 << 20) + ROOM;
        let base = host.grow(bytes, None, multikernel::spec::Side::Any)?;
        drop(host.create_arena(&ArenaRequest {
            name: NAME,
            bytes,
            base: None,
            node: None,
        })?);
        let mut session = Session::create(NAME)?;
        // The first is for warming up.
        for run in 0..=runs {
            let order = |what, round| Order {
                what,
                size: kind.size,
                pages: kind.pages,
                round,
                name: NAME.to_owned(),
            };
            let round = 2 * run as u64;
            let to = spawn.instance().name();
            let order_there = order(What::Accept, round);
            let (offered, taken) = there(&control, session, to, &order_there)?;
            let (offered_back, taken_back, came) = back(&control, &order(What::Offer, round + 1))?;
            session = came;
            if run > 0 {
                samples.add(kind.name, offered, taken);
                let back = format!("{}-to-host", kind.name);
                samples.add(&back, offered_back, taken_back);
            }
        }
        drop(session);
        Session::remove(NAME)?;
        release(&host, spawn, bytes, base)?;
    }
    Ok(())
}

/// Removes the arena. What the spawn was granted it has until it ends.
fn release(host: &Host, spawn: &Spawn, bytes: u64, base: u64) -> Result<()> {
    spawn.instance().kill()?;
    host.remove_arena(NAME)?;
    host.shrink(bytes, Some(base))?;
    spawn.boot()
}

/// Stops a spawn when it has sent its bytes, starts it again and sends them to it.
fn stop_copy_start(spawn: &Spawn, round: u64, size: usize) -> Result<(u64, u64)> {
    let order = |what| Order {
        what,
        size,
        pages: false,
        round,
        name: String::new(),
    };
    let instance = spawn.instance();
    let port = control(instance)?;
    let mut copied = bulk::open(instance)?;
    port.send(&order(What::Send).to_bytes())?;
    reply(&port)?;
    let begin = ticks();
    port.send(b"go")?;
    let bytes = bulk::receive(&mut copied, size)?;
    instance.kill()?;
    drop((port, copied));
    spawn.boot()?;
    let port = control(instance)?;
    let mut copied = bulk::open(instance)?;
    port.send(&order(What::Receive).to_bytes())?;
    bulk::send(&mut copied, &bytes)?;
    Ok((begin, reply(&port)?))
}

/// Hands bytes over by stopping, copying and starting.
pub fn copy(spawn: &Spawn, runs: usize, samples: &mut Samples) -> Result<()> {
    for (name, size, rarer) in COPIES {
        let runs = runs.div_ceil(rarer);
        eprintln!("{runs} times {name}");
        for run in 1..=runs {
            let (begin, end) = stop_copy_start(spawn, run as u64, size)?;
            samples.add(name, begin, end);
        }
    }
    Ok(())
}
