//! A tracker in virtual time; torrents and peers by number.

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;

use hayate_state::announce::PEER_V4_LEN;
use hayate_state::{Announce, Event, Handout, InfoHash, PeerId, Policy, Published, Swarms, Tick, Tracker};

/// When everything happens, but for the expiry of a sweep.
pub(crate) const NOW: Tick = Tick(5000);
/// Peers that a requester gets, where it gets any.
pub(crate) const NUM_WANT: u16 = 50;

const ROOM: usize = NUM_WANT as usize * PEER_V4_LEN;

pub(crate) struct BenchTracker {
    pub(crate) tracker: Tracker,
    pub(crate) swarms: Arc<Swarms>,
    room: [u8; ROOM],
}

impl BenchTracker {
    pub(crate) fn new() -> Self {
        let swarms = Swarms::new(0);
        let tracker = Tracker::new(Arc::clone(&swarms), &Published::new(Policy::default()), 7);
        Self { tracker, swarms, room: [0; ROOM] }
    }

    /// Makes `peers` peers in `torrents` torrents, each peer in one; none of them is handed peers.
    pub(crate) fn filled(torrents: u32, peers: u32) -> Self {
        let mut tracker = Self::new();
        (0..peers).for_each(|number| tracker.announce(&announce_of_peer(torrents, number, 0)));
        assert_eq!(tracker.swarms.peer_counts().total(), peers);
        tracker
    }

    /// Announces at [`NOW`].
    pub(crate) fn announce(&mut self, announce: &Announce) {
        let mut handout = Handout::new(&mut self.room, &mut []);
        let answer = self.tracker.announce(NOW, black_box(announce), &mut handout);
        black_box((answer.unwrap(), handout.v4.used()));
    }
}

/// Returns the regular announce of peer `number`, which is in one of `torrents` torrents; every other one is
/// a seeder.
pub(crate) fn announce_of_peer(torrents: u32, number: u32, num_want: u16) -> Announce {
    // Scattered, so that neighbours in number do not share a swarm.
    let torrent = number.wrapping_mul(0x85eb_ca6b) % torrents;
    announce(info_hash(torrent), number, u64::from(number % 2), num_want)
}

/// Returns a regular announce of peer `number`. Numbers below 2^24 have different, public addresses.
pub(crate) fn announce(info_hash: InfoHash, number: u32, left: u64, num_want: u16) -> Announce {
    let scattered = number.wrapping_mul(0x9e37_79b1) & 0x00ff_ffff;
    Announce {
        info_hash,
        peer_id: PeerId(*b"-XX0001-000000000001"),
        address: Ipv4Addr::from_bits(45 << 24 | scattered).into(),
        port: 6881,
        uploaded: 0,
        downloaded: 0,
        left,
        event: Event::None,
        num_want,
    }
}

/// Returns random octets, always the same for one torrent.
pub(crate) fn info_hash(torrent: u32) -> InfoHash {
    let mut octets = [0; 20];
    fastrand::Rng::with_seed(u64::from(torrent)).fill(&mut octets);
    InfoHash(octets)
}
