//! Upgrades in a row, under load, while every process that takes part gets many signals: each succeeds, and
//! no request stays unanswered. A handful in `make test`, a hundred in `make soak`.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::json;

use crate::harness::{
    Daemon, Folder, StopOnDrop, TIMEOUT, UdpClient, announce_rest, announce_target, eventually, fetch,
    free_port, hayate, receive,
};
use crate::operations::upgrade::{SuccessorGuard, http_load, upgrade};

/// The variable that holds the number of upgrades.
pub(crate) const VARIABLE: &str = "HAYATE_STORM_UPGRADES";
/// Announces of a client with one connection id, which must not expire meanwhile.
const ANNOUNCES_PER_ID: u32 = 500;
/// Peers that each client announces, in turns.
const PORTS: u16 = 20_000;

/// Announces by one datagram after another until told to stop; each must be answered, and is never sent
/// again. Returns their number.
fn udp_load(address: SocketAddr, torrent: u8, stop: &AtomicBool) -> u32 {
    let mut answered = 0;
    while !stop.load(Ordering::Relaxed) {
        let client = UdpClient::connect("127.0.0.1", address);
        client.socket.set_read_timeout(Some(TIMEOUT)).unwrap();
        for _ in 0..ANNOUNCES_PER_ID {
            let port = 1 + u16::try_from(answered % u32::from(PORTS)).unwrap();
            client.socket.send(&client.request(1, &announce_rest(torrent, port, 9, 0, 0))).unwrap();
            let reply = receive(&client.socket).expect("a reply to every datagram");
            assert_eq!(&reply[..8], &[0, 0, 0, 1, 1, 2, 3, 4]);
            answered += 1;
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
    }
    answered
}

/// Ends all processes of a group with the test.
pub(crate) struct Group(pub(crate) Pid);

impl Drop for Group {
    fn drop(&mut self) {
        _ = killpg(self.0, Signal::SIGKILL);
    }
}

/// Sends a signal each millisecond to all processes of a group, until told to stop.
pub(crate) fn send_signals(group: Pid, signal: Signal, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        killpg(group, signal).expect("a process of the group exists");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn upgrades_succeed_in_a_storm_of_signals_and_lose_no_request() {
    let upgrades = std::env::var(VARIABLE).map_or(5, |text| text.parse().unwrap());
    let mut command = hayate();
    // The group of all processes that follow: its signals reach a successor from its first moment.
    command.process_group(0);
    let mut daemon = Daemon::start_in(Folder::new(), json!({}), &mut command);
    let address = daemon.v4();
    let client = UdpClient::connect("127.0.0.1", address);
    for port in 2001..2501 {
        client.announce(b'A', port, u64::from(port % 2), 1);
    }
    let group = Pid::from_raw(i32::try_from(daemon.pid()).unwrap());
    let _group = Group(group);
    let stop = AtomicBool::new(false);
    let (successor, answered) = std::thread::scope(|scope| {
        let ending = StopOnDrop(&stop);
        let udp = [b'X', b'Y'].map(|torrent| {
            scope.spawn({
                let stop = &stop;
                move || udp_load(address, torrent, stop)
            })
        });
        let http = scope.spawn(|| http_load(address, &stop));
        scope.spawn(|| send_signals(group, Signal::SIGHUP, &stop));
        for number in 1..=upgrades {
            let output = upgrade(&daemon);
            assert!(output.status.success(), "upgrade {number} of {upgrades}");
        }
        drop(ending);
        (SuccessorGuard::of(&daemon), (udp.map(|load| load.join().unwrap()), http.join().unwrap()))
    });
    println!("{upgrades} upgrades, answered: {answered:?}");
    assert!(daemon.wait().success(), "{:#?}", daemon.log());
    let ([x, y], http) = answered;
    let client = UdpClient::connect("127.0.0.1", address);
    // The last changes of the last predecessor arrive when it has ended.
    assert!(eventually(|| client.scrape(b'H')[2] == http.min(500)), "{:?}, {http}", client.scrape(b'H'));
    assert_eq!(client.scrape(b'A'), [250, 250, 250]);
    assert_eq!(client.scrape(b'X')[2], x.min(u32::from(PORTS)));
    assert_eq!(client.scrape(b'Y')[2], y.min(u32::from(PORTS)));
    successor.stop();
}

/// Starts a daemon in one process group with its successors.
fn daemon_in(folder: Folder) -> (Daemon, Group) {
    let mut command = hayate();
    command.process_group(0);
    let daemon = Daemon::start_in(folder, json!({}), &mut command);
    let group = Group(Pid::from_raw(i32::try_from(daemon.pid()).unwrap()));
    (daemon, group)
}

/// Sends half a request, for which a tracker waits before it ends: so it still runs when it gets a signal.
fn half_a_request(daemon: &Daemon) -> TcpStream {
    let mut stream = TcpStream::connect(daemon.v4()).unwrap();
    stream.write_all(b"GET ").unwrap();
    // The connection that fetches the metric is one more.
    assert!(eventually(|| daemon.metric("http_connections") == 2));
    stream
}

/// Times after the request for an upgrade: before there is a successor, while it starts, when it serves.
pub(crate) const MOMENTS: [u64; 6] = [0, 3, 20, 50, 100, 300];

#[test]
fn a_stop_at_any_moment_of_an_upgrade_ends_both_and_keeps_all_peers() {
    for moment in MOMENTS {
        let (mut daemon, group) = daemon_in(Folder::new());
        let client = UdpClient::connect("127.0.0.1", daemon.v4());
        (2001..2012).for_each(|port| _ = client.announce(b'A', port, 9, 2));
        let half = half_a_request(&daemon);
        daemon.signal(Signal::SIGUSR2);
        std::thread::sleep(Duration::from_millis(moment));
        // Only to the predecessor: the signal must not be lost when that ends.
        daemon.signal(Signal::SIGTERM);
        drop(half);
        assert!(daemon.wait().success(), "{moment} ms: {:#?}", daemon.log());
        assert!(eventually(|| killpg(group.0, None).is_err()), "{moment} ms: {:#?}", daemon.log());
        let folder = std::mem::replace(&mut daemon.folder, Folder::new());
        let restarted = Daemon::start_in(folder, json!({}), &mut hayate());
        let client = UdpClient::connect("127.0.0.1", restarted.v4());
        assert_eq!(client.scrape(b'A'), [0, 0, 11], "{moment} ms: {:#?}", daemon.log());
    }
}

#[test]
fn a_reload_at_any_moment_of_an_upgrade_is_carried_out() {
    for moment in MOMENTS {
        let (daemon, _group) = daemon_in(Folder::new());
        let half = half_a_request(&daemon);
        daemon.signal(Signal::SIGUSR2);
        std::thread::sleep(Duration::from_millis(moment));
        daemon.rewrite_config(|config| config["intervals"] = json!({"announce": 1777, "announce_drift": 0}));
        daemon.signal(Signal::SIGHUP);
        drop(half);
        let interval = || {
            let reply = fetch(daemon.v4(), &announce_target('A', 7001, "&left=9")).bencoded();
            reply.at("interval").and_then(hayate_tools::bencode::Value::integer)
        };
        assert!(eventually(|| interval() == Some(1777)), "{moment} ms: {:#?}", daemon.log());
    }
}

/// Copies a program by another process: a descriptor of this one may be in a child of another test, and then
/// the file cannot be executed.
pub(crate) fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg(from).arg(to).status().unwrap().success());
}

