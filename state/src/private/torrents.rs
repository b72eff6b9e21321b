//! Registered torrents with their peers, in shards: many small locks. Everything that an announce changes it
//! changes under one of them, and what it records is queued under it too, so that later counts never overtake
//! earlier ones on their way to the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_utils::CachePadded;
use hashbrown::HashTable;
use parking_lot::{Mutex, MutexGuard};

use super::peer::Seconds;
use super::remarks::Remarks;
use super::strays::Strays;
use super::swarm::{Swarm, Walk};
use super::torrent_type::{Kind, Kinds};
use crate::announce::Tally;
use crate::ids::InfoHash;
use crate::metrics::histogram::Histogram;
use crate::peer_counts::Census;
use crate::report;
use crate::snapshot::site::Multipliers;
use crate::store::record::TorrentRow;
use crate::swarm::LOOK_AHEAD_MAX;
use crate::table::keyed_hash::Keys;
use crate::table::prefetch::prefetch;
use crate::touch;

/// Shards; a power of two.
pub(super) const SHARDS: usize = 4096;
const _: () = assert!(SHARDS.is_power_of_two());

/// Peers that are looked at under one lock by what goes through all of them. Large swarms take several.
pub(super) const SLICE: usize = 1024;
/// Octets by which a shard may have grown or shrunk before the sum is told.
const ACCOUNT_STEP: usize = 512;

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
    /// Octets that all shards take, by our own count, but for less than [`ACCOUNT_STEP`] of each.
    memory: CachePadded<AtomicUsize>,
    /// How long purges worked.
    pub(crate) purges: Arc<Histogram>,
    /// Announces that were not taken at their word.
    pub(super) remarks: Remarks,
    pub(super) strays: Strays,
}

/// The torrents whose hash falls to one lock.
#[derive(Debug, Default)]
pub(super) struct Shard {
    torrents: HashTable<Torrent>,
    sums: Sums,
    /// Octets of this shard that the sum of all knows of.
    counted: usize,
    /// Announces for which there was no memory.
    full: u64,
    /// Peers that made place for another of the same user.
    replaced: u64,
}

/// What there is in a torrent or a shard.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    peers: Peers,
    census: Census,
    /// Torrents with peers.
    live: usize,
    /// Octets of the swarms.
    octets: usize,
}

/// What came of an announce beside its answer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Came {
    /// There was no memory for the peer.
    pub(super) full: bool,
    /// Another peer of the same user made place.
    pub(super) replaced: bool,
}

