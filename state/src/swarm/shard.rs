//! The torrents whose hash falls to one lock.

use std::collections::{HashSet, VecDeque};

use super::torrent::{Change, Context, Torrent};
use super::{Census, SHARDS};
use crate::admission::Policy;
use crate::announce::{Event, Handout, Tally};
use crate::clock::Tick;
use crate::ids::InfoHash;
use crate::table::index::Index;
use crate::table::keyed_hash::Keys;
use crate::table::prefetch::prefetch;
use crate::table::slab::Chunks;

/// Entries of the queue of idle torrents that may be out of date before it is tidied, besides as many as
/// there are idle torrents.
const IDLE_SLACK: usize = 64;

/// The torrents whose hash falls to one lock. What every announce reads first is in the cache line of the
/// lock.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Shard {
    pub(super) index: Index,
    pub(super) torrents: Chunks<Torrent>,
    /// Hashes of torrents that became idle, oldest first; some may have woken since.
    pub(super) idle_queue: VecDeque<(u64, Tick)>,
    pub(super) idle: usize,
    /// Octets of the torrents' heap blocks.
    pub(super) heap: usize,
    /// Octets of this shard that the budget knows of.
    pub(super) counted: usize,
    pub(super) census: Census,
    /// Announces refused for lack of memory.
    pub(super) full: u64,
    /// Peers not stored because of `announce.peers_per_address`.
    pub(super) crowded: u64,
}

impl Shard {
    pub(crate) fn len(&self) -> usize {
        self.torrents.len()
    }

    pub(crate) fn torrent(&self, slot: usize) -> Option<&Torrent> {
        self.torrents.get(slot)
    }

    pub(super) fn find(&self, hash: u64, info_hash: &InfoHash) -> Option<usize> {
        let same = |slot: u32| {
            self.torrents.get(slot as usize).is_some_and(|torrent| torrent.info_hash == *info_hash)
        };
        self.index.find(hash, same).map(|slot| slot as usize)
    }

    pub(super) fn guess(&self, hash: u64) -> Option<&Torrent> {
        self.torrents.get(self.index.guess(hash)? as usize)
    }

    pub(super) fn prefetch_torrent(&self, hash: u64) {
        // One that is new will come behind the last.
        if let Some(torrent) = self.guess(hash).or_else(|| self.torrents.last()) {
            prefetch(torrent);
        }
    }

    pub(super) fn prefetch_peers(&self, hash: u64) {
        if let Some(torrent) = self.guess(hash) {
            torrent.prefetch_peers();
        }
    }

    pub(super) fn memory(&self) -> usize {
        let queue = self.idle_queue.capacity() * size_of::<(u64, Tick)>();
        self.index.heap() + self.torrents.heap() + queue + self.heap
    }

    pub(super) fn announce(
        &mut self,
        hash: u64,
        context: &Context<'_>,
        may_create: bool,
        random: &mut fastrand::Rng,
        handout: &mut Handout<'_>,
    ) -> (Change, Tally) {
        let info_hash = &context.announce.info_hash;
        let stopped = context.announce.event == Event::Stopped;
        let slot = match self.find(hash, info_hash) {
            Some(slot) => slot,
            None if stopped => return (Change::Gone, Tally::default()),
            None if !may_create => return (Change::Full, Tally::default()),
            None => self.add(hash, *info_hash, context.keys),
        };
        let Some((change, tally)) = self.update(slot, |torrent| {
            let change = match torrent.change(context) {
                Change::Gone if !stopped => Change::Full,
                change => change,
            };
            match change {
                Change::Kept { spot, .. } => torrent.hand_out(context, Some(spot), random, handout),
                Change::Crowded => torrent.hand_out(context, None, random, handout),
                Change::Gone | Change::Full => {}
            }
            (change, torrent.tally())
        }) else {
            return (Change::Gone, Tally::default());
        };
        self.drop_if_empty(slot, hash, context.now, context.policy, context.keys);
        (change, tally)
    }

