//! The admin API: access lists, exports and reports, over HTTP and by command.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::{
    Daemon, Folder, Response, UdpClient, announce_target, ask, eventually, fetch, hayate, merge,
    percent_encoded,
};
use crate::kit::site_database::SiteDatabase;

const TOKEN: &str = "sesame-open-sesame";

fn hex(letter: char) -> String {
    format!("{:02x}", letter as u8).repeat(20)
}

/// Starts a daemon with a token, and with `list` as the content of the access list.
fn daemon(list: &str, changes: Value) -> Daemon {
    let folder = Folder::new();
    folder.write("list", list);
    start_in(folder, changes)
}

fn start_in(folder: Folder, changes: Value) -> Daemon {
    folder.write("token", &format!("{TOKEN}\n"));
    let mut config = json!({"admin": {"token_file": "token"}, "access": {"path": "list"}});
    merge(&mut config, changes);
    Daemon::start_in(folder, config, &mut hayate())
}

fn restart(mut daemon: Daemon, changes: Value) -> Daemon {
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait().success());
    start_in(std::mem::replace(&mut daemon.folder, Folder::new()), changes)
}

/// Asks the admin API. Returns status and text of the response.
fn ask_admin(daemon: &Daemon, what: &str) -> (u16, String) {
    let address = SocketAddr::from(([127, 0, 0, 1], daemon.metrics_port));
    let Response { status, body, .. } = fetch(address, &format!("/{TOKEN}/{what}"));
    (status, String::from_utf8(body).unwrap())
}

fn report(daemon: &Daemon, what: &str) -> Value {
    let (status, text) = ask_admin(daemon, what);
    assert_eq!(status, 200, "{what}: {text}");
    serde_json::from_str(&text).unwrap()
}

fn admits(daemon: &Daemon, letter: char) -> bool {
    let reply = fetch(daemon.v4(), &announce_target(letter, 7000, "&left=7"));
    !String::from_utf8_lossy(&reply.body).contains("unregistered torrent")
}

fn list_file(daemon: &Daemon) -> String {
    std::fs::read_to_string(daemon.folder.path().join("list")).unwrap()
}

fn reload(daemon: &Daemon) {
    let before = daemon.logged("\"reloaded\"");
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_log("\"reloaded\"", before + 1);
}

#[test]
fn a_list_is_changed_at_once_and_a_reload_and_a_restart_keep_it() {
    let allow = json!({"access": {"mode": "allow"}});
    let daemon = daemon(&format!("# mine\n{} # the first\n", hex('a')), allow.clone());
    let (a, b, c) = (hex('a'), hex('b'), hex('c'));
    assert!(admits(&daemon, 'a') && !admits(&daemon, 'b'));
    for (what, text) in [
        (format!("access/add?info_hash={b}&info_hash={c}"), format!("added: {b}\nadded: {c}\n")),
        (format!("access/add?info_hash={b}"), format!("unchanged: {b} is on the list\n")),
        (format!("access/remove?info_hash={a}"), format!("removed: {a}\n")),
        (format!("access/remove?info_hash={a}"), format!("unchanged: {a} is not on the list\n")),
        ("access/list".to_owned(), format!("{b}\n{c}\n")),
    ] {
        assert_eq!(ask_admin(&daemon, &what), (200, text));
    }
    let holds = |daemon: &Daemon| ['a', 'b', 'c', 'd'].map(|letter| admits(daemon, letter));
    assert_eq!(holds(&daemon), [false, true, true, false]);
    let udp = UdpClient::connect("127.0.0.1", daemon.v4());
    assert_eq!(udp.announce(b'b', 7001, 7, 0).0, 2, "over UDP too");
    assert_eq!(list_file(&daemon), format!("# mine\n{b}\n{c}\n"));
    daemon.wait_for_log(&format!("access list by 127.0.0.1: added {b}, {c}"), 1);
    assert_eq!(daemon.logged(TOKEN), 0, "the token is never logged");
    // What an operator writes into the file counts from the next reload on, whatever the API changes
    // meanwhile.
    std::fs::write(daemon.folder.path().join("list"), format!("{}{}\n", list_file(&daemon), hex('d')))
        .unwrap();
    assert_eq!(ask_admin(&daemon, &format!("access/remove?info_hash={c}")).0, 200);
    assert_eq!(holds(&daemon), [false, true, false, false]);
    reload(&daemon);
    assert_eq!(holds(&daemon), [false, true, false, true]);
    assert_eq!(ask_admin(&daemon, &format!("access/add?info_hash={}", c.to_uppercase())).0, 200);
    let daemon = restart(daemon, allow);
    assert_eq!(holds(&daemon), [false, true, true, true]);
}

