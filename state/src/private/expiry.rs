//! The expiry of silent peers: at each interval a round over all shards, spread over half of the time until
//! the next, and at its end a record that has the store mark the peers inactive
//! (`rules/private.md#peer-expiry`).
//!
//! Peers in memory age by the steady clock. Rows of the store only have Unix seconds: while the wall clock
//! may be wrong, they stay as they are.

use std::sync::Arc;
use std::time::Duration;

use super::peer::{Moment, moment};
use super::torrents::{SHARDS, ShardWalk, Torrents};
use crate::admission::Policy;
use crate::clock::{Clock, Now, Tick};
use crate::metrics::histogram::Histogram;
use crate::store::{Queues, Record};

/// Seconds by which the wall clock and the steady clock may diverge from one round to the next; beyond that,
/// the wall clock was set.
const CLOCK_JUMP_SECONDS: u64 = 60;
/// Slices in one tick, at most, besides one for each shard; the rest waits for the next tick.
const SLICES_MAX: usize = 64;

/// The expiry of the peers of one site; belongs to the thread that calls [`advance`](Self::advance).
#[derive(Debug)]
pub struct PeerExpiry {
    torrents: Arc<Torrents>,
    records: Option<Arc<Queues>>,
    /// Time since the last round began.
    waited: Duration,
    round: Option<ExpiryRound>,
    /// Time spent on the current round.
    worked: Duration,
    histogram: Option<Arc<Histogram>>,
    clock_drift: ClockDrift,
}

/// The current round.
#[derive(Debug)]
struct ExpiryRound {
    limit: Moment,
    /// The limit for rows in the store, in Unix seconds; `None` if they are left alone.
    before: Option<i64>,
    /// The next shard.
    next: usize,
    /// The shards below this number are due.
    due: usize,
    /// The shard that is being walked.
    shard: Option<ShardWalk>,
}

/// What is known about the wall clock.
#[derive(Debug, Default)]
struct ClockDrift {
    /// Both clocks at the last round.
    last: Option<Now>,
    /// When the clocks were found to diverge.
    jumped_at: Option<Tick>,
}

impl ClockDrift {
    /// Whether rows of the store can be compared with the wall clock. After it was set they cannot, until
    /// every live peer has announced by the new time.
    fn is_wall_clock_trusted(&mut self, now: Now, inactivity: u32) -> bool {
        let last = self.last.replace(now).unwrap_or(now);
        let steady = u64::from(now.tick.0.saturating_sub(last.tick.0));
        let diverged_by = (last.unix_seconds + steady).abs_diff(now.unix_seconds);
        if diverged_by > CLOCK_JUMP_SECONDS {
            self.jumped_at = Some(now.tick);
            log::warn!(
                "the clock of this machine was set by {diverged_by} s: no row of transfer_history \
                 becomes inactive within the next {inactivity} s"
            );
        }
        let is_over = |jumped_at: Tick| now.tick.0.saturating_sub(jumped_at.0) > inactivity;
        self.jumped_at = self.jumped_at.filter(|jumped_at| !is_over(*jumped_at));
        self.jumped_at.is_none()
    }
}

impl PeerExpiry {
    /// Returns an expiry whose first round is due after a whole interval.
    #[must_use]
    pub fn new(torrents: Arc<Torrents>, records: Option<Arc<Queues>>) -> Self {
        Self {
            torrents,
            records,
            waited: Duration::ZERO,
            round: None,
            worked: Duration::ZERO,
            histogram: None,
            clock_drift: ClockDrift::default(),
        }
    }

    /// Records the duration of each round in `histogram`.
    #[must_use]
    pub fn with_histogram(self, histogram: Arc<Histogram>) -> Self {
        Self { histogram: Some(histogram), ..self }
    }

    /// Does the share of a round that is due after another `elapsed`; `clock` measures the work.
    pub fn advance(&mut self, clock: &Clock, policy: &Policy, elapsed: Duration) {
        let begin = clock.uptime();
        let ended = self.advance_round(clock.now(), policy, elapsed);
        self.worked += clock.uptime().saturating_sub(begin);
        if ended && let Some(histogram) = &self.histogram {
            histogram.record(self.worked);
            self.torrents.expiry_durations.record(self.worked);
        }
        if self.round.is_none() {
            self.worked = Duration::ZERO;
        }
    }

