//! One torrent: 48 octets, with room inside for the two IPv4 peers that most torrents never exceed; more
//! peers, IPv6 peers and peer ids live in a [`Swarm`] on the heap.

use std::net::IpAddr;

use crate::announce::{Announce, Event, Handout, PEER_V4_LEN, PEER_V6_LEN, Tally};
use crate::clock::Tick;
use crate::family::{Endpoint, Family, Keys, Roster, Seen, block, reach_of};
use crate::few::{FEW, Few};
use crate::ids::InfoHash;
use crate::policy::Policy;
use crate::reach::{Reach, ReachSet};
use crate::select::{Asker, Pool, Wants, choose};

/// One torrent.
#[derive(Debug)]
pub(crate) struct Torrent {
    pub(crate) info_hash: InfoHash,
    pub(crate) completed: u32,
    peers: Peers,
}

const _: () = assert!(size_of::<Torrent>() == 48);

#[derive(Debug)]
enum Peers {
    /// No peers since then; only the completed count is worth remembering.
    Idle(Tick),
    Few(Few),
    Many(Box<Swarm>),
}

/// A swarm on the heap.
#[derive(Debug, Default)]
pub(crate) struct Swarm {
    v4: Family<PEER_V4_LEN>,
    v6: Option<Box<Family<PEER_V6_LEN>>>,
}

/// What an announce is decided by.
pub(crate) struct Context<'a> {
    pub(crate) now: Tick,
    pub(crate) policy: &'a Policy,
    pub(crate) keys: &'a Keys,
    /// Where the asker is reached.
    pub(crate) reach: Reach,
    pub(crate) announce: &'a Announce,
    /// May peers be added? False when the memory budget is used up.
    pub(crate) may_grow: bool,
}

/// What became of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// In the swarm, in this place; where it was first (a peer that made room for it is there now); and
    /// whether this counts as a finished download.
    Kept { place: usize, came_from: usize, completed: bool },
    /// Not in the swarm (any more).
    Gone,
    /// Not added: too many peers of its address are there.
    Crowded,
    /// Not added: no memory.
    Full,
}

/// How many peers of each family and role a swarm or a shard has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// IPv4 peers with `left` = 0.
    pub v4_seeders: u32,
    /// All other IPv4 peers.
    pub v4_leechers: u32,
    /// IPv6 peers with `left` = 0.
    pub v6_seeders: u32,
    /// All other IPv6 peers.
    pub v6_leechers: u32,
}

impl Census {
    /// Peers of both families and roles.
    #[must_use]
    pub fn peers(self) -> u32 {
        self.v4_seeders + self.v4_leechers + self.v6_seeders + self.v6_leechers
    }

    /// The census after a swarm in it has changed.
    pub(crate) fn replace(&mut self, before: Self, after: Self) {
        self.v4_seeders = self.v4_seeders + after.v4_seeders - before.v4_seeders;
        self.v4_leechers = self.v4_leechers + after.v4_leechers - before.v4_leechers;
        self.v6_seeders = self.v6_seeders + after.v6_seeders - before.v6_seeders;
        self.v6_leechers = self.v6_leechers + after.v6_leechers - before.v6_leechers;
    }
}

/// Where a sweep stands inside one torrent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PeerCursor {
    /// The family in work and the place before which to go on; `None` = not begun.
    at: Option<(Leg, usize)>,
    found: ReachSet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leg {
    V4,
    V6,
}

impl Torrent {
    pub(crate) fn new(info_hash: InfoHash) -> Self {
        Self { info_hash, completed: 0, peers: Peers::Few(Few::default()) }
    }

