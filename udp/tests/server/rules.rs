//! The engine against `rules/udp.md`, in virtual time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hayate_state::Policy;
use hayate_state::admission::access::{Access, TorrentList};
use hayate_state::admission::hooks::{AnnounceVisit, Hook, Hooks, ScrapeVisit, Verdict};
use hayate_state::admission::rate_limit::{RateLimit, RateLimiter};
use hayate_state::admission::{OverLimitAction, RateLimitRule};
use hayate_udp::dropped::ErrorReason;
use hayate_udp::{Dropped, UdpConfig};

use crate::kit::*;

#[test]
fn a_connect_is_answered_with_sixteen_octets_whatever_its_length() {
    let mut harness = Harness::open();
    let id = harness.connect("192.0.2.7:6881");
    assert_eq!(id, 0x2031_587d_0963_897a_u64.to_be_bytes(), "rules/udp.md#connection-id");
    let longer = [&CONNECT[..], &[0; 32]].concat();
    assert_eq!(harness.send("192.0.2.7:6881", &longer).unwrap().len(), 16);
}

#[test]
fn what_is_no_request_is_silence() {
    let mut harness = Harness::open();
    let id = harness.connect("192.0.2.7:6881");
    let with_id = |action: u32| [&id[..], &action.to_be_bytes(), &TRANSACTION].concat();
    let magic_announce = TestAnnounce::leecher(6881).datagram(CONNECT[..8].try_into().unwrap());
    let mut wrong_magic = CONNECT;
    wrong_magic[7] ^= 1;
    for (datagram, refusal) in [
        (&[][..], Dropped::Short),
        (&CONNECT[..15], Dropped::Short),
        (&wrong_magic, Dropped::NotAConnect),
        (&with_id(0), Dropped::NotAConnect),
        (&with_id(3), Dropped::ErrorReply),
        (&magic_announce, Dropped::ForgedConnection),
        (&TestAnnounce::leecher(6881).datagram([0; 8]), Dropped::ForgedConnection),
    ] {
        assert_eq!(harness.send("192.0.2.7:6881", datagram), Err(refusal));
        assert!(harness.engine.metrics().dropped_count(refusal) > 0, "{refusal}");
    }
    assert_eq!(harness.send("192.0.2.7:0", &CONNECT), Err(Dropped::SourcePortZero));
}

#[test]
fn an_id_serves_until_it_is_stale_and_only_its_address() {
    let mut harness = Harness::open();
    let announce = TestAnnounce::leecher(6881).datagram(harness.connect("192.0.2.7:6881"));
    for (seconds, port) in [(0, 6881), (60, 40_000), (120, 1)] {
        harness.seconds = seconds;
        assert!(harness.send(&format!("192.0.2.7:{port}"), &announce).is_ok(), "{seconds}");
        assert_eq!(harness.send("192.0.2.8:6881", &announce), Err(Dropped::ForgedConnection));
    }
    harness.seconds = 130;
    assert_eq!(harness.send("192.0.2.7:6881", &announce), Err(Dropped::StaleConnection));
    assert_eq!(Dropped::StaleConnection.to_string(), "stale_connection");
}

#[test]
fn a_mapped_source_is_an_ipv4_source() {
    let mut harness = Harness::open();
    let id = harness.connect("192.0.2.7:6881");
    assert_eq!(harness.connect("[::ffff:192.0.2.7]:6881"), id);
    harness.announce("192.0.2.8:1024", &TestAnnounce::leecher(6882));
    let announced = harness.announce("[::ffff:192.0.2.7]:6881", &TestAnnounce::leecher(6881));
    assert_eq!(announced.peers, peer("192.0.2.8:6882"));
}

#[test]
fn a_verified_source_is_told_what_is_wrong() {
    let mut harness = Harness::open();
    let id = harness.connect("192.0.2.7:6881");
    let datagram = TestAnnounce::leecher(6881).datagram(id);
    let wide = TestAnnounce { claim: vec![0; 16], ..TestAnnounce::leecher(6881) }.datagram(id);
    let unknown = [&id[..], &[0xff; 4], &TRANSACTION].concat();
    for (datagram, text) in [
        (&unknown[..], "unknown action ID"),
        (&datagram[..97], "malformed packet"),
        (&datagram[..16], "malformed packet"),
        (&wide[..109], "malformed packet"),
        (&scrape(id, &[7])[..35], "malformed packet"),
        (&TestAnnounce::leecher(0).datagram(id), "invalid port"),
    ] {
        assert_eq!(error_text(&harness.send("192.0.2.7:6881", datagram).unwrap()), text);
    }
    let link_local = TestAnnounce::leecher(6881).datagram(harness.connect("[fe80::7]:6881"));
    assert_eq!(error_text(&harness.send("[fe80::7]:6881", &link_local).unwrap()), "invalid IP");
    assert_eq!(harness.engine.metrics().dropped_count(Dropped::Refused(ErrorReason::Malformed)), 4);
}

