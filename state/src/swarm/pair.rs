//! [`Pair`]: the peers of the smallest swarms, inside their torrent.

use crate::address::{AddressScope, ScopeSet};
use crate::announce::PEER_V4_LEN;
use crate::swarm::peer::{LastSeen, StoredPeer};
use crate::swarm::peer_set::PeerArray;

/// IPv4 peers for which a torrent has room without a heap block: most torrents never have more.
pub(crate) const PAIR_LEN: usize = 2;

/// Up to two IPv4 peers, seeders first.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pair {
    octets: [[u8; PEER_V4_LEN]; PAIR_LEN],
    seen: [LastSeen; PAIR_LEN],
    len: u8,
    seeders: u8,
    /// Every scope that a peer has had since the last sweep.
    pub(crate) scopes: ScopeSet,
}

impl PeerArray<PEER_V4_LEN> for Pair {
    fn octets(&self) -> &[[u8; PEER_V4_LEN]] {
        self.octets.get(..usize::from(self.len)).unwrap_or_default()
    }

    fn seen(&self, place: usize) -> LastSeen {
        self.seen.get(place).copied().unwrap_or_default()
    }

    fn set_seen(&mut self, place: usize, seen: LastSeen) {
        if let Some(slot) = self.seen.get_mut(place) {
            *slot = seen;
        }
    }

    fn seeders(&self) -> usize {
        usize::from(self.seeders)
    }

    fn set_seeders(&mut self, seeders: usize) {
        self.seeders = u8::try_from(seeders).unwrap_or(u8::MAX);
    }

    fn push(&mut self, stored: &StoredPeer<PEER_V4_LEN>) -> bool {
        let place = usize::from(self.len);
        let (Some(octets), Some(seen)) = (self.octets.get_mut(place), self.seen.get_mut(place)) else {
            return false;
        };
        (*octets, *seen) = (stored.octets, stored.seen);
        self.len += 1;
        true
    }

    fn pop(&mut self) {
        self.len = self.len.saturating_sub(1);
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.octets.swap(a, b);
        self.seen.swap(a, b);
    }

    fn add_scope(&mut self, scope: AddressScope) {
        self.scopes = self.scopes.with(scope);
    }
}
