//! Tests of the engine in virtual time. The tracker is real, because the tests check counts and peer lists.

use std::sync::Arc;

use hayate_state::{Now, Policy, Published, Swarms, Tracker};

use super::*;
use crate::config::{HEADER_BLOCK_MAX, REQUEST_LINE_MAX};
use crate::engine::bad_request::BadRequest;
use crate::engine::client_address::Source;
use crate::engine::message::TEXT_PLAIN;
use crate::wire::bencode::tests::{Value, decode_canonical};

struct Harness {
    engine: Engine,
    tracker: Tracker,
    config: Arc<Published<HttpConfig>>,
}

fn config() -> HttpConfig {
    HttpConfig {
        announce_routes: vec!["/announce".into(), "/:key/announce".into()],
        scrape_routes: vec!["/scrape".into()],
        trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()],
        spoofing_sources: vec!["10.0.0.0/8".parse().unwrap()],
        proxy_header: Some("X-Real-IP".into()),
        ..HttpConfig::default()
    }
}

impl Harness {
    fn new(config: HttpConfig, policy: Policy) -> Self {
        let (config, policy) = (Published::new(config), Published::new(policy));
        let engine = Engine::new(config.subscribe(), policy.subscribe()).unwrap();
        Self { engine, tracker: Tracker::new(Swarms::new(0), &policy, 7), config }
    }

    fn without_drift() -> Self {
        Self::new(config(), Policy { announce_drift_seconds: 0, ..Policy::default() })
    }

    fn ask(&mut self, source: &str, method: &str, target: &[u8], headers: &[(&str, &[u8])]) -> Response {
        self.engine.handle(Now::at(0), &mut self.tracker, &head(source, method, target, headers))
    }

    fn get(&mut self, source: &str, target: &str) -> Value {
        let response = self.ask(source, "GET", target.as_bytes(), &[]);
        assert_eq!((response.status, response.content_type), (200, TEXT_PLAIN));
        decode_canonical(&response.body)
    }
}

fn head<'h>(
    source: &str,
    method: &'h str,
    target: &'h [u8],
    headers: &'h [(&'h str, &'h [u8])],
) -> Head<'h, [(&'h str, &'h [u8])]> {
    let source = Source::Address(source.parse().unwrap());
    let header_octets = headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
    Head { method: method.as_bytes(), target, source, headers, header_octets, has_body: false }
}

fn announce_target(letter: char, port: u16, more: &str) -> String {
    let hash = letter.to_string().repeat(20);
    format!("/announce?info_hash={hash}&peer_id=-XX0001-000000000001&port={port}{more}")
}

#[test]
fn a_header_that_is_not_believed_is_counted() {
    let mut harness = Harness::without_drift();
    let ignored = |harness: &Harness| harness.engine.metrics().proxy_header_ignored.value();
    let header: &[(&str, &[u8])] = &[("x-real-ip", b"45.128.19.54")];
    let target = announce_target('a', 7001, "&left=9");
    harness.ask("127.0.0.1", "GET", target.as_bytes(), header);
    harness.ask("45.128.19.55", "GET", target.as_bytes(), &[]);
    harness.ask("45.128.19.55", "GET", target.as_bytes(), &[("X-Forwarded-For", b"45.128.19.54")]);
    assert_eq!((ignored(&harness), harness.engine.last_proxy_warning), (0, None));
    for count in 1..=3 {
        harness.ask("45.128.19.55", "GET", target.as_bytes(), header);
        assert_eq!((ignored(&harness), harness.engine.last_proxy_warning), (count, Some(Now::at(0).tick)));
    }
}

