//! The fuzzer: libFuzzer, on a stable compiler.

use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;

use crate::run::{execute, note, output, step};
use crate::{Result, workspace};

/// The targets; `filter/netstack/tests/fuzz` has what they do.
const TARGETS: &[&str] = &["segment", "connection", "stack"];
/// Longer inputs cost more than they show.
const MAX_LEN: &str = "2048";
/// Clock ticks in a second, in `/proc` (`sysconf(_SC_CLK_TCK)`, which is 100 on every Linux there is).
const TICKS: f64 = 100.0;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Only this target: `segment`, `connection` or `stack`.
    target: Option<String>,
    /// How long to run each target.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
    /// Do not run: replace the committed corpus by as few inputs as reach everything that was reached so far.
    #[arg(long)]
    minimize: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let known = |name: &str| TARGETS.iter().copied().find(|target| *target == name);
    let targets = match &arguments.target {
        None => TARGETS.to_vec(),
        Some(name) => {
            vec![known(name).ok_or_else(|| format!("no target {name:?}; there are {}", TARGETS.join(", ")))?]
        }
    };
    let fuzz = Fuzz::build()?;
    for target in targets {
        if arguments.minimize { fuzz.minimize(target)? } else { fuzz.run(target, arguments.minutes)? }
    }
    Ok(())
}

struct Fuzz {
    /// `filter/netstack/fuzz`.
    source: PathBuf,
    /// Programs, growing corpus and findings.
    place: PathBuf,
}

impl Fuzz {
    fn build() -> Result<Self> {
        let source = workspace::root().join("filter/netstack/fuzz");
        let place = workspace::target()?.join("fuzz");
        let mut cargo = workspace::cargo()?;
        cargo
            .current_dir(&source)
            .env("CARGO_TARGET_DIR", &place)
            .env("RUSTC_WRAPPER", source.join("rustc"))
            .args(["build", "--release", "--locked"]);
        execute("build with coverage", &mut cargo)?;
        Ok(Self { source, place })
    }

    fn program(&self, target: &str) -> Command {
        Command::new(self.place.join("release").join(target))
    }

    /// The corpus that grows from run to run.
    fn growing(&self, target: &str) -> Result<PathBuf> {
        let corpus = self.place.join("corpus").join(target);
        fs::create_dir_all(&corpus)?;
        Ok(corpus)
    }

    fn run(&self, target: &str, minutes: u64) -> Result<()> {
        step(format_args!("{target}, for {minutes} minutes"));
        let findings = self.place.join("findings").join(target);
        fs::create_dir_all(&findings)?;
        let mut program = self.program(target);
        program
            .arg(format!("-max_total_time={}", minutes * 60))
            .arg(format!("-max_len={MAX_LEN}"))
            .arg(format!("-artifact_prefix={}/", findings.display()))
            .args([
                "-len_control=20",
                // Of real time: beside other work, and at a low priority, an input waits more than it runs.
                "-timeout=600",
                "-rss_limit_mb=1024",
                "-print_final_stats=1",
                "-reload=1",
            ])
            .arg(self.growing(target)?)
            .args(self.committed(target))
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let before = children_seconds()?;
        let mut child = program.spawn()?;
        let mut report = Report::default();
        if let Some(lines) = child.stderr.take() {
            report.read(BufReader::new(lines), &self.place.join(format!("{target}.txt")))?;
        }
        let status = child.wait()?;
        let seconds = children_seconds()? - before;
        let line = report.line(target, minutes, seconds)?;
        note(&line);
        let log = self.source.join("log").join(format!("{target}.log"));
        writeln!(fs::OpenOptions::new().create(true).append(true).open(log)?, "{line}")?;
        if !status.success() {
            let shown = findings.display();
            return Err(
                format!("{target} ended with {status}; its input is in {shown}\n{}", report.tail()).into()
            );
        }
        Ok(())
    }

    /// The corpus that everybody has, and what was found once.
    fn committed(&self, target: &str) -> [PathBuf; 2] {
        ["corpus", "found"].map(|kind| self.source.join(kind).join(target)).map(|path| {
            // libFuzzer insists on directories that exist.
            if path.is_dir() { path } else { self.source.join("corpus").join(target) }
        })
    }

    fn minimize(&self, target: &str) -> Result<()> {
        let (growing, committed) = (self.growing(target)?, self.source.join("corpus").join(target));
        let least = self.place.join("least").join(target);
        if least.exists() {
            fs::remove_dir_all(&least)?;
        }
        fs::create_dir_all(&least)?;
        let mut program = self.program(target);
        // By branches that are reached, not by how often.
        program
            .args(["-set_cover_merge=1", "-use_counters=0"])
            .arg(format!("-max_len={MAX_LEN}"))
            .args([&least, &growing, &committed])
            .stderr(fs::File::create(self.place.join(format!("{target}-minimize.txt")))?);
        execute(&format!("{target}: minimize"), &mut program)?;
        fs::remove_dir_all(&committed)?;
        fs::create_dir_all(&committed)?;
        let (mut files, mut bytes) = (0, 0);
        for entry in fs::read_dir(&least)? {
            let entry = entry?;
            bytes += fs::copy(entry.path(), committed.join(entry.file_name()))?;
            files += 1;
        }
        note(format_args!("{files} inputs, {bytes} bytes"));
        Ok(())
    }
}

/// What libFuzzer has said.
#[derive(Default)]
struct Report {
    /// `cov: … ft: … corp: …` of its last line of progress.
    progress: String,
    executions: String,
    last: Vec<String>,
}

impl Report {
    fn read(&mut self, lines: impl BufRead, copy: &Path) -> Result<()> {
        let mut copy = fs::File::create(copy)?;
        let mut shown = 0_u64;
        for line in lines.lines() {
            let line = line?;
            writeln!(copy, "{line}")?;
            if let Some(at) = line.find("cov: ") {
                let end = line.find(" exec/s").unwrap_or(line.len());
                line.get(at..end).unwrap_or_default().clone_into(&mut self.progress);
                shown += 1;
                // Progress, without every line of it.
                if shown.is_power_of_two() || line.contains("pulse") {
                    note(&line);
                }
            }
            if let Some((_, number)) = line.split_once("stat::number_of_executed_units:") {
                number.trim().clone_into(&mut self.executions);
            }
            self.last.push(line);
            if self.last.len() > 60 {
                self.last.remove(0);
            }
        }
        Ok(())
    }

    fn line(&self, target: &str, minutes: u64, seconds: f64) -> Result<String> {
        let mut git = Command::new("git");
        let commit = output(git.current_dir(workspace::root()).args(["describe", "--always", "--dirty"]))?;
        let finding = self.last.iter().find(|line| line.contains("Test unit written to"));
        let finding = finding.and_then(|line| line.rsplit('/').next()).unwrap_or("none");
        Ok(format!(
            "`cargo xtask fuzz {target} --minutes {minutes}` at {}: {seconds:.0} s of CPU, {} executions, {}; findings: {finding}",
            commit.trim(),
            if self.executions.is_empty() { "?" } else { &self.executions },
            self.progress,
        ))
    }

    fn tail(&self) -> String {
        self.last.join("\n")
    }
}

/// CPU time of the children that have ended (`proc_pid_stat(5)`, fields 16 and 17).
fn children_seconds() -> Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: f64 =
        after_name.split_whitespace().skip(13).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    Ok(ticks / TICKS)
}
