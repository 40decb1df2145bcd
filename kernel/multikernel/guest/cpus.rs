// SPDX-License-Identifier: GPL-2.0

//! CPUs that this spawn is given while it runs.
//!
//! The tables tell of them from the beginning, but until the host says otherwise they run another
//! kernel: an INIT from here would end that. So a callback at the head of the bring-up path asks
//! the host before a CPU is started that this kernel has not run on yet, and the host's word that
//! there are more ([`PORT_CPUS`]) has a work item bring them online. What is said is checked here
//! against the tables, and asked back at the host in the same way.
//!
//! Owns one request at a time, in a spinlock with interrupts off that nests inside an inbox's.

use kernel::{
    bindings,
    cpu::CpuId,
    new_spinlock_irq,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
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

use super::x86;
use crate::{
    abi::{
        CPUS_ADDED,
        CPUS_MAY_START,
        CPUS_REQUEST_MAX,
        PORT_CPUS, //
    },
    cpu,
    link::{
        call::{
            self,
            Caller, //
        },
        cpus::{
            self,
            Request, //
        },
        inbox::{
            self,
            Handler,
            Incoming, //
        },
        peer, //
    }, //
};

/// How long to wait for the host's answer, which takes it no longer than to look.
const ANSWER_MS: u32 = 1000;

/// On which CPUs this kernel has run: they are its own for its life.
static OWN: [Atomic<bool>; bindings::CONFIG_NR_CPUS as usize] =
    [const { Atomic::new(false) }; bindings::CONFIG_NR_CPUS as usize];

/// A request that waits for the work item.
struct Added {
    caller: Caller,
    ids: [u32; CPUS_REQUEST_MAX],
    count: usize,
}

#[pin_data]
struct Desk {
    #[pin]
    waiting: SpinLockIrq<Option<Added>>,
    #[pin]
    work: Work<Desk>,
}

impl_has_work! {
    impl HasWork<Self> for Desk { self.work }
}

static DESK: SetOnce<Arc<Desk>> = SetOnce::new();

/// Has the host asked before CPUs are started, from now on, and nobody started where it cannot be
/// asked. To be called once, at boot, when those that this kernel has started are noted.
#[link_section = ".init.text"]
pub(super) fn guard() {
    // SAFETY: The name is static and the callback stays valid; it is not called from here.
    let state = unsafe {
        bindings::multikernel_cpuhp_setup(
            bindings::cpuhp_state_CPUHP_BP_PREPARE_DYN,
            c"multikernel/guest:prepare".as_char_ptr(),
            Some(prepare),
        )
    };
    if state < 0 {
        pr_err!(
            "the host cannot be asked about CPUs, so none is started: {}\n",
            state
        );
        // SAFETY: It counts who wants that, in process context.
        unsafe { bindings::cpu_hotplug_disable() };
    }
}

/// Takes the host's word that there are more CPUs, from now on. To be called once, at boot, when
/// this kernel takes part in the link to the host.
///
/// # Errors
///
/// `ENOMEM`
#[link_section = ".init.text"]
pub(super) fn set_up() -> Result {
    DESK.populate(Arc::pin_init(
        pin_init!(Desk {
            waiting <- new_spinlock_irq!(None, "multikernel::cpus_request"),
            work <- new_work!("multikernel::cpus_work"),
        }),
        GFP_KERNEL,
    )?);
    inbox::add_port(PORT_CPUS, Arc::new(Port, GFP_KERNEL)?)
}

/// This kernel runs on a CPU.
pub(super) fn note_online(cpu: u32) {
    if let Some(own) = OWN.get(cpu as usize) {
        own.store(true, Relaxed);
    }
}

/// # Safety
///
/// Called by the hotplug core, in process context.
unsafe extern "C" fn prepare(cpu: c_uint) -> c_int {
    if OWN.get(cpu as usize).is_some_and(|own| own.load(Relaxed)) {
        return 0;
    }
    let Some(host) = peer::host() else {
        // A host that offers no link lends all CPUs of the tables from the beginning.
        if !super::has_link() {
            return 0;
        }
        pr_notice!("CPU {} is not started, as the host cannot be asked\n", cpu);
        return ENOLINK.to_errno();
    };
    let request = cpus::about(CPUS_MAY_START, x86::apic_id(cpu));
    match call::call(host, None, PORT_CPUS, &request, &mut [], ANSWER_MS) {
        Ok(_) => {
            // Whoever starts it: other spawns may not know its APIC id.
            inbox::came_late(cpu);
            0
        }
        // A host that lends all CPUs of the tables from the beginning.
        Err(ECONNREFUSED) => 0,
        Err(error) => {
            pr_notice!("CPU {} is not this instance's, and is not started\n", cpu);
            error.to_errno()
        }
    }
}

/// [`PORT_CPUS`] of a spawn.
struct Port;

impl Handler for Port {
    fn receive(&self, message: &Incoming<'_>) {
        let Some((caller, request)) = call::caller(message) else {
            return;
        };
        let refused = match take(caller, request) {
            Ok(()) => return,
            Err(refused) => refused,
        };
        let (caller, errno) = refused;
        // Who has gone does not wait for an answer.
        let _ = caller.answer(errno, &[]);
    }
}

/// Puts a request down for the work item.
fn take(caller: Caller, request: &[u8]) -> Result<(), (Caller, u32)> {
    // Another spawn has no say in it.
    let from_host = |host: &&Arc<_>| Arc::ptr_eq(host, caller.link());
    if peer::host().filter(from_host).is_none() {
        return Err((caller, bindings::EPERM));
    }
    let request = match Request::parse(request) {
        Some(request) if request.operation == CPUS_ADDED => request,
        Some(_) => return Err((caller, bindings::EOPNOTSUPP)),
        None => return Err((caller, bindings::EINVAL)),
    };
    let Some(desk) = DESK.as_ref() else {
        return Err((caller, bindings::EOPNOTSUPP));
    };
    let mut ids = [0; CPUS_REQUEST_MAX];
    for (to, id) in ids.iter_mut().zip(request.ids()) {
        *to = id;
    }
    let mut waiting = desk.waiting.lock();
    if waiting.is_some() {
        drop(waiting);
        return Err((caller, bindings::EBUSY));
    }
    *waiting = Some(Added {
        caller,
        ids,
        count: request.ids().len(),
    });
    drop(waiting);
    // An error means that it is queued already, which is as good.
    let _ = workqueue::system_long().enqueue::<_, 0>(desk.clone());
    Ok(())
}

impl WorkItem for Desk {
    type Pointer = Arc<Desk>;

    fn run(this: Arc<Desk>) {
        let Some(added) = this.waiting.lock().take() else {
            return;
        };
        let ids = added.ids.get(..added.count).unwrap_or_default();
        let errno = match bring_online(ids) {
            Ok(()) => 0,
            Err(error) => error.to_errno().unsigned_abs(),
        };
        let _ = added.caller.answer(errno, &[]);
    }
}

/// Brings CPUs online that are not yet, all that can be.
///
/// # Errors
///
/// `ENODEV` if the tables do not have one of them, of which none is brought online then; else the
/// first that the hotplug core said.
fn bring_online(ids: &[u32]) -> Result {
    for &id in ids {
        cpu_of(id).ok_or(ENODEV)?;
    }
    let mut result = Ok(());
    for &id in ids {
        let cpu = cpu_of(id).ok_or(ENODEV)?;
        if cpu::is_online(cpu) {
            continue;
        }
        match cpu::bring_online(cpu) {
            Ok(()) => pr_info!("CPU {} is this instance's now\n", cpu.as_u32()),
            Err(error) => {
                pr_err!(
                    "CPU {} cannot be started: {}\n",
                    cpu.as_u32(),
                    error.to_errno()
                );
                result = result.and(Err(error));
            }
        }
    }
    result
}

/// This kernel's CPU of an APIC id, if its tables have one.
fn cpu_of(apic_id: u32) -> Option<CpuId> {
    (0..kernel::cpu::nr_cpu_ids())
        .filter_map(CpuId::from_u32)
        .find(|&cpu| cpu::is_present(cpu) && x86::apic_id(cpu.as_u32()) == apic_id)
}
