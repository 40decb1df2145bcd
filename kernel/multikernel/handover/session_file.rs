// SPDX-License-Identifier: GPL-2.0

//! What user space asks for about sessions: on `/dev/multikernel`, and on the session fd.
//!
//! As `device.rs`, whose calls the first are too: every structure is copied once and checked for
//! form here. No state of its own, no lock.

use kernel::{
    prelude::*,
    str::CStr,
    sync::Arc,
    uaccess::UserSlice,
    uapi, //
};

use super::{
    abi::SESSION_BYTES_MAX,
    session::{
        Pages,
        Session, //
    },
    table::{
        Entry,
        Key,
        Kind, //
    }, //
};
use crate::{
    device::{
        check_capable,
        check_flags,
        command, //
    },
    file::{
        self,
        AnonFile,
        NewFile, //
    },
    foreign::SharedBytes,
    instance::Name,
    memory::let_others_run,
    plain_file::PlainFile,
    user::{
        self,
        UserStruct, //
    }, //
};

const CREATE: u32 = command(uapi::MULTIKERNEL_CMD_SESSION_CREATE);
const OPEN: u32 = command(uapi::MULTIKERNEL_CMD_SESSION_OPEN);
const ACCEPT: u32 = command(uapi::MULTIKERNEL_CMD_SESSION_ACCEPT);
const REMOVE: u32 = command(uapi::MULTIKERNEL_CMD_SESSION_REMOVE);
const PUT: u32 = command(uapi::MULTIKERNEL_CMD_SESSION_PUT);
const GET: u32 = command(uapi::MULTIKERNEL_CMD_SESSION_GET);
const DELETE: u32 = command(uapi::MULTIKERNEL_CMD_SESSION_DELETE);
const LIST_ENTRIES: u32 = command(uapi::MULTIKERNEL_CMD_SESSION_LIST_ENTRIES);
const OFFER: u32 = command(uapi::MULTIKERNEL_CMD_SESSION_OFFER);
const COMMIT: u32 = command(uapi::MULTIKERNEL_CMD_SESSION_COMMIT);
const ABORT: u32 = command(uapi::MULTIKERNEL_CMD_SESSION_ABORT);
const WAIT: u32 = command(uapi::MULTIKERNEL_CMD_SESSION_WAIT);

/// Bytes that are copied at once between a session and a user or a file.
const CHUNK: u64 = 16 << 10;

/// One of the ioctls on the device, on a host or in a spawn.
///
/// # Errors
///
/// `ENOTTY` if it is none; as `include/uapi/linux/multikernel.h` documents them.
pub(crate) fn ioctl(command: u32, argument: usize) -> Result {
    if ![CREATE, OPEN, ACCEPT, REMOVE].contains(&command) {
        return Err(ENOTTY);
    }
    let mut request = UserStruct::<uapi::multikernel_ioctl_session>::read(argument)?;
    let value = &request.value;
    let seize = command == OPEN && value.flags == uapi::MULTIKERNEL_SESSION_SEIZE;
    if !seize {
        check_flags(value.flags, 0)?;
    }
    if command != ACCEPT && value.timeout_ms != 0 {
        return Err(EINVAL);
    }
    let name = Name::new(&value.name)?;
    let (session, ticket) = match command {
        CREATE => (Session::create(&name)?, 0),
        OPEN => {
            let session = if seize {
                Session::seize(&name)?
            } else {
                Session::open(&name)?
            };
            let ticket = session.ticket();
            (session, ticket)
        }
        ACCEPT => Session::accept(&name, value.timeout_ms)?,
        _ => {
            Session::remove(&name)?;
            request.value.fd = -1;
            request.value.ticket = 0;
            return request.write();
        }
    };
    let made = session.clone();
    let result = file::open(SessionFile(session)).and_then(|file| {
        request.value.fd = file.descriptor();
        request.value.ticket = ticket;
        request.write()?;
        file.install();
        Ok(())
    });
    if result.is_err() && command == CREATE {
        // The process does not hear of it.
        made.discard();
    }
    result
}

/// What is behind a session fd.
struct SessionFile(Arc<Session>);

impl AnonFile for SessionFile {
    const NAME: &'static CStr = c"[multikernel-session]";

