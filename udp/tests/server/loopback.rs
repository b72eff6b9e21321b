//! The whole server on real sockets, port 0, loopback.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use hayate_state::{Board, Clock, Policy, Published, Swarms, Tracker};
use hayate_udp::{OpenError, RunningServer, Server, SocketConfig};

use crate::kit::*;

/// Longest wait for a reply.
const PATIENCE: Duration = Duration::from_secs(60);

struct TestServer {
    running: RunningServer,
    addresses: Vec<SocketAddr>,
    board: Board,
}

fn sockets(addresses: &[&str], workers: usize) -> SocketConfig {
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    SocketConfig { addresses, workers, receive_buffer: 1 << 18, send_buffer: 1 << 18 }
}

fn server(addresses: &[&str], workers: usize) -> TestServer {
    let opened = Server::open(&sockets(addresses, workers)).unwrap();
    let addresses = opened.addresses();
    let (board, swarms) = (Board::default(), Swarms::new(0));
    let policy = Published::new(Policy { announce_drift_seconds: 0, ..Policy::default() });
    let tracker = |seed| Tracker::new(Arc::clone(&swarms), &policy, seed as u64);
    let running = opened.start(&Published::new(udp_config()), Clock::start(), &board, tracker).unwrap();
    TestServer { running, addresses, board }
}

impl TestServer {
    fn count(&self, name: &str) -> u64 {
        self.board
            .read_series()
            .iter()
            .filter(|reading| reading.name == name)
            .map(|reading| reading.value)
            .sum()
    }
}

/// A client on its own socket; a connected one takes replies only from where it sent to.
fn client(from: &str, to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((from, 0)).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn ask(socket: &UdpSocket, datagram: &[u8]) -> Vec<u8> {
    let mut reply = [0; 4096];
    socket.send(datagram).unwrap();
    let len = socket.recv(&mut reply).unwrap();
    reply[..len].to_vec()
}

fn connect(socket: &UdpSocket) -> [u8; 8] {
    ask(socket, &CONNECT)[8..].try_into().unwrap()
}

/// Connect, announce and scrape in both families, on the given addresses.
fn serve(addresses: &[&str], workers: usize) {
    let server = server(addresses, workers);
    for (index, (from, to, peer_len)) in
        [("127.0.0.1", "127.0.0.1", 6), ("::1", "::1", 18)].iter().enumerate()
    {
        let to = SocketAddr::new(to.parse().unwrap(), server.addresses[index].port());
        let hash = u8::try_from(index).unwrap();
        for n in 0..7_u16 {
            let client = client(from, to);
            let id = connect(&client);
            let words = TestAnnounce { hash, ..TestAnnounce::leecher(6881 + n) };
            let announced = Announced::read(&ask(&client, &words.datagram(id)));
            assert_eq!(
                (announced.leechers, announced.peers.len()),
                (u32::from(n) + 1, usize::from(n) * peer_len)
            );
            let scraped = ask(&client, &scrape(id, &[hash, 99]));
            assert_eq!(scraped[8..20], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, u8::try_from(n).unwrap() + 1]);
            assert_eq!(scraped.len(), 8 + 2 * 12);
        }
    }
    assert!(server.running.is_serving());
    let (expected, pulse) = (2 * 7 * 3, server.running.liveness());
    server.running.stop();
    assert!(!pulse.is_serving());
    let read = |name: &str| {
        server.board.read_series().iter().filter(|r| r.name == name).map(|r| r.value).sum::<u64>()
    };
    assert_eq!((read("udp_requests_total"), read("udp_replies_total")), (expected, expected));
}

#[test]
fn one_worker_serves_both_families_on_specific_addresses() {
    serve(&["127.0.0.1:0", "[::1]:0"], 1);
}

#[test]
fn three_workers_serve_both_families_on_the_wildcards() {
    serve(&["0.0.0.0:0", "[::]:0"], 3);
}

#[test]
fn a_reply_leaves_from_the_address_that_was_asked() {
    let server = server(&["0.0.0.0:0"], 1);
    for address in ["127.0.0.1", "127.0.0.9", "127.200.0.1"] {
        let to = SocketAddr::new(address.parse().unwrap(), server.addresses[0].port());
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(&CONNECT, to).unwrap();
        assert_eq!(socket.recv_from(&mut [0; 64]).unwrap(), (16, to));
    }
    server.running.stop();
}

#[test]
fn a_burst_is_answered_and_nothing_else() {
    let server = server(&["127.0.0.1:0"], 1);
    let client = client("127.0.0.1", server.addresses[0]);
    let id = connect(&client);
    // What must be dropped goes first, so that the last reply shows that all of it was seen.
    client.send(&[0; 15]).unwrap();
    client.send(&[0; 3000]).unwrap();
    client.send(&[]).unwrap();
    client.send(&TestAnnounce::leecher(6881).datagram([1; 8])).unwrap();
    for n in 0..100_u32 {
        let mut datagram = scrape(id, &[7]);
        datagram[12..16].copy_from_slice(&n.to_be_bytes());
        client.send(&datagram).unwrap();
    }
    for n in 0..100_u32 {
        let mut reply = [0; 64];
        assert_eq!(client.recv(&mut reply).unwrap(), 20);
        assert_eq!(reply[4..8], n.to_be_bytes());
    }
    assert_eq!((server.count("udp_refusals_total"), server.count("udp_send_errors_total")), (4, 0));
    assert!(server.count("udp_receive_buffer_bytes") > 0);
    server.running.stop();
}

#[test]
fn a_port_that_is_served_is_not_opened_twice() {
    for workers in [1, 2] {
        let server = server(&["127.0.0.1:0"], workers);
        let address = server.addresses[0].to_string();
        let error = Server::open(&sockets(&[&address], workers)).unwrap_err();
        assert!(matches!(error, OpenError::InUse { address } if address == server.addresses[0]));
        assert!(error.to_string().contains(&address), "{error}");
        server.running.stop();
        assert!(Server::open(&sockets(&[&address], workers)).is_ok(), "stopping frees the port");
    }
}
