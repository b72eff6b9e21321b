//! Snapshot files: the thread that writes them, and the start that loads them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use hayate_state::snapshot::container::{BlockSink, SnapshotError, SnapshotReader, SnapshotWriter};
use hayate_state::snapshot::load::{LoadOutcome, RestoreTarget, load_snapshot};
use hayate_state::snapshot::swarms::{CompletedFrom, Restore, TAG_SWARMS};
use hayate_state::snapshot::thread::{Ending, Pace, Section, SnapshotPlan, SnapshotThread};
use hayate_state::{Board, Clock, Now, Policy, Swarms};

use super::{SavedTorrent, read_snapshot, snapshot, snapshot_of};
use crate::test_tracker::{TestTracker, announce_from};

/// Longest wait for something that should be there soon.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Unix seconds that these tests will not see.
const FUTURE: i64 = 1 << 40;

/// A folder of its own for a test.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("hayate-cache.bin")
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }
}

/// The lines of the log, of all tests.
struct Log(Mutex<Vec<String>>);

static LOG: Log = Log(Mutex::new(Vec::new()));
static LOGS: Once = Once::new();

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        self.0.lock().unwrap().push(format!("{} {}", record.level(), record.args()));
    }

    fn flush(&self) {}
}

impl Log {
    fn start() {
        LOGS.call_once(|| {
            log::set_logger(&LOG).unwrap();
            log::set_max_level(log::LevelFilter::Info);
        });
    }

    /// Returns the number of lines about a path with this level or these words.
    fn count(&self, level: &str, path: &Path) -> usize {
        let path = path.display().to_string();
        let lines = self.0.lock().unwrap();
        lines.iter().filter(|line| line.contains(level) && line.contains(&path)).count()
    }
}

fn swarms(peers: u16) -> Arc<Swarms> {
    let mut tracker = TestTracker::new(Policy::default(), 0, 7);
    // The clocks of the snapshot threads begin at zero.
    tracker.now = 0;
    for number in 0..peers {
        tracker.announce(&announce_from(u64::from(number % 100), [192, 0, 2, 7], 1000 + number, 9)).unwrap();
    }
    tracker.swarms
}

fn plan(path: &Path, swarms: &Arc<Swarms>, every_seconds: u32) -> SnapshotPlan {
    let every_seconds = Arc::new(AtomicU32::new(every_seconds));
    SnapshotPlan { path: path.to_owned(), every_seconds, swarms: Arc::clone(swarms), sections: Vec::new() }
}

fn metric(board: &Board, name: &str) -> u64 {
    board.read_series().iter().find(|reading| reading.name == name).unwrap().value
}

fn wait_for(what: &str, holds: impl Fn() -> bool) {
    let clock = Clock::start();
    while !holds() {
        assert!(clock.uptime() < WAIT_MAX, "{what}");
        std::thread::yield_now();
    }
}

/// Loads a file into new swarms.
fn loaded(path: &Path) -> (LoadOutcome, Arc<Swarms>) {
    let (swarms, policy) = (Swarms::new(0), Policy::default());
    let mut restore = Restore::new(&swarms, &policy, CompletedFrom::Snapshot);
    let loaded = load_snapshot(path, &Clock::start(), &mut [&mut restore]);
    (loaded, swarms)
}

#[test]
fn an_orderly_stop_leaves_what_the_next_start_loads() {
    let folder = Folder::new();
    let (old, path) = (swarms(5000), folder.file());
    let snapshot_thread = SnapshotThread::start(plan(&path, &old, 0), Clock::start()).unwrap();
    assert!(snapshot_thread.is_alive());
    snapshot_thread.stop(Ending::Write);
    assert_eq!(folder.names(), ["hayate-cache.bin"]);
    let (result, new) = loaded(&path);
    assert!(matches!(result, LoadOutcome::Restored), "{result:?}");
    assert_eq!(new.peer_counts(), old.peer_counts());
    let keys = |torrents: BTreeMap<_, SavedTorrent>| -> Vec<_> {
        torrents
            .into_iter()
            .map(|(hash, torrent)| (hash, torrent.peers.into_keys().collect::<Vec<_>>()))
            .collect()
    };
    assert_eq!(keys(read_snapshot(&snapshot(&new, 0))), keys(read_snapshot(&snapshot(&old, 0))));
}

