//! The results as a document: the ratios beside what was asked of them, and every measure.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::svg::natural;
use super::world::Side;

/// What a ratio of summary.json is to be.
#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

use Bound::{AtLeast, AtMost};

/// Names in summary.json, what they are for a reader, and their bounds.
const RATIOS: [(&str, &str, Option<Bound>); 30] = [
    ("bulk_up_1_vs_wireguard_go", "bulk up, 1 stream", Some(AtLeast(1.0))),
    ("bulk_up_16_vs_wireguard_go", "bulk up, 16 streams", Some(AtLeast(1.0))),
    ("bulk_down_1_vs_wireguard_go", "bulk down, 1 stream", Some(AtLeast(1.0))),
    ("bulk_down_16_vs_wireguard_go", "bulk down, 16 streams", Some(AtLeast(1.0))),
    ("cpu_up_vs_wireguard_go", "processor time for a GB up, 1 stream", Some(AtMost(1.0))),
    ("cpu_up_16_vs_wireguard_go", "processor time for a GB up, 16 streams", Some(AtMost(1.0))),
    ("cpu_down_vs_wireguard_go", "processor time for a GB down, 1 stream", Some(AtMost(1.0))),
    ("cpu_down_16_vs_wireguard_go", "processor time for a GB down, 16 streams", Some(AtMost(1.0))),
    ("both_bulk_up_1_vs_wireguard_go", "ours on both sides: bulk up, 1 stream", Some(AtLeast(1.2))),
    ("both_bulk_up_16_vs_wireguard_go", "ours on both sides: bulk up, 16 streams", Some(AtLeast(1.2))),
    ("both_bulk_down_1_vs_wireguard_go", "ours on both sides: bulk down, 1 stream", Some(AtLeast(1.2))),
    ("both_bulk_down_16_vs_wireguard_go", "ours on both sides: bulk down, 16 streams", Some(AtLeast(1.2))),
    ("pingpong_p50_vs_wireguard_go", "one byte there and back, p50", Some(AtMost(1.2))),
    ("pingpong_p99_vs_wireguard_go", "one byte there and back, p99", Some(AtMost(1.2))),
    ("both_pingpong_p50_vs_wireguard_go", "ours on both sides: one byte there and back, p50", None),
    ("conn_rate_16_vs_wireguard_go", "new connections, 16 at once", Some(AtLeast(0.8))),
    ("conn_rate_64_vs_wireguard_go", "new connections, 64 at once", Some(AtLeast(0.8))),
    ("both_conn_rate_16_vs_wireguard_go", "ours on both sides: new connections, 16 at once", None),
    ("http_50_vs_wireguard_go", "HTTP requests, 50 connections", Some(AtLeast(0.75))),
    ("http_200_vs_wireguard_go", "HTTP requests, 200 connections", Some(AtLeast(0.75))),
    ("both_http_200_vs_wireguard_go", "ours on both sides: HTTP requests, 200 connections", None),
    (
        "idle_memory_vs_null_filter",
        "idle connection: memory of Envoy, against a null filter",
        Some(AtMost(1.2)),
    ),
    ("beside_10000_idle_throughput", "bulk up beside idle connections, against alone", Some(AtLeast(0.9))),
    (
        "beside_10000_idle_throughput_down",
        "bulk down beside idle connections, against alone",
        Some(AtLeast(0.9)),
    ),
    (
        "beside_10000_idle_latency",
        "one byte there and back beside idle connections, against alone",
        Some(AtMost(1.15)),
    ),
    ("netstack_vs_ring", "netstack in memory, against `ring`", Some(AtLeast(0.7))),
    (
        "udp_up_400m_cpu_vs_wireguard_go",
        "processor time for a GB of datagrams up, 400 Mbit/s",
        Some(AtMost(0.5)),
    ),
    (
        "udp_down_400m_cpu_vs_wireguard_go",
        "processor time for a GB of datagrams down, 400 Mbit/s",
        Some(AtMost(0.5)),
    ),
    ("udp_up_64_vs_onetun_up", "datagrams of 64 bytes up, against onetun's up", Some(AtLeast(2.0))),
    ("udp_down_64_vs_onetun_up", "datagrams of 64 bytes down, against onetun's up", Some(AtLeast(2.0))),
];

const SIDES: [Side; 4] = [Side::WireguardGo, Side::Ours, Side::OursBoth, Side::Onetun];

/// Markdown of what node.json and summary.json have.
pub(super) fn document(
    machine: &Value,
    measures: &Map<String, Value>,
    ratios: &Map<String, Value>,
) -> String {
    let mut out = String::from("# The node beside its peers\n\nWritten by `cargo xtask bench node`; ");
    out.push_str("what is measured, and how, stands in [bench/README.md](../README.md). Measured on ");
    let text = |name: &str| machine[name].as_str().unwrap_or("unknown");
    let _ = writeln!(
        out,
        "{} x {}, {} of memory, Linux {}, with {}.",
        machine["processors"],
        text("processor"),
        text("memory"),
        text("kernel"),
        text("peers")
    );
    summary(&mut out, ratios);
    every(&mut out, measures);
    out
}

