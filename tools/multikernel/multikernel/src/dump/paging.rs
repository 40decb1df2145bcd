// SPDX-License-Identifier: GPL-2.0

//! The page tables of a spawn kernel, as they are in its memory.
//!
//! They tell where its memory is mapped, which VMCOREINFO does not say of a kernel with
//! CONFIG_RANDOMIZE_MEMORY. The spawn may have written anything there, and may be changing it: a
//! table is followed only where it is inside the instance's memory, and the number of tables is
//! bounded.

use std::ops::ControlFlow;

use super::Memory;

/// Bytes of a table and of the smallest page.
const PAGE: usize = 4096;
/// An entry that maps something (Intel SDM, volume 3, "Paging").
const PRESENT: u64 = 1 << 0;
/// At the second and third level: an entry that maps a large page.
const LARGE: u64 = 1 << 7;
/// The address in an entry; what a large page's entry has in its lowest bits is masked by its size.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// The most tables that one walk reads. Those of 16 GiB in 4 KiB pages are 8192.
const TABLES_MAX: usize = 32 << 10;

/// A piece of virtual memory that is physically contiguous.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Mapping {
    /// Virtual address.
    pub virt: u64,
    /// Physical address.
    pub phys: u64,
    /// Bytes.
    pub size: u64,
}

/// A tree of page tables.
pub struct Tables<'a, M: ?Sized> {
    memory: &'a M,
    top: u64,
    levels: u32,
}

impl<'a, M: Memory + ?Sized> Tables<'a, M> {
    /// The tree below the table at this physical address, of four levels or five.
    pub fn new(memory: &'a M, top: u64, five_levels: bool) -> Self {
        Self {
            memory,
            top: top & ADDRESS,
            levels: if five_levels { 5 } else { 4 },
        }
    }

    /// The lowest address of the kernel's half.
    pub fn kernel_half(&self) -> u64 {
        u64::MAX << (11 + 9 * self.levels)
    }

    /// Visits the mapped pages of a window, both of whose ends are in it, in ascending order.
    pub fn walk(&self, first: u64, last: u64, mut visit: impl FnMut(Mapping) -> ControlFlow<()>) {
        let mut walk = Walk {
            memory: self.memory,
            first,
            last,
            left: TABLES_MAX,
            visit: &mut visit,
        };
        let shift = 12 + 9 * self.levels;
        // What `descend` counts from: the part of an address above the first table's index.
        let _ = walk.descend(self.top, self.levels, first >> shift << shift);
    }

    /// Where an address is mapped to.
    pub fn translate(&self, virt: u64) -> Option<u64> {
        let mut phys = None;
        self.walk(virt, virt, |mapping| {
            phys = Some(mapping.phys + (virt - mapping.virt));
            ControlFlow::Break(())
        });
        phys
    }

