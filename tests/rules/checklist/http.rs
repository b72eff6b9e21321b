//! What the HTTP gateway reads and answers (`rules/http.md`).

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};

use hayate_tools::bencode::Value;
use serde_json::json;

use crate::harness::{
    Daemon, Response, TIMEOUT, UdpClient, announce_target, exchange, fetch, get, parse_response, peers_of,
};

fn failure(response: &Response) -> Option<String> {
    let reply = response.bencoded();
    Some(String::from_utf8(reply.at("failure reason")?.octets()?.to_vec()).unwrap())
}

fn number(response: &Response, key: &str) -> Option<i64> {
    response.bencoded().at(key).and_then(Value::integer)
}

/// Sends `request` from `source` and reads the response.
fn from(source: &str, daemon: &Daemon, request: &str) -> Response {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(source.parse().unwrap(), 0).into()).unwrap();
    socket.connect(&daemon.v4().into()).unwrap();
    exchange(TcpStream::from(socket), request).unwrap()
}

#[test]
fn routes() {
    let routes = ["/announce", "/:key/announce", "/x/*rest", "/x/plain/announce"];
    let daemon = Daemon::start(json!({"http": {
        "announce_routes": routes, "scrape_routes": ["/scrape", "/:key/scrape"]}}));
    let query = announce_target('a', 7001, "&left=9").replace("/announce", "");
    for path in ["/announce", "/k%65y/announce", "/x/a/b/c", "/x/plain/announce", "//announce"] {
        assert_eq!(number(&fetch(daemon.v4(), &format!("{path}{query}")), "incomplete"), Some(1), "{path}");
    }
    assert_eq!(fetch(daemon.v4(), &format!("/key/scrape?info_hash={}", "a".repeat(20))).status, 200);
    for path in ["/announce/", "/ANNOUNCE", "/key//announce", "/key/other/announce", "/x", "/nothing"] {
        assert_eq!(fetch(daemon.v4(), &format!("{path}{query}")).status, 404, "{path}");
    }
    for method in ["POST", "HEAD", "OPTIONS"] {
        let request = get(&format!("/announce{query}")).replacen("GET", method, 1);
        let response = exchange(TcpStream::connect(daemon.v4()).unwrap(), &request).unwrap();
        assert_eq!((response.status, response.headers["allow"].as_str()), (405, "GET"), "{method}");
    }
}

#[test]
fn query() {
    let daemon = Daemon::start(json!({"intervals": {"announce_drift": 0}}));
    let body = |target: &str| String::from_utf8_lossy(&fetch(daemon.v4(), target).body).into_owned();
    let usual = body(&announce_target('a', 7001, "&left=9"));
    assert!(usual.contains("10:incompletei1e"), "{usual}");
    let (hash, id) = ("%61".repeat(20), "%2dXX0001-0000000000%30%31");
    for target in [
        format!("/announce?info_hash={hash}&peer_id={id}&port=7001&uploaded=0&downloaded=0&left=9"),
        format!("/announce?&&PORT=7001&LEFT=9&Peer_ID={id}&info_hash={hash}&"),
        format!("/announce?port=1&port=7001&left=0&left=9&peer_id=x&peer_id={id}&info_hash={hash}"),
        format!("/announce?port=7001&left=9&peer_id={id}&info_hash={hash}&a&=b?&key=%zz&jwt=+"),
    ] {
        assert_eq!(body(&target), usual, "{target}");
    }
    // Only the lower-case name is that of the infohash, and `;` and `+` have no special meaning.
    let upper = format!("/announce?INFO_HASH={hash}&peer_id={id}&port=7001&left=9");
    assert!(body(&upper).contains("no info_hash parameter supplied"));
    assert!(
        body(&format!("/announce?info_hash={hash};peer_id={id}&port=7001&left=9"))
            .contains("invalid infohash")
    );
    let plus = format!("/scrape?info_hash={}", "+".repeat(20));
    assert!(fetch(daemon.v4(), &plus).bencoded().at("files").unwrap().at(&"+".repeat(20)).is_some());
    for bad in ["info_hash=%0%a", "info_hash=%6", &format!("info_hash={hash}&peer_id=%zz")] {
        assert!(body(&format!("/announce?{bad}")).contains("invalid query escape"), "{bad}");
    }
}

