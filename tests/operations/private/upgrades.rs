//! `hayate upgrade` of a private site: one process credits at a time, and every octet is credited once,
//! whatever becomes of the two.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::kills::{Sessions, client, fill_database};
use crate::fixture::{FREE, PLAIN};
use crate::harness::{Daemon, Folder, StopOnDrop, UdpClient, eventually, hayate};
use crate::kit::site_database::SiteDatabase;
use crate::kit::site_database::{announce_over_udp, fetch_text, over_udp, stop, target};
use crate::operations::storm::{Group, MOMENTS, VARIABLE, copy, replace_by_script, send_signals};
use crate::operations::upgrade::{SuccessorGuard, upgrade};

/// Moments at which both processes are killed.
const KILLS: u32 = 20;

/// Starts a daemon in one process group with its successors.
fn daemon_in(database: &SiteDatabase, folder: Folder, changes: Value) -> (Daemon, Group) {
    let mut command = hayate();
    command.process_group(0);
    let daemon = Daemon::start_in(folder, database.config(changes), &mut command);
    let group = Group(Pid::from_raw(i32::try_from(daemon.pid()).unwrap()));
    (daemon, group)
}

/// Returns queues so small that a cut is made every few announces.
fn changes() -> Value {
    json!({"channels": {"users": 16, "transfer_history": 40}, "intervals": {"database_serialize": 1}})
}

