//! What a walk meets while the swarms change under it.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hayate_state::snapshot::container::SnapshotWriter;
use hayate_state::snapshot::swarms::{TAG_SWARMS, Walk};
use hayate_state::swarm::Sweeper;
use hayate_state::{Announce, Event, Handout, Policy, Published, Swarms, Tick, Tracker};

use super::{WRITTEN_AT, read_snapshot, restore_into};
use crate::test_tracker::{TestTracker, announce_from, info_hash};

const NOW: Tick = Tick(5000);
/// Those of one torrent who stay, in each family.
const STAYERS: u16 = 600;
/// Torrents with stayers; the first is the largest by far.
const TORRENTS: u64 = 40;

/// Who stays, with a role that may change.
fn stayer(torrent: u64, number: u16, left: u64) -> Announce {
    let address: IpAddr = match number % 4 {
        0 if torrent.is_multiple_of(2) => [0x2001, 0xdb8, 0, 0, 0, 0, 0, number].into(),
        _ => Ipv4Addr::from(0xC633_0000 + u32::from(number)).into(),
    };
    Announce { num_want: 0, ..announce_from(torrent, address, 6881, left) }
}

fn stayers(torrent: u64) -> u16 {
    if torrent == 0 { STAYERS * 8 } else { u16::try_from(torrent).unwrap() }
}

/// Somebody who comes or goes, or a stayer with another role.
fn disturbance(random: &mut fastrand::Rng, growing: bool) -> Announce {
    let torrent = if random.u8(..4) < 3 { 0 } else { random.u64(..TORRENTS) };
    let left = random.u64(..2);
    if random.u8(..8) == 0 {
        return stayer(torrent, random.u16(..stayers(torrent)), left);
    }
    // Torrents come and go, too.
    let torrent = if random.u8(..4) == 0 { random.u64(TORRENTS..4000) } else { torrent };
    let (event, hosts) = if growing { (Event::None, 60_000) } else { (Event::Stopped, 60_000) };
    let host = random.u32(..hosts);
    let address: IpAddr = match host % 5 {
        0 => [0x2001, 0xdb8, 1, 0, 0, 0, 0, random.u16(..)].into(),
        _ => Ipv4Addr::from(0xCB00_0000 + host).into(),
    };
    Announce { event, num_want: 0, ..announce_from(torrent, address, 6881, left) }
}

fn assert_all_there(file: &[u8], seed: u64) {
    let saved = read_snapshot(file);
    for torrent in 0..TORRENTS {
        let peers = &saved[&info_hash(torrent)].peers;
        for number in 0..stayers(torrent) {
            let announce = stayer(torrent, number, 0);
            let is_there = peers.contains_key(&(announce.address, announce.port));
            assert!(is_there, "seed {seed}: {number} of torrent {torrent} is lost");
        }
    }
}

#[test]
fn who_stays_is_never_missed_however_the_swarms_change_between_slices() {
    for round in 0..12_u8 {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let mut test_tracker = TestTracker::new(Policy::default(), 0, seed);
        let policy = test_tracker.policy.current();
        for torrent in 0..TORRENTS {
            (0..stayers(torrent))
                .for_each(|number| _ = test_tracker.announce(&stayer(torrent, number, 1)).unwrap());
        }
        // From few to many peers, from many to few, and back and forth.
        let growing_at = |step: u32| match round % 3 {
            0 => true,
            1 => false,
            _ => step % 20_000 < 10_000,
        };
        if round % 3 == 1 {
            (0..60_000).for_each(|_| _ = test_tracker.announce(&disturbance(&mut random, true)).unwrap());
        }
        let mut walk = Walk::new(Arc::clone(&test_tracker.swarms), Tick(test_tracker.now));
        let (mut to, mut payload) =
            (SnapshotWriter::new(Vec::new(), WRITTEN_AT.cast_signed()).unwrap(), Vec::new());
        let mut step = 0;
        while walk.copy_slice(Tick(test_tracker.now), &mut payload) {
            if random.bool() {
                to.write_block(TAG_SWARMS, &payload).unwrap();
                payload.clear();
            }
            for _ in 0..random.u32(..2000) {
                step += 1;
                test_tracker.announce(&disturbance(&mut random, growing_at(step))).unwrap();
            }
            if random.u8(..8) == 0 {
                test_tracker.sweeper.sweep_all(Tick(test_tracker.now), &policy);
            }
        }
        to.write_block(TAG_SWARMS, &payload).unwrap();
        let file = to.finish().unwrap();
        assert_all_there(&file, seed);
        let new = TestTracker::new(Policy::default(), 0, seed);
        let summary = restore_into(&new, &file, 0);
        let twice: usize = read_snapshot(&file).values().map(|torrent| torrent.twice).sum();
        assert_eq!(summary.known, twice as u64, "who comes twice ends as one");
        assert_eq!(u64::from(new.swarms.peer_counts().total()), summary.peers);
    }
}

