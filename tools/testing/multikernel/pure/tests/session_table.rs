// SPDX-License-Identifier: GPL-2.0

//! `handover::table` against a map, against kernels that end in the middle of a change, and against
//! arenas that say anything.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
};

use kernel::error::{code::*, Result};
use multikernel_pure::{
    abi::NAME_LENGTH,
    handover::{
        abi::{SESSION_DATA, SESSION_KEY_LENGTH},
        table::{Entry, Key, Kind, Memory, Refusal, Table},
    },
    hostile_session::{self, judge},
};
use proptest::prelude::*;

const NAME: [u8; NAME_LENGTH] = [b'n'; NAME_LENGTH];

/// Memory of a kernel that ends after some of its writes.
#[derive(Clone)]
struct Arena {
    bytes: RefCell<Vec<u8>>,
    /// How many writes there were.
    writes: Cell<usize>,
    /// The last one that is made, and what of that.
    end: Option<(usize, Torn)>,
}

/// What is made of the last write, of which the bytes go to memory in no order.
#[derive(Clone, Copy, Debug)]
enum Torn {
    First(usize),
    Last(usize),
}

impl Arena {
    fn new(bytes: u64) -> Self {
        Self {
            bytes: RefCell::new(vec![0; bytes as usize]),
            writes: Cell::new(0),
            end: None,
        }
    }

    /// The same, of a kernel that ends.
    fn ending(&self, after: usize, torn: Torn) -> Self {
        Self {
            bytes: self.bytes.clone(),
            writes: Cell::new(0),
            end: Some((after, torn)),
        }
    }

    /// What of a write of so many bytes is made.
    fn made(&self, length: usize) -> core::ops::Range<usize> {
        let number = self.writes.replace(self.writes.get() + 1);
        match self.end {
            None => 0..length,
            Some((end, _)) if number < end => 0..length,
            Some((end, Torn::First(bytes))) if number == end => 0..bytes.min(length),
            Some((end, Torn::Last(bytes))) if number == end => length - bytes.min(length)..length,
            Some(_) => 0..0,
        }
    }

    fn copy(&self, offset: u64, length: u64) -> Vec<u8> {
        self.bytes.borrow()[offset as usize..][..length as usize].to_vec()
    }
}

impl Memory for Arena {
    fn size(&self) -> u64 {
        self.bytes.borrow().len() as u64
    }

    fn read(&self, offset: u64, to: &mut [u8]) -> Result {
        let bytes = self.bytes.borrow();
        let from = bytes.get(offset as usize..).ok_or(EINVAL)?;
        to.copy_from_slice(from.get(..to.len()).ok_or(EINVAL)?);
        Ok(())
    }

    fn write(&self, offset: u64, from: &[u8]) -> Result {
        let mut bytes = self.bytes.borrow_mut();
        let to = bytes.get_mut(offset as usize..).ok_or(EINVAL)?;
        let to = to.get_mut(..from.len()).ok_or(EINVAL)?;
        let made = self.made(from.len());
        to[made.clone()].copy_from_slice(&from[made]);
        Ok(())
    }

    fn store(&self, offset: u64, value: u64) -> Result {
        assert!(offset.is_multiple_of(8));
        let mut bytes = self.bytes.borrow_mut();
        let to = bytes.get_mut(offset as usize..).ok_or(EINVAL)?;
        // It is made, or it is not.
        if self.made(8) == (0..8) {
            to[..8].copy_from_slice(&value.to_le_bytes());
        }
        Ok(())
    }
}

fn key(number: u8) -> Key {
    let mut field = [0; SESSION_KEY_LENGTH];
    field[0] = b'a' + number;
    Key::new(&field).expect("a key")
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, Kind, u64),
    Delete(u8),
    /// The kernel has ended: its next life opens the session.
    Reopen,
}

fn kind() -> impl Strategy<Value = Kind> {
    prop::sample::select(&[Kind::Bytes, Kind::Pages, Kind::Memfd])
}

fn length(longest: u64) -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0..200u64,
        4 => (0..8u64).prop_map(|pages| pages * 4096),
        2 => 0..longest,
        1 => (0..longest).prop_map(|bytes| bytes & !0xfff),
        1 => (0..300u64).prop_map(|by| u64::MAX - by),
    ]
}

fn step(longest: u64) -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..8u8, kind(), length(longest)).prop_map(|(key, kind, length)| {
            Step::Put(key, kind, length)
        }),
        3 => (0..8u8).prop_map(Step::Delete),
        1 => Just(Step::Reopen),
    ]
}

/// What the session has to be: the contents of each key's entry.
type Wanted = BTreeMap<u8, (Kind, Vec<u8>)>;

/// The contents of the entry that was put `number`th.
fn contents(number: usize, length: u64) -> Vec<u8> {
    (0..length)
        .map(|at| (at ^ at >> 8) as u8 ^ number as u8)
        .collect()
}

/// Whether an arena of so many bytes has room beside these entries.
fn has_room(entries: &[Entry], bytes: u64, kind: Kind, length: u64) -> bool {
    let align = match kind {
        Kind::Bytes => 64,
        Kind::Pages if length >= 2 << 20 => 2 << 20,
        _ => 4096,
    };
    let ends = entries.iter().map(|it| it.offset + it.length.max(1));
    ends.chain([SESSION_DATA]).any(|end| {
        let from = end.next_multiple_of(align);
        from.checked_add(length.max(1)).is_some_and(|to| {
            let apart = |it: &Entry| it.offset >= to || it.offset + it.length.max(1) <= from;
            to <= bytes && entries.iter().all(apart)
        })
    })
}

