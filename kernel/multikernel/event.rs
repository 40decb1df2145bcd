// SPDX-License-Identifier: GPL-2.0

//! Changes of state, as user space reads and polls them.
//!
//! Owns the log of what happened to the instances, guarded by a mutex that nests inside the
//! registry's and inside which nothing sleeps or takes another lock. Readers copy to user space
//! without it.

use kernel::{
    bindings,
    fs::File,
    new_mutex,
    new_poll_condvar,
    prelude::*,
    str::CStr,
    sync::{
        atomic::{Atomic, Relaxed},
        poll::{PollCondVar, PollTable},
        Mutex, //
    },
    uapi, //
};

use crate::{
    event_log::{Cursor, Item, Log},
    file::{self, AnonFile, NewFile},
    instance::{Handle, Instance},
    registry::Subsystem,
    user, //
};

/// How many events are kept for those who read late.
const KEPT: usize = 512;

/// How many events one read(2) returns at most.
const BATCH: usize = 32;

/// What happened.
#[derive(Clone, Copy)]
struct Change {
    time_ns: u64,
    id: u32,
    epoch: u32,
    state: u32,
    reason: u32,
    name: [u8; crate::abi::NAME_LENGTH],
}

/// The log, and those who wait for it.
#[pin_data]
pub(crate) struct Events {
    #[pin]
    log: Mutex<Log<Change, KEPT>>,
    #[pin]
    arrived: PollCondVar,
}

impl Events {
    /// Makes an empty one.
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            log <- {
                let log = Log::new()?;
                new_mutex!(log, "multikernel::events")
            },
            arrived <- new_poll_condvar!("multikernel::events_arrived"),
        })
    }

    /// Notes what has become of an instance.
    pub(crate) fn note(&self, instance: &mut Instance, state: u32) {
        let change = Change {
            time_ns: now(),
            id: instance.id.get(),
            epoch: instance.epoch,
            state,
            reason: instance.reason.number(),
            name: *instance.name.field(),
        };
        instance.events += 1;
        self.log
            .lock()
            .add(instance.serial, instance.events, change);
        self.arrived.notify_all();
    }
}

/// CLOCK_MONOTONIC in nanoseconds.
pub(crate) fn now() -> u64 {
    // SAFETY: May be called in any context but NMIs.
    (unsafe { bindings::ktime_get() }) as u64
}

impl From<Item<Change>> for uapi::multikernel_event {
    fn from(item: Item<Change>) -> Self {
        Self {
            sequence: item.sequence,
            time_ns: item.value.time_ns,
            lost: item.lost,
            id: item.value.id,
            epoch: item.value.epoch,
            state: item.value.state,
            reason: item.value.reason,
            name: item.value.name,
        }
    }
}

/// One reader.
pub(crate) struct Reader {
    /// The instance that is followed, `None` for all.
    whose: Option<Handle>,
    /// What it expects next; changed with the log's mutex held.
    expected: Atomic<u64>,
}

impl Reader {
    fn new(whose: Option<Handle>, cursor: Cursor) -> Self {
        Self {
            whose,
            expected: Atomic::new(cursor.expected),
        }
    }

    /// Follows one instance from now on.
    pub(crate) fn of_instance(instance: &Instance) -> Self {
        let cursor = Cursor::of_subject(instance.serial, instance.events);
        Self::new(Some(instance.handle()), cursor)
    }

    fn cursor(&self) -> Cursor {
        Cursor {
            subject: self.whose.map(|handle| handle.serial),
            expected: self.expected.load(Relaxed),
        }
    }

    /// Whether the instance that is followed is no more.
    fn is_over(&self, subsystem: &Subsystem) -> bool {
        self.whose
            .is_some_and(|handle| subsystem.lock().find(handle).is_err())
    }

    /// read(2).
    ///
    /// # Errors
    ///
    /// `EINVAL` if not one event fits, `EAGAIN`, `ERESTARTSYS`, `EFAULT`, `ENOMEM`.
    pub(crate) fn read(&self, address: usize, bytes: usize, wait: bool) -> Result<usize> {
        let room = (bytes / size_of::<uapi::multikernel_event>()).min(BATCH);
        if room == 0 {
            return Err(EINVAL);
        }
        let subsystem = Subsystem::get()?;
        let events = subsystem.events();
        let mut batch: KVec<uapi::multikernel_event> = KVec::with_capacity(room, GFP_KERNEL)?;
        let (mut before, mut after) = (0, 0);
        while batch.is_empty() {
            // Before the log is looked at: what is noted last comes before the end.
            let over = self.is_over(subsystem);
            let mut log = events.log.lock();
            let mut cursor = self.cursor();
            before = cursor.expected;
            while batch.len() < room {
                let Some(item) = log.next(&mut cursor) else {
                    break;
                };
                // There is room.
                let _ = batch.push_within_capacity(item.into());
            }
            after = cursor.expected;
            self.expected.store(after, Relaxed);
            if !batch.is_empty() {
                break;
            }
            if over {
                return Ok(0);
            }
            if !wait {
                return Err(EAGAIN);
            }
            if events.arrived.wait_interruptible(&mut log) {
                return Err(ERESTARTSYS);
            }
        }
        user::write_array(address as u64, batch.len() as u32, &batch).inspect_err(|_| {
            // Read by nobody, unless another one reads the same file meanwhile, and goes on.
            let _ = self.expected.cmpxchg(after, before, Relaxed);
        })?;
        Ok(batch.len() * size_of::<uapi::multikernel_event>())
    }

    /// poll(2): what there is to read.
    pub(crate) fn poll(&self, file: &File, table: PollTable<'_>) -> u32 {
        let Ok(subsystem) = Subsystem::get() else {
            return bindings::POLLERR;
        };
        let events = subsystem.events();
        table.register_wait(file, &events.arrived);
        let over = self.is_over(subsystem);
        let log = events.log.lock();
        let mut mask = 0;
        if log.has_next(&self.cursor()) {
            mask |= bindings::POLLIN | bindings::POLLRDNORM;
        }
        if over {
            mask |= bindings::POLLHUP;
        }
        mask
    }
}

/// A file that has the events of all instances.
struct EventFile(Reader);

impl AnonFile for EventFile {
    const NAME: &'static CStr = c"[multikernel-events]";

    fn read(&self, address: usize, bytes: usize, wait: bool) -> Result<usize> {
        self.0.read(address, bytes, wait)
    }

    fn poll(&self, file: &File, table: PollTable<'_>) -> u32 {
        self.0.poll(file, table)
    }
}

/// Opens one, whose events begin now.
///
/// # Errors
///
/// `ENOMEM`, `EMFILE`, `ENFILE`.
pub(crate) fn open(subsystem: &Subsystem) -> Result<NewFile> {
    let cursor = subsystem.events().log.lock().follow_all();
    file::open(EventFile(Reader::new(None, cursor)))
}
