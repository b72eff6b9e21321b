//! What a link does with the entries that it has read, in their order.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::events::LinkEvent;
use super::history::{REMEMBERED, back};
use super::own::{SentEntry, SentRecord};
use super::{Link, tick};
use crate::clock::Tick;
use crate::cluster::bus::{Bus, EntryId, Exchanged};
use crate::cluster::codec::{EntryBody, EntryCodec, EntryRefusal, ReadEntry};
use crate::cluster::record::{PeerKey, Presence};
use crate::cluster::replica::{OwnRecord, ReceivedRecord, Replica};

/// An entry whose seal is later than its place by more has a wrong time.
const FUTURE_MAX: Duration = Duration::from_secs(60);
/// A live entry that got into the stream so long after it was sealed counts as republished: a server that was
/// frozen may append what its writer has given up. All nodes see the same two times, and decide alike.
const LATE_AFTER: Duration = Duration::from_secs(5);
/// Entries that were read back and are remembered, whatever their age.
const DELIVERED_MAX: usize = 512;

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl<B: Bus, C: EntryCodec, R: Replica> Link<B, C, R> {
    pub(super) fn receive(&mut self, uptime: Duration, exchanged: Exchanged) {
        self.round_trip = exchanged.round_trip;
        for (id, octets) in exchanged.entries {
            self.position = id;
            self.entries_read += 1;
            self.counts.octets_in += octets.len() as u64;
            match self.codec.open(id, &octets) {
                Ok(entry) => self.read_entry(uptime, id, entry, exchanged.server_time),
                Err(EntryRefusal::Sealed) => self.counts.refused_sealed += 1,
                Err(EntryRefusal::Format) => self.counts.refused_format += 1,
                Err(EntryRefusal::Damaged) => self.counts.refused_damaged += 1,
            }
            self.read_to = self.read_to.max(id);
        }
        // A position where nothing was read says nothing about what is missing.
        if self.checked_to == EntryId::default() && self.read_to != EntryId::default() {
            self.checked_to = self.position;
        }
    }

    fn read_entry(&mut self, uptime: Duration, id: EntryId, entry: ReadEntry, server_time: Duration) {
        let is_own = entry.incarnation == self.codec.incarnation();
        let is_late = Duration::from_millis(id.milliseconds) > entry.sealed_at + LATE_AFTER;
        if let EntryBody::Hello(hello) = &entry.body
            && is_own
        {
            self.nodes.listen(uptime);
            self.nodes.hear(uptime, entry.incarnation, hello.clone(), entry.sealed_at, server_time);
        }
        let is_new = if is_own {
            match self.read_back(uptime, id, entry.seq, is_late) {
                Some(is_new) => is_new,
                None => return,
            }
        } else {
            self.sequences.accept(entry.incarnation, entry.seq, id)
        };
        if !is_new {
            // The position goes back at each connect; only what is read for the first time is suspicious.
            self.counts.refused_replayed += u64::from(id > self.read_to);
            return;
        }
        self.counts.future +=
            u64::from(entry.sealed_at > Duration::from_millis(id.milliseconds) + FUTURE_MAX);
        let sealed_at = milliseconds(entry.sealed_at).min(id.milliseconds).min(milliseconds(server_time));
        self.counts.behind_milliseconds = milliseconds(server_time).saturating_sub(sealed_at);
        match entry.body {
            EntryBody::Records { republished, records } => {
                let strips = republished || is_own || !self.serving;
                let received: Vec<_> = records
                    .into_iter()
                    .map(|mut record| {
                        if let Presence::Present { finished, .. } = &mut record.presence
                            && strips
                        {
                            *finished = false;
                        }
                        let announced = i64::try_from(sealed_at).unwrap_or(i64::MAX)
                            - i64::from(record.age_seconds) * 1000;
                        ReceivedRecord {
                            record,
                            seen: self.time.tick_of(announced),
                            republished: republished || is_late,
                        }
                    })
                    .collect();
                self.apply(tick(uptime), &received);
                if republished || is_late {
                    self.repeat_leaves(&received);
                }
            }
            EntryBody::Hello(hello) => {
                let streams = usize::try_from(hello.streams).unwrap_or(usize::MAX);
                let sealed_at = Duration::from_millis(sealed_at);
                self.nodes.hear(uptime, entry.incarnation, hello, sealed_at, server_time);
                if streams > self.streams_seen {
                    self.streams_seen = streams;
                    self.say(LinkEvent::MoreStreams(streams));
                }
            }
            EntryBody::Unknown => {}
        }
    }

    /// A node that republishes a peer has not read that it left: the leave was lost after it was read back
    /// here. It is published again.
    fn repeat_leaves(&mut self, received: &[ReceivedRecord]) {
        for ReceivedRecord { record, seen, .. } in received {
            if record.presence != Presence::Gone
                && let Some(left) = self.own.left(&record.key)
                && left >= *seen
            {
                self.counts.republished_lost += u64::from(self.own.queue(record.key, left, true));
            }
        }
    }

    /// Applies foreign records by the rules of the stream's order.
    pub(super) fn apply(&mut self, now: Tick, received: &[ReceivedRecord]) {
        let over: Vec<(PeerKey, i64)> = received
            .iter()
            .filter(|received| self.own.is_republishing(&received.record.key))
            .map(|received| (received.record.key, received.seen))
            .collect();
        let mut passed_over = Vec::new();
        let own = &self.own;
        let is_republished = received.iter().all(|received| received.republished);
        // A leave that was read back may have been lost since, and then it counts like one in flight.
        let left = |key: &PeerKey| {
            let seen = own.left(key).filter(|_| is_republished)?;
            Some(OwnRecord { seen, republished: true })
        };
        let own = |key: &PeerKey| match (own.get(key), left(key)) {
            // The later of the two, unless a live one will be behind both.
            (Some(own), Some(left)) if own.republished && own.seen < left.seen => Some(left),
            (own, left) => own.or(left),
        };
        let applied = self.replica.apply(now, received, &own, &mut passed_over);
        self.counts.add_applied(&applied);
        for (key, seen) in over {
            if !passed_over.iter().any(|passed| passed.record.key == key) {
                self.own.overridden(&key, seen);
            }
        }
        // What came live behind a leave is what all nodes end with, whether the leave is lost or not.
        for ReceivedRecord { record, .. } in received.iter().filter(|received| !received.republished) {
            self.own.supersede_leave(&record.key);
        }
        self.keep_passed_over(received, passed_over);
    }

    /// Keeps what was passed over, as what all others have; what came behind it takes its place.
    fn keep_passed_over(&mut self, received: &[ReceivedRecord], passed_over: Vec<ReceivedRecord>) {
        if passed_over.is_empty() && !self.own.has_kept() {
            return;
        }
        let mut passed: HashMap<PeerKey, VecDeque<ReceivedRecord>> = HashMap::new();
        for record in passed_over {
            passed.entry(record.record.key).or_default().push_back(record);
        }
        for record in received {
            // Records of one peer are passed over in their order.
            let queue = passed.get_mut(&record.record.key);
            if queue.and_then(|queue| queue.pop_front_if(|first| first == record)).is_some() {
                self.counts.kept_dropped += u64::from(!self.own.keep(*record));
            } else {
                self.own.supersede_kept(record);
            }
        }
    }

    /// Notes that an own entry was read. `None` where that is all; otherwise whether it is to be applied like
    /// a foreign one: it was given up as lost and arrives late, but the other nodes do apply it.
    fn read_back(&mut self, uptime: Duration, id: EntryId, seq: u64, is_late: bool) -> Option<bool> {
        if let Some(index) = self.sent.iter().position(|entry| entry.seq == seq) {
            let lost: Vec<SentEntry> = self.sent.drain(..index).collect();
            for entry in &lost {
                self.take_apart(entry);
            }
            self.add_lost(lost.len());
            let mut entry = self.sent.pop_front()?;
            if is_late {
                let (republished, live) = entry.records.into_iter().partition(|record| record.republished);
                entry.records = republished;
                let live: Vec<SentRecord> = live;
                live.iter().for_each(|record| self.own.lose(record));
                self.counts.republished_lost += live.len() as u64;
            }
            for record in &entry.records {
                self.own.deliver(record);
            }
            let lag = uptime.saturating_sub(entry.sent_at) + self.round_trip;
            self.counts.lag_milliseconds = milliseconds(lag);
            self.last_own = seq;
            entry.id = id;
            let oldest = back(id, REMEMBERED);
            // Those that are not found again are judged when everything is read.
            let is_done = |first: &mut SentEntry| !first.is_missing && first.id < oldest;
            while let Some(done) = self.delivered.pop_front_if(is_done) {
                self.own.forget_left(&done);
            }
            if self.delivered.len() >= DELIVERED_MAX
                && let Some(done) = self.delivered.pop_front()
            {
                self.own.forget_left(&done);
            }
            self.delivered.push_back(entry);
            return None;
        }
        if let Some(entry) = self.delivered.iter_mut().find(|entry| entry.seq == seq) {
            entry.is_missing = false;
            return None;
        }
        let is_late = seq > self.last_own;
        self.last_own = self.last_own.max(seq);
        Some(is_late)
    }
}
