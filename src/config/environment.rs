//! Overrides from the environment: `HAYATE__UDP__WORKERS=2` stands for the key `udp.workers`.

use std::ffi::OsString;

use serde_json::{Map, Value};

use super::bounded::{parse_duration, parse_size};
use super::{ConfigError, Origin};

/// The beginning of the names of all overrides.
pub(crate) const PREFIX: &str = "HAYATE__";
/// The variable that sites of the reference tracker set; if not empty, it stands for [`DSN_KEY`].
const DSN: &str = "DB_DSN";
const DSN_KEY: &str = "database.dsn";
/// Stands between the words of a key.
const SEPARATOR: &str = "__";

/// The overrides of this process, sorted by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment(Vec<Override>);

/// One override. Its value is never shown: it may be a secret.
#[derive(Clone)]
pub(super) struct Override {
    name: String,
    key: String,
    value: String,
}

impl Environment {
    /// Selects the overrides among all variables.
    ///
    /// # Errors
    /// Fails when the value of an override is not text.
    pub(crate) fn from_variables(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let mut overrides = Vec::new();
        for (name, value) in variables {
            let name = name.to_string_lossy().into_owned();
            let key = match name.strip_prefix(PREFIX) {
                Some(words) => {
                    words.split(SEPARATOR).map(str::to_ascii_lowercase).collect::<Vec<_>>().join(".")
                }
                None if name == DSN && !value.is_empty() => DSN_KEY.to_owned(),
                None => continue,
            };
            let Ok(value) = value.into_string() else {
                return Err(ConfigError::Variable { name, text: "the value is not UTF-8".into() });
            };
            overrides.push(Override { name, key, value });
        }
        overrides.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self(overrides))
    }

    /// The overrides, sorted by name.
    pub(super) fn variables(&self) -> &[Override] {
        &self.0
    }
}

impl std::fmt::Debug for Override {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

impl Override {
    /// Returns the origin of the values of this variable.
    pub(super) fn origin(&self) -> Origin {
        Origin::Variable(self.name.clone())
    }

    /// Whether the variable sets this key, or a block or list around it.
    pub(super) fn covers(&self, key: &str) -> bool {
        let rest = key.strip_prefix(&self.key);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    }

    /// Puts the value into the tree: as JSON if it can be read as JSON, as text otherwise. If the default is
    /// a text that is no quantity, such as a key or a path, a number stays text too.
    pub(super) fn apply_to(&self, tree: &mut Value, defaults: &Value) -> Result<(), ConfigError> {
        let (mut tree, mut defaults, mut path) = (tree, defaults, String::new());
        let mut names = self.key.split('.').peekable();
        while let Some(name) = names.next() {
            let Some(default) = defaults.get(name) else { return Err(self.unknown_key(&path, defaults)) };
            let Value::Object(block) = tree else { return Err(self.unknown_key(&path, defaults)) };
            path = join_key(&path, name);
            if names.peek().is_none() {
                return self.set_value(block, name, default, &path);
            }
            if !default.is_object() {
                return Err(self.unknown_key(&path, default));
            }
            tree = block.entry(name).or_insert_with(|| Value::Object(Map::new()));
            defaults = default;
        }
        Ok(())
    }

    fn set_value(
        &self,
        block: &mut Map<String, Value>,
        name: &str,
        default: &Value,
        key: &str,
    ) -> Result<(), ConfigError> {
        if default.is_object() {
            let text = format!("{key} is a block of keys, set one of them");
            return Err(ConfigError::Variable { name: self.name.clone(), text });
        }
        let text = || Value::String(self.value.clone());
        let value = serde_json::from_str(&self.value).unwrap_or_else(|_| text());
        let quantity = |text: &str| parse_duration(text).is_some() || parse_size(text).is_some();
        let wordy = default.as_str().is_some_and(|default| !quantity(default));
        let value = if wordy && value.is_number() { text() } else { value };
        if value.is_null() {
            block.remove(name);
        } else {
            block.insert(name.to_owned(), value);
        }
        Ok(())
    }

    fn unknown_key(&self, path: &str, known: &Value) -> ConfigError {
        let keys: Vec<_> =
            known.as_object().into_iter().flat_map(Map::keys).map(|name| join_key(path, name)).collect();
        let text = match keys.is_empty() {
            true => format!("there is no key {}, {path} has no keys", self.key),
            false => format!("there is no key {}, expected one of {}", self.key, keys.join(", ")),
        };
        ConfigError::Variable { name: self.name.clone(), text }
    }
}

/// Joins `udp` and `addr` to `udp.addr`.
pub(super) fn join_key(key: &str, name: &str) -> String {
    if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") }
}
