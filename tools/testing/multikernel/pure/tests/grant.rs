// SPDX-License-Identifier: GPL-2.0

//! `grant::Table` against spawns that keep to the rules, and hosts' instances that come and go in
//! any order: nobody is ever in memory that has been given back.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use kernel::error::code::*;
use multikernel_pure::link::grant::{
    in_order, new_lists, End, Lives, Party, Standing, Step, Table, REGIONS_MAX,
};
use proptest::prelude::*;

const INSTANCES: usize = 3;

/// What a spawn that runs has of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Use {
    /// It rings.
    Up,
    /// It has let go, but a program has it mapped.
    Mapped,
}

/// An instance and the spawn in it, if one runs.
#[derive(Clone, Debug)]
struct Instance {
    party: Party,
    life: u32,
    alive: bool,
    /// It runs, and has said that it takes part.
    up: bool,
    /// By epoch; what it heard, whether or not its answer arrived.
    links: BTreeMap<u32, (Party, Use)>,
}

struct World {
    instances: Vec<Instance>,
    table: Table<Region, usize>,
    pairs: Vec<[Party; 2]>,
    granted: BTreeSet<[u64; 2]>,
    next_serial: u64,
    last_epoch: u32,
    /// Epochs of the regions that have not been given back.
    regions: Rc<RefCell<BTreeSet<u32>>>,
}

/// The memory of a link; the last one that goes gives it back.
#[derive(Clone, Debug)]
struct Region(#[allow(dead_code)] Rc<Pages>);

#[derive(Debug)]
struct Pages {
    epoch: u32,
    all: Rc<RefCell<BTreeSet<u32>>>,
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.all.borrow_mut().remove(&self.epoch);
    }
}

struct Running<'a>(&'a [Instance]);

impl Running<'_> {
    fn find(&self, serial: u64) -> Option<&Instance> {
        self.0.iter().find(|it| it.party.serial == serial)
    }
}

impl Lives for Running<'_> {
    fn alive(&self, serial: u64) -> Option<u32> {
        let it = self.find(serial)?;
        it.alive.then_some(it.life)
    }

    fn up(&self, serial: u64) -> Option<u32> {
        let it = self.find(serial)?;
        (it.alive && it.up).then_some(it.life)
    }
}

/// How a call of a spawn goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answer {
    Done,
    /// It was heard, but the answer did not come in time.
    Late,
    /// It was not heard in time, and not at all.
    Lost,
    /// It does not want to; of an offer only.
    Refused,
}

#[derive(Clone, Debug)]
enum Event {
    Connect(usize, usize),
    Disconnect(usize, usize),
    Start(usize),
    Ready(usize),
    /// Its CPUs are being parked.
    Stopping(usize),
    Stop(usize),
    /// Is destroyed, and another one made in its place.
    Replace(usize),
    /// A program lets go of what it has mapped, and the host is told.
    Release(usize),
    /// Somebody looks after a pair, once.
    Look(usize, usize, Answer, [bool; 2]),
}

fn event() -> impl Strategy<Value = Event> {
    let at = || 0..INSTANCES;
    let answer = prop_oneof![
        6 => Just(Answer::Done),
        1 => Just(Answer::Late),
        1 => Just(Answer::Lost),
        1 => Just(Answer::Refused),
    ];
    let skip = prop::array::uniform2(prop::bool::weighted(0.1));
    prop_oneof![
        3 => (at(), at()).prop_map(|(a, b)| Event::Connect(a, b)),
        2 => (at(), at()).prop_map(|(a, b)| Event::Disconnect(a, b)),
        4 => at().prop_map(Event::Start),
        4 => at().prop_map(Event::Ready),
        1 => at().prop_map(Event::Stopping),
        3 => at().prop_map(Event::Stop),
        1 => at().prop_map(Event::Replace),
        3 => at().prop_map(Event::Release),
        24 => (at(), at(), answer, skip).prop_map(|(a, b, c, d)| Event::Look(a, b, c, d)),
    ]
}

