// SPDX-License-Identifier: GPL-2.0

//! The device itself: the host, the pool, the list of instances.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use multikernel_sys as sys;
use serde::Serialize;

use super::{syscall, CpuInfo, Events, Instance, LinkInfo, MemoryInfo, Owner};
use crate::explain::{explain, CPUS};
use crate::spec::{format_size, CpuList, MemoryRequest, Side};
use crate::{Error, Result};

/// Where the device is.
pub const DEVICE: &str = "/dev/multikernel";
/// A list that goes on growing while it is read is given up after so many tries.
const LIST_TRIES: usize = 8;

/// The host kernel's side of it all.
#[derive(Debug)]
pub struct Host {
    file: File,
}

/// What HOST_INFO tells.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct HostInfo {
    /// Version of the shared-memory ABI.
    pub abi_version: u32,
    /// The host uses x2APIC mode.
    pub x2apic: bool,
    /// IPI shorthands are off at this moment.
    pub shorthand_off: bool,
    /// TSC frequency in kHz, 0 if not known.
    pub tsc_khz: u32,
    /// Local APIC timer input clock in kHz, 0 if not known.
    pub lapic_khz: u32,
    /// CPUs that the host runs on.
    pub cpus_online: u32,
    /// CPUs that instances hold.
    pub cpus_lent: u32,
    /// How many instances there are.
    pub instances: u32,
    /// The most segments that kexec_load takes.
    pub segments_max: u32,
    /// Bytes of an instance's shared area.
    pub shared_size: u64,
    /// Host memory that the subsystem takes for itself.
    pub kernel_bytes: u64,
}

/// What an instance is made of.
#[derive(Clone, Debug)]
pub struct CreateRequest<'a> {
    /// Its name.
    pub name: &'a str,
    /// Host CPU numbers; the first becomes the boot CPU.
    pub cpus: &'a CpuList,
    /// Its memory.
    pub memory: &'a [MemoryRequest],
    /// Bytes below 1 MiB; 0 for the kernel's default.
    pub low_bytes: u32,
}

/// Opens the device file.
pub(super) fn open_device(path: &Path) -> Result<File> {
    let asked = format!("cannot open {}", path.display());
    match File::options().read(true).write(true).open(path) {
        Ok(file) => Ok(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::new(
            asked,
            "the running kernel has no multikernel subsystem",
        )
        .advice("Boot a kernel with CONFIG_MULTIKERNEL; 'mkctl doctor' checks the rest")),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(Error::new(asked, "permission denied").advice("Run mkctl as root"))
        }
        Err(error) => Err(Error::new(asked, error)),
    }
}

impl Host {
    /// Opens the device.
    pub fn open() -> Result<Self> {
        Self::open_at(Path::new(DEVICE))
    }

    /// Opens the device at another path.
    pub fn open_at(path: &Path) -> Result<Self> {
        open_device(path).map(|file| Self { file })
    }

    /// Facts about the host.
    pub fn info(&self) -> Result<HostInfo> {
        let mut request = syscall::HostInfo(sys::multikernel_ioctl_host_info {
            size: super::size_field::<sys::multikernel_ioctl_host_info>(),
            ..Default::default()
        });
        syscall::ioctl(self.file.as_fd(), &mut request)
            .map_err(|error| explain("cannot ask the host kernel about itself", &error))?;
        let info = request.0;
        Ok(HostInfo {
            abi_version: info.abi_version,
            x2apic: info.features & u64::from(sys::MULTIKERNEL_HOST_X2APIC) != 0,
            shorthand_off: info.features & u64::from(sys::MULTIKERNEL_HOST_SHORTHAND_OFF) != 0,
            tsc_khz: info.tsc_khz,
            lapic_khz: info.lapic_khz,
            cpus_online: info.cpus_online,
            cpus_lent: info.cpus_lent,
            instances: info.instances,
            segments_max: info.segments_max,
            shared_size: info.shared_size,
            kernel_bytes: info.kernel_bytes,
        })
    }

    /// Moves memory from the host to the pool; returns the lowest address that was added.
    pub fn grow(&self, bytes: u64, node: Option<i32>, side: Side) -> Result<u64> {
        let mut request = syscall::PoolGrow(pool_request(bytes, node, side.flags(), 0));
        syscall::ioctl(self.file.as_fd(), &mut request).map_err(|error| {
            let asked = format!("cannot add {} to the pool", format_size(bytes));
            match error.raw_os_error() {
                Some(errno @ libc::ENOSPC) => {
                    Error::new(asked, "the host cannot free so much memory in one piece")
                        .advice(
                            "Add several smaller pieces, or set memory aside at boot with \
                     reserve_mem=SIZE:2M:multikernel on the host's command line",
                        )
                        .with_errno(errno)
                }
                _ => explain(asked, &error),
            }
        })?;
        Ok(request.0.base)
    }

