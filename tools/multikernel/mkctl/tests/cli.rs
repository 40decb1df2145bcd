// SPDX-License-Identifier: GPL-2.0

//! The tool as its user meets it, on a machine that has no `/dev/multikernel`.
//!
//! What needs the device is tested inside QEMU, by tools/testing/selftests/multikernel.

use std::path::Path;
use std::process::{Command, Output};

fn mkctl(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mkctl"))
        .args(arguments)
        .output()
        .expect("mkctl can be run")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("output is UTF-8")
}

/// Asserts the exit status and returns what was written to stderr.
fn fails(arguments: &[&str], status: i32) -> String {
    let output = mkctl(arguments);
    let stderr = text(&output.stderr);
    assert_eq!(
        output.status.code(),
        Some(status),
        "{arguments:?}: {stderr}"
    );
    assert!(output.stdout.is_empty(), "{arguments:?}");
    stderr.to_owned()
}

/// These tests are about a machine without the subsystem.
fn has_device() -> bool {
    Path::new("/dev/multikernel").exists()
}

#[test]
fn wrong_command_lines_have_status_2() {
    for (arguments, said) in [
        (&["frobnicate"][..], "unrecognized subcommand"),
        (
            &["create", "a/b", "--cpus", "1", "--memory", "2M"],
            "is not a name for an instance",
        ),
        (
            &["create", "web", "--cpus", "1,1", "--memory", "2M"],
            "has CPU 1 twice",
        ),
        (
            &["create", "web", "--cpus", "x", "--memory", "2M"],
            "is not a list of CPUs",
        ),
        (
            &["create", "web", "--cpus", "1", "--memory", "1M"],
            "multiple of 2M",
        ),
        (&["create", "web", "--cpus", "1"], "--memory"),
        (
            &[
                "create", "web", "--cpus", "1", "--memory", "2M", "--low", "1M",
            ],
            "from 4K to 512K",
        ),
        (&["pool", "grow", "3M"], "multiple of 2M"),
        (
            &["pool", "grow", "2M", "--below-4g", "--above-4g"],
            "cannot be used with",
        ),
        (
            &["load", "web", "--kernel", "k", "--uart", "ttyS9"],
            "ttyS0 (0x3f8)",
        ),
        (&["stop", "web", "--timeout", "0"], "1..=3600"),
        (
            &["start", "web", "--hang-timeout", "0"],
            "from 0.1 to 3600 nor \"never\"",
        ),
        (&["events", "--count", "0"], "0 is not in 1.."),
        (&["dump", "web"], "<FILE>"),
        (&["link", "web"], "<OTHER>"),
        (&["unlink", "web", "a/b"], "is not a name for an instance"),
        (&["ping"], "<NAME|--host>"),
        (&["ping", "web", "--host"], "cannot be used with"),
        (&["ping", "web", "--count", "0"], "0 is not in 1.."),
        (&["ping", "web", "--bytes", "1025"], "from 0 to 1024"),
        (&["ping", "web", "--cpu", "512"], "512 is not in 0..512"),
        (&["ping", "web", "--timeout", "0"], "1..=3600000"),
        (&["ping", "web", "--interval", "x"], "from 0 to 3600"),
        (
            &["ping", "web", "--flood", "--interval", "1"],
            "cannot be used with",
        ),
        (
            &[
                "run",
                "--name",
                "web",
                "--cpus",
                "1",
                "--memory",
                "2M",
                "--kernel",
                "k",
                "--restart",
                "sometimes",
            ],
            "there are never, on-failure, always",
        ),
    ] {
        let stderr = fails(arguments, 2);
        assert!(stderr.contains(said), "{arguments:?}: {stderr}");
    }
}

#[test]
fn verbs_say_that_there_is_no_subsystem() {
    if has_device() {
        return;
    }
    for arguments in [
        &["pool"][..],
        &["pool", "show", "--json"],
        &["pool", "grow", "256M"],
        &["pool", "shrink", "256M"],
        &["create", "web", "--cpus", "1", "--memory", "256M"],
        &["load", "web", "--kernel", "/vmlinuz"],
        &["unload", "web"],
        &["start", "web"],
        &["start", "web", "--hang-timeout", "never"],
        &["stop", "web"],
        &["stop", "web", "--no-force"],
        &["events"],
        &["events", "web", "--json", "--count", "2", "--timeout", "1"],
        &["dump", "web", "/tmp/web.core"],
        &["kill", "web"],
        &["rm", "web", "--force"],
        &["ps", "--json"],
        &["inspect", "web"],
        &["logs", "web"],
        &["console", "web"],
        &["link", "web", "db"],
        &["unlink", "web", "db"],
        &["ping", "web"],
        &["ping", "web", "--flood", "-q", "--json"],
        &["ping", "--host"],
        &["arena", "create", "state", "16M"],
        &["arena", "ls", "--json"],
        &["arena", "grant", "state", "web", "--read-only"],
        &["arena", "revoke", "state", "web"],
        &["arena", "resize", "state", "16M"],
        &["arena", "read", "state", "--offset", "4K"],
        &["arena", "write", "state"],
        &["arena", "rm", "state"],
    ] {
        assert_eq!(
            fails(arguments, 1),
            "mkctl: cannot open /dev/multikernel: the running kernel has no multikernel \
             subsystem. Boot a kernel with CONFIG_MULTIKERNEL; 'mkctl doctor' checks the rest.\n",
            "{arguments:?}"
        );
    }
}

#[test]
fn run_looks_at_the_files_before_it_takes_anything() {
    let run = |kernel: &str| {
        let name = [
            "run", "--name", "web", "--cpus", "1", "--memory", "2M", "--kernel", kernel,
        ];
        fails(&name, 1)
    };
    let stderr = run("/nonexistent/vmlinuz");
    assert!(
        stderr.contains("the kernel /nonexistent/vmlinuz cannot be read"),
        "{stderr}"
    );

    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), "not a kernel").expect("it can be written");
    let stderr = run(file.path().to_str().expect("its name is UTF-8"));
    assert!(
        stderr.contains("it is neither a bzImage nor an ELF file"),
        "{stderr}"
    );
    assert!(
        stderr.starts_with("mkctl: ") && stderr.ends_with(".\n"),
        "{stderr}"
    );
}

#[test]
fn doctor_works_everywhere() {
    if has_device() {
        return;
    }
    let output = mkctl(&["doctor"]);
    assert_eq!(output.status.code(), Some(1));
    let stdout = text(&output.stdout);
    assert!(stdout.contains("has no /dev/multikernel"), "{stdout}");
    assert!(stdout.contains("cannot run instances yet"), "{stdout}");

    let output = mkctl(&["doctor", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["fit"], false);
    assert_eq!(report["checks"][0]["level"], "fail");
}
