//! What a link appends in a turn: a hello, live records, republished ones, and walks, in this order.

use std::time::Duration;

use super::own::{SentEntry, SentRecord};
use super::{Finishing, HELLO_PERIOD, Link, WALK_SLACK_SECONDS, tick};
use crate::clock::Tick;
use crate::cluster::bus::{Bus, EntryId};
use crate::cluster::codec::{EntryCodec, WrittenEntry};
use crate::cluster::record::{PeerKey, PeerRecord, Presence};
use crate::cluster::replica::{Replica, TimedRecord, WalkOf};

/// Entries that one turn appends at most.
const ENTRIES_MAX: usize = 4;
/// Entries in flight at most: more wait until these are read back.
const IN_FLIGHT_MAX: usize = 64;
/// Records offered for one entry: a few more than fit.
const RECORDS_MAX: usize = 512;
/// A record that has waited for more seconds is no longer live.
const LIVE_SECONDS: i64 = 2;
/// Walks at most: the earliest time of those that would be more is walked later.
const WALKS_MAX: usize = 4;
/// A walk catches up on at most this much of its time.
const WALK_BURST: Duration = Duration::from_millis(200);

fn age(now: Tick, seen: i64) -> u32 {
    u32::try_from((i64::from(now.0) - seen).max(0)).unwrap_or(u32::MAX)
}

impl<B: Bus, C: EntryCodec, R: Replica> Link<B, C, R> {
    pub(super) fn write_entries(&mut self, uptime: Duration) -> Vec<Vec<u8>> {
        self.collect();
        let mut entries = Vec::new();
        if uptime >= self.hello_at && self.finishing.is_none() {
            self.hello_at = uptime + HELLO_PERIOD;
            let entry = self.codec.seal_hello(self.time.at(uptime), false);
            self.send(uptime, entry, Vec::new(), &mut entries);
        }
        self.walk(uptime);
        while entries.len() < ENTRIES_MAX && self.sent.len() < IN_FLIGHT_MAX {
            if !self.write_live(uptime, &mut entries) && !self.write_republished(uptime, &mut entries) {
                break;
            }
        }
        if let Some(finishing) = self.finishing
            && !finishing.said_bye
            && self.own.is_drained()
            && entries.len() < ENTRIES_MAX
        {
            let entry = self.codec.seal_hello(self.time.at(uptime), true);
            self.send(uptime, entry, Vec::new(), &mut entries);
            self.finishing = Some(Finishing { said_bye: true, ..finishing });
        }
        entries
    }

    /// Takes the outboxes, unless enough waits already: they are bounded, and this queue is by them.
    fn collect(&mut self) {
        if self.own.waiting() <= ENTRIES_MAX * RECORDS_MAX {
            self.collect_all();
        }
    }

    pub(super) fn collect_all(&mut self) {
        let mut records = Vec::new();
        if let Some(since) = self.replica.take_outbox(&mut records) {
            let from = since - WALK_SLACK_SECONDS;
            self.since = Some(self.since.map_or(from, |earlier| earlier.min(from)));
        }
        for record in records {
            self.own.add(record);
        }
    }

    fn send(
        &mut self,
        uptime: Duration,
        entry: WrittenEntry,
        records: Vec<SentRecord>,
        entries: &mut Vec<Vec<u8>>,
    ) {
        self.sent.push_back(SentEntry {
            seq: entry.seq,
            sent_at: uptime,
            id: EntryId::default(),
            is_missing: false,
            records,
        });
        entries.push(entry.octets);
    }

    /// Seals as many records as one entry holds, now, or at the second of the latest announce if that is
    /// later, so that no age is below zero: this node's estimate of the server's clock is behind then.
    fn seal(&mut self, uptime: Duration, republished: bool, records: &[TimedRecord]) -> WrittenEntry {
        let latest = records.iter().map(|record| record.seen).max().and_then(|seen| u64::try_from(seen).ok());
        let at = uptime.max(Duration::from_secs(latest.unwrap_or_default()));
        let aged =
            |timed: &TimedRecord| PeerRecord { age_seconds: age(tick(at), timed.seen), ..timed.record };
        let records: Vec<PeerRecord> = records.iter().map(aged).collect();
        self.codec.seal_records(self.time.at(at), republished, &records)
    }

