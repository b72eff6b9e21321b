//! A start as root in a `state_dir` of a hostile owner, and other users at its lock.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::harness::{Daemon, Folder, UdpClient, announce_target, fetch, free_port, hayate};
use crate::operations::upgrade::{SuccessorGuard, upgrade};

/// The user that owns the folder, and as which the tracker runs.
const NOBODY: u32 = 65534;
/// The files that the tracker makes or looks for in its folder.
const NAMES: [&str; 16] = [
    "udp.key",
    "hayate.lock",
    "hayate-cache.bin",
    "hayate-cache.bin.draft",
    "hayate.db",
    "hayate.db-wal",
    "hayate.db-shm",
    "hayate.db.lock",
    "spill",
    "spill/completed",
    "dead-letter.jsonl",
    "events",
    "http.sock",
    "export.csv",
    "export.csv.draft",
    "torrent-cache.bin",
];

fn is_root() -> bool {
    let is = nix::unistd::geteuid().is_root();
    if !is {
        println!("skipped: only root can drop privileges");
    }
    is
}

fn names_of_folder(path: &Path) -> Vec<PathBuf> {
    let mut names: Vec<_> = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    names
}

/// Returns owner, group, mode and content; of a folder, the names in it.
fn state_of(path: &Path) -> (u32, u32, u32, Vec<u8>, Vec<PathBuf>) {
    let found = std::fs::symlink_metadata(path).unwrap();
    let content = std::fs::read(path).unwrap_or_default();
    let names = if found.is_dir() { names_of_folder(path) } else { Vec::new() };
    (found.uid(), found.gid(), found.mode(), content, names)
}

#[test]
fn a_start_as_root_leaves_alone_what_links_in_the_folder_of_another_user_point_to() {
    if !is_root() {
        return;
    }
    let vault = Folder::new();
    std::fs::set_permissions(vault.path(), PermissionsExt::from_mode(0o711)).unwrap();
    for name in NAMES {
        let is_folder = ["spill", "events"].contains(&name);
        let victim = vault.path().join(name.replace('/', "-"));
        if is_folder {
            std::fs::create_dir(&victim).unwrap();
        } else {
            std::fs::write(&victim, "precious").unwrap();
        }
        std::fs::set_permissions(&victim, PermissionsExt::from_mode(if is_folder { 0o700 } else { 0o600 }))
            .unwrap();
        for target in [victim.clone(), vault.path().join("missing")] {
            let before = (state_of(&victim), names_of_folder(vault.path()));
            let folder = Folder::new();
            let port = free_port();
            let config = json!({
                "udp": {"addr": format!("127.0.0.1:{port}")},
                "http": {"addr": "", "unix_socket": "http.sock"},
                "metrics": {"addr": ""},
                "database": {"dsn": "sqlite:hayate.db"},
                "export": {"interval": "1s"},
                "state_dir": ".",
                "privileges": {"user": NOBODY.to_string(), "group": NOBODY.to_string()},
            });
            let path = folder.write("tracker.json", &config.to_string());
            if let Some((parent, _)) = name.split_once('/') {
                std::fs::create_dir(folder.path().join(parent)).unwrap();
                chown(folder.path().join(parent), Some(NOBODY), Some(NOBODY)).unwrap();
            }
            symlink(&target, folder.path().join(name)).unwrap();
            chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
            serve_and_stop(&path);
            for command in ["migrate", "check-config", "upgrade"] {
                let output = hayate().arg(command).arg("-c").arg(&path).output().unwrap();
                println!("{name}: {command}: {}", String::from_utf8_lossy(&output.stderr));
            }
            assert_eq!((state_of(&victim), names_of_folder(vault.path())), before, "{name}");
        }
        if is_folder {
            std::fs::remove_dir(victim).unwrap();
        } else {
            std::fs::remove_file(victim).unwrap();
        }
    }
}

/// Starts a tracker and stops it when it serves, or waits for its end.
fn serve_and_stop(config: &Path) {
    let mut child = hayate().arg("-c").arg(config).arg("--json").stderr(Stdio::piped()).spawn().unwrap();
    let stderr = child.stderr.take().unwrap();
    for line in std::io::BufRead::lines(std::io::BufReader::new(stderr)).map_while(Result::ok) {
        if line.contains("\"serving\"") {
            kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
        } else if line.contains("\"error\"") {
            println!("{line}");
        }
    }
    child.wait().unwrap();
}

