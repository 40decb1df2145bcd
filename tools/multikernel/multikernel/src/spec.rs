// SPDX-License-Identifier: GPL-2.0

//! Sizes, CPU lists, names and memory requests as people write them.
//!
//! Parsing only: whether a CPU exists or memory is free is for the kernel to say.

use std::fmt;
use std::str::FromStr;

use multikernel_sys as sys;

/// Unit in which memory is lent, in bytes.
pub const MEMORY_ALIGN: u64 = sys::MULTIKERNEL_MEMORY_ALIGN as u64;

/// Parses `256M`, `1G`, `4096`, `0x200000`, with the binary suffixes K, M, G, T.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let bad = || {
        format!("\"{text}\" is not a size: write bytes, or a number with K, M, G or T, like 256M")
    };
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return digits(hex, 16).ok_or_else(bad);
    }
    let (number, shift) = match text.char_indices().last() {
        Some((at, suffix)) => match suffix.to_ascii_uppercase() {
            'K' => (&text[..at], 10),
            'M' => (&text[..at], 20),
            'G' => (&text[..at], 30),
            'T' => (&text[..at], 40),
            _ => (text, 0),
        },
        None => return Err(bad()),
    };
    digits(number, 10)
        .ok_or_else(bad)?
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("\"{text}\" is more than 64 bits can hold"))
}

/// Digits only: `from_str_radix` alone would take a sign.
fn digits(text: &str, radix: u32) -> Option<u64> {
    if text.is_empty() || !text.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    u64::from_str_radix(text, radix).ok()
}

/// Writes a size with the largest suffix that loses nothing.
pub fn format_size(bytes: u64) -> String {
    for (shift, suffix) in [(40, "T"), (30, "G"), (20, "M"), (10, "K")] {
        if bytes != 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{}{suffix}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// Parses a size that must be a multiple of 2 MiB and not 0.
pub fn parse_memory_size(text: &str) -> Result<u64, String> {
    let bytes = parse_size(text)?;
    if bytes == 0 || bytes % MEMORY_ALIGN != 0 {
        return Err(format!(
            "{text} is not a multiple of 2M: memory is lent in units of 2M"
        ));
    }
    Ok(bytes)
}

/// CPU numbers in the order written: the first becomes the spawn's boot CPU.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CpuList(pub Vec<u32>);

impl FromStr for CpuList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad =
            || format!("\"{text}\" is not a list of CPUs: write numbers and ranges, like 2-3,5");
        let number = |part: &str| {
            digits(part, 10)
                .and_then(|n| u32::try_from(n).ok())
                .ok_or_else(bad)
        };
        let mut cpus = Vec::new();
        for part in text.split(',') {
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                None => (number(part)?, number(part)?),
            };
            if first > last {
                return Err(format!("in \"{text}\" the range {part} runs backwards"));
            }
            if (last - first) as usize >= sys::MULTIKERNEL_CPUS_MAX as usize {
                return Err(too_many_cpus(text));
            }
            for cpu in first..=last {
                if cpus.contains(&cpu) {
                    return Err(format!("\"{text}\" has CPU {cpu} twice"));
                }
                cpus.push(cpu);
            }
        }
        if cpus.len() > sys::MULTIKERNEL_CPUS_MAX as usize {
            return Err(too_many_cpus(text));
        }
        Ok(Self(cpus))
    }
}

fn too_many_cpus(text: &str) -> String {
    format!(
        "\"{text}\" has more than the {} CPUs that an instance may be given",
        sys::MULTIKERNEL_CPUS_MAX
    )
}

impl fmt::Display for CpuList {
    /// Numbers that follow each other are joined: `2-3,5`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_slice();
        let mut comma = "";
        while let Some((&first, _)) = rest.split_first() {
            let run = rest
                .iter()
                .zip(u64::from(first)..)
                .take_while(|(&cpu, expected)| u64::from(cpu) == *expected)
                .count();
            match run {
                1 => write!(f, "{comma}{first}")?,
                _ => write!(f, "{comma}{first}-{}", rest[run - 1])?,
            }
            comma = ",";
            rest = &rest[run..];
        }
        Ok(())
    }
}

/// Which side of 4 GiB memory has to be on.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Side {
    /// Either.
    #[default]
    Any,
    /// Wholly below 4 GiB.
    Below4G,
    /// Wholly at or above 4 GiB.
    Above4G,
}

impl Side {
    /// As the flags of the user ABI.
    pub fn flags(self) -> u32 {
        match self {
            Side::Any => 0,
            Side::Below4G => sys::MULTIKERNEL_RANGE_BELOW_4G,
            Side::Above4G => sys::MULTIKERNEL_RANGE_ABOVE_4G,
        }
    }
}

/// One contiguous range asked for: `SIZE[,node=N][,base=ADDRESS][,below-4g][,above-4g]`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MemoryRequest {
    /// Bytes, a multiple of [`MEMORY_ALIGN`], not 0.
    pub bytes: u64,
    /// NUMA node, if it matters.
    pub node: Option<i32>,
    /// Physical address, if it matters.
    pub base: Option<u64>,
    /// Which side of 4 GiB.
    pub side: Side,
}

