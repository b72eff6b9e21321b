//! The choice of peers: statistics, and the rules of each role.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hayate_state::{Announce, Event, Policy};

use crate::test_tracker::{TestTracker, announce_from, info_hash};

/// A swarm whose peers are handed out over and over, each draw counted.
pub(crate) struct Draws {
    tracker: TestTracker,
    requester: Announce,
    counts: HashMap<(IpAddr, u16), u32>,
}

impl Draws {
    pub(crate) fn new(peers: impl Iterator<Item = Announce>, requester: Announce) -> Self {
        Self::with_policy(Policy::default(), peers, requester)
    }

    fn with_policy(policy: Policy, peers: impl Iterator<Item = Announce>, requester: Announce) -> Self {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut tracker = TestTracker::new(policy, 0, seed);
        let mut random = fastrand::Rng::with_seed(seed);
        let mut peers: Vec<_> = peers.collect();
        random.shuffle(&mut peers);
        for peer in peers {
            tracker.announce(&peer).unwrap();
        }
        Self { tracker, requester, counts: HashMap::new() }
    }

    fn draw(&mut self, times: u32) {
        for _ in 0..times {
            for peer in self.tracker.announce(&self.requester).unwrap().1 {
                *self.counts.entry(peer).or_default() += 1;
            }
        }
    }

    /// Chi-square of the counts against the uniform distribution over `peers`.
    fn chi_square(&self, peers: u32) -> f64 {
        let drawn: u32 = self.counts.values().sum();
        let expected = f64::from(drawn) / f64::from(peers);
        let missed = f64::from(peers - u32::try_from(self.counts.len()).unwrap());
        let squares = self.counts.values().map(|&count| (f64::from(count) - expected).powi(2));
        (squares.sum::<f64>() + missed * expected * expected) / expected
    }

    /// Single draws are independent, so chi-square has mean `peers - 1` and variance twice that.
    pub(crate) fn assert_uniform_single_draws(&mut self, peers: u32) {
        self.requester.num_want = 1;
        self.draw(peers * 100);
        let degrees = f64::from(peers - 1);
        let (chi_square, limit) = (self.chi_square(peers), chi_square_limit(degrees, 2.0 * degrees));
        assert!(chi_square < limit, "chi-square {chi_square} over {peers} peers, limit {limit}");
    }
}

/// Returns what chi-square of a fair draw exceeds once in 10^9 tests, by the approximation of Wilson and
/// Hilferty. Draws that are not independent have a greater `variance` than twice the `mean`, and so a longer
/// tail: that of as many fewer degrees of freedom.
pub(crate) fn chi_square_limit(mean: f64, variance: f64) -> f64 {
    let deviations = 6.0;
    let mean = mean.max(1.0);
    let spread = variance / (9.0 * mean * mean);
    mean * (1.0 - spread + deviations * spread.sqrt()).powi(3)
}

fn peer(number: u32, left: u64) -> Announce {
    announce_from(1, Ipv4Addr::from(0xC633_0000 + number), 6881, left)
}

fn peer_v6(number: u32, left: u64) -> Announce {
    announce_from(1, Ipv6Addr::from(0x2A00_u128 << 112 | u128::from(number)), 6881, left)
}

fn leecher() -> Announce {
    announce_from(1, [198, 18, 0, 1], 7001, 9)
}

/// The same peer with an id of its own.
fn with_own_id((number, mut announce): (usize, Announce)) -> Announce {
    announce.peer_id.0[12..].copy_from_slice(&(number as u64).to_be_bytes());
    announce
}

#[test]
fn single_draws_from_a_plain_swarm_are_uniform() {
    for peers in [5, 20, 1000] {
        Draws::new((0..peers).map(|n| peer(n, u64::from(n % 3))), leecher())
            .assert_uniform_single_draws(peers);
    }
}

