//! Swarms that are a map, with the rules by which foreign records are applied.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use hayate_state::cluster::record::{PeerKey, PeerRecord, Presence};
use hayate_state::cluster::replica::{Applied, OwnRecord, ReceivedRecord, Replica, TimedRecord, WalkOf};
use hayate_state::{InfoHash, PeerId, Tick};

use super::shared::Shared;

pub(super) const INACTIVITY_SECONDS: i64 = 3000;
const RENEW_AFTER_SECONDS: i64 = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ToyPeer {
    pub(super) seeder: bool,
    pub(super) paused: bool,
    pub(super) seen: i64,
}

/// Whether other nodes will know of an announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Noted {
    Yes,
    No,
    Unchanged,
}

#[derive(Default)]
pub(super) struct ToySwarms {
    /// Milliseconds of the world at uptime 0.
    pub(super) booted_at: u64,
    pub(super) is_down: bool,
    pub(super) peers: BTreeMap<PeerKey, ToyPeer>,
    pub(super) completed: HashMap<InfoHash, u32>,
    pub(super) outbox: Vec<TimedRecord>,
    pub(super) outbox_max: usize,
    pub(super) since: Option<i64>,
    /// Peers whose leave was dropped.
    pub(super) dropped: BTreeSet<PeerKey>,
    /// The last leave of each peer at this node.
    pub(super) leaves: BTreeMap<PeerKey, i64>,
    pub(super) applied_tags: HashSet<PeerId>,
}

impl ToySwarms {
    /// Changes a peer.
    pub(super) fn announce(
        &mut self,
        uptime: u64,
        key: PeerKey,
        present: Option<(bool, bool)>,
        finishes: bool,
    ) -> Noted {
        let before = self.peers.get(&key).copied();
        let now = i64::try_from(uptime / 1000).unwrap();
        // Another node's record may be from a little later, by its estimate of the server's clock.
        let seen = before.map_or(now, |peer| peer.seen.max(now));
        let Some((seeder, paused)) = present else {
            if self.peers.remove(&key).is_none() {
                // Unknown here: what another node knows is not touched.
                return Noted::No;
            }
            if self.outbox.len() >= 2 * self.outbox_max {
                self.dropped.insert(key);
                return Noted::No;
            }
            self.leaves.insert(key, seen);
            self.note(key, Presence::Gone, seen);
            return Noted::Yes;
        };
        let finished = finishes && seeder && before.is_none_or(|peer| !peer.seeder);
        let is_same = before.is_some_and(|peer| (peer.seeder, peer.paused) == (seeder, paused));
        if is_same && before.is_some_and(|peer| seen - peer.seen < RENEW_AFTER_SECONDS) {
            return Noted::Unchanged;
        }
        self.peers.insert(key, ToyPeer { seeder, paused, seen });
        if finished {
            *self.completed.entry(key.info_hash).or_default() += 1;
        }
        if self.outbox.len() >= self.outbox_max {
            self.since = Some(self.since.map_or(seen, |since| since.min(seen)));
            // Waits to be walked.
            return Noted::Yes;
        }
        self.note(key, Presence::Present { seeder, paused, finished }, seen);
        Noted::Yes
    }

    fn note(&mut self, key: PeerKey, presence: Presence, seen: i64) {
        let completed = self.completed.get(&key.info_hash).copied();
        let record = PeerRecord { key, age_seconds: 0, presence, completed, peer_id: None };
        self.outbox.push(TimedRecord { record, seen });
    }

    pub(super) fn expire(&mut self, uptime: u64) {
        let now = i64::try_from(uptime / 1000).unwrap();
        self.peers.retain(|_, peer| now - peer.seen < INACTIVITY_SECONDS);
    }

    fn record(&self, now: Tick, key: &PeerKey) -> TimedRecord {
        let completed = self.completed.get(&key.info_hash).copied();
        let peer = self.peers.get(key);
        let seen = peer.map_or(i64::from(now.0), |peer| peer.seen);
        let presence = peer.map_or(Presence::Gone, |peer| Presence::Present {
            seeder: peer.seeder,
            paused: peer.paused,
            finished: false,
        });
        let record = PeerRecord { key: *key, age_seconds: 0, presence, completed, peer_id: None };
        TimedRecord { record, seen }
    }

