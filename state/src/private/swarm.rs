//! The peers of one registered torrent: seeders and leechers apart, and of both those who can be reached in
//! the same way, so that a hand-out never looks at peers of which the asker can use no address.

use hashbrown::HashSet;

use super::choice::Stock;
use super::columns::{Pack, Rank};
use super::finder::Finder;
use super::peer::{Moment, Peer, Session, Shown};
use crate::announce::Handout;
use crate::ids::PeerId;
use crate::peer_counts::Census;
use crate::snapshot::site::Role;
use crate::table::keyed_hash::Keys;
use crate::touch;

/// Peers up to which a swarm is searched from end to end, which their users' numbers, lying side by side,
/// make faster than an index; larger ones have one. Tests cross the border with fewer.
const SEARCHED_MAX: usize = if cfg!(debug_assertions) { 64 } else { 512 };
/// Peers of one user in one swarm, at most. Nobody has more clients at one torrent; but a client that is
/// started again and again has a new `peer_id` each time, so one more takes the place of the one that was
/// silent for longest.
pub(super) const SESSIONS_MAX: usize = 16;

/// All ranks, in the order of a walk. A peer that goes to a later one meanwhile is met again. So leechers
/// come first, who become seeders, and those with one address before those with both; whoever goes the other
/// way may be missed.
const RANKS: [Rank; 8] = {
    const fn rank(role: Role, shown: Shown) -> Rank {
        Rank { role, shown }
    }
    [
        rank(Role::Leecher, Shown::V4),
        rank(Role::Leecher, Shown::V6),
        rank(Role::Leecher, Shown::Both),
        rank(Role::Leecher, Shown::Nobody),
        rank(Role::Seeder, Shown::V4),
        rank(Role::Seeder, Shown::V6),
        rank(Role::Seeder, Shown::Both),
        rank(Role::Seeder, Shown::Nobody),
    ]
};

/// Where a peer is. It holds until the swarm changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    rank: Rank,
    slot: u32,
}

/// How far a walk through a swarm has come, from the last slot of each rank to the first: a peer that is
/// taken out has its slot taken by the last one, which was met already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Walk {
    /// Of [`RANKS`].
    rank: usize,
    /// Peers of this rank in slots below this are still to be met.
    slot: u32,
}

impl Default for Walk {
    fn default() -> Self {
        Self { rank: 0, slot: u32::MAX }
    }
}

/// All peers of a torrent.
#[derive(Debug)]
pub(super) struct Swarm {
    /// Those that are reached over IPv4 alone: in most swarms, all.
    seeders: Pack,
    leechers: Pack,
    /// Those of other ranks, as far as there are any.
    others: Vec<Pack>,
    index: Option<Finder>,
    /// How often a peer went to an earlier rank.
    turned_back: u32,
}

impl Default for Swarm {
    fn default() -> Self {
        let [seeders, leechers] = [Role::Seeder, Role::Leecher].map(|role| Pack::new(role, Shown::V4));
        Self { seeders, leechers, others: Vec::new(), index: None, turned_back: 0 }
    }
}

impl Swarm {
    #[inline]
    pub(super) fn seeders(&self) -> usize {
        self.seeders.len() + self.others_of(Role::Seeder).map(Pack::len).sum::<usize>()
    }

    #[inline]
    pub(super) fn leechers(&self) -> usize {
        self.leechers.len() + self.others_of(Role::Leecher).map(Pack::len).sum::<usize>()
    }

    pub(super) fn len(&self) -> usize {
        self.seeders() + self.leechers()
    }

    /// The peers that are reached over each family.
    #[inline]
    pub(super) fn census(&self) -> Census {
        let sum = |first: &Pack, role| {
            let add = |(v4, v6), pack: &Pack| (v4 + pack.reached().0, v6 + pack.reached().1);
            self.others_of(role).fold(first.reached(), add)
        };
        let (v4_seeders, v6_seeders) = sum(&self.seeders, Role::Seeder);
        let (v4_leechers, v6_leechers) = sum(&self.leechers, Role::Leecher);
        Census { v4_seeders, v4_leechers, v6_seeders, v6_leechers }
    }

