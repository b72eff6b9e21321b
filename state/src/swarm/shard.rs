//! [`Shard`]: the torrents behind one lock.

use std::collections::{HashSet, VecDeque};

use super::torrent::{AnnounceContext, PeerChange, Torrent};
use super::{PeerCounts, SHARDS};
use crate::admission::Policy;
use crate::announce::{Event, Handout, Tally};
use crate::clock::Tick;
use crate::cluster::outbox::Outbox;
use crate::cluster::record::Presence;
use crate::ids::InfoHash;
use crate::table::index::SlotIndex;
use crate::table::keyed_hash::KeyedHash;
use crate::table::prefetch::prefetch;
use crate::table::sharded::ShardMemory;
use crate::table::slab::Slab;

/// Entries of the queue of idle torrents that may be out of date before it is tidied, besides as many as
/// there are idle torrents.
const IDLE_SLACK: usize = 64;

/// The torrents behind one lock. What every announce reads first is in the cache line of the lock.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Shard {
    pub(super) index: SlotIndex,
    pub(super) torrents: Slab<Torrent>,
    /// Hashes of torrents that became idle, oldest first; some may have peers again.
    pub(super) idle_queue: VecDeque<(u64, Tick)>,
    pub(super) idle: usize,
    /// Octets of the torrents' heap blocks.
    pub(super) heap: usize,
    pub(super) peer_counts: PeerCounts,
    /// Announces refused for lack of memory.
    pub(super) full_total: u64,
    /// Peers not stored because of `announce.peers_per_address`.
    pub(super) crowded_total: u64,
    /// Changes for the other nodes of a cluster; empty without one.
    pub(crate) outbox: Outbox,
}

impl ShardMemory for Shard {
    fn memory(&self) -> usize {
        let queue = self.idle_queue.capacity() * size_of::<(u64, Tick)>();
        self.index.heap() + self.torrents.heap() + queue + self.heap
    }
}

impl Shard {
    pub(crate) fn len(&self) -> usize {
        self.torrents.len()
    }

    pub(crate) fn torrent(&self, slot: usize) -> Option<&Torrent> {
        self.torrents.get(slot)
    }

    pub(crate) fn find_slot(&self, hash: u64, info_hash: &InfoHash) -> Option<usize> {
        let same = |slot: u32| {
            self.torrents.get(slot as usize).is_some_and(|torrent| torrent.info_hash == *info_hash)
        };
        self.index.find(hash, same).map(|slot| slot as usize)
    }

    pub(super) fn likely_torrent(&self, hash: u64) -> Option<&Torrent> {
        self.torrents.get(self.index.likely_slot(hash)? as usize)
    }

    pub(super) fn prefetch_torrent(&self, hash: u64) {
        // A new one will come behind the last.
        if let Some(torrent) = self.likely_torrent(hash).or_else(|| self.torrents.last()) {
            prefetch(torrent);
        }
    }

    pub(super) fn prefetch_peers(&self, hash: u64) {
        if let Some(torrent) = self.likely_torrent(hash) {
            torrent.prefetch_peers();
        }
    }

    pub(super) fn announce(
        &mut self,
        hash: u64,
        context: &AnnounceContext<'_>,
        may_create: bool,
        random: &mut fastrand::Rng,
        handout: &mut Handout<'_>,
    ) -> (PeerChange, Tally) {
        let info_hash = &context.announce.info_hash;
        let stopped = context.announce.event == Event::Stopped;
        let slot = match self.find_slot(hash, info_hash) {
            Some(slot) => slot,
            None if stopped => return (PeerChange::Gone, Tally::default()),
            None if !may_create => return (PeerChange::Full, Tally::default()),
            None => self.add_torrent(hash, *info_hash, context.hasher),
        };
        let publishes = context.outbox_max > 0;
        let Some((change, tally, gone_at)) = self.update_torrent(slot, |torrent| {
            let gone_at = if publishes && stopped { torrent.gone_at(context) } else { None };
            let change = match torrent.apply_announce(context) {
                PeerChange::Gone if !stopped => PeerChange::Full,
                change => change,
            };
            match change {
                PeerChange::Kept { pos, .. } => torrent.hand_out(context, Some(pos), random, handout),
                PeerChange::Crowded => torrent.hand_out(context, None, random, handout),
                PeerChange::Gone | PeerChange::Full => {}
            }
            (change, torrent.tally(), gone_at)
        }) else {
            return (PeerChange::Gone, Tally::default());
        };
        if publishes {
            let publishable = match change {
                PeerChange::Kept { renewed, completed, .. } => {
                    renewed.map(|seen| (seen, context.presence(completed)))
                }
                PeerChange::Gone => gone_at.map(|seen| (seen, Presence::Gone)),
                PeerChange::Crowded | PeerChange::Full => None,
            };
            if let Some((seen, presence)) = publishable {
                self.outbox.note(context.outbox_max, seen, &context.record(presence, tally.completed));
            }
        }
        self.drop_if_empty(slot, hash, context.now, context.policy, context.hasher);
        (change, tally)
    }

