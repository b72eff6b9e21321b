//! The recorder against a store that fails at every turn: every queued record is kept, exactly once.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hayate_state::store::record::{CompletedRow, TorrentRow, UserRow};
use hayate_state::store::{
    Backend, Batch, Bounds, Channel, OpenedStore, Queues, Record, Saved, SpillPaths, Store, StoreError,
    WriterSettings,
};
use hayate_state::{Clock, InfoHash, Published};
use parking_lot::Mutex;

use crate::double::{OverriddenStore, StoreOverrides};
use crate::promise::fresh_sqlite;
use crate::servers::Server;
use crate::trouble::{UNMIGRATE, site};

/// A real store whose answers are sometimes lost.
struct Faulty {
    store: Box<dyn Store>,
    faults: Arc<Faults>,
}

struct Faults {
    random: Mutex<fastrand::Rng>,
    /// In percent.
    share: u32,
    /// Whether the store is unreachable.
    away: AtomicBool,
}

impl Faults {
    fn strike(&self) -> bool {
        self.random.lock().u32(..100) < self.share
    }
}

fn faults(share: u32, random: &mut fastrand::Rng) -> Arc<Faults> {
    let random = Mutex::new(random.fork());
    Arc::new(Faults { random, share, away: AtomicBool::new(false) })
}

fn lost(in_doubt: bool) -> StoreError {
    StoreError::Lost { text: "struck".into(), in_doubt }
}

impl StoreOverrides for Faulty {
    fn fallback(&mut self) -> &mut dyn Store {
        &mut *self.store
    }

    fn save(&mut self, batch: &Batch) -> Result<Saved, StoreError> {
        if self.faults.away.load(Ordering::Relaxed) || self.faults.strike() {
            return Err(lost(false));
        }
        if self.faults.strike() {
            return Err(StoreError::Deadlock("struck".into()));
        }
        let saved = self.store.save(batch)?;
        if self.faults.strike() { Err(lost(true)) } else { Ok(saved) }
    }

    fn rehearse(&mut self, batch: &Batch) -> Result<(), StoreError> {
        if self.faults.strike() { Err(lost(false)) } else { self.store.rehearse(batch) }
    }

    fn acknowledged(&mut self, channel: Channel) -> Result<Option<u64>, StoreError> {
        if self.faults.strike() { Err(lost(false)) } else { self.store.acknowledged(channel) }
    }
}

/// One run of a tracker; returns whether it could start.
fn run(backend: &Backend, folder: &Path, faults: &Arc<Faults>, work: impl FnOnce(&Queues)) -> bool {
    let clock = Clock::start();
    let bounds = Bounds { users: 7, completed: 11, ..Bounds::default() };
    let queues = Arc::new(Queues::new(clock, &bounds));
    let settings = Published::new(WriterSettings {
        flush: Duration::from_millis(20),
        deadlock_pause: Duration::from_millis(5),
        ..WriterSettings::default()
    });
    let paths = SpillPaths { spill_dir: folder.join("spill"), dead_letter: folder.join("dead-letter.jsonl") };
    let (backend, kept) = (backend.clone(), Arc::clone(faults));
    let opener = Box::new(move || {
        if kept.away.load(Ordering::Relaxed) {
            return Err(lost(false));
        }
        let store = Faulty { store: backend.open()?, faults: Arc::clone(&kept) };
        Ok(Box::new(OverriddenStore(store)) as Box<dyn Store>)
    });
    let Ok(opened) = OpenedStore::new(&queues, clock, &settings, &paths, opener) else { return false };
    let recorder = opened.start().unwrap();
    work(&queues);
    recorder.stop();
    true
}

/// Queues random records from two threads; adds them to those that must be kept.
fn put(queues: &Queues, random: &mut fastrand::Rng, users: &mut BTreeMap<u32, u64>, hashes: &mut [u64; 30]) {
    let rows = random.u32(..3000);
    let seed = random.u64(..);
    let (of_users, of_hashes) = std::thread::scope(|scope| {
        let first = scope.spawn(move || {
            let (mut random, mut sums) = (fastrand::Rng::with_seed(seed), BTreeMap::new());
            for _ in 0..rows {
                let (id, uploaded) = (random.u32(1..=2), random.u64(..1000));
                queues.put(Record::User(UserRow { id, uploaded, ..UserRow::default() }));
                *sums.entry(id).or_default() += uploaded;
            }
            sums
        });
        let second = scope.spawn(move || {
            let (mut random, mut counts) = (fastrand::Rng::with_seed(!seed), [0; 30]);
            for _ in 0..rows {
                let torrent = random.u8(..30);
                let info_hash = InfoHash([torrent; 20]);
                queues.put(Record::Completed(CompletedRow { info_hash, completed: 1, last_completed: 7 }));
                counts[usize::from(torrent)] += 1;
            }
            counts
        });
        (first.join().unwrap(), second.join().unwrap())
    });
    let of_users: BTreeMap<u32, u64> = of_users;
    of_users.into_iter().for_each(|(id, sum)| *users.entry(id).or_default() += sum);
    hashes.iter_mut().zip(of_hashes).for_each(|(all, more): (&mut u64, u64)| *all += more);
}

