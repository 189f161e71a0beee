//! Datagrams: how many arrive of those that are sent at a rate, and how many can arrive.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use e2e::Namespace;
use socket2::{Domain, Socket, Type};

use super::bulk::Direction;
use super::meter::Meter;
use super::samples::Figure;
use super::world::World;
use crate::Result;

/// So that the receiving program is not what loses: more than a scheduler's slice of the highest rate.
const RECEIVE_BUFFER: usize = 16 << 20;

/// How often a paced sender wakes up.
const TICK: Duration = Duration::from_micros(500);

/// After the last datagram was sent.
const LAST: Duration = Duration::from_millis(300);

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stream {
    /// Payload of each datagram.
    pub(super) bytes: usize,
    /// Payload bits in a second; as many as go without.
    pub(super) mbps: Option<u64>,
}

impl Stream {
    fn name(self, direction: Direction) -> String {
        let rate = self.mbps.map_or_else(|| "max".to_owned(), |mbps| format!("{mbps}m"));
        format!("udp_{}_{}_{rate}", direction.name(), self.bytes)
    }

    /// How many datagrams are due after this time.
    fn due(self, elapsed: Duration) -> u64 {
        // Mbit/s are bits per microsecond.
        let due = |mbps| elapsed.as_micros() * u128::from(mbps) / (self.bytes as u128 * 8);
        self.mbps.map_or(u64::MAX, |mbps| u64::try_from(due(mbps)).unwrap_or(u64::MAX))
    }
}

pub(super) fn measure(
    world: &World,
    direction: Direction,
    stream: Stream,
    time: Duration,
) -> Result<Vec<Figure>> {
    let client = world.near.run(|| socket((Ipv4Addr::UNSPECIFIED, 0).into()))?;
    client.connect(world.target)?;
    // The service learns where to send, and whatever is between has a flow.
    let from = world.datagrams.greet(&client)?;
    let (sent, received, usage) = match direction {
        Direction::Up => {
            let meter = Meter::start(world.process)?;
            let before = world.datagrams.received();
            let sent = send(stream, time, |payload| client.send(payload))?;
            std::thread::sleep(LAST);
            (sent, world.datagrams.received() - before, meter.read()?)
        }
        Direction::Down => {
            let taker = Datagrams::on(client)?;
            let meter = Meter::start(world.process)?;
            let sent = send(stream, time, |payload| world.datagrams.socket.send_to(payload, from))?;
            std::thread::sleep(LAST);
            (sent, taker.received(), meter.read()?)
        }
    };
    if received == 0 {
        return Err(format!("of {sent} datagrams none arrived").into());
    }
    let name = stream.name(direction);
    let gigabytes = (received * stream.bytes as u64) as f64 / 1e9;
    Ok(vec![
        Figure::new(format!("{name}_sent"), "/s", sent as f64 / time.as_secs_f64()),
        Figure::new(format!("{name}_loss"), "%", 100.0 * (1.0 - received as f64 / sent as f64)),
        Figure::new(format!("{name}_cpu"), "s/GB", usage.cpu.as_secs_f64() / gigabytes),
        Figure::new(name, "/s", received as f64 / time.as_secs_f64()),
    ])
}

/// Sends for so long; how many datagrams the socket took.
fn send(stream: Stream, time: Duration, mut one: impl FnMut(&[u8]) -> io::Result<usize>) -> Result<u64> {
    let payload = vec![0x5a; stream.bytes];
    let (start, mut sent) = (Instant::now(), 0);
    while start.elapsed() < time {
        // Looks at the clock now and then, and catches up when it was late.
        for _ in 0..stream.due(start.elapsed()).saturating_sub(sent).min(64) {
            match one(&payload) {
                Ok(_) => sent += 1,
                // A full queue, or what ICMP said about an earlier one.
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionRefused) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if stream.due(start.elapsed()) <= sent {
            std::thread::sleep(TICK);
        }
    }
    Ok(sent)
}

/// One end of the datagrams: counts what comes, on a thread that ends when it is dropped. A datagram of one byte is a
/// greeting, which is answered and not counted.
pub(super) struct Datagrams {
    socket: UdpSocket,
    seen: Arc<Seen>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Seen {
    received: AtomicU64,
    greeted_by: Mutex<Option<SocketAddr>>,
    over: AtomicBool,
}

impl Datagrams {
    pub(super) fn start(namespace: &Namespace, address: SocketAddr) -> Result<Self> {
        Self::on(namespace.run(|| socket(address))?)
    }

    fn on(socket: UdpSocket) -> Result<Self> {
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let (own, seen) = (socket.try_clone()?, Arc::<Seen>::default());
        let shared = Arc::clone(&seen);
        let take = move || {
            let mut buffer = [0; 2048];
            while !shared.over.load(Ordering::Relaxed) {
                match own.recv_from(&mut buffer) {
                    Ok((1, from)) => {
                        *shared.greeted_by.lock().unwrap_or_else(PoisonError::into_inner) = Some(from);
                        // Whoever greets does it until there is an answer.
                        drop(own.send_to(&buffer[..1], from));
                    }
                    Ok(_) => drop(shared.received.fetch_add(1, Ordering::Relaxed)),
                    // Nothing came, or ICMP said something.
                    Err(_) => {}
                }
            }
        };
        let thread = std::thread::Builder::new().name("datagrams".into()).spawn(take)?;
        Ok(Self { socket, seen, thread: Some(thread) })
    }

    fn received(&self) -> u64 {
        self.seen.received.load(Ordering::Relaxed)
    }

    /// Greets from this socket until there is an answer; where the greeting came from.
    fn greet(&self, client: &UdpSocket) -> Result<SocketAddr> {
        client.set_read_timeout(Some(Duration::from_millis(200)))?;
        for _ in 0..20 {
            client.send(&[1])?;
            if client.recv(&mut [0; 2]).is_ok() {
                let from = *self.seen.greeted_by.lock().unwrap_or_else(PoisonError::into_inner);
                return Ok(from.ok_or("an answer without a greeting")?);
            }
        }
        Err("no datagram came back".into())
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        self.seen.over.store(true, Ordering::Relaxed);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            eprintln!("a receiver of datagrams panicked");
        }
    }
}

fn socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    // More than the system's limit, for which this runs as root.
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paced_sender_keeps_its_rate_and_everything_arrives() -> Result<()> {
        // All that comes at once, however long somebody stands still, has room in the receiver's buffer.
        let stream = Stream { bytes: 500, mbps: Some(1) };
        assert_eq!(stream.due(Duration::from_millis(500)), 125);
        let there = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = there.local_addr()?;
        let there = Datagrams::on(there)?;
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        client.connect(address)?;
        assert_eq!(there.greet(&client)?, client.local_addr()?);
        let mut all = 0;
        for attempt in 1.. {
            let sent = send(stream, Duration::from_millis(200), |payload| client.send(payload))?;
            all += sent;
            for _ in 0..1000 {
                if there.received() == all {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            assert_eq!(there.received(), all);
            assert!(sent <= 50 + 64, "{sent} instead of 50");
            // Who stands still at the end has sent less.
            if sent >= 47 {
                break;
            }
            assert!(attempt < 20, "{sent} instead of 50");
        }
        Ok(())
    }
}
