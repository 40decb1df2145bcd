// SPDX-License-Identifier: GPL-2.0

//! Plays the rounds: a working spawn ends in some way, is seen to, and is started again.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use multikernel::device::{Host, State};
use multikernel::{Error, Result};

use crate::balance::{losses, points, trend, Exact, Look, Used, WARM_UP};
use crate::clock::{milliseconds, Clock};
use crate::hostwork::HostWork;
use crate::life::{End, Files, Life};
use crate::plan::{Expected, Kind, Plan, Round, MIB};
use crate::report::{Outcome, Report};
use crate::sibling::Sibling;
use crate::spawn;
use crate::stamp::Frontier;
use crate::stamps::Stamps;

/// How long a spawn may take to work; a decompressor on a busy machine takes seconds.
const BOOT: Duration = Duration::from_secs(90);
/// How long anything else may take that a spawn does.
const ANSWER: Duration = Duration::from_secs(20);
/// How long the host may take to see an end, beside the bound for a hang.
const END: Duration = Duration::from_secs(20);
/// How long a kernel with random bytes in its code is left alone, beside the bound for a hang.
const WRECK: Duration = Duration::from_secs(2);
/// So much more may be in use after any round, in KiB: what a host at work holds for a moment. A
/// leak of an instance's memory is more, a slow one is for the trend.
const SLACK_KIB: i64 = 8 << 10;
/// So much more again on a host with KASAN, which keeps what was freed until its cache is shrunk:
/// up to a 32nd of the memory (QUARANTINE_FRACTION in mm/kasan/quarantine.c), here of 4 GiB.
const KASAN_SLACK_KIB: i64 = 128 << 10;
/// The part of the time that stamps may take: one of so many.
const STAMPS_PART: u32 = 3;

/// What to break on purpose in every round, to see that it is noticed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Break {
    /// Keep a page of memory.
    Page,
    /// Keep an object of the kernel's.
    Slab,
    /// Keep a file open.
    File,
    /// Change a bit of the host's work.
    Host,
    /// Change a bit of the sibling's work.
    Sibling,
    /// Keep memory in the pool.
    Pool,
}

/// What a run is made of.
pub struct Settings {
    /// Which rounds there are.
    pub plan: Plan,
    /// How many are played.
    pub rounds: u64,
    /// How many rounds of stamps are played before them.
    pub stamps: u64,
    /// Only this one.
    pub only: Option<u64>,
    /// No round begins later than this.
    pub time: Option<Duration>,
    /// The bound for a hang, in milliseconds.
    pub hang_ms: u32,
    /// The CPU of the sibling.
    pub sibling_cpu: u32,
    /// Where files of the run go.
    pub folder: PathBuf,
    /// This program.
    pub program: PathBuf,
    /// What to break.
    pub breaks: Option<Break>,
}

/// A run.
struct Run<'a> {
    host: &'a Host,
    files: &'a Files,
    settings: &'a Settings,
    khz: u32,
    sibling: Sibling<'a>,
    work: HostWork,
    victim: Option<(u64, Life<'a>)>,
    /// With the sibling, without a victim.
    base: Exact,
    /// With the present victim.
    with_victim: Option<Exact>,
    looks: Vec<Look>,
    /// How long the last boots took, in microseconds: vmlinux, bzImage, stock.
    boot_us: [u64; 3],
    kept: Vec<File>,
    report: Report,
    outcomes: Vec<Outcome>,
}

/// What a fault came to.
struct Ended {
    fault_ns: i64,
    end: Option<End>,
    /// The host saw nothing to end, so that it was ended by force.
    given_up: bool,
}

impl<'a> Run<'a> {
    /// Words for the command line of a spawn that is told later what to do.
    fn append(round: &Round) -> String {
        format!("{}{}", spawn::SEED, round.seed)
    }

