// SPDX-License-Identifier: GPL-2.0

//! What a spawn and its host say to each other about arenas and sessions, byte by byte.
//!
//! The layouts are [`ArenaRequest`] and [`ArenaAnswer`], [`SessionRequest`] and [`SessionAnswer`].
//! What comes from the other kernel is checked here before anybody uses it. The file uses `core`
//! alone, has no `unsafe` and needs no lock.

#![allow(unreachable_pub)]

use core::mem::{
    offset_of,
    size_of, //
};

use super::{
    abi::{
        SessionAnswer,
        SessionRequest,
        OUTCOME_ABORTED,
        OUTCOME_ACCEPTED,
        OUTCOME_COMMITTED,
        OUTCOME_OFFERED,
        SESSION_ABORT,
        SESSION_ACCEPT,
        SESSION_COMMIT,
        SESSION_CREATE,
        SESSION_LOOK,
        SESSION_OFFER,
        SESSION_OPEN,
        SESSION_REMOVE, //
    },
    ownership::Outcome, //
};
use crate::abi::{
    ArenaAnswer,
    ArenaRequest,
    ARENA_OPEN,
    ARENA_WRITABLE,
    NAME_LENGTH, //
};

/// Bytes of a request.
pub const REQUEST_BYTES: usize = size_of::<ArenaRequest>();
/// Bytes of an answer.
pub const ANSWER_BYTES: usize = size_of::<ArenaAnswer>();

/// Arenas begin at multiples of this, and are as long: a large page.
const ALIGN: u64 = 2 << 20;

/// Physical addresses have at most 52 bits (SDM volume 3, "4.1.4 Enumeration of Paging Features by
/// CPUID").
const ADDRESSES: u64 = 1 << 52;

/// The 32 bits at an offset.
pub(super) fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    let (word, _) = bytes.get(offset..)?.split_first_chunk()?;
    Some(u32::from_le_bytes(*word))
}

/// The 64 bits at an offset.
pub(super) fn long(bytes: &[u8], offset: usize) -> Option<u64> {
    let (long, _) = bytes.get(offset..)?.split_first_chunk()?;
    Some(u64::from_le_bytes(*long))
}

/// Writes to an offset what there is room for.
pub(super) fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    for (to, from) in bytes.iter_mut().skip(offset).zip(value) {
        *to = *from;
    }
}

/// Whether an arena can be there.
fn is_place(base: u64, size: u64) -> bool {
    let possible = base != 0 && size != 0 && (base | size) & (ALIGN - 1) == 0;
    possible && base.checked_add(size).is_some_and(|end| end <= ADDRESSES)
}

/// The request for an arena of this name.
pub fn request(name: &[u8; NAME_LENGTH]) -> [u8; REQUEST_BYTES] {
    let mut bytes = [0; REQUEST_BYTES];
    let operation = offset_of!(ArenaRequest, operation);
    put(&mut bytes, operation, &ARENA_OPEN.to_le_bytes());
    put(&mut bytes, offset_of!(ArenaRequest, name), name);
    bytes
}

/// The name of the arena that is asked for; `None` if the request makes no sense.
pub fn name_of(bytes: &[u8]) -> Option<[u8; NAME_LENGTH]> {
    if bytes.len() != REQUEST_BYTES
        || word(bytes, offset_of!(ArenaRequest, operation))? != ARENA_OPEN
        || word(bytes, offset_of!(ArenaRequest, reserved))? != 0
    {
        return None;
    }
    let (name, _) = bytes
        .get(offset_of!(ArenaRequest, name)..)?
        .split_first_chunk()?;
    Some(*name)
}

/// An arena that has been granted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Granted {
    /// First byte, physical.
    pub base: u64,
    /// Bytes.
    pub size: u64,
    /// Whether it may be written to.
    pub writable: bool,
}

impl Granted {
    /// The answer that says so.
    pub fn answer(&self) -> [u8; ANSWER_BYTES] {
        let mut bytes = [0; ANSWER_BYTES];
        let flags = if self.writable { ARENA_WRITABLE } else { 0 };
        let mut put = |offset, value: &[u8]| put(&mut bytes, offset, value);
        put(offset_of!(ArenaAnswer, base), &self.base.to_le_bytes());
        put(offset_of!(ArenaAnswer, size), &self.size.to_le_bytes());
        put(offset_of!(ArenaAnswer, flags), &flags.to_le_bytes());
        bytes
    }

    /// What an answer says; `None` if it makes no sense: too short, or a range that is empty, not
    /// of whole large pages, or beyond what an address can be. Flags and bytes that this kernel
    /// does not know are ignored.
    pub fn of_answer(bytes: &[u8]) -> Option<Self> {
        let base = long(bytes, offset_of!(ArenaAnswer, base))?;
        let size = long(bytes, offset_of!(ArenaAnswer, size))?;
        let flags = word(bytes, offset_of!(ArenaAnswer, flags))?;
        is_place(base, size).then_some(Self {
            base,
            size,
            writable: flags & ARENA_WRITABLE != 0,
        })
    }
}

