//! A store in one file, by SQLite; `sql` has its statements.
//!
//! Its journal is a write-ahead log that is synced with every commit (`synchronous=FULL`), so that a batch
//! which was kept survives the end of the process and, as far as the disk tells the truth, a loss of power. A
//! pass of the writer is one commit, so this costs at most a few syncs a second.
//!
//! One tracker writes to a file: it holds an advisory lock on `<path>.lock` as long as its store lives.
//! Readers need no lock and block no one.
//!
//! Tables are strict and their checks are the ranges of MariaDB's columns: a number that does not fit is an
//! error. Sums stop at the end of their range, where SQLite alone would continue with a floating point
//! number.

mod sql;

use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{
    Connection, ErrorCode, OptionalExtension, Row, ToSql, Transaction, TransactionBehavior, params,
    params_from_iter,
};

use super::edit::{SqlValue, Tables};
use super::opened_file::OpenedFile;
use super::site_rows::{DbRow, SiteRow, SiteSet};
use super::site_sql::purge::SQLITE_SLICE;
use super::site_sql::sets;
use super::{
    Batch, Channel, PurgeMark, PurgeProgress, PurgeSlice, Record, Saved, Store, StoreError, schema,
    signed_amount,
};
use crate::ids::{ID_LEN, InfoHash};

/// How long a statement waits for another connection before it is `Deadlock`.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// The write-ahead log is cut back to this many octets after it was longer.
const LOG_OCTETS: i64 = 64 << 20;
/// A slice of the finished downloads to be forgotten, the oldest first.
const FORGET_SQL: &str = "DELETE FROM hayate_completed WHERE info_hash IN
    (SELECT info_hash FROM hayate_completed WHERE (last_completed, info_hash) < (?1, ?2)
     ORDER BY last_completed, info_hash LIMIT ?3)";
/// Rows of such a slice, at most: others wait for the file meanwhile.
const FORGET_ROWS: i64 = 1000;

/// A store in one file.
#[derive(Debug)]
pub struct Sqlite {
    connection: Connection,
    node: String,
    /// Held by the writing connection; `None` for a reader. Released after the connection is closed.
    lock: Option<WriterLock>,
    opened_file: OpenedFile,
}

/// The exclusive right to write. A child process that is being started briefly has the same open file, so the
/// lock is released explicitly, not only by closing.
#[derive(Debug)]
struct WriterLock(File);

impl Drop for WriterLock {
    fn drop(&mut self) {
        // If this fails, closing releases it.
        let _ = self.0.unlock();
    }
}

impl Sqlite {
    /// Opens the file for writing, exclusively; creates it and its tables if they are missing. `node` is the
    /// name under which sequence numbers are kept.
    ///
    /// # Errors
    /// Fails when another tracker holds the file, when it is not a database of hayate, or when the system
    /// refuses.
    pub fn open(path: &Path, node: &str) -> Result<Self, StoreError> {
        let lock = Some(lock_file(path)?);
        Ok(Self {
            connection: connect(path)?,
            node: node.to_owned(),
            lock,
            opened_file: OpenedFile::at(path),
        })
    }

    /// Opens the file for reading beside the writer; creates it and its tables if they are missing.
    ///
    /// # Errors
    /// Fails as [`open`](Self::open) does, except that other trackers may hold the file.
    pub fn open_shared(path: &Path, node: &str) -> Result<Self, StoreError> {
        Ok(Self {
            connection: connect(path)?,
            node: node.to_owned(),
            lock: None,
            opened_file: OpenedFile::at(path),
        })
    }

    fn begin(&mut self) -> Result<Transaction<'_>, StoreError> {
        if self.lock.is_none() {
            return Err(StoreError::Unfit("this connection was opened to read only".to_owned()));
        }
        // Immediate: a transaction that became a writer midway could not wait for its turn.
        self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(store_error)
    }
}

impl Store for Sqlite {
    fn save(&mut self, batch: &Batch) -> Result<Saved, StoreError> {
        let node = self.node.clone();
        let transaction = self.begin()?;
        if read_sequence(&transaction, &node, batch.channel)? >= batch.sequence {
            return Ok(Saved::default());
        }
        let saved = write_batch(&transaction, batch).map_err(store_error)?;
        let journal = "INSERT INTO hayate_journal (node, queue, seq) VALUES (?1, ?2, ?3)
            ON CONFLICT (node, queue) DO UPDATE SET seq = excluded.seq";
        transaction
            .execute(journal, params![node, batch.channel.name(), signed_amount(batch.sequence)])
            .map_err(store_error)?;
        transaction.commit().map_err(|error| match store_error(error) {
            StoreError::Lost { text, .. } => StoreError::Lost { text, in_doubt: true },
            certain => certain,
        })?;
        Ok(saved)
    }

    fn rehearse(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let transaction = self.begin()?;
        write_batch(&transaction, batch).map_err(store_error)?;
        transaction.rollback().map_err(store_error)
    }

    fn acknowledged(&mut self, channel: Channel) -> Result<Option<u64>, StoreError> {
        read_sequence(&self.connection, &self.node, channel).map(Some)
    }

