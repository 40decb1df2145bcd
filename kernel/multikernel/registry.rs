// SPDX-License-Identifier: GPL-2.0

//! What there is: the pool, the lent CPUs, the instances, the arenas.
//!
//! One mutex guards all of it, and is held only for bookkeeping: never while a CPU is taken or
//! returned, memory is copied, or a spawn is waited for. A call that works on an instance for
//! longer takes its [`Holdings`] out of it; while they are out, every other call on that instance
//! fails with `EBUSY`.
//!
//! Lock order: CPU hotplug lock, then the registry's mutex, then that of the events. The condition
//! variable `changed` is notified whenever a state changes or holdings come back.

use kernel::{
    new_condvar,
    new_mutex,
    prelude::*,
    sync::{
        lock::{mutex::MutexBackend, Guard},
        Arc,
        CondVar,
        Mutex,
        SetOnce, //
    },
    time::Jiffies,
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

use crate::{
    arch::trampoline::{Slots, Trampoline},
    connect::Grants,
    cpu_ledger::CpuLedger,
    event::Events,
    handover::arenas::Arenas,
    instance::{Handle, Holdings, Instance, Name},
    ledger::{InstanceId, MemoryLedger},
    memory::PAGE_SIZE,
    room, //
};

/// Lent memory is in multiples of this, and aligned to it: a large page.
pub(crate) const MEMORY_ALIGN: u64 = kernel::uapi::MULTIKERNEL_MEMORY_ALIGN as u64;

/// Entries for which there is to be room in the lists of the [`Registry`].
#[derive(Clone, Copy, Default)]
pub(crate) struct Room {
    pub(crate) memory: usize,
    pub(crate) low: usize,
    pub(crate) cpus: usize,
    pub(crate) instances: usize,
    pub(crate) arenas: usize,
    pub(crate) grants: usize,
}

/// What somebody takes an instance's holdings for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Anything else.
    Work,
    /// To stop it, which is possible also when the host is going down.
    Stop,
    /// To stop it; what somebody else does with it just now is waited for.
    StopWaiting,
}

/// What the mutex guards.
pub(crate) struct Registry {
    /// Memory that was set aside.
    pub(crate) memory: MemoryLedger,
    /// Pages below 1 MiB that can be lent.
    pub(crate) low: MemoryLedger,
    /// CPUs that the host does not have.
    pub(crate) cpus: CpuLedger,
    /// Mailboxes in use.
    pub(crate) slots: Slots,
    /// Which instances may talk to each other.
    pub(crate) grants: Grants,
    /// All instances, in the order of their creation.
    pub(crate) instances: KVec<KBox<Instance>>,
    /// All arenas, and the instances that may have them.
    pub(crate) arenas: Arenas<Name, Handle>,
    /// The next instance's serial number.
    pub(crate) next_serial: u64,
    /// The host is going down, for good.
    pub(crate) ending: bool,
    /// How many preparations of a suspend or a hibernation have not been taken back.
    pub(crate) sleepers: usize,
}

impl Registry {
    fn new() -> Self {
        Self {
            memory: MemoryLedger::new(MEMORY_ALIGN),
            low: MemoryLedger::new(PAGE_SIZE),
            cpus: CpuLedger::new(),
            slots: Slots::new(),
            grants: Grants::new(),
            instances: KVec::new(),
            arenas: Arenas::new(),
            next_serial: 1,
            ending: false,
            sleepers: 0,
        }
    }

    /// Whether nothing new is to be begun.
    pub(crate) fn is_closed(&self) -> bool {
        self.ending || self.sleepers != 0
    }

    /// The instance that a handle was made for.
    ///
    /// # Errors
    ///
    /// `ESTALE` if it has been destroyed.
    pub(crate) fn find(&mut self, handle: Handle) -> Result<&mut Instance> {
        self.instances
            .iter_mut()
            .map(|instance| &mut **instance)
            .find(|instance| instance.handle() == handle)
            .ok_or(ESTALE)
    }

