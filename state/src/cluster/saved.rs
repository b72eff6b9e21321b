//! What is saved of a cluster in the snapshot, beside the swarms: up to where each stream was read, and since
//! when changes are not published.

use serde::{Deserialize, Serialize};

use super::bus::EntryId;
use super::link::{LinkPosition, SavedLink};
use crate::clock::{Now, Tick};
use crate::cluster::codec::Incarnation;
use crate::snapshot::container::SnapshotError;
use crate::snapshot::load::RestoreTarget;

/// The tag of the block.
pub const TAG_CLUSTER: u8 = 32;

/// What is saved of all links.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedCluster {
    /// The prefix of the streams' keys; under another one nothing of this is of use.
    pub key_prefix: String,
    /// The streams' numbers, and what is saved of their links.
    pub links: Vec<(usize, SavedLink)>,
}

/// The block, as JSON.
#[derive(Serialize, Deserialize)]
struct SavedBlock {
    key_prefix: String,
    links: Vec<SavedBlockLink>,
}

#[derive(Serialize, Deserialize)]
struct SavedBlockLink {
    stream: usize,
    /// Milliseconds and number of the last entry that was read.
    read_to: Option<(u64, u64)>,
    sequences: Vec<(Incarnation, u64)>,
    /// Seconds before the snapshot.
    unpublished_seconds: Option<i64>,
}

impl SavedCluster {
    /// Returns the payload of the block. `now` is the time of the snapshot.
    #[must_use]
    pub fn to_block(&self, now: Tick) -> Vec<u8> {
        let links = self.links.iter().map(|(stream, saved)| {
            let position = saved.position.as_ref();
            SavedBlockLink {
                stream: *stream,
                read_to: position.map(|position| (position.read_to.milliseconds, position.read_to.number)),
                sequences: position.map(|position| position.sequences.clone()).unwrap_or_default(),
                unpublished_seconds: saved.unpublished_since.map(|since| i64::from(now.0) - since),
            }
        });
        let block = SavedBlock { key_prefix: self.key_prefix.clone(), links: links.collect() };
        serde_json::to_vec(&block).unwrap_or_default()
    }

    /// Reads the payload of a block of a snapshot that was begun `before` seconds ago.
    ///
    /// # Errors
    /// Fails when it is damaged.
    pub fn from_block(payload: &[u8], now: Tick, before: i64) -> Result<Self, SnapshotError> {
        let block: SavedBlock = serde_json::from_slice(payload)
            .map_err(|_| SnapshotError::Damaged("the positions of a cluster"))?;
        let links = block.links.into_iter().map(|link| {
            let position = link.read_to.map(|(milliseconds, number)| LinkPosition {
                read_to: EntryId { milliseconds, number },
                sequences: link.sequences,
            });
            let since = |seconds: i64| i64::from(now.0).saturating_sub(before).saturating_sub(seconds);
            let unpublished_since = link.unpublished_seconds.map(since);
            (link.stream, SavedLink { position, unpublished_since })
        });
        Ok(Self { key_prefix: block.key_prefix, links: links.collect() })
    }

    /// Returns what is saved of the link of a stream.
    #[must_use]
    pub fn link(&self, key_prefix: &str, stream: usize) -> SavedLink {
        let of_stream = self.links.iter().find(|(number, _)| *number == stream);
        of_stream
            .filter(|_| self.key_prefix == key_prefix)
            .map(|(_, saved)| saved.clone())
            .unwrap_or_default()
    }
}

/// Restores the positions.
#[derive(Debug, Default)]
pub struct ClusterRestore(pub SavedCluster);

impl RestoreTarget for ClusterRestore {
    fn check_block(&self, tag: u8, payload: &[u8]) -> Result<(), SnapshotError> {
        if tag == TAG_CLUSTER { SavedCluster::from_block(payload, Tick(0), 0).map(drop) } else { Ok(()) }
    }

    fn restore_block(
        &mut self,
        now: Now,
        written_at: i64,
        tag: u8,
        payload: &[u8],
    ) -> Result<(), SnapshotError> {
        if tag == TAG_CLUSTER {
            let before = i64::try_from(now.unix_seconds).unwrap_or(i64::MAX).saturating_sub(written_at);
            self.0 = SavedCluster::from_block(payload, now.tick, before.max(0))?;
        }
        Ok(())
    }

    fn summary(&self) -> String {
        format!("positions in {} streams", self.0.links.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved() -> SavedCluster {
        let position = LinkPosition {
            read_to: EntryId { milliseconds: 1_800_000_000_123, number: 7 },
            sequences: vec![([1; 16], 9), ([2; 16], u64::MAX)],
        };
        let whole = SavedLink { position: Some(position), unpublished_since: Some(900) };
        SavedCluster { key_prefix: "hayate".into(), links: vec![(0, whole), (3, SavedLink::default())] }
    }

    #[test]
    fn what_is_saved_is_restored_and_times_are_those_of_the_new_process() {
        let block = saved().to_block(Tick(1000));
        let restored = SavedCluster::from_block(&block, Tick(5), 60).unwrap();
        assert_eq!(restored.link("hayate", 0).position, saved().link("hayate", 0).position);
        assert_eq!(restored.link("hayate", 0).unpublished_since, Some(5 - 60 - 100));
        assert_eq!(restored.link("hayate", 3), SavedLink::default());
        assert_eq!(restored.link("hayate", 9), SavedLink::default());
        assert_eq!(restored.link("other", 0), SavedLink::default());
    }

    #[test]
    fn a_damaged_block_is_refused() {
        let restore = ClusterRestore::default();
        assert!(restore.check_block(TAG_CLUSTER, b"{\"key_prefix\":\"hayate\"}").is_err());
        assert!(restore.check_block(TAG_CLUSTER + 1, b"something else").is_ok());
    }
}
