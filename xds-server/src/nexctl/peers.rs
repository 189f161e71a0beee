//! `nexctl nexd peers`.

use std::time::SystemTime;

use super::{
    Failure,
    output::{Format, Table, render},
    print,
};
use crate::control::{
    Method,
    client::Client,
    peers::{Peer, PeerList},
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

fn answer<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, Failure> {
    serde_json::from_str(text)
        .map_err(|error| Failure::Text(format!("nexd's answer is not understood: {error}")))
}

#[cfg(test)]
mod tests {
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
}
