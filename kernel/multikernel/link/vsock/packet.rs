// SPDX-License-Identifier: GPL-2.0

//! Packets of AF_VSOCK as messages of a link. The pure part.
//!
//! A message is a `struct virtio_vsock_hdr` and the payload that it announces, and nothing behind
//! it. What is longer than a message goes as several packets, each with a header of its own, as a
//! virtio device does it when the other side's buffers are small. The receiver need not put
//! anything together: a stream has no boundaries, and the end of a record is said in the last
//! packet only.
//!
//! This file uses `core` alone and has no `unsafe`: the kernel and the tests compile it. It has no
//! state and takes no locks.

#![allow(unreachable_pub)]

/// Bytes of `struct virtio_vsock_hdr`.
pub const HEADER_BYTES: usize = 44;

/// `virtio_vsock_hdr::src_cid`, 8 bytes.
const SRC_CID: usize = 0;
/// `virtio_vsock_hdr::dst_cid`, 8 bytes.
const DST_CID: usize = 8;
/// `virtio_vsock_hdr::len`, 4 bytes.
const LEN: usize = 24;
/// `virtio_vsock_hdr::flags`, 4 bytes.
const FLAGS: usize = 32;

/// `VIRTIO_VSOCK_SEQ_EOM` and `VIRTIO_VSOCK_SEQ_EOR`: the end of a message, of a record.
const SEQ_ENDS: u32 = 1 | 2;

/// A packet's header, as it is in memory: little-endian, without padding.
pub type Header = [u8; HEADER_BYTES];

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// It has not as many bytes as its header says, or not even a header.
    Length,
    /// It is not from the sender of the message, or not to the receiver.
    Address,
}

fn long(header: &Header, at: usize) -> u64 {
    match header.get(at..).and_then(|rest| rest.first_chunk()) {
        Some(bytes) => u64::from_le_bytes(*bytes),
        None => 0,
    }
}

fn word(header: &Header, at: usize) -> u32 {
    match header.get(at..).and_then(|rest| rest.first_chunk()) {
        Some(bytes) => u32::from_le_bytes(*bytes),
        None => 0,
    }
}

fn set_word(header: &mut Header, at: usize, value: u32) {
    if let Some(bytes) = header.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *bytes = value.to_le_bytes();
    }
}

/// The CID that a packet is for.
pub fn destination(header: &Header) -> u64 {
    long(header, DST_CID)
}

/// Takes a message apart that came from the kernel of CID `from` to that of `to`.
///
/// Types, operations, flags and ports may be any: sockets check them.
///
/// # Errors
///
/// What is [`Wrong`].
pub fn parse(message: &[u8], from: u32, to: u32) -> Result<(&Header, &[u8]), Wrong> {
    let (header, payload) = message.split_first_chunk().ok_or(Wrong::Length)?;
    if word(header, LEN) as usize != payload.len() {
        return Err(Wrong::Length);
    }
    if long(header, SRC_CID) != from.into() || destination(header) != to.into() {
        return Err(Wrong::Address);
    }
    Ok((header, payload))
}

/// The header of a piece of a packet: of `bytes` bytes of its payload, with or without the last.
pub fn of_piece(header: &Header, bytes: u32, last: bool) -> Header {
    let mut header = *header;
    set_word(&mut header, LEN, bytes);
    if !last {
        let flags = word(&header, FLAGS) & !SEQ_ENDS;
        set_word(&mut header, FLAGS, flags);
    }
    header
}

#[cfg(any(test, CONFIG_MULTIKERNEL_KUNIT_TEST))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(multikernel_link_vsock))]
mod tests {
    use super::*;

    fn header(from: u64, to: u64, len: u32, flags: u32) -> Header {
        let mut header = [0x5a; HEADER_BYTES];
        for (at, value) in [(SRC_CID, from), (DST_CID, to)] {
            if let Some(bytes) = header.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
                *bytes = value.to_le_bytes();
            }
        }
        set_word(&mut header, LEN, len);
        set_word(&mut header, FLAGS, flags);
        header
    }

    #[test]
    fn what_is_right_is_taken_apart() {
        for bytes in [0, 1, 48] {
            let mut message = [7; HEADER_BYTES + 48];
            let header = header(3, 2, bytes as u32, 0);
            message[..HEADER_BYTES].copy_from_slice(&header);
            let got = parse(&message[..HEADER_BYTES + bytes], 3, 2);
            assert_eq!(got, Ok((&header, &[7u8; 48][..bytes])));
            assert_eq!(destination(&header), 2);
        }
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let check = |header: Header, payload: usize| {
            let mut message = [7; HEADER_BYTES + 48];
            message[..HEADER_BYTES].copy_from_slice(&header);
            parse(&message[..HEADER_BYTES + payload], 3, 2).map(|(_, payload)| payload.len())
        };
        assert_eq!(check(header(3, 2, 8, 0), 8), Ok(8));
        for (len, payload) in [(8, 7), (8, 9), (0, 1), (1, 0), (u32::MAX, 8)] {
            assert_eq!(check(header(3, 2, len, 0), payload), Err(Wrong::Length));
        }
        // The upper half of a CID counts too.
        for (from, to) in [(4, 2), (3, 3), (2, 3), (3 | 1 << 32, 2), (3, 2 | 1 << 32)] {
            assert_eq!(check(header(from, to, 8, 0), 8), Err(Wrong::Address));
        }
        for bytes in 0..HEADER_BYTES {
            assert_eq!(parse(&[0; HEADER_BYTES][..bytes], 0, 0), Err(Wrong::Length));
        }
    }

    #[test]
    fn the_last_piece_alone_ends_a_message() {
        let whole = header(2, 3, 5000, SEQ_ENDS | 8);
        let piece = of_piece(&whole, 1740, false);
        assert_eq!(piece, header(2, 3, 1740, 8));
        assert_eq!(
            of_piece(&whole, 1520, true),
            header(2, 3, 1520, SEQ_ENDS | 8)
        );
    }
}
