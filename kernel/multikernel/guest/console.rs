// SPDX-License-Identifier: GPL-2.0

//! A console without hardware: kernel messages and the tty `hvc0` by two rings in shared memory.
//!
//! Three stages, of which each takes over from the one before it without losing or doubling a line:
//!
//! 1. a boot console from the moment that the shared area is found. Registering it replays the log
//!    buffer, so that the ring begins with the kernel's first line;
//! 2. `hvc0` as a console, offered in `console_init()`. printk unregisters the boot console when
//!    it takes `hvc0` as the preferred console, and goes on with the next line. The lines that it
//!    prints to both, about the change itself, the boot console leaves to `hvc0`;
//! 3. `hvc0` as a tty, with the device initcalls.
//!
//! Output never waits for the host and overwrites what is oldest. Input comes with the doorbell;
//! nothing polls.
//!
//! Owns this kernel's position in each ring. [`OUTPUT_BUSY`] serialises writers of the output ring:
//! printk and the tty call in from different CPUs. Input is only taken under the tty's
//! `hvc_struct::lock`. Innermost locks both: nothing is called with them held.

use core::ptr::null_mut;

use kernel::{
    bindings,
    error::from_err_ptr,
    prelude::*,
    sync::atomic::{
        Acquire,
        Atomic,
        Relaxed,
        Release, //
    },
    types::Opaque, //
};

use super::shared;
use crate::ring;

/// The number by which `hvc_console.c` knows this terminal, and its index: `hvc0`.
const HVC_TERMINAL: u32 = 0;
const HVC_INDEX: c_int = 0;

/// Bytes that the tty gathers before it writes to the ring.
const HVC_BUFFER: c_int = 1024;

/// How often a writer looks at [`OUTPUT_BUSY`] before it goes ahead regardless.
///
/// Another CPU holds it for a few hundred stores. It is held for longer only by a CPU that was
/// stopped, or that this one's NMI interrupted, and then a message that may be the last counts for
/// more than the order of bytes in the ring.
const OUTPUT_PATIENCE: u32 = 100_000;

/// Whether a writer is at work on the output ring.
static OUTPUT_BUSY: Atomic<bool> = Atomic::new(false);
/// This kernel's position in the output ring.
static OUTPUT_TAIL: Atomic<u64> = Atomic::new(0);
/// This kernel's position in the input ring.
static INPUT_HEAD: Atomic<u64> = Atomic::new(0);

/// Whether `hvc0` has written: the boot console is silent from then on.
static TAKEN_OVER: Atomic<bool> = Atomic::new(false);

/// The tty, once there is one.
///
/// # Invariants
///
/// Null or an `hvc_struct` that is never freed.
static HVC: Atomic<*mut bindings::hvc_struct> = Atomic::new(null_mut());

/// Appends `bytes` to the output ring.
///
/// printk and the tty call with interrupts disabled, so that only an NMI can find its own CPU in
/// here; it then writes in spite of that after a bounded wait.
fn write(bytes: &[u8]) {
    let Some(area) = shared::area() else {
        return;
    };
    let mut patience = OUTPUT_PATIENCE;
    while OUTPUT_BUSY.xchg(true, Acquire) && patience > 0 {
        patience -= 1;
        core::hint::spin_loop();
    }
    let tail = ring::overwrite(&area.output(), OUTPUT_TAIL.load(Relaxed), bytes);
    OUTPUT_TAIL.store(tail, Relaxed);
    OUTPUT_BUSY.store(false, Release);
}

/// Takes up to `buffer.len()` bytes of input.
///
/// Called with `hvc_struct::lock` held.
fn read(buffer: &mut [u8]) -> usize {
    let Some(area) = shared::area() else {
        return 0;
    };
    let head = INPUT_HEAD.load(Relaxed);
    match ring::take(&area.input(), head, buffer) {
        Ok(count) => {
            INPUT_HEAD.store(head.wrapping_add(count as u64), Relaxed);
            count
        }
        // Nobody to tell but the writer, who sees that its bytes are gone.
        Err(ring::Broken { tail }) => {
            INPUT_HEAD.store(tail, Relaxed);
            ring::RingMemory::set_head(&area.input(), tail);
            0
        }
    }
}

/// `console::write` of the boot console.
///
/// # Safety
///
/// `text` must be valid for reads of `count` bytes.
unsafe extern "C" fn boot_console_write(
    _console: *mut bindings::console,
    text: *const c_char,
    count: c_uint,
) {
    if TAKEN_OVER.load(Relaxed) {
        return;
    }
    // SAFETY: By the caller's promise.
    let text = unsafe { core::slice::from_raw_parts(text.cast::<u8>(), count as usize) };
    // As `hvc_console_print()` does it, so that a terminal shows both alike.
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        match line.strip_suffix(b"\n") {
            Some(line) => {
                write(line);
                write(b"\r\n");
            }
            None => write(line),
        }
    }
}

