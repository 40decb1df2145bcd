// SPDX-License-Identifier: GPL-2.0

//! What the instance that takes another one's place is made of.
//!
//! Decisions only: who carries them out is `mkctl upgrade`.

use crate::device::{CpuInfo, InstanceInfo, Owner};
use crate::layout::FOUR_GIB;
use crate::spec::{MemoryRequest, Side};

/// The CPU on which the new kernel boots: the wanted one, or one that the host has to spare, on the
/// boot CPU's node if there is one.
///
/// # Errors
///
/// Why there is none, in words.
pub fn spare(machine: &[CpuInfo], old: &InstanceInfo, wanted: Option<u32>) -> Result<u32, String> {
    let free = |cpu: &&CpuInfo| cpu.cpu != 0 && cpu.owner == Owner::Host && cpu.online;
    if let Some(wanted) = wanted {
        let cpu = machine.iter().find(|cpu| cpu.cpu == wanted);
        return match cpu {
            None => Err(format!("there is no CPU {wanted}")),
            Some(cpu) if cpu.owner != Owner::Host => {
                Err(format!("CPU {wanted} is lent to instance {}", cpu.id))
            }
            Some(cpu) if !cpu.online => Err(format!("CPU {wanted} is offline")),
            Some(cpu) if cpu.cpu == 0 => Err("CPU 0 cannot be lent: the host needs it".to_owned()),
            Some(cpu) => Ok(cpu.cpu),
        };
    }
    let node = old.cpus.first().and_then(|cpu| cpu.node);
    let near = |cpu: &&CpuInfo| cpu.node == node;
    // From the end, as most take theirs from the beginning.
    let found = machine.iter().rev().filter(free).find(near);
    let found = found.or_else(|| machine.iter().rev().find(free));
    found
        .map(|cpu| cpu.cpu)
        .ok_or_else(|| "the host has no CPU to spare: all but CPU 0 are lent or offline".to_owned())
}

/// The old one's CPUs that the new one gets, so that it has as many in the end: one stays with the
/// old one, and goes to the host with it.
pub fn moved(old: &InstanceInfo) -> Vec<u32> {
    old.cpus.iter().skip(1).map(|cpu| cpu.cpu).collect()
}

/// Memory like that of the old one, at other addresses.
pub fn memory(old: &InstanceInfo) -> Vec<MemoryRequest> {
    let high = old.memory.iter().filter(|memory| !memory.low);
    high.map(|memory| MemoryRequest {
        bytes: memory.size,
        node: memory.node.and_then(|node| i32::try_from(node).ok()),
        base: None,
        // A kernel or its initrd may have to be there.
        side: match memory.range().end() <= FOUR_GIB {
            true => Side::Below4G,
            false => Side::Any,
        },
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{HangTimeout, MemoryInfo, Reason, State};

    fn cpu(cpu: u32, node: u32, id: u32) -> CpuInfo {
        CpuInfo {
            cpu,
            apic_id: cpu,
            node: Some(node),
            owner: if id == 0 {
                Owner::Host
            } else {
                Owner::Instance
            },
            id,
            online: id == 0,
        }
    }

    fn old(cpus: &[CpuInfo]) -> InstanceInfo {
        let memory = |base, low| MemoryInfo {
            base,
            size: 64 << 20,
            node: Some(1),
            owner: Owner::Instance,
            id: 3,
            boot: false,
            low,
        };
        InstanceInfo {
            id: 3,
            name: "web".to_owned(),
            state: State::Running,
            reason: Reason::None,
            epoch: 1,
            cpus: cpus.to_vec(),
            memory: vec![
                memory(1 << 30, false),
                memory(FOUR_GIB, false),
                memory(0x10000, true),
            ],
            shared_base: 0,
            shared_size: 0,
            entry: 0,
            image_bytes: 0,
            hang_timeout: Some(HangTimeout::Never),
        }
    }

    #[test]
    fn a_spare_cpu_is_the_hosts_and_near() {
        let web = old(&[cpu(2, 0, 3), cpu(3, 0, 3)]);
        let mut machine = vec![
            cpu(0, 0, 0),
            cpu(1, 0, 0),
            cpu(2, 0, 3),
            cpu(3, 0, 3),
            cpu(4, 1, 0),
        ];
        assert_eq!(spare(&machine, &web, None), Ok(1));
        assert_eq!(spare(&machine, &web, Some(4)), Ok(4));
        machine[1].online = false;
        assert_eq!(spare(&machine, &web, None), Ok(4));
        for (wanted, why) in [(0, "CPU 0"), (1, "offline"), (2, "lent"), (9, "no CPU 9")] {
            let said = spare(&machine, &web, Some(wanted)).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
        machine[4].online = false;
        assert!(spare(&machine, &web, None).unwrap_err().contains("spare"));
    }

    #[test]
    fn as_many_cpus_and_as_much_memory() {
        let web = old(&[cpu(2, 0, 3), cpu(3, 0, 3), cpu(5, 0, 3)]);
        assert_eq!(moved(&web), [3, 5]);
        assert!(moved(&old(&[cpu(2, 0, 3)])).is_empty());
        let memory = memory(&web);
        assert_eq!(memory.len(), 2);
        assert!(memory
            .iter()
            .all(|it| it.bytes == 64 << 20 && it.base.is_none() && it.node == Some(1)));
        assert_eq!(memory[0].side, Side::Below4G);
        assert_eq!(memory[1].side, Side::Any);
    }
}
