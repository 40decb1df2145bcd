// SPDX-License-Identifier: GPL-2.0

//! What a process does beside the life of instances: questions, the pool, files, shared memory,
//! CPU hotplug, and calls that make no sense.

use std::fs;

use multikernel_sys as sys;

use super::{Worker, FILES, POOL_MAX, SHARED_PLACES, UNIT};
use crate::calls;
use crate::counters::Call;
use crate::host::{self, DEBUGFS};

/// Offset of `SharedHeader::guest_state` in kernel/multikernel/abi.rs.
pub(super) const GUEST_STATE: usize = 256;
/// `GUEST_POWEROFF` there.
pub(super) const GUEST_POWEROFF: u32 = 2;

/// Writes a word of a mapping, if it is inside.
pub(super) fn put(address: *mut u8, size: usize, at: usize, value: u32) {
    if at + 4 <= size {
        // SAFETY: Inside what was just mapped writable, and aligned; nobody has a reference to it,
        // and that others write there too is what it is for.
        unsafe { address.add(at).cast::<u32>().write_volatile(value) };
    }
}

impl Worker {
    pub(super) fn host_info(&mut self) {
        let info = sys::multikernel_ioctl_host_info {
            size: size_of::<sys::multikernel_ioctl_host_info>() as u32,
            ..Default::default()
        };
        self.request(
            Call::HostInfo,
            self.device,
            sys::MULTIKERNEL_IOCTL_HOST_INFO,
            info,
        );
    }

    pub(super) fn get_info(&mut self) {
        let fd = self.some_fd();
        let room = self.random.below(20);
        let info = sys::multikernel_ioctl_get_info {
            size: size_of::<sys::multikernel_ioctl_get_info>() as u32,
            nr_cpus: room as u32,
            nr_ranges: room as u32,
            cpus: self.arena.room(&mut self.random, room * 24),
            ranges: self.arena.room(&mut self.random, room * 32),
            ..Default::default()
        };
        self.request(Call::GetInfo, fd, sys::MULTIKERNEL_IOCTL_GET_INFO, info);
    }

    /// Makes or opens an arena, maps it, and writes to it.
    pub(super) fn arenas(&mut self) {
        let name = self.name();
        let opened = if self.random.once_in(2) {
            let create = sys::multikernel_ioctl_arena_create {
                size: size_of::<sys::multikernel_ioctl_arena_create>() as u32,
                name,
                bytes: UNIT * (1 + self.random.below(2) as u64),
                nid: -1,
                ..Default::default()
            };
            let command = sys::MULTIKERNEL_IOCTL_ARENA_CREATE;
            self.request(Call::ArenaCreate, self.device, command, create)
                .map(|created| created.fd)
        } else {
            let open = sys::multikernel_ioctl_arena_open {
                size: size_of::<sys::multikernel_ioctl_arena_open>() as u32,
                flags: self.random.below(2) as u32,
                name,
                ..Default::default()
            };
            let command = sys::MULTIKERNEL_IOCTL_ARENA_OPEN;
            self.request(Call::ArenaOpen, self.device, command, open)
                .map(|opened| opened.fd)
        };
        let Some(fd) = opened else {
            return;
        };
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let offset = 4096 * self.random.below(600) as i64;
        let size = 4096 * (1 + self.random.below(600));
        let result = calls::map(fd, size, protection, libc::MAP_SHARED, offset);
        let mapped = self.count(Call::Mmap, result);
        if let Some((address, size)) = mapped {
            let at = self.random.below(size) & !3;
            put(address, size, at, self.random.next() as u32);
        }
        self.keep_mapping(mapped);
        self.arenas.push(fd);
        if self.arenas.len() > FILES || self.random.once_in(2) {
            let at = self.random.below(self.arenas.len());
            let _ = calls::close(self.arenas.swap_remove(at));
        }
    }

