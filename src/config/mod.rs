//! The configuration: one document, `tracker.json`, and what follows from it.
//!
//! | module | what is in it |
//! |---|---|
//! | [`document`], [`servers`], [`database`], [`cluster`] | every setting with its default, range and unit |
//! | [`bounded`], [`values`], [`address`], `budget` | the kinds of values, which carry their ranges |
//! | [`redis_url`] | the addresses of Redis |
//! | [`read`], [`environment`] | file and variables to document |
//! | [`check`] | what must hold between settings; warnings about unwise ones |
//! | [`settings`] | document to the settings of the crates; reads the files that the document names |
//! | [`cluster_settings`] | the same for `cluster`, with its checks and warnings |
//! | [`remembered_files`] | the files that it names, as they were when they could last be read |
//! | [`show`] | the effective configuration and where it came from; the JSON Schema |
//!
//! Nothing here opens a socket or changes a file.

pub(crate) mod address;
pub(crate) mod bounded;
mod budget;
mod check;
pub(crate) mod cluster;
pub(crate) mod cluster_settings;
#[cfg(test)]
mod cluster_tests;
pub(crate) mod database;
pub(crate) mod document;
pub(crate) mod environment;
#[cfg(test)]
mod mistakes;
mod read;
pub(crate) mod redis_url;
mod remembered_files;
pub(crate) mod servers;
pub(crate) mod settings;
pub(crate) mod show;
#[cfg(test)]
pub(crate) mod test_folder;
#[cfg(test)]
mod tests;
mod values;

use std::fmt;
use std::path::{Path, PathBuf};

use hayate_state::admission::hooks::jwk::KeyringSource;
use serde_json::Value;

pub(crate) use document::Document;
pub(crate) use environment::Environment;
pub(crate) use read::{parse_json, read_text};
pub(crate) use remembered_files::RememberedFiles;
pub(crate) use settings::Settings;

/// The file that is read if the command line names none.
pub(crate) const DEFAULT_FILE: &str = "tracker.json";
/// What the error of a start or a command begins with if its configuration is not accepted.
pub(crate) const NOT_READ: &str = "failed to read config";

/// Why a configuration is not accepted. Each text names the file or variable, the key, the value and what is
/// allowed, as far as they are known; never a secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("{}: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{}: {text}", path.display())]
    Syntax { path: PathBuf, text: String },
    #[error(
        "{origin}: key `chihaya`: this is a configuration of chihaya; convert it with `hayate import-config`"
    )]
    Chihaya { origin: Origin },
    #[error("{origin}: {}{text}", colon(key))]
    Value { origin: Origin, key: String, text: String },
    #[error("{name}: {text}")]
    Variable { name: String, text: String },
    #[error("--config {path:?}: the variable {name} is not set")]
    Unset { path: String, name: String },
}

fn colon(key: &str) -> String {
    if key.is_empty() { String::new() } else { format!("{key}: ") }
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The built-in defaults.
    Defaults,
    /// The configuration file.
    File(PathBuf),
    /// An environment variable, by its name.
    Variable(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Defaults => f.write_str("defaults"),
            Self::File(path) => path.display().fmt(f),
            Self::Variable(name) => f.write_str(name),
        }
    }
}

/// Where the configuration is read from, each time it is read.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    named: Option<PathBuf>,
    environment: Environment,
    remembered: RememberedFiles,
}

impl Source {
    /// The file that the command line names, its variables expanded; otherwise [`DEFAULT_FILE`], if it
    /// exists.
    ///
    /// # Errors
    /// Fails when the name holds a variable that is not set.
    pub(crate) fn new(named: Option<&str>, environment: Environment) -> Result<Self, ConfigError> {
        let named = named.map(|path| expand(path, |name| std::env::var(name).ok())).transpose()?;
        Ok(Self { named: named.map(PathBuf::from), environment, remembered: RememberedFiles::default() })
    }

    /// Reads the configuration as it is now and checks it, except for the files that it names.
    ///
    /// # Errors
    /// Fails when it cannot be read or is not accepted.
    pub(crate) fn read_config(&self) -> Result<Config, ConfigError> {
        let found = Path::new(DEFAULT_FILE).exists().then(|| PathBuf::from(DEFAULT_FILE));
        self.remembering(Config::read_file(self.named.clone().or(found).as_deref(), &self.environment))
    }

    /// Reads the configuration again for a daemon that runs with `running`. The file that it came from must
    /// still exist: the built-in defaults never take its place.
    ///
    /// # Errors
    /// Fails when it cannot be read or is not accepted.
    pub(crate) fn reread_config(&self, running: &Config) -> Result<Config, ConfigError> {
        match &running.origin {
            Origin::File(path) => self.remembering(Config::read_file(Some(path), &self.environment)),
            Origin::Defaults | Origin::Variable(_) => self.read_config(),
        }
    }

