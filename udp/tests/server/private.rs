//! Mode private over UDP, on the site of the fixture.

use hayate_state::Policy;
use hayate_udp::dropped::ErrorReason;
use hayate_udp::{Dropped, UdpConfig};

use crate::fixture::{DISABLED, FREE, HIDDEN, MUSIC, PLAIN, PRUNED, site};
use crate::kit::{Announced, Harness, TestAnnounce, scrape, udp_config};

const SOURCE: &str = "45.128.19.54:7";
const TR: &[u8; 20] = b"-TR2940-000000000001";

fn harness() -> Harness {
    Harness::private(Policy::default(), udp_config(), site())
}

/// URLData in pieces.
fn url(pieces: &[&[u8]]) -> Vec<u8> {
    pieces.iter().flat_map(|piece| [&[2, u8::try_from(piece.len()).unwrap()], *piece].concat()).collect()
}

fn path(passkey: &str) -> Vec<u8> {
    url(&[format!("/{passkey}/announce").as_bytes()])
}

fn announce(
    harness: &mut Harness,
    source: &str,
    hash: &[u8; 20],
    peer_id: &[u8; 20],
    words: &TestAnnounce,
) -> Vec<u8> {
    let mut datagram = words.datagram(harness.connect(source));
    datagram[16..36].copy_from_slice(hash);
    datagram[36..56].copy_from_slice(peer_id);
    harness.send(source, &datagram).unwrap()
}

/// The text of an error reply.
fn error_of(reply: &[u8]) -> &str {
    assert_eq!(reply[..4], [0, 0, 0, 3], "{}", reply.escape_ascii());
    str::from_utf8(&reply[8..]).unwrap()
}

fn with(options: Vec<u8>) -> TestAnnounce {
    TestAnnounce { options, ..TestAnnounce::leecher(6881) }
}

#[test]
fn a_path_names_a_member_however_it_is_sent() {
    let key = PLAIN.as_bytes();
    let plain = [b"/", key, b"/announce"].concat();
    let long = [b"/".repeat(200), plain.clone()].concat();
    for options in [
        path(PLAIN),
        url(&[&plain[..7], &plain[7..20], b"", &plain[20..]]),
        [&[1, 1][..], &path(PLAIN), &[0], b"\x02\x09/nonsense"].concat(),
        [&[7, 3, 9, 9, 9][..], &path(PLAIN)].concat(),
        url(&[&[&plain, &b"?key=/x/announce%zz"[..]].concat()]),
        url(&[b"//x/..//", key, b"/./announce"]),
        url(&[b"/%61", &key[1..], b"%2Fannounce"]),
        url(&[&[b"/tracker/", key, b"/announce"].concat()]),
        url(&[&long[..200], &long[200..]]),
    ] {
        let reply = announce(&mut harness(), SOURCE, &FREE, TR, &with(options.clone()));
        assert_eq!(Announced::read(&reply).leechers, 1, "{}", options.escape_ascii());
    }
}

#[test]
fn without_a_whole_path_nobody_is_a_member() {
    let plain = path(PLAIN);
    let overlong: Vec<&[u8]> = vec![&[b'/'; 250]; 5];
    for options in [
        Vec::new(),
        vec![0, 0],
        vec![2, 0],
        plain[..plain.len() - 1].to_vec(),
        [&plain[..], &[5]].concat(),
        [&plain[..], &[2, 9, b'x']].concat(),
        url(&[PLAIN.as_bytes()]),
        url(&[b"/announce"]),
        url(&[b"/", PLAIN.as_bytes(), b"/scrape"]),
        url(&[b"/", PLAIN.as_bytes(), b"/announce/"]),
        url(&[b"/x?/", PLAIN.as_bytes(), b"/announce"]),
        [url(&overlong), plain.clone()].concat(),
        url(&[b"/\xff\x00%/announce"]),
        path(DISABLED),
        path(&PLAIN.to_lowercase()),
    ] {
        let mut harness = harness();
        let reply = announce(&mut harness, SOURCE, &FREE, TR, &with(options.clone()));
        assert_eq!(error_of(&reply), "Your passkey is invalid", "{}", options.escape_ascii());
        let refusal = Dropped::Refused(ErrorReason::Tracker(hayate_state::Refusal::InvalidPasskey));
        assert_eq!(harness.engine.metrics().dropped_count(refusal), 1);
    }
}

