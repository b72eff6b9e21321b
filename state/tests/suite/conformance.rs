//! What swarms must do by `rules/swarms.md`, as a list of steps, once for each family: `p` watches, `c` comes
//! and goes. Each step is a test of its own here.
//!
//! The rest of that list is tested elsewhere, for both families unless noted:
//! - limits of numwant: `model::swarms_do_what_a_naive_model_does`, which wants 0 to 200 peers
//! - no client is handed itself: the same, and
//!   `selection::no_client_is_handed_itself_nor_where_ids_are_kept_its_other_address`
//! - bounds of expiry: `limits::peers_live_for_their_lifetime_and_not_a_sweep_longer`, IPv4; IPv6 is here
//! - both families of one hash: counts in the model; which family goes first is here
//! - randomness: `selection::single_draws_from_a_plain_swarm_are_uniform`, IPv4; IPv6 is here
//! - concurrent announces: `threads::workers_and_a_sweep_at_once_leave_true_counts_and_no_memory`
//! - counters equal to a naive model: the model
//! - a store that stops without an error: `threads::the_actor_counts_slices_and_ends_with_its_last_inbox`

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use hayate_state::{Announce, Event, Policy, Tally, Tick};

use crate::selection::Draws;
use crate::test_tracker::{TestTracker, announce_from};

const TORRENT: u64 = 1;
const V4: fn(u8) -> IpAddr = |host| [45, 0, 0, host].into();
const V6: fn(u8) -> IpAddr = |host| [0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(host)].into();

/// A tracker, and two peers of one family that are in none of its swarms yet.
struct Stage {
    tracker: TestTracker,
    p: Announce,
    c: Announce,
}

/// Runs `check` on an empty tracker once for each family, and again with ids kept, which changes how peers
/// lie in memory.
fn once_per_family(check: impl Fn(&mut Stage)) {
    for (name, address) in [("IPv4", V4), ("IPv6", V6)] {
        for keep_peer_ids in [false, true] {
            println!("{name}, keep_peer_ids {keep_peer_ids}");
            let tracker = TestTracker::new(Policy { keep_peer_ids, ..Policy::default() }, 0, 7);
            let peer = |host, id| Announce {
                peer_id: hayate_state::PeerId([id; 20]),
                ..announce_from(TORRENT, address(host), 6880 + u16::from(host), 9)
            };
            check(&mut Stage { tracker, p: peer(7, b'p'), c: peer(11, b'c') });
        }
    }
}

impl Stage {
    /// Returns the peers that an announce is handed. It is never refused.
    fn announce(&mut self, announce: Announce) -> Vec<(IpAddr, u16)> {
        self.tracker.announce(&announce).unwrap().1
    }

    fn p_seeds(&mut self) -> Vec<(IpAddr, u16)> {
        self.announce(Announce { left: 0, ..self.p })
    }

    fn p_leeches(&mut self) -> Vec<(IpAddr, u16)> {
        self.announce(self.p)
    }

    fn stop(&mut self, peer: Announce) {
        assert_eq!(self.announce(Announce { event: Event::Stopped, ..peer }), []);
    }

    /// Returns the peer as it is handed out.
    fn c(&self) -> (IpAddr, u16) {
        (self.c.address, self.c.port)
    }

    /// Returns seeders, leechers, completed downloads.
    fn assert_scrape(&self, seeders: u32, leechers: u32, completed: u32) {
        assert_eq!(self.tracker.tally(TORRENT), Tally { seeders, leechers, completed, paused: 0 });
    }
}

#[test]
fn step_1_who_is_not_there_may_leave_and_nobody_is_handed_out() {
    once_per_family(|stage| {
        stage.stop(stage.c);
        stage.stop(stage.p);
        stage.assert_scrape(0, 0, 0);
        assert_eq!((stage.tracker.swarms.live(), stage.tracker.swarms.idle()), (0, 0));
    });
}

#[test]
fn step_2_a_lone_leecher_is_counted_and_handed_nobody() {
    once_per_family(|stage| {
        assert_eq!(stage.p_leeches(), []);
        stage.assert_scrape(0, 1, 0);
        assert_eq!(stage.p_leeches(), [], "not even itself");
        stage.assert_scrape(0, 1, 0);
    });
}

#[test]
fn step_3_a_leecher_is_seen_by_seeders_and_by_leechers_until_it_leaves() {
    once_per_family(|stage| {
        stage.p_leeches();
        stage.announce(stage.c);
        assert_eq!(stage.p_seeds(), [stage.c()]);
        stage.assert_scrape(1, 1, 0);
        assert_eq!(stage.p_leeches(), [stage.c()]);
        stage.assert_scrape(0, 2, 0);
        stage.stop(stage.c);
        assert_eq!((stage.p_seeds(), stage.p_leeches()), (vec![], vec![]));
        stage.assert_scrape(0, 1, 0);
    });
}

