// SPDX-License-Identifier: GPL-2.0

//! Memory that outlives the kernels that use it.

#[path = "../../../../../kernel/multikernel/handover/abi.rs"]
pub mod abi;
#[allow(clippy::new_without_default)]
#[path = "../../../../../kernel/multikernel/handover/arenas.rs"]
pub mod arenas;
#[path = "../../../../../kernel/multikernel/handover/ownership.rs"]
pub mod ownership;
#[path = "../../../../../kernel/multikernel/handover/table.rs"]
pub mod table;
#[path = "../../../../../kernel/multikernel/handover/wire.rs"]
pub mod wire;
