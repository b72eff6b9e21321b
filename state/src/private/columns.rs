//! The peers of one class in a swarm, in columns: users and addresses, which a hand-out reads of many peers,
//! lie close together. Blocks hold about a thousand peers, so that growth never moves more than that.

use super::peer::{EndpointV4, EndpointV6, Moment, NO_V4, Session, ShownFamilies, UserPeer};
use crate::announce::PEER_V4_LEN;
use crate::ids::PeerId;
use crate::lock_cost;
use crate::snapshot::site::Role;
use crate::table::prefetch::prefetch;

/// Peers of one block; fewer in debug builds, so that tests cross the limit.
pub(super) const BLOCK_PEERS: usize = if cfg!(debug_assertions) { 128 } else { 1024 };
/// Room of the first block at the beginning.
const FIRST_BLOCK_ROOM: usize = 4;
/// Users that are compared at once.
const USERS_COMPARED: usize = 16;
/// Peers that are fetched before they are looked at.
const PEERS_PREFETCHED: usize = 32;

/// Octets of a peer in the columns.
const PEER_OCTETS: usize = size_of::<u32>() + PEER_V4_LEN + size_of::<usize>() + size_of::<Session>();
/// Octets of a peer's IPv6 address, which is allocated apart, by the tracker's own count.
const V6_OCTETS: usize = size_of::<EndpointV6>().next_multiple_of(16) + 16;

/// What the peers of one [`PeerColumns`] have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PeerClass {
    pub(super) role: Role,
    pub(super) families: ShownFamilies,
}

/// The position of a peer, valid until the swarm changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UserPeerPos {
    pub(super) class: PeerClass,
    pub(super) slot: u32,
}

/// The peers of one class.
#[derive(Debug)]
pub(super) struct PeerColumns {
    pub(super) class: PeerClass,
    len: u32,
    /// The number of peers with an IPv4 address.
    with_v4: u32,
    /// The number of peers with an IPv6 address.
    with_v6: u32,
    first: ColumnBlock,
    /// Further blocks, only if the first is full. All of them but the last are full, and the last is not
    /// empty.
    more: Vec<ColumnBlock>,
}

/// The peers of one block.
#[derive(Debug, Default)]
struct ColumnBlock {
    users: Vec<u32>,
    v4: Vec<EndpointV4>,
    v6: Vec<Option<Box<EndpointV6>>>,
    sessions: Vec<Session>,
}

impl PeerColumns {
    pub(super) fn new(role: Role, shown: ShownFamilies) -> Self {
        let (first, more) = (ColumnBlock::default(), Vec::new());
        Self { class: PeerClass { role, families: shown }, len: 0, with_v4: 0, with_v6: 0, first, more }
    }

    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    pub(super) fn search(&self, user: u32, peer_id: &PeerId) -> Option<usize> {
        let found = |(block, columns): (usize, &ColumnBlock)| {
            Some(block * BLOCK_PEERS + columns.search(user, peer_id)?)
        };
        self.blocks().enumerate().find_map(found)
    }

    /// The slots of a user's peers.
    pub(super) fn slots_of(&self, user: u32) -> impl Iterator<Item = usize> {
        self.blocks().enumerate().flat_map(move |(block, columns)| {
            let indices = columns.users.iter().enumerate().filter(move |(_, known)| **known == user);
            indices.map(move |(index, _)| block * BLOCK_PEERS + index)
        })
    }

    pub(super) fn has_user(&self, user: u32) -> bool {
        lock_cost::peers_visited(self.len());
        self.blocks().any(|columns| columns.users.contains(&user))
    }

    /// Octets that the columns take.
    #[inline]
    pub(super) fn memory(&self) -> usize {
        let first = self.first.room() * PEER_OCTETS + self.with_v6 as usize * V6_OCTETS;
        let Some(last) = self.more.last() else { return first };
        // All blocks between the first and the last are full.
        let room = (self.more.len() - 1) * BLOCK_PEERS + last.room();
        first + room * PEER_OCTETS + self.more.capacity() * size_of::<ColumnBlock>()
    }

    /// Prefetches the memory where a search and a hand-out begin.
    pub(super) fn prefetch(&self) {
        let begin = ..self.first.users.len().min(PEERS_PREFETCHED);
        prefetch(self.first.users.get(begin).unwrap_or_default());
        prefetch(self.first.v4.get(begin).unwrap_or_default());
    }

    pub(super) fn push(&mut self, peer: UserPeer) {
        self.add_to_counts(&peer, u32::wrapping_add);
        let columns = match self.len() {
            len if len < BLOCK_PEERS => &mut self.first,
            len if len.is_multiple_of(BLOCK_PEERS) => self.more.push_mut(ColumnBlock::default()),
            // There is such a block: the first is full, and the last is not.
            _ => self.more.last_mut().unwrap_or(&mut self.first),
        };
        columns.push(peer);
        self.len += 1;
    }

