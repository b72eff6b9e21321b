//! The promises of every store, on a real file and on a real server; and what can go wrong only on a server,
//! also on the Redis of a cluster.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

mod admin;
mod cluster_bus;
mod cuts;
#[path = "../kit/double.rs"]
mod double;
mod large;
mod ledger;
mod promise;
mod purge;
mod recorder;
#[path = "../../../tests/kit/servers/redis.rs"]
mod redis_server;
#[path = "../../../tests/kit/servers/process.rs"]
mod server_process;
#[path = "../../../tests/kit/servers/mariadb.rs"]
mod servers;
mod site_rows;
mod site_sync;
mod slices;
mod slow_log;
mod stop;
mod survival;
mod trouble;
mod turns;

use hayate_state::InfoHash;
use hayate_state::store::{Backend, RequiredTables};

/// The rows with which every case of mode private starts.
const FIXTURE: &str = include_str!("../../../tests/kit/fixtures/private.sql");

/// A database with the fixture, and a way to look into it without the store.
struct TestDatabase {
    backend: Backend,
    run: Box<dyn Fn(&str) -> String>,
}

impl TestDatabase {
    /// Runs a statement and returns its rows, with tabs between columns.
    fn sql(&self, sql: &str) -> String {
        (self.run)(sql)
    }
}

/// Calls `check` with a fresh database with the fixture, in a file and then on a server.
fn on_both(check: &dyn Fn(&TestDatabase)) {
    let folder = tempfile::tempdir().unwrap();
    eprintln!("SQLite");
    check(&promise::fresh_sqlite(&folder.path().join("site.db")));
    eprintln!("MariaDB");
    let server = std::rc::Rc::new(servers::Server::new());
    check(&promise::fresh_mariadb(&server, "site"));
}

fn backend(dsn: &str) -> Backend {
    Backend::new(dsn.parse().unwrap(), "", RequiredTables::Site)
}

/// Returns the passkey of a user.
fn test_passkey(user: u32) -> String {
    format!("passkey-of-{user:021}")
}

/// Returns the info_hash of a torrent.
fn test_info_hash(torrent: u32) -> InfoHash {
    let mut octets = [7; 20];
    octets[..4].copy_from_slice(&torrent.to_be_bytes());
    InfoHash(octets)
}

/// Returns the rows of a query on a file, with tabs between columns.
fn query_sqlite(connection: &rusqlite::Connection, sql: &str) -> String {
    use rusqlite::types::ValueRef;
    let mut statement = connection.prepare(sql).unwrap();
    let columns = statement.column_count();
    let mut rows = statement.query([]).unwrap();
    let mut lines = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        let values = (0..columns).map(|column| match row.get_ref(column).unwrap() {
            ValueRef::Null => "NULL".to_owned(),
            ValueRef::Integer(number) => number.to_string(),
            ValueRef::Real(number) => number.to_string(),
            ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
            ValueRef::Blob(octets) => format!("{} octets", octets.len()),
        });
        lines.push(values.collect::<Vec<_>>().join("\t"));
    }
    lines.join("\n")
}
