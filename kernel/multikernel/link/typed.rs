// SPDX-License-Identifier: GPL-2.0

//! Messages that are values of a type, for kernels' own ports.
//!
//! A type that is sent says which port it goes to ([`Message`]), and one that is called with also
//! what it is answered with ([`Request`]). It is plain old data: the compiler checks that there is
//! no padding and no bit pattern that is no value, by [`AsBytes`] and [`FromBytes`], and that it
//! fits. Who receives implements [`Receive`] or [`Answer`], gets a copy that nobody else changes,
//! and no message of another length. What the fields say is still any value.
//!
//! Both kernels have to have the same type: `#[repr(C)]`, fields of fixed width. No state, no
//! lock. This kernel's own ports so far take bytes of any length (echo, answers), so nobody but
//! the tests has a typed one.

#![allow(dead_code)]

use core::mem::size_of;

use kernel::{
    prelude::*,
    sync::{
        atomic::Relaxed,
        Arc, //
    },
    transmute::{
        AsBytes,
        FromBytes, //
    }, //
};

use super::{
    call,
    inbox::{
        self,
        Handler,
        Incoming, //
    },
    lane,
    outbox::Link, //
};
use crate::abi::{
    LANE_SLOTS_MIN,
    MESSAGE_CALL,
    MESSAGE_DATA,
    PORT_NONE,
    PORT_USER, //
};

/// Bytes of a message that goes over any link, however few slots its lanes have.
const BYTES_MAX: usize = lane::FIRST_BYTES + (LANE_SLOTS_MIN as usize / 2 - 1) * lane::NEXT_BYTES;

/// A message of a kernel, as it goes over a link.
pub(crate) trait Message: FromBytes + AsBytes + Copy {
    /// The port that it goes to: one of the kernels', below `PORT_USER`.
    const PORT: u32;

    /// That the port is one, and that the message fits. Evaluated for each type that is used.
    const CHECKED: () = {
        assert!(Self::PORT != PORT_NONE && Self::PORT < PORT_USER);
        assert!(size_of::<Self>() != 0 && size_of::<Self>() + call::HEADER <= BYTES_MAX);
    };
}

/// A message that is answered.
pub(crate) trait Request: Message {
    /// What it is answered with.
    type Answer: FromBytes + AsBytes + Copy;

    /// That the answer fits.
    const ANSWER_CHECKED: () = assert!(size_of::<Self::Answer>() <= call::ANSWER_MAX);
}

/// Sends a message to a CPU of the other side, or to any. Never waits; may be called in any context
/// but an NMI.
///
/// # Errors
///
/// As [`Link::send`], but not `EMSGSIZE`.
pub(crate) fn send<M: Message>(link: &Link, to: Option<u32>, message: &M) -> Result {
    const { M::CHECKED };
    link.send(to, MESSAGE_DATA, M::PORT, message.as_bytes())
}

/// Calls a CPU of the other side, or any, and waits for the answer. In process context.
///
/// # Errors
///
/// As [`call::call`], and `EBADMSG` if the answer is not of the length that it has to have; also
/// the other side's word that the request was not.
pub(crate) fn call<R: Request>(
    link: &Arc<Link>,
    to: Option<u32>,
    request: &R,
    timeout_ms: u32,
) -> Result<R::Answer> {
    const { R::CHECKED };
    const { R::ANSWER_CHECKED };
    let mut answer = [0; call::ANSWER_MAX];
    let room = answer.get_mut(..size_of::<R::Answer>()).ok_or(EMSGSIZE)?;
    let bytes = match call::call(link, to, R::PORT, request.as_bytes(), room, timeout_ms) {
        // It is longer than the type.
        Err(EMSGSIZE) => return Err(EBADMSG),
        result => result?,
    };
    room.get(..bytes)
        .and_then(R::Answer::from_bytes_copy)
        .ok_or(EBADMSG)
}

/// What takes messages of one type.
pub(crate) trait Receive: Send + Sync {
    /// Of which type.
    type Message: Message;

    /// A message has come; what holds for [`Handler::receive`] holds for this. `from` has the link
    /// and the sending CPU.
    fn receive(&self, from: &Incoming<'_>, message: &Self::Message);
}

/// What answers calls of one type.
pub(crate) trait Answer: Send + Sync {
    /// Of which type.
    type Request: Request;

    /// A call has come; what holds for [`Handler::receive`] holds for this.
    ///
    /// # Errors
    ///
    /// What the caller is to fail with.
    fn answer(
        &self,
        from: &Incoming<'_>,
        request: &Self::Request,
    ) -> Result<<Self::Request as Request>::Answer>;
}

/// Gives the port of a type to what takes its messages.
///
/// # Errors
///
/// As [`inbox::add_port`].
pub(crate) fn receive<T: Receive + 'static>(receiver: T) -> Result {
    const { T::Message::CHECKED };
    inbox::add_port(T::Message::PORT, Arc::new(Receiving(receiver), GFP_KERNEL)?)
}

