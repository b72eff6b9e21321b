//! The writer: one thread that brings records to the store, in batches, one channel after the other, each at
//! its own pace; and what it does when the store is away or a row is bad.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::dead_letter::{BadRecord, DeadLetters};
use super::in_flight::{Job, Lanes};
use super::metrics::add;
use super::purge::Purge;
use super::record::{Channel, Record};
use super::{Batch, Store, StoreError};
use crate::clock::Clock;
use crate::published::Subscriber;

/// Pause after a pass that found nothing, and before the first try to reach a store that was lost.
const IDLE: Duration = Duration::from_secs(1);
/// Longest pause between two tries to reach the store.
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// How often it is looked whether the file of the store is still there.
const FILE_LOOK: Duration = Duration::from_secs(5);
/// Time between two lines about how far a long stop is.
const PROGRESS: Duration = Duration::from_secs(10);
/// Rounds in which bad rows are taken out of one batch. Each takes out at least one.
const ROUNDS_MAX: usize = 1000;

/// How the store is reached, at the start and again after it was lost.
pub type Opener = Box<dyn Fn() -> Result<Box<dyn Store>, StoreError> + Send>;

/// Knobs that a reload may change.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Pause after a pass that found less than half of what a queue holds (`intervals.flush`).
    pub flush: Duration,
    /// Longest pause after a deadlock (`database.deadlock_pause`).
    pub deadlock_pause: Duration,
    /// Tries before a batch is put off (`database.deadlock_retries`); at least 1.
    pub deadlock_retries: u32,
    /// One log line for each batch (`log_flushes`).
    pub log_flushes: bool,
    /// Totals of sessions that were silent for longer are forgotten (`intervals.peer_inactivity`).
    pub peer_inactivity: Duration,
}

impl Default for Pace {
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

/// The writer's side of the store.
pub(super) struct Writer {
    lanes: Arc<Lanes>,
    clock: Clock,
    pace: Subscriber<Pace>,
    letters: DeadLetters,
    opener: Opener,
    store: Option<Box<dyn Store>>,
    /// By channel: the number of the last record that the store has.
    acknowledged: [u64; Channel::ALL.len()],
    has_journal: bool,
    /// Since the store was lost, until it has kept a row again: one that can be reached may yet take nothing.
    outage: Option<Outage>,
    purge: Purge,
}

#[derive(Clone, Copy)]
struct Outage {
    since: Duration,
    next_try: Duration,
    backoff: Duration,
}

/// What became of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    /// So many rows were kept.
    Kept(usize),
    /// The store, or the disk, does not do what it must.
    Failed,
}

impl Writer {
    /// Reaches the store for the first time.
    ///
    /// # Errors
    /// When it cannot be reached or is unfit.
    pub(super) fn open(
        lanes: Arc<Lanes>,
        clock: Clock,
        pace: Subscriber<Pace>,
        letters: DeadLetters,
        opener: Opener,
    ) -> Result<Self, StoreError> {
        let mut writer = Self {
            lanes,
            clock,
            pace,
            letters,
            opener,
            store: None,
            acknowledged: [0; Channel::ALL.len()],
            has_journal: true,
            outage: None,
            purge: Purge::default(),
        };
        writer.connect()?;
        writer.lanes.gauges.up.store(true, Ordering::Relaxed);
        Ok(writer)
    }

    /// The store, for what has to be read before anything is served.
    pub(super) fn store(&mut self) -> Option<&mut Box<dyn Store>> {
        self.store.as_mut()
    }

    /// Writes what is on the disk or in memory, without pauses, until it is told to `give_up`; false if
    /// that did not succeed.
    pub(super) fn drain(&mut self, give_up: &AtomicBool) -> bool {
        let (total, mut told) = (self.waiting(), self.clock.uptime());
        if self.store.is_none() && self.connect().is_err() {
            return false;
        }
        for channel in Channel::ALL {
            loop {
                if give_up.load(Ordering::Acquire) {
                    return false;
                }
                match self.pass(channel) {
                    Pass::Kept(0) => break,
                    Pass::Kept(_) => {}
                    Pass::Failed => return false,
                }
                let now = self.clock.uptime();
                if now.saturating_sub(told) >= PROGRESS {
                    told = now;
                    log::info!("writing to the database: {} of {total} rows are left", self.waiting());
                }
            }
        }
        true
    }

