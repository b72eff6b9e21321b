//! The swarms of the open mode, as a naive model.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::model::{
    Announced, COMPLETED, Expected, STARTED, STOPPED, Swarms, VerifiedAnnounce, compact, wanted,
};

#[derive(Default)]
struct Torrent {
    completed: u32,
    /// By address and announced port.
    peers: HashMap<(IpAddr, u16), Peer>,
}

struct Peer {
    seeder: bool,
    peer_id: [u8; 20],
}

#[derive(Default)]
pub(super) struct OpenSwarms {
    /// `announce.keep_peer_ids`: then no client is handed a peer with its own id, under any port.
    keep_peer_ids: bool,
    torrents: HashMap<[u8; 20], Torrent>,
}

impl OpenSwarms {
    pub(super) fn new(keep_peer_ids: bool) -> Self {
        Self { keep_peer_ids, torrents: HashMap::new() }
    }

    fn change(&mut self, announce: &VerifiedAnnounce<'_>) {
        let own = (announce.source, announce.port);
        if announce.event == STOPPED {
            if let Some(torrent) = self.torrents.get_mut(&announce.info_hash) {
                torrent.peers.remove(&own);
            }
            return;
        }
        let torrent = self.torrents.entry(announce.info_hash).or_default();
        let before = torrent.peers.insert(own, Peer { seeder: announce.seeder, peer_id: announce.peer_id });
        let was_seeder = before.is_some_and(|before| before.seeder);
        torrent.completed += u32::from(announce.event == COMPLETED && announce.seeder && !was_seeder);
    }
}

impl Swarms for OpenSwarms {
    fn announce(&mut self, announce: &VerifiedAnnounce<'_>) -> Option<Expected> {
        if announce.port == 0 {
            return Some(Expected::Error("invalid port"));
        }
        self.change(announce);
        let none = Torrent::default();
        let torrent = self.torrents.get(&announce.info_hash).unwrap_or(&none);
        let is_visible = |((address, port), peer): &(&(IpAddr, u16), &Peer)| {
            let is_itself = (*address, *port) == (announce.source, announce.port)
                || self.keep_peer_ids && peer.peer_id == announce.peer_id;
            let role = !peer.seeder || !announce.seeder || announce.event == STARTED;
            address.is_ipv4() == announce.source.is_ipv4() && *port > 1 && !is_itself && role
        };
        let visible = torrent.peers.iter().filter(is_visible);
        let among: HashSet<_> = visible.map(|((address, port), _)| compact(*address, *port)).collect();
        let seeders = torrent.peers.values().filter(|peer| peer.seeder).count();
        Some(Expected::Announced(Announced {
            action: announce.action,
            interval: 1800..=2100,
            leechers: torrent.peers.len() - seeders,
            seeders,
            peers: among.len().min(wanted(announce, 50, 200)),
            among,
            distinct: true,
        }))
    }

    fn scrape(&self, info_hashes: &[[u8; 20]]) -> Expected {
        if info_hashes.is_empty() {
            return Expected::Error("malformed packet");
        }
        let row = |hash: &[u8; 20]| {
            let Some(torrent) = self.torrents.get(hash) else { return [0; 3] };
            let seeders = torrent.peers.values().filter(|peer| peer.seeder).count();
            let count = |count: usize| u32::try_from(count).unwrap();
            [count(seeders), torrent.completed, count(torrent.peers.len() - seeders)]
        };
        Expected::Scraped(info_hashes.iter().map(row).collect())
    }
}
