// SPDX-License-Identifier: GPL-2.0

//! CPUs for an instance that is there already.

use std::io;
use std::time::Duration;

use super::call::{Call, Peer};
use crate::abi::{CPUS_ADDED, CPUS_REQUEST_MAX, PORT_CPUS};
use crate::explain::{explain, CPUS};
use crate::{Error, Result};

/// Calls of [`PORT_CPUS`] that tell a spawn of CPUs: a `CpusRequest` and APIC ids.
fn requests(apic_ids: &[u32]) -> impl Iterator<Item = Vec<u8>> + '_ {
    apic_ids.chunks(CPUS_REQUEST_MAX).map(|ids| {
        let head = [CPUS_ADDED, ids.len() as u32];
        let words = head.iter().chain(ids);
        words.flat_map(|word| word.to_le_bytes()).collect()
    })
}

/// Tells the kernel at the other end.
pub(super) fn tell(peer: &impl Peer, apic_ids: &[u32], timeout: Duration) -> Result<()> {
    for request in requests(apic_ids) {
        let call = Call {
            port: PORT_CPUS,
            cpu: None,
            timeout,
            request: &request,
        };
        peer.call(&call, &mut [])?;
    }
    Ok(())
}

/// What an errno of ADD_CPUS means.
pub(super) fn explain_add(asked: String, from: Option<u32>, error: &io::Error) -> Error {
    let errno = error.raw_os_error();
    let (wrong, advice) = match (errno, from) {
        (Some(libc::ENOSPC), _) => (
            "the kernel that runs in it was not told of so many CPUs when it was loaded",
            "Stop it first, or load its kernel with --later-cpus",
        ),
        (Some(libc::EBUSY), None) => (
            "a CPU is lent already, or another call is in progress on the instance",
            "'mkctl pool' shows who has which CPU",
        ),
        (Some(libc::EBUSY), Some(_)) => (
            "the instance that they are to be taken from runs, or has an image loaded, or another \
             call is in progress on one of the two",
            "Stop that one first with 'mkctl stop', and unload its image with 'mkctl unload'",
        ),
        (Some(libc::EINVAL), Some(_)) => (
            "the instance that they are to be taken from would have none left",
            "Remove that one with 'mkctl rm', and add them from the host",
        ),
        (Some(libc::ENODEV), Some(_)) => (
            "the instance that they are to be taken from does not have one of them",
            "'mkctl inspect' shows which it has",
        ),
        (Some(libc::EOPNOTSUPP), _) => ("CPU 0 and the host's last CPU cannot be lent", CPUS),
        _ => return explain(asked, error),
    };
    Error::new(asked, wrong)
        .advice(advice)
        .with_errno(errno.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_as_many_ids_as_they_say() {
        let ids: Vec<u32> = (0..CPUS_REQUEST_MAX as u32 + 1).collect();
        let requests: Vec<_> = requests(&ids).collect();
        assert_eq!(requests.len(), 2);
        assert_eq!(requests[0].len(), 8 + 4 * CPUS_REQUEST_MAX);
        assert_eq!(
            requests[1],
            [2, 0, 0, 0, 1, 0, 0, 0, CPUS_REQUEST_MAX as u8, 0, 0, 0]
        );
        assert!(requests.iter().all(|it| it.len() <= Call::BYTES_MAX));
    }

    #[test]
    fn what_is_wrong() {
        for (errno, from, words) in [
            (libc::ENOSPC, None, "--later-cpus"),
            (libc::EBUSY, None, "lent already"),
            (libc::EBUSY, Some(3), "has an image loaded"),
            (libc::EINVAL, Some(3), "none left"),
            (libc::ENODEV, Some(3), "does not have one"),
            (libc::ENODEV, None, "does not exist"),
            (libc::EOPNOTSUPP, None, "CPU 0"),
        ] {
            let error = io::Error::from_raw_os_error(errno);
            let error = explain_add("cannot give".to_owned(), from, &error);
            assert_eq!(error.errno(), Some(errno));
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}
