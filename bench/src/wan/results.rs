//! Every run that was made, as JSON. It is written after each, so that a measurement that is cut off goes on where it was;
//! medians and what stands beside them follow from the runs.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::link::Fault;
use super::plan::{Cell, Task};
use super::rows::{COLUMNS, PAIRS, Row, all};
use crate::Result;

/// What came out of one run.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Run {
    pub(super) seed: u64,
    pub(super) seconds: u64,
    /// Goodput of each sender.
    pub(super) mbps: Vec<f64>,
    /// Packets that left the link later than they should have, in percent.
    pub(super) late_pct: f64,
    /// The tree that was measured.
    pub(super) commit: String,
}

/// All runs, by the name of the row or pair and the name of the column.
#[derive(Default)]
pub(super) struct Results {
    path: PathBuf,
    runs: BTreeMap<(String, String), Vec<Run>>,
}

impl Results {
    /// Those of earlier measurements, if there are any.
    pub(super) fn load(path: &Path) -> Result<Self> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => "{}".to_owned(),
            Err(error) => return Err(format!("{}: {error}", path.display()).into()),
        };
        let value: Value =
            serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut runs = BTreeMap::new();
        let places = ["rows", "pairs"].into_iter().filter_map(|list| value.get(list)?.as_array()).flatten();
        for place in places {
            let name = place.get("name").and_then(Value::as_str).unwrap_or_default();
            for (column, list) in place.get("runs").and_then(Value::as_object).into_iter().flatten() {
                let list = list.as_array().into_iter().flatten().filter_map(Run::from_json).collect();
                runs.insert((name.to_owned(), column.clone()), list);
            }
        }
        Ok(Self { path: path.to_owned(), runs })
    }

    /// Replaces the file in one step.
    pub(super) fn save(&self) -> Result<()> {
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory)?;
        }
        let new = self.path.with_extension("new");
        fs::write(&new, serde_json::to_string_pretty(&self.to_json())? + "\n")
            .and_then(|()| fs::rename(&new, &self.path))
            .map_err(|error| format!("{}: {error}", self.path.display()).into())
    }

    pub(super) fn runs(&self, name: &str, column: &str) -> &[Run] {
        let runs = self.runs.get(&(name.to_owned(), column.to_owned()));
        runs.map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether this run was made already.
    pub(super) fn has(&self, task: &Task, seconds: u64) -> bool {
        let (name, column) = task.cell.place();
        self.runs(name, column).iter().any(|run| run.seed == task.seed && run.seconds == seconds)
    }

    pub(super) fn forget(&mut self, cell: &Cell) {
        let (name, column) = cell.place();
        self.runs.remove(&(name.to_owned(), column.to_owned()));
    }

    /// Takes a run, in the place of one with the same seed. Runs of another length do not count beside it, and go.
    pub(super) fn add(&mut self, cell: &Cell, run: Run) {
        let (name, column) = cell.place();
        let runs = self.runs.entry((name.to_owned(), column.to_owned())).or_default();
        runs.retain(|old| old.seed != run.seed && old.seconds == run.seconds);
        runs.push(run);
        runs.sort_by_key(|run| run.seed);
    }

    fn to_json(&self) -> Value {
        let rows = all();
        let rows = rows.iter().filter_map(|row| self.row(row));
        let pairs = PAIRS.iter().filter_map(|pair| {
            let runs = self.runs(pair.name, Cell::PAIR);
            let mut object = Map::new();
            object.insert("name".to_owned(), json!(pair.name));
            let of = |index: usize| runs.iter().filter_map(|run| run.mbps.get(index).copied()).collect();
            put(&mut object, "first_mbps", of(0));
            put(&mut object, "second_mbps", of(1));
            put(&mut object, "jain", runs.iter().map(|run| jain(&run.mbps)).collect());
            object.insert("runs".to_owned(), json!({ Cell::PAIR: to_json(runs) }));
            (!runs.is_empty()).then_some(object)
        });
        json!({ "rows": rows.collect::<Vec<_>>(), "pairs": pairs.collect::<Vec<_>>() })
    }

    /// `None`: nothing of it was measured.
    fn row(&self, row: &Row) -> Option<Map<String, Value>> {
        let percent = |share: f64| (share * 1e6).round() / 1e4;
        let (loss, reorder) = match row.fault {
            Fault::None => (0.0, 0.0),
            Fault::Loss(share) | Fault::Bursts(share) => (percent(share), 0.0),
            Fault::Reorder(share) => (0.0, percent(share)),
        };
        let mut object = Map::new();
        object.insert("name".to_owned(), json!(row.name));
        object.insert("rate_mbps".to_owned(), json!(row.path.rate_mbps));
        object.insert("rtt_ms".to_owned(), json!(row.path.rtt_ms));
        object.insert("queue_bytes".to_owned(), json!(row.path.queue_bytes()));
        object.insert("loss_pct".to_owned(), json!(loss));
        object.insert("reorder_pct".to_owned(), json!(reorder));
        let mut all = Map::new();
        for column in COLUMNS {
            let runs = self.runs(&row.name, column.name);
            if !runs.is_empty() {
                let rates = runs.iter().filter_map(|run| run.mbps.first().copied()).collect();
                put(&mut object, &format!("{}_mbps", column.name), rates);
                all.insert(column.name.to_owned(), to_json(runs));
            }
        }
        let measured = !all.is_empty();
        object.insert("runs".to_owned(), Value::Object(all));
        measured.then_some(object)
    }
}

