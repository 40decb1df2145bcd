// SPDX-License-Identifier: GPL-2.0

//! Where a spawn kernel's guest support touches x86: the hooks that exist, filled in.
//!
//! The hooks are plain function pointers and flags of `x86_init`, `x86_platform` and `machine_ops`
//! that other non-standard platforms use as well (`arch/x86/kernel/jailhouse.c`). They are written
//! on the boot CPU alone while the kernel initialises, and read-only afterwards. Owns nothing, and
//! needs no lock. The policy, what the hooks do, is in `kernel/multikernel/guest*`.
//!
//! Part of the module `guest` by `#[path]`, so `super` is `kernel/multikernel/guest.rs`.

use core::ptr::null_mut;

use kernel::{
    bindings,
    error::to_result,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        SetOnce, //
    }, //
};

use super::{
    clock::Clock,
    power::{
        self,
        End, //
    }, //
};
use crate::abi::CpuRegisters;

/// Keeps this kernel from what belongs to the machine, whatever the firmware tables say.
///
/// Runs from `parse_early_param()`, before any of it is looked at. The tables that the host writes
/// make a kernel without guest support do most of the same.
#[link_section = ".init.text"]
pub(super) fn leave_machine_alone() {
    // SAFETY: There is one CPU, and these are read later in the boot, or from then on not written
    // any more. The functions stored are of the kernel's own, made for this use.
    unsafe {
        // Nothing to be found in BIOS memory: option ROMs, DMI, MP tables.
        bindings::x86_init.resources.probe_roms = Some(bindings::x86_init_noop);
        bindings::x86_init.resources.dmi_setup = Some(bindings::x86_init_noop);
        bindings::x86_init.mpparse.find_mptable = Some(bindings::x86_init_noop);
        // Without interrupt remapping Linux leaves x2APIC mode, unless the platform says that it
        // is right: the host is in it, and ids above 254 have no other.
        bindings::x86_init.hyper.x2apic_available = Some(x2apic_available);
        // Nor is there an IO-APIC or an MSI that could not reach ids above 255.
        bindings::x86_init.hyper.msi_ext_dest_id = Some(yes);
        // No PIC, PIT or HPET. As acpi_generic_reduced_hw_init().
        bindings::x86_init.irqs.pre_vector_init = Some(bindings::x86_init_noop);
        bindings::x86_init.timers.timer_init = Some(bindings::x86_init_noop);
        bindings::legacy_pic = &raw mut bindings::null_legacy_pic;
        // Before kexec and kdump the boot CPU would be opened for the PIC's interrupts again.
        bindings::x86_apic_ops.restore = Some(bindings::x86_init_noop);
        // No CMOS, neither as a clock nor to tell the BIOS where to go on after an INIT.
        bindings::x86_platform.set_wallclock = Some(bindings::set_rtc_noop);
        bindings::x86_platform.legacy.rtc = 0;
        bindings::x86_platform.legacy.warm_reset = 0;
        bindings::x86_platform.legacy.i8042 =
            bindings::x86_legacy_i8042_state_X86_LEGACY_I8042_PLATFORM_ABSENT;
        bindings::x86_platform.legacy.no_vga = 1;
        bindings::x86_platform.legacy.devices.pnpbios = 0;
        // Port 0x61 tells about the machine's NMIs, and is written to acknowledge them.
        bindings::x86_platform.get_nmi_reason = Some(nmi_reason);
    }
}

/// `x86_hyper_init::msi_ext_dest_id`.
extern "C" fn yes() -> bool {
    true
}

/// `x86_hyper_init::x2apic_available`: as the host left it.
extern "C" fn x2apic_available() -> bool {
    // SAFETY: Only reads CPU feature and MSR state.
    unsafe { bindings::multikernel_x2apic_enabled() }
}

/// `x86_platform_ops::get_nmi_reason`: none that is known here.
extern "C" fn nmi_reason() -> c_uchar {
    0
}

