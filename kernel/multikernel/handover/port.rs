// SPDX-License-Identifier: GPL-2.0

//! Where the host answers the requests of spawns for arenas and sessions: [`PORT_ARENA`] and
//! [`PORT_SESSION`].
//!
//! A request comes in a softirq, with an inbox locked, and what answers it is behind the registry's
//! mutex: so it is put down, and a work item answers. The list of what was put down has a spinlock
//! with interrupts off, which nests inside an inbox's, and room for a fixed number, of each link
//! for a few: a spawn that asks too much does not keep others from being answered.

use kernel::{
    bindings,
    new_spinlock_irq,
    prelude::*,
    sync::{
        Arc,
        SetOnce,
        SpinLockIrq, //
    },
    workqueue::{
        self,
        impl_has_work,
        new_work,
        Work,
        WorkItem, //
    }, //
};

use super::{
    arbiter,
    arena,
    wire::{
        self,
        Asked,
        Granted,
        Told, //
    }, //
};
use crate::{
    abi::{
        NAME_LENGTH,
        PORT_ARENA,
        PORT_SESSION, //
    },
    instance::Name,
    link::{
        call::{
            self,
            Caller, //
        },
        inbox::{
            self,
            Handler,
            Incoming, //
        }, //
    },
    registry::Subsystem, //
};

/// How many requests may wait.
const WAITING_MAX: usize = 512;
/// How many of one link.
const WAITING_OF_LINK_MAX: usize = 32;

/// What is asked for.
enum Wish {
    /// The arena of this name.
    Arena([u8; NAME_LENGTH]),
    /// A step with a session.
    Session(Asked),
}

#[pin_data]
struct Desk {
    #[pin]
    waiting: SpinLockIrq<KVec<(Caller, Wish)>>,
    #[pin]
    work: Work<Desk>,
}

impl_has_work! {
    impl HasWork<Self> for Desk { self.work }
}

static DESK: SetOnce<Arc<Desk>> = SetOnce::new();

/// Takes requests from now on. To be called once, at boot, on a host.
///
/// # Errors
///
/// `ENOMEM`.
pub(crate) fn listen() -> Result {
    let waiting = KVec::with_capacity(WAITING_MAX, GFP_KERNEL)?;
    DESK.populate(Arc::pin_init(
        pin_init!(Desk {
            waiting <- new_spinlock_irq!(waiting, "multikernel::arena_requests"),
            work <- new_work!("multikernel::arena_work"),
        }),
        GFP_KERNEL,
    )?);
    let arenas = Port(|request| wire::name_of(request).map(Wish::Arena));
    let sessions = Port(|request| Asked::of_request(request).map(Wish::Session));
    inbox::add_port(PORT_ARENA, Arc::new(arenas, GFP_KERNEL)?)?;
    inbox::add_port(PORT_SESSION, Arc::new(sessions, GFP_KERNEL)?)
}

/// One of the two ports, by what makes a wish of a request.
struct Port(fn(&[u8]) -> Option<Wish>);

impl Handler for Port {
    fn receive(&self, message: &Incoming<'_>) {
        let Some((caller, request)) = call::caller(message) else {
            return;
        };
        let refused = match ((self.0)(request), DESK.as_ref()) {
            (Some(wish), Some(desk)) => match desk.put_down((caller, wish)) {
                Ok(()) => {
                    // An error means that it is queued already, which is as good.
                    let _ = workqueue::system_unbound().enqueue::<_, 0>(desk.clone());
                    return;
                }
                Err(caller) => (caller, bindings::EBUSY),
            },
            _ => (caller, bindings::EINVAL),
        };
        let (caller, errno) = refused;
        let _ = caller.answer(errno, &[]);
    }
}

impl Desk {
    /// Has a request answered; who has made it comes back if there are too many.
    fn put_down(&self, asked: (Caller, Wish)) -> Result<(), Caller> {
        let mut waiting = self.waiting.lock();
        let link = asked.0.link();
        let same = |other: &&(Caller, Wish)| Arc::ptr_eq(other.0.link(), link);
        if waiting.iter().filter(same).count() >= WAITING_OF_LINK_MAX
            || waiting.len() >= WAITING_MAX
        {
            return Err(asked.0);
        }
        // There is room.
        let _ = waiting.push_within_capacity(asked);
        Ok(())
    }

    fn next(&self) -> Option<(Caller, Wish)> {
        self.waiting.lock().remove(0).ok()
    }
}

impl WorkItem for Desk {
    type Pointer = Arc<Desk>;

    fn run(this: Arc<Desk>) {
        // As many as there can be; who comes later has it queued again.
        for _ in 0..WAITING_MAX {
            let Some((caller, wish)) = this.next() else {
                return;
            };
            // Who has gone does not wait for an answer.
            let _ = match fulfil(&caller, &wish) {
                Ok(Answer::Arena(granted)) => caller.answer(0, &granted.answer()),
                Ok(Answer::Session(told)) => caller.answer(0, &told.answer()),
                Err(error) => caller.answer(error.to_errno().unsigned_abs(), &[]),
            };
        }
        // It may be that some came meanwhile whose queueing came to nothing.
        let _ = workqueue::system_unbound().enqueue::<_, 0>(this);
    }
}

enum Answer {
    Arena(Granted),
    Session(Told),
}

fn fulfil(caller: &Caller, wish: &Wish) -> Result<Answer> {
    let subsystem = Subsystem::get()?;
    match wish {
        Wish::Arena(name) => {
            let name = Name::new(name)?;
            arena::granted(subsystem, caller.link(), &name).map(Answer::Arena)
        }
        Wish::Session(asked) => {
            arbiter::decide_for(subsystem, caller.link(), asked).map(Answer::Session)
        }
    }
}
