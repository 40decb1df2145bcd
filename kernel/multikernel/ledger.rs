// SPDX-License-Identifier: GPL-2.0

//! Who owns which memory.
//!
//! A [`MemoryLedger`] holds every range that the host has set aside; what is not in it is the
//! host's. A range that is taken leaves as a [`Region`], a value that cannot be copied: who has it
//! owns the memory, and giving it back consumes it. Nothing here sleeps but for memory allocation,
//! touches hardware or takes a lock: the registry's mutex guards it.
//!
//! The file is pure: it is compiled into the kernel and into the test workspace.

// `pub`, not `pub(crate)`: in the test workspace and in mkctl the file is a library's.
#![allow(unreachable_pub)]

use kernel::prelude::*;

use crate::room;

/// Ids are 3..=2047: what fits in bits 5..15 of the flags of `kexec_load(2)`, but those that have
/// another meaning as address (CID) of AF_VSOCK, which for a spawn kernel is its id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct InstanceId(u16);

impl InstanceId {
    /// The smallest id: above `VMADDR_CID_HOST`.
    pub const MIN: u16 = 3;
    /// The largest id.
    pub const MAX: u16 = 2047;

    /// Returns the id of this number, if it is one.
    pub fn new(id: u32) -> Option<Self> {
        match u16::try_from(id) {
            Ok(id) if (Self::MIN..=Self::MAX).contains(&id) => Some(Self(id)),
            _ => None,
        }
    }

    /// The number.
    pub fn get(self) -> u32 {
        u32::from(self.0)
    }
}

/// The number of an arena. None is used a second time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ArenaId(u32);

impl ArenaId {
    /// The one before the first arena.
    pub const NONE: Self = Self(0);

    /// The id after this, if there is one.
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }

    /// The number, from 1.
    pub fn get(self) -> u32 {
        self.0
    }
}

/// A physical address range that its holder owns.
///
/// Comes from [`MemoryLedger::take`] and goes by [`MemoryLedger::give_back`]; neither `Clone` nor
/// `Copy`, so that no range has two owners.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a region that is dropped is lost to the machine"]
pub struct Region {
    base: u64,
    size: u64,
    nid: i32,
}

impl Region {
    /// First byte, physical.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// First byte after it. Cannot wrap: the ledger refuses such ranges.
    pub fn end(&self) -> u64 {
        self.base + self.size
    }

    /// NUMA node, -1 if none.
    pub fn nid(&self) -> i32 {
        self.nid
    }

    /// Whether `size` bytes at `base` are all inside.
    pub fn contains(&self, base: u64, size: u64) -> bool {
        match base.checked_add(size) {
            Some(end) => base >= self.base && end <= self.end(),
            None => false,
        }
    }
}

/// Who owns a range that is in the ledger.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// Free, for any instance.
    Pool,
    /// Lent.
    Instance(InstanceId),
    /// Set apart under a name, for whoever it is granted to.
    Arena(ArenaId),
}

impl From<InstanceId> for Owner {
    fn from(id: InstanceId) -> Self {
        Self::Instance(id)
    }
}

impl From<ArenaId> for Owner {
    fn from(id: ArenaId) -> Self {
        Self::Arena(id)
    }
}

/// A range in the ledger.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// First byte, physical.
    pub base: u64,
    /// Bytes.
    pub size: u64,
    /// NUMA node, -1 if none.
    pub nid: i32,
    /// It was set aside at boot and cannot go back to the host.
    pub boot: bool,
    /// Who owns it.
    pub owner: Owner,
}

impl Entry {
    fn end(&self) -> u64 {
        self.base + self.size
    }

    fn mergeable(&self, next: &Entry) -> bool {
        self.end() == next.base
            && self.nid == next.nid
            && self.boot == next.boot
            && self.owner == Owner::Pool
            && next.owner == Owner::Pool
    }
}

/// 4 GiB, the border of [`Request::below_4g`] and [`Request::above_4g`].
const FOUR_GIB: u64 = 1 << 32;

