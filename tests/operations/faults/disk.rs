//! A full disk: a small tmpfs under the store, the spill, or the snapshot.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::{Daemon, Folder, eventually, hayate};
use crate::kit::finishing_peers::{FinishingPeers, is_written};
use crate::mariadb_server::Server;

/// A file system of one MiB, which is unmounted when the test ends.
pub(crate) struct SmallDisk {
    folder: Folder,
}

impl SmallDisk {
    /// Returns `None`, and prints a note, if this process may not mount.
    pub(crate) fn new() -> Option<Self> {
        let folder = Folder::new();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=1m", "none"]).arg(folder.path());
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        if !mounted {
            println!("skipped: this process may not mount a tmpfs");
            return None;
        }
        Some(Self { folder })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Fills the file system. Returns the file that fills it.
    pub(crate) fn fill(&self) -> PathBuf {
        let path = self.path().join("filler");
        let mut file = std::fs::File::create(&path).unwrap();
        let mut size = 4096;
        while size > 0 {
            if std::io::Write::write_all(&mut file, &vec![7; size]).is_err() {
                size /= 2;
            }
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a daemon of the test may still hold a file there.
        _ = Command::new("umount").arg("-l").arg(self.folder.path()).status();
    }
}

#[test]
fn a_full_disk_under_the_snapshot_leaves_the_old_one_and_is_logged_once() {
    let Some(disk) = SmallDisk::new() else { return };
    let changes = json!({"state_dir": disk.path(), "database": {"dsn": ""},
        "intervals": {"database_serialize": 1}});
    let mut daemon = Daemon::start(changes.clone());
    let mut finishers = FinishingPeers::of(&daemon);
    finishers.finish(300);
    assert!(eventually(|| daemon.metric("snapshot_peers") == 300), "{:#?}", daemon.log());
    let snapshot = disk.path().join("hayate-cache.bin");
    let filler = disk.fill();
    finishers.finish(20_000);
    assert!(eventually(|| daemon.metric("snapshot_failures_total") >= 2), "{:#?}", daemon.log());
    assert!(std::fs::metadata(&snapshot).unwrap().len() > 0);
    assert_eq!(daemon.logged("No space left"), 1, "{:#?}", daemon.log());
    std::fs::remove_file(filler).unwrap();
    assert!(eventually(|| daemon.metric("snapshot_peers") == 20_300), "{:#?}", daemon.log());
    daemon.signal(Signal::SIGKILL);
    daemon.wait();
    let daemon = Daemon::start(changes);
    finishers.set_tracker(&daemon);
    assert_eq!(finishers.scraped(), finishers.answered);
}

#[test]
fn a_full_disk_under_the_store_loses_nothing() {
    let Some(disk) = SmallDisk::new() else { return };
    let dsn = format!("sqlite:{}", disk.path().join("full.db").display());
    let changes = json!({"database": {"dsn": dsn}, "intervals": {"flush": 1}});
    let mut daemon = Daemon::start(changes.clone());
    let mut finishers = FinishingPeers::of(&daemon);
    finishers.finish(200);
    assert!(is_written(&daemon));
    let filler = disk.fill();
    finishers.finish(3000);
    // Rows of new torrents need space.
    let mut others = 0;
    assert!(
        eventually(|| {
            others += 1;
            finishers.finish(u32::from(crate::kit::finishing_peers::TORRENTS));
            daemon.metric("database_up") == 0 || others > 50
        }),
        "{:#?}",
        daemon.log()
    );
    std::fs::remove_file(filler).unwrap();
    assert!(is_written(&daemon), "{:#?}", daemon.log());
    assert_eq!(finishers.unanswered, 0);
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait().success());
    let folder = std::mem::replace(&mut daemon.folder, Folder::new());
    let daemon = Daemon::start_in(folder, changes, &mut hayate());
    finishers.set_tracker(&daemon);
    assert_eq!(finishers.scraped(), finishers.answered);
}

#[test]
fn a_full_disk_under_the_spill_keeps_rows_in_memory() {
    let Some(disk) = SmallDisk::new() else { return };
    let mut server = Server::new();
    let dsn = server.database("site");
    assert!(hayate().arg("migrate").env("DB_DSN", &dsn).output().unwrap().status.success());
    let daemon = Daemon::start(json!({
        "database": {"dsn": dsn, "spill_dir": disk.path()},
        "channels": {"completed": 7}, "intervals": {"flush": 1}
    }));
    let mut finishers = FinishingPeers::of(&daemon);
    finishers.finish(200);
    assert!(is_written(&daemon));
    let filler = disk.fill();
    server.kill9();
    finishers.finish(3000);
    let failed = || daemon.metric(r#"spill_write_errors{channel="completed"}"#) > 0;
    assert!(eventually(failed), "{:#?}", daemon.log());
    finishers.finish(1000);
    // Merged by key: forty torrents are forty rows, twice at most.
    assert!(daemon.metric(r#"queue_rows{channel="completed"}"#) <= 80);
    std::fs::remove_file(filler).unwrap();
    finishers.finish(10);
    assert!(eventually(|| daemon.metric(r#"spill_rows{channel="completed"}"#) > 0), "{:#?}", daemon.log());
    server.start();
    assert!(is_written(&daemon), "{:#?}", daemon.log());
    let sum = server.sql_in("site", "SELECT SUM(completed) FROM hayate_completed");
    assert_eq!((sum, finishers.unanswered), (finishers.answered.values().sum::<u64>().to_string(), 0));
    assert_eq!(daemon.logged("the disk takes rows again"), 1, "{:#?}", daemon.log());
}
