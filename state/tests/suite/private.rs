//! Mode private: peers of users, their choice, expiry, snapshot. Accounting has its own test in
//! `state/tests/stores/ledger/`.

mod believed;
#[path = "private/clocks.rs"]
mod clocks;
#[path = "../../../tests/kit/fixtures/site.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod fixture;
mod last_action;
mod unreached;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use hayate_state::private::snapshot::{SiteRestore, SiteSection};
use hayate_state::private::{PeerExpiry, Site, Users};
use hayate_state::snapshot::load::{LoadOutcome, load_snapshot};
use hayate_state::snapshot::site::{Multipliers, UserAccount};
use hayate_state::snapshot::thread::{Ending, SnapshotPlan, SnapshotThread};
use hayate_state::store::record::{SnatchRow, TorrentRow, TransferRow, UserRow};
use hayate_state::store::{Bounds, Queues, Record};
use hayate_state::{
    Announce, Clock, Event, Handout, InfoHash, Now, PeerId, Policy, Published, Swarms, Tally, Tracker,
};

use crate::recording_store::{Recorded, records_of};
use crate::selection::chi_square_limit;

const USERS: u32 = 600;
const INACTIVITY: u32 = 1000;

struct TestSite {
    site: Arc<Site>,
    tracker: Tracker,
}

/// The answer to an announce.
struct Answered {
    tally: Tally,
    v4: Vec<u16>,
    v6: Vec<u16>,
}

impl TestSite {
    /// The fixture's torrents, and users enough for a swarm.
    fn new() -> Self {
        let site = fixture::site();
        let mut users = Users::default();
        for id in 1..=USERS {
            let (passkey, multipliers) = (id.to_string().into_bytes().into(), Multipliers::default());
            users.insert(&UserAccount {
                passkey,
                id,
                disable_download: false,
                tracker_hide: false,
                multipliers,
            });
        }
        site.update(|site_data| site_data.users = Arc::new(users));
        Self::with_site(site)
    }

    fn with_site(site: Arc<Site>) -> Self {
        Self::seeded(site, 7)
    }

    fn with_queues(self, records: Arc<Queues>) -> Self {
        Self { tracker: self.tracker.with_queues(records), ..self }
    }

    /// Equal seeds choose equal peers.
    fn seeded(site: Arc<Site>, seed: u64) -> Self {
        let policy = Policy { peer_inactivity_seconds: INACTIVITY, ..Policy::default() };
        let tracker =
            Tracker::new(Swarms::new(0), &Published::new(policy), seed).with_site(Arc::clone(&site));
        Self { site, tracker }
    }

    fn announce(&mut self, second: u32, user: u32, announce: &Announce) -> Answered {
        let user = self.tracker.find_user(user.to_string().as_bytes()).unwrap();
        let (mut v4, mut v6) = ([0; 6 * 700], [0; 18 * 700]);
        let mut handout = Handout::new(&mut v4, &mut v6);
        let answer = self.tracker.announce_user(Now::at(second), user, announce, None, &mut handout).unwrap();
        let (used_v4, used_v6) = (handout.v4.used(), handout.v6.used());
        let port = |peer: &[u8]| u16::from_be_bytes(peer[peer.len() - 2..].try_into().unwrap());
        Answered {
            tally: answer.tally,
            v4: v4[..used_v4].chunks(6).map(port).collect(),
            v6: v6[..used_v6].chunks(18).map(port).collect(),
        }
    }

