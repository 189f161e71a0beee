//! What a rule may say besides its four fields: `,bind=127.0.0.1,weight=2,connect-timeout=2s,health-check=5s`.

use std::{fmt, net::IpAddr, ops::RangeInclusive, time::Duration};

use super::Rule;
use crate::duration;

/// The weights a rule can have.
pub const WEIGHTS: RangeInclusive<u32> = 1..=1000;

/// The options of a [`Rule`]; by default none. [`Display`](fmt::Display) writes those that are given, in this order,
/// each behind a comma.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RuleOptions {
    /// `bind`: the one address that is listened on, of this host (egress) or of this node in the overlay (ingress);
    /// none for all. Never unspecified, and an IPv4 address never in its IPv6 form. Part of the rule's identity.
    pub bind: Option<IpAddr>,
    /// `weight`: this destination's share of the connections among the rules of one key, in [`WEIGHTS`]; none counts 1.
    pub weight: Option<u32>,
    /// `connect-timeout`: how long one attempt to reach a destination may take. TCP; the same for all rules of a key.
    pub connect_timeout: Option<Duration>,
    /// `health-check`: how often the destinations are tried without a client. TCP; the same for all rules of a key.
    pub health_check: Option<Duration>,
}

impl RuleOptions {
    /// Reads `name=value` parts separated by commas, with spaces around them.
    pub(super) fn parse(text: &str) -> Result<Self, OptionError> {
        let mut options = Self::default();
        for part in text.split(',').map(str::trim) {
            let (name, value) =
                part.split_once('=').ok_or_else(|| OptionError::NotAnOption(part.to_owned()))?;
            options.set(name, value)?;
        }
        Ok(options)
    }

    /// Sets the option of this name.
    ///
    /// # Errors
    /// [`OptionError`].
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), OptionError> {
        let invalid = |reason| OptionError::Value { name: name.to_owned(), value: value.to_owned(), reason };
        let new = match name {
            "bind" => self.bind.replace(address(value).map_err(invalid)?).is_none(),
            "weight" => self.weight.replace(weight(value).map_err(invalid)?).is_none(),
            "connect-timeout" => self.connect_timeout.replace(interval(value).map_err(invalid)?).is_none(),
            "health-check" => self.health_check.replace(interval(value).map_err(invalid)?).is_none(),
            _ => return Err(OptionError::Unknown { name: name.to_owned(), value: value.to_owned() }),
        };
        if new { Ok(()) } else { Err(OptionError::Repeated { name: name.to_owned() }) }
    }

    /// The options that belong to the listener, so that the rules of one key have to agree on them.
    pub(super) fn shared(&self) -> [(&'static str, Option<Duration>); 2] {
        [("connect-timeout", self.connect_timeout), ("health-check", self.health_check)]
    }
}

impl fmt::Display for RuleOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(bind) = self.bind {
            write!(f, ",bind={bind}")?;
        }
        if let Some(weight) = self.weight {
            write!(f, ",weight={weight}")?;
        }
        self.shared()
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .try_for_each(|(name, value)| write!(f, ",{name}={}", duration::text(value)))
    }
}

/// The connect timeout of a key, of which these are the rules; none when the node's counts.
#[must_use]
pub fn connect_timeout(rules: &[&Rule]) -> Option<Duration> {
    rules.iter().find_map(|rule| rule.options.connect_timeout)
}

/// The interval between health checks of a key, of which these are the rules; none when nothing is checked.
#[must_use]
pub fn health_check(rules: &[&Rule]) -> Option<Duration> {
    rules.iter().find_map(|rule| rule.options.health_check)
}

/// Where the options begin: at the first comma with an option behind it. A destination's host may contain others.
pub(super) fn split(text: &str) -> (&str, Option<&str>) {
    let comma = text.match_indices(',').find(|(at, _)| is_option(text[at + 1..].trim_start()));
    match comma {
        Some((at, _)) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}

/// Whether this is an option and no rule: `^[a-z-]+=`. No protocol contains `=`.
pub(crate) fn is_option(text: &str) -> bool {
    text.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && name.bytes().all(|b| b == b'-' || b.is_ascii_lowercase())
    })
}

fn address(text: &str) -> Result<IpAddr, &'static str> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address: IpAddr = bare.parse().map_err(|_| "it is not an IP address")?;
    let address = address.to_canonical();
    if address.is_unspecified() {
        return Err("it is no single address; leave bind out to listen on all, IPv4 and IPv6");
    }
    Ok(address)
}

fn weight(text: &str) -> Result<u32, &'static str> {
    let weight = text.parse().ok().filter(|weight| WEIGHTS.contains(weight));
    weight.ok_or("it is not a whole number from 1 to 1000")
}

fn interval(text: &str) -> Result<Duration, &'static str> {
    match duration::parse(text) {
        Ok(Duration::ZERO) => Err("it must be more than 0; leave the option out for the default"),
        Ok(duration) => Ok(duration),
        Err(_) => Err("write it like 10s, 500ms or 2m, at most an hour"),
    }
}

/// Why a text is not an option.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// A rule that begins with an option.
    #[error("option {0} has no rule before it: write it after its rule, as in tcp:80:10.0.0.1:8080,weight=2")]
    NoRule(String),
    /// A part after the first option that is none.
    #[error(
        "invalid option ({0}): after the first option of a rule come only options, of the form name=value"
    )]
    NotAnOption(String),
    /// No such option.
    #[error("unknown option ({name}={value}): there are bind, weight, connect-timeout and health-check")]
    Unknown {
        /// What stands before the `=`.
        name: String,
        /// What stands behind it.
        value: String,
    },
    /// An option given twice.
    #[error("option {name} is given more than once")]
    Repeated {
        /// Its name.
        name: String,
    },
    /// A value that the option cannot have.
    #[error("invalid option ({name}={value}): {reason}")]
    Value {
        /// The option.
        name: String,
        /// The value as written.
        value: String,
        /// What is wrong with it, and the remedy.
        reason: &'static str,
    },
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests;
