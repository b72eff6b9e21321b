//! The walk through all swarms for a snapshot, in slices, so that no announce waits for it: one shard lock at
//! a time, and about a thousand torrents and peers copied under it. Nothing is written to a file meanwhile.
//!
//! Every peer that is in its swarm from the beginning of the walk to its end is copied:
//! - In a shard the last torrent comes first, so that the one that fills a hole has been copied already, or
//!   will be.
//! - In a large swarm the peers come in the order of their position (`swarm/buckets.rs`), which
//!   neither announces nor sweeps change.
//! - All other swarms are copied at once.
//!
//! A torrent that fills a hole while the walk is in it is copied again from its first peer on.

use std::sync::Arc;

use crate::announce::Endpoint;
use crate::clock::Tick;
use crate::ids::InfoHash;
use crate::snapshot::entry::{AGE_MAX, ENTRY_PEERS_MAX, PendingEntry, PendingFamily};
use crate::swarm::block::Block;
use crate::swarm::large::{LargeFamily, LargeSwarm};
use crate::swarm::peer::{LastSeen, StoredPeer};
use crate::swarm::peer_set::PeerArray;
use crate::swarm::shard::Shard;
use crate::swarm::torrent::{SwarmForm, Torrent};
use crate::swarm::{SHARDS, Swarms};
use crate::table::keyed_hash::KeyedHash;

/// Torrents and peers that are copied under one lock.
const SLICE: usize = 1024;

/// One walk through all swarms.
#[derive(Debug)]
pub struct Walk {
    swarms: Arc<Swarms>,
    started: Tick,
    shard: usize,
    /// The torrent before which to continue; `None` = the shard has not begun.
    torrent: Option<usize>,
    cursor: CopyCursor,
    /// The torrent whose peers the cursor is in; another torrent may have taken its slot since.
    cursor_torrent: Option<InfoHash>,
    /// Peers that did not fit into an entry, and the torrent they belong to.
    batch: PendingEntry,
    batch_of: InfoHash,
    copier: PeerCopier,
    peers: u64,
}

/// The position of a walk inside a large swarm.
#[derive(Clone, Copy, Debug)]
enum CopyCursor {
    V4(u32),
    /// IPv4 is done.
    V6(u32),
}

impl CopyCursor {
    const START: Self = Self::V4(0);
}

/// Encodes ages relative to `base`, the time at the beginning of the block.
#[derive(Clone, Copy, Debug)]
struct PeerCopier {
    now: Tick,
    base: Tick,
}

impl Walk {
    /// Returns a walk that begins at `started`.
    #[must_use]
    pub fn new(swarms: Arc<Swarms>, started: Tick) -> Self {
        Self {
            swarms,
            started,
            shard: 0,
            torrent: None,
            cursor: CopyCursor::START,
            cursor_torrent: None,
            batch: PendingEntry::default(),
            batch_of: InfoHash::default(),
            copier: PeerCopier { now: started, base: started },
            peers: 0,
        }
    }

    /// Appends to the payload of a block, or begins it if it is empty: a few tens of kilobytes, in the worst
    /// case half a megabyte. Returns false at the end of the walk.
    pub fn copy_slice(&mut self, now: Tick, into: &mut Vec<u8>) -> bool {
        self.write_pending(now, into);
        let mut looked = 0;
        while looked < SLICE && self.shard < SHARDS && self.batch.len() == 0 {
            let (swarms, number) = (Arc::clone(&self.swarms), self.shard);
            let work = |shard: &mut Shard| self.copy_shard(shard, SLICE - looked, swarms.hasher(), into);
            looked += swarms.with_shard(number, work).unwrap_or(0) + 1;
            if self.torrent == Some(0) {
                self.torrent = None;
                self.shard += 1;
            }
        }
        self.shard < SHARDS || self.batch.len() > 0
    }

    /// Appends some of what was copied and not written yet, and copies nothing. Returns false when nothing is
    /// left: then everything the walk has visited is in the blocks.
    pub(crate) fn write_pending(&mut self, now: Tick, into: &mut Vec<u8>) -> bool {
        self.copier.now = now;
        if into.is_empty() {
            self.copier.base = now;
            into.extend_from_slice(&now.0.saturating_sub(self.started.0).to_le_bytes());
        }
        if self.batch.len() > 0 {
            // Its completed count went with the first entry.
            self.batch.write_entry(&self.batch_of, 0, ENTRY_PEERS_MAX, into);
        }
        self.batch.len() > 0
    }

    /// The number of peers copied so far.
    #[must_use]
    pub fn peers(&self) -> u64 {
        self.peers
    }

