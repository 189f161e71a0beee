//! Runs in; JSON, the ratios of the summary, tables and plots out.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::samples::{Figure, Spread};
use super::world::Side;
use super::{machine, svg, table};
use crate::Result;

/// The side that all others are compared with.
const REFERENCE: Side = Side::WireguardGo;

/// Names in summary.json: a measure of a side against the same measure of the reference.
const SUMMARY: [(&str, &str, Side); 23] = [
    ("bulk_up_1_vs_wireguard_go", "bulk_up_1", Side::Ours),
    ("bulk_down_1_vs_wireguard_go", "bulk_down_1", Side::Ours),
    ("bulk_up_16_vs_wireguard_go", "bulk_up_16", Side::Ours),
    ("bulk_down_16_vs_wireguard_go", "bulk_down_16", Side::Ours),
    ("cpu_up_vs_wireguard_go", "bulk_up_1_cpu", Side::Ours),
    ("cpu_down_vs_wireguard_go", "bulk_down_1_cpu", Side::Ours),
    ("cpu_up_16_vs_wireguard_go", "bulk_up_16_cpu", Side::Ours),
    ("cpu_down_16_vs_wireguard_go", "bulk_down_16_cpu", Side::Ours),
    ("both_bulk_up_1_vs_wireguard_go", "bulk_up_1", Side::OursBoth),
    ("both_bulk_down_1_vs_wireguard_go", "bulk_down_1", Side::OursBoth),
    ("both_bulk_up_16_vs_wireguard_go", "bulk_up_16", Side::OursBoth),
    ("both_bulk_down_16_vs_wireguard_go", "bulk_down_16", Side::OursBoth),
    ("pingpong_p50_vs_wireguard_go", "pingpong_p50", Side::Ours),
    ("pingpong_p99_vs_wireguard_go", "pingpong_p99", Side::Ours),
    ("conn_rate_16_vs_wireguard_go", "connections_16", Side::Ours),
    ("conn_rate_64_vs_wireguard_go", "connections_64", Side::Ours),
    ("http_50_vs_wireguard_go", "http_50", Side::Ours),
    ("http_200_vs_wireguard_go", "http_200", Side::Ours),
    ("both_pingpong_p50_vs_wireguard_go", "pingpong_p50", Side::OursBoth),
    ("both_conn_rate_16_vs_wireguard_go", "connections_16", Side::OursBoth),
    ("both_http_200_vs_wireguard_go", "http_200", Side::OursBoth),
    ("udp_up_400m_cpu_vs_wireguard_go", "udp_up_1372_400m_cpu", Side::Ours),
    ("udp_down_400m_cpu_vs_wireguard_go", "udp_down_1372_400m_cpu", Side::Ours),
];

/// Names in summary.json of measures of our node that are ratios by themselves.
const SUMMARY_OF_RATIOS: [(&str, &str); 4] = [
    ("beside_10000_idle_throughput", "beside_idle_throughput"),
    ("beside_10000_idle_throughput_down", "beside_idle_throughput_down"),
    ("beside_10000_idle_latency", "beside_idle_latency"),
    ("idle_memory_vs_null_filter", "idle_9800_memory_vs_null_filter"),
];

/// The same for rates of our node against onetun's upload: it does not answer enough to have others.
const SUMMARY_OF_ONETUN: [(&str, &str); 2] =
    [("udp_up_64_vs_onetun_up", "udp_up_64_max"), ("udp_down_64_vs_onetun_up", "udp_down_64_max")];

/// The results so far.
pub(super) struct Report {
    directory: PathBuf,
    /// Measures of earlier times as they stand in node.json.
    earlier: Map<String, Value>,
    /// Those of this time.
    now: BTreeMap<String, Row>,
    commit: String,
    machine: Value,
}

/// One measure: the sides' runs, in the order of runs.
#[derive(Default)]
struct Row {
    unit: &'static str,
    sides: Vec<(Side, Vec<Option<f64>>)>,
}

