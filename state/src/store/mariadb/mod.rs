//! A store in a database of a MariaDB server (10.3.3 or later).
//!
//! | module | what is in it |
//! |---|---|
//! | `session` | a connection, its settings, the lock of the writer, what the database has |
//! | `sql` | records as statements |
//! | `walk` | tables that are read slice by slice |
//! | `completed` | finished downloads of torrents, and forgetting them |
//! | `purge` | a slice of a purge |
//!
//! A batch is one transaction that first locks its row of `hayate_journal`. The lock makes exactly-once
//! true: a new connection that reads the sequence number waits for a commit that an old one has sent and that
//! was not answered. After any failure that leaves doubt about what the server will say next, the
//! connection is closed and never used again, so that no late answer is taken for another's.
//!
//! No statement reads or locks more rows than a constant says, however large the tables are.

mod completed;
mod purge;
mod session;
mod sql;
mod walk;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use mysql::prelude::Queryable;
use mysql::{Conn, Params, Row, Value};

use self::session::MariadbSession;
use super::dsn::Login;
use super::edit::{SqlValue, Tables};
use super::schema::{self, RequiredTables};
use super::site_rows::{self, DbRow, SiteRow, SiteSet};
use super::site_sql::sets;
use super::{Batch, Channel, PurgeProgress, PurgeSlice, Saved, Store, StoreError, signed_amount};
use crate::ids::{ID_LEN, InfoHash};

/// The error code for an unknown table.
const NO_SUCH_TABLE: u16 = 1146;
/// The error code for a value that its column cannot take unchanged.
const DATA_TRUNCATED: u16 = 1265;

/// Whether a connection may change anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionRole {
    /// It may; it is the only one of its node.
    Writer,
    /// It may not.
    Reader,
}

/// The parameters of connections, kept for reconnecting.
#[derive(Debug)]
pub(super) struct MariadbOpener {
    pub(super) login: Login,
    pub(super) node: String,
    pub(super) required: RequiredTables,
    pub(super) role: ConnectionRole,
    /// The connection that wrote last; 0 = none yet.
    pub(super) last_writer: Arc<AtomicU32>,
}

impl MariadbOpener {
    /// Whether `session` is still the last writer of this tracker, or does not write.
    fn is_current_writer(&self, session: &MariadbSession) -> bool {
        let latest = self.last_writer.load(Ordering::Relaxed);
        self.role == ConnectionRole::Reader || latest == session.connection.connection_id()
    }
}

/// A store in a database of a MariaDB server.
#[derive(Debug)]
pub struct Mariadb {
    opener: MariadbOpener,
    /// `None` after the connection was lost.
    session: Option<MariadbSession>,
}

/// Why a transaction was not completed.
enum TransactionError {
    Statement(mysql::Error),
    /// The commit failed: it is unknown whether it was carried out.
    Commit(mysql::Error),
}

impl From<mysql::Error> for TransactionError {
    fn from(error: mysql::Error) -> Self {
        Self::Statement(error)
    }
}

impl Mariadb {
    pub(super) fn open(opener: MariadbOpener) -> Result<Self, StoreError> {
        let session = Some(MariadbSession::open(&opener)?);
        Ok(Self { opener, session })
    }

    /// What the operator should know about the database.
    pub(super) fn warnings(&self) -> Vec<String> {
        self.session.as_ref().map(|session| session.features.warnings()).unwrap_or_default()
    }

    /// Runs `work` in a transaction, and rolls it back if it fails.
    fn transact<T>(
        &mut self,
        work: impl FnOnce(&mut MariadbSession) -> Result<T, TransactionError>,
    ) -> Result<T, StoreError> {
        let mut session = self.begin()?;
        let failed = match work(&mut session) {
            Ok(done) => {
                self.session = Some(session);
                return Ok(done);
            }
            Err(failed) => failed,
        };
        let (error, at_commit) = match failed {
            TransactionError::Statement(error) => (error, false),
            TransactionError::Commit(error) => (error, true),
        };
        let error = store_error(error, at_commit);
        // A batch that was rolled back because of its rows or of others leaves a good connection. Any other
        // error does not: when the connection ends, the server rolls back what is left.
        let certain = matches!(error, StoreError::Deadlock(_) | StoreError::BadRow { .. });
        if certain && session.connection.query_drop("ROLLBACK").is_ok() {
            self.session = Some(session);
        }
        Err(error)
    }

    /// Begins a transaction on a connection. Servers close idle connections, so a closed one is replaced
    /// here: nothing that could be lost was sent on it yet.
    fn begin(&mut self) -> Result<MariadbSession, StoreError> {
        let lost = || StoreError::Lost { text: "the connection was lost".to_owned(), in_doubt: false };
        let mut session = self.session.take().ok_or_else(lost)?;
        match session.connection.query_drop("START TRANSACTION") {
            Ok(()) => return Ok(session),
            // Except for a connection that another store of this tracker has taken over from.
            Err(error) if session::is_closed(&error) && self.opener.is_current_writer(&session) => {
                drop(session)
            }
            Err(error) => return Err(store_error(error, false)),
        }
        let mut session = MariadbSession::open(&self.opener)?;
        session.connection.query_drop("START TRANSACTION").map_err(|error| store_error(error, false))?;
        Ok(session)
    }

