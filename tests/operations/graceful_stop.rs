//! Stops: requests in flight are answered, and the second signal does not wait (`rules/operations.md#stop`).

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::{
    Daemon, Folder, TIMEOUT, announce_target, eventually, exchange, get, hayate, parse_response,
};
use crate::kit::finishing_peers::FinishingPeers;

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
                    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
                    let target = announce_target('S', 1 + number * 10_000 + port, "&left=9");
                    // A connection that was no longer accepted is closed without a response.
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
    // At most the last one of each client, which came after the last accept and before the socket was closed.
    assert!(broken <= 4, "{broken} connections ended without a reply");
}

/// Makes the disk hang: the draft of the snapshot is a pipe from which nothing reads.
fn hang_the_disk(daemon: &Daemon) {
    let draft = daemon.folder.path().join("hayate-cache.bin.draft");
    nix::unistd::mkfifo(&draft, nix::sys::stat::Mode::S_IRWXU).unwrap();
}

#[test]
fn the_first_signal_stops_in_order_and_the_second_at_once() {
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130), (Signal::SIGQUIT, 131)] {
        let mut daemon = Daemon::start(json!({}));
        daemon.signal(signal);
        assert_eq!(daemon.wait().code(), Some(0));
        daemon.wait_for_log("wrote a snapshot", 1);
        let mut daemon = Daemon::start(json!({}));
        hang_the_disk(&daemon);
        daemon.signal(signal);
        daemon.wait_for_log("stopping", 1);
        daemon.signal(signal);
        assert_eq!(daemon.wait().code(), Some(code));
    }
}

#[test]
fn a_request_that_never_ends_does_not_delay_a_stop() {
    let mut daemon = Daemon::start(json!({"http": {"timeout": {"read": "10m"}}}));
    let mut slow = TcpStream::connect(daemon.v4()).unwrap();
    slow.write_all(b"GET /announce HTTP/1.1\r\n").unwrap();
    // The connection that fetches the metric is one more.
    assert!(eventually(|| daemon.metric("http_connections") == 2));
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn signals_of_limits_and_timers_end_nothing() {
    let mut daemon = Daemon::start(json!({}));
    for signal in [Signal::SIGXFSZ, Signal::SIGXCPU, Signal::SIGALRM, Signal::SIGVTALRM, Signal::SIGPIPE] {
        daemon.signal(signal);
    }
    // A signal has had its effect when a later one is handled.
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_log("\"reloaded\"", 1);
    assert!(daemon.is_running());
}

#[test]
fn a_file_size_limit_acts_like_a_full_disk_and_the_last_snapshot_logs_what_is_lost() {
    let mut command = Command::new("sh");
    command
        .args(["-c", "ulimit -f 16; exec \"$0\" \"$@\""])
        .arg(hayate().get_program())
        .env_remove("RUST_LOG");
    let changes = json!({"database": {"dsn": ""}, "intervals": {"database_serialize": 1}});
    let mut daemon = Daemon::start_in(Folder::new(), changes, &mut command);
    FinishingPeers::of(&daemon).finish(3000);
    assert!(eventually(|| daemon.metric("snapshot_failures_total") >= 1), "{:#?}", daemon.log());
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(1));
    daemon.wait_for_log("cannot write the last snapshot", 1);
    daemon.wait_for_log("File too large (os error 27); 3000 peers are lost", 1);
}

#[test]
fn a_profile_in_progress_does_not_delay_a_stop() {
    let mut daemon = Daemon::start(json!({"metrics": {"pprof": true}}));
    let mut asking = Vec::new();
    // If the short request came first, the long one was refused and has to be repeated.
    let is_refused = || {
        let mut long = TcpStream::connect(("127.0.0.1", daemon.metrics_port)).unwrap();
        long.write_all(get("/debug/pprof/profile?seconds=60").as_bytes()).unwrap();
        asking.push(long);
        daemon.page("/debug/pprof/profile?seconds=1").unwrap().status != 200
    };
    assert!(eventually(is_refused), "one at a time");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn health_reports_a_stop_until_it_is_done() {
    // A stop waits two seconds for requests. If the machine stalls for that long, the test sees nothing.
    assert!((0..5).any(|_| is_seen_stopping()), "no stop was seen");
}

/// Stops a daemon while a request is in flight; returns false if the test was not quick enough to see it.
fn is_seen_stopping() -> bool {
    let mut daemon = Daemon::start(json!({}));
    let status = |daemon: &Daemon, path| daemon.page(path).map(|response| response.status);
    assert_eq!(status(&daemon, "/health"), Some(200));
    let mut slow = TcpStream::connect(daemon.v4()).unwrap();
    slow.write_all(b"GET ").unwrap();
    assert!(eventually(|| daemon.metric("http_connections") == 2));
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for_log("stopping", 1);
    let statuses = (status(&daemon, "/health"), status(&daemon, "/alive"));
    let target = announce_target('A', 7001, "&left=9");
    let mut octets = Vec::new();
    let answered = slow
        .write_all(format!("{target} HTTP/1.1\r\nHost: t\r\n\r\n").as_bytes())
        .and_then(|()| slow.read_to_end(&mut octets));
    assert_eq!(daemon.wait().code(), Some(0));
    assert_eq!(status(&daemon, "/health"), None);
    let (Some(health), Some(alive), Ok(1..)) = (statuses.0, statuses.1, answered) else { return false };
    assert_eq!((health, alive), (503, 200));
    assert!(parse_response(&octets).unwrap().bencoded().at("peers").is_some());
    true
}