    fn life(&mut self) -> Result<&mut Life<'a>> {
        match &mut self.victim {
            Some((_, life)) => Ok(life),
            None => Err(Error::new("cannot go on", "there is no instance to crash")),
        }
    }

    /// Starts the victim and waits until it works; returns when that was.
    fn boot(&mut self, round: &Round) -> Result<i64> {
        let (hang_ms, khz) = (self.settings.hang_ms, self.khz);
        let life = self.life()?;
        life.start(&Self::append(round), hang_ms)?;
        let clock = Clock::read(khz);
        let ready = life.wait_tsc("soak: ready tsc=", BOOT)?;
        let ready_ns = clock.at(ready);
        let took = (ready_ns - clock.ns).max(0) as u64 / 1000;
        self.boot_us[round.shape.kernel as usize] = took;
        Ok(ready_ns)
    }

    /// Has the victim of this round's group, working.
    fn prepare(&mut self, round: &Round) -> Result<()> {
        if self
            .victim
            .as_ref()
            .is_some_and(|(group, _)| *group == round.group)
        {
            return Ok(());
        }
        self.give_back(round.number)?;
        let life = Life::create(self.host, self.files, "victim", &round.shape)?;
        self.victim = Some((round.group, life));
        self.boot(round)?;
        let _quiet = self.work.quiet();
        self.with_victim = Some(Exact::look(self.host)?);
        Ok(())
    }

    /// Gives back what the victim has, and looks whether all of it is there.
    fn give_back(&mut self, round: u64) -> Result<()> {
        self.with_victim = None;
        if let Some((_, life)) = self.victim.take() {
            life.destroy()?;
        }
        let _quiet = self.work.quiet();
        let found = self.base.differences(&Exact::look(self.host)?);
        let leaks = found
            .iter()
            .map(|what| format!("before round {round}: {what}"));
        self.report.leaks.extend(leaks);
        let used = Used::look(self.host, true, None)?;
        self.report
            .looks
            .push((round, used.free_kib, used.slab_kib));
        self.looks.push(Look {
            round: round as f64,
            used,
        });
        Ok(())
    }

    /// Commits the round's fault, and waits for the end.
    fn end(&mut self, round: &Round) -> Result<Ended> {
        let khz = self.khz;
        let hang = Duration::from_millis(self.settings.hang_ms.into());
        let typical = self.boot_us[round.shape.kernel as usize];
        let append = Self::append(round);
        let hang_ms = self.settings.hang_ms;
        let life = self.life()?;
        let now = || Clock::read(khz).ns;

        let (fault_ns, timeout) = match round.kind {
            Kind::Kill => {
                let start = now();
                life.kill()?;
                (start, END)
            }
            Kind::KillBoot => {
                life.kill()?;
                // Its end is an event of the life before.
                life.wait_end(END)?;
                life.start(&append, hang_ms)?;
                // A little longer than a boot takes, so that its end is hit as well.
                thread::sleep(Duration::from_micros(
                    typical.saturating_mul(round.boot_millionths) / 900_000,
                ));
                let start = now();
                life.kill()?;
                (start, END)
            }
            Kind::KillPanic => {
                life.kill()?;
                life.wait_end(END)?;
                // It cannot be told anything while it runs.
                let words = format!(
                    "{append} {}sysrq {}{}",
                    spawn::FAULT,
                    spawn::DELAY_US,
                    round.work_us
                );
                life.start(&words, hang_ms)?;
                life.wait_line("soak: ready", BOOT)?;
                let fault = life.wait_tsc("soak: fault tsc=", ANSWER)?;
                life.wait_line("Kernel panic", ANSWER)?;
                life.kill()?;
                (Clock::read(khz).at(fault), END)
            }
            Kind::Stop => {
                let start = now();
                life.stop(ANSWER)?;
                (start, END)
            }
            kind => {
                let name = kind
                    .in_kernel()
                    .map_or_else(|| kind.to_string(), str::to_owned);
                life.tell(&format!("fault {name} {}", round.seed))?;
                let fault = life.wait_tsc("soak: fault tsc=", ANSWER)?;
                let timeout = if kind == Kind::Text { WRECK } else { END };
                (Clock::read(khz).at(fault), timeout + hang)
            }
        };
        let mut end = life.wait_end(timeout)?;
        let given_up = end.is_none() && round.kind.expected() == Expected::Anyhow;
        if given_up {
            life.kill()?;
            end = life.wait_end(END)?;
        }
        Ok(Ended {
            fault_ns,
            end,
            given_up,
        })
    }

    /// Plays one round. What goes wrong in it ends up in the outcome, what makes it impossible to
    /// go on is an error.
    fn play(&mut self, round: &Round) -> Result<Outcome> {
        let mut outcome = Outcome {
            kind: round.kind,
            end: "-".into(),
            seen_ms: None,
            restarted_ms: None,
            problems: Vec::new(),
        };
        self.sabotage()?;
        if let Err(error) = self.play_victim(round, &mut outcome) {
            outcome.problems.push(error.to_string());
        }
        if !outcome.problems.is_empty() {
            if let Some((_, life)) = &self.victim {
                outcome
                    .problems
                    .extend(life.last_lines(30).iter().map(|line| format!("| {line}")));
            }
        }
        if outcome.end == "-" || outcome.restarted_ms.is_none() {
            // Whatever it is in, the next round begins with a new one.
            self.give_back(round.number)?;
        }

        self.look_at_work(&format!("round {}", round.number))?;
        Ok(outcome)
    }

    /// Sees whether the host's and the sibling's work goes on, after what the words say.
    fn look_at_work(&mut self, after: &str) -> Result<()> {
        let mut lost = self.work.check();
        lost.extend(self.sibling.check()?);
        let lost = lost.iter().map(|what| format!("{after}: {what}"));
        self.report.lost_work.extend(lost);
        Ok(())
    }

    fn play_victim(&mut self, round: &Round, outcome: &mut Outcome) -> Result<()> {
        self.prepare(round)?;
        thread::sleep(Duration::from_micros(round.work_us));
        let ended = self.end(round)?;
        if let Some(end) = ended.end {
            outcome.end = format!("{}/{}", end.state, end.reason);
            if !ended.given_up {
                outcome.seen_ms = Some(milliseconds(ended.fault_ns, end.at_ns as i64));
            }
        }
        match (round.kind.expected(), ended.end) {
            (_, None) => return Err(Error::new("no end was seen", "it goes on")),
            (Expected::Exactly(state, reason), Some(end))
                if (end.state, end.reason) != (state, reason) =>
            {
                let wrong = format!("it is {}, not {state}/{reason}", outcome.end);
                outcome.problems.push(wrong);
            }
            (_, Some(end)) if end.state == State::Failed => {
                outcome
                    .problems
                    .push("a CPU is not confirmed parked".into());
            }
            _ => {}
        }
        let complaint = self.life()?.complaint()?;
        if round.kind != Kind::Text {
            outcome
                .problems
                .extend(complaint.map(|said| format!("it said \"{said}\"")));
        }

        let ready_ns = self.boot(round)?;
        outcome.restarted_ms = Some(milliseconds(ended.fault_ns, ready_ns));
        let _quiet = self.work.quiet();
        if let Some(before) = &self.with_victim {
            let found = before.differences(&Exact::look(self.host)?);
            let leaks = found
                .iter()
                .map(|what| format!("round {}: {what}", round.number));
            self.report.leaks.extend(leaks);
        }
        let used = Used::look(self.host, false, None)?;
        // Only a kernel that is built for debugging needs more memory.
        let slack = match self.settings.plan.more_memory {
            0 => SLACK_KIB,
            _ => SLACK_KIB + KASAN_SLACK_KIB,
        };
        if let Some(first) = self.looks.first() {
            let lost = first.used.free_kib - used.free_kib;
            if lost > slack {
                let text = format!("round {}: {lost} KiB less are free", round.number);
                self.report.leaks.push(text);
            }
            let more = used.slab_kib - first.used.slab_kib;
            if more > slack {
                let text = format!("round {}: {more} KiB more of slab", round.number);
                self.report.leaks.push(text);
            }
        }
        Ok(())
    }

    /// Plays the rounds of stamps, in a part of the time that there is; returns how many lines were
    /// printed.
    fn stamp(&mut self, start: Instant) -> Result<u64> {
        let settings = self.settings;
        if settings.stamps == 0 {
            return Ok(0);
        }
        let mut stamps = Stamps::new(self.host, self.files, &settings.plan, settings.hang_ms)?;
        let mut stopped = false;
        for number in 0..settings.stamps {
            let line = number + 1;
            let late = settings
                .time
                .is_some_and(|time| start.elapsed() > time / STAMPS_PART);
            if late || stopped {
                let why = if late { "no time left" } else { "given up" };
                println!("ok {line} stamps {number} # SKIP {why}");
                continue;
            }
            match stamps.play(number) {
                Ok((kind, Frontier { pass, word, bad })) => {
                    let ok = if bad == 0 && pass + word as u64 > 0 {
                        "ok"
                    } else {
                        let what = format!("stamps {number}, {kind}: {bad} bad words");
                        self.report.failures.push(what);
                        "not ok"
                    };
                    println!(
                        "{ok} {line} stamps {number} {kind}: pass {pass}, word {word}, {bad} bad"
                    );
                }
                Err(error) => {
                    println!("not ok {line} stamps {number}\n# {error}");
                    self.report
                        .failures
                        .push(format!("stamps {number}: {error}"));
                    stopped = true;
                }
            }
            self.look_at_work(&format!("stamps {number}"))?;
        }
        let line = settings.stamps + 1;
        let seen = stamps.words_are_checked()?;
        let ok = if seen { "ok" } else { "not ok" };
        println!("{ok} {line} a word of the arena that is changed is seen");
        if !seen {
            let what = "a word that was changed is not seen".to_owned();
            self.report.failures.push(what);
        }
        self.report.stamps = stamps.finish()?;
        let _quiet = self.work.quiet();
        let found = self.base.differences(&Exact::look(self.host)?);
        let leaks = found.iter().map(|what| format!("after the stamps: {what}"));
        self.report.leaks.extend(leaks);
        Ok(line)
    }

    fn sabotage(&mut self) -> Result<()> {
        let keep = |name: &str, bytes: &[u8]| -> std::io::Result<()> {
            let path = self.settings.folder.join(name);
            File::options()
                .create(true)
                .append(true)
                .open(path)?
                .write_all(bytes)
        };
        let done = match self.settings.breaks {
            None => Ok(()),
            Some(Break::Page) => keep("kept", &[1; 4096]),
            Some(Break::Slab) => {
                let count = self.outcomes.len();
                (0..4).try_for_each(|at| keep(&format!("kept-{count}-{at}"), &[]))
            }
            Some(Break::File) => File::open("/dev/null").map(|file| self.kept.push(file)),
            Some(Break::Host) => {
                self.work.spoil();
                Ok(())
            }
            Some(Break::Sibling) => return self.sibling.spoil(),
            Some(Break::Pool) => {
                let side = multikernel::spec::Side::Any;
                return self.host.grow(2 * MIB, None, side).map(drop);
            }
        };
        done.map_err(|error| Error::new("cannot break something on purpose", error))
    }

    /// What the looks say when they are taken together.
    fn judge_trends(&mut self) {
        let looks = self.looks.get(WARM_UP..).unwrap_or_default();
        let free = |look: &Look| look.used.free_kib;
        let least = looks.iter().map(free).min().unwrap_or(0);
        self.report.free_kib_spread = looks.iter().map(free).max().map(|most| most - least);
        self.report.free_kib_per_round = trend(&points(looks, |used| used.free_kib));
        self.report.slab_kib_per_round = trend(&points(looks, |used| used.slab_kib));
        self.report.leaks.extend(losses(&self.looks));
    }
}

