// SPDX-License-Identifier: GPL-2.0

//! What the host says of itself, before and after, and how everything is taken apart at the end.

use std::ffi::CString;
use std::fmt::Write as _;
use std::fs;
use std::io;

use multikernel_sys as sys;

use crate::calls;

/// Where the kernel's view of the instances is.
pub const DEBUGFS: &str = "/sys/kernel/debug/multikernel";
const CPUS: &str = "/sys/devices/system/cpu";
/// Opens `/dev/multikernel`.
pub fn open_device() -> io::Result<i32> {
    let path = CString::new("/dev/multikernel")?;
    // SAFETY: The path is zero-terminated.
    match unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        fd => Ok(fd),
    }
}

/// What has to be the same before and after.
#[derive(Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Ranges of the pool: base, size, owner.
    pub memory: Vec<(u64, u64, u32, u32)>,
    /// CPUs: number, owner, whether the host runs on it.
    pub cpus: Vec<(u32, u32, bool)>,
    /// Instances by id.
    pub instances: Vec<u32>,
    /// What the subsystem says that it holds.
    pub kernel_bytes: u64,
    /// Its flags: IPI shorthands are off only while CPUs are lent.
    pub features: u64,
}

fn list<T: Copy + Default>(device: i32, command: libc::Ioctl) -> io::Result<Vec<T>> {
    let mut items = vec![T::default(); 4096];
    let mut request = sys::multikernel_ioctl_list {
        size: size_of::<sys::multikernel_ioctl_list>() as u32,
        nr: items.len() as u32,
        items: items.as_mut_ptr() as u64,
    };
    // The kernel writes at most `nr` elements of `items`.
    calls::ioctl(device, command, (&raw mut request).cast())?;
    items.truncate(request.nr as usize);
    Ok(items)
}

/// What the kernel says of itself.
pub fn host_info(device: i32) -> io::Result<sys::multikernel_ioctl_host_info> {
    let mut info = sys::multikernel_ioctl_host_info {
        size: size_of::<sys::multikernel_ioctl_host_info>() as u32,
        ..Default::default()
    };
    calls::ioctl(
        device,
        sys::MULTIKERNEL_IOCTL_HOST_INFO,
        (&raw mut info).cast(),
    )?;
    Ok(info)
}

impl Snapshot {
    /// Asks the kernel.
    pub fn take(device: i32) -> io::Result<Self> {
        let memory = list(device, sys::MULTIKERNEL_IOCTL_LIST_MEMORY)?;
        let cpus = list(device, sys::MULTIKERNEL_IOCTL_LIST_CPUS)?;
        let info = host_info(device)?;
        Ok(Self {
            memory: memory
                .iter()
                .map(|range: &sys::multikernel_range| {
                    (range.base, range.size, range.owner, range.flags)
                })
                .collect(),
            cpus: cpus
                .iter()
                .map(|cpu: &sys::multikernel_cpu| (cpu.cpu, cpu.owner, cpu.online != 0))
                .collect(),
            instances: list(device, sys::MULTIKERNEL_IOCTL_LIST_INSTANCES)?,
            kernel_bytes: info.kernel_bytes,
            features: info.features,
        })
    }

    /// What differs, a line each.
    pub fn differences(&self, after: &Self) -> String {
        let mut text = String::new();
        for (what, before, after) in [
            (
                "pool",
                format!("{:x?}", self.memory),
                format!("{:x?}", after.memory),
            ),
            (
                "CPUs",
                format!("{:?}", self.cpus),
                format!("{:?}", after.cpus),
            ),
            (
                "instances",
                format!("{:?}", self.instances),
                format!("{:?}", after.instances),
            ),
            (
                "bytes held",
                self.kernel_bytes.to_string(),
                after.kernel_bytes.to_string(),
            ),
            (
                "features",
                self.features.to_string(),
                after.features.to_string(),
            ),
        ] {
            if before != after {
                let _ = writeln!(text, "{what}: {before} became {after}");
            }
        }
        text
    }
}

/// Kilobytes that the host has free when it has dropped what it can; slab that it cannot drop.
pub fn free_memory() -> io::Result<(u64, u64)> {
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    let text = fs::read_to_string("/proc/meminfo")?;
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok())
            .unwrap_or(0)
    };
    Ok((value("MemFree:"), value("SUnreclaim:")))
}

/// Orders faults: a CPU that does not confirm. Fails where the kernel has none.
pub fn fail(knob: &str, times: u32) -> io::Result<()> {
    fs::write(format!("{DEBUGFS}/{knob}"), times.to_string())
}

/// Takes a CPU offline, or brings it online, as a user of the host would.
pub fn set_online(cpu: u32, online: bool) -> io::Result<()> {
    let value = if online { "1" } else { "0" };
    fs::write(format!("{CPUS}/cpu{cpu}/online"), value)
}

