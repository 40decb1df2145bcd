// SPDX-License-Identifier: GPL-2.0

//! The ACPI tables that describe an instance to its kernel.
//!
//! Hardware-reduced ACPI without interrupt controllers but local APICs: with these tables Linux
//! touches no PIC, PIT, HPET, RTC, i8042 or IO-APIC, all of which belong to the host. The one
//! IO-APIC in them is a decoy, see [`Platform::ioapic`].
//!
//! | table | what it says |
//! | --- | --- |
//! | RSDP, XSDT | where the others are |
//! | FADT | hardware-reduced; no VGA, no CMOS RTC, no legacy devices, no 8042 |
//! | DSDT | the UARTs that are lent, and the root of what NFIT says; else nothing |
//! | MADT | the local APICs, and the decoy IO-APIC |
//! | SRAT | which CPU and memory is on which node, where the host has several nodes |
//! | NFIT | which memory is persistent, if any is |

use acpi_tables::aml;
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, ProcessorLocalApic, MADT,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::Aml;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{Immutable, IntoBytes};

use crate::cmdline::Uart;
use crate::image::KernelVersion;
use crate::layout::Range;

const OEM_ID: [u8; 6] = *b"LINUX ";
const OEM_TABLE_ID: [u8; 8] = *b"MULTIKRN";
const OEM_REVISION: u32 = 1;

/// Architectural default of the local APICs' address (SDM 12.4.1); unused in x2APIC mode.
const LOCAL_APIC_ADDRESS: u32 = 0xfee0_0000;
/// The first APIC id that only an x2APIC structure can hold; 255 is the broadcast of xAPIC.
const X2APIC_FIRST: u32 = 255;
/// Id of the decoy IO-APIC; ids of IO-APICs and of local APICs are apart on anything newer than the
/// Pentium 4's first chipsets.
const IOAPIC_ID: u8 = 0;
/// IA-PC boot architecture flags (ACPI 6.5, table 5.11).
const NO_VGA: u16 = 1 << 2;
const NO_CMOS_RTC: u16 = 1 << 5;
/// Tables start on this alignment.
const TABLE_ALIGN: usize = 16;

/// One CPU of the instance.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Cpu {
    /// Its APIC id.
    pub apic_id: u32,
    /// Its NUMA node; `None` if the host has none.
    pub node: Option<u32>,
}

/// Memory of the instance on one node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NodeMemory {
    /// The memory.
    pub range: Range,
    /// Its NUMA node.
    pub node: u32,
}

/// Memory that the instance finds as persistent memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pmem {
    /// The memory.
    pub range: Range,
    /// Its NUMA node; `None` where the host has one node.
    pub node: Option<u32>,
}

/// What the tables describe.
#[derive(Clone, Debug, Default)]
pub struct Platform {
    /// The CPUs, boot CPU first.
    pub cpus: Vec<Cpu>,
    /// An APIC id that no CPU of the machine has, listed first; see [`decoy`].
    pub decoy: Option<u32>,
    /// Physical address of a page of one bits: the registers of an IO-APIC that is not there.
    ///
    /// Without an IO-APIC in the MADT, Linux looks for one in the BIOS's MP table
    /// (default_get_smp_config(), arch/x86/kernel/mpparse.c) and finds the host's, and it programs
    /// the PIC's edge/level register for ACPI (acpi_pic_sci_set_trigger()). One whose registers
    /// read as all ones it lists and does not use (bad_ioapic_register(),
    /// arch/x86/kernel/apic/io_apic.c).
    pub ioapic: u32,
    /// UARTs that are lent to the instance.
    pub uarts: Vec<Uart>,
    /// The instance's memory by node; empty where the host has one node.
    pub memory: Vec<NodeMemory>,
    /// Persistent memory, in the order in which it is to be found.
    pub pmem: Vec<Pmem>,
}

/// Chooses the decoy for a kernel: an APIC id that exists nowhere on the machine.
///
/// Linux 6.9 and newer takes the first enabled local APIC that is not the boot CPU's for the boot
/// CPU of the machine, believes to be a crash kernel, and does not use that one; without such an
/// entry it uses one CPU only (`check_for_real_bsp()`, arch/x86/kernel/cpu/topology.c). Older
/// kernels start every CPU in the list and wait ten seconds for one that does not come. A kernel
/// whose version is not known is taken for a new one.
pub fn decoy(version: Option<KernelVersion>, machine: &[u32]) -> Option<u32> {
    const FIRST_WITH_CHECK: KernelVersion = KernelVersion { major: 6, minor: 9 };
    if version.is_some_and(|version| version < FIRST_WITH_CHECK) {
        return None;
    }
    // From the top of what every mode can address, then what only x2APIC can.
    let narrow = (0..X2APIC_FIRST).rev();
    let wide = X2APIC_FIRST + 1..=u32::MAX - 1;
    narrow.chain(wide).find(|id| !machine.contains(id))
}

