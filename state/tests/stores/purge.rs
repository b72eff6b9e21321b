//! A purge of a large `transfer_history`: how many rows each slice reads and locks, as the server reports it.

use std::iter;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use hayate_state::store::purge::ROWS_MAX;
use hayate_state::store::{PurgeMark, PurgeSlice, Store};
use mysql::prelude::Queryable;

use crate::TestDatabase;
use crate::promise::{fresh_mariadb, fresh_sqlite};
use crate::servers::Server;
use crate::slow_log::root;

/// Rows of the table; a third of them is active, and half of these have been silent for long.
const ROWS: i64 = 300_000;
const LIMIT: i64 = 1_000_000 + ROWS / 2;
/// Rows that one statement may read or lock.
const MOST: u64 = 10_000;

const SILENT: &str = "active = 1 AND last_announce < 1150000";

const READS: &str = "SHOW GLOBAL STATUS LIKE 'Handler_read%'";
/// Time between two checks: the server updates the list of waiting transactions at most ten times a second.
const LOOK: Duration = Duration::from_millis(200);
/// Checks before a test gives up.
const LOOKS: usize = 90;

fn rows(numbers: &str) -> String {
    format!(
        "INSERT INTO transfer_history (uid, fid, active, last_announce)
         SELECT 1000 + seq % 7919, seq, seq % 3 = 0, 1000000 + seq FROM {numbers}"
    )
}

fn slice(from: Option<PurgeMark>) -> PurgeSlice {
    PurgeSlice { before: LIMIT, from, rows_max: ROWS_MAX }
}

/// Purges to the end; `check` is called after each slice. Returns how many rows became inactive.
fn purge(store: &mut dyn Store, check: &mut dyn FnMut(u64)) -> u64 {
    let (mut from, mut inactive) = (None, 0);
    loop {
        let swept = store.purge(&slice(from)).unwrap();
        check(swept.inactive);
        inactive += swept.inactive;
        from = swept.next;
        if from.is_none() {
            return inactive;
        }
    }
}

fn is_purged(database: &TestDatabase, inactive: u64) {
    assert_eq!(inactive, 49_999);
    assert_eq!(database.sql(&format!("SELECT count(*) FROM transfer_history WHERE {SILENT}")), "0");
    let active = "SELECT count(*) FROM transfer_history WHERE active = 1 AND uid >= 1000";
    assert_eq!(database.sql(active), "50001");
}

/// A site with the index, or without it, like one that runs the reference tracker.
fn site(server: &Rc<Server>, name: &str, indexed: bool) -> TestDatabase {
    let database = fresh_mariadb(server, name);
    database.sql("UPDATE transfer_history SET active = 0");
    if !indexed {
        database.sql("ALTER TABLE transfer_history DROP INDEX active_last_announce");
    }
    database.sql(&rows("seq_1_to_300000"));
    database.sql("ANALYZE TABLE transfer_history");
    database
}

#[test]
fn each_slice_reads_little_of_a_large_table() {
    let server = Rc::new(Server::new());
    for (name, indexed) in [("with", true), ("without", false)] {
        let database = site(&server, name, indexed);
        let mut store = database.backend.open().unwrap();
        let mut observer = root(&server);
        let mut reads = || -> u64 {
            let numbers: Vec<(String, u64)> = observer.query(READS).unwrap();
            numbers.into_iter().map(|(_, number)| number).sum()
        };
        let (mut before, mut slices) = (reads(), 0);
        let inactive = purge(&mut *store, &mut |_| {
            let now = reads();
            assert!(now - before <= MOST, "{name}: {} rows read by slice {slices}", now - before);
            (before, slices) = (now, slices + 1);
        });
        is_purged(&database, inactive);
        let expected = if indexed { 49_999 } else { ROWS + 4 } / i64::try_from(ROWS_MAX).unwrap();
        assert_eq!(slices, expected + 1, "{name}");
    }
}

#[test]
fn each_slice_locks_few_rows_and_no_row_that_was_written_meanwhile_is_switched_off() {
    let server = Rc::new(Server::new());
    for (name, indexed) in [("with", true), ("without", false)] {
        let database = site(&server, name, indexed);
        let order = if indexed { "active = 1 DESC, last_announce" } else { "uid, fid" };
        // The last row that the slice will lock is locked by another transaction.
        let last = format!(
            "SELECT uid, fid FROM (SELECT * FROM transfer_history ORDER BY {order} LIMIT {ROWS_MAX}) AS t
             WHERE {SILENT} ORDER BY {} LIMIT 1",
            if indexed { "last_announce DESC" } else { "uid DESC, fid DESC" }
        );
        let (uid, fid) =
            database.sql(&last).split_once('\t').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        let mut other = root(&server);
        other.query_drop(format!("USE `{name}`")).unwrap();
        other.query_drop("START TRANSACTION").unwrap();
        let heard =
            format!("UPDATE transfer_history SET last_announce = 2000000 WHERE uid = {uid} AND fid = {fid}");
        other.query_drop(heard).unwrap();
        let mut store = database.backend.open().unwrap();
        let purging = thread::spawn(move || store.purge(&slice(None)).unwrap());
        let waits = "SELECT trx_rows_locked FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'";
        let mut observer = root(&server);
        let looks = iter::repeat_with(|| {
            thread::sleep(LOOK);
            observer.query_first::<u64, _>(waits).unwrap()
        });
        let locked = looks.take(LOOKS).find_map(|locked| locked).expect("it waits for the row");
        assert!(locked > 0 && locked <= MOST, "{name}: {locked} rows locked");
        other.query_drop("COMMIT").unwrap();
        let swept = purging.join().unwrap();
        assert!(swept.inactive > 0 && swept.next.is_some(), "{name}: {swept:?}");
        let active = format!("SELECT active FROM transfer_history WHERE uid = {uid} AND fid = {fid}");
        assert_eq!(database.sql(&active), "1", "{name}");
    }
}

#[test]
fn an_index_that_is_dropped_meanwhile_costs_a_purge_nothing_but_time() {
    let server = Rc::new(Server::new());
    let database = site(&server, "site", true);
    let mut store = database.backend.open().unwrap();
    let first = store.purge(&slice(None)).unwrap();
    assert!(matches!(first.next, Some(PurgeMark::Time(_))), "{first:?}");
    database.sql("ALTER TABLE transfer_history DROP INDEX active_last_announce");
    let second = store.purge(&slice(first.next)).unwrap();
    assert!(matches!(second.next, Some(PurgeMark::Row(..))), "{second:?}");
    let rest = purge(&mut *store, &mut |_| {});
    is_purged(&database, first.inactive + rest);
}

#[test]
fn a_file_is_purged_in_slices_too() {
    let folder = tempfile::tempdir().unwrap();
    let database = fresh_sqlite(&folder.path().join("site.db"));
    database.sql("UPDATE transfer_history SET active = 0");
    let numbers = "WITH RECURSIVE n (seq) AS (SELECT 1 UNION ALL SELECT seq + 1 FROM n WHERE seq < 300000)";
    let sql = rows("n").replacen("SELECT", &format!("{numbers} SELECT"), 1);
    database.sql(&sql);
    let mut store = database.backend.open().unwrap();
    let most = ROWS_MAX as u64;
    let inactive = purge(&mut *store, &mut |inactive| assert!(inactive <= most));
    is_purged(&database, inactive);
}
