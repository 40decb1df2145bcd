// SPDX-License-Identifier: GPL-2.0

//! Is this machine, and the kernel that it runs, fit to be a host?
//!
//! Reads /proc, /sys and the device; changes nothing. Each check says what was found and, unless
//! all is well, what to do. What kernels could do to each other is in [`crate::hazards`].

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::device::{Host, HostInfo, Owner};
use crate::spec::format_size;
use crate::{abi, Error};

/// The bit of CAP_SYS_BOOT (include/uapi/linux/capability.h).
const CAP_SYS_BOOT: u32 = 22;
/// What an instance gets below 1 MiB if nothing else is asked for.
const LOW_DEFAULT: u64 = 0x10000;
/// Where RAM below 1 MiB ends and the video memory's hole begins.
const LOW_END: u64 = 0xa0000;

/// How good or bad a finding is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Nothing is done about it, which one should know.
    Note,
    /// Instances can run, with a limit.
    Warn,
    /// Instances cannot run.
    Fail,
}

/// One finding.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How good it is.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// What to do, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

pub(crate) fn ok(name: &'static str, found: impl Into<String>) -> Check {
    Check {
        name,
        level: Level::Ok,
        found: found.into(),
        advice: None,
    }
}

pub(crate) fn warn(name: &'static str, found: impl Into<String>, advice: &str) -> Check {
    Check {
        level: Level::Warn,
        advice: Some(advice.into()),
        ..ok(name, found)
    }
}

pub(crate) fn note(name: &'static str, found: impl Into<String>) -> Check {
    Check {
        level: Level::Note,
        ..ok(name, found)
    }
}

fn fail(name: &'static str, found: impl Into<String>, advice: &str) -> Check {
    Check {
        level: Level::Fail,
        ..warn(name, found, advice)
    }
}

/// Where to look; a test has a directory of its own.
#[derive(Clone, Debug)]
pub struct Doctor {
    pub(crate) root: PathBuf,
}

impl Default for Doctor {
    fn default() -> Self {
        Self { root: "/".into() }
    }
}

