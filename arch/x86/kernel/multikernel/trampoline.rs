// SPDX-License-Identifier: GPL-2.0

//! The page in which lent CPUs come up, and the mailboxes that tell them what to do.
//!
//! A CPU that gets INIT and SIPI runs trampoline_64.S, which looks up the mailbox of its APIC id
//! and parks or enters a spawn kernel. Each mailbox has one writer in the host, the [`Slot`] that
//! stands for it, and one reader, the CPU. A command is known to have been obeyed only when the CPU
//! has written the command's sequence number back: a timeout says nothing about where the CPU is,
//! and one that arrives late finds whatever command is current then.
//!
//! Which slots are taken is guarded by the registry's mutex; a slot itself is owned by whoever owns
//! the CPU.

use core::ptr;

use kernel::{
    bindings,
    prelude::*,
    time::{delay::udelay, Delta}, //
};

use super::{
    apic::{self, ApicId},
    identity_map::IdentityMap, //
};
use crate::{
    fault,
    memory::{FixedMemory, TablePage, PAGE_SIZE}, //
};

const COMMAND_PARK: u32 = 1;
const COMMAND_ENTER: u32 = 2;
const COMMAND_REST: u32 = 3;

/// `Mailbox::apic_id` of a mailbox that nobody uses; no CPU has this id.
const NOBODY: u32 = u32::MAX;

/// What a CPU is told, and what it answers. trampoline_64.S knows the offsets.
///
/// The host writes all but `ack` and `roll_reply`; the rest of the 256 bytes is the parked CPU's
/// stack.
#[repr(C)]
struct Mailbox {
    apic_id: u32,
    command: u32,
    /// 0 while the mailbox is being written.
    sequence: u64,
    ack: u64,
    cr3: u64,
    entry: u64,
    argument: u64,
    roll_request: u64,
    roll_reply: u64,
    stack: [u64; 24],
}

/// Mailboxes in a page.
const PER_PAGE: usize = PAGE_SIZE as usize / size_of::<Mailbox>();

/// The most CPUs that can be lent at a time.
pub(crate) const SLOTS: usize = 512;
const MAILBOX_PAGES: usize = SLOTS / PER_PAGE;

kernel::static_assert!(size_of::<Mailbox>() == 256);
kernel::static_assert!(core::mem::offset_of!(Mailbox, sequence) == 8);
kernel::static_assert!(core::mem::offset_of!(Mailbox, ack) == 16);
kernel::static_assert!(core::mem::offset_of!(Mailbox, cr3) == 24);
kernel::static_assert!(core::mem::offset_of!(Mailbox, entry) == 32);
kernel::static_assert!(core::mem::offset_of!(Mailbox, argument) == 40);
kernel::static_assert!(core::mem::offset_of!(Mailbox, roll_request) == 48);
kernel::static_assert!(core::mem::offset_of!(Mailbox, roll_reply) == 56);

// Labels in trampoline_64.S, in the order in which they stand there.
extern "C" {
    static multikernel_trampoline_start: u8;
    static multikernel_trampoline_long: u8;
    static multikernel_trampoline_nmi: u8;
    static multikernel_trampoline_machine_check: u8;
    static multikernel_trampoline_gdt: u8;
    static multikernel_trampoline_data: u8;
    static multikernel_trampoline_idt: u8;
    static multikernel_trampoline_end: u8;
}

// Offsets from `multikernel_trampoline_data`.
const DATA_MAILBOXES: u64 = 0;
const DATA_MAILBOX_COUNT: u64 = 8;
const DATA_CR3: u64 = 12;
const DATA_FAR_POINTER: u64 = 16;
const DATA_GDT_BASE: u64 = 24;
const DATA_IDT_BASE: u64 = 34;

/// Bytes below 1 MiB that a trampoline takes: one page of code, one with the root page table, which
/// 32-bit code has to be able to load into CR3.
pub(crate) const LOW_BYTES: u64 = 2 * PAGE_SIZE;

