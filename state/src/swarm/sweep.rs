//! Expiry in slices: each slice of the actor's periodic work does the share of a round that is due, and holds
//! no lock for more than a thousand peers. A round takes half of `purge_seconds`: an expired peer that moved
//! behind the sweep is met by the next round, still in time.

use std::sync::Arc;
use std::time::Duration;

use crate::admission::Policy;
use crate::clock::Tick;
use crate::ids::InfoHash;
use crate::swarm::large::SweepCursor;
use crate::swarm::{SHARDS, Shard, Swarms};

/// Torrents and peers that one slice looks at, under one lock.
const SLICE: usize = 1024;
/// Torrents and peers from which on a tracker is large.
const LARGE_FROM: usize = 1 << 18;
/// Calls of [`Sweeper::advance`] for which a count of everything holds: counting takes every lock once.
const RECOUNT_AFTER: u32 = 10;

/// The incremental sweep over all swarms, owned by the actor.
#[derive(Debug)]
pub struct Sweeper {
    swarms: Arc<Swarms>,
    shard: usize,
    /// The slot before which to go on; `None` = the shard is not begun.
    torrent: Option<usize>,
    peers: SweepCursor,
    /// The torrent whose peers the cursor is in: another one may have taken its slot since.
    cursor_in: Option<InfoHash>,
    /// Torrents and peers in a whole round, as of the last count.
    round_size: usize,
    /// Calls until they are counted anew.
    recount_in: u32,
}

impl Sweeper {
    /// Makes a sweep that begins at the first shard.
    #[must_use]
    pub fn new(swarms: Arc<Swarms>) -> Self {
        Self {
            swarms,
            shard: 0,
            torrent: None,
            peers: SweepCursor::default(),
            cursor_in: None,
            round_size: 0,
            recount_in: 0,
        }
    }

    /// Whether the tracker is large: then the caller does smaller shares more often, so that the sweep never
    /// keeps a processor from a worker for long.
    #[must_use]
    pub fn is_large(&self) -> bool {
        self.round_size >= LARGE_FROM
    }

    /// Does the share of a round that is due after `elapsed` more time. Returns whether that completes a
    /// round.
    pub fn advance(&mut self, now: Tick, policy: &Policy, elapsed: Duration) -> bool {
        let round_millis = u128::from(policy.purge_seconds.max(1)) * 1000 / 2;
        if self.recount_in == 0 {
            (self.round_size, self.recount_in) = (self.swarms.torrents_and_peers() + SHARDS, RECOUNT_AFTER);
        }
        self.recount_in -= 1;
        let share = (self.round_size as u128 * elapsed.as_millis()).div_ceil(round_millis);
        // A quarter more than due, because swarms grow while they are swept.
        let due = usize::try_from(share + share.div_ceil(4)).unwrap_or(usize::MAX);
        let mut done = 0;
        while done < due {
            done += self.sweep_slice(now, policy);
            if self.shard == 0 && self.torrent.is_none() {
                return true;
            }
        }
        false
    }

    /// Does a whole round at once, for tests and tools.
    pub fn sweep_all(&mut self, now: Tick, policy: &Policy) {
        (self.shard, self.torrent, self.cursor_in) = (0, None, None);
        loop {
            self.sweep_slice(now, policy);
            if self.shard == 0 && self.torrent.is_none() {
                return;
            }
        }
    }

    /// Does one slice under one lock. Returns the number of torrents and peers it has looked at, plus one.
    fn sweep_slice(&mut self, now: Tick, policy: &Policy) -> usize {
        let swarms = Arc::clone(&self.swarms);
        let looked =
            swarms.with_shard(self.shard, |shard| self.sweep_shard(shard, now, policy)).unwrap_or(0) + 1;
        if self.torrent == Some(0) {
            self.torrent = None;
            self.shard = (self.shard + 1) % SHARDS;
        }
        looked
    }

    /// Sweeps the last torrents first, so that the one that fills a hole has been looked at already.
    fn sweep_shard(&mut self, shard: &mut Shard, now: Tick, policy: &Policy) -> usize {
        let hasher = self.swarms.hasher();
        let mut looked = 0;
        let mut torrent = self.torrent.unwrap_or(usize::MAX).min(shard.len());
        while torrent > 0 && looked < SLICE {
            let slot = torrent - 1;
            let mut peers = self.peers;
            let (cursor_in, mut met) = (self.cursor_in.take(), None);
            let expired = shard.update_torrent(slot, |torrent| {
                if cursor_in != Some(torrent.info_hash) {
                    peers = SweepCursor::default();
                }
                met = Some(torrent.info_hash);
                let (looked, done) = torrent.expire(now, policy, &mut peers, SLICE - looked, hasher);
                if done {
                    torrent.shrink_form(policy, hasher);
                }
                (looked, done)
            });
            let (seen, done) = expired.unwrap_or((0, true));
            looked += seen + 1;
            if !done {
                (self.peers, self.cursor_in) = (peers, met);
                break;
            }
            if let Some(hash) = shard.hash_at(slot, hasher) {
                shard.drop_if_empty(slot, hash, now, policy, hasher);
            }
            torrent = slot;
        }
        self.torrent = Some(torrent);
        looked
    }
}
