//! The peers of one registered torrent: seeders and leechers apart, and each of these by the families over
//! which they are reached, so that a hand-out never looks at peers of which the requester can use no address.

use hashbrown::HashSet;

use super::columns::{PeerClass, PeerColumns, UserPeerPos};
use super::peer::{Moment, SESSIONS_MAX, Session, ShownFamilies, UserPeer};
use super::select::RoleCandidates;
use super::user_index::UserIndex;
use crate::announce::Handout;
use crate::ids::PeerId;
use crate::lock_cost;
use crate::peer_counts::PeerCounts;
use crate::snapshot::site::Role;
use crate::table::keyed_hash::KeyedHash;

/// The largest swarm that is searched from end to end: up to this size scanning the users' numbers, which lie
/// side by side, is faster than an index. Lower in debug builds, so that tests cross the limit.
const SEARCHED_MAX: usize = if cfg!(debug_assertions) { 64 } else { 512 };
/// All classes, in the order of a walk. A peer that moves to a later class during a walk is visited again. So
/// leechers, who become seeders, come first, and peers with one address before those with both; a peer that
/// moves the other way may be missed.
const CLASSES: [PeerClass; 8] = {
    const fn class(role: Role, shown: ShownFamilies) -> PeerClass {
        PeerClass { role, families: shown }
    }
    [
        class(Role::Leecher, ShownFamilies::V4),
        class(Role::Leecher, ShownFamilies::V6),
        class(Role::Leecher, ShownFamilies::Both),
        class(Role::Leecher, ShownFamilies::Nobody),
        class(Role::Seeder, ShownFamilies::V4),
        class(Role::Seeder, ShownFamilies::V6),
        class(Role::Seeder, ShownFamilies::Both),
        class(Role::Seeder, ShownFamilies::Nobody),
    ]
};

/// The position of a walk through a swarm, which goes from the last slot of each class to the first: the slot
/// of a removed peer is taken by the last one, which has been visited already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClassCursor {
    /// Index into [`CLASSES`].
    class: usize,
    /// The peers of this class in slots below this one are still to be visited.
    slot: u32,
}

impl Default for ClassCursor {
    fn default() -> Self {
        Self { class: 0, slot: u32::MAX }
    }
}

/// All peers of a torrent.
#[derive(Debug)]
pub(super) struct Swarm {
    /// Seeders reached over IPv4 only, as in most swarms all are.
    seeders: PeerColumns,
    leechers: PeerColumns,
    /// The peers of all other classes that occur.
    others: Vec<PeerColumns>,
    index: Option<UserIndex>,
    /// How many times a peer moved to an earlier class.
    moved_back: u32,
}

impl Default for Swarm {
    fn default() -> Self {
        let [seeders, leechers] =
            [Role::Seeder, Role::Leecher].map(|role| PeerColumns::new(role, ShownFamilies::V4));
        Self { seeders, leechers, others: Vec::new(), index: None, moved_back: 0 }
    }
}

impl Swarm {
    #[inline]
    pub(super) fn seeders(&self) -> usize {
        self.seeders.len() + self.other_columns_of_role(Role::Seeder).map(PeerColumns::len).sum::<usize>()
    }

    #[inline]
    pub(super) fn leechers(&self) -> usize {
        self.leechers.len() + self.other_columns_of_role(Role::Leecher).map(PeerColumns::len).sum::<usize>()
    }

    pub(super) fn len(&self) -> usize {
        self.seeders() + self.leechers()
    }

    /// The numbers of peers by role and family.
    #[inline]
    pub(super) fn peer_counts(&self) -> PeerCounts {
        let sum = |first: &PeerColumns, role| {
            let add = |(v4, v6), columns: &PeerColumns| {
                (v4 + columns.family_counts().0, v6 + columns.family_counts().1)
            };
            self.other_columns_of_role(role).fold(first.family_counts(), add)
        };
        let (v4_seeders, v6_seeders) = sum(&self.seeders, Role::Seeder);
        let (v4_leechers, v6_leechers) = sum(&self.leechers, Role::Leecher);
        PeerCounts { v4_seeders, v4_leechers, v6_seeders, v6_leechers }
    }

