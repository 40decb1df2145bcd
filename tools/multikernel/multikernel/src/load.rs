// SPDX-License-Identifier: GPL-2.0

//! Reads kernel and initrd, prepares them for an instance, and loads them.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::acpi::Cpu;
use crate::boot::{self, BootError, Memory, Recipe, Target};
use crate::cmdline::Uart;
use crate::device::{CpuInfo, HangTimeout, Host, Instance, InstanceInfo, MemoryInfo};
use crate::image::{Image, ImageError};
use crate::layout::{LayoutError, Range};
use crate::pmem::Pmem;
use crate::{Error, Result};

/// Where the host says by what it keeps its time.
const CLOCK_SOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";

/// What to load: what the user said, to be remembered and done again.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LoadSpec {
    /// The kernel, absolute.
    pub kernel: PathBuf,
    /// The initrd, absolute.
    pub initrd: Option<PathBuf>,
    /// Words behind the default command line.
    pub append: String,
    /// Take the vmlinux out of a bzImage and enter it directly.
    pub fast: bool,
    /// UARTs lent to the instance.
    pub uarts: Vec<Uart>,
    /// Let the kernel use its guest support.
    pub guest: bool,
    /// The host's numbers of CPUs that the instance may be given while its kernel runs.
    #[serde(default)]
    pub later_cpus: Vec<u32>,
    /// Arenas that the kernel finds as persistent memory, `/dev/pmem0` and so on.
    #[serde(default)]
    pub pmem: Vec<String>,
}

/// What was loaded.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Loaded {
    /// What the file is, after unpacking.
    pub format: String,
    /// Entry address.
    pub entry: u64,
    /// What RSI has to be at the entry.
    pub argument: u64,
    /// The whole command line.
    pub command_line: String,
    /// Of how many CPUs the tables tell; 0 stands for those that the instance has.
    #[serde(default)]
    pub cpus: u32,
    /// Where the arenas are that the kernel was told of.
    #[serde(default)]
    pub pmem: Vec<Range>,
}

fn read(asked: &str, what: &str, path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| {
        Error::new(
            asked,
            format_args!("the {what} {} cannot be read: {error}", path.display()),
        )
    })
}

fn explain_image(asked: &str, path: &Path, error: &ImageError) -> Error {
    let advice = match error {
        ImageError::UnknownFormat | ImageError::Unsupported(_) => {
            "Give --kernel an x86-64 bzImage (vmlinuz) or ELF vmlinux"
        }
        ImageError::Truncated { .. } | ImageError::Corrupt(_) => "Copy or build the file again",
        ImageError::Payload(_) => "Load it without --fast",
    };
    let wrong = format!("{} cannot be used as a kernel: {error}", path.display());
    Error::new(asked, wrong).advice(advice)
}

fn explain_boot(asked: &str, error: &BootError) -> Error {
    let advice = match error {
        BootError::Layout(LayoutError::TooSmall { below_4g: true, .. }) => {
            "Create the instance with memory below 4 GiB, by --memory SIZE,below-4g"
        }
        BootError::Layout(LayoutError::FixedKernel { .. }) => {
            "Use a kernel with CONFIG_RELOCATABLE, as all distributions have"
        }
        BootError::Layout(_) | BootError::InitrdSize => {
            "Create the instance with more memory, or use a smaller image"
        }
        BootError::LowMemory => "Create the instance with --low 64K",
        BootError::MemoryMap(_) | BootError::Segments { .. } => {
            "Create the instance with fewer ranges of memory"
        }
        BootError::CommandLine(_) => "Mend --append",
        BootError::CommandLineLength { .. } => "Shorten --append",
    };
    Error::new(asked, error).advice(advice)
}

/// Those of the CPUs that may come later which the instance does not have already.
fn later_cpus(
    asked: &str,
    machine: &[CpuInfo],
    info: &InstanceInfo,
    later: &[u32],
) -> Result<Vec<Cpu>> {
    let missing = |number: &&u32| info.cpus.iter().all(|cpu| cpu.cpu != **number);
    let find = |number: &u32| {
        let cpu = machine.iter().find(|cpu| cpu.cpu == *number);
        let cpu = cpu.ok_or_else(|| {
            Error::new(asked, format_args!("there is no CPU {number}"))
                .advice("Choose with --later-cpus from those that 'mkctl pool' lists")
        })?;
        Ok(Cpu {
            apic_id: cpu.apic_id,
            node: cpu.node,
        })
    };
    later.iter().filter(missing).map(find).collect()
}

/// Puts together what [`boot`] has to know.
fn target(
    asked: &str,
    host: &Host,
    info: &InstanceInfo,
    later: &[u32],
    pmem: &Pmem,
) -> Result<Target> {
    let machine = host.cpus()?;
    let later_cpus = later_cpus(asked, &machine, info, later)?;
    let host_info = host.info()?;
    let pool = host.memory()?;
    let mut nodes: Vec<u32> = machine.iter().filter_map(|cpu| cpu.node).collect();
    nodes.extend(pool.iter().filter_map(|memory| memory.node));
    let several_nodes = nodes.windows(2).any(|pair| pair[0] != pair[1]);

    let (low, high): (Vec<&MemoryInfo>, Vec<_>) = info.memory.iter().partition(|memory| memory.low);
    Ok(Target {
        low: low.iter().map(|memory| memory.range()).collect(),
        memory: high
            .iter()
            .map(|memory| Memory {
                range: memory.range(),
                node: memory.node,
            })
            .collect(),
        pmem: pmem.memory().to_vec(),
        shared: info.shared(),
        cpus: info
            .cpus
            .iter()
            .map(|cpu| Cpu {
                apic_id: cpu.apic_id,
                node: cpu.node,
            })
            .collect(),
        later_cpus,
        machine_apic_ids: machine.iter().map(|cpu| cpu.apic_id).collect(),
        several_nodes,
        tsc_khz: host_info.tsc_khz,
        init_delay: fs::read_to_string("/proc/cmdline").ok().and_then(|words| {
            let mut words = words.split_ascii_whitespace();
            let value = words.find_map(|word| word.strip_prefix("cpu_init_udelay="))?;
            Some(value.to_owned())
        }),
        tsc_trusted: fs::read_to_string(CLOCK_SOURCE).is_ok_and(|name| name.trim() == "tsc"),
        segments_max: host_info.segments_max as usize,
    })
}

