//! Files, command line and logs (`rules/operations.md#configuration`, `rules/operations.md#command-line`).

use std::process::{Command, Output};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::{Daemon, Folder, UdpClient, announce_target, fetch, hayate};

fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

/// Returns the effective configuration of a file.
fn printed(folder: &Folder, name: &str, text: &str) -> Value {
    let path = folder.write(name, text);
    let output = run(hayate().arg("print-config").arg("-c").arg(path));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn tracker_json_and_yaml() {
    let folder = Folder::new();
    let json = printed(
        &folder,
        "t.json",
        r#"{"intervals": {"announce": 2400, "min_announce": "1.5m"}, "prehooks": [], "http": {}}"#,
    );
    assert_eq!(
        (&json["intervals"]["announce"], &json["intervals"]["min_announce"]),
        (&json!(2400), &json!(90))
    );
    for (name, text) in [
        ("t.yaml", "---\nintervals:\n  announce: 40m\n  min_announce: 90\nprehooks:\nhttp:\n"),
        ("t.yml", "intervals: {announce: 2400, min_announce: '1m30s'}\n"),
    ] {
        assert_eq!(printed(&folder, name, text), json, "{name}");
    }
    for (name, text, words) in [
        ("bogus.json", r#"{"udp": {"bogus": 1}}"#, &["bogus", "udp"][..]),
        ("wrong.json", r#"{"udp": {"workers": "many"}}"#, &["udp.workers", "many"]),
        ("wrong.yaml", "udp: 7\n", &["udp", "a block of keys"]),
        ("zero.yaml", "intervals: {announce: 0}\n", &["intervals.announce", "0"]),
        ("reference.yaml", "chihaya:\n  announce_interval: 30m\n", &["import-config"]),
        (
            "digits.yaml",
            "prehooks: [{name: client approval, options: {whitelist: [010203]}}]\n",
            &["whitelist"],
        ),
    ] {
        let path = folder.write(name, text);
        let output = run(hayate().arg("-c").arg(path));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{name}: {stderr}");
        assert!(stderr.contains(name), "{name}: {stderr}");
        assert!(words.iter().all(|word| stderr.contains(word)), "{name}: {stderr}");
    }
}

#[test]
fn cli_and_logs() {
    let folder = Folder::new();
    folder.write("t.json", "{}");
    for reference in ["$HAYATE_TEST_X/t.json", "${HAYATE_TEST_X}/t.json"] {
        let mut command = hayate();
        command.env("HAYATE_TEST_X", folder.path()).args(["check-config", "--config", reference]);
        assert!(run(&mut command).status.success(), "{reference}");
    }
    let output = run(hayate().args(["--config", "nowhere/t.json"]));
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("failed to read config: nowhere/t.json"), "{stderr}");
    assert!(!stderr.contains('\x1b'), "no colours in a pipe");
    assert_eq!(run(hayate().arg("--no-such-flag")).status.code(), Some(2));
    assert!(run(hayate().arg("--version")).stdout.starts_with(b"hayate "));

    let secrets =
        ["secret-of-the-udp-ids", "secret-of-the-admin-api", "secret-in-a-query", "secret-in-a-path"];
    folder.write("token", secrets[1]);
    let config = json!({
        "udp": {"private_key": secrets[0]}, "admin": {"token_file": "token"},
        "http": {"announce_routes": ["/announce", "/:passkey/announce"]},
    });
    let mut daemon = Daemon::start_in(folder, config, hayate().arg("--debug"));
    UdpClient::connect("127.0.0.1", daemon.v4()).scrape(b'a');
    fetch(daemon.v4(), &announce_target('a', 7001, &format!("&jwt={}", secrets[2])));
    fetch(daemon.v4(), &format!("/{}{}", secrets[3], announce_target('a', 7001, "&left=%zz")));
    daemon.page(&format!("/{}/access/list", secrets[1]));
    daemon.page(&format!("/{}x/access/list", secrets[1]));
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_log("\"reloaded\"", 1);
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait().success());
    for line in daemon.log() {
        let object: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
        for key in ["time", "level", "msg"] {
            assert!(object[key].is_string(), "{line}");
        }
        assert!(secrets.iter().all(|secret| !line.contains(secret)), "{line}");
    }
}
