//! [`OwnRecords`]: the records of this node that others may not have: waiting, in flight, to be republished.
//!
//! While there is a live one about a peer, foreign records about it are passed over, because the own one will
//! be behind them in the stream. They are kept: if the own one is lost, they are what all other nodes have.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::cluster::bus::EntryId;
use crate::cluster::record::{PeerKey, PeerRecord, Presence};
use crate::cluster::replica::{OwnRecord, ReceivedRecord, TimedRecord};

/// Foreign records kept at most. One is kept for a peer, so only a flood of conflicts gets here.
const KEPT_MAX: usize = 1 << 20;

/// A record in an entry that was appended.
#[derive(Clone, Copy, Debug)]
pub(super) struct SentRecord {
    pub(super) key: PeerKey,
    /// The time of the announce, in ticks.
    pub(super) seen: i64,
    pub(super) republished: bool,
    /// Gone or finished: nothing but this record brings it to the other nodes.
    pub(super) urgent: bool,
    pub(super) gone: bool,
}

/// An entry that was appended.
#[derive(Clone, Debug)]
pub(super) struct SentEntry {
    pub(super) seq: u64,
    pub(super) sent_at: Duration,
    /// Where it was read back.
    pub(super) id: EntryId,
    /// It was not found again yet after a connect.
    pub(super) is_missing: bool,
    pub(super) records: Vec<SentRecord>,
}

/// What is under way about one peer.
#[derive(Clone, Copy, Debug, Default)]
struct OwnState {
    /// The time of the latest announce.
    seen: i64,
    /// Live records that wait or are in flight.
    live: u32,
    /// Republished records in flight.
    republished: u32,
    /// Waits to be republished.
    queued: bool,
    /// The number of its last waiting live record.
    waiting: Option<u64>,
    /// A foreign record was applied while a republished one was in flight. Where the foreign one said that
    /// the peer is gone, the others have put it back when they read ours, so they must be corrected.
    overridden: bool,
}

/// The records of this node that others may not have.
#[derive(Debug, Default)]
pub(super) struct OwnRecords {
    states: HashMap<PeerKey, OwnState>,
    kept: HashMap<PeerKey, ReceivedRecord>,
    waiting: VecDeque<TimedRecord>,
    /// The number of the first waiting record.
    first: u64,
    urgent: VecDeque<PeerKey>,
    ordinary: VecDeque<PeerKey>,
    /// Peers that left, by records that were read back a moment ago, with the time of the announce.
    left: HashMap<PeerKey, i64>,
}

fn is_finished(record: &PeerRecord) -> bool {
    matches!(record.presence, Presence::Present { finished: true, .. })
}

/// Whether nothing but this record brings its change to the other nodes.
fn is_urgent(record: &PeerRecord) -> bool {
    is_finished(record) || record.presence == Presence::Gone
}

impl SentRecord {
    pub(super) fn new(TimedRecord { record, seen }: &TimedRecord, republished: bool) -> Self {
        let gone = record.presence == Presence::Gone;
        Self { key: record.key, seen: *seen, republished, urgent: is_urgent(record), gone }
    }
}

impl OwnRecords {
    /// Peers with records under way.
    pub(super) fn len(&self) -> usize {
        self.states.len()
    }

    /// Returns the time of the earliest announce that others may not have.
    pub(super) fn earliest(&self) -> Option<i64> {
        self.states.values().map(|state| state.seen).min()
    }

