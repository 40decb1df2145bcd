// SPDX-License-Identifier: GPL-2.0

//! Who has which CPU.
//!
//! A [`CpuLedger`] holds every CPU that is not the host's. The CPU itself is a value of the type
//! `Cpu`, in cpu.rs; here it is written down who is to have that. Nothing here sleeps but for
//! memory allocation, touches hardware or takes a lock: the registry's mutex guards it.
//!
//! The file is pure: it is compiled into the kernel and into the test workspace.

// `pub`, not `pub(crate)`: in the test workspace the file is a library's.
#![allow(unreachable_pub)]

use kernel::prelude::*;

use crate::{
    ledger::InstanceId,
    room, //
};

/// What is happening with a CPU that is not the host's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CpuOwner {
    /// On its way from the host to the instance. The host must not start it.
    Lending(InstanceId),
    /// The instance has it.
    Instance(InstanceId),
    /// On its way back: parked, and the host may start it.
    Returning(InstanceId),
}

impl CpuOwner {
    /// The instance that it goes to, is with, or comes from.
    pub fn id(self) -> InstanceId {
        match self {
            Self::Lending(id) | Self::Instance(id) | Self::Returning(id) => id,
        }
    }
}

/// CPUs that are not the host's, by the host's CPU number.
///
/// # Invariants
///
/// No CPU is in it twice.
pub struct CpuLedger {
    entries: KVec<(u32, CpuOwner)>,
}

impl CpuLedger {
    /// All CPUs are the host's.
    pub const fn new() -> Self {
        Self {
            entries: KVec::new(),
        }
    }

    /// As [`room::lacks`], for the list of CPUs.
    pub fn lacks(&self, more: usize) -> Option<usize> {
        room::lacks(&self.entries, more)
    }

    /// As [`room::adopt`].
    pub fn adopt(&mut self, larger: KVec<(u32, CpuOwner)>) {
        room::adopt(&mut self.entries, larger);
    }

    /// Who has the CPU; `None` means the host.
    pub fn owner(&self, cpu: u32) -> Option<CpuOwner> {
        self.entries
            .iter()
            .find(|(number, _)| *number == cpu)
            .map(|&(_, owner)| owner)
    }

    /// Number of CPUs that the host does not have.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Writes down that these CPUs leave the host for an instance: all of them or, on an error,
    /// none.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there is none or one is given twice, `EBUSY` if one is not the host's, `ENOMEM`.
    pub fn lend(&mut self, cpus: &[u32], id: InstanceId) -> Result {
        let twice = |(i, cpu): (usize, &u32)| cpus.iter().take(i).any(|other| other == cpu);
        if cpus.is_empty() || cpus.iter().enumerate().any(twice) {
            return Err(EINVAL);
        }
        if cpus.iter().any(|&cpu| self.owner(cpu).is_some()) {
            return Err(EBUSY);
        }
        self.entries.reserve(cpus.len(), GFP_KERNEL)?;
        for &cpu in cpus {
            self.entries
                .push_within_capacity((cpu, CpuOwner::Lending(id)))
                .map_err(|_| ENOMEM)?;
        }
        Ok(())
    }

    /// Changes what is written of a CPU, if it is written to be the same instance's.
    pub fn set(&mut self, cpu: u32, owner: CpuOwner) {
        let same = |entry: &&mut (u32, CpuOwner)| entry.0 == cpu && entry.1.id() == owner.id();
        if let Some(entry) = self.entries.iter_mut().find(same) {
            entry.1 = owner;
        }
    }

    /// Writes down that these CPUs go from one instance to another: all of them or, on an error,
    /// none.
    ///
    /// # Errors
    ///
    /// `ENODEV` if the first instance does not have one of them.
    pub fn pass(&mut self, cpus: &[u32], from: InstanceId, to: InstanceId) -> Result {
        let has = |&cpu: &u32| self.owner(cpu) == Some(CpuOwner::Instance(from));
        if !cpus.iter().all(has) {
            return Err(ENODEV);
        }
        for entry in self.entries.iter_mut() {
            if cpus.contains(&entry.0) {
                entry.1 = CpuOwner::Instance(to);
            }
        }
        Ok(())
    }

    /// The CPU is the host's again, if it is written to be this instance's: it may have been lent
    /// to another one since.
    pub fn give_back(&mut self, cpu: u32, id: InstanceId) {
        self.entries
            .retain(|entry| entry.0 != cpu || entry.1.id() != id);
    }
}

#[cfg(CONFIG_MULTIKERNEL_KUNIT_TEST)]
#[kunit_tests(multikernel_cpu_ledger)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_lent_once() -> Result {
        let one = InstanceId::new(3).ok_or(EINVAL)?;
        let two = InstanceId::new(4).ok_or(EINVAL)?;
        let mut ledger = CpuLedger::new();
        assert_eq!(ledger.lend(&[], one), Err(EINVAL));
        assert_eq!(ledger.lend(&[2, 3, 2], one), Err(EINVAL));
        ledger.lend(&[2, 3], one)?;
        assert_eq!(ledger.lend(&[1, 3], two), Err(EBUSY));
        assert_eq!(ledger.owner(1), None);
        assert_eq!(ledger.owner(3), Some(CpuOwner::Lending(one)));
        ledger.set(3, CpuOwner::Instance(one));
        assert_eq!(ledger.owner(3), Some(CpuOwner::Instance(one)));
        ledger.set(3, CpuOwner::Returning(two));
        ledger.give_back(3, two);
        assert_eq!(ledger.owner(3), Some(CpuOwner::Instance(one)));
        ledger.give_back(3, one);
        assert_eq!(ledger.owner(3), None);
        assert_eq!(ledger.len(), 1);
        Ok(())
    }

    #[test]
    fn cpus_are_passed_on_all_or_none() -> Result {
        let one = InstanceId::new(3).ok_or(EINVAL)?;
        let two = InstanceId::new(4).ok_or(EINVAL)?;
        let mut ledger = CpuLedger::new();
        ledger.lend(&[2, 3, 4], one)?;
        ledger.set(2, CpuOwner::Instance(one));
        ledger.set(3, CpuOwner::Instance(one));
        // One is still on its way, one is the host's, one is the other's already.
        assert_eq!(ledger.pass(&[2, 4], one, two), Err(ENODEV));
        assert_eq!(ledger.pass(&[2, 5], one, two), Err(ENODEV));
        assert_eq!(ledger.owner(2), Some(CpuOwner::Instance(one)));
        ledger.pass(&[2], one, two)?;
        assert_eq!(ledger.pass(&[3, 2], one, two), Err(ENODEV));
        assert_eq!(ledger.owner(2), Some(CpuOwner::Instance(two)));
        assert_eq!(ledger.owner(3), Some(CpuOwner::Instance(one)));
        assert_eq!(ledger.len(), 3);
        Ok(())
    }
}
