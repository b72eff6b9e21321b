//! The gateway of the running daemon: what clients, proxies and attackers send.

pub(crate) mod h2;
pub(crate) mod tls;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use hayate_tools::bencode::Value;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::clients::script;
use crate::harness::{
    Daemon, Folder, Response, TIMEOUT, announce_target, eventually, exchange, fetch, free_port, get, hayate,
    may_open_files, parse_response,
};

/// A user and group without names or rights.
const NOBODY: u32 = 65534;

fn failure(address: SocketAddr, target: &str) -> String {
    let response = fetch(address, target);
    assert_eq!(response.status, 200, "{target}");
    let value = response.bencoded();
    assert!(value.at("interval").and_then(Value::integer).is_some(), "a failure has an interval");
    assert!(value.at("peers").is_none());
    String::from_utf8(value.at("failure reason").and_then(Value::octets).unwrap_or_default().to_vec())
        .unwrap()
}

#[test]
fn http_checks_in_order() {
    let daemon = Daemon::start(json!({"announce": {"strict_port": true}}));
    let hash = "h".repeat(20);
    let id = "-XX0001-000000000001";
    for (query, text) in [
        ("", "no info_hash parameter supplied"),
        ("info_hash=abc", "provided invalid infohash"),
        ("info_hash=%zz&peer_id=1", "invalid query escape"),
        (&format!("info_hash={hash}&info_hash={hash}&peer_id=1"), "multiple info_hash parameters supplied"),
        (&format!("info_hash={hash}"), "failed to parse parameter: peer_id"),
        (&format!("info_hash={hash}&peer_id=1&port=0"), "failed to provide valid peer_id"),
        (&format!("info_hash={hash}&peer_id={id}&left=%zz&port=x"), "invalid query escape"),
        (&format!("info_hash={hash}&peer_id={id}"), "failed to parse parameter: port"),
        (&format!("info_hash={hash}&peer_id={id}&port=65536"), "failed to parse parameter: port"),
        (&format!("info_hash={hash}&peer_id={id}&port=0"), "invalid port"),
        (&format!("info_hash={hash}&peer_id={id}&port=1023"), "invalid port"),
    ] {
        assert_eq!(failure(daemon.v4(), &format!("/announce?{query}")), text, "{query}");
    }
    assert_eq!(failure(daemon.v4(), "/scrape"), "no info_hash parameter supplied");
    // A broken escape in a parameter that is not used does not matter.
    let fine = announce_target('h', 2000, "&left=9&key=%zz&%zz=1");
    assert!(fetch(daemon.v4(), &fine).bencoded().at("failure reason").is_none());
    assert_eq!(daemon.metric("http_refusals_total{reason=\"invalid_port\"}"), 2);
}

#[test]
fn the_reply_to_a_lone_seeder_is_right_to_the_octet() {
    let intervals = json!({"announce_drift": 0});
    let daemon = Daemon::start(json!({"intervals": intervals, "announce": {"external_ip": false}}));
    let body = |more: &str| fetch(daemon.v4(), &announce_target('L', 7001, more)).body;
    let head = "d8:completei1e10:downloadedi0e10:incompletei0e8:intervali1800e12:min intervali900e5:peers";
    assert_eq!(body("&left=0"), format!("{head}0:e").as_bytes());
    assert_eq!(body("&left=0&compact=0"), format!("{head}lee").as_bytes());
}

