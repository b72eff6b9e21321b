//! A stop while the store hangs, and a store that can be reached but takes nothing.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hayate_state::store::record::UserRow;

use hayate_state::store::{
    Backend, Batch, Bounds, Leftovers, OpenedStore, Queues, Record, Recorder, Saved, SpillPaths, Store,
    StoreError, WriterSettings, spill_unnumbered,
};
use hayate_state::{Board, Clock, Published};
use parking_lot::{Condvar, Mutex};

use crate::double::{OverriddenStore, StoreOverrides};
use crate::promise::fresh_sqlite;
use crate::servers::Server;
use crate::trouble::{UNMIGRATE, site};

/// Longest wait for what should happen at once.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// What a [`ControlledStore`] store does with a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum StoreBehaviour {
    #[default]
    Good,
    /// The call does not return before the behaviour changes.
    Hangs,
    /// It can be reached, and takes nothing: its disk is full.
    Refuses,
}

#[derive(Default)]
struct StoreControl {
    behaviour: Mutex<StoreBehaviour>,
    changed: Condvar,
    /// A batch waits in a call.
    hangs: AtomicBool,
    /// The writer has dropped the store.
    gone: AtomicBool,
    board: Mutex<Option<Arc<Board>>>,
    /// The value of `database_up` at each batch.
    up: Mutex<Vec<u64>>,
}

impl StoreControl {
    fn set(&self, behaviour: StoreBehaviour) {
        *self.behaviour.lock() = behaviour;
        self.changed.notify_all();
    }
}

struct ControlledStore {
    store: Box<dyn Store>,
    control: Arc<StoreControl>,
    /// Dropped after `store`, whose lock is free by then.
    _last: GoneOnDrop,
}

struct GoneOnDrop(Arc<StoreControl>);

impl Drop for GoneOnDrop {
    fn drop(&mut self) {
        self.0.gone.store(true, Ordering::Release);
    }
}

impl StoreOverrides for ControlledStore {
    fn fallback(&mut self) -> &mut dyn Store {
        &mut *self.store
    }

    fn save(&mut self, batch: &Batch) -> Result<Saved, StoreError> {
        if let Some(board) = &*self.control.board.lock() {
            self.control.up.lock().push(metric(board, "database_up"));
        }
        let mut behaviour = self.control.behaviour.lock();
        while *behaviour == StoreBehaviour::Hangs {
            self.control.hangs.store(true, Ordering::Release);
            self.control.changed.wait(&mut behaviour);
        }
        if *behaviour == StoreBehaviour::Refuses {
            return Err(StoreError::Lost { text: "disk full".into(), in_doubt: false });
        }
        drop(behaviour);
        self.store.save(batch)
    }
}

fn metric(board: &Board, name: &str) -> u64 {
    board.read_series().iter().find(|reading| reading.name == name).unwrap().value
}

