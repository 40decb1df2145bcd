// SPDX-License-Identifier: GPL-2.0

//! Where the host decides whose a session is, for itself and for its spawns.
//!
//! Each step of a hand-over is one look into the registry, with its mutex held: see [`ownership`]
//! for what the steps are. Whoever waits for one is told when it has been made, a spawn by an empty
//! message to [`PORT_SESSION`].
//!
//! [`ownership`]: super::ownership

use kernel::{
    prelude::*,
    sync::Arc, //
};

use super::{
    arena,
    news,
    ownership::{
        Outcome,
        Ownership,
        Party, //
    },
    wire::{
        Asked,
        Step,
        Told, //
    }, //
};
use crate::{
    abi::{
        MESSAGE_DATA,
        NAME_LENGTH,
        PORT_SESSION, //
    },
    fault,
    instance::{
        Handle,
        Name, //
    },
    link::outbox::Link,
    registry::{
        Registry,
        Room,
        Subsystem, //
    }, //
};

/// Who is meant by a name in a request.
fn party(registry: &Registry, name: &[u8; NAME_LENGTH]) -> Result<Party<Handle>> {
    if name.iter().all(|&byte| byte == 0) {
        return Ok(Party::Host);
    }
    let name = Name::new(name)?;
    let found = registry.instances.iter().find(|it| it.name == name);
    Ok(Party::Instance(found.ok_or(ENOENT)?.handle()))
}

/// What there is to say of a session that `place` and `ownership` are of.
fn told(place: Option<(u64, u64)>, ownership: &Ownership<Handle>) -> Told {
    let offer = ownership.offer_made();
    let (base, size) = place.unwrap_or((0, 0));
    Told {
        base,
        size,
        ticket: offer.map_or(0, |offer| offer.ticket),
        outcome: match offer {
            Some(offer) if offer.accepted => Outcome::Accepted,
            _ => Outcome::Offered,
        },
    }
}

/// Makes a step of the host's own.
///
/// # Errors
///
/// As `include/uapi/linux/multikernel.h` documents them for the calls that ask for the steps.
pub(super) fn decide(subsystem: &Subsystem, asked: &Asked) -> Result<Told> {
    decide_by(subsystem, asked, |_| Ok(Party::Host))
}

/// Makes a step of the spawn at the other end of a link.
///
/// # Errors
///
/// As [`decide`]; `ESTALE` if it does not run any more; `EAGAIN` if it has asked for something else
/// since: what it has given up must not be made behind its back.
pub(super) fn decide_for(subsystem: &Subsystem, link: &Arc<Link>, asked: &Asked) -> Result<Told> {
    decide_by(subsystem, asked, |registry| {
        let handle = arena::at_link(registry, link)?.handle();
        let instance = registry.find(handle)?;
        if asked.sequence <= instance.session_requests {
            return Err(EAGAIN);
        }
        instance.session_requests = asked.sequence;
        Ok(Party::Instance(handle))
    })
}

/// Makes a step, and lets a test have somebody end right before or after it.
fn decide_by(
    subsystem: &Subsystem,
    asked: &Asked,
    by: impl FnOnce(&mut Registry) -> Result<Party<Handle>>,
) -> Result<Told> {
    let (operation, _) = asked.step.operation();
    fault::hold(operation);
    let told = decide_at_once(subsystem, asked, by);
    fault::hold(operation | fault::HOLD_MADE);
    told
}

fn decide_at_once(
    subsystem: &Subsystem,
    asked: &Asked,
    by: impl FnOnce(&mut Registry) -> Result<Party<Handle>>,
) -> Result<Told> {
    let room = Room {
        grants: 1,
        ..Room::default()
    };
    let name = Name::new(&asked.name)?;
    let mut guard = subsystem.lock_with_room(room)?;
    let registry: &mut Registry = &mut guard;
    let by = by(registry)?;
    // An offer that the step ends has had its receiver before, and not any more.
    let before = concerned(registry, &name);
    let answer = decide_in(registry, by, &name, asked.step)?;
    if !matches!(asked.step, Step::Open | Step::Look(_)) {
        let after = concerned(registry, &name);
        tell(registry, |party| {
            party != by && (before.contains(&Some(party)) || after.contains(&Some(party)))
        });
    }
    Ok(answer)
}