    fn ioctl(&self, command: u32, argument: usize) -> Result {
        check_capable()?;
        match command {
            PUT => self.put(argument),
            GET => self.get(argument),
            DELETE => {
                let request = entry_request(argument, 0)?;
                let value = &request.value;
                if value.kind != 0 || value.address != 0 || value.length != 0 || value.fd != 0 {
                    return Err(EINVAL);
                }
                self.0.delete(&Key::new(&value.key)?)
            }
            LIST_ENTRIES => self.list(argument),
            OFFER => {
                let mut request =
                    UserStruct::<uapi::multikernel_ioctl_session_offer>::read(argument)?;
                check_flags(request.value.flags, 0)?;
                request.value.ticket = self.0.offer(&request.value.to)?;
                request.write()
            }
            COMMIT | ABORT | WAIT => self.step(command, argument),
            _ => Err(ENOTTY),
        }
    }
}

impl Drop for SessionFile {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// What a call asks, which knows these flags.
fn entry_request(
    argument: usize,
    flags: u32,
) -> Result<UserStruct<uapi::multikernel_ioctl_session_entry>> {
    let request = UserStruct::<uapi::multikernel_ioctl_session_entry>::read(argument)?;
    check_flags(request.value.flags, flags)?;
    Ok(request)
}

impl SessionFile {
    fn put(&self, argument: usize) -> Result {
        let mut request = entry_request(argument, uapi::MULTIKERNEL_PUT_PRESERVED)?;
        let value = &request.value;
        let key = Key::new(&value.key)?;
        let kind = Kind::from_number(value.kind).ok_or(EINVAL)?;
        let preserved = value.flags == uapi::MULTIKERNEL_PUT_PRESERVED;
        if preserved && kind != Kind::Memfd
            || kind != Kind::Bytes && !preserved && value.address != 0
            || kind != Kind::Memfd && value.fd != 0
        {
            return Err(EINVAL);
        }
        match kind {
            Kind::Bytes => {
                let (from, length) = (value.address, value.length);
                if length > SESSION_BYTES_MAX {
                    return Err(EINVAL);
                }
                self.0.put(key, kind, length, |memory, offset| {
                    copy_from_user(memory, offset, from, length)
                })?;
                request.write()
            }
            Kind::Memfd => {
                if value.length != 0 {
                    return Err(EINVAL);
                }
                let file = if preserved {
                    PlainFile::preserved(value.fd, value.address)?
                } else {
                    PlainFile::to_read(value.fd)?
                };
                let length = file.size()?;
                self.0.put(key, kind, length, |memory, offset| {
                    copy_from_file(memory, offset, &file, length)
                })?;
                request.value.length = length;
                request.write()
            }
            Kind::Pages => {
                let length = value.length;
                self.0.put(key, kind, length, |memory, offset| {
                    memory.zero(offset, length)
                })?;
                self.open_pages(request, &key)?.install();
                Ok(())
            }
        }
    }

    fn get(&self, argument: usize) -> Result {
        let mut request = entry_request(argument, 0)?;
        let value = &request.value;
        if value.kind != 0 {
            return Err(EINVAL);
        }
        let key = Key::new(&value.key)?;
        let kind = self.0.get(&key, |_, entry, _| Ok(entry.kind))?;
        if kind == Kind::Pages {
            if value.address != 0 || value.length != 0 || value.fd != 0 {
                return Err(EINVAL);
            }
            self.open_pages(request, &key)?.install();
            return Ok(());
        }
        let (address, room, fd) = (value.address, value.length, value.fd);
        let length = self.0.get(&key, |memory, entry, _| {
            match entry.kind {
                Kind::Bytes if fd == 0 => {
                    let length = entry.length.min(room);
                    copy_to_user(memory, entry.offset, address, length)?;
                }
                Kind::Memfd if address == 0 && room == 0 => {
                    let file = PlainFile::to_write(fd)?;
                    copy_to_file(memory, entry.offset, &file, entry.length)?;
                }
                // It has become another since.
                Kind::Pages => return Err(EBUSY),
                Kind::Bytes | Kind::Memfd => return Err(EINVAL),
            }
            request.value.kind = entry.kind.number();
            Ok(entry.length)
        })?;
        request.value.length = length;
        request.write()
    }

