//! The writer: one thread that writes records to the store, in batches, one channel after the other, each at
//! its own pace; and what it does when the store is unreachable or a row is bad.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::dead_letter::{BadRecord, DeadLetters};
use super::in_flight::{InFlight, WriteJob};
use super::metrics::add;
use super::purge::Purge;
use super::record::{Channel, Record};
use super::{Batch, Store, StoreError};
use crate::clock::Clock;
use crate::published::Subscriber;

/// Pause after a pass that found nothing, and before the first attempt to reach a lost store.
const IDLE_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause between two attempts to reach the store.
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// How often the writer checks that the file of the store is still there.
const FILE_CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Time between two progress messages during a long stop.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);
/// Rounds in which bad rows are taken out of one batch. Each takes out at least one.
const ROUNDS_MAX: usize = 1000;

/// Opens the store, at the start and again after it was lost.
pub type OpenStore = Box<dyn Fn() -> Result<Box<dyn Store>, StoreError> + Send>;

/// Settings that a reload may change.
#[derive(Clone, Copy, Debug)]
pub struct WriterSettings {
    /// Pause after a pass that found less than half of what a queue holds (`intervals.flush`).
    pub flush: Duration,
    /// Longest pause after a deadlock (`database.deadlock_pause`).
    pub deadlock_pause: Duration,
    /// Tries before a batch is put off (`database.deadlock_retries`); at least 1.
    pub deadlock_retries: u32,
    /// Whether each batch is logged (`log_flushes`).
    pub log_flushes: bool,
    /// Totals of sessions that were silent for longer are forgotten (`intervals.peer_inactivity`).
    pub peer_inactivity: Duration,
}

impl Default for WriterSettings {
    fn default() -> Self {
        Self {
            flush: Duration::from_secs(3),
            deadlock_pause: Duration::from_secs(1),
            deadlock_retries: 5,
            log_flushes: false,
            peer_inactivity: Duration::from_secs(70 * 60),
        }
    }
}

/// The writer: its connection to the store and its position in each channel.
pub(super) struct Writer {
    in_flight: Arc<InFlight>,
    clock: Clock,
    settings: Subscriber<WriterSettings>,
    dead_letters: DeadLetters,
    opener: OpenStore,
    store: Option<Box<dyn Store>>,
    /// By channel: the number of the last record that the store has.
    acknowledged: [u64; Channel::ALL.len()],
    has_journal: bool,
    /// Set when the store is lost, until it has kept a row again: a store that can be reached may still take
    /// nothing.
    outage: Option<Outage>,
    purge: Purge,
}

#[derive(Clone, Copy)]
struct Outage {
    since: Duration,
    next_try: Duration,
    backoff: Duration,
}

/// The result of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PassResult {
    /// The number of rows that were kept.
    Kept(usize),
    /// The store or the disk failed.
    Failed,
}

impl Writer {
    /// Opens the store for the first time.
    ///
    /// # Errors
    /// Fails when it cannot be reached or is unfit.
    pub(super) fn open(
        in_flight: Arc<InFlight>,
        clock: Clock,
        settings: Subscriber<WriterSettings>,
        dead_letters: DeadLetters,
        opener: OpenStore,
    ) -> Result<Self, StoreError> {
        let mut writer = Self {
            in_flight,
            clock,
            settings,
            dead_letters,
            opener,
            store: None,
            acknowledged: [0; Channel::ALL.len()],
            has_journal: true,
            outage: None,
            purge: Purge::default(),
        };
        writer.connect()?;
        writer.in_flight.metrics.up.store(true, Ordering::Relaxed);
        Ok(writer)
    }

    /// The store, for reads before anything is served.
    pub(super) fn store(&mut self) -> Option<&mut Box<dyn Store>> {
        self.store.as_mut()
    }

    /// Writes the rows on the disk and in memory, without pauses, until `give_up` is set; returns whether all
    /// were written.
    pub(super) fn drain_all(&mut self, give_up: &AtomicBool) -> bool {
        let (total, mut logged_at) = (self.rows_waiting(), self.clock.uptime());
        if self.store.is_none() && self.connect().is_err() {
            return false;
        }
        for channel in Channel::ALL {
            loop {
                if give_up.load(Ordering::Acquire) {
                    return false;
                }
                match self.run_pass(channel) {
                    PassResult::Kept(0) => break,
                    PassResult::Kept(_) => {}
                    PassResult::Failed => return false,
                }
                let now = self.clock.uptime();
                if now.saturating_sub(logged_at) >= PROGRESS_INTERVAL {
                    logged_at = now;
                    log::info!("writing to the database: {} of {total} rows are left", self.rows_waiting());
                }
            }
        }
        true
    }

