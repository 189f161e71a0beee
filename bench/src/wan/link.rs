//! One direction of a link: a rate, a queue of bounded size in front of it, a delay, and what goes wrong on the way.
//!
//! Time is an argument, a [`Duration`] since an epoch of the caller's, so that the same seed drops the same packets.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// How many packets overtake one that is reordered.
pub(super) const OVERTAKEN_BY: u32 = 8;

/// A reordered packet that nobody overtakes arrives after this all the same.
const HELD_AT_MOST: Duration = Duration::from_millis(50);

/// A thread that sleeps wakes up this late on a machine that is in order.
const LEAST_LATE: Duration = Duration::from_micros(500);

/// Mean number of packets that a burst of losses takes.
pub(super) const BURST: f64 = 4.0;

/// What a direction of a link does to packets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Bits per second.
    pub(super) rate: u64,
    /// Bytes that may wait for the rate; a packet that finds no room is dropped.
    pub(super) queue_bytes: usize,
    /// From leaving the queue to arriving.
    pub(super) delay: Duration,
    /// What is wrong with it.
    pub(super) fault: Fault,
}

/// What is wrong with a link. Probabilities are for each packet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fault {
    None,
    /// Independent losses with this probability.
    Loss(f64),
    /// This share of packets is lost, [`BURST`] in a row on average (Gilbert's model).
    Bursts(f64),
    /// Packets with this probability are overtaken by [`OVERTAKEN_BY`] others.
    Reorder(f64),
}

/// What a direction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) delivered: u64,
    pub(super) queue_full: u64,
    pub(super) lost: u64,
    pub(super) reordered: u64,
}

/// How well a direction kept its own times. What is late here was not late on the link that is simulated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Late {
    pub(super) packets: u64,
    /// Handed out more than a tenth of the round trip, or [`LEAST_LATE`], after their time.
    pub(super) late: u64,
}

impl Late {
    #[expect(clippy::cast_precision_loss, reason = "a share to be read")]
    pub(super) fn percent(self) -> f64 {
        if self.packets == 0 { 0.0 } else { self.late as f64 * 100.0 / self.packets as f64 }
    }
}

/// A packet on its way, first by arrival, then by order of departure.
type Flight = Reverse<(Duration, u64, Vec<u8>)>;

pub(super) struct Direction {
    shape: Shape,
    random: fastrand::Rng,
    /// When the last packet in the queue will have left it.
    busy_until: Duration,
    in_burst: bool,
    flights: BinaryHeap<Flight>,
    held: Vec<Held>,
    count: u64,
    pub(super) counters: Counters,
    pub(super) late: Late,
}

struct Held {
    packet: Vec<u8>,
    /// Its place among all packets.
    order: u64,
    /// How many more packets go first.
    before: u32,
    until: Duration,
}

impl Direction {
    pub(super) fn new(shape: Shape, seed: u64) -> Self {
        Self {
            shape,
            random: fastrand::Rng::with_seed(seed),
            busy_until: Duration::ZERO,
            in_burst: false,
            flights: BinaryHeap::new(),
            held: Vec::new(),
            count: 0,
            counters: Counters::default(),
            late: Late::default(),
        }
    }

    /// A packet enters the queue, or is dropped. `further` adds to the delay: the sender's own distance from the link.
    pub(super) fn offer(&mut self, now: Duration, packet: &[u8], further: Duration) {
        // Loss and reordering are drawn for every packet that is offered, so that what happens to the n-th packet does not
        // depend on the queue.
        let lost = self.is_lost();
        let reordered = matches!(self.shape.fault, Fault::Reorder(share) if self.random.f64() < share);
        let leaves_from = self.busy_until.max(now);
        let waiting = self.bytes_in(leaves_from.saturating_sub(now));
        if waiting + packet.len() > self.shape.queue_bytes {
            self.counters.queue_full += 1;
            return;
        }
        self.busy_until = leaves_from + self.time_for(packet.len());
        if lost {
            // It took its time on the wire all the same.
            self.counters.lost += 1;
            return;
        }
        let arrives = self.busy_until + self.shape.delay + further;
        self.count += 1;
        if reordered {
            self.counters.reordered += 1;
            self.held.push(Held {
                packet: packet.to_vec(),
                order: self.count,
                before: OVERTAKEN_BY,
                until: arrives + HELD_AT_MOST,
            });
        } else {
            self.flights.push(Reverse((arrives, self.count, packet.to_vec())));
        }
    }

    /// The next packet that has arrived.
    pub(super) fn deliver(&mut self, now: Duration) -> Option<Vec<u8>> {
        if let Some(index) = self.held.iter().position(|held| held.before == 0 || held.until <= now) {
            self.counters.delivered += 1;
            return Some(self.held.remove(index).packet);
        }
        if self.flights.peek()?.0.0 > now {
            return None;
        }
        let Reverse((due, order, packet)) = self.flights.pop()?;
        self.late.packets += 1;
        self.late.late += u64::from(now - due > (self.shape.delay / 5).max(LEAST_LATE));
        for held in self.held.iter_mut().filter(|held| held.order < order) {
            held.before -= 1;
        }
        self.counters.delivered += 1;
        Some(packet)
    }

    /// When [`Direction::deliver`] has something next.
    pub(super) fn next(&self) -> Option<Duration> {
        let flight = self.flights.peek().map(|flight| flight.0.0);
        let held = self.held.iter().map(|held| if held.before == 0 { Duration::ZERO } else { held.until });
        held.chain(flight).min()
    }

