//! Where records wait for the writer. Putting one there takes a short lock and never waits for anything else.
//!
//! A row waits once: later records of it are merged. A queue that holds as many rows as its bound has them
//! moved to the disk by the guard; only where the disk does not take them does it grow, and never beyond the
//! number of rows there are.

use std::collections::HashSet;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::Thread;
use std::time::Duration;

use hashbrown::DefaultHashBuilder;
use indexmap::IndexMap;
use parking_lot::Mutex;

use super::record::{Channel, CompletedRow, Key, Record};
use crate::clock::Clock;
use crate::ids::InfoHash;

/// Bounds of the queues, in rows (`channels.*`).
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Of [`Channel::Torrents`].
    pub torrents: usize,
    /// Of [`Channel::Users`].
    pub users: usize,
    /// Of [`Channel::TransferHistory`].
    pub transfer_history: usize,
    /// Of [`Channel::TransferIps`].
    pub transfer_ips: usize,
    /// Of [`Channel::Snatches`].
    pub snatches: usize,
    /// Of [`Channel::Completed`].
    pub completed: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            torrents: 5000,
            users: 5000,
            transfer_history: 5000,
            transfer_ips: 5000,
            snatches: 25,
            completed: 5000,
        }
    }
}

impl Bounds {
    pub(super) fn of(&self, channel: Channel) -> usize {
        match channel {
            Channel::Torrents => self.torrents,
            Channel::Users => self.users,
            Channel::TransferHistory => self.transfer_history,
            Channel::TransferIps => self.transfer_ips,
            Channel::Snatches => self.snatches,
            Channel::Completed => self.completed,
        }
    }
}

/// All queues.
#[derive(Debug)]
pub struct Queues {
    clock: Clock,
    queues: [Queue; Channel::ALL.len()],
    unprunes: Mutex<Unprunes>,
    /// Who is woken when a queue is full.
    guard: OnceLock<Thread>,
}

/// Ids of torrents that are live again here.
#[derive(Debug, Default)]
struct Unprunes {
    /// The store has not heard of them.
    pending: HashSet<u32>,
    /// It has since the reading that goes on began: what is read may be older.
    heard: Option<HashSet<u32>>,
}

/// A reading of the store, from before its first row is asked for until the last one counts. One at a time.
#[derive(Debug)]
pub struct Reading<'q>(&'q Queues);

impl Reading<'_> {
    /// Has this torrent come back to life in a way that what is read need not know of?
    #[must_use]
    pub fn is_unpruned(&self, id: u32) -> bool {
        let unprunes = self.0.unprunes.lock();
        unprunes.pending.contains(&id) || unprunes.heard.as_ref().is_some_and(|heard| heard.contains(&id))
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.unprunes.lock().heard = None;
    }
}

/// The rows of one channel that wait in memory.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) bound: usize,
    front: Mutex<Front>,
    /// When the oldest row that is not written came, in milliseconds of uptime; [`NEVER`] if all is written.
    oldest_millis: AtomicU64,
}

const NEVER: u64 = u64::MAX;

#[derive(Debug, Default)]
struct Front {
    /// In the order in which they came: a new row is written behind the last, not to some place that has to
    /// be fetched from memory first.
    rows: IndexMap<Key, Record, DefaultHashBuilder>,
    /// When the oldest of them came.
    since_millis: u64,
}

/// Rows that were taken out, sorted by key.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) records: Vec<Record>,
    since_millis: u64,
}

impl Queues {
    /// Empty queues.
    #[must_use]
    pub fn new(clock: Clock, bounds: &Bounds) -> Self {
        let queues = Channel::ALL.map(|channel| Queue {
            bound: bounds.of(channel),
            front: Mutex::default(),
            oldest_millis: AtomicU64::new(NEVER),
        });
        Self { clock, queues, unprunes: Mutex::default(), guard: OnceLock::new() }
    }

