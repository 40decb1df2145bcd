// SPDX-License-Identifier: GPL-2.0

//! An instance's memory as an ELF core that `gdb` and `crash` open.
//!
//! The file is laid out as kdump's `/proc/vmcore`: notes with the registers of each CPU and
//! VMCOREINFO, and the memory by its virtual and physical addresses. The memory is in the file
//! once; what the kernel maps a second time (its own text and data, its vmalloc area with stacks
//! and modules) has a header of its own that leads to the same bytes, so that a debugger which
//! knows nothing of page tables finds it too.
//!
//! Everything about the spawn's kernel comes out of its memory, is checked, and may be missing:
//! then the file has less in it, and [`Plan::remarks`] says what.

mod elf;
mod paging;
mod vmcoreinfo;

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;

use crate::device::{Instance, InstanceInfo};
use crate::layout::Range;
use crate::shared::{Area, Registers};
use crate::{Error, Result};
use elf::Segment;
use paging::{Mapping, Tables};

pub use vmcoreinfo::{NoteError, VmcoreInfo, NOTE_MAX};

/// `__START_KERNEL_map` (arch/x86/include/asm/page_64_types.h): where the kernel's image is mapped.
const KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;
/// What the mapping of the image is aligned to: its smallest CONFIG_PHYSICAL_ALIGN.
const KERNEL_ALIGN: u64 = 2 << 20;
/// KERNEL_IMAGE_SIZE where VMCOREINFO does not say: the smaller of the two that there are.
const KERNEL_IMAGE_SIZE: u64 = 512 << 20;
/// Where the direct map begins without CONFIG_RANDOMIZE_MEMORY, with page tables of four levels.
const DIRECT_MAP: u64 = 0xffff_8880_0000_0000;
/// What CONFIG_RANDOMIZE_MEMORY moves the direct map by multiples of.
const DIRECT_MAP_ALIGN: u64 = 1 << 30;
/// CPU_ENTRY_AREA_BASE and the last byte of its area: stacks of exceptions.
const CPU_ENTRY_AREA: (u64, u64) = (0xffff_fe00_0000_0000, 0xffff_fe7f_ffff_ffff);
/// MODULES_END, less one.
const MODULES_LAST: u64 = 0xffff_ffff_feff_ffff;
/// The most pieces of further mappings that are put into a dump: an ELF file can have 65534 in all.
const MAPPINGS_MAX: usize = 32 << 10;
/// Bytes that are read at once.
const PIECE: usize = 1 << 20;
const PAGE: usize = 4096;

/// Physical memory of an instance.
pub trait Memory {
    /// Fills the buffer from an address on; all of it is in one range of the instance.
    fn read(&self, base: u64, buffer: &mut [u8]) -> Result<()>;
}

impl Memory for Instance {
    fn read(&self, base: u64, buffer: &mut [u8]) -> Result<()> {
        self.read_memory(base, buffer)
    }
}

/// What is known of an instance before its memory is looked at.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// Its memory.
    pub ranges: Vec<Range>,
    /// Registers of the spawn's CPUs, as far as they were left behind.
    pub cpus: Vec<Option<Registers>>,
    /// Physical address and size of the VMCOREINFO note, if the spawn told.
    pub vmcoreinfo: Option<(u64, u32)>,
}

impl Source {
    /// Collects it from what the kernel and the spawn say.
    pub fn new(info: &InstanceInfo, area: Option<&Area<'_>>) -> Self {
        let mut ranges: Vec<Range> = info.memory.iter().map(|memory| memory.range()).collect();
        ranges.sort_unstable();
        let header = area.and_then(|area| area.header().ok());
        let vmcoreinfo = header.and_then(|header| match header.vmcoreinfo_base {
            0 => None,
            base => Some((base, header.vmcoreinfo_size)),
        });
        // As many CPUs as the instance has; those the spawn never had online have no registers.
        let registers = |cpu| area.filter(|_| header.is_some())?.registers(cpu);
        Self {
            ranges,
            cpus: (0..info.cpus.len()).map(registers).collect(),
            vmcoreinfo,
        }
    }
}

/// A dump that is ready to be written.
#[derive(Clone, Debug)]
pub struct Plan {
    header: Vec<u8>,
    ranges: Vec<Range>,
    vmcoreinfo: Option<VmcoreInfo>,
    remarks: Vec<String>,
}

impl Plan {
    /// Looks through the memory for what the headers have to say.
    pub fn new(memory: &impl Memory, source: &Source) -> Self {
        let mut remarks = Vec::new();
        let vmcoreinfo = find_vmcoreinfo(memory, source, &mut remarks);
        let segments = match &vmcoreinfo {
            Some(info) => segments(memory, source, info, &mut remarks),
            None => {
                remarks.push(
                    "it says nothing of how its kernel maps memory: addresses are right for one \
                     without KASLR only"
                        .to_owned(),
                );
                direct_map(&source.ranges, DIRECT_MAP)
            }
        };
        let notes = elf::notes(&source.cpus, vmcoreinfo.as_ref().map(VmcoreInfo::text));
        Self {
            header: elf::header(&notes, &segments),
            ranges: source.ranges.clone(),
            vmcoreinfo,
            remarks,
        }
    }

