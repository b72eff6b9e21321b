//! Durable memory: what a store is, and how records reach it without any server thread waiting for it.
//!
//! | module | what is in it |
//! |---|---|
//! | [`record`] | the changes that a store keeps |
//! | [`queue`], `bounds` | where they wait in memory, merged by row; how many may wait |
//! | `unprunes` | torrents that are live again, of which the store does not know yet |
//! | `spill`, `dead_letter` | where they wait on the disk, and where bad ones end |
//! | `spill_owner` | whose rows wait on the disk |
//! | `cuts`, `fold` | in mode private: the files to which all of them go first, with the totals of sessions |
//! | [`total`] | the totals that sessions have reported |
//! | `frames` | the format of these files |
//! | `in_flight` | the batches that are under way, and their order |
//! | [`writer`], [`recorder`] | the threads that write them to the store |
//! | [`purge`] | how silent peers become inactive in the store, a slice at a time |
//! | `metrics` | the metrics of queues, spill and store |
//! | `opened_file` | whether the file of a store is still there |
//! | [`site_rows`] | the sets that mode private reads from the store |
//! | `site_tables`, [`site_sql`] | what the tables of a site are called; all statements about them |
//! | [`edit`] | changes that people and back ends make |
//! | [`dsn`], [`backend`] | where the store is, and how it is opened |
//! | [`schema`] | the tables |
//! | [`sqlite`], [`mariadb`], `sums` | the stores; sums that do not overflow |
//!
//! Invariants: queuing a record takes one short lock; a row waits once in each queue; records of a channel
//! reach the store in the order of their sequence numbers, each exactly once; nothing that left a queue is
//! forgotten before the store, the disk or the dead letters have it.

pub mod backend;
mod bounds;
mod cuts;
mod dead_letter;
pub mod dsn;
pub mod edit;
mod fold;
mod frames;
mod in_flight;
pub mod mariadb;
mod metrics;
mod opened_file;
pub mod purge;
pub mod queue;
pub mod record;
pub mod recorder;
pub mod schema;
pub mod site_rows;
pub mod site_sql;
mod site_tables;
mod spill;
mod spill_owner;
pub mod sqlite;
mod sums;
pub mod total;
mod unprunes;
pub mod writer;

use crate::ids::InfoHash;
pub use backend::Backend;
pub use bounds::Bounds;
pub use dsn::Dsn;
pub use edit::{SqlValue, Tables};
pub use purge::{PurgeMark, PurgeProgress, PurgeSlice};
pub use queue::Queues;
pub use record::{Channel, Record, RecordKey};
pub use recorder::{
    EmergencyFlush, Leftovers, OpenedStore, Recorder, RecorderError, SpillPaths, spill_unnumbered,
};
pub use schema::RequiredTables;
pub use site_rows::{RegisteredTorrent, SiteRow, SiteSet};
pub use spill_owner::{SpillOwnerError, claim_spill};
pub use total::{DurableTotals, SnapshotOrigin};
pub use unprunes::SiteReading;
pub use writer::{OpenStore, WriterSettings};

/// Records of one channel that are kept or not kept as a whole; each row occurs once, sorted by
/// [`Record::key`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The channel of the records.
    pub channel: Channel,
    /// The changes.
    pub records: Vec<Record>,
    /// Number of the last record: the store remembers it in `hayate_journal` together with the batch.
    pub sequence: u64,
}

/// The result of a batch that was kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// Records for rows that do not exist (any more) and are never created.
    pub without_target: u64,
}