fn allowed(kind: Kind, length: u64) -> bool {
    match kind {
        Kind::Bytes => length <= 1 << 20,
        Kind::Pages => length != 0 && length.is_multiple_of(4096),
        Kind::Memfd => true,
    }
}

/// Does a step, with contents of its own; `wanted` is what there has to be then.
fn make(arena: &Arena, table: &mut Table, wanted: &mut Wanted, step: &Step, number: usize) {
    match *step {
        Step::Put(name, kind, length) => {
            let entry = match table.place(key(name), kind, length) {
                Ok(entry) => entry,
                Err(error) if allowed(kind, length) => {
                    assert_eq!(error, ENOSPC);
                    assert!(!has_room(table.entries(), arena.size(), kind, length));
                    return;
                }
                Err(error) => return assert_eq!(error, EINVAL),
            };
            assert!(allowed(kind, length));
            let bytes = contents(number, length);
            arena.write(entry.offset, &bytes).expect("inside");
            table.publish(arena, entry).expect("a place is enough");
            wanted.insert(name, (kind, bytes));
        }
        Step::Delete(name) => {
            let deleted = table.delete(arena, &key(name));
            let expected = wanted.remove(&name).map(drop).ok_or(ENOENT);
            assert_eq!(deleted, expected);
        }
        Step::Reopen => *table = Table::read(arena, &NAME).expect("a session"),
    }
}

/// What a reader finds.
fn found(arena: &Arena) -> Wanted {
    let table = Table::read(arena, &NAME).expect("a session");
    judge(table.entries(), arena.size());
    let entries = table.entries().iter().map(|entry| {
        let bytes = arena.copy(entry.offset, entry.length);
        (entry.key.field()[0] - b'a', (entry.kind, bytes))
    });
    entries.collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// A reader finds what was put last, whatever else was put and deleted.
    #[test]
    fn a_map(steps in prop::collection::vec(step(6 << 20), 0..30)) {
        let arena = Arena::new(SESSION_DATA + (9 << 20));
        let mut table = Table::format(&arena, &NAME).expect("room");
        let mut wanted = Wanted::new();
        for (number, step) in steps.iter().enumerate() {
            make(&arena, &mut table, &mut wanted, step, number);
            judge(table.entries(), arena.size());
            prop_assert!(found(&arena) == wanted);
        }
    }

    /// Whatever write is the last of a kernel, and however much of that is made: all is as before
    /// the change or as after it, and the next kernel goes on.
    #[test]
    fn a_kernel_ends(
        steps in prop::collection::vec(step(1 << 16), 0..8),
        last in step(1 << 16),
    ) {
        let arena = Arena::new(SESSION_DATA + (1 << 17));
        let mut table = Table::format(&arena, &NAME).expect("room");
        let mut before = Wanted::new();
        for (number, step) in steps.iter().enumerate() {
            make(&arena, &mut table, &mut before, step, number);
        }
        let whole = arena.clone();
        whole.writes.set(0);
        let mut after = before.clone();
        let mut known = Table::read(&whole, &NAME).expect("a session");
        make(&whole, &mut known, &mut after, &last, 100);
        prop_assert!(found(&whole) == after);
        let writes = whole.writes.get();
        for end in 0..writes {
            for torn in [Torn::First(0), Torn::First(9), Torn::First(100), Torn::Last(120)] {
                let arena = arena.ending(end, torn);
                let mut table = Table::read(&arena, &NAME).expect("a session");
                make(&arena, &mut table, &mut before.clone(), &last, 100);
                let mut left = found(&arena);
                prop_assert!(left == before || end + 1 == writes && left == after);
                let arena = Arena { end: None, ..arena };
                let mut table = Table::read(&arena, &NAME).expect("a session");
                make(&arena, &mut table, &mut left, &Step::Put(3, Kind::Bytes, 5), 101);
                make(&arena, &mut table, &mut left, &Step::Delete(4), 102);
                prop_assert!(found(&arena) == left);
            }
        }
    }

    /// A kernel ends while it makes a session where one was: that is there, or none is, or one
    /// without entries.
    #[test]
    fn a_kernel_ends_at_the_beginning(steps in prop::collection::vec(step(1 << 16), 1..8)) {
        let arena = Arena::new(SESSION_DATA + (1 << 17));
        let mut table = Table::format(&arena, &NAME).expect("room");
        let mut before = Wanted::new();
        for (number, step) in steps.iter().enumerate() {
            make(&arena, &mut table, &mut before, step, number);
        }
        for end in 0..7 {
            for torn in [Torn::First(0), Torn::First(9), Torn::Last(9), Torn::Last(90)] {
                let arena = arena.ending(end, torn);
                Table::format(&arena, &NAME).expect("room");
                match Table::read(&arena, &NAME) {
                    Ok(_) if end == 0 => prop_assert!(found(&arena) == before),
                    Ok(table) => prop_assert!(end >= 5 && table.entries().is_empty()),
                    Err(refusal) => prop_assert_eq!(refusal, Refusal::Incompatible),
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn any_arena(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        hostile_session::arena_against_table(&bytes);
    }

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        hostile_session::bytes_against_wire(&bytes);
    }
}
