// SPDX-License-Identifier: GPL-2.0

//! ELF vmlinux, entered at `startup_64` without a decompressor.
//!
//! `startup_64` computes where it runs from its own instruction pointer and fixes up its page
//! tables (`__startup_64()`, arch/x86/boot/startup/map_kernel.c), so a 64-bit kernel runs at any
//! physical address that differs from the linked one by a multiple of 2 MiB. Virtual addresses stay
//! as linked, so no relocation is applied.

use object::elf::{self, FileHeader64, ProgramHeader64};
use object::read::elf::{FileHeader as _, ProgramHeader as _};
use object::LittleEndian;

use super::{check_size, slice, ImageError, KernelVersion, Part};
use crate::layout::{align_down, KernelNeed, PAGE};

/// What the physical address may be moved by: the size of a large page.
const ALIGN: u64 = 0x20_0000;
/// What starts the kernel's banner (init/version-timestamp.c).
const BANNER: &[u8] = b"Linux version ";
/// The kernel's maximum of program headers is far below; more is a corrupt file.
const SEGMENTS_MAX: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Load<'a> {
    address: u64,
    data: &'a [u8],
    memory_size: u64,
}

/// A parsed vmlinux.
#[derive(Debug)]
pub struct Vmlinux<'a> {
    file: &'a [u8],
    loads: Vec<Load<'a>>,
    /// All of the file's bytes by offset from `base`, where they do not fall on separate pages.
    flat: Option<Vec<u8>>,
    base: u64,
    size: u64,
    entry: u64,
}

fn corrupt(what: impl std::fmt::Display) -> ImageError {
    ImageError::Corrupt(what.to_string())
}

impl<'a> Vmlinux<'a> {
    /// Parses the program headers.
    ///
    /// Bytes behind the ELF image, such as the relocations that a bzImage carries, are ignored.
    pub fn parse(file: &'a [u8]) -> Result<Self, ImageError> {
        slice(
            file,
            0,
            size_of::<FileHeader64<LittleEndian>>() as u64,
            "the ELF header",
        )?;
        // EI_CLASS and EI_DATA: anything else would be parsed with the wrong layout.
        if file[4..6] != [elf::ELFCLASS64.0, elf::ELFDATA2LSB.0] {
            return Err(ImageError::Unsupported(
                "it is not a 64-bit little-endian ELF file".into(),
            ));
        }
        let header = FileHeader64::<LittleEndian>::parse(file).map_err(corrupt)?;
        let endian = LittleEndian;
        if header.e_machine(endian) != elf::EM_X86_64 {
            return Err(ImageError::Unsupported(
                "it is not an x86-64 ELF file".into(),
            ));
        }
        if header.e_type(endian) != elf::ET_EXEC {
            return Err(ImageError::Unsupported(
                "it is not an executable ELF file: a kernel's vmlinux is one".into(),
            ));
        }
        let headers = header
            .program_headers(endian, file)
            .map_err(|_| ImageError::Truncated {
                what: "the table of program headers",
                end: header
                    .e_phoff(endian)
                    .saturating_add(u64::from(header.e_phnum(endian)) * 56),
                len: file.len() as u64,
            })?;
        if headers.len() > SEGMENTS_MAX {
            return Err(corrupt(format_args!(
                "it has {} program headers",
                headers.len()
            )));
        }
        let mut loads = Vec::new();
        for segment in headers {
            loads.extend(load(file, segment)?);
        }
        loads.sort_unstable_by_key(|load: &Load<'_>| load.address);

        let (first, end) = match loads.as_slice() {
            [] => return Err(corrupt("nothing in it is to be loaded")),
            [first, ..] => (first.address, extent_end(&loads)?),
        };
        let base = align_down(first, ALIGN);
        let size = end - base;
        check_size(size)?;
        let entry = header.e_entry(endian);
        let in_file = |load: &Load<'_>| {
            entry >= load.address && entry - load.address < load.data.len() as u64
        };
        if !loads.iter().any(in_file) {
            return Err(corrupt(format_args!(
                "its entry {entry:#x} is not in what is loaded"
            )));
        }
        loads.retain(|load| !load.data.is_empty());
        let flat = (!on_separate_pages(&loads)).then(|| flatten(&loads, base));
        Ok(Self {
            file,
            loads,
            flat,
            base,
            size,
            entry,
        })
    }

