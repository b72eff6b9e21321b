//! Shared by the fault tests: peers that finish downloads, and the counts that must come out.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};

use crate::harness::{Daemon, UdpClient, ask, eventually};

/// Torrents that are announced: enough that a batch has several rows, few enough that rows are merged.
pub(crate) const TORRENTS: u8 = 40;

/// Peers that finish downloads, one after the other.
pub(crate) struct FinishingPeers {
    client: UdpClient,
    tracker: SocketAddr,
    /// The last octet of its loopback address: when all ports are used up, the next one follows.
    host: u8,
    port: u16,
    /// Finished downloads that the tracker has answered, by the octet of the torrent.
    pub(crate) answered: BTreeMap<u8, u64>,
    /// Announces without an answer: it is unknown whether they count.
    pub(crate) unanswered: u64,
}

impl FinishingPeers {
    pub(crate) fn of(daemon: &Daemon) -> Self {
        let (tracker, host) = (daemon.v4(), 1);
        Self {
            client: client(host, tracker),
            tracker,
            host,
            port: 2000,
            answered: BTreeMap::new(),
            unanswered: 0,
        }
    }

    /// Keeps the counts, but announces to another tracker.
    pub(crate) fn set_tracker(&mut self, daemon: &Daemon) {
        self.tracker = daemon.v4();
        self.client = client(self.host, self.tracker);
    }

    /// Finishes this number of downloads, each by a new peer.
    pub(crate) fn finish(&mut self, downloads: u32) {
        for number in 0..downloads {
            let torrent = u8::try_from(number % u32::from(TORRENTS)).unwrap();
            self.port += 1;
            if self.port == u16::MAX {
                (self.host, self.port) = (self.host + 1, 2000);
                self.client = client(self.host, self.tracker);
            }
            let request = self.client.request(1, &finished(torrent, self.port));
            match ask(&self.client.socket, &request) {
                Some(reply) if reply.starts_with(&[0, 0, 0, 1]) => {
                    *self.answered.entry(torrent).or_default() += 1
                }
                Some(reply) => panic!("refused: {:?}", String::from_utf8_lossy(&reply)),
                None => self.unanswered += 1,
            }
        }
    }

    /// Whether the tracker accepts announces of this torrent.
    pub(crate) fn is_served(&self, torrent: u8) -> bool {
        let request = self.client.request(1, &crate::harness::announce_rest(torrent, 1999, 9, 0, 0));
        let reply = ask(&self.client.socket, &request).expect("a reply");
        reply.starts_with(&[0, 0, 0, 1])
    }

    pub(crate) fn socket(&self) -> &UdpSocket {
        &self.client.socket
    }

    /// Returns the counts of a scrape of every torrent.
    pub(crate) fn scraped(&self) -> BTreeMap<u8, u64> {
        let count = |torrent| (torrent, u64::from(self.client.scrape(torrent)[1]));
        (0..TORRENTS).map(count).filter(|&(_, count)| count > 0).collect()
    }
}

fn client(host: u8, tracker: SocketAddr) -> UdpClient {
    UdpClient::connect(&format!("127.0.0.{host}"), tracker)
}

/// Returns the announce of a peer that has finished, from offset 16 on.
fn finished(torrent: u8, port: u16) -> Vec<u8> {
    crate::harness::announce_rest(torrent, port, 0, 1, 0)
}

/// Waits until no row waits for the store any more. Returns whether that came true.
pub(crate) fn is_written(daemon: &Daemon) -> bool {
    let is_empty = |metric: &str| daemon.metric(&format!(r#"{metric}{{channel="completed"}}"#)) == 0;
    // Rows may leave the spill for memory, or memory for the spill, between two readings.
    let all = ["queue_rows", "spill_rows", "queue_lag_seconds", "queue_rows", "spill_rows"];
    eventually(|| all.into_iter().all(is_empty))
}
