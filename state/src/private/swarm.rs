//! The peers of one registered torrent. Seeders and leechers apart, each in columns: what a hand-out reads of
//! many peers, whose they are and where, lies close together.

use hashbrown::HashSet;

use super::finder::Finder;
use super::peer::{Moment, NOWHERE, Peer, Session, V4, V6, is_shown};
use super::touch;
use crate::announce::{Handout, PEER_V4_LEN, PEER_V6_LEN};
use crate::census::Census;
use crate::ids::PeerId;
use crate::keys::Keys;
use crate::prefetch::prefetch;
use crate::snapshot::site::Role;

/// Peers up to which a swarm is searched from end to end, which their users' numbers, lying side by side,
/// make faster than an index; larger ones have one. Tests cross the border with fewer.
const SEARCHED_MAX: usize = if cfg!(debug_assertions) { 64 } else { 512 };
/// Peers of each role that are fetched before they are looked at.
const PREFETCHED: usize = 32;
/// Users that are compared at once.
const COMPARED: usize = 16;
/// Peers that are looked at for one hand-out, at most, besides those that are wanted.
const LOOKED_AT_MAX: usize = 4096;
/// Places from which a hand-out goes through a swarm at once, so that peers that came together are not always
/// handed out together.
const PLACES: usize = 4;
/// Draws of where a hand-out begins, at most, while they meet peers that may not be handed out.
const DRAWS_MAX: usize = 32;

/// Octets of a peer's IPv6 address, which lies apart, by our own count.
const V6_OCTETS: usize = size_of::<V6>().next_multiple_of(16) + 16;
/// Peers of one user in one swarm, at most. Nobody has more clients at one torrent; but a client that is started
/// again and again has a new `peer_id` each time, so one more takes the place of the one that was silent for
/// longest.
pub(super) const SESSIONS_MAX: usize = 16;

/// Where a peer is. It holds until the swarm changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) role: Role,
    slot: u32,
}

/// Peers of one role.
#[derive(Debug, Default)]
struct Pack {
    users: Vec<u32>,
    v4: Vec<V4>,
    v6: Vec<Option<Box<V6>>>,
    sessions: Vec<Session>,
    /// How many have an IPv4 address.
    with_v4: usize,
    /// How many have an IPv6 address.
    with_v6: usize,
}

/// How far a walk through a swarm has come, from the last slot of each role to the first: a peer that is taken
/// out has its slot taken by the last one, which was met already.
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

/// What of a peer may be handed out: at least one of its addresses.
struct Offer<'p> {
    user: u32,
    v4: Option<&'p V4>,
    v6: Option<&'p [u8; PEER_V6_LEN]>,
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

    /// Adds a peer that is not there. Where its user has [`SESSIONS_MAX`] already, the one that was silent for
    /// longest goes; tells whether one did.
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

    /// Removes peers that were not heard of since `limit`, and addresses likewise, looking at `most` of them at
    /// most; gives how many were looked at and how many went. `walk` is `None` at the end.
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

impl Pack {
    fn len(&self) -> usize {
        self.users.len()
    }

    fn search(&self, user: u32, peer_id: &PeerId) -> Option<usize> {
        let is_it = |at: &usize| {
            self.users.get(*at) == Some(&user)
                && self.sessions.get(*at).is_some_and(|session| session.peer_id == *peer_id)
        };
        self.users.chunks(COMPARED).enumerate().find_map(|(chunk, users)| {
            // Without a branch for each, so that the processor compares all of them at once.
            let found = users.iter().fold(false, |found, known| found | (*known == user));
            let begin = chunk * COMPARED;
            if found { (begin..begin + users.len()).find(is_it) } else { None }
        })
    }

    fn has_user(&self, user: u32) -> bool {
        touch::looked_at(self.len());
        self.users.contains(&user)
    }

    /// Octets of its columns.
    fn memory(&self) -> usize {
        self.users.capacity() * size_of::<u32>()
            + self.v4.capacity() * PEER_V4_LEN
            + self.v6.capacity() * size_of::<usize>()
            + self.sessions.capacity() * size_of::<Session>()
            + self.with_v6 * V6_OCTETS
    }

    fn push(&mut self, peer: Peer) {
        let (v4, v6) = peer.reached();
        self.with_v4 += v4;
        self.with_v6 += v6;
        self.users.push(peer.user);
        self.v4.push(peer.v4);
        self.v6.push(peer.v6);
        self.sessions.push(peer.session);
    }

    fn take(&mut self, slot: usize) -> Option<Peer> {
        let peer = (slot < self.len()).then(|| Peer {
            user: self.users.swap_remove(slot),
            v4: self.v4.swap_remove(slot),
            v6: self.v6.swap_remove(slot),
            session: self.sessions.swap_remove(slot),
        })?;
        let (v4, v6) = peer.reached();
        self.with_v4 -= v4;
        self.with_v6 -= v6;
        Some(peer)
    }