#[test]
fn methods_paths_and_sizes_are_refused_each_with_its_status() {
    let daemon = Daemon::start(json!({}));
    let send = |request: &str| exchange(TcpStream::connect(daemon.v4()).unwrap(), request).unwrap();
    for method in ["POST", "HEAD", "OPTIONS", "PUT", "BREW"] {
        let target = announce_target('M', 7001, "&left=9");
        let response = send(&format!("{method} {target} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"));
        assert_eq!((response.status, response.headers["allow"].as_str()), (405, "GET"), "{method}");
    }
    assert_eq!(fetch(daemon.v4(), "/favicon.ico").status, 404);
    assert_eq!(fetch(daemon.v4(), "/announce/").status, 404);
    assert_eq!(fetch(daemon.v4(), "/metrics").status, 404, "they are on their own address");
    assert_eq!(fetch(daemon.v4(), "/alive").status, 200);
    let long = "x".repeat(8300);
    assert_eq!(fetch(daemon.v4(), &format!("/announce?{long}")).status, 414);
    let header = format!(
        "GET /announce HTTP/1.1\r\nHost: t\r\nX-Long: {}\r\nConnection: close\r\n\r\n",
        "x".repeat(16_500)
    );
    assert_eq!(send(&header).status, 431);
    let body = "GET /announce HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\nabc";
    assert_eq!(send(body).status, 400);
    let scrape = fetch(daemon.v4(), "/scrape?info_hash=MMMMMMMMMMMMMMMMMMMM");
    let file = Value::decode(b"d8:completei0e10:downloadedi0e10:incompletei0ee").unwrap();
    let files = scrape.bencoded().at("files").cloned().unwrap();
    assert_eq!(files.at("MMMMMMMMMMMMMMMMMMMM"), Some(&file), "nothing of all that was an announce");
}

#[test]
fn hostile_queries_are_answered_and_the_tracker_keeps_serving() {
    let daemon = Daemon::start(json!({}));
    let hostile = [
        format!("/announce?{}", "a=b&".repeat(2000)),
        format!("/announce?{}", "&".repeat(8000)),
        format!("/announce?{}", "%".repeat(8000)),
        format!("/announce?info_hash={}", "%00".repeat(2600)),
        format!("/scrape?{}", "info_hash=&".repeat(700)),
        format!("/announce?{}", "info_hash=".repeat(800)),
        "/announce?info_hash=%".into(),
        "/%2e%2e/announce".into(),
        "//announce".into(),
    ];
    for target in hostile {
        let response = fetch(daemon.v4(), &target);
        assert!([200, 404].contains(&response.status), "{}: {}", response.status, &target[..30]);
    }
    // 10^5 parameters and lines of 1 MiB end in a refusal or a closed connection.
    for target in
        [format!("/announce?{}", "a=b&".repeat(100_000)), format!("/announce?x={}", "y".repeat(1 << 20))]
    {
        let mut stream = TcpStream::connect(daemon.v4()).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        _ = stream.write_all(get(&target).as_bytes());
        let mut octets = Vec::new();
        _ = stream.read_to_end(&mut octets);
        assert!(
            octets.is_empty() || parse_response(&octets).is_some_and(|r| [400, 414, 431].contains(&r.status))
        );
    }
    // Octets that are no HTTP at all: a TLS hello, an HTTP/2 preface, noise.
    for octets in [
        &b"\x16\x03\x01\x02\x00\x01\x00"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &[0xff; 300],
        b"\r\n\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(daemon.v4()).unwrap();
        _ = stream.write_all(octets);
        _ = stream.shutdown(std::net::Shutdown::Write);
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        _ = stream.read_to_end(&mut Vec::new());
    }
    assert!(fetch(daemon.v4(), &announce_target('Q', 7001, "&left=9")).bencoded().at("peers").is_some());
    // The two long ones, the TLS hello, the preface and the noise.
    assert!(
        eventually(|| daemon.metric("http_malformed_total") == 5),
        "{}",
        daemon.metric("http_malformed_total")
    );
}