    /// Octets that the swarm takes, by the tracker's own count.
    #[inline]
    pub(super) fn memory(&self) -> usize {
        let index = if self.index.is_some() { 2 * self.len() * size_of::<UserPeerPos>() } else { 0 };
        let others =
            self.others.iter().map(|columns| columns.memory() + size_of::<PeerColumns>()).sum::<usize>();
        size_of::<Self>() + self.seeders.memory() + self.leechers.memory() + others + index
    }

    /// How many times a peer moved to an earlier class: a walk that began before may have missed it.
    pub(super) fn moved_back(&self) -> u32 {
        self.moved_back
    }

    /// Whether this user seeds here, with any client.
    pub(super) fn has_seeder(&self, hasher: &KeyedHash, user: u32) -> bool {
        match &self.index {
            None => self.columns_of_role(Role::Seeder).any(|columns| columns.has_user(user)),
            Some(index) => {
                let seeds =
                    |pos: UserPeerPos| pos.class.role == Role::Seeder && self.user_at(pos) == Some(user);
                index.find(hasher.user(user), seeds).is_some()
            }
        }
    }

    pub(super) fn find(&self, hasher: &KeyedHash, user: u32, peer_id: &PeerId) -> Option<UserPeerPos> {
        let Some(index) = &self.index else {
            let search = |columns: &PeerColumns| {
                let slot = columns.search(user, peer_id)?;
                Some(UserPeerPos { class: columns.class, slot: slot_number(slot) })
            };
            let found = search(&self.seeders).or_else(|| search(&self.leechers));
            return found.or_else(|| self.others.iter().find_map(search));
        };
        index.find(hasher.user(user), |pos| {
            self.user_at(pos) == Some(user)
                && self.session(pos).is_some_and(|session| session.peer_id == *peer_id)
        })
    }

    pub(super) fn session(&self, pos: UserPeerPos) -> Option<&Session> {
        self.columns(pos.class)?.session(pos.slot as usize)
    }

    /// Prefetches the memory where a search and a hand-out begin.
    pub(super) fn prefetch_columns(&self) {
        self.all_columns().for_each(PeerColumns::prefetch);
    }

    /// Adds a new peer. If its user has [`SESSIONS_MAX`] already, the one that has been silent for longest is
    /// removed; returns whether one was.
    pub(super) fn add(&mut self, hasher: &KeyedHash, role: Role, peer: UserPeer) -> bool {
        let replaces = self.evict_oldest_session(hasher, peer.user);
        let user = peer.user;
        let columns = self.columns_for(PeerClass { role, families: peer.shown_families() });
        let pos = UserPeerPos { class: columns.class, slot: slot_number(columns.len()) };
        columns.push(peer);
        if self.index.is_none() && self.len() > SEARCHED_MAX {
            self.build_index(hasher);
        } else if let Some(mut index) = self.index.take() {
            index.insert(hasher.user(user), pos, |pos| self.hash_at(hasher, pos));
            self.index = Some(index);
        }
        replaces
    }

    fn evict_oldest_session(&mut self, hasher: &KeyedHash, user: u32) -> bool {
        if self.index.is_none() && !self.all_columns().any(|columns| columns.has_user(user)) {
            return false;
        }
        let (mut peers, mut longest) = (0, None);
        for pos in self.positions_of_user(hasher, user) {
            peers += 1;
            let heard = self.session(pos).map_or(0, |session| session.heard);
            if longest.is_none_or(|(known, _)| heard < known) {
                longest = Some((heard, pos));
            }
        }
        let goes = longest.filter(|_| peers >= SESSIONS_MAX);
        goes.is_some_and(|(_, pos)| self.remove(hasher, pos).is_some())
    }

    /// Moves a peer to the class of this role and its addresses, if it is in another one.
    pub(super) fn move_to_class(&mut self, hasher: &KeyedHash, pos: UserPeerPos, role: Role) {
        let shown = self.columns(pos.class).and_then(|columns| {
            let slot = pos.slot as usize;
            Some(ShownFamilies::from_endpoints(columns.v4(slot)?, columns.v6(slot)))
        });
        let Some(class) =
            shown.map(|shown| PeerClass { role, families: shown }).filter(|class| *class != pos.class)
        else {
            return;
        };
        if let Some(peer) = self.remove(hasher, pos) {
            let rank = |class| CLASSES.iter().position(|known| *known == class);
            self.moved_back += u32::from(rank(class) < rank(pos.class));
            self.add(hasher, role, peer);
        }
    }

