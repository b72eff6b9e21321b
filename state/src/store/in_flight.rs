//! What the writer and the spiller share: for each channel the batch under way to the store and the rows on
//! the disk, under one lock that is never held while the store is at work.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, MutexGuard};

use super::Batch;
use super::cuts::{self, Cuts};
use super::metrics::{StoreMetrics, add};
use super::queue::{Queues, merged};
use super::record::{Channel, Record};
use super::spill::{self, Spill};
use super::total::DurableTotals;

/// Records that are read from the disk for one batch, at most.
const CHUNK_MAX: usize = 10_000;

/// All channels on their way to the store.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) queues: Arc<Queues>,
    pub(super) metrics: Arc<StoreMetrics>,
    /// Whether the store is unreachable: new rows go to the disk at once.
    pub(super) store_lost: AtomicBool,
    channels: [Mutex<ChannelState>; Channel::ALL.len()],
    /// In mode private everything goes to the disk first, all channels together, and from there to the store.
    /// If both are locked, then after the state of a channel.
    cuts: Option<Mutex<Cuts>>,
    /// Whether the disk takes no cut; logged once.
    disk_fails: AtomicBool,
    /// Whether a record of a newer program was found.
    newer: AtomicBool,
}

#[derive(Debug)]
struct ChannelState {
    spill: Spill,
    /// The number of the next record that leaves memory.
    next_sequence: u64,
    /// A batch from memory that is under way, or that neither the store nor the disk has taken.
    held: Option<Arc<Batch>>,
    /// Whether the disk takes nothing; logged once.
    disk_fails: bool,
}

/// A batch for the store.
#[derive(Debug)]
pub(super) struct WriteJob {
    pub(super) batch: Arc<Batch>,
    source: BatchSource,
}

/// Where a batch came from.
#[derive(Debug)]
enum BatchSource {
    Memory,
    Spill(spill::SpillChunk),
    Cuts(cuts::CutChunk),
}

impl InFlight {
    /// Opens the files that an earlier process left on the disk.
    ///
    /// # Errors
    /// Fails when they cannot be read.
    pub(super) fn open(queues: Arc<Queues>, metrics: Arc<StoreMetrics>, folder: &Path) -> io::Result<Self> {
        let mut channels = Vec::new();
        for channel in Channel::ALL {
            let mut spill = Spill::open(folder, channel)?;
            add(&metrics.damaged, spill.take_damaged());
            let next_sequence = spill.last_sequence() + 1;
            channels.push(Mutex::new(ChannelState { spill, next_sequence, held: None, disk_fails: false }));
        }
        let channels = channels.try_into().map_err(|_| io::Error::other("a channel is missing"))?;
        let cuts = queues.is_accounting().then(|| Cuts::open(folder).map(Mutex::new)).transpose()?;
        let [lost, disk_fails, newer] = [(); 3].map(|()| AtomicBool::new(false));
        let all = Self { queues, metrics, store_lost: lost, channels, cuts, disk_fails, newer };
        for channel in Channel::ALL {
            let state = all.lock_channel(channel);
            all.update_metrics(channel, &state);
            if all.channel_rows_on_disk(channel, &state) > 0 {
                all.queues.mark_backlog(channel);
            }
        }
        Ok(all)
    }

    /// Numbers new records above what the store has.
    pub(super) fn number_above(&self, channel: Channel, acknowledged: u64) {
        let mut state = self.lock_channel(channel);
        state.next_sequence = state.next_sequence.max(acknowledged + 1);
        if let Some(cuts) = &self.cuts {
            let mut cuts = cuts.lock();
            cuts.acknowledge(channel, acknowledged);
            // An older program may have left records in the spill.
            cuts.number_above(channel, state.spill.last_sequence());
            drop(cuts);
            self.update_metrics(channel, &state);
            if self.channel_rows_on_disk(channel, &state) == 0 {
                self.queues.mark_caught_up(channel);
            }
        }
    }

    /// Returns the durable totals of sessions; none except in mode private.
    ///
    /// # Errors
    /// Fails when a file cannot be read.
    pub(super) fn durable_totals(&self) -> io::Result<DurableTotals> {
        self.cuts.as_ref().map_or_else(|| Ok(DurableTotals::default()), |cuts| cuts.lock().durable_totals())
    }

