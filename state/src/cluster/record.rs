//! [`PeerRecord`]: one change of one peer, as nodes publish it to each other.

use std::net::SocketAddr;

use crate::ids::{InfoHash, PeerId};

/// A peer of a torrent: what a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerKey {
    /// The torrent.
    pub info_hash: InfoHash,
    /// Address and port of the peer.
    pub peer: SocketAddr,
}

/// A peer as it is after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerRecord {
    /// Torrent and peer.
    pub key: PeerKey,
    /// Seconds from the announce to the moment when the entry was sealed; 0 before it is.
    pub age_seconds: u32,
    /// Whether it is in its swarm.
    pub presence: Presence,
    /// The torrent's count of finished downloads at the node that publishes; `None` where it is 0.
    pub completed: Option<u32>,
    /// Where nodes keep ids.
    pub peer_id: Option<PeerId>,
}

/// Whether a peer is in its swarm, and as what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It has left.
    Gone,
    /// It is there.
    Present {
        /// Has everything.
        seeder: bool,
        /// A partial seed (BEP 21).
        paused: bool,
        /// The announce that led to this record counts as a finished download.
        finished: bool,
    },
}
