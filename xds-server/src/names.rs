//! Host names of egress destinations: looked up here, because Envoy's DNS clusters cannot hold addresses of the overlay.
//!
//! [`ResolvedNames`] is what [`crate::translate`] takes, and [`schedule`] decides when which name is looked up: both are
//! pure. [`lookup`] asks the DNS, and [`resolver`] is the task around them.
//!
//! A change of a name is a change of endpoints alone. No listener is touched, and live connections stay.

pub mod lookup;
pub mod resolver;
pub mod schedule;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use crate::rules::Rule;

/// Addresses of one name that are used; of more, the first of them in order.
pub const MAX_ADDRESSES: usize = 16;

/// What the names in the rules stand for at present. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvedNames {
    names: Arc<BTreeMap<Arc<str>, Vec<IpAddr>>>,
}

impl ResolvedNames {
    /// The addresses of an egress rule's destination: the one it is, or those of its name, in order. None while the name
    /// is unresolved.
    #[must_use]
    pub fn addresses(&self, rule: &Rule) -> Vec<IpAddr> {
        match rule.host.parse::<IpAddr>() {
            // `::ffff:192.0.2.1` is an IPv4 address, whose IPv6 form no socket of IPv6 alone reaches.
            Ok(address) => vec![address.to_canonical()],
            Err(_) => self.of(&rule.host).to_vec(),
        }
    }

    /// The addresses of a name, in order.
    #[must_use]
    pub fn of(&self, name: &str) -> &[IpAddr] {
        self.names.get(name).map(Vec::as_slice).unwrap_or_default()
    }
}

impl<N: Into<Arc<str>>> FromIterator<(N, Vec<IpAddr>)> for ResolvedNames {
    fn from_iter<I: IntoIterator<Item = (N, Vec<IpAddr>)>>(names: I) -> Self {
        Self {
            names: Arc::new(names.into_iter().map(|(name, addresses)| (name.into(), addresses)).collect()),
        }
    }
}
