//! A stop is quick and orderly, whatever hangs: the database, the reader of stderr, a reload, a successor.
//! Orchestrators kill after ten seconds; a test fails only where a stop would take far longer or forever.

use std::io::{BufRead, BufReader, PipeReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use super::mariadb::{counted, daemon_in, server};
use crate::harness::{Daemon, Folder, eventually, hayate, merge};
use crate::kit::finishing_peers::{FinishingPeers, is_written};

/// A stop that takes longer than this hangs.
const STOP_MAX: Duration = Duration::from_secs(30);
/// With this number of retries, only a stop that does not wait for the database ends in time.
const RETRIES: u32 = 100;

/// A connection that locks the database, so that no other can write.
fn locked(path: &Path) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_secs(20)).unwrap();
    connection.execute_batch("BEGIN EXCLUSIVE").unwrap();
    connection
}

/// Restarts the tracker, and checks that every finished download counts once and every peer is there.
fn restart(
    mut daemon: Daemon,
    finishers: &mut FinishingPeers,
    changes: serde_json::Value,
    peers: u64,
) -> Daemon {
    let folder = std::mem::replace(&mut daemon.folder, Folder::new());
    let daemon = Daemon::start_in(folder, changes, &mut hayate());
    daemon.wait_for_log(&format!("{peers} peers"), 1);
    finishers.set_tracker(&daemon);
    assert_eq!((finishers.scraped(), finishers.unanswered), (finishers.answered.clone(), 0));
    daemon
}

#[test]
fn a_locked_file_of_the_database_delays_no_stop() {
    let changes = json!({"intervals": {"flush": 1}, "database": {"deadlock_retries": RETRIES}});
    let mut daemon = Daemon::start(changes.clone());
    let mut finishers = FinishingPeers::of(&daemon);
    finishers.finish(300);
    assert!(is_written(&daemon), "{:#?}", daemon.log());
    let lock = locked(&daemon.folder.path().join("hayate.db"));
    finishers.finish(500);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait_at_most(STOP_MAX).code(), Some(0), "{:#?}", daemon.log());
    daemon.wait_for_log("wrote a snapshot of 800 peers", 1);
    daemon.wait_for_log("rows wait on the disk", 1);
    drop(lock);
    let daemon = restart(daemon, &mut finishers, changes, 800);
    assert!(is_written(&daemon));
}

#[test]
fn a_frozen_server_of_the_database_delays_no_stop() {
    let server = server();
    let mut daemon = daemon_in(Folder::new(), &server, json!({}));
    let mut finishers = FinishingPeers::of(&daemon);
    finishers.finish(300);
    assert!(is_written(&daemon), "{:#?}", daemon.log());
    server.freeze();
    finishers.finish(500);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait_at_most(STOP_MAX).code(), Some(0), "{:#?}", daemon.log());
    daemon.wait_for_log("wrote a snapshot of 800 peers", 1);
    server.thaw();
    let changes = json!({"database": {"dsn": server.dsn("site")}});
    let daemon = restart(daemon, &mut finishers, changes, 800);
    assert!(is_written(&daemon));
    assert_eq!(counted(&server), finishers.answered);
}

#[test]
fn a_start_that_hangs_ends_at_a_signal() {
    let server = server();
    server.freeze();
    let folder = Folder::new();
    let mut command = hayate();
    command.env("DB_DSN", server.dsn("site")).stderr(Stdio::piped());
    Daemon::prepare(&folder, json!({}), &mut command);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("opening the database")));
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
    // Its timeout for the database is longer, and would end with an error.
    assert!(lines.any(|line| line.contains("stopped before the start was done")));
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// Starts with a stderr that nobody reads.
fn start_with_full_stderr(
    folder: Folder,
    changes: serde_json::Value,
    command: &mut Command,
) -> (Daemon, PipeReader) {
    let ports = Daemon::prepare(&folder, changes, command);
    Daemon::start_with_full_stderr(folder, ports, command)
}

#[test]
fn a_log_that_nobody_reads_delays_neither_the_store_nor_a_stop_and_health_reports_it() {
    let changes = json!({"log_flushes": true, "intervals": {"flush": 1}});
    let (mut daemon, _reader) = start_with_full_stderr(Folder::new(), changes.clone(), &mut hayate());
    let mut finishers = FinishingPeers::of(&daemon);
    for _ in 0..3 {
        finishers.finish(100);
        assert!(is_written(&daemon), "the store does not wait for the log");
    }
    let health = || String::from_utf8(daemon.page("/health").unwrap().body).unwrap();
    assert!(eventually(|| health().contains("degraded: logging is stalled")), "{}", health());
    assert_eq!(daemon.page("/health").unwrap().status, 200, "clients are served");
    assert!(daemon.metric("log_stalled_seconds") >= 10);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait_at_most(STOP_MAX).code(), Some(0));
    restart(daemon, &mut finishers, changes, 300);
}

#[test]
fn a_file_of_the_database_that_was_deleted_or_replaced_is_noticed() {
    let daemon = Daemon::start(json!({}));
    let path = daemon.folder.path().join("hayate.db");
    let away = daemon.folder.path().join("away.db");
    let health = || String::from_utf8(daemon.page("/health").unwrap().body).unwrap();
    assert_eq!((health().as_str(), daemon.metric("database_file_lost")), ("ok\n", 0));
    for replaced in [false, true] {
        std::fs::rename(&path, &away).unwrap();
        if replaced {
            std::fs::copy(&away, &path).unwrap();
        }
        assert!(eventually(|| daemon.metric("database_file_lost") == 1), "{:#?}", daemon.log());
        assert!(
            health().contains("degraded: the file of the database was deleted or replaced"),
            "{}",
            health()
        );
        std::fs::rename(&away, &path).unwrap();
        assert!(eventually(|| daemon.metric("database_file_lost") == 0), "{:#?}", daemon.log());
    }
    daemon.wait_for_log("the file of the database is in its place again", 2);
    assert_eq!(daemon.logged("the file of the database was deleted or replaced"), 2);
}