#[test]
fn slow_heads_and_ten_thousand_idle_connections_disturb_nobody() {
    if !may_open_files(12_000) {
        return;
    }
    let limits = json!({"timeout": {"read": "1s", "idle": "60s"}, "max_connections": 10_500});
    let daemon = Daemon::start(json!({"http": limits}));
    // One request on each, then nothing: idle keep-alive connections.
    let idle: Vec<TcpStream> = (0..10_000)
        .map(|_| {
            let mut stream = TcpStream::connect(daemon.v4()).unwrap();
            stream.write_all(b"GET /alive HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
            stream
        })
        .collect();
    assert!(
        eventually(|| daemon.metric("http_connections") >= 10_000),
        "{}",
        daemon.metric("http_connections")
    );
    let mut slow = TcpStream::connect(daemon.v4()).unwrap();
    slow.write_all(b"GET /announce HTTP/1.1\r\nX-Slow: ").unwrap();
    for port in 1..100 {
        let reply = fetch(daemon.v4(), &announce_target('I', 7000 + port, "&left=9"));
        assert_eq!(reply.bencoded().at("incomplete").and_then(Value::integer), Some(i64::from(port)));
    }
    slow.set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut octets = Vec::new();
    _ = slow.read_to_end(&mut octets);
    assert_eq!(octets, b"", "a stalled head is closed without a reply");
    assert!(daemon.metric("http_timeouts_total{phase=\"head\"}") >= 1);
    drop(idle);
    assert!(eventually(|| daemon.metric("http_connections") < 10));
}

#[test]
fn at_the_limit_idle_connections_are_closed_for_new_ones() {
    let daemon = Daemon::start(json!({"http": {"max_connections": 3}}));
    let held: Vec<_> = (0..3).map(|_| TcpStream::connect(daemon.v4()).unwrap()).collect();
    // The connection that asks for the metric is one more.
    assert!(eventually(|| daemon.metric("http_connections") == 4));
    assert_eq!(fetch(daemon.v4(), "/alive").status, 200);
    assert!(eventually(|| daemon.metric("http_connections_displaced_total{reason=\"idle\"}") >= 1));
    assert_eq!(daemon.metric("http_connections_refused_total"), 0);
    let closed = held.iter().filter(|stream| {
        stream.set_nonblocking(true).unwrap();
        (&mut &**stream).read(&mut [0]).is_ok_and(|len| len == 0)
    });
    assert_eq!(closed.count(), 1);
}

#[test]
fn a_unix_socket_serves_a_proxy_that_names_its_client() {
    let http = json!({"unix_socket": "gateway.sock", "proxy_header": "X-Real-IP"});
    let daemon = Daemon::start(json!({"http": http}));
    let path = daemon.folder.path().join("gateway.sock");
    let ask = |header: &str, port: u16| {
        let target = announce_target('U', port, "&left=9");
        let request = format!("GET {target} HTTP/1.1\r\nHost: t\r\n{header}Connection: close\r\n\r\n");
        exchange(UnixStream::connect(&path).unwrap(), &request).unwrap()
    };
    assert!(ask("X-Real-IP: 45.128.19.9\r\n", 7001).peers().is_empty());
    assert_eq!(
        ask("X-Real-IP: 45.128.19.10\r\n", 7002).peers(),
        ["45.128.19.9:7001".parse::<SocketAddr>().unwrap()]
    );
    let unreadable = ask("X-Real-IP: junk\r\n", 7003).bencoded();
    assert_eq!(
        unreadable.at("failure reason").and_then(Value::octets),
        Some(&b"failed to parse peer IP address"[..])
    );
}

/// An nginx of another user that passes requests to a unix socket; it ends with its test.
struct Nginx {
    process: Child,
    address: SocketAddr,
    _folder: Folder,
}

impl Nginx {
    fn start(socket: &Path, group: u32) -> Self {
        let folder = Folder::new();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut command = Command::new(script("nginx"));
        command.arg(folder.path()).arg(address.to_string()).arg(format!("unix:{}", socket.display()));
        let process = command.args([NOBODY.to_string(), group.to_string()]).spawn().unwrap();
        Self { process, address, _folder: folder }
    }

    /// Returns the response to an announce, once nginx serves.
    fn announce(&self, port: u16) -> Response {
        let mut response = None;
        assert!(eventually(|| {
            let request = get(&announce_target('N', port, "&left=9"));
            response = TcpStream::connect(self.address).and_then(|stream| exchange(stream, &request)).ok();
            response.is_some()
        }));
        response.unwrap()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

#[test]
fn nginx_of_another_user_is_admitted_by_the_group_of_the_unix_socket_and_a_third_is_not() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can be several users");
        return;
    }
    const GROUP: u32 = 40007;
    let http = json!({"unix_socket": "gateway.sock", "unix_socket_group": GROUP.to_string(),
        "unix_socket_mode": "0060", "proxy_header": "X-Real-IP"});
    let mut daemon = Daemon::start(json!({"http": http}));
    let path = daemon.folder.path().join("gateway.sock");
    let mode_and_group = || std::fs::metadata(&path).map(|file| (file.mode() & 0o777, file.gid())).ok();
    assert_eq!(mode_and_group(), Some((0o060, GROUP)));
    let (member, outsider) = (Nginx::start(&path, GROUP), Nginx::start(&path, GROUP + 4));
    assert_eq!(member.announce(7001).bencoded().at("incomplete").and_then(Value::integer), Some(1));
    assert_eq!(outsider.announce(7002).status, 502);
    // A reload keeps both, and logs that.
    daemon.rewrite_config(|config| config["http"]["unix_socket_mode"] = "0666".into());
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_log("\"reloaded\"", 1);
    assert!(
        daemon.log().iter().any(|line| line.contains("http.unix_socket_mode") && line.contains("restart"))
    );
    assert_eq!(mode_and_group(), Some((0o060, GROUP)));
    assert_eq!(outsider.announce(7002).status, 502);
    assert_eq!(member.announce(7003).bencoded().at("incomplete").and_then(Value::integer), Some(2));
    daemon.signal(Signal::SIGTERM);
    daemon.wait();
    assert_eq!(mode_and_group(), None, "the file goes with the tracker");
}

#[test]
fn a_group_that_the_tracker_is_not_in_is_refused_by_its_key() {
    let folder = Folder::new();
    let mut config = json!({
        "udp": {"addr": ""},
        "http": {"addr": "", "unix_socket": "gateway.sock", "unix_socket_group": "no-such-group-here"},
        "metrics": {"addr": ""},
    });
    let refused = |config: &serde_json::Value| {
        let path = folder.write("tracker.json", &config.to_string());
        let mut child = hayate().arg("-c").arg(path).stderr(Stdio::piped()).spawn().unwrap();
        let has_ended = eventually(|| child.try_wait().unwrap().is_some());
        // One that serves would do so forever.
        _ = child.kill();
        let output = child.wait_with_output().unwrap();
        assert!(has_ended && output.status.code() == Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let stderr = refused(&config);
    assert!(
        stderr.contains("http.unix_socket_group: \"no-such-group-here\": there is no such group"),
        "{stderr}"
    );
    // Root is in every group, until it becomes another user.
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        config["privileges"] = json!({"user": NOBODY.to_string(), "group": NOBODY.to_string()});
    }
    config["http"]["unix_socket_group"] = "0".into();
    let stderr = refused(&config);
    assert!(stderr.contains("to group 0 (http.unix_socket_group): "), "{stderr}");
    assert!(!folder.path().join("gateway.sock").exists(), "the unfinished socket is removed");
}

#[test]
fn a_full_memory_is_answered_with_a_valid_reply() {
    let daemon = Daemon::start(json!({"memory": {"max": 1}}));
    let reply = fetch(daemon.v4(), &announce_target('F', 7001, "&left=9")).bencoded();
    for interval in ["interval", "min interval"] {
        assert_eq!(reply.at(interval).and_then(Value::integer), Some(3600), "{interval}");
    }
    assert_eq!(reply.at("peers").and_then(Value::octets), Some(&b""[..]));
    assert_eq!(daemon.metric("swarms_full_total"), 1);
}