/// MADT structure 9 (ACPI 6.5, 5.2.12.12).
#[repr(C, packed)]
#[derive(Clone, Copy, Debug, Immutable, IntoBytes)]
struct LocalX2apic {
    kind: u8,
    length: u8,
    reserved: [u8; 2],
    apic_id: U32,
    flags: U32,
    uid: U32,
}

/// SRAT structure 2 (ACPI 6.5, 5.2.16.3); takes APIC ids of any width.
#[repr(C, packed)]
#[derive(Clone, Copy, Debug, Immutable, IntoBytes)]
struct X2apicAffinity {
    kind: u8,
    length: u8,
    reserved0: [u8; 2],
    node: U32,
    apic_id: U32,
    flags: U32,
    clock_domain: U32,
    reserved1: [u8; 4],
}

/// SRAT structure 1 (ACPI 6.5, 5.2.16.2).
#[repr(C, packed)]
#[derive(Clone, Copy, Debug, Immutable, IntoBytes)]
struct MemoryAffinity {
    kind: u8,
    length: u8,
    node: U32,
    reserved0: [u8; 2],
    base_low: U32,
    base_high: U32,
    size_low: U32,
    size_high: U32,
    reserved1: [u8; 4],
    flags: U32,
    reserved2: [u8; 8],
}

/// NFIT structure 0, a range of the system's physical addresses (ACPI 6.5, 5.2.26.2), without the
/// location cookie that 6.4 added.
#[repr(C, packed)]
#[derive(Clone, Copy, Debug, Immutable, IntoBytes)]
struct SpaRange {
    kind: U16,
    length: U16,
    index: U16,
    flags: U16,
    reserved: [u8; 4],
    node: U32,
    guid: [u8; 16],
    base: U64,
    size: U64,
    attributes: U64,
}

/// NFIT structure 7, what the platform keeps (ACPI 6.5, 5.2.26.9).
#[repr(C, packed)]
#[derive(Clone, Copy, Debug, Immutable, IntoBytes)]
struct PlatformCapabilities {
    kind: U16,
    length: U16,
    highest_valid: u8,
    reserved0: [u8; 3],
    capabilities: U32,
    reserved1: [u8; 4],
}

/// 66f0d379-b4f3-4074-ac43-0d3318b78cdb: byte-addressable persistent memory (ACPI 6.5, table
/// 5.132).
const PERSISTENT_MEMORY: [u8; 16] = [
    0x79, 0xd3, 0xf0, 0x66, 0xf3, 0xb4, 0x74, 0x40, 0xac, 0x43, 0x0d, 0x33, 0x18, 0xb7, 0x8c, 0xdb,
];
/// Flag of [`SpaRange`]: its node is given.
const NODE_VALID: u16 = 1 << 1;
/// EFI_MEMORY_WB and EFI_MEMORY_NV (UEFI 2.10, 7.2).
const WRITE_BACK_PERSISTENT: u64 = 1 << 3 | 1 << 15;
/// What is in the caches is kept, and so what is on its way to memory.
///
/// Of an arena both holds: it ends with the power of the machine, and whatever ends a kernel before
/// leaves the caches alone. With it Linux writes no cache lines back.
const CACHES_AND_MEMORY_KEPT: u32 = 1 << 0 | 1 << 1;

impl Aml for LocalX2apic {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(self.as_bytes());
    }
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn madt(platform: &Platform) -> Vec<u8> {
    let address = LocalInterruptController::Address(LOCAL_APIC_ADDRESS);
    let mut madt = MADT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION, address);
    // Linux takes x2APIC structures for ids below 255 for doubles where there are others
    // (acpi_parse_x2apic()), so each id gets the narrowest structure that holds it.
    let ids = platform.cpus.iter().map(|cpu| cpu.apic_id);
    for id in platform.decoy.into_iter().chain(ids) {
        match u8::try_from(id) {
            Ok(narrow) if id < X2APIC_FIRST => {
                madt.add_structure(ProcessorLocalApic::new(
                    narrow,
                    narrow,
                    EnabledStatus::Enabled,
                ));
            }
            _ => madt.add_structure(LocalX2apic {
                kind: 9,
                length: size_of::<LocalX2apic>() as u8,
                reserved: [0; 2],
                apic_id: id.into(),
                flags: (EnabledStatus::Enabled as u32).into(),
                uid: id.into(),
            }),
        }
    }
    madt.add_structure(IoApic::new(IOAPIC_ID, platform.ioapic, 0));
    bytes(&madt)
}