    /// Returns whether a round has ended.
    fn advance_round(&mut self, now: Now, policy: &Policy, elapsed: Duration) -> bool {
        // From the start on, so that setting the clock before the first round is noticed, too.
        self.clock_drift.last.get_or_insert(now);
        let every = Duration::from_secs(policy.purge_seconds.max(1).into());
        self.waited += elapsed;
        if self.round.is_none() && self.waited >= every {
            self.waited = Duration::ZERO;
            self.begin_round(now, policy);
        }
        let half = every.as_millis() / 2;
        let share = (SHARDS as u128 * elapsed.as_millis()).div_ceil(half);
        let under_way = self.round.is_some();
        self.expire_shards(usize::try_from(share).unwrap_or(SHARDS), SLICES_MAX);
        under_way && self.round.is_none()
    }

    /// Does a whole round at once, for tests.
    pub fn run_round(&mut self, now: Now, policy: &Policy) {
        self.begin_round(now, policy);
        self.expire_shards(SHARDS, usize::MAX);
    }

    fn begin_round(&mut self, now: Now, policy: &Policy) {
        let inactivity = policy.peer_inactivity_seconds;
        let before = now.unix_seconds.saturating_sub(inactivity.into());
        let before = i64::try_from(before).unwrap_or(i64::MAX);
        self.round = Some(ExpiryRound {
            limit: moment(now.tick).saturating_sub(inactivity),
            before: self.clock_drift.is_wall_clock_trusted(now, inactivity).then_some(before),
            next: 0,
            due: 0,
            shard: None,
        });
    }

    /// Makes `shards` more shards due and works on those that are due, a slice of peers under each lock.
    fn expire_shards(&mut self, shards: usize, slices_max: usize) {
        let Some(round) = &mut self.round else { return };
        round.due = round.due.saturating_add(shards).min(SHARDS);
        let mut slices = 0;
        while round.next < round.due && slices < slices_max {
            let shard = round.shard.get_or_insert_with(|| self.torrents.walk_shard(round.next, false));
            if self.torrents.expire_slice(shard, round.limit, self.records.as_deref()) {
                slices += 1;
            } else {
                round.shard = None;
                round.next += 1;
            }
        }
        if round.next == SHARDS {
            if let (Some(records), Some(before)) = (&self.records, round.before) {
                records.put(Record::Purge { before });
            }
            self.round = None;
        }
    }
}

impl Torrents {
    /// Removes a slice of peers last heard from before `limit`, and records the counts of their swarms
    /// (`rules/private.md#peer-expiry`). Returns `false` at the end of the shard.
    fn expire_slice(&self, cursor: &mut ShardWalk, limit: Moment, records: Option<&Queues>) -> bool {
        self.walk_slice(cursor, |torrent, walk, most| {
            let Some(swarm) = &mut torrent.swarm else {
                *walk = None;
                return 0;
            };
            let (looked_at, gone) = swarm.expire_slice(self.hasher(), limit, walk, most);
            if swarm.len() == 0 {
                torrent.swarm = None;
            }
            if let Some(records) = records.filter(|_| gone > 0) {
                records.put(Record::Torrent(torrent.counts_row()));
            }
            looked_at
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_that_was_set_is_trusted_again_once_every_peer_has_announced() {
        let mut clocks = ClockDrift::default();
        let at = |tick: u32, unix: u64| Now { tick: Tick(tick), unix_seconds: 1_700_000_000 + unix };
        assert!(clocks.is_wall_clock_trusted(at(100, 100), 4200));
        // Clocks that run slow or are slewed diverge a little each time.
        assert!(clocks.is_wall_clock_trusted(at(220, 280), 4200));
        assert!(clocks.is_wall_clock_trusted(at(340, 460), 4200));
        assert!(!clocks.is_wall_clock_trusted(at(460, 460 + 120 + 7200), 4200));
        assert!(!clocks.is_wall_clock_trusted(at(580, 460 + 240 + 7200), 4200));
        assert!(!clocks.is_wall_clock_trusted(at(460 + 4200, 460 + 4320 + 7200), 4200));
        assert!(clocks.is_wall_clock_trusted(at(461 + 4200, 461 + 4320 + 7200), 4200));
        // The same applies to setting it back.
        assert!(!clocks.is_wall_clock_trusted(at(4700, 4700), 4200));
    }
}
