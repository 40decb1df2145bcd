// SPDX-License-Identifier: GPL-2.0

//! Ports of user space: a lane in each direction, and who waits at their ends.
//!
//! A port that is opened on both sides of a link is a channel: what is written on one side is read
//! on the other, message by message, in order. Each side has a lane of its own for it, in which
//! nothing else goes, so that a reader who is slow holds up his own writer alone: that one gets
//! `EAGAIN`, or waits. Who waits says so in the lane, as a CPU does in its bell, and names the CPU
//! that looks after the channel; its doorbell wakes him.
//!
//! A process can take the lanes of a port over and map them, see `mapped.rs`. The kernel looks at
//! them then only for who sleeps.
//!
//! Each end of a lane has a spinlock with interrupts off. Lock order: an inbox, then the list of
//! ports of a link, then the end at which is read, then the other.

use kernel::{
    bindings,
    cpu::CpuId,
    fs::File,
    new_spinlock_irq,
    prelude::*,
    static_lock_class,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        poll::{
            PollCondVarBox,
            PollTable, //
        },
        Arc,
        SpinLockIrq, //
    },
    uaccess::UserSlice,
    uapi, //
};

use super::{
    lane::{
        slots_for,
        Receiver,
        SendError,
        Sender, //
    },
    outbox::Link,
    ports::{
        Ends,
        Port, //
    },
    region::{
        LaneWords,
        LastRung, //
    },
    stats::{
        self,
        Traffic, //
    },
    wake::{
        self,
        Sleeper, //
    }, //
};
use crate::abi;

/// The end at which is written.
pub(super) struct Writer {
    pub(super) lane: u32,
    pub(super) sender: Sender<LaneWords>,
    /// For how many slots somebody waits, at least.
    wants: usize,
    /// Waits for credit.
    pub(super) sleeper: Sleeper,
    /// For which sleep of the reader he has been rung.
    pub(super) rung: LastRung,
    pub(super) traffic: Traffic,
    /// Whether a process that has the lane mapped has gone to sleep since a doorbell was last
    /// looked at: one that rings for it may find nothing, as the process looks by itself, too.
    slept: bool,
}

/// The end at which is read; it is there once the other side has opened the port.
pub(super) struct Reader {
    pub(super) lane: u32,
    pub(super) receiver: Receiver<LaneWords>,
    /// Whether the process that has the port mapped knows of this lane.
    pub(super) told: bool,
    /// Waits for a message.
    pub(super) sleeper: Sleeper,
    /// For which wait for credit the writer has been rung.
    pub(super) rung: LastRung,
    traffic: Traffic,
    /// As in [`Writer`].
    slept: bool,
}

/// Called when there may be a message or credit, or the other side has opened or closed the port;
/// in a softirq, with the list of ports locked.
pub(crate) type Told = fn(&Arc<Link>);

/// A port that somebody has open.
#[pin_data]
pub(crate) struct Channel {
    pub(super) link: Arc<Link>,
    number: u32,
    /// The CPU whose doorbell wakes who waits.
    pub(super) cpu: u32,
    /// Who is told as well, if the port is this kernel's.
    told: Option<Told>,
    /// Whether a process has taken the lanes over, once and for all. Written with both ends locked.
    pub(super) mapped: Atomic<bool>,
    /// Closed, for good. Written with the reading end locked.
    closed: Atomic<bool>,
    #[pin]
    pub(super) writer: SpinLockIrq<Option<Writer>>,
    #[pin]
    pub(super) reader: SpinLockIrq<Option<Reader>>,
    /// Freed when nobody can look at it any more: to wait for that would take who closes the port,
    /// or ends, tens of milliseconds.
    pub(super) changed: PollCondVarBox,
}

impl Channel {
    /// Opens a port.
    ///
    /// # Errors
    ///
    /// - `EADDRINUSE`: somebody has it.
    /// - `ENOSPC`: the link has no lane left.
    /// - `ENOMEM`; what [`Link::check_up`] fails with.
    pub(crate) fn open(link: &Arc<Link>, number: u32) -> Result<Arc<Self>> {
        link.check_up()?;
        Self::open_as(link, number, None)
    }

