// SPDX-License-Identifier: GPL-2.0

//! The crash matrix that the selftest plays is what the model yields.

use std::collections::HashSet;

use multikernel_model::matrix::{lines, text, Moment, Pair};
use multikernel_model::Side;

#[test]
fn the_selftest_has_the_lines_of_the_model() {
    let file = include_str!("../../../selftests/multikernel/handover_matrix.txt");
    // Lines in which nothing can come of it, or in which both sides may own it for ever, would be
    // a defect of the walk.
    assert!(lines().iter().all(|line| !line.outcomes.is_empty()));
    let (ours, theirs): (HashSet<_>, HashSet<_>) = (
        text().lines().map(str::to_owned).collect(),
        file.lines().map(str::to_owned).collect(),
    );
    let differ: Vec<_> = ours.symmetric_difference(&theirs).collect();
    assert!(
        differ.is_empty() && text() == file,
        "make it anew: cargo run -p multikernel-model --bin matrix; these differ: {differ:#?}"
    );
}

/// Every step of the protocol, with every moment of it, on every pair.
#[test]
fn no_step_is_left_out() {
    let lines = lines();
    for pair in Pair::ALL {
        for step in ["offer", "accept", "commit", "abort", "wait"] {
            for moment in [Moment::Done, Moment::Asked, Moment::Made] {
                for side in Side::ALL {
                    let found = lines.iter().any(|line| {
                        let said = line.to_string();
                        let path = said.split(' ').nth(1).unwrap_or_default();
                        let path = path.trim_end_matches('!');
                        // What has been waited for is known: both sides have been told by then.
                        let last = path.ends_with(&format!(".{step}"))
                            || (step, moment) == ("wait", Moment::Done);
                        line.pair == pair && line.moment == moment && line.side == side && last
                    });
                    assert!(found, "{pair:?} {step} {moment:?} {side:?}");
                }
            }
        }
    }
}
