// SPDX-License-Identifier: GPL-2.0

//! `Arenas` and the ledger against a map of names.
//!
//! What must hold after every step: each arena's memory is the ledger's entry of that arena and of
//! nobody else, nothing that is open or granted to who runs has moved, and the sum of all that is
//! free, lent and in arenas is what the pool was given.

use std::collections::{BTreeMap, BTreeSet};

use kernel::error::{code::*, Error, Result};
use multikernel_pure::{
    handover::arenas::{Arenas, Place},
    ledger::{ArenaId, InstanceId, MemoryLedger, Owner, Region, Request},
};
use proptest::prelude::*;

const UNIT: u64 = 2 << 20;
const POOL: u64 = 24 * UNIT;
const NAMES: u8 = 4;
const INSTANCES: u32 = 3;

#[derive(Clone, Debug)]
enum Step {
    Create(u8, u64),
    Open(u8),
    Close(prop::sample::Index),
    Grant(u8, u32, bool),
    Revoke(u8, u32),
    /// Starts or ends an instance.
    Run(u32, bool),
    Destroy(u32),
    /// Takes an arena's memory out, to put it back, to remove it, or to resize it.
    TakeOut(u8),
    PutBack,
    Strike,
    Shorten(u64),
    Lengthen(u64),
    /// What an instance takes of the same pool.
    Lend(u32, u64),
}

fn step() -> impl Strategy<Value = Step> {
    let name = || 0..NAMES;
    let holder = || 1..=INSTANCES;
    let size = || (1..8u64).prop_map(|units| units * UNIT);
    prop_oneof![
        4 => (name(), size()).prop_map(|(name, size)| Step::Create(name, size)),
        3 => name().prop_map(Step::Open),
        3 => any::<prop::sample::Index>().prop_map(Step::Close),
        4 => (name(), holder(), any::<bool>()).prop_map(|(a, h, w)| Step::Grant(a, h, w)),
        2 => (name(), holder()).prop_map(|(a, h)| Step::Revoke(a, h)),
        3 => (holder(), any::<bool>()).prop_map(|(holder, runs)| Step::Run(holder, runs)),
        1 => holder().prop_map(Step::Destroy),
        4 => name().prop_map(Step::TakeOut),
        2 => Just(Step::PutBack),
        2 => Just(Step::Strike),
        2 => size().prop_map(Step::Shorten),
        2 => size().prop_map(Step::Lengthen),
        1 => (holder(), size()).prop_map(|(holder, size)| Step::Lend(holder, size)),
    ]
}

#[derive(Clone, Debug)]
struct Known {
    place: Place,
    /// Instances that may have it, and whether they may write.
    grants: BTreeMap<u32, bool>,
    files: usize,
    out: bool,
}

struct All {
    ledger: MemoryLedger,
    arenas: Arenas<u8, u32>,
    model: BTreeMap<u8, Known>,
    running: BTreeSet<u32>,
    /// Files that are open, by what they were told.
    files: Vec<(u8, Place)>,
    /// What has been taken out.
    out: Option<(u8, ArenaId, Region)>,
    lent: Vec<Region>,
    ids: BTreeSet<u32>,
}

impl All {
    fn new() -> Self {
        let mut ledger = MemoryLedger::new(UNIT);
        ledger.insert(64 * UNIT, POOL, 0, false).unwrap();
        Self {
            ledger,
            arenas: Arenas::new(),
            model: BTreeMap::new(),
            running: BTreeSet::new(),
            files: Vec::new(),
            out: None,
            lent: Vec::new(),
            ids: BTreeSet::new(),
        }
    }

    fn used(&self, known: &Known) -> bool {
        known.files != 0 || known.grants.keys().any(|it| self.running.contains(it))
    }

