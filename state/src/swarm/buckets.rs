//! The peers of one role in a large swarm, in buckets by hash. Buckets are split and merged one at a time
//! (linear hashing), so that not even a swarm of millions stops for a rehash under its lock, and a peer is
//! found by searching one bucket, without an index.

use std::ops::RangeInclusive;

use crate::address::AddressScope;
use crate::announce::Endpoint;
use crate::ids::PeerId;
use crate::swarm::block::Block;
use crate::swarm::peer::{LastSeen, PeerPos, StoredPeer};
use crate::table::keyed_hash::KeyedHash;
use crate::table::slab::Slab;

/// Returns the position of a peer in the order in which a [walk](crate::snapshot::walk) goes through the
/// buckets of a role: the low bits of its hash, by which buckets are chosen, in reverse order. A bucket is
/// one range of positions. When it is split or merged the range is halved or doubled, but no peer ever
/// changes its position.
#[expect(clippy::cast_possible_truncation, reason = "the low bits are wanted")]
pub(crate) fn position(hash: u64) -> u32 {
    (hash as u32).reverse_bits()
}

/// Peers of a bucket on average at which one more bucket is split off.
const SPLIT_AT: usize = 48;
/// Peers of a bucket on average below which the last bucket is merged back.
const MERGE_AT: usize = 16;

/// The peers of one family, role and scope, in buckets. Bucket `n` was split off from bucket `n` without its
/// highest bit.
#[derive(Debug, Default)]
pub(crate) struct PeerBuckets<const LEN: usize> {
    /// Bucket 0; the only one of a small swarm.
    first: Block<LEN>,
    more: Slab<Block<LEN>>,
    len: u32,
    /// Peers of the largest bucket since there was only one bucket.
    bucket_len_max: u16,
    seeder: bool,
    /// The scope of all its peers.
    scope: AddressScope,
    /// Whether ids are kept; a bucket follows when it is next changed or swept.
    with_ids: bool,
    /// Octets of the blocks, kept because each announce needs them.
    blocks_heap: usize,
}