#[test]
fn denials_are_told_without_what_stands_in_brackets() {
    let mut harness =
        Harness::private(Policy { strict_port: true, ..Policy::default() }, udp_config(), site());
    let words = TestAnnounce { options: path(HIDDEN), ..TestAnnounce::leecher(80) };
    let mut send = |hash: &[u8; 20], id: &[u8; 20], words: &TestAnnounce| {
        error_of(&announce(&mut harness, SOURCE, hash, id, words)).to_owned()
    };
    let qb = b"-qB4250-000000000001";
    let text = send(&[7; 20], qb, &words);
    assert_eq!(text, "Unacceptable request - port must be outside of well-known range");
    let words = TestAnnounce { port: 6881, ..words };
    assert_eq!(send(&[7; 20], qb, &words), "Your client is not approved");
    assert_eq!(send(&[7; 20], TR, &words), "This torrent does not exist");
    assert_eq!(send(&PRUNED, TR, &words), "This torrent does not exist");
    assert_eq!(send(&FREE, TR, &words), "Your download privileges are disabled");
    let reasons = site();
    reasons.update(|site_data| {
        site_data.deletions =
            std::sync::Arc::new([(hayate_state::InfoHash([7; 20]), "Dupe".into())].into_iter().collect());
    });
    let mut harness = Harness::private(Policy::default(), udp_config(), reasons);
    let reply = announce(&mut harness, SOURCE, &[7; 20], TR, &words);
    assert_eq!(error_of(&reply), "This torrent does not exist: Dupe");
}

#[test]
fn peers_are_those_of_the_family_that_is_asked_over() {
    let mut harness = harness();
    let seeder = TestAnnounce { options: path(PLAIN), ..TestAnnounce::seeder(6881) };
    let v6 = "[2001:db8::9]:7";
    for source in [SOURCE, v6] {
        announce(&mut harness, source, &MUSIC, TR, &seeder);
    }
    let leecher = TestAnnounce { options: path(HIDDEN), ..TestAnnounce::leecher(7001) };
    let other = b"-DE1300-000000000001";
    let over_v4 = announce(&mut harness, SOURCE, &MUSIC, other, &leecher);
    assert_eq!(over_v4[20..], [45, 128, 19, 54, 0x1a, 0xe1]);
    let over_v6 = announce(&mut harness, v6, &MUSIC, other, &leecher);
    assert_eq!((over_v6.len(), &over_v6[36..]), (38, &[0x1a, 0xe1][..]));
    let announced = Announced::read(&over_v6);
    assert_eq!((announced.seeders, announced.leechers), (1, 1));
    for num_want in [0, -1] {
        let words = TestAnnounce { num_want, ..leecher.clone() };
        let reply = announce(&mut harness, SOURCE, &MUSIC, other, &words);
        assert_eq!(reply.len(), if num_want == 0 { 20 } else { 26 });
    }
}

#[test]
fn a_claimed_address_counts_if_its_source_may_claim_and_it_is_public() {
    for (claim, sources, address) in [
        ([9, 8, 7, 6], "0.0.0.0/0", [9, 8, 7, 6]),
        ([10, 0, 0, 1], "0.0.0.0/0", [45, 128, 19, 54]),
        ([9, 8, 7, 6], "10.0.0.0/8", [45, 128, 19, 54]),
        ([0, 0, 0, 0], "0.0.0.0/0", [45, 128, 19, 54]),
    ] {
        let config = UdpConfig { spoofing_sources: vec![sources.parse().unwrap()], ..udp_config() };
        let mut harness = Harness::private(Policy::default(), config, site());
        let seeder =
            TestAnnounce { options: path(PLAIN), claim: claim.to_vec(), ..TestAnnounce::seeder(6881) };
        announce(&mut harness, SOURCE, &MUSIC, TR, &seeder);
        let leecher = TestAnnounce { options: path(HIDDEN), ..TestAnnounce::leecher(7001) };
        let reply = announce(&mut harness, "9.9.9.9:7", &MUSIC, TR, &leecher);
        assert_eq!(reply[20..24], address);
    }
}

#[test]
fn a_scrape_names_nobody_and_an_unverified_source_hears_nothing() {
    let mut harness = harness();
    let id = harness.connect(SOURCE);
    assert_eq!(error_of(&harness.send(SOURCE, &scrape(id, &[7])).unwrap()), "Your passkey is invalid");
    let forged = TestAnnounce { options: path(PLAIN), ..TestAnnounce::leecher(6881) }.datagram([7; 8]);
    assert_eq!(harness.send(SOURCE, &forged), Err(Dropped::ForgedConnection));
}
