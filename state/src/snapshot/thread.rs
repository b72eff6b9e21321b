//! The thread that writes the snapshot at an interval, and once more at an orderly stop. While the tracker
//! serves, it works in short slices with pauses in between, so that a worker on the same processor never
//! waits for it.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::background::{Background, BackgroundTask};
use crate::clock::{Clock, Now};
use crate::metrics::histogram::Histogram;
use crate::metrics::{Board, HistogramSeries, Series, SeriesKind};
use crate::snapshot::container::{BlockSink, SnapshotWriter, replace_file};
use crate::snapshot::swarms::{Walk, write_swarms};
use crate::swarm::Swarms;

/// The name of the file in the state folder of the tracker.
pub const FILE_NAME: &str = "hayate-cache.bin";
/// A pause is this many times as long as the work before it.
const PAUSE_FACTOR: u32 = 8;
/// Work after which a pause is due.
pub(crate) const PAUSE_AFTER: Duration = Duration::from_micros(300);
/// Shortest pause: a slice takes a tenth of it.
const PAUSE_MIN: Duration = Duration::from_millis(1);
/// Longest pause, after work that took long because the processor or the disk was busy.
const PAUSE_MAX: Duration = Duration::from_millis(20);
/// Octets after which a file is synced to the disk: syncing everything at the end would be one long piece of
/// work.
const SYNC_STEP: usize = 2 << 20;

#[cfg(test)]
thread_local! {
    /// The shortest piece of work before a pause of this thread.
    pub(crate) static SHORTEST: std::cell::Cell<Duration> = const { std::cell::Cell::new(Duration::MAX) };
}

/// Other contents of the same file, in blocks with tags of their own.
pub trait Section: Send {
    /// Writes everything, and [pauses](Pace::pause_if_due) between short pieces of work; returns the number
    /// of peers written.
    ///
    /// # Errors
    /// Fails when `to` or a pause does.
    fn write(&mut self, to: &mut dyn BlockSink, pace: &mut Pace<'_>) -> io::Result<u64>;

    /// Peers that [`write`](Self::write) would write now.
    fn peers(&self) -> u64 {
        0
    }
}

/// The pacing of the work on a snapshot.
#[derive(Debug)]
pub struct Pace<'a> {
    clock: &'a Clock,
    /// `None`: without pauses.
    stopping: Option<&'a AtomicBool>,
    /// A pause is this many times as long as the work before it.
    factor: u32,
    /// Start of the current piece of work, in uptime.
    since: Duration,
}

impl<'a> Pace<'a> {
    /// Returns a pace without pauses.
    pub(crate) fn unpaced(clock: &'a Clock) -> Self {
        Self { clock, stopping: None, factor: 0, since: clock.uptime() }
    }

    /// Returns a pace that works a third of the time, beside a tracker that serves, until it is stopping.
    pub(crate) fn in_background(clock: &'a Clock, stopping: &'a AtomicBool) -> Self {
        Self { clock, stopping: Some(stopping), factor: 2, since: clock.uptime() }
    }

    /// The uptime of the tracker.
    pub(crate) fn uptime(&self) -> Duration {
        self.clock.uptime()
    }

    /// The current time, for the next slice.
    #[must_use]
    pub fn now(&self) -> Now {
        self.clock.now()
    }

    /// Begins a piece of work: what came before was a wait, which took no processor from anyone.
    pub(crate) fn restart(&mut self) {
        self.since = self.clock.uptime();
    }

    /// Pauses if enough work was done since the last pause.
    ///
    /// # Errors
    /// Fails as [`pause`](Self::pause) does.
    pub fn pause_if_due(&mut self) -> io::Result<()> {
        if self.clock.uptime().saturating_sub(self.since) < PAUSE_AFTER { Ok(()) } else { self.pause() }
    }

    /// Pauses, so that others can work.
    ///
    /// # Errors
    /// Fails when the tracker stops: this snapshot should not be finished.
    pub fn pause(&mut self) -> io::Result<()> {
        let Some(stopping) = self.stopping else { return Ok(()) };
        let work = self.clock.uptime().saturating_sub(self.since);
        #[cfg(test)]
        SHORTEST.with(|shortest| shortest.set(shortest.get().min(work)));
        let end = self.clock.uptime() + (work * self.factor).clamp(PAUSE_MIN, PAUSE_MAX);
        loop {
            if stopping.load(Ordering::Acquire) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            self.since = self.clock.uptime();
            if self.since >= end {
                return Ok(());
            }
            thread::park_timeout(end - self.since);
        }
    }
}

/// What the snapshot thread writes, where, and at what interval.
pub struct SnapshotPlan {
    /// The file.
    pub path: PathBuf,
    /// Seconds from the beginning of one snapshot to the next; 0 = only at the stop. A reload may change it.
    pub every_seconds: Arc<AtomicU32>,
    /// The swarms.
    pub swarms: Arc<Swarms>,
    /// Other contents of the file.
    pub sections: Vec<Box<dyn Section>>,
}

