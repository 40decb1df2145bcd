// SPDX-License-Identifier: GPL-2.0

//! Hand-over: memory that outlives the kernels that use it.
//!
//! An arena is memory of the pool with a name. Instances are granted it, and map it while they run;
//! so does the host. What is in it stays when any of them ends, in whichever way, until it is
//! removed. Documentation/multikernel/handover.rst says what may be relied on.
//!
//! From the bottom up; the first two are pure, and none has `unsafe`:
//!
//! - [`arenas`]: which there are, who may have them, who has them open
//! - [`wire`]: what a spawn asks of its host, and the answer
//! - [`arena`]: making, granting and removing them, and their files on the host
//! - [`port`]: where the host answers spawns
//! - [`guest`]: arenas as a spawn finds them
//! - [`ioctl`]: what user space asks for

pub(crate) mod arena;
pub(crate) mod arenas;
#[cfg(CONFIG_MULTIKERNEL_GUEST)]
pub(crate) mod guest;
pub(crate) mod ioctl;
pub(crate) mod port;
pub(crate) mod wire;
