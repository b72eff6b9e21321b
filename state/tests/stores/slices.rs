//! Reads and removals in large tables, slice by slice: how much each statement reads, as the server reports
//! it.

use std::rc::Rc;

use hayate_state::private::admin::{AdminCommand, UserRef, run_command};
use hayate_state::snapshot::site::UserAccount;
use hayate_state::store::{SiteRow, SiteSet};
use mysql::prelude::Queryable;

use crate::TestDatabase;
use crate::promise::{fresh_mariadb, fresh_sqlite};
use crate::servers::Server;
use crate::site_rows::read;
use crate::slow_log::{SlowLog, root};

/// Rows that one statement may read.
const MOST: u64 = 10_000;
/// A count that no slice divides.
const ROWS: usize = 30_011;

/// Fills all tables that grow with a site. In most of them only few rows match.
fn fill(database: &TestDatabase) {
    database.sql("ALTER TABLE torrents MODIFY TorrentType enum('anime','music','internal') NOT NULL");
    let numbers = format!("FROM seq_1_to_{ROWS}");
    for sql in [
        "INSERT INTO users_main (ID, Enabled, torrent_pass) SELECT 1000 + seq, IF(seq % 7, '2', '1'), seq",
        "INSERT INTO torrents (ID, GroupID, TorrentType, info_hash, Seeders)
         SELECT 1000 + seq, seq DIV 2, IF(seq % 11, 'internal', 'music'), UNHEX(SHA1(seq)), seq",
        "INSERT INTO transfer_history (uid, fid, hnr) SELECT 1000 + seq DIV 1300, seq, seq % 13 = 0",
        "INSERT INTO torrent_group_freeleech (GroupID, Type)
         SELECT 1000 + seq DIV 2, IF(seq % 2, 'anime', 'music')",
        "INSERT INTO approved_clients (id, peer_id, archived) SELECT 1000 + seq, seq, seq % 17 > 0",
        "INSERT INTO hayate_tokens (uid, fid) SELECT 1000 + seq DIV 1300, seq",
        "INSERT INTO hayate_deletions (info_hash, reason, deleted_at) SELECT UNHEX(SHA1(seq)), 'why', seq",
        "INSERT INTO hayate_passkeys (passkey, uid, good_until)
         SELECT CONCAT('old', seq), 1000 + seq, IF(seq % 3, 0, 4000000000)",
        "INSERT INTO hayate_completed (info_hash, completed, last_completed)
         SELECT UNHEX(SHA1(seq)), seq, 1000000 + seq DIV 700",
    ] {
        database.sql(&format!("{sql} {numbers}"));
    }
    // For some seconds the server takes a table to be as small as before, unless it is told to analyze it.
    // Work on `hayate_completed` must not rely on that.
    database.sql(
        "ANALYZE TABLE users_main, torrents, transfer_history, torrent_group_freeleech, approved_clients",
    );
    database.sql("ANALYZE TABLE hayate_tokens, hayate_deletions, hayate_passkeys");
}

/// The number of rows of a set, counted by a different statement.
const COUNTS: [(SiteSet, &str); 8] = [
    (
        SiteSet::Users,
        "SELECT (SELECT count(*) FROM users_main WHERE Enabled = '1') + (SELECT count(*)
         FROM hayate_passkeys JOIN users_main ON uid = ID WHERE Enabled = '1' AND good_until > 0)",
    ),
    (
        SiteSet::HitAndRuns,
        "SELECT count(*) FROM transfer_history JOIN users_main ON uid = ID WHERE hnr = 1 AND Enabled = '1'",
    ),
    (SiteSet::Torrents, "SELECT count(*) FROM torrents WHERE TorrentType <> 'internal'"),
    (SiteSet::GroupMultipliers, "SELECT count(*) FROM torrent_group_freeleech"),
    (SiteSet::Clients, "SELECT count(*) FROM approved_clients WHERE archived = 0"),
    (SiteSet::Tokens, "SELECT count(*) FROM hayate_tokens"),
    (SiteSet::Deletions, "SELECT count(*) FROM hayate_deletions"),
    (SiteSet::Counts, "SELECT count(*) FROM torrents WHERE TorrentType <> 'internal'"),
];

