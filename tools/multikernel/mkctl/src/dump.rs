// SPDX-License-Identifier: GPL-2.0

//! `mkctl dump`: an instance's memory as a file for gdb and crash.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use multikernel::device::Host;
use multikernel::dump::{Plan, Source};
use multikernel::{Error, Result};
use tempfile::NamedTempFile;

/// How often a terminal hears how far it is.
const INTERVAL: Duration = Duration::from_millis(250);

/// A size that need not be exact.
fn about(bytes: u64) -> String {
    format!("{:.1}M", bytes as f64 / f64::from(1 << 20))
}

/// Says how far it is, on a terminal only.
struct Progress {
    total: u64,
    next: Option<Instant>,
}

impl Progress {
    fn new(total: u64) -> Self {
        let next = io::stderr()
            .is_terminal()
            .then(|| Instant::now() + INTERVAL);
        Self { total, next }
    }

    fn show(&mut self, done: u64) {
        if self.next.is_some_and(|next| Instant::now() >= next) {
            eprint!(
                "\r{}% of {}",
                done * 100 / self.total.max(1),
                about(self.total)
            );
            self.next = Some(Instant::now() + INTERVAL);
        }
        if self.next.is_some() && done == self.total {
            eprint!("\r\x1b[K");
        }
        // A terminal that is gone is no reason to stop.
        let _ = io::stderr().flush();
    }
}

pub fn dump(name: &str, path: &Path) -> Result<()> {
    let asked = || format!("cannot dump instance \"{name}\" to {}", path.display());
    if path.exists() && !path.is_file() {
        return Err(
            Error::new(asked(), "there is something that is no regular file")
                .advice("Name a file that may be replaced, or a new one"),
        );
    }
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let instance = Host::open()?.instance(name)?;
    let info = instance.info()?;
    if info.state.is_live() {
        eprintln!(
            "mkctl: it is {}: its memory changes while it is read",
            info.state
        );
    }
    let map = instance.map_shared()?;
    let area = map.area().ok();
    let source = Source::new(&info, area.as_ref());
    let plan = Plan::new(&instance, &source);

    // Readable by its owner only, and removed again if not all of it could be written.
    let mut temporary =
        NamedTempFile::new_in(folder).map_err(|error| Error::new(asked(), error))?;
    let mut progress = Progress::new(plan.memory_bytes());
    let written = plan.write(&instance, temporary.as_file_mut(), |done| {
        progress.show(done)
    })?;
    temporary
        .persist(path)
        .map_err(|error| Error::new(asked(), error.error))?;

    println!(
        "wrote {}: {} of memory, {} of it in use, registers of {} of {} CPUs",
        path.display(),
        about(plan.memory_bytes()),
        about(written),
        source.cpus.iter().flatten().count(),
        source.cpus.len()
    );
    for remark in plan.remarks() {
        println!("{remark}");
    }
    if let Some(kernel) = plan.vmcoreinfo() {
        let value = |key| kernel.get(key).unwrap_or("unknown");
        println!(
            "kernel: {}, build id {}, moved by {:#x} from the addresses in its vmlinux",
            value("OSRELEASE"),
            value("BUILD-ID"),
            kernel.kernel_offset().unwrap_or(0)
        );
    }
    let message = area.map(|area| area.message()).unwrap_or_default();
    let header = area.and_then(|area| area.header().ok());
    if let (Some(header), false) = (header, message.is_empty()) {
        let ended =
            |registers: &multikernel::shared::Registers| registers.apic_id == header.end_apic_id;
        let cpu = source
            .cpus
            .iter()
            .position(|registers| registers.as_ref().is_some_and(ended));
        match cpu {
            Some(cpu) => println!("panic on CPU {cpu} (gdb: thread {}): {message}", cpu + 1),
            None => println!("panic: {message}"),
        }
    }
    Ok(())
}
