// SPDX-License-Identifier: GPL-2.0

//! The face of a port whose lanes are mapped: messages without system calls.
//!
//! Lanes and bells are those of the kernel, from its own source: `lane.rs` and `wake.rs`. Here is
//! the memory that they work on, and when it takes a system call after all: to sleep, and to ring
//! who sleeps at the other end.

use std::cell::Cell;
use std::hint;
use std::mem::offset_of;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{fence, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use multikernel_sys as sys;
use rustix::event::PollFlags;

use super::lane::{Broken, LaneMemory, Receiver, SendError, Sender, Shape, WORDS};
use super::wake::{must_ring, BellMemory, Rung};
use super::{nap, Port, Received};
use crate::abi::{LaneHead, LANE_HEAD_BYTES, MESSAGE_DATA};
use crate::device::syscall::{self, SharedMap};
use crate::{Error, Result};

/// A word that accesses beyond a mapping go to; there are none.
static NOWHERE: AtomicU64 = AtomicU64::new(0);

/// A mapped lane.
#[derive(Clone, Debug)]
struct LaneMap(Arc<SharedMap>);

impl LaneMap {
    #[inline]
    fn word(&self, at: usize) -> &AtomicU64 {
        self.0.words().get(at).unwrap_or(&NOWHERE)
    }

    #[inline]
    fn slot(&self, slot: usize, word: usize) -> &AtomicU64 {
        self.word(LANE_HEAD_BYTES / 8 + slot * WORDS + word)
    }

    /// Where the receiver says that it sleeps.
    fn asleep(&self) -> Bell<'_> {
        Bell(self.word(offset_of!(LaneHead, asleep) / 8))
    }

    /// Where the sender says that it waits for credit.
    fn waiting(&self) -> Bell<'_> {
        Bell(self.word(offset_of!(LaneHead, waiting) / 8))
    }
}

impl LaneMemory for LaneMap {
    #[inline]
    fn load(&self, slot: usize, word: usize) -> u64 {
        self.slot(slot, word).load(Ordering::Relaxed)
    }

    #[inline]
    fn store(&self, slot: usize, word: usize, value: u64) {
        self.slot(slot, word).store(value, Ordering::Relaxed);
    }

    #[inline]
    fn load_stamp(&self, slot: usize) -> u64 {
        self.slot(slot, 0).load(Ordering::Acquire)
    }

    #[inline]
    fn store_stamp(&self, slot: usize, value: u64) {
        self.slot(slot, 0).store(value, Ordering::Release);
    }

    #[inline]
    fn load_head(&self) -> u64 {
        self.word(offset_of!(LaneHead, head) / 8)
            .load(Ordering::Acquire)
    }

    #[inline]
    fn store_head(&self, value: u64) {
        self.word(offset_of!(LaneHead, head) / 8)
            .store(value, Ordering::Release);
    }
}

/// Who sleeps at an end of a lane. The kernel puts him to sleep, in poll(2).
struct Bell<'a>(&'a AtomicU64);

impl Bell<'_> {
    /// Is awake, if it is this process that sleeps there.
    fn wake(&self) {
        let sleep = self.0.load(Ordering::Relaxed);
        if sleep & 1 != 0 {
            // Not if the kernel has begun another sleep since, for a thread that polls as well.
            let awake = sleep.wrapping_add(1);
            let order = Ordering::Relaxed;
            let _ = self.0.compare_exchange(sleep, awake, order, order);
        }
    }
}

impl BellMemory for Bell<'_> {
    fn asleep(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn set_asleep(&self, value: u64) {
        self.0.store(value, Ordering::Release);
    }

    fn barrier(&self) {
        fence(Ordering::SeqCst);
    }
}

/// For which sleep of the other end this one has rung last.
#[derive(Debug, Default)]
struct LastRung(Cell<u64>);

impl Rung for LastRung {
    fn exchange(&self, sleep: u64) -> u64 {
        self.0.replace(sleep)
    }

    fn get(&self) -> u64 {
        self.0.get()
    }
}

/// The lane from the other end.
#[derive(Debug)]
struct Receiving {
    lane: LaneMap,
    receiver: Receiver<LaneMap>,
    /// The head that the sender had been told when it was last rung for.
    told: u64,
    /// For a sender that waits for credit.
    rung: LastRung,
}

