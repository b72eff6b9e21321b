//! The promise of `Store`, on top of the fixture of mode private.

use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};

use hayate_state::InfoHash;
use hayate_state::store::record::{CompletedRow, SnatchRow, TorrentRow, TransferIpRow, TransferRow, UserRow};
use hayate_state::store::{
    Backend, Batch, Channel, Dsn, PurgeSlice, Record, RequiredTables, Saved, Store, StoreError,
};

use crate::servers::Server;
use crate::{FIXTURE, TestDatabase, backend};

const NOW: i64 = 1_700_000_000;
const LOOPBACK: u32 = 2_130_706_433;

#[test]
fn sqlite_keeps_its_promise() {
    let folder = tempfile::tempdir().unwrap();
    let number = AtomicU32::new(0);
    keeps_its_promise(&|| {
        fresh_sqlite(&folder.path().join(format!("{}.db", number.fetch_add(1, Ordering::Relaxed))))
    });
}

/// A file with the fixture.
pub(crate) fn fresh_sqlite(path: &Path) -> TestDatabase {
    let backend = backend(&format!("sqlite:{}", path.display()));
    backend.migrate().unwrap();
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.execute_batch(FIXTURE).unwrap();
    TestDatabase { backend, run: Box::new(move |sql| crate::query_sqlite(&connection, sql)) }
}

#[test]
fn mariadb_keeps_its_promise() {
    let server = Rc::new(Server::new());
    let number = AtomicU32::new(0);
    keeps_its_promise(&|| {
        fresh_mariadb(&server, &format!("promise{}", number.fetch_add(1, Ordering::Relaxed)))
    });
}

/// A database of a server with the fixture.
pub(crate) fn fresh_mariadb(server: &Rc<Server>, name: &str) -> TestDatabase {
    let parameters = "?parseTime=true&charset=utf8mb4&tls=preferred&lock_wait_timeout=11";
    let backend = backend(&format!("{}{parameters}", server.database(name)));
    backend.migrate().unwrap();
    backend.migrate().unwrap();
    server.sql_in(name, FIXTURE);
    let (server, name) = (Rc::clone(server), name.to_owned());
    TestDatabase { backend, run: Box::new(move |sql| server.sql_in(&name, sql)) }
}

/// One part of the promise.
type Check = fn(&TestDatabase);

/// Every store passes this; `fresh` creates a migrated database with the fixture.
fn keeps_its_promise(fresh: &dyn Fn() -> TestDatabase) {
    let facts: [(&str, Check); 16] = [
        ("amounts of users are added", users_are_added),
        ("rows of transfer_history are changed or made", transfers_are_changed_or_made),
        ("rows of transfer_ips are changed or made", transfer_ips_are_changed_or_made),
        ("the first snatch stays", the_first_snatch_stays),
        ("counts of torrents are written", torrents_are_counted),
        ("un-pruning changes nothing else", unpruning_changes_nothing_else),
        ("a bad row undoes its batch", a_bad_row_undoes_its_batch),
        ("sums stop at the end", sums_stop_at_what_their_column_can_hold),
        ("what does not fit is a bad row", what_does_not_fit_is_a_bad_row),
        ("a number is kept once", a_number_is_kept_once),
        ("a rehearsal changes nothing", a_rehearsal_changes_nothing),
        ("rows without target are counted", rows_without_target_are_counted),
        ("a purge reaches what is silent", a_purge_reaches_what_is_silent),
        ("counts of finished downloads are read back", completed_counts_are_read_back),
        ("registered torrents are read", registered_torrents_are_read),
        ("many rows are one batch", many_rows_are_one_batch),
    ];
    for (fact, check) in facts {
        eprintln!("{fact}");
        check(&fresh());
    }
}

fn batch(channel: Channel, sequence: u64, records: Vec<Record>) -> Batch {
    Batch { channel, records, sequence }
}

