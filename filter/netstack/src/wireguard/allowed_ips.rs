//! Allowed IPs: which peer an overlay address belongs to (cryptokey routing, WireGuard paper section 2).

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher, Hash};
use std::net::IpAddr;

use ipnet::IpNet;

/// The keys come from the configuration alone, so the hash needs no secret.
type Map<K, T> = HashMap<K, T, BuildHasherDefault<DefaultHasher>>;

/// Which of some `T` an overlay address belongs to: longest-prefix match with one table per prefix length in use, the longest
/// first.
pub struct AllowedIps<T> {
    v4: Vec<(u8, Map<u32, T>)>,
    v6: Vec<(u8, Map<u128, T>)>,
}

impl<T> Default for AllowedIps<T> {
    fn default() -> Self {
        Self { v4: Vec::new(), v6: Vec::new() }
    }
}

impl<T: Copy> AllowedIps<T> {
    /// Gives `net` to `owner`. A network that had an owner changes hands: the last one wins, as with `wg`.
    pub fn insert(&mut self, net: IpNet, owner: T) {
        let len = net.prefix_len();
        match net.trunc() {
            IpNet::V4(net) => table(&mut self.v4, len).insert(net.addr().to_bits(), owner),
            IpNet::V6(net) => table(&mut self.v6, len).insert(net.addr().to_bits(), owner),
        };
    }

    /// The owner of exactly this network.
    #[must_use]
    pub fn get(&self, net: IpNet) -> Option<T> {
        fn find<K: Eq + Hash, T: Copy>(tables: &[(u8, Map<K, T>)], len: u8, key: K) -> Option<T> {
            tables.iter().find(|(other, _)| *other == len)?.1.get(&key).copied()
        }
        let len = net.prefix_len();
        match net.trunc() {
            IpNet::V4(net) => find(&self.v4, len, net.addr().to_bits()),
            IpNet::V6(net) => find(&self.v6, len, net.addr().to_bits()),
        }
    }

    /// The owner of the longest network that holds the address.
    #[must_use]
    pub fn lookup(&self, address: IpAddr) -> Option<T> {
        match address {
            IpAddr::V4(address) => {
                let bits = address.to_bits();
                self.v4.iter().find_map(|(len, map)| map.get(&(bits & mask32(*len))).copied())
            }
            IpAddr::V6(address) => {
                let bits = address.to_bits();
                self.v6.iter().find_map(|(len, map)| map.get(&(bits & mask128(*len))).copied())
            }
        }
    }
}

fn table<K, T>(tables: &mut Vec<(u8, Map<K, T>)>, len: u8) -> &mut Map<K, T> {
    let at = tables.partition_point(|&(other, _)| other > len);
    if tables.get(at).is_none_or(|&(other, _)| other != len) {
        tables.insert(at, (len, Map::default()));
    }
    &mut tables[at].1
}

fn mask32(len: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0)
}

fn mask128(len: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed parse is a failed test")]
mod tests {
    use super::*;

    fn lookup(table: &AllowedIps<u8>, address: &str) -> Option<u8> {
        table.lookup(address.parse().unwrap())
    }

    #[test]
    fn the_longest_prefix_decides_and_the_last_owner_wins() {
        let mut table = AllowedIps::default();
        for (net, peer) in [
            ("0.0.0.0/0", 1),
            ("10.0.0.0/8", 2),
            ("10.1.0.0/16", 3),
            ("10.1.2.3/32", 4),
            ("::/0", 5),
            ("fd00::/64", 6),
        ] {
            table.insert(net.parse().unwrap(), peer);
        }
        assert_eq!(lookup(&table, "8.8.8.8"), Some(1));
        assert_eq!(lookup(&table, "10.9.9.9"), Some(2));
        assert_eq!(lookup(&table, "10.1.9.9"), Some(3));
        assert_eq!(lookup(&table, "10.1.2.3"), Some(4));
        assert_eq!(lookup(&table, "2001:db8::1"), Some(5));
        assert_eq!(lookup(&table, "fd00::1"), Some(6));
        table.insert("10.1.2.3/16".parse().unwrap(), 7);
        assert_eq!(lookup(&table, "10.1.9.9"), Some(7));
        let exactly = |net: &str| table.get(net.parse().unwrap());
        assert_eq!(
            (exactly("10.1.0.9/16"), exactly("fd00::/64"), exactly("10.1.2.3/31")),
            (Some(7), Some(6), None)
        );
        assert_eq!(lookup(&AllowedIps::default(), "10.0.0.1"), None);
    }
}
