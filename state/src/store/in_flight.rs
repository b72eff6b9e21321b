//! What the writer and the guard share: for each channel what is under way to the store and what lies on the
//! disk, under one lock that is never held while the store is at work.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, MutexGuard};

use super::Batch;
use super::cuts::{self, Cuts};
use super::metrics::{Gauges, add};
use super::queue::{Queues, merged};
use super::record::{Channel, Record};
use super::spill::{self, Spill};
use super::total::Known;

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
    /// In mode private everything goes to the disk first, all channels together, and from there to the store.
    /// Locked after a lane, if both are.
    cuts: Option<Mutex<Cuts>>,
    /// The disk takes no cut; said once.
    disk_fails: AtomicBool,
    /// A record of a newer program was met.
    newer: AtomicBool,
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
    source: Source,
}

/// Where a batch was read from.
#[derive(Debug)]
enum Source {
    Memory,
    Spill(spill::Chunk),
    Cuts(cuts::Chunk),
}

impl Lanes {
    /// Finds out what an earlier process left on the disk.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn open(queues: Arc<Queues>, gauges: Arc<Gauges>, folder: &Path) -> io::Result<Self> {
        let mut lanes = Vec::new();
        for channel in Channel::ALL {
            let mut spill = Spill::open(folder, channel)?;
            add(&gauges.damaged, spill.take_damaged());
            let next_sequence = spill.last_sequence() + 1;
            lanes.push(Mutex::new(Lane { spill, next_sequence, held: None, disk_fails: false }));
        }
        let lanes = lanes.try_into().map_err(|_| io::Error::other("a channel is missing"))?;
        let cuts = queues.accounts().then(|| Cuts::open(folder).map(Mutex::new)).transpose()?;
        let [lost, disk_fails, newer] = [(); 3].map(|()| AtomicBool::new(false));
        let all = Self { queues, gauges, lost, lanes, cuts, disk_fails, newer };
        for channel in Channel::ALL {
            let lane = all.lane(channel);
            all.show(channel, &lane);
            if all.left(channel, &lane) > 0 {
                all.queues.starts_behind(channel);
            }
        }
        Ok(all)
    }

    /// New records are numbered above what the store has.
    pub(super) fn number_above(&self, channel: Channel, acknowledged: u64) {
        let mut lane = self.lane(channel);
        lane.next_sequence = lane.next_sequence.max(acknowledged + 1);
        if let Some(cuts) = &self.cuts {
            let mut cuts = cuts.lock();
            cuts.acknowledge(channel, acknowledged);
            // An older program may have left some of its own.
            cuts.number_above(channel, lane.spill.last_sequence());
            drop(cuts);
            self.show(channel, &lane);
            if self.left(channel, &lane) == 0 {
                self.queues.caught_up(channel);
            }
        }
    }

    /// The totals of sessions that are durable; none but in mode private.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub(super) fn known(&self) -> io::Result<Known> {
        self.cuts.as_ref().map_or_else(|| Ok(Known::default()), |cuts| cuts.lock().known())
    }

    /// Has a file something that only a newer program knows? Of records that is seen when they are read.
    pub(super) fn has_newer(&self) -> bool {
        self.newer.load(Ordering::Relaxed)
            || self.cuts.as_ref().is_some_and(|cuts| cuts.lock().newer().is_some())
    }

    /// Do rows go to the disk before they go to the store?
    pub(super) fn cuts_first(&self) -> bool {
        self.cuts.is_some()
    }

    /// Cuts that this process has made.
    pub(super) fn cuts_made(&self) -> u64 {
        self.gauges.cuts.load(Ordering::Acquire)
    }

    /// In mode private: brings everything that is in memory to the disk, as a unit; it stays in memory where
    /// the disk does not take it. Another cut follows only when this one is there.
    pub(super) fn cut(&self) {
        let Some(cuts) = &self.cuts else { return };
        let mut cuts = cuts.lock();
        // Before they are taken, so that whoever looks meanwhile sees too many of them and not none.
        for channel in Channel::ALL {
            let rows = self.queues.rows(channel) as u64;
            self.gauges.of(channel).under_way.store(rows, Ordering::Relaxed);
        }
        let cut = self.queues.cut();
        let written = if cut.is_empty() { Ok(()) } else { cuts.append(&cut) };
        match written {
            Ok(()) if cut.is_empty() => {}
            Ok(()) => {
                self.gauges.cuts.fetch_add(1, Ordering::Release);
                if self.disk_fails.swap(false, Ordering::Relaxed) {
                    log::info!("spill: the disk takes rows again");
                }
            }
            Err(error) => {
                for (channel, taken) in Channel::ALL.into_iter().zip(&cut.rows) {
                    let failures = u64::from(!taken.records.is_empty());
                    add(&self.gauges.of(channel).spill_write_errors, failures);
                }
                self.queues.undo(cut);
                if !self.disk_fails.swap(true, Ordering::Relaxed) {
                    log::error!(
                        "spill: {error}; rows stay in memory, merged by key, and none goes to the database \
                         before the disk has it"
                    );
                }
            }
        }
        Channel::ALL.iter().for_each(|&channel| self.show_cuts(channel, &mut cuts));
    }

    /// Tells the disk what the store has, at the end of a process.
    pub(super) fn conclude(&self) {
        let Some(cuts) = &self.cuts else { return };
        let mut cuts = cuts.lock();
        if cuts.has_news() {
            let cut = self.queues.cut();
            if let Err(error) = cuts.append(&cut) {
                self.queues.undo(cut);
                log::warn!("the spill: {error}; the next start asks the database what it has");
            }
        }
    }

    /// Folds totals of cuts whose rows are with the store, if there is enough of them. Those of sessions that
    /// were silent for longer than `inactivity` are forgotten.
    pub(super) fn fold(&self, inactivity: u32) {
        let Some(cuts) = &self.cuts else { return };
        let Some(fold) = cuts.lock().foldable() else { return };
        // Not under the lock: a cut need not wait for it.
        match fold.run(inactivity) {
            Ok(base) => cuts.lock().folded(base),
            Err(error) => log::warn!("the totals of sessions: {error}; they stay in the cuts"),
        }
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
        self.find(channel, acknowledged).inspect_err(|error| {
            self.newer.fetch_or(error.kind() == io::ErrorKind::Unsupported, Ordering::Relaxed);
        })
    }

    fn find(&self, channel: Channel, acknowledged: u64) -> io::Result<Option<Job>> {
        let mut lane = self.lane(channel);
        if let Some(batch) = &lane.held {
            return Ok(Some(Job { batch: Arc::clone(batch), source: Source::Memory }));
        }
        let chunk = lane.spill.chunk(CHUNK_MAX, acknowledged);
        add(&self.gauges.damaged, lane.spill.take_damaged());
        let batch = |records, sequence| Arc::new(Batch { channel, records: merged(records), sequence });
        if let Some(mut chunk) = chunk? {
            let batch = batch(std::mem::take(&mut chunk.records), chunk.sequence);
            return Ok(Some(Job { batch, source: Source::Spill(chunk) }));
        }
        if let Some(cuts) = &self.cuts {
            let mut cuts = cuts.lock();
            let chunk = cuts.chunk(channel, CHUNK_MAX);
            self.show_cuts(channel, &mut cuts);
            return Ok(chunk?.map(|mut chunk| {
                let batch = batch(std::mem::take(&mut chunk.records), chunk.sequence);
                Job { batch, source: Source::Cuts(chunk) }
            }));
        }
        // Before they are taken, so that whoever looks meanwhile sees too many of them and not none.
        let rows = self.queues.rows(channel) as u64;
        self.gauges.of(channel).under_way.store(rows, Ordering::Relaxed);
        let records = self.queues.take(channel).records;
        if !records.is_empty() {
            let sequence = lane.number(records.len());
            lane.held = Some(Arc::new(Batch { channel, sequence, records }));
        }
        self.show(channel, &lane);
        Ok(lane.held.clone().map(|batch| Job { batch, source: Source::Memory }))
    }

    /// The store has kept a batch.
    pub(super) fn kept(&self, job: &Job) {
        let channel = job.batch.channel;
        let mut lane = self.lane(channel);
        match &job.source {
            Source::Memory => lane.held = None,
            Source::Spill(chunk) => {
                if let Err(error) = lane.spill.advance(chunk) {
                    log::warn!("spill of {}: {error}", channel.name());
                }
            }
            Source::Cuts(chunk) => {
                if let Some(cuts) = &self.cuts {
                    cuts.lock().advance(channel, chunk);
                }
            }
        }
        self.show(channel, &lane);
        if lane.held.is_none() && self.left(channel, &lane) == 0 {
            self.queues.caught_up(channel);
        }
    }

    /// Bad records were taken out of a batch: the rest is what is held.
    pub(super) fn reduce(&self, job: &mut Job, records: Vec<Record>) {
        let Batch { channel, sequence, .. } = *job.batch;
        job.batch = Arc::new(Batch { channel, records, sequence });
        let mut lane = self.lane(channel);
        // Where a stop has put what is under way on the disk already, it is not held any more.
        if matches!(job.source, Source::Memory) && lane.held.is_some() {
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
        if self.cuts_first() {
            return;
        }
        let queues = &self.queues;
        let mut lane = self.lane(channel);
        let must = || queues.is_full(channel) || !lane.spill.is_empty() || self.lost.load(Ordering::Relaxed);
        if queues.rows(channel) > 0 && (always || must()) {
            let taken = queues.take(channel);
            let last = lane.number(taken.records.len());
            let written = lane.spill.append(last + 1 - taken.records.len() as u64, &taken.records);
            if written.is_err() {
                queues.put_back(channel, taken);
            }
            self.disk(channel, &mut lane, written);
        }
    }

    /// Did the disk refuse the last rows of a channel?
    pub(super) fn disk_fails(&self) -> bool {
        let fails = |&channel: &Channel| self.lane(channel).disk_fails;
        self.disk_fails.load(Ordering::Relaxed) || Channel::ALL.iter().any(fails)
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
        self.left(channel, &self.lane(channel))
    }

    fn left(&self, channel: Channel, lane: &Lane) -> u64 {
        lane.spill.rows() + self.cuts.as_ref().map_or(0, |cuts| cuts.lock().rows(channel))
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
        if let Some(cuts) = &self.cuts {
            return self.show_cuts(channel, &mut cuts.lock());
        }
        let gauges = self.gauges.of(channel);
        let held = lane.held.as_ref().map_or(0, |batch| batch.records.len());
        gauges.under_way.store(held as u64, Ordering::Relaxed);
        gauges.spill_rows.store(lane.spill.rows(), Ordering::Relaxed);
        gauges.spill_octets.store(lane.spill.octets(), Ordering::Relaxed);
    }

    fn show_cuts(&self, channel: Channel, cuts: &mut Cuts) {
        let gauges = self.gauges.of(channel);
        // In this order: rows that go from the one to the other meanwhile are counted twice, not missed.
        gauges.spill_rows.store(cuts.rows(channel), Ordering::Relaxed);
        gauges.spill_octets.store(cuts.octets(channel), Ordering::Relaxed);
        gauges.under_way.store(0, Ordering::Relaxed);
        add(&self.gauges.damaged, cuts.take_damaged());
        self.gauges.cuts_octets.store(cuts.size(), Ordering::Relaxed);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::store::Bounds;
    use crate::store::record::UserRow;

    fn user(id: u32) -> Record {
        Record::User(UserRow { id, uploaded: 7, ..UserRow::default() })
    }

    #[test]
    fn what_was_under_way_goes_to_the_disk_before_what_came_later() {
        let folder = tempfile::tempdir().unwrap();
        let queues = Arc::new(Queues::new(Clock::start(), &Bounds::default()));
        let lanes = Lanes::open(Arc::clone(&queues), Arc::default(), folder.path()).unwrap();
        queues.put(user(1));
        let job = lanes.next(Channel::Users, 0).unwrap().unwrap();
        queues.put(user(2));
        lanes.relieve(Channel::Users, true);
        lanes.hold(Channel::Users);
        drop(job);
        for (number, acknowledged) in [(1, 0), (2, 1)] {
            let job = lanes.next(Channel::Users, acknowledged).unwrap().unwrap();
            let batch = (job.batch.sequence, job.batch.records.clone());
            assert_eq!(batch, (number, vec![user(u32::try_from(number).unwrap())]));
            lanes.kept(&job);
        }
        assert!(lanes.next(Channel::Users, 2).unwrap().is_none());
    }

    #[test]
    fn no_row_of_mode_private_goes_to_the_store_before_the_disk_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let spill = folder.path().join("spill");
        let queues = Arc::new(Queues::accounting(Clock::start(), &Bounds::default()));
        let lanes = Lanes::open(Arc::clone(&queues), Arc::default(), &spill).unwrap();
        // A file where the folder should be: the disk takes nothing.
        std::fs::write(&spill, "in the way").unwrap();
        queues.put(user(1));
        lanes.cut();
        lanes.hold(Channel::Users);
        lanes.relieve(Channel::Users, true);
        assert!(lanes.next(Channel::Users, 0).unwrap().is_none());
        assert_eq!((lanes.in_memory(Channel::Users), lanes.on_disk(Channel::Users)), (1, 0));
        std::fs::remove_file(&spill).unwrap();
        queues.put(user(2));
        lanes.cut();
        assert_eq!((lanes.in_memory(Channel::Users), lanes.on_disk(Channel::Users)), (0, 2));
        let job = lanes.next(Channel::Users, 0).unwrap().unwrap();
        assert_eq!((job.batch.sequence, job.batch.records.clone()), (2, vec![user(1), user(2)]));
        lanes.kept(&job);
        assert_eq!((lanes.waiting(Channel::Users), lanes.queues.lag(Channel::Users).as_secs()), (0, 0));
    }
}
