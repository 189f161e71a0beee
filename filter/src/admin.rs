//! The module's pages on Envoy's admin interface. They answer at once: Envoy's main thread calls them.
//!
//! | page | method | answer |
//! |---|---|---|
//! | `/nexodus/status` | any | all networks as JSON |
//! | `/nexodus/ping?address=A&address=B…[&timeout=MS][&network=NAME]` | POST | starts ICMP echo requests: `{"id": N}` |
//! | `/nexodus/ping/results?id=N[&network=NAME]` | any | `{"done": …, "results": [{"address", "round_trip_us", "failure"}]}` |

use crate::network::{self, Network, Phase};
use crate::pings::{MAX_ADDRESSES, PingResult, Report};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A page: its path, what Envoy's help says of it, and whether Envoy is to insist on POST.
pub(crate) const PAGES: [(&str, &str, bool); 3] = [
    ("/nexodus/status", "Nexodus networks, peers and counters as JSON", false),
    ("/nexodus/ping", "send ICMP echo requests into the overlay", true),
    ("/nexodus/ping/results", "the results of echo requests, by the id that /nexodus/ping gave", false),
];

/// How long an answer is waited for when the request does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_millis(1200);

/// Answers a request with an HTTP status and a body.
pub(crate) fn answer(path_and_query: &str) -> (u32, String) {
    let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
    let answer = match path {
        "/nexodus/status" => Ok(status()),
        "/nexodus/ping" => ping(&Query(query)),
        "/nexodus/ping/results" => results(&Query(query)),
        _ => Err((404, "no such page".to_owned())),
    };
    match answer {
        Ok(value) => (200, format!("{value:#}\n")),
        Err((status, error)) => (status, format!("{error}\n")),
    }
}

type Refusal = (u32, String);

fn status() -> Value {
    let networks: Vec<_> = network::all()
        .iter()
        .map(|network| network.status().to_json(&network.name, network.phase() == Phase::Running))
        .collect();
    json!({ "networks": networks })
}

fn ping(query: &Query<'_>) -> Result<Value, Refusal> {
    let network = network(query)?;
    let addresses: Vec<IpAddr> = query.all("address").map(address).collect::<Result<_, _>>()?;
    if !(1..=MAX_ADDRESSES).contains(&addresses.len()) {
        return Err((
            400,
            format!("name 1 to {MAX_ADDRESSES} addresses: address=100.64.0.2&address=fd00::2"),
        ));
    }
    let timeout = match query.first("timeout") {
        None => DEFAULT_TIMEOUT,
        Some(text) => Duration::from_millis(text.parse().map_err(|_| bad("timeout", text, "milliseconds"))?),
    };
    if network.phase() != Phase::Running {
        let failure =
            network.status().failure.unwrap_or_else(|| "it has not started yet, or has stopped".to_owned());
        return Err((503, format!("network {} is not running: {failure}", network.name)));
    }
    let id = network.ping(Instant::now(), &addresses, timeout).map_err(|error| (429, error.to_string()))?;
    Ok(json!({ "id": id }))
}

fn results(query: &Query<'_>) -> Result<Value, Refusal> {
    let network = network(query)?;
    let text = query.first("id").unwrap_or_default();
    let id = text.parse().map_err(|_| bad("id", text, "a number"))?;
    let Report { done, results } = network
        .ping_report(Instant::now(), id)
        .ok_or_else(|| (404, format!("no results with id {id}: they were fetched, or waited too long")))?;
    Ok(json!({ "done": done, "results": results.iter().map(result).collect::<Vec<_>>() }))
}

fn result(PingResult { address, outcome }: &PingResult) -> Value {
    let round_trip = outcome.as_ref().and_then(|outcome| outcome.as_ref().ok());
    let failure = outcome.as_ref().and_then(|outcome| outcome.as_ref().err());
    json!({
        "address": address,
        "round_trip_us": round_trip.map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX)),
        "failure": failure,
    })
}

/// The network that is named, or the only one.
fn network(query: &Query<'_>) -> Result<Arc<Network>, Refusal> {
    if let Some(name) = query.first("network") {
        return Network::find(name).map_err(|error| (404, error.to_string()));
    }
    <[_; 1]>::try_from(network::all())
        .map(|[network]| network)
        .map_err(|networks| (400, format!("there are {} networks: say which, network=NAME", networks.len())))
}

fn address(text: &str) -> Result<IpAddr, Refusal> {
    text.parse().map_err(|_| bad("address", text, "an IP address"))
}

fn bad(name: &str, text: &str, expected: &str) -> Refusal {
    (400, format!("{name}={text}: expected {expected}"))
}

/// The part behind the question mark. Nothing in it needs percent encoding.
struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    fn all(&self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let pairs = self.0.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(move |(key, _)| *key == name).map(|(_, value)| value)
    }

    fn first(&self, name: &'a str) -> Option<&'a str> {
        self.all(name).next()
    }
}
