//! Stops: what was asked is answered, and the second signal does not wait (`frontends-and-hooks.md` 3.3).

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::{Daemon, announce_target, eventually, exchange, get, parse_response};

#[test]
fn graceful_stop() {
    let mut daemon = Daemon::start(json!({}));
    let address = daemon.v4();
    let clients: Vec<_> = (0..4)
        .map(|number| {
            std::thread::spawn(move || {
                let mut broken = 0;
                for port in 0..10_000 {
                    let Ok(stream) = TcpStream::connect(address) else { break };
                    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                    let target = announce_target('S', 1 + number * 10_000 + port, "&left=9");
                    // A connection that was not accepted any more is closed with nothing said.
                    match exchange(stream, &get(&target)) {
                        Ok(response) => assert_eq!(response.status, 200),
                        Err(_) => broken += 1,
                    }
                }
                broken
            })
        })
        .collect();
    assert!(eventually(|| daemon.metric("http_requests_total{action=\"announce\",family=\"ipv4\"}") > 200));
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
    let broken: u32 = clients.into_iter().map(|client| client.join().unwrap()).sum();
    // At most the last one of each, which came between the last look at the backlog and its end.
    assert!(broken <= 4, "{broken} connections ended without a reply");
}

#[test]
fn the_first_signal_stops_in_order_and_the_second_at_once() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut daemon = Daemon::start(json!({}));
        daemon.signal(signal);
        assert_eq!(daemon.wait().code(), Some(0));
    }
    // A request in flight holds an orderly stop up to its timeout; the second signal does not wait.
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        let mut daemon = Daemon::start(json!({"http": {"timeout": {"read": "60s"}}}));
        let mut slow = TcpStream::connect(daemon.v4()).unwrap();
        slow.write_all(b"GET /announce HTTP/1.1\r\n").unwrap();
        // The connection that asks is one more.
        assert!(eventually(|| daemon.metric("http_connections") == 2));
        daemon.signal(signal);
        daemon.wait_for_log("stopping", 1);
        daemon.signal(signal);
        assert_eq!(daemon.wait().code(), Some(code));
    }
}

#[test]
fn a_profile_that_is_being_made_does_not_hold_up_a_stop() {
    let mut daemon = Daemon::start(json!({"metrics": {"pprof": true}}));
    let mut asking = TcpStream::connect(("127.0.0.1", daemon.metrics_port)).unwrap();
    asking.write_all(get("/debug/pprof/profile?seconds=60").as_bytes()).unwrap();
    assert!(
        eventually(|| daemon.page("/debug/pprof/profile?seconds=1").unwrap().status != 200),
        "one at a time"
    );
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn health_says_that_the_tracker_is_stopping_until_it_has_stopped() {
    let mut daemon = Daemon::start(json!({}));
    let status = |daemon: &Daemon, path| daemon.page(path).map(|response| response.status);
    assert_eq!(status(&daemon, "/health"), Some(200));
    let mut slow = TcpStream::connect(daemon.v4()).unwrap();
    slow.write_all(b"GET ").unwrap();
    assert!(eventually(|| daemon.metric("http_connections") == 2));
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for_log("stopping", 1);
    assert_eq!((status(&daemon, "/health"), status(&daemon, "/alive")), (Some(503), Some(200)));
    let target = announce_target('A', 7001, "&left=9");
    slow.write_all(format!("{target} HTTP/1.1\r\nHost: t\r\n\r\n").as_bytes()).unwrap();
    let mut octets = Vec::new();
    slow.read_to_end(&mut octets).unwrap();
    assert!(parse_response(&octets).unwrap().bencoded().at("peers").is_some());
    assert_eq!(daemon.wait().code(), Some(0));
    assert_eq!(status(&daemon, "/health"), None);
}
