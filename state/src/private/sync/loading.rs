//! A set of a site while it is read.

use std::sync::Arc;

use crate::ids::InfoHash;
use crate::private::cow_map::CowMap;
use crate::private::torrent_type::TorrentType;
use crate::private::torrents::{SHARDS, TorrentInfo, Torrents};
use crate::private::users::Users;
use crate::snapshot::site::{Multipliers, UserAccount};
use crate::store::{SiteRow, SiteSet};

/// The rows of a set that have been read so far.
pub(super) enum LoadingSet {
    Users {
        user_set: Users,
        accounts: CowMap<Box<[u8]>, UserAccount>,
        duplicate: Option<(u32, u32)>,
    },
    HitAndRuns(CowMap<(u32, u32)>),
    /// One for each shard.
    Torrents(Vec<Vec<TorrentInfo>>),
    GroupMultipliers(CowMap<(TorrentType, u32), Multipliers>),
    GlobalFreeleech(Option<i64>),
    Clients(Vec<(u32, Box<[u8]>)>),
    Tokens(CowMap<(u32, u32)>),
    Deletions(CowMap<InfoHash, Arc<str>>),
}

impl LoadingSet {
    pub(super) fn for_set(set: SiteSet) -> Self {
        match set {
            SiteSet::Users => {
                Self::Users { user_set: Users::default(), accounts: CowMap::default(), duplicate: None }
            }
            SiteSet::HitAndRuns => Self::HitAndRuns(CowMap::default()),
            SiteSet::Torrents => Self::Torrents(vec![Vec::new(); SHARDS]),
            SiteSet::GroupMultipliers => Self::GroupMultipliers(CowMap::default()),
            // Counts are compared as they are read.
            SiteSet::GlobalFreeleech | SiteSet::Counts => Self::GlobalFreeleech(None),
            SiteSet::Clients => Self::Clients(Vec::new()),
            SiteSet::Tokens => Self::Tokens(CowMap::default()),
            SiteSet::Deletions => Self::Deletions(CowMap::default()),
        }
    }

    pub(super) fn push_row(&mut self, row: SiteRow, torrents: &Torrents) {
        match (self, row) {
            (Self::Users { user_set, accounts, duplicate }, SiteRow::User(user)) => {
                if let Some(other) = user_set.insert(&user) {
                    *duplicate = Some((other.id, user.id));
                }
                accounts.insert(user.passkey.clone(), user);
            }
            (Self::Torrents(shards), SiteRow::Torrent(torrent)) => {
                let row = TorrentInfo::from_store(&torrent, torrents.torrent_types());
                if let Some(rows) = shards.get_mut(torrents.shard_of(&row.info_hash)) {
                    rows.push(row);
                }
            }
            (Self::HitAndRuns(pairs), SiteRow::HitAndRun { uid, fid })
            | (Self::Tokens(pairs), SiteRow::Token { uid, fid }) => {
                pairs.insert((uid, fid), ());
            }
            (Self::GroupMultipliers(groups), SiteRow::GroupMultipliers(group, multipliers)) => {
                groups.insert((torrents.torrent_types().intern(&group.type_name), group.id), multipliers);
            }
            (Self::GlobalFreeleech(setting), SiteRow::GlobalFreeleech(value)) => *setting = Some(value),
            (Self::Clients(clients), SiteRow::Client(id, prefix)) => clients.push((id, prefix)),
            (Self::Deletions(reasons), SiteRow::Deletion(info_hash, reason)) => {
                reasons.insert(info_hash, reason);
            }
            // A store returns only rows of the requested set.
            _ => {}
        }
    }
}
