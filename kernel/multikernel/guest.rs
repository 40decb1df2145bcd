// SPDX-License-Identifier: GPL-2.0

//! What a spawn kernel adds to itself when it is told that it is one.
//!
//! The host passes `multikernel=ADDRESS` on the command line: where the instance's shared area is
//! (see `abi.rs`). With a header there that makes sense, this kernel
//!
//! - takes TSC, local APIC timer and wall clock from the host instead of calibrating ([`clock`]),
//! - leaves alone what belongs to the machine and so to the host: PIC, PIT, RTC, i8042, reset
//!   ([`x86`]),
//! - has its messages, from the first line on, and a tty `hvc0` in shared memory ([`console`]),
//! - ends by telling the host and idling, never by resetting the machine ([`power`]),
//! - looks at the host's requests when its doorbell rings,
//! - starts CPUs that it is given later when the host says so, and not before ([`cpus`]).
//!
//! Without the parameter, or with a header that makes no sense, nothing here has any effect. A
//! kernel needs none of it to run as a spawn.
//!
//! Policy only: no `unsafe` here but where C enters Rust. The order of events is that of the boot:
//! [`early_setup()`] from `setup_arch()`, on one CPU and before any allocator; [`console_setup()`]
//! from `console_init()`, when memory can be mapped for good; [`device_setup()`] with the other
//! device initcalls, when all CPUs are up; [`sockets_setup()`] after them. No locks are held across
//! any of it; state that several CPUs touch later is atomic.

use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        SetOnce, //
    }, //
};

use crate::{
    abi,
    handover,
    link::{
        call,
        inbox,
        peer, //
    },
    version::claim, //
};

mod clock;
mod console;
mod cpus;
#[cfg(CONFIG_MULTIKERNEL_GUEST_CRASH_TEST)]
mod crash_test;
mod header;
#[cfg(CONFIG_MULTIKERNEL_GUEST_CRASH_TEST)]
mod hostile;
mod initcall;
mod power;
mod shared;
pub(crate) mod siblings;
#[cfg(CONFIG_MULTIKERNEL_GUEST_CRASH_TEST)]
mod skew;
#[path = "../../arch/x86/kernel/multikernel/guest_hooks.rs"]
mod x86;

use header::{
    Facts,
    Ours,
    Refusal, //
};

/// What the host said in the header, checked. Set once if this kernel is a spawn.
static FACTS: SetOnce<Facts> = SetOnce::new();

/// Whether the host's request to power off has been passed on; it is honoured once in a life.
static POWEROFF_REQUESTED: Atomic<bool> = Atomic::new(false);

/// Returns whether this kernel runs as a spawn, with guest support.
pub(crate) fn active() -> bool {
    FACTS.as_ref().is_some()
}

initcall::early_param!("multikernel", early_setup);
initcall::initcall!(
    ".con_initcall.init",
    "multikernel_guest_console",
    console_setup
);
initcall::initcall!(".initcall6.init", "multikernel_guest_device", device_setup);
#[cfg(CONFIG_MULTIKERNEL_VSOCK)]
initcall::initcall!(
    ".initcall7.init",
    "multikernel_guest_sockets",
    sockets_setup
);

/// Finds the shared area and takes over what has to be in place before anything else runs.
///
/// Runs from `parse_early_param()`: interrupts are off, there is one CPU and no allocator.
#[link_section = ".init.text"]
fn early_setup(argument: &CStr) -> Result {
    let base = initcall::parse_address(argument)?;
    if active() {
        pr_err!("multikernel= is given twice, the second is ignored\n");
        return Ok(());
    }
    let header = match shared::map_early(base) {
        Ok(header) => header,
        Err(why) => return refuse(base, format_args!("{why}")),
    };
    #[cfg(CONFIG_MULTIKERNEL_GUEST_CRASH_TEST)]
    skew::take_claim();
    let ours = Ours {
        version: claim::version(),
        minor: claim::minor(),
    };
    let facts = match header::check(&header, ours) {
        Ok(facts) => facts,
        Err(why) => {
            if let (Refusal::Version(_), Some(area)) = (why, shared::area()) {
                area.set_version();
                area.set_refused(abi::REFUSED_SHARED);
            }
            shared::unmap_early();
            return refuse(base, format_args!("{why}"));
        }
    };

    FACTS.populate(facts);
    // First of all the console, so that whatever goes wrong from here on is seen.
    console::register_boot_console(facts.console_start);
    pr_info!(
        "instance {}, start {}: guest support, shared area at {:#x}\n",
        facts.id,
        facts.epoch,
        base
    );
    power::setup();
    x86::leave_machine_alone();
    x86::set_clock(&facts.clock);
    Ok(())
}