/// What somebody wants from the pool.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request {
    /// Bytes, a multiple of the ledger's alignment, not 0.
    pub size: u64,
    /// Just this address, or any.
    pub base: Option<u64>,
    /// Just this NUMA node, or any.
    pub nid: Option<i32>,
    /// The whole range below 4 GiB.
    pub below_4g: bool,
    /// The whole range at or above 4 GiB.
    pub above_4g: bool,
}

impl Request {
    /// The lowest address in `entry` at which the request can be met.
    fn place(&self, entry: &Entry) -> Option<u64> {
        if entry.owner != Owner::Pool || self.nid.is_some_and(|nid| nid != entry.nid) {
            return None;
        }
        let low = if self.above_4g {
            entry.base.max(FOUR_GIB)
        } else {
            entry.base
        };
        let high = if self.below_4g {
            entry.end().min(FOUR_GIB)
        } else {
            entry.end()
        };
        let base = match self.base {
            Some(base) if base < low => return None,
            Some(base) => base,
            None => low,
        };
        (base.checked_add(self.size)? <= high).then_some(base)
    }
}

/// Memory that the host has set aside, by address.
///
/// # Invariants
///
/// - `entries` is sorted by address; entries do not overlap, are not empty and do not wrap.
/// - Bases and sizes are multiples of `align`, a power of two.
/// - No two neighbours could be merged.
pub struct MemoryLedger {
    entries: KVec<Entry>,
    align: u64,
}

impl MemoryLedger {
    /// An empty ledger of ranges that are multiples of `align` bytes, a power of two.
    pub const fn new(align: u64) -> Self {
        Self {
            entries: KVec::new(),
            align,
        }
    }

    /// As [`room::lacks`], for the list of ranges.
    pub fn lacks(&self, more: usize) -> Option<usize> {
        room::lacks(&self.entries, more)
    }

    /// As [`room::adopt`].
    pub fn adopt(&mut self, larger: KVec<Entry>) {
        room::adopt(&mut self.entries, larger);
    }

    /// Every range, by address.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Checks that a range is a possible one of this ledger.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it is empty, unaligned, or wraps.
    pub fn check(&self, base: u64, size: u64) -> Result {
        let mask = self.align - 1;
        if size == 0 || (base | size) & mask != 0 || base.checked_add(size).is_none() {
            return Err(EINVAL);
        }
        Ok(())
    }

    /// Whether the range shares a byte with one in the ledger.
    pub fn overlaps(&self, base: u64, size: u64) -> bool {
        let end = base.saturating_add(size);
        self.entries.iter().any(|e| base < e.end() && e.base < end)
    }

    /// Adds a free range.
    ///
    /// # Errors
    ///
    /// `EINVAL` for an impossible range, `EEXIST` if it overlaps one that is here, `ENOMEM`.
    pub fn insert(&mut self, base: u64, size: u64, nid: i32, boot: bool) -> Result {
        self.check(base, size)?;
        if self.overlaps(base, size) {
            return Err(EEXIST);
        }
        self.entries.reserve(1, GFP_KERNEL)?;
        let at = self.entries.iter().take_while(|e| e.base < base).count();
        self.put(
            at,
            Entry {
                base,
                size,
                nid,
                boot,
                owner: Owner::Pool,
            },
        )?;
        self.merge_around(at);
        Ok(())
    }

    /// Takes a range for an owner: of those that fit the smallest, at its low end.
    ///
    /// # Errors
    ///
    /// - `EINVAL`: an impossible size or address, or both `below_4g` and `above_4g`.
    /// - `EADDRNOTAVAIL`: the given address range is not wholly in the ledger.
    /// - `EBUSY`: it is, but part of it is not free.
    /// - `ENOSPC`: no free range is large enough.
    /// - `ENOMEM`.
    ///
    /// After an error the ledger is what it was.
    pub fn take(&mut self, request: &Request, owner: impl Into<Owner>) -> Result<Region> {
        self.check(request.base.unwrap_or(0), request.size)?;
        if request.below_4g && request.above_4g {
            return Err(EINVAL);
        }
        if let Some(base) = request.base {
            self.check_fixed(base, request.size)?;
        }
        self.entries.reserve(2, GFP_KERNEL)?;

        let best = self
            .entries
            .iter()
            .enumerate()
            .filter_map(|(i, e)| request.place(e).map(|base| (e.size, i, base)))
            .min_by_key(|&(size, i, _)| (size, i));
        let (_, at, base) = best.ok_or(ENOSPC)?;
        let nid = self.isolate(at, base, request.size, owner.into())?;
        Ok(Region {
            base,
            size: request.size,
            nid,
        })
    }