#[test]
fn events() {
    let daemon = Daemon::start(json!({}));
    let udp = UdpClient::connect("127.0.0.1", daemon.v4());
    let mut port = 7000;
    for event in ["", "none", "paused", "xyz", "Started", "%73tarted"] {
        port += 1;
        let reply = fetch(daemon.v4(), &announce_target('a', port, &format!("&left=9&event={event}")));
        assert_eq!(number(&reply, "incomplete"), Some(i64::from(port) - 7000), "{event}");
    }
    for event in [4, 1 << 31] {
        port += 1;
        assert_eq!(udp.announce(b'a', port, 9, event).0, u32::from(port) - 7000, "{event}");
    }
    let stopped = fetch(daemon.v4(), &announce_target('a', 7001, "&left=9&event=STOPPED"));
    assert_eq!(number(&stopped, "incomplete"), Some(i64::from(port) - 7001));
}

#[test]
fn numwant() {
    let daemon = Daemon::start(json!({"announce": {"max_numwant": 100}}));
    let udp = UdpClient::connect("127.0.0.1", daemon.v4());
    (0..200).for_each(|port| _ = udp.announce(b'a', 8000 + port, 9, 0));
    for (num_want, peers) in [
        ("", 50),
        ("&numwant=", 50),
        ("&numwant=-1", 50),
        ("&numwant=x", 50),
        ("&numwant=0", 0),
        ("&numwant=7", 7),
        ("&numwant=100", 100),
        ("&numwant=1000", 100),
        ("&numwant=99999999999999999999", 100),
    ] {
        let reply = fetch(daemon.v4(), &announce_target('a', 7001, &format!("&left=9{num_want}")));
        let handed_out = reply.peers();
        assert_eq!((failure(&reply), handed_out.len()), (None, peers), "{num_want}");
        assert!(handed_out.windows(2).all(|two| two[0] != two[1]), "no peer twice");
    }
}

/// Returns the position of each key in the reply.
fn positions(body: &[u8], keys: &[&str]) -> Vec<Option<usize>> {
    let position = |key: &&str| {
        let key = format!("{}:{key}", key.len());
        body.windows(key.len()).position(|window| window == key.as_bytes())
    };
    keys.iter().map(position).collect()
}

#[test]
fn reply_format() {
    let keep = json!({"announce": {"keep_peer_ids": true}, "intervals": {"announce_drift": 0}});
    for (config, ids) in [(keep, true), (json!({}), false)] {
        let daemon = Daemon::start(config);
        let (v4, v6) = (UdpClient::connect("127.0.0.1", daemon.v4()), UdpClient::connect("::1", daemon.v6()));
        // No peer with the client's own peer id is handed out if ids are kept.
        let target = |more: &str| announce_target('a', 7001, more).replace("-XX0001-", "-XX0002-");
        let ask = |more: &str| fetch(daemon.v4(), &target(&format!("&left=9{more}")));
        let lone = ask("");
        assert_eq!((&lone.headers["content-type"][..], lone.status), ("text/plain", 200));
        assert!(lone.headers.contains_key("date") && !lone.headers.contains_key("transfer-encoding"));
        assert_eq!(lone.headers["content-length"], lone.body.len().to_string());
        assert_eq!(lone.bencoded().at("peers").and_then(Value::octets), Some(&b""[..]), "empty, but there");
        assert!(lone.bencoded().at("peers6").is_none());
        (0..3).for_each(|port| _ = v4.announce(b'a', 8000 + port, 9, 0));
        (0..2).for_each(|port| _ = v6.announce(b'a', 8000 + port, 0, 0));
        for compact in ["", "&compact=1", "&compact=x"] {
            let reply = ask(compact);
            let octets = |key| reply.bencoded().at(key).and_then(Value::octets).unwrap().to_vec();
            assert_eq!((peers_of(&octets("peers"), 6).len(), peers_of(&octets("peers6"), 18).len()), (3, 2));
            let keys = [
                "complete",
                "downloaded",
                "external ip",
                "incomplete",
                "interval",
                "min interval",
                "peers",
                "peers6",
            ];
            let positions = positions(&reply.body, &keys);
            assert!(positions.iter().all(Option::is_some) && positions.is_sorted(), "{positions:?}");
            for never in ["tracker id", "warning message", "retry in"] {
                assert!(reply.bencoded().at(never).is_none());
            }
        }
        for (more, shown) in [("&compact=0", ids), ("&compact=0&no_peer_id=1", false)] {
            let reply = ask(more).bencoded();
            assert!(reply.at("peers6").is_none(), "one list holds both families");
            let Some(Value::List(list)) = reply.at("peers") else { panic!("no list") };
            assert_eq!(list.len(), 5);
            for peer in list {
                let ip = peer.at("ip").and_then(Value::octets).unwrap();
                assert!([&b"127.0.0.1"[..], b"::1"].contains(&ip));
                assert!(peer.at("port").and_then(Value::integer).unwrap() >= 8000);
                let id = peer.at("peer id").and_then(Value::octets);
                assert_eq!(id, shown.then_some(&b"-XX0001-000000000001"[..]), "{more}");
            }
        }
    }
}

