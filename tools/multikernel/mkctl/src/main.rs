// SPDX-License-Identifier: GPL-2.0

//! mkctl: create, load, start, watch and stop multikernel instances.
//!
//! A thin face of the `multikernel` library: each verb is a few calls of it and what is printed.

/// Prints a line of what happens meanwhile: that nobody reads it is no reason to stop.
macro_rules! say {
    ($($arguments:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($arguments)*);
    }};
}

mod arena;
mod args;
mod console;
mod cpu;
mod dump;
mod events;
mod handover;
mod instance;
mod link;
mod list;
mod ping;
mod pool;
mod port;
mod run;
mod signals;
mod supervise;
mod top;
mod upgrade;

use std::process::ExitCode;

use clap::Parser;
use multikernel::Result;

use args::{Cli, CpuVerb, PoolVerb, Verb};

fn main() -> ExitCode {
    // clap ends a wrong command line with status 2 by itself.
    let cli = Cli::parse();
    match dispatch(cli.verb) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("mkctl: {error}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(verb: Verb) -> Result<ExitCode> {
    let done = match verb {
        Verb::Doctor { json } => return list::doctor(json.json),
        Verb::Pool { verb, json } => match verb {
            None => list::pool(json.json),
            Some(PoolVerb::Show { json: inner }) => list::pool(json.json || inner.json),
            Some(PoolVerb::Grow {
                size,
                node,
                below_4g,
                above_4g,
            }) => pool::grow(size, node, below_4g, above_4g),
            Some(PoolVerb::Shrink { size, base }) => pool::shrink(size, base),
        },
        Verb::Create {
            name,
            resources,
            json,
        } => instance::create(&name, &resources, json.json),
        Verb::Load { name, image } => instance::load(&name, &image),
        Verb::Unload { name } => instance::unload(&name),
        Verb::Start { name, hang_timeout } => instance::start(&name, hang_timeout),
        Verb::Stop {
            name,
            timeout,
            no_force,
        } => instance::stop(&name, timeout, !no_force),
        Verb::Kill { name } => instance::kill(&name),
        Verb::Rm { name, force } => instance::rm(&name, force),
        Verb::Link { one, other } => link::link(&one, &other),
        Verb::Unlink { one, other } => link::unlink(&one, &other),
        Verb::Ps { json } => list::ps(json.json),
        Verb::Inspect { name, json } => list::inspect(&name, json.json),
        Verb::Events(args) => return events::events(&args),
        Verb::Dump { name, file } => dump::dump(&name, &file),
        Verb::Logs(args) => return console::logs(&args),
        Verb::Console { name, linger } => console::attach_by_name(&name, linger),
        Verb::Ping(args) => return ping::ping(&args),
        Verb::Send(args) => return port::send(&args),
        Verb::Recv(args) => return port::recv(&args),
        Verb::Arena { verb } => arena::arena(&verb),
        Verb::Handover { verb } => handover::handover(&verb),
        Verb::Cpu {
            verb: CpuVerb::Add { name, cpus, from },
        } => cpu::add(&name, &cpus, from.as_deref()),
        Verb::Upgrade(args) => return upgrade::upgrade(&args),
        Verb::Top(args) => top::top(&args),
        Verb::Run(args) => return run::run(&args),
    };
    done.map(|()| ExitCode::SUCCESS)
}
