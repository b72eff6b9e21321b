//! What the UDP server reads and answers (`rules/udp.md`).

use std::time::Duration;

use serde_json::json;

use crate::harness::{
    Daemon, Folder, TIMEOUT, UdpClient, announce_rest, announce_target, ask, connect_request, eventually,
    fetch, hayate, peers_of, udp_socket,
};

fn error_text(reply: &[u8]) -> &str {
    assert_eq!(reply[..8], [0, 0, 0, 3, 1, 2, 3, 4]);
    std::str::from_utf8(&reply[8..]).unwrap()
}

#[test]
fn udp_connect_and_id() {
    let key = json!({"udp": {"private_key": "a key of several nodes"}});
    let (a, b, other_key) = (Daemon::start(key.clone()), Daemon::start(key), Daemon::start(json!({})));
    // Octets after the 16 of a connect are ignored.
    let socket = udp_socket("127.0.0.1", a.v4());
    let reply = ask(&socket, &[connect_request(), vec![7; 80]].concat()).unwrap();
    assert_eq!((reply.len(), &reply[..8]), (16, &[0, 0, 0, 0, 1, 2, 3, 4][..]));
    // An id is valid repeatedly, from any port of its address, at each node with that key.
    let client = UdpClient::connect("127.0.0.1", a.v4());
    for (daemon, source, good) in [
        (&a, "127.0.0.1", true),
        (&b, "127.0.0.1", true),
        (&a, "127.0.0.2", false),
        (&other_key, "127.0.0.1", false),
    ] {
        let other = UdpClient { socket: udp_socket(source, daemon.v4()), id: client.id };
        other.socket.set_read_timeout(Some(if good { TIMEOUT } else { Duration::from_secs(1) })).unwrap();
        for _ in 0..1 + u8::from(good) {
            let reply = ask(&other.socket, &other.request(2, &[b'a'; 20]));
            assert_eq!(reply.is_some(), good, "{source} at {}", daemon.port);
        }
    }
    let forged = "udp_refusals_total{reason=\"forged_connection\"}";
    assert!(eventually(|| a.metric(forged) + other_key.metric(forged) == 2));
}

/// Returns an announce in the older layout for IPv6, whose address has 16 octets.
fn older(rest: &[u8], address: [u8; 16]) -> Vec<u8> {
    [&rest[..68], &address, &rest[72..]].concat()
}

#[test]
fn udp_announce() {
    let spoofing = json!({"announce": {"allow_ip_spoofing": true, "max_numwant": 200}});
    let daemon = Daemon::start(spoofing);
    let (v4, v6) = (UdpClient::connect("127.0.0.1", daemon.v4()), UdpClient::connect("::1", daemon.v6()));
    let rest = announce_rest(b'a', 7001, 9, 2, -1);
    let zeros = older(&rest, [0; 16]);
    for (client, entry) in [(&v4, 6), (&v6, 18)] {
        for (action, rest) in [(1, &rest), (4, &zeros)] {
            let cut = client.request(action, &rest[..rest.len() - 1]);
            assert_eq!(error_text(&ask(&client.socket, &cut).unwrap()), "malformed packet");
            let reply = ask(&client.socket, &client.request(action, rest)).unwrap();
            assert_eq!(reply[..8], [0, 0, 0, u8::try_from(action).unwrap(), 1, 2, 3, 4]);
            assert_eq!(reply.len(), 20, "alone in its family");
        }
        // An address of zeros is the source, also where claims count.
        let mut other = announce_rest(b'a', 7002, 9, 2, -1);
        let reply = ask(&client.socket, &client.request(1, &other)).unwrap();
        assert_eq!(reply.len(), 20 + entry);
        assert_eq!(peers_of(&reply[20..], entry)[0].ip(), client.socket.local_addr().unwrap().ip());
        other[80..82].copy_from_slice(&7001_u16.to_be_bytes());
    }
    let seven = ask(&v4.socket, &v4.request(7, &rest)).unwrap();
    assert_eq!(error_text(&seven), "unknown action ID");
    // A claimed address counts over IPv4 only.
    let mut claim = announce_rest(b'b', 7001, 9, 2, -1);
    claim[68..72].copy_from_slice(&[45, 128, 19, 9]);
    ask(&v4.socket, &v4.request(1, &claim)).unwrap();
    let mut mapped = [0; 16];
    mapped[10..].copy_from_slice(&[255, 255, 45, 128, 19, 10]);
    ask(&v4.socket, &v4.request(4, &older(&claim, mapped))).unwrap();
    ask(&v6.socket, &v6.request(1, &claim)).unwrap();
    let shown = fetch(daemon.v4(), &announce_target('b', 7999, "&left=9")).peers();
    let expected = ["[::1]:7001", "45.128.19.9:7001", "45.128.19.10:7001"].map(|peer| peer.parse().unwrap());
    assert!(expected.iter().all(|peer| shown.contains(peer)) && shown.len() == 3, "{shown:?}");
    // As many as a datagram of 1232 octets holds; clients that want fewer get fewer.
    for (client, entry, max) in [(&v4, 6, 100), (&v6, 18, 67)] {
        (0..101).for_each(|port| _ = client.announce(b'c', 8000 + port, 9, 0));
        for (num_want, peers) in [(100, max), (7, 7), (0, 0), (-1, 50), (i32::MIN, 50)] {
            let request = client.request(1, &announce_rest(b'c', 8000, 9, 0, num_want));
            let reply = ask(&client.socket, &request).unwrap();
            assert_eq!((reply.len() - 20) / entry, peers, "{num_want}");
        }
    }
}

#[test]
fn udp_scrape() {
    let config = json!({"udp": {"max_scrape_infohashes": 74}});
    let daemon = Daemon::start_in(Folder::new(), config, hayate().arg("--debug"));
    let client = UdpClient::connect("127.0.0.1", daemon.v4());
    client.announce(b'a', 7001, 9, 0);
    client.announce(b'a', 7001, 0, 1);
    client.announce(b'b', 7001, 9, 0);
    // In the order of the request, repeated torrents repeatedly, unknown ones as zeros.
    let rest: Vec<u8> = b"bzab".iter().flat_map(|&letter| [letter; 20]).collect();
    let reply = ask(&client.socket, &client.request(2, &rest)).unwrap();
    let words: Vec<u32> = reply.chunks(4).map(|word| u32::from_be_bytes(word.try_into().unwrap())).collect();
    assert_eq!(words, [2, 0x0102_0304, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0, 0, 1]);
    // Up to the limit, and without a broken tail.
    for (hashes, tail, rows) in [(1, 0, 1), (74, 0, 74), (75, 0, 74), (100, 0, 74), (2, 19, 2), (73, 1, 73)] {
        let mut rest = vec![b'a'; 20 * hashes];
        rest.extend(vec![0; tail]);
        let reply = ask(&client.socket, &client.request(2, &rest)).unwrap();
        assert_eq!(reply.len(), 8 + 12 * rows, "{hashes} hashes and {tail} octets");
        assert!(reply[8..].chunks(12).all(|row| row == [0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0]));
    }
    for rest in [&[][..], &[b'a'; 19]] {
        let reply = ask(&client.socket, &client.request(2, rest)).unwrap();
        assert_eq!(error_text(&reply), "malformed packet");
    }
    let off = Daemon::start(json!({"enable_scrape": false}));
    let client = UdpClient::connect("127.0.0.1", off.v4());
    let reply = ask(&client.socket, &client.request(2, &[b'a'; 20])).unwrap();
    assert_eq!(error_text(&reply), "scrape disabled");
}
