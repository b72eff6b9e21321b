//! Both engines behind one interface: an action becomes octets, and the reply is read back.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use hayate_gateway::engine::client_address::Source;
use hayate_gateway::engine::{Engine as HttpEngine, Head};
use hayate_state::{Event, InfoHash, Now, Policy, Published, Tracker};
use hayate_tools::bencode::Value;
use hayate_udp::config::REPLY_MAX;
use hayate_udp::{Engine as UdpEngine, Outcome};

use super::{Action, Answered, ScenarioEngine};
use crate::harness::{connect_request, peers_of, percent_encoded};

/// The UDP engine (BEP 15). A peer that connects in the scenario keeps that id; any other connects before
/// each action.
pub(crate) struct UdpScenario {
    engine: UdpEngine,
    ids: HashMap<SocketAddr, [u8; 8]>,
    connected: HashSet<SocketAddr>,
}

impl UdpScenario {
    pub(crate) fn new(tracker: Tracker) -> Self {
        let config = Published::new(hayate_udp::UdpConfig::with_key("a key for scenarios"));
        Self {
            engine: UdpEngine::new(tracker, config.subscribe()),
            ids: HashMap::new(),
            connected: HashSet::new(),
        }
    }

    fn send(&mut self, now: Now, peer: SocketAddr, datagram: &[u8]) -> Result<Vec<u8>, String> {
        let mut reply = [0; REPLY_MAX];
        self.engine.begin_batch(now);
        // The source port is not the port that is announced.
        let source = SocketAddr::new(peer.ip(), 40_000);
        match self.engine.handle(now, source, datagram, &mut reply) {
            Outcome::Reply(octets) => Ok(octets.to_vec()),
            Outcome::Silence(refusal) => Err(refusal.to_string()),
        }
    }

    fn request(&self, peer: SocketAddr, action: u32) -> Vec<u8> {
        let mut datagram = self.ids.get(&peer).copied().unwrap_or_default().to_vec();
        datagram.extend(action.to_be_bytes());
        datagram.extend([1, 2, 3, 4]);
        datagram
    }
}

fn word(octets: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(octets[at..at + 4].try_into().unwrap())
}

impl ScenarioEngine for UdpScenario {
    fn perform(&mut self, now: Now, peer: SocketAddr, action: &Action) -> Answered {
        if matches!(action, Action::Connect) {
            self.connected.insert(peer);
        }
        if matches!(action, Action::Connect) || !self.connected.contains(&peer) {
            match self.send(now, peer, &connect_request()) {
                Ok(reply) => _ = self.ids.insert(peer, reply[8..16].try_into().unwrap()),
                Err(reason) => return Answered::Silence(reason),
            }
        }
        let datagram = match action {
            Action::Connect => return Answered::Connected,
            Action::Announce { torrent, left, event, num_want } => {
                let mut datagram = self.request(peer, 1);
                datagram.extend(torrent.0);
                datagram.extend([7; 20]);
                [11, *left, 13].iter().for_each(|number| datagram.extend(number.to_be_bytes()));
                let event = match event {
                    Event::None => 0_u32,
                    Event::Completed => 1,
                    Event::Started => 2,
                    Event::Stopped => 3,
                    Event::Paused => 4,
                };
                datagram.extend(event.to_be_bytes());
                datagram.extend([0; 8]);
                datagram.extend(num_want.to_be_bytes());
                datagram.extend(peer.port().to_be_bytes());
                datagram
            }
            Action::Scrape(torrents) => {
                let mut datagram = self.request(peer, 2);
                torrents.iter().for_each(|torrent| datagram.extend(torrent.0));
                datagram
            }
        };
        let reply = match self.send(now, peer, &datagram) {
            Ok(reply) => reply,
            Err(reason) => return Answered::Silence(reason),
        };
        assert_eq!(reply[4..8], [1, 2, 3, 4], "the transaction id");
        let peer_len = if peer.is_ipv4() { 6 } else { 18 };
        match word(&reply, 0) {
            1 => Answered::Peers {
                interval: word(&reply, 8),
                leechers: word(&reply, 12),
                seeders: word(&reply, 16),
                peers: peers_of(&reply[20..], peer_len),
            },
            2 => Answered::Tallies(
                reply[8..].chunks(12).map(|row| [0, 4, 8].map(|at| word(row, at))).collect(),
            ),
            3 => Answered::Refused(String::from_utf8(reply[8..].to_vec()).unwrap()),
            number => panic!("action {number}"),
        }
    }
}

/// The engine of the gateway (BEP 3, BEP 48).
pub(crate) struct HttpScenario {
    engine: HttpEngine,
    tracker: Tracker,
}

impl HttpScenario {
    pub(crate) fn new(tracker: Tracker, policy: &Arc<Published<Policy>>) -> Self {
        let config = Published::new(hayate_gateway::HttpConfig::default());
        Self { engine: HttpEngine::new(config.subscribe(), policy.subscribe()).unwrap(), tracker }
    }
}

fn number(value: &Value, key: &str) -> u32 {
    u32::try_from(value.at(key).and_then(Value::integer).unwrap_or_else(|| panic!("no {key}"))).unwrap()
}

impl ScenarioEngine for HttpScenario {
    fn perform(&mut self, now: Now, peer: SocketAddr, action: &Action) -> Answered {
        let target = match action {
            Action::Connect => return Answered::Connected,
            Action::Announce { torrent, left, event, num_want } => {
                let event = match event {
                    Event::None => "",
                    Event::Completed => "completed",
                    Event::Started => "started",
                    Event::Stopped => "stopped",
                    Event::Paused => "paused",
                };
                format!(
                    "/announce?info_hash={}&peer_id=-XX0001-%00bcdefghijkl&port={}&uploaded=13&downloaded=11\
                     &left={left}&event={event}&numwant={num_want}",
                    percent_encoded(&torrent.0),
                    peer.port()
                )
            }
            Action::Scrape(torrents) => {
                let hashes: Vec<_> = torrents
                    .iter()
                    .map(|torrent| format!("info_hash={}", percent_encoded(&torrent.0)))
                    .collect();
                format!("/scrape?{}", hashes.join("&"))
            }
        };
        let source = Source::Address(peer.ip());
        let headers: &[(&str, &[u8])] = &[];
        let head = Head {
            method: b"GET",
            target: target.as_bytes(),
            source,
            headers,
            header_octets: 0,
            has_body: false,
        };
        let response = self.engine.handle(now, &mut self.tracker, &head);
        assert_eq!(response.status, 200);
        let value = Value::decode(&response.body).unwrap();
        if let Some(reason) = value.at("failure reason") {
            return Answered::Refused(String::from_utf8(reason.octets().unwrap().to_vec()).unwrap());
        }
        if let (Some(Value::Dictionary(files)), Action::Scrape(torrents)) = (value.at("files"), action) {
            let row = |torrent: &InfoHash| {
                ["complete", "downloaded", "incomplete"].map(|key| number(&files[&torrent.0.to_vec()], key))
            };
            return Answered::Tallies(torrents.iter().map(row).collect());
        }
        let octets = |key| value.at(key).and_then(Value::octets).unwrap_or_default();
        let mut peers = peers_of(octets("peers"), 6);
        peers.extend(peers_of(octets("peers6"), 18));
        peers.sort_unstable();
        let (seeders, leechers) = (number(&value, "complete"), number(&value, "incomplete"));
        Answered::Peers { interval: number(&value, "interval"), seeders, leechers, peers }
    }
}
