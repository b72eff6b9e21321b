//! Mode private over HTTP, with a real tracker in virtual time, on the site of the fixture.

#[path = "../../../../tests/kit/fixtures/site.rs"]
mod fixture;

use hayate_state::{Now, Policy, Published, Swarms, Tracker};

use crate::config::HttpConfig;
use crate::engine::bad_request::BadRequest;
use crate::engine::client_address::Source;
use crate::engine::{Engine, Head, Response};
use crate::wire::query::QueryRules;
use fixture::{DISABLED, FREE, HIDDEN, MUSIC, PLAIN, PRUNED};

struct Harness {
    engine: Engine,
    tracker: Tracker,
    now: u32,
}

const HEAD: &str = "8:completei";

impl Harness {
    fn new(config: HttpConfig, policy: Policy) -> Self {
        let (config, policy, site) = (Published::new(config), Published::new(policy), fixture::site());
        let engine = Engine::new(config.subscribe(), policy.subscribe()).unwrap();
        let engine = engine.private(site.site_data.subscribe());
        let tracker = Tracker::new(Swarms::new(0), &policy, 7).with_site(site);
        Self { engine, tracker, now: 0 }
    }

    fn plain() -> Self {
        let config =
            HttpConfig { num_want: 25, num_want_max: 50, external_ip: false, ..HttpConfig::default() };
        Self::new(config, policy())
    }

    fn ask(&mut self, source: &str, target: &str, headers: &[(&str, &[u8])]) -> Response {
        let source = Source::Address(source.parse().unwrap());
        let (method, target) = (&b"GET"[..], target.as_bytes());
        let head = Head { method, target, source, headers, header_octets: 0, has_body: false };
        self.engine.handle(Now::at(self.now), &mut self.tracker, &head)
    }

    fn text(&mut self, source: &str, target: &str) -> String {
        let response = self.ask(source, target, &[]);
        assert_eq!((response.status, response.content_type), (200, "text/plain"), "{target}");
        response.body.escape_ascii().to_string()
    }

    fn get(&mut self, target: &str) -> String {
        self.text("45.128.19.54", target)
    }
}

fn policy() -> Policy {
    Policy { announce_drift_seconds: 0, ..Policy::default() }
}

fn escaped(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("%{octet:02x}")).collect()
}

fn announce(passkey: &str, hash: &[u8], more: &str) -> String {
    let hash = escaped(hash);
    let base = "peer_id=-TR2940-000000000001&port=6881&uploaded=0&downloaded=0&left=7";
    format!("/{passkey}/announce?info_hash={hash}&{base}{more}")
}

fn failure(text: &str, interval: u32) -> String {
    let interval = if interval == 0 { String::new() } else { format!("8:intervali{interval}e") };
    format!("d14:failure reason{}:{text}{interval}e", text.len())
}

#[test]
fn every_malformed_announce_gets_the_text_of_its_row() {
    let (hash, id) = (escaped(&FREE), "-TR2940-000000000001");
    let whole: Vec<String> = [
        format!("info_hash={hash}"),
        format!("peer_id={id}"),
        "port=6881".to_owned(),
        "uploaded=0".to_owned(),
        "downloaded=0".to_owned(),
        "left=7".to_owned(),
    ]
    .to_vec();
    let query = |skip: &str, more: &str| {
        let rest = whole.iter().filter(|part| !part.starts_with(skip) || skip.is_empty());
        rest.cloned().chain([more.to_owned()]).collect::<Vec<_>>().join("&")
    };
    let malformed = |what: &str| format!("Malformed request - {what}");
    let mut harness = Harness::plain();
    for (skip, more, text) in [
        ("info_hash", "", malformed("missing info_hash")),
        ("info_hash", "info_hash=short", malformed("missing info_hash")),
        ("info_hash", "info_hash=%zz%", malformed("missing info_hash")),
        ("", &format!("info_hash={hash}"), malformed("can only announce singular info_hash")),
        ("", &format!("INFO%5fHASH={}", escaped(&MUSIC)), malformed("can only announce singular info_hash")),
        ("peer_id", "", malformed("missing peer_id")),
        ("peer_id", "peer_id=", malformed("missing peer_id")),
        ("peer_id", "peer_id=-TR2940-00000000000", malformed("invalid peer_id")),
        ("peer_id", "peer_id=-TR2940-0000000000001", malformed("invalid peer_id")),
        ("port", "", malformed("missing port")),
        ("port", "port=65536", malformed("invalid port")),
        ("port", "port=-1", malformed("invalid port")),
        ("port", "port=", malformed("invalid port")),
        ("uploaded", "", malformed("missing uploaded")),
        ("uploaded", "uploaded=+7", malformed("invalid uploaded")),
        ("downloaded", "", malformed("missing downloaded")),
        ("downloaded", "downloaded=18446744073709551616", malformed("invalid downloaded")),
        ("left", "", malformed("missing left")),
        ("left", "left=-1", malformed("invalid left")),
        ("left", "left=", malformed("invalid left")),
        ("left", "left=%zz", malformed("invalid left")),
        ("left", "left=7.0", malformed("invalid left")),
        ("", "numwant=", malformed("invalid numwant")),
        ("", "numwant=-", malformed("invalid numwant")),
        ("", "numwant=7x", malformed("invalid numwant")),
        ("", "numwant=--7", malformed("invalid numwant")),
    ] {
        let target = format!("/{PLAIN}/announce?{}", query(skip, more));
        assert_eq!(harness.get(&target), failure(&text, 3600), "{skip} {more}");
    }
    for more in ["numwant=-1", "numwant=-99999999999999999999", "numwant=70000", "numwant=0", "left=007", ""]
    {
        let target = format!("/{PLAIN}/announce?{}", query("", more));
        assert!(harness.get(&target).contains(HEAD), "{more}");
    }
}

