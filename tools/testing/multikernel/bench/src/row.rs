// SPDX-License-Identifier: GPL-2.0

//! What is printed and written of the figures.
//!
//! For messages between cores of the build machine, and from this same file for those between
//! kernels (tools/multikernel/mkbench).

// Each of the two uses a part of it.
#![allow(dead_code)]

use serde_json::{json, Value};

/// Of what kind a figure is.
#[derive(Clone, Copy, PartialEq)]
pub enum Unit {
    /// Nanoseconds; less is better.
    Ns,
    /// Millions of messages in a second; more is better.
    Rate,
    /// Millions of bytes of payload in a second; more is better.
    Bytes,
    /// Thousands of messages in a second; more is better.
    Thousands,
    /// So many for a thousand messages; less is better.
    PerThousand,
    /// So many in a second; less is better.
    PerSecond,
}

impl Unit {
    fn more_is_better(self) -> bool {
        matches!(self, Self::Rate | Self::Bytes | Self::Thousands)
    }
}

/// What came of one run.
pub struct Figure {
    /// The run's mean.
    pub mean: f64,
    /// Single messages, or parts of the run.
    pub parts: Vec<f64>,
}

impl Figure {
    /// Of parts, of which there is one at least, and their mean.
    pub fn of_parts(parts: Vec<f64>) -> Self {
        let mean = parts.iter().sum::<f64>() / parts.len() as f64;
        Self { mean, parts }
    }

    /// Half of everything.
    pub fn half(&self) -> Self {
        Self {
            mean: self.mean / 2.0,
            parts: self.parts.iter().map(|part| part / 2.0).collect(),
        }
    }
}

/// One line of the table.
pub struct Row {
    name: String,
    unit: Unit,
    against: Option<&'static str>,
    aim: Option<f64>,
    /// Of each round; `None` where the run was given up.
    rounds: Vec<Option<f64>>,
    parts: Vec<f64>,
}

/// A line in which everything has been computed.
pub struct Finished {
    row: Row,
    /// Those there are of `rounds`, sorted.
    means: Vec<f64>,
    median: f64,
    p99: f64,
    ratio: Option<f64>,
}

impl Row {
    /// A line without figures. `against` is the line that it is held against, `aim` the ratio that
    /// it should have, or its own value where it is held against nothing.
    pub fn new(name: String, unit: Unit, against: Option<&'static str>, aim: Option<f64>) -> Self {
        Self {
            name,
            unit,
            against,
            aim,
            rounds: Vec::new(),
            parts: Vec::new(),
        }
    }

    /// Adds what came of the next round.
    pub fn add(&mut self, figure: Option<Figure>) {
        self.rounds.push(figure.as_ref().map(|figure| figure.mean));
        self.parts
            .extend(figure.into_iter().flat_map(|figure| figure.parts));
    }

    /// The median over all rounds of what part of `limit` this is. Whatever slows the machine for a
    /// while slows both.
    fn ratio(&self, limit: &Self) -> Option<f64> {
        let rounds = self.rounds.iter().zip(&limit.rounds);
        let mut ratios: Vec<f64> = rounds
            .filter_map(|(own, limit)| Some((*own)? / (*limit)?))
            .collect();
        ratios.sort_by(f64::total_cmp);
        (!ratios.is_empty()).then(|| at(&ratios, 0.5))
    }
}

fn at(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

/// Computes what is to be shown. Lines without figures are left out.
pub fn finish(rows: Vec<Row>) -> Vec<Finished> {
    let ratio = |row: &Row| {
        let limit = rows
            .iter()
            .find(|limit| Some(&*limit.name) == row.against)?;
        row.ratio(limit)
    };
    let ratios: Vec<Option<f64>> = rows.iter().map(ratio).collect();
    let finish = |(mut row, ratio): (Row, Option<f64>)| {
        let mut means: Vec<f64> = row.rounds.iter().copied().flatten().collect();
        means.sort_by(f64::total_cmp);
        row.parts.sort_by(f64::total_cmp);
        let worst = match row.unit.more_is_better() {
            true => 0.01,
            false => 0.99,
        };
        (!means.is_empty()).then(|| Finished {
            median: at(&means, 0.5),
            p99: at(&row.parts, worst),
            ratio,
            means,
            row,
        })
    };
    rows.into_iter().zip(ratios).filter_map(finish).collect()
}

fn unit_name(unit: Unit) -> &'static str {
    match unit {
        Unit::Ns => "ns",
        Unit::Rate => "M/s",
        Unit::Bytes => "MB/s",
        Unit::Thousands => "k/s",
        Unit::PerThousand => "/1000",
        Unit::PerSecond => "/s",
    }
}

fn verdict(done: &Finished) -> String {
    let Some(aim) = done.row.aim else {
        return String::new();
    };
    let value = match done.row.against {
        Some(_) => done.ratio,
        None => Some(done.median),
    };
    let reached = value.is_some_and(|value| match done.row.unit.more_is_better() {
        true => value >= aim,
        false => value <= aim,
    });
    format!("{aim} {}", if reached { "reached" } else { "missed" })
}

