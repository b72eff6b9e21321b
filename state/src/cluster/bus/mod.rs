//! [`Bus`]: the server with the streams. It keeps one total order of the entries of all nodes in each stream.
//! [`redis`] is the one of a real server.

use std::time::Duration;

pub mod redis;

/// The place of an entry in its stream: milliseconds of the server's clock, and a number among those of that
/// millisecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// Milliseconds since 1970-01-01 UTC.
    pub milliseconds: u64,
    /// The number in that millisecond.
    pub number: u64,
}

/// One exchange with the server: what is appended to a stream, and from where it is read.
#[derive(Clone, Copy, Debug)]
pub struct Exchange<'a> {
    /// The stream's key.
    pub key: &'a str,
    /// Entries to append, in their order.
    pub append: &'a [Vec<u8>],
    /// With each append, entries older than this are dropped, as many as is cheap.
    pub oldest: EntryId,
    /// Entries behind this one are read.
    pub position: EntryId,
    /// The most entries to read.
    pub read_max: usize,
}

/// What an exchange has brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exchanged {
    /// The server's clock at the beginning of the exchange, since 1970-01-01 UTC.
    pub server_time: Duration,
    /// From the request to the answer, without the connect.
    pub round_trip: Duration,
    /// The places of the appended entries.
    pub appended: Vec<EntryId>,
    /// Entries behind the position, in their order.
    pub entries: Vec<(EntryId, Vec<u8>)>,
}

/// What is known of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamState {
    /// The place of the last entry that was ever appended.
    pub last: EntryId,
    /// The place of the first entry that is still there.
    pub first: Option<EntryId>,
    /// The number of entries.
    pub len: u64,
}

/// One link's way to the server. A call that fails ends the connection; the next one connects anew.
pub trait Bus: Send {
    /// Reads the clock, appends entries, and reads entries, in one round trip. Those that were appended are
    /// among those that are read, if nothing is between.
    ///
    /// # Errors
    /// Fails when the server cannot be reached in time, or refuses. Entries may have been appended even so.
    fn exchange(&mut self, exchange: &Exchange<'_>) -> Result<Exchanged, BusError>;

    /// Returns the state of a stream; `None` where there is no such key.
    ///
    /// # Errors
    /// As for [`exchange`](Self::exchange).
    fn stream_state(&mut self, key: &str) -> Result<Option<StreamState>, BusError>;

    /// Drops entries older than `oldest`, and then the oldest ones beyond `entries_max`, as far as is cheap.
    ///
    /// # Errors
    /// As for [`exchange`](Self::exchange).
    fn trim(&mut self, key: &str, oldest: EntryId, entries_max: u64) -> Result<(), BusError>;
}

/// Why an exchange failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// No connection, no answer in time, or a server that cannot answer now.
    #[error("{0}")]
    Away(String),
    /// The server's memory is full.
    #[error("its memory is full: {0}")]
    OutOfMemory(String),
    /// The login is not accepted, or not allowed to do this.
    #[error("it refuses this login: {0}")]
    Denied(String),
    /// The key holds something else.
    #[error("another program uses the key {0}")]
    WrongType(String),
    /// The server is too old, or answers what nobody asked.
    #[error("{0}")]
    Unsuitable(String),
}