    fn is_lost(&mut self) -> bool {
        match self.shape.fault {
            Fault::None | Fault::Reorder(_) => false,
            Fault::Loss(share) => self.random.f64() < share,
            Fault::Bursts(share) => {
                let leave = 1.0 / BURST;
                // In the long run enter / (enter + leave) of the packets are lost.
                let enter = leave * share / (1.0 - share);
                let change = if self.in_burst { leave } else { enter };
                self.in_burst ^= self.random.f64() < change;
                self.in_burst
            }
        }
    }

    fn time_for(&self, bytes: usize) -> Duration {
        Duration::from_nanos(bytes as u64 * 8 * 1_000_000_000 / self.shape.rate)
    }

    fn bytes_in(&self, time: Duration) -> usize {
        let bits = time.as_nanos() * u128::from(self.shape.rate) / 1_000_000_000;
        usize::try_from(bits / 8).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
#[expect(clippy::expect_used, reason = "a failure is a failed test")]
mod tests {
    use super::*;

    const CLEAN: Shape = Shape {
        rate: 8_000_000, // 1 byte in 1 us
        queue_bytes: 10_000,
        delay: Duration::from_millis(10),
        fault: Fault::None,
    };

    /// Offers `count` packets of `size` bytes, one each `gap`, and returns the numbers that arrive, in order.
    fn pass(direction: &mut Direction, count: u32, size: usize, gap: Duration) -> Vec<u32> {
        for number in 0..count {
            let mut packet = vec![0; size];
            packet[..4].copy_from_slice(&number.to_be_bytes());
            direction.offer(gap * number, &packet, Duration::ZERO);
        }
        let mut now = Duration::ZERO;
        let arrivals = std::iter::from_fn(|| {
            now = now.max(direction.next()?);
            direction.deliver(now)
        });
        arrivals.map(|packet| u32::from_be_bytes([packet[0], packet[1], packet[2], packet[3]])).collect()
    }

    #[test]
    fn a_packet_takes_its_size_at_the_rate_and_the_delay() {
        let mut link = Direction::new(CLEAN, 1);
        link.offer(Duration::ZERO, &[0; 1000], Duration::ZERO);
        link.offer(Duration::ZERO, &[0; 1000], Duration::from_millis(5));
        assert_eq!(link.next(), Some(Duration::from_millis(11)));
        assert!(link.deliver(Duration::from_micros(10_999)).is_none());
        assert!(link.deliver(Duration::from_millis(11)).is_some());
        assert_eq!(link.next(), Some(Duration::from_millis(17)));
    }

    #[test]
    fn lateness_is_counted() {
        let mut link = Direction::new(CLEAN, 1);
        for late in [0, 1900, 2100] {
            link.offer(Duration::ZERO, &[0; 1000], Duration::ZERO);
            let due = link.next().expect("it is on its way");
            assert!(link.deliver(due + Duration::from_micros(late)).is_some());
        }
        assert_eq!(link.late, Late { packets: 3, late: 1 });
        assert!((link.late.percent() - 33.3).abs() < 0.1);
    }

    #[test]
    fn the_queue_holds_its_bytes_and_no_more() {
        let mut link = Direction::new(CLEAN, 1);
        let arrived = pass(&mut link, 15, 1000, Duration::ZERO);
        assert_eq!(arrived, (0..10).collect::<Vec<_>>());
        assert_eq!(link.counters, Counters { delivered: 10, queue_full: 5, ..Counters::default() });
    }

    #[test]
    fn losses_are_as_many_as_asked_for_alone_and_in_bursts() {
        for (fault, longest) in [(Fault::Loss(0.01), 4), (Fault::Bursts(0.01), 100)] {
            let mut link = Direction::new(Shape { fault, ..CLEAN }, 7);
            let arrived = pass(&mut link, 100_000, 100, Duration::from_micros(200));
            let lost = 100_000 - arrived.len();
            assert!((700..1300).contains(&lost), "{fault:?}: {lost} lost");
            let gaps: Vec<_> =
                arrived.windows(2).map(|pair| pair[1] - pair[0] - 1).filter(|gap| *gap > 0).collect();
            let mean = lost as f64 / gaps.len() as f64;
            assert!(gaps.iter().all(|gap| *gap <= longest), "{fault:?}");
            match fault {
                Fault::Bursts(_) => assert!((3.0..5.5).contains(&mean), "bursts of {mean}"),
                _ => assert!(mean < 1.1, "single losses of {mean}"),
            }
        }
    }

    #[test]
    fn a_reordered_packet_is_overtaken_by_eight() {
        let mut link = Direction::new(Shape { fault: Fault::Reorder(0.002), ..CLEAN }, 3);
        let arrived = pass(&mut link, 10_000, 100, Duration::from_micros(200));
        assert_eq!(arrived.len(), 10_000, "nothing is lost");
        assert!((5..60).contains(&link.counters.reordered), "{:?}", link.counters);
        let mut late = 0;
        for (place, number) in arrived.iter().enumerate() {
            let overtaken = arrived[..place].iter().filter(|before| *before > number).count();
            if overtaken > 0 {
                late += 1;
                assert_eq!(overtaken, OVERTAKEN_BY as usize, "packet {number}");
            }
        }
        // One of the last eight packets may have had nobody to overtake it.
        assert!((link.counters.reordered - 1..=link.counters.reordered).contains(&late), "{late} late");
    }
}
