//! What a crash costs in mode private: whatever ends the tracker, the next announce of a session is credited
//! from what is durable.

use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::fixture::{FREE, PLAIN};
use crate::harness::{Daemon, Folder, eventually};
use crate::kit::site_database::Base;
use crate::kit::site_database::{fetch_text, stop, target};
use crate::operations::faults::SmallDisk;

const CACHE: &str = "hayate-cache.bin";

fn both() -> [Base; 2] {
    [Base::sqlite(), Base::mariadb()]
}

/// Announces that a client of user 1 has uploaded this number of octets in all.
fn say(daemon: &Daemon, uploaded: u64) {
    let more = format!("&left=0&uploaded={uploaded}");
    let reply = fetch_text(daemon.v4(), &target(PLAIN, &FREE, 1, &more));
    assert!(reply.contains("incompletei"), "{reply}");
}

/// Waits until user 1 and the torrent are credited this number of octets.
fn credited(base: &Base, octets: u64) {
    let sums = "SELECT rawup, (SELECT uploaded FROM transfer_history WHERE uid = 1 AND fid = 3) \
        FROM users_main WHERE ID = 1";
    let mut last = String::new();
    let is_so = eventually(|| {
        last = base.ask(sums);
        last == format!("{octets} {octets}")
    });
    assert!(is_so, "credited: {last}, expected {octets}");
}

fn end(daemon: &mut Daemon, signals: &[Signal]) {
    signals.iter().for_each(|signal| daemon.signal(*signal));
    daemon.wait();
}

fn again(base: &Base, daemon: &mut Daemon, changes: Value) -> Daemon {
    base.daemon_in(std::mem::replace(&mut daemon.folder, Folder::new()), changes)
}

/// Waits for two cuts: what was announced before is in the first or in an earlier one.
fn cut(daemon: &Daemon) {
    let made = daemon.metric("cuts_total");
    say(daemon, 5500);
    assert!(eventually(|| daemon.metric("cuts_total") > made), "{:#?}", daemon.log());
    say(daemon, 5600);
    assert!(eventually(|| daemon.metric("cuts_total") > made + 1), "{:#?}", daemon.log());
}

#[test]
fn after_a_kill_nothing_is_credited_twice_with_a_cache_that_is_missing_or_old() {
    for base in both() {
        let mut daemon = base.daemon(json!({}));
        say(&daemon, 0);
        // An orderly stop writes the cache; no other one is written here.
        stop(&mut daemon);
        let old = std::fs::read(daemon.folder.path().join(CACHE)).unwrap();
        let mut daemon = again(&base, &mut daemon, json!({}));
        let mut credit = 5000;
        say(&daemon, credit);
        credited(&base, credit);
        // Of a session that began after that cache, too.
        fetch_text(daemon.v4(), &target(PLAIN, &FREE, 2, "&left=0&uploaded=70"));
        for cache in [None, Some(&old), None] {
            end(&mut daemon, &[Signal::SIGKILL]);
            let path = daemon.folder.path().join(CACHE);
            match cache {
                Some(cache) => std::fs::write(path, cache).unwrap(),
                None => _ = std::fs::remove_file(path),
            }
            daemon = again(&base, &mut daemon, json!({}));
            credit += 1000;
            say(&daemon, credit);
            credited(&base, credit);
        }
        // The newest, of a session that began after the older one.
        stop(&mut daemon);
        let mut daemon = again(&base, &mut daemon, json!({}));
        say(&daemon, credit + 500);
        credited(&base, credit + 500);
        stop(&mut daemon);
        credited(&base, credit + 500);
    }
}

#[test]
fn after_a_second_signal_everything_is_credited_once() {
    for base in both() {
        let mut daemon = base.daemon(json!({}));
        say(&daemon, 0);
        say(&daemon, 5000);
        end(&mut daemon, &[Signal::SIGTERM, Signal::SIGINT]);
        let mut daemon = again(&base, &mut daemon, json!({}));
        credited(&base, 5000);
        say(&daemon, 6000);
        credited(&base, 6000);
        // While the database is frozen, so that the first signal does not end the process quickly.
        if let Some(server) = &base.server {
            server.freeze();
        }
        say(&daemon, 6500);
        end(&mut daemon, &[Signal::SIGTERM, Signal::SIGINT]);
        if let Some(server) = &base.server {
            server.thaw();
        }
        let mut daemon = again(&base, &mut daemon, json!({}));
        credited(&base, 6500);
        say(&daemon, 7000);
        stop(&mut daemon);
        credited(&base, 7000);
    }
}

