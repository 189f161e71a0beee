//! Pings through the tunnel: the module sends them, and is asked for the answers until it has them all.

use std::{collections::BTreeMap, fmt::Write as _, net::IpAddr, time::Duration};

use hyper::Method;
use serde::Deserialize;

use super::{
    admin::{Admin, AdminError},
    module::Status,
};
use crate::{
    control::peers::{PingAnswer, PingRequest, PingResult},
    duration,
};

/// Addresses asked at once; the module takes twice as many, from all who ask it.
const BATCH: usize = 64;

/// How long a request may take: less than a client's patience.
const TOTAL: Duration = Duration::from_secs(50);

/// Upstream's.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_millis(1200);

/// How often each address is asked. The first time, a handshake may have to come first, which is in the time, or the request
/// may be lost with it.
const ROUNDS: usize = 2;

/// How often the module is asked whether it has the answers.
const POLL: Duration = Duration::from_millis(20);

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// These; none stands for all peers'.
    addresses: Vec<IpAddr>,
    family: Family,
    timeout: Duration,
}

/// Which addresses a request means, and whose they are.
#[derive(Debug, Default, PartialEq, Eq)]
struct Targets {
    /// The peer's public key by address; empty for an address of nobody.
    by_address: BTreeMap<IpAddr, String>,
    /// Peers that no address stands for: none of their allowed IPs is a single address.
    unnamed: Vec<String>,
}

/// Which of the peers' addresses are meant when none is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

impl Targets {
    /// The address of every peer in this family: the first of its allowed IPs that is a single one.
    fn of_peers(status: &Status, family: Family) -> Self {
        let mut targets = Self::default();
        for peer in status.networks.iter().flat_map(|network| &network.peers) {
            let in_family = || peer.nets().filter(|net| net.addr().is_ipv6() == (family == Family::V6));
            match in_family().find(|net| net.prefix_len() == net.max_prefix_len()) {
                Some(net) => drop(targets.by_address.insert(net.addr(), peer.public_key.clone())),
                // A peer of the other family alone is not meant.
                None if in_family().next().is_some() => targets.unnamed.push(peer.public_key.clone()),
                None => {}
            }
        }
        targets
    }

    /// These addresses, each with the peer that it is routed to.
    fn named(status: &Status, addresses: &[IpAddr]) -> Self {
        let peers = || status.networks.iter().flat_map(|network| &network.peers);
        let owner = |address: IpAddr| {
            let nets = peers().flat_map(|peer| peer.nets().map(move |net| (net, peer)));
            let found =
                nets.filter(|(net, _)| net.contains(&address)).max_by_key(|(net, _)| net.prefix_len());
            found.map(|(_, peer)| peer.public_key.clone()).unwrap_or_default()
        };
        let by_address = addresses.iter().map(|address| (*address, owner(*address))).collect();
        Self { by_address, unnamed: Vec::new() }
    }
}

/// Pings what a request means.
///
/// # Errors
/// The text for the caller: nobody to ask, or too much asked.
pub async fn ping(admin: &Admin, status: &Status, wanted: &Wanted) -> Result<PingAnswer, String> {
    let timeout = wanted.timeout;
    let Targets { by_address, unnamed } = match wanted.addresses.as_slice() {
        [] => Targets::of_peers(status, wanted.family),
        addresses => Targets::named(status, addresses),
    };
    let (count, max) = (by_address.len(), max_addresses(timeout));
    if count > max {
        return Err(format!(
            "{count} addresses, and {max} are pinged at a time with this timeout: name some, or wait for less"
        ));
    }
    let addresses: Vec<IpAddr> = by_address.keys().copied().collect();
    let mut answer = PingAnswer { unnamed, ..PingAnswer::default() };
    for batch in addresses.chunks(BATCH) {
        let mut outcomes = BTreeMap::new();
        for _ in 0..ROUNDS {
            for (address, outcome) in probe(admin, batch, timeout).await.map_err(|error| error.to_string())? {
                // The second time counts, if there is one.
                if outcome.is_ok() || !outcomes.get(&address).is_some_and(Result::is_ok) {
                    outcomes.insert(address, outcome);
                }
            }
        }
        for (address, outcome) in outcomes {
            let peer = by_address.get(&address).cloned().unwrap_or_default();
            let outcome =
                outcome.map_err(|failure| failure.unwrap_or_else(|| silence(status, &peer, timeout)));
            answer.peers.insert(address.to_string(), shown(address, peer, outcome));
        }
    }
    Ok(answer)
}