    /// Opens a port of this kernel, whose other side need not be there yet. `told` is called when
    /// something has changed.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    #[cfg(CONFIG_MULTIKERNEL_VSOCK)]
    pub(crate) fn open_kernel(link: &Arc<Link>, number: u32, told: Told) -> Result<Arc<Self>> {
        Self::open_as(link, number, Some(told))
    }

    fn open_as(link: &Arc<Link>, number: u32, told: Option<Told>) -> Result<Arc<Self>> {
        let cpu = CpuId::current().as_u32() % link.region.layout().side(link.side).cpus.max(1);
        let changed = PollCondVarBox::new(c"multikernel::port_changed", static_lock_class!())?;
        let channel = Arc::pin_init(
            pin_init!(Self {
                link: link.clone(),
                number,
                cpu,
                told,
                mapped: Atomic::new(false),
                closed: Atomic::new(false),
                writer <- new_spinlock_irq!(None, "multikernel::port_writer"),
                reader <- new_spinlock_irq!(None, "multikernel::port_reader"),
                changed,
            }),
            GFP_KERNEL,
        )?;

        let mut ports = link.ports.lock();
        let found = ports.list.iter_mut().find(|port| port.number == number);
        let ends = match found {
            Some(port) => {
                let ends = port.ends.take().ok_or(EADDRINUSE)?;
                port.channel = Some(channel.clone());
                ends
            }
            None => {
                let (lane, sender) = link.open_port_lane(number, cpu)?;
                let port = Port {
                    number,
                    ends: None,
                    channel: Some(channel.clone()),
                };
                // There is room for as many as there are lanes.
                ports.list.push_within_capacity(port).map_err(|_| ENOSPC)?;
                Ends {
                    writer: Writer {
                        lane,
                        sender,
                        wants: usize::MAX,
                        sleeper: Sleeper::new(),
                        rung: LastRung(Atomic::new(0)),
                        traffic: Traffic::default(),
                        slept: false,
                    },
                    reader: None,
                }
            }
        };
        let lane = ends.writer.lane;
        if let Some(reader) = &ends.reader {
            link.region.set_reader_cpu(link.peer(), reader.lane, cpu);
        }
        *channel.writer.lock() = Some(ends.writer);
        *channel.reader.lock() = ends.reader;
        link.region
            .set_port_state(link.side, lane, abi::LANE_OPEN, cpu);
        link.region.change(link.side);
        link.has_ports.store(true, Relaxed);
        link.ring_any();
        drop(ports);
        Ok(channel)
    }

    /// The port.
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// Closes the port. What has come and was not read is lost.
    pub(crate) fn close(&self) {
        let link = &self.link;
        let mut ports = link.ports.lock();
        let mut guard = self.reader.lock();
        self.closed.store(true, Relaxed);
        let mut reader = guard.take();
        drop(guard);
        let mut writer = self.writer.lock().take();
        self.take_back(reader.as_mut(), writer.as_mut());
        if let Some(reader) = &mut reader {
            // No more than the lane holds: who goes on writing finds it full again.
            for _ in 0..link.shape().slots() {
                if !matches!(reader.receiver.receive(&mut []), Ok(Some(_))) {
                    break;
                }
            }
            reader.receiver.publish();
        }
        let port = ports
            .list
            .iter_mut()
            .find(|port| port.number == self.number);
        let mut gone = None;
        if let (Some(port), Some(writer)) = (port, writer) {
            link.region
                .set_port_state(link.side, writer.lane, abi::LANE_CLOSED, 0);
            port.ends = Some(Ends { writer, reader });
            gone = port.channel.take();
        }
        link.region.change(link.side);
        link.ring_any();
        drop(ports);
        drop(gone);
    }

    /// Finds the other side's lane, if it has opened the port.
    pub(super) fn find_lane(&self, reader: &mut Option<Reader>) {
        let (region, peer) = (&self.link.region, self.link.peer());
        if reader.is_some() || self.closed.load(Relaxed) {
            return;
        }
        let of_port =
            |lane: &u32| region.lane_ends(peer, *lane) == Some((abi::LANE_OF_PORT, self.number));
        let Some(lane) = (0..region.lanes(peer)).find(of_port) else {
            return;
        };
        if let Some(memory) = region.lane(peer, lane) {
            region.set_reader_cpu(peer, lane, self.cpu);
            *reader = Some(Reader {
                lane,
                receiver: Receiver::new(memory, self.link.shape()),
                told: false,
                sleeper: Sleeper::new(),
                rung: LastRung(Atomic::new(0)),
                traffic: Traffic::default(),
                slept: false,
            });
        }
    }