    /// Grants, resizes or removes an arena.
    pub(super) fn change_arena(&mut self) {
        let name = self.name();
        match self.random.below(4) {
            0 => {
                let remove = sys::multikernel_ioctl_arena_remove {
                    size: size_of::<sys::multikernel_ioctl_arena_remove>() as u32,
                    name,
                    ..Default::default()
                };
                let command = sys::MULTIKERNEL_IOCTL_ARENA_REMOVE;
                self.request(Call::ArenaRemove, self.device, command, remove);
            }
            1 => {
                let resize = sys::multikernel_ioctl_arena_resize {
                    size: size_of::<sys::multikernel_ioctl_arena_resize>() as u32,
                    name,
                    bytes: UNIT * (1 + self.random.below(4) as u64),
                    ..Default::default()
                };
                let command = sys::MULTIKERNEL_IOCTL_ARENA_RESIZE;
                self.request(Call::ArenaResize, self.device, command, resize);
            }
            which => {
                let (call, command, flags) = match which {
                    2 => (Call::ArenaRevoke, sys::MULTIKERNEL_IOCTL_ARENA_REVOKE, 0),
                    _ => (
                        Call::ArenaGrant,
                        sys::MULTIKERNEL_IOCTL_ARENA_GRANT,
                        self.random.below(2) as u32,
                    ),
                };
                let at = self.instance();
                let id = self.instances.get(at).map_or(1, |instance| instance.id);
                let grant = sys::multikernel_ioctl_arena_grant {
                    size: size_of::<sys::multikernel_ioctl_arena_grant>() as u32,
                    flags,
                    name,
                    id,
                    ..Default::default()
                };
                self.request(call, self.device, command, grant);
            }
        }
    }

    pub(super) fn lists(&mut self) {
        let (call, command, bytes) = match self.random.below(7) {
            0 => (
                Call::ListMemory,
                sys::MULTIKERNEL_IOCTL_LIST_MEMORY,
                size_of::<sys::multikernel_range>(),
            ),
            1 => (
                Call::ListArenas,
                sys::MULTIKERNEL_IOCTL_LIST_ARENAS,
                size_of::<sys::multikernel_arena>(),
            ),
            2 => (
                Call::ListGrants,
                sys::MULTIKERNEL_IOCTL_LIST_GRANTS,
                size_of::<sys::multikernel_arena_grant>(),
            ),
            3 => (
                Call::ListCpus,
                sys::MULTIKERNEL_IOCTL_LIST_CPUS,
                size_of::<sys::multikernel_cpu>(),
            ),
            4 => (
                Call::ListSessions,
                sys::MULTIKERNEL_IOCTL_LIST_SESSIONS,
                size_of::<sys::multikernel_session>(),
            ),
            5 => (
                Call::ListLinks,
                sys::MULTIKERNEL_IOCTL_LIST_LINKS,
                size_of::<sys::multikernel_link>(),
            ),
            _ => (
                Call::ListInstances,
                sys::MULTIKERNEL_IOCTL_LIST_INSTANCES,
                size_of::<u32>(),
            ),
        };
        let nr = self.random.below(64);
        let list = sys::multikernel_ioctl_list {
            size: size_of::<sys::multikernel_ioctl_list>() as u32,
            nr: nr as u32,
            items: self.arena.room(&mut self.random, nr * bytes),
        };
        self.request(call, self.device, command, list);
    }

    pub(super) fn pool(&mut self, bytes: u64) -> sys::multikernel_ioctl_pool {
        sys::multikernel_ioctl_pool {
            size: size_of::<sys::multikernel_ioctl_pool>() as u32,
            bytes,
            nid: -1,
            ..Default::default()
        }
    }

    pub(super) fn grow(&mut self) {
        let bytes = UNIT * (1 + self.random.below(8) as u64);
        let pool = self.pool(bytes);
        let grown = self.request(
            Call::PoolGrow,
            self.device,
            sys::MULTIKERNEL_IOCTL_POOL_GROW,
            pool,
        );
        let total: u64 = host::Snapshot::take(self.device)
            .map_or(0, |now| now.memory.iter().map(|range| range.1).sum());
        if let (Some(grown), true) = (grown, total > POOL_MAX) {
            // The host is to have enough for itself.
            let mut pool = self.pool(grown.bytes);
            pool.flags = sys::MULTIKERNEL_RANGE_FIXED;
            pool.base = grown.base;
            let _ = calls::ioctl(
                self.device,
                sys::MULTIKERNEL_IOCTL_POOL_SHRINK,
                (&raw mut pool).cast(),
            );
        }
    }

    pub(super) fn shrink(&mut self) {
        let bytes = UNIT * (1 + self.random.below(4) as u64);
        let mut pool = self.pool(bytes);
        if self.random.once_in(3) {
            if let Ok(now) = host::Snapshot::take(self.device) {
                if let Some(&(base, ..)) = self.random.pick(&now.memory) {
                    pool.flags = sys::MULTIKERNEL_RANGE_FIXED;
                    pool.base = base;
                }
            }
        }
        self.request(
            Call::PoolShrink,
            self.device,
            sys::MULTIKERNEL_IOCTL_POOL_SHRINK,
            pool,
        );
    }