/// Why a store did not do what was requested.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The backend undid the batch because of others (MariaDB 1213, 1205; SQLite busy): try again soon.
    #[error("deadlock: {0}")]
    Deadlock(String),
    /// A value of the batch does not fit into its column (SQLSTATE class 22, 23).
    #[error("{text} ({code})")]
    BadRow {
        /// The number of the error; for SQLite the extended result code.
        code: i32,
        /// The message of the backend.
        text: String,
    },
    /// The backend is unreachable, or did not answer a commit: try again later, with a new connection.
    #[error("{text}")]
    Lost {
        /// The message of the backend or the system.
        text: String,
        /// Whether the batch may have been kept all the same: its commit was sent and not answered.
        in_doubt: bool,
    },
    /// The backend cannot be used until the operator acts: another program holds it, its schema is newer than
    /// this program, a table is missing.
    #[error("{0}")]
    Unfit(String),
}

/// Durable memory. Used on the writer thread, where blocking is fine; a worker never calls it.
pub trait Store: Send {
    /// Keeps all of `batch` and its sequence number or, on error, none of it. A batch whose number is not
    /// above the [`acknowledged`](Self::acknowledged) one has been kept already, and nothing is done. Sums
    /// stop at the maximum of their column, amounts at that of a signed 64-bit number.
    ///
    /// # Errors
    /// Fails when the backend refuses; the caller keeps the batch and tries again.
    fn save(&mut self, batch: &Batch) -> Result<Saved, StoreError>;

    /// Tries what [`save`](Self::save) would do, and rolls it back: this is how bad rows are found.
    ///
    /// # Errors
    /// Fails as `save` does.
    fn rehearse(&mut self, batch: &Batch) -> Result<(), StoreError>;

    /// Returns the number of the last batch of a channel that was kept; 0 before the first. Waits for a
    /// commit of an earlier connection that is still under way. `None` if there is no `hayate_journal`.
    ///
    /// # Errors
    /// Fails when the backend does not answer.
    fn acknowledged(&mut self, channel: Channel) -> Result<Option<u64>, StoreError>;

    /// Passes each torrent's count of finished downloads to `each`, latest first, up to `most` of them;
    /// forgets older ones.
    ///
    /// # Errors
    /// Fails when the backend does not answer.
    fn read_completed(&mut self, most: usize, each: &mut dyn FnMut(InfoHash, u32)) -> Result<(), StoreError>;

    /// Returns the registered torrents, the rows of `torrents` whose `TorrentType` is not `internal`, and the
    /// number of those left out because their `info_hash` is not valid.
    ///
    /// # Errors
    /// Fails when the backend does not answer, or breaks off midway.
    fn read_registered(&mut self) -> Result<(Vec<InfoHash>, u64), StoreError>;

    /// Passes each row of a set of mode private to `each` as it is read; returns the number of rows left out
    /// because they cannot be read. After each wait for an answer of the backend, `each` gets `None` first:
    /// that time was no work of this process.
    ///
    /// # Errors
    /// Fails when the backend does not answer, or breaks off midway: then the rows passed so far are not the
    /// whole set.
    fn read_rows(&mut self, set: SiteSet, each: &mut dyn FnMut(Option<SiteRow>)) -> Result<u64, StoreError>;

    /// Does a slice of a purge of `transfer_history`, in a transaction of its own. A store without that table
    /// has nothing to do.
    ///
    /// # Errors
    /// Fails when the backend refuses; then nothing was done.
    fn purge(&mut self, slice: &PurgeSlice) -> Result<PurgeProgress, StoreError> {
        let _ = slice;
        Ok(PurgeProgress::default())
    }

    /// Whether the file of the store was deleted or replaced since it was opened. Anything kept since then is
    /// missing after the next start.
    fn has_lost_its_file(&self) -> bool {
        false
    }

    /// Runs `work` in a transaction of its own, beside those of the writer, and keeps everything it does or,
    /// on error, none of it.
    ///
    /// # Errors
    /// Fails when `work` or the backend does.
    fn edit(
        &mut self,
        work: &mut dyn FnMut(&mut dyn Tables) -> Result<(), StoreError>,
    ) -> Result<(), StoreError>;
}

/// The largest count or time that a signed 32-bit column holds.
const COUNT_MAX: i64 = i32::MAX as i64;

/// Returns an amount, limited to what a signed column holds.
fn signed_amount(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}
