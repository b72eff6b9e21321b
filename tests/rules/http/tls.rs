//! HTTPS: certificates, versions, protocols, times (`rules/http.md#tls`).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use nix::sys::signal::Signal;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};
use serde_json::{Value, json};

use crate::harness::{
    Daemon, Folder, Response, TIMEOUT, UdpClient, announce_target, eventually, exchange, fetch, free_port,
    get, hayate, parse_response,
};
use crate::rules::http::h2::{HEADERS, PREFACE, SETTINGS, frame, get_headers};

/// A certificate for localhost, and its key.
pub(crate) struct CertifiedKeyPair {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl CertifiedKeyPair {
    pub(crate) fn new() -> Self {
        Self::until(4000)
    }

    fn until(year: i32) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        Self { certificate: params.self_signed(&key).unwrap(), key }
    }

    pub(crate) fn write(&self, folder: &Folder) {
        folder.write("cert.pem", &self.certificate.pem());
        folder.write("key.pem", &self.key.serialize_pem());
    }
}

pub(crate) fn https(port: u16) -> Value {
    json!({"https_addr": format!(":{port}"), "tls_cert_path": "cert.pem", "tls_key_path": "key.pem"})
}

pub(crate) type Tls = StreamOwned<ClientConnection, TcpStream>;

/// A connection that trusts this certificate alone.
pub(crate) fn connect(
    port: u16,
    pair: &CertifiedKeyPair,
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[&str],
) -> std::io::Result<Tls> {
    let mut roots = RootCertStore::empty();
    roots.add(pair.certificate.der().clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let session =
        ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap();
    let stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port)))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut tls = StreamOwned::new(session, stream);
    while tls.conn.is_handshaking() {
        tls.conn.complete_io(&mut tls.sock)?;
    }
    Ok(tls)
}

fn ask(port: u16, pair: &CertifiedKeyPair, target: &str) -> Response {
    exchange(connect(port, pair, &[&TLS13, &TLS12], &["http/1.1"]).unwrap(), &get(target)).unwrap()
}