    /// Writes until it is told to stop, and then what is left, until it is told to give up.
    pub(super) fn run(mut self, stop: &AtomicBool, give_up: &AtomicBool) {
        let mut due = [Duration::ZERO; Channel::ALL.len()];
        let mut look_due = Duration::ZERO;
        let mut cuts_seen = 0;
        while !stop.load(Ordering::Acquire) {
            self.pace.refresh();
            let cuts = self.lanes.cuts_made();
            if std::mem::replace(&mut cuts_seen, cuts) != cuts {
                due.fill(Duration::ZERO);
            }
            if self.store.is_none() {
                self.try_again();
            }
            let now = self.clock.uptime();
            if look_due <= now {
                look_due = now + FILE_LOOK;
                self.look_for_file();
            }
            for (channel, due) in Channel::ALL.into_iter().zip(&mut due) {
                if self.store.is_some() && *due <= now && !stop.load(Ordering::Acquire) {
                    let pause = match self.pass(channel) {
                        Pass::Kept(rows) => self.pause(channel, rows),
                        Pass::Failed => IDLE,
                    };
                    *due = self.clock.uptime() + pause;
                }
            }
            if self.purge.due().is_some_and(|due| due <= self.clock.uptime()) {
                self.purge(Purge::go_on);
            }
            let next = due.into_iter().chain(self.purge.due()).min();
            let next = next.filter(|_| self.store.is_some());
            let next = next.unwrap_or(self.clock.uptime() + IDLE);
            let rest = next.saturating_sub(self.clock.uptime());
            if !rest.is_zero() && !stop.load(Ordering::Acquire) {
                thread::park_timeout(rest.min(IDLE));
            }
        }
        if self.drain(give_up) {
            self.purge(Purge::finish);
        } else if !give_up.load(Ordering::Acquire) {
            log::warn!("the database did not take everything; {} rows go to the disk", self.waiting());
        }
    }

    /// Says when the file of the store was deleted or replaced, and when it is there again.
    fn look_for_file(&self) {
        let is_lost = self.store.as_ref().is_some_and(|store| store.has_lost_its_file());
        match (self.lanes.gauges.file_lost.swap(is_lost, Ordering::Relaxed), is_lost) {
            (false, true) => log::error!(
                "the file of the database was deleted or replaced while it is in use: what is written now \
                 will not be there after a restart; put the file back, or start the tracker anew"
            ),
            (true, false) => log::info!("the file of the database is where it belongs"),
            _ => {}
        }
    }

    fn waiting(&self) -> u64 {
        Channel::ALL.iter().map(|&channel| self.lanes.waiting(channel)).sum()
    }

    /// Adaptive pauses (`rules/private-accounting.md#pauses`).
    fn pause(&self, channel: Channel, rows: usize) -> Duration {
        let half = self.lanes.queues.bound(channel) / 2;
        let flush = self.pace.get().flush;
        match rows {
            // The cuts have their own pace, and wake the writer.
            0 if self.lanes.cuts_first() => IDLE,
            _ if self.lanes.cuts_first() => Duration::ZERO,
            _ if rows >= half.max(1) => Duration::ZERO,
            0 if channel != Channel::TransferHistory => IDLE,
            _ => flush,
        }
    }

    /// Does some of the purge that is under way.
    fn purge(&mut self, work: fn(&mut Purge, &mut dyn Store, &Clock) -> Result<(), StoreError>) {
        let Some(store) = &mut self.store else { return };
        if let Err(error) = work(&mut self.purge, &mut **store, &self.clock) {
            self.lose(Channel::TransferHistory, &error);
        }
    }

