// SPDX-License-Identifier: GPL-2.0

//! Vectors with fallible allocation: `rust/kernel/alloc/kvec.rs`.

use core::{
    cell::Cell,
    fmt,
    marker::PhantomData,
    ops::{Deref, DerefMut}, //
};

/// No memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AllocError;

/// Allocation flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flags(());

/// The allocation flags there are.
pub mod flags {
    use super::Flags;

    /// May sleep.
    pub const GFP_KERNEL: Flags = Flags(());
}

thread_local! {
    static BEFORE_FAILURE: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Makes one allocation of this thread fail, from [`FailNth::after`] until it is dropped.
#[must_use = "it ends when it is dropped"]
pub struct FailNth {
    // The counter is the thread's, so this must stay on it.
    not_send: PhantomData<*const ()>,
}

impl FailNth {
    /// Lets `count` allocations succeed and the next one fail.
    pub fn after(count: usize) -> Self {
        BEFORE_FAILURE.set(Some(count));
        Self {
            not_send: PhantomData,
        }
    }

    /// Whether the allocation that was to fail was asked for.
    pub fn has_failed(&self) -> bool {
        BEFORE_FAILURE.get().is_none()
    }
}

impl Drop for FailNth {
    fn drop(&mut self) {
        BEFORE_FAILURE.set(None);
    }
}

fn allocate() -> Result<(), AllocError> {
    match BEFORE_FAILURE.get() {
        None => Ok(()),
        Some(0) => {
            BEFORE_FAILURE.set(None);
            Err(AllocError)
        }
        Some(count) => {
            BEFORE_FAILURE.set(Some(count - 1));
            Ok(())
        }
    }
}

/// The vector is full. Holds what was to be pushed.
pub struct PushError<T>(pub T);

impl<T> fmt::Debug for PushError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Not enough capacity")
    }
}

/// Why [`KVec::insert_within_capacity`] failed. Holds what was to be inserted.
pub enum InsertError<T> {
    /// The index is beyond the end.
    IndexOutOfBounds(T),
    /// The vector is full.
    OutOfCapacity(T),
}

impl<T> fmt::Debug for InsertError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IndexOutOfBounds(_) => "Index out of bounds",
            Self::OutOfCapacity(_) => "Not enough capacity",
        })
    }
}

/// The index is beyond the end.
#[derive(Debug)]
pub struct RemoveError;

/// A vector that never allocates unasked.
///
/// Its capacity is counted here and grows by no more than was asked for: one that `std` was
/// generous with would hide a missing reservation.
#[derive(Clone)]
pub struct KVec<T> {
    items: Vec<T>,
    capacity: usize,
}

impl<T> KVec<T> {
    /// An empty vector, without an allocation.
    pub const fn new() -> Self {
        Self {
            items: Vec::new(),
            capacity: 0,
        }
    }

    /// An empty vector with room.
    ///
    /// # Errors
    ///
    /// No memory.
    pub fn with_capacity(capacity: usize, flags: Flags) -> Result<Self, AllocError> {
        let mut this = Self::new();
        this.reserve(capacity, flags)?;
        Ok(this)
    }

    /// A vector of `count` elements that are all `item`.
    ///
    /// # Errors
    ///
    /// No memory.
    pub fn from_elem(item: T, count: usize, flags: Flags) -> Result<Self, AllocError>
    where
        T: Clone,
    {
        let mut this = Self::with_capacity(count, flags)?;
        this.items.resize(count, item);
        Ok(this)
    }

    /// Elements that fit without another allocation, those that are there included.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Makes room for `additional` elements more.
    ///
    /// # Errors
    ///
    /// No memory.
    pub fn reserve(&mut self, additional: usize, _flags: Flags) -> Result<(), AllocError> {
        let needed = self.items.len().checked_add(additional).ok_or(AllocError)?;
        if needed > self.capacity {
            allocate()?;
            self.items.try_reserve(additional).map_err(|_| AllocError)?;
            self.capacity = needed;
        }
        Ok(())
    }

    /// Appends an element.
    ///
    /// # Errors
    ///
    /// No memory.
    pub fn push(&mut self, item: T, flags: Flags) -> Result<(), AllocError> {
        self.reserve(1, flags)?;
        self.items.push(item);
        Ok(())
    }

    /// Appends an element if there is room.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn push_within_capacity(&mut self, item: T) -> Result<(), PushError<T>> {
        if self.items.len() >= self.capacity {
            return Err(PushError(item));
        }
        self.items.push(item);
        Ok(())
    }

    /// Inserts an element if there is room.
    ///
    /// # Errors
    ///
    /// There is none, or the index is beyond the end.
    pub fn insert_within_capacity(&mut self, index: usize, item: T) -> Result<(), InsertError<T>> {
        if index > self.items.len() {
            return Err(InsertError::IndexOutOfBounds(item));
        }
        if self.items.len() >= self.capacity {
            return Err(InsertError::OutOfCapacity(item));
        }
        self.items.insert(index, item);
        Ok(())
    }

    /// Takes the last element off.
    pub fn pop(&mut self) -> Option<T> {
        self.items.pop()
    }

    /// Takes an element out.
    ///
    /// # Errors
    ///
    /// The index is beyond the end.
    pub fn remove(&mut self, index: usize) -> Result<T, RemoveError> {
        if index >= self.items.len() {
            return Err(RemoveError);
        }
        Ok(self.items.remove(index))
    }

    /// Keeps those elements for which `keep` says so.
    pub fn retain(&mut self, keep: impl FnMut(&mut T) -> bool) {
        self.items.retain_mut(keep);
    }

    /// Shortens the vector.
    pub fn truncate(&mut self, length: usize) {
        self.items.truncate(length);
    }

    /// Drops all elements and keeps the room.
    pub fn clear(&mut self) {
        self.items.clear();
    }
}

impl<T> Default for KVec<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Deref for KVec<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.items
    }
}

impl<T> DerefMut for KVec<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.items
    }
}

impl<T: fmt::Debug> fmt::Debug for KVec<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.items.fmt(f)
    }
}

impl<T> IntoIterator for KVec<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.into_iter()
    }
}

impl<'a, T> IntoIterator for &'a KVec<T> {
    type Item = &'a T;
    type IntoIter = core::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.iter()
    }
}

impl<'a, T> IntoIterator for &'a mut KVec<T> {
    type Item = &'a mut T;
    type IntoIter = core::slice::IterMut<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.iter_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::{flags::GFP_KERNEL, *};

    #[test]
    fn room_is_what_was_asked_for() {
        let mut vec = KVec::with_capacity(2, GFP_KERNEL).unwrap();
        assert!(vec.push_within_capacity(1).is_ok());
        assert!(vec.insert_within_capacity(0, 0).is_ok());
        assert!(vec.push_within_capacity(2).is_err());
        assert!(vec.insert_within_capacity(1, 2).is_err());
        assert_eq!(&vec[..], &[0, 1]);
    }

    #[test]
    fn one_allocation_fails() {
        let fail = FailNth::after(1);
        let mut vec = KVec::with_capacity(1, GFP_KERNEL).unwrap();
        // There is room: not an allocation.
        assert_eq!(vec.push(1, GFP_KERNEL), Ok(()));
        assert!(!fail.has_failed());
        assert_eq!(vec.push(2, GFP_KERNEL), Err(AllocError));
        assert!(fail.has_failed());
        assert_eq!(vec.push(2, GFP_KERNEL), Ok(()));
        assert_eq!(vec.len(), 2);
    }
}
