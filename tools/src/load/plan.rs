//! What is requested: the kind of request, the torrent, the peer, the event.
//!
//! Torrents and peers are numbers. Their names are computed from the number, so that every run with the same
//! numbers meets the same torrents and peers, and no table is needed.

use hayate_state::Event;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Zipf};

use super::args::Args;
use super::routes::Routes;
use super::target::Protocol;

/// Octets that a leecher still needs.
const LEFT: u64 = 1000;
/// The prefix of peer ids (BEP 20).
const CLIENT: &[u8; 8] = b"-HL0100-";

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A connect, which asks for a connection id (UDP).
    Connect,
    /// An announce.
    Announce,
    /// A scrape.
    Scrape,
}

/// The next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextRequest {
    /// A request that should be answered.
    Honest(Kind),
    /// An announce with a random connection id.
    Forged,
}

/// One announce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announce {
    /// The torrent.
    pub info_hash: [u8; 20],
    /// The session; letters and digits only.
    pub peer_id: [u8; 20],
    /// Proves the session.
    pub key: u32,
    /// Where the peer listens.
    pub port: u16,
    /// Octets it still needs.
    pub left: u64,
    /// Octets reported as uploaded, and as downloaded.
    pub transferred: u64,
    /// The event.
    pub event: Event,
    /// Peers wanted; -1 = the tracker chooses.
    pub num_want: i32,
}

/// Draws requests.
#[derive(Debug)]
pub struct Plan {
    rng: SmallRng,
    seed: u64,
    /// Shares of connects and announces in percent; the rest are scrapes.
    connects: u8,
    announces: u8,
    /// The sum of all shares: 100, less over HTTP.
    shares: u8,
    torrents: Torrents,
    singles: u64,
    /// The last torrent that was announced, if each announce must name a new one.
    fresh: Option<u64>,
    routes: Routes,
    peers_per_lane: u64,
    /// Whether peers announce the torrent that a fill gave them.
    refreshes: bool,
    seeders: u8,
    stopped: u8,
    completed: u8,
    forged: u8,
    num_want: i32,
    /// What each announce adds to the totals, and their present value.
    traffic: u64,
    transferred: u64,
}

impl Plan {
    /// Makes a plan from the options, which have been checked.
    #[must_use]
    pub fn new(args: &Args, protocol: Protocol, routes: Routes) -> Self {
        let lanes = (routes.all().len() as u64).max(1);
        let connects = match protocol {
            Protocol::Udp => args.mix.connect,
            Protocol::Http => 0,
        };
        Self {
            rng: SmallRng::seed_from_u64(args.seed),
            seed: args.seed,
            connects,
            announces: args.mix.announce,
            shares: connects + args.mix.announce + args.mix.scrape,
            torrents: Torrents::new(args.torrents - args.singles.min(args.torrents), args.zipf),
            singles: args.singles,
            // Not from the seed: a second run must not meet the torrents of the first.
            fresh: args.fresh_torrents.then(|| fastrand::u64(1 << 62..)),
            routes,
            peers_per_lane: (args.refresh.unwrap_or(args.peers) / lanes).max(1),
            refreshes: args.refresh.is_some(),
            seeders: args.seeders,
            stopped: args.stopped,
            completed: args.completed,
            forged: args.forged,
            num_want: args.num_want,
            traffic: args.traffic,
            transferred: 0,
        }
    }

    /// Draws the kind of the next request.
    pub fn next_request(&mut self) -> NextRequest {
        let share = self.rng.random_range(0..self.shares.max(1));
        if share < self.connects {
            NextRequest::Honest(Kind::Connect)
        } else if share >= self.connects + self.announces {
            NextRequest::Honest(Kind::Scrape)
        } else if self.forged > 0 && self.percent() < self.forged {
            NextRequest::Forged
        } else {
            NextRequest::Honest(Kind::Announce)
        }
    }

    /// Draws an announce of one of the peers of a lane, that is, a socket or connection.
    pub fn announce(&mut self, lane: u64) -> Announce {
        let drawn = (!self.refreshes).then(|| self.torrent());
        let lanes = self.routes.all().len() as u64;
        let peer = lane + lanes * self.rng.random_range(0..self.peers_per_lane);
        let torrent = drawn.unwrap_or_else(|| self.fill_torrent(peer));
        let percentile = if self.stopped + self.completed > 0 { self.percent() } else { 100 };
        let event = match percentile {
            share if share < self.stopped => Event::Stopped,
            share if share < self.stopped + self.completed => Event::Completed,
            _ => Event::None,
        };
        self.transferred += self.traffic;
        self.announce_of(torrent, peer, event)
    }

    /// Returns the announce of a new peer, always the same for the same number. Every torrent gets one before
    /// any gets two.
    pub fn fill_announce(&mut self, number: u64) -> Announce {
        self.announce_of(self.fill_torrent(number), number, Event::Started)
    }

