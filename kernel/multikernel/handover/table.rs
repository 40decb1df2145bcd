// SPDX-License-Identifier: GPL-2.0

//! What is in a session: entries, of which an arena's memory holds the table and the contents.
//!
//! The layout is that of `abi.rs` beside this file. A [`Table`] is this kernel's own copy: what
//! comes out of memory that another kernel wrote is copied once, checked, and then used, see
//! [`Table::read`]. A change is in force by one last store, so that a kernel which ends in the
//! middle of one leaves the table as it was.
//!
//! The file is pure: it is compiled into the kernel and into the test workspace. It needs no lock;
//! a [`Table`] has one user.

// `pub`, not `pub(crate)`: in the test workspace the file is a library's.
#![allow(unreachable_pub)]

use core::mem::{
    offset_of,
    size_of, //
};

use kernel::prelude::*;

use super::{
    abi::{
        SessionEntry,
        SessionHeader,
        SessionTable,
        SESSION_BYTES,
        SESSION_BYTES_MAX,
        SESSION_COMPATIBLE,
        SESSION_DATA,
        SESSION_ENTRIES_MAX,
        SESSION_KEY_LENGTH,
        SESSION_MEMFD,
        SESSION_PAGES,
        SESSION_TABLES, //
    },
    wire::{
        long,
        put,
        word, //
    },
};
use crate::abi::NAME_LENGTH;

/// Bytes of a page.
const PAGE: u64 = 4096;
/// Bytes of a large page.
const LARGE_PAGE: u64 = 2 << 20;
/// Contents begin at multiples of this at least.
const UNIT: u64 = 64;

const HEAD_BYTES: usize = size_of::<SessionTable>();
const ENTRY_BYTES: usize = size_of::<SessionEntry>();

/// An arena's memory, which another kernel may be writing to.
pub trait Memory {
    /// How many bytes it has.
    fn size(&self) -> u64;

    /// Copies what is at `offset`.
    ///
    /// # Errors
    ///
    /// `EINVAL` if not all of it is inside.
    fn read(&self, offset: u64, to: &mut [u8]) -> Result;

    /// Writes to `offset`. Nobody sees what a later call writes without seeing this.
    ///
    /// # Errors
    ///
    /// `EINVAL` if not all of it is inside.
    fn write(&self, offset: u64, from: &[u8]) -> Result;

    /// As [`Self::write`], in a single store to a multiple of 8.
    ///
    /// # Errors
    ///
    /// As [`Self::write`].
    fn store(&self, offset: u64, value: u64) -> Result;
}

/// The name of an entry: 1 to 63 bytes that are not zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key([u8; SESSION_KEY_LENGTH]);

impl Key {
    /// Checks a key that fills a field of fixed size and ends with a zero byte.
    ///
    /// # Errors
    ///
    /// `ENAMETOOLONG` if there is no zero byte; `EINVAL` if it is empty or has something behind the
    /// zero byte.
    pub fn new(field: &[u8; SESSION_KEY_LENGTH]) -> Result<Self> {
        let length = field.iter().position(|&byte| byte == 0);
        let (key, rest) = field.split_at(length.ok_or(ENAMETOOLONG)?);
        if key.is_empty() || rest.iter().any(|&byte| byte != 0) {
            return Err(EINVAL);
        }
        Ok(Self(*field))
    }

    /// The key in a field of fixed size.
    pub fn field(&self) -> &[u8; SESSION_KEY_LENGTH] {
        &self.0
    }
}

/// What an entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Bytes.
    Bytes,
    /// Pages that processes map.
    Pages,
    /// What was in a memfd.
    Memfd,
}

impl Kind {
    /// Its number, in the layout and in `MULTIKERNEL_ENTRY_*`.
    pub fn number(self) -> u32 {
        match self {
            Self::Bytes => SESSION_BYTES,
            Self::Pages => SESSION_PAGES,
            Self::Memfd => SESSION_MEMFD,
        }
    }

