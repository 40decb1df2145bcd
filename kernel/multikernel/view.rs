// SPDX-License-Identifier: GPL-2.0

//! What debugfs shows: `/sys/kernel/debug/multikernel/{ledger,instances,links,vsock}`, read-only
//! text.
//!
//! Takes the registry's mutex, or an inbox's lock, for the time of one read. Nothing depends on the
//! format.

use kernel::{
    debugfs::{Dir, File},
    fmt,
    prelude::*,
    str::CStr,
    sync::SetOnce,
    uapi, //
};

use crate::{
    bench::Bench,
    cpu_ledger::CpuOwner,
    fault::Knobs,
    ledger::{Entry, Owner},
    link::{
        inbox,
        stats,
        tune, //
    },
    registry::Subsystem, //
};

/// The files, which live as long as this does.
#[pin_data]
pub(crate) struct View {
    #[pin]
    ledger: File<Ledger>,
    #[pin]
    instances: File<Instances>,
    #[pin]
    links: File<Links>,
    #[pin]
    vsock: File<Vsock>,
    _knobs: Knobs,
    _bench: Bench,
    _settings: tune::Knobs,
    _directory: Dir,
}

impl View {
    /// Creates the files.
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        let directory = directory();
        try_pin_init!(Self {
            ledger <- directory.read_only_file(Self::LEDGER, Ledger),
            instances <- directory.read_only_file(Self::INSTANCES, Instances),
            links <- directory.read_only_file(Self::LINKS, Links),
            vsock <- directory.read_only_file(Self::VSOCK, Vsock),
            _knobs: Knobs::new(&directory)?,
            _bench: Bench::new(&directory)?,
            _settings: tune::Knobs::new(&directory)?,
            _directory: directory.clone(),
        })
    }

    const LEDGER: &'static CStr = c"ledger";
    const INSTANCES: &'static CStr = c"instances";
    const LINKS: &'static CStr = c"links";
    const VSOCK: &'static CStr = c"vsock";
}

/// The directory of everything that this kernel shows.
pub(crate) fn directory() -> Dir {
    static DIRECTORY: SetOnce<Dir> = SetOnce::new();

    if DIRECTORY.as_ref().is_none() {
        // During boot, where initcalls come one after another.
        DIRECTORY.populate(Dir::new(c"multikernel"));
    }
    DIRECTORY
        .as_ref()
        .cloned()
        .unwrap_or_else(|| Dir::new(c"multikernel"))
}

struct Links;

impl kernel::debugfs::Writer for Links {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for link in &inbox::links().map_err(|_| fmt::Error)? {
            let stats = stats::of(link).map_err(|_| fmt::Error)?;
            writeln!(
                f,
                "{} epoch {} minor {} {} sent {} rung {} stalls {} received {} undeliverable {} \
                 broken {}",
                stats.peer,
                stats.epoch,
                link.region.minor(link.peer()),
                match stats.state {
                    uapi::MULTIKERNEL_PEER_UP => "up",
                    _ => "down",
                },
                stats.sum(false, |lane| lane.messages),
                stats.rung(),
                stats.sum(false, |lane| lane.stalls),
                stats.sum(true, |lane| lane.messages),
                stats.undeliverable,
                stats.broken,
            )?;
        }
        let Ok(subsystem) = Subsystem::get() else {
            return Ok(());
        };
        for listed in subsystem.lock().grants.list() {
            let ids = listed.ids;
            let standing = listed.standing;
            writeln!(
                f,
                "{}-{} epoch {} {:?}",
                ids[0], ids[1], listed.epoch, standing
            )?;
        }
        Ok(())
    }
}

struct Vsock;

impl kernel::debugfs::Writer for Vsock {
    #[cfg(CONFIG_MULTIKERNEL_VSOCK)]
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use kernel::sync::atomic::Relaxed;

        for peer in &crate::link::vsock::peers().map_err(|_| fmt::Error)? {
            let counters = &peer.counters;
            writeln!(
                f,
                "{} sent {} received {} stalls {} waiting {} wrong {}",
                peer.cid,
                counters.sent.load(Relaxed),
                counters.received.load(Relaxed),
                counters.stalls.load(Relaxed),
                peer.waiting(),
                counters.wrong.load(Relaxed),
            )?;
        }
        Ok(())
    }

    #[cfg(not(CONFIG_MULTIKERNEL_VSOCK))]
    fn write(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

struct Ledger;

fn write_range(f: &mut fmt::Formatter<'_>, entry: &Entry) -> fmt::Result {
    write!(
        f,
        "{:#014x}-{:#014x} {:>8} KiB node {}",
        entry.base,
        entry.base + entry.size - 1,
        entry.size >> 10,
        entry.nid
    )?;
    if entry.boot {
        write!(f, " boot")?;
    }
    match entry.owner {
        Owner::Pool => writeln!(f, " pool"),
        Owner::Instance(id) => writeln!(f, " instance {}", id.get()),
        Owner::Arena(id) => writeln!(f, " arena {}", id.get()),
    }
}

impl kernel::debugfs::Writer for Ledger {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ok(subsystem) = Subsystem::get() else {
            return Ok(());
        };
        let registry = subsystem.lock();
        for entry in registry.low.entries() {
            write!(f, "low    ")?;
            write_range(f, entry)?;
        }
        for entry in registry.memory.entries() {
            write!(f, "memory ")?;
            write_range(f, entry)?;
        }
        for arena in registry.arenas.list() {
            let (place, files) = (arena.place(), arena.files());
            write!(f, "arena  {} {}", place.id.get(), arena.name.as_str())?;
            write!(f, " files {files}")?;
            let grants = registry.arenas.grants().iter();
            for grant in grants.filter(|grant| grant.arena == place.id) {
                let rights = if grant.writable { "rw" } else { "ro" };
                write!(f, " instance {} {rights}", grant.holder.id.get())?;
            }
            writeln!(f)?;
        }
        for cpu in 0..kernel::cpu::nr_cpu_ids() {
            let owner = match registry.cpus.owner(cpu) {
                None => continue,
                Some(CpuOwner::Lending(id)) => ("lending to", id),
                Some(CpuOwner::Instance(id)) => ("instance", id),
                Some(CpuOwner::Returning(id)) => ("returning from", id),
            };
            writeln!(f, "cpu    {} {} {}", cpu, owner.0, owner.1.get())?;
        }
        Ok(())
    }
}

struct Instances;

impl kernel::debugfs::Writer for Instances {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ok(subsystem) = Subsystem::get() else {
            return Ok(());
        };
        let registry = subsystem.lock();
        for instance in &registry.instances {
            writeln!(
                f,
                "{} {} {:?} reason {:?} epoch {}{}",
                instance.id.get(),
                instance.name.as_str(),
                instance.state,
                instance.reason,
                instance.epoch,
                if instance.holdings.is_none() {
                    " busy"
                } else {
                    ""
                }
            )?;
        }
        Ok(())
    }
}
