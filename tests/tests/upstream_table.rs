//! docs/upstream.md: every row of its tables names a test, and every test that it names exists.

use std::fs;
use std::path::{Path, PathBuf};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The rows of all tables, without their headings.
fn rows(text: &str) -> Vec<&str> {
    let is_heading = |line: &str| line.starts_with("| |");
    let is_rule = |line: &str| line.starts_with("|---");
    text.lines().filter(|line| line.starts_with('|') && !is_heading(line) && !is_rule(line)).collect()
}

/// What stands in the last cell in backticks, as file and name.
fn tests(row: &str) -> Vec<(&str, &str)> {
    let cell = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
    let quoted = cell.split('`').skip(1).step_by(2);
    quoted.filter_map(|text| text.split_once("::")).collect()
}

/// Whether the file has a test of this name: a function behind `#[test]`, perhaps with other attributes in between.
fn has_test(source: &str, name: &str) -> bool {
    let mut is_test = false;
    source.lines().map(str::trim).any(|line| {
        let found = is_test && line.starts_with(&format!("fn {name}("));
        is_test = line == "#[test]" || (is_test && line.starts_with('#'));
        found
    })
}

#[test]
fn every_row_names_tests_that_exist() {
    let text = fs::read_to_string(workspace().join("docs/upstream.md")).expect("the document");
    let rows = rows(&text);
    assert!(rows.len() > 40, "{} rows", rows.len());
    let mut wrong = vec![];
    for row in rows {
        let tests = tests(row);
        if tests.is_empty() {
            wrong.push(format!("no test in: {row}"));
        }
        for (file, name) in tests {
            let path =
                if file.contains('/') { PathBuf::from(file) } else { Path::new("tests/tests").join(file) };
            let source = fs::read_to_string(workspace().join(&path)).unwrap_or_default();
            if !has_test(&source, name) {
                wrong.push(format!("no {name} in {}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_test_is_one_only_with_its_attribute() {
    let source = "#[test]\n#[ignore]\nfn one() {}\nfn two() {}\n    #[test]\n    fn three() {\n";
    assert_eq!(["one", "two", "three", "on"].map(|name| has_test(source, name)), [true, false, true, false]);
    assert_eq!(tests("| a | b | `x.rs::y`, `p/q.rs::r` |"), [("x.rs", "y"), ("p/q.rs", "r")]);
}