#[test]
fn tls() {
    let (pair, folder, port) = (CertifiedKeyPair::new(), Folder::new(), free_port());
    pair.write(&folder);
    let daemon = Daemon::start_in(folder, json!({"http": https(port)}), &mut hayate());
    // Besides HTTP, and over both families and both versions.
    ask(port, &pair, &announce_target('a', 7001, "&left=0"));
    let reply = fetch(daemon.v4(), &announce_target('a', 7002, "&left=9"));
    assert_eq!(reply.peers(), ["127.0.0.1:7001".parse().unwrap()]);
    for version in [&TLS12, &TLS13] {
        let tls = connect(port, &pair, &[version], &[]).unwrap();
        assert_eq!(tls.conn.protocol_version(), Some(version.version));
        let reply = exchange(tls, &get(&announce_target('a', 7003, "&left=9"))).unwrap();
        assert_eq!(reply.peers().len(), 2);
    }
    // TLS 1.1 is refused by a fatal alert: no common version, or nothing else in common.
    let mut old = TcpStream::connect(("127.0.0.1", port)).unwrap();
    old.set_read_timeout(Some(TIMEOUT)).unwrap();
    old.write_all(&hello_of_tls_1_1()).unwrap();
    let mut alert = [0; 7];
    old.read_exact(&mut alert).unwrap();
    assert_eq!((alert[0], alert[5]), (21, 2));
    assert!([40, 70].contains(&alert[6]), "{alert:?}");
    assert!(eventually(|| daemon.metric("http_tls_failures_total") == 1));
    // What is no TLS at all is dropped.
    let plain = TcpStream::connect(("127.0.0.1", port)).unwrap();
    assert!(exchange(plain, &get("/alive")).is_err());

    // Two requests on one connection; and HTTP/2 where the client asks for it.
    let mut tls = connect(port, &pair, &[&TLS13], &["http/1.1"]).unwrap();
    for _ in 0..2 {
        write!(tls, "GET /alive HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
        assert_eq!(read_one(&mut tls).status, 200);
    }
    let tls = connect(port, &pair, &[&TLS13], &["h2", "http/1.1"]).unwrap();
    assert_eq!(tls.conn.alpn_protocol(), Some(&b"h2"[..]));
    assert!(h2_announce(tls).windows(8).any(|eight| eight == b"interval"));
}

#[test]
fn https_alone_and_without_keep_alive() {
    let (pair, folder, port) = (CertifiedKeyPair::new(), Folder::new(), free_port());
    pair.write(&folder);
    let mut http = https(port);
    crate::harness::merge(&mut http, json!({"addr": "", "enable_keepalive": false}));
    let daemon = Daemon::start_in(folder, json!({"http": http}), &mut hayate());
    assert!(TcpStream::connect(daemon.v4()).is_err(), "there is no HTTP");
    let mut tls = connect(port, &pair, &[&TLS13], &["h2", "http/1.1"]).unwrap();
    assert_eq!(tls.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    write!(tls, "GET /alive HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
    let response = read_one(&mut tls);
    assert_eq!(response.headers.get("connection").map(String::as_str), Some("close"));
    assert_eq!(tls.read(&mut [0]).unwrap_or(0), 0);
    // The UDP server shares the swarm.
    ask(port, &pair, &announce_target('a', 7001, "&left=9"));
    assert_eq!(UdpClient::connect("127.0.0.1", daemon.v4()).scrape(b'a'), [0, 0, 1]);
}

#[test]
fn misconfigurations_of_tls_are_named() {
    let (pair, other, expired) =
        (CertifiedKeyPair::new(), CertifiedKeyPair::new(), CertifiedKeyPair::until(2001));
    let folder = Folder::new();
    pair.write(&folder);
    folder.write("other.pem", &other.key.serialize_pem());
    folder.write("garbage.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    folder.write("damaged.pem", "-----BEGIN PRIVATE KEY-----\n?\n-----END PRIVATE KEY-----\n");
    folder.write("empty.pem", "");
    let (cert, key, address) = (Some("cert.pem"), Some("key.pem"), Some("127.0.0.1:0"));
    let needs_pair = "must specify tls_cert_path and tls_key_path when using https_addr";
    let needs_address = "must specify https_addr when using tls_cert_path and tls_key_path";
    for (address, cert, key, words) in [
        (address, None, None, &["http.https_addr", needs_pair][..]),
        (address, cert, None, &[needs_pair]),
        (address, None, key, &[needs_pair]),
        (None, cert, key, &["http.tls_cert_path", needs_address]),
        (None, None, key, &[needs_address]),
        (address, Some("missing.pem"), key, &["http.tls_cert_path", "missing.pem", "No such file"]),
        (address, cert, Some("missing.pem"), &["http.tls_key_path", "missing.pem", "No such file"]),
        (address, Some("empty.pem"), key, &["http.tls_cert_path", "empty.pem", "no certificate"]),
        (address, Some("garbage.pem"), key, &["http.tls_cert_path", "garbage.pem", "cannot be read"]),
        (address, cert, Some("empty.pem"), &["http.tls_key_path", "empty.pem", "no readable private key"]),
        (
            address,
            cert,
            Some("damaged.pem"),
            &["http.tls_key_path", "damaged.pem", "no readable private key"],
        ),
        (address, cert, cert, &["http.tls_key_path", "no readable private key"]),
        (
            address,
            cert,
            Some("other.pem"),
            &["http.tls_key_path", "other.pem", "does not fit the certificate"],
        ),
    ] {
        let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
        let http =
            json!({"https_addr": text(address), "tls_cert_path": text(cert), "tls_key_path": text(key)});
        let path = folder.write("tracker.json", &json!({"http": http}).to_string());
        let output = hayate().arg("-c").arg(path).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{http}");
        assert!(words.iter().all(|word| stderr.contains(word)), "{http}: {stderr}");
        assert!(!stderr.contains("PRIVATE KEY"), "{stderr}");
    }
    // An expired one is served, with a warning: the clock may be wrong.
    expired.write(&folder);
    let port = free_port();
    let daemon = Daemon::start_in(folder, json!({"http": https(port)}), &mut hayate());
    assert_eq!(daemon.logged("the certificate in http.tls_cert_path has expired"), 1);
    let refused = connect(port, &expired, &[&TLS13], &[]).unwrap_err().to_string();
    assert!(refused.contains("expired"), "{refused}");
}

#[test]
fn a_reload_takes_a_new_pair_or_keeps_the_old_one() {
    let (old, new, folder, port) =
        (CertifiedKeyPair::new(), CertifiedKeyPair::new(), Folder::new(), free_port());
    old.write(&folder);
    let daemon = Daemon::start_in(folder, json!({"http": https(port)}), &mut hayate());
    let mut kept = connect(port, &old, &[&TLS13], &["http/1.1"]).unwrap();
    daemon.folder.write("key.pem", &new.key.serialize_pem());
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_log("reload refused", 1);
    assert_eq!(ask(port, &old, "/alive").status, 200);
    daemon.folder.write("cert.pem", &new.certificate.pem());
    daemon.signal(Signal::SIGUSR1);
    daemon.wait_for_log("\"reloaded\"", 1);
    assert_eq!(ask(port, &new, "/alive").status, 200);
    assert!(connect(port, &old, &[&TLS13], &[]).is_err());
    // Open connections stay open.
    write!(kept, "GET /alive HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
    assert_eq!(read_one(&mut kept).status, 200);
}

#[test]
fn times_run_out_under_tls_too() {
    let (pair, folder, port) = (CertifiedKeyPair::new(), Folder::new(), free_port());
    pair.write(&folder);
    let mut http = https(port);
    crate::harness::merge(&mut http, json!({"timeout": {"read": "300ms", "idle": "500ms"}}));
    let daemon = Daemon::start_in(folder, json!({"http": http}), &mut hayate());
    let read_to_end = |stream: &mut dyn Read| {
        let mut rest = Vec::new();
        // A connection that ends without close_notify has ended.
        _ = stream.read_to_end(&mut rest);
        rest
    };
    // No handshake, half a head, nothing after a reply: each is closed without an answer.
    let mut silent = TcpStream::connect(("127.0.0.1", port)).unwrap();
    silent.set_read_timeout(Some(TIMEOUT)).unwrap();
    assert_eq!(read_to_end(&mut silent), b"");
    for alpn in ["http/1.1", "h2"] {
        let mut half = connect(port, &pair, &[&TLS13], &[alpn]).unwrap();
        if alpn == "http/1.1" {
            half.write_all(b"GET /alive HT").unwrap();
        }
        let received = read_to_end(&mut half);
        assert!(alpn == "h2" || received.is_empty(), "{received:?}");
        assert!(half.sock.read(&mut [0]).map_or(true, |len| len == 0));
    }
    assert!(eventually(|| daemon.metric("http_timeouts_total{phase=\"head\"}") >= 3));
    let mut idle = connect(port, &pair, &[&TLS13], &["http/1.1"]).unwrap();
    write!(idle, "GET /alive HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
    assert_eq!(read_one(&mut idle).status, 200);
    assert_eq!(read_to_end(&mut idle), b"");
    assert_eq!(daemon.metric("http_timeouts_total{phase=\"idle\"}"), 1);
}

/// Reads one response of a connection that stays open.
fn read_one(stream: &mut impl Read) -> Response {
    let mut octets = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        let len = stream.read(&mut chunk).unwrap();
        octets.extend(&chunk[..len]);
        if let Some(response) = parse_response(&octets) {
            let length: usize = response.headers["content-length"].parse().unwrap();
            if response.body.len() >= length {
                return response;
            }
        }
        assert_ne!(len, 0, "the connection ended");
    }
}

/// The hello of a client that knows no newer version than TLS 1.1 (RFC 4346).
fn hello_of_tls_1_1() -> Vec<u8> {
    let mut hello = vec![3, 2];
    hello.extend([7; 32]);
    // No session, one cipher suite (TLS_RSA_WITH_AES_128_CBC_SHA), no compression.
    hello.extend([0, 0, 2, 0, 0x2f, 1, 0]);
    let mut message = vec![1, 0, 0, u8::try_from(hello.len()).unwrap()];
    message.extend(hello);
    let mut record = vec![22, 3, 1, 0, u8::try_from(message.len()).unwrap()];
    record.extend(message);
    record
}

/// Announces over HTTP/2, by hand: preface, settings, one stream of headers. Returns the octets of its data.
fn h2_announce(mut tls: Tls) -> Vec<u8> {
    let target = announce_target('a', 7009, "&left=9");
    tls.write_all(PREFACE).unwrap();
    tls.write_all(&frame(SETTINGS, 0, 0, &[])).unwrap();
    tls.write_all(&frame(HEADERS, 5, 1, &get_headers(&target))).unwrap();
    tls.sock.set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut data = Vec::new();
    loop {
        let mut head = [0; 9];
        tls.read_exact(&mut head).unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        tls.read_exact(&mut payload).unwrap();
        assert_ne!(head[3], 7, "GOAWAY: {payload:?}");
        if head[3] == 0 {
            data.extend(payload);
            if head[4] & 1 == 1 {
                return data;
            }
        }
    }
}