/// printk's side of the boot console.
#[repr(transparent)]
struct BootConsole(Opaque<bindings::console>);

// SAFETY: printk alone accesses it after the registration, under locks of its own.
unsafe impl Sync for BootConsole {}

static BOOT_CONSOLE: BootConsole = BootConsole(Opaque::new(bindings::console {
    name: *b"multikernel\0\0\0\0\0",
    write: Some(boot_console_write),
    // CAST: The flags are single low bits.
    flags: (bindings::cons_flags_CON_BOOT
        | bindings::cons_flags_CON_ENABLED
        | bindings::cons_flags_CON_PRINTBUFFER
        | bindings::cons_flags_CON_ANYTIME) as i16,
    index: -1,
    ..pin_init::zeroed()
}));

/// Begins the output at `start` and registers the boot console.
///
/// The shared area must be mapped. Called once, on the boot CPU before any other runs.
pub(super) fn register_boot_console(start: u64) {
    OUTPUT_TAIL.store(start, Relaxed);
    // SAFETY: `BOOT_CONSOLE` is static and was not registered before.
    unsafe { bindings::register_console(BOOT_CONSOLE.0.get()) };
}

/// `hv_ops::get_chars`.
///
/// # Safety
///
/// `buffer` must be valid for writes of `count` bytes that are initialised.
unsafe extern "C" fn get_chars(_terminal: u32, buffer: *mut u8, count: usize) -> isize {
    // SAFETY: By the caller's promise.
    let buffer = unsafe { core::slice::from_raw_parts_mut(buffer, count) };
    // CAST: no slice is longer than `isize::MAX`.
    read(buffer) as isize
}

/// `hv_ops::put_chars`.
///
/// # Safety
///
/// `buffer` must be valid for reads of `count` bytes.
unsafe extern "C" fn put_chars(_terminal: u32, buffer: *const u8, count: usize) -> isize {
    TAKEN_OVER.store(true, Relaxed);
    // SAFETY: By the caller's promise.
    write(unsafe { core::slice::from_raw_parts(buffer, count) });
    // CAST: as in `get_chars()`.
    count as isize
}

/// `hv_ops::notifier_add`: the tty is opened for the first time.
///
/// # Safety
///
/// `hvc` must be valid, and being opened.
unsafe extern "C" fn notifier_add(hvc: *mut bindings::hvc_struct, _data: c_int) -> c_int {
    // Tells khvcd that input announces itself: it need not poll.
    // SAFETY: By the caller's promise; others only read the field.
    unsafe { (*hvc).irq_requested = 1 };
    0
}

static HVC_OPS: bindings::hv_ops = bindings::hv_ops {
    get_chars: Some(get_chars),
    put_chars: Some(put_chars),
    notifier_add: Some(notifier_add),
    ..pin_init::zeroed()
};

/// Offers `hvc0` to printk.
///
/// `hvc_console.c` registers the console by a later entry of the same initcall level.
pub(super) fn offer() {
    // SAFETY: `HVC_OPS` is static.
    let result = unsafe { bindings::hvc_instantiate(HVC_TERMINAL, HVC_INDEX, &HVC_OPS) };
    if result != 0 {
        pr_err!("hvc{} is taken\n", HVC_INDEX);
    }
}

/// Creates the tty.
///
/// # Errors
///
/// Those of `hvc_alloc()`.
pub(super) fn start() -> Result {
    if let Some(area) = shared::area() {
        // The host may have written input before this life began, and owns no head.
        INPUT_HEAD.store(ring::RingMemory::head(&area.input()), Relaxed);
    }
    // SAFETY: `HVC_OPS` is static. The last argument is the buffer's size.
    let hvc = from_err_ptr(unsafe {
        bindings::hvc_alloc(HVC_TERMINAL, 0, &HVC_OPS, HVC_BUFFER) //
    })?;
    // INVARIANT: `hvc_alloc()` returned it, and nobody calls `hvc_remove()`.
    HVC.store(hvc, Release);
    Ok(())
}

/// Takes what input there is to the tty; from the doorbell's interrupt or any other context.
pub(super) fn input() {
    let hvc = HVC.load(Acquire);
    if hvc.is_null() {
        return;
    }
    if cfg!(CONFIG_PREEMPT_RT) {
        // `hvc_poll()` takes a lock that sleeps there, and this may be an interrupt.
        // SAFETY: `hvc_alloc()` has started khvcd.
        unsafe { bindings::hvc_kick() };
        return;
    }
    // As `hvc_handle_interrupt()`: what cannot be done here is left to khvcd.
    // SAFETY: By the invariants of `HVC`; `hvc_alloc()` has started khvcd.
    unsafe {
        if bindings::hvc_poll(hvc) != 0 {
            bindings::hvc_kick();
        }
    }
}