    /// Octets that it takes, by our own count.
    #[inline]
    pub(super) fn memory(&self) -> usize {
        let index = if self.index.is_some() { 2 * self.len() * size_of::<Spot>() } else { 0 };
        let others = self.others.iter().map(|pack| pack.memory() + size_of::<Pack>()).sum::<usize>();
        size_of::<Self>() + self.seeders.memory() + self.leechers.memory() + others + index
    }

    /// How often a peer went to an earlier rank: a walk that began before may have missed it.
    pub(super) fn turned_back(&self) -> u32 {
        self.turned_back
    }

    /// Does this user seed here, by whatever client?
    pub(super) fn has_seeder(&self, keys: &Keys, user: u32) -> bool {
        match &self.index {
            None => self.of_role(Role::Seeder).any(|pack| pack.has_user(user)),
            Some(index) => {
                let seeds = |spot: Spot| spot.rank.role == Role::Seeder && self.user_at(spot) == Some(user);
                index.find(keys.user(user), seeds).is_some()
            }
        }
    }

    pub(super) fn find(&self, keys: &Keys, user: u32, peer_id: &PeerId) -> Option<Spot> {
        let Some(index) = &self.index else {
            let search = |pack: &Pack| {
                let slot = pack.search(user, peer_id)?;
                Some(Spot { rank: pack.rank, slot: number(slot) })
            };
            let found = search(&self.seeders).or_else(|| search(&self.leechers));
            return found.or_else(|| self.others.iter().find_map(search));
        };
        index.find(keys.user(user), |spot| {
            self.user_at(spot) == Some(user)
                && self.session(spot).is_some_and(|session| session.peer_id == *peer_id)
        })
    }

    pub(super) fn session(&self, spot: Spot) -> Option<&Session> {
        self.pack(spot.rank)?.session(spot.slot as usize)
    }

    /// Fetches where a search and a hand-out begin.
    pub(super) fn prefetch_columns(&self) {
        self.packs().for_each(Pack::prefetch);
    }

    /// Adds a peer that is not there. Where its user has [`SESSIONS_MAX`] already, the one that was silent
    /// for longest goes; tells whether one did.
    pub(super) fn add(&mut self, keys: &Keys, role: Role, peer: Peer) -> bool {
        let replaces = self.make_place(keys, peer.user);
        let user = peer.user;
        let pack = self.pack_for(Rank { role, shown: peer.shown() });
        let spot = Spot { rank: pack.rank, slot: number(pack.len()) };
        pack.push(peer);
        if self.index.is_none() && self.len() > SEARCHED_MAX {
            self.build_index(keys);
        } else if let Some(mut index) = self.index.take() {
            index.insert(keys.user(user), spot, |spot| self.hash_at(keys, spot));
            self.index = Some(index);
        }
        replaces
    }

    fn make_place(&mut self, keys: &Keys, user: u32) -> bool {
        if self.index.is_none() && !self.packs().any(|pack| pack.has_user(user)) {
            return false;
        }
        let (mut peers, mut longest) = (0, None);
        for spot in self.spots_of(keys, user) {
            peers += 1;
            let heard = self.session(spot).map_or(0, |session| session.heard);
            if longest.is_none_or(|(known, _)| heard < known) {
                longest = Some((heard, spot));
            }
        }
        let goes = longest.filter(|_| peers >= SESSIONS_MAX);
        goes.is_some_and(|(_, spot)| self.take(keys, spot).is_some())
    }

    /// Moves a peer that has this role now to its rank, where it is in another one.
    pub(super) fn settle(&mut self, keys: &Keys, spot: Spot, role: Role) {
        let shown = self.pack(spot.rank).and_then(|pack| {
            let slot = spot.slot as usize;
            Some(Shown::of(pack.v4(slot)?, pack.v6(slot)))
        });
        let Some(rank) = shown.map(|shown| Rank { role, shown }).filter(|rank| *rank != spot.rank) else {
            return;
        };
        if let Some(peer) = self.take(keys, spot) {
            let place = |rank| RANKS.iter().position(|known| *known == rank);
            self.turned_back += u32::from(place(rank) < place(spot.rank));
            self.add(keys, role, peer);
        }
    }

