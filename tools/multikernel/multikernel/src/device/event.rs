// SPDX-License-Identifier: GPL-2.0

//! Events: the changes of instances' states, as read(2) returns them.

use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use multikernel_sys as sys;
use serde::Serialize;

use super::{Reason, State};
use crate::explain::explain;
use crate::Result;

/// Bytes of one event.
const SIZE: usize = size_of::<sys::multikernel_event>();
/// How many events one read takes at most.
const EVENTS_MAX: usize = 64;

/// An instance changed its state.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Event {
    /// Counts the events of this host, from 1.
    pub sequence: u64,
    /// When it was: CLOCK_MONOTONIC, in nanoseconds.
    pub time_ns: u64,
    /// How many events before this one were not kept for this reader.
    pub lost: u64,
    /// The instance's id.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Its new state.
    pub state: State,
    /// The reason for it.
    pub reason: Reason,
    /// How often the instance has been started.
    pub epoch: u32,
}

/// What a read brought.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum EventRead {
    /// At least one event, in their order.
    Events(Vec<Event>),
    /// The instance has been destroyed, and all of its events have been read.
    Gone,
}

impl Event {
    fn decode(bytes: &[u8; SIZE]) -> Self {
        // The field at an offset that `offset_of!` gave is inside the structure.
        let u64_at = |at: usize| {
            let mut field = [0; 8];
            field.copy_from_slice(&bytes[at..at + 8]);
            u64::from_ne_bytes(field)
        };
        let u32_at = |at: usize| {
            let mut field = [0; 4];
            field.copy_from_slice(&bytes[at..at + 4]);
            u32::from_ne_bytes(field)
        };
        let name = &bytes[offset_of!(sys::multikernel_event, name)..];
        let end = name.iter().position(|byte| *byte == 0);
        Self {
            sequence: u64_at(offset_of!(sys::multikernel_event, sequence)),
            time_ns: u64_at(offset_of!(sys::multikernel_event, time_ns)),
            lost: u64_at(offset_of!(sys::multikernel_event, lost)),
            id: u32_at(offset_of!(sys::multikernel_event, id)),
            name: String::from_utf8_lossy(&name[..end.unwrap_or(name.len())]).into_owned(),
            state: State::from_abi(u32_at(offset_of!(sys::multikernel_event, state))),
            reason: Reason::from_abi(u32_at(offset_of!(sys::multikernel_event, reason))),
            epoch: u32_at(offset_of!(sys::multikernel_event, epoch)),
        }
    }
}

/// Decodes what one read returned; the kernel returns whole events only.
fn decode(bytes: &[u8]) -> io::Result<EventRead> {
    let (events, rest) = bytes.as_chunks::<SIZE>();
    match (events, rest) {
        ([], []) => Ok(EventRead::Gone),
        (events, []) => Ok(EventRead::Events(
            events.iter().map(Event::decode).collect(),
        )),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the kernel returned a part of an event",
        )),
    }
}

/// Waits for events and reads them.
pub(super) fn read(fd: BorrowedFd<'_>) -> io::Result<EventRead> {
    let mut buffer = vec![0; SIZE * EVENTS_MAX];
    let count = loop {
        match rustix::io::read(fd, &mut buffer) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    decode(&buffer[..count])
}

/// The events of all instances.
#[derive(Debug)]
pub struct Events {
    fd: OwnedFd,
}

impl Events {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Waits for events and reads those there are. [`AsFd`] gives what poll(2) can wait for.
    pub fn read(&self) -> Result<EventRead> {
        read(self.fd.as_fd()).map_err(|error| explain("cannot watch the instances", &error))
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(event: &Event, state: u32, reason: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        for field in [event.sequence, event.time_ns, event.lost] {
            bytes.extend(field.to_ne_bytes());
        }
        for field in [event.id, event.epoch, state, reason] {
            bytes.extend(field.to_ne_bytes());
        }
        bytes.extend(super::super::name_field(&event.name));
        bytes
    }

    fn event(sequence: u64, state: State, reason: Reason) -> Event {
        Event {
            sequence,
            time_ns: 5_000_000_000,
            lost: 3,
            id: 7,
            name: "web".into(),
            state,
            reason,
            epoch: 2,
        }
    }

    #[test]
    fn events_are_decoded() {
        let first = event(1, State::Crashed, Reason::Hung);
        let second = event(2, State::Gone, Reason::None);
        let mut bytes = encode(&first, 6, 6);
        assert_eq!(bytes.len(), SIZE);
        bytes.extend(encode(&second, 8, 0));
        assert_eq!(
            decode(&bytes).unwrap(),
            EventRead::Events(vec![first, second])
        );
    }

    #[test]
    fn the_end_and_a_broken_read() {
        assert_eq!(decode(&[]).unwrap(), EventRead::Gone);
        assert!(decode(&[0; SIZE + 1]).is_err());
        assert!(decode(&[0; 8]).is_err());
    }

    #[test]
    fn values_from_a_newer_kernel_and_a_name_without_end() {
        let mut strange = event(1, State::Unknown, Reason::Unknown);
        strange.name = "a".repeat(64);
        let bytes = encode(&strange, 99, 99);
        assert_eq!(decode(&bytes).unwrap(), EventRead::Events(vec![strange]));
    }

    #[test]
    fn json_has_the_words_of_the_table() {
        let json = serde_json::to_value(event(1, State::Failed, Reason::NoConfirm)).unwrap();
        assert_eq!(json["state"], "failed");
        assert_eq!(json["reason"], "no-confirm");
    }
}