    /// Writes until `stop` is set, and then the rest, until `give_up` is set.
    pub(super) fn run_loop(mut self, stop: &AtomicBool, give_up: &AtomicBool) {
        let mut due = [Duration::ZERO; Channel::ALL.len()];
        let mut look_due = Duration::ZERO;
        let mut cuts_seen = 0;
        while !stop.load(Ordering::Acquire) {
            self.settings.refresh();
            let cuts = self.in_flight.cuts_made();
            if std::mem::replace(&mut cuts_seen, cuts) != cuts {
                due.fill(Duration::ZERO);
            }
            if self.store.is_none() {
                self.reconnect_if_due();
            }
            let now = self.clock.uptime();
            if look_due <= now {
                look_due = now + FILE_CHECK_INTERVAL;
                self.check_file();
            }
            for (channel, due) in Channel::ALL.into_iter().zip(&mut due) {
                if self.store.is_some() && *due <= now && !stop.load(Ordering::Acquire) {
                    let pause = match self.run_pass(channel) {
                        PassResult::Kept(rows) => self.pause_after(channel, rows),
                        PassResult::Failed => IDLE_PAUSE,
                    };
                    *due = self.clock.uptime() + pause;
                }
            }
            if self.purge.next_due().is_some_and(|due| due <= self.clock.uptime()) {
                self.run_purge(Purge::run_slice);
            }
            let next = due.into_iter().chain(self.purge.next_due()).min();
            let next = next.filter(|_| self.store.is_some());
            let next = next.unwrap_or(self.clock.uptime() + IDLE_PAUSE);
            let rest = next.saturating_sub(self.clock.uptime());
            if !rest.is_zero() && !stop.load(Ordering::Acquire) {
                thread::park_timeout(rest.min(IDLE_PAUSE));
            }
        }
        if self.drain_all(give_up) {
            self.run_purge(Purge::finish);
        } else if !give_up.load(Ordering::Acquire) {
            log::warn!("the database did not take everything; {} rows go to the disk", self.rows_waiting());
        }
    }

    /// Logs when the file of the store was deleted or replaced, and when it is there again.
    fn check_file(&self) {
        let is_lost = self.store.as_ref().is_some_and(|store| store.has_lost_its_file());
        match (self.in_flight.metrics.file_lost.swap(is_lost, Ordering::Relaxed), is_lost) {
            (false, true) => log::error!(
                "the file of the database was deleted or replaced while it is in use: what is written now \
                 will not be there after a restart; put the file back, or restart the tracker"
            ),
            (true, false) => log::info!("the file of the database is in its place again"),
            _ => {}
        }
    }

    fn rows_waiting(&self) -> u64 {
        Channel::ALL.iter().map(|&channel| self.in_flight.rows_waiting(channel)).sum()
    }

    /// Adaptive pauses (`rules/private-accounting.md#pauses`).
    fn pause_after(&self, channel: Channel, rows: usize) -> Duration {
        let half = self.in_flight.queues.rows_max(channel) / 2;
        let flush = self.settings.get().flush;
        match rows {
            // Cuts have their own interval, and wake the writer.
            0 if self.in_flight.writes_disk_first() => IDLE_PAUSE,
            _ if self.in_flight.writes_disk_first() => Duration::ZERO,
            _ if rows >= half.max(1) => Duration::ZERO,
            0 if channel != Channel::TransferHistory => IDLE_PAUSE,
            _ => flush,
        }
    }

    /// Does a part of the current purge.
    fn run_purge(&mut self, work: fn(&mut Purge, &mut dyn Store, &Clock) -> Result<(), StoreError>) {
        let Some(store) = &mut self.store else { return };
        if let Err(error) = work(&mut self.purge, &mut **store, &self.clock) {
            self.lose_store(Channel::TransferHistory, &error);
        }
    }

