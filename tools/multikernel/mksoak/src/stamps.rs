// SPDX-License-Identifier: GPL-2.0

//! Rounds in which a process in a spawn stamps an arena, and its kernel panics at a random instant.
//!
//! The arena outlives the instances; it is zeroed before each round. Several rounds share an
//! instance, and what each is follows from the seed and its number.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use multikernel::device::{Arena, ArenaMap, ArenaRequest, Host, Reason, State};
use multikernel::spec::Side;
use multikernel::{Error, Result};
use serde::Serialize;

use crate::life::{Files, Life};
use crate::plan::{Kernel, Kind, Plan, Shape, StampRound, MIB};
use crate::spawn;
use crate::stamp::{look, Frontier};

/// The arena.
const NAME: &str = "soak-stamps";
const BYTES: u64 = 4 * MIB;
/// Rounds that share an instance.
const GROUP: u64 = 8;
const BOOT: Duration = Duration::from_secs(90);
const ANSWER: Duration = Duration::from_secs(20);
const END: Duration = Duration::from_secs(30);
/// How often it is looked whether the first word is written.
const INTERVAL: Duration = Duration::from_millis(1);
/// What the instance needs beside an arena's page tables.
const MEMORY: u64 = 64 * MIB;

/// What came of all rounds.
#[derive(Debug, Default, Serialize)]
pub struct Stamped {
    /// Rounds that were played.
    pub rounds: u64,
    /// Words that were looked at in them.
    pub words: u64,
    /// Words that were not as they were written.
    pub bad_words: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// The fewest and most stores until a panic.
    pub stores: Option<(u64, u64)>,
}

/// The rounds.
pub struct Stamps<'a> {
    host: &'a Host,
    files: &'a Files,
    plan: &'a Plan,
    hang_ms: u32,
    map: ArenaMap,
    life: Option<(u64, Life<'a>)>,
    /// What came of them so far.
    pub stamped: Stamped,
    start: Instant,
}

impl<'a> Stamps<'a> {
    /// Makes the arena.
    pub fn new(host: &'a Host, files: &'a Files, plan: &'a Plan, hang_ms: u32) -> Result<Self> {
        host.grow(BYTES, None, Side::Any)?;
        let map = || -> Result<ArenaMap> {
            let arena: Arena = host.create_arena(&ArenaRequest {
                name: NAME,
                bytes: BYTES,
                base: None,
                node: None,
            })?;
            arena.map()
        };
        let map = map().inspect_err(|_| {
            // The error that is reported is the first one.
            let _ = host.shrink(BYTES, None);
        })?;
        Ok(Self {
            host,
            files,
            plan,
            hang_ms,
            map,
            life: None,
            stamped: Stamped::default(),
            start: Instant::now(),
        })
    }

    fn words(&self) -> Result<&[AtomicU64]> {
        self.map
            .words()
            .ok_or_else(|| Error::new("cannot look at the stamps", "the arena is read-only"))
    }

    /// The instance of this round's group, which works.
    fn boot(&mut self, round: &StampRound) -> Result<()> {
        let group = round.number / GROUP;
        if self.life.as_ref().is_some_and(|(have, _)| *have != group) {
            self.give_back()?;
        }
        if self.life.is_none() {
            let shape = Shape {
                kernel: Kernel::Vmlinux,
                memory: MEMORY + self.plan.more_memory,
                cpus: self.plan.stamp_cpus(group),
            };
            let life = Life::create(self.host, self.files, "stamper", &shape)?;
            self.host.grant_arena(NAME, life.id(), false)?;
            self.life = Some((group, life));
        }
        let append = format!("{}{}", spawn::SEED, round.number);
        let hang_ms = self.hang_ms;
        let life = self.life()?;
        life.start(&append, hang_ms)?;
        life.wait_line("soak: ready", BOOT).map(drop)
    }

    fn life(&mut self) -> Result<&mut Life<'a>> {
        match &mut self.life {
            Some((_, life)) => Ok(life),
            None => Err(Error::new("cannot go on", "there is no instance to crash")),
        }
    }

    fn give_back(&mut self) -> Result<()> {
        match self.life.take() {
            Some((_, life)) => life.destroy(),
            None => Ok(()),
        }
    }

    /// Plays one round. What was found is right if no word is bad.
    pub fn play(&mut self, number: u64) -> Result<(Kind, Frontier)> {
        let round = self.plan.stamp_round(number);
        for word in self.words()? {
            word.store(0, Ordering::Relaxed);
        }
        self.boot(&round)?;
        self.life()?.tell(&format!("stamp {NAME}"))?;
        let deadline = Instant::now() + ANSWER;
        while self
            .words()?
            .first()
            .map(|word| word.load(Ordering::Relaxed))
            == Some(0)
        {
            if Instant::now() > deadline {
                let said = self.life()?.complaint()?.unwrap_or_default();
                return Err(Error::new("nothing is stamped", said));
            }
            thread::sleep(INTERVAL);
        }
        thread::sleep(Duration::from_micros(round.delay_us));
        let name = round
            .kind
            .in_kernel()
            .map_or_else(|| round.kind.to_string(), str::to_owned);
        let life = self.life()?;
        life.tell(&format!("fault {name} {}", round.number))?;
        match life.wait_end(END)? {
            Some(end) if (end.state, end.reason) == (State::Crashed, Reason::Panic) => {}
            Some(end) => {
                let wrong = format!("it is {}/{}", end.state, end.reason);
                return Err(Error::new("no panic was seen", wrong));
            }
            None => return Err(Error::new("no end was seen", "it goes on")),
        }
        let words = self.words()?;
        let (count, found) = (words.len() as u64, look(words));
        let stores = found.pass * count + found.word as u64;
        let all = &mut self.stamped;
        all.rounds += 1;
        all.words += count;
        all.bad_words += found.bad;
        all.seconds = self.start.elapsed().as_secs_f64();
        let (least, most) = all.stores.unwrap_or((stores, stores));
        all.stores = Some((least.min(stores), most.max(stores)));
        Ok((round.kind, found))
    }

    /// Changes a word, to see that it is noticed: of the arena, once the kernel has ended.
    pub fn words_are_checked(&self) -> Result<bool> {
        let words = self.words()?;
        let before = look(words);
        let Some(word) = words.get(words.len() / 2) else {
            return Ok(false);
        };
        let value = word.load(Ordering::Relaxed);
        word.store(value ^ 1 << 40, Ordering::Relaxed);
        let after = look(words);
        word.store(value, Ordering::Relaxed);
        Ok(after.bad > before.bad)
    }

    /// Gives everything back.
    pub fn finish(mut self) -> Result<Stamped> {
        self.give_back()?;
        drop(self.map);
        self.host.remove_arena(NAME)?;
        self.host.shrink(BYTES, None)?;
        Ok(self.stamped)
    }
}