/// Gives the port of a type to what answers its calls.
///
/// # Errors
///
/// As [`inbox::add_port`].
pub(crate) fn answer<T: Answer + 'static>(answerer: T) -> Result {
    const { T::Request::CHECKED };
    const { <T::Request as Request>::ANSWER_CHECKED };
    inbox::add_port(T::Request::PORT, Arc::new(Answering(answerer), GFP_KERNEL)?)
}

/// What is not of the type that its port takes: it counts, and who called is told.
fn refuse(message: &Incoming<'_>) {
    message.link.faults.undeliverable.add(1, Relaxed);
    if message.header.kind == MESSAGE_CALL {
        // Without credit the caller's wait ends by its timeout.
        let _ = call::answer(message, kernel::bindings::EBADMSG, &[]);
    }
}

struct Receiving<T>(T);

impl<T: Receive> Handler for Receiving<T> {
    fn receive(&self, message: &Incoming<'_>) {
        match T::Message::from_bytes_copy(message.payload) {
            Some(value) if message.header.kind == MESSAGE_DATA => self.0.receive(message, &value),
            _ => refuse(message),
        }
    }
}

struct Answering<T>(T);

impl<T: Answer> Handler for Answering<T> {
    fn receive(&self, message: &Incoming<'_>) {
        let request = call::parse(message.payload)
            .and_then(|(_, bytes)| T::Request::from_bytes_copy(bytes))
            .filter(|_| message.header.kind == MESSAGE_CALL);
        let Some(request) = request else {
            return refuse(message);
        };
        // Without credit the caller's wait ends by its timeout.
        let _ = match self.0.answer(message, &request) {
            Ok(answer) => call::answer(message, 0, answer.as_bytes()),
            Err(error) => call::answer(message, error.to_errno().unsigned_abs(), &[]),
        };
    }
}

#[cfg(CONFIG_MULTIKERNEL_KUNIT_TEST)]
#[kernel::macros::kunit_tests(multikernel_link_typed)]
mod tests {
    use super::*;
    use crate::{
        abi::{
            LinkSide,
            LINK_UP,
            MESSAGE_REPLY, //
        },
        link::{
            lane::{
                Header,
                Receiver, //
            },
            layout::Layout,
            region::{
                LaneWords,
                Region, //
            }, //
        },
        memory::SharedPages,
    };

    // The example in the documentation.
    /// Adds two numbers.
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Add {
        a: u64,
        b: u64,
    }

    // SAFETY: Two integers, without padding.
    unsafe impl AsBytes for Add {}
    // SAFETY: Any bytes are two integers.
    unsafe impl FromBytes for Add {}

    impl Message for Add {
        const PORT: u32 = 0x100;
    }

    impl Request for Add {
        type Answer = u64;
    }

    struct Adder;

    impl Answer for Adder {
        type Request = Add;

        fn answer(&self, _from: &Incoming<'_>, request: &Add) -> Result<u64> {
            request.a.checked_add(request.b).ok_or(ERANGE)
        }
    }
    // End of the example.

    struct Sum(kernel::sync::atomic::Atomic<u64>);

    impl Receive for Sum {
        type Message = Add;

        fn receive(&self, from: &Incoming<'_>, message: &Add) {
            if from.from == 1 {
                self.0.store(message.a + message.b, Relaxed);
            }
        }
    }

    const SIDE: LinkSide = LinkSide {
        id: 0,
        cpus: 2,
        lanes: 4,
        data_bytes: 0,
    };

    fn no_ring(_apic_id: u32, _vector: u8) {}

    /// One side of a link whose other side is there, and takes nothing by itself.
    fn link() -> Result<Arc<Link>> {
        let layout = Layout::new([SIDE; 2], 64, 1).map_err(|_| EINVAL)?;
        let pages = SharedPages::new(layout.size().next_power_of_two())?;
        let region = Arc::new(Region::in_pages(pages, layout)?, GFP_KERNEL)?;
        region.announce(1, LINK_UP, 0);
        Ok(Arc::new(Link::new(region, 0, None, no_ring)?, GFP_KERNEL)?)
    }

    /// The other side's ends of the lanes to it: which one is used depends on the CPU.
    fn lanes_of(link: &Link) -> Result<KVec<Receiver<LaneWords>>> {
        let mut lanes = KVec::new();
        for lane in 0..SIDE.lanes {
            let memory = link.region.lane(0, lane).ok_or(EINVAL)?;
            lanes.push(Receiver::new(memory, link.shape()), GFP_KERNEL)?;
        }
        Ok(lanes)
    }

    /// Takes the next message from any of them.
    fn next_of(lanes: &mut [Receiver<LaneWords>], buffer: &mut [u8]) -> Result<Header> {
        for lane in lanes {
            if let Some(header) = lane.receive(buffer).map_err(|_| EPROTO)? {
                return Ok(header);
            }
        }
        Err(ENOENT)
    }

