//! The client, `probe` and `e2e` against a tiny tracker in the same process.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;
use crate::bencode::Value;
use crate::client::{ClientError, Scraped};
use crate::probe::{self, Format};

const ID: u64 = 0x0123_4567_89ab_cdef;

/// The peers that the tiny tracker hands out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Behaviour {
    /// All peers except the one that announces.
    HandsOutOthers,
    /// All peers, the one that announces included.
    IncludesSelf,
    /// None.
    HandsOutNobody,
    /// A peer that nobody announced, with port 7.
    HandsOutAStranger,
}

fn handed_out(behaviour: Behaviour, known: &[u16], own: u16) -> Vec<u16> {
    let others: Vec<u16> = known.iter().copied().filter(|&port| port != own).collect();
    match behaviour {
        Behaviour::HandsOutOthers => others,
        Behaviour::IncludesSelf => [vec![own], others].concat(),
        Behaviour::HandsOutNobody => Vec::new(),
        Behaviour::HandsOutAStranger => vec![7],
    }
}

fn update_known(known: &mut Vec<u16>, port: u16, stopped: bool) {
    known.retain(|&other| other != port);
    if !stopped {
        known.push(port);
    }
}

/// A UDP tracker that answers until the test ends; it passes on the requests it has received.
fn udp_tracker(address: &str, behaviour: Behaviour) -> (SocketAddr, Receiver<Vec<u8>>) {
    let socket = UdpSocket::bind(address).unwrap();
    let address = socket.local_addr().unwrap();
    let (seen, requests) = channel();
    std::thread::spawn(move || serve_udp(&socket, behaviour, &seen));
    (address, requests)
}

fn serve_udp(socket: &UdpSocket, behaviour: Behaviour, seen: &Sender<Vec<u8>>) {
    let mut known = Vec::new();
    let mut buffer = [0; 2048];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        let request = buffer[..length].to_vec();
        let number = |at: usize| u32::from_be_bytes(request[at..at + 4].try_into().unwrap());
        let action = number(8);
        // Before the reply is sent, so that a test that has the reply finds the request.
        if seen.send(request.clone()).is_err() {
            return;
        }
        let mut reply = [request[8..12].to_vec(), request[12..16].to_vec()].concat();
        match action {
            0 => reply.extend_from_slice(&ID.to_be_bytes()),
            1 => {
                let port = u16::from_be_bytes(request[96..98].try_into().unwrap());
                update_known(&mut known, port, number(80) == 3);
                for word in [1800_u32, 7, 11] {
                    reply.extend_from_slice(&word.to_be_bytes());
                }
                for port in handed_out(behaviour, &known, port) {
                    match from.ip() {
                        IpAddr::V4(ip) => reply.extend_from_slice(&ip.octets()),
                        IpAddr::V6(ip) => reply.extend_from_slice(&ip.octets()),
                    }
                    reply.extend_from_slice(&port.to_be_bytes());
                }
            }
            _ if number(16) == 0 => {
                reply = [vec![0, 0, 0, 3], request[12..16].to_vec(), b"not today\0".to_vec()].concat();
            }
            _ => {
                for word in [7_u32, 11, 13] {
                    reply.extend_from_slice(&word.to_be_bytes());
                }
            }
        }
        // The reply to another transaction comes first; the client must skip it.
        let mut foreign = reply.clone();
        foreign[4] ^= 0xff;
        socket.send_to(&foreign, from).unwrap();
        socket.send_to(&reply, from).unwrap();
    }
}

/// The same for HTTP; `None` = it answers every request with a failure.
fn http_tracker(behaviour: Option<Behaviour>) -> (SocketAddr, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (seen, requests) = channel();
    std::thread::spawn(move || {
        let mut known = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut octet = [0];
                if stream.read(&mut octet).unwrap_or(0) == 0 {
                    break;
                }
                head.push(octet[0]);
            }
            let head = String::from_utf8(head).unwrap();
            let body = http_reply(behaviour, &mut known, &head);
            if seen.send(head).is_err() {
                return;
            }
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())
                .unwrap();
            stream.write_all(&body).unwrap();
        }
    });
    (address, requests)
}

