// SPDX-License-Identifier: GPL-2.0

//! One process: makes calls at random until it is killed.
//!
//! Most calls are such as a program would make, so that instances come to life; of the others, some
//! words are changed, pointers lead nowhere, or the nth allocation in the kernel fails.

mod actions;
mod sessions;

use std::fs;
use std::io;
use std::thread;
use std::time::Duration;

use multikernel_sys as sys;

use crate::arena::Arena;
use crate::calls::{self, Plain};
use crate::counters::{Call, Counters};
use crate::host;
use crate::image;
use crate::random::Random;

/// The unit in which memory is lent.
const UNIT: u64 = sys::MULTIKERNEL_MEMORY_ALIGN as u64;
/// What the pool is kept below, by each process for itself.
const POOL_MAX: u64 = 256 << 20;
/// As many names as make it likely that two processes mean the same instance.
const NAMES: usize = 6;
/// Most files of a kind that are kept open.
const FILES: usize = 12;
/// Bytes of the shared area whose meaning the host looks at: header, ring positions, registers and
/// beats of CPUs; see kernel/multikernel/abi.rs.
const SHARED_PLACES: [(usize, usize); 5] = [
    (0, 256),
    (256, 304),
    (0x1000, 256),
    (0x3000, 0x1000),
    (0x8000, 0x400),
];

/// An instance fd, and what the instance said when it was opened.
struct Instance {
    fd: i32,
    id: u32,
    ranges: Vec<(u64, u64)>,
    apic_ids: Vec<u32>,
    shared_size: u64,
}

/// The process.
pub struct Worker {
    random: Random,
    counters: Counters,
    arena: Arena,
    device: i32,
    /// The host's CPUs that can be lent are 1..cpus.
    cpus: u32,
    instances: Vec<Instance>,
    events: Vec<i32>,
    /// Files of arenas, as the kernel calls those too.
    arenas: Vec<i32>,
    /// Files of sessions.
    sessions: Vec<i32>,
    mappings: Vec<(*mut u8, usize)>,
    /// `/proc/thread-self/fail-nth`, if the kernel has it.
    fail_nth: Option<fs::File>,
}

type Action = fn(&mut Worker);

/// What is done, and how often.
const ACTIONS: [(usize, Action); 32] = [
    (30, Worker::life),
    (6, Worker::create),
    (5, Worker::open),
    (6, Worker::load),
    (6, Worker::start),
    (5, Worker::stop_force),
    (3, Worker::stop_in_order),
    (4, Worker::destroy),
    (4, Worker::get_info),
    (2, Worker::host_info),
    (3, Worker::lists),
    (2, Worker::grow),
    (2, Worker::shrink),
    (4, Worker::ring),
    (4, Worker::read_memory),
    (4, Worker::call_port),
    (4, Worker::connect),
    (4, Worker::add_cpus),
    (2, Worker::exchange_names),
    (6, Worker::arenas),
    (4, Worker::change_arena),
    (3, Worker::link_stats),
    (4, Worker::sessions),
    (8, Worker::change_entry),
    (4, Worker::hand_over),
    (3, Worker::open_events),
    (4, Worker::read_events),
    (6, Worker::share),
    (6, Worker::raw_ioctl),
    (5, Worker::other_calls),
    (4, Worker::look_and_hotplug),
    (1, Worker::fork),
];

impl Worker {
    /// Sets up a process's life.
    pub fn new(random: Random, counters: Counters, faults: bool) -> io::Result<Self> {
        // SAFETY: Has children vanish without being waited for; nobody waits for any.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
        let device = host::open_device()?;
        let cpus = host::Snapshot::take(device)?.cpus.len() as u32;
        let open = || {
            let mut options = fs::OpenOptions::new();
            options
                .read(true)
                .write(true)
                .open("/proc/thread-self/fail-nth")
                .ok()
        };
        Ok(Self {
            random,
            counters,
            arena: Arena::new()?,
            device,
            cpus,
            instances: Vec::new(),
            events: Vec::new(),
            arenas: Vec::new(),
            sessions: Vec::new(),
            mappings: Vec::new(),
            fail_nth: faults.then(open).flatten(),
        })
    }

