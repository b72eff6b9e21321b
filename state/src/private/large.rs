//! Tests of one large swarm: however many users share a torrent, no lock is held for all of them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::snapshot::SiteRestore;
use super::torrents::{SHARDS, SLICE};
use super::{PeerExpiry, Site, User, snapshot};
use crate::admission::Policy;
use crate::announce::{Announce, Event, Handout};
use crate::clock::{Clock, Now};
use crate::ids::{InfoHash, PeerId};
use crate::lock_cost;
use crate::metrics::Board;
use crate::published::Published;
use crate::report::TorrentSource;
use crate::snapshot::container::SnapshotWriter;
use crate::snapshot::site::{Group, Multipliers, SiteRecord, SiteTorrent};
use crate::snapshot::thread::{PAUSE_AFTER, Pace, SHORTEST, Section};
use crate::store::{Bounds, Queues};
use crate::swarm::Swarms;
use crate::tracker::Tracker;

/// Peers that may be looked at under one lock.
const MOST: usize = 10_000;
const HASH: InfoHash = InfoHash([7; 20]);

struct TestSite {
    site: Arc<Site>,
    tracker: Tracker,
    policy: Policy,
}

impl TestSite {
    fn new(policy: Policy) -> Self {
        let site = Site::new();
        site.update(|site_data| site_data.clients = Arc::new([(1, "-TR")].into_iter().collect()));
        SiteRestore::new(&site.torrents, Now::at(0)).restore_record(SiteRecord::Torrent(SiteTorrent {
            info_hash: HASH,
            id: 3,
            group: Group { type_name: "music".into(), id: 5 },
            snatched: 0,
            status: 0,
            last_action: 0,
            multipliers: Multipliers::default(),
            peers: Vec::new(),
        }));
        let tracker = Tracker::new(Swarms::new(0), &Published::new(policy.clone()), 7);
        Self { tracker: tracker.with_site(Arc::clone(&site)), site, policy }
    }

    /// Returns how many addresses were handed out.
    fn announce(&mut self, second: u32, user: u32, client: u32, left: u64, event: Event) -> usize {
        let address = user.to_be_bytes().into();
        self.announce_from(second, (user, client), (address, 7000), left, event, [50, 50])
    }

    /// Announces from any address, with room in the answer for the given numbers of IPv4 and IPv6 peers.
    fn announce_from(
        &mut self,
        second: u32,
        (user, client): (u32, u32),
        (address, port): (IpAddr, u16),
        left: u64,
        event: Event,
        room: [usize; 2],
    ) -> usize {
        let user = User {
            id: user,
            disable_download: false,
            tracker_hide: false,
            multipliers: Multipliers::default(),
        };
        let announce = Announce {
            info_hash: HASH,
            peer_id: peer_id(client),
            address,
            port,
            uploaded: 0,
            downloaded: 0,
            left,
            event,
            num_want: 50,
        };
        let (mut v4, mut v6) = (vec![0; 6 * room[0]], vec![0; 18 * room[1]]);
        let mut handout = Handout::new(&mut v4, &mut v6);
        let answer = self.tracker.announce_user(Now::at(second), user, &announce, None, &mut handout);
        answer.unwrap();
        handout.v4.used() / 6 + handout.v6.used() / 18
    }

    fn expire(&self, second: u32) {
        PeerExpiry::new(Arc::clone(&self.site.torrents), None).run_round(Now::at(second), &self.policy);
    }

    fn leechers(&self) -> usize {
        self.site.torrents.peers().leechers
    }

    /// Returns what a snapshot would hold; `meanwhile` runs between two locks for one swarm.
    fn snapshot_torrents(&self, mut meanwhile: impl FnMut()) -> Vec<SiteTorrent> {
        let mut all = Vec::new();
        for shard in 0..SHARDS {
            let mut copies = snapshot::TorrentCopier::for_shard(&self.site.torrents, shard);
            while let Some(torrents) = copies.next_torrents(Now::at(0)) {
                all.extend(torrents);
                if copies.unfinished.is_some() {
                    meanwhile();
                }
            }
        }
        all
    }
}