    fn check_writer(&self) -> Result<(), StoreError> {
        if self.opener.role == ConnectionRole::Writer {
            return Ok(());
        }
        Err(StoreError::Unfit("this connection was opened to read only".to_owned()))
    }
}

impl Store for Mariadb {
    fn save(&mut self, batch: &Batch) -> Result<Saved, StoreError> {
        self.check_writer()?;
        let node = self.opener.node.clone();
        self.transact(|session| {
            let journal = session.features.journal;
            if journal && lock_sequence(session, &node, batch.channel)? >= batch.sequence {
                session.connection.query_drop("ROLLBACK")?;
                return Ok(Saved::default());
            }
            let saved = write_batch(session, batch)?;
            if journal {
                let sql = "INSERT INTO hayate_journal (node, queue, seq) VALUES (?, ?, ?)
                    ON DUPLICATE KEY UPDATE seq = VALUE(seq)";
                session.connection.exec_drop(sql, (&node, batch.channel.name(), batch.sequence))?;
            }
            session.connection.query_drop("COMMIT").map_err(TransactionError::Commit)?;
            Ok(saved)
        })
    }

    fn rehearse(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.check_writer()?;
        self.transact(|session| {
            write_batch(session, batch)?;
            Ok(session.connection.query_drop("ROLLBACK")?)
        })
    }

    fn acknowledged(&mut self, channel: Channel) -> Result<Option<u64>, StoreError> {
        let node = self.opener.node.clone();
        self.transact(|session| {
            let number = match session.features.journal {
                true => Some(lock_sequence(session, &node, channel)?),
                false => None,
            };
            session.connection.query_drop("ROLLBACK")?;
            Ok(number)
        })
    }

    fn read_completed(&mut self, most: usize, each: &mut dyn FnMut(InfoHash, u32)) -> Result<(), StoreError> {
        let behind = self.transact(|session| {
            let behind = completed::read_latest(session, most, each)?;
            session.connection.query_drop("ROLLBACK")?;
            Ok(behind)
        })?;
        let Some(behind) = behind.filter(|_| self.opener.role == ConnectionRole::Writer) else {
            return Ok(());
        };
        let mut gone = None;
        loop {
            gone = self.transact(|session| {
                let gone = completed::forget_older(session, behind, gone)?;
                session.connection.query_drop("COMMIT").map_err(TransactionError::Commit)?;
                Ok(gone)
            })?;
            if gone.is_none() {
                return Ok(());
            }
        }
    }

    fn read_registered(&mut self) -> Result<(Vec<InfoHash>, u64), StoreError> {
        self.transact(|session| {
            let (mut registered, mut left_out) = (Vec::new(), 0);
            walk::read_rows(session, &sets::registered_query(), &mut |row| {
                let Some(mut row) = row else { return };
                match row.take_opt::<[u8; ID_LEN], _>(0) {
                    Some(Ok(octets)) => registered.push(InfoHash(octets)),
                    _ => left_out += 1,
                }
            })?;
            session.connection.query_drop("ROLLBACK")?;
            Ok((registered, left_out))
        })
    }

    fn read_rows(&mut self, set: SiteSet, each: &mut dyn FnMut(Option<SiteRow>)) -> Result<u64, StoreError> {
        self.transact(|session| {
            let mut skipped = 0;
            for source in sets::set_queries(set, "UNIX_TIMESTAMP()") {
                let result = walk::read_rows(session, &source, &mut |row| {
                    let Some(row) = row else { return each(None) };
                    match SiteRow::parse_row(set, &row) {
                        Some(line) => each(Some(line)),
                        None => skipped += 1,
                    }
                });
                match result {
                    // A site that was not migrated lacks the tables of hayate.
                    Err(mysql::Error::MySqlError(server_error))
                        if server_error.code == NO_SUCH_TABLE && server_error.message.contains("hayate_") => {
                    }
                    result => result?,
                }
            }
            session.connection.query_drop("ROLLBACK")?;
            Ok(skipped)
        })
    }

    fn purge(&mut self, slice: &PurgeSlice) -> Result<PurgeProgress, StoreError> {
        self.check_writer()?;
        self.transact(|session| {
            let swept = purge::purge_slice(session, slice)?;
            session.connection.query_drop("COMMIT").map_err(TransactionError::Commit)?;
            Ok(swept)
        })
    }

    fn edit(
        &mut self,
        work: &mut dyn FnMut(&mut dyn Tables) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut session = self.begin()?;
        let done = work(&mut session.connection);
        let end = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
        // A connection that does not answer is not used again.
        session.connection.query_drop(end).map_err(|error| store_error(error, done.is_ok()))?;
        self.session = Some(session);
        done
    }
}

impl Tables for Conn {
    fn lock_edits(&mut self) -> Result<(), StoreError> {
        // A row that only migrations lock besides.
        self.query_drop("SELECT version FROM hayate_schema FOR UPDATE")
            .map_err(|error| store_error(error, false))
    }

