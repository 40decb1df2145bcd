// SPDX-License-Identifier: GPL-2.0

//! Describe, load and drive multikernel instances.
//!
//! The host kernel knows CPUs, memory ranges and kexec segments; it does not know bzImage, ACPI,
//! command lines or initrds. Those are built here, out of standard parts, and handed over as
//! ordinary kexec segments:
//!
//! | module | what it owns |
//! | --- | --- |
//! | [`device`] | `/dev/multikernel`: every ioctl, kexec_load(2), events, the mapped shared area |
//! | [`image`] | kernel files: bzImage, ELF vmlinux, the one inside the other |
//! | [`layout`] | where kernel, initrd and tables go inside the instance's memory |
//! | [`acpi`] | the ACPI tables that describe the instance to its kernel |
//! | [`bootparams`] | boot_params and E820 |
//! | [`cmdline`] | the command line, and which UARTs are lent |
//! | [`boot`] | all of the above put together into segments |
//! | [`load`] | reads the files, prepares and loads them |
//! | [`pmem`] | arenas that an instance finds as persistent memory, held where they are |
//! | [`port`] | messages to a program in the other kernel: blocking, polling, async |
//! | [`shared`] | console rings and header in the shared area |
//! | [`state`] | what was loaded, remembered for a later start |
//! | [`restart`] | when a spawn that ended is started again |
//! | [`dump`] | an instance's memory as an ELF core for gdb and crash |
//! | [`pool`] | how much the pool must grow for a request |
//! | [`upgrade`] | what takes the place of an instance |
//! | [`doctor`] | is this machine fit |
//! | [`hazards`] | what this machine does about what kernels could do to each other |
//! | [`spec`] | sizes, CPU lists and memory requests as people write them |
//! | [`abi`] | the layouts that two kernels share, from the kernel's own source |
//!
//! Only [`device`] and [`port`] make system calls about instances; `image`, `layout`, `acpi`,
//! `bootparams`, `cmdline`, `boot`, `shared`, `restart`, `pool`, `upgrade` and `spec` do no input
//! or output at all.

#[path = "../../../../kernel/multikernel/abi.rs"]
pub mod abi;

pub mod acpi;
pub mod boot;
pub mod bootparams;
pub mod cmdline;
pub mod device;
pub mod doctor;
pub mod dump;
pub mod error;
mod explain;
pub mod hazards;
pub mod image;
pub mod layout;
pub mod load;
pub mod pmem;
pub mod pool;
pub mod port;
pub mod restart;
pub mod shared;
pub mod spec;
pub mod state;
pub mod upgrade;

pub use error::{Error, Result};
