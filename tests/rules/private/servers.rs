//! Both servers of a private site, restarts, outages, and large amounts of bad input.

use serde_json::json;

use crate::fixture::{FREE, HIDDEN, MUSIC, PLAIN, PRUNED};
use crate::harness::{Folder, UdpClient, eventually};
use crate::kit::site_database::{SiteDatabase, announce_over_udp, fetch_text, over_udp, stop, target};

#[test]
fn one_client_over_both_servers_and_families_is_one_peer_credited_once() {
    for database in [SiteDatabase::sqlite(), SiteDatabase::mariadb()] {
        let mut daemon = database.daemon(json!({}));
        let (v4, v6) = (daemon.v4(), daemon.v6());
        let udp = UdpClient::connect("127.0.0.1", v4);
        fetch_text(v6, &target(PLAIN, &FREE, 1, "&event=started"));
        let reply = announce_over_udp(&udp, &over_udp(PLAIN, &FREE, 1, [100, 7], 5, 0));
        assert_eq!((reply[..4].to_vec(), reply.len()), (vec![0, 0, 0, 1], 20), "{reply:?}");
        fetch_text(v6, &target(PLAIN, &FREE, 1, "&uploaded=150&downloaded=11&left=0&event=completed"));
        let reply =
            fetch_text(v4, &target(PLAIN, &FREE, 1, "&uploaded=160&downloaded=11&left=0&event=completed"));
        assert!(reply.starts_with("d8:completei1e10:downloadedi0e10:incompletei0e"), "{reply}");
        // The other user sees both addresses of it; it did not announce its port over loopback for nothing.
        let other = fetch_text(v4, &target(HIDDEN, &MUSIC, 2, "&left=0"));
        assert!(other.starts_with("d8:completei1e"), "{other}");
        let seen = fetch_text(v4, &target(HIDDEN, &FREE, 2, "&left=0"));
        assert!(seen.starts_with("d8:completei2e"), "{seen}");
        stop(&mut daemon);
        // Group freeleech: up twice, down nothing.
        let user = database.query("SELECT Uploaded, Downloaded, rawup, rawdl FROM users_main WHERE ID = 1");
        assert_eq!(user, "320 0 160 11");
        let torrent = database.query("SELECT Seeders, Leechers, Snatched FROM torrents WHERE ID = 3");
        assert_eq!(torrent, "2 0 1");
        let history = database.query(
            "SELECT uploaded, downloaded, seeding, active, snatched, remaining FROM transfer_history \
             WHERE uid = 1 AND fid = 3",
        );
        assert_eq!(history, "160 11 1 1 1 0");
        let ips =
            database.query("SELECT count(*), sum(uploaded) FROM transfer_ips WHERE uid = 1 AND fid = 3");
        assert_eq!(ips, "2 160");
    }
}

#[test]
fn a_restart_keeps_peers_totals_and_what_is_not_yet_in_the_database() {
    for database in [SiteDatabase::sqlite(), SiteDatabase::mariadb()] {
        let mut daemon = database.daemon(json!({}));
        fetch_text(daemon.v4(), &target(PLAIN, &FREE, 1, "&left=0&uploaded=1000"));
        fetch_text(daemon.v4(), &target(PLAIN, &PRUNED, 1, "&left=0"));
        stop(&mut daemon);
        assert_eq!(database.query("SELECT Status FROM torrents WHERE ID = 1"), "0");
        let folder = std::mem::replace(&mut daemon.folder, Folder::new());
        let mut daemon = database.daemon_in(folder, json!({}));
        assert_eq!(daemon.logged("2 peers of users"), 1, "{:#?}", daemon.log());
        let reply = fetch_text(daemon.v4(), &target(PLAIN, &FREE, 1, "&left=0&uploaded=3000"));
        assert!(reply.starts_with("d8:completei1e"), "{reply}");
        stop(&mut daemon);
        assert_eq!(database.query("SELECT Uploaded, rawup FROM users_main WHERE ID = 1"), "4000 2000");
        // A flipped bit is noticed, and the rest of the site is as the database has it.
        let folder = std::mem::replace(&mut daemon.folder, Folder::new());
        let path = folder.path().join("hayate-cache.bin");
        let mut octets = std::fs::read(&path).unwrap();
        let middle = octets.len() / 2;
        octets[middle] ^= 1;
        std::fs::write(&path, octets).unwrap();
        let daemon = database.daemon_in(folder, json!({}));
        assert_eq!(daemon.logged("cannot restore the snapshot"), 1);
        let reply = fetch_text(daemon.v4(), &target(PLAIN, &FREE, 1, "&left=0&uploaded=3000"));
        assert!(reply.starts_with("d8:completei1e"), "{reply}");
    }
}

