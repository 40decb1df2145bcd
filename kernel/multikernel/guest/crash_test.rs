// SPDX-License-Identifier: GPL-2.0

//! Faults on request, so that a test can see what the host makes of each.
//!
//! A spawn with `CONFIG_MULTIKERNEL_GUEST_CRASH_TEST` has the file
//! `/sys/kernel/debug/multikernel/crash`; writing the name of a fault into it has this kernel
//! commit it, see [`FAULTS`]. As `drivers/misc/lkdtm/`, with what matters to a host: a kernel that
//! ends by itself in every context, one that never does, and one that rings or sends without end.
//!
//! Everything here breaks the kernel it runs in, which is the point; none of it touches what is
//! not the spawn's. In particular nothing here can end in a triple fault, which on most machines
//! resets all of them: the entry code, the IDT and the page tables stay, and where the IDT goes, so
//! do interrupts. Owns [`NMI_SPINS`]; needs no lock.

use core::hint::{
    black_box,
    spin_loop, //
};

use kernel::{
    bindings,
    debugfs::Reader,
    new_spinlock,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    time::{
        hrtimer::{
            HrTimer,
            HrTimerCallback,
            HrTimerCallbackContext,
            HrTimerPointer,
            HrTimerRestart,
            RelativeHardMode,
            RelativeSoftMode, //
        },
        Delta,
        Monotonic, //
    },
    uaccess::UserSliceReader, //
};

use super::{
    initcall,
    x86, //
};
use crate::{
    abi,
    link::peer, //
};

/// The longest text that the file takes: a name, a blank and a number of 64 bits.
const LONGEST: usize = 48;

/// How long after the request a fault in an interrupt comes, in microseconds.
const DELAY_US: i64 = 1000;

/// Delivery mode NMI in the low word of the interrupt command register (SDM volume 3,
/// "Interrupt Command Register"), where the vector of a fixed interrupt would be.
const DELIVERY_MODE_NMI: u32 = 4 << 8;

/// Whether the next NMI that nobody knows the cause of does not return.
static NMI_SPINS: Atomic<bool> = Atomic::new(false);

/// What can be asked for. The number is given behind the name, 0 if it is not.
type Fault = fn(seed: u64) -> Result;

/// The names by which faults are asked for.
static FAULTS: [(&[u8], Fault); 14] = [
    (b"panic", |_| panic_now()),
    (b"null", |_| write_to_null()),
    (b"null-softirq", |_| SoftTimer::start()),
    (b"null-irq", |_| HardTimer::start()),
    (b"stack", overflow_stack),
    (b"double-fault", |_| double_fault()),
    (b"spin", |_| spin()),
    (b"spin-all", |_| on_other_cpus(spin_here, spin)),
    (b"spin-nmi", |_| spin_in_nmi()),
    (b"panic-spin", |_| on_other_cpus(spin_here, panic_now)),
    (b"no-idt", |_| spin_without_idt()),
    (b"text", corrupt_text),
    (b"ring-flood", ring_without_end),
    (b"send-flood", send_without_end),
];

initcall::initcall!(".initcall7.init", "multikernel_guest_crash_test", setup);

/// Makes the file, in a spawn only.
#[link_section = ".init.text"]
fn setup() -> Result {
    if !super::active() {
        return Ok(());
    }
    let directory = crate::view::directory();
    let file = KBox::pin_init(directory.write_only_file(c"crash", Request), GFP_KERNEL)?;
    // It is there for as long as the kernel is.
    core::mem::forget(file);

    // SAFETY: There is still nobody but this initcall to write to `x86_platform`, which becomes
    // read-only after the last one; an NMI reads the pointer at once.
    unsafe { bindings::x86_platform.get_nmi_reason = Some(nmi_reason) };
    Ok(())
}

/// The file: what is written to it is committed.
struct Request;

impl Reader for Request {
    fn read_from_slice(&self, reader: &mut UserSliceReader) -> Result {
        let mut buffer = [0; LONGEST];
        let length = reader.len();
        let text = buffer.get_mut(..length).ok_or(EINVAL)?;
        reader.read_slice(text)?;
        let mut words = text
            .split(u8::is_ascii_whitespace)
            .filter(|word| !word.is_empty());
        let name = words.next().ok_or(EINVAL)?;
        let seed = match words.next() {
            Some(digits) => parse(digits).ok_or(EINVAL)?,
            None => 0,
        };
        let (_, fault) = FAULTS
            .iter()
            .find(|(known, _)| *known == name)
            .ok_or(EINVAL)?;
        fault(seed)
    }
}