    fn forget_before(&mut self, slot: usize, limit: Moment) {
        if self.sessions.get(slot).is_some_and(|session| session.v4_seen < limit)
            && let Some(v4) = self.v4.get_mut(slot).filter(|v4| **v4 != NOWHERE)
        {
            *v4 = NOWHERE;
            self.with_v4 -= 1;
        }
        if let Some(v6) = self.v6.get_mut(slot).filter(|v6| v6.as_ref().is_some_and(|v6| v6.seen < limit)) {
            *v6 = None;
            self.with_v6 -= 1;
        }
    }

    fn shrink(&mut self) {
        if self.users.capacity() > 4 * self.len().max(4) {
            let room = 2 * self.len();
            self.users.shrink_to(room);
            self.v4.shrink_to(room);
            self.v6.shrink_to(room);
            self.sessions.shrink_to(room);
        }
    }

    /// Goes round the pack from a random place until `wanted` peers are handed out; each peer that may be has
    /// the same chance. Gives how many were.
    fn hand_out(
        &self,
        user: u32,
        wanted: usize,
        random: &mut fastrand::Rng,
        handout: &mut Handout<'_>,
        mut admit: impl FnMut(u32) -> bool,
    ) -> usize {
        let mut given = 0;
        let start = self.draw(user, random, handout);
        for slot in ring(self.len(), start).take(wanted.saturating_add(LOOKED_AT_MAX)) {
            touch::looked_at(1);
            let Some(offer) = self.offer(slot, user, handout).filter(|offer| admit(offer.user)) else {
                continue;
            };
            let id = || self.sessions.get(slot).map(|session| session.peer_id).unwrap_or_default();
            if let Some(v4) = offer.v4 {
                handout.v4.push_with(v4, id);
            }
            if let Some(v6) = offer.v6 {
                handout.v6.push_with(v6, id);
            }
            given += 1;
            if given == wanted {
                break;
            }
        }
        given
    }

    /// Where a hand-out begins: at a peer that may be handed out, each of them with the same chance. Else
    /// those behind peers that may not be would have the chance of these too, as they still have where hardly
    /// any may be.
    fn draw(&self, user: u32, random: &mut fastrand::Rng, handout: &Handout<'_>) -> usize {
        // Where one of two may not be, it is the other in any case.
        let draws = match self.len() {
            0 | 1 => 0,
            2 => 1,
            _ => DRAWS_MAX,
        };
        let mut slot = 0;
        for _ in 0..draws {
            slot = random.usize(..self.len());
            if self.offer(slot, user, handout).is_some() {
                break;
            }
        }
        slot
    }

    /// What of the peer in a slot may be handed out to a user, if anything.
    fn offer(&self, slot: usize, user: u32, handout: &Handout<'_>) -> Option<Offer<'_>> {
        let &known = self.users.get(slot).filter(|known| **known != user)?;
        let v4 = self.v4.get(slot).filter(|v4| handout.v4.room() > 0 && is_shown(v4));
        let v6 = self.v6.get(slot).and_then(Option::as_deref).map(|v6| &v6.wire);
        let v6 = v6.filter(|v6| handout.v6.room() > 0 && is_shown(v6));
        (v4.is_some() || v6.is_some()).then_some(Offer { user: known, v4, v6 })
    }

    /// How many have an address of each family.
    fn reached(&self) -> (u32, u32) {
        (number(self.with_v4), number(self.with_v6))
    }

    fn peer(&self, slot: usize) -> Option<Peer> {
        let v6 = self.v6.get(slot)?.clone();
        Some(Peer {
            user: *self.users.get(slot)?,
            v4: *self.v4.get(slot)?,
            v6,
            session: *self.sessions.get(slot)?,
        })
    }
}

/// All slots of a pack, each once, from `start` on, each of its quarters in turns: always in one order, a
/// ring, so that whoever may be handed out always follows the same peers.
fn ring(len: usize, start: usize) -> impl Iterator<Item = usize> {
    let quarter = len.div_ceil(PLACES).max(1);
    // A division would take longer than all of this for a small swarm.
    let place = (1..PLACES).filter(|place| place * quarter <= start).count();
    let turn = (start - place * quarter) * PLACES + place;
    let turns = (turn..PLACES * quarter).chain(0..turn);
    turns.map(move |turn| turn % PLACES * quarter + turn / PLACES).filter(move |&slot| slot < len)
}

fn number(slot: usize) -> u32 {
    u32::try_from(slot).unwrap_or(u32::MAX)
}