/// Prints the table.
pub fn print(rows: &[Finished]) {
    println!(
        "{:<40}{:>10}{:>10}{:>10}{:>10} {:<4}{:>5}{:>7}  aim",
        "what", "median", "p99", "min", "max", "unit", "runs", "ratio"
    );
    for done in rows {
        let Finished {
            row,
            means,
            median,
            p99,
            ..
        } = done;
        let ratio = done
            .ratio
            .map(|ratio| format!("{ratio:.2}"))
            .unwrap_or_default();
        println!(
            "{:<40}{median:>10.2}{p99:>10.2}{:>10.2}{:>10.2} {:<4}{:>5}{ratio:>7}  {}",
            row.name,
            at(means, 0.0),
            at(means, 1.0),
            unit_name(row.unit),
            means.len(),
            verdict(done)
        );
    }
}

fn rounded(value: f64) -> Value {
    json!((value * 1e3).round() / 1e3)
}

/// The rows as scripts/multikernel/bench has them.
pub fn to_json(rows: &[Finished]) -> String {
    let rows: Vec<Value> = rows
        .iter()
        .map(|done| {
            let (row, means) = (&done.row, &done.means);
            json!({
                "name": row.name,
                "unit": unit_name(row.unit),
                "median": rounded(done.median),
                "p99": rounded(done.p99),
                "min": rounded(at(means, 0.0)),
                "max": rounded(at(means, 1.0)),
                "runs": means.len(),
                "against": row.against,
                "ratio": done.ratio.map(rounded),
                "aim": row.aim,
                "more_is_better": row.unit.more_is_better(),
            })
        })
        .collect();
    Value::from(rows).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(parts: &[f64]) -> Option<Figure> {
        Some(Figure::of_parts(parts.to_vec()))
    }

    fn row(name: &str, unit: Unit, against: Option<&'static str>, rounds: &[f64]) -> Row {
        let mut row = Row::new(name.to_owned(), unit, against, Some(2.0));
        rounds.iter().for_each(|round| row.add(figure(&[*round])));
        row
    }

    fn value(rows: &[Finished], at: usize) -> Value {
        let rows: Value = serde_json::from_str(&to_json(rows)).unwrap();
        rows[at].clone()
    }

    #[test]
    fn median_and_spread_are_of_runs_and_p99_of_parts() {
        let mut times = Row::new("times".to_owned(), Unit::Ns, None, None);
        let mut rates = Row::new("rates".to_owned(), Unit::Rate, None, None);
        for run in [3, 1, 2] {
            let parts: Vec<f64> = (1..=100).map(|part| f64::from(run * 1000 + part)).collect();
            times.add(figure(&parts));
            rates.add(figure(&parts));
        }
        times.add(None);
        let rows = finish(vec![times, rates]);
        for at in [0, 1] {
            let row = value(&rows, at);
            assert_eq!(row["runs"], 3);
            assert_eq!(row["median"], 2050.5);
            assert_eq!(row["min"], 1050.5);
            assert_eq!(row["max"], 3050.5);
        }
        // The longest of a hundred, or the least of a hundred.
        assert_eq!(value(&rows, 0)["p99"], 3097.0);
        assert_eq!(value(&rows, 1)["p99"], 1004.0);
    }

    #[test]
    fn a_ratio_is_the_median_of_those_within_a_round() {
        // The machine was ten times slower in the second round, for both.
        let mut limit = row("limit", Unit::Ns, None, &[10.0, 100.0, 10.0]);
        let held = row(
            "held",
            Unit::Ns,
            Some("limit"),
            &[15.0, 150.0, 30.0, 900.0, 900.0],
        );
        limit.add(None);
        let mut gap = row("gap", Unit::Ns, Some("limit"), &[20.0]);
        gap.add(None);
        let rows = finish(vec![limit, held, gap]);
        assert_eq!(value(&rows, 0)["ratio"], Value::Null);
        assert_eq!(value(&rows, 1)["ratio"], 1.5);
        assert_eq!(value(&rows, 2)["ratio"], 2.0);
        assert_eq!(value(&rows, 2)["runs"], 1);
    }

    #[test]
    fn an_aim_is_the_most_or_the_least() {
        for (unit, rounds, verdict_is) in [
            (Unit::Ns, [1.9], "2 reached"),
            (Unit::Ns, [2.1], "2 missed"),
            (Unit::PerThousand, [2.1], "2 missed"),
            (Unit::PerSecond, [0.0], "2 reached"),
            (Unit::Rate, [1.9], "2 missed"),
            (Unit::Thousands, [2.0], "2 reached"),
            (Unit::Bytes, [1.0], "2 missed"),
        ] {
            let rows = finish(vec![row("own", unit, None, &rounds)]);
            assert_eq!(verdict(&rows[0]), verdict_is);
            assert_eq!(value(&rows, 0)["more_is_better"], unit.more_is_better());
        }
        // Held against a row that is not there.
        let rows = finish(vec![row("own", Unit::Ns, Some("none"), &[1.0])]);
        assert_eq!(verdict(&rows[0]), "2 missed");
    }

    #[test]
    fn rows_without_figures_are_left_out() {
        let mut none = Row::new("none".to_owned(), Unit::Ns, None, None);
        none.add(None);
        let rows = finish(vec![none, row("one", Unit::Ns, None, &[1.0])]);
        assert_eq!(rows.len(), 1);
        assert_eq!(value(&rows, 0)["name"], "one");
    }
}
