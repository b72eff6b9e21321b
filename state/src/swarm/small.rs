//! [`SmallSwarm`]: the peers of a medium IPv4 swarm, in one heap block.

use crate::address::{AddressScope, ScopeSet};
use crate::announce::PEER_V4_LEN;
use crate::swarm::block::{self, Block, allocation};
use crate::swarm::peer::{LastSeen, StoredPeer};
use crate::swarm::peer_set::PeerArray;

/// Most IPv4 peers of a swarm that is searched linearly; larger ones have buckets.
pub(crate) const SMALL_MAX: usize = 40;

/// Peers for which a new small swarm has room. From there it grows by four: with what glibc's malloc adds,
/// blocks of these lengths are multiples of 16 octets, so that nothing is wasted.
pub(crate) const SMALL_ROOM: usize = 5;

/// Up to [`SMALL_MAX`] IPv4 peers, seeders first, without ids. It is part of a
/// [`Torrent`](crate::swarm::torrent::Torrent) of 48 octets, so it has no room for what a [`Block`] knows
/// about itself.
#[derive(Debug, Default)]
pub(crate) struct SmallSwarm {
    bytes: Box<[u8]>,
    len: u8,
    seeders: u8,
    /// Every scope that a peer has had since the last sweep.
    pub(crate) scopes: ScopeSet,
    _form: FormTag,
}

/// An octet with one value: the compiler uses its other values to store the form of the torrent.
#[derive(Clone, Copy, Debug, Default)]
#[repr(u8)]
enum FormTag {
    #[default]
    Small = 7,
}

impl SmallSwarm {
    /// Makes an empty swarm with room for `peers` peers.
    pub(crate) fn with_room(peers: usize) -> Self {
        let mut small = Self::default();
        small.with_block(|block| block.make_room(peers));
        small
    }

    /// Octets on the heap.
    pub(crate) fn heap(&self) -> usize {
        allocation(self.bytes.len())
    }

    /// Returns the block as it lies in memory.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Frees memory where there is much more of it than needed.
    pub(crate) fn shrink(&mut self) {
        self.with_block(Block::shrink);
    }

    /// Runs `work` on the peers as a [`Block`].
    fn with_block<T>(&mut self, work: impl FnOnce(&mut Block<PEER_V4_LEN>) -> T) -> T {
        let mut block = Block::from_parts(std::mem::take(&mut self.bytes), self.len.into());
        let result = work(&mut block);
        let (bytes, len) = block.into_parts();
        self.bytes = bytes;
        self.len = u8::try_from(len).unwrap_or(u8::MAX);
        result
    }
}

impl PeerArray<PEER_V4_LEN> for SmallSwarm {
    fn octets(&self) -> &[[u8; PEER_V4_LEN]] {
        block::octets(&self.bytes, self.len.into())
    }

    fn seen(&self, place: usize) -> LastSeen {
        block::last_seen_of::<PEER_V4_LEN>(&self.bytes, place)
    }

    fn set_seen(&mut self, place: usize, seen: LastSeen) {
        self.with_block(|block| block.set_seen(place, seen));
    }

    fn seeders(&self) -> usize {
        self.seeders.into()
    }

    fn set_seeders(&mut self, seeders: usize) {
        self.seeders = u8::try_from(seeders).unwrap_or(u8::MAX);
    }

    fn push(&mut self, stored: &StoredPeer<PEER_V4_LEN>) -> bool {
        usize::from(self.len) < SMALL_MAX && self.with_block(|block| block.push(stored)).is_some()
    }

    fn pop(&mut self) {
        self.len = self.len.saturating_sub(1);
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.with_block(|block| block.swap(a, b));
    }

    fn add_scope(&mut self, scope: AddressScope) {
        self.scopes = self.scopes.with(scope);
    }
}
