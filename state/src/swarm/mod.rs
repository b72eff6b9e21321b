//! All swarms, in shards: many small locks, so that servers on several threads seldom meet. A keyed hash of the
//! info_hash names the shard, so that no client can fill one.
//!
//! | module | what is in it |
//! |---|---|
//! | `torrent` | one torrent, its swarm being a `pair`, `small`, or `large`: `scope_group`s of `buckets` |
//! | `peer`, `block`, `peer_set` | one peer in memory, many in one block, what can be done to them |
//! | `shard` | the torrents behind one lock |
//! | `select` | the choice of peers |
//! | `sweep` | expiry in slices |
//! | `tap` | announces noted for a successor |
//! | `metrics` | the numbers of all swarms |

pub(crate) mod block;
mod buckets;
pub(crate) mod large;
mod metrics;
mod pair;
pub(crate) mod peer;
pub(crate) mod peer_set;
mod scope_group;
mod select;
pub(crate) mod shard;
mod small;
mod sweep;
pub(crate) mod tap;
pub(crate) mod torrent;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_utils::CachePadded;
use parking_lot::Mutex;

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
use crate::table::prefetch::prefetch;

/// Shards; a power of two.
pub(crate) const SHARDS: usize = 1024;
const _: () = assert!(SHARDS.is_power_of_two());
/// Octets by which a shard may have grown or shrunk before the memory budget is told: all shards together are
/// never further from the truth than 512 KiB.
const MEMORY_STEP: usize = 512;
/// Of the memory budget, the share beyond which torrents that nobody shares yet are refused.
const NEW_TORRENTS_SHARE: (u64, u64) = (15, 16);

/// Announces that [`Tracker::look_ahead`](crate::Tracker::look_ahead) takes at most.
pub const PREFETCH_MAX: usize = 64;

/// Whether an announce was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnnounceOutcome {
    /// The swarm knows the peer now (or forgot it, if it stopped).
    Done {
        /// This announce counts as a finished download.
        completed: bool,
    },
    /// There was no room for the peer: nothing changed, nobody was handed out.
    Full,
}

/// All swarms of the tracker.
#[derive(Debug)]
pub struct Swarms {
    shards: Vec<CachePadded<Mutex<Shard>>>,
    hasher: KeyedHash,
    /// Octets that all shards take, by our own count, but for less than [`ACCOUNT_STEP`] of each. In a cache
    /// line of its own, because the rest of this struct is read for every announce.
    memory: CachePadded<AtomicUsize>,
    /// Where announces are noted for a successor.
    tap: Tap,
    /// How long rounds of the sweep took.
    sweep_durations: Arc<Histogram>,
}

impl Swarms {
    /// No swarms yet. `peers_per_address`: peers of one public address (IPv6: of one /64) in one swarm at
    /// most; 0 = no limit.
    #[must_use]
    pub fn new(peers_per_address: u16) -> Arc<Self> {
        let shards = (0..SHARDS).map(|_| CachePadded::default()).collect();
        Arc::new(Self {
            shards,
            hasher: KeyedHash::new(peers_per_address),
            memory: CachePadded::default(),
            tap: Tap::default(),
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
        let may_grow = self.may_grow(policy);
        let context = AnnounceContext { now, policy, hasher: &self.hasher, scope, announce, may_grow };
        let hash = self.hasher.info_hash(&announce.info_hash);
        let may_create = may_grow && self.has_room(policy, NEW_TORRENTS_SHARE);
        let mut shard = self.shard(hash).lock();
        let (change, tally) = shard.announce(hash, &context, may_create, random, handout);
        self.update_memory(&mut shard);
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
        (
            AnnounceOutcome::Done { completed: matches!(change, PeerChange::Kept { completed: true, .. }) },
            tally,
        )
    }

    /// Hands out peers as to this announce, but changes nothing. Gives the tally without the requester, unless he
    /// is there already.
    pub(crate) fn hand_out_only(
        &self,
        now: Tick,
        policy: &Policy,
        scope: AddressScope,
        announce: &Announce,
        random: &mut fastrand::Rng,
        handout: &mut Handout<'_>,
    ) -> Tally {
        let context = AnnounceContext { now, policy, hasher: &self.hasher, scope, announce, may_grow: false };
        let hash = self.hasher.info_hash(&announce.info_hash);
        let shard = self.shard(hash).lock();
        let found = shard.find_slot(hash, &announce.info_hash).and_then(|slot| shard.torrent(slot));
        let Some(torrent) = found else { return Tally::default() };
        if announce.event != Event::Stopped {
            torrent.hand_out(&context, torrent.find(&context), random, handout);
        }
        torrent.tally()
    }

    /// Works on one torrent under its shard's lock. One that is unknown is made where it may be and there is
    /// room; one that then has neither peers nor a completed count is forgotten. Tells whether it was made.
    pub(crate) fn with_torrent<T>(
        &self,
        now: Tick,
        policy: &Policy,
        info_hash: &InfoHash,
        may_create: bool,
        work: impl FnOnce(&mut Torrent) -> T,
    ) -> Option<(T, bool)> {
        let hash = self.hasher.info_hash(info_hash);
        let may_create = may_create && self.has_room(policy, NEW_TORRENTS_SHARE);
        let mut shard = self.shard(hash).lock();
        let known = shard.find_slot(hash, info_hash);
        let slot = match known {
            Some(slot) => slot,
            None if may_create => shard.add_torrent(hash, *info_hash, &self.hasher),
            None => return None,
        };
        let result = shard.update_torrent(slot, work);
        shard.drop_if_empty(slot, hash, now, policy, &self.hasher);
        self.update_memory(&mut shard);
        Some((result?, known.is_none()))
    }

    /// Sets how often a torrent was downloaded, as a store remembers it. One that is unknown is remembered
    /// without peers, as far as `policy` allows. False where there was no room for it.
    pub fn set_completed(&self, now: Tick, policy: &Policy, info_hash: &InfoHash, completed: u32) -> bool {
        let set = |torrent: &mut Torrent| torrent.completed = completed;
        self.with_torrent(now, policy, info_hash, completed > 0, set).is_some() || completed == 0
    }

    /// Fetches what the announces of a batch will need into the processor's cache, in stages, each for the
    /// whole batch: one after the other, every announce would wait for memory three or four times.
    pub(crate) fn prefetch_batch(&self, info_hashes: impl Iterator<Item = InfoHash>) {
        let mut hashes = [0; PREFETCH_MAX];
        let mut count = 0;
        for (to, info_hash) in hashes.iter_mut().zip(info_hashes) {
            *to = self.hasher.info_hash(&info_hash);
            prefetch(self.shard(*to));
            count += 1;
        }
        let hashes = hashes.get(..count).unwrap_or_default();
        // A shard that somebody holds is left out: nothing is worth waiting for here.
        let visit = |work: fn(&Shard, u64)| {
            for &hash in hashes {
                if let Some(shard) = self.shard(hash).try_lock() {
                    work(&shard, hash);
                }
            }
        };
        visit(|shard, hash| shard.index.prefetch(hash));
        visit(|shard, hash| shard.prefetch_torrent(hash));
        visit(|shard, hash| shard.prefetch_peers(hash));
    }

    /// How a swarm stands; zeros where it is unknown.
    #[must_use]
    pub fn tally(&self, info_hash: &InfoHash) -> Tally {
        let hash = self.hasher.info_hash(info_hash);
        let shard = self.shard(hash).lock();
        shard
            .find_slot(hash, info_hash)
            .and_then(|slot| shard.torrents.get(slot))
            .map(Torrent::tally_with_paused)
            .unwrap_or_default()
    }

    /// How many peers there are.
    #[must_use]
    pub fn peer_counts(&self) -> PeerCounts {
        self.shards.iter().fold(PeerCounts::default(), |mut sum, shard| {
            sum.replace(PeerCounts::default(), shard.lock().peer_counts);
            sum
        })
    }

    /// Torrents with peers.
    #[must_use]
    pub fn live(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock()).map(|shard| shard.torrents.len() - shard.idle).sum()
    }

    /// What a whole sweep looks at.
    pub(crate) fn torrents_and_peers(&self) -> usize {
        let of_shard = |shard: &Shard| shard.len() + shard.peer_counts.total() as usize;
        self.shards.iter().map(|shard| of_shard(&shard.lock())).sum()
    }

    /// Torrents without peers whose completed count is remembered.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().idle).sum()
    }

