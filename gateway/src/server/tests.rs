//! The real server on the loopback, with requests over raw sockets.

mod kit;

use std::io::Write as _;
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;

use hayate_state::actor::Actor;
use hayate_state::{Swarms, Tracker};

use self::kit::*;
use super::replies::tests::while_the_actor_is_busy;
use super::*;
use crate::config::ListenConfig;
use crate::operator::{HealthCheck, HealthStatus};

#[test]
fn a_connection_is_kept_for_further_requests() {
    let daemon = Daemon::open();
    let mut client = daemon.connect();
    for _ in 0..3 {
        let reply = client.get(ANNOUNCE).decoded();
        assert_eq!(reply.string("peers"), Some(&b""[..]));
        assert_eq!(reply.integer("incomplete"), Some(1));
    }
    assert!(client.get(SCRAPE).decoded().get("files").unwrap().get(&"b".repeat(20)).is_some());
    daemon.await_count("http_requests_total", "announce", 3);
    assert_eq!(daemon.counted("http_connections", ""), 1);
    daemon.stop();
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let daemon = Daemon::open();
    let mut client = daemon.connect();
    let paths = [ANNOUNCE, "/nowhere", SCRAPE, "/announce", ANNOUNCE];
    let requests: Vec<_> =
        paths.iter().map(|path| format!("GET {path} HTTP/1.1\r\nHost: t\r\n\r\n")).collect();
    client.send(&requests.concat());
    assert!(client.receive().decoded().get("peers").is_some());
    assert_eq!(client.receive().status, 404);
    assert!(client.receive().decoded().get("files").is_some());
    assert!(client.receive().decoded().get("failure reason").is_some());
    assert!(client.receive().decoded().get("peers").is_some());
    daemon.stop();
}

#[test]
fn only_get_is_answered() {
    let daemon = Daemon::open();
    let mut client = daemon.connect();
    client.send(&format!("HEAD {ANNOUNCE} HTTP/1.1\r\nHost: t\r\n\r\n"));
    let (status, head) = client.receive_head();
    assert!(status == 405 && head.contains("allow: GET\r\n"), "{head}");
    client.send("OPTIONS * HTTP/1.1\r\nHost: t\r\n\r\n");
    let got = client.receive();
    assert_eq!(
        (got.status, got.header("allow"), &*got.body),
        (405, Some("GET"), &b"Method Not Allowed\n"[..])
    );
    client.send("POST /announce HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\nabc");
    assert_eq!(client.receive().status, 405);
    client.is_closed();
    let hash = "a".repeat(20);
    let scrape = daemon.connect().get(&format!("/scrape?info_hash={hash}")).decoded();
    assert_eq!(scrape.get("files").unwrap().get(&hash).unwrap().integer("incomplete"), Some(0));
    daemon.await_count("http_other_answers_total", "4xx", 3);
    daemon.stop();
}

#[test]
fn what_is_too_long_has_its_own_status() {
    let daemon = Daemon::open();
    for (octets, status) in [(7000, 200), (8200, 414), (20_000, 414), (70_000, 414), (200_000, 414)] {
        let got = daemon.connect().get(&format!("{ANNOUNCE}&pad={}", "p".repeat(octets)));
        assert_eq!(got.status, status, "{octets}");
    }
    for (octets, status) in [(16_000, 200), (20_000, 431), (200_000, 431)] {
        let mut client = daemon.connect();
        let pad = "p".repeat(octets);
        client.send(&format!("GET {ANNOUNCE} HTTP/1.1\r\nHost: t\r\nX-Pad: {pad}\r\n\r\n"));
        assert_eq!(client.receive().status, status, "{octets}");
        if status != 200 {
            client.stream.shutdown(Shutdown::Write).unwrap();
            client.is_closed();
        }
    }
    daemon.stop();
}

