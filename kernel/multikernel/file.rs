// SPDX-License-Identifier: GPL-2.0

//! File descriptors without a name: what an instance fd is made of.
//!
//! A safe face on `anon_inode_getfile()`: a type that implements [`AnonFile`] can be put behind a
//! file descriptor and gets the calls on it. No state, no lock.

use core::marker::PhantomData;

use kernel::{
    bindings,
    error::{from_err_ptr, to_result},
    fs::file::{File, FileDescriptorReservation},
    mm::virt::{
        flags,
        VmaNew, //
    },
    prelude::*,
    str::CStr,
    sync::{aref::ARef, poll::PollTable}, //
};

use crate::memory::PAGE_SIZE;

/// What stands behind an anonymous file.
pub(crate) trait AnonFile: Send + Sync + Sized + 'static {
    /// Shown as `anon_inode:NAME` in `/proc/PID/fd`.
    const NAME: &'static CStr;

    /// Whether what mmap(2) maps is for one process alone: fork(2) leaves it out.
    const OF_ONE_PROCESS: bool = false;

    /// Whether mmap(2) maps the pages when they are touched, in large pages where addresses allow
    /// it; if not, all at once.
    const MAPPED_WHEN_TOUCHED: bool = false;

    /// Whether the file is open for writing, which a mapping needs to be writable.
    fn writable(&self) -> bool {
        true
    }

    /// An ioctl(2).
    ///
    /// # Errors
    ///
    /// The errno that the call fails with.
    fn ioctl(&self, _command: u32, _argument: usize) -> Result {
        Err(ENOTTY)
    }

    /// What mmap(2) of so many bytes maps at an offset, both multiples of a page: its physical
    /// address. All of these bytes stay what they are for as long as `self` lives; so does the
    /// memory there, which is this kernel's, or is mapped by it in the same way.
    ///
    /// Of a file that is mapped when touched it is asked for the whole mapping, and then for each
    /// page.
    ///
    /// # Errors
    ///
    /// The errno that mmap(2) fails with.
    fn mapping(&self, _offset: u64, _bytes: u64) -> Result<u64> {
        Err(ENODEV)
    }

    /// read(2) of at most `bytes` bytes to a user address; `wait` unless it is to fail with
    /// `EAGAIN` instead.
    ///
    /// # Errors
    ///
    /// The errno that the call fails with.
    fn read(&self, _address: usize, _bytes: usize, _wait: bool) -> Result<usize> {
        Err(EINVAL)
    }

    /// write(2), as [`Self::read`].
    ///
    /// # Errors
    ///
    /// The errno that the call fails with.
    fn write(&self, _address: usize, _bytes: usize, _wait: bool) -> Result<usize> {
        Err(EINVAL)
    }

    /// poll(2): what there is to do.
    fn poll(&self, _file: &File, _table: PollTable<'_>) -> u32 {
        // As of files that have no poll(2) of their own.
        bindings::POLLIN | bindings::POLLOUT | bindings::POLLRDNORM | bindings::POLLWRNORM
    }
}

struct Operations<T>(PhantomData<T>);

impl<T: AnonFile> Operations<T> {
    const TABLE: bindings::file_operations = bindings::file_operations {
        release: Some(Self::release),
        read: Some(Self::read),
        write: Some(Self::write),
        poll: Some(Self::poll),
        unlocked_ioctl: Some(Self::ioctl),
        mmap: Some(Self::mmap),
        // So that large pages can be used.
        #[cfg(CONFIG_TRANSPARENT_HUGEPAGE)]
        get_unmapped_area: if T::MAPPED_WHEN_TOUCHED {
            Some(bindings::thp_get_unmapped_area)
        } else {
            None
        },
        ..pin_init::zeroed()
    };

