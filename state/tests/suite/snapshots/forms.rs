//! Every form of a swarm, and what bounds a restore.

use std::collections::BTreeMap;
use std::net::IpAddr;

use hayate_state::snapshot::container::SnapshotReader;
use hayate_state::snapshot::swarms::{CompletedFrom, Restore, Summary, restore_all};
use hayate_state::swarm::PeerCounts;
use hayate_state::{Announce, Event, PeerId, Policy, Tally, Tick};

use super::{Saved, aged, at, read_snapshot, restore_into, snapshot};
use crate::test_tracker::{TestTracker, announce_from, info_hash};

const TORRENTS: u64 = 60;

type Peers = BTreeMap<(u64, IpAddr, u16), Saved>;

fn address(random: &mut fastrand::Rng, hosts: u16) -> IpAddr {
    let host = random.u16(..hosts).to_be_bytes();
    match random.u8(..8) {
        0..=4 => [192, 0, host[0], host[1]].into(),
        5 => [10, 0, host[0], host[1]].into(),
        6 => [0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from_be_bytes(host)].into(),
        _ => [0xfd00, 0, 0, 0, 0, 0, 0, u16::from_be_bytes(host)].into(),
    }
}

/// Random announces over a quarter of an hour. Half of the torrents have IPv4 peers only, so that all forms
/// occur. Returns the peers that are left.
fn fill(tracker: &mut TestTracker, random: &mut fastrand::Rng, ids: bool) -> Peers {
    let mut peers = Peers::new();
    for step in 0..60_000_u32 {
        let torrent = random.u64(..TORRENTS).min(random.u64(..TORRENTS)).min(random.u64(..TORRENTS));
        let mut address = address(random, if torrent == 0 { 5000 } else { 40 });
        if torrent % 2 == 1 && address.is_ipv6() {
            address = [198, 51, 100, random.u8(..3)].into();
        }
        let events = [Event::None, Event::Completed, Event::Started, Event::Paused, Event::Stopped];
        let event = random.choice(events).unwrap();
        let (id, left, port) = ([random.u8(..); 20], u64::from(random.u8(..3)), random.u16(1..=3));
        let announce = Announce { event, peer_id: PeerId(id), ..announce_from(torrent, address, port, left) };
        tracker.now = 5000 + step / 64;
        tracker.announce(&announce).unwrap();
        let key = (torrent, address, port);
        if event == Event::Stopped {
            peers.remove(&key);
            continue;
        }
        let (seeder, paused) = (left == 0, left > 0 && event == Event::Paused);
        let id = if ids { id } else { [0; 20] };
        // The time stands in for the age.
        peers.insert(key, Saved { seeder, paused, age: i32::try_from(tracker.now).unwrap(), id });
    }
    // Some torrents end without peers.
    let leave = |key: &(u64, IpAddr, u16)| key.0 % 7 == 5;
    for (torrent, address, port) in peers.keys().copied().filter(leave) {
        tracker
            .announce(&Announce { event: Event::Stopped, ..announce_from(torrent, address, port, 9) })
            .unwrap();
    }
    peers.retain(|key, _| !leave(key));
    let now = i32::try_from(tracker.now).unwrap();
    peers.values_mut().for_each(|peer| peer.age = now - peer.age);
    peers
}

#[test]
fn all_forms_come_back_as_they_were() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    for ids in [false, true] {
        let mut random = fastrand::Rng::with_seed(seed);
        let policy =
            Policy { keep_peer_ids: ids, denied_ports: vec![3], purge_seconds: 60, ..Policy::default() };
        let mut old = TestTracker::new(policy.clone(), 0, seed);
        let peers = fill(&mut old, &mut random, ids);
        let file = snapshot(&old.swarms, old.now);
        let saved = read_snapshot(&file);
        let met = saved.iter().flat_map(|(hash, torrent)| {
            let torrent_number = u64::from_le_bytes(hash.0[..8].try_into().unwrap());
            torrent.peers.iter().map(move |(key, peer)| ((torrent_number, key.0, key.1), *peer))
        });
        assert_eq!(met.collect::<Peers>(), peers, "the snapshot has what was announced");

        let mut new = TestTracker::new(policy, 0, seed);
        new.now = 3;
        let summary = restore_into(&new, &file, 70);
        let torrents = (old.swarms.live() + old.swarms.idle()) as u64;
        let expected = Summary { torrents, peers: peers.len() as u64, ..Summary::default() };
        assert_eq!(summary, expected);
        assert!(old.swarms.idle() > 2, "some torrents are idle");
        same(&old, &new);
        let again = read_snapshot(&snapshot(&new.swarms, new.now));
        assert_eq!(again, aged(saved, 70));

        let summary = restore_into(&new, &file, 70);
        assert_eq!(summary, Summary { known: peers.len() as u64, ..Summary::default() });
        same(&old, &new);
        assert_eq!(again, read_snapshot(&snapshot(&new.swarms, new.now)), "a second time changes nothing");

        handouts_agree(&mut old, &mut new);
        // All memory is freed again.
        new.policy.publish(Policy { idle_torrents_max: 0, ..(*new.policy.current()).clone() });
        new.now += 4201;
        new.sweep();
        assert_eq!(new.swarms.peer_counts(), PeerCounts::default());
        assert!(new.swarms.memory() < 64 << 10, "{}", new.swarms.memory());
    }
}

