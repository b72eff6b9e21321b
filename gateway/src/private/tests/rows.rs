//! Section 7 of the spec, row by row, and the paths of 4.3.

use super::*;

/// A whole query without one parameter.
fn without(name: &str) -> String {
    let query = query('b', 6881, "");
    let others: Vec<_> = query.split('&').filter(|pair| !pair.starts_with(&format!("{name}="))).collect();
    format!("/one/announce?{}", others.join("&"))
}

#[test]
fn every_row_has_its_text_and_its_interval() {
    let mut desk = Desk::plain();
    for (target, text, interval_seconds) in [
        (announce("nobody", 'b', 6881, ""), "Your passkey is invalid", 3600),
        (without("info_hash"), "Malformed request - missing info_hash", 3600),
        (
            announce("one", 'b', 6881, &format!("&info_hash={}", hash('b'))),
            "Malformed request - can only announce singular info_hash",
            3600,
        ),
        (without("peer_id"), "Malformed request - missing peer_id", 3600),
        (announce("one", 'b', 6881, "&peer_id="), "Malformed request - missing peer_id", 3600),
        (announce("one", 'b', 6881, "&peer_id"), "Malformed request - missing peer_id", 3600),
        (announce("one", 'b', 6881, "&peer_id=-TR29"), "Malformed request - invalid peer_id", 3600),
        (without("port"), "Malformed request - missing port", 3600),
        (announce("one", 'b', 6881, "&port=65536"), "Malformed request - invalid port", 3600),
        (without("uploaded"), "Malformed request - missing uploaded", 3600),
        (announce("one", 'b', 6881, "&uploaded=%zz"), "Malformed request - invalid uploaded", 3600),
        (without("downloaded"), "Malformed request - missing downloaded", 3600),
        (announce("one", 'b', 6881, "&downloaded=+1"), "Malformed request - invalid downloaded", 3600),
        (without("left"), "Malformed request - missing left", 3600),
        (announce("one", 'b', 6881, "&left=-1"), "Malformed request - invalid left", 3600),
        (announce("one", 'b', 6881, "&left="), "Malformed request - invalid left", 3600),
        (announce("one", 'b', 6881, "&left=18446744073709551616"), "Malformed request - invalid left", 3600),
        (announce("one", 'b', 6881, "&numwant=x"), "Malformed request - invalid numwant", 3600),
        (
            announce("one", 'b', 6881, "&peer_id=-qB4250-000000000000"),
            "Your client is not approved (peer_id: -qB4250-000000000000)",
            3600,
        ),
        (announce("one", 'e', 6881, ""), "This torrent does not exist", 300),
        (announce("one", 'x', 6881, ""), "This torrent does not exist: a duplicate", 300),
        (announce("one", 'a', 6881, ""), "This torrent does not exist (status: 1, left: 13)", 900),
        (announce("one", 'd', 6881, "&left=0"), "This torrent does not exist (status: -7, left: 0)", 900),
        (
            announce("one", 'd', 6881, "&left=18446744073709551615"),
            "This torrent does not exist (status: -7, left: 18446744073709551615)",
            900,
        ),
        (announce("two", 'c', 6881, ""), "Your download privileges are disabled", 3600),
    ] {
        assert_eq!(desk.failure(&target), failed(text, interval_seconds), "{target}");
    }
    let counted = |refusal| desk.engine.stats().refusals_of(refusal);
    assert_eq!((counted(Refusal::NoPeerId), counted(Refusal::UnreadableLeft)), (3, 4));
    assert_eq!(counted(hayate_state::Refusal::InvalidPasskey.into()), 1);
    assert_eq!(counted(hayate_state::Refusal::UnavailableTorrent.into()), 3);
}

#[test]
fn who_passes_every_row_is_answered() {
    let mut desk = Desk::plain();
    for target in [
        announce("one", 'b', 6881, ""),
        announce("one", 'b', 0, ""),
        announce("one", 'b', 6881, "&info_hash=short&info_hash=%zz"),
        announce("one", 'b', 6881, "&left=0018446744073709551615&uploaded=000"),
        announce("one", 'b', 6881, "&LEFT=1&%6ceft=2&event=bogus&compact=&ipv4=junk&ip=%zz&key=%"),
        announce("one", 'a', 6881, "&left=0"),
        announce("two", 'b', 6881, ""),
        announce("two", 'c', 6881, "&left=0"),
        announce("x/%00/one", 'b', 6881, ""),
    ] {
        assert!(desk.get(&target).entry("peers").is_some(), "{target}");
    }
}

