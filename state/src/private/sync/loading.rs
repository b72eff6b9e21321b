//! A set of a site while it is read.

use std::sync::Arc;

use crate::ids::InfoHash;
use crate::private::parts::Parts;
use crate::private::site::Site;
use crate::private::torrent_type::Kind;
use crate::private::torrents::{Row, SHARDS};
use crate::private::users::Members;
use crate::snapshot::site::{Multipliers, User};
use crate::store::{Line, Registered, Set};

/// A set that is being read.
pub(super) enum Heap {
    Users {
        members: Members,
        users: Parts<Box<[u8]>, User>,
        twice: Option<(u32, u32)>,
    },
    HitAndRuns(Parts<(u32, u32)>),
    /// One for each shard.
    Torrents(Vec<Vec<Row>>),
    Freeleech(Parts<(Kind, u32), Multipliers>),
    GlobalFreeleech(Option<i64>),
    Clients(Vec<(u32, Box<[u8]>)>),
    Tokens(Parts<(u32, u32)>),
    Deletions(Parts<InfoHash, Arc<str>>),
}

impl Heap {
    pub(super) fn of(set: Set) -> Self {
        match set {
            Set::Users => Self::Users { members: Members::default(), users: Parts::default(), twice: None },
            Set::HitAndRuns => Self::HitAndRuns(Parts::default()),
            Set::Torrents => Self::Torrents(vec![Vec::new(); SHARDS]),
            Set::Freeleech => Self::Freeleech(Parts::default()),
            // Counts are compared as they come.
            Set::GlobalFreeleech | Set::Counts => Self::GlobalFreeleech(None),
            Set::Clients => Self::Clients(Vec::new()),
            Set::Tokens => Self::Tokens(Parts::default()),
            Set::Deletions => Self::Deletions(Parts::default()),
        }
    }

    pub(super) fn take(&mut self, line: Line, site: &Site) {
        match (self, line) {
            (Self::Users { members, users, twice }, Line::User(user)) => {
                if let Some(other) = members.put(&user) {
                    *twice = Some((other.id, user.id));
                }
                users.put(user.passkey.clone(), user);
            }
            (Self::Torrents(shards), Line::Torrent(torrent)) => {
                let row = row_of(&torrent, site);
                if let Some(rows) = shards.get_mut(site.torrents.shard_of(&row.info_hash)) {
                    rows.push(row);
                }
            }
            (Self::HitAndRuns(pairs), Line::HitAndRun { uid, fid })
            | (Self::Tokens(pairs), Line::Token { uid, fid }) => {
                pairs.put((uid, fid), ());
            }
            (Self::Freeleech(groups), Line::Freeleech(group, multipliers)) => {
                groups.put((site.torrents.kinds().of(&group.type_name), group.id), multipliers);
            }
            (Self::GlobalFreeleech(setting), Line::GlobalFreeleech(value)) => *setting = Some(value),
            (Self::Clients(clients), Line::Client(id, prefix)) => clients.push((id, prefix)),
            (Self::Deletions(reasons), Line::Deletion(info_hash, reason)) => {
                reasons.put(info_hash, reason);
            }
            // A store gives only lines of the set it was asked for.
            _ => {}
        }
    }
}

pub(in crate::private) fn row_of(torrent: &Registered, site: &Site) -> Row {
    Row {
        info_hash: torrent.info_hash,
        id: torrent.id,
        kind: site.torrents.kinds().of(&torrent.group.type_name),
        group: torrent.group.id,
        snatched: torrent.snatched,
        status: torrent.status,
        multipliers: torrent.multipliers,
    }
}
