// SPDX-License-Identifier: GPL-2.0

//! A writer: one connection at a time, one write at a time, for ever.
//!
//! When its connection breaks it makes a new one. Before it goes on it sees to it that the server
//! will do nothing any more that came by the old one: either this is another life of the server, or
//! it is told to close it. Then it reads the place of the write that was open, and all else that it
//! has written lately.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::memory::{Memory, Wrong};
use crate::meter::{Era, Meter};
use crate::record::{Hand, Place};
use crate::server::{Address, Answer, Failure, Server};

/// From one try to connect to the next.
const RETRY: Duration = Duration::from_millis(2);
/// So many entries of the list are read at once, and after each interruption.
const ENTRIES: usize = 256;
/// After so many acknowledged writes something is broken on purpose.
const BREAK_AFTER: u64 = 20;

/// What to break on purpose, to see that it is noticed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Break {
    /// Remove an acknowledged write.
    Lose,
    /// Change bytes of one.
    Change,
    /// Write one again.
    Double,
}

/// What all writers share.
pub struct Shared {
    /// Where the server is.
    pub address: Address,
    /// How long an answer may take before the connection counts as broken.
    pub answer_timeout: Duration,
    /// How long there may be no answer at all.
    pub silence: Duration,
    /// How often somebody was interrupted, and more.
    pub meter: Mutex<Meter>,
    /// No further write.
    pub stop: AtomicBool,
    /// So many interruptions are enough.
    pub enough: Option<usize>,
    /// What to break.
    pub breaks: Option<Break>,
}

impl Shared {
    /// The meter; that a writer panicked holding it is no reason not to count on.
    pub fn meter(&self) -> MutexGuard<'_, Meter> {
        self.meter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// The connection that a writer has, and what is known of it.
struct Connection {
    server: Server,
    era: Era,
}

/// Which connection this is, in which life of the server.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Identity {
    life: Vec<u8>,
    id: i64,
}

/// A writer.
pub struct Writer<'a> {
    shared: &'a Shared,
    hand: Hand,
    slots: u32,
    memory: Memory,
    last: Option<Identity>,
    acknowledged: u64,
    broken: bool,
    wrong: Wrong,
}

/// What a writer found.
#[derive(Debug)]
pub struct Found {
    /// What was not as it has to be.
    pub wrong: Wrong,
    /// Why it gave up, if it did.
    pub gave_up: Option<String>,
}

impl<'a> Writer<'a> {
    /// A writer with so many keys.
    pub fn new(shared: &'a Shared, hand: Hand, slots: u32) -> Self {
        Self {
            shared,
            hand,
            slots,
            memory: Memory::new(hand, slots),
            last: None,
            acknowledged: 0,
            broken: false,
            wrong: Wrong::default(),
        }
    }

    /// Keys have the seed in them: another run, on what this one has left, has others.
    fn key(&self, place: Place) -> Vec<u8> {
        let Hand { seed, writer, .. } = self.hand;
        match place {
            Place::Slot(slot) => format!("mkkv:{seed:x}:{writer}:{slot}").into_bytes(),
            Place::Log => format!("mkkv:{seed:x}:{writer}:log").into_bytes(),
        }
    }

    /// Writes until it is told to stop, and reads back all it wrote.
    pub fn run(mut self) -> Found {
        let mut gave_up = None;
        let mut connection = None;
        let mut checked = false;
        while !checked && gave_up.is_none() {
            let result = match connection.take() {
                Some(open) => Ok(open),
                None => self.connect(),
            };
            let result = result.and_then(|mut open| {
                let era = open.era;
                let done = self.serve(&mut open);
                if let Err(Failure::Broken(_)) = done {
                    self.shared.meter().broke(era);
                } else {
                    connection = Some(open);
                }
                done
            });
            match result {
                Ok(()) => checked = true,
                Err(Failure::Refused(why)) => gave_up = Some(why),
                Err(failure) => {
                    let silence = self.shared.meter().silence(Instant::now());
                    if silence > self.shared.silence {
                        let seconds = silence.as_secs();
                        gave_up = Some(format!("no answer for {seconds} s: {failure}"));
                    }
                    thread::sleep(RETRY);
                }
            }
        }
        if gave_up.is_some() {
            // The others cannot do better.
            self.shared.stop.store(true, Ordering::Relaxed);
        }
        Found {
            wrong: self.wrong,
            gave_up,
        }
    }

    fn connect(&mut self) -> Answer<Connection> {
        let era = self.shared.meter().era();
        let mut server = Server::connect(&self.shared.address, self.shared.answer_timeout)?;
        let info = server.value(&[b"INFO", b"server"])?.unwrap_or_default();
        let life = info
            .split(|byte| *byte == b'\n')
            .find_map(|line| line.strip_prefix(b"run_id:"))
            .ok_or_else(|| Failure::Refused("the server does not say its run_id".into()))?
            .to_vec();
        let id = server.number(&[b"CLIENT", b"ID"])?;
        let identity = Identity { life, id };
        if let Some(last) = &self.last {
            if last.life == identity.life {
                let id = last.id.to_string();
                server.number(&[b"CLIENT", b"KILL", b"ID", id.as_bytes()])?;
            }
        }
        self.last = Some(identity);
        Ok(Connection { server, era })
    }