    /// The instance of this id.
    ///
    /// # Errors
    ///
    /// `ENOENT`.
    pub(crate) fn find_id(&mut self, id: InstanceId) -> Result<&mut Instance> {
        self.instances
            .iter_mut()
            .map(|instance| &mut **instance)
            .find(|instance| instance.handle().id == id)
            .ok_or(ENOENT)
    }

    /// An id that no instance has.
    ///
    /// # Errors
    ///
    /// `ENOSPC` if there is none.
    pub(crate) fn free_id(&self) -> Result<InstanceId> {
        (u32::from(InstanceId::MIN)..=u32::from(InstanceId::MAX))
            .filter_map(InstanceId::new)
            .find(|&id| self.instances.iter().all(|other| other.handle().id != id))
            .ok_or(ENOSPC)
    }
}

/// The subsystem. There is one, made at boot and never freed.
#[pin_data]
pub(crate) struct Subsystem {
    #[pin]
    registry: Mutex<Registry>,
    #[pin]
    changed: CondVar,
    /// How many calls and instances need the host to send no IPI shorthands.
    #[pin]
    shorthand_users: Mutex<usize>,
    #[pin]
    events: Events,
    #[pin]
    work: Work<Subsystem>,
    #[pin]
    watch: DelayedWork<Subsystem, 1>,
    /// Where lent CPUs come up.
    pub(crate) trampoline: &'static Trampoline,
}

impl_has_work! {
    impl HasWork<Self> for Subsystem { self.work }
}

impl_has_delayed_work! {
    impl HasDelayedWork<Self, 1> for Subsystem { self.watch }
}

impl WorkItem<1> for Subsystem {
    type Pointer = Arc<Subsystem>;

    /// It is time to see whether the spawns are alive.
    fn run(this: Arc<Subsystem>) {
        crate::watch::look(&this);
    }
}

impl WorkItem for Subsystem {
    type Pointer = Arc<Subsystem>;

    /// Somebody rang: sees which spawns have ended.
    fn run(this: Arc<Subsystem>) {
        crate::run::reap(&this);
    }
}

static SUBSYSTEM: SetOnce<Arc<Subsystem>> = SetOnce::new();

