//! One torrent: 48 octets, with room inside for the two IPv4 peers that most torrents never exceed. More of
//! them are in one heap block, and from forty on, or with IPv6 peers or peer ids, in a [`Swarm`] on the heap.

use crate::address::{Reach, ReachSet};
use crate::admission::Policy;
use crate::announce::{Announce, Event, Handout, PEER_V4_LEN, PEER_V6_LEN, Tally};
use crate::clock::Tick;
use crate::ids::InfoHash;
use crate::peer_counts::Census;
use crate::swarm::block::allocation;
use crate::swarm::large::{Crowd, CrowdCursor};
use crate::swarm::pair::{PAIR, Pair};
use crate::swarm::peer::{Endpoint, Member, Seen, Spot, Wire, reach_of};
use crate::swarm::peer_set::{Roster, Row};
use crate::swarm::select::{Asker, Pool, Stock, Wants, choose};
use crate::swarm::small::{GROUP, GROUP_ROOM, Group};
use crate::table::keyed_hash::Keys;
use crate::table::prefetch::prefetch;

/// One torrent.
#[derive(Debug)]
pub(crate) struct Torrent {
    pub(crate) info_hash: InfoHash,
    pub(crate) completed: u32,
    pub(crate) peers: Peers,
}

const _: () = assert!(size_of::<Torrent>() == 48);

/// The peers of a torrent, in the form that suits how many they are.
#[derive(Debug)]
pub(crate) enum Peers {
    /// No peers since then; only the completed count is worth remembering.
    Idle(Tick),
    Pair(Pair),
    Group(Group),
    Crowd(Box<Swarm>),
}

/// A swarm on the heap.
#[derive(Debug)]
pub(crate) struct Swarm {
    pub(crate) v4: Crowd<PEER_V4_LEN>,
    pub(crate) v6: Option<Box<Crowd<PEER_V6_LEN>>>,
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
    /// In the swarm, there; and whether this counts as a finished download.
    Kept { spot: Spot, completed: bool },
    /// Not in the swarm (any more).
    Gone,
    /// Not added: too many peers of its address are there.
    Crowded,
    /// Not added: no memory.
    Full,
}

/// Where a sweep stands inside one torrent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum PeerCursor {
    /// Not begun.
    #[default]
    Start,
    V4(CrowdCursor),
    /// IPv4 is done.
    V6(Option<CrowdCursor>),
}

impl Torrent {
    pub(crate) fn new(info_hash: InfoHash) -> Self {
        Self { info_hash, completed: 0, peers: Peers::Pair(Pair::default()) }
    }

    /// Starts fetching what an announce will look at beyond the torrent itself.
    pub(crate) fn prefetch_peers(&self) {
        match &self.peers {
            Peers::Idle(_) | Peers::Pair(_) => {}
            Peers::Group(group) => prefetch(group.bytes()),
            Peers::Crowd(swarm) => prefetch(&**swarm),
        }
    }

    /// Changes the swarm as the announce says.
    pub(crate) fn change(&mut self, context: &Context<'_>) -> Change {
        let wire = Wire::of(context.announce);
        if context.announce.event != Event::Stopped && context.may_grow {
            self.make_room(wire, context.policy, context.keys);
        }
        let change = match (&mut self.peers, wire) {
            (Peers::Pair(pair), Wire::V4(peer)) => change_in(pair, peer, context),
            (Peers::Group(group), Wire::V4(peer)) => change_in(group, peer, context),
            (Peers::Crowd(swarm), Wire::V4(peer)) => change_in(&mut swarm.v4, peer, context),
            (Peers::Crowd(swarm), Wire::V6(peer)) => match &mut swarm.v6 {
                Some(crowd) => change_in(&mut **crowd, peer, context),
                None => Change::Gone,
            },
            (Peers::Idle(_), _) | (Peers::Pair(_) | Peers::Group(_), Wire::V6(_)) => Change::Gone,
        };
        if matches!(change, Change::Kept { completed: true, .. }) {
            self.completed = self.completed.saturating_add(1);
        }
        change
    }

