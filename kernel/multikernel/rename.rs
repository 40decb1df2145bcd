// SPDX-License-Identifier: GPL-2.0

//! Which of two instances has which name.
//!
//! Whoever finds an instance by name finds one of the two at every moment: the names change hands
//! under the registry's mutex. Owns nothing.

use kernel::prelude::*;

use crate::{
    handover::arbiter,
    instance::{Handle, State},
    ledger::InstanceId,
    registry::{
        Registry,
        Subsystem, //
    }, //
};

/// Gives each of two instances the other's name. Those who read their events get one for it. With
/// `sessions` those of the other one go over as well, which the first has accepted.
///
/// # Errors
///
/// `EINVAL` if it is the same one, `ENOENT` if there is no other of this id, `EBUSY` if one of them
/// is being created or destroyed, or a session has not been accepted; `ESTALE`.
pub(crate) fn exchange(
    subsystem: &Subsystem,
    handle: Handle,
    other: u32,
    sessions: bool,
) -> Result {
    let id = InstanceId::new(other).ok_or(ENOENT)?;
    let mut guard = subsystem.lock();
    let registry: &mut Registry = &mut guard;
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
    if sessions {
        arbiter::commit_all(registry, handle_of_other, handle)?;
    }
    for (handle, name) in [(handle, name_of_other), (handle_of_other, name)] {
        let instance = registry.find(handle)?;
        instance.name = name;
        subsystem.events().note(instance, instance.state.number());
    }
    Ok(())
}
