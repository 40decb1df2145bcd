// SPDX-License-Identifier: GPL-2.0

//! Moving memory between the host and the pool.
//!
//! What is in the pool is zeroed: when it comes in, and when an instance gives it back. So creating
//! an instance need not do it, and neither instances nor the host find what others left.
//!
//! The ledger says what is in the pool; this file gets the memory and gives it back. Guarded by the
//! registry's mutex, which is not held while the host frees up or takes back memory.

use kernel::prelude::*;

use crate::{
    ledger::Request,
    memory,
    registry::{Room, Subsystem, MEMORY_ALIGN}, //
};

/// Puts the memory that `reserve_mem=SIZE:ALIGN:multikernel` set aside into the pool.
///
/// # Errors
///
/// `ENOMEM`.
pub(crate) fn add_boot_memory(subsystem: &Subsystem) -> Result {
    let Some((start, size)) = memory::reserved_at_boot() else {
        return Ok(());
    };
    // What is not whole large pages at the edges stays unused.
    let base = start.next_multiple_of(MEMORY_ALIGN);
    let end = start.saturating_add(size) & !(MEMORY_ALIGN - 1);
    if base >= end {
        pr_warn!("reserve_mem: too small for the pool; it takes multiples of 2 MiB\n");
        return Ok(());
    }
    memory::zero_new(base, end - base);
    subsystem
        .lock()
        .memory
        .insert(base, end - base, memory::node_of(base), true)
}

/// Moves one contiguous range from the host to the pool, and returns its address. Of `request`,
/// `base` is not used.
///
/// # Errors
///
/// `EINVAL` for an impossible size, `ENOSPC` if the host cannot free such a range, `ENOMEM`.
pub(crate) fn grow(subsystem: &Subsystem, request: &Request) -> Result<u64> {
    subsystem.lock().memory.check(0, request.size)?;
    if request.below_4g && request.above_4g {
        return Err(EINVAL);
    }
    let (base, nid) =
        memory::allocate_contiguous(request.size, MEMORY_ALIGN, request.below_4g, request.nid)?;
    let added = if request.above_4g && base < 1 << 32 {
        Err(ENOSPC)
    } else {
        memory::zero_new(base, request.size);
        let room = Room {
            memory: 1,
            ..Room::default()
        };
        subsystem
            .lock_with_room(room)
            .and_then(|mut registry| registry.memory.insert(base, request.size, nid, false))
    };
    if let Err(error) = added {
        memory::free_contiguous(base, request.size);
        return Err(error);
    }
    Ok(base)
}

/// Gives free memory of the pool back to the host.
///
/// # Errors
///
/// As [`crate::ledger::MemoryLedger::withdraw`]; nothing has moved then.
pub(crate) fn shrink(subsystem: &Subsystem, request: &Request) -> Result {
    // All that there are, those that come into being meanwhile, and the two ends of one.
    let count = subsystem.lock().memory.entries().len() + 8;
    let mut ranges = KVec::with_capacity(count, GFP_KERNEL)?;
    let room = Room {
        memory: 2,
        ..Room::default()
    };
    subsystem
        .lock_with_room(room)?
        .memory
        .withdraw(request, &mut ranges)?;
    for (base, size) in ranges {
        memory::free_contiguous(base, size);
    }
    Ok(())
}