#[test]
fn the_first_row_that_fails_is_the_answer() {
    let sources = vec!["0.0.0.0/0".parse().unwrap()];
    let mut desk = Desk::new(
        DoorConfig { spoofing_sources: sources, ..config() },
        Policy { strict_port: true, ..policy() },
    );
    // Everything is wrong; then one thing after the other is put right, in the order of the rows.
    let hashes = ["info_hash=short".to_owned(), format!("info_hash={0}&info_hash={0}", hash('e'))];
    let mut query =
        ["", "", "peer_id=", "", "", "downloaded=x", "left=-1", "numwant=", ""].map(str::to_owned);
    query[8] = "ipv4=45.128.19.54&ip=45.128.19.55".into();
    let mut passkey = "nobody";
    let mut step = |passkey: &str, query: &[String; 9], text: &str, interval_seconds| {
        let target = format!("/{passkey}/announce?{}", query.join("&"));
        assert_eq!(desk.failure(&target), failed(text, interval_seconds), "{target}");
    };
    let mut right = |place: usize, said: &str, text: &str, interval_seconds| {
        match place {
            0 => passkey = said,
            place => query[place].replace_range(.., said),
        }
        step(passkey, &query, text, interval_seconds);
    };
    right(0, "nobody", "Your passkey is invalid", 3600);
    right(0, "two", "Malformed request - missing info_hash", 3600);
    right(1, &hashes[0], "Malformed request - missing info_hash", 3600);
    right(1, &hashes[1], "Malformed request - can only announce singular info_hash", 3600);
    let one = format!("info_hash=short&info_hash={}", hash('e'));
    right(1, &one, "Malformed request - missing peer_id", 3600);
    right(2, "peer_id=short", "Malformed request - invalid peer_id", 3600);
    right(2, "peer_id=%00%ff%22-0123456789012345", "Malformed request - missing port", 3600);
    right(3, "port=70000", "Malformed request - invalid port", 3600);
    let well_known = "Unacceptable request - port must be outside of well-known range (port: 1023)";
    right(3, "port=1023", well_known, 3600);
    right(3, "port=1024", "Malformed request - missing uploaded", 3600);
    right(4, "uploaded=", "Malformed request - invalid uploaded", 3600);
    right(4, "uploaded=1", "Malformed request - invalid downloaded", 3600);
    right(5, "downloaded=1", "Malformed request - invalid left", 3600);
    right(6, "left=1", "Malformed request - invalid numwant", 3600);
    right(7, "numwant=1", "Invalid IPv4 address (ip: 45.128.19.55)", 3600);
    drop(right);
    // The raw octets of the peer_id are in the text of row 13.
    query[8].clear();
    let target = format!("/two/announce?{}", query.join("&"));
    let body = desk.ask("192.0.2.7", target.as_bytes(), &[]).body;
    let text = b"42:Your client is not approved (peer_id: \0\xff\"-0123456789012345)";
    let text = [&b"d14:failure reason"[..], &text[..]].concat();
    assert!(body.starts_with(&text[..18]), "{}", body.escape_ascii());
    assert!(
        body.windows(23).any(|w| w.starts_with(b"\0\xff\"-0123456789012345)8")),
        "{}",
        body.escape_ascii()
    );
    query[2] = format!("peer_id={PEER_ID}");
    let mut last = |letter: char, text: &str, interval_seconds| {
        query[1] = format!("info_hash={}", hash(letter));
        let target = format!("/two/announce?{}", query.join("&"));
        assert_eq!(desk.failure(&target), failed(text, interval_seconds), "{target}");
    };
    last('e', "This torrent does not exist", 300);
    last('d', "This torrent does not exist (status: -7, left: 1)", 900);
    last('c', "Your download privileges are disabled", 3600);
}

#[test]
fn a_proxy_that_says_nothing_readable_fails_at_the_place_of_row_12() {
    let mut desk = Desk::plain();
    let mut failure = |target: String| {
        let response = desk.ask("127.0.0.1", target.as_bytes(), &[("x-real-ip", b"junk")]);
        String::from_utf8(response.body.into_owned()).unwrap()
    };
    let numwant = failed("Malformed request - invalid numwant", 3600);
    assert_eq!(failure(announce("one", 'b', 6881, "&numwant=x")), numwant);
    let unreadable = failed("failed to parse peer IP address", 3600);
    assert_eq!(failure(announce("one", 'e', 6881, "&peer_id=-qB4250-000000000000")), unreadable);
    assert!(failure(format!("/one/scrape?info_hash={}", hash('b'))).starts_with("d5:filesd"));
    assert_eq!(desk.engine.stats().refusals_of(Refusal::UnreadableAddress), 1);
}

#[test]
fn num_want_is_a_wish_but_no_riddle() {
    let desk = Desk::plain();
    let mut desk = Desk { engine: desk.engine, ..desk };
    for (more, granted) in [
        ("", Some(25)),
        ("&numwant=-1", Some(25)),
        ("&numwant=-99999999999999999999", Some(25)),
        ("&numwant=0", Some(0)),
        ("&numwant=007", Some(7)),
        ("&numwant=51", Some(50)),
        ("&numwant=65536", Some(50)),
        ("&numwant=99999999999999999999", Some(50)),
        ("&numwant=", None),
        ("&numwant", None),
        ("&numwant=-", None),
        ("&numwant=--1", None),
        ("&numwant=-1x", None),
        ("&numwant=+1", None),
        ("&numwant=1.0", None),
        ("&numwant=%31%", None),
    ] {
        let target = announce("one", 'b', 6881, more);
        let read = match desk.engine.read(&head("192.0.2.7", target.as_bytes(), &[])) {
            Step::Ask(Question::MemberAnnounce(_, announce, _), _) => Some(announce.num_want),
            _ => None,
        };
        assert_eq!(read, granted, "{more}");
    }
}

