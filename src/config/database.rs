//! The keys of `database` and `channels`: where records are kept, and how they get there.

use std::borrow::Cow;

use hayate_state::store::Dsn;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::bounded::{DurationIn, IntIn, MINUTE};
use super::values::MASK;

/// The beginning of a DSN that is a URL.
const URL: &str = "mysql://";

/// A number of rows that wait in memory.
pub(crate) type Rows = IntIn<1, 1_000_000>;

/// The database: completed counts, registered torrents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Database {
    /// sqlite:PATH (from state_dir), user:password@tcp(host:port)/name, user:password@unix(/path)/name or
    /// mysql://user:password@host:port/name; "" = no database. Changed by a restart only.
    pub(crate) dsn: DataSource,
    /// A file that holds the dsn instead; a line break at its end does not count. Changed by a restart only.
    pub(crate) dsn_file: String,
    /// Longest pause after a deadlock, to 1m.
    pub(crate) deadlock_pause: DurationIn<0, MINUTE>,
    /// Tries before a batch that meets deadlocks is put off.
    pub(crate) deadlock_retries: IntIn<1, 100>,
    /// Folder, from state_dir, of the rows that wait on the disk while the database is unreachable or slow.
    /// Changed by a restart only.
    pub(crate) spill_dir: String,
    /// File, from state_dir, of the rows that the database will never accept. Changed by a restart only.
    pub(crate) dead_letter: String,
}

/// Most rows that wait in memory for the database; further ones wait on the disk. Changed by a restart
/// only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Channels {
    /// Changes to registered torrents.
    pub(crate) torrents: Rows,
    /// Changes to users.
    pub(crate) users: Rows,
    /// Changes to the history of a user and a torrent.
    pub(crate) transfer_history: Rows,
    /// Changes to that history by address and client.
    pub(crate) transfer_ips: Rows,
    /// Times of finished downloads.
    pub(crate) snatches: Rows,
    /// Completed counts of torrents in mode open and listed.
    pub(crate) completed: Rows,
}

impl Default for Database {
    fn default() -> Self {
        Self {
            dsn: DataSource("sqlite:hayate.db".into()),
            dsn_file: String::new(),
            deadlock_pause: DurationIn::seconds(1),
            deadlock_retries: IntIn::new(5),
            spill_dir: "spill".into(),
            dead_letter: "dead-letter.jsonl".into(),
        }
    }
}

impl Default for Channels {
    fn default() -> Self {
        Self {
            torrents: IntIn::new(5000),
            users: IntIn::new(5000),
            transfer_history: IntIn::new(5000),
            transfer_ips: IntIn::new(5000),
            snatches: IntIn::new(25),
            completed: IntIn::new(5000),
        }
    }
}

/// The DSN of a database. It may hold a password, which is never shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct DataSource(String);

impl DataSource {
    /// Returns the DSN, or `None` if there is to be no database.
    pub(crate) fn dsn(&self) -> Option<Dsn> {
        self.0.parse().ok()
    }

    /// Reads the DSN as [`Deserialize`] does, but ignores a line break at the end.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim_end_matches(['\r', '\n']);
        if text.contains(MASK) {
            return Err("holds the mask that print-config shows instead of a password".into());
        }
        if !text.is_empty() {
            text.parse::<Dsn>().map_err(|error| error.to_string())?;
        }
        Ok(Self(text.to_owned()))
    }

    /// Returns the text with masks in place of the password and of the values of unknown parameters.
    fn masked(&self) -> String {
        if self.0.starts_with("sqlite:") {
            return self.0.clone();
        }
        let (scheme, rest) = match self.0.strip_prefix(URL) {
            Some(rest) => (URL, rest),
            None => ("", self.0.as_str()),
        };
        // Where the part with the password ends, as `Dsn` reads it.
        let parts = if scheme.is_empty() { rest.rsplit_once('/') } else { rest.split_once('/') };
        let (login, name) = parts.unwrap_or((rest, ""));
        let name = masked_parameters(name);
        let parts = login.rsplit_once('@').and_then(|(user, server)| Some((user.split_once(':')?, server)));
        match parts {
            // Without a password there is nothing to hide, and what is shown can be read again.
            Some(((user, password), server)) if !password.is_empty() => {
                format!("{scheme}{user}:{MASK}@{server}/{name}")
            }
            _ if self.0.is_empty() => String::new(),
            _ => format!("{scheme}{login}/{name}"),
        }
    }
}

