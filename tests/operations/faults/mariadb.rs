//! Faults of a real MariaDB.

use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::{Daemon, Folder, eventually, hayate};
use crate::kit::finishing_peers::{FinishingPeers, TORRENTS, is_written};
use crate::mariadb_server::Server;
use crate::operations::upgrade::{SuccessorGuard, upgrade};

/// Returns the completed count of every torrent in the database.
pub(crate) fn counted(server: &Server) -> std::collections::BTreeMap<u8, u64> {
    let rows = server.sql_in("site", "SELECT HEX(info_hash), completed FROM hayate_completed");
    let row = |line: &str| {
        let (hash, count) = line.split_once('\t').unwrap();
        (u8::from_str_radix(&hash[..2], 16).unwrap(), count.parse().unwrap())
    };
    rows.lines().map(row).collect()
}

pub(crate) fn server() -> Server {
    let server = Server::new();
    server.database("site");
    let output = command(&server).arg("migrate").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    server
}

/// Returns a command that runs hayate with this database.
fn command(server: &Server) -> Command {
    let mut command = hayate();
    command.env("DB_DSN", server.dsn("site"));
    command
}

fn daemon(server: &Server, changes: serde_json::Value) -> Daemon {
    daemon_in(Folder::new(), server, changes)
}

pub(crate) fn daemon_in(folder: Folder, server: &Server, changes: serde_json::Value) -> Daemon {
    let mut config = json!({"intervals": {"flush": 1}});
    crate::harness::merge(&mut config, changes);
    Daemon::start_in(folder, config, &mut command(server))
}

fn stop(daemon: &mut Daemon) {
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait().success(), "{:#?}", daemon.log());
}

#[test]
fn a_successor_that_never_reaches_the_database_keeps_what_it_counted() {
    let mut server = server();
    let mut daemon = daemon(&server, json!({}));
    let mut finishers = FinishingPeers::of(&daemon);
    finishers.finish(100);
    assert!(is_written(&daemon), "{:#?}", daemon.log());
    server.stop();
    finishers.finish(100);
    assert!(upgrade(&daemon).status.success());
    let successor = SuccessorGuard::of(&daemon);
    assert!(daemon.wait().success(), "{:#?}", daemon.log());
    finishers.finish(100);
    successor.stop();
    server.start();
    let folder = std::mem::replace(&mut daemon.folder, Folder::new());
    let daemon = daemon_in(folder, &server, json!({}));
    assert!(is_written(&daemon), "{:#?}", daemon.log());
    assert_eq!((counted(&server), finishers.unanswered), (finishers.answered.clone(), 0));
}

