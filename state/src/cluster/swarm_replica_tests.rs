//! Tests: what becomes of each kind of record, and that two nodes agree.

use super::*;
use crate::address::AddressScope;
use crate::announce::{Announce, Event, Handout};
use crate::ids::PeerId;
use crate::published::Published;

const KEY: [u8; 32] = [7; 32];
const NOW: Tick = Tick(100_000);

/// A node with one stream.
struct Node {
    swarms: Arc<Swarms>,
    policy: Policy,
    replica: SwarmReplica,
}

impl Node {
    fn new(policy: Policy, peers_per_address: u16, outbox_max: usize) -> Self {
        let swarms = Swarms::in_cluster(peers_per_address, &KEY, outbox_max);
        let published = Published::new(policy.clone());
        let replica = SwarmReplica::new(Arc::clone(&swarms), published.subscribe(), 0, 1);
        Self { swarms, policy, replica }
    }

    fn announce(&self, now: Tick, key: &PeerKey, left: u64, event: Event) {
        let announce = Announce {
            info_hash: key.info_hash,
            peer_id: PeerId([11; 20]),
            address: key.peer.ip(),
            port: key.peer.port(),
            uploaded: 0,
            downloaded: 0,
            left,
            event,
            num_want: 0,
        };
        let scope = AddressScope::of(announce.address).unwrap();
        let (mut random, mut handout) = (fastrand::Rng::with_seed(7), Handout::new(&mut [], &mut []));
        self.swarms.announce(now, &self.policy, scope, &announce, &mut random, &mut handout);
    }

    fn take(&mut self) -> Vec<TimedRecord> {
        let mut records = Vec::new();
        self.replica.take_outbox(&mut records);
        records
    }

    fn apply(&mut self, received: ReceivedRecord, own: Option<OwnRecord>) -> Applied {
        let mut passed_over = Vec::new();
        let applied = self.replica.apply(NOW, &[received], &|_| own, &mut passed_over);
        assert_eq!(passed_over.len() as u64, applied.in_flight);
        applied
    }

    /// Role, paused bit and age of a peer.
    fn peer(&mut self, key: &PeerKey) -> Option<(bool, bool, i64)> {
        let TimedRecord { record, seen } = self.replica.current(NOW, key);
        match record.presence {
            Presence::Gone => None,
            Presence::Present { seeder, paused, .. } => Some((seeder, paused, i64::from(NOW.0) - seen)),
        }
    }
}

fn alone() -> Node {
    Node::new(Policy::default(), 0, 100)
}

fn key(number: u16) -> PeerKey {
    PeerKey { info_hash: InfoHash([9; 20]), peer: SocketAddr::from(([45, 0, 0, 1], number)) }
}

fn received(key: PeerKey, presence: Presence, age_seconds: u32, republished: bool) -> ReceivedRecord {
    let record = PeerRecord { key, age_seconds, presence, completed: None, peer_id: None };
    ReceivedRecord { record, seen: i64::from(NOW.0) - i64::from(age_seconds), republished }
}

const SEEDER: Presence = Presence::Present { seeder: true, paused: false, finished: false };
const LEECHER: Presence = Presence::Present { seeder: false, paused: false, finished: false };
const FINISHED: Presence = Presence::Present { seeder: true, paused: false, finished: true };
const PAUSED: Presence = Presence::Present { seeder: false, paused: true, finished: false };
const ONE: Applied = Applied { applied: 1, in_flight: 0, old: 0, expired: 0, full: 0 };
const IN_FLIGHT: Applied = Applied { applied: 0, in_flight: 1, ..ONE };
const OLD: Applied = Applied { applied: 0, old: 1, ..ONE };
const EXPIRED: Applied = Applied { applied: 0, expired: 1, ..ONE };
const FULL: Applied = Applied { applied: 0, full: 1, ..ONE };