/// A port whose lanes are mapped: [`Self::try_send`] and [`Self::try_recv`] make no system call,
/// but to ring a program at the other end that sleeps.
///
/// As nothing is asked of the kernel, they do not notice that the other end is closed. Those that
/// wait do: [`Self::recv`] and [`Self::send`], and [`Self::is_closed`].
///
/// fork(2) does not pass the mappings on: a child that uses this crashes.
#[derive(Debug)]
pub struct MappedPort {
    port: Port,
    shape: Shape,
    lane: LaneMap,
    sender: Sender<LaneMap>,
    /// For a receiver that sleeps.
    rung: LastRung,
    /// Once the other end has been opened.
    receiving: Option<Receiving>,
    polling: Duration,
}

impl MappedPort {
    /// How long [`Self::recv`] and [`Self::send`] poll before they sleep, unless it is said.
    pub const POLLING: Duration = Duration::from_micros(50);

    /// Polls between two looks at the clock.
    const POLLS: u32 = 64;

    /// Takes a port over.
    pub(super) fn new(port: Port) -> Result<Self> {
        let info = take_over(&port)?;
        let lane = map(&port, &info, info.send_offset)?;
        let shape = Shape::new(info.lane_slots, info.epoch)
            .filter(|shape| is_known(&info, *shape))
            .ok_or_else(|| {
                Error::new(
                    port.cannot("map"),
                    "the kernel has lanes that this library does not know",
                )
                .advice("Use the library that was built with this kernel")
            })?;
        let sender = Sender::resume(lane.clone(), shape, info.send_position)
            .map_err(|Broken| broken(&port, "map"))?;
        let mut mapped = Self {
            port,
            shape,
            lane,
            sender,
            rung: LastRung::default(),
            receiving: None,
            polling: Self::POLLING,
        };
        mapped.connect(&info)?;
        Ok(mapped)
    }

    /// Maps the lane in which the other end sends, if it is there.
    fn connect(&mut self, info: &sys::multikernel_ioctl_map_port) -> Result<()> {
        if info.connected == 0 || self.receiving.is_some() {
            return Ok(());
        }
        let lane = map(&self.port, info, info.receive_offset)?;
        self.receiving = Some(Receiving {
            receiver: Receiver::resume(lane.clone(), self.shape, info.receive_position),
            told: info.receive_position,
            lane,
            rung: LastRung::default(),
        });
        Ok(())
    }

    /// Sets how long [`Self::recv`] and [`Self::send`] poll before they sleep in the kernel: none
    /// at all for [`Duration::ZERO`], for ever for [`Duration::MAX`].
    pub fn set_polling(&mut self, polling: Duration) {
        self.polling = polling;
    }

    /// The most bytes of a message.
    pub fn longest(&self) -> usize {
        self.shape.longest()
    }

    /// Whether the other end has ever been opened. Until [`Self::recv`] has seen that, there is
    /// nothing to receive.
    pub fn is_connected(&self) -> bool {
        self.receiving.is_some()
    }

    /// Puts a message into the lane, and leaves who receives asleep.
    fn put(&mut self, message: &[u8]) -> Result<bool> {
        if message.is_empty() {
            let error = std::io::Error::from_raw_os_error(libc::EINVAL);
            return Err(self.port.explain("send on", &error));
        }
        match self.sender.send(MESSAGE_DATA, 0, message) {
            Ok(()) => Ok(true),
            Err(SendError::Full) => Ok(false),
            Err(SendError::Broken) => Err(broken(&self.port, "send on")),
            Err(SendError::TooLong) => {
                let error = std::io::Error::from_raw_os_error(libc::EMSGSIZE);
                Err(self.port.explain("send on", &error))
            }
        }
    }

    /// Rings who receives, if he sleeps.
    fn ring_receiver(&self) -> Result<()> {
        if must_ring(&self.lane.asleep(), &self.rung) {
            return ring(&self.port);
        }
        Ok(())
    }

    /// Sends a message, if there is room for it at once; says whether there was.
    ///
    /// # Errors
    ///
    /// As [`Port::try_send`]. Of `EPIPE` it knows only if there is somebody to be rung.
    #[inline]
    pub fn try_send(&mut self, message: &[u8]) -> Result<bool> {
        let sent = self.put(message)?;
        // Also of a full lane: he may sleep for what is in it.
        self.ring_receiver()?;
        Ok(sent)
    }

