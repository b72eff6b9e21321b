//! One torrent: 48 octets, with room inside for two IPv4 peers or one IPv6 peer: most torrents never have
//! more. Up to forty peers, of either or of both families, are in one heap block, and more in a
//! [`LargeSwarm`].

use crate::address::{AddressScope, ScopeSet};
use crate::admission::Policy;
use crate::announce::{Announce, Endpoint, Event, Handout, PEER_V4_LEN, PEER_V6_LEN, Tally, WirePeer};
use crate::clock::Tick;
use crate::ids::InfoHash;
use crate::peer_counts::PeerCounts;
use crate::swarm::inline::{InlinePeers, OneV6, PairV4};
use crate::swarm::large::{LargeFamily, LargeSwarm, SweepCursor};
use crate::swarm::peer::{LastSeen, PeerPos, StoredPeer, scope_of_peer};
use crate::swarm::peer_set::{PeerArray, PeerSet};
use crate::swarm::select::{PeerSlice, Pool, Requester, RolePeers, WantedRoles, select_peers};
use crate::swarm::small::{SMALL_MAX, SmallSwarm};
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
    Pair(PairV4),
    One(OneV6),
    Small(SmallSwarm),
    Large(Box<LargeSwarm>),
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
    /// In a cluster, the most records in the outbox of a shard; 0 = the announce is not published.
    pub(crate) outbox_max: usize,
}

/// What an announce has done to its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PeerChange {
    /// It is in the swarm, at `pos`; `completed`: this counts as a finished download; `renewed`: when it is
    /// seen now, unless it is as it was and was renewed lately.
    Kept { pos: PeerPos, completed: bool, renewed: Option<Tick> },
    /// It is not in the swarm, or no longer.
    Gone,
    /// It was not added: there are too many peers at its address.
    Crowded,
    /// It was not added: the memory budget is used up.
    Full,
}

impl Torrent {
    pub(crate) fn new(info_hash: InfoHash) -> Self {
        Self { info_hash, completed: 0, peers: SwarmForm::Pair(PairV4::default()) }
    }

    /// Starts fetching into the cache what an announce will look at beyond the torrent itself.
    pub(crate) fn prefetch_peers(&self) {
        match &self.peers {
            SwarmForm::Idle(_) | SwarmForm::Pair(_) | SwarmForm::One(_) => {}
            SwarmForm::Small(small) => prefetch(small.octets_and_ages()),
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
            (SwarmForm::One(one), WirePeer::V6(peer)) => apply_to_set(one, peer, context),
            (SwarmForm::Small(small), WirePeer::V6(peer)) => apply_to_set(small, peer, context),
            (SwarmForm::Large(swarm), WirePeer::V6(peer)) => match &mut swarm.v6 {
                Some(large) => apply_to_set(&mut **large, peer, context),
                None => PeerChange::Gone,
            },
            (SwarmForm::Idle(_), _)
            | (SwarmForm::Pair(_), WirePeer::V6(_))
            | (SwarmForm::One(_), WirePeer::V4(_)) => PeerChange::Gone,
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
            (SwarmForm::One(one), WirePeer::V6(peer)) => one.find(&peer, seeder, hasher),
            (SwarmForm::Small(small), WirePeer::V6(peer)) => small.find(&peer, seeder, hasher),
            (SwarmForm::Large(swarm), WirePeer::V6(peer)) => swarm.v6.as_ref()?.find(&peer, seeder, hasher),
            (SwarmForm::Idle(_), _)
            | (SwarmForm::Pair(_), WirePeer::V6(_))
            | (SwarmForm::One(_), WirePeer::V4(_)) => None,
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
        // Over UDP there is no room for the other family.
        let v4 = |own, want, random: &mut _, handout: &mut Handout<'_>| {
            if handout.v4.room() > 0
                && let Some(pool) = self.v4_pool()
            {
                select_peers(pool, &requester, own, want, random, &mut handout.v4);
            }
            handout.v4.peers()
        };
        let v6 = |own, want, random: &mut _, handout: &mut Handout<'_>| {
            if handout.v6.room() > 0
                && let Some(pool) = self.v6_pool()
            {
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
            SwarmForm::Idle(_) | SwarmForm::One(_) => None,
            SwarmForm::Pair(pair) => Some(array_pool(pair, pair.scopes(), false)),
            SwarmForm::Small(small) => Some(array_pool(small, small.scopes, small.with_ids())),
            SwarmForm::Large(swarm) => Some(swarm.v4.pool()),
        }
    }

