// SPDX-License-Identifier: GPL-2.0

//! Ports whose lanes a process has mapped: taking them over, ringing for them, taking them back.
//!
//! The process sends and receives in the lanes by itself. The kernel goes on to do what the process
//! cannot: it puts who calls poll(2) to sleep, wakes him, and rings the other side. What it has to
//! know for that it finds in the lanes, each time anew: the receiver's position in the head, the
//! sender's in the stamps from there on. All of that may be garbage, from the process as from the
//! other side: it is bounded as it always is, and concerns this port alone.
//!
//! The lanes are taken back when nobody has the port open or mapped any more: a mapping keeps the
//! file open. From what the memory says the kernel goes on; where that cannot be, the port is
//! broken as long as the link lives.
//!
//! It shares the locks of `channel.rs`.

use kernel::{
    prelude::*,
    sync::atomic::Relaxed, //
};

use super::{
    channel::{
        Channel,
        Reader,
        Writer, //
    },
    region::PortBell,
    wake::{
        self,
        BellMemory,
        Sleeper, //
    }, //
};

/// What a process has to know of lanes that it takes over.
pub(crate) struct Lanes {
    /// Epoch of the link.
    pub(crate) epoch: u32,
    /// Slots of each lane.
    pub(crate) slots: u32,
    /// Bytes of each lane, whole pages.
    pub(crate) bytes: u64,
    /// Where it goes on to send.
    pub(crate) send_position: u64,
    /// Where it goes on to receive; `None` as long as the other side has never opened the port.
    pub(crate) receive_position: Option<u64>,
}

impl Channel {
    /// Whether a process has taken the lanes over. It is certain with an end locked.
    pub(super) fn is_mapped(&self) -> bool {
        self.mapped.load(Relaxed)
    }

    /// Gives the lanes to a process, once and for all; and tells it again, or of the other side's
    /// lane when that has come.
    ///
    /// # Errors
    ///
    /// `EPROTO` if a lane is broken; what [`Link::check_up`](super::outbox::Link::check_up) fails
    /// with.
    pub(crate) fn take_over(&self) -> Result<Lanes> {
        self.link.check_up()?;
        let layout = self.link.region.layout();
        let mut reader = self.reader.lock();
        let mut writer = self.writer.lock();
        let writer = (*writer).as_mut().ok_or(EPIPE)?;
        self.find_lane(&mut reader);
        if !self.is_mapped() {
            let broken = |reader: &Reader| reader.receiver.is_broken();
            if writer.sender.taken().is_err() || reader.as_ref().is_some_and(broken) {
                return Err(EPROTO);
            }
            self.mapped.store(true, Relaxed);
        }
        let lanes = Lanes {
            epoch: layout.epoch(),
            slots: layout.lane_slots(),
            bytes: super::layout::lane_bytes(layout.lane_slots()),
            send_position: writer.sender.tail(),
            receive_position: (*reader).as_mut().map(|reader| {
                reader.told = true;
                // All that was taken has been told at each read(2).
                reader.receiver.head()
            }),
        };
        drop(reader);
        // Who waits in read(2) or write(2) has nothing to wait for.
        self.changed.notify_all();
        Ok(lanes)
    }

    /// Physical address of one of the lanes, and its bytes; they stay where they are as long as
    /// `self` lives.
    ///
    /// # Errors
    ///
    /// `ENXIO` if it has not been taken over, or is not there yet.
    pub(crate) fn pages(&self, receive: bool) -> Result<(u64, u64)> {
        let (region, link) = (&self.link.region, &self.link);
        let pages = if receive {
            let reader = self.reader.lock();
            let lane = reader.as_ref().map(|reader| reader.lane);
            lane.and_then(|lane| region.lane_pages(link.peer(), lane))
        } else {
            let writer = self.writer.lock();
            let lane = writer.as_ref().map(|writer| writer.lane);
            lane.and_then(|lane| region.lane_pages(link.side, lane))
        };
        pages.filter(|_| self.is_mapped()).ok_or(ENXIO)
    }

    /// Rings who sleeps at the other end, for a message or for credit. To be called when the
    /// process has written one or the other.
    ///
    /// # Errors
    ///
    /// As [`Self::take_over`], but `EPROTO`.
    pub(crate) fn ring(&self) -> Result {
        let (link, region) = (&self.link, &self.link.region);
        link.check_up()?;
        let reader = self.reader.lock();
        if let Some(reader) = reader.as_ref() {
            let bell = region.writer_bell(link.peer(), reader.lane);
            if bell.is_some_and(|bell| wake::must_ring(&bell, &reader.rung)) {
                let _ = link.ring(region.port_state(link.peer(), reader.lane).1);
            }
        }
        drop(reader);
        let mut writer = self.writer.lock();
        if let Some(writer) = (*writer).as_mut() {
            let bell = region.reader_bell(link.side, writer.lane);
            if bell.is_some_and(|bell| wake::must_ring(&bell, &writer.rung)) {
                let rung = link.ring(region.reader_cpu(link.side, writer.lane));
                writer.traffic.count_doorbell(rung);
            }
        }
        Ok(())
    }

    /// Whether the reader may be asleep: a process that has woken says so itself, and is not put to
    /// sleep before it comes again, so that nobody rings it meanwhile.
    pub(super) fn may_sleep(&self, reader: &Option<Reader>) -> bool {
        let asleep = |reader: &Reader| {
            let bell = self.link.region.reader_bell(self.link.peer(), reader.lane);
            !reader.told || bell.is_some_and(|bell| bell.asleep() & 1 != 0)
        };
        !self.is_mapped() || reader.as_ref().is_none_or(asleep)
    }

    /// Takes the lanes back from a process that had taken them over, if one had.
    pub(super) fn take_back(&self, reader: Option<&mut Reader>, writer: Option<&mut Writer>) {
        if !self.is_mapped() {
            return;
        }
        let link = &self.link;
        if let Some(reader) = reader {
            let bell = link.region.reader_bell(link.peer(), reader.lane);
            if !is_own(bell, &reader.sleeper) || reader.receiver.recover().is_err() {
                reader.receiver.fail();
                self.say_broken("received");
            }
        }
        if let Some(writer) = writer {
            let bell = link.region.writer_bell(link.side, writer.lane);
            if !is_own(bell, &writer.sleeper) || writer.sender.recover().is_err() {
                writer.sender.fail();
                self.say_broken("sent");
            }
        }
    }

    fn say_broken(&self, what: &str) {
        self.link.faults.broken.add(1, Relaxed);
        pr_warn!(
            "link to {}: of port {:#x}, what a process has {} in its mapping cannot be\n",
            self.link.peer_id(),
            self.number(),
            what
        );
    }
}

impl Reader {
    /// Whether there is something that the process which has the port mapped does not know.
    pub(super) fn has_news(&self) -> bool {
        !self.told || self.receiver.finds_message()
    }
}

/// Whether a bell says what the kernel or a process made of it. After any other number the other
/// side may have rung for a sleep that is yet to come.
fn is_own(bell: Option<PortBell<'_>>, sleeper: &Sleeper) -> bool {
    bell.is_some_and(|bell| sleeper.is_own(bell.asleep()))
}
