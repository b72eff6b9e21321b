//! Sections 6, 10 and 12 of the spec: addresses, forms and scrapes.

use super::*;

/// Announces of two more users find each other.
fn peers_of(reply: &Value) -> Vec<u8> {
    reply.text("peers").unwrap().to_vec()
}

#[test]
fn a_compact_reply_holds_exactly_the_keys_of_the_spec() {
    let mut desk = Desk::plain();
    let alone = desk.ask("192.0.2.7", announce("one", 'b', 6881, "&left=0").as_bytes(), &[]);
    let text =
        "d8:completei1e10:downloadedi13e10:incompletei0e8:intervali1800e12:min intervali900e5:peers0:e";
    assert_eq!(alone.body.escape_ascii().to_string(), text);
    // Also for who comes over IPv6: nothing is sent that is empty.
    let over_v6 = desk.get_from("2001:db8::7", &announce("two", 'b', 6882, "&numwant=0"));
    assert_eq!((over_v6.text("peers"), over_v6.entry("peers6")), (Some(&b""[..]), None));
    assert_eq!(over_v6.entry("external ip"), None);
    let both = desk.get(&announce("%00%ff&%20%25%3f", 'b', 6883, ""));
    assert_eq!(peers_of(&both), [192, 0, 2, 7, 0x1a, 0xe1]);
    assert_eq!(both.text("peers6").map(<[u8]>::len), Some(18));
    assert_eq!((both.number("complete"), both.number("incomplete")), (Some(1), Some(2)));
}

#[test]
fn intervals_follow_the_policy() {
    let mut desk = Desk::new(
        DoorConfig { external_ip: true, ..config() },
        Policy { announce_seconds: 7, min_announce_seconds: 0, announce_drift_seconds: 3, ..policy() },
    );
    for _ in 0..50 {
        let reply = desk.get(&announce("one", 'b', 6881, ""));
        assert!((7..10).contains(&reply.number("interval").unwrap()));
        assert_eq!(reply.entry("min interval"), None);
        assert_eq!(reply.text("external ip"), Some(&[192, 0, 2, 7][..]));
    }
}

#[test]
fn the_list_form_has_an_entry_for_each_endpoint_of_a_peer() {
    let mut desk = Desk::plain();
    desk.get(&announce("one", 'b', 6881, "&left=0"));
    desk.get_from("2001:db8::7", &announce("one", 'b', 6882, "&left=0"));
    let mut list = |more: &str| {
        let target = announce("two", 'b', 7001, &format!("&compact=0{more}"));
        let body = desk.ask("192.0.2.9", target.as_bytes(), &[]).body;
        let text = String::from_utf8(body.into_owned()).unwrap();
        text.split_once("5:peers").unwrap().1.to_owned()
    };
    let entries =
        |id: &str| format!("ld2:ip9:192.0.2.7{id}4:porti6881eed2:ip11:2001:db8::7{id}4:porti6882eeee");
    assert_eq!(list(""), entries(&format!("7:peer id20:{PEER_ID}")));
    assert_eq!(list("&no_peer_id=0"), entries(&format!("7:peer id20:{PEER_ID}")));
    assert_eq!(list("&no_peer_id=1"), entries(""));
    assert_eq!(list("&numwant=0"), "lee");
    assert_eq!(list("&event=stopped"), "lee");
}