    /// Moves free memory of the pool back to the host.
    pub fn shrink(&self, bytes: u64, base: Option<u64>) -> Result<()> {
        let flags = match base {
            Some(_) => sys::MULTIKERNEL_RANGE_FIXED,
            None => 0,
        };
        let request = pool_request(bytes, None, flags, base.unwrap_or(0));
        syscall::ioctl(self.file.as_fd(), &mut syscall::PoolShrink(request)).map_err(|error| {
            let asked = format!("cannot take {} out of the pool", format_size(bytes));
            let (wrong, advice) = match error.raw_os_error() {
                Some(libc::ENOSPC) => (
                    "the pool has less free memory that was added at run time",
                    "Remove instances with 'mkctl rm', or take out less",
                ),
                Some(libc::EBUSY) => (
                    "an instance holds some of it, or it was set aside at boot",
                    "'mkctl pool' shows who has what",
                ),
                _ => return explain(asked, &error),
            };
            let error = error.raw_os_error().unwrap_or(0);
            Error::new(asked, wrong).advice(advice).with_errno(error)
        })
    }

    /// The device's file.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn list<T: syscall::ListElement>(&self, what: &str) -> Result<Vec<T>> {
        let mut items = vec![T::default(); 64];
        for _ in 0..LIST_TRIES {
            let count = syscall::list(self.file.as_fd(), &mut items)
                .map_err(|error| explain(format!("cannot list {what}"), &error))?;
            if count <= items.len() {
                items.truncate(count);
                return Ok(items);
            }
            // It has grown, and may do so again until the next call.
            items.resize(count + count / 4, T::default());
        }
        Err(Error::new(
            format!("cannot list {what}"),
            "the list does not stop growing",
        )
        .advice("Try again"))
    }

    /// The memory of the pool, and what is lent of it.
    pub fn memory(&self) -> Result<Vec<MemoryInfo>> {
        let ranges = self.list::<sys::multikernel_range>("the pool's memory")?;
        Ok(ranges.iter().map(MemoryInfo::from_abi).collect())
    }

    /// All CPUs of the machine.
    pub fn cpus(&self) -> Result<Vec<CpuInfo>> {
        let cpus = self.list::<sys::multikernel_cpu>("CPUs")?;
        Ok(cpus.iter().map(CpuInfo::from_abi).collect())
    }

    /// The ids of all instances.
    pub fn instances(&self) -> Result<Vec<u32>> {
        self.list::<u32>("instances")
    }

    /// The pairs of instances that are connected.
    pub fn links(&self) -> Result<Vec<LinkInfo>> {
        let links = self.list::<sys::multikernel_link>("links")?;
        Ok(links.iter().map(LinkInfo::from_abi).collect())
    }

    /// Creates an instance.
    pub fn create(&self, request: &CreateRequest<'_>) -> Result<Instance> {
        let ranges: Vec<_> = request
            .memory
            .iter()
            .map(|memory| memory.to_range())
            .collect();
        let created = syscall::create(
            self.file.as_fd(),
            request.name,
            &request.cpus.0,
            &ranges,
            request.low_bytes,
        );
        match created {
            Ok((id, fd)) => Ok(Instance::new(fd, id, request.name)),
            Err(error) => {
                let asked = format!("cannot create instance \"{}\"", request.name);
                Err(explain_create(
                    &asked,
                    request,
                    &self.cpus().unwrap_or_default(),
                    &error,
                ))
            }
        }
    }

    /// Begins to watch the state changes of all instances, from now on.
    pub fn events(&self) -> Result<Events> {
        syscall::events(self.file.as_fd())
            .map(Events::new)
            .map_err(|error| explain("cannot watch the instances", &error))
    }

    /// Opens an instance by its name.
    pub fn instance(&self, name: &str) -> Result<Instance> {
        let (id, fd) = syscall::open(self.file.as_fd(), 0, name)
            .map_err(|error| explain(format!("cannot open instance \"{name}\""), &error))?;
        Ok(Instance::new(fd, id, name))
    }

    /// Opens an instance by its id; `None` if there is none.
    pub fn instance_by_id(&self, id: u32) -> Result<Option<Instance>> {
        match syscall::open(self.file.as_fd(), id, "") {
            Ok((id, fd)) => Ok(Some(Instance::new(fd, id, &format!("#{id}")))),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(explain(format!("cannot open instance {id}"), &error)),
        }
    }
}

