//! A purge of `transfer_history`: rows of peers that have been silent for long become inactive, a slice at a
//! time and with pauses, each slice in a short transaction of its own. Whatever the size of the table, no
//! statement reads or locks more than [`ROWS_MAX`] rows of it.
//!
//! A purge is requested by a record, so that it begins when all rows queued before it are written. It does
//! not need to be exactly-once: what a restart leaves undone is done by the next purge, and a row that was
//! written again meanwhile is not below the limit any more.

use std::time::Duration;

use super::{Store, StoreError};
use crate::clock::Clock;

/// Rows that one statement of a purge looks at, at most.
pub const ROWS_MAX: usize = 1000;
/// Rows that the first slice looks at.
pub const ROWS_FIRST: usize = ROWS_MAX / 4;
/// The lower limit of a slice, on a slow database.
const ROWS_MIN: usize = 50;
/// A slice that took longer is followed by smaller ones.
const SLOW_SLICE: Duration = Duration::from_millis(40);
/// A slice that took less is followed by larger ones.
const QUICK_SLICE: Duration = Duration::from_millis(10);
/// A pause is this many times as long as the slice before it.
const PAUSE_FACTOR: u32 = 8;
/// Shortest pause.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// Shortest pause if there is no index and a purge reads the whole table.
const WALK_PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Slices that are still done when the tracker stops, at most.
const LAST_SLICES: usize = 16;

/// One slice of a purge, as requested from a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PurgeSlice {
    /// Active rows with a `last_announce` below this, in Unix seconds, become inactive.
    pub before: i64,
    /// Where the previous slice ended; `None` for the first.
    pub from: Option<PurgeMark>,
    /// Rows to look at, at most.
    pub rows_max: usize,
}

/// A position in `transfer_history`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PurgeMark {
    /// By the index on `active` and `last_announce`: this `last_announce`.
    Time(i64),
    /// Without that index: the row of this `uid` and `fid`.
    Row(i64, i64),
}

/// The result of a slice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PurgeProgress {
    /// Rows that have become inactive.
    pub inactive: u64,
    /// Where to continue; `None` if this was the last slice.
    pub next: Option<PurgeMark>,
}

/// The current purge, if there is one.
#[derive(Debug)]
pub(super) struct Purge {
    round: Option<PurgeRound>,
    /// The limit of the next round, requested while this one is under way.
    waiting: Option<i64>,
    rows: usize,
    due: Duration,
}

#[derive(Debug)]
struct PurgeRound {
    before: i64,
    from: Option<PurgeMark>,
}

impl Default for Purge {
    fn default() -> Self {
        Self { round: None, waiting: None, rows: ROWS_FIRST, due: Duration::ZERO }
    }
}

/// Returns how many rows the next slice looks at, after one of `rows` took `took`.
#[must_use]
pub fn next_slice_rows(rows: usize, took: Duration) -> usize {
    match took {
        _ if took > SLOW_SLICE => (rows / 2).max(ROWS_MIN),
        _ if took < QUICK_SLICE => (rows * 2).min(ROWS_MAX),
        _ => rows,
    }
}

impl Purge {
    /// Requests that all rows last announced before `before` become inactive.
    pub(super) fn request_purge(&mut self, before: i64) {
        match &self.round {
            None => self.round = Some(PurgeRound { before, from: None }),
            Some(_) => self.waiting = self.waiting.max(Some(before)),
        }
    }

    /// When the next slice is due, in uptime; `None` if there is none.
    pub(super) fn next_due(&self) -> Option<Duration> {
        self.round.is_some().then_some(self.due)
    }

    /// Does the next slice.
    ///
    /// # Errors
    /// Fails when the store does, except at a deadlock, after which the slice is tried again.
    pub(super) fn run_slice(&mut self, store: &mut dyn Store, clock: &Clock) -> Result<(), StoreError> {
        self.try_slice(store, clock).map(drop)
    }

