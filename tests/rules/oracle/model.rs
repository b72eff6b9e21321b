//! The input of an oracle of the UDP server, and the replies that it predicts.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// The first eight octets of a connect (BEP 15).
pub(super) const MAGIC: [u8; 8] = [0, 0, 4, 0x17, 0x27, 0x10, 0x19, 0x80];
/// Longer datagrams are dropped.
const DATAGRAM_MAX: usize = 2048;
const SCRAPE_MAX: usize = 74;

/// The reply that a datagram must get.
#[derive(Debug)]
pub(super) enum Expected {
    Silence,
    Connected,
    Error(&'static str),
    Announced(Announced),
    /// Seeders, completed, leechers of each torrent.
    Scraped(Vec<[u32; 3]>),
}

#[derive(Debug)]
pub(super) struct Announced {
    pub(super) action: u32,
    pub(super) interval: RangeInclusive<u32>,
    pub(super) leechers: usize,
    pub(super) seeders: usize,
    /// Number of peers in the reply, all of them among these.
    pub(super) peers: usize,
    pub(super) among: HashSet<Vec<u8>>,
    /// Whether no peer may be handed out twice.
    pub(super) distinct: bool,
}

/// An announce whose source is verified.
#[derive(Clone, Copy, Debug)]
pub(super) struct VerifiedAnnounce<'d> {
    pub(super) action: u32,
    pub(super) source: IpAddr,
    pub(super) info_hash: [u8; 20],
    pub(super) peer_id: [u8; 20],
    pub(super) seeder: bool,
    /// Octets downloaded and uploaded.
    pub(super) totals: [u64; 2],
    pub(super) event: u32,
    pub(super) num_want: i32,
    pub(super) port: u16,
    /// The options of BEP 41.
    pub(super) options: &'d [u8],
}

pub(super) const COMPLETED: u32 = 1;
pub(super) const STARTED: u32 = 2;
pub(super) const STOPPED: u32 = 3;

/// The swarms of one mode.
pub(super) trait Swarms {
    /// Returns the reply to an announce; `None` if the documents leave it open: then the datagram is not
    /// sent.
    fn announce(&mut self, announce: &VerifiedAnnounce<'_>) -> Option<Expected>;
    fn scrape(&self, info_hashes: &[[u8; 20]]) -> Expected;
}

/// The order of checks that all modes share, and the connection ids that were given out.
pub(super) struct Oracle<S> {
    pub(super) swarms: S,
    issued: HashMap<IpAddr, HashSet<[u8; 8]>>,
}

impl<S: Swarms> Oracle<S> {
    pub(super) fn new(swarms: S) -> Self {
        Self { swarms, issued: HashMap::new() }
    }

    /// Remembers an id that a source was given.
    pub(super) fn issue(&mut self, source: IpAddr, id: [u8; 8]) {
        assert!(id != [0; 8] && id != MAGIC, "an id that is never given out");
        let others = self.issued.iter().filter(|(other, _)| **other != source);
        assert!(others.into_iter().all(|(_, ids)| !ids.contains(&id)), "two sources with one id");
        self.issued.entry(source).or_default().insert(id);
    }

    pub(super) fn expect(&mut self, source: IpAddr, datagram: &[u8]) -> Option<Expected> {
        if !(16..=DATAGRAM_MAX).contains(&datagram.len()) {
            return Some(Expected::Silence);
        }
        let id: [u8; 8] = array(datagram, 0);
        let known = || self.issued.get(&source).is_some_and(|ids| ids.contains(&id));
        match u32::from_be_bytes(array(datagram, 8)) {
            0 if id == MAGIC => Some(Expected::Connected),
            0 | 3 => Some(Expected::Silence),
            _ if !known() => Some(Expected::Silence),
            action @ (1 | 4) => self.announce(source, action, datagram),
            2 => {
                let hashes: Vec<[u8; 20]> =
                    datagram[16..].chunks_exact(20).map(|hash| hash.try_into().unwrap()).collect();
                Some(self.swarms.scrape(&hashes[..hashes.len().min(SCRAPE_MAX)]))
            }
            _ => Some(Expected::Error("unknown action ID")),
        }
    }

    /// Predicts the reply to an announce. Action 4 is the older layout of opentracker: 16 octets where action
    /// 1 has the 4 of the IP field.
    fn announce(&mut self, source: IpAddr, action: u32, datagram: &[u8]) -> Option<Expected> {
        let shift = if action == 4 { 12 } else { 0 };
        if datagram.len() < 98 + shift {
            return Some(Expected::Error("malformed packet"));
        }
        let announce = VerifiedAnnounce {
            action,
            source,
            info_hash: array(datagram, 16),
            peer_id: array(datagram, 36),
            seeder: array(datagram, 64) == [0_u8; 8],
            totals: [56, 72].map(|at| u64::from_be_bytes(array(datagram, at))),
            event: u32::from_be_bytes(array(datagram, 80)),
            num_want: i32::from_be_bytes(array(datagram, 92 + shift)),
            port: u16::from_be_bytes(array(datagram, 96 + shift)),
            options: &datagram[98 + shift..],
        };
        self.swarms.announce(&announce)
    }
}

/// Returns the octets of a peer in a reply.
pub(super) fn compact(address: IpAddr, port: u16) -> Vec<u8> {
    let mut octets = match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    octets.extend(port.to_be_bytes());
    octets
}

/// Returns how many peers the client wants, at most `max` and as many as a reply of 1232 octets can hold.
pub(super) fn wanted(announce: &VerifiedAnnounce<'_>, default: usize, max: usize) -> usize {
    let capacity = if announce.source.is_ipv4() { (1232 - 20) / 6 } else { (1232 - 20) / 18 };
    let wanted = usize::try_from(announce.num_want).map_or(default, |wanted| wanted.min(max));
    if announce.event == STOPPED { 0 } else { wanted.min(capacity) }
}

fn array<const N: usize>(octets: &[u8], at: usize) -> [u8; N] {
    octets[at..at + N].try_into().unwrap()
}