fn pool_request(
    bytes: u64,
    node: Option<i32>,
    flags: u32,
    base: u64,
) -> sys::multikernel_ioctl_pool {
    sys::multikernel_ioctl_pool {
        size: super::size_field::<sys::multikernel_ioctl_pool>(),
        flags,
        base,
        bytes,
        nid: node.unwrap_or(-1),
        reserved: 0,
    }
}

/// Finds the CPU that the kernel objects to: it says that one is wrong, not which.
fn explain_create(
    asked: &str,
    request: &CreateRequest<'_>,
    machine: &[CpuInfo],
    error: &io::Error,
) -> Error {
    let numbers = CpuList(machine.iter().map(|cpu| cpu.cpu).collect());
    let asked_for = |bad: &dyn Fn(&CpuInfo) -> bool| {
        let mut those = machine
            .iter()
            .filter(|cpu| request.cpus.0.contains(&cpu.cpu));
        those.find(|cpu| bad(cpu)).copied()
    };
    let errno = error.raw_os_error();
    let wrong = match errno {
        Some(libc::ENODEV) => {
            let mut absent = request.cpus.0.iter().filter(|cpu| !numbers.0.contains(cpu));
            absent.next().map(|cpu| {
                format!("CPU {cpu} does not exist on this machine (it has CPUs {numbers})")
            })
        }
        Some(libc::ENETDOWN) => {
            let offline = asked_for(&|cpu| !cpu.online && cpu.owner == Owner::Host);
            return match offline {
                Some(CpuInfo { cpu, .. }) => {
                    Error::new(asked, format_args!("CPU {cpu} is offline")).advice(format!(
                    "Bring it online with 'echo 1 > /sys/devices/system/cpu/cpu{cpu}/online' first"
                ))
                }
                None => explain(asked, error),
            }
            .with_errno(libc::ENETDOWN);
        }
        Some(libc::EOPNOTSUPP) => Some(match request.cpus.0.contains(&0) {
            true => "CPU 0 cannot be lent: the host needs it".to_owned(),
            false => "the host's last CPU cannot be lent".to_owned(),
        }),
        Some(libc::EBUSY) => asked_for(&|cpu| cpu.owner != Owner::Host)
            .map(|cpu| format!("CPU {} is lent to instance {} already", cpu.cpu, cpu.id))
            .or_else(|| Some("some of the memory is lent already".to_owned())),
        _ => None,
    };
    match (wrong, errno) {
        (Some(wrong), Some(errno)) => Error::new(asked, wrong).advice(CPUS).with_errno(errno),
        _ => explain(asked, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Vec<CpuInfo> {
        (0..4)
            .map(|cpu| CpuInfo {
                cpu,
                apic_id: cpu,
                node: None,
                owner: if cpu == 3 {
                    Owner::Instance
                } else {
                    Owner::Host
                },
                id: if cpu == 3 { 7 } else { 0 },
                online: cpu < 2,
            })
            .collect()
    }

    fn said(cpus: &str, errno: i32) -> String {
        let cpus = cpus.parse().unwrap();
        let request = CreateRequest {
            name: "web",
            cpus: &cpus,
            memory: &[],
            low_bytes: 0,
        };
        let error = io::Error::from_raw_os_error(errno);
        explain_create(
            "cannot create instance \"web\"",
            &request,
            &machine(),
            &error,
        )
        .to_string()
    }

    #[test]
    fn the_wrong_cpu_is_named() {
        assert_eq!(
            said("1,9", libc::ENODEV),
            "cannot create instance \"web\": CPU 9 does not exist on this machine (it has CPUs \
             0-3). Choose with --cpus from those that 'mkctl pool' lists as host."
        );
        assert!(said("1,2", libc::ENETDOWN).contains("CPU 2 is offline. Bring it online"));
        assert!(said("0,1", libc::EOPNOTSUPP).contains("CPU 0 cannot be lent"));
        assert!(said("1", libc::EOPNOTSUPP).contains("last CPU"));
        assert!(said("1,3", libc::EBUSY).contains("CPU 3 is lent to instance 7 already"));
        assert!(said("1", libc::EBUSY).contains("memory is lent already"));
        assert!(said("1", libc::ENOSPC).contains("pool grow"));
    }

    #[test]
    fn a_file_that_is_not_the_device() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let host = Host::open_at(file.path()).unwrap();
        assert_eq!(host.info().unwrap_err().errno(), Some(libc::ENOTTY));
        let error = Host::open_at(Path::new("/nonexistent/multikernel")).unwrap_err();
        assert!(error.to_string().contains("CONFIG_MULTIKERNEL"), "{error}");
    }
}