/// A contiguous array of mailboxes.
struct Mailboxes {
    page: *mut bindings::page,
}

// SAFETY: The pages are plain memory; how mailboxes are used from several threads is said at
// `Mailbox` and `Slot`.
unsafe impl Send for Mailboxes {}
// SAFETY: As above.
unsafe impl Sync for Mailboxes {}

impl Mailboxes {
    fn new() -> Result<Self> {
        let order = (MAILBOX_PAGES as u64).ilog2();
        let flags = bindings::GFP_KERNEL | bindings::__GFP_ZERO;
        // SAFETY: In process context; returns pages or NULL.
        let page = unsafe { bindings::alloc_pages(flags, order) };
        if page.is_null() {
            return Err(ENOMEM);
        }
        let this = Self { page };
        for index in 0..SLOTS {
            if let Some(mailbox) = this.get(index) {
                // SAFETY: `get` gives a mailbox inside the pages; no CPU reads it yet.
                unsafe { (&raw mut (*mailbox).apic_id).write_volatile(NOBODY) };
            }
        }
        Ok(this)
    }

    fn phys(&self) -> u64 {
        // SAFETY: `page` is valid until `drop`.
        unsafe { bindings::multikernel_page_to_phys(self.page) }
    }

    fn get(&self, index: usize) -> Option<*mut Mailbox> {
        if index >= SLOTS {
            return None;
        }
        // SAFETY: Not high memory, so it is in the direct map; the index is inside the pages.
        Some(unsafe {
            bindings::multikernel_phys_to_virt(self.phys())
                .cast::<Mailbox>()
                .add(index)
        })
    }
}

impl Drop for Mailboxes {
    fn drop(&mut self) {
        // SAFETY: Allocated in `new` with the same order. A `Trampoline` is dropped only where it
        // was never used: if `new` of it fails.
        unsafe { bindings::__free_pages(self.page, (MAILBOX_PAGES as u64).ilog2()) };
    }
}

/// The trampoline page, its page tables, and the mailboxes. One for the machine, never freed.
pub(crate) struct Trampoline {
    page: u64,
    tables: IdentityMap,
    mailboxes: Mailboxes,
}

impl Trampoline {
    /// Sets the trampoline up in [`LOW_BYTES`] of memory below 1 MiB.
    ///
    /// # Safety
    ///
    /// The pages at `base` are in the direct map and are nobody else's for ever.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EINVAL` if `base` is no page below 1 MiB.
    pub(crate) unsafe fn new(base: u64) -> Result<Self> {
        if base & (PAGE_SIZE - 1) != 0 || base + LOW_BYTES > 1 << 20 {
            return Err(EINVAL);
        }
        // SAFETY: The caller vouches for the pages.
        let mut low = unsafe { FixedMemory::new(base, LOW_BYTES) };
        let mailboxes = Mailboxes::new()?;
        let mut tables = IdentityMap::new()?;
        tables.map(base, PAGE_SIZE)?;
        tables.map(mailboxes.phys(), MAILBOX_PAGES as u64 * PAGE_SIZE)?;

        let this = Self {
            page: base,
            tables,
            mailboxes,
        };
        this.write_code(&mut low)?;
        this.write_root(&mut low)?;
        Ok(this)
    }

    /// The page with the code, which an instance's page tables have to map.
    pub(crate) fn page(&self) -> u64 {
        self.page
    }

    /// Bytes of host memory that it takes, beside those below 1 MiB.
    pub(crate) fn bytes(&self) -> u64 {
        self.tables.bytes() + MAILBOX_PAGES as u64 * PAGE_SIZE
    }

