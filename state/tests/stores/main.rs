//! What every store promises, on a real file and on a real server; and what only a server can do wrong.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

mod admin;
mod cuts;
#[path = "../kit/double.rs"]
mod double;
mod large;
mod ledger;
mod promise;
mod purge;
mod recorder;
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

use hayate_state::store::{Backend, RequiredTables};

/// The rows that every case of mode private starts from.
const FIXTURE: &str = include_str!("../../../tests/kit/fixtures/private.sql");

/// A database with the fixture, and a way to look into it without the store.
struct Place {
    backend: Backend,
    ask: Box<dyn Fn(&str) -> String>,
}

impl Place {
    /// The rows of an answer, with tabs between columns.
    fn ask(&self, sql: &str) -> String {
        (self.ask)(sql)
    }
}

/// Shows `check` a fresh database with the fixture, in a file and then on a server.
fn on_both(check: &dyn Fn(&Place)) {
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