    pub(super) fn read_memory(&mut self) {
        let at = self.instance();
        let Some(instance) = self.instances.get(at) else {
            return;
        };
        let (fd, ranges) = (instance.fd, instance.ranges.clone());
        let Some(&(base, size)) = self.random.pick(&ranges) else {
            return;
        };
        let bytes = 1 + self.random.below(4096);
        let request = sys::multikernel_ioctl_read_memory {
            size: size_of::<sys::multikernel_ioctl_read_memory>() as u32,
            base: base + self.random.next() % size.max(1),
            bytes: bytes as u64,
            buffer: self.arena.room(&mut self.random, bytes),
            ..Default::default()
        };
        self.request(
            Call::ReadMemory,
            fd,
            sys::MULTIKERNEL_IOCTL_READ_MEMORY,
            request,
        );
    }

    pub(super) fn call_port(&mut self) {
        // The device itself too, which has nobody to call here.
        let fd = match self.random.below(8) {
            0 => self.device,
            _ => self.some_fd(),
        };
        self.call_port_of(fd);
    }

    pub(super) fn call_port_of(&mut self, fd: i32) {
        let length = match self.random.below(12) {
            0 => self.random.below(4096),
            _ => self.random.below(sys::MULTIKERNEL_CALL_MAX as usize + 1),
        };
        let room = match self.random.below(4) {
            0 => self.random.below(64),
            _ => length,
        };
        let mut payload = vec![0; length];
        self.random.mutate(&mut payload);
        let call = sys::multikernel_ioctl_call {
            size: size_of::<sys::multikernel_ioctl_call>() as u32,
            port: match self.random.below(4) {
                0 => self.random.interesting() as u32,
                _ => sys::MULTIKERNEL_PORT_ECHO,
            },
            cpu: match self.random.below(3) {
                0 => sys::MULTIKERNEL_CPU_ANY,
                1 => self.random.interesting() as u32,
                _ => self.random.below(4) as u32,
            },
            // Nobody answers here, and who waits for long has to be killed.
            timeout_ms: 1 + self.random.below(20) as u32,
            request_bytes: length as u32,
            answer_bytes: room as u32,
            request: self.arena.put(&mut self.random, &payload),
            answer: self.arena.room(&mut self.random, room),
            ..Default::default()
        };
        self.request(Call::AskPort, fd, sys::MULTIKERNEL_IOCTL_CALL, call);
    }

    /// Two instances may talk to each other, or not any more.
    pub(super) fn connect(&mut self) {
        let fd = self.some_fd();
        let mut value = sys::multikernel_ioctl_connect {
            size: size_of::<sys::multikernel_ioctl_connect>() as u32,
            ..Default::default()
        };
        if self.random.once_in(2) {
            value.name = self.name();
        } else {
            value.id = self.random.below(6) as u32;
        }
        let (call, command) = if self.random.once_in(3) {
            (Call::Disconnect, sys::MULTIKERNEL_IOCTL_DISCONNECT)
        } else {
            (Call::Connect, sys::MULTIKERNEL_IOCTL_CONNECT)
        };
        self.request(call, fd, command, value);
    }

    /// More CPUs for an instance, from the host or from another one.
    pub(super) fn add_cpus(&mut self) {
        let fd = self.some_fd();
        let cpus: Vec<u8> = (0..1 + self.random.below(2))
            .flat_map(|_| (self.random.below(5) as u32).to_le_bytes())
            .collect();
        let add = sys::multikernel_ioctl_add_cpus {
            size: size_of::<sys::multikernel_ioctl_add_cpus>() as u32,
            nr_cpus: (cpus.len() / 4) as u32,
            from: match self.random.below(2) {
                0 => 0,
                _ => self.random.below(8) as u32,
            },
            cpus: self.arena.put(&mut self.random, &cpus),
            ..Default::default()
        };
        self.request(Call::AddCpus, fd, sys::MULTIKERNEL_IOCTL_ADD_CPUS, add);
    }

    pub(super) fn exchange_names(&mut self) {
        let fd = self.some_fd();
        let exchange = sys::multikernel_ioctl_exchange_names {
            size: size_of::<sys::multikernel_ioctl_exchange_names>() as u32,
            id: self.random.below(8) as u32,
            ..Default::default()
        };
        let command = sys::MULTIKERNEL_IOCTL_EXCHANGE_NAMES;
        self.request(Call::ExchangeNames, fd, command, exchange);
    }