fn http_reply(behaviour: Option<Behaviour>, known: &mut Vec<u16>, head: &str) -> Vec<u8> {
    let Some(behaviour) = behaviour else { return b"d14:failure reason9:not todaye".to_vec() };
    if head.starts_with("GET /scrape?") {
        let hash = [0xaa; 20].to_vec();
        let counts = [("complete", 7), ("downloaded", 11), ("incomplete", 13)];
        let counts = counts.map(|(key, number)| (key.as_bytes().to_vec(), Value::Integer(number)));
        let files = Value::Dictionary([(hash, Value::Dictionary(counts.into()))].into());
        return Value::Dictionary([(b"files".to_vec(), files)].into()).encode();
    }
    let port: u16 = head.split("&port=").nth(1).unwrap().split('&').next().unwrap().parse().unwrap();
    update_known(known, port, head.contains("event=stopped"));
    let mut peers = Vec::new();
    for port in handed_out(behaviour, known, port) {
        peers.extend_from_slice(&[127, 0, 0, 1]);
        peers.extend_from_slice(&port.to_be_bytes());
    }
    let entries = [(b"interval".to_vec(), Value::Integer(1800)), (b"peers".to_vec(), Value::Octets(peers))];
    Value::Dictionary(BTreeMap::from(entries)).encode()
}

fn options(http: Option<SocketAddr>, udp: Option<SocketAddr>) -> Options {
    Options {
        http: http.map(|address| format!("http://{address}/announce")).unwrap_or_default(),
        udp: udp.map(|address| format!("udp://{address}/announce?x=y")).unwrap_or_default(),
        delay: Duration::ZERO,
        info_hash: None,
    }
}

fn limits() -> Limits {
    Limits {
        family: Family::Any,
        timeout: Duration::from_secs(10),
        retries: 0,
        user_agent: probe::USER_AGENT,
    }
}

#[test]
fn two_peers_meet_over_both_protocols() {
    for behaviour in [Behaviour::HandsOutOthers, Behaviour::IncludesSelf] {
        let (http, heads) = http_tracker(Some(behaviour));
        let (udp, datagrams) = udp_tracker("127.0.0.1:0", behaviour);
        run(&options(Some(http), Some(udp))).unwrap();
        let heads: Vec<String> = heads.try_iter().collect();
        assert_eq!(heads.len(), 5);
        assert!(heads.iter().all(|head| head.to_lowercase().contains("user-agent: hayate-e2e\r\n")));
        let first = heads.first().unwrap();
        for part in [
            "compact=1",
            "&key=",
            "supportcrypto=1",
            "left=100",
            "uploaded=50",
            "event=started",
            "ip=50.10.12.1&",
        ] {
            assert!(first.contains(part), "{part} is missing in {first}");
        }
        assert!(!first.contains("numwant"));
        assert!(first.contains("peer_id=%01%02%03%04%05%06%07%08%09%0A%0B%0C%0D%0E%0F%10%11%12%13%14&"));
        assert_eq!(heads.iter().filter(|head| head.contains("event=stopped")).count(), 2);
        let announces: Vec<Vec<u8>> = datagrams.try_iter().filter(|datagram| datagram[11] == 1).collect();
        assert_eq!(announces.len(), 5);
        let second = &announces[1];
        assert_eq!(second[36 + 19], 21, "the last octet of the second peer id");
        assert_eq!(second[84..88], [50, 10, 12, 2]);
        assert_eq!(second[92..98], [0, 0, 0, 50, 0x27, 0x12]);
        assert_eq!(second[98..], *b"\x02\x0d/announce?x=y");
    }
}