#[test]
fn no_torrent_is_missed_when_others_before_it_leave() {
    const LARGE: std::ops::Range<u64> = 20_000..20_040;
    const PEERS: u16 = 1500;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    // With ids even the smallest swarm is a large one, in which a walk has a position.
    let mut test_tracker = TestTracker::new(Policy { keep_peer_ids: true, ..Policy::default() }, 0, seed);
    let one = |torrent| Announce { num_want: 0, ..announce_from(torrent, [192, 0, 2, 7], 6881, 9) };
    (0..12_000).for_each(|torrent| _ = test_tracker.announce(&one(torrent)).unwrap());
    // Behind the others of their shards, met before them, and each larger than a slice.
    for (torrent, port) in LARGE.flat_map(|torrent| (1..=PEERS).map(move |port| (torrent, port))) {
        test_tracker.announce(&Announce { port, ..one(torrent) }).unwrap();
    }
    let mut walk = Walk::new(Arc::clone(&test_tracker.swarms), Tick(test_tracker.now));
    let (mut to, mut payload) =
        (SnapshotWriter::new(Vec::new(), WRITTEN_AT.cast_signed()).unwrap(), Vec::new());
    let mut leaving = (0..12_000).filter(|torrent| torrent % 3 != 0);
    while walk.copy_slice(Tick(test_tracker.now), &mut payload) {
        for torrent in leaving.by_ref().take(100) {
            test_tracker.announce(&Announce { event: Event::Stopped, ..one(torrent) }).unwrap();
        }
    }
    to.write_block(TAG_SWARMS, &payload).unwrap();
    let saved = read_snapshot(&to.finish().unwrap());
    let peers = |torrent| saved.get(&info_hash(torrent)).map_or(0, |torrent| torrent.peers.len());
    LARGE.for_each(|torrent| assert_eq!(peers(torrent), usize::from(PEERS)));
    (0..4000).for_each(|third| assert_eq!(peers(3 * third), 1, "torrent {}", 3 * third));
}

#[test]
fn ages_hold_at_the_begin_of_their_block() {
    for clear in [false, true] {
        let mut test_tracker = TestTracker::new(Policy::default(), 0, 7);
        (0..5000).for_each(|number| _ = test_tracker.announce(&stayer(0, number, 1)).unwrap());
        test_tracker.now += 100;
        let mut walk = Walk::new(Arc::clone(&test_tracker.swarms), Tick(test_tracker.now));
        let (mut to, mut payload) =
            (SnapshotWriter::new(Vec::new(), WRITTEN_AT.cast_signed()).unwrap(), Vec::new());
        while walk.copy_slice(Tick(test_tracker.now), &mut payload) {
            if clear {
                to.write_block(TAG_SWARMS, &payload).unwrap();
                payload.clear();
            }
            test_tracker.now += 7;
        }
        to.write_block(TAG_SWARMS, &payload).unwrap();
        let file = to.finish().unwrap();
        assert!(read_snapshot(&file)[&info_hash(0)].peers.values().all(|peer| peer.age == 100));
        let new = TestTracker::new(Policy::default(), 0, 7);
        restore_into(&new, &file, 1000);
        let restored = read_snapshot(&super::snapshot(&new.swarms, new.now));
        assert!(restored[&info_hash(0)].peers.values().all(|peer| peer.age == 1100));
    }
}