fn peer_id(client: u32) -> PeerId {
    PeerId(format!("-TR2940-{client:012}").into_bytes().try_into().unwrap())
}

#[test]
fn no_lock_is_held_for_a_whole_swarm_of_a_hundred_thousand_peers() {
    let mut test_site = TestSite::new(Policy { peer_inactivity_seconds: 1000, ..Policy::default() });
    lock_cost::take_max();
    for user in 0..100_000 {
        let left = u64::from(user % 3);
        let event = if left == 0 { Event::Completed } else { Event::None };
        // Old ones first, and then half of all again, so that half are silent.
        test_site.announce(user / 100, user, user, left, event);
    }
    assert!(lock_cost::take_max() <= MOST, "an announce");
    assert_eq!(test_site.announce(1000, 7, 7, 0, Event::None), 50);
    assert_eq!(
        test_site.snapshot_torrents(|| {}).iter().map(|torrent| torrent.peers.len()).sum::<usize>(),
        100_000
    );
    assert!(lock_cost::take_max() <= SLICE, "a snapshot");
    assert!(test_site.site.explain(99_999, &HASH).contains("seeder"));
    let peer_counts = test_site.site.torrents.peer_counts();
    assert_eq!((peer_counts.v4_seeders, peer_counts.v4_leechers), (33_335, 66_665));
    let mut rows = Vec::new();
    (0..SHARDS).for_each(|shard| _ = test_site.site.torrents.report_rows(shard, &mut rows));
    assert!(rows.len() == 1 && rows[0].peers.total() == 100_000);
    assert!(lock_cost::take_max() <= SLICE, "a look at one");
    test_site.expire(1500);
    assert_eq!(test_site.site.torrents.peers().seeders + test_site.leechers(), 50_001);
    assert!(lock_cost::take_max() <= SLICE, "an expiry round");
    (0..SHARDS).for_each(|shard| test_site.site.torrents.forget_others(shard, 9));
    assert_eq!((test_site.site.torrents.peers().seeders, test_site.site.torrents.len()), (0, 0));
    assert!(lock_cost::take_max() <= SLICE, "the end of a torrent");
}

/// Adds peers, whose address depends on their number: of a thousand, two are reached over IPv4, three over
/// IPv6, and five over both; the others have a well-known port or, where `other` says so, IPv6 only.
fn fill_with_hidden(test_site: &mut TestSite, peers: u32, other: bool) {
    for number in 0..peers {
        let v4: IpAddr = number.to_be_bytes().into();
        let v6: IpAddr = Ipv6Addr::from(0x2A00 << 112 | u128::from(number)).into();
        let addresses: &[(IpAddr, u16)] = match number % 1000 {
            0 | 1 => &[(v4, 7000)],
            2..5 => &[(v6, 7000)],
            5..10 => &[(v4, 7000), (v6, 7000)],
            _ if other => &[(v6, 7000)],
            _ => &[(v4, 80), (v6, 80)],
        };
        for address in addresses {
            test_site.announce_from(
                1,
                (number, number),
                *address,
                u64::from(number % 2),
                Event::None,
                [0, 0],
            );
        }
    }
}