    pub(super) fn link_stats(&mut self) {
        let fd = match self.random.below(8) {
            0 => self.device,
            _ => self.some_fd(),
        };
        let size = [0, 0].map(|_| match self.random.below(4) {
            0 => self.random.interesting() as u32,
            _ => 56 + 8 * self.random.below(3) as u32,
        });
        // Not more than a page of each, which is what the arena has room for.
        let nr = size.map(|size| self.random.below(4096 / size.clamp(56, 4096) as usize + 1));
        let [lanes, cpus] = [0, 1].map(|at| {
            let bytes = nr[at] * (size[at] as usize).min(4096);
            self.arena.room(&mut self.random, bytes)
        });
        let request = sys::multikernel_ioctl_link_stats {
            size: size_of::<sys::multikernel_ioctl_link_stats>() as u32,
            nr_lanes: nr[0] as u32,
            nr_cpus: nr[1] as u32,
            lane_size: size[0],
            cpu_size: size[1],
            lanes,
            cpus,
            ..Default::default()
        };
        self.request(
            Call::LinkStats,
            fd,
            sys::MULTIKERNEL_IOCTL_LINK_STATS,
            request,
        );
    }

    pub(super) fn open_events(&mut self) {
        let events = sys::multikernel_ioctl_events {
            size: size_of::<sys::multikernel_ioctl_events>() as u32,
            ..Default::default()
        };
        let opened = self.request(
            Call::Events,
            self.device,
            sys::MULTIKERNEL_IOCTL_EVENTS,
            events,
        );
        if let Some(opened) = opened {
            self.events.push(opened.fd);
        }
        if self.events.len() > FILES {
            let old = self.events.swap_remove(self.random.below(FILES));
            let _ = calls::close(old);
        }
    }

    pub(super) fn read_events(&mut self) {
        let fd = match self.random.pick(&self.events) {
            Some(&fd) if !self.random.once_in(3) => fd,
            _ => self.some_fd(),
        };
        if fd == self.device {
            return;
        }
        self.count(Call::Poll, calls::poll(fd)).unwrap_or(());
        // One that waits has to be killed.
        if !self.random.once_in(60) {
            let _ = calls::set_nonblocking(fd);
        }
        let size = match self.random.below(4) {
            0 => self.random.below(size_of::<sys::multikernel_event>() + 2),
            _ => size_of::<sys::multikernel_event>() * self.random.below(30),
        };
        let address = match self.random.below(30) {
            0 => self.arena.bad(&mut self.random),
            _ => self.arena.room(&mut self.random, size),
        };
        let result = self.with_fault(|| calls::read(fd, address, size.min(4096)));
        self.count(Call::ReadEvents, result);
    }

    pub(super) fn share(&mut self) {
        let at = self.instance();
        self.share_one(at);
    }

