//! What mode private remembers in its cache: torrents with their peers, users, and un-prunes that are not yet
//! in the database.
//!
//! This is the form that is written, read, and carried to other formats; it is not the form the tracker
//! works on. Files may hold more than fits twice into memory, so [`SiteWriter`] and [`Decoder`] go through
//! them record by record; [`Site`] is for who wants all of it.
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

/// Octets of [`Peer::key`].
pub const KEY_LEN: usize = 4 + ID_LEN;

/// All that mode private remembers.
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
    /// Names it on the wire.
    pub info_hash: InfoHash,
    /// Names it in the database.
    pub id: u32,
    /// What it belongs to.
    pub group: Group,
    /// Finished downloads.
    pub snatched: u32,
    /// 0 live, 1 pruned, anything else unavailable.
    pub status: i32,
    /// When its swarm last changed, in Unix seconds.
    pub last_action: i64,
    /// Its own multipliers.
    pub multipliers: Multipliers,
    /// Who is in its swarm, in any order.
    pub peers: Vec<SitePeer>,
}

/// A torrent group, which may have freeleech of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Group {
    /// The torrent type: free text, such as `anime`.
    pub type_name: Box<str>,
    /// Names the group among those of its type.
    pub id: u32,
}

/// How transferred octets are credited. Finite: no other value is read from a file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Multipliers {
    /// Of uploaded octets.
    pub up: f64,
    /// Of downloaded octets.
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
    /// All of it.
    Seeder,
    /// Not yet.
    Leecher,
}

/// One client of one user in one swarm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SitePeer {
    /// Whose it is.
    pub user: u32,
    /// What it calls itself.
    pub peer_id: PeerId,
    /// Seeder or leecher.
    pub role: Role,
    /// Where it is over IPv4.
    pub v4: Option<SeenEndpoint<Ipv4Addr>>,
    /// Where it is over IPv6.
    pub v6: Option<SeenEndpoint<Ipv6Addr>>,
    /// Octets it says it has uploaded.
    pub uploaded: u64,
    /// Octets it says it has downloaded.
    pub downloaded: u64,
    /// Octets it says it still lacks.
    pub left: u64,
    /// Its first announce, in Unix seconds.
    pub started_at: i64,
    /// Its last announce over either family, in Unix seconds.
    pub announced_at: i64,
    /// The approved client that its `peer_id` begins like.
    pub client: u32,
}

impl SitePeer {
    /// What tells it from others in its swarm: the user id, little-endian, and the `peer_id`.
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
    /// The address that announces came from.
    pub address: A,
    /// The port that they named.
    pub port: u16,
    /// The last of them, in Unix seconds.
    pub seen_at: i64,
}

/// An enabled user.
#[derive(Clone, Debug, PartialEq)]
pub struct UserAccount {
    /// Its passkey: any octets.
    pub passkey: Box<[u8]>,
    /// Names it in the database.
    pub id: u32,
    /// May only seed.
    pub disable_download: bool,
    /// Its addresses are not recorded.
    pub tracker_hide: bool,
    /// Its own multipliers.
    pub multipliers: Multipliers,
}

impl SiteSnapshot {
    /// Puts everything into its order, and what is there twice only once: of two peers with one key the one
    /// that announced later stays, of torrents and users the last one. Gives how many went.
    pub fn sort_and_dedup(&mut self) -> usize {
        let before = self.records();
        // Sorting is stable, so that of equals the last comes first, and stays.
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

    /// Is there nothing in it?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records() == 0
    }

    /// Peers of all torrents.
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