#[test]
fn a_hand_out_looks_at_no_peer_that_the_requester_cannot_reach() {
    for (other, rooms) in [(false, vec![[50, 0], [0, 50], [50, 50]]), (true, vec![[50, 0]])] {
        let mut test_site = TestSite::new(Policy::default());
        fill_with_hidden(&mut test_site, 20_000, other);
        let peer_counts = test_site.site.torrents.peer_counts();
        assert_eq!(peer_counts.v4_seeders + peer_counts.v4_leechers, if other { 140 } else { 19_940 });
        for room in rooms {
            lock_cost::take_max();
            // A requester that is in the swarm already, and gets all leechers with those addresses but
            // itself.
            let requester = (7, 7);
            let given =
                test_site.announce_from(2, requester, ([0, 0, 0, 7].into(), 7000), 1, Event::None, room);
            let looked = lock_cost::take_max();
            // A peer that is reached over both families is handed out over both.
            let expected = if room == [50, 50] { 50..=100 } else { 50..=50 };
            assert!(
                expected.contains(&given) && looked <= 50 + 2 * 32,
                "{room:?}: {given} given, {looked} looked at"
            );
        }
        // There are few for a seeder: each is looked at once.
        lock_cost::take_max();
        let given = test_site.announce_from(2, (6, 6), ([0, 0, 0, 6].into(), 7000), 0, Event::None, [200, 0]);
        assert_eq!(given, 50);
        assert!(lock_cost::take_max() <= 50 + 32);
    }
}

#[test]
fn peers_change_their_class_with_their_addresses_and_expire_in_each() {
    let mut test_site = TestSite::new(Policy { peer_inactivity_seconds: 1000, ..Policy::default() });
    fill_with_hidden(&mut test_site, 3000, false);
    let all = test_site.site.torrents.peers();
    assert_eq!((all.seeders, all.leechers), (1500, 1500));
    // All come back over IPv4, with a port that may be handed out, and the other address is forgotten.
    let empty = test_site.site.torrents.memory();
    for number in 0..3000_u32 {
        test_site.announce_from(
            900,
            (number, number),
            (number.to_be_bytes().into(), 7000),
            1,
            Event::None,
            [0, 0],
        );
    }
    test_site.expire(1500);
    let peer_counts = test_site.site.torrents.peer_counts();
    assert_eq!((peer_counts.v4_leechers, peer_counts.v6_leechers, peer_counts.v4_seeders), (3000, 0, 0));
    assert!(test_site.site.torrents.memory() < empty, "no columns are kept for a class without peers");
    assert_eq!(
        test_site.snapshot_torrents(|| {}).iter().map(|torrent| torrent.peers.len()).sum::<usize>(),
        3000
    );
    test_site.expire(2000);
    assert_eq!(test_site.leechers(), 0);
}

#[test]
fn a_snapshot_misses_no_peer_that_stays_whatever_others_do_meanwhile() {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let (mut random, test_site) = (fastrand::Rng::with_seed(seed), TestSite::new(Policy::default()));
    let test_site = std::cell::RefCell::new(test_site);
    let mut left = vec![0_u64; 6000];
    for (user, left) in (0..).zip(&mut left) {
        *left = random.u64(..2);
        test_site.borrow_mut().announce(1, user, user, *left, Event::None);
    }
    let (mut gone, mut rounds) = (BTreeSet::new(), 0);
    let site = Arc::clone(&test_site.borrow().site);
    let walker = TestSite::new(Policy::default());
    let walker = TestSite { site, ..walker };
    let copied = walker.snapshot_torrents(|| {
        rounds += 1;
        for _ in 0..300 {
            let user = random.u32(..6000);
            let mut test_site = test_site.borrow_mut();
            if random.u32(..3) == 0 {
                gone.insert(user);
                test_site.announce(2, user, user, 0, Event::Stopped);
            } else if !gone.contains(&user) {
                left[user as usize] ^= 1;
                test_site.announce(2, user, user, left[user as usize], Event::None);
            }
        }
    });
    assert!(rounds >= 5, "{rounds}");
    let [torrent] = &*copied else { panic!("{} torrents", copied.len()) };
    let seen: Vec<u32> = torrent.peers.iter().map(|peer| peer.user).collect();
    let once: BTreeSet<u32> = seen.iter().copied().collect();
    assert_eq!(seen.len(), once.len(), "each once");
    assert!((0..6000).filter(|user| !gone.contains(user)).all(|user| once.contains(&user)));
}

