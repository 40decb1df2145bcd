// SPDX-License-Identifier: GPL-2.0

//! What several kernels on one machine could do to each other, and what this machine does about it.
//!
//! One finding for each hazard of Documentation/multikernel/hazards.rst that software can see
//! something of. What a finding says was read from /proc, /sys or the device, or holds for every
//! host kernel with this ABI and every image that this library loads.

mod machine;

use crate::abi;
use crate::device::{HangTimeout, Host, HostInfo, Instance, InstanceInfo};
use crate::doctor::{note, ok, warn, Check, Doctor};

/// An instance that runs, and what its kernel says of itself.
struct Running {
    info: InstanceInfo,
    guest: bool,
    beats: bool,
}

impl Running {
    fn new(instance: &Instance, info: InstanceInfo) -> Self {
        let map = instance.map_shared().ok();
        let area = map.as_ref().and_then(|map| map.area().ok());
        let header = area.and_then(|area| area.header().ok());
        Self {
            info,
            guest: header.is_some_and(|header| header.guest_state != abi::GUEST_SILENT),
            beats: header.is_some_and(|h| h.guest_features & abi::GUEST_FEATURE_BEATS != 0),
        }
    }
}

fn names(instances: &[&Running]) -> String {
    let names: Vec<_> = instances.iter().map(|one| one.info.name.as_str()).collect();
    names.join(", ")
}

impl Doctor {
    /// A finding for each hazard.
    pub fn hazards(&self) -> Vec<Check> {
        let host = Host::open_at(&self.root.join("dev/multikernel")).ok();
        let info = host.as_ref().and_then(|host| host.info().ok());
        let running = host.as_ref().map(running).unwrap_or_default();
        let mut hazards = vec![
            shorthands(info.as_ref()),
            self.nmi(info.as_ref()),
            self.virtualization(),
            self.siblings(),
        ];
        hazards.extend([
            self.host_panic(),
            self.crash_kernel(),
            self.reboot(),
            self.sysrq(),
            self.kexec(),
            self.suspend(info.as_ref()),
        ]);
        hazards.extend([
            stock_kernels(&running),
            hangs(&running),
            note(
                "triple fault",
                "not prevented: of any spawn it shuts its CPU down, upon which chipsets reset the \
                 machine",
            ),
        ]);
        hazards.extend([
            self.timers(),
            self.tsc_adjust(),
            self.rtc(),
            self.i8042(),
            self.uarts(),
            self.pci(),
            ok(
                "ACPI reset",
                "the tables of spawns name no reset register and no sleep states",
            ),
        ]);
        hazards.extend([
            self.microcode(),
            self.mtrr(),
            self.machine_checks(),
            self.resctrl(),
        ]);
        hazards
    }
}

fn running(host: &Host) -> Vec<Running> {
    let ids = host.instances().unwrap_or_default();
    ids.into_iter()
        .filter_map(|id| {
            let instance = host.instance_by_id(id).ok()??;
            let info = instance.info().ok()?;
            let live = info.state.is_live();
            live.then(|| Running::new(&instance, info))
        })
        .collect()
}

fn shorthands(info: Option<&HostInfo>) -> Check {
    const NAME: &str = "IPI shorthands";
    match info {
        Some(info) if info.shorthand_off => ok(
            NAME,
            format!(
                "off in the host, as {} CPUs are lent; off in spawns",
                info.cpus_lent
            ),
        ),
        Some(_) => ok(NAME, "in use, as no CPU is lent; off as long as one is"),
        None => note(NAME, "there is no host kernel to ask"),
    }
}

fn stock_kernels(running: &[Running]) -> Check {
    const NAME: &str = "reboot in spawn";
    let (guests, stock): (Vec<_>, Vec<_>) = running.iter().partition(|one| one.guest);
    match (guests.len(), stock.as_slice()) {
        (0, []) => ok(
            NAME,
            "none runs. One with guest support tells the host; one without resets the machine",
        ),
        (guests, []) => ok(
            NAME,
            format!("all {guests} that run have guest support: they tell the host instead"),
        ),
        (_, stock) => warn(
            NAME,
            format!("without guest support, or not up yet: {}", names(stock)),
            "A reboot in one of these resets the whole machine: power off or stop them instead",
        ),
    }
}

fn hangs(running: &[Running]) -> Check {
    const NAME: &str = "hang in spawn";
    let watched = |one: &&Running| {
        one.beats
            && one
                .info
                .hang_timeout
                .is_some_and(|hang| hang != HangTimeout::Never)
    };
    let (watched, others): (Vec<_>, Vec<_>) = running.iter().partition(watched);
    match (watched.len(), others.as_slice()) {
        (0, []) => ok(
            NAME,
            "none runs. One with guest support is stopped when it hangs, after --hang-timeout",
        ),
        (watched, []) => ok(
            NAME,
            format!("all {watched} that run are watched, and stopped when they hang"),
        ),
        (_, others) => note(
            NAME,
            format!(
                "not watched, for want of guest support or by --hang-timeout never: {}",
                names(others)
            ),
        ),
    }
}

#[cfg(test)]
mod tests;