#[test]
fn a_present_record_inserts_and_changes_a_peer_of_either_family() {
    let v6 = PeerKey { peer: SocketAddr::from(([0x2a00, 0, 0, 0, 0, 0, 0, 1], 7)), ..key(7) };
    for key in [key(7), v6] {
        let mut node = alone();
        assert_eq!(node.apply(received(key, LEECHER, 100, false), None), ONE);
        assert_eq!(node.peer(&key), Some((false, false, 100)));
        assert_eq!(node.apply(received(key, PAUSED, 90, false), None), ONE);
        assert_eq!(node.peer(&key), Some((false, true, 90)));
        assert_eq!(node.apply(received(key, SEEDER, 95, false), None), ONE);
        assert_eq!(node.peer(&key), Some((true, false, 95)), "the order of the stream decides");
        assert_eq!(node.apply(received(key, Presence::Gone, 99, false), None), ONE);
        assert_eq!((node.peer(&key), node.swarms.live()), (None, 0));
        assert!(node.take().is_empty(), "records of other nodes are not published");
    }
}

#[test]
fn a_record_is_passed_over_while_one_of_the_same_peer_is_in_the_outbox() {
    let mut node = alone();
    node.announce(NOW, &key(7), 1, Event::Started);
    assert_eq!(node.apply(received(key(7), SEEDER, 0, false), None), IN_FLIGHT);
    assert_eq!(node.apply(received(key(7), SEEDER, 0, true), None), IN_FLIGHT);
    assert_eq!(node.apply(received(key(8), SEEDER, 0, false), None), ONE);
    assert_eq!(node.take().len(), 1);
    assert_eq!(node.apply(received(key(7), SEEDER, 0, false), None), ONE);
}

#[test]
fn a_record_yields_to_an_own_one_in_flight_unless_that_is_older_and_republished() {
    let own = |age: i64, republished| Some(OwnRecord { seen: i64::from(NOW.0) - age, republished });
    let mut node = alone();
    assert_eq!(node.apply(received(key(7), SEEDER, 0, false), own(50, false)), IN_FLIGHT);
    assert_eq!(node.apply(received(key(7), SEEDER, 0, true), own(50, false)), IN_FLIGHT);
    assert_eq!(node.apply(received(key(7), SEEDER, 20, false), own(19, true)), IN_FLIGHT);
    assert_eq!(node.apply(received(key(7), SEEDER, 20, false), own(20, true)), ONE);
    assert_eq!(node.apply(received(key(8), SEEDER, 20, true), own(20, true)), IN_FLIGHT);
    assert_eq!(node.apply(received(key(8), SEEDER, 20, true), own(21, true)), ONE);
}

#[test]
fn republished_records_never_undo_newer_ones() {
    let mut node = alone();
    node.apply(received(key(7), LEECHER, 50, false), None);
    assert_eq!(node.apply(received(key(7), SEEDER, 51, true), None), OLD);
    assert_eq!(node.apply(received(key(7), Presence::Gone, 51, true), None), OLD);
    assert_eq!(node.apply(received(key(7), LEECHER, 50, true), None), OLD);
    assert_eq!(node.peer(&key(7)), Some((false, false, 50)));
    assert_eq!(node.apply(received(key(7), SEEDER, 50, true), None), ONE);
    assert_eq!(node.apply(received(key(7), Presence::Gone, 49, true), None), ONE);
    assert_eq!(node.peer(&key(7)), None);
}

#[test]
fn an_announce_that_found_the_outbox_full_is_not_undone_by_an_older_record() {
    let mut node = Node::new(Policy::default(), 0, 1);
    node.announce(Tick(NOW.0 - 30), &key(6), 1, Event::Started);
    node.announce(Tick(NOW.0 - 20), &key(7), 1, Event::Started);
    assert_eq!(node.apply(received(key(7), SEEDER, 21, false), None), OLD);
    assert_eq!(node.apply(received(key(7), SEEDER, 19, false), None), ONE);
    assert_eq!(node.replica.take_outbox(&mut Vec::new()), Some(i64::from(NOW.0) - 20));
}

