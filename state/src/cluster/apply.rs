//! A record of another node, applied to its torrent.

use crate::admission::{PEER_INACTIVITY_SECONDS_MAX, Policy};
use crate::announce::{Endpoint, WirePeer};
use crate::clock::Tick;
use crate::cluster::record::{PeerRecord, Presence};
use crate::cluster::replica::{Applied, OwnRecord, ReceivedRecord};
use crate::ids::PeerId;
use crate::swarm::peer::{AHEAD_SECONDS_MAX, LastSeen, StoredPeer, scope_of_peer};
use crate::swarm::peer_set::PeerSet;
use crate::swarm::torrent::{SwarmForm, Torrent};
use crate::table::keyed_hash::KeyedHash;

/// What has become of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecordOutcome {
    Applied,
    InFlight,
    Old,
    Expired,
    Full,
}

/// A record, and what it is applied with.
pub(super) struct RecordContext<'a> {
    pub(super) now: Tick,
    pub(super) policy: &'a Policy,
    pub(super) hasher: &'a KeyedHash,
    pub(super) received: &'a ReceivedRecord,
    pub(super) may_grow: bool,
    /// Since when announces are missing in the shard's outbox.
    pub(super) missing_since: Option<Tick>,
}

impl Applied {
    pub(super) fn count(&mut self, outcome: RecordOutcome) {
        *match outcome {
            RecordOutcome::Applied => &mut self.applied,
            RecordOutcome::InFlight => &mut self.in_flight,
            RecordOutcome::Old => &mut self.old,
            RecordOutcome::Expired => &mut self.expired,
            RecordOutcome::Full => &mut self.full,
        } += 1;
    }
}

impl ReceivedRecord {
    /// Whether it is passed over because of an own record about the same peer, which will be behind it in
    /// the stream. An own record that was published again yields to newer news.
    pub(super) fn is_behind(&self, own: &OwnRecord) -> bool {
        match (own.republished, self.republished) {
            (false, _) => true,
            (true, true) => self.seen <= own.seen,
            (true, false) => self.seen < own.seen,
        }
    }
}

impl RecordContext<'_> {
    fn age_seconds(&self) -> u32 {
        let age = i64::from(self.now.0).saturating_sub(self.received.seen);
        u32::try_from(age.max(0)).unwrap_or(u32::MAX)
    }

    /// Returns when the peer was seen, as far as that can be stored. Before the start of this process ticks
    /// are below zero, and wrap as all ticks do.
    fn seen(&self) -> Tick {
        let age_seconds = self.age_seconds().min(PEER_INACTIVITY_SECONDS_MAX);
        let ahead = self.received.seen.saturating_sub(i64::from(self.now.0));
        let ahead_seconds = u32::try_from(ahead).unwrap_or_default().min(AHEAD_SECONDS_MAX);
        Tick(self.now.0.wrapping_add(ahead_seconds).wrapping_sub(age_seconds))
    }

    /// Whether the record says that a peer is there which has been silent for too long.
    pub(super) fn is_expired(&self) -> bool {
        self.received.record.presence != Presence::Gone
            && self.age_seconds() >= self.policy.peer_inactivity_seconds
    }

    fn is_old<const LEN: usize>(&self, known: &StoredPeer<LEN>, was_seeder: bool) -> bool {
        let ReceivedRecord { record, seen, republished } = self.received;
        let known_seen = known.seen.tick(self.now);
        if known_seen > *seen {
            // An announce that no outbox had room for will be published by a walk.
            return *republished || self.missing_since.is_some_and(|since| known_seen >= i64::from(since.0));
        }
        let same = match record.presence {
            Presence::Gone => false,
            Presence::Present { seeder, paused, .. } => {
                (seeder, paused && !seeder) == (was_seeder, known.seen.paused())
            }
        };
        *republished && known_seen == *seen && same
    }

    fn apply_to_set<const LEN: usize>(&self, set: &mut impl PeerSet<LEN>, octets: [u8; LEN]) -> RecordOutcome
    where
        [u8; LEN]: Endpoint,
    {
        let PeerRecord { presence, peer_id, .. } = self.received.record;
        let (is_seeder, hasher) = (matches!(presence, Presence::Present { seeder: true, .. }), self.hasher);
        let pos = set.find(&octets, is_seeder, hasher);
        let known = pos.and_then(|pos| Some((pos, set.stored(pos)?)));
        if known.is_some_and(|(pos, known)| self.is_old(&known, pos.seeder)) {
            return RecordOutcome::Old;
        }
        let Presence::Present { seeder, paused, .. } = presence else {
            known.into_iter().for_each(|(pos, _)| set.remove(pos, hasher));
            return RecordOutcome::Applied;
        };
        let seen = LastSeen::new(self.seen(), paused && !seeder);
        let scope = scope_of_peer(&octets, self.policy);
        let placed = match known {
            Some((pos, known)) => {
                set.renew(pos, seen, peer_id.unwrap_or(known.id));
                set.move_to(pos, seeder, scope, hasher)
            }
            None if self.is_expired() => return RecordOutcome::Expired,
            None if !self.may_grow => return RecordOutcome::Full,
            None => {
                let stored = StoredPeer { octets, seen, id: peer_id.unwrap_or_default() };
                set.insert(&stored, seeder, scope, hasher)
            }
        };
        placed.map_or(RecordOutcome::Full, |_| RecordOutcome::Applied)
    }

    /// The outcome for a peer whose torrent, or family, has no peers and no room for any.
    pub(super) fn outcome_without_room(&self) -> RecordOutcome {
        match self.received.record.presence {
            Presence::Gone => RecordOutcome::Applied,
            Presence::Present { .. } if self.is_expired() => RecordOutcome::Expired,
            Presence::Present { .. } => RecordOutcome::Full,
        }
    }
}

