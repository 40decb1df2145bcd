// SPDX-License-Identifier: GPL-2.0

//! Verbs that show: `doctor`, `pool`, `ps`, `inspect`.

use std::process::ExitCode;

use multikernel::device::{
    ArenaInfo, CpuInfo, Host, Instance, InstanceInfo, LinkInfo, LinkState, MemoryInfo, Owner,
};
use multikernel::doctor::{Check, Doctor, Level};
use multikernel::shared::{Beat, Header};
use multikernel::spec::{format_size, CpuList};
use multikernel::state::{Record, Store};
use multikernel::{Error, Result};
use serde::Serialize;
use serde_json::json;

pub fn print_json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Error::new("cannot print JSON", error))?;
    println!("{text}");
    Ok(())
}

fn print_checks(checks: &[Check]) {
    for check in checks {
        let level = match check.level {
            Level::Ok => "ok",
            Level::Note => "note",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        println!("{level:<5}{:<15} {}", check.name, check.found);
        if let Some(advice) = &check.advice {
            println!("{:21}{advice}", "");
        }
    }
}

pub fn doctor(json: bool) -> Result<ExitCode> {
    let doctor = Doctor::default();
    let (checks, hazards) = (doctor.checks(), doctor.hazards());
    let worst = checks.iter().map(|check| check.level).max();
    let fit = worst != Some(Level::Fail);
    if json {
        print_json(&json!({ "fit": fit, "checks": checks, "hazards": hazards }))?;
    } else {
        print_checks(&checks);
        println!();
        println!("What several kernels on one machine could do to each other:");
        print_checks(&hazards);
        println!();
        match fit {
            true => println!("This machine can run instances."),
            false => println!("This machine cannot run instances yet: see the lines with FAIL."),
        }
    }
    Ok(match fit {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Who has it, in one word.
fn owner(owner: Owner, id: u32, names: &[InstanceInfo], arenas: &[ArenaInfo]) -> String {
    let name = match owner {
        Owner::Instance => names.iter().find(|it| it.id == id).map(|it| &it.name),
        Owner::Arena => arenas.iter().find(|it| it.id == id).map(|it| &it.name),
        _ => return owner.to_string(),
    };
    match name {
        Some(name) => format!("{owner} {name}"),
        None => format!("{owner} #{id}"),
    }
}

pub fn node(node: Option<u32>) -> String {
    node.map_or_else(|| "-".to_owned(), |node| node.to_string())
}

pub fn pool(json: bool) -> Result<()> {
    let host = Host::open()?;
    let info = host.info()?;
    let memory = host.memory()?;
    let cpus = host.cpus()?;
    if json {
        return print_json(&json!({ "host": info, "memory": memory, "cpus": cpus }));
    }
    let instances = all(&host)?;
    let arenas = host.arenas()?;
    let high: Vec<&MemoryInfo> = memory.iter().filter(|memory| !memory.low).collect();
    let sum = |owner| -> u64 {
        let those = high.iter().filter(|memory| memory.owner == owner);
        those.map(|memory| memory.size).sum()
    };
    println!(
        "pool: {} free, {} lent, {} in arenas; the subsystem itself takes {}",
        format_size(sum(Owner::Pool)),
        format_size(sum(Owner::Instance)),
        format_size(sum(Owner::Arena)),
        format_size(info.kernel_bytes)
    );
    println!();
    println!("{:<19} {:>9}  {:<5} OWNER", "MEMORY", "SIZE", "NODE");
    for memory in &memory {
        let note = match (memory.boot, memory.low) {
            (_, true) => " (below 1 MiB)",
            (true, _) => " (from reserve_mem=)",
            _ => "",
        };
        println!(
            "{:<#19x} {:>9}  {:<5} {}{note}",
            memory.base,
            format_size(memory.size),
            node(memory.node),
            owner(memory.owner, memory.id, &instances, &arenas)
        );
    }
    println!();
    println!(
        "{:<5} {:>7}  {:<5} {:<8} OWNER",
        "CPU", "APIC ID", "NODE", "ONLINE"
    );
    for cpu in &cpus {
        println!(
            "{:<5} {:>7}  {:<5} {:<8} {}",
            cpu.cpu,
            cpu.apic_id,
            node(cpu.node),
            if cpu.online { "yes" } else { "no" },
            owner(cpu.owner, cpu.id, &instances, &arenas)
        );
    }
    Ok(())
}

/// All instances that are not removed meanwhile.
pub fn all(host: &Host) -> Result<Vec<InstanceInfo>> {
    Ok(all_open(host)?.into_iter().map(|(_, info)| info).collect())
}

fn all_open(host: &Host) -> Result<Vec<(Instance, InstanceInfo)>> {
    let mut instances = Vec::new();
    for id in host.instances()? {
        // One that has been removed meanwhile is not to be listed.
        if let Some(instance) = host.instance_by_id(id)? {
            match instance.info() {
                Ok(info) => instances.push((instance, info)),
                Err(error) if error.errno() == Some(libc::ESTALE) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(instances)
}

fn cpu_list(cpus: &[CpuInfo]) -> String {
    CpuList(cpus.iter().map(|cpu| cpu.cpu).collect()).to_string()
}

/// What the spawn itself says, as far as it says anything.
#[derive(Serialize)]
struct Guest {
    state: &'static str,
    cpus: u32,
    /// What its panic said; empty if there was none.
    message: String,
    /// The CPU that panicked, by its APIC id.
    #[serde(skip_serializing_if = "Option::is_none")]
    end_apic_id: Option<u32>,
    /// How often the host's doorbell rang on each of its CPUs.
    beats: Vec<u64>,
}

impl Guest {
    fn new(instance: &Instance, info: &InstanceInfo) -> Option<Self> {
        let map = instance.map_shared().ok()?;
        let area = map.area().ok()?;
        let header: Header = area.header().ok()?;
        let message = area.message();
        let beats = (0..info.cpus.len()).map_while(|cpu| area.beat(cpu));
        Some(Self {
            state: guest_state(header.guest_state),
            cpus: header.guest_cpus,
            end_apic_id: (!message.is_empty()).then_some(header.end_apic_id),
            message,
            beats: beats.map(|beat: Beat| beat.beats).collect(),
        })
    }
}

/// A link of an instance to another one.
#[derive(Serialize)]
struct Linked {
    /// The other one's name.
    to: String,
    state: LinkState,
    epoch: u32,
}

impl Linked {
    /// Those of an instance.
    fn of(id: u32, links: &[LinkInfo], names: &[InstanceInfo]) -> Vec<Self> {
        let of_peer = |link: &LinkInfo| {
            let peer = link.peer_of(id)?;
            let info = names.iter().find(|info| info.id == peer);
            Some(Self {
                // It may have been made since.
                to: info.map_or_else(|| format!("#{peer}"), |info| info.name.clone()),
                state: link.state,
                epoch: link.epoch,
            })
        };
        links.iter().filter_map(of_peer).collect()
    }
}

/// An instance with what is remembered of it, and what it says.
#[derive(Serialize)]
struct Entry {
    #[serde(flatten)]
    info: InstanceInfo,
    image: Option<Record>,
    guest: Option<Guest>,
    links: Vec<Linked>,
}

impl Entry {
    fn new(instance: &Instance, info: InstanceInfo, links: Vec<Linked>) -> Self {
        let image = Store::default().get(&info.name, info.id);
        let guest = Guest::new(instance, &info);
        Self {
            info,
            image,
            guest,
            links,
        }
    }

    /// What its panic said.
    fn message(&self) -> &str {
        self.guest.as_ref().map_or("", |guest| &guest.message)
    }

    fn kernel(&self) -> String {
        match &self.image {
            Some(record) => record.spec.kernel.display().to_string(),
            None => "-".to_owned(),
        }
    }
}

pub fn ps(json: bool) -> Result<()> {
    let host = Host::open()?;
    let links = host.links()?;
    let open = all_open(&host)?;
    let infos: Vec<InstanceInfo> = open.iter().map(|(_, info)| info.clone()).collect();
    let entries: Vec<Entry> = open
        .into_iter()
        .map(|(instance, info)| {
            let links = Linked::of(info.id, &links, &infos);
            Entry::new(&instance, info, links)
        })
        .collect();
    if json {
        return print_json(&entries);
    }
    println!(
        "{:<5} {:<16} {:<9} {:<11} {:<9} {:>9}  {:>6}  KERNEL",
        "ID", "NAME", "STATE", "REASON", "CPUS", "MEMORY", "STARTS"
    );
    for entry in &entries {
        let info = &entry.info;
        let message = match entry.message() {
            "" => String::new(),
            message => format!("  \"{message}\""),
        };
        println!(
            "{:<5} {:<16} {:<9} {:<11} {:<9} {:>9}  {:>6}  {}{message}",
            info.id,
            info.name,
            info.state,
            info.reason,
            cpu_list(&info.cpus),
            format_size(info.memory_bytes()),
            info.epoch,
            entry.kernel()
        );
    }
    Ok(())
}

pub fn inspect(name: &str, json: bool) -> Result<()> {
    let host = Host::open()?;
    let instance = host.instance(name)?;
    let info = instance.info()?;
    let links = Linked::of(info.id, &host.links()?, &all(&host)?);
    let entry = Entry::new(&instance, info, links);
    if json {
        return print_json(&entry);
    }
    let info = &entry.info;
    let line = |key: &str, value: String| println!("{key:<14} {value}");
    line("name", info.name.clone());
    line("id", info.id.to_string());
    line("state", info.state.to_string());
    line("reason", info.reason.to_string());
    if !entry.message().is_empty() {
        line("message", entry.message().to_owned());
    }
    line("starts", info.epoch.to_string());
    if let Some(hang) = info.hang_timeout {
        line("hang timeout", hang.to_string());
    }
    line("cpus", cpu_list(&info.cpus));
    let apic_ids: Vec<_> = info
        .cpus
        .iter()
        .map(|cpu| cpu.apic_id.to_string())
        .collect();
    line("APIC ids", apic_ids.join(","));
    for memory in &info.memory {
        let key = if memory.low { "low memory" } else { "memory" };
        let on = memory
            .node
            .map_or_else(String::new, |node| format!(" on node {node}"));
        line(
            key,
            format!("{} at {:#x}{on}", format_size(memory.size), memory.base),
        );
    }
    line(
        "shared area",
        format!(
            "{} at {:#x}",
            format_size(info.shared_size),
            info.shared_base
        ),
    );
    if let Some(record) = &entry.image {
        line(
            "kernel",
            format!("{} ({})", entry.kernel(), record.loaded.format),
        );
        if let Some(initrd) = &record.spec.initrd {
            line("initrd", initrd.display().to_string());
        }
        line("command line", record.loaded.command_line.clone());
    }
    if info.entry != 0 {
        line(
            "image",
            format!("{} bytes, entry {:#x}", info.image_bytes, info.entry),
        );
    }
    for link in &entry.links {
        line(
            "link",
            match link.epoch {
                0 => format!("to {}, {}", link.to, link.state),
                epoch => format!("to {}, {}, epoch {epoch}", link.to, link.state),
            },
        );
    }
    if let Some(guest) = &entry.guest {
        line("guest state", guest.state.to_owned());
        line("guest CPUs", guest.cpus.to_string());
        if let Some(apic_id) = guest.end_apic_id {
            line("ended by", format!("the CPU with APIC id {apic_id}"));
        }
        let beats: Vec<_> = guest.beats.iter().map(u64::to_string).collect();
        line("beats", beats.join(","));
    }
    Ok(())
}

fn guest_state(state: u32) -> &'static str {
    use multikernel::abi;
    match state {
        abi::GUEST_SILENT => "silent (no guest support, or not up yet)",
        abi::GUEST_RUNNING => "running",
        abi::GUEST_POWEROFF => "powered off",
        abi::GUEST_RESTART => "asked for a restart",
        abi::GUEST_PANIC => "panicked",
        _ => "unknown",
    }
}