impl Row {
    fn runs(&self, side: Side) -> Option<&[Option<f64>]> {
        self.sides.iter().find(|(known, _)| *known == side).map(|(_, runs)| runs.as_slice())
    }

    /// A side's ratio to the reference.
    fn ratio(&self, side: Side) -> Option<Spread> {
        Spread::of_ratios(self.runs(side)?, self.runs(REFERENCE)?)
    }
}

impl Report {
    pub(super) fn new(directory: &Path) -> Result<Self> {
        let mut results = load(&directory.join("node.json"))?;
        let earlier = match results.remove("measures") {
            Some(Value::Object(measures)) => measures,
            _ => Map::new(),
        };
        Ok(Self {
            directory: directory.to_owned(),
            earlier,
            now: BTreeMap::new(),
            commit: machine::commit(),
            machine: machine::description(),
        })
    }

    /// What a side did in this run, which counts from 1.
    pub(super) fn add(&mut self, side: Side, run: u32, figures: &[Figure]) {
        for figure in figures {
            eprintln!("    {:<13}{:<28}{:>12.3} {}", side.name(), figure.name, figure.value, figure.unit);
            let row = self.now.entry(figure.name.clone()).or_default();
            row.unit = figure.unit;
            let index = row.sides.iter().position(|(known, _)| *known == side).unwrap_or_else(|| {
                row.sides.push((side, Vec::new()));
                row.sides.len() - 1
            });
            let runs = &mut row.sides[index].1;
            // A run in which this side did not manage the load leaves a gap.
            runs.resize(run as usize - 1, None);
            runs.push(Some(figure.value));
        }
    }

    pub(super) fn save(&self) -> Result<()> {
        fs::create_dir_all(&self.directory)?;
        let mut measures = self.earlier.clone();
        measures.extend(self.now.iter().map(|(name, row)| (name.clone(), self.measure(row))));
        write(&self.directory.join("node.json"), &json!({"machine": self.machine, "measures": &measures}))?;

        // Other benches have ratios in there too.
        let path = self.directory.join("summary.json");
        let mut summary = load(&path)?;
        let ratios = summary.entry("ratios").or_insert_with(|| json!({}));
        for (name, measure, side) in SUMMARY {
            if let Some(ratio) = self.now.get(measure).and_then(|row| row.ratio(side)) {
                ratios[name] = rounded(ratio.median);
            }
        }
        for (name, measure) in SUMMARY_OF_RATIOS {
            let runs = self.now.get(measure).and_then(|row| row.runs(Side::Ours));
            if let Some(spread) = runs.and_then(|runs| Spread::of(runs.iter().copied())) {
                ratios[name] = rounded(spread.median);
            }
        }
        let runs = |measure, side| self.now.get(measure).and_then(|row| row.runs(side));
        for (name, measure) in SUMMARY_OF_ONETUN {
            if let (Some(ours), Some(onetun)) =
                (runs(measure, Side::Ours), runs("udp_up_64_max", Side::Onetun))
                && let Some(ratio) = Spread::of_ratios(ours, onetun)
            {
                ratios[name] = rounded(ratio.median);
            }
        }
        write(&path, &Value::Object(summary))?;
        draw(&self.directory)
    }

    fn measure(&self, row: &Row) -> Value {
        let sides = row.sides.iter().filter_map(|(side, runs)| {
            let mut value = spread(Spread::of(runs.iter().copied())?);
            value["runs"] = runs.iter().map(|run| run.map_or(Value::Null, rounded)).collect();
            if let Some(ratio) = row.ratio(*side).filter(|_| *side != REFERENCE) {
                value["ratio"] = spread(ratio);
            }
            Some((side.name().to_owned(), value))
        });
        json!({"unit": row.unit, "commit": self.commit, "sides": sides.collect::<Map<_, _>>()})
    }