fn save(store: &mut dyn Store, channel: Channel, sequence: u64, records: Vec<Record>) -> Saved {
    store.save(&batch(channel, sequence, records)).unwrap()
}

fn user(id: u32, uploaded: u64) -> Record {
    Record::User(UserRow { id, uploaded, ..UserRow::default() })
}

fn users_are_added(database: &TestDatabase) {
    let mut store = database.backend.open().unwrap();
    let row = UserRow { id: 2, uploaded: 122, downloaded: 166_944, raw_up: 245, raw_down: 83_472 };
    save(&mut *store, Channel::Users, 1, vec![Record::User(row)]);
    let rows = database.sql("SELECT ID, Uploaded, Downloaded, rawup, rawdl FROM users_main ORDER BY ID");
    assert_eq!(rows, "1\t0\t0\t0\t0\n2\t2673\t166949\t2796\t83477\n3\t12\t0\t12\t0");
}

fn transfers_are_changed_or_made(database: &TestDatabase) {
    let mut store = database.backend.open().unwrap();
    let known = TransferRow {
        uid: 1,
        fid: 1,
        raw_up: 245,
        raw_down: 83_472,
        seeding: false,
        start_time: NOW - 3,
        last_announce: NOW,
        active_time: 267,
        seed_time: 15,
        active: true,
        snatched: 45,
        remaining: 65_000,
    };
    let new = TransferRow {
        uid: 0,
        fid: 2,
        raw_down: 1000,
        seeding: true,
        start_time: NOW - 5,
        last_announce: NOW + 7,
        active_time: 1,
        active: true,
        snatched: 1,
        remaining: 65_000,
        ..TransferRow::default()
    };
    database.sql("UPDATE transfer_history SET hnr = 1 WHERE uid = 1 AND fid = 1");
    save(&mut *store, Channel::TransferHistory, 1, vec![Record::Transfer(new), Record::Transfer(known)]);
    let row = |uid: u32, fid: u32| {
        database.sql(&format!(
            "SELECT uploaded, downloaded, seeding, starttime, last_announce, activetime, seedtime, active,
             snatched, remaining, hnr, snatched_time FROM transfer_history WHERE uid = {uid} AND fid = {fid}"
        ))
    };
    assert_eq!(row(1, 1), "245\t83472\t0\t1584996101\t1700000000\t325\t73\t1\t45\t65000\t1\t0");
    assert_eq!(row(0, 2), "0\t1000\t1\t1699999995\t1700000007\t1\t0\t1\t1\t65000\t0\t0");
    assert_eq!(row(2, 2), "0\t0\t0\t1585080851\t1585082652\t540\t0\t0\t0\t33041477467\t1\t0");
    assert_eq!(database.sql("SELECT count(*) FROM transfer_history"), "5");
}

fn transfer_ips_are_changed_or_made(database: &TestDatabase) {
    let mut store = database.backend.open().unwrap();
    let known = TransferIpRow {
        uid: 0,
        fid: 0,
        client_id: 1,
        ip: LOOPBACK,
        port: 63_447,
        raw_up: 3262,
        raw_down: 236,
        start_time: NOW - 3,
        last_announce: NOW,
        ip6: None,
    };
    let new = TransferIpRow { uid: 1, fid: 2, client_id: 2, port: 80, raw_up: 11, raw_down: 13, ..known };
    let v6 = |last: u8| {
        let mut octets = [0x20; 16];
        octets[15] = last;
        let row = TransferIpRow { ip: 4_148_471_740, ip6: Some(octets), raw_up: 17, ..new };
        Record::TransferIp(row)
    };
    let records = vec![Record::TransferIp(known), Record::TransferIp(new), v6(1)];
    save(&mut *store, Channel::TransferIps, 1, records);
    save(&mut *store, Channel::TransferIps, 2, vec![v6(2)]);
    let rows = database.sql(
        "SELECT ip, client_id, uploaded, downloaded, port + 0, starttime, last_announce,
         CASE WHEN ip6 IS NULL THEN 'none' ELSE hex(ip6) END FROM transfer_ips
         WHERE (uid = 0 AND fid = 0) OR (uid = 1 AND fid = 2) ORDER BY uid, fid, ip",
    );
    let expected = [
        "2130706433\t1\t3262\t236\t63447\t1584802402\t1700000000\tnone",
        "2130706433\t2\t11\t13\t80\t1699999997\t1700000000\tnone",
        // Another address that is shortened to the same number adds to the row of the first.
        "4148471740\t2\t34\t26\t80\t1699999997\t1700000000\t20202020202020202020202020202001",
    ];
    assert_eq!(rows, expected.join("\n"));
    assert_eq!(database.sql("SELECT count(*) FROM transfer_ips"), "7");
}

