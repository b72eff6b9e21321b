//! The peers of one role in a large swarm, in buckets by hash. Buckets are split and merged one at a time
//! (linear hashing), so that not even a swarm of millions stops for a rehash under its lock, and a peer is
//! found by a look at one bucket, without an index.

use crate::block::Block;
use crate::chunks::Chunks;
use crate::keys::Keys;
use crate::peer::{Endpoint, Member, Spot};

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
    seeder: bool,
    with_ids: bool,
    /// Octets of the blocks; asked at each announce, so that they are not summed each time.
    blocks: usize,
}

impl<const LEN: usize> Pack<LEN>
where
    [u8; LEN]: Endpoint,
{
    /// Nobody yet, of one role.
    pub(crate) fn new(seeder: bool, with_ids: bool) -> Self {
        Self { seeder, with_ids, first: Block::with_ids(with_ids), ..Self::default() }
    }

    pub(crate) fn len(&self) -> usize {
        self.len as usize
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

    /// Peers of the bucket of a hash that fit.
    pub(crate) fn count(&self, hash: u64, fits: impl Fn(&[u8; LEN]) -> bool) -> usize {
        let bucket = self.bucket(self.bucket_of(hash));
        bucket.map_or(0, |bucket| bucket.octets().iter().filter(|peer| fits(peer)).count())
    }

    /// Adds a peer; `None` where its bucket is full of peers that no split can part. `moved` is shown the
    /// peers that have to make room by going to a bucket of a higher number.
    pub(crate) fn insert(
        &mut self,
        hash: u64,
        member: &Member<LEN>,
        keys: &Keys,
        moved: impl FnMut(&[u8; LEN]),
    ) -> Option<Spot> {
        if self.len() >= self.buckets() * SPLIT_AT {
            self.split(keys, moved);
        }
        let bucket = self.bucket_of(hash);
        let place = self.change(bucket, |block| block.push(member)).flatten()?;
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
        let mut gone = 0;
        self.change(bucket, |block| {
            for place in (0..len).rev() {
                if expired(block, place) {
                    block.swap_remove(place);
                    gone += 1;
                }
            }
            block.shrink();
        });
        self.len -= gone;
        // Two for each bucket that is looked at: a round that empties all of them ends with one.
        self.merge_if_sparse(keys);
        self.merge_if_sparse(keys);
        len
    }

    /// Changes one bucket and keeps the count of octets true.
    pub(crate) fn change<T>(&mut self, bucket: usize, work: impl FnOnce(&mut Block<LEN>) -> T) -> Option<T> {
        let block = match bucket.checked_sub(1) {
            None => &mut self.first,
            Some(place) => self.more.get_mut(place)?,
        };
        let before = block.heap();
        let result = work(block);
        self.blocks = self.blocks + block.heap() - before;
        Some(result)
    }

    /// Keeps ids from now on, or gives them up.
    pub(crate) fn keep_ids(&mut self, with_ids: bool) {
        if self.with_ids == with_ids {
            return;
        }
        self.with_ids = with_ids;
        for bucket in 0..self.buckets() {
            self.change(bucket, |block| block.keep_ids(with_ids));
        }
    }

    fn spot(&self, bucket: usize, place: usize) -> Spot {
        Spot {
            seeder: self.seeder,
            bucket: u32::try_from(bucket).unwrap_or(u32::MAX),
            place: u16::try_from(place).unwrap_or(u16::MAX),
        }
    }

    fn bucket_of(&self, hash: u64) -> usize {
        let bits = usize::try_from(hash & 0xffff_ffff).unwrap_or(0);
        let all = self.buckets().next_power_of_two();
        let bucket = bits & (all - 1);
        if bucket < self.buckets() { bucket } else { bucket & (all / 2 - 1) }
    }

    /// Makes one more bucket from half of the one it belongs to.
    fn split(&mut self, keys: &Keys, mut moved: impl FnMut(&[u8; LEN])) {
        let new = self.buckets();
        let parent = new & !(1 << new.ilog2());
        self.more.push(Block::with_ids(self.with_ids));
        let members = self.take_bucket(parent);
        for member in members {
            let bucket = self.bucket_of(keys.peer(&member.octets));
            if bucket == new {
                moved(&member.octets);
            }
            self.change(bucket, |block| block.push(&member));
        }
    }

    /// Gives the peers of the last bucket back to the one it was made from, where buckets are sparse.
    fn merge_if_sparse(&mut self, keys: &Keys) {
        if self.buckets() == 1 || self.len() >= self.buckets() * MERGE_AT {
            return;
        }
        let members = self.take_bucket(self.buckets() - 1);
        self.more.pop();
        for member in members {
            let bucket = self.bucket_of(keys.peer(&member.octets));
            self.change(bucket, |block| block.push(&member));
        }
    }

    /// Empties a bucket.
    fn take_bucket(&mut self, bucket: usize) -> impl Iterator<Item = Member<LEN>> + use<LEN> {
        let empty = Block::with_ids(self.with_ids);
        let block = self.change(bucket, |block| std::mem::replace(block, empty)).unwrap_or_default();
        (0..block.len()).filter_map(move |place| block.member(place))
    }
}
