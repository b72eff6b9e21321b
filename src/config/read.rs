//! From a file and the environment to a [`Document`]: JSON, or YAML with the same keys, then the variables
//! `HAYATE__...`, then types and ranges.

use std::io;
use std::path::Path;

use hayate_state::text;

use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::document::{Document, Mode, private_defaults};
use super::environment::{Environment, Override, join_key};
use super::{ConfigError, Origin};

/// Longest configuration file that is read, in octets.
const FILE_MAX: u64 = 16 * 1024 * 1024;

/// Reads the file, if there is one, lays the environment over it, and checks every key, type and range.
pub(super) fn read_document(path: Option<&Path>, environment: &Environment) -> Result<Document, ConfigError> {
    let tree = match path {
        Some(path) => read_file(path)?,
        None => Value::Object(Map::new()),
    };
    parse_document(tree, origin_of(path), environment)
}

/// Lays the environment over a tree that was read already, and checks every key, type and range.
pub(super) fn parse_document(
    mut tree: Value,
    origin: Origin,
    environment: &Environment,
) -> Result<Document, ConfigError> {
    let defaults = defaults();
    if tree.get("chihaya").is_some() {
        return Err(ConfigError::Chihaya { origin });
    }
    drop_nulls(&mut tree, &defaults, "", &origin)?;
    for variable in environment.variables() {
        variable.apply_to(&mut tree, &defaults)?;
    }
    if tree.get("mode").and_then(Value::as_str) == Some("private") {
        fill_defaults(&mut tree, private_defaults());
        // A file that holds the DSN replaces the default one.
        if tree.pointer("/database/dsn_file").is_some_and(|file| file != "")
            && let Some(Value::Object(database)) = tree.get_mut("database")
            && database.get("dsn") == private_defaults().pointer("/database/dsn")
        {
            database.remove("dsn");
        }
    }
    serde_path_to_error::deserialize(tree).map_err(|error| value_error(&error, origin, environment))
}

/// Inserts defaults for keys that the tree does not have.
fn fill_defaults(tree: &mut Value, defaults: Value) {
    let (Value::Object(tree), Value::Object(defaults)) = (tree, defaults) else { return };
    for (name, default) in defaults {
        match tree.get_mut(&name) {
            Some(value) => fill_defaults(value, default),
            None => _ = tree.insert(name, default),
        }
    }
}

/// Returns the tree of all keys with the defaults of this mode.
pub(super) fn defaults_of(mode: Mode) -> Value {
    let mut tree = defaults();
    if mode == Mode::Private {
        let mut private = private_defaults();
        fill_defaults(&mut private, tree);
        tree = private;
    }
    tree
}

/// Returns the tree of all keys with their defaults.
pub(super) fn defaults() -> Value {
    serde_json::to_value(Document::default()).unwrap_or_default()
}

/// Returns where values come from that no variable sets.
pub(super) fn origin_of(path: Option<&Path>) -> Origin {
    path.map_or(Origin::Defaults, |path| Origin::File(path.to_owned()))
}

fn read_file(path: &Path) -> Result<Value, ConfigError> {
    let text = read_text(path)?;
    let syntax = |text: String| ConfigError::Syntax { path: path.to_owned(), text };
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
    let value: Value = match extension.as_str() {
        "yaml" | "yml" => parse_yaml(&text).map_err(syntax)?,
        _ => parse_json(&text).map_err(syntax)?,
    };
    Ok(if value.is_null() { Value::Object(Map::new()) } else { value })
}

/// Reads JSON in which no key occurs twice.
pub(crate) fn parse_json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map(|Tree(value)| value).map_err(|error| error.to_string())
}

/// Reads a text of at most [`FILE_MAX`] octets, without its byte order mark.
///
/// # Errors
/// Fails when it does not exist, is not a regular file, is longer, or is not text.
pub(crate) fn read_text(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let octets = text::read_file(path, FILE_MAX).map_err(unreadable)?;
    let text = str::from_utf8(text::without_bom(&octets)).map_err(io::Error::other).map_err(unreadable)?;
    Ok(text.to_owned())
}

/// A JSON value in which no key occurs twice: nobody would know which of them was meant.
struct Tree(Value);

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor).map(Self)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Tree(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut block = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if block.contains_key(&key) {
                return Err(A::Error::custom(format_args!("the key `{key}` occurs twice")));
            }
            let Tree(value) = map.next_value()?;
            block.insert(key, value);
        }
        Ok(block.into())
    }
}

/// Reads YAML. Errors come without the text around them, which could hold a secret.
fn parse_yaml(text: &str) -> Result<Value, String> {
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    let options = serde_saphyr::options! { with_snippet: false, strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| error.to_string())
}

/// Removes nulls, which mean the default, and checks that there is a block where a block belongs.
fn drop_nulls(tree: &mut Value, defaults: &Value, key: &str, origin: &Origin) -> Result<(), ConfigError> {
    let Value::Object(defaults) = defaults else { return Ok(()) };
    let Value::Object(tree) = tree else {
        return Err(ConfigError::Value {
            origin: origin.clone(),
            key: key.into(),
            text: format!("invalid type: {}, expected a block of keys", value_kind(tree)),
        });
    };
    tree.retain(|_, value| !value.is_null());
    for (name, value) in tree {
        let Some(default) = defaults.get(name) else { continue };
        drop_nulls(value, default, &join_key(key, name), origin)?;
    }
    Ok(())
}

fn value_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "list",
        Value::Object(_) => "block",
    }
}

/// Returns an error that names the key, and the variable if the value came from one.
fn value_error(
    error: &serde_path_to_error::Error<serde_json::Error>,
    origin: Origin,
    environment: &Environment,
) -> ConfigError {
    let key = match error.path().to_string() {
        root if root == "." => String::new(),
        key => key,
    };
    let variable = environment.variables().iter().find(|variable| variable.covers(&key));
    let origin = variable.map_or(origin, Override::origin);
    ConfigError::Value { origin, key, text: error.inner().to_string() }
}
