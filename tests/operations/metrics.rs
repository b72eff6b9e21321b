//! `/metrics`, `/health`, `/debug/pprof/` (`rules/operations.md#pages`, `rules/operations.md#metrics`).

use serde_json::json;
use std::collections::BTreeSet;

use crate::harness::{
    Daemon, UdpClient, announce_rest, announce_target, ask, connect_request, eventually, fetch, udp_socket,
};

/// Returns how many requests of a kind were timed.
fn timed_count(daemon: &Daemon, server: &str, action: &str, family: &str, error: &str) -> u64 {
    let labels = format!("action=\"{action}\",address_family=\"{family}\",error=\"{error}\"");
    daemon.metric(&format!("{server}_response_duration_milliseconds_count{{{labels}}}"))
}

fn page(daemon: &Daemon, path: &str) -> (u16, Vec<u8>) {
    let response = daemon.page(path).expect("a response");
    (response.status, response.body)
}

fn metrics_text(daemon: &Daemon) -> String {
    String::from_utf8(page(daemon, "/metrics").1).unwrap()
}

#[test]
fn every_request_is_timed_under_its_action_family_and_error() {
    let hooks = json!([{"name": "client approval", "options": {"blacklist": ["AZ3034"]}}]);
    let daemon = Daemon::start(json!({"prehooks": hooks, "intervals": {"purge_inactive_peers": 2}}));
    let (v4, v6) = (UdpClient::connect("127.0.0.1", daemon.v4()), UdpClient::connect("::1", daemon.v6()));
    (0..7).for_each(|port| _ = v4.announce(b'a', 7000 + port, 9, 0));
    (0..11).for_each(|port| _ = v6.announce(b'a', 7000 + port, 0, 0));
    (0..13).for_each(|_| _ = v4.scrape(b'a'));
    let mut azureus = announce_rest(b'a', 7001, 9, 0, -1);
    azureus[20..40].copy_from_slice(b"-AZ3034-000000000001");
    ask(&v4.socket, &v4.request(1, &azureus)).unwrap();
    ask(&v4.socket, &v4.request(1, &[7; 40])).unwrap();
    ask(&v4.socket, &v4.request(9, &[7; 40])).unwrap();
    // No reply: too short (malformed); an unknown connection id; the connection id of another address.
    for silent in [&b"short"[..], &[7; 16], &v6.request(1, &announce_rest(b'a', 1, 0, 0, 0))] {
        v4.socket.send(silent).unwrap();
    }
    // A connect with a wrong protocol id.
    let mut bad_connect = connect_request();
    bad_connect[0] = 7;
    v4.socket.send(&bad_connect).unwrap();
    ask(&v4.socket, &connect_request()).unwrap();
    let target = |port, more: &str| announce_target('a', port, more);
    (0..5).for_each(|port| _ = fetch(daemon.v4(), &target(7000 + port, "&left=9")));
    fetch(daemon.v6(), &target(7000, "&left=9"));
    fetch(daemon.v4(), &target(0, "&left=9"));
    fetch(daemon.v4(), &target(7000, "&left=9").replace("-XX0001-", "-AZ3034-"));
    fetch(daemon.v4(), "/announce");
    fetch(daemon.v4(), "/scrape");
    fetch(daemon.v4(), "/nothing");

    let udp = |action, family, error, expected| {
        assert_eq!(timed_count(&daemon, "udp", action, family, error), expected, "{action} {family} {error}");
    };
    udp("connect", "IPv4", "", 2);
    udp("connect", "IPv6", "", 1);
    udp("connect", "Unknown", "bad connection ID", 1);
    udp("announce", "IPv4", "", 7);
    udp("announce", "IPv6", "", 11);
    udp("announce", "IPv4", "unapproved client", 1);
    udp("announce", "Unknown", "malformed packet", 1);
    udp("scrape", "IPv4", "", 13);
    udp("empty", "Unknown", "unknown action ID", 1);
    udp("empty", "Unknown", "malformed packet", 1);
    udp("empty", "Unknown", "bad connection ID", 2);
    let http = |action, family, error, expected| {
        assert_eq!(
            timed_count(&daemon, "http", action, family, error),
            expected,
            "{action} {family} {error}"
        );
    };
    http("announce", "IPv4", "", 5);
    http("announce", "IPv6", "", 1);
    http("announce", "IPv4", "invalid port", 1);
    http("announce", "IPv4", "unapproved client", 1);
    http("announce", "IPv4", "no info_hash parameter supplied", 1);
    http("scrape", "IPv4", "no info_hash parameter supplied", 1);

    assert_page_contents(&metrics_text(&daemon));
    assert!(eventually(|| daemon.metric("storage_gc_duration_milliseconds_count") >= 2));
}

