// SPDX-License-Identifier: GPL-2.0

//! The spawn that messages go to.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use multikernel::device::{Call, CreateRequest, Host, Instance, Peer};
use multikernel::load::{self, LoadSpec};
use multikernel::spec::{CpuList, MemoryRequest, Side};
use multikernel::{Error, Result};

/// How long it may take until the spawn's kernel answers.
const DEADLINE: Duration = Duration::from_secs(60);
/// How often it is asked.
const INTERVAL: Duration = Duration::from_millis(20);

/// A spawn that runs.
pub struct Spawn {
    host: Host,
    instance: Instance,
    spec: LoadSpec,
    cpus: usize,
    pool_bytes: u64,
    tsc_khz: u32,
}

impl Spawn {
    /// Starts it under that name, and waits until its kernel answers.
    pub fn start(
        name: &str,
        kernel: &Path,
        initrd: &Path,
        cpus: &CpuList,
        memory: &MemoryRequest,
    ) -> Result<Self> {
        let host = Host::open()?;
        let tsc_khz = host.info()?.tsc_khz;
        if tsc_khz == 0 {
            return Err(Error::new(
                "cannot measure",
                "the host does not know its TSC's frequency",
            ));
        }
        host.grow(memory.bytes, None, Side::Any)?;
        let instance = host.create(&CreateRequest {
            name,
            cpus,
            memory: std::slice::from_ref(memory),
            low_bytes: 0,
        })?;
        let spec = LoadSpec {
            kernel: kernel.to_owned(),
            initrd: Some(initrd.to_owned()),
            append: "rdinit=/pid1".into(),
            fast: false,
            uarts: Vec::new(),
            guest: true,
            later_cpus: Vec::new(),
            pmem: Vec::new(),
        };
        let spawn = Self {
            host,
            instance,
            spec,
            cpus: cpus.0.len(),
            pool_bytes: memory.bytes,
            tsc_khz,
        };
        spawn.boot()?;
        Ok(spawn)
    }

    /// Loads and starts it, and waits until its kernel answers.
    pub fn boot(&self) -> Result<()> {
        let loaded = load::load(&self.host, &self.instance, &self.spec)?;
        self.instance.start(loaded.argument)?;
        let begin = Instant::now();
        while let Err(error) = self.instance.call(&Call::echo(b"there?"), &mut [0; 16]) {
            if begin.elapsed() > DEADLINE {
                return Err(error);
            }
            thread::sleep(INTERVAL);
        }
        Ok(())
    }

    /// The instance.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// How many CPUs it has.
    pub fn cpus(&self) -> usize {
        self.cpus
    }

    /// Ticks of the TSC in a nanosecond.
    pub fn ticks_per_ns(&self) -> f64 {
        f64::from(self.tsc_khz) / 1e6
    }

    /// Ends it, and gives everything back.
    pub fn end(self) -> Result<()> {
        self.instance.kill()?;
        self.instance.destroy()?;
        self.host.shrink(self.pool_bytes, None)
    }
}
