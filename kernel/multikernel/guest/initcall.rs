// SPDX-License-Identifier: GPL-2.0

//! How Rust gets called at points of the boot that `module!` does not offer.
//!
//! Built-in code enters by tables that the linker script gathers: `.init.setup` for `early_param()`
//! and one section for each level of initcall (`include/linux/init.h`). The macros here fill such
//! entries with a function of Rust's own type. Nothing is called from here, and there is no state.

use kernel::{
    bindings,
    error::to_result,
    prelude::*, //
};

/// An entry of `.init.setup`: `struct obs_kernel_param`.
///
/// The bindings lack it, for they are generated as a module sees the headers.
#[repr(C)]
pub(super) struct EarlyParam {
    name: *const c_char,
    handler: unsafe extern "C" fn(*mut c_char) -> c_int,
    early: c_int,
}

// The linker script puts the entries in a row, and the kernel walks them as an array.
static_assert!(size_of::<EarlyParam>() == 24 && align_of::<EarlyParam>() == 8);

// SAFETY: The entry is never written, and what it points at is `'static`.
unsafe impl Sync for EarlyParam {}

impl EarlyParam {
    /// Makes the entry for the parameter `name`, which `handler` is called for with its value or
    /// with null.
    pub(super) const fn new(
        name: &'static CStr,
        handler: unsafe extern "C" fn(*mut c_char) -> c_int,
    ) -> Self {
        Self {
            name: kernel::str::as_char_ptr_in_const_context(name),
            handler,
            early: 1,
        }
    }
}

/// Calls `$function`, a `fn(&CStr) -> Result`, for an early parameter.
macro_rules! early_param {
    ($name:literal, $function:ident) => {
        const _: () = {
            /// # Safety
            ///
            /// `argument` must be null or a zero-terminated string.
            #[link_section = ".init.text"]
            unsafe extern "C" fn handler(
                argument: *mut ::kernel::ffi::c_char,
            ) -> ::kernel::ffi::c_int {
                if argument.is_null() {
                    return EINVAL.to_errno();
                }
                // SAFETY: Not null, so it is a zero-terminated string by the caller's promise; the
                // command line does not change during the call.
                let argument = unsafe { ::kernel::str::CStr::from_char_ptr(argument) };
                match $function(argument) {
                    Ok(()) => 0,
                    Err(error) => error.to_errno(),
                }
            }

            #[link_section = ".init.setup"]
            #[used(compiler)]
            static ENTRY: $crate::guest::initcall::EarlyParam =
                $crate::guest::initcall::EarlyParam::new(
                    match ::kernel::str::CStr::from_bytes_with_nul(concat!($name, "\0").as_bytes())
                    {
                        Ok(name) => name,
                        Err(_) => panic!("a parameter's name has no zero byte"),
                    },
                    handler,
                );
        };
    };
}
pub(super) use early_param;

/// Calls `$function`, a `fn() -> Result`, as an initcall of the level whose section is `$section`.
///
/// `$symbol` must be unique in the kernel.
macro_rules! initcall {
    ($section:literal, $symbol:literal, $function:ident) => {
        // As `module!` does it; x86 always has relative initcall entries.
        ::core::arch::global_asm!(concat!(
            ".section \"",
            $section,
            "\", \"a\"\n",
            "__",
            $symbol,
            "_initcall:\n",
            ".long __",
            $symbol,
            "_init - .\n",
            ".previous\n",
        ));

        const _: () = {
            #[export_name = concat!("__", $symbol, "_init")]
            #[link_section = ".init.text"]
            extern "C" fn initcall() -> ::kernel::ffi::c_int {
                match $function() {
                    Ok(()) => 0,
                    Err(error) => error.to_errno(),
                }
            }
        };
    };
}
pub(super) use initcall;

/// Parses a physical address, in any base that the command line knows.
///
/// # Errors
///
/// `EINVAL` or `ERANGE` if it is no 64-bit number.
pub(super) fn parse_address(argument: &CStr) -> Result<u64> {
    let mut address = 0;
    // SAFETY: `argument` is zero-terminated and `address` is valid for a write.
    to_result(unsafe { bindings::kstrtoull(argument.as_char_ptr(), 0, &mut address) })?;
    Ok(address)
}
