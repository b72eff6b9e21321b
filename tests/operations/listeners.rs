//! Where the daemon listens, and how a reload changes that (`rules/operations.md#listen-addresses`).

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::{
    Daemon, StopOnDrop, TIMEOUT, UdpClient, announce_target, ask, connect_request, eventually, fetch,
    free_port, merge, parse_response, udp_socket,
};

fn local(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// Changes the configuration and reloads it, for the `times`th time with this outcome.
fn reload(daemon: &Daemon, changes: Value, outcome: &str, times: usize) {
    daemon.rewrite_config(|config| merge(config, changes));
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_log(outcome, times);
}

#[test]
fn listeners() {
    for spelling in ["0.0.0.0:", ":", "[::]:"] {
        let port = free_port();
        let everywhere = format!("{spelling}{port}");
        let daemon = Daemon::start(json!({"udp": {"addr": everywhere}, "http": {"addr": everywhere}}));
        for host in ["127.0.0.1", "::1"] {
            let address = SocketAddr::new(host.parse().unwrap(), port);
            assert_eq!(fetch(address, "/alive").status, 200, "{everywhere} on {host}");
            UdpClient::connect(host, address);
        }
        drop(daemon);
    }
    let only_udp = Daemon::start(json!({"http": {"addr": ""}}));
    UdpClient::connect("127.0.0.1", only_udp.v4());
    assert!(TcpStream::connect(only_udp.v4()).is_err());
    let only_http = Daemon::start(json!({"udp": {"addr": ""}}));
    assert_eq!(fetch(only_http.v4(), "/alive").status, 200);
    assert_eq!(only_http.page("/health").unwrap().status, 200);
    let neither = Daemon::start(json!({"udp": {"addr": ""}, "http": {"addr": ""}}));
    assert_eq!(neither.logged("nobody can announce"), 1);
}

#[test]
fn a_reload_moves_the_servers_and_refuses_nobody() {
    let daemon = Daemon::start(json!({}));
    let (old, new) = (daemon.port, free_port());
    let buffers = ["udp_receive_buffer_bytes", "udp_send_buffer_bytes"];
    let granted = buffers.map(|name| daemon.metric(name));
    assert!(granted.iter().all(|&octets| octets > 0));
    let client = UdpClient::connect("127.0.0.1", local(old));
    client.announce(b'a', 7001, 0, 0);
    let mut kept = TcpStream::connect(local(old)).unwrap();
    kept.set_read_timeout(Some(TIMEOUT)).unwrap();
    // A client announces all the time, wherever the server listens.
    let (ended, answered, moved) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let _ending = StopOnDrop(&ended);
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                let at = if moved.load(Ordering::Acquire) { new } else { old };
                let stream = match TcpStream::connect(local(at)) {
                    Ok(stream) => stream,
                    // The old socket may be closed as soon as the new one is open.
                    Err(_) if at == old && TcpStream::connect(local(new)).is_ok() => continue,
                    Err(error) => panic!("nobody listens at {at}: {error}"),
                };
                stream.set_read_timeout(Some(TIMEOUT)).unwrap();
                let target = announce_target('a', 7002, "&left=9");
                let reply = crate::harness::exchange(stream, &crate::harness::get(&target)).unwrap();
                assert!(!reply.peers().is_empty());
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
        assert!(eventually(|| answered.load(Ordering::Relaxed) > 20));
        let address = format!(":{new}");
        reload(&daemon, json!({"udp": {"addr": address}, "http": {"addr": address}}), "\"reloaded\"", 1);
        moved.store(true, Ordering::Release);
        let before = answered.load(Ordering::Relaxed);
        assert!(eventually(|| answered.load(Ordering::Relaxed) > before + 20));
    });
    // The old socket is closed, its ids are valid at the new one, its connections and the swarm are still
    // there.
    assert!(eventually(|| TcpStream::connect(local(old)).is_err()));
    assert!(ask(&udp_socket("127.0.0.1", local(old)), &connect_request()).is_none());
    let moved_client = UdpClient { socket: udp_socket("127.0.0.1", local(new)), id: client.id };
    assert_eq!(moved_client.scrape(b'a'), [1, 0, 1]);
    write!(kept, "GET /alive HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").unwrap();
    let mut octets = Vec::new();
    std::io::Read::read_to_end(&mut kept, &mut octets).unwrap();
    assert_eq!(parse_response(&octets).unwrap().status, 200);
    assert_eq!(daemon.page("/health").unwrap().status, 200);
    assert_eq!(daemon.metric("udp_requests_total{action=\"announce\",family=\"ipv4\"}"), 1, "counters stay");
    let now = || buffers.map(|name| daemon.metric(name));
    assert!(eventually(|| now() == granted), "the old socket no longer counts: {:?}", now());
}

