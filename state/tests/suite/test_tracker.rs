//! A tracker for tests: announces in virtual time, peers read back.

use std::net::IpAddr;
use std::sync::Arc;

use hayate_state::swarm::Sweeper;
use hayate_state::{
    Announce, Answer, Event, Handout, InfoHash, PeerId, Policy, Published, Refusal, Swarms, Tally, Tick,
    Tracker,
};

pub(crate) struct TestTracker {
    pub(crate) tracker: Tracker,
    pub(crate) sweeper: Sweeper,
    pub(crate) swarms: Arc<Swarms>,
    pub(crate) policy: Arc<Published<Policy>>,
    pub(crate) now: u32,
}

impl TestTracker {
    pub(crate) fn new(policy: Policy, peers_per_address: u16, seed: u64) -> Self {
        let policy = Published::new(policy);
        let swarms = Swarms::new(peers_per_address);
        let tracker = Tracker::new(Arc::clone(&swarms), &policy, seed);
        Self { tracker, sweeper: Sweeper::new(Arc::clone(&swarms)), swarms, policy, now: 5000 }
    }

    /// Announces; returns the answer and the peers, own family first.
    pub(crate) fn announce(&mut self, announce: &Announce) -> Result<(Answer, Vec<(IpAddr, u16)>), Refusal> {
        let (mut v4, mut v6) = ([0; 200 * 6], [0; 200 * 18]);
        let mut handout = Handout::new(&mut v4, &mut v6);
        self.tracker.refresh();
        let answer = self.tracker.announce(Tick(self.now), announce, &mut handout)?;
        let (v4_used, v6_used) = (handout.v4.used(), handout.v6.used());
        let mut peers = peers_of(&v4[..v4_used], false);
        peers.extend(peers_of(&v6[..v6_used], true));
        Ok((answer, peers))
    }

    pub(crate) fn tally(&self, torrent: u64) -> Tally {
        self.tracker.scrape(&info_hash(torrent)).unwrap()
    }

    pub(crate) fn sweep(&mut self) {
        self.sweeper.sweep_all(Tick(self.now), &self.policy.current());
    }
}

pub(crate) fn info_hash(torrent: u64) -> InfoHash {
    let mut octets = [0; 20];
    octets[..8].copy_from_slice(&torrent.to_le_bytes());
    InfoHash(octets)
}

pub(crate) fn announce_from(torrent: u64, address: impl Into<IpAddr>, port: u16, left: u64) -> Announce {
    Announce {
        info_hash: info_hash(torrent),
        peer_id: PeerId(*b"-XX0001-000000000000"),
        address: address.into(),
        port,
        uploaded: 0,
        downloaded: 0,
        left,
        event: Event::None,
        num_want: 50,
    }
}

/// Returns the peers of a handout, as (address, port).
pub(crate) fn peers_of(handout: &[u8], v6: bool) -> Vec<(IpAddr, u16)> {
    let len = if v6 { 18 } else { 6 };
    assert_eq!(handout.len() % len, 0);
    let peer = |octets: &[u8]| {
        let (address, port) = octets.split_at(len - 2);
        let address: IpAddr = if v6 {
            <[u8; 16]>::try_from(address).unwrap().into()
        } else {
            <[u8; 4]>::try_from(address).unwrap().into()
        };
        (address, u16::from_be_bytes(port.try_into().unwrap()))
    };
    handout.chunks(len).map(peer).collect()
}