    /// Whether the other side has closed the port, or is gone.
    fn is_over(&self, reader: &Option<Reader>) -> bool {
        let (region, peer) = (&self.link.region, self.link.peer());
        let closed = |reader: &Reader| region.port_state(peer, reader.lane).0 == abi::LANE_CLOSED;
        self.link.check_up().is_err() || reader.as_ref().is_some_and(closed)
    }

    /// Whether there is something to be read, or never will be; if not, a doorbell rings once there
    /// is.
    ///
    /// That stays so if there is something after all: others may be waiting too.
    fn is_readable(&self, reader: &mut Option<Reader>) -> bool {
        self.find_lane(reader);
        let Some(reader) = reader else {
            return false;
        };
        let mapped = self.is_mapped();
        let readable = |reader: &Reader| {
            if mapped {
                reader.has_news()
            } else {
                reader.receiver.has_message() || reader.receiver.is_broken()
            }
        };
        if readable(reader) {
            return true;
        }
        let bell = self.link.region.reader_bell(self.link.peer(), reader.lane);
        bell.is_some_and(|bell| {
            reader.sleeper.sleep(&bell);
            readable(reader)
        })
    }

    /// Whether that many slots can be written, or none ever; if not, a doorbell rings once they
    /// can.
    fn is_writable(&self, writer: &mut Writer, slots: usize) -> bool {
        let mapped = self.is_mapped();
        if writer.has_credit(slots, mapped) {
            return true;
        }
        writer.wants = writer.wants.min(slots);
        let bell = self.link.region.writer_bell(self.link.side, writer.lane);
        bell.is_some_and(|bell| {
            writer.sleeper.sleep(&bell);
            writer.has_credit(slots, mapped)
        })
    }

    /// Wakes who waits here, if there is a reason to; whether there was, or has been since the last
    /// time. If not, he is asleep anew: whoever rang for the sleep that is over does not ring for
    /// it again.
    pub(super) fn wake(&self, anew: bool) -> bool {
        let mut reader = self.reader.lock();
        let mut moved = false;
        if let Some(reader) = (*reader).as_mut() {
            moved |= reader.traffic.moved() | core::mem::take(&mut reader.slept);
        }
        let mut reason = anew
            || (self.may_sleep(&reader) && self.is_readable(&mut reader))
            || self.is_over(&reader);
        drop(reader);
        let mut guard = self.writer.lock();
        if let Some(writer) = (*guard).as_mut() {
            moved |= writer.traffic.moved() | core::mem::take(&mut writer.slept);
            let wants = writer.wants;
            if wants != usize::MAX && self.is_writable(writer, wants) {
                writer.wants = usize::MAX;
                reason = true;
            }
        }
        drop(guard);
        if reason {
            self.changed.notify_all();
            if let Some(told) = self.told {
                told(&self.link);
            }
        }
        reason || moved
    }

    /// Takes one message, of at most `bytes` bytes, to user memory; what is longer is cut off. Of
    /// no bytes is the end: the other side has closed the port, or is gone.
    ///
    /// # Errors
    ///
    /// `EAGAIN`, `ERESTARTSYS`, `EPROTO`, `EFAULT` (the message is lost then), `ENOMEM`, `EBUSY` (a
    /// process has the lanes mapped).
    pub(crate) fn read(&self, address: usize, bytes: usize, wait: bool) -> Result<usize> {
        if bytes == 0 {
            return Ok(0);
        }
        let mut buffer = KVec::from_elem(0u8, self.link.shape().longest(), GFP_KERNEL)?;
        let mut reader = self.reader.lock();
        let length = loop {
            if self.is_mapped() {
                return Err(EBUSY);
            }
            if let Some(length) = self.take(&mut reader, &mut buffer)? {
                break length;
            }
            if self.is_over(&reader) {
                return Ok(0);
            }
            if !wait {
                return Err(EAGAIN);
            }
            if self.changed.wait_interruptible(&mut reader) {
                return Err(ERESTARTSYS);
            }
        };
        drop(reader);
        let length = length.min(bytes);
        let message = buffer.get(..length).ok_or(EPROTO)?;
        UserSlice::new(UserPtr::from_addr(address), length)
            .writer()
            .write_slice(message)?;
        Ok(length)
    }

