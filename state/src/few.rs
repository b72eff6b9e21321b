//! The peers of a small IPv4 swarm, inside its torrent.

use crate::announce::PEER_V4_LEN;
use crate::family::{Family, Keys, Roster, Seen, reach_of};
use crate::ids::PeerId;
use crate::policy::Policy;

/// IPv4 peers a torrent has room for without a heap block: most torrents never have more.
pub(crate) const FEW: usize = 2;

/// Up to two IPv4 peers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Few {
    octets: [[u8; PEER_V4_LEN]; FEW],
    seen: [Seen; FEW],
    len: u8,
    seeders: u8,
}

impl Few {
    /// The peers of a family, if it has few enough.
    pub(crate) fn of(family: &Family<PEER_V4_LEN>) -> Option<Self> {
        let mut few = Self::default();
        let len = family.octets().len();
        few.octets.get_mut(..len)?.copy_from_slice(family.octets());
        few.seen.get_mut(..len)?.copy_from_slice(family.seen());
        few.len = u8::try_from(len).ok()?;
        few.seeders = u8::try_from(family.seeders()).ok()?;
        Some(few)
    }

    pub(crate) fn has_room(&self) -> bool {
        usize::from(self.len) < FEW
    }

    pub(crate) fn to_family(self, policy: &Policy, keys: &Keys) -> Family<PEER_V4_LEN> {
        let mut family = Family::default();
        for (place, (&peer, &seen)) in self.octets().iter().zip(self.seen()).enumerate() {
            family.insert(peer, seen, PeerId::default(), place < self.seeders(), keys);
            family.add_reach(reach_of(&peer, policy));
        }
        family
    }
}

impl Roster<PEER_V4_LEN> for Few {
    fn octets(&self) -> &[[u8; PEER_V4_LEN]] {
        self.octets.get(..usize::from(self.len)).unwrap_or_default()
    }

    fn seen(&self) -> &[Seen] {
        self.seen.get(..usize::from(self.len)).unwrap_or_default()
    }

    fn seeders(&self) -> usize {
        usize::from(self.seeders)
    }

    fn set_seeders(&mut self, seeders: usize) {
        self.seeders = u8::try_from(seeders).unwrap_or(u8::MAX);
    }

    fn find(&self, peer: &[u8; PEER_V4_LEN], _keys: &Keys) -> Option<usize> {
        self.octets().iter().position(|other| other == peer)
    }

    fn set_seen(&mut self, place: usize, seen: Seen) {
        if let Some(slot) = self.seen.get_mut(place) {
            *slot = seen;
        }
    }

    fn set_id(&mut self, _place: usize, _id: PeerId) {}

    fn push(&mut self, peer: [u8; PEER_V4_LEN], seen: Seen, _id: PeerId, _keys: &Keys) {
        let place = usize::from(self.len);
        if let (Some(octets), Some(age)) = (self.octets.get_mut(place), self.seen.get_mut(place)) {
            *octets = peer;
            *age = seen;
            self.len += 1;
        }
    }

    fn pop(&mut self, _keys: &Keys) {
        self.len = self.len.saturating_sub(1);
    }

    fn swap(&mut self, a: usize, b: usize, _keys: &Keys) {
        self.octets.swap(a, b);
        self.seen.swap(a, b);
    }
}
