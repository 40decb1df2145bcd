// SPDX-License-Identifier: GPL-2.0

//! Arenas and sessions as a spawn finds them: asked for by name, mapped, and then a file.
//!
//! The host's answer is checked before anything is mapped: see [`Granted::of_answer`], and that it
//! is none of this kernel's own memory. Owns nothing, and has no lock.

use kernel::{
    prelude::*,
    str::CStr,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    },
    uapi, //
};

use super::{
    ioctl,
    news,
    session::Claim,
    wire::{
        self,
        Asked,
        Granted,
        Told, //
    }, //
};
use crate::{
    abi::{
        PORT_ARENA,
        PORT_SESSION, //
    },
    file::{
        self,
        AnonFile, //
    },
    foreign::{
        self,
        ForeignMemory,
        SharedBytes, //
    },
    instance::Name,
    link::{
        call,
        inbox::{
            self,
            Handler,
            Incoming, //
        },
        peer, //
    },
    user::UserStruct, //
};

/// How long the host may take to answer.
const TIMEOUT_MS: u32 = 10_000;

/// An arena that is open in this spawn.
pub(super) struct ArenaFile {
    memory: ForeignMemory,
    writable: bool,
    /// No session is made in what is open.
    _claim: Claim,
}

impl ArenaFile {
    /// Opens an arena.
    ///
    /// # Errors
    ///
    /// As `MULTIKERNEL_IOCTL_ARENA_OPEN` in a spawn.
    pub(super) fn open(name: &Name, writable: bool) -> Result<Self> {
        let claim = Claim::of_arena(name)?;
        let granted = ask(name)?;
        if writable && !granted.writable {
            return Err(EACCES);
        }
        Ok(Self {
            memory: ForeignMemory::new(granted.base, granted.size)?,
            writable,
            _claim: claim,
        })
    }

    /// What is in it.
    pub(super) fn bytes(&self) -> &SharedBytes {
        self.memory.bytes()
    }

    /// Whether it was opened to be written to.
    pub(super) fn is_writable(&self) -> bool {
        self.writable
    }
}

impl AnonFile for ArenaFile {
    const NAME: &'static CStr = c"[multikernel-arena]";
    const MAPPED_WHEN_TOUCHED: bool = true;

    fn writable(&self) -> bool {
        self.writable
    }

    /// What is granted stays granted as long as this kernel runs.
    fn mapping(&self, offset: u64, bytes: u64) -> Result<u64> {
        let (base, size) = self.memory.range();
        file::part(base, size, offset, bytes)
    }
}

/// Asks the host for an arena.
fn ask(name: &Name) -> Result<Granted> {
    let host = peer::host().ok_or(ENOTCONN)?;
    let mut answer = [0; wire::ANSWER_BYTES];
    let request = wire::request(name.field());
    let bytes = call::call(host, None, PORT_ARENA, &request, &mut answer, TIMEOUT_MS)?;
    let answer = answer.get(..bytes).ok_or(EPROTO)?;
    Granted::of_answer(answer).ok_or(EPROTO)
}

/// That an arena in which a session is about to be made is not this kernel's persistent memory: the
/// host wipes its head. To be called before the host is asked to make it.
///
/// # Errors
///
/// `EBUSY` if it is; those of a call, if the host does not say.
pub(super) fn check_not_persistent(name: &Name) -> Result {
    match ask(name) {
        Ok(granted) if foreign::is_persistent_memory(granted.base, granted.size) => Err(EBUSY),
        // None that could be made in it, which the host says again; who runs keeps what it was
        // granted, and a session is never in persistent memory.
        Ok(_) | Err(ENOENT | EACCES | EBUSY) => Ok(()),
        Err(error) => Err(error),
    }
}

/// How many requests for sessions have been sent.
static REQUESTS: Atomic<u64> = Atomic::new(0);

/// How often a request is sent that another of this kernel has overtaken.
const TRIES: usize = 16;

/// Has the host make a step with a session.
///
/// # Errors
///
/// `ENOTCONN`; those of [`call::call`]; what the host says; `EPROTO` if that makes no sense.
pub(super) fn ask_session(asked: &Asked) -> Result<Told> {
    let host = peer::host().ok_or(ENOTCONN)?;
    let mut answer = [0; wire::SESSION_ANSWER_BYTES];
    let mut asked = *asked;
    for _ in 0..TRIES {
        asked.sequence = REQUESTS.fetch_add(1, Relaxed) + 1;
        let request = asked.request();
        match call::call(host, None, PORT_SESSION, &request, &mut answer, TIMEOUT_MS) {
            Err(EAGAIN) => {}
            result => {
                let answer = answer.get(..result?).ok_or(EPROTO)?;
                return Told::of_answer(answer).ok_or(EPROTO);
            }
        }
    }
    Err(EBUSY)
}

/// Hears of sessions from now on. To be called once, at boot, in a spawn.
///
/// # Errors
///
/// `ENOMEM`.
pub(crate) fn listen() -> Result {
    super::set_up()?;
    inbox::add_port(PORT_SESSION, Arc::new(News, GFP_KERNEL)?)
}

/// [`PORT_SESSION`] of a spawn.
struct News;

impl Handler for News {
    fn receive(&self, _message: &Incoming<'_>) {
        news::tell();
    }
}

/// ioctl(MULTIKERNEL_IOCTL_ARENA_OPEN) in a spawn.
///
/// # Errors
///
/// As `include/uapi/linux/multikernel.h` documents them.
pub(crate) fn open(argument: usize) -> Result {
    let mut request = UserStruct::<uapi::multikernel_ioctl_arena_open>::read(argument)?;
    let (name, read_only) = ioctl::check_open(&request.value)?;
    let arena = ArenaFile::open(&name, !read_only)?;
    request.value.bytes = arena.bytes().size();
    let file = file::open(arena)?;
    request.value.fd = file.descriptor();
    request.write()?;
    file.install();
    Ok(())
}