#[test]
fn a_site_of_the_reference_tracker_continues_with_its_peers_and_without_a_migration() {
    let database = SiteDatabase::mariadb();
    let server = database.server.as_ref().unwrap();
    for table in ["journal", "completed", "schema", "tokens", "deletions", "passkeys", "audit"] {
        server.sql_in("site", &format!("DROP TABLE hayate_{table}"));
    }
    server.sql_in("site", "ALTER TABLE transfer_ips DROP COLUMN ip6");
    let folder = Folder::new();
    let cache = std::fs::read("tests/kit/fixtures/reference/torrent-cache.bin").unwrap();
    std::fs::write(folder.path().join("torrent-cache.bin"), cache).unwrap();
    let mut daemon = database.daemon_in(folder, json!({}));
    assert_eq!(daemon.logged("with their peers imported"), 1, "{:#?}", daemon.log());
    assert_eq!(daemon.logged("no table hayate_journal"), 1, "{:#?}", daemon.log());
    fetch_text(daemon.v6(), &target(PLAIN, &FREE, 1, "&left=0"));
    fetch_text(daemon.v6(), &target(PLAIN, &FREE, 1, "&left=0&uploaded=11"));
    stop(&mut daemon);
    let ips =
        "SELECT count(*), sum(uploaded), min(ip) >= 4026531840 FROM transfer_ips WHERE uid = 1 AND fid = 3";
    assert_eq!(database.query(ips), "1 11 1");
    assert_eq!(database.query("SELECT rawup FROM users_main WHERE ID = 1"), "11");
    // The way back: the reference tracker finds what it knows.
    database.execute("UPDATE torrents SET Status = 0");
    let exported = std::process::Command::new(env!("CARGO_BIN_EXE_hayate-cc"))
        .arg("export")
        .current_dir(daemon.folder.path())
        .output()
        .unwrap();
    assert!(exported.status.success(), "{}", String::from_utf8_lossy(&exported.stderr));
    assert!(daemon.folder.path().join("user-cache.bin").exists());
}

#[test]
fn twenty_thousand_announces_while_the_database_is_away_are_all_in_the_sums() {
    let mut database = SiteDatabase::mariadb();
    let mut daemon = database.daemon(json!({"channels": {"users": 7, "transfer_history": 7}}));
    let address = daemon.v4();
    let udp = UdpClient::connect("127.0.0.1", address);
    let announce = |id: u32, uploaded: u64| {
        let reply = announce_over_udp(&udp, &over_udp(PLAIN, &FREE, id, [uploaded, 0], 5, 0));
        assert_eq!(reply[..4], [0, 0, 0, 1]);
    };
    (0..10).for_each(|id| announce(id, 0));
    database.server.as_mut().unwrap().kill9();
    for round in 1..=2000 {
        (0..10).for_each(|id| announce(id, round * 7));
    }
    assert!(eventually(|| daemon.metric("database_up") == 0));
    database.server.as_mut().unwrap().start();
    assert!(eventually(|| daemon.metric("database_up") == 1), "{:#?}", daemon.log());
    (0..10).for_each(|id| announce(id, 2010 * 7));
    stop(&mut daemon);
    assert_eq!(database.query("SELECT rawup, Uploaded FROM users_main WHERE ID = 1"), "140700 281400");
    let history = "SELECT uploaded FROM transfer_history WHERE uid = 1 AND fid = 3";
    assert_eq!(database.query(history), "140700");
}

