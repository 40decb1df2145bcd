// SPDX-License-Identifier: GPL-2.0

//! AF_VSOCK over links: sockets of programs here and in the other kernel.
//!
//! The host is CID 2, a spawn has its instance id. What a connection is, its credit included, is
//! the kernel's common code for virtio (see [`transport`]); this brings packets over, those of all
//! connections of a link in one port's lane of each side, in order. What finds no room there waits
//! in a queue, which the credit of the sockets bounds, and goes when the other side has taken
//! something. What comes is taken from the lane by a work item, where it may sleep.
//!
//! Neither side waits for the other while it holds something that the other waits for: a socket
//! that is not read has had credit for all that is under way to it, so that lanes are always
//! emptied. Packets to which a spawn has the host answer could grow the host's queue without a
//! bound, so a host takes no more from a spawn that leaves [`BACKLOG`] packets lying. A spawn takes
//! what its host sends in any case; if both were to wait, both could wait for ever.
//!
//! The list of peers has a spinlock with interrupts off, which nests inside that of a link's ports
//! and the kernel's table of sockets. A peer's `sender` and `receiver` are mutexes; a socket's lock
//! may be held when the former is taken, and is taken with the latter held.

use kernel::{
    bindings,
    new_mutex,
    new_spinlock_irq,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        barrier,
        Arc,
        Mutex,
        SetOnce,
        SpinLockIrq, //
    },
    time::Jiffies,
    workqueue::{
        impl_has_delayed_work,
        impl_has_work,
        new_delayed_work,
        new_work,
        DelayedWork,
        Work,
        WorkItem, //
    }, //
};

use super::{
    channel::Channel,
    outbox::Link, //
};
use crate::{
    abi,
    ledger::InstanceId,
    room, //
};

mod packet;
mod transport;

use packet::{
    Header,
    HEADER_BYTES, //
};
use transport::{
    work_queue,
    Carrier,
    Packet,
    Queue,
    Role,
    Socket,
    Transport, //
};

/// Packets that wait for a spawn's credit, before the host takes nothing from it any more.
const BACKLOG: usize = 1024;
/// Packets that wait at most. Credit bounds those with a payload far below; this is for requests to
/// connect, of which a process can make any number while the other kernel hangs.
const QUEUE_MAX: usize = 64 * BACKLOG;
/// Messages that are sent before the rest is left to the work item.
const SEND_BUDGET: usize = 256;
/// Messages that are taken before other work gets to run.
const RECEIVE_BUDGET: usize = 256;

/// What has been counted of a peer.
pub(crate) struct Counters {
    /// Messages sent.
    pub(crate) sent: Atomic<u64>,
    /// Messages received.
    pub(crate) received: Atomic<u64>,
    /// How often a message waited for credit.
    pub(crate) stalls: Atomic<u64>,
    /// Messages that were no packets, or had a wrong address.
    pub(crate) wrong: Atomic<u64>,
}

impl Counters {
    const fn new() -> Self {
        Self {
            sent: Atomic::new(0),
            received: Atomic::new(0),
            stalls: Atomic::new(0),
            wrong: Atomic::new(0),
        }
    }
}

/// What is being sent.
struct Sending {
    /// The packet, and how much of it has gone.
    packet: Option<(Packet, u32)>,
    /// For one message.
    message: KVec<u8>,
}

/// What is being received.
struct Receiving {
    /// The length of a message for which there was no memory.
    again: Option<usize>,
    /// For one message.
    message: KVec<u8>,
}

/// The sockets' part of a link.
#[pin_data]
pub(crate) struct Peer {
    link: Arc<Link>,
    channel: Arc<Channel>,
    /// The other kernel's CID.
    pub(crate) cid: u32,
    /// This kernel's CID.
    local: u32,
    /// Packets to be sent.
    #[pin]
    queue: Queue,
    #[pin]
    sender: Mutex<Sending>,
    #[pin]
    receiver: Mutex<Receiving>,
    /// Nothing is taken until the queue is shorter.
    full: Atomic<bool>,
    /// The link has ended, or the other side has broken its lane.
    over: Atomic<bool>,
    /// The other side has broken the lane in which this one sends.
    broken: Atomic<bool>,
    pub(crate) counters: Counters,
    #[pin]
    send: Work<Peer>,
    #[pin]
    receive: DelayedWork<Peer, 1>,
}

impl_has_work! {
    impl HasWork<Self> for Peer { self.send }
}

impl_has_delayed_work! {
    impl HasDelayedWork<Self, 1> for Peer { self.receive }
}

impl WorkItem for Peer {
    type Pointer = Arc<Peer>;

    fn run(this: Arc<Peer>) {
        this.send(&mut this.sender.lock());
    }
}

