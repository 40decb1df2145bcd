// SPDX-License-Identifier: GPL-2.0

//! Where the host answers the requests of spawns for arenas: [`PORT_ARENA`].
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
    arena,
    wire, //
};
use crate::{
    abi::{
        NAME_LENGTH,
        PORT_ARENA, //
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
const WAITING_MAX: usize = 256;
/// How many of one link.
const WAITING_OF_LINK_MAX: usize = 8;

/// Who asks, and for the arena of which name.
type Asked = (Caller, [u8; NAME_LENGTH]);

#[pin_data]
struct Desk {
    #[pin]
    waiting: SpinLockIrq<KVec<Asked>>,
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
    inbox::add_port(PORT_ARENA, Arc::new(Port, GFP_KERNEL)?)
}

/// [`PORT_ARENA`].
struct Port;

impl Handler for Port {
    fn receive(&self, message: &Incoming<'_>) {
        let Some((caller, request)) = call::caller(message) else {
            return;
        };
        let refused = match (wire::name_of(request), DESK.as_ref()) {
            (Some(name), Some(desk)) => match desk.put_down((caller, name)) {
                Ok(()) => {
                    // An error means that it is queued already, which is as good.
                    let _ = workqueue::system().enqueue::<_, 0>(desk.clone());
                    return;
                }
                Err((caller, _)) => (caller, bindings::EBUSY),
            },
            _ => (caller, bindings::EINVAL),
        };
        let (caller, errno) = refused;
        let _ = caller.answer(errno, &[]);
    }
}

impl Desk {
    /// Has a request answered; it comes back if there are too many.
    fn put_down(&self, asked: Asked) -> Result<(), Asked> {
        let mut waiting = self.waiting.lock();
        let link = asked.0.link();
        let same = |other: &&Asked| Arc::ptr_eq(other.0.link(), link);
        if waiting.iter().filter(same).count() >= WAITING_OF_LINK_MAX
            || waiting.len() >= WAITING_MAX
        {
            return Err(asked);
        }
        // There is room.
        let _ = waiting.push_within_capacity(asked);
        Ok(())
    }

    fn next(&self) -> Option<Asked> {
        self.waiting.lock().remove(0).ok()
    }
}

impl WorkItem for Desk {
    type Pointer = Arc<Desk>;

    fn run(this: Arc<Desk>) {
        // As many as there can be; who comes later has it queued again.
        for _ in 0..WAITING_MAX {
            let Some((caller, name)) = this.next() else {
                return;
            };
            // Who has gone does not wait for an answer.
            let _ = match look_up(&caller, &name) {
                Ok(granted) => caller.answer(0, &granted.answer()),
                Err(error) => caller.answer(error.to_errno().unsigned_abs(), &[]),
            };
        }
        // It may be that some came meanwhile whose queueing came to nothing.
        let _ = workqueue::system().enqueue::<_, 0>(this);
    }
}

fn look_up(caller: &Caller, name: &[u8; NAME_LENGTH]) -> Result<wire::Granted> {
    let name = Name::new(name)?;
    arena::granted(Subsystem::get()?, caller.link(), &name)
}