#[test]
fn a_snapshot_thread_that_leaves_writes_nothing() {
    let folder = Folder::new();
    SnapshotThread::start(plan(&folder.file(), &swarms(7), 0), Clock::start()).unwrap().stop(Ending::Leave);
    drop(SnapshotThread::start(plan(&folder.file(), &swarms(7), 0), Clock::start()).unwrap());
    assert!(folder.names().is_empty());
}

#[test]
fn snapshots_come_at_the_interval_that_a_reload_may_change_and_are_counted() {
    let folder = Folder::new();
    let (swarms, path, board) = (swarms(3000), folder.file(), Board::default());
    let plan = plan(&path, &swarms, 0);
    let every = Arc::clone(&plan.every_seconds);
    let snapshot_thread = SnapshotThread::start(plan, Clock::start()).unwrap();
    snapshot_thread.register_metrics(&board);
    every.store(1, Ordering::Relaxed);
    wait_for("two snapshots", || metric(&board, "snapshots_total") >= 2);
    every.store(0, Ordering::Relaxed);
    assert_eq!(metric(&board, "snapshot_peers"), 3000);
    assert_eq!(metric(&board, "snapshot_failures_total"), 0);
    assert!(metric(&board, "snapshot_age_seconds") <= 1);
    assert!(metric(&board, "snapshot_milliseconds") < 10_000);
    assert!((24_000..30_000).contains(&metric(&board, "snapshot_bytes")));
    assert_eq!(metric(&board, "snapshot_bytes"), fs::metadata(&path).unwrap().len());
    snapshot_thread.stop(Ending::Leave);
    assert_eq!(loaded(&path).1.peer_counts(), swarms.peer_counts());
}

#[test]
fn a_failure_is_logged_once_and_the_next_interval_tries_again() {
    Log::start();
    let folder = Folder::new();
    let (board, path) = (Board::default(), folder.0.path().join("later").join("hayate-cache.bin"));
    let snapshot_thread = SnapshotThread::start(plan(&path, &swarms(7), 1), Clock::start()).unwrap();
    snapshot_thread.register_metrics(&board);
    wait_for("two failures", || metric(&board, "snapshot_failures_total") >= 2);
    fs::create_dir(folder.0.path().join("later")).unwrap();
    wait_for("a snapshot", || metric(&board, "snapshots_total") >= 2);
    snapshot_thread.stop(Ending::Leave);
    assert_eq!((LOG.count("ERROR", &path), LOG.count("INFO", &path)), (1, 1));
}

#[test]
fn a_missing_file_is_no_warning() {
    Log::start();
    let folder = Folder::new();
    assert!(matches!(loaded(&folder.file()).0, LoadOutcome::Missing));
    assert_eq!(LOG.count("WARN", &folder.file()), 0);
}

#[test]
fn every_damaged_file_is_set_aside_and_nothing_of_it_restored() {
    Log::start();
    let folder = Folder::new();
    // Of the future, so that no peer has expired.
    let (path, good) = (folder.file(), snapshot_of(&swarms(300), 0, FUTURE));
    let refused = |octets: &[u8], what: &str| {
        fs::write(&path, octets).unwrap();
        let (result, swarms) = loaded(&path);
        assert!(matches!(result, LoadOutcome::SetAside(_)), "{what}: {result:?}");
        assert_eq!((swarms.live(), swarms.idle()), (0, 0), "{what}");
        assert_eq!(folder.names(), ["hayate-cache.bin.bad"], "{what}");
        assert_eq!(fs::read(folder.0.path().join("hayate-cache.bin.bad")).unwrap(), octets);
    };
    fs::write(&path, &good).unwrap();
    assert_eq!(loaded(&path).1.peer_counts().total(), 300, "it would be restored");
    refused(&[], "empty");
    refused(b"something else", "foreign");
    assert_eq!(LOG.count("WARN", &path), 2);
    for len in (0..good.len()).step_by(17).chain([good.len() - 1]) {
        refused(&good[..len], "truncated");
    }
    for bit in (0..8 * good.len()).step_by(23) {
        let mut octets = good.clone();
        octets[bit / 8] ^= 1 << (bit % 8);
        refused(&octets, "a flipped bit");
    }
    refused(&[&good[..], &[0]].concat(), "too long");
    let mut writer = SnapshotWriter::new(Vec::new(), FUTURE).unwrap();
    let mut blocks = SnapshotReader::new(good.as_slice()).unwrap();
    while let Some((tag, payload)) = blocks.next_block().unwrap() {
        writer.write_block(tag, payload).unwrap();
    }
    writer.write_block(TAG_SWARMS, b"nonsense under a good checksum").unwrap();
    refused(&writer.finish().unwrap(), "nonsense behind what is good");
}

