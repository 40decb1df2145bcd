// SPDX-License-Identifier: GPL-2.0

//! Hand-over: memory that outlives the kernels that use it, and state that goes from one to
//! another.
//!
//! An arena is memory of the pool with a name. Instances are granted it, and map it while they run;
//! so does the host. What is in it stays when any of them ends, in whichever way, until it is
//! removed. A session is entries in an arena that have one owner, which hands them to another.
//! Documentation/multikernel/handover.rst says what may be relied on.
//!
//! From the bottom up; the first five are pure, and only [`arena`] and [`c_api`] have `unsafe`:
//!
//! - [`abi`]: what sessions look like in memory and in calls
//! - [`ownership`]: whose a session is, and how it becomes another's
//! - [`table`]: a session's entries, in an arena's memory
//! - [`arenas`]: which arenas there are, who may have them, who has them open
//! - [`wire`]: what a spawn asks of its host, and the answer
//! - [`arena`]: making, granting and removing arenas, and their files on the host
//! - [`arbiter`]: where the host decides whose a session is
//! - [`port`]: where the host answers spawns
//! - [`guest`]: arenas and sessions as a spawn finds them
//! - [`news`]: that something has become of a session
//! - [`session`]: a session that is open in this kernel
//! - [`ioctl`], [`session_file`]: what user space asks for
//! - [`c_api`]: what C code and modules call

use kernel::prelude::*;

pub(crate) mod abi;
pub(crate) mod arbiter;
pub(crate) mod arena;
pub(crate) mod arenas;
mod c_api;
#[cfg(CONFIG_MULTIKERNEL_GUEST)]
pub(crate) mod guest;
pub(crate) mod ioctl;
mod news;
pub(crate) mod ownership;
pub(crate) mod port;
mod session;
pub(crate) mod session_file;
pub(crate) mod table;
pub(crate) mod wire;

/// To be called once, at boot, on a host and in a spawn.
///
/// # Errors
///
/// `ENOMEM`.
pub(crate) fn set_up() -> Result {
    session::set_up()
}