    /// Reads the configuration and everything that it names.
    ///
    /// # Errors
    /// Fails when anything cannot be read or is not accepted.
    pub(crate) fn read_settings(
        &self,
        keyrings: &dyn KeyringSource,
    ) -> Result<(Config, Settings), ConfigError> {
        let config = self.read_config()?;
        let settings = config.read_settings(keyrings)?;
        Ok((config, settings))
    }

    /// Lets the configuration remember the contents of files from one reading to the next.
    fn remembering(&self, config: Result<Config, ConfigError>) -> Result<Config, ConfigError> {
        config.map(|config| Config { remembered: self.remembered.clone(), ..config })
    }
}

/// A configuration that was read and checked.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Every key with its value.
    pub(crate) document: Document,
    /// Warnings about what is legal but unwise.
    pub(crate) warnings: Vec<String>,
    /// The folder at which relative paths start.
    folder: PathBuf,
    origin: Origin,
    environment: Environment,
    remembered: RememberedFiles,
}

impl Config {
    /// Returns the files that it names, as they were when they could last be read.
    pub(crate) fn remembered(&self) -> &RememberedFiles {
        &self.remembered
    }

    /// Reads everything that the configuration names. The warnings about the configuration itself come first.
    ///
    /// # Errors
    /// Fails when a file or a name that the configuration needs is missing or not accepted.
    pub(crate) fn read_settings(&self, keyrings: &dyn KeyringSource) -> Result<Settings, ConfigError> {
        let mut settings = Settings::from_config(self, keyrings)?;
        settings.warnings.splice(0..0, self.warnings.iter().cloned());
        Ok(settings)
    }

    /// Reads the file at `path`, or none, lays the environment over it, and checks everything.
    fn read_file(path: Option<&Path>, environment: &Environment) -> Result<Self, ConfigError> {
        let document = read::read_document(path, environment)?;
        let mut config = Self {
            document,
            warnings: Vec::new(),
            folder: path.and_then(Path::parent).unwrap_or(Path::new("")).to_owned(),
            origin: read::origin_of(path),
            environment: environment.clone(),
            remembered: RememberedFiles::default(),
        };
        config.warnings = check::check_config(&config)?;
        if path.is_none() {
            config
                .warnings
                .push(format!("no file {DEFAULT_FILE} here and no --config: the built-in defaults are used"));
        }
        Ok(config)
    }

    /// Checks what is to become a configuration file, as if it had been read from `path`.
    ///
    /// # Errors
    /// Fails when it is not accepted.
    pub(crate) fn from_tree(path: &Path, tree: Value) -> Result<Self, ConfigError> {
        let (origin, environment) = (Origin::File(path.to_owned()), Environment::default());
        let document = read::parse_document(tree, origin.clone(), &environment)?;
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let mut config = Self {
            document,
            warnings: Vec::new(),
            folder,
            origin,
            environment,
            remembered: RememberedFiles::default(),
        };
        config.warnings = check::check_config(&config)?;
        Ok(config)
    }

    /// Returns the same configuration with another document, checked again.
    ///
    /// # Errors
    /// Fails when the document is not accepted.
    pub(crate) fn with_document(&self, document: Document) -> Result<Self, ConfigError> {
        let config = Self { document, ..self.clone() };
        check::check_config(&config)?;
        Ok(config)
    }

    /// Resolves a path of the document, relative to the folder of its file.
    pub(crate) fn resolve_path(&self, text: &str) -> PathBuf {
        self.folder.join(text)
    }

    /// Returns where the value of a key comes from, if it is not the default.
    fn origin_of(&self, key: &str) -> Origin {
        let variable = self.environment.variables().iter().find(|variable| variable.covers(key));
        variable.map_or_else(|| self.origin.clone(), environment::Override::origin)
    }

    /// Returns an error about the value of a key.
    fn value_error(&self, key: &str, text: impl Into<String>) -> ConfigError {
        ConfigError::Value { origin: self.origin_of(key), key: key.into(), text: text.into() }
    }
}

/// Replaces `$NAME` and `${NAME}` by values; any other `$` stays.
fn expand(path: &str, value: impl Fn(&str) -> Option<String>) -> Result<String, ConfigError> {
    let mut expanded = String::new();
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        let braced = after.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        let (name, tail) = braced.unwrap_or_else(|| {
            let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
            after.split_at(end)
        });
        if name.is_empty() {
            expanded.push('$');
        } else {
            let unset = || ConfigError::Unset { path: path.to_owned(), name: name.to_owned() };
            expanded.push_str(&value(name).ok_or_else(unset)?);
        }
        rest = tail;
    }
    Ok(expanded + rest)
}
