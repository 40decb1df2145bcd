// SPDX-License-Identifier: GPL-2.0

//! Stands in for the `kernel` crate, as far as pure modules use it.
//!
//! Names, signatures and failures are those of `rust/kernel/`, so that a module which compiles and
//! passes here means the same there. Two things are stricter than in the kernel: a vector has room
//! for exactly what was reserved, and an allocation can be made to fail (see [`alloc`]), so that a
//! missing `reserve()` and an error path that leaves something behind are both found.

pub use macros;

pub mod alloc;
pub mod error;

/// What a kernel module imports.
pub mod prelude {
    pub use crate::{
        alloc::{flags::*, AllocError, KVec},
        error::{code::*, Error, Result},
        macros::kunit_tests, //
    };
}
