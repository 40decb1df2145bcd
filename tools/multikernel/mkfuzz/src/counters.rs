// SPDX-License-Identifier: GPL-2.0

//! How often each call was made and how it ended, counted by all processes in memory that outlives
//! each of them.

use std::collections::BTreeMap;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What is called. The names are printed.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum Call {
    HostInfo,
    PoolGrow,
    PoolShrink,
    ListMemory,
    ListCpus,
    ListInstances,
    Create,
    Open,
    Events,
    GetInfo,
    Start,
    StopForce,
    StopInOrder,
    Destroy,
    Ring,
    ReadMemory,
    ArenaCreate,
    ArenaOpen,
    ArenaRemove,
    ArenaGrant,
    ArenaRevoke,
    ArenaResize,
    ListArenas,
    ListGrants,
    SessionCreate,
    SessionOpen,
    SessionSeize,
    SessionAccept,
    SessionRemove,
    SessionPut,
    SessionGet,
    SessionDelete,
    SessionOffer,
    SessionCommit,
    SessionAbort,
    SessionWait,
    ListSessions,
    ListEntries,
    AskPort,
    ListLinks,
    Connect,
    Disconnect,
    AddCpus,
    ExchangeNames,
    LinkStats,
    KexecLoad,
    KexecUnload,
    RawIoctl,
    Mmap,
    ReadEvents,
    Poll,
    OtherCalls,
    Debugfs,
    CpuOffline,
    CpuOnline,
    Fork,
}

/// All of them, in the order in which they are printed.
pub const CALLS: [Call; 56] = [
    Call::HostInfo,
    Call::PoolGrow,
    Call::PoolShrink,
    Call::ListMemory,
    Call::ListCpus,
    Call::ListInstances,
    Call::Create,
    Call::Open,
    Call::Events,
    Call::GetInfo,
    Call::Start,
    Call::StopForce,
    Call::StopInOrder,
    Call::Destroy,
    Call::Ring,
    Call::ReadMemory,
    Call::ArenaCreate,
    Call::ArenaOpen,
    Call::ArenaRemove,
    Call::ArenaGrant,
    Call::ArenaRevoke,
    Call::ArenaResize,
    Call::ListArenas,
    Call::ListGrants,
    Call::SessionCreate,
    Call::SessionOpen,
    Call::SessionSeize,
    Call::SessionAccept,
    Call::SessionRemove,
    Call::SessionPut,
    Call::SessionGet,
    Call::SessionDelete,
    Call::SessionOffer,
    Call::SessionCommit,
    Call::SessionAbort,
    Call::SessionWait,
    Call::ListSessions,
    Call::ListEntries,
    Call::AskPort,
    Call::ListLinks,
    Call::Connect,
    Call::Disconnect,
    Call::AddCpus,
    Call::ExchangeNames,
    Call::LinkStats,
    Call::KexecLoad,
    Call::KexecUnload,
    Call::RawIoctl,
    Call::Mmap,
    Call::ReadEvents,
    Call::Poll,
    Call::OtherCalls,
    Call::Debugfs,
    Call::CpuOffline,
    Call::CpuOnline,
    Call::Fork,
];

/// Results that are told apart: 0 for success, else the errno.
const RESULTS: usize = 134;
const WORDS: usize = CALLS.len() * RESULTS;
const BYTES: usize = WORDS * size_of::<AtomicU64>();

/// The number of the table's file, or a later one: none that a call is given by mistake, which may
/// write to the file.
const FILE: i32 = 777;

/// A table in a memory file that processes inherit.
pub struct Counters {
    words: NonNull<AtomicU64>,
    file: i32,
}

