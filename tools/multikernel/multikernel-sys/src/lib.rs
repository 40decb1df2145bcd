// SPDX-License-Identifier: GPL-2.0

//! Bindings to `include/uapi/linux/multikernel.h`: structures, constants, ioctl numbers.
//!
//! Everything but the ioctl numbers and the parts of kexec_load(2) is generated from the header at
//! build time; see there for what each thing means. Nothing here does anything.

#[allow(missing_docs, non_camel_case_types, non_upper_case_globals)]
#[allow(clippy::all, clippy::undocumented_unsafe_blocks)]
mod bindings {
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

pub use bindings::*;

/// `_IO(MULTIKERNEL_IOCTL_TYPE, command)`: bindgen does not evaluate macros with parameters.
const fn io(command: u32) -> libc::Ioctl {
    ((MULTIKERNEL_IOCTL_TYPE << 8) | command) as libc::Ioctl
}

/// See the header.
pub const MULTIKERNEL_IOCTL_HOST_INFO: libc::Ioctl = io(MULTIKERNEL_CMD_HOST_INFO);
/// See the header.
pub const MULTIKERNEL_IOCTL_POOL_GROW: libc::Ioctl = io(MULTIKERNEL_CMD_POOL_GROW);
/// See the header.
pub const MULTIKERNEL_IOCTL_POOL_SHRINK: libc::Ioctl = io(MULTIKERNEL_CMD_POOL_SHRINK);
/// See the header.
pub const MULTIKERNEL_IOCTL_LIST_MEMORY: libc::Ioctl = io(MULTIKERNEL_CMD_LIST_MEMORY);
/// See the header.
pub const MULTIKERNEL_IOCTL_LIST_CPUS: libc::Ioctl = io(MULTIKERNEL_CMD_LIST_CPUS);
/// See the header.
pub const MULTIKERNEL_IOCTL_LIST_INSTANCES: libc::Ioctl = io(MULTIKERNEL_CMD_LIST_INSTANCES);
/// See the header.
pub const MULTIKERNEL_IOCTL_CREATE: libc::Ioctl = io(MULTIKERNEL_CMD_CREATE);
/// See the header.
pub const MULTIKERNEL_IOCTL_OPEN: libc::Ioctl = io(MULTIKERNEL_CMD_OPEN);
/// See the header.
pub const MULTIKERNEL_IOCTL_EVENTS: libc::Ioctl = io(MULTIKERNEL_CMD_EVENTS);
/// See the header.
pub const MULTIKERNEL_IOCTL_LIST_LINKS: libc::Ioctl = io(MULTIKERNEL_CMD_LIST_LINKS);
/// See the header.
pub const MULTIKERNEL_IOCTL_GET_INFO: libc::Ioctl = io(MULTIKERNEL_CMD_GET_INFO);
/// See the header.
pub const MULTIKERNEL_IOCTL_START: libc::Ioctl = io(MULTIKERNEL_CMD_START);
/// See the header.
pub const MULTIKERNEL_IOCTL_STOP: libc::Ioctl = io(MULTIKERNEL_CMD_STOP);
/// See the header.
pub const MULTIKERNEL_IOCTL_DESTROY: libc::Ioctl = io(MULTIKERNEL_CMD_DESTROY);
/// See the header.
pub const MULTIKERNEL_IOCTL_RING: libc::Ioctl = io(MULTIKERNEL_CMD_RING);
/// See the header.
pub const MULTIKERNEL_IOCTL_READ_MEMORY: libc::Ioctl = io(MULTIKERNEL_CMD_READ_MEMORY);
/// See the header.
pub const MULTIKERNEL_IOCTL_CALL: libc::Ioctl = io(MULTIKERNEL_CMD_CALL);
/// See the header.
pub const MULTIKERNEL_IOCTL_OPEN_PORT: libc::Ioctl = io(MULTIKERNEL_CMD_OPEN_PORT);
/// See the header.
pub const MULTIKERNEL_IOCTL_LINK_STATS: libc::Ioctl = io(MULTIKERNEL_CMD_LINK_STATS);
/// See the header.
pub const MULTIKERNEL_IOCTL_MAP_PORT: libc::Ioctl = io(MULTIKERNEL_CMD_MAP_PORT);
/// See the header.
pub const MULTIKERNEL_IOCTL_RING_PORT: libc::Ioctl = io(MULTIKERNEL_CMD_RING_PORT);
/// See the header.
pub const MULTIKERNEL_IOCTL_CONNECT: libc::Ioctl = io(MULTIKERNEL_CMD_CONNECT);
/// See the header.
pub const MULTIKERNEL_IOCTL_DISCONNECT: libc::Ioctl = io(MULTIKERNEL_CMD_DISCONNECT);
/// See the header.
pub const MULTIKERNEL_IOCTL_ADD_CPUS: libc::Ioctl = io(MULTIKERNEL_CMD_ADD_CPUS);
/// See the header.
pub const MULTIKERNEL_IOCTL_EXCHANGE_NAMES: libc::Ioctl = io(MULTIKERNEL_CMD_EXCHANGE_NAMES);
/// See the header.
pub const MULTIKERNEL_IOCTL_ARENA_CREATE: libc::Ioctl = io(MULTIKERNEL_CMD_ARENA_CREATE);
/// See the header.
pub const MULTIKERNEL_IOCTL_ARENA_OPEN: libc::Ioctl = io(MULTIKERNEL_CMD_ARENA_OPEN);
/// See the header.
pub const MULTIKERNEL_IOCTL_ARENA_REMOVE: libc::Ioctl = io(MULTIKERNEL_CMD_ARENA_REMOVE);
/// See the header.
pub const MULTIKERNEL_IOCTL_ARENA_GRANT: libc::Ioctl = io(MULTIKERNEL_CMD_ARENA_GRANT);
/// See the header.
pub const MULTIKERNEL_IOCTL_ARENA_REVOKE: libc::Ioctl = io(MULTIKERNEL_CMD_ARENA_REVOKE);
/// See the header.
pub const MULTIKERNEL_IOCTL_LIST_ARENAS: libc::Ioctl = io(MULTIKERNEL_CMD_LIST_ARENAS);
/// See the header.
pub const MULTIKERNEL_IOCTL_ARENA_RESIZE: libc::Ioctl = io(MULTIKERNEL_CMD_ARENA_RESIZE);
/// See the header.
pub const MULTIKERNEL_IOCTL_LIST_GRANTS: libc::Ioctl = io(MULTIKERNEL_CMD_LIST_GRANTS);
/// See the header.
pub const MULTIKERNEL_IOCTL_SESSION_CREATE: libc::Ioctl = io(MULTIKERNEL_CMD_SESSION_CREATE);
/// See the header.
pub const MULTIKERNEL_IOCTL_SESSION_OPEN: libc::Ioctl = io(MULTIKERNEL_CMD_SESSION_OPEN);
/// See the header.
pub const MULTIKERNEL_IOCTL_SESSION_ACCEPT: libc::Ioctl = io(MULTIKERNEL_CMD_SESSION_ACCEPT);
/// See the header.
pub const MULTIKERNEL_IOCTL_SESSION_REMOVE: libc::Ioctl = io(MULTIKERNEL_CMD_SESSION_REMOVE);
/// See the header.
pub const MULTIKERNEL_IOCTL_LIST_SESSIONS: libc::Ioctl = io(MULTIKERNEL_CMD_LIST_SESSIONS);
/// See the header.
pub const MULTIKERNEL_IOCTL_SESSION_PUT: libc::Ioctl = io(MULTIKERNEL_CMD_SESSION_PUT);
/// See the header.
pub const MULTIKERNEL_IOCTL_SESSION_GET: libc::Ioctl = io(MULTIKERNEL_CMD_SESSION_GET);
/// See the header.
pub const MULTIKERNEL_IOCTL_SESSION_DELETE: libc::Ioctl = io(MULTIKERNEL_CMD_SESSION_DELETE);
/// See the header.
pub const MULTIKERNEL_IOCTL_SESSION_LIST_ENTRIES: libc::Ioctl =
    io(MULTIKERNEL_CMD_SESSION_LIST_ENTRIES);
/// See the header.
pub const MULTIKERNEL_IOCTL_SESSION_OFFER: libc::Ioctl = io(MULTIKERNEL_CMD_SESSION_OFFER);
/// See the header.
pub const MULTIKERNEL_IOCTL_SESSION_COMMIT: libc::Ioctl = io(MULTIKERNEL_CMD_SESSION_COMMIT);
/// See the header.
pub const MULTIKERNEL_IOCTL_SESSION_ABORT: libc::Ioctl = io(MULTIKERNEL_CMD_SESSION_ABORT);
/// See the header.
pub const MULTIKERNEL_IOCTL_SESSION_WAIT: libc::Ioctl = io(MULTIKERNEL_CMD_SESSION_WAIT);

/// `KEXEC_ARCH_X86_64` of `<linux/kexec.h>`: the ELF machine number in the upper half of the flags.
pub const KEXEC_ARCH_X86_64: u64 = 62 << 16;

/// `struct kexec_segment` of `<linux/kexec.h>`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kexec_segment {
    /// The bytes to copy; may be null if `bufsz` is 0.
    pub buf: *const libc::c_void,
    /// How many bytes to copy.
    pub bufsz: usize,
    /// Physical address, aligned to a page.
    pub mem: u64,
    /// Size there, a multiple of a page; what `buf` does not fill is zeroed.
    pub memsz: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::size_of;

