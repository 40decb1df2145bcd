// SPDX-License-Identifier: GPL-2.0

//! The wrappers around what the kernel has for transports of AF_VSOCK: `struct virtio_transport`
//! and its packets, `struct sk_buff`.
//!
//! Everything of a connection, credit and time-outs included, is done by
//! `net/vmw_vsock/virtio_transport_common.c`, as for virtio devices; a [`Carrier`] brings packets
//! from one kernel to the other. Queues have the spinlock of their `struct sk_buff_head`.

use core::{
    marker::PhantomData,
    mem::size_of,
    ptr::NonNull, //
};

use kernel::{
    bindings,
    error::to_result,
    prelude::*,
    types::Opaque,
    workqueue, //
};

use super::packet::{
    Header,
    HEADER_BYTES, //
};

const _: () = assert!(size_of::<bindings::virtio_vsock_hdr>() == HEADER_BYTES);

/// Where packets are sent and received that cannot be at once: on any CPU.
pub(super) fn work_queue() -> &'static workqueue::Queue {
    // SAFETY: Made at boot, before any link, and there for ever.
    unsafe { workqueue::Queue::from_raw(bindings::system_dfl_wq) }
}

/// A packet.
///
/// # Invariants
///
/// The pointer is to a `struct sk_buff` that nobody else uses, whose `head` is the beginning of a
/// `struct virtio_vsock_hdr` that can be read and written, and whose data is the payload.
pub(super) struct Packet(NonNull<bindings::sk_buff>);

// SAFETY: A packet is plain memory with one owner; a socket that it counts for is counted by
// atomic operations.
unsafe impl Send for Packet {}

impl Packet {
    /// A packet with this header and payload. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EMSGSIZE` where the payload is longer than any can be.
    pub(super) fn new(header: &Header, payload: &[u8]) -> Result<Self> {
        let bytes = i32::try_from(payload.len()).map_err(|_| EMSGSIZE)?;
        // SAFETY: Has no preconditions but process context. CAST: Not negative.
        let skb = unsafe { bindings::multikernel_vsock_alloc_skb(bytes as u32) };
        // INVARIANT: It is new, and has room for the header before its payload.
        let packet = Self(NonNull::new(skb).ok_or(ENOMEM)?);
        // SAFETY: By the invariants.
        unsafe {
            (*skb)
                .head
                .copy_from_nonoverlapping(header.as_ptr(), header.len())
        };
        if bytes > 0 {
            // SAFETY: `skb` is valid, and `payload` has so many bytes; that they fit is checked.
            to_result(unsafe { bindings::skb_store_bits(skb, 0, payload.as_ptr().cast(), bytes) })?;
        }
        Ok(packet)
    }

    /// Takes over a packet.
    ///
    /// # Safety
    ///
    /// `skb` is as in the invariants of [`Packet`], and the caller does not use it any more.
    unsafe fn from_raw(skb: NonNull<bindings::sk_buff>) -> Self {
        // INVARIANT: By the caller's promise.
        Self(skb)
    }

    fn into_raw(self) -> *mut bindings::sk_buff {
        let skb = self.0.as_ptr();
        core::mem::forget(self);
        skb
    }

    /// Its header.
    pub(super) fn header(&self) -> Header {
        // SAFETY: By the invariants; a `Header` is of bytes.
        unsafe { (*self.0.as_ptr()).head.cast::<Header>().read() }
    }

    /// Bytes of its payload.
    pub(super) fn length(&self) -> u32 {
        // SAFETY: By the invariants.
        unsafe { (*self.0.as_ptr()).len }
    }

    /// Copies what is from byte `offset` of its payload on.
    ///
    /// # Errors
    ///
    /// `EFAULT` if it has not so many bytes.
    pub(super) fn copy(&self, offset: u32, to: &mut [u8]) -> Result {
        let offset = i32::try_from(offset).map_err(|_| EFAULT)?;
        let bytes = i32::try_from(to.len()).map_err(|_| EFAULT)?;
        // SAFETY: `skb` is valid, and `to` has room for so many bytes; that the packet has them is
        // checked.
        to_result(unsafe {
            bindings::skb_copy_bits(self.0.as_ptr(), offset, to.as_mut_ptr().cast(), bytes)
        })
    }

