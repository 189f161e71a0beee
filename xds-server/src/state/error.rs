//! What can go wrong with the state directory.

use std::{io, path::PathBuf};

use crate::{
    lock::process,
    rules::{Direction, RuleError},
};

/// Why the state of a node cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The directory cannot be made or locked.
    #[error("state directory {}: {error}; choose another with --state-dir", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
    /// Another node has it.
    #[error("state directory {} is in use by another nexd{}; give this one its own with --state-dir", path.display(), process(*holder))]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The other's process id.
        holder: Option<u32>,
    },
    /// The file is there and cannot be read.
    #[error("Failed to load the stored proxy rules: {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
    /// The file is damaged.
    #[error("Failed to load the stored proxy rules: {}: {reason}; repair it, or move it away to start without stored rules", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// Where and what.
        reason: String,
    },
    /// A stored rule does not parse.
    #[error("Failed to load the stored proxy rules: {}: {direction} rule ({text}): {error}; correct or delete it there", path.display())]
    Rule {
        /// The file.
        path: PathBuf,
        /// The list it is in.
        direction: Direction,
        /// The rule as stored.
        text: String,
        /// What is wrong with it.
        error: RuleError,
    },
    /// The new state is not on disk.
    #[error("cannot write {}: {error}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
}
