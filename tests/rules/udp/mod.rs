//! The UDP server of the running daemon under valid and hostile datagrams.

use std::net::UdpSocket;

use serde_json::json;

use crate::harness::{
    Daemon, UdpClient, announce_rest, announce_target, ask, connect_request, eventually, fetch, peers_of,
    receive, udp_socket,
};

/// Asserts that a datagram is not answered, by asking something else right after it.
fn assert_silence(socket: &UdpSocket, datagram: &[u8]) {
    socket.send(datagram).unwrap();
    let reply = ask(socket, &connect_request()).expect("a connect reply");
    assert_eq!(
        reply[..8],
        [0, 0, 0, 0, 1, 2, 3, 4],
        "the datagram {datagram:02x?} was answered with {reply:02x?}"
    );
}

fn error_text(reply: &[u8]) -> &str {
    assert_eq!(reply[..8], [0, 0, 0, 3, 1, 2, 3, 4]);
    std::str::from_utf8(&reply[8..]).unwrap()
}

#[test]
fn both_families_and_both_servers_share_one_swarm() {
    let daemon = Daemon::start(json!({}));
    let v4 = UdpClient::connect("127.0.0.1", daemon.v4());
    let v6 = UdpClient::connect("::1", daemon.v6());
    assert_eq!(v4.announce(b'A', 7001, 9, 2), (1, 0, vec![]));
    assert_eq!(v6.announce(b'A', 7002, 0, 2), (1, 1, vec![]));
    let (leechers, seeders, peers) = v4.announce(b'A', 7003, 9, 0);
    assert_eq!((leechers, seeders, peers_of(&peers, 6)), (2, 1, vec!["127.0.0.1:7001".parse().unwrap()]));
    let over_http = fetch(daemon.v6(), &announce_target('A', 7004, "&left=9")).peers();
    let expected = ["127.0.0.1:7001", "127.0.0.1:7003", "[::1]:7002"].map(|peer| peer.parse().unwrap());
    let mut over_http = over_http;
    over_http.sort_unstable();
    assert_eq!(over_http, expected);
    assert_eq!(v6.scrape(b'A'), [1, 0, 3]);
}

#[test]
fn silence_and_amplification() {
    let daemon = Daemon::start(json!({}));
    let client = UdpClient::connect("127.0.0.1", daemon.v4());
    let socket = &client.socket;
    for len in 0..16 {
        assert_silence(socket, &connect_request()[..len]);
    }
    let mut forged = client.request(1, &announce_rest(b'F', 7001, 9, 2, -1));
    for bit in 0..64 {
        forged[bit / 8] ^= 1 << (bit % 8);
        assert_silence(socket, &forged);
        forged[bit / 8] ^= 1 << (bit % 8);
    }
    // The id of another address, the magic as an id, a tracker's own replies, a connect with a wrong magic.
    let other = UdpClient::connect("127.0.0.2", daemon.v4());
    assert_silence(socket, &other.request(1, &announce_rest(b'F', 7001, 9, 2, -1)));
    let mut magic = client.request(1, &announce_rest(b'F', 7001, 9, 2, -1));
    magic[..8].copy_from_slice(&connect_request()[..8]);
    assert_silence(socket, &magic);
    assert_silence(socket, &client.request(3, b"Connection ID mismatch"));
    assert_silence(socket, &client.request(0, &[]));
    let too_large = vec![7; 5000];
    assert_silence(socket, &too_large);
    let reasons = [
        ("short", 16),
        ("forged_connection", 60),
        ("error_reply", 1),
        ("not_a_connect", 1),
        ("oversized", 1),
    ];
    for (reason, min) in reasons {
        let name = format!("udp_refusals_total{{reason=\"{reason}\"}}");
        assert!(eventually(|| daemon.metric(&name) >= min), "{name} is {}", daemon.metric(&name));
    }
    assert_eq!(client.scrape(b'F'), [0, 0, 0], "nothing was stored");
}