    /// Shows it to those who monitor sockets. To be called once, when it is sent, or has come.
    pub(super) fn show(&self) {
        // SAFETY: By the invariants; the length in the header is that of the payload.
        unsafe { bindings::virtio_transport_deliver_tap_pkt(self.0.as_ptr()) };
    }

    /// It has been sent.
    pub(super) fn sent(self) {
        // SAFETY: By the invariants; the packet is given away.
        unsafe { bindings::virtio_transport_consume_skb_sent(self.into_raw(), true) };
    }
}

impl Drop for Packet {
    fn drop(&mut self) {
        // SAFETY: By the invariants; nobody uses it after this.
        unsafe { bindings::multikernel_vsock_free_skb(self.0.as_ptr()) };
    }
}

/// Packets that wait.
#[pin_data(PinnedDrop)]
pub(super) struct Queue {
    #[pin]
    head: Opaque<bindings::sk_buff_head>,
}

// SAFETY: It has a lock of its own, which all access is under.
unsafe impl Send for Queue {}
// SAFETY: As above.
unsafe impl Sync for Queue {}

impl Queue {
    /// An empty one.
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            // SAFETY: Initializes what it is given, which does not move afterwards.
            head <- Opaque::ffi_init(|head| unsafe {
                bindings::multikernel_vsock_queue_init(head)
            }),
        })
    }

    /// Adds a packet behind all others.
    pub(super) fn push(&self, packet: Packet) {
        // SAFETY: The queue has been initialized; the packet is given to it.
        unsafe { bindings::multikernel_vsock_queue_tail(self.head.get(), packet.into_raw()) };
    }

    /// Takes the first packet.
    pub(super) fn pop(&self) -> Option<Packet> {
        // SAFETY: The queue has been initialized.
        let skb = unsafe { bindings::multikernel_vsock_dequeue(self.head.get()) };
        // SAFETY: It came from a `Packet`, whose invariants it has.
        NonNull::new(skb).map(|skb| unsafe { Packet::from_raw(skb) })
    }

    /// How many packets there are, more or less.
    pub(super) fn length(&self) -> usize {
        // SAFETY: The queue has been initialized.
        unsafe { bindings::multikernel_vsock_queue_len(self.head.get()) as usize }
    }

    /// Drops all packets.
    pub(super) fn purge(&self) {
        // SAFETY: The queue has been initialized, and what is in it belongs to it.
        unsafe { bindings::multikernel_vsock_queue_purge(self.head.get()) };
    }

    /// Drops the packets that a socket has sent.
    pub(super) fn cancel(&self, socket: &Socket) {
        // SAFETY: The queue has been initialized, and all packets in it are the transport's. The
        // socket is compared with those that they count for.
        unsafe {
            bindings::virtio_transport_purge_skbs(socket.0.get().cast(), self.head.get());
        }
    }
}

#[pinned_drop]
impl PinnedDrop for Queue {
    fn drop(self: Pin<&mut Self>) {
        self.purge();
    }
}

/// A socket.
///
/// # Invariants
///
/// It is a valid `struct vsock_sock` for as long as it is borrowed.
#[repr(transparent)]
pub(super) struct Socket(Opaque<bindings::vsock_sock>);

impl Socket {
    /// # Safety
    ///
    /// `socket` is a valid `struct vsock_sock` for `'a`.
    unsafe fn from_raw<'a>(socket: *mut bindings::vsock_sock) -> &'a Self {
        // SAFETY: By the caller's promise; the type is transparent.
        unsafe { &*socket.cast() }
    }

    /// The CID that it is connected to, or connects to.
    pub(super) fn peer(&self) -> u32 {
        // SAFETY: By the invariants. It changes only while the socket is connected to nothing.
        unsafe { (&raw const (*self.0.get()).remote_addr.svm_cid).read() }
    }

    /// Whether its network namespace sees CIDs of the whole machine.
    fn sees_all(&self) -> bool {
        // SAFETY: By the invariants.
        unsafe { bindings::multikernel_vsock_net_is_global(self.0.get()) }
    }
}