#[test]
fn an_unconfigured_proxy_is_counted_and_logged_once_a_minute() {
    let mut harness = Harness::new(HttpConfig { proxy_header: None, ..config() }, Policy::default());
    let target = announce_target('a', 7001, "&left=9");
    let mut warnings_after = |second: u32, source: &str, name: &str| {
        let headers = [("Host", &b"t"[..]), (name, &b"45.128.19.54"[..])];
        harness.engine.read_request(Now::at(second), &head(source, "GET", target.as_bytes(), &headers));
        (harness.engine.metrics().proxy_header_ignored.value(), harness.engine.last_proxy_warning)
    };
    assert_eq!(warnings_after(1, "45.128.19.55", "X-Forwarded-For"), (0, None), "anybody may write that");
    assert_eq!(warnings_after(2, "127.0.0.1", "Via"), (0, None));
    assert_eq!(warnings_after(3, "127.0.0.1", "x-forwarded-for"), (1, Some(Now::at(3).tick)));
    assert_eq!(warnings_after(62, "10.0.0.7", "X-Real-IP"), (2, Some(Now::at(3).tick)));
    assert_eq!(warnings_after(63, "10.0.0.7", "Forwarded"), (3, Some(Now::at(63).tick)));
}

#[test]
fn a_claim_to_an_address_no_peer_can_have_is_refused() {
    let mut harness = Harness::without_drift();
    for address in
        ["192.0.2.7", "198.18.0.1", "100::1", "2002:c0a8:101::1", "64:ff9b::1", "fec0::1", "2001:db8::1"]
    {
        let target = announce_target('a', 7001, "&left=9");
        let response =
            harness.ask("127.0.0.1", "GET", target.as_bytes(), &[("X-Real-IP", address.as_bytes())]);
        let refused = decode_canonical(&response.body);
        assert_eq!(refused.string("failure reason"), Some(&b"invalid IP"[..]), "{address}");
        let claimed = harness.get("10.0.0.1", &announce_target('a', 7002, &format!("&left=9&ip={address}")));
        assert!(claimed.string("failure reason").is_some(), "{address}");
        // A source address is not a claim, so it is accepted.
        let reply = harness.get(address, &announce_target('b', 7003, "&left=9"));
        assert!(reply.get("peers").is_some(), "{address}");
    }
    let seen = harness.get("45.128.19.54", &announce_target('a', 7004, "&left=9"));
    assert_eq!(seen.integer("incomplete"), Some(1), "only the client itself is in the swarm");
}

#[test]
fn a_leecher_gets_the_seeder_in_every_form() {
    let mut harness = Harness::without_drift();
    let alone = harness.get("192.0.2.7", &announce_target('a', 6881, "&left=0&event=started"));
    assert_eq!(alone.string("peers"), Some(&b""[..]));
    assert_eq!((alone.integer("complete"), alone.integer("incomplete")), (Some(1), Some(0)));
    assert_eq!((alone.integer("interval"), alone.integer("min interval")), (Some(1800), Some(900)));
    assert_eq!(alone.string("external ip"), Some(&[192, 0, 2, 7][..]));
    let peer = [192, 0, 2, 7, 0x1a, 0xe1];
    let compact = harness.get("192.0.2.9", &announce_target('a', 7001, "&left=9"));
    assert_eq!(compact.string("peers"), Some(&peer[..]));
    assert_eq!(compact.string("peers6"), None);
    let over_v6 = harness.get("2001:db8::9", &announce_target('a', 7002, "&left=9&numwant=1"));
    assert_eq!(over_v6.string("peers6"), Some(&b""[..]));
    let list = harness.ask(
        "192.0.2.9",
        "GET",
        announce_target('a', 7001, "&left=9&numwant=1&compact=0").as_bytes(),
        &[],
    );
    assert!(
        matches!(decode_canonical(&list.body).get("peers"), Some(Value::List(peers)) if peers.len() == 1)
    );
    let scrape = harness.get("192.0.2.9", &format!("/scrape?info_hash={}", "a".repeat(20)));
    let files = scrape.get("files").unwrap();
    let file = files.get(&"a".repeat(20)).unwrap();
    assert_eq!((file.integer("complete"), file.integer("incomplete")), (Some(1), Some(2)));
}

