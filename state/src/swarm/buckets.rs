//! The peers of one role in a large swarm, in buckets by hash. Buckets are split and merged one at a time
//! (linear hashing), so that not even a swarm of millions stops for a rehash under its lock, and a peer is
//! found by a look at one bucket, without an index.

use std::ops::RangeInclusive;

use crate::address::Reach;
use crate::ids::PeerId;
use crate::swarm::block::Block;
use crate::swarm::peer::{Endpoint, Member, Seen, Spot};
use crate::table::keyed_hash::Keys;
use crate::table::slab::Chunks;

/// Where a peer stands in the order in which a [walk](crate::snapshot::walk) goes through a pack: the low
/// bits of its hash, by which buckets are chosen, the lowest as the highest. A bucket is one range of
/// positions, and when it is split or merged the range is halved or doubled, but no peer ever changes its
/// position.
#[expect(clippy::cast_possible_truncation, reason = "the low bits are wanted")]
pub(crate) fn position(hash: u64) -> u32 {
    (hash as u32).reverse_bits()
}

/// Peers of a bucket on average at which one more bucket is split off.
const SPLIT_AT: usize = 48;
/// Peers of a bucket on average below which the last bucket is merged back.
const MERGE_AT: usize = 16;

/// Buckets of peers. Bucket `n` was split off from bucket `n` without its highest bit.
#[derive(Debug, Default)]
pub(crate) struct Pack<const LEN: usize> {
    /// Bucket 0; the only one of a small swarm.
    first: Block<LEN>,
    more: Chunks<Block<LEN>>,
    len: u32,
    /// Peers of the largest bucket there was since there was only one.
    widest: u16,
    seeder: bool,
    /// Where its peers are reached from.
    camp: Reach,
    /// Whether ids are kept; a bucket follows when it is next changed or swept.
    with_ids: bool,
    /// Octets of the blocks; asked at each announce, so that they are not summed each time.
    blocks: usize,
}