impl World {
    fn new() -> Self {
        let mut table = Table::new();
        table.adopt(new_lists(64, 64).unwrap());
        let instances = (0..INSTANCES).map(|at| Instance {
            party: Party {
                serial: at as u64 + 1,
                id: at as u32 + 1,
            },
            life: 0,
            alive: false,
            up: false,
            links: BTreeMap::new(),
        });
        Self {
            instances: instances.collect(),
            table,
            pairs: Vec::new(),
            granted: BTreeSet::new(),
            next_serial: INSTANCES as u64 + 1,
            last_epoch: 0,
            regions: Rc::default(),
        }
    }

    fn party(&self, at: usize) -> Party {
        self.instances[at].party
    }

    fn key(&self, a: usize, b: usize) -> [u64; 2] {
        let mut key = [self.party(a).serial, self.party(b).serial];
        key.sort_unstable();
        key
    }

    fn do_event(&mut self, event: &Event) {
        match *event {
            Event::Connect(a, b) => {
                let expected = match (a == b, self.granted.contains(&self.key(a, b))) {
                    (true, _) => Err(EINVAL),
                    (_, true) => Err(EISCONN),
                    _ => Ok(()),
                };
                let (one, other) = (self.party(a), self.party(b));
                let result = self.table.connect(one, other, 0).map(|_| ());
                assert_eq!(result, expected);
                if result.is_ok() {
                    self.granted.insert(self.key(a, b));
                    self.pairs.push(in_order(one, other));
                }
            }
            Event::Disconnect(a, b) => {
                let expected = match (a == b, self.granted.contains(&self.key(a, b))) {
                    (true, _) => Err(EINVAL),
                    (_, false) => Err(ENOLINK),
                    _ => Ok(()),
                };
                let result = self.table.disconnect(self.party(a), self.party(b));
                assert_eq!(result.map(|_| ()), expected);
                self.granted.remove(&self.key(a, b));
            }
            Event::Start(at) => {
                let (instances, serial) = (&mut self.instances, at);
                let party = instances[serial].party;
                // As the host does: who was told of the life before must not ring this one.
                let settled = self.table.is_settled(party.serial, &Running(instances));
                if !instances[at].alive && settled {
                    instances[at].alive = true;
                    instances[at].up = false;
                    instances[at].life += 1;
                }
            }
            Event::Ready(at) => self.instances[at].up = self.instances[at].alive,
            Event::Stopping(at) => self.instances[at].up = false,
            Event::Stop(at) => {
                let it = &mut self.instances[at];
                (it.alive, it.up) = (false, false);
                it.links.clear();
            }
            Event::Replace(at) => {
                let serial = self.party(at).serial;
                if !self.instances[at].alive {
                    self.table.remove(serial);
                    self.granted.retain(|key| !key.contains(&serial));
                    self.instances[at].party.serial = self.next_serial;
                    self.instances[at].life = 0;
                    self.next_serial += 1;
                }
            }
            Event::Release(at) => {
                let it = &mut self.instances[at];
                let mapped = it.links.iter().find(|(_, link)| link.1 == Use::Mapped);
                if let Some((&epoch, _)) = mapped {
                    it.links.remove(&epoch);
                    self.table.released(epoch, it.party.id);
                }
            }
            Event::Look(a, b, answer, skip) => {
                let pair = in_order(self.party(a), self.party(b));
                self.look(pair, answer, skip);
            }
        }
    }

    /// One step for a pair; whether there was one.
    fn look(&mut self, pair: [Party; 2], answer: Answer, skip: [bool; 2]) -> bool {
        let step = self.table.next(pair, &Running(&self.instances), skip);
        match step {
            Step::Rest => return false,
            Step::Free(region) => drop(region),
            Step::Make(wanted) => {
                assert!(wanted.epoch > self.last_epoch, "epochs only grow");
                self.last_epoch = wanted.epoch;
                let lives = wanted.parties.map(|party| {
                    let running = Running(&self.instances);
                    running.up(party.serial).expect("both are up")
                });
                assert_eq!(lives, wanted.lives);
                let key = [wanted.parties[0].serial, wanted.parties[1].serial];
                let key = [key[0].min(key[1]), key[0].max(key[1])];
                assert!(self.granted.contains(&key), "made for who may");
                self.regions.borrow_mut().insert(wanted.epoch);
                let pages = Pages {
                    epoch: wanted.epoch,
                    all: self.regions.clone(),
                };
                self.table.made(wanted, Region(Rc::new(pages))).unwrap();
            }
            Step::Offer(end, _) => {
                assert!(!skip[end.side]);
                self.offer(end, answer);
            }
            Step::Withdraw(end) => {
                assert!(!skip[end.side]);
                self.withdraw(end, answer);
            }
        }
        true
    }