fn summary(out: &mut String, ratios: &Map<String, Value>) {
    out.push_str("\n## Ratios\n\nTo `wireguard-go` with a TUN device in the same runs, where nothing else is said.\n\n");
    out.push_str("| what | ratio | asked |\n|---|---|---|\n");
    for (name, what, bound) in RATIOS {
        let Some(ratio) = ratios.get(name).and_then(Value::as_f64) else { continue };
        let (asked, met) = match bound {
            Some(AtLeast(least)) => (format!("at least {least}"), ratio >= least),
            Some(AtMost(most)) => (format!("at most {most}"), ratio <= most),
            None => (String::new(), true),
        };
        let _ =
            writeln!(out, "| {what} | {} | {asked}{} |", short(ratio), if met { "" } else { ": **missed**" });
    }
}

fn every(out: &mut String, measures: &Map<String, Value>) {
    out.push_str("\n## Every measure\n\nMedians, with the least and the most of the runs; ");
    out.push_str(
        "then, behind ×, the median of the ratios to `wireguard-go` of the same runs.\n\n| measure | ",
    );
    for side in SIDES {
        let _ = write!(out, "{} | ", side.name());
    }
    let _ = writeln!(out, "runs | commit |\n|---|{}---|---|", "---|".repeat(SIDES.len()));
    let mut rows: Vec<_> = measures.iter().collect();
    let family = |name: &str| name.split('_').next().unwrap_or_default().to_owned();
    rows.sort_by_key(|(name, _)| (family(name), natural(name)));
    for (name, measure) in rows {
        let _ = write!(out, "| `{name}`, {} | ", measure["unit"].as_str().unwrap_or_default());
        for side in SIDES {
            let _ = write!(out, "{} | ", cell(&measure["sides"][side.name()]));
        }
        let runs = |side: Side| measure["sides"][side.name()]["runs"].as_array().map_or(0, Vec::len);
        let most = SIDES.into_iter().map(runs).max().unwrap_or(0);
        let _ = writeln!(out, "{most} | {} |", measure["commit"].as_str().unwrap_or_default());
    }
}

/// `2.93 (2.58 to 3.53) × 1.24`
fn cell(side: &Value) -> String {
    let number = |name: &str| side[name].as_f64();
    let (Some(median), Some(min), Some(max)) = (number("median"), number("min"), number("max")) else {
        return String::new();
    };
    let ratio =
        side["ratio"]["median"].as_f64().map(|ratio| format!(" × {}", short(ratio))).unwrap_or_default();
    format!("{} ({} to {}){ratio}", short(median), short(min), short(max))
}

/// Three digits that count.
fn short(value: f64) -> String {
    match value {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
#[expect(clippy::expect_used, reason = "a failure is a failed test")]
mod tests {
    use std::fs;
    use std::path::Path;

    use serde_json::json;

    use super::*;

    fn committed(name: &str) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("results").join(name);
        fs::read_to_string(path).expect("a committed result")
    }

    /// What is committed is what was measured.
    #[test]
    fn the_document_is_that_of_the_results() {
        let node: Value = serde_json::from_str(&committed("node.json")).expect("JSON");
        let summary: Value = serde_json::from_str(&committed("summary.json")).expect("JSON");
        let of = |value: &Value| value.as_object().cloned().expect("an object");
        let written = document(&node["machine"], &of(&node["measures"]), &of(&summary["ratios"]));
        assert_eq!(committed("node.md"), written, "`cargo xtask bench node --table` writes it");
        for name in of(&summary["ratios"]).keys() {
            assert!(RATIOS.iter().any(|(known, ..)| known == name), "{name} has no line");
        }
    }

    #[test]
    fn a_ratio_beyond_its_bound_says_so() {
        let ratios = json!({"http_50_vs_wireguard_go": 0.74, "http_200_vs_wireguard_go": 0.75});
        let mut out = String::new();
        summary(&mut out, ratios.as_object().expect("an object"));
        assert!(
            out.contains("| HTTP requests, 50 connections | 0.74 | at least 0.75: **missed** |"),
            "{out}"
        );
        assert!(out.contains("| HTTP requests, 200 connections | 0.75 | at least 0.75 |"), "{out}");
    }

    #[test]
    fn a_side_shows_its_extremes_and_its_ratio() {
        let side = json!({"median": 2.934, "min": 2.576, "max": 13.53, "ratio": {"median": 1.241}});
        assert_eq!(cell(&side), "2.93 (2.58 to 13.5) × 1.24");
        assert_eq!(cell(&Value::Null), "");
    }
}