#[test]
fn lists_that_deny_and_those_of_mode_listed_are_changed_too() {
    let deny = daemon(&hex('a'), json!({"access": {"mode": "deny"}}));
    assert_eq!(ask_admin(&deny, &format!("access/add?info_hash={}", hex('b'))).0, 200);
    assert!(!admits(&deny, 'a') && !admits(&deny, 'b') && admits(&deny, 'c'));
    assert_eq!(ask_admin(&deny, &format!("access/remove?info_hash={}", hex('a'))).0, 200);
    assert!(admits(&deny, 'a'));
    let listed = daemon("", json!({"mode": "listed", "database": {"dsn": ""}}));
    assert!(!admits(&listed, 'a'));
    assert_eq!(ask_admin(&listed, &format!("access/add?info_hash={}", hex('a'))).0, 200);
    assert!(admits(&listed, 'a'));
}

#[test]
fn what_cannot_be_changed_is_reported_and_nothing_changes() {
    let allow = daemon(&format!("{}\n", hex('a')), json!({"access": {"mode": "allow"}}));
    for (what, words) in [
        ("access/add", "failure: info_hash is missing"),
        ("access/add?info_hash=xyz", "failure: info_hash is neither 20 octets nor 40 hexadecimal digits"),
        (&format!("access/add?info_hash={}&info_hash=7", hex('b')), "failure: info_hash is neither"),
    ] {
        let (status, text) = ask_admin(&allow, what);
        assert_eq!(status, 400, "{what}");
        assert!(text.starts_with(words), "{what}: {text}");
    }
    // Not even root can write there.
    std::fs::create_dir(allow.folder.path().join("list.draft")).unwrap();
    let (status, text) = ask_admin(&allow, &format!("access/add?info_hash={}", hex('b')));
    assert_eq!(status, 503);
    assert!(text.contains("list: ") && text.contains("the list in force is unchanged"), "{text}");
    assert!(admits(&allow, 'a') && !admits(&allow, 'b'));
    assert_eq!(list_file(&allow), format!("{}\n", hex('a')));
    std::fs::remove_file(allow.folder.path().join("list")).unwrap();
    assert_eq!(ask_admin(&allow, &format!("access/remove?info_hash={}", hex('a'))).0, 503);
    assert!(admits(&allow, 'a'));

    let off = daemon("", json!({"access": {"mode": "off"}}));
    for what in ["access/list", &format!("access/add?info_hash={}", hex('b'))] {
        assert_eq!(
            ask_admin(&off, what),
            (400, "failure: access.mode is off: there is no list\n".to_owned())
        );
    }
    let nowhere = daemon("", json!({"mode": "listed", "access": {"path": ""}}));
    let (status, text) = ask_admin(&nowhere, &format!("access/add?info_hash={}", hex('b')));
    assert_eq!((status, text.contains("access.path is empty")), (400, true), "{text}");
}

#[test]
fn an_upgrade_that_is_refused_leaves_the_list_to_be_changed() {
    let daemon = daemon("", json!({"access": {"mode": "allow"}}));
    let path = daemon.folder.path().join("tracker.json");
    let good = std::fs::read_to_string(&path).unwrap();
    daemon.rewrite_config(|config| config["udp"]["workers"] = json!(-1));
    daemon.signal(Signal::SIGUSR2);
    daemon.wait_for_log("upgrade refused", 1);
    std::fs::write(path, good).unwrap();
    assert_eq!(ask_admin(&daemon, &format!("access/add?info_hash={}", hex('a'))).0, 200);
    assert!(admits(&daemon, 'a'));
}

#[test]
fn a_wrong_token_is_answered_like_anything_unknown() {
    let daemon = daemon("", json!({"access": {"mode": "allow"}}));
    let address = SocketAddr::from(([127, 0, 0, 1], daemon.metrics_port));
    let unknown = fetch(address, "/nothing");
    assert_eq!(unknown.status, 404);
    for what in ["access/list", "access/add", "export", "clients", "torrents", "offenders"] {
        for token in ["sesame-open-sesam", "sesame-open-sesame7", ""] {
            let response = fetch(address, &format!("/{token}/{what}"));
            assert_eq!((response.status, &response.body), (404, &unknown.body), "{token}/{what}");
        }
        assert_eq!(fetch(daemon.v4(), &format!("/{TOKEN}/{what}")).status, 404, "not at the gateway");
    }
    // The paths of mode private do not exist here.
    for what in ["update?action=add_user", "explain?user=1", "access", "access/", "export/"] {
        assert_eq!(ask_admin(&daemon, what).0, 404, "{what}");
    }
}