#[test]
fn the_first_row_that_fails_is_the_answer() {
    let mut harness = Harness::new(HttpConfig::default(), Policy { strict_port: true, ..policy() });
    let hash = escaped(&PRUNED);
    let mut query = String::new();
    let malformed = |what: &str| format!("Malformed request - {what}");
    for (more, text) in [
        ("numwant=x&port=80", malformed("missing info_hash")),
        (&*format!("&info_hash={hash}"), malformed("missing peer_id")),
        (
            "&peer_id=-qB4250-000000000001",
            "Unacceptable request - port must be outside of well-known range (port: 80)".into(),
        ),
        ("&port=1024", malformed("missing uploaded")),
        ("&uploaded=7", malformed("missing downloaded")),
        ("&downloaded=11", malformed("missing left")),
        ("&left=13", malformed("invalid numwant")),
        ("&numwant=17", "Your client is not approved (peer_id: -qB4250-000000000001)".into()),
        ("&peer_id=-TR2940-000000000001", "This torrent does not exist (status: 1, left: 13)".into()),
    ] {
        query += more;
        let interval = if text.starts_with("This") { 900 } else { 3600 };
        assert_eq!(harness.get(&format!("/{PLAIN}/announce?{query}")), failure(&text, interval));
        let nobody = failure("Your passkey is invalid", 3600);
        assert_eq!(harness.get(&format!("/{DISABLED}/announce?{query}")), nobody);
    }
    let unknown = announce(PLAIN, &[7; 20], "");
    assert_eq!(harness.get(&unknown), failure("This torrent does not exist", 300));
    let metrics = harness.engine.metrics();
    assert_eq!(metrics.refusals_of(BadRequest::InvalidNumWant, QueryRules::Private), 1);
    assert_eq!(metrics.refusals_of(hayate_state::Refusal::InvalidPasskey.into(), QueryRules::Private), 9);
}

#[test]
fn a_peer_id_is_told_back_as_it_was_sent() {
    let mut harness = Harness::plain();
    let target = announce(PLAIN, &FREE, "&peer_id=%00%ff%25-qB4250-000000000");
    let text = harness.get(&target);
    assert!(
        text.contains("59:Your client is not approved (peer_id: \\x00\\xff%-qB4250-000000000)"),
        "{text}"
    );
}

#[test]
fn who_may_not_download_may_seed_and_pay_off_hit_and_runs() {
    let mut harness = Harness::plain();
    let denied = failure("Your download privileges are disabled", 3600);
    assert_eq!(harness.get(&announce(HIDDEN, &FREE, "")), denied);
    assert!(harness.get(&announce(HIDDEN, &FREE, "&left=0")).contains(HEAD));
    assert!(harness.get(&announce(HIDDEN, &MUSIC, "")).contains(HEAD));
}

