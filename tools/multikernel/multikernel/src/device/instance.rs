// SPDX-License-Identifier: GPL-2.0

//! An instance: what it is, load, start, stop, destroy, doorbell, shared area.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use multikernel_sys as sys;
use serde::Serialize;

use super::call::{Call, Callee, Peer};
use super::event::{self, EventRead};
use super::link::explain_connect;
use super::{cpus, syscall, CpuInfo, HangTimeout, LinkStats, MemoryInfo, Reason, SharedMap, State};
use crate::boot::Prepared;
use crate::explain::explain;
use crate::layout::Range;
use crate::port::{OpenPort, Port};
use crate::spec::CpuList;
use crate::{Error, Result};

/// As many tries as for the host's lists; an instance's do not change while it lives.
const LIST_TRIES: usize = 4;

/// An open instance. It outlives this.
#[derive(Debug)]
pub struct Instance {
    fd: OwnedFd,
    id: u32,
    name: String,
}

/// What GET_INFO tells.
#[derive(Clone, Debug, Serialize)]
pub struct InstanceInfo {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: State,
    /// Why it is stopped, crashed or failed.
    pub reason: Reason,
    /// How often it has been started.
    pub epoch: u32,
    /// Its CPUs, boot CPU first.
    pub cpus: Vec<CpuInfo>,
    /// Its memory, then its pages below 1 MiB.
    pub memory: Vec<MemoryInfo>,
    /// Physical address of its shared area.
    pub shared_base: u64,
    /// Bytes of it.
    pub shared_size: u64,
    /// Entry address of the image, 0 if none is loaded.
    pub entry: u64,
    /// Sum of the sizes of the loaded segments.
    pub image_bytes: u64,
    /// When it counts as hung; `None` if it was never started.
    #[serde(rename = "hang_ms")]
    pub hang_timeout: Option<HangTimeout>,
}

impl InstanceInfo {
    /// The shared area.
    pub fn shared(&self) -> Range {
        Range::new(self.shared_base, self.shared_size)
    }

    /// Bytes of memory above 1 MiB.
    pub fn memory_bytes(&self) -> u64 {
        let high = self.memory.iter().filter(|memory| !memory.low);
        high.map(|memory| memory.size).sum()
    }
}

