// SPDX-License-Identifier: GPL-2.0

//! Plays the crash matrix: each line of `handover_matrix.txt` on real kernels.
//!
//! What a line says is in `tools/testing/multikernel/model/src/matrix.rs`, which makes them. Three
//! seats have a [player](crate::player) each: the host and two spawns. A line brings two of them to
//! its moment, where the kernel holds the step ([`Hold`]), ends one side, has everything go on, and
//! looks: the state is one that the model allows, one side alone can open the session, its entries
//! are whole and of an allowed version, and it can be handed to the other side and back.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::{Duration, Instant};

use multikernel::device::{Arena, ArenaRequest, Host, Reason, Session, State};
use multikernel::spec::Side as Place;
use multikernel::{Error, Result};

use crate::balance::Exact;
use crate::life::{Files, Life};
use crate::plan::{Kernel, Shape, MIB};
use crate::player::Process;
use crate::spawn;

/// The session.
pub const NAME: &str = "matrix";
const BYTES: u64 = 4 * MIB;
const MEMORY: u64 = 64 * MIB;
const HANG_MS: u32 = 10_000;
const BOOT: Duration = Duration::from_secs(90);
const ANSWER: Duration = Duration::from_secs(30);
/// Shorter than the kernel holds a step, see `fault.rs`.
const HELD: Duration = Duration::from_secs(5);
const INTERVAL: Duration = Duration::from_millis(2);
const HOLD_STEP: &str = "/sys/kernel/debug/multikernel/hold_step";
const HELD_STEP: &str = "/sys/kernel/debug/multikernel/held_step";
/// As `fault.rs` has them.
const HOLD_MADE: u32 = 0x100;
const HOLD_PUT: u32 = 0x200;

/// Who plays.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Seat {
    Host,
    One,
    Two,
}

impl Seat {
    /// How an offer names it.
    fn name(self) -> &'static str {
        match self {
            Self::Host => "-",
            Self::One => "one",
            Self::Two => "two",
        }
    }
}

/// The two sides of a line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Side {
    Giver,
    Taker,
}

