//! Our TCP engine against Linux's, in real time through a TUN device: whatever becomes of packets on the way, the bytes of both
//! directions arrive as they were sent, and both ends end in good order.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant as Clock};

use e2e::{Namespace, Pattern, namespaces, need, receive, send};
use nexodus_netstack::Instant;
use nexodus_netstack::conn::{Connection, End, Settings, State};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Socket, Type};
use tun_rs::{DeviceBuilder, SyncDevice};

const OURS: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const THEIRS: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const PORT: u16 = 80;
const MTU: u16 = 1400;
const LIMIT: Duration = Duration::from_secs(60);
const UP: u64 = 1;
const DOWN: u64 = 2;

/// What may become of a packet, both ways: in a thousand.
#[derive(Clone, Copy, Default)]
struct Way {
    lost: u32,
    doubled: u32,
    late: u32,
    corrupted: u32,
    delay: Duration,
}

#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    way: Way,
    /// We connect; else Linux does.
    active: bool,
    /// Bytes that we send, and Linux.
    up: u64,
    down: u64,
    /// Linux waits so long before it reads, with a small buffer: our window closes.
    lazy: Duration,
    /// Files below `/proc/sys/net/ipv4` and what is written into them.
    linux: &'static [(&'static str, &'static str)],
}

const MILLISECOND: Duration = Duration::from_millis(1);
const CASE: Case = Case {
    name: "nothing happens",
    way: Way { lost: 0, doubled: 0, late: 0, corrupted: 0, delay: MILLISECOND },
    active: true,
    up: 3_000_000,
    down: 3_000_000,
    lazy: Duration::ZERO,
    linux: &[],
};
const ROUGH: Way = Way { lost: 15, doubled: 10, late: 20, corrupted: 5, delay: Duration::from_millis(3) };

const CASES: [Case; 10] = [
    CASE,
    Case { name: "Linux connects", active: false, ..CASE },
    Case { name: "losses", way: Way { lost: 20, ..CASE.way }, ..CASE },
    Case { name: "disorder", way: Way { late: 100, doubled: 50, ..CASE.way }, ..CASE },
    Case { name: "corruption", way: Way { corrupted: 20, ..CASE.way }, ..CASE },
    Case { name: "everything", way: ROUGH, active: false, ..CASE },
    Case {
        name: "without SACK",
        way: ROUGH,
        linux: &[("tcp_sack", "0")],
        up: 500_000,
        down: 500_000,
        ..CASE
    },
    Case {
        name: "without timestamps and window scaling",
        way: ROUGH,
        linux: &[("tcp_timestamps", "0"), ("tcp_window_scaling", "0")],
        ..CASE
    },
    Case { name: "a reader that waits", way: ROUGH, lazy: Duration::from_millis(700), ..CASE },
    Case { name: "nothing to say", way: ROUGH, up: 0, down: 0, ..CASE },
];

#[test]
fn whatever_happens_on_the_way_bytes_arrive_between_linux_and_us() {
    need!(namespaces());
    let cases = CASES.map(|case| std::thread::spawn(move || Rig::new(&case).run()));
    let failed: Vec<_> = cases
        .into_iter()
        .zip(CASES)
        .filter_map(|(case, Case { name, .. })| case.join().is_err().then_some(name))
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
}

/// A packet that arrives at a time; the number keeps those of one time in order.
type Flight = Reverse<(Duration, u64, Vec<u8>)>;

struct Rig {
    case: Case,
    device: SyncDevice,
    /// What Linux's program says at its end: the bytes it has read.
    linux: JoinHandle<io::Result<u64>>,
    connection: Option<Connection>,
    settings: Arc<Settings>,
    finished: bool,
    sent: Pattern,
    received: Pattern,
    /// To us, and to Linux.
    flights: [BinaryHeap<Flight>; 2],
    offered: u64,
    random: fastrand::Rng,
    epoch: Clock,
    _namespace: Namespace,
}

impl Rig {
    fn new(case: &Case) -> Self {
        let namespace = Namespace::new();
        let device = namespace.run(|| {
            for (file, value) in case.linux {
                fs::write(format!("/proc/sys/net/ipv4/{file}"), value).expect("a setting");
            }
            DeviceBuilder::new().name("way").ipv4(THEIRS, 24, None).mtu(MTU).build_sync().expect("a device")
        });
        device.set_nonblocking(true).expect("a device");
        let settings = Settings { mtu: MTU, verify_checksums: true, ..Settings::default() };
        Self {
            case: *case,
            device,
            linux: linux(&namespace, *case),
            connection: None,
            settings: Arc::new(settings),
            finished: false,
            sent: Pattern::new(UP),
            received: Pattern::new(DOWN),
            flights: [BinaryHeap::new(), BinaryHeap::new()],
            offered: 0,
            random: fastrand::Rng::with_seed(case.name.bytes().map(u64::from).sum()),
            epoch: Clock::now(),
            _namespace: namespace,
        }
    }

    fn run(mut self) {
        let mut buffer = vec![0; 2048];
        while !self.is_over() {
            let now = self.epoch.elapsed();
            assert!(now < LIMIT, "{}: {:?}", self.case.name, self.connection.as_ref().map(Connection::state));
            while let Some(count) = self.packet_of_linux(&mut buffer) {
                self.offer(0, &buffer[..count]);
            }
            while let Some(packet) = self.arrived(0) {
                self.receive(&packet);
            }
            self.speak();
            while let Some(packet) = self.arrived(1) {
                self.device.send(&packet).expect("a packet for Linux");
            }
            self.wait();
        }
        let Self { case: Case { name, up, down, .. }, linux, received, connection, .. } = self;
        let read = linux.join().expect("Linux's program").unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((read, received.position()), (up, down), "{name}");
        assert!(matches!(connection.expect("one").end(), None | Some(End::Done)), "{name}");
    }

