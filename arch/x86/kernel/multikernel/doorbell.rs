// SPDX-License-Identifier: GPL-2.0

//! The interrupt by which another kernel reaches this one.
//!
//! x86 has a vector that is left to the platform, `X86_PLATFORM_IPI_VECTOR`, with a function
//! pointer to go with it; only SGI UV uses it. The pointer is read-only after boot.

use kernel::{
    bindings,
    prelude::*, //
};

use super::apic;

/// The vector that this kernel advertises.
pub(crate) const VECTOR: u8 = bindings::X86_PLATFORM_IPI_VECTOR as u8;

/// The APIC id that this kernel advertises: CPU 0, which is never lent.
///
/// # Errors
///
/// `EOPNOTSUPP` if it cannot be addressed.
pub(crate) fn apic_id() -> Result<apic::ApicId> {
    apic::ApicId::of_cpu(kernel::cpu::CpuId::from_u32(0).ok_or(EOPNOTSUPP)?)
}

/// Has `handler` called, in interrupt context, when somebody rings. To be called during boot.
///
/// # Errors
///
/// `EBUSY` if the vector has a user.
pub(crate) fn listen(handler: unsafe extern "C" fn()) -> Result {
    let callback = &raw mut bindings::x86_platform_ipi_callback;
    // SAFETY: Initcalls run one after another, and before the pointer becomes read-only.
    unsafe {
        if callback.read().is_some() {
            return Err(EBUSY);
        }
        callback.write(Some(handler));
    }
    Ok(())
}
