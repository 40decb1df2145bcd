// SPDX-License-Identifier: GPL-2.0

//! What host and spawn say to each other beside what is measured: orders to the spawn, and its
//! replies, over a port.

use std::thread;
use std::time::{Duration, Instant};

use multikernel::port::{Port, Received};
use multikernel::{Error, Result};

/// The port for orders.
pub const CONTROL: u32 = Port::FIRST + 0x50;
/// The port at which the service answers.
pub const SERVICE: u32 = Port::FIRST + 0x51;
/// The port that bytes are copied over.
pub const BULK: u32 = Port::FIRST + 0x52;

/// How long anything may take that is waited for.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// How often to look where nothing tells.
pub const NAP: Duration = Duration::from_millis(5);

/// What a spawn is to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum What {
    /// Reply, accept the session, commit, look at its contents, reply when that was, and whether
    /// they were right.
    Accept,
    /// Write the contents of the session, which is this spawn's, offer it to the host, wait until
    /// it is that one's, and reply when it was offered.
    Offer,
    /// Send so many bytes.
    Send,
    /// Receive so many bytes, and reply when all were there, and whether they were right.
    Receive,
    /// Accept the session, commit, and serve with what is in it.
    Serve,
    /// Open the session, which is this spawn's of old, and serve.
    Resume,
    /// Reply, accept the session, reply when that was done, wait until the host has committed it,
    /// and serve.
    Adopt,
    /// Cease to serve, offer the session to the instance that is named, and reply when that was
    /// done. Serve again if it is called off.
    HandOver,
}

impl What {
    const ALL: [Self; 8] = [
        Self::Accept,
        Self::Offer,
        Self::Send,
        Self::Receive,
        Self::Serve,
        Self::Resume,
        Self::Adopt,
        Self::HandOver,
    ];
}

/// An order.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    /// What is to be done.
    pub what: What,
    /// Bytes of contents.
    pub size: usize,
    /// Contents are pages, and not bytes.
    pub pages: bool,
    /// What tells these contents from others.
    pub round: u64,
    /// Of a session; of an instance for [`What::HandOver`].
    pub name: String,
}

impl Order {
    /// One that needs no more than a name.
    pub fn named(what: What, name: &str) -> Self {
        let (size, pages, round) = (0, false, 0);
        let name = name.to_owned();
        Self {
            what,
            size,
            pages,
            round,
            name,
        }
    }

    /// As a message.
    pub fn to_bytes(&self) -> Vec<u8> {
        let words = [
            self.what as u64,
            self.size as u64,
            self.pages.into(),
            self.round,
        ];
        let mut bytes = to_bytes(&words);
        bytes.extend(self.name.as_bytes());
        bytes
    }

    /// From a message; `None` if it is none.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (words, name) = bytes.split_at_checked(32)?;
        let [what, size, pages, round] = from_bytes(words)?;
        Some(Self {
            what: *What::ALL.get(usize::try_from(what).ok()?)?,
            size: size.try_into().ok()?,
            pages: pages != 0,
            round,
            name: String::from_utf8(name.to_vec()).ok()?,
        })
    }
}

/// Words as a message.
pub fn to_bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// As many words from a message; `None` if it has not so many.
pub fn from_bytes<const N: usize>(bytes: &[u8]) -> Option<[u64; N]> {
    let (words, []) = bytes.as_chunks::<8>() else {
        return None;
    };
    let words: Vec<_> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
    words.try_into().ok()
}

/// A reply: a time by the time-stamp counter, and an errno, 0 if all went well.
pub type Reply = [u64; 2];

/// Receives a message, also of who opens the other end later or anew.
pub fn receive(port: &Port, deadline: Option<Instant>) -> Result<Vec<u8>> {
    let mut buffer = port.buffer();
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let got = match left {
            Some(left) => port.recv_timeout(&mut buffer, left)?,
            None => port.recv(&mut buffer)?,
        };
        match got {
            Received::Message(bytes) => {
                buffer.truncate(bytes);
                return Ok(buffer);
            }
            Received::Closed if port.has_ended()? => {
                return Err(Error::new("cannot receive", "the other kernel has ended")
                    .with_errno(libc::EPIPE));
            }
            _ if left.is_some_and(|left| left.is_zero()) => {
                return Err(Error::new("cannot receive", "nothing has come in time")
                    .with_errno(libc::ETIMEDOUT));
            }
            Received::Closed => thread::sleep(NAP),
            Received::Nothing => {}
        }
    }
}

/// Waits for a reply, and returns its time.
///
/// # Errors
///
/// What the spawn failed with, or that it has not replied.
pub fn reply(port: &Port) -> Result<u64> {
    let bytes = receive(port, Some(Instant::now() + DEADLINE))?;
    match from_bytes::<2>(&bytes) {
        Some([at, 0]) => Ok(at),
        Some([_, errno]) => {
            let errno = i32::try_from(errno).unwrap_or(libc::EPROTO);
            let why = std::io::Error::from_raw_os_error(errno);
            Err(Error::new("the spawn could not do its part", why).with_errno(errno))
        }
        None => Err(Error::new("cannot measure", "a reply makes no sense")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_as_messages() {
        for (number, what) in What::ALL.into_iter().enumerate() {
            assert_eq!(what as usize, number);
            let order = Order {
                what,
                size: 256 << 20,
                pages: true,
                round: 7,
                name: "web.next".to_owned(),
            };
            let mut bytes = order.to_bytes();
            assert_eq!(Order::from_bytes(&bytes), Some(order));
            bytes[0] = 8;
            assert_eq!(Order::from_bytes(&bytes), None);
        }
        let plain = Order::named(What::Serve, "");
        assert_eq!(Order::from_bytes(&plain.to_bytes()), Some(plain.clone()));
        assert_eq!(Order::from_bytes(&plain.to_bytes()[..31]), None);
    }

    #[test]
    fn words_as_messages() {
        let bytes = to_bytes(&[1, u64::MAX]);
        assert_eq!(from_bytes(&bytes), Some([1, u64::MAX]));
        assert_eq!(from_bytes::<3>(&bytes), None);
        assert_eq!(from_bytes::<1>(&bytes[..9]), None);
    }
}
