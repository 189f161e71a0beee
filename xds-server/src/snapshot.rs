//! What an Envoy should have: resources by type, sorted by name, each with a version that is a hash of its content.
//!
//! Equal content has an equal version, in every process and on every machine, so nothing is sent twice: not when the
//! same rules are published again, and not when a client reconnects and says which versions it has.

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc};

use envoy_types::pb::google::protobuf::Any;

/// The types of resources that this server delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
    /// `envoy.config.cluster.v3.Cluster`.
    Cluster,
    /// `envoy.config.endpoint.v3.ClusterLoadAssignment`.
    Endpoints,
    /// `envoy.config.listener.v3.Listener`.
    Listener,
    /// `envoy.config.core.v3.TypedExtensionConfig`.
    ExtensionConfig,
}

impl ResourceType {
    /// All types.
    pub const ALL: [Self; 4] = [Self::Cluster, Self::Endpoints, Self::Listener, Self::ExtensionConfig];

    /// The type URL of the xDS protocol.
    #[must_use]
    pub const fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::ExtensionConfig => "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
        }
    }

    /// The type with this URL.
    #[must_use]
    pub fn from_type_url(type_url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == type_url)
    }

    /// Clusters and listeners: a client that names none wants all of them, and in the state-of-the-world protocol a
    /// response holds all of them, so that what is missing is removed. Of the other types a client names what it wants
    /// and a response may hold any part of that.
    #[must_use]
    pub const fn is_full_state(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }
}

impl fmt::Display for ResourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cluster => "cluster",
            Self::Endpoints => "endpoints",
            Self::Listener => "listener",
            Self::ExtensionConfig => "extension configuration",
        })
    }
}

/// The name of one resource. Displays for people: `listener egress/tcp/80`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceName {
    /// The resource's type.
    pub kind: ResourceType,
    /// The resource's name within its type.
    pub name: String,
}

impl ResourceName {
    /// A name of this type.
    #[must_use]
    pub fn new(kind: ResourceType, name: impl Into<String>) -> Self {
        Self { kind, name: name.into() }
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// A hash of content: FNV-1a with 128 bits, which tells versions apart and is no defence against forgery. On the wire
/// it is 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u128);

impl Version {
    fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        const OFFSET_BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
        const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
        let mut hash = OFFSET_BASIS;
        let mut absorb = |bytes: &[u8]| {
            for byte in bytes {
                hash = (hash ^ u128::from(*byte)).wrapping_mul(PRIME);
            }
        };
        for part in parts {
            // The length keeps ["ab", "c"] and ["a", "bc"] apart.
            absorb(&part.len().to_le_bytes());
            absorb(part);
        }
        Self(hash)
    }

    /// The version of a set of resources, which must come in the order of their names.
    pub(crate) fn of_set<'a>(resources: impl IntoIterator<Item = &'a Arc<Resource>>) -> Self {
        let versions: Vec<_> = resources.into_iter().map(|r| (&r.name, r.version.0.to_le_bytes())).collect();
        Self::of(versions.iter().flat_map(|(name, version)| [name.as_bytes(), version.as_slice()]))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for Version {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(text, 16).map(Self)
    }
}

/// The content of one resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Content {
    /// The message.
    pub body: Any,
    /// See [`Resource::room`].
    pub room: u32,
}

impl From<Any> for Content {
    fn from(body: Any) -> Self {
        Self { body, room: 0 }
    }
}

/// One resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    name: String,
    version: Version,
    content: Content,
}

impl Resource {
    /// The name within its type.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The hash of its content.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// The message.
    #[must_use]
    pub const fn body(&self) -> &Any {
        &self.content.body
    }

    /// How many destinations the resource is made for, in a unit of its own; 0 when it does not depend on them. What has more room
    /// than a client's version comes before the destinations, what has less after them.
    #[must_use]
    pub const fn room(&self) -> u32 {
        self.content.room
    }
}

/// An immutable set of resources; cheap to clone. Collected from names and messages; of two with one name the later
/// counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    types: Arc<[BTreeMap<String, Arc<Resource>>; 4]>,
}

impl Snapshot {
    /// The resources of a type, sorted by name.
    pub fn resources(&self, kind: ResourceType) -> impl ExactSizeIterator<Item = &Arc<Resource>> {
        self.types[kind as usize].values()
    }

    /// One resource.
    #[must_use]
    pub fn get(&self, kind: ResourceType, name: &str) -> Option<&Arc<Resource>> {
        self.types[kind as usize].get(name)
    }

    /// The version of all resources of a type together.
    #[must_use]
    pub fn version(&self, kind: ResourceType) -> Version {
        Version::of_set(self.resources(kind))
    }
}

impl<C: Into<Content>> FromIterator<(ResourceName, C)> for Snapshot {
    fn from_iter<I: IntoIterator<Item = (ResourceName, C)>>(resources: I) -> Self {
        let mut types: [BTreeMap<String, Arc<Resource>>; 4] = Default::default();
        for (ResourceName { kind, name }, content) in resources {
            let content: Content = content.into();
            let version = Version::of([content.body.type_url.as_bytes(), content.body.value.as_slice()]);
            types[kind as usize].insert(name.clone(), Arc::new(Resource { name, version, content }));
        }
        Self { types: Arc::new(types) }
    }
}

#[cfg(test)]
mod tests;