fn decide_in(registry: &mut Registry, by: Party<Handle>, name: &Name, step: Step) -> Result<Told> {
    let instances = &registry.instances;
    let arenas = &mut registry.arenas;
    let ticket = match step {
        Step::Create => {
            let runs = |handle| arena::may_run(instances, handle);
            let place = arenas.create_session(name, by, runs)?;
            arena::wipe_head(&place);
            0
        }
        Step::Open => {
            if arenas.session(name)?.0.owner() != by {
                return Err(EACCES);
            }
            0
        }
        Step::Offer(to) => {
            let to = party(registry, &to)?;
            return Ok(Told {
                ticket: registry.arenas.session(name)?.0.offer(by, to)?,
                ..told(None, registry.arenas.session(name)?.0)
            });
        }
        Step::Accept => {
            let ticket = arenas.session(name)?.0.accept(by)?;
            if let Party::Instance(handle) = by {
                // Which also keeps the memory where it is while that runs. There is room for it.
                arenas.grant_to_read(name, handle)?;
            }
            ticket
        }
        Step::Commit(ticket) => {
            arenas.session(name)?.0.commit(by, ticket)?;
            if let Party::Instance(handle) = by {
                // It has been granted it, to be read at least: what comes cannot fail.
                arenas.grant(name, handle, true, false)?;
            }
            ticket
        }
        Step::Abort(ticket) => {
            arenas.session(name)?.0.abort(by, ticket)?;
            ticket
        }
        Step::Look(ticket) => {
            let outcome = arenas.session(name)?.0.outcome(by, ticket)?;
            return Ok(Told {
                base: 0,
                size: 0,
                ticket,
                outcome,
            });
        }
        Step::Remove => {
            arenas.remove_session(name, by)?;
            return Ok(Told {
                base: 0,
                size: 0,
                ticket: 0,
                outcome: Outcome::Aborted,
            });
        }
    };
    let (ownership, place) = arenas.session(name)?;
    let told = told(Some((place.base, place.size)), ownership);
    Ok(match ticket {
        0 => told,
        ticket => Told { ticket, ..told },
    })
}

/// Who has to do with a session: its owner, who offered it last, and to whom it is offered.
fn concerned(registry: &mut Registry, name: &Name) -> [Option<Party<Handle>>; 3] {
    let Ok((ownership, _)) = registry.arenas.session(name) else {
        return [None; 3];
    };
    let to = ownership.offer_made().map(|offer| offer.to);
    [Some(ownership.owner()), ownership.giver(), to]
}

/// Tells the host, and of the spawns those of `whom`.
fn tell(registry: &Registry, whom: impl Fn(Party<Handle>) -> bool) {
    news::tell();
    for instance in &registry.instances {
        if let (true, Some(link)) = (whom(Party::Instance(instance.handle())), &instance.link) {
            // A lane that is full has others to read first, and then it asks again.
            let _ = link.send(None, MESSAGE_DATA, PORT_SESSION, &[]);
        }
    }
}

/// All sessions of one instance become another's, which has accepted them.
///
/// # Errors
///
/// `EBUSY` if it has not accepted one; nothing has changed then.
pub(crate) fn commit_all(registry: &mut Registry, from: Handle, to: Handle) -> Result {
    registry.arenas.commit_all(from, to)?;
    let both = [Party::Instance(from), Party::Instance(to)];
    tell(registry, |party| both.contains(&party));
    Ok(())
}

/// A life of an instance has ended: what it had accepted is called off. `parked`: whether all of
/// its CPUs are known not to use anything any more.
pub(crate) fn ended(registry: &mut Registry, handle: Handle, parked: bool) {
    // They look when the registry is free again, and find what has become of it.
    tell(registry, |party| registry.arenas.waits_for(party, handle));
    registry.arenas.ended(handle, parked);
}

/// An instance is there no more: what it owned is the host's, what it was offered is called off.
pub(crate) fn forget(registry: &mut Registry, handle: Handle) {
    tell(registry, |party| registry.arenas.waits_for(party, handle));
    registry.arenas.forget(handle);
}

/// The host takes a session from an instance that does not run, offered or not.
///
/// # Errors
///
/// `ENOENT`: there is no such session; `EBUSY`: the owner runs.
pub(super) fn seize(subsystem: &Subsystem, name: &Name) -> Result {
    let mut guard = subsystem.lock();
    let registry: &mut Registry = &mut guard;
    let concerned = concerned(registry, name);
    let instances = &registry.instances;
    let (ownership, _) = registry.arenas.session(name)?;
    if let Party::Instance(handle) = ownership.owner() {
        if arena::may_run(instances, handle) {
            return Err(EBUSY);
        }
    }
    ownership.seize();
    tell(registry, |party| concerned.contains(&Some(party)));
    Ok(())
}
