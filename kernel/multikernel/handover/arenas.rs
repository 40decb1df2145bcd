// SPDX-License-Identifier: GPL-2.0

//! Which arenas there are, who may have them, and who has them open here.
//!
//! An arena has a name and a [`Region`] that the ledger lists as its own. Instances are granted it;
//! files of this kernel have it open. As long as a file has it open, or an instance that runs is
//! granted it, its memory stays where it is. One in which a session is belongs to the session's
//! owner, see [`Ownership`], and nobody else opens it. Nothing here sleeps, touches memory of an
//! arena or takes a lock: the registry's mutex guards it.
//!
//! The file is pure: it is compiled into the kernel and into the test workspace. `N` is what a name
//! is, `H` what tells instances apart.

// `pub`, not `pub(crate)`: in the test workspace the file is a library's.
#![allow(unreachable_pub)]

use kernel::prelude::*;

use super::ownership::{
    Ownership,
    Party, //
};
use crate::{
    ledger::{
        ArenaId,
        Region, //
    },
    room, //
};

/// Where an arena is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Whose place it is.
    pub id: ArenaId,
    /// First byte, physical.
    pub base: u64,
    /// Bytes.
    pub size: u64,
    /// NUMA node, -1 if none.
    pub nid: i32,
}

/// An arena.
pub struct Arena<N, H> {
    /// Its name.
    pub name: N,
    place: Place,
    /// Its memory; `None` while a call works on it.
    region: Option<Region>,
    /// Files of this kernel that have it open.
    files: usize,
    /// Whose the session is that is in it, if one is.
    session: Option<Ownership<H>>,
}

impl<N, H> Arena<N, H> {
    /// Where it is.
    pub fn place(&self) -> Place {
        self.place
    }

    /// How many files of this kernel have it open.
    pub fn files(&self) -> usize {
        self.files
    }

    /// Whose the session is that is in it, if one is.
    pub fn session(&self) -> Option<&Ownership<H>> {
        self.session.as_ref()
    }
}

/// That an instance may have an arena.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grant<H> {
    /// The arena.
    pub arena: ArenaId,
    /// The instance.
    pub holder: H,
    /// Whether it may also write to it.
    pub writable: bool,
    /// Whether it is there only because the instance looks at a session that it was offered: until
    /// it owns that, or until this life of it ends.
    pub to_look: bool,
}

/// All arenas, and to whom they are granted.
///
/// # Invariants
///
/// - No two arenas have the same name or id, no two grants the same arena and holder.
/// - Every grant is of an arena that is here.
/// - An arena without its region has no files.
pub struct Arenas<N, H> {
    list: KVec<Arena<N, H>>,
    grants: KVec<Grant<H>>,
    last: ArenaId,
}

impl<N: Copy + Eq, H: Copy + Eq> Arenas<N, H> {
    /// No arenas.
    pub const fn new() -> Self {
        Self {
            list: KVec::new(),
            grants: KVec::new(),
            last: ArenaId::NONE,
        }
    }

    /// As [`room::lacks`], for the list of arenas.
    pub fn lacks(&self, more: usize) -> Option<usize> {
        room::lacks(&self.list, more)
    }

    /// As [`room::adopt`].
    pub fn adopt(&mut self, larger: KVec<Arena<N, H>>) {
        room::adopt(&mut self.list, larger);
    }

    /// As [`room::lacks`], for the list of grants.
    pub fn lacks_grants(&self, more: usize) -> Option<usize> {
        room::lacks(&self.grants, more)
    }

    /// As [`room::adopt`].
    pub fn adopt_grants(&mut self, larger: KVec<Grant<H>>) {
        room::adopt(&mut self.grants, larger);
    }

    /// All arenas, in the order of their creation.
    pub fn list(&self) -> &[Arena<N, H>] {
        &self.list
    }

    /// All grants.
    pub fn grants(&self) -> &[Grant<H>] {
        &self.grants
    }

    /// To how many instances an arena is granted.
    pub fn grants_of(&self, id: ArenaId) -> usize {
        self.grants.iter().filter(|it| it.arena == id).count()
    }

