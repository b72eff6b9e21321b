//! Clusters, Sentinels and TLS.

use hayate_state::Clock;
use hayate_state::cluster::bus::Bus;
use hayate_state::cluster::bus::redis::RedisBus;
use hayate_state::cluster::bus::redis::settings::RedisSettingsError;

use crate::servers::RedisServer;
use crate::{KEY, append, assert_fails, bus, eventually, settings, values};

/// Returns the index of the server that has the key's slot, and the slot.
fn owner(servers: &[RedisServer; 3]) -> (usize, usize) {
    let slot: usize = servers[0].cli(&format!("CLUSTER KEYSLOT {KEY}")).parse().unwrap();
    (slot / 5461, slot)
}

#[test]
fn any_server_of_a_cluster_leads_to_the_stream() {
    let servers = RedisServer::cluster();
    let mut others = Vec::new();
    for (number, server) in servers.iter().enumerate() {
        let mut bus = bus(&server.url(""));
        assert_eq!(bus.stream_state(KEY).unwrap().map_or(0, |state| state.len), number as u64);
        assert_eq!(append(&mut bus, &[b"a"]).unwrap().entries.len(), number + 1);
        others.push(bus);
    }
    for mut bus in others {
        assert_eq!(append(&mut bus, &[]).unwrap().entries.len(), 3);
    }
}

#[test]
fn a_server_of_a_cluster_may_be_dead() {
    let mut servers = RedisServer::cluster();
    let (owner, _) = owner(&servers);
    let (dead, seed) = ((owner + 1) % 3, (owner + 2) % 3);
    let mut settings = settings(&servers[dead].url(""));
    settings.seeds = vec![servers[seed].url("").trim_start_matches("redis://").parse().unwrap()];
    servers[dead].kill9();
    let mut bus = RedisBus::new(settings.clone(), Clock::start()).unwrap();
    append(&mut bus, &[b"a"]).unwrap();

    settings.url = format!("{}/1", servers[seed].url("")).parse().unwrap();
    let error = RedisBus::new(settings, Clock::start()).err().unwrap();
    assert!(matches!(error, RedisSettingsError::ClusterDatabase), "{error:?}");
    let text =
        assert_fails!(crate::bus(&format!("{}/1", servers[seed].url(""))).stream_state(KEY), Unsuitable);
    assert!(text.contains("SELECT"), "{text}");
}

#[test]
fn a_stream_is_followed_while_its_slot_moves() {
    let servers = RedisServer::cluster();
    let (from, slot) = owner(&servers);
    let to = (from + 1) % 3;
    let (source, target) = (&servers[from], &servers[to]);
    let (source_id, target_id) = (source.cli("CLUSTER MYID"), target.cli("CLUSTER MYID"));
    let mut links: Vec<RedisBus> = servers.iter().map(|server| bus(&server.url(""))).collect();
    let mut written = 0;
    let mut exchange_all = |links: &mut Vec<RedisBus>| {
        for bus in links {
            written += 2;
            let exchanged = append(bus, &[b"a", b"b"]).unwrap();
            assert_eq!((exchanged.appended.len(), exchanged.entries.len()), (2, written));
        }
    };
    exchange_all(&mut links);
    target.cli(&format!("CLUSTER SETSLOT {slot} IMPORTING {source_id}"));
    source.cli(&format!("CLUSTER SETSLOT {slot} MIGRATING {target_id}"));
    exchange_all(&mut links);
    // ASK from here on.
    assert_eq!(source.cli(&format!("MIGRATE 127.0.0.1 {} {KEY} 0 60000", target.port)), "OK");
    exchange_all(&mut links);
    exchange_all(&mut links);
    links.push(bus(&source.url("")));
    exchange_all(&mut links);
    assert!(links[0].stream_state(KEY).unwrap().is_some());
    links[0].trim(KEY, crate::BEGIN, 1_000_000).unwrap();
    // MOVED from here on.
    for server in [target, source] {
        assert_eq!(server.cli(&format!("CLUSTER SETSLOT {slot} NODE {target_id}")), "OK");
    }
    exchange_all(&mut links);
    links.push(bus(&source.url("")));
    exchange_all(&mut links);
}