#[test]
fn the_first_seeder_brings_a_pruned_torrent_back() {
    let mut harness = Harness::plain();
    assert!(harness.get(&announce(PLAIN, &PRUNED, "&left=0")).contains("10:downloadedi2e"));
    assert!(harness.get(&announce(PLAIN, &PRUNED, "&left=5")).contains(HEAD));
}

#[test]
fn replies_have_the_keys_of_the_spec_and_no_others() {
    let mut harness = Harness::plain();
    let head = "d8:completei1e10:downloadedi0e10:incompletei0e8:intervali1800e12:min intervali900e5:peers";
    let seeder = announce(PLAIN, &MUSIC, "&left=0");
    assert_eq!(harness.get(&seeder), format!("{head}0:e"));
    assert_eq!(harness.text("2001:db8::9", &format!("{seeder}&compact=0")), format!("{head}lee"));
    let head = head.replacen("incompletei0e", "incompletei1e", 1);
    let leecher = announce(HIDDEN, &MUSIC, "&port=7001&peer_id=-TR2940-000000000002");
    let reply = harness.get(&leecher);
    assert_eq!(
        reply,
        format!(
            "{head}6:-\\x80\\x136\\x1a\\xe16:peers618: \\x01\\r\\xb8{}\\t\\x1a\\xe1e",
            "\\x00".repeat(11)
        )
    );
    let entry = |ip: &str, id: &str| format!("d2:ip{}:{ip}{id}4:porti6881ee", ip.len());
    let id = "7:peer id20:-TR2940-000000000001";
    for (more, id) in [("&compact=0", id), ("&compact=0&no_peer_id=1", ""), ("&compact=0&no_peer_id=2", id)] {
        let list = [entry("45.128.19.54", id), entry("2001:db8::9", id)].concat();
        assert_eq!(harness.get(&format!("{leecher}{more}")), format!("{head}l{list}ee"), "{more}");
    }
    for more in ["&numwant=0", "&event=stopped"] {
        let reply = harness.get(&format!("{leecher}{more}"));
        assert!(reply.ends_with("5:peers0:e"), "{reply}");
    }
}

#[test]
fn events_are_words_in_their_one_spelling() {
    let mut harness = Harness::plain();
    assert!(harness.get(&announce(PLAIN, &MUSIC, "&event=StOpPeD")).contains("10:incompletei1e"));
    assert!(harness.get(&announce(PLAIN, &MUSIC, "&EvEnT=stopped")).contains("10:incompletei0e"));
    assert!(harness.get(&announce(PLAIN, &MUSIC, "&event=%73topped")).contains("10:incompletei0e"));
}

#[test]
fn a_scrape_shows_what_its_member_may_download() {
    let mut harness = Harness::plain();
    let file = |hash: &[u8; 20]| {
        format!("20:{}d8:completei0e10:downloadedi0e10:incompletei0ee", hash.escape_ascii())
    };
    let flags = "5:flagsd20:min_request_intervali900eee";
    let hashes = [FREE, MUSIC, PRUNED, [7; 20], MUSIC].map(|hash| format!("info_hash={}", escaped(&hash)));
    let query = format!("{}&info_hash=short&left=x", hashes.join("&"));
    let (music, free) = (file(&MUSIC), file(&FREE));
    assert_eq!(harness.get(&format!("/{PLAIN}/scrape?{query}")), format!("d5:filesd{music}{free}e{flags}"));
    assert_eq!(harness.get(&format!("/{HIDDEN}/scrape?{query}")), format!("d5:filesd{music}e{flags}"));
    let nothing = failure("Unsupported request - must provide at least one info_hash", 0);
    assert_eq!(harness.get(&format!("/{PLAIN}/scrape?info_hash=x")), nothing);
    let mut off = Harness::new(HttpConfig::default(), Policy { enable_scrape: false, ..policy() });
    assert_eq!(off.ask("::1", &format!("/{PLAIN}/scrape?{query}"), &[]).status, 404);
    assert_eq!(off.get("/nobody/scrape"), failure("Your passkey is invalid", 3600));
}