#[test]
fn a_snapshot_of_a_small_site_takes_no_pause_that_it_has_not_worked_for() {
    let mut test_site = TestSite::new(Policy::default());
    (0..200).for_each(|user| _ = test_site.announce(1, user, user, 1, Event::None));
    let (clock, stopping) = (Clock::start(), AtomicBool::new(false));
    let queues = Arc::new(Queues::new(clock, &Bounds::default()));
    let mut to = SnapshotWriter::new(Vec::new(), 1_700_000_000).unwrap();
    SHORTEST.set(Duration::MAX);
    let mut section = snapshot::SiteSection::new(Arc::clone(&test_site.site), queues);
    let written = section.write(&mut to, &mut Pace::in_background(&clock, &stopping)).unwrap();
    assert_eq!(written, 200);
    assert!(SHORTEST.get() >= PAUSE_AFTER, "a pause after {:?}", SHORTEST.get());
}

#[test]
fn a_user_has_so_many_peers_at_one_torrent_and_no_more() {
    // In a small swarm, which is searched, and in a large one, which has an index.
    for others in [0, 2000] {
        let mut test_site = TestSite::new(Policy::default());
        (0..others).for_each(|other| _ = test_site.announce(0, 1000 + other, other, 1, Event::None));
        let most = u32::try_from(super::peer::SESSIONS_MAX).unwrap();
        for client in 0..most + 4 {
            test_site.announce(10 + client, 7, client, 1, Event::None);
            // The first session goes on.
            test_site.announce(10 + client, 7, 0, 1, Event::None);
        }
        assert_eq!(test_site.leechers(), (others + most) as usize);
        assert_eq!(test_site.site.torrents.replaced_total(), 4);
        let explanation = test_site.site.explain(7, &HASH);
        for client in 0..most + 4 {
            let there = explanation.contains(&format!("{:?}", peer_id(client)));
            assert_eq!(there, client == 0 || client > 4, "client {client} beside {others}");
        }
    }
}

#[test]
fn beyond_the_memory_budget_nobody_new_comes_in_and_everybody_there_goes_on() {
    let empty = TestSite::new(Policy::default()).site.torrents.memory();
    let memory_max = (empty + 200_000) as u64;
    let mut test_site = TestSite::new(Policy { memory_max, ..Policy::default() });
    (0..5000).for_each(|user| _ = test_site.announce(1, user, user, 1, Event::None));
    let (leechers, full) = (test_site.leechers(), test_site.site.torrents.full_total());
    assert!(leechers > 500 && leechers < 2500, "{leechers}");
    assert_eq!(full, 5000 - leechers as u64);
    assert_eq!(test_site.announce(2, 4999, 4999, 1, Event::None), 0, "a new user for whom there is no room");
    assert_eq!(test_site.announce(2, 7, 7, 1, Event::None), 50, "a user who is there");
    (0..5000).for_each(|user| _ = test_site.announce(3, user, user, 1, Event::Stopped));
    assert_eq!(test_site.leechers(), 0);
    assert!(test_site.announce(4, 4999, 4999, 1, Event::None) == 0 && test_site.leechers() == 1);
}

#[test]
fn the_metrics_of_swarms_are_those_of_the_site() {
    let mut test_site = TestSite::new(Policy::default());
    (0..13).for_each(|user| _ = test_site.announce(1, user, user, u64::from(user < 6), Event::None));
    let board = Board::default();
    TorrentSource::Site(Arc::clone(&test_site.site.torrents)).register_metrics(&board);
    let readings = board.read_series();
    let shown = |name: &str| -> Vec<u64> {
        readings.iter().filter(|reading| reading.name == name).map(|reading| reading.value).collect()
    };
    assert_eq!(shown("storage_seeders_count"), [7]);
    assert_eq!(shown("storage_leechers_count"), [6]);
    assert_eq!(shown("swarm_peers").into_iter().sum::<u64>(), 13);
    assert_eq!(
        (shown("swarms"), shown("storage_infohashes_count"), shown("swarms_idle")),
        (vec![1], vec![1], vec![0])
    );
    assert!(shown("swarms_memory_bytes")[0] > 13 * 100);
}
