// SPDX-License-Identifier: GPL-2.0

//! Calls: a message, and the wait for its answer.
//!
//! A call is known by its token: which of the places for pending calls it has, and how often that
//! place has been used. An answer counts only if it has the token of a call that waits, and comes
//! over the link that the call went over, which is another object after every start of the other
//! side: what is late, doubled or foreign finds nobody.
//!
//! Each place has a spinlock with interrupts off of its own; it nests inside an inbox's.

use core::mem::size_of;

use kernel::{
    cpu::CpuId,
    new_condvar,
    new_spinlock_irq,
    prelude::*,
    sync::{
        atomic::Relaxed,
        Arc,
        CondVar,
        CondVarTimeoutResult,
        SetOnce,
        SpinLockIrq, //
    },
    time::{
        msecs_to_jiffies,
        Jiffies, //
    }, //
};

use super::{
    inbox::{
        self,
        polling::{
            self,
            Poll, //
        },
        Handler,
        Incoming, //
    },
    outbox::Link, //
};
use crate::{
    abi::{
        CallHeader,
        MESSAGE_CALL,
        MESSAGE_REPLY,
        PORT_ECHO,
        PORT_REPLY, //
    },
    event, //
};

/// How many calls may wait at the same time.
pub(crate) const PLACES: usize = 64;

/// How many of them may wait for the same kernel: one that answers nobody must not have them all.
const PLACES_OF_LINK: i32 = PLACES as i32 / 2;

/// Bytes of an answer's payload at most, and of a call's.
pub(crate) const CALL_MAX: usize = 1024;

/// Bytes before the payload of a call or an answer.
pub(crate) const HEADER: usize = size_of::<CallHeader>();

/// Bytes of an answer's payload that [`answer`] has room for.
pub(crate) const ANSWER_MAX: usize = 256;

/// What has become of a call.
enum Progress {
    /// It waits.
    Waiting,
    /// The answer has come: its status, and its length in `Pending::answer`.
    Answered(u32, usize),
    /// The other side has gone.
    Gone,
}

struct Pending {
    /// How often the place has been used.
    uses: u64,
    /// The link of the call that has the place, if one has.
    link: Option<Arc<Link>>,
    progress: Progress,
    answer: [u8; CALL_MAX],
}

#[pin_data]
struct Place {
    #[pin]
    pending: SpinLockIrq<Pending>,
    #[pin]
    changed: CondVar,
}

static CALLS: SetOnce<KVec<Pin<KBox<Place>>>> = SetOnce::new();

fn places() -> &'static [Pin<KBox<Place>>] {
    CALLS.as_ref().map_or(&[], |places| places)
}

/// Makes the places, and the ports of every kernel. To be called once, at boot, after the inboxes.
///
/// # Errors
///
/// `ENOMEM`.
pub(crate) fn set_up() -> Result {
    let mut places = KVec::with_capacity(PLACES, GFP_KERNEL)?;
    for _ in 0..PLACES {
        let place = KBox::pin_init(
            pin_init!(Place {
                pending <- new_spinlock_irq!(
                    Pending {
                        uses: 0,
                        link: None,
                        progress: Progress::Waiting,
                        answer: [0; CALL_MAX],
                    },
                    "multikernel::call"
                ),
                changed <- new_condvar!("multikernel::call_changed"),
            }),
            GFP_KERNEL,
        )?;
        // There is room.
        let _ = places.push_within_capacity(place);
    }
    CALLS.populate(places);
    inbox::add_port(PORT_ECHO, Arc::new(Echo, GFP_KERNEL)?)?;
    inbox::add_port(PORT_REPLY, Arc::new(Replies, GFP_KERNEL)?)
}