impl WorkItem<1> for Peer {
    type Pointer = Arc<Peer>;

    fn run(this: Arc<Peer>) {
        this.receive();
    }
}

/// What there is once in a kernel.
#[pin_data]
struct Sockets {
    /// This kernel's CID.
    local: u32,
    #[pin]
    peers: SpinLockIrq<KVec<Arc<Peer>>>,
    #[pin]
    registered: Mutex<Registered>,
}

/// Whether sockets know of the transport.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Registered {
    Yes,
    /// Not yet, or it has not been possible, of which the log has been told.
    No(bool),
}

static SOCKETS: SetOnce<Arc<Sockets>> = SetOnce::new();

static TRANSPORT: Transport<Links> = Transport::new();

impl Sockets {
    /// Those of this kernel, made at the first call.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    fn get(local: u32) -> Result<&'static Self> {
        if SOCKETS.as_ref().is_none() {
            // If another one was faster, that counts.
            SOCKETS.populate(Arc::pin_init(
                pin_init!(Self {
                    local,
                    peers <- new_spinlock_irq!(KVec::new(), "multikernel::vsock_peers"),
                    registered <- new_mutex!(Registered::No(false), "multikernel::vsock"),
                }),
                GFP_KERNEL,
            )?);
        }
        SOCKETS.as_ref().map(|sockets| &**sockets).ok_or(ENOMEM)
    }

    /// Has sockets know of the transport: not before there is somebody to talk to, as there can be
    /// one for all guests only.
    ///
    /// # Errors
    ///
    /// `EBUSY` if there is one already; `EINTR`.
    fn register(&self, role: Role) -> Result {
        let mut registered = self.registered.lock();
        let Registered::No(told) = *registered else {
            return Ok(());
        };
        match TRANSPORT.register(role) {
            Ok(()) => *registered = Registered::Yes,
            Err(EBUSY) if told => return Err(EBUSY),
            Err(error) => {
                *registered = Registered::No(true);
                return Err(error);
            }
        }
        Ok(())
    }

    fn find(&self, cid: u32) -> Option<Arc<Peer>> {
        let peers = self.peers.lock();
        peers.iter().find(|peer| peer.cid == cid).cloned()
    }

    fn add(&self, peer: Arc<Peer>) -> Result {
        let mut larger = KVec::new();
        loop {
            let mut peers = self.peers.lock();
            let Some(missing) = room::lacks(&peers, 1) else {
                // There is room.
                return peers.push_within_capacity(peer).map_err(|_| ENOMEM);
            };
            if larger.capacity() >= missing {
                room::adopt(&mut peers, core::mem::take(&mut larger));
                continue;
            }
            drop(peers);
            larger = KVec::with_capacity(missing, GFP_KERNEL)?;
        }
    }

    fn remove(&self, is: impl Fn(&Peer) -> bool) -> Option<Arc<Peer>> {
        let mut peers = self.peers.lock();
        let at = peers.iter().position(|peer| is(peer))?;
        peers.remove(at).ok()
    }
}

/// How packets get to the peers.
struct Links;

impl Carrier for Links {
    fn local() -> u32 {
        // There are no sockets before.
        SOCKETS.as_ref().map_or(u32::MAX, |sockets| sockets.local)
    }

    fn reaches(cid: u32) -> bool {
        SOCKETS
            .as_ref()
            .is_some_and(|sockets| sockets.find(cid).is_some())
    }

    fn send(packet: Packet) -> Result {
        let to = u32::try_from(packet::destination(&packet.header())).map_err(|_| ENODEV)?;
        let peer = SOCKETS.as_ref().and_then(|sockets| sockets.find(to));
        let peer = peer.ok_or(ENODEV)?;
        if !peer.channel.is_open_there() {
            return Err(EHOSTUNREACH);
        }
        if peer.queue.length() >= QUEUE_MAX {
            return Err(ENOBUFS);
        }
        peer.queue.push(packet);
        match peer.sender.try_lock() {
            Some(mut sending) => peer.send(&mut sending),
            // Who sends may have seen an empty queue already.
            None => peer.send_later(),
        }
        Ok(())
    }

    fn cancel(socket: &Socket) {
        if let Some(peer) = SOCKETS.as_ref().and_then(|it| it.find(socket.peer())) {
            peer.queue.cancel(socket);
            peer.resume();
        }
    }
}