/// The lines about one round, as KTAP has them.
fn print(number: u64, round: &Round, outcome: &Outcome) {
    let time = |ms: Option<f64>| ms.map_or("-".into(), |ms| format!("{ms:.1} ms"));
    println!(
        "{} {number} round {} {} {}: {}, seen {}, restarted {}",
        if outcome.problems.is_empty() {
            "ok"
        } else {
            "not ok"
        },
        round.number,
        round.kind,
        round.shape,
        outcome.end,
        time(outcome.seen_ms),
        time(outcome.restarted_ms)
    );
    for problem in &outcome.problems {
        println!("# {problem}");
    }
}

/// Plays all rounds.
pub fn run(host: &Host, files: &Files, settings: &Settings) -> Result<Report> {
    let start = Instant::now();
    let khz = host.info()?.tsc_khz;
    let before = Exact::look(host)?;
    let seed = settings.plan.seed;
    let sibling = Sibling::start(host, files, settings.sibling_cpu, &settings.plan)?;
    let with_sibling = Exact::look(host)?;
    let work = HostWork::start(seed, settings.folder.clone(), settings.program.clone());
    let mut run = Run {
        host,
        files,
        settings,
        khz,
        sibling,
        work,
        victim: None,
        base: with_sibling,
        with_victim: None,
        looks: Vec::new(),
        boot_us: [1_000_000; 3],
        kept: Vec::new(),
        report: Report {
            seed,
            rounds_asked: settings.rounds,
            stamps_asked: settings.stamps,
            ..Report::default()
        },
        outcomes: Vec::new(),
    };

    let numbers = match settings.only {
        Some(number) => number..number + 1,
        None => 0..settings.rounds,
    };
    let lines = numbers.end - numbers.start + settings.stamps + u64::from(settings.stamps > 0);
    println!("TAP version 13\n1..{}", lines + 3);
    println!("# seed {seed}: SEED={seed} ROUND=n replays round n");
    let mut line = run.stamp(start)?;
    let mut stopped = false;
    for number in numbers {
        line += 1;
        let late = settings.time.is_some_and(|time| start.elapsed() > time);
        if late || stopped {
            let why = if late { "no time left" } else { "given up" };
            println!("ok {line} round {number} # SKIP {why}");
            continue;
        }
        let round = settings.plan.round(number);
        match run.play(&round) {
            Ok(outcome) => {
                print(line, &round, &outcome);
                let failed = outcome.problems.first();
                let text = failed.map(|what| format!("round {number}, {}: {what}", round.kind));
                run.report.failures.extend(text);
                run.outcomes.push(outcome);
                run.report.rounds += 1;
            }
            Err(error) => {
                println!(
                    "not ok {line} round {number} {} {}",
                    round.kind, round.shape
                );
                println!("# {error}");
                run.report.failures.push(format!("round {number}: {error}"));
                stopped = true;
            }
        }
    }
    finish(run, &before, start, line)
}