    /// Of a mapping whose pages are mapped when they are touched.
    const AREA: bindings::vm_operations_struct = bindings::vm_operations_struct {
        fault: Some(Self::fault),
        #[cfg(CONFIG_TRANSPARENT_HUGEPAGE)]
        huge_fault: Some(Self::huge_fault),
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// `file` was made by [`open`] for the same `T` and has not been released.
    unsafe fn data<'a>(file: *mut bindings::file) -> &'a T {
        // SAFETY: `open` put a `KBox<T>` there, which only `release` takes out again.
        unsafe { &*(*file).private_data.cast::<T>() }
    }

    /// # Safety
    ///
    /// Called by the VFS, once, at the end of a file that [`open`] made for the same `T`.
    unsafe extern "C" fn release(
        _inode: *mut bindings::inode,
        file: *mut bindings::file,
    ) -> kernel::ffi::c_int {
        // SAFETY: The last use of what `open` put there.
        drop(unsafe { KBox::<T>::from_raw((*file).private_data.cast()) });
        0
    }

    /// # Safety
    ///
    /// Called by the VFS on a file that [`open`] made for the same `T`.
    unsafe extern "C" fn read(
        file: *mut bindings::file,
        buffer: *mut kernel::ffi::c_char,
        count: usize,
        _position: *mut bindings::loff_t,
    ) -> isize {
        // SAFETY: The file is open during the call.
        let (data, flags) = unsafe { (Self::data(file), (*file).f_flags) };
        let wait = flags & bindings::O_NONBLOCK == 0;
        match data.read(buffer.addr(), count, wait) {
            // CAST: At most what one batch of events or one message takes.
            Ok(bytes) => bytes as isize,
            Err(error) => error.to_errno() as isize,
        }
    }

    /// # Safety
    ///
    /// Called by the VFS on a file that [`open`] made for the same `T`.
    unsafe extern "C" fn write(
        file: *mut bindings::file,
        buffer: *const kernel::ffi::c_char,
        count: usize,
        _position: *mut bindings::loff_t,
    ) -> isize {
        // SAFETY: The file is open during the call.
        let (data, flags) = unsafe { (Self::data(file), (*file).f_flags) };
        let wait = flags & bindings::O_NONBLOCK == 0;
        match data.write(buffer.addr(), count, wait) {
            // CAST: At most what one message takes.
            Ok(bytes) => bytes as isize,
            Err(error) => error.to_errno() as isize,
        }
    }

    /// # Safety
    ///
    /// Called by the VFS on a file that [`open`] made for the same `T`.
    unsafe extern "C" fn poll(
        file: *mut bindings::file,
        table: *mut bindings::poll_table,
    ) -> bindings::__poll_t {
        // SAFETY: The file is open during the call, which is all that is needed of it; the table is
        // valid or null.
        unsafe {
            let data = Self::data(file);
            let table = PollTable::from_raw(table);
            data.poll(File::from_raw_file(file.cast_const()), table)
        }
    }

    /// # Safety
    ///
    /// Called by the VFS on a file that [`open`] made for the same `T`.
    unsafe extern "C" fn ioctl(
        file: *mut bindings::file,
        command: kernel::ffi::c_uint,
        argument: kernel::ffi::c_ulong,
    ) -> kernel::ffi::c_long {
        // SAFETY: The file is open during the call.
        let data = unsafe { Self::data(file) };
        match data.ioctl(command, argument) {
            Ok(()) => 0,
            Err(error) => error.to_errno() as kernel::ffi::c_long,
        }
    }

    /// # Safety
    ///
    /// Called by the VFS on a file that [`open`] made for the same `T`, with a `vma` that is being
    /// set up.
    unsafe extern "C" fn mmap(
        file: *mut bindings::file,
        vma: *mut bindings::vm_area_struct,
    ) -> kernel::ffi::c_int {
        // SAFETY: The VFS gives a valid area, which nobody else sees yet.
        let area = unsafe { VmaNew::from_raw(vma) };
        // SAFETY: The file is open during the call, and after it for as long as the mapping lives.
        let data = unsafe { Self::data(file) };
        // SAFETY: As above.
        let (page, protection) = unsafe { ((*vma).vm_pgoff, (*vma).vm_page_prot) };
        let length = area.end() - area.start();
        let result = (|| {
            // VM_SHARED is for what is open for writing.
            let shared = if T::MAPPED_WHEN_TOUCHED {
                flags::MAYSHARE
            } else {
                flags::SHARED
            };
            if area.flags() & shared == 0 {
                return Err(EINVAL);
            }
            let offset = (page as u64).checked_mul(PAGE_SIZE).ok_or(EINVAL)?;
            let base = data.mapping(offset, length as u64)?;
            if T::OF_ONE_PROCESS {
                area.set_dontcopy();
            }
            if T::MAPPED_WHEN_TOUCHED {
                // SAFETY: The area is being set up, and nobody else sees it. The flags are those
                // of remap_pfn_range(), whose way this is, page by page.
                unsafe {
                    (*vma).__bindgen_anon_2.vm_flags |=
                        flags::IO | flags::PFNMAP | flags::DONTEXPAND | flags::DONTDUMP;
                    (*vma).vm_ops = const { &Self::AREA };
                }
                return Ok(());
            }
            // SAFETY: The area is being set up. Mapped pages are those of `data`, which the
            // mapping's reference to the file keeps.
            to_result(unsafe {
                bindings::remap_pfn_range(
                    vma,
                    area.start(),
                    (base / PAGE_SIZE) as usize,
                    length,
                    protection,
                )
            })
        })();
        match result {
            Ok(()) => 0,
            Err(error) => error.to_errno(),
        }
    }

    /// The page frame of an address in a mapping, where `pages` from it on are all in the mapping
    /// and in the file; of several pages, the address is that of the first, and both are aligned to
    /// their size.
    ///
    /// # Safety
    ///
    /// `area` is a mapping of a file that [`open`] made for the same `T`.
    unsafe fn frame(
        area: &bindings::vm_area_struct,
        address: usize,
        pages: usize,
    ) -> Option<usize> {
        // SAFETY: Both of the union's fields are the same two numbers.
        let range = unsafe { &area.__bindgen_anon_1.__bindgen_anon_1 };
        let bytes = pages.checked_mul(PAGE_SIZE as usize)?;
        if address < range.vm_start || address.checked_add(bytes)? > range.vm_end {
            return None;
        }
        let first = area.vm_pgoff + (address - range.vm_start) / PAGE_SIZE as usize;
        let offset = (first as u64).checked_mul(PAGE_SIZE)?;
        // SAFETY: The mapping has a reference to the file.
        let base = unsafe { Self::data(area.vm_file) }.mapping(offset, bytes as u64);
        let frame = (base.ok()? / PAGE_SIZE) as usize;
        let aligned = (frame | (address / PAGE_SIZE as usize)) & (pages - 1) == 0;
        aligned.then_some(frame)
    }

    /// # Safety
    ///
    /// Called by the kernel's fault handling, on a mapping that `mmap` has set up.
    unsafe extern "C" fn fault(fault: *mut bindings::vm_fault) -> bindings::vm_fault_t {
        // SAFETY: Mapping and file stay during the call. The frame is one that the file's mapping
        // may have, and the mapping is one of bare frames.
        unsafe {
            let place = &(*fault).__bindgen_anon_1;
            match Self::frame(&*place.vma, place.address, 1) {
                Some(frame) => bindings::vmf_insert_pfn(place.vma, place.address, frame),
                None => bindings::vm_fault_reason_VM_FAULT_SIGBUS,
            }
        }
    }

    /// # Safety
    ///
    /// As for `fault`.
    #[cfg(CONFIG_TRANSPARENT_HUGEPAGE)]
    unsafe extern "C" fn huge_fault(
        fault: *mut bindings::vm_fault,
        order: kernel::ffi::c_uint,
    ) -> bindings::vm_fault_t {
        /// Of a large page: 2 MiB.
        const ORDER: u32 = 9;

        if order != ORDER {
            return bindings::vm_fault_reason_VM_FAULT_FALLBACK;
        }
        // SAFETY: As in `fault`; `frame` has checked that the whole large page is in both.
        unsafe {
            let place = &(*fault).__bindgen_anon_1;
            let address = place.address & !((PAGE_SIZE as usize) << ORDER).wrapping_sub(1);
            let write = (*fault).flags & bindings::fault_flag_FAULT_FLAG_WRITE != 0;
            match Self::frame(&*place.vma, address, 1 << ORDER) {
                Some(frame) => bindings::vmf_insert_pfn_pmd(fault, frame, write),
                None => bindings::vm_fault_reason_VM_FAULT_FALLBACK,
            }
        }
    }
}

/// What [`AnonFile::mapping`] says of a file that is `size` bytes from the physical address `base`
/// on.
///
/// # Errors
///
/// `EINVAL` if not all of them are in it.
pub(crate) fn part(base: u64, size: u64, offset: u64, bytes: u64) -> Result<u64> {
    if offset.checked_add(bytes).is_none_or(|end| end > size) {
        return Err(EINVAL);
    }
    Ok(base + offset)
}

/// A file that has a descriptor reserved and is not yet visible to the process.
pub(crate) struct NewFile {
    file: ARef<File>,
    descriptor: FileDescriptorReservation,
}

impl NewFile {
    /// The number of the descriptor.
    pub(crate) fn descriptor(&self) -> i32 {
        self.descriptor.reserved_fd() as i32
    }