    fn write_live(&mut self, uptime: Duration, entries: &mut Vec<Vec<u8>>) -> bool {
        let now = tick(uptime);
        let mut taken = Vec::new();
        self.counts.waited_too_long +=
            self.own.take_live(i64::from(now.0) - LIVE_SECONDS, RECORDS_MAX, &mut taken);
        if taken.is_empty() {
            return false;
        }
        let entry = self.seal(uptime, false, &taken);
        let (sent, rest) = taken.split_at(entry.records.min(taken.len()));
        self.own.put_back_live(rest);
        self.counts.sent_live += sent.len() as u64;
        let sent = sent.iter().map(|record| SentRecord::new(record, false)).collect();
        self.send(uptime, entry, sent, entries);
        true
    }

    fn write_republished(&mut self, uptime: Duration, entries: &mut Vec<Vec<u8>>) -> bool {
        let now = tick(uptime);
        let mut taken = Vec::new();
        self.own.take_queued(RECORDS_MAX, &mut taken);
        if taken.is_empty() {
            return false;
        }
        self.apply_kept(now, &taken);
        let records: Vec<TimedRecord> = taken
            .iter()
            .map(|&(key, seen)| {
                let mut current = self.replica.current(now, &key);
                match &mut current.record.presence {
                    // Not the moment when it is published: a later join elsewhere is not undone.
                    Presence::Gone => current.seen = seen,
                    Presence::Present { finished, .. } => *finished = false,
                }
                current
            })
            .collect();
        let entry = self.seal(uptime, true, &records);
        let count = entry.records.min(taken.len());
        let mut sent = Vec::with_capacity(count);
        for (current, (key, _)) in records.iter().zip(&taken).take(count) {
            self.own.republishing(*key, current.seen);
            sent.push(SentRecord::new(current, true));
        }
        let rest: Vec<PeerKey> = taken.iter().skip(count).map(|(key, _)| *key).collect();
        self.own.put_back_queued(&rest);
        self.counts.sent_republished += sent.len() as u64;
        self.send(uptime, entry, sent, entries);
        true
    }

    /// Foreign records that were passed over because of an own one that was lost are what all others have.
    fn apply_kept(&mut self, now: Tick, keys: &[(PeerKey, i64)]) {
        let kept: Vec<_> = keys.iter().filter_map(|(key, _)| self.own.take_kept(key)).collect();
        if !kept.is_empty() {
            self.apply(now, &kept);
        }
    }

    /// Queues peers of walks that are due, as many as the rate allows.
    fn walk(&mut self, uptime: Duration) {
        let now = tick(uptime);
        if self.share_at.is_some_and(|at| uptime >= at) {
            self.share_at = None;
            let (node, nodes) = self.nodes.share(uptime, &self.settings.node_id);
            self.start_walk(WalkOf::Share { node, nodes });
        }
        if self.walks.len() < WALKS_MAX
            && let Some(since) = self.since.take()
        {
            self.walking_since = Some(self.walking_since.map_or(since, |earlier| earlier.min(since)));
            self.start_walk(WalkOf::Since(since));
        }
        let elapsed = uptime.saturating_sub(self.walked_at);
        self.walked_at = uptime;
        self.walk_allowance = (self.walk_allowance + elapsed).min(WALK_BURST);
        let most = self.walk_allowance.as_secs_f64() * f64::from(self.settings.walk_rate);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some thousands")]
        let most = most as usize;
        if most == 0 || self.own.queued() > ENTRIES_MAX * RECORDS_MAX || self.finishing.is_some() {
            return;
        }
        let Some(walk) = self.walks.front_mut() else { return };
        self.walk_allowance = Duration::ZERO;
        let mut records = Vec::new();
        let goes_on = self.replica.walk(now, walk, most, &mut records);
        if !goes_on {
            self.walks.pop_front();
            if self.walks.is_empty() {
                self.walking_since = None;
            }
        }
        self.counts.republished_walk += records.len() as u64;
        for TimedRecord { record, seen } in &records {
            self.own.queue_walked(record.key, *seen, false);
        }
    }

    fn start_walk(&mut self, of: WalkOf) {
        let walk = self.replica.start_walk(of);
        self.walks.push_back(walk);
    }
}