/// Has sockets use a link.
///
/// # Errors
///
/// `EBUSY` if another transport has the host's, or the guest's, part; `EINTR`, `ENOSPC`, `ENOMEM`.
fn try_open(link: &Arc<Link>) -> Result {
    let (role, local, cid) = match link.side {
        abi::LINK_SIDE_HOST => (Role::Host, bindings::VMADDR_CID_HOST, link.peer_id()),
        side => (
            Role::Guest,
            link.region.layout().side(side).id,
            bindings::VMADDR_CID_HOST,
        ),
    };
    // Other CIDs are not those of single kernels.
    if link.side != abi::LINK_SIDE_HOST {
        InstanceId::new(local).ok_or(EINVAL)?;
    }
    let sockets = Sockets::get(local)?;
    sockets.register(role)?;
    let longest = link.shape().longest();
    let channel = Channel::open_kernel(link, abi::PORT_VSOCK, changed)?;
    let its_channel = channel.clone();
    let peer = Arc::pin_init(
        try_pin_init!(Peer {
            channel: its_channel,
            link: link.clone(),
            cid,
            local,
            queue <- Queue::new(),
            sender <- new_mutex!(
                Sending {
                    packet: None,
                    message: KVec::from_elem(0, longest, GFP_KERNEL)?,
                },
                "multikernel::vsock_sender"
            ),
            receiver <- new_mutex!(
                Receiving {
                    again: None,
                    message: KVec::from_elem(0, longest, GFP_KERNEL)?,
                },
                "multikernel::vsock_receiver"
            ),
            full: Atomic::new(false),
            over: Atomic::new(false),
            broken: Atomic::new(false),
            counters: Counters::new(),
            send <- new_work!("multikernel::vsock_send"),
            receive <- new_delayed_work!("multikernel::vsock_receive"),
        }? Error),
        GFP_KERNEL,
    )
    .inspect_err(|_| channel.close())?;
    sockets
        .add(peer.clone())
        .inspect_err(|_| peer.channel.close())?;
    // What came before there was anybody to be told.
    peer.receive_later(0);
    Ok(())
}

/// As [`try_open`]; a link is of use without sockets too.
pub(crate) fn open(link: &Arc<Link>) {
    match try_open(link) {
        Ok(()) => {}
        Err(EBUSY) => pr_notice!("no AF_VSOCK over links: another transport has its place\n"),
        Err(error) => pr_warn!(
            "no AF_VSOCK over the link to {}: {:?}\n",
            link.peer_id(),
            error
        ),
    }
}

/// Something has come, there is room, or the other side has opened or closed its port. In a
/// softirq, with a link's locks held.
fn changed(link: &Arc<Link>) {
    let of_link = |peer: &&Arc<Peer>| Arc::ptr_eq(&peer.link, link);
    if let Some(sockets) = SOCKETS.as_ref() {
        let peers = sockets.peers.lock();
        if let Some(peer) = peers.iter().find(of_link) {
            peer.receive_later(0);
            peer.send_later();
        }
    }
}

/// A link has ended: its connections are reset.
pub(crate) fn close(link: &Arc<Link>) {
    let Some(sockets) = SOCKETS.as_ref() else {
        return;
    };
    if let Some(peer) = sockets.remove(|peer| Arc::ptr_eq(&peer.link, link)) {
        peer.end();
    }
}

/// The peers that there are.
///
/// # Errors
///
/// `ENOMEM`.
pub(crate) fn peers() -> Result<KVec<Arc<Peer>>> {
    let mut list = KVec::new();
    let Some(sockets) = SOCKETS.as_ref() else {
        return Ok(list);
    };
    loop {
        let peers = sockets.peers.lock();
        if peers.len() <= list.capacity() {
            for peer in &*peers {
                // There is room.
                let _ = list.push_within_capacity(peer.clone());
            }
            return Ok(list);
        }
        let wanted = peers.len();
        drop(peers);
        list.reserve(wanted, GFP_KERNEL)?;
    }
}