    /// The kind of this number.
    pub fn from_number(number: u32) -> Option<Self> {
        match number {
            SESSION_BYTES => Some(Self::Bytes),
            SESSION_PAGES => Some(Self::Pages),
            SESSION_MEMFD => Some(Self::Memfd),
            _ => None,
        }
    }

    /// Whether an entry may have so many bytes.
    fn allows(self, length: u64) -> bool {
        match self {
            Self::Bytes => length <= SESSION_BYTES_MAX,
            Self::Pages => length != 0 && length.is_multiple_of(PAGE),
            Self::Memfd => true,
        }
    }

    /// At multiples of what the contents of so many bytes begin.
    fn align(self, length: u64) -> u64 {
        match self {
            Self::Bytes => UNIT,
            Self::Pages if length >= LARGE_PAGE => LARGE_PAGE,
            Self::Pages | Self::Memfd => PAGE,
        }
    }
}

/// An entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its key.
    pub key: Key,
    /// What it is.
    pub kind: Kind,
    /// Where its contents begin, from the arena's beginning.
    pub offset: u64,
    /// How many bytes they are.
    pub length: u64,
}

impl Entry {
    /// The end of its contents; an empty entry has a place of its own too.
    fn end(&self) -> u64 {
        self.offset.saturating_add(self.length.max(1))
    }

    fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        let mut put = |offset, value: &[u8]| put(&mut bytes, offset, value);
        put(offset_of!(SessionEntry, key), self.key.field());
        put(
            offset_of!(SessionEntry, kind),
            &self.kind.number().to_le_bytes(),
        );
        put(offset_of!(SessionEntry, offset), &self.offset.to_le_bytes());
        put(offset_of!(SessionEntry, length), &self.length.to_le_bytes());
        bytes
    }

    /// What an entry in another kernel's table says, whose contents have to be in `from..to`.
    fn decode(bytes: &[u8; ENTRY_BYTES], from: u64, to: u64) -> Result<Self, Refusal> {
        let field = |offset| long(bytes, offset).ok_or(Refusal::Place);
        let (key, _) = bytes.split_first_chunk().ok_or(Refusal::Key)?;
        let kind = word(bytes, offset_of!(SessionEntry, kind)).and_then(Kind::from_number);
        let entry = Self {
            key: Key::new(key).map_err(|_| Refusal::Key)?,
            kind: kind.ok_or(Refusal::Kind)?,
            offset: field(offset_of!(SessionEntry, offset))?,
            length: field(offset_of!(SessionEntry, length))?,
        };
        let known = entry.encode();
        if known != *bytes {
            return Err(Refusal::Reserved);
        }
        if !entry.kind.allows(entry.length)
            || !entry.offset.is_multiple_of(entry.kind.align(entry.length))
            || entry.offset < from
            || entry.end() > to
        {
            return Err(Refusal::Place);
        }
        Ok(entry)
    }
}

/// Why what is in an arena is not taken for a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// It is of no kind that this kernel knows.
    Incompatible,
    /// It says that it is of another size or name.
    Header,
    /// Neither table is in force, or both are.
    Generation,
    /// More entries than there can be.
    Count,
    /// A key is not one, or is there twice.
    Key,
    /// An entry of a kind that this kernel does not know.
    Kind,
    /// An entry's contents are not where they can be, or where another's are.
    Place,
    /// Something is not zero that has to be.
    Reserved,
    /// This kernel has no memory for its copy.
    Memory,
}

impl Refusal {
    /// In words, after "a session was refused: ".
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Incompatible => "it is of no kind that this kernel knows",
            Self::Header => "its size or name is not the arena's",
            Self::Generation => "it cannot be told which table is in force",
            Self::Count => "its table has more entries than fit",
            Self::Key => "an entry's key is malformed, or is there twice",
            Self::Kind => "an entry is of a kind that this kernel does not know",
            Self::Place => "an entry's contents are outside, not aligned, or where another's are",
            Self::Reserved => "a field is not zero that this kernel does not know",
            Self::Memory => "no memory for a copy of its table",
        }
    }

    /// The errno that stands for it.
    pub fn errno(self) -> Error {
        match self {
            Self::Incompatible | Self::Kind | Self::Reserved => EPROTONOSUPPORT,
            Self::Memory => ENOMEM,
            _ => EUCLEAN,
        }
    }
}

