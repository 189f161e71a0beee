//! What an Envoy should have: resources by type, sorted by name, each with a version that is a hash of its content.

use std::fmt;

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

/// The name of one resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceName {
    /// The resource's type.
    pub kind: ResourceType,
    /// The resource's name within its type.
    pub name: String,
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.kind, self.name)
    }
}

/// An immutable set of resources; cheap to clone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {}