    /// Makes calls for ever; or so many, for a child.
    pub fn run(&mut self, actions: Option<usize>) {
        let sum: usize = ACTIONS.iter().map(|(weight, _)| weight).sum();
        let mut left = actions;
        while left != Some(0) {
            left = left.map(|left| left - 1);
            let mut at = self.random.below(sum);
            for (weight, action) in ACTIONS {
                if at < weight {
                    self.arena.clear();
                    action(self);
                    break;
                }
                at -= weight;
            }
        }
    }

    fn count<T>(&self, call: Call, result: io::Result<T>) -> Option<T> {
        self.counters.count(call, calls::errno(&result));
        result.ok()
    }

    /// Makes a call, of which now and then the nth allocation or user copy fails.
    fn with_fault<T>(&mut self, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        use std::os::unix::fs::FileExt;
        let nth = match &self.fail_nth {
            Some(file) if self.random.once_in(10) => {
                let most = if self.random.once_in(4) { 200 } else { 12 };
                let nth = self.random.below(most) + 1;
                file.write_at(nth.to_string().as_bytes(), 0).is_ok()
            }
            _ => false,
        };
        let result = call();
        if let (true, Some(file)) = (nth, &self.fail_nth) {
            // The first may be what fails.
            if file.write_at(b"0", 0).is_err() {
                let _ = file.write_at(b"0", 0);
            }
        }
        result
    }

    /// Makes an ioctl whose structure is `value`, most often as it is, and returns it as the
    /// kernel has left it.
    fn request<T: Plain>(
        &mut self,
        call: Call,
        fd: i32,
        command: libc::Ioctl,
        value: T,
    ) -> Option<T> {
        let mut bytes = calls::bytes_of(&value);
        if self.random.once_in(6) {
            self.random.mutate(&mut bytes);
        }
        if self.random.once_in(16) {
            // As of a program that knows a larger structure.
            let more = self.random.below(64);
            bytes.resize(bytes.len() + more, self.random.below(2) as u8);
            let size = (bytes.len() as u32).to_le_bytes();
            bytes[..4].copy_from_slice(&size);
        }
        let address = match self.random.below(40) {
            0 => self.arena.bad(&mut self.random),
            _ => self.arena.put(&mut self.random, &bytes),
        };
        let result = self.with_fault(|| calls::ioctl(fd, command, address as *mut libc::c_void));
        self.count(call, result)?;
        self.arena.get(address)
    }

    fn name(&mut self) -> [u8; 64] {
        let mut name = [0; 64];
        name[0] = b'f';
        name[1] = b'0' + self.random.below(NAMES) as u8;
        name
    }

    fn instance(&mut self) -> usize {
        self.random.below(self.instances.len())
    }

    /// The fd of some instance; -1 if there is none.
    fn some_fd(&mut self) -> i32 {
        let at = self.instance();
        match self.instances.get(at) {
            Some(_) if self.random.once_in(50) => self.device,
            Some(instance) => instance.fd,
            None => {
                self.open();
                self.instances.first().map_or(-1, |instance| instance.fd)
            }
        }
    }

    fn create(&mut self) {
        self.create_one();
    }

    /// CPUs for an instance: most often such as can be had at this moment.
    fn choose_cpus(&mut self) -> Vec<u8> {
        let mut free: Vec<u32> = (1..self.cpus).collect();
        if !self.random.once_in(4) {
            if let Ok(now) = host::Snapshot::take(self.device) {
                let host = sys::MULTIKERNEL_OWNER_HOST;
                free.retain(|&cpu| now.cpus.contains(&(cpu, host, true)));
            }
        }
        let mut bytes = Vec::new();
        // Of none that is free, any one: it is refused.
        let count = 1 + self.random.below(3.min(free.len().max(1)));
        for _ in 0..count {
            let cpu = match self.random.below(free.len() + 1) {
                _ if self.random.once_in(40) => self.random.interesting() as u32,
                at if at < free.len() => free.swap_remove(at),
                _ => 1 + self.random.below(self.cpus as usize - 1) as u32,
            };
            bytes.extend(cpu.to_le_bytes());
        }
        bytes
    }