    fn at(&self, name: &N) -> Result<usize> {
        let at = self.list.iter().position(|arena| arena.name == *name);
        at.ok_or(ENOENT)
    }

    fn find(&mut self, name: &N) -> Result<&mut Arena<N, H>> {
        self.list
            .iter_mut()
            .find(|arena| arena.name == *name)
            .ok_or(ENOENT)
    }

    /// Adds an arena in the memory that `take` returns.
    ///
    /// # Errors
    ///
    /// `EEXIST` if there is one of this name, `ENOSPC` if no id is left, `ENOMEM`, and what `take`
    /// returns; nothing has changed then.
    pub fn create(
        &mut self,
        name: N,
        take: impl FnOnce(ArenaId) -> Result<Region>,
    ) -> Result<Place> {
        if self.at(&name).is_ok() {
            return Err(EEXIST);
        }
        let id = self.last.next().ok_or(ENOSPC)?;
        self.list.reserve(1, GFP_KERNEL)?;
        let region = take(id)?;
        self.last = id;
        let place = Place {
            id,
            base: region.base(),
            size: region.size(),
            nid: region.nid(),
        };
        let arena = Arena {
            name,
            place,
            region: Some(region),
            files: 0,
            session: None,
        };
        // There is room for it.
        let _ = self.list.push_within_capacity(arena);
        Ok(place)
    }

    /// Counts another file that has an arena open.
    ///
    /// # Errors
    ///
    /// `ENOENT`; `EBUSY` if a call works on it, or a session is in it.
    pub fn open(&mut self, name: &N) -> Result<Place> {
        if self.find(name)?.session.is_some() {
            return Err(EBUSY);
        }
        self.open_in_any_case(name)
    }

    /// As [`Self::open`], also if a session is in it.
    ///
    /// # Errors
    ///
    /// `ENOENT`; `EBUSY` if a call works on it.
    pub fn open_in_any_case(&mut self, name: &N) -> Result<Place> {
        let arena = self.find(name)?;
        if arena.region.is_none() {
            return Err(EBUSY);
        }
        arena.files = arena.files.checked_add(1).ok_or(EBUSY)?;
        Ok(arena.place)
    }

    /// A file of [`Self::open`] is there no more.
    pub fn close(&mut self, id: ArenaId) {
        // It is there: an arena that is open is not removed.
        if let Some(arena) = self.list.iter_mut().find(|arena| arena.place.id == id) {
            arena.files = arena.files.saturating_sub(1);
        }
    }

    /// Allows an instance to have an arena; if it may already, changes whether it may write.
    /// `runs`: whether the instance may be using it, if it has been granted before.
    ///
    /// # Errors
    ///
    /// `ENOENT`; `EBUSY` if an instance that runs would lose the right to write; `ENOMEM`.
    pub fn grant(&mut self, name: &N, holder: H, writable: bool, runs: bool) -> Result {
        let at = self.at(name)?;
        let arena = self.list.get(at).ok_or(ENOENT)?.place.id;
        self.grants.reserve(1, GFP_KERNEL)?;
        let grant = Grant {
            arena,
            holder,
            writable,
            to_look: false,
        };
        match self.grant_of_mut(arena, holder) {
            Some(old) if old.writable && !writable && runs => return Err(EBUSY),
            Some(old) => *old = grant,
            // There is room for it.
            None => drop(self.grants.push_within_capacity(grant)),
        }
        Ok(())
    }

    /// Allows an instance to have an arena, to be read, if it may not have it at all.
    ///
    /// # Errors
    ///
    /// `ENOENT`, `ENOMEM`.
    pub fn grant_to_read(&mut self, name: &N, holder: H) -> Result {
        let arena = self.find(name)?.place.id;
        match self.grant_of(arena, holder) {
            Some(_) => Ok(()),
            None => {
                self.grant(name, holder, false, false)?;
                if let Some(grant) = self.grant_of_mut(arena, holder) {
                    grant.to_look = true;
                }
                Ok(())
            }
        }
    }

