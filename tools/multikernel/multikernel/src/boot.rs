// SPDX-License-Identifier: GPL-2.0

//! Everything that an instance needs to boot, put together into kexec segments.
//!
//! The last page below 1 MiB is a segment of one bits, see [`acpi::Platform::ioapic`].
//!
//! The boot area is one segment: boot_params at its start, the command line on its second page, the
//! ACPI tables from the third page on.

use std::borrow::Cow;

use thiserror::Error;

use crate::acpi::{self, Cpu, NodeMemory, Platform, Pmem};
use crate::bootparams::{self, Description, TooManyEntries};
use crate::cmdline::{self, Defaults, Uart};
use crate::image::Image;
use crate::layout::{self, Layout, LayoutError, Range, PAGE};

/// Offset of the command line in the boot area.
const COMMAND_LINE_OFFSET: u64 = PAGE;
/// Offset of the RSDP and the tables behind it.
const ACPI_OFFSET: u64 = 2 * PAGE;

/// Memory and the node it is on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Memory {
    /// The memory.
    pub range: Range,
    /// NUMA node, if the host has nodes.
    pub node: Option<u32>,
}

/// What is known of the instance and the machine.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its memory below 1 MiB.
    pub low: Vec<Range>,
    /// Its memory above.
    pub memory: Vec<Memory>,
    /// Memory that it finds as persistent memory, apart from `memory`.
    pub pmem: Vec<Memory>,
    /// Its shared area, apart from `memory`.
    pub shared: Range,
    /// Its CPUs, boot CPU first.
    pub cpus: Vec<Cpu>,
    /// CPUs that it may be given later, of which the tables tell and which it does not start.
    pub later_cpus: Vec<Cpu>,
    /// APIC ids of all CPUs of the machine.
    pub machine_apic_ids: Vec<u32>,
    /// Whether the host has more than one NUMA node.
    pub several_nodes: bool,
    /// TSC frequency in kHz, 0 if not known.
    pub tsc_khz: u32,
    /// The host itself keeps its time by the TSC.
    pub tsc_trusted: bool,
    /// The value of `cpu_init_udelay=` on the host's command line.
    pub init_delay: Option<String>,
    /// The most segments that the kernel takes.
    pub segments_max: usize,
}

/// What is to be booted.
#[derive(Clone, Copy, Debug)]
pub struct Recipe<'a> {
    /// The kernel.
    pub image: &'a Image<'a>,
    /// The initrd.
    pub initrd: Option<&'a [u8]>,
    /// Words behind the default command line.
    pub append: &'a str,
    /// UARTs lent to the instance.
    pub uarts: &'a [Uart],
    /// Tell the kernel of its shared area, so that it uses its guest support if it has that.
    pub guest: bool,
}

/// Bytes and where they go; the rest of the range is zeroed.
#[derive(Clone, Debug)]
pub struct Segment<'a> {
    /// The bytes.
    pub data: Cow<'a, [u8]>,
    /// Where they go; whole pages.
    pub range: Range,
}

/// An image that can be loaded and started.
#[derive(Clone, Debug)]
pub struct Prepared<'a> {
    /// The segments, in no order.
    pub segments: Vec<Segment<'a>>,
    /// 64-bit entry address.
    pub entry: u64,
    /// Address of boot_params: what RSI has to be at the entry.
    pub argument: u64,
    /// The whole command line.
    pub command_line: String,
    /// Where everything is.
    pub layout: Layout,
}

