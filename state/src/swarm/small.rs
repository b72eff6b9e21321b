//! [`SmallSwarm`]: the peers of a medium swarm, of either or of both families, in one heap block.

use std::ops::Range;

use crate::address::{AddressScope, ScopeSet};
use crate::announce::{PEER_V4_LEN, PEER_V6_LEN, WirePeer};
use crate::ids::{ID_LEN, PeerId};
use crate::peer_counts::PeerCounts;
use crate::swarm::block::allocation;
use crate::swarm::peer::{LastSeen, SEEN_LEN, StoredPeer};
use crate::swarm::peer_set::PeerArray;

/// Most peers of a swarm that is searched linearly; larger ones have buckets.
pub(crate) const SMALL_MAX: usize = 40;

/// Octets of the smallest block, and the step to the next longer one: what glibc's malloc can use of a chunk,
/// so that nothing is wasted.
const BLOCK_MIN: usize = 24;
const BLOCK_STEP: usize = 16;
/// A block grows by a sixteenth in whole steps of eight octets: not at all below this length, where most
/// blocks are.
const GROWS_FROM: usize = 128;

/// Up to [`SMALL_MAX`] peers, in each family seeders first. The block has six parts: octets as they go on the
/// wire, ages and, where they are kept, ids, each of IPv4 and then of IPv6. They follow one another without a
/// gap, and what is free is at the end, so that a peer takes what its own parts take and nothing else.
///
/// It is part of a [`Torrent`](crate::swarm::torrent::Torrent) of 48 octets, whose last octet tells the forms
/// of a swarm apart.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct SmallSwarm {
    bytes: Box<[u8]>,
    /// Peers of each family, IPv4 first.
    len: [u8; 2],
    /// Seeders of each family.
    seeders: [u8; 2],
    /// Every scope that a peer has had since the last sweep.
    pub(crate) scopes: ScopeSet,
    with_ids: bool,
    _form: FormTag,
}

/// An octet with one value: the compiler uses its other values to store the form of the torrent.
#[derive(Clone, Copy, Debug, Default)]
#[repr(u8)]
enum FormTag {
    #[default]
    Small = 7,
}

/// What a part of the block holds.
#[derive(Clone, Copy)]
enum Part {
    Octets,
    Ages,
    Ids,
}

/// Returns the place of a family in the arrays of [`SmallSwarm`].
const fn family(peer_len: usize) -> usize {
    if peer_len == PEER_V4_LEN { 0 } else { 1 }
}

/// Returns the octets of each part, in their order in the block.
fn part_lens(len: [u8; 2], with_ids: bool) -> [usize; 6] {
    let [v4, v6] = len.map(usize::from);
    let id = if with_ids { ID_LEN } else { 0 };
    [v4 * PEER_V4_LEN, v6 * PEER_V6_LEN, v4 * SEEN_LEN, v6 * SEEN_LEN, v4 * id, v6 * id]
}

impl SmallSwarm {
    /// Makes an empty swarm.
    pub(crate) fn new(with_ids: bool) -> Self {
        Self { with_ids, ..Self::default() }
    }

    /// Returns the number of peers of both families.
    pub(crate) fn len_of_both(&self) -> usize {
        self.len.into_iter().map(usize::from).sum()
    }

    /// Returns the numbers of peers of each family, IPv4 first.
    pub(crate) fn lens(&self) -> [usize; 2] {
        self.len.map(usize::from)
    }

    pub(crate) fn with_ids(&self) -> bool {
        self.with_ids
    }

    pub(crate) fn peer_counts(&self) -> PeerCounts {
        let ([v4, v6], [v4_seeders, v6_seeders]) = (self.len.map(u32::from), self.seeders.map(u32::from));
        PeerCounts { v4_seeders, v4_leechers: v4 - v4_seeders, v6_seeders, v6_leechers: v6 - v6_seeders }
    }

    /// Whether the peer is there already, or there is room for one more.
    pub(crate) fn has_room(&self, wire: WirePeer) -> bool {
        self.len_of_both() < SMALL_MAX
            || match wire {
                WirePeer::V4(peer) => self.octets().contains(&peer),
                WirePeer::V6(peer) => self.octets().contains(&peer),
            }
    }

    /// Returns the number of partial seeds (BEP 21).
    pub(crate) fn paused_of_both(&self) -> u32 {
        PeerArray::<PEER_V4_LEN>::paused(self) + PeerArray::<PEER_V6_LEN>::paused(self)
    }

    /// Octets on the heap.
    pub(crate) fn heap(&self) -> usize {
        allocation(self.bytes.len())
    }

