//! Ours against smoltcp's TCP: interoperation, and goodput over the same link in virtual time.

use std::sync::Arc;
use std::time::Duration;

use nexodus_netstack::conn::Settings;

use crate::link::{Host, Link, Listener, Net, Stream, client, pattern};
use crate::smol::Smol;

const MEBI: usize = 1 << 20;

fn settings() -> Arc<Settings> {
    Arc::new(Settings { verify_checksums: true, ..Settings::default() })
}

fn both(size: usize) -> [Stream; 2] {
    [1, 2].map(|seed| Stream { send: pattern(size, seed), finish: true, ..Stream::default() })
}

/// Whoever opens, whatever the link does.
#[test]
fn smoltcp_and_we_understand_each_other() {
    for (loss, reorder, shift) in [(0, 0, 0), (1000, 0, 1), (0, 5000, 2), (3000, 3000, 3)] {
        let link = Link { loss, reorder, duplicate: reorder / 10, ..Link::default() };
        let (buffer, size) = (65_536 << shift, 2 * MEBI);
        let mut net = Net::new(link, 1, client(&settings(), 1), Smol::new(false, buffer), both(size));
        assert!(net.run(Duration::from_secs(900)), "{link:?}");
        assert!(net.streams[0].received == pattern(size, 2) && net.streams[1].received == pattern(size, 1));
        let listener = Listener::new(settings(), 1);
        let mut net = Net::new(link, 1, Smol::new(true, buffer), listener, both(size));
        assert!(net.run(Duration::from_secs(900)), "{link:?}");
        assert!(net.streams[0].received == pattern(size, 2) && net.streams[1].received == pattern(size, 1));
    }
}

/// Megabits per second from the first to the second in `seconds`.
fn goodput(link: Link, first: impl Host, second: impl Host, seconds: u64) -> f64 {
    let data = pattern(MEBI, 1).repeat(1 + (link.rate * seconds) as usize / MEBI);
    let sending = Stream { send: data, ..Stream::default() };
    let counting = Stream { count_only: true, ..Stream::default() };
    let mut net = Net::new(link, 42, first, second, [sending, counting]);
    net.run_for(Duration::from_secs(seconds));
    net.streams[1].count as f64 * 8e-6 / seconds as f64
}

/// The rows of the WAN table, with a queue of one bandwidth-delay product unless a row says otherwise.
fn rows() -> Vec<(&'static str, Link)> {
    let link = |mbit: u64, rtt: u64| Link {
        rate: mbit * 125_000,
        delay: Duration::from_micros(rtt * 500),
        queue: mbit * 125 * rtt,
        late: Duration::from_micros(8 * 1420 * 8 / mbit),
        ..Link::default()
    };
    let base = link(200, 20);
    vec![
        ("200 Mbit/s, 20 ms, clean", base),
        ("… queue of 10 ms", Link { queue: base.queue / 2, ..base }),
        ("… 0.01 % lost", Link { loss: 10, ..base }),
        ("… 0.1 % lost", Link { loss: 100, ..base }),
        ("… 1 % lost", Link { loss: 1000, ..base }),
        ("… 3 % lost", Link { loss: 3000, ..base }),
        ("… 0.1 % lost in bursts of 8", Link { loss: 12, burst: 8, ..base }),
        ("… 0.1 % reordered by 8 packets", Link { reorder: 100, ..base }),
        ("… 1 % reordered by 8 packets", Link { reorder: 1000, ..base }),
        ("… 5 % of the acknowledgements lost", Link { ack_loss: 5000, ..base }),
        ("… 0.1 % duplicated, 0.01 % corrupted", Link { duplicate: 100, corrupt: 10, ..base }),
        ("50 Mbit/s, 100 ms, clean", link(50, 100)),
        ("50 Mbit/s, 100 ms, 0.1 % lost", Link { loss: 100, ..link(50, 100) }),
        ("500 Mbit/s, 2 ms, clean", link(500, 2)),
        ("500 Mbit/s, 2 ms, 0.1 % lost", Link { loss: 100, ..link(500, 2) }),
    ]
}

/// The sender decides, so the receiver is ours in both columns, and smoltcp's in a third.
#[test]
fn goodput_is_better_in_every_row() {
    println!("{:40} {:>12} {:>18} {:>18}", "Mbit/s", "ours", "smoltcp to ours", "ours to smoltcp");
    let mut worse = Vec::new();
    for (name, link) in rows() {
        let ours = goodput(link, client(&settings(), 1), Listener::new(settings(), 9), 5);
        let theirs = goodput(link, Smol::new(true, 4 * MEBI), Listener::new(settings(), 9), 5);
        let mixed = goodput(link, client(&settings(), 1), Smol::new(false, 4 * MEBI), 5);
        println!("{name:40} {ours:12.1} {theirs:18.1} {mixed:18.1}");
        if ours < theirs {
            worse.push(name);
        }
    }
    assert_eq!(worse, [""; 0]);
}

/// Slow start finds the end of a queue by overflowing it, but by little (HyStart++), once, and within the window that it reduces
/// then. Otherwise it overflows a second and a third time, and takes the queue from those who share it.
#[test]
fn a_start_overflows_the_queue_once() {
    for (mbit, rtt) in [(200, 20), (50, 100)] {
        let queue = mbit * 125 * rtt;
        let link =
            Link { rate: mbit * 125_000, delay: Duration::from_micros(rtt * 500), queue, ..Link::default() };
        let sending = Stream { send: vec![1; (link.rate * 10) as usize], ..Stream::default() };
        let counting = Stream { count_only: true, ..Stream::default() };
        let mut net =
            Net::new(link, 42, client(&settings(), 1), Listener::new(settings(), 9), [sending, counting]);
        net.run_for(Duration::from_secs(10));
        let (bytes, lost) = (net.streams[1].count, net.dropped * 1420);
        assert!(bytes * 10 > link.rate * 10 * 9, "{mbit} Mbit/s, {rtt} ms: {bytes} bytes");
        assert!(lost < queue, "{mbit} Mbit/s, {rtt} ms: {lost} bytes lost, the queue holds {queue}");
    }
}
