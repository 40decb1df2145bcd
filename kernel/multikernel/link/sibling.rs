// SPDX-License-Identifier: GPL-2.0

//! [`PORT_LINKS`](crate::abi::PORT_LINKS): how host and spawn speak of links between spawns.
//!
//! Owns the calls that have come and wait to be looked at: a port's handler must not sleep, and
//! what is asked here takes mutexes and maps memory. So it only keeps the call, in a list with a
//! spinlock of its own that nests inside an inbox's, and a work item carries it out and answers. On
//! the host that is for [`crate::connect`], in a spawn for `guest/siblings.rs`.

use kernel::{
    new_spinlock_irq,
    prelude::*,
    sync::{
        Arc,
        SetOnce,
        SpinLockIrq, //
    },
    time::msecs_to_jiffies,
    workqueue::{
        self,
        impl_has_delayed_work,
        impl_has_work,
        new_delayed_work,
        new_work,
        DelayedWork,
        Work,
        WorkItem, //
    }, //
};

use super::{
    call,
    inbox::{
        self,
        Handler,
        Incoming, //
    },
    lane::Header,
    offer::Message,
    outbox::Link, //
};
use crate::abi::{
    MESSAGE_CALL,
    PORT_LINKS, //
};

/// Calls that may wait, over all links.
const WAITING_MAX: usize = 64;
/// Calls of one link that may wait.
const WAITING_OF_LINK: usize = 8;
/// Milliseconds until it is tried again what could not be done.
const AGAIN_MS: u32 = 1000;

/// A call that has come.
struct Waiting {
    link: Arc<Link>,
    from: u32,
    header: Header,
    payload: KVec<u8>,
}

#[pin_data]
struct Calls {
    #[pin]
    list: SpinLockIrq<KVec<Waiting>>,
    #[pin]
    work: Work<Calls>,
    /// As `work`, in a moment.
    #[pin]
    later: DelayedWork<Calls, 1>,
}

impl_has_work! {
    impl HasWork<Self> for Calls { self.work }
}

impl_has_delayed_work! {
    impl HasDelayedWork<Self, 1> for Calls { self.later }
}

static CALLS: SetOnce<Arc<Calls>> = SetOnce::new();

/// Opens the port. To be called once, at boot, after the inboxes.
///
/// # Errors
///
/// `ENOMEM`.
pub(crate) fn set_up() -> Result {
    let list = KVec::with_capacity(WAITING_MAX, GFP_KERNEL)?;
    CALLS.populate(Arc::pin_init(
        pin_init!(Calls {
            list <- new_spinlock_irq!(list, "multikernel::links_calls"),
            work <- new_work!("multikernel::links_work"),
            later <- new_delayed_work!("multikernel::links_later"),
        }),
        GFP_KERNEL,
    )?);
    inbox::add_port(PORT_LINKS, Arc::new(Port, GFP_KERNEL)?)
}

/// Has it looked after what there may be to do. In any context.
pub(crate) fn look() {
    if let Some(calls) = CALLS.as_ref() {
        // An error means that it is queued already, which is as good.
        let _ = workqueue::system_long().enqueue::<_, 0>(calls.clone());
    }
}

struct Port;

impl Handler for Port {
    fn receive(&self, message: &Incoming<'_>) {
        if message.header.kind != MESSAGE_CALL {
            return;
        }
        if let Err(error) = keep(message) {
            // CAST: An errno is positive, and small.
            let _ = call::answer(message, -error.to_errno() as u32, &[]);
        }
    }
}

/// Keeps a call for the work item.
fn keep(message: &Incoming<'_>) -> Result {
    let calls = CALLS.as_ref().ok_or(EOPNOTSUPP)?;
    let mut payload = KVec::with_capacity(message.payload.len(), GFP_ATOMIC)?;
    payload.extend_from_slice(message.payload, GFP_ATOMIC)?;
    let mut list = calls.list.lock();
    let same = |waiting: &&Waiting| Arc::ptr_eq(&waiting.link, message.link);
    if list.iter().filter(same).count() >= WAITING_OF_LINK {
        return Err(EBUSY);
    }
    list.push_within_capacity(Waiting {
        link: message.link.clone(),
        from: message.from,
        header: message.header,
        payload,
    })
    .map_err(|_| EBUSY)?;
    drop(list);
    look();
    Ok(())
}

impl WorkItem for Calls {
    type Pointer = Arc<Calls>;

    fn run(this: Arc<Calls>) {
        // What comes meanwhile has it run again.
        for _ in 0..WAITING_MAX {
            let Ok(waiting) = this.list.lock().remove(0) else {
                break;
            };
            let message = Incoming {
                link: &waiting.link,
                from: waiting.from,
                header: waiting.header,
                payload: &waiting.payload,
            };
            let (status, answer) = match carry_out(&message) {
                Ok(answer) => (0, answer),
                // CAST: An errno is positive, and small.
                Err(error) => (-error.to_errno() as u32, 0),
            };
            let _ = call::answer(&message, status, &answer.to_le_bytes());
        }
        #[cfg(CONFIG_MULTIKERNEL_GUEST)]
        if crate::guest::active() && !crate::guest::siblings::tidy() {
            // An error means that it is queued already, which is as good.
            let _ =
                workqueue::system_long().enqueue_delayed::<_, 1>(this, msecs_to_jiffies(AGAIN_MS));
        }
    }
}

impl WorkItem<1> for Calls {
    type Pointer = Arc<Calls>;

    fn run(_this: Arc<Calls>) {
        look();
    }
}

/// Does what a call asks for.
fn carry_out(message: &Incoming<'_>) -> Result<u32> {
    let request = call::request(message).and_then(Message::parse);
    let request = request.ok_or(EINVAL)?;
    #[cfg(CONFIG_MULTIKERNEL_GUEST)]
    if crate::guest::active() {
        return crate::guest::siblings::told(message.link, &request);
    }
    crate::connect::told(message.link, &request).map(|()| 0)
}
