//! What an announce at this node means for the other nodes: whether it renews its peer, and what is
//! published.

use std::net::SocketAddr;

use crate::announce::{Event, WirePeer};
use crate::clock::Tick;
use crate::cluster::record::{PeerKey, PeerRecord, Presence};
use crate::swarm::peer::StoredPeer;
use crate::swarm::torrent::{AnnounceContext, Torrent};

impl AnnounceContext<'_> {
    pub(crate) fn presence(&self, finished: bool) -> Presence {
        let seeder = self.announce.left == 0;
        Presence::Present { seeder, paused: self.announce.event == Event::Paused && !seeder, finished }
    }

    /// Returns what other nodes are to know.
    pub(crate) fn record(&self, presence: Presence, completed: u32) -> PeerRecord {
        let announce = self.announce;
        PeerRecord {
            key: PeerKey {
                info_hash: announce.info_hash,
                peer: SocketAddr::new(announce.address, announce.port),
            },
            age_seconds: 0,
            presence,
            completed: (completed > 0).then_some(completed),
            peer_id: self.policy.keep_peer_ids.then_some(announce.peer_id),
        }
    }

    /// Whether nodes of a cluster agree on when a peer was seen.
    pub(crate) fn is_in_cluster(&self) -> bool {
        self.outbox_max > 0 || self.policy.renew_after_seconds > 0
    }

    /// Whether a known peer in the same role is to be renewed.
    pub(crate) fn renews<const LEN: usize>(&self, known: &StoredPeer<LEN>, paused: bool) -> bool {
        known.seen.paused() != paused
            || (self.policy.keep_peer_ids && known.id != self.announce.peer_id)
            || known.seen.age_seconds(self.now) >= self.policy.renew_after_seconds
    }
}

impl Torrent {
    /// Returns when a peer that stops is gone: never earlier than another node has seen it. `None` where
    /// there is no swarm in which another node might know it; it may be unknown only here.
    pub(crate) fn gone_at(&self, context: &AnnounceContext<'_>) -> Option<Tick> {
        if self.is_idle() {
            return None;
        }
        let known = self.find_stored(WirePeer::from_announce(context.announce), context.hasher);
        let ahead_seconds = known.map_or(0, |known| known.seen.ahead_seconds(context.now));
        Some(Tick(context.now.0.wrapping_add(ahead_seconds)))
    }
}
