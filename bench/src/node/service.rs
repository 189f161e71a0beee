//! The far program: one thread that serves every kind of client.

use std::future::Future;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream as StdStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use e2e::Namespace;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::Result;

/// What a client wants: its first byte.
pub(super) const UPLOAD: u8 = b'u';
pub(super) const DOWNLOAD: u8 = b'd';
pub(super) const ECHO: u8 = b'e';
/// A request of this size, all of it this byte, gets one [`RESPONSE`].
pub(super) const REQUEST: [u8; 64] = [b'r'; 64];
pub(super) const RESPONSE: [u8; 128] = [b'R'; 128];
/// A GET request gets this page as often as it is asked for.
pub(super) const HTTP_REQUEST: &[u8; 65] =
    b"GET / HTTP/1.1\r\nHost: service.example\r\nUser-Agent: bench node\r\n\r\n";
pub(super) const HTTP_RESPONSE: &[u8; 85] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 20\r\n\r\nhello from far away\n";

/// What one read or write of a bulk load moves at most.
pub(super) const CHUNK: usize = 128 << 10;

/// The service. It ends when dropped.
pub(super) struct Service {
    /// Bytes that were uploaded.
    uploaded: Arc<AtomicU64>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    pub(super) fn start(namespace: &Namespace, address: SocketAddr) -> Result<Self> {
        let listener = namespace.run(|| -> Result<std::net::TcpListener> {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&address.into())?;
            socket.listen(4096)?;
            socket.set_nonblocking(true)?;
            Ok(socket.into())
        })?;
        let uploaded = Arc::<AtomicU64>::default();
        let (end, ended) = oneshot::channel();
        let runtime = runtime()?;
        let counter = Arc::clone(&uploaded);
        let thread = std::thread::Builder::new().name("service".into()).spawn(move || {
            let serve = async move {
                let listener = TcpListener::from_std(listener)?;
                loop {
                    let (stream, _) = listener.accept().await?;
                    stream.set_nodelay(true)?;
                    let counter = Arc::clone(&counter);
                    tokio::spawn(async move {
                        // Clients leave without a word when their time is over.
                        drop(serve(stream, &counter).await);
                    });
                }
            };
            runtime.block_on(async {
                tokio::select! {
                    result = serve => {
                        let result: Result<()> = result;
                        eprintln!("the service ended: {result:?}");
                    }
                    _ = ended => {}
                }
            });
        })?;
        Ok(Self { uploaded, end: Some(end), thread: Some(thread) })
    }

    /// Bytes that clients have uploaded so far.
    pub(super) fn uploaded(&self) -> u64 {
        self.uploaded.load(Ordering::Relaxed)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.end.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            eprintln!("the service panicked");
        }
    }
}

async fn serve(mut stream: TcpStream, uploaded: &AtomicU64) -> std::io::Result<()> {
    match stream.read_u8().await? {
        UPLOAD => {
            let mut buffer = vec![0; CHUNK];
            loop {
                let count = stream.read(&mut buffer).await?;
                if count == 0 {
                    return Ok(());
                }
                uploaded.fetch_add(count as u64, Ordering::Relaxed);
            }
        }
        DOWNLOAD => {
            let content = vec![0x5a; CHUNK];
            loop {
                stream.write_all(&content).await?;
            }
        }
        ECHO => {
            let mut buffer = [0; 4096];
            loop {
                let count = stream.read(&mut buffer).await?;
                if count == 0 {
                    return Ok(());
                }
                stream.write_all(&buffer[..count]).await?;
            }
        }
        first if first == REQUEST[0] => {
            stream.read_exact(&mut [0; REQUEST.len() - 1]).await?;
            stream.write_all(&RESPONSE).await?;
            // The client closes.
            stream.read(&mut [0]).await.map(drop)
        }
        first if first == HTTP_REQUEST[0] => {
            let mut request = [0; HTTP_REQUEST.len()];
            stream.read_exact(&mut request[1..]).await?;
            loop {
                stream.write_all(HTTP_RESPONSE).await?;
                stream.read_exact(&mut request).await?;
            }
        }
        other => Err(std::io::Error::other(format!("no such order: {other}"))),
    }
}

/// Whether the service is at the other end.
pub(super) fn answers(mut stream: StdStream) -> bool {
    stream.set_read_timeout(Some(std::time::Duration::from_secs(2))).is_ok()
        && stream.write_all(&[ECHO, 1]).is_ok()
        && stream.read_exact(&mut [0]).is_ok()
}

/// Runs a client to its end on a thread in this namespace.
pub(super) fn client<T: Send, F: Future<Output = Result<T>>>(
    namespace: &Namespace,
    client: impl FnOnce() -> F + Send,
) -> Result<T> {
    namespace.run(|| runtime()?.block_on(client()))
}

/// One thread of one's own.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}
