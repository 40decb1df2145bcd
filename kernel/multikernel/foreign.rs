// SPDX-License-Identifier: GPL-2.0

//! Memory that several kernels use at the same time, of which none keeps Rust objects there: that
//! of arenas, as the host and as a spawn has it mapped.
//!
//! Who may use it is not decided here. No lock; every access is a copy.

use core::ptr;

use kernel::{
    bindings,
    prelude::*,
    sync::barrier::{
        self,
        smp_mb, //
    }, //
};

use crate::memory::{
    direct_map,
    let_others_run,
    zero_bytes,
    CHUNK, //
};

/// Memory that this kernel has mapped write-back and that other kernels, and processes, may be
/// writing to at any time. It is copied from and to, and nobody gets a reference to it.
///
/// # Invariants
///
/// `size` bytes at `at`, which is page-aligned, can be read and written for as long as it lives,
/// and no Rust object is there.
pub(crate) struct SharedBytes {
    at: *mut u8,
    size: u64,
}

// SAFETY: Plain memory, of which there are no references.
unsafe impl Send for SharedBytes {}
// SAFETY: As above.
unsafe impl Sync for SharedBytes {}

impl SharedBytes {
    /// An arena of the host's, in its direct map.
    ///
    /// # Safety
    ///
    /// The range is an arena's, and stays one while the value lives.
    pub(crate) unsafe fn of_arena(base: u64, size: u64) -> Self {
        // INVARIANT: Memory of the pool is RAM in the direct map, of which the host keeps nothing.
        Self {
            at: direct_map(base),
            size,
        }
    }

    /// How many bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Where the `size` bytes at `offset` are.
    ///
    /// # Errors
    ///
    /// `EINVAL` if not all of them are inside.
    pub(crate) fn at(&self, offset: u64, size: u64) -> Result<*mut u8> {
        if offset.checked_add(size).is_none_or(|end| end > self.size) {
            return Err(EINVAL);
        }
        Ok(self.at.wrapping_add(offset as usize))
    }

    /// Copies what is at `offset`, as it may just be changing.
    ///
    /// # Errors
    ///
    /// `EINVAL` if not all of it is inside.
    pub(crate) fn read(&self, offset: u64, to: &mut [u8]) -> Result {
        let from = self.at(offset, to.len() as u64)?;
        // SAFETY: Inside by the check above; `to` is this kernel's own and cannot overlap.
        unsafe { ptr::copy_nonoverlapping(from.cast_const(), to.as_mut_ptr(), to.len()) };
        // Against the compiler, which could else read once more what is checked in the copy.
        smp_mb(barrier::Read);
        Ok(())
    }

    /// Writes to `offset`.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    pub(crate) fn write(&self, offset: u64, from: &[u8]) -> Result {
        let to = self.at(offset, from.len() as u64)?;
        // SAFETY: As in `read`.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
        Ok(())
    }

    /// Fills `size` bytes from `offset` on with zeroes.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    pub(crate) fn zero(&self, offset: u64, size: u64) -> Result {
        let to = self.at(offset, size)?;
        let mut done = 0;
        while done < size {
            let part = CHUNK.min(size - done);
            // SAFETY: Inside by the check above.
            unsafe { zero_bytes(to.add(done as usize), part as usize) };
            done += part;
            let_others_run();
        }
        Ok(())
    }

    /// Writes a word by one store: whoever sees it sees what was written before, and what is
    /// written later is not seen before it.
    ///
    /// # Errors
    ///
    /// As [`Self::read`]; `EINVAL` if `offset` is not a multiple of 8.
    pub(crate) fn store(&self, offset: u64, value: u64) -> Result {
        if !offset.is_multiple_of(8) {
            return Err(EINVAL);
        }
        let to: *mut u64 = self.at(offset, 8)?.cast();
        // Against the compiler, and the CPU: a string instruction's stores are in no order among
        // themselves (SDM volume 3, "10.2.4 Fast-String Operation and Out-of-Order Stores").
        smp_mb(barrier::Full);
        // SAFETY: Inside by the check above, and aligned.
        unsafe { to.write_volatile(value) };
        smp_mb(barrier::Full);
        Ok(())
    }
}

/// Whether this kernel has any of a range as persistent memory, which drivers and file systems use.
#[cfg(CONFIG_MULTIKERNEL_GUEST)]
pub(crate) fn is_persistent_memory(base: u64, size: u64) -> bool {
    let (flags, kind) = (
        bindings::IORESOURCE_MEM as usize,
        bindings::IORES_DESC_PERSISTENT_MEMORY as usize,
    );
    // SAFETY: Looks at the resource tree, with its lock held.
    let found = unsafe { bindings::region_intersects(base, size as usize, flags, kind) };
    found != bindings::REGION_DISJOINT as c_int
}

/// Memory of the host that this kernel, a spawn, was granted, mapped write-back.
///
/// The mapping also settles with which memory type processes get it: that of what is not RAM of
/// this kernel is looked up among what is mapped (`pfnmap_setup_cachemode()` in
/// arch/x86/mm/pat/memtype.c), and would else be uncached.
#[cfg(CONFIG_MULTIKERNEL_GUEST)]
pub(crate) struct ForeignMemory {
    base: u64,
    mapped: SharedBytes,
}

#[cfg(CONFIG_MULTIKERNEL_GUEST)]
impl ForeignMemory {
    /// Maps a range of whole pages whose end does not wrap.
    ///
    /// # Errors
    ///
    /// `EPROTO` if it overlaps what the memory map calls RAM of this kernel, `ENOMEM`.
    pub(crate) fn new(base: u64, size: u64) -> Result<Self> {
        let end = base.checked_add(size).ok_or(EPROTO)?;
        // SAFETY: Looks at the memory map, which does not change after boot.
        if unsafe { bindings::e820__mapped_any(base, end, bindings::e820_type_E820_TYPE_RAM) } {
            return Err(EPROTO);
        }
        // SAFETY: In process context; the range is not RAM of this kernel.
        let mapped =
            unsafe { bindings::memremap(base, size as usize, bindings::MEMREMAP_WB as usize) };
        if mapped.is_null() {
            return Err(ENOMEM);
        }
        Ok(Self {
            base,
            // INVARIANT: Until `drop`, by the mapping that was just made, of memory that is none of
            // this kernel's.
            mapped: SharedBytes {
                at: mapped.cast(),
                size,
            },
        })
    }

    /// What is in it.
    pub(crate) fn bytes(&self) -> &SharedBytes {
        &self.mapped
    }

    /// Its physical address, and its bytes.
    pub(crate) fn range(&self) -> (u64, u64) {
        (self.base, self.mapped.size)
    }
}

#[cfg(CONFIG_MULTIKERNEL_GUEST)]
impl Drop for ForeignMemory {
    fn drop(&mut self) {
        // SAFETY: What `new` has mapped, which nobody uses: it is unmapped when the last file is
        // gone that is mapped anywhere.
        unsafe { bindings::memunmap(self.mapped.at.cast()) };
    }
}