#[test]
fn no_statement_reads_much_however_large_the_tables_are() {
    let server = Rc::new(Server::new());
    let database = fresh_mariadb(&server, "site");
    fill(&database);
    let log = SlowLog::on(&server);
    log.begin();
    let mut store = database.backend.open().unwrap();
    let mut reader = database.backend.open_reader().unwrap();
    for (set, count) in COUNTS {
        let (mut rows_read, skipped) = read(&mut *reader, set);
        let expected: usize = database.sql(count).parse().unwrap();
        assert!(
            skipped == 0 && rows_read.len() == expected && expected > 250,
            "{set:?}: {}",
            rows_read.len()
        );
        let all = rows_read.iter().map(|row| format!("{row:?}"));
        let different: std::collections::HashSet<_> = all.collect();
        assert_eq!(different.len(), rows_read.len(), "{set:?}: none twice");
        rows_read.clear();
    }
    let hit_and_runs = read(&mut *reader, SiteSet::HitAndRuns);
    database.sql("ALTER TABLE transfer_history DROP INDEX hnr_uid_fid");
    reader = database.backend.open_reader().unwrap();
    assert!(read(&mut *reader, SiteSet::HitAndRuns) == hit_and_runs, "without an index for them, too");
    let (registered, left_out) = reader.read_registered().unwrap();
    assert_eq!((registered.len(), left_out), (ROWS / 11 + 3, 0));
    // 20,000 stay, and some of the others have the same time as the last of them.
    let mut counts = Vec::new();
    store.read_completed(20_000, &mut |_, count| counts.push(count)).unwrap();
    assert_eq!(counts.len(), 20_000);
    let left = "SELECT count(*), sum(completed) FROM hayate_completed";
    let sum: u64 = counts.iter().copied().map(u64::from).sum();
    assert_eq!(database.sql(left), format!("20000\t{sum}"));
    for command in [
        AdminCommand::AddUser { id: None, passkey: "new".into() },
        AdminCommand::ChangePasskey { old: "new".into(), new: "newer".into(), grace_seconds: 7 },
        AdminCommand::RemoveUser(UserRef::Passkey("newer".into())),
        AdminCommand::DeleteTorrent { info_hash: registered[7], reason: "Dupe".into() },
        AdminCommand::AddClient("-XX".into()),
        AdminCommand::GlobalFreeleech(true),
    ] {
        // A site has some hundred clients.
        database.sql("DELETE FROM approved_clients WHERE id > 2000");
        run_command(&mut *reader, &command, 1_700_000_000, "a test").unwrap();
    }
    store.read_completed(0, &mut |_, _| {}).unwrap();
    let worst = log.worst();
    println!("{worst:?}");
    assert!(worst.statements > 200, "{worst:?}");
    assert!(worst.rows <= MOST, "{} rows: {}", worst.rows, worst.text);
    assert_eq!(database.sql("SELECT count(*) FROM hayate_completed"), "0");
}

/// Users are added twice: with one passkey each, and, while they are read, with those of each other.
#[test]
fn all_slices_of_a_set_are_of_one_moment() {
    let server = Rc::new(Server::new());
    let database = fresh_mariadb(&server, "site");
    database.sql("SET GLOBAL tx_isolation = 'READ-COMMITTED'");
    database.sql(&format!(
        "INSERT INTO users_main (ID, Enabled, torrent_pass) SELECT 1000 + seq, '1', seq FROM seq_1_to_{ROWS}"
    ));
    let mut store = database.backend.open_reader().unwrap();
    let (mut other, mut users, mut waits) = (root(&server), Vec::new(), 0);
    let mut swap = Some(format!(
        "UPDATE site.users_main SET torrent_pass = {} - torrent_pass WHERE ID > 1000",
        ROWS + 1
    ));
    store
        .read_rows(SiteSet::Users, &mut |row| {
            swap.take().into_iter().for_each(|sql| other.query_drop(sql).unwrap());
            waits += u32::from(row.is_none());
            users.extend(row.and_then(enrolled));
        })
        .unwrap();
    let of = |passkey: &dyn Fn(u32) -> u32| -> Vec<(u32, u32)> {
        (1..=u32::try_from(ROWS).unwrap()).map(|number| (1000 + number, passkey(number))).collect()
    };
    let rows = u32::try_from(ROWS).unwrap();
    assert!(users == of(&|number| number), "as they were");
    assert!(waits > 1, "{waits} waits for the database are reported");
    users.clear();
    store.read_rows(SiteSet::Users, &mut |row| users.extend(row.and_then(enrolled))).unwrap();
    assert!(users == of(&|number| rows + 1 - number), "as they are");
}

/// Id and passkey of users that are not in the fixture.
fn enrolled(row: SiteRow) -> Option<(u32, u32)> {
    let SiteRow::User(UserAccount { id, passkey, .. }) = row else { return None };
    (id > 1000).then(|| (id, str::from_utf8(&passkey).unwrap().parse().unwrap()))
}

#[test]
fn older_counts_of_finished_downloads_are_forgotten_slice_by_slice_in_a_file_too() {
    let folder = tempfile::tempdir().unwrap();
    let database = fresh_sqlite(&folder.path().join("site.db"));
    database.sql(
        "INSERT INTO hayate_completed WITH RECURSIVE n (seq) AS
             (SELECT 1 UNION ALL SELECT seq + 1 FROM n WHERE seq < 7013)
         SELECT CAST(printf('%020d', seq) AS BLOB), seq, 1000 + seq / 70 FROM n",
    );
    let mut store = database.backend.open().unwrap();
    let mut first = 0;
    store.read_completed(3001, &mut |_, count| first = count).unwrap();
    assert_eq!(first, 7013 - 3000);
    assert_eq!(database.sql("SELECT count(*), min(completed) FROM hayate_completed"), "3001\t4013");
}
