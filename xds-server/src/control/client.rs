//! The asking end: one connection for each call, as upstream's nexctl does it. Blocking; for command line tools.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Method, rpc};

/// A change waits for Envoy; see [`crate::nexd`].
const REPLY_LIMIT: Duration = Duration::from_secs(60);

/// Ten thousand rules with the longest host names.
const MAX_REPLY_BYTES: u64 = 8 << 20;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody is there.
    #[error("Failed to connect to nexd: {0}; start nexd, or name its socket with --unix-socket")]
    Connect(String),
    /// The connection broke, or what came is no reply.
    #[error("Failed to execute method ({method}): {error}")]
    Transport {
        /// The method.
        method: &'static str,
        /// What happened.
        error: io::Error,
    },
    /// nexd has not answered in time.
    #[error(
        "Failed to execute method ({method}): nexd has not answered within {} s; the change may still be made, see `nexctl nexd proxy list`",
        REPLY_LIMIT.as_secs()
    )]
    TimedOut {
        /// The method.
        method: &'static str,
    },
    /// nexd refuses.
    #[error("Failed to execute method ({method}): {error}")]
    Refused {
        /// The method.
        method: &'static str,
        /// nexd's text.
        error: String,
    },
}

/// Where nexd may be.
#[derive(Clone, Debug)]
pub struct Client {
    sockets: Vec<PathBuf>,
}

impl Client {
    /// Tries these sockets in this order.
    #[must_use]
    pub fn new(sockets: Vec<PathBuf>) -> Self {
        Self { sockets }
    }

    /// Calls a method.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn call(&self, method: Method, argument: &str) -> Result<String, ClientError> {
        let stream = self.connect()?;
        let method = method.as_str();
        exchange(&stream, &format!("NexdCtl.{method}"), argument)
            .map_err(|error| match error.kind() {
                // What a socket with a time limit says depends on the system.
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::TimedOut { method },
                _ => ClientError::Transport { method, error },
            })?
            .map_err(|error| ClientError::Refused { method, error })
    }

    fn connect(&self) -> Result<UnixStream, ClientError> {
        let mut failures = Vec::new();
        for socket in &self.sockets {
            match connect(socket) {
                Ok(stream) => return Ok(stream),
                Err(error) => failures.push(format!("{}: {error}", socket.display())),
            }
        }
        Err(ClientError::Connect(failures.join("; ")))
    }
}

fn connect(socket: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(REPLY_LIMIT))?;
    stream.set_write_timeout(Some(REPLY_LIMIT))?;
    Ok(stream)
}

fn exchange(mut stream: &UnixStream, method: &str, argument: &str) -> io::Result<Result<String, String>> {
    stream.write_all(&rpc::encode_call(method, argument))?;
    let mut line = Vec::new();
    BufReader::new(stream).take(MAX_REPLY_BYTES).read_until(b'\n', &mut line)?;
    if line.last() != Some(&b'\n') {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "nexd closed the connection"));
    }
    Ok(rpc::decode_reply(&line)?)
}