#[test]
fn a_tracker_that_hands_out_nobody_or_strangers_fails_with_the_specified_texts() {
    for (behaviour, expected) in [
        (Behaviour::HandsOutNobody, "expected 1 peers, got 0"),
        (Behaviour::HandsOutAStranger, "expected port 10001, got 7"),
    ] {
        let (http, _heads) = http_tracker(Some(behaviour));
        assert_eq!(run(&options(Some(http), None)).unwrap_err().to_string(), expected);
        let (udp, _datagrams) = udp_tracker("127.0.0.1:0", behaviour);
        assert_eq!(run(&options(None, Some(udp))).unwrap_err().to_string(), expected);
    }
}

#[test]
fn a_refusal_and_a_dead_port_are_failed_announces() {
    let (http, _heads) = http_tracker(None);
    let error = run(&options(Some(http), None)).unwrap_err();
    assert_eq!(format!("{error:#}"), "announce failed: not today");
    let dead = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = format!("{:#}", run(&options(None, Some(dead))).unwrap_err());
    assert!(error.starts_with("announce failed: "), "{error}");
}

#[test]
fn empty_urls_send_nothing() {
    run(&options(None, None)).unwrap();
}

#[test]
fn a_probe_prints_the_reply() {
    let (udp, _datagrams) = udp_tracker("127.0.0.1:0", Behaviour::HandsOutAStranger);
    let url = format!("udp://{udp}");
    let text =
        probe::announce(&url, &AnnounceRequest::new(InfoHash([1; 20])), &limits(), Format::Text).unwrap();
    assert!(text.contains("leechers      7\n") && text.contains("127.0.0.1:7\n"), "{text}");
    let text = probe::scrape(&url, &[InfoHash([0xaa; 20])], &limits(), Format::Text).unwrap();
    assert!(text.ends_with("  seeders 7, completed 11, leechers 13\n"), "{text}");
    let (http, _heads) = http_tracker(Some(Behaviour::HandsOutOthers));
    let url = format!("http://{http}/announce");
    let json = probe::scrape(&url, &[InfoHash([0xaa; 20]), InfoHash([0xbb; 20])], &limits(), Format::Json);
    assert!(json.unwrap().contains("\"completed\":11"));
}

#[test]
fn a_tracker_on_ipv6_hands_out_18_octets_a_peer() {
    let (udp, _datagrams) = udp_tracker("[::1]:0", Behaviour::HandsOutAStranger);
    let url = format!("udp://{udp}");
    let reply = client::announce(&url, &AnnounceRequest::new(InfoHash([1; 20])), &limits()).unwrap();
    assert_eq!(reply.peers[0].host, Ipv6Addr::LOCALHOST.to_string());
    assert_eq!(reply.peers[0].port, 7);
    let v4 = Limits { family: Family::V4, ..limits() };
    let error = client::announce(&url, &AnnounceRequest::new(InfoHash([1; 20])), &v4).unwrap_err();
    assert!(matches!(error, ClientError::NoAddress(_)), "{error}");
}

#[test]
fn a_refusal_over_udp_is_reported() {
    let (udp, _datagrams) = udp_tracker("127.0.0.1:0", Behaviour::HandsOutOthers);
    let url = format!("udp://{udp}");
    let error = client::scrape(&url, &[InfoHash([0; 20])], &limits()).unwrap_err();
    assert_eq!(error.to_string(), "not today");
    let error = client::scrape(&url, &[InfoHash([1; 20]); 75], &limits()).unwrap_err();
    assert_eq!(error.to_string(), "75 torrents in one scrape, at most 74 are allowed");
    let swarms = client::scrape(&url, &[InfoHash([1; 20]), InfoHash([2; 20])], &limits()).unwrap();
    assert_eq!(swarms, [Some(Scraped { seeders: 7, completed: 11, leechers: 13 }), None]);
}

#[test]
fn the_error_of_silence_names_the_time_and_the_number_of_tries() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let short = Limits { timeout: Duration::from_millis(7), retries: 2, ..limits() };
    let url = format!("udp://{}", silent.local_addr().unwrap());
    let error = client::announce(&url, &AnnounceRequest::new(InfoHash([1; 20])), &short).unwrap_err();
    assert_eq!(error.to_string(), "no reply to the connect within 7 ms, tried 3 times");
}
