//! A value in shards: many small locks, so that servers on several threads seldom meet, and one estimate of
//! the memory that all shards take.

use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_utils::CachePadded;
use parking_lot::{Mutex, MutexGuard};

use super::keyed_hash::KeyedHash;
use super::prefetch::prefetch;
use crate::lock_cost;

/// Keys that [`Sharded::prefetch_batch`] fetches at most; further ones are left out.
pub(crate) const PREFETCH_MAX: usize = 64;
/// Octets by which a shard may have grown or shrunk before the estimate is updated: with 1024 shards it is
/// never further from the truth than 512 KiB.
const MEMORY_STEP: usize = 512;

/// A value behind one lock, with a count of its memory.
pub(crate) trait ShardMemory {
    /// Returns the octets that this shard takes, by the tracker's own count, in constant time.
    fn memory(&self) -> usize;
}

/// A shard, and the part of its memory that is already in the estimate. The shard comes first: what an
/// announce reads of it first is in the cache line of the lock.
#[derive(Debug, Default)]
#[repr(C)]
struct CountedShard<T> {
    shard: T,
    counted: usize,
}

/// `SHARDS` values of one kind, each behind its own lock. A keyed hash names the shard of a key, so that no
/// client can fill one. `SHARDS` is a power of two.
#[derive(Debug)]
pub(crate) struct Sharded<T, const SHARDS: usize> {
    shards: Vec<CachePadded<Mutex<CountedShard<T>>>>,
    pub(crate) hasher: KeyedHash,
    /// Octets that all shards take, but for less than [`MEMORY_STEP`] of each. In a cache line of its own,
    /// because the rest of this struct is read for every announce.
    memory: CachePadded<AtomicUsize>,
}

impl<T: ShardMemory + Default, const SHARDS: usize> Sharded<T, SHARDS> {
    /// Makes empty shards; `hasher` hashes their keys.
    pub(crate) fn new(hasher: KeyedHash) -> Self {
        const { assert!(SHARDS.is_power_of_two()) };
        let shards = (0..SHARDS).map(|_| CachePadded::default()).collect();
        Self { shards, hasher, memory: CachePadded::default() }
    }

    /// Returns the number of the shard of a key with this hash.
    pub(crate) const fn shard_number(hash: u64) -> usize {
        (hash >> 40) as usize & (SHARDS - 1)
    }

    /// Reads the shard of a key with this hash, under its lock.
    pub(crate) fn read<R>(&self, hash: u64, work: impl FnOnce(&T) -> R) -> R {
        work(&lock(self.shard(hash)).shard)
    }

    /// Reads a shard by its number; `None` past the last one.
    pub(crate) fn read_nth<R>(&self, number: usize, work: impl FnOnce(&T) -> R) -> Option<R> {
        Some(work(&lock(self.shards.get(number)?).shard))
    }

    /// Changes the shard of a key with this hash, under its lock.
    pub(crate) fn update<R>(&self, hash: u64, work: impl FnOnce(&mut T) -> R) -> R {
        let mut guard = lock(self.shard(hash));
        let result = work(&mut guard.shard);
        self.settle_memory(&mut guard);
        result
    }

    /// Changes a shard by its number; `None` past the last one.
    pub(crate) fn update_nth<R>(&self, number: usize, work: impl FnOnce(&mut T) -> R) -> Option<R> {
        let mut guard = lock(self.shards.get(number)?);
        let result = work(&mut guard.shard);
        self.settle_memory(&mut guard);
        Some(result)
    }

    /// Changes a shard by its number, and hands its lock to a waiting thread: for a caller that takes the
    /// lock again at once. `None` past the last one.
    pub(crate) fn update_nth_fairly<R>(&self, number: usize, work: impl FnOnce(&mut T) -> R) -> Option<R> {
        let mut guard = lock(self.shards.get(number)?);
        let result = work(&mut guard.shard);
        self.settle_memory(&mut guard);
        MutexGuard::unlock_fair(guard);
        Some(result)
    }

    /// Folds all shards, one lock after the other.
    pub(crate) fn fold<A>(&self, start: A, mut add: impl FnMut(A, &T) -> A) -> A {
        self.shards.iter().fold(start, |sum, shard| add(sum, &lock(shard).shard))
    }