impl Side {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "giver" => Some(Self::Giver),
            "taker" => Some(Self::Taker),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Deed {
    by: Side,
    name: String,
    refused: bool,
}

impl Deed {
    /// Whether the call fails: who waits hears by a refusal that the offer is over.
    fn fails(&self) -> bool {
        self.refused && self.name != "wait"
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Moment {
    Done,
    Asked,
    Made,
    Changing,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Outcome {
    owner: Side,
    state: String,
    version: u64,
}

/// A line of the file.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Line {
    text: String,
    seats: [Seat; 2],
    path: Vec<Deed>,
    moment: Moment,
    ends: Side,
    kernel: bool,
    outcomes: Vec<Outcome>,
}

impl Line {
    fn parse(text: &str) -> Option<Self> {
        let words: Vec<_> = text.split(' ').collect();
        let [pair, path, moment, end, outcomes] = words[..] else {
            return None;
        };
        let deed = |text: &str| {
            let (by, name) = text.split_once('.')?;
            Some(Deed {
                by: Side::parse(by)?,
                name: name.trim_end_matches('!').to_owned(),
                refused: name.ends_with('!'),
            })
        };
        let outcome = |text: &str| {
            let mut words = text.split('/');
            Some(Outcome {
                owner: Side::parse(words.next()?)?,
                state: words.next()?.to_owned(),
                version: words.next()?.parse().ok()?,
            })
        };
        let (ends, what) = end.split_once('.')?;
        Some(Self {
            text: text.to_owned(),
            seats: match pair {
                "host-spawn" => [Seat::Host, Seat::One],
                "spawn-host" => [Seat::One, Seat::Host],
                "spawn-spawn" => [Seat::One, Seat::Two],
                _ => return None,
            },
            path: match path {
                "-" => Vec::new(),
                path => path.split(',').map(deed).collect::<Option<_>>()?,
            },
            moment: match moment {
                "done" => Moment::Done,
                "asked" => Moment::Asked,
                "made" => Moment::Made,
                "changing" => Moment::Changing,
                _ => return None,
            },
            ends: Side::parse(ends)?,
            kernel: match what {
                "kernel" => true,
                "process" => false,
                _ => return None,
            },
            outcomes: outcomes.split(',').map(outcome).collect::<Option<_>>()?,
        })
    }

    fn seat(&self, side: Side) -> Seat {
        self.seats[side as usize]
    }

    /// What the kernel calls the step in whose middle the line ends; `None` if there is none.
    fn hold(&self) -> Option<u32> {
        let operation = match self.path.last()?.name.as_str() {
            "offer" => 3,
            "accept" => 4,
            "commit" => 5,
            "abort" => 6,
            "wait" => 7,
            _ => HOLD_PUT,
        };
        match self.moment {
            Moment::Done => None,
            Moment::Asked | Moment::Changing => Some(operation),
            Moment::Made => Some(operation | HOLD_MADE),
        }
    }
}

fn wrong(what: impl Into<String>) -> Error {
    Error::new("the line does not hold", what.into())
}

/// Who sits there.
enum Player<'a> {
    Host {
        program: &'a Path,
        process: Option<Process>,
    },
    Spawn(Box<Life<'a>>),
}

impl Player<'_> {
    fn process(process: &mut Option<Process>) -> Result<&mut Process> {
        process.as_mut().ok_or_else(|| wrong("nobody plays"))
    }

    /// Starts its process.
    fn begin(&mut self) -> Result<()> {
        match self {
            Self::Host { program, process } => {
                *process = Some(Process::start(program, NAME)?);
                Ok(())
            }
            Self::Spawn(life) => {
                life.tell(&format!("player begin {NAME}"))?;
                life.wait_line("soak: player begun", ANSWER).map(drop)
            }
        }
    }

    /// Starts its kernel, and its process.
    fn boot(&mut self) -> Result<()> {
        if let Self::Spawn(life) = self {
            life.start(spawn::IDLE, HANG_MS)?;
            life.wait_line("soak: ready", BOOT)?;
        }
        self.begin()
    }

    fn tell(&mut self, deed: &str) -> Result<()> {
        match self {
            Self::Host { process, .. } => Self::process(process)?.tell(deed),
            Self::Spawn(life) => life.tell(&format!("player do {deed}")),
        }
    }

    /// Its answer to the last deed: a number or an errno.
    fn answer(&mut self) -> Result<std::result::Result<u64, i32>> {
        let answer = match self {
            Self::Host { process, .. } => {
                let answers = &Self::process(process)?.answers;
                answers.recv_timeout(ANSWER).map_err(|error| match error {
                    RecvTimeoutError::Timeout => wrong("the host's player does not answer"),
                    RecvTimeoutError::Disconnected => wrong("the host's player has ended"),
                })?
            }
            Self::Spawn(life) => life.wait_line("soak: player: ", ANSWER)?,
        };
        let words: Vec<_> = answer.split_ascii_whitespace().collect();
        match words[..] {
            ["ok"] => Ok(Ok(0)),
            ["ok", number] => number.parse().map(Ok).map_err(|_| wrong(answer.clone())),
            ["errno", errno, ..] if errno != "0" => {
                errno.parse().map(Err).map_err(|_| wrong(answer.clone()))
            }
            _ => Err(wrong(answer)),
        }
    }

    /// Kills its process, which may not be gone yet.
    fn kill(&mut self) -> Result<()> {
        match self {
            Self::Host { process, .. } => Self::process(process)?.kill(),
            Self::Spawn(life) => {
                life.tell("player kill")?;
                life.wait_line("soak: player killed", ANSWER).map(drop)
            }
        }
    }

    /// Waits until it is gone.
    fn gone(&mut self) -> Result<()> {
        match self {
            Self::Host { process, .. } => {
                Self::process(process)?.end()?;
                *process = None;
                Ok(())
            }
            Self::Spawn(life) => {
                life.tell("player end")?;
                life.wait_line("soak: player ended", ANSWER).map(drop)
            }
        }
    }

    /// Ends its kernel, by force or by a panic.
    fn crash(&mut self, panic: bool) -> Result<()> {
        let Self::Spawn(life) = self else {
            return Err(wrong("the host's kernel does not end"));
        };
        if !panic {
            return life.kill();
        }
        life.tell("fault panic 0")?;
        match life.wait_end(ANSWER)? {
            Some(end) if (end.state, end.reason) == (State::Crashed, Reason::Panic) => Ok(()),
            Some(end) => Err(wrong(format!("it is {}/{}", end.state, end.reason))),
            None => Err(wrong("no panic was seen")),
        }
    }

    /// Has its kernel hold a step, or none.
    fn hold(&mut self, step: u32) -> Result<()> {
        match self {
            Self::Host { .. } => hold_on_host(step),
            Self::Spawn(life) => {
                life.tell(&format!("hold {step}"))?;
                life.wait_line("soak: hold", ANSWER).map(drop)
            }
        }
    }

    /// The step that its kernel holds, 0 if none.
    fn held(&mut self) -> Result<u32> {
        let said = match self {
            Self::Host { .. } => fs::read_to_string(HELD_STEP)
                .map_err(|error| Error::new("cannot see what is held", error))?,
            Self::Spawn(life) => {
                life.tell("held")?;
                life.wait_line("soak: held ", ANSWER)?
            }
        };
        said.trim().parse().map_err(|_| wrong(said))
    }
}

/// The table at which they sit.
struct Table<'a> {
    host: &'a Host,
    players: BTreeMap<Seat, Player<'a>>,
    owner: Seat,
    /// The number that was put last.
    number: u64,
    /// How many kernels have ended.
    crashes: u64,
}

impl<'a> Table<'a> {
    fn player(&mut self, seat: Seat) -> Result<&mut Player<'a>> {
        self.players
            .get_mut(&seat)
            .ok_or_else(|| wrong("nobody sits there"))
    }

