//! What mode private reads from the store, set by set (`rules/private.md#reload-of-the-site`).

use std::sync::Arc;

use crate::ids::InfoHash;
use crate::snapshot::site::{Group, Multipliers, UserAccount};

/// A set of rows that is read as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SiteSet {
    /// Rows of `users_main` with `Enabled` = '1', ordered by `ID`, after replaced passkeys that still work:
    /// [`SiteRow::User`].
    Users,
    /// [`SiteRow::HitAndRun`].
    HitAndRuns,
    /// Rows of `torrents` whose `TorrentType` is not `internal`: [`SiteRow::Torrent`].
    Torrents,
    /// [`SiteRow::GroupMultipliers`].
    GroupMultipliers,
    /// [`SiteRow::GlobalFreeleech`], at most one.
    GlobalFreeleech,
    /// Rows of `approved_clients` that are not archived: [`SiteRow::Client`].
    Clients,
    /// hayate's own: [`SiteRow::Token`].
    Tokens,
    /// hayate's own: [`SiteRow::Deletion`].
    Deletions,
    /// [`SiteRow::Counts`] of the torrents of [`SiteSet::Torrents`].
    Counts,
}

impl SiteSet {
    /// All sets.
    pub const ALL: [Self; 9] = [
        Self::Users,
        Self::HitAndRuns,
        Self::Torrents,
        Self::GroupMultipliers,
        Self::GlobalFreeleech,
        Self::Clients,
        Self::Tokens,
        Self::Deletions,
        Self::Counts,
    ];
    /// The sets that each reload reads, in this order: all but [`Counts`](Self::Counts).
    pub const RELOADED: [Self; 8] = {
        let [reloaded @ .., _counts] = Self::ALL;
        reloaded
    };

    /// The name of the set in logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Users => "users",
            Self::HitAndRuns => "hit_and_runs",
            Self::Torrents => "torrents",
            Self::GroupMultipliers => "groups_freeleech",
            Self::GlobalFreeleech => "global_freeleech",
            Self::Clients => "clients",
            Self::Tokens => "tokens",
            Self::Deletions => "deletions",
            Self::Counts => "counts",
        }
    }
}

/// A row of a set.
#[derive(Clone, Debug, PartialEq)]
pub enum SiteRow {
    /// An enabled user.
    User(UserAccount),
    /// A user who did not seed a torrent enough.
    HitAndRun {
        /// Id of the user.
        uid: u32,
        /// Id of the torrent.
        fid: u32,
    },
    /// A registered torrent.
    Torrent(RegisteredTorrent),
    /// Multipliers of a torrent group.
    GroupMultipliers(Group, Multipliers),
    /// `mod_core` `global_freeleech`.
    GlobalFreeleech(i64),
    /// An approved client: its id, and the beginning of its peer ids.
    Client(u32, Box<[u8]>),
    /// A user whose downloads of a torrent are not credited.
    Token {
        /// Id of the user.
        uid: u32,
        /// Id of the torrent.
        fid: u32,
    },
    /// Why a torrent was deleted.
    Deletion(InfoHash, Arc<str>),
    /// The numbers of peers of a registered torrent that the store has.
    Counts {
        /// The torrent.
        info_hash: InfoHash,
        /// `Seeders`; [`u32::MAX`] if it is not a count.
        seeders: u32,
        /// `Leechers`; [`u32::MAX`] if it is not a count.
        leechers: u32,
    },
}

/// A registered torrent as the store has it.
#[derive(Clone, Debug, PartialEq)]
pub struct RegisteredTorrent {
    /// Its info_hash.
    pub info_hash: InfoHash,
    /// Its id in the store.
    pub id: u32,
    /// The group it belongs to.
    pub group: Group,
    /// Finished downloads.
    pub snatched: u32,
    /// 0 live, 1 pruned, anything else unavailable.
    pub status: i32,
    /// Its own multipliers.
    pub multipliers: Multipliers,
}

/// One row from a database. A value is `None` if it is NULL or of another kind.
pub(super) trait DbRow {
    /// A whole number.
    fn integer(&self, at: usize) -> Option<i64>;
    /// A finite number.
    fn real(&self, at: usize) -> Option<f64>;
    /// Text or octets.
    fn octets(&self, at: usize) -> Option<&[u8]>;
}

impl SiteRow {
    /// Parses a row of a set, with the columns of its queries in `site_sql`; `None` if a field of it is
    /// invalid.
    pub(super) fn parse_row(set: SiteSet, row: &impl DbRow) -> Option<Self> {
        let id = |at| u32::try_from(row.integer(at)?).ok();
        let flag = |at| Some(row.integer(at)? != 0);
        let text = |at| str::from_utf8(row.octets(at)?).ok();
        let info_hash = |at| row.octets(at)?.try_into().ok().map(InfoHash);
        // The sign of a multiplier is ignored (`rules/private-accounting.md#credit`).
        let multipliers = |up| Some(Multipliers { up: row.real(up)?.abs(), down: row.real(up + 1)?.abs() });
        let group = |at| Some(Group { type_name: text(at)?.into(), id: id(at + 1)? });
        Some(match set {
            SiteSet::Users => Self::User(UserAccount {
                passkey: row.octets(0)?.into(),
                id: id(1)?,
                disable_download: flag(2)?,
                tracker_hide: flag(3)?,
                multipliers: multipliers(4)?,
            }),
            SiteSet::HitAndRuns => Self::HitAndRun { uid: id(0)?, fid: id(1)? },
            SiteSet::Torrents => Self::Torrent(RegisteredTorrent {
                info_hash: info_hash(0)?,
                id: id(1)?,
                group: group(2)?,
                snatched: id(4)?,
                status: i32::try_from(row.integer(5)?).ok()?,
                multipliers: multipliers(6)?,
            }),
            SiteSet::GroupMultipliers => Self::GroupMultipliers(group(0)?, multipliers(2)?),
            SiteSet::GlobalFreeleech => Self::GlobalFreeleech(row.integer(0)?),
            SiteSet::Clients => Self::Client(id(0)?, row.octets(1)?.into()),
            SiteSet::Tokens => Self::Token { uid: id(0)?, fid: id(1)? },
            SiteSet::Deletions => Self::Deletion(info_hash(0)?, text(1)?.into()),
            SiteSet::Counts => Self::Counts {
                info_hash: info_hash(0)?,
                seeders: id(1).unwrap_or(u32::MAX),
                leechers: id(2).unwrap_or(u32::MAX),
            },
        })
    }
}

/// Returns a single-precision FLOAT by its shortest decimal form, so that 0.1 is 0.1.
pub(super) fn shortest_decimal(value: f32) -> Option<f64> {
    if !value.is_finite() {
        return None;
    }
    // The values of nearly all rows are the same in both.
    if (value * 2.0).fract() == 0.0 {
        return Some(value.into());
    }
    value.to_string().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_float_is_what_its_shortest_decimal_form_says() {
        for (text, value) in [("0.1", 0.1), ("0.333", 0.333), ("2", 2.0), ("1.5", 1.5), ("1e10", 1e10)] {
            assert_eq!(shortest_decimal(text.parse().unwrap()), Some(value));
        }
        assert_eq!(shortest_decimal(f32::NAN), None);
        assert_eq!(shortest_decimal(f32::INFINITY), None);
    }
}