#[test]
fn an_address_is_claimed_where_that_is_allowed_and_named_by_proxies() {
    let client = |desk: &mut Desk, source: &str, more: &str, headers: &[(&str, &[u8])]| {
        let target = announce("one", 'b', 6881, more);
        match desk.engine.read(&head(source, target.as_bytes(), headers)) {
            Step::Ask(Question::MemberAnnounce(_, announce, _), _) => announce.address.to_string(),
            step => panic!("{step:?}"),
        }
    };
    let mut plain = Desk::plain();
    let sources = vec!["10.0.0.0/8".parse().unwrap()];
    let mut spoofing = Desk::new(DoorConfig { spoofing_sources: sources, ..config() }, policy());
    let claim = "&ipv4=45.128.19.54&ip=45.128.19.54";
    for (source, more, header, without, with) in [
        ("192.0.2.7", claim, "", "192.0.2.7", "192.0.2.7"),
        ("10.0.0.7", claim, "", "10.0.0.7", "45.128.19.54"),
        ("10.0.0.7", "&ip=10.0.0.9", "", "10.0.0.7", "10.0.0.7"),
        ("10.0.0.7", "&ip=2001:db8::9", "", "10.0.0.7", "2001:db8::9"),
        ("::ffff:10.0.0.7", claim, "", "10.0.0.7", "45.128.19.54"),
        ("2001:db8::7", claim, "", "2001:db8::7", "2001:db8::7"),
        ("127.0.0.1", claim, "203.0.113.9", "203.0.113.9", "203.0.113.9"),
        ("127.0.0.1", claim, "10.0.0.9", "10.0.0.9", "45.128.19.54"),
        ("192.0.2.7", "", "203.0.113.9", "192.0.2.7", "192.0.2.7"),
    ] {
        let lines = [("X-REAL-IP", header.as_bytes())];
        let headers = if header.is_empty() { &[][..] } else { &lines[..] };
        assert_eq!(client(&mut plain, source, more, headers), without, "{source} {more}");
        assert_eq!(client(&mut spoofing, source, more, headers), with, "{source} {more}");
    }
    let target = announce("one", 'b', 6881, "&ipv4=45.128.19.54&ip=45.128.19.55");
    let refused = bencoded(&spoofing.ask("10.0.0.7", target.as_bytes(), &[]).body);
    assert_eq!(refused.text("failure reason"), Some(&b"Invalid IPv4 address (ip: 45.128.19.55)"[..]));
    assert_eq!(spoofing.engine.stats().refusals_of(Refusal::AddressesDiffer), 1);
}

#[test]
fn a_scrape_shows_what_a_member_may_see_sorted_and_once() {
    let mut desk = Desk::plain();
    desk.get(&announce("one", 'c', 6881, "&left=0"));
    let scrape = |desk: &mut Desk, passkey: &str, letters: &str| {
        let hashes: Vec<_> = letters.chars().map(|letter| format!("Info_Hash={}", hash(letter))).collect();
        let target = format!("/{passkey}/scrape?{}&info_hash=short&left=%zz", hashes.join("&"));
        String::from_utf8(desk.ask("192.0.2.7", target.as_bytes(), &[]).body.into_owned()).unwrap()
    };
    let b = format!("20:{}d8:completei0e10:downloadedi13e10:incompletei0ee", hash('b'));
    let c = format!("20:{}d8:completei1e10:downloadedi13e10:incompletei0ee", hash('c'));
    let flags = "5:flagsd20:min_request_intervali900eee";
    assert_eq!(scrape(&mut desk, "one", "ecbacbd"), format!("d5:filesd{b}{c}e{flags}"));
    assert_eq!(scrape(&mut desk, "two", "cb"), format!("d5:filesd{b}e{flags}"));
    assert_eq!(scrape(&mut desk, "one", "ade"), format!("d5:filesde{flags}"));
    let nothing = "d14:failure reason57:Unsupported request - must provide at least one info_hashe";
    assert_eq!(scrape(&mut desk, "one", ""), nothing);
    assert_eq!(scrape(&mut desk, "nobody", "b"), failed("Your passkey is invalid", 3600));
    let mut silent = Desk::new(config(), Policy { scrape_seconds: 0, ..policy() });
    assert_eq!(scrape(&mut silent, "one", "b"), format!("d5:filesd{b}ee"));
}

#[test]
fn where_scrapes_are_off_only_members_are_told_so() {
    let mut desk = Desk::new(config(), Policy { enable_scrape: false, ..policy() });
    let target = format!("scrape?info_hash={}", hash('b'));
    let response = desk.ask("192.0.2.7", format!("/one/{target}").as_bytes(), &[]);
    assert_eq!((response.status, &*response.body), (404, &b""[..]));
    assert_eq!(desk.failure(&format!("/nobody/{target}")), failed("Your passkey is invalid", 3600));
}

#[test]
fn a_full_tracker_is_answered_with_what_is_valid() {
    let mut desk = Desk::plain();
    let mut overloaded = |target: &str| {
        let Step::Ask(_, context) = desk.engine.read(&head("192.0.2.7", target.as_bytes(), &[])) else {
            panic!("{target} is no question")
        };
        desk.engine.overloaded(context).body.escape_ascii().to_string()
    };
    let counts = "d8:completei0e10:downloadedi0e10:incompletei0e8:intervali3600e12:min intervali3600e5:peers";
    assert_eq!(overloaded(&announce("one", 'b', 6881, "")), format!("{counts}0:e"));
    assert_eq!(overloaded(&announce("one", 'b', 6881, "&compact=0")), format!("{counts}lee"));
    let scrape = format!("/one/scrape?info_hash={}", hash('b'));
    assert_eq!(overloaded(&scrape), "d5:filesde5:flagsd20:min_request_intervali3600eee");
    assert_eq!(desk.engine.stats().overloads.value(), 3);
}