#[test]
fn every_record_is_kept_once_whatever_fails_and_however_often_the_tracker_stops() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let folder = tempfile::tempdir().unwrap();
    let database = fresh_sqlite(&folder.path().join("site.db"));
    let (mut users, mut hashes) = (BTreeMap::from([(2, 2551)]), [0; 30]);
    let mut starts = 0;
    for _ in 0..40 {
        let faults = faults(random.u32(..12), &mut random);
        let goes_away = random.bool();
        starts += u32::from(run(&database.backend, folder.path(), &faults, |queues| {
            put(queues, &mut random, &mut users, &mut hashes);
            faults.away.store(goes_away, Ordering::Relaxed);
            put(queues, &mut random, &mut users, &mut hashes);
        }));
    }
    assert!(starts > 5, "{starts} runs could start: too few to show anything");
    // A last run without faults writes what is still on the disk.
    assert!(run(&database.backend, folder.path(), &faults(0, &mut random), |_| {}));
    for (id, sum) in users {
        let uploaded = database.sql(&format!("SELECT Uploaded FROM users_main WHERE ID = {id}"));
        assert_eq!(uploaded, sum.to_string(), "user {id}");
    }
    for (torrent, count) in hashes.into_iter().enumerate() {
        let hash = format!("{torrent:02x}").repeat(20);
        let select = format!("SELECT completed FROM hayate_completed WHERE info_hash = X'{hash}'");
        assert_eq!(database.sql(&select), count.to_string(), "torrent {torrent}");
    }
    let left = std::fs::read_dir(folder.path().join("spill")).unwrap().count();
    assert_eq!(left, 0, "files are removed when all of them is kept");
    assert!(!folder.path().join("dead-letter.jsonl").exists());
}

#[test]
fn a_poison_row_among_good_ones_goes_to_the_dead_letters() {
    let folder = tempfile::tempdir().unwrap();
    let database = fresh_sqlite(&folder.path().join("site.db"));
    let rows: String = (10..1009).map(|id| format!(", ({id}, '{id}')")).collect();
    database.sql("INSERT INTO users_main (ID, torrent_pass) VALUES (9, 'x'), (8, 'y')");
    database.sql(
        "CREATE TRIGGER poison BEFORE UPDATE ON users_main WHEN NEW.ID = 9
         BEGIN SELECT RAISE(ABORT, 'a row that is refused'); END",
    );
    database.sql(&format!("INSERT INTO users_main (ID, torrent_pass) VALUES {}", &rows[2..]));
    let none = faults(0, &mut fastrand::Rng::new());
    assert!(run(&database.backend, folder.path(), &none, |queues| {
        for id in 9..1009 {
            queues.put(Record::User(UserRow { id, uploaded: 7, ..UserRow::default() }));
        }
        queues.put(Record::User(UserRow { id: 5000, uploaded: 7, ..UserRow::default() }));
    }));
    assert_eq!(database.sql("SELECT COUNT(*) FROM users_main WHERE Uploaded = 7"), "999");
    assert_eq!(database.sql("SELECT Uploaded FROM users_main WHERE ID = 9"), "0");
    assert_eq!(database.sql("SELECT COUNT(*) FROM users_main WHERE ID = 5000"), "0", "no ghost");
    let letters = std::fs::read_to_string(folder.path().join("dead-letter.jsonl")).unwrap();
    let letter: serde_json::Value = serde_json::from_str(letters.trim_end()).unwrap();
    assert_eq!(
        (&letter["id"], &letter["uploaded"], &letter["queue"]),
        (&9.into(), &7.into(), &"users".into())
    );
}

#[test]
fn without_a_journal_an_unanswered_commit_is_never_written_twice() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let server = Server::new();
    let database = site(&server, "site");
    server.sql_in("site", UNMIGRATE);
    let folder = tempfile::tempdir().unwrap();
    let mut expected = 2551;
    for _ in 0..12 {
        let faults = faults(random.u32(..25), &mut random);
        // A commit without an answer was carried out all the same: another attempt would count it twice.
        run(&database, folder.path(), &faults, |queues| {
            for _ in 0..200 {
                let uploaded = random.u64(..1000);
                queues.put(Record::User(UserRow { id: 2, uploaded, ..UserRow::default() }));
                expected += uploaded;
            }
        });
    }
    run(&database, folder.path(), &faults(0, &mut random), |_| {});
    assert_eq!(server.sql_in("site", "SELECT Uploaded FROM users_main WHERE ID = 2"), expected.to_string());
}

