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
        self,
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

    /// An ioctl(2).
    ///
    /// # Errors
    ///
    /// The errno that the call fails with.
    fn ioctl(&self, _command: u32, _argument: usize) -> Result {
        Err(ENOTTY)
    }

    /// What mmap(2) of so many bytes maps at an offset, both multiples of a page: its physical
    /// address. All of these bytes stay what they are for as long as `self` lives.
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
        // SAFETY: The VFS gives a valid area, which nobody else sees yet.
        let area = unsafe { VmaNew::from_raw(vma) };
        // SAFETY: The file is open during the call, and after it for as long as the mapping lives.
        let data = unsafe { Self::data(file) };
        // SAFETY: As above.
        let (page, protection) = unsafe { ((*vma).vm_pgoff, (*vma).vm_page_prot) };
        let length = area.end() - area.start();
        let result = (|| {
            if area.flags() & virt::flags::SHARED == 0 {
                return Err(EINVAL);
            }
            let offset = (page as u64).checked_mul(PAGE_SIZE).ok_or(EINVAL)?;
            let base = data.mapping(offset, length as u64)?;
            if T::OF_ONE_PROCESS {
                area.set_dontcopy();
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
