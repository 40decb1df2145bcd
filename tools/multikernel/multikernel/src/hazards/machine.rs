// SPDX-License-Identifier: GPL-2.0

//! Hazards that files of the host tell something of.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use crate::device::HostInfo;
use crate::doctor::{note, ok, warn, Check, Doctor};

/// IA32_TSC_ADJUST (SDM volume 3, "Time-Stamp Counter Adjustment").
const MSR_TSC_ADJUST: u64 = 0x3b;
/// `SYSRQ_ENABLE_BOOT` (include/linux/sysrq.h).
const SYSRQ_ENABLE_BOOT: u32 = 0x80;
/// What a PC's UARTs are numbered below.
const UARTS: u32 = 4;

impl Doctor {
    fn number(&self, path: &str) -> Option<i64> {
        self.read(path)?.parse().ok()
    }

    /// The last value of a word on the host's command line.
    fn command_line(&self, key: &str) -> Option<String> {
        let text = self.read("proc/cmdline")?;
        let mut values = text
            .split_ascii_whitespace()
            .filter_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        values.next_back().map(str::to_owned)
    }

    fn entries(&self, path: &str) -> Option<Vec<String>> {
        let entries = fs::read_dir(self.root.join(path)).ok()?;
        Some(
            entries
                .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                .collect(),
        )
    }

    pub(super) fn nmi(&self, info: Option<&HostInfo>) -> Check {
        const NAME: &str = "NMI broadcast";
        let watchdog = match self.number("proc/sys/kernel/nmi_watchdog") {
            Some(0) => "; the NMI watchdog is off",
            Some(_) => "; the NMI watchdog is on, and interrupts the host's own CPUs only",
            None => "; this kernel has no NMI watchdog",
        };
        match info {
            Some(info) if info.shorthand_off => ok(
                NAME,
                format!("the host's NMIs go to its online CPUs one by one{watchdog}"),
            ),
            Some(_) => ok(
                NAME,
                format!("no CPU is lent that one could reach{watchdog}"),
            ),
            None => note(NAME, "there is no host kernel to ask"),
        }
    }

    pub(super) fn virtualization(&self) -> Check {
        const NAME: &str = "blocked INIT";
        let flags = self.cpu_flags();
        match flags.iter().find(|flag| *flag == "vmx" || *flag == "svm") {
            Some(flag) => note(
                NAME,
                format!(
                    "the CPUs have {flag}: a spawn that uses KVM cannot be stopped by force while \
                     it does"
                ),
            ),
            None => ok(
                NAME,
                "the CPUs have neither vmx nor svm: nothing can block a forced stop",
            ),
        }
    }

    pub(super) fn siblings(&self) -> Check {
        const NAME: &str = "SMT siblings";
        match self.number("sys/devices/system/cpu/smt/active") {
            Some(1) => note(
                NAME,
                "several CPUs share a core, its caches and its microcode: lend whole cores",
            ),
            Some(_) => ok(NAME, "no two online CPUs share a core"),
            None => note(NAME, "not known: this kernel does not show SMT"),
        }
    }

    pub(super) fn host_panic(&self) -> Check {
        const NAME: &str = "host panic";
        let parameter = self
            .read("sys/module/multikernel/parameters/stop_on_panic")
            .or_else(|| self.command_line("multikernel.stop_on_panic"));
        let stops = matches!(parameter.as_deref(), Some("1" | "Y" | "y" | "on"));
        let then = match self.number("proc/sys/kernel/panic") {
            Some(0) => "the machine is not reset (kernel.panic=0)".to_owned(),
            Some(seconds @ 1..) => {
                format!("the machine is reset after {seconds} s (kernel.panic={seconds})")
            }
            Some(seconds) => format!("the machine is reset at once (kernel.panic={seconds})"),
            None => "what happens to the machine is not known".to_owned(),
        };
        match stops {
            true => ok(
                NAME,
                format!("all lent CPUs are stopped (multikernel.stop_on_panic=1); {then}"),
            ),
            false => ok(
                NAME,
                format!("spawns are left alone, and run on as long as the machine does; {then}"),
            ),
        }
    }

    pub(super) fn crash_kernel(&self) -> Check {
        const NAME: &str = "kdump";
        match self.number("sys/kernel/kexec_crash_loaded") {
            Some(1) => note(
                NAME,
                "a crash kernel is loaded: it sends INIT to lent CPUs unless it was loaded with \
                 nr_cpus=1, which cannot be seen from here",
            ),
            Some(_) => ok(NAME, "no crash kernel is loaded"),
            None => ok(NAME, "this kernel has no crash kernels"),
        }
    }