#[test]
fn a_get_with_a_body_is_refused_and_closed() {
    let daemon = Daemon::open();
    for body in ["Content-Length: 3\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"] {
        let mut client = daemon.connect();
        client.send(&format!("GET {ANNOUNCE} HTTP/1.1\r\nHost: t\r\n{body}"));
        let got = client.receive();
        assert_eq!((got.status, got.header("connection")), (400, Some("close")));
        client.stream.shutdown(Shutdown::Write).unwrap();
        client.is_closed();
    }
    let mut client = daemon.connect();
    client.send(&format!("GET {ANNOUNCE} HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n"));
    assert_eq!(client.receive().status, 200);
    daemon.stop();
}

#[test]
fn garbage_is_refused_by_hyper_and_counted() {
    let daemon = Daemon::open();
    let mut client = daemon.connect();
    client.send("HELLO\r\n\r\n");
    let (status, _) = client.receive_head();
    assert_eq!(status, 400);
    client.stream.shutdown(Shutdown::Write).unwrap();
    client.is_closed();
    daemon.await_count("http_malformed_total", "", 1);
    daemon.await_count("http_connections", "", 0);
    daemon.stop();
}

#[test]
fn http_1_0_needs_no_host_and_closes_unless_asked() {
    let daemon = Daemon::open();
    let mut client = daemon.connect();
    client.send(&format!("GET {ANNOUNCE} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
    client.receive().decoded();
    client.send(&format!("GET {ANNOUNCE} HTTP/1.0\r\n\r\n"));
    client.receive().decoded();
    client.is_closed();
    daemon.stop();
}

#[test]
fn a_whole_url_is_a_target_too() {
    let daemon = Daemon::open();
    let reply = daemon.connect().get(&format!("http://tracker.example:6969{ANNOUNCE}")).decoded();
    assert_eq!(reply.integer("incomplete"), Some(1));
    daemon.stop();
}

#[test]
fn a_head_may_come_octet_by_octet_and_the_sender_may_close_behind_it() {
    let daemon = Daemon::open();
    let mut client = daemon.connect();
    for octet in format!("GET {ANNOUNCE} HTTP/1.1\r\nHost: t\r\n\r\n").chars() {
        client.send(&octet.to_string());
    }
    client.receive().decoded();
    client.send(&format!("GET {ANNOUNCE} HTTP/1.1\r\nHost: t\r\n\r\n"));
    client.stream.shutdown(Shutdown::Write).unwrap();
    client.receive().decoded();
    client.is_closed();
    daemon.stop();
}

#[test]
fn stalled_heads_are_closed_without_a_reply_and_disturb_nobody() {
    let short = Duration::from_secs(1);
    let daemon = Daemon::with(HttpConfig { read_timeout: short, ..config() });
    let mut stalled: Vec<_> = (0..200).map(|_| daemon.connect()).collect();
    for (at, client) in stalled.iter_mut().enumerate() {
        client.send(&"GET /announce"[..at % 14]);
    }
    daemon.connect().get(ANNOUNCE).decoded();
    stalled.iter_mut().for_each(Client::is_closed);
    daemon.await_count("http_timeouts_total", "head", 200);
    daemon.stop();
}

#[test]
fn idle_connections_have_a_time_of_their_own() {
    let short = Duration::from_secs(1);
    let daemon = Daemon::with(HttpConfig { idle_timeout: short, ..config() });
    let mut client = daemon.connect();
    client.get(ANNOUNCE).decoded();
    client.is_closed();
    daemon.await_count("http_timeouts_total", "idle", 1);
    assert_eq!(daemon.counted("http_timeouts_total", "head"), 0);
    daemon.stop();
}

#[test]
fn replies_nobody_takes_are_given_up() {
    let short = Duration::from_secs(1);
    let daemon = Daemon::with(HttpConfig { write_timeout: short, ..config() });
    let mut client = daemon.connect();
    let requests = format!("GET {ANNOUNCE} HTTP/1.1\r\nHost: t\r\n\r\n").repeat(1000);
    while client.stream.write_all(requests.as_bytes()).is_ok() {}
    daemon.await_count("http_timeouts_total", "reply", 1);
    daemon.stop();
}

#[test]
fn at_the_cap_idle_connections_make_room_for_newcomers() {
    let daemon = Daemon::with(HttpConfig { max_connections: 2, ..config() });
    let mut idle: Vec<_> = (0..2).map(|_| daemon.connect()).collect();
    idle.iter_mut().for_each(|client| _ = client.get(ANNOUNCE).decoded());
    for newcomers in 1..=5 {
        let mut client = daemon.connect();
        client.get(ANNOUNCE).decoded();
        idle.push(client);
        daemon.await_count("http_connections_displaced_total", "idle", newcomers);
        daemon.await_count("http_connections", "", 2);
    }
    assert_eq!(daemon.counted("http_connections_refused_total", ""), 0);
    daemon.stop();
}

#[test]
fn sockets_that_say_nothing_do_not_turn_the_operator_away() {
    let daemon = Daemon::open();
    let metrics = daemon.metrics.unwrap();
    let mut silent: Vec<_> = (0..100).map(|_| Client::tcp(metrics)).collect();
    // Some of them have sent part of a request, and do not go on.
    silent.iter_mut().step_by(3).for_each(|client| client.send("GET /hea"));
    for _ in 0..3 {
        assert_eq!(Client::tcp(metrics).get("/health").status, 200);
    }
    assert_eq!(daemon.counted("http_connections_refused_total", ""), 0);
    daemon.stop();
}

#[test]
fn part_of_a_second_head_that_comes_with_the_first_has_the_time_of_a_head() {
    let short = Duration::from_secs(1);
    let daemon = Daemon::with(HttpConfig { read_timeout: short, ..config() });
    let mut client = daemon.connect();
    client.send(&format!("GET {ANNOUNCE} HTTP/1.1\r\nHost: t\r\n\r\nGET /ann"));
    client.receive().decoded();
    client.is_closed();
    daemon.await_count("http_timeouts_total", "head", 1);
    daemon.stop();
}

#[test]
fn pages_are_asked_for_by_head_too_and_slashes_in_front_are_one() {
    let daemon = Daemon::open();
    let mut clients = [Client::tcp(daemon.metrics.unwrap()), daemon.connect()];
    for (client, path) in [(0, "/alive"), (0, "//health"), (0, "/metrics"), (1, "///alive")] {
        let client = &mut clients[client];
        let len = client.get(path).body.len();
        client.send(&format!("HEAD {path} HTTP/1.1\r\nHost: t\r\n\r\n"));
        let (status, head) = client.receive_head();
        assert!(status == 200 && head.contains("content-type: text/plain"), "{head}");
        // The numbers of one page are not those of the next.
        let exact = format!("content-length: {len}\r\n");
        assert!(path == "/metrics" || head.contains(&exact), "{head}");
        assert_eq!(client.get(path).status, 200, "nothing came behind the head of {path}");
        client.send(&format!("PUT {path} HTTP/1.1\r\nHost: t\r\n\r\n"));
        let got = client.receive();
        assert_eq!((got.status, got.header("allow")), (405, Some("GET, HEAD")), "{path}");
    }
    let client = &mut clients[1];
    client.get(&format!("/{ANNOUNCE}")).decoded();
    client.get(&format!("http://t//{SCRAPE}")).decoded();
    for target in [ANNOUNCE, SCRAPE] {
        client.send(&format!("HEAD {target} HTTP/1.1\r\nHost: t\r\n\r\n"));
        let (status, head) = client.receive_head();
        assert!(status == 405 && head.contains("allow: GET\r\n"), "{head}");
    }
    daemon.stop();
}

#[test]
fn two_hosts_and_raw_octets_are_refused() {
    let daemon = Daemon::open();
    for request in [
        format!("GET {ANNOUNCE} HTTP/1.1\r\nHost: t\r\nHost: t\r\n\r\n"),
        format!("GET {ANNOUNCE} HTTP/1.1\r\nHost: t\r\nX-Pad: 7\r\nhost: u\r\n\r\n"),
        format!("GET {ANNOUNCE}&x=\u{e4} HTTP/1.1\r\nHost: t\r\n\r\n"),
        "GET /alive\u{20ac} HTTP/1.1\r\nHost: t\r\n\r\n".to_owned(),
    ] {
        let mut client = daemon.connect();
        client.send(&request);
        assert_eq!(client.receive().status, 400, "{request}");
        client.stream.shutdown(Shutdown::Write).unwrap();
        client.is_closed();
    }
    let mut client = daemon.connect();
    client.send(&format!("GET {ANNOUNCE} HTTP/1.1\r\nHost: t\r\nX-Pad: 7\r\nX-Pad: 11\r\n\r\n"));
    client.receive().decoded();
    daemon.stop();
}

#[test]
fn without_keep_alive_every_reply_closes() {
    let daemon = Daemon::with(HttpConfig { enable_keepalive: false, ..config() });
    let mut client = daemon.connect();
    let got = client.get(ANNOUNCE);
    assert_eq!(got.header("connection"), Some("close"));
    got.decoded();
    client.is_closed();
    daemon.stop();
}

#[test]
fn the_unix_socket_is_a_trusted_proxy_and_goes_with_the_server() {
    let name = format!("hayate-gateway-{}-{:x}.sock", std::process::id(), fastrand::u64(..));
    let path = std::env::temp_dir().join(name);
    let listen = ListenConfig { unix_socket: Some(path.clone()), ..listen() };
    let daemon = Daemon::start(&listen, HttpConfig { proxy_header: Some("X-Real-IP".into()), ..config() });
    let stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut client = Client { stream, buffer: Vec::new() };
    client.send(&format!("GET {ANNOUNCE} HTTP/1.1\r\nHost: t\r\nX-Real-IP: 45.128.19.9\r\n\r\n"));
    assert_eq!(client.receive().decoded().string("external ip"), Some(&[45, 128, 19, 9][..]));
    let nobody = client.get(ANNOUNCE).decoded();
    assert_eq!(nobody.string("failure reason"), Some(&b"failed to parse peer IP address"[..]));
    daemon.stop();
    assert!(!path.exists());
}

#[test]
fn the_operators_pages_are_on_their_own_address() {
    let daemon = Daemon::open();
    let mut operator = Client::tcp(daemon.metrics.unwrap());
    let mut client = daemon.connect();
    client.get(ANNOUNCE).decoded();
    let metrics = operator.get("/metrics");
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4"));
    let text = String::from_utf8(metrics.body).unwrap();
    assert!(text.contains("\nhayate_http_requests_total{action=\"announce\",family=\"ipv4\"} 1\n"), "{text}");
    for (path, status) in [("/alive?x", 200), ("/health", 200), (ANNOUNCE, 404)] {
        assert_eq!(operator.get(path).status, status, "{path}");
    }
    for (path, status) in [("/alive", 200), ("/health", 404), ("/metrics", 404)] {
        assert_eq!(client.get(path).status, status, "{path}");
    }
    daemon.healthy.store(false, Ordering::Relaxed);
    assert_eq!(operator.get("/health").status, 503);
    operator.send("DELETE /alive HTTP/1.1\r\nHost: t\r\n\r\n");
    assert_eq!(operator.receive().status, 405);
    daemon.stop();
}

#[test]
fn the_operators_pages_are_on_the_gateway_where_they_have_no_address() {
    let listen = ListenConfig { metrics_addresses: Vec::new(), ..listen() };
    let daemon = Daemon::start(&listen, config());
    for path in ["/metrics", "/health", "/alive"] {
        assert_eq!(daemon.connect().get(path).status, 200, "{path}");
    }
    daemon.stop();
    let daemon = Daemon::start(&listen, HttpConfig { enable_metrics: false, ..config() });
    assert_eq!(daemon.connect().get("/metrics").status, 404);
    daemon.stop();
}

#[test]
fn a_stop_answers_what_is_in_flight_and_ends_the_actor() {
    let daemon = Daemon::open();
    let mut idle = daemon.connect();
    idle.get(ANNOUNCE).decoded();
    let mut in_flight = daemon.connect();
    in_flight.send("GET ");
    // The server has seen the connection once a later one is answered.
    daemon.connect().get(ANNOUNCE).decoded();
    let address = daemon.address;
    let stopping = std::thread::spawn(move || daemon.stop());
    // The idle connection closes when all have been told to finish.
    idle.is_closed();
    in_flight.send(&format!("{ANNOUNCE} HTTP/1.1\r\nHost: t\r\n\r\n"));
    let got = in_flight.receive();
    assert_eq!(got.header("connection"), Some("close"));
    got.decoded();
    in_flight.is_closed();
    stopping.join().unwrap();
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn the_operators_pages_stay_until_the_last_request_is_answered() {
    let daemon = Daemon::open();
    let mut in_flight = daemon.connect();
    in_flight.send("GET ");
    daemon.connect().get(ANNOUNCE).decoded();
    let (address, metrics) = (daemon.address, daemon.metrics.unwrap());
    daemon.healthy.store(false, Ordering::Relaxed);
    let stopping = std::thread::spawn(move || daemon.stop());
    while TcpStream::connect(address).is_ok() {
        std::thread::yield_now();
    }
    assert_eq!(Client::tcp(metrics).get("/health").status, 503);
    in_flight.send(&format!("{ANNOUNCE} HTTP/1.1\r\nHost: t\r\n\r\n"));
    in_flight.receive().decoded();
    stopping.join().unwrap();
    assert!(TcpStream::connect(metrics).is_err());
}

#[test]
fn no_client_in_the_backlog_is_lost_when_the_server_stops() {
    let daemon = Daemon::open();
    let request = format!("GET {ANNOUNCE} HTTP/1.1\r\nHost: t\r\n\r\n");
    let mut clients: Vec<_> = (0..300).map(|_| daemon.connect()).collect();
    clients.iter_mut().for_each(|client| client.send(&request));
    daemon.stop();
    for client in &mut clients {
        client.receive().decoded();
        client.is_closed();
    }
}

#[test]
fn a_full_inbox_is_answered_at_once_without_peers_and_with_a_long_interval() {
    let (daemon, inbox) = Daemon::start_bounded(&listen(), config(), 7);
    let mut client = daemon.connect();
    assert_eq!(client.get(ANNOUNCE).decoded().integer("incomplete"), Some(1));
    while_the_actor_is_busy(&inbox, || {
        let reply = client.get(ANNOUNCE).decoded();
        assert_eq!((reply.integer("interval"), reply.integer("min interval")), (Some(3600), Some(3600)));
        assert_eq!((reply.string("peers"), reply.string("failure reason")), (Some(&b""[..]), None));
        let scrape = client.get(SCRAPE).decoded();
        let file = scrape.get("files").unwrap().get(&"b".repeat(20)).unwrap();
        assert_eq!((file.integer("complete"), file.integer("incomplete")), (Some(0), Some(0)));
        assert_eq!(daemon.counted("http_overloads_total", ""), 2);
    });
    assert_eq!(client.get(ANNOUNCE).decoded().integer("incomplete"), Some(1));
    drop((client, inbox));
    daemon.stop();
}

#[test]
fn a_server_may_be_stopped_at_once() {
    Daemon::open().stop();
}

#[test]
fn bad_routes_do_not_start() {
    let server = Server::open(&listen()).unwrap();
    let config = Published::new(HttpConfig { announce_routes: vec!["x".into()], ..config() });
    let policy = Published::new(Policy::default());
    let (_actor, inbox) = Actor::start(Tracker::new(Swarms::new(0), &policy, 7), Clock::start()).unwrap();
    let health: HealthCheck = Arc::new(|| HealthStatus::Good);
    let error = server
        .start(
            &config,
            &policy,
            None,
            inbox,
            Clock::start(),
            OperatorPages { admin: None, board: Arc::default(), health, clock: Clock::start() },
        )
        .unwrap_err();
    assert_eq!(error.to_string(), "route \"x\" does not start with \"/\"");
}
