//! Several trackers as one: real daemons around a real Redis.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::upgrade::{SuccessorGuard, http_load, upgrade};
use crate::harness::{
    Daemon, Folder, StopOnDrop, UdpClient, announce_rest, announce_target, ask, eventually, fetch, hayate,
    merge,
};
use crate::redis_server::RedisServer;

const SECRET: &str = "known to all nodes";
const COMPLETED: u32 = 1;
const STARTED: u32 = 2;
const STOPPED: u32 = 3;

fn config(redis: &RedisServer, node_id: &str) -> Value {
    json!({
        "cluster": {
            "node_id": node_id,
            "secret": SECRET,
            "redis": {"url": redis.url(), "batch_delay": "20ms", "read_timeout": "2s"}
        }
    })
}

fn node(redis: &RedisServer, node_id: &str) -> Daemon {
    Daemon::start(config(redis, node_id))
}

fn with(redis: &RedisServer, node_id: &str, changes: Value) -> Value {
    let mut all = config(redis, node_id);
    merge(&mut all, changes);
    all
}

fn client(daemon: &Daemon) -> UdpClient {
    UdpClient::connect("127.0.0.1", daemon.v4())
}

fn announce(daemon: &Daemon, letter: u8, port: u16, left: u64, event: u32) {
    client(daemon).announce(letter, port, left, event);
}

/// Seeders, completed, leechers.
fn counts(daemon: &Daemon, letter: u8) -> [u32; 3] {
    client(daemon).scrape(letter)
}

fn agree(daemons: &[&Daemon], letter: u8, expected: [u32; 3]) {
    let known = |daemon: &&Daemon| counts(daemon, letter);
    assert!(
        eventually(|| daemons.iter().map(known).all(|counts| counts == expected)),
        "{:?}, not {expected:?}",
        daemons.iter().map(known).collect::<Vec<_>>()
    );
}

/// Starts a daemon again in its folder, with its configuration and ports.
fn start_again(mut daemon: Daemon) -> Daemon {
    let folder = std::mem::replace(&mut daemon.folder, Folder::new());
    let (port, metrics_port) = (daemon.port, daemon.metrics_port);
    drop(daemon);
    let mut command = hayate();
    command.arg("--config").arg(folder.path().join("tracker.json"));
    Daemon::start_command(folder, port, metrics_port, &mut command)
}

/// Changes that a node has published.
fn published(daemon: &Daemon) -> u64 {
    let of_kind = |kind| daemon.metric(&format!("cluster_sent_records_total{{kind=\"{kind}\"}}"));
    of_kind("live") + of_kind("republished")
}

/// Waits until a node has published so many changes, and all of them were read back.
fn wait_until_published(daemon: &Daemon, changes: u64) {
    let backlog = |stream| daemon.metric(&format!("cluster_backlog_records{{stream=\"{stream}\"}}"));
    assert!(eventually(|| published(daemon) >= changes && (0..4).all(|stream| backlog(stream) == 0)));
}

fn completed_in_store(daemon: &Daemon) -> i64 {
    let file = rusqlite::Connection::open(daemon.folder.path().join("hayate.db")).unwrap();
    file.query_row("SELECT COALESCE(SUM(completed), 0) FROM hayate_completed", [], |row| row.get(0)).unwrap()
}

