//! [`SwarmReplica`]: the shards of one stream.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::admission::Policy;
use crate::announce::{Endpoint, WirePeer};
use crate::clock::Tick;
use crate::cluster::apply::{FoundPeer, RecordContext, RecordOutcome};
use crate::cluster::outbox::unpack_all;
use crate::cluster::record::{PeerKey, PeerRecord, Presence};
use crate::cluster::replica::{Applied, OwnRecord, ReceivedRecord, Replica, WalkOf};
use crate::ids::InfoHash;
use crate::lock_cost;
use crate::published::Subscriber;
use crate::store::Queues;
use crate::swarm::block::Block;
use crate::swarm::large::LargeFamily;
use crate::swarm::peer_set::PeerArray;
use crate::swarm::shard::Shard;
use crate::swarm::torrent::{SwarmForm, Torrent};
use crate::swarm::{SHARDS, Swarms};
use crate::table::keyed_hash::KeyedHash;
use crate::table::sharded::PREFETCH_MAX;

/// Octets that the buffer of an outbox keeps after an outage.
const SPARE_MAX: usize = 4096;
/// Torrents and peers that a walk looks at under one lock.
const SLICE: usize = 1024;

/// The swarms as the link of one stream sees them: those of every `streams`-th shard.
#[derive(Debug)]
pub struct SwarmReplica {
    swarms: Arc<Swarms>,
    policy: Subscriber<Policy>,
    stream: usize,
    streams: usize,
    is_replay: bool,
    /// An empty buffer, which takes the place of the next shard's outbox.
    spare: Vec<u8>,
    /// The peers in a shard's outbox.
    waiting: HashSet<PeerKey>,
    /// By how much the counts of finished downloads have risen.
    rises: Vec<(InfoHash, u32)>,
    /// Queues to a store that no other node writes to.
    queues: Option<Arc<Queues>>,
}

impl SwarmReplica {
    /// Makes the replica of one stream out of `streams`, a power of two.
    #[must_use]
    pub fn new(swarms: Arc<Swarms>, policy: Subscriber<Policy>, stream: usize, streams: usize) -> Self {
        Self {
            swarms,
            policy,
            stream,
            streams: streams.max(1),
            is_replay: false,
            spare: Vec::new(),
            waiting: HashSet::new(),
            rises: Vec::new(),
            queues: None,
        }
    }

    /// Sets whether history is replayed: then a finished download raises no count by itself, because the
    /// count here may include it.
    pub fn set_replay(&mut self, is_replay: bool) {
        self.is_replay = is_replay;
    }

    /// Puts finished downloads of other nodes into `queues`, for a store that only this node writes to.
    #[must_use]
    pub fn with_queues(self, queues: Arc<Queues>) -> Self {
        Self { queues: Some(queues), ..self }
    }

    /// Applies records of one shard under its lock.
    fn apply_to_shard(
        &mut self,
        now: Tick,
        shard: usize,
        records: &[&ReceivedRecord],
        own: &dyn Fn(&PeerKey) -> Option<OwnRecord>,
        take: &mut impl FnMut(&ReceivedRecord, RecordOutcome),
    ) {
        let Self { swarms, policy, waiting, rises, is_replay, .. } = self;
        let (policy, hasher) = (policy.get(), swarms.hasher());
        let (may_grow, may_create) = (swarms.may_grow(policy), swarms.may_create(policy));
        swarms.with_shard(shard, |shard| {
            waiting.clear();
            if !shard.outbox.is_empty() {
                waiting.extend(shard.outbox.keys());
            }
            for &received in records {
                lock_cost::peers_visited(1);
                let record = &received.record;
                let context = RecordContext {
                    now,
                    policy,
                    hasher,
                    received,
                    may_grow,
                    missing_since: shard.outbox.since(),
                };
                let is_behind = waiting.contains(&record.key)
                    || own(&record.key).is_some_and(|own| received.is_behind(&own));
                let work = |torrent: &mut Torrent| {
                    let rise = torrent.raise_completed(record, *is_replay);
                    let outcome =
                        if is_behind { RecordOutcome::InFlight } else { torrent.apply_record(&context) };
                    (outcome, rise)
                };
                let hash = hasher.info_hash(&record.key.info_hash);
                let counts = record.completed.is_some()
                    || matches!(record.presence, Presence::Present { finished: true, .. } if !*is_replay);
                let adds = record.presence != Presence::Gone && !is_behind && !context.is_expired();
                let slot = match shard.find_slot(hash, &record.key.info_hash) {
                    None if may_create && (adds || counts) => {
                        Some(shard.add_torrent(hash, record.key.info_hash, hasher))
                    }
                    found => found,
                };
                let done = slot.and_then(|slot| {
                    let done = shard.update_torrent(slot, work);
                    shard.drop_if_empty(slot, hash, now, policy, hasher);
                    done
                });
                let without =
                    if is_behind { RecordOutcome::InFlight } else { context.outcome_without_room() };
                let (outcome, rise) = done.unwrap_or((without, 0));
                if rise > 0 {
                    rises.push((record.key.info_hash, rise));
                }
                take(received, outcome);
            }
        });
    }
}