impl SnapshotPlan {
    /// The number of peers in memory.
    fn peers(&self) -> u64 {
        let others: u64 = self.sections.iter().map(|section| section.peers()).sum();
        u64::from(self.swarms.peer_counts().total()) + others
    }
}

impl std::fmt::Debug for SnapshotPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotPlan").field("path", &self.path).finish_non_exhaustive()
    }
}

/// What the snapshot thread does at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Writes a last snapshot: the tracker stops.
    Write,
    /// Leaves the file as it is: another process has taken over.
    Leave,
}

/// The metrics of the snapshot thread.
#[derive(Debug, Default)]
struct SnapshotMetrics {
    written: AtomicU64,
    failed: AtomicU64,
    octets: AtomicU64,
    peers: AtomicU64,
    milliseconds: AtomicU64,
    took: Arc<Histogram>,
    /// When the last snapshot was written, or the thread started, in seconds of uptime.
    since: AtomicU64,
}

/// The running snapshot thread. Dropped without a [`stop`](Self::stop), it leaves the file as it is.
#[derive(Debug)]
pub struct SnapshotThread {
    background: Option<Background>,
    clock: Clock,
    metrics: Arc<SnapshotMetrics>,
    writes_at_end: Arc<AtomicBool>,
}

impl SnapshotThread {
    /// Starts the thread; the first snapshot is due after one interval.
    ///
    /// # Errors
    /// Fails when the thread cannot be started.
    pub fn start(plan: SnapshotPlan, clock: Clock) -> io::Result<Self> {
        let metrics = Arc::new(SnapshotMetrics::default());
        metrics.since.store(clock.uptime().as_secs(), Ordering::Relaxed);
        let writes_at_end = Arc::new(AtomicBool::new(false));
        let task = SnapshotTask {
            plan,
            clock,
            metrics: Arc::clone(&metrics),
            writes_at_end: Arc::clone(&writes_at_end),
            is_failing: false,
        };
        let background = Background::start("snapshot", clock, task)?;
        Ok(Self { background: Some(background), clock, metrics, writes_at_end })
    }

    /// Whether the thread is running; only [`stop`](Self::stop) should end it.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.background.as_ref().is_some_and(Background::is_alive)
    }

    /// Abandons the snapshot being written, and writes a last one without pauses, or none; returns false if
    /// the last one could not be written, which is logged.
    pub fn stop(mut self, ending: Ending) -> bool {
        self.finish(ending)
    }

    /// Registers the metrics of the snapshot thread.
    pub fn register_metrics(&self, board: &Board) {
        let list = |name, help, kind, read: fn(&SnapshotMetrics, &Clock) -> u64| {
            let (metrics, clock) = (Arc::clone(&self.metrics), self.clock);
            let read = Box::new(move || read(&metrics, &clock));
            board.register(Series { name, help, kind, labels: Vec::new(), read });
        };
        let (name, help) = ("serialization_seconds", "Time it took to write a snapshot.");
        let histogram = Arc::clone(&self.metrics.took);
        board.register_histogram(HistogramSeries { name, help, labels: Vec::new(), histogram });
        list("snapshots_total", "Snapshots written.", SeriesKind::Counter, |metrics, _| {
            metrics.written.load(Ordering::Relaxed)
        });
        list(
            "snapshot_failures_total",
            "Snapshots that could not be written.",
            SeriesKind::Counter,
            |metrics, _| metrics.failed.load(Ordering::Relaxed),
        );
        let gauge = |name, help, read| list(name, help, SeriesKind::Gauge, read);
        gauge("snapshot_bytes", "Size of the last snapshot.", |metrics, _| {
            metrics.octets.load(Ordering::Relaxed)
        });
        gauge("snapshot_peers", "Peers in the last snapshot.", |metrics, _| {
            metrics.peers.load(Ordering::Relaxed)
        });
        gauge("snapshot_milliseconds", "Time it took to write the last snapshot.", |metrics, _| {
            metrics.milliseconds.load(Ordering::Relaxed)
        });
        gauge(
            "snapshot_age_seconds",
            "Time since the last snapshot was written, or since the start.",
            |metrics, clock| clock.uptime().as_secs().saturating_sub(metrics.since.load(Ordering::Relaxed)),
        );
    }

    fn finish(&mut self, ending: Ending) -> bool {
        let Some(background) = self.background.take() else { return true };
        self.writes_at_end.store(ending == Ending::Write, Ordering::Relaxed);
        background.stop().unwrap_or_else(|| {
            log::error!("the snapshot thread ended with a panic");
            ending == Ending::Leave
        })
    }
}

impl Drop for SnapshotThread {
    fn drop(&mut self) {
        self.finish(Ending::Leave);
    }
}

