//! What was kept is still there after the process was killed.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use hayate_state::store::record::UserRow;
use hayate_state::store::{Batch, Channel, Record};

use crate::servers::Server;
use crate::{FIXTURE, backend};

/// Tells the process that is to be killed where to write.
const PLACE: &str = "HAYATE_TEST_STORE";
/// Batches that the killed process has reported, at least.
const TOLD: u64 = 23;

/// Not a test of its own: if the variable names a place, saves batches until killed, and prints each number
/// that was kept.
#[test]
fn the_process_that_is_killed() {
    let Ok(dsn) = std::env::var(PLACE) else { return };
    let mut store = backend(&dsn).open().unwrap();
    for sequence in 1.. {
        store.save(&one(sequence)).unwrap();
        println!("\nkept {sequence}");
    }
}

#[test]
fn sqlite_has_what_was_kept_when_the_process_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hayate.db");
    let dsn = format!("sqlite:{}", path.display());
    backend(&dsn).migrate().unwrap();
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute_batch(FIXTURE).unwrap();
    survives(&dsn, &|| {
        let sql = "SELECT Uploaded FROM users_main WHERE ID = 1";
        connection.query_row(sql, [], |row| row.get(0)).unwrap()
    });
}

#[test]
fn mariadb_has_what_was_kept_when_the_process_is_killed() {
    let server = Server::new();
    let dsn = server.database("site");
    backend(&dsn).migrate().unwrap();
    server.sql_in("site", FIXTURE);
    survives(&dsn, &|| {
        server.sql_in("site", "SELECT Uploaded FROM users_main WHERE ID = 1").parse().unwrap()
    });
}

fn survives(dsn: &str, uploaded: &dyn Fn() -> i64) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "survival::the_process_that_is_killed", "--nocapture"])
        .env(PLACE, dsn)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let Some(number) = line.strip_prefix("kept ") else { continue };
        // The last line may be cut short.
        told = number.parse().unwrap_or(told).max(told);
        if told == TOLD {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(told >= TOLD, "{told}");
    let mut store = backend(dsn).open().unwrap();
    let kept = store.acknowledged(Channel::Users).unwrap().unwrap();
    assert!(kept >= told, "{kept} of {told}");
    assert_eq!(u64::try_from(uploaded()).unwrap(), 3 * kept);
    store.save(&one(kept)).unwrap();
    store.save(&one(kept + 1)).unwrap();
    assert_eq!(u64::try_from(uploaded()).unwrap(), 3 * (kept + 1));
}

fn one(sequence: u64) -> Batch {
    let row = UserRow { id: 1, uploaded: 3, ..UserRow::default() };
    Batch { channel: Channel::Users, records: vec![Record::User(row)], sequence }
}
