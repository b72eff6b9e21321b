//! Changes to a site: by command, over HTTP, and directly in the database.

use nix::sys::signal::Signal;
use serde_json::json;

use crate::fixture::{FREE, MUSIC, PLAIN};
use crate::harness::{Daemon, eventually, fetch};
use crate::kit::site_database::{SiteDatabase, TOKEN, target};

fn announce(passkey: &str, hash: &[u8], more: &str) -> String {
    target(passkey, hash, 1, more)
}

fn fetch_text(daemon: &Daemon, target: &str) -> String {
    fetch(daemon.v4(), target).body.escape_ascii().to_string()
}

fn hex(hash: &[u8]) -> String {
    hash.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn both(test: fn(&SiteDatabase)) {
    for database in [SiteDatabase::sqlite(), SiteDatabase::mariadb()] {
        test(&database);
    }
}

fn update(daemon: &Daemon, query: &str) -> (u16, String) {
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], daemon.metrics_port));
    let response = fetch(address, &format!("/{TOKEN}/update?{query}"));
    (response.status, String::from_utf8_lossy(&response.body).into_owned())
}

#[test]
fn a_reload_applies_changes_of_the_database() {
    both(|database| {
        let daemon = database.daemon(json!({}));
        let mut reloads = 0;
        let mut reload = |sql: &str| {
            database.execute(sql);
            daemon.signal(Signal::SIGHUP);
            reloads += 1;
            daemon.wait_for_log("reloaded", reloads);
        };
        assert!(fetch_text(&daemon, &announce(PLAIN, &FREE, "")).contains("incompletei1e"));
        reload("UPDATE users_main SET Enabled = '0' WHERE ID = 1");
        assert!(eventually(
            || fetch_text(&daemon, &announce(PLAIN, &FREE, "")).contains("passkey is invalid")
        ));
        reload("UPDATE users_main SET Enabled = '1' WHERE ID = 1");
        assert!(eventually(|| fetch_text(&daemon, &announce(PLAIN, &FREE, "")).contains("incompletei1e")));
        reload("UPDATE approved_clients SET archived = 1 WHERE id = 1");
        assert!(eventually(|| fetch_text(&daemon, &announce(PLAIN, &FREE, "")).contains("not approved")));
        reload("UPDATE approved_clients SET archived = 0 WHERE id = 1");
        reload("UPDATE torrents SET Status = 2 WHERE ID = 3");
        assert!(eventually(
            || fetch_text(&daemon, &announce(PLAIN, &FREE, "")).contains("(status: 2, left: 7)")
        ));
        reload("DELETE FROM torrents WHERE ID = 3");
        assert!(eventually(|| {
            fetch_text(&daemon, &announce(PLAIN, &FREE, "")).contains("exist8:intervali300e")
        }));
        assert!(eventually(|| daemon.metric("torrents") == 2));
    });
}