impl Wanted {
    /// Every peer's address in this family, as upstream asks.
    #[must_use]
    pub fn peers(family: Family) -> Self {
        Self { addresses: Vec::new(), family, timeout: DEFAULT_TIMEOUT }
    }

    /// Reads the argument of the method `Ping`.
    ///
    /// # Errors
    /// The text for the caller.
    pub fn parse(text: &str) -> Result<Self, String> {
        let PingRequest { addresses, ipv6, timeout_ms } =
            serde_json::from_str(text).map_err(|error| error.to_string())?;
        let timeout = timeout_ms.map_or(DEFAULT_TIMEOUT, Duration::from_millis);
        if !(MIN_TIMEOUT..=MAX_TIMEOUT).contains(&timeout) {
            let [min, max] = [MIN_TIMEOUT, MAX_TIMEOUT].map(duration::text);
            return Err(format!("the timeout must be from {min} to {max}"));
        }
        Ok(Self { addresses, family: if ipv6 { Family::V6 } else { Family::V4 }, timeout })
    }
}

/// Shorter than any answer.
const MIN_TIMEOUT: Duration = Duration::from_millis(1);

/// Longer than any answer.
const MAX_TIMEOUT: Duration = Duration::from_secs(5);

/// How many addresses are asked within [`TOTAL`] although none answers.
fn max_addresses(timeout: Duration) -> usize {
    let batches = TOTAL.as_millis() / (timeout.as_millis().max(1) * ROUNDS as u128);
    BATCH * usize::try_from(batches).unwrap_or(usize::MAX / BATCH)
}

type Outcome = Result<Duration, Option<String>>;

#[derive(Deserialize)]
struct Started {
    id: u64,
}

#[derive(Deserialize)]
struct Results {
    done: bool,
    results: Vec<ModuleResult>,
}

#[derive(Deserialize)]
struct ModuleResult {
    address: IpAddr,
    round_trip_us: Option<u64>,
    failure: Option<String>,
}