    fn spawn(&mut self, end: End) -> &mut Instance {
        let mut all = self.instances.iter_mut();
        let it = all.find(|it| it.party == end.party).expect("it is there");
        assert!(it.alive && it.up, "only who can hear is told");
        it
    }

    fn offer(&mut self, end: End, answer: Answer) {
        let it = self.spawn(end);
        if !matches!(answer, Answer::Lost | Answer::Refused) {
            let others = it.links.iter().filter(|(&epoch, link)| {
                link.0 == end.peer && link.1 == Use::Up && epoch != end.epoch //
            });
            assert_eq!(others.count(), 0, "the one before has been withdrawn");
            it.links.insert(end.epoch, (end.peer, Use::Up));
        }
        match answer {
            Answer::Done => self.table.offered(end, true),
            Answer::Refused => self.table.offered(end, false),
            Answer::Late | Answer::Lost => {}
        }
    }

    fn withdraw(&mut self, end: End, answer: Answer) {
        let it = self.spawn(end);
        if answer == Answer::Lost {
            return;
        }
        // Every second has a program that does not let go.
        let mapped = match it.links.get_mut(&end.epoch) {
            Some(link) if end.epoch % 2 == 1 => {
                link.1 = Use::Mapped;
                true
            }
            _ => {
                it.links.remove(&end.epoch);
                false
            }
        };
        if answer != Answer::Late {
            self.table.withdrawn(end, mapped);
        }
    }

    fn check(&self) {
        let regions = self.regions.borrow();
        for it in &self.instances {
            for (epoch, (peer, of)) in &it.links {
                assert!(regions.contains(epoch), "memory that was given back");
                let other = self.instances.iter().find(|other| other.party == *peer);
                // Who is settled is rung by nobody who was told of an earlier life.
                if let (Some(other), Use::Up) = (other, *of) {
                    let settled = self
                        .table
                        .is_settled(other.party.serial, &Running(&self.instances));
                    assert!(other.alive || !settled, "rings who is not there");
                }
            }
        }
        for listed in self.table.list() {
            assert_eq!(listed.standing == Standing::Up, listed.epoch != 0);
        }
        assert_eq!(self.table.list().count(), self.granted.len());
        assert!(regions.len() <= self.pairs.len() * REGIONS_MAX);
    }

    /// All steps for a pair, with answers at once.
    fn look_until_rest(&mut self, pair: [Party; 2]) {
        for _ in 0..100 {
            if !self.look(pair, Answer::Done, [false; 2]) {
                return;
            }
            self.check();
        }
        panic!("it does not come to an end");
    }

    /// Everybody answers, programs let go, until nothing is left to be done.
    fn settle(&mut self) {
        for _ in 0..100 {
            for pair in self.pairs.clone() {
                self.look_until_rest(pair);
            }
            let mut any = false;
            for at in 0..INSTANCES {
                let mut held = self.instances[at].links.values();
                any |= held.any(|link| link.1 == Use::Mapped);
                self.do_event(&Event::Release(at));
            }
            if !any {
                return;
            }
        }
        panic!("it does not come to an end");
    }
}

