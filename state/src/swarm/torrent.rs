//! One torrent: 48 octets, with room inside for the two IPv4 peers that most torrents never exceed. More
//! peers are in one heap block, and beyond forty, or with IPv6 peers or peer ids, in a [`LargeSwarm`] on the
//! heap.

use crate::address::{AddressScope, ScopeSet};
use crate::admission::Policy;
use crate::announce::{Announce, Endpoint, Event, Handout, PEER_V4_LEN, PEER_V6_LEN, Tally, WirePeer};
use crate::clock::Tick;
use crate::ids::InfoHash;
use crate::peer_counts::PeerCounts;
use crate::swarm::block::allocation;
use crate::swarm::large::{LargeCursor, LargeFamily};
use crate::swarm::pair::{PAIR_LEN, Pair};
use crate::swarm::peer::{LastSeen, PeerPos, StoredPeer, scope_of_peer};
use crate::swarm::peer_set::{PeerArray, PeerSet};
use crate::swarm::select::{Pool, Requester, RolePeers, WantedRoles, select_peers};
use crate::swarm::small::{SMALL_MAX, SMALL_ROOM, SmallSwarm};
use crate::table::keyed_hash::KeyedHash;
use crate::table::prefetch::prefetch;

/// One torrent with its swarm, owned by its shard.
#[derive(Debug)]
pub(crate) struct Torrent {
    pub(crate) info_hash: InfoHash,
    pub(crate) completed: u32,
    pub(crate) peers: SwarmForm,
}

const _: () = assert!(size_of::<Torrent>() == 48);

/// The peers of a torrent, in a form that suits their number.
#[derive(Debug)]
pub(crate) enum SwarmForm {
    /// No peers since this tick; only the completed count is remembered.
    Idle(Tick),
    Pair(Pair),
    Small(SmallSwarm),
    Large(Box<LargeSwarm>),
}

/// A swarm of any size, with peers of both families, and with ids where they are kept.
#[derive(Debug)]
pub(crate) struct LargeSwarm {
    pub(crate) v4: LargeFamily<PEER_V4_LEN>,
    pub(crate) v6: Option<Box<LargeFamily<PEER_V6_LEN>>>,
}

/// An announce, and what it is applied with.
pub(crate) struct AnnounceContext<'a> {
    pub(crate) now: Tick,
    pub(crate) policy: &'a Policy,
    pub(crate) hasher: &'a KeyedHash,
    /// The scope of the requester's address.
    pub(crate) scope: AddressScope,
    pub(crate) announce: &'a Announce,
    /// Whether peers may be added: false when the memory budget is used up.
    pub(crate) may_grow: bool,
}

/// What an announce has done to its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PeerChange {
    /// It is in the swarm, at `pos`; `completed`: this counts as a finished download.
    Kept { pos: PeerPos, completed: bool },
    /// It is not in the swarm, or no longer.
    Gone,
    /// It was not added: there are too many peers at its address.
    Crowded,
    /// It was not added: the memory budget is used up.
    Full,
}

/// The position of a sweep in one torrent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum SweepCursor {
    /// Not begun.
    #[default]
    Start,
    V4(LargeCursor),
    /// IPv4 is done.
    V6(Option<LargeCursor>),
}

impl Torrent {
    pub(crate) fn new(info_hash: InfoHash) -> Self {
        Self { info_hash, completed: 0, peers: SwarmForm::Pair(Pair::default()) }
    }

    /// Starts fetching into the cache what an announce will look at beyond the torrent itself.
    pub(crate) fn prefetch_peers(&self) {
        match &self.peers {
            SwarmForm::Idle(_) | SwarmForm::Pair(_) => {}
            SwarmForm::Small(small) => prefetch(small.bytes()),
            SwarmForm::Large(swarm) => prefetch(&**swarm),
        }
    }

