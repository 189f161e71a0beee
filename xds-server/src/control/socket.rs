//! Unix sockets: private from the first moment on, and never taken from a living process.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use envoy_config::MAX_SOCKET_PATH_BYTES;
use rustix::fs::{FlockOperation, flock};
use tokio::net::{UnixListener, UnixStream};

/// A connection to a socket with a full queue waits; whoever has that queue is alive.
const LIVENESS_LIMIT: Duration = Duration::from_secs(1);

/// How long another process may be busy binding in the same directory.
const DIRECTORY_LIMIT: Duration = Duration::from_secs(2);

/// A socket is bound in a directory of its own first, as `/.0123abcd/s` below the path's.
const MAX_DIRECTORY_BYTES: usize = MAX_SOCKET_PATH_BYTES - "/.0123abcd/s".len();

/// Whose socket it is, for errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The program that listens there.
    pub program: &'static str,
    /// The flag that says where.
    pub flag: &'static str,
}

/// Why a socket is not bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody answers there. The beginning is upstream's.
    #[error(
        "existing {} service already running on {}; give this one another path with {}",
        owner.program, path.display(), owner.flag
    )]
    Live {
        /// The socket.
        path: PathBuf,
        /// Whose it should be.
        owner: Owner,
    },
    /// Something else has that name.
    #[error("{} exists and is not a socket: remove it, or choose another path with {}", path.display(), owner.flag)]
    NotASocket {
        /// The path.
        path: PathBuf,
        /// Whose it should be.
        owner: Owner,
    },
    /// The system's limit.
    #[error(
        "the socket path {} is too long: it can have {MAX_SOCKET_PATH_BYTES} bytes, and its directory {MAX_DIRECTORY_BYTES}; choose a shorter one with {}",
        path.display(), owner.flag
    )]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Whose it should be.
        owner: Owner,
    },
    /// The system refuses.
    #[error("socket {}: {error}; choose another path with {}", path.display(), owner.flag)]
    Io {
        /// The path.
        path: PathBuf,
        /// Whose it should be.
        owner: Owner,
        /// The system's reason.
        error: io::Error,
    },
}

/// The file of a bound socket. It goes with this, unless another process has put its own in that place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).ok() == Some(self.identity) {
            // Nothing depends on it: a socket left behind is recognized as dead by the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes the directory of a socket, and those above it, if they are not there; for this user alone.
///
/// # Errors
/// [`BindError::Io`].
pub fn make_directory(path: &Path, owner: Owner) -> Result<(), BindError> {
    let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else { return Ok(()) };
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(parent);
    made.map_err(|error| BindError::Io { path: path.to_owned(), owner, error })
}

/// Binds a socket with mode 0600; a dead one in its place is replaced.
///
/// # Errors
/// [`BindError`]; what is there stays there.
pub async fn bind(path: &Path, owner: Owner) -> Result<(UnixListener, SocketFile), BindError> {
    let io = |error| BindError::Io { path: path.to_owned(), owner, error };
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // Bound under a private name first: between bind and chmod nobody else can open it.
    let private = directory.join(format!(".{:08x}", std::process::id()));
    let hidden = private.join("s");
    if [path, &hidden].iter().any(|path| path.as_os_str().len() > MAX_SOCKET_PATH_BYTES) {
        return Err(BindError::TooLong { path: path.to_owned(), owner });
    }
    // Two starts at once must not take each other for dead.
    let _turn = lock_directory(directory).await.map_err(io)?;
    if let Some(error) = occupant(path, owner).await {
        return Err(error);
    }
    let _ = fs::remove_dir_all(&private);
    fs::DirBuilder::new().mode(0o700).create(&private).map_err(io)?;
    let bound = || {
        let listener = UnixListener::bind(&hidden)?;
        fs::set_permissions(&hidden, fs::Permissions::from_mode(0o600))?;
        let file = SocketFile { path: path.to_owned(), identity: identity(&hidden)? };
        fs::rename(&hidden, path)?;
        Ok((listener, file))
    };
    let result = bound().map_err(io);
    let _ = fs::remove_dir_all(&private);
    result
}

/// Whether a process answers at a socket.
pub async fn is_live(path: &Path) -> io::Result<bool> {
    match tokio::time::timeout(LIVENESS_LIMIT, UnixStream::connect(path)).await {
        Ok(Ok(_)) | Err(_) => Ok(true),
        Ok(Err(error)) => match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Ok(false),
            io::ErrorKind::WouldBlock => Ok(true),
            _ => Err(error),
        },
    }
}

/// Why the path cannot be taken.
async fn occupant(path: &Path, owner: Owner) -> Option<BindError> {
    let io = |error| Some(BindError::Io { path: path.to_owned(), owner, error });
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Some(BindError::NotASocket { path: path.to_owned(), owner });
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => return io(error),
    }
    match is_live(path).await {
        Ok(true) => Some(BindError::Live { path: path.to_owned(), owner }),
        Ok(false) => None,
        Err(error) => io(error),
    }
}

/// The directory's own lock, which leaves no file behind.
async fn lock_directory(directory: &Path) -> io::Result<File> {
    let file = File::open(directory)?;
    let deadline = Instant::now() + DIRECTORY_LIMIT;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            // Also after the deadline, and on file systems without locks: it guards against a rare coincidence only.
            _ => return Ok(file),
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}