    fn try_do(&mut self, seat: Seat, deed: &str) -> Result<std::result::Result<u64, i32>> {
        let player = self.player(seat)?;
        player.tell(deed)?;
        player.answer()
    }

    fn must(&mut self, seat: Seat, deed: &str) -> Result<u64> {
        let answer = self.try_do(seat, deed)?;
        answer.map_err(|errno| wrong(format!("\"{deed}\" of {seat:?} failed with errno {errno}")))
    }

    /// The words for a deed of the line.
    fn words(line: &Line, deed: &Deed, number: u64) -> String {
        match deed.name.as_str() {
            "offer" => {
                let to = match deed.by {
                    Side::Giver => Side::Taker,
                    Side::Taker => Side::Giver,
                };
                format!("offer {}", line.seat(to).name())
            }
            "put" => format!("put {}", number + 1),
            name => name.to_owned(),
        }
    }

    /// Hands the session, which `from` has open and nobody else, to `to`, which has it open then.
    fn hand_over(&mut self, from: Seat, to: Seat, numbers: &[u64]) -> Result<()> {
        self.must(from, &format!("offer {}", to.name()))?;
        self.must(to, "accept")?;
        self.check_number(to, numbers)?;
        self.must(to, "commit")?;
        self.check_number(to, numbers)?;
        self.must(from, "wait")?;
        self.must(from, "close")?;
        self.owner = to;
        Ok(())
    }

    fn check_number(&mut self, seat: Seat, numbers: &[u64]) -> Result<()> {
        let number = self.must(seat, "get")?;
        if numbers.contains(&number) {
            return Ok(());
        }
        Err(wrong(format!("{seat:?} has {number}, not {numbers:?}")))
    }