impl Counters {
    /// Makes a table of zeroes. Its file is inherited by programs that are executed.
    pub fn new() -> io::Result<Self> {
        // SAFETY: The name is zero-terminated.
        let first = unsafe { libc::memfd_create(c"mkfuzz".as_ptr(), 0) };
        // SAFETY: Takes numbers only.
        let file = unsafe { libc::fcntl(first, libc::F_DUPFD, FILE) };
        if file < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: Just opened, and nobody knows of it.
        unsafe { libc::close(first) };
        // SAFETY: Has no effect but on the file that was just made.
        if unsafe { libc::ftruncate(file, BYTES as libc::off_t) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Self::of_file(file)
    }

    /// The table in an inherited file.
    pub fn of_file(file: i32) -> io::Result<Self> {
        // SAFETY: Maps anew, at an address of the kernel's choice.
        let words = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file,
                0,
            )
        };
        if words == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let words = NonNull::new(words.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { words, file })
    }

    /// The number of its file.
    pub fn file(&self) -> i32 {
        self.file
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: The mapping has that many words, is never unmapped, and everybody's accesses to
        // it are atomic.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), WORDS) }
    }

    /// Counts one call that ended with 0 or an errno.
    pub fn count(&self, call: Call, result: i32) {
        let result = (result.unsigned_abs() as usize).min(RESULTS - 1);
        if let Some(word) = self.words().get(call as usize * RESULTS + result) {
            word.fetch_add(1, Relaxed);
        }
    }

    /// How often a call ended with `result`.
    pub fn of(&self, call: Call, result: i32) -> u64 {
        let at = call as usize * RESULTS + result.unsigned_abs() as usize;
        self.words().get(at).map_or(0, |word| word.load(Relaxed))
    }

    /// All calls there have been.
    pub fn total(&self) -> u64 {
        self.words().iter().map(|word| word.load(Relaxed)).sum()
    }

    /// A line for each call, with its results by how frequent they were.
    pub fn table(&self) -> String {
        let mut text = String::new();
        for call in CALLS {
            let results: BTreeMap<i32, u64> = (0..RESULTS as i32)
                .map(|result| (result, self.of(call, result)))
                .filter(|&(_, count)| count != 0)
                .collect();
            let total: u64 = results.values().sum();
            let mut errors: Vec<_> = results.iter().filter(|(&result, _)| result != 0).collect();
            errors.sort_by_key(|&(_, &count)| std::cmp::Reverse(count));
            let errors: Vec<String> = errors
                .iter()
                .map(|(&result, count)| format!("{} {count}", errno_name(result)))
                .collect();
            let ok = results.get(&0).copied().unwrap_or(0);
            let name = format!("{call:?}");
            text += &format!("{name:13} {total:8} {ok:8} ok  {}\n", errors.join(" "));
        }
        text
    }
}

/// The name of an errno, as in the header's list; its number if it has none there.
fn errno_name(number: i32) -> String {
    let name = match number {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::EINTR => "EINTR",
        libc::EIO => "EIO",
        libc::ENOEXEC => "ENOEXEC",
        libc::EBADF => "EBADF",
        libc::EAGAIN => "EAGAIN",
        libc::ENOMEM => "ENOMEM",
        libc::EACCES => "EACCES",
        libc::EFAULT => "EFAULT",
        libc::EBUSY => "EBUSY",
        libc::EEXIST => "EEXIST",
        libc::ENODEV => "ENODEV",
        libc::EINVAL => "EINVAL",
        libc::ENFILE => "ENFILE",
        libc::EMFILE => "EMFILE",
        libc::ENOTTY => "ENOTTY",
        libc::ENOSPC => "ENOSPC",
        libc::ESPIPE => "ESPIPE",
        libc::E2BIG => "E2BIG",
        libc::EALREADY => "EALREADY",
        libc::ESTALE => "ESTALE",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        libc::EADDRNOTAVAIL => "EADDRNOTAVAIL",
        libc::ENETDOWN => "ENETDOWN",
        libc::ETIMEDOUT => "ETIMEDOUT",
        libc::ENAMETOOLONG => "ENAMETOOLONG",
        libc::ENOTCONN => "ENOTCONN",
        libc::EPROTONOSUPPORT => "EPROTONOSUPPORT",
        libc::EPIPE => "EPIPE",
        libc::ECONNREFUSED => "ECONNREFUSED",
        libc::EMSGSIZE => "EMSGSIZE",
        libc::EPROTO => "EPROTO",
        libc::EUCLEAN => "EUCLEAN",
        number => return format!("errno{number}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_has_its_own_row() {
        for (i, call) in CALLS.into_iter().enumerate() {
            assert_eq!(call as usize, i);
        }
    }

    #[test]
    fn what_is_counted_is_printed() {
        let counters = Counters::new().unwrap();
        counters.count(Call::Create, 0);
        counters.count(Call::Create, libc::EBUSY);
        counters.count(Call::Create, libc::EBUSY);
        counters.count(Call::Fork, 1000);
        assert_eq!(counters.total(), 4);
        assert_eq!(counters.of(Call::Create, libc::EBUSY), 2);
        let table = counters.table();
        let line = table
            .lines()
            .find(|line| line.starts_with("Create "))
            .unwrap();
        assert!(line.contains(" 3 "), "{line}");
        assert!(line.contains("1 ok  EBUSY 2"), "{line}");
    }
}
