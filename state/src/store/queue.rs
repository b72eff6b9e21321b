//! Where records wait for the writer. Queuing one takes a short lock and never waits for anything else.
//!
//! A row waits once: later records for it are merged. The spiller moves the rows of a full queue to the disk;
//! only if the disk does not take them does the queue grow beyond its bound, and never beyond the number of
//! existing rows.

use std::collections::HashSet;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::Thread;
use std::time::Duration;

use hashbrown::DefaultHashBuilder;
use indexmap::IndexMap;
use parking_lot::Mutex;

use super::bounds::Bounds;
use super::record::{Channel, CompletedRow, Record, RecordKey};
use super::total::{PendingTotals, Total};
use super::unprunes::{SiteReading, Unprunes};
use crate::clock::Clock;
use crate::ids::InfoHash;

/// All queues. One lock guards all of them, so that the records of one announce are taken out together.
#[derive(Debug)]
pub struct Queues {
    clock: Clock,
    bounds: [usize; CHANNELS],
    /// Whether rows leave memory in cuts (mode private).
    accounting: bool,
    state: Mutex<QueueState>,
    /// By channel: when the oldest row that is not yet written was queued, in milliseconds of uptime;
    /// [`NEVER`] if all are written.
    oldest_millis: [AtomicU64; CHANNELS],
    pub(super) unprunes: Mutex<Unprunes>,
    /// The thread that is woken when a queue is full.
    spiller: OnceLock<Thread>,
}

const CHANNELS: usize = Channel::ALL.len();
const NEVER: u64 = u64::MAX;

#[derive(Debug, Default)]
struct QueueState {
    queues: [Queue; CHANNELS],
    totals: PendingTotals,
}

/// The rows of one channel that wait in memory.
#[derive(Debug, Default)]
struct Queue {
    /// In the order in which they came: a new row is appended, and not written to a place that would have to
    /// be fetched from memory first.
    rows: IndexMap<RecordKey, Record, DefaultHashBuilder>,
    /// When the oldest of them was queued, in milliseconds of uptime.
    since_millis: u64,
}

/// Rows that were taken out, sorted by key.
#[derive(Debug)]
pub(super) struct TakenRows {
    pub(super) records: Vec<Record>,
    since_millis: u64,
}

/// Rows in the order of their queue.
struct UnsortedRows {
    rows: IndexMap<RecordKey, Record, DefaultHashBuilder>,
    since_millis: u64,
}

/// All rows and totals that were in memory at one instant: all or none of each announce.
#[derive(Debug)]
pub(super) struct Cut {
    /// By channel.
    pub(super) rows: [TakenRows; CHANNELS],
    /// In the order in which they were reported.
    pub(super) totals: Vec<Total>,
}

impl Queues {
    /// Returns empty queues for mode open or listed.
    #[must_use]
    pub fn new(clock: Clock, bounds: &Bounds) -> Self {
        Self {
            clock,
            bounds: Channel::ALL.map(|channel| bounds.rows_max(channel)),
            accounting: false,
            state: Mutex::default(),
            oldest_millis: std::array::from_fn(|_| AtomicU64::new(NEVER)),
            unprunes: Mutex::default(),
            spiller: OnceLock::new(),
        }
    }

    /// Returns empty queues for mode private: rows, and the totals of the sessions they were credited for,
    /// leave memory together, and go to the disk before they go to the store.
    #[must_use]
    pub fn accounting(clock: Clock, bounds: &Bounds) -> Self {
        Self { accounting: true, ..Self::new(clock, bounds) }
    }

    /// Queues a record.
    pub fn put(&self, record: Record) {
        self.put_all(&[Some(record)], None);
    }

