// SPDX-License-Identifier: GPL-2.0

//! Which instances may talk to each other, and in which memory they do. The pure part.
//!
//! A [`Table`] has the grants, each of a pair of instances, and the regions that were made for
//! them, each for one life of one and one life of the other. A grant is kept over any number of
//! lives until it is revoked or one of the two is destroyed; a region ends with the first of its
//! lives, or with the grant. What has to be done next for a pair is what [`Table::next`] says;
//! who does it says how it went. The memory of a region is given back only when nobody can use it
//! any more: each side has been told of it never, has said that it let go of it, or has ended.
//!
//! Nothing here sleeps, allocates unasked or takes a lock: the registry's mutex guards it. The file
//! is compiled into the kernel and into the test workspace.

// `pub`, not `pub(crate)`: in the test workspace the file is a library's.
#![allow(unreachable_pub)]

use kernel::prelude::*;

use crate::room;

/// Regions of one pair that there are at most, those included that somebody still holds: a spawn
/// whose programs do not let go gets no more.
pub const REGIONS_MAX: usize = 4;

/// An instance: its id may be another's later, its serial number is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Party {
    /// The serial number.
    pub serial: u64,
    /// The id.
    pub id: u32,
}

/// What the table has to know of instances.
pub trait Lives {
    /// The life of an instance in which a CPU of it may be at work; `None` if there is none.
    fn alive(&self, serial: u64) -> Option<u32>;
    /// The life that can be told something: it runs, and takes part in links to its siblings.
    fn up(&self, serial: u64) -> Option<u32>;
}

/// How one side stands to a region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hold {
    /// It has not been told of it.
    Untold,
    /// It has been told of it, and whether it has heard that is not known.
    Told,
    /// It has said that it uses it.
    Joined,
    /// It has said that it rings nobody for it any more; the memory is still mapped there.
    Withdrawn,
    /// It does not touch it any more.
    Free,
}

impl Hold {
    /// Whether the side may be ringing the other one's CPUs.
    fn may_ring(self) -> bool {
        matches!(self, Self::Told | Self::Joined)
    }
}

/// A region, and what has become of it.
struct Record<R> {
    parties: [Party; 2],
    lives: [u32; 2],
    epoch: u32,
    holds: [Hold; 2],
    /// Whether the side has said that the memory is not mapped there any more.
    released: [bool; 2],
    /// Whether it is to be used. Once it is not, never again.
    open: bool,
    region: R,
}

/// That two instances may talk to each other.
struct Grant<W> {
    parties: [Party; 2],
    /// Not revoked. A revoked one is there as long as regions are.
    granted: bool,
    /// The lives of the two of which one has refused the region.
    refused: Option<[u32; 2]>,
    worker: W,
}

/// A region that is to be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// For whom, in the order of the region's sides.
    pub parties: [Party; 2],
    /// In which lives.
    pub lives: [u32; 2],
    /// The region's epoch: higher than that of any before.
    pub epoch: u32,
}

/// One side of a region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct End {
    /// The region's epoch.
    pub epoch: u32,
    /// Which side of it, 0 or 1.
    pub side: usize,
    /// Who has that side.
    pub party: Party,
    /// Who has the other side.
    pub peer: Party,
}

/// What is to be done next for a pair.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<R> {
    /// Make a region, and say [`Table::made`].
    Make(Wanted),
    /// Tell a side of the region, and say [`Table::offered`].
    Offer(End, R),
    /// Have a side let go of the region, and say [`Table::withdrawn`].
    Withdraw(End),
    /// Give back the memory of the region: nobody uses it.
    Free(R),
    /// Nothing, until something changes.
    Rest,
}

/// How it stands with a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It is granted, and there is none: one of the two does not take part.
    Down,
    /// Both use it.
    Up,
    /// It is being taken up or given up, and a side has not answered yet.
    Changing,
}

/// A line of the list of grants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listed {
    /// The two ids, in the order of the sides.
    pub ids: [u32; 2],
    /// How it stands.
    pub standing: Standing,
    /// The epoch of the region that is in use, 0 if there is none.
    pub epoch: u32,
}

/// Grants and regions. `R` is a region, `W` what looks after a pair.
///
/// # Invariants
///
/// No pair has two grants. Each region's pair has a grant, if only a revoked one, and at most one
/// region that is open or in which a side may ring the other.
pub struct Table<R, W> {
    grants: KVec<Grant<W>>,
    records: KVec<Record<R>>,
    /// The epoch that was given out last.
    epoch: u32,
}

/// The pair in the order of its region's sides: the lower id is side 0.
pub fn in_order(one: Party, other: Party) -> [Party; 2] {
    if one.id <= other.id {
        [one, other]
    } else {
        [other, one]
    }
}

