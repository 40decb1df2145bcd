// SPDX-License-Identifier: GPL-2.0

//! What the host has: who owns what, and how much is in use.
//!
//! CPUs, the ledger and open files are compared exactly. Free memory is not constant even on an
//! idle host, so that one look says little: only a leak of megabytes is judged by it. A slow leak
//! is judged by the trend over all looks that were taken in the same situation, see [`trend`].

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use multikernel::device::{Host, Owner};
use multikernel::{Error, Result};

const LEDGER: &str = "/sys/kernel/debug/multikernel/ledger";
const ONLINE: &str = "/sys/devices/system/cpu/online";
const SLAB: &str = "/sys/kernel/slab";
/// Bytes of a page.
const PAGE: i64 = 4096;

/// What may be lost by trend over a whole run, in KiB or objects: noise that looks like a trend.
const TREND_SLACK_KIB: f64 = 256.0;
const TREND_SLACK_OBJECTS: f64 = 48.0;
/// What may be lost by trend for each round. A page or an object for each is more.
const TREND_LIMIT_KIB: f64 = 2.0;
const TREND_LIMIT_OBJECTS: f64 = 0.5;
/// How many of its standard deviations a trend has to be off to be no chance.
const SURE: f64 = 4.0;
/// Looks before the host is in its stride, and those without which there is no trend.
pub const WARM_UP: usize = 2;
const LOOKS: usize = 6;

/// What has to be the same again, to the letter.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Exact {
    /// The kernel's own list of who owns what.
    pub ledger: String,
    /// The CPUs that the host runs on.
    pub online: String,
    /// Open files of this process.
    pub files: usize,
    /// Memory that the subsystem holds for itself.
    pub kernel_bytes: u64,
    /// Instances that there are.
    pub instances: u32,
}

/// What is in use.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Used {
    /// Pages that are free, in the pool, with the subsystem or this process's own, in KiB.
    pub free_kib: i64,
    /// Slab memory that the kernel cannot reclaim, in KiB.
    pub slab_kib: i64,
    /// Objects in use, by slab cache.
    pub objects: BTreeMap<String, i64>,
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).map_err(|error| Error::new(format!("cannot read {path}"), error))
}

fn write(path: &str, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|error| Error::new(format!("cannot write {path}"), error))
}

impl Exact {
    /// Looks.
    pub fn look(host: &Host) -> Result<Self> {
        let info = host.info()?;
        let files = fs::read_dir("/proc/self/fd")
            .map_err(|error| Error::new("cannot list open files", error))?
            .count();
        Ok(Self {
            ledger: read(LEDGER)?,
            online: read(ONLINE)?.trim().to_owned(),
            files,
            kernel_bytes: info.kernel_bytes,
            instances: info.instances,
        })
    }

    /// What differs, one line each.
    pub fn differences(&self, now: &Self) -> Vec<String> {
        let mut found = Vec::new();
        let mut compare = |what: &str, before: String, now: String| {
            if before != now {
                found.push(format!("{what}: was {before:?}, is {now:?}"));
            }
        };
        compare("ledger", self.ledger.clone(), now.ledger.clone());
        compare("CPUs online", self.online.clone(), now.online.clone());
        compare("open files", self.files.to_string(), now.files.to_string());
        compare(
            "the subsystem's memory",
            self.kernel_bytes.to_string(),
            now.kernel_bytes.to_string(),
        );
        compare(
            "instances",
            self.instances.to_string(),
            now.instances.to_string(),
        );
        found
    }
}

/// The number behind a name in /proc/meminfo, in KiB.
fn meminfo(text: &str, name: &str) -> Option<i64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// Pages in the CPUs' own lists, which /proc/meminfo does not count as free.
fn on_cpu_lists(zoneinfo: &str) -> i64 {
    zoneinfo
        .lines()
        .filter_map(|line| {
            line.trim()
                .strip_prefix("count:")?
                .trim()
                .parse::<i64>()
                .ok()
        })
        .sum()
}

/// Objects in use by cache, from /proc/slabinfo.
fn objects(slabinfo: &str) -> BTreeMap<String, i64> {
    slabinfo
        .lines()
        .skip(2)
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
        })
        .collect()
}