    /// Linux is done, and so are we, but for a rest in TIME-WAIT.
    fn is_over(&self) -> bool {
        let rests = |connection: &Connection| matches!(connection.state(), State::TimeWait | State::Closed);
        self.linux.is_finished() && self.connection.as_ref().is_some_and(rests)
    }

    fn packet_of_linux(&self, buffer: &mut [u8]) -> Option<usize> {
        match self.device.recv(buffer) {
            Ok(count) => Some(count),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("{}: {error}", self.case.name),
        }
    }

    /// Sends a packet on its way.
    fn offer(&mut self, to: usize, packet: &[u8]) {
        // Linux has something to say in IPv6 too.
        let Way { lost, doubled, late, corrupted, delay } = self.case.way;
        if packet[0] >> 4 != 4 || self.happens(lost) {
            return;
        }
        for _ in 0..1 + u32::from(self.happens(doubled)) {
            let mut packet = packet.to_vec();
            if self.happens(corrupted) {
                // Behind the IP header, whose checksum nobody here looks at.
                let at = self.random.usize(20..packet.len());
                packet[at] ^= 1 << self.random.u32(0..8);
            }
            let more = if self.happens(late) { MILLISECOND * self.random.u32(1..10) } else { Duration::ZERO };
            self.offered += 1;
            self.flights[to].push(Reverse((self.epoch.elapsed() + delay + more, self.offered, packet)));
        }
    }

    fn happens(&mut self, thousandths: u32) -> bool {
        self.random.u32(0..1000) < thousandths
    }

    fn arrived(&mut self, to: usize) -> Option<Vec<u8>> {
        let now = self.epoch.elapsed();
        let Reverse((at, ..)) = self.flights[to].peek()?;
        if *at > now {
            return None;
        }
        self.flights[to].pop().map(|Reverse((.., packet))| packet)
    }

    fn now(&self) -> Instant {
        Instant::from_micros(1_000_000 + u64::try_from(self.epoch.elapsed().as_micros()).expect("soon"))
    }

    fn receive(&mut self, packet: &[u8]) {
        let now = self.now();
        match &mut self.connection {
            Some(connection) => {
                connection.handle_packet(now, packet);
            }
            None if !self.case.active => {
                self.connection = Connection::accept(self.settings.clone(), now, packet, u32::MAX - 1000, 0);
            }
            None => {}
        }
    }

    fn speak(&mut self) {
        let now = self.now();
        if self.connection.is_none() && self.case.active {
            let ends = (SocketAddr::from((OURS, 40_000)), SocketAddr::from((THEIRS, PORT)));
            self.connection = Some(Connection::connect(self.settings.clone(), now, ends, u32::MAX - 1000, 0));
        }
        let Some(connection) = &mut self.connection else { return };
        loop {
            let left = self.case.up - self.sent.position();
            let count = connection.send_room().min(usize::try_from(left).expect("little")).min(100_000);
            if count == 0 {
                break;
            }
            let mut bytes = vec![0; count];
            self.sent.fill(&mut bytes);
            assert_eq!(connection.send_chunk(now, &mut bytes.as_slice().into()), count);
        }
        if self.sent.position() == self.case.up && !self.finished {
            self.finished = true;
            connection.finish();
        }
        loop {
            let chunk = connection.recv_chunk(now);
            if chunk.is_empty() {
                break;
            }
            self.received.check(&chunk).unwrap_or_else(|error| panic!("{}: {error}", self.case.name));
        }
        let mut packets = Vec::new();
        let mut packet = Vec::new();
        while connection.poll_packet(now, &mut packet) {
            packets.push(std::mem::take(&mut packet));
        }
        for packet in packets {
            self.offer(1, &packet);
        }
    }

    /// Until something arrives or is due.
    fn wait(&self) {
        let at = |flights: &BinaryHeap<Flight>| flights.peek().map(|Reverse((at, ..))| *at);
        let timer = self.connection.as_ref().and_then(Connection::poll_timeout);
        let timer = timer.map(|at| Duration::from_micros(at.as_micros().saturating_sub(1_000_000)));
        let next = self.flights.iter().map(at).chain([timer]).flatten().min();
        let now = self.epoch.elapsed();
        let most = Duration::from_millis(50);
        let wait = next.map_or(most, |next| next.saturating_sub(now).min(most));
        let wait = Timespec::try_from(wait).expect("short");
        poll(&mut [PollFd::from_borrowed_fd(self.device.as_fd(), PollFlags::IN)], Some(&wait)).expect("poll");
    }
}

/// The program at Linux's end: both directions at once.
fn linux(namespace: &Namespace, case: Case) -> JoinHandle<io::Result<u64>> {
    let socket = namespace.run(|| Socket::new(Domain::IPV4, Type::STREAM, None)).expect("a socket");
    if case.active {
        socket.bind(&SocketAddr::from((THEIRS, PORT)).into()).expect("an address");
        socket.listen(1).expect("a listener");
    }
    if !case.lazy.is_zero() {
        socket.set_recv_buffer_size(32 << 10).expect("a buffer");
    }
    std::thread::spawn(move || {
        let stream: TcpStream = if case.active {
            socket.accept()?.0.into()
        } else {
            socket.connect(&SocketAddr::from((OURS, PORT)).into())?;
            socket.into()
        };
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                send(&stream, DOWN, case.down)?;
                stream.shutdown(Shutdown::Write)
            });
            std::thread::sleep(case.lazy);
            let read = receive(&stream, UP)?;
            writer.join().expect("the writer")?;
            Ok(read)
        })
    })
}
