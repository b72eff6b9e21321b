//! The walk through all swarms for a snapshot, in slices, so that no announce waits for it: one shard lock at
//! a time, and about a thousand torrents and peers copied under it. Nothing is written to a file meanwhile.
//!
//! Every peer that is in its swarm from the begin of the walk to its end is met:
//! - In a shard the last torrent comes first, so that the one that fills a hole has been met already, or will
//!   be.
//! - In a large swarm the peers come in the order of their [position](crate::swarm::buckets::position), which
//!   neither announces nor sweeps change.
//! - All other swarms are copied at once.
//!
//! A torrent that fills a hole while the walk is in it is met again from its first peer on.

use std::sync::Arc;

use crate::announce::PEER_V4_LEN;
use crate::clock::Tick;
use crate::ids::InfoHash;
use crate::snapshot::entry::{AGE_MAX, Batch, ENTRY_PEERS_MAX, Heaps};
use crate::swarm::block::Block;
use crate::swarm::large::Crowd;
use crate::swarm::peer::{Endpoint, Seen};
use crate::swarm::peer_set;
use crate::swarm::shard::Shard;
use crate::swarm::torrent::{Peers, Swarm, Torrent};
use crate::swarm::{SHARDS, Swarms};
use crate::table::keyed_hash::Keys;

/// Torrents and peers that are copied under one lock.
const SLICE: usize = 1024;

/// A walk through all swarms, once.
#[derive(Debug)]
pub struct Walk {
    swarms: Arc<Swarms>,
    started: Tick,
    shard: usize,
    /// The torrent before which to go on; `None` = the shard has not begun.
    torrent: Option<usize>,
    at: PeerCursor,
    /// Whose peers the cursor is in; another torrent may have taken its slot since.
    at_in: Option<InfoHash>,
    /// What did not fit into an entry, and of which torrent it is.
    batch: Batch,
    batch_of: InfoHash,
    ages: Ages,
    peers: u64,
}

/// Where a walk stands inside a crowd.
#[derive(Clone, Copy, Debug)]
enum PeerCursor {
    V4(u32),
    /// IPv4 is done.
    V6(u32),
}

impl PeerCursor {
    const START: Self = Self::V4(0);
}

/// How ages are told: as of `base`, the time at the begin of the block.
#[derive(Clone, Copy, Debug)]
struct Ages {
    now: Tick,
    base: Tick,
}

impl Walk {
    /// A walk that begins at `started`.
    #[must_use]
    pub fn new(swarms: Arc<Swarms>, started: Tick) -> Self {
        Self {
            swarms,
            started,
            shard: 0,
            torrent: None,
            at: PeerCursor::START,
            at_in: None,
            batch: Batch::default(),
            batch_of: InfoHash::default(),
            ages: Ages { now: started, base: started },
            peers: 0,
        }
    }

    /// Appends the payload of a block, or goes on with it if there is something in it, by a few tens of
    /// kilobytes, in the worst case half a megabyte. False when that was all.
    pub fn slice(&mut self, now: Tick, into: &mut Vec<u8>) -> bool {
        self.rest(now, into);
        let mut looked = 0;
        while looked < SLICE && self.shard < SHARDS && self.batch.len() == 0 {
            let (swarms, number) = (Arc::clone(&self.swarms), self.shard);
            let work = |shard: &mut Shard| self.copy_shard(shard, SLICE - looked, swarms.keys(), into);
            looked += swarms.with_shard(number, work).unwrap_or(0) + 1;
            if self.torrent == Some(0) {
                self.torrent = None;
                self.shard += 1;
            }
        }
        self.shard < SHARDS || self.batch.len() > 0
    }

    /// Appends some of what was copied and not written yet, and copies nothing. False when nothing of it is
    /// left: then all that the walk has seen is in the blocks.
    pub(crate) fn rest(&mut self, now: Tick, into: &mut Vec<u8>) -> bool {
        self.ages.now = now;
        if into.is_empty() {
            self.ages.base = now;
            into.extend_from_slice(&now.0.saturating_sub(self.started.0).to_le_bytes());
        }
        if self.batch.len() > 0 {
            // Its completed count went with the first entry.
            self.batch.write(&self.batch_of, 0, ENTRY_PEERS_MAX, into);
        }
        self.batch.len() > 0
    }

