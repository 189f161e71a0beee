//! Any schedule delivers exactly the bytes that were sent, in order, and ends.

use std::sync::Arc;
use std::time::Duration;

use nexodus_netstack::conn::{End, Settings};
use proptest::prelude::*;

use crate::link::{Link, Listener, Net, Stream, client, pattern};

fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(150)
}

fn stream() -> impl Strategy<Value = (usize, usize, u64)> {
    let len = prop_oneof![Just(0), 1..3000_usize, 3000..300_000_usize];
    let chunk = prop_oneof![3 => Just(0), 1 => 1..50_usize, 2 => 50..9000_usize];
    let lazy = prop_oneof![3 => Just(0), 1 => 1..20_u64];
    // Who takes a byte every 200 ms needs longer for 300,000 than there is.
    (len, chunk, lazy)
        .prop_map(|(len, chunk, lazy)| (len, if lazy > 0 && chunk > 0 { chunk.max(50) } else { chunk }, lazy))
}

fn link() -> impl Strategy<Value = Link> {
    let chances = (0..5000_u64, 0..5000_u64, 0..20_000_u64, 0..5000_u64, 0..500_u64);
    let rate = prop_oneof![Just(0), 50_000..20_000_000_u64];
    (chances, 0..80_u64, rate, 3000..200_000_u64, 1..5_u64).prop_map(
        |((loss, ack_loss, reorder, duplicate, corrupt), delay, rate, queue, burst)| Link {
            rate,
            delay: Duration::from_millis(delay),
            queue,
            loss,
            burst,
            ack_loss,
            reorder,
            late: Duration::from_millis(30),
            duplicate,
            corrupt,
        },
    )
}

fn settings() -> impl Strategy<Value = Settings> {
    let buffer = prop_oneof![Just(1500_u32), 1500..9000_u32, Just(65_536), Just(1 << 20)];
    (prop_oneof![Just(1420_u16), 1280..9000_u16], buffer.clone(), buffer, any::<[bool; 4]>()).prop_map(
        |(mtu, send_buffer, recv_buffer, [sack, timestamps, window_scaling, pacing])| Settings {
            mtu,
            send_buffer,
            recv_buffer,
            sack,
            timestamps,
            window_scaling,
            pacing,
            verify_checksums: true,
            // No bad luck with the link is too much.
            syn_retries: 200,
            user_timeout: Duration::from_secs(20_000),
            // An end that is through must not be gone before the other has heard of it: nobody here answers with RST.
            time_wait: Duration::from_secs(10_000),
            ..Settings::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bytes_in_are_bytes_out(
        seed: u64,
        link in link(),
        streams in (stream(), stream()),
        settings in (settings(), settings()),
        iss in (prop_oneof![any::<u32>(), (0..400_000_u32).prop_map(|n| u32::MAX - n)], any::<u32>()),
    ) {
        let stream = |(len, chunk, lazy): (usize, usize, u64), seed| Stream {
            send: pattern(len, seed), chunk, lazy, finish: true, ..Stream::default()
        };
        let sent = [stream(streams.0, seed), stream(streams.1, !seed)];
        let listener = Listener::new(Arc::new(settings.1), iss.1);
        let mut net = Net::new(link, seed, client(&Arc::new(settings.0), iss.0), listener, sent.clone());
        let done = net.run(Duration::from_secs(40_000));
        prop_assert!(
            done,
            "{:?} after {} and {} of {} and {}, {:?} {:?} and {:?}", net.now, net.streams[1].received.len(),
            net.streams[0].received.len(), sent[0].send.len(), sent[1].send.len(), net.a.state(), net.a.counters(),
            net.b.connection.as_ref().map(|connection| (connection.state(), connection.end(), connection.counters()))
        );
        let server = net.b.connection.as_ref().and_then(|connection| connection.end());
        prop_assert_eq!(net.a.end(), Some(End::Done));
        prop_assert_eq!(server, Some(End::Done));
        net.run_for(Duration::from_secs(1));
        let mut rest = vec![0; 1 << 20];
        for _ in 0..40 {
            net.run_for(Duration::from_millis(1));
        }
        let left = [nexodus_netstack::conn::Connection::recv(&mut net.a, net.now, &mut rest), 0];
        let mut received = [net.streams[0].received.clone(), net.streams[1].received.clone()];
        received[0].extend_from_slice(&rest[..left[0]]);
        if let Some(server) = &mut net.b.connection {
            let len = server.recv(net.now, &mut rest);
            received[1].extend_from_slice(&rest[..len]);
        }
        prop_assert!(received[1] == sent[0].send);
        prop_assert!(received[0] == sent[1].send);
    }
}
