// SPDX-License-Identifier: GPL-2.0

//! The other side of a session at its worst: an arena that says anything and changes at any time,
//! and requests and answers of any bytes.
//!
//! As `hostile.rs`: a string of bytes decides, and each function panics if our side did anything
//! that it must not.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::vec::Vec;

use kernel::error::{code::*, Result};

use crate::{
    abi::NAME_LENGTH,
    handover::{
        abi::{SESSION_DATA, SESSION_ENTRIES_MAX, SESSION_KEY_LENGTH, SESSION_TABLES},
        table::{Entry, Key, Kind, Memory, Table},
        wire::{Asked, Granted, Told},
    },
    hostile::Input,
};

/// The name of the session.
const NAME: [u8; NAME_LENGTH] = [b's'; NAME_LENGTH];
/// Bytes of the arena; those behind the tables are of no interest.
const BYTES: u64 = 16 << 20;
/// Bytes of a table's head, and of an entry.
const LINE: u64 = 128;

/// An arena that another kernel writes to. It keeps account of what our side does.
struct Arena<'a> {
    input: &'a Input<'a>,
    bytes: RefCell<Vec<u8>>,
    calm: Cell<bool>,
    changed: Cell<bool>,
    reads: RefCell<Vec<(u64, u64)>>,
    writes: RefCell<Vec<(u64, u64)>>,
}

impl<'a> Arena<'a> {
    fn new(input: &'a Input<'a>) -> Self {
        Self {
            input,
            bytes: RefCell::new(vec![0; SESSION_DATA as usize]),
            calm: Cell::new(true),
            changed: Cell::new(false),
            reads: RefCell::default(),
            writes: RefCell::default(),
        }
    }

    /// What the other kernel does before an access of ours.
    fn disturb(&self) {
        if self.calm.get() || self.input.byte() & 7 != 0 {
            return;
        }
        self.changed.set(true);
        self.scribble();
    }

    /// Changes something that is looked at, to something that is nearly right.
    fn scribble(&self) {
        let input = self.input;
        let table = input.pick(&SESSION_TABLES);
        let entry = table + LINE * (1 + u64::from(input.byte() % 8));
        let (offset, value, bytes) = match input.byte() % 12 {
            0 => (input.number(2) % 112, input.number(1), 1),
            1 => (32, input.pick(&[0, SESSION_DATA, BYTES, BYTES + 1]), 8),
            // The table's head.
            2 => (table, input.pick(&[0, 1, 2, 3, 4, 5, 6, u64::MAX]), 8),
            3 => (table, input.number(8), 8),
            4 => (
                table + 8,
                input.pick(&[0, 1, 2, 7, 8, 511, 512, 1 << 31]),
                4,
            ),
            5 => (table + 12 + input.number(1) % 116, input.number(1), 1),
            // An entry.
            6 => (
                entry + input.pick(&[0, 0, 0, 1, 63]),
                input.number(1) % 17,
                1,
            ),
            7 => (entry + 64, input.number(1) % 8, 4),
            8 => (entry + 72, self.place(), 8),
            9 => (entry + 80, self.place() - SESSION_DATA, 8),
            10 => (entry + 68 + input.number(1) % 60, input.number(1), 1),
            _ => (input.number(3) % SESSION_DATA, input.number(8), 8),
        };
        let mut memory = self.bytes.borrow_mut();
        for (to, from) in memory[offset as usize..]
            .iter_mut()
            .zip(&value.to_le_bytes()[..bytes])
        {
            *to = *from;
        }
    }

    /// Where an entry might be.
    fn place(&self) -> u64 {
        match self.input.byte() % 4 {
            0 => self.input.number(8).max(SESSION_DATA),
            1 => BYTES.saturating_sub(self.input.number(1)).max(SESSION_DATA),
            2 => SESSION_DATA + 64 * self.input.number(1),
            _ => SESSION_DATA + 4096 * self.input.number(1),
        }
    }

    fn range(&self, offset: u64, length: usize) -> Result<core::ops::Range<usize>> {
        let end = offset.checked_add(length as u64).ok_or(EINVAL)?;
        assert!(end <= SESSION_DATA, "contents are not looked at");
        Ok(offset as usize..end as usize)
    }
}

impl Memory for Arena<'_> {
    fn size(&self) -> u64 {
        BYTES
    }

    fn read(&self, offset: u64, to: &mut [u8]) -> Result {
        self.disturb();
        let range = self.range(offset, to.len())?;
        self.reads.borrow_mut().push((offset, to.len() as u64));
        to.copy_from_slice(&self.bytes.borrow()[range]);
        Ok(())
    }

    fn write(&self, offset: u64, from: &[u8]) -> Result {
        let range = self.range(offset, from.len())?;
        self.writes.borrow_mut().push((offset, from.len() as u64));
        self.bytes.borrow_mut()[range].copy_from_slice(from);
        Ok(())
    }

    fn store(&self, offset: u64, value: u64) -> Result {
        assert!(offset.is_multiple_of(8));
        self.write(offset, &value.to_le_bytes())
    }
}

