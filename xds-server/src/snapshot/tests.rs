use envoy_types::pb::envoy::config::{
    cluster::v3::Cluster, core::v3::TypedExtensionConfig, endpoint::v3::ClusterLoadAssignment,
    listener::v3::Listener,
};
use prost::Name as _;

use super::*;

fn resource(kind: ResourceType, name: &str, content: &str) -> (ResourceName, Any) {
    let body = Any { type_url: kind.type_url().to_owned(), value: content.as_bytes().to_vec() };
    (ResourceName::new(kind, name), body)
}

#[test]
fn type_urls_are_those_of_the_messages() {
    assert_eq!(ResourceType::Cluster.type_url(), Cluster::type_url());
    assert_eq!(ResourceType::Endpoints.type_url(), ClusterLoadAssignment::type_url());
    assert_eq!(ResourceType::Listener.type_url(), Listener::type_url());
    assert_eq!(ResourceType::ExtensionConfig.type_url(), TypedExtensionConfig::type_url());
    for kind in ResourceType::ALL {
        assert_eq!(ResourceType::from_type_url(kind.type_url()), Some(kind));
    }
    assert_eq!(ResourceType::from_type_url("type.googleapis.com/google.protobuf.Any"), None);
}

#[test]
fn resources_come_sorted_and_the_later_of_two_counts() {
    let snapshot: Snapshot = [
        resource(ResourceType::Cluster, "b", "1"),
        resource(ResourceType::Cluster, "a", "2"),
        resource(ResourceType::Listener, "a", "3"),
        resource(ResourceType::Cluster, "b", "4"),
    ]
    .into_iter()
    .collect();
    let clusters: Vec<_> =
        snapshot.resources(ResourceType::Cluster).map(|r| (r.name(), &r.body().value[..])).collect();
    assert_eq!(clusters, [("a", &b"2"[..]), ("b", &b"4"[..])]);
    assert_eq!(snapshot.resources(ResourceType::Endpoints).len(), 0);
    assert_eq!(
        snapshot.get(ResourceType::Listener, "a").map(|r| r.body().value.clone()),
        Some(b"3".to_vec())
    );
    assert_eq!(snapshot.get(ResourceType::Listener, "b"), None);
}

#[test]
fn versions_follow_content() {
    let snapshot = |content: &str, name: &str| -> Snapshot {
        [resource(ResourceType::Cluster, name, content), resource(ResourceType::Listener, "l", "1")]
            .into_iter()
            .collect()
    };
    let version = |snapshot: Snapshot| snapshot.version(ResourceType::Cluster);
    assert_eq!(version(snapshot("1", "a")), version(snapshot("1", "a")));
    assert_ne!(version(snapshot("1", "a")), version(snapshot("2", "a")));
    assert_ne!(version(snapshot("1", "a")), version(snapshot("1", "b")));
    assert_eq!(
        snapshot("1", "a").version(ResourceType::Listener),
        snapshot("2", "a").version(ResourceType::Listener)
    );
    assert_ne!(Version::of([&b"ab"[..], b"c"]), Version::of([&b"a"[..], b"bc"]));
}

/// A client that reconnects to another build of this server says the versions that an earlier one sent: the hash is
/// part of the protocol.
#[test]
fn the_hash_is_fnv_1a_and_reads_back() {
    let version = Version::of([&b""[..]]);
    assert_eq!(version.to_string().parse(), Ok(version));
    assert_eq!(version.to_string().len(), 32);
    // FNV-1a/128 of eight zero bytes, the length of the empty part.
    let mut expected: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    for _ in 0..8 {
        expected = expected.wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
    }
    assert_eq!(version.to_string(), format!("{expected:032x}"));
    assert!("not a version".parse::<Version>().is_err());
}
