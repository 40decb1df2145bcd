// SPDX-License-Identifier: GPL-2.0

//! Visits every state of a hand-over, and sees that defects would be found.

use multikernel_model::{Defect, HandOver};
use stateright::{Checker, HasDiscoveries, Model};

fn model(defect: Option<Defect>) -> HandOver {
    HandOver {
        offers: 2,
        changes: 1,
        ends: 2,
        defect,
    }
}

#[test]
fn every_state_is_good() {
    let checker = model(None).checker().spawn_bfs().join();
    checker.assert_properties();
    println!(
        "{} states, {} of them different",
        checker.state_count(),
        checker.unique_state_count()
    );
    assert!(checker.unique_state_count() > 1000);
}

/// From each state the session can be had by somebody: nothing that dies leaves it stuck.
#[test]
fn nobody_is_stuck() {
    use multikernel_model::{Role, Side};
    use std::collections::{HashMap, HashSet, VecDeque};

    // Backwards from the states in which a kernel may change it, over all that there are.
    let model = model(None);
    let mut numbers = HashMap::new();
    let mut states = Vec::new();
    let mut before: Vec<Vec<usize>> = Vec::new();
    let mut queue = VecDeque::new();
    for state in model.init_states() {
        numbers.insert(state.clone(), 0);
        states.push(state);
        before.push(Vec::new());
        queue.push_back(0);
    }
    while let Some(at) = queue.pop_front() {
        let state = states[at].clone();
        for next in model.next_states(&state) {
            if !model.within_boundary(&next) {
                continue;
            }
            let number = *numbers.entry(next.clone()).or_insert_with(|| {
                states.push(next);
                before.push(Vec::new());
                queue.push_back(states.len() - 1);
                states.len() - 1
            });
            before[number].push(at);
        }
    }
    // What comes after the last offer of the model is not known.
    let owned = |at: &usize| {
        let state = &states[*at];
        let owner = |side: &Side| state.kernel(*side).role == Role::Owner;
        state.ownership.offers() == model.offers || Side::ALL.iter().any(owner)
    };
    let mut good: HashSet<usize> = (0..states.len()).filter(owned).collect();
    let mut queue: VecDeque<usize> = good.iter().copied().collect();
    while let Some(at) = queue.pop_front() {
        for &earlier in &before[at] {
            if good.insert(earlier) {
                queue.push_back(earlier);
            }
        }
    }
    let stuck = (0..states.len()).find(|at| !good.contains(at));
    assert!(stuck.is_none(), "stuck: {:#?}", stuck.map(|at| &states[at]));
}

#[test]
fn defects_are_found() {
    for defect in [
        Defect::ForgetDoubt,
        Defect::ChangeOffered,
        Defect::LivesMix,
        Defect::NoSequence,
        Defect::CommitAnyway,
    ] {
        let checker = model(Some(defect))
            .checker()
            .finish_when(HasDiscoveries::AnyFailures)
            .spawn_bfs()
            .join();
        let found = checker.discoveries();
        let failures = found
            .keys()
            .filter(|name| !name.starts_with("it is taken") && !name.starts_with("and handed"));
        assert!(failures.count() > 0, "{defect:?} was not found");
    }
}
