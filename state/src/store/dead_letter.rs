//! Dead letters: records that fit no column, one JSON object a line.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::record::{Channel, Record};

/// Mode of the file: readable by its owner only.
const MODE: u32 = 0o600;
/// Maximum size of the file, in octets.
const OCTETS_MAX: u64 = 64 << 20;
/// Shortest time between two log messages about the file.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// A bad record and the message of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BadRecord {
    pub(super) record: Record,
    pub(super) code: i32,
    pub(super) text: String,
}

/// The file, and when it was last mentioned in the log.
#[derive(Debug)]
pub(super) struct DeadLetters {
    path: PathBuf,
    octets_max: u64,
    logged_at: Option<Duration>,
    /// Rows since the last log message: written, and not written.
    unlogged: [u64; 2],
}

impl DeadLetters {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), octets_max: OCTETS_MAX, logged_at: None, unlogged: [0; 2] }
    }

    /// Returns the log message for `rows` further rows, unless it is too soon for another one.
    pub(super) fn log_line(&mut self, uptime: Duration, rows: u64, written: bool) -> Option<String> {
        let [kept, dropped] = &mut self.unlogged;
        *if written { kept } else { dropped } += rows;
        if self.logged_at.is_some_and(|at| uptime.saturating_sub(at) < LOG_INTERVAL) {
            return None;
        }
        self.logged_at = Some(uptime);
        let [kept, dropped] = std::mem::take(&mut self.unlogged);
        let path = self.path.display();
        Some(match dropped {
            0 => format!("{kept} rows that fit no column went to {path}"),
            _ => format!(
                "{dropped} rows that fit no column are lost: {path} is full; fix the cause and move \
                 the file away ({kept} rows went there before)"
            ),
        })
    }

    /// Appends a line for each record; they are on the disk when it returns. Returns false if the file is
    /// full: then nothing was written.
    ///
    /// # Errors
    /// Fails when the disk does not take them.
    pub(super) fn append(
        &self,
        channel: Channel,
        sequence: u64,
        unix_seconds: u64,
        bad: &[BadRecord],
    ) -> io::Result<bool> {
        let mut text = Vec::new();
        for bad_record in bad {
            let mut line = Map::new();
            line.insert("time".into(), json!(unix_seconds));
            line.insert("queue".into(), json!(channel.name()));
            line.insert("sequence".into(), json!(sequence));
            line.extend(json_fields(&bad_record.record)?);
            line.insert("error".into(), json!(bad_record.code));
            line.insert("text".into(), json!(bad_record.text));
            serde_json::to_writer(&mut text, &line)?;
            text.push(b'\n');
        }
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut file = OpenOptions::new().append(true).create(true).mode(MODE).open(&self.path)?;
        if file.metadata()?.len().saturating_add(text.len() as u64) > self.octets_max {
            return Ok(false);
        }
        file.write_all(&text)?;
        file.sync_all()?;
        Ok(true)
    }
}

/// Returns all fields of a record by name.
fn json_fields(record: &Record) -> io::Result<Map<String, Value>> {
    match serde_json::to_value(record)? {
        Value::Object(kind) => {
            Ok(kind.into_iter().find_map(|(_, row)| row.as_object().cloned()).unwrap_or_default())
        }
        _ => Ok(Map::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::record::UserRow;

    #[test]
    fn the_file_is_bounded_and_what_is_not_written_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("letters/dead.jsonl");
        let mut letters = DeadLetters { octets_max: 1000, ..DeadLetters::new(&path) };
        let bad = BadRecord {
            record: Record::User(UserRow { id: 7, ..UserRow::default() }),
            code: 3,
            text: "full".into(),
        };
        let write = |letters: &DeadLetters| {
            letters.append(Channel::Users, 5, 11, std::slice::from_ref(&bad)).unwrap()
        };
        let written = (0..20).filter(|_| write(&letters)).count();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), written);
        assert!(written > 2 && text.len() <= 1000, "{written} letters, {} octets", text.len());
        std::fs::remove_file(&path).unwrap();
        assert!(write(&letters), "there is room again once it was moved away");
        let log_line = |letters: &mut DeadLetters, second, written| {
            letters.log_line(Duration::from_secs(second), 3, written).unwrap_or_default()
        };
        assert!(log_line(&mut letters, 5, true).starts_with("3 rows that fit no column went to "));
        for second in 6..65 {
            assert_eq!(log_line(&mut letters, second, second % 3 == 0), "");
        }
        let text = log_line(&mut letters, 65, false);
        assert!(
            text.starts_with("120 rows") && text.contains("is full") && text.contains("(60 rows"),
            "{text}"
        );
    }
}
