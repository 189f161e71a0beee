//! Plots of the results: a bar for each side of each measure, its extremes as a line over it.

use std::fmt::Write;

use serde_json::{Map, Value};

/// File, title, and what the names of its measures begin with; those with one of the `COSTS` at their end have a plot of
/// their own.
const PLOTS: [(&str, &str, &str, &str); 9] = [
    ("bulk.svg", "Bulk throughput, Gbit/s (more is better)", "bulk_", ""),
    ("bulk-cpu.svg", "Processor time of the near WireGuard, s/GB (less is better)", "bulk_", "_cpu"),
    ("bulk-wake-ups.svg", "Wake-ups of the near WireGuard, per MB (less is better)", "bulk_", "_wake_ups"),
    ("pingpong.svg", "One byte there and back, us (less is better)", "pingpong_", ""),
    ("connections.svg", "Connect, request, response, close, per second (more is better)", "connections_", ""),
    ("http.svg", "HTTP requests per second, 50 and 200 connections (more is better)", "http_", ""),
    (
        "udp.svg",
        "UDP datagrams that arrive per second: 64 bytes unpaced, 1,372 bytes at 400 Mbit/s",
        "udp_",
        "",
    ),
    ("udp-loss.svg", "UDP datagrams lost, % (less is better)", "udp_", "_loss"),
    (
        "first-byte.svg",
        "From the start of the near process to the first byte, ms (less is better)",
        "first_byte",
        "",
    ),
];

/// Ends of names that are costs or qualities of another measure.
const COSTS: [&str; 6] = ["_cpu", "_wake_ups", "_errors", "_p99", "_loss", "_sent"];

const COLOURS: [(&str, &str); 4] =
    [("wireguard-go", "#8a8f98"), ("ours", "#1f6feb"), ("ours-both", "#0a3069"), ("onetun", "#d29922")];

const LEFT: f64 = 200.0;
const WIDTH: f64 = 560.0;
const BAR: f64 = 16.0;

/// File names and contents for the `measures` of node.json.
pub(super) fn plots(measures: &Map<String, Value>) -> Vec<(&'static str, String)> {
    let plot = |(file, title, start, end): (&'static str, &str, &str, &str)| {
        let belongs = |name: &str| match name.strip_prefix(start) {
            Some(_) if !end.is_empty() => name.ends_with(end),
            // `pingpong_p99` is nothing's cost.
            Some(rest) => rest == "p99" || COSTS.iter().all(|cost| !name.ends_with(cost)),
            None => false,
        };
        let mut rows: Vec<_> = measures.iter().filter(|(name, _)| belongs(name)).collect();
        rows.sort_by_key(|(name, _)| natural(name));
        (!rows.is_empty()).then(|| (file, draw(title, &rows)))
    };
    PLOTS.into_iter().filter_map(plot).collect()
}

/// `bulk_up_4` before `bulk_up_16`, `up` before `down`.
pub(super) fn natural(name: &str) -> (bool, usize, String) {
    let number = name.split('_').find_map(|part| part.parse().ok()).unwrap_or(0);
    (name.contains("_down"), number, name.to_owned())
}

fn draw(title: &str, rows: &[(&String, &Value)]) -> String {
    let bars = |row: &Value| {
        let sides = row["sides"].clone();
        COLOURS.into_iter().filter_map(move |(side, colour)| {
            let number = |name: &str| sides[side][name].as_f64();
            let ratio = sides[side]["ratio"]["median"].as_f64();
            Some((side, colour, [number("min")?, number("median")?, number("max")?], ratio))
        })
    };
    let all = rows.iter().flat_map(|(_, row)| bars(row));
    let (count, most) = all.fold((0, 0_f64), |(count, most), bar| (count + 1, most.max(bar.2[2])));
    let scale = if most > 0.0 { WIDTH / most } else { 0.0 };
    let height = 60.0 + f64::from(count) * BAR + rows.len() as f64 * 12.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{:.0}\" height=\"{height:.0}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"10\" y=\"22\" font-size=\"15\">{title}</text>\n",
        LEFT + WIDTH + 150.0
    );
    let mut y = 44.0;
    for (name, row) in rows {
        let _ = writeln!(svg, "<text x=\"10\" y=\"{:.0}\">{name}</text>", y + 12.0);
        for (side, colour, [min, median, max], ratio) in bars(row) {
            let ratio = ratio.map(|ratio| format!(" ({ratio:.2})")).unwrap_or_default();
            let middle = y + BAR / 2.0 - 1.0;
            let (low, high) = (LEFT + min * scale, LEFT + max * scale);
            let _ = writeln!(
                svg,
                "<rect x=\"{LEFT}\" y=\"{y:.0}\" width=\"{:.1}\" height=\"{:.0}\" fill=\"{colour}\"/>\n\
                 <line x1=\"{low:.1}\" y1=\"{middle:.0}\" x2=\"{high:.1}\" y2=\"{middle:.0}\" stroke=\"black\"/>\n\
                 <text x=\"{:.1}\" y=\"{:.0}\">{side} {median:.2}{ratio}</text>",
                median * scale,
                BAR - 2.0,
                high + 6.0,
                y + 12.0,
            );
            y += BAR;
        }
        y += 12.0;
    }
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn measure(value: f64) -> Value {
        json!({"sides": {"ours": {"median": value, "min": value, "max": value, "ratio": {"median": 1.25}}}})
    }

    #[test]
    fn costs_have_plots_of_their_own_and_numbers_their_order() {
        let names =
            ["bulk_down_1", "bulk_up_16", "bulk_up_16_cpu", "bulk_up_4", "pingpong_p50", "pingpong_p99"];
        let measures = names.into_iter().map(|name| (name.to_owned(), measure(2.0))).collect();
        let plots = plots(&measures);
        let files: Vec<_> = plots.iter().map(|(file, _)| *file).collect();
        assert_eq!(files, ["bulk.svg", "bulk-cpu.svg", "pingpong.svg"]);
        let bulk = &plots[0].1;
        let place = |name: &str| bulk.find(&format!(">{name}<"));
        assert!(place("bulk_up_4") < place("bulk_up_16") && place("bulk_up_16") < place("bulk_down_1"));
        assert!(place("bulk_up_4").is_some() && place("bulk_up_16_cpu").is_none());
        assert!(bulk.contains("ours 2.00 (1.25)"));
        assert!(plots[2].1.contains("pingpong_p99"));
    }
}
