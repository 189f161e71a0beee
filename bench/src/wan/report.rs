//! Medians with their extremes, as JSON and as a table.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::link::Fault;
use super::rows::{COLUMNS, Column, Pair, Row};
use crate::Result;

/// The results so far: an object with `rows` and `pairs`.
pub(super) struct Report {
    rows: Vec<Value>,
    pairs: Vec<Value>,
}

impl Report {
    /// Those of an earlier run, if there are any.
    pub(super) fn load(path: &Path) -> Result<Self> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => "{}".to_owned(),
            Err(error) => return Err(format!("{}: {error}", path.display()).into()),
        };
        let value: Value =
            serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        let list = |name| value.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
        Ok(Self { rows: list("rows"), pairs: list("pairs") })
    }

    pub(super) fn save(&self, path: &Path) -> Result<()> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let text = serde_json::to_string_pretty(&json!({ "rows": self.rows, "pairs": self.pairs }))?;
        fs::write(path, text + "\n").map_err(|error| format!("{}: {error}", path.display()).into())
    }

    /// A row's cells; cells of it that were measured earlier and not now stay.
    pub(super) fn row(&mut self, row: &Row, seconds: u64, cells: &[(Column, Vec<f64>)]) {
        let percent = |share: f64| (share * 1e6).round() / 1e4;
        let (loss, reorder) = match row.fault {
            Fault::None => (0.0, 0.0),
            Fault::Loss(share) | Fault::Bursts(share) => (percent(share), 0.0),
            Fault::Reorder(share) => (0.0, percent(share)),
        };
        let result = entry(&mut self.rows, &row.name);
        result.insert("rate_mbps".to_owned(), json!(row.path.rate_mbps));
        result.insert("rtt_ms".to_owned(), json!(row.path.rtt_ms));
        result.insert("queue_bytes".to_owned(), json!(row.path.queue_bytes()));
        result.insert("loss_pct".to_owned(), json!(loss));
        result.insert("reorder_pct".to_owned(), json!(reorder));
        result.insert("seconds".to_owned(), json!(seconds));
        for (column, runs) in cells {
            result.insert(format!("{}_runs", column.name), json!(runs.len()));
            put(result, &format!("{}_mbps", column.name), runs.clone());
        }
    }

    pub(super) fn pair(&mut self, pair: &Pair, seconds: u64, runs: &[[f64; 2]]) {
        let result = entry(&mut self.pairs, pair.name);
        result.insert("seconds".to_owned(), json!(seconds));
        result.insert("runs".to_owned(), json!(runs.len()));
        put(result, "first_mbps", runs.iter().map(|rates| rates[0]).collect());
        put(result, "second_mbps", runs.iter().map(|rates| rates[1]).collect());
        put(result, "jain", runs.iter().copied().map(jain).collect());
    }

    pub(super) fn print(&self) {
        println!("{:<36}{}", "Mbit/s", COLUMNS.map(|column| format!("{:>18}", column.name)).concat());
        for row in &self.rows {
            let cells = COLUMNS.map(|column| {
                let rate = row.get(format!("{}_mbps", column.name)).and_then(Value::as_f64);
                rate.map_or_else(|| format!("{:>18}", "-"), |rate| format!("{rate:>18.1}"))
            });
            println!("{:<36}{}", text(row, "name"), cells.concat());
        }
        for pair in &self.pairs {
            let number = |name| pair.get(name).and_then(Value::as_f64).unwrap_or(f64::NAN);
            println!(
                "{:<36}{:>18.1}{:>18.1}   Jain's index {:.3}",
                text(pair, "name"),
                number("first_mbps"),
                number("second_mbps"),
                number("jain")
            );
        }
    }
}

/// The object of this name, new at the end if there is none.
fn entry<'a>(list: &'a mut Vec<Value>, name: &str) -> &'a mut Map<String, Value> {
    let index = list.iter().position(|value| text(value, "name") == name).unwrap_or_else(|| {
        list.push(json!({ "name": name }));
        list.len() - 1
    });
    if !list[index].is_object() {
        list[index] = json!({ "name": name });
    }
    match &mut list[index] {
        Value::Object(object) => object,
        _ => unreachable!("just made one"),
    }
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// The median under `name`, the extremes beside it.
fn put(object: &mut Map<String, Value>, name: &str, mut runs: Vec<f64>) {
    runs.sort_by(f64::total_cmp);
    let round = |value: f64| json!((value * 1000.0).round() / 1000.0);
    if let (Some(least), Some(most)) = (runs.first(), runs.last()) {
        let (low, high) = (runs[(runs.len() - 1) / 2], runs[runs.len() / 2]);
        object.insert(name.to_owned(), round(f64::midpoint(low, high)));
        object.insert(format!("{name}_min"), round(*least));
        object.insert(format!("{name}_max"), round(*most));
    }
}

/// Jain's fairness index of two rates: 1 when they are equal, a half when one has everything.
fn jain([one, other]: [f64; 2]) -> f64 {
    let sum = one + other;
    if sum == 0.0 { 0.0 } else { sum * sum / (2.0 * (one * one + other * other)) }
}

#[cfg(test)]
mod tests {
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
        assert!((jain([5.0, 5.0]) - 1.0).abs() < 1e-9);
        assert!((jain([5.0, 0.0]) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn a_row_that_is_measured_again_keeps_its_other_columns() {
        let mut report = Report { rows: vec![], pairs: vec![] };
        let row = super::super::rows::all().remove(2);
        report.row(&row, 1, &[(COLUMNS[0], vec![1.0])]);
        report.row(&row, 1, &[(COLUMNS[1], vec![2.0])]);
        assert_eq!(report.rows.len(), 1);
        assert_eq!(report.rows[0]["linux_to_linux_mbps"], 1.0);
        assert_eq!(report.rows[0]["ours_to_linux_mbps"], 2.0);
        assert_eq!(report.rows[0]["loss_pct"], 0.1);
    }
}