/// Uses the host's clocks instead of calibrating, as far as they are known.
#[link_section = ".init.text"]
pub(super) fn set_clock(clock: &Clock) {
    // SAFETY: As in `leave_machine_alone()`.
    unsafe {
        bindings::x86_platform.get_wallclock = Some(get_wallclock);
        if let Some(khz) = clock.tsc_khz {
            bindings::x86_platform.calibrate_cpu = Some(tsc_khz);
            bindings::x86_platform.calibrate_tsc = Some(tsc_khz);
            // With it goes the delay loop, which counts TSC ticks and would else be calibrated by
            // every CPU but the first.
            bindings::multikernel_guest_tsc_is_known(khz);
        }
        if let Some(period) = clock.lapic_period(bindings::HZ) {
            bindings::multikernel_guest_set_lapic_period(period);
        }
    }
}

/// `x86_platform_ops::calibrate_cpu` and `calibrate_tsc`: in kHz, 0 if not known.
extern "C" fn tsc_khz() -> c_ulong {
    let khz = super::FACTS.as_ref().and_then(|facts| facts.clock.tsc_khz);
    khz.map_or(0, |khz| khz as c_ulong)
}

/// `x86_platform_ops::get_wallclock`.
///
/// # Safety
///
/// `now` must be valid for writes.
unsafe extern "C" fn get_wallclock(now: *mut bindings::timespec64) {
    let Some(facts) = super::FACTS.as_ref() else {
        return;
    };
    // SAFETY: Every x86-64 CPU has RDTSC, and the kernel may execute it.
    let (seconds, nanoseconds) = facts.clock.wall_at(unsafe { core::arch::x86_64::_rdtsc() });
    // SAFETY: By the caller's promise.
    unsafe {
        // CAST: below 10^9. More than 2^63 seconds are no time that Linux could be told.
        (*now).tv_sec = i64::try_from(seconds).unwrap_or(i64::MAX);
        (*now).tv_nsec = nanoseconds as c_long;
    }
}

/// Replaces what would reset the machine, or switch it off.
///
/// `machine_ops::shutdown` and `crash_shutdown` stay: they stop this kernel's other CPUs and local
/// APICs and find nothing else to touch.
#[link_section = ".init.text"]
pub(super) fn replace_machine_ops() {
    // SAFETY: `machine_ops` is read-only only after all initcalls; nobody else writes it now, and
    // the kernel is not shut down by another CPU meanwhile.
    unsafe {
        bindings::machine_ops.restart = Some(restart);
        bindings::machine_ops.emergency_restart = Some(emergency_restart);
        bindings::machine_ops.halt = Some(power_off);
        bindings::machine_ops.power_off = Some(power_off);
        // reboot(2) makes a halt of a power-off that nobody has offered to do.
        bindings::pm_power_off = Some(power_off);
    }
    if STOP_OTHER_CPUS.as_ref().is_none() {
        // SAFETY: Written while the kernel initialises, by the boot CPU; every x86 kernel has one.
        unsafe {
            if let Some(stop) = bindings::smp_ops.stop_other_cpus {
                STOP_OTHER_CPUS.populate(stop);
                bindings::smp_ops.stop_other_cpus = Some(stop_other_cpus_keeping_registers);
            }
        }
    }
}

/// `smp_ops::stop_other_cpus` as it was.
static STOP_OTHER_CPUS: SetOnce<unsafe extern "C" fn(c_int)> = SetOnce::new();

/// Whether the other CPUs have been stopped by NMI, which can be done once.
static SHOT: Atomic<bool> = Atomic::new(false);

/// `smp_ops::stop_other_cpus`.
///
/// In a panic the other CPUs are stopped by NMI, as before a crash kernel is booted: it reaches
/// them also with interrupts off, and brings their registers. With `crash_kexec_post_notifiers`
/// this is not called in a panic, and there are no registers.
extern "C" fn stop_other_cpus_keeping_registers(wait: c_int) {
    // SAFETY: Reads one word.
    if unsafe { bindings::panic_on_this_cpu() } {
        if !SHOT.xchg(true, Relaxed) {
            // SAFETY: Called once, on the CPU that panics, and the callback is static.
            unsafe { bindings::nmi_shootdown_cpus(Some(shot)) };
        }
    // SAFETY: As above.
    } else if unsafe { bindings::panic_in_progress() } {
        // Another one panics: this one is stopped by it, and has nothing to say any more.
        idle_for_good();
    } else if let Some(&stop) = STOP_OTHER_CPUS.as_ref() {
        // SAFETY: It is what would have been called in place of this.
        unsafe { stop(wait) };
    }
}