    /// Makes a region free again. `false`, with nothing changed, if the ledger has no such lent
    /// region: that is a defect of the caller.
    pub fn give_back(&mut self, region: Region) -> bool {
        let Some(at) = self.find(&region) else {
            return false;
        };
        if let Some(entry) = self.entries.get_mut(at) {
            entry.owner = Owner::Pool;
        }
        self.merge_around(at);
        true
    }

    /// Cuts a region in two: `region` keeps its first `size` bytes, the rest is returned.
    ///
    /// # Errors
    ///
    /// `EINVAL` unless both are possible ranges and the region is of this ledger, `ENOMEM`; nothing
    /// has changed then.
    pub fn split(&mut self, region: &mut Region, size: u64) -> Result<Region> {
        let rest = region.size.checked_sub(size).ok_or(EINVAL)?;
        self.check(region.base, size)?;
        self.check(region.base + size, rest)?;
        let at = self.find(region).ok_or(EINVAL)?;
        self.entries.reserve(1, GFP_KERNEL)?;
        let entry = self.entries.get_mut(at).ok_or(EINVAL)?;
        entry.size = size;
        let tail = Entry {
            base: entry.base + size,
            size: rest,
            ..*entry
        };
        self.put(at + 1, tail)?;
        region.size = size;
        Ok(Region {
            base: tail.base,
            size: rest,
            nid: region.nid,
        })
    }

    /// Makes a region longer by free memory that lies behind it.
    ///
    /// # Errors
    ///
    /// `ENOSPC` unless that is free, on the same node and set aside in the same way; `EINVAL` for
    /// an impossible size or a region that is not of this ledger; `ENOMEM`. Nothing has changed
    /// then.
    pub fn extend(&mut self, region: &mut Region, more: u64) -> Result {
        self.check(region.end(), more)?;
        let at = self.find(region).ok_or(EINVAL)?;
        let (entry, next) = match (self.entries.get(at), self.entries.get(at + 1)) {
            (Some(&entry), Some(&next)) => (entry, next),
            _ => return Err(ENOSPC),
        };
        let alike = next.base == entry.end() && next.nid == entry.nid && next.boot == entry.boot;
        if !alike || next.owner != Owner::Pool || next.size < more {
            return Err(ENOSPC);
        }
        self.entries.reserve(2, GFP_KERNEL)?;
        self.cut(at + 1, next.base, more)?;
        if let Some(entry) = self.entries.get_mut(at) {
            entry.size += more;
        }
        region.size += more;
        Ok(())
    }

    /// The entry of a region.
    fn find(&self, region: &Region) -> Option<usize> {
        self.entries
            .iter()
            .position(|e| e.base == region.base && e.size == region.size && e.owner != Owner::Pool)
    }

    /// Takes `size` free bytes out of the ledger, highest addresses first, and appends them to
    /// `out` as pairs of base and size. With `base`, just the range there.
    ///
    /// # Errors
    ///
    /// As for [`Self::take`]. Memory that was set aside at boot is `EBUSY` if named, else passed
    /// over. After an error the ledger is what it was and `out` is empty.
    pub fn withdraw(&mut self, request: &Request, out: &mut KVec<(u64, u64)>) -> Result {
        out.clear();
        self.check(request.base.unwrap_or(0), request.size)?;
        if request.below_4g && request.above_4g {
            return Err(EINVAL);
        }
        out.reserve(self.entries.len() + 1, GFP_KERNEL)?;
        self.entries.reserve(2, GFP_KERNEL)?;

        if let Some(base) = request.base {
            self.check_fixed(base, request.size)?;
            let at = self.entries.iter().position(|e| request.place(e).is_some());
            let at = at.ok_or(ENOSPC)?;
            if self.entries.get(at).is_some_and(|e| e.boot) {
                return Err(EBUSY);
            }
            out.push((base, request.size), GFP_KERNEL)?;
            self.cut(at, base, request.size)?;
            return Ok(());
        }

        let mut missing = request.size;
        for entry in self.entries.iter().rev() {
            if missing == 0 {
                break;
            }
            let part = entry.size.min(missing);
            // Of a range that straddles 4 GiB only the fitting half would do; it is left alone.
            let wanted = Request {
                size: part,
                base: Some(entry.end() - part),
                ..*request
            };
            if !entry.boot && wanted.place(entry).is_some() {
                out.push((entry.end() - part, part), GFP_KERNEL)?;
                missing -= part;
            }
        }
        if missing != 0 {
            out.clear();
            return Err(ENOSPC);
        }
        for &(base, size) in out.iter() {
            let at = self
                .entries
                .iter()
                .position(|e| e.base <= base && base < e.end());
            self.cut(at.ok_or(ENOSPC)?, base, size)?;
        }
        Ok(())
    }

