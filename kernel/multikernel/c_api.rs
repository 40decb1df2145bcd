// SPDX-License-Identifier: GPL-2.0

//! Messages for C code and modules: `include/linux/multikernel.h`, which documents them. Sessions
//! are in `handover/c_api.rs`.
//!
//! Arguments are taken from C here and nowhere else; what is done with them is that of `link/`. A
//! port that is taken back is in no inbox any more when the call returns, and no handler at work:
//! handlers run with an inbox locked. No state and no lock of its own.

use core::mem::{
    offset_of,
    size_of, //
};

use kernel::{
    prelude::*,
    sync::{
        atomic::Relaxed,
        Arc, //
    },
    uapi, //
};

use crate::{
    abi::{
        self,
        MESSAGE_CALL,
        MESSAGE_DATA, //
    },
    ledger::InstanceId,
    link::{
        call,
        inbox::{
            self,
            Handler,
            Incoming, //
        },
        outbox::Link, //
    },
    message,
    registry::Subsystem, //
};

/// `struct multikernel_message`, by this name: `CONFIG_CFI` compares the names of types in what is
/// called.
#[repr(C)]
#[allow(non_camel_case_types)]
struct multikernel_message {
    data: *const c_void,
    length: usize,
    answer: *mut c_void,
    answer_size: usize,
    instance: u32,
    cpu: u32,
    port: u32,
    reserved: u32,
}

type Message = multikernel_message;

// kernel/multikernel/exports.c asserts the same of the C structure.
static_assert!(
    size_of::<Message>() == 48
        && offset_of!(Message, answer) == 16
        && offset_of!(Message, instance) == 32
        && offset_of!(Message, port) == 40
);

/// `multikernel_handler_t`.
type Function = unsafe extern "C" fn(*const Message, *mut c_void) -> c_int;

/// A port of C code.
///
/// # Invariants
///
/// `function` can be called with a message and `private`, from any CPU and in atomic context, for
/// as long as the port is registered.
struct Port {
    function: Function,
    private: *mut c_void,
}

// SAFETY: By the invariants, the function may be called anywhere, and what `private` means is its
// own business.
unsafe impl Send for Port {}
// SAFETY: As above.
unsafe impl Sync for Port {}

impl Handler for Port {
    fn receive(&self, message: &Incoming<'_>) {
        let mut answer = [0_u8; call::ANSWER_MAX];
        let is_call = message.header.kind == MESSAGE_CALL;
        let payload = match message.header.kind {
            MESSAGE_CALL => call::parse(message.payload).map(|(_, payload)| payload),
            MESSAGE_DATA => Some(message.payload),
            _ => None,
        };
        let Some(payload) = payload else {
            message.link.faults.undeliverable.add(1, Relaxed);
            return;
        };
        let argument = Message {
            data: payload.as_ptr().cast(),
            length: payload.len(),
            answer: if is_call {
                answer.as_mut_ptr().cast()
            } else {
                core::ptr::null_mut()
            },
            answer_size: if is_call { answer.len() } else { 0 },
            instance: message.link.peer_id(),
            cpu: message.from,
            port: message.header.port,
            reserved: 0,
        };
        // SAFETY: The message is valid for the call, and so are the bytes it points at; the rest
        // is the type's invariant.
        let result = unsafe { (self.function)(&raw const argument, self.private) };
        if !is_call {
            return;
        }
        // Without credit the caller's wait ends by its timeout.
        let _ = match usize::try_from(result) {
            Ok(length) => match answer.get(..length) {
                Some(bytes) => call::answer(message, 0, bytes),
                None => call::answer(message, kernel::bindings::EMSGSIZE, &[]),
            },
            Err(_) => call::answer(message, result.unsigned_abs(), &[]),
        };
    }
}

/// Gives a port to C code.
///
/// # Safety
///
/// `function` can be called with a message and `private`, from any CPU and in atomic context, until
/// `multikernel_unregister_port()` has returned. In process context.
#[no_mangle]
unsafe extern "C" fn multikernel_register_port(
    port: u32,
    function: Option<Function>,
    private: *mut c_void,
) -> c_int {
    let register = || -> Result {
        if !(abi::PORT_KERNEL..abi::PORT_USER).contains(&port) {
            return Err(EINVAL);
        }
        let function = function.ok_or(EINVAL)?;
        // INVARIANT: By the caller's promise.
        inbox::add_port(port, Arc::new(Port { function, private }, GFP_KERNEL)?)
    };
    register().map_or_else(Error::to_errno, |()| 0)
}