    /// Sends as many of these messages as there is room for, in order, and then rings once; says
    /// how many were sent.
    ///
    /// # Errors
    ///
    /// As [`Self::try_send`], for the first message that cannot be sent; those before it have been.
    pub fn try_send_batch<'a>(
        &mut self,
        messages: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<usize> {
        let mut sent = Ok(0);
        for message in messages {
            match self.put(message) {
                Ok(true) => sent = sent.map(|count: usize| count + 1),
                Ok(false) => break,
                Err(error) => {
                    sent = Err(error);
                    break;
                }
            }
        }
        let rung = self.ring_receiver();
        sent.and_then(|count| rung.map(|()| count))
    }

    /// Takes a message, and leaves who waits for credit asleep.
    #[inline]
    fn get(&mut self, buffer: &mut [u8]) -> Result<Option<usize>> {
        let Some(receiving) = &mut self.receiving else {
            return Ok(None);
        };
        match receiving.receiver.receive(buffer) {
            Ok(Some(header)) => Ok(Some((header.length as usize).min(buffer.len()))),
            Ok(None) => Ok(None),
            Err(Broken) => Err(broken(&self.port, "receive on")),
        }
    }

    /// Rings who waits for credit, if there is more than he knew of.
    #[inline]
    fn ring_sender(&mut self) -> Result<()> {
        let Some(receiving) = &mut self.receiving else {
            return Ok(());
        };
        let published = receiving.receiver.published();
        if receiving.told != published {
            receiving.told = published;
            if must_ring(&receiving.lane.waiting(), &receiving.rung) {
                return ring(&self.port);
            }
        }
        Ok(())
    }

    /// Receives a message, if there is one: how many bytes it has. What is longer than the buffer
    /// is cut off.
    ///
    /// # Errors
    ///
    /// `EPROTO` if the other side broke the rules, now and ever after.
    #[inline]
    pub fn try_recv(&mut self, buffer: &mut [u8]) -> Result<Option<usize>> {
        let got = self.get(buffer)?;
        self.ring_sender()?;
        Ok(got)
    }

    /// Receives up to `count` messages, as many as there are, and hands each to `take`; says how
    /// many there were.
    ///
    /// # Errors
    ///
    /// As [`Self::try_recv`]; those before have been handed over.
    pub fn try_recv_batch(
        &mut self,
        count: usize,
        buffer: &mut [u8],
        mut take: impl FnMut(&[u8]),
    ) -> Result<usize> {
        let mut taken = 0;
        while taken < count {
            let Some(bytes) = self.get(buffer)? else {
                break;
            };
            take(&buffer[..bytes]);
            taken += 1;
        }
        self.ring_sender()?;
        Ok(taken)
    }

    /// Receives a message, when there is one: polls for a while, then sleeps. Never
    /// [`Received::Nothing`].
    ///
    /// # Errors
    ///
    /// As [`Self::try_recv`].
    pub fn recv(&mut self, buffer: &mut [u8]) -> Result<Received> {
        self.recv_until(buffer, None)
    }

    /// Receives a message, if there is one within that time.
    ///
    /// # Errors
    ///
    /// As [`Self::try_recv`].
    pub fn recv_timeout(&mut self, buffer: &mut [u8], timeout: Duration) -> Result<Received> {
        self.recv_until(buffer, Some(Instant::now() + timeout))
    }

    fn recv_until(&mut self, buffer: &mut [u8], deadline: Option<Instant>) -> Result<Received> {
        loop {
            // Of a lane that is not there yet the kernel alone tells when it comes.
            if self.receiving.is_some() {
                let got = self.poll_for(deadline, |this| this.try_recv(buffer))?;
                if let Some(bytes) = got {
                    return Ok(Received::Message(bytes));
                }
            }
            let ready = self.sleep(PollFlags::IN, deadline)?;
            if let Some(bytes) = self.try_recv(buffer)? {
                return Ok(Received::Message(bytes));
            }
            if ready.contains(PollFlags::HUP) {
                return Ok(Received::Closed);
            }
            if ready.is_empty() {
                return Ok(Received::Nothing);
            }
            if self.receiving.is_none() {
                // That is what there was to be told.
                let info = take_over(&self.port)?;
                self.connect(&info)?;
            }
        }
    }

