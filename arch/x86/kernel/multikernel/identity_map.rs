// SPDX-License-Identifier: GPL-2.0

//! Page tables that map chosen physical ranges to themselves.
//!
//! A kernel is entered in 64-bit mode with paging on, so somebody has to bring page tables. These
//! are 4-level tables with pages of 2 MiB and, for ranges that are not multiples of that, 4 KiB
//! (Intel SDM volume 3, "4-Level Paging"). They are pages of the host; what they do not map, a
//! spawn that has not yet built tables of its own cannot reach by mistake.
//!
//! A table is built by one owner and read-only afterwards, so it needs no lock.

use kernel::prelude::*;

use crate::memory::{TablePage, PAGE_SIZE};

/// Present, read-only, accessed.
const READ_ONLY_LEAF: u64 = 0b0010_0001;
/// Present, writable. Accessed and dirty are set so that the CPU need not write to the tables.
const TABLE: u64 = 0b0010_0011;
const LEAF: u64 = 0b0110_0011;
/// In a page directory entry: a page of 2 MiB.
const LARGE: u64 = 1 << 7;
/// Bits 12..=51: the physical address in an entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Bytes of a large page.
const LARGE_SIZE: u64 = 2 << 20;
/// First address that 4 levels cannot map to itself: the lower half is 2^47 bytes.
const LIMIT: u64 = 1 << 47;

/// Page tables and the pages they are in.
///
/// # Invariants
///
/// `pages` is not empty; its first page is the root, and every non-leaf entry holds the address of
/// a page of `pages`.
pub(crate) struct IdentityMap {
    pages: KVec<TablePage>,
}

impl IdentityMap {
    /// Tables that map nothing.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Self> {
        let mut pages = KVec::new();
        pages.push(TablePage::new()?, GFP_KERNEL)?;
        Ok(Self { pages })
    }

    /// What goes into CR3.
    pub(crate) fn root(&self) -> u64 {
        self.pages.first().map_or(0, TablePage::phys)
    }

    /// The root's entries, for a copy of the root that has to be elsewhere.
    pub(crate) fn root_entry(&self, index: usize) -> u64 {
        self.pages.first().map_or(0, |page| page.get(index))
    }

    /// Bytes of memory that the tables take.
    pub(crate) fn bytes(&self) -> u64 {
        self.pages.len() as u64 * PAGE_SIZE
    }

    /// Maps `size` bytes at `base` to themselves.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a range that is not of whole pages, or too high; `ENOMEM`. What was mapped
    /// before an error stays mapped.
    pub(crate) fn map(&mut self, base: u64, size: u64) -> Result {
        let end = base.checked_add(size).ok_or(EINVAL)?;
        if (base | size) & (PAGE_SIZE - 1) != 0 || end > LIMIT {
            return Err(EINVAL);
        }
        let mut at = base;
        while at < end {
            let large = at & (LARGE_SIZE - 1) == 0 && end - at >= LARGE_SIZE;
            let directory = self.table(0, at, 39)?;
            let directory = self.table(directory, at, 30)?;
            if large {
                self.set(directory, at, 21, at | LEAF | LARGE);
                at += LARGE_SIZE;
            } else {
                let table = self.table(directory, at, 21)?;
                self.set(table, at, 12, at | LEAF);
                at += PAGE_SIZE;
            }
        }
        Ok(())
    }

    /// Maps one page to itself, to be read only.
    ///
    /// # Errors
    ///
    /// As for [`Self::map`].
    pub(crate) fn map_read_only(&mut self, base: u64) -> Result {
        self.map(base, PAGE_SIZE)?;
        let directory = self.table(0, base, 39)?;
        let directory = self.table(directory, base, 30)?;
        let table = self.table(directory, base, 21)?;
        self.set(table, base, 12, base | READ_ONLY_LEAF);
        Ok(())
    }

    fn index(at: u64, shift: u32) -> usize {
        ((at >> shift) & 0x1ff) as usize
    }

    fn set(&mut self, page: usize, at: u64, shift: u32, entry: u64) {
        if let Some(page) = self.pages.get_mut(page) {
            page.set(Self::index(at, shift), entry);
        }
    }

    /// The index in `pages` of the table that the entry for `at` in table `page` points to; a new
    /// one if the entry is empty.
    fn table(&mut self, page: usize, at: u64, shift: u32) -> Result<usize> {
        let entry = self
            .pages
            .get(page)
            .ok_or(EINVAL)?
            .get(Self::index(at, shift));
        if entry == 0 {
            let new = self.pages.len();
            let table = TablePage::new()?;
            let phys = table.phys();
            self.pages.push(table, GFP_KERNEL)?;
            // INVARIANT: `phys` is the page that was just added.
            self.set(page, at, shift, phys | TABLE);
            return Ok(new);
        }
        if entry & LARGE != 0 {
            return Err(EINVAL);
        }
        self.pages
            .iter()
            .position(|table| table.phys() == entry & ADDRESS)
            .ok_or(EINVAL)
    }
}
