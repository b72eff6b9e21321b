//! [`SwarmReplica`]: the shards of one stream.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use crate::admission::Policy;
use crate::announce::{Endpoint, WirePeer};
use crate::clock::Tick;
use crate::cluster::apply::{FoundPeer, RecordContext, RecordOutcome};
use crate::cluster::outbox::unpack_all;
use crate::cluster::record::{PeerKey, PeerRecord, Presence};
use crate::cluster::replica::{Applied, OwnRecord, ReceivedRecord, Replica, TimedRecord, WalkOf};
use crate::ids::InfoHash;
use crate::lock_cost;
use crate::published::Subscriber;
use crate::store::Queues;
use crate::swarm::peer::StoredPeer;
use crate::swarm::torrent::Torrent;
use crate::swarm::walk::{SLICE, ShardVisit, SwarmVisitor};
use crate::swarm::{SHARDS, Swarms};
use crate::table::sharded::PREFETCH_MAX;

/// Octets that the buffer of an outbox keeps after an outage.
const SPARE_MAX: usize = 4096;
/// Stands for the peer of a record that is not of a peer yet.
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// The swarms as the link of one stream sees them: those of every `streams`-th shard.
#[derive(Debug)]
pub struct SwarmReplica {
    swarms: Arc<Swarms>,
    policy: Subscriber<Policy>,
    stream: usize,
    streams: usize,
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
            spare: Vec::new(),
            waiting: HashSet::new(),
            rises: Vec::new(),
            queues: None,
        }
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
        let Self { swarms, policy, waiting, rises, .. } = self;
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
                    let rise = torrent.raise_completed(record);
                    let outcome =
                        if is_behind { RecordOutcome::InFlight } else { torrent.apply_record(&context) };
                    (outcome, rise)
                };
                let hash = hasher.info_hash(&record.key.info_hash);
                let counts = record.completed.is_some()
                    || matches!(record.presence, Presence::Present { finished: true, .. });
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
    type Walk = StreamWalk;

    fn take_outbox(&mut self, into: &mut Vec<TimedRecord>) -> Option<i64> {
        let mut earliest: Option<Tick> = None;
        for shard in (self.stream..SHARDS).step_by(self.streams) {
            self.spare.clear();
            self.spare.shrink_to(SPARE_MAX);
            let spare = &mut self.spare;
            let since = self.swarms.with_shard(shard, |shard| shard.outbox.take(spare)).flatten();
            earliest = earliest.into_iter().chain(since).min();
            into.extend(unpack_all(&self.spare));
        }
        earliest.map(|tick| i64::from(tick.0))
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

    fn current(&mut self, now: Tick, key: &PeerKey) -> TimedRecord {
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
        let record = gone(*key, completed);
        let unknown = TimedRecord { record, seen: i64::from(now.0) };
        peer.map_or(unknown, |peer| present(now, record, peer, with_ids))
    }

    fn start_walk(&mut self, of: WalkOf) -> StreamWalk {
        let (first, step, since) = match of {
            WalkOf::Since(since) => (self.stream, self.streams, Some(since)),
            WalkOf::Share { node, nodes } => {
                (self.stream + node * self.streams, self.streams * nodes.max(1), None)
            }
        };
        StreamWalk { shard: first, step, since, in_shard: ShardVisit::default() }
    }

    fn walk(&mut self, now: Tick, walk: &mut StreamWalk, most: usize, into: &mut Vec<TimedRecord>) -> bool {
        self.policy.refresh();
        let with_ids = self.policy.get().keep_peer_ids;
        let (hasher, enough) = (self.swarms.hasher(), into.len() + most);
        let record = gone(PeerKey { info_hash: InfoHash::default(), peer: NOBODY }, 0);
        let mut collector = PeerCollector { now, since: walk.since, enough, with_ids, record, into };
        while walk.shard < SHARDS && collector.into.len() < enough {
            let most = SLICE.min(enough - collector.into.len());
            let in_shard = &mut walk.in_shard;
            let visit = |shard: &mut _| in_shard.visit(shard, most, hasher, &mut collector);
            self.swarms.with_shard(walk.shard, visit);
            if walk.in_shard.is_done() {
                walk.in_shard = ShardVisit::default();
                walk.shard += walk.step;
            }
        }
        walk.shard < SHARDS
    }
}

/// The position of a walk. Peers that are in their swarm from its beginning to its end are met, some twice.
#[derive(Debug)]
pub struct StreamWalk {
    shard: usize,
    step: usize,
    since: Option<i64>,
    in_shard: ShardVisit,
}

/// Collects the peers that a walk is about.
struct PeerCollector<'a> {
    now: Tick,
    since: Option<i64>,
    /// `into` is full with so many.
    enough: usize,
    with_ids: bool,
    /// The torrent, for the records of its peers.
    record: PeerRecord,
    into: &'a mut Vec<TimedRecord>,
}

impl SwarmVisitor for PeerCollector<'_> {
    fn begin(&mut self, torrent: &Torrent) {
        self.record = gone(PeerKey { info_hash: torrent.info_hash, peer: NOBODY }, torrent.completed);
    }

    fn visit_v4(&mut self, peer: &StoredPeer<6>, seeder: bool) {
        self.collect(&peer.octets, FoundPeer { seeder, seen: peer.seen, id: peer.id });
    }

    fn visit_v6(&mut self, peer: &StoredPeer<18>, seeder: bool) {
        self.collect(&peer.octets, FoundPeer { seeder, seen: peer.seen, id: peer.id });
    }

    fn end(&mut self, _: &Torrent) -> bool {
        self.into.len() < self.enough
    }
}

impl PeerCollector<'_> {
    fn collect(&mut self, octets: &impl Endpoint, peer: FoundPeer) {
        if self.since.is_none_or(|since| peer.seen.tick(self.now) >= since) {
            let key = PeerKey { peer: SocketAddr::new(octets.address(), octets.port()), ..self.record.key };
            let record = PeerRecord { key, ..self.record };
            self.into.push(present(self.now, record, peer, self.with_ids));
        }
    }
}

/// The record of a peer that is not in its swarm.
fn gone(key: PeerKey, completed: u32) -> PeerRecord {
    PeerRecord {
        key,
        age_seconds: 0,
        presence: Presence::Gone,
        completed: (completed > 0).then_some(completed),
        peer_id: None,
    }
}

fn present(now: Tick, record: PeerRecord, peer: FoundPeer, with_ids: bool) -> TimedRecord {
    let paused = peer.seen.paused();
    let presence = Presence::Present { seeder: peer.seeder, paused, finished: false };
    let record = PeerRecord { presence, peer_id: with_ids.then_some(peer.id), ..record };
    TimedRecord { record, seen: peer.seen.tick(now) }
}

#[cfg(test)]
#[path = "swarm_replica_tests.rs"]
mod tests;