    /// Takes a peer out. The last of its rank takes its slot.
    pub(super) fn take(&mut self, keys: &Keys, spot: Spot) -> Option<Peer> {
        if let Some(mut index) = self.index.take() {
            index.remove(self.hash_at(keys, spot), spot);
            let len = self.pack(spot.rank).map_or(0, Pack::len);
            let last = Spot { slot: number(len).wrapping_sub(1), ..spot };
            index.moved(self.hash_at(keys, last), last, spot);
            // Half of it, so that one that comes and goes does not build it each time.
            self.index = Some(index).filter(|_| self.len() > SEARCHED_MAX / 2);
        }
        let peer = self.pack_mut(spot.rank)?.take(spot.slot as usize);
        self.others.retain(|pack| pack.len() > 0);
        peer
    }

    /// Changes a peer where it is; its user and peer_id stay. Its rank may be another one then.
    pub(super) fn change<T>(&mut self, spot: Spot, work: impl FnOnce(&mut Peer) -> T) -> Option<T> {
        self.pack_mut(spot.rank)?.change(spot.slot as usize, work)
    }

    /// Removes peers that were not heard of since `limit`, and addresses likewise, looking at `most` of them
    /// at most; gives how many were looked at and how many went. `walk` is `None` at the end.
    pub(super) fn purge(
        &mut self,
        keys: &Keys,
        limit: Moment,
        walk: &mut Option<Walk>,
        most: usize,
    ) -> (usize, usize) {
        let (mut looked_at, mut gone) = (0, 0);
        while looked_at < most
            && let Some(spot) = self.step(walk)
        {
            looked_at += 1;
            if self.session(spot).is_some_and(|session| session.heard < limit) {
                self.take(keys, spot);
                gone += 1;
            } else {
                if let Some(pack) = self.pack_mut(spot.rank) {
                    pack.forget_before(spot.slot as usize, limit);
                }
                self.settle(keys, spot, spot.rank.role);
            }
        }
        touch::looked_at(looked_at);
        if walk.is_none() {
            self.packs_mut().for_each(Pack::shrink);
            self.others.shrink_to_fit();
        }
        (looked_at, gone)
    }

    /// Shows the next peers of a walk, `most` of them at most; gives how many. `walk` is `None` at the end.
    pub(super) fn visit(
        &self,
        walk: &mut Option<Walk>,
        most: usize,
        mut each: impl FnMut(Role, Peer),
    ) -> usize {
        let mut shown = 0;
        while shown < most
            && let Some(spot) = self.step(walk)
        {
            shown += 1;
            if let Some(peer) = self.pack(spot.rank).and_then(|pack| pack.peer(spot.slot as usize)) {
                each(spot.rank.role, peer);
            }
        }
        touch::looked_at(shown);
        shown
    }

    /// Where a walk goes next; at its end it is `None`.
    fn step(&self, walk: &mut Option<Walk>) -> Option<Spot> {
        while let Some(Walk { rank: at, slot }) = walk {
            let Some(&rank) = RANKS.get(*at) else { break };
            let len = self.pack(rank).map_or(0, Pack::len);
            if let Some(next) = (*slot).min(number(len)).checked_sub(1) {
                *slot = next;
                return Some(Spot { rank, slot: next });
            }
            (*at, *slot) = (*at + 1, u32::MAX);
        }
        *walk = None;
        None
    }

    /// Hands out up to `num_want` peers to a user: to a seeder leechers; to a leecher seeders, one of each
    /// user, and then leechers. Never peers of his own (`rules/private.md#peer-selection`).
    pub(super) fn hand_out(
        &self,
        user: u32,
        role: Role,
        num_want: usize,
        random: &mut fastrand::Rng,
        users: &mut HashSet<u32>,
        handout: &mut Handout<'_>,
    ) {
        let mut wanted = num_want;
        if role == Role::Leecher {
            users.clear();
            let seeders = Stock::of(self.of_role(Role::Seeder), handout);
            wanted -= seeders.hand_out(user, wanted, random, handout, |user| users.insert(user));
        }
        if wanted > 0 {
            let leechers = Stock::of(self.of_role(Role::Leecher), handout);
            leechers.hand_out(user, wanted, random, handout, |_| true);
        }
    }

