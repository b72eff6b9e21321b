//! What can go wrong only on a server: deadlocks, lost connections, commits without an answer.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use hayate_state::store::record::{TransferIpRow, UserRow};
use hayate_state::store::{Backend, Batch, Channel, Dsn, Record, RequiredTables, Saved, Store, StoreError};

use crate::servers::Server;
use crate::{FIXTURE, backend};

/// The number of transactions that wait for a row. `INNODB_TRX` would not do: it is not updated while it is
/// read more than ten times a second.
const WAITING: &str = "SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS
    WHERE VARIABLE_NAME = 'INNODB_ROW_LOCK_CURRENT_WAITS'";

pub(crate) fn site(server: &Server, name: &str) -> Backend {
    let backend = backend(&server.database(name));
    backend.migrate().unwrap();
    server.sql_in(name, FIXTURE);
    backend
}

fn users(sequence: u64, ids: &[u32]) -> Batch {
    let row = |&id| Record::User(UserRow { id, uploaded: 3, ..UserRow::default() });
    Batch { channel: Channel::Users, records: ids.iter().map(row).collect(), sequence }
}

fn uploaded(server: &Server, name: &str) -> String {
    server.sql_in(name, "SELECT Uploaded FROM users_main ORDER BY ID").replace('\n', " ")
}

/// A client that stays connected and runs the statements of the tests.
struct Other(Box<dyn FnMut(&str)>);

impl Other {
    fn new(server: &Server, database: &str) -> Self {
        let options = mysql::OptsBuilder::new()
            .socket(Some(server.socket_path()))
            .user(Some("root"))
            .db_name(Some(database));
        let mut connection = mysql::Conn::new(options).unwrap();
        Self(Box::new(move |sql| mysql::prelude::Queryable::query_drop(&mut connection, sql).unwrap()))
    }

    fn run(&mut self, sql: &str) {
        (self.0)(sql);
    }
}

/// Saves in a thread of its own, because something blocks it.
fn save_meanwhile(
    mut store: Box<dyn Store>,
    batch: Batch,
) -> mpsc::Receiver<(Box<dyn Store>, Result<Saved, StoreError>)> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let outcome = store.save(&batch);
        sender.send((store, outcome)).unwrap();
    });
    receiver
}

fn outcome<T>(receiver: &mpsc::Receiver<T>) -> T {
    receiver.recv_timeout(Duration::from_secs(60)).unwrap()
}

/// The connection that writes.
fn writer(server: &Server, name: &str) -> String {
    server.sql(&format!("SELECT IS_USED_LOCK('hayate:{name}:')"))
}

#[test]
fn a_deadlock_is_reported_and_rolled_back() {
    let server = Server::new();
    let store = site(&server, "site").open().unwrap();
    let mut other = Other::new(&server, "site");
    // The server rolls back the transaction that has changed less.
    other.run("CREATE TABLE heavy (id int PRIMARY KEY)");
    other.run("START TRANSACTION");
    other.run("INSERT INTO heavy SELECT seq FROM seq_1_to_3000");
    other.run("UPDATE users_main SET Downloaded = 7 WHERE ID = 3");
    let saving = save_meanwhile(store, users(1, &[1, 3]));
    server.wait_for(WAITING, "1");
    other.run("UPDATE users_main SET Downloaded = 7 WHERE ID = 1");
    let (mut store, saved) = outcome(&saving);
    assert!(matches!(&saved, Err(StoreError::Deadlock(text)) if text.contains("1213")), "{saved:?}");
    assert_eq!(uploaded(&server, "site"), "0 2551 12");
    other.run("COMMIT");
    assert_eq!(store.save(&users(1, &[1, 3])).unwrap(), Saved::default());
    assert_eq!(uploaded(&server, "site"), "3 2551 15");
}

#[test]
fn a_new_connection_waits_for_the_commit_of_an_old_one() {
    let server = Server::new();
    let backend = site(&server, "site");
    drop(backend.open().unwrap());
    let mut old = Other::new(&server, "site");
    old.run("START TRANSACTION");
    old.run("UPDATE hayate_journal SET seq = 5 WHERE node = '' AND queue = 'users'");
    let mut store = backend.open().unwrap();
    assert_eq!(store.acknowledged(Channel::Torrents).unwrap(), Some(0));
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(store.acknowledged(Channel::Users)).unwrap());
    server.wait_for(WAITING, "1");
    old.run("COMMIT");
    assert_eq!(outcome(&receiver).unwrap(), Some(5));
}

