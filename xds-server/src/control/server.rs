//! The serving end.

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::timeout,
};

use super::{
    Method,
    rpc::{self, Decoded, MAX_REQUEST_BYTES},
};

/// Answers requests. Clones share one state.
pub trait Service: Clone + Send + Sync + 'static {
    /// Answers one request with a result or an error text.
    fn call(&self, method: Method, argument: String) -> impl Future<Output = Result<String, String>> + Send;
}

/// What clients may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections; one more is closed at once.
    pub connections: usize,
    /// How long a connection may be open without a whole request, and how long a client may take to read a reply.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 128, idle: Duration::from_secs(60) }
    }
}

/// What was refused, for the log and the tests.
#[derive(Debug, Default)]
pub struct Refusals {
    connections: AtomicU64,
    requests: AtomicU64,
    idle: AtomicU64,
}

impl Refusals {
    /// Connections over the limit.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Connections closed because of a malformed or too long request.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Connections closed because nothing came, or nothing was read.
    #[must_use]
    pub fn idle(&self) -> u64 {
        self.idle.load(Ordering::Relaxed)
    }
}

impl fmt::Display for Refusals {
    /// Nothing, or one line for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (connections, requests, idle) = (self.connections(), self.requests(), self.idle());
        if connections + requests + idle == 0 {
            return Ok(());
        }
        writeln!(
            f,
            "Control connections refused: {connections} over the limit, {requests} malformed, {idle} idle"
        )
    }
}

/// Serves until it is dropped. Requests of one connection are answered in their order.
pub async fn serve(listener: UnixListener, service: impl Service, limits: Limits, refusals: Arc<Refusals>) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "control socket: accept");
                // Out of descriptors, most likely: they come back.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            refusals.connections.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(limit = limits.connections, "control socket: too many connections");
            continue;
        };
        let (service, refusals) = (service.clone(), Arc::clone(&refusals));
        connections.spawn(async move {
            let end = connection(stream, service, limits.idle).await;
            let counter = match end {
                End::Closed => None,
                End::Refused => Some(&refusals.requests),
                End::Idle => Some(&refusals.idle),
            };
            if let Some(counter) = counter {
                counter.fetch_add(1, Ordering::Relaxed);
            }
            tracing::debug!(?end, "control connection");
            drop(place);
        });
    }
}

/// How a connection came to its end.
#[derive(Debug)]
enum End {
    /// By the client, or by an error of the socket.
    Closed,
    /// A request that is none, or too long.
    Refused,
    /// Too slow.
    Idle,
}

async fn connection(mut stream: UnixStream, service: impl Service, idle: Duration) -> End {
    let mut buffer = Vec::new();
    loop {
        let request = match rpc::decode(&buffer) {
            Decoded::Request { request, consumed } => {
                buffer.drain(..consumed);
                request
            }
            Decoded::Malformed => return End::Refused,
            Decoded::Incomplete if buffer.len() >= MAX_REQUEST_BYTES => return End::Refused,
            Decoded::Incomplete => {
                let room = MAX_REQUEST_BYTES - buffer.len();
                match timeout(idle, read_some(&mut stream, &mut buffer, room)).await {
                    Err(_) => return End::Idle,
                    Ok(Ok(1..)) => continue,
                    Ok(_) => return End::Closed,
                }
            }
        };
        let outcome = match (Method::parse(&request.method), request.argument) {
            (Ok(method), Ok(argument)) => service.call(method, argument).await,
            (Err(error), _) | (_, Err(error)) => Err(error),
        };
        let reply = rpc::encode_reply(&request.id, &outcome);
        match timeout(idle, stream.write_all(&reply)).await {
            Err(_) => return End::Idle,
            Ok(Ok(())) => {}
            Ok(Err(_)) => return End::Closed,
        }
    }
}

async fn read_some(stream: &mut UnixStream, buffer: &mut Vec<u8>, room: usize) -> io::Result<usize> {
    buffer.reserve(room.min(1024));
    stream.take(room as u64).read_buf(buffer).await
}