    /// Waits until the kernel has come to where the step is held.
    fn wait_held(&mut self, seat: Seat, step: u32) -> Result<()> {
        let deadline = Instant::now() + HELD;
        while self.player(seat)?.held()? != step {
            if Instant::now() > deadline {
                return Err(wrong(format!("nobody comes to {step:#x}")));
            }
            thread::sleep(INTERVAL);
        }
        Ok(())
    }

    /// Brings both sides to the moment of the line.
    fn come_to(&mut self, line: &Line) -> Result<()> {
        let number = self.number;
        let giver = line.seat(Side::Giver);
        if self.owner != giver {
            self.must(self.owner, "open")?;
            let got = self.must(self.owner, "get")?;
            self.hand_over(self.owner, giver, &[got])?;
        } else {
            self.must(giver, "open")?;
        }
        self.must(giver, &format!("put {number}"))?;
        let hold = line.hold();
        let asked = line.path.len() - usize::from(hold.is_some());
        for deed in &line.path[..asked] {
            let words = Self::words(line, deed, number);
            let done = self.try_do(line.seat(deed.by), &words)?;
            if done.is_err() != deed.fails() {
                return Err(wrong(format!("{words} of {:?} was {done:?}", deed.by)));
            }
        }
        if let (Some(step), Some(deed)) = (hold, line.path.last()) {
            let holder = Self::holder(line, step, deed);
            self.player(holder)?.hold(step)?;
            let words = Self::words(line, deed, number);
            self.player(line.seat(deed.by))?.tell(&words)?;
            self.wait_held(holder, step)?;
        }
        Ok(())
    }

    /// Whose kernel holds the step: the host, which decides, or who changes its own entries.
    fn holder(line: &Line, step: u32, deed: &Deed) -> Seat {
        match step {
            HOLD_PUT => line.seat(deed.by),
            _ => Seat::Host,
        }
    }

    /// Ends one side, and has all that is under way come to its end.
    fn end(&mut self, line: &Line) -> Result<()> {
        let ends = line.seat(line.ends);
        if line.kernel {
            self.crashes += 1;
            // Every other one by itself.
            let panic = self.crashes.is_multiple_of(2);
            self.player(ends)?.crash(panic)?;
        } else {
            self.player(ends)?.kill()?;
        }
        if let (Some(step), Some(deed)) = (line.hold(), line.path.last()) {
            let holder = Self::holder(line, step, deed);
            // One that has ended holds nothing.
            if !(line.kernel && holder == ends) {
                self.player(holder)?.hold(0)?;
            }
            if deed.by != line.ends {
                let done = self.player(line.seat(deed.by))?.answer()?;
                // What it was told before the other ended; after that, whatever is true now.
                let may_differ = line.moment == Moment::Asked;
                if done.is_err() != deed.fails() && !may_differ {
                    return Err(wrong(format!("{} was {done:?}", deed.name)));
                }
            }
        }
        if line.kernel {
            self.player(ends)?.boot()
        } else {
            self.player(ends)?.gone()?;
            self.player(ends)?.begin()
        }
    }

    /// Who owns it, and how it stands, if that is allowed.
    fn look(&self, line: &Line) -> Result<(Side, Vec<u64>)> {
        let sessions = self.host.sessions()?;
        let found = sessions.iter().find(|it| it.name == NAME);
        let info = found.ok_or_else(|| wrong("there is no session any more"))?;
        let owner = match info.owner {
            0 => Seat::Host,
            id if id == self.id(Seat::One) => Seat::One,
            id if id == self.id(Seat::Two) => Seat::Two,
            id => return Err(wrong(format!("{id} owns it"))),
        };
        let allowed: Vec<_> = line
            .outcomes
            .iter()
            .filter(|it| line.seat(it.owner) == owner && it.state == info.state.as_str())
            .collect();
        let Some(first) = allowed.first() else {
            let state = info.state.as_str();
            return Err(wrong(format!("{owner:?} owns it, {state}")));
        };
        let numbers = allowed.iter().map(|it| self.number + it.version).collect();
        Ok((first.owner, numbers))
    }