    /// Changes the swarm as the announce says.
    pub(crate) fn change(&mut self, context: &Context<'_>) -> Change {
        self.make_room(context);
        let change = match (&mut self.peers, wire_of(context.announce)) {
            (Peers::Idle(_), _) => Change::Gone,
            (Peers::Few(few), Wire::V4(peer)) => change_in(few, peer, context),
            (Peers::Few(_), Wire::V6(_)) => Change::Gone,
            (Peers::Many(swarm), Wire::V4(peer)) => change_in_family(&mut swarm.v4, peer, context),
            (Peers::Many(swarm), Wire::V6(peer)) => match &mut swarm.v6 {
                Some(family) => change_in_family(family, peer, context),
                None => Change::Gone,
            },
        };
        if matches!(change, Change::Kept { completed: true, .. }) {
            self.completed = self.completed.saturating_add(1);
        }
        change
    }

    /// Hands out peers of the asker's family first, then of the other, where the handout has room for it.
    pub(crate) fn hand_out(
        &self,
        context: &Context<'_>,
        own: Option<usize>,
        random: &mut fastrand::Rng,
        handout: &mut Handout<'_>,
    ) {
        let announce = context.announce;
        let wants = match (announce.left, announce.event) {
            (0, Event::Started) => Wants::LeechersThenSeeders,
            (0, _) => Wants::Leechers,
            _ => Wants::Both,
        };
        let visible = context.policy.private_peers.visible_to(context.reach);
        let asker = Asker { wants, visible, id: announce.peer_id, policy: context.policy };
        let want = usize::from(announce.num_want);
        let v4 = |own, want, random: &mut _, handout: &mut Handout<'_>| {
            choose(self.v4_pool(context.policy), &asker, own, want, random, &mut handout.v4);
            handout.v4.peers()
        };
        let v6 = |own, want, random: &mut _, handout: &mut Handout<'_>| {
            if let Some(pool) = self.v6_pool() {
                choose(pool, &asker, own, want, random, &mut handout.v6);
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

    fn v4_pool(&self, policy: &Policy) -> Pool<'_, PEER_V4_LEN> {
        match &self.peers {
            Peers::Idle(_) => Pool { octets: &[], seeders: 0, ids: None, reach: ReachSet::NONE },
            Peers::Few(few) => {
                let reach =
                    few.octets().iter().fold(ReachSet::NONE, |set, peer| set.with(reach_of(peer, policy)));
                Pool { octets: few.octets(), seeders: few.seeders(), ids: None, reach }
            }
            Peers::Many(swarm) => family_pool(&swarm.v4),
        }
    }

