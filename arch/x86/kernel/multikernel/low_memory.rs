// SPDX-License-Identifier: GPL-2.0

//! Which pages below 1 MiB can be lent.
//!
//! A CPU leaves INIT in real mode and can start only below 1 MiB, so the trampoline and every spawn
//! kernel need a few pages there. Linux reserves the whole first MiB at boot (`reserve_real_mode()`
//! in arch/x86/realmode/init.c) and uses of it only its own real-mode blob; the rest of what
//! firmware calls RAM is idle. Reads only, during initialisation; needs no lock.

use kernel::{
    bindings,
    prelude::*, //
};

use crate::memory::PAGE_SIZE;

/// The first 64 KiB stay alone: firmware is known to write there (X86 `reserve_low`, "Reserve low
/// 64K" in arch/x86/kernel/setup.c), and a spawn kernel would not use them either.
const FIRST: u64 = 0x10000;
/// End of conventional memory; above are the VGA window and ROMs.
const LAST: u64 = 0xa0000;

/// Below this no BIOS has its own memory (BIOS_START_MIN in arch/x86/kernel/ebda.c).
const LOWEST_BIOS: u64 = 0x20000;

/// Calls `found` with base and size of each run of pages that can be lent.
///
/// # Errors
///
/// What `found` returns.
pub(crate) fn for_each_range(mut found: impl FnMut(u64, u64) -> Result) -> Result {
    // SAFETY: These only read values that are fixed since boot; the pointer to the extended BIOS
    // data area is in the first page, which is mapped.
    let (blob, blob_size, ebda, bios) = unsafe {
        (
            bindings::multikernel_realmode_base(),
            bindings::multikernel_realmode_size() as u64,
            u64::from(bindings::multikernel_bios_ebda()),
            u64::from(bindings::multikernel_bios_ram_end()),
        )
    };
    // As reserve_bios_regions(): the lower of the two, as far as they make sense.
    let last = [ebda, bios]
        .into_iter()
        .filter(|at| (LOWEST_BIOS..LAST).contains(at))
        .fold(LAST, u64::min)
        & !(PAGE_SIZE - 1);
    let usable = |at: u64| {
        let free = at + PAGE_SIZE <= blob || at >= blob + blob_size;
        let frame = (at / PAGE_SIZE) as usize;
        // SAFETY: Looks a page number up in the resource tree.
        free && at + PAGE_SIZE <= last && unsafe { bindings::page_is_ram(frame) } != 0
    };

    let mut start = None;
    let mut at = FIRST;
    while at <= LAST {
        match (start, at < LAST && usable(at)) {
            (None, true) => start = Some(at),
            (Some(base), false) => {
                found(base, at - base)?;
                start = None;
            }
            _ => {}
        }
        at += PAGE_SIZE;
    }
    Ok(())
}