/// The entries of a session, as this kernel knows them.
///
/// # Invariants
///
/// The entries are sorted by where their contents are, and these do not overlap and are all inside
/// the arena, behind the tables. No two have the same key, and there are at most
/// [`SESSION_ENTRIES_MAX`].
#[derive(Debug)]
pub struct Table {
    entries: KVec<Entry>,
    /// Bytes of the arena that the session may use.
    bytes: u64,
    /// Of the table in force, 1 at least.
    generation: u64,
    /// Which of the two is in force.
    slot: usize,
}

impl Table {
    /// Makes a session without entries in an arena, whatever was there.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the arena is too small.
    pub fn format(memory: &impl Memory, name: &[u8; NAME_LENGTH]) -> Result<Self> {
        let bytes = memory.size();
        if bytes <= SESSION_DATA {
            return Err(EINVAL);
        }
        // Until all is there it is no session.
        memory.write(0, &[0; SESSION_COMPATIBLE.len()])?;
        for table in SESSION_TABLES {
            memory.write(table, &[0; HEAD_BYTES])?;
        }
        let mut header = [0; size_of::<SessionHeader>()];
        let offset = offset_of!(SessionHeader, bytes);
        put(&mut header, offset, &bytes.to_le_bytes());
        put(&mut header, offset_of!(SessionHeader, name), name);
        memory.write(0, &header)?;
        let this = Self {
            entries: KVec::new(),
            bytes,
            generation: 1,
            slot: 0,
        };
        memory.store(SESSION_TABLES[0], this.generation)?;
        memory.write(0, &SESSION_COMPATIBLE)?;
        Ok(this)
    }