impl MemoryRequest {
    /// As the structure of the user ABI.
    pub fn to_range(self) -> sys::multikernel_range {
        let fixed = match self.base {
            Some(_) => sys::MULTIKERNEL_RANGE_FIXED,
            None => 0,
        };
        sys::multikernel_range {
            base: self.base.unwrap_or(0),
            size: self.bytes,
            nid: self.node.unwrap_or(-1),
            owner: 0,
            id: 0,
            flags: self.side.flags() | fixed,
        }
    }
}

impl FromStr for MemoryRequest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let bytes = parse_memory_size(parts.next().unwrap_or_default())?;
        let mut request = Self {
            bytes,
            node: None,
            base: None,
            side: Side::Any,
        };
        for part in parts {
            let side = match part.split_once('=') {
                Some(("node", node)) => {
                    let node = digits(node, 10).and_then(|n| i32::try_from(n).ok());
                    request.node =
                        Some(node.ok_or_else(|| format!("\"{part}\" is not a NUMA node"))?);
                    continue;
                }
                Some(("base", base)) => {
                    let base = parse_size(base)?;
                    if base % MEMORY_ALIGN != 0 {
                        return Err(format!("{part} is not aligned to 2M"));
                    }
                    if base.checked_add(bytes).is_none() {
                        return Err(format!("\"{text}\" ends beyond the last address"));
                    }
                    request.base = Some(base);
                    continue;
                }
                _ if part == "below-4g" => Side::Below4G,
                _ if part == "above-4g" => Side::Above4G,
                _ => {
                    return Err(format!(
                    "\"{part}\" in \"{text}\" is not known: after the size there may be node=N, \
                         base=ADDRESS, below-4g or above-4g"
                ))
                }
            };
            if request.side != Side::Any && request.side != side {
                return Err(format!(
                    "\"{text}\" asks for memory both below and above 4 GiB"
                ));
            }
            request.side = side;
        }
        Ok(request)
    }
}

/// Checks an instance's name as the kernel will, so that a mistake is a usage error.
pub fn parse_name(text: &str) -> Result<String, String> {
    let limit = sys::MULTIKERNEL_NAME_LENGTH as usize - 1;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if text.is_empty() || text == "." || text == ".." || !text.bytes().all(allowed) {
        return Err(format!(
            "\"{text}\" is not a name for an instance: use letters, digits, '.', '_' and '-'"
        ));
    }
    if text.len() > limit {
        return Err(format!(
            "a name of {} bytes is too long: at most {limit}",
            text.len()
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("256M"), Ok(256 << 20));
        assert_eq!(parse_size("1g"), Ok(1 << 30));
        assert_eq!(parse_size("0x200000"), Ok(2 << 20));
        assert_eq!(parse_size("4096"), Ok(4096));
        for bad in [
            "",
            "M",
            "-1",
            "+1",
            "1.5G",
            "0x",
            "0x-1",
            "12Q",
            "1 M",
            "ä",
            "99999999999T",
        ] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        assert!(parse_memory_size("3M").is_err());
        assert!(parse_memory_size("0").is_err());
    }

    #[test]
    fn cpu_lists() {
        assert_eq!("2-3,5".parse(), Ok(CpuList(vec![2, 3, 5])));
        assert_eq!("3,1".parse(), Ok(CpuList(vec![3, 1])));
        for bad in [
            "",
            ",",
            "3-2",
            "1,1",
            "1-",
            "-1",
            "a",
            "0-4294967295",
            "1-2-3",
        ] {
            assert!(bad.parse::<CpuList>().is_err(), "{bad}");
        }
        assert_eq!(CpuList(vec![2, 3, 5, 4]).to_string(), "2-3,5,4");
        assert_eq!(CpuList(vec![u32::MAX]).to_string(), "4294967295");
    }

    #[test]
    fn memory_requests() {
        let request: MemoryRequest = "256M,node=1,base=0x40000000,below-4g".parse().unwrap();
        assert_eq!(request.node, Some(1));
        assert_eq!(request.to_range().flags, 0x1 | 0x2);
        for bad in [
            "256M,below-4g,above-4g",
            "1M",
            "256M,node=-1",
            "256M,base=0x1000",
            "256M,base=0xffffffffffe00000",
            "256M,colour=red",
            "256M,",
        ] {
            assert!(bad.parse::<MemoryRequest>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names() {
        assert!(parse_name("web-1.a_B").is_ok());
        assert!(parse_name(&"a".repeat(63)).is_ok());
        for bad in ["", ".", "..", "a/b", "a b", "ä", &"a".repeat(64)] {
            assert!(parse_name(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(bytes: u64) {
            prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }

        #[test]
        fn cpu_list_written_is_read_back(cpus in proptest::collection::hash_set(0u32..600, 1..64)) {
            let list = CpuList(cpus.into_iter().collect());
            prop_assert_eq!(list.to_string().parse(), Ok(list));
        }

        #[test]
        fn nothing_panics(text: String) {
            let _ = parse_size(&text);
            let _ = text.parse::<CpuList>();
            let _ = text.parse::<MemoryRequest>();
            let _ = parse_name(&text);
        }
    }
}