fn upgrade_repeatedly(database: &SiteDatabase) {
    let upgrades = std::env::var(VARIABLE).map_or(5, |text| text.parse().unwrap());
    fill_database(database);
    let (mut daemon, group) = daemon_in(database, Folder::new(), changes());
    let stop = AtomicBool::new(false);
    let (sessions, requests) = std::thread::scope(|scope| {
        let ending = StopOnDrop(&stop);
        let load = scope.spawn(|| {
            let (mut sessions, mut requests) = (Sessions::new(), 0_u32);
            while !stop.load(Ordering::Relaxed) {
                // With one connection id, which must not expire meanwhile.
                let udp = client(&daemon);
                for _ in 0..500 {
                    sessions.announce_one(&daemon, &udp);
                    sessions.forget_stopped();
                    requests += 1;
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
            }
            (sessions, requests)
        });
        scope.spawn(|| send_signals(group.0, Signal::SIGHUP, &stop));
        for number in 1..=upgrades {
            assert!(upgrade(&daemon).status.success(), "upgrade {number} of {upgrades}");
        }
        drop(ending);
        load.join().unwrap()
    });
    println!("{upgrades} upgrades, {requests} requests");
    let mut sessions = sessions;
    let successor = SuccessorGuard::of(&daemon);
    assert!(daemon.wait().success(), "{:#?}", daemon.log());
    sessions.stop_all(&client(&daemon));
    successor.stop();
    sessions.check_totals(database);
}

#[test]
fn upgrades_in_a_storm_of_signals_lose_no_request_and_credit_every_octet_once_on_sqlite() {
    upgrade_repeatedly(&SiteDatabase::sqlite());
}

#[test]
fn upgrades_in_a_storm_of_signals_lose_no_request_and_credit_every_octet_once_on_mariadb() {
    upgrade_repeatedly(&SiteDatabase::mariadb());
}

#[test]
fn both_killed_at_any_moment_of_an_upgrade_credit_every_octet_once() {
    let database = SiteDatabase::sqlite();
    fill_database(&database);
    let mut sessions = Sessions::new();
    let (mut daemon, mut group) = daemon_in(&database, Folder::new(), changes());
    for _ in 0..KILLS {
        let udp = client(&daemon);
        for _ in 0..sessions.random.u32(..150) {
            sessions.announce_one(&daemon, &udp);
        }
        daemon.signal(Signal::SIGUSR2);
        std::thread::sleep(Duration::from_millis(sessions.random.u64(..200)));
        sessions.announce_unanswered(&daemon, &udp);
        killpg(group.0, Signal::SIGKILL).unwrap();
        daemon.wait();
        assert!(eventually(|| killpg(group.0, None).is_err()));
        let folder = std::mem::replace(&mut daemon.folder, Folder::new());
        (daemon, group) = daemon_in(&database, folder, changes());
        sessions.compare(&database);
    }
    sessions.stop_all(&client(&daemon));
    stop(&mut daemon);
    sessions.check_totals(&database);
}

#[test]
fn a_stop_at_any_moment_of_an_upgrade_ends_both_and_keeps_peers_and_totals() {
    let database = SiteDatabase::sqlite();
    // Totals are credited from the first announce on.
    let (mut credited, mut folder) = (0, Folder::new());
    let is_credited =
        |octets: u64| database.query("SELECT rawup FROM users_main WHERE ID = 1") == octets.to_string();
    for moment in MOMENTS {
        let (mut daemon, group) =
            daemon_in(&database, std::mem::replace(&mut folder, Folder::new()), json!({}));
        // What the last stop has left on the disk is written before a tracker serves.
        assert!(is_credited(credited), "{moment} ms: {:#?}", daemon.log());
        let udp = UdpClient::connect("127.0.0.1", daemon.v4());
        announce_over_udp(&udp, &over_udp(PLAIN, &FREE, 1, [1000 + credited, 0], 0, 0));
        credited += 1000;
        announce_over_udp(&udp, &over_udp(PLAIN, &FREE, 1, [1000 + credited, 0], 0, 0));
        daemon.signal(Signal::SIGUSR2);
        std::thread::sleep(Duration::from_millis(moment));
        // To both, for the first may have ended by itself.
        killpg(group.0, Signal::SIGTERM).unwrap();
        assert!(daemon.wait().success(), "{moment} ms: {:#?}", daemon.log());
        assert!(eventually(|| killpg(group.0, None).is_err()), "{moment} ms: {:#?}", daemon.log());
        folder = std::mem::replace(&mut daemon.folder, Folder::new());
    }
    let (daemon, _group) = daemon_in(&database, folder, json!({}));
    assert!(is_credited(credited), "{:#?}", daemon.log());
    assert_eq!(daemon.logged("1 peers of users"), 1, "{:#?}", daemon.log());
}

#[test]
fn when_a_successor_fails_the_tracker_returns_with_peers_and_totals() {
    let database = SiteDatabase::sqlite();
    let folder = Folder::new();
    let program = folder.path().join("program");
    let own = hayate();
    copy(own.get_program().as_ref(), &program);
    let mut command = Command::new(&program);
    let mut daemon = Daemon::start_in(folder, database.config(json!({})), command.env_remove("RUST_LOG"));
    let udp = client(&daemon);
    announce_over_udp(&udp, &over_udp(PLAIN, &FREE, 1, [1000, 0], 0, 0));
    for (number, script) in [
        // It ends at once.
        "exit 1",
        // It is ready, and ends when it receives GO, before which the tracker has written everything to the
        // disk.
        "printf R >&0; timeout 2 cat >/dev/null",
        "printf R >&0; timeout 2 cat >/dev/null",
    ]
    .into_iter()
    .enumerate()
    {
        replace_by_script(&daemon.folder, &program, script);
        let output = upgrade(&daemon);
        let stderr = String::from_utf8(output.stderr).unwrap();
        let expected = "keeps serving: the new process has ended";
        assert!(!output.status.success() && stderr.contains(expected), "{stderr}");
        let total = 2000 + 1000 * number as u64;
        announce_over_udp(&udp, &over_udp(PLAIN, &FREE, 1, [total, 0], 0, 0));
        let more = format!("&left=0&uploaded={}", total + 500);
        let reply = fetch_text(daemon.v4(), &target(PLAIN, &FREE, 1, &more));
        assert!(reply.starts_with("d8:completei1e"), "{reply}");
        assert_eq!(daemon.logged("upgrade refused"), number + 1);
    }
    assert!(daemon.is_running());
    // A good one succeeds from the same place.
    let draft = daemon.folder.path().join("draft");
    copy(own.get_program().as_ref(), &draft);
    std::fs::rename(draft, &program).unwrap();
    assert!(upgrade(&daemon).status.success());
    assert!(daemon.wait().success(), "{:#?}", daemon.log());
    let successor = SuccessorGuard::of(&daemon);
    announce_over_udp(&udp, &over_udp(PLAIN, &FREE, 1, [6000, 0], 0, 0));
    successor.stop();
    assert_eq!(database.query("SELECT rawup FROM users_main WHERE ID = 1"), "5000");
}

#[test]
fn while_the_database_is_away_there_is_no_upgrade_and_nothing_is_interrupted() {
    let mut database = SiteDatabase::mariadb();
    let mut daemon = database.daemon(json!({}));
    let udp = client(&daemon);
    announce_over_udp(&udp, &over_udp(PLAIN, &FREE, 1, [1000, 0], 0, 0));
    database.server.as_mut().unwrap().kill9();
    let output = upgrade(&daemon);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && stderr.contains("the new process has ended"), "{stderr}");
    announce_over_udp(&udp, &over_udp(PLAIN, &FREE, 1, [2000, 0], 0, 0));
    database.server.as_mut().unwrap().start();
    assert!(eventually(|| database.query("SELECT rawup FROM users_main WHERE ID = 1") == "1000"));
    assert!(daemon.is_running());
    stop(&mut daemon);
}