fn same(old: &TestTracker, new: &TestTracker) {
    assert_eq!(old.swarms.peer_counts(), new.swarms.peer_counts());
    assert_eq!((old.swarms.live(), old.swarms.idle()), (new.swarms.live(), new.swarms.idle()));
    for torrent in 0..TORRENTS {
        assert_eq!(old.tally(torrent), new.tally(torrent), "torrent {torrent}");
    }
}

/// Who may not be handed out is known again: small swarms are handed out whole, but for those.
fn handouts_agree(old: &mut TestTracker, new: &mut TestTracker) {
    for torrent in 0..TORRENTS {
        let ask = Announce { num_want: 200, ..announce_from(torrent, [192, 0, 2, 255], 9, 9) };
        let [old, new] = [&mut *old, &mut *new].map(|tracker| {
            let (answer, mut peers) = tracker.announce(&ask).unwrap();
            assert!(peers.iter().all(|(_, port)| *port == 2), "ports 1 and 3 are hidden");
            assert!(peers.iter().all(|(address, _)| !address.to_string().starts_with("10.")));
            peers.sort_unstable();
            (answer.tally, peers)
        });
        if old.0.leechers + old.0.seeders < 200 {
            assert_eq!(old, new, "torrent {torrent}");
        }
    }
}

fn small(policy: Policy) -> TestTracker {
    TestTracker::new(policy, 0, 7)
}

/// One peer each second for 700 seconds, in seven torrents; each hundredth finishes.
fn seconds() -> TestTracker {
    let mut tracker = small(Policy { peer_inactivity_seconds: 700, ..Policy::default() });
    for second in 0..700 {
        tracker.now = 5000 + second;
        let port = u16::try_from(1000 + second).unwrap();
        let event = if second % 100 == 0 { Event::Completed } else { Event::None };
        let left = u64::from(event == Event::None);
        tracker
            .announce(&Announce { event, ..announce_from(u64::from(second % 7), [192, 0, 2, 7], port, left) })
            .unwrap();
    }
    tracker
}

#[test]
fn time_that_passed_counts_and_those_who_are_too_old_stay_away() {
    let old = seconds();
    let file = snapshot(&old.swarms, old.now);
    // The youngest is 0 s old, the oldest 699; all may be 700.
    for (later, peers) in [(1, 700), (101, 600), (699, 2), (700, 1), (701, 0), (i64::MAX >> 20, 0)] {
        let new = small((*old.policy.current()).clone());
        let summary = restore_into(&new, &file, later);
        assert_eq!((summary.peers, summary.expired), (peers, 700 - peers), "{later} s later");
        let completed: u32 = (0..7).map(|torrent| new.tally(torrent).completed).sum();
        assert_eq!(completed, 7, "completed counts outlive the peers");
        assert_eq!(u64::from(new.swarms.peer_counts().total()), peers);
    }
}

#[test]
fn a_clock_that_went_back_makes_nobody_older_or_younger() {
    let old = seconds();
    let file = snapshot(&old.swarms, old.now);
    for later in [-3600, -1, 0, -1_700_000_000] {
        let new = small((*old.policy.current()).clone());
        assert_eq!(restore_into(&new, &file, later).peers, 700);
        assert_eq!(read_snapshot(&snapshot(&new.swarms, new.now)), read_snapshot(&file));
    }
}

