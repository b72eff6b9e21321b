//! What a link does at a connect, with entries that the server has lost, and with a stream that was deleted.

use std::time::Duration;

use super::events::LinkEvent;
use super::history::{self, HistoryCheck, REREAD, back};
use super::own::SentEntry;
use super::{HELLO_PERIOD, Link, Phase};
use crate::cluster::bus::{Bus, BusError, EntryId, Exchange, StreamState};
use crate::cluster::codec::EntryCodec;
use crate::cluster::replica::Replica;

/// Entries beyond the retention are dropped this often.
const TRIM_PERIOD: Duration = Duration::from_secs(10);
/// An own entry that was not read back for so long is lost.
const LOST_AFTER: Duration = Duration::from_secs(5);

impl<B: Bus, C: EntryCodec, R: Replica> Link<B, C, R> {
    /// Reads the state of the stream, and decides from where it is read.
    pub(super) fn connect(&mut self, uptime: Duration) -> Result<(), BusError> {
        let state = self.bus.stream_state(&self.settings.key)?;
        let tail = state.map_or(EntryId::default(), |state| state.last);
        if self.has_connected {
            self.counts.reconnects += 1;
        } else {
            self.start_reading(uptime, tail)?;
        }
        let server_time = self.time.at(uptime);
        if self.outage.as_ref().is_some_and(|it| matches!(it.error, BusError::OutOfMemory(_))) {
            let oldest = self.retention.oldest(server_time);
            self.bus.trim(&self.settings.key, oldest, self.settings.entries_max)?;
        }
        let check = history::check(state.as_ref(), self.read_to, server_time, self.settings.entries_max);
        if self.read_to != EntryId::default() {
            self.position = self.position.min(back(self.read_to, REREAD));
            // Not what is read next: the stream may be deleted between this look and then.
            self.checked_to = self.read_to;
        }
        self.read_again();
        match check {
            HistoryCheck::Whole => {}
            HistoryCheck::Gap => self.add_gap(),
            HistoryCheck::Flushed => self.flushed(uptime),
        }
        self.hello_at = uptime;
        self.inspect_at = uptime + HELLO_PERIOD;
        self.phase = Phase::CatchingUp { target: tail };
        Ok(())
    }

    /// At the first connect: from the saved position, or from where history begins.
    fn start_reading(&mut self, uptime: Duration, tail: EntryId) -> Result<(), BusError> {
        let exchanged = self.bus.exchange(&Exchange {
            key: &self.settings.key,
            append: &[],
            oldest: EntryId::default(),
            position: tail,
            read_max: 1,
        })?;
        self.time.sample(uptime, exchanged.server_time, exchanged.round_trip);
        let oldest = self.retention.oldest(exchanged.server_time);
        self.read_to =
            self.settings.saved.position.as_ref().map_or_else(EntryId::default, |saved| saved.read_to);
        self.position = self.read_to.max(oldest);
        self.has_connected = true;
        Ok(())
    }

    /// Entries that were read back must be found again: a fail-over may have lost them.
    fn read_again(&mut self) {
        for entry in &mut self.delivered {
            entry.is_missing = entry.id > self.position;
        }
    }

    pub(super) fn add_gap(&mut self) {
        self.counts.history_gaps += 1;
        self.say(LinkEvent::HistoryGap);
    }

    /// The stream was deleted. All nodes have what was in it, and each publishes its share for those to come.
    pub(super) fn flushed(&mut self, uptime: Duration) {
        self.counts.flushes += 1;
        self.say(LinkEvent::Flushed);
        self.position = EntryId::default();
        self.read_to = EntryId::default();
        self.checked_to = EntryId::default();
        self.read_again();
        // By then all nodes that are there have said hello.
        self.share_at = Some(uptime + HELLO_PERIOD + HELLO_PERIOD / 2);
    }

    /// Everything is read that was there at the connect: what was not found is lost.
    pub(super) fn caught_up(&mut self, uptime: Duration) {
        self.phase = Phase::Steady;
        if self.read_to != EntryId::default() {
            self.read_to = self.position;
        }
        let mut lost: Vec<SentEntry> = self.sent.drain(..).collect();
        for entry in &lost {
            self.take_apart(entry);
        }
        let (missing, found) = self.delivered.drain(..).partition::<Vec<_>, _>(|entry| entry.is_missing);
        self.delivered = found.into();
        for entry in &missing {
            self.own.forget_left(entry);
            for record in &entry.records {
                self.counts.republished_lost +=
                    u64::from(self.own.queue(record.key, record.seen, record.urgent));
            }
        }
        lost.extend(missing);
        self.add_lost(lost.len());
        self.republished = self.own.queued() as u64;
        if !self.is_caught_up {
            self.is_caught_up = true;
            let after = uptime.saturating_sub(self.first_turn.unwrap_or(uptime));
            self.say(LinkEvent::CaughtUp { entries: self.entries_read, after });
        }
    }

    pub(super) fn take_apart(&mut self, entry: &SentEntry) {
        for record in &entry.records {
            self.own.lose(record);
        }
        self.counts.republished_lost += entry.records.len() as u64;
    }

    pub(super) fn add_lost(&mut self, entries: usize) {
        if entries > 0 {
            self.counts.entries_lost += entries as u64;
            self.say(LinkEvent::EntriesLost { entries: entries as u64 });
        }
    }

    /// Own entries that should have been read back long ago are lost.
    pub(super) fn lose_overdue(&mut self, uptime: Duration) {
        let mut lost = 0;
        while let Some(entry) =
            self.sent.pop_front_if(|entry| uptime.saturating_sub(entry.sent_at) >= LOST_AFTER)
        {
            self.take_apart(&entry);
            lost += 1;
        }
        self.add_lost(lost);
    }

    /// Looks at the state of the stream, and drops what is too old, when it is time.
    pub(super) fn inspect(&mut self, uptime: Duration) -> Result<(), BusError> {
        if uptime >= self.trim_at && self.serving && !self.settings.read_only {
            self.trim_at = uptime + TRIM_PERIOD;
            let oldest = self.retention.oldest(self.time.at(uptime));
            self.bus.trim(&self.settings.key, oldest, self.settings.entries_max)?;
        }
        if uptime < self.inspect_at {
            return Ok(());
        }
        self.inspect_at = uptime + HELLO_PERIOD;
        let state = self.bus.stream_state(&self.settings.key)?;
        let is_behind = |state: StreamState| state.last < self.position;
        let check = if state.is_some_and(is_behind) {
            HistoryCheck::Flushed
        } else {
            let (server_time, most) = (self.time.at(uptime), self.settings.entries_max);
            history::check(state.as_ref(), self.checked_to, server_time, most)
        };
        let is_unread = |state: StreamState| state.first.is_some_and(|first| first > self.position);
        match check {
            HistoryCheck::Flushed => {
                self.flushed(uptime);
                let target = state.map_or(EntryId::default(), |state| state.last);
                self.phase = Phase::CatchingUp { target };
            }
            HistoryCheck::Gap if state.is_some_and(is_unread) => self.add_gap(),
            _ => {}
        }
        if self.read_to != EntryId::default() {
            self.checked_to = self.position;
        }
        Ok(())
    }
}