    /// Peers copied so far.
    #[must_use]
    pub fn peers(&self) -> u64 {
        self.peers
    }

    fn copy_shard(&mut self, shard: &Shard, most: usize, keys: &Keys, into: &mut Vec<u8>) -> usize {
        let mut looked = 0;
        let mut slot = self.torrent.unwrap_or(usize::MAX).min(shard.len());
        while looked < most && self.batch.len() == 0 {
            let Some(torrent) = slot.checked_sub(1).and_then(|slot| shard.torrent(slot)) else {
                slot = 0;
                break;
            };
            let known = self.at_in.take() == Some(torrent.info_hash);
            let at = if known { self.at } else { PeerCursor::START };
            let (seen, rest) = self.ages.copy(torrent, at, most - looked, keys, &mut self.batch);
            looked += seen + 1;
            self.peers += self.batch.len() as u64;
            if self.batch.len() > 0 || torrent.completed > 0 {
                self.batch.write(&torrent.info_hash, torrent.completed, ENTRY_PEERS_MAX, into);
                self.batch_of = torrent.info_hash;
            }
            match rest {
                Some(at) => (self.at, self.at_in) = (at, Some(torrent.info_hash)),
                None => slot -= 1,
            }
        }
        self.torrent = Some(slot);
        looked
    }
}

impl Ages {
    /// Copies `most` peers of a torrent, or a few more. Gives how many it looked at, and where to go on.
    fn copy(
        self,
        torrent: &Torrent,
        at: PeerCursor,
        most: usize,
        keys: &Keys,
        batch: &mut Batch,
    ) -> (usize, Option<PeerCursor>) {
        batch.with_ids = false;
        match &torrent.peers {
            Peers::Idle(_) => (0, None),
            Peers::Pair(pair) => (self.row(pair, batch), None),
            Peers::Group(group) => (self.row(group, batch), None),
            Peers::Crowd(swarm) => self.swarm(swarm, at, most, keys, batch),
        }
    }

    fn row(self, row: &impl peer_set::Row<PEER_V4_LEN>, batch: &mut Batch) -> usize {
        for (place, octets) in row.octets().iter().enumerate() {
            let seen = row.seen(place);
            batch.v4.of(place < row.seeders()).push(*octets, self.age_seconds(seen), seen.paused(), None);
        }
        row.octets().len()
    }

    fn swarm(
        self,
        swarm: &Swarm,
        at: PeerCursor,
        most: usize,
        keys: &Keys,
        batch: &mut Batch,
    ) -> (usize, Option<PeerCursor>) {
        batch.with_ids = swarm.v4.with_ids();
        let with_ids = batch.with_ids;
        let (mut looked, mut v6_at) = (0, Some(0));
        match at {
            PeerCursor::V4(at) => {
                let mut at = Some(at);
                looked = self.crowd(&swarm.v4, &mut at, most, keys, with_ids, &mut batch.v4);
                if let Some(at) = at {
                    return (looked, Some(PeerCursor::V4(at)));
                }
            }
            PeerCursor::V6(at) => v6_at = Some(at),
        }
        if let Some(v6) = swarm.v6.as_deref() {
            let most = most.saturating_sub(looked);
            looked += self.crowd(v6, &mut v6_at, most, keys, with_ids, &mut batch.v6);
            return (looked, v6_at.map(PeerCursor::V6));
        }
        (looked, None)
    }

    fn crowd<const LEN: usize>(
        self,
        crowd: &Crowd<LEN>,
        at: &mut Option<u32>,
        most: usize,
        keys: &Keys,
        with_ids: bool,
        heaps: &mut Heaps<LEN>,
    ) -> usize
    where
        [u8; LEN]: Endpoint,
    {
        crowd.walk(at, most, keys, |block: &Block<LEN>, place, seeder| {
            if let Some(peer) = block.member(place) {
                let id = with_ids.then_some(peer.id);
                heaps.of(seeder).push(peer.octets, self.age_seconds(peer.seen), peer.seen.paused(), id);
            }
        })
    }

    /// The age at the begin of the block. From `now` on, because an age that is below zero looks like a very
    /// high one.
    fn age_seconds(self, seen: Seen) -> u32 {
        seen.age_seconds(self.now).saturating_sub(self.now.0.saturating_sub(self.base.0)).min(AGE_MAX)
    }
}
