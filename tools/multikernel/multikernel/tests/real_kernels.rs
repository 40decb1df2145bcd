// SPDX-License-Identifier: GPL-2.0

//! Real kernel files, where the caller names some in `MULTIKERNEL_TEST_KERNELS` (separated by
//! colons): each is parsed, and unpacked if it is a bzImage, cut off in many places, and prepared
//! for an instance.

use multikernel::acpi::Cpu;
use multikernel::boot::{prepare, Memory, Recipe, Target};
use multikernel::image::Image;
use multikernel::layout::Range;

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
        shared: Range::new(base + 256 * MIB - 0x20000, 0x20000),
        cpus: vec![cpu(2), cpu(3)],
        later_cpus: Vec::new(),
        machine_apic_ids: (0..4).collect(),
        several_nodes: false,
        tsc_trusted: true,
        init_delay: None,
        tsc_khz: 2_000_000,
        segments_max: 16,
    }
}

fn check(what: &str, image: &Image<'_>) {
    let version = image.version().expect("a kernel tells its version");
    let recipe = Recipe {
        image,
        initrd: None,
        append: "quiet",
        uarts: &[],
        guest: true,
    };
    for base in [16 * MIB, 512 * MIB, 5 << 30] {
        let prepared = prepare(&target(base), &recipe).expect("it fits into 256 MiB");
        println!(
            "{what}: {} {}.{} at {:#x}, entry {:#x}, {} segments, needs {:?}",
            image.format(),
            version.major,
            version.minor,
            prepared.layout.kernel.base,
            prepared.entry,
            prepared.segments.len(),
            image.need()
        );
    }
}

#[test]
fn real_kernels() {
    let paths = std::env::var("MULTIKERNEL_TEST_KERNELS").unwrap_or_default();
    for path in paths.split(':').filter(|path| !path.is_empty()) {
        let file = std::fs::read(path).expect("the kernel can be read");
        let image = Image::parse(&file).expect("it is a kernel");
        check(path, &image);
        // Wherever a kernel is cut off, it is noticed; a signature may be behind a bzImage.
        for part in 0..16 {
            assert!(Image::parse(&file[..file.len() / 16 * part]).is_err());
        }
        if let Image::BzImage(bzimage) = &image {
            let vmlinux = bzimage.extract().expect("it can be unpacked");
            let unpacked = Image::parse(&vmlinux).expect("there is a kernel in it");
            assert_eq!(unpacked.version(), image.version());
            check(path, &unpacked);
        }
    }
}