    /// Sends a message, when there is room for it: polls for a while, then sleeps.
    ///
    /// # Errors
    ///
    /// As [`Self::try_send`].
    pub fn send(&mut self, message: &[u8]) -> Result<()> {
        self.send_until(message, None).map(drop)
    }

    /// Sends a message if there is room for it within that time; says whether there was.
    ///
    /// # Errors
    ///
    /// As [`Self::try_send`].
    pub fn send_timeout(&mut self, message: &[u8], timeout: Duration) -> Result<bool> {
        self.send_until(message, Some(Instant::now() + timeout))
    }

    fn send_until(&mut self, message: &[u8], deadline: Option<Instant>) -> Result<bool> {
        loop {
            let try_send = |this: &mut Self| Ok(this.try_send(message)?.then_some(()));
            if self.poll_for(deadline, try_send)?.is_some() {
                return Ok(true);
            }
            let ready = self.sleep(PollFlags::OUT, deadline)?;
            if ready.is_empty() {
                return self.try_send(message);
            }
            if !ready.contains(PollFlags::OUT) {
                // Hung up. If that is for ever, this says so.
                ring(&self.port)?;
                nap(deadline);
            }
        }
    }

    /// Tries until it succeeds or has been tried for long enough.
    fn poll_for<T>(
        &mut self,
        deadline: Option<Instant>,
        mut attempt: impl FnMut(&mut Self) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        if let Some(done) = attempt(self)? {
            return Ok(Some(done));
        }
        if self.polling.is_zero() {
            return Ok(None);
        }
        let until = Instant::now().checked_add(self.polling);
        let until = [until, deadline].into_iter().flatten().min();
        while until.is_none_or(|until| Instant::now() < until) {
            for _ in 0..Self::POLLS {
                if let Some(done) = attempt(self)? {
                    return Ok(Some(done));
                }
                hint::spin_loop();
            }
        }
        Ok(None)
    }

    /// Sleeps until there is one of these things to do, or the other end is closed; says what.
    fn sleep(&mut self, events: PollFlags, deadline: Option<Instant>) -> Result<PollFlags> {
        let ready = self.port.wait_for(events, deadline);
        if let Some(receiving) = &self.receiving {
            receiving.lane.asleep().wake();
        }
        self.lane.waiting().wake();
        ready
    }

    /// Whether the other end is closed, or its kernel has ended, and all that it sent has been
    /// received. Asks the kernel.
    ///
    /// # Errors
    ///
    /// That it cannot be asked.
    pub fn is_closed(&mut self) -> Result<bool> {
        if let Some(receiving) = &mut self.receiving {
            // The kernel looks for messages from there on.
            receiving.receiver.publish();
        }
        self.ring_sender()?;
        let ready = self.sleep(PollFlags::IN, Some(Instant::now()))?;
        Ok(ready.contains(PollFlags::HUP))
    }
}

impl AsFd for MappedPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.port.as_fd()
    }
}

/// Whoever opens the port next goes on behind what has been received here.
impl Drop for MappedPort {
    fn drop(&mut self) {
        if let Some(receiving) = &mut self.receiving {
            receiving.receiver.publish();
        }
    }
}

fn take_over(port: &Port) -> Result<sys::multikernel_ioctl_map_port> {
    syscall::map_port(port.as_fd()).map_err(|error| port.explain("map", &error))
}

fn map(port: &Port, info: &sys::multikernel_ioctl_map_port, offset: u64) -> Result<LaneMap> {
    let bytes = usize::try_from(info.lane_bytes).unwrap_or(usize::MAX);
    let map = SharedMap::at(port.as_fd(), offset, bytes);
    map.map(|map| LaneMap(Arc::new(map)))
        .map_err(|error| Error::new(port.cannot("map"), error))
}

/// Whether a mapping has all of a lane that looks as this library thinks.
fn is_known(info: &sys::multikernel_ioctl_map_port, shape: Shape) -> bool {
    let slots = shape.slots() as u64 * (WORDS as u64 * 8);
    u64::from(info.head_bytes) == LANE_HEAD_BYTES as u64
        && info.lane_bytes >= slots + LANE_HEAD_BYTES as u64
}

fn ring(port: &Port) -> Result<()> {
    syscall::ring_port(port.as_fd()).map_err(|error| port.explain("send on", &error))
}

fn broken(port: &Port, what: &str) -> Error {
    let error = std::io::Error::from_raw_os_error(libc::EPROTO);
    port.explain(what, &error)
}