impl<const LEN: usize> PeerBuckets<LEN>
where
    [u8; LEN]: Endpoint,
{
    /// Makes empty buckets for one role and scope.
    pub(crate) fn new(seeder: bool, scope: AddressScope, with_ids: bool) -> Self {
        Self { seeder, scope, with_ids, first: Block::with_ids(with_ids), ..Self::default() }
    }

    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }

    /// Returns an upper bound of the peers in any one bucket.
    pub(crate) fn bucket_len_max(&self) -> usize {
        self.bucket_len_max.into()
    }

    /// Octets on the heap.
    pub(crate) fn heap(&self) -> usize {
        self.blocks_heap + self.more.heap()
    }

    pub(crate) fn bucket_count(&self) -> usize {
        1 + self.more.len()
    }

    pub(crate) fn bucket(&self, bucket: usize) -> Option<&Block<LEN>> {
        match bucket.checked_sub(1) {
            None => Some(&self.first),
            Some(place) => self.more.get(place),
        }
    }

    pub(crate) fn find(&self, hash: u64, peer: &[u8; LEN]) -> Option<PeerPos> {
        let bucket = self.bucket_of_hash(hash);
        self.bucket(bucket)?.find(peer).map(|place| self.pos(bucket, place))
    }

    /// Returns how many peers `counts` is true for in the bucket of a hash.
    pub(crate) fn count_in_bucket(&self, hash: u64, counts: impl Fn(&[u8; LEN]) -> bool) -> usize {
        let bucket = self.bucket(self.bucket_of_hash(hash));
        bucket.map_or(0, |bucket| bucket.octets().iter().filter(|peer| counts(peer)).count())
    }

    /// Adds a peer; `None` where its bucket is full of peers that no split can separate.
    pub(crate) fn insert(
        &mut self,
        hash: u64,
        stored: &StoredPeer<LEN>,
        hasher: &KeyedHash,
    ) -> Option<PeerPos> {
        if self.len() >= self.bucket_count() * SPLIT_AT {
            self.split(hasher);
        }
        let bucket = self.bucket_of_hash(hash);
        let place = self.put_in_bucket(bucket, stored)?;
        self.len += 1;
        Some(self.pos(bucket, place))
    }

    /// Removes a peer. Others of its bucket may change their place, and so may peers of the last bucket.
    pub(crate) fn remove(&mut self, pos: PeerPos, hasher: &KeyedHash) -> Option<StoredPeer<LEN>> {
        let take = |block: &mut Block<LEN>| {
            let stored = block.swap_remove(pos.place.into());
            block.shrink();
            stored
        };
        let stored = self.update_bucket(pos.bucket as usize, take).flatten()?;
        self.len -= 1;
        self.merge_if_sparse(hasher);
        Some(stored)
    }

    /// Drops the peers of one bucket for which `expired` is true; returns how many were looked at.
    pub(crate) fn expire(
        &mut self,
        bucket: usize,
        hasher: &KeyedHash,
        mut expired: impl FnMut(&Block<LEN>, usize) -> bool,
    ) -> usize {
        let len = self.bucket(bucket).map_or(0, Block::len);
        let (mut gone, with_ids) = (0, self.with_ids);
        self.update_bucket(bucket, |block| {
            block.keep_ids(with_ids);
            for place in (0..len).rev() {
                if expired(block, place) {
                    block.swap_remove(place);
                    gone += 1;
                }
            }
            block.shrink();
        });
        self.len -= gone;
        // The buckets were not sparse before, so there are at most `gone / MERGE_AT + 1` merges.
        while self.merge_if_sparse(hasher) {}
        len
    }

    /// Changes one bucket and keeps the count of octets correct.
    fn update_bucket<T>(&mut self, bucket: usize, work: impl FnOnce(&mut Block<LEN>) -> T) -> Option<T> {
        let block = match bucket.checked_sub(1) {
            None => &mut self.first,
            Some(place) => self.more.get_mut(place)?,
        };
        let before = block.heap();
        let result = work(block);
        self.blocks_heap = self.blocks_heap + block.heap() - before;
        Some(result)
    }

    pub(crate) fn with_ids(&self) -> bool {
        self.with_ids
    }

    /// Keeps ids from now on, or drops them: in each bucket when it is next changed or swept, because all
    /// buckets at once would take too long.
    pub(crate) fn keep_ids(&mut self, with_ids: bool) {
        self.with_ids = with_ids;
    }

    /// Records that a peer has announced again; returns when it was seen before.
    pub(crate) fn renew(&mut self, pos: PeerPos, seen: LastSeen, id: PeerId) -> Option<LastSeen> {
        let (place, with_ids) = (usize::from(pos.place), self.with_ids);
        self.update_bucket(pos.bucket as usize, |block| {
            let before = block.seen(place);
            block.keep_ids(with_ids);
            block.set_seen(place, seen);
            block.set_id(place, id);
            before
        })
    }

    /// Adds a peer to a bucket; returns its place.
    fn put_in_bucket(&mut self, bucket: usize, stored: &StoredPeer<LEN>) -> Option<usize> {
        let with_ids = self.with_ids;
        let place = self.update_bucket(bucket, |block| {
            block.keep_ids(with_ids);
            block.push(stored)
        });
        let place = place.flatten()?;
        self.bucket_len_max = self.bucket_len_max.max(u16::try_from(place + 1).unwrap_or(u16::MAX));
        Some(place)
    }

    fn pos(&self, bucket: usize, place: usize) -> PeerPos {
        PeerPos {
            seeder: self.seeder,
            scope: self.scope,
            bucket: u32::try_from(bucket).unwrap_or(u32::MAX),
            place: u16::try_from(place).unwrap_or(u16::MAX),
        }
    }

    /// Returns the bucket that holds the peers of a position, and the range of positions that it holds.
    pub(crate) fn bucket_at(&self, position: u32) -> (usize, RangeInclusive<u32>) {
        let (buckets, bucket) = (self.bucket_count(), self.bucket_of_hash(position.reverse_bits().into()));
        let all = buckets.next_power_of_two();
        // One that will be split in this round is still as wide as two of the others.
        let is_split = bucket >= all / 2 || bucket + all / 2 < buckets;
        let depth = all.ilog2() - u32::from(!is_split);
        let rest = u32::MAX.checked_shr(depth).unwrap_or(0);
        (bucket, position & !rest..=position | rest)
    }

    fn bucket_of_hash(&self, hash: u64) -> usize {
        let bits = usize::try_from(hash & 0xffff_ffff).unwrap_or(0);
        let all = self.bucket_count().next_power_of_two();
        let bucket = bits & (all - 1);
        if bucket < self.bucket_count() { bucket } else { bucket & (all / 2 - 1) }
    }

    /// Splits one more bucket off the one that it belongs to.
    fn split(&mut self, hasher: &KeyedHash) {
        let new = self.bucket_count();
        let parent = new & !(1 << new.ilog2());
        self.more.push(Block::with_ids(self.with_ids));
        let taken = self.take_bucket(parent);
        for bucket in [parent, new] {
            self.update_bucket(bucket, |block| block.make_room(taken.len() / 2));
        }
        for stored in (0..taken.len()).filter_map(|place| taken.peer_at(place)) {
            self.move_to_bucket(self.bucket_of_hash(hasher.peer(&stored.octets)), &stored);
        }
    }

    /// Merges the last bucket into the one from which it was split, where buckets are sparse; returns whether
    /// they were.
    fn merge_if_sparse(&mut self, hasher: &KeyedHash) -> bool {
        if self.bucket_count() == 1 || self.len() >= self.bucket_count() * MERGE_AT {
            return false;
        }
        let taken = self.take_bucket(self.bucket_count() - 1);
        self.more.pop();
        for stored in (0..taken.len()).filter_map(|place| taken.peer_at(place)) {
            self.move_to_bucket(self.bucket_of_hash(hasher.peer(&stored.octets)), &stored);
        }
        if self.bucket_count() == 1 {
            self.bucket_len_max = u16::try_from(self.first.len()).unwrap_or(u16::MAX);
        }
        true
    }

    /// Adds a peer that only changes its bucket. The peer is lost if that bucket is full, which takes a
    /// `peers_per_address` near the maximum.
    fn move_to_bucket(&mut self, bucket: usize, stored: &StoredPeer<LEN>) {
        if self.put_in_bucket(bucket, stored).is_none() {
            self.len -= 1;
        }
    }

    /// Empties a bucket.
    fn take_bucket(&mut self, bucket: usize) -> Block<LEN> {
        let empty = Block::with_ids(self.with_ids);
        self.update_bucket(bucket, |block| std::mem::replace(block, empty)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn stored(number: u32) -> StoredPeer<6> {
        let [a, b, c, d] = number.to_be_bytes();
        StoredPeer { octets: [a, b, c, d, 7, 11], seen: LastSeen(13), id: PeerId::default() }
    }

    fn insert(buckets: &mut PeerBuckets<6>, number: u32, hasher: &KeyedHash) {
        let stored = stored(number);
        let pos = buckets.insert(hasher.peer(&stored.octets), &stored, hasher).unwrap();
        assert_eq!(buckets.find(hasher.peer(&stored.octets), &stored.octets), Some(pos));
    }

    #[test]
    fn peers_are_found_where_they_stand_through_growth_and_decline() {
        let (hasher, mut random) = (KeyedHash::new(0), fastrand::Rng::with_seed(7));
        let (mut buckets, mut model) =
            (PeerBuckets::new(false, AddressScope::Public, false), BTreeSet::new());
        for step in 0..40_000 {
            let number = random.u32(..5000);
            // Growth, then decline.
            if random.u32(..40_000) > step {
                if model.insert(number) {
                    insert(&mut buckets, number, &hasher);
                }
            } else if model.remove(&number) {
                let peer = stored(number).octets;
                let pos = buckets.find(hasher.peer(&peer), &peer).unwrap();
                assert_eq!(buckets.remove(pos, &hasher).unwrap().octets, peer);
            }
            assert_eq!(buckets.len(), model.len());
        }
        for number in 0..5000 {
            let peer = stored(number).octets;
            assert_eq!(
                buckets.find(hasher.peer(&peer), &peer).is_some(),
                model.contains(&number),
                "{number}"
            );
        }
        let blocks = (0..buckets.bucket_count()).map(|bucket| buckets.bucket(bucket).unwrap());
        assert_eq!(buckets.blocks_heap, blocks.clone().map(Block::heap).sum::<usize>());
        assert!(blocks.map(Block::len).all(|len| len <= buckets.bucket_len_max()));
    }

    #[test]
    fn the_buckets_are_ranges_of_positions_without_gaps() {
        let (hasher, mut buckets) = (KeyedHash::new(0), PeerBuckets::new(false, AddressScope::Public, false));
        for number in 0..3000 {
            insert(&mut buckets, number, &hasher);
            if number % 61 != 0 {
                continue;
            }
            let (mut next, mut met) = (0_u64, 0);
            while next <= u64::from(u32::MAX) {
                let (bucket, range) = buckets.bucket_at(u32::try_from(next).unwrap());
                assert_eq!(u64::from(*range.start()), next);
                let octets = buckets.bucket(bucket).unwrap().octets();
                assert!(octets.iter().all(|peer| range.contains(&position(hasher.peer(peer)))));
                met += octets.len();
                next = u64::from(*range.end()) + 1;
            }
            assert_eq!(met, buckets.len());
        }
    }

    #[test]
    fn a_round_that_empties_all_buckets_leaves_one() {
        let (hasher, mut buckets) = (KeyedHash::new(0), PeerBuckets::new(true, AddressScope::Public, false));
        (0..20_000).for_each(|number| insert(&mut buckets, number, &hasher));
        let (mut at, full) = (buckets.bucket_count(), buckets.heap());
        assert!((400..430).contains(&at), "{at}");
        while at > 0 {
            let before = buckets.bucket_count();
            at = at.min(before) - 1;
            let gone = buckets.expire(at, &hasher, |_, _| true);
            let merged = before - buckets.bucket_count();
            assert!(merged <= gone / MERGE_AT + 1, "{merged} merges in one look at {gone} peers");
        }
        assert_eq!((buckets.len(), buckets.bucket_count()), (0, 1));
        assert!(buckets.heap() < full / 100, "{} of {full}", buckets.heap());
    }

    #[test]
    fn buckets_follow_when_ids_are_kept_or_given_up() {
        let (hasher, mut buckets) = (KeyedHash::new(0), PeerBuckets::new(true, AddressScope::Public, false));
        (0..200).for_each(|number| insert(&mut buckets, number, &hasher));
        let without = buckets.heap();
        let look = |buckets: &mut PeerBuckets<6>| {
            (0..buckets.bucket_count()).for_each(|bucket| _ = buckets.expire(bucket, &hasher, |_, _| false));
        };
        buckets.keep_ids(true);
        assert_eq!(buckets.heap(), without, "not all at once");
        look(&mut buckets);
        assert!(buckets.heap() > 2 * without);
        buckets.keep_ids(false);
        look(&mut buckets);
        assert!(buckets.heap() <= without, "{} of {without}", buckets.heap());
    }
}
