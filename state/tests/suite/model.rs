//! Swarms against a naive model: the same random operations on both, then all that they return is compared.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hayate_state::swarm::Sweeper;
use hayate_state::{
    Announce, Event, Handout, InfoHash, PeerId, Policy, Published, Swarms, Tally, Tick, Tracker,
};

use crate::test_tracker::{info_hash, peers_of};

const OPERATIONS: u32 = 1_000_000;
const TORRENTS: u64 = 40;
const LIFETIME_SECONDS: u32 = 600;
const PURGE_SECONDS: u32 = 60;

#[derive(Clone, Copy)]
struct ModelPeer {
    seeder: bool,
    paused: bool,
    seen: u32,
}

#[derive(Default)]
struct ModelSwarm {
    peers: HashMap<(IpAddr, u16), ModelPeer>,
    completed: u32,
}

impl ModelSwarm {
    fn tally(&self) -> Tally {
        let count = |wanted: &dyn Fn(&ModelPeer) -> bool| {
            u32::try_from(self.peers.values().filter(|peer| wanted(peer)).count()).unwrap()
        };
        Tally {
            seeders: count(&|peer| peer.seeder),
            completed: self.completed,
            leechers: count(&|peer| !peer.seeder),
            paused: count(&|peer| peer.paused),
        }
    }

    fn announce(&mut self, now: u32, announce: &Announce) {
        let key = (announce.address, announce.port);
        if announce.event == Event::Stopped {
            self.peers.remove(&key);
            return;
        }
        let seeder = announce.left == 0;
        let was_seeder = self.peers.get(&key).is_some_and(|peer| peer.seeder);
        self.completed += u32::from(seeder && !was_seeder && announce.event == Event::Completed);
        let paused = announce.event == Event::Paused && !seeder;
        self.peers.insert(key, ModelPeer { seeder, paused, seen: now });
    }
}

fn random_announce(random: &mut fastrand::Rng) -> Announce {
    // A few torrents get most of the peers, so that small, large, mixed and empty swarms all occur.
    let torrent = random.u64(..TORRENTS).min(random.u64(..TORRENTS)).min(random.u64(..TORRENTS));
    let hosts = if torrent == 0 { 2000 } else { 40 };
    let host = random.u16(..hosts).to_be_bytes();
    let address: IpAddr = match random.u8(..8) {
        0..=4 => [192, 0, host[0], host[1]].into(),
        5 => [10, 0, host[0], host[1]].into(),
        6 => format!("2001:db8::{:x}", u16::from_be_bytes(host)).parse().unwrap(),
        _ => format!("fd00::{:x}", u16::from_be_bytes(host)).parse().unwrap(),
    };
    let event = match random.u8(..10) {
        0..=3 => Event::None,
        4 => Event::Completed,
        5 => Event::Started,
        6 | 7 => Event::Stopped,
        _ => Event::Paused,
    };
    Announce {
        info_hash: info_hash(torrent),
        peer_id: PeerId([random.u8(..); 20]),
        address,
        port: random.u16(1..=3),
        uploaded: 0,
        downloaded: 0,
        left: u64::from(random.u8(..3)),
        event,
        num_want: random.choice([0, 1, 2, 7, 50, 200]).unwrap(),
    }
}

fn is_private(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_private(),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

fn same_range(a: &IpAddr, b: &IpAddr) -> bool {
    is_private(a) && is_private(b) && a.is_ipv4() == b.is_ipv4()
}

/// What every handout must be: real peers, never the requester, none twice, none hidden, and as many as there
/// are.
fn check_handout(announce: &Announce, swarm: &ModelSwarm, now: u32, v4: &[u8], v6: &[u8]) {
    let mut handed = peers_of(v4, false);
    handed.extend(peers_of(v6, true));
    let requester = (announce.address, announce.port);
    let visible = |(key, peer): &(&(IpAddr, u16), &ModelPeer)| {
        let (address, port) = **key;
        let useful = match (announce.left == 0, announce.event) {
            (true, Event::Started) | (false, _) => true,
            (true, _) => !peer.seeder,
        };
        **key != requester
            && port != 1
            && useful
            && (!is_private(&address) || same_range(&address, &announce.address))
    };
    let may_be: Vec<_> = swarm.peers.iter().filter(visible).map(|(key, _)| *key).collect();
    for peer in &handed {
        assert!(may_be.contains(peer), "{peer:?} was handed to {announce:?} at {now}");
    }
    let wanted = if announce.event == Event::Stopped { 0 } else { usize::from(announce.num_want) };
    assert_eq!(handed.len(), wanted.min(may_be.len()), "{announce:?} at {now}");
    let own_first = handed.iter().position(|peer| peer.0.is_ipv4() != announce.address.is_ipv4());
    if let Some(first) = own_first {
        let own = may_be.iter().filter(|peer| peer.0.is_ipv4() == announce.address.is_ipv4()).count();
        assert!(announce.address.is_ipv6() || first == own.min(wanted), "own family first");
    }
    let count = handed.len();
    handed.sort_unstable();
    handed.dedup();
    assert_eq!(handed.len(), count, "somebody was handed out twice");
}

/// Whether ids are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ids {
    Dropped,
    Kept,
    /// Now they are, now they are not: an operator reloads.
    InTurns,
}

