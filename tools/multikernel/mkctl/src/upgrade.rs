// SPDX-License-Identifier: GPL-2.0

//! `mkctl upgrade`: a new kernel beside the old one, in whose place it comes.
//!
//! Up to the commit all is undone when a part fails, and the old instance has not noticed anything.
//! From there on it goes forward only, in steps each of which may have been done already: how far
//! it is, the kernel knows, and what the kernel cannot know is in an [`Upgrade`] on disk, written
//! before the step that it is about.

use std::collections::VecDeque;
use std::fs::File;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use multikernel::device::{Call, CreateRequest, Host, Instance, InstanceInfo, Peer, State};
use multikernel::load::{self, LoadSpec};
use multikernel::pool;
use multikernel::shared::OutputReader;
use multikernel::spec::{parse_name, CpuList, MemoryRequest};
use multikernel::state::{absolute, Record, Store, Upgrade};
use multikernel::upgrade::{memory, moved, spare};
use multikernel::{Error, Result};
use rustix::fs::{flock, FlockOperation};
use serde_json::json;

use crate::args::UpgradeArgs;
use crate::console::Until;
use crate::signals::Signals;
use crate::{cpu, instance, run};

/// How often to look whether the new kernel is up.
const INTERVAL: Duration = Duration::from_millis(10);
/// For how long a new kernel must have answered that is not asked for more: its user space, of
/// which nothing is known, may end it at once.
const SETTLING: Duration = Duration::from_secs(2);
/// Lines of the new kernel's console that are shown when it does not come up.
const LAST_LINES: usize = 12;
/// How often a step after the commit is tried again that a signal has interrupted.
const TRIES: usize = 8;

/// When what was done, in seconds from the beginning.
#[derive(Default)]
struct Times {
    steps: Vec<(&'static str, f64)>,
}

/// One upgrade.
struct Work<'a> {
    host: &'a Host,
    name: &'a str,
    /// What the new one is called up to the commit, and the old one from there on.
    other: String,
    store: Store,
    state: Upgrade,
    began: Instant,
    times: Times,
    quiet: bool,
}

/// Says what happens, unless only JSON is wanted.
macro_rules! progress {
    ($work:expr, $($arguments:tt)*) => {
        if !$work.quiet {
            say!($($arguments)*);
        }
    };
}

fn cannot(name: &str) -> String {
    format!("cannot upgrade instance \"{name}\"")
}

fn other_name(name: &str) -> Result<String> {
    parse_name(&format!("{name}.next")).map_err(|why| Error::new(cannot(name), why))
}

/// One at a time: the lock is held as long as the file is open.
fn lock(store: &Store, name: &str) -> Result<File> {
    let file = store
        .upgrade_lock(name)
        .map_err(|error| Error::new(cannot(name), error))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(_) => Err(Error::new(cannot(name), "another mkctl is upgrading it")),
    }
}

