// SPDX-License-Identifier: GPL-2.0

//! `mkctl handover`.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use clap::{Args, Subcommand};
use multikernel::device::{ArenaRequest, Entry, EntryKind, Host, Offer, Session};
use multikernel::spec::{self, format_size};
use multikernel::{Error, Result};
use serde_json::json;

use crate::args::{Interval, Json};
use crate::list;

#[derive(Debug, Subcommand)]
pub enum HandoverVerb {
    /// Make a session without entries in the arena of this name, on the host or in a spawn
    ///
    /// What was in the arena is lost. A spawn needs to be granted it.
    Create {
        #[arg(value_parser = spec::parse_name)]
        name: String,
        /// Make the arena as well, of this size; on the host
        #[arg(long, value_name = "SIZE", value_parser = spec::parse_memory_size)]
        size: Option<u64>,
    },
    /// List all sessions and whose they are, on the host; or the entries of one that is this
    /// kernel's
    Ls {
        #[arg(value_parser = spec::parse_name)]
        name: Option<String>,
        #[command(flatten)]
        json: Json,
    },
    /// Put standard input into a session, in the place of what the key has had
    Put(PutArgs),
    /// Write an entry of a session to standard output
    Get {
        #[arg(value_parser = spec::parse_name)]
        name: String,
        #[arg(value_parser = parse_key)]
        key: String,
    },
    /// Take an entry out of a session
    Delete {
        #[arg(value_parser = spec::parse_name)]
        name: String,
        #[arg(value_parser = parse_key)]
        key: String,
    },
    /// Offer a session to an instance, or to the host
    ///
    /// It stays this kernel's until that has taken it over, and cannot be changed meanwhile.
    Offer(OfferArgs),
    /// Take over a session that is offered to this kernel, or will be
    ///
    /// If a part fails, or this is interrupted, the session stays with its owner.
    Accept(AcceptArgs),
    /// Call off the offer of a session that is this kernel's
    Abort {
        #[arg(value_parser = spec::parse_name)]
        name: String,
    },
    /// Take a session from an instance that does not run; on the host
    Seize {
        #[arg(value_parser = spec::parse_name)]
        name: String,
    },
    /// Leave an arena without the session that is in it, which is this kernel's
    Rm {
        #[arg(value_parser = spec::parse_name)]
        name: String,
    },
}