impl Peer {
    /// How many packets wait to be sent.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.length()
    }

    // An error of these two means that it is queued already, which is as good.

    fn send_later(self: &Arc<Self>) {
        let _ = work_queue().enqueue::<_, 0>(self.clone());
    }

    fn receive_later(self: &Arc<Self>, jiffies: Jiffies) {
        let _ = work_queue().enqueue_delayed::<_, 1>(self.clone(), jiffies);
    }

    /// Sends what waits, as far as there is room. If something is left, a doorbell rings once there
    /// is.
    fn send(self: &Arc<Self>, sending: &mut Sending) {
        for _ in 0..SEND_BUDGET {
            if sending.packet.is_none() {
                let Some(packet) = self.queue.pop() else {
                    return;
                };
                self.resume();
                packet.show();
                sending.packet = Some((packet, 0));
            }
            match self.send_piece(sending) {
                Ok(()) => {
                    self.counters.sent.add(1, Relaxed);
                }
                Err(EAGAIN) => {
                    self.counters.stalls.add(1, Relaxed);
                    return;
                }
                // The other side has ended, which who receives finds too, or has broken the lane,
                // which he is told: here a socket may be locked.
                Err(error) => {
                    sending.packet = None;
                    if error == EPROTO && !self.broken.load(Relaxed) {
                        self.broken.store(true, Relaxed);
                        self.receive_later(0);
                    }
                }
            }
        }
        self.send_later();
    }

    /// Sends one message, of the packet that is being sent.
    fn send_piece(&self, sending: &mut Sending) -> Result {
        let Some((packet, gone)) = &mut sending.packet else {
            return Ok(());
        };
        let left = packet.length().saturating_sub(*gone);
        let (head, payload) = sending
            .message
            .split_first_chunk_mut::<HEADER_BYTES>()
            .ok_or(EMSGSIZE)?;
        // CAST: Not above `left`.
        let bytes = payload.len().min(left as usize) as u32;
        let payload = payload.get_mut(..bytes as usize).ok_or(EMSGSIZE)?;
        *head = packet::of_piece(&packet.header(), bytes, bytes == left);
        packet.copy(*gone, payload)?;
        let whole = sending.message.get(..HEADER_BYTES + bytes as usize);
        self.channel.send_bytes(whole.ok_or(EMSGSIZE)?)?;
        *gone += bytes;
        if bytes == left {
            if let Some((packet, _)) = sending.packet.take() {
                packet.sent();
            }
        }
        Ok(())
    }

    /// Whether nothing is to be taken from the other side, because it does not take what waits for
    /// it; `resume()` has it taken again.
    fn must_wait(&self) -> bool {
        if self.local != bindings::VMADDR_CID_HOST || self.queue.length() < BACKLOG {
            return false;
        }
        self.full.store(true, Relaxed);
        // Pairs with that in `resume()`: one of the two sees what the other has done.
        barrier::smp_mb(barrier::Full);
        self.queue.length() >= BACKLOG
    }

    /// The queue has become shorter.
    fn resume(self: &Arc<Self>) {
        // Pairs with that in `must_wait()`.
        barrier::smp_mb(barrier::Full);
        if self.full.load(Relaxed) && self.queue.length() < BACKLOG {
            self.full.store(false, Relaxed);
            self.receive_later(0);
        }
    }

    /// Takes messages, and hands them to their sockets.
    fn receive(self: &Arc<Self>) {
        let mut receiving = self.receiver.lock();
        let mut ended = false;
        for _ in 0..RECEIVE_BUDGET {
            if self.over.load(Relaxed) {
                // What was under way when the link ended may have made a connection.
                TRANSPORT.reset_orphans();
                return;
            }
            if self.broken.load(Relaxed) {
                return self.fail();
            }
            if self.must_wait() {
                return;
            }
            let Receiving { again, message } = &mut *receiving;
            let length = match again.take() {
                Some(length) => length,
                None => match self.channel.receive_bytes(message) {
                    Ok(Some(length)) => length,
                    Ok(None) if ended => return self.leave(),
                    // What it sent before may have come since.
                    Ok(None) if self.channel.has_ended_there() => {
                        ended = true;
                        continue;
                    }
                    Ok(None) => return,
                    Err(_) => return self.fail(),
                },
            };
            if self
                .deliver(message.get(..length).unwrap_or_default())
                .is_err()
            {
                *again = Some(length);
                return self.receive_later(1);
            }
        }
        self.receive_later(0);
    }

    /// Hands one message to its socket.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    fn deliver(&self, message: &[u8]) -> Result {
        match packet::parse(message, self.cid, self.local) {
            Ok((header, payload)) => {
                let header: &Header = header;
                let packet = Packet::new(header, payload)?;
                self.counters.received.add(1, Relaxed);
                TRANSPORT.receive(packet);
            }
            // No socket can be told.
            Err(_) => {
                self.counters.wrong.add(1, Relaxed);
            }
        }
        Ok(())
    }

    /// The other side has broken its lane: there are no sockets to it in this life of the link.
    fn fail(self: &Arc<Self>) {
        pr_warn!("the link to CID {} is broken for AF_VSOCK\n", self.cid);
        self.leave();
    }

    /// There are no sockets to the other side in this life of the link any more.
    fn leave(self: &Arc<Self>) {
        if let Some(sockets) = SOCKETS.as_ref() {
            sockets.remove(|peer| core::ptr::eq(peer, &**self));
        }
        self.end();
    }

    /// Resets all connections. It cannot be found any more.
    fn end(self: &Arc<Self>) {
        self.over.store(true, Relaxed);
        self.channel.close();
        self.queue.purge();
        TRANSPORT.reset_orphans();
        // Behind what is under way.
        self.receive_later(0);
    }
}
