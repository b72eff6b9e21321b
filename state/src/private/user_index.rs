//! Where the peers of a large swarm are, by their users: one table for each part of the hashes, so that no
//! lock is held while the whole of it grows.

use hashbrown::HashTable;

use super::columns::UserPeerPos;

/// Tables; a power of two.
const PARTS: usize = 64;

/// Places of peers, found by the hash of their user. All peers of one user have the same hash; there are few.
#[derive(Debug)]
pub(super) struct UserIndex(Box<[HashTable<UserPeerPos>; PARTS]>);

impl Default for UserIndex {
    fn default() -> Self {
        Self(Box::new(std::array::from_fn(|_| HashTable::new())))
    }
}

impl UserIndex {
    pub(super) fn insert(&mut self, hash: u64, pos: UserPeerPos, hash_of: impl Fn(UserPeerPos) -> u64) {
        let part = self.part_mut(hash);
        let grows = part.len() == part.capacity();
        crate::lock_cost::peers_visited(if grows { part.len() } else { 0 });
        part.insert_unique(hash, pos, |pos| hash_of(*pos));
    }

    pub(super) fn remove(&mut self, hash: u64, pos: UserPeerPos) {
        if let Ok(entry) = self.part_mut(hash).find_entry(hash, |known| *known == pos) {
            entry.remove();
        }
    }

    /// The peer at `from` is at `to` now.
    pub(super) fn move_to(&mut self, hash: u64, from: UserPeerPos, to: UserPeerPos) {
        if let Some(pos) = self.part_mut(hash).find_mut(hash, |known| *known == from) {
            *pos = to;
        }
    }

    pub(super) fn find(&self, hash: u64, is_it: impl Fn(UserPeerPos) -> bool) -> Option<UserPeerPos> {
        self.part(hash).find(hash, |pos| is_it(*pos)).copied()
    }

    /// What may be peers of that user.
    pub(super) fn candidates(&self, hash: u64) -> impl Iterator<Item = UserPeerPos> {
        self.part(hash).iter_hash(hash).copied()
    }

    fn part(&self, hash: u64) -> &HashTable<UserPeerPos> {
        #[expect(clippy::indexing_slicing, reason = "masked to the parts there are")]
        &self.0[part_number(hash)]
    }

    fn part_mut(&mut self, hash: u64) -> &mut HashTable<UserPeerPos> {
        #[expect(clippy::indexing_slicing, reason = "masked to the parts there are")]
        &mut self.0[part_number(hash)]
    }
}

/// By bits that the tables themselves make little use of.
fn part_number(hash: u64) -> usize {
    (hash >> 40) as usize & (PARTS - 1)
}
