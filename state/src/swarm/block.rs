//! Peers of one family in one heap block: first the octets of all of them, as they go on the wire, then their
//! ages, then, where they are kept, their ids. Without ids an IPv4 peer takes about ten octets, room to grow
//! included, and no pointer.

use crate::ids::{ID_LEN, PeerId};
use crate::swarm::peer::{LastSeen, SEEN_LEN, StoredPeer};

/// Octets that an allocator adds to each block, for the memory count.
const ALLOCATION_OVERHEAD: usize = 8;
/// Peers by which a block grows; half as many where ids are kept, because those take three times as much. A
/// smaller block doubles, and one of which an eighth (with ids, a sixteenth) is more grows by that.
const GROWTH: usize = 4;

/// Returns the octets of a heap block of `octets`, with what the allocator adds.
pub(crate) fn allocation(octets: usize) -> usize {
    if octets == 0 { 0 } else { octets + ALLOCATION_OVERHEAD }
}

/// Up to 65535 peers of one family.
#[derive(Debug, Default)]
pub(crate) struct Block<const LEN: usize> {
    bytes: Box<[u8]>,
    len: u16,
    with_ids: bool,
}

impl<const LEN: usize> Block<LEN> {
    pub(crate) fn with_ids(with_ids: bool) -> Self {
        Self { with_ids, ..Self::default() }
    }

    pub(crate) fn len(&self) -> usize {
        self.len.into()
    }

    /// Octets on the heap.
    pub(crate) fn heap(&self) -> usize {
        allocation(self.bytes.len())
    }

    pub(crate) fn octets(&self) -> &[[u8; LEN]] {
        self.bytes.get(..self.len() * LEN).unwrap_or_default().as_chunks().0
    }

    pub(crate) fn seen(&self, place: usize) -> LastSeen {
        let ages = self.bytes.get(self.capacity() * LEN + place * SEEN_LEN..).unwrap_or_default();
        ages.first_chunk().map_or(LastSeen::default(), |age| LastSeen::from_octets(*age))
    }

    pub(crate) fn set_seen(&mut self, place: usize, seen: LastSeen) {
        let at = self.capacity() * LEN + place * SEEN_LEN;
        if let Some(slot) = self.bytes.get_mut(at..at + SEEN_LEN) {
            slot.copy_from_slice(&seen.to_octets());
        }
    }

    /// Returns one id for each peer, where ids are kept.
    pub(crate) fn ids(&self) -> Option<&[[u8; ID_LEN]]> {
        let ids = self.bytes.get(self.capacity() * (LEN + SEEN_LEN)..).unwrap_or_default();
        self.with_ids.then_some(ids.as_chunks().0)
    }

    pub(crate) fn set_id(&mut self, place: usize, id: PeerId) {
        let at = self.capacity() * (LEN + SEEN_LEN) + place * ID_LEN;
        if self.with_ids
            && let Some(slot) = self.bytes.get_mut(at..at + ID_LEN)
        {
            slot.copy_from_slice(&id.0);
        }
    }

    pub(crate) fn peer_at(&self, place: usize) -> Option<StoredPeer<LEN>> {
        let octets = *self.octets().get(place)?;
        let id = self.ids().and_then(|ids| ids.get(place)).map(|id| PeerId(*id)).unwrap_or_default();
        Some(StoredPeer { octets, seen: self.seen(place), id })
    }

    pub(crate) fn find(&self, peer: &[u8; LEN]) -> Option<usize> {
        self.octets().iter().position(|other| other == peer)
    }

    /// Adds a peer behind all others and returns its place; `None` where the block has 65535 peers.
    pub(crate) fn push(&mut self, stored: &StoredPeer<LEN>) -> Option<usize> {
        let place = self.len();
        let len = self.len.checked_add(1)?;
        if place == self.capacity() {
            let (step, share) = if self.with_ids { (GROWTH / 2, 16) } else { (GROWTH, 8) };
            self.resize(place + step.min(place.max(1)).max(place / share), self.with_ids);
        }
        self.len = len;
        self.set_peer(place, stored);
        Some(place)
    }

    /// Makes sure that there is room for `peers` peers.
    pub(crate) fn make_room(&mut self, peers: usize) {
        if self.capacity() < peers {
            self.resize(peers, self.with_ids);
        }
    }

    /// Drops the last peer.
    pub(crate) fn pop(&mut self) -> Option<StoredPeer<LEN>> {
        let last = self.peer_at(self.len().checked_sub(1)?);
        self.len -= 1;
        last
    }