/// What brings packets to other kernels.
pub(super) trait Carrier: 'static {
    /// The CID of this kernel.
    fn local() -> u32;
    /// Whether there is a kernel of that CID. In any context but an NMI.
    fn reaches(cid: u32) -> bool;
    /// Sends a packet, now or when there is room. In process context; does not wait for the other
    /// kernel.
    ///
    /// # Errors
    ///
    /// What connect(2) is to fail with.
    fn send(packet: Packet) -> Result;
    /// Drops what a socket has sent and has not gone yet.
    fn cancel(socket: &Socket);
}

/// To which side of a machine a transport leads.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// This kernel is the host.
    Host,
    /// This kernel is a guest.
    Guest,
}

/// A transport of AF_VSOCK.
pub(super) struct Transport<C> {
    operations: Opaque<bindings::virtio_transport>,
    _carrier: PhantomData<fn() -> C>,
}

// SAFETY: It is never written: the kernel takes it as constant, if not always by type.
unsafe impl<C> Sync for Transport<C> {}

impl<C: Carrier> Transport<C> {
    /// The transport whose packets go by `C`.
    pub(super) const fn new() -> Self {
        let transport = bindings::vsock_transport {
            get_local_cid: Some(Self::get_local_cid),
            has_remote_cid: Some(Self::has_remote_cid),
            init: Some(bindings::virtio_transport_do_socket_init),
            destruct: Some(bindings::virtio_transport_destruct),
            release: Some(bindings::virtio_transport_release),
            connect: Some(bindings::virtio_transport_connect),
            shutdown: Some(bindings::virtio_transport_shutdown),
            cancel_pkt: Some(Self::cancel_pkt),
            dgram_bind: Some(bindings::virtio_transport_dgram_bind),
            dgram_dequeue: Some(bindings::virtio_transport_dgram_dequeue),
            dgram_enqueue: Some(bindings::virtio_transport_dgram_enqueue),
            dgram_allow: Some(bindings::virtio_transport_dgram_allow),
            stream_dequeue: Some(bindings::virtio_transport_stream_dequeue),
            stream_enqueue: Some(bindings::virtio_transport_stream_enqueue),
            stream_has_data: Some(bindings::virtio_transport_stream_has_data),
            stream_has_space: Some(bindings::virtio_transport_stream_has_space),
            stream_rcvhiwat: Some(bindings::virtio_transport_stream_rcvhiwat),
            stream_is_active: Some(bindings::virtio_transport_stream_is_active),
            stream_allow: Some(Self::stream_allow),
            seqpacket_dequeue: Some(bindings::virtio_transport_seqpacket_dequeue),
            seqpacket_enqueue: Some(bindings::virtio_transport_seqpacket_enqueue),
            seqpacket_allow: Some(Self::seqpacket_allow),
            seqpacket_has_data: Some(bindings::virtio_transport_seqpacket_has_data),
            notify_poll_in: Some(bindings::virtio_transport_notify_poll_in),
            notify_poll_out: Some(bindings::virtio_transport_notify_poll_out),
            notify_recv_init: Some(bindings::virtio_transport_notify_recv_init),
            notify_recv_pre_block: Some(bindings::virtio_transport_notify_recv_pre_block),
            notify_recv_pre_dequeue: Some(bindings::virtio_transport_notify_recv_pre_dequeue),
            notify_recv_post_dequeue: Some(bindings::virtio_transport_notify_recv_post_dequeue),
            notify_send_init: Some(bindings::virtio_transport_notify_send_init),
            notify_send_pre_block: Some(bindings::virtio_transport_notify_send_pre_block),
            notify_send_pre_enqueue: Some(bindings::virtio_transport_notify_send_pre_enqueue),
            notify_send_post_enqueue: Some(bindings::virtio_transport_notify_send_post_enqueue),
            notify_buffer_size: Some(bindings::virtio_transport_notify_buffer_size),
            notify_set_rcvlowat: Some(bindings::virtio_transport_notify_set_rcvlowat),
            unsent_bytes: Some(bindings::virtio_transport_unsent_bytes),
            read_skb: Some(bindings::virtio_transport_read_skb),
            // Built in: there is no module. Payloads are copied, so pages need not be kept.
            ..pin_init::zeroed()
        };
        Self {
            operations: Opaque::new(bindings::virtio_transport {
                transport,
                send_pkt: Some(Self::send_pkt),
                can_msgzerocopy: None,
            }),
            _carrier: PhantomData,
        }
    }

