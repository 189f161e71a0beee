//! Configurations of the dynamic module's extensions.

use envoy_types::pb::{
    envoy::extensions::{
        dynamic_modules::v3::DynamicModuleConfig,
        filters::{
            network::dynamic_modules::v3::DynamicModuleNetworkFilter,
            udp::dynamic_modules::v3::DynamicModuleUdpListenerFilter,
        },
        health_checkers::dynamic_modules::v3::DynamicModuleHealthCheck,
        transport_sockets::dynamic_modules::v3::DynamicModuleTransportSocket,
    },
    google::protobuf::{Any, Struct},
};
use prost::{
    Name as _,
    encoding::{WireType, encode_key, encode_varint},
};
use serde::Serialize;
use serde_json::{Map, Value};

/// A network filter of the module. A terminal one must be the last of its chain.
pub(super) fn network_filter(
    name: &str,
    config: &impl Serialize,
    terminal: bool,
) -> DynamicModuleNetworkFilter {
    DynamicModuleNetworkFilter {
        dynamic_module_config: Some(module()),
        filter_name: name.to_owned(),
        filter_config: Some(as_struct(config)),
        terminal_filter: terminal,
    }
}

/// A UDP listener filter of the module.
pub(super) fn udp_listener_filter(name: &str, config: &impl Serialize) -> DynamicModuleUdpListenerFilter {
    DynamicModuleUdpListenerFilter {
        dynamic_module_config: Some(module()),
        filter_name: name.to_owned(),
        filter_config: Some(as_struct(config)),
    }
}

/// A transport socket of the module.
pub(super) fn transport_socket(name: &str, config: &impl Serialize) -> DynamicModuleTransportSocket {
    DynamicModuleTransportSocket {
        dynamic_module_config: Some(module()),
        transport_socket_name: name.to_owned(),
        transport_socket_config: Some(as_struct(config)),
        ..Default::default()
    }
}

/// A health checker of the module.
pub(super) fn health_checker(name: &str, config: &impl Serialize) -> DynamicModuleHealthCheck {
    DynamicModuleHealthCheck {
        dynamic_module_config: Some(module()),
        health_checker_name: name.to_owned(),
        health_checker_config: Some(as_struct(config)),
    }
}

fn module() -> DynamicModuleConfig {
    DynamicModuleConfig {
        name: "nexodus".to_owned(),
        // The module has threads of its own: code that they run must stay mapped.
        do_not_close: true,
        ..Default::default()
    }
}

/// A configuration as `google.protobuf.Struct`, which Envoy hands to the module as JSON.
///
/// Written by hand because the generated type keeps its fields in a hash map: their order, and so the resource's
/// version, would change from one translation to the next.
fn as_struct(config: &impl Serialize) -> Any {
    let fields = match serde_json::to_value(config) {
        Ok(Value::Object(fields)) => fields,
        // The configurations are structs of strings, numbers and lists: nothing in them can fail to serialize.
        _ => Map::new(),
    };
    Any { type_url: Struct::type_url(), value: struct_message(&fields) }
}

fn struct_message(fields: &Map<String, Value>) -> Vec<u8> {
    let mut message = Vec::new();
    for (key, value) in fields {
        let mut entry = Vec::new();
        length_delimited(1, key.as_bytes(), &mut entry);
        length_delimited(2, &value_message(value), &mut entry);
        length_delimited(1, &entry, &mut message);
    }
    message
}

fn value_message(value: &Value) -> Vec<u8> {
    let mut message = Vec::new();
    match value {
        Value::Null => varint(1, 0, &mut message),
        Value::Number(number) => {
            encode_key(2, WireType::SixtyFourBit, &mut message);
            message.extend(number.as_f64().unwrap_or_default().to_le_bytes());
        }
        Value::String(text) => length_delimited(3, text.as_bytes(), &mut message),
        Value::Bool(flag) => varint(4, u64::from(*flag), &mut message),
        Value::Object(fields) => length_delimited(5, &struct_message(fields), &mut message),
        Value::Array(values) => {
            let mut list = Vec::new();
            for value in values {
                length_delimited(1, &value_message(value), &mut list);
            }
            length_delimited(6, &list, &mut message);
        }
    }
    message
}

fn varint(field: u32, value: u64, message: &mut Vec<u8>) {
    encode_key(field, WireType::Varint, message);
    encode_varint(value, message);
}

fn length_delimited(field: u32, bytes: &[u8], message: &mut Vec<u8>) {
    encode_key(field, WireType::LengthDelimited, message);
    encode_varint(bytes.len() as u64, message);
    message.extend_from_slice(bytes);
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests {
    use envoy_types::pb::google::protobuf::{self, value::Kind};
    use prost::Message as _;
    use serde_json::json;

    use super::*;

    fn back(value: &protobuf::Value) -> Value {
        match value.kind.as_ref().unwrap() {
            Kind::NullValue(_) => Value::Null,
            Kind::NumberValue(number) => json!(number),
            Kind::StringValue(text) => json!(text),
            Kind::BoolValue(flag) => json!(flag),
            Kind::StructValue(fields) => fields.fields.iter().map(|(k, v)| (k.clone(), back(v))).collect(),
            Kind::ListValue(list) => list.values.iter().map(back).collect(),
        }
    }

    #[test]
    fn a_struct_decodes_as_the_json_that_was_encoded() {
        let config = json!({
            "text": "overlay", "empty": "", "port": 443.0, "zero": 0.0, "yes": true, "no": false, "nothing": null,
            "list": [1.0, "two", [], {}], "nested": {"b": {"c": [false]}, "a": 1420.0},
        });
        let any = as_struct(&config);
        assert_eq!(any.type_url, "type.googleapis.com/google.protobuf.Struct");
        let decoded = Struct::decode(any.value.as_slice()).unwrap();
        assert_eq!(back(&protobuf::Value { kind: Some(Kind::StructValue(decoded)) }), config);
        assert_eq!(as_struct(&config), any);
    }

    #[test]
    fn nothing_is_an_empty_struct() {
        assert_eq!(as_struct(&json!({})).value, Vec::<u8>::new());
    }
}
