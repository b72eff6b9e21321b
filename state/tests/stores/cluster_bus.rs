//! The connection of a link to real Redis servers: alone, as a Cluster, with Sentinel, with TLS and rights.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread::{self, sleep};
use std::time::Duration;

use hayate_state::Clock;
use hayate_state::cluster::bus::redis::{RedisBus, RedisSettings, RedisTimeouts};
use hayate_state::cluster::bus::{Bus, BusError, EntryId, Exchange, Exchanged};

use crate::redis_server::RedisServer;
use crate::server_process::{POLL_INTERVAL, POLLS_MAX, free_server_port};

const KEY: &str = "hayate:{0}";
const LONG: Duration = Duration::from_secs(20);
const TIMEOUTS: RedisTimeouts = RedisTimeouts { connect: LONG, read: LONG, write: LONG };

fn settings(url: &str) -> RedisSettings {
    RedisSettings::from_url(url, TIMEOUTS, "hayate-test".into()).unwrap()
}

fn bus(url: &str) -> RedisBus {
    RedisBus::new(settings(url), Clock::start())
}

fn exchange(
    bus: &mut RedisBus,
    key: &str,
    append: &[Vec<u8>],
    position: EntryId,
) -> Result<Exchanged, BusError> {
    bus.exchange(&Exchange { key, append, oldest: EntryId::default(), position, read_max: 64 })
}

fn read_all(bus: &mut RedisBus, key: &str) -> Vec<Vec<u8>> {
    let exchanged = exchange(bus, key, &[], EntryId::default()).unwrap();
    exchanged.entries.into_iter().map(|(_, octets)| octets).collect()
}

/// Appends one entry, as often as it takes; returns how often it failed.
fn append_at_last(bus: &mut RedisBus, key: &str, octets: &[u8]) -> u32 {
    for failures in 0..POLLS_MAX {
        match exchange(bus, key, &[octets.to_vec()], EntryId::default()) {
            Ok(_) => return failures,
            Err(error) => println!("{error}"),
        }
        sleep(POLL_INTERVAL);
    }
    panic!("nothing is appended");
}

#[test]
fn what_is_appended_is_read_back_in_the_same_exchange() {
    let server = RedisServer::new(&[]);
    for url in [server.url(), format!("unix://{}", server.socket().display())] {
        let mut bus = bus(&url);
        let before = exchange(&mut bus, KEY, &[], EntryId::default()).unwrap();
        let position = before.entries.last().map_or(EntryId::default(), |(id, _)| *id);
        let two = [vec![0, 1, 255], b"\r\n$-1\r\n".to_vec()];
        let exchanged = exchange(&mut bus, KEY, &two, position).unwrap();
        let (ids, octets): (Vec<_>, Vec<_>) = exchanged.entries.into_iter().unzip();
        assert_eq!((ids.clone(), octets.as_slice()), (exchanged.appended, two.as_slice()));
        let milliseconds = u64::try_from(exchanged.server_time.as_millis()).unwrap();
        assert!(ids[0].milliseconds >= milliseconds, "{ids:?} {milliseconds}");
        let state = bus.stream_state(KEY).unwrap().unwrap();
        assert_eq!((state.last, state.first.is_some()), (ids[1], true));
        assert!(server.run(&["CLIENT", "LIST"]).contains("name=hayate-test"));
    }
}

#[test]
fn history_is_dropped_by_age_and_by_number() {
    let server = RedisServer::new(&["stream-node-max-entries 10"]);
    let mut bus = bus(&server.url());
    let entries: Vec<_> = (0..100).map(|n| vec![n]).collect();
    let last = exchange(&mut bus, KEY, &entries, EntryId::default()).unwrap().appended[99];
    bus.trim(KEY, EntryId::default(), 50).unwrap();
    assert_eq!(bus.stream_state(KEY).unwrap().unwrap().len, 50);
    let oldest = EntryId { milliseconds: last.milliseconds + 1, number: 0 };
    bus.exchange(&Exchange { key: KEY, append: &[vec![7]], oldest, position: last, read_max: 1 }).unwrap();
    assert!(bus.stream_state(KEY).unwrap().unwrap().len < 12, "whole nodes are dropped");
    bus.trim(KEY, EntryId { milliseconds: u64::MAX, number: 0 }, 50).unwrap();
    let state = bus.stream_state(KEY).unwrap().unwrap();
    assert!(state.last > last, "the last place is known, whatever was dropped: {state:?}");
}

