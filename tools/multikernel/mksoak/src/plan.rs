// SPDX-License-Identifier: GPL-2.0

//! What happens in which round: follows from the seed and the round's number alone.
//!
//! So a round can be replayed without those before it. Rounds come in groups that share an
//! instance, because making one anew takes longer than crashing it.

use std::fmt;
use std::ops::RangeInclusive;

use multikernel::device::{Reason, State};
use serde::Serialize;

/// Rounds that share an instance.
pub const GROUP: u64 = 3;
/// One group in so many runs a kernel without guest support.
const STOCK_EVERY: u64 = 16;
/// Bytes of a MiB.
pub const MIB: u64 = 1 << 20;

/// How a spawn ends.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// `panic()`.
    Panic,
    /// SysRq-C.
    Sysrq,
    /// A NULL dereference in a process.
    Null,
    /// A NULL dereference in a soft interrupt.
    NullSoftirq,
    /// A NULL dereference in an interrupt.
    NullIrq,
    /// A stack that overflows into its guard page.
    Stack,
    /// No stack at all.
    DoubleFault,
    /// One CPU spins with interrupts off.
    Spin,
    /// Every CPU spins with interrupts off.
    SpinAll,
    /// One CPU stays in an NMI handler.
    SpinNmi,
    /// A panic while every other CPU spins with interrupts off.
    PanicSpin,
    /// One CPU spins with interrupts off and has no IDT any more.
    NoIdt,
    /// Random bytes in the kernel's own code.
    Text,
    /// All memory is used up, with panic_on_oom set.
    Oom,
    /// reboot(2), as `reboot -f` does it.
    Restart,
    /// reboot(2), as `poweroff -f` does it.
    Poweroff,
    /// The host asks it to power off.
    Stop,
    /// Stopped by force while it works.
    Kill,
    /// Stopped by force somewhere in its boot.
    KillBoot,
    /// Stopped by force after a panic that the host cannot hear of.
    KillPanic,
}

/// What a round may end as.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Expected {
    /// This state for this reason.
    Exactly(State, Reason),
    /// However: if not by itself, by force.
    Anyhow,
}

impl Kind {
    /// All of those that a kernel with guest support can have, and how often relative to others.
    const GUEST: [(Self, u32); 19] = [
        (Self::Panic, 2),
        (Self::Sysrq, 1),
        (Self::Null, 2),
        (Self::NullSoftirq, 2),
        (Self::NullIrq, 2),
        (Self::Stack, 2),
        (Self::DoubleFault, 2),
        (Self::Spin, 2),
        (Self::SpinAll, 2),
        (Self::SpinNmi, 2),
        (Self::PanicSpin, 1),
        (Self::NoIdt, 1),
        (Self::Text, 3),
        (Self::Oom, 2),
        (Self::Restart, 2),
        (Self::Poweroff, 2),
        (Self::Stop, 2),
        (Self::Kill, 2),
        (Self::KillBoot, 4),
    ];
    /// Those that a kernel without has. By itself it must not end: that resets the machine.
    const STOCK: [(Self, u32); 3] = [(Self::Kill, 1), (Self::KillBoot, 1), (Self::KillPanic, 2)];

    /// Panics of all causes, but for the one that takes long.
    pub const PANICS: [Self; 8] = [
        Self::Panic,
        Self::Sysrq,
        Self::Null,
        Self::NullSoftirq,
        Self::NullIrq,
        Self::Stack,
        Self::DoubleFault,
        Self::PanicSpin,
    ];

    /// What it has to end as.
    pub fn expected(self) -> Expected {
        match self {
            Self::Panic
            | Self::Sysrq
            | Self::Null
            | Self::NullSoftirq
            | Self::NullIrq
            | Self::Stack
            | Self::DoubleFault
            | Self::PanicSpin
            | Self::Oom => Expected::Exactly(State::Crashed, Reason::Panic),
            Self::Spin | Self::SpinAll | Self::SpinNmi | Self::NoIdt => {
                Expected::Exactly(State::Crashed, Reason::Hung)
            }
            Self::Text => Expected::Anyhow,
            Self::Restart => Expected::Exactly(State::Stopped, Reason::Restart),
            Self::Poweroff | Self::Stop => Expected::Exactly(State::Stopped, Reason::Poweroff),
            Self::Kill | Self::KillBoot | Self::KillPanic => {
                Expected::Exactly(State::Stopped, Reason::Forced)
            }
        }
    }

