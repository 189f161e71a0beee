//! Bytes per second up and down, and what a gigabyte costs.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio::time::timeout;

use super::meter::Meter;
use super::samples::Figure;
use super::service::{CHUNK, DOWNLOAD, UPLOAD, client};
use super::world::World;
use crate::Result;

/// Before the clock starts: windows grow.
const WARM_UP: Duration = Duration::from_millis(700);

/// After it stopped: nothing is taken down while something is read.
const AFTER: Duration = Duration::from_millis(100);

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug)]
pub(super) enum Direction {
    /// The client sends.
    Up,
    /// The service sends.
    Down,
}

impl Direction {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

pub(super) fn measure(
    world: &World,
    direction: Direction,
    streams: usize,
    time: Duration,
) -> Result<Vec<Figure>> {
    let (bytes, usage) = load(world, &[world.target], direction, streams, time, || {
        let meter = Meter::start(world.process)?;
        std::thread::sleep(time);
        meter.read()
    })?;
    let name = format!("bulk_{}_{streams}", direction.name());
    let cpu = usage.cpu.as_secs_f64() / (bytes as f64 / 1e9);
    let wake_ups = usage.wake_ups as f64 / (bytes as f64 / 1e6);
    Ok(vec![
        Figure::new(format!("{name}_cpu"), "s/GB", cpu),
        Figure::new(format!("{name}_wake_ups"), "/MB", wake_ups),
        Figure::new(name, "Gbit/s", bytes as f64 / 125e6 / usage.time.as_secs_f64()),
    ])
}

/// Bytes that arrived while `meanwhile`, which takes about `time`, ran; and what it returned. The streams take the targets in turn.
pub(super) fn load<T>(
    world: &World,
    targets: &[SocketAddr],
    direction: Direction,
    streams: usize,
    time: Duration,
    meanwhile: impl FnOnce() -> Result<T>,
) -> Result<(u64, T)> {
    let downloaded = Arc::<AtomicU64>::default();
    let arrived = || match direction {
        Direction::Up => world.service.uploaded(),
        Direction::Down => downloaded.load(Ordering::Relaxed),
    };
    std::thread::scope(|scope| {
        let clients = scope.spawn(|| {
            let total = WARM_UP + time + AFTER;
            client(world.near, || clients(targets, direction, streams, total, &downloaded))
        });
        std::thread::sleep(WARM_UP);
        let before = arrived();
        let result = meanwhile();
        let bytes = arrived() - before;
        clients.join().map_err(|_| "a client panicked")??;
        if bytes == 0 {
            return Err("nothing arrived".into());
        }
        Ok((bytes, result?))
    })
}

async fn clients(
    targets: &[SocketAddr],
    direction: Direction,
    streams: usize,
    time: Duration,
    downloaded: &Arc<AtomicU64>,
) -> Result<()> {
    let failures = Rc::new(RefCell::new(Vec::new()));
    let set = LocalSet::new();
    for target in targets.iter().copied().cycle().take(streams) {
        let (downloaded, failures) = (Arc::clone(downloaded), Rc::clone(&failures));
        set.spawn_local(async move {
            let work = async {
                let mut stream = timeout(CONNECT, TcpStream::connect(target)).await??;
                match direction {
                    Direction::Up => send(&mut stream).await,
                    Direction::Down => take(&mut stream, &downloaded).await,
                }
            };
            let ended: std::io::Result<()> = work.await;
            failures.borrow_mut().extend(ended.err());
        });
    }
    // Nothing waits longer than this. Streams end when the set is dropped.
    let _ = timeout(time, async { tokio::join!(set, tokio::time::sleep(time)) }).await;
    match failures.borrow().first() {
        None => Ok(()),
        Some(first) => {
            let count = failures.borrow().len();
            Err(format!("{count} of {streams} streams ended early: {first}").into())
        }
    }
}

async fn send(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(&[UPLOAD]).await?;
    let content = vec![0x5a; CHUNK];
    loop {
        stream.write_all(&content).await?;
    }
}

async fn take(stream: &mut TcpStream, downloaded: &AtomicU64) -> std::io::Result<()> {
    stream.write_all(&[DOWNLOAD]).await?;
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        downloaded.fetch_add(count as u64, Ordering::Relaxed);
    }
}