    fn v6_pool(&self) -> Option<Pool<'_, PEER_V6_LEN>> {
        match &self.peers {
            SwarmForm::Idle(_) | SwarmForm::Pair(_) => None,
            SwarmForm::One(one) => Some(array_pool(one, one.scopes(), false)),
            SwarmForm::Small(small) => Some(array_pool(small, small.scopes, small.with_ids())),
            SwarmForm::Large(swarm) => swarm.v6.as_deref().map(LargeFamily::pool),
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
            SwarmForm::One(one) => one.paused(),
            SwarmForm::Small(small) => small.paused_of_both(),
            SwarmForm::Large(swarm) => swarm.v4.paused() + swarm.v6.as_ref().map_or(0, |v6| v6.paused()),
        };
        Tally { paused, ..self.tally() }
    }

    pub(crate) fn peer_counts(&self) -> PeerCounts {
        let (v4, v6) = match &self.peers {
            SwarmForm::Idle(_) => ((0, 0), (0, 0)),
            SwarmForm::Pair(pair) => (array_roles(pair), (0, 0)),
            SwarmForm::One(one) => ((0, 0), array_roles(one)),
            SwarmForm::Small(small) => return small.peer_counts(),
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
            SwarmForm::Idle(_) | SwarmForm::Pair(_) | SwarmForm::One(_) => 0,
            SwarmForm::Small(small) => small.heap(),
            SwarmForm::Large(swarm) => swarm.heap(),
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
        let looked = match &mut self.peers {
            SwarmForm::Idle(_) => 0,
            SwarmForm::Pair(pair) => expire_inline(pair, expired, policy),
            SwarmForm::One(one) => expire_inline(one, expired, policy),
            SwarmForm::Small(small) => {
                let looked = small.len_of_both();
                PeerArray::<PEER_V4_LEN>::expire(small, expired);
                PeerArray::<PEER_V6_LEN>::expire(small, expired);
                let v4 = PeerArray::<PEER_V4_LEN>::current_scopes(small, policy);
                small.scopes = v4.union(PeerArray::<PEER_V6_LEN>::current_scopes(small, policy));
                looked
            }
            SwarmForm::Large(swarm) => return swarm.expire(now, policy, cursor, most, hasher),
        };
        (looked, true)
    }

    /// Changes to the smallest form that holds the peers.
    pub(crate) fn shrink_form(&mut self, policy: &Policy, hasher: &KeyedHash) {
        if let SwarmForm::Large(swarm) = &mut self.peers {
            swarm.keep_ids(policy.keep_peer_ids);
            swarm.drop_empty_v6();
            // At half of what makes it large, so that it does not change its form with every peer.
            if swarm.len() <= SMALL_MAX / 2 {
                let mut small = SmallSwarm::new(policy.keep_peer_ids);
                copy_family(&swarm.v4, &mut small, policy, hasher);
                if let Some(v6) = &swarm.v6 {
                    copy_family(v6, &mut small, policy, hasher);
                }
                self.peers = SwarmForm::Small(small);
            }
        }
        if let SwarmForm::Small(small) = &mut self.peers {
            small.keep_ids(policy.keep_peer_ids);
            self.peers = match small.lens() {
                [v4, 0] if v4 <= PairV4::ROOM && !small.with_ids() => {
                    let mut pair = PairV4::default();
                    copy_array(small, &mut pair, policy, hasher);
                    SwarmForm::Pair(pair)
                }
                [0, v6] if v6 <= OneV6::ROOM && !small.with_ids() => {
                    let mut one = OneV6::default();
                    copy_array(small, &mut one, policy, hasher);
                    SwarmForm::One(one)
                }
                _ => return small.shrink(),
            };
        }
    }

    /// Changes to a form with room for this peer, if it is not there yet.
    pub(crate) fn make_room(&mut self, wire: WirePeer, policy: &Policy, hasher: &KeyedHash) {
        let keep_ids = policy.keep_peer_ids;
        match (&self.peers, wire) {
            (SwarmForm::Pair(pair), WirePeer::V4(peer)) if !keep_ids && has_room(pair, &peer) => return,
            (SwarmForm::One(one), WirePeer::V6(peer)) if !keep_ids && has_room(one, &peer) => return,
            (SwarmForm::Idle(_), WirePeer::V4(_)) if !keep_ids => {
                self.peers = SwarmForm::Pair(PairV4::default());
            }
            (SwarmForm::Idle(_), WirePeer::V6(_)) if !keep_ids => {
                self.peers = SwarmForm::One(OneV6::default());
            }
            (SwarmForm::Pair(pair), WirePeer::V6(_)) if !keep_ids && pair.octets().is_empty() => {
                self.peers = SwarmForm::One(OneV6::default());
            }
            (SwarmForm::Idle(_), _) => self.peers = SwarmForm::Small(SmallSwarm::new(true)),
            (SwarmForm::Pair(pair), _) => self.peers = small_from(pair, policy, hasher),
            (SwarmForm::One(one), _) => self.peers = small_from(one, policy, hasher),
            (SwarmForm::Small(small), _) if !small.has_room(wire) => {
                self.peers = SwarmForm::Large(Box::new(large_from(small, policy, hasher)));
            }
            (SwarmForm::Small(_) | SwarmForm::Large(_), _) => {}
        }
        match &mut self.peers {
            SwarmForm::Small(small) if keep_ids => small.keep_ids(true),
            SwarmForm::Large(swarm) => swarm.make_room(wire, keep_ids),
            _ => {}
        }
    }
}

impl AnnounceContext<'_> {
    /// Returns the scope of the announced peer, with its port taken into account.
    fn own_scope(&self) -> AddressScope {
        self.policy.scope_with_port(self.scope, self.announce.port)
    }
}