    /// Copies and checks what is in an arena, which is of this name.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn read(memory: &impl Memory, name: &[u8; NAME_LENGTH]) -> Result<Self, Refusal> {
        let mut header = [0; size_of::<SessionHeader>()];
        memory
            .read(0, &mut header)
            .map_err(|_| Refusal::Incompatible)?;
        if !header.starts_with(&SESSION_COMPATIBLE) {
            return Err(Refusal::Incompatible);
        }
        let field = |offset| long(&header, offset).ok_or(Refusal::Header);
        let bytes = field(offset_of!(SessionHeader, bytes))?;
        if field(offset_of!(SessionHeader, reserved))? != 0 {
            return Err(Refusal::Reserved);
        }
        if bytes > memory.size() || !header.ends_with(name) {
            return Err(Refusal::Header);
        }
        let (slot, generation, count) = in_force(memory)?;
        let mut this = Self {
            entries: KVec::with_capacity(count, GFP_KERNEL).map_err(|_| Refusal::Memory)?,
            bytes,
            generation,
            slot,
        };
        let mut at = SESSION_DATA;
        for index in 0..count {
            let mut encoded = [0; ENTRY_BYTES];
            memory
                .read(place_of(slot, index), &mut encoded)
                .map_err(|_| Refusal::Header)?;
            let entry = Entry::decode(&encoded, at, bytes)?;
            if this.find(&entry.key).is_some() {
                return Err(Refusal::Key);
            }
            at = entry.end();
            // There is room.
            let _ = this.entries.push_within_capacity(entry);
        }
        Ok(this)
    }

    /// All entries.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entry of this key.
    pub fn find(&self, key: &Key) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == *key)
    }

    /// Where an entry can be put, beside all that are there; [`Self::publish`] puts it there.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a length that its kind does not allow; `ENOSPC` if there is no room for its
    /// contents, or for another entry.
    pub fn place(&self, key: Key, kind: Kind, length: u64) -> Result<Entry> {
        if !kind.allows(length) {
            return Err(EINVAL);
        }
        if self.find(&key).is_none() && self.entries.len() >= SESSION_ENTRIES_MAX {
            return Err(ENOSPC);
        }
        let align = kind.align(length);
        let mut at = SESSION_DATA;
        let ends = self.entries.iter().map(|entry| (entry.offset, entry.end()));
        for (taken, end) in Iterator::chain(ends, [(self.bytes, self.bytes)]) {
            let start = at.checked_next_multiple_of(align).ok_or(ENOSPC)?;
            let entry = Entry {
                key,
                kind,
                offset: start,
                length,
            };
            if entry.end() <= taken {
                return Ok(entry);
            }
            at = end;
        }
        Err(ENOSPC)
    }

    /// Puts an entry that [`Self::place`] returned into the table; one of the same key goes. Its
    /// contents have to be there by now.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; nothing has changed then.
    pub fn publish(&mut self, memory: &impl Memory, entry: Entry) -> Result {
        let mut entries = self.copy(1, &entry.key)?;
        let at = entries.iter().take_while(|it| it.offset < entry.offset);
        let at = at.count();
        // There is room.
        let _ = entries.insert_within_capacity(at, entry);
        self.change(memory, entries)
    }

    /// Takes an entry out.
    ///
    /// # Errors
    ///
    /// `ENOENT`, `ENOMEM`; nothing has changed then.
    pub fn delete(&mut self, memory: &impl Memory, key: &Key) -> Result {
        self.find(key).ok_or(ENOENT)?;
        let entries = self.copy(0, key)?;
        self.change(memory, entries)
    }

    /// The entries but that of `key`, with room for some more.
    fn copy(&self, more: usize, key: &Key) -> Result<KVec<Entry>> {
        let mut entries = KVec::with_capacity(self.entries.len() + more, GFP_KERNEL)?;
        for entry in self.entries.iter().filter(|entry| entry.key != *key) {
            // There is room.
            let _ = entries.push_within_capacity(*entry);
        }
        Ok(entries)
    }

    /// Writes the table that is not in force, and puts it in force.
    fn change(&mut self, memory: &impl Memory, entries: KVec<Entry>) -> Result {
        // More than any machine makes in its life.
        let generation = self.generation.checked_add(1).ok_or(ENOSPC)?;
        let slot = self.slot ^ 1;
        let table = place_of_head(slot);
        memory.store(table, 0)?;
        for (index, entry) in entries.iter().enumerate() {
            memory.write(place_of(slot, index), &entry.encode())?;
        }
        let mut head = [0; HEAD_BYTES];
        // CAST: At most `SESSION_ENTRIES_MAX`.
        let count = entries.len() as u32;
        let offset = offset_of!(SessionTable, count);
        put(&mut head, offset, &count.to_le_bytes());
        memory.write(table, &head)?;
        memory.store(table, generation)?;
        // INVARIANT: `place` found room beside all others, and `publish` sorts.
        self.entries = entries;
        self.generation = generation;
        self.slot = slot;
        Ok(())
    }
}

/// Where a table is.
fn place_of_head(slot: usize) -> u64 {
    let [first, second] = SESSION_TABLES;
    if slot == 0 {
        first
    } else {
        second
    }
}

/// Where an entry of a table is.
fn place_of(slot: usize, index: usize) -> u64 {
    // CAST: An index is below `SESSION_ENTRIES_MAX`.
    place_of_head(slot) + (HEAD_BYTES + index * ENTRY_BYTES) as u64
}

/// Which table is in force, its generation, and how many entries it has.
fn in_force(memory: &impl Memory) -> Result<(usize, u64, usize), Refusal> {
    let mut heads = [[0; HEAD_BYTES]; 2];
    for (head, place) in heads.iter_mut().zip(SESSION_TABLES) {
        memory.read(place, head).map_err(|_| Refusal::Header)?;
    }
    let [first, second] = heads.each_ref().map(|head| long(head, 0).unwrap_or(0));
    let (slot, generation, head) = match first.cmp(&second) {
        core::cmp::Ordering::Greater => (0, first, &heads[0]),
        core::cmp::Ordering::Less => (1, second, &heads[1]),
        core::cmp::Ordering::Equal => return Err(Refusal::Generation),
    };
    let count = word(head, offset_of!(SessionTable, count)).unwrap_or(u32::MAX) as usize;
    if count > SESSION_ENTRIES_MAX {
        return Err(Refusal::Count);
    }
    let rest = head.get(offset_of!(SessionTable, reserved)..);
    if rest.is_none_or(|rest| rest.iter().any(|&byte| byte != 0)) {
        return Err(Refusal::Reserved);
    }
    Ok((slot, generation, count))
}