/// Words that are kept beside the swarms.
struct Words(Vec<String>);

const TAG_WORDS: u8 = 200;

impl Section for Words {
    fn write(&mut self, to: &mut dyn BlockSink, pace: &mut Pace<'_>) -> io::Result<u64> {
        for word in &self.0 {
            to.write_block(TAG_WORDS, word.as_bytes())?;
            pace.pause()?;
        }
        Ok(0)
    }
}

impl RestoreTarget for Words {
    fn check_block(&self, tag: u8, payload: &[u8]) -> Result<(), SnapshotError> {
        let is_good = tag != TAG_WORDS || std::str::from_utf8(payload).is_ok();
        is_good.then_some(()).ok_or(SnapshotError::Damaged("a word"))
    }

    fn restore_block(&mut self, _: Now, _: i64, tag: u8, payload: &[u8]) -> Result<(), SnapshotError> {
        if tag == TAG_WORDS {
            self.0.push(String::from_utf8(payload.to_vec()).unwrap());
        }
        Ok(())
    }

    fn summary(&self) -> String {
        format!("{} words", self.0.len())
    }
}

#[test]
fn the_last_snapshot_says_what_failed_and_how_many_peers_are_lost() {
    Log::start();
    let folder = Folder::new();
    let (board, path) = (Board::default(), folder.0.path().join("nowhere").join("hayate-cache.bin"));
    // An earlier failure was logged, and that of the last snapshot is logged all the same.
    let snapshot_thread = SnapshotThread::start(plan(&path, &swarms(7), 1), Clock::start()).unwrap();
    snapshot_thread.register_metrics(&board);
    wait_for("a failure", || metric(&board, "snapshot_failures_total") >= 1);
    assert!(!snapshot_thread.stop(Ending::Write));
    assert_eq!(LOG.count("ERROR", &path), 2);
    assert_eq!(LOG.count("7 peers are lost", &path), 1);
    let snapshot_thread = SnapshotThread::start(plan(&path, &swarms(7), 0), Clock::start()).unwrap();
    assert!(snapshot_thread.stop(Ending::Leave), "there was nothing to do");
}

#[test]
fn others_keep_blocks_in_the_same_file() {
    let folder = Folder::new();
    let (path, old) = (folder.file(), swarms(7));
    let mut plan = plan(&path, &old, 0);
    plan.sections.push(Box::new(Words(vec!["one".into(), "two".into()])));
    SnapshotThread::start(plan, Clock::start()).unwrap().stop(Ending::Write);
    // A reader that does not know them skips them.
    assert_eq!(loaded(&path).1.peer_counts(), old.peer_counts());
    let (swarms, policy, mut words) = (Swarms::new(0), Policy::default(), Words(Vec::new()));
    let mut restore = Restore::new(&swarms, &policy, CompletedFrom::Snapshot);
    let result = load_snapshot(&path, &Clock::start(), &mut [&mut restore, &mut words]);
    assert!(matches!(result, LoadOutcome::Restored));
    assert_eq!((words.0, swarms.peer_counts()), (vec!["one".into(), "two".into()], old.peer_counts()));
}
