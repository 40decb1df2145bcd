// SPDX-License-Identifier: GPL-2.0

//! Physical memory that is set aside or lent: the wrappers that touch it.
//!
//! Three kinds of memory are reached here, all through the host's direct map: pages of the host
//! itself ([`TablePage`], [`FixedMemory`]), the bytes of a [`Region`] while no spawn runs in it,
//! and the shared area ([`SharedPages`]), which a spawn kernel may be writing at the same time and
//! which is read and written in single volatile words.
//!
//! It never decides who owns what; that is the ledger's. It needs no lock of its own.

use core::ptr;

use kernel::{
    bindings,
    page::Page,
    prelude::*,
    uaccess::UserSlice, //
};

use crate::ledger::Region;

/// Bytes of a page.
pub(crate) const PAGE_SIZE: u64 = 4096;

/// Largest piece that is copied or zeroed before others get to run.
pub(crate) const CHUNK: u64 = 1 << 20;

/// How many pages that many bytes are; of an address, its page frame number.
fn pages(bytes: u64) -> usize {
    (bytes / PAGE_SIZE) as usize
}

/// Where the direct map has a physical address.
pub(crate) fn direct_map(phys: u64) -> *mut u8 {
    // SAFETY: Only computes an address; callers make sure that there is memory behind it.
    unsafe { bindings::multikernel_phys_to_virt(phys) }.cast()
}

/// Lets others run who wait for this CPU, in the middle of long work: in process context, with no
/// lock held that forbids sleeping.
pub(crate) fn let_others_run() {
    // SAFETY: In process context, with no lock that forbids sleeping.
    unsafe { bindings::multikernel_cond_resched() };
}

/// Fills memory with zeroes by 64-bit stores.
///
/// The kernel's own `memset()` is `rep stosb` where the CPU says that this is fast, and so it is,
/// but for emulated CPUs, where it is an order of magnitude slower than this.
///
/// # Safety
///
/// `size` bytes at `to` are valid for writes, and nobody has a reference to them.
pub(crate) unsafe fn zero_bytes(to: *mut u8, size: usize) {
    let head = to.align_offset(8).min(size);
    let words = (size - head) / 8;
    let tail = size - head - words * 8;
    // SAFETY: `head`, `words` and `tail` are all inside `size`; after `head` it is aligned.
    unsafe {
        ptr::write_bytes(to, 0, head);
        let at: *mut u64 = to.add(head).cast();
        for index in 0..words {
            at.add(index).write_volatile(0);
        }
        ptr::write_bytes(to.add(head + words * 8), 0, tail);
    }
}

/// A zeroed page of the host, seen as 512 words of 64 bits.
pub(crate) struct TablePage {
    page: Page,
}

impl TablePage {
    /// Entries of a page table.
    pub(crate) const ENTRIES: usize = 512;

    /// Allocates one.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            page: Page::alloc_page(GFP_KERNEL | __GFP_ZERO)?,
        })
    }

    /// Its physical address.
    pub(crate) fn phys(&self) -> u64 {
        // SAFETY: `page` is a valid page for as long as `self` lives.
        unsafe { bindings::multikernel_page_to_phys(self.page.as_ptr()) }
    }

    /// Reads an entry; 0 for an index that does not exist.
    pub(crate) fn get(&self, index: usize) -> u64 {
        if index >= Self::ENTRIES {
            return 0;
        }
        let words: *const u64 = direct_map(self.phys()).cast();
        // SAFETY: The page was allocated without `__GFP_HIGHMEM`, so it is in the direct map; the
        // index is inside it.
        unsafe { words.add(index).read_volatile() }
    }

    /// Writes an entry; an index that does not exist is ignored.
    pub(crate) fn set(&mut self, index: usize, value: u64) {
        if index >= Self::ENTRIES {
            return;
        }
        let words: *mut u64 = direct_map(self.phys()).cast();
        // SAFETY: As in `get`. The CPU may walk the table at the same time: one aligned 64-bit
        // store is what it expects.
        unsafe { words.add(index).write_volatile(value) }
    }
}