proptest! {
    #[test]
    fn nobody_is_where_nobody_is_to_be(events in prop::collection::vec(event(), 1..400)) {
        let mut world = World::new();
        for event in &events {
            world.do_event(event);
            world.check();
        }
        world.settle();

        // What is granted and up has one region, which both use, unless one of them refused; all
        // others are gone.
        let running = Running(&world.instances);
        let mut expected = BTreeSet::new();
        for listed in world.table.list() {
            let both = listed.ids.map(|id| {
                let mut all = world.instances.iter();
                let it = all.find(|it| it.party.id == id).unwrap();
                running.up(it.party.serial).is_some()
            });
            match listed.standing {
                Standing::Up => {
                    prop_assert_eq!(both, [true; 2]);
                    prop_assert!(expected.insert(listed.epoch));
                }
                Standing::Down => {
                    let refused = events
                        .iter()
                        .any(|event| matches!(event, Event::Look(_, _, Answer::Refused, _)));
                    prop_assert!(both != [true; 2] || refused);
                }
                Standing::Changing => {
                    // Only for one whose CPUs are not parked, and who cannot be asked.
                    let waits = world.instances.iter().any(|it| it.alive && !it.up);
                    prop_assert!(waits);
                }
            }
        }
        if world.instances.iter().all(|it| it.alive == it.up) {
            prop_assert_eq!(&*world.regions.borrow(), &expected);
        }
        for at in 0..INSTANCES {
            world.do_event(&Event::Stop(at));
        }
        world.settle();
        prop_assert!(world.regions.borrow().is_empty());
    }
}

fn pair() -> (World, [Party; 2]) {
    let mut world = World::new();
    let pair = [world.party(0), world.party(1)];
    for event in [
        Event::Connect(1, 0),
        Event::Start(0),
        Event::Start(1),
        Event::Ready(0),
    ] {
        world.do_event(&event);
    }
    (world, pair)
}

#[test]
fn a_link_is_made_when_both_are_up_and_made_anew_when_one_was_not() {
    let (mut world, pair) = pair();
    assert!(!world.look(pair, Answer::Done, [false; 2]));
    world.do_event(&Event::Ready(1));
    world.settle();
    let up = |world: &World| {
        let listed = world.table.list().next().unwrap();
        assert_eq!(listed.ids, [1, 2]);
        (listed.standing, listed.epoch)
    };
    assert_eq!(up(&world), (Standing::Up, 1));
    world.do_event(&Event::Stop(1));
    assert!(!world
        .table
        .is_settled(pair[1].serial, &Running(&world.instances)));
    world.settle();
    assert!(world
        .table
        .is_settled(pair[1].serial, &Running(&world.instances)));
    assert_eq!(up(&world), (Standing::Down, 0));
    assert!(world.regions.borrow().is_empty());
    world.do_event(&Event::Start(1));
    world.do_event(&Event::Ready(1));
    world.settle();
    assert_eq!(up(&world), (Standing::Up, 2));
}

#[test]
fn who_does_not_answer_gets_no_other_link_and_keeps_the_memory() {
    let (mut world, pair) = pair();
    world.do_event(&Event::Ready(1));
    world.settle();
    world.do_event(&Event::Stop(1));
    for _ in 0..3 {
        assert!(world.look(pair, Answer::Lost, [false; 2]));
    }
    assert!(!world.look(pair, Answer::Done, [true, false]));
    assert_eq!(world.regions.borrow().len(), 1);
    // The host has waited long enough, and starts it all the same.
    world.instances[1].alive = true;
    world.instances[1].up = true;
    world.instances[1].life += 1;
    assert!(!world.look(pair, Answer::Done, [true, false]));
    assert_eq!(world.last_epoch, 1);
    world.settle();
    assert_eq!(world.table.list().next().unwrap().epoch, 2);
    assert_eq!(world.regions.borrow().len(), 1);
}

#[test]
fn who_does_not_let_go_gets_only_so_many() {
    let (mut world, pair) = pair();
    world.do_event(&Event::Ready(1));
    for _ in 0..20 {
        world.look_until_rest(pair);
        world.do_event(&Event::Disconnect(0, 1));
        world.look_until_rest(pair);
        world.do_event(&Event::Connect(0, 1));
    }
    // Of each second nobody lets go.
    assert_eq!(world.regions.borrow().len(), REGIONS_MAX);
    world.settle();
    assert_eq!(world.regions.borrow().len(), 1);
}