    /// Whether a file holds something only a newer program knows. For records this shows when they are read.
    pub(super) fn has_newer(&self) -> bool {
        self.newer.load(Ordering::Relaxed)
            || self.cuts.as_ref().is_some_and(|cuts| cuts.lock().newer_file().is_some())
    }

    /// Whether rows go to the disk before they go to the store.
    pub(super) fn writes_disk_first(&self) -> bool {
        self.cuts.is_some()
    }

    /// The number of cuts that this process has made.
    pub(super) fn cuts_made(&self) -> u64 {
        self.metrics.cuts.load(Ordering::Acquire)
    }

    /// In mode private: moves everything in memory to the disk, as a unit; it stays in memory if the disk
    /// does not take it. Another cut follows only once this one is on the disk.
    pub(super) fn cut(&self) {
        let Some(cuts) = &self.cuts else { return };
        let mut cuts = cuts.lock();
        let cut = self.queues.take_cut(|channel, rows| self.count_under_way(channel, rows));
        let written = if cut.is_empty() { Ok(()) } else { cuts.append(&cut) };
        match written {
            Ok(()) if cut.is_empty() => {}
            Ok(()) => {
                self.metrics.cuts.fetch_add(1, Ordering::Release);
                if self.disk_fails.swap(false, Ordering::Relaxed) {
                    log::info!("spill: the disk takes rows again");
                }
            }
            Err(error) => {
                for (channel, taken) in Channel::ALL.into_iter().zip(&cut.rows) {
                    let failures = u64::from(!taken.records.is_empty());
                    add(&self.metrics.channel(channel).spill_write_errors, failures);
                }
                self.queues.put_back_cut(cut);
                if !self.disk_fails.swap(true, Ordering::Relaxed) {
                    log::error!(
                        "spill: {error}; rows stay in memory, merged by key, and none goes to the database \
                         before the disk has it"
                    );
                }
            }
        }
        Channel::ALL.iter().for_each(|&channel| self.update_cut_metrics(channel, &mut cuts));
    }

    /// Writes to the disk which rows the store has, at the end of a process.
    pub(super) fn write_final_cut(&self) {
        let Some(cuts) = &self.cuts else { return };
        let mut cuts = cuts.lock();
        if cuts.has_news() {
            let cut = self.queues.take_cut(|channel, rows| self.count_under_way(channel, rows));
            if let Err(error) = cuts.append(&cut) {
                self.queues.put_back_cut(cut);
                log::warn!("the spill: {error}; the next start asks the database what it has");
            }
        }
    }

    /// Folds totals of cuts whose rows are in the store, if there are enough of them. Totals of sessions that
    /// were silent for longer than `inactivity` are forgotten.
    pub(super) fn fold(&self, inactivity: u32) {
        let Some(cuts) = &self.cuts else { return };
        let Some(fold) = cuts.lock().foldable() else { return };
        // Without the lock: a cut need not wait for it.
        match fold.run(inactivity) {
            Ok(base) => cuts.lock().set_base(base),
            Err(error) => log::warn!("the totals of sessions: {error}; they stay in the cuts"),
        }
    }

    /// The number up to which rows count as kept, for a store without a journal.
    pub(super) fn done_sequence(&self, channel: Channel) -> u64 {
        self.lock_channel(channel).spill.done_sequence()
    }

    /// Notes that all rows up to this number count as kept, for a store without a journal.
    ///
    /// # Errors
    /// Fails when the disk does not take it.
    pub(super) fn mark_done(&self, channel: Channel, sequence: u64) -> io::Result<()> {
        self.lock_channel(channel).spill.mark_done(sequence)
    }

    /// Returns the next batch to be written: the one held, or rows on the disk, or rows in memory.
    ///
    /// # Errors
    /// Fails when a file cannot be read.
    pub(super) fn next_batch(&self, channel: Channel, acknowledged: u64) -> io::Result<Option<WriteJob>> {
        self.find_batch(channel, acknowledged).inspect_err(|error| {
            self.newer.fetch_or(error.kind() == io::ErrorKind::Unsupported, Ordering::Relaxed);
        })
    }