fn assert_page_contents(page_text: &str) {
    for line in [
        "# TYPE hayate_udp_response_duration_milliseconds histogram",
        "# TYPE hayate_http_response_duration_milliseconds histogram",
        "hayate_storage_infohashes_count 1",
        // 11 over UDP; port 7000 of `::1` became a leecher over HTTP.
        "hayate_storage_seeders_count 10",
        "hayate_reloads_total{result=\"ok\"} 0",
    ] {
        assert!(page_text.lines().any(|actual| actual == line), "{line}: {page_text}");
    }
    for bound in ["0.01", "0.05", "0.25", "1", "9.375", "18.75", "4800", "+Inf"] {
        assert!(page_text.contains(&format!("error=\"\",le=\"{bound}\"}}")), "{bound}: {page_text}");
    }
    for name in [
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_start_time_seconds",
        "hayate_udp_receive_buffer_bytes",
        "hayate_udp_send_buffer_bytes",
        "hayate_udp_socket_drops_total",
        "hayate_udp_overload_drops_total",
        "hayate_conntrack_entries",
        "hayate_limited_total",
        "hayate_hooks_unstored_total",
    ] {
        assert!(page_text.lines().any(|line| line.starts_with(&format!("{name} "))), "{name}: {page_text}");
    }
}

/// Returns the names and labels of all series except buckets.
fn series(page_text: &str) -> BTreeSet<String> {
    let lines = page_text.lines().filter(|line| !line.starts_with('#') && !line.contains("le="));
    lines.filter_map(|line| line.rsplit_once(' ')).map(|(series, _)| series.to_owned()).collect()
}

#[test]
fn junk_adds_no_series() {
    let daemon = Daemon::start(json!({}));
    let client = UdpClient::connect("127.0.0.1", daemon.v4());
    let junk = |round: u32| {
        let mut datagram = client.request(round, &announce_rest(b'j', 7001, 9, round, -1));
        ask(&client.socket, &datagram);
        datagram.truncate(round as usize % 100);
        client.socket.send(&datagram).unwrap();
        let path = format!("/announce?info_hash={round}&peer_id=%{round}&event={round}&x{round}=1");
        fetch(daemon.v4(), &path);
        fetch(daemon.v4(), &format!("/{round}"));
    };
    // The first rounds cause every kind of response; the later ones repeat them with other values.
    (1..105).for_each(junk);
    let before = series(&metrics_text(&daemon));
    (0..250).map(|round| 1000 + round).for_each(junk);
    let after = series(&metrics_text(&daemon));
    let new: Vec<_> = after.difference(&before).collect();
    assert!(new.is_empty(), "{new:?}");
}

#[test]
fn alive_and_health_answer_200_and_unknown_pages_404() {
    let daemon = Daemon::start(json!({}));
    assert_eq!(page(&daemon, "/alive").0, 200);
    assert_eq!(page(&daemon, "/health").0, 200);
    for unknown in ["/", "/stats", "/debug/pprof/", "/debug/pprof/profile", "/metrics/x"] {
        assert_eq!(page(&daemon, unknown).0, 404, "{unknown}");
    }
}

#[test]
fn the_prefix_begins_every_name() {
    let daemon = Daemon::start(json!({"metrics": {"prefix": "chihaya"}}));
    let page_text = metrics_text(&daemon);
    assert!(page_text.contains("\nchihaya_storage_infohashes_count 0\n"), "{page_text}");
    assert!(!page_text.contains("hayate_"), "{page_text}");
}

#[test]
fn the_gateway_serves_metrics_only_without_metrics_addr() {
    let daemon = Daemon::start(json!({}));
    assert_eq!(fetch(daemon.v4(), "/metrics").status, 404, "metrics has its own address");
    let off = Daemon::start(json!({"metrics": {"addr": ""}, "enable_metrics": false}));
    assert!(off.page("/metrics").is_none(), "the port is closed");
    assert_eq!(fetch(off.v4(), "/metrics").status, 404);
    let shared = Daemon::start(json!({"metrics": {"addr": ""}}));
    assert_eq!(fetch(shared.v4(), "/metrics").status, 200);
}

#[test]
fn profiles_are_made_on_demand() {
    let daemon = Daemon::start(json!({"metrics": {"pprof": true}}));
    assert_eq!(page(&daemon, "/debug/pprof/").0, 200);
    let (status, line) = page(&daemon, "/debug/pprof/cmdline");
    assert_eq!(status, 200);
    assert!(line.split(|&octet| octet == 0).any(|word| word == b"--config"));
    assert_eq!(page(&daemon, "/debug/pprof/profile?seconds=0").0, 400);
    assert_eq!(page(&daemon, "/debug/pprof/heap").0, 404);
    // The tracker is under load, so that the profile has samples.
    let (status, profile) = std::thread::scope(|scope| {
        let profile = scope.spawn(|| page(&daemon, "/debug/pprof/profile?seconds=1"));
        let client = UdpClient { socket: udp_socket("127.0.0.1", daemon.v4()), id: [0; 8] };
        while !profile.is_finished() {
            _ = ask(&client.socket, &connect_request());
        }
        profile.join().unwrap()
    });
    // 0x0a is the tag of field 1, `sample_type`, in pprof's protobuf `Profile`.
    assert_eq!((status, profile.first()), (200, Some(&0x0a)));
}
