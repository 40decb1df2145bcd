// SPDX-License-Identifier: GPL-2.0

//! `MemoryLedger` against a map of single pages.
//!
//! The model knows nothing of entries, splitting or merging; what the ledger lists is derived from
//! it as the longest runs of like pages.

use std::collections::BTreeMap;

use kernel::{
    alloc::{FailNth, KVec},
    error::{code::*, Error, Result}, //
};
use multikernel_pure::ledger::{Entry, InstanceId, MemoryLedger, Owner, Region, Request};
use proptest::prelude::*;

const PAGE: u64 = 2 << 20;
/// The pages of the model: as many on either side of 4 GiB, the border of two request flags.
const PAGES: u64 = 48;
const FIRST: u64 = (1 << 32) / PAGE - PAGES / 2;
const FOUR_GIB: u64 = 1 << 32;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Page {
    nid: i32,
    boot: bool,
    /// The instance, and which take it was: regions of one instance do not merge.
    lent: Option<(InstanceId, u64)>,
}

/// A run of pages that the ledger should have as one entry.
#[derive(Clone, Copy, Debug)]
struct Run {
    base: u64,
    size: u64,
    page: Page,
}

impl Run {
    fn end(&self) -> u64 {
        self.base + self.size
    }
}

#[derive(Default)]
struct Model {
    pages: BTreeMap<u64, Page>,
    takes: u64,
}

impl Model {
    fn runs(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for (&number, &page) in &self.pages {
            let base = number * PAGE;
            match runs.last_mut() {
                Some(last) if last.end() == base && last.page == page => last.size += PAGE,
                _ => runs.push(Run {
                    base,
                    size: PAGE,
                    page,
                }),
            }
        }
        runs
    }

    fn entries(&self) -> Vec<Entry> {
        let entry = |run: &Run| Entry {
            base: run.base,
            size: run.size,
            nid: run.page.nid,
            boot: run.page.boot,
            owner: match run.page.lent {
                Some((id, _)) => Owner::Instance(id),
                None => Owner::Pool,
            },
        };
        self.runs().iter().map(entry).collect()
    }

    fn pages_of(base: u64, size: u64) -> impl Iterator<Item = u64> {
        base / PAGE..(base + size) / PAGE
    }

    fn possible(base: u64, size: u64) -> bool {
        size != 0
            && base.is_multiple_of(PAGE)
            && size.is_multiple_of(PAGE)
            && base.checked_add(size).is_some()
    }

    fn insert(&mut self, base: u64, size: u64, nid: i32, boot: bool) -> Result {
        if !Self::possible(base, size) {
            return Err(EINVAL);
        }
        if Self::pages_of(base, size).any(|page| self.pages.contains_key(&page)) {
            return Err(EEXIST);
        }
        for page in Self::pages_of(base, size) {
            let lent = None;
            self.pages.insert(page, Page { nid, boot, lent });
        }
        Ok(())
    }

    /// What is wrong with a request, before any search.
    fn check(&self, request: &Request) -> Result {
        if !Self::possible(request.base.unwrap_or(0), request.size)
            || (request.below_4g && request.above_4g)
        {
            return Err(EINVAL);
        }
        let Some(base) = request.base else {
            return Ok(());
        };
        let pages = || Self::pages_of(base, request.size).map(|page| self.pages.get(&page));
        if pages().any(|page| page.is_none()) {
            return Err(EADDRNOTAVAIL);
        }
        if pages().flatten().any(|page| page.lent.is_some()) {
            return Err(EBUSY);
        }
        Ok(())
    }

    /// Whether `size` bytes at `base` are what the request allows.
    fn allowed(request: &Request, nid: i32, base: u64, size: u64) -> bool {
        request.nid.is_none_or(|wanted| wanted == nid)
            && request.base.is_none_or(|wanted| wanted == base)
            && (!request.below_4g || base + size <= FOUR_GIB)
            && (!request.above_4g || base >= FOUR_GIB)
    }

    /// The lowest place in each free run at which the request can be met.
    fn places<'a>(&'a self, request: &'a Request) -> impl Iterator<Item = (Run, u64)> + 'a {
        self.runs().into_iter().filter_map(|run| {
            let fits = |base: &u64| {
                request.size <= run.end() - base
                    && Self::allowed(request, run.page.nid, *base, request.size)
            };
            let free = run.page.lent.is_none();
            let mut bases = (run.base..run.end()).step_by(PAGE as usize);
            Some((run, bases.find(fits).filter(|_| free)?))
        })
    }