    /// Where the announced peer stands, if it is here.
    pub(crate) fn find(&self, context: &Context<'_>) -> Option<Spot> {
        let (seeder, keys) = (context.announce.left == 0, context.keys);
        match (&self.peers, Wire::of(context.announce)) {
            (Peers::Pair(pair), Wire::V4(peer)) => pair.find(&peer, seeder, keys),
            (Peers::Group(group), Wire::V4(peer)) => group.find(&peer, seeder, keys),
            (Peers::Crowd(swarm), Wire::V4(peer)) => swarm.v4.find(&peer, seeder, keys),
            (Peers::Crowd(swarm), Wire::V6(peer)) => swarm.v6.as_ref()?.find(&peer, seeder, keys),
            (Peers::Idle(_), _) | (Peers::Pair(_) | Peers::Group(_), Wire::V6(_)) => None,
        }
    }

    /// Hands out peers of the asker's family first, then of the other, where the handout has room for it.
    pub(crate) fn hand_out(
        &self,
        context: &Context<'_>,
        own: Option<Spot>,
        random: &mut fastrand::Rng,
        handout: &mut Handout<'_>,
    ) {
        let announce = context.announce;
        if announce.num_want == 0 || self.census().peers() <= u32::from(own.is_some()) {
            return;
        }
        let wants = match (announce.left, announce.event) {
            (0, Event::Started) => Wants::LeechersThenSeeders,
            (0, _) => Wants::Leechers,
            _ => Wants::Both,
        };
        let visible = context.policy.private_peers.visible_to(context.reach);
        let asker = Asker { wants, visible, id: announce.peer_id, policy: context.policy };
        let want = usize::from(announce.num_want);
        let v4 = |own, want, random: &mut _, handout: &mut Handout<'_>| {
            if let Some(pool) = self.v4_pool() {
                choose(pool, &asker, own, want, random, &mut handout.v4);
            }
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

    fn v4_pool(&self) -> Option<Pool<'_, PEER_V4_LEN>> {
        match &self.peers {
            Peers::Idle(_) => None,
            Peers::Pair(pair) => Some(row_pool(pair, pair.reach)),
            Peers::Group(group) => Some(row_pool(group, group.reach)),
            Peers::Crowd(swarm) => Some(swarm.v4.pool()),
        }
    }