    fn read_completed(&mut self, most: usize, each: &mut dyn FnMut(InfoHash, u32)) -> Result<(), StoreError> {
        let last = read_completed(&self.connection, most, each).map_err(store_error)?;
        if self.lock.is_none() {
            return Ok(());
        }
        let (time, hash) = match last {
            Some((time, hash)) => (time, hash),
            // All rows.
            None if most == 0 => (i64::MAX, InfoHash([0; ID_LEN])),
            None => return Ok(()),
        };
        while self.connection.execute(FORGET_SQL, params![time, hash.0, FORGET_ROWS]).map_err(store_error)?
            > 0
        {}
        Ok(())
    }

    fn has_lost_its_file(&self) -> bool {
        self.opened_file.is_replaced()
    }

    fn read_registered(&mut self) -> Result<(Vec<InfoHash>, u64), StoreError> {
        read_registered(&self.connection).map_err(store_error)
    }

    fn read_rows(&mut self, set: SiteSet, each: &mut dyn FnMut(Option<SiteRow>)) -> Result<u64, StoreError> {
        read_set(&self.connection, set, each).map_err(store_error)
    }

    fn purge(&mut self, slice: &PurgeSlice) -> Result<PurgeProgress, StoreError> {
        let rows_max = signed_amount(slice.rows_max as u64);
        let transaction = self.begin()?;
        let values = params![slice.before, rows_max];
        let changed =
            transaction.prepare_cached(&SQLITE_SLICE.text()).and_then(|mut purge| purge.execute(values));
        let inactive = changed.map_err(store_error)? as u64;
        transaction.commit().map_err(store_error)?;
        // Rows that became inactive are not found again, so the next slice begins where this one did.
        let is_full = inactive >= slice.rows_max as u64;
        Ok(PurgeProgress { inactive, next: is_full.then_some(PurgeMark::Time(slice.before)) })
    }

    fn edit(
        &mut self,
        work: &mut dyn FnMut(&mut dyn Tables) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let immediate = TransactionBehavior::Immediate;
        let mut transaction = self.connection.transaction_with_behavior(immediate).map_err(store_error)?;
        work(&mut transaction)?;
        transaction.commit().map_err(store_error)
    }
}

fn lock_file(path: &Path) -> Result<WriterLock, StoreError> {
    let mut name = OsString::from(path);
    name.push(".lock");
    let name = PathBuf::from(name);
    let unfit = |text: String| StoreError::Unfit(text);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&name);
    let file = file.map_err(|error| unfit(format!("cannot open {}: {error}", name.display())))?;
    match file.try_lock() {
        Ok(()) => Ok(WriterLock(file)),
        Err(TryLockError::WouldBlock) => Err(unfit(format!("{} is used by another hayate", path.display()))),
        Err(TryLockError::Error(error)) => Err(unfit(format!("cannot lock {}: {error}", name.display()))),
    }
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let open_error = |error| match (store_error(error), path.display()) {
        (StoreError::Unfit(text), path) => StoreError::Unfit(format!("{path}: {text}")),
        (StoreError::Lost { text, in_doubt }, path) => {
            StoreError::Lost { text: format!("{path}: {text}"), in_doubt }
        }
        (other, _) => other,
    };
    let mut connection = Connection::open(path).map_err(open_error)?;
    set_pragmas(&connection).map_err(open_error)?;
    let version = read_version(&connection).map_err(open_error)?;
    schema::check_version(version)?;
    if version < schema::VERSION {
        migrate_file(&mut connection).map_err(open_error)?;
    }
    Ok(connection)
}

fn set_pragmas(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "journal_size_limit", LOG_OCTETS)
}

/// The version of the schema; 0 for a new file.
fn read_version(connection: &Connection) -> rusqlite::Result<u32> {
    let there = "SELECT count(*) > 0 FROM sqlite_schema WHERE type = 'table' AND name = 'hayate_schema'";
    if !connection.query_row(there, [], |row| row.get::<_, bool>(0))? {
        return Ok(0);
    }
    connection.query_row("SELECT ifnull(max(version), 0) FROM hayate_schema", [], |row| row.get(0))
}

fn migrate_file(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for statement in schema::migration_statements(schema::Dialect::Sqlite) {
        transaction.execute_batch(statement)?;
    }
    transaction.commit()
}

fn read_sequence(connection: &Connection, node: &str, channel: Channel) -> Result<u64, StoreError> {
    let ask = "SELECT seq FROM hayate_journal WHERE node = ?1 AND queue = ?2";
    let answer = connection.query_row(ask, params![node, channel.name()], |row| row.get::<_, i64>(0));
    let number = answer.optional().map_err(store_error)?.unwrap_or(0);
    Ok(u64::try_from(number).unwrap_or(0))
}