#[test]
fn a_missing_stream_has_no_state_and_another_type_is_an_error() {
    let server = RedisServer::new(&[]);
    let mut bus = bus(&server.url());
    assert_eq!(bus.stream_state(KEY), Ok(None));
    server.run(&["SET", KEY, "a text"]);
    let wrong = BusError::WrongType(KEY.into());
    assert_eq!(bus.stream_state(KEY), Err(wrong.clone()));
    assert_eq!(exchange(&mut bus, KEY, &[vec![1]], EntryId::default()), Err(wrong));
    server.run(&["DEL", KEY]);
    server.run(&["XADD", KEY, "*", "foreign", "entry"]);
    server.run(&["XADD", KEY, "*", "b", "x", "c", "y"]);
    assert_eq!(
        read_all(&mut bus, KEY),
        [Vec::<u8>::new(), Vec::new()],
        "what another program appends is empty"
    );
}

#[test]
fn a_frozen_server_is_away_and_a_restarted_one_is_there_again() {
    let mut server = RedisServer::new(&[]);
    let read = Duration::from_secs(3);
    let timeouts = RedisTimeouts { read, ..TIMEOUTS };
    let settings = RedisSettings::from_url(&server.url(), timeouts, "hayate-test".into()).unwrap();
    let mut bus = RedisBus::new(settings, Clock::start());
    exchange(&mut bus, KEY, &[vec![1]], EntryId::default()).unwrap();
    server.freeze();
    let frozen = exchange(&mut bus, KEY, &[vec![2]], EntryId::default());
    assert!(matches!(frozen, Err(BusError::Away(_))), "{frozen:?}");
    server.thaw();
    append_at_last(&mut bus, KEY, &[3]);
    // It has taken what its sender had given up.
    assert_eq!(read_all(&mut bus, KEY), [[1], [2], [3]]);
    server.kill9();
    let away = exchange(&mut bus, KEY, &[vec![4]], EntryId::default());
    assert!(matches!(away, Err(BusError::Away(_))), "{away:?}");
    assert!(matches!(bus.stream_state(KEY), Err(BusError::Away(_))));
    server.start();
    append_at_last(&mut bus, KEY, &[5]);
    assert_eq!(read_all(&mut bus, KEY), [[5]]);
}

#[test]
fn a_login_is_refused_until_it_is_right() {
    let server = RedisServer::new(&[]);
    let acl = ["ACL", "SETUSER", "hayate", "on", ">p@ss:w/rd", "~hayate:*"];
    server.run(&[&acl[..], &["+time", "+info"]].concat());
    let url = format!("redis://hayate:p%40ss%3Aw%2Frd@127.0.0.1:{}", server.port);
    let mut wrong = bus(&url.replace("p%40ss", "other"));
    let refused = exchange(&mut wrong, KEY, &[vec![1]], EntryId::default());
    let Err(BusError::Denied(text)) = refused else { panic!("{refused:?}") };
    assert!(text.contains("WRONGPASS") && !text.contains("w/rd") && !text.contains("other"), "{text}");
    let mut bus = bus(&url);
    let refused = exchange(&mut bus, KEY, &[vec![1]], EntryId::default());
    let Err(BusError::Denied(text)) = refused else { panic!("{refused:?}") };
    assert!(text.contains("NOPERM"), "{text}");
    // These rights, and no more, are needed.
    let rights = "+xadd +xread +xtrim +xinfo +time +info +ping +client|setname +asking";
    let rights: Vec<&str> = rights.split(' ').collect();
    server.run(&[&acl[..], &rights].concat());
    append_at_last(&mut bus, KEY, &[1]);
    assert_eq!(bus.stream_state(KEY).unwrap().unwrap().len, 1);
    bus.trim(KEY, EntryId::default(), 10).unwrap();
    assert!(server.run(&["CLIENT", "LIST"]).contains("name=hayate-test"));
    let other = exchange(&mut bus, "other:{0}", &[], EntryId::default());
    assert!(matches!(other, Err(BusError::Denied(_))), "{other:?}");
    server.run(&["CONFIG", "SET", "requirepass", "secret"]);
    let mut nobody = RedisBus::new(settings(&server.url()), Clock::start());
    assert!(matches!(nobody.stream_state(KEY), Err(BusError::Denied(text)) if text.contains("NOAUTH")));
}

#[test]
fn a_full_server_takes_nothing_until_it_has_room() {
    let server = RedisServer::new(&["maxmemory-policy noeviction"]);
    let mut bus = bus(&server.url());
    exchange(&mut bus, KEY, &[vec![1]], EntryId::default()).unwrap();
    server.run(&["CONFIG", "SET", "maxmemory", "1"]);
    let full = exchange(&mut bus, KEY, &[vec![2]], EntryId::default());
    assert!(matches!(full, Err(BusError::OutOfMemory(_))), "{full:?}");
    assert_eq!(read_all(&mut bus, KEY), [[1]], "it can be read");
    bus.trim(KEY, EntryId { milliseconds: u64::MAX, number: 0 }, 1).unwrap();
    server.run(&["CONFIG", "SET", "maxmemory", "0"]);
    exchange(&mut bus, KEY, &[vec![3]], EntryId::default()).unwrap();
}

