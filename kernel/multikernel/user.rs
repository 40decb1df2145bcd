// SPDX-License-Identifier: GPL-2.0

//! Copying extensible structures from and to user space.
//!
//! The form is that of `include/uapi/linux/liveupdate.h`: the first field is the structure's size
//! as the caller knows it, and what this kernel does not know must be zero. No state, no lock.

use core::mem::size_of;

use kernel::{
    prelude::*,
    uaccess::UserSlice,
    uapi, //
};

/// Structures without padding of which every bit pattern is a value.
///
/// # Safety
///
/// The type is `#[repr(C)]`, made of integers and arrays of them only, and has no padding.
pub(crate) unsafe trait Plain: Copy {}

// SAFETY: Laid out in include/uapi/linux/multikernel.h, of fixed-width integers in natural
// alignment without gaps.
unsafe impl Plain for uapi::multikernel_ioctl_host_info {}
// SAFETY: As above.
unsafe impl Plain for uapi::multikernel_ioctl_pool {}
// SAFETY: As above.
unsafe impl Plain for uapi::multikernel_ioctl_list {}
// SAFETY: As above.
unsafe impl Plain for uapi::multikernel_ioctl_create {}
// SAFETY: As above.
unsafe impl Plain for uapi::multikernel_ioctl_open {}
// SAFETY: As above.
unsafe impl Plain for uapi::multikernel_ioctl_get_info {}
// SAFETY: As above.
unsafe impl Plain for uapi::multikernel_ioctl_start {}
// SAFETY: As above.
unsafe impl Plain for uapi::multikernel_ioctl_stop {}
// SAFETY: As above.
unsafe impl Plain for uapi::multikernel_ioctl_simple {}
// SAFETY: As above.
unsafe impl Plain for uapi::multikernel_ioctl_read_memory {}
// SAFETY: As above.
unsafe impl Plain for uapi::multikernel_ioctl_events {}
// SAFETY: As above.
unsafe impl Plain for uapi::multikernel_ioctl_call {}
// SAFETY: As above.
unsafe impl Plain for uapi::multikernel_ioctl_open_port {}
// SAFETY: As above.
unsafe impl Plain for uapi::multikernel_ioctl_link_stats {}
// SAFETY: As above.
unsafe impl Plain for uapi::multikernel_link_lane {}
// SAFETY: As above.
unsafe impl Plain for uapi::multikernel_link_cpu {}
// SAFETY: As above.
unsafe impl Plain for uapi::multikernel_ioctl_connect {}
// SAFETY: As above.
unsafe impl Plain for uapi::multikernel_ioctl_add_cpus {}
// SAFETY: As above.
unsafe impl Plain for uapi::multikernel_ioctl_exchange_names {}
// SAFETY: As above.
unsafe impl Plain for uapi::multikernel_link {}
// SAFETY: As above.
unsafe impl Plain for uapi::multikernel_ioctl_map_port {}
// SAFETY: As above.
unsafe impl Plain for uapi::multikernel_ioctl_arena_create {}
// SAFETY: As above.
unsafe impl Plain for uapi::multikernel_ioctl_arena_open {}
// SAFETY: As above.
unsafe impl Plain for uapi::multikernel_ioctl_arena_remove {}
// SAFETY: As above.
unsafe impl Plain for uapi::multikernel_ioctl_arena_grant {}
// SAFETY: As above.
unsafe impl Plain for uapi::multikernel_ioctl_arena_resize {}
// SAFETY: As above.
unsafe impl Plain for uapi::multikernel_arena {}
// SAFETY: As above.
unsafe impl Plain for uapi::multikernel_arena_grant {}
// SAFETY: As above.
unsafe impl Plain for uapi::multikernel_ioctl_session {}
// SAFETY: As above.
unsafe impl Plain for uapi::multikernel_ioctl_session_entry {}
// SAFETY: As above.
unsafe impl Plain for uapi::multikernel_ioctl_session_offer {}
// SAFETY: As above.
unsafe impl Plain for uapi::multikernel_ioctl_session_step {}
// SAFETY: As above.
unsafe impl Plain for uapi::multikernel_session {}
// SAFETY: As above.
unsafe impl Plain for uapi::multikernel_session_entry {}
// SAFETY: As above.
unsafe impl Plain for uapi::multikernel_event {}
// SAFETY: As above.
unsafe impl Plain for uapi::multikernel_cpu {}
// SAFETY: As above.
unsafe impl Plain for uapi::multikernel_range {}
// SAFETY: Four 64-bit integers.
unsafe impl Plain for crate::image::Segment {}
// SAFETY: An integer.
unsafe impl Plain for u32 {}

fn bytes_of<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: A `Plain` value has no padding, so that all its bytes are initialised.
    unsafe { core::slice::from_raw_parts(core::ptr::from_ref(value).cast(), size_of::<T>()) }
}

fn bytes_of_mut<T: Plain>(value: &mut T) -> &mut [u8] {
    // SAFETY: As in `bytes_of`; any bytes are a value of the type.
    unsafe { core::slice::from_raw_parts_mut(core::ptr::from_mut(value).cast(), size_of::<T>()) }
}