    /// Queues all records of one announce, as one step.
    pub(crate) fn put_all(&self, records: &[Option<Record>], total: Option<Total>) {
        // Locked until the row is in its queue: otherwise it might be taken for one that the store knows of.
        let _unprunes = records.iter().flatten().find_map(Record::unpruned_torrent).map(|id| {
            let mut unprunes = self.unprunes.lock();
            unprunes.pending.insert(id);
            unprunes
        });
        let mut is_full = false;
        let mut state = self.state.lock();
        for record in records.iter().flatten() {
            is_full |= self.add_record(&mut state, record);
        }
        if let Some(total) = total.filter(|_| self.accounting) {
            state.totals.push(total);
        }
        drop(state);
        if is_full && let Some(spiller) = self.spiller.get() {
            spiller.unpark();
        }
    }

    /// Queues a record; returns whether its queue is full, or in mode private half full, because a cut takes
    /// time.
    fn add_record(&self, state: &mut QueueState, record: &Record) -> bool {
        let channel = record.channel();
        let queue = state.queue(channel);
        if queue.rows.is_empty() {
            queue.since_millis = self.millis();
            self.oldest(channel).fetch_min(queue.since_millis, Ordering::Relaxed);
        }
        let before = queue.rows.len();
        queue.rows.entry(record.key()).and_modify(|waiting| waiting.merge(record)).or_insert(*record);
        let rows = queue.rows.len();
        rows > before && rows == self.spill_threshold(channel)
    }

    /// Queues finished downloads (mode open and listed).
    pub fn put_completed(&self, info_hash: InfoHash, completed: u32) {
        let last_completed = i64::try_from(self.clock.now().unix_seconds).unwrap_or(i64::MAX);
        self.put(Record::Completed(CompletedRow { info_hash, completed, last_completed }));
    }

    /// Torrents that are live again here, but may still be pruned in the store (mode private).
    #[must_use]
    pub fn unprunes(&self) -> Vec<u32> {
        self.unprunes.lock().pending.iter().copied().collect()
    }

