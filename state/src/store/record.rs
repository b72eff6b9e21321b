//! The records that the tracker sends to a store: changes of rows, with one channel for each kind. Changes of
//! the same row are merged while they wait, so that a batch holds each row once.

use serde::{Deserialize, Serialize};

use crate::ids::InfoHash;

/// The place where records of one kind wait and are written, with passes and pauses of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Channel {
    /// Counts of registered torrents (mode private).
    Torrents,
    /// Amounts of users (mode private).
    Users,
    /// What a user has done on a torrent (mode private).
    TransferHistory,
    /// The same by address and client (mode private).
    TransferIps,
    /// Times of finished downloads (mode private).
    Snatches,
    /// Finished downloads by `info_hash` (mode open and listed).
    Completed,
}

impl Channel {
    /// All channels, in the order in which they are written.
    pub const ALL: [Self; 6] = [
        Self::Torrents,
        Self::Users,
        Self::TransferHistory,
        Self::TransferIps,
        Self::Snatches,
        Self::Completed,
    ];

    /// The name of the channel in metrics, logs, file names and `hayate_journal`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Torrents => "torrents",
            Self::Users => "users",
            Self::TransferHistory => "transfer_history",
            Self::TransferIps => "transfer_ips",
            Self::Snatches => "snatches",
            Self::Completed => "completed",
        }
    }
}

/// A change of one row. Amounts are increments; times are Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// A change of a row of `torrents`; a missing row is counted, not created.
    Torrent(TorrentRow),
    /// A change of a row of `users_main`; a missing row is counted, not created.
    User(UserRow),
    /// A change of a row of `transfer_history`, created if it is missing.
    Transfer(TransferRow),
    /// A change of a row of `transfer_ips`, created if it is missing.
    TransferIp(TransferIpRow),
    /// A change of `snatched_time` in a row of `transfer_history`, created if it is missing.
    Snatch(SnatchRow),
    /// A change of a row of `hayate_completed`, created if it is missing.
    Completed(CompletedRow),
    /// Sets `active` = 0 in all active rows of `transfer_history` last announced before a time. Not a part of
    /// its batch: once the rows before it are kept, a [purge](super::purge) begins.
    Purge {
        /// Rows with a `last_announce` below this, in Unix seconds, are inactive.
        before: i64,
    },
}

/// A change of a row of `torrents`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TorrentRow {
    /// `ID`.
    pub id: u32,
    /// Added to `Snatched`.
    pub snatched: u32,
    /// `Seeders` from now on.
    pub seeders: u32,
    /// `Leechers` from now on.
    pub leechers: u32,
    /// `last_action`, if it is later than the present value; 0 = unchanged.
    pub last_action: i64,
    /// `Status` = 0 from now on.
    pub unprune: bool,
    /// False for a row that only has `unprune`.
    pub has_counts: bool,
}

/// A change of a row of `users_main`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRow {
    /// `ID`.
    pub id: u32,
    /// Credited octets, added to `Uploaded`.
    pub uploaded: u64,
    /// Credited octets, added to `Downloaded`.
    pub downloaded: u64,
    /// Octets, added to `rawup`.
    pub raw_up: u64,
    /// Octets, added to `rawdl`.
    pub raw_down: u64,
}

/// A change of a row of `transfer_history`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferRow {
    /// Id of the user.
    pub uid: u32,
    /// Id of the torrent.
    pub fid: u32,
    /// Octets, added to `uploaded`.
    pub raw_up: u64,
    /// Octets, added to `downloaded`.
    pub raw_down: u64,
    /// `seeding` from now on.
    pub seeding: bool,
    /// `starttime` of a new row.
    pub start_time: i64,
    /// `last_announce` from now on.
    pub last_announce: i64,
    /// Seconds, added to `activetime`.
    pub active_time: i64,
    /// Seconds, added to `seedtime`.
    pub seed_time: i64,
    /// `active` from now on.
    pub active: bool,
    /// Added to `snatched`.
    pub snatched: u32,
    /// Octets still missing; `remaining` from now on.
    pub remaining: i64,
}

/// A change of a row of `transfer_ips`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferIpRow {
    /// Id of the user.
    pub uid: u32,
    /// Id of the torrent.
    pub fid: u32,
    /// Id of the approved client.
    pub client_id: u32,
    /// The address as a number (`rules/private-accounting.md#addresses-in-rows`).
    pub ip: u32,
    /// The IPv6 address, if it is one.
    pub ip6: Option<[u8; 16]>,
    /// `port` from now on.
    pub port: u16,
    /// Octets, added to `uploaded`.
    pub raw_up: u64,
    /// Octets, added to `downloaded`.
    pub raw_down: u64,
    /// `starttime` of a new row.
    pub start_time: i64,
    /// `last_announce` from now on.
    pub last_announce: i64,
}