/// Writes a call's or an answer's header and payload; how many bytes that are.
fn compose(buffer: &mut [u8], header: CallHeader, payload: &[u8]) -> Result<usize> {
    let length = HEADER + payload.len();
    let (head, rest) = buffer.split_at_mut_checked(HEADER).ok_or(EMSGSIZE)?;
    let fields = [
        header.token,
        u64::from(header.reply_port) | u64::from(header.status) << 32,
    ];
    for (to, field) in head.as_chunks_mut::<8>().0.iter_mut().zip(fields) {
        *to = field.to_le_bytes();
    }
    rest.get_mut(..payload.len())
        .ok_or(EMSGSIZE)?
        .copy_from_slice(payload);
    Ok(length)
}

/// The header of a call or an answer, and what comes behind it.
pub(crate) fn parse(payload: &[u8]) -> Option<(CallHeader, &[u8])> {
    let (head, rest) = payload.split_at_checked(HEADER)?;
    let [token, words] = head.as_chunks::<8>().0 else {
        return None;
    };
    let words = u64::from_le_bytes(*words);
    Some((
        CallHeader {
            token: u64::from_le_bytes(*token),
            // CAST: The lower half.
            reply_port: words as u32,
            status: (words >> 32) as u32,
        },
        rest,
    ))
}

/// What a call was made with.
pub(crate) fn request<'a>(message: &Incoming<'a>) -> Option<&'a [u8]> {
    parse(message.payload).map(|(_, request)| request)
}

/// Calls a port of the other side, on a CPU of it or any, and waits for the answer, whose bytes are
/// put at the beginning of `answer`; returns how many there are.
///
/// # Errors
///
/// - `EMSGSIZE`: more than [`CALL_MAX`] bytes, or the answer has more than `answer`.
/// - `EBUSY`: too many calls wait, over all links or over this one.
/// - `ETIMEDOUT`: no answer came in that time, the wait for credit included; `EINTR`: a signal did.
/// - `EPIPE`: the other side went, before or meanwhile.
/// - what [`Link::send`] fails with but `EAGAIN`, and what the answer says.
pub(crate) fn call(
    link: &Arc<Link>,
    to: Option<u32>,
    port: u32,
    request: &[u8],
    answer: &mut [u8],
    timeout_ms: u32,
) -> Result<usize> {
    call_and(Poll::begin, link, to, port, request, answer, timeout_ms)
}

/// As [`call`], but looks for the answer all the time, as long as nobody else is to have the CPU.
#[cfg(CONFIG_MULTIKERNEL_BENCH)]
pub(crate) fn call_spinning(
    link: &Arc<Link>,
    to: Option<u32>,
    port: u32,
    request: &[u8],
    answer: &mut [u8],
    timeout_ms: u32,
) -> Result<usize> {
    let poll = |link| Poll::begin_for(link, u64::from(timeout_ms) * 1_000_000);
    call_and(poll, link, to, port, request, answer, timeout_ms)
}

/// Calls a port; what `poll` says is done before sleep.
fn call_and<'a>(
    poll: impl Fn(&'a Arc<Link>) -> Option<Poll<'a>>,
    link: &'a Arc<Link>,
    to: Option<u32>,
    port: u32,
    request: &[u8],
    answer: &mut [u8],
    timeout_ms: u32,
) -> Result<usize> {
    if request.len() > CALL_MAX {
        return Err(EMSGSIZE);
    }
    let (place, token) = take_place(link).ok_or(EBUSY)?;
    let mut message =
        KVec::from_elem(0u8, HEADER + request.len(), GFP_KERNEL).inspect_err(|_| leave(place))?;
    let header = CallHeader {
        token,
        reply_port: PORT_REPLY,
        status: 0,
    };
    let result = compose(&mut message, header, request).and_then(|_| {
        let mut left = msecs_to_jiffies(timeout_ms);
        loop {
            let poll = poll(link);
            match link.send(to, MESSAGE_CALL, port, &message) {
                Err(EAGAIN) => {
                    drop(poll);
                    wait_for_credit(place, &mut left)?;
                }
                Err(error) => break Err(error),
                Ok(()) => break wait_or_poll(place, poll, answer, left),
            }
        }
    });
    leave(place);
    result
}

