//! The process: configuration errors, signals, privileges, two daemons on one port.

use std::process::{Command, Output};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::{
    Daemon, Folder, UdpClient, announce_target, eventually, exchange, fetch, free_port, get, hayate,
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
    for (text, words) in [
        (r#"{"udp": {"workers": -1}}"#, &["udp.workers", "-1", "from 0 to"][..]),
        (r#"{"udp": {"wrokers": 1}}"#, &["wrokers", "workers"]),
        (r#"{"intervals": {"announce": 0}}"#, &["intervals.announce", "0"]),
        (
            r#"{"intervals": {"min_announce": 3000}}"#,
            &["intervals.min_announce", "50m", "intervals.announce"],
        ),
        (r#"{"http": {"addr": "nowhere"}}"#, &["http.addr", "nowhere"]),
        (r#"{"mode": "private"}"#, &["mode", "private", "open", "listed"]),
        (r#"{"access": {"mode": "allow"}}"#, &["access.path"]),
        (r#"{"access": {"mode": "deny", "path": "missing.txt"}}"#, &["missing.txt"]),
        (r#"{"chihaya": {}}"#, &["import-config"]),
        (r#"{"udp": {"#, &["line 1", "column"]),
    ] {
        let folder = Folder::new();
        let path = folder.write("tracker.json", text);
        for command in [&["run"][..], &["check-config"]] {
            let output =
                run(hayate().args(command).arg("-c").arg(&path).env("HAYATE__UDP__ADDR", "127.0.0.1:0"));
            assert_eq!(output.status.code(), Some(1), "{text}");
            let errors: Vec<String> =
                stderr(&output).lines().filter(|line| !line.contains("INFO")).map(str::to_owned).collect();
            let last = errors.last().expect("a line");
            assert!(words.iter().all(|word| last.contains(word)), "{text}: {last}");
            assert!(!stderr(&output).contains("listening"), "{text}");
        }
    }
    assert_eq!(run(hayate().arg("--nonsense")).status.code(), Some(2));
    assert_eq!(run(hayate().args(["-c", "not-there.json"])).status.code(), Some(1));
}

#[test]
fn the_environment_overrides_the_file() {
    let folder = Folder::new();
    let path = folder.write(
        "tracker.yaml",
        "---\nintervals:\n  announce: 30m\nprehooks:\n".replace("prehooks:\n", "").as_str(),
    );
    let output =
        run(hayate().arg("print-config").arg("-c").arg(&path).env("HAYATE__INTERVALS__ANNOUNCE", "1200"));
    assert!(output.status.success());
    let config: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(["20m", "1200"].contains(&config["intervals"]["announce"].to_string().trim_matches('"')));
    assert!(stderr(&output).contains("HAYATE__INTERVALS__ANNOUNCE"));
    let output = run(hayate().arg("check-config").arg("-c").arg(&path).env("HAYATE__UDP__WROKERS", "1"));
    assert!(!output.status.success() && stderr(&output).contains("HAYATE__UDP__WROKERS"));
}

#[test]
fn a_second_daemon_on_the_same_port_is_refused_by_name() {
    let first = Daemon::start(json!({"udp": {"workers": 2}}));
    for door in ["udp", "http"] {
        let folder = Folder::new();
        let mut config = json!({"udp": {"addr": ""}, "http": {"addr": ""}, "metrics": {"addr": ""}});
        config[door]["addr"] = format!("127.0.0.1:{}", first.port).into();
        let path = folder.write("tracker.json", &config.to_string());
        let output = run(hayate().arg("-c").arg(&path));
        assert_eq!(output.status.code(), Some(1), "{door}");
        assert!(stderr(&output).contains(&format!("127.0.0.1:{}", first.port)), "{door}");
    }
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
        let mut slow = std::net::TcpStream::connect(daemon.v4()).unwrap();
        std::io::Write::write_all(&mut slow, b"GET /announce HTTP/1.1\r\n").unwrap();
        // The connection that asks is one more.
        assert!(eventually(|| daemon.metric("http_connections") == 2));
        daemon.signal(signal);
        daemon.wait_for_log("stopping", 1);
        daemon.signal(signal);
        let code_now = daemon.wait().code();
        assert!(code_now == Some(code) || code_now == Some(0), "{code_now:?}");
    }
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
                    let Ok(stream) = std::net::TcpStream::connect(address) else { break };
                    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                    let target = announce_target('S', 1 + number * 10_000 + port, "&left=9");
                    // A connection that was not accepted any more is closed with nothing said; half a reply is a fault.
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
    assert!(broken <= 16, "{broken} connections ended without a reply");
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
    let dead = format!("udp://127.0.0.1:{}", free_port());
    let output = run(hayate().args(["e2e", "--http", "", "--udp", &dead, "--delay", "10ms"]));
    assert_eq!(output.status.code(), Some(1));
}