    /// Changes one torrent and keeps the shard's counts true.
    pub(crate) fn update<T>(&mut self, slot: usize, work: impl FnOnce(&mut Torrent) -> T) -> Option<T> {
        let torrent = self.torrents.get_mut(slot)?;
        let (census, heap, idle) = (torrent.census(), torrent.heap(), torrent.is_idle());
        let result = work(torrent);
        self.census.replace(census, torrent.census());
        self.heap = self.heap + torrent.heap() - heap;
        self.idle = self.idle + usize::from(torrent.is_idle()) - usize::from(idle);
        Some(result)
    }

    /// Forgets a torrent that nobody is in, or remembers only its completed count.
    pub(crate) fn drop_if_empty(&mut self, slot: usize, hash: u64, now: Tick, policy: &Policy, keys: &Keys) {
        let Some(torrent) = self.torrents.get(slot) else { return };
        if torrent.census().peers() > 0 {
            return;
        }
        if torrent.completed == 0 {
            return self.remove(slot, hash, keys);
        }
        if torrent.is_idle() {
            return;
        }
        self.update(slot, |torrent| torrent.make_idle(now));
        self.idle_queue.push_back((hash, now));
        while self.idle > policy.idle_torrents_max / SHARDS {
            let Some((hash, since)) = self.idle_queue.pop_front() else { break };
            let idle = |slot: u32| {
                self.torrents.get(slot as usize).is_some_and(|torrent| {
                    torrent.is_idle_since(since) && keys.info_hash(&torrent.info_hash) == hash
                })
            };
            if let Some(slot) = self.index.find(hash, idle) {
                self.remove(slot as usize, hash, keys);
            }
        }
        if self.idle_queue.len() > 2 * self.idle + IDLE_SLACK {
            self.tidy_idle_queue(keys);
        }
    }

    /// Leaves only those in the queue that are idle still, each once: one that woke and became idle again is
    /// there several times.
    pub(super) fn tidy_idle_queue(&mut self, keys: &Keys) {
        let Self { index, torrents, idle_queue, .. } = self;
        let mut seen = HashSet::with_capacity(idle_queue.len());
        idle_queue.retain(|&(hash, since)| {
            let idle = |slot: u32| {
                torrents.get(slot as usize).is_some_and(|torrent: &Torrent| {
                    torrent.is_idle_since(since) && keys.info_hash(&torrent.info_hash) == hash
                })
            };
            index.find(hash, idle).is_some() && seen.insert(hash)
        });
    }

    pub(crate) fn hash_at(&self, slot: usize, keys: &Keys) -> Option<u64> {
        self.torrents.get(slot).map(|torrent| keys.info_hash(&torrent.info_hash))
    }

    pub(super) fn add(&mut self, hash: u64, info_hash: InfoHash, keys: &Keys) -> usize {
        let slot = self.torrents.len();
        self.torrents.push(Torrent::new(info_hash));
        self.index.insert(hash, slot_number(slot), || hashed(&self.torrents, 0..slot, keys));
        slot
    }

    /// Forgets a torrent; the last one takes its slot.
    pub(super) fn remove(&mut self, slot: usize, hash: u64, keys: &Keys) {
        self.update(slot, |torrent| torrent.make_idle(Tick(0)));
        self.idle -= 1;
        let (last, torrents) = (self.torrents.len() - 1, &self.torrents);
        let others = || (0..=last).filter(|&other| other != slot);
        self.index.remove(hash, slot_number(slot), || hashed(torrents, others(), keys));
        if let Some(moved) = self.hash_at(last, keys).filter(|_| last != slot) {
            self.index.moved(moved, slot_number(last), slot_number(slot));
        }
        self.torrents.swap_remove(slot);
    }
}

/// Slots and the hashes of their torrents.
fn hashed(
    torrents: &Chunks<Torrent>,
    slots: impl Iterator<Item = usize>,
    keys: &Keys,
) -> impl Iterator<Item = (u64, u32)> {
    let hash = |slot| torrents.get(slot).map(|torrent: &Torrent| keys.info_hash(&torrent.info_hash));
    slots.filter_map(move |slot| Some((hash(slot)?, slot_number(slot))))
}

fn slot_number(slot: usize) -> u32 {
    u32::try_from(slot).unwrap_or(u32::MAX)
}
