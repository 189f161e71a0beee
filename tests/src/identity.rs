//! A node's place in the overlay.

use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use x25519_dalek::{PublicKey, StaticSecret};

use crate::ports::free_port;

/// Key pair, overlay addresses and UDP endpoint of one WireGuard node.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Base64, as in a wg-quick file.
    pub private_key: String,
    /// Base64.
    pub public_key: String,
    /// Overlay address.
    pub v4: Ipv4Addr,
    /// Overlay address.
    pub v6: Ipv6Addr,
    /// Where the others send their datagrams.
    pub endpoint: SocketAddr,
}

impl Identity {
    /// The node with this number: addresses 100.64.0.N and fd64::N, a fresh key pair and a free UDP port on loopback.
    pub fn new(number: u8) -> Identity {
        let mut bytes = [0; 32];
        File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).expect("random bytes");
        let secret = StaticSecret::from(bytes);
        Identity {
            private_key: STANDARD.encode(secret.to_bytes()),
            public_key: STANDARD.encode(PublicKey::from(&secret).as_bytes()),
            v4: Ipv4Addr::new(100, 64, 0, number),
            v6: Ipv6Addr::new(0xfd64, 0, 0, 0, 0, 0, 0, number.into()),
            endpoint: (Ipv4Addr::LOCALHOST, free_port()).into(),
        }
    }

    /// The nodes 1 to N.
    pub fn several<const N: usize>() -> [Identity; N] {
        std::array::from_fn(|index| Identity::new(u8::try_from(index + 1).expect("a small overlay")))
    }

    /// The same node, reached at another address.
    pub fn at(self, address: impl Into<std::net::IpAddr>) -> Identity {
        Identity { endpoint: (address.into(), self.endpoint.port()).into(), ..self }
    }

    /// The `[Interface]` section that `wg setconf` accepts.
    pub fn interface_section(&self) -> String {
        format!("[Interface]\nPrivateKey = {}\nListenPort = {}\n", self.private_key, self.endpoint.port())
    }

    /// The `Address` line that wg-quick adds to the `[Interface]` section.
    pub fn address_line(&self) -> String {
        format!("Address = {}/32, {}/128\n", self.v4, self.v6)
    }

    /// The `[Peer]` section by which another node knows this one.
    pub fn peer_section(&self) -> String {
        format!(
            "\n[Peer]\nPublicKey = {}\nAllowedIPs = {}/32, {}/128\nEndpoint = {}\n",
            self.public_key, self.v4, self.v6, self.endpoint
        )
    }
}
