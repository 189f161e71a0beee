//! Resources for an Envoy without the dynamic module: what the rules say, over kernel sockets.

use std::net::SocketAddr;

use envoy_types::pb::{
    envoy::{
        config::{
            cluster::v3::Cluster,
            core::v3::{SocketAddress, address::Address, socket_address::PortSpecifier},
            endpoint::v3::{ClusterLoadAssignment, lb_endpoint::HostIdentifier},
            listener::v3::{Listener, filter::ConfigType},
        },
        extensions::filters::network::dynamic_modules::v3::DynamicModuleNetworkFilter,
    },
    google::protobuf::Any,
};
use prost::{Message as _, Name as _};
use xds_server::snapshot::{Resource, ResourceName, ResourceType, Snapshot};

/// Takes the module out of every resource. An egress endpoint becomes the kernel's socket address that it names.
pub fn plain(snapshot: &Snapshot) -> Snapshot {
    let of_type = |kind| {
        let has_module = |resource: &&std::sync::Arc<Resource>| resource.name().starts_with("tunnel/");
        snapshot.resources(kind).filter(move |resource| !has_module(resource)).map(move |resource| {
            (ResourceName::new(kind, resource.name()), plain_body(kind, resource.body()))
        })
    };
    ResourceType::ALL.into_iter().flat_map(of_type).collect()
}

fn plain_body(kind: ResourceType, body: &Any) -> Any {
    let mut body = body.clone();
    match kind {
        ResourceType::Listener => {
            let mut listener = Listener::decode(body.value.as_slice()).unwrap();
            let module = DynamicModuleNetworkFilter::type_url();
            listener.filter_chains[0].filters.retain(
                |filter| !matches!(&filter.config_type, Some(ConfigType::TypedConfig(any)) if any.type_url == module),
            );
            body.value = listener.encode_to_vec();
        }
        ResourceType::Cluster => {
            let mut cluster = Cluster::decode(body.value.as_slice()).unwrap();
            cluster.transport_socket = None;
            body.value = cluster.encode_to_vec();
        }
        ResourceType::Endpoints => {
            let mut assignment = ClusterLoadAssignment::decode(body.value.as_slice()).unwrap();
            for endpoint in &mut assignment.endpoints[0].lb_endpoints {
                let Some(HostIdentifier::Endpoint(endpoint)) = &mut endpoint.host_identifier else {
                    panic!()
                };
                let address = endpoint.address.as_mut().unwrap();
                if let Some(Address::EnvoyInternalAddress(internal)) = &address.address {
                    let destination: SocketAddr = internal.endpoint_id.parse().unwrap();
                    address.address = Some(Address::SocketAddress(SocketAddress {
                        address: destination.ip().to_string(),
                        port_specifier: Some(PortSpecifier::PortValue(u32::from(destination.port()))),
                        ..Default::default()
                    }));
                }
            }
            body.value = assignment.encode_to_vec();
        }
        ResourceType::ExtensionConfig => {}
    }
    body
}
