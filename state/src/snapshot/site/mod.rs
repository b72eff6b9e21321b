//! The snapshot of mode private: torrents with their peers, users, and un-prunes that are not yet in the
//! database. Its encoding is in `file`.
//!
//! These are the values that are written, read, and converted to other formats, not those the tracker works
//! on. Files may hold more than fits twice into memory, so [`SiteWriter`] and [`SiteDecoder`] go through them
//! record by record; [`SiteSnapshot`] is for tools that need everything at once.
//!
//! Absent on purpose: hit-and-runs, freeleech and approved clients, which are only ever read from the
//! database.

mod file;
#[cfg(test)]
pub(super) mod tests;

use std::cmp::Reverse;
use std::net::{Ipv4Addr, Ipv6Addr};

pub use file::{
    LoadedSite, SiteDecoder, SiteRecord, SiteWriter, TAG_SITE_TORRENTS, TAG_SITE_UNPRUNES, TAG_SITE_USERS,
    read_blocks, read_file, write_file,
};

use crate::ids::{ID_LEN, InfoHash, PeerId};

/// Octets of [`SitePeer::key`].
pub const KEY_LEN: usize = 4 + ID_LEN;

/// The whole snapshot of a site.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SiteSnapshot {
    /// Torrents, in any order.
    pub torrents: Vec<SiteTorrent>,
    /// Enabled users, in any order.
    pub users: Vec<UserAccount>,
    /// Ids of torrents that are live again here, but still pruned in the database.
    pub unprunes: Vec<u32>,
}

/// A registered torrent.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteTorrent {
    /// Its info_hash.
    pub info_hash: InfoHash,
    /// Its id in the database.
    pub id: u32,
    /// The group it belongs to.
    pub group: Group,
    /// Finished downloads.
    pub snatched: u32,
    /// 0 live, 1 pruned, anything else unavailable.
    pub status: i32,
    /// When its swarm last changed, in Unix seconds.
    pub last_action: i64,
    /// Its own multipliers.
    pub multipliers: Multipliers,
    /// The peers in its swarm, in any order.
    pub peers: Vec<SitePeer>,
}

/// A torrent group, which may have freeleech of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Group {
    /// The torrent type: free text, such as `anime`.
    pub type_name: Box<str>,
    /// Its id among the groups of its type.
    pub id: u32,
}

/// Factors by which transferred octets are credited. Finite: no other value is read from a file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Multipliers {
    /// Factor of uploaded octets.
    pub up: f64,
    /// Factor of downloaded octets.
    pub down: f64,
}

impl Default for Multipliers {
    fn default() -> Self {
        Self { up: 1.0, down: 1.0 }
    }
}

/// Whether a peer has all of its torrent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It has the whole torrent.
    Seeder,
    /// It does not.
    Leecher,
}

/// One client of one user in one swarm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SitePeer {
    /// Id of its user.
    pub user: u32,
    /// The `peer_id` of the client.
    pub peer_id: PeerId,
    /// Seeder or leecher.
    pub role: Role,
    /// Its IPv4 endpoint.
    pub v4: Option<SeenEndpoint<Ipv4Addr>>,
    /// Its IPv6 endpoint.
    pub v6: Option<SeenEndpoint<Ipv6Addr>>,
    /// Octets the client says it has uploaded.
    pub uploaded: u64,
    /// Octets the client says it has downloaded.
    pub downloaded: u64,
    /// Octets the client says it still lacks.
    pub left: u64,
    /// Its first announce, in Unix seconds.
    pub started_at: i64,
    /// Its last announce over either family, in Unix seconds.
    pub announced_at: i64,
    /// Id of the approved client that its `peer_id` matches.
    pub client: u32,
}

impl SitePeer {
    /// Its key within its swarm: the user id, little-endian, and the `peer_id`.
    #[must_use]
    pub fn key(&self) -> [u8; KEY_LEN] {
        let mut key = [0; KEY_LEN];
        let octets = self.user.to_le_bytes().into_iter().chain(self.peer_id.0);
        key.iter_mut().zip(octets).for_each(|(to, from)| *to = from);
        key
    }
}

/// An address and port of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenEndpoint<A> {
    /// The address from which it announced.
    pub address: A,
    /// The port that it announced.
    pub port: u16,
    /// The last announce from this address, in Unix seconds.
    pub seen_at: i64,
}

/// An enabled user, with the passkey.
#[derive(Clone, Debug, PartialEq)]
pub struct UserAccount {
    /// Their passkey: any octets.
    pub passkey: Box<[u8]>,
    /// Their id in the database.
    pub id: u32,
    /// Whether they may only seed.
    pub disable_download: bool,
    /// Whether their addresses are left out of the records.
    pub tracker_hide: bool,
    /// Their own multipliers.
    pub multipliers: Multipliers,
}

impl SiteSnapshot {
    /// Sorts everything and removes duplicates: of two peers with one key the one that announced later stays,
    /// of torrents and users the last one. Returns how many were removed.
    pub fn sort_and_dedup(&mut self) -> usize {
        let before = self.records();
        // Sorting is stable, so of equal records the last comes first, and stays.
        self.torrents.reverse();
        self.torrents.sort_by_key(|torrent| torrent.info_hash);
        self.torrents.dedup_by_key(|torrent| torrent.info_hash);
        self.users.reverse();
        self.users.sort_by(|one, other| one.passkey.cmp(&other.passkey));
        self.users.dedup_by(|one, other| one.passkey == other.passkey);
        self.unprunes.sort_unstable();
        self.unprunes.dedup();
        let mut dropped = before - self.records();
        for torrent in &mut self.torrents {
            let peers = &mut torrent.peers;
            let before = peers.len();
            peers.sort_by_key(|peer| (peer.key(), Reverse(peer.announced_at), peer.role == Role::Leecher));
            peers.dedup_by_key(|peer| peer.key());
            dropped += before - peers.len();
        }
        dropped
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records() == 0
    }

    /// The number of peers of all torrents.
    #[must_use]
    pub fn peers(&self) -> usize {
        self.torrents.iter().map(|torrent| torrent.peers.len()).sum()
    }

    fn records(&self) -> usize {
        self.torrents.len() + self.users.len() + self.unprunes.len()
    }

    /// Adds a record.
    pub fn add_record(&mut self, record: SiteRecord) {
        match record {
            SiteRecord::Torrent(torrent) => self.torrents.push(torrent),
            SiteRecord::User(user) => self.users.push(user),
            SiteRecord::Unprune(id) => self.unprunes.push(id),
        }
    }
}
