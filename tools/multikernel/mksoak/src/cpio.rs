// SPDX-License-Identifier: GPL-2.0

//! An initial ram file system: the format "newc" of
//! Documentation/driver-api/early-userspace/buffer-format.rst.

/// Type bits and permissions of `st_mode`.
const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const DEVICE: u32 = 0o020_600;
const LINK: u32 = 0o120_777;

/// An archive under construction.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn add(&mut self, name: &str, mode: u32, device: (u32, u32), data: &[u8]) {
        self.entries += 1;
        let fields = [
            self.entries,
            mode,
            0, // owner
            0, // group
            1, // links
            0, // time
            data.len() as u32,
            0, // the device that it is on, major and minor
            0,
            device.0,
            device.1,
            name.len() as u32 + 1,
            0, // checksum, which this format does not have
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(data);
        self.align();
    }

    /// Adds a folder.
    pub fn folder(&mut self, name: &str) {
        self.add(name, FOLDER, (0, 0), &[]);
    }

    /// Adds a program.
    pub fn program(&mut self, name: &str, data: &[u8]) {
        self.add(name, PROGRAM, (0, 0), data);
    }

    /// Adds a character device.
    pub fn device(&mut self, name: &str, major: u32, minor: u32) {
        self.add(name, DEVICE, (major, minor), &[]);
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, name: &str, target: &str) {
        self.add(name, LINK, (0, 0), target.as_bytes());
    }

    /// The whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    #[test]
    fn cpio_reads_it() {
        let mut archive = Archive::default();
        archive.folder("dev");
        archive.device("dev/null", 1, 3);
        archive.program("init", b"#!/bin/sh\n");
        archive.link("sbin", "bin");
        let bytes = archive.finish();
        let Ok(mut cpio) = Command::new("cpio")
            .args(["-itv", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
        else {
            // Not on this machine; the kernel reads it in every boot.
            return;
        };
        cpio.stdin.take().unwrap().write_all(&bytes).unwrap();
        let said = cpio.wait_with_output().unwrap();
        assert!(said.status.success());
        let text = String::from_utf8(said.stdout).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert!(lines[0].starts_with("drwxr-xr-x") && lines[0].ends_with(" dev"));
        assert!(lines[1].starts_with("crw-------") && lines[1].contains("1,"));
        assert!(lines[2].starts_with("-rwxr-xr-x") && lines[2].contains(" 10 "));
        assert!(lines[3].ends_with("sbin -> bin"), "{text}");
    }
}
