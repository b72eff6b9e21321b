//! A site: a database with the fixture, and a daemon in mode private on it.

use serde_json::json;

use hayate_state::store::{Backend, Cell, Demand};

use crate::harness::{Daemon, Folder, hayate, merge};
use crate::mariadb_server::Server;

pub(crate) const TOKEN: &str = "sesame-open-sesame";
const FIXTURE: &str = include_str!("../fixtures/private.sql");

/// The database of a site, in a file or on a server.
pub(crate) struct Base {
    dsn: String,
    pub(crate) server: Option<Server>,
    folder: Folder,
}

impl Base {
    /// With the fixture, in a file of SQLite.
    pub(crate) fn sqlite() -> Self {
        let folder = Folder::new();
        Self::found(format!("sqlite:{}", folder.path().join("site.db").display()), None, folder)
    }

    /// With the fixture, on a MariaDB of its own.
    pub(crate) fn mariadb() -> Self {
        let server = Server::new();
        Self::found(server.database("site"), Some(server), Folder::new())
    }

    fn found(dsn: String, server: Option<Server>, folder: Folder) -> Self {
        let base = Self { dsn, server, folder };
        base.backend().migrate().unwrap();
        let statements = FIXTURE.lines().map(|line| line.split("--").next().unwrap().trim_end());
        let text = statements.collect::<Vec<_>>().join("\n");
        text.split(";\n").map(str::trim).filter(|sql| !sql.is_empty()).for_each(|sql| base.run(sql));
        base
    }

    fn backend(&self) -> Backend {
        Backend::new(self.dsn.parse().unwrap(), "", Demand::Site)
    }

    /// Changes the database behind the tracker's back.
    pub(crate) fn run(&self, sql: &str) {
        let sql = sql.trim_end_matches(';');
        let mut store = self.backend().open_reader().unwrap();
        store.edit(&mut |tables| tables.change(sql, &[]).map(drop)).unwrap();
    }

    /// The rows of an answer, with blanks between columns.
    pub(crate) fn ask(&self, sql: &str) -> String {
        let mut store = self.backend().open_reader().unwrap();
        let mut rows = Vec::new();
        store
            .edit(&mut |tables| {
                rows = tables.ask(sql, &[])?;
                Ok(())
            })
            .unwrap();
        let shown = |cell: &Cell| match cell {
            Cell::Null => "NULL".to_owned(),
            Cell::Number(number) => number.to_string(),
            Cell::Real(number) => number.to_string(),
            Cell::Text(text) => text.clone(),
            Cell::Octets(octets) => octets.escape_ascii().to_string(),
        };
        let row = |row: &Vec<Cell>| row.iter().map(shown).collect::<Vec<_>>().join(" ");
        rows.iter().map(row).collect::<Vec<_>>().join("\n")
    }

    /// What a daemon on this database is configured with.
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