    fn id(&self, seat: Seat) -> u32 {
        match self.players.get(&seat) {
            Some(Player::Spawn(life)) => life.id(),
            _ => 0,
        }
    }

    /// Plays a line. Afterwards its giver or its taker owns the session, and nobody has it open.
    fn play(&mut self, line: &Line) -> Result<()> {
        self.number += 2;
        self.come_to(line)?;
        self.end(line)?;

        // Its first request comes after all that its earlier process has left behind.
        let ended = line.seat(line.ends);
        let opened = self.try_do(ended, "open")?;
        let (owner, numbers) = self.look(line)?;
        let owner = line.seat(owner);
        let [giver, taker] = line.seats;
        let other = if owner == giver { taker } else { giver };
        let expect =
            |seat: Seat, opened: std::result::Result<u64, i32>| match (seat == owner, opened) {
                (true, Ok(_)) | (false, Err(libc::EACCES)) => Ok(()),
                _ => Err(wrong(format!("{seat:?} opens it: {opened:?}"))),
            };
        expect(ended, opened)?;
        let survivor = if ended == giver { taker } else { giver };
        self.must(survivor, "close")?;
        let opened = self.try_do(survivor, "open")?;
        expect(survivor, opened)?;
        self.hand_over(owner, other, &numbers)?;
        self.hand_over(other, owner, &numbers)?;
        self.must(owner, "close")?;
        Ok(())
    }

    /// Begins anew, whatever is the case.
    fn recover(&mut self) -> Result<()> {
        for seat in [Seat::Host, Seat::One, Seat::Two] {
            let player = self.player(seat)?;
            match player {
                Player::Host { process, .. } => {
                    hold_on_host(0)?;
                    *process = None;
                }
                Player::Spawn(life) => {
                    if life.state()?.0.is_live() {
                        life.kill()?;
                    }
                }
            }
        }
        let info = self.host.sessions()?.into_iter().find(|it| it.name == NAME);
        if info.is_some_and(|it| it.owner != 0) {
            drop(Session::seize(NAME)?);
        }
        self.owner = Seat::Host;
        for seat in [Seat::Host, Seat::One, Seat::Two] {
            self.player(seat)?.boot()?;
        }
        self.must(Seat::Host, "open")?;
        self.must(Seat::Host, "put 0")?;
        self.must(Seat::Host, "close").map(drop)
    }
}

fn hold_on_host(step: u32) -> Result<()> {
    fs::write(HOLD_STEP, step.to_string()).map_err(|error| Error::new("cannot hold a step", error))
}

fn read(file: &Path) -> Result<Vec<Line>> {
    let asked = format!("cannot read {}", file.display());
    let text = fs::read_to_string(file).map_err(|error| Error::new(&asked, error))?;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let parse = |line| Line::parse(line).ok_or_else(|| Error::new(&asked, format!("{line:?}")));
    lines.map(parse).collect()
}

fn sit<'a>(host: &'a Host, files: &'a Files, cpus: &[u32], program: &'a Path) -> Result<Table<'a>> {
    let mut players = BTreeMap::new();
    let process = None;
    players.insert(Seat::Host, Player::Host { program, process });
    for (seat, cpu) in [Seat::One, Seat::Two].into_iter().zip(cpus) {
        let shape = Shape {
            kernel: Kernel::Vmlinux,
            memory: MEMORY,
            cpus: vec![*cpu],
        };
        let life = Life::create(host, files, seat.name(), &shape)?;
        players.insert(seat, Player::Spawn(Box::new(life)));
    }
    let mut table = Table {
        host,
        players,
        owner: Seat::Host,
        number: 0,
        crashes: 0,
    };
    for seat in [Seat::Host, Seat::One, Seat::Two] {
        table.player(seat)?.boot()?;
    }
    table.must(Seat::Host, "create")?;
    table.must(Seat::Host, "put 0")?;
    table.must(Seat::Host, "close")?;
    Ok(table)
}

