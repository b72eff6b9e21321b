//! How a store is opened: the one place that knows which there are.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::dsn::Dsn;
use super::mariadb::{self, ConnectionRole, Mariadb, MariadbOpener};
use super::schema::{self, Dialect, RequiredTables};
use super::sqlite::Sqlite;
use super::{Store, StoreError};

/// Where a store is and what is expected of it. It opens stores, and again after one was lost.
#[derive(Clone, Debug)]
pub struct Backend {
    dsn: Dsn,
    node: String,
    required: RequiredTables,
    /// The connection of MariaDB that wrote last, for the next one to take over from; 0 = none yet.
    last_writer: Arc<AtomicU32>,
}

impl Backend {
    /// A backend that writes under the name `node` (at most 64 characters; empty outside of a cluster).
    #[must_use]
    pub fn new(dsn: Dsn, node: &str, required: RequiredTables) -> Self {
        Self { dsn, node: node.to_owned(), required, last_writer: Arc::default() }
    }

    /// Where the store is.
    #[must_use]
    pub fn dsn(&self) -> &Dsn {
        &self.dsn
    }

    /// Opens the store to write, as the only one of this node; a file of SQLite is made and migrated. When
    /// a store was lost, drop it first and then open again: the journal says what was kept.
    ///
    /// # Errors
    /// `Unfit` when another tracker writes, or tables are missing or too new; else `Lost` or `Deadlock`.
    pub fn open(&self) -> Result<Box<dyn Store>, StoreError> {
        Ok(match &self.dsn {
            Dsn::Sqlite(path) => Box::new(Sqlite::open(path, &self.node)?),
            Dsn::Mariadb(_) => self.open_mariadb(ConnectionRole::Writer)?,
        })
    }

    /// Opens the store to read, beside the one that writes: [`Store::save`] and [`Store::rehearse`] are
    /// `Unfit`, and [`Store::completed`] forgets nothing.
    ///
    /// # Errors
    /// As those of [`open`](Self::open), but for other trackers.
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

    /// Makes the tables that are missing; safe to repeat. A file of SQLite is migrated when it is opened.
    ///
    /// # Errors
    /// When the database cannot be reached, is newer than this program, or refuses.
    pub fn migrate(&self) -> Result<(), StoreError> {
        match &self.dsn {
            Dsn::Sqlite(path) => Sqlite::open_shared(path, &self.node).map(drop),
            Dsn::Mariadb(login) => mariadb::migrate(login),
        }
    }

    /// What [`migrate`](Self::migrate) runs, for an operator who would rather do it himself.
    #[must_use]
    pub fn statements(&self) -> Vec<&'static str> {
        schema::migration_statements(self.dialect())
    }

    /// What an operator had better run on the large tables of a site himself, when it suits.
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