    fn find_batch(&self, channel: Channel, acknowledged: u64) -> io::Result<Option<WriteJob>> {
        let mut state = self.lock_channel(channel);
        if let Some(batch) = &state.held {
            return Ok(Some(WriteJob { batch: Arc::clone(batch), source: BatchSource::Memory }));
        }
        let chunk = state.spill.next_chunk(CHUNK_MAX, acknowledged);
        add(&self.metrics.damaged, state.spill.take_damaged());
        let batch = |records, sequence| Arc::new(Batch { channel, records: merged(records), sequence });
        if let Some(mut chunk) = chunk? {
            let batch = batch(std::mem::take(&mut chunk.records), chunk.sequence);
            return Ok(Some(WriteJob { batch, source: BatchSource::Spill(chunk) }));
        }
        if let Some(cuts) = &self.cuts {
            let mut cuts = cuts.lock();
            let chunk = cuts.next_chunk(channel, CHUNK_MAX);
            self.update_cut_metrics(channel, &mut cuts);
            return Ok(chunk?.map(|mut chunk| {
                let batch = batch(std::mem::take(&mut chunk.records), chunk.sequence);
                WriteJob { batch, source: BatchSource::Cuts(chunk) }
            }));
        }
        let records = self.queues.take_rows(channel, |rows| self.count_under_way(channel, rows)).records;
        if !records.is_empty() {
            let sequence = state.take_numbers(records.len());
            state.held = Some(Arc::new(Batch { channel, sequence, records }));
        }
        self.update_metrics(channel, &state);
        Ok(state.held.clone().map(|batch| WriteJob { batch, source: BatchSource::Memory }))
    }

    /// Notes that the store has kept a batch.
    pub(super) fn mark_kept(&self, job: &WriteJob) {
        let channel = job.batch.channel;
        let mut state = self.lock_channel(channel);
        match &job.source {
            BatchSource::Memory => state.held = None,
            BatchSource::Spill(chunk) => {
                if let Err(error) = state.spill.advance(chunk) {
                    log::warn!("spill of {}: {error}", channel.name());
                }
            }
            BatchSource::Cuts(chunk) => {
                if let Some(cuts) = &self.cuts {
                    cuts.lock().advance(channel, chunk);
                }
            }
        }
        self.update_metrics(channel, &state);
        if state.held.is_none() && self.channel_rows_on_disk(channel, &state) == 0 {
            self.queues.mark_caught_up(channel);
        }
    }

    /// Replaces the records of a batch, from which bad ones were taken out: only the rest is still held.
    pub(super) fn replace_records(&self, job: &mut WriteJob, records: Vec<Record>) {
        let Batch { channel, sequence, .. } = *job.batch;
        job.batch = Arc::new(Batch { channel, records, sequence });
        let mut state = self.lock_channel(channel);
        // If a stop has already moved the held batch to the disk, it is not held any more.
        if matches!(job.source, BatchSource::Memory) && state.held.is_some() {
            state.held = Some(Arc::clone(&job.batch));
        }
    }

    /// Moves a batch that the store did not keep to the disk, before the rows there.
    pub(super) fn spill_held(&self, channel: Channel) {
        let mut state = self.lock_channel(channel);
        let Some(batch) = state.held.take() else { return };
        let first = (batch.sequence + 1).saturating_sub(batch.records.len() as u64);
        let written = state.spill.prepend(first, &batch.records);
        if written.is_err() {
            state.held = Some(batch);
        }
        self.note_disk_result(channel, &mut state, written);
    }

    /// Moves the rows in memory to the disk, if the queue is full, the store is unreachable, or older records
    /// are on the disk already. `always`: in any case.
    pub(super) fn spill_queue(&self, channel: Channel, always: bool) {
        if self.writes_disk_first() {
            return;
        }
        let queues = &self.queues;
        let mut state = self.lock_channel(channel);
        let must =
            || queues.is_full(channel) || !state.spill.is_empty() || self.store_lost.load(Ordering::Relaxed);
        if queues.rows(channel) > 0 && (always || must()) {
            let held = state.held.as_ref().map_or(0, |batch| batch.records.len());
            let taken = queues.take_rows(channel, |rows| self.count_under_way(channel, held + rows));
            let last = state.take_numbers(taken.records.len());
            let written = state.spill.append(last + 1 - taken.records.len() as u64, &taken.records);
            if written.is_err() {
                queues.put_back(channel, taken);
            }
            self.note_disk_result(channel, &mut state, written);
        }
    }

