// SPDX-License-Identifier: GPL-2.0

//! Every layout of sessions that two kernels share: in an arena's memory, and in calls.
//!
//! As `../abi.rs`: all is little-endian, fields are only appended, and sizes and offsets are
//! asserted at build time. Words are those of KHO and LUO (`include/linux/kho/abi/`), where these
//! have the same thing: `compatible` says by which rules the rest is to be read, and a kernel
//! refuses what it does not know.
//!
//! The file uses `core` alone and has no code.

#![allow(unreachable_pub)]

use core::mem::{
    offset_of,
    size_of, //
};

use crate::abi::NAME_LENGTH;

/// `SessionHeader::compatible`: by these rules. Another number is another layout.
pub const SESSION_COMPATIBLE: [u8; 32] = *b"multikernel-session-v1\0\0\0\0\0\0\0\0\0\0";

/// Where the two tables are, in bytes from the arena's beginning.
pub const SESSION_TABLES: [u64; 2] = [0x1_0000, 0x2_0000];
/// Where the entries' contents begin.
pub const SESSION_DATA: u64 = 0x3_0000;
/// How many entries a table has room for.
pub const SESSION_ENTRIES_MAX: usize = 511;
/// Bytes of a key, its terminating zero included.
pub const SESSION_KEY_LENGTH: usize = 64;
/// The most bytes of an entry of the kind [`SESSION_BYTES`].
pub const SESSION_BYTES_MAX: u64 = 1 << 20;

/// At the beginning of the arena that a session is in. Written when the session is created.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionHeader {
    /// [`SESSION_COMPATIBLE`].
    pub compatible: [u8; 32],
    /// Bytes of the arena, those of this header included. The arena may have become longer.
    pub bytes: u64,
    /// Zero.
    pub reserved: u64,
    /// The session's name, zero-terminated; what follows is zero too. It is the arena's as well.
    pub name: [u8; NAME_LENGTH],
}

/// The head of a table; its entries follow, one after another, sorted by where their contents are.
///
/// Of the two tables the one with the higher generation is in force. A change is written to the
/// other one: generation 0, what is new, and then, as the last store, its generation.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionTable {
    /// How many changes there have been; 0 if the table is not to be read.
    pub generation: u64,
    /// How many entries follow, at most [`SESSION_ENTRIES_MAX`].
    pub count: u32,
    /// Zero.
    pub reserved: [u32; 29],
}

/// `SessionEntry::kind`: bytes, at most [`SESSION_BYTES_MAX`], which begin at a multiple of 64.
pub const SESSION_BYTES: u32 = 1;
/// `SessionEntry::kind`: whole pages, that processes map; those of 2 MiB and more begin at a
/// multiple of 2 MiB, as the arena does.
pub const SESSION_PAGES: u32 = 2;
/// `SessionEntry::kind`: the contents of a memfd, which begin at a multiple of a page.
pub const SESSION_MEMFD: u32 = 3;

/// An entry: a key, and where in the arena its contents are.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionEntry {
    /// 1 to 63 bytes that are not zero, and zeroes to the end. No other entry has the same.
    pub key: [u8; SESSION_KEY_LENGTH],
    /// One of `SESSION_BYTES`, `SESSION_PAGES`, `SESSION_MEMFD`.
    pub kind: u32,
    /// Zero.
    pub reserved: u32,
    /// Where the contents begin, in bytes from the arena's beginning, at least [`SESSION_DATA`].
    pub offset: u64,
    /// How many bytes they are. No two entries' overlap.
    pub length: u64,
    /// Zero.
    pub reserved2: [u64; 5],
}