/// Says why there is no guest support. The kernel boots on without, so this is no error to it.
fn refuse(base: u64, why: core::fmt::Arguments<'_>) -> Result {
    pr_err!("no guest support: shared area at {:#x}: {}\n", base, why);
    Ok(())
}

/// Maps the shared area for good and offers `hvc0` as a console.
#[link_section = ".init.text"]
fn console_setup() -> Result {
    let Some(facts) = FACTS.as_ref() else {
        return Ok(());
    };
    if let Some(host) = facts.host {
        power::set_host(host);
    }
    // The command line has been read: what it says of this is meant for a kernel that would reset
    // the machine.
    power::end_on_panic();
    shared::map_for_good().inspect_err(|_| pr_err!("cannot map the shared area, no console\n"))?;
    console::offer();
    Ok(())
}

/// Brings up the tty and the doorbell, and tells the host that guest support is there.
#[link_section = ".init.text"]
fn device_setup() -> Result {
    if !active() {
        return Ok(());
    }

    let mut features = abi::GUEST_FEATURE_REQUEST | abi::GUEST_FEATURE_REGISTERS;
    match console::start() {
        Ok(()) => features |= abi::GUEST_FEATURE_CONSOLE,
        Err(error) => pr_err!("cannot set up hvc0: {:?}\n", error),
    }

    // A hypervisor that the host runs on may have set its own in the meantime.
    x86::replace_machine_ops();
    let vector = x86::set_doorbell();

    let area = shared::area().ok_or(ENODEV)?;
    let (base, size) = x86::vmcoreinfo();
    area.set_vmcoreinfo(base, size);
    // For those that are online already this is called at once.
    match x86::watch_cpus() {
        Ok(()) => features |= abi::GUEST_FEATURE_BEATS,
        Err(_) => pr_warn!("the host will not be told of CPUs that go on or off line\n"),
    }
    cpus::guard();
    // Whatever the command line says: "all but self" are the host's CPUs as well.
    crate::arch::apic::bar_ipi_shorthands(true);
    area.set_guest_cpus(x86::online_cpus());
    area.set_guest_features(features | claim::features());
    area.set_version();
    area.set_guest_doorbell(x86::apic_id(0), vector);

    join_link();
    power::announce_running();
    // What the host wrote before it knew of the doorbell.
    answer();
    Ok(())
}

/// Whether the host offers a link, be it that this kernel can use it or not.
fn has_link() -> bool {
    FACTS.as_ref().is_some_and(|facts| facts.link.is_some())
}

/// Takes part in the link to the host, if there is one; this kernel can do without.
#[link_section = ".init.text"]
fn join_link() {
    let Some(facts) = FACTS.as_ref() else {
        return;
    };
    let Some((base, size)) = facts.link else {
        return;
    };
    let joined = inbox::set_up()
        .and_then(|()| call::set_up())
        .and_then(|()| shared::map_link(base, size))
        .and_then(|region| peer::join_host(region, facts.id, facts.epoch))
        .and_then(|()| cpus::set_up())
        .and_then(|()| siblings::set_up())
        .and_then(|()| handover::guest::listen());
    match joined {
        Ok(()) => pr_info!("link to the host at {:#x}\n", base),
        Err(error) => pr_err!("no link to the host: {:?}\n", error),
    }
}

/// Has sockets use the link to the host.
#[cfg(CONFIG_MULTIKERNEL_VSOCK)]
#[link_section = ".init.text"]
fn sockets_setup() -> Result {
    peer::open_host_sockets();
    Ok(())
}

/// The host rang this CPU, in whose doorbell interrupt this runs: shows that it is alive.
///
/// The doorbell that was advertised is that of CPU 0: when it rings there, there may be more.
fn doorbell() {
    let cpu = x86::this_cpu();
    if let Some(area) = shared::area() {
        area.count_beat(cpu);
    }
    inbox::doorbell();
    if cpu == 0 {
        answer();
    }
}

/// Looks at the host's request and at the console's input.
fn answer() {
    let Some(area) = shared::area() else {
        return;
    };
    // Requests that this kernel does not know are none of its business.
    if area.request() == abi::REQUEST_POWEROFF && !POWEROFF_REQUESTED.xchg(true, Relaxed) {
        pr_info!("the host asks to power off\n");
        power::orderly_poweroff();
    }
    console::input();
}

/// A CPU goes on or off line; `cpus` is the number that this kernel then runs on.
fn cpu_changed(cpu: u32, online: bool, cpus: u32) {
    if let Some(area) = shared::area() {
        area.set_cpu_online(cpu, x86::apic_id(cpu), online);
        area.set_guest_cpus(cpus);
    }
    if online {
        cpus::note_online(cpu);
    }
    inbox::cpu_changed(cpu, online);
}