    fn copy_shard(&mut self, shard: &Shard, most: usize, hasher: &KeyedHash, into: &mut Vec<u8>) -> usize {
        let mut looked = 0;
        let mut slot = self.torrent.unwrap_or(usize::MAX).min(shard.len());
        while looked < most && self.batch.len() == 0 {
            let Some(torrent) = slot.checked_sub(1).and_then(|slot| shard.torrent(slot)) else {
                slot = 0;
                break;
            };
            let known = self.cursor_torrent.take() == Some(torrent.info_hash);
            let at = if known { self.cursor } else { CopyCursor::START };
            let (seen, rest) = self.copier.copy_torrent(torrent, at, most - looked, hasher, &mut self.batch);
            looked += seen + 1;
            self.peers += self.batch.len() as u64;
            if self.batch.len() > 0 || torrent.completed > 0 {
                self.batch.write_entry(&torrent.info_hash, torrent.completed, ENTRY_PEERS_MAX, into);
                self.batch_of = torrent.info_hash;
            }
            match rest {
                Some(at) => (self.cursor, self.cursor_torrent) = (at, Some(torrent.info_hash)),
                None => slot -= 1,
            }
        }
        self.torrent = Some(slot);
        looked
    }
}

impl PeerCopier {
    /// Copies up to `most` peers of a torrent, or a few more. Returns how many it looked at, and where to
    /// continue.
    fn copy_torrent(
        self,
        torrent: &Torrent,
        at: CopyCursor,
        most: usize,
        hasher: &KeyedHash,
        batch: &mut PendingEntry,
    ) -> (usize, Option<CopyCursor>) {
        batch.with_ids = false;
        match &torrent.peers {
            SwarmForm::Idle(_) => (0, None),
            SwarmForm::Pair(pair) => (self.copy_array(pair, false, &mut batch.v4), None),
            SwarmForm::One(one) => (self.copy_array(one, false, &mut batch.v6), None),
            SwarmForm::Small(small) => {
                batch.with_ids = small.with_ids();
                let v4 = self.copy_array(small, batch.with_ids, &mut batch.v4);
                (v4 + self.copy_array(small, batch.with_ids, &mut batch.v6), None)
            }
            SwarmForm::Large(swarm) => self.copy_large(swarm, at, most, hasher, batch),
        }
    }

    /// Copies all peers of one family in a swarm that is not large; returns how many.
    fn copy_array<const LEN: usize>(
        self,
        array: &impl PeerArray<LEN>,
        with_ids: bool,
        pending: &mut PendingFamily<LEN>,
    ) -> usize {
        let peers = (0..array.octets().len()).filter_map(|place| array.peer_at(place));
        for (place, peer) in peers.enumerate() {
            self.copy_peer(&peer, place < array.seeders(), with_ids, pending);
        }
        array.octets().len()
    }

    fn copy_peer<const LEN: usize>(
        self,
        peer: &StoredPeer<LEN>,
        seeder: bool,
        with_ids: bool,
        pending: &mut PendingFamily<LEN>,
    ) {
        let id = with_ids.then_some(peer.id);
        pending.for_role(seeder).push(peer.octets, self.age_seconds(peer.seen), peer.seen.paused(), id);
    }

    fn copy_large(
        self,
        swarm: &LargeSwarm,
        at: CopyCursor,
        most: usize,
        hasher: &KeyedHash,
        batch: &mut PendingEntry,
    ) -> (usize, Option<CopyCursor>) {
        batch.with_ids = swarm.v4.with_ids();
        let with_ids = batch.with_ids;
        let (mut looked, mut v6_at) = (0, Some(0));
        match at {
            CopyCursor::V4(at) => {
                let mut at = Some(at);
                looked = self.copy_family(&swarm.v4, &mut at, most, hasher, with_ids, &mut batch.v4);
                if let Some(at) = at {
                    return (looked, Some(CopyCursor::V4(at)));
                }
            }
            CopyCursor::V6(at) => v6_at = Some(at),
        }
        if let Some(v6) = swarm.v6.as_deref() {
            let most = most.saturating_sub(looked);
            looked += self.copy_family(v6, &mut v6_at, most, hasher, with_ids, &mut batch.v6);
            return (looked, v6_at.map(CopyCursor::V6));
        }
        (looked, None)
    }

    fn copy_family<const LEN: usize>(
        self,
        large: &LargeFamily<LEN>,
        at: &mut Option<u32>,
        most: usize,
        hasher: &KeyedHash,
        with_ids: bool,
        pending: &mut PendingFamily<LEN>,
    ) -> usize
    where
        [u8; LEN]: Endpoint,
    {
        large.walk(at, most, hasher, |block: &Block<LEN>, place, seeder| {
            if let Some(peer) = block.peer_at(place) {
                self.copy_peer(&peer, seeder, with_ids, pending);
            }
        })
    }

    /// The age at the beginning of the block. Computed from `now`, because an age below zero looks like a
    /// very high one.
    fn age_seconds(self, seen: LastSeen) -> u32 {
        seen.age_seconds(self.now).saturating_sub(self.now.0.saturating_sub(self.base.0)).min(AGE_MAX)
    }
}