    /// Maps the shared area, and writes there what a spawn that is out of its mind might.
    pub(super) fn share_one(&mut self, at: usize) {
        let Some(instance) = self.instances.get(at) else {
            return;
        };
        let (fd, apic_ids) = (instance.fd, instance.apic_ids.clone());
        let (mut size, mut offset) = (instance.shared_size as usize, 0);
        let (mut protection, mut flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        match self.random.below(12) {
            0 => size = self.random.interesting() as usize & 0xffff_ffff,
            1 => offset = (self.random.interesting() & 0x7fff_f000) as i64,
            2 => protection = self.random.below(8) as i32,
            3 => flags = libc::MAP_PRIVATE,
            _ => {}
        }
        let result = self.with_fault(|| calls::map(fd, size, protection, flags, offset));
        let mapped = self.count(Call::Mmap, result);
        if protection & libc::PROT_WRITE != 0 {
            if let Some((address, size)) = mapped {
                if self.random.once_in(2) {
                    self.pretend(&apic_ids, address, size);
                }
                for _ in 0..self.random.below(24) {
                    self.scribble(address, size);
                }
            }
        }
        self.keep_mapping(mapped);
    }

    /// Keeps a mapping for a while, if there is one, and ends another now and then.
    pub(super) fn keep_mapping(&mut self, mapped: Option<(*mut u8, usize)>) {
        self.mappings.extend(mapped);
        if self.mappings.len() > FILES || self.random.once_in(2) {
            let at = self.random.below(self.mappings.len());
            if at < self.mappings.len() {
                let _ = calls::unmap(self.mappings.swap_remove(at));
            }
        }
    }

    /// Writes what a spawn with guest support would: then it is asked, rung, and watched.
    pub(super) fn pretend(&mut self, apic_ids: &[u32], address: *mut u8, size: usize) {
        let id = self.random.pick(apic_ids).copied().unwrap_or(0);
        // Running, or already at its end.
        let state = match self.random.below(3) {
            0 => 2 + self.random.below(3) as u32,
            _ => 1,
        };
        let words = [(264, id), (260, 0x41), (272, 0xf), (GUEST_STATE, state)];
        for (at, value) in words {
            put(address, size, at, value);
        }
        for (number, &id) in apic_ids.iter().enumerate() {
            let at = 0x8000 + 64 * number;
            put(address, size, at + 8, id);
            put(address, size, at + 12, 1);
        }
    }

    pub(super) fn scribble(&mut self, address: *mut u8, size: usize) {
        let (start, length) = SHARED_PLACES[self.random.below(SHARED_PLACES.len())];
        let at = match self.random.below(4) {
            0 => self.random.below(size),
            _ => start + self.random.below(length),
        } & !3;
        let value = match self.random.below(4) {
            0 => self.random.next() as u32,
            1 => self.random.interesting() as u32,
            _ => self.random.below(8) as u32,
        };
        put(address, size, at, value);
    }

    pub(super) fn raw_ioctl(&mut self) {
        let fd = match self.random.below(4) {
            0 => self.device,
            1 => *self.random.pick(&self.events).unwrap_or(&self.device),
            2 => *self.random.pick(&self.sessions).unwrap_or(&self.device),
            _ => self.some_fd(),
        };
        let command = match self.random.below(3) {
            0 => self.random.next() as u32,
            1 => sys::MULTIKERNEL_IOCTL_TYPE << 8 | self.random.below(256) as u32,
            _ => sys::MULTIKERNEL_IOCTL_TYPE << 8 | 0x40 | self.random.below(32) as u32,
        };
        let mut bytes = vec![0; 8 + self.random.below(160)];
        let size = bytes.len() as u32;
        bytes[..4].copy_from_slice(&size.to_le_bytes());
        if self.random.once_in(2) {
            self.random.mutate(&mut bytes);
        }
        let address = match self.random.below(4) {
            0 => self.random.interesting(),
            1 => self.arena.bad(&mut self.random),
            _ => self.arena.put(&mut self.random, &bytes),
        };
        let result = self
            .with_fault(|| calls::ioctl(fd, command as libc::Ioctl, address as *mut libc::c_void));
        self.count(Call::RawIoctl, result);
    }

    /// Calls that the files have no use for, copies of fds, and closes.
    pub(super) fn other_calls(&mut self) {
        let fd = match self.random.below(3) {
            0 => self.device,
            _ => self.some_fd(),
        };
        let size = self.random.below(4096);
        let address = self.arena.room(&mut self.random, size);
        let number = self.random.interesting() as i64;
        let at = self.instance();
        let result = match self.random.below(6) {
            0 => calls::write(fd, address, size),
            1 => calls::seek(fd, number, self.random.below(5) as i32),
            2 => calls::truncate(fd, number),
            3 => match calls::duplicate(fd) {
                Ok(copy) if fd != self.device => {
                    self.keep(copy);
                    Ok(())
                }
                Ok(copy) => calls::close(copy),
                Err(error) => Err(error),
            },
            _ if at < self.instances.len() => calls::close(self.instances.swap_remove(at).fd),
            _ => return,
        };
        self.count(Call::OtherCalls, result);
    }

    pub(super) fn look_and_hotplug(&mut self) {
        let cpu = 1 + self.random.below(self.cpus as usize - 1) as u32;
        match self.random.below(6) {
            0 => {
                let result = self.with_fault(|| fs::read(format!("{DEBUGFS}/ledger")));
                self.count(Call::Debugfs, result);
            }
            1 => {
                let file = ["instances", "links"][self.random.below(2)];
                let result = self.with_fault(|| fs::read(format!("{DEBUGFS}/{file}")));
                self.count(Call::Debugfs, result);
            }
            2 => {
                self.count(Call::CpuOffline, host::set_online(cpu, false));
            }
            3 if self.fail_nth.is_some() && self.random.once_in(4) => {
                let knobs = ["fail_confirm", "fail_roll_call"];
                let times = self.random.below(4) as u32;
                let result = host::fail(knobs[self.random.below(2)], times);
                self.count(Call::Debugfs, result);
            }
            _ => {
                self.count(Call::CpuOnline, host::set_online(cpu, true));
            }
        }
    }
}