/// A way through the torrents of one shard.
#[derive(Debug)]
pub(super) struct Round {
    shard: usize,
    /// Those that are still to be met, the next one last.
    left: Vec<InfoHash>,
    walk: Option<Walk>,
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
        let (memory, purges) = (CachePadded::default(), Arc::new(Histogram::milliseconds()));
        let (keys, kinds) = (Keys::new(0), Kinds::default());
        let (remarks, strays) = (Remarks::default(), Strays::default());
        Self { shards, keys, kinds, memory, purges, remarks, strays }
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
        self.sums().peers
    }

    /// The peers that are reached over each family: one that is reached over both counts in both.
    #[must_use]
    pub fn census(&self) -> Census {
        self.sums().census
    }

    /// Torrents with peers.
    #[must_use]
    pub fn live(&self) -> usize {
        self.sums().live
    }

    /// Octets that all torrents and peers take, by our own count.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().memory()).sum()
    }

    /// Announces answered without peers because the memory budget was used up.
    #[must_use]
    pub fn full(&self) -> u64 {
        self.shards.iter().map(|shard| shard.lock().full).sum()
    }

    /// Peers that made place for another one of the same user and torrent.
    #[must_use]
    pub fn replaced(&self) -> u64 {
        self.shards.iter().map(|shard| shard.lock().replaced).sum()
    }

    /// May peers be added?
    pub(super) fn may_grow(&self, octets_max: u64) -> bool {
        octets_max == 0 || (self.memory.load(Ordering::Relaxed) as u64) < octets_max
    }

    fn sums(&self) -> Sums {
        self.shards.iter().map(|shard| shard.lock().sums).fold(Sums::default(), |mut sum, sums| {
            sum.replace(Sums::default(), sums);
            sum
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
        touch::locked();
        let result = shard.work_on(hash, info_hash, work);
        self.account(&mut shard);
        result
    }

    /// The same for an announce, and counts what came of it.
    pub(super) fn change_one<T>(
        &self,
        info_hash: &InfoHash,
        work: impl FnOnce(&mut Torrent, &mut Came) -> T,
    ) -> Option<T> {
        let hash = self.keys.info_hash(info_hash);
        let mut shard = self.shard(hash).lock();
        touch::locked();
        let mut came = Came::default();
        let result = shard.work_on(hash, info_hash, |torrent| work(torrent, &mut came));
        shard.full += u64::from(came.full);
        shard.replaced += u64::from(came.replaced);
        self.account(&mut shard);
        result
    }

    /// Works on all torrents of one shard under its lock, but not on their peers. `false` takes a torrent
    /// out.
    pub(super) fn retain(&self, shard: usize, mut work: impl FnMut(&mut Torrent) -> bool) {
        let Some(shard) = self.shards.get(shard) else { return };
        let mut shard = shard.lock();
        touch::locked();
        let Shard { torrents, sums, .. } = &mut *shard;
        let mut gone = Vec::new();
        torrents.retain(|torrent| {
            let before = Sums::of(torrent);
            let stays = work(torrent);
            sums.replace(before, if stays { Sums::of(torrent) } else { Sums::default() });
            if !stays {
                gone.extend(torrent.swarm.take());
            }
            stays
        });
        if torrents.capacity() > 4 * torrents.len().max(16) {
            torrents.shrink_to(2 * torrents.len(), |torrent| self.keys.info_hash(&torrent.row.info_hash));
        }
        self.account(&mut shard);
        drop(shard);
        // A large swarm is let go when nobody waits for the lock any more.
        drop(gone);
    }

    /// Begins to go through torrents of one shard: those with peers, or `all`. One that comes meanwhile may
    /// be left out.
    pub(super) fn round(&self, shard: usize, all: bool) -> Round {
        let left = self.shards.get(shard).map(|shard| {
            let shard = shard.lock();
            touch::locked();
            let there = shard.torrents.iter().filter(|torrent| all || torrent.swarm.is_some());
            there.map(|torrent| torrent.row.info_hash).collect()
        });
        Round { shard, left: left.unwrap_or_default(), walk: Some(Walk::default()) }
    }

    /// Goes on for a slice of peers under one lock: `work` looks at so many peers of a torrent at most, from
    /// where the walk stands, and gives how many it has looked at. False at the end.
    pub(super) fn go_on(
        &self,
        round: &mut Round,
        mut work: impl FnMut(&mut Torrent, &mut Option<Walk>, usize) -> usize,
    ) -> bool {
        let Some(shard) = self.shards.get(round.shard) else { return false };
        let mut shard = shard.lock();
        touch::locked();
        let mut most = SLICE;
        while most > 0
            && let Some(info_hash) = round.left.last()
        {
            let hash = self.keys.info_hash(info_hash);
            let looked_at = shard.work_on(hash, info_hash, |torrent| work(torrent, &mut round.walk, most));
            // One that is gone costs a little, too.
            most = most.saturating_sub(looked_at.unwrap_or_default().max(1));
            if looked_at.is_none() || round.walk.is_none() {
                round.left.pop();
                round.walk = Some(Walk::default());
            }
        }
        self.account(&mut shard);
        // Whoever waits comes before the next slice, which would take the lock again at once.
        MutexGuard::unlock_fair(shard);
        !round.left.is_empty()
    }

    /// How the torrents of one shard stand, as far as there is anything to tell; false where there is none.
    pub(crate) fn rows(&self, shard: usize, rows: &mut Vec<report::Row>) -> bool {
        let Some(shard) = self.shards.get(shard) else { return false };
        let shard = shard.lock();
        touch::locked();
        let row = |torrent: &Torrent| report::Row {
            info_hash: torrent.row.info_hash,
            peers: torrent.swarm.as_ref().map(|swarm| swarm.census()).unwrap_or_default(),
            completed: torrent.row.snatched,
        };
        rows.extend(shard.torrents.iter().map(row).filter(report::Row::says_something));
        true
    }

    /// The torrent with this id. It takes every lock once.
    #[must_use]
    pub fn find_id(&self, id: u32) -> Option<InfoHash> {
        let of = |torrent: &Torrent| (torrent.row.id == id).then_some(torrent.row.info_hash);
        self.shards.iter().find_map(|shard| shard.lock().torrents.iter().find_map(of))
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
        touch::locked();
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
        self.account(&mut shard);
    }

    /// Takes out the torrents of a shard that were not seen by this reload.
    pub(super) fn forget_others(&self, shard: usize, generation: u32) {
        self.retain(shard, |torrent| torrent.generation == generation);
    }

    fn account(&self, shard: &mut Shard) {
        let (counted, now) = (shard.counted, shard.memory());
        if now.abs_diff(counted) >= ACCOUNT_STEP {
            self.memory.fetch_add(now.wrapping_sub(counted), Ordering::Relaxed);
            shard.counted = now;
        }
    }

    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        #[expect(clippy::indexing_slicing, reason = "masked to the shards there are")]
        &self.shards[shard_number(hash)]
    }
}

impl Shard {
    fn work_on<T>(
        &mut self,
        hash: u64,
        info_hash: &InfoHash,
        work: impl FnOnce(&mut Torrent) -> T,
    ) -> Option<T> {
        let torrent = self.torrents.find_mut(hash, |torrent| torrent.row.info_hash == *info_hash)?;
        let before = Sums::of(torrent);
        let result = work(torrent);
        self.sums.replace(before, Sums::of(torrent));
        Some(result)
    }

    fn memory(&self) -> usize {
        self.torrents.capacity() * (size_of::<Torrent>() + 1) + self.sums.octets
    }
}

impl Sums {
    fn of(torrent: &Torrent) -> Self {
        let Some(swarm) = torrent.swarm.as_ref() else { return Self::default() };
        Self {
            peers: Peers { seeders: swarm.seeders(), leechers: swarm.leechers() },
            census: swarm.census(),
            live: 1,
            octets: swarm.memory(),
        }
    }

    fn replace(&mut self, before: Self, after: Self) {
        self.peers.seeders = self.peers.seeders + after.peers.seeders - before.peers.seeders;
        self.peers.leechers = self.peers.leechers + after.peers.leechers - before.peers.leechers;
        self.census.replace(before.census, after.census);
        self.live = self.live + after.live - before.live;
        self.octets = self.octets + after.octets - before.octets;
    }
}

fn shard_number(hash: u64) -> usize {
    (hash >> 40) as usize & (SHARDS - 1)
}
