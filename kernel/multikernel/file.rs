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
    prelude::*,
    str::CStr,
    sync::{aref::ARef, poll::PollTable}, //
};

/// What stands behind an anonymous file.
pub(crate) trait AnonFile: Send + Sync + Sized + 'static {
    /// Shown as `anon_inode:NAME` in `/proc/PID/fd`.
    const NAME: &'static CStr;

    /// An ioctl(2).
    ///
    /// # Errors
    ///
    /// The errno that the call fails with.
    fn ioctl(&self, _command: u32, _argument: usize) -> Result {
        Err(ENOTTY)
    }

    /// Physical address and size of what mmap(2) maps at offset 0. It stays what it is for as long
    /// as `self` lives.
    ///
    /// # Errors
    ///
    /// The errno that mmap(2) fails with.
    fn mapping(&self) -> Result<(u64, u64)> {
        Err(ENODEV)
    }

    /// read(2) of at most `bytes` bytes to a user address; `wait` unless it is to fail with
    /// `EAGAIN` instead.
    ///
    /// # Errors
    ///
    /// The errno that the call fails with.
    fn read(&self, address: usize, bytes: usize, wait: bool) -> Result<usize>;

    /// write(2), as [`Self::read`].
    ///
    /// # Errors
    ///
    /// The errno that the call fails with.
    fn write(&self, _address: usize, _bytes: usize, _wait: bool) -> Result<usize> {
        Err(EINVAL)
    }

    /// poll(2): what there is to do.
    fn poll(&self, file: &File, table: PollTable<'_>) -> u32;
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
        // SAFETY: The file is open during the call, and after it for as long as the mapping lives.
        let (base, size) = match unsafe { Self::data(file) }.mapping() {
            Ok(mapping) => mapping,
            Err(error) => return error.to_errno(),
        };
        // SAFETY: The VFS gives a valid area.
        let result = unsafe {
            let area = &mut *vma;
            let range = &area.__bindgen_anon_1.__bindgen_anon_1;
            let (start, length) = (range.vm_start, range.vm_end - range.vm_start);
            let flags = area.__bindgen_anon_2.vm_flags;
            if area.vm_pgoff != 0
                || length as u64 > size
                || flags & kernel::mm::virt::flags::SHARED == 0
            {
                return EINVAL.to_errno();
            }
            // Mapped pages are those of `data`, which the mapping's reference to the file keeps.
            to_result(bindings::remap_pfn_range(
                vma,
                start,
                (base / crate::memory::PAGE_SIZE) as usize,
                length,
                area.vm_page_prot,
            ))
        };
        match result {
            Ok(()) => 0,
            Err(error) => error.to_errno(),
        }
    }
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
    let data = KBox::into_raw(KBox::new(data, GFP_KERNEL)?);
    // SAFETY: Name and table are static; on success the file owns `data`.
    let file = from_err_ptr(unsafe {
        bindings::anon_inode_getfile(
            T::NAME.as_char_ptr(),
            &Operations::<T>::TABLE,
            data.cast(),
            (bindings::O_RDWR | bindings::O_CLOEXEC) as i32,
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
