//! Crashes at every point between an announce and the store, in virtual time: what is credited is what became
//! durable, and a session that announces again continues from there, to the octet.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use hayate_state::private::snapshot::{SiteRestore, SiteSection};
use hayate_state::private::{Site, SiteSync};
use hayate_state::snapshot::load::load_snapshot;
use hayate_state::snapshot::thread::{Ending, SnapshotPlan, SnapshotThread};
use hayate_state::store::{
    Backend, Batch, Bounds, OpenedStore, Queues, Saved, SpillPaths, Store, StoreError, WriterSettings,
};
use hayate_state::{Announce, Clock, Event, Handout, Now, PeerId, Policy, Published, Swarms, Tracker};

use crate::double::{OverriddenStore, StoreOverrides};
use crate::{backend, test_info_hash, test_passkey};

const USERS: u32 = 5;
const TORRENTS: u32 = 7;
const CRASHES: u32 = 60;
/// No peer is silent for this long here.
const INACTIVITY: u32 = 1_000_000;

/// A store that keeps some batches and then becomes unreachable.
struct Mortal {
    store: Box<dyn Store>,
    /// Batches that it still keeps.
    life: Arc<AtomicU32>,
}

fn gone() -> StoreError {
    StoreError::Lost { text: "gone".into(), in_doubt: false }
}

impl StoreOverrides for Mortal {
    fn fallback(&mut self) -> &mut dyn Store {
        &mut *self.store
    }

    fn save(&mut self, batch: &Batch) -> Result<Saved, StoreError> {
        let one_less = |life: u32| life.checked_sub(1);
        self.life.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).map_err(|_| gone())?;
        self.store.save(batch)
    }
}

/// A session: torrent, user, client.
type Name = (u32, u32, u32);

/// What has happened, expressed as plainly as possible: totals of sessions, and the credit by user and
/// torrent.
#[derive(Clone, Default)]
struct Ledger {
    totals: BTreeMap<Name, (u64, u64)>,
    credit: BTreeMap<(u32, u32), (u64, u64)>,
}

impl Ledger {
    fn announce(&mut self, name: Name, totals: (u64, u64), stops: bool) {
        let before = self.totals.get(&name).copied().unwrap_or(totals);
        let (torrent, user, _) = name;
        let credit = self.credit.entry((user, torrent)).or_default();
        *credit = (credit.0 + totals.0 - before.0, credit.1 + totals.1 - before.1);
        if stops {
            self.totals.remove(&name);
        } else {
            self.totals.insert(name, totals);
        }
    }
}

/// A tracker whose threads are not started: the test decides when anything happens.
struct TestSite {
    site: Arc<Site>,
    queues: Arc<Queues>,
    tracker: Tracker,
    opened: OpenedStore,
    life: Arc<AtomicU32>,
    clock: Clock,
}

impl TestSite {
    fn open(backend: &Backend, folder: &Path) -> Self {
        let clock = Clock::start();
        let queues = Arc::new(Queues::accounting(clock, &Bounds::default()));
        let paths =
            SpillPaths { spill_dir: folder.join("spill"), dead_letter: folder.join("dead-letter.jsonl") };
        let life = Arc::new(AtomicU32::new(u32::MAX));
        let (opening, lives) = (backend.clone(), Arc::clone(&life));
        let opener = Box::new(move || {
            let store = opening.open()?;
            Ok(Box::new(OverriddenStore(Mortal { store, life: Arc::clone(&lives) })) as Box<dyn Store>)
        });
        let opened =
            OpenedStore::new(&queues, clock, &Published::new(WriterSettings::default()), &paths, opener)
                .unwrap();
        let site = Site::new();
        let mut restore =
            SiteRestore::new(&site.torrents, Now::at(0)).with_durable(opened.durable_totals().unwrap());
        let _ = load_snapshot(&folder.join("cache"), &clock, &mut [&mut restore]);
        restore.finish();
        SiteSync::new(backend.clone(), Arc::clone(&site), Arc::clone(&queues)).load_sets(&clock).unwrap();
        let policy = Policy { peer_inactivity_seconds: INACTIVITY, ..Policy::default() };
        let tracker = Tracker::new(Swarms::new(0), &Published::new(policy), 7);
        let tracker = tracker.with_site(Arc::clone(&site)).with_queues(Arc::clone(&queues));
        Self { site, queues, tracker, opened, life, clock }
    }