#[test]
fn closed_trackers_say_so() {
    let list: TorrentList = [hayate_state::InfoHash([11; 20])].into_iter().collect();
    let policy = Policy { access: Access::Allow(Arc::new(list)), enable_scrape: false, ..Policy::default() };
    let mut harness = Harness::new(policy, udp_config());
    let id = harness.connect("192.0.2.7:6881");
    let reply = harness.send("192.0.2.7:6881", &TestAnnounce::leecher(6881).datagram(id)).unwrap();
    assert_eq!(error_text(&reply), "unregistered torrent");
    let reply = harness.send("192.0.2.7:6881", &scrape(id, &[7])).unwrap();
    assert_eq!(error_text(&reply), "scrape disabled");
    let registered = TestAnnounce { hash: 11, ..TestAnnounce::leecher(6881) };
    assert_eq!(harness.announce("192.0.2.7:6881", &registered).action, 1);
}

#[test]
fn an_announce_is_answered_with_the_swarm_after_it() {
    let mut harness = Harness::open();
    let first = harness.announce("192.0.2.1:1024", &TestAnnounce::seeder(6881));
    assert_eq!((first.interval, first.leechers, first.seeders, first.peers.len()), (1800, 0, 1, 0));
    harness.announce("192.0.2.2:1024", &TestAnnounce::seeder(6882));
    let third = harness.announce("192.0.2.3:1024", &TestAnnounce::leecher(6883));
    assert_eq!((third.leechers, third.seeders, third.peers.len()), (1, 2, 12));
    let again = harness.announce("192.0.2.3:1024", &TestAnnounce { event: 0, ..TestAnnounce::leecher(6883) });
    assert_eq!((again.leechers, again.seeders, again.peers.len()), (1, 2, 12), "nobody is counted twice");
    let stopped =
        harness.announce("192.0.2.1:1024", &TestAnnounce { event: 3, ..TestAnnounce::seeder(6881) });
    assert_eq!((stopped.leechers, stopped.seeders, stopped.peers.len()), (1, 1, 0));
}

#[test]
fn each_family_gets_its_own_peers_and_the_counts_of_both() {
    let mut harness = Harness::open();
    harness.announce("192.0.2.1:1024", &TestAnnounce::leecher(6881));
    harness.announce("[2001:db8::1]:1024", &TestAnnounce::leecher(6882));
    let v4 = harness.announce("192.0.2.3:1024", &TestAnnounce::leecher(6883));
    assert_eq!((v4.peers, v4.leechers), (peer("192.0.2.1:6881"), 3));
    let v6 = harness.announce("[2001:db8::4]:1024", &TestAnnounce::leecher(6884));
    assert_eq!((v6.peers, v6.leechers), (peer("[2001:db8::1]:6882"), 4));
}

#[test]
fn num_want_is_obeyed_and_capped_by_the_reply_size() {
    let mut harness = Harness::new(Policy::default(), UdpConfig { num_want_max: 5000, ..udp_config() });
    for n in 0..=255_u8 {
        harness.announce(&format!("192.0.2.{n}:1024"), &TestAnnounce::leecher(6881));
        harness.announce(&format!("[2001:db8:{n:x}::1]:1024"), &TestAnnounce::leecher(6881));
    }
    for (num_want, expected_v4, expected_v6) in [
        (-1, 50, 50),
        (i32::MIN, 50, 50),
        (0, 0, 0),
        (1, 1, 1),
        (66, 66, 66),
        (300, 202, 67),
        (i32::MAX, 202, 67),
    ] {
        let words = TestAnnounce { num_want, ..TestAnnounce::leecher(6881) };
        assert_eq!(harness.announce("192.0.2.7:1024", &words).peers.len(), expected_v4 * 6, "{num_want}");
        let v6 = harness.announce("[2001:db8:7::1]:1024", &words);
        assert_eq!(v6.peers.len(), expected_v6 * 18, "{num_want}");
    }
}