/// Memory of the host at a fixed address that no `struct page` owner is told of: the page below
/// 1 MiB that holds the trampoline.
pub(crate) struct FixedMemory {
    base: u64,
    size: u64,
}

impl FixedMemory {
    /// # Safety
    ///
    /// `size` bytes at the physical address `base` are in the direct map, and are nobody else's for
    /// ever.
    pub(crate) unsafe fn new(base: u64, size: u64) -> Self {
        Self { base, size }
    }

    /// Its physical address.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    fn at(&self, offset: u64, size: u64) -> Result<*mut u8> {
        if offset.checked_add(size).is_none_or(|end| end > self.size) {
            return Err(EINVAL);
        }
        Ok(direct_map(self.base + offset))
    }

    /// Copies `bytes` to `offset`.
    ///
    /// # Errors
    ///
    /// `EINVAL` if they do not fit.
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) -> Result {
        let to = self.at(offset, bytes.len() as u64)?;
        // SAFETY: `at` has checked that the bytes are inside; `bytes` cannot overlap memory that is
        // only reached through `self`.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }
}

impl Region {
    fn at(&self, base: u64, size: u64) -> Result<*mut u8> {
        if !self.contains(base, size) {
            return Err(EINVAL);
        }
        Ok(direct_map(base))
    }

    /// Fills `size` bytes at the physical address `base` with zeroes.
    ///
    /// # Errors
    ///
    /// `EINVAL` if they are not all inside.
    pub(crate) fn zero(&self, base: u64, size: u64) -> Result {
        let to = self.at(base, size)?;
        let mut done = 0;
        while done < size {
            let part = CHUNK.min(size - done);
            // SAFETY: Inside the region by the check above; a region is memory that has a direct
            // map and of which the host keeps nothing.
            unsafe { zero_bytes(to.add(done as usize), part as usize) };
            done += part;
            let_others_run();
        }
        Ok(())
    }

    /// Copies what `other` has, as far as there is room for it.
    pub(crate) fn copy_from(&self, other: &Region) {
        let size = self.size().min(other.size());
        let (to, from) = (direct_map(self.base()), direct_map(other.base()));
        let mut done = 0;
        while done < size {
            let part = CHUNK.min(size - done);
            // SAFETY: Inside both regions, which have a direct map and, being two, do not overlap;
            // of neither does the host keep anything.
            unsafe {
                let from = from.add(done as usize);
                ptr::copy_nonoverlapping(from, to.add(done as usize), part as usize);
            }
            done += part;
            let_others_run();
        }
    }

    /// Copies `size` bytes from the user address `from` to the physical address `base`.
    ///
    /// # Errors
    ///
    /// `EINVAL` if they are not all inside, `EFAULT` if the source is not readable.
    pub(crate) fn copy_from_user(&self, base: u64, from: u64, size: u64) -> Result {
        let to = self.at(base, size)?;
        let mut done = 0;
        while done < size {
            let part = CHUNK.min(size - done);
            let user = UserPtr::from_addr((from + done) as usize);
            let mut reader = UserSlice::new(user, part as usize).reader();
            // SAFETY: Inside the region by the check above. No kernel runs in it while it is
            // loaded, and `MaybeUninit` bytes may hold anything.
            let out = unsafe {
                core::slice::from_raw_parts_mut(to.add(done as usize).cast(), part as usize)
            };
            reader.read_raw(out)?;
            done += part;
            let_others_run();
        }
        Ok(())
    }

    /// Copies bytes from the physical address `base`. A spawn that runs may change them meanwhile.
    ///
    /// # Errors
    ///
    /// `EINVAL` if they are not all inside.
    pub(crate) fn read(&self, base: u64, to: &mut [u8]) -> Result {
        let from = self.at(base, to.len() as u64)?;
        // SAFETY: Inside the region by the check above, so that there is a direct map of it; `to`
        // is the host's and cannot overlap. No reference is made to what a spawn may be changing.
        unsafe { ptr::copy_nonoverlapping(from.cast_const(), to.as_mut_ptr(), to.len()) };
        Ok(())
    }
}