pub fn upgrade(args: &UpgradeArgs) -> Result<ExitCode> {
    let name = args.name.as_str();
    let store = Store::default();
    let _lock = lock(&store, name)?;
    let host = Host::open()?;
    let signals = Signals::hold()?;
    let left = store.upgrade(name);
    let mut work = Work {
        host: &host,
        name,
        other: other_name(name)?,
        store,
        state: left.clone().unwrap_or_else(|| Upgrade::new(0)),
        began: Instant::now(),
        times: Times::default(),
        quiet: args.json.json,
    };
    if left.is_some() {
        if work.state.committed {
            if args.abort {
                return Err(Error::new(
                    format!("cannot abort the upgrade of instance \"{name}\""),
                    "the new kernel has taken over already",
                )
                .advice(format!(
                    "Finish it with 'mkctl upgrade {name} --kernel FILE'"
                )));
            }
            progress!(work, "finishing the upgrade that was interrupted");
            work.finish(args)?;
            return Ok(ExitCode::SUCCESS);
        }
        progress!(work, "removing what an interrupted upgrade has left");
        work.undo(true)?;
    }
    if args.abort {
        return Ok(ExitCode::SUCCESS);
    }
    match work.prepare(args, &signals) {
        Ok(()) => work.finish(args)?,
        Err(error) => {
            if let Err(error) = work.undo(false) {
                eprintln!("mkctl: while undoing: {error}");
            }
            return Err(error);
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Work<'_> {
    fn save(&self) -> Result<()> {
        self.store.save_upgrade(self.name, &self.state)
    }

    fn note(&mut self, step: &'static str) -> f64 {
        let now = self.began.elapsed().as_secs_f64();
        self.times.steps.push((step, now));
        now
    }

    fn check(&self, signals: &Signals) -> Result<()> {
        match signals.came() {
            true => Err(Error::new(
                cannot(self.name),
                "interrupted by a signal; the old kernel goes on, what had been done is undone",
            )),
            false => Ok(()),
        }
    }

    /// What is to be loaded: as into the old one, where the arguments do not say otherwise.
    fn spec(&self, args: &UpgradeArgs, old: &InstanceInfo) -> Result<LoadSpec> {
        let record = self.store.get(self.name, old.id);
        let Some(kernel) = &args.kernel else {
            return Err(Error::new(cannot(self.name), "there is no --kernel"));
        };
        let mut spec = record.map_or_else(
            || LoadSpec {
                kernel: kernel.clone(),
                initrd: None,
                append: String::new(),
                fast: false,
                uarts: Vec::new(),
                guest: true,
                later_cpus: Vec::new(),
                pmem: Vec::new(),
            },
            |record| record.spec,
        );
        if !spec.uarts.is_empty() {
            return Err(Error::new(
                cannot(self.name),
                "it has a UART, which two kernels cannot use at the same time",
            )
            .advice("Run it with the console of guest support, without --uart"));
        }
        if !spec.pmem.is_empty() && args.handover_command.is_none() {
            return Err(Error::new(
                cannot(self.name),
                "it has persistent memory, on which two kernels cannot have a file system mounted",
            )
            .advice(
                "Give a --handover-command that has the old one unmount it before the new one \
                 mounts it, or stop it, and load and start the new kernel with the same --pmem",
            ));
        }
        if !spec.guest && args.ready_command.is_none() {
            return Err(Error::new(
                cannot(self.name),
                "without guest support the new kernel cannot say that it is up",
            )
            .advice("Give --ready-command"));
        }
        spec.kernel = absolute(kernel)?;
        if let Some(initrd) = &args.initrd {
            spec.initrd = Some(absolute(initrd)?);
        }
        if let Some(append) = &args.append {
            spec.append.clone_from(append);
        }
        Ok(spec)
    }

    /// All up to the commit: brings the new kernel up beside the old one.
    fn prepare(&mut self, args: &UpgradeArgs, signals: &Signals) -> Result<()> {
        let old = self.host.instance(self.name)?.info()?;
        if old.state != State::Running {
            return Err(Error::new(
                cannot(self.name),
                format_args!("it is {}, not running", old.state),
            )
            .advice(format!(
                "Load the new kernel with 'mkctl load {0}', and start it with 'mkctl start {0}'",
                self.name
            )));
        }
        if self.find_other()?.is_some() {
            return Err(Error::new(
                cannot(self.name),
                format_args!("there is an instance \"{}\"", self.other),
            )
            .advice(format!(
                "If it is not needed, remove it with 'mkctl rm --force {}'",
                self.other
            )));
        }
        let mut spec = self.spec(args, &old)?;
        load::check(&spec)?;
        let machine = self.host.cpus()?;
        let spare = spare(&machine, &old, args.spare_cpu).map_err(|why| {
            Error::new(cannot(self.name), why).advice(
                "Bring one online, or free one with 'mkctl rm'; 'mkctl pool' shows who has which",
            )
        })?;
        self.state = Upgrade::new(old.id);
        self.state.later_cpus.clone_from(&spec.later_cpus);
        self.state.cpus = moved(&old);
        let olds = old.cpus.iter().map(|cpu| cpu.cpu);
        spec.later_cpus = olds.chain(spec.later_cpus).collect();
        self.save()?;

        progress!(
            self,
            "instance \"{}\" is id {}: the new kernel boots beside it on CPU {spare}",
            self.name,
            old.id
        );
        let memory = match args.memory.is_empty() {
            true => memory(&old),
            false => args.memory.clone(),
        };
        let new = self.create(&old, spare, &memory)?;
        self.check(signals)?;
        instance::grant_pmem(self.host, &new, &spec)?;
        let record = instance::load_with(self.host, &new, &self.other, spec)?;
        self.check(signals)?;
        let hang = old.hang_timeout.unwrap_or_default();
        new.start_with(record.loaded.argument, hang, record.loaded.cpus)?;
        self.note("started");
        self.wait_until_up(args, &new, record.spec.guest, signals)?;
        if let Some(command) = &args.handover_command {
            self.have_sessions_accepted(command)?;
            let (state, reason) = new.state()?;
            if !state.is_live() {
                return Err(Error::new(
                    cannot(self.name),
                    format_args!("the new kernel has ended meanwhile: {state} ({reason})"),
                )
                .advice("The old kernel goes on"));
            }
        }
        self.check(signals)?;
        self.commit(&old, &new, record)
    }

    /// Takes what the new one needs from the pool and the host.
    fn create(
        &mut self,
        old: &InstanceInfo,
        spare: u32,
        memory: &[MemoryRequest],
    ) -> Result<Instance> {
        let missing = pool::missing(&run::free(self.host)?, memory);
        self.grow(&missing)?;
        let (name, cpus) = (self.other.clone(), CpuList(vec![spare]));
        let low = old.memory.iter().filter(|memory| memory.low);
        let request = CreateRequest {
            name: &name,
            cpus: &cpus,
            memory,
            low_bytes: low.map(|memory| memory.size as u32).sum(),
        };
        let new = match self.host.create(&request) {
            // The pool has as much, and not in the pieces that the kernel would have liked.
            Err(error) if error.errno() == Some(libc::ENOSPC) && missing.is_empty() => {
                let movable: Vec<_> = memory
                    .iter()
                    .copied()
                    .filter(|m| m.base.is_none())
                    .collect();
                self.grow(&movable)?;
                self.host.create(&request)?
            }
            other => other?,
        };
        self.state.new = Some(new.id());
        self.save()?;
        Ok(new)
    }

    fn grow(&mut self, missing: &[MemoryRequest]) -> Result<()> {
        for request in missing {
            let base = self.host.grow(request.bytes, request.node, request.side)?;
            self.state.grown.push((base, request.bytes));
            self.save()?;
        }
        Ok(())
    }

    /// Waits until the new kernel answers over its link, and is up as the arguments define it.
    fn wait_until_up(
        &mut self,
        args: &UpgradeArgs,
        new: &Instance,
        guest: bool,
        signals: &Signals,
    ) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(args.timeout);
        let mut console = Console::new(new, args.ready.as_deref())?;
        let name = self.other.clone();
        let mut probe = Probe::new(args.ready_command.as_deref(), &name);
        let mut answers = !guest;
        let asked_for_more = args.ready.is_some() || args.ready_command.is_some();
        let mut settled = None;
        loop {
            self.check(signals)?;
            // Before the last look at the console: what was written before the end is there then.
            let (state, reason) = new.state()?;
            console.look();
            if !state.is_live() {
                console.show_last();
                let message = console.message();
                let why = match message.as_str() {
                    "" => format!("the new kernel ended before it was up: {state} ({reason})"),
                    message => {
                        format!(
                            "the new kernel ended before it was up: {state} ({reason}): {message}"
                        )
                    }
                };
                return Err(Error::new(cannot(self.name), why).advice("The old kernel goes on"));
            }
            let mut answer = [0; 2];
            let asked = (!answers).then(|| new.call(&Call::echo(b"up"), &mut answer));
            if let Some(Err(error)) = &asked {
                if error.errno() == Some(libc::EPROTONOSUPPORT) {
                    // It would not ask before it starts CPUs: it must not get to its user space.
                    return Err(Error::new(
                        cannot(self.name),
                        "the new kernel has another version of the ABI",
                    )
                    .advice("The old kernel goes on; the kernel log says which versions"));
                }
            }
            if matches!(asked, Some(Ok(2))) {
                answers = true;
                settled = (!asked_for_more).then(|| Instant::now() + SETTLING);
                let seconds = self.note("answers");
                progress!(self, "its kernel answers after {seconds:.3} s");
            }
            let settles = settled.is_some_and(|settled| Instant::now() < settled);
            if answers && !settles && console.found && probe.succeeds() {
                let seconds = self.note("up");
                progress!(self, "it is up after {seconds:.3} s");
                return Ok(());
            }
            if Instant::now() >= deadline {
                console.show_last();
                let missing = match (answers, console.found) {
                    (false, _) => "its kernel does not answer",
                    (true, false) => "the text that --ready names has not come from its console",
                    (true, true) => "the command that --ready-command names has not succeeded",
                };
                return Err(Error::new(
                    cannot(self.name),
                    format_args!(
                        "the new kernel was not up within {} s: {missing}",
                        args.timeout
                    ),
                )
                .advice("The old kernel goes on; --timeout gives the new one more time"));
            }
            thread::sleep(INTERVAL);
        }
    }

    /// Has user space on both sides bring the sessions to where only the commit is missing.
    fn have_sessions_accepted(&mut self, command: &str) -> Result<()> {
        let status = Command::new("sh")
            .args(["-c", command])
            .env("MKCTL_INSTANCE", &self.other)
            .env("MKCTL_OLD", self.name)
            .stdin(Stdio::null())
            .status();
        match status {
            Ok(status) if status.success() => {}
            Ok(status) => {
                let why = format!("the command that --handover-command names ended with {status}");
                return Err(Error::new(cannot(self.name), why).advice("The old kernel goes on"));
            }
            Err(error) => return Err(Error::new(cannot(self.name), error)),
        }
        let seconds = self.note("accepted");
        progress!(self, "its sessions are accepted after {seconds:.3} s");
        Ok(())
    }

    /// From here on it goes forward only.
    fn commit(&mut self, old: &InstanceInfo, new: &Instance, record: Record) -> Result<()> {
        if !self.state.grown.is_empty() {
            let high = old.memory.iter().filter(|memory| !memory.low);
            self.state.give_back = high.map(|memory| (memory.base, memory.size)).collect();
        }
        // What the two names will mean, before they do. That of the old one first: undo() has it
        // from there.
        if let Some(of_old) = self.store.get(self.name, old.id) {
            self.store.save(&self.other, &of_old)?;
        }
        let mut of_new = record;
        of_new.successor_of = Some(old.id);
        self.store.save(self.name, &of_new)?;
        self.state.committed = true;
        self.save()?;
        let taken = self.take_over(new);
        if taken.is_err() {
            self.state.committed = false;
            self.save()?;
        }
        taken
    }

    /// Has the new one take over. May be called again after mkctl was killed in the middle of it.
    fn take_over(&self, new: &Instance) -> Result<()> {
        // In one step with the names. After an error the old kernel has all of them.
        new.take_over(self.state.old)
    }

    /// All behind the commit; what has been done already is left as it is.
    fn finish(&mut self, args: &UpgradeArgs) -> Result<()> {
        let gone = || {
            Error::new(
                cannot(self.name),
                "the instance of the new kernel has been removed",
            )
            .advice(format!(
                "Forget the upgrade by removing {}/{}.upgrade",
                multikernel::state::DIRECTORY,
                self.name
            ))
        };
        let new = self.state.new.ok_or_else(gone)?;
        let new = self.host.instance_by_id(new)?.ok_or_else(gone)?;
        match new.info()?.name {
            name if name == self.name => {}
            name if name == self.other => {
                let old = self.host.instance_by_id(self.state.old)?;
                let same = match &old {
                    Some(old) => old.info()?.name == self.name,
                    None => false,
                };
                if !same {
                    return Err(Error::new(
                        cannot(self.name),
                        "the old instance has been removed meanwhile",
                    )
                    .advice(format!("The new kernel runs as \"{}\"", self.other)));
                }
                if let Err(error) = self.take_over(&new) {
                    if error.errno() != Some(libc::EBUSY) {
                        return Err(error);
                    }
                    // What the new one had accepted it does not wait for any more.
                    self.state.committed = false;
                    self.undo(true)?;
                    return Err(error);
                }
            }
            // Another one by the same id.
            _ => return Err(gone()),
        }
        let seconds = self.note("committed");
        progress!(
            self,
            "committed after {seconds:.3} s: instance \"{}\" is id {} now",
            self.name,
            new.id()
        );
        let old = self.old()?;
        if let Some(old) = &old {
            stop(old, args.stop_timeout)?;
            let seconds = self.note("stopped");
            progress!(self, "the old kernel has been stopped after {seconds:.3} s");
            self.move_grants(old, &new)?;
            self.move_cpus(old, &new)?;
        }
        let by_hand = self.tell(&new);
        let seconds = self.note("cpus");
        match &by_hand {
            Ok(true) => progress!(self, "the new kernel has its CPUs after {seconds:.3} s"),
            Ok(false) => progress!(self, "{}", cpu::BY_HAND),
            Err(_) => {}
        }
        if let Some(old) = &old {
            again(|| old.destroy())?;
        }
        self.clean_up(&new)?;
        let seconds = self.note("removed");
        progress!(
            self,
            "the old instance has been removed after {seconds:.3} s"
        );
        if args.json.json {
            let steps: serde_json::Map<_, _> = self
                .times
                .steps
                .iter()
                .map(|(step, seconds)| ((*step).to_owned(), json!(seconds)))
                .collect();
            println!(
                "{}",
                json!({
                    "name": self.name,
                    "id": new.id(),
                    "old_id": self.state.old,
                    "seconds": steps,
                })
            );
        }
        by_hand.map(|_| ())
    }

    /// The old instance, if it is there still: it has the other name by now.
    fn old(&self) -> Result<Option<Instance>> {
        let old = self.find_other()?;
        Ok(old.filter(|it| it.id() == self.state.old))
    }

    /// What the old instance was granted, the new one is.
    fn move_grants(&self, old: &Instance, new: &Instance) -> Result<()> {
        for arena in self.host.arenas()? {
            let granted = |id| arena.grants.iter().find(move |grant| grant.id == id);
            if let (Some(grant), None) = (granted(old.id()), granted(new.id())) {
                self.host
                    .grant_arena(&arena.name, new.id(), grant.read_only)?;
            }
        }
        for link in self.host.links()? {
            let Some(peer) = link.peer_of(old.id()).filter(|peer| *peer != new.id()) else {
                continue;
            };
            let Some(peer) = self.host.instance_by_id(peer)? else {
                continue;
            };
            let peer = peer.info()?.name;
            match old.disconnect(&peer) {
                // Taken back all the same; or by an earlier try.
                Err(error)
                    if !matches!(
                        error.errno(),
                        Some(libc::ETIMEDOUT | libc::EINTR | libc::ENOLINK | libc::ENOENT)
                    ) =>
                {
                    return Err(error)
                }
                _ => {}
            }
            match new.connect(&peer) {
                Err(error) if !matches!(error.errno(), Some(libc::EISCONN | libc::ENOENT)) => {
                    return Err(error)
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn move_cpus(&self, old: &Instance, new: &Instance) -> Result<()> {
        let info = old.info()?;
        let has = |cpu: &u32| info.cpus.iter().any(|own| own.cpu == *cpu);
        let left = CpuList(self.state.cpus.iter().copied().filter(has).collect());
        match left.0.is_empty() {
            true => Ok(()),
            false => cpu::take_from(new, &left, old.id()),
        }
    }

    /// Tells the new kernel of its CPUs; whether it could be told.
    fn tell(&self, new: &Instance) -> Result<bool> {
        let info = new.info()?;
        let has = |cpu: &u32| info.cpus.iter().any(|own| own.cpu == *cpu);
        let cpus = CpuList(self.state.cpus.iter().copied().filter(has).collect());
        match cpus.0.is_empty() || !info.state.is_live() {
            true => Ok(true),
            false => cpu::tell(new, &info, &cpus),
        }
    }

    /// What is left when the old one is gone.
    fn clean_up(&self, new: &Instance) -> Result<()> {
        for (base, size) in &self.state.give_back {
            // Memory from the boot stays in the pool, and what others have taken is theirs.
            let _ = self.host.shrink(*size, Some(*base));
        }
        if let Some(mut record) = self.store.get(self.name, new.id()) {
            record.spec.later_cpus.clone_from(&self.state.later_cpus);
            self.store.save(self.name, &record)?;
        }
        self.store.forget(&self.other);
        self.store.forget_upgrade(self.name);
        Ok(())
    }

    /// The instance that has the other name.
    fn find_other(&self) -> Result<Option<Instance>> {
        match self.host.instance(&self.other) {
            Ok(instance) => Ok(Some(instance)),
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes back all that was done before the commit, by this mkctl or by one that was `killed`,
    /// perhaps before it had noted which instance it had created.
    fn undo(&mut self, killed: bool) -> Result<()> {
        if let Some(new) = self.find_other()? {
            if self.state.new.map_or(killed, |id| id == new.id()) {
                again(|| instance::remove(&new, true))?;
            }
        }
        // It may have come as far as that of the new one.
        if let Some(of_old) = self.store.get(&self.other, self.state.old) {
            self.store.save(self.name, &of_old)?;
        }
        if self.state.old != 0 {
            self.store.forget(&self.other);
        }
        for (base, size) in std::mem::take(&mut self.state.grown) {
            // What others have taken meanwhile is theirs.
            let _ = self.host.shrink(size, Some(base));
        }
        self.store.forget_upgrade(self.name);
        self.state = Upgrade::new(0);
        Ok(())
    }
}

/// Does what a signal may interrupt, which has then not been done.
fn again(mut step: impl FnMut() -> Result<()>) -> Result<()> {
    for _ in 1..TRIES {
        match step() {
            Err(error) if error.errno() == Some(libc::EINTR) => {}
            other => return other,
        }
    }
    step()
}

/// Stops the old kernel, which may have ended by itself.
fn stop(old: &Instance, seconds: u64) -> Result<()> {
    again(|| {
        let stopped = match seconds {
            0 => old.kill(),
            seconds => instance::stop_with(old, Duration::from_secs(seconds), true),
        };
        match stopped {
            Err(error) if error.errno() != Some(libc::EALREADY) => Err(error),
            _ => Ok(()),
        }
    })
}

/// What the new kernel writes to its console.
struct Console<'a> {
    map: multikernel::device::SharedMap,
    reader: Option<OutputReader>,
    until: Option<Until<'a>>,
    /// Whether what is looked for has come.
    found: bool,
    last: VecDeque<String>,
    line: Vec<u8>,
}

impl<'a> Console<'a> {
    fn new(instance: &Instance, text: Option<&'a str>) -> Result<Self> {
        let map = instance.map_shared()?;
        let header = map.area().ok().and_then(|area| area.header().ok());
        Ok(Self {
            reader: header.map(|header| OutputReader::from_start(&header)),
            map,
            until: text.map(Until::new),
            found: text.is_none(),
            last: VecDeque::new(),
            line: Vec::new(),
        })
    }

    /// Takes what has come.
    fn look(&mut self) {
        let (Ok(area), Some(reader)) = (self.map.area(), &mut self.reader) else {
            return;
        };
        let mut bytes = Vec::new();
        reader.read(&area, &mut bytes);
        self.found |= self.until.as_mut().is_some_and(|until| until.found(&bytes));
        for byte in bytes {
            // A line without end is cut.
            if byte != b'\n' && self.line.len() < 1024 {
                self.line.push(byte);
                continue;
            }
            let line = String::from_utf8_lossy(&self.line).trim_end().to_owned();
            self.line.clear();
            self.last.push_back(line);
            if self.last.len() > LAST_LINES {
                self.last.pop_front();
            }
        }
    }

    /// Shows the end of it: it is gone with the instance.
    fn show_last(&self) {
        for line in &self.last {
            let plain: String = line.chars().filter(|c| !c.is_control()).collect();
            eprintln!("  | {plain}");
        }
    }

    /// What its panic said, if it did.
    fn message(&self) -> String {
        self.map
            .area()
            .map(|area| area.message())
            .unwrap_or_default()
    }
}

/// A command that says whether the new kernel's user space is up.
struct Probe<'a> {
    command: Option<&'a str>,
    instance: &'a str,
    child: Option<Child>,
}

impl<'a> Probe<'a> {
    fn new(command: Option<&'a str>, instance: &'a str) -> Self {
        Self {
            command,
            instance,
            child: None,
        }
    }

    /// Whether it has succeeded. Never waits: where it runs still, or has failed, this is asked
    /// again.
    fn succeeds(&mut self) -> bool {
        let Some(command) = self.command else {
            return true;
        };
        let Some(child) = &mut self.child else {
            self.child = Command::new("sh")
                .args(["-c", command])
                .env("MKCTL_INSTANCE", self.instance)
                .stdin(Stdio::null())
                .spawn()
                .ok();
            return false;
        };
        match child.try_wait() {
            Ok(None) => false,
            Ok(Some(status)) => {
                self.child = None;
                status.success()
            }
            Err(_) => {
                self.child = None;
                false
            }
        }
    }
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
