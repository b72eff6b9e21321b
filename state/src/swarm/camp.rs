//! The peers of a large swarm that are reached from the same place: a pack of seeders and a pack of leechers.
//! Whoever may be handed one of them may be handed all of them, so that those that he may not be handed cost
//! nothing.

use crate::address::Reach;
use crate::swarm::buckets::Pack;
use crate::swarm::peer::{Endpoint, Spot};

/// Peers of one family and reach.
#[derive(Debug)]
pub(crate) struct Camp<const LEN: usize> {
    reach: Reach,
    seeders: Pack<LEN>,
    leechers: Pack<LEN>,
}

impl<const LEN: usize> Camp<LEN>
where
    [u8; LEN]: Endpoint,
{
    pub(crate) fn new(reach: Reach, with_ids: bool) -> Self {
        Self { reach, seeders: Pack::new(true, reach, with_ids), leechers: Pack::new(false, reach, with_ids) }
    }

    pub(crate) fn reach(&self) -> Reach {
        self.reach
    }

    pub(crate) fn len(&self) -> usize {
        self.seeders.len() + self.leechers.len()
    }

    pub(crate) fn pack(&self, seeder: bool) -> &Pack<LEN> {
        if seeder { &self.seeders } else { &self.leechers }
    }

    pub(crate) fn pack_mut(&mut self, seeder: bool) -> &mut Pack<LEN> {
        if seeder { &mut self.seeders } else { &mut self.leechers }
    }

    /// Both packs, and whether they are seeders.
    pub(crate) fn packs(&self) -> [(&Pack<LEN>, bool); 2] {
        [(&self.seeders, true), (&self.leechers, false)]
    }

    /// Octets on the heap.
    pub(crate) fn heap(&self) -> usize {
        self.seeders.heap() + self.leechers.heap()
    }

    pub(crate) fn keep_ids(&mut self, with_ids: bool) {
        self.seeders.keep_ids(with_ids);
        self.leechers.keep_ids(with_ids);
    }

    /// Where a peer stands; `seeder` is the role in which it is likely to be found.
    #[inline]
    pub(crate) fn find(&self, hash: u64, peer: &[u8; LEN], seeder: bool) -> Option<Spot> {
        self.pack(seeder).find(hash, peer).or_else(|| self.pack(!seeder).find(hash, peer))
    }
}