#[cfg(CONFIG_MULTIKERNEL_KUNIT_TEST)]
#[kunit_tests(multikernel_session_table)]
mod tests {
    use super::*;
    use core::cell::Cell;

    const NAME: [u8; NAME_LENGTH] = [b'n'; NAME_LENGTH];

    /// Memory that nobody else writes to.
    struct Bytes(KVec<Cell<u8>>);

    impl Bytes {
        fn new(size: u64) -> Result<Self> {
            let bytes = KVec::from_elem(Cell::new(0xa5), size as usize, GFP_KERNEL)?;
            Ok(Self(bytes))
        }

        fn part(&self, offset: u64, length: usize) -> Result<&[Cell<u8>]> {
            let from = self.0.get(offset as usize..);
            from.and_then(|from| from.get(..length)).ok_or(EINVAL)
        }
    }

    impl Memory for Bytes {
        fn size(&self) -> u64 {
            self.0.len() as u64
        }

        fn read(&self, offset: u64, to: &mut [u8]) -> Result {
            let from = self.part(offset, to.len())?;
            for (to, from) in to.iter_mut().zip(from) {
                *to = from.get();
            }
            Ok(())
        }

        fn write(&self, offset: u64, from: &[u8]) -> Result {
            for (to, from) in self.part(offset, from.len())?.iter().zip(from) {
                to.set(*from);
            }
            Ok(())
        }

        fn store(&self, offset: u64, value: u64) -> Result {
            self.write(offset, &value.to_le_bytes())
        }
    }

    fn key(number: usize) -> Result<Key> {
        let mut field = [0; SESSION_KEY_LENGTH];
        // Two bytes that are not zero.
        let digits = [number & 0x7f, number >> 7].map(|it| it as u8 + 1);
        put(&mut field, 0, &digits);
        Key::new(&field)
    }

    #[test]
    fn put_replaced_and_deleted() -> Result {
        let memory = Bytes::new(SESSION_DATA + 4 * PAGE)?;
        let mut table = Table::format(&memory, &NAME)?;
        let first = table.place(key(0)?, Kind::Bytes, 0)?;
        assert_eq!(first.offset, SESSION_DATA);
        table.publish(&memory, first)?;
        let pages = table.place(key(1)?, Kind::Pages, 2 * PAGE)?;
        assert_eq!(pages.offset, SESSION_DATA + PAGE);
        table.publish(&memory, pages)?;
        assert_eq!(table.place(key(1)?, Kind::Pages, 2 * PAGE), Err(ENOSPC));
        assert_eq!(table.place(key(2)?, Kind::Pages, PAGE + 1), Err(EINVAL));
        assert_eq!(table.place(key(2)?, Kind::Pages, 0), Err(EINVAL));
        let longest = SESSION_BYTES_MAX;
        assert_eq!(table.place(key(2)?, Kind::Bytes, longest), Err(ENOSPC));
        assert_eq!(table.place(key(2)?, Kind::Bytes, longest + 1), Err(EINVAL));
        assert_eq!(table.place(key(2)?, Kind::Memfd, u64::MAX), Err(ENOSPC));
        // Beside the one that it replaces, in which nothing changes before.
        let again = table.place(key(0)?, Kind::Bytes, 64)?;
        assert_eq!(again.offset, first.offset + 64);
        table.publish(&memory, again)?;
        let found = Table::read(&memory, &NAME).map_err(Refusal::errno)?;
        assert_eq!(found.entries(), &[again, pages]);
        table.delete(&memory, &key(0)?)?;
        assert_eq!(table.delete(&memory, &key(0)?), Err(ENOENT));
        let found = Table::read(&memory, &NAME).map_err(Refusal::errno)?;
        assert_eq!(found.entries(), &[pages]);
        Ok(())
    }