/// Replaces a program, which may not be written to while it runs, by a script.
pub(crate) fn replace_by_script(folder: &Folder, program: &Path, script: &str) {
    let text = folder.write("script", &format!("#!/bin/sh\n{script}\n"));
    let draft = folder.path().join("draft");
    copy(&text, &draft);
    std::fs::set_permissions(&draft, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::rename(draft, program).unwrap();
}

#[test]
fn a_successor_that_never_serves_is_ended_and_the_tracker_keeps_serving() {
    let folder = Folder::new();
    let program = folder.path().join("program");
    copy(hayate().get_program().as_ref(), &program);
    let port = free_port();
    let config = json!({
        "udp": {"addr": format!("127.0.0.1:{port}")}, "http": {"addr": ""}, "metrics": {"addr": ""},
        "state_dir": "."
    });
    let path = folder.write("tracker.json", &config.to_string());
    let mut command = Command::new(&program);
    let mut daemon =
        Daemon::start_command(folder, port, 0, command.env_remove("RUST_LOG").arg("-c").arg(path));
    let client = UdpClient::connect("127.0.0.1", daemon.v4());
    client.socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    client.announce(b'A', 7001, 9, 2);
    for (number, script) in [
        // It dies at once; twice, for a second refusal with the same text is another one.
        "exit 1",
        "exit 1",
        // It is ready, receives GO, and dies.
        "printf R >&0; timeout 2 cat >/dev/null",
    ]
    .into_iter()
    .enumerate()
    {
        replace_by_script(&daemon.folder, &program, script);
        let output = upgrade(&daemon);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && stderr.contains("keeps serving: the new process has ended"),
            "{stderr}"
        );
        assert_eq!(client.announce(b'A', 7002, 9, 2).0, 2, "the peers are there");
        assert_eq!(daemon.logged("upgrade refused"), number + 1);
    }
    assert!(daemon.is_running());
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait().success());
}
