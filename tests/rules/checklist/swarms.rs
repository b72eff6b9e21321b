//! What announces do to a swarm, as clients see it (`rules/swarms.md`).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::{
    Daemon, Folder, UdpClient, announce_rest, announce_target, ask, eventually, fetch, hayate, peers_of,
};

const COMPLETED: u32 = 1;
const STARTED: u32 = 2;
const STOPPED: u32 = 3;

#[test]
fn swarm_rules() {
    let daemon = Daemon::start(json!({}));
    let client = UdpClient::connect("127.0.0.1", daemon.v4());
    // Seeders, finished downloads, leechers after each step.
    for (step, port, left, event, counts) in [
        ("a stop of an unknown peer", 7001, 9, STOPPED, [0, 0, 0]),
        ("a leecher", 7001, 9, STARTED, [0, 0, 1]),
        ("again", 7001, 9, 0, [0, 0, 1]),
        ("a new port is another peer", 7002, 9, 0, [0, 0, 2]),
        ("completed", 7001, 0, COMPLETED, [1, 1, 1]),
        ("completed again", 7001, 0, COMPLETED, [1, 1, 1]),
        ("completed with something left", 7002, 9, COMPLETED, [1, 1, 1]),
        ("a peer that starts as a seeder", 7003, 0, STARTED, [2, 1, 1]),
        ("a seeder that becomes a leecher again", 7003, 9, 0, [1, 1, 2]),
        ("and a seeder without an event", 7003, 0, 0, [2, 1, 1]),
        ("a stop", 7001, 0, STOPPED, [1, 1, 1]),
        ("and another", 7002, 9, STOPPED, [1, 1, 0]),
    ] {
        let reply = client.announce(b'a', port, left, event);
        assert_eq!([reply.1, reply.0], [counts[0], counts[2]], "{step}");
        assert!(event != STOPPED || reply.2.is_empty(), "{step}: a peer that stops gets no peers");
        assert_eq!(client.scrape(b'a'), counts, "{step}");
    }
    // Another peer id at the same address and port is the same peer.
    let mut restarted = announce_rest(b'a', 7003, 0, STARTED, -1);
    restarted[20..40].copy_from_slice(b"-XX0001-another00001");
    ask(&client.socket, &client.request(1, &restarted)).unwrap();
    assert_eq!(client.scrape(b'a'), [1, 1, 0]);
}

#[test]
fn peer_selection() {
    let daemon = Daemon::start(json!({}));
    let client = UdpClient::connect("127.0.0.1", daemon.v4());
    let handed_out = |letter, port, left, event| peers_of(&client.announce(letter, port, left, event).2, 6);
    let local = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    assert!(handed_out(b'a', 7001, 9, 0).is_empty(), "a lone peer gets no peers");
    assert!(handed_out(b'a', 7001, 9, 0).is_empty(), "not even itself");
    assert_eq!(handed_out(b'a', 7002, 0, 0), [local(7001)]);
    assert_eq!(handed_out(b'a', 7003, 0, 0), [local(7001)], "a seeder gets leechers only");
    assert_eq!(handed_out(b'a', 7004, 9, 0), [7001, 7002, 7003].map(local), "a leecher gets both");
    assert_eq!(
        handed_out(b'a', 7005, 0, STARTED),
        [7001, 7002, 7003, 7004].map(local),
        "it may lack the metadata"
    );
    // Of a thousand peers all are drawn alike. The peers of one reply are neighbours, so only replies of one
    // peer are independent: then chi-square has 999 degrees of freedom and the deviation sqrt(2 * 999) = 45,
    // and exceeds the mean by 7 deviations once in 10^10 tests.
    (0..1000).for_each(|port| _ = client.announce(b'b', 8000 + port, u64::from(port % 2), 0));
    assert_eq!(handed_out(b'b', 7001, 9, 0).len(), 50);
    let request = client.request(1, &announce_rest(b'b', 7001, 9, 0, 1));
    let mut drawn: HashMap<SocketAddr, f64> = HashMap::new();
    let draws = 10_000;
    for _ in 0..draws {
        let [peer] = peers_of(&ask(&client.socket, &request).unwrap()[20..], 6)[..] else {
            panic!("one peer")
        };
        *drawn.entry(peer).or_default() += 1.0;
    }
    let expected = f64::from(draws) / 1000.0;
    let never = 1000 - u32::try_from(drawn.len()).unwrap();
    let chi_square: f64 = drawn.values().map(|count| (count - expected).powi(2) / expected).sum();
    let chi_square = chi_square + f64::from(never) * expected;
    assert!(chi_square < 999.0 + 7.0 * 45.0, "{chi_square}");
}

#[test]
fn expiry_and_restart() {
    let intervals = json!({"announce": 30, "min_announce": 30, "announce_drift": 0, "peer_inactivity": 60,
        "purge_inactive_peers": 1});
    let mut daemon = Daemon::start(json!({"intervals": intervals}));
    let client = UdpClient::connect("127.0.0.1", daemon.v4());
    let start = Instant::now();
    client.announce(b'a', 7001, 9, 0);
    client.announce(b'a', 7001, 0, COMPLETED);
    // Long enough that no peer can miss the end of its minute; the clock of a peer has whole seconds.
    std::thread::sleep(Duration::from_secs(50));
    assert!(client.scrape(b'a') == [1, 1, 0] || start.elapsed() > Duration::from_secs(58));
    assert!(eventually(|| client.scrape(b'a') == [0, 1, 0]), "the peer goes, its download stays");
    assert!(start.elapsed() > Duration::from_secs(58), "not before its time");

    daemon.rewrite_config(|config| config["intervals"] = json!({}));
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_log("\"reloaded\"", 1);
    client.announce(b'b', 7001, 9, 0);
    client.announce(b'b', 7002, 0, 0);
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait().success());
    let folder = std::mem::replace(&mut daemon.folder, Folder::new());
    let restarted = Daemon::start_in(folder, json!({}), &mut hayate());
    let client = UdpClient::connect("127.0.0.1", restarted.v4());
    assert_eq!((client.scrape(b'a'), client.scrape(b'b')), ([0, 1, 0], [1, 0, 1]));
    assert_eq!(fetch(restarted.v4(), &announce_target('b', 7003, "&left=9")).peers().len(), 2);
}