#[test]
fn rows_of_users_and_torrents_that_are_gone_are_dropped_and_counted() {
    both(|database| {
        let mut daemon = database.daemon(json!({"intervals": {"flush": 2}}));
        fetch_text(&daemon, &announce(PLAIN, &FREE, ""));
        database.execute("DELETE FROM users_main WHERE ID = 1");
        database.execute("DELETE FROM torrents WHERE ID = 3");
        fetch_text(&daemon, &announce(PLAIN, &FREE, "&uploaded=7"));
        assert!(eventually(|| daemon.metric(r#"rows_without_target{channel="users"}"#) == 1));
        assert!(eventually(|| daemon.metric(r#"rows_without_target{channel="torrents"}"#) >= 1));
        daemon.signal(Signal::SIGTERM);
        assert!(daemon.wait().success());
        assert_eq!(database.query("SELECT count(*) FROM users_main"), "2");
        assert_eq!(database.query("SELECT count(*) FROM torrents"), "2");
    });
}

#[test]
fn commands_work_on_both_stores_beside_a_tracker() {
    both(|database| {
        let daemon = database.daemon(json!({}));
        let hash = "00112233445566778899aabbccddeeff00112233";
        let (status, output) = daemon.run_command(&["user", "add"]);
        let passkey = output.lines().find_map(|line| line.strip_prefix("passkey ")).unwrap().to_owned();
        assert_eq!((status, passkey.len()), (Some(0), 32), "{output}");
        assert!(passkey.bytes().all(|octet| octet.is_ascii_alphanumeric()));
        for (arguments, status, words) in [
            (&["user", "add", "--id", "7", "--passkey", "seven"][..], 0, "added: user 7"),
            (&["user", "add", "--id", "7", "--passkey", "seven"], 0, "unchanged: user 7"),
            (&["user", "add", "--passkey", "no blanks"], 1, "a passkey is 1 to 32 letters and digits"),
            (&["user", "set", "7", "--up", "0.5", "--hidden", "true"], 0, "changed: user 7"),
            (&["user", "set", "7", "--up", "-1"], 1, "a multiplier is a number of at least 0"),
            (&["user", "set", "99", "--up", "2"], 1, "missing: user 99"),
            (&["user", "remove", "99"], 1, "missing: user 99"),
            (&["torrent", "add", hash, "--type", "anime", "--group", "2"], 0, "added: torrent"),
            (&["torrent", "add", hash, "--type", "anime", "--group", "2"], 0, "unchanged: torrent"),
            (&["torrent", "set", hash, "--down", "0"], 0, "down 0"),
            (&["torrent", "add", "xyz"], 2, "40 hexadecimal digits"),
            (&["client", "add", "XY"], 0, "added: client \"XY\""),
            (&["client", "add", "XY"], 0, "unchanged: client \"XY\""),
            (&["client", "set", "XY", "YZ"], 0, "removed: client \"XY\"; added: client \"YZ\""),
            (&["client", "remove", "ZZ"], 1, "missing: no client \"ZZ\""),
            (&["client", "add", "-qB42"], 0, "changed: client"),
            (&["client", "nonsense"], 2, "nonsense"),
            (&["user", "add", "--id", "8", "--passkey", "seven"], 1, "refused: user 7 has this passkey"),
            (&["torrent", "set", hash, "--status", "-1", "--type", "music", "--group", "9"], 0, "type music"),
            (&["token", "add", "7", "3"], 0, "added: token of user 7 for torrent 3"),
            (&["token", "add", "7", hash], 0, "added: token of user 7"),
            (&["token", "add", "7", "999"], 1, "missing: torrent 999"),
            (&["token", "list"], 0, "7\t3"),
            (&["token", "remove", "7", "3"], 0, "removed: token"),
            (&["token", "add", "7", "x"], 2, "40 hexadecimal digits, or an id"),
            (&["user", "hit-and-run", "7", "3", "on"], 0, "added: user 7 has a hit-and-run on torrent 3"),
            (&["user", "hit-and-run", "7", "3", "off"], 0, "changed: user 7 has no hit-and-run"),
            (&["freeleech", "global", "on"], 0, "changed: global freeleech is on"),
            (&["freeleech", "global", "maybe"], 2, "maybe"),
            (&["freeleech", "set", "music", "9"], 0, "added: group music 9, up 1 down 0"),
            (&["freeleech", "set", "music", "9", "--up", "2", "--down", "0.5"], 0, "up 2 down 0.5"),
            (&["freeleech", "list"], 0, "music\t9\t2.0\t0.5"),
            (&["freeleech", "remove", "music", "9"], 0, "removed: group music 9"),
        ] {
            let (code, output) = daemon.run_command(arguments);
            assert_eq!(code, Some(status), "{arguments:?}: {output}");
            assert!(output.contains(words), "{arguments:?}: {output}");
        }
        let (_, users) = daemon.run_command(&["--json", "user", "list"]);
        let seven: serde_json::Value = users
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .find(|user| user["ID"] == 7)
            .unwrap();
        assert_eq!((&seven["UpMultiplier"], &seven["TrackerHide"]), (&json!(0.5), &json!(1)));
        assert!(daemon.run_command(&["torrent", "list"]).1.contains(hash));
        assert!(daemon.run_command(&["client", "list"]).1.contains("YZ"));
        daemon.signal(Signal::SIGHUP);
        let target = announce("seven", &[0x00; 20], "");
        assert!(eventually(|| fetch_text(&daemon, &target).contains("This torrent does not exist")));
        let audit = database.query("SELECT count(*) > 9 FROM hayate_audit WHERE source = 'command line'");
        assert_eq!(audit, "1");
        assert_eq!(daemon.run_command(&["user", "remove", "7"]).0, Some(0));
        assert_eq!(database.query("SELECT Enabled FROM users_main WHERE ID = 7"), "2");
    });
}

#[test]
fn actions_over_http_take_effect_at_once_and_may_be_repeated() {
    both(|database| {
        let daemon = database.daemon(json!({"admin": {"passkey_grace": "1h"}}));
        let hash = [7; 20];
        let add = format!("action=add_torrent&info_hash={}&id=7&type=anime&group=2", hex(&hash));
        for (query, status, words) in [
            ("action=add_user&id=7&passkey=seven", 200, "success: added: user 7"),
            ("action=add_user&id=7&passkey=seven", 200, "success: unchanged: user 7"),
            (&*add, 200, "success: added: torrent 7"),
            (&*add, 200, "success: unchanged: torrent 7"),
            ("action=add_whitelist&peer_id=-XX", 200, "added: client"),
            ("action=add_whitelist&peer_id=-XX", 200, "unchanged: client"),
        ] {
            let (code, text) = update(&daemon, query);
            assert_eq!(code, status, "{query}: {text}");
            assert!(text.contains(words), "{query}: {text}");
        }
        let mine = |passkey: &str, more: &str| fetch_text(&daemon, &announce(passkey, &hash, more));
        assert!(mine("seven", "&peer_id=-XX2940-000000000001").contains("incompletei1e"));
        // A token: what is downloaded is not credited.
        let token = format!("userid=7&info_hash={}", hex(&hash));
        assert!(update(&daemon, &format!("action=add_token&{token}")).1.contains("added: token"));
        assert!(update(&daemon, &format!("action=add_token&{token}")).1.contains("unchanged: token"));
        mine("seven", "&peer_id=-XX2940-000000000001&downloaded=1000&uploaded=11");
        assert!(update(&daemon, &format!("action=remove_token&{token}")).1.contains("removed: token"));
        // A new passkey; the old one works for a while.
        let change = "action=change_passkey&oldpasskey=seven&newpasskey=eleven";
        assert!(update(&daemon, change).1.contains("success: changed"));
        assert!(update(&daemon, change).1.contains("success: unchanged"));
        for passkey in ["seven", "eleven"] {
            assert!(mine(passkey, "&peer_id=-XX2940-000000000001").contains("incompletei1e"), "{passkey}");
        }
        assert!(update(&daemon, "action=update_user&id=7&can_leech=0").1.contains("success: changed"));
        assert!(mine("eleven", "").contains("download privileges are disabled"));
        assert!(update(&daemon, "action=update_user&id=7&can_leech=0").1.contains("success: unchanged"));
        assert!(update(&daemon, "action=remove_whitelist&peer_id=-XX").1.contains("removed: client"));
        assert!(mine("eleven", "&peer_id=-XX2940-000000000001").contains("not approved"));
        let delete = format!("action=delete_torrent&info_hash={}&reason=0", hex(&hash));
        assert!(update(&daemon, &delete).1.contains("success: removed"));
        assert!(mine("eleven", "").contains("This torrent does not exist: Dupe"));
        let udp = crate::harness::UdpClient::connect("127.0.0.1", daemon.v4());
        let path = b"/eleven/announce";
        let rest = [&crate::harness::announce_rest(7, 6881, 0, 0, -1)[..], &[2, 16], path].concat();
        let reply = crate::harness::ask(&udp.socket, &udp.request(1, &rest)).unwrap();
        assert!(String::from_utf8_lossy(&reply).contains("Your client is not approved"), "{reply:?}");
        assert!(update(&daemon, "action=info_torrent&info_hash=x").1.contains("failure: info_hash"));
        assert_eq!(update(&daemon, "action=remove_user&passkey=eleven").0, 200);
        for passkey in ["seven", "eleven"] {
            assert!(eventually(|| mine(passkey, "").contains("passkey is invalid")), "{passkey}");
        }
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], daemon.metrics_port));
        for wrong in ["/sesame-open-sesam/update?action=add_user", "/update", "/x/y/update"] {
            assert_eq!(fetch(address, wrong).status, 404, "{wrong}");
        }
        assert!(eventually(|| database
            .query("SELECT Downloaded, Uploaded, rawdl FROM users_main WHERE ID = 7")
            == "0 22 1000"));
        let audit = database.query("SELECT count(*) FROM hayate_audit WHERE source = '127.0.0.1'");
        assert_eq!(audit, "16");
        let secrets =
            "SELECT count(*) FROM hayate_audit WHERE target LIKE '%seven%' OR target LIKE '%eleven%'";
        assert_eq!(database.query(secrets), "0");
        assert_eq!(daemon.logged(TOKEN) + daemon.logged("eleven"), 0, "no secret in the log");
    });
}

#[test]
fn several_torrents_users_and_the_interval_are_changed_over_http() {
    both(|database| {
        let mut daemon = database.daemon(json!({"intervals": {"announce": 1800, "min_announce": 60}}));
        let mine = |daemon: &Daemon, more: &str| fetch_text(daemon, &announce(PLAIN, &FREE, more));
        assert!(mine(&daemon, "").contains("8:intervali1800e"));
        let hashes = [hex(&MUSIC), hex(&FREE)].concat();
        for (query, status, words) in [
            (format!("update_torrents&info_hashes={hashes}&up=3&down=1"), 200, "success: 2 changed"),
            (format!("update_torrents&info_hashes={hashes}&up=3&down=1"), 200, "success: 2 unchanged"),
            ("update_announce_interval&new_announce_interval=59".to_owned(), 400, "expected 60 to "),
            ("update_announce_interval&new_announce_interval=1700".to_owned(), 200, "success: changed"),
            ("group_freeleech&type=anime&group=2&on=0".to_owned(), 200, "success: removed"),
            (format!("add_user&id=7&passkey={PLAIN}"), 400, "failure: refused: user 1 has this passkey"),
        ] {
            let (code, text) = update(&daemon, &format!("action={query}"));
            assert_eq!(code, status, "{query}: {text}");
            assert!(text.contains(words), "{query}: {text}");
        }
        // At once, for the next announce.
        assert!(eventually(|| mine(&daemon, "").contains("8:intervali1700e")));
        mine(&daemon, "&uploaded=7&downloaded=5");
        let credited = "SELECT Uploaded, Downloaded, rawup, rawdl FROM users_main WHERE ID = 1";
        assert!(eventually(|| database.query(credited) == "21 5 7 5"), "{}", database.query(credited));
        assert_eq!(update(&daemon, "action=global_freeleech&on=1").0, 200);
        assert!(eventually(|| {
            mine(&daemon, "&uploaded=7&downloaded=5").contains("incompletei1e")
                && daemon.run_command(&["explain", "1", "3"]).1.contains("global freeleech: ")
        }));
        mine(&daemon, "&uploaded=7&downloaded=11");
        assert!(eventually(|| database.query(credited) == "21 5 7 11"), "{}", database.query(credited));
        // User 2 may download only torrents with a hit-and-run.
        let announce_hidden =
            |daemon: &Daemon| fetch_text(daemon, &announce(crate::fixture::HIDDEN, &FREE, ""));
        assert!(announce_hidden(&daemon).contains("download privileges are disabled"));
        let flag = format!("action=hit_and_run&userid=2&info_hash={}&on=1", hex(&FREE));
        assert_eq!(update(&daemon, &flag).0, 200);
        assert!(eventually(|| announce_hidden(&daemon).contains("incompletei2e")));
        // A reload restores the value of the configuration.
        daemon.signal(Signal::SIGHUP);
        assert!(eventually(|| mine(&daemon, "").contains("8:intervali1800e")));
        let passkeys = format!("{PLAIN}{}", crate::fixture::HIDDEN);
        let (code, text) = update(&daemon, &format!("action=remove_users&passkeys={passkeys}"));
        assert_eq!((code, text.contains("success: 2 removed")), (200, true), "{text}");
        assert!(eventually(|| mine(&daemon, "").contains("passkey is invalid")));
        assert!(announce_hidden(&daemon).contains("passkey is invalid"));
        daemon.signal(Signal::SIGTERM);
        assert!(daemon.wait().success());
        let audit = "SELECT count(*) FROM hayate_audit WHERE verb IN ('update_torrent', 'remove_user')";
        assert_eq!(database.query(audit), "6", "one row for each");
    });
}

#[test]
fn explain_shows_refusals_and_credits() {
    let database = SiteDatabase::sqlite();
    let daemon = database.daemon(json!({}));
    fetch_text(&daemon, &announce(PLAIN, &MUSIC, ""));
    fetch_text(&daemon, &announce(PLAIN, &MUSIC, "&uploaded=100&downloaded=11"));
    fetch_text(&daemon, &announce(PLAIN, &MUSIC, "&peer_id=-qB4250-000000000001"));
    let (status, output) = daemon.run_command(&["explain", "1", &hex(&MUSIC)]);
    assert_eq!(status, Some(0), "{output}");
    for words in [
        "user 1: enabled",
        "torrent 2",
        "accepted: leecher",
        "up 100 credited 50, down 11 credited 22",
        "refused: Your client is not approved",
        "Z accepted: leecher",
        " at 127.0.0.1:6881, client 1, since 20",
        ", from 127.0.0.1:6881, left 7)",
    ] {
        assert!(output.contains(words), "{words}: {output}");
    }
    let (_, by_id) = daemon.run_command(&["explain", "1", "2"]);
    assert_eq!(by_id, output);
    let (status, unknown) = daemon.run_command(&["explain", "1", "77"]);
    assert_eq!((status, unknown.contains("torrent 77 is not registered")), (Some(1), true), "{unknown}");
    // A hidden user is hidden here, too.
    fetch_text(&daemon, &announce(crate::fixture::HIDDEN, &MUSIC, ""));
    fetch_text(&daemon, &announce(crate::fixture::HIDDEN, &MUSIC, "&peer_id=-qB4250-000000000001"));
    let (_, hidden) = daemon.run_command(&["explain", "2", "2"]);
    assert!(hidden.contains("leecher ") && hidden.contains(" at a hidden address, client 1"), "{hidden}");
    assert!(hidden.contains(", from a hidden address, left 7)") && !hidden.contains("127.0.0.1"), "{hidden}");
    let (_, output) = daemon.run_command(&["explain", "3", &hex(&[9; 20])]);
    assert!(output.contains("user 3: not enabled") && output.contains("not registered"), "{output}");
    daemon.rewrite_config(|config| config["admin"]["token_file"] = json!(""));
    let (status, output) = daemon.run_command(&["explain", "1", &hex(&MUSIC)]);
    assert_eq!(status, Some(1), "{output}");
    assert!(output.contains("admin.token_file"), "{output}");
}