#[test]
fn scrape_answers_each_torrent_in_order_and_ignores_a_broken_tail() {
    let mut harness = Harness::open();
    harness.announce("192.0.2.1:1024", &TestAnnounce::seeder(6881));
    harness.announce("192.0.2.2:1024", &TestAnnounce::leecher(6882));
    harness.announce("192.0.2.2:1024", &TestAnnounce { event: 1, ..TestAnnounce::seeder(6882) });
    harness.announce("192.0.2.3:1024", &TestAnnounce::leecher(6883));
    let id = harness.connect("192.0.2.9:1024");
    let mut datagram = scrape(id, &[7, 99, 7]);
    datagram.extend([7; 19]);
    let reply = harness.send("192.0.2.9:1024", &datagram).unwrap();
    let row = [0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1];
    assert_eq!(reply[8..], [row, [0; 12], row].concat());
}

#[test]
fn scrape_answers_the_first_torrents_up_to_the_limit() {
    for (limit, expected) in [(1, 1), (74, 74), (500, 100)] {
        let config = UdpConfig { max_scrape_infohashes: limit, ..udp_config() };
        let mut harness = Harness::new(Policy::default(), config);
        let id = harness.connect("192.0.2.9:1024");
        let reply = harness.send("192.0.2.9:1024", &scrape(id, &[7; 100])).unwrap();
        assert_eq!(reply.len(), 8 + 12 * expected);
    }
}

#[test]
fn the_address_field_counts_only_from_listed_ipv4_sources() {
    let config = UdpConfig { spoofing_sources: vec!["10.0.0.0/8".parse().unwrap()], ..udp_config() };
    let config = UdpConfig {
        spoofing_sources: [config.spoofing_sources, vec!["::/0".parse().unwrap()]].concat(),
        ..config
    };
    let mut harness = Harness::new(Policy::default(), config);
    let claim = |octets: &[u8]| TestAnnounce { claim: octets.to_vec(), ..TestAnnounce::leecher(6881) };
    let wide = "2a00:db8::9".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let mapped = "::ffff:45.128.19.9".parse::<std::net::Ipv6Addr>().unwrap().octets();
    for (hash, source, words, client, expected) in [
        (1, "10.0.0.1:1", claim(&[45, 128, 19, 9]), "192.0.2.1:1", peer("45.128.19.9:6881")),
        (2, "10.0.0.1:1", claim(&[0; 4]), "10.0.0.2:1", peer("10.0.0.1:6881")),
        (3, "192.0.2.8:1", claim(&[45, 128, 19, 9]), "192.0.2.1:1", peer("192.0.2.8:6881")),
        (4, "10.0.0.1:1", claim(&mapped), "192.0.2.1:1", peer("45.128.19.9:6881")),
        (5, "10.0.0.1:1", claim(&wide), "[2001:db8::1]:1", peer("[2a00:db8::9]:6881")),
        (6, "[2001:db8::8]:1", claim(&[45, 128, 19, 9]), "[2001:db8::1]:1", peer("[2001:db8::8]:6881")),
        (7, "[2001:db8::8]:1", claim(&wide), "[2001:db8::1]:1", peer("[2001:db8::8]:6881")),
    ] {
        harness.announce(source, &TestAnnounce { hash, ..words });
        let announced = harness.announce(client, &TestAnnounce { hash, ..TestAnnounce::leecher(6882) });
        assert_eq!(announced.peers, expected, "{hash}");
    }
}

#[test]
fn action_4_is_answered_with_action_4_in_the_entries_of_the_peers_family() {
    let mut harness = Harness::open();
    harness.announce("192.0.2.1:1024", &TestAnnounce::leecher(6881));
    let wide = TestAnnounce { claim: vec![0; 16], ..TestAnnounce::leecher(6882) };
    let announced = harness.announce("192.0.2.2:1024", &wide);
    assert_eq!((announced.action, announced.peers), (4, peer("192.0.2.1:6881")));
}

#[test]
fn options_do_not_change_an_announce_not_even_broken_ones() {
    let mut harness = Harness::open();
    for options in [&b"\0\0"[..], b"\x02\x09/announce", b"\x02\xff/", b"\x09", &[1; 1000]] {
        let words = TestAnnounce { options: options.to_vec(), ..TestAnnounce::leecher(6881) };
        assert_eq!(harness.announce("192.0.2.1:1024", &words).leechers, 1);
    }
}