/// A server of keys that accepts connections and does not answer, so that a client hangs for ten seconds.
struct SilentKeys(TcpListener);

impl SilentKeys {
    fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    /// Returns the part of a configuration that uses this server.
    fn hook(&self) -> serde_json::Value {
        let url = format!("http://{}/keys", self.0.local_addr().unwrap());
        json!([{"name": "jwt", "options": {"issuer": "i", "audience": "a", "jwk_set_url": url}}])
    }

    /// Waits until a client connects; the client hangs for as long as the connection exists.
    fn accept_client(&self) -> std::net::TcpStream {
        self.0.accept().unwrap().0
    }
}

#[test]
fn a_reload_that_hangs_delays_no_stop_and_the_next_one_follows_it() {
    let keys = SilentKeys::new();
    let mut daemon = Daemon::start(json!({}));
    let hang = |daemon: &Daemon| {
        daemon.rewrite_config(|config| config["prehooks"] = keys.hook());
        daemon.signal(Signal::SIGHUP);
        keys.accept_client()
    };
    let connection = hang(&daemon);
    daemon.rewrite_config(|config| _ = config.as_object_mut().unwrap().remove("prehooks"));
    daemon.signal(Signal::SIGHUP);
    // The server of keys disconnects: the first reload is refused, and the second one follows.
    drop(connection);
    daemon.wait_for_log("\"reloaded\"", 1);
    assert_eq!(daemon.logged("reload refused"), 1, "{:#?}", daemon.log());
    let _connection = hang(&daemon);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait_at_most(STOP_MAX).code(), Some(0));
    daemon.wait_for_log("wrote a snapshot", 1);
    assert_eq!(daemon.logged("reload refused"), 1, "it was still hanging: {:#?}", daemon.log());
}

/// A copy of the program, which can be replaced by a successor that only reports that it has started.
struct Program {
    folder: Folder,
}

impl Program {
    fn new() -> Self {
        let program = Self { folder: Folder::new() };
        // By another process: a file that this one writes may be open in a child that another test has just
        // started, and then the system refuses to execute it.
        let copied = Command::new("cp").arg(hayate().get_program()).arg(program.path()).status();
        assert!(copied.unwrap().success());
        program
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("hayate")
    }

    fn started(&self) -> std::path::PathBuf {
        self.folder.path().join("started")
    }

    fn replace_by_one_that_hangs(&self) {
        let script = format!("#!/bin/sh\necho $$ > {}\nexec sleep 600", self.started().display());
        let replace = r#"echo "$1" > "$0.new" && chmod 755 "$0.new" && mv "$0.new" "$0""#;
        let mut shell = Command::new("sh");
        assert!(shell.args(["-c", replace]).arg(self.path()).arg(script).status().unwrap().success());
    }

    /// The process id of a successor that has started.
    fn successor(&self) -> nix::unistd::Pid {
        let pid = || std::fs::read_to_string(self.started()).ok()?.trim().parse().ok();
        assert!(eventually(|| pid().is_some()), "no successor has started");
        nix::unistd::Pid::from_raw(pid().unwrap())
    }
}

#[test]
fn a_successor_that_hangs_delays_no_stop_and_ends_with_it() {
    let program = Program::new();
    let mut command = Command::new(program.path());
    let mut daemon = Daemon::start_in(Folder::new(), json!({}), command.env_remove("RUST_LOG"));
    FinishingPeers::of(&daemon).finish(70);
    program.replace_by_one_that_hangs();
    daemon.signal(Signal::SIGUSR2);
    let successor = program.successor();
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait_at_most(STOP_MAX).code(), Some(0), "{:#?}", daemon.log());
    assert!(eventually(|| nix::sys::signal::kill(successor, None).is_err()));
    daemon.wait_for_log("upgrade refused: the tracker is stopping", 1);
    daemon.wait_for_log("wrote a snapshot of 70 peers", 1);
}

#[test]
fn everything_at_once_delays_no_stop() {
    // A reload that comes before the upgrade is under way in its thread; one that comes later waits.
    for reload_first in [true, false] {
        let (program, keys) = (Program::new(), SilentKeys::new());
        let config = json!({"intervals": {"flush": 1}, "database": {"deadlock_retries": RETRIES}});
        let mut command = Command::new(program.path());
        let (mut daemon, _reader) =
            start_with_full_stderr(Folder::new(), config.clone(), command.env_remove("RUST_LOG"));
        let mut finishers = FinishingPeers::of(&daemon);
        finishers.finish(300);
        assert!(is_written(&daemon));
        let lock = locked(&daemon.folder.path().join("hayate.db"));
        finishers.finish(500);
        daemon.rewrite_config(|config| config["prehooks"] = keys.hook());
        program.replace_by_one_that_hangs();
        let _connection = if reload_first {
            daemon.signal(Signal::SIGHUP);
            let connection = Some(keys.accept_client());
            daemon.signal(Signal::SIGUSR2);
            connection
        } else {
            daemon.signal(Signal::SIGUSR2);
            program.successor();
            daemon.signal(Signal::SIGHUP);
            None
        };
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.wait_at_most(STOP_MAX).code(), Some(0));
        drop(lock);
        let mut changes = config;
        merge(&mut changes, json!({"prehooks": []}));
        let daemon = restart(daemon, &mut finishers, changes, 800);
        assert!(is_written(&daemon), "{:#?}", daemon.log());
    }
}