    fn announce(&mut self, second: u32, (torrent, user, client): Name, totals: (u64, u64), event: Event) {
        let user = self.tracker.find_user(test_passkey(user).as_bytes()).unwrap();
        let announce = Announce {
            info_hash: test_info_hash(torrent),
            peer_id: PeerId(format!("-TR2940-{client:012}").into_bytes().try_into().unwrap()),
            address: [45, 0, 0, 7].into(),
            port: 6881,
            uploaded: totals.0,
            downloaded: totals.1,
            left: 9,
            event,
            num_want: 0,
        };
        let mut handout = Handout::new(&mut [], &mut []);
        self.tracker.announce_user(Now::at(second), user, &announce, None, &mut handout).unwrap();
    }

    fn write_snapshot(&self, path: PathBuf) {
        let section = SiteSection::new(Arc::clone(&self.site), Arc::clone(&self.queues));
        let plan = SnapshotPlan {
            path,
            every_seconds: Arc::new(AtomicU32::new(0)),
            swarms: Swarms::new(0),
            sections: vec![Box::new(section)],
        };
        SnapshotThread::start(plan, self.clock).unwrap().stop(Ending::Write);
    }
}

/// Creates users, torrents and a client, in a file.
fn found(path: &Path) -> (Backend, rusqlite::Connection) {
    let backend = backend(&format!("sqlite:{}", path.display()));
    backend.migrate().unwrap();
    let connection = rusqlite::Connection::open(path).unwrap();
    let mut sql = "INSERT INTO approved_clients (id, peer_id, archived) VALUES (1, '-TR2', 0);".to_owned();
    for id in 1..=USERS {
        let columns = "ID, Enabled, torrent_pass, UpMultiplier, DownMultiplier";
        sql +=
            &format!("INSERT INTO users_main ({columns}) VALUES ({id}, '1', '{}', 1, 1);", test_passkey(id));
    }
    for id in 1..=TORRENTS {
        let columns = "ID, GroupID, TorrentType, info_hash, UpMultiplier, DownMultiplier, Status";
        let info_hash = test_info_hash(id);
        sql +=
            &format!("INSERT INTO torrents ({columns}) VALUES ({id}, 1, 'anime', X'{info_hash}', 1, 1, 0);");
    }
    connection.execute_batch(&sql).unwrap();
    (backend, connection)
}

/// The amounts in the database, by user and torrent, after checking that they add up to those of each user.
fn credited(connection: &rusqlite::Connection) -> BTreeMap<(u32, u32), (u64, u64)> {
    let mut statement =
        connection.prepare("SELECT uid, fid, uploaded, downloaded FROM transfer_history").unwrap();
    let amount = |row: &rusqlite::Row<'_>, at| row.get::<_, i64>(at).map(i64::unsigned_abs);
    let pair =
        |row: &rusqlite::Row<'_>, at| Ok::<_, rusqlite::Error>((amount(row, at)?, amount(row, at + 1)?));
    let rows = statement.query_map([], |row| Ok(((row.get(0)?, row.get(1)?), pair(row, 2)?)));
    let history: BTreeMap<(u32, u32), (u64, u64)> = rows.unwrap().map(Result::unwrap).collect();
    let mut statement = connection.prepare("SELECT ID, Uploaded, Downloaded FROM users_main").unwrap();
    let rows = statement.query_map([], |row| Ok((row.get::<_, u32>(0)?, pair(row, 1)?)));
    for (user, amounts) in rows.unwrap().map(Result::unwrap) {
        let of_user = history.iter().filter(|((uid, _), _)| *uid == user).map(|(_, credit)| credit);
        let sum = of_user.fold((0, 0), |sum: (u64, u64), credit| (sum.0 + credit.0, sum.1 + credit.1));
        assert_eq!(amounts, sum, "user {user}: {history:?}");
    }
    history
}

/// The file that was written last.
fn last_segment(folder: &Path) -> Option<(PathBuf, u64)> {
    let entries = std::fs::read_dir(folder.join("spill")).ok()?.map(|entry| entry.unwrap().path());
    let path = entries.filter(|path| path.display().to_string().contains("/cuts-")).max()?;
    let len = path.metadata().unwrap().len();
    Some((path, len))
}