/// `nmi_shootdown_cb`: runs on a CPU that the panicking one stops, in its NMI.
///
/// # Safety
///
/// `regs` must be valid for reads.
unsafe extern "C" fn shot(cpu: c_int, regs: *mut bindings::pt_regs) {
    // SAFETY: By the caller's promise. `pt_regs` is 21 longs, in the same order as the first of
    // `user_regs_struct` (arch/x86/include/asm/ptrace.h, user_64.h).
    let saved = unsafe { &*regs.cast_const().cast::<[u64; SAVED]>() };
    if let Ok(cpu) = u32::try_from(cpu) {
        power::keep_registers(cpu, &registers(saved));
    }
}

/// Registers that an interrupt saves: r15 r14 r13 r12 bp bx r11 r10 r9 r8 ax cx dx si di orig_ax ip
/// cs flags sp ss.
const SAVED: usize = 21;
static_assert!(size_of::<bindings::pt_regs>() == SAVED * size_of::<u64>());

/// Registers of this CPU, of which these have been saved.
fn registers(saved: &[u64; SAVED]) -> CpuRegisters {
    let mut user = [0; 27];
    for (to, from) in user.iter_mut().zip(saved) {
        *to = *from;
    }
    // With FRED the words of CS and SS have more than the selector.
    user[17] &= 0xffff;
    user[20] &= 0xffff;
    let [.., fs_base, gs_base, _ds, _es, _fs, _gs] = &mut user;
    let (mut cr2, mut cr3) = (0, 0);
    // SAFETY: All four are valid for a write.
    unsafe { bindings::multikernel_guest_read_state(fs_base, gs_base, &mut cr2, &mut cr3) };
    CpuRegisters {
        valid: 0,
        apic_id: apic_id(this_cpu()),
        user,
        cr2,
        cr3,
        reserved: [0; 2],
    }
}

/// Registers of this CPU as they are in the caller, whose frame is to stay: those that a call
/// keeps.
#[inline(always)]
pub(super) fn own_registers() -> CpuRegisters {
    let mut saved: [u64; SAVED] = [0; SAVED];
    // SAFETY: `saved` has the places that are written, in the order that `registers()` says; the
    // one word that is put on the stack is taken off again.
    unsafe {
        core::arch::asm!(
            "mov [rax], r15",
            "mov [rax + 8], r14",
            "mov [rax + 16], r13",
            "mov [rax + 24], r12",
            "mov [rax + 32], rbp",
            "mov [rax + 40], rbx",
            "lea rcx, [rip]",
            "mov [rax + 128], rcx",
            "mov [rax + 152], rsp",
            "pushfq",
            "pop rcx",
            "mov [rax + 144], rcx",
            in("rax") saved.as_mut_ptr(),
            out("rcx") _,
        );
    }
    // No system call was interrupted.
    saved[15] = u64::MAX;
    [saved[17], saved[20]] = [bindings::__KERNEL_CS.into(), bindings::__KERNEL_DS.into()];
    registers(&saved)
}

/// `machine_ops::restart`.
extern "C" fn restart(_command: *mut c_char) {
    power::end(End::Restart);
}

/// `machine_ops::emergency_restart`.
extern "C" fn emergency_restart() {
    power::end(End::EmergencyRestart);
}

/// `machine_ops::power_off` and `halt`.
extern "C" fn power_off() {
    power::end(End::PowerOff);
}

/// Stops the other CPUs and this one's interrupts, in order.
pub(super) fn shutdown() {
    // SAFETY: Called on the way down, in a context where `machine_ops` are.
    unsafe { bindings::machine_shutdown() };
}