/// Waits until it is worth another try to send a call: a moment.
fn wait_for_credit(place: &Place, left: &mut Jiffies) -> Result {
    if *left == 0 {
        return Err(ETIMEDOUT);
    }
    let mut pending = place.pending.lock();
    if let CondVarTimeoutResult::Signal { .. } =
        place.changed.wait_interruptible_timeout(&mut pending, 1)
    {
        return Err(EINTR);
    }
    *left -= 1;
    Ok(())
}

/// Finds a free place, and the call's token.
fn take_place(link: &Arc<Link>) -> Option<(&'static Place, u64)> {
    if link.calls.fetch_add(1, Relaxed) >= PLACES_OF_LINK {
        link.calls.add(-1, Relaxed);
        return None;
    }
    let place = find_place(link);
    if place.is_none() {
        link.calls.add(-1, Relaxed);
    }
    place
}

fn find_place(link: &Arc<Link>) -> Option<(&'static Place, u64)> {
    places().iter().enumerate().find_map(|(number, place)| {
        let mut pending = place.pending.lock();
        if pending.link.is_some() {
            return None;
        }
        pending.uses = pending.uses.wrapping_add(1);
        pending.link = Some(link.clone());
        pending.progress = Progress::Waiting;
        let token = pending.uses << PLACES.ilog2() | number as u64;
        drop(pending);
        Some((&**place, token))
    })
}

/// Gives a place back: whatever comes from now on for its token finds nobody.
fn leave(place: &Place) {
    let link = place.pending.lock().link.take();
    if let Some(link) = &link {
        link.calls.add(-1, Relaxed);
    }
    // The last reference may be freed here, without the lock.
    drop(link);
}

/// What has become of a call, with its answer put at the beginning of `answer`; `None`: it waits.
fn outcome(pending: &Pending, answer: &mut [u8]) -> Option<Result<usize>> {
    let result = match pending.progress {
        Progress::Waiting => return None,
        Progress::Gone => Err(EPIPE),
        Progress::Answered(0, length) => {
            match (pending.answer.get(..length), answer.get_mut(..length)) {
                (Some(from), Some(to)) => {
                    to.copy_from_slice(from);
                    Ok(length)
                }
                _ => Err(EMSGSIZE),
            }
        }
        Progress::Answered(status, _) => Err(error_of(status)),
    };
    Some(result)
}

/// Waits for the answer, at first by looking for it.
fn wait_or_poll(
    place: &Place,
    poll: Option<Poll<'_>>,
    answer: &mut [u8],
    left: Jiffies,
) -> Result<usize> {
    let begin = event::now();
    let cpu = match poll {
        Some(poll) => {
            poll.until(|| !matches!(place.pending.lock().progress, Progress::Waiting));
            poll.cpu()
        }
        // The task may move, which is as good.
        None => CpuId::current().as_u32(),
    };
    let result = wait(place, answer, left);
    polling::waited(cpu, event::now().saturating_sub(begin));
    result
}

fn wait(place: &Place, answer: &mut [u8], mut left: Jiffies) -> Result<usize> {
    let mut pending = place.pending.lock();
    loop {
        if let Some(result) = outcome(&pending, answer) {
            return result;
        }
        match place.changed.wait_interruptible_timeout(&mut pending, left) {
            CondVarTimeoutResult::Woken { jiffies } => left = jiffies,
            CondVarTimeoutResult::Timeout => left = 0,
            CondVarTimeoutResult::Signal { .. } => return Err(EINTR),
        }
        if left == 0 && matches!(pending.progress, Progress::Waiting) {
            return Err(ETIMEDOUT);
        }
    }
}

/// The error that an answer's status says.
fn error_of(status: u32) -> Error {
    match i32::try_from(status) {
        // What is above is for use inside a kernel only (include/linux/errno.h).
        Ok(errno) if errno <= kernel::bindings::EHWPOISON as i32 => Error::from_errno(-errno),
        _ => EPROTO,
    }
}