#[test]
fn nodes_serve_the_same_swarms_and_accept_the_connection_ids_of_each_other() {
    let redis = RedisServer::new(&[]);
    let mut nodes = ["a", "b", "c"].map(|node_id| node(&redis, node_id));
    let [a, b, c] = &nodes;
    announce(a, b'a', 7001, 0, STARTED);
    agree(&[a, b, c], b'a', [1, 0, 0]);
    announce(b, b'a', 7002, 5, STARTED);
    agree(&[a, b, c], b'a', [1, 0, 1]);
    // Over HTTP, a peer that announced to another node over UDP is handed out.
    let seen = fetch(c.v4(), &announce_target('a', 7003, "&left=5&event=started")).peers();
    let expected = [7001, 7002].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    assert!(expected.iter().all(|peer| seen.contains(peer)), "{seen:?}");
    agree(&[a, b, c], b'a', [1, 0, 2]);
    announce(c, b'a', 7002, 0, COMPLETED);
    agree(&[a, b, c], b'a', [2, 1, 1]);
    announce(a, b'a', 7002, 0, STOPPED);
    announce(b, b'a', 7003, 5, STOPPED);
    agree(&[a, b, c], b'a', [1, 1, 0]);

    let known_to_a = client(a);
    let request = known_to_a.request(1, &announce_rest(b'a', 7004, 0, STARTED, -1));
    let reply = ask(&client(b).socket, &request).expect("the id of another node is valid");
    assert_eq!(reply[..4], [0, 0, 0, 1]);
    agree(&[a, b, c], b'a', [2, 1, 0]);

    for (of, others) in [(a, ["node b is here", "node c is here"]), (c, ["node a is here", "node b is here"])]
    {
        others.iter().for_each(|line| of.wait_for_log(line, 1));
        assert!(eventually(|| of.metric("cluster_nodes") == 3));
        let unwise = ["differs", "call themselves", "the clock of"];
        assert!(unwise.iter().all(|text| of.logged(text) == 0), "{:#?}", of.log());
    }
    for daemon in &mut nodes {
        daemon.signal(Signal::SIGTERM);
        assert!(daemon.wait().success());
    }
    // The last one has heard the goodbyes of the others.
    let [.., c] = &nodes;
    for line in ["node a has stopped", "node b has stopped"] {
        c.wait_for_log(line, 1);
        assert_eq!(c.logged(line), 1, "{:#?}", c.log());
    }
    assert_eq!(nodes.each_ref().map(completed_in_store), [1, 1, 1], "each node has a store of its own");
}

#[test]
fn an_outage_of_the_server_is_not_noticed_by_clients_and_heals() {
    let mut redis = RedisServer::new(&[]);
    let (a, b) = (node(&redis, "a"), node(&redis, "b"));
    (0..20).for_each(|port| announce(&a, b'a', 7000 + port, 5, STARTED));
    agree(&[&a, &b], b'a', [0, 0, 20]);

    redis.freeze();
    (0..5).for_each(|port| announce(&a, b'a', 7100 + port, 0, STARTED));
    (0..5).for_each(|port| announce(&b, b'a', 7000 + port, 5, STOPPED));
    for daemon in [&a, &b] {
        daemon.wait_for_log("cluster: Redis is away", 1);
        assert_eq!(daemon.page("/health").unwrap().status, 200);
    }
    redis.thaw();
    agree(&[&a, &b], b'a', [5, 0, 15]);
    for daemon in [&a, &b] {
        daemon.wait_for_log("cluster: Redis is back", 1);
    }

    // Everything in it is gone.
    redis.kill9();
    (5..10).for_each(|port| announce(&b, b'a', 7100 + port, 0, STARTED));
    (5..10).for_each(|port| announce(&a, b'a', 7000 + port, 5, STOPPED));
    for daemon in [&a, &b] {
        daemon.wait_for_log("cluster: Redis is away", 2);
    }
    redis.start();
    agree(&[&a, &b], b'a', [10, 0, 10]);
    for daemon in [&a, &b] {
        let lines = || (daemon.logged("serves alone"), daemon.logged("Redis is back"));
        // Each outage once for all links.
        assert!(eventually(|| lines().0 == lines().1), "{:#?}", daemon.log());
        assert_eq!(daemon.page("/health").unwrap().status, 200);
    }
    // Each node publishes its share again, so that a new one learns everything.
    assert!(eventually(|| {
        let walked = |daemon: &Daemon| daemon.metric("cluster_republished_total{reason=\"walk\"}");
        walked(&a) + walked(&b) >= 20
    }));
    let c = node(&redis, "c");
    agree(&[&c], b'a', [10, 0, 10]);
}

#[test]
fn a_start_does_not_wait_for_a_server_that_is_away() {
    let mut redis = RedisServer::new(&[]);
    redis.kill9();
    let (a, b) = (node(&redis, "a"), node(&redis, "b"));
    assert_eq!(a.page("/health").unwrap().status, 200);
    announce(&a, b'a', 7001, 0, STARTED);
    announce(&b, b'a', 7002, 0, STARTED);
    redis.start();
    agree(&[&a, &b], b'a', [2, 0, 0]);
}

