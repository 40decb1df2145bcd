// SPDX-License-Identifier: GPL-2.0

//! Room in a list that is guarded by a lock under which nothing is allocated.
//!
//! Who wants to add to such a list asks under the lock what it lacks, allocates that without the
//! lock, and gives it to the list under the lock again; see `Subsystem::lock_with_room()`. Pure, no
//! lock of its own.

// `pub`, not `pub(crate)`: in the test workspace the file is a library's.
#![allow(unreachable_pub)]

use kernel::prelude::*;

/// The capacity that the list has to have before `more` entries can be added without an allocation;
/// `None` if it is large enough.
pub fn lacks<T>(list: &KVec<T>, more: usize) -> Option<usize> {
    let needed = list.len().saturating_add(more);
    (needed > list.capacity()).then(|| needed.next_power_of_two())
}

/// Moves the list to `larger`, which is empty, if that has more room.
pub fn adopt<T>(list: &mut KVec<T>, larger: KVec<T>) {
    if larger.capacity() > list.capacity() {
        for entry in core::mem::replace(list, larger) {
            // There is room: it is larger.
            let _ = list.push_within_capacity(entry);
        }
    }
}

#[cfg(CONFIG_MULTIKERNEL_KUNIT_TEST)]
#[kunit_tests(multikernel_room)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_lacks_room_gets_it() -> Result {
        let mut list = KVec::new();
        assert_eq!(lacks(&list, 0), None);
        assert_eq!(lacks(&list, 3), Some(4));
        adopt(&mut list, KVec::with_capacity(4, GFP_KERNEL)?);
        assert!(list.push_within_capacity('a').is_ok());
        assert!(list.push_within_capacity('b').is_ok());
        assert_eq!(lacks(&list, 2), None);
        assert_eq!(lacks(&list, 7), Some(16));
        adopt(&mut list, KVec::with_capacity(16, GFP_KERNEL)?);
        assert_eq!(&*list, &['a', 'b']);
        assert_eq!(lacks(&list, 14), None);
        Ok(())
    }

    #[test]
    fn what_is_no_larger_is_not_taken() -> Result {
        let mut list = KVec::with_capacity(8, GFP_KERNEL)?;
        assert!(list.push_within_capacity(1).is_ok());
        adopt(&mut list, KVec::new());
        adopt(&mut list, KVec::with_capacity(8, GFP_KERNEL)?);
        assert_eq!(&*list, &[1]);
        assert_eq!(lacks(&list, 7), None);
        Ok(())
    }
}
