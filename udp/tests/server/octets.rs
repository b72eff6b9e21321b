//! Arbitrary octets against the parsers and the engine. Every test prints its seed.

use hayate_udp::config::REPLY_MAX;
use hayate_udp::dropped::ErrorReason;
use hayate_udp::wire::option::Options;
use hayate_udp::wire::request::Head;
use hayate_udp::{Dropped, wire};

use crate::kit::*;

const ROUNDS: usize = 20_000;

fn random() -> fastrand::Rng {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    fastrand::Rng::with_seed(seed)
}

fn octets(random: &mut fastrand::Rng, len_max: usize) -> Vec<u8> {
    let len = random.usize(..=len_max);
    (0..len).map(|_| random.u8(..)).collect()
}

/// A datagram that is a request more often than chance makes one.
fn datagram(random: &mut fastrand::Rng, id: [u8; 8]) -> Vec<u8> {
    let mut datagram = octets(random, 200);
    let begin: &[u8] = match random.u8(..5) {
        0 => &id,
        1 => &wire::PROTOCOL_ID,
        2 => &[0; 8],
        _ => &[],
    };
    datagram.iter_mut().zip(begin).for_each(|(to, from)| *to = *from);
    if random.u8(..4) > 0 {
        let action = u32::from(random.u8(..6)).to_be_bytes();
        datagram.iter_mut().skip(8).zip(action).for_each(|(to, from)| *to = from);
    }
    datagram
}

#[test]
fn no_datagram_panics_and_an_unverified_source_never_gets_more_than_it_sent() {
    let mut random = random();
    let mut harness = Harness::open();
    let [verified, stranger] = ["192.0.2.7:6881", "192.0.2.8:6881"];
    let mut seen = std::collections::HashSet::new();
    for round in 0..ROUNDS {
        harness.seconds = u32::try_from(round / 100).unwrap();
        let id = harness.connect(verified);
        let datagram = datagram(&mut random, id);
        match harness.send(stranger, &datagram) {
            Ok(reply) => {
                assert!(reply.len() <= datagram.len(), "{datagram:02x?}");
                assert_eq!(reply.len(), 16, "{datagram:02x?}");
            }
            Err(refusal) => assert!(!matches!(refusal, Dropped::Refused(_)), "{datagram:02x?}"),
        }
        match harness.send(verified, &datagram) {
            Ok(reply) => {
                assert!((9..=REPLY_MAX).contains(&reply.len()), "{datagram:02x?}");
                assert_eq!(reply[4..8], datagram[12..16], "{datagram:02x?}");
                seen.insert(u32::from_be_bytes(reply[..4].try_into().unwrap()));
            }
            Err(refusal) => assert!(!matches!(refusal, Dropped::Refused(_)), "{datagram:02x?}"),
        }
    }
    let mut seen: Vec<u32> = seen.into_iter().collect();
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3, 4], "the generator reaches every kind of reply");
    assert!(harness.engine.metrics().dropped_count(Dropped::Refused(ErrorReason::UnknownAction)) > 0);
}

#[test]
fn views_read_what_was_written() {
    let mut random = random();
    for _ in 0..ROUNDS {
        let words = TestAnnounce {
            hash: random.u8(..),
            left: random.u64(..),
            event: u32::from(random.u8(..6)),
            claim: vec![random.u8(..); if random.bool() { 4 } else { 16 }],
            num_want: random.i32(..),
            port: random.u16(..),
            options: octets(&mut random, 40),
        };
        let datagram = words.datagram([7; 8]);
        let head = Head::parse(&datagram).unwrap();
        let view = if words.claim.len() == 4 { head.announce() } else { head.announce_wide() }.unwrap();
        assert_eq!(head.transaction_id(), TRANSACTION);
        assert_eq!(
            (view.info_hash().0, view.left(), view.port()),
            ([words.hash; 20], words.left, words.port)
        );
        assert_eq!(view.key(), 0x1122_3344);
        assert_eq!(view.claimed_address().is_none(), words.claim[0] == 0);
        let expected = if words.num_want < 0 { 50 } else { words.num_want.min(200) };
        assert_eq!(i32::from(view.num_want(50, 200)), expected);
    }
}

#[test]
fn no_options_panic_and_no_piece_is_longer_than_they() {
    let mut random = random();
    let (mut overruns, mut urls) = (0, 0);
    for _ in 0..ROUNDS {
        let mut options = octets(&mut random, 60);
        options.iter_mut().for_each(|octet| *octet %= 12);
        let mut walk = Options::new(&options);
        let pieces: Vec<&[u8]> = walk.by_ref().collect();
        let total: usize = pieces.iter().map(|piece| piece.len()).sum();
        assert!(total + 2 * pieces.len() <= options.len(), "{options:02x?}");
        let mut buffer = [0; 16];
        let joined = Options::new(&options).join(&mut buffer);
        assert_eq!(joined.is_some(), !pieces.is_empty(), "{options:02x?}");
        if let Some(joined) = joined {
            urls += 1;
            assert_eq!(joined.octets, &pieces.concat()[..total.min(16)], "{options:02x?}");
            assert_eq!(joined.whole, total <= 16 && !walk.overrun(), "{options:02x?}");
        }
        overruns += usize::from(walk.overrun());
    }
    assert!(overruns > 0 && urls > 0);
}