impl Torrent {
    /// Changes the swarm as the record says. The limit of peers at one address does not hold here: their
    /// node has admitted them, and all nodes are to agree.
    pub(super) fn apply_record(&mut self, context: &RecordContext<'_>) -> RecordOutcome {
        let peer = context.received.record.key.peer;
        let wire = WirePeer::from_address(peer.ip(), peer.port());
        let is_gone = context.received.record.presence == Presence::Gone;
        if !is_gone && context.may_grow && !context.is_expired() {
            self.make_room(wire, context.policy, context.hasher);
        }
        match (&mut self.peers, wire) {
            (SwarmForm::Pair(pair), WirePeer::V4(octets)) => context.apply_to_set(pair, octets),
            (SwarmForm::One(one), WirePeer::V6(octets)) => context.apply_to_set(one, octets),
            (SwarmForm::Small(small), WirePeer::V4(octets)) => context.apply_to_set(small, octets),
            (SwarmForm::Small(small), WirePeer::V6(octets)) => context.apply_to_set(small, octets),
            (SwarmForm::Large(swarm), WirePeer::V4(octets)) => context.apply_to_set(&mut swarm.v4, octets),
            (SwarmForm::Large(swarm), WirePeer::V6(octets)) => match &mut swarm.v6 {
                Some(large) => context.apply_to_set(&mut **large, octets),
                None => context.outcome_without_room(),
            },
            (SwarmForm::Idle(_), _)
            | (SwarmForm::Pair(_), WirePeer::V6(_))
            | (SwarmForm::One(_), WirePeer::V4(_)) => context.outcome_without_room(),
        }
    }

    /// Raises the count of finished downloads; returns by how much.
    pub(super) fn raise_completed(&mut self, record: &PeerRecord) -> u32 {
        let finished = matches!(record.presence, Presence::Present { finished: true, .. });
        let before = self.completed;
        let raised = before.saturating_add(u32::from(finished));
        self.completed = raised.max(record.completed.unwrap_or_default());
        self.completed - before
    }

    /// Returns a peer's role, and when it was seen; `None` where it is not in the swarm.
    pub(super) fn find_stored(&self, wire: WirePeer, hasher: &KeyedHash) -> Option<FoundPeer> {
        match (&self.peers, wire) {
            (SwarmForm::Pair(pair), WirePeer::V4(octets)) => find_in(pair, octets, hasher),
            (SwarmForm::One(one), WirePeer::V6(octets)) => find_in(one, octets, hasher),
            (SwarmForm::Small(small), WirePeer::V4(octets)) => find_in(small, octets, hasher),
            (SwarmForm::Small(small), WirePeer::V6(octets)) => find_in(small, octets, hasher),
            (SwarmForm::Large(swarm), WirePeer::V4(octets)) => find_in(&swarm.v4, octets, hasher),
            (SwarmForm::Large(swarm), WirePeer::V6(octets)) => find_in(swarm.v6.as_deref()?, octets, hasher),
            _ => None,
        }
    }
}

/// What is known of one peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct FoundPeer {
    pub(super) seeder: bool,
    pub(super) seen: LastSeen,
    pub(super) id: PeerId,
}

fn find_in<const LEN: usize>(
    set: &impl PeerSet<LEN>,
    octets: [u8; LEN],
    hasher: &KeyedHash,
) -> Option<FoundPeer>
where
    [u8; LEN]: Endpoint,
{
    let pos = set.find(&octets, false, hasher)?;
    let stored = set.stored(pos)?;
    Some(FoundPeer { seeder: pos.seeder, seen: stored.seen, id: stored.id })
}