#[test]
fn commands_reach_the_running_tracker() {
    let daemon = daemon("", json!({"access": {"mode": "allow"}, "metrics": {"clients": true}}));
    let (a, b) = (hex('a'), hex('b'));
    let many: Vec<String> = (0..250).map(|number| format!("{number:040x}")).collect();
    let mut add_many = vec!["access", "add"];
    add_many.extend(many.iter().map(String::as_str));
    for (arguments, status, words) in [
        (&["access", "add", &a, &b][..], 0, format!("added: {a}\nadded: {b}\n")),
        (&["access", "add", &a], 0, format!("unchanged: {a} is on the list\n")),
        (&["access", "remove", &a], 0, format!("removed: {a}\n")),
        (&["access", "list"], 0, format!("{b}\n")),
        (&["access", "add", "xyz"], 2, "40 hexadecimal digits".to_owned()),
        (&["access", "add"], 2, "INFO_HASHES".to_owned()),
        (&add_many, 0, format!("added: {}\n", many[249])),
        (&["export"], 0, "torrents written to ".to_owned()),
        (&["--json", "export"], 0, "\"torrents\":".to_owned()),
        (&["report", "clients"], 0, "all others: 0".to_owned()),
        (&["report", "torrents", "--top", "7"], 0, "none".to_owned()),
        (&["--json", "report", "torrents"], 0, "{\"torrents\":[]}".to_owned()),
        (&["report", "torrents", "--top", "0"], 2, "0".to_owned()),
        (&["report", "offenders"], 1, "limits.per_minute is 0".to_owned()),
        (&["explain", "1", &a], 1, "or explain does not exist in its mode".to_owned()),
    ] {
        let (code, output) = daemon.run_command(arguments);
        assert_eq!(code, Some(status), "{arguments:?}: {output}");
        assert!(output.contains(&words), "{arguments:?}: {output}");
        assert!(!output.contains(TOKEN), "{output}");
    }
    assert_eq!(list_file(&daemon).lines().count(), 251);
    daemon.folder.write("token", "sesame-open-another");
    let (code, output) = daemon.run_command(&["access", "list"]);
    assert_eq!((code, output.contains("the token is wrong")), (Some(1), true), "{output}");
    daemon.rewrite_config(|config| config["admin"]["token_file"] = json!(""));
    let (code, output) = daemon.run_command(&["export"]);
    assert_eq!((code, output.contains("admin.token_file is not set")), (Some(1), true), "{output}");
}

/// Returns the export of a daemon, by info_hash.
fn exported(path: &PathBuf) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(path).unwrap();
    let mut lines = text.lines();
    let header = "info_hash,seeders_ipv4,leechers_ipv4,seeders_ipv6,leechers_ipv6,completed";
    assert_eq!(lines.next(), Some(header));
    let torrents: Vec<_> = lines.map(|line| line.split_once(',').unwrap()).collect();
    let unique: BTreeMap<_, _> =
        torrents.iter().map(|&(hash, rest)| (hash.to_owned(), rest.to_owned())).collect();
    assert_eq!(unique.len(), torrents.len(), "each torrent once");
    unique
}

/// Torrent a has 2 seeders and 3 leechers over IPv4, 1 and 2 over IPv6, and one of them has finished;
/// torrent b has one leecher; of torrent c a finished download is all that is left.
fn populate(daemon: &Daemon) {
    let (v4, v6) = (UdpClient::connect("127.0.0.1", daemon.v4()), UdpClient::connect("::1", daemon.v6()));
    for (client, seeders, leechers) in [(&v4, 1, 4), (&v6, 1, 2)] {
        (0..seeders).for_each(|peer| _ = client.announce(b'a', 7000 + peer, 0, 0));
        (0..leechers).for_each(|peer| _ = client.announce(b'a', 7100 + peer, 7, 0));
    }
    v4.announce(b'a', 7100, 0, 1);
    v4.announce(b'b', 7000, 7, 0);
    for (left, event) in [(7, 2), (0, 1), (0, 3)] {
        v4.announce(b'c', 7000, left, event);
    }
}