    /// User 600 seeds, and requests `wanted` leechers over and over: chi-square over the peers that may be
    /// handed out, whose port is their number plus 2000.
    fn assert_uniform(&mut self, name: &str, shown: &[u32], wanted: u16) {
        let peers = f64::from(u32::try_from(shown.len()).unwrap());
        let wanted = wanted.min(u16::try_from(shown.len()).unwrap());
        let mut counts: BTreeMap<u16, u32> =
            shown.iter().map(|number| (2000 + u16::try_from(*number).unwrap(), 0)).collect();
        let rounds = 20_000;
        for _ in 0..rounds {
            let given = self.announce(1, 600, &wanting(seeder(999, 9000), wanted)).v4;
            assert_eq!(given.len(), usize::from(wanted), "{name}");
            given.iter().for_each(|port| *counts.get_mut(port).unwrap() += 1);
        }
        let wanted = f64::from(wanted);
        let expected = f64::from(rounds) * wanted / peers;
        let distance = |count: u32| (f64::from(count) - expected).powi(2) / expected;
        let chi_square: f64 = counts.values().map(|count| distance(*count)).sum();
        // Those of one hand-out are neighbours, in some order of the peers: then the mean is
        // `peers - wanted`, and the variance so much larger than that of single draws.
        let (mean, variance) = (peers - wanted, 2.0 * peers * (2.0 * wanted * wanted + 1.0) / (3.0 * wanted));
        let limit = chi_square_limit(mean, variance);
        assert!(chi_square < limit, "{name}, {wanted} wanted: {chi_square}, limit {limit}");
    }

    fn expire(&self, second: u32) {
        let policy = Policy { peer_inactivity_seconds: INACTIVITY, ..Policy::default() };
        PeerExpiry::new(Arc::clone(&self.site.torrents), None).run_round(Now::at(second), &policy);
    }
}

/// A leecher of torrent 3; its port tells it from others.
fn peer(number: u32, port: u16) -> Announce {
    Announce {
        info_hash: InfoHash(fixture::FREE),
        peer_id: PeerId(format!("-TR2940-{number:012}").into_bytes().try_into().unwrap()),
        address: [45, 0, 0, 7].into(),
        port,
        uploaded: 0,
        downloaded: 0,
        left: 9,
        event: Event::None,
        num_want: 0,
    }
}

fn seeder(number: u32, port: u16) -> Announce {
    Announce { left: 0, ..peer(number, port) }
}

fn over_v6(announce: Announce) -> Announce {
    Announce { address: "2001:db8::7".parse().unwrap(), ..announce }
}

fn wanting(announce: Announce, num_want: u16) -> Announce {
    Announce { num_want, ..announce }
}

#[test]
fn one_client_over_both_families_is_one_peer_until_one_of_them_is_not_heard_of() {
    let mut test_site = TestSite::new();
    test_site.announce(0, 1, &seeder(1, 2001));
    let given = test_site.announce(1, 1, &over_v6(seeder(1, 2001)));
    assert_eq!((given.tally.seeders, given.tally.leechers), (1, 0));
    let given = test_site.announce(2, 2, &wanting(peer(2, 2002), 1));
    assert_eq!((given.v4, given.v6), (vec![2001], vec![2001]), "num_want counts peers");
    test_site.announce(INACTIVITY + 1, 1, &over_v6(seeder(1, 2001)));
    test_site.expire(INACTIVITY + 1);
    let given = test_site.announce(INACTIVITY + 2, 2, &wanting(peer(2, 2002), 9));
    assert_eq!((given.v4, given.v6, given.tally.seeders), (vec![], vec![2001], 1));
}

