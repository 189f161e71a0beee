//! Both protocols in virtual steps: requests and snapshots in, responses out.

use std::collections::BTreeMap;

use envoy_types::pb::{
    envoy::service::discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    },
    google::{protobuf::Any, rpc},
};

use super::*;

mod delta;
mod model;
mod room;
mod sotw;

const CDS: ResourceType = ResourceType::Cluster;
const EDS: ResourceType = ResourceType::Endpoints;
const LDS: ResourceType = ResourceType::Listener;
const ECDS: ResourceType = ResourceType::ExtensionConfig;

/// A snapshot from `(type, name, content)`. The body tells name and content, as a real message does.
fn snapshot(resources: &[(ResourceType, &str, &str)]) -> Snapshot {
    resources.iter().map(|(kind, name, content)| resource(*kind, name, content)).collect()
}

/// A rule's worth of resources for each name, all with one content.
fn rules(names: &[&str], content: &str) -> Snapshot {
    names.iter().flat_map(|name| ResourceType::ALL.map(|kind| resource(kind, name, content))).collect()
}

fn resource(kind: ResourceType, name: &str, content: &str) -> (ResourceName, Any) {
    let body = Any { type_url: kind.type_url().to_owned(), value: format!("{name}={content}").into_bytes() };
    (ResourceName::new(kind, name), body)
}

fn content(body: &Any) -> (String, String) {
    let text = String::from_utf8(body.value.clone()).unwrap();
    let (name, content) = text.split_once('=').unwrap();
    (name.to_owned(), content.to_owned())
}

fn error(text: &str) -> Option<rpc::Status> {
    Some(rpc::Status { code: 13, message: text.to_owned(), ..Default::default() })
}

fn verdict(stream: &impl Observe, snapshot: &Snapshot, kind: ResourceType, name: &str) -> Verdict {
    let wanted = snapshot.get(kind, name).map(|resource| resource.version());
    stream.verdict(&ResourceName::new(kind, name), wanted)
}

fn rejected(text: &str) -> Verdict {
    Verdict::Rejected(text.to_owned())
}