impl<R: Clone, W: Clone> Table<R, W> {
    /// No grants.
    pub const fn new() -> Self {
        Self {
            grants: KVec::new(),
            records: KVec::new(),
            epoch: 0,
        }
    }

    /// As [`room::lacks`], for the list of grants.
    pub fn lacks_grants(&self, more: usize) -> Option<usize> {
        room::lacks(&self.grants, more)
    }

    /// As [`room::lacks`], for the list of regions.
    pub fn lacks_regions(&self, more: usize) -> Option<usize> {
        room::lacks(&self.records, more)
    }

    /// Gives the lists more room; the new ones are empty, and come from [`new_lists`].
    pub fn adopt(&mut self, lists: Lists<R, W>) {
        room::adopt(&mut self.grants, lists.grants);
        room::adopt(&mut self.records, lists.records);
    }

    fn grant(&mut self, pair: [Party; 2]) -> Option<&mut Grant<W>> {
        let mut grants = self.grants.iter_mut();
        grants.find(|grant| grant.parties == pair)
    }

    /// Lets two instances talk to each other; who looks after the pair is returned. There is room
    /// for one more.
    ///
    /// # Errors
    ///
    /// `EINVAL` if they are the same, `EISCONN` if they may already, `ENOMEM` without room.
    pub fn connect(&mut self, one: Party, other: Party, worker: W) -> Result<W> {
        if one == other {
            return Err(EINVAL);
        }
        let pair = in_order(one, other);
        if let Some(grant) = self.grant(pair) {
            if grant.granted {
                return Err(EISCONN);
            }
            // What is left of the one before is still being cleared away.
            grant.granted = true;
            grant.refused = None;
            return Ok(grant.worker.clone());
        }
        let grant = Grant {
            parties: pair,
            granted: true,
            refused: None,
            worker: worker.clone(),
        };
        let pushed = self.grants.push_within_capacity(grant);
        pushed.map_err(|_| ENOMEM)?;
        Ok(worker)
    }

    /// Revokes a grant; who is to clear away what is left of it is returned.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the two are the same, `ENOLINK` if there is no grant.
    pub fn disconnect(&mut self, one: Party, other: Party) -> Result<W> {
        if one == other {
            return Err(EINVAL);
        }
        let grant = self.grant(in_order(one, other)).filter(|it| it.granted);
        let grant = grant.ok_or(ENOLINK)?;
        grant.granted = false;
        Ok(grant.worker.clone())
    }

    /// An instance is destroyed: revokes all grants that it has.
    pub fn remove(&mut self, serial: u64) {
        for grant in &mut self.grants {
            if grant.parties.iter().any(|party| party.serial == serial) {
                grant.granted = false;
            }
        }
    }

    /// Calls `each` with who looks after the pairs that an instance is in.
    pub fn for_each_of(&self, serial: u64, mut each: impl FnMut(&W)) {
        for grant in &self.grants {
            if grant.parties.iter().any(|party| party.serial == serial) {
                each(&grant.worker);
            }
        }
    }

    /// Calls `each` with the regions of a life that has ended, and the side that it had there.
    pub fn for_each_region(&self, serial: u64, life: u32, mut each: impl FnMut(&R, usize)) {
        for record in &self.records {
            for side in 0..2 {
                if (record.parties[side].serial, record.lives[side]) == (serial, life) {
                    each(&record.region, side);
                }
            }
        }
    }

    /// Whether no life of another instance may ring CPUs of an instance for what was said to an
    /// earlier life of it. `lives` says which life of it runs, if one does.
    pub fn is_settled(&self, serial: u64, lives: &impl Lives) -> bool {
        let unsettled = |record: &Record<R>, side: usize| {
            let (other, life) = (side ^ 1, record.lives[side]);
            record.parties[side].serial == serial
                && lives.alive(serial) != Some(life)
                && record.holds[other].may_ring()
                && lives.alive(record.parties[other].serial) == Some(record.lives[other])
        };
        let mut records = self.records.iter();
        !records.any(|record| unsettled(record, 0) || unsettled(record, 1))
    }

    /// Whether a pair's revoked grant has been carried out: neither rings the other.
    pub fn is_over(&self, one: Party, other: Party, lives: &impl Lives) -> bool {
        let pair = in_order(one, other);
        let mut records = self.records.iter().filter(|it| it.parties == pair);
        !records.any(|record| {
            (0..2).any(|side| {
                record.holds[side].may_ring()
                    && lives.alive(record.parties[side].serial) == Some(record.lives[side])
            })
        })
    }

