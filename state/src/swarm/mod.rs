//! All swarms of mode open and listed, in shards by info_hash.
//!
//! | module | what is in it |
//! |---|---|
//! | `shard` | the torrents behind one lock |
//! | `torrent` | one torrent; its swarm is `inline`, `small`, or `large`: `scope_group`s of `buckets` |
//! | `peer`, `block` | one peer in memory, many peers in one heap block |
//! | `peer_set` | the operations that every form of a swarm has |
//! | `select` | the choice of peers for an answer |
//! | `sweep` | expiry in slices |
//! | `tap` | announces noted for a successor |
//! | `walk` | walks through all peers, for snapshots and other nodes |
//! | `metrics` | metrics of the swarms, in every mode |

pub(crate) mod block;
mod buckets;
mod inline;
pub(crate) mod large;
mod metrics;
pub(crate) mod peer;
pub(crate) mod peer_set;
mod scope_group;
mod select;
pub(crate) mod shard;
mod small;
mod sweep;
pub(crate) mod tap;
pub(crate) mod torrent;
pub(crate) mod walk;

use std::sync::Arc;

use crate::address::AddressScope;
use crate::admission::Policy;
use crate::announce::{Announce, Event, Handout, Tally};
use crate::clock::Tick;
use crate::ids::InfoHash;
use crate::metrics::histogram::Histogram;
pub use crate::peer_counts::PeerCounts;
use crate::swarm::shard::Shard;
pub use crate::swarm::sweep::Sweeper;
use crate::swarm::tap::{Delta, Tap};
use crate::swarm::torrent::{AnnounceContext, PeerChange, Torrent};
use crate::table::keyed_hash::KeyedHash;
use crate::table::sharded::Sharded;

/// Shards; a power of two.
pub(crate) const SHARDS: usize = 1024;
/// The share of the memory budget beyond which new torrents are refused.
const NEW_TORRENTS_SHARE: (u64, u64) = (15, 16);

/// The outcome of an announce that the policy has admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnnounceOutcome {
    /// The peer is in its swarm, or no longer in it if it has stopped.
    Done {
        /// Whether this announce counts as a finished download.
        completed: bool,
    },
    /// There was no room for the peer: nothing has changed, and no peers were handed out.
    Full,
}

/// All swarms of mode open and listed, shared by all threads until the tracker ends.
#[derive(Debug)]
pub struct Swarms {
    shards: Sharded<Shard, SHARDS>,
    /// Where announces are noted for a successor.
    tap: Tap,
    /// In a cluster, the most records in the outbox of a shard; 0 = no cluster.
    outbox_max: usize,
    /// Durations of rounds of the sweep.
    sweep_durations: Arc<Histogram>,
}

impl Swarms {
    /// Makes an empty set of swarms. `peers_per_address` is the most peers of one public address (IPv6: of
    /// one /64) in one swarm; 0 = no limit.
    #[must_use]
    pub fn new(peers_per_address: u16) -> Arc<Self> {
        Self::with_hasher(KeyedHash::new(peers_per_address), 0)
    }

    /// Makes an empty set of swarms of one node of a cluster. `key` is equal on all nodes; each shard notes
    /// up to `outbox_max` (at least 1) changes for the other nodes, and as many leaves and finished downloads
    /// more.
    #[must_use]
    pub fn in_cluster(peers_per_address: u16, key: &[u8; 32], outbox_max: usize) -> Arc<Self> {
        Self::with_hasher(KeyedHash::with_cluster_key(peers_per_address, key), outbox_max.max(1))
    }

    fn with_hasher(hasher: KeyedHash, outbox_max: usize) -> Arc<Self> {
        Arc::new(Self {
            shards: Sharded::new(hasher),
            tap: Tap::default(),
            outbox_max,
            sweep_durations: Arc::new(Histogram::milliseconds()),
        })
    }

    /// Changes the swarm of an admitted announce and hands out peers, under one lock.
    pub(crate) fn announce(
        &self,
        now: Tick,
        policy: &Policy,
        scope: AddressScope,
        announce: &Announce,
        random: &mut fastrand::Rng,
        handout: &mut Handout<'_>,
    ) -> (AnnounceOutcome, Tally) {
        let (hasher, may_grow, outbox_max) = (self.hasher(), self.may_grow(policy), self.outbox_max);
        let context = AnnounceContext { now, policy, hasher, scope, announce, may_grow, outbox_max };
        self.carry_out(&context, random, handout)
    }