    /// Removes a peer. The last one takes its slot.
    pub(super) fn swap_remove(&mut self, slot: usize) -> Option<UserPeer> {
        if slot >= self.len() {
            return None;
        }
        let last = self.more.last_mut().unwrap_or(&mut self.first).pop()?;
        self.more.pop_if(|columns| columns.users.is_empty());
        self.len -= 1;
        let peer = match self.block_at_mut(slot) {
            Some((columns, index)) => columns.replace(index, last)?,
            None => last,
        };
        self.add_to_counts(&peer, u32::wrapping_sub);
        Some(peer)
    }

    /// Changes a peer in place.
    pub(super) fn update<T>(&mut self, slot: usize, work: impl FnOnce(&mut UserPeer) -> T) -> Option<T> {
        let (columns, index) = self.block_at_mut(slot)?;
        let (v4, v6) = (columns.v4.get_mut(index)?, columns.v6.get_mut(index)?);
        let session = columns.sessions.get_mut(index)?;
        let mut peer =
            UserPeer { user: *columns.users.get(index)?, v4: *v4, v6: v6.take(), session: *session };
        let before = peer.family_counts();
        let result = work(&mut peer);
        let after = peer.family_counts();
        (*v4, *v6, *session) = (peer.v4, peer.v6, peer.session);
        self.with_v4 = self.with_v4 + after.0 - before.0;
        self.with_v6 = self.with_v6 + after.1 - before.1;
        Some(result)
    }

    /// Forgets addresses of a peer that were last heard from before `limit`.
    pub(super) fn forget_before(&mut self, slot: usize, limit: Moment) {
        let v4 = self.v4(slot).is_some_and(|v4| *v4 != NO_V4)
            && self.session(slot).is_some_and(|session| session.v4_seen < limit);
        if v4 || self.v6(slot).is_some_and(|v6| v6.seen < limit) {
            self.update(slot, |peer| peer.forget_before(limit));
        }
    }

    /// Releases memory that removed peers took.
    pub(super) fn shrink(&mut self) {
        self.more.last_mut().unwrap_or(&mut self.first).shrink();
    }

    /// The numbers of peers with an IPv4 and with an IPv6 address.
    pub(super) fn family_counts(&self) -> (u32, u32) {
        (self.with_v4, self.with_v6)
    }

    pub(super) fn user(&self, slot: usize) -> Option<u32> {
        let (columns, index) = self.block_at(slot)?;
        columns.users.get(index).copied()
    }

    /// Returns the user and the addresses of the peer in a slot, looking up its block once.
    #[inline]
    pub(super) fn user_and_endpoints(&self, slot: usize) -> Option<(u32, &EndpointV4, Option<&EndpointV6>)> {
        let (columns, index) = self.block_at(slot)?;
        let v6 = if self.with_v6 == 0 { None } else { columns.v6.get(index)?.as_deref() };
        Some((*columns.users.get(index)?, columns.v4.get(index)?, v6))
    }

    pub(super) fn v4(&self, slot: usize) -> Option<&EndpointV4> {
        let (columns, index) = self.block_at(slot)?;
        columns.v4.get(index)
    }

    pub(super) fn v6(&self, slot: usize) -> Option<&EndpointV6> {
        let (columns, index) = self.block_at(slot)?;
        columns.v6.get(index)?.as_deref()
    }

    pub(super) fn session(&self, slot: usize) -> Option<&Session> {
        let (columns, index) = self.block_at(slot)?;
        columns.sessions.get(index)
    }

    pub(super) fn peer(&self, slot: usize) -> Option<UserPeer> {
        let (v4, v6) = (*self.v4(slot)?, self.v6(slot).copied().map(Box::new));
        Some(UserPeer { user: self.user(slot)?, v4, v6, session: *self.session(slot)? })
    }

    fn add_to_counts(&mut self, peer: &UserPeer, change: fn(u32, u32) -> u32) {
        let (v4, v6) = peer.family_counts();
        self.with_v4 = change(self.with_v4, v4);
        self.with_v6 = change(self.with_v6, v6);
    }

    fn blocks(&self) -> impl Iterator<Item = &ColumnBlock> {
        std::iter::once(&self.first).chain(&self.more)
    }

    /// Returns the block of a slot, and the index in it.
    #[inline]
    fn block_at(&self, slot: usize) -> Option<(&ColumnBlock, usize)> {
        match (slot / BLOCK_PEERS).checked_sub(1) {
            None => Some((&self.first, slot)),
            Some(block) => Some((self.more.get(block)?, slot % BLOCK_PEERS)),
        }
    }

    fn block_at_mut(&mut self, slot: usize) -> Option<(&mut ColumnBlock, usize)> {
        if slot >= self.len() {
            return None;
        }
        match (slot / BLOCK_PEERS).checked_sub(1) {
            None => Some((&mut self.first, slot)),
            Some(block) => Some((self.more.get_mut(block)?, slot % BLOCK_PEERS)),
        }
    }
}

