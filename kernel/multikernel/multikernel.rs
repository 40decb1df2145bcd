// SPDX-License-Identifier: GPL-2.0

//! Several Linux kernels side by side on one machine, without a hypervisor.
//!
//! The host kernel lends CPUs and memory to instances; each runs a spawn kernel on what it was
//! lent. This crate is the host's part of it and, with `CONFIG_MULTIKERNEL_GUEST`, what a spawn
//! kernel adds. Documentation/multikernel/ says how it is used and why it is built this way.
//!
//! Policy, without `unsafe` code of its own but for calls into the layer below:
//!
//! - [`ledger`], [`cpu_ledger`], [`room`]: who owns which memory and which CPU
//! - [`image`]: which kexec segments an instance may have
//! - [`instance`], [`registry`]: the instances, their states, and the one lock
//! - [`event`], [`event_log`]: what has become of them, for those who want to know
//! - [`pulse`], [`watch`]: whether running spawns still take interrupts
//! - [`pool`], [`create`], [`load`], [`run`]: what can be done with them
//! - [`connect`]: which of them may talk to each other
//! - [`shutdown`], `suspend`, [`panic`]: what the end or the sleep of the host means for them
//! - [`message`]: messages of user space
//! - [`port`]: the port fd
//! - [`c_api`]: messages of C code and modules
//! - [`version`]: spawn kernels of another version of the ABI
//! - [`handover`]: memory that outlives the kernels that use it
//! - [`device`], [`view`]: how user space does and sees it
//!
//! Safe wrappers, where `unsafe` is:
//!
//! - [`cpu`], [`hotplug`]: a CPU on its way from the host to an instance and back
//! - [`memory`]: memory that is set aside, lent or shared
//! - [`user`], [`file`]: structures and files of user space
//! - [`arch`]: starting, stopping and parking a CPU
//! - [`notifier`]: what the host calls when it ends, sleeps or panics
//! - [`link`]: messages between two kernels
//! - [`fault`], [`bench`]: faults to order, for tests, and times, for the benchmark
//!
//! [`abi`] is what two kernels share. [`guest`] is the other side: console, clock, power.

use kernel::{
    miscdevice::{MiscDeviceOptions, MiscDeviceRegistration},
    prelude::*, //
};

mod abi;
mod add_cpus;
#[path = "../../arch/x86/kernel/multikernel/mod.rs"]
mod arch;
mod bench;
mod c_api;
mod connect;
mod cpu;
mod cpu_ledger;
mod create;
mod device;
mod event;
mod event_log;
mod fault;
mod file;
mod foreign;
#[cfg(CONFIG_MULTIKERNEL_GUEST)]
mod guest;
mod handover;
mod hotplug;
mod image;
mod instance;
mod ledger;
mod link;
mod load;
mod memory;
mod message;
mod notifier;
mod panic;
mod plain_file;
mod pool;
mod port;
mod pulse;
mod registry;
mod rename;
#[cfg(CONFIG_MULTIKERNEL_GUEST)]
mod ring;
mod room;
mod run;
mod shutdown;
#[cfg(CONFIG_PM_SLEEP)]
mod suspend;
mod user;
mod version;
mod view;
mod watch;

use crate::{
    arch::{
        doorbell,
        low_memory,
        platform,
        trampoline::{self, Trampoline}, //
    },
    device::Device,
    registry::Subsystem,
    view::View, //
};

module! {
    type: Multikernel,
    name: "multikernel",
    authors: ["The multikernel authors"],
    description: "Several Linux kernels side by side on one machine",
    license: "GPL",
    params: {
        stop_on_panic: bool {
            default: false,
            description: "Stop all instances when the host's kernel panics",
        },
        poll_us: u32 {
            default: crate::link::tune::POLL_US_DEFAULT,
            description: "Microseconds for which messages are looked for before sleep",
        },
        receive_percent: u32 {
            default: crate::link::tune::RECEIVE_PERCENT_DEFAULT,
            description: "Percent of a CPU's time that one link may have for what it brings",
        },
    },
}

/// What lives as long as the kernel.
#[pin_data]
struct Multikernel {
    #[pin]
    device: MiscDeviceRegistration<Device>,
    #[pin]
    view: View,
}

impl kernel::InPlaceModule for Multikernel {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            _: {
                link::tune::set_up(
                    *module_parameters::poll_us.value_ref(),
                    *module_parameters::receive_percent.value_ref(),
                );
                if !is_spawn() {
                    set_up().inspect_err(|error| {
                        pr_warn!("not available on this machine: {}\n", error.to_errno());
                    })?;
                }
            },
            device <- MiscDeviceRegistration::register(MiscDeviceOptions {
                name: c"multikernel",
            }),
            view <- View::new(),
        })
    }
}

/// # Safety
///
/// Called in interrupt context, by the platform interrupt.
unsafe extern "C" fn rung() {
    link::inbox::doorbell();
}

/// Whether this kernel is a spawn, which has no firmware memory to lend from, and whose doorbell is
/// the guest part's. Its device file is for messages alone.
fn is_spawn() -> bool {
    #[cfg(CONFIG_MULTIKERNEL_GUEST)]
    let is_spawn = guest::active();
    #[cfg(not(CONFIG_MULTIKERNEL_GUEST))]
    let is_spawn = false;
    is_spawn
}

/// Sets up what the device file of a host needs.
///
/// # Errors
///
/// `EOPNOTSUPP` where memory is encrypted, `ENOSPC` where there are not even
/// two free pages below 1 MiB, `ENOMEM`.
fn set_up() -> Result {
    platform::check_machine()?;
    let mut low = ledger::MemoryLedger::new(memory::PAGE_SIZE);
    low_memory::for_each_range(|base, size| low.insert(base, size, memory::node_of(base), true))?;

    // The trampoline's pages leave the ledger for good.
    let mut page = None;
    if let Some(highest) = low.entries().last() {
        if highest.size >= trampoline::LOW_BYTES {
            page = Some(highest.base + highest.size - trampoline::LOW_BYTES);
        }
    }
    let page = page.ok_or(ENOSPC)?;
    let mut rest = ledger::MemoryLedger::new(memory::PAGE_SIZE);
    for entry in low.entries() {
        let end = (entry.base + entry.size).min(page);
        if entry.base < end {
            rest.insert(entry.base, end - entry.base, entry.nid, true)?;
        }
    }
    // SAFETY: `low_memory` says that the host uses none of these pages, and `rest`, from which
    // instances are served, does not have them.
    let trampoline = KBox::new(unsafe { Trampoline::new(page)? }, GFP_KERNEL)?;
    let subsystem = Subsystem::set_up(KBox::leak(trampoline))?;
    subsystem.lock().low = rest;

    link::inbox::set_up()?;
    link::call::set_up()?;
    link::sibling::set_up()?;
    link::cpus::listen()?;
    handover::port::listen()?;
    handover::set_up()?;
    pool::add_boot_memory(subsystem)?;
    hotplug::watch()?;
    hotplug::watch_for_messages()?;
    shutdown::watch()?;
    #[cfg(CONFIG_PM_SLEEP)]
    suspend::watch()?;
    panic::watch()?;
    doorbell::listen(rung)?;
    pr_info!("host ready, trampoline at {:#x}\n", page);
    Ok(())
}