    /// Begins a read of the torrents from the store.
    pub fn begin_reading(&self) -> SiteReading<'_> {
        self.unprunes.lock().acknowledged = Some(HashSet::new());
        SiteReading(&self.unprunes)
    }

    /// Notes that the store knows that these torrents are live again.
    pub(crate) fn acknowledge_unprunes(&self, ids: &[u32]) {
        let mut unprunes = self.unprunes.lock();
        let mut state = self.state.lock();
        let queue = state.queue(Channel::Torrents);
        // A torrent that was pruned and came to life again since has another row, which the store has not
        // received.
        let waits = |id| {
            let row = queue.rows.get(&RecordKey::Id(id));
            matches!(row, Some(Record::Torrent(row)) if row.unprune)
        };
        for id in ids.iter().filter(|&&id| !waits(id)) {
            unprunes.pending.remove(id);
            if let Some(acknowledged) = &mut unprunes.acknowledged {
                acknowledged.insert(*id);
            }
        }
    }

    /// The number of rows that wait in memory.
    #[must_use]
    pub fn rows(&self, channel: Channel) -> usize {
        self.state.lock().queue(channel).rows.len()
    }

    /// Removes all rows, as if they had been taken out and written.
    #[cfg(test)]
    pub(crate) fn forget_rows(&self, channel: Channel) {
        drop(self.take_rows(channel, |_| ()));
    }

    /// Age of the oldest row that is not written.
    #[must_use]
    pub fn lag(&self, channel: Channel) -> Duration {
        match self.oldest(channel).load(Ordering::Relaxed) {
            NEVER => Duration::ZERO,
            since => Duration::from_millis(self.millis().saturating_sub(since)),
        }
    }

    /// Whether rows leave memory in cuts.
    pub(super) fn is_accounting(&self) -> bool {
        self.accounting
    }

    pub(super) fn rows_max(&self, channel: Channel) -> usize {
        #[expect(clippy::indexing_slicing, reason = "one for each channel, in their order")]
        self.bounds[channel as usize]
    }

    pub(super) fn is_full(&self, channel: Channel) -> bool {
        self.rows(channel) >= self.rows_max(channel)
    }

    /// Whether a queue of mode private is so full that the next cut is due at once.
    pub(super) fn is_cut_due(&self) -> bool {
        Channel::ALL.iter().any(|&channel| self.rows(channel) >= self.spill_threshold(channel))
    }

    /// Takes all rows of a channel out. The caller ensures that they are written or put back. `count` is
    /// called with their number before anyone can see that the queue is empty, so that readers of the metrics
    /// never miss rows on their way.
    pub(super) fn take_rows(&self, channel: Channel, count: impl FnOnce(usize)) -> TakenRows {
        let mut state = self.state.lock();
        let taken = state.queue(channel).take_rows();
        count(taken.rows.len());
        drop(state);
        taken.sorted()
    }

    /// Takes everything out of memory, all or none of each announce. The caller ensures that it is written or
    /// put back. `count` is called for each channel, as in [`take_rows`](Self::take_rows).
    pub(super) fn take_cut(&self, count: impl Fn(Channel, usize)) -> Cut {
        let mut state = self.state.lock();
        let rows = Channel::ALL.map(|channel| {
            let taken = state.queue(channel).take_rows();
            count(channel, taken.rows.len());
            taken
        });
        let totals = state.totals.take_all();
        drop(state);
        Cut { rows: rows.map(UnsortedRows::sorted), totals }
    }

    /// Puts rows back that could not be kept anywhere: older than those queued since.
    pub(super) fn put_back(&self, channel: Channel, taken: TakenRows) {
        self.state.lock().queue(channel).put_back(taken);
    }

    /// Like [`put_back`](Self::put_back), for a whole cut.
    pub(super) fn put_back_cut(&self, cut: Cut) {
        let mut state = self.state.lock();
        for (channel, taken) in Channel::ALL.into_iter().zip(cut.rows) {
            state.queue(channel).put_back(taken);
        }
        state.totals.put_back(cut.totals);
    }

    /// Notes that all earlier rows are written and none waits elsewhere: the oldest row is in memory, if any.
    pub(super) fn mark_caught_up(&self, channel: Channel) {
        let mut state = self.state.lock();
        let queue = state.queue(channel);
        let oldest = if queue.rows.is_empty() { NEVER } else { queue.since_millis };
        self.oldest(channel).store(oldest, Ordering::Relaxed);
    }

    /// Notes that rows of an earlier process wait.
    pub(super) fn mark_backlog(&self, channel: Channel) {
        self.oldest(channel).store(0, Ordering::Relaxed);
    }

    pub(super) fn set_spiller(&self, spiller: Thread) {
        // Set once, by the only spiller.
        let _ = self.spiller.set(spiller);
    }

    /// The number of rows from which on they have to be taken out.
    fn spill_threshold(&self, channel: Channel) -> usize {
        let bound = self.rows_max(channel);
        if self.accounting { bound.div_ceil(2) } else { bound }
    }

    fn oldest(&self, channel: Channel) -> &AtomicU64 {
        #[expect(clippy::indexing_slicing, reason = "one for each channel, in their order")]
        &self.oldest_millis[channel as usize]
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.clock.uptime().as_millis()).unwrap_or(NEVER - 1)
    }
}

impl QueueState {
    fn queue(&mut self, channel: Channel) -> &mut Queue {
        #[expect(clippy::indexing_slicing, reason = "one for each channel, in their order")]
        &mut self.queues[channel as usize]
    }
}

impl Queue {
    fn take_rows(&mut self) -> UnsortedRows {
        // About as many will come until the next time.
        let room = IndexMap::with_capacity_and_hasher(self.rows.len(), DefaultHashBuilder::default());
        UnsortedRows { rows: std::mem::replace(&mut self.rows, room), since_millis: self.since_millis }
    }

    fn put_back(&mut self, taken: TakenRows) {
        if !taken.records.is_empty() {
            self.since_millis = taken.since_millis;
        }
        for older in taken.records {
            self.rows
                .entry(older.key())
                .and_modify(|newer| {
                    let later = std::mem::replace(newer, older);
                    newer.merge(&later);
                })
                .or_insert(older);
        }
    }
}

