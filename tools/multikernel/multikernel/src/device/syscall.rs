// SPDX-License-Identifier: GPL-2.0

//! The system calls, as safe functions over the structures of the user ABI.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicU64, AtomicU8, Ordering};

use multikernel_sys as sys;

use crate::boot::Segment;
use crate::shared::{Area, SharedError};

/// A structure of the user ABI that contains no pointer, together with the ioctl that takes it.
///
/// # Safety
///
/// `NUMBER` is an ioctl that takes a pointer to `Self`, and whatever memory `Self` points to is
/// valid for what the kernel does with it for as long as the value can be passed to [`ioctl`].
pub unsafe trait Request {
    /// The ioctl number.
    const NUMBER: libc::Ioctl;
}

macro_rules! plain_requests {
    ($($(#[$doc:meta])* $name:ident($structure:ty) = $number:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default)]
        #[repr(transparent)]
        pub struct $name(pub $structure);

        // SAFETY: The number is that of the header for this structure, and the structure has no
        // pointers in it.
        unsafe impl Request for $name {
            const NUMBER: libc::Ioctl = $number;
        }
    )*};
}

plain_requests! {
    HostInfo(sys::multikernel_ioctl_host_info) = sys::MULTIKERNEL_IOCTL_HOST_INFO;
    PoolGrow(sys::multikernel_ioctl_pool) = sys::MULTIKERNEL_IOCTL_POOL_GROW;
    PoolShrink(sys::multikernel_ioctl_pool) = sys::MULTIKERNEL_IOCTL_POOL_SHRINK;
    Open(sys::multikernel_ioctl_open) = sys::MULTIKERNEL_IOCTL_OPEN;
    Start(sys::multikernel_ioctl_start) = sys::MULTIKERNEL_IOCTL_START;
    Stop(sys::multikernel_ioctl_stop) = sys::MULTIKERNEL_IOCTL_STOP;
    Destroy(sys::multikernel_ioctl_simple) = sys::MULTIKERNEL_IOCTL_DESTROY;
    Ring(sys::multikernel_ioctl_simple) = sys::MULTIKERNEL_IOCTL_RING;
    OpenPort(sys::multikernel_ioctl_open_port) = sys::MULTIKERNEL_IOCTL_OPEN_PORT;
    MapPort(sys::multikernel_ioctl_map_port) = sys::MULTIKERNEL_IOCTL_MAP_PORT;
    RingPort(sys::multikernel_ioctl_simple) = sys::MULTIKERNEL_IOCTL_RING_PORT;
    ArenaCreate(sys::multikernel_ioctl_arena_create) = sys::MULTIKERNEL_IOCTL_ARENA_CREATE;
    ArenaOpen(sys::multikernel_ioctl_arena_open) = sys::MULTIKERNEL_IOCTL_ARENA_OPEN;
    ArenaRemove(sys::multikernel_ioctl_arena_remove) = sys::MULTIKERNEL_IOCTL_ARENA_REMOVE;
    ArenaGrant(sys::multikernel_ioctl_arena_grant) = sys::MULTIKERNEL_IOCTL_ARENA_GRANT;
    ArenaRevoke(sys::multikernel_ioctl_arena_grant) = sys::MULTIKERNEL_IOCTL_ARENA_REVOKE;
    ArenaResize(sys::multikernel_ioctl_arena_resize) = sys::MULTIKERNEL_IOCTL_ARENA_RESIZE;
    SessionCreate(sys::multikernel_ioctl_session) = sys::MULTIKERNEL_IOCTL_SESSION_CREATE;
    SessionOpen(sys::multikernel_ioctl_session) = sys::MULTIKERNEL_IOCTL_SESSION_OPEN;
    SessionAccept(sys::multikernel_ioctl_session) = sys::MULTIKERNEL_IOCTL_SESSION_ACCEPT;
    SessionRemove(sys::multikernel_ioctl_session) = sys::MULTIKERNEL_IOCTL_SESSION_REMOVE;
    SessionOffer(sys::multikernel_ioctl_session_offer) = sys::MULTIKERNEL_IOCTL_SESSION_OFFER;
    SessionCommit(sys::multikernel_ioctl_session_step) = sys::MULTIKERNEL_IOCTL_SESSION_COMMIT;
    SessionAbort(sys::multikernel_ioctl_session_step) = sys::MULTIKERNEL_IOCTL_SESSION_ABORT;
    SessionWait(sys::multikernel_ioctl_session_step) = sys::MULTIKERNEL_IOCTL_SESSION_WAIT;
    Events(sys::multikernel_ioctl_events) = sys::MULTIKERNEL_IOCTL_EVENTS;
    Connect(sys::multikernel_ioctl_connect) = sys::MULTIKERNEL_IOCTL_CONNECT;
    Disconnect(sys::multikernel_ioctl_connect) = sys::MULTIKERNEL_IOCTL_DISCONNECT;
    ExchangeNames(sys::multikernel_ioctl_exchange_names) = sys::MULTIKERNEL_IOCTL_EXCHANGE_NAMES;
}

/// Calls an ioctl whose structure has no pointers.
pub fn ioctl<R: Request>(fd: BorrowedFd<'_>, request: &mut R) -> io::Result<()> {
    // SAFETY: By the contract of `Request`, the kernel reads and writes one `R` at this address.
    unsafe { ioctl_raw(fd, R::NUMBER, ptr::from_mut(request).cast()) }
}

/// # Safety
///
/// `argument` and what it points to must be valid for what the kernel does in this ioctl.
unsafe fn ioctl_raw(
    fd: BorrowedFd<'_>,
    number: libc::Ioctl,
    argument: *mut libc::c_void,
) -> io::Result<()> {
    // SAFETY: By the contract of this function.
    match unsafe { libc::ioctl(fd.as_raw_fd(), number, argument) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Fills a list by one of the LIST ioctls; says how many elements there are, which may be more than
/// fitted.
pub fn list<T: ListElement>(fd: BorrowedFd<'_>, items: &mut [T]) -> io::Result<usize> {
    let mut request = sys::multikernel_ioctl_list {
        size: super::size_field::<sys::multikernel_ioctl_list>(),
        nr: count_field(items.len()),
        items: items.as_mut_ptr() as u64,
    };
    // SAFETY: The kernel writes at most `nr` elements to `items`, and a `T` may be any bytes.
    unsafe { ioctl_raw(fd, T::NUMBER, ptr::from_mut(&mut request).cast()) }?;
    Ok(request.nr as usize)
}

/// Element of a list that the kernel fills.
///
/// # Safety
///
/// `NUMBER` is the LIST ioctl whose elements have the layout of `Self`, and any bytes are a valid
/// `Self`.
pub unsafe trait ListElement: Copy + Default {
    /// The ioctl number.
    const NUMBER: libc::Ioctl;
}

// SAFETY: By the header; integers only.
unsafe impl ListElement for sys::multikernel_range {
    const NUMBER: libc::Ioctl = sys::MULTIKERNEL_IOCTL_LIST_MEMORY;
}

// SAFETY: By the header; integers only.
unsafe impl ListElement for sys::multikernel_cpu {
    const NUMBER: libc::Ioctl = sys::MULTIKERNEL_IOCTL_LIST_CPUS;
}

// SAFETY: By the header; integers only.
unsafe impl ListElement for sys::multikernel_link {
    const NUMBER: libc::Ioctl = sys::MULTIKERNEL_IOCTL_LIST_LINKS;
}

// SAFETY: By the header; integers only.
unsafe impl ListElement for sys::multikernel_arena {
    const NUMBER: libc::Ioctl = sys::MULTIKERNEL_IOCTL_LIST_ARENAS;
}

// SAFETY: By the header; integers only.
unsafe impl ListElement for sys::multikernel_arena_grant {
    const NUMBER: libc::Ioctl = sys::MULTIKERNEL_IOCTL_LIST_GRANTS;
}

// SAFETY: By the header; integers only.
unsafe impl ListElement for sys::multikernel_session {
    const NUMBER: libc::Ioctl = sys::MULTIKERNEL_IOCTL_LIST_SESSIONS;
}

// SAFETY: By the header; integers only.
unsafe impl ListElement for sys::multikernel_session_entry {
    const NUMBER: libc::Ioctl = sys::MULTIKERNEL_IOCTL_SESSION_LIST_ENTRIES;
}

// SAFETY: By the header; an integer.
unsafe impl ListElement for u32 {
    const NUMBER: libc::Ioctl = sys::MULTIKERNEL_IOCTL_LIST_INSTANCES;
}

fn count_field(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// GET_INFO with room for these lists.
pub fn get_info(
    fd: BorrowedFd<'_>,
    cpus: &mut [sys::multikernel_cpu],
    ranges: &mut [sys::multikernel_range],
) -> io::Result<sys::multikernel_ioctl_get_info> {
    let mut request = sys::multikernel_ioctl_get_info {
        size: super::size_field::<sys::multikernel_ioctl_get_info>(),
        nr_cpus: count_field(cpus.len()),
        nr_ranges: count_field(ranges.len()),
        cpus: cpus.as_mut_ptr() as u64,
        ranges: ranges.as_mut_ptr() as u64,
        ..Default::default()
    };
    let argument = ptr::from_mut(&mut request).cast();
    // SAFETY: The kernel writes at most as many elements as there is room for, integers only.
    unsafe { ioctl_raw(fd, sys::MULTIKERNEL_IOCTL_GET_INFO, argument) }?;
    Ok(request)
}

/// CREATE; returns the id and the new fd.
pub fn create(
    fd: BorrowedFd<'_>,
    name: &str,
    cpus: &[u32],
    ranges: &[sys::multikernel_range],
    low_bytes: u32,
) -> io::Result<(u32, OwnedFd)> {
    let mut request = sys::multikernel_ioctl_create {
        size: super::size_field::<sys::multikernel_ioctl_create>(),
        name: super::name_field(name),
        nr_cpus: count_field(cpus.len()),
        nr_ranges: count_field(ranges.len()),
        cpus: cpus.as_ptr() as u64,
        ranges: ranges.as_ptr() as u64,
        low_bytes,
        fd: -1,
        ..Default::default()
    };
    let argument = ptr::from_mut(&mut request).cast();
    // SAFETY: The kernel reads both arrays, of the given lengths, and writes `request`.
    unsafe { ioctl_raw(fd, sys::MULTIKERNEL_IOCTL_CREATE, argument) }?;
    Ok((request.id, owned(request.fd)?))
}

/// ADD_CPUS, from the host where `from` is 0.
pub fn add_cpus(fd: BorrowedFd<'_>, cpus: &[u32], from: u32) -> io::Result<()> {
    let mut request = sys::multikernel_ioctl_add_cpus {
        size: super::size_field::<sys::multikernel_ioctl_add_cpus>(),
        flags: 0,
        nr_cpus: count_field(cpus.len()),
        from,
        cpus: cpus.as_ptr() as u64,
    };
    let argument = ptr::from_mut(&mut request).cast();
    // SAFETY: The kernel reads the array, of the given length, and `request`.
    unsafe { ioctl_raw(fd, sys::MULTIKERNEL_IOCTL_ADD_CPUS, argument) }
}

/// OPEN by id, or by name where `id` is 0; returns the id and the new fd.
pub fn open(fd: BorrowedFd<'_>, id: u32, name: &str) -> io::Result<(u32, OwnedFd)> {
    let mut request = Open(sys::multikernel_ioctl_open {
        size: super::size_field::<sys::multikernel_ioctl_open>(),
        id,
        name: super::name_field(name),
        fd: -1,
        reserved: 0,
    });
    ioctl(fd, &mut request)?;
    Ok((request.0.id, owned(request.0.fd)?))
}

/// EVENTS; returns the new fd.
pub fn events(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut request = Events(sys::multikernel_ioctl_events {
        size: super::size_field::<sys::multikernel_ioctl_events>(),
        fd: -1,
        ..Default::default()
    });
    ioctl(fd, &mut request)?;
    owned(request.0.fd)
}

/// READ_MEMORY into a buffer of at most `MULTIKERNEL_READ_MAX` bytes.
pub fn read_memory(fd: BorrowedFd<'_>, base: u64, buffer: &mut [u8]) -> io::Result<()> {
    let mut request = sys::multikernel_ioctl_read_memory {
        size: super::size_field::<sys::multikernel_ioctl_read_memory>(),
        flags: 0,
        base,
        bytes: buffer.len() as u64,
        buffer: buffer.as_mut_ptr() as u64,
    };
    let argument = ptr::from_mut(&mut request).cast();
    // SAFETY: The kernel writes `bytes` bytes to `buffer`, which has as many.
    unsafe { ioctl_raw(fd, sys::MULTIKERNEL_IOCTL_READ_MEMORY, argument) }
}

/// CALL; returns how many bytes the answer has, also with EMSGSIZE for one that does not fit.
pub fn call(
    fd: BorrowedFd<'_>,
    port: u32,
    cpu: u32,
    timeout_ms: u32,
    request: &[u8],
    answer: &mut [u8],
) -> (io::Result<()>, usize) {
    let mut call = sys::multikernel_ioctl_call {
        size: super::size_field::<sys::multikernel_ioctl_call>(),
        port,
        cpu,
        timeout_ms,
        request_bytes: count_field(request.len()),
        answer_bytes: count_field(answer.len()),
        request: request.as_ptr() as u64,
        answer: answer.as_mut_ptr() as u64,
        ..Default::default()
    };
    let argument = ptr::from_mut(&mut call).cast();
    // SAFETY: The kernel reads `request_bytes` bytes of `request`, and writes at most
    // `answer_bytes` bytes to `answer`, which have as many.
    let result = unsafe { ioctl_raw(fd, sys::MULTIKERNEL_IOCTL_CALL, argument) };
    (result, call.answer_bytes as usize)
}

/// OPEN_PORT; returns the new fd.
pub fn open_port(fd: BorrowedFd<'_>, port: u32) -> io::Result<OwnedFd> {
    let mut request = OpenPort(sys::multikernel_ioctl_open_port {
        size: super::size_field::<sys::multikernel_ioctl_open_port>(),
        flags: 0,
        port,
        fd: -1,
    });
    ioctl(fd, &mut request)?;
    owned(request.0.fd)
}

/// ARENA_CREATE; returns the new fd.
pub fn arena_create(
    fd: BorrowedFd<'_>,
    request: sys::multikernel_ioctl_arena_create,
) -> io::Result<OwnedFd> {
    let mut request = ArenaCreate(request);
    ioctl(fd, &mut request)?;
    owned(request.0.fd)
}

/// MAP_PORT.
pub fn map_port(fd: BorrowedFd<'_>) -> io::Result<sys::multikernel_ioctl_map_port> {
    let mut request = MapPort(sys::multikernel_ioctl_map_port {
        size: super::size_field::<sys::multikernel_ioctl_map_port>(),
        ..Default::default()
    });
    ioctl(fd, &mut request)?;
    Ok(request.0)
}

/// RING_PORT.
pub fn ring_port(fd: BorrowedFd<'_>) -> io::Result<()> {
    ioctl(
        fd,
        &mut RingPort(sys::multikernel_ioctl_simple {
            size: super::size_field::<sys::multikernel_ioctl_simple>(),
            flags: 0,
        }),
    )
}

/// ARENA_OPEN; returns how long it is, and the new fd.
pub fn arena_open(fd: BorrowedFd<'_>, name: &str, flags: u32) -> io::Result<(u64, OwnedFd)> {
    let mut request = ArenaOpen(sys::multikernel_ioctl_arena_open {
        size: super::size_field::<sys::multikernel_ioctl_arena_open>(),
        flags,
        name: super::name_field(name),
        fd: -1,
        ..Default::default()
    });
    ioctl(fd, &mut request)?;
    Ok((request.0.bytes, owned(request.0.fd)?))
}

/// One of SESSION_CREATE, OPEN and ACCEPT; returns the offer's ticket, and the new fd.
pub fn session<R: Request>(
    fd: BorrowedFd<'_>,
    request: impl FnOnce(sys::multikernel_ioctl_session) -> R,
    structure: impl FnOnce(&R) -> &sys::multikernel_ioctl_session,
    value: sys::multikernel_ioctl_session,
) -> io::Result<(u64, OwnedFd)> {
    let mut request = request(value);
    ioctl(fd, &mut request)?;
    let value = structure(&request);
    Ok((value.ticket, owned(value.fd)?))
}

/// What SESSION_PUT, GET and DELETE say of an entry.
#[derive(Debug)]
pub struct SessionEntry {
    /// How many bytes it has.
    pub length: u64,
    /// Its pages.
    pub fd: Option<OwnedFd>,
}

fn entry(
    fd: BorrowedFd<'_>,
    number: libc::Ioctl,
    mut request: sys::multikernel_ioctl_session_entry,
) -> io::Result<SessionEntry> {
    request.size = super::size_field::<sys::multikernel_ioctl_session_entry>();
    // SAFETY: The kernel reads and writes one such structure; what `address` and `length` say is
    // memory of the callers below, which they have borrowed for that.
    unsafe { ioctl_raw(fd, number, ptr::from_mut(&mut request).cast()) }?;
    let pages = request.kind == sys::MULTIKERNEL_ENTRY_PAGES
        && number != sys::MULTIKERNEL_IOCTL_SESSION_DELETE;
    Ok(SessionEntry {
        length: request.length,
        fd: pages.then(|| owned(request.fd)).transpose()?,
    })
}

/// SESSION_PUT of bytes.
pub fn session_put(fd: BorrowedFd<'_>, key: &str, bytes: &[u8]) -> io::Result<()> {
    let request = sys::multikernel_ioctl_session_entry {
        kind: sys::MULTIKERNEL_ENTRY_BYTES,
        key: super::name_field(key),
        address: bytes.as_ptr() as u64,
        length: bytes.len() as u64,
        ..Default::default()
    };
    entry(fd, sys::MULTIKERNEL_IOCTL_SESSION_PUT, request).map(drop)
}

/// SESSION_PUT of so many bytes of pages.
pub fn session_put_pages(fd: BorrowedFd<'_>, key: &str, length: u64) -> io::Result<SessionEntry> {
    let request = sys::multikernel_ioctl_session_entry {
        kind: sys::MULTIKERNEL_ENTRY_PAGES,
        key: super::name_field(key),
        length,
        ..Default::default()
    };
    entry(fd, sys::MULTIKERNEL_IOCTL_SESSION_PUT, request)
}

/// SESSION_PUT of the contents of a memfd, or another file; how many bytes they are.
pub fn session_put_file(fd: BorrowedFd<'_>, key: &str, file: BorrowedFd<'_>) -> io::Result<u64> {
    let request = sys::multikernel_ioctl_session_entry {
        kind: sys::MULTIKERNEL_ENTRY_MEMFD,
        key: super::name_field(key),
        fd: file.as_raw_fd(),
        ..Default::default()
    };
    Ok(entry(fd, sys::MULTIKERNEL_IOCTL_SESSION_PUT, request)?.length)
}

/// SESSION_PUT of what is in a file that a session of `/dev/liveupdate` preserves with a token; how
/// many bytes they are.
pub fn session_put_preserved(
    fd: BorrowedFd<'_>,
    key: &str,
    session: BorrowedFd<'_>,
    token: u64,
) -> io::Result<u64> {
    let request = sys::multikernel_ioctl_session_entry {
        kind: sys::MULTIKERNEL_ENTRY_MEMFD,
        key: super::name_field(key),
        address: token,
        fd: session.as_raw_fd(),
        flags: sys::MULTIKERNEL_PUT_PRESERVED,
        ..Default::default()
    };
    Ok(entry(fd, sys::MULTIKERNEL_IOCTL_SESSION_PUT, request)?.length)
}

/// SESSION_GET of bytes, as many as fit; of pages.
pub fn session_get(fd: BorrowedFd<'_>, key: &str, room: &mut [u8]) -> io::Result<SessionEntry> {
    let request = sys::multikernel_ioctl_session_entry {
        key: super::name_field(key),
        address: if room.is_empty() {
            0
        } else {
            room.as_mut_ptr() as u64
        },
        length: room.len() as u64,
        ..Default::default()
    };
    entry(fd, sys::MULTIKERNEL_IOCTL_SESSION_GET, request)
}

/// SESSION_GET of what was in a memfd, into a file; how many bytes they are.
pub fn session_get_file(fd: BorrowedFd<'_>, key: &str, file: BorrowedFd<'_>) -> io::Result<u64> {
    let request = sys::multikernel_ioctl_session_entry {
        key: super::name_field(key),
        fd: file.as_raw_fd(),
        ..Default::default()
    };
    Ok(entry(fd, sys::MULTIKERNEL_IOCTL_SESSION_GET, request)?.length)
}

/// SESSION_DELETE.
pub fn session_delete(fd: BorrowedFd<'_>, key: &str) -> io::Result<()> {
    let request = sys::multikernel_ioctl_session_entry {
        key: super::name_field(key),
        ..Default::default()
    };
    entry(fd, sys::MULTIKERNEL_IOCTL_SESSION_DELETE, request).map(drop)
}

/// LINK_STATS with room for these lists.
pub fn link_stats(
    fd: BorrowedFd<'_>,
    lanes: &mut [sys::multikernel_link_lane],
    cpus: &mut [sys::multikernel_link_cpu],
) -> io::Result<sys::multikernel_ioctl_link_stats> {
    let mut request = sys::multikernel_ioctl_link_stats {
        size: super::size_field::<sys::multikernel_ioctl_link_stats>(),
        nr_lanes: count_field(lanes.len()),
        nr_cpus: count_field(cpus.len()),
        lane_size: super::size_field::<sys::multikernel_link_lane>(),
        cpu_size: super::size_field::<sys::multikernel_link_cpu>(),
        lanes: lanes.as_mut_ptr() as u64,
        cpus: cpus.as_mut_ptr() as u64,
        ..Default::default()
    };
    let argument = ptr::from_mut(&mut request).cast();
    // SAFETY: The kernel writes at most as many elements as there is room for, of the sizes given,
    // integers only.
    unsafe { ioctl_raw(fd, sys::MULTIKERNEL_IOCTL_LINK_STATS, argument) }?;
    Ok(request)
}

fn owned(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: The kernel has just made this fd for us; nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// kexec_load(2) into an instance; no segments unload.
pub fn kexec_load(id: u32, entry: u64, segments: &[Segment<'_>]) -> io::Result<()> {
    let segments: Vec<sys::kexec_segment> = segments
        .iter()
        .map(|segment| sys::kexec_segment {
            buf: segment.data.as_ptr().cast(),
            bufsz: segment.data.len(),
            mem: segment.range.base,
            memsz: segment.range.size as usize,
        })
        .collect();
    let id = (u64::from(id) << sys::KEXEC_MULTIKERNEL_ID_SHIFT)
        & u64::from(sys::KEXEC_MULTIKERNEL_ID_MASK);
    let flags = sys::KEXEC_ARCH_X86_64 | u64::from(sys::KEXEC_MULTIKERNEL) | id;
    // SAFETY: The kernel reads the array and the buffers that it names; both outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_kexec_load,
            entry,
            segments.len(),
            segments.as_ptr(),
            flags,
        )
    };
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// A mapped arena.
///
/// Other processes and kernels may change what is in it at any time, so that it is read and written
/// by atomic accesses only, which are plain loads and stores to the CPU.
#[derive(Debug)]
pub struct ArenaMap {
    start: NonNull<AtomicU8>,
    bytes: usize,
    writable: bool,
}

// SAFETY: Plain memory, accessed atomically.
unsafe impl Send for ArenaMap {}
// SAFETY: As above.
unsafe impl Sync for ArenaMap {}

impl ArenaMap {
    /// Maps the first `bytes` bytes.
    pub(super) fn new(fd: BorrowedFd<'_>, bytes: usize, writable: bool) -> io::Result<Self> {
        let protection = match writable {
            true => libc::PROT_READ | libc::PROT_WRITE,
            false => libc::PROT_READ,
        };
        // SAFETY: A new mapping at an address of the kernel's choice touches no other memory.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                protection,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            start: NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidData)?,
            bytes,
            writable,
        })
    }

    /// How long it is.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn part(&self, offset: usize, bytes: usize) -> Option<&[AtomicU8]> {
        // SAFETY: The mapping is `bytes` long and lives as long as `self`; every access is atomic.
        let all = unsafe { slice::from_raw_parts(self.start.as_ptr(), self.bytes) };
        all.get(offset..offset.checked_add(bytes)?)
    }

    /// All of it as words of 8 bytes, to be read and stored whole; `None` if the arena was opened
    /// to be read only.
    pub fn words(&self) -> Option<&[AtomicU64]> {
        let words = self.bytes / size_of::<AtomicU64>();
        // SAFETY: The mapping is `bytes` long, begins with a page, so that words are aligned, may
        // be written to, and lives as long as `self`; every access is atomic.
        self.writable
            .then(|| unsafe { slice::from_raw_parts(self.start.as_ptr().cast(), words) })
    }

    /// Copies bytes from an offset on; `None` if there are not as many.
    #[must_use]
    pub fn read(&self, offset: usize, to: &mut [u8]) -> Option<()> {
        let part = self.part(offset, to.len())?;
        for (to, from) in to.iter_mut().zip(part) {
            *to = from.load(Ordering::Relaxed);
        }
        Some(())
    }

    /// Copies bytes to an offset, the first one first; `None`, with nothing written, if there is no
    /// room for them, or if the arena was opened to be read only.
    #[must_use]
    pub fn write(&self, offset: usize, from: &[u8]) -> Option<()> {
        let to = self.part(offset, from.len()).filter(|_| self.writable)?;
        for (to, from) in to.iter().zip(from) {
            to.store(*from, Ordering::Relaxed);
        }
        Some(())
    }
}

impl Drop for ArenaMap {
    fn drop(&mut self) {
        // SAFETY: This is the mapping that `new` made; no borrow of it is left.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

/// Mapped memory that another kernel may change: the shared area of an instance, or a lane.
#[derive(Debug)]
pub struct SharedMap {
    start: NonNull<AtomicU64>,
    bytes: usize,
}

// SAFETY: A mapping is the whole process's, and all access to this one is by atomic words.
unsafe impl Send for SharedMap {}
// SAFETY: As above.
unsafe impl Sync for SharedMap {}

impl SharedMap {
    /// Maps the first `bytes` bytes.
    pub fn new(fd: BorrowedFd<'_>, bytes: usize) -> io::Result<Self> {
        Self::at(fd, 0, bytes)
    }

    /// Maps `bytes` bytes from `offset` on.
    pub fn at(fd: BorrowedFd<'_>, offset: u64, bytes: usize) -> io::Result<Self> {
        let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: A new mapping at an address of the kernel's choice touches no other memory.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                offset,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { start, bytes })
    }

    /// Its words.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: The mapping is aligned to a page, `bytes` long, and lives as long as `self`.
        // What the other kernel changes in it is read and written by atomic accesses only.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.bytes / 8) }
    }

    /// The area, for [`crate::shared`].
    pub fn area(&self) -> Result<Area<'_>, SharedError> {
        Area::new(self.words())
    }
}

impl Drop for SharedMap {
    fn drop(&mut self) {
        // SAFETY: This is the mapping that `new` made; no borrow of it is left.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}
