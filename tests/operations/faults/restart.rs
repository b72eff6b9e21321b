//! Restarts: the swarms and counts afterwards, with the store that needs no server.

use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::{Daemon, Folder, UdpClient, eventually, hayate};
use crate::kit::finishing_peers::{FinishingPeers, is_written};

/// Takes the folder of a daemon, so that it outlives the daemon.
fn take_folder(daemon: &mut Daemon) -> Folder {
    std::mem::replace(&mut daemon.folder, Folder::new())
}

fn restarted(daemon: &mut Daemon, changes: serde_json::Value) -> Daemon {
    Daemon::start_in(take_folder(daemon), changes, &mut hayate())
}

fn stop(daemon: &mut Daemon) {
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait().success(), "{:#?}", daemon.log());
}

#[test]
fn swarms_and_counts_survive_an_orderly_restart() {
    let mut daemon = Daemon::start(json!({}));
    let client = UdpClient::connect("127.0.0.1", daemon.v4());
    let v6_client = UdpClient::connect("::1", daemon.v6());
    client.announce(b'A', 7001, 0, 1);
    client.announce(b'A', 7002, 9, 2);
    v6_client.announce(b'A', 7003, 9, 2);
    client.announce(b'B', 7004, 9, 2);
    let mut finishers = FinishingPeers::of(&daemon);
    finishers.finish(500);
    let before = client.announce(b'A', 7005, 9, 2);
    stop(&mut daemon);
    let daemon = restarted(&mut daemon, json!({}));
    // The id was made by the same key.
    let client = UdpClient { id: client.id, ..UdpClient::connect("127.0.0.1", daemon.v4()) };
    let after = client.announce(b'A', 7005, 9, 0);
    let sorted = |octets: &[u8]| {
        let mut peers: Vec<_> = octets.chunks(6).map(<[u8]>::to_vec).collect();
        peers.sort();
        peers
    };
    assert_eq!((after.0, after.1, sorted(&after.2)), (before.0, before.1, sorted(&before.2)));
    assert_eq!(client.scrape(b'A'), [1, 1, 3]);
    assert_eq!(client.scrape(b'B'), [0, 0, 1]);
    finishers.set_tracker(&daemon);
    assert_eq!(finishers.scraped(), finishers.answered);
    assert_eq!(finishers.answered.values().sum::<u64>(), 500);
}