async fn probe(
    admin: &Admin,
    addresses: &[IpAddr],
    timeout: Duration,
) -> Result<Vec<(IpAddr, Outcome)>, AdminError> {
    let mut path = format!("/nexodus/ping?timeout={}", timeout.as_millis());
    for address in addresses {
        // Writing to a string does not fail.
        let _ = write!(path, "&address={address}");
    }
    let Started { id } = admin.module_page(Method::POST, &path).await?;
    let results = format!("/nexodus/ping/results?id={id}");
    loop {
        let Results { done, results } = admin.module_page(Method::GET, &results).await?;
        if done {
            let outcome = |result: ModuleResult| {
                let round_trip = result.round_trip_us.map(Duration::from_micros);
                (result.address, round_trip.ok_or(result.failure))
            };
            return Ok(results.into_iter().map(outcome).collect());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What no answer means, as far as it can be known.
fn silence(status: &Status, public_key: &str, timeout: Duration) -> String {
    let mut peers = status.networks.iter().flat_map(|network| &network.peers);
    match peers.find(|peer| peer.public_key == public_key) {
        Some(peer) if peer.endpoint.is_none() => {
            "the peer has no endpoint, and has not called yet".to_owned()
        }
        Some(peer) if peer.latest_handshake.is_none() => format!(
            "no answer within {}, nor ever a handshake: check both public keys, the peer's endpoint, and firewalls",
            duration::text(timeout)
        ),
        _ => format!("no answer within {}", duration::text(timeout)),
    }
}

/// With upstream's names and words.
fn shown(address: IpAddr, peer: String, outcome: Result<Duration, String>) -> PingResult {
    let round_trip = outcome.as_ref().map(|time| format!("{:.2}ms", time.as_secs_f64() * 1000.0));
    PingResult {
        wg_ip: address.to_string(),
        is_reachable: outcome.is_ok(),
        // Upstream's devices have names; here the key is one.
        hostname: peer,
        latency: round_trip.unwrap_or_else(|_| "-".to_owned()),
        method: "wg-config".to_owned(),
        reason: outcome.err(),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const STATUS: &str = r#"{"networks": [{"name": "default", "peers": [
        {"public_key": "a", "endpoint": null, "allowed_ips": ["100.64.0.2/32", "fd64::2/128", "10.1.0.0/16"],
         "latest_handshake": null, "transmitted_bytes": 0, "received_bytes": 0},
        {"public_key": "b", "endpoint": "192.0.2.1:1", "allowed_ips": ["10.0.0.0/8"],
         "latest_handshake": 1000, "transmitted_bytes": 0, "received_bytes": 0},
        {"public_key": "c", "endpoint": "192.0.2.2:1", "allowed_ips": ["10.3.0.0/16", "100.64.0.3/32", "fd64::3/128"],
         "latest_handshake": null, "transmitted_bytes": 0, "received_bytes": 0}]}]}"#;

    fn status() -> Status {
        serde_json::from_str(STATUS).unwrap()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn every_peer_has_its_address_or_is_said_to_have_none() {
        let v4 = Targets::of_peers(&status(), Family::V4);
        let owners =
            |[a, c]: [&str; 2]| BTreeMap::from([(address(a), "a".to_owned()), (address(c), "c".to_owned())]);
        assert_eq!(v4.by_address, owners(["100.64.0.2", "100.64.0.3"]));
        assert_eq!(v4.unnamed, ["b"]);
        let v6 = Targets::of_peers(&status(), Family::V6);
        assert_eq!(v6.by_address, owners(["fd64::2", "fd64::3"]));
        assert!(v6.unnamed.is_empty());
    }

    #[test]
    fn a_named_address_belongs_to_the_longest_prefix() {
        let named = ["10.1.2.3", "10.2.0.1", "fd64::2", "192.0.2.1"].map(address);
        let owners: Vec<_> = Targets::named(&status(), &named).by_address.into_iter().collect();
        let expected = [("10.1.2.3", "a"), ("10.2.0.1", "b"), ("192.0.2.1", ""), ("fd64::2", "a")];
        assert_eq!(owners, expected.map(|(text, owner)| (address(text), owner.to_owned())));
    }

    #[test]
    fn a_request_ends_before_a_clients_patience() {
        assert_eq!(max_addresses(DEFAULT_TIMEOUT), 20 * BATCH);
        assert_eq!(max_addresses(MAX_TIMEOUT), 5 * BATCH);
    }

    #[test]
    fn too_many_addresses_are_refused() {
        let addresses = (0..5 * 64 + 1).map(|last: u32| IpAddr::from(last.to_be_bytes())).collect();
        let wanted = Wanted { addresses, timeout: MAX_TIMEOUT, ..Wanted::peers(Family::V4) };
        // Nobody is asked.
        let admin = Admin::new("/nonexistent/admin.sock".into());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let error = runtime.block_on(ping(&admin, &status(), &wanted)).unwrap_err();
        assert!(error.starts_with("321 addresses, and 320 are pinged at a time"), "{error}");
    }

    #[test]
    fn requests() {
        let named = Wanted::parse(r#"{"addresses": ["fd64::2"]}"#).unwrap();
        assert_eq!((named.addresses, named.timeout), (vec![address("fd64::2")], DEFAULT_TIMEOUT));
        let all = Wanted::parse(r#"{"ipv6": true, "timeout_ms": 250}"#).unwrap();
        let expected = Wanted { timeout: Duration::from_millis(250), ..Wanted::peers(Family::V6) };
        assert_eq!(all, expected);
        assert_eq!(Wanted::parse("{}"), Ok(Wanted::peers(Family::V4)));
        for timeout in [0, 5001, u64::MAX] {
            let error = Wanted::parse(&format!(r#"{{"timeout_ms": {timeout}}}"#)).unwrap_err();
            assert_eq!(error, "the timeout must be from 1ms to 5s");
        }
        for bad in ["", "5", r#"{"addresses": ["host"]}"#] {
            Wanted::parse(bad).unwrap_err();
        }
    }

    #[test]
    fn results_have_upstreams_words() {
        let result = shown(address("100.64.0.2"), "a".to_owned(), Ok(Duration::from_micros(1234)));
        assert_eq!((result.latency.as_str(), result.is_reachable, result.reason), ("1.23ms", true, None));
        let silent = silence(&status(), "b", DEFAULT_TIMEOUT);
        assert_eq!(silent, "no answer within 1200ms");
        let result = shown(address("100.64.0.2"), "a".to_owned(), Err(silent.clone()));
        assert_eq!((result.latency.as_str(), result.is_reachable, result.reason), ("-", false, Some(silent)));
        assert!(silence(&status(), "a", DEFAULT_TIMEOUT).contains("has no endpoint"));
        let unknown = silence(&status(), "c", DEFAULT_TIMEOUT);
        assert!(unknown.starts_with("no answer within 1200ms, nor ever a handshake: check"), "{unknown}");
    }
}
