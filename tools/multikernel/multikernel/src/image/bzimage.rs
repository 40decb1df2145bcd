// SPDX-License-Identifier: GPL-2.0

//! bzImage: the setup header, and what it says about the kernel behind it.
//!
//! Field offsets and meanings are those of Documentation/arch/x86/boot.rst.

use linux_loader::bootparam::{self, setup_header};
use vm_memory::ByteValued;

use super::{check_size, slice, ImageError};
use crate::layout::KernelNeed;

/// Offset of the setup header in the file and in boot_params.
pub const HEADER_OFFSET: usize = 0x1f1;
/// The 64-bit entry point, from the start of the protected-mode part.
pub const ENTRY_64: u64 = 0x200;
/// "HdrS".
pub const MAGIC: u32 = 0x5372_6448;
/// The first protocol version with `init_size` and `pref_address`; 64-bit entry needs 2.12.
const VERSION_MIN: u16 = 0x020c;
/// Where boot_params goes on behind the setup header.
const HEADER_END_MAX: usize = 0x290;
/// A version string is not longer than this.
const VERSION_STRING_MAX: usize = 256;

/// Whether the file has the magic number of the boot protocol in its place.
pub fn is_bzimage(file: &[u8]) -> bool {
    file.get(0x202..0x206) == Some(&MAGIC.to_le_bytes())
}

/// A parsed bzImage.
#[derive(Debug)]
pub struct BzImage<'a> {
    file: &'a [u8],
    header: setup_header,
    header_bytes: &'a [u8],
    protected_mode: &'a [u8],
}

impl<'a> BzImage<'a> {
    /// Parses the setup header and finds the protected-mode part.
    pub fn parse(file: &'a [u8]) -> Result<Self, ImageError> {
        // The header's length is that of the jump over it: its second byte, at 0x201.
        let jump = slice(file, 0x200, 6, "the setup header")?[1];
        let header_end = (0x202 + usize::from(jump)).min(HEADER_END_MAX);
        let header_bytes = slice(
            file,
            HEADER_OFFSET as u64,
            header_end.saturating_sub(HEADER_OFFSET) as u64,
            "the setup header",
        )?;
        let mut header = setup_header::default();
        let known = size_of::<setup_header>().min(header_bytes.len());
        header.as_mut_slice()[..known].copy_from_slice(&header_bytes[..known]);

        let version = header.version;
        let xloadflags = header.xloadflags;
        if { header.header } != MAGIC {
            return Err(ImageError::UnknownFormat);
        }
        if version < VERSION_MIN || xloadflags & bootparam::XLF_KERNEL_64 == 0 {
            return Err(ImageError::Unsupported(format!(
                "it has no 64-bit entry point (boot protocol {}.{:02}): an x86-64 kernel, Linux \
                 3.8 or newer, is needed",
                version >> 8,
                version & 0xff
            )));
        }
        if header.loadflags & bootparam::LOADED_HIGH == 0 {
            return Err(ImageError::Unsupported(
                "it is a zImage, not a bzImage".into(),
            ));
        }
        // boot.rst: 0 stands for 4.
        let setup_sects = match header.setup_sects {
            0 => 4,
            n => u64::from(n),
        };
        let start = (setup_sects + 1) * 512;
        // syssize counts units of 16 bytes. A signature may follow.
        let len = u64::from(header.syssize) * 16;
        let protected_mode = slice(file, start, len, "the protected-mode kernel")?;
        if len <= ENTRY_64 {
            return Err(ImageError::Corrupt(
                "it has no protected-mode kernel".into(),
            ));
        }
        let image = Self {
            file,
            header,
            header_bytes,
            protected_mode,
        };
        image.check()?;
        Ok(image)
    }

    fn check(&self) -> Result<(), ImageError> {
        let header = &self.header;
        let (init_size, align) = (header.init_size, header.kernel_alignment);
        check_size(u64::from(init_size))?;
        if u64::from(init_size) < self.protected_mode.len() as u64 {
            return Err(ImageError::Corrupt(format!(
                "it needs {init_size:#x} bytes by its header and is {:#x} bytes long",
                self.protected_mode.len()
            )));
        }
        if !align.is_power_of_two() || !(0x1000..=0x4000_0000).contains(&align) {
            return Err(ImageError::Corrupt(format!("its alignment is {align:#x}")));
        }
        Ok(())
    }

    /// What it needs of memory.
    ///
    /// The decompressor moves itself to the end of `init_size` bytes from its base, so that much is
    /// taken from the first instruction on. A base below `pref_address` makes it decompress to
    /// `pref_address` all the same (arch/x86/boot/compressed/head_64.S).
    pub fn need(&self) -> KernelNeed {
        let header = &self.header;
        let above_4g = header.xloadflags & bootparam::XLF_CAN_BE_LOADED_ABOVE_4G != 0;
        KernelNeed {
            size: u64::from(header.init_size),
            align: u64::from(header.kernel_alignment),
            preferred: header.pref_address,
            lowest: header.pref_address,
            relocatable: header.relocatable_kernel != 0,
            above_4g,
        }
    }

