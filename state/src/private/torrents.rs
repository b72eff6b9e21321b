//! Registered torrents with their peers, in shards: many small locks. Everything that an announce changes it
//! changes under one of them, and what it records is queued under it too, so that later counts never overtake
//! earlier ones on their way to the store.

use std::sync::Arc;

use crossbeam_utils::CachePadded;
use hashbrown::HashTable;
use parking_lot::Mutex;

use super::kind::{Kind, Kinds};
use super::peer::Seconds;
use super::strays::Strays;
use super::swarm::Swarm;
use crate::announce::Tally;
use crate::ids::InfoHash;
use crate::keys::Keys;
use crate::prefetch::prefetch;
use crate::snapshot::site::Multipliers;
use crate::store::{Queues, Record, record::TorrentRow};
use crate::survey;
use crate::swarms::LOOK_AHEAD_MAX;

/// Shards; a power of two. With a million torrents and five million peers no lock is held for more than some
/// 1500 of them.
pub(super) const SHARDS: usize = 4096;
const _: () = assert!(SHARDS.is_power_of_two());

/// `Status` of a torrent that peers are handed out of.
pub(super) const LIVE: i32 = 0;
/// `Status` of a torrent that comes back to life with its first seeder.
pub(super) const PRUNED: i32 = 1;

/// All registered torrents.
#[derive(Debug)]
pub struct Torrents {
    shards: Vec<CachePadded<Mutex<Shard>>>,
    pub(super) keys: Keys,
    kinds: Kinds,
    pub(super) strays: Strays,
}

/// The torrents whose hash falls to one lock.
#[derive(Debug, Default)]
pub(super) struct Shard {
    pub(super) torrents: HashTable<Torrent>,
    pub(super) peers: Peers,
}

/// How many peers there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// With all of their torrent.
    pub seeders: usize,
    /// All others.
    pub leechers: usize,
}

/// One registered torrent.
#[derive(Debug)]
pub(super) struct Torrent {
    pub(super) row: Row,
    pub(super) last_action: Seconds,
    /// The reload that saw it last.
    generation: u32,
    pub(super) swarm: Option<Box<Swarm>>,
}

/// What the store says of a torrent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) info_hash: InfoHash,
    pub(super) id: u32,
    pub(super) kind: Kind,
    pub(super) group: u32,
    pub(super) snatched: u32,
    pub(super) status: i32,
    pub(super) multipliers: Multipliers,
}

impl Torrent {
    pub(super) fn tally(&self) -> Tally {
        let count = |peers: usize| u32::try_from(peers).unwrap_or(u32::MAX);
        let (seeders, leechers) =
            self.swarm.as_ref().map_or((0, 0), |swarm| (count(swarm.seeders()), count(swarm.leechers())));
        Tally { seeders, completed: self.row.snatched, leechers, paused: 0 }
    }

    /// A record of how the swarm stands, and nothing else.
    pub(super) fn counts(&self) -> TorrentRow {
        let tally = self.tally();
        let (seeders, leechers) = (tally.seeders, tally.leechers);
        TorrentRow { id: self.row.id, seeders, leechers, counts: true, ..TorrentRow::default() }
    }
}

impl Default for Torrents {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| CachePadded::default()).collect();
        Self { shards, keys: Keys::new(0), kinds: Kinds::default(), strays: Strays::default() }
    }
}

impl Torrents {
    /// None yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// The types of the torrents.
    #[must_use]
    pub fn kinds(&self) -> &Kinds {
        &self.kinds
    }

