//! Where things are.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;

/// The repository's top directory. Cargo tells at run time: with a target directory for several work trees, this program may
/// have been built in another one.
pub(crate) fn root() -> PathBuf {
    let own = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&own).parent().unwrap_or(Path::new(".")).to_path_buf()
}

/// Cargo's target directory: this program runs as `<target>/debug/xtask`, wherever the user's configuration puts it.
pub(crate) fn target() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program.ancestors().nth(2).ok_or("this program is not in a target directory")?;
    Ok(target.to_path_buf())
}

/// A cargo command that works on this workspace and builds where this program was built.
pub(crate) fn cargo() -> Result<Command> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).env("CARGO_TARGET_DIR", target()?);
    Ok(command)
}