    fn create_one(&mut self) -> Option<usize> {
        let cpus = self.choose_cpus();
        let nr_ranges = self.random.below(3) + 1;
        let mut ranges = Vec::new();
        for _ in 0..nr_ranges {
            ranges.extend(calls::bytes_of(&sys::multikernel_range {
                size: UNIT * (1 + self.random.below(3) as u64),
                nid: -1,
                ..Default::default()
            }));
        }
        if self.random.once_in(10) {
            self.random.mutate(&mut ranges);
        }
        let create = sys::multikernel_ioctl_create {
            size: size_of::<sys::multikernel_ioctl_create>() as u32,
            name: self.name(),
            nr_cpus: cpus.len() as u32 / 4,
            nr_ranges: nr_ranges as u32,
            cpus: self.arena.put(&mut self.random, &cpus),
            ranges: self.arena.put(&mut self.random, &ranges),
            low_bytes: 4096 * self.random.below(5) as u32,
            ..Default::default()
        };
        let made = self.request(
            Call::Create,
            self.device,
            sys::MULTIKERNEL_IOCTL_CREATE,
            create,
        )?;
        self.keep(made.fd)
    }

    /// Keeps an instance's fd, and asks the instance where its memory is.
    fn keep(&mut self, fd: i32) -> Option<usize> {
        let mut ranges = [sys::multikernel_range::default(); 17];
        let mut cpus = [sys::multikernel_cpu::default(); 8];
        let mut info = sys::multikernel_ioctl_get_info {
            size: size_of::<sys::multikernel_ioctl_get_info>() as u32,
            nr_ranges: ranges.len() as u32,
            ranges: ranges.as_mut_ptr() as u64,
            nr_cpus: cpus.len() as u32,
            cpus: cpus.as_mut_ptr() as u64,
            ..Default::default()
        };
        let _ = calls::ioctl(fd, sys::MULTIKERNEL_IOCTL_GET_INFO, (&raw mut info).cast());
        if self.instances.len() >= FILES {
            let old = self.instances.swap_remove(self.random.below(FILES));
            let _ = calls::close(old.fd);
        }
        self.instances.push(Instance {
            fd,
            id: info.id,
            ranges: ranges
                .iter()
                .take(info.nr_ranges as usize)
                .map(|range| (range.base, range.size))
                .collect(),
            apic_ids: cpus
                .iter()
                .take(info.nr_cpus as usize)
                .map(|cpu| cpu.apic_id)
                .collect(),
            shared_size: info.shared_size,
        });
        Some(self.instances.len() - 1)
    }

    fn open(&mut self) {
        let mut open = sys::multikernel_ioctl_open {
            size: size_of::<sys::multikernel_ioctl_open>() as u32,
            ..Default::default()
        };
        if self.random.once_in(2) {
            open.name = self.name();
        } else {
            open.id = 3 + self.random.below(8) as u32;
        }
        let opened = self.request(Call::Open, self.device, sys::MULTIKERNEL_IOCTL_OPEN, open);
        if let Some(open) = opened {
            self.keep(open.fd);
        }
    }

    fn load(&mut self) {
        let at = self.instance();
        self.load_into(at);
    }

