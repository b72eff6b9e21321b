//! Every vector of `tests/vectors/vectors.json` against the running daemon.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::harness::Daemon;

/// Plays the vectors whose name contains `only`, or all that need no long wait. Returns what was printed.
fn play(daemon: &Daemon, only: Option<&str>) -> String {
    let [v4, v6] = [daemon.v4(), daemon.v6()].map(|address: SocketAddr| address.to_string());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/run_vectors.py");
    let mut command = Command::new("python3");
    command.arg(script).args(["-v", "--udp4", &v4, "--http4", &v4, "--udp6", &v6, "--http6", &v6]);
    if let Some(only) = only {
        command.args(["--timing", "--only", only]);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "a vector failed");
    text
}

fn passed(text: &str) -> usize {
    text.lines().filter(|line| line.starts_with("PASS ")).count()
}

fn warned(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.strip_prefix("WARN ")?.split_whitespace().next()).collect()
}

#[test]
fn every_vector_passes_against_a_fresh_daemon_with_default_settings() {
    let daemon = Daemon::start(json!({}));
    let text = play(&daemon, None);
    // The two excepted need a setting (next test), and a parser that takes raw octets, which hayate
    // refuses (`rules/http.md#target-forms`).
    let mut excepted = warned(&text);
    excepted.sort_unstable();
    assert_eq!(excepted, ["http_peer_dict", "http_raw_high_bytes"]);
    assert_eq!(passed(&text), 138);
}

#[test]
fn the_vector_of_the_list_form_passes_where_peer_ids_are_kept() {
    let daemon = Daemon::start(json!({"announce": {"keep_peer_ids": true}}));
    let text = play(&daemon, Some("http_peer_dict"));
    assert_eq!((passed(&text), warned(&text).len()), (2, 0));
}

#[test]
fn a_connection_id_is_good_after_110_seconds() {
    let daemon = Daemon::start(json!({}));
    assert_eq!(passed(&play(&daemon, Some("udp_cid_good_after_110s"))), 1);
}

#[test]
fn a_connection_id_is_refused_after_301_seconds() {
    let daemon = Daemon::start(json!({}));
    assert_eq!(passed(&play(&daemon, Some("udp_cid_refused_after_301s"))), 1);
}