fn the_first_snatch_stays(database: &TestDatabase) {
    let mut store = database.backend.open().unwrap();
    let snatch = |uid, fid, time| vec![Record::Snatch(SnatchRow { uid, fid, time, start_time: NOW - 11 })];
    save(&mut *store, Channel::Snatches, 1, snatch(1, 1, NOW));
    save(&mut *store, Channel::Snatches, 2, snatch(1, 1, NOW + 1337));
    save(&mut *store, Channel::Snatches, 3, snatch(3, 3, NOW + 5));
    let rows = database.sql(
        "SELECT uid, fid, snatched_time, starttime, last_announce, seedtime FROM transfer_history
         WHERE fid = uid AND uid <> 2 AND uid > 0 ORDER BY uid",
    );
    let expected =
        ["1\t1\t1700000000\t1584996101\t1585168685\t58", "3\t3\t1700000005\t1699999989\t0\t0"].join("\n");
    assert_eq!(rows, expected);
}

const TORRENTS: &str =
    "SELECT ID, Snatched, Seeders, Leechers, last_action, Status FROM torrents ORDER BY ID";

fn torrents_are_counted(database: &TestDatabase) {
    let mut store = database.backend.open().unwrap();
    let row =
        TorrentRow { id: 1, snatched: 5, seeders: 1, leechers: 1, last_action: NOW, ..Default::default() };
    let row = TorrentRow { has_counts: true, ..row };
    // An older time does not replace a later one, and the same counts again are not a missing row.
    let late = TorrentRow { id: 3, snatched: 0, seeders: 7, leechers: 11, last_action: 3, ..row };
    let records = vec![Record::Torrent(row), Record::Torrent(late)];
    assert_eq!(save(&mut *store, Channel::Torrents, 1, records.clone()).without_target, 0);
    let expected =
        ["1\t7\t1\t1\t1700000000\t1", "2\t0\t0\t0\t1415463675\t0", "3\t0\t7\t11\t1609032541\t0"].join("\n");
    assert_eq!(database.sql(TORRENTS), expected);
    assert_eq!(save(&mut *store, Channel::Torrents, 2, records[1..].to_vec()).without_target, 0);
    assert_eq!(database.sql(TORRENTS), expected);
}

fn unpruning_changes_nothing_else(database: &TestDatabase) {
    let mut store = database.backend.open().unwrap();
    database.sql("UPDATE torrents SET Status = 1, Seeders = 13, Leechers = 17");
    let alone =
        TorrentRow { id: 1, unprune: true, seeders: 3, leechers: 5, last_action: NOW, ..Default::default() };
    let both =
        TorrentRow { id: 3, unprune: true, has_counts: true, seeders: 3, leechers: 5, ..Default::default() };
    let saved = save(&mut *store, Channel::Torrents, 1, vec![Record::Torrent(alone), Record::Torrent(both)]);
    assert_eq!(saved.without_target, 0);
    let expected =
        ["1\t2\t13\t17\t1585955952\t0", "2\t0\t13\t17\t1415463675\t1", "3\t0\t3\t5\t1609032541\t0"]
            .join("\n");
    assert_eq!(database.sql(TORRENTS), expected);
}