#[test]
fn single_draws_are_uniform_in_every_form_of_either_family_with_and_without_ids() {
    for (keep_peer_ids, requester) in [
        (false, leecher()),
        (true, leecher()),
        (false, announce_from(1, Ipv6Addr::LOCALHOST, 7001, 9)),
        (true, announce_from(1, Ipv6Addr::LOCALHOST, 7001, 9)),
    ] {
        let v6 = requester.address.is_ipv6();
        for (own_family, other_family) in [(1, 1), (2, 0), (5, 3), (19, 18), (36, 0), (60, 5), (400, 50)] {
            let (v4_peers, v6_peers) =
                if v6 { (other_family, own_family) } else { (own_family, other_family) };
            let peers = (0..v4_peers).map(|n| peer(n, u64::from(n % 3)));
            let peers = peers.chain((0..v6_peers).map(|n| peer_v6(n, u64::from(n % 3))));
            let peers = peers.enumerate().map(with_own_id);
            println!("{v4_peers} and {v6_peers} peers, ids {keep_peer_ids}, IPv6 {v6}");
            let policy = Policy { keep_peer_ids, ..Policy::default() };
            Draws::with_policy(policy, peers, requester).assert_uniform_single_draws(own_family);
        }
    }
}

#[test]
fn single_draws_from_a_mixed_swarm_are_uniform_over_those_who_may_be_handed_out() {
    for visible in [20, 200, 1500] {
        // A fifth cannot be reached (port 1), another is private.
        let hidden = (0..visible / 4).map(|n| Announce { port: 1, ..peer(50_000 + n, 9) });
        let private = (0..visible / 4).map(|n| announce_from(1, Ipv4Addr::from(0x0A00_0000 + n), 6881, 0));
        let peers = (0..visible).map(|n| peer(n, u64::from(n % 3))).chain(hidden).chain(private);
        Draws::new(peers, leecher()).assert_uniform_single_draws(visible);
    }
}

#[test]
fn draws_among_many_that_nobody_is_handed_are_uniform_over_the_few_others() {
    // A hundred of a network that the requester is in, a hundred public ones, and nearly a hundred times as
    // many with port 1 or in another network.
    let shown = |n: u32| {
        if n.is_multiple_of(2) {
            peer(n, 9)
        } else {
            announce_from(1, Ipv4Addr::from(0x0A00_0000 + n), 6881, 0)
        }
    };
    let hidden = (0..10_000).map(|n| Announce { port: 1, ..peer(50_000 + n, u64::from(n % 2)) });
    let apart = (0..8000).map(|n| announce_from(1, Ipv4Addr::from(0xC0A8_0000 + n), 6881, u64::from(n % 2)));
    let peers = (0..200).map(shown).chain(hidden).chain(apart).map(|peer| Announce { num_want: 0, ..peer });
    let mut draws = Draws::new(peers, announce_from(1, [10, 9, 9, 9], 7001, 9));
    draws.assert_uniform_single_draws(200);
    draws.counts.clear();
    draws.requester.num_want = 50;
    draws.draw(4000);
    // Each is expected 1000 times, with a deviation of about 27.
    let (least, most) = (draws.counts.values().min().unwrap(), draws.counts.values().max().unwrap());
    assert!(draws.counts.len() == 200 && *least > 800 && *most < 1200, "between {least} and {most} times");
}

#[test]
fn draws_of_fifty_choose_all_peers_alike() {
    let mut draws = Draws::new((0..1000).map(|n| peer(n, u64::from(n % 3))), leecher());
    draws.draw(20_000);
    assert_eq!(draws.counts.len(), 1000);
    // Each peer is expected 1000 times, with a deviation of about 31.
    let (least, most) = (draws.counts.values().min().unwrap(), draws.counts.values().max().unwrap());
    assert!(*least > 800 && *most < 1200, "between {least} and {most} times");
}

#[test]
fn a_leecher_gets_both_kinds_in_proportion_in_every_reply() {
    let mut tracker = TestTracker::new(Policy::default(), 0, 7);
    for n in 0..1000 {
        tracker.announce(&peer(n, u64::from(n % 4 != 0))).unwrap();
    }
    for _ in 0..100 {
        let (_, peers) = tracker.announce(&leecher()).unwrap();
        let seeder =
            |(address, _): &&(IpAddr, u16)| matches!(address, IpAddr::V4(v4) if u32::from(*v4) % 4 == 0);
        let seeders = peers.iter().filter(seeder).count();
        assert!(peers.len() == 50 && (12..=13).contains(&seeders), "{seeders} seeders of {}", peers.len());
    }
}