    /// Changes the swarm as the announce says.
    pub(crate) fn apply_announce(&mut self, context: &AnnounceContext<'_>) -> PeerChange {
        let wire = WirePeer::from_announce(context.announce);
        if context.announce.event != Event::Stopped && context.may_grow {
            self.make_room(wire, context.policy, context.hasher);
        }
        let change = match (&mut self.peers, wire) {
            (SwarmForm::Pair(pair), WirePeer::V4(peer)) => apply_to_set(pair, peer, context),
            (SwarmForm::Small(small), WirePeer::V4(peer)) => apply_to_set(small, peer, context),
            (SwarmForm::Large(swarm), WirePeer::V4(peer)) => apply_to_set(&mut swarm.v4, peer, context),
            (SwarmForm::Large(swarm), WirePeer::V6(peer)) => match &mut swarm.v6 {
                Some(large) => apply_to_set(&mut **large, peer, context),
                None => PeerChange::Gone,
            },
            (SwarmForm::Idle(_), _) | (SwarmForm::Pair(_) | SwarmForm::Small(_), WirePeer::V6(_)) => {
                PeerChange::Gone
            }
        };
        if matches!(change, PeerChange::Kept { completed: true, .. }) {
            self.completed = self.completed.saturating_add(1);
        }
        change
    }

    /// Returns the position of the announced peer, if it is here.
    pub(crate) fn find(&self, context: &AnnounceContext<'_>) -> Option<PeerPos> {
        let (seeder, hasher) = (context.announce.left == 0, context.hasher);
        match (&self.peers, WirePeer::from_announce(context.announce)) {
            (SwarmForm::Pair(pair), WirePeer::V4(peer)) => pair.find(&peer, seeder, hasher),
            (SwarmForm::Small(small), WirePeer::V4(peer)) => small.find(&peer, seeder, hasher),
            (SwarmForm::Large(swarm), WirePeer::V4(peer)) => swarm.v4.find(&peer, seeder, hasher),
            (SwarmForm::Large(swarm), WirePeer::V6(peer)) => swarm.v6.as_ref()?.find(&peer, seeder, hasher),
            (SwarmForm::Idle(_), _) | (SwarmForm::Pair(_) | SwarmForm::Small(_), WirePeer::V6(_)) => None,
        }
    }