#[test]
fn ten_thousand_wrong_passkeys_are_refused_and_leave_nothing_in_the_log() {
    let database = SiteDatabase::sqlite();
    let daemon = database.daemon(json!({}));
    let udp = UdpClient::connect("127.0.0.1", daemon.v4());
    let lines = daemon.log().len();
    for number in 0..10_000_u32 {
        let reply = announce_over_udp(&udp, &over_udp(&format!("{number:032}"), &FREE, 1, [0, 0], 5, 0));
        assert_eq!(&reply[8..], b"Your passkey is invalid");
        if number % 100 == 0 {
            let passkey = format!("%00%ff{number}");
            let reply = fetch_text(daemon.v4(), &target(&passkey, &FREE, 1, ""));
            assert_eq!(reply, "d14:failure reason23:Your passkey is invalid8:intervali3600ee");
        }
    }
    assert_eq!(daemon.metric(r#"udp_refusals_total{reason="invalid_passkey"}"#), 10_000);
    assert_eq!(daemon.metric(r#"http_refusals_total{reason="invalid_passkey"}"#), 100);
    assert_eq!(daemon.log().len(), lines);
    assert!(fetch_text(daemon.v4(), &target(PLAIN, &FREE, 1, "")).contains("incompletei1e"));
}

#[test]
fn odd_totals_are_no_trouble() {
    let database = SiteDatabase::sqlite();
    let mut daemon = database.daemon(json!({}));
    let max = u64::MAX;
    let announce = |id: u32, more: &str| {
        let reply = fetch_text(daemon.v4(), &target(PLAIN, &MUSIC, id, more));
        assert!(reply.contains("incompletei"), "{reply}");
    };
    announce(1, "");
    announce(1, &format!("&left={max}&uploaded=5&downloaded=3"));
    // A client that restarts: its totals go back, and later ones count from there.
    announce(1, "&left=9&uploaded=0&downloaded=1&event=started");
    announce(1, &format!("&left={max}&uploaded=7&downloaded=4"));
    let raw = "SELECT rawup, rawdl FROM users_main WHERE ID = 1";
    assert!(eventually(|| database.query(raw) == "12 6"), "{}", database.query(raw));
    let remaining = "SELECT remaining FROM transfer_history WHERE uid = 1 AND fid = 2";
    assert!(eventually(|| database.query(remaining) == i64::MAX.to_string()));
    // More than any client can transfer, repeatedly: it is not credited, and the tracker continues.
    for round in 0..3 {
        announce(2, &format!("&uploaded={}", if round % 2 == 0 { 0 } else { max }));
        announce(3, &format!("&uploaded={}", if round % 2 == 0 { 0 } else { max }));
    }
    assert!(daemon.metric(r#"implausible_announces_total{direction="up"}"#) > 0);
    stop(&mut daemon);
    assert_eq!(database.query(raw), "12 6");
}

/// A client in a naive ledger.
#[derive(Default)]
struct LedgerClient {
    known: bool,
    up: u64,
    down: u64,
}

#[test]
fn a_random_run_through_the_sockets_is_in_the_tables_to_the_octet() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for mut database in [SiteDatabase::sqlite(), SiteDatabase::mariadb()] {
        let mut daemon = database.daemon(json!({}));
        let (v4, v6) = (daemon.v4(), daemon.v6());
        let udp_clients = [UdpClient::connect("127.0.0.1", v4), UdpClient::connect("::1", v6)];
        let mut clients: Vec<LedgerClient> = (0..24).map(|_| LedgerClient::default()).collect();
        let mut sums = [[0; 2]; 2];
        for round in 0..4000 {
            if let Some(server) = database.server.as_mut().filter(|_| round == 1500) {
                server.kill9();
            }
            if let Some(server) = database.server.as_mut().filter(|_| round == 2500) {
                server.start();
            }
            let number = random.usize(..clients.len());
            // User 1 on torrent 3, user 2 on torrent 2: the one that user may download.
            let (user, id) = (number % 2, u32::try_from(number).unwrap());
            let (passkey, hash) = [(PLAIN, &FREE), (HIDDEN, &MUSIC)][user];
            let client = &mut clients[number];
            let restarts = random.u8(..20) == 0;
            let more = |total: u64, by: u64| if restarts { by % 7 } else { total + by };
            let (up, down) =
                (more(client.up, random.u64(..1 << 33)), more(client.down, random.u64(..1 << 33)));
            let stops = random.u8(..30) == 0;
            let event = [(0, ""), (2, "&event=started"), (3, "&event=stopped")];
            let (number_of_event, event) = event[if stops { 2 } else { usize::from(restarts) }];
            if client.known {
                sums[user][0] += up.saturating_sub(client.up);
                sums[user][1] += down.saturating_sub(client.down);
            }
            *client = LedgerClient { known: !stops, up, down };
            let left = u64::from(random.bool());
            let reply = if random.bool() {
                let rest = over_udp(passkey, hash, id, [up, down], left, number_of_event);
                announce_over_udp(&udp_clients[usize::from(random.bool())], &rest)[..4].to_vec()
            } else {
                let more = format!("&uploaded={up}&downloaded={down}&left={left}{event}");
                let address = if random.bool() { v4 } else { v6 };
                let reply = fetch_text(address, &target(passkey, hash, id, &more));
                assert!(reply.contains("incompletei"), "{reply}");
                vec![0, 0, 0, 1]
            };
            assert_eq!(reply, [0, 0, 0, 1]);
        }
        if database.server.is_some() {
            assert!(eventually(|| daemon.metric("database_up") == 1), "{:#?}", daemon.log());
        }
        stop(&mut daemon);
        // User 2 began with something.
        let expected = format!("{} {}\n{} {}", sums[0][0], sums[0][1], sums[1][0] + 2551, sums[1][1] + 5);
        assert_eq!(database.query("SELECT rawup, rawdl FROM users_main WHERE ID < 3 ORDER BY ID"), expected);
        let history = "SELECT uploaded, downloaded FROM transfer_history WHERE (uid = 1 AND fid = 3) \
            OR (uid = 2 AND fid = 2) ORDER BY uid";
        let expected = format!("{} {}\n{} {}", sums[0][0], sums[0][1], sums[1][0], sums[1][1]);
        assert_eq!(database.query(history), expected);
        let ips = database
            .query("SELECT sum(uploaded), sum(downloaded) FROM transfer_ips WHERE uid = 1 AND fid = 3");
        assert_eq!(ips, format!("{} {}", sums[0][0], sums[0][1]));
    }
}