    /// Removes a peer. The last peer of its class takes its slot.
    pub(super) fn remove(&mut self, hasher: &KeyedHash, pos: UserPeerPos) -> Option<UserPeer> {
        if let Some(mut index) = self.index.take() {
            index.remove(self.hash_at(hasher, pos), pos);
            let len = self.columns(pos.class).map_or(0, PeerColumns::len);
            let last = UserPeerPos { slot: slot_number(len).wrapping_sub(1), ..pos };
            index.move_to(self.hash_at(hasher, last), last, pos);
            // Only below half of the limit, so that a peer that comes and goes does not rebuild it each time.
            self.index = Some(index).filter(|_| self.len() > SEARCHED_MAX / 2);
        }
        let peer = self.columns_mut(pos.class)?.swap_remove(pos.slot as usize);
        self.others.retain(|columns| columns.len() > 0);
        peer
    }

    /// Changes a peer in place; its user and peer_id stay. It may belong to another class afterwards.
    pub(super) fn update<T>(&mut self, pos: UserPeerPos, work: impl FnOnce(&mut UserPeer) -> T) -> Option<T> {
        self.columns_mut(pos.class)?.update(pos.slot as usize, work)
    }

    /// Removes peers and addresses last heard from before `limit`, looking at up to `most` peers; returns how
    /// many were looked at and how many were removed. `cursor` is `None` at the end.
    pub(super) fn expire_slice(
        &mut self,
        hasher: &KeyedHash,
        limit: Moment,
        cursor: &mut Option<ClassCursor>,
        most: usize,
    ) -> (usize, usize) {
        let (mut looked_at, mut gone) = (0, 0);
        while looked_at < most
            && let Some(pos) = self.next_pos(cursor)
        {
            looked_at += 1;
            if self.session(pos).is_some_and(|session| session.heard < limit) {
                self.remove(hasher, pos);
                gone += 1;
            } else {
                if let Some(columns) = self.columns_mut(pos.class) {
                    columns.forget_before(pos.slot as usize, limit);
                }
                self.move_to_class(hasher, pos, pos.class.role);
            }
        }
        lock_cost::peers_visited(looked_at);
        if cursor.is_none() {
            self.all_columns_mut().for_each(PeerColumns::shrink);
            self.others.shrink_to_fit();
        }
        (looked_at, gone)
    }

    /// Shows up to `most` further peers of a walk; returns how many. `cursor` is `None` at the end.
    pub(super) fn visit_peers(
        &self,
        cursor: &mut Option<ClassCursor>,
        most: usize,
        mut each: impl FnMut(Role, UserPeer),
    ) -> usize {
        let mut shown = 0;
        while shown < most
            && let Some(pos) = self.next_pos(cursor)
        {
            shown += 1;
            if let Some(peer) = self.columns(pos.class).and_then(|columns| columns.peer(pos.slot as usize)) {
                each(pos.class.role, peer);
            }
        }
        lock_cost::peers_visited(shown);
        shown
    }

    /// Returns the next position of a walk and advances it; `cursor` is `None` at the end.
    fn next_pos(&self, cursor: &mut Option<ClassCursor>) -> Option<UserPeerPos> {
        while let Some(ClassCursor { class: at, slot }) = cursor {
            let Some(&class) = CLASSES.get(*at) else { break };
            let len = self.columns(class).map_or(0, PeerColumns::len);
            if let Some(next) = (*slot).min(slot_number(len)).checked_sub(1) {
                *slot = next;
                return Some(UserPeerPos { class, slot: next });
            }
            (*at, *slot) = (*at + 1, u32::MAX);
        }
        *cursor = None;
        None
    }