    fn v6_pool(&self) -> Option<Pool<'_, PEER_V6_LEN>> {
        match &self.peers {
            Peers::Many(swarm) => swarm.v6.as_deref().map(family_pool),
            _ => None,
        }
    }

    pub(crate) fn tally(&self) -> Tally {
        let census = self.census();
        let paused = match &self.peers {
            Peers::Idle(_) => 0,
            Peers::Few(few) => few.seen().iter().map(|seen| u32::from(seen.paused())).sum(),
            Peers::Many(swarm) => swarm.v4.paused() + swarm.v6.as_ref().map_or(0, |v6| v6.paused()),
        };
        Tally {
            seeders: census.v4_seeders + census.v6_seeders,
            completed: self.completed,
            leechers: census.v4_leechers + census.v6_leechers,
            paused,
        }
    }

    pub(crate) fn census(&self) -> Census {
        let (v4, v6) = match &self.peers {
            Peers::Idle(_) => ((0, 0), (0, 0)),
            Peers::Few(few) => (roles(few), (0, 0)),
            Peers::Many(swarm) => (roles(&swarm.v4), swarm.v6.as_deref().map_or((0, 0), roles)),
        };
        Census { v4_seeders: v4.0, v4_leechers: v4.1, v6_seeders: v6.0, v6_leechers: v6.1 }
    }

    pub(crate) fn is_idle_since(&self, tick: Tick) -> bool {
        matches!(self.peers, Peers::Idle(since) if since == tick)
    }

    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.peers, Peers::Idle(_))
    }

    pub(crate) fn make_idle(&mut self, now: Tick) {
        self.peers = Peers::Idle(now);
    }

    /// Octets on the heap, by our own count.
    pub(crate) fn heap(&self) -> usize {
        match &self.peers {
            Peers::Idle(_) | Peers::Few(_) => 0,
            Peers::Many(swarm) => {
                let v6 =
                    swarm.v6.as_ref().map_or(0, |v6| block(size_of::<Family<PEER_V6_LEN>>()) + v6.heap());
                block(size_of::<Swarm>()) + swarm.v4.heap() + v6
            }
        }
    }

    /// Drops expired peers, looking at `most` of them at most. Gives how many places were looked at, and
    /// whether the torrent is done.
    pub(crate) fn expire(
        &mut self,
        now: Tick,
        policy: &Policy,
        cursor: &mut PeerCursor,
        most: usize,
        keys: &Keys,
    ) -> (usize, bool) {
        let lifetime = policy.peer_inactivity_seconds;
        let looked = match &mut self.peers {
            Peers::Idle(_) => 0,
            Peers::Few(few) => {
                few.expire(now, lifetime, FEW, FEW, keys);
                FEW
            }
            Peers::Many(swarm) => return swarm.expire(now, policy, cursor, most, keys),
        };
        (looked, true)
    }

    /// Goes back to the smallest form that holds the peers.
    pub(crate) fn settle(&mut self, policy: &Policy) {
        let Peers::Many(swarm) = &mut self.peers else { return };
        if !policy.keep_peer_ids {
            swarm.v4.drop_ids();
            swarm.v6.iter_mut().for_each(|v6| v6.drop_ids());
        }
        if swarm.v6.as_ref().is_some_and(|v6| v6.octets().is_empty()) {
            swarm.v6 = None;
        }
        if let (None, None, Some(few)) = (&swarm.v6, swarm.v4.ids(), Few::of(&swarm.v4)) {
            self.peers = Peers::Few(few);
            return;
        }
        swarm.v4.shrink();
        if let Some(v6) = &mut swarm.v6 {
            v6.shrink();
        }
    }

    /// Makes sure that the announced peer fits into the torrent's form, if it may come in.
    fn make_room(&mut self, context: &Context<'_>) {
        if context.announce.event == Event::Stopped || !context.may_grow {
            return;
        }
        if self.is_idle() {
            self.peers = Peers::Few(Few::default());
        }
        let (wire, keep_ids) = (wire_of(context.announce), context.policy.keep_peer_ids);
        if let Peers::Few(few) = &self.peers {
            let fits = match wire {
                Wire::V4(peer) => few.has_room() || few.octets().contains(&peer),
                Wire::V6(_) => false,
            };
            if fits && !keep_ids {
                return;
            }
            self.peers =
                Peers::Many(Box::new(Swarm { v4: few.to_family(context.policy, context.keys), v6: None }));
        }
        if let Peers::Many(swarm) = &mut self.peers {
            if matches!(wire, Wire::V6(_)) {
                swarm.v6.get_or_insert_default();
            }
            if keep_ids {
                swarm.v4.keep_ids();
                swarm.v6.iter_mut().for_each(|v6| v6.keep_ids());
            }
        }
    }
}

impl Swarm {
    fn expire(
        &mut self,
        now: Tick,
        policy: &Policy,
        cursor: &mut PeerCursor,
        most: usize,
        keys: &Keys,
    ) -> (usize, bool) {
        let leg = cursor.at.map_or(Leg::V4, |(leg, _)| leg);
        let (looked, left) = match (leg, &mut self.v6) {
            (Leg::V4, _) => expire_leg(&mut self.v4, leg, now, policy, cursor, most, keys),
            (Leg::V6, Some(v6)) => expire_leg(v6, leg, now, policy, cursor, most, keys),
            (Leg::V6, None) => (0, 0),
        };
        if left == 0 && leg == Leg::V4 && self.v6.is_some() {
            *cursor = PeerCursor { at: Some((Leg::V6, usize::MAX)), found: ReachSet::NONE };
            return (looked, false);
        }
        (looked, left == 0)
    }
}

