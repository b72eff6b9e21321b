//! The process: configuration errors, signals, privileges, two daemons on one port.

use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::{Daemon, Folder, UdpClient, announce_target, fetch, free_port, hayate};

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
    // A process that opened sockets before everything is read would fail with this address.
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (config, words) in [
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
        let path = folder.write("tracker.json", config);
        for command in [&["run"][..], &["check-config"]] {
            let output = run(hayate().args(command).arg("-c").arg(&path).env("HAYATE__UDP__ADDR", &address));
            assert_eq!(output.status.code(), Some(1), "{config}");
            let text = stderr(&output);
            assert_eq!(text.lines().count(), 1, "{config}: {text}");
            assert!(words.iter().all(|word| text.contains(word)), "{config}: {text}");
        }
    }
    assert_eq!(run(hayate().arg("--nonsense")).status.code(), Some(2));
    assert_eq!(run(hayate().args(["-c", "not-there.json"])).status.code(), Some(1));
}

#[test]
fn check_config_notes_what_replies_lack_and_what_monitors_refuse() {
    let folder = Folder::new();
    for (config, note, warning) in [
        (json!({}), true, false),
        (json!({"announce": {"keep_peer_ids": true}}), false, false),
        (json!({"http": {"addr": ""}}), false, false),
        (json!({"mode": "private"}), false, false),
        (json!({"intervals": {"announce": 299, "min_announce": 200}}), true, true),
        (json!({"intervals": {"announce": 10501, "peer_inactivity": "6h"}}), true, true),
    ] {
        let path = folder.write("tracker.json", &config.to_string());
        let output = run(hayate().arg("check-config").arg("-c").arg(&path));
        assert!(output.status.success(), "{config}");
        let text = stderr(&output);
        assert_eq!(text.contains("announce.keep_peer_ids is off: replies in list form"), note, "{text}");
        assert_eq!(
            text.contains("warning: intervals.announce, with announce_drift, is not"),
            warning,
            "{text}"
        );
    }
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
    for (server, port) in [("udp", first.port), ("http", first.port), ("metrics", first.metrics_port)] {
        let folder = Folder::new();
        let mut config = json!({"udp": {"addr": ""}, "http": {"addr": ""}, "metrics": {"addr": ""}});
        let address = format!("127.0.0.1:{port}");
        config[server]["addr"] = address.clone().into();
        let path = folder.write("tracker.json", &config.to_string());
        let output = run(hayate().arg("-c").arg(&path));
        assert_eq!(output.status.code(), Some(1), "{server}");
        assert!(stderr(&output).contains(&address), "{server}");
    }
}

#[test]
fn no_filter_hides_why_the_process_ends_and_the_cause_is_logged_once() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for filter in ["off", "hyper=debug", "error"] {
        let mut command = hayate();
        command.env("RUST_LOG", filter).env("HAYATE__UDP__ADDR", "").env("HAYATE__METRICS__ADDR", "");
        let output = run(command.current_dir(Folder::new().path()).env("HAYATE__HTTP__ADDR", &address));
        assert_eq!(output.status.code(), Some(1), "{filter}");
        let text = stderr(&output);
        assert!(text.contains(&address), "{filter}: {text}");
        assert_eq!(text.matches("os error 98").count(), 1, "{filter}: {text}");
    }
}

#[test]
fn an_empty_folder_is_enough_for_any_user_and_the_log_names_what_starts() {
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
    let mut daemon = Daemon::start_command(folder, port, metrics_port, &mut command);
    assert_eq!(UdpClient::connect("127.0.0.1", daemon.v4()).announce(b'A', 7001, 9, 2).0, 1);
    assert_eq!(fetch(daemon.v6(), &announce_target('A', 7002, "&left=9")).peers().len(), 1);
    let key = std::fs::metadata(daemon.folder.path().join("udp.key")).unwrap();
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
    let log = daemon.log();
    let position = |text: &str| log.iter().position(|line| line.contains(&format!("\"msg\":\"{text}")));
    let starts = [
        "starting metrics server",
        "starting storage",
        "started storage",
        "starting tracker logic: mode open",
        "starting HTTP gateway",
        "starting UDP server",
    ];
    let positions: Vec<usize> = starts.iter().map(|text| position(text).expect(text)).collect();
    assert!(positions.is_sorted(), "{log:#?}");
    // The buffers that the kernel grants depend on the machine.
    let known = ["built-in defaults", "receive buffer"];
    let unknown =
        |line: &&String| !line.contains("\"info\"") && !known.iter().any(|text| line.contains(text));
    assert_eq!(log.iter().find(unknown), None);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
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
    // Each thread has its own privileges.
    for task in std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap() {
        // A thread of the start may have ended by now.
        let Ok(status) = std::fs::read_to_string(task.unwrap().path().join("status")) else { continue };
        let value = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
        assert_eq!((value("CapBnd:"), value("NoNewPrivs:")), ("0000000000000000", "1"), "{status}");
    }
    assert_eq!(UdpClient::connect("127.0.0.1", daemon.v4()).scrape(b'A'), [0, 0, 0]);
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_log("\"reloaded\"", 1);
}

