// SPDX-License-Identifier: GPL-2.0

//! Messages that can be told from each other, and the faces of a port as one.

use std::time::Duration;

use multikernel::port::{MappedPort, Port, Received};

use crate::{said, Result};

/// How long anything may take.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Message `number` has a length and bytes of its own.
pub fn compose(number: u32) -> Vec<u8> {
    let length = 1 + number.wrapping_mul(7919) as usize % Port::BYTES_MAX;
    (0..length)
        .map(|at| number.wrapping_add(at as u32 * 31) as u8)
        .collect()
}

/// A port, by whichever face.
pub trait Face {
    /// As [`Port::send_timeout`].
    fn send(&mut self, message: &[u8], timeout: Duration) -> multikernel::Result<bool>;
    /// As [`Port::recv_timeout`].
    fn recv(&mut self, buffer: &mut [u8], timeout: Duration) -> multikernel::Result<Received>;
}

impl Face for Port {
    fn send(&mut self, message: &[u8], timeout: Duration) -> multikernel::Result<bool> {
        self.send_timeout(message, timeout)
    }

    fn recv(&mut self, buffer: &mut [u8], timeout: Duration) -> multikernel::Result<Received> {
        self.recv_timeout(buffer, timeout)
    }
}

impl Face for MappedPort {
    fn send(&mut self, message: &[u8], timeout: Duration) -> multikernel::Result<bool> {
        self.send_timeout(message, timeout)
    }

    fn recv(&mut self, buffer: &mut [u8], timeout: Duration) -> multikernel::Result<Received> {
        self.recv_timeout(buffer, timeout)
    }
}

/// Sends a message; that there is no room for it in time is an error.
pub fn send(port: &mut dyn Face, message: &[u8]) -> Result<()> {
    match port.send(message, DEADLINE).map_err(said)? {
        true => Ok(()),
        false => Err("no room for a message".to_owned()),
    }
}

/// Receives a message; that there is none in time is an error. `None` is the end.
pub fn recv(port: &mut dyn Face) -> Result<Option<Vec<u8>>> {
    let mut buffer = vec![0; Port::BYTES_MAX];
    match port.recv(&mut buffer, DEADLINE).map_err(said)? {
        Received::Message(bytes) => {
            buffer.truncate(bytes);
            Ok(Some(buffer))
        }
        Received::Closed => Ok(None),
        Received::Nothing => Err("no message".to_owned()),
    }
}

/// Sends messages and has each back before the next.
pub fn there_and_back(port: &mut dyn Face, numbers: std::ops::Range<u32>) -> Result<()> {
    for number in numbers {
        let sent = compose(number);
        send(port, &sent).map_err(|why| format!("message {number}: {why}"))?;
        let got = loop {
            // What was left of an earlier opener's, who did not wait for it, is not meant.
            match recv(port).map_err(|why| format!("message {number}: {why}"))? {
                Some(got) => break got,
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        if got != sent {
            return Err(format!(
                "message {number} of {} bytes came back with {} others",
                sent.len(),
                got.len()
            ));
        }
    }
    Ok(())
}
