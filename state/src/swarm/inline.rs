//! [`InlinePeers`]: the peers of the smallest swarms, inside their torrent.

use crate::address::{AddressScope, ScopeSet};
use crate::announce::{PEER_V4_LEN, PEER_V6_LEN};
use crate::swarm::peer::{LastSeen, SEEN_LEN, StoredPeer};
use crate::swarm::peer_set::PeerArray;

/// Two IPv4 peers: most torrents never have more.
pub(crate) type PairV4 = InlinePeers<PEER_V4_LEN, 2>;
/// One IPv6 peer.
pub(crate) type OneV6 = InlinePeers<PEER_V6_LEN, 1>;

/// Up to `MAX` peers of one family, seeders first, without ids. It must leave one of the 24 octets of a
/// [`SwarmForm`](crate::swarm::torrent::SwarmForm) free, so everything is kept in octets, which need no
/// alignment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InlinePeers<const LEN: usize, const MAX: usize> {
    octets: [[u8; LEN]; MAX],
    ages: [[u8; SEEN_LEN]; MAX],
    scopes: [u8; size_of::<ScopeSet>()],
    /// The number of peers times 16, plus that of seeders.
    counts: u8,
}

impl<const LEN: usize, const MAX: usize> InlinePeers<LEN, MAX> {
    /// The most peers that fit.
    pub(crate) const ROOM: usize = MAX;

    /// Returns every scope that a peer has had since the last sweep.
    pub(crate) fn scopes(&self) -> ScopeSet {
        ScopeSet::from_octets(self.scopes)
    }

    pub(crate) fn set_scopes(&mut self, scopes: ScopeSet) {
        self.scopes = scopes.to_octets();
    }

    fn len(&self) -> usize {
        usize::from(self.counts >> 4)
    }

    fn set_counts(&mut self, len: usize, seeders: usize) {
        self.counts = u8::try_from(len << 4 | seeders).unwrap_or(0);
    }
}

impl<const LEN: usize, const MAX: usize> Default for InlinePeers<LEN, MAX> {
    fn default() -> Self {
        Self { octets: [[0; LEN]; MAX], ages: [[0; SEEN_LEN]; MAX], scopes: [0; 2], counts: 0 }
    }
}

impl<const LEN: usize, const MAX: usize> PeerArray<LEN> for InlinePeers<LEN, MAX> {
    fn octets(&self) -> &[[u8; LEN]] {
        self.octets.get(..self.len()).unwrap_or_default()
    }

    fn seen(&self, place: usize) -> LastSeen {
        self.ages.get(place).map_or(LastSeen::default(), |age| LastSeen::from_octets(*age))
    }

    fn set_seen(&mut self, place: usize, seen: LastSeen) {
        if let Some(age) = self.ages.get_mut(place) {
            *age = seen.to_octets();
        }
    }

    fn seeders(&self) -> usize {
        usize::from(self.counts & 0x0f)
    }

    fn set_seeders(&mut self, seeders: usize) {
        self.set_counts(self.len(), seeders);
    }

    fn push(&mut self, stored: &StoredPeer<LEN>) -> bool {
        let place = self.len();
        let (Some(octets), Some(age)) = (self.octets.get_mut(place), self.ages.get_mut(place)) else {
            return false;
        };
        (*octets, *age) = (stored.octets, stored.seen.to_octets());
        self.set_counts(place + 1, self.seeders());
        true
    }

    fn pop(&mut self) {
        self.set_counts(self.len().saturating_sub(1), self.seeders());
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.octets.swap(a, b);
        self.ages.swap(a, b);
    }

    fn add_scope(&mut self, scope: AddressScope) {
        self.set_scopes(self.scopes().with(scope));
    }
}