impl ColumnBlock {
    fn search(&self, user: u32, peer_id: &PeerId) -> Option<usize> {
        let is_it = |at: &usize| {
            self.users.get(*at) == Some(&user)
                && self.sessions.get(*at).is_some_and(|session| session.peer_id == *peer_id)
        };
        self.users.chunks(USERS_COMPARED).enumerate().find_map(|(chunk, users)| {
            // Without a branch per user, so that the processor compares all of them at once.
            let found = users.iter().fold(false, |found, known| found | (*known == user));
            let begin = chunk * USERS_COMPARED;
            if found { (begin..begin + users.len()).find(is_it) } else { None }
        })
    }

    /// The number of peers there is room for.
    fn room(&self) -> usize {
        self.users.capacity()
    }

    fn push(&mut self, peer: UserPeer) {
        let (len, room) = (self.users.len(), self.room());
        if len == room {
            lock_cost::peers_visited(len);
            let more = room.max(FIRST_BLOCK_ROOM).min(BLOCK_PEERS - len);
            self.users.reserve_exact(more);
            self.v4.reserve_exact(more);
            self.v6.reserve_exact(more);
            self.sessions.reserve_exact(more);
        }
        self.users.push(peer.user);
        self.v4.push(peer.v4);
        self.v6.push(peer.v6);
        self.sessions.push(peer.session);
    }

    fn pop(&mut self) -> Option<UserPeer> {
        let (user, session) = (self.users.pop()?, self.sessions.pop()?);
        Some(UserPeer { user, v4: self.v4.pop()?, v6: self.v6.pop()?, session })
    }

    fn replace(&mut self, index: usize, peer: UserPeer) -> Option<UserPeer> {
        let UserPeer { user, v4, v6, session } = peer;
        Some(UserPeer {
            user: std::mem::replace(self.users.get_mut(index)?, user),
            v4: std::mem::replace(self.v4.get_mut(index)?, v4),
            v6: std::mem::replace(self.v6.get_mut(index)?, v6),
            session: std::mem::replace(self.sessions.get_mut(index)?, session),
        })
    }

    fn shrink(&mut self) {
        if self.room() > 4 * self.users.len().max(FIRST_BLOCK_ROOM) {
            let room = 2 * self.users.len();
            self.users.shrink_to(room);
            self.v4.shrink_to(room);
            self.v6.shrink_to(room);
            self.sessions.shrink_to(room);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::private::peer::Credit;
    use crate::private::swarm::slot_number;

    fn peer(user: u32) -> UserPeer {
        let session = Session {
            peer_id: PeerId([7; 20]),
            client: 1,
            uploaded: user.into(),
            downloaded: 0,
            left: 9,
            started: 1,
            announced: 1,
            heard: 1,
            v4_seen: user,
            last: Credit::default(),
        };
        UserPeer { user, v4: [45, 0, 0, 7, 27, 88], v6: None, session }
    }

    #[test]
    fn a_pack_grows_and_shrinks_block_by_block() {
        let mut columns = PeerColumns::new(Role::Seeder, ShownFamilies::V4);
        let users = 10 * slot_number(BLOCK_PEERS) + 7;
        lock_cost::take_max();
        for user in 0..users {
            lock_cost::lock_taken();
            columns.push(peer(user));
        }
        assert!(lock_cost::take_max() <= BLOCK_PEERS, "what one more peer moves");
        assert_eq!(
            (columns.len(), columns.more.len(), columns.family_counts()),
            (users as usize, 10, (users, 0))
        );
        let full = columns.memory();
        assert!(full < (columns.len() + BLOCK_PEERS) * PEER_OCTETS + 3000, "{full}");
        for user in 0..users {
            assert_eq!(columns.search(user, &PeerId([7; 20])), Some(user as usize));
            assert_eq!(columns.session(user as usize).unwrap().uploaded, u64::from(user));
        }
        // The last peer takes the slot of a removed one.
        assert_eq!(columns.swap_remove(BLOCK_PEERS).unwrap().user, slot_number(BLOCK_PEERS));
        assert_eq!((columns.user(BLOCK_PEERS), columns.user(columns.len())), (Some(users - 1), None));
        assert!(columns.swap_remove(columns.len()).is_none());
        columns.forget_before(3, 4);
        assert_eq!((columns.family_counts().0, columns.v4(3)), (users - 2, Some(&NO_V4)));
        while let Some(last) = columns.len().checked_sub(1) {
            columns.swap_remove(last / 2);
        }
        columns.shrink();
        assert_eq!((columns.family_counts(), columns.more.len()), ((0, 0), 0));
        assert!(columns.memory() < full / 5, "{}", columns.memory());
        // Whatever room is left in the first block, it is filled, and not exceeded.
        for left in 0..BLOCK_PEERS {
            let mut columns = PeerColumns::new(Role::Seeder, ShownFamilies::V4);
            (0..slot_number(BLOCK_PEERS)).for_each(|user| columns.push(peer(user)));
            (left..BLOCK_PEERS).for_each(|_| _ = columns.swap_remove(0));
            columns.shrink();
            (left..=BLOCK_PEERS).for_each(|_| columns.push(peer(7)));
            assert_eq!((columns.first.room(), columns.more.len()), (BLOCK_PEERS, 1), "{left}");
        }
    }
}
