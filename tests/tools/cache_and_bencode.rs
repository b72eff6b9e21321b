//! `hayate-cc` and `hayate-bencode` as programs: arguments, files in the current folder, exit codes.

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::{Daemon, Folder, UdpClient, hayate, peers_of};

const REFERENCE: [(&str, &[u8]); 2] = [
    ("torrent-cache.bin", include_bytes!("../kit/fixtures/reference/torrent-cache.bin")),
    ("user-cache.bin", include_bytes!("../kit/fixtures/reference/user-cache.bin")),
];
const TORRENTS: &str = include_str!("../kit/fixtures/reference/torrent-cache.json");
const USERS: &str = include_str!("../kit/fixtures/reference/user-cache.json");

/// Runs `hayate-cc` in a folder. Returns its exit code, standard output and standard error.
fn cc(folder: &Folder, args: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hayate-cc"));
    output_texts(&command.args(args.split_whitespace()).current_dir(folder.path()).output().unwrap())
}

/// Runs `hayate-bencode` with `input`. Returns its exit code, standard output and standard error.
fn bencode(args: &str, input: &[u8]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hayate-bencode"));
    let command = command.args(args.split_whitespace()).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It ends without reading if it does not know the sub-command.
    _ = child.stdin.take().unwrap().write_all(input);
    output_texts(&child.wait_with_output().unwrap())
}