    /// Takes a grant back. `runs`: as for [`Self::grant`].
    ///
    /// # Errors
    ///
    /// `ENOENT`: there is no such arena; `EACCES`: it is not granted; `EBUSY`: the instance runs,
    /// or owns the session that is in it, or a call works on the arena.
    pub fn revoke(&mut self, name: &N, holder: H, runs: bool) -> Result {
        let arena = self.list.get(self.at(name)?).ok_or(ENOENT)?;
        let grant = *self.grant_of(arena.place.id, holder).ok_or(EACCES)?;
        let owner = arena.session.map(|it| it.owner());
        if runs || arena.region.is_none() || owner == Some(Party::Instance(holder)) {
            return Err(EBUSY);
        }
        self.grants.retain(|it| *it != grant);
        Ok(())
    }

    /// What an instance may have as an arena, and where it is. Who looks at a session has only
    /// that.
    ///
    /// # Errors
    ///
    /// `ENOENT`: there is no such arena; `EACCES`: it is not granted; `EBUSY`: a call works on it,
    /// or a session is in it.
    pub fn granted(&self, name: &N, holder: H) -> Result<(Grant<H>, Place)> {
        let arena = self.list.get(self.at(name)?).ok_or(ENOENT)?;
        let grant = self.grant_of(arena.place.id, holder);
        let grant = grant.filter(|it| !it.to_look).ok_or(EACCES)?;
        if arena.region.is_none() || arena.session.is_some() {
            return Err(EBUSY);
        }
        Ok((*grant, arena.place))
    }

    fn grant_of(&self, arena: ArenaId, holder: H) -> Option<&Grant<H>> {
        let same = |it: &&Grant<H>| it.arena == arena && it.holder == holder;
        self.grants.iter().find(same)
    }

    fn grant_of_mut(&mut self, arena: ArenaId, holder: H) -> Option<&mut Grant<H>> {
        let same = |it: &&mut Grant<H>| it.arena == arena && it.holder == holder;
        self.grants.iter_mut().find(same)
    }

    /// Makes a session in an arena, which nobody but its owner may be using. `runs`: which
    /// instances may be using what they are granted.
    ///
    /// # Errors
    ///
    /// `ENOENT`: there is no such arena; `EEXIST`: there is a session in it; `EACCES`: the owner is
    /// an instance, and was not granted it, or only to be read; `EBUSY`: it is open, granted to
    /// another that runs, or a call works on it.
    pub fn create_session(
        &mut self,
        name: &N,
        owner: Party<H>,
        runs: impl Fn(H) -> bool,
    ) -> Result<Place> {
        let at = self.at(name)?;
        let arena = self.list.get(at).ok_or(ENOENT)?;
        let (id, place) = (arena.place.id, arena.place);
        if arena.session.is_some() {
            return Err(EEXIST);
        }
        if let Party::Instance(holder) = owner {
            if !self
                .grant_of(id, holder)
                .is_some_and(|grant| grant.writable)
            {
                return Err(EACCES);
            }
        }
        // Who has looked at an earlier session only reads, and its kernel not without an offer.
        let used = |it: &Grant<H>| {
            let other = owner != Party::Instance(it.holder);
            it.arena == id && other && !it.to_look && runs(it.holder)
        };
        if arena.files != 0 || arena.region.is_none() || self.grants.iter().any(used) {
            return Err(EBUSY);
        }
        let arena = self.list.get_mut(at).ok_or(ENOENT)?;
        arena.session = Some(Ownership::new(owner));
        Ok(place)
    }

    /// The session in an arena, and where that is.
    ///
    /// # Errors
    ///
    /// `ENOENT`: there is none.
    pub fn session(&mut self, name: &N) -> Result<(&mut Ownership<H>, Place)> {
        let arena = self.find(name)?;
        let place = arena.place;
        Ok((arena.session.as_mut().ok_or(ENOENT)?, place))
    }