fn a_bad_row_undoes_its_batch(database: &TestDatabase) {
    let mut store = database.backend.open().unwrap();
    let row = |uid, fid, raw_up, last_announce| {
        Record::Transfer(TransferRow { uid, fid, raw_up, last_announce, ..TransferRow::default() })
    };
    let good = [row(0, 0, 7, NOW), row(2, 2, 11, NOW)];
    let poisoned = vec![good[0], row(1, 1, 1, 1 << 31), good[1]];
    let poisoned = batch(Channel::TransferHistory, 3, poisoned);
    for error in [store.save(&poisoned).unwrap_err(), store.rehearse(&poisoned).unwrap_err()] {
        assert!(matches!(error, StoreError::BadRow { code, .. } if code != 0), "{error:?}");
    }
    let uploaded = "SELECT uploaded FROM transfer_history ORDER BY uid, fid";
    assert_eq!(database.sql(uploaded), "0\n0\n2551\n0");
    assert_eq!(store.acknowledged(Channel::TransferHistory).unwrap(), Some(0));
    save(&mut *store, Channel::TransferHistory, 3, good.into());
    assert_eq!(database.sql(uploaded), "7\n0\n2551\n11");
}

/// Each column alone, and a new row.
fn sums_stop_at_what_their_column_can_hold(database: &TestDatabase) {
    let mut store = database.backend.open().unwrap();
    let (octets, times) = (i64::MAX, i32::MAX);
    let amounts = "UPDATE users_main SET Uploaded = 9223372036854775800, rawup = 9223372036854775807";
    database.sql(&format!("{amounts} WHERE ID = 1"));
    let lie = UserRow { id: 1, uploaded: 7, downloaded: u64::MAX, raw_up: u64::MAX, raw_down: 3 };
    save(&mut *store, Channel::Users, 1, vec![Record::User(lie)]);
    let row = "SELECT Uploaded, Downloaded, rawup, rawdl FROM users_main WHERE ID = 1";
    assert_eq!(database.sql(row), format!("{octets}\t{octets}\t{octets}\t3"));
    save(&mut *store, Channel::Users, 2, vec![Record::User(lie)]);
    assert_eq!(database.sql(row), format!("{octets}\t{octets}\t{octets}\t6"));
    let transfer = |uid| TransferRow {
        uid,
        fid: 1,
        raw_up: u64::MAX,
        raw_down: 1 << 62,
        active_time: i64::from(times) - 57,
        seed_time: i64::MAX,
        snatched: u32::MAX,
        ..TransferRow::default()
    };
    let rows = "SELECT uploaded, downloaded, activetime, seedtime, snatched FROM transfer_history
        WHERE fid = 1 AND uid IN (1, 7) ORDER BY uid";
    for (sequence, made) in [(1, times - 57), (2, times), (3, times)] {
        let records = vec![Record::Transfer(transfer(1)), Record::Transfer(transfer(7))];
        save(&mut *store, Channel::TransferHistory, sequence, records);
        let down = if sequence == 1 { 1 << 62 } else { octets };
        let first = format!("{octets}\t{down}\t{times}\t{times}\t{times}");
        let expected = format!("{first}\n{octets}\t{down}\t{made}\t{times}\t{times}");
        assert_eq!(database.sql(rows), expected, "{sequence}");
    }
    // A value that a site has set itself is left alone.
    database.sql("UPDATE transfer_history SET uploaded = -5, downloaded = -7 WHERE uid = 7");
    let more = TransferRow { raw_up: u64::MAX, raw_down: 9, ..transfer(7) };
    save(&mut *store, Channel::TransferHistory, 4, vec![Record::Transfer(more)]);
    let negative = "SELECT uploaded, downloaded FROM transfer_history WHERE uid = 7";
    assert_eq!(database.sql(negative), format!("{}\t2", octets - 5));
    let address = TransferIpRow {
        uid: 0,
        client_id: 1,
        ip: LOOPBACK,
        raw_up: u64::MAX,
        raw_down: 5,
        ..TransferIpRow::default()
    };
    for sequence in 1..=2 {
        save(&mut *store, Channel::TransferIps, sequence, vec![Record::TransferIp(address)]);
    }
    let rows = "SELECT uploaded, downloaded FROM transfer_ips WHERE uid = 0";
    assert_eq!(database.sql(rows), format!("{octets}\t10"));
    let torrent = TorrentRow { id: 1, snatched: u32::MAX, has_counts: true, ..TorrentRow::default() };
    save(&mut *store, Channel::Torrents, 1, vec![Record::Torrent(torrent)]);
    assert_eq!(database.sql("SELECT Snatched FROM torrents WHERE ID = 1"), u32::MAX.to_string());
    let completed = CompletedRow { info_hash: InfoHash([7; 20]), completed: u32::MAX, last_completed: NOW };
    for sequence in 1..=2 {
        save(&mut *store, Channel::Completed, sequence, vec![Record::Completed(completed)]);
    }
    assert_eq!(database.sql("SELECT completed FROM hayate_completed"), u32::MAX.to_string());
}

