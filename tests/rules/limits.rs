//! Rate limits of addresses on both servers, after the source is verified (`rules/swarms.md#rate-limit`).

use serde_json::{Value, json};

use crate::harness::{Daemon, UdpClient, announce_rest, announce_target, ask, fetch, udp_socket};

fn limits(answer: &str) -> Value {
    json!({"limits": {"per_minute": 1, "burst": 7, "answer": answer},
        "intervals": {"announce": 1000, "min_announce": 500, "announce_drift": 0}})
}

/// Returns the interval and the number of peers of an announce over UDP.
fn announce(client: &UdpClient, port: u16) -> (u32, usize) {
    let reply = ask(&client.socket, &client.request(1, &announce_rest(b'a', port, 9, 0, -1))).unwrap();
    assert_eq!(reply[..8], [0, 0, 0, 1, 1, 2, 3, 4]);
    (u32::from_be_bytes(reply[8..12].try_into().unwrap()), (reply.len() - 20) / 6)
}

/// Returns interval, min interval and number of peers of an announce over HTTP.
fn announce_over_http(daemon: &Daemon, port: u16) -> (i64, i64, usize) {
    let response = fetch(daemon.v4(), &announce_target('a', port, "&left=9"));
    let (reply, peers) = (response.bencoded(), response.peers().len());
    let number = |key| reply.at(key).unwrap().integer().unwrap();
    (number("interval"), number("min interval"), peers)
}

#[test]
fn too_many_requests_get_a_valid_empty_reply_and_a_long_interval() {
    let daemon = Daemon::start(limits("empty"));
    let client = UdpClient::connect("127.0.0.1", daemon.v4());
    for port in 0..7 {
        assert_eq!(announce(&client, 7000 + port), (1000, usize::from(port)));
    }
    assert_eq!(announce(&client, 7007), (2000, 0));
    assert_eq!(announce_over_http(&daemon, 7008), (2000, 2000, 0));
    assert_eq!(client.scrape(b'a'), [0, 0, 0], "scrapes count too");
    // Another address is served, and sees that nothing has changed.
    let other = UdpClient::connect("127.0.0.2", daemon.v4());
    assert_eq!(other.scrape(b'a'), [0, 0, 7]);
    assert_eq!(announce(&other, 7009), (1000, 7));
}

#[test]
fn offenders_may_get_a_long_interval_or_only_be_counted() {
    for (answer, interval) in [("slow", 2000), ("count", 1000)] {
        let daemon = Daemon::start(limits(answer));
        let client = UdpClient::connect("127.0.0.1", daemon.v4());
        for port in 0..7 {
            announce(&client, 7000 + port);
        }
        assert_eq!(announce(&client, 7007), (interval, 7), "{answer}");
        let min_interval = if answer == "slow" { 2000 } else { 500 };
        assert_eq!(announce_over_http(&daemon, 7008), (interval.into(), min_interval, 8), "{answer}");
    }
}

#[test]
fn nobody_is_limited_for_what_others_send_in_their_name() {
    let daemon = Daemon::start(limits("empty"));
    let victim = UdpClient::connect("127.0.0.1", daemon.v4());
    let forger = udp_socket("127.0.0.1", daemon.v4());
    let mut forged = victim.request(1, &announce_rest(b'a', 7001, 9, 0, -1));
    forged[3] ^= 1;
    for _ in 0..100 {
        forger.send(&forged).unwrap();
    }
    assert_eq!(announce(&victim, 7002), (1000, 0));
    assert_eq!(announce(&victim, 7003), (1000, 1));
}

#[test]
fn a_reload_keeps_the_buckets_and_may_end_the_limit() {
    let daemon = Daemon::start(limits("empty"));
    let client = UdpClient::connect("127.0.0.1", daemon.v4());
    (0..8).for_each(|port| _ = announce(&client, 7000 + port));
    let reload = |changes: Value, times| {
        daemon.rewrite_config(|config| crate::harness::merge(config, changes));
        daemon.signal(nix::sys::signal::Signal::SIGHUP);
        daemon.wait_for_log("\"reloaded\"", times);
    };
    reload(json!({"limits": {"answer": "slow"}}), 1);
    assert_eq!(announce(&client, 7000).0, 2000);
    reload(json!({"limits": {"per_minute": 0}}), 2);
    assert_eq!(announce(&client, 7000).0, 1000);
}