    /// Writes the next batch of a channel.
    fn run_pass(&mut self, channel: Channel) -> PassResult {
        #[expect(clippy::indexing_slicing, reason = "one for each channel, in their order")]
        let acknowledged = self.acknowledged[channel as usize];
        let mut job = match self.in_flight.next_batch(channel, acknowledged) {
            Ok(None) => return PassResult::Kept(0),
            Ok(Some(job)) => job,
            Err(error) => {
                // The disk, not the store: nothing is lost, but writing does not continue before the file can
                // be read.
                log::error!("spill of {}: {error}", channel.name());
                return PassResult::Failed;
            }
        };
        // Before it is written: a row that goes to the dead letters is not in the batch any more.
        let unpruned: Vec<u32> = job.batch.records.iter().filter_map(Record::unpruned_torrent).collect();
        let purges = job.batch.records.iter().filter_map(Record::purge_before).max();
        let (begin, found) = (self.clock.uptime(), job.batch.records.len());
        match self.write_job(&mut job, acknowledged) {
            Ok(()) => {
                if !unpruned.is_empty() {
                    self.in_flight.queues.acknowledge_unprunes(&unpruned);
                }
                let rows = job.batch.records.len();
                #[expect(clippy::indexing_slicing, reason = "one for each channel, in their order")]
                let acknowledged = &mut self.acknowledged[channel as usize];
                *acknowledged = job.batch.sequence;
                let passes = &self.in_flight.metrics.channel(channel).passes;
                passes.duration.record(self.clock.uptime().saturating_sub(begin));
                passes.rows.record_value(found as u64);
                self.in_flight.mark_kept(&job);
                purges.into_iter().for_each(|before| self.purge.request_purge(before));
                add(&self.in_flight.metrics.channel(channel).rows_written, rows as u64);
                if self.settings.get().log_flushes {
                    log::info!("flushed {}: {rows} rows", channel.name());
                }
                self.note_recovery();
                PassResult::Kept(rows)
            }
            Err(error) => {
                self.lose_store(channel, &error);
                PassResult::Failed
            }
        }
    }

    /// Writes a batch to the store; its bad rows go to the dead letters.
    fn write_job(&mut self, job: &mut WriteJob, acknowledged: u64) -> Result<(), StoreError> {
        if self.has_journal {
            return self.write_rounds(job);
        }
        // Before the commit: if it is not answered, it counts as done, because twice would be worse than
        // never.
        let (channel, sequence) = (job.batch.channel, job.batch.sequence);
        self.in_flight.mark_done(channel, sequence).map_err(|error| lost_error(&error))?;
        match self.write_rounds(job) {
            Err(StoreError::Lost { in_doubt: true, text }) => {
                log::warn!("a commit of {} was not answered and counts as done: {text}", channel.name());
                Ok(())
            }
            Err(error) => {
                self.in_flight.mark_done(channel, acknowledged).map_err(|error| lost_error(&error))?;
                Err(error)
            }
            Ok(()) => Ok(()),
        }
    }