    /// The part that runs in 64-bit mode.
    pub fn protected_mode(&self) -> &'a [u8] {
        self.protected_mode
    }

    /// The setup header as it is in the file.
    pub fn setup_header(&self) -> &'a [u8] {
        self.header_bytes
    }

    /// Bytes of the longest command line, without the terminating zero.
    pub fn command_line_max(&self) -> u32 {
        self.header.cmdline_size
    }

    /// The version string, such as `6.1.0-18-cloud-amd64 (…) #1 SMP …`.
    pub fn version_string(&self) -> Option<&'a [u8]> {
        let pointer = usize::from(self.header.kernel_version);
        let text = match pointer {
            0 => return None,
            _ => self.file.get(pointer + 0x200..)?,
        };
        let text = &text[..text.len().min(VERSION_STRING_MAX)];
        Some(&text[..memchr::memchr(0, text)?])
    }

    /// The compressed kernel. Behind it, and not part of what its compression knows, may be four
    /// bytes with the unpacked size.
    pub fn payload(&self) -> Result<&'a [u8], ImageError> {
        let (offset, len) = (self.header.payload_offset, self.header.payload_length);
        if len == 0 {
            return Err(ImageError::Payload(
                "the header does not say where it is".into(),
            ));
        }
        slice(
            self.protected_mode,
            u64::from(offset),
            u64::from(len),
            "the compressed kernel",
        )
    }

    /// Unpacks the ELF kernel.
    pub fn extract(&self) -> Result<Vec<u8>, ImageError> {
        super::payload::unpack(self.payload()?)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::image::{Image, KernelVersion};
    use proptest::prelude::*;

    /// A file of the shape that the kernel's build gives it: 1 + 3 setup sectors, then `payload` in
    /// a protected-mode part.
    pub(crate) fn build(payload: &[u8]) -> Vec<u8> {
        const SETUP: usize = 4 * 512;
        const PAYLOAD_OFFSET: usize = 0x400;
        let version = b"7.3.4-test (someone@somewhere) #1\0";
        let body = (PAYLOAD_OFFSET + payload.len() + 64).next_multiple_of(16);
        let mut file = vec![0u8; SETUP + body];
        let header = setup_header {
            setup_sects: 3,
            syssize: (body / 16) as u32,
            boot_flag: 0xaa55,
            jump: 0x6aeb,
            header: MAGIC,
            version: 0x020f,
            kernel_version: 0x300,
            loadflags: bootparam::LOADED_HIGH,
            kernel_alignment: 0x20_0000,
            relocatable_kernel: 1,
            min_alignment: 21,
            xloadflags: bootparam::XLF_KERNEL_64 | bootparam::XLF_CAN_BE_LOADED_ABOVE_4G,
            cmdline_size: 2047,
            payload_offset: PAYLOAD_OFFSET as u32,
            payload_length: payload.len() as u32,
            pref_address: 0x100_0000,
            init_size: 0x200_0000,
            ..Default::default()
        };
        let bytes = header.as_slice();
        file[HEADER_OFFSET..HEADER_OFFSET + bytes.len()].copy_from_slice(bytes);
        file[0x500..0x500 + version.len()].copy_from_slice(version);
        let at = SETUP + PAYLOAD_OFFSET;
        file[at..at + payload.len()].copy_from_slice(payload);
        file
    }

    #[test]
    fn header_is_read() {
        let file = build(b"payload");
        let image = Image::parse(&file).unwrap();
        assert_eq!(image.format(), "bzImage");
        assert_eq!(image.version(), Some(KernelVersion { major: 7, minor: 3 }));
        assert_eq!(image.entry(0x4000_0000), 0x4000_0200);
        let need = image.need();
        assert_eq!((need.size, need.align), (0x200_0000, 0x20_0000));
        assert!(need.relocatable && need.above_4g);
        assert_eq!(image.setup_header().unwrap()[0], 3);
        let Image::BzImage(image) = image else {
            unreachable!()
        };
        assert_eq!(image.payload().unwrap(), b"payload");
    }

    #[test]
    fn what_is_refused() {
        let error = |edit: &dyn Fn(&mut Vec<u8>)| {
            let mut file = build(b"payload");
            edit(&mut file);
            Image::parse(&file).map(|_| ()).unwrap_err()
        };
        let unsupported = |e: ImageError| matches!(e, ImageError::Unsupported(_));
        let corrupt = |e: ImageError| matches!(e, ImageError::Corrupt(_));
        // No 64-bit entry; an old protocol; a zImage.
        assert!(unsupported(error(&|f| f[0x236] = 0)));
        assert!(unsupported(error(&|f| f[0x206] = 0x0a)));
        assert!(unsupported(error(&|f| f[0x211] = 0)));
        // Alignment not a power of two; init_size of 0, and of 4 GiB.
        assert!(corrupt(error(&|f| f[0x230] = 3)));
        assert!(corrupt(error(&|f| f[0x260..0x264].fill(0))));
        assert!(corrupt(error(&|f| f[0x260..0x264].fill(0xff))));
        // Cut off.
        let cut = error(&|f| f.truncate(f.len() - 1));
        assert!(cut.to_string().contains("truncated"), "{cut}");
    }

    proptest! {
        #[test]
        fn truncation_never_panics(len in 0usize..0xd00) {
            let file = build(b"payload");
            let file = &file[..len.min(file.len() - 1)];
            prop_assert!(Image::parse(file).is_err());
        }

        #[test]
        fn mutation_never_panics(at in 0x1f1usize..0x280, value: u8) {
            let mut file = build(b"payload");
            file[at] = value;
            exercise(&file);
        }

        #[test]
        fn random_header_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0x7b)) {
            let mut file = build(b"payload");
            file[HEADER_OFFSET..HEADER_OFFSET + bytes.len()].copy_from_slice(&bytes);
            exercise(&file);
            file[0x202..0x206].copy_from_slice(b"HdrS");
            exercise(&file);
        }
    }

    fn exercise(file: &[u8]) {
        if let Ok(image) = Image::parse(file) {
            let _ = (
                image.need(),
                image.version(),
                image.parts(),
                image.entry(u64::MAX),
            );
            if let Image::BzImage(image) = image {
                let _ = image.extract();
            }
        }
    }
}