#[test]
fn a_seeder_gets_leechers_and_at_the_start_is_filled_up_with_seeders() {
    let mut tracker = TestTracker::new(Policy::default(), 0, 7);
    for n in 0..20 {
        tracker.announce(&peer(n, u64::from(n % 4 == 0))).unwrap();
    }
    let seeder = Announce { left: 0, ..leecher() };
    assert_eq!(tracker.announce(&seeder).unwrap().1.len(), 5);
    let started = Announce { event: Event::Started, num_want: 7, ..seeder };
    let (_, peers) = tracker.announce(&started).unwrap();
    assert_eq!(peers.len(), 7);
    assert!(
        peers[..5].iter().all(|(address, _)| matches!(address, IpAddr::V4(v4) if u32::from(*v4) % 4 == 0))
    );
}

#[test]
fn no_client_is_handed_itself_nor_where_ids_are_kept_its_other_address() {
    let mut tracker = TestTracker::new(Policy { keep_peer_ids: true, ..Policy::default() }, 0, 7);
    let v6 = "2001:db8::7".parse::<IpAddr>().unwrap();
    tracker.announce(&announce_from(1, v6, 7001, 9)).unwrap();
    assert_eq!(tracker.announce(&leecher()).unwrap().1, []);
    let other = Announce { peer_id: hayate_state::PeerId([7; 20]), ..announce_from(1, v6, 7002, 9) };
    tracker.announce(&other).unwrap();
    assert_eq!(tracker.announce(&leecher()).unwrap().1, [(v6, 7002)]);
}

#[test]
fn a_new_peer_id_at_the_same_endpoint_is_the_same_peer() {
    let mut tracker = TestTracker::new(Policy::default(), 0, 7);
    tracker.announce(&leecher()).unwrap();
    let renamed = Announce { peer_id: hayate_state::PeerId([7; 20]), ..leecher() };
    let (answer, peers) = tracker.announce(&renamed).unwrap();
    assert_eq!((answer.tally.leechers, peers.len()), (1, 0));
    assert_eq!(tracker.tracker.scrape(&info_hash(1)).unwrap().leechers, 1);
}

#[test]
fn denied_ports_are_counted_but_not_handed_out() {
    let mut tracker = TestTracker::new(Policy { denied_ports: vec![25, 53], ..Policy::default() }, 0, 7);
    for port in [1, 25, 53, 80] {
        tracker.announce(&announce_from(1, [192, 0, 2, 7], port, 0)).unwrap();
    }
    let (answer, peers) = tracker.announce(&leecher()).unwrap();
    assert_eq!(answer.tally.seeders, 4);
    assert_eq!(peers, [([192, 0, 2, 7].into(), 80)]);
}

#[test]
fn ports_denied_by_a_reload_are_held_back_once_the_sweep_has_passed() {
    let mut tracker = TestTracker::new(Policy::default(), 0, 7);
    for host in 1..=9 {
        tracker.announce(&announce_from(1, [192, 0, 2, host], 25, 0)).unwrap();
    }
    assert_eq!(tracker.announce(&leecher()).unwrap().1.len(), 9);
    tracker.policy.publish(Policy { denied_ports: vec![25], ..Policy::default() });
    tracker.sweep();
    assert_eq!(tracker.announce(&leecher()).unwrap().1, []);
}

#[test]
fn every_peer_of_a_large_mixed_swarm_is_drawn_also_out_of_a_crowded_bucket() {
    // 200 peers of one public address share a bucket; one private peer makes the swarm mixed.
    let mut tracker = TestTracker::new(Policy::default(), 200, 7);
    let silent = |announce: Announce| Announce { num_want: 0, ..announce };
    for number in 0..1200 {
        tracker.announce(&silent(peer(number, 9))).unwrap();
    }
    for port in 20_000..20_200 {
        tracker.announce(&silent(announce_from(1, [203, 0, 113, 5], port, 9))).unwrap();
    }
    tracker.announce(&silent(announce_from(1, [10, 0, 0, 1], 6881, 9))).unwrap();
    let mut drawn = HashMap::new();
    for _ in 0..1000 {
        let requester = Announce { num_want: 200, ..announce_from(1, [198, 18, 0, 1], 7001, 9) };
        let (_, peers) = tracker.announce(&requester).unwrap();
        assert_eq!(peers.len(), 200);
        peers.into_iter().for_each(|peer| *drawn.entry(peer).or_insert(0) += 1);
    }
    // Each 143 times on average.
    let (least, most) = (drawn.values().min().unwrap(), drawn.values().max().unwrap());
    assert!(
        drawn.len() == 1400 && *least > 80 && *most < 220,
        "{} of them, {least} to {most} times",
        drawn.len()
    );
}