/// Why an image cannot be prepared.
#[derive(Clone, Debug, Error, Eq, PartialEq)]
pub enum BootError {
    /// Something does not fit.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The memory is in too many pieces.
    #[error(transparent)]
    MemoryMap(#[from] TooManyEntries),
    /// The command line has a character that it cannot have.
    #[error("{0}")]
    CommandLine(String),
    /// The command line is too long.
    #[error("the command line is {len} bytes long and the kernel takes {max}")]
    CommandLineLength {
        /// Bytes.
        len: u64,
        /// What the kernel takes.
        max: u64,
    },
    /// The instance has too few pages below 1 MiB.
    #[error("it has less than two pages below 1 MiB")]
    LowMemory,
    /// The kernel has no room for this initrd.
    #[error("the initrd is larger than 4 GiB")]
    InitrdSize,
    /// More segments than kexec_load takes.
    #[error("it takes {count} segments and kexec_load takes {max}")]
    Segments {
        /// What it takes.
        count: usize,
        /// What there is.
        max: usize,
    },
}

/// Decides where everything goes, and builds it.
pub fn prepare<'a>(target: &Target, recipe: &Recipe<'a>) -> Result<Prepared<'a>, BootError> {
    let image = recipe.image;
    let defaults = Defaults {
        tsc_khz: target.tsc_khz,
        tsc_trusted: target.tsc_trusted,
        init_delay: target.init_delay.as_deref(),
        shared: recipe.guest.then_some(target.shared.base),
        uarts: recipe.uarts,
        cpus: (!target.later_cpus.is_empty()).then_some(target.cpus.len()),
    };
    let command_line =
        cmdline::command_line(&defaults, recipe.append).map_err(BootError::CommandLine)?;
    let len = command_line.len() as u64;
    // The decompressor and the early kernel map no more than a page of it.
    let max = image.command_line_max().min(PAGE - 1);
    if len > max {
        return Err(BootError::CommandLineLength { len, max });
    }
    let initrd_bytes = recipe.initrd.map_or(0, |initrd| initrd.len() as u64);
    if initrd_bytes >= layout::FOUR_GIB {
        return Err(BootError::InitrdSize);
    }

    let (low, ioapic) = take_ioapic(&target.low).ok_or(BootError::LowMemory)?;
    let platform = platform(target, recipe, ioapic.base as u32);
    let ranges: Vec<Range> = target.memory.iter().map(|memory| memory.range).collect();
    let tables = acpi::build(&platform, 0).len() as u64;
    let layout = layout::plan(&layout::Request {
        ranges: &ranges,
        shared: target.shared,
        kernel: image.need(),
        initrd: initrd_bytes,
        boot: ACPI_OFFSET + tables,
    })?;

    let boot = layout.boot;
    let pmem: Vec<Range> = target.pmem.iter().map(|memory| memory.range).collect();
    let map = bootparams::memory_map(&low, &ranges, &pmem, boot, target.shared);
    let initrd = layout
        .initrd
        .map(|range| Range::new(range.base, initrd_bytes));
    let mut boot_area = bootparams::build(&Description {
        setup_header: image.setup_header(),
        memory_map: &map,
        command_line: boot.base + COMMAND_LINE_OFFSET,
        initrd,
        rsdp: boot.base + ACPI_OFFSET,
        kernel: layout.kernel.base,
    })?;
    boot_area.resize(COMMAND_LINE_OFFSET as usize, 0);
    boot_area.extend_from_slice(command_line.as_bytes());
    boot_area.resize(ACPI_OFFSET as usize, 0);
    boot_area.extend_from_slice(&acpi::build(&platform, boot.base + ACPI_OFFSET));

    let mut segments: Vec<Segment<'a>> = image
        .parts()
        .into_iter()
        .map(|part| {
            let size = (part.data.len() as u64).next_multiple_of(PAGE);
            Segment {
                data: Cow::Borrowed(part.data),
                range: Range::new(layout.kernel.base + part.offset, size),
            }
        })
        .collect();
    if let (Some(data), Some(range)) = (recipe.initrd, layout.initrd) {
        segments.push(Segment {
            data: Cow::Borrowed(data),
            range,
        });
    }
    segments.push(Segment {
        data: Cow::Owned(boot_area),
        range: boot,
    });
    segments.push(Segment {
        data: Cow::Owned(vec![0xff; PAGE as usize]),
        range: ioapic,
    });
    if segments.len() > target.segments_max {
        return Err(BootError::Segments {
            count: segments.len(),
            max: target.segments_max,
        });
    }
    Ok(Prepared {
        segments,
        entry: image.entry(layout.kernel.base),
        argument: boot.base,
        command_line,
        layout,
    })
}

