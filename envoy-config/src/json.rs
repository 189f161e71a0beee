//! From the bytes that Envoy hands over to a configuration.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::value::redact;
use crate::{ConfigError, MAX_JSON_BYTES, Problem};

/// Parses `json`; no bytes at all mean `{}`, which is what an extension without configuration receives.
pub(crate) fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, ConfigError> {
    if json.len() > MAX_JSON_BYTES {
        return Err(ConfigError::TooLarge { bytes: json.len() });
    }
    let json = if json.trim_ascii().is_empty() { b"{}" } else { json };
    let value: Value = serde_json::from_slice(json)
        .map_err(|error| ConfigError::Syntax { reason: redact(&error.to_string()) })?;
    if !value.is_object() {
        // serde would read a list as the fields in their order.
        return Err(ConfigError::Syntax { reason: "it starts with something else than `{`".to_owned() });
    }
    refuse_inline_keys(&value, "")?;
    serde_path_to_error::deserialize(value).map_err(|error| ConfigError::Field {
        path: redact(&error.path().to_string()),
        reason: redact(&error.inner().to_string()),
    })
}

/// Finds fields in which a person would expect to give a key, to say where it belongs instead of "unknown field".
fn refuse_inline_keys(value: &Value, path: &str) -> Result<(), ConfigError> {
    match value {
        Value::Object(fields) => fields.iter().try_for_each(|(name, value)| {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            match instead_of(name) {
                Some(instead) => Err(ConfigError::rule(redact(&path), Problem::InlineKey { instead })),
                None => refuse_inline_keys(value, &path),
            }
        }),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .try_for_each(|(index, value)| refuse_inline_keys(value, &format!("{path}[{index}]"))),
        _ => Ok(()),
    }
}

fn instead_of(field: &str) -> Option<&'static str> {
    let name: String = field.chars().filter(char::is_ascii_alphanumeric).collect();
    match name.to_ascii_lowercase().as_str() {
        "privatekey" | "secretkey" => Some("private_key_file"),
        "presharedkey" | "psk" => Some("preshared_key_file"),
        _ => None,
    }
}
