//! The purge of silent peers: every so often a round over all shards, spread over half of the time until the
//! next, and at its end a record that has the store mark them inactive (`private-tracker.md` 18.1).

use std::sync::Arc;
use std::time::Duration;

use super::peer::Seconds;
use super::torrents::{SHARDS, Torrents};
use crate::clock::{Clock, Now};
use crate::histogram::Histogram;
use crate::policy::Policy;
use crate::store::{Queues, Record};

/// The purge of one site.
#[derive(Debug)]
pub struct Purger {
    torrents: Arc<Torrents>,
    records: Option<Arc<Queues>>,
    /// Time since the last round began.
    waited: Duration,
    round: Option<Round>,
    /// Time that the round under way has worked.
    worked: Duration,
    histogram: Option<Arc<Histogram>>,
}

/// A round under way.
#[derive(Debug)]
struct Round {
    limit: Seconds,
    next: usize,
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
        }
        if self.round.is_none() {
            self.worked = Duration::ZERO;
        }
    }

    /// True if a round has ended.
    fn share(&mut self, now: Now, policy: &Policy, elapsed: Duration) -> bool {
        let every = Duration::from_secs(policy.purge_seconds.max(1).into());
        self.waited += elapsed;
        if self.round.is_none() && self.waited >= every {
            self.waited = Duration::ZERO;
            self.begin(now, policy);
        }
        let half = every.as_millis() / 2;
        let share = (SHARDS as u128 * elapsed.as_millis()).div_ceil(half);
        let under_way = self.round.is_some();
        self.go_on(usize::try_from(share).unwrap_or(SHARDS));
        under_way && self.round.is_none()
    }

    /// A whole round at once, for tests.
    pub fn round(&mut self, now: Now, policy: &Policy) {
        self.begin(now, policy);
        self.go_on(SHARDS);
    }

    fn begin(&mut self, now: Now, policy: &Policy) {
        let limit = now.unix_seconds.saturating_sub(policy.peer_inactivity_seconds.into());
        self.round = Some(Round { limit: Seconds::try_from(limit).unwrap_or(Seconds::MAX), next: 0 });
    }

    fn go_on(&mut self, shards: usize) {
        let Some(Round { limit, next }) = &mut self.round else { return };
        let end = next.saturating_add(shards).min(SHARDS);
        let records = self.records.as_deref();
        (*next..end).for_each(|shard| self.torrents.purge(shard, *limit, records));
        *next = end;
        if end == SHARDS {
            if let Some(records) = records {
                records.put(Record::Purge { before: i64::from(*limit) });
            }
            self.round = None;
        }
    }
}
