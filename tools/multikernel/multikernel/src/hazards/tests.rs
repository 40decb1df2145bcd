// SPDX-License-Identifier: GPL-2.0

//! Machines that are made up of files.

use std::fs;
use std::path::Path;

use super::*;
use crate::doctor::Level;

fn write(root: &Path, path: &str, text: &[u8]) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn found(root: &Path, name: &str) -> (Level, String) {
    let hazards = Doctor::at(root).hazards();
    let check = hazards.iter().find(|check| check.name == name).unwrap();
    (check.level, check.found.clone())
}

#[test]
fn each_hazard_has_one_finding() {
    let root = tempfile::tempdir().unwrap();
    let hazards = Doctor::at(root.path()).hazards();
    let mut names: Vec<_> = hazards.iter().map(|check| check.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), hazards.len());
    assert!(hazards.len() > 20);
    // Nothing that is not there is claimed to be handled by this machine's kernel.
    for name in ["IPI shorthands", "NMI broadcast"] {
        assert_eq!(found(root.path(), name).0, Level::Note);
    }
}

#[test]
fn findings_follow_the_files() {
    let root = tempfile::tempdir().unwrap();
    for (path, text, name, level, said) in [
        (
            "proc/sys/kernel/panic",
            "0",
            "host panic",
            Level::Ok,
            "left alone",
        ),
        (
            "proc/sys/kernel/panic",
            "10",
            "host panic",
            Level::Ok,
            "reset after 10 s",
        ),
        (
            "proc/sys/kernel/panic",
            "-1",
            "host panic",
            Level::Ok,
            "reset at once",
        ),
        (
            "proc/cmdline",
            "multikernel.stop_on_panic=1",
            "host panic",
            Level::Ok,
            "are stopped",
        ),
        (
            "sys/module/multikernel/parameters/stop_on_panic",
            "N",
            "host panic",
            Level::Ok,
            "left alone",
        ),
        (
            "sys/module/multikernel/parameters/stop_on_panic",
            "Y",
            "host panic",
            Level::Ok,
            "all lent CPUs are stopped",
        ),
        (
            "sys/kernel/kexec_crash_loaded",
            "0",
            "kdump",
            Level::Ok,
            "no crash kernel",
        ),
        (
            "sys/kernel/kexec_crash_loaded",
            "1",
            "kdump",
            Level::Note,
            "nr_cpus=1",
        ),
        (
            "proc/sys/kernel/sysrq",
            "1",
            "SysRq-B",
            Level::Note,
            "keyboard",
        ),
        (
            "proc/sys/kernel/sysrq",
            "16",
            "SysRq-B",
            Level::Note,
            "sysrq-trigger only",
        ),
        (
            "proc/sys/kernel/sysrq",
            "128",
            "SysRq-B",
            Level::Note,
            "keyboard",
        ),
        (
            "proc/sys/kernel/kexec_load_limit_reboot",
            "-1",
            "host kexec",
            Level::Ok,
            "not limited",
        ),
        (
            "proc/sys/kernel/kexec_load_limit_reboot",
            "3",
            "host kexec",
            Level::Warn,
            "3 more",
        ),
        (
            "sys/power/state",
            "freeze mem",
            "suspend",
            Level::Ok,
            "freeze mem: refused",
        ),
        (
            "sys/devices/system/cpu/smt/active",
            "0",
            "SMT siblings",
            Level::Ok,
            "no two",
        ),
        (
            "sys/devices/system/cpu/smt/active",
            "1",
            "SMT siblings",
            Level::Note,
            "whole cores",
        ),
        (
            "proc/cpuinfo",
            "vendor_id\t: GenuineIntel\nflags\t\t: fpu vmx tsc_adjust\n",
            "blocked INIT",
            Level::Note,
            "have vmx",
        ),
        (
            "sys/devices/system/machinecheck/x",
            "",
            "machine checks",
            Level::Note,
            "broadcast",
        ),
        ("dev/cpu/none", "", "TSC_ADJUST", Level::Note, "not known"),
        (
            "sys/class/rtc/rtc0",
            "",
            "RTC, CMOS",
            Level::Note,
            "drives rtc0",
        ),
        (
            "sys/bus/pci/devices/0000:00:00.0",
            "",
            "PCI config ports",
            Level::Ok,
            "all 1 devices",
        ),
        (
            "sys/class/tty/ttyS0/port",
            "0x3F8",
            "UARTs",
            Level::Ok,
            "leaves ttyS1, ttyS2, ttyS3 alone",
        ),
        (
            "sys/devices/system/cpu/microcode/x",
            "",
            "microcode",
            Level::Ok,
            "at boot only",
        ),
        (
            "sys/devices/system/cpu/microcode/reload",
            "",
            "microcode",
            Level::Ok,
            "fails while",
        ),
        (
            "proc/mtrr",
            "",
            "MTRR, PAT",
            Level::Ok,
            "as firmware set them",
        ),
        (
            "proc/cmdline",
            "enable_mtrr_cleanup",
            "MTRR, PAT",
            Level::Warn,
            "changes MTRRs",
        ),
        (
            "proc/filesystems",
            "nodev\tresctrl\n",
            "resctrl",
            Level::Ok,
            "not mounted",
        ),
        (
            "proc/mounts",
            "resctrl /sys/fs/resctrl resctrl rw 0 0\n",
            "resctrl",
            Level::Note,
            "mounted",
        ),
    ] {
        write(root.path(), path, text.as_bytes());
        let (level_found, text_found) = found(root.path(), name);
        assert!(text_found.contains(said), "{path} {text}: {text_found}");
        assert_eq!(level_found, level, "{path} {text}: {text_found}");
    }
}

#[test]
fn tsc_adjust_is_read_from_the_msr() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "proc/cpuinfo", b"flags\t: tsc_adjust\n");
    let mut msr = vec![0; 0x3b];
    msr.extend(0i64.to_le_bytes());
    write(root.path(), "dev/cpu/0/msr", &msr);
    assert_eq!(found(root.path(), "TSC_ADJUST").0, Level::Ok);
    msr.truncate(0x3b);
    msr.extend((-500i64).to_le_bytes());
    write(root.path(), "dev/cpu/0/msr", &msr);
    let (level, said) = found(root.path(), "TSC_ADJUST");
    assert_eq!(level, Level::Warn);
    assert!(said.starts_with("-500 on CPU 0"), "{said}");
}