    /// Whether the disk refused the last rows of a channel.
    pub(super) fn disk_fails(&self) -> bool {
        let fails = |&channel: &Channel| self.lock_channel(channel).disk_fails;
        self.disk_fails.load(Ordering::Relaxed) || Channel::ALL.iter().any(fails)
    }

    /// Ensures that what was written to the spill of a channel is on the disk.
    pub(super) fn sync_spill(&self, channel: Channel) {
        let mut state = self.lock_channel(channel);
        if let Err(error) = state.spill.sync() {
            self.note_disk_result(channel, &mut state, Err(error));
        }
    }

    /// Rows that are neither on the disk nor in the store.
    pub(super) fn rows_in_memory(&self, channel: Channel) -> usize {
        let held = self.lock_channel(channel).held.as_ref().map_or(0, |batch| batch.records.len());
        held + self.queues.rows(channel)
    }

    /// Rows that are on the disk.
    pub(super) fn rows_on_disk(&self, channel: Channel) -> u64 {
        self.channel_rows_on_disk(channel, &self.lock_channel(channel))
    }

    fn channel_rows_on_disk(&self, channel: Channel, state: &ChannelState) -> u64 {
        state.spill.rows() + self.cuts.as_ref().map_or(0, |cuts| cuts.lock().rows(channel))
    }

    /// Rows that are not in the store.
    pub(super) fn rows_waiting(&self, channel: Channel) -> u64 {
        self.rows_in_memory(channel) as u64 + self.rows_on_disk(channel)
    }

    fn lock_channel(&self, channel: Channel) -> MutexGuard<'_, ChannelState> {
        #[expect(clippy::indexing_slicing, reason = "one state for each channel, in their order")]
        self.channels[channel as usize].lock()
    }

    fn update_metrics(&self, channel: Channel, state: &ChannelState) {
        if let Some(cuts) = &self.cuts {
            return self.update_cut_metrics(channel, &mut cuts.lock());
        }
        let metrics = self.metrics.channel(channel);
        let held = state.held.as_ref().map_or(0, |batch| batch.records.len());
        // In this order: rows that move from memory to the disk meanwhile are counted twice, not missed.
        metrics.spill_rows.store(state.spill.rows(), Ordering::Relaxed);
        metrics.spill_octets.store(state.spill.octets(), Ordering::Relaxed);
        self.count_under_way(channel, held);
    }

    /// Publishes how many rows are neither in their queue nor on the disk nor in the store.
    fn count_under_way(&self, channel: Channel, rows: usize) {
        self.metrics.channel(channel).under_way.store(rows as u64, Ordering::Release);
    }

    fn update_cut_metrics(&self, channel: Channel, cuts: &mut Cuts) {
        let metrics = self.metrics.channel(channel);
        // In this order, as in `update_metrics`.
        metrics.spill_rows.store(cuts.rows(channel), Ordering::Relaxed);
        metrics.spill_octets.store(cuts.octets(channel), Ordering::Relaxed);
        self.count_under_way(channel, 0);
        add(&self.metrics.damaged, cuts.take_damaged());
        self.metrics.cuts_octets.store(cuts.size(), Ordering::Relaxed);
    }

    /// Logs when the disk begins or ceases to take records.
    fn note_disk_result(&self, channel: Channel, state: &mut ChannelState, written: io::Result<()>) {
        let name = channel.name();
        match written {
            Err(error) => {
                add(&self.metrics.channel(channel).spill_write_errors, 1);
                if !state.disk_fails {
                    log::error!("spill of {name}: {error}; rows stay in memory, merged by key");
                }
                state.disk_fails = true;
            }
            Ok(()) => {
                if state.disk_fails {
                    log::info!("spill of {name}: the disk takes rows again");
                }
                state.disk_fails = false;
            }
        }
        self.update_metrics(channel, state);
    }
}

impl ChannelState {
    /// Takes `records` numbers; returns the last one.
    fn take_numbers(&mut self, records: usize) -> u64 {
        self.next_sequence += records as u64;
        self.next_sequence - 1
    }
}

#[cfg(test)]
#[path = "in_flight_tests.rs"]
mod tests;
