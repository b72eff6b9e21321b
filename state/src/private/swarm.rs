//! The peers of one registered torrent. Seeders and leechers apart, each in columns: what a hand-out reads of
//! many peers, whose they are and where, lies close together.

use hashbrown::HashSet;

use super::columns::Pack;
use super::finder::Finder;
use super::peer::{Moment, Peer, Session};
use crate::announce::Handout;
use crate::census::Census;
use crate::ids::PeerId;
use crate::keys::Keys;
use crate::prefetch::prefetch;
use crate::snapshot::site::Role;
use crate::touch;

/// Peers up to which a swarm is searched from end to end, which their users' numbers, lying side by side,
/// make faster than an index; larger ones have one. Tests cross the border with fewer.
const SEARCHED_MAX: usize = if cfg!(debug_assertions) { 64 } else { 512 };
/// Peers of each role that are fetched before they are looked at.
const PREFETCHED: usize = 32;
/// Peers of one user in one swarm, at most. Nobody has more clients at one torrent; but a client that is
/// started again and again has a new `peer_id` each time, so one more takes the place of the one that was
/// silent for longest.
pub(super) const SESSIONS_MAX: usize = 16;

/// Where a peer is. It holds until the swarm changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) role: Role,
    slot: u32,
}

/// How far a walk through a swarm has come, from the last slot of each role to the first: a peer that is
/// taken out has its slot taken by the last one, which was met already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Walk {
    role: Role,
    /// Peers of this role in slots below this are still to be met.
    slot: u32,
}

impl Default for Walk {
    /// Leechers first: those that become seeders meanwhile are met again, and none is missed.
    fn default() -> Self {
        Self { role: Role::Leecher, slot: u32::MAX }
    }
}

/// All peers of a torrent.
#[derive(Debug, Default)]
pub(super) struct Swarm {
    seeders: Pack,
    leechers: Pack,
    index: Option<Finder>,
    /// How often a seeder became a leecher.
    turned_back: u32,
}

impl Swarm {
    pub(super) fn seeders(&self) -> usize {
        self.seeders.len()
    }

    pub(super) fn leechers(&self) -> usize {
        self.leechers.len()
    }

    pub(super) fn len(&self) -> usize {
        self.seeders() + self.leechers()
    }

    /// The peers that are reached over each family.
    pub(super) fn census(&self) -> Census {
        let ((v4_seeders, v6_seeders), (v4_leechers, v6_leechers)) =
            (self.seeders.reached(), self.leechers.reached());
        Census { v4_seeders, v4_leechers, v6_seeders, v6_leechers }
    }

    /// Octets that it takes, by our own count.
    pub(super) fn memory(&self) -> usize {
        let index = if self.index.is_some() { 2 * self.len() * size_of::<Spot>() } else { 0 };
        size_of::<Self>() + self.seeders.memory() + self.leechers.memory() + index
    }

    /// How often a seeder became a leecher: a walk that began before may have missed it.
    pub(super) fn turned_back(&self) -> u32 {
        self.turned_back
    }

    /// Does this user seed here, by whatever client?
    pub(super) fn has_seeder(&self, keys: &Keys, user: u32) -> bool {
        match &self.index {
            None => self.seeders.has_user(user),
            Some(index) => {
                let seeds = |spot: Spot| spot.role == Role::Seeder && self.user_at(spot) == Some(user);
                index.find(keys.user(user), seeds).is_some()
            }
        }
    }

    pub(super) fn find(&self, keys: &Keys, user: u32, peer_id: &PeerId) -> Option<Spot> {
        let Some(index) = &self.index else {
            return [Role::Seeder, Role::Leecher].into_iter().find_map(|role| {
                let slot = self.pack(role).search(user, peer_id)?;
                Some(Spot { role, slot: number(slot) })
            });
        };
        index.find(keys.user(user), |spot| {
            self.user_at(spot) == Some(user)
                && self.session(spot).is_some_and(|session| session.peer_id == *peer_id)
        })
    }

    pub(super) fn session(&self, spot: Spot) -> Option<&Session> {
        self.pack(spot.role).sessions.get(spot.slot as usize)
    }

    /// Fetches where a search and a hand-out begin.
    pub(super) fn prefetch_columns(&self) {
        for pack in [&self.seeders, &self.leechers] {
            let begin = |len: usize| ..len.min(PREFETCHED);
            prefetch(pack.users.get(begin(pack.len())).unwrap_or_default());
            prefetch(pack.v4.get(begin(pack.len())).unwrap_or_default());
        }
    }

