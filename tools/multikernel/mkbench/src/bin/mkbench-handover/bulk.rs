// SPDX-License-Identifier: GPL-2.0

//! Bytes that are copied over a port, in messages as long as there are.

use std::time::Duration;

use multikernel::port::{MappedPort, OpenPort, Received};
use multikernel::{Error, Result};

use crate::order::{BULK, DEADLINE};

/// Opens the port that they go over.
pub fn open(to: &impl OpenPort) -> Result<MappedPort> {
    let mut port = to.open_port(BULK)?.map()?;
    // There are more CPUs than processors where this is measured most often: who polls takes the
    // time of who sends.
    port.set_polling(Duration::ZERO);
    Ok(port)
}

fn too_late() -> Error {
    Error::new("cannot copy", "the other end has not done its part in time")
        .with_errno(libc::ETIMEDOUT)
}

/// Sends them all.
pub fn send(port: &mut MappedPort, bytes: &[u8]) -> Result<()> {
    for part in bytes.chunks(port.longest()) {
        if !port.send_timeout(part, DEADLINE)? {
            return Err(too_late());
        }
    }
    Ok(())
}

/// Receives so many.
pub fn receive(port: &mut MappedPort, size: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; size];
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match port.recv_timeout(rest, DEADLINE)? {
            Received::Message(length) => done += length,
            Received::Nothing => return Err(too_late()),
            Received::Closed => {
                return Err(
                    Error::new("cannot copy", "the other end is closed").with_errno(libc::EPIPE)
                )
            }
        }
    }
    Ok(bytes)
}