impl Instance {
    pub(super) fn new(fd: OwnedFd, id: u32, name: &str) -> Self {
        Self {
            fd,
            id,
            name: name.to_owned(),
        }
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Its name, or `#ID` where it was opened by id.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn cannot(&self, verb: &str) -> String {
        format!("cannot {verb} instance \"{}\"", self.name)
    }

    /// Everything about it.
    pub fn info(&self) -> Result<InstanceInfo> {
        let mut cpus = vec![sys::multikernel_cpu::default(); 32];
        let mut ranges = vec![sys::multikernel_range::default(); 32];
        for _ in 0..LIST_TRIES {
            let info = syscall::get_info(self.fd.as_fd(), &mut cpus, &mut ranges)
                .map_err(|error| explain(self.cannot("inspect"), &error))?;
            let (nr_cpus, nr_ranges) = (info.nr_cpus as usize, info.nr_ranges as usize);
            if nr_cpus <= cpus.len() && nr_ranges <= ranges.len() {
                cpus.truncate(nr_cpus);
                ranges.truncate(nr_ranges);
                return Ok(from_abi(&info, &cpus, &ranges));
            }
            cpus.resize(nr_cpus.max(cpus.len()), Default::default());
            ranges.resize(nr_ranges.max(ranges.len()), Default::default());
        }
        Err(Error::new(self.cannot("inspect"), "its lists do not stop growing").advice("Try again"))
    }

    /// Its state and the reason for it, without the lists.
    pub fn state(&self) -> Result<(State, Reason)> {
        let info = syscall::get_info(self.fd.as_fd(), &mut [], &mut [])
            .map_err(|error| explain(self.cannot("inspect"), &error))?;
        Ok((State::from_abi(info.state), Reason::from_abi(info.reason)))
    }

    /// Loads an image.
    pub fn load(&self, prepared: &Prepared<'_>) -> Result<()> {
        self.kexec_load("load an image into", prepared.entry, &prepared.segments)
    }

    /// Unloads the image.
    pub fn unload(&self) -> Result<()> {
        self.kexec_load("unload the image of", 0, &[])
    }

    fn kexec_load(
        &self,
        verb: &str,
        entry: u64,
        segments: &[crate::boot::Segment<'_>],
    ) -> Result<()> {
        syscall::kexec_load(self.id, entry, segments).map_err(|error| {
            let asked = self.cannot(verb);
            let errno = error.raw_os_error();
            let (wrong, advice) = match errno {
                Some(libc::EBUSY) => (
                    "it is running, or another call is in progress on it",
                    "Stop it first with 'mkctl stop'",
                ),
                Some(libc::EADDRNOTAVAIL) => (
                    "a part of the image is outside of its memory",
                    "This is an error in mkctl, or the instance was made anew meanwhile: try again",
                ),
                _ => return explain(asked, &error),
            };
            Error::new(asked, wrong)
                .advice(advice)
                .with_errno(errno.unwrap_or(0))
        })
    }

    /// Starts the loaded image with this in RSI, and the usual bound for a hang.
    pub fn start(&self, argument: u64) -> Result<()> {
        self.start_with(argument, HangTimeout::default(), 0)
    }

    /// Starts the loaded image with this in RSI, to be stopped by force when it hangs for so long.
    /// Its tables tell of `cpus_max` CPUs; 0 stands for those that the instance has.
    pub fn start_with(&self, argument: u64, hang: HangTimeout, cpus_max: u32) -> Result<()> {
        let request = sys::multikernel_ioctl_start {
            size: super::size_field::<sys::multikernel_ioctl_start>(),
            flags: 0,
            argument,
            hang_ms: hang.to_abi(),
            cpus_max,
        };
        syscall::ioctl(self.fd.as_fd(), &mut syscall::Start(request)).map_err(|error| {
            let asked = self.cannot("start");
            match error.raw_os_error() {
                Some(errno @ libc::EBUSY) => Error::new(asked, "it is running already")
                    .advice("'mkctl logs' shows what it says")
                    .with_errno(errno),
                Some(errno @ libc::ETIMEDOUT) => Error::new(asked, "a CPU did not come up")
                    .advice("Stop it by force with 'mkctl kill', then start it again")
                    .with_errno(errno),
                _ => explain(asked, &error),
            }
        })
    }

    /// Asks the spawn to power off, and waits for it.
    ///
    /// An error with `ETIMEDOUT` or `EINTR` means that it has been asked and goes on running, one
    /// with `EOPNOTSUPP` that its kernel cannot be asked.
    pub fn stop(&self, timeout: Duration) -> Result<Reason> {
        // What the user ABI takes: 1 ms to an hour.
        let timeout_ms = timeout.as_millis().clamp(1, 3_600_000) as u32;
        self.stop_with(0, timeout_ms)
    }

    /// Stops its CPUs at once.
    pub fn kill(&self) -> Result<Reason> {
        self.stop_with(sys::MULTIKERNEL_STOP_FORCE, 0)
    }

    fn stop_with(&self, flags: u32, timeout_ms: u32) -> Result<Reason> {
        let mut request = syscall::Stop(sys::multikernel_ioctl_stop {
            size: super::size_field::<sys::multikernel_ioctl_stop>(),
            flags,
            timeout_ms,
            reason: 0,
        });
        match syscall::ioctl(self.fd.as_fd(), &mut request) {
            Ok(()) => Ok(Reason::from_abi(request.0.reason)),
            Err(error) => Err(self.explain_stop(flags, &error)),
        }
    }

    fn explain_stop(&self, flags: u32, error: &io::Error) -> Error {
        let asked = self.cannot("stop");
        let forced = flags & sys::MULTIKERNEL_STOP_FORCE != 0;
        let errno = error.raw_os_error();
        let (wrong, advice) = match errno {
            Some(libc::ETIMEDOUT) if forced => (
                "one of its CPUs has not confirmed that it is parked",
                "Try again with 'mkctl kill'; until it confirms, its CPUs and memory stay with it",
            ),
            Some(libc::ETIMEDOUT) => (
                "it has been asked, and did not end in time",
                "Stop it by force with 'mkctl kill'",
            ),
            Some(libc::EINTR) if !forced => (
                "the wait was interrupted; the instance has been asked and may still end",
                "Stop it by force with 'mkctl kill'",
            ),
            Some(libc::EOPNOTSUPP) => (
                "its kernel has no guest support and cannot be asked",
                "Stop it by force with 'mkctl kill'",
            ),
            _ => return explain(asked, error),
        };
        Error::new(asked, wrong)
            .advice(advice)
            .with_errno(errno.unwrap_or(0))
    }

    /// Gives its memory back to the pool and its CPUs back to the host.
    pub fn destroy(&self) -> Result<()> {
        let mut request = syscall::Destroy(simple());
        syscall::ioctl(self.fd.as_fd(), &mut request).map_err(|error| {
            let asked = self.cannot("remove");
            match error.raw_os_error() {
                Some(errno @ libc::EBUSY) => Error::new(
                    asked,
                    "it is running, or one of its CPUs is not confirmed parked",
                )
                .advice("Stop it first with 'mkctl stop' or 'mkctl kill', or add --force")
                .with_errno(errno),
                _ => explain(asked, &error),
            }
        })
    }

    /// Lets its kernel and that of another instance talk to each other, whenever both run.
    pub fn connect(&self, other: &str) -> Result<()> {
        syscall::ioctl(self.fd.as_fd(), &mut syscall::Connect(connect(other))).map_err(|error| {
            let asked = format!("cannot link instances \"{}\" and \"{other}\"", self.name);
            explain_connect(asked, &error)
        })
    }

    /// Takes that back.
    ///
    /// An error with `ETIMEDOUT` or `EINTR` means that it is taken back, but one of the kernels has
    /// not answered yet.
    pub fn disconnect(&self, other: &str) -> Result<()> {
        syscall::ioctl(self.fd.as_fd(), &mut syscall::Disconnect(connect(other))).map_err(|error| {
            let asked = format!("cannot unlink instances \"{}\" and \"{other}\"", self.name);
            explain_connect(asked, &error)
        })
    }

    /// Gives it more CPUs, from the host or, by its id, from another instance that does not run.
    ///
    /// A kernel that runs in it does not know of that yet: see [`Instance::tell_cpus`].
    pub fn add_cpus(&self, cpus: &CpuList, from: Option<u32>) -> Result<()> {
        syscall::add_cpus(self.fd.as_fd(), &cpus.0, from.unwrap_or(0)).map_err(|error| {
            let asked = format!("cannot give CPUs {cpus} to instance \"{}\"", self.name);
            cpus::explain_add(asked, from, &error)
        })
    }

    /// Tells the kernel that runs in it which CPUs, by their APIC ids, it may start from now on,
    /// and waits until it has tried to bring them online.
    ///
    /// An error with `ECONNREFUSED` or `ENOTCONN` means that the kernel cannot be told.
    pub fn tell_cpus(&self, apic_ids: &[u32], timeout: Duration) -> Result<()> {
        cpus::tell(self, apic_ids, timeout)
    }

    /// Gives it the name and the sessions of another instance, which it has accepted, and that one
    /// its name, in one step.
    ///
    /// # Errors
    ///
    /// By errno: `EBUSY`: the other has a session that was not accepted; nothing has changed.
    pub fn take_over(&self, other: u32) -> Result<()> {
        let request = sys::multikernel_ioctl_exchange_names {
            size: super::size_field::<sys::multikernel_ioctl_exchange_names>(),
            flags: sys::MULTIKERNEL_EXCHANGE_SESSIONS,
            id: other,
            reserved: 0,
        };
        syscall::ioctl(self.fd.as_fd(), &mut syscall::ExchangeNames(request)).map_err(|error| {
            let asked = format!(
                "cannot have instance \"{}\" take over from instance #{other}",
                self.name
            );
            match error.raw_os_error() {
                Some(errno @ libc::EBUSY) => Error::new(
                    asked,
                    "that has a session which the new one has not accepted",
                )
                .advice(
                    "'mkctl handover ls' shows which; have its user space offer it, and the new \
                     one's accept it, in what --handover-command names",
                )
                .with_errno(errno),
                _ => explain(asked, &error),
            }
        })
    }

    /// Rings the spawn's doorbell.
    pub fn ring(&self) -> Result<()> {
        let mut request = syscall::Ring(simple());
        syscall::ioctl(self.fd.as_fd(), &mut request)
            .map_err(|error| explain(self.cannot("ring"), &error))
    }

    /// Waits for changes of its state since it was opened, and reads those there are.
    ///
    /// Every opened instance has a queue of its own. [`AsFd`] gives what poll(2) can wait for.
    pub fn read_events(&self) -> Result<EventRead> {
        event::read(self.fd.as_fd()).map_err(|error| explain(self.cannot("watch"), &error))
    }

    /// Copies memory of it from a physical address on, however much.
    pub fn read_memory(&self, base: u64, buffer: &mut [u8]) -> Result<()> {
        let mut base = base;
        for piece in buffer.chunks_mut(sys::MULTIKERNEL_READ_MAX as usize) {
            syscall::read_memory(self.fd.as_fd(), base, piece)
                .map_err(|error| self.explain_read(base, &error))?;
            base = base.saturating_add(piece.len() as u64);
        }
        Ok(())
    }

    fn explain_read(&self, base: u64, error: &io::Error) -> Error {
        let asked = format!("cannot read the memory of instance \"{}\"", self.name);
        let errno = error.raw_os_error();
        let (wrong, advice) = match errno {
            Some(libc::EADDRNOTAVAIL) => (
                format!("{base:#x} is not in its memory"),
                "'mkctl inspect' shows what is; it may have been made anew meanwhile",
            ),
            Some(libc::EPERM) => (
                "the kernel does not permit it".to_owned(),
                "Run as root (CAP_SYS_BOOT), on a kernel that is not locked down for \
                 confidentiality; 'mkctl doctor' tells which it is",
            ),
            Some(libc::EBUSY) => (
                "another call is in progress on it".to_owned(),
                "Try again when its start or stop is done",
            ),
            _ => return explain(asked, error),
        };
        Error::new(asked, wrong)
            .advice(advice)
            .with_errno(errno.unwrap_or(0))
    }

    /// Maps the shared area.
    pub fn map_shared(&self) -> Result<SharedMap> {
        let asked = || {
            format!(
                "cannot look into the shared area of instance \"{}\"",
                self.name
            )
        };
        let info = syscall::get_info(self.fd.as_fd(), &mut [], &mut [])
            .map_err(|error| explain(asked(), &error))?;
        let bytes = usize::try_from(info.shared_size)
            .map_err(|_| Error::new(asked(), "its size does not fit"))?;
        SharedMap::new(self.fd.as_fd(), bytes).map_err(|error| explain(asked(), &error))
    }
}

impl Peer for Instance {
    fn call(&self, call: &Call<'_>, answer: &mut [u8]) -> Result<usize> {
        let callee = Callee::Instance(&self.name);
        callee.call(self.fd.as_fd(), call, answer)
    }

    fn link_stats(&self) -> Result<LinkStats> {
        Callee::Instance(&self.name).link_stats(self.fd.as_fd())
    }
}

impl OpenPort for Instance {
    fn open_port(&self, number: u32) -> Result<Port> {
        Port::open(self.fd.as_fd(), Callee::Instance(&self.name), number)
    }
}

impl AsFd for Instance {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn connect(other: &str) -> sys::multikernel_ioctl_connect {
    sys::multikernel_ioctl_connect {
        size: super::size_field::<sys::multikernel_ioctl_connect>(),
        name: super::name_field(other),
        ..Default::default()
    }
}

fn simple() -> sys::multikernel_ioctl_simple {
    sys::multikernel_ioctl_simple {
        size: super::size_field::<sys::multikernel_ioctl_simple>(),
        flags: 0,
    }
}

fn from_abi(
    info: &sys::multikernel_ioctl_get_info,
    cpus: &[sys::multikernel_cpu],
    ranges: &[sys::multikernel_range],
) -> InstanceInfo {
    let name = info.name.iter().take_while(|byte| **byte != 0);
    InstanceInfo {
        id: info.id,
        name: name.map(|byte| char::from(*byte)).collect(),
        state: State::from_abi(info.state),
        reason: Reason::from_abi(info.reason),
        epoch: info.epoch,
        cpus: cpus.iter().map(CpuInfo::from_abi).collect(),
        memory: ranges.iter().map(MemoryInfo::from_abi).collect(),
        shared_base: info.shared_base,
        shared_size: info.shared_size,
        entry: info.entry,
        image_bytes: info.image_bytes,
        hang_timeout: HangTimeout::from_abi(info.hang_ms),
    }
}