    /// What it needs of memory.
    pub fn need(&self) -> KernelNeed {
        KernelNeed {
            size: self.size,
            align: ALIGN,
            preferred: self.base,
            lowest: 0x10_0000,
            relocatable: true,
            above_4g: true,
        }
    }

    /// The entry point, from the base.
    pub fn entry_offset(&self) -> u64 {
        self.entry - self.base
    }

    /// The bytes to load. What a segment has beyond them (.bss, .brk) is cleared by the kernel
    /// itself, which has to anyway: its decompressor leaves it dirty.
    pub fn parts(&self) -> Vec<Part<'_>> {
        if let Some(data) = &self.flat {
            return vec![Part { offset: 0, data }];
        }
        self.loads
            .iter()
            .map(|load| Part {
                offset: load.address - self.base,
                data: load.data,
            })
            .collect()
    }

    /// The version in the kernel's banner.
    pub fn version(&self) -> Option<KernelVersion> {
        // There are format strings that start alike; the banner is the one with a number.
        memchr::memmem::find_iter(self.file, BANNER)
            .find_map(|at| KernelVersion::parse(self.file.get(at + BANNER.len()..)?))
    }
}

fn load<'a>(
    file: &'a [u8],
    segment: &ProgramHeader64<LittleEndian>,
) -> Result<Option<Load<'a>>, ImageError> {
    let endian = LittleEndian;
    if segment.p_type(endian) != elf::PT_LOAD || segment.p_memsz(endian) == 0 {
        return Ok(None);
    }
    let (file_size, memory_size) = (segment.p_filesz(endian), segment.p_memsz(endian));
    if file_size > memory_size {
        return Err(corrupt("a segment is larger in the file than in memory"));
    }
    Ok(Some(Load {
        address: segment.p_paddr(endian),
        data: slice(file, segment.p_offset(endian), file_size, "a segment")?,
        memory_size,
    }))
}

