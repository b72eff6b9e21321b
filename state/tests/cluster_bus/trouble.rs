//! Servers that are frozen, dead, full, or no masters.

use std::net::TcpListener;
use std::time::Duration;

use hayate_state::Clock;
use hayate_state::cluster::bus::Bus;
use hayate_state::cluster::bus::redis::{RedisBus, RedisNotice};

use crate::servers::RedisServer;
use crate::{BEGIN, KEY, append, assert_fails, bus, eventually, settings};

#[test]
fn a_frozen_server_is_away() {
    let server = RedisServer::new();
    let mut settings = settings(&server.url(""));
    settings.read_timeout = Duration::from_millis(300);
    let mut bus = RedisBus::new(settings, Clock::start()).unwrap();
    eventually(|| append(&mut bus, &[b"a"]));
    server.freeze();
    // By the old connection, and by a new one, which the system accepts.
    for _ in 0..2 {
        let text = assert_fails!(append(&mut bus, &[b"a"]), Away);
        assert!(text.contains("no answer in time"), "{text}");
    }
    server.thaw();
    eventually(|| append(&mut bus, &[b"a"]));
}

#[test]
fn a_server_that_was_killed_is_used_again() {
    let mut server = RedisServer::new();
    let mut bus = bus(&server.url(""));
    append(&mut bus, &[b"a"]).unwrap();
    server.kill9();
    assert_fails!(append(&mut bus, &[b"a"]), Away);
    assert!(assert_fails!(append(&mut bus, &[b"a"]), Away).contains("refused"));
    server.start();
    assert_eq!(bus.stream_state(KEY).unwrap(), None);
    append(&mut bus, &[b"a"]).unwrap();
}

#[test]
fn a_full_server_can_be_trimmed() {
    let server = RedisServer::new();
    let mut bus = bus(&server.url(""));
    append(&mut bus, &[b"a"]).unwrap();
    server.cli("CONFIG SET maxmemory 1");
    assert!(assert_fails!(append(&mut bus, &[b"b"]), OutOfMemory).contains("OOM"));
    assert_eq!(append(&mut bus, &[]).unwrap().entries.len(), 1);
    bus.trim(KEY, BEGIN, 1).unwrap();
    server.cli("CONFIG SET maxmemory 0");
    append(&mut bus, &[b"b"]).unwrap();
}

#[test]
fn a_policy_that_drops_streams_is_noticed_once() {
    let server = RedisServer::new();
    let mut bus = bus(&server.url(""));
    let notices = bus.notices();
    let mut notice = |command: &str| {
        server.cli(command);
        // The policy is read at a connect.
        server.cli("CLIENT KILL TYPE normal");
        eventually(|| bus.stream_state(KEY));
        notices.take()
    };
    assert_eq!(notice("PING"), None);
    let evicts = Some(RedisNotice::Evicts { policy: "allkeys-lru".to_owned() });
    assert_eq!(notice("CONFIG SET maxmemory-policy allkeys-lru"), evicts);
    assert_eq!(notice("PING"), None);
    assert_eq!(notice("CONFIG SET maxmemory-policy noeviction"), None);
    assert_eq!(notice("CONFIG SET maxmemory-policy allkeys-lru"), evicts);
}

#[test]
fn a_replica_is_away_until_it_is_a_master() {
    let server = RedisServer::new();
    let mut bus = bus(&server.url(""));
    append(&mut bus, &[b"a"]).unwrap();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    server.cli(&format!("REPLICAOF 127.0.0.1 {}", nobody.local_addr().unwrap().port()));
    for _ in 0..2 {
        assert!(assert_fails!(append(&mut bus, &[b"b"]), Away).contains("READONLY"));
    }
    server.cli("REPLICAOF NO ONE");
    append(&mut bus, &[b"b"]).unwrap();
}

#[test]
fn no_socket_is_opened_before_the_first_call() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let bus = bus(&format!("redis://127.0.0.1:{port}"));
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    drop(bus);
}