/// Pages of the host that an instance's spawn kernel sees as well: the shared area, which the
/// host's user space also sees, and a link's memory.
///
/// They are not lent memory, so that a process which still has them mapped when the instance is
/// gone sees nothing but what it saw before. All access is by single volatile words.
pub(crate) struct SharedPages {
    page: *mut bindings::page,
    size: u64,
}

// SAFETY: The pages are plain memory, and every access to them is one volatile word.
unsafe impl Send for SharedPages {}
// SAFETY: As above.
unsafe impl Sync for SharedPages {}

impl SharedPages {
    /// Allocates `size` bytes of them, zeroed: a power of two, at least a page.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EINVAL` for another size.
    pub(crate) fn new(size: u64) -> Result<Self> {
        if !size.is_power_of_two() || size < PAGE_SIZE {
            return Err(EINVAL);
        }
        let flags = bindings::GFP_KERNEL | bindings::__GFP_ZERO | bindings::__GFP_NOWARN;
        // SAFETY: In process context; returns pages or NULL.
        let page = unsafe { bindings::alloc_pages(flags, Self::order(size)) };
        if page.is_null() {
            return Err(ENOMEM);
        }
        Ok(Self { page, size })
    }

    /// How many pages that are, as a power of two.
    fn order(size: u64) -> u32 {
        pages(size).checked_ilog2().unwrap_or(0)
    }

    /// How many bytes they are.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Where this kernel has them: page-aligned, for reads and writes, for as long as `self` lives.
    pub(crate) fn address(&self) -> *mut u8 {
        direct_map(self.phys())
    }

    /// Their physical address.
    pub(crate) fn phys(&self) -> u64 {
        // SAFETY: `page` is valid until `drop`.
        unsafe { bindings::multikernel_page_to_phys(self.page) }
    }

    /// The word of type `T` at `offset`, if it is inside and aligned.
    fn word<T>(&self, offset: u64) -> Option<*mut T> {
        let size = size_of::<T>() as u64;
        let inside = offset % size == 0 && offset.checked_add(size)? <= self.size;
        inside.then(|| direct_map(self.phys() + offset).cast())
    }

    /// Reads a word that a spawn may be writing; 0 where there is none.
    pub(crate) fn read_u32(&self, offset: u64) -> u32 {
        // SAFETY: `word` checked that it is inside and aligned.
        self.word(offset)
            .map_or(0, |at: *mut u32| unsafe { at.read_volatile() })
    }

    /// Reads a word that a spawn may be writing; 0 where there is none.
    pub(crate) fn read_u64(&self, offset: u64) -> u64 {
        // SAFETY: `word` checked that it is inside and aligned.
        self.word(offset)
            .map_or(0, |at: *mut u64| unsafe { at.read_volatile() })
    }

    /// Writes a word that a spawn may be reading.
    pub(crate) fn write_u32(&self, offset: u64, value: u32) {
        if let Some(at) = self.word::<u32>(offset) {
            // SAFETY: `word` checked that it is inside and aligned.
            unsafe { at.write_volatile(value) };
        }
    }

    /// Writes a word that a spawn may be reading.
    pub(crate) fn write_u64(&self, offset: u64, value: u64) {
        if let Some(at) = self.word::<u64>(offset) {
            // SAFETY: `word` checked that it is inside and aligned.
            unsafe { at.write_volatile(value) };
        }
    }

    /// Writes `bytes`, whole words of 64 bits, from `offset` on.
    pub(crate) fn write_words(&self, offset: u64, bytes: &[u8]) {
        for (i, chunk) in bytes.as_chunks().0.iter().enumerate() {
            self.write_u64(offset + i as u64 * 8, u64::from_le_bytes(*chunk));
        }
    }
}