    /// What is to be done next for a pair, leaving alone what has to do with the sides in `skip`.
    /// Room for one more region is there, or none is made.
    pub fn next(&mut self, pair: [Party; 2], lives: &impl Lives, skip: [bool; 2]) -> Step<R> {
        let Some(grant) = self.grants.iter().find(|grant| grant.parties == pair) else {
            return Step::Rest;
        };
        let (granted, refused) = (grant.granted, grant.refused);
        let up = pair.map(|party| lives.up(party.serial));
        let mut busy = false;
        let mut regions = 0;
        let mut free = None;
        let of_pair = |(_, record): &(usize, &mut Record<R>)| record.parties == pair;
        for (at, record) in self.records.iter_mut().enumerate().filter(of_pair) {
            regions += 1;
            let is_up = |side: usize| up[side] == Some(record.lives[side]);
            record.open &= granted && is_up(0) && is_up(1);
            for side in 0..2 {
                let end = End {
                    epoch: record.epoch,
                    side,
                    party: pair[side],
                    peer: pair[side ^ 1],
                };
                let hold = &mut record.holds[side];
                if lives.alive(pair[side].serial) != Some(record.lives[side]) {
                    *hold = Hold::Free;
                }
                match *hold {
                    Hold::Untold | Hold::Told if record.open && !skip[side] => {
                        *hold = Hold::Told;
                        return Step::Offer(end, record.region.clone());
                    }
                    Hold::Untold if !record.open => *hold = Hold::Free,
                    Hold::Told | Hold::Joined if !record.open => {
                        if is_up(side) && !skip[side] {
                            return Step::Withdraw(end);
                        }
                        busy = true;
                    }
                    _ => {}
                }
            }
            busy |= record.open;
            if record.holds == [Hold::Free; 2] {
                free = Some(at);
            }
        }
        if let Some(record) = free.and_then(|at| self.records.remove(at).ok()) {
            return Step::Free(record.region);
        }
        if !granted && regions == 0 {
            self.grants.retain(|grant| grant.parties != pair);
            return Step::Rest;
        }
        let (true, [Some(one), Some(other)]) = (granted && !busy && regions < REGIONS_MAX, up)
        else {
            return Step::Rest;
        };
        if refused == Some([one, other]) || self.lacks_regions(1).is_some() {
            return Step::Rest;
        }
        let Some(epoch) = self.epoch.checked_add(1) else {
            return Step::Rest;
        };
        self.epoch = epoch;
        Step::Make(Wanted {
            parties: pair,
            lives: [one, other],
            epoch,
        })
    }

    /// The region that was wanted is there. There is room for it.
    ///
    /// # Errors
    ///
    /// `ENOMEM` without room: the region is nobody's.
    pub fn made(&mut self, wanted: Wanted, region: R) -> Result {
        // After a disconnect and another connect two workers may have been told to make one.
        let other = |it: &Record<R>| {
            it.parties == wanted.parties && (it.open || it.holds.iter().any(|hold| hold.may_ring()))
        };
        if self.records.iter().any(other) {
            return Ok(());
        }
        let record = Record {
            parties: wanted.parties,
            lives: wanted.lives,
            epoch: wanted.epoch,
            holds: [Hold::Untold; 2],
            released: [false; 2],
            open: true,
            region,
        };
        let pushed = self.records.push_within_capacity(record);
        pushed.map_err(|_| ENOMEM)
    }

    fn record(&mut self, epoch: u32) -> Option<&mut Record<R>> {
        let mut records = self.records.iter_mut();
        records.find(|record| record.epoch == epoch)
    }

    /// A side has said that it uses the region, or, if not `joined`, that it does not want to: in
    /// these lives there is no link then.
    pub fn offered(&mut self, end: End, joined: bool) {
        let Some(record) = self.record(end.epoch) else {
            return;
        };
        let hold = &mut record.holds[end.side & 1];
        if joined && *hold == Hold::Told {
            *hold = Hold::Joined;
        } else if !joined {
            // It may have been said twice, and the first time have been heard: it stays told.
            record.open = false;
            let (parties, lives) = (record.parties, record.lives);
            if let Some(grant) = self.grant(parties) {
                grant.refused = Some(lives);
            }
        }
    }

    /// A side has said that it rings nobody for the region any more, and whether it has the memory
    /// mapped still.
    pub fn withdrawn(&mut self, end: End, mapped: bool) {
        if let Some(record) = self.record(end.epoch) {
            let (hold, released) = (
                &mut record.holds[end.side & 1],
                record.released[end.side & 1],
            );
            if *hold != Hold::Free {
                *hold = if mapped && !released {
                    Hold::Withdrawn
                } else {
                    Hold::Free
                };
            }
        }
    }

    /// An instance has said that the memory of a region is not mapped there any more; who looks
    /// after the pair is returned, if there is such a region.
    pub fn released(&mut self, epoch: u32, id: u32) -> Option<W> {
        let record = self.record(epoch)?;
        let side = record.parties.iter().position(|party| party.id == id)?;
        record.released[side] = true;
        if record.holds[side] == Hold::Withdrawn {
            record.holds[side] = Hold::Free;
        }
        let parties = record.parties;
        Some(self.grant(parties)?.worker.clone())
    }