    fn write_code(&self, low: &mut FixedMemory) -> Result {
        let start = &raw const multikernel_trampoline_start;
        let offset = |label: *const u8| label.addr().wrapping_sub(start.addr()) as u64;
        let size = offset(&raw const multikernel_trampoline_end);
        if size > PAGE_SIZE {
            return Err(EINVAL);
        }
        // SAFETY: trampoline_64.S defines the labels around one piece of read-only data.
        let code = unsafe { core::slice::from_raw_parts(start, size as usize) };
        low.write(0, code)?;

        let data = offset(&raw const multikernel_trampoline_data);
        let idt = offset(&raw const multikernel_trampoline_idt);
        let address = |label: *const u8| low.base() + offset(label);
        let (long, gdt) = (
            address(&raw const multikernel_trampoline_long) as u32,
            address(&raw const multikernel_trampoline_gdt) as u32,
        );
        let (nmi, machine_check, idt_base) = (
            address(&raw const multikernel_trampoline_nmi),
            address(&raw const multikernel_trampoline_machine_check),
            address(&raw const multikernel_trampoline_idt),
        );
        let cr3 = (low.base() + PAGE_SIZE) as u32;
        low.write(data + DATA_MAILBOXES, &self.mailboxes.phys().to_le_bytes())?;
        low.write(data + DATA_MAILBOX_COUNT, &(SLOTS as u32).to_le_bytes())?;
        low.write(data + DATA_CR3, &cr3.to_le_bytes())?;
        low.write(data + DATA_FAR_POINTER, &long.to_le_bytes())?;
        low.write(data + DATA_GDT_BASE, &gdt.to_le_bytes())?;
        low.write(data + DATA_IDT_BASE, &idt_base.to_le_bytes())?;
        low.write(idt + 2 * 16, &interrupt_gate(nmi))?;
        low.write(idt + 18 * 16, &interrupt_gate(machine_check))
    }

    fn write_root(&self, low: &mut FixedMemory) -> Result {
        for index in 0..TablePage::ENTRIES {
            let entry = self.tables.root_entry(index);
            low.write(PAGE_SIZE + index as u64 * 8, &entry.to_le_bytes())?;
        }
        Ok(())
    }
}

/// A 64-bit interrupt gate to an address, through `__BOOT_CS` (Intel SDM volume 3, "64-Bit Mode
/// IDT").
fn interrupt_gate(address: u64) -> [u8; 16] {
    let low = (address & 0xffff) | 0x10 << 16 | 0x8e00 << 32 | ((address >> 16) & 0xffff) << 48;
    let high = address >> 32;
    let mut gate = [0; 16];
    let (first, second) = gate.split_at_mut(8);
    first.copy_from_slice(&low.to_le_bytes());
    second.copy_from_slice(&high.to_le_bytes());
    gate
}

/// Which mailboxes are in use.
pub(crate) struct Slots {
    taken: [bool; SLOTS],
    /// Of CPUs that are the host's again but still sit in the park code.
    stranded: KVec<Slot>,
}

impl Slots {
    /// None is.
    pub(crate) const fn new() -> Self {
        Self {
            taken: [false; SLOTS],
            stranded: KVec::new(),
        }
    }

    /// Takes a mailbox for the CPU with this APIC id. It commands the CPU to park.
    ///
    /// # Errors
    ///
    /// `ENOSPC` if all are taken.
    pub(crate) fn take(&mut self, trampoline: &'static Trampoline, id: ApicId) -> Result<Slot> {
        let stranded = self.stranded.iter().position(|slot| slot.id == id);
        if let Some(mut slot) = stranded.and_then(|at| self.stranded.remove(at).ok()) {
            slot.command(COMMAND_PARK, 0, 0, 0);
            slot.write_apic_id(id.get());
            return Ok(slot);
        }
        let index = self.taken.iter().position(|taken| !taken).ok_or(ENOSPC)?;
        let mailbox = trampoline.mailboxes.get(index).ok_or(ENOSPC)?;
        if let Some(taken) = self.taken.get_mut(index) {
            *taken = true;
        }
        // What an earlier CPU answered in this mailbox is not to be taken for an answer of this
        // one, so sequence numbers go on where they were.
        // SAFETY: `mailbox` is inside the trampoline's pages.
        let sequence = unsafe { (&raw const (*mailbox).sequence).read_volatile() };
        // INVARIANT: The index was free, so this is its only slot.
        let mut slot = Slot {
            trampoline,
            index,
            mailbox,
            id,
            sequence,
        };
        slot.command(COMMAND_PARK, 0, 0, 0);
        slot.write_apic_id(id.get());
        Ok(slot)
    }

