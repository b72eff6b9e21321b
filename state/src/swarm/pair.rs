//! The peers of the smallest swarms, inside their torrent.

use crate::address::{Reach, ReachSet};
use crate::announce::PEER_V4_LEN;
use crate::swarm::peer::{Member, Seen};
use crate::swarm::peer_set::Row;

/// IPv4 peers a torrent has room for without a heap block: most torrents never have more.
pub(crate) const PAIR: usize = 2;

/// Up to two IPv4 peers, seeders first.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pair {
    octets: [[u8; PEER_V4_LEN]; PAIR],
    seen: [Seen; PAIR],
    len: u8,
    seeders: u8,
    /// Every reach a peer has had since the last sweep.
    pub(crate) reach: ReachSet,
}

impl Row<PEER_V4_LEN> for Pair {
    fn octets(&self) -> &[[u8; PEER_V4_LEN]] {
        self.octets.get(..usize::from(self.len)).unwrap_or_default()
    }

    fn seen(&self, place: usize) -> Seen {
        self.seen.get(place).copied().unwrap_or_default()
    }

    fn set_seen(&mut self, place: usize, seen: Seen) {
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

    fn push(&mut self, member: &Member<PEER_V4_LEN>) -> bool {
        let place = usize::from(self.len);
        let (Some(octets), Some(seen)) = (self.octets.get_mut(place), self.seen.get_mut(place)) else {
            return false;
        };
        (*octets, *seen) = (member.octets, member.seen);
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

    fn add_reach(&mut self, reach: Reach) {
        self.reach = self.reach.with(reach);
    }
}