/// A value of zero bytes.
pub(crate) fn zeroed<T: Plain>() -> T {
    // SAFETY: Every bit pattern of a `Plain` type is a value.
    unsafe { core::mem::zeroed() }
}

/// A structure in user memory, with the size that its owner gave it.
pub(crate) struct UserStruct<T> {
    /// What was read.
    pub(crate) value: T,
    address: usize,
    size: usize,
}

impl<T: Plain> UserStruct<T> {
    /// Reads the structure at a user address. Its first field is its size.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it is smaller than the first version, which is all of `T`; `E2BIG` if it has
    /// something that is not zero beyond `T`, or is larger than a page; `EFAULT`.
    pub(crate) fn read(address: usize) -> Result<Self> {
        let mut size: u32 = 0;
        UserSlice::new(UserPtr::from_addr(address), size_of::<u32>())
            .reader()
            .read_slice(bytes_of_mut(&mut size))?;
        let size = size as usize;
        if size < size_of::<T>() {
            return Err(EINVAL);
        }
        if size > kernel::page::PAGE_SIZE {
            return Err(E2BIG);
        }
        let mut reader = UserSlice::new(UserPtr::from_addr(address), size).reader();
        let mut value = zeroed::<T>();
        reader.read_slice(bytes_of_mut(&mut value))?;
        let mut rest = [0u8; 64];
        while !reader.is_empty() {
            let part = reader.len().min(rest.len());
            let Some(rest) = rest.get_mut(..part) else {
                return Err(E2BIG);
            };
            reader.read_slice(rest)?;
            if rest.iter().any(|&byte| byte != 0) {
                return Err(E2BIG);
            }
        }
        Ok(Self {
            value,
            address,
            size,
        })
    }

    /// Writes the structure back, without changing its size.
    ///
    /// # Errors
    ///
    /// `EFAULT`.
    pub(crate) fn write(mut self) -> Result {
        let size = self.size as u32;
        if let Some(field) = bytes_of_mut(&mut self.value).get_mut(..size_of::<u32>()) {
            field.copy_from_slice(&size.to_ne_bytes());
        }
        UserSlice::new(UserPtr::from_addr(self.address), size_of::<T>())
            .writer()
            .write_slice(bytes_of(&self.value))
    }
}

/// Reads an array of `count` elements at a user address.
///
/// # Errors
///
/// `EINVAL` if there are none or more than `max`, `EFAULT`, `ENOMEM`.
pub(crate) fn read_array<T: Plain>(address: u64, count: u32, max: u32) -> Result<KVec<T>> {
    if count == 0 || count > max {
        return Err(EINVAL);
    }
    let mut items = KVec::with_capacity(count as usize, GFP_KERNEL)?;
    let bytes = size_of::<T>() * count as usize;
    let mut reader = UserSlice::new(UserPtr::from_addr(address as usize), bytes).reader();
    for _ in 0..count {
        let mut item = zeroed::<T>();
        reader.read_slice(bytes_of_mut(&mut item))?;
        items.push(item, GFP_KERNEL)?;
    }
    Ok(items)
}

/// Writes as many of `items` to the array of `room` elements at a user address as fit, and returns
/// how many items there are.
///
/// # Errors
///
/// `EFAULT`.
pub(crate) fn write_array<T: Plain>(address: u64, room: u32, items: &[T]) -> Result<u32> {
    let count = items.len().min(room as usize);
    let mut writer =
        UserSlice::new(UserPtr::from_addr(address as usize), size_of::<T>() * count).writer();
    for item in items.iter().take(count) {
        writer.write_slice(bytes_of(item))?;
    }
    Ok(items.len() as u32)
}

/// The size that elements of an array have for the caller, if it can be: what is beyond `T` will be
/// zero.
///
/// # Errors
///
/// `EINVAL` if it is smaller than the first version, which is all of `T`, or no multiple of 8;
/// `E2BIG` if it is larger than a page.
pub(crate) fn check_element<T: Plain>(size: u32) -> Result {
    if (size as usize) < size_of::<T>() || size % 8 != 0 {
        return Err(EINVAL);
    }
    if size as usize > kernel::page::PAGE_SIZE {
        return Err(E2BIG);
    }
    Ok(())
}

/// As [`write_array`], of elements that have `size` bytes for the caller, which has passed
/// [`check_element`].
///
/// # Errors
///
/// `EFAULT`.
pub(crate) fn write_sized_array<T: Plain>(
    address: u64,
    room: u32,
    size: u32,
    items: &[T],
) -> Result<u32> {
    const ZEROES: [u8; 64] = [0; 64];

    let count = items.len().min(room as usize);
    let bytes = (size as usize).checked_mul(count).ok_or(EFAULT)?;
    let mut writer = UserSlice::new(UserPtr::from_addr(address as usize), bytes).writer();
    for item in items.iter().take(count) {
        writer.write_slice(bytes_of(item))?;
        let mut rest = (size as usize).saturating_sub(size_of::<T>());
        while rest > 0 {
            let part = rest.min(ZEROES.len());
            writer.write_slice(ZEROES.get(..part).unwrap_or_default())?;
            rest -= part;
        }
    }
    Ok(items.len() as u32)
}
