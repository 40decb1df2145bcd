// SPDX-License-Identifier: GPL-2.0

//! `mkctl pool grow` and `shrink`.

use multikernel::device::Host;
use multikernel::spec::{format_size, Side};
use multikernel::Result;

pub fn grow(size: u64, node: Option<i32>, below_4g: bool, above_4g: bool) -> Result<()> {
    let side = match (below_4g, above_4g) {
        (true, _) => Side::Below4G,
        (_, true) => Side::Above4G,
        _ => Side::Any,
    };
    let base = Host::open()?.grow(size, node, side)?;
    println!("added {} at {base:#x} to the pool", format_size(size));
    Ok(())
}

pub fn shrink(size: u64, base: Option<u64>) -> Result<()> {
    Host::open()?.shrink(size, base)?;
    println!("gave {} of the pool back to the host", format_size(size));
    Ok(())
}
