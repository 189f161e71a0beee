//! What the integration tests share.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::allow_attributes, reason = "what is unused differs between the test binaries")]
#![allow(unreachable_pub, reason = "a module of several test binaries")]

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::{Map, Value, json};
use xds_server::{
    rules::{Direction, RuleSet, Source},
    snapshot::{ResourceType, Snapshot},
};

pub mod envoy;
pub mod plain;

/// A rule set from `("egress", "tcp:80:…")` pairs.
pub fn rule_set(rules: &[(&str, &str)]) -> RuleSet {
    let mut set = RuleSet::new();
    for (direction, rule) in rules {
        let direction = match *direction {
            "ingress" => Direction::Ingress,
            "egress" => Direction::Egress,
            other => panic!("{other}"),
        };
        set.add(direction, rule.parse().unwrap(), Source::Flag).unwrap();
    }
    set
}

/// The snapshot as Envoy's own JSON, by type, sorted.
pub fn as_json(snapshot: &Snapshot) -> Value {
    let of_type = |kind| -> Value {
        snapshot
            .resources(kind)
            .map(|resource| {
                let body = resource.body();
                let name = body.type_url.strip_prefix("type.googleapis.com/").unwrap();
                let descriptor = descriptors().get_message_by_name(name).unwrap();
                let message = DynamicMessage::decode(descriptor, body.value.as_slice()).unwrap();
                // Envoy prints and takes the names of the .proto files.
                let options = SerializeOptions::new().use_proto_field_name(true);
                message.serialize_with_options(serde_json::value::Serializer, &options).unwrap()
            })
            .collect()
    };
    json!({
        "listeners": of_type(ResourceType::Listener),
        "clusters": of_type(ResourceType::Cluster),
        "endpoints": of_type(ResourceType::Endpoints),
        "extension_configs": of_type(ResourceType::ExtensionConfig),
    })
}

/// The resources of [`as_json`] as the bootstrap of an Envoy without xDS: what is discovered stands where it is used.
pub fn as_bootstrap(resources: &Value) -> Value {
    let mut resources = resources.clone();
    let by_name = |list: &Value, key: &str| -> Map<String, Value> {
        list.as_array().unwrap().iter().map(|r| (r[key].as_str().unwrap().to_owned(), r.clone())).collect()
    };
    let endpoints = by_name(&resources["endpoints"], "cluster_name");
    let extensions = by_name(&resources["extension_configs"], "name");
    for cluster in resources["clusters"].as_array_mut().unwrap() {
        if cluster["type"] == "EDS" {
            cluster["type"] = json!("STATIC");
            cluster["load_assignment"] = endpoints[cluster["name"].as_str().unwrap()].clone();
            cluster.as_object_mut().unwrap().remove("eds_cluster_config");
        }
    }
    for listener in resources["listeners"].as_array_mut().unwrap() {
        // A UDP listener has none.
        for filter in filters(listener).into_iter().flatten() {
            if filter.as_object_mut().unwrap().remove("config_discovery").is_some() {
                let extension = &extensions[filter["name"].as_str().unwrap()];
                filter["typed_config"] = extension["typed_config"].clone();
            }
        }
    }
    json!({
        "node": {"id": "test", "cluster": "test"},
        "bootstrap_extensions": [{
            "name": "envoy.bootstrap.internal_listener",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener"},
        }],
        "static_resources": {"listeners": resources["listeners"], "clusters": resources["clusters"]},
    })
}

/// Gives a bootstrap the network that its filters name, with an identity in `directory`.
pub fn with_the_network(bootstrap: &Value, network: &str, directory: &Path) -> Value {
    let key = directory.join("key");
    fs::write(&key, "YJcK4FPUFQZuvcRA4l0YUJXDQCp3hPBQUWUHwAWEBmE=\n").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let mut bootstrap = bootstrap.clone();
    bootstrap["bootstrap_extensions"].as_array_mut().unwrap().push(json!({
        "name": "envoy.bootstrap.dynamic_modules",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.bootstrap.dynamic_modules.v3.DynamicModuleBootstrapExtension",
            "dynamic_module_config": {"name": "nexodus", "do_not_close": true},
            "extension_name": "tunnel",
            "extension_config": {
                "@type": "type.googleapis.com/google.protobuf.Struct",
                "value": {"networks": [{"name": network, "private_key_file": key, "addresses": ["100.64.0.1/32", "fd00::1/128"]}]},
            },
        },
    }));
    bootstrap
}

/// Takes the dynamic module out of a bootstrap, for an Envoy that does not have it: module filters go, and with them
/// the transport socket and the internal listener.
pub fn without_the_module(bootstrap: &Value) -> Value {
    let mut bootstrap = bootstrap.clone();
    let is_module = |typed_config: &Value| {
        typed_config["@type"].as_str().is_some_and(|type_url| type_url.contains("dynamic_modules"))
    };
    let resources = &mut bootstrap["static_resources"];
    for cluster in resources["clusters"].as_array_mut().unwrap() {
        cluster.as_object_mut().unwrap().remove("health_checks");
        if let Some(socket) = cluster.get_mut("transport_socket") {
            socket["typed_config"]["transport_socket"] = json!({
                "name": "envoy.transport_sockets.raw_buffer",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"},
            });
        }
    }
    let listeners = resources["listeners"].as_array_mut().unwrap();
    for listener in &mut *listeners {
        for list in [filters, listener_filters].map(|of| of as fn(&mut Value) -> Option<&mut Vec<Value>>) {
            let Some(list) = list(listener) else { continue };
            list.retain(|filter| !is_module(&filter["typed_config"]));
        }
    }
    listeners.retain_mut(|listener| filters(listener).is_none_or(|filters| !filters.is_empty()));
    bootstrap
}

fn filters(listener: &mut Value) -> Option<&mut Vec<Value>> {
    listener.pointer_mut("/filter_chains/0/filters")?.as_array_mut()
}

fn listener_filters(listener: &mut Value) -> Option<&mut Vec<Value>> {
    listener.get_mut("listener_filters")?.as_array_mut()
}

/// The descriptors of Envoy's messages. They are part of the package `envoy-types`, though not of its interface: the
/// compiler's list of source files, which lies beside this test, says where the package is.
fn descriptors() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| {
        let dependencies = env::current_exe().unwrap().with_file_name("");
        let is_list = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_string_lossy();
            name.starts_with("envoy_types-") && name.ends_with(".d")
        };
        let list = fs::read_dir(dependencies).unwrap().map(|e| e.unwrap().path()).find(is_list).unwrap();
        let list = fs::read_to_string(list).unwrap();
        let source = list.split_whitespace().find(|path| path.ends_with("/src/lib.rs")).unwrap();
        let types = fs::read(Path::new(source).with_file_name("generated").join("types.bin")).unwrap();
        DescriptorPool::decode(types.as_slice()).unwrap()
    })
}
