// SPDX-License-Identifier: GPL-2.0

//! Sessions and arenas for C code and modules: `include/linux/multikernel.h`, which documents them.
//!
//! As `c_api.rs` above: arguments are taken from C here and nowhere else, and what is done with
//! them is that of [`Session`]. What C holds is an [`Arc`] of it, or a box of what keeps mapped
//! memory where it is. No state and no lock of its own.

use core::{
    ffi::CStr,
    mem::{
        offset_of,
        size_of, //
    },
    ptr, //
};

use kernel::{
    prelude::*,
    sync::{
        Arc,
        ArcBorrow, //
    },
    types::ForeignOwnable, //
};

#[cfg(CONFIG_MULTIKERNEL_GUEST)]
use super::guest;
use super::{
    abi::SESSION_BYTES_MAX,
    arena::ArenaFile,
    session::{
        Pages,
        Session, //
    },
    table::{
        Key,
        Kind, //
    }, //
};
use crate::{
    abi::NAME_LENGTH,
    c_api::{
        bytes_of,
        bytes_of_mut, //
    },
    instance::Name,
    registry::Subsystem, //
};

/// `struct multikernel_pages`.
#[repr(C)]
#[allow(non_camel_case_types)]
struct multikernel_pages {
    address: *mut c_void,
    length: u64,
    writable: bool,
    keeper: *mut c_void,
}

// kernel/multikernel/exports.c asserts the same of the C structure.
static_assert!(
    size_of::<multikernel_pages>() == 32
        && offset_of!(multikernel_pages, length) == 8
        && offset_of!(multikernel_pages, writable) == 16
        && offset_of!(multikernel_pages, keeper) == 24
);

/// What keeps memory that C code has mapped where it is.
enum Keeper {
    /// An entry of a session.
    Entry(Pages),
    /// An arena of the host's.
    Host(ArenaFile),
    /// An arena that this spawn was granted.
    #[cfg(CONFIG_MULTIKERNEL_GUEST)]
    Spawn(guest::ArenaFile),
}

impl Keeper {
    /// Where it is, how many bytes, and whether it may be written to.
    fn place(&self) -> Result<(*mut u8, u64, bool)> {
        let (bytes, offset, length, writable) = match self {
            Self::Entry(pages) => return pages.place(),
            Self::Host(arena) => (arena.bytes(), 0, arena.place().size, arena.is_writable()),
            #[cfg(CONFIG_MULTIKERNEL_GUEST)]
            Self::Spawn(arena) => (arena.bytes(), 0, arena.bytes().size(), arena.is_writable()),
        };
        Ok((bytes.at(offset, length)?, length, writable))
    }

    /// Gives it to C code.
    ///
    /// # Safety
    ///
    /// `pages` is valid for a write.
    unsafe fn hand_out(self, pages: *mut multikernel_pages) -> Result {
        let (address, length, writable) = self.place()?;
        let keeper = KBox::new(self, GFP_KERNEL)?.into_foreign().cast();
        let value = multikernel_pages {
            address: address.cast(),
            length,
            writable,
            keeper,
        };
        // SAFETY: By the caller's promise.
        unsafe { pages.write(value) };
        Ok(())
    }
}

/// A string of C code in a field of fixed size.
///
/// # Errors
///
/// `EINVAL` at NULL, `ENAMETOOLONG`.
///
/// # Safety
///
/// `text` is NULL or a string that nobody changes meanwhile.
unsafe fn field_of(text: *const c_char) -> Result<[u8; NAME_LENGTH]> {
    if text.is_null() {
        return Err(EINVAL);
    }
    // SAFETY: By the caller's promise.
    let text = unsafe { CStr::from_char_ptr(text) }.to_bytes();
    let mut field = [0; NAME_LENGTH];
    // One byte less: that behind it is zero.
    let room = field.get_mut(..NAME_LENGTH - 1).ok_or(EINVAL)?;
    let room = room.get_mut(..text.len()).ok_or(ENAMETOOLONG)?;
    room.copy_from_slice(text);
    Ok(field)
}

/// As [`field_of`], of a session or an arena.
///
/// # Safety
///
/// As [`field_of`].
unsafe fn name_of(name: *const c_char) -> Result<Name> {
    // SAFETY: By the caller's promise.
    Name::new(&unsafe { field_of(name) }?)
}

/// As [`field_of`], of an entry.
///
/// # Safety
///
/// As [`field_of`].
unsafe fn key_of(key: *const c_char) -> Result<Key> {
    // SAFETY: By the caller's promise.
    Key::new(&unsafe { field_of(key) }?)
}

