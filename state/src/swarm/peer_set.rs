//! [`PeerSet`]: the operations that every form of a swarm has, and how the forms without buckets do them.

use crate::address::{AddressScope, ScopeSet};
use crate::admission::Policy;
use crate::announce::{Endpoint, have_same_address_key};
use crate::ids::{ID_LEN, PeerId};
use crate::swarm::peer::{LastSeen, PeerPos, StoredPeer, scope_of_peer};
use crate::table::keyed_hash::KeyedHash;

/// The peers of one family in a swarm, in any form. No peer is there twice.
pub(crate) trait PeerSet<const LEN: usize>
where
    [u8; LEN]: Endpoint,
{
    /// Returns the position of a peer; `seeder` is the role in which it is likely to be found.
    fn find(&self, peer: &[u8; LEN], seeder: bool, hasher: &KeyedHash) -> Option<PeerPos>;
    /// Adds a peer that is not there yet; `None` where there is no room for it.
    fn insert(
        &mut self,
        stored: &StoredPeer<LEN>,
        seeder: bool,
        scope: AddressScope,
        hasher: &KeyedHash,
    ) -> Option<PeerPos>;
    /// Returns the peer at a position.
    fn stored(&self, pos: PeerPos) -> Option<StoredPeer<LEN>>;
    /// Removes a peer.
    fn remove(&mut self, pos: PeerPos, hasher: &KeyedHash);
    /// Records that a peer has announced again.
    fn renew(&mut self, pos: PeerPos, seen: LastSeen, id: PeerId);
    /// Moves a peer to this role and scope; returns its new position.
    fn move_to(
        &mut self,
        pos: PeerPos,
        seeder: bool,
        scope: AddressScope,
        hasher: &KeyedHash,
    ) -> Option<PeerPos>;
    /// Returns the number of peers at the address of `peer`, as `announce.peers_per_address` counts them.
    fn count_at_address(&self, peer: &[u8; LEN], hasher: &KeyedHash) -> usize;
}

/// Peers in one array, seeders first: few enough to be searched linearly.
pub(crate) trait PeerArray<const LEN: usize> {
    fn octets(&self) -> &[[u8; LEN]];
    fn seen(&self, place: usize) -> LastSeen;
    fn set_seen(&mut self, place: usize, seen: LastSeen);
    fn seeders(&self) -> usize;
    fn set_seeders(&mut self, seeders: usize);
    /// Adds a peer behind all others; false where the array is full.
    fn push(&mut self, stored: &StoredPeer<LEN>) -> bool;
    /// Drops the last peer.
    fn pop(&mut self);
    fn swap(&mut self, a: usize, b: usize);
    fn add_scope(&mut self, scope: AddressScope);

    /// Returns one id for each peer, where ids are kept.
    fn ids(&self) -> &[[u8; ID_LEN]] {
        &[]
    }

    /// Sets a peer's id, where ids are kept.
    fn set_id(&mut self, _place: usize, _id: PeerId) {}

    fn peer_at(&self, place: usize) -> Option<StoredPeer<LEN>> {
        let octets = *self.octets().get(place)?;
        let id = self.ids().get(place).map(|id| PeerId(*id)).unwrap_or_default();
        Some(StoredPeer { octets, seen: self.seen(place), id })
    }

    /// Returns the number of partial seeds (BEP 21).
    fn paused(&self) -> u32 {
        (0..self.octets().len()).map(|place| u32::from(self.seen(place).paused())).sum()
    }

    /// Returns every scope that a peer has now.
    fn current_scopes(&self, policy: &Policy) -> ScopeSet
    where
        [u8; LEN]: Endpoint,
    {
        self.octets().iter().fold(ScopeSet::NONE, |set, peer| set.with(scope_of_peer(peer, policy)))
    }

    /// Drops a peer. Only peers behind it change their place.
    fn remove_at(&mut self, place: usize) {
        let hole = if place < self.seeders() { self.demote(place) } else { place };
        self.swap(hole, self.octets().len() - 1);
        self.pop();
    }

    /// Makes a seeder of a leecher; returns its new place.
    fn promote(&mut self, place: usize) -> usize {
        let first_leecher = self.seeders();
        self.swap(place, first_leecher);
        self.set_seeders(first_leecher + 1);
        first_leecher
    }

    /// Makes a leecher of a seeder; returns its new place.
    fn demote(&mut self, place: usize) -> usize {
        let last_seeder = self.seeders() - 1;
        self.swap(place, last_seeder);
        self.set_seeders(last_seeder);
        last_seeder
    }

    /// Drops the peers for which `expired` is true.
    fn expire(&mut self, mut expired: impl FnMut(LastSeen) -> bool) {
        for place in (0..self.octets().len()).rev() {
            if expired(self.seen(place)) {
                self.remove_at(place);
            }
        }
    }

    /// Returns the position of a place in the array.
    fn pos_at(&self, place: usize) -> PeerPos {
        let seeder = place < self.seeders();
        let place = if seeder { place } else { place - self.seeders() };
        PeerPos {
            seeder,
            scope: AddressScope::Public,
            bucket: 0,
            place: u16::try_from(place).unwrap_or(u16::MAX),
        }
    }

    /// Returns the place in the array of a position.
    fn index_of(&self, pos: PeerPos) -> usize {
        usize::from(pos.place) + if pos.seeder { 0 } else { self.seeders() }
    }
}

impl<const LEN: usize, R: PeerArray<LEN>> PeerSet<LEN> for R
where
    [u8; LEN]: Endpoint,
{
    fn find(&self, peer: &[u8; LEN], _: bool, _: &KeyedHash) -> Option<PeerPos> {
        self.octets().iter().position(|other| other == peer).map(|place| self.pos_at(place))
    }

    fn insert(
        &mut self,
        stored: &StoredPeer<LEN>,
        seeder: bool,
        scope: AddressScope,
        _: &KeyedHash,
    ) -> Option<PeerPos> {
        if !self.push(stored) {
            return None;
        }
        self.add_scope(scope);
        let last = self.octets().len() - 1;
        let place = if seeder { self.promote(last) } else { last };
        Some(self.pos_at(place))
    }

    fn stored(&self, pos: PeerPos) -> Option<StoredPeer<LEN>> {
        self.peer_at(self.index_of(pos))
    }

    fn remove(&mut self, pos: PeerPos, _: &KeyedHash) {
        self.remove_at(self.index_of(pos));
    }

    fn renew(&mut self, pos: PeerPos, seen: LastSeen, id: PeerId) {
        let place = self.index_of(pos);
        self.set_seen(place, seen);
        self.set_id(place, id);
    }

    fn move_to(&mut self, pos: PeerPos, seeder: bool, scope: AddressScope, _: &KeyedHash) -> Option<PeerPos> {
        self.add_scope(scope);
        if pos.seeder == seeder {
            return Some(pos);
        }
        let at = self.index_of(pos);
        let at = if seeder { self.promote(at) } else { self.demote(at) };
        Some(self.pos_at(at))
    }

    fn count_at_address(&self, peer: &[u8; LEN], _: &KeyedHash) -> usize {
        self.octets().iter().filter(|other| have_same_address_key(*other, peer)).count()
    }
}