/// Stops the other CPUs, from any context; gives up on one that does not react.
pub(super) fn stop_other_cpus() {
    // SAFETY: Called on the way down, where nothing that the other CPUs hold is needed any more.
    unsafe { bindings::multikernel_guest_stop_other_cpus() };
}

/// Halts this CPU, interrupts off, until the host resets it by INIT.
pub(super) fn idle_for_good() -> ! {
    // SAFETY: The argument is not used.
    unsafe { bindings::stop_this_cpu(null_mut()) }
}

/// Sends interrupt `vector` to the CPU whose APIC id is `apic_id`.
///
/// Everything written before is visible to that CPU when it takes the interrupt. An id that this
/// CPU's APIC mode cannot express is not rung. The local APIC must have been found, which is so
/// from `console_init()` on; it may be disabled by software (SDM volume 3, "Local APIC State After
/// It Has Been Software Disabled").
pub(super) fn ring(apic_id: u32, vector: u32) {
    // SAFETY: A fixed-mode interrupt has no effect on this kernel; what it means there is the
    // contract between the two.
    unsafe { bindings::multikernel_guest_ring(apic_id, vector) };
}

/// Lets the platform IPI be the host's doorbell and returns its vector.
///
/// Nothing else uses this vector but the clock of an SGI UV machine.
#[link_section = ".init.text"]
pub(super) fn set_doorbell() -> u32 {
    // SAFETY: The variable is written during initialisation only; the interrupt's handler reads it
    // at once or not at all.
    unsafe { bindings::x86_platform_ipi_callback = Some(doorbell) };
    bindings::X86_PLATFORM_IPI_VECTOR
}

/// Called by `sysvec_x86_platform_ipi()`, with interrupts off.
extern "C" fn doorbell() {
    super::doorbell();
}

/// APIC id of a CPU of this kernel; 0 for one that it does not have.
pub(super) fn apic_id(cpu: u32) -> u32 {
    if cpu >= kernel::cpu::nr_cpu_ids() {
        return 0;
    }
    // SAFETY: There is a per-CPU area for every number below `nr_cpu_ids`.
    unsafe { bindings::multikernel_guest_apic_id(cpu) }
}

/// The CPU that this runs on; of meaning where it cannot move to another.
pub(super) fn this_cpu() -> u32 {
    // SAFETY: Reads a per-CPU variable.
    unsafe { bindings::multikernel_guest_this_cpu() }
}

/// Physical address and size of the note that describes this kernel to those who read a dump.
pub(super) fn vmcoreinfo() -> (u64, u32) {
    let mut size = 0;
    // SAFETY: `size` is valid for a write; the note has been made by an earlier initcall, or the
    // address is 0.
    let base = unsafe { bindings::multikernel_guest_vmcoreinfo(&mut size) };
    (base, size)
}

/// CPUs that this kernel runs on.
pub(super) fn online_cpus() -> u32 {
    // SAFETY: Always safe to call.
    unsafe { bindings::multikernel_guest_online_cpus() }
}

/// Has `cpu_changed()` called when a CPU goes on or off line, and at once for those that are
/// online.
///
/// # Errors
///
/// Those of `cpuhp_setup_state()`.
pub(super) fn watch_cpus() -> Result {
    // SAFETY: The name is static and so are the functions, of the type that this state expects.
    to_result(unsafe {
        bindings::__cpuhp_setup_state(
            bindings::cpuhp_state_CPUHP_AP_ONLINE_DYN,
            c"multikernel/guest:online".as_char_ptr(),
            true,
            Some(cpu_online),
            Some(cpu_offline),
            false,
        )
    })
}

/// A CPU is up, and counted.
extern "C" fn cpu_online(cpu: c_uint) -> c_int {
    super::cpu_changed(cpu, true, online_cpus());
    0
}

/// A CPU is about to go, and still counted.
extern "C" fn cpu_offline(cpu: c_uint) -> c_int {
    super::cpu_changed(cpu, false, online_cpus().saturating_sub(1));
    0
}
