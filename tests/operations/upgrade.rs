//! `hayate upgrade`: a running tracker is replaced under load, and no client notices.

use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::harness::{
    Daemon, Folder, TIMEOUT, UdpClient, announce_target, eventually, exchange, fetch, free_port, get, hayate,
};

/// Kills the successor when the test ends, because it is not a child of the test.
pub(crate) struct SuccessorGuard(pub(crate) Pid);

impl SuccessorGuard {
    pub(crate) fn of(daemon: &Daemon) -> Self {
        let lock = std::fs::read_to_string(daemon.folder.path().join("hayate.lock")).unwrap();
        let pid: i32 = lock.lines().next().unwrap().parse().unwrap();
        assert_ne!(u32::try_from(pid).unwrap(), daemon.pid());
        Self(Pid::from_raw(pid))
    }

    pub(crate) fn lives(&self) -> bool {
        kill(self.0, None).is_ok()
    }

    /// Stops the process in order, and waits for its end.
    pub(crate) fn stop(&self) {
        kill(self.0, Signal::SIGTERM).unwrap();
        assert!(eventually(|| !self.lives()));
    }
}

impl Drop for SuccessorGuard {
    fn drop(&mut self) {
        _ = kill(self.0, Signal::SIGKILL);
    }
}

pub(crate) fn upgrade(daemon: &Daemon) -> Output {
    let output = hayate().arg("upgrade").arg("-c").arg(daemon.folder.path().join("tracker.json")).output();
    let output = output.unwrap();
    println!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    output
}

/// Returns the next notification of systemd.
fn next_notification(manager: &UnixDatagram) -> String {
    let mut octets = [0; 200];
    let len = manager.recv(&mut octets).expect("a notification of systemd");
    String::from_utf8_lossy(&octets[..len]).trim_end().to_owned()
}

/// Announces over HTTP, each on a connection of its own, until told to stop. Returns how many were
/// answered.
pub(crate) fn http_load(address: SocketAddr, stop: &AtomicBool) -> u32 {
    let mut answered = 0;
    while !stop.load(Ordering::Relaxed) {
        let stream = TcpStream::connect(address).expect("a connection is never refused");
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        let request = get(&announce_target('H', 7000 + u16::try_from(answered % 500).unwrap(), "&left=9"));
        let response = exchange(stream, &request).expect("an answer");
        assert_eq!(response.status, 200);
        answered += 1;
    }
    answered
}

#[test]
fn a_tracker_is_replaced_under_load_and_loses_nothing() {
    let folder = Folder::new();
    // The socket of systemd.
    let manager = UnixDatagram::bind(folder.path().join("notify")).unwrap();
    manager.set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut command = hayate();
    command.env("NOTIFY_SOCKET", folder.path().join("notify"));
    let mut daemon = Daemon::start_in(folder, json!({"intervals": {"flush": 1}}), &mut command);
    let client = UdpClient::connect("127.0.0.1", daemon.v4());
    for port in 2000..2500 {
        client.announce(b'A', port, u64::from(port % 2), 1);
    }
    let before = client.scrape(b'A');
    assert_eq!(before, [250, 250, 250]);
    let mut load = Command::new(env!("CARGO_BIN_EXE_hayate-load"));
    load.arg(format!("udp://{}", daemon.v4())).args(["--rate", "20000", "--seconds", "8", "--json"]);
    let load = load.stdout(Stdio::piped()).spawn().unwrap();
    let stop = AtomicBool::new(false);
    let (answered, output, id) = std::thread::scope(|scope| {
        let http = scope.spawn(|| http_load(daemon.v4(), &stop));
        let leechers = || daemon.metric(r#"swarm_peers{family="ipv4",role="leecher"}"#);
        assert!(eventually(|| leechers() > 5000), "the load has begun");
        let output = upgrade(&daemon);
        assert!(output.status.success());
        // An id of the predecessor, and a peer that left meanwhile.
        client.announce(b'A', 2000, 0, 3);
        let id = client.id;
        let output = load.wait_with_output().unwrap();
        stop.store(true, Ordering::Relaxed);
        (http.join().unwrap(), output, id)
    });
    let successor = SuccessorGuard::of(&daemon);
    assert!(daemon.wait().success(), "{:#?}", daemon.log());
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    println!("upgrade under load: {report:#}");
    assert!(answered > 100, "{answered} announces over HTTP, none refused");
    let mut notifications: Vec<String> = (0..3).map(|_| next_notification(&manager)).collect();
    // The successor is ready and becomes the main process at the same time.
    notifications.sort();
    assert_eq!(notifications, [format!("MAINPID={}", successor.0), "READY=1".into(), "READY=1".into()]);
    let client = UdpClient { id, ..UdpClient::connect("127.0.0.1", daemon.v4()) };
    assert_eq!(client.scrape(b'A'), [249, 250, 250]);
    assert_eq!(client.scrape(b'H')[2], answered.min(500));
    // Everything that was counted before and after is in the store once.
    client.announce(b'A', 2500, 0, 1);
    successor.stop();
    let folder = std::mem::replace(&mut daemon.folder, Folder::new());
    let daemon = Daemon::start_in(folder, json!({}), &mut hayate());
    let client = UdpClient::connect("127.0.0.1", daemon.v4());
    assert_eq!(client.scrape(b'A'), [250, 251, 250]);
}

#[test]
fn a_successor_that_cannot_serve_changes_nothing() {
    let mut daemon = Daemon::start(json!({}));
    let client = UdpClient::connect("127.0.0.1", daemon.v4());
    client.announce(b'A', 7001, 9, 2);
    let port = free_port();
    for (key, change, expected) in [
        ("udp", json!({"workers": -1}), "ended"),
        ("udp", json!({"addr": format!("127.0.0.1:{port}")}), "ended"),
    ] {
        let path = daemon.folder.path().join("tracker.json");
        let good = std::fs::read_to_string(&path).unwrap();
        let mut bad: serde_json::Value = serde_json::from_str(&good).unwrap();
        bad[key] = change;
        let output = {
            // The command itself reads the configuration too; only the successor is to meet the bad one.
            let running = std::fs::read_to_string(daemon.folder.path().join("hayate.lock")).unwrap();
            let pid: i32 = running.lines().next().unwrap().parse().unwrap();
            let refused = daemon.logged("upgrade refused");
            std::fs::write(&path, bad.to_string()).unwrap();
            kill(Pid::from_raw(pid), Signal::SIGUSR2).unwrap();
            daemon.wait_for_log("upgrade refused", refused + 1);
            std::fs::write(&path, good).unwrap();
            std::fs::read_to_string(daemon.folder.path().join("hayate.lock")).unwrap()
        };
        assert!(output.contains(expected), "{output}");
        assert!(output.starts_with(&daemon.pid().to_string()), "{output}");
        assert_eq!(client.announce(b'A', 7001, 9, 0).0, 1);
    }
    assert!(daemon.is_running());
    assert_eq!(fetch(daemon.v4(), &announce_target('A', 7002, "&left=9")).peers().len(), 1);
}

#[test]
fn without_a_tracker_there_is_nothing_to_upgrade() {
    let folder = Folder::new();
    let output = hayate().arg("upgrade").current_dir(folder.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("no tracker runs with state_dir"), "{stderr}");
}
