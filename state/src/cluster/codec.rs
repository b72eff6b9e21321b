//! [`EntryCodec`]: what a link needs of the format and the sealing of entries.

use std::time::Duration;

use crate::cluster::bus::EntryId;
use crate::cluster::hello::Hello;
use crate::cluster::record::PeerRecord;

/// Random octets that name one start of one node.
pub type Incarnation = [u8; 16];

/// A sealed entry, ready to be appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenEntry {
    /// Its number among those of this incarnation in this stream; each is higher than the one before.
    pub seq: u64,
    /// What is appended.
    pub octets: Vec<u8>,
    /// How many of the records are in it.
    pub records: usize,
}

/// An entry that was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadEntry {
    /// Who has written it.
    pub incarnation: Incarnation,
    /// See [`WrittenEntry::seq`]. The link checks that it rises.
    pub seq: u64,
    /// When it was sealed: the server's time as its writer estimated it, since 1970-01-01 UTC.
    pub sealed_at: Duration,
    /// What it says.
    pub body: EntryBody,
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryBody {
    /// Changes of peers.
    Records {
        /// See [`ReceivedRecord`](crate::cluster::replica::ReceivedRecord).
        republished: bool,
        /// In their order.
        records: Vec<PeerRecord>,
    },
    /// A node says that it is there, or that it stops.
    Hello(Hello),
    /// A kind of entry that this version does not know.
    Unknown,
}

/// Why an entry is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryRefusal {
    /// It does not open: another secret, another stream, or changed on the way.
    Sealed,
    /// A format that this version does not read.
    Format,
    /// It opens, and what is in it is no record or hello.
    Damaged,
}

/// Writes and reads the entries of one stream. Numbers of entries rise, and are not checked when they are
/// read: a link reads some entries twice on purpose.
pub trait EntryCodec: Send {
    /// Seals as many of the records as one entry holds, from the first on; at least one. `at` is the server's
    /// time as this node estimates it, since 1970-01-01 UTC.
    fn seal_records(&mut self, at: Duration, republished: bool, records: &[PeerRecord]) -> WrittenEntry;

    /// Returns what this node says about itself at this moment.
    fn hello(&self) -> Hello;

    /// Seals a hello, or the last one.
    fn seal_hello(&mut self, at: Duration, leaving: bool) -> WrittenEntry;

    /// Opens an entry.
    ///
    /// # Errors
    /// Fails for an entry that is not to be read.
    fn open(&mut self, id: EntryId, octets: &[u8]) -> Result<ReadEntry, EntryRefusal>;

    /// Returns the incarnation of this node.
    fn incarnation(&self) -> Incarnation;
}