    /// Bytes that are free.
    pub fn free_bytes(&self) -> u64 {
        self.entries
            .iter()
            .filter(|e| e.owner == Owner::Pool)
            .fold(0, |sum, e| sum.saturating_add(e.size))
    }

    /// That every byte of the range is in the ledger, and free.
    fn check_fixed(&self, base: u64, size: u64) -> Result {
        let end = base.checked_add(size).ok_or(EINVAL)?;
        let mut at = base;
        let mut lent = false;
        for e in self.entries.iter() {
            if at < end && e.base <= at && at < e.end() {
                lent |= e.owner != Owner::Pool;
                at = e.end();
            }
        }
        if at < end {
            return Err(EADDRNOTAVAIL);
        }
        if lent {
            return Err(EBUSY);
        }
        Ok(())
    }

    /// Splits entry `at` so that the range is an entry of its own, owned by `owner`. Returns its
    /// node. There is room for two more entries.
    fn isolate(&mut self, at: usize, base: u64, size: u64, owner: Owner) -> Result<i32> {
        let whole = *self.entries.get(at).ok_or(EINVAL)?;
        let end = base + size;
        let mut at = at;
        if whole.base < base {
            let before = Entry {
                size: base - whole.base,
                ..whole
            };
            self.put(at, before)?;
            at += 1;
        }
        if end < whole.end() {
            let after = Entry {
                base: end,
                size: whole.end() - end,
                ..whole
            };
            self.put(at + 1, after)?;
        }
        let entry = self.entries.get_mut(at).ok_or(EINVAL)?;
        *entry = Entry {
            base,
            size,
            owner,
            ..whole
        };
        Ok(whole.nid)
    }

    /// Removes a free range that is inside entry `at`.
    fn cut(&mut self, at: usize, base: u64, size: u64) -> Result {
        let before = self.entries.get(at).is_some_and(|e| e.base < base);
        self.isolate(at, base, size, Owner::Pool)?;
        let at = if before { at + 1 } else { at };
        self.entries.remove(at).map_err(|_| EINVAL)?;
        Ok(())
    }

    /// Inserts at an index that is within the vector, which has room.
    fn put(&mut self, at: usize, entry: Entry) -> Result {
        self.entries
            .insert_within_capacity(at, entry)
            .map_err(|_| ENOMEM)
    }

    /// Merges entry `at` with its free neighbours.
    fn merge_around(&mut self, at: usize) {
        self.merge_with_next(at);
        if let Some(before) = at.checked_sub(1) {
            self.merge_with_next(before);
        }
    }

    fn merge_with_next(&mut self, at: usize) {
        let (Some(&one), Some(&next)) = (self.entries.get(at), self.entries.get(at + 1)) else {
            return;
        };
        if one.mergeable(&next) && self.entries.remove(at + 1).is_ok() {
            if let Some(entry) = self.entries.get_mut(at) {
                entry.size = one.size + next.size;
            }
        }
    }
}