fn what_does_not_fit_is_a_bad_row(database: &TestDatabase) {
    let mut store = database.backend.open().unwrap();
    let transfer = TransferRow { uid: 1, fid: 1, ..TransferRow::default() };
    let address = TransferIpRow { uid: 1, fid: 1, client_id: 1, ip: LOOPBACK, ..TransferIpRow::default() };
    let torrent = TorrentRow { id: 1, has_counts: true, ..TorrentRow::default() };
    let completed = CompletedRow { info_hash: InfoHash([7; 20]), completed: 1, last_completed: -1 };
    for bad in [
        Record::Transfer(TransferRow { last_announce: 1 << 31, ..transfer }),
        Record::Transfer(TransferRow { uid: 1 << 31, ..transfer }),
        Record::TransferIp(TransferIpRow { client_id: 1 << 24, ..address }),
        Record::TransferIp(TransferIpRow { last_announce: -1, ..address }),
        Record::Torrent(TorrentRow { seeders: 1 << 31, ..torrent }),
        Record::Completed(completed),
    ] {
        let error = store.save(&batch(bad.channel(), 1, vec![bad])).unwrap_err();
        assert!(matches!(error, StoreError::BadRow { .. }), "{bad:?}: {error:?}");
    }
}

fn a_number_is_kept_once(database: &TestDatabase) {
    let uploaded = "SELECT Uploaded FROM users_main WHERE ID = 1";
    let mut store = database.backend.open().unwrap();
    assert_eq!(store.acknowledged(Channel::Users).unwrap(), Some(0));
    save(&mut *store, Channel::Users, 7, vec![user(1, 3), user(9, 3)]);
    for sequence in [7, 6, 1] {
        let again = save(&mut *store, Channel::Users, sequence, vec![user(1, 3), user(9, 3)]);
        assert_eq!(again, Saved::default());
    }
    assert_eq!(database.sql(uploaded), "3");
    assert_eq!(store.acknowledged(Channel::Users).unwrap(), Some(7));
    assert_eq!(store.acknowledged(Channel::Torrents).unwrap(), Some(0));
    // The same holds after the store is opened again; but another node counts for itself.
    drop(store);
    let mut store = database.backend.open().unwrap();
    assert_eq!(store.acknowledged(Channel::Users).unwrap(), Some(7));
    save(&mut *store, Channel::Users, 7, vec![user(1, 3)]);
    assert_eq!(database.sql(uploaded), "3");
    save(&mut *store, Channel::Users, 8, vec![user(1, 5)]);
    assert_eq!(database.sql(uploaded), "8");
    drop(store);
    let other = Backend::new(database.backend.dsn().clone(), "other", RequiredTables::Own);
    let mut store = other.open().unwrap();
    assert_eq!(store.acknowledged(Channel::Users).unwrap(), Some(0));
    save(&mut *store, Channel::Users, 1, vec![user(1, 11)]);
    assert_eq!(database.sql(uploaded), "19");
}