    /// What is missing in the dump, and why.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// What the spawn's kernel says about itself.
    pub fn vmcoreinfo(&self) -> Option<&VmcoreInfo> {
        self.vmcoreinfo.as_ref()
    }

    /// Bytes of memory.
    pub fn memory_bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.size).sum()
    }

    /// Writes the dump into an empty file, and says how many bytes of memory are not zero pages,
    /// which become holes. `progress` hears how many bytes have been read.
    pub fn write(
        &self,
        memory: &impl Memory,
        file: &File,
        mut progress: impl FnMut(u64),
    ) -> Result<u64> {
        let failed = |error: io::Error| Error::new("cannot write the dump", error);
        let start = self.header.len() as u64;
        file.write_all_at(&self.header, 0).map_err(failed)?;
        let (mut written, mut offset) = (0, 0);
        let mut buffer = vec![0; PIECE];
        for piece in pieces(&self.ranges) {
            let bytes = &mut buffer[..piece.size as usize];
            memory.read(piece.base, bytes)?;
            for (at, run) in runs(bytes) {
                file.write_all_at(run, start + offset + at as u64)
                    .map_err(failed)?;
                written += run.len() as u64;
            }
            offset += piece.size;
            progress(offset);
        }
        // What ends in a hole.
        file.set_len(start + offset).map_err(failed)?;
        Ok(written)
    }
}

/// The ranges in pieces that are read at once.
fn pieces(ranges: &[Range]) -> impl Iterator<Item = Range> + '_ {
    ranges.iter().flat_map(|range| {
        (0..range.size).step_by(PIECE).map(|at| {
            let size = (range.size - at).min(PIECE as u64);
            Range::new(range.base + at, size)
        })
    })
}

/// Pages that follow each other and are not zero, with their offset.
fn runs(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let zero = |at: usize| {
        bytes[at..bytes.len().min(at + PAGE)]
            .iter()
            .all(|b| *b == 0)
    };
    let mut next = 0;
    std::iter::from_fn(move || {
        while next < bytes.len() && zero(next) {
            next += PAGE;
        }
        let start = next;
        while next < bytes.len() && !zero(next) {
            next += PAGE;
        }
        (start < bytes.len()).then(|| (start, &bytes[start..next.min(bytes.len())]))
    })
}

/// Where a physical address is in the file, counted from where the memory begins, and how many
/// bytes of the same range follow it.
fn offset_of(ranges: &[Range], phys: u64) -> Option<(u64, u64)> {
    let mut offset = 0;
    for range in ranges {
        if range.contains(&Range::new(phys, 1)) {
            let inside = phys - range.base;
            return Some((offset + inside, range.size - inside));
        }
        offset += range.size;
    }
    None
}

/// The memory as the kernel maps all of it.
fn direct_map(ranges: &[Range], page_offset: u64) -> Vec<Segment> {
    let mut offset = 0;
    ranges
        .iter()
        .map(|range| {
            let segment = Segment {
                virt: page_offset.wrapping_add(range.base),
                phys: range.base,
                size: range.size,
                offset,
            };
            offset += range.size;
            segment
        })
        .collect()
}

/// The note that the spawn told of, or else one that is found in its memory.
fn find_vmcoreinfo(
    memory: &impl Memory,
    source: &Source,
    remarks: &mut Vec<String>,
) -> Option<VmcoreInfo> {
    if let Some((base, size)) = source.vmcoreinfo {
        match read_note(memory, source, base, size as usize) {
            Ok(info) => return Some(info),
            Err(error) => remarks.push(format!(
                "it told of VMCOREINFO at {base:#x}, and {error}: searching for it"
            )),
        }
    }
    let mut buffer = vec![0; PIECE];
    for piece in pieces(&source.ranges) {
        let bytes = &mut buffer[..piece.size as usize];
        if memory.read(piece.base, bytes).is_err() {
            continue;
        }
        // The kernel allocates whole pages for it.
        for (index, page) in bytes.chunks(PAGE).enumerate() {
            if !VmcoreInfo::may_begin(page) {
                continue;
            }
            let base = piece.base + (index * PAGE) as u64;
            match read_note(memory, source, base, NOTE_MAX) {
                // One that an earlier kernel left there does not fit the page tables of today.
                Ok(info) if maps_itself(memory, &info) => return Some(info),
                _ => {}
            }
        }
    }
    None
}

fn read_note(
    memory: &impl Memory,
    source: &Source,
    base: u64,
    size: usize,
) -> std::result::Result<VmcoreInfo, NoteError> {
    let (_, room) = offset_of(&source.ranges, base).ok_or(NoteError::Name)?;
    let mut bytes = vec![0; size.min(NOTE_MAX).min(room as usize)];
    memory.read(base, &mut bytes).map_err(|_| NoteError::Name)?;
    VmcoreInfo::parse(&bytes)
}

