//! Much: bytes, connections, and clients that do not read. These run alone.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use e2e::{
    CLIENT_LIMIT, Node, Pattern, Server, Tunnel, connect, echo, eventually, measured, memory_kib, need,
    products, raise_file_limit, receive, send, within,
};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn client(tunnel: &Tunnel) -> TcpStream {
    connect((Ipv4Addr::LOCALHOST, tunnel.port)).expect("a connection")
}

/// Memory of both nodes' Envoys in MiB.
fn memory(tunnel: &Tunnel) -> [u64; 2] {
    [&tunnel.one, &tunnel.two].map(|node| memory_kib(node.envoy_id().expect("a running Envoy")) / 1024)
}

#[test]
fn a_gibibyte_goes_up_unchanged_and_the_reply_comes_after_the_half_close() {
    let products = need!(products());
    let server = Server::local(|mut stream| {
        let report =
            receive(&mut stream, 1).map_or_else(|error| error.to_string(), |count| count.to_string());
        stream.write_all(report.as_bytes()).expect("the reply goes back");
    });
    let tunnel = Tunnel::to(&products, server.address());
    let mut client = client(&tunnel);
    let start = Instant::now();
    send(&client, 1, GIB).expect("sent");
    client.shutdown(Shutdown::Write).expect("an open connection");
    // The last megabytes are on their way.
    let mut report = String::new();
    client.read_to_string(&mut report).expect("the reply");
    assert_eq!(report, GIB.to_string());
    speed("up", start);
    check_in_place([&tunnel.two, &tunnel.one]);
}

/// A gibibyte's packets were sealed from where the sender keeps the stream, and opened into where the receiver does: all but
/// those that lie across two chunks or pages, and those that packets of another kind came before.
fn check_in_place([sender, receiver]: [&Node; 2]) {
    let packets = GIB / 1400;
    let counters = || [sender.number("tx_in_place"), receiver.number("rx_in_place")];
    eventually("the packets to be counted", || counters().into_iter().all(|count| count > packets * 3 / 4));
    let [sealed, opened] = counters().map(|count| count * 100 / packets);
    measured(&format!("in place: {sealed}% of the segments sealed, {opened}% opened"));
}

#[test]
fn a_gibibyte_comes_down_unchanged() {
    let products = need!(products());
    let server = Server::local(|stream| send(stream, 2, GIB).expect("sent"));
    let tunnel = Tunnel::to(&products, server.address());
    let client = client(&tunnel);
    let start = Instant::now();
    assert_eq!(receive(&client, 2).expect("unchanged data"), GIB);
    speed("down", start);
    check_in_place([&tunnel.one, &tunnel.two]);
}

#[test]
fn both_directions_of_a_connection_carry_data_at_once() {
    let products = need!(products());
    let server = Server::local(echo);
    let tunnel = Tunnel::to(&products, server.address());
    let client = client(&tunnel);
    let length = 128 * MIB;
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            send(&client, 3, length).expect("sent");
            client.shutdown(Shutdown::Write).expect("an open connection");
        });
        assert_eq!(receive(&client, 3).expect("unchanged data"), length);
    });
    measured(&format!("{:.2} Gbit/s each way at once", gigabits(length, start)));
}