#[test]
fn a_connection_that_ends_in_a_batch_keeps_nothing_of_it() {
    let server = Server::new();
    let backend = site(&server, "site");
    let store = backend.open().unwrap();
    let mut other = Other::new(&server, "site");
    other.run("START TRANSACTION");
    other.run("UPDATE users_main SET Downloaded = 7 WHERE ID = 2");
    let saving = save_meanwhile(store, users(3, &[1, 2]));
    server.wait_for(WAITING, "1");
    server.sql(&format!("KILL CONNECTION {}", writer(&server, "site")));
    let (mut store, saved) = outcome(&saving);
    assert!(matches!(saved, Err(StoreError::Lost { in_doubt: false, .. })), "{saved:?}");
    // It is not used again, whatever answer may still arrive on it.
    assert!(matches!(store.save(&users(3, &[1])), Err(StoreError::Lost { in_doubt: false, .. })));
    other.run("ROLLBACK");
    let mut store = backend.open().unwrap();
    assert_eq!(store.acknowledged(Channel::Users).unwrap(), Some(0));
    assert_eq!(uploaded(&server, "site"), "0 2551 12");
    store.save(&users(3, &[1, 2])).unwrap();
    assert_eq!(uploaded(&server, "site"), "3 2554 12");
}

#[test]
fn a_commit_that_is_not_answered_is_in_doubt() {
    let server = Server::new();
    let backend = site(&server, "site");
    let store = backend.open().unwrap();
    let mut other = Other::new(&server, "site");
    for stage in ["START", "FLUSH", "BLOCK_DDL", "BLOCK_COMMIT"] {
        other.run(&format!("BACKUP STAGE {stage}"));
    }
    let saving = save_meanwhile(store, users(3, &[1]));
    let committing = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE INFO = 'COMMIT'";
    server.wait_for(committing, "1");
    server.sql(&format!("KILL CONNECTION {}", writer(&server, "site")));
    let (store, saved) = outcome(&saving);
    assert!(matches!(saved, Err(StoreError::Lost { in_doubt: true, .. })), "{saved:?}");
    drop(store);
    other.run("BACKUP STAGE END");
    // Kept or not: the journal knows, and writing it again keeps it once.
    let mut store = backend.open().unwrap();
    let kept = store.acknowledged(Channel::Users).unwrap();
    let there = uploaded(&server, "site");
    let expected = if kept == Some(3) { "3 2551 12" } else { "0 2551 12" };
    assert_eq!(there, expected, "{kept:?}");
    store.save(&users(3, &[1])).unwrap();
    assert_eq!(uploaded(&server, "site"), "3 2551 12");
}

#[test]
fn a_server_may_go_and_come_back() {
    let mut server = Server::new();
    let backend = site(&server, "site");
    let mut store = backend.open().unwrap();
    store.save(&users(1, &[1])).unwrap();
    // An idle connection that the server has closed is replaced silently.
    server.sql(&format!("KILL CONNECTION {}", writer(&server, "site")));
    server.wait_for("SELECT IFNULL(IS_USED_LOCK('hayate:site:'), 0)", "0");
    store.save(&users(2, &[1])).unwrap();
    server.kill9();
    for sequence in [3, 3] {
        let saved = store.save(&users(sequence, &[1]));
        assert!(matches!(saved, Err(StoreError::Lost { in_doubt: false, .. })), "{saved:?}");
    }
    let refused = backend.open().err().expect("nobody is there").to_string();
    assert!(refused.contains("refused") && !refused.contains("ss:w"), "{refused}");
    server.start();
    let mut store = backend.open().unwrap();
    assert_eq!(store.acknowledged(Channel::Users).unwrap(), Some(2));
    assert_eq!(uploaded(&server, "site"), "6 2551 12");
    store.save(&users(3, &[1])).unwrap();
    server.stop();
    server.start();
    store.save(&users(4, &[1])).unwrap();
    assert_eq!(uploaded(&server, "site"), "12 2551 12");
}

#[test]
fn a_server_that_stands_still_is_waited_for() {
    let server = Server::new();
    let store = site(&server, "site").open().unwrap();
    server.freeze();
    let saving = save_meanwhile(store, users(1, &[1]));
    assert!(saving.recv_timeout(Duration::from_millis(300)).is_err());
    server.thaw();
    assert_eq!(outcome(&saving).1.unwrap(), Saved::default());
    assert_eq!(uploaded(&server, "site"), "3 2551 12");
}