    #[test]
    fn no_more_entries_than_there_can_be() -> Result {
        let memory = Bytes::new(SESSION_DATA + 1024 * UNIT)?;
        let mut table = Table::format(&memory, &NAME)?;
        for number in 0..SESSION_ENTRIES_MAX {
            let entry = table.place(key(number)?, Kind::Bytes, 1)?;
            table.publish(&memory, entry)?;
        }
        let more = key(SESSION_ENTRIES_MAX)?;
        assert_eq!(table.place(more, Kind::Bytes, 1), Err(ENOSPC));
        let entry = table.place(key(5)?, Kind::Bytes, 2)?;
        table.publish(&memory, entry)?;
        let found = Table::read(&memory, &NAME).map_err(Refusal::errno)?;
        assert_eq!(found.entries(), table.entries());
        Ok(())
    }

    #[test]
    fn what_is_refused() -> Result {
        let memory = Bytes::new(SESSION_DATA + 4 * PAGE)?;
        let refusal = || Table::read(&memory, &NAME).err();
        assert_eq!(refusal(), Some(Refusal::Incompatible));
        let mut table = Table::format(&memory, &NAME)?;
        for number in 0..2 {
            let entry = table.place(key(number)?, Kind::Bytes, 1)?;
            table.publish(&memory, entry)?;
        }
        assert_eq!(refusal(), None);
        let head = place_of_head(table.slot);
        let (entry, next) = (place_of(table.slot, 0), place_of(table.slot, 1));
        let other = place_of_head(table.slot ^ 1);
        let in_entry = |offset: usize| entry + offset as u64;
        for (offset, value, expected) in [
            (0, 0x31, Refusal::Incompatible),
            (
                offset_of!(SessionHeader, bytes) as u64 + 7,
                1,
                Refusal::Header,
            ),
            (
                offset_of!(SessionHeader, reserved) as u64,
                1,
                Refusal::Reserved,
            ),
            (offset_of!(SessionHeader, name) as u64, 1, Refusal::Header),
            (head, table.generation as u8 - 1, Refusal::Generation),
            (
                head + offset_of!(SessionTable, count) as u64 + 1,
                2,
                Refusal::Count,
            ),
            (
                head + offset_of!(SessionTable, reserved) as u64,
                1,
                Refusal::Reserved,
            ),
            (head + HEAD_BYTES as u64 - 1, 1, Refusal::Reserved),
            (entry, 0, Refusal::Key),
            (entry + 63, 1, Refusal::Key),
            (next, 1, Refusal::Key),
            (in_entry(offset_of!(SessionEntry, kind)), 0, Refusal::Kind),
            (in_entry(offset_of!(SessionEntry, kind)), 4, Refusal::Kind),
            (
                in_entry(offset_of!(SessionEntry, kind)),
                SESSION_PAGES as u8,
                Refusal::Place,
            ),
            (
                in_entry(offset_of!(SessionEntry, reserved)),
                1,
                Refusal::Reserved,
            ),
            (in_entry(ENTRY_BYTES - 1), 1, Refusal::Reserved),
            (
                in_entry(offset_of!(SessionEntry, offset)),
                1,
                Refusal::Place,
            ),
            (
                in_entry(offset_of!(SessionEntry, offset)),
                64,
                Refusal::Place,
            ),
            (
                in_entry(offset_of!(SessionEntry, offset) + 7),
                0xff,
                Refusal::Place,
            ),
            (
                in_entry(offset_of!(SessionEntry, length)),
                65,
                Refusal::Place,
            ),
            (
                in_entry(offset_of!(SessionEntry, length) + 7),
                0xff,
                Refusal::Place,
            ),
        ] {
            let mut before = [0];
            memory.read(offset, &mut before)?;
            memory.write(offset, &[value])?;
            assert_eq!(refusal(), Some(expected));
            memory.write(offset, &before)?;
        }
        // What is not in force may say anything.
        memory.write(other + 8, &[0xff; 1000])?;
        assert_eq!(refusal(), None);
        memory.store(other, table.generation)?;
        assert_eq!(refusal(), Some(Refusal::Generation));
        Ok(())
    }
}
