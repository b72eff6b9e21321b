//! Lists of torrents that may or may not be announced: `access` in the configuration, and the registered
//! torrents of mode listed.
//!
//! | module | what is in it |
//! |---|---|
//! | `file` | reading and rewriting the file of a list |

mod file;

use std::collections::{HashMap, HashSet};
use std::hash::RandomState;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use self::file::rewrite_list;
use crate::ids::InfoHash;

/// Changes that are kept beside the list; with more of them the list is copied.
const CHANGES_MAX: usize = 4096;

/// A set of torrents, read from a file with one `info_hash` a line: 40 hexadecimal digits, or 64, of which
/// the first 40 count. Empty lines and what follows `#` or a space are ignored. Its hash is keyed, because
/// clients choose what is looked up. Changes since it was read are kept beside it, so that changing a large
/// list copies little.
#[derive(Clone, Debug, Default)]
pub struct TorrentList {
    base: Arc<HashSet<InfoHash, RandomState>>,
    /// Torrents that were added since the file was read (true), or removed (false).
    changes: HashMap<InfoHash, bool, RandomState>,
    /// Entries of the file that had 64 digits.
    v2_entries: usize,
}

/// Which torrents may be announced.
#[derive(Clone, Debug, Default)]
pub enum Access {
    /// All torrents.
    #[default]
    Off,
    /// Only those on the list.
    Allow(Arc<TorrentList>),
    /// All but those on the list.
    Deny(Arc<TorrentList>),
}

/// The reason for which a list could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The file cannot be opened or read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// A line is neither empty, nor a comment, nor an `info_hash`.
    #[error("{}: line {line}: {text:?} is not one info_hash of 40 hexadecimal digits", path.display())]
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
    /// Reads the file of a list. Beside the list itself this takes a few kilobytes, whatever is in the file.
    ///
    /// # Errors
    /// Fails when the file cannot be read, or a line is not an `info_hash`.
    pub fn read_file(path: &Path) -> Result<Self, ListError> {
        file::read_list(path).map(|(read, long)| Self {
            base: Arc::new(read),
            v2_entries: long,
            ..Self::default()
        })
    }

    /// Returns the number of entries with the 64 digits of an `info_hash` of BitTorrent v2: their first 40
    /// digits count, as clients announce them (BEP 52).
    #[must_use]
    pub fn v2_entries(&self) -> usize {
        self.v2_entries
    }

    /// Returns a list with these torrents on it (`listed`), or without them, and which of them made a
    /// difference.
    #[must_use]
    pub fn with_changes(&self, info_hashes: &[InfoHash], listed: bool) -> (Self, Vec<bool>) {
        let mut list = self.clone();
        let mut change = |info_hash: &InfoHash| {
            if list.contains(info_hash) == listed {
                return false;
            }
            if list.base.contains(info_hash) == listed {
                list.changes.remove(info_hash);
            } else {
                list.changes.insert(*info_hash, listed);
            }
            true
        };
        let changed = info_hashes.iter().map(&mut change).collect();
        if list.changes.len() > CHANGES_MAX {
            list = list.iter().collect();
        }
        (list, changed)
    }

    /// Whether the torrent is on the list.
    #[must_use]
    pub fn contains(&self, info_hash: &InfoHash) -> bool {
        let changed = if self.changes.is_empty() { None } else { self.changes.get(info_hash) };
        changed.copied().unwrap_or_else(|| self.base.contains(info_hash))
    }

    /// Iterates over the torrents on the list, in any order.
    pub fn iter(&self) -> impl Iterator<Item = InfoHash> {
        let added = self.changes.iter().filter(|&(_, &listed)| listed).map(|(info_hash, _)| *info_hash);
        let stays = |info_hash: &InfoHash| self.changes.is_empty() || !self.changes.contains_key(info_hash);
        self.base.iter().copied().filter(move |info_hash| stays(info_hash)).chain(added)
    }

    /// Returns the number of torrents on the list.
    #[must_use]
    pub fn len(&self) -> usize {
        let added = self.changes.values().filter(|&&listed| listed).count();
        self.base.len() + added - (self.changes.len() - added)
    }

    /// Whether no torrent is on the list.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl FromIterator<InfoHash> for TorrentList {
    fn from_iter<I: IntoIterator<Item = InfoHash>>(hashes: I) -> Self {
        Self { base: Arc::new(hashes.into_iter().collect()), ..Self::default() }
    }
}