#[test]
fn an_unknown_peer_that_was_silent_for_too_long_is_passed_over() {
    let mut node = alone();
    let inactivity = node.policy.peer_inactivity_seconds;
    assert_eq!(node.apply(received(key(7), SEEDER, inactivity, false), None), EXPIRED);
    assert_eq!(node.apply(received(key(7), SEEDER, u32::MAX, false), None), EXPIRED);
    assert_eq!(node.swarms.live() + node.swarms.idle(), 0);
    assert_eq!(node.apply(received(key(7), SEEDER, inactivity - 1, false), None), ONE);
}

#[test]
fn peers_of_other_nodes_ignore_the_limit_of_an_address_but_not_that_of_memory() {
    let mut node = Node::new(Policy::default(), 1, 100);
    (1..=60).for_each(|port| assert_eq!(node.apply(received(key(port), SEEDER, 0, false), None), ONE));
    assert_eq!(node.swarms.peer_counts().total(), 60);
    let mut node = Node::new(Policy { memory_max: 16, ..Policy::default() }, 0, 100);
    let applied: Vec<_> =
        (1..=200).map(|port| node.apply(received(key(port), LEECHER, 0, false), None)).collect();
    assert_eq!((applied.first(), applied.last()), (Some(&ONE), Some(&FULL)));
    let added = applied.iter().filter(|applied| **applied == ONE).count();
    assert_eq!(node.swarms.peer_counts().total() as usize, added);
    assert_eq!(node.apply(received(key(1), SEEDER, 0, false), None), ONE, "it takes no more memory");
    assert_eq!(node.peer(&key(1)), Some((true, false, 0)));
    assert_eq!(node.apply(received(key(1), Presence::Gone, 0, false), None), ONE);
    assert_eq!(node.peer(&key(1)), None);
}

#[test]
fn counts_rise_by_finished_downloads_and_to_totals() {
    let mut node = alone();
    let mut record = |presence, total| {
        let mut received = received(key(7), presence, 0, false);
        received.record.completed = total;
        node.apply(received, None);
        node.swarms.tally(&key(7).info_hash).completed
    };
    assert_eq!(record(FINISHED, Some(1)), 1);
    assert_eq!(record(FINISHED, Some(1)), 2);
    assert_eq!(record(SEEDER, Some(1)), 2);
    assert_eq!(record(SEEDER, Some(9)), 9);
    assert_eq!(record(FINISHED, None), 10);
}

#[test]
fn an_announce_that_changes_nothing_is_published_once_in_the_renewal_time_and_a_change_at_once() {
    let policy = Policy { renew_after_seconds: 100, ..Policy::default() };
    // Alone in its torrent, in a small swarm, and in a large one.
    for others in [0, 20, 200] {
        let mut node = Node::new(policy.clone(), 0, 1000);
        (0..others).for_each(|port| node.announce(Tick(0), &key(1000 + port), 1, Event::Started));
        let mut published = |after: u32, left, event| {
            node.take();
            node.announce(Tick(1000 + after), &key(7), left, event);
            node.take().len()
        };
        assert_eq!(published(0, 1, Event::Started), 1);
        assert_eq!(published(50, 1, Event::None), 0);
        assert_eq!(published(99, 1, Event::None), 0);
        assert_eq!(published(100, 1, Event::None), 1);
        assert_eq!(published(101, 1, Event::Paused), 1);
        assert_eq!(published(102, 1, Event::Paused), 0);
        assert_eq!(published(103, 0, Event::Completed), 1);
        assert_eq!(published(104, 0, Event::None), 0);
        assert_eq!(published(105, 0, Event::Stopped), 1);
    }
}