#[test]
fn paths_are_those_of_the_table() {
    let mut harness = Harness::plain();
    for path in ["/", "/announce", "/scrape", "/x", "//", "/.."] {
        let response = harness.ask("::1", path, &[]);
        assert_eq!((response.status, &*response.body, response.close), (404, &b""[..], false), "{path}");
    }
    for rest in ["", "metrics", "alive", "x", "Announce"] {
        assert_eq!(harness.ask("::1", &format!("/{PLAIN}/{rest}"), &[]).status, 404, "{rest}");
        assert_eq!(harness.get(&format!("/nobody/{rest}")), failure("Your passkey is invalid", 3600));
    }
    let query = announce(PLAIN, &FREE, "").split_once('?').unwrap().1.to_owned();
    for path in ["/a/b/{}/announce", "//{}//announce", "/x/../{}/./announce", "/{}%2fannounce"] {
        let path = path.replace("{}", PLAIN);
        assert!(harness.get(&format!("{path}?{query}")).contains(HEAD), "{path}");
    }
    let odd = format!("/%00%ff{PLAIN}/announce?{query}");
    assert_eq!(harness.get(&odd), failure("Your passkey is invalid", 3600));
    assert_eq!(harness.get("/%/announce"), failure("Your passkey is invalid", 3600));
}

#[test]
fn a_claimed_address_counts_as_the_spec_orders() {
    let anybody = vec!["0.0.0.0/0".parse().unwrap()];
    let config =
        |spoofing_sources| HttpConfig { spoofing_sources, external_ip: false, ..HttpConfig::default() };
    let seeder = |more: &str| announce(PLAIN, &MUSIC, &format!("&left=0{more}"));
    let leecher = announce(HIDDEN, &MUSIC, "&compact=0&no_peer_id=1&peer_id=-TR2940-000000000002");
    for (more, address) in [
        ("", "45.128.19.54"),
        ("&ip=9.8.7.6", "9.8.7.6"),
        ("&ip=2600::1", "2600::1"),
        ("&ip=::ffff:9.8.7.6", "9.8.7.6"),
        ("&ip=10.0.0.1", "45.128.19.54"),
        ("&ip=", "45.128.19.54"),
        ("&ip=09.8.7.6", "45.128.19.54"),
        ("&ip=9.8.7.6:80", "45.128.19.54"),
        ("&ipv4=9.8.7.5", "9.8.7.5"),
        ("&ipv4=9.8.7.5&ip=9.8.7.5", "9.8.7.5"),
        ("&ipv4=9.8.7.5&ip=10.0.0.1", "9.8.7.5"),
        ("&ipv4=9.8.7.5&ip=2600::1", "9.8.7.5"),
        ("&ipv4=10.0.0.1&ip=2600::1", "2600::1"),
        ("&ipv4=2600::2&ip=9.8.7.6", "9.8.7.6"),
        ("&ipv6=2600::1", "45.128.19.54"),
    ] {
        let mut harness = Harness::new(config(anybody.clone()), policy());
        assert!(harness.get(&seeder(more)).contains(HEAD), "{more}");
        let reply = harness.get(&leecher);
        assert!(reply.contains(&format!("d2:ip{}:{address}4:port", address.len())), "{more} {reply}");
        let mut harness = Harness::new(config(Vec::new()), policy());
        harness.get(&seeder(more));
        assert!(harness.get(&leecher).contains("d2:ip12:45.128.19.544:port"), "{more}");
    }
    let mut harness = Harness::new(config(anybody), policy());
    let text = "Invalid IPv4 address (ip: 9.8.7.6)";
    assert_eq!(harness.get(&seeder("&ipv4=9.8.7.5&ip=9.8.7.6")), failure(text, 3600));
    assert_eq!(harness.get(&seeder("&ipv4=9.8.7.5&ip=9%2e8.7.6")), failure(text, 3600));
}