fn a_rehearsal_changes_nothing(database: &TestDatabase) {
    let mut store = database.backend.open().unwrap();
    store.rehearse(&batch(Channel::Users, 5, vec![user(1, 3)])).unwrap();
    store.rehearse(&batch(Channel::TransferHistory, 5, vec![Record::Purge { before: NOW }])).unwrap();
    assert_eq!(database.sql("SELECT Uploaded FROM users_main ORDER BY ID"), "0\n2551\n12");
    assert_eq!(store.acknowledged(Channel::Users).unwrap(), Some(0));
    save(&mut *store, Channel::Users, 5, vec![user(1, 3)]);
    assert_eq!(database.sql("SELECT Uploaded FROM users_main WHERE ID = 1"), "3");
}

fn rows_without_target_are_counted(database: &TestDatabase) {
    let mut store = database.backend.open().unwrap();
    let users = vec![user(1, 3), user(8, 5), user(9, 7)];
    assert_eq!(save(&mut *store, Channel::Users, 1, users).without_target, 2);
    let torrent = |id, counts, unprune| {
        Record::Torrent(TorrentRow { id, has_counts: counts, unprune, ..TorrentRow::default() })
    };
    let torrents = vec![torrent(2, true, false), torrent(8, true, false), torrent(9, false, true)];
    assert_eq!(save(&mut *store, Channel::Torrents, 1, torrents).without_target, 2);
    assert_eq!(database.sql("SELECT count(*) FROM users_main"), "3");
    assert_eq!(database.sql("SELECT count(*) FROM torrents"), "3");
}

fn a_purge_reaches_what_is_silent(database: &TestDatabase) {
    let mut store = database.backend.open().unwrap();
    database.sql("UPDATE transfer_history SET active = 1");
    let active = || database.sql("SELECT uid, fid, active FROM transfer_history ORDER BY uid, fid");
    let live = TransferRow { uid: 1, fid: 1, last_announce: NOW, active: true, ..TransferRow::default() };
    let records = vec![Record::Purge { before: NOW }, Record::Transfer(live)];
    save(&mut *store, Channel::TransferHistory, 1, records);
    assert_eq!(active(), "0\t0\t1\n1\t1\t1\n2\t1\t1\n2\t2\t1", "the record only asks for it");
    // (0,0) and (2,1) announced just in time.
    assert_eq!(purge(&mut *store, 1_585_955_952), 1);
    assert_eq!(active(), "0\t0\t1\n1\t1\t1\n2\t1\t1\n2\t2\t0");
    assert_eq!(purge(&mut *store, 1_585_955_953), 2);
    assert_eq!(active(), "0\t0\t0\n1\t1\t1\n2\t1\t0\n2\t2\t0");
    let reader =
        database.backend.open_reader().unwrap().purge(&PurgeSlice { before: NOW, from: None, rows_max: 7 });
    assert!(matches!(reader, Err(StoreError::Unfit(_))), "{reader:?}");
}

/// Purges one row at a time; returns how many became inactive.
fn purge(store: &mut dyn Store, before: i64) -> u64 {
    let (mut from, mut inactive) = (None, 0);
    loop {
        let swept = store.purge(&PurgeSlice { before, from, rows_max: 1 }).unwrap();
        inactive += swept.inactive;
        from = swept.next;
        if from.is_none() {
            return inactive;
        }
    }
}

