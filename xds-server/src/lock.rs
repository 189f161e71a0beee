//! Lock files: one process at a time, released by the kernel however the holder ends.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use rustix::{
    fs::{FlockOperation, OFlags, flock},
    io::Errno,
};

/// Why a lock is not taken.
#[derive(Debug)]
pub(crate) enum LockError {
    /// Another process has it; its id when it wrote one.
    Held {
        /// The process id.
        holder: Option<u32>,
    },
    /// The file cannot be opened or locked.
    Io(io::Error),
}

/// Takes the lock without waiting. It lasts until the file is closed; children do not inherit it.
pub(crate) fn acquire(path: &Path) -> Result<File, LockError> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
        .map_err(LockError::Io)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Err(LockError::Held { holder: holder(&file) }),
        Err(error) => return Err(LockError::Io(error.into())),
    }
    // The number is for people: a failure to write it is no failure to lock.
    let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}

fn holder(file: &File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// The holder in an error text: ` (process 42)`, or nothing.
pub(crate) fn process(holder: Option<u32>) -> String {
    holder.map(|id| format!(" (process {id})")).unwrap_or_default()
}