#[test]
fn a_taken_address_refuses_the_reload_as_a_whole() {
    let daemon = Daemon::start(json!({}));
    let holder_tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let holder_udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (tcp, udp) = (holder_tcp.local_addr().unwrap(), holder_udp.local_addr().unwrap());
    let mut times = 0;
    for changes in [
        json!({"http": {"addr": tcp.to_string()}, "intervals": {"announce": 1000}}),
        json!({"udp": {"addr": udp.to_string()}, "intervals": {"announce": 1000}}),
        json!({"metrics": {"addr": tcp.to_string()}, "intervals": {"announce": 1000}}),
    ] {
        let path = daemon.folder.path().join("tracker.json");
        let good = std::fs::read_to_string(&path).unwrap();
        times += 1;
        reload(&daemon, changes, "reload refused", times);
        let line = daemon.log().into_iter().rfind(|line| line.contains("reload refused")).unwrap();
        assert!(line.contains(&tcp.to_string()) || line.contains(&udp.to_string()), "{line}");
        std::fs::write(path, good).unwrap();
        let reply = fetch(daemon.v4(), &announce_target('a', 7001, "&left=9")).bencoded();
        assert!(reply.at("interval").unwrap().integer().unwrap() >= 1800, "nothing else has changed");
        UdpClient::connect("127.0.0.1", daemon.v4());
        assert_eq!(daemon.page("/health").unwrap().status, 200);
    }
    assert_eq!(daemon.metric("reloads_total{result=\"refused\"}"), 3);
}

#[test]
fn servers_are_switched_on_and_off_by_reloads() {
    let daemon = Daemon::start(json!({"udp": {"addr": ""}, "http": {"addr": ""}}));
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    reload(&daemon, json!({"udp": {"addr": address}, "http": {"addr": address}}), "\"reloaded\"", 1);
    UdpClient::connect("127.0.0.1", local(port)).announce(b'a', 7001, 0, 0);
    assert_eq!(fetch(local(port), &announce_target('a', 7002, "&left=9")).peers().len(), 1);
    reload(&daemon, json!({"udp": {"addr": ""}}), "\"reloaded\"", 2);
    assert!(ask(&udp_socket("127.0.0.1", local(port)), &connect_request()).is_none());
    assert_eq!(daemon.page("/health").unwrap().status, 200);
    let metrics = free_port();
    reload(&daemon, json!({"metrics": {"addr": format!("127.0.0.1:{metrics}")}}), "\"reloaded\"", 3);
    assert_eq!(fetch(local(metrics), "/health").status, 200);
    assert!(eventually(|| daemon.page("/health").is_none()));
}

#[test]
fn a_unix_socket_moves_too() {
    use std::os::unix::net::UnixStream;
    let daemon = Daemon::start(json!({"http": {"unix_socket": "one.sock"}}));
    let path = |name: &str| daemon.folder.path().join(name);
    assert!(UnixStream::connect(path("one.sock")).is_ok());
    reload(&daemon, json!({"http": {"unix_socket": "two.sock"}}), "\"reloaded\"", 1);
    assert!(UnixStream::connect(path("two.sock")).is_ok());
    assert!(eventually(|| !path("one.sock").exists()), "the old file is gone");
}