fn completed_counts_are_read_back(database: &TestDatabase) {
    let read = |most: usize, store: &mut dyn Store| {
        let mut all = Vec::new();
        store.read_completed(most, &mut |hash, count| all.push((hash.0[0], count))).unwrap();
        all
    };
    let row = |octet: u8, completed: u32, last_completed: i64| {
        Record::Completed(CompletedRow { info_hash: InfoHash([octet; 20]), completed, last_completed })
    };
    let mut store = database.backend.open().unwrap();
    let records = vec![row(1, 3, NOW), row(2, 5, NOW + 3), row(3, 7, NOW + 1), row(4, 11, NOW)];
    save(&mut *store, Channel::Completed, 1, records);
    save(&mut *store, Channel::Completed, 2, vec![row(1, 13, NOW + 2), row(0xfe, 17, NOW)]);
    let all = [(2, 5), (1, 16), (3, 7), (0xfe, 17), (4, 11)];
    assert_eq!(read(9, &mut *store), all);
    // A reader forgets nothing; the writer forgets what is beyond the maximum.
    let mut reader = database.backend.open_reader().unwrap();
    assert_eq!(read(4, &mut *reader), all[..4]);
    assert_eq!(read(5, &mut *store), all);
    assert_eq!(read(4, &mut *store), all[..4]);
    drop(store);
    let mut store = database.backend.open().unwrap();
    assert_eq!(read(9, &mut *store), all[..4]);
    assert_eq!(read(0, &mut *store), []);
    assert_eq!(read(9, &mut *reader), []);
}

fn registered_torrents_are_read(database: &TestDatabase) {
    if matches!(database.backend.dsn(), Dsn::Mariadb(_)) {
        database.sql("ALTER TABLE torrents MODIFY TorrentType enum('anime','music','internal') NOT NULL");
    }
    database.sql(
        "INSERT INTO torrents (GroupID, TorrentType, info_hash) VALUES
         (1, 'internal', X'AA'), (1, 'music', X''),
         (1, 'anime', X'8A1F3C5E7092B4D6F80A1C2E40526476889800'),
         (1, 'anime', X'9A1F3C5E7092B4D6F80A1C2E4052647688980000FF')",
    );
    for mut store in [database.backend.open().unwrap(), database.backend.open_reader().unwrap()] {
        let (mut registered, left_out) = store.read_registered().unwrap();
        registered.sort_unstable();
        let registered: Vec<_> = registered.iter().map(ToString::to_string).collect();
        let expected = [
            "2b4d6f8193a5b7c9dbedff11335577990badcafe",
            "4c6e80a2b4c6d8eafc0e20426486a8caecfe1023",
            "8a1f3c5e7092b4d6f80a1c2e405264768898aabc",
        ];
        assert_eq!(
            (registered.iter().map(String::as_str).collect::<Vec<_>>(), left_out),
            (expected.to_vec(), 3)
        );
    }
}

/// More rows of each kind than fit into one statement.
fn many_rows_are_one_batch(database: &TestDatabase) {
    let mut store = database.backend.open().unwrap();
    let many: Vec<_> = (1..=4500).map(|id| user(id, u64::from(id))).collect();
    assert_eq!(save(&mut *store, Channel::Users, 1, many).without_target, 4497);
    assert_eq!(database.sql("SELECT Uploaded FROM users_main ORDER BY ID"), "1\n2553\n15");
    let row = TransferRow { uid: 7, raw_up: 3, last_announce: NOW, active: true, ..Default::default() };
    let transfer = |fid| Record::Transfer(TransferRow { fid, ..row });
    let mut many: Vec<_> = (1..=4500).map(transfer).collect();
    many.push(Record::Purge { before: NOW });
    let many = batch(Channel::TransferHistory, 1, many);
    store.save(&many).unwrap();
    store.save(&Batch { sequence: 2, ..many }).unwrap();
    let sums = "SELECT count(*), sum(uploaded), sum(active) FROM transfer_history WHERE uid = 7";
    assert_eq!(database.sql(sums), "4500\t27000\t4500");
}
