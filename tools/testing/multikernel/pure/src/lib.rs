// SPDX-License-Identifier: GPL-2.0

//! The pure modules of `kernel/multikernel/`, from the files that the kernel is built from.
//!
//! Their own tests run here as they do under KUnit; the property tests are in `tests/`. Modules
//! stay at the root of the crate, where they find each other as they do in the kernel.

#[path = "../../../../../kernel/multikernel/abi.rs"]
pub mod abi;

#[allow(clippy::len_without_is_empty, clippy::new_without_default)]
#[path = "../../../../../kernel/multikernel/cpu_ledger.rs"]
pub mod cpu_ledger;

pub mod handover;

#[path = "../../../../../kernel/multikernel/image.rs"]
pub mod image;

pub mod hostile;
pub mod hostile_session;

// What Rust asks of a library that strangers use is not asked of a module inside the kernel.
#[allow(clippy::len_without_is_empty, clippy::new_without_default)]
#[path = "../../../../../kernel/multikernel/ledger.rs"]
pub mod ledger;

pub mod link;

#[path = "../../../../../kernel/multikernel/room.rs"]
pub mod room;

#[path = "../../../../../kernel/multikernel/ring.rs"]
pub mod ring;

// For their own tests only, as they are private; their callers are in the kernel.
#[cfg(test)]
#[allow(dead_code)]
#[path = "../../../../../kernel/multikernel/event_log.rs"]
mod event_log;

#[cfg(test)]
#[allow(dead_code)]
#[path = "../../../../../kernel/multikernel/pulse.rs"]
mod pulse;

#[cfg(test)]
mod guest;