    /// Hands out up to `num_want` peers to a user: leechers to a seeder; to a leecher seeders, one of each
    /// user, and then leechers. Never peers of the user themself (`rules/private.md#peer-selection`).
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
            let seeders = RoleCandidates::from_columns(self.columns_of_role(Role::Seeder), handout);
            wanted -= seeders.hand_out(user, wanted, random, handout, |user| users.insert(user));
        }
        if wanted > 0 {
            let leechers = RoleCandidates::from_columns(self.columns_of_role(Role::Leecher), handout);
            leechers.hand_out(user, wanted, random, handout, |_| true);
        }
    }

    /// The peers of one user.
    pub(super) fn peers_of_user(
        &self,
        hasher: &KeyedHash,
        user: u32,
    ) -> impl Iterator<Item = (Role, UserPeer)> {
        let peer = |pos: UserPeerPos| self.columns(pos.class)?.peer(pos.slot as usize);
        self.positions_of_user(hasher, user).filter_map(move |pos| Some((pos.class.role, peer(pos)?)))
    }

    /// The positions of the peers of one user.
    fn positions_of_user(&self, hasher: &KeyedHash, user: u32) -> impl Iterator<Item = UserPeerPos> {
        let found = self.index.iter().flat_map(move |index| index.candidates(hasher.user(user)));
        let found = found.filter(move |&pos| self.user_at(pos) == Some(user));
        found.chain(self.all_columns().filter(|_| self.index.is_none()).flat_map(move |columns| {
            let class = columns.class;
            columns.slots_of(user).map(move |slot| UserPeerPos { class, slot: slot_number(slot) })
        }))
    }

    fn positions(columns: &PeerColumns) -> impl Iterator<Item = UserPeerPos> + use<> {
        let class = columns.class;
        (0..slot_number(columns.len())).map(move |slot| UserPeerPos { class, slot })
    }

    fn build_index(&mut self, hasher: &KeyedHash) {
        let mut index = UserIndex::default();
        for pos in self.all_columns().flat_map(Self::positions) {
            index.insert(self.hash_at(hasher, pos), pos, |pos| self.hash_at(hasher, pos));
        }
        lock_cost::peers_visited(self.len());
        self.index = Some(index);
    }

    fn hash_at(&self, hasher: &KeyedHash, pos: UserPeerPos) -> u64 {
        self.user_at(pos).map_or(0, |user| hasher.user(user))
    }

    fn user_at(&self, pos: UserPeerPos) -> Option<u32> {
        self.columns(pos.class)?.user(pos.slot as usize)
    }

    fn all_columns(&self) -> impl Iterator<Item = &PeerColumns> {
        [&self.seeders, &self.leechers].into_iter().chain(&self.others)
    }

    fn all_columns_mut(&mut self) -> impl Iterator<Item = &mut PeerColumns> {
        [&mut self.seeders, &mut self.leechers].into_iter().chain(&mut self.others)
    }

    fn columns_of_role(&self, role: Role) -> impl Iterator<Item = &PeerColumns> {
        let first = if role == Role::Seeder { &self.seeders } else { &self.leechers };
        std::iter::once(first).chain(self.other_columns_of_role(role))
    }

    #[inline]
    fn other_columns_of_role(&self, role: Role) -> impl Iterator<Item = &PeerColumns> {
        self.others.iter().filter(move |columns| columns.class.role == role)
    }

    #[inline]
    fn columns(&self, class: PeerClass) -> Option<&PeerColumns> {
        match class {
            PeerClass { role: Role::Seeder, families: ShownFamilies::V4 } => Some(&self.seeders),
            PeerClass { role: Role::Leecher, families: ShownFamilies::V4 } => Some(&self.leechers),
            _ => self.others.iter().find(|columns| columns.class == class),
        }
    }

    fn columns_mut(&mut self, class: PeerClass) -> Option<&mut PeerColumns> {
        match class {
            PeerClass { role: Role::Seeder, families: ShownFamilies::V4 } => Some(&mut self.seeders),
            PeerClass { role: Role::Leecher, families: ShownFamilies::V4 } => Some(&mut self.leechers),
            _ => self.others.iter_mut().find(|columns| columns.class == class),
        }
    }

    /// Returns the columns of a class, new ones if there are none.
    fn columns_for(&mut self, class: PeerClass) -> &mut PeerColumns {
        if self.columns(class).is_none() {
            self.others.reserve_exact(1);
            self.others.push(PeerColumns::new(class.role, class.families));
        }
        let Self { seeders, leechers, others, .. } = self;
        let first = if class.role == Role::Seeder { seeders } else { leechers };
        if class.families == ShownFamilies::V4 {
            return first;
        }
        // Always found: it was added above if it was missing.
        others.iter_mut().find(|columns| columns.class == class).unwrap_or(first)
    }
}

pub(super) fn slot_number(slot: usize) -> u32 {
    u32::try_from(slot).unwrap_or(u32::MAX)
}
