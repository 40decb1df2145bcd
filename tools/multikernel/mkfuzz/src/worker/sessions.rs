// SPDX-License-Identifier: GPL-2.0

//! What a process does with sessions: makes and opens them in arenas that others work with too,
//! puts and gets entries, and offers them to the host, which is itself, and to instances.

use multikernel_sys as sys;

use super::{Worker, FILES};
use crate::calls;
use crate::counters::Call;

/// The longest wait, in milliseconds: who waits for long has to be killed.
const WAIT_MS: usize = 20;

impl Worker {
    /// Makes, opens, accepts or removes a session.
    pub(super) fn sessions(&mut self) {
        let mut session = sys::multikernel_ioctl_session {
            size: size_of::<sys::multikernel_ioctl_session>() as u32,
            name: self.name(),
            ..Default::default()
        };
        let (call, command) = match self.random.below(6) {
            0 => (Call::SessionRemove, sys::MULTIKERNEL_IOCTL_SESSION_REMOVE),
            1 => {
                session.timeout_ms = self.random.below(WAIT_MS) as u32;
                (Call::SessionAccept, sys::MULTIKERNEL_IOCTL_SESSION_ACCEPT)
            }
            2 => (Call::SessionOpen, sys::MULTIKERNEL_IOCTL_SESSION_OPEN),
            3 => {
                session.flags = sys::MULTIKERNEL_SESSION_SEIZE;
                (Call::SessionSeize, sys::MULTIKERNEL_IOCTL_SESSION_OPEN)
            }
            _ => (Call::SessionCreate, sys::MULTIKERNEL_IOCTL_SESSION_CREATE),
        };
        let opened = self.request(call, self.device, command, session);
        if let (Some(opened), true) = (opened, call != Call::SessionRemove) {
            self.sessions.push(opened.fd);
        }
        // Few are kept, as one that is open is not opened again.
        if self.sessions.len() > 2 || self.random.once_in(3) {
            let at = self.random.below(self.sessions.len());
            if at < self.sessions.len() {
                let _ = calls::close(self.sessions.swap_remove(at));
            }
        }
    }

    /// The fd of some session; the device if there is none.
    fn session(&mut self) -> i32 {
        if self.sessions.is_empty() {
            self.sessions();
        }
        *self.random.pick(&self.sessions).unwrap_or(&self.device)
    }

    /// Puts, gets or deletes an entry, or lists them.
    pub(super) fn change_entry(&mut self) {
        let fd = self.session();
        let mut entry = sys::multikernel_ioctl_session_entry {
            size: size_of::<sys::multikernel_ioctl_session_entry>() as u32,
            key: self.name(),
            ..Default::default()
        };
        // More than fits into a page is read from where the images are.
        let length = self.random.below(3 * 4096);
        let mut file = None;
        let (call, command) = match self.random.below(8) {
            0 => (Call::SessionDelete, sys::MULTIKERNEL_IOCTL_SESSION_DELETE),
            1 => return self.list_entries(fd),
            2 => {
                file = calls::memory_file(length).ok();
                entry.fd = file.unwrap_or(-1);
                (Call::SessionGet, sys::MULTIKERNEL_IOCTL_SESSION_GET)
            }
            3 => {
                let room = length.min(4096);
                entry.address = self.arena.room(&mut self.random, room);
                entry.length = room as u64;
                (Call::SessionGet, sys::MULTIKERNEL_IOCTL_SESSION_GET)
            }
            4 => (Call::SessionGet, sys::MULTIKERNEL_IOCTL_SESSION_GET),
            5 => {
                file = calls::memory_file(length).ok();
                entry.fd = file.unwrap_or(-1);
                entry.kind = sys::MULTIKERNEL_ENTRY_MEMFD;
                if self.random.once_in(4) {
                    entry.flags = sys::MULTIKERNEL_PUT_PRESERVED;
                }
                (Call::SessionPut, sys::MULTIKERNEL_IOCTL_SESSION_PUT)
            }
            6 => {
                entry.length = 4096 * self.random.below(700) as u64;
                entry.kind = sys::MULTIKERNEL_ENTRY_PAGES;
                (Call::SessionPut, sys::MULTIKERNEL_IOCTL_SESSION_PUT)
            }
            _ => {
                entry.address = self.arena.code().0;
                entry.length = length as u64;
                entry.kind = sys::MULTIKERNEL_ENTRY_BYTES;
                (Call::SessionPut, sys::MULTIKERNEL_IOCTL_SESSION_PUT)
            }
        };
        let made = self.request(call, fd, command, entry);
        file.map(calls::close);
        let pages = made.filter(|made| made.kind == sys::MULTIKERNEL_ENTRY_PAGES);
        if let (Some(made), true) = (pages, call != Call::SessionDelete) {
            self.map_pages(made.fd, made.length as usize);
        }
    }

    /// Maps an entry's pages for a while.
    fn map_pages(&mut self, fd: i32, size: usize) {
        let protection = libc::PROT_READ | (libc::PROT_WRITE * self.random.below(2) as i32);
        let result = calls::map(fd, size, protection, libc::MAP_SHARED, 0);
        let mapped = self.count(Call::Mmap, result);
        if let (Some((address, size)), true) = (mapped, protection & libc::PROT_WRITE != 0) {
            self.scribble(address, size);
        }
        self.keep_mapping(mapped);
        self.arenas.push(fd);
        if self.arenas.len() > FILES || self.random.once_in(2) {
            let at = self.random.below(self.arenas.len());
            let _ = calls::close(self.arenas.swap_remove(at));
        }
    }

    fn list_entries(&mut self, fd: i32) {
        let nr = self.random.below(32);
        let bytes = nr * size_of::<sys::multikernel_session_entry>();
        let list = sys::multikernel_ioctl_list {
            size: size_of::<sys::multikernel_ioctl_list>() as u32,
            nr: nr as u32,
            items: self.arena.room(&mut self.random, bytes),
        };
        let command = sys::MULTIKERNEL_IOCTL_SESSION_LIST_ENTRIES;
        self.request(Call::ListEntries, fd, command, list);
    }

    /// Offers a session, or makes a later step of an offer.
    pub(super) fn hand_over(&mut self) {
        let fd = self.session();
        let (call, command) = match self.random.below(5) {
            0 => (Call::SessionCommit, sys::MULTIKERNEL_IOCTL_SESSION_COMMIT),
            1 => (Call::SessionAbort, sys::MULTIKERNEL_IOCTL_SESSION_ABORT),
            2 => (Call::SessionWait, sys::MULTIKERNEL_IOCTL_SESSION_WAIT),
            _ => {
                let mut offer = sys::multikernel_ioctl_session_offer {
                    size: size_of::<sys::multikernel_ioctl_session_offer>() as u32,
                    ..Default::default()
                };
                if !self.random.once_in(4) {
                    offer.to = self.name();
                }
                let command = sys::MULTIKERNEL_IOCTL_SESSION_OFFER;
                self.request(Call::SessionOffer, fd, command, offer);
                return;
            }
        };
        let mut step = sys::multikernel_ioctl_session_step {
            size: size_of::<sys::multikernel_ioctl_session_step>() as u32,
            ..Default::default()
        };
        if call == Call::SessionWait {
            step.timeout_ms = self.random.below(WAIT_MS) as u32;
        }
        self.request(call, fd, command, step);
    }
}