    /// How many are registered. It takes every lock once.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().torrents.len()).sum()
    }

    /// Is none registered?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All peers. It takes every lock once.
    #[must_use]
    pub fn peers(&self) -> Peers {
        self.shards.iter().map(|shard| shard.lock().peers).fold(Peers::default(), |sum, peers| Peers {
            seeders: sum.seeders + peers.seeders,
            leechers: sum.leechers + peers.leechers,
        })
    }

    /// Fetches what the announces of a batch will need into the processor's cache.
    pub(crate) fn look_ahead(&self, info_hashes: impl Iterator<Item = InfoHash>) {
        let mut wanted = [(0, InfoHash::default()); LOOK_AHEAD_MAX];
        let mut count = 0;
        for (to, info_hash) in wanted.iter_mut().zip(info_hashes) {
            *to = (self.keys.info_hash(&info_hash), info_hash);
            prefetch(self.shard(to.0));
            count += 1;
        }
        let wanted = wanted.get(..count).unwrap_or_default();
        // A shard that somebody holds is left out: nothing is worth waiting for here.
        let visit = |work: fn(&Swarm)| {
            for (hash, info_hash) in wanted {
                let Some(shard) = self.shard(*hash).try_lock() else { continue };
                let found = shard.torrents.find(*hash, |torrent| torrent.row.info_hash == *info_hash);
                if let Some(swarm) = found.and_then(|torrent| torrent.swarm.as_deref()) {
                    work(swarm);
                }
            }
        };
        visit(prefetch);
        visit(Swarm::prefetch_columns);
    }

    /// Works on one torrent under its lock; `None` if it is not registered.
    pub(super) fn with<T>(&self, info_hash: &InfoHash, work: impl FnOnce(&mut Torrent) -> T) -> Option<T> {
        let hash = self.keys.info_hash(info_hash);
        let mut shard = self.shard(hash).lock();
        let Shard { torrents, peers } = &mut *shard;
        let torrent = torrents.find_mut(hash, |torrent| torrent.row.info_hash == *info_hash)?;
        let before = Peers::of(torrent);
        let result = work(torrent);
        peers.replace(before, Peers::of(torrent));
        Some(result)
    }

    /// Works on all torrents of one shard under its lock. `false` takes a torrent out.
    pub(super) fn retain(&self, shard: usize, mut work: impl FnMut(&mut Torrent) -> bool) {
        let Some(shard) = self.shards.get(shard) else { return };
        let mut shard = shard.lock();
        let Shard { torrents, peers } = &mut *shard;
        torrents.retain(|torrent| {
            let before = Peers::of(torrent);
            let stays = work(torrent);
            peers.replace(before, if stays { Peers::of(torrent) } else { Peers::default() });
            stays
        });
        if torrents.capacity() > 4 * torrents.len().max(16) {
            torrents.shrink_to(2 * torrents.len(), |torrent| self.keys.info_hash(&torrent.row.info_hash));
        }
    }

    /// How the torrents of one shard stand, as far as there is anything to tell; false where there is none.
    pub(crate) fn rows(&self, shard: usize, rows: &mut Vec<survey::Row>) -> bool {
        let Some(shard) = self.shards.get(shard) else { return false };
        let shard = shard.lock();
        let row = |torrent: &Torrent| survey::Row {
            info_hash: torrent.row.info_hash,
            peers: torrent.swarm.as_ref().map(|swarm| swarm.census()).unwrap_or_default(),
            completed: torrent.row.snatched,
        };
        rows.extend(shard.torrents.iter().map(row).filter(survey::Row::says_something));
        true
    }

    /// The number of the shard of a torrent.
    pub(super) fn shard_of(&self, info_hash: &InfoHash) -> usize {
        shard_number(self.keys.info_hash(info_hash))
    }

    /// Registers torrents of one shard, or changes what is known of them; their peers stay. Those that the
    /// store still calls pruned, but whose un-prune is pending, are live.
    pub(super) fn put_all(
        &self,
        shard: usize,
        rows: &[Row],
        generation: u32,
        is_unpruned: &dyn Fn(u32) -> bool,
    ) {
        let Some(shard) = self.shards.get(shard) else { return };
        let mut shard = shard.lock();
        for row in rows {
            let pending = row.status == PRUNED && is_unpruned(row.id);
            let row = Row { status: if pending { LIVE } else { row.status }, ..*row };
            let hash = self.keys.info_hash(&row.info_hash);
            match shard.torrents.find_mut(hash, |torrent| torrent.row.info_hash == row.info_hash) {
                Some(torrent) => (torrent.row, torrent.generation) = (row, generation),
                None => {
                    let torrent = Torrent { row, last_action: 0, generation, swarm: None };
                    let hash_of = |torrent: &Torrent| self.keys.info_hash(&torrent.row.info_hash);
                    shard.torrents.insert_unique(hash, torrent, hash_of);
                }
            }
        }
    }

    /// Takes out the torrents of a shard that were not seen by this reload.
    pub(super) fn forget_others(&self, shard: usize, generation: u32) {
        self.retain(shard, |torrent| torrent.generation == generation);
    }

    /// Removes peers of one shard that were not heard of since `limit`, and records how their swarms stand
    /// then (`private-tracker.md` 18.1).
    pub(super) fn purge(&self, shard: usize, limit: Seconds, records: Option<&Queues>) {
        self.retain(shard, |torrent| {
            let Some(swarm) = &mut torrent.swarm else { return true };
            let gone = swarm.purge(&self.keys, limit);
            if swarm.len() == 0 {
                torrent.swarm = None;
            }
            if let Some(records) = records.filter(|_| gone > 0) {
                records.put(Record::Torrent(torrent.counts()));
            }
            true
        });
    }

    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        #[expect(clippy::indexing_slicing, reason = "masked to the shards there are")]
        &self.shards[shard_number(hash)]
    }
}

impl Peers {
    fn of(torrent: &Torrent) -> Self {
        torrent
            .swarm
            .as_ref()
            .map_or_else(Self::default, |swarm| Self { seeders: swarm.seeders(), leechers: swarm.leechers() })
    }

    fn replace(&mut self, before: Self, after: Self) {
        self.seeders = self.seeders + after.seeders - before.seeders;
        self.leechers = self.leechers + after.leechers - before.leechers;
    }
}

fn shard_number(hash: u64) -> usize {
    (hash >> 40) as usize & (SHARDS - 1)
}
