//! A client that talks to an engine or a socket in octets.

use std::net::SocketAddr;
use std::sync::Arc;

use hayate_state::private::Site;
use hayate_state::{Now, Policy, Published, Swarms, Tracker};
use hayate_udp::config::REPLY_MAX;
use hayate_udp::{Dropped, Engine, Outcome, UdpConfig};

pub(crate) const TRANSACTION: [u8; 4] = [0xa1, 0xb2, 0xc3, 0xd4];
pub(crate) const CONNECT: [u8; 16] =
    [0, 0, 4, 0x17, 0x27, 0x10, 0x19, 0x80, 0, 0, 0, 0, 0xa1, 0xb2, 0xc3, 0xd4];

/// A configuration with the defaults of `tracker.json`.
pub(crate) fn udp_config() -> UdpConfig {
    UdpConfig::with_key("test-key-0123456789")
}

/// A tracker of its own, without drift.
pub(crate) fn tracker(policy: Policy, seed: u64) -> Tracker {
    let policy = Policy { announce_drift_seconds: 0, ..policy };
    Tracker::new(Swarms::new(0), &Published::new(policy), seed)
}

/// An engine and the time it is told.
pub(crate) struct Harness {
    pub(crate) engine: Engine,
    pub(crate) config: Arc<Published<UdpConfig>>,
    pub(crate) seconds: u32,
}

impl Harness {
    pub(crate) fn new(policy: Policy, config: UdpConfig) -> Self {
        let config = Published::new(config);
        Self { engine: Engine::new(tracker(policy, 7), config.subscribe()), config, seconds: 0 }
    }

    /// Mode private, on this site.
    pub(crate) fn private(policy: Policy, config: UdpConfig, site: Arc<Site>) -> Self {
        let config = Published::new(config);
        let engine = Engine::new(tracker(policy, 7).with_site(site), config.subscribe());
        Self { engine, config, seconds: 0 }
    }

    pub(crate) fn open() -> Self {
        Self::new(Policy::default(), udp_config())
    }

    /// Handles one datagram; returns the reply, or the reason for silence.
    pub(crate) fn send(&mut self, source: &str, datagram: &[u8]) -> Result<Vec<u8>, Dropped> {
        let now = Now::at(self.seconds);
        let mut reply = [0xee; REPLY_MAX];
        self.engine.begin_batch(now);
        match self.engine.handle(now, source.parse::<SocketAddr>().unwrap(), datagram, &mut reply) {
            Outcome::Reply(octets) => Ok(octets.to_vec()),
            Outcome::Silence(refusal) => Err(refusal),
        }
    }

    pub(crate) fn connect(&mut self, source: &str) -> [u8; 8] {
        let reply = self.send(source, &CONNECT).unwrap();
        assert_eq!((&reply[..4], &reply[4..8], reply.len()), (&[0; 4][..], &TRANSACTION[..], 16));
        reply[8..].try_into().unwrap()
    }

    /// Connects and announces.
    pub(crate) fn announce(&mut self, source: &str, announce: &TestAnnounce) -> Announced {
        let id = self.connect(source);
        Announced::read(&self.send(source, &announce.datagram(id)).unwrap())
    }
}

/// The fields of an announce that tests choose.
#[derive(Clone)]
pub(crate) struct TestAnnounce {
    pub(crate) hash: u8,
    pub(crate) left: u64,
    pub(crate) event: u32,
    pub(crate) claim: Vec<u8>,
    pub(crate) num_want: i32,
    pub(crate) port: u16,
    pub(crate) options: Vec<u8>,
}

impl TestAnnounce {
    pub(crate) fn leecher(port: u16) -> Self {
        Self { hash: 7, left: 1000, event: 2, claim: vec![0; 4], num_want: -1, port, options: Vec::new() }
    }

    pub(crate) fn seeder(port: u16) -> Self {
        Self { left: 0, ..Self::leecher(port) }
    }

    /// Builds an announce with action 1 or 4, by the length of the claimed address.
    pub(crate) fn datagram(&self, id: [u8; 8]) -> Vec<u8> {
        let mut octets = id.to_vec();
        octets.extend(if self.claim.len() == 4 { 1_u32 } else { 4 }.to_be_bytes());
        octets.extend(TRANSACTION);
        octets.extend([self.hash; 20]);
        octets.extend(b"-XX0001-000000000001");
        octets.extend(0_u64.to_be_bytes());
        octets.extend(self.left.to_be_bytes());
        octets.extend(0_u64.to_be_bytes());
        octets.extend(self.event.to_be_bytes());
        octets.extend(&self.claim);
        octets.extend(0x1122_3344_u32.to_be_bytes());
        octets.extend(self.num_want.to_be_bytes());
        octets.extend(self.port.to_be_bytes());
        octets.extend(&self.options);
        octets
    }
}

/// A scrape of torrents named by one octet.
pub(crate) fn scrape(id: [u8; 8], hashes: &[u8]) -> Vec<u8> {
    let mut octets = id.to_vec();
    octets.extend(2_u32.to_be_bytes());
    octets.extend(TRANSACTION);
    hashes.iter().for_each(|hash| octets.extend([*hash; 20]));
    octets
}

/// An announce reply.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Announced {
    pub(crate) action: u32,
    pub(crate) interval: u32,
    pub(crate) leechers: u32,
    pub(crate) seeders: u32,
    /// All octets behind the head.
    pub(crate) peers: Vec<u8>,
}

impl Announced {
    pub(crate) fn read(reply: &[u8]) -> Self {
        assert_eq!(reply[4..8], TRANSACTION, "{reply:02x?}");
        let word = |at: usize| u32::from_be_bytes(reply[at..at + 4].try_into().unwrap());
        Self {
            action: word(0),
            interval: word(8),
            leechers: word(12),
            seeders: word(16),
            peers: reply[20..].to_vec(),
        }
    }
}

/// The text of an error reply.
pub(crate) fn error_text(reply: &[u8]) -> String {
    assert_eq!(reply[..8], [&[0, 0, 0, 3], &TRANSACTION[..]].concat());
    String::from_utf8(reply[8..].to_vec()).unwrap()
}

/// The octets of a peer of either family.
pub(crate) fn peer(endpoint: &str) -> Vec<u8> {
    let endpoint: SocketAddr = endpoint.parse().unwrap();
    let mut octets = match endpoint.ip() {
        std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
        std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    octets.extend(endpoint.port().to_be_bytes());
    octets
}