    /// Octets the swarms take, by our own count.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().memory()).sum()
    }

    /// Announces answered without peers because the memory budget was used up.
    #[must_use]
    pub fn full_total(&self) -> u64 {
        self.shards.iter().map(|shard| shard.lock().full_total).sum()
    }

    /// Peers not stored because of `announce.peers_per_address`.
    #[must_use]
    pub fn crowded_total(&self) -> u64 {
        self.shards.iter().map(|shard| shard.lock().crowded_total).sum()
    }

    /// A known torrent was finished at least so often.
    pub(crate) fn raise_completed(&self, info_hash: &InfoHash, completed: u32) {
        let hash = self.hasher.info_hash(info_hash);
        let mut shard = self.shard(hash).lock();
        let slot = shard.find_slot(hash, info_hash);
        if let Some(torrent) = slot.and_then(|slot| shard.torrents.get_mut(slot)) {
            torrent.completed = torrent.completed.max(completed);
        }
    }

    pub(crate) fn sweep_durations(&self) -> &Arc<Histogram> {
        &self.sweep_durations
    }

    pub(crate) fn tap(&self) -> &Tap {
        &self.tap
    }

    #[cfg(test)]
    pub(crate) fn is_locked(&self, info_hash: &InfoHash) -> bool {
        self.shard(self.hasher.info_hash(info_hash)).is_locked()
    }

    pub(crate) fn hasher(&self) -> &KeyedHash {
        &self.hasher
    }

    /// Runs one slice of a sweep under one shard's lock.
    pub(crate) fn with_shard<T>(&self, shard: usize, work: impl FnOnce(&mut Shard) -> T) -> Option<T> {
        let mut shard = self.shards.get(shard)?.lock();
        let result = work(&mut shard);
        self.update_memory(&mut shard);
        Some(result)
    }

    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        #[expect(clippy::indexing_slicing, reason = "masked to the shards there are")]
        &self.shards[(hash >> 40) as usize & (SHARDS - 1)]
    }

    /// Counts what a shard has grown or shrunk by, in steps, so that workers seldom write to one line. Under
    /// the shard's lock: else what one thread takes away might be counted before what another has added, and
    /// the sum be below zero for a moment.
    fn update_memory(&self, shard: &mut Shard) {
        let (counted, now) = (shard.counted, shard.memory());
        if now.abs_diff(counted) >= MEMORY_STEP {
            self.memory.fetch_add(now.wrapping_sub(counted), Ordering::Relaxed);
            shard.counted = now;
        }
    }

    /// May peers be added?
    pub(crate) fn may_grow(&self, policy: &Policy) -> bool {
        self.has_room(policy, (1, 1))
    }

    fn has_room(&self, policy: &Policy, (part, whole): (u64, u64)) -> bool {
        policy.memory_max == 0
            || (self.memory.load(Ordering::Relaxed) as u64) < policy.memory_max / whole * part
    }
}