    fn v6_pool(&self) -> Option<Pool<'_, PEER_V6_LEN>> {
        match &self.peers {
            Peers::Crowd(swarm) => swarm.v6.as_deref().map(Crowd::pool),
            _ => None,
        }
    }

    pub(crate) fn tally(&self) -> Tally {
        let census = self.census();
        Tally {
            seeders: census.v4_seeders + census.v6_seeders,
            completed: self.completed,
            leechers: census.v4_leechers + census.v6_leechers,
            paused: 0,
        }
    }

    /// The tally with the partial seeds, for which small swarms are gone through.
    pub(crate) fn tally_with_paused(&self) -> Tally {
        let paused = match &self.peers {
            Peers::Idle(_) => 0,
            Peers::Pair(pair) => pair.paused(),
            Peers::Group(group) => group.paused(),
            Peers::Crowd(swarm) => swarm.v4.paused() + swarm.v6.as_ref().map_or(0, |v6| v6.paused()),
        };
        Tally { paused, ..self.tally() }
    }

    pub(crate) fn census(&self) -> Census {
        let (v4, v6) = match &self.peers {
            Peers::Idle(_) => ((0, 0), (0, 0)),
            Peers::Pair(pair) => (roles_of_row(pair), (0, 0)),
            Peers::Group(group) => (roles_of_row(group), (0, 0)),
            Peers::Crowd(swarm) => (swarm.v4.roles(), swarm.v6.as_deref().map_or((0, 0), Crowd::roles)),
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
            Peers::Idle(_) | Peers::Pair(_) => 0,
            Peers::Group(group) => group.heap(),
            Peers::Crowd(swarm) => {
                let of_v6 = |v6: &Crowd<_>| allocation(size_of::<Crowd<PEER_V6_LEN>>()) + v6.heap();
                let v6 = swarm.v6.as_deref().map_or(0, of_v6);
                allocation(size_of::<Swarm>()) + swarm.v4.heap() + v6
            }
        }
    }

    /// Drops expired peers, looking at `most` of them, or a few more. Gives how many places were looked at,
    /// and whether the torrent is done.
    pub(crate) fn expire(
        &mut self,
        now: Tick,
        policy: &Policy,
        cursor: &mut PeerCursor,
        most: usize,
        keys: &Keys,
    ) -> (usize, bool) {
        let expired = |seen: Seen| seen.age_seconds(now) > policy.peer_inactivity_seconds;
        match &mut self.peers {
            Peers::Idle(_) => (0, true),
            Peers::Pair(pair) => {
                let looked = pair.octets().len();
                pair.expire(expired);
                pair.reach = pair.reach_now(policy);
                (looked, true)
            }
            Peers::Group(group) => {
                let looked = group.octets().len();
                group.expire(expired);
                group.reach = group.reach_now(policy);
                (looked, true)
            }
            Peers::Crowd(swarm) => swarm.expire(now, policy, cursor, most, keys),
        }
    }

    /// Goes back to the smallest form that holds the peers.
    pub(crate) fn settle(&mut self, policy: &Policy, keys: &Keys) {
        if let Peers::Crowd(swarm) = &mut self.peers {
            swarm.keep_ids(policy.keep_peer_ids);
            if swarm.v6.as_ref().is_some_and(|v6| v6.len() == 0) {
                swarm.v6 = None;
            }
            // Half of what made it a crowd, so that it does not change its form with every peer.
            if swarm.v6.is_none() && !swarm.v4.with_ids() && swarm.v4.len() <= GROUP / 2 {
                let mut group = Group::with_room(swarm.v4.len());
                for (member, seeder) in swarm.v4.members() {
                    group.insert(&member, seeder, reach_of(&member.octets, policy), keys);
                }
                self.peers = Peers::Group(group);
            }
        }
        if let Peers::Group(group) = &mut self.peers {
            if group.octets().len() > PAIR {
                return group.shrink();
            }
            let mut pair = Pair::default();
            copy_row(group, &mut pair, policy, keys);
            self.peers = Peers::Pair(pair);
        }
    }

    /// Makes sure that a peer that may come in fits into the torrent's form.
    pub(crate) fn make_room(&mut self, wire: Wire, policy: &Policy, keys: &Keys) {
        let simple = match wire {
            Wire::V4(peer) if !policy.keep_peer_ids => Some(peer),
            _ => None,
        };
        if self.is_idle() {
            self.peers = Peers::Pair(Pair::default());
        }
        match &self.peers {
            Peers::Pair(pair) if simple.is_none() => {
                self.peers = crowd_of(pair, policy, keys);
            }
            Peers::Pair(pair) if simple.is_some_and(|peer| !fits(pair, PAIR, &peer)) => {
                let mut group = Group::with_room(GROUP_ROOM);
                copy_row(pair, &mut group, policy, keys);
                self.peers = Peers::Group(group);
            }
            Peers::Group(group) if simple.is_none_or(|peer| !fits(group, GROUP, &peer)) => {
                self.peers = crowd_of(group, policy, keys);
            }
            _ => {}
        }
        if let Peers::Crowd(swarm) = &mut self.peers {
            if matches!(wire, Wire::V6(_)) && swarm.v6.is_none() {
                swarm.v6 = Some(Box::new(Crowd::new(policy.keep_peer_ids)));
            }
            if policy.keep_peer_ids {
                swarm.keep_ids(true);
            }
        }
    }
}

impl Context<'_> {
    /// Where the announced peer can be reached from, its port considered.
    fn own_reach(&self) -> Reach {
        self.policy.reach_of_port(self.reach, self.announce.port)
    }
}

impl Swarm {
    fn keep_ids(&mut self, with_ids: bool) {
        self.v4.keep_ids(with_ids);
        self.v6.iter_mut().for_each(|v6| v6.keep_ids(with_ids));
    }