    fn take(&mut self, request: &Request, id: InstanceId) -> Result<u64> {
        self.check(request)?;
        let best = self
            .places(request)
            .min_by_key(|(run, base)| (run.size, *base));
        let base = best.ok_or(ENOSPC)?.1;
        self.takes += 1;
        for page in Self::pages_of(base, request.size) {
            self.pages.get_mut(&page).unwrap().lent = Some((id, self.takes));
        }
        Ok(base)
    }

    fn give_back(&mut self, base: u64, size: u64) {
        for page in Self::pages_of(base, size) {
            let page = self.pages.get_mut(&page).unwrap();
            assert!(page.lent.take().is_some());
        }
    }

    fn split(&mut self, base: u64, size: u64, keep: u64) -> Result {
        if !Self::possible(base, keep) || keep >= size {
            return Err(EINVAL);
        }
        self.takes += 1;
        for page in Self::pages_of(base + keep, size - keep) {
            if let Some((_, take)) = &mut self.pages.get_mut(&page).unwrap().lent {
                *take = self.takes;
            }
        }
        Ok(())
    }

    fn extend(&mut self, base: u64, size: u64, more: u64) -> Result {
        if !Self::possible(base + size, more) {
            return Err(EINVAL);
        }
        let own = self.pages[&(base / PAGE)];
        let free = Page { lent: None, ..own };
        if Self::pages_of(base + size, more).any(|page| self.pages.get(&page) != Some(&free)) {
            return Err(ENOSPC);
        }
        for page in Self::pages_of(base + size, more) {
            self.pages.insert(page, own);
        }
        Ok(())
    }

    /// The error that a withdrawal has to fail with, if it has to.
    fn check_withdraw(&self, request: &Request) -> Result {
        self.check(request)?;
        if request.base.is_some() {
            let (run, _) = self.places(request).next().ok_or(ENOSPC)?;
            return if run.page.boot { Err(EBUSY) } else { Ok(()) };
        }
        // Below 4 GiB a run counts only as a whole; above, the part there does.
        let usable = |run: &Run| {
            let base = if request.above_4g {
                run.base.max(FOUR_GIB)
            } else {
                run.base
            };
            let fits = run.page.lent.is_none()
                && !run.page.boot
                && base < run.end()
                && Self::allowed(request, run.page.nid, base, run.end() - base);
            if fits {
                run.end() - base
            } else {
                0
            }
        };
        if self.runs().iter().map(usable).sum::<u64>() < request.size {
            return Err(ENOSPC);
        }
        Ok(())
    }