#[test]
fn failures_have_status_200_their_text_and_an_interval() {
    let mut harness = Harness::without_drift();
    for (target, text) in [
        ("/announce".to_owned(), "no info_hash parameter supplied"),
        ("/announce?".to_owned(), "no info_hash parameter supplied"),
        ("/scrape".to_owned(), "no info_hash parameter supplied"),
        (announce_target('a', 0, ""), "invalid port"),
        (announce_target('a', 7, "&left=%zz"), "invalid query escape"),
    ] {
        let failure = harness.get("192.0.2.7", &target);
        assert_eq!(failure.string("failure reason"), Some(text.as_bytes()), "{target}");
        assert_eq!(failure.integer("interval"), Some(900));
        assert_eq!(failure.get("peers"), None);
    }
    let nowhere = harness.get("224.0.0.1", &announce_target('a', 7, ""));
    assert_eq!(nowhere.string("failure reason"), Some(&b"invalid IP"[..]));
    assert_eq!(harness.engine.metrics().refusals_of(BadRequest::MissingInfoHash, QueryRules::Open), 3);
}

#[test]
fn a_trusted_proxy_names_the_client_or_the_request_fails() {
    let mut harness = Harness::without_drift();
    let target = announce_target('a', 7, "");
    let via = |harness: &mut Harness, source: &str, headers: &[(&str, &[u8])]| {
        decode_canonical(&harness.ask(source, "GET", target.as_bytes(), headers).body)
    };
    let named = via(&mut harness, "127.0.0.1", &[("x-real-ip", b"45.128.19.9")]);
    assert_eq!(named.string("external ip"), Some(&[45, 128, 19, 9][..]));
    let stranger = via(&mut harness, "198.51.100.5", &[("x-real-ip", b"45.128.19.9")]);
    assert_eq!(stranger.string("external ip"), Some(&[198, 51, 100, 5][..]));
    let junk = via(&mut harness, "::ffff:127.0.0.1", &[("x-real-ip", b"junk")]);
    assert_eq!(junk.string("failure reason"), Some(&b"failed to parse peer IP address"[..]));
}

#[test]
fn claimed_addresses_count_only_from_spoofing_sources() {
    let mut harness = Harness::without_drift();
    let claim = announce_target('b', 7001, "&ip=45.128.19.9");
    assert_eq!(harness.get("10.0.0.1", &claim).integer("incomplete"), Some(1));
    let next = harness.get("192.0.2.7", &announce_target('b', 7002, "&ip=junk"));
    assert_eq!(next.string("peers"), Some(&[45, 128, 19, 9, 0x1b, 0x59][..]));
    for (more, text) in [
        ("&ip=junk", &b"failed to parse peer IP address"[..]),
        ("&ip=%zz&port=x", b"invalid query escape"),
        ("&ip=junk&port=x", b"failed to parse parameter: port"),
    ] {
        let refused = harness.get("10.0.0.1", &announce_target('b', 7001, more));
        assert_eq!(refused.string("failure reason"), Some(text), "{more}");
    }
}

#[test]
fn external_ip_is_the_seen_address_and_ipv6_clients_get_peers6() {
    let sources = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
    let mut harness = Harness::new(HttpConfig { spoofing_sources: sources, ..config() }, Policy::default());
    let claim = announce_target('b', 7001, "&ip=45.128.19.9");
    let v4 = harness.get("10.0.0.1", &claim);
    assert_eq!((v4.string("external ip"), v4.string("peers6")), (Some(&[10, 0, 0, 1][..]), None));
    let v6 = harness.get("fd00::1", &claim);
    assert_eq!((v6.string("external ip").map(<[u8]>::len), v6.string("peers6")), (Some(16), Some(&b""[..])));
}

#[test]
fn only_get_is_served_and_only_known_paths() {
    let mut harness = Harness::without_drift();
    for method in ["HEAD", "POST", "OPTIONS", "get", "X"] {
        let response = harness.ask("192.0.2.7", method, announce_target('c', 7, "").as_bytes(), &[]);
        assert_eq!((response.status, &*response.body), (405, &b"Method Not Allowed\n"[..]));
    }
    for target in ["/", "*", "", "/favicon.ico", "/announce/", "/Announce", "/x//announce", "http://x"] {
        let response = harness.ask("192.0.2.7", "GET", target.as_bytes(), &[]);
        assert_eq!((response.status, &*response.body), (404, &b"404 page not found\n"[..]), "{target}");
    }
    assert_eq!(
        harness
            .get("192.0.2.7", &format!("http://t:6969{}", announce_target('c', 7, "")))
            .integer("incomplete"),
        Some(1)
    );
    assert_eq!(
        harness.get("192.0.2.7", &format!("/k%20ey{}", announce_target('c', 7, ""))).integer("incomplete"),
        Some(1)
    );
    for slashes in ["/", "//////"] {
        let target = format!("{slashes}{}", announce_target('c', 7, ""));
        assert_eq!(harness.get("192.0.2.7", &target).integer("incomplete"), Some(1), "{target}");
    }
}

