//! What a crash costs in mode private: however the tracker ends, the next announce of a session is credited
//! from what is durable.

use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::fixture::{FREE, PLAIN};
use crate::harness::{Daemon, Folder, eventually};
use crate::kit::site_database::SiteDatabase;
use crate::kit::site_database::{fetch_text, stop, target};
use crate::operations::faults::SmallDisk;

const CACHE: &str = "hayate-cache.bin";

fn both() -> [SiteDatabase; 2] {
    [SiteDatabase::sqlite(), SiteDatabase::mariadb()]
}

/// Announces that a client of user 1 has uploaded this number of octets in total.
fn announce_uploaded(daemon: &Daemon, uploaded: u64) {
    let more = format!("&left=0&uploaded={uploaded}");
    let reply = fetch_text(daemon.v4(), &target(PLAIN, &FREE, 1, &more));
    assert!(reply.contains("incompletei"), "{reply}");
}

/// Waits until user 1 and the torrent are credited this number of octets.
fn wait_until_credited(database: &SiteDatabase, octets: u64) {
    let sums = "SELECT rawup, (SELECT uploaded FROM transfer_history WHERE uid = 1 AND fid = 3) \
        FROM users_main WHERE ID = 1";
    let mut last = String::new();
    let is_credited = eventually(|| {
        last = database.query(sums);
        last == format!("{octets} {octets}")
    });
    assert!(is_credited, "credited: {last}, expected {octets}");
}

fn end_by(daemon: &mut Daemon, signals: &[Signal]) {
    signals.iter().for_each(|signal| daemon.signal(*signal));
    daemon.wait();
}

fn restart(database: &SiteDatabase, daemon: &mut Daemon, changes: Value) -> Daemon {
    database.daemon_in(std::mem::replace(&mut daemon.folder, Folder::new()), changes)
}

/// Waits for two cuts: what was announced before is in the first of them or in an earlier one.
fn wait_for_two_cuts(daemon: &Daemon) {
    let made = daemon.metric("cuts_total");
    announce_uploaded(daemon, 5500);
    assert!(eventually(|| daemon.metric("cuts_total") > made), "{:#?}", daemon.log());
    announce_uploaded(daemon, 5600);
    assert!(eventually(|| daemon.metric("cuts_total") > made + 1), "{:#?}", daemon.log());
}

#[test]
fn after_a_kill_nothing_is_credited_twice_with_a_cache_that_is_missing_or_old() {
    for database in both() {
        let mut daemon = database.daemon(json!({}));
        announce_uploaded(&daemon, 0);
        // An orderly stop writes the cache; no other one is written here.
        stop(&mut daemon);
        let old = std::fs::read(daemon.folder.path().join(CACHE)).unwrap();
        let mut daemon = restart(&database, &mut daemon, json!({}));
        let mut credit = 5000;
        announce_uploaded(&daemon, credit);
        wait_until_credited(&database, credit);
        // The same holds for a session that began after that cache.
        fetch_text(daemon.v4(), &target(PLAIN, &FREE, 2, "&left=0&uploaded=70"));
        for cache in [None, Some(&old), None] {
            end_by(&mut daemon, &[Signal::SIGKILL]);
            let path = daemon.folder.path().join(CACHE);
            match cache {
                Some(cache) => std::fs::write(path, cache).unwrap(),
                None => _ = std::fs::remove_file(path),
            }
            daemon = restart(&database, &mut daemon, json!({}));
            credit += 1000;
            announce_uploaded(&daemon, credit);
            wait_until_credited(&database, credit);
        }
        // With the newest cache, which has a session that began after the older one.
        stop(&mut daemon);
        let mut daemon = restart(&database, &mut daemon, json!({}));
        announce_uploaded(&daemon, credit + 500);
        wait_until_credited(&database, credit + 500);
        stop(&mut daemon);
        wait_until_credited(&database, credit + 500);
    }
}

#[test]
fn after_a_second_signal_everything_is_credited_once() {
    for database in both() {
        let mut daemon = database.daemon(json!({}));
        announce_uploaded(&daemon, 0);
        announce_uploaded(&daemon, 5000);
        end_by(&mut daemon, &[Signal::SIGTERM, Signal::SIGINT]);
        let mut daemon = restart(&database, &mut daemon, json!({}));
        wait_until_credited(&database, 5000);
        announce_uploaded(&daemon, 6000);
        wait_until_credited(&database, 6000);
        // While the database is frozen, so that the first signal does not end the process quickly.
        if let Some(server) = &database.server {
            server.freeze();
        }
        announce_uploaded(&daemon, 6500);
        end_by(&mut daemon, &[Signal::SIGTERM, Signal::SIGINT]);
        if let Some(server) = &database.server {
            server.thaw();
        }
        let mut daemon = restart(&database, &mut daemon, json!({}));
        wait_until_credited(&database, 6500);
        announce_uploaded(&daemon, 7000);
        stop(&mut daemon);
        wait_until_credited(&database, 7000);
    }
}

