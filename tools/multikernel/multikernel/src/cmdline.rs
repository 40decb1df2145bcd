// SPDX-License-Identifier: GPL-2.0

//! The kernel command line of an instance.
//!
//! What is put in front of the user's words, and why, is said at each word in [`Defaults::words`].
//! The user's come last, so that they win where the kernel takes the last of several.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A UART that the host does not drive and lends to the instance: one of the four that a PC has.
///
/// Others cannot be lent: the kernel finds these four by itself, and has to be kept off those that
/// are not lent by name.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Uart(u8);

impl Uart {
    /// I/O ports that a UART takes.
    pub const PORTS: u8 = 8;
    /// I/O ports of ttyS0 to ttyS3 (arch/x86/include/asm/serial.h).
    const BASES: [u16; 4] = [0x3f8, 0x2f8, 0x3e8, 0x2e8];

    /// All that there are.
    fn all() -> impl Iterator<Item = Self> {
        (0..Self::BASES.len() as u8).map(Self)
    }

    /// Its first I/O port.
    pub fn port(self) -> u16 {
        Self::BASES[usize::from(self.0)]
    }

    /// The number in ttyS0 to ttyS3.
    pub fn line(self) -> u8 {
        self.0
    }
}

impl FromStr for Uart {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::all()
            .find(|uart| text == uart.to_string() || text == format!("{:#x}", uart.port()))
            .ok_or_else(|| {
                let known: Vec<_> = Self::all()
                    .map(|uart| format!("{uart} ({:#x})", uart.port()))
                    .collect();
                format!(
                    "\"{text}\" is not a UART that can be lent: {}",
                    known.join(", ")
                )
            })
    }
}

impl fmt::Display for Uart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ttyS{}", self.0)
    }
}

impl From<Uart> for String {
    fn from(uart: Uart) -> Self {
        uart.to_string()
    }
}

impl TryFrom<String> for Uart {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// What the words before the user's depend on.
#[derive(Clone, Debug)]
pub struct Defaults<'a> {
    /// TSC frequency in kHz, 0 if not known.
    pub tsc_khz: u32,
    /// The host itself keeps its time by the TSC.
    pub tsc_trusted: bool,
    /// The host's own `cpu_init_udelay=`: what its CPUs need, those that are lent need as well.
    pub init_delay: Option<&'a str>,
    /// Physical address of the instance's shared area; `None` leaves guest support out.
    pub shared: Option<u64>,
    /// UARTs lent to the instance.
    pub uarts: &'a [Uart],
    /// How many CPUs the kernel may start by itself, where its tables tell of more.
    pub cpus: Option<usize>,
}

impl Defaults<'_> {
    /// The words that every instance gets.
    pub fn words(&self) -> Vec<String> {
        let mut words: Vec<String> = [
            // An all-but-self IPI reaches the host's CPUs.
            "no_ipi_broadcast=1",
            // The PCI functions, and the two ports to reach them, are the host's.
            "pci=off",
            // The decompressor would go to 32-bit mode and back for it. No instance is so large.
            "no5lvl",
            // A reboot by a kernel without guest support resets the machine.
            "panic=0",
            // It would be loaded into the host's cores, while their other threads are at work.
            "dis_ucode_ldr",
        ]
        .map(String::from)
        .into();
        if self.tsc_khz != 0 {
            // There is no timer but the TSC itself to calibrate it with.
            words.push(format!("tsc_early_khz={}", self.tsc_khz));
        }
        if self.tsc_trusted {
            // A TSC that the host trusted is not to be given up: there is no other clock.
            words.push("tsc=reliable".into());
        }
        if let Some(delay) = self.init_delay {
            words.push(format!("cpu_init_udelay={delay}"));
        }
        if let Some(shared) = self.shared {
            // A kernel without guest support does not know this word, and passes it to init.
            words.push(format!("multikernel={shared:#x}"));
        }
        if let Some(cpus) = self.cpus {
            // The others are another kernel's, and are started when that one has lost them.
            words.push(format!("maxcpus={cpus}"));
        }
        words.extend(self.uart_words());
        words
    }

    /// The 8250 driver probes every port up to its number of UARTs, those of the host too, unless
    /// the ports are busy already: `reserve=` makes them so, in any kernel.
    fn uart_words(&self) -> Vec<String> {
        let Some(console) = self.uarts.first() else {
            return vec!["8250.nr_uarts=0".into(), "console=hvc0".into()];
        };
        let last = self.uarts.iter().max().unwrap_or(console);
        let mut words = vec![format!("8250.nr_uarts={}", last.line() + 1)];
        let foreign: Vec<_> = Uart::all()
            .filter(|uart| uart < last && !self.uarts.contains(uart))
            .map(|uart| format!("{:#x},{}", uart.port(), Uart::PORTS))
            .collect();
        if !foreign.is_empty() {
            words.push(format!("reserve={}", foreign.join(",")));
        }
        words.push(format!(
            "earlycon=uart8250,io,{:#x},115200n8",
            console.port()
        ));
        words.push(format!("console={console},115200n8"));
        words
    }
}

