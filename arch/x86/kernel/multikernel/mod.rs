// SPDX-License-Identifier: GPL-2.0

//! x86-64: starting, stopping and parking CPUs that run another kernel.
//!
//! - [`apic`]: APIC ids and the interprocessor interrupts that start and stop a CPU
//! - [`trampoline`]: the page in which lent CPUs come up, the mailboxes, parking
//! - [`identity_map`]: the page tables on which a spawn kernel is entered
//! - [`low_memory`]: which pages below 1 MiB can be lent
//! - [`doorbell`]: the interrupt by which a spawn reaches the host
//! - [`crash`]: the moment before a crash kernel takes the machine
//! - [`platform`]: clocks and modes of this machine that a spawn or its loader is told
//!
//! What a spawn kernel does with the machine is in guest_hooks.rs, a module of `crate::guest`.
//!
//! Everything here is mechanism. Who owns a CPU or a page is decided above.

pub(crate) mod apic;
pub(crate) mod crash;
pub(crate) mod doorbell;
pub(crate) mod identity_map;
pub(crate) mod low_memory;
pub(crate) mod platform;
pub(crate) mod trampoline;