    /// Hands out peers of the requester's family first, then of the other one, as far as the handout has
    /// room.
    pub(crate) fn hand_out(
        &self,
        context: &AnnounceContext<'_>,
        own: Option<PeerPos>,
        random: &mut fastrand::Rng,
        handout: &mut Handout<'_>,
    ) {
        let announce = context.announce;
        if announce.num_want == 0 || self.peer_counts().total() <= u32::from(own.is_some()) {
            return;
        }
        let wants = match (announce.left, announce.event) {
            (0, Event::Started) => WantedRoles::LeechersThenSeeders,
            (0, _) => WantedRoles::Leechers,
            _ => WantedRoles::Both,
        };
        let visible = context.policy.private_peers.visible_to(context.scope);
        let requester = Requester { wants, visible, id: announce.peer_id, policy: context.policy };
        let want = usize::from(announce.num_want);
        let v4 = |own, want, random: &mut _, handout: &mut Handout<'_>| {
            if let Some(pool) = self.v4_pool() {
                select_peers(pool, &requester, own, want, random, &mut handout.v4);
            }
            handout.v4.peers()
        };
        let v6 = |own, want, random: &mut _, handout: &mut Handout<'_>| {
            if let Some(pool) = self.v6_pool() {
                select_peers(pool, &requester, own, want, random, &mut handout.v6);
            }
            handout.v6.peers()
        };
        if announce.address.is_ipv4() {
            let got = v4(own, want, random, handout);
            v6(None, want - got, random, handout);
        } else {
            let got = v6(own, want, random, handout);
            v4(None, want - got, random, handout);
        }
    }

    fn v4_pool(&self) -> Option<Pool<'_, PEER_V4_LEN>> {
        match &self.peers {
            SwarmForm::Idle(_) => None,
            SwarmForm::Pair(pair) => Some(array_pool(pair, pair.scopes)),
            SwarmForm::Small(small) => Some(array_pool(small, small.scopes)),
            SwarmForm::Large(swarm) => Some(swarm.v4.pool()),
        }
    }

    fn v6_pool(&self) -> Option<Pool<'_, PEER_V6_LEN>> {
        match &self.peers {
            SwarmForm::Large(swarm) => swarm.v6.as_deref().map(LargeFamily::pool),
            _ => None,
        }
    }

    pub(crate) fn tally(&self) -> Tally {
        let peer_counts = self.peer_counts();
        Tally {
            seeders: peer_counts.v4_seeders + peer_counts.v6_seeders,
            completed: self.completed,
            leechers: peer_counts.v4_leechers + peer_counts.v6_leechers,
            paused: 0,
        }
    }

    /// Returns the counts with partial seeds, for which small swarms are gone through.
    pub(crate) fn tally_with_paused(&self) -> Tally {
        let paused = match &self.peers {
            SwarmForm::Idle(_) => 0,
            SwarmForm::Pair(pair) => pair.paused(),
            SwarmForm::Small(small) => small.paused(),
            SwarmForm::Large(swarm) => swarm.v4.paused() + swarm.v6.as_ref().map_or(0, |v6| v6.paused()),
        };
        Tally { paused, ..self.tally() }
    }

    pub(crate) fn peer_counts(&self) -> PeerCounts {
        let (v4, v6) = match &self.peers {
            SwarmForm::Idle(_) => ((0, 0), (0, 0)),
            SwarmForm::Pair(pair) => (array_roles(pair), (0, 0)),
            SwarmForm::Small(small) => (array_roles(small), (0, 0)),
            SwarmForm::Large(swarm) => {
                (swarm.v4.role_counts(), swarm.v6.as_deref().map_or((0, 0), LargeFamily::role_counts))
            }
        };
        PeerCounts { v4_seeders: v4.0, v4_leechers: v4.1, v6_seeders: v6.0, v6_leechers: v6.1 }
    }

    pub(crate) fn is_idle_since(&self, tick: Tick) -> bool {
        matches!(self.peers, SwarmForm::Idle(since) if since == tick)
    }

    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.peers, SwarmForm::Idle(_))
    }

    pub(crate) fn make_idle(&mut self, now: Tick) {
        self.peers = SwarmForm::Idle(now);
    }

    /// Octets on the heap, by our own count.
    pub(crate) fn heap(&self) -> usize {
        match &self.peers {
            SwarmForm::Idle(_) | SwarmForm::Pair(_) => 0,
            SwarmForm::Small(small) => small.heap(),
            SwarmForm::Large(swarm) => {
                let of_v6 =
                    |v6: &LargeFamily<_>| allocation(size_of::<LargeFamily<PEER_V6_LEN>>()) + v6.heap();
                let v6 = swarm.v6.as_deref().map_or(0, of_v6);
                allocation(size_of::<LargeSwarm>()) + swarm.v4.heap() + v6
            }
        }
    }

    /// Drops expired peers; looks at `most` peers, or a few more. Returns how many were looked at, and
    /// whether the torrent is done.
    pub(crate) fn expire(
        &mut self,
        now: Tick,
        policy: &Policy,
        cursor: &mut SweepCursor,
        most: usize,
        hasher: &KeyedHash,
    ) -> (usize, bool) {
        let expired = |seen: LastSeen| seen.age_seconds(now) > policy.peer_inactivity_seconds;
        match &mut self.peers {
            SwarmForm::Idle(_) => (0, true),
            SwarmForm::Pair(pair) => {
                let looked = pair.octets().len();
                pair.expire(expired);
                pair.scopes = pair.current_scopes(policy);
                (looked, true)
            }
            SwarmForm::Small(small) => {
                let looked = small.octets().len();
                small.expire(expired);
                small.scopes = small.current_scopes(policy);
                (looked, true)
            }
            SwarmForm::Large(swarm) => swarm.expire(now, policy, cursor, most, hasher),
        }
    }

    /// Changes to the smallest form that holds the peers.
    pub(crate) fn shrink_form(&mut self, policy: &Policy, hasher: &KeyedHash) {
        if let SwarmForm::Large(swarm) = &mut self.peers {
            swarm.keep_ids(policy.keep_peer_ids);
            if swarm.v6.as_ref().is_some_and(|v6| v6.len() == 0) {
                swarm.v6 = None;
            }
            // At half of what makes it large, so that it does not change its form with every peer.
            if swarm.v6.is_none() && !swarm.v4.with_ids() && swarm.v4.len() <= SMALL_MAX / 2 {
                let mut small = SmallSwarm::with_room(swarm.v4.len());
                for (stored, seeder) in swarm.v4.stored_peers() {
                    small.insert(&stored, seeder, scope_of_peer(&stored.octets, policy), hasher);
                }
                self.peers = SwarmForm::Small(small);
            }
        }
        if let SwarmForm::Small(small) = &mut self.peers {
            if small.octets().len() > PAIR_LEN {
                return small.shrink();
            }
            let mut pair = Pair::default();
            copy_peers(small, &mut pair, policy, hasher);
            self.peers = SwarmForm::Pair(pair);
        }
    }

    /// Changes to a form with room for this peer, if it is not there yet.
    pub(crate) fn make_room(&mut self, wire: WirePeer, policy: &Policy, hasher: &KeyedHash) {
        let simple = match wire {
            WirePeer::V4(peer) if !policy.keep_peer_ids => Some(peer),
            _ => None,
        };
        if self.is_idle() {
            self.peers = SwarmForm::Pair(Pair::default());
        }
        match &self.peers {
            SwarmForm::Pair(pair) if simple.is_none() => {
                self.peers = large_from(pair, policy, hasher);
            }
            SwarmForm::Pair(pair) if simple.is_some_and(|peer| !fits(pair, PAIR_LEN, &peer)) => {
                let mut small = SmallSwarm::with_room(SMALL_ROOM);
                copy_peers(pair, &mut small, policy, hasher);
                self.peers = SwarmForm::Small(small);
            }
            SwarmForm::Small(small) if simple.is_none_or(|peer| !fits(small, SMALL_MAX, &peer)) => {
                self.peers = large_from(small, policy, hasher);
            }
            _ => {}
        }
        if let SwarmForm::Large(swarm) = &mut self.peers {
            if matches!(wire, WirePeer::V6(_)) && swarm.v6.is_none() {
                swarm.v6 = Some(Box::new(LargeFamily::new(policy.keep_peer_ids)));
            }
            if policy.keep_peer_ids {
                swarm.keep_ids(true);
            }
        }
    }
}