impl Run {
    fn from_json(value: &Value) -> Option<Self> {
        Some(Self {
            seed: value.get("seed")?.as_u64()?,
            seconds: value.get("seconds")?.as_u64()?,
            mbps: value.get("mbps")?.as_array()?.iter().filter_map(Value::as_f64).collect(),
            late_pct: value.get("late_pct")?.as_f64()?,
            commit: value.get("commit")?.as_str()?.to_owned(),
        })
    }
}

fn to_json(runs: &[Run]) -> Value {
    let one = |run: &Run| {
        json!({
            "seed": run.seed,
            "seconds": run.seconds,
            "mbps": run.mbps.iter().copied().map(round).collect::<Vec<_>>(),
            "late_pct": round(run.late_pct),
            "commit": run.commit,
        })
    };
    runs.iter().map(one).collect()
}

/// The median under `name`, the extremes beside it.
fn put(object: &mut Map<String, Value>, name: &str, mut rates: Vec<f64>) {
    rates.sort_by(f64::total_cmp);
    if let (Some(middle), Some(least), Some(most)) = (median(&rates), rates.first(), rates.last()) {
        object.insert(name.to_owned(), json!(round(middle)));
        object.insert(format!("{name}_min"), json!(round(*least)));
        object.insert(format!("{name}_max"), json!(round(*most)));
    }
}

/// Of numbers in ascending order.
pub(super) fn median(sorted: &[f64]) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    Some(f64::midpoint(sorted[last / 2], sorted[last.div_ceil(2)]))
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// Jain's fairness index: 1 when all rates are equal, one part of their number when one has everything.
#[expect(clippy::cast_precision_loss, reason = "two")]
pub(super) fn jain(rates: &[f64]) -> f64 {
    let (sum, squares) =
        rates.iter().fold((0.0, 0.0), |(sum, squares), rate| (sum + rate, squares + rate * rate));
    if squares == 0.0 { 0.0 } else { sum * sum / (rates.len() as f64 * squares) }
}

#[cfg(test)]
#[expect(clippy::expect_used, reason = "a failure is a failed test")]
mod tests {
    use super::super::plan::Choice;
    use super::*;

    #[test]
    fn the_median_and_the_extremes() {
        let mut object = Map::new();
        put(&mut object, "a", vec![3.0, 1.0, 2.0]);
        put(&mut object, "b", vec![1.0, 4.0]);
        assert_eq!(
            Value::Object(object),
            json!({"a": 2.0, "a_min": 1.0, "a_max": 3.0, "b": 2.5, "b_min": 1.0, "b_max": 4.0})
        );
    }

    #[test]
    fn fairness() {
        assert!((jain(&[5.0, 5.0]) - 1.0).abs() < 1e-9);
        assert!((jain(&[5.0, 0.0]) - 0.5).abs() < 1e-9);
    }

    fn run(seed: u64, seconds: u64, mbps: f64) -> Run {
        Run { seed, seconds, mbps: vec![mbps], late_pct: 0.25, commit: "abc".to_owned() }
    }

    #[test]
    fn what_was_saved_goes_on_where_it_was() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("results/wan.json");
        let mut results = Results::load(&path).expect("no file is no results");
        let tasks = Choice { rows: &[], columns: &[], pairs: true }.tasks(2);
        let (one, two) = (&tasks[0], &tasks[tasks.len() / 2]);
        assert_eq!((one.seed, two.seed), (1, 2));
        results.add(&one.cell, run(1, 60, 100.0));
        let last = tasks.last().expect("pairs");
        results.add(&last.cell, Run { mbps: vec![20.0, 60.0], ..run(1, 60, 0.0) });
        results.save().expect("a file");

        let mut results = Results::load(&path).expect("the file");
        assert!(results.has(one, 60) && !results.has(one, 10) && !results.has(two, 60));
        results.add(&two.cell, run(2, 60, 120.0));
        let json = results.to_json();
        let row = &json["rows"][0];
        assert_eq!(
            (&row["linux_to_linux_mbps"], &row["linux_to_linux_mbps_max"]),
            (&json!(110.0), &json!(120.0))
        );
        assert_eq!((&row["queue_bytes"], &json["pairs"][0]["jain"]), (&json!(500_000), &json!(0.8)));
        // Another length starts anew.
        results.add(&two.cell, run(2, 10, 50.0));
        assert_eq!(results.to_json()["rows"][0]["linux_to_linux_mbps_max"], json!(50.0));
        results.forget(&one.cell);
        assert_eq!(results.to_json()["rows"], json!([]));
    }
}
