// SPDX-License-Identifier: GPL-2.0

//! What the host's kernel measures and counts itself, in debugfs.

use std::fs::{self, File};
use std::io::{self, Write};

use crate::row::Figure;

const DEBUGFS: &str = "/sys/kernel/debug/multikernel";

/// Has the kernel measure something, see kernel/multikernel/bench.rs: the round trips, in
/// nanoseconds. `NotFound` if it cannot.
pub fn measure(request: &str) -> io::Result<Figure> {
    let file = format!("{DEBUGFS}/bench");
    // Not made if it is not there.
    File::options()
        .write(true)
        .open(&file)?
        .write_all(request.as_bytes())?;
    let times: Option<Vec<f64>> = fs::read_to_string(&file)?
        .lines()
        .map(|line| line.parse().ok())
        .collect();
    match times {
        Some(times) if !times.is_empty() => Ok(Figure::of_parts(times)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// What has been counted of a link and its doorbells.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Counts {
    /// Messages sent, those of ports apart.
    pub sent: u64,
    /// Doorbells rung.
    pub rung: u64,
    /// Doorbells that have rung here, of all links.
    pub heard: u64,
}

impl Counts {
    /// Of the link to an instance.
    pub fn of(id: u32) -> io::Result<Self> {
        let links = fs::read_to_string(format!("{DEBUGFS}/links"))?;
        let interrupts = fs::read_to_string("/proc/interrupts")?;
        Self::parse(id, &links, &interrupts).ok_or(io::ErrorKind::InvalidData.into())
    }

    fn parse(id: u32, links: &str, interrupts: &str) -> Option<Self> {
        let line = links.lines().find_map(|line| {
            let (first, rest) = line.split_once(' ')?;
            (first.parse() == Ok(id)).then_some(rest)
        })?;
        let value = |name: &str| {
            let mut words = line
                .split_ascii_whitespace()
                .skip_while(|word| *word != name);
            words.nth(1)?.parse().ok()
        };
        let platform = interrupts.lines().find_map(|line| {
            let counts = line.trim_start().strip_prefix("PLT:")?;
            Some(
                counts
                    .split_ascii_whitespace()
                    .map_while(|word| word.parse::<u64>().ok()),
            )
        });
        Some(Self {
            sent: value("sent")?,
            rung: value("rung")?,
            // There is no such line before the first one.
            heard: platform.map_or(0, Iterator::sum),
        })
    }

    /// What has been counted since.
    pub fn since(self, before: Self) -> Self {
        Self {
            sent: self.sent - before.sent,
            rung: self.rung - before.rung,
            heard: self.heard - before.heard,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINKS: &str = "\
12 epoch 1 minor 1 up sent 9 rung 9 stalls 0 received 9 undeliverable 0 broken 0
2 epoch 1 minor 1 up sent 500 rung 37 stalls 4 received 500 undeliverable 0 broken 0
";
    const INTERRUPTS: &str = "           CPU0       CPU1
 LOC:        100        200   Local timer interrupts
 PLT:         12         30   Platform interrupts
";

    #[test]
    fn counts_of_a_link() {
        let counts = Counts::parse(2, LINKS, INTERRUPTS).unwrap();
        let (sent, rung, heard) = (500, 37, 42);
        assert_eq!(counts, Counts { sent, rung, heard });
        assert_eq!(Counts::parse(1, LINKS, INTERRUPTS), None);
        assert_eq!(
            Counts::parse(12, LINKS, "").map(|counts| counts.heard),
            Some(0)
        );
        let later = Counts {
            sent: 510,
            rung: 40,
            heard: 42,
        };
        let (sent, rung, heard) = (10, 3, 0);
        assert_eq!(later.since(counts), Counts { sent, rung, heard });
    }
}