    /// Returns false if there was nothing to do, or another transaction holds a lock.
    fn try_slice(&mut self, store: &mut dyn Store, clock: &Clock) -> Result<bool, StoreError> {
        let Some(round) = &mut self.round else { return Ok(false) };
        let begin = clock.uptime();
        let slice = PurgeSlice { before: round.before, from: round.from, rows_max: self.rows };
        let swept = match store.purge(&slice) {
            Ok(swept) => swept,
            Err(StoreError::Deadlock(text)) => {
                log::debug!("a purge of transfer_history waits: {text}");
                self.due = clock.uptime() + PAUSE_MAX;
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let end = clock.uptime();
        let took = end.saturating_sub(begin);
        self.rows = next_slice_rows(self.rows, took);
        let least = if matches!(swept.next, Some(PurgeMark::Row(..))) { WALK_PAUSE_MIN } else { PAUSE_MIN };
        self.due = end + (took * PAUSE_FACTOR).clamp(least, PAUSE_MAX);
        round.from = swept.next;
        if swept.next.is_none() {
            self.round = self.waiting.take().map(|before| PurgeRound { before, from: None });
        }
        Ok(true)
    }

    /// Does as many slices as are allowed without pauses while the tracker stops.
    ///
    /// # Errors
    /// Fails as [`run_slice`](Self::run_slice) does.
    pub(super) fn finish(&mut self, store: &mut dyn Store, clock: &Clock) -> Result<(), StoreError> {
        for _ in 0..LAST_SLICES {
            if !self.try_slice(store, clock)? {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::double::{OverriddenStore, StoreOverrides};

    /// Records the requests it gets, and has a table of the given number of slices.
    struct Table {
        slices: i64,
        requests: Vec<PurgeSlice>,
        locked: bool,
    }

    impl StoreOverrides for Table {
        fn purge(&mut self, slice: &PurgeSlice) -> Result<PurgeProgress, StoreError> {
            if std::mem::take(&mut self.locked) {
                return Err(StoreError::Deadlock("locked".into()));
            }
            self.requests.push(*slice);
            let at = match slice.from {
                Some(PurgeMark::Row(at, _)) => at,
                _ => 0,
            };
            Ok(PurgeProgress {
                inactive: 1,
                next: (at + 1 < self.slices).then_some(PurgeMark::Row(at + 1, 0)),
            })
        }
    }

    #[test]
    fn a_purge_goes_in_slices_and_a_later_limit_waits_for_its_end() {
        let (clock, mut purge) = (Clock::start(), Purge::default());
        let mut table = OverriddenStore(Table { slices: 3, requests: Vec::new(), locked: true });
        assert_eq!(purge.next_due(), None);
        purge.request_purge(100);
        let begin = clock.uptime();
        purge.run_slice(&mut table, &clock).unwrap();
        assert!(
            table.0.requests.is_empty() && purge.next_due() >= Some(begin + PAUSE_MAX),
            "it waits for the lock"
        );
        for _ in 0..2 {
            let begin = clock.uptime();
            purge.run_slice(&mut table, &clock).unwrap();
            assert!(purge.next_due() >= Some(begin + WALK_PAUSE_MIN), "there is a pause");
        }
        purge.request_purge(200);
        purge.request_purge(150);
        while purge.next_due().is_some() {
            purge.run_slice(&mut table, &clock).unwrap();
        }
        let requests: Vec<_> = table.0.requests.iter().map(|slice| (slice.before, slice.from)).collect();
        let (second, third) = (Some(PurgeMark::Row(1, 0)), Some(PurgeMark::Row(2, 0)));
        let expected = [(100, None), (100, second), (100, third), (200, None), (200, second), (200, third)];
        assert_eq!(requests, expected);
        assert!(table.0.requests.iter().all(|slice| slice.rows_max <= ROWS_MAX));
    }

    #[test]
    fn a_stop_does_not_wait_for_the_end_of_a_long_purge() {
        let (clock, mut purge) = (Clock::start(), Purge::default());
        let mut table = OverriddenStore(Table { slices: 1_000_000, requests: Vec::new(), locked: false });
        purge.request_purge(100);
        purge.finish(&mut table, &clock).unwrap();
        assert_eq!(table.0.requests.len(), LAST_SLICES);
    }
}
