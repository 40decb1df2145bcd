// SPDX-License-Identifier: GPL-2.0

//! What is printed and written of the figures.

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
}

/// What came of one run.
pub struct Figure {
    /// The run's mean.
    pub mean: f64,
    /// Single messages, or parts of the run.
    pub parts: Vec<f64>,
}

impl Figure {
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
        let worst = match row.unit {
            Unit::Ns => 0.99,
            Unit::Rate | Unit::Bytes => 0.01,
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
    let reached = value.is_some_and(|value| match done.row.unit {
        Unit::Ns => value <= aim,
        Unit::Rate | Unit::Bytes => value >= aim,
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
                "more_is_better": row.unit != Unit::Ns,
            })
        })
        .collect();
    Value::from(rows).to_string()
}