fn key(number: u8) -> Key {
    let mut field = [0; SESSION_KEY_LENGTH];
    field[0] = 1 + number % 16;
    Key::new(&field).expect("a key")
}

/// Makes a change; one that is refused is none.
fn change(arena: &Arena<'_>, table: &mut Table) -> bool {
    let input = arena.input;
    let key = key(input.byte());
    if input.byte().is_multiple_of(4) {
        return table.delete(arena, &key).is_ok();
    }
    let kind = input.pick(&[Kind::Bytes, Kind::Pages, Kind::Memfd]);
    let length = input.pick(&[0, 1, 64, 4096, 8192, 1 << 20, 2 << 20, 4 << 20, u64::MAX]);
    let Ok(entry) = table.place(key, kind, length) else {
        return false;
    };
    table.publish(arena, entry).is_ok()
}

/// What is promised of the entries of a table.
pub fn judge(entries: &[Entry], bytes: u64) {
    assert!(entries.len() <= SESSION_ENTRIES_MAX);
    let mut keys = BTreeSet::new();
    let mut free = SESSION_DATA;
    for entry in entries {
        assert!(entry.offset >= free && entry.offset.is_multiple_of(64));
        assert!(keys.insert(*entry.key.field()), "a key is there twice");
        Key::new(entry.key.field()).expect("a key");
        let page = entry.offset.is_multiple_of(4096);
        match entry.kind {
            Kind::Bytes => assert!(entry.length <= 1 << 20),
            Kind::Pages => {
                assert!(page && entry.length != 0 && entry.length.is_multiple_of(4096));
                assert!(entry.length < 2 << 20 || entry.offset.is_multiple_of(2 << 20));
            }
            Kind::Memfd => assert!(page),
        }
        let end = entry.offset.checked_add(entry.length.max(1));
        free = end.expect("an end that does not wrap");
        assert!(free <= bytes);
    }
}

/// A session that another kernel has made, and goes on changing while it is read.
pub fn arena_against_table(bytes: &[u8]) {
    let input = &Input::new(bytes);
    let arena = &Arena::new(input);
    let mut table = Table::format(arena, &NAME).expect("room for a session");
    for _ in 0..input.byte() % 8 {
        change(arena, &mut table);
    }
    for _ in 0..input.byte() % 8 {
        arena.scribble();
    }
    arena.calm.set(input.byte().is_multiple_of(2));
    let read = Table::read(arena, &NAME);
    arena.calm.set(true);
    // What was read twice could differ; and it comes to an end.
    let reads = arena.reads.take();
    assert!(reads.len() <= 3 + SESSION_ENTRIES_MAX);
    let mut lines = BTreeSet::new();
    for (offset, length) in reads {
        assert!(length <= LINE && offset % LINE + length <= LINE);
        assert!(lines.insert(offset / LINE), "a line is read twice");
    }
    let Ok(mut table) = read else {
        return;
    };
    judge(table.entries(), BYTES);
    if arena.changed.get() {
        return;
    }
    // It can be gone on with.
    for _ in 0..4 {
        let before = table.entries().to_vec();
        arena.writes.take();
        let has_changed = change(arena, &mut table);
        judge(table.entries(), BYTES);
        assert!(has_changed || table.entries() == before);
        for (offset, _) in arena.writes.take() {
            assert!(offset >= SESSION_TABLES[0], "only a table is written");
        }
        let found = Table::read(arena, &NAME).expect("a session");
        assert_eq!(found.entries(), table.entries());
    }
}

/// Requests and answers about arenas and sessions, of any bytes.
pub fn bytes_against_wire(bytes: &[u8]) {
    if let Some(asked) = Asked::of_request(bytes) {
        assert_eq!(
            asked.request(),
            bytes,
            "a request says one thing in one way"
        );
    }
    if let Some(told) = Told::of_answer(bytes) {
        assert_eq!(Told::of_answer(&told.answer()), Some(told));
        assert!(told.base == 0 || told.base.checked_add(told.size).is_some());
        assert!(told.base.is_multiple_of(2 << 20) || told.size == 0 || told.base == 0);
    }
    if let Some(granted) = Granted::of_answer(bytes) {
        assert_eq!(Granted::of_answer(&granted.answer()), Some(granted));
    }
}