/// Bytes of a request that concerns a session.
pub const SESSION_REQUEST_BYTES: usize = size_of::<SessionRequest>();
/// Bytes of its answer.
pub const SESSION_ANSWER_BYTES: usize = size_of::<SessionAnswer>();

/// What is to be done with a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// It is to be made, in the arena of its name.
    Create,
    /// Its owner wants to know where it is.
    Open,
    /// It is offered to the instance of this name, or to the host if that is all zero.
    Offer([u8; NAME_LENGTH]),
    /// An offer is accepted.
    Accept,
    /// It becomes the asker's, by an offer that has been accepted.
    Commit(u64),
    /// An offer is called off; 0 is the one that stands.
    Abort(u64),
    /// What has become of an offer?
    Look(u64),
    /// It is to be no session any more.
    Remove,
}

impl Step {
    /// Its operation, and the ticket that goes with it; 0 where none does.
    pub fn operation(&self) -> (u32, u64) {
        match *self {
            Self::Create => (SESSION_CREATE, 0),
            Self::Open => (SESSION_OPEN, 0),
            Self::Offer(_) => (SESSION_OFFER, 0),
            Self::Accept => (SESSION_ACCEPT, 0),
            Self::Commit(ticket) => (SESSION_COMMIT, ticket),
            Self::Abort(ticket) => (SESSION_ABORT, ticket),
            Self::Look(ticket) => (SESSION_LOOK, ticket),
            Self::Remove => (SESSION_REMOVE, 0),
        }
    }
}

/// What is asked of the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asked {
    /// The name of the session, not checked.
    pub name: [u8; NAME_LENGTH],
    /// What is to be done.
    pub step: Step,
    /// Of a spawn: which of its requests this is.
    pub sequence: u64,
}

impl Asked {
    /// The request that says so.
    pub fn request(&self) -> [u8; SESSION_REQUEST_BYTES] {
        let (operation, ticket) = self.step.operation();
        let mut bytes = [0; SESSION_REQUEST_BYTES];
        let mut put = |offset, value: &[u8]| put(&mut bytes, offset, value);
        put(
            offset_of!(SessionRequest, operation),
            &operation.to_le_bytes(),
        );
        put(offset_of!(SessionRequest, ticket), &ticket.to_le_bytes());
        let sequence = offset_of!(SessionRequest, sequence);
        put(sequence, &self.sequence.to_le_bytes());
        put(offset_of!(SessionRequest, name), &self.name);
        if let Step::Offer(to) = &self.step {
            put(offset_of!(SessionRequest, to), to);
        }
        bytes
    }

    /// What a request says; `None` if it makes no sense.
    pub fn of_request(bytes: &[u8]) -> Option<Self> {
        let name = |offset| {
            let (name, _) = bytes.get(offset..)?.split_first_chunk()?;
            Some(*name)
        };
        let ticket = long(bytes, offset_of!(SessionRequest, ticket))?;
        let step = match word(bytes, offset_of!(SessionRequest, operation))? {
            SESSION_CREATE => Step::Create,
            SESSION_OPEN => Step::Open,
            SESSION_OFFER => Step::Offer(name(offset_of!(SessionRequest, to))?),
            SESSION_ACCEPT => Step::Accept,
            SESSION_COMMIT => Step::Commit(ticket),
            SESSION_ABORT => Step::Abort(ticket),
            SESSION_LOOK => Step::Look(ticket),
            SESSION_REMOVE => Step::Remove,
            _ => return None,
        };
        let this = Self {
            name: name(offset_of!(SessionRequest, name))?,
            step,
            sequence: long(bytes, offset_of!(SessionRequest, sequence))?,
        };
        // What the operation has no use for is zero, and there is nothing behind it.
        (this.request().as_slice() == bytes).then_some(this)
    }
}

/// What the host says to that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Told {
    /// Where the session's arena is, physical; 0 if that was not asked.
    pub base: u64,
    /// Its bytes.
    pub size: u64,
    /// The offer that stands, 0 if none does.
    pub ticket: u64,
    /// What has become of it.
    pub outcome: Outcome,
}

impl Told {
    /// The answer that says so.
    pub fn answer(&self) -> [u8; SESSION_ANSWER_BYTES] {
        let outcome = match self.outcome {
            Outcome::Offered => OUTCOME_OFFERED,
            Outcome::Accepted => OUTCOME_ACCEPTED,
            Outcome::Committed => OUTCOME_COMMITTED,
            Outcome::Aborted => OUTCOME_ABORTED,
        };
        let mut bytes = [0; SESSION_ANSWER_BYTES];
        let mut put = |offset, value: &[u8]| put(&mut bytes, offset, value);
        put(offset_of!(SessionAnswer, base), &self.base.to_le_bytes());
        put(offset_of!(SessionAnswer, size), &self.size.to_le_bytes());
        put(
            offset_of!(SessionAnswer, ticket),
            &self.ticket.to_le_bytes(),
        );
        put(offset_of!(SessionAnswer, outcome), &outcome.to_le_bytes());
        bytes
    }