    fn write_rounds(&mut self, job: &mut WriteJob) -> Result<(), StoreError> {
        for _ in 0..ROUNDS_MAX {
            if job.batch.records.is_empty() {
                return Ok(());
            }
            match self.save_batch(&job.batch) {
                Ok(()) => return Ok(()),
                Err(StoreError::BadRow { code, text }) => self.set_bad_rows_aside(job, code, text)?,
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Unfit("a batch has bad rows that cannot be found".into()))
    }

    /// Saves a batch, again after a deadlock.
    fn save_batch(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let WriterSettings { deadlock_pause, deadlock_retries, .. } = *self.settings.get();
        let Some(store) = &mut self.store else { return Err(lost_error(&"not connected")) };
        let metrics = &self.in_flight.metrics;
        let mut attempt = 1;
        loop {
            match store.save(batch) {
                Err(StoreError::Deadlock(text)) => {
                    if attempt == 1 {
                        add(&metrics.deadlocks, 1);
                    }
                    if attempt >= deadlock_retries {
                        add(&metrics.deadlocks_aborted, 1);
                        return Err(StoreError::Deadlock(text));
                    }
                    let pause = deadlock_pause * attempt / deadlock_retries;
                    add(&metrics.deadlock_waits, u64::try_from(pause.as_millis()).unwrap_or(0));
                    thread::sleep(pause);
                    attempt += 1;
                }
                Ok(saved) => {
                    add(&metrics.channel(batch.channel).without_target, saved.without_target);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Finds the bad rows of a batch, writes them to the dead letters and takes them out.
    fn set_bad_rows_aside(&mut self, job: &mut WriteJob, code: i32, text: String) -> Result<(), StoreError> {
        let channel = job.batch.channel;
        let mut bad = Vec::new();
        self.find_bad(&job.batch, &mut bad)?;
        if bad.is_empty() {
            // The rows are bad only together: the first one is taken out, and the rest is tried again.
            bad.extend(job.batch.records.first().map(|&record| BadRecord { record, code, text }));
        }
        let now = self.clock.now().unix_seconds;
        let written = self.dead_letters.append(channel, job.batch.sequence, now, &bad);
        let (written, rows) = (written.map_err(|error| lost_error(&error))?, bad.len() as u64);
        let metrics = self.in_flight.metrics.channel(channel);
        add(if written { &metrics.dead_letters } else { &metrics.dead_letters_dropped }, rows);
        if let Some(line) = self.dead_letters.log_line(self.clock.uptime(), rows, written) {
            log::error!("{}: {line}", channel.name());
        }
        let is_good =
            |record: &&Record| !bad.iter().any(|bad_record| bad_record.record.key() == record.key());
        let records = job.batch.records.iter().filter(is_good).copied().collect();
        self.in_flight.replace_records(job, records);
        Ok(())
    }

    /// Halves a batch until the bad rows are isolated.
    fn find_bad(&mut self, batch: &Batch, bad: &mut Vec<BadRecord>) -> Result<(), StoreError> {
        let Some(store) = &mut self.store else { return Err(lost_error(&"not connected")) };
        match store.rehearse(batch) {
            Ok(()) => return Ok(()),
            Err(StoreError::BadRow { code, text }) => {
                if let [record] = *batch.records {
                    bad.push(BadRecord { record, code, text });
                    return Ok(());
                }
            }
            Err(error) => return Err(error),
        }
        let (left, right) = batch.records.split_at(batch.records.len() / 2);
        for half in [left, right] {
            self.find_bad(&Batch { records: half.to_vec(), ..*batch }, bad)?;
        }
        Ok(())
    }

    /// Notes that the store is lost. The batch under way goes to the disk.
    fn lose_store(&mut self, channel: Channel, error: &StoreError) {
        if !matches!(error, StoreError::Deadlock(_)) {
            add(&self.in_flight.metrics.errors, 1);
        }
        self.in_flight.metrics.up.store(false, Ordering::Relaxed);
        self.in_flight.store_lost.store(true, Ordering::Relaxed);
        self.store = None;
        self.in_flight.spill_held(channel);
        if self.outage.is_some() {
            return self.extend_backoff(error);
        }
        let now = self.clock.uptime();
        self.outage = Some(Outage { since: now, next_try: now + IDLE_PAUSE, backoff: IDLE_PAUSE });
        log::error!("database lost while writing {}: {error}; rows go to the disk", channel.name());
    }

    fn reconnect_if_due(&mut self) {
        if self.outage.is_some_and(|outage| self.clock.uptime() < outage.next_try) {
            return;
        }
        if let Err(error) = self.connect() {
            self.extend_backoff(&error);
        }
    }

    /// Notes another failed attempt: the pause before the next one is longer.
    fn extend_backoff(&mut self, error: &StoreError) {
        log::debug!("database still unreachable: {error}");
        let now = self.clock.uptime();
        if let Some(outage) = &mut self.outage {
            outage.backoff = (outage.backoff * 2).min(BACKOFF_MAX);
            outage.next_try = now + outage.backoff;
        }
    }

    /// Notes that the store has kept a row: if it was lost, it is back.
    fn note_recovery(&mut self) {
        let Some(outage) = self.outage.take() else { return };
        let away = self.clock.uptime().saturating_sub(outage.since).as_secs();
        self.in_flight.metrics.up.store(true, Ordering::Relaxed);
        self.in_flight.store_lost.store(false, Ordering::Relaxed);
        log::info!("database back after {away} s, {} rows to write", self.rows_waiting());
    }

    /// Opens the store and reads which records it has.
    fn connect(&mut self) -> Result<(), StoreError> {
        let mut store = (self.opener)()?;
        for (channel, acknowledged) in Channel::ALL.into_iter().zip(&mut self.acknowledged) {
            let known = store.acknowledged(channel)?;
            self.has_journal = known.is_some();
            *acknowledged = known.unwrap_or_else(|| self.in_flight.done_sequence(channel));
            self.in_flight.number_above(channel, *acknowledged);
        }
        self.store = Some(store);
        Ok(())
    }
}

fn lost_error(text: &dyn std::fmt::Display) -> StoreError {
    StoreError::Lost { text: text.to_string(), in_doubt: false }
}
