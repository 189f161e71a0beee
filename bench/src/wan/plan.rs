//! What is to be measured, in which order, and how much of the machine each run will take.

use std::time::Duration;

use super::link::{BURST, Fault};
use super::rows::{COLUMNS, Column, PAIRS, Pair, Path, Row, Whose, all};

/// Payload of a full segment, in bits.
const SEGMENT: f64 = 1448.0 * 8.0;
/// What smoltcp's sender reaches at most on these links, in Mbit/s.
const SMOLTCP: f64 = 40.0;

/// One number of the result, or two that belong together.
#[derive(Clone, Debug)]
pub(super) enum Cell {
    Row(Row, Column),
    Pair(Pair),
}

impl Cell {
    /// What stands in the place of a column's name for two that belong together.
    pub(super) const PAIR: &str = "pair";

    /// Where it stands in the results: row and column.
    pub(super) fn place(&self) -> (&str, &str) {
        match self {
            Self::Row(row, column) => (&row.name, column.name),
            Self::Pair(pair) => (pair.name, Self::PAIR),
        }
    }

    pub(super) fn name(&self) -> String {
        match self {
            Self::Row(row, column) => format!("{}: {}", row.name, column.name),
            Self::Pair(pair) => pair.name.to_owned(),
        }
    }

    /// What a run takes of the machine, as the Mbit/s of a run between two kernels that would take the same.
    pub(super) fn cost(&self) -> f64 {
        match self {
            Self::Row(row, column) => {
                let rate = expected(row.path, row.fault);
                let rate = if matches!(column.from, Whose::Smoltcp | Whose::Onetun) {
                    rate.min(SMOLTCP)
                } else {
                    rate
                };
                let around = match (
                    column.wireguard,
                    [column.from, column.to].iter().any(|whose| matches!(whose, Whose::Node | Whose::Onetun)),
                ) {
                    (false, _) => 1.0,
                    (true, false) => 2.0,
                    (true, true) => 2.5,
                };
                rate * around
            }
            Self::Pair(pair) => expected(pair.path, Fault::None),
        }
    }
}

/// Mbit/s that a CUBIC sender gets: the link's rate, or what RFC 9438, section 5.1 gives for the share of losses.
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn expected(path: Path, fault: Fault) -> f64 {
    let events = match fault {
        Fault::None | Fault::Reorder(_) => return path.rate_mbps as f64,
        Fault::Loss(share) => share,
        Fault::Bursts(share) => share / BURST,
    };
    let rtt = path.rtt_ms as f64 / 1000.0;
    let window = (1.054 * (rtt / events).powf(0.75)).max((1.5 / events).sqrt());
    (window * SEGMENT / rtt / 1e6).min(path.rate_mbps as f64)
}

/// One run of one cell.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) cell: Cell,
    /// Decides what the link does to the n-th packet: the same in all cells of a row.
    pub(super) seed: u64,
    /// How often it has been tried.
    pub(super) attempts: u32,
}

/// How long these tasks will take, if the machine is used as well as it can be.
pub(super) fn time_left(tasks: &[Task], budget: f64, each: Duration) -> Duration {
    let cost: f64 = tasks.iter().map(|task| task.cell.cost().min(budget)).sum();
    let rounds = (cost / budget).max(if tasks.is_empty() { 0.0 } else { 1.0 });
    each.mul_f64(rounds)
}

/// Which cells are asked for.
pub(super) struct Choice<'a> {
    /// Parts of names of rows and pairs; none is all.
    pub(super) rows: &'a [String],
    /// Names of columns; none is all.
    pub(super) columns: &'a [String],
    pub(super) pairs: bool,
}

impl Choice<'_> {
    /// The runs with seeds from one to `runs`. Those of one seed stand together, so that a measurement which is cut off has as
    /// many of every row; in them those of one row, so that they run side by side.
    pub(super) fn tasks(&self, runs: u64) -> Vec<Task> {
        let named = |name: &str| self.rows.is_empty() || self.rows.iter().any(|part| name.contains(part));
        let chosen =
            |column: &Column| self.columns.is_empty() || self.columns.iter().any(|name| name == column.name);
        let rows = all().into_iter().filter(|row| named(&row.name));
        let cells = rows.flat_map(|row| {
            let columns = COLUMNS.into_iter().filter(chosen).filter(|column| row.suits(column));
            columns.map(|column| Cell::Row(row.clone(), column)).collect::<Vec<_>>()
        });
        let pairs = PAIRS.into_iter().filter(|pair| self.pairs && named(pair.name)).map(Cell::Pair);
        let cells: Vec<_> = cells.chain(pairs).collect();
        let of_seed = |seed| cells.iter().map(move |cell| Task { cell: cell.clone(), seed, attempts: 0 });
        (1..=runs).flat_map(of_seed).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expected_rates_are_those_of_the_formula() {
        let path = Path { rate_mbps: 200, rtt_ms: 20 };
        let about = |fault, rate: f64| {
            let expected = expected(path, fault);
            assert!((expected / rate - 1.0).abs() < 0.05, "{fault:?}: {expected}");
        };
        about(Fault::None, 200.0);
        about(Fault::Reorder(0.01), 200.0);
        about(Fault::Loss(0.001), 22.4);
        about(Fault::Bursts(0.004), 22.4);
        about(Fault::Loss(0.01), 7.1);
    }

    #[test]
    fn the_runs_of_a_seed_and_row_stand_together() {
        let (rows, columns) = (["20 ms, loss 0.1%".to_owned()], ["ours_to_linux", "linux_to_linux"]);
        let columns = columns.map(str::to_owned);
        let tasks = Choice { rows: &rows, columns: &columns, pairs: true }.tasks(2);
        let names: Vec<_> = tasks.iter().map(|task| (task.cell.name(), task.seed)).collect();
        let [one, two] = ["linux_to_linux", "ours_to_linux"]
            .map(|column| format!("200 Mbit/s, 20 ms, loss 0.1%: {column}"));
        assert_eq!(names, [(one.clone(), 1), (two.clone(), 1), (one, 2), (two, 2)]);
    }
}