    /// What an answer says; `None` if it makes no sense: as [`Granted::of_answer`], where a base is
    /// given.
    pub fn of_answer(bytes: &[u8]) -> Option<Self> {
        let outcome = match word(bytes, offset_of!(SessionAnswer, outcome))? {
            OUTCOME_OFFERED => Outcome::Offered,
            OUTCOME_ACCEPTED => Outcome::Accepted,
            OUTCOME_COMMITTED => Outcome::Committed,
            OUTCOME_ABORTED => Outcome::Aborted,
            _ => return None,
        };
        let this = Self {
            base: long(bytes, offset_of!(SessionAnswer, base))?,
            size: long(bytes, offset_of!(SessionAnswer, size))?,
            ticket: long(bytes, offset_of!(SessionAnswer, ticket))?,
            outcome,
        };
        (this.base == 0 || is_place(this.base, this.size)).then_some(this)
    }
}

#[cfg(any(test, CONFIG_MULTIKERNEL_KUNIT_TEST))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(multikernel_arena_wire))]
mod tests {
    use super::*;

    const GOOD: Granted = Granted {
        base: 0x4000_0000,
        size: 0x20_0000,
        writable: true,
    };

    #[test]
    fn requests() {
        let mut name = [0; NAME_LENGTH];
        put(&mut name, 0, b"web");
        let bytes = request(&name);
        assert_eq!(name_of(&bytes), Some(name));
        assert_eq!(name_of(&[]), None);
        assert_eq!(name_of(bytes.get(1..).unwrap_or_default()), None);
        for changed in 0..8 {
            let mut bytes = bytes;
            if let Some(byte) = bytes.get_mut(changed) {
                *byte ^= 0x80;
            }
            assert_eq!(name_of(&bytes), None);
        }
    }

    #[test]
    fn answers() {
        let read_only = Granted {
            writable: false,
            ..GOOD
        };
        for granted in [GOOD, read_only] {
            assert_eq!(Granted::of_answer(&granted.answer()), Some(granted));
        }
        let short = GOOD.answer();
        assert_eq!(
            Granted::of_answer(short.get(..19).unwrap_or_default()),
            None
        );
        for (base, size) in [
            (0, ALIGN),
            (ALIGN, 0),
            (ALIGN + 4096, ALIGN),
            (ALIGN, ALIGN + 4096),
            (ALIGN, ALIGN / 2),
            (u64::MAX - ALIGN + 1, ALIGN),
            (u64::MAX - ALIGN + 1, 2 * ALIGN),
            (ALIGN, ADDRESSES),
            (ADDRESSES, ALIGN),
        ] {
            let bad = Granted { base, size, ..GOOD };
            assert_eq!(Granted::of_answer(&bad.answer()), None);
        }
    }

    #[test]
    fn steps() {
        let mut name = [0; NAME_LENGTH];
        put(&mut name, 0, b"state");
        for step in [
            Step::Create,
            Step::Open,
            Step::Offer(name),
            Step::Accept,
            Step::Commit(7),
            Step::Abort(u64::MAX),
            Step::Look(1),
            Step::Remove,
        ] {
            let asked = Asked {
                name,
                step,
                sequence: 5,
            };
            let bytes = asked.request();
            assert_eq!(Asked::of_request(&bytes), Some(asked));
            // Neither more nor fewer bytes, nor anything in a field that has to be zero.
            assert_eq!(Asked::of_request(bytes.get(1..).unwrap_or_default()), None);
            let mut changed = bytes;
            put(&mut changed, offset_of!(SessionRequest, reserved), &[1]);
            assert_eq!(Asked::of_request(&changed), None);
            let mut changed = bytes;
            put(&mut changed, offset_of!(SessionRequest, operation), &[99]);
            assert_eq!(Asked::of_request(&changed), None);
        }
        let mut changed = Asked {
            name,
            step: Step::Accept,
            sequence: 5,
        }
        .request();
        put(&mut changed, offset_of!(SessionRequest, ticket), &[1]);
        assert_eq!(Asked::of_request(&changed), None);
    }

    #[test]
    fn what_is_told() {
        let told = Told {
            base: GOOD.base,
            size: GOOD.size,
            ticket: 3,
            outcome: Outcome::Accepted,
        };
        assert_eq!(Told::of_answer(&told.answer()), Some(told));
        let nowhere = Told {
            base: 0,
            size: 0,
            outcome: Outcome::Aborted,
            ..told
        };
        assert_eq!(Told::of_answer(&nowhere.answer()), Some(nowhere));
        let bad = Told { base: 4096, ..told };
        assert_eq!(Told::of_answer(&bad.answer()), None);
        let mut unknown = told.answer();
        put(&mut unknown, offset_of!(SessionAnswer, outcome), &[9]);
        assert_eq!(Told::of_answer(&unknown), None);
        assert_eq!(Told::of_answer(unknown.get(..31).unwrap_or_default()), None);
    }
}
