//! The quarantine: records that no column can hold, one JSON object a line.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::record::{Channel, Record};

/// Who may read it: its owner.
const MODE: u32 = 0o600;

/// A bad record and what the store said about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BadRecord {
    pub(super) record: Record,
    pub(super) code: i32,
    pub(super) text: String,
}

/// The file.
#[derive(Debug)]
pub(super) struct DeadLetters(PathBuf);

impl DeadLetters {
    pub(super) fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Adds a line for each record; they are on the disk when it returns.
    ///
    /// # Errors
    /// When the disk does not take them.
    pub(super) fn write(
        &self,
        channel: Channel,
        sequence: u64,
        unix_seconds: u64,
        bad: &[BadRecord],
    ) -> io::Result<()> {
        let mut text = Vec::new();
        for letter in bad {
            let mut line = Map::new();
            line.insert("time".into(), json!(unix_seconds));
            line.insert("queue".into(), json!(channel.name()));
            line.insert("sequence".into(), json!(sequence));
            line.extend(fields(&letter.record)?);
            line.insert("error".into(), json!(letter.code));
            line.insert("text".into(), json!(letter.text));
            serde_json::to_writer(&mut text, &line)?;
            text.push(b'\n');
        }
        if let Some(folder) = self.0.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut file = OpenOptions::new().append(true).create(true).mode(MODE).open(&self.0)?;
        file.write_all(&text)?;
        file.sync_all()
    }
}

/// All fields of a record by name.
fn fields(record: &Record) -> io::Result<Map<String, Value>> {
    match serde_json::to_value(record)? {
        Value::Object(kind) => {
            Ok(kind.into_iter().find_map(|(_, row)| row.as_object().cloned()).unwrap_or_default())
        }
        _ => Ok(Map::new()),
    }
}