    /// Whether nothing waits; entries may be in flight.
    pub(super) fn is_drained(&self) -> bool {
        self.waiting.is_empty() && self.urgent.is_empty() && self.ordinary.is_empty()
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn queued(&self) -> usize {
        self.urgent.len() + self.ordinary.len()
    }

    pub(super) fn get(&self, key: &PeerKey) -> Option<OwnRecord> {
        let state = self.states.get(key)?;
        Some(OwnRecord { seen: state.seen, republished: state.live == 0 })
    }

    /// Whether a republished record about the peer, and no live one, is in flight.
    pub(super) fn is_republishing(&self, key: &PeerKey) -> bool {
        self.states.get(key).is_some_and(|state| state.republished > 0 && state.live == 0)
    }

    /// Adds a record from an outbox. Of several about one peer the last one is published, but a finished
    /// download is never lost.
    pub(super) fn add(&mut self, TimedRecord { record, seen }: TimedRecord) {
        let state = self.states.entry(record.key).or_default();
        state.seen = seen;
        // What is live and later in the stream makes both unnecessary.
        state.queued = false;
        state.overridden = false;
        let index = state.waiting.and_then(|number| usize::try_from(number - self.first).ok());
        if let Some(before) = index.and_then(|index| self.waiting.get_mut(index)) {
            let finished = is_finished(&before.record);
            if !(finished && is_urgent(&record)) {
                // Not the later count: records of other peers that raised it are behind this one.
                let completed = before.record.completed;
                *before = TimedRecord { record: PeerRecord { completed, ..record }, seen };
                if let Presence::Present { finished: now_finished, .. } = &mut before.record.presence {
                    *now_finished |= finished;
                }
                return;
            }
        }
        state.waiting = Some(self.first + self.waiting.len() as u64);
        state.live += 1;
        self.waiting.push_back(TimedRecord { record, seen });
    }

    /// Takes waiting records, at most `most`. Those seen before `oldest` are no longer live, and are queued
    /// to be republished instead; returns how many.
    pub(super) fn take_live(&mut self, oldest: i64, most: usize, into: &mut Vec<TimedRecord>) -> u64 {
        let mut late = 0;
        while into.len() < most {
            let Some(waiting) = self.waiting.pop_front() else { break };
            if let Some(state) = self.states.get_mut(&waiting.record.key)
                && state.waiting == Some(self.first)
            {
                state.waiting = None;
            }
            self.first += 1;
            if waiting.seen >= oldest {
                into.push(waiting);
                continue;
            }
            late += 1;
            self.lose(&SentRecord::new(&waiting, false));
        }
        late
    }

    /// Puts records back that did not fit into an entry, in their order.
    pub(super) fn put_back_live(&mut self, records: &[TimedRecord]) {
        for waiting in records.iter().rev() {
            self.first = self.first.wrapping_sub(1);
            self.waiting.push_front(*waiting);
            if let Some(state) = self.states.get_mut(&waiting.record.key) {
                state.waiting.get_or_insert(self.first);
            }
        }
    }

    /// Takes peers that are to be republished, gone and finished ones first, with the time of the own record.
    pub(super) fn take_queued(&mut self, most: usize, into: &mut Vec<(PeerKey, i64)>) {
        while into.len() < most {
            let Some(key) = self.urgent.pop_front().or_else(|| self.ordinary.pop_front()) else { return };
            if let Some(state) = self.states.get_mut(&key)
                && std::mem::take(&mut state.queued)
            {
                into.push((key, state.seen));
            }
        }
    }

    /// Puts peers back that did not fit into an entry, in their order.
    pub(super) fn put_back_queued(&mut self, keys: &[PeerKey]) {
        for &key in keys.iter().rev() {
            if let Some(state) = self.states.get_mut(&key) {
                state.queued = true;
                self.urgent.push_front(key);
            }
        }
    }

    /// Notes that a record is in flight that was taken from the queue.
    pub(super) fn republishing(&mut self, key: PeerKey, seen: i64) {
        let state = self.states.entry(key).or_default();
        state.seen = seen;
        state.republished += 1;
    }

    /// Forgets a peer that was taken from the queue and needs no record.
    pub(super) fn forget(&mut self, key: &PeerKey) {
        if let Some(state) = self.states.get(key)
            && state.live == 0
            && state.republished == 0
            && !state.queued
        {
            self.states.remove(key);
            self.kept.remove(key);
        }
    }

    /// Queues a peer to be republished, unless a live record will do the same: it is newer.
    pub(super) fn queue(&mut self, key: PeerKey, seen: i64, urgent: bool) -> bool {
        let is_live = self.states.get(&key).is_some_and(|state| state.live > 0);
        if !is_live {
            self.queue_walked(key, seen, urgent);
        }
        !is_live
    }

    /// Queues a peer to be republished even where a live record is under way: it may have changed since, when
    /// its outbox was full.
    pub(super) fn queue_walked(&mut self, key: PeerKey, seen: i64, urgent: bool) {
        let state =
            self.states.entry(key).or_insert_with(|| OwnState { seen: i64::MIN, ..OwnState::default() });
        // A newer leave that was read back must not be published as an older one.
        let left = self.left.get(&key).copied().unwrap_or(seen);
        state.seen = state.seen.max(seen).max(left);
        state.overridden = false;
        if !std::mem::replace(&mut state.queued, true) {
            if urgent { self.urgent.push_back(key) } else { self.ordinary.push_back(key) }
        }
    }

    /// Returns the time of a leave that was read back a moment ago.
    pub(super) fn left(&self, key: &PeerKey) -> Option<i64> {
        self.left.get(key).copied()
    }

    /// A leave that was read back does not matter any more.
    pub(super) fn supersede_leave(&mut self, key: &PeerKey) {
        self.left.remove(key);
    }

    /// An entry that was read back is no longer of interest.
    pub(super) fn forget_left(&mut self, entry: &SentEntry) {
        for record in entry.records.iter().filter(|record| record.gone) {
            if self.left.get(&record.key) == Some(&record.seen) {
                self.left.remove(&record.key);
            }
        }
    }

    /// A record was read back: all nodes have it, or will.
    pub(super) fn deliver(&mut self, record: &SentRecord) {
        // An older record that was published again changes nothing.
        if self.left.get(&record.key).is_none_or(|left| *left <= record.seen) {
            if record.gone {
                self.left.insert(record.key, record.seen);
            } else {
                self.left.remove(&record.key);
            }
        }
        let Some(state) = self.states.get_mut(&record.key) else { return };
        state.drop_one(record.republished);
        if !record.republished {
            self.kept.remove(&record.key);
        }
        if state.republished == 0 && std::mem::take(&mut state.overridden) {
            let seen = state.seen;
            self.queue(record.key, seen, true);
        } else {
            self.forget(&record.key);
        }
    }

    /// A record will not come back: its peer is republished.
    pub(super) fn lose(&mut self, record: &SentRecord) {
        if let Some(state) = self.states.get_mut(&record.key) {
            state.drop_one(record.republished);
        }
        self.queue(record.key, record.seen, record.urgent);
    }

    /// A foreign record was applied over a republished one in flight.
    pub(super) fn overridden(&mut self, key: &PeerKey, seen: i64) {
        if let Some(state) = self.states.get_mut(key) {
            state.overridden = true;
            state.seen = state.seen.max(seen);
        }
    }

    /// Keeps a foreign record that was passed over. Its counts are applied already. Returns false where there
    /// is no room.
    pub(super) fn keep(&mut self, mut record: ReceivedRecord) -> bool {
        record.record.completed = None;
        if let Presence::Present { finished, .. } = &mut record.record.presence {
            *finished = false;
        }
        let key = record.record.key;
        match self.kept.get(&key) {
            Some(before) if record.republished && record.seen < before.seen => {}
            None if self.kept.len() >= KEPT_MAX => return false,
            _ => _ = self.kept.insert(key, record),
        }
        true
    }

    /// Takes everything that was kept.
    pub(super) fn take_all_kept(&mut self) -> Vec<ReceivedRecord> {
        self.kept.drain().map(|(_, record)| record).collect()
    }

    /// Whether anything is kept.
    pub(super) fn has_kept(&self) -> bool {
        !self.kept.is_empty()
    }

    /// A record was not passed over: where something is kept about its peer, all others have this instead.
    pub(super) fn supersede_kept(&mut self, received: &ReceivedRecord) {
        let key = received.record.key;
        match self.kept.get(&key) {
            None => {}
            // A live one was applied here, too.
            Some(_) if !received.republished => _ = self.kept.remove(&key),
            Some(before) if received.seen < before.seen => {}
            Some(_) => _ = self.keep(*received),
        }
    }

    /// Takes what was kept about a peer that has no live record any more.
    pub(super) fn take_kept(&mut self, key: &PeerKey) -> Option<ReceivedRecord> {
        self.kept.remove(key)
    }
}

impl OwnState {
    fn drop_one(&mut self, republished: bool) {
        let count = if republished { &mut self.republished } else { &mut self.live };
        *count = count.saturating_sub(1);
    }
}