/// Has every slab cache give back what it only keeps in store.
fn shrink_slabs() {
    let Ok(caches) = fs::read_dir(SLAB) else {
        return;
    };
    for cache in caches.flatten() {
        // Aliases of one cache are links; once is enough. A cache that is just going is no error.
        if cache.file_type().is_ok_and(|kind| kind.is_dir()) {
            let _ = fs::write(cache.path().join("shrink"), "1");
        }
    }
}

/// Has the kernel's address ranges that are no longer used taken back at once.
///
/// After vfree(), which is how stacks of processes that ended go, a range is kept until there are
/// thousands of them, each with its object. A socket filter is code, so that its page becomes
/// read-only, for which all of them are taken back first: see vm_unmap_aliases().
fn purge_ranges() -> Result<()> {
    let asked = "cannot have address ranges taken back";
    let socket = UnixDatagram::unbound().map_err(|error| Error::new(asked, error))?;
    let mut accept = libc::sock_filter {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: u32::MAX,
    };
    let program = libc::sock_fprog {
        len: 1,
        filter: &mut accept,
    };
    // SAFETY: The option takes a `sock_fprog`, which names one instruction; both are read during
    // the call only.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(Error::new(asked, io::Error::last_os_error())),
    }
}

impl Used {
    /// Looks, after the kernel has been asked to give up what it keeps in store.
    ///
    /// With `thorough` slab caches too, which takes longer; else nothing is said of their objects.
    /// The memory of `other` is not counted, a process whose work grows.
    pub fn look(host: &Host, thorough: bool, other: Option<u32>) -> Result<Self> {
        write("/proc/sys/vm/drop_caches", "3")?;
        if thorough {
            purge_ranges()?;
            shrink_slabs();
        }
        // The counters of each CPU are added up now, not within a second.
        if Path::new("/proc/sys/vm/stat_refresh").exists() {
            write("/proc/sys/vm/stat_refresh", "1")?;
        }
        let info = read("/proc/meminfo")?;
        let missing = || Error::new("cannot tell free memory", "/proc/meminfo does not say");
        let free = meminfo(&info, "MemFree").ok_or_else(missing)?;
        let slab = meminfo(&info, "SUnreclaim").ok_or_else(missing)?;
        let lists = on_cpu_lists(&read("/proc/zoneinfo")?) * PAGE / 1024;
        let lent: u64 = host
            .memory()?
            .iter()
            .filter(|memory| !memory.low && memory.owner != Owner::Host)
            .map(|memory| memory.size)
            .sum();
        let ours = (lent + host.info()?.kernel_bytes) as i64 / 1024;
        // What malloc() keeps in store.
        let anonymous = |status: String| meminfo(&status, "RssAnon").unwrap_or(0);
        let mut process = anonymous(read("/proc/self/status")?);
        if let Some(other) = other {
            process += anonymous(read(&format!("/proc/{other}/status"))?);
        }
        Ok(Self {
            free_kib: free + lists + ours + process,
            slab_kib: slab,
            objects: if thorough {
                objects(&read("/proc/slabinfo")?)
            } else {
                BTreeMap::new()
            },
        })
    }
}

/// The slope of a line through points (x, y): the median of the slopes between any two of them
/// (Theil and Sen), which a few outliers do not move. `None` for fewer than three points.
pub fn trend(points: &[(f64, f64)]) -> Option<f64> {
    let mut slopes = Vec::new();
    for (at, first) in points.iter().enumerate() {
        for second in &points[at + 1..] {
            if second.0 != first.0 {
                slopes.push((second.1 - first.1) / (second.0 - first.0));
            }
        }
    }
    if points.len() < 3 {
        return None;
    }
    median(&mut slopes)
}

/// How far [`trend`] may be off by chance: its standard deviation, from how the points lie around
/// it. The median of the distances stands for theirs, so that outliers do not move it.
pub fn trend_error(points: &[(f64, f64)], slope: f64) -> Option<f64> {
    let mut rests: Vec<_> = points.iter().map(|(x, y)| y - slope * x).collect();
    let middle = median(&mut rests)?;
    let mut distances: Vec<_> = rests.iter().map(|rest| (rest - middle).abs()).collect();
    // Of a normal distribution the median distance is 0.6745 standard deviations.
    let deviation = median(&mut distances)? / 0.6745;
    let span = points.last()?.0 - points.first()?.0;
    // As of a line fitted to points at equal distances.
    let count = points.len() as f64;
    (span > 0.0).then(|| deviation * (12.0 / count).sqrt() / span)
}