    #[inline]
    fn carry_out(
        &self,
        context: &AnnounceContext<'_>,
        random: &mut fastrand::Rng,
        handout: &mut Handout<'_>,
    ) -> (AnnounceOutcome, Tally) {
        let AnnounceContext { policy, announce, may_grow, .. } = *context;
        let hash = self.shards.hasher.info_hash(&announce.info_hash);
        let may_create = may_grow && self.has_room(policy, NEW_TORRENTS_SHARE);
        self.shards.update(hash, |shard| {
            let (change, tally) = shard.announce(hash, context, may_create, random, handout);
            match change {
                PeerChange::Full => {
                    shard.full_total += 1;
                    return (AnnounceOutcome::Full, tally);
                }
                PeerChange::Crowded => shard.crowded_total += 1,
                PeerChange::Kept { .. } | PeerChange::Gone => {}
            }
            if self.tap.is_open() {
                // Under the lock: changes of a torrent are noted in the order in which they are made.
                self.tap.note_delta(Delta { announce: *announce, completed: tally.completed });
            }
            let completed = matches!(change, PeerChange::Kept { completed: true, .. });
            (AnnounceOutcome::Done { completed }, tally)
        })
    }

    /// Hands out peers as for this announce, but changes nothing. Returns the counts, which include the
    /// requester only if it is there already.
    pub(crate) fn hand_out_only(
        &self,
        now: Tick,
        policy: &Policy,
        scope: AddressScope,
        announce: &Announce,
        random: &mut fastrand::Rng,
        handout: &mut Handout<'_>,
    ) -> Tally {
        let (hasher, may_grow, outbox_max) = (self.hasher(), false, 0);
        let context = AnnounceContext { now, policy, hasher, scope, announce, may_grow, outbox_max };
        let hash = self.shards.hasher.info_hash(&announce.info_hash);
        self.shards.read(hash, |shard| {
            let found = shard.find_slot(hash, &announce.info_hash).and_then(|slot| shard.torrent(slot));
            let Some(torrent) = found else { return Tally::default() };
            if announce.event != Event::Stopped {
                torrent.hand_out(&context, torrent.find(&context), random, handout);
            }
            torrent.tally()
        })
    }

    /// Runs `work` on one torrent, under its shard's lock. An unknown torrent is made if `may_create` and if
    /// there is room; a torrent that then has neither peers nor a completed count is dropped. Returns the
    /// result and whether the torrent was made.
    pub(crate) fn with_torrent<T>(
        &self,
        now: Tick,
        policy: &Policy,
        info_hash: &InfoHash,
        may_create: bool,
        work: impl FnOnce(&mut Torrent) -> T,
    ) -> Option<(T, bool)> {
        let hash = self.shards.hasher.info_hash(info_hash);
        let may_create = may_create && self.has_room(policy, NEW_TORRENTS_SHARE);
        let hasher = &self.shards.hasher;
        self.shards.update(hash, |shard| {
            let known = shard.find_slot(hash, info_hash);
            let slot = match known {
                Some(slot) => slot,
                None if may_create => shard.add_torrent(hash, *info_hash, hasher),
                None => return None,
            };
            let result = shard.update_torrent(slot, work);
            shard.drop_if_empty(slot, hash, now, policy, hasher);
            Some((result?, known.is_none()))
        })
    }

    /// Sets the completed count of a torrent, as a store remembers it. An unknown torrent is remembered
    /// without peers, as far as `policy` allows. Returns false where there was no room for it.
    pub fn set_completed(&self, now: Tick, policy: &Policy, info_hash: &InfoHash, completed: u32) -> bool {
        let set = |torrent: &mut Torrent| torrent.completed = completed;
        self.with_torrent(now, policy, info_hash, completed > 0, set).is_some() || completed == 0
    }

    /// Fetches what the announces of a batch will need into the processor's cache.
    pub(crate) fn prefetch_batch(&self, info_hashes: impl Iterator<Item = InfoHash>) {
        let keys = info_hashes.map(|info_hash| (self.shards.hasher.info_hash(&info_hash), ()));
        self.shards.prefetch_batch(
            keys,
            &[
                |shard, hash, ()| shard.index.prefetch(hash),
                |shard, hash, ()| shard.prefetch_torrent(hash),
                |shard, hash, ()| shard.prefetch_peers(hash),
            ],
        );
    }