#[test]
fn who_shares_one_address_and_so_one_bucket_is_written_in_several_pieces() {
    let mut test_tracker = TestTracker::new(Policy::default(), 20_000, 7);
    (1..10_000).for_each(|port| {
        _ = test_tracker.announce(&announce_from(7, [192, 0, 2, 7], port, port.into())).unwrap()
    });
    let mut walk = Walk::new(Arc::clone(&test_tracker.swarms), Tick(test_tracker.now));
    let (mut payload, mut longest, mut all) = (Vec::new(), 0, 0);
    while walk.copy_slice(Tick(test_tracker.now), &mut payload) {
        longest = longest.max(payload.len());
        all += payload.len();
        payload.clear();
    }
    assert!((8192 * 8..8192 * 8 + 100).contains(&longest), "{longest}");
    assert_eq!(walk.peers(), 9999);
    assert!(all + payload.len() > 9999 * 8);
}

#[test]
fn a_swarm_that_does_not_change_its_slot_gives_each_peer_once() {
    let mut test_tracker = TestTracker::new(Policy::default(), 0, 7);
    let mut random = fastrand::Rng::with_seed(7);
    (0..STAYERS * 8).for_each(|number| _ = test_tracker.announce(&stayer(0, number, 1)).unwrap());
    let mut walk = Walk::new(Arc::clone(&test_tracker.swarms), Tick(test_tracker.now));
    let (mut to, mut payload) =
        (SnapshotWriter::new(Vec::new(), WRITTEN_AT.cast_signed()).unwrap(), Vec::new());
    let mut slices = 1;
    while walk.copy_slice(Tick(test_tracker.now), &mut payload) {
        slices += 1;
        for _ in 0..3000 {
            let other = stayer(0, random.u16(..40_000), random.u64(..2));
            test_tracker.announce(&Announce { event: Event::None, ..other }).unwrap();
        }
    }
    to.write_block(TAG_SWARMS, &payload).unwrap();
    let saved = read_snapshot(&to.finish().unwrap());
    assert_eq!(saved[&info_hash(0)].twice, 0);
    assert!(slices > 5, "{slices}");
}

#[test]
fn who_stays_is_never_missed_while_threads_announce_and_sweep() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let (policy, swarms) = (Published::new(Policy::default()), Swarms::new(0));
    let mut tracker = Tracker::new(Arc::clone(&swarms), &policy, seed);
    for torrent in 0..TORRENTS {
        for number in 0..stayers(torrent) {
            tracker.announce(NOW, &stayer(torrent, number, 1), &mut Handout::new(&mut [], &mut [])).unwrap();
        }
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for number in 0..2 {
            let mut tracker = Tracker::new(Arc::clone(&swarms), &policy, seed ^ number);
            let (mut random, done) = (fastrand::Rng::with_seed(seed + number), &done);
            scope.spawn(move || {
                let mut step = 0_u32;
                while !done.load(Ordering::Relaxed) {
                    step += 1;
                    let announce = disturbance(&mut random, step % 100_000 < 50_000);
                    tracker.announce(NOW, &announce, &mut Handout::new(&mut [], &mut [])).unwrap();
                }
            });
        }
        let (mut sweeper, current) = (Sweeper::new(Arc::clone(&swarms)), policy.current());
        let done_too = &done;
        scope.spawn(move || {
            while !done_too.load(Ordering::Relaxed) {
                sweeper.sweep_all(NOW, &current);
            }
        });
        let files: Vec<_> = (0..20).map(|_| super::snapshot(&swarms, NOW.0)).collect();
        done.store(true, Ordering::Relaxed);
        files.iter().for_each(|file| assert_all_there(file, seed));
    });
}