    /// What is granted.
    pub fn list(&self) -> impl Iterator<Item = Listed> + '_ {
        let granted = self.grants.iter().filter(|grant| grant.granted);
        granted.map(|grant| {
            let of_pair = |record: &&Record<R>| record.parties == grant.parties;
            let mut listed = Listed {
                ids: grant.parties.map(|party| party.id),
                standing: Standing::Down,
                epoch: 0,
            };
            for record in self.records.iter().filter(of_pair) {
                if record.open && record.holds == [Hold::Joined; 2] {
                    listed.standing = Standing::Up;
                    listed.epoch = record.epoch;
                } else if record.open || record.holds.iter().any(|hold| hold.may_ring()) {
                    listed.standing = Standing::Changing;
                }
            }
            listed
        })
    }

    /// The regions whose memory has not been given back.
    pub fn regions(&self) -> impl Iterator<Item = &R> + '_ {
        self.records.iter().map(|record| &record.region)
    }
}

/// Room for a [`Table`], made without the lock that guards it.
pub struct Lists<R, W> {
    grants: KVec<Grant<W>>,
    records: KVec<Record<R>>,
}

/// Empty lists of these capacities.
///
/// # Errors
///
/// `ENOMEM`.
pub fn new_lists<R, W>(grants: usize, regions: usize) -> Result<Lists<R, W>> {
    Ok(Lists {
        grants: KVec::with_capacity(grants, GFP_KERNEL)?,
        records: KVec::with_capacity(regions, GFP_KERNEL)?,
    })
}

#[cfg(CONFIG_MULTIKERNEL_KUNIT_TEST)]
#[kunit_tests(multikernel_link_grant)]
mod tests {
    use super::*;

    const ONE: Party = Party { serial: 1, id: 9 };
    const OTHER: Party = Party { serial: 2, id: 4 };
    const PAIR: [Party; 2] = [OTHER, ONE];

    /// The lives of the two that run, and are up: 0 is none.
    struct Running([u32; 2]);

    impl Lives for Running {
        fn alive(&self, serial: u64) -> Option<u32> {
            let life = self.0[usize::from(serial == OTHER.serial)];
            (life != 0).then_some(life)
        }

        fn up(&self, serial: u64) -> Option<u32> {
            self.alive(serial)
        }
    }

    fn table() -> Result<Table<u32, ()>> {
        let mut table = Table::new();
        table.adopt(new_lists(1, 1)?);
        Ok(table)
    }

    #[test]
    fn a_pair_is_connected_once() -> Result {
        let mut table = table()?;
        assert_eq!(table.connect(ONE, ONE, ()), Err(EINVAL));
        assert_eq!(table.disconnect(ONE, OTHER), Err(ENOLINK));
        table.connect(ONE, OTHER, ())?;
        assert_eq!(table.connect(OTHER, ONE, ()), Err(EISCONN));
        assert!(table.list().all(|listed| listed.ids == [4, 9]));
        table.disconnect(OTHER, ONE)?;
        assert_eq!(table.disconnect(ONE, OTHER), Err(ENOLINK));
        assert_eq!(table.list().count(), 0);
        Ok(())
    }

    #[test]
    fn memory_is_given_back_when_the_survivor_has_answered() -> Result {
        let mut table = table()?;
        table.connect(ONE, OTHER, ())?;
        let both = Running([1, 1]);
        assert_eq!(table.next(PAIR, &Running([1, 0]), [false; 2]), Step::Rest);
        let Step::Make(wanted) = table.next(PAIR, &both, [false; 2]) else {
            return Err(EINVAL);
        };
        table.made(wanted, 7)?;
        for _ in 0..2 {
            let Step::Offer(end, 7) = table.next(PAIR, &both, [false; 2]) else {
                return Err(EINVAL);
            };
            table.offered(end, true);
        }
        assert_eq!(table.next(PAIR, &both, [false; 2]), Step::Rest);
        assert!(table.list().all(|it| it.standing == Standing::Up));

        let ended = Running([1, 0]);
        assert!(!table.is_settled(OTHER.serial, &ended));
        let Step::Withdraw(end) = table.next(PAIR, &ended, [false; 2]) else {
            return Err(EINVAL);
        };
        assert_eq!(end.party, ONE);
        // It has it mapped still: nobody is rung, and nothing is given back.
        table.withdrawn(end, true);
        assert!(table.is_settled(OTHER.serial, &ended));
        assert_eq!(table.next(PAIR, &ended, [false; 2]), Step::Rest);
        assert!(table.released(end.epoch, ONE.id).is_some());
        assert_eq!(table.next(PAIR, &ended, [false; 2]), Step::Free(7));
        Ok(())
    }
}
