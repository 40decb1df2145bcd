// SPDX-License-Identifier: GPL-2.0

//! Whether the CPUs of a running spawn still take interrupts.
//!
//! The host rings each of them, several times within the bound that the user set, and a CPU that
//! does take interrupts counts (`abi::CpuBeat`). Time is counted in rounds, each of which the host
//! itself has begun: when the host or the whole machine has stood still, nothing has been missed.
//!
//! Pure: the caller reads the counters and sends the interrupts, and guards this by the registry's
//! mutex.

use kernel::prelude::*;

use crate::abi::CpuBeat;

/// Rounds in the time that a CPU may stay silent. The first may begin right after the CPU's last
/// sign of life, so that it takes one more than [`MISSES`].
pub(crate) const ROUNDS: u32 = 5;
/// Silent rounds in a row after which a CPU counts as hung.
const MISSES: u32 = 4;

/// What is known about one CPU.
#[derive(Clone, Copy, Default)]
struct Cpu {
    /// Its counter when it was last looked at; of meaning if it has been rung since.
    beats: u64,
    /// Whether it has been rung since.
    rung: bool,
    /// For how many rounds in a row it has not counted.
    misses: u32,
}

/// What is known about the CPUs of an instance. Empty by default.
#[derive(Default)]
pub(crate) struct Pulse {
    cpus: KVec<Cpu>,
    /// Milliseconds that a CPU may stay silent; `None` if nobody watches.
    limit_ms: Option<u32>,
    /// When the next round begins, CLOCK_MONOTONIC in nanoseconds.
    due_ns: u64,
}

impl Pulse {
    /// For an instance with that many CPUs, which is not running.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(cpus: usize) -> Result<Self> {
        Ok(Self {
            cpus: KVec::from_elem(Cpu::default(), cpus, GFP_KERNEL)?,
            limit_ms: None,
            due_ns: 0,
        })
    }

    /// A new life begins, in which CPUs may stay silent for so long.
    pub(crate) fn begin(&mut self, limit_ms: Option<u32>, now_ns: u64) {
        self.cpus.iter_mut().for_each(|cpu| *cpu = Cpu::default());
        self.limit_ms = limit_ms;
        self.due_ns = now_ns.saturating_add(self.round_ns().unwrap_or(0));
    }

    /// Milliseconds that a CPU may stay silent; `None` if nobody watches.
    pub(crate) fn limit_ms(&self) -> Option<u32> {
        self.limit_ms
    }

    fn round_ns(&self) -> Option<u64> {
        Some(u64::from(self.limit_ms?) * 1_000_000 / u64::from(ROUNDS))
    }

    /// When the next round begins; `None` if nobody watches.
    pub(crate) fn due_ns(&self) -> Option<u64> {
        self.limit_ms.map(|_| self.due_ns)
    }

    /// Does a round, if it is due. `beat` reads the record of the spawn's CPU of that number, and
    /// `ring` is called for each that is to be rung; it returns whether there is such a CPU. The
    /// result is whether one of them is hung.
    pub(crate) fn round(
        &mut self,
        now_ns: u64,
        beat: impl Fn(usize) -> CpuBeat,
        mut ring: impl FnMut(u32) -> bool,
    ) -> bool {
        let Some(round_ns) = self.round_ns() else {
            return false;
        };
        if now_ns < self.due_ns {
            return false;
        }
        self.due_ns = now_ns.saturating_add(round_ns);
        let mut hung = false;
        for (number, cpu) in self.cpus.iter_mut().enumerate() {
            let said = beat(number);
            let silent = cpu.rung && said.beats == cpu.beats;
            cpu.misses = if silent { cpu.misses + 1 } else { 0 };
            cpu.beats = said.beats;
            cpu.rung = said.online == 1 && ring(said.apic_id);
            if !cpu.rung {
                cpu.misses = 0;
            }
            hung |= cpu.misses >= MISSES;
        }
        hung
    }
}

#[cfg(CONFIG_MULTIKERNEL_KUNIT_TEST)]
#[kunit_tests(multikernel_pulse)]
mod tests {
    use super::*;

    const ROUND: u64 = 2_000_000_000;

    fn beat(beats: u64, online: u32) -> CpuBeat {
        CpuBeat {
            beats,
            apic_id: 3,
            online,
            reserved: [0; 6],
        }
    }

    /// Does so many rounds, in each of which the CPU has counted as `said` says; the first in which
    /// it was hung.
    fn rounds(pulse: &mut Pulse, count: u64, said: impl Fn(u64) -> CpuBeat) -> Option<u64> {
        (1..=count).find(|&round| pulse.round(round * ROUND, |_| said(round), |_| true))
    }

    #[test]
    fn a_cpu_that_counts_lives() -> Result {
        let mut pulse = Pulse::new(1)?;
        pulse.begin(Some(10_000), 0);
        assert_eq!(rounds(&mut pulse, 100, |round| beat(round, 1)), None);
        Ok(())
    }

    #[test]
    fn silence_is_seen_within_the_limit() -> Result {
        let mut pulse = Pulse::new(1)?;
        pulse.begin(Some(10_000), 0);
        // It counts at the first three rings, the last at 6 s. 16 s is the eighth round.
        let said = |round: u64| beat(round.min(4), 1);
        assert_eq!(rounds(&mut pulse, 100, said), Some(8));
        Ok(())
    }

    #[test]
    fn a_cpu_that_is_offline_may_be_silent() -> Result {
        let mut pulse = Pulse::new(1)?;
        pulse.begin(Some(10_000), 0);
        assert_eq!(rounds(&mut pulse, 100, |_| beat(7, 0)), None);
        // Nor is one that the instance does not have rung, and so not missed.
        for round in 101..200 {
            assert!(!pulse.round(round * ROUND, |_| beat(7, 1), |_| false));
        }
        Ok(())
    }

    #[test]
    fn a_round_comes_in_its_time() -> Result {
        let mut pulse = Pulse::new(1)?;
        let mut rung = 0;
        pulse.begin(Some(10_000), 0);
        for now in 0..ROUND / 1_000_000 {
            pulse.round(now * 1_000_000, |_| beat(0, 1), |_| true);
        }
        for now in [1, 2, 3] {
            // A host that has stood still for long does one round, not many.
            pulse.round(
                now * 100 * ROUND,
                |_| beat(0, 1),
                |_| {
                    rung += 1;
                    true
                },
            );
        }
        assert_eq!(rung, 3);
        pulse.begin(None, 0);
        assert_eq!(pulse.due_ns(), None);
        assert!(!pulse.round(u64::MAX, |_| beat(0, 1), |_| true));
        Ok(())
    }

    #[test]
    fn a_new_life_owes_nothing() -> Result {
        let mut pulse = Pulse::new(1)?;
        pulse.begin(Some(10_000), 0);
        assert_eq!(rounds(&mut pulse, 4, |_| beat(7, 1)), None);
        pulse.begin(Some(10_000), 0);
        assert_eq!(rounds(&mut pulse, 100, |_| beat(7, 1)), Some(5));
        Ok(())
    }
}