    /// Returns the octets and ages of all peers, which an announce looks at.
    pub(crate) fn octets_and_ages(&self) -> &[u8] {
        let [v4, v6] = self.lens();
        self.bytes.get(..v4 * (PEER_V4_LEN + SEEN_LEN) + v6 * (PEER_V6_LEN + SEEN_LEN)).unwrap_or_default()
    }

    /// Frees memory where there is much more of it than needed.
    pub(crate) fn shrink(&mut self) {
        let fit = block_len(self.used());
        if self.bytes.len() > 2 * fit {
            self.replace_block(fit);
        }
    }

    /// Keeps ids from now on (those of the peers already here are unknown), or drops them.
    pub(crate) fn keep_ids(&mut self, with_ids: bool) {
        if self.with_ids != with_ids {
            self.arrange(self.len, with_ids);
            let ids = self.range::<PEER_V4_LEN>(Part::Ids).start..self.used();
            self.bytes.get_mut(ids).unwrap_or_default().fill(0);
        }
    }

    /// Returns the octets of the block that are used.
    fn used(&self) -> usize {
        part_lens(self.len, self.with_ids).iter().sum()
    }

    /// Returns where a part of one family is in the block. Every announce needs this several times, so it is
    /// written out for the compiler to fold.
    #[inline]
    fn range<const LEN: usize>(&self, part: Part) -> Range<usize> {
        let [v4, v6] = self.lens();
        // Of this family, and of the one before it in each part.
        let (own, before) = if family(LEN) == 0 { (v4, 0) } else { (v6, v4) };
        let octets = v4 * PEER_V4_LEN + v6 * PEER_V6_LEN;
        let (start, item_len) = match part {
            Part::Octets => (before * PEER_V4_LEN, LEN),
            Part::Ages => (octets + before * SEEN_LEN, SEEN_LEN),
            Part::Ids => {
                let id = if self.with_ids { ID_LEN } else { 0 };
                (octets + (v4 + v6) * SEEN_LEN + before * id, id)
            }
        };
        start..start + own * item_len
    }

    /// Returns the items of a part of one family.
    fn items<const LEN: usize, const ITEM: usize>(&self, part: Part) -> &[[u8; ITEM]] {
        self.bytes.get(self.range::<LEN>(part)).unwrap_or_default().as_chunks().0
    }

    fn items_mut<const LEN: usize, const ITEM: usize>(&mut self, part: Part) -> &mut [[u8; ITEM]] {
        let range = self.range::<LEN>(part);
        self.bytes.get_mut(range).unwrap_or_default().as_chunks_mut().0
    }

    /// Moves the parts to where they belong with other numbers of peers, and takes a longer block if need be.
    /// Either all parts move towards the end or none does.
    fn arrange(&mut self, len: [u8; 2], with_ids: bool) {
        let (from, to) = (part_lens(self.len, self.with_ids), part_lens(len, with_ids));
        let (used, needed) = (from.iter().sum::<usize>(), to.iter().sum::<usize>());
        if needed > self.bytes.len() {
            self.replace_block(block_len(needed + needed / GROWS_FROM * 8));
        }
        let mut move_part = |part: usize| {
            let start = |lens: &[usize; 6]| lens.iter().take(part).sum::<usize>();
            let (old, new) = (start(&from), start(&to));
            let kept = from.get(part).min(to.get(part)).copied().unwrap_or(0);
            if kept > 0 && old != new {
                self.bytes.copy_within(old..old + kept, new);
            }
        };
        // No part may be overwritten before it has moved.
        if needed > used {
            (0..6).rev().for_each(&mut move_part);
        } else {
            (0..6).for_each(&mut move_part);
        }
        (self.len, self.with_ids) = (len, with_ids);
    }

    /// Moves everything into a block of `octets`, which has room for it.
    fn replace_block(&mut self, octets: usize) {
        let mut bytes = vec![0; octets].into_boxed_slice();
        let used = self.used();
        if let (Some(to), Some(from)) = (bytes.get_mut(..used), self.bytes.get(..used)) {
            to.copy_from_slice(from);
        }
        self.bytes = bytes;
    }
}

/// Returns the length of the shortest block of at least `octets` that wastes nothing.
fn block_len(octets: usize) -> usize {
    octets.saturating_sub(BLOCK_MIN).next_multiple_of(BLOCK_STEP) + BLOCK_MIN
}

impl<const LEN: usize> PeerArray<LEN> for SmallSwarm {
    fn octets(&self) -> &[[u8; LEN]] {
        self.items::<LEN, LEN>(Part::Octets)
    }

    fn seen(&self, place: usize) -> LastSeen {
        let ages = self.items::<LEN, SEEN_LEN>(Part::Ages);
        ages.get(place).map_or(LastSeen::default(), |age| LastSeen::from_octets(*age))
    }

