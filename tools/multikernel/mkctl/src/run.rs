// SPDX-License-Identifier: GPL-2.0

//! `mkctl run`: create, load and start in one, and undo all of it if a part fails.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use multikernel::device::{Host, Instance, Owner, Reason};
use multikernel::layout::Range;
use multikernel::load;
use multikernel::pool::{self, Free};
use multikernel::spec::{format_size, MemoryRequest};
use multikernel::state::Store;
use multikernel::{Error, Result};
use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

use crate::args::RunArgs;
use crate::{console, instance};

/// How often to look whether the instance still runs.
const INTERVAL: Duration = Duration::from_millis(50);

/// What has been done so far, to be undone on drop unless all went well.
struct Undo<'a> {
    host: &'a Host,
    name: &'a str,
    grown: Vec<Range>,
    instance: Option<Instance>,
    done: bool,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let report = |error| eprintln!("mkctl: while undoing: {error}");
        if let Some(instance) = self.instance.take() {
            match instance::remove(&instance, true) {
                Ok(()) => Store::default().forget(self.name),
                // Its memory cannot go back as long as it holds it.
                Err(error) => return report(error),
            }
        }
        for range in &self.grown {
            if let Err(error) = self.host.shrink(range.size, Some(range.base)) {
                report(error);
            }
        }
    }
}

/// Keeps signals that would end mkctl half-way until the step at hand is done.
#[derive(Default)]
struct Signals {
    came: Arc<AtomicBool>,
    released: Arc<AtomicBool>,
}

impl Signals {
    fn hold() -> Result<Self> {
        let signals = Self::default();
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            flag::register_conditional_default(signal, Arc::clone(&signals.released))
                .and_then(|_| flag::register(signal, Arc::clone(&signals.came)))
                .map_err(|error| Error::new("cannot watch for signals", error))?;
        }
        Ok(signals)
    }

    fn check(&self, name: &str) -> Result<()> {
        match self.came.load(Ordering::Relaxed) {
            true => Err(Error::new(
                format!("cannot run instance \"{name}\""),
                "interrupted by a signal; what had been done is undone",
            )),
            false => Ok(()),
        }
    }

    /// From here on a signal ends mkctl as usual, and leaves the instance running.
    fn release(&self) {
        self.released.store(true, Ordering::Relaxed);
    }
}

pub fn run(args: &RunArgs) -> Result<ExitCode> {
    let spec = instance::load_spec(&args.image)?;
    // Before anything is taken from the host.
    load::check(&spec)?;
    let host = Host::open()?;
    let mut undo = Undo {
        host: &host,
        name: &args.name,
        grown: Vec::new(),
        instance: None,
        done: false,
    };
    let signals = Signals::hold()?;
    let missing = pool::missing(&free(&host)?, &args.resources.memory);
    grow(&mut undo, &missing, args.json.json)?;
    signals.check(&args.name)?;
    let created = match instance::create_with(&host, &args.name, &args.resources) {
        // The pool has as much, and not in the pieces that the kernel would have liked.
        Err(error) if error.errno() == Some(libc::ENOSPC) && missing.is_empty() => {
            let all = args.resources.memory.iter().copied();
            let movable: Vec<_> = all.filter(|m| m.base.is_none()).collect();
            grow(&mut undo, &movable, args.json.json)?;
            instance::create_with(&host, &args.name, &args.resources)?
        }
        other => other?,
    };
    let created = undo.instance.insert(created);
    signals.check(&args.name)?;
    let record = instance::load_with(&host, created, &args.name, spec)?;
    signals.check(&args.name)?;
    created.start(record.loaded.argument)?;
    undo.done = true;
    signals.release();

    let Some(started) = undo.instance.take() else {
        return Ok(ExitCode::SUCCESS);
    };
    match args.json.json {
        true => println!("{}", json!({ "id": started.id(), "name": args.name })),
        false => println!("started instance \"{}\", id {}", args.name, started.id()),
    }
    if args.attach {
        console::attach(&started, console::LINGER)?;
    }
    match args.rm {
        true => wait_and_remove(&started, &args.name),
        false => Ok(ExitCode::SUCCESS),
    }
}

fn free(host: &Host) -> Result<Vec<Free>> {
    let memory = host.memory()?;
    let free = memory.iter().filter(|m| m.owner == Owner::Pool && !m.low);
    Ok(free
        .map(|memory| Free {
            range: memory.range(),
            node: memory.node.map_or(-1, |node| node as i32),
        })
        .collect())
}

fn grow(undo: &mut Undo<'_>, missing: &[MemoryRequest], json: bool) -> Result<()> {
    for request in missing {
        let base = undo.host.grow(request.bytes, request.node, request.side)?;
        undo.grown.push(Range::new(base, request.bytes));
        if !json {
            println!(
                "the pool had too little free memory: added {} at {base:#x}",
                format_size(request.bytes)
            );
        }
    }
    Ok(())
}

/// Failure if the instance did not end in order.
fn wait_and_remove(started: &Instance, name: &str) -> Result<ExitCode> {
    let reason = loop {
        let (state, reason) = started.state()?;
        if !state.is_live() {
            break reason;
        }
        thread::sleep(INTERVAL);
    };
    started.destroy()?;
    Store::default().forget(name);
    println!("instance \"{name}\" ended ({reason}) and was removed");
    Ok(match reason {
        Reason::Poweroff | Reason::Forced => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}