/// `SessionRequest::operation`: a session is to be made in the arena of this name.
pub const SESSION_CREATE: u32 = 1;
/// `SessionRequest::operation`: where the session is, of which the asker is the owner.
pub const SESSION_OPEN: u32 = 2;
/// `SessionRequest::operation`: it is offered to another.
pub const SESSION_OFFER: u32 = 3;
/// `SessionRequest::operation`: what is offered to the asker is accepted.
pub const SESSION_ACCEPT: u32 = 4;
/// `SessionRequest::operation`: it becomes the asker's.
pub const SESSION_COMMIT: u32 = 5;
/// `SessionRequest::operation`: the offer is called off.
pub const SESSION_ABORT: u32 = 6;
/// `SessionRequest::operation`: what has become of the offer.
pub const SESSION_LOOK: u32 = 7;
/// `SessionRequest::operation`: the arena is to be without a session.
pub const SESSION_REMOVE: u32 = 8;

/// What a spawn asks of [`PORT_SESSION`](crate::abi::PORT_SESSION), behind its `CallHeader`. What
/// an operation has no use for is zero.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionRequest {
    /// One of `SESSION_CREATE` and so on.
    pub operation: u32,
    /// Zero.
    pub reserved: u32,
    /// The offer that is meant, by the number that the host has given it.
    pub ticket: u64,
    /// Greater than that of all requests that the spawn has sent before. The host refuses, with
    /// EAGAIN, what comes after a later one: nobody waits for it any more, or it is sent again.
    pub sequence: u64,
    /// The session's name, zero-terminated; what follows is zero too.
    pub name: [u8; NAME_LENGTH],
    /// Of an offer, the instance that it is made to, in the same form; all zero for the host.
    pub to: [u8; NAME_LENGTH],
}

/// `SessionAnswer::outcome`: no offer stands, or the one that is asked for has not been accepted.
pub const OUTCOME_OFFERED: u32 = 0;
/// `SessionAnswer::outcome`: it has been accepted, and neither committed nor aborted.
pub const OUTCOME_ACCEPTED: u32 = 1;
/// `SessionAnswer::outcome`: the session is the other's.
pub const OUTCOME_COMMITTED: u32 = 2;
/// `SessionAnswer::outcome`: the session has stayed with who offered it.
pub const OUTCOME_ABORTED: u32 = 3;

/// The answer to a [`SessionRequest`], behind its `CallHeader`, if the status is 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionAnswer {
    /// Physical address of the arena, a multiple of 2 MiB. It is none of the spawn's own memory.
    pub base: u64,
    /// Bytes of the arena, a multiple of 2 MiB.
    pub size: u64,
    /// Of CREATE, OPEN, OFFER and ACCEPT: the offer that stands, 0 if none does.
    pub ticket: u64,
    /// One of `OUTCOME_*`.
    pub outcome: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = {
    assert!(offset_of!(SessionHeader, bytes) == 32);
    assert!(offset_of!(SessionHeader, name) == 48);
    assert!(size_of::<SessionHeader>() == 112);
    assert!(offset_of!(SessionTable, count) == 8);
    assert!(size_of::<SessionTable>() == 128);
    assert!(offset_of!(SessionEntry, kind) == 64);
    assert!(offset_of!(SessionEntry, offset) == 72);
    assert!(offset_of!(SessionEntry, length) == 80);
    assert!(size_of::<SessionEntry>() == 128);
    assert!(size_of::<SessionHeader>() as u64 <= SESSION_TABLES[0]);
    assert!(
        size_of::<SessionTable>() + SESSION_ENTRIES_MAX * size_of::<SessionEntry>() == 0x1_0000
    );
    assert!(SESSION_TABLES[0] + 0x1_0000 == SESSION_TABLES[1]);
    assert!(SESSION_TABLES[1] + 0x1_0000 == SESSION_DATA);

    assert!(offset_of!(SessionRequest, ticket) == 8);
    assert!(offset_of!(SessionRequest, sequence) == 16);
    assert!(offset_of!(SessionRequest, name) == 24);
    assert!(offset_of!(SessionRequest, to) == 88);
    assert!(size_of::<SessionRequest>() == 152);
    assert!(offset_of!(SessionAnswer, ticket) == 16);
    assert!(offset_of!(SessionAnswer, outcome) == 24);
    assert!(size_of::<SessionAnswer>() == 32);
};