/// What a call with a session returns to C.
fn handed_out(session: Result<Arc<Session>>) -> *mut c_void {
    match session {
        Ok(session) => session.into_foreign().cast(),
        Err(error) => error.to_ptr(),
    }
}

fn status(result: Result) -> c_int {
    result.map_or_else(Error::to_errno, |()| 0)
}

/// The session that C code has.
///
/// # Safety
///
/// `session` is what [`handed_out`] returned, is no error, and is not closed while the result is
/// used.
unsafe fn session_of<'a>(session: *mut c_void) -> ArcBorrow<'a, Session> {
    // SAFETY: By the caller's promise; an `Arc` can be borrowed any number of times.
    unsafe { <Arc<Session> as ForeignOwnable>::borrow(session.cast()) }
}

/// Makes a session.
///
/// # Safety
///
/// `name` is a string. In process context, as all functions here.
#[no_mangle]
unsafe extern "C" fn multikernel_session_create(name: *const c_char) -> *mut c_void {
    // SAFETY: By the caller's promise.
    handed_out(unsafe { name_of(name) }.and_then(|name| Session::create(&name)))
}

/// Opens a session that this kernel owns.
///
/// # Safety
///
/// `name` is a string.
#[no_mangle]
unsafe extern "C" fn multikernel_session_open(name: *const c_char) -> *mut c_void {
    // SAFETY: By the caller's promise.
    handed_out(unsafe { name_of(name) }.and_then(|name| Session::open(&name)))
}

/// Accepts a session that is offered to this kernel.
///
/// # Safety
///
/// `name` is a string.
#[no_mangle]
unsafe extern "C" fn multikernel_session_accept(
    name: *const c_char,
    timeout_ms: c_uint,
) -> *mut c_void {
    // SAFETY: By the caller's promise.
    let name = unsafe { name_of(name) };
    let accepted = name.and_then(|name| Session::accept(&name, timeout_ms));
    handed_out(accepted.map(|(session, _)| session))
}

/// Has a session be none any more.
///
/// # Safety
///
/// `name` is a string.
#[no_mangle]
unsafe extern "C" fn multikernel_session_remove(name: *const c_char) -> c_int {
    // SAFETY: By the caller's promise.
    status(unsafe { name_of(name) }.and_then(|name| Session::remove(&name)))
}

/// Gives a session back.
///
/// # Safety
///
/// `session` is what create, open or accept returned, is no error, and is not used again.
#[no_mangle]
unsafe extern "C" fn multikernel_session_close(session: *mut c_void) {
    // SAFETY: By the caller's promise.
    let session = unsafe { <Arc<Session> as ForeignOwnable>::from_foreign(session.cast()) };
    session.close();
}

/// Puts bytes into a session.
///
/// # Safety
///
/// `session` is open, `key` a string, `data` valid for reads of `length` bytes.
#[no_mangle]
unsafe extern "C" fn multikernel_session_put(
    session: *mut c_void,
    key: *const c_char,
    data: *const c_void,
    length: usize,
) -> c_int {
    let put = || -> Result {
        if length as u64 > SESSION_BYTES_MAX {
            return Err(EINVAL);
        }
        // SAFETY: By the caller's promise.
        let (key, bytes) = unsafe { (key_of(key)?, bytes_of(data, length)) };
        // SAFETY: As above.
        let session = unsafe { session_of(session) };
        session.put(key, Kind::Bytes, length as u64, |memory, offset| {
            memory.write(offset, bytes)
        })
    };
    status(put())
}

/// Puts pages into a session.
///
/// # Safety
///
/// `session` is open, `key` a string.
#[no_mangle]
unsafe extern "C" fn multikernel_session_put_pages(
    session: *mut c_void,
    key: *const c_char,
    length: u64,
) -> c_int {
    // SAFETY: By the caller's promise.
    let (session, key) = unsafe { (session_of(session), key_of(key)) };
    status(key.and_then(|key| {
        session.put(key, Kind::Pages, length, |memory, offset| {
            memory.zero(offset, length)
        })
    }))
}

/// Copies an entry's bytes, or a memfd's contents.
///
/// # Safety
///
/// `session` is open, `key` a string, `data` valid for writes of `size` bytes.
#[no_mangle]
unsafe extern "C" fn multikernel_session_get(
    session: *mut c_void,
    key: *const c_char,
    data: *mut c_void,
    size: usize,
) -> isize {
    let get = || -> Result<isize> {
        // SAFETY: By the caller's promise.
        let (session, key) = unsafe { (session_of(session), key_of(key)?) };
        session.get(&key, |memory, entry, _| {
            if entry.kind == Kind::Pages {
                return Err(EINVAL);
            }
            let part = size.min(usize::try_from(entry.length)?);
            // SAFETY: By the caller's promise.
            memory.read(entry.offset, unsafe { bytes_of_mut(data, part) })?;
            Ok(isize::try_from(entry.length)?)
        })
    };
    // CAST: An errno fits.
    get().unwrap_or_else(|error| error.to_errno() as isize)
}