/// Returns the client address that the tracker has determined (BEP 24), or the failure.
fn seen(response: &Response) -> Result<IpAddr, String> {
    if let Some(text) = failure(response) {
        return Err(text);
    }
    let reply = response.bencoded();
    let octets = reply.at("external ip").and_then(Value::octets).unwrap();
    Ok(<[u8; 4]>::try_from(octets)
        .map_or_else(|_| <[u8; 16]>::try_from(octets).unwrap().into(), IpAddr::from))
}

#[test]
fn client_address() {
    let daemon = Daemon::start(json!({"http": {
        "proxy_header": "X-Forwarded-For", "trusted_proxies": ["127.0.0.1", "10.0.0.0/8"]}}));
    let ask = |source: &str, headers: &str| {
        let target = announce_target('a', 7001, "&left=9&ip=198.51.100.77");
        let request = format!("GET {target} HTTP/1.1\r\nHost: t\r\n{headers}Connection: close\r\n\r\n");
        seen(&from(source, &daemon, &request))
    };
    let forwarded = |chain: &str| format!("X-Forwarded-For: {chain}\r\n");
    let address = |text: &str| Ok(text.parse().unwrap());
    assert_eq!(
        ask("127.0.0.2", &forwarded("45.128.19.9")),
        address("127.0.0.2"),
        "this proxy is not trusted"
    );
    for (chain, client) in [
        ("45.128.19.9", "45.128.19.9"),
        ("192.0.2.66, 45.128.19.9", "45.128.19.9"),
        ("192.0.2.66, 45.128.19.9, 10.0.0.2", "45.128.19.9"),
        ("192.0.2.66\r\nX-Forwarded-For: 45.128.19.9", "45.128.19.9"),
        ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("junk, 45.128.19.9", "45.128.19.9"),
        ("[2a00:db8::9]:443", "2a00:db8::9"),
        ("45.128.19.9:51234", "45.128.19.9"),
        ("::ffff:45.128.19.9", "45.128.19.9"),
        ("", "127.0.0.1"),
    ] {
        assert_eq!(ask("127.0.0.1", &forwarded(chain)), address(client), "{chain}");
    }
    assert_eq!(ask("127.0.0.1", ""), address("127.0.0.1"));
    let unreadable = Err("failed to parse peer IP address".to_owned());
    assert_eq!(ask("127.0.0.1", &forwarded("45.128.19.9, junk")), unreadable);

    let spoofing = Daemon::start(json!({"announce": {"allow_ip_spoofing": true}}));
    let ask = |more: &str| fetch(spoofing.v4(), &announce_target('b', 7001, &format!("&left=9{more}")));
    let shown = || ask("&numwant=200&event=stopped&port=9").peers();
    assert!(shown().is_empty());
    for (claim, address) in [
        ("&ip=45.128.19.9", Some("45.128.19.9:7001")),
        ("&ipv4=45.128.19.10", Some("45.128.19.10:7001")),
        ("&ipv6=2a00:db8::9", Some("[2a00:db8::9]:7001")),
        ("&ip=::ffff:45.128.19.11", Some("45.128.19.11:7001")),
        ("&ip=", Some("127.0.0.1:7001")),
        ("&ip=localhost", None),
        ("&ip=fe80::1%25eth0", None),
    ] {
        let reply = ask(claim);
        assert_eq!(failure(&reply).is_none(), address.is_some(), "{claim}");
        let Some(address) = address else { continue };
        let others = fetch(spoofing.v4(), &announce_target('b', 7999, "&left=9&numwant=200")).peers();
        assert!(others.contains(&address.parse().unwrap()), "{claim}: {others:?}");
    }
}

