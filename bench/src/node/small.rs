//! Many small exchanges: how long one takes, and how many there are in a second.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream as StdStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use e2e::connect;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio::time::timeout;

use super::meter::Meter;
use super::samples::Figure;
use super::service::{ECHO, HTTP_REQUEST, HTTP_RESPONSE, REQUEST, RESPONSE, client};
use super::world::World;
use crate::Result;

/// Before the clock starts.
const WARM_UP: Duration = Duration::from_millis(300);

/// How long one exchange may take. What takes longer is an error.
const PATIENCE: Duration = Duration::from_secs(5);

/// One byte there and back, one at a time.
pub(super) fn pingpong(world: &World, time: Duration) -> Result<Vec<Figure>> {
    let mut latencies = world.near.run(|| -> Result<Vec<Duration>> {
        let mut stream = connect(world.target)?;
        stream.set_nodelay(true)?;
        stream.write_all(&[ECHO])?;
        let mut numbers = (1..=u8::MAX).cycle();
        repeat(&mut stream, &mut numbers, WARM_UP)?;
        repeat(&mut stream, &mut numbers, time)
    })?;
    let [p50, p99] = percentiles(&mut latencies);
    Ok(vec![Figure::new("pingpong_p50", "us", p50), Figure::new("pingpong_p99", "us", p99)])
}

/// An answer that is another byte than the one just sent is that to an earlier one: something repeats what it carries.
fn repeat(
    stream: &mut StdStream,
    numbers: &mut impl Iterator<Item = u8>,
    time: Duration,
) -> Result<Vec<Duration>> {
    let (begin, mut latencies) = (Instant::now(), Vec::new());
    while begin.elapsed() < time {
        let start = Instant::now();
        let (sent, mut received) = ([numbers.next().unwrap_or_default()], [0]);
        stream.write_all(&sent)?;
        stream.read_exact(&mut received)?;
        if received != sent {
            return Err(format!("{sent:?} was sent and {received:?} came back").into());
        }
        latencies.push(start.elapsed());
    }
    Ok(latencies)
}

/// Connect, request, response, close; so many at once.
pub(super) fn connections(world: &World, at_once: usize, time: Duration) -> Result<Vec<Figure>> {
    let target = world.target;
    exchanges(world, &format!("connections_{at_once}"), at_once, time, move |done| async move {
        loop {
            done.exchange(one_connection(target)).await;
        }
    })
}

async fn one_connection(target: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    stream.write_all(&REQUEST).await?;
    let mut response = [0; RESPONSE.len()];
    stream.read_exact(&mut response).await?;
    if response == RESPONSE { Ok(()) } else { Err(io::Error::other("another response")) }
}

/// HTTP requests over connections that stay open, one at a time on each.
pub(super) fn http(world: &World, connections: usize, time: Duration) -> Result<Vec<Figure>> {
    let target = world.target;
    exchanges(world, &format!("http_{connections}"), connections, time, move |done| async move {
        loop {
            let connected = timeout(PATIENCE, TcpStream::connect(target)).await;
            let mut stream = match connected.map_err(io::Error::from).flatten() {
                Ok(stream) => stream,
                Err(error) => {
                    done.failed(&error);
                    continue;
                }
            };
            drop(stream.set_nodelay(true));
            while done.exchange(one_request(&mut stream)).await {}
        }
    })
}

async fn one_request(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(HTTP_REQUEST).await?;
    let mut response = [0; HTTP_RESPONSE.len()];
    stream.read_exact(&mut response).await?;
    if response == *HTTP_RESPONSE { Ok(()) } else { Err(io::Error::other("another response")) }
}

/// What the clients of one load have done since the clock started.
#[derive(Default)]
struct Done {
    latencies: RefCell<Vec<Duration>>,
    errors: Cell<u64>,
    first_error: RefCell<Option<String>>,
}

impl Done {
    /// One exchange; whether it went well.
    async fn exchange(&self, exchange: impl Future<Output = io::Result<()>>) -> bool {
        let start = Instant::now();
        match timeout(PATIENCE, exchange).await.map_err(io::Error::from).flatten() {
            Ok(()) => self.latencies.borrow_mut().push(start.elapsed()),
            Err(error) => {
                self.failed(&error);
                return false;
            }
        }
        true
    }

    fn failed(&self, error: &io::Error) {
        self.errors.set(self.errors.get() + 1);
        self.first_error.borrow_mut().get_or_insert_with(|| error.to_string());
    }
}

/// Runs so many clients for so long.
fn exchanges<F: Future<Output = ()> + 'static>(
    world: &World,
    name: &str,
    clients: usize,
    time: Duration,
    one: impl Fn(Rc<Done>) -> F + Sync,
) -> Result<Vec<Figure>> {
    client(world.near, || async {
        let done = Rc::<Done>::default();
        let set = LocalSet::new();
        for _ in 0..clients {
            set.spawn_local(one(Rc::clone(&done)));
        }
        let measured = set.run_until(async {
            tokio::time::sleep(WARM_UP).await;
            done.latencies.borrow_mut().clear();
            let meter = Meter::start(world.process)?;
            tokio::time::sleep(time).await;
            meter.read()
        });
        let usage = measured.await?;
        if let Some(error) = &*done.first_error.borrow() {
            eprintln!("    {:<13}{name}: {} errors, first: {error}", world.side.name(), done.errors.get());
        }
        let mut latencies = done.latencies.take();
        if latencies.is_empty() {
            return Err("not one exchange was completed".into());
        }
        let count = latencies.len() as f64;
        let [_, p99] = percentiles(&mut latencies);
        Ok(vec![
            Figure::new(name, "/s", count / usage.time.as_secs_f64()),
            Figure::new(format!("{name}_errors"), "", done.errors.get() as f64),
            Figure::new(format!("{name}_p99"), "us", p99),
            Figure::new(format!("{name}_cpu"), "us", usage.cpu.as_secs_f64() * 1e6 / count),
        ])
    })
}

/// p50 and p99 in microseconds.
fn percentiles(latencies: &mut [Duration]) -> [f64; 2] {
    latencies.sort_unstable();
    [50, 99].map(|percent| {
        let index = (latencies.len() * percent / 100).min(latencies.len().saturating_sub(1));
        latencies.get(index).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e6)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_count_from_below() {
        let mut latencies: Vec<_> = (1..=200).rev().map(Duration::from_micros).collect();
        assert_eq!(percentiles(&mut latencies), [101.0, 199.0]);
        assert_eq!(percentiles(&mut [Duration::from_micros(5)]), [5.0, 5.0]);
    }
}