#[test]
fn a_replica_is_no_server_to_write_to() {
    let (master, replica) = (RedisServer::new(&[]), RedisServer::new(&[]));
    replica.run(&["REPLICAOF", "127.0.0.1", &master.port.to_string()]);
    replica.wait_for(&["INFO", "replication"], "master_link_status:up");
    let mut bus = bus(&replica.url());
    let refused = exchange(&mut bus, KEY, &[vec![1]], EntryId::default());
    assert!(matches!(&refused, Err(BusError::Away(text)) if text.contains("READONLY")), "{refused:?}");
    replica.run(&["REPLICAOF", "NO", "ONE"]);
    append_at_last(&mut bus, KEY, &[1]);
}

/// Three masters that share all slots.
fn cluster() -> Vec<RedisServer> {
    let node = |_| {
        let bus_port = format!("cluster-port {}", free_server_port());
        RedisServer::new(&["cluster-enabled yes", "cluster-node-timeout 5000", &bus_port])
    };
    let nodes: Vec<_> = (0..3).map(node).collect();
    for (number, node) in nodes.iter().enumerate() {
        let (first, last) = (number * 5462, (number * 5462 + 5461).min(16_383));
        node.run(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
        node.run(&["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()]);
    }
    let ports: Vec<_> = nodes.iter().map(|node| node.port.to_string()).collect();
    for node in &nodes[1..] {
        let bus_port = node.run(&["CONFIG", "GET", "cluster-port"]);
        let bus_port = bus_port.lines().last().unwrap();
        nodes[0].run(&["CLUSTER", "MEET", "127.0.0.1", &node.port.to_string(), bus_port]);
    }
    for node in &nodes {
        node.wait_for(&["CLUSTER", "INFO"], "cluster_state:ok");
        ports.iter().for_each(|port| node.wait_for(&["CLUSTER", "NODES"], port));
    }
    nodes
}

fn owner(nodes: &[RedisServer], key: &str) -> usize {
    let slot: usize = nodes[0].run(&["CLUSTER", "KEYSLOT", key]).parse().unwrap();
    slot / 5462
}

#[test]
fn a_stream_of_a_cluster_is_found_and_followed_while_it_moves() {
    let nodes = cluster();
    let key = |stream: usize| format!("hayate:{{{stream}}}");
    for stream in 0..16 {
        let mut bus = bus(&nodes[0].url());
        let failures = append_at_last(&mut bus, &key(stream), b"x");
        assert_eq!(failures > 0, owner(&nodes, &key(stream)) != 0, "stream {stream}");
        assert_eq!(read_all(&mut bus, &key(stream)), [b"x"]);
    }
    // A question is asked again where it leads; so a link notices nothing at its start.
    for stream in 16..32 {
        let mut bus = bus(&nodes[0].url());
        assert_eq!(bus.stream_state(&key(stream)), Ok(None));
        exchange(&mut bus, &key(stream), &[b"x".to_vec()], EntryId::default()).unwrap();
    }
    // A seed that is not there is passed over.
    let nobody = format!("redis://127.0.0.1:{}", free_server_port());
    let seeds = vec![("127.0.0.1".to_owned(), nodes[1].port)];
    let mut bus = RedisBus::new(settings(&nobody).with_seeds(seeds), Clock::start());
    append_at_last(&mut bus, &key(0), b"y");

    // A new stream whose slot is being moved.
    let stream = (100..).find(|stream| owner(&nodes, &key(*stream)) == 0).unwrap();
    let slot = nodes[0].run(&["CLUSTER", "KEYSLOT", &key(stream)]);
    let ids = [0, 2].map(|node: usize| nodes[node].run(&["CLUSTER", "MYID"]));
    nodes[2].run(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &ids[0]]);
    nodes[0].run(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &ids[1]]);
    let mut bus = RedisBus::new(settings(&nodes[0].url()), Clock::start());
    assert!(append_at_last(&mut bus, &key(stream), b"moving") > 0);
    assert_eq!(nodes[2].run(&["CLUSTER", "COUNTKEYSINSLOT", &slot]), "1");
    for node in [2, 0, 1] {
        nodes[node].run(&["CLUSTER", "SETSLOT", &slot, "NODE", &ids[1]]);
    }
    append_at_last(&mut bus, &key(stream), b"moved");
    assert_eq!(read_all(&mut bus, &key(stream)), [&b"moving"[..], b"moved"]);
}

#[test]
fn the_master_that_a_sentinel_names_is_used_also_after_a_fail_over() {
    let mut master = RedisServer::new(&[]);
    let replica = RedisServer::new(&[&format!("replicaof 127.0.0.1 {}", master.port)]);
    let sentinel = RedisServer::sentinel(&[
        &format!("sentinel monitor main 127.0.0.1 {} 1", master.port),
        "sentinel down-after-milliseconds main 1000",
        "sentinel failover-timeout main 5000",
    ]);
    sentinel.wait_for(&["SENTINEL", "replicas", "main"], &replica.port.to_string());
    replica.wait_for(&["INFO", "replication"], "master_link_status:up");
    let nobody = format!("redis://127.0.0.1:{}", free_server_port());
    let seeds = vec![("127.0.0.1".to_owned(), sentinel.port)];
    let with_sentinel = |name: &str| settings(&nobody).with_seeds(seeds.clone()).with_sentinel(name.into());
    let mut bus = RedisBus::new(with_sentinel("main"), Clock::start());
    exchange(&mut bus, KEY, &[vec![1]], EntryId::default()).unwrap();
    assert_eq!(master.run(&["XLEN", KEY]), "1");
    master.kill9();
    assert!(append_at_last(&mut bus, KEY, &[2]) > 0);
    assert!(replica.run(&["INFO", "replication"]).contains("role:master"));
    let mut unknown = RedisBus::new(with_sentinel("other"), Clock::start());
    assert!(matches!(unknown.stream_state(KEY), Err(BusError::Away(text)) if text.contains("other")));
}

#[test]
fn tls_is_used_and_only_a_known_authority_is_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let authority = || {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        (certificate.pem(), rcgen::Issuer::new(params, key))
    };
    let (pem, issuer) = authority();
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("cert.pem"), certificate.pem()).unwrap();
    std::fs::write(path("key.pem"), key.serialize_pem()).unwrap();
    std::fs::write(path("ca.pem"), &pem).unwrap();
    let server = RedisServer::new(&[
        "port 0",
        "tls-port {port}",
        "tls-auth-clients no",
        &format!("tls-cert-file {}", path("cert.pem")),
        &format!("tls-key-file {}", path("key.pem")),
        &format!("tls-ca-cert-file {}", path("ca.pem")),
    ]);
    let url = format!("rediss://localhost:{}", server.port);
    let mut bus = RedisBus::new(settings(&url).with_ca(pem.clone().into_bytes()), Clock::start());
    exchange(&mut bus, KEY, &[vec![1]], EntryId::default()).unwrap();
    let (other, _) = authority();
    let strangers = [
        settings(&url).with_ca(other.into_bytes()),
        settings(&url),
        settings(&format!("{url}#insecure")),
        settings(&url.replace("localhost", "127.0.0.1")).with_ca(pem.into_bytes()),
    ];
    for stranger in strangers {
        let refused = RedisBus::new(stranger, Clock::start()).stream_state(KEY);
        assert!(matches!(refused, Err(BusError::Away(_))), "{refused:?}");
    }
}

