//! The benchmarks.

use crate::run::execute;
use crate::{Result, workspace};

/// Package and name of each benchmark.
const BENCHMARKS: &[(&str, &str)] =
    &[("nexodus-netstack", "flow_scaling"), ("nexodus-netstack", "udp_scaling")];

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    for (package, name) in BENCHMARKS {
        let mut cargo = workspace::cargo()?;
        cargo.args(["bench", "--package", package, "--bench", name, "--"]).args(arguments);
        execute(&format!("{package}: {name}"), &mut cargo)?;
    }
    Ok(())
}