/// Returns what follows the server, with a mask for each unknown parameter.
fn masked_parameters(name: &str) -> String {
    let Some((name, query)) = name.split_once('?') else { return name.to_owned() };
    let shown = query.split('&').map(|part| match part.split_once('=') {
        Some((known, _)) if !Dsn::knows_parameter(known) => format!("{known}={MASK}"),
        _ => part.to_owned(),
    });
    format!("{name}?{}", shown.collect::<Vec<_>>().join("&"))
}

impl std::fmt::Debug for DataSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.masked())
    }
}

impl Serialize for DataSource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.masked())
    }
}

impl<'de> Deserialize<'de> for DataSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Not as a string directly: the error about another type would quote the value.
        let value = serde_json::Value::deserialize(deserializer)?;
        let text =
            value.as_str().ok_or_else(|| D::Error::custom("expected a string (the value is not shown)"))?;
        Self::parse(text).map_err(D::Error::custom)
    }
}

impl JsonSchema for DataSource {
    fn schema_name() -> Cow<'static, str> {
        "DataSource".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::{environment, read, read_as};

    #[test]
    fn no_password_is_shown_and_a_mask_is_no_password() {
        for (dsn, masked) in [
            ("t:s3@:/cret@tcp(h:3306)/x?tls=true", "t:********@tcp(h:3306)/x?tls=true"),
            ("t:s3cret@unix(/run/x.sock)/x", "t:********@unix(/run/x.sock)/x"),
            ("mysql://t:s3cret@h:3306/x?timeout=5s", "mysql://t:********@h:3306/x?timeout=5s"),
            ("t@tcp(h:1)/x?password=s3cret&tls=true", "t@tcp(h:1)/x?password=********&tls=true"),
            ("t:@tcp(h:1)/x?tls=true&pass_word=s3cret", "t:@tcp(h:1)/x?tls=true&pass_word=********"),
            (
                "mysql://t:s3cret@h/x?key=s3cret&key=s3cret",
                "mysql://t:********@h/x?key=********&key=********",
            ),
            ("/x?password=s3cret", "/x?password=********"),
        ] {
            let config = read(&format!(r#"{{"database": {{"dsn": "{dsn}"}}}}"#)).unwrap();
            for text in [config.json(), config.origins().join("\n"), format!("{:?}", config.document)] {
                let hidden = ["s3", "/cret"].iter().all(|part| !text.contains(part));
                assert!(text.contains(masked) && hidden, "{text}");
            }
            let again = format!(r#"{{"database": {{"dsn": "{masked}"}}}}"#);
            assert!(read(&again).unwrap_err().contains("mask"), "{again}");
        }
        for open in ["sqlite:a@b:c/d.db", "t:@tcp(h:1)/x", "t@tcp(h:1)/x?charset=utf8mb4", ""] {
            let config = read(&format!(r#"{{"database": {{"dsn": "{open}"}}}}"#)).unwrap();
            assert_eq!(format!("{:?}", config.document.database.dsn), open);
        }
    }

    #[test]
    fn a_dsn_that_is_none_is_refused_without_being_quoted() {
        for dsn in [r#""tracker:s3cret""#, r#""tracker:s3cret@pigeon(x)/y""#, "7", r#"["s3cret"]"#] {
            let error = read(&format!(r#"{{"database": {{"dsn": {dsn}}}}}"#)).unwrap_err();
            assert!(
                error.starts_with("tracker.json: database.dsn: ") && !error.contains("s3cret"),
                "{error}"
            );
        }
    }

    #[test]
    fn the_variable_of_the_reference_tracker_wins_over_the_file_if_it_is_not_empty() {
        let text = r#"{"database": {"dsn": "sqlite:file.db"}}"#;
        let dsn = |variables: &[(&str, &str)]| {
            read_as("tracker.json", text, variables).unwrap().document.database.dsn.dsn().unwrap().to_string()
        };
        assert_eq!(dsn(&[("DB_DSN", "")]), "sqlite:file.db");
        assert_eq!(dsn(&[("DB_DSN", "sqlite:variable.db")]), "sqlite:variable.db");
        let both = [("DB_DSN", "sqlite:variable.db"), ("HAYATE__DATABASE__DSN", "sqlite:ours.db")];
        assert_eq!(dsn(&both), "sqlite:ours.db");
        assert_eq!(environment(&both).variables().len(), 2);
    }
}