#[test]
fn a_walk_meets_all_peers_of_its_share_or_those_seen_since() {
    let mut node = alone();
    let peers = |torrents: u8| {
        (0..torrents).flat_map(|torrent| {
            let count = if torrent == 0 { 3000 } else { u16::from(torrent) };
            let key = move |port| PeerKey { info_hash: InfoHash([torrent; 20]), ..key(port) };
            let v6 = SocketAddr::from(([0x2a00, 0, 0, 0, 0, 0, 0, 1], 7));
            (1..=count).map(key).chain([PeerKey { peer: v6, ..key(0) }])
        })
    };
    let all: HashSet<_> = peers(50).collect();
    for key in &all {
        let age = if key.peer.port() % 3 == 0 { 10 } else { 100 };
        node.announce(Tick(NOW.0 - age), key, 1, Event::Started);
    }
    let mut walked = |of| {
        let (mut walk, mut records) = (node.replica.start_walk(of), Vec::new());
        lock_cost::take_max();
        while node.replica.walk(NOW, &mut walk, 500, &mut records) {}
        assert!(lock_cost::take_max() <= 2 * SLICE);
        records.iter().map(|timed| timed.record.key).collect::<Vec<_>>()
    };
    let since = walked(WalkOf::Since(i64::from(NOW.0) - 10));
    let recent = all.iter().filter(|key| key.peer.port() % 3 == 0).copied();
    assert_eq!(since.into_iter().collect::<HashSet<_>>(), recent.collect());
    let shares: Vec<_> = (0..3).flat_map(|node| walked(WalkOf::Share { node, nodes: 3 })).collect();
    assert_eq!(shares.len(), all.len());
    assert_eq!(shares.into_iter().collect::<HashSet<_>>(), all);
}

#[test]
fn two_nodes_that_follow_one_stream_agree() {
    for _ in 0..20 {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let policy = Policy {
            renew_after_seconds: random.u32(..20),
            keep_peer_ids: random.bool(),
            ..Policy::default()
        };
        let mut nodes = [0, 1].map(|_| Node::new(policy.clone(), 0, 1 << 16));
        let torrents = [0, 1, 2].map(|torrent| InfoHash([torrent; 20]));
        let peers = random.u16(1..150);
        let key_of = |torrent: usize, port: u16| {
            let v6 = SocketAddr::from(([0x2a00, 0, 0, 0, 0, 0, 0, 1], port));
            let peer = if port.is_multiple_of(4) { v6 } else { key(port).peer };
            PeerKey { info_hash: torrents[torrent], peer }
        };
        for step in 0..200 {
            let now = Tick(NOW.0 - 400 + step);
            for _ in 0..random.u32(..20) {
                let key = key_of(random.usize(..3), random.u16(..peers) + 2);
                let event = random.choice([Event::None, Event::Completed, Event::Stopped, Event::Paused]);
                random.choice(&nodes).unwrap().announce(now, &key, random.u64(..2), event.unwrap());
            }
            let [first, second] = &mut nodes;
            let (from_first, from_second) = (first.take(), second.take());
            let received = |records: &[TimedRecord]| -> Vec<_> {
                let received = |timed: &TimedRecord| ReceivedRecord {
                    record: timed.record,
                    seen: timed.seen,
                    republished: false,
                };
                records.iter().map(received).collect()
            };
            // The first node's entry precedes the second's, whose records are in flight meanwhile.
            let in_flight: HashSet<_> = from_second.iter().map(|timed| timed.record.key).collect();
            let own = |key: &PeerKey| {
                in_flight.contains(key).then_some(OwnRecord { seen: i64::from(now.0), republished: false })
            };
            second.replica.apply(now, &received(&from_first), &own, &mut Vec::new());
            first.replica.apply(now, &received(&from_second), &|_| None, &mut Vec::new());
            for (torrent, info_hash) in torrents.iter().enumerate() {
                assert_eq!(first.swarms.tally(info_hash), second.swarms.tally(info_hash), "step {step}");
                for port in 2..peers + 2 {
                    let key = key_of(torrent, port);
                    assert_eq!(first.peer(&key), second.peer(&key), "step {step}, {key:?}");
                }
            }
        }
    }
}