    fn apply(&mut self, now: Tick, received: &ReceivedRecord, own: Option<OwnRecord>) -> Verdict {
        let ReceivedRecord { record, seen, republished } = *received;
        let count = self.completed.entry(record.key.info_hash).or_default();
        if matches!(record.presence, Presence::Present { finished: true, .. }) {
            *count += 1;
        }
        *count = (*count).max(record.completed.unwrap_or_default());
        let waits = self.outbox.iter().any(|noted| noted.record.key == record.key);
        let own = if waits { Some(OwnRecord { seen: 0, republished: false }) } else { own };
        if let Some(own) = own
            && (!own.republished || if republished { seen <= own.seen } else { own.seen > seen })
        {
            return Verdict::InFlight;
        }
        let known = self.peers.get(&record.key);
        // Known here by an announce that no outbox had room for: a walk will publish it.
        let is_unpublished = |peer: &&ToyPeer| self.since.is_some_and(|since| peer.seen >= since);
        if !republished && known.filter(is_unpublished).is_some_and(|peer| peer.seen > seen) {
            return Verdict::Old;
        }
        let Presence::Present { seeder, paused, .. } = record.presence else {
            if republished && known.is_some_and(|peer| peer.seen > seen) {
                return Verdict::Old;
            }
            self.peers.remove(&record.key);
            return Verdict::Applied;
        };
        let peer = ToyPeer { seeder, paused, seen };
        // Within one second the order of the stream decides here, too.
        if republished && known.is_some_and(|known| known.seen > seen || *known == peer) {
            return Verdict::Old;
        }
        if known.is_none() && i64::from(now.0) - seen >= INACTIVITY_SECONDS {
            return Verdict::Expired;
        }
        if let Some(tag) = record.peer_id {
            assert!(self.applied_tags.insert(tag), "applied twice: {record:?}");
        }
        self.peers.insert(record.key, peer);
        Verdict::Applied
    }
}

#[derive(Debug)]
enum Verdict {
    Applied,
    InFlight,
    Old,
    Expired,
}

pub(super) struct ToyReplica {
    pub(super) shared: Shared,
    pub(super) node: usize,
}

impl Replica for ToyReplica {
    type Walk = Vec<PeerKey>;

    fn take_outbox(&mut self, into: &mut Vec<TimedRecord>) -> Option<i64> {
        let swarms = &mut self.shared.lock().swarms[self.node];
        into.append(&mut swarms.outbox);
        swarms.since.take()
    }

    fn apply(
        &mut self,
        now: Tick,
        records: &[ReceivedRecord],
        own: &dyn Fn(&PeerKey) -> Option<OwnRecord>,
        passed_over: &mut Vec<ReceivedRecord>,
    ) -> Applied {
        let mut applied = Applied::default();
        let mut world = self.shared.lock();
        for received in records {
            let key = received.record.key;
            let verdict = world.swarms[self.node].apply(now, received, own(&key));
            world.trace(&key, || format!("node {} reads {received:?}: {verdict:?}", self.node));
            match verdict {
                Verdict::Applied => applied.applied += 1,
                Verdict::Old => applied.old += 1,
                Verdict::Expired => applied.expired += 1,
                Verdict::InFlight => {
                    applied.in_flight += 1;
                    passed_over.push(*received);
                }
            }
        }
        applied
    }

    fn current(&mut self, now: Tick, key: &PeerKey) -> TimedRecord {
        self.shared.lock().swarms[self.node].record(now, key)
    }

    fn start_walk(&mut self, of: WalkOf) -> Self::Walk {
        let world = self.shared.lock();
        let is_in = |key: &PeerKey, peer: &ToyPeer| match of {
            WalkOf::Since(tick) => peer.seen >= tick,
            WalkOf::Share { node, nodes } => usize::from(key.info_hash.0[0]) % nodes == node,
        };
        let peers = world.swarms[self.node].peers.iter();
        peers.filter(|(key, peer)| is_in(key, peer)).map(|(key, _)| *key).collect()
    }

    fn walk(&mut self, now: Tick, walk: &mut Self::Walk, most: usize, into: &mut Vec<TimedRecord>) -> bool {
        let world = self.shared.lock();
        let rest = walk.split_off(most.min(walk.len()));
        let swarms = &world.swarms[self.node];
        let present = walk.iter().filter(|key| swarms.peers.contains_key(key));
        into.extend(present.map(|key| swarms.record(now, key)));
        *walk = rest;
        !walk.is_empty()
    }
}
