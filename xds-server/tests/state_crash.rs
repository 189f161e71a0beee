//! What is stored survives SIGKILL at any moment.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use xds_server::{
    rules::{Direction, Rule},
    state::StateFile,
};

/// In the environment of the process that is to be killed: its state directory.
const DIRECTORY: &str = "STATE_CRASH_DIRECTORY";

#[test]
fn acknowledged_rules_survive() {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        return write_for_ever(Path::new(&directory));
    }
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for round in 0..12_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["acknowledged_rules_survive", "--exact", "--nocapture"])
            .env(DIRECTORY, directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // It works before it dies, for a time that differs.
        lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("acknowledged "))).unwrap().unwrap();
        std::thread::sleep(Duration::from_micros(1 + round * 1_700));
        child.kill().unwrap();
        child.wait().unwrap();
        let said = lines.map_while(Result::ok).filter(|line| line.contains("acknowledged ")).count();
        acknowledged += 1 + said;

        let (_file, rules) = StateFile::open(directory.path()).unwrap();
        // One more may be on disk than was said to be.
        let stored = rules.iter().len();
        assert!((acknowledged..=acknowledged + 1).contains(&stored), "{stored} of {acknowledged}");
        acknowledged = stored;
    }
}

fn write_for_ever(directory: &Path) {
    let (mut file, mut rules) = StateFile::open(directory).unwrap();
    let next = rules.iter().len() + 1;
    for port in next.. {
        let rule: Rule = format!("tcp:{port}:10.0.0.1:80").parse().unwrap();
        rules.add(Direction::Ingress, rule);
        file.save(&rules).unwrap();
        let mut out = std::io::stdout().lock();
        writeln!(out, "acknowledged {port}").unwrap();
        out.flush().unwrap();
    }
}