#[test]
fn an_unsuitable_server_is_an_error_quickly() {
    let replies: [&[u8]; 9] = [
        b"-ERR unknown command 'AUTH', with args beginning with: 'user' 's3cret'\r\n",
        b"+OK\r\n+OK\r\n+OK\r\n+OK\r\n+OK\r\n+OK\r\n",
        b"$400000000000\r\nx",
        b"*2147483647\r\n",
        b"*-2\r\n:9\r\n:1\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"",
        b"+OK\r\n$21\r\nredis_version:6.0.16\r\n",
        b"+OK\r\n$19\r\nredis_version:nine\r\n\r\n",
    ];
    for reply in replies {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 512]);
            let _ = stream.write_all(reply);
        });
        let mut bus = bus(&format!("redis://user:s3cret@127.0.0.1:{port}"));
        let error = bus.stream_state(KEY).unwrap_err();
        assert!(!matches!(error, BusError::OutOfMemory(_) | BusError::WrongType(_)), "{error:?}");
        assert!(!error.to_string().contains("s3cret"), "{error}");
        server.join().unwrap();
    }
}

#[test]
fn a_url_says_where_and_never_shows_a_password() {
    let shown = |url: &str| {
        RedisSettings::from_url(url, TIMEOUTS, "hayate".into())
            .map(|settings| format!("{settings} {settings:?}"))
    };
    let text = shown("rediss://user:secret@redis.example:7000/3").unwrap();
    assert!(text.starts_with("rediss://redis.example:7000/3 "), "{text}");
    assert!(!text.contains("secret") && !text.contains("user"), "{text}");
    assert!(shown("unix:///run/redis.sock").unwrap().starts_with("unix:///run/redis.sock "));
    for url in
        ["", "redis.example", "http://redis.example", "valkey://x", "redis://", "redis://[::1", "file:///x"]
    {
        assert!(shown(url).is_err(), "{url}");
    }
}
