// SPDX-License-Identifier: GPL-2.0

//! boot_params ("zero page") and the E820 memory map of an instance.
//!
//! Documentation/arch/x86/boot.rst and zero-page.rst define both.

use linux_loader::bootparam::{self, boot_e820_entry, boot_params, setup_header};
use thiserror::Error;
use vm_memory::ByteValued;

use crate::image::bzimage::{HEADER_OFFSET, MAGIC};
use crate::layout::{subtract, Range};

/// Usable memory.
pub const E820_RAM: u32 = 1;
/// Memory that the kernel leaves alone.
pub const E820_RESERVED: u32 = 2;
/// Memory with ACPI tables.
pub const E820_ACPI: u32 = 3;
/// Memory that the kernel uses for nothing but persistent storage (ACPI 6.5, table 15.7).
pub const E820_PMEM: u32 = 7;

/// boot.rst: a boot loader without an assigned number.
const LOADER_UNDEFINED: u8 = 0xff;
/// Bytes of boot_params.
pub const SIZE: usize = size_of::<boot_params>();

/// One line of the memory map.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct E820Entry {
    /// The memory.
    pub range: Range,
    /// One of `E820_*`.
    pub kind: u32,
}

/// Too many pieces of memory.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("its memory map has {0} entries where the boot protocol has room for {max}",
        max = bootparam::E820_MAX_ENTRIES_ZEROPAGE)]
pub struct TooManyEntries(usize);

/// The memory map: `low` and `ranges` as RAM, less `boot` (ACPI data) and `shared` (reserved);
/// `pmem` is none of it.
///
/// `boot` holds boot_params and command line beside the tables; the kernel copies those two early
/// and needs none of it as RAM. Sorted by address, neighbours of one kind joined.
pub fn memory_map(
    low: &[Range],
    ranges: &[Range],
    pmem: &[Range],
    boot: Range,
    shared: Range,
) -> Vec<E820Entry> {
    let all: Vec<Range> = low.iter().chain(ranges).copied().collect();
    let ram = subtract(&subtract(&all, boot), shared);
    let mut map: Vec<E820Entry> = ram
        .into_iter()
        .map(|range| (range, E820_RAM))
        .chain(pmem.iter().map(|range| (*range, E820_PMEM)))
        .chain([(boot, E820_ACPI), (shared, E820_RESERVED)])
        .map(|(range, kind)| E820Entry { range, kind })
        .collect();
    map.sort_unstable_by_key(|entry| entry.range);
    map.dedup_by(|next, entry| {
        let joined = entry.kind == next.kind && entry.range.end() == next.range.base;
        if joined {
            entry.range.size += next.range.size;
        }
        joined
    });
    map
}

/// What goes into boot_params.
#[derive(Clone, Debug)]
pub struct Description<'a> {
    /// The setup header of a bzImage; `None` makes one up for a kernel that is entered directly.
    pub setup_header: Option<&'a [u8]>,
    /// The memory map.
    pub memory_map: &'a [E820Entry],
    /// Physical address of the command line.
    pub command_line: u64,
    /// The initrd without padding.
    pub initrd: Option<Range>,
    /// Physical address of the RSDP.
    pub rsdp: u64,
    /// Where the kernel was put.
    pub kernel: u64,
}

/// Builds boot_params.
pub fn build(description: &Description<'_>) -> Result<Vec<u8>, TooManyEntries> {
    let mut params = boot_params::default();
    match description.setup_header {
        Some(header) => {
            // A newer kernel's header may be longer than the structure knows; it ends before 0x290.
            let page = params.as_mut_slice();
            page[HEADER_OFFSET..HEADER_OFFSET + header.len()].copy_from_slice(header);
        }
        None => params.hdr = made_up_header(),
    }
    let hdr = &mut params.hdr;
    hdr.type_of_loader = LOADER_UNDEFINED;
    hdr.code32_start = description.kernel as u32;
    hdr.cmd_line_ptr = description.command_line as u32;
    params.ext_cmd_line_ptr = (description.command_line >> 32) as u32;
    if let Some(initrd) = description.initrd {
        params.hdr.ramdisk_image = initrd.base as u32;
        params.hdr.ramdisk_size = initrd.size as u32;
        params.ext_ramdisk_image = (initrd.base >> 32) as u32;
        params.ext_ramdisk_size = (initrd.size >> 32) as u32;
    }
    params.acpi_rsdp_addr = description.rsdp;

    let map = description.memory_map;
    if map.len() > bootparam::E820_MAX_ENTRIES_ZEROPAGE {
        return Err(TooManyEntries(map.len()));
    }
    params.e820_entries = map.len() as u8;
    for (i, entry) in map.iter().enumerate() {
        // The structure is packed: whole entries are assigned, never borrowed.
        params.e820_table[i] = boot_e820_entry {
            addr: entry.range.base,
            size: entry.range.size,
            r#type: entry.kind,
        };
    }
    Ok(params.as_slice().to_vec())
}