fn array_pool<const LEN: usize>(
    array: &impl PeerArray<LEN>,
    scopes: ScopeSet,
    with_ids: bool,
) -> Pool<'_, LEN> {
    let seeders = array.seeders();
    let (seeder_octets, leecher_octets) = array.octets().split_at_checked(seeders).unwrap_or_default();
    let (seeder_ids, leecher_ids) = array.ids().split_at_checked(seeders).unwrap_or_default();
    Pool {
        seeders: RolePeers::Array(PeerSlice { octets: seeder_octets, ids: seeder_ids }),
        leechers: RolePeers::Array(PeerSlice { octets: leecher_octets, ids: leecher_ids }),
        others: &[],
        with_ids,
        scopes,
    }
}

/// Whether the peer is there already, or there is room for one more.
fn has_room<const LEN: usize, const MAX: usize>(inline: &InlinePeers<LEN, MAX>, peer: &[u8; LEN]) -> bool {
    inline.octets().len() < MAX || inline.octets().contains(peer)
}

fn expire_inline<const LEN: usize, const MAX: usize>(
    inline: &mut InlinePeers<LEN, MAX>,
    expired: impl FnMut(LastSeen) -> bool,
    policy: &Policy,
) -> usize
where
    [u8; LEN]: Endpoint,
{
    let looked = inline.octets().len();
    inline.expire(expired);
    inline.set_scopes(inline.current_scopes(policy));
    looked
}

/// Copies all peers of an array into another form, which has room for them.
fn copy_array<const LEN: usize>(
    array: &impl PeerArray<LEN>,
    to: &mut impl PeerSet<LEN>,
    policy: &Policy,
    hasher: &KeyedHash,
) where
    [u8; LEN]: Endpoint,
{
    for place in 0..array.octets().len() {
        if let Some(stored) = array.peer_at(place) {
            to.insert(&stored, place < array.seeders(), scope_of_peer(&stored.octets, policy), hasher);
        }
    }
}

/// Copies all peers of a large swarm's family into a small one, which has room for them.
fn copy_family<const LEN: usize>(
    family: &LargeFamily<LEN>,
    small: &mut SmallSwarm,
    policy: &Policy,
    hasher: &KeyedHash,
) where
    [u8; LEN]: Endpoint,
{
    for (stored, seeder) in family.stored_peers() {
        small.insert(&stored, seeder, scope_of_peer(&stored.octets, policy), hasher);
    }
}

/// Makes a small swarm of the peers inside a torrent.
fn small_from<const LEN: usize, const MAX: usize>(
    inline: &InlinePeers<LEN, MAX>,
    policy: &Policy,
    hasher: &KeyedHash,
) -> SwarmForm
where
    [u8; LEN]: Endpoint,
{
    let mut small = SmallSwarm::new(policy.keep_peer_ids);
    copy_array(inline, &mut small, policy, hasher);
    SwarmForm::Small(small)
}

/// Makes a large swarm of the peers of a small one.
fn large_from(small: &SmallSwarm, policy: &Policy, hasher: &KeyedHash) -> LargeSwarm {
    let mut large = LargeSwarm::new(small.with_ids());
    copy_array(small, &mut large.v4, policy, hasher);
    if small.lens()[1] > 0 {
        copy_array(small, large.v6_or_new(), policy, hasher);
    }
    large
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
    let paused = announce.event == Event::Paused && !seeder;
    let finished = seeder && announce.event == Event::Completed;
    let Some(pos) = known else {
        if !context.may_grow {
            return PeerChange::Full;
        }
        if hasher.peers_limit(&octets).is_some_and(|limit| set.count_at_address(&octets, hasher) >= limit) {
            return PeerChange::Crowded;
        }
        let seen = LastSeen::new(context.now, paused);
        let stored = StoredPeer { octets, seen, id: announce.peer_id };
        let pos = set.insert(&stored, seeder, context.own_scope(), hasher);
        let renewed = Some(context.now);
        return pos.map_or(PeerChange::Full, |pos| PeerChange::Kept { pos, completed: finished, renewed });
    };
    let known = if context.is_in_cluster() { set.stored(pos) } else { None };
    let renews = known.is_none_or(|known| pos.seeder != seeder || context.renews(&known, paused));
    let renewed = renews.then(|| {
        // Never earlier than another node has seen it.
        let ahead_seconds = known.map_or(0, |known| known.seen.ahead_seconds(context.now));
        Tick(context.now.0.wrapping_add(ahead_seconds))
    });
    if let Some(seen) = renewed {
        set.renew(pos, LastSeen::new(seen, paused), announce.peer_id);
    }
    let completed = finished && !pos.seeder;
    // Its scope, too: a reload may have changed which ports are denied.
    let placed = set.move_to(pos, seeder, context.own_scope(), hasher);
    placed.map_or(PeerChange::Full, |pos| PeerChange::Kept { pos, completed, renewed })
}

#[cfg(test)]
#[path = "torrent_tests.rs"]
mod tests;
