// SPDX-License-Identifier: GPL-2.0

//! Links: how two kernels talk.
//!
//! A link joins two kernels, the host and a spawn or two spawns. It is a region of memory in which
//! each side has lanes, rings of 64-byte slots from one of its CPUs to one of the other's, and a
//! doorbell, one interrupt vector. Documentation/multikernel/messaging.rst has the wire format and
//! what may be relied on.
//!
//! From the bottom up; [`layout`] to [`poll`], [`offer`] and [`grant`] are without `unsafe` and
//! tested on the build machine:
//!
//! - [`layout`]: where in the region things are
//! - [`lane`]: slots there and back; its `turns.rs` for those that a program sends or takes
//! - [`data`]: what is longer than a lane; no message of the kernel's own is
//! - [`wake`]: when a doorbell is rung
//! - [`limit`]: how much of a CPU a peer can have
//! - [`poll`]: how long a caller looks for its answer before it sleeps
//! - [`region`]: the memory itself
//! - [`tune`]: what an administrator may set
//! - [`outbox`]: the link itself, and what sends
//! - [`inbox`]: what receives, ports and their handlers
//! - [`call`]: messages that are answered
//! - [`typed`]: messages that are values of a type
//! - [`ports`]: which ports have lanes of their own
//! - [`channel`]: one of them that somebody has open: those of user space
//! - `vsock`: sockets of AF_VSOCK, by a port of the kernel's
//! - [`mapped`]: ports whose lanes a process has mapped
//! - [`stats`]: what a link has carried
//! - [`peer`]: links to instances, as the host makes them, and to the host, as a spawn finds it
//! - [`offer`]: what host and spawn say to each other about links between spawns
//! - [`grant`]: which spawns may have one, and what is to be done for it
//! - [`sibling`]: the port by which they say it
//! - [`cpus`]: the port by which a spawn asks which CPUs it may start

pub(crate) mod call;
pub(crate) mod channel;
pub(crate) mod cpus;
#[allow(dead_code)]
pub(crate) mod data;
pub(crate) mod grant;
pub(crate) mod inbox;
pub(crate) mod lane;
pub(crate) mod layout;
pub(crate) mod limit;
pub(crate) mod mapped;
pub(crate) mod offer;
pub(crate) mod outbox;
pub(crate) mod peer;
pub(crate) mod poll;
pub(crate) mod ports;
pub(crate) mod region;
pub(crate) mod sibling;
pub(crate) mod stats;
pub(crate) mod tune;
pub(crate) mod typed;
#[cfg(CONFIG_MULTIKERNEL_VSOCK)]
pub(crate) mod vsock;
pub(crate) mod wake;
