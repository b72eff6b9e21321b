//! Hooks of the configuration, on both servers of the running daemon (`rules/hooks.md`).

mod jwk_set;
mod jwt;

use serde_json::{Value, json};

use crate::harness::{Daemon, Folder, UdpClient, announce_rest, announce_target, ask, fetch, hayate};

/// Returns the failure of an announce of torrent `a` over HTTP, if there is one.
fn refused(daemon: &Daemon, port: u16, more: &str) -> Option<String> {
    let reply = fetch(daemon.v4(), &announce_target('a', port, &format!("&left=9{more}")));
    assert_eq!(reply.status, 200);
    let text = reply.bencoded().at("failure reason")?.octets()?.to_vec();
    Some(String::from_utf8(text).unwrap())
}

/// Does the same over UDP, with this URL after the announce (BEP 41), in chunks of `chunk` octets.
fn refused_over_udp(daemon: &Daemon, port: u16, url: &str, chunk: usize) -> Option<String> {
    let client = UdpClient::connect("127.0.0.1", daemon.v4());
    let mut request = client.request(1, &announce_rest(b'a', port, 9, 0, -1));
    for part in url.as_bytes().chunks(chunk) {
        request.extend([2, u8::try_from(part.len()).unwrap()]);
        request.extend(part);
    }
    let reply = ask(&client.socket, &request).expect("a reply");
    let text = || String::from_utf8(reply[8..].to_vec()).unwrap();
    (reply[..4] == [0, 0, 0, 3]).then(text)
}

/// Returns the error with which a daemon ends that is started with these hooks.
fn start_error(hooks: Value) -> String {
    let folder = Folder::new();
    let path = folder.write("tracker.json", &hooks.to_string());
    let output = hayate().arg("-c").arg(path).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{hooks}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn hook_order() {
    let daemon = Daemon::start(json!({"prehooks": [
        {"name": "client approval", "options": {"whitelist": ["TR4060"]}},
        {"name": "torrent approval", "options": {"whitelist": ["aa".repeat(20)]}},
    ]}));
    // Both would refuse; the refusal of the first counts, and nothing is stored.
    assert_eq!(refused(&daemon, 7001, "").as_deref(), Some("unapproved client"));
    assert_eq!(refused_over_udp(&daemon, 7001, "", 9).as_deref(), Some("unapproved client"));
    let client = UdpClient::connect("127.0.0.1", daemon.v4());
    assert_eq!(client.scrape(b'a'), [0, 0, 0]);
    assert_eq!(daemon.metric("udp_refusals_total{reason=\"unapproved_client\"}"), 1);
    assert_eq!(daemon.metric("http_refusals_total{reason=\"unapproved_client\"}"), 1);

    // As a posthook it answers as usual, and stores nothing.
    let daemon = Daemon::start(json!({"posthooks": [
        {"name": "client approval", "options": {"blacklist": ["AZ3034"]}},
    ]}));
    assert_eq!(refused(&daemon, 7001, ""), None);
    let azureus = announce_target('a', 7002, "&left=9").replace("-XX0001-", "-AZ3034-");
    let reply = fetch(daemon.v4(), &azureus);
    assert_eq!(reply.peers(), ["127.0.0.1:7001".parse().unwrap()]);
    let client = UdpClient::connect("127.0.0.1", daemon.v4());
    assert_eq!(client.scrape(b'a'), [0, 0, 1]);
    // Over UDP too.
    let mut rest = announce_rest(b'a', 7003, 9, 0, -1);
    rest[20..40].copy_from_slice(b"-AZ3034-000000000001");
    let reply = ask(&client.socket, &client.request(1, &rest)).unwrap();
    assert_eq!((&reply[..4], reply.len()), (&[0, 0, 0, 1][..], 26));
    assert_eq!(client.scrape(b'a'), [0, 0, 1]);
}

#[test]
fn approvals_and_variation() {
    let hash = "61".repeat(20);
    let daemon = Daemon::start(json!({"prehooks": [
        {"name": "torrent approval", "options": {"blacklist": [hash]}},
        {"name": "interval variation", "options": {
            "modify_response_probability": 1, "max_increase_delta": 60, "modify_min_interval": true}},
    ], "intervals": {"announce": 1000, "min_announce": 500, "announce_drift": 0}}));
    assert_eq!(refused(&daemon, 7001, "").as_deref(), Some("unapproved torrent"));
    let scrape = fetch(daemon.v4(), &format!("/scrape?info_hash={}", "a".repeat(20)));
    assert!(scrape.bencoded().at("files").is_some(), "scrapes pass");
    // The first vector of `rules/hooks.md#interval-variation`.
    let text = "00000000000000000001";
    let target =
        format!("/announce?info_hash={text}&peer_id={text}&port=7001&left=9&uploaded=0&downloaded=0");
    let reply = fetch(daemon.v4(), &target).bencoded();
    let number = |key: &str| reply.at(key).and_then(|value| value.integer());
    assert_eq!((number("interval"), number("min interval")), (Some(1022), Some(522)));

    let both = json!({"whitelist": ["AZ3034"], "blacklist": ["TR4060"]});
    for (name, options, text) in [
        ("client approval", both, "using both whitelist and blacklist is invalid"),
        ("client approval", json!({"whitelist": ["AZ"]}), "client ID AZ must be 6 bytes"),
        ("torrent approval", json!({"blacklist": ["zz"]}), "blacklist : invalid hash zz"),
        ("torrent approval", json!({"whitelist": ["aa"]}), "whitelist : hash aa is not 20 bytes"),
        ("interval variation", json!({}), "invalid modify_response_probability"),
        (
            "interval variation",
            json!({"modify_response_probability": 1, "max_increase_delta": -10}),
            "invalid max_increase_delta",
        ),
        ("no such hook", json!({}), "middleware driver with that name does not exist"),
    ] {
        let error = start_error(json!({"prehooks": [{"name": name, "options": options}]}));
        let expected = format!("failed to validate hook config: {text}");
        assert!(error.contains(&expected) && error.contains(name), "{error}");
    }
}

#[test]
fn a_reload_changes_hooks_or_refuses_them_as_a_whole() {
    let daemon = Daemon::start(json!({}));
    let reload = |hooks: Value, word: &str, times| {
        daemon.rewrite_config(|config| config["prehooks"] = hooks);
        daemon.signal(nix::sys::signal::Signal::SIGHUP);
        daemon.wait_for_log(word, times);
    };
    let approval = |options: Value| json!([{"name": "client approval", "options": options}]);
    reload(approval(json!({"blacklist": ["XX0001"]})), "\"reloaded\"", 1);
    assert_eq!(refused(&daemon, 7001, "").as_deref(), Some("unapproved client"));
    reload(approval(json!({"blacklist": ["XX"]})), "reload refused", 1);
    assert_eq!(refused(&daemon, 7001, "").as_deref(), Some("unapproved client"));
    reload(json!([]), "\"reloaded\"", 2);
    assert_eq!(refused(&daemon, 7001, ""), None);
}