    /// Draws a torrent to scrape.
    pub fn scrape_torrent(&mut self) -> [u8; 20] {
        info_hash(self.torrents.draw(&mut self.rng))
    }

    /// Draws an index of a list of `len`, which is not empty.
    pub fn random_index(&mut self, len: usize) -> usize {
        self.rng.random_range(0..len)
    }

    /// Draws any number.
    pub fn random(&mut self) -> u64 {
        self.rng.random()
    }

    fn fill_torrent(&self, number: u64) -> u64 {
        match self.fresh {
            Some(first) => first.wrapping_add(number),
            None if number < self.singles + self.torrents.count() => number,
            None => {
                let mut rng = SmallRng::seed_from_u64(mix(self.seed ^ number));
                self.singles + self.torrents.draw(&mut rng)
            }
        }
    }

    fn torrent(&mut self) -> u64 {
        match &mut self.fresh {
            Some(next) => {
                *next = next.wrapping_add(1);
                *next
            }
            None => self.torrents.draw(&mut self.rng),
        }
    }

    fn percent(&mut self) -> u8 {
        self.rng.random_range(0..100)
    }

    fn announce_of(&self, torrent: u64, peer: u64, event: Event) -> Announce {
        let session = mix(peer);
        let seeds = event == Event::Completed || session % 100 < self.seeders.into();
        #[expect(clippy::cast_possible_truncation, reason = "the low half of a number")]
        let key = session as u32;
        Announce {
            info_hash: info_hash(torrent),
            peer_id: peer_id(session),
            key,
            port: self.routes.port(peer),
            left: if seeds { 0 } else { LEFT },
            transferred: self.transferred,
            event,
            num_want: self.num_want,
        }
    }
}

/// A request that was sent and waits for its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The kind of request.
    pub kind: Kind,
    /// When it should have been sent, in nanoseconds.
    pub due: u64,
    /// When it was sent, in nanoseconds.
    pub sent: u64,
    /// The peer that it announced, if it is part of a fill.
    pub fill_peer: Option<u64>,
}

/// How torrents are drawn.
#[derive(Debug)]
enum Torrents {
    Uniform(u64),
    Zipf(Zipf<f64>, u64),
}

impl Torrents {
    fn new(count: u64, exponent: f64) -> Self {
        let count = count.max(1);
        match Zipf::new(count as f64, exponent) {
            Ok(zipf) if exponent > 0.0 => Self::Zipf(zipf, count),
            _ => Self::Uniform(count),
        }
    }

    fn count(&self) -> u64 {
        match self {
            Self::Uniform(count) | Self::Zipf(_, count) => *count,
        }
    }

    fn draw(&self, rng: &mut SmallRng) -> u64 {
        match self {
            Self::Uniform(count) => rng.random_range(0..*count),
            #[expect(clippy::cast_possible_truncation, reason = "ranks are whole, from 1 to the count")]
            Self::Zipf(zipf, _) => zipf.sample(rng) as u64 - 1,
        }
    }
}

/// Spreads numbers over all of u64, one to one (the finaliser of SplitMix64).
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

fn info_hash(torrent: u64) -> [u8; 20] {
    let first = mix(torrent);
    let second = mix(first);
    let mut hash = [0; 20];
    let octets = [first, second, mix(second)].into_iter().flat_map(u64::to_be_bytes);
    hash.iter_mut().zip(octets).for_each(|(place, octet)| *place = octet);
    hash
}