#[test]
fn an_export_has_all_torrents_and_replaces_the_file_as_a_whole() {
    let daemon = daemon("", json!({"access": {"path": ""}, "export": {"path": "all.csv"}}));
    populate(&daemon);
    let path = daemon.folder.path().join("all.csv");
    std::fs::write(&path, "old").unwrap();
    let old = std::fs::File::open(&path).unwrap();
    let summary = report(&daemon, "export");
    assert_eq!((&summary["path"], &summary["torrents"]), (&json!(path.to_str().unwrap()), &json!(3)));
    assert!(summary["seconds"].as_f64().unwrap() < 10.0);
    let expected = [("a", "2,3,1,2,1"), ("b", "0,1,0,0,0"), ("c", "0,0,0,0,1")];
    let expected = expected.map(|(letter, rest)| (hex(letter.chars().next().unwrap()), rest.to_owned()));
    assert_eq!(exported(&path), BTreeMap::from(expected));
    let metadata = std::fs::metadata(&path).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o640);
    assert_ne!(metadata.ino(), old.metadata().unwrap().ino(), "readers of the old file keep it");
    assert_eq!((daemon.metric("exports_total"), daemon.metric("export_torrents")), (1, 3));
    assert!(daemon.metric("export_timestamp_seconds") > 1_700_000_000);
    daemon.wait_for_log("export by 127.0.0.1: 3 torrents to ", 1);
    // If the disk refuses, the old file stays.
    let draft = daemon.folder.path().join("all.csv.draft");
    std::fs::create_dir(&draft).unwrap();
    let (status, text) = ask_admin(&daemon, "export");
    assert_eq!((status, text.starts_with("failure: ")), (503, true), "{text}");
    assert_eq!(exported(&path).len(), 3);
    assert_eq!((daemon.metric("exports_total"), daemon.metric("export_failures_total")), (1, 1));
    assert_eq!(daemon.run_command(&["export"]).0, Some(1));
    daemon.wait_for_log("cannot write an export", 1);
    std::fs::remove_dir(&draft).unwrap();
    assert_eq!(ask_admin(&daemon, "export").0, 200);
    daemon.wait_for_log("exports are written again", 1);
    assert_eq!(daemon.logged("cannot write an export"), 1, "logged once");
}

#[test]
fn exports_are_periodic_once_a_reload_sets_an_interval() {
    let daemon = daemon("", json!({"access": {"path": ""}}));
    populate(&daemon);
    let path = daemon.folder.path().join("export.csv");
    assert!(!path.exists());
    daemon.rewrite_config(|config| config["export"] = json!({"interval": 1}));
    reload(&daemon);
    assert!(eventually(|| daemon.metric("exports_total") >= 2));
    assert_eq!(exported(&path)[&hex('a')], "2,3,1,2,1");
}