/// Checks everything about the files that can be checked without an instance.
pub fn check(spec: &LoadSpec) -> Result<()> {
    let asked = "cannot use these files";
    let file = read(asked, "kernel", &spec.kernel)?;
    Image::parse(&file).map_err(|error| explain_image(asked, &spec.kernel, &error))?;
    if let Some(initrd) = &spec.initrd {
        fs::File::open(initrd).map_err(|error| {
            let path = initrd.display();
            Error::new(
                asked,
                format_args!("the initrd {path} cannot be read: {error}"),
            )
        })?;
    }
    Ok(())
}

/// Loads an image into an instance. On an error, what was loaded before stays.
pub fn load(host: &Host, instance: &Instance, spec: &LoadSpec) -> Result<Loaded> {
    let asked = format!("cannot load an image into instance \"{}\"", instance.name());
    let refuse = |error: ImageError| explain_image(&asked, &spec.kernel, &error);

    let file = read(&asked, "kernel", &spec.kernel)?;
    let unpacked;
    let mut image = Image::parse(&file).map_err(refuse)?;
    if let (Image::BzImage(bzimage), true) = (&image, spec.fast) {
        unpacked = bzimage.extract().map_err(refuse)?;
        image = Image::parse(&unpacked).map_err(refuse)?;
    }
    let initrd = spec
        .initrd
        .as_deref()
        .map(|path| read(&asked, "initrd", path))
        .transpose()?;
    let recipe = Recipe {
        image: &image,
        initrd: initrd.as_deref(),
        append: &spec.append,
        uarts: &spec.uarts,
        guest: spec.guest,
    };
    let pmem = Pmem::hold(host, instance, &spec.pmem)?;
    let target = target(&asked, host, &instance.info()?, &spec.later_cpus, &pmem)?;
    let prepared = boot::prepare(&target, &recipe).map_err(|error| explain_boot(&asked, &error))?;
    instance.load(&prepared)?;
    Ok(Loaded {
        format: image.format().to_owned(),
        entry: prepared.entry,
        argument: prepared.argument,
        command_line: prepared.command_line,
        cpus: (target.cpus.len() + target.later_cpus.len()) as u32,
        pmem: pmem.ranges(),
    })
}

/// Starts what was loaded.
///
/// # Errors
///
/// Beside those of [`Instance::start_with`]: an arena of `spec` is not granted to the instance, or
/// is elsewhere than when `loaded` was: then it has to be loaded again.
pub fn start(
    host: &Host,
    instance: &Instance,
    spec: &LoadSpec,
    loaded: &Loaded,
    hang: HangTimeout,
) -> Result<()> {
    let pmem = Pmem::hold(host, instance, &spec.pmem)?;
    if pmem.ranges() != loaded.pmem {
        return Err(Error::new(
            format!("cannot start instance \"{}\"", instance.name()),
            "an arena that its kernel was told of is elsewhere by now",
        )
        .advice(format!(
            "Load it again with 'mkctl load {}'",
            instance.name()
        )));
    }
    // It may have been given CPUs since it was loaded.
    let cpus_max = loaded.cpus.max(instance.info()?.cpus.len() as u32);
    instance.start_with(loaded.argument, hang, cpus_max)?;
    // What a running instance was granted stays granted, and where it is. Until now somebody could
    // have revoked it.
    pmem.confirm(host, instance).inspect_err(|_| {
        // The error that is reported is the first one.
        let _ = instance.kill();
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn spec(kernel: &Path) -> LoadSpec {
        LoadSpec {
            kernel: kernel.to_owned(),
            initrd: None,
            append: String::new(),
            fast: false,
            uarts: Vec::new(),
            guest: true,
            later_cpus: Vec::new(),
            pmem: Vec::new(),
        }
    }

    #[test]
    fn files_are_checked() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"#!/bin/sh\n").unwrap();
        let mut spec = spec(file.path());
        let error = check(&spec).unwrap_err().to_string();
        assert!(
            error.contains("neither a bzImage nor an ELF file. Give --kernel"),
            "{error}"
        );

        file.as_file_mut().set_len(0).unwrap();
        fs::write(file.path(), crate::image::bzimage::tests::build(b"x")).unwrap();
        assert!(check(&spec).is_ok());
        spec.initrd = Some("/nonexistent/initrd".into());
        let error = check(&spec).unwrap_err().to_string();
        assert!(
            error.contains("the initrd /nonexistent/initrd cannot be read"),
            "{error}"
        );
        spec.kernel = "/nonexistent/kernel".into();
        let error = check(&spec).unwrap_err().to_string();
        assert!(
            error.contains("the kernel /nonexistent/kernel cannot be read"),
            "{error}"
        );
    }
}
