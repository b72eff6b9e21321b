//! The walk through all swarms for a snapshot, in slices, so that no announce waits for it: one shard lock at
//! a time, and about a thousand torrents and peers copied under it. Nothing is written to a file meanwhile.
//!
//! Every peer that is in its swarm from the beginning of the walk to its end is copied, some twice.

use std::sync::Arc;

use crate::clock::Tick;
use crate::ids::InfoHash;
use crate::snapshot::entry::{AGE_MAX, ENTRY_PEERS_MAX, PendingEntry};
use crate::swarm::peer::{LastSeen, StoredPeer};
use crate::swarm::torrent::{SwarmForm, Torrent};
use crate::swarm::walk::{SLICE, ShardVisit, SwarmVisitor};
use crate::swarm::{SHARDS, Swarms};

/// One walk through all swarms.
#[derive(Debug)]
pub struct Walk {
    swarms: Arc<Swarms>,
    started: Tick,
    shard: usize,
    in_shard: ShardVisit,
    copied: CopiedPeers,
    /// The times of the block that is written.
    times: BlockTimes,
}

/// What was copied.
#[derive(Debug, Default)]
struct CopiedPeers {
    /// Peers that did not fit into an entry, and the torrent they belong to.
    batch: PendingEntry,
    batch_of: InfoHash,
    peers: u64,
}

/// Ages are relative to `base`, the time at the beginning of the block.
#[derive(Clone, Copy, Debug)]
struct BlockTimes {
    now: Tick,
    base: Tick,
}

/// Copies peers into a block.
struct PeerCopier<'a> {
    times: BlockTimes,
    copied: &'a mut CopiedPeers,
    into: &'a mut Vec<u8>,
}

impl Walk {
    /// Returns a walk that begins at `started`.
    #[must_use]
    pub fn new(swarms: Arc<Swarms>, started: Tick) -> Self {
        Self {
            swarms,
            started,
            shard: 0,
            in_shard: ShardVisit::default(),
            copied: CopiedPeers::default(),
            times: BlockTimes { now: started, base: started },
        }
    }

    /// Appends to the payload of a block, or begins it if it is empty: a few tens of kilobytes, in the worst
    /// case half a megabyte. Returns false at the end of the walk.
    pub fn copy_slice(&mut self, now: Tick, into: &mut Vec<u8>) -> bool {
        self.write_pending(now, into);
        let mut looked = 0;
        while looked < SLICE && self.shard < SHARDS && self.copied.batch.len() == 0 {
            let mut copier = PeerCopier { times: self.times, copied: &mut self.copied, into };
            let (in_shard, hasher) = (&mut self.in_shard, self.swarms.hasher());
            let work = |shard: &mut _| in_shard.visit(shard, SLICE - looked, hasher, &mut copier);
            looked += self.swarms.with_shard(self.shard, work).unwrap_or(0) + 1;
            if self.in_shard.is_done() {
                self.in_shard = ShardVisit::default();
                self.shard += 1;
            }
        }
        self.shard < SHARDS || self.copied.batch.len() > 0
    }

    /// Appends some of what was copied and not written yet, and copies nothing. Returns false when nothing is
    /// left: then everything the walk has visited is in the blocks.
    pub(crate) fn write_pending(&mut self, now: Tick, into: &mut Vec<u8>) -> bool {
        self.times.now = now;
        if into.is_empty() {
            self.times.base = now;
            into.extend_from_slice(&now.0.saturating_sub(self.started.0).to_le_bytes());
        }
        let CopiedPeers { batch, batch_of, .. } = &mut self.copied;
        if batch.len() > 0 {
            // Its completed count went with the first entry.
            batch.write_entry(batch_of, 0, ENTRY_PEERS_MAX, into);
        }
        batch.len() > 0
    }

    /// The number of peers copied so far.
    #[must_use]
    pub fn peers(&self) -> u64 {
        self.copied.peers
    }
}

impl SwarmVisitor for PeerCopier<'_> {
    fn begin(&mut self, torrent: &Torrent) {
        self.copied.batch.with_ids = match &torrent.peers {
            SwarmForm::Small(small) => small.with_ids(),
            SwarmForm::Large(swarm) => swarm.v4.with_ids(),
            SwarmForm::Idle(_) | SwarmForm::Pair(_) | SwarmForm::One(_) => false,
        };
    }

    fn visit_v4(&mut self, peer: &StoredPeer<6>, seeder: bool) {
        let (age, batch) = (self.times.age_seconds(peer.seen), &mut self.copied.batch);
        let id = batch.with_ids.then_some(peer.id);
        batch.v4.for_role(seeder).push(peer.octets, age, peer.seen.paused(), id);
    }

    fn visit_v6(&mut self, peer: &StoredPeer<18>, seeder: bool) {
        let (age, batch) = (self.times.age_seconds(peer.seen), &mut self.copied.batch);
        let id = batch.with_ids.then_some(peer.id);
        batch.v6.for_role(seeder).push(peer.octets, age, peer.seen.paused(), id);
    }

    fn end(&mut self, torrent: &Torrent) -> bool {
        let CopiedPeers { batch, batch_of, peers } = &mut *self.copied;
        *peers += batch.len() as u64;
        if batch.len() > 0 || torrent.completed > 0 {
            batch.write_entry(&torrent.info_hash, torrent.completed, ENTRY_PEERS_MAX, self.into);
            *batch_of = torrent.info_hash;
        }
        batch.len() == 0
    }
}

impl BlockTimes {
    /// The age at the beginning of the block. Computed from `now`, because an age below zero looks like a
    /// very high one.
    fn age_seconds(self, seen: LastSeen) -> u32 {
        seen.age_seconds(self.now).saturating_sub(self.now.0.saturating_sub(self.base.0)).min(AGE_MAX)
    }
}
