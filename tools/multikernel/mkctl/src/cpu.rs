// SPDX-License-Identifier: GPL-2.0

//! `mkctl cpu`: CPUs for an instance that is there already.

use std::time::{Duration, Instant};

use multikernel::device::{Host, Instance, InstanceInfo};
use multikernel::spec::CpuList;
use multikernel::state::Store;
use multikernel::{Error, Result};

/// How long a kernel has to bring CPUs online: its hotplug code gives each ten seconds.
const ONLINE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long somebody else may have one of the two instances in hand.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// How long to wait before the next try then.
const BUSY_INTERVAL: Duration = Duration::from_millis(10);

/// Moves CPUs from an instance that does not run, which somebody else may have in hand for a
/// moment.
pub fn take_from(instance: &Instance, cpus: &CpuList, from: u32) -> Result<()> {
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        match instance.add_cpus(cpus, Some(from)) {
            Err(error)
                if matches!(error.errno(), Some(libc::EBUSY | libc::EINTR))
                    && Instant::now() < deadline =>
            {
                std::thread::sleep(BUSY_INTERVAL);
            }
            other => return other,
        }
    }
}

/// Tells the kernel that runs in an instance which of its CPUs it may start; `false` if it has no
/// ear for it.
pub fn tell(instance: &Instance, info: &InstanceInfo, cpus: &CpuList) -> Result<bool> {
    let those = info.cpus.iter().filter(|cpu| cpus.0.contains(&cpu.cpu));
    let apic_ids: Vec<_> = those.map(|cpu| cpu.apic_id).collect();
    match instance.tell_cpus(&apic_ids, ONLINE_TIMEOUT) {
        Ok(()) => Ok(true),
        Err(error)
            if matches!(
                error.errno(),
                Some(libc::ECONNREFUSED | libc::ENOTCONN | libc::EOPNOTSUPP)
            ) =>
        {
            Ok(false)
        }
        Err(error) => Err(Error::new(
            format!(
                "instance \"{}\" has CPUs {cpus} now, but its kernel did not bring them online",
                instance.name()
            ),
            &error,
        )
        .with_errno(error.errno().unwrap_or(0))),
    }
}

/// What is to be done where [`tell`] could tell nobody.
pub const BY_HAND: &str = "its kernel cannot be told: for each of them write 1 to \
                           /sys/devices/system/cpu/cpuN/online in it, N as it numbers them";

pub fn add(name: &str, cpus: &CpuList, from: Option<&str>) -> Result<()> {
    let host = Host::open()?;
    let instance = host.instance(name)?;
    let info = instance.info()?;
    let has = |cpu: &u32| info.cpus.iter().any(|own| own.cpu == *cpu);
    // What an earlier call has given already, only the kernel is told of.
    let missing = CpuList(cpus.0.iter().copied().filter(|cpu| !has(cpu)).collect());
    if info.state.is_live() {
        if let Some(record) = Store::default().get(name, info.id) {
            let unknown = |cpu: &&u32| !record.spec.later_cpus.contains(cpu);
            if let Some(cpu) = missing.0.iter().find(unknown) {
                return Err(Error::new(
                    format!("cannot give CPU {cpu} to instance \"{name}\""),
                    "its kernel was not told of that when it was loaded",
                )
                .advice("Stop it first, or load its kernel with --later-cpus"));
            }
        }
    }
    if !missing.0.is_empty() {
        match from {
            Some(from) => take_from(&instance, &missing, host.instance(from)?.id())?,
            None => instance.add_cpus(&missing, None)?,
        }
    }
    let info = instance.info()?;
    if !info.state.is_live() {
        println!("gave CPUs {cpus} to instance \"{name}\", for its next start");
    } else if tell(&instance, &info, cpus)? {
        println!("gave CPUs {cpus} to instance \"{name}\", which runs on them");
    } else {
        println!("gave CPUs {cpus} to instance \"{name}\"; {BY_HAND}");
    }
    Ok(())
}