/// A look at the host in the same situation as the others: when all that was lent to crash is
/// back, or one instance runs.
pub struct Look {
    /// After how many rounds.
    pub round: f64,
    /// What was in use.
    pub used: Used,
}

/// One number of all looks, over their rounds.
pub fn points(looks: &[Look], value: impl Fn(&Used) -> i64) -> Vec<(f64, f64)> {
    let point = |look: &Look| (look.round, value(&look.used) as f64);
    looks.iter().map(point).collect()
}

/// What is lost by trend, one line each, when the looks are taken together.
pub fn losses(looks: &[Look]) -> Vec<String> {
    let looks = looks.get(WARM_UP..).unwrap_or_default();
    let (Some(first), Some(last)) = (looks.first(), looks.last()) else {
        return Vec::new();
    };
    let mut losses = Vec::new();
    if looks.len() < LOOKS {
        return losses;
    }
    let rounds = last.round - first.round;
    // A loss counts from `more`: -1.0 where more is free, 1.0 where more is in use.
    let mut judge = |what: &str, points: &[(f64, f64)], more: f64, limit: f64, slack: f64| {
        let slope = trend(points).unwrap_or(0.0);
        let error = trend_error(points, slope).unwrap_or(0.0);
        let loss = slope * more;
        if loss > limit.max(SURE * error) && loss * rounds > slack {
            losses.push(format!("{what}: {loss:.2} for each of {rounds} rounds"));
        }
    };
    let kib = (TREND_LIMIT_KIB, TREND_SLACK_KIB);
    let free = points(looks, |used| used.free_kib);
    judge("KiB of free memory", &free, -1.0, kib.0, kib.1);
    let slab = points(looks, |used| used.slab_kib);
    judge("KiB of slab", &slab, 1.0, kib.0, kib.1);
    for name in last.used.objects.keys() {
        let objects = points(looks, |used| used.objects.get(name).copied().unwrap_or(0));
        let what = format!("objects of slab cache {name}");
        let (limit, slack) = (TREND_LIMIT_OBJECTS, TREND_SLACK_OBJECTS);
        judge(&what, &objects, 1.0, limit, slack);
    }
    losses
}

/// The median; sorts.
pub fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_from_proc() {
        let text = "MemTotal:  100 kB\nMemFree:    42 kB\nSUnreclaim: 7 kB\n";
        assert_eq!(meminfo(text, "MemFree"), Some(42));
        assert_eq!(meminfo(text, "Mem"), None);
        let zones = "Node 0\n  pagesets\n    cpu: 0\n       count:    5\n       high: 9\n\
                     \n    cpu: 1\n       count:    37\n";
        assert_eq!(on_cpu_lists(zones), 42);
        let slabs =
            "slabinfo - version: 2.1\n# name <active_objs>\nkmalloc-8  3 4 8 : x\ndentry 5 6";
        let found = objects(slabs);
        assert_eq!(found["kmalloc-8"], 3);
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn a_leak_is_told_from_noise() {
        let noise = [9.0, -13.0, 4.0, 0.0, 17.0, -8.0, -2.0, 11.0];
        let points = |slope: f64| -> Vec<_> {
            (0..40)
                .map(|x| (f64::from(x), slope * f64::from(x) + noise[x as usize % 8]))
                .collect()
        };
        assert!(trend(&points(0.0)).unwrap().abs() < 0.5);
        assert!((trend(&points(-4.0)).unwrap() + 4.0).abs() < 0.5);
        for slope in [0.0, -4.0] {
            let error = trend_error(&points(slope), slope).unwrap();
            assert!((0.05..0.3).contains(&error), "{error}");
        }
        assert_eq!(trend_error(&[], 0.0), None);
        let mut wild = points(0.0);
        wild[3].1 = -1e6;
        assert!(trend(&wild).unwrap().abs() < 0.5);
        assert_eq!(trend(&wild[..2]), None);
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&mut []), None);
    }
}