#[test]
fn a_stream_is_followed_after_its_slot_was_given_away() {
    let servers = RedisServer::cluster();
    let (from, slot) = owner(&servers);
    let target = &servers[(from + 1) % 3];
    let mut bus = bus(&servers[from].url(""));
    append(&mut bus, &[b"a"]).unwrap();
    servers[from].cli("FLUSHALL");
    let id = target.cli("CLUSTER MYID");
    for server in &servers {
        assert_eq!(server.cli(&format!("CLUSTER SETSLOT {slot} NODE {id}")), "OK");
    }
    assert_eq!(values(&append(&mut bus, &[b"b"]).unwrap()), [b"b"]);
    assert_eq!(target.cli(&format!("XLEN {KEY}")), "1");
}

#[test]
fn sentinels_name_the_master() {
    let master = RedisServer::new();
    let replica = RedisServer::new();
    replica.cli(&format!("REPLICAOF 127.0.0.1 {}", master.port));
    replica.wait_for("INFO replication", "master_link_status:up");
    let sentinel = RedisServer::sentinel(&master);
    let mut settings = settings("redis://127.0.0.1:1");
    settings.seeds = vec![format!("localhost:{}", sentinel.port).parse().unwrap()];
    settings.sentinel_master = Some("main".to_owned());
    let mut bus = RedisBus::new(settings.clone(), Clock::start()).unwrap();
    append(&mut bus, &[b"a"]).unwrap();
    assert_eq!(master.cli(&format!("XLEN {KEY}")), "1");

    while sentinel.cli("SENTINEL FAILOVER main") != "OK" {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    replica.wait_for("ROLE", "master");
    master.wait_for("ROLE", "slave");
    let exchanged = eventually(|| append(&mut bus, &[b"b"]));
    assert_eq!(values(&exchanged).last(), Some(&&b"b"[..]));
    replica.wait_for(&format!("XREVRANGE {KEY} + - COUNT 1"), " b b");

    settings.sentinel_master = Some("other".to_owned());
    let mut unknown = RedisBus::new(settings, Clock::start()).unwrap();
    let text = assert_fails!(unknown.stream_state(KEY), Away);
    assert!(text.contains("knows no master other"), "{text}");
}

#[test]
fn a_certificate_must_be_of_the_given_authority() {
    let (server, pem) = RedisServer::with_tls();
    let (other, other_pem) = RedisServer::with_tls();
    server.cli("ACL SETUSER node on >pw ~hayate:* +xadd +xread +time +info +client|setname");
    let with = |url: &str, pem: Option<&str>| {
        let mut settings = settings(url);
        settings.ca_pem = pem.map(|pem| pem.as_bytes().to_vec());
        RedisBus::new(settings, Clock::start())
    };
    let url = |host: &str, port| format!("rediss://node:pw@{host}:{port}");
    let mut bus = with(&url("localhost", server.port), Some(&pem)).unwrap();
    append(&mut bus, &[b"a"]).unwrap();
    assert_eq!(append(&mut bus, &[b"b"]).unwrap().entries.len(), 2);

    for (host, pem) in [("localhost", &other_pem), ("127.0.0.1", &pem)] {
        let mut bus = with(&url(host, server.port), Some(pem)).unwrap();
        let text = assert_fails!(append(&mut bus, &[b"a"]), Away);
        assert!(text.contains("certificate"), "{text}");
    }
    let both = format!("{other_pem}{pem}");
    append(&mut with(&url("localhost", server.port), Some(&both)).unwrap(), &[b"c"]).unwrap();
    assert_fails!(append(&mut crate::bus(&other.url("")), &[b"a"]), Away);
    let plain = RedisServer::new();
    assert_fails!(append(&mut with(&url("localhost", plain.port), Some(&pem)).unwrap(), &[b"a"]), Away);
    for broken in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let error = with("rediss://localhost", Some(broken)).err().unwrap();
        assert!(matches!(error, RedisSettingsError::Certificates), "{error:?}");
    }
}