    /// What a step on an arena of this name has to fail with, before anything else is looked at.
    fn usable(&self, name: u8) -> Result<&Known, Error> {
        match self.model.get(&name) {
            None => Err(ENOENT),
            Some(known) if known.out => Err(EBUSY),
            Some(known) => Ok(known),
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Create(name, size) => {
                let request = Request {
                    size,
                    ..Request::default()
                };
                let (ledger, exists) = (&mut self.ledger, self.model.contains_key(&name));
                match self.arenas.create(name, |id| ledger.take(&request, id)) {
                    Ok(place) => {
                        assert!(!exists && place.size == size);
                        assert!(self.ids.insert(place.id.get()), "an id came again");
                        let known = Known {
                            place,
                            grants: BTreeMap::new(),
                            files: 0,
                            out: false,
                        };
                        self.model.insert(name, known);
                    }
                    Err(error) if exists => assert_eq!(error, EEXIST),
                    Err(error) => assert_eq!(error, ENOSPC),
                }
            }
            Step::Open(name) => {
                let expected = self.usable(name).map(|known| known.place);
                assert_eq!(self.arenas.open(&name), expected);
                if let Ok(place) = expected {
                    self.model.get_mut(&name).unwrap().files += 1;
                    self.files.push((name, place));
                }
            }
            Step::Close(_) if self.files.is_empty() => {}
            Step::Close(which) => {
                let (name, place) = self.files.swap_remove(which.index(self.files.len()));
                self.arenas.close(place.id);
                self.model.get_mut(&name).unwrap().files -= 1;
            }
            Step::Grant(name, holder, writable) => {
                let runs = self.running.contains(&holder);
                let got = self.arenas.grant(&name, holder, writable, runs);
                match self.model.get_mut(&name) {
                    None => assert_eq!(got, Err(ENOENT)),
                    Some(known)
                        if known.grants.get(&holder) == Some(&true) && !writable && runs =>
                    {
                        assert_eq!(got, Err(EBUSY));
                    }
                    Some(known) => {
                        assert_eq!(got, Ok(()));
                        known.grants.insert(holder, writable);
                    }
                }
            }
            Step::Revoke(name, holder) => {
                let runs = self.running.contains(&holder);
                let got = self.arenas.revoke(&name, holder, runs);
                let granted = self.usable(name).map(|it| it.grants.contains_key(&holder));
                match granted {
                    Err(ENOENT) => assert_eq!(got, Err(ENOENT)),
                    Err(_) => assert!(got == Err(EBUSY) || got == Err(EACCES)),
                    Ok(false) => assert_eq!(got, Err(EACCES)),
                    Ok(true) if runs => assert_eq!(got, Err(EBUSY)),
                    Ok(true) => {
                        assert_eq!(got, Ok(()));
                        self.model.get_mut(&name).unwrap().grants.remove(&holder);
                    }
                }
            }
            Step::Run(holder, true) => drop(self.running.insert(holder)),
            Step::Run(holder, false) => drop(self.running.remove(&holder)),
            Step::Destroy(holder) => {
                self.running.remove(&holder);
                self.arenas.forget(holder);
                for known in self.model.values_mut() {
                    known.grants.remove(&holder);
                }
            }
            Step::TakeOut(name) => {
                let running = &self.running;
                let got = self.arenas.take_out(&name, |it| running.contains(&it));
                match self.usable(name) {
                    Err(error) => assert_eq!(got.err(), Some(error)),
                    Ok(known) if self.used(known) => assert_eq!(got.err(), Some(EBUSY)),
                    Ok(_) => {
                        let (id, region) = got.unwrap();
                        if self.out.is_some() {
                            assert!(self.arenas.put_back(id, region).is_none());
                            return;
                        }
                        self.model.get_mut(&name).unwrap().out = true;
                        self.out = Some((name, id, region));
                    }
                }
            }
            Step::PutBack => self.put_back(),
            Step::Strike => {
                if let Some((name, id, region)) = self.out.take() {
                    self.arenas.strike(id);
                    assert!(self.ledger.give_back(region));
                    self.model.remove(&name);
                }
            }
            Step::Shorten(size) => {
                if let Some((_, _, region)) = &mut self.out {
                    if let Ok(rest) = self.ledger.split(region, size) {
                        assert!(self.ledger.give_back(rest));
                    }
                }
            }
            Step::Lengthen(more) => {
                if let Some((_, _, region)) = &mut self.out {
                    let _ = self.ledger.extend(region, more);
                }
            }
            Step::Lend(holder, size) => {
                let request = Request {
                    size,
                    ..Request::default()
                };
                let id = InstanceId::new(u32::from(InstanceId::MIN) + holder).unwrap();
                if let Ok(region) = self.ledger.take(&request, id) {
                    self.lent.push(region);
                }
            }
        }
    }

    fn put_back(&mut self) {
        if let Some((name, id, region)) = self.out.take() {
            let known = self.model.get_mut(&name).unwrap();
            known.out = false;
            known.place.base = region.base();
            known.place.size = region.size();
            assert!(self.arenas.put_back(id, region).is_none());
        }
    }

    fn check(&self) {
        assert_eq!(self.arenas.list().len(), self.model.len());
        let mut in_arenas = 0;
        for arena in self.arenas.list() {
            let known = &self.model[&arena.name];
            assert_eq!((arena.place(), arena.files()), (known.place, known.files));
            assert_eq!(self.arenas.grants_of(known.place.id), known.grants.len());
            let (base, size) = match &self.out {
                Some((name, _, region)) if *name == arena.name => (region.base(), region.size()),
                _ => (known.place.base, known.place.size),
            };
            let mut own = self.ledger.entries().iter();
            let own: Vec<_> = own
                .by_ref()
                .filter(|entry| entry.owner == Owner::Arena(known.place.id))
                .map(|entry| (entry.base, entry.size))
                .collect();
            assert_eq!(own, [(base, size)]);
            in_arenas += size;

            for holder in 1..=INSTANCES {
                let got = self.arenas.granted(&arena.name, holder);
                match known.grants.get(&holder) {
                    None => assert_eq!(got.err(), Some(EACCES)),
                    Some(_) if known.out => assert_eq!(got.err(), Some(EBUSY)),
                    Some(writable) => {
                        let (grant, place) = got.unwrap();
                        assert_eq!((grant.writable, place), (*writable, known.place));
                    }
                }
            }
        }
        for (name, place) in &self.files {
            assert_eq!(self.model[name].place, *place, "moved while it is open");
        }
        let lent: u64 = self.lent.iter().map(Region::size).sum();
        assert_eq!(self.ledger.free_bytes() + lent + in_arenas, POOL);
        let of_nobody = |arena| self.model.values().all(|known| known.place.id != arena);
        for entry in self.ledger.entries() {
            assert!(!matches!(entry.owner, Owner::Arena(id) if of_nobody(id)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1000,
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn no_memory_is_free_and_used(steps in prop::collection::vec(step(), 1..100)) {
        let mut all = All::new();
        for step in &steps {
            all.step(step);
            all.check();
        }
        // Whatever happened, all of it can be undone.
        all.put_back();
        all.running.clear();
        for (_, place) in std::mem::take(&mut all.files) {
            all.arenas.close(place.id);
        }
        for known in all.model.values_mut() {
            known.files = 0;
        }
        for name in all.model.keys().copied().collect::<Vec<_>>() {
            all.step(&Step::TakeOut(name));
            all.step(&Step::Strike);
        }
        for region in std::mem::take(&mut all.lent) {
            prop_assert!(all.ledger.give_back(region));
        }
        all.check();
        prop_assert_eq!(all.ledger.entries().len(), 1);
        prop_assert!(all.arenas.grants().is_empty());
    }
}