fn expire_leg<const LEN: usize>(
    family: &mut Family<LEN>,
    leg: Leg,
    now: Tick,
    policy: &Policy,
    cursor: &mut PeerCursor,
    most: usize,
    keys: &Keys,
) -> (usize, usize)
where
    [u8; LEN]: Endpoint,
{
    let len = family.octets().len();
    let from = match cursor.at {
        Some((_, from)) if from <= len => from,
        _ => {
            family.begin_look();
            cursor.found = ReachSet::NONE;
            len
        }
    };
    let left = family.expire(now, policy.peer_inactivity_seconds, from, most, keys);
    // Behind `from` are peers that were looked at before, or that came since and are in the fresh set.
    let kept = left..from.min(family.octets().len());
    // A look at every peer, because a reload may have changed which ports are denied.
    cursor.found = cursor.found.and(family.look(kept, policy));
    if left == 0 {
        family.end_look(cursor.found);
    }
    cursor.at = Some((leg, left));
    (from - left, left)
}

fn family_pool<const LEN: usize>(family: &Family<LEN>) -> Pool<'_, LEN>
where
    [u8; LEN]: Endpoint,
{
    Pool { octets: family.octets(), seeders: family.seeders(), ids: family.ids(), reach: family.reach() }
}

fn roles<const LEN: usize>(roster: &impl Roster<LEN>) -> (u32, u32)
where
    [u8; LEN]: Endpoint,
{
    let count = |peers: usize| u32::try_from(peers).unwrap_or(u32::MAX);
    (count(roster.seeders()), count(roster.octets().len() - roster.seeders()))
}

fn change_in_family<const LEN: usize>(
    family: &mut Family<LEN>,
    peer: [u8; LEN],
    context: &Context<'_>,
) -> Change
where
    [u8; LEN]: Endpoint,
{
    let change = change_in(family, peer, context);
    if let Change::Kept { place, came_from, .. } = change {
        family.add_reach(context.policy.reach_of_port(context.reach, context.announce.port));
        if place != came_from {
            family.look_again(came_from, context.policy);
        }
    }
    change
}

fn change_in<const LEN: usize>(
    roster: &mut impl Roster<LEN>,
    peer: [u8; LEN],
    context: &Context<'_>,
) -> Change
where
    [u8; LEN]: Endpoint,
{
    let (keys, announce) = (context.keys, context.announce);
    let known = roster.find(&peer, keys);
    if announce.event == Event::Stopped {
        if let Some(place) = known {
            roster.remove(place, keys);
        }
        return Change::Gone;
    }
    let seeder = announce.left == 0;
    let seen = Seen::new(context.now, announce.event == Event::Paused && !seeder);
    let finished = seeder && announce.event == Event::Completed;
    let Some(place) = known else {
        if !context.may_grow {
            return Change::Full;
        }
        if keys.limit_at(&peer).is_some_and(|limit| roster.neighbours(&peer, keys) >= limit) {
            return Change::Crowded;
        }
        let place = roster.insert(peer, seen, announce.peer_id, seeder, keys);
        return Change::Kept { place, came_from: roster.octets().len() - 1, completed: finished };
    };
    roster.set_seen(place, seen);
    roster.set_id(place, announce.peer_id);
    let was_seeder = place < roster.seeders();
    let came_from = place;
    let place = match (was_seeder, seeder) {
        (false, true) => roster.promote(place, keys),
        (true, false) => roster.demote(place, keys),
        _ => place,
    };
    Change::Kept { place, came_from, completed: finished && !was_seeder }
}

/// A peer as it goes on the wire.
enum Wire {
    V4([u8; PEER_V4_LEN]),
    V6([u8; PEER_V6_LEN]),
}

fn wire_of(announce: &Announce) -> Wire {
    let [high, low] = announce.port.to_be_bytes();
    match announce.address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            Wire::V4([a, b, c, d, high, low])
        }
        IpAddr::V6(address) => {
            let mut peer = [0; PEER_V6_LEN];
            if let Some((host, port)) = peer.split_first_chunk_mut::<16>() {
                *host = address.octets();
                port.copy_from_slice(&[high, low]);
            }
            Wire::V6(peer)
        }
    }
}
