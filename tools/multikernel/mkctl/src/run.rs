// SPDX-License-Identifier: GPL-2.0

//! `mkctl run`: create, load and start in one, and undo all of it if a part fails.

use std::process::ExitCode;
use std::time::Duration;

use multikernel::device::{Host, Instance, Owner};
use multikernel::layout::Range;
use multikernel::load;
use multikernel::pool::{self, Free};
use multikernel::restart::Policy;
use multikernel::spec::{format_size, MemoryRequest};
use multikernel::state::Store;
use multikernel::{Error, Result};
use serde_json::json;

use crate::args::RunArgs;
use crate::signals::Signals;
use crate::supervise::Supervisor;
use crate::{console, instance};

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

fn check(signals: &Signals, name: &str) -> Result<()> {
    match signals.came() {
        true => Err(Error::new(
            format!("cannot run instance \"{name}\""),
            "interrupted by a signal; what had been done is undone",
        )),
        false => Ok(()),
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
    check(&signals, &args.name)?;
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
    check(&signals, &args.name)?;
    instance::grant_pmem(&host, created, &spec)?;
    let record = instance::load_with(&host, created, &args.name, spec)?;
    check(&signals, &args.name)?;
    load::start(
        &host,
        created,
        &record.spec,
        &record.loaded,
        args.hang_timeout,
    )?;

    let stays = args.rm || args.restart != Policy::Never;
    undo.done = !args.rm;
    match args.json.json {
        true => println!("{}", json!({ "id": created.id(), "name": args.name })),
        false => println!("started instance \"{}\", id {}", args.name, created.id()),
    }
    if args.attach || !stays {
        // From here on a signal ends mkctl as usual, and leaves the instance running.
        undo.done = true;
        signals.release(true);
    }
    if args.attach {
        console::attach(created, console::LINGER)?;
        signals.release(false);
    }
    if !stays {
        return Ok(ExitCode::SUCCESS);
    }
    let outcome = Supervisor {
        host: &host,
        instance: created,
        name: &args.name,
        spec: record.spec,
        policy: args.restart,
        limit: args.restart_limit,
        hang: args.hang_timeout,
        stop_timeout: Duration::from_secs(args.stop_timeout),
        signals: &signals,
    }
    .run()?;
    undo.done = !(args.rm && outcome.ours);
    if !undo.done {
        println!("removing instance \"{}\"", args.name);
    }
    Ok(outcome.status)
}

pub fn free(host: &Host) -> Result<Vec<Free>> {
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