/// Splits the highest page off the memory below 1 MiB, for the decoy IO-APIC, whose address has 32
/// bits. It is not told of as memory.
fn take_ioapic(low: &[Range]) -> Option<(Vec<Range>, Range)> {
    let mut low = low.to_vec();
    let highest = low.iter_mut().max()?;
    highest.size = highest.size.checked_sub(PAGE).filter(|&size| size != 0)?;
    let page = Range::new(highest.end(), PAGE);
    Some((low, page))
}

fn platform(target: &Target, recipe: &Recipe<'_>, ioapic: u32) -> Platform {
    let mut memory = Vec::new();
    if target.several_nodes {
        // Linux gives up on SRAT when it leaves more than 1 MiB of memory out.
        let boot_node = target.cpus.first().and_then(|cpu| cpu.node);
        let low = target.low.iter().map(|&range| (range, boot_node));
        let high = target
            .memory
            .iter()
            .map(|memory| (memory.range, memory.node));
        memory.extend(low.chain(high).map(|(range, node)| NodeMemory {
            range,
            node: node.unwrap_or(0),
        }));
    }
    Platform {
        cpus: [&target.cpus[..], &target.later_cpus].concat(),
        decoy: acpi::decoy(recipe.image.version(), &target.machine_apic_ids),
        ioapic,
        uarts: recipe.uarts.to_vec(),
        memory,
        pmem: target
            .pmem
            .iter()
            .map(|memory| Pmem {
                range: memory.range,
                node: memory.node.filter(|_| target.several_nodes),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{bzimage, vmlinux};

    const MIB: u64 = 1 << 20;

    fn target(base: u64) -> Target {
        let cpu = |apic_id| Cpu {
            apic_id,
            node: None,
        };
        Target {
            low: vec![Range::new(0x20000, 0x20000)],
            memory: vec![Memory {
                range: Range::new(base, 256 * MIB),
                node: None,
            }],
            pmem: Vec::new(),
            shared: Range::new(0xa4_0000, 0x20000),
            cpus: vec![cpu(2), cpu(3)],
            later_cpus: Vec::new(),
            machine_apic_ids: vec![0, 1, 2, 3],
            several_nodes: false,
            tsc_khz: 2_000_000,
            tsc_trusted: true,
            init_delay: None,
            segments_max: 16,
        }
    }

    fn check(target: &Target, prepared: &Prepared<'_>) {
        let memory = target.memory[0].range;
        for (i, segment) in prepared.segments.iter().enumerate() {
            let low = target.low[0].contains(&segment.range);
            assert!(low || memory.contains(&segment.range));
            assert!(!target.shared.overlaps(&segment.range));
            assert!(segment.data.len() as u64 <= segment.range.size);
            assert!(prepared.segments[i + 1..]
                .iter()
                .all(|other| !other.range.overlaps(&segment.range)));
        }
        assert!(prepared
            .segments
            .iter()
            .any(|s| s.range.base <= prepared.entry && prepared.entry < s.range.end()));
        assert_eq!(prepared.argument, prepared.layout.boot.base);
    }

    #[test]
    fn bzimage_above_4g() {
        let file = bzimage::tests::build(b"payload");
        let image = Image::parse(&file).unwrap();
        let target = target(8 << 30);
        let initrd = vec![1u8; 5000];
        let recipe = Recipe {
            image: &image,
            initrd: Some(&initrd),
            append: "quiet",
            uarts: &[],
            guest: true,
        };
        let prepared = prepare(&target, &recipe).unwrap();
        check(&target, &prepared);
        assert_eq!(prepared.segments.len(), 4);
        let ioapic = &prepared.segments[3];
        assert_eq!(ioapic.range, Range::new(0x3f000, PAGE));
        assert!(ioapic.data.iter().all(|&byte| byte == 0xff));
        assert_eq!(prepared.entry, (8 << 30) + 0x200);
        assert!(prepared.command_line.ends_with("console=hvc0 quiet"));
        // The command line and the RSDP are where boot_params says.
        let boot = &prepared.segments[2].data;
        assert_eq!(&boot[0x1000..0x1012], b"no_ipi_broadcast=1");
        assert_eq!(&boot[0x2000..0x2008], b"RSD PTR ");
    }

    #[test]
    fn later_cpus_are_told_of_and_not_started() {
        let file = bzimage::tests::build(b"payload");
        let image = Image::parse(&file).unwrap();
        let mut target = target(8 << 30);
        let recipe = Recipe {
            image: &image,
            initrd: None,
            append: "",
            uarts: &[],
            guest: true,
        };
        let before = prepare(&target, &recipe).unwrap().command_line;
        assert!(!before.contains("maxcpus"), "{before}");
        target.later_cpus = vec![Cpu {
            apic_id: 1,
            node: None,
        }];
        let prepared = prepare(&target, &recipe).unwrap();
        check(&target, &prepared);
        assert!(
            prepared.command_line.contains(" maxcpus=2 "),
            "{}",
            prepared.command_line
        );
        let platform = platform(&target, &recipe, 0);
        let ids: Vec<_> = platform.cpus.iter().map(|cpu| cpu.apic_id).collect();
        assert_eq!(ids, [2, 3, 1]);
        let recipe = Recipe {
            append: "maxcpus=3",
            ..recipe
        };
        let error = prepare(&target, &recipe).unwrap_err();
        assert!(matches!(error, BootError::CommandLine(_)), "{error}");
    }

    #[test]
    fn persistent_memory_is_told_and_not_touched() {
        let file = vmlinux::tests::kernel();
        let image = Image::parse(&file).unwrap();
        let mut target = target(512 * MIB);
        let range = Range::new(1024 * MIB, 4 * MIB);
        target.pmem.push(Memory { range, node: None });
        let recipe = Recipe {
            image: &image,
            initrd: None,
            append: "",
            uarts: &[],
            guest: true,
        };
        let prepared = prepare(&target, &recipe).unwrap();
        check(&target, &prepared);
        let boot = prepared
            .segments
            .iter()
            .find(|segment| segment.range == prepared.layout.boot)
            .unwrap();
        let entries = usize::from(boot.data[0x1e8]);
        let last = &boot.data[0x2d0 + 20 * (entries - 1)..][..20];
        let mut expected = range.base.to_le_bytes().to_vec();
        expected.extend(range.size.to_le_bytes());
        expected.extend(bootparams::E820_PMEM.to_le_bytes());
        assert_eq!(last, expected);
        assert!(boot.data.windows(4).any(|bytes| bytes == b"NFIT"));
    }

    #[test]
    fn vmlinux_is_moved() {
        let file = vmlinux::tests::kernel();
        let image = Image::parse(&file).unwrap();
        let target = target(512 * MIB);
        let recipe = Recipe {
            image: &image,
            initrd: None,
            append: "",
            uarts: &[],
            guest: true,
        };
        let prepared = prepare(&target, &recipe).unwrap();
        check(&target, &prepared);
        assert_eq!(prepared.entry, 512 * MIB + 0x80);
    }

    #[test]
    fn what_does_not_fit() {
        let file = bzimage::tests::build(b"payload");
        let image = Image::parse(&file).unwrap();
        let mut target = target(512 * MIB);
        let append = "x".repeat(2048);
        let mut recipe = Recipe {
            image: &image,
            initrd: None,
            append: &append,
            uarts: &[],
            guest: true,
        };
        let error = prepare(&target, &recipe).unwrap_err();
        assert!(matches!(error, BootError::CommandLineLength { .. }));
        recipe.append = "";
        target.segments_max = 1;
        let error = prepare(&target, &recipe).unwrap_err();
        assert_eq!(error, BootError::Segments { count: 3, max: 1 });
        target.memory[0].range.size = 16 * MIB;
        let error = prepare(&target, &recipe).unwrap_err();
        assert!(matches!(
            error,
            BootError::Layout(LayoutError::TooSmall { .. })
        ));
    }
}
