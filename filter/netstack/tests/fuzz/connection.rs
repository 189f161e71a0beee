//! Two ends of a connection, and everything that a network, an attacker and two owners can do to them, in any order.

use std::collections::VecDeque;
use std::time::Duration;

use nexodus_netstack::Instant;
use nexodus_netstack::conn::{End, Pressure, Settings};

use crate::end::{Host, START, byte};
use crate::input::Input;
use crate::packet::{ACK, Segment};

/// Packets on their way to one end; more are lost.
const MOST_PACKETS: usize = 512;
/// What an end has to be over in once both owners are done: the user timeout, and the timeouts before it.
const LONGEST: Duration = Duration::from_secs(3000);

pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let mut world = World::new(&mut input);
    for _ in 0..300 {
        if input.is_empty() {
            break;
        }
        world.step(&mut input);
    }
    world.finish();
}

struct World {
    now: Instant,
    hosts: [Host; 2],
    /// To each end.
    wire: [VecDeque<Vec<u8>>; 2],
    verify_checksums: bool,
    /// Somebody has sent what neither end would.
    forged: bool,
    aborted: bool,
    /// Time that passed by itself.
    passed: Duration,
}

impl World {
    fn new(input: &mut Input<'_>) -> Self {
        let shape = input.u8();
        let numbers = [number(input.u8()), number(input.u8())];
        let verify_checksums = shape & 2 != 0;
        let settings = [settings(input, verify_checksums), settings(input, verify_checksums)];
        let hosts = [
            Host::new(settings[0], 0, numbers[0], true),
            // A simultaneous open.
            Host::new(settings[1], 1, numbers[1], shape & 1 != 0),
        ];
        let mut world = Self {
            now: START,
            hosts,
            wire: [VecDeque::new(), VecDeque::new()],
            verify_checksums,
            forged: false,
            aborted: false,
            passed: Duration::ZERO,
        };
        world.poll();
        world
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let order = input.u8();
        let end = usize::from(order >> 7);
        let now = self.now;
        match order & 0x1f {
            0..=3 => self.deliver(end),
            4 => drop(self.wire[end].pop_front()),
            5 => self.wire[end].extend(self.wire[end].front().cloned()),
            6 => {
                let late = self.wire[end].pop_front();
                self.wire[end].extend(late);
            }
            7 => self.corrupt(end, input.u16()),
            8 | 9 => self.pass(Duration::from_millis(input.u8().into())),
            10 | 11 => {
                let next = self.hosts.iter().filter_map(Host::poll_timeout).min();
                self.pass(next.map_or(Duration::ZERO, |at| at.saturating_since(now)));
            }
            12 => self.pass(Duration::from_secs(input.u8().into())),
            13 => self.hosts[end].send(now, input.u8().into()),
            14 | 15 => self.hosts[end].send(now, usize::from(input.u8()) * 300),
            16 => self.hosts[end].recv(now, input.u8().into()),
            17 => self.hosts[end].recv(now, usize::MAX),
            18 => self.hosts[end].recv_chunks(now),
            19 => self.hosts[end].finish(),
            20 => {
                self.aborted = true;
                self.hosts[end].abort();
            }
            21 => {
                let pressure = [Pressure::None, Pressure::High, Pressure::Full][usize::from(input.u8() % 3)];
                self.hosts[end].set_pressure(pressure);
            }
            22..=25 => {
                let segment = self.forge(end, input);
                self.forged = true;
                self.hosts[end]
                    .handle(now, &segment.packet(self.hosts[end].remote(), self.hosts[end].local()));
            }
            26..=28 => {
                // A batch.
                for packet in std::mem::take(&mut self.wire[end]) {
                    self.hosts[end].handle(now, &packet);
                }
            }
            _ => {
                for _ in 0..16 {
                    self.pass(Duration::from_millis(1));
                    for end in [0, 1] {
                        for packet in std::mem::take(&mut self.wire[end]) {
                            self.hosts[end].handle(self.now, &packet);
                        }
                    }
                    self.poll();
                }
            }
        }
        // Sometimes inputs come together, and outputs are asked for after all of them.
        if order & 0x60 != 0x60 {
            self.poll();
        }
    }

    fn deliver(&mut self, end: usize) {
        if let Some(packet) = self.wire[end].pop_front() {
            self.hosts[end].handle(self.now, &packet);
        }
    }

    /// One bit is wrong. Where checksums are not looked at, nobody would know, so nothing is corrupted.
    fn corrupt(&mut self, end: usize, place: u16) {
        let Some(mut packet) = self.wire[end].pop_front().filter(|_| self.verify_checksums) else { return };
        // After the IP header, whose checksum a tunnel's end does not look at.
        let bit = usize::from(place) % ((packet.len() - 20) * 8);
        packet[20 + bit / 8] ^= 1 << (bit % 8);
        assert!(!self.hosts[end].handle(self.now, &packet), "a wrong checksum was not noticed");
    }

    fn pass(&mut self, time: Duration) {
        self.passed += time;
        self.now = self.now + time;
    }

    fn poll(&mut self) {
        for end in [0, 1] {
            let sent = self.hosts[end].poll(self.now);
            let room = MOST_PACKETS.saturating_sub(self.wire[1 - end].len());
            self.wire[1 - end].extend(sent.into_iter().take(room));
        }
    }