impl Drop for SharedPages {
    fn drop(&mut self) {
        // SAFETY: Allocated in `new`, of the same order; whoever could see the pages held a
        // reference to `self`, or was a spawn whose CPUs have been parked.
        unsafe { bindings::__free_pages(self.page, Self::order(self.size)) };
    }
}

/// Checks that `size` bytes at the user address `from` can be read, without keeping them.
///
/// # Errors
///
/// `EFAULT`.
pub(crate) fn check_readable(from: u64, size: u64) -> Result {
    let mut at = from;
    let end = from.checked_add(size).ok_or(EFAULT)?;
    while at < end {
        let mut byte = [0u8];
        UserSlice::new(UserPtr::from_addr(at as usize), 1)
            .reader()
            .read_slice(&mut byte)?;
        at = (at | (PAGE_SIZE - 1)).saturating_add(1);
    }
    Ok(())
}

/// Takes one contiguous range of `size` bytes from the host, aligned to `align`, on node `nid` or
/// any. Returns its physical address and node.
///
/// # Errors
///
/// `ENOSPC` if the host cannot free such a range.
pub(crate) fn allocate_contiguous(
    size: u64,
    align: u64,
    below_4g: bool,
    nid: Option<i32>,
) -> Result<(u64, i32)> {
    // alloc_contig_pages() aligns only powers of two; of others, what is too much goes back.
    let exact = size.is_power_of_two() && size >= align;
    let slack = if exact { 0 } else { align - PAGE_SIZE };
    let taken = size.checked_add(slack).ok_or(ENOSPC)?;
    // SAFETY: In process context. The function takes any numbers, and returns a page or NULL.
    let page =
        unsafe { bindings::multikernel_alloc_contig(pages(taken), below_4g, nid.unwrap_or(-1)) };
    if page.is_null() {
        return Err(ENOSPC);
    }
    // SAFETY: `page` is the first of the pages that were just allocated.
    let base = unsafe { bindings::multikernel_page_to_phys(page) };
    let start = base.next_multiple_of(align);
    let (before, after) = (start - base, slack - (start - base));
    if before != 0 {
        free_contiguous(base, before);
    }
    if after != 0 {
        free_contiguous(start + size, after);
    }
    Ok((start, node_of(start)))
}

/// Fills memory that is about to enter the pool with zeroes, so that an instance finds nothing of
/// the host's in it.
pub(crate) fn zero_new(base: u64, size: u64) {
    let mut done = 0;
    while done < size {
        let part = CHUNK.min(size - done);
        // SAFETY: The range has been set aside for the pool and is not in it yet: it is nobody's;
        // it is RAM in the direct map.
        unsafe { zero_bytes(direct_map(base + done), part as usize) };
        done += part;
        let_others_run();
    }
}

/// Gives a range from [`allocate_contiguous`], or a part of one, back to the host.
pub(crate) fn free_contiguous(base: u64, size: u64) {
    // SAFETY: By the ledger's invariants the range was allocated by `allocate_contiguous`, has not
    // been freed, and nobody owns it: it has just been withdrawn.
    unsafe { bindings::free_contig_range(pages(base), pages(size)) };
}

/// The NUMA node of a range of RAM.
pub(crate) fn node_of(base: u64) -> i32 {
    // SAFETY: `base` is RAM that the host has, so there is a `struct page` for it.
    unsafe { bindings::multikernel_phys_to_nid(base) }
}

/// Whether there is a NUMA node of this number.
pub(crate) fn node_exists(nid: i32) -> bool {
    // SAFETY: Any number may be asked about.
    unsafe { bindings::multikernel_node_exists(nid) }
}

/// The range that `reserve_mem=SIZE:ALIGN:multikernel` set aside at boot, if any: base and size.
pub(crate) fn reserved_at_boot() -> Option<(u64, u64)> {
    let (mut base, mut size) = (0, 0);
    // SAFETY: The name is zero-terminated, the other two are valid places to write to.
    let found = unsafe {
        bindings::reserve_mem_find_by_name(c"multikernel".as_char_ptr(), &mut base, &mut size)
    };
    (found != 0).then_some((base, size))
}