#[test]
fn files_that_only_root_may_read_are_kept_over_reloads_and_upgrades_with_a_warning() {
    if !is_root() {
        return;
    }
    let folder = Folder::new();
    for (name, text) in [("deny.txt", "41".repeat(20)), ("udp.secret", "x".repeat(40))] {
        let path = folder.write(name, &text);
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
    }
    chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let config = json!({
        "access": {"mode": "deny", "path": "deny.txt"},
        "udp": {"private_key_file": "udp.secret"},
        "privileges": {"user": NOBODY.to_string(), "group": NOBODY.to_string()},
    });
    let mut daemon = Daemon::start_in(folder, config, &mut hayate());
    let path = daemon.folder.path().join("tracker.json");
    let output = hayate().arg("check-config").arg("-c").arg(&path).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    for (key, name) in [("access.path", "deny.txt"), ("udp.private_key_file", "udp.secret")] {
        let command = format!("setfacl -m u:{NOBODY}:r {}", daemon.folder.path().join(name).display());
        assert!(daemon.log().iter().any(|line| line.contains(key) && line.contains(&command)));
        assert!(stderr.lines().any(|line| line.contains(key) && line.contains(&command)), "{stderr}");
    }
    let client = UdpClient::connect("127.0.0.1", daemon.v4());
    daemon.rewrite_config(|config| config["intervals"] = json!({"announce": 1777, "announce_drift": 0}));
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_log("\"reloaded\"", 1);
    for key in ["access.path", "udp.private_key_file"] {
        assert_eq!(daemon.logged(&format!("{key}: /")), 2, "{:#?}", daemon.log());
    }
    assert_eq!(daemon.logged("what was read of it before is kept"), 2);
    let interval = fetch(daemon.v4(), &announce_target('B', 7001, "&left=9")).bencoded();
    assert_eq!(interval.at("interval").and_then(hayate_tools::bencode::Value::integer), Some(1777));
    let all_is_in_force = || {
        let denied = fetch(daemon.v4(), &announce_target('A', 7001, "&left=9")).bencoded();
        assert!(denied.at("failure reason").is_some(), "the list is still in force");
        assert_eq!(client.scrape(b'B'), [0, 0, 1], "an id of the old key is still good");
    };
    all_is_in_force();
    let output = upgrade(&daemon);
    assert!(output.status.success(), "{:#?}", daemon.log());
    all_is_in_force();
    let successor = SuccessorGuard::of(&daemon);
    assert!(daemon.wait().success());
    successor.stop();
}

#[test]
fn an_upgrade_signals_the_holder_of_the_lock_and_nobody_else() {
    let mut daemon = Daemon::start(json!({}));
    let mut bystander = Command::new("sleep").arg("60").spawn().unwrap();
    let lock = daemon.folder.path().join("hayate.lock");
    assert_eq!(lock.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    // The record in the file does not matter.
    let mut file = std::fs::OpenOptions::new().write(true).open(&lock).unwrap();
    for number in [bystander.id().to_string(), "-1".to_owned()] {
        std::io::Seek::rewind(&mut file).unwrap();
        writeln!(file, "{number}").unwrap();
        let elsewhere = Folder::new();
        std::fs::copy(&lock, elsewhere.path().join("hayate.lock")).unwrap();
        let output = hayate().arg("upgrade").current_dir(elsewhere.path()).output().unwrap();
        assert!(String::from_utf8(output.stderr).unwrap().contains("no tracker runs"));
    }
    drop(file);
    assert!(upgrade(&daemon).status.success());
    assert!(daemon.wait().success());
    let successor = SuccessorGuard::of(&daemon);
    assert_eq!(bystander.try_wait().unwrap(), None, "it has received no signal");
    bystander.kill().unwrap();
    bystander.wait().unwrap();
    // A process that cannot take the lock reports its holder.
    let mut second = hayate();
    second.arg("-c").arg(daemon.folder.path().join("tracker.json"));
    for server in ["UDP", "HTTP", "METRICS"] {
        second.env(format!("HAYATE__{server}__ADDR"), "");
    }
    let output = output_of(&mut second);
    assert!(output.contains(&format!("is used by another hayate, process {}", successor.0)), "{output}");
    successor.stop();
}

fn output_of(command: &mut Command) -> String {
    String::from_utf8(command.output().unwrap().stderr).unwrap()
}
