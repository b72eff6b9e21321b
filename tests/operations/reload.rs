//! Reloads: what they apply, what they refuse, and that no client notices (`rules/operations.md#reload`).

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::{
    Daemon, Folder, StopOnDrop, TIMEOUT, UdpClient, announce_target, eventually, fetch, free_port, hayate,
    merge,
};
use crate::rules::http::tls::{CertifiedKeyPair, https};

#[test]
fn reload() {
    let daemon = Daemon::start(json!({"intervals": {"announce_drift": 0}}));
    let client = UdpClient::connect("127.0.0.1", daemon.v4());
    client.announce(b'A', 7001, 9, 2);
    client.announce(b'B', 7001, 9, 2);
    daemon.folder.write("denied.txt", &format!("# stolen\n{}\n", "42".repeat(20)));
    daemon.rewrite_config(|config| {
        config["access"] = json!({"mode": "deny", "path": "denied.txt"});
        config["intervals"]["announce"] = json!(1234);
        config["intervals"]["min_announce"] = json!(617);
    });
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_log("\"reloaded\"", 1);
    let reply = fetch(daemon.v4(), &announce_target('A', 7002, "&left=9"));
    assert_eq!(reply.bencoded().at("interval").unwrap().integer(), Some(1234));
    assert_eq!(reply.peers().len(), 1, "the swarm is still there");
    assert!(
        fetch(daemon.v4(), &announce_target('B', 7002, "&left=9")).bencoded().at("failure reason").is_some()
    );
    assert_eq!(client.scrape(b'A'), [0, 0, 2], "the id is still valid");
    // The list alone is read again too, by the other signal; exactly one reload per signal.
    daemon.folder.write("denied.txt", "");
    daemon.signal(Signal::SIGUSR1);
    daemon.wait_for_log("\"reloaded\"", 2);
    assert!(
        fetch(daemon.v4(), &announce_target('B', 7002, "&left=9")).bencoded().at("failure reason").is_none()
    );
    assert_eq!((daemon.logged("\"reloaded\""), daemon.metric("reloads_total{result=\"ok\"}")), (2, 2));
}

/// Sends ten announces at a time, repeatedly, on one connection. Returns how many were answered.
fn announce_in_bulk(address: SocketAddr, rounds: u16) -> usize {
    let mut stream = BufReader::new(TcpStream::connect(address).unwrap());
    stream.get_ref().set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut answered = 0;
    for round in 0..rounds {
        let request = |port| {
            format!("GET {} HTTP/1.1\r\nHost: t\r\n\r\n", announce_target('R', 2000 + port, "&left=9"))
        };
        let requests: String = (0..10).map(|port| request(round * 10 + port)).collect();
        stream.get_mut().write_all(requests.as_bytes()).unwrap();
        for _ in 0..10 {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                assert_ne!(stream.read_line(&mut head).unwrap(), 0, "closed after {answered} answers");
            }
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            let mut body = vec![0; length.parse().unwrap()];
            stream.read_exact(&mut body).unwrap();
            answered += usize::from(head.starts_with("HTTP/1.1 200") && body.starts_with(b"d8:complete"));
        }
    }
    answered
}

#[test]
fn reloads_under_load_lose_no_request() {
    let daemon = Daemon::start(json!({}));
    let (v4, v6) = (daemon.v4(), daemon.v6());
    let clients: Vec<_> =
        [v4, v6, v4].map(|address| std::thread::spawn(move || announce_in_bulk(address, 200))).into();
    let over_udp = std::thread::spawn(move || {
        let client = UdpClient::connect("::1", v6);
        (0..1000)
            .map(|port| client.announce(b'R', 2000 + port, 9, 0).0)
            .filter(|&leechers| leechers > 0)
            .count()
    });
    let mut reloads = 0;
    while reloads < 3 || clients.iter().any(|client| !client.is_finished()) || !over_udp.is_finished() {
        reloads += 1;
        daemon.rewrite_config(|config| {
            config["announce"] = json!({"numwant": reloads % 50});
            config["http"]["announce_routes"] = json!(["/announce", format!("/{reloads}/announce")]);
        });
        daemon.signal(Signal::SIGHUP);
        daemon.wait_for_log("\"reloaded\"", reloads);
    }
    for client in clients {
        assert_eq!(client.join().unwrap(), 2000);
    }
    assert_eq!(over_udp.join().unwrap(), 1000);
    assert_eq!(fetch(v4, &announce_target('R', 1999, "").replace("/announce", "/1/announce")).status, 404);
}