impl Replica for SwarmReplica {
    type Walk = ShardWalk;

    fn take_outbox(&mut self, now: Tick, into: &mut Vec<PeerRecord>) -> Option<Tick> {
        let mut earliest: Option<Tick> = None;
        for shard in (self.stream..SHARDS).step_by(self.streams) {
            self.spare.clear();
            self.spare.shrink_to(SPARE_MAX);
            let spare = &mut self.spare;
            let since = self.swarms.with_shard(shard, |shard| shard.outbox.take(spare)).flatten();
            earliest = earliest.into_iter().chain(since).min();
            into.extend(unpack_all(&self.spare).map(|(seen, record)| {
                let age_seconds = now.0.saturating_sub(seen.0);
                PeerRecord { age_seconds, ..record }
            }));
        }
        earliest
    }

    fn apply(
        &mut self,
        now: Tick,
        records: &[ReceivedRecord],
        own: &dyn Fn(&PeerKey) -> Option<OwnRecord>,
        passed_over: &mut Vec<ReceivedRecord>,
    ) -> Applied {
        self.policy.refresh();
        let mut sorted: Vec<_> = records
            .iter()
            .map(|record| (self.swarms.shard_of(&record.record.key.info_hash), record))
            .collect();
        // Stable: records of one torrent stay in their order.
        sorted.sort_by_key(|&(shard, _)| shard);
        let mut applied = Applied::default();
        for batch in sorted.chunks(PREFETCH_MAX) {
            self.swarms.prefetch_batch(batch.iter().map(|(_, received)| received.record.key.info_hash));
            for run in batch.chunk_by(|(one, _), (other, _)| one == other) {
                let Some(&(shard, _)) = run.first() else { continue };
                let run: Vec<_> = run.iter().map(|&(_, received)| received).collect();
                self.apply_to_shard(now, shard, &run, own, &mut |received, outcome| {
                    applied.count(outcome);
                    if outcome == RecordOutcome::InFlight {
                        passed_over.push(*received);
                    }
                });
            }
        }
        for (info_hash, rise) in self.rises.drain(..) {
            if let Some(queues) = &self.queues {
                queues.put_completed(info_hash, rise);
            }
        }
        applied
    }

    fn current(&mut self, now: Tick, key: &PeerKey) -> PeerRecord {
        self.policy.refresh();
        let wire = WirePeer::from_address(key.peer.ip(), key.peer.port());
        let (swarms, policy) = (&self.swarms, self.policy.get());
        let with_ids = policy.keep_peer_ids;
        let hash = swarms.hasher().info_hash(&key.info_hash);
        let found = swarms.with_shard(swarms.shard_of(&key.info_hash), |shard| {
            let slot = shard.find_slot(hash, &key.info_hash)?;
            let torrent = shard.torrent(slot)?;
            Some((torrent.find_stored(wire, swarms.hasher()), torrent.completed))
        });
        let (peer, completed) = found.flatten().unwrap_or_default();
        let record = PeerRecord {
            key: *key,
            age_seconds: 0,
            presence: Presence::Gone,
            completed: (completed > 0).then_some(completed),
            peer_id: None,
        };
        peer.map_or(record, |peer| present(now, record, peer, with_ids))
    }

    fn start_walk(&mut self, of: WalkOf) -> ShardWalk {
        let (first, step, since) = match of {
            WalkOf::Since(since) => (self.stream, self.streams, Some(since)),
            WalkOf::Share { node, nodes } => {
                (self.stream + node * self.streams, self.streams * nodes.max(1), None)
            }
        };
        ShardWalk { shard: first, step, since, torrent: None, cursor: None }
    }

    fn walk(&mut self, now: Tick, walk: &mut ShardWalk, most: usize, into: &mut Vec<PeerRecord>) -> bool {
        self.policy.refresh();
        let with_ids = self.policy.get().keep_peer_ids;
        let enough = into.len() + most;
        while walk.shard < SHARDS && into.len() < enough {
            let hasher = self.swarms.hasher();
            self.swarms.with_shard(walk.shard, |shard| {
                walk.copy_slice(now, shard, enough - into.len(), hasher, with_ids, into);
            });
            if walk.torrent == Some(0) {
                (walk.torrent, walk.cursor) = (None, None);
                walk.shard += walk.step;
            }
        }
        walk.shard < SHARDS
    }
}

/// The position of a walk. Peers that are in their swarm from its beginning to its end are met, some twice.
#[derive(Debug)]
pub struct ShardWalk {
    shard: usize,
    step: usize,
    since: Option<Tick>,
    /// The torrent before which to continue; `None` = the shard has not begun.
    torrent: Option<usize>,
    /// The large swarm that the walk is in, whether IPv4 is done there, and the position.
    cursor: Option<(InfoHash, bool, u32)>,
}

/// A torrent whose peers are copied.
struct Copied<'a> {
    now: Tick,
    since: Option<Tick>,
    record: PeerRecord,
    with_ids: bool,
    into: &'a mut Vec<PeerRecord>,
}