/// Gives everything back, and takes stock.
fn finish(mut run: Run<'_>, before: &Exact, start: Instant, mut line: u64) -> Result<Report> {
    run.give_back(run.report.rounds)?;
    run.judge_trends();
    run.report.sibling_work = run.sibling.steps();
    run.report.host_work = run.work.done();
    run.report.worst_host_delay_ms = run.work.worst_delay_ms();
    run.work.stop();
    run.sibling.destroy()?;
    let found = before.differences(&Exact::look(run.host)?);
    run.report
        .leaks
        .extend(found.iter().map(|what| format!("at the end: {what}")));

    let mut report = run.report;
    report.kinds = crate::report::rows(&run.outcomes);
    report.seconds = start.elapsed().as_secs_f64();
    let mut result = |what: &str, bad: &[String]| {
        line += 1;
        println!(
            "{} {line} {what}",
            if bad.is_empty() { "ok" } else { "not ok" }
        );
        for text in bad {
            println!("# {text}");
        }
    };
    result("the host has what it had", &report.leaks);
    result("no work was lost", &report.lost_work);
    let played = if report.rounds + report.stamps.rounds == 0 {
        vec!["none".to_owned()]
    } else {
        Vec::new()
    };
    result("rounds were played", &played);
    for row in report.to_string().lines() {
        println!("# {row}");
    }
    Ok(report)
}

/// Writes the spawns' initial ram file system.
pub fn write_initrd(program: &std::path::Path, to: &std::path::Path) -> Result<()> {
    let asked = "cannot make the spawns' initrd";
    let program = fs::read(program).map_err(|error| Error::new(asked, error))?;
    fs::write(to, spawn::initrd(&program)).map_err(|error| Error::new(asked, error))
}