    /// Makes a file of an entry's pages, and tells the process of it.
    fn open_pages(
        &self,
        mut request: UserStruct<uapi::multikernel_ioctl_session_entry>,
        key: &Key,
    ) -> Result<NewFile> {
        let pages = self.0.get(key, |_, entry: &Entry, writable| {
            // It has become another since.
            if entry.kind != Kind::Pages {
                return Err(EBUSY);
            }
            Ok(Pages::new(&self.0, entry, writable))
        })?;
        request.value.kind = Kind::Pages.number();
        request.value.length = pages.range().1;
        let file = file::open(PagesFile(pages))?;
        request.value.fd = file.descriptor();
        request.write()?;
        Ok(file)
    }

    fn list(&self, argument: usize) -> Result {
        let mut list = UserStruct::<uapi::multikernel_ioctl_list>::read(argument)?;
        let items = self.0.list(|entries| {
            let mut items = KVec::with_capacity(entries.len(), GFP_KERNEL)?;
            for entry in entries {
                let item = uapi::multikernel_session_entry {
                    key: *entry.key.field(),
                    length: entry.length,
                    kind: entry.kind.number(),
                    reserved: 0,
                };
                items.push(item, GFP_KERNEL)?;
            }
            Ok(items)
        })?;
        list.value.nr = user::write_array(list.value.items, list.value.nr, &items)?;
        list.write()
    }

    fn step(&self, command: u32, argument: usize) -> Result {
        let mut request = UserStruct::<uapi::multikernel_ioctl_session_step>::read(argument)?;
        check_flags(request.value.flags, 0)?;
        let timeout_ms = request.value.timeout_ms;
        if command != WAIT && timeout_ms != 0 {
            return Err(EINVAL);
        }
        request.value.state = match command {
            COMMIT => {
                self.0.commit()?;
                uapi::MULTIKERNEL_SESSION_COMMITTED
            }
            ABORT => {
                self.0.abort()?;
                uapi::MULTIKERNEL_SESSION_ABORTED
            }
            _ if self.0.wait(timeout_ms)? => uapi::MULTIKERNEL_SESSION_COMMITTED,
            _ => uapi::MULTIKERNEL_SESSION_ABORTED,
        };
        request.write()
    }
}

/// An entry's pages, to be mapped.
struct PagesFile(Pages);

impl AnonFile for PagesFile {
    const NAME: &'static CStr = c"[multikernel-pages]";
    const MAPPED_WHEN_TOUCHED: bool = true;

    fn writable(&self) -> bool {
        self.0.writable()
    }

    /// An entry whose pages are open stays, and so does its arena.
    fn mapping(&self, offset: u64, bytes: u64) -> Result<u64> {
        let (base, size) = self.0.range();
        file::part(base, size, offset, bytes)
    }
}

/// Calls `copy` for all of `length` bytes, by parts that fit into its buffer; it is given where in
/// them the part is.
fn by_parts(length: u64, mut copy: impl FnMut(u64, &mut [u8]) -> Result) -> Result {
    let mut buffer = KVec::from_elem(0u8, CHUNK.min(length) as usize, GFP_KERNEL)?;
    let mut done = 0;
    while done < length {
        let part = CHUNK.min(length - done);
        copy(done, buffer.get_mut(..part as usize).ok_or(EINVAL)?)?;
        done += part;
        let_others_run();
    }
    Ok(())
}

fn user_slice(address: u64, length: usize) -> UserSlice {
    UserSlice::new(UserPtr::from_addr(address as usize), length)
}

fn copy_from_user(memory: &SharedBytes, offset: u64, from: u64, length: u64) -> Result {
    by_parts(length, |at, part| {
        let from = from.checked_add(at).ok_or(EFAULT)?;
        user_slice(from, part.len()).reader().read_slice(part)?;
        memory.write(offset + at, part)
    })
}

fn copy_to_user(memory: &SharedBytes, offset: u64, to: u64, length: u64) -> Result {
    by_parts(length, |at, part| {
        let to = to.checked_add(at).ok_or(EFAULT)?;
        memory.read(offset + at, part)?;
        user_slice(to, part.len()).writer().write_slice(part)
    })
}

fn copy_from_file(memory: &SharedBytes, offset: u64, file: &PlainFile, length: u64) -> Result {
    by_parts(length, |at, part| {
        file.read_at(at, part)?;
        memory.write(offset + at, part)
    })
}

fn copy_to_file(memory: &SharedBytes, offset: u64, file: &PlainFile, length: u64) -> Result {
    by_parts(length, |at, part| {
        memory.read(offset + at, part)?;
        file.write_at(at, part)
    })
}