    /// Loads something in which a CPU can only sleep: see [`image`].
    fn load_into(&mut self, at: usize) -> Option<()> {
        let (id, ranges) = match self.instances.get(at) {
            Some(instance) => (instance.id, instance.ranges.clone()),
            None => (3 + self.random.below(8) as u32, vec![(UNIT, UNIT)]),
        };
        let count = 1 + self.random.below(4);
        let code = self.arena.code();
        let mut segments = Vec::new();
        let mut entry = 0;
        for i in 0..count {
            let &(base, size) = self.random.pick(&ranges)?;
            // Each has a part of the range to itself.
            let part = (size / count as u64) & !0xfff;
            let memsz = (4096 * (1 + self.random.next() % 64)).min(part);
            let bufsz = match self.random.below(3) {
                0 => memsz,
                _ => self.random.next() % (memsz + 1),
            };
            let bufsz = bufsz.min(code.1);
            let mem = base + part * i as u64;
            let buf = code.0 + 4 * (self.random.next() % ((code.1 - bufsz) / 4 + 1));
            if bufsz >= 64 {
                entry = mem + self.random.next() % (bufsz - 32);
            }
            segments.push(calls::segment(buf, bufsz, mem, memsz));
        }
        let mut bytes: Vec<u8> = segments.iter().flat_map(calls::bytes_of).collect();
        if self.random.once_in(4) {
            self.random.mutate(&mut bytes);
        }
        if self.random.once_in(12) {
            entry = self.random.interesting();
        }
        let step = size_of::<sys::kexec_segment>();
        let segments: Vec<_> = bytes.chunks(step).filter_map(calls::of_bytes).collect();
        if !image::is_safe(&segments, entry, code) {
            return None;
        }
        let mut flags = sys::KEXEC_ARCH_X86_64
            | u64::from(sys::KEXEC_MULTIKERNEL)
            | u64::from(id) << sys::KEXEC_MULTIKERNEL_ID_SHIFT;
        if self.random.once_in(20) {
            // Never without the flag that says what this is.
            flags ^= 1 << self.random.below(64);
            flags |= u64::from(sys::KEXEC_MULTIKERNEL);
        }
        // Never more than there are, unless so many that they are not looked at.
        let count = match self.random.below(24) {
            0 => self.random.below(count) as u64,
            1 => 17 + self.random.next() % (1 << 40),
            _ => count as u64,
        };
        let address = match self.random.below(40) {
            0 => self.arena.bad(&mut self.random),
            _ => self.arena.put(&mut self.random, &bytes),
        };
        let call = match count {
            0 => Call::KexecUnload,
            _ => Call::KexecLoad,
        };
        let result = self.with_fault(|| calls::kexec_load(entry, count, address, flags));
        self.count(call, result)
    }

    fn start(&mut self) {
        let at = self.instance();
        self.start_one(at);
    }

    fn start_one(&mut self, at: usize) -> Option<()> {
        let instance = self.instances.get(at)?;
        let (fd, ranges) = (instance.fd, instance.ranges.clone());
        let argument = match (self.random.below(3), self.random.pick(&ranges)) {
            (0, Some(&(base, size))) => base + self.random.next() % size.max(1),
            _ => 0,
        };
        let hang_ms = match self.random.below(4) {
            0 => sys::MULTIKERNEL_HANG_MS_MIN + self.random.below(400) as u32,
            1 => sys::MULTIKERNEL_HANG_NEVER,
            _ => 0,
        };
        let start = sys::multikernel_ioctl_start {
            size: size_of::<sys::multikernel_ioctl_start>() as u32,
            argument,
            hang_ms,
            cpus_max: self.random.below(5) as u32,
            ..Default::default()
        };
        self.request(Call::Start, fd, sys::MULTIKERNEL_IOCTL_START, start)
            .map(drop)
    }

    fn stop_force(&mut self) {
        let fd = self.some_fd();
        self.stop(fd, true);
    }

    fn stop_in_order(&mut self) {
        let fd = self.some_fd();
        self.stop(fd, false);
    }

    fn stop(&mut self, fd: i32, force: bool) {
        let stop = sys::multikernel_ioctl_stop {
            size: size_of::<sys::multikernel_ioctl_stop>() as u32,
            flags: if force {
                sys::MULTIKERNEL_STOP_FORCE
            } else {
                0
            },
            timeout_ms: if force {
                0
            } else {
                1 + self.random.below(50) as u32
            },
            ..Default::default()
        };
        let call = if force {
            Call::StopForce
        } else {
            Call::StopInOrder
        };
        self.request(call, fd, sys::MULTIKERNEL_IOCTL_STOP, stop);
    }