/// Writes the rows.
fn write_batch(transaction: &Transaction<'_>, batch: &Batch) -> rusqlite::Result<Saved> {
    let mut saved = Saved::default();
    for record in &batch.records {
        let changed = match record {
            Record::Torrent(row) => sql::write_torrent(transaction, row),
            Record::User(row) => sql::write_user(transaction, row),
            Record::Transfer(row) => sql::write_transfer(transaction, row),
            Record::TransferIp(row) => sql::write_transfer_ip(transaction, row),
            Record::Snatch(row) => sql::write_snatch(transaction, row),
            Record::Completed(row) => sql::write_completed(transaction, row),
            // Not a row: the writer handles it.
            Record::Purge { .. } => Ok(1),
        }?;
        saved.without_target += u64::from(changed == 0);
    }
    Ok(saved)
}

/// Passes on the latest counts; returns the last one if there were `most`, as everything behind it is to be
/// forgotten.
fn read_completed(
    connection: &Connection,
    most: usize,
    each: &mut dyn FnMut(InfoHash, u32),
) -> rusqlite::Result<Option<(i64, InfoHash)>> {
    let sql = "SELECT info_hash, completed, last_completed FROM hayate_completed
        ORDER BY last_completed DESC, info_hash DESC LIMIT ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([signed_amount(most as u64)])?;
    let (mut shown, mut last) = (0, None);
    while let Some(row) = rows.next()? {
        let hash = InfoHash(row.get::<_, [u8; ID_LEN]>(0)?);
        each(hash, row.get(1)?);
        shown += 1;
        last = Some((row.get(2)?, hash));
    }
    Ok(last.filter(|_| shown == most))
}

fn read_registered(connection: &Connection) -> rusqlite::Result<(Vec<InfoHash>, u64)> {
    let mut statement = connection.prepare_cached(&sets::registered_query().select_all())?;
    let mut rows = statement.query([])?;
    let (mut registered, mut left_out) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        match row.get::<_, [u8; ID_LEN]>(0) {
            Ok(octets) => registered.push(InfoHash(octets)),
            Err(_) => left_out += 1,
        }
    }
    Ok((registered, left_out))
}

fn read_set(
    connection: &Connection,
    set: SiteSet,
    each: &mut dyn FnMut(Option<SiteRow>),
) -> rusqlite::Result<u64> {
    let mut skipped = 0;
    for source in sets::set_queries(set, "unixepoch()") {
        // In one go: a reader of a file blocks no one, and locks nothing.
        let mut statement = connection.prepare_cached(&source.select_all())?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            match SiteRow::parse_row(set, row) {
                Some(row) => each(Some(row)),
                None => skipped += 1,
            }
        }
    }
    Ok(skipped)
}

impl Tables for Transaction<'_> {
    fn lock_edits(&mut self) -> Result<(), StoreError> {
        // A transaction that may write is exclusive from its beginning.
        Ok(())
    }

    fn run_statement(&mut self, sql: &str, values: &[SqlValue]) -> Result<(u64, u64), StoreError> {
        let changed = self.execute(sql, params_from_iter(values)).map_err(store_error)?;
        Ok((changed as u64, self.last_insert_rowid().unsigned_abs()))
    }

    fn query_rows(&mut self, sql: &str, values: &[SqlValue]) -> Result<Vec<Vec<SqlValue>>, StoreError> {
        let mut statement = self.prepare(sql).map_err(store_error)?;
        let columns = statement.column_count();
        let mut rows = statement.query(params_from_iter(values)).map_err(store_error)?;
        let mut all = Vec::new();
        while let Some(row) = rows.next().map_err(store_error)? {
            let value = |at| {
                Ok(match row.get_ref(at)? {
                    ValueRef::Null => SqlValue::Null,
                    ValueRef::Integer(number) => SqlValue::Number(number),
                    ValueRef::Real(number) => SqlValue::Real(number),
                    ValueRef::Text(octets) | ValueRef::Blob(octets) => SqlValue::Octets(octets.to_vec()),
                })
            };
            all.push((0..columns).map(value).collect::<rusqlite::Result<_>>().map_err(store_error)?);
        }
        Ok(all)
    }
}

impl ToSql for SqlValue {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Number(number) => ValueRef::Integer(*number),
            Self::Real(number) => ValueRef::Real(*number),
            Self::Octets(octets) => ValueRef::Blob(octets),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
        }))
    }
}

impl DbRow for Row<'_> {
    fn integer(&self, at: usize) -> Option<i64> {
        self.get_ref(at).ok()?.as_i64().ok()
    }

    fn real(&self, at: usize) -> Option<f64> {
        self.get_ref(at).ok()?.as_f64().ok().filter(|value| value.is_finite())
    }

    fn octets(&self, at: usize) -> Option<&[u8]> {
        self.get_ref(at).ok()?.as_bytes().ok()
    }
}

fn store_error(error: rusqlite::Error) -> StoreError {
    let text = error.to_string();
    let Some(failure) = error.sqlite_error() else { return StoreError::Lost { text, in_doubt: false } };
    match failure.code {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => StoreError::Deadlock(text),
        ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig => {
            StoreError::BadRow { code: failure.extended_code, text }
        }
        ErrorCode::NotADatabase => StoreError::Unfit(text),
        _ => StoreError::Lost { text, in_doubt: false },
    }
}

#[cfg(test)]
mod tests;