impl AnnounceContext<'_> {
    /// Returns the scope of the announced peer, with its port taken into account.
    fn own_scope(&self) -> AddressScope {
        self.policy.scope_with_port(self.scope, self.announce.port)
    }
}

impl LargeSwarm {
    fn keep_ids(&mut self, with_ids: bool) {
        self.v4.keep_ids(with_ids);
        self.v6.iter_mut().for_each(|v6| v6.keep_ids(with_ids));
    }

    fn expire(
        &mut self,
        now: Tick,
        policy: &Policy,
        cursor: &mut SweepCursor,
        most: usize,
        hasher: &KeyedHash,
    ) -> (usize, bool) {
        let mut looked = 0;
        let v4 = match *cursor {
            SweepCursor::Start => Some(None),
            SweepCursor::V4(at) => Some(Some(at)),
            SweepCursor::V6(_) => None,
        };
        if let Some(mut at) = v4 {
            looked = self.v4.expire(now, policy, &mut at, most, hasher);
            *cursor = at.map_or(SweepCursor::V6(None), SweepCursor::V4);
        }
        match (cursor, &mut self.v6) {
            (SweepCursor::V6(_), None) => (looked, true),
            (SweepCursor::V6(at), Some(v6)) if looked < most => {
                looked += v6.expire(now, policy, at, most - looked, hasher);
                (looked, at.is_none())
            }
            _ => (looked, false),
        }
    }
}

