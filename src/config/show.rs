//! The configuration shown to people: as it is in force, where it came from, and as a JSON Schema.

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::Config;
use super::document::Document;
use super::environment::join_key;
#[cfg(test)]
use super::read::defaults;
use super::read::defaults_of;
use super::values::MASK;

impl Config {
    /// The configuration in force as JSON, secrets masked.
    pub(crate) fn json(&self) -> String {
        pretty(&tree(&self.document))
    }

    /// One line for each key that is not at its default: key, value, where from.
    pub(crate) fn origins(&self) -> Vec<String> {
        let mut lines = Vec::new();
        differences(&tree(&self.document), &defaults_of(self.document.mode), "", &mut |key, value| {
            lines.push(format!("{key} = {value} ({})", self.origin_of(key)));
        });
        lines
    }
}

/// The JSON Schema of the document, as text with a last line break.
pub(crate) fn schema() -> String {
    let schema =
        SchemaSettings::draft2020_12().for_deserialize().into_generator().into_root_schema_for::<Document>();
    let mut schema = schema.to_value();
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("title".into(), "hayate: tracker.json".into());
    }
    pretty(&schema)
}

/// `tracker.json` with every knob at its default.
#[cfg(test)]
pub(crate) fn defaults_json() -> String {
    pretty(&defaults())
}

fn tree(document: &Document) -> Value {
    serde_json::to_value(document).unwrap_or_default()
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

/// Calls `found` with key and value of every leaf that differs.
fn differences(value: &Value, default: &Value, key: &str, found: &mut dyn FnMut(&str, &Value)) {
    match value {
        Value::Object(block) => {
            for (name, value) in block {
                differences(value, default.get(name).unwrap_or(&Value::Null), &join_key(key, name), found);
            }
        }
        _ if value != default => found(key, value),
        _ => {}
    }
}

/// Is the text what stands in place of a secret? Such a value in a file is a mistake made with
/// `print-config`.
pub(super) fn is_mask(text: &[u8]) -> bool {
    text == MASK.as_bytes()
}