/// Gives the address of an entry's pages.
///
/// # Safety
///
/// `session` is open, `key` a string, `pages` valid for a write.
#[no_mangle]
unsafe extern "C" fn multikernel_session_map(
    session: *mut c_void,
    key: *const c_char,
    pages: *mut multikernel_pages,
) -> c_int {
    let map = || -> Result {
        // SAFETY: By the caller's promise.
        let (session, key) = unsafe { (session_of(session), key_of(key)?) };
        let mapped = session.get(&key, |_, entry, writable| {
            if entry.kind != Kind::Pages {
                return Err(EINVAL);
            }
            Ok(Pages::new(&session.into(), entry, writable))
        })?;
        // SAFETY: As above.
        unsafe { Keeper::Entry(mapped).hand_out(pages) }
    };
    status(map())
}

/// Gives the address of an arena.
///
/// # Safety
///
/// `name` is a string, `pages` valid for a write.
#[no_mangle]
unsafe extern "C" fn multikernel_arena_map(
    name: *const c_char,
    writable: bool,
    pages: *mut multikernel_pages,
) -> c_int {
    let open = |name: &Name| -> Result<Keeper> {
        #[cfg(CONFIG_MULTIKERNEL_GUEST)]
        if crate::guest::active() {
            return Ok(Keeper::Spawn(guest::ArenaFile::open(name, writable)?));
        }
        Ok(Keeper::Host(ArenaFile::open(
            Subsystem::get()?,
            name,
            writable,
        )?))
    };
    let map = || -> Result {
        // SAFETY: By the caller's promise.
        let name = unsafe { name_of(name)? };
        // SAFETY: As above.
        unsafe { open(&name)?.hand_out(pages) }
    };
    status(map())
}

/// Gives back what was mapped.
///
/// # Safety
///
/// `pages` is what a map function has filled, and its memory is not used again.
#[no_mangle]
unsafe extern "C" fn multikernel_unmap(pages: *mut multikernel_pages) {
    // SAFETY: By the caller's promise.
    let keeper = unsafe { ptr::replace(&raw mut (*pages).keeper, ptr::null_mut()) };
    if !keeper.is_null() {
        // SAFETY: `hand_out` made it of such a box, and it is taken out above.
        drop(unsafe { <KBox<Keeper> as ForeignOwnable>::from_foreign(keeper.cast()) });
    }
}

/// Takes an entry out of a session.
///
/// # Safety
///
/// `session` is open, `key` a string.
#[no_mangle]
unsafe extern "C" fn multikernel_session_delete(session: *mut c_void, key: *const c_char) -> c_int {
    // SAFETY: By the caller's promise.
    let (session, key) = unsafe { (session_of(session), key_of(key)) };
    status(key.and_then(|key| session.delete(&key)))
}

/// Offers a session to an instance, or at NULL to the host.
///
/// # Safety
///
/// `session` is open, `to` NULL or a string.
#[no_mangle]
unsafe extern "C" fn multikernel_session_offer(session: *mut c_void, to: *const c_char) -> c_int {
    let offer = || -> Result {
        let to = if to.is_null() {
            [0; NAME_LENGTH]
        } else {
            // SAFETY: By the caller's promise. An empty name is none, and not the host.
            *unsafe { name_of(to) }?.field()
        };
        // SAFETY: As above.
        unsafe { session_of(session) }.offer(&to).map(drop)
    };
    status(offer())
}

/// Makes a session that was accepted this kernel's.
///
/// # Safety
///
/// `session` is open.
#[no_mangle]
unsafe extern "C" fn multikernel_session_commit(session: *mut c_void) -> c_int {
    // SAFETY: By the caller's promise.
    status(unsafe { session_of(session) }.commit())
}

/// Calls an offer off.
///
/// # Safety
///
/// `session` is open.
#[no_mangle]
unsafe extern "C" fn multikernel_session_abort(session: *mut c_void) -> c_int {
    // SAFETY: By the caller's promise.
    status(unsafe { session_of(session) }.abort())
}

/// Waits for the end of an offer.
///
/// # Safety
///
/// `session` is open.
#[no_mangle]
unsafe extern "C" fn multikernel_session_wait(session: *mut c_void, timeout_ms: c_uint) -> c_int {
    // SAFETY: By the caller's promise.
    let waited = unsafe { session_of(session) }.wait(timeout_ms);
    waited.map_or_else(Error::to_errno, c_int::from)
}