impl<const LEN: usize> Pack<LEN>
where
    [u8; LEN]: Endpoint,
{
    /// Nobody yet, of one role and camp.
    pub(crate) fn new(seeder: bool, camp: Reach, with_ids: bool) -> Self {
        Self { seeder, camp, with_ids, first: Block::with_ids(with_ids), ..Self::default() }
    }

    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }

    /// More peers than this are in no bucket.
    pub(crate) fn widest(&self) -> usize {
        self.widest.into()
    }

    /// Octets on the heap.
    pub(crate) fn heap(&self) -> usize {
        self.blocks + self.more.heap()
    }

    pub(crate) fn buckets(&self) -> usize {
        1 + self.more.len()
    }

    pub(crate) fn bucket(&self, bucket: usize) -> Option<&Block<LEN>> {
        match bucket.checked_sub(1) {
            None => Some(&self.first),
            Some(place) => self.more.get(place),
        }
    }

    pub(crate) fn find(&self, hash: u64, peer: &[u8; LEN]) -> Option<Spot> {
        let bucket = self.bucket_of(hash);
        self.bucket(bucket)?.find(peer).map(|place| self.spot(bucket, place))
    }

    /// Peers of the bucket of a hash that count.
    pub(crate) fn count(&self, hash: u64, counts: impl Fn(&[u8; LEN]) -> bool) -> usize {
        let bucket = self.bucket(self.bucket_of(hash));
        bucket.map_or(0, |bucket| bucket.octets().iter().filter(|peer| counts(peer)).count())
    }

    /// Adds a peer; `None` where its bucket is full of peers that no split can part.
    pub(crate) fn insert(&mut self, hash: u64, member: &Member<LEN>, keys: &Keys) -> Option<Spot> {
        if self.len() >= self.buckets() * SPLIT_AT {
            self.split(keys);
        }
        let bucket = self.bucket_of(hash);
        let place = self.put(bucket, member)?;
        self.len += 1;
        Some(self.spot(bucket, place))
    }

    /// Takes a peer out. Others of its bucket may change their place, and peers of the last bucket theirs.
    pub(crate) fn remove(&mut self, spot: Spot, keys: &Keys) -> Option<Member<LEN>> {
        let take = |block: &mut Block<LEN>| {
            let member = block.swap_remove(spot.place.into());
            block.shrink();
            member
        };
        let member = self.change(spot.bucket as usize, take).flatten()?;
        self.len -= 1;
        self.merge_if_sparse(keys);
        Some(member)
    }

    /// Drops the peers of one bucket that `expired` says have; gives how many were looked at.
    pub(crate) fn expire(
        &mut self,
        bucket: usize,
        keys: &Keys,
        mut expired: impl FnMut(&Block<LEN>, usize) -> bool,
    ) -> usize {
        let len = self.bucket(bucket).map_or(0, Block::len);
        let (mut gone, with_ids) = (0, self.with_ids);
        self.change(bucket, |block| {
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
        while self.merge_if_sparse(keys) {}
        len
    }

    /// Changes one bucket and keeps the count of octets true.
    fn change<T>(&mut self, bucket: usize, work: impl FnOnce(&mut Block<LEN>) -> T) -> Option<T> {
        let block = match bucket.checked_sub(1) {
            None => &mut self.first,
            Some(place) => self.more.get_mut(place)?,
        };
        let before = block.heap();
        let result = work(block);
        self.blocks = self.blocks + block.heap() - before;
        Some(result)
    }

    pub(crate) fn with_ids(&self) -> bool {
        self.with_ids
    }

    /// Keeps ids from now on, or gives them up: in each bucket when it is next changed or swept, because all
    /// at once would take too long.
    pub(crate) fn keep_ids(&mut self, with_ids: bool) {
        self.with_ids = with_ids;
    }

    /// A peer came again.
    pub(crate) fn renew(&mut self, spot: Spot, seen: Seen, id: PeerId) -> Option<Seen> {
        let (place, with_ids) = (usize::from(spot.place), self.with_ids);
        self.change(spot.bucket as usize, |block| {
            let before = block.seen(place);
            block.keep_ids(with_ids);
            block.set_seen(place, seen);
            block.set_id(place, id);
            before
        })
    }

    /// Adds a peer to a bucket; gives its place.
    fn put(&mut self, bucket: usize, member: &Member<LEN>) -> Option<usize> {
        let with_ids = self.with_ids;
        let place = self.change(bucket, |block| {
            block.keep_ids(with_ids);
            block.push(member)
        });
        let place = place.flatten()?;
        self.widest = self.widest.max(u16::try_from(place + 1).unwrap_or(u16::MAX));
        Some(place)
    }

    fn spot(&self, bucket: usize, place: usize) -> Spot {
        Spot {
            seeder: self.seeder,
            camp: self.camp,
            bucket: u32::try_from(bucket).unwrap_or(u32::MAX),
            place: u16::try_from(place).unwrap_or(u16::MAX),
        }
    }

    /// The bucket that holds the peers of a position, and the first and the last position that it holds.
    pub(crate) fn bucket_at(&self, position: u32) -> (usize, RangeInclusive<u32>) {
        let (buckets, bucket) = (self.buckets(), self.bucket_of(position.reverse_bits().into()));
        let all = buckets.next_power_of_two();
        // One that will be split in this round is still as wide as two of the others.
        let is_split = bucket >= all / 2 || bucket + all / 2 < buckets;
        let depth = all.ilog2() - u32::from(!is_split);
        let rest = u32::MAX.checked_shr(depth).unwrap_or(0);
        (bucket, position & !rest..=position | rest)
    }

    fn bucket_of(&self, hash: u64) -> usize {
        let bits = usize::try_from(hash & 0xffff_ffff).unwrap_or(0);
        let all = self.buckets().next_power_of_two();
        let bucket = bits & (all - 1);
        if bucket < self.buckets() { bucket } else { bucket & (all / 2 - 1) }
    }

    /// Makes one more bucket from half of the one it belongs to.
    fn split(&mut self, keys: &Keys) {
        let new = self.buckets();
        let parent = new & !(1 << new.ilog2());
        self.more.push(Block::with_ids(self.with_ids));
        let members = self.take_bucket(parent);
        for bucket in [parent, new] {
            self.change(bucket, |block| block.make_room(members.len() / 2));
        }
        for member in (0..members.len()).filter_map(|place| members.member(place)) {
            self.put_back(self.bucket_of(keys.peer(&member.octets)), &member);
        }
    }

    /// Gives the peers of the last bucket back to the one it was made from, where buckets are sparse; false
    /// where they are not.
    fn merge_if_sparse(&mut self, keys: &Keys) -> bool {
        if self.buckets() == 1 || self.len() >= self.buckets() * MERGE_AT {
            return false;
        }
        let members = self.take_bucket(self.buckets() - 1);
        self.more.pop();
        for member in (0..members.len()).filter_map(|place| members.member(place)) {
            self.put_back(self.bucket_of(keys.peer(&member.octets)), &member);
        }
        if self.buckets() == 1 {
            self.widest = u16::try_from(self.first.len()).unwrap_or(u16::MAX);
        }
        true
    }

    /// Adds a peer that has only changed its bucket. It is lost where a bucket has no room for more, which
    /// takes a `peers_per_address` near the largest.
    fn put_back(&mut self, bucket: usize, member: &Member<LEN>) {
        if self.put(bucket, member).is_none() {
            self.len -= 1;
        }
    }

    /// Empties a bucket.
    fn take_bucket(&mut self, bucket: usize) -> Block<LEN> {
        let empty = Block::with_ids(self.with_ids);
        self.change(bucket, |block| std::mem::replace(block, empty)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn member(number: u32) -> Member<6> {
        let [a, b, c, d] = number.to_be_bytes();
        Member { octets: [a, b, c, d, 7, 11], seen: Seen(13), id: PeerId::default() }
    }

    fn insert(pack: &mut Pack<6>, number: u32, keys: &Keys) {
        let member = member(number);
        let spot = pack.insert(keys.peer(&member.octets), &member, keys).unwrap();
        assert_eq!(pack.find(keys.peer(&member.octets), &member.octets), Some(spot));
    }

    #[test]
    fn peers_are_found_where_they_stand_through_growth_and_decline() {
        let (keys, mut random) = (Keys::new(0), fastrand::Rng::with_seed(7));
        let (mut pack, mut model) = (Pack::new(false, Reach::Public, false), BTreeSet::new());
        for step in 0..40_000 {
            let number = random.u32(..5000);
            // Growth, then decline.
            if random.u32(..40_000) > step {
                if model.insert(number) {
                    insert(&mut pack, number, &keys);
                }
            } else if model.remove(&number) {
                let peer = member(number).octets;
                let spot = pack.find(keys.peer(&peer), &peer).unwrap();
                assert_eq!(pack.remove(spot, &keys).unwrap().octets, peer);
            }
            assert_eq!(pack.len(), model.len());
        }
        for number in 0..5000 {
            let peer = member(number).octets;
            assert_eq!(pack.find(keys.peer(&peer), &peer).is_some(), model.contains(&number), "{number}");
        }
        let blocks = (0..pack.buckets()).map(|bucket| pack.bucket(bucket).unwrap());
        assert_eq!(pack.blocks, blocks.clone().map(Block::heap).sum::<usize>());
        assert!(blocks.map(Block::len).all(|len| len <= pack.widest()));
    }

    #[test]
    fn the_buckets_are_ranges_of_positions_without_gaps() {
        let (keys, mut pack) = (Keys::new(0), Pack::new(false, Reach::Public, false));
        for number in 0..3000 {
            insert(&mut pack, number, &keys);
            if number % 61 != 0 {
                continue;
            }
            let (mut next, mut met) = (0_u64, 0);
            while next <= u64::from(u32::MAX) {
                let (bucket, range) = pack.bucket_at(u32::try_from(next).unwrap());
                assert_eq!(u64::from(*range.start()), next);
                let octets = pack.bucket(bucket).unwrap().octets();
                assert!(octets.iter().all(|peer| range.contains(&position(keys.peer(peer)))));
                met += octets.len();
                next = u64::from(*range.end()) + 1;
            }
            assert_eq!(met, pack.len());
        }
    }

    #[test]
    fn a_round_that_empties_all_buckets_leaves_one() {
        let (keys, mut pack) = (Keys::new(0), Pack::new(true, Reach::Public, false));
        (0..20_000).for_each(|number| insert(&mut pack, number, &keys));
        let (mut at, full) = (pack.buckets(), pack.heap());
        assert!((400..430).contains(&at), "{at}");
        while at > 0 {
            let before = pack.buckets();
            at = at.min(before) - 1;
            let gone = pack.expire(at, &keys, |_, _| true);
            let merged = before - pack.buckets();
            assert!(merged <= gone / MERGE_AT + 1, "{merged} merges in one look at {gone} peers");
        }
        assert_eq!((pack.len(), pack.buckets()), (0, 1));
        assert!(pack.heap() < full / 100, "{} of {full}", pack.heap());
    }

    #[test]
    fn buckets_follow_when_ids_are_kept_or_given_up() {
        let (keys, mut pack) = (Keys::new(0), Pack::new(true, Reach::Public, false));
        (0..200).for_each(|number| insert(&mut pack, number, &keys));
        let without = pack.heap();
        let look = |pack: &mut Pack<6>| {
            (0..pack.buckets()).for_each(|bucket| _ = pack.expire(bucket, &keys, |_, _| false));
        };
        pack.keep_ids(true);
        assert_eq!(pack.heap(), without, "not all at once");
        look(&mut pack);
        assert!(pack.heap() > 2 * without);
        pack.keep_ids(false);
        look(&mut pack);
        assert!(pack.heap() <= without, "{} of {without}", pack.heap());
    }
}