#[test]
fn a_proxy_is_believed_strictly() {
    let config = HttpConfig {
        proxy_header: Some("X-Forwarded-For".into()),
        trusted_proxies: vec!["127.0.0.0/8".parse().unwrap(), "10.0.0.0/8".parse().unwrap()],
        ..HttpConfig::default()
    };
    let unreadable = failure("failed to parse peer IP address", 3600);
    let seeder = announce(PLAIN, &MUSIC, "&left=0");
    let leecher = announce(HIDDEN, &MUSIC, "&compact=0&no_peer_id=1&peer_id=-TR2940-000000000002");
    for (value, address) in [
        ("9.8.7.6", Some("9.8.7.6")),
        ("1.2.3.4, 9.8.7.6 , 10.0.0.2", Some("9.8.7.6")),
        ("10.0.0.1, 10.0.0.2", Some("10.0.0.1")),
        ("192.168.0.7", Some("192.168.0.7")),
        ("2600::1", Some("2600::1")),
        ("[2600::1]", None),
        ("9.8.7.6:80", None),
        ("09.8.7.6", None),
        ("0.0.0.0", None),
        ("224.0.0.1", None),
        ("255.255.255.255", None),
        ("::", None),
        ("ff02::1", None),
        ("x, 10.0.0.2", None),
        ("unknown", None),
    ] {
        let mut harness = Harness::new(config.clone(), policy());
        let response = harness.ask("127.0.0.1", &seeder, &[("x-forwarded-for", value.as_bytes())]);
        let text = response.body.escape_ascii().to_string();
        let Some(address) = address else {
            assert_eq!(text, unreadable, "{value}");
            // A malformed request is refused first, an unknown client later.
            let headers = [("X-Forwarded-For", value.as_bytes())];
            let worse = harness.ask("127.0.0.1", &format!("{seeder}&left=x"), &headers);
            assert!(worse.body.escape_ascii().to_string().contains("invalid left"));
            continue;
        };
        assert!(text.contains(HEAD), "{value} {text}");
        let reply = harness.get(&leecher);
        assert!(reply.contains(&format!("d2:ip{}:{address}4:port", address.len())), "{value} {reply}");
    }
    let single = HttpConfig { proxy_header: Some("X-Real-Ip".into()), ..config.clone() };
    for (lines, fine) in [
        (&[&b"9.8.7.6"[..]][..], true),
        (&[b" 9.8.7.6 "], true),
        (&[b""], true),
        (&[], true),
        (&[b"9.8.7.6, 9.8.7.5"], false),
        (&[b"9.8.7.6", b"9.8.7.6"], false),
    ] {
        let mut harness = Harness::new(single.clone(), policy());
        let headers: Vec<_> = lines.iter().map(|line| ("X-Real-Ip", *line)).collect();
        let reply = harness.ask("127.0.0.1", &seeder, &headers).body.escape_ascii().to_string();
        assert_eq!(reply.contains(HEAD), fine, "{reply}");
    }
    let mut harness = Harness::new(config, policy());
    let response = harness.ask("45.128.19.54", &seeder, &[("X-Forwarded-For", b"9.8.7.6")]);
    assert!(response.body.escape_ascii().to_string().contains(HEAD));
    assert!(harness.get(&leecher).contains("d2:ip12:45.128.19.544:port"));
}

#[test]
fn failures_and_replies_are_encoded_as_the_reference_tracker_does() {
    use crate::wire::reply;
    use hayate_state::actor::PeerList;
    use hayate_state::{Answer, Tally};
    for (text, interval, octets) in [
        ("error message", 5, "d14:failure reason13:error message8:intervali5ee"),
        ("test", 0, "d14:failure reason4:teste"),
        ("test with interval", 3600, "d14:failure reason18:test with interval8:intervali3600ee"),
        ("", 0, "d14:failure reason0:e"),
    ] {
        assert_eq!(reply::failure(text.as_bytes(), interval), octets.as_bytes());
    }
    let tally = Tally { seeders: 1234, completed: 9_101_112, leechers: 5678, paused: 0 };
    let answer = Answer { interval_seconds: 60, min_interval_seconds: 45, tally };
    let nowhere = reply::ReplyAddress { external: None, over_v6: false };
    let write =
        |peers: &PeerList, form| reply::announce(&answer, peers, form, nowhere).escape_ascii().to_string();
    let head = "d8:completei1234e10:downloadedi9101112e10:incompletei5678e8:intervali60e12:min intervali45e";
    let none = PeerList::default();
    assert_eq!(write(&none, reply::ReplyForm::Compact), format!("{head}5:peers0:e"));
    assert_eq!(write(&none, reply::ReplyForm::List), format!("{head}5:peerslee"));
    let v4 = [[0x7f, 0, 0, 1, 0x30, 0x39], [8, 8, 8, 8, 0x7f, 0xff], [1, 1, 10, 10, 0, 22]].concat();
    let peers = PeerList { v4: v4.clone(), ..PeerList::default() };
    assert_eq!(write(&peers, reply::ReplyForm::Compact), format!("{head}5:peers18:{}e", v4.escape_ascii()));
    assert!(write(&peers, reply::ReplyForm::List).ends_with("d2:ip9:1.1.10.104:porti22eeee"));
}