    /// Makes the descriptor usable. Cannot fail, so it comes last.
    pub(crate) fn install(self) {
        self.descriptor.fd_install(self.file);
    }
}

/// Makes a file with `data` behind it, closed on exec.
///
/// # Errors
///
/// `ENOMEM`, `EMFILE`, `ENFILE`.
pub(crate) fn open<T: AnonFile>(data: T) -> Result<NewFile> {
    let descriptor = FileDescriptorReservation::get_unused_fd_flags(bindings::O_CLOEXEC)?;
    let access = if data.writable() {
        bindings::O_RDWR
    } else {
        bindings::O_RDONLY
    };
    let data = KBox::into_raw(KBox::new(data, GFP_KERNEL)?);
    // SAFETY: Name and table are static; on success the file owns `data`.
    let file = from_err_ptr(unsafe {
        bindings::anon_inode_getfile(
            T::NAME.as_char_ptr(),
            &Operations::<T>::TABLE,
            data.cast(),
            (access | bindings::O_CLOEXEC) as i32,
        )
    });
    let file = match file {
        Ok(file) => file,
        Err(error) => {
            // SAFETY: No file was made, so `data` is still ours.
            drop(unsafe { KBox::from_raw(data) });
            return Err(error);
        }
    };
    let file = core::ptr::NonNull::new(file).ok_or(ENOMEM)?;
    // SAFETY: The new file's only reference is passed on; nobody is in an fdget_pos region of it.
    let file = unsafe { ARef::from_raw(file.cast::<File>()) };
    Ok(NewFile { file, descriptor })
}