/// What a kernel that has no setup header of its own looks at.
fn made_up_header() -> setup_header {
    setup_header {
        boot_flag: 0xaa55,
        header: MAGIC,
        version: 0x020f,
        loadflags: bootparam::LOADED_HIGH,
        initrd_addr_max: u32::MAX,
        kernel_alignment: 0x20_0000,
        relocatable_kernel: 1,
        min_alignment: 21,
        xloadflags: bootparam::XLF_KERNEL_64 | bootparam::XLF_CAN_BE_LOADED_ABOVE_4G,
        cmdline_size: 2047,
        ..setup_header::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    fn map() -> Vec<E820Entry> {
        memory_map(
            &[Range::new(0x20000, 0x1000), Range::new(0x21000, 0x1f000)],
            &[
                Range::new(512 * MIB, 256 * MIB),
                Range::new(1 << 32, 64 * MIB),
            ],
            &[Range::new(768 * MIB, 2 * MIB)],
            Range::new(768 * MIB - 0x23000, 0x3000),
            Range::new(768 * MIB - 0x20000, 0x20000),
        )
    }

    #[test]
    fn memory_map_of_an_instance() {
        let map: Vec<_> = map()
            .into_iter()
            .map(|entry| (entry.range.base, entry.range.end(), entry.kind))
            .collect();
        assert_eq!(
            map,
            [
                (0x20000, 0x40000, E820_RAM),
                (512 * MIB, 768 * MIB - 0x23000, E820_RAM),
                (768 * MIB - 0x23000, 768 * MIB - 0x20000, E820_ACPI),
                (768 * MIB - 0x20000, 768 * MIB, E820_RESERVED),
                (768 * MIB, 770 * MIB, E820_PMEM),
                (1 << 32, (1 << 32) + 64 * MIB, E820_RAM),
            ]
        );
    }

    fn u32_at(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    /// Offsets are those of Documentation/arch/x86/zero-page.rst.
    #[test]
    fn fields_are_where_linux_looks() {
        let map = map();
        let header = [7u8; 0x7b];
        let mut description = Description {
            setup_header: Some(&header),
            memory_map: &map,
            command_line: 0x1_4000_1000,
            initrd: Some(Range::new(0x2_5000_0000, 0x1234)),
            rsdp: 0x1_4000_2000,
            kernel: 0x1_4020_0000,
        };
        let page = build(&description).unwrap();
        assert_eq!(page.len(), 4096);
        assert_eq!((page[0x1f0], page[0x1f1]), (0, 7));
        assert_eq!(page[0x210], 0xff);
        assert_eq!(
            (u32_at(&page, 0x228), u32_at(&page, 0xc8)),
            (0x4000_1000, 1)
        );
        assert_eq!(
            (u32_at(&page, 0x218), u32_at(&page, 0xc0)),
            (0x5000_0000, 2)
        );
        assert_eq!((u32_at(&page, 0x21c), u32_at(&page, 0xc4)), (0x1234, 0));
        assert_eq!((u32_at(&page, 0x70), u32_at(&page, 0x74)), (0x4000_2000, 1));
        assert_eq!(page[0x1e8], 6);
        assert_eq!(u32_at(&page, 0x2d0), 0x20000);
        assert_eq!(u32_at(&page, 0x2d0 + 16), E820_RAM);
        assert_eq!(u32_at(&page, 0x2d0 + 20), 512 << 20);

        description.setup_header = None;
        let page = build(&description).unwrap();
        assert_eq!(&page[0x1fe..0x200], [0x55, 0xaa]);
        assert_eq!(&page[0x202..0x206], b"HdrS");
    }

    #[test]
    fn too_many_pieces() {
        let low: Vec<Range> = (0..140).map(|i| Range::new(i * 0x2000, 0x1000)).collect();
        let boot = Range::new(512 * MIB, 0x1000);
        let map = memory_map(&low, &[], &[], boot, Range::new(513 * MIB, 0x1000));
        let description = Description {
            setup_header: None,
            memory_map: &map,
            command_line: 0,
            initrd: None,
            rsdp: 0,
            kernel: 0,
        };
        assert!(build(&description)
            .unwrap_err()
            .to_string()
            .contains("142 entries"));
    }

    proptest! {
        #[test]
        fn sorted_and_apart(parts in proptest::collection::vec((0u64..8, 1u64..8), 3..12)) {
            let mut at = 0;
            let mut ranges: Vec<Range> = parts.into_iter().map(|(gap, size)| {
                let range = Range::new(at + gap * MIB, size * MIB);
                at = range.end();
                range
            }).collect();
            let total: u64 = ranges.iter().map(|range| range.size).sum();
            let shared = ranges.pop().unwrap();
            let boot = Range::new(ranges[0].base, 0x1000);
            ranges.push(shared);
            let map = memory_map(&[], &ranges, &[], boot, shared);
            prop_assert!(map.windows(2).all(|w| w[0].range.end() <= w[1].range.base));
            prop_assert_eq!(map.iter().map(|entry| entry.range.size).sum::<u64>(), total);
        }
    }
}
