// SPDX-License-Identifier: GPL-2.0

//! `CpuLedger` against a map.

use std::collections::BTreeMap;

use kernel::{
    alloc::FailNth,
    error::{code::*, Result}, //
};
use multikernel_pure::{
    cpu_ledger::{CpuLedger, CpuOwner},
    ledger::InstanceId,
};
use proptest::prelude::*;

const CPUS: u32 = 12;

#[derive(Clone, Debug)]
enum Step {
    Lend(Vec<u32>, InstanceId, Option<usize>),
    Set(u32, CpuOwner),
    Pass(Vec<u32>, InstanceId, InstanceId),
    GiveBack(u32, InstanceId),
}

fn id() -> impl Strategy<Value = InstanceId> {
    (3..=5u32).prop_map(|id| InstanceId::new(id).unwrap())
}

fn step() -> impl Strategy<Value = Step> {
    let owner = (id(), 0..3).prop_map(|(id, state)| match state {
        0 => CpuOwner::Lending(id),
        1 => CpuOwner::Instance(id),
        _ => CpuOwner::Returning(id),
    });
    prop_oneof![
        3 => (prop::collection::vec(0..CPUS, 0..5), id(), prop::option::weighted(0.3, 0..2usize))
            .prop_map(|(cpus, id, fails)| Step::Lend(cpus, id, fails)),
        2 => (0..CPUS, owner).prop_map(|(cpu, owner)| Step::Set(cpu, owner)),
        2 => (prop::collection::vec(0..CPUS, 0..4), id(), id())
            .prop_map(|(cpus, from, to)| Step::Pass(cpus, from, to)),
        3 => (0..CPUS, id()).prop_map(|(cpu, id)| Step::GiveBack(cpu, id)),
    ]
}

type Model = BTreeMap<u32, CpuOwner>;

fn lend(model: &mut Model, cpus: &[u32], id: InstanceId) -> Result {
    let mut sorted = cpus.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    if cpus.is_empty() || sorted.len() != cpus.len() {
        return Err(EINVAL);
    }
    if cpus.iter().any(|cpu| model.contains_key(cpu)) {
        return Err(EBUSY);
    }
    model.extend(cpus.iter().map(|&cpu| (cpu, CpuOwner::Lending(id))));
    Ok(())
}

fn pass(model: &mut Model, cpus: &[u32], from: InstanceId, to: InstanceId) -> Result {
    let has = |cpu: &u32| model.get(cpu) == Some(&CpuOwner::Instance(from));
    if !cpus.iter().all(has) {
        return Err(ENODEV);
    }
    model.extend(cpus.iter().map(|&cpu| (cpu, CpuOwner::Instance(to))));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn does_what_the_model_does(steps in prop::collection::vec(step(), 1..60)) {
        let mut ledger = CpuLedger::new();
        let mut model = Model::new();
        for step in &steps {
            match step {
                Step::Lend(cpus, id, fails) => {
                    let fail = fails.map(FailNth::after);
                    let got = ledger.lend(cpus, *id);
                    // Out of memory: the comparison below says that nothing was lent.
                    if got != Err(ENOMEM) || !fail.is_some_and(|fail| fail.has_failed()) {
                        prop_assert_eq!(got, lend(&mut model, cpus, *id));
                    }
                }
                Step::Set(cpu, owner) => {
                    ledger.set(*cpu, *owner);
                    // A CPU of the host's cannot be given away like this, nor another instance's.
                    model.entry(*cpu).and_modify(|was| {
                        if was.id() == owner.id() {
                            *was = *owner;
                        }
                    });
                }
                Step::Pass(cpus, from, to) => {
                    let got = ledger.pass(cpus, *from, *to);
                    prop_assert_eq!(got, pass(&mut model, cpus, *from, *to));
                }
                Step::GiveBack(cpu, id) => {
                    ledger.give_back(*cpu, *id);
                    if model.get(cpu).is_some_and(|owner| owner.id() == *id) {
                        model.remove(cpu);
                    }
                }
            }
            prop_assert_eq!(ledger.len(), model.len());
            for cpu in 0..CPUS {
                prop_assert_eq!(ledger.owner(cpu), model.get(&cpu).copied());
            }
        }
    }
}
