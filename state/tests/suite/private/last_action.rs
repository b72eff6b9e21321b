//! When a torrent was last seeded, through a snapshot and back.

use std::path::Path;

use super::*;

fn write(site: &Arc<Site>, path: &Path) {
    let clock = Clock::start();
    let queues = Arc::new(Queues::new(clock, &Bounds::default()));
    let plan = SnapshotPlan {
        path: path.into(),
        every_seconds: Arc::new(AtomicU32::new(0)),
        swarms: Swarms::new(0),
        sections: vec![Box::new(SiteSection::new(Arc::clone(site), queues))],
    };
    SnapshotThread::start(plan, clock).unwrap().stop(Ending::Write);
}

/// Of each torrent that a snapshot of the site holds, by its id.
fn kept(path: &Path) -> BTreeMap<u32, i64> {
    let torrents = hayate_state::snapshot::site::read_file(path).unwrap().site.torrents;
    torrents.iter().map(|torrent| (torrent.id, torrent.last_action)).collect()
}

#[test]
fn the_last_announce_of_a_seeder_is_kept_and_restored() {
    let (folder, mut test_site) = (tempfile::tempdir().unwrap(), TestSite::new());
    test_site.announce(13, 1, &seeder(1, 2001));
    test_site.announce(20, 1, &seeder(1, 2001));
    test_site.announce(30, 2, &peer(2, 2002));
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    write(&test_site.site, &first);
    assert_eq!(kept(&first), BTreeMap::from([(1, 0), (2, 0), (3, unix(20))]));
    let site = Site::new();
    let mut restore = SiteRestore::new(&site.torrents, Now::at(0));
    assert!(matches!(load_snapshot(&first, &Clock::start(), &mut [&mut restore]), LoadOutcome::Restored));
    write(&site, &second);
    assert_eq!(kept(&second), kept(&first));
}