#[test]
fn a_kill_loses_what_was_not_written_yet_and_nothing_is_counted_twice() {
    let mut daemon = Daemon::start(json!({"intervals": {"flush": 1, "database_serialize": 1}}));
    let mut finishers = FinishingPeers::of(&daemon);
    finishers.finish(1000);
    assert!(is_written(&daemon), "{:#?}", daemon.log());
    assert!(eventually(|| daemon.metric("snapshot_peers") >= 1000), "{:#?}", daemon.log());
    let durable = finishers.answered.clone();
    finishers.finish(100);
    daemon.signal(Signal::SIGKILL);
    daemon.wait();
    let daemon = restarted(&mut daemon, json!({}));
    finishers.set_tracker(&daemon);
    let scraped = finishers.scraped();
    for (torrent, count) in &finishers.answered {
        let served = scraped.get(torrent).copied().unwrap_or(0);
        assert!((durable[torrent]..=*count).contains(&served), "torrent {torrent}: {served} of {count}");
    }
    assert!(daemon.metric(r#"swarm_peers{family="ipv4",role="seeder"}"#) >= 1000);
}

#[test]
fn a_damaged_snapshot_is_set_aside_and_the_tracker_starts_empty() {
    let mut daemon = Daemon::start(json!({}));
    let client = UdpClient::connect("127.0.0.1", daemon.v4());
    client.announce(b'A', 7001, 9, 2);
    client.announce(b'B', 7001, 0, 1);
    stop(&mut daemon);
    let path = daemon.folder.path().join("hayate-cache.bin");
    let mut octets = std::fs::read(&path).unwrap();
    let middle = octets.len() / 2;
    octets[middle] ^= 1;
    std::fs::write(&path, &octets).unwrap();
    let daemon = restarted(&mut daemon, json!({}));
    assert_eq!(daemon.logged("hayate-cache.bin.bad"), 1, "{:#?}", daemon.log());
    assert_eq!(std::fs::read(daemon.folder.path().join("hayate-cache.bin.bad")).unwrap(), octets);
    let client = UdpClient::connect("127.0.0.1", daemon.v4());
    assert_eq!((client.scrape(b'A'), client.scrape(b'B')), ([0, 0, 0], [0, 1, 0]), "the store has the count");
}

#[test]
fn two_trackers_do_not_share_a_folder_or_a_file() {
    let first = Daemon::start(json!({}));
    let elsewhere = Folder::new();
    let file = format!("sqlite:{}", first.folder.path().join("hayate.db").display());
    let state_dir = first.folder.path().display().to_string();
    for (variable, value, expected) in [
        ("DB_DSN", &file, "hayate.db is used by another hayate"),
        ("HAYATE__STATE_DIR", &state_dir, "process"),
    ] {
        let mut second = hayate();
        second.current_dir(elsewhere.path()).env(variable, value);
        for key in ["UDP", "HTTP", "METRICS"] {
            second.env(format!("HAYATE__{key}__ADDR"), "");
        }
        let output = second.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && stderr.contains(expected), "{stderr}");
    }
    let client = UdpClient::connect("127.0.0.1", first.v4());
    assert_eq!(client.announce(b'A', 7001, 9, 2).0, 1);
}

#[test]
fn without_a_database_the_snapshot_keeps_the_counts() {
    let mut daemon = Daemon::start(json!({"database": {"dsn": ""}}));
    let mut finishers = FinishingPeers::of(&daemon);
    finishers.finish(200);
    stop(&mut daemon);
    assert!(!daemon.folder.path().join("hayate.db").exists());
    let daemon = restarted(&mut daemon, json!({"database": {"dsn": ""}}));
    finishers.set_tracker(&daemon);
    assert_eq!(finishers.scraped(), finishers.answered);
}

#[test]
fn a_clock_that_jumps_back_an_hour_ages_nobody_and_breaks_nothing() {
    let folder = Folder::new();
    let time = folder.write("faketime", "+0");
    // The file is read with each reading of the clock; the steady clock, by which peers age, is not shifted.
    let command = || {
        let mut command = hayate();
        command.env("LD_PRELOAD", faketime()).env("FAKETIME_TIMESTAMP_FILE", &time);
        command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        command
    };
    let changes = json!({"intervals": {"flush": 1, "database_serialize": 1}});
    let mut daemon = Daemon::start_in(folder, changes.clone(), &mut command());
    let mut finishers = FinishingPeers::of(&daemon);
    finishers.finish(100);
    let written_before = daemon.metric("snapshots_total");
    std::fs::write(&time, "-3600").unwrap();
    // Ids from the future are refused; a new one is issued at once.
    finishers.set_tracker(&daemon);
    finishers.finish(100);
    assert!(eventually(|| daemon.metric("snapshots_total") > written_before + 1), "{:#?}", daemon.log());
    assert_eq!(daemon.metric(r#"swarm_peers{family="ipv4",role="seeder"}"#), 200);
    assert!(is_written(&daemon));
    daemon.signal(Signal::SIGKILL);
    daemon.wait();
    // And the next start is another hour back: the snapshot is from the future.
    std::fs::write(&time, "-7200").unwrap();
    let daemon = Daemon::start_in(take_folder(&mut daemon), changes, &mut command());
    finishers.set_tracker(&daemon);
    assert_eq!(finishers.scraped(), finishers.answered);
    assert_eq!(daemon.metric(r#"swarm_peers{family="ipv4",role="seeder"}"#), 200);
}

/// Returns the library that shifts the clock of a process.
fn faketime() -> std::path::PathBuf {
    let folders = std::fs::read_dir("/usr/lib").unwrap();
    let library = |entry: std::fs::DirEntry| entry.path().join("faketime/libfaketime.so.1");
    let mut found = folders.map_while(Result::ok).map(library).filter(|path| path.exists());
    found.next().expect("libfaketime; tests/setup installs it")
}
