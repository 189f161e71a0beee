//! The shape of the file, for reading it and, in the tests, for its JSON schema.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_saphyr::Spanned;

use super::{ContentError, Place};
use crate::rules::{Rule, RuleOptions, parse_destination, parse_port};

/// Proxy rules of a nexodus node. nexd and xds-server read it (--rules FILE) again whenever it changes.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(title = "nexodus rules file"))]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    /// Programs on this host that connect to a port reach a destination in the overlay.
    #[serde(default, deserialize_with = "items")]
    #[cfg_attr(test, schemars(with = "Option<Vec<Item>>"))]
    pub(super) egress: Option<Vec<Spanned<Item>>>,
    /// Overlay peers that connect to a port of this node's overlay address reach a destination on this side.
    #[serde(default, deserialize_with = "items")]
    #[cfg_attr(test, schemars(with = "Option<Vec<Item>>"))]
    pub(super) ingress: Option<Vec<Spanned<Item>>>,
}

impl Document {
    /// Whether neither list is there. An editor or a `>` that has just begun leaves such a file for a moment.
    pub(super) fn is_empty(&self) -> bool {
        self.egress.is_none() && self.ingress.is_none()
    }
}

/// A list that is there; `egress:` with nothing behind it is an empty one, of which all items are comments, say.
fn items<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<Spanned<Item>>>, D::Error> {
    Ok(Some(Option::deserialize(deserializer)?.unwrap_or_default()))
}

/// A rule.
#[derive(Debug)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(untagged))]
pub(super) enum Item {
    /// As in a flag, with options behind it if need be: tcp:443:10.0.0.1:8443,weight=2
    Text(String),
    /// Field by field.
    Mapping(Box<Mapping>),
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // By hand: serde's untagged enums lose the places of what is in them.
        struct ItemVisitor;

        impl<'de> Visitor<'de> for ItemVisitor {
            type Value = Item;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "a rule such as tcp:443:10.0.0.1:8443, or a mapping with protocol, port and destination",
                )
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Item, E> {
                Ok(Item::Text(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Item, A::Error> {
                Mapping::deserialize(MapAccessDeserializer::new(map))
                    .map(|mapping| Item::Mapping(Box::new(mapping)))
            }
        }

        deserializer.deserialize_any(ItemVisitor)
    }
}

/// A rule field by field. The options are those of the text form.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Mapping {
    /// The transport protocol.
    protocol: Protocol,
    /// The port that is listened on.
    #[cfg_attr(test, schemars(with = "schema::Port"))]
    port: Spanned<Whole>,
    /// host:port, or "[address]:port" for IPv6, in quotes. The host of an egress rule is an address of the overlay, or a name that stands for some.
    #[cfg_attr(test, schemars(with = "String"))]
    destination: Spanned<Text>,
    /// Listen on this address only: of this host (egress), or of this node in the overlay (ingress).
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    bind: Option<Spanned<Text>>,
    /// The destination's share of the connections of its port; a rule without it counts 1.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "Option<schema::Weight>"))]
    weight: Option<Spanned<Whole>>,
    /// How long one attempt to reach the destination may take, like 2s or 500ms. TCP; for the whole port, so its rules
    /// must agree.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "Option<schema::Time>"))]
    connect_timeout: Option<Spanned<Time>>,
    /// How often to try the destinations without a client, like 10s. TCP; for the whole port.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "Option<schema::Time>"))]
    health_check: Option<Spanned<Time>>,
}

/// The transport protocol.
#[derive(Clone, Copy, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
enum Protocol {
    Tcp,
    Udp,
}

impl Mapping {
    /// The rule, by the same functions that read the text form.
    pub(super) fn rule(self, place: Place) -> Result<Rule, ContentError> {
        let port = parse_port(&self.port.value.0)
            .map_err(|error| ContentError::at(self.port.referenced.into(), error.to_string()))?;
        let at = Place::from(self.destination.referenced);
        let (host, destination_port) = parse_destination(&self.destination.value.0)
            .map_err(|error| ContentError::at(at, error.to_string()))?;
        let mut options = RuleOptions::default();
        for (name, value) in [
            ("bind", given(self.bind)),
            ("weight", given(self.weight)),
            ("connect-timeout", given(self.connect_timeout)),
            ("health-check", given(self.health_check)),
        ] {
            let Some((value, at)) = value else { continue };
            options.set(name, &value).map_err(|error| ContentError::at(at, error.to_string()))?;
        }
        let protocol = match self.protocol {
            Protocol::Tcp => crate::rules::Protocol::Tcp,
            Protocol::Udp => crate::rules::Protocol::Udp,
        };
        let rule = Rule { protocol, port, host, destination_port, options };
        // A host such as `a,weight=2` would be one that no flag and no nexctl can name.
        if rule.to_string().parse().as_ref() != Ok(&rule) {
            let reason = format!("the host of {rule} looks like options of a rule: correct it");
            return Err(ContentError::at(place, reason));
        }
        Ok(rule)
    }
}

/// An option that is there, and its place.
fn given<T: Into<String>>(option: Option<Spanned<T>>) -> Option<(String, Place)> {
    option.map(|Spanned { value, referenced, .. }| (value.into(), referenced.into()))
}

/// Defines a scalar that keeps its text, read from some kinds of YAML scalars and no others.
macro_rules! scalar {
    ($(#[$doc:meta])* $name:ident, $expecting:literal, $($visit:ident($type:ty)),+) => {
        $(#[$doc])*
        #[derive(Debug)]
        struct $name(String);

        impl From<$name> for String {
            fn from($name(text): $name) -> Self {
                text
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct ScalarVisitor;

                impl Visitor<'_> for ScalarVisitor {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }

                    $(fn $visit<E: de::Error>(self, value: $type) -> Result<$name, E> {
                        Ok($name(value.to_string()))
                    })+
                }

                deserializer.deserialize_any(ScalarVisitor)
            }
        }
    };
}

scalar!(
    /// A string.
    Text, "a string: put it in quotes, as in \"[fd00::1]:80\"", visit_str(&str)
);
scalar!(
    /// A whole number.
    Whole, "a whole number without quotes", visit_u64(u64), visit_i64(i64), visit_u128(u128), visit_i128(i128)
);
scalar!(
    /// A time; a bare number counts seconds, as in flags.
    Time, "a time such as 10s, 500ms or 2m", visit_str(&str), visit_u64(u64), visit_i64(i64)
);

#[cfg(test)]
pub(super) mod schema;