/// A decimal number of 64 bits.
pub(super) fn parse(digits: &[u8]) -> Option<u64> {
    core::str::from_utf8(digits).ok()?.parse().ok()
}

/// `panic()`.
fn panic_now() -> Result {
    // SAFETY: A format without conversions takes no arguments; `panic()` may be called anywhere.
    unsafe { bindings::panic(c"crash test".as_char_ptr()) }
}

/// Writes to where nothing is mapped.
fn write_to_null() -> Result {
    // SAFETY: None, this is the fault: page 0 is never mapped in the kernel's half of a process
    // that did not map it itself, and the write faults.
    unsafe { kernel::asm!("movl $0, ({})"; in(reg) 0_usize) };
    // Still alive.
    Err(EIO)
}

/// Makes a timer whose function is the fault of [`write_to_null`], in the context of `$mode`.
macro_rules! fault_timer {
    ($(#[$doc:meta])* $name:ident, $mode:ty) => {
        $(#[$doc])*
        #[pin_data]
        struct $name {
            #[pin]
            timer: HrTimer<Self>,
        }

        impl $name {
            /// Starts it, and returns before it runs.
            fn start() -> Result {
                let timer = pin_init!(Self { timer <- HrTimer::new() });
                let timer = KBox::pin_init(timer, GFP_KERNEL)?;
                // Not to be cancelled, nor freed.
                core::mem::forget(HrTimerPointer::start(timer, Delta::from_micros(DELAY_US)));
                Ok(())
            }
        }

        impl HrTimerCallback for $name {
            type Pointer<'a> = Pin<KBox<Self>>;

            fn run(_: Pin<&mut Self>, _: HrTimerCallbackContext<'_, Self>) -> HrTimerRestart {
                // It does not return.
                let _ = write_to_null();
                HrTimerRestart::NoRestart
            }
        }

        kernel::impl_has_hr_timer! {
            impl HasHrTimer<Self> for $name {
                mode: $mode, field: self.timer
            }
        }
    };
}

fault_timer! {
    /// Faults in the soft interrupt of timers.
    SoftTimer, RelativeSoftMode<Monotonic>
}

fault_timer! {
    /// Faults in the timer interrupt itself.
    HardTimer, RelativeHardMode<Monotonic>
}

/// Goes deeper until the stack is used up. The guard page below it then makes a double fault.
#[inline(never)]
fn overflow_stack(depth: u64) -> Result {
    let mut frame = [depth; 32];
    black_box(&mut frame);
    if depth == u64::MAX {
        return Err(EIO);
    }
    overflow_stack(depth + 1)?;
    // Used after the call, so that the frame is still there during it.
    black_box(&mut frame);
    Err(EIO)
}

/// Takes the stack away: what is delivered to such a stack is the double fault, which has its own.
fn double_fault() -> Result {
    // SAFETY: None, this is the fault. The invalid opcode cannot be delivered for want of a stack,
    // nor can the page fault that comes of that. Interrupts are off so that it is this one.
    unsafe { kernel::asm!("cli; xorl %esp, %esp; ud2"; options(noreturn)) }
}

/// Spins with interrupts off, for ever.
fn spin() -> Result {
    // SAFETY: None, this is the fault. This CPU does nothing any more but what follows.
    unsafe { kernel::asm!("cli";) };
    loop {
        spin_loop();
    }
}

/// [`spin`] as a cross-call has it.
///
/// # Safety
///
/// None: the CPU that calls this does nothing any more.
unsafe extern "C" fn spin_here(_: *mut c_void) {
    // It does not return.
    let _ = spin();
}

/// Has `others` called on all other CPUs, which is not waited for, and `own` here.
fn on_other_cpus(others: unsafe extern "C" fn(*mut c_void), own: fn() -> Result) -> Result {
    // Held so that this task stays on its CPU, for else it could end up on one of the others.
    pin_init::stack_pin_init!(let stay = new_spinlock!(()));
    let _stay = stay.lock();
    // SAFETY: The functions passed do not use the argument. Interrupts are on, as this is called
    // by a system call.
    unsafe { bindings::smp_call_function(Some(others), core::ptr::null_mut(), 0) };
    own()
}

/// Spins in the handler of a non-maskable interrupt.
fn spin_in_nmi() -> Result {
    NMI_SPINS.store(true, Relaxed);
    // It is the CPU that the host rings first.
    x86::ring(x86::apic_id(0), DELIVERY_MODE_NMI);
    Ok(())
}

/// `x86_platform_ops::get_nmi_reason`, which is asked for the cause of an NMI that no handler took.
///
/// A spawn gets no NMI from the machine, so that this one is ours.
extern "C" fn nmi_reason() -> c_uchar {
    while NMI_SPINS.load(Relaxed) {
        spin_loop();
    }
    0
}

/// Takes the interrupt descriptor table away and spins.
fn spin_without_idt() -> Result {
    let none = [0_u16; 5];
    // SAFETY: None, this is the fault. With interrupts off and no instruction after it that can
    // fault, nothing looks at the table until the host resets this CPU.
    unsafe { kernel::asm!("cli; lidt ({})"; in(reg) none.as_ptr()) };
    loop {
        spin_loop();
    }
}

/// Overwrites bytes of this kernel's own code, chosen by the seed.
fn corrupt_text(seed: u64) -> Result {
    // Functions that any work leads through. None is of the entry code, or handles an exception:
    // that goes to a triple fault.
    let functions = [
        bindings::vfs_read as *const c_void,
        bindings::vfs_write as *const c_void,
        bindings::schedule as *const c_void,
        bindings::wake_up_process as *const c_void,
        bindings::fput as *const c_void,
        bindings::dput as *const c_void,
        bindings::kfree as *const c_void,
        bindings::kmem_cache_free as *const c_void,
        bindings::queue_work_on as *const c_void,
        bindings::mod_timer as *const c_void,
        bindings::hrtimer_start_range_ns as *const c_void,
        bindings::handle_mm_fault as *const c_void,
    ];
    let mut random = Random(seed);
    let function = functions[random.below(functions.len())] as usize;

    let (mut size, mut offset) = (0, 0);
    // SAFETY: `size` and `offset` are valid for writes.
    let known =
        unsafe { bindings::kallsyms_lookup_size_offset(function, &raw mut size, &raw mut offset) };
    if known == 0 || size == 0 {
        return Err(ENOENT);
    }
    let mut bytes = [0; 8];
    let count = 1 + random.below(bytes.len().min(size));
    let bytes = &mut bytes[..count];
    bytes.fill_with(|| random.code());
    let at = function + random.below(size + 1 - count);

    pr_info!(
        "crash test: {} bytes of code at {:#x}: {:02x?}\n",
        count,
        at,
        bytes
    );
    // SAFETY: None, this is the fault. The bytes are inside one function of the kernel's code.
    // Nobody else changes code at this time, which `text_mutex` would else be for.
    unsafe { bindings::text_poke(at as *mut c_void, bytes.as_ptr().cast(), count) };
    Ok(())
}

/// Rings a CPU of the host without end and for nothing, until the task is killed. This kernel goes
/// on meanwhile.
fn ring_without_end(cpu: u64) -> Result {
    let link = peer::host().ok_or(ENOTCONN)?;
    let cpu = u32::try_from(cpu).map_err(|_| EINVAL)?;
    let bell = link.region.bell(link.peer(), cpu).ok_or(EINVAL)?;
    let vector = link.region.vector(link.peer());
    while !kernel::current!().signal_pending() {
        x86::ring(bell.apic_id(), vector);
        // SAFETY: A task may always let others have the CPU.
        unsafe { bindings::multikernel_cond_resched() };
    }
    Err(EINTR)
}

/// Sends to a CPU of the host without end, to a port that takes what comes and drops it, until the
/// task is killed. This kernel goes on meanwhile.
fn send_without_end(cpu: u64) -> Result {
    let link = peer::host().ok_or(ENOTCONN)?;
    let cpu = u32::try_from(cpu).map_err(|_| EINVAL)?;
    while !kernel::current!().signal_pending() {
        match link.send(Some(cpu), abi::MESSAGE_DATA, abi::PORT_ECHO, &[0x5a; 32]) {
            Ok(()) | Err(EAGAIN) => {}
            Err(error) => return Err(error),
        }
        // SAFETY: A task may always let others have the CPU.
        unsafe { bindings::multikernel_cond_resched() };
    }
    Err(EINTR)
}

/// Numbers that follow from a seed: SplitMix64.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A number below `limit`, which is not 0.
    pub(super) fn below(&mut self, limit: usize) -> usize {
        // CAST: both ways between 64-bit types.
        (self.next() % limit as u64) as usize
    }

    /// A byte of code, but none that begins an instruction by which any kernel can end the
    /// machine: those of I/O ports, and those behind 0x0f, such as WRMSR or the loads of control
    /// registers. Nothing protects the host from these (see "No isolation" in README.md).
    fn code(&mut self) -> u8 {
        loop {
            match (self.next() >> 32) as u8 {
                0x0f | 0x6c..=0x6f | 0xcd | 0xe4..=0xe7 | 0xec..=0xef => {}
                byte => return byte,
            }
        }
    }
}