/// Takes a port back. When this returns, its function is not at work, and not called again.
#[no_mangle]
extern "C" fn multikernel_unregister_port(port: u32) {
    if (abi::PORT_KERNEL..abi::PORT_USER).contains(&port) {
        inbox::take_port_back(port);
    }
}

/// The link to an instance, or in a spawn to the host, whose id is 0.
///
/// # Errors
///
/// `ENOENT`, `EALREADY`, `ENOTCONN`, `EPROTONOSUPPORT`, `EOPNOTSUPP`.
fn link_to(instance: u32) -> Result<Arc<Link>> {
    #[cfg(CONFIG_MULTIKERNEL_GUEST)]
    if crate::guest::active() {
        if instance != 0 {
            return Err(ENOENT);
        }
        return crate::link::peer::host().cloned().ok_or(ENOTCONN);
    }
    let subsystem = Subsystem::get()?;
    let id = InstanceId::new(instance).ok_or(ENOENT)?;
    let handle = subsystem.lock().find_id(id)?.handle();
    // Found by its id, and destroyed before it was looked at: there is none of this id.
    message::link_of(subsystem, handle).map_err(|error| match error {
        ESTALE => ENOENT,
        error => error,
    })
}

fn cpu_of(cpu: u32) -> Option<u32> {
    (cpu != uapi::MULTIKERNEL_CPU_ANY).then_some(cpu)
}

/// Sends a message.
///
/// # Safety
///
/// `data` is valid for reads of `length` bytes. In process context.
#[no_mangle]
unsafe extern "C" fn multikernel_send(
    instance: u32,
    cpu: u32,
    port: u32,
    data: *const c_void,
    length: usize,
) -> c_int {
    let send = || -> Result {
        let link = link_to(instance)?;
        if length > link.shape().longest() {
            return Err(EMSGSIZE);
        }
        // SAFETY: By the caller's promise, and not longer than a message.
        let bytes = unsafe { bytes_of(data, length) };
        link.send(cpu_of(cpu), MESSAGE_DATA, port, bytes)
    };
    send().map_or_else(Error::to_errno, |()| 0)
}

/// Calls a port and waits for the answer.
///
/// # Safety
///
/// `request` is valid for reads of `length` bytes, and `answer` for writes of `answer_size`, by
/// nobody else meanwhile. In process context.
#[no_mangle]
#[allow(clippy::too_many_arguments)]
unsafe extern "C" fn multikernel_call(
    instance: u32,
    cpu: u32,
    port: u32,
    request: *const c_void,
    length: usize,
    answer: *mut c_void,
    answer_size: usize,
    timeout_ms: c_uint,
) -> isize {
    let call = || -> Result<usize> {
        if !(1..=message::TIMEOUT_MAX).contains(&timeout_ms) {
            return Err(EINVAL);
        }
        if length > call::CALL_MAX {
            return Err(EMSGSIZE);
        }
        let link = link_to(instance)?;
        let size = answer_size.min(call::CALL_MAX);
        // SAFETY: By the caller's promise; both are short.
        let (request, answer) = unsafe { (bytes_of(request, length), bytes_of_mut(answer, size)) };
        call::call(&link, cpu_of(cpu), port, request, answer, timeout_ms)
    };
    match call() {
        // CAST: At most `CALL_MAX`.
        Ok(bytes) => bytes as isize,
        Err(error) => error.to_errno() as isize,
    }
}

/// Bytes of C code, which may be at NULL if there are none.
///
/// # Safety
///
/// `data` is valid for reads of `length` bytes for as long as the result is used, and nobody writes
/// to them.
pub(crate) unsafe fn bytes_of<'a>(data: *const c_void, length: usize) -> &'a [u8] {
    if length == 0 {
        return &[];
    }
    // SAFETY: By the caller's promise.
    unsafe { core::slice::from_raw_parts(data.cast(), length) }
}

/// As [`bytes_of`], to be written.
///
/// # Safety
///
/// `data` is valid for reads and writes of `length` bytes for as long as the result is used, by
/// nobody else.
pub(crate) unsafe fn bytes_of_mut<'a>(data: *mut c_void, length: usize) -> &'a mut [u8] {
    if length == 0 {
        return &mut [];
    }
    // SAFETY: By the caller's promise.
    unsafe { core::slice::from_raw_parts_mut(data.cast(), length) }
}
