//! `nexctl nexd peers`.

use std::{net::IpAddr, time::SystemTime};

use super::{
    Failure,
    cli::Ping,
    complain,
    output::{Format, Table, render},
    print,
};
use crate::control::{
    Method,
    client::Client,
    peers::{Peer, PeerList, PingAnswer, PingRequest, PingResult},
};

/// Shows every peer, by public key.
pub(super) fn list(client: &Client, format: Format) -> Result<(), Failure> {
    let PeerList { peers, .. } = answer(&client.call(Method::ListPeers, "")?)?;
    let peers: Vec<Peer> = peers.into_values().collect();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    print(&render(format, &peers, || table(&peers, now))?)
}

fn table(peers: &[Peer], now: u64) -> Table<8> {
    let headers = [
        "PUBLIC KEY",
        "ENDPOINT",
        "ALLOWED IPS",
        "LATEST HANDSHAKE",
        "TRANSMITTED",
        "RECEIVED",
        "HEALTHY",
        "KEEPALIVE",
    ];
    let row = |peer: &Peer| {
        [
            peer.public_key.clone(),
            peer.endpoint.clone(),
            peer.allowed_ips.join(", "),
            peer.handshake_age(now).map_or_else(|| "None".to_owned(), |age| format!("{age} seconds ago")),
            peer.tx.to_string(),
            peer.rx.to_string(),
            peer.healthy.to_string(),
            match peer.persistent_keepalive {
                0 => "off".to_owned(),
                seconds => format!("{seconds}s"),
            },
        ]
    };
    Table { headers, rows: peers.iter().map(row).collect() }
}

/// Pings and shows every result, by address. One without an answer makes it a failure.
pub(super) fn ping(client: &Client, what: Ping, ipv6: bool, format: Format) -> Result<(), Failure> {
    let Ping { addresses, timeout } = what;
    if let Some(wrong) = addresses.iter().find(|address| address.is_ipv6() != ipv6) {
        let (family, other) = if ipv6 { ("6", "ping") } else { ("4", "ping6") };
        return Err(Failure::Usage(format!(
            "{wrong} is not an IPv{family} address; see nexctl nexd peers {other}"
        )));
    }
    let text = if addresses.is_empty() && timeout.is_none() {
        client.call(if ipv6 { Method::ConnectivityV6 } else { Method::ConnectivityV4 }, "")?
    } else {
        let timeout_ms = timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
        let request = PingRequest { addresses, ipv6, timeout_ms };
        client.call(Method::Ping, &serde_json::to_string(&request).unwrap_or_default())?
    };
    let PingAnswer { peers, unnamed, .. } = answer(&text)?;
    // As addresses they have an order, as texts they have another.
    let mut results: Vec<PingResult> = peers.into_values().collect();
    results.sort_by_key(|result| result.wg_ip.parse::<IpAddr>().ok());
    print(&render(format, &results, || results_table(&results))?)?;
    if !unnamed.is_empty() {
        complain(&format!(
            "{} of the peers have no single address among their allowed IPs: name one to ping it",
            unnamed.len()
        ));
    }
    if results.is_empty() {
        return Err(Failure::Text("there is no peer to ping".to_owned()));
    }
    if results.iter().all(|result| result.is_reachable) { Ok(()) } else { Err(Failure::Shown) }
}

fn results_table(results: &[PingResult]) -> Table<5> {
    let headers = ["HOSTNAME", "WIREGUARD ADDRESS", "LATENCY", "PEERING METHOD", "CONNECTION STATUS"];
    let row = |result: &PingResult| {
        let status = match (result.is_reachable, &result.reason) {
            (true, _) => "✓ Reachable".to_owned(),
            (false, None) => "x Unreachable".to_owned(),
            (false, Some(reason)) => format!("x Unreachable: {reason}"),
        };
        let PingResult { hostname, wg_ip, latency, method, .. } = result.clone();
        [hostname, wg_ip, latency, method, status]
    };
    Table { headers, rows: results.iter().map(row).collect() }
}

fn answer<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, Failure> {
    serde_json::from_str(text)
        .map_err(|error| Failure::Text(format!("nexd's answer is not understood: {error}")))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_row_for_each_peer() {
        let peer = Peer {
            public_key: "key".to_owned(),
            endpoint: "192.0.2.1:51820".to_owned(),
            allowed_ips: vec!["100.64.0.2/32".to_owned(), "fd64::2/128".to_owned()],
            latest_handshake: "1000".to_owned(),
            tx: 7,
            rx: 8,
            healthy: true,
            persistent_keepalive: 20,
        };
        let silent = Peer { public_key: "silent".to_owned(), ..Peer::default() };
        let Table { headers, rows } = table(&[peer, silent], 1012);
        assert_eq!(headers[..3], ["PUBLIC KEY", "ENDPOINT", "ALLOWED IPS"]);
        let allowed_ips = "100.64.0.2/32, fd64::2/128";
        assert_eq!(
            rows[0],
            ["key", "192.0.2.1:51820", allowed_ips, "12 seconds ago", "7", "8", "true", "20s"]
        );
        assert_eq!(rows[1], ["silent", "", "", "None", "0", "0", "false", "off"]);
    }

    #[test]
    fn upstreams_results_have_upstreams_table() {
        // As upstream's nexd writes it (internal/api/nexctl.go).
        let upstream = r#"{"relay-present":false,"relay-required":false,"peers":{
            "100.64.0.2":{"wg_ip":"100.64.0.2","is_reachable":true,"hostname":"n","Latency":"1.50ms","method":"reflexive"},
            "100.64.0.3":{"wg_ip":"100.64.0.3","is_reachable":false,"hostname":"m","Latency":"-","method":"via-relay"}}}"#;
        let PingAnswer { peers, .. } = serde_json::from_str(upstream).unwrap();
        let mut results: Vec<_> = peers.into_values().collect();
        results[1].reason = None;
        let Table { rows, .. } = results_table(&results);
        assert_eq!(rows[0], ["n", "100.64.0.2", "1.50ms", "reflexive", "✓ Reachable"]);
        assert_eq!(rows[1], ["m", "100.64.0.3", "-", "via-relay", "x Unreachable"]);
        results[1].reason = Some("no answer within 1200ms".to_owned());
        assert_eq!(results_table(&results).rows[1][4], "x Unreachable: no answer within 1200ms");
    }
}
