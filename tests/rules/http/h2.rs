//! HTTP/2 frames made by hand, and clients of HTTP/2 that read nothing.

use std::io::Write;

use rustls::version::TLS13;
use serde_json::json;

use crate::harness::{
    Daemon, Folder, UdpClient, announce_target, eventually, fetch, free_port, hayate, merge,
};
use crate::rules::http::tls::{CertifiedKeyPair, Tls, connect, https};

/// The connection preface of a client (RFC 9113, 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Kinds of frames.
pub(crate) const HEADERS: u8 = 1;
pub(crate) const SETTINGS: u8 = 4;

/// Connections of a hostile client.
const CONNECTIONS: usize = 200;
/// Requests of each; more would be refused.
const STREAMS: u32 = 32;
/// Most octets that they may cost.
const COST_MAX: u64 = 20 << 20;

/// A frame (RFC 9113, 4.1).
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The header lines of a GET: method and scheme by the static table of HPACK, path and authority as literals.
pub(crate) fn get_headers(target: &str) -> Vec<u8> {
    let literal = |index: u8, text: &str| {
        let mut field = vec![index];
        // Lengths from 127 on go on in groups of seven bits (RFC 7541, 5.1).
        let mut rest = text.len();
        if rest < 127 {
            field.push(u8::try_from(rest).unwrap());
        } else {
            field.push(127);
            rest -= 127;
            while rest > 127 {
                field.push(u8::try_from(rest % 128 + 128).unwrap());
                rest /= 128;
            }
            field.push(u8::try_from(rest).unwrap());
        }
        field.extend(text.as_bytes());
        field
    };
    [vec![0x82, 0x87], literal(0x04, target), literal(0x01, "localhost")].concat()
}

/// Returns the memory of a process in octets, now or at its peak.
fn memory_of(daemon: &Daemon, which: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(which)).unwrap();
    line.trim_matches([':', '\t', ' ', 'k', 'B']).parse::<u64>().unwrap() << 10
}

/// Opens a connection with a window of 0 and asks for as many answers as may be open at once.
fn open_without_reading(port: u16, pair: &CertifiedKeyPair, target: &str) -> Tls {
    let mut tls = connect(port, pair, &[&TLS13], &["h2"]).unwrap();
    // SETTINGS_INITIAL_WINDOW_SIZE is 0.
    let mut octets = [PREFACE, &frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])].concat();
    let headers = get_headers(target);
    for stream in 0..STREAMS {
        octets.extend(frame(HEADERS, 5, 2 * stream + 1, &headers));
    }
    // The tracker may have closed it for another one.
    let _ = tls.write_all(&octets);
    tls
}

fn hostile(write_timeout: &str) -> (Daemon, u16, CertifiedKeyPair) {
    let (pair, folder, port) = (CertifiedKeyPair::new(), Folder::new(), free_port());
    pair.write(&folder);
    let mut http = https(port);
    merge(&mut http, json!({"timeout": {"write": write_timeout, "idle": "600s"}}));
    let daemon = Daemon::start_in(folder, json!({"http": http}), &mut hayate());
    let client = UdpClient::connect("127.0.0.1", daemon.v4());
    for port in 7000..7200 {
        client.announce(b'a', port, 9, 2);
    }
    (daemon, port, pair)
}

/// Returns the target of an announce whose reply lists two hundred peers.
fn large_target() -> String {
    announce_target('a', 7999, "&left=9&numwant=200&compact=0")
}

#[test]
fn clients_of_http_2_that_read_nothing_cost_little_and_are_closed() {
    let (daemon, port, pair) = hostile("5s");
    let target = large_target();
    assert!(fetch(daemon.v4(), &target).body.len() > 5000);
    // The first connection loads things that the others share.
    drop(open_without_reading(port, &pair, &target));
    let before = memory_of(&daemon, "VmRSS");
    let connections: Vec<_> = (0..CONNECTIONS).map(|_| open_without_reading(port, &pair, &target)).collect();
    let closed = || {
        let reasons =
            ["http_connections_displaced_total{reason=\"stalled\"}", "http_timeouts_total{phase=\"reply\"}"];
        reasons.iter().map(|name| daemon.metric(name)).sum::<u64>()
    };
    assert!(eventually(|| closed() >= CONNECTIONS as u64), "{} were closed", closed());
    let cost = memory_of(&daemon, "VmHWM").saturating_sub(before);
    println!("{CONNECTIONS} connections cost {cost} octets");
    assert!(cost < COST_MAX, "{cost} octets");
    // The one that asks for the metrics is left.
    assert!(eventually(|| daemon.metric("http_connections") <= 1));
    drop(connections);
}