    /// Adds a peer that is not there. Where its user has [`SESSIONS_MAX`] already, the one that was silent
    /// for longest goes; tells whether one did.
    pub(super) fn add(&mut self, keys: &Keys, role: Role, peer: Peer) -> bool {
        let replaces = self.make_place(keys, peer.user);
        let user = peer.user;
        let pack = self.pack_mut(role);
        let spot = Spot { role, slot: number(pack.len()) };
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

    /// Moves a peer to the other role.
    pub(super) fn turn(&mut self, keys: &Keys, spot: Spot, role: Role) {
        if let Some(peer) = self.take(keys, spot) {
            self.turned_back += u32::from(role == Role::Leecher);
            self.add(keys, role, peer);
        }
    }

    /// Takes a peer out. The last of its role takes its slot.
    pub(super) fn take(&mut self, keys: &Keys, spot: Spot) -> Option<Peer> {
        if let Some(mut index) = self.index.take() {
            index.remove(self.hash_at(keys, spot), spot);
            let last = Spot { slot: number(self.pack(spot.role).len()).wrapping_sub(1), ..spot };
            index.moved(self.hash_at(keys, last), last, spot);
            // Half of it, so that one that comes and goes does not build it each time.
            self.index = Some(index).filter(|_| self.len() > SEARCHED_MAX / 2);
        }
        self.pack_mut(spot.role).take(spot.slot as usize)
    }

    /// Changes a peer where it is; its user and peer_id stay.
    pub(super) fn change<T>(&mut self, spot: Spot, work: impl FnOnce(&mut Peer) -> T) -> Option<T> {
        let (pack, slot) = (self.pack_mut(spot.role), spot.slot as usize);
        let (v4, v6) = (pack.v4.get_mut(slot)?, pack.v6.get_mut(slot)?);
        let session = pack.sessions.get_mut(slot)?;
        let mut peer = Peer { user: *pack.users.get(slot)?, v4: *v4, v6: v6.take(), session: *session };
        let before = peer.reached();
        let result = work(&mut peer);
        let after = peer.reached();
        (*v4, *v6, *session) = (peer.v4, peer.v6, peer.session);
        pack.with_v4 = pack.with_v4 + after.0 - before.0;
        pack.with_v6 = pack.with_v6 + after.1 - before.1;
        Some(result)
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
                self.pack_mut(spot.role).forget_before(spot.slot as usize, limit);
            }
        }
        touch::looked_at(looked_at);
        if walk.is_none() {
            [Role::Seeder, Role::Leecher].into_iter().for_each(|role| self.pack_mut(role).shrink());
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
            if let Some(peer) = self.pack(spot.role).peer(spot.slot as usize) {
                each(spot.role, peer);
            }
        }
        touch::looked_at(shown);
        shown
    }

    /// Where a walk goes next; at its end it is `None`.
    fn step(&self, walk: &mut Option<Walk>) -> Option<Spot> {
        loop {
            let Walk { role, slot } = walk.as_mut()?;
            if let Some(next) = (*slot).min(number(self.pack(*role).len())).checked_sub(1) {
                *slot = next;
                return Some(Spot { role: *role, slot: next });
            }
            *walk = match role {
                Role::Leecher => Some(Walk { role: Role::Seeder, slot: u32::MAX }),
                Role::Seeder => None,
            };
        }
    }

    /// Hands out up to `num_want` peers to a user: to a seeder leechers; to a leecher seeders, one of each
    /// user, and then leechers. Never peers of his own (`private-tracker.md` 11).
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
            wanted -= self.seeders.hand_out(user, wanted, random, handout, |user| users.insert(user));
        }
        if wanted > 0 {
            self.leechers.hand_out(user, wanted, random, handout, |_| true);
        }
    }

    /// The peers of one user.
    pub(super) fn of_user(&self, keys: &Keys, user: u32) -> impl Iterator<Item = (Role, Peer)> {
        let peer = |spot: Spot| self.pack(spot.role).peer(spot.slot as usize);
        self.spots_of(keys, user).filter_map(move |spot| Some((spot.role, peer(spot)?)))
    }

    /// Where the peers of one user are.
    fn spots_of(&self, keys: &Keys, user: u32) -> impl Iterator<Item = Spot> {
        let found = self.index.iter().flat_map(move |index| index.all(keys.user(user)));
        let roles = [Role::Seeder, Role::Leecher].into_iter().filter(|_| self.index.is_none());
        let searched = roles.flat_map(|role| {
            let slots = 0..number(self.pack(role).len());
            slots.map(move |slot| Spot { role, slot })
        });
        found.chain(searched).filter(move |&spot| self.user_at(spot) == Some(user))
    }

    fn build_index(&mut self, keys: &Keys) {
        let mut index = Finder::default();
        for role in [Role::Seeder, Role::Leecher] {
            for slot in 0..number(self.pack(role).len()) {
                let spot = Spot { role, slot };
                index.insert(self.hash_at(keys, spot), spot, |spot| self.hash_at(keys, spot));
            }
        }
        touch::looked_at(self.len());
        self.index = Some(index);
    }

    fn hash_at(&self, keys: &Keys, spot: Spot) -> u64 {
        self.user_at(spot).map_or(0, |user| keys.user(user))
    }

    fn user_at(&self, spot: Spot) -> Option<u32> {
        self.pack(spot.role).users.get(spot.slot as usize).copied()
    }

    fn pack(&self, role: Role) -> &Pack {
        match role {
            Role::Seeder => &self.seeders,
            Role::Leecher => &self.leechers,
        }
    }

    fn pack_mut(&mut self, role: Role) -> &mut Pack {
        match role {
            Role::Seeder => &mut self.seeders,
            Role::Leecher => &mut self.leechers,
        }
    }
}

pub(super) fn number(slot: usize) -> u32 {
    u32::try_from(slot).unwrap_or(u32::MAX)
}