    pub(super) fn reboot(&self) -> Check {
        ok(
            "host reboot",
            "each instance is asked to power off, then stopped by force, before the machine goes \
             down",
        )
    }

    pub(super) fn sysrq(&self) -> Check {
        const NAME: &str = "SysRq-B";
        match self.number("proc/sys/kernel/sysrq").map(|mask| mask as u32) {
            None => ok(NAME, "this kernel has no SysRq"),
            Some(mask) if mask == 1 || mask & SYSRQ_ENABLE_BOOT != 0 => note(
                NAME,
                format!(
                    "from a keyboard or serial line too (kernel.sysrq={mask}): it resets the \
                     machine with all instances, unasked"
                ),
            ),
            Some(mask) => note(
                NAME,
                format!(
                    "by /proc/sysrq-trigger only (kernel.sysrq={mask}): it resets the machine with \
                     all instances, unasked"
                ),
            ),
        }
    }

    pub(super) fn kexec(&self) -> Check {
        const NAME: &str = "host kexec";
        match self.number("proc/sys/kernel/kexec_load_limit_reboot") {
            Some(left @ 0..) => warn(
                NAME,
                format!("stops all instances first; {left} more loads are allowed in this boot"),
                "Every image loaded into an instance counts: raise kernel.kexec_load_limit_reboot \
                 at the next boot",
            ),
            _ => ok(NAME, "stops all instances first; loads are not limited"),
        }
    }

    pub(super) fn suspend(&self, info: Option<&HostInfo>) -> Check {
        const NAME: &str = "suspend";
        let states = self.read("sys/power/state").unwrap_or_default();
        match (states.as_str(), info.map_or(0, |info| info.instances)) {
            ("", _) => ok(NAME, "this kernel cannot suspend or hibernate"),
            (states, 0) => ok(
                NAME,
                format!("{states}: refused (EBUSY) once there is an instance; now there is none"),
            ),
            (states, count) => ok(
                NAME,
                format!("{states}: refused (EBUSY) while there are instances, {count} now"),
            ),
        }
    }

    pub(super) fn timers(&self) -> Check {
        let source = "sys/devices/system/clocksource/clocksource0/current_clocksource";
        let clock = self.read(source).unwrap_or_else(|| "unknown".to_owned());
        ok(
            "PIC, PIT, HPET",
            format!(
                "the host's (its clock is {clock}): spawns get hardware-reduced ACPI and an \
                 IO-APIC that is a decoy, and leave them alone"
            ),
        )
    }

    pub(super) fn tsc_adjust(&self) -> Check {
        const NAME: &str = "TSC_ADJUST";
        if !self.cpu_flags().iter().any(|flag| flag == "tsc_adjust") {
            return ok(NAME, "the CPUs do not have it");
        }
        let value = File::open(self.root.join("dev/cpu/0/msr")).and_then(|msr| {
            let mut value = [0; 8];
            msr.read_exact_at(&mut value, MSR_TSC_ADJUST)?;
            Ok(i64::from_le_bytes(value))
        });
        match value {
            Ok(0) => ok(
                NAME,
                "0 on CPU 0: spawns, which set it to 0, keep the host's clock",
            ),
            Ok(value) => warn(
                NAME,
                format!("{value} on CPU 0: spawns set it to 0, and their TSC is off by that much"),
                "Do not compare clocks of host and spawns finer than that",
            ),
            Err(_) => note(
                NAME,
                "not known: a spawn sets it to 0 on its boot CPU; CONFIG_X86_MSR shows the value",
            ),
        }
    }

    pub(super) fn rtc(&self) -> Check {
        const NAME: &str = "RTC, CMOS";
        match self.entries("sys/class/rtc").unwrap_or_default().as_slice() {
            [] => ok(NAME, "the host drives none"),
            clocks => note(
                NAME,
                format!(
                    "the host drives {}; spawns with guest support do not touch it, others read it \
                     at boot",
                    clocks.join(", ")
                ),
            ),
        }
    }

    pub(super) fn i8042(&self) -> Check {
        let found = match self.root.join("sys/devices/platform/i8042").exists() {
            true => "the host drives one: the tables of spawns say that there is none",
            false => "the host drives none, and the tables of spawns say that there is none",
        };
        ok("i8042, VGA", found)
    }