/// Ends an instance, whatever state it is in.
fn end_instance(device: i32, id: u32) -> io::Result<()> {
    let mut open = sys::multikernel_ioctl_open {
        size: size_of::<sys::multikernel_ioctl_open>() as u32,
        id,
        ..Default::default()
    };
    calls::ioctl(device, sys::MULTIKERNEL_IOCTL_OPEN, (&raw mut open).cast())?;
    let mut stop = sys::multikernel_ioctl_stop {
        size: size_of::<sys::multikernel_ioctl_stop>() as u32,
        flags: sys::MULTIKERNEL_STOP_FORCE,
        ..Default::default()
    };
    // EALREADY if it does not run: only destroy tells whether it could go.
    let _ = calls::ioctl(open.fd, sys::MULTIKERNEL_IOCTL_STOP, (&raw mut stop).cast());
    let mut simple = sys::multikernel_ioctl_simple {
        size: size_of::<sys::multikernel_ioctl_simple>() as u32,
        ..Default::default()
    };
    let result = calls::ioctl(
        open.fd,
        sys::MULTIKERNEL_IOCTL_DESTROY,
        (&raw mut simple).cast(),
    );
    let _ = calls::close(open.fd);
    result
}

/// Removes a session, which nobody has open.
fn end_session(device: i32, name: [u8; 64]) -> io::Result<()> {
    let mut session = sys::multikernel_ioctl_session {
        size: size_of::<sys::multikernel_ioctl_session>() as u32,
        name,
        flags: sys::MULTIKERNEL_SESSION_SEIZE,
        ..Default::default()
    };
    let command = sys::MULTIKERNEL_IOCTL_SESSION_OPEN;
    // What is in it may be anything: then it is taken, and not opened.
    if calls::ioctl(device, command, (&raw mut session).cast()).is_ok() {
        let _ = calls::close(session.fd);
    }
    let mut session = sys::multikernel_ioctl_session {
        size: size_of::<sys::multikernel_ioctl_session>() as u32,
        name,
        ..Default::default()
    };
    let command = sys::MULTIKERNEL_IOCTL_SESSION_REMOVE;
    calls::ioctl(device, command, (&raw mut session).cast())
}

/// Moves memory from the host to the pool.
pub fn grow(device: i32, bytes: u64) -> io::Result<()> {
    let mut pool = sys::multikernel_ioctl_pool {
        size: size_of::<sys::multikernel_ioctl_pool>() as u32,
        bytes,
        nid: -1,
        ..Default::default()
    };
    calls::ioctl(
        device,
        sys::MULTIKERNEL_IOCTL_POOL_GROW,
        (&raw mut pool).cast(),
    )
}

fn shrink(device: i32, base: u64, bytes: u64) -> io::Result<()> {
    let mut pool = sys::multikernel_ioctl_pool {
        size: size_of::<sys::multikernel_ioctl_pool>() as u32,
        ..Default::default()
    };
    pool.flags = sys::MULTIKERNEL_RANGE_FIXED;
    pool.base = base;
    pool.bytes = bytes;
    pool.nid = -1;
    calls::ioctl(
        device,
        sys::MULTIKERNEL_IOCTL_POOL_SHRINK,
        (&raw mut pool).cast(),
    )
}

/// Takes everything apart that a fuzzer left: instances, the pool, CPUs that are offline. What
/// cannot be taken apart, at this moment, is said in the text.
pub fn clean_up(device: i32) -> io::Result<String> {
    let mut text = String::new();
    for knob in ["fail_confirm", "fail_roll_call"] {
        // Not there in a kernel without faults to order.
        let _ = fail(knob, 0);
    }
    for id in Snapshot::take(device)?.instances {
        if let Err(error) = end_instance(device, id) {
            let _ = writeln!(text, "instance {id} could not be ended: {error}");
        }
    }
    // Their owners are gone: they are the host's. An offer that stands goes with being taken.
    let sessions: Vec<sys::multikernel_session> =
        list(device, sys::MULTIKERNEL_IOCTL_LIST_SESSIONS)?;
    for session in sessions {
        if let Err(error) = end_session(device, session.name) {
            let _ = writeln!(text, "a session could not be removed: {error}");
        }
    }
    let arenas: Vec<sys::multikernel_arena> = list(device, sys::MULTIKERNEL_IOCTL_LIST_ARENAS)?;
    for arena in arenas {
        let mut remove = sys::multikernel_ioctl_arena_remove {
            size: size_of::<sys::multikernel_ioctl_arena_remove>() as u32,
            flags: 0,
            name: arena.name,
        };
        let command = sys::MULTIKERNEL_IOCTL_ARENA_REMOVE;
        if let Err(error) = calls::ioctl(device, command, (&raw mut remove).cast()) {
            let _ = writeln!(text, "arena {} could not be removed: {error}", arena.id);
        }
    }
    let snapshot = Snapshot::take(device)?;
    for &(base, size, owner, flags) in &snapshot.memory {
        let fixed = sys::MULTIKERNEL_RANGE_BOOT | sys::MULTIKERNEL_RANGE_LOW;
        if owner != sys::MULTIKERNEL_OWNER_POOL || flags & fixed != 0 {
            continue;
        }
        if let Err(error) = shrink(device, base, size) {
            let _ = writeln!(
                text,
                "{size:#x} bytes at {base:#x} stay in the pool: {error}"
            );
        }
    }
    for &(cpu, _, online) in &snapshot.cpus {
        if !online {
            if let Err(error) = set_online(cpu, true) {
                let _ = writeln!(text, "CPU {cpu} could not be brought online: {error}");
            }
        }
    }
    Ok(text)
}