    fn set_seen(&mut self, place: usize, seen: LastSeen) {
        if let Some(age) = self.items_mut::<LEN, SEEN_LEN>(Part::Ages).get_mut(place) {
            *age = seen.to_octets();
        }
    }

    fn ids(&self) -> &[[u8; ID_LEN]] {
        if self.with_ids { self.items::<LEN, ID_LEN>(Part::Ids) } else { &[] }
    }

    fn set_id(&mut self, place: usize, id: PeerId) {
        if self.with_ids
            && let Some(slot) = self.items_mut::<LEN, ID_LEN>(Part::Ids).get_mut(place)
        {
            *slot = id.0;
        }
    }

    fn seeders(&self) -> usize {
        let [v4, v6] = self.seeders;
        usize::from(if family(LEN) == 0 { v4 } else { v6 })
    }

    fn set_seeders(&mut self, seeders: usize) {
        if let Some(count) = self.seeders.get_mut(family(LEN)) {
            *count = u8::try_from(seeders).unwrap_or(u8::MAX);
        }
    }

    fn push(&mut self, stored: &StoredPeer<LEN>) -> bool {
        if self.len_of_both() >= SMALL_MAX {
            return false;
        }
        let mut len = self.len;
        len.get_mut(family(LEN)).into_iter().for_each(|count| *count += 1);
        self.arrange(len, self.with_ids);
        if let Some(slot) = self.items_mut::<LEN, LEN>(Part::Octets).last_mut() {
            *slot = stored.octets;
        }
        let place = self.items::<LEN, LEN>(Part::Octets).len() - 1;
        PeerArray::<LEN>::set_seen(self, place, stored.seen);
        PeerArray::<LEN>::set_id(self, place, stored.id);
        true
    }

    fn pop(&mut self) {
        let mut len = self.len;
        len.get_mut(family(LEN)).into_iter().for_each(|count| *count = count.saturating_sub(1));
        self.arrange(len, self.with_ids);
    }

    fn swap(&mut self, a: usize, b: usize) {
        if a.max(b) < self.items::<LEN, LEN>(Part::Octets).len() {
            self.items_mut::<LEN, LEN>(Part::Octets).swap(a, b);
            self.items_mut::<LEN, SEEN_LEN>(Part::Ages).swap(a, b);
            if self.with_ids {
                self.items_mut::<LEN, ID_LEN>(Part::Ids).swap(a, b);
            }
        }
    }

    fn add_scope(&mut self, scope: AddressScope) {
        self.scopes = self.scopes.with(scope);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The peers by family: number, age, and whether the peer is a seeder.
    type Model = [Vec<(u8, u16, bool)>; 2];

    fn array<const LEN: usize>(small: &SmallSwarm) -> &impl PeerArray<LEN> {
        small
    }

    fn array_mut<const LEN: usize>(small: &mut SmallSwarm) -> &mut impl PeerArray<LEN> {
        small
    }

    fn stored<const LEN: usize>(number: u8, seen: u16, with_id: bool) -> StoredPeer<LEN> {
        let id = PeerId([if with_id { number } else { 0 }; ID_LEN]);
        StoredPeer { octets: [number; LEN], seen: LastSeen(seen), id }
    }

    fn add<const LEN: usize>(small: &mut SmallSwarm, model: &mut Model, number: u8, seeder: bool) {
        let array = array_mut::<LEN>(small);
        assert!(array.push(&stored(number, number.into(), true)));
        let place = array.octets().len() - 1;
        if seeder {
            array.promote(place);
        }
        model[family(LEN)].push((number, number.into(), seeder));
    }

    /// Changes one peer: its age and id, its role, or it leaves.
    fn change<const LEN: usize>(
        small: &mut SmallSwarm,
        model: &mut Model,
        random: &mut fastrand::Rng,
        with_ids: bool,
    ) {
        let peers = &mut model[family(LEN)];
        if peers.is_empty() {
            return;
        }
        let chosen = random.usize(..peers.len());
        let (number, seen, seeder) = peers[chosen];
        let array = array_mut::<LEN>(small);
        let place = array.octets().iter().position(|peer| *peer == [number; LEN]).unwrap();
        assert_eq!(place < array.seeders(), seeder);
        match random.u8(..4) {
            0 => {
                array.remove_at(place);
                peers.swap_remove(chosen);
            }
            1 => {
                if seeder {
                    array.demote(place)
                } else {
                    array.promote(place)
                };
                peers[chosen].2 = !seeder;
            }
            _ => {
                array.set_seen(place, LastSeen(seen + 1));
                if with_ids {
                    array.set_id(place, PeerId([number; ID_LEN]));
                }
                peers[chosen].1 = seen + 1;
            }
        }
    }

    fn check<const LEN: usize>(small: &SmallSwarm, model: &Model, with_ids: bool) {
        let array = array::<LEN>(small);
        let mut held: Vec<_> = (0..array.octets().len())
            .map(|place| {
                let peer = array.peer_at(place).unwrap();
                assert_eq!(peer.octets, [peer.octets[0]; LEN]);
                let expected = if with_ids { peer.octets[0] } else { 0 };
                assert_eq!(peer.id, PeerId([expected; ID_LEN]));
                (peer.octets[0], peer.seen.0, place < array.seeders())
            })
            .collect();
        let mut expected = model[family(LEN)].clone();
        held.sort_unstable();
        expected.sort_unstable();
        assert_eq!(held, expected);
    }

    #[test]
    fn peers_of_both_families_keep_octets_age_id_and_role_through_every_change() {
        for (seed, with_ids) in [(7, false), (11, true)] {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut small, mut model) = (SmallSwarm::new(with_ids), Model::default());
            let mut next = 0_u8;
            for step in 0..20_000 {
                // Growth, then decline, and again.
                let grows = random.u16(..2000) > step % 2000;
                if grows && small.len_of_both() < SMALL_MAX {
                    let taken = |number: &u8| model.iter().flatten().any(|peer| peer.0 == *number);
                    next = (1..=u8::MAX).map(|more| next.wrapping_add(more)).find(|n| !taken(n)).unwrap();
                    if random.bool() {
                        add::<PEER_V4_LEN>(&mut small, &mut model, next, random.bool());
                    } else {
                        add::<PEER_V6_LEN>(&mut small, &mut model, next, random.bool());
                    }
                }
                change::<PEER_V4_LEN>(&mut small, &mut model, &mut random, with_ids);
                change::<PEER_V6_LEN>(&mut small, &mut model, &mut random, with_ids);
                if step % 97 == 0 {
                    small.shrink();
                }
                check::<PEER_V4_LEN>(&small, &model, with_ids);
                check::<PEER_V6_LEN>(&small, &model, with_ids);
            }
        }
    }