    /// The name for which the kernel's crash test has this fault.
    pub fn in_kernel(self) -> Option<&'static str> {
        Some(match self {
            Self::Panic => "panic",
            Self::Null => "null",
            Self::NullSoftirq => "null-softirq",
            Self::NullIrq => "null-irq",
            Self::Stack => "stack",
            Self::DoubleFault => "double-fault",
            Self::Spin => "spin",
            Self::SpinAll => "spin-all",
            Self::SpinNmi => "spin-nmi",
            Self::PanicSpin => "panic-spin",
            Self::NoIdt => "no-idt",
            Self::Text => "text",
            _ => return None,
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// The kernel that a spawn runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kernel {
    /// The project's, entered directly.
    Vmlinux,
    /// The project's, by its decompressor.
    BzImage,
    /// A distribution's, which knows nothing of its host.
    Stock,
}

/// What an instance is lent, and what it runs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Shape {
    /// Its kernel.
    pub kernel: Kernel,
    /// Bytes of memory.
    pub memory: u64,
    /// Its CPUs, the boot CPU first.
    pub cpus: Vec<u32>,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kernel = match self.kernel {
            Kernel::Vmlinux => "vmlinux",
            Kernel::BzImage => "bzImage",
            Kernel::Stock => "stock",
        };
        write!(
            f,
            "{kernel} cpus={} {}M",
            self.cpus.len(),
            self.memory / MIB
        )
    }
}

/// One round.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Round {
    /// From 0.
    pub number: u64,
    /// The instance's number; rounds of one number share it.
    pub group: u64,
    /// The instance.
    pub shape: Shape,
    /// How it ends.
    pub kind: Kind,
    /// For choices that the spawn makes.
    pub seed: u64,
    /// Where in the time that a boot takes it is stopped, in millionths; for [`Kind::KillBoot`].
    pub boot_millionths: u64,
    /// How long it works before it ends, in microseconds.
    pub work_us: u64,
}

/// All rounds that follow from a seed.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// CPUs that may be lent.
    pub cpus: Vec<u32>,
    /// Whether there is a kernel without guest support.
    pub stock: bool,
    /// Bytes that the project's kernel needs beyond what it does when built without debugging.
    pub more_memory: u64,
}

