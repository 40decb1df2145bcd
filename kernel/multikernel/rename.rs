// SPDX-License-Identifier: GPL-2.0

//! Which of two instances has which name.
//!
//! Whoever finds an instance by name finds one of the two at every moment: the names change hands
//! under the registry's mutex. Owns nothing.

use kernel::prelude::*;

use crate::{
    instance::{Handle, State},
    ledger::InstanceId,
    registry::Subsystem, //
};

/// Gives each of two instances the other's name. Those who read their events get one for it.
///
/// # Errors
///
/// `EINVAL` if it is the same one, `ENOENT` if there is no other of this id, `EBUSY` if one of them
/// is being created or destroyed, `ESTALE`.
pub(crate) fn exchange(subsystem: &Subsystem, handle: Handle, other: u32) -> Result {
    let id = InstanceId::new(other).ok_or(ENOENT)?;
    let mut registry = subsystem.lock();
    let one = registry.find(handle)?;
    let (name, mut busy) = (one.name, one.state == State::Empty);
    let other = registry.find_id(id)?;
    let (handle_of_other, name_of_other) = (other.handle(), other.name);
    busy |= other.state == State::Empty;
    if handle_of_other == handle {
        return Err(EINVAL);
    }
    if busy {
        return Err(EBUSY);
    }
    for (handle, name) in [(handle, name_of_other), (handle_of_other, name)] {
        let instance = registry.find(handle)?;
        instance.name = name;
        subsystem.events().note(instance, instance.state.number());
    }
    Ok(())
}
