//! How a store is opened: the only place that knows all kinds of stores.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::dsn::Dsn;
use super::mariadb::{self, ConnectionRole, Mariadb, MariadbOpener};
use super::schema::{self, Dialect, RequiredTables};
use super::sqlite::Sqlite;
use super::{Store, StoreError};

/// Where a store is and what it must contain. Opens stores, and reopens one that was lost.
#[derive(Clone, Debug)]
pub struct Backend {
    dsn: Dsn,
    node: String,
    required: RequiredTables,
    /// The MariaDB connection that wrote last, which the next one takes over from; 0 = none yet.
    last_writer: Arc<AtomicU32>,
}

impl Backend {
    /// Returns a backend that writes under the name `node` (at most 64 characters; empty outside a cluster).
    #[must_use]
    pub fn new(dsn: Dsn, node: &str, required: RequiredTables) -> Self {
        Self { dsn, node: node.to_owned(), required, last_writer: Arc::default() }
    }

    /// Where the store is.
    #[must_use]
    pub fn dsn(&self) -> &Dsn {
        &self.dsn
    }

    /// Opens the store for writing, as the only writer of this node; a SQLite file is created and migrated.
    /// To reopen a lost store, drop it first: the journal tells what was kept.
    ///
    /// # Errors
    /// Fails with `Unfit` when another tracker writes, or tables are missing or too new; otherwise with
    /// `Lost` or `Deadlock`.
    pub fn open(&self) -> Result<Box<dyn Store>, StoreError> {
        Ok(match &self.dsn {
            Dsn::Sqlite(path) => Box::new(Sqlite::open(path, &self.node)?),
            Dsn::Mariadb(_) => self.open_mariadb(ConnectionRole::Writer)?,
        })
    }

    /// Opens the store for reading, beside the writer: [`Store::save`] and [`Store::rehearse`] are `Unfit`,
    /// and [`Store::read_completed`] forgets nothing.
    ///
    /// # Errors
    /// Fails as [`open`](Self::open) does, except that other trackers may write.
    pub fn open_reader(&self) -> Result<Box<dyn Store>, StoreError> {
        Ok(match &self.dsn {
            Dsn::Sqlite(path) => Box::new(Sqlite::open_shared(path, &self.node)?),
            Dsn::Mariadb(_) => self.open_mariadb(ConnectionRole::Reader)?,
        })
    }

    fn open_mariadb(&self, role: ConnectionRole) -> Result<Box<dyn Store>, StoreError> {
        let Dsn::Mariadb(login) = &self.dsn else {
            return Err(StoreError::Unfit("not a database of a server".to_owned()));
        };
        let first = self.last_writer.load(Ordering::Relaxed) == 0;
        let opener = MariadbOpener {
            login: (**login).clone(),
            node: self.node.clone(),
            required: self.required,
            role,
            last_writer: Arc::clone(&self.last_writer),
        };
        let store = Mariadb::open(opener)?;
        if first && role == ConnectionRole::Writer {
            for warning in store.warnings() {
                log::warn!("{warning}");
            }
        }
        Ok(Box::new(store))
    }

    /// Creates the tables that are missing; safe to repeat. A SQLite file is migrated when it is opened.
    ///
    /// # Errors
    /// Fails when the database cannot be reached, is newer than this program, or refuses.
    pub fn migrate(&self) -> Result<(), StoreError> {
        match &self.dsn {
            Dsn::Sqlite(path) => Sqlite::open_shared(path, &self.node).map(drop),
            Dsn::Mariadb(login) => mariadb::migrate(login),
        }
    }

    /// The statements that [`migrate`](Self::migrate) runs, for an operator who would rather run them by
    /// hand.
    #[must_use]
    pub fn statements(&self) -> Vec<&'static str> {
        schema::migration_statements(self.dialect())
    }

    /// Statements that an operator should run on the large tables of a site at a convenient time.
    #[must_use]
    pub fn proposals(&self) -> &'static [&'static str] {
        schema::proposed_statements(self.dialect())
    }

    fn dialect(&self) -> Dialect {
        match self.dsn {
            Dsn::Sqlite(_) => Dialect::Sqlite,
            Dsn::Mariadb(_) => Dialect::Mariadb,
        }
    }
}