    /// Writes the next batch of a channel.
    fn pass(&mut self, channel: Channel) -> Pass {
        #[expect(clippy::indexing_slicing, reason = "one for each channel, in their order")]
        let acknowledged = self.acknowledged[channel as usize];
        let mut job = match self.lanes.next(channel, acknowledged) {
            Ok(None) => return Pass::Kept(0),
            Ok(Some(job)) => job,
            Err(error) => {
                // The disk, not the store: nothing is lost, but nothing goes on before it can be read.
                log::error!("spill of {}: {error}", channel.name());
                return Pass::Failed;
            }
        };
        // Before it is written: a row that goes to the dead letters is not in the batch any more.
        let unpruned: Vec<u32> = job.batch.records.iter().filter_map(Record::unpruned).collect();
        let purges = job.batch.records.iter().filter_map(Record::purges).max();
        let (begin, found) = (self.clock.uptime(), job.batch.records.len());
        match self.write(&mut job, acknowledged) {
            Ok(()) => {
                if !unpruned.is_empty() {
                    self.lanes.queues.unpruned(&unpruned);
                }
                let rows = job.batch.records.len();
                #[expect(clippy::indexing_slicing, reason = "one for each channel, in their order")]
                let acknowledged = &mut self.acknowledged[channel as usize];
                *acknowledged = job.batch.sequence;
                let passes = &self.lanes.gauges.of(channel).passes;
                passes.took.took(self.clock.uptime().saturating_sub(begin));
                passes.rows.add(found as u64);
                self.lanes.kept(&job);
                purges.into_iter().for_each(|before| self.purge.ask(before));
                add(&self.lanes.gauges.of(channel).rows_written, rows as u64);
                if self.pace.get().log_flushes {
                    log::info!("flushed {}: {rows} rows", channel.name());
                }
                self.recover();
                Pass::Kept(rows)
            }
            Err(error) => {
                self.lose(channel, &error);
                Pass::Failed
            }
        }
    }

    /// Has the store keep a batch; its bad rows go to the dead letters.
    fn write(&mut self, job: &mut Job, acknowledged: u64) -> Result<(), StoreError> {
        if self.has_journal {
            return self.write_rounds(job);
        }
        // Before the commit: if nobody hears of it, it counts as done, for twice would be worse than never.
        let (channel, sequence) = (job.batch.channel, job.batch.sequence);
        self.lanes.mark_done(channel, sequence).map_err(|error| lost(&error))?;
        match self.write_rounds(job) {
            Err(StoreError::Lost { in_doubt: true, text }) => {
                log::warn!("a commit of {} was not answered and counts as done: {text}", channel.name());
                Ok(())
            }
            Err(error) => {
                self.lanes.mark_done(channel, acknowledged).map_err(|error| lost(&error))?;
                Err(error)
            }
            Ok(()) => Ok(()),
        }
    }