#[test]
fn a_proxy_that_is_not_trusted_is_named_with_the_key_to_set() {
    for (config, header, advice) in [
        (
            json!({}),
            "x-forwarded-for",
            "X-Forwarded-For, and is taken for the client itself: if it is your \
            proxy, set http.proxy_header to that name",
        ),
        (
            json!({}),
            "Forwarded",
            "Forwarded, and is taken for the client itself: if it is your proxy, let it \
            send X-Forwarded-For, set http.proxy_header to that",
        ),
        (
            json!({"proxy_header": "X-Real-IP", "trusted_proxies": ["10.0.0.1"]}),
            "X-Real-IP",
            "X-Real-IP, and \
            is not believed: if it is your proxy, add it to http.trusted_proxies",
        ),
    ] {
        let daemon = Daemon::start(json!({"http": config}));
        let target = announce_target('a', 7001, "&left=9");
        for _ in 0..3 {
            let head = format!("GET {target} HTTP/1.1\r\nHost: t\r\n{header}: for=45.128.19.9\r\n");
            let request = format!("{head}Connection: close\r\n\r\n");
            assert_eq!(seen(&from("127.0.0.1", &daemon, &request)), Ok("127.0.0.1".parse().unwrap()));
        }
        let line = format!("http: 127.0.0.1 names its client by {advice}");
        daemon.wait_for_log(&line, 1);
        assert_eq!(daemon.metric("proxy_header_ignored_total"), 3);
    }
}

#[test]
fn http_scrape() {
    let daemon = Daemon::start(json!({"http": {"max_scrape_infohashes": 50, "proxy_header": "X-Real-IP"}}));
    let (v4, v6) = (UdpClient::connect("127.0.0.1", daemon.v4()), UdpClient::connect("::1", daemon.v6()));
    v4.announce(b'a', 7001, 9, 0);
    v6.announce(b'a', 7002, 9, 0);
    v6.announce(b'a', 7002, 0, 1);
    let (a, b) = ("a".repeat(20), "b".repeat(20));
    let target = format!("/scrape?info_hash={a}&info_hash={b}&info_hash={a}");
    let expected = format!(
        "d5:filesd20:{a}d8:completei1e10:downloadedi1e10:incompletei1ee\
         20:{b}d8:completei0e10:downloadedi0e10:incompletei0eee\
         5:flagsd20:min_request_intervali900eee"
    );
    let proxied =
        format!("GET {target} HTTP/1.1\r\nHost: t\r\nX-Real-IP: 2a00:db8::9\r\nConnection: close\r\n\r\n");
    for response in [
        fetch(daemon.v4(), &target),
        fetch(daemon.v6(), &target),
        exchange(TcpStream::connect(daemon.v4()).unwrap(), &proxied).unwrap(),
    ] {
        assert_eq!(String::from_utf8_lossy(&response.body), expected);
    }
    let many: String = (0..60).map(|number| format!("&info_hash={number:020}")).collect();
    let reply = fetch(daemon.v4(), &format!("/scrape?{many}")).bencoded();
    let files = reply.at("files").unwrap();
    let answered = |number: u32| files.at(&format!("{number:020}")).is_some();
    assert!((0..50).all(answered) && !(50..60).any(answered));
    assert_eq!(failure(&fetch(daemon.v4(), "/scrape")).as_deref(), Some("no info_hash parameter supplied"));
    let bad = fetch(daemon.v4(), "/scrape?info_hash=abc");
    assert_eq!(failure(&bad).as_deref(), Some("provided invalid infohash"));
    let off = Daemon::start(json!({"enable_scrape": false}));
    assert_eq!(fetch(off.v4(), &target).status, 404);
}

#[test]
fn keep_alive_and_timeouts() {
    let off = Daemon::start(json!({"http": {"enable_keepalive": false}}));
    let request = "GET /alive HTTP/1.1\r\nHost: t\r\n\r\n";
    let mut stream = TcpStream::connect(off.v4()).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut octets = Vec::new();
    stream.read_to_end(&mut octets).expect("closed by the tracker");
    assert_eq!(parse_response(&octets).unwrap().headers["connection"], "close");

    // Kept: one request after the other; then the idle time, which is closed without an answer.
    let daemon = Daemon::start(json!({"http": {"timeout": {"read": "1s", "idle": "1s"}}}));
    let mut stream = TcpStream::connect(daemon.v4()).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut one = [0; 512];
    for _ in 0..2 {
        stream.write_all(request.as_bytes()).unwrap();
        let len = stream.read(&mut one).unwrap();
        assert!(!parse_response(&one[..len]).unwrap().headers.contains_key("connection"));
    }
    assert_eq!(stream.read_to_end(&mut Vec::new()).unwrap(), 0);
    // A head that stalls is closed without an answer too.
    let mut stream = TcpStream::connect(daemon.v4()).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.write_all(&request.as_bytes()[..30]).unwrap();
    assert_eq!(stream.read_to_end(&mut Vec::new()).unwrap(), 0);
    for phase in ["head", "idle"] {
        assert_eq!(daemon.metric(&format!("http_timeouts_total{{phase=\"{phase}\"}}")), 1, "{phase}");
    }
}