#[test]
fn seeders_get_leechers_and_leechers_one_seeder_of_each_user_first() {
    let mut test_site = TestSite::new();
    for (user, announce) in [
        (1, seeder(1, 2001)),
        (1, seeder(2, 2002)),
        (2, seeder(3, 2003)),
        (3, peer(4, 2004)),
        (3, peer(5, 2005)),
        (4, peer(6, 2006)),
        (5, seeder(7, 1023)),
    ] {
        test_site.announce(0, user, &announce);
    }
    let sorted = |mut ports: Vec<u16>| {
        ports.sort_unstable();
        ports
    };
    for _ in 0..20 {
        // A well-known port is never handed out, nor are peers of the same user.
        let leecher = sorted(test_site.announce(1, 4, &wanting(peer(6, 2006), 50)).v4);
        assert!(leecher == [2001, 2003, 2004, 2005] || leecher == [2002, 2003, 2004, 2005], "{leecher:?}");
        let few = sorted(test_site.announce(1, 4, &wanting(peer(6, 2006), 2)).v4);
        assert!(few == [2001, 2003] || few == [2002, 2003], "seeders first: {few:?}");
        let seeds = sorted(test_site.announce(1, 1, &wanting(seeder(1, 2001), 50)).v4);
        assert_eq!(seeds, [2004, 2005, 2006]);
        let own = sorted(test_site.announce(1, 3, &wanting(peer(4, 2004), 50)).v4);
        assert!(own.ends_with(&[2003, 2006]) && own.len() == 3, "{own:?}");
    }
    assert!(
        test_site
            .announce(1, 4, &wanting(Announce { event: Event::Stopped, ..peer(6, 2006) }, 50))
            .v4
            .is_empty()
    );
}

#[test]
fn every_peer_of_a_large_swarm_is_as_likely_as_any_other() {
    let mut test_site = TestSite::new();
    for user in 1..=500 {
        test_site.announce(0, user, &peer(user, 2000 + u16::try_from(user).unwrap()));
    }
    let (rounds, wanted) = (4000, 30);
    let mut counts = BTreeMap::<u16, u32>::new();
    for _ in 0..rounds {
        let given = test_site.announce(1, 600, &wanting(seeder(600, 9000), wanted)).v4;
        assert_eq!(given.len(), usize::from(wanted));
        given.into_iter().for_each(|port| *counts.entry(port).or_default() += 1);
    }
    let expected = f64::from(rounds * u32::from(wanted)) / 500.0;
    let distance = |count: u32| (f64::from(count) - expected).powi(2) / expected;
    let chi_square: f64 = counts.values().map(|count| distance(*count)).sum();
    // Peers of one hand-out may be neighbours, so the spread is up to that of 30 in a row.
    let limit = chi_square_limit(470.0, 20_000.0);
    assert!(counts.len() == 500 && chi_square < limit, "{chi_square}, limit {limit}");
}

/// `rules/private.md#peer-selection`: well-known ports and the requester's own peers are never handed out.
#[test]
fn every_peer_that_may_be_handed_out_is_as_likely_as_any_other() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut drawn = fastrand::Rng::with_seed(seed);
    let mut order: Vec<u32> = (0..625).collect();
    drawn.shuffle(&mut order);
    let scattered: BTreeSet<u32> = order.into_iter().take(125).collect();
    // Of 625 peers 125 are hidden, of 211 and of 7 more than half.
    type Hides<'a> = &'a dyn Fn(u32) -> bool;
    let layouts: [(&str, u32, Hides<'_>); 7] = [
        ("scattered", 625, &|number| scattered.contains(&number)),
        ("every fifth", 625, &|number| number % 5 == 0),
        ("25 at a time", 625, &|number| number / 25 % 5 == 2),
        ("at the start", 625, &|number| number < 125),
        ("over a border of quarters", 625, &|number| (100..225).contains(&number)),
        ("most of them", 211, &|number| number % 40 > 9),
        ("few are there", 7, &|number| number < 4),
    ];
    for (name, peers, hides) in layouts {
        let mut test_site = TestSite::seeded(TestSite::new().site, drawn.u64(..));
        for number in 0..peers {
            // One in two of the hidden has a well-known port, the others belong to the requester.
            let (user, port) = match (hides(number), number % 2) {
                (false, _) => (1 + number % 500, 2000 + number),
                (true, 0) => (1 + number % 500, 80),
                (true, _) => (600, 2000 + number),
            };
            test_site.announce(0, user, &peer(number, u16::try_from(port).unwrap()));
        }
        let shown: Vec<u32> = (0..peers).filter(|number| !hides(*number)).collect();
        for wanted in [1, 2, 4, 30] {
            test_site.assert_uniform(name, &shown, wanted);
        }
    }
}

