//! What the writer and the guard share: for each channel what is under way to the store and what lies on the
//! disk, under one lock that is never held while the store is at work.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, MutexGuard};

use super::Batch;
use super::gauges::{Gauges, add};
use super::queue::{Queues, merged};
use super::record::{Channel, Record};
use super::spill::{Chunk, Spill};

/// Records that are read from the disk for one batch, at most.
const CHUNK_MAX: usize = 10_000;

/// All channels on their way to the store.
#[derive(Debug)]
pub(super) struct Lanes {
    pub(super) queues: Arc<Queues>,
    pub(super) gauges: Arc<Gauges>,
    /// The store is away: what comes goes to the disk at once.
    pub(super) lost: AtomicBool,
    lanes: [Mutex<Lane>; Channel::ALL.len()],
}

#[derive(Debug)]
struct Lane {
    spill: Spill,
    /// The number of the next record that leaves memory.
    next_sequence: u64,
    /// A batch from memory that is under way, or that neither the store nor the disk has taken.
    held: Option<Arc<Batch>>,
    /// The disk takes nothing; said once.
    disk_fails: bool,
}

/// A batch for the store.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) batch: Arc<Batch>,
    /// Where it was read from, if not from memory.
    chunk: Option<Chunk>,
}

impl Lanes {
    /// Finds out what an earlier process left on the disk.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn open(queues: Arc<Queues>, gauges: Arc<Gauges>, folder: &Path) -> io::Result<Self> {
        let mut lanes = Vec::new();
        for channel in Channel::ALL {
            let spill = Spill::open(folder, channel)?;
            if !spill.is_empty() {
                queues.queue(channel).starts_behind();
            }
            let next_sequence = spill.last_sequence() + 1;
            lanes.push(Mutex::new(Lane { spill, next_sequence, held: None, disk_fails: false }));
        }
        let lanes = lanes.try_into().map_err(|_| io::Error::other("a channel is missing"))?;
        let all = Self { queues, gauges, lost: AtomicBool::new(false), lanes };
        Channel::ALL.iter().for_each(|&channel| all.show(channel, &all.lane(channel)));
        Ok(all)
    }

    /// New records are numbered above what the store has.
    pub(super) fn number_above(&self, channel: Channel, acknowledged: u64) {
        let mut lane = self.lane(channel);
        lane.next_sequence = lane.next_sequence.max(acknowledged + 1);
    }

    /// What counts as kept for a store without a journal.
    pub(super) fn done(&self, channel: Channel) -> u64 {
        self.lane(channel).spill.done()
    }

    /// Notes that all up to this number counts as kept, for a store without a journal.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub(super) fn mark_done(&self, channel: Channel, sequence: u64) -> io::Result<()> {
        self.lane(channel).spill.mark_done(sequence)
    }

    /// The batch that is to be written next: what is held, or what is on the disk, or what is in memory.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub(super) fn next(&self, channel: Channel, acknowledged: u64) -> io::Result<Option<Job>> {
        let mut lane = self.lane(channel);
        if let Some(batch) = &lane.held {
            return Ok(Some(Job { batch: Arc::clone(batch), chunk: None }));
        }
        if let Some(mut chunk) = lane.spill.chunk(CHUNK_MAX, acknowledged)? {
            let records = merged(std::mem::take(&mut chunk.records));
            let batch = Batch { channel, records, sequence: chunk.sequence };
            return Ok(Some(Job { batch: Arc::new(batch), chunk: Some(chunk) }));
        }
        let queue = self.queues.queue(channel);
        // Before they are taken, so that whoever looks meanwhile sees too many of them and not none.
        self.gauges.of(channel).under_way.store(queue.len() as u64, Ordering::Relaxed);
        let records = queue.take().records;
        if !records.is_empty() {
            let sequence = lane.number(records.len());
            lane.held = Some(Arc::new(Batch { channel, sequence, records }));
        }
        self.show(channel, &lane);
        Ok(lane.held.clone().map(|batch| Job { batch, chunk: None }))
    }

    /// The store has kept a batch.
    pub(super) fn kept(&self, job: &Job) {
        let channel = job.batch.channel;
        let mut lane = self.lane(channel);
        match &job.chunk {
            None => lane.held = None,
            Some(chunk) => {
                if let Err(error) = lane.spill.advance(chunk) {
                    log::warn!("spill of {}: {error}", channel.name());
                }
            }
        }
        self.show(channel, &lane);
        if lane.held.is_none() && lane.spill.is_empty() {
            self.queues.queue(channel).caught_up();
        }
    }

    /// Bad records were taken out of a batch: the rest is what is held.
    pub(super) fn reduce(&self, job: &mut Job, records: Vec<Record>) {
        let Batch { channel, sequence, .. } = *job.batch;
        job.batch = Arc::new(Batch { channel, records, sequence });
        let mut lane = self.lane(channel);
        // Where a stop has put what is under way on the disk already, it is not held any more.
        if job.chunk.is_none() && lane.held.is_some() {
            lane.held = Some(Arc::clone(&job.batch));
        }
    }

    /// The store did not keep what is under way: it goes to the disk, before what is there.
    pub(super) fn hold(&self, channel: Channel) {
        let mut lane = self.lane(channel);
        let Some(batch) = lane.held.take() else { return };
        let first = (batch.sequence + 1).saturating_sub(batch.records.len() as u64);
        let written = lane.spill.prepend(first, &batch.records);
        if written.is_err() {
            lane.held = Some(batch);
        }
        self.disk(channel, &mut lane, written);
    }

    /// Moves what waits in memory to the disk, if it must: because the queue is full, the store is away, or
    /// older records are on the disk already. `always`: in any case.
    pub(super) fn relieve(&self, channel: Channel, always: bool) {
        let queue = self.queues.queue(channel);
        let mut lane = self.lane(channel);
        let must = || queue.is_full() || !lane.spill.is_empty() || self.lost.load(Ordering::Relaxed);
        if queue.len() > 0 && (always || must()) {
            let taken = queue.take();
            let last = lane.number(taken.records.len());
            let written = lane.spill.append(last + 1 - taken.records.len() as u64, &taken.records);
            if written.is_err() {
                queue.put_back(taken);
            }
            self.disk(channel, &mut lane, written);
        }
    }

    /// Sees to it that what is on its way to the disk is there.
    pub(super) fn sync(&self, channel: Channel) {
        let mut lane = self.lane(channel);
        if let Err(error) = lane.spill.sync() {
            self.disk(channel, &mut lane, Err(error));
        }
    }

    /// Rows that are neither on the disk nor with the store.
    pub(super) fn in_memory(&self, channel: Channel) -> usize {
        let held = self.lane(channel).held.as_ref().map_or(0, |batch| batch.records.len());
        held + self.queues.rows(channel)
    }

    /// Rows that are on the disk.
    pub(super) fn on_disk(&self, channel: Channel) -> u64 {
        self.lane(channel).spill.rows()
    }

    /// Rows that are not with the store.
    pub(super) fn waiting(&self, channel: Channel) -> u64 {
        self.in_memory(channel) as u64 + self.on_disk(channel)
    }

    fn lane(&self, channel: Channel) -> MutexGuard<'_, Lane> {
        #[expect(clippy::indexing_slicing, reason = "one lane for each channel, in their order")]
        self.lanes[channel as usize].lock()
    }

    fn show(&self, channel: Channel, lane: &Lane) {
        let gauges = self.gauges.of(channel);
        let held = lane.held.as_ref().map_or(0, |batch| batch.records.len());
        gauges.under_way.store(held as u64, Ordering::Relaxed);
        gauges.spill_rows.store(lane.spill.rows(), Ordering::Relaxed);
        gauges.spill_octets.store(lane.spill.octets(), Ordering::Relaxed);
    }

    /// Says when the disk begins or ceases to take records.
    fn disk(&self, channel: Channel, lane: &mut Lane, written: io::Result<()>) {
        let name = channel.name();
        match written {
            Err(error) => {
                add(&self.gauges.of(channel).spill_write_errors, 1);
                if !lane.disk_fails {
                    log::error!("spill of {name}: {error}; rows stay in memory, merged by key");
                }
                lane.disk_fails = true;
            }
            Ok(()) => {
                if lane.disk_fails {
                    log::info!("spill of {name}: the disk takes rows again");
                }
                lane.disk_fails = false;
            }
        }
        self.show(channel, lane);
    }
}

impl Lane {
    /// Numbers so many records; gives the last number.
    fn number(&mut self, records: usize) -> u64 {
        self.next_sequence += records as u64;
        self.next_sequence - 1
    }
}