#[test]
fn after_a_crash_at_any_point_what_is_credited_is_what_became_durable() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let folder = tempfile::tempdir().unwrap();
    let (backend, connection) = found(&folder.path().join("site.db"));
    let (mut live, mut reported) = (Ledger::default(), BTreeMap::<Name, (u64, u64)>::new());
    let mut durable = live.clone();
    let (mut second, mut points) = (0, [0; 6]);
    for crash in 0..CRASHES {
        let mut test_site = TestSite::open(&backend, folder.path());
        assert_eq!(credited(&connection), durable.credit, "crash {crash}");
        for round in 0..random.u32(1..4) {
            for _ in 0..random.u32(..60) {
                second += 1;
                let name = (random.u32(1..=TORRENTS), random.u32(1..=USERS), random.u32(..2));
                let totals = reported.entry(name).or_default();
                *totals = (totals.0 + random.u64(..50_000), totals.1 + random.u64(..50_000));
                let stops = random.u8(..12) == 0;
                test_site.announce(second, name, *totals, if stops { Event::Stopped } else { Event::None });
                live.announce(name, *totals, stops);
            }
            // The first cut is complete: before it there is nothing to compare a snapshot's totals with.
            if (crash, round) == (0, 0) || random.bool() {
                test_site.opened.emergency_flush().flush_to_disk();
                durable = live.clone();
                if random.bool() {
                    assert!(test_site.opened.drain());
                    assert_eq!(credited(&connection), durable.credit, "without a crash");
                }
            }
            if random.u8(..4) == 0 {
                test_site.write_snapshot(folder.path().join("cache"));
            }
        }
        let point = random.usize(..points.len());
        points[point] += 1;
        match point {
            // Nothing reported since the last cut is on the disk.
            0 => {}
            // The cut is torn.
            1 => {
                let before = last_segment(folder.path());
                test_site.opened.emergency_flush().flush_to_disk();
                let (path, len) = last_segment(folder.path()).unwrap();
                let begin = before.filter(|(same, _)| *same == path).map_or(0, |(_, len)| len);
                if begin < len {
                    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
                    file.set_len(random.u64(begin..len)).unwrap();
                }
            }
            // The cut is there; none, some or all channels are in the store, which then is unreachable, or
            // not.
            _ => {
                test_site.opened.emergency_flush().flush_to_disk();
                durable = live.clone();
                let life = [0, 1, 3, u32::MAX][point - 2];
                test_site.life.store(life, Ordering::Relaxed);
                test_site.opened.drain();
            }
        }
        if random.u8(..5) == 0 {
            let _ = std::fs::remove_file(folder.path().join("cache"));
        }
        drop(test_site);
        live = durable.clone();
    }
    println!("crashes by point: {points:?}");
    drop(TestSite::open(&backend, folder.path()));
    assert_eq!(credited(&connection), durable.credit);
    assert!(!folder.path().join("dead-letter.jsonl").exists());
}

#[test]
fn rows_that_one_database_has_are_not_replayed_into_another() {
    let folder = tempfile::tempdir().unwrap();
    let (first, connection) = found(&folder.path().join("first.db"));
    let mut test_site = TestSite::open(&first, folder.path());
    test_site.announce(1, (1, 1, 0), (1000, 7), Event::Started);
    test_site.announce(2, (1, 1, 0), (1500, 8), Event::None);
    test_site.opened.start().unwrap().stop();
    assert_eq!(credited(&connection), [((1, 1), (500, 1))].into());
    let (second, connection) = found(&folder.path().join("second.db"));
    let mut test_site = TestSite::open(&second, folder.path());
    assert_eq!(credited(&connection), [].into());
    test_site.announce(3, (1, 1, 0), (1600, 8), Event::None);
    test_site.opened.start().unwrap().stop();
    assert_eq!(credited(&connection), [((1, 1), (100, 0))].into());
}

#[test]
fn cuts_of_a_newer_program_refuse_the_start_and_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (backend, connection) = found(&folder.path().join("site.db"));
    let mut test_site = TestSite::open(&backend, folder.path());
    test_site.announce(1, (1, 1, 0), (1000, 7), Event::Started);
    test_site.announce(2, (1, 1, 0), (1500, 8), Event::None);
    test_site.opened.emergency_flush().flush_to_disk();
    drop(test_site);
    let (path, _) = last_segment(folder.path()).unwrap();
    let mut octets = std::fs::read(&path).unwrap();
    // A good frame with a letter that this program does not have.
    let (number, payload) = (9_u64.to_le_bytes(), b"~ the year 2030, and some more octets");
    let mut summed = crc32fast::Hasher::new();
    summed.update(&number);
    summed.update(payload);
    octets.extend(u32::try_from(payload.len()).unwrap().to_le_bytes());
    octets.extend(summed.finalize().to_le_bytes());
    octets.extend(number);
    octets.extend(payload);
    std::fs::write(&path, &octets).unwrap();
    let queues = Arc::new(Queues::accounting(Clock::start(), &Bounds::default()));
    let paths = SpillPaths {
        spill_dir: folder.path().join("spill"),
        dead_letter: folder.path().join("dead-letter.jsonl"),
    };
    let opener = Box::new(move || backend.open());
    let refused =
        OpenedStore::new(&queues, Clock::start(), &Published::new(WriterSettings::default()), &paths, opener);
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("spill holds records of a newer hayate"), "{text}");
    assert_eq!(std::fs::read(&path).unwrap(), octets);
    assert_eq!(credited(&connection), [((1, 1), (500, 1))].into(), "those before it are given out");
}