/// The whole command line: the defaults, then what the user appends.
///
/// A zero byte or a line break cannot be part of it, nor, where not all CPUs of the tables are the
/// kernel's to start, can `maxcpus=`.
pub fn command_line(defaults: &Defaults<'_>, append: &str) -> Result<String, String> {
    if let Some(bad) = append.chars().find(|c| c.is_control()) {
        return Err(format!("the words to append have the character {bad:?}"));
    }
    let mut appended = append.split_ascii_whitespace();
    if defaults.cpus.is_some() && appended.any(|word| word.starts_with("maxcpus=")) {
        return Err("the words to append have maxcpus=, and there are CPUs that come later".into());
    }
    let mut words = defaults.words();
    // As it is, since blanks may be inside quotation marks.
    match append.trim() {
        "" => {}
        append => words.push(append.into()),
    }
    Ok(words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(uarts: &[&str], append: &str) -> String {
        let uarts: Vec<Uart> = uarts.iter().map(|uart| uart.parse().unwrap()).collect();
        let defaults = Defaults {
            tsc_khz: 2_400_000,
            tsc_trusted: true,
            init_delay: Some("1000"),
            shared: Some(0x2ffe_0000),
            uarts: &uarts,
            cpus: None,
        };
        command_line(&defaults, append).unwrap()
    }

    #[test]
    fn without_uart() {
        assert_eq!(
            line(&[], " quiet spawn.run=/x "),
            "no_ipi_broadcast=1 pci=off no5lvl panic=0 dis_ucode_ldr \
             tsc_early_khz=2400000 tsc=reliable cpu_init_udelay=1000 \
             multikernel=0x2ffe0000 8250.nr_uarts=0 console=hvc0 quiet spawn.run=/x"
        );
    }

    #[test]
    fn only_the_lent_uart_is_touched() {
        let line = line(&["ttyS2"], "");
        assert!(
            line.contains("8250.nr_uarts=3 reserve=0x3f8,8,0x2f8,8 "),
            "{line}"
        );
        assert!(line.ends_with("earlycon=uart8250,io,0x3e8,115200n8 console=ttyS2,115200n8"));
    }

    #[test]
    fn several_uarts() {
        let line = line(&["0x2e8", "ttyS1"], "");
        assert!(
            line.contains("8250.nr_uarts=4 reserve=0x3f8,8,0x3e8,8 "),
            "{line}"
        );
        assert!(line.ends_with("console=ttyS3,115200n8"), "{line}");
    }

    #[test]
    fn all_uarts_need_no_reserve() {
        assert!(!line(&["ttyS0", "ttyS1", "ttyS2", "ttyS3"], "").contains("reserve"));
    }

    #[test]
    fn bad_uarts_and_words() {
        for bad in ["", "ttyS4", "ttyS", "0x3f9", "COM1", "3e8"] {
            assert!(bad.parse::<Uart>().is_err(), "{bad}");
        }
        let defaults = Defaults {
            tsc_khz: 0,
            tsc_trusted: false,
            init_delay: None,
            shared: None,
            uarts: &[],
            cpus: None,
        };
        assert!(command_line(&defaults, "a\nb").is_err());
        assert!(command_line(&defaults, "a\0").is_err());
        assert!(command_line(&defaults, "maxcpus=3").is_ok());
        let some_later = Defaults {
            cpus: Some(2),
            ..defaults.clone()
        };
        assert!(command_line(&some_later, "quiet maxcpus=3").is_err());
        let line = command_line(&some_later, "quiet").unwrap();
        assert!(line.contains(" maxcpus=2 "), "{line}");
        let line = command_line(&defaults, "").unwrap();
        assert!(
            !line.contains("tsc") && !line.contains("multikernel"),
            "{line}"
        );
    }
}
