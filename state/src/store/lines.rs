//! What mode private reads from the store, set by set (`private-tracker.md` 15).

use std::sync::Arc;

use crate::ids::InfoHash;
use crate::snapshot::site::{Group, Multipliers, User};

/// A set that is read as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    /// Rows of `users_main` with `Enabled` = '1', ordered by `ID`; then passkeys that were changed and are
    /// still good: [`Line::User`].
    Users,
    /// [`Line::HitAndRun`].
    HitAndRuns,
    /// Rows of `torrents` whose `TorrentType` is not `internal`: [`Line::Torrent`].
    Torrents,
    /// [`Line::Freeleech`].
    Freeleech,
    /// [`Line::GlobalFreeleech`], at most one.
    GlobalFreeleech,
    /// Rows of `approved_clients` that are not archived: [`Line::Client`].
    Clients,
    /// hayate's own: [`Line::Token`].
    Tokens,
    /// hayate's own: [`Line::Deletion`].
    Deletions,
}

/// A row of a set.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// An enabled user.
    User(User),
    /// A user who did not seed a torrent enough.
    HitAndRun {
        /// User.
        uid: u32,
        /// Torrent.
        fid: u32,
    },
    /// A registered torrent.
    Torrent(Registered),
    /// Multipliers of a torrent group.
    Freeleech(Group, Multipliers),
    /// `mod_core` `global_freeleech`.
    GlobalFreeleech(i64),
    /// An approved client: id, and how its peer ids begin.
    Client(u32, Box<[u8]>),
    /// A user whose downloads of a torrent are not credited.
    Token {
        /// User.
        uid: u32,
        /// Torrent.
        fid: u32,
    },
    /// Why a torrent was deleted.
    Deletion(InfoHash, Arc<str>),
}

/// A registered torrent as the store knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Registered {
    /// Names it on the wire.
    pub info_hash: InfoHash,
    /// Names it in the store.
    pub id: u32,
    /// What it belongs to.
    pub group: Group,
    /// Finished downloads.
    pub snatched: u32,
    /// 0 live, 1 pruned, anything else unavailable.
    pub status: i32,
    /// Its own multipliers.
    pub multipliers: Multipliers,
}