    /// The arena is without a session from now on.
    ///
    /// # Errors
    ///
    /// `ENOENT`: there is none; `EACCES`: it is not `by`'s; `EBUSY`: it is offered to another.
    pub fn remove_session(&mut self, name: &N, by: Party<H>) -> Result {
        let session = &mut self.find(name)?.session;
        let ownership = session.as_ref().ok_or(ENOENT)?;
        if ownership.owner() != by {
            return Err(EACCES);
        }
        if ownership.offer_made().is_some() {
            return Err(EBUSY);
        }
        *session = None;
        Ok(())
    }

    /// All sessions that one instance owns become another's, which has accepted them.
    ///
    /// # Errors
    ///
    /// `EBUSY` if it has not accepted one; nothing has changed then.
    pub fn commit_all(&mut self, from: H, to: H) -> Result {
        let (from, party) = (Party::Instance(from), Party::Instance(to));
        let accepted = |session: &Ownership<H>| {
            let offer = session.offer_made();
            offer.is_some_and(|offer| offer.to == party && offer.accepted)
        };
        let owned = |arena: &Arena<N, H>| arena.session.filter(|it| it.owner() == from);
        if self.list.iter().filter_map(owned).any(|it| !accepted(&it)) {
            return Err(EBUSY);
        }
        for arena in &mut self.list {
            let Some(session) = arena.session.as_mut().filter(|it| it.owner() == from) else {
                continue;
            };
            // It was accepted: neither this nor the grant, which is there to be read, fails.
            session.commit(party, session.offers())?;
            let arena = arena.place.id;
            let same = |it: &&mut Grant<H>| it.arena == arena && it.holder == to;
            if let Some(grant) = self.grants.iter_mut().find(same) {
                grant.writable = true;
                grant.to_look = false;
            }
        }
        Ok(())
    }

    /// Whether the end of an instance may change something for `party`: it was offered a session
    /// that is that one's.
    pub fn waits_for(&self, party: Party<H>, holder: H) -> bool {
        let to = Party::Instance(holder);
        let offered = |session: &Ownership<H>| {
            session.owner() == party && session.offer_made().is_some_and(|it| it.to == to)
        };
        self.list.iter().filter_map(Arena::session).any(offered)
    }

    /// A life of an instance has ended. What it was granted only to look at sessions that have not
    /// become its own is not granted any more, once its CPUs are known to be `parked`: one that
    /// is not may have it mapped.
    pub fn ended(&mut self, holder: H, parked: bool) {
        let party = Party::Instance(holder);
        for session in self.list.iter_mut().filter_map(|it| it.session.as_mut()) {
            session.ended(party);
        }
        self.grants
            .retain(|it| !(parked && it.to_look && it.holder == holder));
    }

    /// An instance is there no more.
    pub fn forget(&mut self, holder: H) {
        self.grants.retain(|it| it.holder != holder);
        for session in self.list.iter_mut().filter_map(|it| it.session.as_mut()) {
            session.forget(Party::Instance(holder));
        }
    }

    /// Takes an arena's memory out of it, so that the caller alone works on it: until
    /// [`Self::put_back`] nobody gets to use it.
    ///
    /// # Errors
    ///
    /// `ENOENT`; `EBUSY` if it is open, granted to an instance that `runs`, out already, or has a
    /// session in it.
    pub fn take_out(&mut self, name: &N, runs: impl Fn(H) -> bool) -> Result<(ArenaId, Region)> {
        let at = self.at(name)?;
        let arena = self.list.get(at).ok_or(ENOENT)?;
        let id = arena.place.id;
        let used = |it: &Grant<H>| it.arena == id && runs(it.holder);
        if arena.files != 0 || arena.session.is_some() || self.grants.iter().any(used) {
            return Err(EBUSY);
        }
        let arena = self.list.get_mut(at).ok_or(ENOENT)?;
        Ok((id, arena.region.take().ok_or(EBUSY)?))
    }

    /// Puts back what [`Self::take_out`] took, or other memory instead of it. It comes back if
    /// there is no such arena: that is a defect of the caller.
    pub fn put_back(&mut self, id: ArenaId, region: Region) -> Option<Region> {
        let Some(arena) = self.list.iter_mut().find(|arena| arena.place.id == id) else {
            return Some(region);
        };
        arena.place = Place {
            id,
            base: region.base(),
            size: region.size(),
            nid: region.nid(),
        };
        arena.region.replace(region)
    }

