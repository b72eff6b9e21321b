//! `import-config` and `import-lists` as programs: what they print, report and write, and their exit codes.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::harness::{Daemon, Folder, UdpClient, announce_target, fetch, free_port, hayate};

/// The output and exit code of a command.
struct CommandOutput {
    code: Option<i32>,
    out: String,
    report: String,
}

impl CommandOutput {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.report))
    }

    /// Asserts that a line of the report begins like this.
    fn assert_line(&self, line: &str) {
        assert!(self.report.lines().any(|found| found.starts_with(line)), "no {line:?} in {}", self.report);
    }
}

fn fixture(name: &str) -> String {
    format!("{}/tests/kit/fixtures/import/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn run_hayate(args: &[&str]) -> CommandOutput {
    let output = hayate().args(args).output().unwrap();
    let text = |octets: &[u8]| String::from_utf8(octets.to_vec()).unwrap();
    CommandOutput { code: output.status.code(), out: text(&output.stdout), report: text(&output.stderr) }
}

fn import(name: &str) -> CommandOutput {
    let result = run_hayate(&["import-config", &fixture(name)]);
    assert!(!result.report.contains("hunter2"), "{}", result.report);
    result
}

#[test]
fn a_plain_sample_converts_without_remarks() {
    let result = import("chihaya.yaml");
    assert_eq!(result.code, Some(0), "{}", result.report);
    assert!(result.report.lines().all(|line| line.starts_with("mapped ")), "{}", result.report);
    let expected = json!({
        "mode": "open",
        "intervals": {"announce": "29m", "min_announce": "870s", "announce_drift": 0,
            "purge_inactive_peers": "3m", "peer_inactivity": "37m"},
        "metrics": {"addr": "127.0.0.1:6880", "prefix": "chihaya"},
        "enable_metrics": true,
        "http": {"addr": "127.0.0.1:6969", "https_addr": "",
            "timeout": {"read": "5s", "write": "4s", "idle": "31s"}, "enable_keepalive": true,
            "announce_routes": ["/announce", "/announce.php"], "scrape_routes": ["/scrape", "/scrape.php"],
            "proxy_header": "", "trusted_proxies": ["127.0.0.0/8", "::1/128"], "max_scrape_infohashes": 60},
        "udp": {"addr": "127.0.0.1:6969", "private_key": "hunter2 is only in this test file",
            "max_clock_skew": "11s", "max_scrape_infohashes": 60},
        "announce": {"allow_ip_spoofing": false, "max_numwant": 70, "numwant": 70, "keep_peer_ids": true},
        "prehooks": [
            {"name": "client approval", "options": {"whitelist": ["XX0001", "010203"]}},
            {"name": "torrent approval", "options": {"blacklist": ["7".repeat(40)]}},
            {"name": "interval variation", "options": {"modify_response_probability": 0.25,
                "max_increase_delta": 61, "modify_min_interval": true}},
        ],
    });
    assert_eq!(result.json(), expected);
}

#[test]
fn a_sample_of_several_nodes_reports_what_changes() {
    let result = import("chihaya-redis.yaml");
    assert_eq!(result.code, Some(3), "{}", result.report);
    for line in [
        "changed announce_interval: intervals.announce = 30m; a number without a unit",
        "changed min_announce_interval: intervals.min_announce = 15m; a number without a unit",
        "changed http.addr: http.addr = \"\": HTTPS alone did not start, now it does",
        "mapped http.https_addr: ",
        "changed http.real_ip_header: ",
        "changed udp.allow_ip_spoofing: udp.allow_ip_spoofing = true; ",
        "mapped udp.private_key: none was set",
        "changed storage.name: swarms are always in memory; set cluster.redis.url and cluster.secret if",
        "dropped storage.config.redis_broker: set cluster.redis.url and cluster.secret if",
        "changed prehooks[0].options.jwk_set_update_interval: ",
    ] {
        result.assert_line(line);
    }
    let tree = result.json();
    assert_eq!(tree["http"]["proxy_header"], "X-Forwarded-For");
    assert_eq!(tree["prehooks"][0]["options"]["jwk_set_update_interval"], "5m");
    assert!(!result.out.contains("hunter2"));
}

#[test]
fn every_oddity_is_reported() {
    let result = import("oddities.yaml");
    assert_eq!(result.code, Some(3), "{}", result.report);
    for line in [
        "changed announce_interval: intervals.announce = 30m; it was missing",
        "changed min_announce_interval: intervals.min_announce = 15m; it was missing",
        "changed metrics_addr: it was empty",
        "changed http.read_timeout: http.timeout.read = 7s; a number without a unit",
        "dropped http.enable_request_timing: ",
        "changed http.announce_routes: ",
        "changed http.scrape_routes: ",
        "changed http.allow_ip_spoofing: ",
        "changed http.real_ip_header: ",
        "dropped http.shiny: unknown key",
        "changed udp.max_scrape_infohashes: ",
        "mapped http.max_numwant: announce.max_numwant = 70",
        "changed udp.default_numwant: announce.numwant = 10; it is used now",
        "dropped storage.name: there is no storage \"tape\"",
        "dropped storage.config.shard_count: not needed",
        "changed storage.config.peer_lifetime: intervals.peer_inactivity = 6h; 48h is out of range",
        "dropped prehooks[0].options.whitelist: \"short\" is not 6 octets",
        "dropped prehooks[0].options.blacklist: both lists",
        "dropped prehooks[1].name: there is no hook \"home made\"",
        "dropped posthooks[0].name: ",
        "dropped reload: unknown key",
        "dropped common: unknown key",
    ] {
        result.assert_line(line);
    }
    let options = json!({"whitelist": ["010203"]});
    assert_eq!(result.json()["prehooks"], json!([{"name": "client approval", "options": options}]));
}

#[test]
fn a_private_configuration_keeps_its_keys() {
    let result = import("private.json");
    assert_eq!(result.code, Some(0), "{}", result.report);
    let mut expected: Value =
        serde_json::from_str(&std::fs::read_to_string(fixture("private.json")).unwrap()).unwrap();
    expected["mode"] = "private".into();
    expected["http"]["timeout"] = json!({"read": "310ms", "write": "320ms", "idle": "330s"});
    expected["http"]["proxy_header"] = "X-Real-Ip".into();
    expected["http"]["trusted_proxies"] = json!(["127.0.0.0/8", "::1/128"]);
    expected["metrics"] = json!({"addr": "", "prefix": "chihaya"});
    assert_eq!(result.json(), expected);
    let odd = import("private-odd.json");
    assert_eq!(odd.code, Some(3), "{}", odd.report);
    for line in [
        "changed database.dsn: ",
        "changed intervals.announce: ",
        "changed intervals.flush: ",
        "changed http.proxy_header: X-Real-Ip was trusted from any address, now from loopback only",
        "dropped shiny: unknown key",
    ] {
        odd.assert_line(line);
    }
    assert!(!odd.out.contains("hunter2"));
}

#[test]
fn an_import_that_fails_exits_with_1_and_writes_nothing() {
    let folder = Folder::new();
    for (text, words) in [
        ("chihaya: [", "line 1"),
        ("udp: {}", "neither chihaya's YAML"),
        ("chihaya: {http: {addr: nowhere}}", "http.addr"),
        ("chihaya: {http: {addr: ':1', announce_routes: [x]}}", "http.announce_routes"),
        ("chihaya: {udp: {addr: ':1', private_key: {hunter2: 1}}}", "udp.private_key"),
        (r#"{"database": {"dsn": "t:hunter2@pigeon(x)/y"}}"#, "database.dsn: "),
        (r#"{"http": {"addr": "nowhere"}}"#, "http.addr: "),
        ("{\"mode\": \"open\"}", "mode: this is a configuration of hayate already"),
    ] {
        let path = folder.write("old", text);
        let output = folder.path().join("tracker.json");
        let args = ["import-config", path.to_str().unwrap(), "-o", output.to_str().unwrap()];
        let result = run_hayate(&args);
        assert_eq!(result.code, Some(1), "{text}: {}", result.report);
        let last = result.report.lines().last().unwrap();
        assert!(last.contains(words) && !result.report.contains("hunter2"), "{text}: {}", result.report);
        assert!(!output.exists() && result.out.is_empty(), "{text}");
    }
    for args in [["import-config", "not-there.yaml"], ["import-lists", "not-there.list"]] {
        let result = run_hayate(&args);
        assert_eq!(result.code, Some(1));
        assert!(result.report.contains(args[1]), "{}", result.report);
    }
    assert_eq!(run_hayate(&["import-lists"]).code, Some(2));
}

/// Starts the daemon with the configuration in `folder`, but on free ports.
fn serve(folder: Folder) -> Daemon {
    let (port, metrics_port) = (free_port(), free_port());
    let mut command = hayate();
    command.env("HAYATE__UDP__ADDR", format!(":{port}")).env("HAYATE__HTTP__ADDR", format!(":{port}"));
    command.env("HAYATE__METRICS__ADDR", format!("127.0.0.1:{metrics_port}"));
    let path = folder.path().join("tracker.json");
    Daemon::start_command(folder, port, metrics_port, command.arg("--config").arg(path))
}

#[test]
fn the_daemon_serves_with_an_imported_configuration() {
    let folder = Folder::new();
    let path = folder.path().join("tracker.json");
    let args = ["import-config", &fixture("chihaya.yaml"), "--output", path.to_str().unwrap()];
    let result = run_hayate(&args);
    assert_eq!((result.code, result.out.as_str()), (Some(0), ""), "{}", result.report);
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600, "it holds a key");
    let daemon = serve(folder);
    let udp = UdpClient::connect("127.0.0.1", daemon.v4());
    assert_eq!(udp.announce(b'a', 7001, 0, 2).1, 1);
    // Peer ids are kept, so another client needs another id.
    let target = announce_target('a', 7011, "&left=13&compact=1").replace("0001&", "0002&");
    let reply = fetch(daemon.v4(), &target);
    assert_eq!(reply.peers(), ["127.0.0.1:7001".parse().unwrap()]);
    let interval = reply.bencoded().at("interval").and_then(hayate_tools::bencode::Value::integer).unwrap();
    assert!((29 * 60..=29 * 60 + 61).contains(&interval), "{interval}");
    let metrics = String::from_utf8(daemon.page("/metrics").unwrap().body).unwrap();
    assert!(metrics.contains("\nchihaya_") && !metrics.contains("\nhayate_"));
}

#[test]
fn lists_are_merged_and_the_daemon_reads_them() {
    let folder = Folder::new();
    let path = folder.path().join("torrents.txt");
    let files = ["opentracker.list", "aquatic.list", "approval.yaml"].map(fixture);
    let mut args = vec!["import-lists"];
    args.extend(files.iter().map(String::as_str));
    args.extend(["-o", path.to_str().unwrap()]);
    let result = run_hayate(&args);
    assert_eq!((result.code, result.out.as_str()), (Some(0), ""), "{}", result.report);
    result.assert_line(&format!("{}: 3 read, 1 duplicates, 0 bad lines", files[0]));
    result.assert_line(&format!("{}: 2 read, 0 duplicates, 0 bad lines", files[1]));
    result.assert_line("5 torrents in all, 1 in more than one file");
    let expected: Vec<String> = ["1", "2", "a", "b", "c"].map(|digit| digit.repeat(40)).to_vec();
    let written = std::fs::read_to_string(&path).unwrap();
    assert_eq!(written.lines().collect::<Vec<_>>(), expected);
    folder.write("tracker.json", r#"{"access": {"mode": "deny", "path": "torrents.txt"}}"#);
    let daemon = serve(folder);
    let hash = |octet: &str| format!("/announce?info_hash={}&peer_id=-XX0001-000000000001", octet.repeat(20));
    let reason = |octet: &str| {
        let reply = fetch(daemon.v4(), &format!("{}&port=7&left=1", hash(octet))).bencoded();
        reply.at("failure reason").is_some()
    };
    assert!(reason("%cc") && reason("%11") && !reason("%33"));
}

#[test]
fn bad_lines_are_named_and_the_rest_is_written() {
    let result = run_hayate(&["import-lists", &fixture("magnet.list")]);
    assert_eq!(result.code, Some(3), "{}", result.report);
    assert_eq!(result.out, "0123456789abcdef0123456789abcdef01234567\n");
    result.assert_line(&format!("{}: line 2: \"not a hash\"", fixture("magnet.list")));
    result.assert_line(&format!("{}: line 3: \"3333333", fixture("magnet.list")));
}

#[test]
fn a_million_lines_are_sorted_and_none_is_lost() {
    let folder = Folder::new();
    let mut text = String::new();
    for number in 0_u64..1_000_000 {
        // Scattered, so that there is something to sort.
        writeln!(text, "{:024x}{number:016X}", number.wrapping_mul(0x9E37_79B9_7F4A_7C15)).unwrap();
    }
    let path = folder.write("long.list", &text);
    let output = folder.path().join("sorted.list");
    let result = run_hayate(&["import-lists", path.to_str().unwrap(), "-o", output.to_str().unwrap()]);
    assert_eq!(result.code, Some(0), "{}", result.report);
    let sorted = std::fs::read_to_string(&output).unwrap();
    assert_eq!((sorted.len(), sorted.lines().count()), (41_000_000, 1_000_000));
    assert!(sorted.lines().is_sorted());
}
