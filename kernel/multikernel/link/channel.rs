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
    new_poll_condvar,
    new_spinlock_irq,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        poll::{
            PollCondVar,
            PollTable, //
        },
        Arc,
        SpinLockIrq, //
    },
    uaccess::UserSlice, //
};

use super::{
    lane::{
        slots_for,
        Receiver,
        SendError,
        Sender, //
    },
    outbox::Link,
    region::{
        LaneWords,
        LastRung, //
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
}

/// The ends of a port that nobody has open at the moment.
struct Ends {
    writer: Writer,
    reader: Option<Reader>,
}

/// A port that is or was open here.
struct Port {
    number: u32,
    /// If nobody has it.
    ends: Option<Ends>,
    /// If somebody has it.
    channel: Option<Arc<Channel>>,
}

/// The ports of a link.
pub(crate) struct Ports {
    list: KVec<Port>,
    /// `LinkState::changes` of the other side as last seen.
    changes: u32,
}

impl Ports {
    /// Room for as many ports as there are lanes.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(lanes: usize) -> Result<Self> {
        Ok(Self {
            list: KVec::with_capacity(lanes, GFP_KERNEL)?,
            changes: 0,
        })
    }
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
    cpu: u32,
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
    #[pin]
    pub(super) changed: PollCondVar,
}

/// A doorbell rang on a CPU: wakes those who wait for what it may be about; whether there was one.
pub(crate) fn doorbell(link: &Arc<Link>, cpu: u32) -> bool {
    if !link.has_ports.load(Relaxed) {
        return false;
    }
    let mut any = false;
    let mut ports = link.ports.lock();
    let changes = link.region.changes(link.peer());
    let anew = changes != ports.changes;
    ports.changes = changes;
    for port in &ports.list {
        if let Some(channel) = &port.channel {
            if anew || channel.cpu == cpu || link.check_up().is_err() {
                any |= channel.wake(anew);
            }
        }
    }
    any
}

/// The other side of a link has gone: nobody waits for it any longer, or rings for a port.
pub(crate) fn abandon(link: &Arc<Link>) {
    for port in &link.ports.lock().list {
        if let Some(channel) = &port.channel {
            // Who has seen the link up with one of these locks waits by now, or has rung.
            drop(channel.reader.lock());
            drop(channel.writer.lock());
            channel.changed.notify_all();
        }
    }
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
                changed <- new_poll_condvar!("multikernel::port_changed"),
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

    /// Wakes who waits here, if there is a reason to; whether there was. If not, he is asleep anew:
    /// whoever rang for the sleep that is over does not ring for it again.
    fn wake(&self, anew: bool) -> bool {
        let mut reader = self.reader.lock();
        let mut reason = anew
            || (self.may_sleep(&reader) && self.is_readable(&mut reader))
            || self.is_over(&reader);
        drop(reader);
        let mut guard = self.writer.lock();
        if let Some(writer) = (*guard).as_mut() {
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
        reason
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
                if header.is_err() && reader.receiver.is_newly_broken() {
                    self.link.note_broken("from port", self.number);
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
                self.link.ring(region.port_state(peer, lane).1);
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
        let mut result = writer.sender.send(abi::MESSAGE_DATA, self.number, message);
        if result == Err(SendError::Full) && self.is_writable(writer, slots_for(message.len())) {
            result = writer.sender.send(abi::MESSAGE_DATA, self.number, message);
        }
        let bell = region.reader_bell(side, writer.lane);
        if bell.is_some_and(|bell| wake::must_ring(&bell, &writer.rung)) {
            self.link.ring(region.reader_cpu(side, writer.lane));
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
        if self.is_readable(&mut reader) {
            mask |= bindings::POLLIN | bindings::POLLRDNORM;
        } else if self.is_over(&reader) {
            mask |= bindings::POLLIN | bindings::POLLRDNORM | bindings::POLLHUP;
        }
        drop(reader);
        let mut guard = self.writer.lock();
        if let Some(writer) = (*guard).as_mut() {
            if self.is_writable(writer, self.link.shape().slots() / 2) {
                mask |= bindings::POLLOUT | bindings::POLLWRNORM;
            }
        }
        mask
    }
}

impl Writer {
    /// Whether that many slots can be written, or none ever; `mapped` if by a process.
    fn has_credit(&mut self, slots: usize, mapped: bool) -> bool {
        if mapped {
            self.sender.finds_credit(slots)
        } else {
            self.sender.has_credit(slots).unwrap_or(true)
        }
    }
}
