//! What a JSON schema says about the scalars whose values [`RuleOptions`](crate::rules::RuleOptions) checks.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::{borrow::Cow, fs, path::Path};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema, schema_for};

use super::Document;
use crate::rules::WEIGHTS;

pub(super) struct Port;
pub(super) struct Weight;
pub(super) struct Time;

macro_rules! inline {
    ($name:ident, $schema:expr) => {
        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    };
}

inline!(Port, json_schema!({ "type": "integer", "minimum": 1, "maximum": u16::MAX }));
inline!(Weight, json_schema!({ "type": "integer", "minimum": WEIGHTS.start(), "maximum": WEIGHTS.end() }));
// At most an hour; a bare number counts seconds.
inline!(
    Time,
    json_schema!({ "type": ["string", "integer"], "pattern": "^[0-9]+(ms|s|m)?$", "minimum": 1, "maximum": 3600 })
);

/// After a change that is meant, run with `UPDATE_SCHEMA=1` and read the difference.
#[test]
fn the_schema_in_the_repository_is_that_of_the_types() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("rules.schema.json");
    let schema = format!("{:#}\n", schema_for!(Document).to_value());
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        fs::write(&path, &schema).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(committed, schema, "see above how to update {}", path.display());
}