    /// The numbers are user ABI: they are written out here so that no edit changes one unseen.
    #[test]
    fn ioctl_numbers() {
        let numbers = [
            (MULTIKERNEL_IOCTL_HOST_INFO, 0xb900),
            (MULTIKERNEL_IOCTL_POOL_GROW, 0xb901),
            (MULTIKERNEL_IOCTL_POOL_SHRINK, 0xb902),
            (MULTIKERNEL_IOCTL_LIST_MEMORY, 0xb903),
            (MULTIKERNEL_IOCTL_LIST_CPUS, 0xb904),
            (MULTIKERNEL_IOCTL_LIST_INSTANCES, 0xb905),
            (MULTIKERNEL_IOCTL_CREATE, 0xb906),
            (MULTIKERNEL_IOCTL_OPEN, 0xb907),
            (MULTIKERNEL_IOCTL_EVENTS, 0xb908),
            (MULTIKERNEL_IOCTL_LIST_LINKS, 0xb909),
            (MULTIKERNEL_IOCTL_GET_INFO, 0xb940),
            (MULTIKERNEL_IOCTL_START, 0xb941),
            (MULTIKERNEL_IOCTL_STOP, 0xb942),
            (MULTIKERNEL_IOCTL_DESTROY, 0xb943),
            (MULTIKERNEL_IOCTL_RING, 0xb944),
            (MULTIKERNEL_IOCTL_READ_MEMORY, 0xb945),
            (MULTIKERNEL_IOCTL_CALL, 0xb946),
            (MULTIKERNEL_IOCTL_OPEN_PORT, 0xb947),
            (MULTIKERNEL_IOCTL_CONNECT, 0xb948),
            (MULTIKERNEL_IOCTL_DISCONNECT, 0xb949),
            (MULTIKERNEL_IOCTL_ADD_CPUS, 0xb94d),
            (MULTIKERNEL_IOCTL_EXCHANGE_NAMES, 0xb94e),
            (MULTIKERNEL_IOCTL_MAP_PORT, 0xb94a),
            (MULTIKERNEL_IOCTL_RING_PORT, 0xb94b),
            (MULTIKERNEL_IOCTL_LINK_STATS, 0xb94c),
            (MULTIKERNEL_IOCTL_ARENA_CREATE, 0xb950),
            (MULTIKERNEL_IOCTL_ARENA_OPEN, 0xb951),
            (MULTIKERNEL_IOCTL_ARENA_REMOVE, 0xb952),
            (MULTIKERNEL_IOCTL_ARENA_GRANT, 0xb953),
            (MULTIKERNEL_IOCTL_ARENA_REVOKE, 0xb954),
            (MULTIKERNEL_IOCTL_LIST_ARENAS, 0xb955),
            (MULTIKERNEL_IOCTL_ARENA_RESIZE, 0xb956),
            (MULTIKERNEL_IOCTL_LIST_GRANTS, 0xb957),
            (MULTIKERNEL_IOCTL_SESSION_CREATE, 0xb958),
            (MULTIKERNEL_IOCTL_SESSION_OPEN, 0xb959),
            (MULTIKERNEL_IOCTL_SESSION_ACCEPT, 0xb95a),
            (MULTIKERNEL_IOCTL_SESSION_REMOVE, 0xb95b),
            (MULTIKERNEL_IOCTL_LIST_SESSIONS, 0xb95c),
            (MULTIKERNEL_IOCTL_SESSION_PUT, 0xb960),
            (MULTIKERNEL_IOCTL_SESSION_GET, 0xb961),
            (MULTIKERNEL_IOCTL_SESSION_DELETE, 0xb962),
            (MULTIKERNEL_IOCTL_SESSION_LIST_ENTRIES, 0xb963),
            (MULTIKERNEL_IOCTL_SESSION_OFFER, 0xb964),
            (MULTIKERNEL_IOCTL_SESSION_COMMIT, 0xb965),
            (MULTIKERNEL_IOCTL_SESSION_ABORT, 0xb966),
            (MULTIKERNEL_IOCTL_SESSION_WAIT, 0xb967),
        ];
        for (number, expected) in numbers {
            assert_eq!(number, expected);
            // What libc makes of `_IO()`.
            assert_eq!(number, libc::_IO(0xb9, (expected & 0xff) as u32));
        }
    }

