//! How much history a stream keeps, and what the state of a stream says about what is missing in it.

use std::time::Duration;

use crate::cluster::bus::{EntryId, StreamState};

/// The least history, however little memory the server has.
pub(super) const RETENTION_MIN: Duration = Duration::from_secs(60);

/// Entries are read again from this far back after each connect: after a fail-over the new server may have
/// lost the newest ones, and its clock may be behind.
pub(super) const REREAD: Duration = Duration::from_secs(10);

/// Own entries that were read back are remembered for so long: that they are lost may be noticed only at the
/// next look at the stream, and a server that is away puts that off.
pub(super) const REMEMBERED: Duration = Duration::from_secs(20);

/// How long history is kept: less while the server's memory is full.
#[derive(Debug)]
pub(super) struct Retention {
    wanted: Duration,
    now: Duration,
    changed_at: Duration,
}

impl Retention {
    pub(super) fn new(wanted: Duration) -> Self {
        Self { wanted, now: wanted, changed_at: Duration::ZERO }
    }

    pub(super) fn get(&self) -> Duration {
        self.now
    }

    /// The server's memory is full: a third less, but not below a minute.
    pub(super) fn shorten(&mut self, uptime: Duration) {
        self.now = (self.now * 7 / 10).max(RETENTION_MIN).min(self.wanted);
        self.changed_at = uptime;
    }

    /// An exchange went well: a tenth more for each minute.
    pub(super) fn recover(&mut self, uptime: Duration) {
        if self.now < self.wanted && uptime.saturating_sub(self.changed_at) >= Duration::from_secs(60) {
            self.now = (self.now * 11 / 10).min(self.wanted);
            self.changed_at = uptime;
        }
    }

    /// Returns the place of the oldest entry that is kept.
    pub(super) fn oldest(&self, server_time: Duration) -> EntryId {
        back_from(server_time, self.now)
    }
}

/// Returns the place that is `before` earlier than a moment of the server's clock.
pub(super) fn back_from(server_time: Duration, before: Duration) -> EntryId {
    let milliseconds = u64::try_from(server_time.saturating_sub(before).as_millis()).unwrap_or(u64::MAX);
    EntryId { milliseconds, number: 0 }
}

/// Returns the place that is `before` earlier.
pub(super) fn back(id: EntryId, before: Duration) -> EntryId {
    back_from(Duration::from_millis(id.milliseconds), before)
}

/// What the state of a stream says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HistoryCheck {
    /// What was read, or is to be read next, is there.
    Whole,
    /// Entries behind the position were trimmed.
    Gap,
    /// The stream was deleted.
    Flushed,
}

/// Judges a stream by the place up to which it was read before.
pub(super) fn check(
    state: Option<&StreamState>,
    read_to: EntryId,
    server_time: Duration,
    entries_max: u64,
) -> HistoryCheck {
    if read_to == EntryId::default() {
        return HistoryCheck::Whole;
    }
    let Some(state) = state else { return HistoryCheck::Flushed };
    if state.last < back(read_to, REREAD) {
        return HistoryCheck::Flushed;
    }
    let Some(first) = state.first else { return HistoryCheck::Flushed };
    if first <= read_to {
        return HistoryCheck::Whole;
    }
    // No retention is so short that what was read lately is trimmed.
    let is_recent = back_from(server_time, RETENTION_MIN) < read_to;
    if is_recent && state.len < entries_max { HistoryCheck::Flushed } else { HistoryCheck::Gap }
}
