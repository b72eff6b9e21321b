//! What was kept is still there after the process was killed.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use hayate_state::store::record::UserRow;
use hayate_state::store::{Batch, Channel, Record};

use crate::servers::Server;
use crate::{FIXTURE, backend};

/// The environment variable with the DSN for the process that is to be killed.
const DSN_VARIABLE: &str = "HAYATE_TEST_STORE";
/// Batches that the killed process has reported, at least.
const REPORTED_MIN: u64 = 23;

/// Not a test of its own: if the variable is set, saves batches until killed, and prints each number
/// that was kept.
#[test]
fn the_process_that_is_killed() {
    let Ok(dsn) = std::env::var(DSN_VARIABLE) else { return };
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
        .env(DSN_VARIABLE, dsn)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut reported = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let Some(number) = line.strip_prefix("kept ") else { continue };
        // The last line may be cut short.
        reported = number.parse().unwrap_or(reported).max(reported);
        if reported == REPORTED_MIN {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(reported >= REPORTED_MIN, "{reported}");
    let mut store = backend(dsn).open().unwrap();
    let kept = store.acknowledged(Channel::Users).unwrap().unwrap();
    assert!(kept >= reported, "{kept} of {reported}");
    assert_eq!(u64::try_from(uploaded()).unwrap(), 3 * kept);
    store.save(&one(kept)).unwrap();
    store.save(&one(kept + 1)).unwrap();
    assert_eq!(u64::try_from(uploaded()).unwrap(), 3 * (kept + 1));
}

fn one(sequence: u64) -> Batch {
    let row = UserRow { id: 1, uploaded: 3, ..UserRow::default() };
    Batch { channel: Channel::Users, records: vec![Record::User(row)], sequence }
}