    /// Returns the counts of a swarm; zeros where it is unknown.
    #[must_use]
    pub fn tally(&self, info_hash: &InfoHash) -> Tally {
        let hash = self.shards.hasher.info_hash(info_hash);
        self.shards.read(hash, |shard| {
            let slot = shard.find_slot(hash, info_hash);
            let torrent = slot.and_then(|slot| shard.torrents.get(slot));
            torrent.map(Torrent::tally_with_paused).unwrap_or_default()
        })
    }

    /// Returns the counts of all peers. Takes every lock once, as do the sums below.
    #[must_use]
    pub fn peer_counts(&self) -> PeerCounts {
        self.shards.fold(PeerCounts::default(), |mut sum, shard| {
            sum.replace(PeerCounts::default(), shard.peer_counts);
            sum
        })
    }

    /// Returns the number of torrents with peers.
    #[must_use]
    pub fn live(&self) -> usize {
        self.shards.fold(0, |sum, shard| sum + shard.torrents.len() - shard.idle)
    }

    /// Returns the number of torrents and peers: what a whole sweep looks at.
    pub(crate) fn torrents_and_peers(&self) -> usize {
        self.shards.fold(0, |sum, shard| sum + shard.len() + shard.peer_counts.total() as usize)
    }

    /// Returns the number of torrents without peers whose completed count is remembered.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.shards.fold(0, |sum, shard| sum + shard.idle)
    }

    /// Returns the octets that the swarms take, by our own count.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.shards.memory()
    }

    /// Returns the number of announces answered without peers because the memory budget was used up.
    #[must_use]
    pub fn full_total(&self) -> u64 {
        self.shards.fold(0, |sum, shard| sum + shard.full_total)
    }

    /// Returns the number of announces whose peer was not stored because of `announce.peers_per_address`.
    #[must_use]
    pub fn crowded_total(&self) -> u64 {
        self.shards.fold(0, |sum, shard| sum + shard.crowded_total)
    }

    /// Returns the number of leaves and finished downloads that other nodes will not know of, because an
    /// outbox was full.
    #[must_use]
    pub fn outbox_dropped_total(&self) -> u64 {
        self.shards.fold(0, |sum, shard| sum + shard.outbox.dropped_total())
    }

    /// Raises the completed count of a known torrent to `completed` if it is lower.
    pub(crate) fn raise_completed(&self, info_hash: &InfoHash, completed: u32) {
        let hash = self.shards.hasher.info_hash(info_hash);
        self.shards.update(hash, |shard| {
            let slot = shard.find_slot(hash, info_hash);
            if let Some(torrent) = slot.and_then(|slot| shard.torrents.get_mut(slot)) {
                torrent.completed = torrent.completed.max(completed);
            }
        });
    }

    /// Returns the shard of a torrent.
    pub(crate) fn shard_of(&self, info_hash: &InfoHash) -> usize {
        Sharded::<Shard, SHARDS>::shard_number(self.shards.hasher.info_hash(info_hash))
    }

    pub(crate) fn sweep_durations(&self) -> &Arc<Histogram> {
        &self.sweep_durations
    }

    pub(crate) fn tap(&self) -> &Tap {
        &self.tap
    }

    #[cfg(test)]
    pub(crate) fn is_locked(&self, info_hash: &InfoHash) -> bool {
        self.shards.is_locked(self.shards.hasher.info_hash(info_hash))
    }

    pub(crate) fn hasher(&self) -> &KeyedHash {
        &self.shards.hasher
    }

    /// Runs one slice of a sweep under one shard's lock; `None` past the last shard.
    pub(crate) fn with_shard<T>(&self, shard: usize, work: impl FnOnce(&mut Shard) -> T) -> Option<T> {
        self.shards.update_nth(shard, work)
    }

    /// Whether peers may be added: the memory budget is not used up.
    pub(crate) fn may_grow(&self, policy: &Policy) -> bool {
        self.has_room(policy, (1, 1))
    }

    /// Whether torrents may be added.
    pub(crate) fn may_create(&self, policy: &Policy) -> bool {
        self.has_room(policy, NEW_TORRENTS_SHARE)
    }

    fn has_room(&self, policy: &Policy, (part, whole): (u64, u64)) -> bool {
        policy.memory_max == 0 || self.shards.is_below(policy.memory_max / whole * part)
    }
}