#[derive(Args, Debug)]
pub struct PutArgs {
    #[arg(value_parser = spec::parse_name)]
    name: String,
    #[arg(value_parser = parse_key)]
    key: String,
    /// As pages, that a program can map: so many, and standard input at their beginning
    #[arg(long, value_name = "SIZE", value_parser = spec::parse_size, conflicts_with = "file")]
    pages: Option<u64>,
    /// What is in this file, of any length
    #[arg(long)]
    file: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct OfferArgs {
    #[arg(value_parser = spec::parse_name)]
    name: String,
    /// The instance
    #[arg(value_parser = spec::parse_name, required_unless_present = "host")]
    to: Option<String>,
    /// To the host, from inside a spawn
    #[arg(long, conflicts_with = "to")]
    host: bool,
    /// Wait so many seconds until it has been taken over; status 1 if it has not
    #[arg(long, value_name = "SECONDS")]
    wait: Option<Interval>,
}

#[derive(Args, Debug)]
pub struct AcceptArgs {
    #[arg(value_parser = spec::parse_name)]
    name: String,
    /// Wait so many seconds for an offer
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<Interval>,
    /// Take it over only if it has an entry of this key; may be given several times
    #[arg(long, value_name = "KEY", value_parser = parse_key)]
    expect: Vec<String>,
    /// Leave the last step to the host, and wait so many seconds for it: for 'mkctl upgrade'
    #[arg(long, value_name = "SECONDS")]
    hold: Option<Interval>,
    /// Take it over only if this command, of which what follows are the arguments, ends with
    /// status 0
    #[arg(last = true, value_name = "COMMAND")]
    check: Vec<String>,
}

/// A key of 1 to 63 bytes.
fn parse_key(text: &str) -> std::result::Result<String, String> {
    match text.len() {
        1..=63 => Ok(text.to_owned()),
        0 => Err("a key is not empty".to_owned()),
        _ => Err("a key has at most 63 bytes".to_owned()),
    }
}

pub fn handover(verb: &HandoverVerb) -> Result<()> {
    match verb {
        HandoverVerb::Create { name, size } => create(name, *size),
        HandoverVerb::Ls { name, json } => match name {
            Some(name) => entries(name, json.json),
            None => sessions(json.json),
        },
        HandoverVerb::Put(args) => put(args),
        HandoverVerb::Get { name, key } => get(name, key),
        HandoverVerb::Delete { name, key } => Session::open(name)?.delete(key),
        HandoverVerb::Offer(args) => offer(args),
        HandoverVerb::Accept(args) => accept(args),
        HandoverVerb::Abort { name } => Session::open(name)?.abort(),
        HandoverVerb::Seize { name } => Session::seize(name).map(drop),
        HandoverVerb::Rm { name } => Session::remove(name),
    }
}

fn create(name: &str, size: Option<u64>) -> Result<()> {
    let Some(bytes) = size else {
        return Session::create(name).map(drop);
    };
    let host = Host::open()?;
    drop(host.create_arena(&ArenaRequest {
        name,
        bytes,
        base: None,
        node: None,
    })?);
    let made = Session::create(name);
    if made.is_err() {
        host.remove_arena(name)?;
    }
    made.map(drop)
}

fn sessions(json: bool) -> Result<()> {
    let host = Host::open()?;
    let sessions = host.sessions()?;
    if json {
        return list::print_json(&json!(sessions));
    }
    let instances = list::all(&host)?;
    let name = |id: u32| match instances.iter().find(|it| it.id == id) {
        _ if id == 0 => "(the host)".to_owned(),
        Some(instance) => instance.name.clone(),
        // It has been removed meanwhile.
        None => format!("#{id}"),
    };
    println!(
        "{:<16} {:>9}  {:<9} {:<16} OFFERED TO",
        "NAME", "SIZE", "STATE", "OWNER"
    );
    for session in &sessions {
        println!(
            "{:<16} {:>9}  {:<9} {:<16} {}",
            session.name,
            format_size(session.bytes),
            session.state.as_str(),
            name(session.owner),
            session.to.map(name).unwrap_or_default()
        );
    }
    Ok(())
}

fn entries(name: &str, json: bool) -> Result<()> {
    let entries = Session::open(name)?.entries()?;
    if json {
        return list::print_json(&json!(entries));
    }
    print_entries(&entries);
    Ok(())
}

fn print_entries(entries: &[Entry]) {
    println!("{:<6} {:>12}  KEY", "KIND", "BYTES");
    for entry in entries {
        println!(
            "{:<6} {:>12}  {}",
            entry.kind.as_str(),
            entry.length,
            entry.key
        );
    }
}

fn put(args: &PutArgs) -> Result<()> {
    let session = Session::open(&args.name)?;
    let cannot = |error| {
        let asked = format!("cannot put \"{}\" of session \"{}\"", args.key, args.name);
        Error::new(asked, error)
    };
    if let Some(path) = &args.file {
        let file = File::open(path)
            .map_err(|error| Error::new(format!("cannot open {}", path.display()), error))?;
        return session.put_file(&args.key, &file).map(drop);
    }
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes).map_err(cannot)?;
    let Some(length) = args.pages else {
        return session.put(&args.key, &bytes);
    };
    if bytes.len() as u64 > length {
        return Err(cannot(io::Error::other(format!(
            "there are {} bytes of input, and room for {length}",
            bytes.len()
        ))));
    }
    let map = session.put_pages(&args.key, length)?;
    map.write(0, &bytes)
        .ok_or_else(|| cannot(io::Error::other("the pages are too short")))
}

