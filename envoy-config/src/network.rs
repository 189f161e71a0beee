//! A network as the module runs it: the configuration together with the keys from its files.

use std::collections::HashMap;
use std::path::Path;
use std::str::FromStr;

use ipnet::IpNet;

use crate::warnings::Warnings;
use crate::{
    ConfigError, Endpoint, Limits, LoadError, NetworkConfig, PeerConfig, PresharedKey, PrivateKey, Problem,
    PublicKey, WgQuick, secret_file, value,
};

/// A file with one key has 44 characters and perhaps the end of a line.
const MAX_KEY_FILE_BYTES: usize = 1024;

/// A network with everything it needs to run. Secrets in it are wiped on drop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// The name.
    pub name: String,
    /// Who this node is.
    pub private_key: PrivateKey,
    /// The public key of `private_key`: what other nodes know this one by.
    pub public_key: PublicKey,
    /// The node's own overlay addresses, at least one.
    pub addresses: Vec<IpNet>,
    /// The UDP port; `None` is any free one.
    pub listen_port: Option<u16>,
    /// Bytes in a packet inside the tunnel; `None` is what fits the ways to the peers.
    pub mtu: Option<u16>,
    /// The peers, each once, none of them this node.
    pub peers: Vec<Peer>,
    /// What the network may use at most.
    pub limits: Limits,
    /// What was ignored or changed, for the log.
    pub warnings: Vec<String>,
}

/// A peer, with its preshared key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Who the peer is.
    pub public_key: PublicKey,
    /// A key mixed into the handshake.
    pub preshared_key: Option<PresharedKey>,
    /// Where the peer is reached; without it the peer has to come first.
    pub endpoint: Option<Endpoint>,
    /// The overlay networks that are routed to the peer and accepted from it: no host bits set, and each at one peer.
    pub allowed_ips: Vec<IpNet>,
    /// Seconds between keepalives, never 0.
    pub persistent_keepalive: Option<u16>,
}

/// Peers that came by xDS, with their preshared keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedPeers {
    /// The peers, each once.
    pub peers: Vec<Peer>,
    /// What was ignored or changed, for the log.
    pub warnings: Vec<String>,
}

impl NetworkConfig {
    /// Validates, then reads the files that the configuration names.
    ///
    /// Resolves no host names: an [`Endpoint::Host`] from a wg-quick file is the caller's to resolve.
    pub fn load(&self) -> Result<Network, LoadError> {
        self.validate()?;
        let mut network = match (&self.wg_config_file, &self.private_key_file) {
            (Some(file), _) => self.load_wg_quick(file)?,
            (None, Some(file)) => self.load_inline(file)?,
            (None, None) => return Err(ConfigError::rule("name", Problem::NoIdentity).into()),
        };
        let own = network.public_key;
        let is_other = |peer: &Peer| peer.public_key != own;
        if !network.peers.iter().all(is_other) {
            network.peers.retain(is_other);
            network.warnings.push(format!("peer {own} is this node itself and is ignored"));
        }
        Ok(network)
    }

    fn load_wg_quick(&self, file: &Path) -> Result<Network, LoadError> {
        let wg = WgQuick::load(file)?;
        let mtu = value::mtu(self.mtu.or(wg.mtu)).map_err(|problem| ConfigError::rule("mtu", problem))?;
        let mut peers = wg.peers;
        let mut settled = Warnings::default();
        settle_allowed_ips(&mut peers, &mut settled);
        let warnings = wg.warnings.into_iter().chain(settled.into_texts());
        Ok(Network {
            name: self.name.clone(),
            public_key: wg.private_key.public_key(),
            private_key: wg.private_key,
            addresses: wg.addresses,
            listen_port: self.listen_port.or(wg.listen_port).filter(|port| *port != 0),
            mtu,
            peers,
            limits: self.limits,
            warnings: warnings.map(|text| format!("{}: {text}", file.display())).collect(),
        })
    }

    fn load_inline(&self, file: &Path) -> Result<Network, LoadError> {
        let private_key: PrivateKey = load_key(file)?;
        let mtu = value::mtu(self.mtu).map_err(|problem| ConfigError::rule("mtu", problem))?;
        let LoadedPeers { peers, warnings } = load_peers(&self.peers)?;
        Ok(Network {
            name: self.name.clone(),
            public_key: private_key.public_key(),
            private_key,
            addresses: self.addresses.clone(),
            listen_port: self.listen_port.filter(|port| *port != 0),
            mtu,
            peers,
            limits: self.limits,
            warnings,
        })
    }
}

impl PeerConfig {
    fn load(&self, warnings: &mut Warnings) -> Result<Peer, LoadError> {
        let preshared_key: Option<PresharedKey> =
            self.preshared_key_file.as_deref().map(load_key).transpose()?;
        let allowed_ips = self.allowed_ips.iter().map(|net| {
            if *net != net.trunc() {
                warnings.push(|| masked(&format!("peer {}", self.public_key), *net));
            }
            net.trunc()
        });
        Ok(Peer {
            public_key: self.public_key,
            preshared_key: preshared_key.filter(|key| !key.is_zero()),
            endpoint: self.endpoint.map(Endpoint::Address),
            allowed_ips: allowed_ips.collect(),
            persistent_keepalive: self.persistent_keepalive.filter(|seconds| *seconds != 0),
        })
    }
}

pub(crate) fn load_peers(configs: &[PeerConfig]) -> Result<LoadedPeers, LoadError> {
    let mut warnings = Warnings::default();
    let mut peers = configs.iter().map(|config| config.load(&mut warnings)).collect::<Result<Vec<_>, _>>()?;
    settle_allowed_ips(&mut peers, &mut warnings);
    Ok(LoadedPeers { peers, warnings: warnings.into_texts() })
}

/// The warning for an allowed IP with host bits.
pub(crate) fn masked(whose: &str, net: IpNet) -> String {
    format!("{whose}: allowed IP {net} has host bits set and is taken as {}", net.trunc())
}

/// A network belongs to the peer that names it last, as in every WireGuard; the others lose it.
fn settle_allowed_ips(peers: &mut [Peer], warnings: &mut Warnings) {
    let mut owners: HashMap<IpNet, PublicKey> = HashMap::new();
    for peer in peers.iter() {
        for net in &peer.allowed_ips {
            let earlier = owners.insert(*net, peer.public_key);
            if let Some(earlier) = earlier.filter(|earlier| *earlier != peer.public_key) {
                warnings
                    .push(|| format!("allowed IP {net} of peer {earlier} goes to peer {}", peer.public_key));
            }
        }
    }
    for peer in peers {
        let own = peer.public_key;
        // Removing the entry also leaves only the first of two equal ones.
        peer.allowed_ips.retain(|net| owners.get(net) == Some(&own) && owners.remove(net).is_some());
    }
}

fn load_key<K: FromStr<Err = Problem>>(file: &Path) -> Result<K, LoadError> {
    let text = secret_file::read(file, MAX_KEY_FILE_BYTES)?;
    text.trim().parse().map_err(|problem| LoadError::Key { file: file.to_owned(), problem })
}
