//! The directory of a node's internal sockets.
//!
//! What comes in through the ingress sockets is believed (the overlay addresses in the PROXY protocol header), and
//! whoever reaches Envoy's admin or ADS socket commands the node. So the directory belongs to this user alone, and to
//! one node at a time.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use envoy_config::MAX_SOCKET_PATH_BYTES;
use rustix::fs::OFlags;

use crate::{
    lock::{self, LockError, process},
    rules::{Direction, Protocol, RuleKey},
    translate::Settings,
};

/// The longest name of a socket in the directory, but for those of rules with an address.
const LONGEST_NAME: &str = "ingress-tcp-65535.sock";

const ADS_SOCKET: &str = "ads.sock";
const ADMIN_SOCKET: &str = "admin.sock";
const BOOTSTRAP: &str = "bootstrap.json";

/// Why the directory is not used.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeDirError {
    /// Sockets in it would be longer than the system's limit.
    #[error(
        "runtime directory {}: its path has {} bytes, and with more than {} the sockets in it are over the system's limit; choose a shorter one with --runtime-dir",
        path.display(), path.as_os_str().len(), max_length()
    )]
    TooLong {
        /// The directory.
        path: PathBuf,
    },
    /// The socket of one rule would be longer than the system's limit.
    #[error(
        "its socket {} has a path of {} bytes, and the system's limit is {MAX_SOCKET_PATH_BYTES}; choose a shorter directory with --runtime-dir, or leave bind out",
        path.display(), path.as_os_str().len()
    )]
    LongSocket {
        /// The socket.
        path: PathBuf,
    },
    /// A symbolic link or a file.
    #[error("runtime directory {} is not a directory (a symbolic link counts as none); choose another with --runtime-dir", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// Somebody else's.
    #[error("runtime directory {} belongs to user {owner}, not to this process's user {user}; choose another with --runtime-dir", path.display())]
    Owner {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The process's effective user.
        user: u32,
    },
    /// Group or others have rights.
    #[error("runtime directory {} has mode {mode:04o}, and it is for its owner alone: `chmod 700 {}`", path.display(), path.display())]
    Mode {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another node has it.
    #[error("runtime directory {} is in use by another nexd{}; give this one its own with --runtime-dir", path.display(), process(*holder))]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The other's process id.
        holder: Option<u32>,
    },
    /// The system refuses.
    #[error("runtime directory {}: {error}; choose another with --runtime-dir", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
}

/// The directory, locked for as long as this lives. What nexd and Envoy put there goes with it.
#[derive(Debug)]
pub struct RuntimeDir {
    path: PathBuf,
    _lock: File,
}

const fn max_length() -> usize {
    MAX_SOCKET_PATH_BYTES - LONGEST_NAME.len() - 1
}

/// Whether every socket in the directory has a path within the system's limit, but for those that [`check_socket`] is for.
///
/// # Errors
/// [`RuntimeDirError::TooLong`].
pub fn check_length(path: &Path) -> Result<(), RuntimeDirError> {
    if path.as_os_str().len() > max_length() {
        return Err(RuntimeDirError::TooLong { path: path.to_owned() });
    }
    Ok(())
}

/// Whether the socket of a rule, if it has one, has a path within the system's limit. The address that a rule is bound to is part
/// of its name.
///
/// # Errors
/// [`RuntimeDirError::LongSocket`].
pub fn check_socket(settings: &Settings, key: RuleKey) -> Result<(), RuntimeDirError> {
    if (key.direction, key.protocol) != (Direction::Ingress, Protocol::Tcp) {
        return Ok(());
    }
    let path = settings.ingress_socket(key);
    if path.as_os_str().len() > MAX_SOCKET_PATH_BYTES {
        return Err(RuntimeDirError::LongSocket { path });
    }
    Ok(())
}

impl RuntimeDir {
    /// Makes the directory (mode 0700) if need be, checks and locks it.
    ///
    /// # Errors
    /// [`RuntimeDirError`].
    pub fn open(path: &Path) -> Result<Self, RuntimeDirError> {
        let io = |error| RuntimeDirError::Io { path: path.to_owned(), error };
        check_length(path)?;
        match DirBuilder::new().recursive(true).mode(0o700).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(RuntimeDirError::NotADirectory { path: path.to_owned() });
            }
            Err(error) => return Err(io(error)),
        }
        check_owner(path)?;
        let lock = lock::acquire(&path.join("lock")).map_err(|error| match error {
            LockError::Held { holder } => RuntimeDirError::InUse { path: path.to_owned(), holder },
            LockError::Io(error) => io(error),
        })?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Where the ADS server listens.
    #[must_use]
    pub fn ads_socket(&self) -> PathBuf {
        self.path.join(ADS_SOCKET)
    }

    /// Envoy's admin interface.
    #[must_use]
    pub fn admin_socket(&self) -> PathBuf {
        self.path.join(ADMIN_SOCKET)
    }

    /// Envoy's configuration.
    #[must_use]
    pub fn bootstrap(&self) -> PathBuf {
        self.path.join(BOOTSTRAP)
    }

    /// Writes Envoy's configuration, mode 0600.
    ///
    /// # Errors
    /// The system's.
    pub fn write_bootstrap(&self, text: &[u8]) -> io::Result<()> {
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.bootstrap())?.write_all(text)
    }

    /// Clears away what a killed node left.
    ///
    /// # Errors
    /// [`RuntimeDirError::Io`].
    pub fn clear(&self) -> Result<(), RuntimeDirError> {
        self.remove_files().map_err(|error| RuntimeDirError::Io { path: self.path.clone(), error })
    }

    fn remove_files(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(is_ours) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

impl Drop for RuntimeDir {
    fn drop(&mut self) {
        // The next start clears what could not be removed now.
        let _ = self.remove_files();
    }
}

/// Whether nexd, Envoy or the module makes a file of this name. Others may be in the directory, such as the control socket.
fn is_ours(name: &str) -> bool {
    let is_ingress = || name.starts_with("ingress-") && name.ends_with(".sock");
    [ADS_SOCKET, ADMIN_SOCKET, BOOTSTRAP].contains(&name) || is_ingress()
}

fn check_owner(path: &Path) -> Result<(), RuntimeDirError> {
    let not_a_directory = || RuntimeDirError::NotADirectory { path: path.to_owned() };
    // Looked at through a descriptor that followed no link, so that nothing can be exchanged in between.
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    let metadata = match opened.and_then(|directory| directory.metadata()) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Err(not_a_directory()),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            return Err(not_a_directory());
        }
        Err(error) => return Err(RuntimeDirError::Io { path: path.to_owned(), error }),
    };
    let user = rustix::process::geteuid().as_raw();
    if metadata.uid() != user {
        return Err(RuntimeDirError::Owner { path: path.to_owned(), owner: metadata.uid(), user });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(RuntimeDirError::Mode { path: path.to_owned(), mode });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