    /// The mapped pages of a window, neighbours joined, at most `max` of them.
    pub fn mappings(&self, first: u64, last: u64, max: usize) -> Vec<Mapping> {
        let mut mappings: Vec<Mapping> = Vec::new();
        self.walk(first, last, |next| {
            let joined = mappings.last_mut().filter(|before| {
                before.virt.wrapping_add(before.size) == next.virt
                    && before.phys.wrapping_add(before.size) == next.phys
            });
            if let Some(before) = joined {
                before.size += next.size;
            } else if mappings.len() < max {
                mappings.push(next);
            } else {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        mappings
    }
}

struct Walk<'a, M: ?Sized> {
    memory: &'a M,
    first: u64,
    last: u64,
    left: usize,
    visit: &'a mut dyn FnMut(Mapping) -> ControlFlow<()>,
}

impl<M: Memory + ?Sized> Walk<'_, M> {
    fn descend(&mut self, table: u64, level: u32, base: u64) -> ControlFlow<()> {
        self.left = match self.left.checked_sub(1) {
            Some(left) => left,
            None => return ControlFlow::Break(()),
        };
        let mut bytes = [0; PAGE];
        if self.memory.read(table, &mut bytes).is_err() {
            return ControlFlow::Continue(());
        }
        let (entries, _) = bytes.as_chunks::<8>();
        let shift = 3 + 9 * level;
        let size = 1u64 << shift;
        for (index, entry) in entries.iter().enumerate() {
            let entry = u64::from_le_bytes(*entry);
            // The upper half of the top table is where addresses begin with ones: `base` has them.
            let virt = base.wrapping_add((index as u64) << shift);
            let end = virt.wrapping_add(size - 1);
            if entry & PRESENT == 0 || end < self.first || virt > self.last {
                continue;
            }
            if level == 1 || (level <= 3 && entry & LARGE != 0) {
                (self.visit)(Mapping {
                    virt,
                    phys: entry & ADDRESS & !(size - 1),
                    size,
                })?;
            } else {
                self.descend(entry & ADDRESS, level - 1, virt)?;
            }
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::tests::TestMemory;
    use super::*;

    /// Enters a page of 4 KiB, 2 MiB or 1 GiB (`level` 1 to 3) into four-level tables; new tables
    /// come from `next`.
    pub fn map(memory: &mut TestMemory, top: u64, next: &mut u64, level: u32, mapping: (u64, u64)) {
        let (virt, phys) = mapping;
        let mut table = top;
        for at in (level + 1..=4).rev() {
            let slot = table + 8 * (virt >> (3 + 9 * at) & 511);
            if memory.word(slot) & PRESENT == 0 {
                memory.set_word(slot, *next | PRESENT);
                *next += PAGE as u64;
            }
            table = memory.word(slot) & ADDRESS;
        }
        let large = if level > 1 { LARGE } else { 0 };
        // NX, dirty and accessed are set as the CPU and Linux do.
        let flags = 1 << 63 | 0x60 | PRESENT | large;
        memory.set_word(table + 8 * (virt >> (3 + 9 * level) & 511), phys | flags);
    }

    const TOP: u64 = 0x10_0000;

    fn tables() -> TestMemory {
        let mut memory = TestMemory::new(TOP, 0x20_0000);
        let mut next = TOP + 0x1000;
        for (level, virt, phys) in [
            (3, 0xffff_9000_0000_0000, 0),
            (2, 0xffff_9000_4000_0000, 0x4000_0000),
            (2, 0xffff_9000_4020_0000, 0x4020_0000),
            (1, 0xffff_c900_0000_0000, 0x4000_5000),
            (1, 0xffff_c900_0000_1000, 0x4000_6000),
            (1, 0xffff_c900_0000_2000, 0x4000_8000),
            (1, 0xffff_ffff_ffff_f000, 0x4000_9000),
            (1, 0x40_0000, 0x4000_a000),
        ] {
            map(&mut memory, TOP, &mut next, level, (virt, phys));
        }
        memory
    }

    #[test]
    fn addresses_are_translated() {
        let memory = tables();
        let tables = Tables::new(&memory, TOP | 0xfff, false);
        assert_eq!(tables.kernel_half(), 0xffff_8000_0000_0000);
        for (virt, phys) in [
            (0xffff_9000_0012_3456, Some(0x12_3456)),
            (0xffff_9000_4020_0001, Some(0x4020_0001)),
            (0xffff_c900_0000_2fff, Some(0x4000_8fff)),
            (0xffff_c900_0000_3000, None),
            (0xffff_ffff_ffff_ffff, Some(0x4000_9fff)),
            (0xffff_ffff_ffff_efff, None),
        ] {
            assert_eq!(tables.translate(virt), phys, "{virt:#x}");
        }
        assert_eq!(Tables::new(&memory, TOP, true).kernel_half(), 0xff00 << 48);
    }

    #[test]
    fn neighbours_are_joined() {
        let memory = tables();
        let tables = Tables::new(&memory, TOP, false);
        let all = tables.mappings(tables.kernel_half(), u64::MAX, 100);
        let mapping = |virt, phys, size| Mapping { virt, phys, size };
        assert_eq!(
            all,
            [
                mapping(0xffff_9000_0000_0000, 0, 0x4040_0000),
                mapping(0xffff_c900_0000_0000, 0x4000_5000, 0x2000),
                mapping(0xffff_c900_0000_2000, 0x4000_8000, 0x1000),
                mapping(0xffff_ffff_ffff_f000, 0x4000_9000, 0x1000),
            ]
        );
        assert_eq!(tables.mappings(tables.kernel_half(), u64::MAX, 2), all[..2]);
    }

    #[test]
    fn tables_that_lead_nowhere_or_in_circles_end() {
        let mut memory = TestMemory::new(TOP, 0x1000);
        memory.set_word(TOP + 8 * 300, TOP | PRESENT);
        memory.set_word(TOP + 8 * 301, 0x7777_7000 | PRESENT);
        // Every entry but these leads back to the top: 2^36 pages, if nothing stopped it.
        for index in (256..300).chain(302..512) {
            memory.set_word(TOP + 8 * index, TOP | PRESENT);
        }
        let tables = Tables::new(&memory, TOP, false);
        let mut seen = 0u64;
        tables.walk(tables.kernel_half(), u64::MAX, |_| {
            seen += 1;
            ControlFlow::Continue(())
        });
        assert!(seen <= (TABLES_MAX * 512) as u64);
        assert_eq!(memory.reads(), TABLES_MAX);
    }
}