#[test]
fn step_4_a_seeder_is_seen_by_leechers_until_it_leaves() {
    once_per_family(|stage| {
        let seeding = Announce { left: 0, ..stage.c };
        assert_eq!(stage.announce(seeding), []);
        assert_eq!(stage.p_leeches(), [stage.c()]);
        stage.assert_scrape(1, 1, 0);
        assert_eq!(stage.p_seeds(), []);
        stage.assert_scrape(2, 0, 0);
        // `rules/swarms.md#selection`: a client with only the magnet link says the same.
        assert_eq!(stage.announce(Announce { left: 0, event: Event::Started, ..stage.p }), [stage.c()]);
        stage.p_leeches();
        stage.stop(seeding);
        assert_eq!(stage.p_leeches(), []);
        stage.assert_scrape(0, 1, 0);
    });
}

#[test]
fn step_5_a_leecher_that_completes_is_a_seeder_and_one_download() {
    once_per_family(|stage| {
        stage.p_leeches();
        stage.announce(stage.c);
        // `rules/swarms.md#completed-count`: with something missing it is a regular announce.
        let completed = |left| Announce { event: Event::Completed, left, ..stage.c };
        let (early, done) = (completed(9), completed(0));
        stage.announce(early);
        stage.assert_scrape(0, 2, 0);
        for _ in 0..3 {
            stage.announce(done);
            assert_eq!(stage.p_leeches(), [stage.c()]);
            stage.assert_scrape(1, 1, 1);
            assert_eq!(stage.p_seeds(), [], "it is a leecher no more");
            stage.p_leeches();
        }
        stage.announce(Announce { left: 0, ..stage.c });
        stage.assert_scrape(1, 1, 1);
        // A peer that becomes a seeder silently is no download; one that is new and has completed is.
        stage.p_seeds();
        stage.assert_scrape(2, 0, 1);
        stage.stop(stage.p);
        stage.announce(Announce { event: Event::Completed, left: 0, ..stage.p });
        stage.assert_scrape(2, 0, 2);
    });
}

#[test]
fn step_6_leaving_again_changes_nothing_and_the_download_is_remembered() {
    once_per_family(|stage| {
        stage.p_leeches();
        stage.announce(Announce { event: Event::Completed, left: 0, ..stage.c });
        for _ in 0..2 {
            stage.stop(stage.p);
            stage.assert_scrape(1, 0, 1);
        }
        for _ in 0..2 {
            // A peer may leave with another `left` than it came with.
            stage.stop(stage.c);
            stage.assert_scrape(0, 0, 1);
        }
        assert_eq!((stage.tracker.swarms.live(), stage.tracker.swarms.idle()), (0, 1));
        assert_eq!(stage.tracker.swarms.peer_counts().total(), 0);
    });
}

#[test]
fn the_own_family_goes_first_and_the_other_fills_up() {
    for (own, other) in [(V4, V6), (V6, V4)] {
        let mut tracker = TestTracker::new(Policy::default(), 0, 7);
        for host in 1..=5 {
            tracker.announce(&announce_from(TORRENT, own(host), 6881, 9)).unwrap();
            tracker.announce(&announce_from(TORRENT, other(host), 6881, 9)).unwrap();
        }
        for (num_want, both) in [(3, (3, 0)), (5, (5, 0)), (7, (5, 2)), (11, (5, 5))] {
            let requester = Announce { num_want, ..announce_from(TORRENT, own(100), 6881, 0) };
            let (answer, peers) = tracker.announce(&requester).unwrap();
            let of_own = peers.iter().filter(|peer| peer.0.is_ipv4() == own(1).is_ipv4()).count();
            assert_eq!((of_own, peers.len() - of_own), both, "{num_want} wanted");
            assert_eq!((answer.tally.seeders, answer.tally.leechers), (1, 10));
        }
    }
}

#[test]
fn peers_of_ipv6_live_for_their_lifetime_and_not_a_sweep_longer() {
    let policy = Policy { peer_inactivity_seconds: 600, purge_seconds: 60, ..Policy::default() };
    let mut tracker = TestTracker::new(policy, 0, 7);
    for number in 0..3000 {
        let peer = announce_from(u64::from(number % 7), public_v6(number), 6881, u64::from(number % 2));
        tracker.announce(&Announce { num_want: 0, ..peer }).unwrap();
    }
    tracker.now += 600;
    tracker.sweep();
    let counts = tracker.swarms.peer_counts();
    assert_eq!((counts.v6_seeders, counts.v6_leechers), (1500, 1500));
    // The slices of one sweep, as the actor does them.
    tracker.now += 1;
    let policy = tracker.policy.current();
    for _ in 0..600 {
        tracker.sweeper.advance(Tick(tracker.now), &policy, Duration::from_millis(100));
    }
    assert_eq!((tracker.swarms.peer_counts().total(), tracker.swarms.live()), (0, 0));
}

#[test]
fn single_draws_from_a_swarm_of_ipv6_are_uniform() {
    let peer = |number| announce_from(TORRENT, public_v6(number), 6881, u64::from(number % 3));
    for peers in [5, 20, 1000] {
        let requester = announce_from(TORRENT, public_v6(0xffff_ffff), 7001, 9);
        Draws::new((0..peers).map(peer), requester).assert_uniform_single_draws(peers);
    }
}

fn public_v6(number: u32) -> Ipv6Addr {
    let [high, low] = [number >> 16, number & 0xffff].map(|half| u16::try_from(half).unwrap());
    [0x2001, 0xdb8, 0, 0, 0, 0, high, low].into()
}