#[test]
fn after_a_stop_with_a_full_disk_what_was_not_durable_is_credited_with_the_next_announce() {
    for database in both() {
        let Some(disk) = SmallDisk::new() else { return };
        let changes = json!({"state_dir": disk.path()});
        let mut daemon = database.daemon(changes.clone());
        announce_uploaded(&daemon, 0);
        announce_uploaded(&daemon, 5000);
        wait_until_credited(&database, 5000);
        let filler = disk.fill();
        let mut total = 5000;
        announce_until_the_disk_fails(&daemon, &mut total);
        announce_uploaded(&daemon, total + 1);
        assert_eq!(daemon.logged("none goes to the database before the disk has it"), 1);
        end_by(&mut daemon, &[Signal::SIGTERM]);
        std::fs::remove_file(filler).unwrap();
        let mut daemon = restart(&database, &mut daemon, changes);
        total += 1000;
        announce_uploaded(&daemon, total);
        wait_until_credited(&database, total);
        // A disk that has space again in time costs nothing.
        let filler = disk.fill();
        announce_until_the_disk_fails(&daemon, &mut total);
        std::fs::remove_file(filler).unwrap();
        wait_until_credited(&database, total);
        stop(&mut daemon);
    }
}

/// Announces until a write fails; an existing file may still have space for a cut or two.
fn announce_until_the_disk_fails(daemon: &Daemon, total: &mut u64) {
    let failed = eventually(|| {
        *total += 1;
        announce_uploaded(daemon, *total);
        daemon.metric(r#"spill_write_errors{channel="users"}"#) > 0
    });
    assert!(failed, "{:#?}", daemon.log());
}

#[test]
fn a_kill_while_the_database_is_away_loses_no_cut() {
    let mut database = SiteDatabase::mariadb();
    let mut daemon = database.daemon(json!({}));
    announce_uploaded(&daemon, 0);
    announce_uploaded(&daemon, 5000);
    wait_until_credited(&database, 5000);
    database.server.as_mut().unwrap().kill9();
    wait_for_two_cuts(&daemon);
    end_by(&mut daemon, &[Signal::SIGKILL]);
    database.server.as_mut().unwrap().start();
    let mut daemon = restart(&database, &mut daemon, json!({}));
    wait_until_credited(&database, 5600);
    announce_uploaded(&daemon, 6000);
    stop(&mut daemon);
    wait_until_credited(&database, 6000);
}

#[test]
fn without_a_journal_nothing_is_credited_twice() {
    let database = SiteDatabase::mariadb();
    let server = database.server.as_ref().unwrap();
    for table in ["journal", "completed", "schema", "tokens", "deletions", "passkeys", "audit"] {
        server.sql_in("site", &format!("DROP TABLE hayate_{table}"));
    }
    let mut daemon = database.daemon(json!({}));
    announce_uploaded(&daemon, 0);
    announce_uploaded(&daemon, 5000);
    wait_until_credited(&database, 5000);
    let sum = || database.query("SELECT rawup FROM users_main WHERE ID = 1").parse::<u64>().unwrap();
    let mut total = 5000;
    for round in 0..8 {
        // At some moment on the way to the database: something may be lost, but nothing is credited twice.
        for _ in 0..=fastrand::u32(..20) {
            total += 100;
            announce_uploaded(&daemon, total);
        }
        if round % 2 == 0 {
            let made = daemon.metric("cuts_total");
            assert!(eventually(|| daemon.metric("cuts_total") > made), "{:#?}", daemon.log());
        }
        end_by(&mut daemon, &[Signal::SIGKILL]);
        daemon = restart(&database, &mut daemon, json!({}));
        assert!(sum() <= total, "{} of {total}", sum());
    }
    let lost = total - sum();
    announce_uploaded(&daemon, total + 1000);
    stop(&mut daemon);
    let after = sum();
    assert!(after <= total + 1000 && after + lost >= total + 1000, "{after} of {total}, {lost} were missing");
}

#[test]
fn a_damaged_cut_costs_no_more_than_itself_and_is_logged() {
    let database = SiteDatabase::sqlite();
    let mut daemon = database.daemon(json!({}));
    announce_uploaded(&daemon, 0);
    announce_uploaded(&daemon, 5000);
    wait_until_credited(&database, 5000);
    end_by(&mut daemon, &[Signal::SIGKILL]);
    let path = segment(&daemon.folder.path().join("spill"));
    let mut octets = std::fs::read(&path).unwrap();
    octets[30] ^= 1;
    std::fs::write(&path, octets).unwrap();
    let daemon = restart(&database, &mut daemon, json!({}));
    assert_eq!(daemon.logged("are damaged and left out"), 1, "{:#?}", daemon.log());
    assert_eq!(daemon.metric("spill_damages_total"), 1);
    announce_uploaded(&daemon, 6000);
    wait_until_credited(&database, 6000);
}

/// The oldest file of cuts.
fn segment(spill: &Path) -> std::path::PathBuf {
    let files = std::fs::read_dir(spill).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|end_by| end_by == "log")).min().unwrap()
}