    /// Strikes out an arena whose memory has been taken out for good, and its grants.
    pub fn strike(&mut self, id: ArenaId) {
        self.list
            .retain(|arena| arena.place.id != id || arena.region.is_some());
        let list = &self.list;
        self.grants
            .retain(|it| list.iter().any(|arena| arena.place.id == it.arena));
    }
}

#[cfg(CONFIG_MULTIKERNEL_KUNIT_TEST)]
#[kunit_tests(multikernel_arenas)]
mod tests {
    use super::*;
    use crate::ledger::{
        MemoryLedger,
        Owner,
        Request, //
    };

    const MIB: u64 = 1 << 20;

    struct All {
        ledger: MemoryLedger,
        arenas: Arenas<char, u32>,
    }

    impl All {
        fn new() -> Result<Self> {
            let mut ledger = MemoryLedger::new(2 * MIB);
            ledger.insert(64 * MIB, 64 * MIB, 0, false)?;
            Ok(Self {
                ledger,
                arenas: Arenas::new(),
            })
        }

        fn create(&mut self, name: char, size: u64) -> Result<Place> {
            let request = Request {
                size,
                ..Request::default()
            };
            let ledger = &mut self.ledger;
            self.arenas.create(name, |id| ledger.take(&request, id))
        }

        fn remove(&mut self, name: char, runs: &[u32]) -> Result {
            let (id, region) = self
                .arenas
                .take_out(&name, |holder| runs.contains(&holder))?;
            self.arenas.strike(id);
            assert!(self.ledger.give_back(region));
            Ok(())
        }
    }

    #[test]
    fn created_and_removed() -> Result {
        let mut all = All::new()?;
        let place = all.create('a', 16 * MIB)?;
        assert_eq!(all.create('a', 16 * MIB), Err(EEXIST));
        assert_eq!(all.create('b', 64 * MIB), Err(ENOSPC));
        assert_eq!(all.ledger.free_bytes(), 48 * MIB);
        let owner = all.ledger.entries().first().map(|entry| entry.owner);
        assert_eq!(owner, Some(Owner::Arena(place.id)));
        assert_eq!(all.remove('b', &[]), Err(ENOENT));
        all.remove('a', &[])?;
        assert_eq!(all.ledger.free_bytes(), 64 * MIB);
        // What comes later is another one.
        assert_ne!(all.create('a', 16 * MIB)?.id, place.id);
        Ok(())
    }

    #[test]
    fn who_uses_it_keeps_it() -> Result {
        let mut all = All::new()?;
        let place = all.create('a', 2 * MIB)?;
        assert_eq!(all.arenas.open(&'a'), Ok(place));
        assert_eq!(all.remove('a', &[]), Err(EBUSY));
        all.arenas.grant(&'a', 1, true, false)?;
        all.arenas.close(place.id);
        assert_eq!(all.remove('a', &[1]), Err(EBUSY));
        assert_eq!(all.remove('a', &[2]), Ok(()));
        assert_eq!(all.arenas.grants_of(place.id), 0);
        // A file that is closed late has nothing to do with the next arena.
        all.create('a', 2 * MIB)?;
        all.arenas.open(&'a')?;
        all.arenas.close(place.id);
        assert_eq!(all.remove('a', &[]), Err(EBUSY));
        Ok(())
    }