    /// Returns the first `Some` that `find` returns for a shard; takes one lock after the other.
    pub(crate) fn find_map<R>(&self, mut find: impl FnMut(&T) -> Option<R>) -> Option<R> {
        self.shards.iter().find_map(|shard| find(&lock(shard).shard))
    }

    /// Returns the octets that all shards take, by the tracker's own count. Takes every lock once.
    pub(crate) fn memory(&self) -> usize {
        self.fold(0, |sum, shard| sum + shard.memory())
    }

    /// Whether the shards take less than `octets`, by the estimate: takes no lock.
    pub(crate) fn is_below(&self, octets: u64) -> bool {
        (self.memory.load(Ordering::Relaxed) as u64) < octets
    }

    /// Fetches what the announces of a batch will need into the processor's cache, in stages, each for the
    /// whole batch: one after the other, every announce would wait for memory three or four times. The locks
    /// are the first stage.
    pub(crate) fn prefetch_batch<K: Copy + Default>(
        &self,
        keys: impl Iterator<Item = (u64, K)>,
        stages: &[fn(&T, u64, K)],
    ) {
        let mut wanted = [(0, K::default()); PREFETCH_MAX];
        let mut count = 0;
        for (to, key) in wanted.iter_mut().zip(keys) {
            *to = key;
            prefetch(self.shard(key.0));
            count += 1;
        }
        for stage in stages {
            for &(hash, key) in wanted.get(..count).unwrap_or_default() {
                // A shard that another thread holds is left out: nothing is worth waiting for here.
                if let Some(guard) = self.shard(hash).try_lock() {
                    stage(&guard.shard, hash, key);
                }
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn is_locked(&self, hash: u64) -> bool {
        self.shard(hash).is_locked()
    }

    fn shard(&self, hash: u64) -> &Mutex<CountedShard<T>> {
        #[expect(clippy::indexing_slicing, reason = "masked to the shards there are")]
        &self.shards[Self::shard_number(hash)]
    }

    /// Counts what a shard has grown or shrunk by, in steps, so that workers seldom write to one line. Under
    /// the shard's lock: else what one thread takes away might be counted before what another has added, and
    /// the sum be below zero for a moment.
    fn settle_memory(&self, guard: &mut CountedShard<T>) {
        let now = guard.shard.memory();
        if now.abs_diff(guard.counted) >= MEMORY_STEP {
            self.memory.fetch_add(now.wrapping_sub(guard.counted), Ordering::Relaxed);
            guard.counted = now;
        }
    }
}

fn lock<T>(shard: &Mutex<CountedShard<T>>) -> MutexGuard<'_, CountedShard<T>> {
    let guard = shard.lock();
    lock_cost::lock_taken();
    guard
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct Octets(usize);

    impl ShardMemory for Octets {
        fn memory(&self) -> usize {
            self.0
        }
    }

    #[test]
    fn what_an_announce_reads_first_is_beside_the_lock() {
        assert_eq!(std::mem::offset_of!(CountedShard<[u64; 7]>, shard), 0);
    }

    #[test]
    fn the_estimate_follows_in_steps_and_the_sum_is_exact() {
        let sharded = Sharded::<Octets, 4>::new(KeyedHash::new(0));
        let hash = 3 << 40;
        sharded.update(hash, |shard| shard.0 = MEMORY_STEP - 1);
        assert!(sharded.is_below(1) && sharded.memory() == MEMORY_STEP - 1);
        sharded.update(hash, |shard| shard.0 = MEMORY_STEP);
        assert!(!sharded.is_below(MEMORY_STEP as u64) && sharded.is_below(MEMORY_STEP as u64 + 1));
        assert_eq!(sharded.update_nth(3, |shard| std::mem::take(&mut shard.0)), Some(MEMORY_STEP));
        assert!(sharded.is_below(1) && sharded.memory() == 0);
        assert_eq!(sharded.update_nth(4, |_| ()), None);
    }

    #[test]
    fn a_locked_shard_is_left_out_of_a_prefetch() {
        let sharded = Sharded::<Octets, 2>::new(KeyedHash::new(0));
        sharded.update_nth_fairly(1, |_| {
            assert!(sharded.is_locked(1 << 40) && !sharded.is_locked(0));
            sharded.prefetch_batch(
                [(0, 7), (1 << 40, 9)].into_iter(),
                &[|_, hash, key| {
                    assert_eq!((hash, key), (0, 7));
                }],
            );
        });
        assert!(!sharded.is_locked(1 << 40));
    }
}