#[test]
fn a_thousand_connections_at_once_each_carry_data() {
    let products = need!(products());
    raise_file_limit();
    const COUNT: usize = 1_000;
    let server = Server::local(echo);
    let tunnel = Tunnel::to(&products, server.address());
    // The handshake and Envoy's own start are not what is counted.
    exchange(&mut client(&tunnel), 0).expect("echoed");
    let before = memory(&tunnel);
    let start = Instant::now();
    let mut clients: Vec<_> = (0..COUNT).map(|_| client(&tunnel)).collect();
    // All are open before the first one is used, and all are used before the first one ends.
    for (number, client) in clients.iter_mut().enumerate() {
        client.write_all(&(number as u64).to_le_bytes()).expect("sent");
    }
    for (number, client) in clients.iter_mut().enumerate() {
        let mut reply = [0; 8];
        client.read_exact(&mut reply).unwrap_or_else(|error| panic!("connection {number}: {error}"));
        assert_eq!(u64::from_le_bytes(reply), number as u64);
    }
    let after = memory(&tunnel);
    let active = format!("cluster.{}.upstream_cx_active", tunnel.egress_listener());
    assert!(tunnel.two.admin().stat(&active) >= COUNT as u64);
    let per_connection = |index: usize| after[index].saturating_sub(before[index]) * 1024 / COUNT as u64;
    measured(&format!(
        "{COUNT} connections opened and answered in {:.2} s; {} KiB each in the ingress Envoy, {} KiB in the egress one",
        start.elapsed().as_secs_f64(),
        per_connection(0),
        per_connection(1),
    ));
}

#[test]
fn connections_that_come_and_go_in_numbers_all_work() {
    let products = need!(products());
    let server = Server::local(echo);
    let tunnel = Tunnel::to(&products, server.address());
    const EACH: u64 = 125;
    let start = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..16 {
            let tunnel = &tunnel;
            scope.spawn(move || {
                for round in 0..EACH {
                    let number = thread * EACH + round;
                    exchange(&mut client(tunnel), number)
                        .unwrap_or_else(|error| panic!("connection {number}: {error}"));
                }
            });
        }
    });
    measured(&format!("{:.0} connections/s, 16 at once", 16.0 * EACH as f64 / start.elapsed().as_secs_f64()));
}

#[test]
fn a_client_that_does_not_read_stops_the_server_and_fills_no_memory() {
    let products = need!(products());
    let sent = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&sent);
    let server = Server::local(move |stream| {
        // Ends when the client leaves, or by its write timeout.
        let _ = send(Counted(stream, &counter), 4, 10 * GIB);
    });
    let tunnel = Tunnel::to(&products, server.address());
    let clients: Vec<_> = (0..4).map(|_| client(&tunnel)).collect();
    check_stall(&tunnel, &sent, "down", clients.len());

    // And goes on where it stopped.
    for client in &clients {
        let mut pattern = Pattern::new(4);
        let mut buffer = vec![0; 64 * 1024];
        let mut reader = client;
        while pattern.position() < 32 * MIB {
            let count = reader.read(&mut buffer).expect("more data");
            assert_ne!(count, 0, "the server ended at byte {}", pattern.position());
            pattern.check(&buffer[..count]).expect("unchanged data");
        }
    }
}

#[test]
fn clients_that_leave_in_the_middle_of_a_download_take_nothing_with_them() {
    let products = need!(products());
    let sent = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&sent);
    let server = Server::local(move |stream| {
        // Ends when the client leaves.
        let _ = send(Counted(stream, &counter), 6, 10 * GIB);
    });
    let tunnel = Tunnel::to(&products, server.address());
    let envoys = || [&tunnel.one, &tunnel.two].map(e2e::Node::envoy_id);
    let before = envoys();
    for round in 0..30 {
        sent.store(0, Ordering::Relaxed);
        let clients: Vec<_> = (0..8).map(|_| client(&tunnel)).collect();
        // Every buffer on the way is full: nobody reads.
        wait_quiet(&sent, 10);
        if round % 2 == 1 {
            // Now everything is on the move when they leave.
            for client in &clients {
                io::copy(&mut client.take(2 * MIB + round * 10_000), &mut io::sink()).expect("more data");
            }
        }
        // With unread bytes these are resets.
        drop(clients);
        let active = format!("cluster.{}.upstream_cx_active", tunnel.egress_listener());
        within(CLIENT_LIMIT, "the connections to be gone", || {
            assert_eq!(envoys(), before, "an Envoy ended in round {round}");
            (tunnel.two.admin().get("/stats")?.contains(&format!("{active}: 0\n"))).then_some(())
        });
    }
}

