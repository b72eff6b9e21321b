//! `hayate-load` against the running daemon: its figures are consistent. Speed does not matter here.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::harness::{Daemon, Folder, free_port};

fn hayate_load(args: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hayate-load")).args(args.split_whitespace()).output().unwrap()
}

/// Runs a load and checks what must hold for every result. Returns the result.
fn load(args: &str) -> Value {
    let output = hayate_load(&format!("{args} --json"));
    assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    let replies = number(&result, "replies");
    assert!(replies > 0, "{result:#}");
    assert_eq!(number(&result, "sent"), replies + number(&result, "lost"), "{result:#}");
    let kinds = ["connects", "announces", "scrapes"].map(|kind| number(&result, kind));
    assert_eq!((number(&result, "errors"), kinds.iter().sum()), (0, replies), "{result:#}");
    let latency = |key: &str| result["latency_us"][key].as_f64().unwrap();
    let rising = ["p50", "p90", "p99", "p99.9", "p99.99"].map(latency);
    assert!(rising[0] > 0.0 && rising.is_sorted(), "{result:#}");
    result
}

fn number(result: &Value, key: &str) -> u64 {
    result[key].as_u64().unwrap_or_else(|| panic!("{key}: {result:#}"))
}

fn peers(daemon: &Daemon, family: &str) -> u64 {
    let count = |role| daemon.metric(&format!("swarm_peers{{family=\"{family}\",role=\"{role}\"}}"));
    count("seeder") + count("leecher")
}

#[test]
fn a_fill_over_udp_announces_every_peer_once() {
    let daemon = Daemon::start(json!({}));
    let (address, pid) = (daemon.v4(), daemon.pid());
    let fill = "--fill 5000 --torrents 700 --singles 600 --sockets 3";
    let result = load(&format!("udp://{address} {fill} --pid {pid}"));
    assert_eq!((&result["protocol"], &result["loop"]), (&json!("udp"), &json!("closed")));
    assert_eq!(number(&result, "announces"), 5000);
    assert_eq!((daemon.metric("swarms"), peers(&daemon, "ipv4")), (700, 5000));
    let tracker = &result["tracker"];
    assert!(number(tracker, "rss_bytes") > 1 << 20, "{tracker:#}");
    assert!(number(tracker, "peak_rss_bytes") >= number(tracker, "rss_bytes"), "{tracker:#}");
    assert!(tracker["cpu_seconds"].as_f64().unwrap() > 0.0, "{tracker:#}");
}

#[test]
fn the_closed_loop_over_udp_mixes_requests_of_all_kinds() {
    let daemon = Daemon::start(json!({}));
    let args = "--seconds 0.5 --warmup 0.2 --mix connect=20,announce=60,scrape=20 --scrape-torrents 3 \
                 --zipf 1.1 --stopped 5 --completed 5 --forged 30 --sockets 4 --window 4";
    let result = load(&format!("udp://{}/some/path?a=b {args}", daemon.v4()));
    for kind in ["connects", "announces", "scrapes", "forged"] {
        assert!(number(&result, kind) > 0, "{kind}: {result:#}");
    }
    assert!(result["tracker"].is_null() && result["offered_per_second"].is_null(), "{result:#}");
    assert!(result["seconds"].as_f64().unwrap() >= 0.5, "{result:#}");
}

#[test]
fn the_open_loop_over_ipv6_offers_its_rate() {
    let daemon = Daemon::start(json!({}));
    let result = load(&format!("udp://{} --seconds 1 --rate 500 --fresh-torrents", daemon.v6()));
    assert_eq!((&result["loop"], &result["offered_per_second"]), (&json!("open"), &json!(500.0)));
    // On a busy machine fewer are sent in time, never more.
    assert!((1..=500).contains(&number(&result, "sent")), "{result:#}");
    assert!(peers(&daemon, "ipv6") > 0);
    assert_eq!(peers(&daemon, "ipv4"), 0);
}

