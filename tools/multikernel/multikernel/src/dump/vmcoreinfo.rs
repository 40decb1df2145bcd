// SPDX-License-Identifier: GPL-2.0

//! VMCOREINFO: what a kernel says about itself to those who read its memory.
//!
//! An ELF note of lines `KEY=VALUE`, made by kernel/vmcore_info.c and
//! arch/x86/kernel/vmcore_info_64.c. It comes out of a spawn's memory and is checked like all that
//! does.

use thiserror::Error;

/// The most bytes that a note may have; those of today's kernels have a page.
pub const NOTE_MAX: usize = 64 << 10;
/// Bytes of a note's header: sizes of name and content, type.
const HEADER: usize = 12;
/// The note's name with its terminating zero, and what aligns the content to 4 bytes.
const NAME: &[u8; 12] = b"VMCOREINFO\0\0";
const NAME_SIZE: u32 = 11;

/// Why a note cannot be used.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum NoteError {
    /// Another name, or none.
    #[error("there is no note of the name VMCOREINFO")]
    Name,
    /// Larger than what is said to be there, or empty.
    #[error("the VMCOREINFO note has a size that cannot be")]
    Size,
    /// Not lines of text, or none that says which kernel it is.
    #[error("the VMCOREINFO note is not what a kernel writes")]
    Text,
}

/// A note that has been checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VmcoreInfo {
    text: String,
}

impl VmcoreInfo {
    /// Checks a note at the start of `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        let word = |at: usize| {
            let field = bytes.get(at..at + 4)?.try_into().ok()?;
            Some(u32::from_le_bytes(field))
        };
        let name = bytes.get(HEADER..HEADER + NAME.len());
        if word(0) != Some(NAME_SIZE) || word(8) != Some(0) || name != Some(NAME.as_slice()) {
            return Err(NoteError::Name);
        }
        let size = word(4).ok_or(NoteError::Size)? as usize;
        let start = HEADER + NAME.len();
        if size == 0 || size > NOTE_MAX {
            return Err(NoteError::Size);
        }
        let content = bytes.get(start..start + size).ok_or(NoteError::Size)?;
        let text = std::str::from_utf8(content).map_err(|_| NoteError::Text)?;
        let info = Self {
            text: text.to_owned(),
        };
        match info.get("OSRELEASE") {
            Some(_) if !text.contains('\0') => Ok(info),
            _ => Err(NoteError::Text),
        }
    }

    /// Whether a note may begin here: enough for a search through memory.
    pub fn may_begin(bytes: &[u8]) -> bool {
        bytes.starts_with(&NAME_SIZE.to_le_bytes())
            && bytes.get(HEADER..HEADER + NAME.len()) == Some(NAME.as_slice())
    }

    /// The lines.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.text
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
    }

    /// A hexadecimal value, such as an address.
    fn hex(&self, key: &str) -> Option<u64> {
        let value = self.get(key)?;
        u64::from_str_radix(value.strip_prefix("0x").unwrap_or(value), 16).ok()
    }

    /// The address of a symbol.
    pub fn symbol(&self, name: &str) -> Option<u64> {
        self.hex(&format!("SYMBOL({name})"))
    }

    /// A number, which the kernel prints as a signed decimal one unless it says `0x`.
    pub fn number(&self, name: &str) -> Option<u64> {
        let key = format!("NUMBER({name})");
        match self.get(&key)? {
            value if value.starts_with("0x") => self.hex(&key),
            value => value.parse::<i64>().ok().map(i64::cast_unsigned),
        }
    }

    /// By how much KASLR moved the kernel from the addresses in its vmlinux.
    pub fn kernel_offset(&self) -> Option<u64> {
        self.hex("KERNELOFFSET")
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A note with this text, as the kernel writes it.
    pub fn note(text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [NAME_SIZE, text.len() as u32, 0] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(NAME);
        bytes.extend(text.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(4) + 12, 0);
        bytes
    }

    const TEXT: &str = "OSRELEASE=7.3.4\nSYMBOL(_stext)=ffffffff9c000000\n\
                        NUMBER(phys_base)=-4096\nNUMBER(VMALLOC_START)=0xffffa50000000000\n\
                        NUMBER(pgtable_l5_enabled)=0\nKERNELOFFSET=1b000000\n";

    #[test]
    fn values() {
        let info = VmcoreInfo::parse(&note(TEXT)).unwrap();
        assert_eq!(info.text(), TEXT);
        assert_eq!(info.get("OSRELEASE"), Some("7.3.4"));
        assert_eq!(info.get("OSREL"), None);
        assert_eq!(info.symbol("_stext"), Some(0xffff_ffff_9c00_0000));
        assert_eq!(info.number("phys_base"), Some(0u64.wrapping_sub(4096)));
        assert_eq!(info.number("VMALLOC_START"), Some(0xffff_a500_0000_0000));
        assert_eq!(info.number("pgtable_l5_enabled"), Some(0));
        assert_eq!(info.kernel_offset(), Some(0x1b00_0000));
        assert_eq!(info.symbol("init_top_pgt"), None);
    }

    #[test]
    fn what_a_kernel_does_not_write_is_refused() {
        let good = note(TEXT);
        assert!(VmcoreInfo::may_begin(&good));
        for (at, byte, error) in [
            (0, 12, NoteError::Name),
            (8, 1, NoteError::Name),
            (12, b'X', NoteError::Name),
            (6, 1, NoteError::Size),
            (7, 0xff, NoteError::Size),
            (24, b'X', NoteError::Text),
            (24 + 9, 0, NoteError::Text),
            (24 + 9, 0xff, NoteError::Text),
        ] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert_eq!(VmcoreInfo::parse(&bad), Err(error), "{at}");
        }
        for length in 0..24 + TEXT.len() {
            assert!(VmcoreInfo::parse(&good[..length]).is_err(), "{length}");
        }
        assert_eq!(VmcoreInfo::parse(&note("")), Err(NoteError::Size));
        assert!(!VmcoreInfo::may_begin(&good[4..]));
        assert!(!VmcoreInfo::may_begin(&good[..20]));
    }
}