#[cfg(CONFIG_MULTIKERNEL_KUNIT_TEST)]
#[kunit_tests(multikernel_ledger)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn id(number: u32) -> InstanceId {
        match InstanceId::new(number) {
            Some(id) => id,
            None => InstanceId(InstanceId::MIN),
        }
    }

    fn any(size: u64) -> Request {
        Request {
            size,
            ..Request::default()
        }
    }

    #[test]
    fn ids_are_3_to_2047() {
        assert!(InstanceId::new(0).is_none());
        assert!(InstanceId::new(2).is_none());
        assert!(InstanceId::new(3).is_some());
        assert!(InstanceId::new(2047).is_some());
        assert!(InstanceId::new(2048).is_none());
        assert!(InstanceId::new(65537).is_none());
    }

    #[test]
    fn insert_merges_and_refuses_overlap() -> Result {
        let mut ledger = MemoryLedger::new(2 * MIB);
        ledger.insert(64 * MIB, 64 * MIB, 0, false)?;
        ledger.insert(192 * MIB, 64 * MIB, 0, false)?;
        assert_eq!(ledger.entries().len(), 2);
        ledger.insert(128 * MIB, 64 * MIB, 0, false)?;
        assert_eq!(ledger.entries().len(), 1);
        assert_eq!(ledger.free_bytes(), 192 * MIB);
        assert_eq!(ledger.insert(66 * MIB, 2 * MIB, 0, false), Err(EEXIST));
        assert_eq!(ledger.insert(1, 2 * MIB, 0, false), Err(EINVAL));
        assert_eq!(ledger.insert(0, 0, 0, false), Err(EINVAL));
        assert_eq!(
            ledger.insert(u64::MAX - 2 * MIB + 1, 4 * MIB, 0, false),
            Err(EINVAL)
        );
        Ok(())
    }

    #[test]
    fn nodes_and_boot_memory_stay_apart() -> Result {
        let mut ledger = MemoryLedger::new(2 * MIB);
        ledger.insert(0, 64 * MIB, 0, false)?;
        ledger.insert(64 * MIB, 64 * MIB, 1, false)?;
        ledger.insert(128 * MIB, 64 * MIB, 1, true)?;
        assert_eq!(ledger.entries().len(), 3);
        Ok(())
    }

    #[test]
    fn take_and_give_back_restores() -> Result {
        let mut ledger = MemoryLedger::new(2 * MIB);
        ledger.insert(64 * MIB, 64 * MIB, 0, false)?;
        let one = ledger.take(&any(16 * MIB), id(3))?;
        let two = ledger.take(&any(16 * MIB), id(4))?;
        assert_eq!(one.base(), 64 * MIB);
        assert_eq!(two.base(), 80 * MIB);
        assert_eq!(ledger.free_bytes(), 32 * MIB);
        assert!(ledger.give_back(one));
        assert_eq!(ledger.entries().len(), 3);
        assert!(ledger.give_back(two));
        assert_eq!(ledger.entries().len(), 1);
        assert_eq!(ledger.free_bytes(), 64 * MIB);
        Ok(())
    }

    #[test]
    fn take_says_what_is_wrong() -> Result {
        let mut ledger = MemoryLedger::new(2 * MIB);
        ledger.insert(64 * MIB, 64 * MIB, 0, false)?;
        let fixed = |base| Request {
            base: Some(base),
            ..any(16 * MIB)
        };
        let lent = ledger.take(&fixed(80 * MIB), id(3))?;
        let free = ledger.free_bytes();
        assert_eq!(ledger.take(&any(0), id(3)), Err(EINVAL));
        assert_eq!(ledger.take(&any(MIB), id(3)), Err(EINVAL));
        assert_eq!(ledger.take(&fixed(MIB), id(3)), Err(EINVAL));
        assert_eq!(ledger.take(&fixed(512 * MIB), id(3)), Err(EADDRNOTAVAIL));
        assert_eq!(ledger.take(&fixed(120 * MIB), id(3)), Err(EADDRNOTAVAIL));
        assert_eq!(ledger.take(&fixed(72 * MIB), id(3)), Err(EBUSY));
        assert_eq!(ledger.take(&any(48 * MIB), id(3)), Err(ENOSPC));
        let node = Request {
            nid: Some(1),
            ..any(2 * MIB)
        };
        assert_eq!(ledger.take(&node, id(3)), Err(ENOSPC));
        let high = Request {
            above_4g: true,
            ..any(2 * MIB)
        };
        assert_eq!(ledger.take(&high, id(3)), Err(ENOSPC));
        assert_eq!(ledger.free_bytes(), free);
        assert!(ledger.give_back(lent));
        Ok(())
    }

    #[test]
    fn borders_at_4_gib() -> Result {
        let mut ledger = MemoryLedger::new(2 * MIB);
        ledger.insert(FOUR_GIB - 4 * MIB, 8 * MIB, 0, false)?;
        let high = Request {
            above_4g: true,
            ..any(4 * MIB)
        };
        let above = ledger.take(&high, id(3))?;
        assert_eq!(above.base(), FOUR_GIB);
        let low = Request {
            below_4g: true,
            ..any(4 * MIB)
        };
        let below = ledger.take(&low, id(3))?;
        assert_eq!(below.end(), FOUR_GIB);
        assert!(ledger.give_back(above) && ledger.give_back(below));
        assert_eq!(ledger.entries().len(), 1);
        Ok(())
    }

    #[test]
    fn split_and_extend() -> Result {
        let mut ledger = MemoryLedger::new(2 * MIB);
        ledger.insert(64 * MIB, 64 * MIB, 0, false)?;
        let owner = ArenaId::NONE.next().ok_or(EINVAL)?;
        let mut region = ledger.take(&any(16 * MIB), owner)?;
        assert_eq!(ledger.extend(&mut region, 50 * MIB), Err(ENOSPC));
        assert_eq!(ledger.extend(&mut region, MIB), Err(EINVAL));
        ledger.extend(&mut region, 16 * MIB)?;
        assert_eq!((region.base(), region.size()), (64 * MIB, 32 * MIB));
        assert_eq!(ledger.free_bytes(), 32 * MIB);
        assert_eq!(ledger.entries().len(), 2);

        assert!(ledger.split(&mut region, 0).is_err());
        assert!(ledger.split(&mut region, 32 * MIB).is_err());
        assert!(ledger.split(&mut region, 5 * MIB).is_err());
        let rest = ledger.split(&mut region, 4 * MIB)?;
        assert_eq!((rest.base(), rest.size()), (68 * MIB, 28 * MIB));
        assert_eq!(ledger.entries().len(), 3);
        // What is behind it is not free.
        assert_eq!(ledger.extend(&mut region, 2 * MIB), Err(ENOSPC));
        assert!(ledger.give_back(rest));
        ledger.extend(&mut region, 60 * MIB)?;
        assert_eq!(ledger.entries().len(), 1);
        assert_eq!(ledger.extend(&mut region, 2 * MIB), Err(ENOSPC));
        assert!(ledger.give_back(region));
        assert_eq!(ledger.free_bytes(), 64 * MIB);
        Ok(())
    }

    #[test]
    fn withdraw_is_all_or_nothing() -> Result {
        let mut ledger = MemoryLedger::new(2 * MIB);
        ledger.insert(0, 64 * MIB, 0, true)?;
        ledger.insert(64 * MIB, 64 * MIB, 0, false)?;
        let lent = ledger.take(
            &Request {
                base: Some(96 * MIB),
                ..any(16 * MIB)
            },
            id(3),
        )?;
        let mut out = KVec::new();
        assert_eq!(ledger.withdraw(&any(64 * MIB), &mut out), Err(ENOSPC));
        assert!(out.is_empty());
        let fixed = |base| Request {
            base: Some(base),
            ..any(16 * MIB)
        };
        assert_eq!(ledger.withdraw(&fixed(96 * MIB), &mut out), Err(EBUSY));
        assert_eq!(ledger.withdraw(&fixed(0), &mut out), Err(EBUSY));
        ledger.withdraw(&any(48 * MIB), &mut out)?;
        assert_eq!(out.iter().fold(0, |sum, range| sum + range.1), 48 * MIB);
        assert_eq!(ledger.free_bytes(), 64 * MIB);
        assert!(ledger.give_back(lent));
        ledger.withdraw(&fixed(96 * MIB), &mut out)?;
        assert_eq!(ledger.entries().len(), 1);
        Ok(())
    }
}
