//! Lists of torrents: what may be announced (`access` in the configuration; registered torrents in mode
//! listed).

use std::collections::HashSet;
use std::hash::RandomState;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::ids::InfoHash;

/// A set of torrents, read from a file with one `info_hash` of 40 hexadecimal digits a line. Empty lines and
/// what follows `#` or a space are ignored. Looked up by a keyed hash, because clients choose what is looked
/// up.
#[derive(Debug, Default)]
pub struct TorrentList(HashSet<InfoHash, RandomState>);

/// Which torrents may be announced.
#[derive(Clone, Debug, Default)]
pub enum Access {
    /// All.
    #[default]
    Off,
    /// Only those on the list.
    Allow(Arc<TorrentList>),
    /// All but those on the list.
    Deny(Arc<TorrentList>),
}

/// Why a list could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The file cannot be opened or read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line that is neither empty, a comment, nor an `info_hash`.
    #[error("{}: line {line}: {text:?} is not an info_hash of 40 hexadecimal digits", path.display())]
    BadLine {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// Its first 60 characters.
        text: String,
    },
}

impl TorrentList {
    /// Reads a list file.
    ///
    /// # Errors
    /// When the file cannot be read, or a line is not an `info_hash`.
    pub fn read(path: &Path) -> Result<Self, ListError> {
        let unreadable = |source| ListError::Unreadable { path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(unreadable)?;
        let mut hashes = HashSet::default();
        for (index, line) in std::io::BufReader::new(file).lines().enumerate() {
            let line = line.map_err(unreadable)?;
            let entry = line.split([' ', '\t', '#', '\r']).next().unwrap_or("");
            if entry.is_empty() && (line.trim().is_empty() || line.trim_start().starts_with('#')) {
                continue;
            }
            let hash = entry.parse().map_err(|_| ListError::BadLine {
                path: path.to_owned(),
                line: index + 1,
                text: line.chars().take(60).collect(),
            })?;
            hashes.insert(hash);
        }
        Ok(Self(hashes))
    }

    /// Is the torrent on the list?
    #[must_use]
    pub fn has(&self, info_hash: &InfoHash) -> bool {
        self.0.contains(info_hash)
    }

    /// Torrents on the list.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if no torrent is on the list.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<InfoHash> for TorrentList {
    fn from_iter<I: IntoIterator<Item = InfoHash>>(hashes: I) -> Self {
        Self(hashes.into_iter().collect())
    }
}

impl Access {
    /// May the torrent be announced?
    #[must_use]
    pub fn admits(&self, info_hash: &InfoHash) -> bool {
        match self {
            Self::Off => true,
            Self::Allow(list) => list.has(info_hash),
            Self::Deny(list) => !list.has(info_hash),
        }
    }
}