    fn write_rounds(&mut self, job: &mut Job) -> Result<(), StoreError> {
        for _ in 0..ROUNDS_MAX {
            if job.batch.records.is_empty() {
                return Ok(());
            }
            match self.save(&job.batch) {
                Ok(()) => return Ok(()),
                Err(StoreError::BadRow { code, text }) => self.quarantine(job, code, text)?,
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Unfit("a batch has bad rows that cannot be found".into()))
    }

    /// Has the store keep a batch, again after a deadlock.
    fn save(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let Pace { deadlock_pause, deadlock_retries, .. } = *self.pace.get();
        let Some(store) = &mut self.store else { return Err(lost(&"not connected")) };
        let gauges = &self.lanes.gauges;
        let mut attempt = 1;
        loop {
            match store.save(batch) {
                Err(StoreError::Deadlock(text)) => {
                    if attempt == 1 {
                        add(&gauges.deadlocks, 1);
                    }
                    if attempt >= deadlock_retries {
                        add(&gauges.deadlocks_aborted, 1);
                        return Err(StoreError::Deadlock(text));
                    }
                    let pause = deadlock_pause * attempt / deadlock_retries;
                    add(&gauges.deadlock_waits, u64::try_from(pause.as_millis()).unwrap_or(0));
                    thread::sleep(pause);
                    attempt += 1;
                }
                Ok(saved) => {
                    add(&gauges.of(batch.channel).without_target, saved.without_target);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Finds the bad rows of a batch, writes them down and takes them out.
    fn quarantine(&mut self, job: &mut Job, code: i32, text: String) -> Result<(), StoreError> {
        let channel = job.batch.channel;
        let mut bad = Vec::new();
        self.find_bad(&job.batch, &mut bad)?;
        if bad.is_empty() {
            // Only together they are bad: the first one goes, and the rest is tried again.
            bad.extend(job.batch.records.first().map(|&record| BadRecord { record, code, text }));
        }
        let now = self.clock.now().unix_seconds;
        let written = self.letters.write(channel, job.batch.sequence, now, &bad);
        let (written, rows) = (written.map_err(|error| lost(&error))?, bad.len() as u64);
        let gauges = self.lanes.gauges.of(channel);
        add(if written { &gauges.dead_letters } else { &gauges.dead_letters_dropped }, rows);
        if let Some(line) = self.letters.report(self.clock.uptime(), rows, written) {
            log::error!("{}: {line}", channel.name());
        }
        let is_good = |record: &&Record| !bad.iter().any(|letter| letter.record.key() == record.key());
        let records = job.batch.records.iter().filter(is_good).copied().collect();
        self.lanes.reduce(job, records);
        Ok(())
    }

    /// Halves a batch until the bad rows stand alone.
    fn find_bad(&mut self, batch: &Batch, bad: &mut Vec<BadRecord>) -> Result<(), StoreError> {
        let Some(store) = &mut self.store else { return Err(lost(&"not connected")) };
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

    /// The store is away. What is under way goes to the disk.
    fn lose(&mut self, channel: Channel, error: &StoreError) {
        if !matches!(error, StoreError::Deadlock(_)) {
            add(&self.lanes.gauges.errors, 1);
        }
        self.lanes.gauges.up.store(false, Ordering::Relaxed);
        self.lanes.lost.store(true, Ordering::Relaxed);
        self.store = None;
        self.lanes.hold(channel);
        if self.outage.is_some() {
            return self.put_off(error);
        }
        let now = self.clock.uptime();
        self.outage = Some(Outage { since: now, next_try: now + IDLE, backoff: IDLE });
        log::error!("database lost while writing {}: {error}; rows go to the disk", channel.name());
    }

    fn try_again(&mut self) {
        if self.outage.is_some_and(|outage| self.clock.uptime() < outage.next_try) {
            return;
        }
        if let Err(error) = self.connect() {
            self.put_off(&error);
        }
    }

    /// The store is as it was: the next try comes later than the last one did.
    fn put_off(&mut self, error: &StoreError) {
        log::debug!("database still away: {error}");
        let now = self.clock.uptime();
        if let Some(outage) = &mut self.outage {
            outage.backoff = (outage.backoff * 2).min(BACKOFF_MAX);
            outage.next_try = now + outage.backoff;
        }
    }

    /// The store has kept a row: if it was lost, it is back.
    fn recover(&mut self) {
        let Some(outage) = self.outage.take() else { return };
        let away = self.clock.uptime().saturating_sub(outage.since).as_secs();
        self.lanes.gauges.up.store(true, Ordering::Relaxed);
        self.lanes.lost.store(false, Ordering::Relaxed);
        log::info!("database back after {away} s, {} rows to write", self.waiting());
    }

    /// Opens the store and asks what it has.
    fn connect(&mut self) -> Result<(), StoreError> {
        let mut store = (self.opener)()?;
        for (channel, acknowledged) in Channel::ALL.into_iter().zip(&mut self.acknowledged) {
            let known = store.acknowledged(channel)?;
            self.has_journal = known.is_some();
            *acknowledged = known.unwrap_or_else(|| self.lanes.done(channel));
            self.lanes.number_above(channel, *acknowledged);
        }
        self.store = Some(store);
        Ok(())
    }
}

fn lost(text: &dyn std::fmt::Display) -> StoreError {
    StoreError::Lost { text: text.to_string(), in_doubt: false }
}