impl ShardWalk {
    /// Copies peers under one lock. The last torrent comes first: the one that fills a hole was copied then.
    fn copy_slice(
        &mut self,
        now: Tick,
        shard: &Shard,
        most: usize,
        hasher: &KeyedHash,
        with_ids: bool,
        into: &mut Vec<PeerRecord>,
    ) {
        let (mut looked, enough) = (0, into.len() + most);
        let mut slot = self.torrent.unwrap_or(usize::MAX).min(shard.len());
        while looked < SLICE && into.len() < enough {
            let Some(torrent) = slot.checked_sub(1).and_then(|slot| shard.torrent(slot)) else {
                slot = 0;
                break;
            };
            let completed = (torrent.completed > 0).then_some(torrent.completed);
            let key = PeerKey { info_hash: torrent.info_hash, peer: SocketAddr::from(([0; 4], 0)) };
            let presence = Presence::Gone;
            let record = PeerRecord { key, age_seconds: 0, presence, completed, peer_id: None };
            let mut copied = Copied { now, since: self.since, record, with_ids, into: &mut *into };
            let most = (SLICE - looked).min(enough - copied.into.len());
            let at = self.cursor.take().filter(|(of, ..)| *of == torrent.info_hash);
            let (seen, rest) = copied.copy_torrent(torrent, at.map(|(_, v6, at)| (v6, at)), most, hasher);
            lock_cost::peers_visited(seen);
            looked += seen + 1;
            match rest {
                Some((v6, at)) => {
                    self.cursor = Some((torrent.info_hash, v6, at));
                    break;
                }
                None => slot -= 1,
            }
        }
        self.torrent = Some(slot);
    }
}

impl Copied<'_> {
    /// Returns how many peers were looked at, and where to continue.
    fn copy_torrent(
        &mut self,
        torrent: &Torrent,
        at: Option<(bool, u32)>,
        most: usize,
        hasher: &KeyedHash,
    ) -> (usize, Option<(bool, u32)>) {
        match &torrent.peers {
            SwarmForm::Idle(_) => (0, None),
            SwarmForm::Pair(pair) => (self.copy_array(pair), None),
            SwarmForm::One(one) => (self.copy_array(one), None),
            SwarmForm::Small(small) => {
                let v4 = self.copy_array::<6>(small);
                (v4 + self.copy_array::<18>(small), None)
            }
            SwarmForm::Large(swarm) => {
                let (is_v6, at) = at.unwrap_or((false, 0));
                if !is_v6 {
                    let mut cursor = Some(at);
                    let looked = self.copy_large(&swarm.v4, &mut cursor, most, hasher);
                    let after_v4 = swarm.v6.as_ref().map(|_| (true, 0));
                    return (looked, cursor.map(|at| (false, at)).or(after_v4));
                }
                let mut cursor = Some(at);
                let looked = swarm.v6.as_deref().map(|v6| self.copy_large(v6, &mut cursor, most, hasher));
                (looked.unwrap_or(0), looked.and(cursor).map(|at| (true, at)))
            }
        }
    }

    fn copy_array<const LEN: usize>(&mut self, array: &impl PeerArray<LEN>) -> usize
    where
        [u8; LEN]: Endpoint,
    {
        let peers = (0..array.octets().len()).filter_map(|place| array.peer_at(place));
        for (place, peer) in peers.enumerate() {
            let found = FoundPeer { seeder: place < array.seeders(), seen: peer.seen, id: peer.id };
            self.copy_peer(&peer.octets, found);
        }
        array.octets().len()
    }

    fn copy_large<const LEN: usize>(
        &mut self,
        large: &LargeFamily<LEN>,
        at: &mut Option<u32>,
        most: usize,
        hasher: &KeyedHash,
    ) -> usize
    where
        [u8; LEN]: Endpoint,
    {
        large.walk(at, most, hasher, |block: &Block<LEN>, place, seeder| {
            if let Some(peer) = block.peer_at(place) {
                self.copy_peer(&peer.octets, FoundPeer { seeder, seen: peer.seen, id: peer.id });
            }
        })
    }

    fn copy_peer(&mut self, octets: &impl Endpoint, peer: FoundPeer) {
        let age = i64::from(peer.seen.age_seconds(self.now));
        let seen = i64::from(self.now.0) - age;
        if self.since.is_none_or(|since| seen >= i64::from(since.0)) {
            let peer_addr = SocketAddr::new(octets.address(), octets.port());
            let key = PeerKey { peer: peer_addr, ..self.record.key };
            let record = PeerRecord { key, ..self.record };
            self.into.push(present(self.now, record, peer, self.with_ids));
        }
    }
}

fn present(now: Tick, record: PeerRecord, peer: FoundPeer, with_ids: bool) -> PeerRecord {
    let paused = peer.seen.paused();
    PeerRecord {
        age_seconds: peer.seen.age_seconds(now),
        presence: Presence::Present { seeder: peer.seeder, paused, finished: false },
        peer_id: with_ids.then_some(peer.id),
        ..record
    }
}

#[cfg(test)]
#[path = "swarm_replica_tests.rs"]
mod tests;