/// Whose it is last is whoever: the host takes it back, and all of it goes.
fn rise(mut table: Table<'_>) -> Result<()> {
    let mut players = std::mem::take(&mut table.players);
    for player in players.values_mut() {
        if let Player::Spawn(life) = player {
            if life.state()?.0.is_live() {
                life.kill()?;
            }
        }
    }
    if table.host.sessions()?.iter().any(|it| it.owner != 0) {
        drop(Session::seize(NAME)?);
    }
    Session::remove(NAME)?;
    for (_, player) in players {
        if let Player::Spawn(life) = player {
            life.destroy()?;
        }
    }
    Ok(())
}

/// Plays all lines of the file that contain `only`, on two CPUs. Whether all of them hold.
pub fn run(
    host: &Host,
    files: &Files,
    cpus: &[u32],
    program: &Path,
    file: &Path,
    only: &str,
) -> Result<bool> {
    let mut lines = read(file)?;
    lines.retain(|line| line.text.contains(only));
    println!("TAP version 13\n1..{}", lines.len() + 2);
    let before = Exact::look(host)?;
    host.grow(BYTES, None, Place::Any)?;
    let arena: Arena = host.create_arena(&ArenaRequest {
        name: NAME,
        bytes: BYTES,
        base: None,
        node: None,
    })?;
    drop(arena);
    let mut table = sit(host, files, cpus, program)?;
    let start = Instant::now();
    let (mut failed, mut number) = (0, 0);
    for line in &lines {
        number += 1;
        let began = Instant::now();
        match table.play(line) {
            Ok(()) => println!(
                "ok {number} {} # {} ms",
                line.text,
                began.elapsed().as_millis()
            ),
            Err(error) => {
                failed += 1;
                println!("# {error}");
                println!("not ok {number} {}", line.text);
                table.recover()?;
            }
        }
    }
    println!(
        "# {} lines in {:.0} s, {} kernels ended in them",
        lines.len(),
        start.elapsed().as_secs_f64(),
        table.crashes
    );
    let mut result = |what: &str, bad: &[String]| {
        number += 1;
        for text in bad {
            println!("# {text}");
        }
        let ok = if bad.is_empty() { "ok" } else { "not ok" };
        println!("{ok} {number} {what}");
        failed += usize::from(!bad.is_empty());
    };
    let none = if lines.is_empty() {
        vec!["none".to_owned()]
    } else {
        Vec::new()
    };
    result("lines were played", &none);
    rise(table)?;
    host.remove_arena(NAME)?;
    host.shrink(BYTES, None)?;
    result(
        "the host has what it had",
        &before.differences(&Exact::look(host)?),
    );
    Ok(failed == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = include_str!("../../../testing/selftests/multikernel/handover_matrix.txt");

    #[test]
    fn every_line_is_understood() {
        let lines = FILE.lines().filter(|line| !line.starts_with('#'));
        let parsed: Vec<_> = lines.map(|line| (line, Line::parse(line))).collect();
        assert!(parsed.len() > 300);
        for (line, parsed) in parsed {
            let parsed = parsed.unwrap_or_else(|| panic!("{line}"));
            assert_eq!(
                parsed.hold().is_none(),
                parsed.moment == Moment::Done,
                "{line}"
            );
            assert!(parsed.path.iter().all(|deed| !deed.name.is_empty()));
        }
        assert_eq!(Line::parse("host-spawn - done giver.kernel"), None);
        assert_eq!(
            Line::parse("host-spawn - done giver.kernel giver/owned"),
            None
        );
        assert_eq!(
            Line::parse("host-host - done giver.kernel giver/owned/0"),
            None
        );
    }

    #[test]
    fn a_refused_step_is_told() {
        let line =
            Line::parse("spawn-host giver.offer,giver.abort! made taker.process giver/owned/0");
        let line = line.unwrap();
        assert_eq!(line.seats, [Seat::One, Seat::Host]);
        assert!(!line.path[0].refused && line.path[1].refused);
        assert_eq!(line.hold(), Some(6 | HOLD_MADE));
    }
}