    /// Takes one message, if there is one, to the beginning of `buffer`, which has room for the
    /// longest. If there is none, a doorbell rings once there is.
    fn take(&self, reader: &mut Option<Reader>, buffer: &mut [u8]) -> Result<Option<usize>> {
        if !self.is_readable(reader) {
            return Ok(None);
        }
        let (header, lane) = match reader {
            Some(reader) => {
                let header = reader.receiver.receive(buffer);
                match header {
                    Ok(Some(header)) => reader.traffic.count(header.length as usize),
                    Err(_) if reader.receiver.is_newly_broken() => {
                        self.link.note_broken("from port", self.number);
                    }
                    _ => {}
                }
                (header, reader.lane)
            }
            None => (Ok(None), 0),
        };
        let Some(header) = header.map_err(|_| EPROTO)? else {
            return Ok(None);
        };
        self.give_credit(reader, lane);
        Ok(Some(header.length as usize))
    }

    /// Takes one message, if there is one, to the beginning of `buffer`, which has room for the
    /// longest. Never waits; for a port of this kernel.
    ///
    /// # Errors
    ///
    /// `EPROTO` if the other side has broken the lane.
    #[cfg(CONFIG_MULTIKERNEL_VSOCK)]
    pub(crate) fn receive_bytes(&self, buffer: &mut [u8]) -> Result<Option<usize>> {
        self.take(&mut self.reader.lock(), buffer)
    }

    /// Whether the other side has had the port open, and has closed it or is gone. What it sent
    /// before may still be there. For a port of this kernel.
    #[cfg(CONFIG_MULTIKERNEL_VSOCK)]
    pub(crate) fn has_ended_there(&self) -> bool {
        let reader = self.reader.lock();
        reader.is_some() && self.is_over(&reader)
    }

    /// Sends one message. Never waits; for a port of this kernel.
    ///
    /// # Errors
    ///
    /// `EAGAIN`: who was given to [`Self::open_kernel`] is told when there is credit. `EMSGSIZE`,
    /// `EPROTO`; what [`Link::check_up`] fails with.
    #[cfg(CONFIG_MULTIKERNEL_VSOCK)]
    pub(crate) fn send_bytes(&self, message: &[u8]) -> Result {
        let mut writer = self.writer.lock();
        self.link.check_up()?;
        self.send((*writer).as_mut().ok_or(EPIPE)?, message)
    }

    /// Whether the other side is up and has the port open.
    #[cfg(CONFIG_MULTIKERNEL_VSOCK)]
    pub(crate) fn is_open_there(&self) -> bool {
        let mut reader = self.reader.lock();
        self.find_lane(&mut reader);
        reader.is_some() && !self.is_over(&reader)
    }

    /// Gives the writer back what has been read, and rings him if he waits for it.
    fn give_credit(&self, reader: &mut Option<Reader>, lane: u32) {
        let (region, peer) = (&self.link.region, self.link.peer());
        if let (Some(reader), Some(bell)) = (reader, region.writer_bell(peer, lane)) {
            // First: there is a barrier between this and the look at the bell.
            reader.receiver.publish();
            if wake::must_ring(&bell, &reader.rung) {
                let _ = self.link.ring(region.port_state(peer, lane).1);
            }
        }
    }

    /// Sends one message from user memory.
    ///
    /// # Errors
    ///
    /// `EAGAIN`, `ERESTARTSYS`, `EMSGSIZE`, `EINVAL` (of no bytes), `EPIPE`, `EPROTO`, `EFAULT`,
    /// `ENOMEM`, `EBUSY` (a process has the lanes mapped).
    pub(crate) fn write(&self, address: usize, bytes: usize, wait: bool) -> Result<usize> {
        if bytes > self.link.shape().longest() {
            return Err(EMSGSIZE);
        }
        if bytes == 0 {
            // It would be taken for the end.
            return Err(EINVAL);
        }
        let mut message = KVec::new();
        UserSlice::new(UserPtr::from_addr(address), bytes).read_all(&mut message, GFP_KERNEL)?;
        let mut guard = self.writer.lock();
        loop {
            self.link.check_up()?;
            if self.is_mapped() {
                return Err(EBUSY);
            }
            let writer = (*guard).as_mut().ok_or(EPIPE)?;
            match self.send(writer, &message) {
                Ok(()) => return Ok(bytes),
                Err(EAGAIN) if wait => {}
                Err(error) => return Err(error),
            }
            if self.changed.wait_interruptible(&mut guard) {
                return Err(ERESTARTSYS);
            }
        }
    }