fn policy_with(keep_peer_ids: bool) -> Policy {
    Policy {
        peer_inactivity_seconds: LIFETIME_SECONDS,
        purge_seconds: PURGE_SECONDS,
        keep_peer_ids,
        ..Policy::default()
    }
}

fn run(seed: u64, ids: Ids) {
    println!("seed {seed}, ids {ids:?}");
    let policy = Published::new(policy_with(ids == Ids::Kept));
    let swarms = Swarms::new(0);
    let mut tracker = Tracker::new(Arc::clone(&swarms), &policy, seed);
    let mut sweeper = Sweeper::new(Arc::clone(&swarms));
    let mut random = fastrand::Rng::with_seed(seed);
    let mut model: HashMap<InfoHash, ModelSwarm> = HashMap::new();
    let mut now = 70_000;
    let (mut v4, mut v6) = ([0; 200 * 6], [0; 200 * 18]);
    for operation in 0..OPERATIONS / 2 {
        now += u32::from(random.u8(..50) == 0);
        if random.u16(..2000) == 0 {
            // No peer is handed out beyond lifetime and sweep: both sides expire at one moment.
            now += random.u32(..LIFETIME_SECONDS / 3);
            sweeper.sweep_all(Tick(now), policy.current().as_ref());
            for swarm in model.values_mut() {
                swarm.peers.retain(|_, peer| now - peer.seen <= LIFETIME_SECONDS);
            }
        }
        let alive = |swarm: &ModelSwarm| swarm.peers.values().all(|peer| now - peer.seen <= LIFETIME_SECONDS);
        if random.u16(..500) == 0 && model.values().all(alive) {
            // Part of a round, in which no peer expires: it must disturb nothing, wherever it stops.
            let elapsed = Duration::from_millis(random.u64(..1000 * u64::from(PURGE_SECONDS)));
            sweeper.advance(Tick(now), policy.current().as_ref(), elapsed);
        }
        if ids == Ids::InTurns && random.u16(..2000) == 0 {
            policy.publish(policy_with(random.bool()));
        }
        let mut announce = random_announce(&mut random);
        if ids != Ids::Dropped {
            // Peers of one id are the same client, and not handed to each other.
            announce.peer_id = PeerId([0; 20]);
            announce.peer_id.0[..2].copy_from_slice(&announce.port.to_be_bytes());
            announce.peer_id.0[2] = random.u8(..);
            announce.num_want = 0;
        }
        let mut handout = Handout::new(&mut v4, &mut v6);
        let answer = tracker.announce(Tick(now), &announce, &mut handout).unwrap();
        let (v4_used, v6_used) = (handout.v4.used(), handout.v6.used());
        let swarm = model.entry(announce.info_hash).or_default();
        swarm.announce(now, &announce);
        if swarm.peers.is_empty() && swarm.completed == 0 {
            model.remove(&announce.info_hash);
            assert_eq!(answer.tally, Tally::default());
            continue;
        }
        let swarm = model.get(&announce.info_hash).unwrap();
        // Counting a large swarm anew each time would take most of the test.
        if swarm.peers.len() > 60 && operation % 50 != 0 {
            continue;
        }
        let expected = Tally { paused: 0, ..swarm.tally() };
        assert_eq!(answer.tally, expected, "{announce:?} at {now}");
        check_handout(&announce, swarm, now, &v4[..v4_used], &v6[..v6_used]);
    }
    for (info_hash, swarm) in &model {
        assert_eq!(tracker.scrape(info_hash).unwrap(), swarm.tally());
    }
    let live = model.values().filter(|swarm| !swarm.peers.is_empty()).count();
    assert_eq!(swarms.live(), live);
    sweeper.sweep_all(Tick(now + LIFETIME_SECONDS + 1), policy.current().as_ref());
    assert_eq!((swarms.live(), swarms.peer_counts().total()), (0, 0));
}

#[test]
fn swarms_do_what_a_naive_model_does() {
    let seed = fastrand::u64(..);
    run(seed, Ids::Dropped);
    run(seed, Ids::Kept);
    run(seed, Ids::InTurns);
}
