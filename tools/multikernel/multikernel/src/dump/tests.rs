// SPDX-License-Identifier: GPL-2.0

//! A dump of a kernel that is made up, read back by the `object` crate.

use std::cell::Cell;
use std::os::unix::fs::MetadataExt;

use object::elf::{FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader as _, ProgramHeader as _};
use object::LittleEndian as LE;
use proptest::prelude::*;

use super::paging::tests::map;
use super::vmcoreinfo::tests::note;
use super::*;

/// Memory that is one range.
pub struct TestMemory {
    base: u64,
    bytes: Vec<u8>,
    reads: Cell<usize>,
}

impl TestMemory {
    pub fn new(base: u64, size: usize) -> Self {
        Self {
            base,
            bytes: vec![0; size],
            reads: Cell::new(0),
        }
    }

    pub fn reads(&self) -> usize {
        self.reads.get()
    }

    fn range(&self) -> Range {
        Range::new(self.base, self.bytes.len() as u64)
    }

    fn set(&mut self, phys: u64, bytes: &[u8]) {
        let at = (phys - self.base) as usize;
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub fn word(&self, phys: u64) -> u64 {
        let at = (phys - self.base) as usize;
        u64::from_le_bytes(self.bytes[at..at + 8].try_into().unwrap())
    }

    pub fn set_word(&mut self, phys: u64, word: u64) {
        self.set(phys, &word.to_le_bytes());
    }
}

impl Memory for TestMemory {
    fn read(&self, base: u64, buffer: &mut [u8]) -> Result<()> {
        self.reads.set(self.reads.get() + 1);
        let range = Range::new(base, buffer.len() as u64);
        if !self.range().contains(&range) {
            return Err(Error::new("cannot read", "not in its memory"));
        }
        let at = (base - self.base) as usize;
        buffer.copy_from_slice(&self.bytes[at..at + buffer.len()]);
        Ok(())
    }
}

const MIB: u64 = 1 << 20;
const BASE: u64 = 0x4000_0000;
const PAGE_OFFSET: u64 = 0xffff_9a40_0000_0000;
const VMALLOC: u64 = 0xffff_b000_0000_0000;
/// Where the image is, virtually and physically.
const TEXT: u64 = 0xffff_ffff_9b00_0000;
const TEXT_PHYS: u64 = BASE + 2 * MIB;
const TOP: u64 = TEXT_PHYS + 0x4_0000;
const NOTE: u64 = BASE + 5 * MIB;

fn text_of_note() -> String {
    let phys_base = TEXT_PHYS.wrapping_sub(TEXT - KERNEL_MAP).cast_signed();
    format!(
        "OSRELEASE=7.3.4\nSYMBOL(_stext)={TEXT:x}\nSYMBOL(init_top_pgt)={:x}\n\
         NUMBER(phys_base)={phys_base}\nNUMBER(VMALLOC_START)=0x{VMALLOC:x}\n\
         SYMBOL(vmemmap)=ffffd00000000000\nNUMBER(pgtable_l5_enabled)=0\n\
         NUMBER(KERNEL_IMAGE_SIZE)=1073741824\nKERNELOFFSET=1a000000\n",
        TEXT + (TOP - TEXT_PHYS)
    )
}

/// 8 MiB with a kernel in it: page tables, VMCOREINFO, a page of vmalloc memory.
fn kernel() -> TestMemory {
    let mut memory = TestMemory::new(BASE, 8 << 20);
    let mut next = BASE + 6 * MIB;
    for (level, virt, phys) in [
        // The first MiB is in every direct map, and in no instance's memory.
        (1, PAGE_OFFSET, 0),
        (2, PAGE_OFFSET + BASE, BASE),
        (2, PAGE_OFFSET + BASE + 2 * MIB, BASE + 2 * MIB),
        (2, TEXT, TEXT_PHYS),
        (1, VMALLOC + 0x1000, BASE + 7 * MIB),
        (1, VMALLOC + 0x2000, BASE + 0x3000),
        // A device.
        (1, VMALLOC + 0x4000, 0xfee0_0000),
        (1, 0xffff_fe00_0000_1000, BASE + 0x8000),
    ] {
        map(&mut memory, TOP, &mut next, level, (virt, phys));
    }
    memory.set(NOTE, &note(&text_of_note()));
    memory.set(TEXT_PHYS, b"text");
    memory.set(BASE + 7 * MIB, b"stack");
    memory
}

fn source(memory: &TestMemory) -> Source {
    Source {
        ranges: vec![memory.range()],
        cpus: vec![None, None],
        vmcoreinfo: Some((NOTE, 4096)),
    }
}

fn written(memory: &TestMemory, plan: &Plan) -> Vec<u8> {
    let file = tempfile::tempfile().unwrap();
    plan.write(memory, &file, |_| {}).unwrap();
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// What a debugger reads at a virtual address.
fn at(file: &[u8], virt: u64, count: usize) -> Option<Vec<u8>> {
    let header = FileHeader64::<LE>::parse(file).unwrap();
    let mut loads = header.program_headers(LE, file).unwrap().iter();
    let load = loads.find(|load| {
        load.p_type(LE) == PT_LOAD
            && (load.p_vaddr(LE)..=load.p_vaddr(LE) + (load.p_memsz(LE) - 1)).contains(&virt)
    })?;
    let data = load.data(LE, file).unwrap();
    let at = (virt - load.p_vaddr(LE)) as usize;
    data.get(at..at + count).map(<[u8]>::to_vec)
}

#[test]
fn a_debugger_finds_everything_by_its_virtual_address() {
    let memory = kernel();
    let plan = Plan::new(&memory, &source(&memory));
    assert_eq!(plan.remarks(), [""; 0]);
    assert_eq!(plan.memory_bytes(), 8 * MIB);
    assert_eq!(
        plan.vmcoreinfo().unwrap().kernel_offset(),
        Some(0x1a00_0000)
    );
    let file = written(&memory, &plan);
    for (virt, said) in [
        (PAGE_OFFSET + TEXT_PHYS, &b"text"[..]),
        (TEXT, b"text"),
        (PAGE_OFFSET + BASE + 7 * MIB, b"stack"),
        (VMALLOC + 0x1000, b"stack"),
        (VMALLOC + 0x2000, &[0; 8]),
        (0xffff_fe00_0000_1000, &[0; 8]),
    ] {
        let found = at(&file, virt, said.len());
        assert_eq!(found.as_deref(), Some(said), "{virt:#x}");
    }
    for nothing in [VMALLOC, VMALLOC + 0x4000, PAGE_OFFSET, 0x40_0000] {
        assert_eq!(at(&file, nothing, 1), None, "{nothing:#x}");
    }
    // From the first of them, makedumpfile takes where the direct map is.
    let header = FileHeader64::<LE>::parse(file.as_slice()).unwrap();
    let programs = header.program_headers(LE, file.as_slice()).unwrap();
    assert_eq!(
        programs[1].p_vaddr(LE) - programs[1].p_paddr(LE),
        PAGE_OFFSET
    );
}

#[test]
fn zero_pages_are_holes() {
    let memory = kernel();
    let plan = Plan::new(&memory, &source(&memory));
    let file = tempfile::tempfile().unwrap();
    let mut heard = Vec::new();
    let bytes = plan.write(&memory, &file, |done| heard.push(done)).unwrap();
    let used = memory
        .bytes
        .chunks(PAGE)
        .filter(|page| page.iter().any(|b| *b != 0));
    assert_eq!(bytes, (used.count() * PAGE) as u64);
    assert_eq!(heard.last(), Some(&(8 * MIB)));
    let metadata = file.metadata().unwrap();
    assert!(metadata.len() > 8 * MIB);
    assert!(
        metadata.blocks() * 512 < MIB,
        "{} blocks",
        metadata.blocks()
    );
}

#[test]
fn vmcoreinfo_is_searched_where_nobody_told() {
    let mut memory = kernel();
    // What an earlier kernel at another place left behind comes first.
    let stale = text_of_note().replace(&format!("{TEXT:x}"), "ffffffff91000000");
    memory.set(BASE + MIB, &note(&stale));
    let plan = Plan::new(
        &memory,
        &Source {
            vmcoreinfo: None,
            ..source(&memory)
        },
    );
    assert_eq!(plan.remarks(), [""; 0]);
    assert_eq!(plan.vmcoreinfo().unwrap().text(), text_of_note());
}

#[test]
fn what_is_missing_is_said() {
    let memory = kernel();
    let remarks = |memory: &TestMemory, vmcoreinfo| {
        let plan = Plan::new(
            memory,
            &Source {
                vmcoreinfo,
                ..source(memory)
            },
        );
        // Whatever is missing, the memory is there.
        let file = written(memory, &plan);
        assert!(file.ends_with(&memory.bytes));
        plan.remarks().join("; ")
    };
    assert_eq!(remarks(&memory, Some((NOTE, 4096))), "");
    for wrong in [
        (0x1000, 4096),
        (BASE, 4096),
        (NOTE, 16),
        (u64::MAX, u32::MAX),
    ] {
        let said = remarks(&memory, Some(wrong));
        assert!(said.contains("searching for it"), "{wrong:x?}: {said}");
    }
    let mut no_tables = kernel();
    no_tables.set(TOP, &[0; 4096]);
    let said = remarks(&no_tables, Some((NOTE, 4096)));
    assert!(said.starts_with("its page tables cannot be read"), "{said}");
    let empty = TestMemory::new(BASE, 1 << 20);
    let said = remarks(&empty, None);
    assert!(said.contains("without KASLR only"), "{said}");
}

#[test]
fn memory_that_cannot_be_read_fails_the_dump() {
    let memory = kernel();
    let mut source = source(&memory);
    source.ranges.push(Range::new(0x1_0000_0000, 2 * MIB));
    let plan = Plan::new(&memory, &source);
    let file = tempfile::tempfile().unwrap();
    assert!(plan.write(&memory, &file, |_| {}).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a spawn wrote where its note and page tables are, the memory comes out.
    #[test]
    fn a_spawn_that_lies_spoils_its_own_dump_only(
        places in proptest::collection::vec((0usize..8 << 20, any::<u64>()), 0..64),
        near in proptest::collection::vec((0usize..4096, any::<u8>()), 0..64),
        told in (any::<u64>(), any::<u32>()),
        told_right in any::<bool>(),
    ) {
        let mut memory = kernel();
        for (at, word) in places {
            memory.set_word(BASE + (at as u64 & !7), word);
        }
        for (at, byte) in near {
            memory.set(NOTE + at as u64, &[byte]);
            memory.set(TOP + at as u64, &[byte]);
        }
        let told = if told_right { (NOTE, 4096) } else { told };
        let source = Source { vmcoreinfo: Some(told), ..source(&memory) };
        let plan = Plan::new(&memory, &source);
        let file = written(&memory, &plan);
        prop_assert!(file.ends_with(&memory.bytes));
        let header = FileHeader64::<LE>::parse(file.as_slice()).unwrap();
        for load in header.program_headers(LE, file.as_slice()).unwrap() {
            prop_assert!(load.data(LE, file.as_slice()).is_ok());
        }
    }
}