    /// Removes a peer; the last one takes its place.
    pub(crate) fn swap_remove(&mut self, place: usize) -> Option<StoredPeer<LEN>> {
        let gone = self.peer_at(place)?;
        let last = self.pop()?;
        if place < self.len() {
            self.set_peer(place, &last);
        }
        Some(gone)
    }

    /// Frees memory where there is much more of it than needed.
    pub(crate) fn shrink(&mut self) {
        let len = self.len();
        if self.capacity() > 2 * len + 2 * GROWTH || len == 0 {
            self.resize(len + len / 16, self.with_ids);
        }
    }

    /// Keeps ids from now on (those of the peers already here are unknown), or drops them.
    pub(crate) fn keep_ids(&mut self, with_ids: bool) {
        if self.with_ids != with_ids {
            self.resize(self.len(), with_ids);
        }
    }

    fn set_peer(&mut self, place: usize, stored: &StoredPeer<LEN>) {
        if let Some(slot) = self.bytes.get_mut(place * LEN..(place + 1) * LEN) {
            slot.copy_from_slice(&stored.octets);
        }
        self.set_seen(place, stored.seen);
        self.set_id(place, stored.id);
    }

    /// Returns the number of peers for which there is room.
    fn capacity(&self) -> usize {
        self.bytes.len() / stride(LEN, self.with_ids)
    }

    /// Moves everything into a block with room for `room` peers, or for those that are here.
    fn resize(&mut self, room: usize, with_ids: bool) {
        let len = self.len();
        let room = room.max(len);
        let bytes = vec![0; room * stride(LEN, with_ids)].into_boxed_slice();
        let mut moved = Self { bytes, len: self.len, with_ids };
        let arrays = [(0, LEN), (LEN, SEEN_LEN), (LEN + SEEN_LEN, ID_LEN)];
        let kept = if with_ids && self.with_ids { 3 } else { 2 };
        for (offset, size) in arrays.into_iter().take(kept) {
            let (from, to) = (self.capacity() * offset, room * offset);
            if let (Some(from), Some(to)) =
                (self.bytes.get(from..from + len * size), moved.bytes.get_mut(to..to + len * size))
            {
                to.copy_from_slice(from);
            }
        }
        *self = moved;
    }
}

fn stride(len: usize, with_ids: bool) -> usize {
    len + SEEN_LEN + if with_ids { ID_LEN } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(number: u8) -> StoredPeer<6> {
        StoredPeer { octets: [number; 6], seen: LastSeen(number.into()), id: PeerId([number; ID_LEN]) }
    }

    fn numbers(block: &Block<6>) -> Vec<u8> {
        let stored_peers = (0..block.len()).map(|place| block.peer_at(place).unwrap());
        stored_peers
            .map(|stored| {
                assert_eq!(stored.seen, LastSeen(stored.octets[0].into()));
                if block.ids().is_some() {
                    assert_eq!(stored.id.0[7], stored.octets[5]);
                }
                stored.octets[2]
            })
            .collect()
    }

    #[test]
    fn a_peer_keeps_its_octets_age_and_id_through_every_change() {
        for with_ids in [false, true] {
            let mut block = Block::with_ids(with_ids);
            for number in 1..=40 {
                assert_eq!(block.push(&stored(number)), Some(usize::from(number) - 1));
            }
            assert_eq!(numbers(&block), (1..=40).collect::<Vec<_>>());
            assert_eq!(block.swap_remove(0).unwrap().octets[0], 1);
            assert_eq!(block.swap_remove(1).unwrap().octets[0], 2);
            assert_eq!(block.swap_remove(37).unwrap().octets[0], 38);
            assert_eq!(
                (block.find(&[40; 6]), block.find(&[39; 6]), block.find(&[2; 6])),
                (Some(0), Some(1), None)
            );
            while block.len() > 3 {
                block.pop();
            }
            let before = block.heap();
            block.shrink();
            assert!(block.heap() < before / 4);
            assert_eq!(numbers(&block), [40, 39, 3]);
        }
    }

    #[test]
    fn keeping_and_dropping_ids_leaves_the_rest_as_it_is() {
        let mut block = Block::with_ids(false);
        (1..=7).for_each(|number| _ = block.push(&stored(number)));
        block.keep_ids(true);
        assert_eq!(block.ids().unwrap()[6], [0; ID_LEN], "unknown yet");
        (1..=7_u8).for_each(|number| block.set_id(usize::from(number) - 1, PeerId([number; ID_LEN])));
        assert_eq!(numbers(&block), [1, 2, 3, 4, 5, 6, 7]);
        block.keep_ids(false);
        assert_eq!(numbers(&block), [1, 2, 3, 4, 5, 6, 7]);
    }
}