fn fadt(dsdt: u64) -> Vec<u8> {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::Headless)
        // Logical destinations of two instances in xAPIC mode are the same for different CPUs.
        .flag(Flags::ForceApicPhysicalDestinationMode)
        .dsdt_64(dsdt);
    fadt.iapc_boot_arch = (NO_VGA | NO_CMOS_RTC).into();
    bytes(&fadt.finalize())
}

/// A lent UART is a PNP0501 device without interrupt: there is no IO-APIC to deliver one, and
/// Linux's driver polls then (serial_pnp_probe(), drivers/tty/serial/8250/8250_pnp.c). Its entry
/// takes the place of the built-in one for the same port, which has an interrupt number and could
/// not be opened.
///
/// ACPI0012 is what Linux's driver for NFIT binds to (drivers/acpi/nfit/core.c).
fn dsdt(platform: &Platform) -> Vec<u8> {
    let mut dsdt = Sdt::new(*b"DSDT", 36, 2, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    for uart in &platform.uarts {
        let port = aml::IO::new(uart.port(), uart.port(), 1, Uart::PORTS);
        let hid = aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0501"));
        let uid = aml::Name::new("_UID".into(), &uart.line());
        let resources = aml::Name::new("_CRS".into(), &aml::ResourceTemplate::new(vec![&port]));
        let name = format!("_SB_.COM{}", uart.line() + 1);
        let device = aml::Device::new(name.as_str().into(), vec![&hid, &uid, &resources]);
        dsdt.append_slice(&bytes(&device));
    }
    if !platform.pmem.is_empty() {
        let hid = aml::Name::new("_HID".into(), &"ACPI0012");
        let device = aml::Device::new("_SB_.NVDR".into(), vec![&hid]);
        dsdt.append_slice(&bytes(&device));
    }
    dsdt.as_slice().to_vec()
}

fn srat(platform: &Platform) -> Vec<u8> {
    // 12 reserved bytes follow the header, the first four being 1.
    let mut srat = Sdt::new(*b"SRAT", 48, 3, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    srat.write_u32(36, 1);
    let enabled = U32::from(1);
    for cpu in &platform.cpus {
        let entry = X2apicAffinity {
            kind: 2,
            length: size_of::<X2apicAffinity>() as u8,
            reserved0: [0; 2],
            node: cpu.node.unwrap_or(0).into(),
            apic_id: cpu.apic_id.into(),
            flags: enabled,
            clock_domain: 0.into(),
            reserved1: [0; 4],
        };
        srat.append_slice(entry.as_bytes());
    }
    for memory in &platform.memory {
        let Range { base, size } = memory.range;
        let entry = MemoryAffinity {
            kind: 1,
            length: size_of::<MemoryAffinity>() as u8,
            node: memory.node.into(),
            reserved0: [0; 2],
            base_low: (base as u32).into(),
            base_high: ((base >> 32) as u32).into(),
            size_low: (size as u32).into(),
            size_high: ((size >> 32) as u32).into(),
            reserved1: [0; 4],
            flags: enabled,
            reserved2: [0; 8],
        };
        srat.append_slice(entry.as_bytes());
    }
    srat.as_slice().to_vec()
}

/// Ranges without DIMMs behind them: Linux makes a region with one namespace of each
/// (nd_region_to_nstype(), drivers/nvdimm/region_devs.c), which is /dev/pmem0 and so on, in order.
fn nfit(platform: &Platform) -> Vec<u8> {
    // 4 reserved bytes follow the header.
    let mut nfit = Sdt::new(*b"NFIT", 40, 1, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    for (index, pmem) in (1..).zip(&platform.pmem) {
        let range = SpaRange {
            kind: 0.into(),
            length: (size_of::<SpaRange>() as u16).into(),
            index: U16::new(index),
            flags: pmem.node.map_or(0, |_| NODE_VALID).into(),
            reserved: [0; 4],
            node: pmem.node.unwrap_or(0).into(),
            guid: PERSISTENT_MEMORY,
            base: pmem.range.base.into(),
            size: pmem.range.size.into(),
            attributes: WRITE_BACK_PERSISTENT.into(),
        };
        nfit.append_slice(range.as_bytes());
    }
    let kept = PlatformCapabilities {
        kind: 7.into(),
        length: (size_of::<PlatformCapabilities>() as u16).into(),
        highest_valid: 1,
        reserved0: [0; 3],
        capabilities: CACHES_AND_MEMORY_KEPT.into(),
        reserved1: [0; 4],
    };
    nfit.append_slice(kept.as_bytes());
    nfit.as_slice().to_vec()
}

/// Builds all tables as one piece of memory for the physical address `base`, aligned to 16 bytes.
/// The RSDP is its first byte. The size does not depend on `base`.
pub fn build(platform: &Platform, base: u64) -> Vec<u8> {
    let mut memory = vec![0; Rsdp::len()];
    let mut place = |table: Vec<u8>| {
        memory.resize(memory.len().next_multiple_of(TABLE_ALIGN), 0);
        let address = base.wrapping_add(memory.len() as u64);
        memory.extend_from_slice(&table);
        address
    };

    let dsdt = place(dsdt(platform));
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(place(fadt(dsdt)));
    xsdt.add_entry(place(madt(platform)));
    if !platform.memory.is_empty() {
        xsdt.add_entry(place(srat(platform)));
    }
    if !platform.pmem.is_empty() {
        xsdt.add_entry(place(nfit(platform)));
    }
    let xsdt = place(bytes(&xsdt));
    memory[..Rsdp::len()].copy_from_slice(Rsdp::new(OEM_ID, xsdt).as_bytes());
    memory
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0x1_4000_2000;

    fn cpus(ids: &[u32]) -> Vec<Cpu> {
        ids.iter()
            .map(|&apic_id| Cpu {
                apic_id,
                node: None,
            })
            .collect()
    }

    fn u32_at(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    /// Follows the pointers as Linux would, and checks every checksum on the way.
    fn table<'a>(memory: &'a [u8], signature: &[u8; 4]) -> Option<&'a [u8]> {
        assert_eq!(&memory[..8], b"RSD PTR ");
        assert_eq!(sum(&memory[..20]), 0);
        assert_eq!(sum(&memory[..36]), 0);
        let at = |address: u64| {
            let table = &memory[(address - BASE) as usize..];
            let table = &table[..u32_at(table, 4) as usize];
            assert_eq!(sum(table), 0);
            table
        };
        let xsdt = at(u64_at(memory, 24));
        assert_eq!(&xsdt[..4], b"XSDT");
        let mut tables: Vec<_> = xsdt[36..]
            .chunks(8)
            .map(|entry| at(u64_at(entry, 0)))
            .collect();
        assert_eq!(&tables[0][..4], b"FACP");
        tables.push(at(u64_at(tables[0], 140)));
        tables.into_iter().find(|table| &table[..4] == signature)
    }

    /// (structure type, APIC id), in order.
    fn apic_ids(madt: &[u8]) -> Vec<(u8, u32)> {
        let mut rest = &madt[44..];
        let mut ids = Vec::new();
        while let [kind, length, ..] = *rest {
            ids.push(match kind {
                0 => (0, u32::from(rest[3])),
                _ => (kind, u32_at(rest, 4)),
            });
            rest = &rest[usize::from(length)..];
        }
        ids
    }

    #[test]
    fn fadt_keeps_linux_off_the_hosts_devices() {
        let platform = Platform {
            cpus: cpus(&[2, 3]),
            ..Platform::default()
        };
        let memory = build(&platform, BASE);
        let fadt = table(&memory, b"FACP").unwrap();
        assert_eq!(fadt[8], 6);
        assert_eq!(u32_at(fadt, 112) & (1 << 20), 1 << 20);
        // No legacy devices (bit 0), no 8042 (1), no VGA (2), no CMOS RTC (5).
        assert_eq!(u16::from_le_bytes([fadt[109], fadt[110]]), 1 << 2 | 1 << 5);
        assert_eq!(table(&memory, b"DSDT").unwrap().len(), 36);
        assert!(table(&memory, b"SRAT").is_none());
    }

    #[test]
    fn madt_order_and_width() {
        let platform = Platform {
            cpus: cpus(&[300, 2, 254, 255]),
            decoy: Some(200),
            ioapic: 0x3f000,
            ..Platform::default()
        };
        let memory = build(&platform, BASE);
        // The IO-APIC comes last, with its address where the others have an id.
        assert_eq!(
            apic_ids(table(&memory, b"APIC").unwrap()),
            [(0, 200), (9, 300), (0, 2), (0, 254), (9, 255), (1, 0x3f000)]
        );
    }

    #[test]
    fn decoy_by_version() {
        let version = |major, minor| Some(KernelVersion { major, minor });
        assert_eq!(decoy(version(6, 8), &[0, 1]), None);
        assert_eq!(decoy(version(5, 10), &[0, 1]), None);
        assert_eq!(decoy(version(6, 9), &[0, 1]), Some(254));
        assert_eq!(decoy(version(7, 3), &[0, 254]), Some(253));
        assert_eq!(decoy(None, &[0]), Some(254));
        let all: Vec<u32> = (0..300).collect();
        assert_eq!(decoy(None, &all), Some(300));
        let narrow: Vec<u32> = (0..255).collect();
        assert_eq!(decoy(None, &narrow), Some(256));
    }

    #[test]
    fn srat_where_there_are_nodes() {
        let range = Range::new(0x1_2340_0000, 0x1_0020_0000);
        let platform = Platform {
            cpus: vec![Cpu {
                apic_id: 5,
                node: Some(1),
            }],
            memory: vec![NodeMemory { range, node: 1 }],
            ..Platform::default()
        };
        let memory = build(&platform, BASE);
        let srat = table(&memory, b"SRAT").unwrap();
        assert_eq!(u32_at(srat, 36), 1);
        let (cpu, memory) = srat[48..].split_at(24);
        assert_eq!(
            (cpu[0], u32_at(cpu, 4), u32_at(cpu, 8), u32_at(cpu, 12)),
            (2, 1, 5, 1)
        );
        assert_eq!((memory[0], memory.len(), u32_at(memory, 2)), (1, 40, 1));
        assert_eq!(
            (u64_at(memory, 8), u64_at(memory, 16)),
            (range.base, range.size)
        );
        assert_eq!(u32_at(memory, 28), 1);
    }

    #[test]
    fn dsdt_has_the_lent_uarts() {
        let platform = Platform {
            cpus: cpus(&[2]),
            uarts: vec!["ttyS2".parse().unwrap()],
            ..Platform::default()
        };
        let memory = build(&platform, BASE);
        let dsdt = table(&memory, b"DSDT").unwrap();
        // _SB_.COM3, PNP0501, and an I/O port descriptor for 0x3e8..0x3ef.
        assert!(memchr::memmem::find(dsdt, b"_SB_COM3").is_some());
        assert!(memchr::memmem::find(dsdt, &[0x41, 0xd0, 0x05, 0x01]).is_some());
        assert!(memchr::memmem::find(dsdt, &[0x47, 1, 0xe8, 3, 0xe8, 3, 1, 8]).is_some());
    }

    #[test]
    fn size_does_not_depend_on_the_address() {
        let platform = Platform {
            cpus: cpus(&[1, 2, 3]),
            ..Platform::default()
        };
        assert_eq!(build(&platform, 0).len(), build(&platform, u64::MAX).len());
    }

    #[test]
    fn nfit_where_there_is_persistent_memory() {
        let pmem = |base, node| Pmem {
            range: Range::new(base, 0x40_0000),
            node,
        };
        let platform = Platform {
            cpus: cpus(&[2]),
            pmem: vec![pmem(0x8000_0000, None), pmem(0x1_0000_0000, Some(1))],
            ..Platform::default()
        };
        let memory = build(&platform, BASE);
        let nfit = table(&memory, b"NFIT").unwrap();
        assert_eq!(nfit.len(), 40 + 2 * 56 + 16);
        let u16_at = |at| u16::from_le_bytes([nfit[at], nfit[at + 1]]);
        for (at, index, flags, node, base) in
            [(40, 1, 0, 0, 0x8000_0000), (96, 2, 2, 1, 0x1_0000_0000)]
        {
            assert_eq!((u16_at(at), u16_at(at + 2)), (0, 56));
            assert_eq!((u16_at(at + 4), u16_at(at + 6)), (index, flags));
            assert_eq!(u32_at(nfit, at + 12), node);
            // drivers/acpi/nfit: UUID_PERSISTENT_MEMORY, as a GUID is stored.
            assert_eq!(u32_at(nfit, at + 16), 0x66f0_d379);
            assert_eq!(
                nfit[at + 24..at + 32],
                [0xac, 0x43, 0x0d, 0x33, 0x18, 0xb7, 0x8c, 0xdb]
            );
            assert_eq!(
                (u64_at(nfit, at + 32), u64_at(nfit, at + 40)),
                (base, 0x40_0000)
            );
        }
        assert_eq!((u16_at(152), u16_at(154)), (7, 16));
        assert_eq!((nfit[156], u32_at(nfit, 160)), (1, 3));
        let dsdt = table(&memory, b"DSDT").unwrap();
        assert!(dsdt.windows(9).any(|bytes| bytes == b"ACPI0012\0"));
        let without = build(&Platform::default(), BASE);
        assert!(table(&without, b"NFIT").is_none());
    }
}