impl Subsystem {
    /// Makes the subsystem. To be called once, at boot.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn set_up(trampoline: &'static Trampoline) -> Result<&'static Subsystem> {
        let subsystem = Arc::pin_init(
            try_pin_init!(Subsystem {
                registry <- new_mutex!(Registry::new(), "multikernel::registry"),
                changed <- new_condvar!("multikernel::changed"),
                shorthand_users <- new_mutex!(0, "multikernel::shorthand_users"),
                events <- Events::new(),
                work <- new_work!("multikernel::work"),
                watch <- new_delayed_work!("multikernel::watch"),
                trampoline,
            }),
            GFP_KERNEL,
        )?;
        SUBSYSTEM.populate(subsystem);
        Self::get()
    }

    /// The subsystem.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` if it could not be set up on this machine.
    pub(crate) fn get() -> Result<&'static Subsystem> {
        SUBSYSTEM.as_ref().map(|this| &**this).ok_or(EOPNOTSUPP)
    }

    /// Has [`crate::run::reap`] run soon. May be called in interrupt context.
    pub(crate) fn schedule_reap() {
        if let Some(this) = SUBSYSTEM.as_ref() {
            // An error means that it is queued already, which is as good.
            let _ = workqueue::system_long().enqueue::<_, 0>(this.clone());
        }
    }

    /// Has [`crate::watch::look`] run after `delay`, or when it was to run anyway.
    pub(crate) fn schedule_watch(delay: Jiffies) {
        if let Some(this) = SUBSYSTEM.as_ref() {
            // An error means that it is queued already, for a time not much later.
            let _ = workqueue::system_long().enqueue_delayed::<_, 1>(this.clone(), delay);
        }
    }

    /// What happened to the instances.
    pub(crate) fn events(&self) -> &Events {
        &self.events
    }

    /// Takes the mutex.
    pub(crate) fn lock(&self) -> Guard<'_, Registry, MutexBackend> {
        self.registry.lock()
    }

    /// Takes the mutex when there is that much room in the lists, so that nothing has to be
    /// allocated with it held: a forced stop may be waiting for it, and reclaim takes its time.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; the mutex is not held then.
    pub(crate) fn lock_with_room(&self, wanted: Room) -> Result<Guard<'_, Registry, MutexBackend>> {
        loop {
            let registry = self.lock();
            let memory = registry.memory.lacks(wanted.memory);
            let low = registry.low.lacks(wanted.low);
            let cpus = registry.cpus.lacks(wanted.cpus);
            let instances = room::lacks(&registry.instances, wanted.instances);
            let arenas = registry.arenas.lacks(wanted.arenas);
            let grants = registry.arenas.lacks_grants(wanted.grants);
            let lists = memory.or(low).or(cpus).or(instances);
            if lists.or(arenas).or(grants).is_none() {
                return Ok(registry);
            }
            drop(registry);

            let memory = KVec::with_capacity(memory.unwrap_or(0), GFP_KERNEL)?;
            let low = KVec::with_capacity(low.unwrap_or(0), GFP_KERNEL)?;
            let cpus = KVec::with_capacity(cpus.unwrap_or(0), GFP_KERNEL)?;
            let instances = KVec::with_capacity(instances.unwrap_or(0), GFP_KERNEL)?;
            let arenas = KVec::with_capacity(arenas.unwrap_or(0), GFP_KERNEL)?;
            let grants = KVec::with_capacity(grants.unwrap_or(0), GFP_KERNEL)?;
            let mut registry = self.lock();
            registry.memory.adopt(memory);
            registry.low.adopt(low);
            registry.cpus.adopt(cpus);
            room::adopt(&mut registry.instances, instances);
            registry.arenas.adopt(arenas);
            registry.arenas.adopt_grants(grants);
        }
    }

    /// Wakes all who wait for a change of state.
    pub(crate) fn notify(&self) {
        self.changed.notify_all();
    }

    /// The condition variable that goes with [`Self::lock`].
    pub(crate) fn changed(&self) -> &CondVar {
        &self.changed
    }

    /// Keeps the host from sending IPI shorthands until [`Self::unbar_shorthands`] has been called
    /// as often.
    pub(crate) fn bar_shorthands(&self) {
        let mut users = self.shorthand_users.lock();
        *users += 1;
        if *users == 1 {
            crate::arch::apic::bar_ipi_shorthands(true);
        }
    }

    /// Undoes one [`Self::bar_shorthands`].
    pub(crate) fn unbar_shorthands(&self) {
        let mut users = self.shorthand_users.lock();
        *users = users.saturating_sub(1);
        if *users == 0 {
            crate::arch::apic::bar_ipi_shorthands(false);
        }
    }

    /// Whether IPI shorthands are off because of us.
    pub(crate) fn shorthands_barred(&self) -> bool {
        *self.shorthand_users.lock() != 0
    }

    /// Takes an instance's holdings out of it, so that the caller alone works on it.
    ///
    /// # Errors
    ///
    /// `ESTALE`; `EBUSY` if somebody else has them; `EINTR` for a signal while they are waited for;
    /// what `check` returns.
    pub(crate) fn take_holdings(
        &self,
        handle: Handle,
        purpose: Purpose,
        check: impl FnOnce(&mut Instance) -> Result,
    ) -> Result<Holdings> {
        let mut registry = self.lock();
        if registry.is_closed() && purpose == Purpose::Work {
            return Err(EBUSY);
        }
        while registry.find(handle)?.holdings.is_none() {
            if purpose != Purpose::StopWaiting {
                return Err(EBUSY);
            }
            if self.changed.wait_interruptible(&mut registry) {
                return Err(EINTR);
            }
        }
        let instance = registry.find(handle)?;
        check(instance)?;
        instance.holdings.take().ok_or(EBUSY)
    }

    /// Puts an instance's holdings back, and lets `update` say what has become of it.
    pub(crate) fn put_back(
        &self,
        handle: Handle,
        holdings: Holdings,
        update: impl FnOnce(&mut Instance),
    ) {
        let mut registry = self.lock();
        // It is there: an instance cannot be destroyed without its holdings.
        if let Ok(instance) = registry.find(handle) {
            instance.holdings = Some(holdings);
            update(instance);
        }
        drop(registry);
        self.notify();
    }
}
