//! From datagram to reply the engine allocates nothing, whatever a client sends, once its peer is known. A
//! binary of its own, because the counter replaces the allocator.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

#[path = "../../tests/kit/fixtures/site.rs"]
#[expect(dead_code, reason = "the fixture of the other tests, of which little is needed here")]
mod fixture;
#[path = "server/kit.rs"]
#[expect(dead_code, reason = "the kit of the other tests, of which little is needed here")]
mod kit;

use std::net::SocketAddr;

use allocation_counter::measure;
use hayate_state::Now;
use hayate_udp::config::REPLY_MAX;
use hayate_udp::dropped::ErrorReason;
use hayate_udp::{Dropped, Outcome};

use kit::{CONNECT, Harness, TestAnnounce, scrape};

/// Octets of an announce reply without peers.
const HEAD_LEN: usize = 20;

/// One datagram as a batch of its own: the octets of the reply, after it was made without an allocation.
fn reply_len(harness: &mut Harness, source: &str, datagram: &[u8]) -> Result<usize, Dropped> {
    let (now, source) = (Now::at(harness.seconds), source.parse::<SocketAddr>().unwrap());
    let mut reply = [0; REPLY_MAX];
    let mut result = Ok(0);
    let counted = measure(|| {
        harness.engine.begin_batch(now);
        result = match harness.engine.handle(now, source, datagram, &mut reply) {
            Outcome::Reply(octets) => Ok(octets.len()),
            Outcome::Silence(refusal) => Err(refusal),
        };
    });
    assert_eq!(counted.count_total, 0, "allocations, with the result {result:?}");
    result
}

/// A swarm of this many peers on addresses that `address` makes; every other one is a seeder. Returns their
/// announces.
fn swarm(harness: &mut Harness, peers: u16, address: impl Fn(u16) -> String) -> Vec<(String, Vec<u8>)> {
    let announce = |number: u16| {
        let port = 1024 + number;
        let words =
            if number.is_multiple_of(2) { TestAnnounce::seeder(port) } else { TestAnnounce::leecher(port) };
        let (source, words) = (address(number), TestAnnounce { event: 0, num_want: 50, ..words });
        let datagram = words.datagram(harness.connect(&source));
        harness.send(&source, &datagram).unwrap();
        (source, datagram)
    };
    (0..peers).map(announce).collect()
}

fn v4(number: u16) -> String {
    format!("45.0.{}.{}:9", number / 256, number % 256)
}

fn v6(number: u16) -> String {
    format!("[2001:db8:{number:x}::1]:9")
}

#[test]
fn the_counter_counts() {
    assert_eq!(measure(|| drop(std::hint::black_box(vec![0_u8; 7]))).count_total, 1);
}

#[test]
fn a_connect_allocates_nothing() {
    let mut harness = Harness::open();
    for source in [v4(7), v6(7)] {
        assert_eq!(reply_len(&mut harness, &source, &CONNECT), Ok(16));
    }
}

#[test]
fn an_announce_of_a_known_peer_allocates_nothing() {
    for peers in [2, 20, 1000] {
        for (address, stride) in [(v4 as fn(u16) -> String, 6), (v6, 18)] {
            let mut harness = Harness::open();
            for (number, (source, datagram)) in swarm(&mut harness, peers, address).iter().enumerate() {
                // A seeder gets leechers only, which are half of the swarm.
                let useful = if number.is_multiple_of(2) { peers / 2 } else { peers - 1 };
                let expected = HEAD_LEN + usize::from(useful.min(50)) * stride;
                assert_eq!(reply_len(&mut harness, source, datagram), Ok(expected), "{number} of {peers}");
            }
        }
    }
}

#[test]
fn an_announce_of_a_user_allocates_nothing_but_what_its_records_take() {
    let mut harness = Harness::private(hayate_state::Policy::default(), kit::udp_config(), fixture::site());
    let path = format!("/{}/announce", fixture::PLAIN);
    let options = [&[2, u8::try_from(path.len()).unwrap()], path.as_bytes()].concat();
    let mut datagram =
        TestAnnounce { options, ..TestAnnounce::leecher(6881) }.datagram(harness.connect(&v4(7)));
    datagram[16..36].copy_from_slice(&fixture::FREE);
    datagram[36..56].copy_from_slice(b"-TR2940-000000000001");
    harness.send(&v4(7), &datagram).unwrap();
    assert_eq!(reply_len(&mut harness, &v4(7), &datagram), Ok(HEAD_LEN));
}

#[test]
fn a_scrape_allocates_nothing() {
    let mut harness = Harness::open();
    swarm(&mut harness, 20, v4);
    let id = harness.connect(&v4(7));
    // Torrent 7 is known, the others are not.
    let datagram = scrape(id, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    assert_eq!(reply_len(&mut harness, &v4(7), &datagram), Ok(8 + 10 * 12));
}

#[test]
fn a_refusal_allocates_nothing() {
    let mut harness = Harness::open();
    let announce = TestAnnounce::leecher(6881).datagram([7; 8]);
    assert_eq!(reply_len(&mut harness, &v4(7), &announce), Err(Dropped::ForgedConnection));
    assert_eq!(reply_len(&mut harness, &v4(7), &CONNECT[..15]), Err(Dropped::Short));
    let id = harness.connect(&v4(7));
    let text = ErrorReason::Malformed.text();
    assert_eq!(reply_len(&mut harness, &v4(7), &scrape(id, &[])), Ok(8 + text.len()));
}
