//! The purge of silent peers: every so often a round over all shards, spread over half of the time until the
//! next, and at its end a record that has the store mark them inactive (`rules/private.md#member-purge`).
//!
//! Peers in memory go by the steady clock. Rows of the store know nothing but Unix seconds: while the wall
//! clock may be wrong, they stay as they are.

use std::sync::Arc;
use std::time::Duration;

use super::peer::{Moment, moment};
use super::torrents::{Round, SHARDS, Torrents};
use crate::admission::Policy;
use crate::clock::{Clock, Now, Tick};
use crate::metrics::histogram::Histogram;
use crate::store::{Queues, Record};

/// Seconds by which wall clock and steady clock may part from one round to the next: more, and somebody has
/// set the wall clock.
const PARTED: u64 = 60;
/// Whole slices in one beat, at most, besides one for each shard: what is left waits for the next.
const SLICES_MOST: usize = 64;

/// The purge of one site.
#[derive(Debug)]
pub struct Purger {
    torrents: Arc<Torrents>,
    records: Option<Arc<Queues>>,
    /// Time since the last round began.
    waited: Duration,
    round: Option<Whole>,
    /// Time that the round under way has worked.
    worked: Duration,
    histogram: Option<Arc<Histogram>>,
    clocks: Clocks,
}

/// A round under way.
#[derive(Debug)]
struct Whole {
    limit: Moment,
    /// The limit of rows in the store, in Unix seconds; `None` where they are left alone.
    before: Option<i64>,
    /// The next shard.
    next: usize,
    /// Shards up to this are due.
    due: usize,
    /// The shard that is being looked at.
    shard: Option<Round>,
}

/// What is known of the wall clock.
#[derive(Debug, Default)]
struct Clocks {
    /// Both clocks at the last round.
    last: Option<Now>,
    /// When they were found to have parted.
    parted: Option<Tick>,
}

impl Clocks {
    /// Can rows of the store be compared with the wall clock? Not after it was set, until every peer that
    /// lives has announced by the new time.
    fn agree(&mut self, now: Now, inactivity: u32) -> bool {
        let last = self.last.replace(now).unwrap_or(now);
        let steady = u64::from(now.tick.0.saturating_sub(last.tick.0));
        let parted_by = (last.unix_seconds + steady).abs_diff(now.unix_seconds);
        if parted_by > PARTED {
            self.parted = Some(now.tick);
            log::warn!(
                "the clock of this machine was set by {parted_by} s: no row of transfer_history \
                 becomes inactive within the next {inactivity} s"
            );
        }
        let is_over = |parted: Tick| now.tick.0.saturating_sub(parted.0) > inactivity;
        self.parted = self.parted.filter(|parted| !is_over(*parted));
        self.parted.is_none()
    }
}

impl Purger {
    /// The first round is due after a whole interval.
    #[must_use]
    pub fn new(torrents: Arc<Torrents>, records: Option<Arc<Queues>>) -> Self {
        Self {
            torrents,
            records,
            waited: Duration::ZERO,
            round: None,
            worked: Duration::ZERO,
            histogram: None,
            clocks: Clocks::default(),
        }
    }

    /// Tells `histogram` how long each round has worked.
    #[must_use]
    pub fn timed(self, histogram: Arc<Histogram>) -> Self {
        Self { histogram: Some(histogram), ..self }
    }

    /// Does the share of a round that is due after `elapsed` more time; `clock` times it.
    pub fn beat(&mut self, clock: &Clock, policy: &Policy, elapsed: Duration) {
        let begin = clock.uptime();
        let ended = self.share(clock.now(), policy, elapsed);
        self.worked += clock.uptime().saturating_sub(begin);
        if ended && let Some(histogram) = &self.histogram {
            histogram.took(self.worked);
            self.torrents.purges.took(self.worked);
        }
        if self.round.is_none() {
            self.worked = Duration::ZERO;
        }
    }

    /// True if a round has ended.
    fn share(&mut self, now: Now, policy: &Policy, elapsed: Duration) -> bool {
        // From the start on: whoever sets the clock before the first round is noticed, too.
        self.clocks.last.get_or_insert(now);
        let every = Duration::from_secs(policy.purge_seconds.max(1).into());
        self.waited += elapsed;
        if self.round.is_none() && self.waited >= every {
            self.waited = Duration::ZERO;
            self.begin(now, policy);
        }
        let half = every.as_millis() / 2;
        let share = (SHARDS as u128 * elapsed.as_millis()).div_ceil(half);
        let under_way = self.round.is_some();
        self.go_on(usize::try_from(share).unwrap_or(SHARDS), SLICES_MOST);
        under_way && self.round.is_none()
    }

    /// A whole round at once, for tests.
    pub fn round(&mut self, now: Now, policy: &Policy) {
        self.begin(now, policy);
        self.go_on(SHARDS, usize::MAX);
    }

    fn begin(&mut self, now: Now, policy: &Policy) {
        let inactivity = policy.peer_inactivity_seconds;
        let before = now.unix_seconds.saturating_sub(inactivity.into());
        let before = i64::try_from(before).unwrap_or(i64::MAX);
        self.round = Some(Whole {
            limit: moment(now.tick).saturating_sub(inactivity),
            before: self.clocks.agree(now, inactivity).then_some(before),
            next: 0,
            due: 0,
            shard: None,
        });
    }

    /// So many shards more are due; a slice of peers under each lock.
    fn go_on(&mut self, shards: usize, slices_most: usize) {
        let Some(round) = &mut self.round else { return };
        round.due = round.due.saturating_add(shards).min(SHARDS);
        let mut slices = 0;
        while round.next < round.due && slices < slices_most {
            let shard = round.shard.get_or_insert_with(|| self.torrents.round(round.next, false));
            if self.torrents.purge(shard, round.limit, self.records.as_deref()) {
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
    /// Removes peers that were not heard of since `limit`, a slice of them, and records how their swarms
    /// stand then (`rules/private.md#member-purge`). False at the end of the shard.
    fn purge(&self, round: &mut Round, limit: Moment, records: Option<&Queues>) -> bool {
        self.go_on(round, |torrent, walk, most| {
            let Some(swarm) = &mut torrent.swarm else {
                *walk = None;
                return 0;
            };
            let (looked_at, gone) = swarm.purge(&self.keys, limit, walk, most);
            if swarm.len() == 0 {
                torrent.swarm = None;
            }
            if let Some(records) = records.filter(|_| gone > 0) {
                records.put(Record::Torrent(torrent.counts()));
            }
            looked_at
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_part_when_somebody_sets_one_and_agree_again_when_all_have_announced() {
        let mut clocks = Clocks::default();
        let at = |tick: u32, unix: u64| Now { tick: Tick(tick), unix_seconds: 1_700_000_000 + unix };
        assert!(clocks.agree(at(100, 100), 4200));
        // Slow clocks and those that are slewed drift a little each time.
        assert!(clocks.agree(at(220, 280), 4200));
        assert!(clocks.agree(at(340, 460), 4200));
        assert!(!clocks.agree(at(460, 460 + 120 + 7200), 4200));
        assert!(!clocks.agree(at(580, 460 + 240 + 7200), 4200));
        assert!(!clocks.agree(at(460 + 4200, 460 + 4320 + 7200), 4200));
        assert!(clocks.agree(at(461 + 4200, 461 + 4320 + 7200), 4200));
        // Back it is the same.
        assert!(!clocks.agree(at(4700, 4700), 4200));
    }
}