#[test]
fn a_reload_takes_effect_at_the_next_batch_and_keeps_ids() {
    let mut harness = Harness::open();
    let id = harness.connect("192.0.2.1:1024");
    let private_key = b"another-key-for-the-test".to_vec();
    harness.config.publish(UdpConfig { private_key, max_scrape_infohashes: 1, ..udp_config() });
    assert_eq!(harness.send("192.0.2.1:1024", &scrape(id, &[7, 7])).unwrap().len(), 8 + 12);
    assert_ne!(harness.connect("192.0.2.1:1024"), id);
}

#[test]
fn requests_are_counted_by_kind_and_family() {
    let mut harness = Harness::open();
    harness.announce("192.0.2.1:1024", &TestAnnounce::leecher(6881));
    harness.announce("[2001:db8::1]:1024", &TestAnnounce::leecher(0));
    let id = harness.connect("192.0.2.1:1024");
    harness.send("192.0.2.1:1024", &scrape(id, &[7])).unwrap();
    let counters = harness.engine.metrics();
    assert_eq!((counters.connects.v4.value(), counters.connects.v6.value()), (2, 1));
    assert_eq!((counters.announces.v4.value(), counters.announces.v6.value()), (1, 1));
    assert_eq!((counters.scrapes.v4.value(), counters.scrapes.v6.value()), (1, 0));
    assert_eq!((counters.replies.v4.value(), counters.replies.v6.value()), (4, 2));
}

#[test]
fn nobody_is_said_to_be_where_no_peer_is() {
    let config = UdpConfig { spoofing_sources: vec!["10.0.0.0/8".parse().unwrap()], ..udp_config() };
    let mut harness = Harness::new(Policy::default(), config);
    for claim in [[192, 0, 2, 9], [198, 18, 0, 1], [192, 88, 99, 1], [240, 0, 0, 1]] {
        let id = harness.connect("10.0.0.1:1");
        let words = TestAnnounce { claim: claim.to_vec(), ..TestAnnounce::leecher(6881) };
        let reply = harness.send("10.0.0.1:1", &words.datagram(id)).unwrap();
        assert_eq!(error_text(&reply), "invalid IP", "{claim:?}");
    }
    let wide = "100::1".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let id = harness.connect("10.0.0.1:1");
    let words = TestAnnounce { claim: wide.to_vec(), ..TestAnnounce::leecher(6881) };
    assert_eq!(error_text(&harness.send("10.0.0.1:1", &words.datagram(id)).unwrap()), "invalid IP");
    // The source of a datagram is not a claim, and a private address has rules of its own.
    harness.announce("192.0.2.8:1", &TestAnnounce::leecher(6881));
    let claim = TestAnnounce { claim: vec![10, 7, 7, 7], ..TestAnnounce::leecher(6882) };
    assert_eq!(harness.announce("10.0.0.1:1", &claim).leechers, 2);
}

/// Counts the scrapes that it is shown.
#[derive(Debug)]
struct Shown(Arc<AtomicUsize>);

impl Hook for Shown {
    fn announce(&self, _: &mut AnnounceVisit<'_>) -> Verdict {
        Ok(())
    }

    fn scrape(&self, _: &ScrapeVisit<'_>) -> Verdict {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

#[test]
fn a_scrape_beyond_the_limit_is_shown_to_no_hook() {
    let shown = Arc::<AtomicUsize>::default();
    let limiter = Arc::new(RateLimiter::new(RateLimit { per_minute: 1, burst: 3, addresses: 64 }));
    let policy = Policy {
        hooks: Hooks::from_hooks(vec![("shown", Box::new(Shown(Arc::clone(&shown))))], Vec::new()),
        rate_limit: Some(RateLimitRule { limiter, action: OverLimitAction::Empty }),
        ..Policy::default()
    };
    let mut harness = Harness::new(policy, udp_config());
    let id = harness.connect("192.0.2.9:1024");
    for _ in 0..7 {
        let reply = harness.send("192.0.2.9:1024", &scrape(id, &[7])).unwrap();
        assert_eq!(reply[8..], [0; 12]);
    }
    assert_eq!(shown.load(Ordering::Relaxed), 3);
}
