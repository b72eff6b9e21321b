//! A long run under faults in random order: `make soak`. Without a duration it returns immediately.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::Folder;
use crate::kit::finishing_peers::{FinishingPeers, is_written};
use crate::operations::faults::{counted, daemon_in, mariadb};

/// The variable that holds the time to run, in seconds.
const VARIABLE: &str = "HAYATE_SOAK_SECONDS";

#[test]
fn soak() {
    let Some(seconds) = std::env::var(VARIABLE).ok().and_then(|text| text.parse().ok()) else {
        println!("skipped: {VARIABLE} is not set");
        return;
    };
    let seed = fastrand::u64(..);
    println!("soak: {seconds} s, seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut server = mariadb();
    let changes = || serde_json::json!({"channels": {"completed": 20}});
    let mut daemon = daemon_in(Folder::new(), &server, changes());
    let mut finishers = FinishingPeers::of(&daemon);
    let (start, mut rounds) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(seconds) {
        rounds += 1;
        finishers.finish(random.u32(..5000));
        let fault = random.u8(..6);
        println!("round {rounds}: fault {fault}, {} kB", resident(daemon.pid()));
        match fault {
            0 | 1 => {
                if fault == 0 {
                    server.stop()
                } else {
                    server.kill9()
                }
                finishers.finish(random.u32(..5000));
                server.start();
            }
            2 => {
                server.freeze();
                finishers.finish(random.u32(..5000));
                server.thaw();
            }
            3 => daemon.signal(Signal::SIGHUP),
            _ => {
                let kill = fault == 4;
                daemon.signal(if kill { Signal::SIGKILL } else { Signal::SIGTERM });
                daemon.wait();
                let folder = std::mem::replace(&mut daemon.folder, Folder::new());
                daemon = daemon_in(folder, &server, changes());
                finishers.set_tracker(&daemon);
                if kill {
                    let kept = counted(&server);
                    for (torrent, count) in &kept {
                        let answered = finishers.answered.get(torrent).copied().unwrap_or(0);
                        assert!(
                            *count <= answered,
                            "torrent {torrent}: {count} of {answered}, nothing twice"
                        );
                    }
                    finishers.answered = kept;
                }
            }
        }
        finishers.finish(random.u32(..2000));
        assert!(is_written(&daemon), "{:#?}", daemon.log());
        assert_eq!(
            (counted(&server), finishers.scraped()),
            (finishers.answered.clone(), finishers.answered.clone())
        );
        assert_eq!(finishers.unanswered, 0, "the tracker answers through all of it");
    }
    println!(
        "soak: {rounds} rounds, {} downloads, all counted once",
        finishers.answered.values().sum::<u64>()
    );
}

/// Returns the VmRSS of a process.
fn resident(pid: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("?");
    line.trim().trim_end_matches(" kB").to_owned()
}
