// SPDX-License-Identifier: GPL-2.0

//! A file of a process, a memfd for example, that this kernel reads or writes for it.
//!
//! A safe face on `kernel_read()` and `kernel_write()`. No state, no lock.

#[cfg(CONFIG_LIVEUPDATE)]
use core::ptr::NonNull;

#[cfg(CONFIG_LIVEUPDATE)]
use kernel::error::from_err_ptr;
use kernel::{
    bindings,
    fs::{
        file::flags::{
            O_ACCMODE,
            O_RDONLY,
            O_RDWR,
            O_WRONLY, //
        },
        LocalFile, //
    },
    prelude::*,
    sync::aref::ARef, //
};

/// An open file.
pub(crate) struct PlainFile(ARef<LocalFile>);

/// What a call returned that gives a number of bytes or an errno.
fn bytes(count: isize) -> Result<usize> {
    // CAST: An errno is small.
    usize::try_from(count).map_err(|_| Error::from_errno(count as i32))
}

impl PlainFile {
    /// The file of a descriptor of the calling process, to be read.
    ///
    /// # Errors
    ///
    /// `EBADF`, also if it was not opened to be read.
    pub(crate) fn to_read(fd: i32) -> Result<Self> {
        Self::of_descriptor(fd, O_RDONLY)
    }

    /// As [`Self::to_read`], to be written.
    ///
    /// # Errors
    ///
    /// `EBADF`, also if it was not opened to be written; `EINVAL` if it is no regular file: writing
    /// to others may take for ever.
    pub(crate) fn to_write(fd: i32) -> Result<Self> {
        let this = Self::of_descriptor(fd, O_WRONLY)?;
        this.size()?;
        Ok(this)
    }

    /// The file that is preserved with this token in the session of `/dev/liveupdate` that the
    /// descriptor is of, to be read. It stays preserved.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the descriptor is not of such a session; `ENOENT` if there is no such file;
    /// else as [`Self::to_read`].
    #[cfg(CONFIG_LIVEUPDATE)]
    pub(crate) fn preserved(fd: i32, token: u64) -> Result<Self> {
        let session = Self::fget(fd)?;
        // SAFETY: The reference keeps the file, whatever file it is.
        let file = unsafe { bindings::liveupdate_session_get_file(session.as_ptr(), token) };
        let file = NonNull::new(from_err_ptr(file)?).ok_or(ENOENT)?;
        // SAFETY: It came with a reference, which is handed on. Nobody moves the position of a
        // file by this reference.
        let file = unsafe { ARef::<LocalFile>::from_raw(file.cast()) };
        Self::opened_for(file, O_RDONLY)
    }

    /// There are no such sessions.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP`
    #[cfg(not(CONFIG_LIVEUPDATE))]
    pub(crate) fn preserved(_fd: i32, _token: u64) -> Result<Self> {
        Err(EOPNOTSUPP)
    }

    fn fget(fd: i32) -> Result<ARef<LocalFile>> {
        let fd = u32::try_from(fd).map_err(|_| EBADF)?;
        Ok(LocalFile::fget(fd)?)
    }

    fn of_descriptor(fd: i32, access: u32) -> Result<Self> {
        Self::opened_for(Self::fget(fd)?, access)
    }

    /// `kernel_read()` and `kernel_write()` warn of a file that was not opened for it.
    fn opened_for(file: ARef<LocalFile>, access: u32) -> Result<Self> {
        if ![access, O_RDWR].contains(&(file.flags() & O_ACCMODE)) {
            return Err(EBADF);
        }
        Ok(Self(file))
    }

    /// How many bytes it has now.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it is no regular file.
    pub(crate) fn size(&self) -> Result<u64> {
        // SAFETY: The reference keeps the file.
        let size = unsafe { bindings::multikernel_file_size(self.0.as_ptr()) };
        u64::try_from(size).map_err(|_| EINVAL)
    }

    /// Reads from `position` on until `to` is full.
    ///
    /// # Errors
    ///
    /// `EBUSY` if it has fewer bytes by now; what reading fails with.
    pub(crate) fn read_at(&self, position: u64, to: &mut [u8]) -> Result {
        let mut done = 0;
        while let Some(rest) = to.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let (length, rest) = (rest.len(), rest.as_mut_ptr().cast());
            // CAST: Sizes of files are below `i64::MAX`.
            let mut position = (position + done as u64) as bindings::loff_t;
            // SAFETY: The reference keeps the file, and `rest` has room for so many bytes.
            let count =
                unsafe { bindings::kernel_read(self.0.as_ptr(), rest, length, &mut position) };
            match bytes(count)? {
                0 => return Err(EBUSY),
                count => done += count,
            }
        }
        Ok(())
    }

    /// Writes all of `from` from `position` on.
    ///
    /// # Errors
    ///
    /// What writing fails with.
    pub(crate) fn write_at(&self, position: u64, from: &[u8]) -> Result {
        let mut done = 0;
        while let Some(rest) = from.get(done..).filter(|rest| !rest.is_empty()) {
            // CAST: As above.
            let mut position = (position + done as u64) as bindings::loff_t;
            let (length, rest) = (rest.len(), rest.as_ptr().cast());
            // SAFETY: The reference keeps the file, and `rest` has so many bytes.
            let count =
                unsafe { bindings::kernel_write(self.0.as_ptr(), rest, length, &mut position) };
            match bytes(count)? {
                0 => return Err(ENOSPC),
                count => done += count,
            }
        }
        Ok(())
    }
}