#[test]
fn one_run_asks_over_both_families() {
    let daemon = Daemon::start(json!({}));
    let port = daemon.v4().port();
    assert_eq!(port, daemon.v6().port());
    let url = format!("udp://localhost:{port}");
    let filled = load(&format!("{url} --fill 6000 --sockets 6 --ipv6 33"));
    assert_eq!((number(&filled, "replies_ipv4"), number(&filled, "replies_ipv6")), (4000, 2000));
    assert_eq!((peers(&daemon, "ipv4"), peers(&daemon, "ipv6")), (4000, 2000));
    for words in ["--rate 500", "--window 4"] {
        let result = load(&format!("{url} --seconds 0.5 --sockets 2 --ipv6 50 {words}"));
        let over = ["replies_ipv4", "replies_ipv6"].map(|family| number(&result, family));
        assert!(over.iter().all(|replies| *replies > 0), "{words}: {result:#}");
        assert_eq!(over.iter().sum::<u64>(), number(&result, "replies"), "{words}: {result:#}");
    }
    let http = load(&format!("http://localhost:{port}/announce --seconds 0.3 --ipv6 50 --mix announce=100"));
    assert!(number(&http, "replies_ipv4") > 0 && number(&http, "replies_ipv6") > 0, "{http:#}");
}

#[test]
fn http_is_loaded_with_kept_connections_and_with_one_for_each_request() {
    let routes = |kind: &str| [format!("/{kind}"), format!("/:key/{kind}")];
    let http = json!({"announce_routes": routes("announce"), "scrape_routes": routes("scrape")});
    let daemon = Daemon::start(json!({"http": http}));
    let folder = Folder::new();
    let keys = folder.write("keys", "first\nsecond\n");
    let url = format!("http://{}", daemon.v4());
    let filled = load(&format!("{url}/announce --fill 700 --connections 3"));
    assert_eq!((number(&filled, "announces"), peers(&daemon, "ipv4")), (700, 700));
    for args in [
        "/announce --seconds 0.5 --connections 7".to_owned(),
        "/announce --seconds 0.5 --close --rate 300".to_owned(),
        format!("/{{passkey}}/announce --passkeys {} --seconds 0.3", keys.display()),
    ] {
        let result = load(&format!("{url}{args} --mix announce=80,scrape=20"));
        let scrapes = number(&result, "scrapes");
        assert!(scrapes > 0 && number(&result, "announces") > scrapes, "{args}: {result:#}");
        assert_eq!((number(&result, "lost"), &result["protocol"]), (0, &json!("http")), "{result:#}");
    }
}

#[test]
fn people_get_a_short_report() {
    let daemon = Daemon::start(json!({}));
    let output = hayate_load(&format!("udp://{} --seconds 0.1 --pid {}", daemon.v4(), daemon.pid()));
    let text = String::from_utf8(output.stdout).unwrap();
    for line in ["target ", "replies ", "kinds ", "families ", "latency ", "tracker ", "generator "] {
        assert!(text.lines().any(|one| one.starts_with(line)), "{line}: {text}");
    }
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}

#[test]
fn a_missing_tracker_and_wrong_usage_have_exit_codes_and_texts_of_their_own() {
    let no_tracker = format!("udp://127.0.0.1:{}", free_port());
    for (args, code, part) in [
        (no_tracker.clone(), 1, "answers no connect"),
        (no_tracker.replace("udp", "http") + "/announce", 1, "refused"),
        (format!("{no_tracker} --mix connect=50"), 2, "--mix"),
        (format!("{no_tracker} --seeders 101"), 2, "0..=100"),
        (format!("{no_tracker} --fill 7 --rate 7"), 2, "--rate"),
        (format!("{no_tracker} --singles 7"), 2, "--singles"),
        (format!("{no_tracker} --ipv6 101"), 2, "0..=100"),
        (format!("{no_tracker} --ipv6 7"), 2, "no IPv6 address"),
        (format!("{no_tracker} --pid 2147483647"), 2, "--pid"),
        ("ftp://127.0.0.1:7".into(), 2, "expected udp://"),
        (String::new(), 2, "<URL>"),
    ] {
        let output = hayate_load(&args);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args}: {stderr}");
        assert!(stderr.contains(part) && output.stdout.is_empty(), "{args}: {stderr}");
    }
}
