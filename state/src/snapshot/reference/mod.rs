//! The cache files of the reference tracker, so that a site can move from it to hayate and back: `read` reads
//! `torrent-cache.bin` of versions 1 to 3 and `user-cache.bin` of version 1, `write` writes versions 3 and 1.
//!
//! ```text
//! torrents      uvarint version  uvarint count  then each torrent:
//!   torrent     20 info_hash  uvarint seeders, each a key and a peer  uvarint leechers, likewise  group
//!               u32 id  u16 snatched  u8 status  i64 last action  f64 up  f64 down
//!   key         u32 user  20 peer_id
//!   group       v3: 8 type name, padded with zeros  u32 group   v1, v2: uvarint length, type name  u32 group
//!   peer        20 peer_id  endpoint  u64 uploaded  u64 downloaded  u64 left  i64 start  i64 last announce
//!               u32 torrent  u32 user  u16 client  u8 seeding
//!   endpoint    v2, v3: 4 IPv4  2 port
//!               v1: uvarint length, IP as text  uvarint 6  4 IPv4  2 port  u32 IPv4  u16 port
//! users         uvarint 1  uvarint count  then each: uvarint length, passkey  u32 id  u8 disable download
//!               u8 hide  f64 up  f64 down
//! ```
//! Numbers are little-endian; a uvarint has seven bits an octet, the lowest first; IPv4 and the port after it
//! are big-endian. What follows the last record is ignored.

mod read;
#[cfg(test)]
mod tests;
mod write;

pub use read::{read_torrents, read_users};
pub use write::{ExportLosses, write_torrents, write_users};

/// The newest version of the torrent file, the one that is written.
pub const TORRENTS_VERSION: u64 = 3;
/// The only version of the user file.
pub const USERS_VERSION: u64 = 1;
/// Longest type name, in octets.
pub const TYPE_NAME_MAX: usize = 8;

/// Why a file of the reference tracker cannot be read. Offsets count from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The file ends within a record.
    #[error("it ends too early, in a record at octet {0}")]
    Short(usize),
    /// A count is larger than the octets that are left allow.
    #[error("at octet {at} it counts {count} records, more than it can hold")]
    Count {
        /// Offset of the count.
        at: usize,
        /// The count.
        count: u64,
    },
    /// The version is unknown.
    #[error("version {0} is not known")]
    Version(u64),
    /// A uvarint has more than 64 bits.
    #[error("a number has more than 64 bits, at octet {0}")]
    Number(usize),
    /// A length is invalid for its field.
    #[error("a bad length, {len}, at octet {at}")]
    Length {
        /// Offset of the length.
        at: usize,
        /// The length.
        len: u64,
    },
    /// A multiplier is infinite or not a number.
    #[error("a multiplier is not a number, before octet {0}")]
    Multiplier(usize),
}