/// The other side of a link has gone: nobody waits for it any longer.
pub(crate) fn abandon(link: &Arc<Link>) {
    for place in places() {
        let mut pending = place.pending.lock();
        let waits = matches!(pending.progress, Progress::Waiting);
        if waits
            && pending
                .link
                .as_ref()
                .is_some_and(|other| Arc::ptr_eq(other, link))
        {
            pending.progress = Progress::Gone;
            place.changed.notify_all();
        }
    }
}

/// Answers a call with `status`, 0 or a positive errno, and a payload of at most [`ANSWER_MAX`]
/// bytes.
///
/// # Errors
///
/// `EINVAL` if the message is no call; [`Caller::answer`].
pub(crate) fn answer(message: &Incoming<'_>, status: u32, payload: &[u8]) -> Result {
    let (caller, _) = caller(message).ok_or(EINVAL)?;
    caller.answer(status, payload)
}

/// Who has called, and waits for the answer.
pub(crate) struct Caller {
    link: Arc<Link>,
    from: u32,
    call: CallHeader,
}

impl Caller {
    /// Over which link.
    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Answers with `status`, 0 or a positive errno, and a payload, of at most
    /// [`ANSWER_MAX`] bytes. In any context but an NMI.
    ///
    /// # Errors
    ///
    /// What [`Link::answer`] fails with; the caller's wait ends by its timeout then.
    pub(crate) fn answer(&self, status: u32, payload: &[u8]) -> Result {
        let mut buffer = [0; HEADER + ANSWER_MAX];
        let header = CallHeader {
            status,
            ..self.call
        };
        let length = compose(&mut buffer, header, payload)?;
        let bytes = buffer.get(..length).ok_or(EMSGSIZE)?;
        self.link.answer(self.from, self.call.reply_port, bytes)
    }
}

/// Who has sent a call, and what; `None` if the message is none.
pub(crate) fn caller<'a>(message: &Incoming<'a>) -> Option<(Caller, &'a [u8])> {
    if message.header.kind != MESSAGE_CALL {
        return None;
    }
    let (call, payload) = parse(message.payload)?;
    let caller = Caller {
        link: message.link.clone(),
        from: message.from,
        call,
    };
    Some((caller, payload))
}

/// Answers a call, if it is one, that nobody has the port.
pub(crate) fn refuse(message: &Incoming<'_>) {
    if let Some((caller, _)) = caller(message) {
        let _ = caller.answer(kernel::bindings::ECONNREFUSED, &[]);
    }
}

/// [`PORT_ECHO`].
struct Echo;

impl Handler for Echo {
    fn receive(&self, message: &Incoming<'_>) {
        if message.header.kind != MESSAGE_CALL {
            return;
        }
        if let Some((call, _)) = parse(message.payload) {
            // It is the message as it came, but for its kind.
            let _ = message
                .link
                .answer(message.from, call.reply_port, message.payload);
        }
    }
}

/// [`PORT_REPLY`].
struct Replies;

impl Handler for Replies {
    fn receive(&self, message: &Incoming<'_>) {
        let Some((header, payload)) = parse(message.payload) else {
            return;
        };
        if message.header.kind != MESSAGE_REPLY {
            return;
        }
        // CAST: Masked.
        let number = (header.token & (PLACES as u64 - 1)) as usize;
        let Some(place) = places().get(number) else {
            return;
        };
        let mut pending = place.pending.lock();
        let awaited = pending.uses << PLACES.ilog2() | number as u64 == header.token
            && matches!(pending.progress, Progress::Waiting)
            && pending
                .link
                .as_ref()
                .is_some_and(|link| Arc::ptr_eq(link, message.link));
        if !awaited {
            return;
        }
        if let Some(to) = pending.answer.get_mut(..payload.len()) {
            to.copy_from_slice(payload);
            pending.progress = Progress::Answered(header.status, payload.len());
        } else {
            pending.progress = Progress::Answered(kernel::bindings::EMSGSIZE, 0);
        }
        place.changed.notify_all();
    }
}