#[test]
fn reports_list_clients_torrents_and_offenders() {
    let changes = json!({
        "access": {"path": ""}, "metrics": {"clients": true},
        "limits": {"per_minute": 1, "burst": 20, "answer": "count"}
    });
    let daemon = daemon("", changes);
    populate(&daemon);
    for port in 7000..7003 {
        fetch(daemon.v4(), &announce_target('d', port, "&left=7").replace("-XX0001", "-TR4060"));
    }
    let torrents = report(&daemon, "torrents");
    let first = json!({
        "info_hash": hex('a'), "seeders_ipv4": 2, "leechers_ipv4": 3, "seeders_ipv6": 1, "leechers_ipv6": 2,
        "completed": 1
    });
    assert_eq!(torrents["torrents"][0], first);
    let hashes = |report: &Value| -> Vec<String> {
        let torrents = report["torrents"].as_array().unwrap();
        torrents.iter().map(|torrent| torrent["info_hash"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(hashes(&torrents), [hex('a'), hex('d'), hex('b')], "c has no peers");
    assert_eq!(hashes(&report(&daemon, "torrents?top=2")), [hex('a'), hex('d')]);
    // The last announces of each server are counted when something else comes.
    let counted = |client: &str| {
        UdpClient::connect("127.0.0.1", daemon.v4());
        fetch(daemon.v4(), &announce_target('e', 7000, "&left=7").replace("-XX0001", "-ZZ0000"));
        let clients = report(&daemon, "clients")["clients"].clone();
        let known = clients.as_array().unwrap().iter().find(|known| known["client"] == client).cloned();
        known.map_or(0, |known| known["announces"].as_u64().unwrap())
    };
    assert!(eventually(|| counted("TR4060") == 3 && counted("XX0001") == 13));
    daemon.rewrite_config(|config| config["announce"] = json!({"numwant": 7}));
    reload(&daemon);
    assert_eq!(counted("TR4060"), 3, "a reload forgets nobody");
    let v4 = UdpClient::connect("127.0.0.1", daemon.v4());
    (0..30).for_each(|_| _ = v4.announce(b'b', 7000, 7, 0));
    let offenders = report(&daemon, "offenders?top=1");
    let worst = &offenders["offenders"][0];
    assert_eq!(worst["address"], "127.0.0.1");
    assert!(worst["beyond"].as_u64().unwrap() >= 10 && offenders["beyond"].as_u64().unwrap() >= 10);
    for what in ["torrents?top=0", "torrents?top=1001", "clients?top=x", "offenders?top=-1"] {
        assert_eq!(ask_admin(&daemon, what).0, 400, "{what}");
    }
    let (_, table) = daemon.run_command(&["report", "torrents", "--top", "1"]);
    assert!(table.starts_with("info_hash") && table.contains(&hex('a')) && table.lines().count() == 2);
    let (_, table) = daemon.run_command(&["report", "offenders"]);
    assert!(table.contains("127.0.0.1") && table.contains("requests beyond the limit"), "{table}");
    daemon.rewrite_config(|config| config["metrics"]["clients"] = json!(false));
    reload(&daemon);
    let (status, text) = ask_admin(&daemon, "clients");
    assert_eq!((status, text.contains("metrics.clients is off")), (400, true), "{text}");
}

#[test]
fn a_site_is_exported_and_reported_too() {
    let database = SiteDatabase::sqlite();
    let daemon = database.daemon(json!({"metrics": {"clients": true}}));
    let hash = percent_encoded(&crate::fixture::MUSIC);
    let plain = crate::fixture::PLAIN;
    for (address, left) in [(daemon.v4(), 7), (daemon.v6(), 7)] {
        let more = format!("port=6881&uploaded=0&downloaded=0&left={left}");
        let target = format!("/{plain}/announce?info_hash={hash}&peer_id=-TR2940-000000000001&{more}");
        assert_eq!(fetch(address, &target).status, 200);
    }
    let summary = report(&daemon, "export");
    let rows = exported(&daemon.folder.path().join("export.csv"));
    assert_eq!(summary["torrents"], rows.len());
    let music = hash.replace('%', "");
    assert!(rows[&music].starts_with("0,1,0,1,"), "one peer, reached over both families: {rows:?}");
    let top = report(&daemon, "torrents");
    assert_eq!(top["torrents"][0]["info_hash"], json!(music));
    assert!(!top.to_string().contains(plain));
    let (status, text) = ask_admin(&daemon, &format!("access/add?info_hash={music}"));
    assert_eq!((status, text.contains("access.mode is off")), (400, true), "{text}");
}

/// Returns a list of a million torrents and those of the letters.
fn large_list(letters: &[char]) -> String {
    let mut text = String::with_capacity(42_000_000);
    let mut random = fastrand::Rng::with_seed(7);
    for number in 0..1_000_000_u64 {
        text += &format!("{number:016x}{:024x}\n", random.u64(..));
    }
    letters.iter().for_each(|&letter| text += &(hex(letter) + "\n"));
    text
}

#[test]
fn a_million_torrents_are_reloaded_and_changed_under_announces() {
    let daemon = daemon(&large_list(&['a', 'b']), json!({"access": {"mode": "allow"}}));
    assert!(admits(&daemon, 'a') && admits(&daemon, 'b') && !admits(&daemon, 'c'));
    daemon.folder.write("list", &large_list(&['b', 'c']));
    let (stopping, clients) = (AtomicBool::new(false), ["127.0.0.1"; 2]);
    std::thread::scope(|scope| {
        let announcing = clients.map(|source| {
            let (daemon, stopping) = (&daemon, &stopping);
            scope.spawn(move || {
                let client = UdpClient::connect(source, daemon.v4());
                let request = client.request(1, &crate::harness::announce_rest(b'b', 7000, 7, 0, 0));
                let mut announces = 0;
                while !stopping.load(Ordering::Relaxed) {
                    let reply = ask(&client.socket, &request).expect("an answer");
                    assert_eq!(reply[..4], [0, 0, 0, 1], "the torrent is on both lists");
                    announces += 1;
                }
                announces
            })
        });
        reload(&daemon);
        assert!(!admits(&daemon, 'a') && admits(&daemon, 'b') && admits(&daemon, 'c'));
        let (status, text) = ask_admin(&daemon, &format!("access/add?info_hash={}", hex('d')));
        assert_eq!((status, text), (200, format!("added: {}\n", hex('d'))));
        assert!(admits(&daemon, 'd'));
        assert_eq!(ask_admin(&daemon, &format!("access/remove?info_hash={}", hex('c'))).0, 200);
        assert!(!admits(&daemon, 'c'));
        stopping.store(true, Ordering::Relaxed);
        for client in announcing {
            assert!(client.join().unwrap() > 0);
        }
    });
    let path = daemon.folder.path().join("list");
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1_000_002);
    let (code, output) = daemon.run_command(&["access", "list"]);
    assert_eq!((code, output.lines().count()), (Some(0), 1_000_002));
}