#[test]
fn a_swarm_that_grows_and_shrinks_finds_every_peer() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut test_site, mut known) = (TestSite::new(), BTreeMap::<(u32, u32), bool>::new());
    for step in 0..20_000 {
        // Up to some two hundred peers, and back to a few, again and again.
        let (user, number) = (random.u32(1..=70), random.u32(1..=3));
        let (seeds, grows) = (random.bool(), step / 2500 % 2 == 0);
        let stops = random.u8(..10) < if grows { 2 } else { 8 };
        let announce = if seeds { seeder(number, 2000) } else { peer(number, 2000) };
        let event = if stops { Event::Stopped } else { Event::None };
        let tally = test_site.announce(0, user, &Announce { event, ..announce }).tally;
        if stops {
            known.remove(&(user, number));
        } else {
            known.insert((user, number), seeds);
        }
        let seeders = known.values().filter(|seeds| **seeds).count();
        let expected = (seeders, known.len() - seeders);
        assert_eq!((tally.seeders as usize, tally.leechers as usize), expected, "step {step}");
    }
}

#[test]
fn peers_that_were_silent_for_longer_expire() {
    let mut test_site = TestSite::new();
    test_site.announce(0, 1, &seeder(1, 2001));
    test_site.announce(1, 2, &peer(2, 2002));
    test_site.expire(INACTIVITY);
    assert_eq!(test_site.site.torrents.peers().seeders, 1, "just in time");
    test_site.expire(INACTIVITY + 1);
    let peers = test_site.site.torrents.peers();
    assert_eq!((peers.seeders, peers.leechers), (0, 1));
    test_site.expire(INACTIVITY + 2);
    assert_eq!(test_site.site.torrents.peers().leechers, 0);
}

#[test]
fn a_snapshot_brings_peers_back_with_both_addresses() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache");
    let mut test_site = TestSite::new();
    for user in 1..=100 {
        let announce = if user % 3 == 0 { seeder(user, 2000) } else { peer(user, 2000) };
        test_site.announce(0, user, &announce);
        test_site.announce(1, user, &over_v6(announce));
    }
    let clock = Clock::start();
    let queues = Arc::new(Queues::new(clock, &Bounds::default()));
    let section = SiteSection::new(Arc::clone(&test_site.site), queues);
    let plan = SnapshotPlan {
        path: path.clone(),
        every_seconds: Arc::new(AtomicU32::new(0)),
        swarms: Swarms::new(0),
        sections: vec![Box::new(section)],
    };
    SnapshotThread::start(plan, clock).unwrap().stop(Ending::Write);
    let site = Site::new();
    site.site_data.publish((*test_site.site.site_data.current()).clone());
    let mut restore = SiteRestore::new(&site.torrents, Now::at(0));
    assert!(matches!(load_snapshot(&path, &clock, &mut [&mut restore]), LoadOutcome::Restored));
    let mut again = TestSite::with_site(Arc::clone(&site));
    let (before, after) = (test_site.site.torrents.peers(), site.torrents.peers());
    assert_eq!((before, site.torrents.len()), (after, 3));
    let given = again.announce(2, 500, &wanting(peer(500, 3000), 600));
    assert_eq!((given.v4.len(), given.v6.len()), (100, 100));
    // A peer that announces again is known.
    assert_eq!(again.announce(2, 7, &peer(7, 2000)).tally, given.tally);
}

/// Returns the records that `work` puts for user 1, and for the one torrent.
fn recorded_by(work: impl FnOnce(&mut TestSite)) -> Recorded {
    let mut recorded = Recorded::default();
    for record in records_of(|queues| work(&mut TestSite::new().with_queues(queues))) {
        match record {
            Record::Torrent(row) => recorded.torrent = Some(row),
            Record::User(row) if row.id == 1 => recorded.user = Some(row),
            Record::Transfer(row) if row.uid == 1 => recorded.transfer = Some(row),
            Record::Snatch(row) if row.uid == 1 => recorded.snatch = Some(row),
            _ => {}
        }
    }
    recorded
}