    /// Keeps the mailbox of a CPU that the host could not start: the CPU has its stack there. Who
    /// lends the CPU next gets it.
    pub(crate) fn strand(&mut self, mut slot: Slot) {
        // Should it be lost just below, it must not be found in place of the CPU's next one. The
        // CPU knows where its mailbox is and does not look for it again.
        slot.write_apic_id(NOBODY);
        // Without memory for it the mailbox is never used again, which costs 256 bytes. Nothing is
        // waited for: a forced stop may be about to take the registry's mutex.
        let _ = self.stranded.push(slot, GFP_NOWAIT);
    }

    /// Makes a mailbox free again, whose CPU has been started elsewhere.
    pub(crate) fn give_back(&mut self, mut slot: Slot) {
        slot.write_apic_id(NOBODY);
        // A CPU that is late, and still looks, is not to stay awake.
        slot.command(COMMAND_REST, 0, 0, 0);
        if let Some(taken) = self.taken.get_mut(slot.index) {
            *taken = false;
        }
    }
}

/// One CPU's mailbox, and the right to send that CPU INIT and SIPI.
///
/// # Invariants
///
/// - `mailbox` is the trampoline's mailbox `index`, and there is no other slot for it.
/// - `sequence` is that of the last command or roll call, and grows with each, from one slot for a
///   mailbox to the next.
pub(crate) struct Slot {
    trampoline: &'static Trampoline,
    index: usize,
    mailbox: *mut Mailbox,
    id: ApicId,
    sequence: u64,
}

// SAFETY: `mailbox` points into memory that is never freed and that only this slot writes.
unsafe impl Send for Slot {}
// SAFETY: All writes need `&mut self`.
unsafe impl Sync for Slot {}

/// How long a CPU may take from SIPI to its answer. On real hardware it takes some tens
/// of microseconds; a virtual CPU may have to wait for its turn.
const ANSWER_MICROSECONDS: u64 = 2_000_000;
/// After how long INIT and SIPI are sent again to a CPU that is to park, at first; each time it is
/// twice as long. A SIPI can be lost: the CPU may not have taken the INIT yet.
const RESEND_MICROSECONDS: u64 = 2_000;
/// How long the answers to a roll call may take, all together.
const PRESENT_MICROSECONDS: u64 = 100_000;

impl Slot {
    fn write_apic_id(&mut self, id: u32) {
        // SAFETY: By the invariants; a reader sees the old or the new number.
        unsafe { (&raw mut (*self.mailbox).apic_id).write_volatile(id) };
    }

    /// Writes a command, so that a CPU that reads at the same time sees the old one, this one, or
    /// that it has to wait.
    fn command(&mut self, command: u32, cr3: u64, entry: u64, argument: u64) {
        self.sequence += 1;
        let mailbox = self.mailbox;
        // SAFETY: By the invariants only this slot writes these fields. x86 keeps the order of
        // stores, and volatile keeps the compiler from changing it.
        unsafe {
            (&raw mut (*mailbox).sequence).write_volatile(0);
            (&raw mut (*mailbox).command).write_volatile(command);
            (&raw mut (*mailbox).cr3).write_volatile(cr3);
            (&raw mut (*mailbox).entry).write_volatile(entry);
            (&raw mut (*mailbox).argument).write_volatile(argument);
            (&raw mut (*mailbox).sequence).write_volatile(self.sequence);
        }
    }

    fn answered(&self) -> bool {
        // SAFETY: By the invariants.
        unsafe { (&raw const (*self.mailbox).ack).read_volatile() == self.sequence }
    }

    /// Ends whatever the CPU runs. It waits for [`Self::start`] afterwards.
    pub(crate) fn halt(&mut self) {
        apic::send_init(self.id);
    }

