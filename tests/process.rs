//! The process: configuration errors, signals, privileges, two daemons on one port.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::{
    Daemon, Folder, PATIENCE, UdpClient, announce_target, eventually, exchange, fetch, free_port, get,
    hayate, parse_response,
};

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    println!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    output
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_bad_file_ends_with_one_clear_line_and_no_socket() {
    // Whoever opened a socket before all is read would complain about this one.
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (text, words) in [
        (r#"{"udp": {"workers": -1}}"#, &["udp.workers", "-1", "from 0 to"][..]),
        (r#"{"udp": {"wrokers": 1}}"#, &["wrokers", "workers"]),
        (r#"{"intervals": {"announce": 0}}"#, &["intervals.announce", "0"]),
        (
            r#"{"intervals": {"min_announce": 3000}}"#,
            &["intervals.min_announce", "50m", "intervals.announce"],
        ),
        (r#"{"http": {"addr": "nowhere"}}"#, &["http.addr", "nowhere"]),
        (r#"{"mode": "secret"}"#, &["mode", "secret", "open", "listed", "private"]),
        (r#"{"mode": "private", "database": {"dsn": ""}}"#, &["database.dsn", "private"]),
        (r#"{"mode": "private", "admin": {"token_file": "missing"}}"#, &["admin.token_file", "missing"]),
        (r#"{"mode": "private", "admin": {"token_file": "tracker.json"}}"#, &["admin.token_file", "token"]),
        (r#"{"access": {"mode": "allow"}}"#, &["access.path"]),
        (r#"{"access": {"mode": "deny", "path": "missing.txt"}}"#, &["missing.txt"]),
        (r#"{"chihaya": {}}"#, &["import-config"]),
        (r#"{"udp": {"#, &["line 1", "column"]),
    ] {
        let folder = Folder::new();
        let path = folder.write("tracker.json", text);
        for command in [&["run"][..], &["check-config"]] {
            let output = run(hayate().args(command).arg("-c").arg(&path).env("HAYATE__UDP__ADDR", &address));
            assert_eq!(output.status.code(), Some(1), "{text}");
            let complaint = stderr(&output);
            assert_eq!(complaint.lines().count(), 1, "{text}: {complaint}");
            assert!(words.iter().all(|word| complaint.contains(word)), "{text}: {complaint}");
        }
    }
    assert_eq!(run(hayate().arg("--nonsense")).status.code(), Some(2));
    assert_eq!(run(hayate().args(["-c", "not-there.json"])).status.code(), Some(1));
}

#[test]
fn the_environment_overrides_the_file() {
    let folder = Folder::new();
    let path = folder.write("tracker.yaml", "---\nintervals:\n  announce: 30m\nudp:\n");
    let output =
        run(hayate().arg("print-config").arg("-c").arg(&path).env("HAYATE__INTERVALS__ANNOUNCE", "1200"));
    assert!(output.status.success());
    let config: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(config["intervals"]["announce"], 1200);
    assert!(stderr(&output).contains("HAYATE__INTERVALS__ANNOUNCE"));
    let output = run(hayate().arg("check-config").arg("-c").arg(&path).env("HAYATE__UDP__WROKERS", "1"));
    assert!(!output.status.success() && stderr(&output).contains("HAYATE__UDP__WROKERS"));
}

#[test]
fn a_second_daemon_on_the_same_port_is_refused_by_name() {
    let first = Daemon::start(json!({"udp": {"workers": 2}}));
    for (door, port) in [("udp", first.port), ("http", first.port), ("metrics", first.metrics_port)] {
        let folder = Folder::new();
        let mut config = json!({"udp": {"addr": ""}, "http": {"addr": ""}, "metrics": {"addr": ""}});
        let address = format!("127.0.0.1:{port}");
        config[door]["addr"] = address.clone().into();
        let path = folder.write("tracker.json", &config.to_string());
        let output = run(hayate().arg("-c").arg(&path));
        assert_eq!(output.status.code(), Some(1), "{door}");
        assert!(stderr(&output).contains(&address), "{door}");
    }
}

#[test]
fn no_filter_hides_why_the_process_ends_and_the_cause_is_said_once() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for filter in ["off", "hyper=debug", "error"] {
        let mut command = hayate();
        command.env("RUST_LOG", filter).env("HAYATE__UDP__ADDR", "").env("HAYATE__METRICS__ADDR", "");
        let output = run(command.current_dir(Folder::new().path()).env("HAYATE__HTTP__ADDR", &address));
        assert_eq!(output.status.code(), Some(1), "{filter}");
        let complaint = stderr(&output);
        assert!(complaint.contains(&address), "{filter}: {complaint}");
        assert_eq!(complaint.matches("os error 98").count(), 1, "{filter}: {complaint}");
    }
}

#[test]
fn an_empty_folder_is_enough_for_any_user_and_the_log_says_what_starts() {
    let folder = Folder::new();
    // Others may not enter the folder of the build.
    let binary = folder.path().join("hayate");
    assert!(Command::new("cp").arg(hayate().get_program()).arg(&binary).status().unwrap().success());
    let (port, metrics_port) = (free_port(), free_port());
    let mut command = Command::new(binary);
    command.current_dir(folder.path()).env_remove("RUST_LOG");
    command.env("HAYATE__UDP__ADDR", format!(":{port}")).env("HAYATE__HTTP__ADDR", format!(":{port}"));
    command.env("HAYATE__METRICS__ADDR", format!("127.0.0.1:{metrics_port}"));
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(folder.path(), Some(65534), Some(65534)).unwrap();
        command.uid(65534).gid(65534);
    }
    let mut daemon = Daemon::attend(folder, port, metrics_port, &mut command);
    assert_eq!(UdpClient::connect("127.0.0.1", daemon.v4()).announce(b'A', 7001, 9, 2).0, 1);
    assert_eq!(fetch(daemon.v6(), &announce_target('A', 7002, "&left=9")).peers().len(), 1);
    let key = std::fs::metadata(daemon.folder.path().join("udp.key")).unwrap();
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
    let log = daemon.log();
    let place = |text: &str| log.iter().position(|line| line.contains(&format!("\"msg\":\"{text}")));
    let starts = [
        "starting metrics server",
        "starting storage",
        "started storage",
        "starting tracker logic: mode open",
        "starting HTTP frontend",
        "starting UDP frontend",
    ];
    let places: Vec<usize> = starts.iter().map(|text| place(text).expect(text)).collect();
    assert!(places.is_sorted(), "{log:#?}");
    // What the kernel grants for buffers is the machine's affair.
    let known = ["built-in defaults", "receive buffer"];
    let unknown =
        |line: &&String| !line.contains("\"info\"") && !known.iter().any(|text| line.contains(text));
    assert_eq!(log.iter().find(unknown), None);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
}

/// Sends ten announces in one go, again and again, on one connection; how many were answered.
fn announce_in_bulk(address: SocketAddr, rounds: u16) -> usize {
    let mut stream = BufReader::new(TcpStream::connect(address).unwrap());
    stream.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
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

#[test]
fn a_reload_takes_over_lists_and_intervals_and_keeps_swarms_and_ids() {
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
    assert_eq!(client.scrape(b'A'), [0, 0, 2], "the id is still good");
    // The list alone is read again too, by the other signal; exactly one reload per signal.
    daemon.folder.write("denied.txt", "");
    daemon.signal(Signal::SIGUSR1);
    daemon.wait_for_log("\"reloaded\"", 2);
    assert!(
        fetch(daemon.v4(), &announce_target('B', 7002, "&left=9")).bencoded().at("failure reason").is_none()
    );
    assert_eq!((daemon.logged("\"reloaded\""), daemon.metric("reloads_total{result=\"ok\"}")), (2, 2));
}

#[test]
fn a_bad_reload_is_refused_and_the_old_configuration_serves_on() {
    let mut daemon = Daemon::start(json!({"intervals": {"announce_drift": 0}}));
    daemon.rewrite_config(|config| {
        config["intervals"]["announce"] = json!(1000);
        config["udp"]["nonsense"] = json!(7);
    });
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_log("reload refused", 1);
    daemon.folder.write("bad.txt", "not a hash\n");
    daemon.rewrite_config(|config| {
        config["udp"].as_object_mut().unwrap().remove("nonsense");
        config["access"] = json!({"mode": "deny", "path": "bad.txt"});
    });
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_log("reload refused", 2);
    assert!(daemon.log().iter().any(|line| line.contains("bad.txt") && line.contains("line 1")));
    let reply = fetch(daemon.v4(), &announce_target('A', 7002, "&left=9")).bencoded();
    assert_eq!(reply.at("interval").unwrap().integer(), Some(1800));
    assert!(daemon.is_running());
}

#[test]
fn a_new_private_key_leaves_old_ids_good() {
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
fn what_only_a_restart_can_change_is_named_and_waits() {
    let daemon = Daemon::start(json!({}));
    daemon.rewrite_config(|config| config["udp"]["workers"] = json!(2));
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_log("\"reloaded\"", 1);
    assert!(daemon.log().iter().any(|line| line.contains("udp.workers") && line.contains("restart")));
}

#[test]
fn listed_mode_serves_the_registered_torrents() {
    let folder = Folder::new();
    folder.write("registered.txt", &"41".repeat(20));
    let config = json!({"mode": "listed", "access": {"path": "registered.txt"}});
    let daemon = Daemon::start_in(folder, config, &mut hayate());
    let client = UdpClient::connect("127.0.0.1", daemon.v4());
    assert_eq!(client.announce(b'A', 7001, 9, 2).0, 1);
    let reply = fetch(daemon.v4(), &announce_target('B', 7002, "&left=9")).bencoded();
    assert_eq!(reply.at("failure reason").unwrap().octets(), Some(&b"unregistered torrent"[..]));
}

#[test]
fn the_first_signal_stops_in_order_and_the_second_at_once() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut daemon = Daemon::start(json!({}));
        daemon.signal(signal);
        assert_eq!(daemon.wait().code(), Some(0));
    }
    // A request in flight holds an orderly stop up to its timeout; the second signal does not wait.
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        let mut daemon = Daemon::start(json!({"http": {"timeout": {"read": "60s"}}}));
        let mut slow = TcpStream::connect(daemon.v4()).unwrap();
        slow.write_all(b"GET /announce HTTP/1.1\r\n").unwrap();
        // The connection that asks is one more.
        assert!(eventually(|| daemon.metric("http_connections") == 2));
        daemon.signal(signal);
        daemon.wait_for_log("stopping", 1);
        daemon.signal(signal);
        assert_eq!(daemon.wait().code(), Some(code));
    }
}

#[test]
fn health_says_that_the_tracker_is_stopping_until_it_has_stopped() {
    let mut daemon = Daemon::start(json!({}));
    let status = |daemon: &Daemon, path| daemon.page(path).map(|response| response.status);
    assert_eq!(status(&daemon, "/health"), Some(200));
    let mut slow = TcpStream::connect(daemon.v4()).unwrap();
    slow.write_all(b"GET ").unwrap();
    assert!(eventually(|| daemon.metric("http_connections") == 2));
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for_log("stopping", 1);
    assert_eq!((status(&daemon, "/health"), status(&daemon, "/alive")), (Some(503), Some(200)));
    let target = announce_target('A', 7001, "&left=9");
    slow.write_all(format!("{target} HTTP/1.1\r\nHost: t\r\n\r\n").as_bytes()).unwrap();
    let mut octets = Vec::new();
    slow.read_to_end(&mut octets).unwrap();
    assert!(parse_response(&octets).unwrap().bencoded().at("peers").is_some());
    assert_eq!(daemon.wait().code(), Some(0));
    assert_eq!(status(&daemon, "/health"), None);
}

#[test]
fn a_stop_under_load_answers_what_was_asked() {
    let mut daemon = Daemon::start(json!({}));
    let address = daemon.v4();
    let clients: Vec<_> = (0..4)
        .map(|number| {
            std::thread::spawn(move || {
                let mut broken = 0;
                for port in 0..10_000 {
                    let Ok(stream) = TcpStream::connect(address) else { break };
                    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                    let target = announce_target('S', 1 + number * 10_000 + port, "&left=9");
                    // A connection that was not accepted any more is closed with nothing said.
                    match exchange(stream, &get(&target)) {
                        Ok(response) => assert_eq!(response.status, 200),
                        Err(_) => broken += 1,
                    }
                }
                broken
            })
        })
        .collect();
    assert!(eventually(|| daemon.metric("http_requests_total{action=\"announce\",family=\"ipv4\"}") > 200));
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
    let broken: u32 = clients.into_iter().map(|client| client.join().unwrap()).sum();
    // At most the last one of each, which came between the last look at the backlog and its end.
    assert!(broken <= 4, "{broken} connections ended without a reply");
}

#[test]
fn privileges_are_dropped_after_the_sockets_are_open() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can drop privileges");
        return;
    }
    let folder = Folder::new();
    std::os::unix::fs::chown(folder.path(), Some(65534), Some(65534)).unwrap();
    let config = json!({"privileges": {"user": "nobody", "group": "nogroup"}});
    let daemon = Daemon::start_in(folder, config, &mut hayate());
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = |name: &str| status.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    let ids = |name: &str| line(name).split_whitespace().skip(1).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(ids("Uid:"), ["65534"; 4]);
    assert_eq!(ids("Gid:"), ["65534"; 4]);
    assert!(ids("Groups:").iter().all(|group| group == "65534"));
    assert_eq!(UdpClient::connect("127.0.0.1", daemon.v4()).scrape(b'A'), [0, 0, 0]);
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_log("\"reloaded\"", 1);
}

#[test]
fn nothing_is_logged_per_request() {
    let daemon = Daemon::start(json!({}));
    let before = daemon.log().len();
    let client = UdpClient::connect("127.0.0.1", daemon.v4());
    for port in 1..200 {
        client.announce(b'A', port, 9, 2);
        fetch(daemon.v4(), &announce_target('A', 1000 + port, "&left=9"));
    }
    assert_eq!(daemon.log().len(), before);
}

#[test]
fn probe_and_e2e_work_against_the_running_daemon() {
    let daemon = Daemon::start(json!({}));
    for (host, hash) in [("127.0.0.1", "41".repeat(20)), ("[::1]", "42".repeat(20))] {
        let (http, udp) =
            (format!("http://{host}:{}/announce", daemon.port), format!("udp://{host}:{}", daemon.port));
        let output = run(hayate().args(["e2e", "--delay", "10ms", "--http", &http, "--udp", &udp]));
        assert!(output.status.success() && stderr(&output).contains("success"));
        for url in [&http, &udp] {
            let output = run(hayate().args(["probe", "announce", url, &hash, "--json"]));
            let reply: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(reply["leechers"], 1, "{reply}");
            let output = run(hayate().args(["probe", "scrape", url, &hash, "--json"]));
            assert!(output.status.success() && !output.stdout.is_empty());
        }
    }
    // Also where claimed addresses count; and an empty URL asks nobody.
    let daemon = Daemon::start(json!({"announce": {"allow_ip_spoofing": true}}));
    for host in ["127.0.0.1", "[::1]"] {
        let http = format!("http://{host}:{}/announce", daemon.port);
        for udp in [format!("udp://{host}:{}", daemon.port), String::new()] {
            let output = run(hayate().args(["e2e", "--delay", "10ms", "--http", &http, "--udp", &udp]));
            assert!(output.status.success(), "{udp}");
            assert_eq!(stderr(&output).contains("testing UDP"), !udp.is_empty());
        }
    }
    let dead = format!("udp://127.0.0.1:{}", free_port());
    let output = run(hayate().args(["e2e", "--http", "", "--udp", &dead, "--delay", "10ms"]));
    assert_eq!(output.status.code(), Some(1));
}
