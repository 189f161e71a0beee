//! Every test, in one run.

use std::fs;
use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::run::{execute, exists, note, output, step};
use crate::setup::{self, Packages};
use crate::{Result, workspace};

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let start = Instant::now();
    let envoy = setup::envoy()?;
    namespaces()?;
    // The development profile optimises (Cargo.toml), so one build serves every test and the products they start.
    execute("build", workspace::cargo()?.args(["build", "--workspace", "--locked"]))?;

    let products = workspace::target()?.join("debug");
    let notes = products.join("e2e-notes.txt");
    fs::write(&notes, "")?;
    let with_environment = |mut cargo: Command| {
        cargo.env("ENVOY_BIN", &envoy).env("NEXODUS_BIN_DIR", &products).env("NEXODUS_TEST_NOTES", &notes);
        cargo
    };

    let mut tally = Tally::default();
    if exists("cargo-nextest") || output(workspace::cargo()?.args(["nextest", "--version"])).is_ok() {
        if arguments.is_empty() {
            let mut examples = with_environment(workspace::cargo()?);
            examples.args(["test", "--workspace", "--locked", "--doc", "--quiet"]);
            tally.add("documentation's examples", &mut examples)?;
        }
        let mut tests = with_environment(workspace::cargo()?);
        tests.args(["nextest", "run", "--workspace", "--locked", "--no-fail-fast"]).args(arguments);
        tally.add("tests", &mut tests)?;
    } else {
        let mut tests = with_environment(workspace::cargo()?);
        tests
            .args(["test", "--workspace", "--exclude", "e2e", "--locked", "--no-fail-fast", "--"])
            .args(arguments);
        tally.add("unit and property tests", &mut tests)?;
        // One at a time: each of these starts Envoys of its own, and some measure, or move much.
        let mut tests = with_environment(workspace::cargo()?);
        tests
            .args(["test", "--package", "e2e", "--locked", "--no-fail-fast", "--", "--test-threads=1"])
            .args(arguments);
        tally.add("end-to-end tests", &mut tests)?;
    }

    report_notes(&notes)?;
    println!("    total time {:.0} s", start.elapsed().as_secs_f64());
    println!("{} passed, {} failed", tally.passed, tally.failed);
    if tally.failed > 0 || tally.broken { Err("tests failed".into()) } else { Ok(()) }
}

/// Says whether the namespace tests can run; where they must (CI), an error when they cannot.
fn namespaces() -> Result<()> {
    let obstacle = match setup::packages()? {
        Packages::Missing(commands) => Some(format!("{commands} not installed")),
        Packages::Complete if !setup::is_root()? => Some("not root".to_owned()),
        Packages::Complete if output(Command::new("unshare").args(["--net", "true"])).is_err() => {
            Some("network namespaces cannot be created here".to_owned())
        }
        Packages::Complete => None,
    };
    step("network namespaces");
    match obstacle {
        None => note("available"),
        Some(obstacle) if std::env::var("CI").is_ok_and(|ci| ci == "true") => {
            return Err(format!("the namespace tests must run in CI: {obstacle}").into());
        }
        Some(obstacle) => {
            note(format_args!("SKIPPED: the tests against wireguard-go in a namespace ({obstacle})"))
        }
    }
    Ok(())
}

/// What the tests wrote down: measurements, and what they skipped.
fn report_notes(notes: &Path) -> Result<()> {
    let notes = fs::read_to_string(notes)?;
    let mut lines: Vec<_> = notes.lines().collect();
    lines.sort_unstable();
    lines.dedup();
    step("measured and skipped");
    for line in lines {
        note(line);
    }
    Ok(())
}

/// Counts over several runs of a test runner.
#[derive(Default)]
struct Tally {
    passed: u64,
    failed: u64,
    /// A runner failed without a failed test: a build error, for one.
    broken: bool,
}

impl Tally {
    /// Runs a test runner, shows its output, and counts from its summaries.
    fn add(&mut self, what: &str, runner: &mut Command) -> Result<()> {
        step(what);
        if std::io::stderr().is_terminal() {
            runner.env("CARGO_TERM_COLOR", "always");
        }
        let mut child = runner.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let summaries = std::thread::scope(|scope| {
            let out = out.map(|out| scope.spawn(|| forward(out, |line| println!("{line}"))));
            let err = err.map(|err| scope.spawn(|| forward(err, |line| eprintln!("{line}"))));
            let joined = [out, err].into_iter().flatten().filter_map(|reader| reader.join().ok());
            joined.flatten().collect::<Vec<_>>()
        });
        let status = child.wait()?;
        let failed_before = self.failed;
        for summary in &summaries {
            self.passed += count(summary, "passed");
            self.failed += count(summary, "failed") + count(summary, "timed out");
        }
        self.broken |= !status.success() && self.failed == failed_before;
        Ok(())
    }
}

/// Passes lines on, keeps the runners' summaries among them.
fn forward(from: impl Read, print: impl Fn(&str)) -> Vec<String> {
    let mut summaries = Vec::new();
    for line in BufReader::new(from).lines().map_while(std::result::Result::ok) {
        print(&line);
        let plain = without_colours(&line);
        // cargo test: "test result: ok. 3 passed; 0 failed; ..."; nextest: "Summary [ 1.2s] 3 tests run: 3 passed, 0 skipped"
        if plain.starts_with("test result:") || plain.trim_start().starts_with("Summary [") {
            summaries.push(plain);
        }
    }
    summaries
}

/// The number before `word`.
fn count(summary: &str, word: &str) -> u64 {
    let before = summary.split(word).next().filter(|before| before.len() < summary.len());
    before.and_then(|before| before.split_whitespace().last()?.parse().ok()).unwrap_or(0)
}

fn without_colours(line: &str) -> String {
    let mut parts = line.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |plain, part| plain + part.split_once('m').map_or("", |(_, rest)| rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_come_from_both_runners_summaries() {
        let cargo = "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!((count(cargo, "passed"), count(cargo, "failed")), (12, 3));
        let nextest =
            "     Summary [   1.204s] 42 tests run: 40 passed (1 slow), 1 failed, 1 timed out, 2 skipped";
        assert_eq!(
            (count(nextest, "passed"), count(nextest, "failed"), count(nextest, "timed out")),
            (40, 1, 1)
        );
        assert_eq!(count("Summary [ 0.1s] 3 tests run: 3 passed, 0 skipped", "failed"), 0);
    }

    #[test]
    fn colours_are_removed() {
        assert_eq!(without_colours("\u{1b}[32;1m Summary\u{1b}[0m [ 1s]"), " Summary [ 1s]");
    }
}