#[test]
fn a_database_that_is_stopped_killed_or_restarted_loses_and_doubles_nothing() {
    let mut server = server();
    // A small queue, so that rows go to the disk while the database is unreachable.
    let mut daemon = daemon(&server, json!({"channels": {"completed": 7}}));
    let mut finishers = FinishingPeers::of(&daemon);
    finishers.finish(500);
    assert!(is_written(&daemon), "{:#?}", daemon.log());
    for kill in [Server::stop as fn(&mut Server), Server::kill9] {
        finishers.finish(100);
        kill(&mut server);
        finishers.finish(2000);
        assert!(
            eventually(|| daemon.metric(r#"spill_rows{channel="completed"}"#) > 0),
            "{:#?}",
            daemon.log()
        );
        assert!(eventually(|| daemon.metric("database_up") == 0), "{:#?}", daemon.log());
        server.start();
        finishers.finish(100);
        assert!(eventually(|| daemon.metric("database_up") == 1), "{:#?}", daemon.log());
        assert!(is_written(&daemon), "{:#?}", daemon.log());
        assert_eq!((counted(&server), finishers.unanswered), (finishers.answered.clone(), 0));
    }
    assert_eq!((daemon.logged("database lost"), daemon.logged("database back")), (2, 2), "one line each");
    // Stopped while it is unreachable: what waits is on the disk, and the next run writes it to the database.
    server.kill9();
    finishers.finish(300);
    stop(&mut daemon);
    server.start();
    let folder = std::mem::replace(&mut daemon.folder, Folder::new());
    let daemon = daemon_in(folder, &server, json!({}));
    finishers.set_tracker(&daemon);
    assert_eq!((counted(&server), finishers.scraped()), (finishers.answered.clone(), finishers.answered));
}

#[test]
fn a_frozen_database_delays_no_client_and_the_second_signal_saves_waiting_rows() {
    let server = server();
    let mut daemon = daemon(&server, json!({"channels": {"completed": 7}}));
    let mut finishers = FinishingPeers::of(&daemon);
    finishers.finish(200);
    server.freeze();
    finishers.finish(1000);
    assert!(eventually(|| daemon.metric(r#"queue_lag_seconds{channel="completed"}"#) > 0));
    finishers.finish(1000);
    server.thaw();
    assert!(is_written(&daemon), "{:#?}", daemon.log());
    assert_eq!((counted(&server), finishers.unanswered), (finishers.answered.clone(), 0));
    server.freeze();
    finishers.finish(500);
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for_log("\"stopping\"", 1);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(143), "it does not wait for the database");
    server.thaw();
    let folder = std::mem::replace(&mut daemon.folder, Folder::new());
    let daemon = daemon_in(folder, &server, json!({}));
    finishers.set_tracker(&daemon);
    assert_eq!((counted(&server), finishers.scraped()), (finishers.answered.clone(), finishers.answered));
}

#[test]
fn a_tracker_that_is_killed_under_load_comes_back_with_what_the_database_acknowledged() {
    let server = server();
    let mut daemon = daemon(&server, json!({"channels": {"completed": 20}}));
    let mut finishers = FinishingPeers::of(&daemon);
    for _ in 0..3 {
        std::thread::scope(|scope| {
            let load = scope.spawn(|| {
                finishers.socket().set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                while finishers.unanswered == 0 {
                    finishers.finish(20);
                }
            });
            let at_work = || daemon.metric(r#"rows_written_total{channel="completed"}"#) > 200;
            assert!(eventually(at_work));
            daemon.signal(Signal::SIGKILL);
            load.join().unwrap();
        });
        daemon.wait();
        let acknowledged = counted(&server);
        let folder = std::mem::replace(&mut daemon.folder, Folder::new());
        daemon = daemon_in(folder, &server, json!({"channels": {"completed": 20}}));
        finishers.set_tracker(&daemon);
        let replayed = counted(&server);
        assert_eq!(finishers.scraped(), replayed, "what is served is what the database has");
        for (torrent, count) in &replayed {
            let answered = finishers.answered.get(torrent).copied().unwrap_or(0);
            assert!(acknowledged.get(torrent).copied().unwrap_or(0) <= *count, "nothing is taken back");
            assert!(
                *count <= answered + finishers.unanswered,
                "torrent {torrent}: {count} of {answered}: nothing twice"
            );
        }
        (finishers.answered, finishers.unanswered) = (replayed, 0);
        finishers.finish(200);
    }
    stop(&mut daemon);
    assert_eq!(counted(&server), finishers.answered, "an orderly stop loses nothing");
}

#[test]
fn a_batch_is_retried_until_deadlocks_are_over() {
    let server = server();
    let daemon = daemon(&server, json!({"database": {"deadlock_pause": "300ms"}}));
    let mut finishers = FinishingPeers::of(&daemon);
    finishers.finish(400);
    assert!(is_written(&daemon));
    // Another session takes the last row, then the first, while a batch goes from the first to the last. It
    // has changed so much that it is the batch that is undone.
    let weight = "INSERT INTO mod_core SELECT seq, 1 FROM seq_1_to_20000";
    let hold = format!(
        "START TRANSACTION; {weight}; {}; SELECT SLEEP(3); {}; ROLLBACK",
        touch_by_key(TORRENTS - 1),
        touch_by_key(0)
    );
    std::thread::scope(|scope| {
        let holder = scope.spawn(|| server.sql_in("site", &hold));
        let sleeps = "SELECT COUNT(*) FROM information_schema.processlist WHERE state = 'User sleep'";
        server.wait_for(sleeps, "1");
        finishers.finish(400);
        holder.join().unwrap();
    });
    assert!(is_written(&daemon), "{:#?}", daemon.log());
    assert_eq!((counted(&server), finishers.unanswered), (finishers.answered.clone(), 0));
    assert!(daemon.metric("deadlock_count") > 0, "{:#?}", daemon.log());
}

#[test]
fn a_lock_that_is_held_too_long_postpones_the_batch() {
    let server = server();
    let mut command = hayate();
    command.env("DB_DSN", format!("{}?innodb_lock_wait_timeout=1", server.dsn("site")));
    let changes = json!({"intervals": {"flush": 1}, "database": {"deadlock_retries": 2}});
    let daemon = Daemon::start_in(Folder::new(), changes, &mut command);
    let mut finishers = FinishingPeers::of(&daemon);
    finishers.finish(400);
    assert!(is_written(&daemon));
    let hold = format!("START TRANSACTION; {}; SELECT SLEEP(8); ROLLBACK", touch_by_key(0));
    std::thread::scope(|scope| {
        let holder = scope.spawn(|| server.sql_in("site", &hold));
        server
            .wait_for("SELECT COUNT(*) FROM information_schema.processlist WHERE state = 'User sleep'", "1");
        finishers.finish(400);
        assert!(eventually(|| daemon.metric("deadlock_aborted_count") > 0), "{:#?}", daemon.log());
        finishers.finish(400);
        holder.join().unwrap();
    });
    assert!(is_written(&daemon), "{:#?}", daemon.log());
    assert_eq!((counted(&server), finishers.unanswered), (finishers.answered.clone(), 0));
}

/// Selects by the key, so that no other row is locked.
fn touch_by_key(torrent: u8) -> String {
    let hash = format!("{torrent:02x}").repeat(20);
    format!("UPDATE hayate_completed SET last_completed = 1 WHERE info_hash = X'{hash}'")
}

#[test]
fn a_row_that_is_refused_goes_to_the_dead_letters_and_all_others_are_written() {
    let server = server();
    let daemon = daemon(&server, json!({}));
    let mut finishers = FinishingPeers::of(&daemon);
    finishers.finish(u32::from(TORRENTS));
    assert!(is_written(&daemon));
    let before = finishers.answered[&7];
    let refuse = "ALTER TABLE hayate_completed ADD CONSTRAINT full CHECK";
    server.sql_in("site", &format!("{refuse} (HEX(info_hash) NOT LIKE '0707%' OR completed <= {before})"));
    finishers.finish(3 * u32::from(TORRENTS));
    assert!(is_written(&daemon), "{:#?}", daemon.log());
    let mut expected = finishers.answered.clone();
    expected.insert(7, before);
    assert_eq!(counted(&server), expected);
    assert!(daemon.metric(r#"dead_letters{channel="completed"}"#) > 0);
    let letters = std::fs::read_to_string(daemon.folder.path().join("dead-letter.jsonl")).unwrap();
    let mut lost = 0;
    for line in letters.lines() {
        let letter: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!((&letter["queue"], &letter["info_hash"]), (&json!("completed"), &json!("07".repeat(20))));
        assert_eq!(letter["error"], 4025, "{letter}");
        assert!(letter["time"].is_u64() && letter["sequence"].is_u64() && letter["text"].is_string());
        lost += letter["completed"].as_u64().unwrap();
    }
    assert_eq!(lost, 3, "what could not be written is in the letters");
}

#[test]
fn a_database_without_tables_or_of_a_newer_version_is_refused_with_a_clear_line() {
    let server = Server::new();
    server.database("site");
    let folder = Folder::new();
    let start = |what: &[&str]| {
        let mut command = command(&server);
        command.args(what).current_dir(folder.path());
        for key in ["UDP", "HTTP", "METRICS"] {
            command.env(format!("HAYATE__{key}__ADDR"), "");
        }
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, stderr) = start(&["--nocolors"]);
    assert!(code == Some(1) && stderr.contains("hayate migrate"), "{stderr}");
    let print = command(&server).args(["migrate", "--print"]).output().unwrap();
    let statements = String::from_utf8(print.stdout).unwrap();
    assert!(statements.contains("CREATE TABLE IF NOT EXISTS hayate_journal"), "{statements}");
    assert_eq!(server.sql_in("site", "SHOW TABLES"), "", "printing changes nothing");
    server.sql_in("site", &statements);
    for _ in 0..2 {
        assert_eq!(start(&["migrate"]).0, Some(0), "safe to repeat, also after it was done by hand");
    }
    server.sql_in("site", "UPDATE hayate_schema SET version = version + 1");
    for command in [&["migrate"][..], &["run"]] {
        let (code, stderr) = start(command);
        assert!(code == Some(1) && stderr.contains("newer hayate"), "{stderr}");
        assert!(!stderr.contains("p@ss"), "{stderr}");
    }
}

#[test]
fn a_second_tracker_on_one_database_is_refused() {
    let server = server();
    let first = daemon(&server, json!({}));
    let folder = Folder::new();
    let mut second = command(&server);
    second.current_dir(folder.path()).env("HAYATE__UDP__ADDR", "").env("HAYATE__HTTP__ADDR", "");
    let output = second.env("HAYATE__METRICS__ADDR", "").output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && stderr.contains("another hayate"), "{stderr}");
    let mut finishers = FinishingPeers::of(&first);
    finishers.finish(10);
    assert!(is_written(&first));
}

#[test]
fn registered_torrents_come_from_the_database_and_are_read_again() {
    let server = server();
    let register = |torrent: u8| {
        let row = format!(
            "INSERT INTO torrents (GroupID, TorrentType, info_hash) VALUES (1, 'anime', X'{}')",
            format!("{torrent:02x}").repeat(20)
        );
        server.sql_in("site", &row);
    };
    register(7);
    let config = json!({"mode": "listed", "intervals": {"database_reload": 1}});
    let mut server_daemon = daemon(&server, config);
    let daemon = &mut server_daemon;
    let mut finishers = FinishingPeers::of(daemon);
    let is_served = |finishers: &FinishingPeers, torrent: u8| finishers.is_served(torrent);
    assert!(is_served(&finishers, 7) && !is_served(&finishers, 11));
    register(11);
    assert!(eventually(|| is_served(&finishers, 11)), "{:#?}", daemon.log());
    assert!(is_served(&finishers, 7) && !is_served(&finishers, 13));
    // A database that breaks off leaves the set as it was.
    let mut server = server;
    server.kill9();
    assert!(eventually(|| daemon.metric(r#"reload_failures{source="torrents"}"#) > 0));
    assert!(is_served(&finishers, 7) && is_served(&finishers, 11));
    server.start();
    server.sql_in("site", "DELETE FROM torrents WHERE HEX(info_hash) LIKE '07%'");
    assert!(eventually(|| !is_served(&finishers, 7)), "{:#?}", daemon.log());
    finishers.answered.clear();
}