#[test]
fn verified_sources_get_the_reason() {
    let daemon = Daemon::start(json!({}));
    let client = UdpClient::connect("127.0.0.1", daemon.v4());
    let full = announce_rest(b'B', 7001, 9, 2, -1);
    for action in [5, 7, 256, u32::MAX] {
        let reply = ask(&client.socket, &client.request(action, &full)).unwrap();
        assert_eq!(error_text(&reply), "unknown action ID");
    }
    for len in 0..full.len() {
        let reply = ask(&client.socket, &client.request(1, &full[..len])).unwrap();
        assert_eq!(error_text(&reply), "malformed packet", "{} octets", 16 + len);
    }
    for len in [0, 19] {
        let reply = ask(&client.socket, &client.request(2, &full[..len])).unwrap();
        assert_eq!(error_text(&reply), "malformed packet");
    }
    let port_zero = announce_rest(b'B', 0, 9, 2, -1);
    let reply = ask(&client.socket, &client.request(1, &port_zero)).unwrap();
    assert_eq!(error_text(&reply), "invalid port");
    // Unknown events are regular announces, whatever their octets.
    for event in [5, 0x0100_0003, u32::MAX] {
        assert_eq!(client.announce(b'C', 7001, 9, event).0, 1);
    }
    assert_eq!(client.scrape(b'B'), [0, 0, 0]);
    let malformed = full.len() as u64 + 2;
    for (reason, count) in [("unknown_action", 4), ("malformed", malformed), ("invalid_port", 1)] {
        let name = format!("udp_refusals_total{{reason=\"{reason}\"}}");
        assert!(eventually(|| daemon.metric(&name) == count), "{name} is {}", daemon.metric(&name));
    }
}

#[test]
fn replies_leave_from_the_address_of_the_request() {
    let daemon = Daemon::start(json!({}));
    // A connected socket receives only from the address that it is connected to.
    for address in ["127.0.0.1", "127.0.0.9", "127.1.2.3"] {
        let tracker = std::net::SocketAddr::new(address.parse().unwrap(), daemon.port);
        assert!(ask(&udp_socket("127.0.0.1", tracker), &connect_request()).is_some(), "{address}");
    }
}

#[test]
fn several_workers_share_one_port_and_one_key() {
    let daemon = Daemon::start(json!({"udp": {"workers": 3}}));
    let first = UdpClient::connect("127.0.0.1", daemon.v4());
    // The kernel spreads sources over the workers; the id is valid with each.
    for _ in 0..30 {
        let socket = udp_socket("127.0.0.1", daemon.v4());
        let reply = ask(&socket, &first.request(2, &[b'W'; 20])).unwrap();
        assert_eq!(reply[..4], [0, 0, 0, 2]);
    }
}

#[test]
fn ids_outlive_a_restart_because_the_key_is_kept() {
    let mut daemon = Daemon::start(json!({}));
    let client = UdpClient::connect("127.0.0.1", daemon.v4());
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
    let (port, folder) = (daemon.port, crate::harness::Folder::new());
    let key = std::fs::read(daemon.folder.path().join("udp.key")).unwrap();
    assert_eq!(daemon.logged(&String::from_utf8_lossy(&key)), 0);
    std::fs::copy(daemon.folder.path().join("udp.key"), folder.path().join("udp.key")).unwrap();
    let config = json!({"udp": {"addr": format!(":{port}")}});
    let _second = Daemon::start_in(folder, config, &mut crate::harness::hayate());
    assert_eq!(client.scrape(b'A'), [0, 0, 0]);
}

#[test]
fn a_flood_of_forged_ids_does_not_starve_the_other_family_or_the_timers() {
    let daemon = Daemon::start(json!({}));
    let flooder = UdpClient::connect("127.0.0.1", daemon.v4());
    let mut forged = flooder.request(1, &announce_rest(b'F', 7001, 9, 2, -1));
    forged[7] ^= 1;
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                _ = flooder.socket.send(&forged);
            }
        });
        // However late the flooder gets its first slice of the processor.
        let flooded = || daemon.metric("udp_refusals_total{reason=\"forged_connection\"}") > 1000;
        let begun = eventually(flooded);
        let victim = UdpClient::connect("::1", daemon.v6());
        let mut answered = 0;
        for port in 0..50 {
            let request = victim.request(1, &announce_rest(b'V', 7001 + port, 9, 2, 0));
            victim.socket.send(&request).unwrap();
            answered += usize::from(receive(&victim.socket).is_some());
        }
        let healthy = daemon.page("/health").is_some_and(|response| response.status == 200);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(begun && healthy && answered >= 49, "{answered} of 50 answered");
    });
}
