//! Durable memory: what a store is, and how records reach it without anybody waiting for it.
//!
//! | module | what is in it |
//! |---|---|
//! | [`record`] | the changes a store is told |
//! | [`queue`], `bounds` | where they wait in memory, merged by row; how many |
//! | `unprunes` | what they say that the store has not heard of |
//! | `spill`, `dead_letter` | where they wait, or end, on the disk |
//! | `cuts`, `fold` | in mode private: where all of them go first, with the totals of sessions |
//! | [`total`] | what sessions have reported |
//! | `frames` | what these files are made of |
//! | `in_flight` | what is under way, and in which order |
//! | [`writer`], [`recorder`] | the threads that bring them to the store |
//! | [`purge`] | how silent peers become inactive in the store, a slice at a time |
//! | `metrics` | what the operator sees of it |
//! | `file_identity` | whether the file of a store is still there |
//! | [`site_rows`] | what mode private reads from it |
//! | [`edit`] | changes that people make |
//! | [`dsn`], [`backend`] | where the store is, and how it is opened |
//! | [`schema`] | the tables |
//! | [`sqlite`], [`mariadb`], `sums` | the stores; sums that do not overflow |
//!
//! Invariants: putting a record takes one short lock; a row waits once in each queue; records of a channel
//! reach the store in the order of their sequence numbers, each exactly once; nothing that left a queue is
//! forgotten before the store, the disk or the dead letters have it.

pub mod backend;
mod bounds;
mod cuts;
mod dead_letter;
pub mod dsn;
pub mod edit;
mod file_identity;
mod fold;
mod frames;
mod in_flight;
pub mod mariadb;
mod metrics;
pub mod purge;
pub mod queue;
pub mod record;
pub mod recorder;
pub mod schema;
pub mod site_rows;
mod spill;
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
pub use recorder::{EmergencyFlush, Leftovers, OpenedStore, Recorder, RecorderError, SpillPaths};
pub use schema::RequiredTables;
pub use site_rows::{RegisteredTorrent, Set, SiteRow};
pub use total::{DurableTotals, SnapshotOrigin};
pub use unprunes::SiteReading;
pub use writer::{OpenStore, WriterSettings};

/// Records of one channel that are kept or not kept as a whole; each row is there once, sorted by
/// [`Record::key`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Where the records belong.
    pub channel: Channel,
    /// The changes.
    pub records: Vec<Record>,
    /// Number of the last record: the store remembers it in `hayate_journal` with the batch.
    pub sequence: u64,
}

/// What became of a batch that was kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// Records of rows that are not there (any more) and are never made.
    pub without_target: u64,
}

/// Why a store did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The backend undid the batch because of others (MariaDB 1213, 1205; SQLite busy): try again soon.
    #[error("deadlock: {0}")]
    Deadlock(String),
    /// A record of the batch is beyond what its column can hold (SQLSTATE class 22, 23).
    #[error("{text} ({code})")]
    BadRow {
        /// The number of the error; of SQLite the extended result code.
        code: i32,
        /// What the backend said.
        text: String,
    },
    /// The backend is away, or did not answer a commit: try again later, with a new connection.
    #[error("{text}")]
    Lost {
        /// What the backend or the system said.
        text: String,
        /// The batch may have been kept all the same: its commit was sent and not answered.
        in_doubt: bool,
    },
    /// The backend will never do: another program holds it, its schema is newer than this program, a table
    /// is missing. The operator has to know.
    #[error("{0}")]
    Unfit(String),
}

/// Durable memory. Runs on the writer thread; blocking is fine, a worker never calls it.
pub trait Store: Send {
    /// Keeps all of `batch` and its sequence number or, on error, none of it. A batch whose number is not
    /// above the [`acknowledged`](Self::acknowledged) one is there already; nothing is done then. Sums stop
    /// at what their column can hold, amounts at what a signed number of 64 bits can.
    ///
    /// # Errors
    /// When the backend refuses; the caller keeps the batch and tries again.
    fn save(&mut self, batch: &Batch) -> Result<Saved, StoreError>;

    /// Tries what [`save`](Self::save) would do, and undoes it: this is how bad rows are found.
    ///
    /// # Errors
    /// Those of `save`.
    fn rehearse(&mut self, batch: &Batch) -> Result<(), StoreError>;

    /// The number of the last batch of a channel that was kept; 0 before the first. It waits for a commit
    /// of an earlier connection that is still under way. `None` where there is no `hayate_journal`.
    ///
    /// # Errors
    /// When the backend does not answer.
    fn acknowledged(&mut self, channel: Channel) -> Result<Option<u64>, StoreError>;

    /// Shows `each` torrent's count of finished downloads, the latest first, `most` of them; forgets older
    /// ones.
    ///
    /// # Errors
    /// When the backend does not answer.
    fn read_completed(&mut self, most: usize, each: &mut dyn FnMut(InfoHash, u32)) -> Result<(), StoreError>;

    /// The registered torrents: rows of `torrents` whose `TorrentType` is not `internal`, and how many of
    /// them were left out because their `info_hash` is not one.
    ///
    /// # Errors
    /// When the backend does not answer, or breaks off midway.
    fn read_registered(&mut self) -> Result<(Vec<InfoHash>, u64), StoreError>;

    /// Shows `each` row of a set of mode private as it is read; gives how many rows were left out because
    /// they cannot be read.
    ///
    /// # Errors
    /// When the backend does not answer, or breaks off midway: then what was shown is not the whole set.
    fn read_rows(&mut self, set: Set, each: &mut dyn FnMut(SiteRow)) -> Result<u64, StoreError>;

    /// Does a slice of a purge of `transfer_history`, in a transaction of its own. A store without that table
    /// has nothing to do.
    ///
    /// # Errors
    /// When the backend refuses; then nothing was done.
    fn purge(&mut self, slice: &PurgeSlice) -> Result<PurgeProgress, StoreError> {
        let _ = slice;
        Ok(PurgeProgress::default())
    }

    /// Was the file of the store deleted or replaced since it was opened? What is kept then is not there
    /// after the next start.
    fn has_lost_its_file(&self) -> bool {
        false
    }

    /// Runs `work` in a transaction of its own, beside those of the writer, and keeps all it does or,
    /// on error, none of it.
    ///
    /// # Errors
    /// Those of `work`, and of the backend.
    fn edit(
        &mut self,
        work: &mut dyn FnMut(&mut dyn Tables) -> Result<(), StoreError>,
    ) -> Result<(), StoreError>;
}

/// What a count or a time in a column of 32 bits with a sign comes to at most.
const COUNT_MOST: i64 = i32::MAX as i64;

/// An amount as a column that is signed can take it.
fn signed_amount(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}