#[test]
fn what_is_too_long_is_refused_with_its_own_status() {
    let mut harness = Harness::without_drift();
    let fits = format!("{}&pad=", announce_target('d', 7, ""));
    let pad = REQUEST_LINE_MAX - "GET ".len() - " HTTP/1.1".len() - fits.len();
    let longest = format!("{fits}{}", "p".repeat(pad));
    assert_eq!(harness.ask("192.0.2.7", "GET", longest.as_bytes(), &[]).status, 200);
    let response = harness.ask("192.0.2.7", "GET", format!("{longest}p").as_bytes(), &[]);
    assert_eq!((response.status, response.close), (414, true));
    let value = vec![b'v'; HEADER_BLOCK_MAX];
    let response = harness.ask("192.0.2.7", "GET", b"/announce", &[("x", &value)]);
    assert_eq!((response.status, response.close), (431, true));
}

#[test]
fn a_reload_changes_routes_and_bad_routes_change_nothing() {
    let mut harness = Harness::without_drift();
    let served = |harness: &mut Harness, path: &str| {
        harness.ask("192.0.2.7", "GET", path.as_bytes(), &[]).status == 200
    };
    harness.config.publish(HttpConfig { scrape_routes: Vec::new(), ..config() });
    assert!(served(&mut harness, "/announce") && !served(&mut harness, "/scrape"));
    harness.config.publish(HttpConfig { announce_routes: vec!["announce".into()], ..config() });
    assert!(served(&mut harness, "/announce") && !served(&mut harness, "/scrape"));
}

#[test]
fn overload_is_a_valid_reply_without_peers_and_with_a_long_interval() {
    let mut harness = Harness::without_drift();
    let overloaded = |harness: &mut Harness, target: &str| {
        let head = head("192.0.2.7", "GET", target.as_bytes(), &[]);
        let Step::Ask(_, plan) = harness.engine.read_request(Now::at(0), &head) else {
            panic!("{target} is not passed to the tracker")
        };
        decode_canonical(&harness.engine.write_overloaded(plan).body)
    };
    let reply = overloaded(&mut harness, &announce_target('e', 7, ""));
    assert_eq!(reply.string("peers"), Some(&b""[..]));
    assert_eq!((reply.integer("interval"), reply.integer("min interval")), (Some(3600), Some(3600)));
    let reply = overloaded(&mut harness, &format!("/scrape?info_hash={}", "e".repeat(20)));
    assert_eq!(reply.get("flags").unwrap().integer("min_request_interval"), Some(3600));
    assert_eq!(harness.engine.metrics().overloads.value(), 2);
}

#[test]
fn no_target_makes_the_engine_panic_and_every_200_is_canonical() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut harness = Harness::without_drift();
    let words =
        ["info_hash=", "peer_id=", "port=", "left=", "numwant=", "event=", "compact=0", "ip=", "%", "&", "="];
    for _ in 0..5000 {
        let mut target =
            random.choice([&b"/announce?"[..], b"/scrape?", b"http://x/announce?", b""]).unwrap().to_vec();
        if random.bool() {
            target.extend_from_slice(&announce_target('f', 7, "&").as_bytes()["/announce?".len()..]);
        }
        for _ in 0..random.usize(..12) {
            match random.usize(..3) {
                0 => target.extend((0..random.usize(..30)).map(|_| random.u8(..))),
                1 => target.extend(std::iter::repeat_n(b'7', random.usize(..25))),
                _ => target.extend_from_slice(random.choice(words).unwrap().as_bytes()),
            }
        }
        let source =
            *random.choice(&["192.0.2.7", "10.0.0.1", "127.0.0.1", "2001:db8::1", "::", "fe80::1"]).unwrap();
        let response = harness.ask(source, "GET", &target, &[("x-real-ip", &target)]);
        if response.status == 200 {
            decode_canonical(&response.body);
        }
    }
}