struct SnapshotTask {
    plan: SnapshotPlan,
    clock: Clock,
    metrics: Arc<SnapshotMetrics>,
    writes_at_end: Arc<AtomicBool>,
    is_failing: bool,
}

impl BackgroundTask for SnapshotTask {
    fn period(&self) -> Option<Duration> {
        let seconds = self.plan.every_seconds.load(Ordering::Relaxed);
        (seconds > 0).then(|| Duration::from_secs(seconds.into()))
    }

    fn run(&mut self, stopping: &AtomicBool) {
        self.write_snapshot(Some(stopping));
    }

    fn finish(&mut self) -> bool {
        if !self.writes_at_end.load(Ordering::Relaxed) {
            return true;
        }
        let written = self.write_snapshot(None);
        if written {
            let (peers, path) = (self.metrics.peers.load(Ordering::Relaxed), self.plan.path.display());
            log::info!("wrote a snapshot of {peers} peers to {path}");
        }
        written
    }
}

impl SnapshotTask {
    /// Writes a snapshot and keeps account of it; false if it failed or was given up.
    fn write_snapshot(&mut self, stopping: Option<&AtomicBool>) -> bool {
        let clock = self.clock;
        let start = clock.uptime();
        let mut pace = Pace { clock: &clock, stopping, factor: PAUSE_FACTOR, since: start };
        let result = write_file(&mut self.plan, &mut pace);
        if stopping.is_some_and(|stopping| stopping.load(Ordering::Acquire)) && result.is_err() {
            return false;
        }
        let (metrics, path) = (&self.metrics, self.plan.path.display());
        match &result {
            Ok((octets, peers)) => {
                let end = clock.uptime();
                let milliseconds = u64::try_from((end - start).as_millis()).unwrap_or(u64::MAX);
                metrics.octets.store(*octets, Ordering::Relaxed);
                metrics.peers.store(*peers, Ordering::Relaxed);
                metrics.milliseconds.store(milliseconds, Ordering::Relaxed);
                metrics.took.record(end - start);
                metrics.since.store(end.as_secs(), Ordering::Relaxed);
                metrics.written.fetch_add(1, Ordering::Relaxed);
                log::debug!("wrote a snapshot of {peers} peers to {path} in {milliseconds} ms");
                if self.is_failing {
                    log::info!("snapshots are written again to {path}");
                }
            }
            Err(error) => {
                metrics.failed.fetch_add(1, Ordering::Relaxed);
                if stopping.is_none() {
                    let peers = self.plan.peers();
                    log::error!("cannot write the last snapshot to {path}: {error}; {peers} peers are lost");
                } else if !self.is_failing {
                    log::error!("cannot write a snapshot to {path}: {error}; the old file stays as it is");
                }
            }
        }
        self.is_failing = result.is_err();
        result.is_ok()
    }
}

/// Returns the octets and peers written.
fn write_file(plan: &mut SnapshotPlan, pace: &mut Pace<'_>) -> io::Result<(u64, u64)> {
    let (mut octets, mut peers) = (0, 0);
    let SnapshotPlan { path, swarms, sections, .. } = plan;
    let path: &Path = path;
    replace_file(path, |file| {
        let now = pace.now();
        let to = SyncingFile { syncs: pace.stopping.is_some(), ..SyncingFile::new(file) };
        let mut to = SnapshotWriter::new(to, i64::try_from(now.unix_seconds).unwrap_or(i64::MAX))?;
        // Before the swarms: what a cluster has read must not be more than what is in them.
        for section in sections {
            peers += section.write(&mut to, pace)?;
        }
        let mut walk = Walk::new(Arc::clone(swarms), now.tick);
        let clock = pace.clock;
        write_swarms(&mut walk, &mut to, || clock.now().tick, || pace.pause())?;
        peers += walk.peers();
        octets = to.finish()?.octets;
        Ok(())
    })?;
    Ok((octets, peers))
}

/// A file that is synced to the disk while it is written.
pub(crate) struct SyncingFile<'f> {
    file: &'f mut BufWriter<File>,
    octets: u64,
    unsynced: usize,
    syncs: bool,
}

impl<'f> SyncingFile<'f> {
    /// Continues behind the present end of `file`.
    pub(crate) fn new(file: &'f mut BufWriter<File>) -> Self {
        Self { file, octets: 0, unsynced: 0, syncs: true }
    }
}

impl Write for SyncingFile<'_> {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let written = self.file.write(octets)?;
        self.octets += written as u64;
        self.unsynced += written;
        if self.syncs && self.unsynced >= SYNC_STEP {
            self.unsynced = 0;
            self.file.flush()?;
            self.file.get_ref().sync_data()?;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_no_work_that_is_paused_for() {
        let (clock, stopping) = (Clock::start(), AtomicBool::new(false));
        let mut pace = Pace::in_background(&clock, &stopping);
        thread::sleep(Duration::from_millis(2));
        let waited_until = clock.uptime();
        pace.restart();
        assert!(pace.since >= waited_until);
    }
}