fn get(name: &str, key: &str) -> Result<()> {
    let session = Session::open(name)?;
    let cannot = |error| {
        Error::new(
            format!("cannot write \"{key}\" of session \"{name}\""),
            error,
        )
    };
    let entry = session.entries()?.into_iter().find(|it| it.key == key);
    let mut output = io::stdout().lock();
    match entry.map(|entry| entry.kind) {
        Some(EntryKind::Pages) => {
            let map = session.get_pages(key, false)?;
            let mut bytes = vec![0; map.bytes()];
            map.read(0, &mut bytes)
                .ok_or_else(|| cannot(io::Error::other("the pages are too short")))?;
            output.write_all(&bytes).map_err(cannot)?;
        }
        Some(EntryKind::Memfd) => {
            let mut file = tempfile::tempfile().map_err(cannot)?;
            session.get_file(key, &file)?;
            file.rewind().map_err(cannot)?;
            io::copy(&mut file, &mut output).map_err(cannot)?;
        }
        // Also if there is none, which is said then.
        _ => output.write_all(&session.get(key)?).map_err(cannot)?,
    }
    output.flush().map_err(cannot)
}

fn offer(args: &OfferArgs) -> Result<()> {
    let session = Session::open(&args.name)?;
    session.offer(args.to.as_deref())?;
    let Some(wait) = &args.wait else {
        return Ok(());
    };
    match session.wait(wait.0)? {
        Offer::Committed => Ok(()),
        Offer::Aborted => Err(Error::new(
            format!("cannot hand over session \"{}\"", args.name),
            "the other kernel has not taken it",
        )
        .advice("It is this kernel's as before; the log of the other one says more")),
    }
}

fn accept(args: &AcceptArgs) -> Result<()> {
    let timeout = args.timeout.as_ref().map_or(Duration::ZERO, |it| it.0);
    let session = Session::accept(&args.name, timeout)?;
    let refused = |wrong: String| {
        Error::new(format!("cannot take over session \"{}\"", args.name), wrong)
            .advice("It stays with its owner")
    };
    let entries = session.entries()?;
    let missing = |key: &&String| entries.iter().all(|entry| entry.key != **key);
    if let Some(key) = args.expect.iter().find(missing) {
        return Err(refused(format!("it has no entry \"{key}\"")));
    }
    if let Some((program, arguments)) = args.check.split_first() {
        let status = Command::new(program)
            .args(arguments)
            .status()
            .map_err(|error| refused(format!("{program} could not be run: {error}")))?;
        if !status.success() {
            return Err(refused(format!("{program} ended with {status}")));
        }
    }
    let Some(hold) = &args.hold else {
        commit(&session)?;
        print_entries(&entries);
        return Ok(());
    };
    // Whoever started this knows now that only that step is missing.
    println!("accepted session \"{}\"", args.name);
    io::stdout()
        .flush()
        .map_err(|error| refused(error.to_string()))?;
    match session.wait(hold.0)? {
        Offer::Committed => {
            print_entries(&entries);
            Ok(())
        }
        Offer::Aborted => Err(refused("the offer has been called off".to_owned())),
    }
}

/// How often a commit is tried of which it is not known whether it was made.
const TRIES: usize = 4;

fn commit(session: &Session) -> Result<()> {
    for _ in 1..TRIES {
        match session.commit() {
            Err(error) if matches!(error.errno(), Some(libc::EINTR | libc::ETIMEDOUT)) => {}
            result => return result,
        }
    }
    session.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        assert!(parse_key("").is_err());
        assert!(parse_key(&"k".repeat(63)).is_ok());
        assert!(parse_key(&"k".repeat(64)).is_err());
        assert!(parse_key("any bytes: ä/").is_ok());
    }
}
