//! Reads files that hold keys, after the checks that ssh makes of its own.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use thiserror::Error;
use zeroize::Zeroizing;

/// A file that holds keys is not read.
#[derive(Debug, Error)]
pub enum FileError {
    /// The system refuses.
    #[error("{}: {error}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
    /// A directory, a pipe, a device.
    #[error("{}: is not a regular file: name the file that holds the key", file.display())]
    NotRegular {
        /// The file.
        file: PathBuf,
    },
    /// Somebody else's file.
    #[error(
        "{}: is owned by user {owner}, neither by this process's user {user} nor by root: `chown {user} {}`",
        file.display(),
        file.display()
    )]
    Owner {
        /// The file.
        file: PathBuf,
        /// Its owner.
        owner: u32,
        /// The process's effective user.
        user: u32,
    },
    /// Group or others have rights.
    #[error(
        "{}: has mode {mode:04o}, and a file with keys is for its owner alone: `chmod 600 {}`",
        file.display(),
        file.display()
    )]
    Mode {
        /// The file.
        file: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Too large to be what it should be.
    #[error("{}: has more than {limit} bytes, so it is not the file that was meant", file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// The bound.
        limit: usize,
    },
    /// Not text.
    #[error("{}: is not UTF-8 text", file.display())]
    NotText {
        /// The file.
        file: PathBuf,
    },
}

/// Reads a text of at most `limit` bytes from a regular file that belongs to this process's user or to root and that
/// nobody else may read. The checks are made on the open file, so it cannot be exchanged in between.
pub(crate) fn read(path: &Path, limit: usize) -> Result<Zeroizing<String>, FileError> {
    let file = || path.to_owned();
    let io = |error| FileError::Io { file: file(), error };
    let opened = open(path).map_err(io)?;
    let metadata = opened.metadata().map_err(io)?;
    if !metadata.is_file() {
        return Err(FileError::NotRegular { file: file() });
    }
    let user = rustix::process::geteuid().as_raw();
    if metadata.uid() != user && metadata.uid() != 0 {
        return Err(FileError::Owner { file: file(), owner: metadata.uid(), user });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(FileError::Mode { file: file(), mode });
    }
    let too_large = || FileError::TooLarge { file: file(), limit };
    let size = usize::try_from(metadata.len()).map_err(|_| too_large())?;
    if size > limit {
        return Err(too_large());
    }
    // Room for one byte more than the bound: the buffer never grows, so no copy of a key is left on the heap.
    let mut bytes = Zeroizing::new(Vec::with_capacity(limit + 1));
    opened.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() > limit {
        return Err(too_large());
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| FileError::NotText { file: file() })?;
    Ok(Zeroizing::new(text.to_owned()))
}

fn open(path: &Path) -> io::Result<File> {
    // Without NONBLOCK a named pipe would block here until somebody writes to it.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}
