// SPDX-License-Identifier: GPL-2.0

//! A log of fixed size that many read, each at a pace of its own.
//!
//! The writer never waits: it overwrites what is oldest. A reader has a [`Cursor`] and is told how
//! many of its entries it has missed. It follows either everything or one subject; for that every
//! entry carries two numbers, which count the log's entries and those about its subject.
//!
//! Pure: no lock of its own, no allocation but that of the log itself.

use kernel::prelude::*;

/// One entry.
#[derive(Clone, Copy)]
struct Entry<T> {
    subject: u64,
    /// Counts the entries of the log, from 1.
    sequence: u64,
    /// Counts the entries about the same subject, from 1.
    number: u64,
    value: T,
}

/// The log, which keeps the latest `CAPACITY` entries, a power of two.
pub(crate) struct Log<T, const CAPACITY: usize> {
    /// As a ring: the entry of sequence number `n` is at `(n - 1) % CAPACITY`.
    ring: KVec<Entry<T>>,
    /// The sequence number of the latest entry, 0 if there is none.
    latest: u64,
}

/// Where a reader is, and what it follows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    /// `None` for all.
    pub(crate) subject: Option<u64>,
    /// The number of the entry that it expects next: of its subject, or of the log.
    pub(crate) expected: u64,
}

impl Cursor {
    /// Follows one subject, from the entry behind the one of that number.
    pub(crate) fn of_subject(subject: u64, number: u64) -> Self {
        Self {
            subject: Some(subject),
            expected: number.saturating_add(1),
        }
    }
}

/// What a reader gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Item<T> {
    /// Counts the entries of the log, from 1.
    pub(crate) sequence: u64,
    /// How many entries before it the reader has missed.
    pub(crate) lost: u64,
    pub(crate) value: T,
}

impl<T: Copy, const CAPACITY: usize> Log<T, CAPACITY> {
    /// Makes an empty log.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Self> {
        const { assert!(CAPACITY.is_power_of_two()) };
        Ok(Self {
            ring: KVec::with_capacity(CAPACITY, GFP_KERNEL)?,
            latest: 0,
        })
    }

    /// Where the next entry goes: the place of the oldest one, once there are so many.
    fn place(&self) -> usize {
        self.latest as usize & (CAPACITY - 1)
    }

    /// Adds an entry, the subject's `number`th.
    pub(crate) fn add(&mut self, subject: u64, number: u64, value: T) {
        let entry = Entry {
            subject,
            sequence: self.latest + 1,
            number,
            value,
        };
        let place = self.place();
        match self.ring.get_mut(place) {
            Some(oldest) => *oldest = entry,
            // Until it has been filled once, that place is its length.
            None => {
                if self.ring.push_within_capacity(entry).is_err() {
                    return;
                }
            }
        }
        self.latest += 1;
    }

    /// A cursor that follows everything, from the next entry on.
    pub(crate) fn follow_all(&self) -> Cursor {
        Cursor {
            subject: None,
            expected: self.latest + 1,
        }
    }

    /// The next entry for a reader, whose cursor stays where it is.
    fn find(&self, cursor: &Cursor) -> Option<(&Entry<T>, u64)> {
        let (newer, older) = self
            .ring
            .split_at_checked(self.place())
            .unwrap_or((&[], &self.ring));
        Iterator::chain(older.iter(), newer.iter())
            .filter_map(|entry| match cursor.subject {
                None => Some((entry, entry.sequence)),
                Some(subject) => (entry.subject == subject).then_some((entry, entry.number)),
            })
            .find(|&(_, number)| number >= cursor.expected)
    }

    /// Whether there is an entry for a reader.
    pub(crate) fn has_next(&self, cursor: &Cursor) -> bool {
        self.find(cursor).is_some()
    }

    /// The next entry for a reader, whose cursor moves behind it.
    pub(crate) fn next(&self, cursor: &mut Cursor) -> Option<Item<T>> {
        let (entry, number) = self.find(cursor)?;
        let item = Item {
            sequence: entry.sequence,
            lost: number - cursor.expected,
            value: entry.value,
        };
        cursor.expected = number + 1;
        Some(item)
    }
}

#[cfg(CONFIG_MULTIKERNEL_KUNIT_TEST)]
#[kunit_tests(multikernel_event_log)]
mod tests {
    use super::*;

    fn item(sequence: u64, lost: u64, value: char) -> Option<Item<char>> {
        Some(Item {
            sequence,
            lost,
            value,
        })
    }

    #[test]
    fn everybody_reads_everything() -> Result {
        let mut log = Log::<_, 4>::new()?;
        let mut early = log.follow_all();
        assert_eq!(log.next(&mut early), None);
        log.add(7, 1, 'a');
        let mut late = log.follow_all();
        log.add(8, 1, 'b');
        assert!(log.has_next(&early));
        assert_eq!(log.next(&mut early), item(1, 0, 'a'));
        assert_eq!(log.next(&mut early), item(2, 0, 'b'));
        assert!(!log.has_next(&early));
        assert_eq!(log.next(&mut late), item(2, 0, 'b'));
        assert_eq!(log.next(&mut late), None);
        Ok(())
    }

    #[test]
    fn one_subject_only() -> Result {
        let mut log = Log::<_, 8>::new()?;
        log.add(7, 1, 'a');
        let mut cursor = Cursor::of_subject(7, 1);
        log.add(8, 1, 'x');
        assert!(!log.has_next(&cursor));
        log.add(7, 2, 'b');
        log.add(8, 2, 'y');
        log.add(7, 3, 'c');
        assert_eq!(log.next(&mut cursor), item(3, 0, 'b'));
        assert_eq!(log.next(&mut cursor), item(5, 0, 'c'));
        assert_eq!(log.next(&mut cursor), None);
        Ok(())
    }

    #[test]
    fn what_was_overwritten_is_counted() -> Result {
        let mut log = Log::<_, 4>::new()?;
        let mut all = log.follow_all();
        let mut one = Cursor::of_subject(1, 0);
        for (number, value) in ['a', 'b', 'c', 'd', 'e', 'f', 'g'].into_iter().enumerate() {
            log.add(number as u64 % 2, number as u64 / 2 + 1, value);
        }
        // Kept: d (1), e (0), f (1), g (0).
        assert_eq!(log.next(&mut all), item(4, 3, 'd'));
        assert_eq!(log.next(&mut all), item(5, 0, 'e'));
        assert_eq!(log.next(&mut one), item(4, 1, 'd'));
        assert_eq!(log.next(&mut one), item(6, 0, 'f'));
        assert_eq!(log.next(&mut one), None);
        assert_eq!(log.next(&mut all), item(6, 0, 'f'));
        assert_eq!(log.next(&mut all), item(7, 0, 'g'));
        assert_eq!(log.next(&mut all), None);
        Ok(())
    }
}
