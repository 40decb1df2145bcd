// SPDX-License-Identifier: GPL-2.0

//! What goes over links.

#[path = "../../../../../kernel/multikernel/link/data.rs"]
pub mod data;
#[path = "../../../../../kernel/multikernel/link/lane.rs"]
pub mod lane;
#[path = "../../../../../kernel/multikernel/link/layout.rs"]
pub mod layout;
#[path = "../../../../../kernel/multikernel/link/wake.rs"]
pub mod wake;
