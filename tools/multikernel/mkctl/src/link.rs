// SPDX-License-Identifier: GPL-2.0

//! Verbs that let two instances talk to each other, and no longer.

use multikernel::device::Host;
use multikernel::Result;

pub fn link(one: &str, other: &str) -> Result<()> {
    Host::open()?.instance(one)?.connect(other)?;
    println!("linked instances \"{one}\" and \"{other}\"");
    Ok(())
}

pub fn unlink(one: &str, other: &str) -> Result<()> {
    Host::open()?.instance(one)?.disconnect(other)?;
    println!("unlinked instances \"{one}\" and \"{other}\"");
    Ok(())
}