    /// Sends a message, or has a doorbell ring once it can be sent.
    fn send(&self, writer: &mut Writer, message: &[u8]) -> Result {
        let (region, side) = (&self.link.region, self.link.side);
        let mut result = writer.send(self.number, message);
        if result == Err(SendError::Full) && self.is_writable(writer, slots_for(message.len())) {
            result = writer.send(self.number, message);
        }
        let bell = region.reader_bell(side, writer.lane);
        if bell.is_some_and(|bell| wake::must_ring(&bell, &writer.rung)) {
            let rung = self.link.ring(region.reader_cpu(side, writer.lane));
            writer.traffic.count_doorbell(rung);
        }
        if result == Err(SendError::Broken) && writer.sender.is_newly_broken() {
            self.link.note_broken("to port", self.number);
        }
        result.map_err(|error| match error {
            SendError::Full => EAGAIN,
            SendError::TooLong => EMSGSIZE,
            SendError::Broken => EPROTO,
        })
    }

    /// What there is to do for poll(2).
    pub(crate) fn poll(&self, file: &File, table: PollTable<'_>) -> u32 {
        table.register_wait(file, &self.changed);
        let mut mask = 0;
        let mut reader = self.reader.lock();
        if let Some(reader) = (*reader).as_mut() {
            reader.slept |= self.is_mapped();
        }
        if self.is_readable(&mut reader) {
            mask |= bindings::POLLIN | bindings::POLLRDNORM;
        } else if self.is_over(&reader) {
            mask |= bindings::POLLIN | bindings::POLLRDNORM | bindings::POLLHUP;
        }
        drop(reader);
        let mut guard = self.writer.lock();
        if let Some(writer) = (*guard).as_mut() {
            writer.slept |= self.is_mapped();
            if self.is_writable(writer, self.link.shape().slots() / 2) {
                mask |= bindings::POLLOUT | bindings::POLLWRNORM;
            }
        }
        mask
    }
}

impl Writer {
    /// Sends a message.
    fn send(&mut self, port: u32, message: &[u8]) -> Result<(), SendError> {
        let sender = &mut self.sender;
        self.traffic.send(sender, abi::MESSAGE_DATA, port, message)
    }

    /// What is told of its lane, which a process has mapped or not.
    pub(super) fn stats(&mut self, port: u32, mapped: bool) -> uapi::multikernel_link_lane {
        let lane = stats::lane(self.lane, flags(mapped), 0, port);
        if mapped {
            self.traffic.rung(&self.sender, lane)
        } else {
            self.traffic.sent(&mut self.sender, lane)
        }
    }

    /// Whether that many slots can be written, or none ever; `mapped` if by a process.
    fn has_credit(&mut self, slots: usize, mapped: bool) -> bool {
        if mapped {
            self.sender.finds_credit(slots)
        } else {
            self.sender.has_credit(slots).unwrap_or(true)
        }
    }
}

impl Reader {
    /// What is told of its lane, which a process has mapped or not.
    pub(super) fn stats(&self, port: u32, mapped: bool) -> uapi::multikernel_link_lane {
        let flags = flags(mapped) | uapi::MULTIKERNEL_LANE_RECEIVES;
        let lane = stats::lane(self.lane, flags, 0, port);
        self.traffic.received(self.receiver.is_broken(), lane)
    }
}

/// `MULTIKERNEL_LANE_*` of a port's lane.
fn flags(mapped: bool) -> u32 {
    let mapped = if mapped {
        uapi::MULTIKERNEL_LANE_MAPPED
    } else {
        0
    };
    uapi::MULTIKERNEL_LANE_PORT | mapped
}