    /// A segment that an attacker, or a peer out of its mind, sends to `end`. Its bytes are those of the real stream, so that
    /// what is delivered can be told from what is not.
    fn forge(&self, end: usize, input: &mut Input<'_>) -> Segment {
        let (host, peer) = (&self.hosts[end], &self.hosts[1 - end]);
        let (flags, bases, options) = (input.u8(), input.u8(), input.u8());
        let seq = match bases & 3 {
            0 | 1 => host.expected(),
            2 => peer.iss(),
            _ => input.u32(),
        };
        let seq = seq.wrapping_add_signed(i32::from(input.u16().cast_signed()));
        let ack = match bases >> 2 & 3 {
            0 | 1 => host.sent_end(),
            2 => host.iss().wrapping_add(1),
            _ => input.u32(),
        };
        let ack = ack.wrapping_add_signed(i32::from(input.u8().cast_signed()) * (1 + i32::from(bases >> 4)));
        let len = if options & 32 != 0 { usize::from(input.u8()) * 8 } else { 0 };
        let mut block = || {
            let start = host.sent_end().wrapping_sub(input.u16().into());
            (start, start.wrapping_add(input.u16().into()))
        };
        let sack = (0..options >> 6).map(|_| block()).collect();
        Segment {
            seq,
            ack,
            // Most segments have it.
            flags: flags ^ ACK,
            window: input.u16(),
            mss: (options & 1 != 0).then(|| input.u16()),
            shift: (options & 2 != 0).then(|| input.u8()),
            sack_ok: options & 4 != 0,
            ts: (options & 8 != 0).then(|| {
                let drift = i32::from(input.u8().cast_signed());
                (peer.timestamp(self.now).wrapping_add_signed(drift), host.timestamp(self.now))
            }),
            sack,
            data: (0..len as u32).map(|n| byte(1 - end, seq.wrapping_add(n))).collect(),
        }
    }

    /// Both owners are done, and nothing is lost any more: the connection ends, and every byte is there.
    fn finish(mut self) {
        self.hosts.iter_mut().for_each(|host| host.set_pressure(Pressure::None));
        let begin = self.now;
        let patient = self.passed < Duration::from_secs(100);
        let mut rounds = 0;
        while !self.hosts.iter().all(Host::is_over) {
            self.poll();
            // Also one whose first segment has only now arrived.
            self.hosts.iter_mut().for_each(Host::finish);
            let mut quiet = true;
            for end in [0, 1] {
                for packet in std::mem::take(&mut self.wire[end]) {
                    quiet = false;
                    self.hosts[end].handle(self.now, &packet);
                }
                self.hosts[end].recv(self.now, usize::MAX);
            }
            self.poll();
            let next = self.hosts.iter().filter_map(Host::poll_timeout).min();
            let idle = quiet && self.wire.iter().all(VecDeque::is_empty);
            self.now = match next {
                Some(at) if idle => at.max(self.now),
                None if idle => break,
                _ => self.now + Duration::from_millis(1),
            };
            rounds += 1;
            let took = self.now.saturating_since(begin);
            // A forged acknowledgement of what was lost makes two ends that wait for each other for ever, and both answer.
            if self.forged && took > LONGEST {
                return;
            }
            let hosts = self.hosts.each_ref();
            assert!(rounds < 100_000 && took <= LONGEST, "no end: {took:?}, {:?}", hosts.map(Host::describe));
        }
        for end in [0, 1] {
            self.hosts[end].recv(self.now, usize::MAX);
        }
        let done = self.hosts.iter().all(|host| host.end() == Some(End::Done));
        if !self.forged && !self.aborted && patient {
            assert!(done, "{:?}", self.hosts.each_ref().map(Host::describe));
        }
        if done && !self.forged {
            for end in [0, 1] {
                assert_eq!(self.hosts[end].wrote(), self.hosts[1 - end].read(), "bytes are missing");
            }
        }
        for host in &mut self.hosts {
            host.assert_empty();
        }
    }
}

/// Initial numbers: near the wrap, near the middle, anywhere.
fn number(choice: u8) -> u32 {
    match choice {
        0..=99 => u32::MAX - u32::from(choice) * 97,
        100..=149 => (1 << 31) - u32::from(choice) * 97,
        _ => u32::from(choice) << 24,
    }
}

fn settings(input: &mut Input<'_>, verify_checksums: bool) -> Settings {
    let (switches, sizes) = (input.u8(), input.u8());
    let buffer = |choice: u8| [1500, 9000, 65_536, 1 << 20][usize::from(choice & 3)];
    Settings {
        mtu: [1420, 1280, 9000, 1500][usize::from(sizes >> 6)],
        send_buffer: buffer(sizes),
        recv_buffer: buffer(sizes >> 2),
        sack: switches & 1 == 0,
        timestamps: switches & 2 == 0,
        window_scaling: switches & 4 == 0,
        pacing: switches & 8 == 0,
        verify_checksums,
        // The network's time is the input's, so only the user timeout says when it is enough.
        syn_retries: u8::MAX,
        // Nobody here answers for an end that is gone.
        time_wait: Duration::from_secs(1000),
        ..Settings::default()
    }
}