    fn run_statement(&mut self, sql: &str, values: &[SqlValue]) -> Result<(u64, u64), StoreError> {
        self.exec_drop(sql, sql_params(values)).map_err(edit_error)?;
        Ok((self.affected_rows(), self.last_insert_id()))
    }

    fn query_rows(&mut self, sql: &str, values: &[SqlValue]) -> Result<Vec<Vec<SqlValue>>, StoreError> {
        let rows: Vec<Row> = self.exec(sql, sql_params(values)).map_err(|error| store_error(error, false))?;
        let cell = |value| match value {
            Value::Int(number) => SqlValue::Number(number),
            Value::UInt(number) => SqlValue::Number(signed_amount(number)),
            Value::Float(number) => {
                site_rows::shortest_decimal(number).map_or(SqlValue::Null, SqlValue::Real)
            }
            Value::Double(number) => SqlValue::Real(number),
            Value::Bytes(octets) => SqlValue::Octets(octets),
            _ => SqlValue::Null,
        };
        Ok(rows.into_iter().map(|row| row.unwrap().into_iter().map(cell).collect()).collect())
    }
}

/// Maps the error of an edit. A word that an enum does not have is a bad value, too, although the server
/// reports it with the state of a mere warning.
fn edit_error(error: mysql::Error) -> StoreError {
    match error {
        mysql::Error::MySqlError(server_error) if server_error.code == DATA_TRUNCATED => {
            StoreError::BadRow { code: i32::from(server_error.code), text: server_error.message }
        }
        error => store_error(error, false),
    }
}

fn sql_params(values: &[SqlValue]) -> Params {
    let value = |cell: &SqlValue| match cell {
        SqlValue::Null => Value::NULL,
        SqlValue::Number(number) => Value::Int(*number),
        SqlValue::Real(number) => Value::Double(*number),
        SqlValue::Octets(octets) => Value::Bytes(octets.clone()),
        SqlValue::Text(text) => Value::Bytes(text.as_bytes().to_vec()),
    };
    if values.is_empty() { Params::Empty } else { Params::Positional(values.iter().map(value).collect()) }
}

impl DbRow for Row {
    fn integer(&self, at: usize) -> Option<i64> {
        match self.as_ref(at)? {
            Value::Int(number) => Some(*number),
            Value::UInt(number) => i64::try_from(*number).ok(),
            _ => None,
        }
    }

    fn real(&self, at: usize) -> Option<f64> {
        match self.as_ref(at)? {
            Value::Float(value) => site_rows::shortest_decimal(*value),
            Value::Double(value) => Some(*value).filter(|value| value.is_finite()),
            _ => None,
        }
    }

    fn octets(&self, at: usize) -> Option<&[u8]> {
        match self.as_ref(at)? {
            Value::Bytes(octets) => Some(octets),
            _ => None,
        }
    }
}

/// Creates the tables that are missing.
pub(super) fn migrate(login: &Login) -> Result<(), StoreError> {
    let to_store_error = |error| store_error(error, false);
    // Without a time limit: adding a column to a large table can take long.
    let mut connection = session::connect(login, None)?;
    schema::check_version(session::read_version(&mut connection).map_err(to_store_error)?)?;
    let statements = schema::migration_statements(schema::Dialect::Mariadb);
    statements.into_iter().try_for_each(|statement| connection.query_drop(statement)).map_err(to_store_error)
}

/// Returns the number of the last batch that was kept. Waits for an earlier connection that is about to
/// change it, and makes later ones wait until the transaction ends.
fn lock_sequence(session: &mut MariadbSession, node: &str, channel: Channel) -> mysql::Result<u64> {
    let sql = "SELECT seq FROM hayate_journal WHERE node = ? AND queue = ? FOR UPDATE";
    let number = session.connection.exec_first(sql, (node, channel.name()))?;
    Ok(number.unwrap_or(0))
}

fn write_batch(session: &mut MariadbSession, batch: &Batch) -> mysql::Result<Saved> {
    let mut saved = Saved::default();
    for statement in sql::build_statements(&batch.records, session.features.ip6, session.statement_octets) {
        session.connection.query_drop(&statement.text)?;
        if let Some(rows) = statement.targets {
            // The session counts matched rows, not only changed ones.
            saved.without_target += rows.saturating_sub(session.connection.affected_rows());
        }
    }
    Ok(saved)
}

/// Maps an error to what it means for the writer.
fn store_error(error: mysql::Error, at_commit: bool) -> StoreError {
    if let mysql::Error::MySqlError(server_error) = &error {
        let text = format!("{} ({})", server_error.message, server_error.code);
        // After such an answer the server has rolled the transaction back, even if it was asked to commit.
        if matches!(server_error.code, 1213 | 1205) {
            return StoreError::Deadlock(text);
        }
        if !at_commit && (server_error.state.starts_with("22") || server_error.state.starts_with("23")) {
            return StoreError::BadRow {
                code: i32::from(server_error.code),
                text: server_error.message.clone(),
            };
        }
        return StoreError::Lost { text, in_doubt: at_commit };
    }
    StoreError::Lost { text: session::error_text(&error), in_doubt: at_commit }
}