    /// Changes one torrent and keeps the shard's counts correct.
    pub(crate) fn update_torrent<T>(
        &mut self,
        slot: usize,
        work: impl FnOnce(&mut Torrent) -> T,
    ) -> Option<T> {
        let torrent = self.torrents.get_mut(slot)?;
        let (peer_counts, heap, idle) = (torrent.peer_counts(), torrent.heap(), torrent.is_idle());
        let result = work(torrent);
        self.peer_counts.replace(peer_counts, torrent.peer_counts());
        self.heap = self.heap + torrent.heap() - heap;
        self.idle = self.idle + usize::from(torrent.is_idle()) - usize::from(idle);
        Some(result)
    }

    /// Drops a torrent without peers, or keeps only its completed count.
    pub(crate) fn drop_if_empty(
        &mut self,
        slot: usize,
        hash: u64,
        now: Tick,
        policy: &Policy,
        hasher: &KeyedHash,
    ) {
        let Some(torrent) = self.torrents.get(slot) else { return };
        if torrent.peer_counts().total() > 0 {
            return;
        }
        if torrent.completed == 0 {
            return self.remove_torrent(slot, hash, hasher);
        }
        if torrent.is_idle() {
            return;
        }
        self.update_torrent(slot, |torrent| torrent.make_idle(now));
        self.idle_queue.push_back((hash, now));
        while self.idle > policy.idle_torrents_max / SHARDS {
            let Some((hash, since)) = self.idle_queue.pop_front() else { break };
            let idle = |slot: u32| {
                self.torrents.get(slot as usize).is_some_and(|torrent| {
                    torrent.is_idle_since(since) && hasher.info_hash(&torrent.info_hash) == hash
                })
            };
            if let Some(slot) = self.index.find(hash, idle) {
                self.remove_torrent(slot as usize, hash, hasher);
            }
        }
        if self.idle_queue.len() > 2 * self.idle + IDLE_SLACK {
            self.tidy_idle_queue(hasher);
        }
    }

    /// Keeps only torrents that are still idle in the queue, each once: one that became idle again is there
    /// several times.
    pub(super) fn tidy_idle_queue(&mut self, hasher: &KeyedHash) {
        let Self { index, torrents, idle_queue, .. } = self;
        let mut seen = HashSet::with_capacity(idle_queue.len());
        idle_queue.retain(|&(hash, since)| {
            let idle = |slot: u32| {
                torrents.get(slot as usize).is_some_and(|torrent: &Torrent| {
                    torrent.is_idle_since(since) && hasher.info_hash(&torrent.info_hash) == hash
                })
            };
            index.find(hash, idle).is_some() && seen.insert(hash)
        });
    }

    pub(crate) fn hash_at(&self, slot: usize, hasher: &KeyedHash) -> Option<u64> {
        self.torrents.get(slot).map(|torrent| hasher.info_hash(&torrent.info_hash))
    }

    pub(crate) fn add_torrent(&mut self, hash: u64, info_hash: InfoHash, hasher: &KeyedHash) -> usize {
        let slot = self.torrents.len();
        self.torrents.push(Torrent::new(info_hash));
        self.index.insert(hash, slot_number(slot), |slot| hash_of_slot(&self.torrents, slot, hasher));
        slot
    }

    /// Removes a torrent; the last one takes its slot.
    pub(super) fn remove_torrent(&mut self, slot: usize, hash: u64, hasher: &KeyedHash) {
        self.update_torrent(slot, |torrent| torrent.make_idle(Tick(0)));
        self.idle -= 1;
        let (last, torrents) = (self.torrents.len() - 1, &self.torrents);
        self.index.remove(hash, slot_number(slot), |slot| hash_of_slot(torrents, slot, hasher));
        if let Some(moved) = self.hash_at(last, hasher).filter(|_| last != slot) {
            self.index.move_slot(moved, slot_number(last), slot_number(slot));
        }
        self.torrents.swap_remove(slot);
    }
}

/// Returns the hash of the torrent in a slot that the index has.
fn hash_of_slot(torrents: &Slab<Torrent>, slot: u32, hasher: &KeyedHash) -> u64 {
    torrents.get(slot as usize).map_or(0, |torrent| hasher.info_hash(&torrent.info_hash))
}

fn slot_number(slot: usize) -> u32 {
    u32::try_from(slot).unwrap_or(u32::MAX)
}