    /// The peers of one user.
    pub(super) fn of_user(&self, keys: &Keys, user: u32) -> impl Iterator<Item = (Role, Peer)> {
        let peer = |spot: Spot| self.pack(spot.rank)?.peer(spot.slot as usize);
        self.spots_of(keys, user).filter_map(move |spot| Some((spot.rank.role, peer(spot)?)))
    }

    /// Where the peers of one user are.
    fn spots_of(&self, keys: &Keys, user: u32) -> impl Iterator<Item = Spot> {
        let found = self.index.iter().flat_map(move |index| index.all(keys.user(user)));
        let found = found.filter(move |&spot| self.user_at(spot) == Some(user));
        found.chain(self.packs().filter(|_| self.index.is_none()).flat_map(move |pack| {
            let rank = pack.rank;
            pack.slots_of(user).map(move |slot| Spot { rank, slot: number(slot) })
        }))
    }

    fn spots(pack: &Pack) -> impl Iterator<Item = Spot> + use<> {
        let rank = pack.rank;
        (0..number(pack.len())).map(move |slot| Spot { rank, slot })
    }

    fn build_index(&mut self, keys: &Keys) {
        let mut index = Finder::default();
        for spot in self.packs().flat_map(Self::spots) {
            index.insert(self.hash_at(keys, spot), spot, |spot| self.hash_at(keys, spot));
        }
        touch::looked_at(self.len());
        self.index = Some(index);
    }

    fn hash_at(&self, keys: &Keys, spot: Spot) -> u64 {
        self.user_at(spot).map_or(0, |user| keys.user(user))
    }

    fn user_at(&self, spot: Spot) -> Option<u32> {
        self.pack(spot.rank)?.user(spot.slot as usize)
    }

    fn packs(&self) -> impl Iterator<Item = &Pack> {
        [&self.seeders, &self.leechers].into_iter().chain(&self.others)
    }

    fn packs_mut(&mut self) -> impl Iterator<Item = &mut Pack> {
        [&mut self.seeders, &mut self.leechers].into_iter().chain(&mut self.others)
    }

    fn of_role(&self, role: Role) -> impl Iterator<Item = &Pack> {
        let first = if role == Role::Seeder { &self.seeders } else { &self.leechers };
        std::iter::once(first).chain(self.others_of(role))
    }

    #[inline]
    fn others_of(&self, role: Role) -> impl Iterator<Item = &Pack> {
        self.others.iter().filter(move |pack| pack.rank.role == role)
    }

    #[inline]
    fn pack(&self, rank: Rank) -> Option<&Pack> {
        match rank {
            Rank { role: Role::Seeder, shown: Shown::V4 } => Some(&self.seeders),
            Rank { role: Role::Leecher, shown: Shown::V4 } => Some(&self.leechers),
            _ => self.others.iter().find(|pack| pack.rank == rank),
        }
    }

    fn pack_mut(&mut self, rank: Rank) -> Option<&mut Pack> {
        match rank {
            Rank { role: Role::Seeder, shown: Shown::V4 } => Some(&mut self.seeders),
            Rank { role: Role::Leecher, shown: Shown::V4 } => Some(&mut self.leechers),
            _ => self.others.iter_mut().find(|pack| pack.rank == rank),
        }
    }

    /// The pack of a rank, a new one if need be.
    fn pack_for(&mut self, rank: Rank) -> &mut Pack {
        if self.pack(rank).is_none() {
            self.others.reserve_exact(1);
            self.others.push(Pack::new(rank.role, rank.shown));
        }
        let Self { seeders, leechers, others, .. } = self;
        let first = if rank.role == Role::Seeder { seeders } else { leechers };
        if rank.shown == Shown::V4 {
            return first;
        }
        // It is there.
        others.iter_mut().find(|pack| pack.rank == rank).unwrap_or(first)
    }
}

pub(super) fn number(slot: usize) -> u32 {
    u32::try_from(slot).unwrap_or(u32::MAX)
}