    #[test]
    fn grants() -> Result {
        let mut all = All::new()?;
        let place = all.create('a', 2 * MIB)?;
        assert_eq!(all.arenas.grant(&'b', 1, true, false), Err(ENOENT));
        assert_eq!(all.arenas.granted(&'b', 1).err(), Some(ENOENT));
        assert_eq!(all.arenas.granted(&'a', 1).err(), Some(EACCES));
        assert_eq!(all.arenas.revoke(&'a', 1, false), Err(EACCES));

        all.arenas.grant(&'a', 1, false, true)?;
        all.arenas.grant(&'a', 2, true, true)?;
        let may_write =
            |all: &All, holder| all.arenas.granted(&'a', holder).map(|it| it.0.writable);
        assert_eq!(may_write(&all, 1), Ok(false));
        assert_eq!(may_write(&all, 2), Ok(true));
        // More rights at any time, fewer only when it does not run.
        all.arenas.grant(&'a', 1, true, true)?;
        assert_eq!(all.arenas.grant(&'a', 1, false, true), Err(EBUSY));
        all.arenas.grant(&'a', 1, false, false)?;
        assert_eq!(may_write(&all, 1), Ok(false));
        assert_eq!(all.arenas.revoke(&'a', 1, true), Err(EBUSY));
        all.arenas.revoke(&'a', 1, false)?;
        assert_eq!(all.arenas.grants_of(place.id), 1);
        all.arenas.forget(2);
        assert_eq!(all.arenas.grants_of(place.id), 0);
        Ok(())
    }

    #[test]
    fn who_only_looks() -> Result {
        let mut all = All::new()?;
        let place = all.create('a', 2 * MIB)?;
        let (owner, other) = (Party::Host, Party::Instance(1));
        all.arenas.create_session(&'a', owner, |_| true)?;
        let ticket = all.arenas.session(&'a')?.0.offer(owner, other)?;
        all.arenas.session(&'a')?.0.accept(other)?;
        all.arenas.grant_to_read(&'a', 1)?;
        assert!(all.arenas.waits_for(owner, 1));
        assert!(!all.arenas.waits_for(other, 1) && !all.arenas.waits_for(owner, 2));
        // It may have it mapped as long as it runs, which is in nobody's way but who frees it.
        all.arenas.session(&'a')?.0.abort(owner, ticket)?;
        assert!(!all.arenas.waits_for(owner, 1));
        all.arenas.remove_session(&'a', owner)?;
        assert_eq!(all.arenas.granted(&'a', 1).err(), Some(EACCES));
        assert_eq!(all.remove('a', &[1]), Err(EBUSY));
        all.arenas.create_session(&'a', owner, |_| true)?;
        // A CPU of it may be at work still.
        all.arenas.ended(1, false);
        assert_eq!(all.arenas.grants_of(place.id), 1);
        all.arenas.ended(1, true);
        assert_eq!(all.arenas.grants_of(place.id), 0);

        // What it owns it keeps.
        let ticket = all.arenas.session(&'a')?.0.offer(owner, other)?;
        all.arenas.session(&'a')?.0.accept(other)?;
        all.arenas.grant_to_read(&'a', 1)?;
        all.arenas.session(&'a')?.0.commit(other, ticket)?;
        all.arenas.grant(&'a', 1, true, false)?;
        all.arenas.ended(1, true);
        assert_eq!(all.arenas.grants_of(place.id), 1);
        assert_eq!(all.arenas.revoke(&'a', 1, false), Err(EBUSY));
        all.arenas.remove_session(&'a', other)?;
        assert_eq!(all.arenas.revoke(&'a', 2, false), Err(EACCES));
        all.arenas.revoke(&'a', 1, false)
    }

    #[test]
    fn nobody_uses_what_is_out() -> Result {
        let mut all = All::new()?;
        let place = all.create('a', 2 * MIB)?;
        all.arenas.grant(&'a', 1, true, false)?;
        let (id, mut region) = all.arenas.take_out(&'a', |_| false)?;
        assert_eq!(all.arenas.open(&'a'), Err(EBUSY));
        assert_eq!(all.arenas.granted(&'a', 1).err(), Some(EBUSY));
        assert_eq!(all.remove('a', &[]), Err(EBUSY));
        assert_eq!(all.create('a', 2 * MIB), Err(EEXIST));
        all.ledger.extend(&mut region, 4 * MIB)?;
        assert!(all.arenas.put_back(id, region).is_none());
        let now = all.arenas.granted(&'a', 1)?.1;
        assert_eq!((now.base, now.size), (place.base, 6 * MIB));
        all.remove('a', &[])
    }
}