#[test]
fn replies_of_the_tracker_are_written_and_strange_ones_do_no_harm() {
    let mut desk = Desk::plain();
    let mut written = |target: &str, reply: Reply| {
        let Step::Ask(_, context) = desk.engine.read(&head("192.0.2.7", target.as_bytes(), &[])) else {
            panic!("{target} is no question")
        };
        String::from_utf8(desk.engine.write(reply, context).body.into_owned()).unwrap()
    };
    let (announce, scrape) = (announce("one", 'b', 9, ""), format!("/one/scrape?info_hash={}", hash('b')));
    let denied = |refusal: hayate_state::Refusal| Reply::Announce(Err(refusal.into()));
    let port = "Unacceptable request - port must be outside of well-known range (port: 9)";
    assert_eq!(written(&announce, denied(hayate_state::Refusal::WellKnownPort)), failed(port, 3600));
    let gone = Denial { status: i32::MIN, ..hayate_state::Refusal::UnavailableTorrent.into() };
    let text = "This torrent does not exist (status: -2147483648, left: 13)";
    assert_eq!(written(&announce, Reply::Announce(Err(gone))), failed(text, 900));
    let text = "Your passkey is invalid";
    assert_eq!(written(&announce, denied(hayate_state::Refusal::InvalidPasskey)), failed(text, 3600));
    let tally = Tally { seeders: u32::MAX, completed: 7, leechers: 11, paused: 0 };
    let answer = Answer { interval_seconds: 60, min_interval_seconds: 0, tally };
    let peers = PeerList { v6: vec![b'6'; 18], v6_ids: vec![PeerId([b'i'; 20])], ..PeerList::default() };
    assert_eq!(
        written(&announce, Reply::Announce(Ok((answer, peers)))),
        "d8:completei4294967295e10:downloadedi7e10:incompletei11e8:intervali60e5:peers0:\
         6:peers618:666666666666666666e"
    );
    for (target, reply) in [
        (&announce, Reply::MemberScrape(vec![None])),
        (&announce, Reply::Scrape(Ok(vec![tally]))),
        (&scrape, denied(hayate_state::Refusal::InvalidPasskey)),
        (&scrape, Reply::Scrape(Err(hayate_state::Refusal::ScrapeDisabled))),
    ] {
        assert!(written(target, reply).contains("3600"), "{target}");
    }
    // More or fewer tallies than were asked for.
    assert!(written(&scrape, Reply::MemberScrape(Vec::new())).starts_with("d5:filesde"));
}

#[test]
fn no_target_makes_the_engine_panic_and_every_200_is_canonical() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let sources = vec!["10.0.0.0/8".parse().unwrap()];
    let mut desk = Desk::new(DoorConfig { spoofing_sources: sources, ..config() }, policy());
    let words = [
        "info_hash=",
        "peer_id=",
        "port=",
        "left=",
        "numwant=-",
        "event=",
        "compact=0",
        "ip=",
        "ipv4=",
        "%",
        "&",
        "=",
        "/",
        "..",
        "//",
        "45.128.19.54",
        "?",
    ];
    for _ in 0..5000 {
        let starts = [&b"/one/announce?"[..], b"/one/scrape?", b"/one/../", b"http://x/one/announce?", b""];
        let mut target = random.choice(starts).unwrap().to_vec();
        if random.bool() {
            target.extend_from_slice(query('b', 6881, "&").as_bytes());
        }
        for _ in 0..random.usize(..12) {
            match random.usize(..3) {
                0 => target.extend((0..random.usize(..30)).map(|_| random.u8(..))),
                1 => target.extend(std::iter::repeat_n(b'7', random.usize(..25))),
                _ => target.extend_from_slice(random.choice(words).unwrap().as_bytes()),
            }
        }
        let source = *random.choice(&["192.0.2.7", "10.0.0.1", "127.0.0.1", "2001:db8::1", "::"]).unwrap();
        let response = desk.ask(source, &target, &[("x-real-ip", &target)]);
        match response.status {
            200 => drop(bencoded(&response.body)),
            status => assert!(matches!(status, 404 | 414), "{status}"),
        }
    }
}
