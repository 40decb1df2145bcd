// SPDX-License-Identifier: GPL-2.0

//! Arenas that an instance's kernel finds as persistent memory.
//!
//! The host's kernel knows grants and nothing of this: a spawn is told of an arena by its memory
//! map and ACPI tables, and uses it as RAM that keeps what is in it. So it has to be the instance's
//! to write to, and where the tables say, from when they are made until the instance has stopped.
//! While it runs, the grant sees to that; before, an open file does.

use crate::boot::Memory;
use crate::device::{Arena, ArenaInfo, Host, Instance};
use crate::layout::Range;
use crate::{Error, Result};

/// Arenas of one instance, kept where they are until this is dropped.
#[derive(Debug)]
pub struct Pmem {
    arenas: Vec<Arena>,
    memory: Vec<Memory>,
}

/// Where the arena of this name is, if the instance may write to it.
fn find(all: &[ArenaInfo], name: &str, id: u32, instance: &str) -> Result<Memory> {
    let refuse = |wrong: &str, advice: String| {
        let asked =
            format!("cannot have arena \"{name}\" as persistent memory of instance \"{instance}\"");
        Err(Error::new(asked, wrong).advice(advice))
    };
    let Some(arena) = all.iter().find(|arena| arena.name == name) else {
        return refuse(
            "there is no such arena",
            format!("'mkctl arena create {name} SIZE' makes one"),
        );
    };
    let grant = arena.grants.iter().find(|grant| grant.id == id);
    match grant {
        Some(grant) if !grant.read_only => Ok(Memory {
            range: Range::new(arena.base, arena.size),
            node: arena.node,
        }),
        _ => refuse(
            "it is not granted to the instance to be written to",
            format!("'mkctl arena grant {name} {instance}' does that"),
        ),
    }
}

impl Pmem {
    /// Opens the arenas of these names, and looks up where they are.
    ///
    /// # Errors
    ///
    /// One of them does not exist, is named twice, or is not granted to the instance to be written
    /// to; and those of [`Arena::open`].
    pub fn hold(host: &Host, instance: &Instance, names: &[String]) -> Result<Self> {
        let twice = |(at, name): (usize, &String)| names[..at].contains(name).then(|| name.clone());
        if let Some(name) = names.iter().enumerate().find_map(twice) {
            return Err(Error::new(
                format!("cannot have arena \"{name}\" as persistent memory"),
                "it is named twice",
            ));
        }
        // Before it is looked where they are.
        let arenas = names
            .iter()
            .map(|name| Arena::open(name, true))
            .collect::<Result<_>>()?;
        let mut pmem = Self {
            arenas,
            memory: Vec::new(),
        };
        pmem.memory = pmem.find(host, instance)?;
        Ok(pmem)
    }

    fn find(&self, host: &Host, instance: &Instance) -> Result<Vec<Memory>> {
        // A kernel without arenas starts instances without.
        if self.arenas.is_empty() {
            return Ok(Vec::new());
        }
        let all = host.arenas()?;
        self.arenas
            .iter()
            .map(|arena| find(&all, arena.name(), instance.id(), instance.name()))
            .collect()
    }

    /// Where they are, in order.
    pub fn memory(&self) -> &[Memory] {
        &self.memory
    }

    /// The same without their nodes.
    pub fn ranges(&self) -> Vec<Range> {
        self.memory.iter().map(|memory| memory.range).collect()
    }

    /// Sees whether they are still granted.
    ///
    /// # Errors
    ///
    /// As for [`Self::hold`].
    pub fn confirm(&self, host: &Host, instance: &Instance) -> Result<()> {
        self.find(host, instance).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::ArenaGrant;

    #[test]
    fn only_what_the_instance_may_write_to() {
        let arena = |name: &str, grants: Vec<ArenaGrant>| ArenaInfo {
            name: name.into(),
            id: 1,
            base: 1 << 30,
            size: 2 << 20,
            node: Some(1),
            files: 0,
            grants,
        };
        let grant = |id, read_only| ArenaGrant { id, read_only };
        let all = [
            arena("mine", vec![grant(4, true), grant(3, false)]),
            arena("read", vec![grant(3, true)]),
            arena("other", vec![grant(4, false)]),
        ];
        let found = find(&all, "mine", 3, "web").unwrap();
        assert_eq!(found.range, Range::new(1 << 30, 2 << 20));
        assert_eq!(found.node, Some(1));
        for name in ["read", "other"] {
            let error = find(&all, name, 3, "web").unwrap_err().to_string();
            assert!(error.contains("not granted"), "{error}");
            assert!(error.contains(&format!("mkctl arena grant {name} web")));
        }
        let error = find(&all, "none", 3, "web").unwrap_err().to_string();
        assert!(error.contains("there is no such arena"), "{error}");
    }
}