/// A generator for one purpose: choices for one do not shift those for another.
fn generator(seed: u64, purpose: u64, number: u64) -> fastrand::Rng {
    let mut rng = fastrand::Rng::with_seed(seed ^ (purpose << 56));
    let start = rng.u64(..);
    fastrand::Rng::with_seed(start.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

fn weighted(rng: &mut fastrand::Rng, kinds: &[(Kind, u32)]) -> Kind {
    let mut at = rng.u32(0..kinds.iter().map(|(_, weight)| weight).sum());
    for &(kind, weight) in kinds {
        match at.checked_sub(weight) {
            Some(rest) => at = rest,
            None => return kind,
        }
    }
    kinds[0].0
}

/// A multiple of 2 MiB, the unit in which memory is lent.
fn memory(rng: &mut fastrand::Rng, mebibytes: RangeInclusive<u64>) -> u64 {
    rng.u64(mebibytes.start() / 2..=mebibytes.end() / 2) * 2 * MIB
}

/// A round in which a spawn that stamps an arena panics.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct StampRound {
    /// From 0.
    pub number: u64,
    /// How it ends: by a panic of whatever cause.
    pub kind: Kind,
    /// How long it stamps before, in microseconds.
    pub delay_us: u64,
}

impl Plan {
    /// The CPUs of an instance that stamps.
    pub fn stamp_cpus(&self, group: u64) -> Vec<u32> {
        let mut rng = generator(self.seed, 3, group);
        let mut cpus = self.cpus.clone();
        rng.shuffle(&mut cpus);
        cpus.truncate(rng.usize(1..=cpus.len().min(3)));
        cpus
    }

    /// A round of stamps, from 0.
    pub fn stamp_round(&self, number: u64) -> StampRound {
        let mut rng = generator(self.seed, 4, number);
        StampRound {
            number,
            kind: rng.choice(Kind::PANICS).unwrap_or(Kind::Panic),
            delay_us: rng.u64(0..300_000),
        }
    }

    fn shape(&self, group: u64) -> Shape {
        let mut rng = generator(self.seed, 1, group);
        let mut cpus = self.cpus.clone();
        rng.shuffle(&mut cpus);
        let stock = rng.u64(0..STOCK_EVERY) == 0 && self.stock;
        let count = rng.usize(1..=cpus.len().min(3));
        cpus.truncate(count);
        let kernel = match rng.u32(0..4) {
            _ if stock => Kernel::Stock,
            0 => Kernel::BzImage,
            _ => Kernel::Vmlinux,
        };
        let memory = match kernel {
            Kernel::Vmlinux => self.more_memory + memory(&mut rng, 64..=160),
            Kernel::BzImage => self.more_memory + memory(&mut rng, 96..=160),
            Kernel::Stock => memory(&mut rng, 320..=384),
        };
        Shape {
            kernel,
            memory,
            cpus,
        }
    }

    /// A round, from 0.
    pub fn round(&self, number: u64) -> Round {
        let group = number / GROUP;
        let shape = self.shape(group);
        let mut rng = generator(self.seed, 2, number);
        let kind = match shape.kernel {
            Kernel::Stock => weighted(&mut rng, &Kind::STOCK),
            _ => weighted(&mut rng, &Kind::GUEST),
        };
        Round {
            number,
            group,
            shape,
            kind,
            seed: rng.u64(..),
            boot_millionths: rng.u64(0..1_000_000),
            work_us: rng.u64(0..100_000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn plan(seed: u64) -> Plan {
        Plan {
            seed,
            cpus: vec![3, 4, 5],
            stock: true,
            more_memory: 0,
        }
    }

    #[test]
    fn a_round_follows_from_seed_and_number() {
        for number in [0, 7, 5000] {
            assert_eq!(plan(1).round(number), plan(1).round(number));
            assert_ne!(plan(1).round(number), plan(2).round(number));
        }
    }

    #[test]
    fn rounds_of_a_group_share_their_instance() {
        let plan = plan(3);
        for number in 0..GROUP * 20 {
            let first = number - number % GROUP;
            assert_eq!(plan.round(number).shape, plan.round(first).shape);
        }
    }

    #[test]
    fn everything_happens_and_in_bounds() {
        let plan = plan(4);
        let rounds: Vec<_> = (0..2000).map(|number| plan.round(number)).collect();
        let kinds: BTreeSet<_> = rounds.iter().map(|round| round.kind).collect();
        assert_eq!(kinds.len(), Kind::GUEST.len() + 1);
        for round in &rounds {
            let shape = &round.shape;
            assert!((1..=3).contains(&shape.cpus.len()));
            let distinct: BTreeSet<_> = shape.cpus.iter().collect();
            assert_eq!(distinct.len(), shape.cpus.len());
            assert!(shape.cpus.iter().all(|cpu| plan.cpus.contains(cpu)));
            assert_eq!(shape.memory % (2 * MIB), 0);
            let ends_itself =
                round.kind.expected() != Expected::Exactly(State::Stopped, Reason::Forced);
            assert!(shape.kernel != Kernel::Stock || !ends_itself);
        }
        for kernel in [Kernel::Vmlinux, Kernel::BzImage, Kernel::Stock] {
            assert!(rounds.iter().any(|round| round.shape.kernel == kernel));
        }
        let without = Plan {
            stock: false,
            ..plan
        };
        assert!((0..2000).all(|number| without.round(number).shape.kernel != Kernel::Stock));
    }

    #[test]
    fn stamps_end_by_panics() {
        let plan = plan(5);
        let rounds: Vec<_> = (0..500).map(|number| plan.stamp_round(number)).collect();
        let kinds: BTreeSet<_> = rounds.iter().map(|round| round.kind).collect();
        assert_eq!(kinds.len(), Kind::PANICS.len());
        let panic = Expected::Exactly(State::Crashed, Reason::Panic);
        assert!(kinds.iter().all(|kind| kind.expected() == panic));
        assert_eq!(rounds[7], plan.stamp_round(7));
        for group in 0..20 {
            let cpus = plan.stamp_cpus(group);
            let distinct: BTreeSet<_> = cpus.iter().collect();
            assert!((1..=3).contains(&distinct.len()) && distinct.len() == cpus.len());
        }
    }

    #[test]
    fn names() {
        assert_eq!(Kind::NullSoftirq.to_string(), "null-softirq");
        assert_eq!(plan(1).round(0).shape.to_string().split(' ').count(), 3);
    }
}
