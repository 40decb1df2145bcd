// SPDX-License-Identifier: GPL-2.0

//! Kernel files: what they are, what they need, which bytes go where.
//!
//! Parsing only: a file comes in as bytes, and every offset and length in it is checked before it
//! is used, so that a truncated or corrupt file gives an [`ImageError`] and nothing else.

pub mod bzimage;
pub mod payload;
pub mod vmlinux;

use thiserror::Error;

use crate::layout::KernelNeed;
use crate::spec::format_size;

pub use bzimage::BzImage;
pub use vmlinux::Vmlinux;

/// Why a file cannot be used as a kernel.
#[derive(Clone, Debug, Error, Eq, PartialEq)]
pub enum ImageError {
    /// Neither of the known formats.
    #[error("it is neither a bzImage nor an ELF file")]
    UnknownFormat,
    /// The file ends before what its header announces.
    #[error("the file is truncated: {what} should end at byte {end}, the file has {len}")]
    Truncated {
        /// Which part.
        what: &'static str,
        /// Where it should end.
        end: u64,
        /// Bytes that there are.
        len: u64,
    },
    /// A field that cannot be.
    #[error("the file is corrupt: {0}")]
    Corrupt(String),
    /// A well-formed kernel that cannot be a spawn.
    #[error("{0}")]
    Unsupported(String),
    /// The compressed kernel inside a bzImage cannot be unpacked.
    #[error("the kernel inside the bzImage cannot be unpacked: {0}")]
    Payload(String),
}

/// Major and minor number of a Linux version.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct KernelVersion {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
}

impl KernelVersion {
    /// Reads the two numbers that a text such as `6.1.0-18-cloud-amd64 (…)` starts with.
    pub fn parse(text: &[u8]) -> Option<Self> {
        fn number(text: &[u8]) -> Option<(u32, &[u8])> {
            let digits = text.iter().take_while(|b| b.is_ascii_digit()).count();
            let value = std::str::from_utf8(&text[..digits]).ok()?.parse().ok()?;
            Some((value, &text[digits..]))
        }
        let (major, rest) = number(text)?;
        let (minor, _) = number(rest.strip_prefix(b".")?)?;
        Some(Self { major, minor })
    }
}

/// Bytes that go to one physical address.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// Offset from the base that the layout chose for the kernel, a multiple of a page.
    pub offset: u64,
    /// The bytes.
    pub data: &'a [u8],
}

/// A kernel that can be loaded.
#[derive(Debug)]
pub enum Image<'a> {
    /// A compressed kernel with its decompressor.
    BzImage(BzImage<'a>),
    /// An ELF kernel, entered directly.
    Vmlinux(Vmlinux<'a>),
}

impl<'a> Image<'a> {
    /// Recognises and parses a kernel file.
    pub fn parse(file: &'a [u8]) -> Result<Self, ImageError> {
        if file.starts_with(b"\x7fELF") {
            return Ok(Self::Vmlinux(Vmlinux::parse(file)?));
        }
        if bzimage::is_bzimage(file) {
            return Ok(Self::BzImage(BzImage::parse(file)?));
        }
        if payload::Compression::detect(file).is_some() {
            return Err(ImageError::Unsupported(
                "it is a compressed file without a decompressor in front: unpack it first".into(),
            ));
        }
        Err(ImageError::UnknownFormat)
    }

    /// What the format is called.
    pub fn format(&self) -> &'static str {
        match self {
            Self::BzImage(_) => "bzImage",
            Self::Vmlinux(_) => "vmlinux",
        }
    }

    /// What it needs of memory.
    pub fn need(&self) -> KernelNeed {
        match self {
            Self::BzImage(image) => image.need(),
            Self::Vmlinux(image) => image.need(),
        }
    }

    /// The entry address when the kernel is at `base`.
    pub fn entry(&self, base: u64) -> u64 {
        match self {
            Self::BzImage(_) => base.wrapping_add(bzimage::ENTRY_64),
            Self::Vmlinux(image) => base.wrapping_add(image.entry_offset()),
        }
    }

    /// The bytes to load, in ascending order, none sharing a page with another.
    pub fn parts(&self) -> Vec<Part<'_>> {
        match self {
            Self::BzImage(image) => vec![Part {
                offset: 0,
                data: image.protected_mode(),
            }],
            Self::Vmlinux(image) => image.parts(),
        }
    }

    /// The version, if the file tells.
    pub fn version(&self) -> Option<KernelVersion> {
        match self {
            Self::BzImage(image) => KernelVersion::parse(image.version_string()?),
            Self::Vmlinux(image) => image.version(),
        }
    }

    /// The setup header that the kernel finds in its boot_params, from offset 0x1f1 on.
    pub fn setup_header(&self) -> Option<&[u8]> {
        match self {
            Self::BzImage(image) => Some(image.setup_header()),
            Self::Vmlinux(_) => None,
        }
    }

    /// The longest command line that the kernel takes, in bytes without the terminating zero.
    pub fn command_line_max(&self) -> u64 {
        match self {
            Self::BzImage(image) => u64::from(image.command_line_max()),
            // COMMAND_LINE_SIZE - 1 of arch/x86/include/asm/setup.h; an ELF file does not say.
            Self::Vmlinux(_) => 2047,
        }
    }
}

/// The bytes `start..start + len` of a file, or an error that names the missing part.
fn slice<'a>(
    file: &'a [u8],
    start: u64,
    len: u64,
    what: &'static str,
) -> Result<&'a [u8], ImageError> {
    let end = start
        .checked_add(len)
        .ok_or_else(|| ImageError::Corrupt(format!("{what} wraps around the end of memory")))?;
    let truncated = ImageError::Truncated {
        what,
        end,
        len: file.len() as u64,
    };
    match (usize::try_from(start), usize::try_from(end)) {
        (Ok(start), Ok(end)) => file.get(start..end).ok_or(truncated),
        _ => Err(truncated),
    }
}

/// The most memory that a kernel is believed to need: more is a corrupt header.
const KERNEL_SIZE_MAX: u64 = 1 << 30;

fn check_size(size: u64) -> Result<(), ImageError> {
    if size == 0 || size > KERNEL_SIZE_MAX {
        return Err(ImageError::Corrupt(format!(
            "it claims to need {} of memory",
            format_size(size)
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let version = |text: &str| KernelVersion::parse(text.as_bytes());
        let is = |major, minor| Some(KernelVersion { major, minor });
        assert_eq!(version("6.1.0-18-cloud-amd64 (x@y)"), is(6, 1));
        assert_eq!(version("7.3-rc1"), is(7, 3));
        assert_eq!(version("6.10"), is(6, 10));
        assert!(is(6, 10) > is(6, 9));
        for bad in ["", "6", "6.", ".1", "x6.1", "99999999999.1"] {
            assert_eq!(version(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_not_a_kernel() {
        assert_eq!(Image::parse(b"").unwrap_err(), ImageError::UnknownFormat);
        assert_eq!(
            Image::parse(b"#!/bin/sh").unwrap_err(),
            ImageError::UnknownFormat
        );
        let error = Image::parse(&[0x1f, 0x8b, 8, 0]).unwrap_err();
        assert!(matches!(error, ImageError::Unsupported(_)));
    }
}