#[test]
fn what_a_first_run_as_root_has_left_is_named_with_its_owner_and_the_command() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can drop privileges");
        return;
    }
    let folder = Folder::new();
    std::os::unix::fs::chown(folder.path(), Some(65534), Some(65534)).unwrap();
    for name in ["hayate.lock", "hayate.db"] {
        let path = folder.write(name, "");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    }
    let config = json!({"privileges": {"user": "nobody", "group": "nogroup"}, "udp": {"addr": ""},
        "http": {"addr": ""}, "metrics": {"addr": ""}, "state_dir": "."});
    let path = folder.write("tracker.json", &config.to_string());
    let output = run(hayate().arg("-c").arg(&path));
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    let words = [
        "belongs to root (mode 600)",
        "user nobody",
        "as root: chown nobody:nogroup ",
        "/hayate.db",
        "/hayate.lock",
    ];
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
    assert!(!text.contains("set state_dir"), "{text}");
}

#[test]
fn files_that_are_pipes_or_devices_are_refused_without_waiting() {
    let folder = Folder::new();
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (key, config) in [
        ("access.path", json!({"access": {"mode": "deny", "path": "pipe"}})),
        ("database.dsn_file", json!({"database": {"dsn_file": "pipe"}})),
        ("udp.private_key_file", json!({"udp": {"private_key_file": "pipe"}})),
        ("admin.token_file", json!({"admin": {"token_file": "pipe"}})),
        (
            "http.tls_cert_path",
            json!({"http": {"https_addr": "127.0.0.1:1", "tls_cert_path": "pipe",
            "tls_key_path": "pipe"}}),
        ),
    ] {
        let path = folder.write("tracker.json", &config.to_string());
        let output = run(hayate().arg("check-config").arg("-c").arg(&path));
        assert_eq!(output.status.code(), Some(1), "{key}");
        let text = stderr(&output);
        for word in [key, "/pipe", "this is a pipe, and only a regular file is read"] {
            assert!(text.contains(word), "{text}");
        }
    }
    for file in [&pipe, std::path::Path::new("/dev/zero")] {
        for command in [&["check-config", "-c"][..], &["import-config"], &["import-lists"]] {
            let output = run(hayate().args(command).arg(file));
            assert_eq!(output.status.code(), Some(1), "{command:?}");
            assert!(stderr(&output).contains("only a regular file is read"), "{}", stderr(&output));
        }
    }
}

#[test]
fn line_ends_of_every_system_are_read_and_check_config_reports_the_size_of_a_list() {
    let folder = Folder::new();
    let hashes = ["41".repeat(20), "42".repeat(20), "43".repeat(32)];
    let path = folder.write("tracker.json", "\u{feff}{\"access\": {\"mode\": \"deny\", \"path\": \"list\"}}");
    for end in ["\n", "\r\n", "\r"] {
        folder.write("list", &format!("\u{feff}{}", hashes.join(end)));
        let output = run(hayate().arg("check-config").arg("-c").arg(&path));
        assert!(output.status.success(), "{end:?}");
        let text = stderr(&output);
        assert!(text.contains("3 torrents read from") && text.contains("1 of them have 64 digits"), "{text}");
        assert!(!text.contains("warning"), "{text}");
    }
    folder.write("list", "# none\r");
    let output = run(hayate().arg("check-config").arg("-c").arg(&path));
    assert!(output.status.success());
    assert!(
        stderr(&output).contains("warning: access.path: ")
            && stderr(&output).contains("no torrent is denied")
    );
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
fn e2e() {
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
    // Also if claimed addresses count; and an empty URL sends nothing.
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