    /// Takes a record.
    pub fn put(&self, record: Record) {
        // Locked until the row is in its queue: else it could be taken for one that the store has heard of.
        let _unprunes = record.unpruned().map(|id| {
            let mut unprunes = self.unprunes.lock();
            unprunes.pending.insert(id);
            unprunes
        });
        let queue = self.queue(record.channel());
        if queue.put(record, || self.millis())
            && let Some(guard) = self.guard.get()
        {
            guard.unpark();
        }
    }

    /// Takes one finished download (mode open and listed).
    pub fn completed(&self, info_hash: InfoHash) {
        let last_completed = i64::try_from(self.clock.now().unix_seconds).unwrap_or(i64::MAX);
        self.put(Record::Completed(CompletedRow { info_hash, completed: 1, last_completed }));
    }

    /// Torrents that are live again here, but of which the store may not have heard yet (mode private).
    #[must_use]
    pub fn unprunes(&self) -> Vec<u32> {
        self.unprunes.lock().pending.iter().copied().collect()
    }

    /// Torrents are about to be read from the store.
    pub fn begin_reading(&self) -> Reading<'_> {
        self.unprunes.lock().heard = Some(HashSet::new());
        Reading(self)
    }

    /// The store has heard that these torrents are live again.
    pub(crate) fn unpruned(&self, ids: &[u32]) {
        let mut unprunes = self.unprunes.lock();
        let front = self.queue(Channel::Torrents).front.lock();
        // One that was pruned and is live once more has another row, which the store has not heard of.
        let waits = |id| {
            let row = front.rows.get(&Key::Id(id));
            matches!(row, Some(Record::Torrent(row)) if row.unprune)
        };
        for id in ids.iter().filter(|&&id| !waits(id)) {
            unprunes.pending.remove(id);
            if let Some(heard) = &mut unprunes.heard {
                heard.insert(*id);
            }
        }
    }

    /// Rows that wait in memory.
    #[must_use]
    pub fn rows(&self, channel: Channel) -> usize {
        self.queue(channel).len()
    }

    /// As if somebody had taken all rows and written them.
    #[cfg(test)]
    pub(crate) fn forget_rows(&self, channel: Channel) {
        drop(self.queue(channel).take());
    }

    /// Age of the oldest row that is not written.
    #[must_use]
    pub fn lag(&self, channel: Channel) -> Duration {
        match self.queue(channel).oldest_millis.load(Ordering::Relaxed) {
            NEVER => Duration::ZERO,
            since => Duration::from_millis(self.millis().saturating_sub(since)),
        }
    }

    pub(super) fn queue(&self, channel: Channel) -> &Queue {
        #[expect(clippy::indexing_slicing, reason = "one queue for each channel, in their order")]
        &self.queues[channel as usize]
    }

    pub(super) fn wakes(&self, guard: Thread) {
        // It is set once, by the only guard.
        let _ = self.guard.set(guard);
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.clock.uptime().as_millis()).unwrap_or(NEVER - 1)
    }
}

impl Queue {
    /// Takes a record; true if the queue has become full by it.
    fn put(&self, record: Record, millis: impl FnOnce() -> u64) -> bool {
        let mut front = self.front.lock();
        if front.rows.is_empty() {
            front.since_millis = millis();
            let since = front.since_millis;
            self.oldest_millis.fetch_min(since, Ordering::Relaxed);
        }
        let before = front.rows.len();
        front.rows.entry(record.key()).and_modify(|waiting| waiting.merge(&record)).or_insert(record);
        front.rows.len() > before && front.rows.len() == self.bound
    }

    pub(super) fn len(&self) -> usize {
        self.front.lock().rows.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() >= self.bound
    }

    /// Takes all rows out. Whoever does so sees to it that they are written or put back.
    pub(super) fn take(&self) -> Taken {
        let (rows, since_millis) = {
            let mut front = self.front.lock();
            // As many will come until the next time, about.
            let room = IndexMap::with_capacity_and_hasher(front.rows.len(), DefaultHashBuilder::default());
            (std::mem::replace(&mut front.rows, room), front.since_millis)
        };
        let mut records: Vec<Record> = rows.into_values().collect();
        records.sort_unstable_by_key(Record::key);
        Taken { records, since_millis }
    }