    /// An answer that says something of the data has come.
    fn answered(&self, era: Era) {
        let now = Instant::now();
        let mut meter = self.shared.meter();
        if let Some(gap) = meter.answered(era, now) {
            let count = meter.interruptions.len();
            eprintln!(
                "mkkv: interruption {count}: {:.1} ms, at {:.1} s, {} writes acknowledged",
                gap.as_secs_f64() * 1e3,
                meter.elapsed(now).as_secs_f64(),
                meter.acknowledged
            );
            if self.shared.enough.is_some_and(|enough| count >= enough) {
                self.shared.stop.store(true, Ordering::Relaxed);
            }
        }
    }

    /// All that is done by one connection.
    fn serve(&mut self, connection: &mut Connection) -> Answer<()> {
        let Connection { server, era } = connection;
        if let Some(write) = self.memory.open() {
            let key = self.key(write.place);
            let found = match write.place {
                Place::Slot(_) => server.value(&[b"GET", &key])?,
                Place::Log => server.value(&[b"LINDEX", &key, b"-1"])?,
            };
            self.answered(*era);
            self.memory.settle(found.as_deref());
        }
        let from = self.memory.log_length().saturating_sub(ENTRIES);
        self.check(server, *era, from)?;
        while !self.shared.stopped() {
            self.write(server, *era)?;
            self.sabotage(server)?;
        }
        self.check(server, *era, 0)
    }

    fn write(&mut self, server: &mut Server, era: Era) -> Answer<()> {
        let write = self.memory.next();
        let record = self.hand.write(write.number, write.place);
        let key = self.key(write.place);
        let done = match write.place {
            Place::Slot(_) => server.call(&[b"SET", &key, &record]),
            Place::Log => server.call(&[b"RPUSH", &key, &record]),
        };
        if let Err(Failure::Loading) = done {
            // It was not done, and is settled by the next connection, or this one.
            return Err(Failure::Loading);
        }
        done?;
        self.memory.acknowledged();
        self.acknowledged += 1;
        self.answered(era);
        let mut meter = self.shared.meter();
        if meter.acknowledged == 0 {
            eprintln!("mkkv: the first write is acknowledged");
        }
        meter.acknowledged += 1;
        Ok(())
    }

    /// Reads back all keys, and the list from one entry on.
    fn check(&mut self, server: &mut Server, era: Era, from: usize) -> Answer<()> {
        let keys: Vec<_> = (0..self.slots)
            .map(|slot| self.key(Place::Slot(slot)))
            .collect();
        let mut words: Vec<&[u8]> = vec![b"MGET"];
        words.extend(keys.iter().map(Vec::as_slice));
        let found = server.values(&words)?;
        self.answered(era);
        let mut wrong = self.memory.check_slots(&found);

        let key = self.key(Place::Log);
        let (mut log, mut at) = (Vec::new(), from);
        loop {
            let (first, last) = (at.to_string(), (at + ENTRIES - 1).to_string());
            let entries = server.values(&[b"LRANGE", &key, first.as_bytes(), last.as_bytes()])?;
            self.answered(era);
            let count = entries.len();
            log.extend(entries.into_iter().map(Option::unwrap_or_default));
            at += count;
            if count < ENTRIES {
                break;
            }
        }
        wrong.add(self.memory.check_log(from, &log));
        if wrong.any() {
            eprintln!("mkkv: writer {}: {wrong:?}", self.hand.writer);
        }
        // What is wrong stays wrong, and is found again by the last check.
        self.wrong = wrong;
        Ok(())
    }

    /// Breaks something, once, behind the memory's back.
    fn sabotage(&mut self, server: &mut Server) -> Answer<()> {
        let due = self.hand.writer == 0 && self.acknowledged > BREAK_AFTER && !self.broken;
        let Some(what) = self.shared.breaks.filter(|_| due) else {
            return Ok(());
        };
        self.broken = true;
        let log = self.key(Place::Log);
        match what {
            Break::Lose => server.call(&[b"LSET", &log, b"3", b""]).and_then(|_| {
                // An entry less.
                server.call(&[b"LREM", &log, b"1", b""])
            })?,
            Break::Change => server.call(&[b"LSET", &log, b"3", b"nobody wrote this"])?,
            Break::Double => {
                let again = server.value(&[b"LINDEX", &log, b"3"])?.unwrap_or_default();
                server.call(&[b"RPUSH", &log, &again])?
            }
        };
        Ok(())
    }
}
