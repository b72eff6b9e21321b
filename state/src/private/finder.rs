//! Where the peers of a large swarm are, by their users: one table for each part of the hashes, so that no
//! lock is held while the whole of it grows.

use hashbrown::HashTable;

use super::swarm::Spot;

/// Tables; a power of two.
const PARTS: usize = 64;

/// Places of peers, found by the hash of their user. All peers of one user have the same hash; there are few.
#[derive(Debug)]
pub(super) struct Finder(Box<[HashTable<Spot>; PARTS]>);

impl Default for Finder {
    fn default() -> Self {
        Self(Box::new(std::array::from_fn(|_| HashTable::new())))
    }
}

impl Finder {
    pub(super) fn insert(&mut self, hash: u64, spot: Spot, hash_of: impl Fn(Spot) -> u64) {
        let part = self.part_mut(hash);
        let grows = part.len() == part.capacity();
        crate::touch::looked_at(if grows { part.len() } else { 0 });
        part.insert_unique(hash, spot, |spot| hash_of(*spot));
    }

    pub(super) fn remove(&mut self, hash: u64, spot: Spot) {
        if let Ok(entry) = self.part_mut(hash).find_entry(hash, |known| *known == spot) {
            entry.remove();
        }
    }

    /// The peer at `from` is at `to` now.
    pub(super) fn moved(&mut self, hash: u64, from: Spot, to: Spot) {
        if let Some(spot) = self.part_mut(hash).find_mut(hash, |known| *known == from) {
            *spot = to;
        }
    }

    pub(super) fn find(&self, hash: u64, is_it: impl Fn(Spot) -> bool) -> Option<Spot> {
        self.part(hash).find(hash, |spot| is_it(*spot)).copied()
    }

    /// What may be peers of that user.
    pub(super) fn all(&self, hash: u64) -> impl Iterator<Item = Spot> {
        self.part(hash).iter_hash(hash).copied()
    }

    fn part(&self, hash: u64) -> &HashTable<Spot> {
        #[expect(clippy::indexing_slicing, reason = "masked to the parts there are")]
        &self.0[number(hash)]
    }

    fn part_mut(&mut self, hash: u64) -> &mut HashTable<Spot> {
        #[expect(clippy::indexing_slicing, reason = "masked to the parts there are")]
        &mut self.0[number(hash)]
    }
}

/// By bits that the tables themselves make little use of.
fn number(hash: u64) -> usize {
    (hash >> 40) as usize & (PARTS - 1)
}