impl Doctor {
    /// Looks at files below another root.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub(crate) fn read(&self, path: &str) -> Option<String> {
        let text = fs::read_to_string(self.root.join(path)).ok()?;
        Some(text.trim().to_owned())
    }

    /// All findings.
    pub fn checks(&self) -> Vec<Check> {
        let host = Host::open_at(&self.root.join("dev/multikernel"));
        let info = host.as_ref().ok().map(Host::info);
        let info = info.and_then(std::result::Result::ok);

        let mut checks = vec![self.subsystem(&host, info.as_ref())];
        checks.push(self.permission());
        checks.extend(self.lockdown());
        checks.extend(self.kexec_disabled());
        checks.push(self.cpus(host.as_ref().ok()));
        checks.push(self.tsc(info.as_ref()));
        checks.push(self.apic(info.as_ref()));
        if let Ok(host) = &host {
            checks.extend(pool(host));
        }
        checks.push(self.low_memory(host.as_ref().ok()));
        checks
    }

    fn subsystem(&self, host: &Result<Host, Error>, info: Option<&HostInfo>) -> Check {
        const NAME: &str = "subsystem";
        let release = self.read("proc/sys/kernel/osrelease");
        let kernel = format!(
            "Linux {}",
            release.as_deref().unwrap_or("of unknown version")
        );
        match (host, info) {
            (Ok(_), Some(info)) if info.abi_version != abi::ABI_VERSION => fail(
                NAME,
                format!(
                    "{kernel} has ABI version {}, this mkctl knows version {}",
                    info.abi_version,
                    abi::ABI_VERSION
                ),
                "Use the mkctl that was built with this kernel",
            ),
            (Ok(_), Some(_)) => ok(NAME, format!("{kernel} has the multikernel subsystem")),
            (Ok(_), None) => fail(
                NAME,
                format!("{kernel}: /dev/multikernel opens and does not answer"),
                "See the permission line below; else use the mkctl that was built with this kernel",
            ),
            (Err(_), _) if self.root.join("dev/multikernel").exists() => fail(
                NAME,
                format!("{kernel}: /dev/multikernel is there and cannot be opened"),
                "Run mkctl as root",
            ),
            (Err(_), _) => fail(
                NAME,
                format!("{kernel} has no /dev/multikernel"),
                "Boot a kernel with CONFIG_MULTIKERNEL; if this is one, mount devtmpfs on /dev",
            ),
        }
    }

    fn permission(&self) -> Check {
        const NAME: &str = "permission";
        let status = self.read("proc/self/status").unwrap_or_default();
        let effective = status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))
            .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        match effective {
            Some(mask) if mask & (1 << CAP_SYS_BOOT) != 0 => ok(NAME, "CAP_SYS_BOOT is there"),
            Some(_) => fail(NAME, "CAP_SYS_BOOT is missing", "Run mkctl as root"),
            None => warn(NAME, "/proc/self/status cannot be read", "Mount /proc"),
        }
    }

    fn lockdown(&self) -> Option<Check> {
        const NAME: &str = "lockdown";
        // `none [integrity] confidentiality`: the one in force is in brackets.
        let text = self.read("sys/kernel/security/lockdown")?;
        let mode = text.split('[').nth(1)?.split(']').next()?;
        Some(match mode {
            "none" => ok(NAME, "the kernel is not locked down"),
            _ => fail(
                NAME,
                format!("the kernel is locked down for {mode}: it loads no unsigned image"),
                "Boot without lockdown= on the command line, and with Secure Boot off",
            ),
        })
    }

    fn kexec_disabled(&self) -> Option<Check> {
        let text = self.read("proc/sys/kernel/kexec_load_disabled")?;
        (text != "0").then(|| {
            fail(
                "kexec",
                "kexec_load is switched off until the next boot",
                "Do not set kernel.kexec_load_disabled in sysctl.conf, then boot again",
            )
        })
    }

    fn cpus(&self, host: Option<&Host>) -> Check {
        const NAME: &str = "CPUs";
        let one = "A second CPU is needed: the host keeps one, CPU 0";
        if let Some(Ok(cpus)) = host.map(Host::cpus) {
            let lent = cpus
                .iter()
                .filter(|cpu| cpu.owner == Owner::Instance)
                .count();
            let free = cpus
                .iter()
                .filter(|cpu| cpu.owner == Owner::Host && cpu.online && cpu.cpu != 0)
                .count();
            let found = format!("{} in all, {lent} lent, {free} can be lent", cpus.len());
            return match (free, lent) {
                (0, 0) => fail(NAME, found, one),
                (0, _) => warn(
                    NAME,
                    found,
                    "Remove an instance with 'mkctl rm' for a new one",
                ),
                _ => ok(NAME, found),
            };
        }
        let online = self
            .read("sys/devices/system/cpu/online")
            .unwrap_or_default();
        match online.parse::<crate::spec::CpuList>() {
            Ok(list) if list.0.len() > 1 => ok(NAME, format!("{online} are online")),
            Ok(_) => fail(NAME, "only one is online", one),
            Err(_) => warn(NAME, "their number is not known", "Mount /sys"),
        }
    }

    pub(crate) fn cpu_flags(&self) -> Vec<String> {
        let text = self.read("proc/cpuinfo").unwrap_or_default();
        text.lines()
            .find_map(|line| line.strip_prefix("flags")?.trim_start().strip_prefix(':'))
            .map(|flags| flags.split_whitespace().map(String::from).collect())
            .unwrap_or_default()
    }

    fn tsc(&self, info: Option<&HostInfo>) -> Check {
        const NAME: &str = "TSC";
        let flags = self.cpu_flags();
        let missing: Vec<_> = ["constant_tsc", "nonstop_tsc"]
            .into_iter()
            .filter(|flag| !flags.iter().any(|f| f == flag))
            .collect();
        if let Some(info) = info {
            if info.tsc_khz == 0 {
                return warn(
                    NAME,
                    "its frequency is not known to the host",
                    "Instances calibrate it themselves, which may fail: give tsc_early_khz=KHZ by \
                     --append",
                );
            }
        }
        match missing.as_slice() {
            [] => ok(NAME, "runs at a constant frequency and does not stop"),
            _ => warn(
                NAME,
                format!("the CPU does not announce {}", missing.join(", ")),
                "Clocks of instances may drift with the CPU's frequency; usual in virtual machines",
            ),
        }
    }

    fn apic(&self, info: Option<&HostInfo>) -> Check {
        const NAME: &str = "local APIC";
        let able = self.cpu_flags().iter().any(|flag| flag == "x2apic");
        match info {
            Some(info) if info.x2apic => ok(
                NAME,
                "x2APIC mode: instances start in it and need a kernel with CONFIG_X86_X2APIC",
            ),
            Some(_) => ok(NAME, "xAPIC mode: CPUs with APIC ids below 255 can be lent"),
            None if able => ok(NAME, "the CPU has x2APIC"),
            None => ok(NAME, "the CPU has no x2APIC: up to 255 CPUs"),
        }
    }

    /// RAM below 1 MiB as firmware described it: what Linux itself shows of it says nothing about
    /// what is free, since it reserves all of it at boot.
    fn low_memory(&self, host: Option<&Host>) -> Check {
        const NAME: &str = "low memory";
        let lent: u64 = host
            .and_then(|host| host.memory().ok())
            .unwrap_or_default()
            .iter()
            .filter(|memory| memory.low && memory.owner == Owner::Instance)
            .map(|memory| memory.size)
            .sum();
        let Some(ram) = low_ram(&self.root.join("sys/firmware/memmap")) else {
            return warn(
                NAME,
                "firmware's memory map is not shown",
                "Enable CONFIG_FIRMWARE_MEMMAP to see how many instances fit below 1 MiB",
            );
        };
        let room = ram.saturating_sub(lent);
        let found = format!(
            "{} of RAM below 1 MiB, {} lent; an instance takes {}",
            format_size(ram),
            format_size(lent),
            format_size(LOW_DEFAULT)
        );
        match room >= LOW_DEFAULT {
            true => ok(NAME, found),
            false => warn(NAME, found, "Create instances with less, by --low 64K"),
        }
    }
}