    /// Puts back what was taken and could not be kept anywhere: under what has come since.
    pub(super) fn put_back(&self, taken: Taken) {
        let mut front = self.front.lock();
        front.since_millis = taken.since_millis;
        for older in taken.records {
            front
                .rows
                .entry(older.key())
                .and_modify(|newer| {
                    let later = std::mem::replace(newer, older);
                    newer.merge(&later);
                })
                .or_insert(older);
        }
    }

    /// All that came before now is written, or nothing waits elsewhere: the oldest row is in memory, if any.
    pub(super) fn caught_up(&self) {
        let front = self.front.lock();
        let oldest = if front.rows.is_empty() { NEVER } else { front.since_millis };
        self.oldest_millis.store(oldest, Ordering::Relaxed);
    }

    /// Something is left from an earlier process.
    pub(super) fn starts_behind(&self) {
        self.oldest_millis.store(0, Ordering::Relaxed);
    }
}

/// Merges records of the same row, in their order; sorted by key.
pub(super) fn merged(records: Vec<Record>) -> Vec<Record> {
    let mut rows: IndexMap<Key, Record, DefaultHashBuilder> = IndexMap::default();
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
    use crate::store::record::{SnatchRow, TorrentRow, TransferRow, UserRow};

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
        let taken = queues.queue(Channel::Users).take();
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
        let taken = queues.queue(Channel::TransferHistory).take();
        queues.put(transfer(11, 300, 400));
        queues.put(Record::Purge { before: 50 });
        queues.queue(Channel::TransferHistory).put_back(taken);
        let records = queues.queue(Channel::TransferHistory).take().records;
        assert_eq!(records, [transfer(18, 100, 400), Record::Purge { before: 50 }]);
    }

    #[test]
    fn a_queue_says_once_that_it_is_full_and_takes_more_all_the_same() {
        let queue = &queues(3).queues[Channel::Users as usize];
        let full: Vec<bool> = [1, 2, 2, 3, 3, 4].map(|id| queue.put(user(id, 1), || 0)).into();
        assert_eq!(full, [false, false, false, true, false, false]);
        assert!(queue.is_full());
        assert_eq!(queue.len(), 4);
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
        queues.queue(Channel::Torrents).take();
        // While the first is under way one of them is pruned and live once more; the other merely announced.
        for row in [torrent(3, true), torrent(7, false)] {
            queues.put(row);
        }
        queues.unpruned(&[3, 7]);
        assert_eq!(pending(), [3]);
        queues.queue(Channel::Torrents).take();
        queues.unpruned(&[3]);
        assert_eq!(pending(), [0; 0]);
    }

    #[test]
    fn a_reading_knows_what_came_back_to_life_since_it_began() {
        let queues = queues(10);
        let unprune = |id| {
            queues.put(Record::Torrent(TorrentRow { id, unprune: true, ..TorrentRow::default() }));
        };
        let known = |reading: &Reading<'_>| [3, 5, 7].map(|id| reading.is_unpruned(id));
        unprune(3);
        let reading = queues.begin_reading();
        unprune(5);
        queues.queue(Channel::Torrents).take();
        queues.unpruned(&[3, 5]);
        assert_eq!(known(&reading), [true, true, false], "the rows may have been read before");
        unprune(7);
        assert_eq!(known(&reading), [true; 3]);
        drop(reading);
        queues.queue(Channel::Torrents).take();
        queues.unpruned(&[7]);
        assert_eq!(known(&queues.begin_reading()), [false; 3], "whatever is read now knows of them");
    }

    #[test]
    fn the_first_snatch_stays() {
        let snatch = |time| Record::Snatch(SnatchRow { uid: 1, fid: 1, time, start_time: 5 });
        assert_eq!(merged(vec![snatch(7), snatch(7 + 1337)]), [snatch(7)]);
    }
}
