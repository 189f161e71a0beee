//! Payload through TCP, WireGuard, WireGuard and TCP on one core, beside what its encryption and decryption cost alone, with
//! the library that boringtun uses, in the same run. Fails below the bound.
//!
//! The acknowledgements, which are encrypted too, are in the netstack's part. Bytes are copied into a chunk at one end and out
//! of pages at the other, as the module does with Envoy's buffers. `--summary FILE` puts the ratio into a JSON file beside those
//! of other benchmarks.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot be set up has nothing to measure")]

#[path = "../tests/pair/mod.rs"]
mod pair;

use std::fs;
use std::hint::black_box;
use std::io::ErrorKind;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use bytes::BytesMut;
use nexodus_netstack::Limits;
use pair::Pair;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

/// Least throughput as a part of ring's.
const LEAST: f64 = 0.7;
const ROUNDS: usize = 9;
/// Batches in a round, and those before it that open the windows.
const BATCHES: usize = 1000;
const FIRST: usize = 200;
/// Payload of a full segment, and bytes of a batch.
const SEGMENT: usize = 1368;
const BATCH: usize = 48 * SEGMENT;

fn main() -> ExitCode {
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let (netstack, ring) = (throughput(netstack()), throughput(ring()));
        println!("netstack {netstack:.2} Gbit/s, ring {ring:.2} Gbit/s, ratio {:.2}", netstack / ring);
        ratios.push(netstack / ring);
    }
    ratios.sort_by(f64::total_cmp);
    let median = ratios[ROUNDS / 2];
    println!("median ratio {median:.2}, at least {LEAST}");
    if let Some(path) = std::env::args().skip_while(|argument| argument != "--summary").nth(1) {
        save(Path::new(&path), median);
    }
    if median >= LEAST { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn save(path: &Path, ratio: f64) {
    let mut summary: serde_json::Value = match fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text).unwrap(),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::NotFound);
            serde_json::json!({})
        }
    };
    summary["ratios"]["netstack_vs_ring"] = ((ratio * 1000.0).round() / 1000.0).into();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, serde_json::to_string_pretty(&summary).unwrap() + "\n").unwrap();
}

/// Gbit/s of payload. Without the dearest few of all batches: something else had the core meanwhile.
fn throughput(mut batches: Vec<Duration>) -> f64 {
    batches.sort();
    batches.truncate(batches.len() / 20 * 19);
    let total: Duration = batches.iter().sum();
    #[expect(clippy::cast_precision_loss, reason = "the numbers are small")]
    let bits = (batches.len() * BATCH * 8) as f64;
    bits / total.as_secs_f64() / 1e9
}

/// Seals all segments of a batch, then opens them.
fn ring() -> Vec<Duration> {
    let key = || LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &[7; 32]).unwrap());
    let (sealer, opener) = (key(), key());
    let nonce = |batch: usize, n: usize| {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&(batch * BATCH + n).to_le_bytes());
        Nonce::assume_unique_for_key(nonce)
    };
    let mut segments: Vec<Vec<u8>> = (0..BATCH / SEGMENT).map(|_| vec![7; SEGMENT + 16]).collect();
    let batch = |batch: usize| {
        let start = std::time::Instant::now();
        for (n, segment) in segments.iter_mut().enumerate() {
            let (payload, space) = segment.split_at_mut(SEGMENT);
            let tag = sealer.seal_in_place_separate_tag(nonce(batch, n), Aad::empty(), payload).unwrap();
            space.copy_from_slice(tag.as_ref());
        }
        for (n, segment) in segments.iter_mut().enumerate() {
            black_box(opener.open_in_place(nonce(batch, n), Aad::empty(), segment).unwrap());
        }
        start.elapsed()
    };
    (0..BATCHES).map(batch).collect()
}

/// The bytes of a batch go from one stack to the other, and are read there.
fn netstack() -> Vec<Duration> {
    let mut pair = Pair::new(Limits::default());
    pair.connect(1);
    let [sender, receiver] = pair.flows[0];
    let data = vec![7; BATCH];
    let mut out = vec![0; BATCH];
    let batch = |_| {
        let start = std::time::Instant::now();
        let (mut sent, mut received) = (0, 0);
        while received < BATCH {
            let room = pair.stacks[0].send_capacity(sender).min(BATCH - sent);
            let mut chunk = BytesMut::from(&data[..room]);
            sent += pair.stacks[0].send_chunk(pair.now, sender, &mut chunk);
            pair.turn(&mut Vec::new());
            let before = received;
            loop {
                let chunk = pair.stacks[1].recv_chunk(pair.now, receiver);
                if chunk.is_empty() {
                    break;
                }
                out[received..received + chunk.len()].copy_from_slice(&chunk);
                received += chunk.len();
            }
            black_box(&mut out);
            if received == before {
                // Both wait for a timer, the pacer's say.
                pair.now = pair.now + Duration::from_millis(1);
            }
        }
        start.elapsed()
    };
    (0..FIRST + BATCHES).map(batch).skip(FIRST).collect()
}
