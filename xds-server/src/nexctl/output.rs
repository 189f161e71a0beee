//! How lists are shown: upstream's formats of `--output`.

use std::iter;

use clap::ValueEnum;
use serde::Serialize;

use super::Failure;

/// Upstream's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// A table
    #[default]
    Column,
    /// JSON, indented
    Json,
    /// JSON on one line
    JsonRaw,
    /// YAML
    Yaml,
    /// A table without its header
    NoHeader,
}

/// Rows of text under headers.
#[derive(Debug)]
pub(super) struct Table<const N: usize> {
    pub(super) headers: [&'static str; N],
    pub(super) rows: Vec<[String; N]>,
}

/// The items in this format; `table` is for people, and made only for them.
pub(super) fn render<T: Serialize, const N: usize>(
    format: Format,
    items: &[T],
    table: impl FnOnce() -> Table<N>,
) -> Result<String, Failure> {
    let text = match format {
        Format::Column => return Ok(table().to_text(true)),
        Format::NoHeader => return Ok(table().to_text(false)),
        Format::Json => serde_json::to_string_pretty(items).map_err(|error| error.to_string()),
        Format::JsonRaw => serde_json::to_string(items).map_err(|error| error.to_string()),
        Format::Yaml => serde_saphyr::to_string(&items).map_err(|error| error.to_string()),
    };
    text.map(|text| format!("{}\n", text.trim_end())).map_err(Failure::Text)
}

impl<const N: usize> Table<N> {
    /// As upstream draws it: `| cell |`, headers in the middle, numbers to the right.
    fn to_text(&self, with_headers: bool) -> String {
        let headers = self.headers.map(str::to_owned);
        let shown = || iter::once(&headers).filter(|_| with_headers).chain(&self.rows);
        let widths: [usize; N] =
            std::array::from_fn(|column| shown().map(|row| width(&row[column])).max().unwrap_or(0));
        let mut text = String::new();
        if with_headers {
            text += &line(&headers, &widths, |cell, width| format!("{cell:^width$}"));
            let rules = widths.map(|width| "-".repeat(width + 2));
            text += &format!("+{}+\n", rules.join("+"));
        }
        for row in &self.rows {
            text += &line(row, &widths, |cell, width| match is_number(cell) {
                true => format!("{cell:>width$}"),
                false => format!("{cell:<width$}"),
            });
        }
        text
    }
}

fn line<const N: usize>(
    cells: &[String; N],
    widths: &[usize; N],
    pad: impl Fn(&str, usize) -> String,
) -> String {
    let cells = iter::zip(cells, widths).map(|(cell, width)| format!(" {} |", pad(cell, *width)));
    format!("|{}\n", cells.collect::<String>())
}

/// All that is shown has one column for each character.
fn width(text: &str) -> usize {
    text.chars().count()
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Item {
        name: String,
        seconds: String,
        bytes: u64,
    }

    fn items() -> [Item; 2] {
        let item =
            |name: &str, bytes| Item { name: name.to_owned(), seconds: "1700000000".to_owned(), bytes };
        [item("a", 5), item("✓ longer", 12_345)]
    }

    fn shown(format: Format, items: &[Item]) -> String {
        let rows = items.iter().map(|item| [item.name.clone(), item.bytes.to_string()]).collect();
        let table = || Table { headers: ["NAME", "RX"], rows };
        render(format, items, table).map_err(|_| "not rendered").unwrap()
    }

    #[test]
    fn column() {
        let expected = "\
|   NAME   |  RX   |
+----------+-------+
| a        |     5 |
| ✓ longer | 12345 |
";
        assert_eq!(shown(Format::Column, &items()), expected);
        assert_eq!(shown(Format::Column, &[]), "| NAME | RX |\n+------+----+\n");
    }

    #[test]
    fn no_header() {
        assert_eq!(shown(Format::NoHeader, &items()), "| a        |     5 |\n| ✓ longer | 12345 |\n");
        assert_eq!(shown(Format::NoHeader, &[]), "");
    }

    #[test]
    fn json() {
        let expected =
            "[\n  {\n    \"Name\": \"a\",\n    \"Seconds\": \"1700000000\",\n    \"Bytes\": 5\n  }\n]\n";
        assert_eq!(shown(Format::Json, &items()[..1]), expected);
        assert_eq!(shown(Format::Json, &[]), "[]\n");
    }

    #[test]
    fn json_raw() {
        let raw = shown(Format::JsonRaw, &items());
        assert_eq!(raw.lines().count(), 1);
        assert_eq!(serde_json::from_str::<Vec<Item>>(&raw).unwrap(), items());
        assert_eq!(shown(Format::JsonRaw, &[]), "[]\n");
    }

    #[test]
    fn yaml() {
        let yaml = shown(Format::Yaml, &items());
        assert!(yaml.starts_with("- Name: a\n"), "{yaml}");
        // A text of digits stays a text.
        assert_eq!(serde_saphyr::from_str::<Vec<Item>>(&yaml).unwrap(), items());
        assert_eq!(shown(Format::Yaml, &[]), "[]\n");
    }
}
