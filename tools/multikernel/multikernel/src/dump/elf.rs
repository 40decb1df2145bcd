// SPDX-License-Identifier: GPL-2.0

//! The headers and notes of an ELF core of a kernel, as kdump's `/proc/vmcore` has them.

use object::elf::{self, FileHeader64, Ident, ProgramHeader64};
use object::pod::bytes_of;
use object::{LittleEndian as LE, U16, U32, U64};

use crate::shared::Registers;

/// Where the memory begins in the file: aligned, so that zero pages can be holes.
const ALIGN: u64 = 4096;
/// Bytes of `struct elf_prstatus` (include/linux/elfcore.h) on x86-64.
const PRSTATUS_SIZE: usize = 336;
/// Offset of `pr_pid` in it.
const PRSTATUS_PID: usize = 32;
/// Offset of `pr_reg` in it.
const PRSTATUS_REGISTERS: usize = 112;

/// A part of the kernel's address space.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Segment {
    /// Virtual address.
    pub virt: u64,
    /// Physical address.
    pub phys: u64,
    /// Bytes.
    pub size: u64,
    /// Where it is in the file, counted from where the memory begins.
    pub offset: u64,
}

/// Appends a note: header, name, content, each aligned to 4 bytes.
fn push_note(notes: &mut Vec<u8>, name: &[u8], kind: u32, content: &[u8]) {
    let align = |notes: &mut Vec<u8>| notes.resize(notes.len().next_multiple_of(4), 0);
    for word in [name.len() as u32, content.len() as u32, kind] {
        notes.extend(word.to_le_bytes());
    }
    notes.extend(name);
    align(notes);
    notes.extend(content);
    align(notes);
}

/// `struct elf_prstatus` of a CPU: its registers, zero where they are not known.
fn prstatus(cpu: usize, registers: Option<&Registers>) -> [u8; PRSTATUS_SIZE] {
    let mut status = [0; PRSTATUS_SIZE];
    // A thread's id; 0 would be none to gdb, and CPUs count from 0.
    let pid = cpu as u32 + 1;
    status[PRSTATUS_PID..PRSTATUS_PID + 4].copy_from_slice(&pid.to_le_bytes());
    if let Some(registers) = registers {
        let fields = status[PRSTATUS_REGISTERS..].chunks_exact_mut(8);
        for (field, value) in fields.zip(registers.user) {
            field.copy_from_slice(&value.to_le_bytes());
        }
    }
    status
}

/// The notes: registers of each CPU, then VMCOREINFO if there is any.
pub fn notes(cpus: &[Option<Registers>], vmcoreinfo: Option<&str>) -> Vec<u8> {
    let mut notes = Vec::new();
    for (cpu, registers) in cpus.iter().enumerate() {
        let status = prstatus(cpu, registers.as_ref());
        push_note(&mut notes, b"CORE\0", elf::NT_PRSTATUS.0, &status);
    }
    if let Some(text) = vmcoreinfo {
        push_note(&mut notes, b"VMCOREINFO\0", 0, text.as_bytes());
    }
    notes
}