/// The physical address of what is in the kernel's image.
fn image_phys(info: &VmcoreInfo, virt: u64) -> Option<u64> {
    // Both can be "negative": the kernel computes modulo 2^64 as well.
    let phys_base = info.number("phys_base")?;
    (virt >= KERNEL_MAP).then(|| virt.wrapping_sub(KERNEL_MAP).wrapping_add(phys_base))
}

fn tables<'a, M: Memory>(memory: &'a M, info: &VmcoreInfo) -> Option<Tables<'a, M>> {
    let top = info
        .symbol("init_top_pgt")
        .or_else(|| info.symbol("swapper_pg_dir"))?;
    let five_levels = info.number("pgtable_l5_enabled") == Some(1);
    Some(Tables::new(memory, image_phys(info, top)?, five_levels))
}

/// Whether the kernel's page tables have its text where VMCOREINFO says.
fn maps_itself(memory: &impl Memory, info: &VmcoreInfo) -> bool {
    let mapped = || {
        let stext = info.symbol("_stext")?;
        Some(tables(memory, info)?.translate(stext)? == image_phys(info, stext)?)
    };
    mapped() == Some(true)
}

/// Where the direct map begins. It is the first thing in the kernel's half, and its first page is
/// that of the lowest physical address.
fn page_offset<M: Memory>(tables: &Tables<'_, M>, info: &VmcoreInfo) -> Option<u64> {
    let mut first = None;
    let last = info
        .number("VMALLOC_START")
        .map_or(u64::MAX, |end| end.wrapping_sub(1));
    tables.walk(tables.kernel_half(), last, |mapping| {
        first = Some(mapping);
        ControlFlow::Break(())
    });
    let offset = first.map(|first| first.virt.wrapping_sub(first.phys))?;
    offset.is_multiple_of(DIRECT_MAP_ALIGN).then_some(offset)
}

/// All that is mapped: first the direct map, from which readers learn where it is, then the image,
/// then what else there is.
fn segments(
    memory: &impl Memory,
    source: &Source,
    info: &VmcoreInfo,
    remarks: &mut Vec<String>,
) -> Vec<Segment> {
    let ranges = &source.ranges;
    let tables = tables(memory, info);
    let found = tables.as_ref().and_then(|tables| page_offset(tables, info));
    let mut segments = direct_map(ranges, found.unwrap_or(DIRECT_MAP));
    if found.is_none() {
        remarks.push(
            "its page tables cannot be read: addresses in the direct map are right for a kernel \
             without CONFIG_RANDOMIZE_MEMORY only"
                .to_owned(),
        );
    }
    let image = image(info, ranges);
    match image {
        Some(image) => segments.push(image),
        None => remarks.push(
            "VMCOREINFO does not say where the kernel is: its symbols cannot be read".to_owned(),
        ),
    }
    let (Some(tables), Some(_)) = (tables, found) else {
        return segments;
    };
    let vmalloc = info.number("VMALLOC_START").zip(info.symbol("vmemmap"));
    let modules = image.map(|image| (image.virt.wrapping_add(image.size), MODULES_LAST));
    let windows = [
        vmalloc.map(|(start, end)| (start, end.wrapping_sub(1))),
        Some(CPU_ENTRY_AREA),
        modules,
    ];
    let mut left = MAPPINGS_MAX;
    for (first, last) in windows.into_iter().flatten() {
        let mappings = tables.mappings(first, last, left);
        left -= mappings.len();
        segments.extend(
            mappings
                .iter()
                .filter_map(|mapping| inside(ranges, mapping)),
        );
    }
    if left == 0 {
        remarks.push(format!(
            "only the first {MAPPINGS_MAX} pieces of the kernel's vmalloc area have headers of \
             their own"
        ));
    }
    segments
}

/// The kernel's image: text and data, at their own virtual addresses.
fn image(info: &VmcoreInfo, ranges: &[Range]) -> Option<Segment> {
    let virt = info.symbol("_stext")? & !(KERNEL_ALIGN - 1);
    let phys = image_phys(info, virt)?;
    let (offset, room) = offset_of(ranges, phys)?;
    let image_size = info
        .number("KERNEL_IMAGE_SIZE")
        .unwrap_or(KERNEL_IMAGE_SIZE);
    // Where the image ends is not said. Behind it, nothing else is mapped before the modules.
    let most = KERNEL_MAP.checked_add(image_size)?.checked_sub(virt)?;
    Some(Segment {
        virt,
        phys,
        size: room.min(most),
        offset,
    })
}

/// A mapping of the instance's memory; of anything else, such as registers of devices, `None`.
fn inside(ranges: &[Range], mapping: &Mapping) -> Option<Segment> {
    let (offset, room) = offset_of(ranges, mapping.phys)?;
    Some(Segment {
        virt: mapping.virt,
        phys: mapping.phys,
        size: mapping.size.min(room),
        offset,
    })
}

#[cfg(test)]
mod tests;