    fn simple(&mut self, call: Call, fd: i32, command: libc::Ioctl) {
        let simple = sys::multikernel_ioctl_simple {
            size: size_of::<sys::multikernel_ioctl_simple>() as u32,
            ..Default::default()
        };
        self.request(call, fd, command, simple);
    }

    fn destroy(&mut self) {
        let fd = self.some_fd();
        self.simple(Call::Destroy, fd, sys::MULTIKERNEL_IOCTL_DESTROY);
    }

    fn ring(&mut self) {
        let fd = self.some_fd();
        self.simple(Call::Ring, fd, sys::MULTIKERNEL_IOCTL_RING);
    }

    /// What a program would do, from beginning to end.
    fn life(&mut self) {
        let Some(at) = self.create_one() else {
            self.reclaim();
            return;
        };
        let fd = self.instances[at].fd;
        for _ in 0..1 + self.random.below(3) {
            if self.load_into(at).is_none() || self.start_one(at).is_none() {
                continue;
            }
            self.share_one(at);
            if self.random.once_in(2) {
                self.simple(Call::Ring, fd, sys::MULTIKERNEL_IOCTL_RING);
            }
            if self.random.once_in(2) {
                self.call_port_of(fd);
            }
            if self.random.once_in(4) {
                self.get_info();
            }
            if self.random.once_in(2) {
                if self.random.once_in(2) {
                    self.end_soon(fd);
                }
                self.stop(fd, false);
            }
            self.stop(fd, true);
        }
        if !self.random.once_in(8) {
            self.simple(Call::Destroy, fd, sys::MULTIKERNEL_IOCTL_DESTROY);
        }
        if let Some(at) = self.instances.iter().position(|instance| instance.fd == fd) {
            self.instances.swap_remove(at);
            let _ = calls::close(fd);
        }
    }

    /// Ends an instance that somebody left behind: else all CPUs are lent before long.
    fn reclaim(&mut self) {
        let Ok(now) = host::Snapshot::take(self.device) else {
            return;
        };
        let Some(&id) = self.random.pick(&now.instances) else {
            return;
        };
        let open = sys::multikernel_ioctl_open {
            size: size_of::<sys::multikernel_ioctl_open>() as u32,
            id,
            ..Default::default()
        };
        let opened = self.request(Call::Open, self.device, sys::MULTIKERNEL_IOCTL_OPEN, open);
        if let Some(open) = opened {
            self.stop(open.fd, true);
            self.simple(Call::Destroy, open.fd, sys::MULTIKERNEL_IOCTL_DESTROY);
            let _ = calls::close(open.fd);
        }
    }

    /// A child that, in a moment, says on the spawn's behalf that it has ended.
    fn end_soon(&mut self, fd: i32) {
        let delay = Duration::from_micros(self.random.next() % 20_000);
        // SAFETY: There is one thread, so the child finds nothing half done.
        if unsafe { libc::fork() } != 0 {
            return;
        }
        thread::sleep(delay);
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        if let Ok((address, size)) = calls::map(fd, 4096, protection, libc::MAP_SHARED, 0) {
            actions::put(address, size, actions::GUEST_STATE, actions::GUEST_POWEROFF);
            // Whoever asks has the host look.
            self.keep(fd);
        }
        // SAFETY: Ends the process without anything that belongs to the parent.
        unsafe { libc::_exit(0) };
    }

    /// A child, with copies of all that is open here.
    fn fork(&mut self) {
        let seed = self.random.next();
        // SAFETY: There is one thread, so the child finds nothing half done.
        let child = unsafe { libc::fork() };
        let result = match child {
            -1 => Err(io::Error::last_os_error()),
            child => Ok(child),
        };
        if child == 0 {
            self.random = Random::new(seed, 0, 0);
            // It means the parent.
            self.fail_nth = None;
            let actions = 1 + self.random.below(30);
            self.run(Some(actions));
            // SAFETY: Ends the process without anything that belongs to the parent.
            unsafe { libc::_exit(0) };
        }
        self.count(Call::Fork, result);
    }
}
