// SPDX-License-Identifier: GPL-2.0

//! What debugfs shows: `/sys/kernel/debug/multikernel/{ledger,instances}`, read-only text.
//!
//! Takes the registry's mutex for the time of one read. Nothing depends on the format.

use kernel::{
    debugfs::{Dir, File},
    fmt,
    prelude::*,
    str::CStr, //
};

use crate::{
    cpu_ledger::CpuOwner,
    fault::Knobs,
    ledger::{Entry, Owner},
    registry::Subsystem, //
};

/// The files, which live as long as this does.
#[pin_data]
pub(crate) struct View {
    #[pin]
    ledger: File<Ledger>,
    #[pin]
    instances: File<Instances>,
    _knobs: Knobs,
    _directory: Dir,
}

impl View {
    /// Creates the files.
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        let directory = Dir::new(c"multikernel");
        try_pin_init!(Self {
            ledger <- directory.read_only_file(Self::LEDGER, Ledger),
            instances <- directory.read_only_file(Self::INSTANCES, Instances),
            _knobs: Knobs::new(&directory)?,
            _directory: directory.clone(),
        })
    }

    const LEDGER: &'static CStr = c"ledger";
    const INSTANCES: &'static CStr = c"instances";
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