    /// Has sockets use it from now on, for good.
    ///
    /// # Errors
    ///
    /// `EBUSY` if there is one for that role already; `EINTR`.
    pub(super) fn register(&'static self, role: Role) -> Result {
        let features = match role {
            Role::Host => bindings::VSOCK_TRANSPORT_F_H2G,
            Role::Guest => bindings::VSOCK_TRANSPORT_F_G2H,
        };
        // SAFETY: It lives for ever. CAST: A single bit, far below the sign.
        to_result(unsafe {
            bindings::vsock_core_register(
                &raw const (*self.operations.get()).transport,
                features as i32,
            )
        })
    }

    /// Hands a packet that has come to the socket that it is for. May sleep.
    pub(super) fn receive(&'static self, packet: Packet) {
        packet.show();
        // SAFETY: The transport is valid, and is not written to. The packet is given away. Without
        // a namespace it is for sockets that see the whole machine.
        unsafe {
            bindings::virtio_transport_recv_pkt(
                self.operations.get(),
                packet.into_raw(),
                core::ptr::null_mut(),
            );
        }
    }

    /// Resets the connections to kernels that cannot be reached any more.
    pub(super) fn reset_orphans(&'static self) {
        // SAFETY: The transport is valid, and is compared with those of sockets. The function may
        // be called for any socket that is connected by it.
        unsafe {
            bindings::vsock_for_each_connected_socket(
                &raw mut (*self.operations.get()).transport,
                Some(Self::reset_orphan),
            );
        }
    }

    /// # Safety
    ///
    /// It can be called at any time.
    unsafe extern "C" fn get_local_cid() -> u32 {
        C::local()
    }

    /// # Safety
    ///
    /// It can be called at any time, with any pointer.
    unsafe extern "C" fn has_remote_cid(_: *mut bindings::vsock_sock, cid: u32) -> bool {
        C::reaches(cid)
    }

    /// # Safety
    ///
    /// `socket` is valid.
    unsafe extern "C" fn stream_allow(socket: *mut bindings::vsock_sock, _: u32, _: u32) -> bool {
        // SAFETY: By the caller's promise.
        unsafe { Socket::from_raw(socket) }.sees_all()
    }

    /// # Safety
    ///
    /// `socket` is valid.
    unsafe extern "C" fn seqpacket_allow(socket: *mut bindings::vsock_sock, _: u32) -> bool {
        // SAFETY: By the caller's promise.
        unsafe { Socket::from_raw(socket) }.sees_all()
    }

    /// # Safety
    ///
    /// `socket` is valid.
    unsafe extern "C" fn cancel_pkt(socket: *mut bindings::vsock_sock) -> c_int {
        // SAFETY: By the caller's promise.
        C::cancel(unsafe { Socket::from_raw(socket) });
        0
    }

    /// # Safety
    ///
    /// `skb` is a packet, which belongs to the callee.
    unsafe extern "C" fn send_pkt(skb: *mut bindings::sk_buff, _: *mut bindings::net) -> c_int {
        let Some(skb) = NonNull::new(skb) else {
            return EINVAL.to_errno();
        };
        // SAFETY: By the caller's promise.
        let packet = unsafe { Packet::from_raw(skb) };
        let length = packet.length();
        match C::send(packet) {
            // CAST: At most `VIRTIO_VSOCK_MAX_PKT_BUF_SIZE`.
            Ok(()) => length as c_int,
            Err(error) => error.to_errno(),
        }
    }

    /// # Safety
    ///
    /// `sk` is a connected socket, which the table of connected sockets keeps during the call.
    unsafe extern "C" fn reset_orphan(sk: *mut bindings::sock) {
        let socket: *mut bindings::vsock_sock = sk.cast();
        // SAFETY: By the caller's promise; the `struct sock` is the first of its fields.
        if !C::reaches(unsafe { Socket::from_raw(socket) }.peer()) {
            // SAFETY: As above.
            unsafe { bindings::multikernel_vsock_reset(socket) };
        }
    }
}
