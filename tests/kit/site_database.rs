//! A site: a database with the fixture, and a daemon in mode private on it.

use std::net::SocketAddr;

use hayate_state::store::{Backend, RequiredTables, SqlValue};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::{Daemon, Folder, UdpClient, ask, fetch, hayate, merge, percent_encoded};
use crate::mariadb_server::Server;

pub(crate) const TOKEN: &str = "sesame-open-sesame";
const FIXTURE: &str = include_str!("fixtures/private.sql");

/// The database of a site, in a file or on a server.
pub(crate) struct SiteDatabase {
    dsn: String,
    pub(crate) server: Option<Server>,
    folder: Folder,
}

impl SiteDatabase {
    /// Makes a database with the fixture, in a file of SQLite.
    pub(crate) fn sqlite() -> Self {
        let folder = Folder::new();
        Self::create(format!("sqlite:{}", folder.path().join("site.db").display()), None, folder)
    }

    /// Makes a database with the fixture, on a separate MariaDB.
    pub(crate) fn mariadb() -> Self {
        let server = Server::new();
        Self::create(server.database("site"), Some(server), Folder::new())
    }

    fn create(dsn: String, server: Option<Server>, folder: Folder) -> Self {
        let database = Self { dsn, server, folder };
        database.backend().migrate().unwrap();
        let statements = FIXTURE.lines().map(|line| line.split("--").next().unwrap().trim_end());
        let text = statements.collect::<Vec<_>>().join("\n");
        text.split(";\n").map(str::trim).filter(|sql| !sql.is_empty()).for_each(|sql| database.execute(sql));
        database
    }

    fn backend(&self) -> Backend {
        Backend::new(self.dsn.parse().unwrap(), "", RequiredTables::Site)
    }

    /// Changes the database without the tracker's knowledge.
    pub(crate) fn execute(&self, sql: &str) {
        let sql = sql.trim_end_matches(';');
        let mut store = self.backend().open_reader().unwrap();
        store.edit(&mut |tables| tables.run_statement(sql, &[]).map(drop)).unwrap();
    }

    /// Returns the rows of a result, with blanks between columns.
    pub(crate) fn query(&self, sql: &str) -> String {
        let mut store = self.backend().open_reader().unwrap();
        let mut rows = Vec::new();
        store
            .edit(&mut |tables| {
                rows = tables.query_rows(sql, &[])?;
                Ok(())
            })
            .unwrap();
        let shown = |value: &SqlValue| match value {
            SqlValue::Null => "NULL".to_owned(),
            SqlValue::Number(number) => number.to_string(),
            SqlValue::Real(number) => number.to_string(),
            SqlValue::Text(text) => text.clone(),
            SqlValue::Octets(octets) => octets.escape_ascii().to_string(),
        };
        let row = |row: &Vec<SqlValue>| row.iter().map(shown).collect::<Vec<_>>().join(" ");
        rows.iter().map(row).collect::<Vec<_>>().join("\n")
    }

    /// Returns the configuration of a daemon on this database.
    pub(crate) fn config(&self, changes: serde_json::Value) -> serde_json::Value {
        let token = self.folder.write("token", &format!("{TOKEN}\n"));
        let mut config = json!({
            "mode": "private",
            "database": {"dsn": self.dsn},
            "intervals": {"flush": 1, "announce_drift": 0},
            "admin": {"token_file": token}
        });
        merge(&mut config, changes);
        config
    }

    pub(crate) fn daemon(&self, changes: serde_json::Value) -> Daemon {
        self.daemon_in(Folder::new(), changes)
    }

    pub(crate) fn daemon_in(&self, folder: Folder, changes: serde_json::Value) -> Daemon {
        Daemon::start_in(folder, self.config(changes), &mut hayate())
    }
}

pub(crate) fn target(passkey: &str, hash: &[u8], id: u32, more: &str) -> String {
    let hash = percent_encoded(hash);
    let fields = format!("peer_id=-TR2940-{id:012}&port=6881&uploaded=0&downloaded=0&left=7");
    format!("/{passkey}/announce?info_hash={hash}&{fields}{more}")
}

pub(crate) fn fetch_text(address: SocketAddr, target: &str) -> String {
    fetch(address, target).body.escape_ascii().to_string()
}

/// Returns an announce over UDP from offset 16 on, path included.
pub(crate) fn over_udp(
    passkey: &str,
    hash: &[u8; 20],
    id: u32,
    totals: [u64; 2],
    left: u64,
    event: u32,
) -> Vec<u8> {
    let mut rest = hash.to_vec();
    rest.extend(format!("-TR2940-{id:012}").as_bytes());
    for number in [totals[1], left, totals[0]] {
        rest.extend(number.to_be_bytes());
    }
    rest.extend(event.to_be_bytes());
    rest.extend([0; 8]);
    rest.extend((-1_i32).to_be_bytes());
    rest.extend(6881_u16.to_be_bytes());
    let path = format!("/{passkey}/announce");
    rest.extend([2, u8::try_from(path.len()).unwrap()]);
    rest.extend(path.as_bytes());
    rest
}

/// Sends one announce. Returns its reply.
pub(crate) fn announce_over_udp(udp: &UdpClient, rest: &[u8]) -> Vec<u8> {
    ask(&udp.socket, &udp.request(1, rest)).unwrap()
}

pub(crate) fn stop(daemon: &mut Daemon) {
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait().success(), "{:#?}", daemon.log());
}