#[test]
fn after_a_stop_with_a_full_disk_what_was_not_durable_is_credited_with_the_next_announce() {
    for base in both() {
        let Some(disk) = SmallDisk::new() else { return };
        let changes = json!({"state_dir": disk.path()});
        let mut daemon = base.daemon(changes.clone());
        say(&daemon, 0);
        say(&daemon, 5000);
        credited(&base, 5000);
        let filler = disk.fill();
        let mut total = 5000;
        say_until_the_disk_fails(&daemon, &mut total);
        say(&daemon, total + 1);
        assert_eq!(daemon.logged("none goes to the database before the disk has it"), 1);
        end(&mut daemon, &[Signal::SIGTERM]);
        std::fs::remove_file(filler).unwrap();
        let mut daemon = again(&base, &mut daemon, changes);
        total += 1000;
        say(&daemon, total);
        credited(&base, total);
        // And a disk that has room again in time costs nothing.
        let filler = disk.fill();
        say_until_the_disk_fails(&daemon, &mut total);
        std::fs::remove_file(filler).unwrap();
        credited(&base, total);
        stop(&mut daemon);
    }
}

/// A file that is there may have room for a cut or two.
fn say_until_the_disk_fails(daemon: &Daemon, total: &mut u64) {
    let failed = eventually(|| {
        *total += 1;
        say(daemon, *total);
        daemon.metric(r#"spill_write_errors{channel="users"}"#) > 0
    });
    assert!(failed, "{:#?}", daemon.log());
}

#[test]
fn a_kill_while_the_database_is_away_loses_no_cut() {
    let mut base = Base::mariadb();
    let mut daemon = base.daemon(json!({}));
    say(&daemon, 0);
    say(&daemon, 5000);
    credited(&base, 5000);
    base.server.as_mut().unwrap().kill9();
    cut(&daemon);
    end(&mut daemon, &[Signal::SIGKILL]);
    base.server.as_mut().unwrap().start();
    let mut daemon = again(&base, &mut daemon, json!({}));
    credited(&base, 5600);
    say(&daemon, 6000);
    stop(&mut daemon);
    credited(&base, 6000);
}

#[test]
fn without_a_journal_nothing_is_credited_twice() {
    let base = Base::mariadb();
    let server = base.server.as_ref().unwrap();
    for table in ["journal", "completed", "schema", "tokens", "deletions", "passkeys", "audit"] {
        server.sql_in("site", &format!("DROP TABLE hayate_{table}"));
    }
    let mut daemon = base.daemon(json!({}));
    say(&daemon, 0);
    say(&daemon, 5000);
    credited(&base, 5000);
    let sum = || base.ask("SELECT rawup FROM users_main WHERE ID = 1").parse::<u64>().unwrap();
    let mut total = 5000;
    for round in 0..8 {
        // At some moment on the way to the database: something may be lost, but nothing is credited twice.
        for _ in 0..=fastrand::u32(..20) {
            total += 100;
            say(&daemon, total);
        }
        if round % 2 == 0 {
            let made = daemon.metric("cuts_total");
            assert!(eventually(|| daemon.metric("cuts_total") > made), "{:#?}", daemon.log());
        }
        end(&mut daemon, &[Signal::SIGKILL]);
        daemon = again(&base, &mut daemon, json!({}));
        assert!(sum() <= total, "{} of {total}", sum());
    }
    let lost = total - sum();
    say(&daemon, total + 1000);
    stop(&mut daemon);
    let after = sum();
    assert!(after <= total + 1000 && after + lost >= total + 1000, "{after} of {total}, {lost} were missing");
}

#[test]
fn a_damaged_cut_costs_no_more_than_itself_and_is_said() {
    let base = Base::sqlite();
    let mut daemon = base.daemon(json!({}));
    say(&daemon, 0);
    say(&daemon, 5000);
    credited(&base, 5000);
    end(&mut daemon, &[Signal::SIGKILL]);
    let path = segment(&daemon.folder.path().join("spill"));
    let mut octets = std::fs::read(&path).unwrap();
    octets[30] ^= 1;
    std::fs::write(&path, octets).unwrap();
    let daemon = again(&base, &mut daemon, json!({}));
    assert_eq!(daemon.logged("are damaged and left out"), 1, "{:#?}", daemon.log());
    assert_eq!(daemon.metric("spill_damages_total"), 1);
    say(&daemon, 6000);
    credited(&base, 6000);
}

/// The oldest file of cuts.
fn segment(spill: &Path) -> std::path::PathBuf {
    let files = std::fs::read_dir(spill).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|end| end == "log")).min().unwrap()
}
