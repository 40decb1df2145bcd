// SPDX-License-Identifier: GPL-2.0

//! What has been measured: nanoseconds, by the name of a row.

use std::collections::BTreeMap;

/// What has been measured.
#[derive(Default)]
pub struct Samples {
    rows: BTreeMap<String, Vec<u64>>,
    tsc_khz: u64,
}

impl Samples {
    /// None yet, for a time-stamp counter of that frequency.
    pub fn new(tsc_khz: u32) -> Self {
        let (rows, tsc_khz) = (BTreeMap::new(), tsc_khz.into());
        Self { rows, tsc_khz }
    }

    /// Adds the time between two looks at the time-stamp counter. What ended before it began, by
    /// counters that differ, took no time.
    pub fn add(&mut self, name: &str, from: u64, to: u64) {
        let ticks = u128::from(to.saturating_sub(from));
        let nanoseconds = ticks * 1_000_000 / u128::from(self.tsc_khz.max(1));
        let nanoseconds = u64::try_from(nanoseconds).unwrap_or(u64::MAX);
        self.rows
            .entry(name.to_owned())
            .or_default()
            .push(nanoseconds);
    }

    /// As JSON.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!(self.rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_to_nanoseconds() {
        let mut samples = Samples::new(2_000_000);
        samples.add("a", 10, 30);
        samples.add("a", 30, 10);
        samples.add("b", 0, u64::MAX);
        let json = samples.to_json();
        assert_eq!(json["a"], serde_json::json!([10, 0]));
        assert_eq!(json["b"], serde_json::json!([u64::MAX / 2]));
    }
}