#[test]
fn a_restore_stops_at_the_memory_budget_and_says_what_it_left_out() {
    const PEERS: u32 = 200_000;
    // Many torrents, of which no more are made, and one, to which no more is added.
    for torrents in [20_000, 1] {
        let mut old = small(Policy::default());
        for number in 0..PEERS {
            let address = std::net::Ipv4Addr::from(0xC633_0000 + number);
            let torrent = u64::from(number) % torrents;
            old.announce(&announce_from(torrent, address, 6881, u64::from(number % 3))).unwrap();
        }
        let file = snapshot(&old.swarms, old.now);
        let half = old.swarms.memory() as u64 / 2;
        let new = small(Policy { memory_max: half, ..Policy::default() });
        let summary = restore_into(&new, &file, 0);
        assert_eq!(summary.peers + summary.left_out, u64::from(PEERS));
        assert!(summary.peers > 50_000 && summary.left_out > 50_000, "{summary:?}");
        assert!(summary.torrents <= torrents && summary.torrents + summary.torrents_left_out >= torrents);
        assert_eq!(u64::from(new.swarms.peer_counts().total()), summary.peers);
        assert!((new.swarms.memory() as u64) < half + (600 << 10), "{} of {half}", new.swarms.memory());
    }
}

#[test]
fn peers_of_one_address_are_taken_up_to_the_limit() {
    let old = seconds();
    let new = TestTracker::new((*old.policy.current()).clone(), 11, 7);
    let summary = restore_into(&new, &snapshot(&old.swarms, old.now), 0);
    assert_eq!((summary.peers, summary.left_out), (77, 623));
}

#[test]
fn a_peer_that_is_there_stays_as_it_is() {
    let old = seconds();
    let file = snapshot(&old.swarms, old.now);
    let mut new = small((*old.policy.current()).clone());
    new.announce(&announce_from(0, [192, 0, 2, 7], 1007, 0)).unwrap();
    let summary = restore_into(&new, &file, 0);
    assert_eq!((summary.peers, summary.known), (699, 1));
    let saved = read_snapshot(&snapshot(&new.swarms, new.now));
    let peer = saved[&info_hash(0)].peers[&([192, 0, 2, 7].into(), 1007)];
    assert_eq!((peer.seeder, peer.age), (true, 0));
}

#[test]
fn counts_of_the_store_go_before_those_of_the_snapshot() {
    let mut old = seconds();
    for event in [Event::Completed, Event::Stopped] {
        old.announce(&Announce { event, ..announce_from(8, [192, 0, 2, 7], 6881, 0) }).unwrap();
    }
    let file = snapshot(&old.swarms, old.now);
    let new = small((*old.policy.current()).clone());
    let policy = new.policy.current();
    assert!(new.swarms.set_completed(Tick(new.now), &policy, &info_hash(0), 1300));
    assert!(new.swarms.set_completed(Tick(new.now), &policy, &info_hash(1), 0));
    assert!(new.swarms.set_completed(Tick(new.now), &policy, &info_hash(9), 1700));
    assert_eq!((new.swarms.live(), new.swarms.idle()), (0, 2), "what nobody finished is not remembered");
    let mut to = Restore::new(&new.swarms, &policy, CompletedFrom::Store);
    let mut reader = SnapshotReader::new(file.as_slice()).unwrap();
    restore_all(&mut to, &mut reader, || at(new.now, 0), |_| {}).unwrap();
    let completed = |torrent| new.tally(torrent).completed;
    assert_eq!([0, 1, 2, 8, 9].map(completed), [1300, 0, 0, 0, 1700]);
    assert_eq!((new.swarms.live(), new.swarms.idle()), (7, 1), "torrents without peers come from the store");
    assert_eq!(new.swarms.peer_counts(), old.swarms.peer_counts());
    // The other way round, the counts come later.
    assert!(new.swarms.set_completed(Tick(new.now), &policy, &info_hash(2), 1100));
    assert!(new.swarms.set_completed(Tick(new.now), &policy, &info_hash(9), 0));
    assert_eq!((completed(2), completed(9), new.swarms.idle()), (1100, 0, 0));
}

#[test]
fn counts_of_a_store_are_bounded_like_all_others() {
    let new = small(Policy { idle_torrents_max: 2 * 1024, ..Policy::default() });
    let policy = new.policy.current();
    // Random ones: consecutive numbers do not fill all shards alike.
    let mut random = fastrand::Rng::with_seed(7);
    let torrents: Vec<_> = (0..50_000).map(|_| info_hash(random.u64(..))).collect();
    for torrent in &torrents {
        new.swarms.set_completed(Tick(new.now), &policy, torrent, 7);
    }
    assert_eq!((new.swarms.idle(), new.swarms.live()), (2 * 1024, 0));
    let full = small(Policy { memory_max: 1 << 20, ..Policy::default() });
    let policy = full.policy.current();
    let set = |torrent: &&_| full.swarms.set_completed(Tick(full.now), &policy, torrent, 7);
    let kept = torrents.iter().filter(set).count();
    assert_eq!(full.swarms.idle(), kept);
    assert!((1000..40_000).contains(&kept), "{kept}");
    assert_eq!(full.swarms.tally(&torrents[49_999]), Tally::default());
}