    #[test]
    fn ids_that_are_kept_from_now_on_are_unknown_and_may_be_dropped_again() {
        let (mut small, mut model) = (SmallSwarm::new(false), Model::default());
        (1..=9).for_each(|number| add::<PEER_V4_LEN>(&mut small, &mut model, number, number % 2 == 0));
        (11..=19).for_each(|number| add::<PEER_V6_LEN>(&mut small, &mut model, number, number % 2 == 0));
        let without_ids = small.heap();
        small.keep_ids(true);
        assert!(PeerArray::<PEER_V4_LEN>::ids(&small).iter().all(|id| *id == [0; ID_LEN]));
        assert_eq!(PeerArray::<PEER_V6_LEN>::ids(&small), [[0; ID_LEN]; 9]);
        for place in 0..9 {
            let v4: [u8; PEER_V4_LEN] = small.octets()[place];
            let v6: [u8; PEER_V6_LEN] = small.octets()[place];
            PeerArray::<PEER_V4_LEN>::set_id(&mut small, place, PeerId([v4[0]; ID_LEN]));
            PeerArray::<PEER_V6_LEN>::set_id(&mut small, place, PeerId([v6[0]; ID_LEN]));
        }
        check::<PEER_V4_LEN>(&small, &model, true);
        check::<PEER_V6_LEN>(&small, &model, true);
        small.keep_ids(false);
        small.shrink();
        check::<PEER_V4_LEN>(&small, &model, false);
        check::<PEER_V6_LEN>(&small, &model, false);
        assert!(small.heap() <= without_ids);
    }

    #[test]
    fn a_small_swarm_takes_little_more_than_its_peers() {
        let heap = |v4: u8, v6: u8, with_ids| {
            let (mut small, mut model) = (SmallSwarm::new(with_ids), Model::default());
            (0..v4).for_each(|number| add::<PEER_V4_LEN>(&mut small, &mut model, number, true));
            (100..100 + v6).for_each(|number| add::<PEER_V6_LEN>(&mut small, &mut model, number, false));
            small.heap()
        };
        assert_eq!([heap(3, 0, false), heap(4, 0, false), heap(0, 2, false)], [32, 48, 48]);
        assert_eq!([heap(1, 1, false), heap(1, 0, true), heap(0, 1, true)], [48, 48, 48]);
        for (v4, v6, with_ids) in
            [(40, 0, false), (0, 40, false), (20, 20, false), (40, 0, true), (0, 40, true)]
        {
            let raw: usize = part_lens([v4, v6], with_ids).iter().sum();
            assert!((raw..=raw + raw / 16 + 32).contains(&heap(v4, v6, with_ids)), "{v4} {v6} {with_ids}");
        }
    }
}
