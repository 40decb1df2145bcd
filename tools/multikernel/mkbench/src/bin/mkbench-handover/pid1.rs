// SPDX-License-Identifier: GPL-2.0

//! The program as the first process of a spawn: carries out orders, and serves.

use std::fs;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use multikernel::device::{HostPeer, Offer, Session};
use multikernel::port::{MappedPort, OpenPort, Port};
use multikernel::{Error, Result};

use crate::machine::{mount_devices, ticks};
use crate::order::{receive, to_bytes, Order, Reply, What, CONTROL, DEADLINE, SERVICE};
use crate::service::Service;
use crate::{bulk, contents};

/// What the spawn's log says when orders can be given.
pub const READY: &str = "mkbench-handover: ready";

/// So long after an order the one who waits on the host for what comes of it does wait.
const SETTLING: Duration = Duration::from_millis(20);

struct Spawn {
    control: Port,
    bulk: MappedPort,
    service: Arc<Service>,
    /// The session that is this spawn's, until it is offered.
    session: Option<Session>,
}

fn say(text: &str) {
    // There is nobody else to tell.
    let _ = fs::write("/dev/kmsg", format!("{text}\n"));
}

fn send(control: &Port, reply: Reply) -> Result<()> {
    control.send(&to_bytes(&reply))
}

impl Spawn {
    fn new() -> Result<Self> {
        let host = HostPeer::open()?;
        let service = Arc::new(Service::new());
        let port = host.open_port(SERVICE)?;
        thread::spawn({
            let service = service.clone();
            move || {
                if let Err(error) = service.run(&port) {
                    say(&format!("mkbench-handover: {error}"));
                }
            }
        });
        Ok(Self {
            control: host.open_port(CONTROL)?,
            bulk: bulk::open(&host)?,
            service,
            session: None,
        })
    }

    fn accept(&mut self, order: &Order) -> Result<u64> {
        let session = Session::accept(&order.name, DEADLINE)?;
        session.commit()?;
        let got = contents::take(&session, order.pages, order.size)?;
        let now = ticks();
        contents::check(&got, order.round, order.size)?;
        self.session = Some(session);
        Ok(now)
    }

    fn offer(&mut self, order: &Order) -> Result<u64> {
        let session = match self.session.take() {
            Some(session) => session,
            None => Session::open(&order.name)?,
        };
        contents::write(&session, order.pages, order.round, order.size)?;
        thread::sleep(SETTLING);
        let now = ticks();
        session.offer(None)?;
        match session.wait(DEADLINE)? {
            Offer::Committed => Ok(now),
            Offer::Aborted => Err(Error::new("cannot hand over", "the host has not taken it")
                .with_errno(libc::ECANCELED)),
        }
    }

    /// Does what is ordered; returns when it was done.
    fn carry_out(&mut self, order: &Order) -> Result<u64> {
        let control = &self.control;
        match order.what {
            What::Accept => {
                send(control, [ticks(), 0])?;
                self.accept(order)
            }
            What::Offer => self.offer(order),
            What::Send => {
                let bytes = contents::bytes(order.round, order.size);
                send(control, [ticks(), 0])?;
                // Until it is told to go on.
                receive(control, None)?;
                bulk::send(&mut self.bulk, &bytes)?;
                Ok(ticks())
            }
            What::Receive => {
                let got = bulk::receive(&mut self.bulk, order.size)?;
                let now = ticks();
                let got = contents::Contents::Bytes(got);
                contents::check(&got, order.round, order.size)?;
                Ok(now)
            }
            What::Serve => {
                let session = Session::accept(&order.name, DEADLINE)?;
                session.commit()?;
                self.service.serve(session)?;
                Ok(ticks())
            }
            What::Resume => {
                self.service.serve(Session::open(&order.name)?)?;
                Ok(ticks())
            }
            What::Adopt => {
                send(control, [ticks(), 0])?;
                let accepted = |now| send(control, [now, 0]);
                self.service.adopt(&order.name, accepted)?;
                Ok(ticks())
            }
            What::HandOver => {
                let offered = |now| send(control, [now, 0]);
                self.service.hand_over(&order.name, offered)?;
                Ok(ticks())
            }
        }
    }

    fn run(mut self) -> Result<()> {
        loop {
            let message = receive(&self.control, None)?;
            let Some(order) = Order::from_bytes(&message) else {
                continue;
            };
            let reply = match self.carry_out(&order) {
                // Nobody waits for the end of these.
                Ok(_) if matches!(order.what, What::Adopt | What::HandOver) => continue,
                Ok(now) => [now, 0],
                Err(error) => {
                    say(&format!("mkbench-handover: {:?}: {error}", order.what));
                    [ticks(), error.errno().unwrap_or(libc::EIO) as u64]
                }
            };
            send(&self.control, reply)?;
        }
    }
}

/// Carries out orders for ever.
pub fn first_process() -> ExitCode {
    if let Err(error) = mount_devices() {
        println!("mkbench-handover: /dev: {error}");
    }
    let spawn = Spawn::new().and_then(|spawn| {
        say(READY);
        spawn.run()
    });
    if let Err(error) = spawn {
        say(&format!("mkbench-handover: {error}"));
    }
    loop {
        thread::park();
    }
}