    pub(super) fn uarts(&self) -> Check {
        const NAME: &str = "UARTs";
        // The driver has an entry for each that it took, whether it found one there or not.
        let Some(terminals) = self.entries("sys/class/tty") else {
            return note(NAME, "not known: /sys is not mounted");
        };
        let free: Vec<_> = (0..UARTS)
            .map(|number| format!("ttyS{number}"))
            .filter(|name| !terminals.contains(name))
            .collect();
        match free.as_slice() {
            [] => note(
                NAME,
                "the host has all four: none can be lent. 8250.nr_uarts=1 on its command line \
                 leaves it ttyS0 only",
            ),
            free => ok(
                NAME,
                format!(
                    "the host leaves {} alone; spawns touch only those lent to them",
                    free.join(", ")
                ),
            ),
        }
    }

    pub(super) fn pci(&self) -> Check {
        const NAME: &str = "PCI config ports";
        match self.entries("sys/bus/pci/devices").map(|all| all.len()) {
            None | Some(0) => ok(NAME, "the host has no PCI devices"),
            Some(count) => ok(
                NAME,
                format!(
                    "all {count} devices are the host's: spawns get pci=off and no MCFG; their \
                     user space is not kept from the ports"
                ),
            ),
        }
    }

    pub(super) fn microcode(&self) -> Check {
        const NAME: &str = "microcode";
        let folder = "sys/devices/system/cpu/microcode";
        if !self.root.join(folder).exists() {
            return note(
                NAME,
                "this kernel does not load any; a spawn that does changes the core of its CPU",
            );
        }
        match self.root.join(folder).join("reload").exists() {
            true => ok(
                NAME,
                "the host's late loading fails while a core's first CPU is lent",
            ),
            false => ok(NAME, "the host loads it at boot only"),
        }
    }

    pub(super) fn mtrr(&self) -> Check {
        const NAME: &str = "MTRR, PAT";
        let mtrr = self.root.join("proc/mtrr").exists();
        let cleanup = self.read("proc/cmdline").is_some_and(|words| {
            words
                .split_ascii_whitespace()
                .any(|word| word == "enable_mtrr_cleanup")
        });
        match (mtrr, cleanup) {
            (_, true) => warn(
                NAME,
                "the host changes MTRRs at boot (enable_mtrr_cleanup)",
                "Remove it from the host's command line, and do not give it to spawns",
            ),
            (true, _) => ok(
                NAME,
                "the host leaves MTRRs as firmware set them, unless somebody writes to /proc/mtrr",
            ),
            (false, _) => ok(NAME, "the host kernel does not touch MTRRs"),
        }
    }

    pub(super) fn machine_checks(&self) -> Check {
        const NAME: &str = "machine checks";
        let handled = self.root.join("sys/devices/system/machinecheck").exists();
        let text = self.read("proc/cpuinfo").unwrap_or_default();
        let intel = text.lines().any(|line| {
            line.split_once(':').is_some_and(|(key, value)| {
                key.trim() == "vendor_id" && value.trim() == "GenuineIntel"
            })
        });
        match (handled, intel) {
            (false, _) => note(
                NAME,
                "the host kernel does not handle them; parked CPUs do, and leave the banks alone",
            ),
            (true, true) => note(
                NAME,
                "broadcast to all CPUs of the machine: each kernel waits for its own, parked CPUs \
                 return at once; banks are shared, so one kernel may clear what was another's",
            ),
            (true, false) => note(
                NAME,
                "each kernel handles those of its CPUs, parked CPUs return at once; banks are \
                 shared, so one kernel may clear what was another's",
            ),
        }
    }

    pub(super) fn resctrl(&self) -> Check {
        const NAME: &str = "resctrl";
        let mounts = self.read("proc/mounts").unwrap_or_default();
        let mounted = mounts
            .lines()
            .any(|line| line.split_ascii_whitespace().nth(2) == Some("resctrl"));
        let types = self.read("proc/filesystems").unwrap_or_default();
        let known = types.split_ascii_whitespace().any(|word| word == "resctrl");
        match (mounted, known) {
            (true, _) => note(
                NAME,
                "mounted: a lent CPU keeps the class it had, until its spawn sets another",
            ),
            (false, true) => ok(NAME, "not mounted: all CPUs are in the same class"),
            (false, false) => ok(NAME, "this kernel or machine does not have it"),
        }
    }
}