/// A finished download in `transfer_history`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnatchRow {
    /// Id of the user.
    pub uid: u32,
    /// Id of the torrent.
    pub fid: u32,
    /// `snatched_time`, if it was 0.
    pub time: i64,
    /// `starttime` of a new row.
    pub start_time: i64,
}

/// Finished downloads of one torrent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompletedRow {
    /// The torrent.
    pub info_hash: InfoHash,
    /// Added to `completed`.
    pub completed: u32,
    /// When the last of them finished; `last_completed` from now on.
    pub last_completed: i64,
}

/// The key of a record's row within its channel; batches are sorted by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKey {
    /// `ID`.
    Id(u32),
    /// User and torrent.
    Pair(u32, u32),
    /// User, torrent, address, client.
    Ip(u32, u32, u32, u32),
    /// The torrent.
    Hash(InfoHash),
    /// All rows; sorted behind all others.
    Purge,
}

impl Record {
    /// The channel of the record.
    #[must_use]
    pub fn channel(&self) -> Channel {
        match self {
            Self::Torrent(_) => Channel::Torrents,
            Self::User(_) => Channel::Users,
            Self::Transfer(_) | Self::Purge { .. } => Channel::TransferHistory,
            Self::TransferIp(_) => Channel::TransferIps,
            Self::Snatch(_) => Channel::Snatches,
            Self::Completed(_) => Channel::Completed,
        }
    }

    /// The key of the row it changes.
    #[must_use]
    pub fn key(&self) -> RecordKey {
        match self {
            Self::Torrent(row) => RecordKey::Id(row.id),
            Self::User(row) => RecordKey::Id(row.id),
            Self::Transfer(row) => RecordKey::Pair(row.uid, row.fid),
            Self::TransferIp(row) => RecordKey::Ip(row.uid, row.fid, row.ip, row.client_id),
            Self::Snatch(row) => RecordKey::Pair(row.uid, row.fid),
            Self::Completed(row) => RecordKey::Hash(row.info_hash),
            Self::Purge { .. } => RecordKey::Purge,
        }
    }

    /// The torrent that the record makes live again, if it does.
    #[must_use]
    pub fn unpruned_torrent(&self) -> Option<u32> {
        match self {
            Self::Torrent(row) if row.unprune => Some(row.id),
            _ => None,
        }
    }

    /// The limit of the purge that the record requests, if it does.
    #[must_use]
    pub fn purge_before(&self) -> Option<i64> {
        match self {
            Self::Purge { before } => Some(*before),
            _ => None,
        }
    }

    /// Merges `later`, a record of the same row, into this one. Amounts stop at the largest number of their
    /// type.
    pub fn merge(&mut self, later: &Self) {
        match (self, later) {
            (Self::Torrent(row), Self::Torrent(later)) => row.merge(later),
            (Self::User(row), Self::User(later)) => row.merge(later),
            (Self::Transfer(row), Self::Transfer(later)) => row.merge(later),
            (Self::TransferIp(row), Self::TransferIp(later)) => row.merge(later),
            (Self::Completed(row), Self::Completed(later)) => {
                row.completed = row.completed.saturating_add(later.completed);
                row.last_completed = later.last_completed;
            }
            (Self::Purge { before }, Self::Purge { before: later }) => *before = (*before).max(*later),
            // The first snatch stays; records of different rows are never merged.
            _ => {}
        }
    }
}

impl TorrentRow {
    fn merge(&mut self, later: &Self) {
        self.snatched = self.snatched.saturating_add(later.snatched);
        self.last_action = self.last_action.max(later.last_action);
        self.unprune |= later.unprune;
        if later.has_counts {
            (self.seeders, self.leechers, self.has_counts) = (later.seeders, later.leechers, true);
        }
    }
}

impl UserRow {
    fn merge(&mut self, later: &Self) {
        add_amount(&mut self.uploaded, later.uploaded);
        add_amount(&mut self.downloaded, later.downloaded);
        add_amount(&mut self.raw_up, later.raw_up);
        add_amount(&mut self.raw_down, later.raw_down);
    }
}

impl TransferRow {
    fn merge(&mut self, later: &Self) {
        add_amount(&mut self.raw_up, later.raw_up);
        add_amount(&mut self.raw_down, later.raw_down);
        self.active_time = self.active_time.saturating_add(later.active_time);
        self.seed_time = self.seed_time.saturating_add(later.seed_time);
        self.snatched = self.snatched.saturating_add(later.snatched);
        self.seeding = later.seeding;
        self.last_announce = later.last_announce;
        self.active = later.active;
        self.remaining = later.remaining;
    }
}

impl TransferIpRow {
    fn merge(&mut self, later: &Self) {
        add_amount(&mut self.raw_up, later.raw_up);
        add_amount(&mut self.raw_down, later.raw_down);
        self.port = later.port;
        self.last_announce = later.last_announce;
    }
}

fn add_amount(amount: &mut u64, more: u64) {
    *amount = amount.saturating_add(more);
}
