// SPDX-License-Identifier: GPL-2.0

//! What came of it: a table for people, JSON for programs.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::balance::median;
use crate::plan::Kind;
use crate::stamps::Stamped;

/// What a round came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How it was to end.
    pub kind: Kind,
    /// How it ended, as `state/reason`.
    pub end: String,
    /// Milliseconds from the fault to the host's notice.
    pub seen_ms: Option<f64>,
    /// Milliseconds from the fault until the next life works.
    pub restarted_ms: Option<f64>,
    /// Whatever was not as it has to be.
    pub problems: Vec<String>,
}

/// Rounds of one kind.
#[derive(Debug, Serialize)]
pub struct Row {
    kind: Kind,
    rounds: usize,
    as_expected: usize,
    ends: BTreeMap<String, usize>,
    seen_median_ms: Option<f64>,
    seen_worst_ms: Option<f64>,
    restarted_median_ms: Option<f64>,
    restarted_worst_ms: Option<f64>,
}

/// All of it.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Rounds that were asked for.
    pub rounds_asked: u64,
    /// Rounds that were played.
    pub rounds: u64,
    /// How long that took.
    pub seconds: f64,
    /// Rounds of stamps that were asked for.
    pub stamps_asked: u64,
    /// What came of them.
    pub stamps: Stamped,
    /// By kind.
    pub kinds: Vec<Row>,
    /// Whatever was wrong in a round, with its number.
    pub failures: Vec<String>,
    /// What the host has less of than before.
    pub leaks: Vec<String>,
    /// What a workload lost.
    pub lost_work: Vec<String>,
    /// Free memory and unreclaimable slab, in KiB, before which round, each time that all which was
    /// lent to crash was back.
    pub looks: Vec<(u64, i64, i64)>,
    /// Trend of free memory in KiB for each round; below 0 it gets less.
    pub free_kib_per_round: Option<f64>,
    /// Largest and smallest free memory in the same situation, in KiB.
    pub free_kib_spread: Option<i64>,
    /// Trend of unreclaimable slab memory in KiB for each round.
    pub slab_kib_per_round: Option<f64>,
    /// Steps of the host's work, its files, its processes.
    pub host_work: (u64, u64, u64),
    /// Steps of the sibling's work.
    pub sibling_work: u64,
    /// The longest that a thread of the host that slept for 5 ms was late, in milliseconds.
    pub worst_host_delay_ms: f64,
}

impl Report {
    /// Whether nothing was wrong.
    pub fn is_clean(&self) -> bool {
        self.rounds + self.stamps.rounds > 0
            && self.stamps.bad_words == 0
            && self.failures.is_empty()
            && self.leaks.is_empty()
            && self.lost_work.is_empty()
    }
}

fn worst(values: &[f64]) -> Option<f64> {
    values.iter().copied().max_by(f64::total_cmp)
}

/// The rows for outcomes.
pub fn rows(outcomes: &[Outcome]) -> Vec<Row> {
    let mut kinds: BTreeMap<Kind, Vec<&Outcome>> = BTreeMap::new();
    for outcome in outcomes {
        kinds.entry(outcome.kind).or_default().push(outcome);
    }
    kinds
        .into_iter()
        .map(|(kind, outcomes)| {
            let mut seen: Vec<_> = outcomes.iter().filter_map(|one| one.seen_ms).collect();
            let mut restarted: Vec<_> =
                outcomes.iter().filter_map(|one| one.restarted_ms).collect();
            let mut ends = BTreeMap::new();
            for outcome in &outcomes {
                *ends.entry(outcome.end.clone()).or_default() += 1;
            }
            Row {
                kind,
                rounds: outcomes.len(),
                as_expected: outcomes
                    .iter()
                    .filter(|one| one.problems.is_empty())
                    .count(),
                ends,
                seen_median_ms: median(&mut seen),
                seen_worst_ms: worst(&seen),
                restarted_median_ms: median(&mut restarted),
                restarted_worst_ms: worst(&restarted),
            }
        })
        .collect()
}

/// A time in a column, or that there is none.
struct Time(Option<f64>);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(ms) => f.pad(&format!("{ms:.1}")),
            None => f.pad("-"),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<14}{:>7}{:>9}{:>10}{:>10}{:>12}{:>12}  ended as",
            "kind", "rounds", "expected", "seen ms", "worst", "restarted", "worst"
        )?;
        for row in &self.kinds {
            let ends: Vec<_> = row
                .ends
                .iter()
                .map(|(end, n)| format!("{end} {n}"))
                .collect();
            writeln!(
                f,
                "{:<14}{:>7}{:>9}{:>10}{:>10}{:>12}{:>12}  {}",
                row.kind.to_string(),
                row.rounds,
                row.as_expected,
                Time(row.seen_median_ms),
                Time(row.seen_worst_ms),
                Time(row.restarted_median_ms),
                Time(row.restarted_worst_ms),
                ends.join(", ")
            )?;
        }
        let (steps, files, processes) = self.host_work;
        writeln!(
            f,
            "{} of {} rounds in {:.0} s, seed {}: {} failed, {} leaks, {} losses of work",
            self.rounds,
            self.rounds_asked,
            self.seconds,
            self.seed,
            self.failures.len(),
            self.leaks.len(),
            self.lost_work.len()
        )?;
        writeln!(
            f,
            "work done: host {steps} steps, {files} files, {processes} processes; \
             sibling {} steps; the host was late by {:.0} ms at worst",
            self.sibling_work, self.worst_host_delay_ms
        )?;
        if let Some((least, most)) = self.stamps.stores {
            writeln!(
                f,
                "{} of {} rounds of stamps in {:.0} s, panics after {least} to {most} stores: \
                 {} words, {} bad",
                self.stamps.rounds,
                self.stamps_asked,
                self.stamps.seconds,
                self.stamps.words,
                self.stamps.bad_words
            )?;
        }
        if let (Some(free), Some(slab)) = (self.free_kib_per_round, self.slab_kib_per_round) {
            writeln!(
                f,
                "trend for each round: free memory {free:+.2} KiB (it varies by {} KiB), \
                 unreclaimable slab {slab:+.2} KiB",
                self.free_kib_spread.unwrap_or(0)
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_by_kind() {
        let outcome = |kind, ms, bad: bool| Outcome {
            kind,
            end: "crashed/panic".into(),
            seen_ms: Some(ms),
            restarted_ms: None,
            problems: if bad { vec!["x".into()] } else { Vec::new() },
        };
        let rows = rows(&[
            outcome(Kind::Null, 3.0, false),
            outcome(Kind::Panic, 5.0, false),
            outcome(Kind::Null, 1.0, true),
            outcome(Kind::Null, 2.0, false),
        ]);
        assert_eq!(rows.len(), 2);
        let null = &rows[1];
        assert_eq!((null.rounds, null.as_expected), (3, 2));
        assert_eq!(
            (null.seen_median_ms, null.seen_worst_ms),
            (Some(2.0), Some(3.0))
        );
        assert_eq!(null.restarted_median_ms, None);
        let report = Report {
            kinds: rows,
            ..Report::default()
        };
        assert!(report.to_string().contains("crashed/panic 3"));
        assert!(serde_json::to_string(&report)
            .unwrap()
            .contains("\"kind\":\"null\""));
    }
}