    /// No structure has padding, so none can carry bytes that the kernel would have to refuse.
    #[test]
    fn structure_sizes() {
        assert_eq!(size_of::<multikernel_cpu>(), 24);
        assert_eq!(size_of::<multikernel_range>(), 32);
        assert_eq!(size_of::<multikernel_ioctl_host_info>(), 56);
        assert_eq!(size_of::<multikernel_ioctl_pool>(), 32);
        assert_eq!(size_of::<multikernel_ioctl_list>(), 16);
        assert_eq!(size_of::<multikernel_ioctl_create>(), 112);
        assert_eq!(size_of::<multikernel_ioctl_open>(), 80);
        assert_eq!(size_of::<multikernel_ioctl_get_info>(), 152);
        assert_eq!(size_of::<multikernel_ioctl_start>(), 24);
        assert_eq!(size_of::<multikernel_ioctl_stop>(), 16);
        assert_eq!(size_of::<multikernel_ioctl_simple>(), 8);
        assert_eq!(size_of::<multikernel_ioctl_read_memory>(), 32);
        assert_eq!(size_of::<multikernel_ioctl_call>(), 48);
        assert_eq!(size_of::<multikernel_ioctl_open_port>(), 16);
        assert_eq!(size_of::<multikernel_link>(), 16);
        assert_eq!(size_of::<multikernel_ioctl_connect>(), 80);
        assert_eq!(size_of::<multikernel_ioctl_add_cpus>(), 24);
        assert_eq!(size_of::<multikernel_ioctl_exchange_names>(), 16);
        assert_eq!(size_of::<multikernel_ioctl_map_port>(), 64);
        assert_eq!(size_of::<multikernel_ioctl_link_stats>(), 80);
        assert_eq!(size_of::<multikernel_link_lane>(), 56);
        assert_eq!(size_of::<multikernel_link_cpu>(), 56);
        assert_eq!(size_of::<multikernel_ioctl_events>(), 16);
        assert_eq!(size_of::<multikernel_ioctl_arena_create>(), 96);
        assert_eq!(size_of::<multikernel_ioctl_arena_open>(), 88);
        assert_eq!(size_of::<multikernel_ioctl_arena_remove>(), 72);
        assert_eq!(size_of::<multikernel_ioctl_arena_grant>(), 80);
        assert_eq!(size_of::<multikernel_ioctl_arena_resize>(), 80);
        assert_eq!(size_of::<multikernel_arena>(), 96);
        assert_eq!(size_of::<multikernel_arena_grant>(), 16);
        assert_eq!(size_of::<multikernel_ioctl_session>(), 88);
        assert_eq!(size_of::<multikernel_session>(), 96);
        assert_eq!(size_of::<multikernel_ioctl_session_entry>(), 96);
        assert_eq!(size_of::<multikernel_session_entry>(), 80);
        assert_eq!(size_of::<multikernel_ioctl_session_offer>(), 80);
        assert_eq!(size_of::<multikernel_ioctl_session_step>(), 16);
        assert_eq!(size_of::<multikernel_event>(), 104);
        assert_eq!(size_of::<kexec_segment>(), 32);
    }

    #[test]
    fn kexec_flags() {
        assert_eq!(KEXEC_MULTIKERNEL, 0x10);
        assert_eq!(
            MULTIKERNEL_ID_MAX << KEXEC_MULTIKERNEL_ID_SHIFT,
            KEXEC_MULTIKERNEL_ID_MASK
        );
    }
}