/// The file up to where the memory begins. `segments` are at most `PN_XNUM` - 2.
pub fn header(notes: &[u8], segments: &[Segment]) -> Vec<u8> {
    let header_size = size_of::<FileHeader64<LE>>();
    let entry_size = size_of::<ProgramHeader64<LE>>();
    let notes_offset = (header_size + entry_size * (1 + segments.len())) as u64;
    let memory_offset = (notes_offset + notes.len() as u64).next_multiple_of(ALIGN);

    let file = FileHeader64 {
        e_ident: Ident {
            magic: elf::ELFMAG,
            class: elf::ELFCLASS64,
            data: elf::ELFDATA2LSB,
            version: elf::EV_CURRENT,
            os_abi: elf::ELFOSABI_NONE,
            abi_version: 0,
            padding: [0; 7],
        },
        e_type: U16::new(LE, elf::ET_CORE),
        e_machine: U16::new(LE, elf::EM_X86_64),
        e_version: U32::new(LE, u32::from(elf::EV_CURRENT.0)),
        e_entry: U64::new(LE, 0),
        e_phoff: U64::new(LE, header_size as u64),
        e_shoff: U64::new(LE, 0),
        e_flags: U32::new(LE, elf::FileFlags(0)),
        e_ehsize: U16::new(LE, header_size as u16),
        e_phentsize: U16::new(LE, entry_size as u16),
        e_phnum: U16::new(LE, segments.len() as u16 + 1),
        e_shentsize: U16::new(LE, 0),
        e_shnum: U16::new(LE, 0),
        e_shstrndx: U16::new(LE, elf::SymbolSection(0)),
    };
    let program = |kind, flags, segment: Segment, offset: u64, align| ProgramHeader64 {
        p_type: U32::new(LE, kind),
        p_flags: U32::new(LE, flags),
        p_offset: U64::new(LE, offset),
        p_vaddr: U64::new(LE, segment.virt),
        p_paddr: U64::new(LE, segment.phys),
        p_filesz: U64::new(LE, segment.size),
        p_memsz: U64::new(LE, segment.size),
        p_align: U64::new(LE, align),
    };
    let note = Segment {
        virt: 0,
        phys: 0,
        size: notes.len() as u64,
        offset: 0,
    };
    let rwx = elf::PF_R | elf::PF_W | elf::PF_X;

    let mut bytes = bytes_of(&file).to_vec();
    bytes.extend(bytes_of(&program(
        elf::PT_NOTE,
        elf::ProgramFlags(0),
        note,
        notes_offset,
        4,
    )));
    for segment in segments {
        let offset = memory_offset + segment.offset;
        bytes.extend(bytes_of(&program(
            elf::PT_LOAD,
            rwx,
            *segment,
            offset,
            ALIGN,
        )));
    }
    bytes.extend(notes);
    bytes.resize(memory_offset as usize, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::read::elf::{FileHeader as _, ProgramHeader as _};

    fn registers(apic_id: u32, first: u64) -> Registers {
        Registers {
            apic_id,
            user: std::array::from_fn(|i| first + i as u64),
            cr2: 0,
            cr3: 0,
        }
    }

    /// Read back by another's code.
    #[test]
    fn a_reader_finds_what_was_written() {
        let cpus = [Some(registers(2, 1000)), None, Some(registers(4, 3000))];
        let segments = [
            Segment {
                virt: 0xffff_8880_4000_0000,
                phys: 0x4000_0000,
                size: 0x20_0000,
                offset: 0,
            },
            Segment {
                virt: 0xffff_ffff_8100_0000,
                phys: 0x4010_0000,
                size: 0x10_0000,
                offset: 0x10_0000,
            },
        ];
        let mut file = header(&notes(&cpus, Some("OSRELEASE=7.3.4\n")), &segments);
        let memory = file.len();
        assert_eq!(memory % 4096, 0);
        file.resize(memory + 0x20_0000, 0);
        file[memory + 0x10_0000] = 0x5a;

        let data = file.as_slice();
        let header = FileHeader64::<LE>::parse(data).unwrap();
        assert_eq!(header.e_type(LE), elf::ET_CORE);
        assert_eq!(header.e_machine(LE), elf::EM_X86_64);
        let programs = header.program_headers(LE, data).unwrap();
        let loads: Vec<_> = programs
            .iter()
            .filter(|program| program.p_type(LE) == elf::PT_LOAD)
            .collect();
        assert_eq!(loads.len(), 2);
        for (load, segment) in loads.iter().zip(&segments) {
            assert_eq!(load.p_vaddr(LE), segment.virt);
            assert_eq!(load.p_paddr(LE), segment.phys);
            assert_eq!(load.p_filesz(LE), segment.size);
            assert_eq!(load.p_memsz(LE), segment.size);
        }
        let text = loads[1].data(LE, data).unwrap();
        assert_eq!((text.len(), text[0]), (0x10_0000, 0x5a));

        let mut found = programs
            .iter()
            .find_map(|program| program.notes(LE, data).unwrap())
            .unwrap();
        for (cpu, registers) in cpus.iter().enumerate() {
            let note = found.next().unwrap().unwrap();
            assert_eq!(note.name(), b"CORE");
            assert_eq!(note.n_type(LE), elf::NT_PRSTATUS);
            let status = note.desc();
            assert_eq!(status.len(), 336);
            assert_eq!(status[32..36], (cpu as u32 + 1).to_le_bytes());
            let first = registers.map_or(0, |registers| registers.user[0]);
            let last = registers.map_or(0, |registers| registers.user[26]);
            assert_eq!(status[112..120], first.to_le_bytes());
            assert_eq!(status[320..328], last.to_le_bytes());
            assert_eq!(status[328..], [0; 8]);
        }
        let note = found.next().unwrap().unwrap();
        assert_eq!(note.name(), b"VMCOREINFO");
        assert_eq!(note.desc(), b"OSRELEASE=7.3.4\n");
        assert!(found.next().unwrap().is_none());
    }

    #[test]
    fn without_notes_and_memory_it_is_still_an_elf_file() {
        let file = header(&[], &[]);
        let header = FileHeader64::<LE>::parse(file.as_slice()).unwrap();
        assert_eq!(header.e_phnum(LE), 1);
    }
}