fn wait_for(what: &str, holds: impl Fn() -> bool) {
    let clock = Clock::start();
    while !holds() {
        assert!(clock.uptime() < WAIT_MAX, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The journal has small numbers, and the process that stops does not know them.
#[test]
fn rows_of_a_process_that_never_reached_its_store_are_written_by_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let database = fresh_sqlite(&folder.path().join("hayate.db"));
    let uploaded = || (database.run)("SELECT Uploaded FROM users_main WHERE ID = 1").parse::<u64>().unwrap();
    let before = uploaded();
    let start = || recorder(&database.backend, folder.path(), &Arc::default());
    let (queues, recorder) = start();
    upload(&queues, 1, 3);
    assert!(recorder.stop());
    // Twice without a start in between, too.
    for more in [5, 7] {
        let queues = Arc::new(Queues::new(Clock::start(), &Bounds::default()));
        upload(&queues, 1, more);
        assert_eq!(spill_unnumbered(&queues, Clock::start(), &folder.path().join("spill")).unwrap(), 0);
    }
    assert_eq!(uploaded(), before + 3);
    let (queues, recorder) = start();
    assert_eq!(uploaded(), before + 3 + 5 + 7);
    upload(&queues, 1, 11);
    assert!(recorder.stop());
    assert_eq!(uploaded(), before + 3 + 5 + 7 + 11, "and the numbers go on from there");
}

fn recorder(backend: &Backend, folder: &Path, control: &Arc<StoreControl>) -> (Arc<Queues>, Recorder) {
    let (queues, opened) = open(Leftovers::Written, backend, folder, control);
    (queues, opened.start().unwrap())
}

fn open(
    leftovers: Leftovers,
    backend: &Backend,
    folder: &Path,
    control: &Arc<StoreControl>,
) -> (Arc<Queues>, OpenedStore) {
    let clock = Clock::start();
    let queues = Arc::new(Queues::new(clock, &Bounds::default()));
    let settings =
        Published::new(WriterSettings { flush: Duration::from_millis(5), ..WriterSettings::default() });
    let paths = SpillPaths { spill_dir: folder.join("spill"), dead_letter: folder.join("dead-letter.jsonl") };
    let (backend, control) = (backend.clone(), Arc::clone(control));
    let opener = Box::new(move || {
        let (store, last) = (backend.open()?, GoneOnDrop(Arc::clone(&control)));
        Ok(Box::new(OverriddenStore(ControlledStore { store, control: Arc::clone(&control), _last: last }))
            as Box<dyn Store>)
    });
    let opened = OpenedStore::open(&queues, clock, &settings, &paths, opener, leftovers).unwrap();
    (queues, opened)
}

fn upload(queues: &Queues, id: u32, uploaded: u64) {
    queues.put(Record::User(UserRow { id, uploaded, ..UserRow::default() }));
}

/// Stops while the store hangs, which then keeps the batch all the same; returns what it has after a further
/// run.
fn stopped_while_hanging(backend: &Backend, folder: &Path, uploaded: &dyn Fn() -> u64) -> u64 {
    let control = Arc::new(StoreControl::default());
    let (queues, recorder) = self::recorder(backend, folder, &control);
    control.set(StoreBehaviour::Hangs);
    upload(&queues, 2, 7);
    wait_for("a batch hangs", || control.hangs.load(Ordering::Acquire));
    upload(&queues, 2, 110);
    assert!(recorder.stop_within(Duration::from_millis(20)), "nothing is lost");
    assert!(std::fs::read_dir(folder.join("spill")).unwrap().count() > 0, "it waits on the disk");
    let before = uploaded();
    control.set(StoreBehaviour::Good);
    wait_for("the writer ends", || control.gone.load(Ordering::Acquire));
    assert_eq!(uploaded(), before + 7, "it has given up behind the batch that hung");
    let (queues, recorder) = self::recorder(backend, folder, &Arc::default());
    upload(&queues, 2, 1300);
    assert!(recorder.stop());
    uploaded()
}

#[test]
fn a_store_that_hangs_holds_up_no_stop_and_nothing_is_lost_or_doubled() {
    let folder = tempfile::tempdir().unwrap();
    let database = fresh_sqlite(&folder.path().join("site.db"));
    let uploaded = || database.sql("SELECT Uploaded FROM users_main WHERE ID = 2").parse().unwrap();
    let before = uploaded();
    assert_eq!(stopped_while_hanging(&database.backend, folder.path(), &uploaded), before + 1417);
}

#[test]
fn a_successor_does_not_wait_for_what_is_left_on_the_disk_and_writes_it_once() {
    let folder = tempfile::tempdir().unwrap();
    let database = fresh_sqlite(&folder.path().join("site.db"));
    let uploaded = || database.sql("SELECT Uploaded FROM users_main WHERE ID = 2").parse::<u64>().unwrap();
    let before = uploaded();
    let control = Arc::new(StoreControl::default());
    let (queues, recorder) = recorder(&database.backend, folder.path(), &control);
    control.set(StoreBehaviour::Refuses);
    upload(&queues, 2, 7);
    assert!(recorder.stop_for_successor(WAIT_MAX), "nothing is lost");
    let successor = Arc::new(StoreControl::default());
    successor.set(StoreBehaviour::Hangs);
    let (queues, opened) = open(Leftovers::Kept, &database.backend, folder.path(), &successor);
    let recorder = opened.start().unwrap();
    wait_for("it writes by itself", || successor.hangs.load(Ordering::Acquire));
    assert_eq!(uploaded(), before);
    successor.set(StoreBehaviour::Good);
    upload(&queues, 2, 110);
    assert!(recorder.stop());
    assert_eq!(uploaded(), before + 117);
}

#[test]
fn without_a_journal_what_hung_at_a_stop_is_not_written_twice() {
    let server = Server::new();
    let backend = site(&server, "site");
    server.sql_in("site", UNMIGRATE);
    let folder = tempfile::tempdir().unwrap();
    let select = "SELECT Uploaded FROM users_main WHERE ID = 2";
    let uploaded = || server.sql_in("site", select).parse().unwrap();
    let before = uploaded();
    assert_eq!(stopped_while_hanging(&backend, folder.path(), &uploaded), before + 1417);
}

#[test]
fn a_store_that_takes_nothing_is_not_back_before_it_has_kept_a_row() {
    let folder = tempfile::tempdir().unwrap();
    let database = fresh_sqlite(&folder.path().join("site.db"));
    let (control, board) = (Arc::new(StoreControl::default()), Arc::new(Board::default()));
    let (queues, recorder) = self::recorder(&database.backend, folder.path(), &control);
    recorder.register_metrics(&board);
    control.set(StoreBehaviour::Refuses);
    *control.board.lock() = Some(Arc::clone(&board));
    upload(&queues, 2, 7);
    wait_for("three tries", || control.up.lock().len() >= 3);
    control.set(StoreBehaviour::Good);
    wait_for("the database is back", || metric(&board, "database_up") == 1);
    let up = std::mem::take(&mut *control.up.lock());
    assert!(up.len() >= 4 && up[0] == 1 && up[1..].iter().all(|&up| up == 0), "{up:?}");
    assert!(recorder.stop());
}
