// SPDX-License-Identifier: GPL-2.0

//! What the host and a spawn say to each other about links between spawns: the payload of calls of
//! [`PORT_LINKS`](crate::abi::PORT_LINKS). The pure part.
//!
//! This file uses `core` alone, has no `unsafe` and needs no lock.

#![allow(unreachable_pub)]

use crate::abi::{
    LinksMessage,
    LINK_CPUS_MAX,
    NAME_LENGTH, //
};

/// Bytes of a message without the APIC ids.
pub const HEAD: usize = size_of::<LinksMessage>();
/// APIC ids that one message has room for: the payload of a call is at most 1024 bytes.
pub const IDS_MAX: usize = (1024 - HEAD) / 4;

/// A message with some APIC ids.
#[derive(Clone, Copy)]
pub struct Message<'a> {
    /// What is said.
    pub head: LinksMessage,
    /// APIC ids, four bytes each.
    ids: &'a [[u8; 4]],
}

/// A message of `operation` about the link of this epoch to that instance, and nothing else.
pub const fn about(operation: u32, peer: u32, epoch: u32) -> LinksMessage {
    LinksMessage {
        operation,
        epoch,
        peer,
        side: 0,
        base: 0,
        size: 0,
        cpus: 0,
        first: 0,
        name: [0; NAME_LENGTH],
    }
}

impl<'a> Message<'a> {
    /// Takes apart what has come; `None` if it is too short, or of an odd length.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (head, rest) = bytes.split_at_checked(HEAD)?;
        let (ids, []) = rest.as_chunks::<4>() else {
            return None;
        };
        let word = |at: usize| Some(u32::from_le_bytes(*head.get(at..)?.first_chunk()?));
        let long = |at: usize| Some(u64::from_le_bytes(*head.get(at..)?.first_chunk()?));
        Some(Self {
            head: LinksMessage {
                operation: word(0)?,
                epoch: word(4)?,
                peer: word(8)?,
                side: word(12)?,
                base: long(16)?,
                size: long(24)?,
                cpus: word(32)?,
                first: word(36)?,
                name: *head.get(40..)?.first_chunk()?,
            },
            ids,
        })
    }

    /// The APIC ids.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = u32> + '_ {
        self.ids.iter().map(|id| u32::from_le_bytes(*id))
    }

    /// Whether the APIC ids of an offer are such as can follow on `before` others.
    pub fn follows_on(&self, before: usize) -> bool {
        let head = &self.head;
        (1..=LINK_CPUS_MAX).contains(&head.cpus)
            && head.first as usize == before
            && !self.ids.is_empty()
            && before + self.ids.len() <= head.cpus as usize
    }
}

/// Writes a message, with as many of the APIC ids as there is room for; how many bytes it has.
/// `None` if the buffer is too small.
pub fn compose(buffer: &mut [u8], head: &LinksMessage, ids: &[u32]) -> Option<usize> {
    let ids = ids.get(..ids.len().min(IDS_MAX))?;
    let length = HEAD + 4 * ids.len();
    let (to, _) = buffer.split_at_mut_checked(length)?;
    let mut put = |at: usize, bytes: &[u8]| {
        to.get_mut(at..at + bytes.len())?.copy_from_slice(bytes);
        Some(())
    };
    let words = [head.operation, head.epoch, head.peer, head.side];
    for (i, word) in words.into_iter().enumerate() {
        put(i * 4, &word.to_le_bytes())?;
    }
    put(16, &head.base.to_le_bytes())?;
    put(24, &head.size.to_le_bytes())?;
    put(32, &head.cpus.to_le_bytes())?;
    put(36, &head.first.to_le_bytes())?;
    put(40, &head.name)?;
    for (i, id) in ids.iter().enumerate() {
        put(HEAD + i * 4, &id.to_le_bytes())?;
    }
    Some(length)
}

#[cfg(any(test, CONFIG_MULTIKERNEL_KUNIT_TEST))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(multikernel_link_offer))]
mod tests {
    use super::*;
    use crate::abi::LINKS_OFFER;

    fn head() -> LinksMessage {
        LinksMessage {
            side: 1,
            base: 0x1234_5678_9000,
            size: 0x4_0000,
            cpus: 3,
            first: 1,
            name: [b'a'; NAME_LENGTH],
            ..about(LINKS_OFFER, 7, 9)
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut buffer = [0; 1024];
        let length = compose(&mut buffer, &head(), &[5, u32::MAX]);
        assert_eq!(length, Some(HEAD + 8));
        let message = Message::parse(&buffer[..HEAD + 8]);
        assert!(message.is_some_and(|message| message.head == head()
            && message.ids().eq([5, u32::MAX])
            && message.follows_on(1)));
        assert!(Message::parse(&buffer[..HEAD + 7]).is_none());
        assert!(Message::parse(&buffer[..HEAD - 1]).is_none());
        assert!(compose(&mut buffer[..HEAD + 7], &head(), &[5, 6]).is_none());
    }

    #[test]
    fn no_more_than_there_is_room_for() {
        let (mut buffer, ids) = ([0; 1024], [1; 512]);
        assert_eq!(compose(&mut buffer, &head(), &ids), Some(1024));
    }

    #[test]
    fn apic_ids_come_in_order_and_no_more_than_there_are() {
        let mut buffer = [0; 1024];
        let mut follows = |cpus, first, count: usize, before| {
            let head = LinksMessage {
                cpus,
                first,
                ..head()
            };
            let length = compose(&mut buffer, &head, &[0; 8][..count]).unwrap_or(0);
            Message::parse(&buffer[..length]).is_some_and(|it| it.follows_on(before))
        };
        assert!(follows(3, 0, 3, 0));
        assert!(follows(3, 2, 1, 2));
        assert!(!follows(3, 1, 3, 1));
        assert!(!follows(3, 1, 1, 0));
        assert!(!follows(3, 0, 0, 0));
        assert!(!follows(0, 0, 1, 0));
        assert!(!follows(513, 0, 1, 0));
    }
}