    /// Takes out what the ledger says it gave, after a look at whether it was free to.
    fn withdraw(&mut self, request: &Request, ranges: &[(u64, u64)]) {
        assert_eq!(
            ranges.iter().map(|range| range.1).sum::<u64>(),
            request.size
        );
        assert!(ranges.windows(2).all(|pair| pair[0].0 > pair[1].0));
        for &(base, size) in ranges {
            assert!(Self::possible(base, size));
            for number in Self::pages_of(base, size) {
                let page = self.pages.remove(&number).expect("it is in the pool, once");
                assert!(page.lent.is_none() && !page.boot);
                let request = Request {
                    base: None,
                    ..*request
                };
                assert!(Self::allowed(&request, page.nid, number * PAGE, PAGE));
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u64, u64, i32, bool),
    Take(Request, u32),
    /// Gives back one of the regions held.
    GiveBack(prop::sample::Index),
    /// Gives back a region of another ledger.
    GiveBackForeign(u64, u64),
    /// Has one of the regions held keep only so many bytes.
    Split(prop::sample::Index, u64),
    /// Has one of the regions held get so many more.
    Extend(prop::sample::Index, u64),
    Withdraw(Request),
}

fn size() -> impl Strategy<Value = u64> {
    prop_oneof![
        12 => (1..=12u64).prop_map(|pages| pages * PAGE),
        1 => (0..3 * PAGE).prop_map(|bytes| bytes),
        1 => Just(u64::MAX - PAGE + 1),
    ]
}

fn base() -> impl Strategy<Value = u64> {
    prop_oneof![
        16 => (0..PAGES).prop_map(|page| (FIRST + page) * PAGE),
        1 => (FIRST * PAGE..(FIRST + PAGES) * PAGE).prop_map(|byte| byte),
        1 => Just(0),
        1 => Just(u64::MAX - PAGE + 1),
    ]
}

prop_compose! {
    fn request()(
        size in size(),
        base in prop::option::weighted(0.4, base()),
        nid in prop::option::weighted(0.2, 0..3i32),
        below_4g in prop::bool::weighted(0.2),
        above_4g in prop::bool::weighted(0.2),
    ) -> Request {
        Request { size, base, nid, below_4g, above_4g }
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        // Not from 0: the largest size would then be a possible one, and the model has every page.
        4 => (base(), size(), 0..2i32, prop::bool::weighted(0.2))
            .prop_map(|(base, size, nid, boot)| Step::Insert(base.max(PAGE), size, nid, boot)),
        4 => (request(), 3..=5u32).prop_map(|(request, id)| Step::Take(request, id)),
        3 => any::<prop::sample::Index>().prop_map(Step::GiveBack),
        1 => (0..PAGES, 1..4u64).prop_map(|(page, pages)| Step::GiveBackForeign(page, pages)),
        2 => request().prop_map(Step::Withdraw),
        2 => (any::<prop::sample::Index>(), size()).prop_map(|(at, size)| Step::Split(at, size)),
        2 => (any::<prop::sample::Index>(), size()).prop_map(|(at, size)| Step::Extend(at, size)),
    ]
}

fn foreign(page: u64, pages: u64) -> Region {
    let mut other = MemoryLedger::new(PAGE);
    let (base, size) = ((FIRST + page) * PAGE, pages * PAGE);
    other.insert(base, size, 0, false).unwrap();
    let request = Request {
        size,
        ..Request::default()
    };
    other.take(&request, InstanceId::new(3).unwrap()).unwrap()
}

fn check_invariants(ledger: &MemoryLedger) {
    for entry in ledger.entries() {
        assert!(Model::possible(entry.base, entry.size), "{entry:x?}");
    }
    for pair in ledger.entries().windows(2) {
        let (one, next) = (pair[0], pair[1]);
        assert!(one.base + one.size <= next.base, "{one:x?} {next:x?}");
        let same = one.nid == next.nid
            && one.boot == next.boot
            && one.owner == Owner::Pool
            && next.owner == Owner::Pool;
        assert!(
            !(same && one.base + one.size == next.base),
            "not merged: {one:x?} {next:x?}"
        );
    }
}

struct Pair {
    ledger: MemoryLedger,
    model: Model,
    held: Vec<Region>,
}

impl Pair {
    fn new() -> Self {
        Self {
            ledger: MemoryLedger::new(PAGE),
            model: Model::default(),
            held: Vec::new(),
        }
    }

    /// Does a step to both. `Some` is the error that both agree on; with `fails`, the allocation
    /// after so many fails, and no memory is what the ledger may say instead.
    fn step(&mut self, step: &Step, fails: Option<usize>) -> Option<Error> {
        let before = self.ledger.entries().to_vec();
        let theirs = match step {
            &Step::GiveBackForeign(page, pages) => Some(foreign(page, pages)),
            _ => None,
        };
        let fail = fails.map(FailNth::after);
        let out_of_memory =
            |error| error == ENOMEM && fail.as_ref().is_some_and(|fail| fail.has_failed());
        let error = match step {
            &Step::Insert(base, size, nid, boot) => {
                match self.ledger.insert(base, size, nid, boot) {
                    Err(error) if out_of_memory(error) => Some(error),
                    got => {
                        assert_eq!(got, self.model.insert(base, size, nid, boot));
                        got.err()
                    }
                }
            }
            Step::Take(request, id) => {
                let id = InstanceId::new(*id).unwrap();
                match self.ledger.take(request, id) {
                    Err(error) if out_of_memory(error) => Some(error),
                    Ok(region) => {
                        assert_eq!(Ok(region.base()), self.model.take(request, id));
                        assert_eq!(region.size(), request.size);
                        self.held.push(region);
                        None
                    }
                    Err(error) => {
                        assert_eq!(Err(error), self.model.take(request, id));
                        Some(error)
                    }
                }
            }
            Step::GiveBack(_) if self.held.is_empty() => None,
            Step::GiveBack(which) => {
                let region = self.held.swap_remove(which.index(self.held.len()));
                self.model.give_back(region.base(), region.size());
                assert!(self.ledger.give_back(region));
                None
            }
            Step::GiveBackForeign(..) => {
                let region = theirs?;
                let same =
                    |held: &&Region| held.base() == region.base() && held.size() == region.size();
                if self.held.iter().any(|held| same(&held)) {
                    // Indistinguishable from one that is held, which no caller can have.
                    return None;
                }
                assert!(!self.ledger.give_back(region));
                assert_eq!(before, self.ledger.entries());
                None
            }
            Step::Split(..) | Step::Extend(..) if self.held.is_empty() => None,
            Step::Split(which, size) => {
                let at = which.index(self.held.len());
                let region = &mut self.held[at];
                let (base, was) = (region.base(), region.size());
                match self.ledger.split(region, *size) {
                    Ok(rest) => {
                        assert_eq!(Ok(()), self.model.split(base, was, *size));
                        assert_eq!((region.base(), region.size()), (base, *size));
                        assert_eq!((rest.base(), rest.size()), (base + size, was - size));
                        self.held.push(rest);
                        None
                    }
                    Err(error) => {
                        assert_eq!((region.base(), region.size()), (base, was));
                        if !out_of_memory(error) {
                            assert_eq!(Err(error), self.model.split(base, was, *size));
                        }
                        Some(error)
                    }
                }
            }
            Step::Extend(which, more) => {
                let at = which.index(self.held.len());
                let region = &mut self.held[at];
                let (base, was) = (region.base(), region.size());
                match self.ledger.extend(region, *more) {
                    Ok(()) => {
                        assert_eq!(Ok(()), self.model.extend(base, was, *more));
                        assert_eq!((region.base(), region.size()), (base, was + more));
                        None
                    }
                    Err(error) => {
                        assert_eq!((region.base(), region.size()), (base, was));
                        if !out_of_memory(error) {
                            assert_eq!(Err(error), self.model.extend(base, was, *more));
                        }
                        Some(error)
                    }
                }
            }
            Step::Withdraw(request) => {
                let mut out = KVec::new();
                match self.ledger.withdraw(request, &mut out) {
                    Err(error) => {
                        assert!(out.is_empty());
                        if !out_of_memory(error) {
                            assert_eq!(Err(error), self.model.check_withdraw(request));
                        }
                        Some(error)
                    }
                    Ok(()) => {
                        assert_eq!(Ok(()), self.model.check_withdraw(request));
                        self.model.withdraw(request, &out);
                        None
                    }
                }
            }
        };
        if error.is_some() {
            assert_eq!(
                before,
                self.ledger.entries(),
                "changed by a failed {step:x?}"
            );
        }
        drop(fail);
        self.compare();
        error
    }

    fn compare(&self) {
        check_invariants(&self.ledger);
        assert_eq!(self.ledger.entries(), self.model.entries());
        let free = self.model.pages.values().filter(|page| page.lent.is_none());
        assert_eq!(self.ledger.free_bytes(), free.count() as u64 * PAGE);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1000,
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn does_what_the_model_does(steps in prop::collection::vec(step(), 1..60)) {
        let mut pair = Pair::new();
        for step in &steps {
            pair.step(step, None);
        }
        // Whatever happened, all of it can be undone.
        while let Some(region) = pair.held.pop() {
            pair.model.give_back(region.base(), region.size());
            prop_assert!(pair.ledger.give_back(region));
        }
        pair.compare();
    }

    #[test]
    fn is_unchanged_when_memory_runs_out(
        steps in prop::collection::vec((step(), prop::option::of(0..3usize)), 1..60),
    ) {
        let mut pair = Pair::new();
        for (step, fails) in &steps {
            if pair.step(step, *fails) == Some(ENOMEM) {
                // The same again, with memory: it was not half done.
                pair.step(step, None);
            }
        }
    }

    #[test]
    fn overlap_is_told_to_the_byte(
        steps in prop::collection::vec(step(), 1..20),
        base in base(),
        size in size(),
    ) {
        let mut pair = Pair::new();
        for step in &steps {
            pair.step(step, None);
        }
        let inside = |page: &u64| {
            let (start, end) = (u128::from(page * PAGE), u128::from((page + 1) * PAGE));
            u128::from(base) < end && start < u128::from(base) + u128::from(size)
        };
        // An empty range shares no byte; what the ledger says of it is not used.
        prop_assume!(size != 0);
        prop_assert_eq!(pair.ledger.overlaps(base, size), pair.model.pages.keys().any(inside));
    }
}