fn array_pool<const LEN: usize>(array: &impl PeerArray<LEN>, scopes: ScopeSet) -> Pool<'_, LEN> {
    let (seeders, leechers) = array.octets().split_at_checked(array.seeders()).unwrap_or_default();
    Pool {
        seeders: RolePeers::Array(seeders),
        leechers: RolePeers::Array(leechers),
        others: &[],
        with_ids: false,
        scopes,
    }
}

/// Whether the peer is there already, or there is room for one more.
fn fits(array: &impl PeerArray<PEER_V4_LEN>, most: usize, peer: &[u8; PEER_V4_LEN]) -> bool {
    array.octets().len() < most || array.octets().contains(peer)
}

/// Copies all peers of an array into another form, which has room for them.
fn copy_peers(
    array: &impl PeerArray<PEER_V4_LEN>,
    to: &mut impl PeerSet<PEER_V4_LEN>,
    policy: &Policy,
    hasher: &KeyedHash,
) {
    for place in 0..array.octets().len() {
        if let Some(stored) = array.peer_at(place) {
            to.insert(&stored, place < array.seeders(), scope_of_peer(&stored.octets, policy), hasher);
        }
    }
}

/// Makes a large swarm of the peers of an array.
fn large_from(array: &impl PeerArray<PEER_V4_LEN>, policy: &Policy, hasher: &KeyedHash) -> SwarmForm {
    let mut v4 = LargeFamily::new(policy.keep_peer_ids);
    copy_peers(array, &mut v4, policy, hasher);
    SwarmForm::Large(Box::new(LargeSwarm { v4, v6: None }))
}

fn array_roles<const LEN: usize>(array: &impl PeerArray<LEN>) -> (u32, u32) {
    (count_u32(array.seeders()), count_u32(array.octets().len() - array.seeders()))
}

fn count_u32(peers: usize) -> u32 {
    u32::try_from(peers).unwrap_or(u32::MAX)
}

fn apply_to_set<const LEN: usize>(
    set: &mut impl PeerSet<LEN>,
    octets: [u8; LEN],
    context: &AnnounceContext<'_>,
) -> PeerChange
where
    [u8; LEN]: Endpoint,
{
    let (hasher, announce) = (context.hasher, context.announce);
    let seeder = announce.left == 0;
    let known = set.find(&octets, seeder, hasher);
    if announce.event == Event::Stopped {
        if let Some(pos) = known {
            set.remove(pos, hasher);
        }
        return PeerChange::Gone;
    }
    let seen = LastSeen::new(context.now, announce.event == Event::Paused && !seeder);
    let finished = seeder && announce.event == Event::Completed;
    let Some(pos) = known else {
        if !context.may_grow {
            return PeerChange::Full;
        }
        if hasher.peers_limit(&octets).is_some_and(|limit| set.count_at_address(&octets, hasher) >= limit) {
            return PeerChange::Crowded;
        }
        let stored = StoredPeer { octets, seen, id: announce.peer_id };
        let pos = set.insert(&stored, seeder, context.own_scope(), hasher);
        return pos.map_or(PeerChange::Full, |pos| PeerChange::Kept { pos, completed: finished });
    };
    set.renew(pos, seen, announce.peer_id);
    let completed = finished && !pos.seeder;
    // Its scope, too: a reload may have changed which ports are denied.
    let placed = set.move_to(pos, seeder, context.own_scope(), hasher);
    placed.map_or(PeerChange::Full, |pos| PeerChange::Kept { pos, completed })
}

#[cfg(test)]
#[path = "torrent_tests.rs"]
mod tests;