    /// Commands the CPU to park, and starts it in the trampoline.
    pub(crate) fn park(&mut self) {
        self.command(COMMAND_PARK, 0, 0, 0);
        apic::send_startup(self.id, self.trampoline.page);
    }

    /// Commands the CPU to enter a kernel, and starts it in the trampoline.
    ///
    /// # Safety
    ///
    /// `cr3` is the root of page tables that map the trampoline page and the code at `entry` to
    /// themselves, and live until the CPU has been parked again.
    pub(crate) unsafe fn enter(&mut self, cr3: u64, entry: u64, argument: u64) {
        self.command(COMMAND_ENTER, cr3, entry, argument);
        apic::send_startup(self.id, self.trampoline.page);
    }

    /// Has a CPU that comes to the trampoline once more park, instead of entering again. To be
    /// called when [`Self::enter`] has been confirmed.
    pub(crate) fn disarm(&mut self) {
        self.command(COMMAND_PARK, 0, 0, 0);
    }

    /// Waits until the CPU has confirmed that it is parked.
    ///
    /// # Errors
    ///
    /// `ETIMEDOUT`: it has not. Where it is, is not known.
    pub(crate) fn confirm_parked(&mut self) -> Result {
        self.confirm(true)
    }

    /// Waits until the CPU has confirmed that it is about to enter. It is started only once: a
    /// second INIT could hit it when it has entered already.
    ///
    /// # Errors
    ///
    /// `ETIMEDOUT`: it has not. Where it is, is not known.
    pub(crate) fn confirm_entered(&mut self) -> Result {
        self.confirm(false)
    }

    fn confirm(&mut self, again: bool) -> Result {
        if fault::confirmation_is_lost() {
            return Err(ETIMEDOUT);
        }
        let mut waited = 0;
        let mut resend = RESEND_MICROSECONDS;
        while !self.answered() {
            if waited >= ANSWER_MICROSECONDS {
                return Err(ETIMEDOUT);
            }
            if again && waited >= resend {
                apic::send_startup(self.id, self.trampoline.page);
                resend *= 2;
            }
            waited += wait(waited);
        }
        Ok(())
    }

    /// Asks a CPU that has confirmed and does not rest yet whether it is in the park code.
    pub(crate) fn call_roll(&mut self) {
        self.sequence += 1;
        // SAFETY: By the invariants.
        unsafe { (&raw mut (*self.mailbox).roll_request).write_volatile(self.sequence) };
    }

    /// Lets a CPU that has confirmed stop looking at its mailbox, and sleep.
    pub(crate) fn rest(&mut self) {
        // SAFETY: By the invariants. Of a mailbox that says `COMMAND_PARK` only this word changes,
        // and a CPU that comes anew takes both for the same.
        unsafe { (&raw mut (*self.mailbox).command).write_volatile(COMMAND_REST) };
    }

    /// Waits for the answer to [`Self::call_roll`], `false` if it does not come soon.
    ///
    /// `waited` counts the microseconds for all CPUs of a roll call together.
    pub(crate) fn is_present(&self, waited: &mut u64) -> bool {
        if fault::roll_call_is_missed() {
            return false;
        }
        loop {
            // SAFETY: By the invariants.
            let reply = unsafe { ptr::read_volatile(&raw const (*self.mailbox).roll_reply) };
            if reply == self.sequence {
                return true;
            }
            if *waited >= PRESENT_MICROSECONDS {
                return false;
            }
            *waited += wait(*waited);
        }
    }
}

/// Waits a little, and says how many microseconds it was: at first without giving the CPU away, as
/// the answer is most often there at once.
fn wait(waited: u64) -> u64 {
    if waited < 1000 {
        udelay(Delta::from_micros(5));
        5
    } else {
        // SAFETY: In process context, with no lock that forbids sleeping.
        unsafe { bindings::usleep_range_state(100, 100, bindings::TASK_UNINTERRUPTIBLE) };
        100
    }
}
