// SPDX-License-Identifier: GPL-2.0

//! What goes over links.

#[path = "../../../../../kernel/multikernel/link/data.rs"]
pub mod data;
// What Rust asks of a library that strangers use is not asked of a module inside the kernel.
#[allow(clippy::new_without_default)]
#[path = "../../../../../kernel/multikernel/link/grant.rs"]
pub mod grant;
#[path = "../../../../../kernel/multikernel/link/lane.rs"]
pub mod lane;
#[path = "../../../../../kernel/multikernel/link/layout.rs"]
pub mod layout;
#[allow(clippy::new_without_default)]
#[path = "../../../../../kernel/multikernel/link/limit.rs"]
pub mod limit;
#[path = "../../../../../kernel/multikernel/link/offer.rs"]
pub mod offer;
#[path = "../../../../../kernel/multikernel/link/poll.rs"]
pub mod poll;
#[path = "../../../../../kernel/multikernel/link/vsock/packet.rs"]
pub mod vsock_packet;
#[path = "../../../../../kernel/multikernel/link/wake.rs"]
pub mod wake;
