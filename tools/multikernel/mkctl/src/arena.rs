// SPDX-License-Identifier: GPL-2.0

//! `mkctl arena`.

use std::io::{self, Read, Write};

use multikernel::device::{Arena, ArenaRequest, Host};
use multikernel::spec::format_size;
use multikernel::{Error, Result};
use serde_json::json;

use crate::args::ArenaVerb;
use crate::list;

/// What is copied at once.
const CHUNK: usize = 1 << 20;

pub fn arena(verb: &ArenaVerb) -> Result<()> {
    match verb {
        ArenaVerb::Create {
            name,
            size,
            node,
            base,
        } => {
            Host::open()?.create_arena(&ArenaRequest {
                name,
                bytes: *size,
                base: *base,
                node: *node,
            })?;
            Ok(())
        }
        ArenaVerb::Ls { json } => ls(json.json),
        ArenaVerb::Grant {
            name,
            instance,
            read_only,
        } => {
            let host = Host::open()?;
            let id = host.instance(instance)?.id();
            host.grant_arena(name, id, *read_only)
        }
        ArenaVerb::Revoke { name, instance } => {
            let host = Host::open()?;
            let id = host.instance(instance)?.id();
            host.revoke_arena(name, id)
        }
        ArenaVerb::Resize { name, size } => Host::open()?.resize_arena(name, *size),
        ArenaVerb::Rm { name } => Host::open()?.remove_arena(name),
        ArenaVerb::Read {
            name,
            offset,
            length,
        } => read(name, *offset, *length),
        ArenaVerb::Write { name, offset } => write(name, *offset),
    }
}

fn ls(json: bool) -> Result<()> {
    let host = Host::open()?;
    let arenas = host.arenas()?;
    if json {
        return list::print_json(&json!(arenas));
    }
    let instances = list::all(&host)?;
    println!(
        "{:<19} {:>9}  {:<5} {:>5}  {:<16} GRANTED TO",
        "ADDRESS", "SIZE", "NODE", "FILES", "NAME"
    );
    for arena in &arenas {
        let granted = arena.grants.iter().filter_map(|grant| {
            let rights = if grant.read_only { " (read-only)" } else { "" };
            // One that has been removed meanwhile has no grants any more.
            let instance = instances.iter().find(|it| it.id == grant.id)?;
            Some(format!("{}{rights}", instance.name))
        });
        println!(
            "{:<#19x} {:>9}  {:<5} {:>5}  {:<16} {}",
            arena.base,
            format_size(arena.size),
            list::node(arena.node),
            arena.files,
            arena.name,
            granted.collect::<Vec<_>>().join(", ")
        );
    }
    Ok(())
}

fn outside(what: &str, arena: &Arena) -> Error {
    Error::new(
        format!("cannot {what} arena \"{}\"", arena.name()),
        format!("it has only {} bytes", arena.bytes()),
    )
}

fn read(name: &str, offset: u64, length: Option<u64>) -> Result<()> {
    let arena = Arena::open(name, true)?;
    let length = length.unwrap_or(arena.bytes().saturating_sub(offset));
    let end = offset.checked_add(length);
    let end = end.filter(|end| *end <= arena.bytes());
    let (end, map) = (end.ok_or_else(|| outside("read", &arena))?, arena.map()?);
    let mut buffer = vec![0; CHUNK];
    let mut at = offset;
    let mut output = io::stdout().lock();
    let cannot = |error| Error::new(format!("cannot write what is in arena \"{name}\""), error);
    while at < end {
        let part = &mut buffer[..CHUNK.min((end - at) as usize)];
        map.read(at as usize, part)
            .ok_or_else(|| outside("read", &arena))?;
        output.write_all(part).map_err(cannot)?;
        at += part.len() as u64;
    }
    output.flush().map_err(cannot)
}

fn write(name: &str, offset: u64) -> Result<()> {
    let arena = Arena::open(name, false)?;
    let map = arena.map()?;
    let mut buffer = vec![0; CHUNK];
    let mut at = offset;
    let mut input = io::stdin().lock();
    loop {
        let count = input
            .read(&mut buffer)
            .map_err(|error| Error::new(format!("cannot fill arena \"{name}\""), error))?;
        if count == 0 {
            return Ok(());
        }
        usize::try_from(at)
            .ok()
            .and_then(|at| map.write(at, &buffer[..count]))
            .ok_or_else(|| outside("write to", &arena))?;
        at += count as u64;
    }
}