#[test]
fn a_name_has_one_writer_and_takes_over_from_itself() {
    let server = Server::new();
    let backend = site(&server, "site");
    let first = backend.open().unwrap();
    let again = || Backend::new(backend.dsn().clone(), "", RequiredTables::Site);
    let error = again().open().err().expect("one is there");
    let says = "another hayate writes to this database as node \"\"";
    assert!(matches!(&error, StoreError::Unfit(text) if text == says), "{error:?}");
    Backend::new(backend.dsn().clone(), "other", RequiredTables::Site).open().unwrap();
    again().open_reader().unwrap().read_registered().unwrap();
    // The same tracker, whose connection hangs: the new connection ends the old one, and becomes the writer.
    let mut second = backend.open().unwrap();
    second.save(&users(1, &[1])).unwrap();
    let mut first = first;
    let taken = first.save(&users(2, &[1]));
    assert!(taken.is_err(), "{taken:?}");
}

#[test]
fn what_is_missing_is_reported() {
    let server = Server::new();
    let unfit = |backend: &Backend| match backend.open().err() {
        Some(StoreError::Unfit(text)) => text,
        other => panic!("{other:?}"),
    };
    let of = |name: &str, required| Backend::new(server.dsn(name).parse().unwrap(), "", required);

    server.database("empty");
    let says = "the database has no column hayate_completed.info_hash: run `hayate migrate`";
    assert_eq!(unfit(&of("empty", RequiredTables::Own)), says);
    assert!(
        unfit(&of("empty", RequiredTables::Site))
            .starts_with("the database has no column approved_clients.id, ")
    );
    of("empty", RequiredTables::Own).migrate().unwrap();
    of("empty", RequiredTables::Own).open().unwrap();
    server.sql_in("empty", "UPDATE hayate_schema SET version = 7");
    let says =
        "the database has schema version 7, this program knows up to 4: it was migrated by a newer hayate";
    assert_eq!(unfit(&of("empty", RequiredTables::Own)), says);
    assert!(
        matches!(of("empty", RequiredTables::Own).migrate(), Err(StoreError::Unfit(text)) if text == says)
    );

    // By the socket and as a URL it is the same database.
    site(&server, "site");
    backend(&server.socket_dsn("site")).open().unwrap().read_registered().unwrap();
    let url = format!("mysql://site:p%40ss%3Aw%2Frd@localhost:{}/site", server.port);
    backend(&url).open().unwrap().read_registered().unwrap();
    // A server without TLS is refused when TLS is required.
    let error = backend(&format!("{}?tls=true", server.dsn("site"))).open().err().expect("no TLS");
    assert!(matches!(&error, StoreError::Lost { in_doubt: false, .. }), "{error:?}");

    let wrong = server.dsn("site").replace("p@ss", "secret");
    assert!(matches!(wrong.parse(), Ok(Dsn::Mariadb(_))));
    let error = backend(&wrong).open().err().expect("it is wrong").to_string();
    assert!(error.contains("Access denied") && !error.contains("secret"), "{error}");
    for (parameter, culprit) in [("nonsense=1", "nonsense"), ("charset=latin99", "latin99")] {
        let text = unfit(&backend(&format!("{}?{parameter}", server.dsn("site"))));
        assert!(
            text.starts_with("the database refuses what the DSN sets: ") && text.contains(culprit),
            "{text}"
        );
    }
    let parameters = "?charset=latin99,utf8mb4&collation=utf8mb4_bin&sql_mode=''&tls=false";
    backend(&format!("{}{parameters}", server.dsn("site"))).open().unwrap();
}

/// Restores the tables of the reference tracker.
pub(crate) const UNMIGRATE: &str =
    "DROP TABLE hayate_journal, hayate_schema, hayate_completed; ALTER TABLE transfer_ips DROP ip6";

#[test]
fn a_site_that_is_not_migrated_is_written_to_without_hayates_tables() {
    let server = Server::new();
    let backend = site(&server, "site");
    server.sql_in("site", UNMIGRATE);
    let mut store = backend.open().unwrap();
    assert_eq!(store.acknowledged(Channel::Users).unwrap(), None);
    store.save(&users(1, &[1])).unwrap();
    store.save(&users(1, &[1])).unwrap();
    assert_eq!(uploaded(&server, "site"), "6 2551 12");
    let row =
        TransferIpRow { uid: 7, fid: 7, ip: 4_148_471_740, ip6: Some([9; 16]), ..TransferIpRow::default() };
    let batch = Batch { channel: Channel::TransferIps, records: vec![Record::TransferIp(row)], sequence: 1 };
    store.save(&batch).unwrap();
    assert_eq!(server.sql_in("site", "SELECT ip FROM transfer_ips WHERE uid = 7"), "4148471740");
    drop(store);
    backend.migrate().unwrap();
    let mut store = backend.open().unwrap();
    assert_eq!(store.acknowledged(Channel::Users).unwrap(), Some(0));
    assert_eq!(uploaded(&server, "site"), "6 2551 12");
}
