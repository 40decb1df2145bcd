// SPDX-License-Identifier: GPL-2.0

//! Which CPUs a spawn may start: [`PORT_CPUS`].
//!
//! A spawn's tables may tell of CPUs that it is given only later, or never. A spawn with guest
//! support asks before it starts one that it has not run on yet, and the host answers from the list
//! of CPUs that the link's owner may be rung at, which are those that the instance has. The other
//! way the host's user space tells a spawn that it has been given more: see `guest/cpus.rs`.
//!
//! Owns nothing and takes no lock: the list is read word by word.

use kernel::{
    bindings,
    prelude::*,
    sync::Arc, //
};

use super::{
    call,
    inbox::{
        self,
        Handler,
        Incoming, //
    }, //
};
use crate::abi::{
    CpusRequest,
    CPUS_MAY_START,
    CPUS_REQUEST_MAX,
    PORT_CPUS, //
};

/// Bytes of a request without its APIC ids.
const HEAD: usize = size_of::<CpusRequest>();

/// What is asked, and of which CPUs.
pub(crate) struct Request<'a> {
    /// `CpusRequest::operation`: any value.
    pub(crate) operation: u32,
    ids: &'a [[u8; 4]],
}

impl<'a> Request<'a> {
    /// Takes apart what has come; `None` if its length is not what it says, or there is no id or
    /// too many of them.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk::<HEAD>()?;
        let ([operation, count], []) = head.as_chunks::<4>() else {
            return None;
        };
        let (ids, []) = rest.as_chunks::<4>() else {
            return None;
        };
        let right = (1..=CPUS_REQUEST_MAX).contains(&ids.len())
            && ids.len() == u32::from_le_bytes(*count) as usize;
        right.then_some(Self {
            operation: u32::from_le_bytes(*operation),
            ids,
        })
    }

    /// The APIC ids: any values.
    pub(crate) fn ids(&self) -> impl ExactSizeIterator<Item = u32> + '_ {
        self.ids.iter().map(|id| u32::from_le_bytes(*id))
    }
}

/// A request about one CPU.
#[cfg(any(CONFIG_MULTIKERNEL_GUEST, CONFIG_MULTIKERNEL_KUNIT_TEST))]
pub(crate) fn about(operation: u32, apic_id: u32) -> [u8; HEAD + 4] {
    let mut bytes = [0; HEAD + 4];
    let words = [operation, 1, apic_id];
    for (to, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
        *to = word.to_le_bytes();
    }
    bytes
}

/// Answers spawns from now on. To be called once, at boot, on a host.
///
/// # Errors
///
/// `ENOMEM`.
pub(crate) fn listen() -> Result {
    inbox::add_port(PORT_CPUS, Arc::new(Port, GFP_KERNEL)?)
}

/// [`PORT_CPUS`] of a host.
struct Port;

impl Handler for Port {
    fn receive(&self, message: &Incoming<'_>) {
        let Some((caller, request)) = call::caller(message) else {
            return;
        };
        let status = match Request::parse(request) {
            Some(request) if request.operation == CPUS_MAY_START => {
                match request.ids().all(|id| message.link.may_ring(id)) {
                    true => 0,
                    false => bindings::EPERM,
                }
            }
            Some(_) => bindings::EOPNOTSUPP,
            None => bindings::EINVAL,
        };
        // Who has gone does not wait for an answer.
        let _ = caller.answer(status, &[]);
    }
}

#[cfg(CONFIG_MULTIKERNEL_KUNIT_TEST)]
#[kunit_tests(multikernel_link_cpus)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let bytes = about(CPUS_MAY_START, 0x1_0203);
        let request = Request::parse(&bytes);
        assert!(request.is_some_and(|it| it.operation == 1 && it.ids().eq([0x1_0203])));
    }

    #[test]
    fn lengths_are_checked() -> Result {
        let mut bytes = KVec::from_elem(0u8, HEAD + 4 * (CPUS_REQUEST_MAX + 1), GFP_KERNEL)?;
        let mut taken = |count: usize, length: usize| {
            // CAST: Small.
            let count = (count as u32).to_le_bytes();
            for (to, from) in bytes.iter_mut().skip(4).zip(count) {
                *to = from;
            }
            Request::parse(bytes.get(..length).unwrap_or_default()).is_some()
        };
        assert!(taken(2, HEAD + 8));
        assert!(taken(CPUS_REQUEST_MAX, HEAD + 4 * CPUS_REQUEST_MAX));
        assert!(!taken(
            CPUS_REQUEST_MAX + 1,
            HEAD + 4 * (CPUS_REQUEST_MAX + 1)
        ));
        assert!(!taken(0, HEAD));
        assert!(!taken(1, HEAD - 1));
        assert!(!taken(1, HEAD + 3));
        assert!(!taken(2, HEAD + 4));
        assert!(!taken(1, HEAD + 8));
        assert!(!taken(1, 0));
        Ok(())
    }
}