fn peer_id(session: u64) -> [u8; 20] {
    let mut id = [0; 20];
    let letters = session.to_be_bytes().into_iter().flat_map(|octet| [octet >> 4, octet & 15]);
    let digits = letters.map(|letter| b'a' + letter);
    id.iter_mut().zip(CLIENT.iter().copied().chain(digits)).for_each(|(place, octet)| *place = octet);
    id
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use clap::Parser;

    use super::*;
    use crate::load::target::Target;

    fn plan(options: &str) -> Plan {
        let line = format!("hayate-load udp://127.0.0.1:7 {options}");
        of_args(&Args::try_parse_from(line.split_whitespace()).unwrap())
    }

    fn of_args(args: &Args) -> Plan {
        let target = Target::resolve(&args.url).unwrap();
        Plan::new(args, target.protocol, Routes::new(args, &target).unwrap())
    }

    #[test]
    fn requests_keep_the_shares() {
        let mut plan = plan("--mix connect=20,announce=70,scrape=10 --forged 50");
        let mut counts = [0; 4];
        for _ in 0..100_000 {
            let place = match plan.next_request() {
                NextRequest::Honest(Kind::Connect) => 0,
                NextRequest::Honest(Kind::Announce) => 1,
                NextRequest::Honest(Kind::Scrape) => 2,
                NextRequest::Forged => 3,
            };
            counts[place] += 1;
        }
        for (count, expected) in counts.into_iter().zip([20_000_i32, 35_000, 10_000, 35_000]) {
            assert!((count - expected).abs() < 1000, "{counts:?}");
        }
    }

    #[test]
    fn over_http_the_others_share_what_connects_leave() {
        let args =
            ["hayate-load", "http://127.0.0.1:7/announce", "--mix", "connect=50,announce=40,scrape=10"];
        let mut plan = of_args(&Args::try_parse_from(args).unwrap());
        let requests: Vec<_> = (0..10_000).map(|_| plan.next_request()).collect();
        let count = |kind| requests.iter().filter(|request| **request == NextRequest::Honest(kind)).count();
        assert_eq!(count(Kind::Connect), 0);
        assert!((1800..2200).contains(&count(Kind::Scrape)), "{}", count(Kind::Scrape));
    }

    #[test]
    fn events_and_seeders_keep_their_shares() {
        let mut plan = plan("--stopped 7 --completed 13 --seeders 60");
        let announces: Vec<_> = (0..100_000).map(|_| plan.announce(3)).collect();
        let count = |which: &dyn Fn(&Announce) -> bool| announces.iter().filter(|one| which(one)).count();
        assert!((6500..7500).contains(&count(&|one| one.event == Event::Stopped)));
        assert!((12_500..13_500).contains(&count(&|one| one.event == Event::Completed)));
        assert!(announces.iter().all(|one| one.event != Event::Completed || one.left == 0));
        // 60 % of those that are not completed, and all that are.
        assert!((64_000..67_000).contains(&count(&|one| one.left == 0)));
    }

    #[test]
    fn zipf_prefers_the_first_torrents_as_its_exponent_says() {
        let mut plan = plan("--zipf 1 --torrents 1000");
        let mut counts = HashMap::<_, u32>::new();
        for _ in 0..200_000 {
            *counts.entry(plan.announce(0).info_hash).or_default() += 1;
        }
        let of = |torrent| f64::from(counts[&info_hash(torrent)]);
        assert!((1.8..2.2).contains(&(of(0) / of(1))), "{} {}", of(0), of(1));
        assert!((8.0..12.0).contains(&(of(0) / of(9))), "{} {}", of(0), of(9));
    }

    #[test]
    fn a_fill_announces_distinct_peers_and_single_peers_first() {
        let mut plan = plan("--fill 5000 --singles 70 --torrents 110 --sockets 4");
        let announces: Vec<_> = (0..5000).map(|number| plan.fill_announce(number)).collect();
        let ports: HashSet<_> =
            announces.iter().zip(0..).map(|(one, number)| (number % 4, one.port)).collect();
        assert_eq!(ports.len(), 5000);
        let mut swarms = HashMap::<_, u32>::new();
        announces.iter().for_each(|one| *swarms.entry(one.info_hash).or_default() += 1);
        assert_eq!(swarms.len(), 110);
        assert!((0..70).all(|torrent| swarms[&info_hash(torrent)] == 1));
        assert_eq!(plan.fill_announce(99), announces[99]);
    }

    #[test]
    fn a_refresh_announces_peers_of_the_fill_in_their_torrents() {
        let options = "--singles 70 --torrents 110 --zipf 1 --sockets 4";
        let mut fill = plan(&format!("{options} --fill 500"));
        let filled: HashSet<_> = (0..500)
            .map(|number| (number % 4, fill.fill_announce(number)))
            .map(|(lane, one)| (lane, one.info_hash, one.peer_id, one.port, one.left))
            .collect();
        let mut refresh = plan(&format!("{options} --refresh 500"));
        let refreshed: HashSet<_> = (0..10_000)
            .map(|turn| (turn % 4, refresh.announce(turn % 4)))
            .inspect(|(_, one)| assert_eq!(one.event, Event::None))
            .map(|(lane, one)| (lane, one.info_hash, one.peer_id, one.port, one.left))
            .collect();
        assert_eq!(refreshed, filled);
    }

    #[test]
    fn fresh_torrents_are_never_named_again() {
        let (mut one, mut other) = (plan("--fresh-torrents"), plan("--fresh-torrents"));
        let of_one = (0..1000).map(|_| one.announce(0).info_hash);
        let hashes: HashSet<_> = of_one.chain((0..1000).map(|_| other.announce(0).info_hash)).collect();
        assert_eq!(hashes.len(), 2000);
    }

    #[test]
    fn the_same_seed_makes_the_same_requests() {
        let requests = |options| {
            let mut plan = plan(options);
            (0..100).map(|_| (plan.next_request(), plan.announce(1))).map(|(_, one)| one).collect::<Vec<_>>()
        };
        assert_eq!(requests("--seed 7"), requests("--seed 7"));
        assert_ne!(requests("--seed 7"), requests("--seed 11"));
    }
}
