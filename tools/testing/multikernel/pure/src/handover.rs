// SPDX-License-Identifier: GPL-2.0

//! Memory that outlives the kernels that use it.

#[allow(clippy::new_without_default)]
#[path = "../../../../../kernel/multikernel/handover/arenas.rs"]
pub mod arenas;
#[path = "../../../../../kernel/multikernel/handover/wire.rs"]
pub mod wire;