/// A store without a journal, which checks what the disk says while it is asked to keep a batch.
struct Watchful {
    folder: std::path::PathBuf,
    seen: Arc<Mutex<Vec<(u64, String)>>>,
}

impl StoreOverrides for Watchful {
    fn save(&mut self, batch: &Batch) -> Result<Saved, StoreError> {
        let done = std::fs::read_to_string(self.folder.join("users.done")).unwrap_or_default();
        self.seen.lock().push((batch.sequence, done));
        Ok(Saved::default())
    }

    fn acknowledged(&mut self, _: Channel) -> Result<Option<u64>, StoreError> {
        Ok(None)
    }
}

#[test]
fn without_a_journal_a_batch_counts_as_done_before_it_is_written() {
    for queues in [Queues::new, Queues::accounting] {
        let folder = tempfile::tempdir().unwrap();
        let queues = Arc::new(queues(Clock::start(), &Bounds::default()));
        let (spill_dir, seen) = (folder.path().join("spill"), Arc::default());
        let paths =
            SpillPaths { spill_dir: spill_dir.clone(), dead_letter: folder.path().join("dead-letter") };
        let noted = Arc::clone(&seen);
        let opener = Box::new(move || {
            let store = Watchful { folder: spill_dir.clone(), seen: Arc::clone(&noted) };
            Ok(Box::new(OverriddenStore(store)) as Box<dyn Store>)
        });
        let settings = Published::new(WriterSettings::default());
        let mut opened = OpenedStore::new(&queues, Clock::start(), &settings, &paths, opener).unwrap();
        for id in [1, 2] {
            queues.put(Record::User(UserRow { id, uploaded: 7, ..UserRow::default() }));
            opened.emergency_flush().flush_to_disk();
            assert!(opened.drain());
        }
        assert_eq!(*seen.lock(), [(1, "1".to_owned()), (2, "2".to_owned())]);
    }
}

fn unprune(id: u32) -> Record {
    Record::Torrent(TorrentRow { id, unprune: true, ..TorrentRow::default() })
}

#[test]
fn an_unprune_is_pending_through_an_outage_and_written_by_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let database = fresh_sqlite(&folder.path().join("site.db"));
    let status = "SELECT Status FROM torrents WHERE ID = 1";
    let faults = faults(0, &mut fastrand::Rng::new());
    let mut kept = None;
    assert!(run(&database.backend, folder.path(), &faults, |queues| {
        faults.away.store(true, Ordering::Relaxed);
        queues.put(unprune(1));
        kept = Some(queues.unprunes());
    }));
    assert_eq!((kept.unwrap(), database.sql(status)), (vec![1], "1".to_owned()));
    assert!(std::fs::read_dir(folder.path().join("spill")).unwrap().count() > 0, "it waits on the disk");
    // What is on the disk is written before anything is read: nothing is pending when the tracker serves.
    faults.away.store(false, Ordering::Relaxed);
    assert!(run(&database.backend, folder.path(), &faults, |queues| {
        assert_eq!((queues.unprunes(), database.sql(status)), (vec![], "0".to_owned()));
    }));
}

#[test]
fn an_unprune_that_no_row_takes_is_not_pending_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let database = fresh_sqlite(&folder.path().join("site.db"));
    let clock = Clock::start();
    let queues = Arc::new(Queues::new(clock, &Bounds::default()));
    let paths = SpillPaths {
        spill_dir: folder.path().join("spill"),
        dead_letter: folder.path().join("dead-letter.jsonl"),
    };
    let backend = database.backend.clone();
    let opener = Box::new(move || backend.open());
    let opened =
        OpenedStore::new(&queues, clock, &Published::new(WriterSettings::default()), &paths, opener).unwrap();
    // One is written, one has no row, one goes to the dead letters.
    queues.put(unprune(1));
    queues.put(unprune(99));
    let poison =
        TorrentRow { id: 3, seeders: 1 << 31, has_counts: true, unprune: true, ..TorrentRow::default() };
    queues.put(Record::Torrent(poison));
    let mut pending = queues.unprunes();
    pending.sort_unstable();
    assert_eq!(pending, [1, 3, 99]);
    opened.start().unwrap().stop();
    assert_eq!(queues.unprunes(), [0; 0]);
    let letters = std::fs::read_to_string(&paths.dead_letter).unwrap();
    assert_eq!(letters.lines().count(), 1, "{letters}");
}