fn output_texts(output: &Output) -> (Option<i32>, String, String) {
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn read(folder: &Folder, name: &str) -> Vec<u8> {
    std::fs::read(folder.path().join(name)).unwrap()
}

#[test]
fn a_site_is_converted_from_the_reference_tracker_and_back() {
    let folder = Folder::new();
    for (name, octets) in REFERENCE {
        std::fs::write(folder.path().join(name), octets).unwrap();
    }
    // The reference tracker forgets the down multiplier of one torrent and of one user.
    let corrected = |json: &str| json.replacen("\"DownMultiplier\": 0.5", "\"DownMultiplier\": 2", 1);
    assert_eq!(cc(&folder, "dump").0, Some(0));
    assert_eq!(read(&folder, "torrent-cache.json"), corrected(TORRENTS).as_bytes());
    assert_eq!(read(&folder, "user-cache.json"), corrected(USERS).as_bytes());
    for (name, octets) in REFERENCE {
        assert_eq!(read(&folder, name), octets, "{name} is unchanged");
        std::fs::remove_file(folder.path().join(name)).unwrap();
    }
    let (code, stdout, stderr) = cc(&folder, "restore");
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert_eq!(stdout, "3 torrents, 5 peers, 3 users restored to hayate-cache.bin\n");
    assert_eq!(cc(&folder, "export").0, Some(0));
    for (name, octets) in REFERENCE {
        let exported = read(&folder, name);
        // Records may be in another order.
        let sorted = |octets: &[u8]| {
            let mut octets = octets.to_vec();
            octets.sort_unstable();
            octets
        };
        assert_eq!(sorted(&exported), sorted(octets), "{name}");
    }
    assert_eq!(cc(&folder, "anonymize").0, Some(0));
    std::fs::rename(
        folder.path().join("hayate-cache-anonymized.bin"),
        folder.path().join("hayate-cache.bin"),
    )
    .unwrap();
    assert_eq!(cc(&folder, "dump").0, Some(0));
    let anonymous = [read(&folder, "torrent-cache.json"), read(&folder, "user-cache.json")].concat();
    let anonymous = String::from_utf8(anonymous).unwrap();
    for trace in ["127.0.0.1", "aLk3vXy9QdT7mWc2ZpRfH5sJb8NeGu41", "\"UserID\": 4", "\"TrackerHide\": true"] {
        assert!(!anonymous.contains(trace), "{trace}: {anonymous}");
    }
}

#[test]
fn errors_are_one_line_and_exit_1_and_usage_is_exit_0() {
    let folder = Folder::new();
    let (code, stdout, stderr) = cc(&folder, "dump");
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(
        stderr.starts_with("hayate-cc: there is no cache here") && stderr.lines().count() == 1,
        "{stderr}"
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    for args in ["", "x", "-h"] {
        let (code, stdout, stderr) = cc(&folder, args);
        assert!(
            code == Some(0) && stdout.contains("Usage: hayate-cc dump") && stderr.is_empty(),
            "{stdout}{stderr}"
        );
        let (code, stdout, stderr) = bencode(args, b"");
        assert!(
            code == Some(0) && stdout.contains("Usage: hayate-bencode decode") && stderr.is_empty(),
            "{stdout}"
        );
    }
}

#[test]
fn bencode_is_read_and_written_from_standard_input() {
    let text = b"d4:name3:<&>1:ai-123456789012345678901e1:zl2:\xff\xfeleee rest";
    let json = "{\n\t\"a\": -123456789012345678901,\n\t\"name\": \"\\u003c\\u0026\\u003e\",\n\
                \t\"z\": [\n\t\t\"\\u0000hex:fffe\",\n\t\t[]\n\t]\n}\n";
    assert_eq!(bencode("decode", text), (Some(0), json.into(), String::new()));
    let (code, back, _) = bencode("encode", json.as_bytes());
    let sorted = "d1:ai-123456789012345678901e4:name3:<&>1:zl2:\u{fffd}\u{fffd}leee";
    assert_eq!((code, back.as_str()), (Some(0), sorted));
    assert_eq!(bencode("encode", b"{\"b\":1}"), (Some(0), "d1:bi1ee".into(), String::new()));
    for (args, input) in [("encode", "[0.5]"), ("decode", "i01e"), ("encode", "null"), ("decode", "")] {
        let (code, stdout, stderr) = bencode(args, input.as_bytes());
        assert_eq!((code, stdout.as_str(), stderr.lines().count()), (Some(1), "", 1), "{input}: {stderr}");
        assert!(stderr.starts_with("hayate-bencode: "), "{stderr}");
    }
}

/// Returns the entry of torrent `letter` in `swarms.json`.
fn swarm(json: &serde_json::Value, letter: u8) -> &serde_json::Value {
    &json[format!("{letter:02x}").repeat(20)]
}

#[test]
fn swarms_of_one_daemon_are_dumped_and_restored_into_another() {
    let mut daemon = Daemon::start(json!({}));
    let client = UdpClient::connect("127.0.0.1", daemon.v4());
    let v6_client = UdpClient::connect("::1", daemon.v6());
    client.announce(b'A', 7001, 0, 2);
    client.announce(b'A', 7002, 9, 2);
    client.announce(b'A', 7003, 9, 2);
    v6_client.announce(b'A', 7004, 9, 2);
    v6_client.announce(b'B', 7005, 0, 2);
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait().success(), "{:#?}", daemon.log());
    let (code, stdout, stderr) = cc(&daemon.folder, "dump");
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert_eq!(stdout, "2 torrents, 5 peers dumped to swarms.json\n");
    assert!(!daemon.folder.path().join("torrent-cache.json").exists());
    let dumped = read(&daemon.folder, "swarms.json");
    let json: serde_json::Value = serde_json::from_slice(&dumped).unwrap();
    let peers = |letter, role: &str| -> Vec<_> {
        let peers = swarm(&json, letter)[role].as_array().unwrap().iter();
        peers.map(|peer| peer["Addr"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(peers(b'A', "Leechers"), ["127.0.0.1:7002", "127.0.0.1:7003", "[::1]:7004"]);
    assert_eq!(peers(b'A', "Seeders"), ["127.0.0.1:7001"]);
    assert_eq!(peers(b'B', "Seeders"), ["[::1]:7005"]);
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let seen = swarm(&json, b'A')["Seeders"][0]["LastAnnounce"].as_u64().unwrap();
    assert!((unix - 60..=unix).contains(&seen), "{seen}, and it is {unix}");
    // Another folder, another store: it gets nothing but the JSON.
    let folder = Folder::new();
    let with_count = String::from_utf8(dumped).unwrap().replacen("\"Completed\": 0", "\"Completed\": 11", 1);
    folder.write("swarms.json", &with_count);
    assert_eq!(cc(&folder, "restore").0, Some(0));
    assert_eq!(cc(&folder, "dump").0, Some(0));
    assert_eq!(String::from_utf8(read(&folder, "swarms.json")).unwrap(), with_count);
    let (code, stdout, stderr) = cc(&folder, "export");
    assert_eq!((code, stdout.as_str(), stderr.lines().count()), (Some(1), "", 1), "{stderr}");
    assert!(stderr.starts_with("hayate-cc: hayate-cache.bin: it holds swarms only"), "{stderr}");
    // With a database the counts would come from there.
    let daemon = Daemon::start_in(folder, json!({"database": {"dsn": ""}}), &mut hayate());
    assert_eq!(daemon.logged("2 torrents and 5 peers; 0 had expired"), 1, "{:#?}", daemon.log());
    let client = UdpClient::connect("127.0.0.1", daemon.v4());
    let v6_client = UdpClient::connect("::1", daemon.v6());
    assert_eq!((client.scrape(b'A'), v6_client.scrape(b'B')), ([1, 11, 3], [1, 0, 0]));
    // Restored peers are known: these announces add none to the swarm.
    let (leechers, seeders, peers) = client.announce(b'A', 7003, 9, 0);
    let expected = ["127.0.0.1:7001", "127.0.0.1:7002"].map(|peer| peer.parse().unwrap());
    assert_eq!((leechers, seeders, peers_of(&peers, 6)), (3, 1, expected.to_vec()));
    assert_eq!(v6_client.announce(b'A', 7004, 9, 0), (3, 1, Vec::new()));
}