    /// Hands a message to a handler as if it had come from CPU 1.
    fn deliver(link: &Arc<Link>, handler: &impl Handler, kind: u8, payload: &[u8]) {
        handler.receive(&Incoming {
            link,
            from: 1,
            header: Header {
                kind,
                port: Add::PORT,
                // CAST: Short.
                length: payload.len() as u32,
            },
            payload,
        });
    }

    /// The payload of a call that the other side makes.
    fn call_of(request: &[u8]) -> Result<KVec<u8>> {
        let mut payload = KVec::new();
        for word in [77_u64, 2] {
            payload.extend_from_slice(&word.to_le_bytes(), GFP_KERNEL)?;
        }
        payload.extend_from_slice(request, GFP_KERNEL)?;
        Ok(payload)
    }

    /// The status and the bytes of the next answer.
    fn next_answer(lanes: &mut [Receiver<LaneWords>]) -> Result<(u32, KVec<u8>)> {
        let mut buffer = [0; 128];
        let header = next_of(lanes, &mut buffer)?;
        if (header.kind, header.port) != (MESSAGE_REPLY, 2) {
            return Err(EPROTOTYPE);
        }
        let payload = buffer.get(..header.length as usize).ok_or(EINVAL)?;
        let (call, rest) = call::parse(payload).ok_or(EINVAL)?;
        if call.token != 77 {
            return Err(ESTALE);
        }
        let mut bytes = KVec::new();
        bytes.extend_from_slice(rest, GFP_KERNEL)?;
        Ok((call.status, bytes))
    }

    #[test]
    fn a_call_is_answered() -> Result {
        let (link, adder) = (link()?, Answering(Adder));
        let request = call_of(Add { a: 3, b: 4 }.as_bytes())?;
        deliver(&link, &adder, MESSAGE_CALL, &request);
        let mut lanes = lanes_of(&link)?;
        let (status, bytes) = next_answer(&mut lanes)?;
        assert_eq!(status, 0);
        assert_eq!(u64::from_bytes_copy(&bytes), Some(7));

        let request = call_of(Add { a: u64::MAX, b: 1 }.as_bytes())?;
        deliver(&link, &adder, MESSAGE_CALL, &request);
        let (status, bytes) = next_answer(&mut lanes)?;
        assert_eq!((status, bytes.len()), (kernel::bindings::ERANGE, 0));
        assert_eq!(link.faults.undeliverable.load(Relaxed), 0);
        Ok(())
    }

    #[test]
    fn a_call_of_another_length_is_refused() -> Result {
        let (link, adder) = (link()?, Answering(Adder));
        let mut lanes = lanes_of(&link)?;
        for (count, length) in [0, 15, 17, 32].into_iter().enumerate() {
            let request = call_of([1; 32].get(..length).ok_or(EINVAL)?)?;
            deliver(&link, &adder, MESSAGE_CALL, &request);
            let (status, bytes) = next_answer(&mut lanes)?;
            assert_eq!((status, bytes.len()), (kernel::bindings::EBADMSG, 0));
            assert_eq!(link.faults.undeliverable.load(Relaxed), count as u64 + 1);
        }
        // No call at all: nobody is answered.
        deliver(&link, &adder, MESSAGE_DATA, &call_of(&[0; 16])?);
        deliver(&link, &adder, MESSAGE_CALL, &[0; 15]);
        assert_eq!(link.faults.undeliverable.load(Relaxed), 6);
        assert_eq!(next_answer(&mut lanes).err(), Some(ENOENT));
        Ok(())
    }

    #[test]
    fn a_message_is_received() -> Result {
        let (link, sum) = (
            link()?,
            Receiving(Sum(kernel::sync::atomic::Atomic::new(0))),
        );
        let message = Add { a: 30, b: 12 };
        deliver(&link, &sum, MESSAGE_DATA, message.as_bytes());
        assert_eq!(sum.0 .0.load(Relaxed), 42);
        assert_eq!(link.faults.undeliverable.load(Relaxed), 0);
        deliver(&link, &sum, MESSAGE_DATA, &[0; 15]);
        deliver(&link, &sum, MESSAGE_DATA, &[0; 24]);
        deliver(&link, &sum, MESSAGE_CALL, &call_of(message.as_bytes())?);
        assert_eq!(link.faults.undeliverable.load(Relaxed), 3);
        assert_eq!(sum.0 .0.load(Relaxed), 42);
        Ok(())
    }

    #[test]
    fn a_message_is_sent_as_it_is() -> Result {
        let link = link()?;
        let message = Add { a: 5, b: u64::MAX };
        send(&link, Some(0), &message)?;
        let mut buffer = [0; 64];
        let header = next_of(&mut lanes_of(&link)?, &mut buffer)?;
        assert_eq!((header.kind, header.port), (MESSAGE_DATA, Add::PORT));
        assert!(buffer.get(..header.length as usize) == Some(message.as_bytes()));
        Ok(())
    }
}