#[test]
fn a_new_node_and_one_that_restarts_know_everything_when_they_serve() {
    let redis = RedisServer::new(&[]);
    let a = node(&redis, "a");
    (0..50).for_each(|port| announce(&a, b'a', 7000 + port, 5, STARTED));
    wait_until_published(&a, 50);
    announce(&a, b'a', 7000, 0, COMPLETED);
    wait_until_published(&a, 51);
    let mut b = node(&redis, "b");
    assert_eq!(counts(&b, b'a'), [1, 1, 49]);

    b.signal(Signal::SIGTERM);
    assert!(b.wait().success());
    (0..10).for_each(|port| announce(&a, b'a', 7040 + port, 5, STOPPED));
    announce(&a, b'b', 7001, 0, STARTED);
    wait_until_published(&a, 62);
    let b = start_again(b);
    assert_eq!((counts(&b, b'a'), counts(&b, b'b')), ([1, 1, 39], [1, 0, 0]));

    // Killed, it has its last snapshot, or none, and the streams.
    announce(&b, b'b', 7002, 0, STARTED);
    agree(&[&a, &b], b'b', [2, 0, 0]);
    b.signal(Signal::SIGKILL);
    let b = start_again(b);
    assert_eq!((counts(&b, b'a'), counts(&b, b'b')), ([1, 1, 39], [2, 0, 0]));
    agree(&[&a], b'b', [2, 0, 0]);
}

#[test]
fn an_upgrade_in_a_cluster_loses_no_change() {
    let redis = RedisServer::new(&[]);
    let (mut a, b) = (node(&redis, "a"), node(&redis, "b"));
    (0..50).for_each(|port| announce(&b, b'a', 6000 + port, 0, STARTED));
    agree(&[&a, &b], b'a', [50, 0, 0]);
    let stop = AtomicBool::new(false);
    let successor = std::thread::scope(|scope| {
        let (stop, _on_drop) = (&stop, StopOnDrop(&stop));
        for address in [a.v4(), b.v4()] {
            scope.spawn(move || http_load(address, stop));
        }
        assert!(upgrade(&a).status.success());
        let successor = SuccessorGuard::of(&a);
        stop.store(true, Ordering::Relaxed);
        successor
    });
    assert!(a.wait().success());
    announce(&b, b'a', 6000, 0, STOPPED);
    announce(&a, b'a', 6001, 0, STOPPED);
    agree(&[&a, &b], b'a', [48, 0, 0]);
    assert!(eventually(|| counts(&a, b'H') == counts(&b, b'H')));
    successor.stop();
}

#[test]
fn what_others_write_to_the_streams_changes_nothing() {
    let redis = RedisServer::new(&[]);
    let a = node(&redis, "a");
    let stranger =
        Daemon::start(with(&redis, "b", json!({"cluster": {"secret": "another secret, as long"}})));
    announce(&stranger, b'a', 7001, 0, STARTED);
    for stream in 0..4 {
        redis.run(&["XADD", &format!("hayate:{{{stream}}}"), "*", "b", "not an entry of a tracker at all"]);
        redis.run(&["XADD", &format!("hayate:{{{stream}}}"), "*", "c", "d"]);
    }
    assert!(eventually(|| a.metric("cluster_refused_entries_total{reason=\"sealed\"}") > 8));
    a.wait_for_log("entries that cannot be opened in hayate:{", 1);
    announce(&a, b'a', 7002, 0, STARTED);
    assert_eq!(counts(&a, b'a'), [1, 0, 0]);
    assert_eq!(a.logged("cannot be opened"), 1, "{:#?}", a.log());
    // Another program uses a key.
    redis.run(&["DEL", "hayate:{1}"]);
    redis.run(&["SET", "hayate:{1}", "a text"]);
    a.wait_for_log("another program uses the key hayate:{1}", 1);
    assert_eq!(a.page("/health").unwrap().status, 200);
}