#[test]
fn a_server_that_does_not_read_stops_the_client_and_fills_no_memory() {
    let products = need!(products());
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let (results, received) = mpsc::channel();
    let server = Server::local(move |stream| {
        wait.lock().expect("no panic").recv().expect("the test goes on");
        // The test may have ended.
        let _ = results.send(receive(stream, 5));
    });
    let tunnel = Tunnel::to(&products, server.address());
    let sent = Arc::new(AtomicU64::new(0));
    let stream = client(&tunnel);
    let upload = {
        let (stream, sent) = (stream.try_clone().expect("a second handle"), Arc::clone(&sent));
        std::thread::spawn(move || {
            send(Counted(stream.try_clone().expect("a second handle"), &sent), 5, 256 * MIB).expect("sent");
            stream.shutdown(Shutdown::Write).expect("an open connection");
        })
    };
    check_stall(&tunnel, &sent, "up", 1);
    go.send(()).expect("the server waits");
    upload.join().expect("the client goes on");
    let count = received.recv_timeout(CLIENT_LIMIT).expect("the server is through");
    assert_eq!(count.expect("unchanged data"), 256 * MIB);
}

/// Waits until bytes have moved and then none did in so many looks, ten milliseconds apart; how many it were. Looks and not
/// time: where the machine stands still, nothing moves and time goes on.
fn wait_quiet(sent: &AtomicU64, looks: u32) -> u64 {
    let start = Instant::now();
    let (mut last, mut same) = (0, 0);
    while same < looks || last == 0 {
        let now = sent.load(Ordering::Relaxed);
        same = if now == last { same + 1 } else { 0 };
        last = now;
        assert!(start.elapsed() < Duration::from_secs(20), "{} MiB sent and no end", now / MIB);
        std::thread::sleep(Duration::from_millis(10));
    }
    last
}

/// Waits until nothing moves any more, then watches that nothing grows.
fn check_stall(tunnel: &Tunnel, sent: &AtomicU64, direction: &str, connections: usize) {
    let last = wait_quiet(sent, 100);
    let stalled = memory(tunnel);
    let mut highest = stalled;
    let watch = Instant::now();
    while watch.elapsed() < Duration::from_secs(3) {
        let now = memory(tunnel);
        highest = std::array::from_fn(|index| highest[index].max(now[index]));
        std::thread::sleep(Duration::from_millis(50));
    }
    measured(&format!(
        "{direction}, {connections} connections nobody reads: {} MiB taken in all, then nothing; Envoys at {stalled:?} MiB, \
         3 s later at most {highest:?} MiB",
        last / MIB
    ));
    assert!(last < 64 * MIB * connections as u64, "{} MiB were taken from the sender", last / MIB);
    for (before, after) in stalled.into_iter().zip(highest) {
        assert!(after <= before + 4, "memory grew from {before} to {after} MiB while nothing moved");
    }
}

/// Counts what goes through.
struct Counted<'a, T>(T, &'a AtomicU64);

impl<T: Write> Write for Counted<'_, T> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.0.write(buffer)?;
        self.1.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn exchange(client: &mut TcpStream, number: u64) -> io::Result<()> {
    client.write_all(&number.to_le_bytes())?;
    let mut reply = [0; 8];
    client.read_exact(&mut reply)?;
    if u64::from_le_bytes(reply) == number {
        Ok(())
    } else {
        Err(io::Error::other("another connection's data"))
    }
}

fn speed(direction: &str, start: Instant) {
    measured(&format!(
        "1 GiB {direction} in {:.1} s, {:.2} Gbit/s",
        start.elapsed().as_secs_f64(),
        gigabits(GIB, start)
    ));
}

fn gigabits(bytes: u64, start: Instant) -> f64 {
    bytes as f64 * 8e-9 / start.elapsed().as_secs_f64()
}