/// Unix seconds of a second of virtual time.
fn unix(second: u32) -> i64 {
    i64::try_from(Now::at(second).unix_seconds).unwrap()
}

/// An announce with these amounts uploaded and downloaded.
fn having(announce: Announce, uploaded: u64, downloaded: u64) -> Announce {
    Announce { uploaded, downloaded, ..announce }
}

fn completing(announce: Announce) -> Announce {
    Announce { event: Event::Completed, ..announce }
}

fn stopping(announce: Announce) -> Announce {
    Announce { event: Event::Stopped, ..announce }
}

/// `rules/private-accounting.md#snatches`.
#[test]
fn completed_counts_once_and_every_delta_counts() {
    let recorded = recorded_by(|test_site| {
        test_site.announce(0, 1, &having(peer(1, 2001), 1000, 500));
        for (second, announce) in [
            (7, completing(having(seeder(1, 2001), 1003, 511))),
            (20, completing(having(seeder(1, 2001), 1008, 511))),
            (37, completing(having(peer(1, 2001), 1015, 528))),
        ] {
            let tally = test_site.announce(second, 1, &announce).tally;
            // The count of the answer is that of the last reload (`rules/private.md#success`).
            let seeds = u32::from(announce.left == 0);
            assert_eq!((tally.seeders, tally.leechers, tally.completed), (seeds, 1 - seeds, 0));
        }
    });
    let torrent = TorrentRow {
        id: 3,
        snatched: 1,
        seeders: 0,
        leechers: 1,
        last_action: unix(20),
        unprune: false,
        has_counts: true,
    };
    assert_eq!(recorded.torrent, Some(torrent));
    // Torrent 3 is freeleech, and what is uploaded counts twice.
    assert_eq!(recorded.user, Some(UserRow { id: 1, uploaded: 30, downloaded: 0, raw_up: 15, raw_down: 28 }));
    let transfer = TransferRow {
        uid: 1,
        fid: 3,
        raw_up: 15,
        raw_down: 28,
        seeding: false,
        start_time: unix(0),
        last_announce: unix(37),
        active_time: 37,
        // The last interval of a seeder that is a leecher again is none of seeding.
        seed_time: 20,
        active: true,
        snatched: 1,
        remaining: 9,
    };
    assert_eq!(recorded.transfer, Some(transfer));
    assert_eq!(recorded.snatch, Some(SnatchRow { uid: 1, fid: 3, time: unix(7), start_time: unix(0) }));
}

/// `rules/private-accounting.md#snatches`: an unknown peer counts too, but not where its user seeds; a peer
/// that merely has become a seeder does not.
#[test]
fn a_snatch_takes_the_event_and_a_user_who_did_not_seed() {
    let silent = recorded_by(|test_site| {
        test_site.announce(0, 1, &peer(1, 2001));
        test_site.announce(1, 1, &seeder(1, 2001));
    });
    assert_eq!((silent.torrent.unwrap().snatched, silent.snatch), (0, None));
    let late = recorded_by(|test_site| {
        test_site.announce(0, 1, &peer(1, 2001));
        test_site.announce(1, 1, &seeder(2, 2002));
        test_site.announce(2, 1, &completing(seeder(1, 2001)));
    });
    assert_eq!((late.torrent.unwrap().snatched, late.snatch), (0, None), "the user seeds by another client");
    let unknown = recorded_by(|test_site| {
        test_site.announce(0, 2, &seeder(1, 2001));
        test_site.announce(1, 1, &completing(seeder(2, 2002)));
    });
    assert_eq!((unknown.torrent.unwrap().snatched, unknown.snatch.unwrap().time), (1, unix(1)));
}