fn low_ram(memmap: &Path) -> Option<u64> {
    let number = |path: PathBuf| {
        let text = fs::read_to_string(path).ok()?;
        u64::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
    };
    let mut ram = 0;
    for entry in fs::read_dir(memmap).ok()? {
        let entry = entry.ok()?.path();
        let kind = fs::read_to_string(entry.join("type")).ok()?;
        if kind.trim() == "System RAM" {
            // `end` is the last byte.
            let start = number(entry.join("start"))?;
            let end = number(entry.join("end"))?.saturating_add(1).min(LOW_END);
            ram += (end & !0xfff).saturating_sub(start.next_multiple_of(0x1000));
        }
    }
    Some(ram)
}

fn pool(host: &Host) -> Option<Check> {
    const NAME: &str = "pool";
    let memory = host.memory().ok()?;
    let sum = |owner: Option<Owner>| -> u64 {
        let those = memory.iter().filter(|memory| !memory.low);
        those
            .filter(|memory| owner.is_none_or(|owner| memory.owner == owner))
            .map(|memory| memory.size)
            .sum()
    };
    let (all, free) = (sum(None), sum(Some(Owner::Pool)));
    let found = format!("{} in all, {} free", format_size(all), format_size(free));
    Some(match free {
        0 => warn(
            NAME,
            found,
            "Enlarge it with 'mkctl pool grow 256M'; 'mkctl run' does so by itself",
        ),
        _ => ok(NAME, found),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn find<'a>(checks: &'a [Check], name: &str) -> &'a Check {
        checks.iter().find(|check| check.name == name).unwrap()
    }

    #[test]
    fn a_machine_without_the_subsystem() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "proc/sys/kernel/osrelease", "6.1.0-18-amd64\n");
        write(
            root.path(),
            "proc/self/status",
            "CapEff:\t000001ffffffffff\n",
        );
        write(
            root.path(),
            "proc/cpuinfo",
            "flags\t\t: fpu constant_tsc nonstop_tsc x2apic\n",
        );
        write(root.path(), "sys/devices/system/cpu/online", "0-3\n");
        write(
            root.path(),
            "sys/kernel/security/lockdown",
            "[none] integrity\n",
        );
        for (i, (start, end)) in [("0x0", "0x9fbff"), ("0x100000", "0x7fffffff")]
            .iter()
            .enumerate()
        {
            let entry = format!("sys/firmware/memmap/{i}");
            write(root.path(), &format!("{entry}/type"), "System RAM\n");
            write(root.path(), &format!("{entry}/start"), start);
            write(root.path(), &format!("{entry}/end"), end);
        }
        let checks = Doctor::at(root.path()).checks();
        let subsystem = find(&checks, "subsystem");
        assert_eq!(subsystem.level, Level::Fail);
        assert_eq!(
            subsystem.found,
            "Linux 6.1.0-18-amd64 has no /dev/multikernel"
        );
        assert!(subsystem
            .advice
            .as_ref()
            .unwrap()
            .contains("CONFIG_MULTIKERNEL"));
        for name in [
            "permission",
            "lockdown",
            "CPUs",
            "TSC",
            "local APIC",
            "low memory",
        ] {
            assert_eq!(find(&checks, name).level, Level::Ok, "{name}");
        }
        assert!(find(&checks, "low memory").found.starts_with("636K of RAM"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let root = tempfile::tempdir().unwrap();
        write(
            root.path(),
            "proc/self/status",
            "CapEff:\t0000000000000000\n",
        );
        write(root.path(), "proc/sys/kernel/kexec_load_disabled", "1\n");
        write(root.path(), "sys/devices/system/cpu/online", "0\n");
        write(
            root.path(),
            "sys/kernel/security/lockdown",
            "none [integrity] confidentiality\n",
        );
        let checks = Doctor::at(root.path()).checks();
        for name in ["subsystem", "permission", "lockdown", "kexec", "CPUs"] {
            assert_eq!(find(&checks, name).level, Level::Fail, "{name}");
        }
        assert_eq!(find(&checks, "TSC").level, Level::Warn);
        assert!(checks
            .iter()
            .all(|c| c.level <= Level::Note || c.advice.is_some()));
    }

    #[test]
    fn an_empty_root_does_not_confuse_it() {
        let root = tempfile::tempdir().unwrap();
        assert!(Doctor::at(root.path()).checks().len() >= 6);
    }
}