#[test]
fn an_announce_is_read_as_it_is_said() {
    let mut desk = Desk::plain();
    let mut read = |more: &str| {
        let target = announce("two", 'b', 6881, more);
        match desk.engine.read(&head("::ffff:192.0.2.7", target.as_bytes(), &[])) {
            Step::Ask(Question::MemberAnnounce(member, announce, form), _) => (member, announce, form),
            step => panic!("{step:?}"),
        }
    };
    let (member, announce, form) = read("&event=completed&left=17");
    assert_eq!((member.id, form), (2, PeerForm::Compact));
    let hayate_state::Announce {
        info_hash, peer_id, address, port, uploaded, downloaded, left, event, ..
    } = announce;
    assert_eq!((info_hash.0, peer_id.0.as_slice()), ([b'b'; 20], PEER_ID.as_bytes()));
    assert_eq!((address.to_string().as_str(), port), ("192.0.2.7", 6881));
    assert_eq!((uploaded, downloaded, left, event), (7, 11, 17, hayate_state::Event::Completed));
    for (more, event) in [
        ("&event=stopped", hayate_state::Event::Stopped),
        ("&event=%73topped", hayate_state::Event::Stopped),
        ("&event=Stopped", hayate_state::Event::None),
        ("&event=c0mPl3tED", hayate_state::Event::None),
        ("&event=", hayate_state::Event::None),
    ] {
        assert_eq!(read(more).1.event, event, "{more}");
    }
    for (more, form) in [
        ("&compact=0", PeerForm::WithIds),
        ("&compact=0&no_peer_id=0", PeerForm::WithIds),
        ("&compact=0&no_peer_id=", PeerForm::WithIds),
        ("&compact=0&no_peer_id=true", PeerForm::WithIds),
        ("&compact=0&no_peer_id=1", PeerForm::Compact),
        ("&compact=00", PeerForm::Compact),
        ("&compact=1", PeerForm::Compact),
    ] {
        assert_eq!(read(more).2, form, "{more}");
    }
}

#[test]
fn paths_lead_where_the_table_says() {
    let mut desk = Desk::plain();
    let passkey = failed("Your passkey is invalid", 3600);
    for (target, status) in [
        ("/", 404),
        ("/health", 404),
        ("/announce", 404),
        ("/favicon.ico", 404),
        ("/one/", 404),
        ("/one/other", 404),
        ("/one/metrics", 404),
        ("/one/alive", 404),
        ("/x/one/announces?a", 404),
        ("/nobody/", 200),
        ("/nobody/other", 200),
        ("/nobody/metrics", 200),
        ("/nobody/alive", 200),
        ("/nobody/scrape", 200),
        ("/one/announce/", 200),
        ("/one%00/announce", 200),
        ("/One/announce", 200),
    ] {
        let response = desk.ask("192.0.2.7", target.as_bytes(), &[]);
        let body = String::from_utf8(response.body.into_owned()).unwrap();
        assert_eq!((response.status, response.content_type), (status, "text/plain"), "{target}");
        assert_eq!(body, if status == 200 { passkey.as_str() } else { "" }, "{target}");
    }
    for target in ["//x//one/./announce", "/%6fne/announce", "/a%2fone/x/../announce"] {
        let failure = failed("Malformed request - missing info_hash", 3600);
        assert_eq!(desk.failure(target), failure, "{target}");
    }
    let odd = "/%00%ff&%20%25%3f/announce?";
    assert!(desk.get(&format!("{odd}{}", query('b', 6881, ""))).entry("peers").is_some());
}

#[test]
fn pages_are_the_servers_and_metrics_may_be_off() {
    let mut desk = Desk::plain();
    let page =
        |desk: &mut Desk, target: &str| match desk.engine.read(&head("192.0.2.7", target.as_bytes(), &[])) {
            Step::Page(page) => Some(page),
            _ => None,
        };
    assert_eq!(page(&mut desk, "//alive?x"), Some(Page::Alive));
    assert_eq!(page(&mut desk, "/metrics"), Some(Page::Metrics));
    assert_eq!(page(&mut desk, "/health"), None);
    desk.config.publish(DoorConfig { enable_metrics: false, ..config() });
    assert_eq!(page(&mut desk, "/metrics"), None);
    assert_eq!(page(&mut desk, "/alive"), Some(Page::Alive));
}

#[test]
fn members_come_and_go_with_the_register() {
    let mut desk = Desk::plain();
    assert!(desk.get(&announce("one", 'b', 6881, "")).entry("peers").is_some());
    desk.site.change(|register| register.members = Arc::default());
    assert_eq!(desk.failure(&announce("one", 'b', 6881, "")), failed("Your passkey is invalid", 3600));
}