impl Access {
    /// Whether the torrent may be announced.
    #[must_use]
    pub fn admits(&self, info_hash: &InfoHash) -> bool {
        match self {
            Self::Off => true,
            Self::Allow(list) => list.contains(info_hash),
            Self::Deny(list) => !list.contains(info_hash),
        }
    }

    /// Returns the list, if there is one.
    #[must_use]
    pub fn list(&self) -> Option<&Arc<TorrentList>> {
        match self {
            Self::Off => None,
            Self::Allow(list) | Self::Deny(list) => Some(list),
        }
    }

    /// Returns the same kind of access with another list; [`Access::Off`] stays.
    #[must_use]
    pub fn with_list(&self, list: TorrentList) -> Self {
        match self {
            Self::Off => Self::Off,
            Self::Allow(_) => Self::Allow(Arc::new(list)),
            Self::Deny(_) => Self::Deny(Arc::new(list)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(number: u32) -> InfoHash {
        let mut octets = [7; 20];
        octets[..4].copy_from_slice(&number.to_be_bytes());
        InfoHash(octets)
    }

    fn sorted(list: &TorrentList) -> Vec<InfoHash> {
        let mut all: Vec<_> = list.iter().collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn changes_lie_over_what_was_read() {
        let list: TorrentList = (0..7).map(hash).collect();
        let (more, changed) = list.with_changes(&[hash(3), hash(11), hash(11)], true);
        assert_eq!(changed, [false, true, false]);
        assert!(Arc::ptr_eq(&list.base, &more.base), "nothing large is copied");
        assert!(more.contains(&hash(11)) && !list.contains(&hash(11)));
        let (less, changed) = more.with_changes(&[hash(0), hash(13), hash(11)], false);
        assert_eq!(changed, [true, false, true]);
        assert_eq!((list.len(), more.len(), less.len()), (7, 8, 6));
        assert_eq!(sorted(&less), (1..7).map(hash).collect::<Vec<_>>());
        let (again, changed) = less.with_changes(&[hash(0)], true);
        assert_eq!((changed, again.changes.len()), (vec![true], 0), "back where it was");
    }

    #[test]
    fn many_changes_are_folded_in() {
        let mut list: TorrentList = (0..7).map(hash).collect();
        let count = u32::try_from(3 * CHANGES_MAX).unwrap();
        for number in 7..count {
            list = list.with_changes(&[hash(number)], true).0;
            assert!(list.changes.len() <= CHANGES_MAX);
        }
        assert_eq!(list.len(), 3 * CHANGES_MAX);
        assert!((0..count).all(|number| list.contains(&hash(number))));
    }

    #[test]
    fn random_changes_are_those_of_a_naive_set() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut list: TorrentList = (0..50).map(hash).collect();
        let mut naive: std::collections::BTreeSet<_> = (0..50).map(hash).collect();
        for _ in 0..5000 {
            let (torrent, listed) = (hash(random.u32(..100)), random.bool());
            let (next, changed) = list.with_changes(&[torrent], listed);
            let expected = if listed { naive.insert(torrent) } else { naive.remove(&torrent) };
            assert_eq!(changed, [expected]);
            assert_eq!((next.len(), next.contains(&torrent)), (naive.len(), listed));
            list = next;
        }
        assert_eq!(sorted(&list), naive.into_iter().collect::<Vec<_>>());
    }
}