/// The end of the last segment; an error if two overlap or one wraps.
fn extent_end(loads: &[Load<'_>]) -> Result<u64, ImageError> {
    let mut end = 0;
    for load in loads {
        if load.address < end {
            return Err(corrupt(format_args!(
                "two segments overlap at {:#x}",
                load.address
            )));
        }
        end = load
            .address
            .checked_add(load.memory_size)
            .ok_or_else(|| corrupt("a segment wraps around the end of memory"))?;
    }
    Ok(end)
}

fn on_separate_pages(loads: &[Load<'_>]) -> bool {
    let aligned = loads.iter().all(|load| load.address % PAGE == 0);
    aligned
        && loads.windows(2).all(|pair| {
            let end = pair[0].address + pair[0].data.len() as u64;
            end.div_ceil(PAGE) <= pair[1].address / PAGE
        })
}

fn flatten(loads: &[Load<'_>], base: u64) -> Vec<u8> {
    let mut flat = Vec::new();
    for load in loads {
        // Below KERNEL_SIZE_MAX, as the whole extent was checked to be.
        let at = (load.address - base) as usize;
        flat.resize(at.max(flat.len()), 0);
        flat.truncate(at);
        flat.extend_from_slice(load.data);
    }
    flat
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::image::Image;
    use proptest::prelude::*;

    const BASE: u64 = 0x100_0000;

    /// (address, bytes in the file, bytes in memory)
    pub(crate) fn build(segments: &[(u64, &[u8], u64)], entry: u64) -> Vec<u8> {
        let mut file = Vec::new();
        file.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        file.extend_from_slice(&2u16.to_le_bytes());
        file.extend_from_slice(&62u16.to_le_bytes());
        file.extend_from_slice(&1u32.to_le_bytes());
        file.extend_from_slice(&entry.to_le_bytes());
        file.extend_from_slice(&64u64.to_le_bytes());
        file.extend_from_slice(&0u64.to_le_bytes());
        file.extend_from_slice(&0u32.to_le_bytes());
        for field in [64u16, 56, segments.len() as u16, 64, 0, 0] {
            file.extend_from_slice(&field.to_le_bytes());
        }
        let mut offset = 64 + 56 * segments.len() as u64;
        for (address, data, memory) in segments {
            file.extend_from_slice(&1u32.to_le_bytes());
            file.extend_from_slice(&7u32.to_le_bytes());
            for field in [
                offset,
                address.wrapping_add(0xffff_ffff_8000_0000),
                *address,
                data.len() as u64,
                *memory,
                0x20_0000,
            ] {
                file.extend_from_slice(&field.to_le_bytes());
            }
            offset += data.len() as u64;
        }
        for (_, data, _) in segments {
            file.extend_from_slice(data);
        }
        file
    }

    pub(crate) fn kernel() -> Vec<u8> {
        let mut text = vec![0x90u8; 0x3000];
        text[0x100..0x122].copy_from_slice(b"Linux version %s\0Linux version 6.9");
        build(
            &[
                (BASE, &text, 0x3000),
                (BASE + 0x20_0000, b"data", 0x10_0000),
            ],
            BASE + 0x80,
        )
    }

    #[test]
    fn segments_entry_version() {
        let file = kernel();
        let image = Image::parse(&file).unwrap();
        assert_eq!(image.format(), "vmlinux");
        assert_eq!(image.version(), Some(KernelVersion { major: 6, minor: 9 }));
        assert_eq!(image.need().preferred, BASE);
        assert_eq!(image.need().size, 0x30_0000);
        assert_eq!(image.entry(0x1_4000_0000), 0x1_4000_0080);
        let parts = image.parts();
        assert_eq!(parts.len(), 2);
        assert_eq!((parts[1].offset, parts[1].data), (0x20_0000, &b"data"[..]));
    }

    #[test]
    fn bytes_behind_the_image_are_ignored() {
        let mut file = kernel();
        file.extend_from_slice(&[0xaa; 64]);
        assert!(Image::parse(&file).is_ok());
    }

    #[test]
    fn segments_on_one_page_are_joined() {
        let file = build(&[(BASE, b"ab", 2), (BASE + 3, b"cd", 0x2000)], BASE);
        let image = Image::parse(&file).unwrap();
        let parts = image.parts();
        assert_eq!(parts.len(), 1);
        assert_eq!(parts[0].data, b"ab\0cd");
    }

    #[test]
    fn what_is_refused() {
        let error = |segments: &[(u64, &[u8], u64)], entry| {
            Image::parse(&build(segments, entry))
                .map(|_| ())
                .unwrap_err()
                .to_string()
        };
        assert!(error(&[], BASE).contains("nothing in it"));
        assert!(error(&[(BASE, b"ab", 1)], BASE).contains("larger in the file"));
        assert!(error(&[(BASE, b"ab", 9), (BASE + 8, b"c", 1)], BASE).contains("overlap"));
        assert!(error(&[(u64::MAX, b"ab", 2)], u64::MAX).contains("wraps"));
        assert!(error(&[(BASE, b"ab", 2)], BASE + 2).contains("entry"));
        assert!(error(&[(BASE, b"ab", 2 << 30)], BASE).contains("claims to need"));
        let mut arm = kernel();
        arm[18] = 183;
        assert!(Image::parse(&arm)
            .unwrap_err()
            .to_string()
            .contains("x86-64"));
        let mut object = kernel();
        object[16] = 1;
        assert!(Image::parse(&object)
            .unwrap_err()
            .to_string()
            .contains("executable"));
    }

    proptest! {
        #[test]
        fn truncation_never_panics(len in 0usize..0x3100) {
            let file = kernel();
            let len = len.min(file.len() - 1);
            prop_assert!(Image::parse(&file[..len]).is_err());
        }

        #[test]
        fn mutation_never_panics(at in 0usize..176, value: u8) {
            let mut file = kernel();
            file[at] = value;
            exercise(&file);
        }

        #[test]
        fn random_headers_never_panic(bytes in proptest::collection::vec(any::<u8>(), 160)) {
            let mut file = kernel();
            file[16..176].copy_from_slice(&bytes);
            exercise(&file);
            file[16..20].copy_from_slice(&[2, 0, 62, 0]);
            exercise(&file);
        }
    }

    fn exercise(file: &[u8]) {
        if let Ok(image) = Image::parse(file) {
            let size = image.need().size;
            let mut end = 0;
            for part in image.parts() {
                assert!(part.offset >= end && part.offset % PAGE == 0);
                end = (part.offset + part.data.len() as u64).next_multiple_of(PAGE);
                assert!(part.offset + part.data.len() as u64 <= size);
            }
            let _ = (image.version(), image.entry(u64::MAX));
        }
    }
}
