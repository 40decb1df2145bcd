// SPDX-License-Identifier: GPL-2.0

//! The port fd: read, write and poll, its lanes for mmap(2), and the ioctls that go with these.
//!
//! `link/channel.rs` and `link/mapped.rs` do the work. No state of its own, no lock.

use kernel::{
    fs::File,
    prelude::*,
    str::CStr,
    sync::{
        poll::PollTable,
        Arc, //
    },
    uapi, //
};

use crate::{
    abi,
    device::{
        check_capable,
        check_flags,
        command, //
    },
    file::{
        self,
        AnonFile,
        NewFile, //
    },
    link::channel::Channel,
    user::UserStruct, //
};

/// ioctl(MULTIKERNEL_IOCTL_MAP_PORT).
const MAP_PORT: u32 = command(uapi::MULTIKERNEL_CMD_MAP_PORT);
/// ioctl(MULTIKERNEL_IOCTL_RING_PORT).
const RING_PORT: u32 = command(uapi::MULTIKERNEL_CMD_RING_PORT);

/// Makes a file for an open port, which it closes at its end.
///
/// # Errors
///
/// `ENOMEM`, `EMFILE`, `ENFILE`; the port is closed then.
pub(crate) fn open(channel: Arc<Channel>) -> Result<NewFile> {
    file::open(PortFile(channel))
}

/// What is behind a port fd.
struct PortFile(Arc<Channel>);

impl PortFile {
    fn map(&self, argument: usize) -> Result {
        let mut request = UserStruct::<uapi::multikernel_ioctl_map_port>::read(argument)?;
        check_flags(request.value.flags, 0)?;
        let lanes = self.0.take_over()?;
        request.value = uapi::multikernel_ioctl_map_port {
            size: 0,
            flags: 0,
            connected: lanes.receive_position.is_some().into(),
            epoch: lanes.epoch,
            lane_slots: lanes.slots,
            head_bytes: abi::LANE_HEAD_BYTES as u32,
            lane_bytes: lanes.bytes,
            send_offset: SEND_OFFSET,
            receive_offset: RECEIVE_OFFSET,
            send_position: lanes.send_position,
            receive_position: lanes.receive_position.unwrap_or(0),
        };
        request.write()
    }
}

/// Where mmap(2) has the lane in which the process sends.
const SEND_OFFSET: u64 = 0;
/// Where it has the other one: beyond what the first can take.
const RECEIVE_OFFSET: u64 = 1 << 30;

impl AnonFile for PortFile {
    const NAME: &'static CStr = c"[multikernel-port]";
    const OF_ONE_PROCESS: bool = true;

    fn ioctl(&self, command: u32, argument: usize) -> Result {
        match command {
            MAP_PORT => {
                check_capable()?;
                self.map(argument)
            }
            RING_PORT => {
                let request = UserStruct::<uapi::multikernel_ioctl_simple>::read(argument)?;
                check_flags(request.value.flags, 0)?;
                self.0.ring()
            }
            _ => Err(ENOTTY),
        }
    }

    fn mapping(&self, offset: u64, bytes: u64) -> Result<u64> {
        let (base, size) = match offset {
            SEND_OFFSET => self.0.pages(false),
            RECEIVE_OFFSET => self.0.pages(true),
            _ => Err(EINVAL),
        }?;
        if bytes != size {
            return Err(EINVAL);
        }
        Ok(base)
    }

    fn read(&self, address: usize, bytes: usize, wait: bool) -> Result<usize> {
        self.0.read(address, bytes, wait)
    }

    fn write(&self, address: usize, bytes: usize, wait: bool) -> Result<usize> {
        self.0.write(address, bytes, wait)
    }

    fn poll(&self, file: &File, table: PollTable<'_>) -> u32 {
        self.0.poll(file, table)
    }
}

impl Drop for PortFile {
    fn drop(&mut self) {
        self.0.close();
    }
}