/// The state of threads that send requests to both servers until they are stopped, and panic if one is not
/// answered.
struct LoadThreads {
    ended: AtomicBool,
    answered: [AtomicUsize; 3],
}

impl LoadThreads {
    fn run(&self, daemon: &Daemon, kind: usize, mut request: impl FnMut(SocketAddr)) {
        while !self.ended.load(Ordering::Relaxed) {
            request(daemon.v4());
            self.answered[kind].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until every thread has received another reply.
    fn all_answered(&self) -> bool {
        let counts = || [0, 1, 2].map(|kind: usize| self.answered[kind].load(Ordering::Relaxed));
        let before = counts();
        eventually(|| counts().iter().zip(before).all(|(now, then)| *now > then))
    }
}

#[test]
fn every_refusal_under_load_changes_nothing_and_loses_nothing() {
    let (folder, port) = (Folder::new(), free_port());
    CertifiedKeyPair::new().write(&folder);
    folder.write("other.pem", &std::fs::read_to_string(folder.path().join("cert.pem")).unwrap());
    CertifiedKeyPair::new().write(&folder);
    folder.write("bad.txt", "not a hash\n");
    let config = json!({"http": https(port), "intervals": {"announce_drift": 0}});
    let daemon = Daemon::start_in(folder, config, &mut hayate());
    let (tcp, udp) = (TcpListener::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    let tcp = tcp.local_addr().map(|address| (tcp, address.to_string())).unwrap();
    let udp = udp.local_addr().map(|address| (udp, address.to_string())).unwrap();
    let hook = |name: &str, options: Value| json!({"prehooks": [{"name": name, "options": options}]});
    let nobody = format!("http://127.0.0.1:{}/keys", free_port());
    let jwt = json!({"issuer": "i", "audience": "a", "jwk_set_url": nobody});
    let mut refusals = vec![
        (json!({"udp": {"nonsense": 7}}), "nonsense"),
        (json!({"intervals": {"announce": "soon"}}), "intervals.announce"),
        (json!({"access": {"mode": "deny", "path": "bad.txt"}}), "bad.txt: line 1"),
        (json!({"access": {"mode": "deny", "path": "missing.txt"}}), "missing.txt"),
        (json!({"http": {"tls_cert_path": "missing.pem"}}), "missing.pem"),
        (json!({"http": {"tls_cert_path": "bad.txt"}}), "bad.txt"),
        (json!({"http": {"tls_cert_path": "other.pem"}}), "does not fit the certificate"),
        (json!({"http": {"tls_key_path": ""}}), "tls_key_path"),
        (json!({"http": {"addr": tcp.1}}), &tcp.1),
        (json!({"http": {"https_addr": tcp.1}}), &tcp.1),
        (json!({"metrics": {"addr": tcp.1}}), &tcp.1),
        (json!({"udp": {"addr": udp.1}}), &udp.1),
        (json!({"http": {"unix_socket": "no/such/folder.sock"}}), "folder.sock"),
        (json!({"http": {"announce_routes": ["announce"]}}), "announce"),
        (hook("no such hook", json!({})), "no such hook"),
        (hook("client approval", json!({"whitelist": ["AZ"]})), "client approval"),
        (hook("jwt", jwt), "failed to fetch initial JWK Set"),
    ];
    // A change that would be visible if anything were applied.
    refusals.iter_mut().for_each(|(changes, _)| {
        if changes["intervals"].is_null() {
            changes["intervals"] = json!({"announce": 1000});
        }
    });
    let path = daemon.folder.path().join("tracker.json");
    let good = std::fs::read_to_string(&path).unwrap();
    let load = LoadThreads { ended: AtomicBool::new(false), answered: Default::default() };
    std::thread::scope(|scope| {
        let _ending = StopOnDrop(&load.ended);
        scope.spawn(|| load.run(&daemon, 0, |address| assert_eq!(announce_in_bulk(address, 3), 30)));
        scope.spawn(|| {
            let target = announce_target('R', 7001, "&left=9");
            load.run(&daemon, 1, |address| {
                let interval = fetch(address, &target).bencoded().at("interval").unwrap().integer();
                assert_eq!(interval, Some(1800));
            });
        });
        scope.spawn(|| {
            let client = UdpClient::connect("127.0.0.1", daemon.v4());
            load.run(&daemon, 2, |_| assert!(client.announce(b'R', 7002, 9, 0).0 > 0));
        });
        for (number, (changes, words)) in refusals.iter().enumerate() {
            daemon.rewrite_config(|config| merge(config, changes.clone()));
            daemon.signal(Signal::SIGHUP);
            daemon.wait_for_log("reload refused", number + 1);
            let line = daemon.log().into_iter().rfind(|line| line.contains("reload refused")).unwrap();
            assert!(line.contains(words), "{words}: {line}");
            assert!(load.all_answered(), "{words}");
            std::fs::write(&path, &good).unwrap();
        }
        std::fs::remove_file(&path).unwrap();
        daemon.signal(Signal::SIGHUP);
        daemon.wait_for_log("reload refused", refusals.len() + 1);
        assert!(load.all_answered());
    });
    assert_eq!(daemon.logged("\"reloaded\""), 0);
    assert_eq!(daemon.page("/health").unwrap().status, 200);
}

#[test]
fn a_new_private_key_leaves_old_ids_valid() {
    let daemon = Daemon::start(json!({"udp": {"private_key": "the first key of this test"}}));
    let client = UdpClient::connect("127.0.0.1", daemon.v4());
    daemon.rewrite_config(|config| config["udp"]["private_key"] = json!("the second key of this test"));
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_log("\"reloaded\"", 1);
    assert_eq!(client.scrape(b'A'), [0, 0, 0]);
    let fresh = UdpClient::connect("127.0.0.1", daemon.v4());
    assert_ne!(fresh.id, client.id);
    assert_eq!(daemon.logged("key of this test"), 0, "no secret in the log");
}

#[test]
fn keys_that_need_a_restart_are_named_and_stay() {
    let daemon = Daemon::start(json!({}));
    daemon.rewrite_config(|config| config["udp"]["workers"] = json!(2));
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_log("\"reloaded\"", 1);
    assert!(daemon.log().iter().any(|line| line.contains("udp.workers") && line.contains("restart")));
}

#[test]
fn an_emptied_list_and_a_pipe_in_its_place_are_logged() {
    let folder = Folder::new();
    let list = folder.write("list.txt", &"41".repeat(20));
    let daemon =
        Daemon::start_in(folder, json!({"access": {"mode": "deny", "path": "list.txt"}}), &mut hayate());
    assert_eq!(daemon.logged("access.path: 1 torrents read from"), 1, "{:#?}", daemon.log());
    std::fs::write(&list, "").unwrap();
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_log("\"reloaded\"", 1);
    assert_eq!(daemon.logged("has no torrents: no torrent is denied"), 1, "{:#?}", daemon.log());
    std::fs::remove_file(&list).unwrap();
    nix::unistd::mkfifo(&list, nix::sys::stat::Mode::S_IRWXU).unwrap();
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_log("reload refused: ", 1);
    assert_eq!(daemon.logged("this is a pipe, and only a regular file is read"), 1, "{:#?}", daemon.log());
}