impl UnsortedRows {
    /// Not under the lock of the queues.
    fn sorted(self) -> TakenRows {
        let mut records: Vec<Record> = self.rows.into_values().collect();
        records.sort_unstable_by_key(Record::key);
        TakenRows { records, since_millis: self.since_millis }
    }
}

impl Cut {
    /// Whether there are no rows.
    pub(super) fn is_empty(&self) -> bool {
        self.totals.is_empty() && self.rows.iter().all(|taken| taken.records.is_empty())
    }
}

/// Merges records of the same row in their order; returns them sorted by key.
pub(super) fn merged(records: Vec<Record>) -> Vec<Record> {
    let mut rows: IndexMap<RecordKey, Record, DefaultHashBuilder> = IndexMap::default();
    for record in records {
        rows.entry(record.key()).and_modify(|earlier| earlier.merge(&record)).or_insert(record);
    }
    let mut records: Vec<Record> = rows.into_values().collect();
    records.sort_unstable_by_key(Record::key);
    records
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::PeerId;
    use crate::store::record::{SnatchRow, TorrentRow, TransferRow, UserRow};
    use crate::store::total::{SessionKey, SessionTotals, last_of_each};

    fn queues(users: usize) -> Queues {
        Queues::new(Clock::start(), &Bounds { users, ..Bounds::default() })
    }

    fn user(id: u32, uploaded: u64) -> Record {
        Record::User(UserRow { id, uploaded, raw_up: 1, ..UserRow::default() })
    }

    #[test]
    fn records_of_one_row_wait_as_one_and_come_out_sorted() {
        let queues = queues(10);
        for record in [user(7, 11), user(3, 5), user(7, 13), user(3, u64::MAX)] {
            queues.put(record);
        }
        let taken = queues.take_rows(Channel::Users, |_| ());
        let row = |id, uploaded| Record::User(UserRow { id, uploaded, raw_up: 2, ..UserRow::default() });
        assert_eq!(taken.records, [row(3, u64::MAX), row(7, 24)]);
        assert_eq!(queues.rows(Channel::Users), 0);
    }

    #[test]
    fn what_is_put_back_stays_under_what_has_come_since() {
        let queues = queues(10);
        let transfer = |raw_up, start_time, last_announce| {
            Record::Transfer(TransferRow { raw_up, start_time, last_announce, ..TransferRow::default() })
        };
        queues.put(transfer(7, 100, 200));
        let taken = queues.take_rows(Channel::TransferHistory, |_| ());
        queues.put(transfer(11, 300, 400));
        queues.put(Record::Purge { before: 50 });
        queues.put_back(Channel::TransferHistory, taken);
        let records = queues.take_rows(Channel::TransferHistory, |_| ()).records;
        assert_eq!(records, [transfer(18, 100, 400), Record::Purge { before: 50 }]);
    }

    #[test]
    fn a_queue_says_once_that_it_is_full_and_takes_more_all_the_same() {
        let queues = queues(3);
        let full: Vec<bool> =
            [1, 2, 2, 3, 3, 4].map(|id| queues.add_record(&mut queues.state.lock(), &user(id, 1))).into();
        assert_eq!(full, [false, false, false, true, false, false]);
        assert!(queues.is_full(Channel::Users));
        assert_eq!(queues.rows(Channel::Users), 4);
    }

    #[test]
    fn a_cut_that_is_undone_stays_under_what_has_come_since() {
        let queues = Queues::accounting(Clock::start(), &Bounds { users: 4, ..Bounds::default() });
        let total = |user, uploaded| {
            let key = SessionKey { torrent: 3, user, peer_id: PeerId::default() };
            Some((key, SessionTotals { uploaded, ..SessionTotals::default() }))
        };
        queues.put_all(&[Some(user(7, 11)), Some(Record::Purge { before: 50 })], total(7, 11));
        assert!(!queues.is_cut_due());
        let cut = queues.take_cut(|_, _| ());
        assert!(queues.take_cut(|_, _| ()).is_empty());
        queues.put_all(&[Some(user(7, 2)), None], total(7, 13));
        queues.put_back_cut(cut);
        queues.put_all(&[Some(user(8, 5))], total(8, 5));
        assert!(queues.is_cut_due(), "half full");
        let Cut { rows, totals } = queues.take_cut(|_, _| ());
        let row = |id, uploaded, raw_up| Record::User(UserRow { id, uploaded, raw_up, ..UserRow::default() });
        assert_eq!(rows[Channel::Users as usize].records, [row(7, 13, 2), row(8, 5, 1)]);
        assert_eq!(rows[Channel::TransferHistory as usize].records, [Record::Purge { before: 50 }]);
        assert_eq!(totals, [total(7, 11), total(7, 13), total(8, 5)].map(Option::unwrap));
    }

    #[test]
    fn totals_that_nobody_takes_are_bounded_by_their_sessions() {
        let queues = Queues::accounting(Clock::start(), &Bounds::default());
        let totals_of = |user, uploaded| {
            let key = SessionKey { torrent: 3, user, peer_id: PeerId::default() };
            (key, SessionTotals { uploaded, ..SessionTotals::default() })
        };
        for uploaded in 0..300_000 {
            queues.put_all(&[], Some(totals_of(u32::try_from(uploaded % 7).unwrap(), uploaded)));
        }
        let totals = queues.take_cut(|_, _| ()).totals;
        assert!(totals.len() < 70_000, "{}", totals.len());
        let last = last_of_each(&totals);
        assert_eq!(last.len(), 7);
        assert!(
            (0..7).all(|user| last.contains(&totals_of(user, 299_999 - (299_999 - u64::from(user)) % 7)))
        );
    }

    #[test]
    fn an_unprune_is_pending_until_the_last_row_that_says_so_is_written() {
        let queues = queues(10);
        let torrent = |id, unprune| Record::Torrent(TorrentRow { id, unprune, ..TorrentRow::default() });
        let pending = || {
            let mut ids = queues.unprunes();
            ids.sort_unstable();
            ids
        };
        for row in [torrent(3, true), torrent(5, false), torrent(7, true)] {
            queues.put(row);
        }
        assert_eq!(pending(), [3, 7]);
        queues.take_rows(Channel::Torrents, |_| ());
        // While the first batch is under way, one torrent is pruned and live once more; the other merely
        // announced.
        for row in [torrent(3, true), torrent(7, false)] {
            queues.put(row);
        }
        queues.acknowledge_unprunes(&[3, 7]);
        assert_eq!(pending(), [3]);
        queues.take_rows(Channel::Torrents, |_| ());
        queues.acknowledge_unprunes(&[3]);
        assert_eq!(pending(), [0; 0]);
    }

    #[test]
    fn a_reading_knows_what_came_back_to_life_since_it_began() {
        let queues = queues(10);
        let unprune = |id| {
            queues.put(Record::Torrent(TorrentRow { id, unprune: true, ..TorrentRow::default() }));
        };
        let known = |reading: &SiteReading<'_>| [3, 5, 7].map(|id| reading.is_unpruned(id));
        unprune(3);
        let reading = queues.begin_reading();
        unprune(5);
        queues.take_rows(Channel::Torrents, |_| ());
        queues.acknowledge_unprunes(&[3, 5]);
        assert_eq!(known(&reading), [true, true, false], "the rows may have been read before");
        unprune(7);
        assert_eq!(known(&reading), [true; 3]);
        drop(reading);
        queues.take_rows(Channel::Torrents, |_| ());
        queues.acknowledge_unprunes(&[7]);
        assert_eq!(known(&queues.begin_reading()), [false; 3], "whatever is read now knows of them");
    }

    #[test]
    fn the_first_snatch_stays() {
        let snatch = |time| Record::Snatch(SnatchRow { uid: 1, fid: 1, time, start_time: 5 });
        assert_eq!(merged(vec![snatch(7), snatch(7 + 1337)]), [snatch(7)]);
    }
}