    /// A line for each measure: medians, and the ratio to the reference in parentheses.
    pub(super) fn print(&self) {
        for (name, row) in &self.now {
            print!("{:<28}", format!("{name} {}", row.unit));
            for (side, runs) in &row.sides {
                let Some(spread) = Spread::of(runs.iter().copied()) else { continue };
                print!("{:>14} {:>10.3}", side.name(), spread.median);
                if let Some(ratio) = row.ratio(*side).filter(|_| *side != REFERENCE) {
                    print!(" ({:.2})", ratio.median);
                }
            }
            println!();
        }
    }
}

/// The document and the plots of the results in a directory.
pub(super) fn draw(directory: &Path) -> Result<()> {
    let node = load(&directory.join("node.json"))?;
    let summary = load(&directory.join("summary.json"))?;
    let object = |of: &Map<String, Value>, name: &str| {
        of.get(name).and_then(Value::as_object).cloned().unwrap_or_default()
    };
    let measures = object(&node, "measures");
    let machine = Value::Object(object(&node, "machine"));
    fs::write(directory.join("node.md"), table::document(&machine, &measures, &object(&summary, "ratios")))?;
    for (name, plot) in svg::plots(&measures) {
        fs::write(directory.join(name), plot)?;
    }
    Ok(())
}

fn load(path: &Path) -> Result<Map<String, Value>> {
    match fs::read_to_string(path) {
        Ok(text) => {
            serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()).into())
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Map::new()),
        Err(error) => Err(format!("{}: {error}", path.display()).into()),
    }
}

fn write(path: &Path, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value)? + "\n";
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()).into())
}

fn spread(spread: Spread) -> Value {
    json!({"median": rounded(spread.median), "min": rounded(spread.min), "max": rounded(spread.max)})
}

/// More digits than a noisy machine has, fewer than a diff would suffer from.
fn rounded(value: f64) -> Value {
    json!((value * 1000.0).round() / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(directory: &Path) -> Result<Report> {
        let mut report = Report::new(directory)?;
        for (run, reference, ours) in [(1, 2.0, 3.0), (2, 1.0, 2.0), (3, 1.0, 1.0)] {
            report.add(Side::WireguardGo, run, &[Figure::new("bulk_up_1", "Gbit/s", reference)]);
            report.add(Side::Ours, run, &[Figure::new("bulk_up_1", "Gbit/s", ours)]);
        }
        // It failed in the first run.
        report.add(Side::Onetun, 2, &[Figure::new("bulk_up_1", "Gbit/s", 0.5)]);
        Ok(report)
    }

    #[test]
    fn the_files_have_medians_and_ratios_and_keep_what_was_not_measured() -> Result<()> {
        let directory = tempfile::tempdir()?;
        fs::write(directory.path().join("node.json"), r#"{"measures": {"old": {"unit": "us"}}}"#)?;
        fs::write(directory.path().join("summary.json"), r#"{"ratios": {"netstack_vs_ring": 0.5}}"#)?;
        report(directory.path())?.save()?;
        let node = load(&directory.path().join("node.json"))?;
        let sides = &node["measures"]["bulk_up_1"]["sides"];
        assert_eq!(sides["ours"]["median"], 2.0);
        assert_eq!(sides["ours"]["ratio"], json!({"median": 1.5, "min": 1.0, "max": 2.0}));
        assert_eq!(sides["onetun"]["runs"], json!([null, 0.5]));
        assert_eq!(sides["wireguard-go"].get("ratio"), None);
        assert_eq!(node["measures"]["old"]["unit"], "us");
        let summary = load(&directory.path().join("summary.json"))?;
        assert_eq!(summary["ratios"], json!({"netstack_vs_ring": 0.5, "bulk_up_1_vs_wireguard_go": 1.5}));
        assert!(fs::read_to_string(directory.path().join("bulk.svg"))?.contains("ours"));
        Ok(())
    }
}