/// `rules/private.md#peer-roles`, and back again.
#[test]
fn a_seeder_that_becomes_a_leecher_keeps_its_totals() {
    let recorded = recorded_by(|test_site| {
        test_site.announce(0, 1, &having(seeder(1, 2001), 1000, 500));
        let tally = test_site.announce(13, 1, &having(peer(1, 2001), 1007, 511)).tally;
        assert_eq!((tally.seeders, tally.leechers), (0, 1), "no ghost of a seeder");
        let text = test_site.site.explain(1, &InfoHash(fixture::FREE));
        assert!(text.contains("\n2023-11-14T22:13:33Z accepted: leecher "), "{text}");
        assert!(text.contains(" at 45.0.0.7:2001, client 1, since 2023-11-14T22:13:20Z, "), "{text}");
        assert!(text.contains("totals up 1007 down 511 left 9;"), "{text}");
        assert!(
            text.ends_with("last announce: up 7 credited 14, down 11 credited 0, 13 s active\n"),
            "{text}"
        );
        let tally = test_site.announce(30, 1, &having(seeder(1, 2001), 1020, 528)).tally;
        assert_eq!((tally.seeders, tally.leechers), (1, 0));
    });
    let transfer = recorded.transfer.unwrap();
    assert_eq!((transfer.raw_up, transfer.raw_down, transfer.start_time), (20, 28, unix(0)));
    // The interval that ends with all of it is one of seeding (`rules/private-accounting.md#time`).
    assert_eq!((transfer.active_time, transfer.seed_time, transfer.seeding), (30, 17, true));
}

/// `rules/private.md#stopped-peers`: it is made and removed at once: rows are queued, but without amounts.
#[test]
fn stopped_of_an_unknown_peer_is_answered_and_leaves_nobody() {
    let recorded = recorded_by(|test_site| {
        test_site.announce(0, 2, &wanting(seeder(2, 2002), 50));
        test_site.announce(0, 3, &wanting(peer(3, 2003), 50));
        for left in [0, 9] {
            let unknown = having(Announce { left, ..peer(1, 2001) }, 1000, 500);
            let given = test_site.announce(7, 1, &wanting(stopping(unknown), 50));
            assert_eq!((given.tally.seeders, given.tally.leechers), (1, 1));
            assert!(given.v4.is_empty() && given.v6.is_empty());
            let peers = test_site.site.torrents.peers();
            assert_eq!((peers.seeders, peers.leechers), (1, 1));
            let text = test_site.site.explain(1, &InfoHash(fixture::FREE));
            assert!(text.contains("no peer of this user in the swarm"), "{text}");
        }
        let mut handed = test_site.announce(8, 4, &wanting(peer(4, 2004), 50)).v4;
        handed.sort_unstable();
        assert_eq!(handed, [2002, 2003]);
    });
    let transfer = recorded.transfer.unwrap();
    assert_eq!((transfer.raw_up, transfer.raw_down, transfer.active_time), (0, 0, 0));
    assert_eq!((transfer.start_time, transfer.active, transfer.remaining), (unix(7), false, 9));
    assert_eq!((recorded.user, recorded.snatch, recorded.torrent.unwrap().snatched), (None, None, 0));
}

#[test]
fn a_peer_that_stopped_as_a_stranger_starts_without_deltas() {
    let recorded = recorded_by(|test_site| {
        test_site.announce(0, 1, &stopping(having(peer(1, 2001), 1000, 500)));
        assert_eq!(test_site.site.torrents.peers().leechers, 0);
        test_site.announce(9, 1, &having(peer(1, 2001), 1300, 700));
    });
    let transfer = recorded.transfer.unwrap();
    assert_eq!((recorded.user, transfer.raw_up, transfer.raw_down, transfer.active_time), (None, 0, 0, 0));
}