    fn expire(
        &mut self,
        now: Tick,
        policy: &Policy,
        cursor: &mut PeerCursor,
        most: usize,
        keys: &Keys,
    ) -> (usize, bool) {
        let mut looked = 0;
        let v4 = match *cursor {
            PeerCursor::Start => Some(None),
            PeerCursor::V4(at) => Some(Some(at)),
            PeerCursor::V6(_) => None,
        };
        if let Some(mut at) = v4 {
            looked = self.v4.expire(now, policy, &mut at, most, keys);
            *cursor = at.map_or(PeerCursor::V6(None), PeerCursor::V4);
        }
        match (cursor, &mut self.v6) {
            (PeerCursor::V6(_), None) => (looked, true),
            (PeerCursor::V6(at), Some(v6)) if looked < most => {
                looked += v6.expire(now, policy, at, most - looked, keys);
                (looked, at.is_none())
            }
            _ => (looked, false),
        }
    }
}

fn row_pool<const LEN: usize>(row: &impl Row<LEN>, reach: ReachSet) -> Pool<'_, LEN> {
    let (seeders, leechers) = row.octets().split_at_checked(row.seeders()).unwrap_or_default();
    Pool { seeders: Stock::Row(seeders), leechers: Stock::Row(leechers), others: &[], with_ids: false, reach }
}

/// Is the peer there already, or is there room for one more?
fn fits(row: &impl Row<PEER_V4_LEN>, most: usize, peer: &[u8; PEER_V4_LEN]) -> bool {
    row.octets().len() < most || row.octets().contains(peer)
}

/// Puts all peers of a row into another form, which has room for them.
fn copy_row(row: &impl Row<PEER_V4_LEN>, to: &mut impl Roster<PEER_V4_LEN>, policy: &Policy, keys: &Keys) {
    for place in 0..row.octets().len() {
        if let Some(member) = row.member(place) {
            to.insert(&member, place < row.seeders(), reach_of(&member.octets, policy), keys);
        }
    }
}

/// A crowd of the peers of a row.
fn crowd_of(row: &impl Row<PEER_V4_LEN>, policy: &Policy, keys: &Keys) -> Peers {
    let mut v4 = Crowd::new(policy.keep_peer_ids);
    copy_row(row, &mut v4, policy, keys);
    Peers::Crowd(Box::new(Swarm { v4, v6: None }))
}

fn roles_of_row<const LEN: usize>(row: &impl Row<LEN>) -> (u32, u32) {
    (count(row.seeders()), count(row.octets().len() - row.seeders()))
}

fn count(peers: usize) -> u32 {
    u32::try_from(peers).unwrap_or(u32::MAX)
}

fn change_in<const LEN: usize>(
    roster: &mut impl Roster<LEN>,
    octets: [u8; LEN],
    context: &Context<'_>,
) -> Change
where
    [u8; LEN]: Endpoint,
{
    let (keys, announce) = (context.keys, context.announce);
    let seeder = announce.left == 0;
    let known = roster.find(&octets, seeder, keys);
    if announce.event == Event::Stopped {
        if let Some(spot) = known {
            roster.remove(spot, keys);
        }
        return Change::Gone;
    }
    let seen = Seen::new(context.now, announce.event == Event::Paused && !seeder);
    let finished = seeder && announce.event == Event::Completed;
    let Some(spot) = known else {
        if !context.may_grow {
            return Change::Full;
        }
        if keys.limit_at(&octets).is_some_and(|limit| roster.neighbours(&octets, keys) >= limit) {
            return Change::Crowded;
        }
        let member = Member { octets, seen, id: announce.peer_id };
        let spot = roster.insert(&member, seeder, context.own_reach(), keys);
        return spot.map_or(Change::Full, |spot| Change::Kept { spot, completed: finished });
    };
    roster.renew(spot, seen, announce.peer_id);
    let completed = finished && !spot.seeder;
    // Its reach too: a reload may have changed which ports are denied.
    let placed = roster.place(spot, seeder, context.own_reach(), keys);
    placed.map_or(Change::Full, |spot| Change::Kept { spot, completed })
}

#[cfg(test)]
#[path = "torrent_tests.rs"]
mod tests;
