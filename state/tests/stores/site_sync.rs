//! What the sync does besides reading: un-prunes that the store does not know of stay, counts of an earlier
//! run are corrected, and hayate's own tables do not grow for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use hayate_state::metrics::Board;
use hayate_state::private::admin::{AdminCommand, TorrentChange};
use hayate_state::private::snapshot::SiteRestore;
use hayate_state::private::{Site, SiteSync};
use hayate_state::snapshot::site::{
    Group, Multipliers, Role, SeenEndpoint, SitePeer, SiteRecord as Kept, SiteTorrent,
};
use hayate_state::store::{Bounds, Channel, OpenedStore, Queues, SpillPaths, WriterSettings};
use hayate_state::{
    Announce, Clock, Event, Handout, InfoHash, Now, PeerId, Policy, Published, Swarms, Tracker,
};

use crate::{TestDatabase, on_both};

const PLAIN: &str = "aLk3vXy9QdT7mWc2ZpRfH5sJb8NeGu41";
const PRUNED: &str = "8a1f3c5e7092b4d6f80a1c2e405264768898aabc";
const MUSIC: &str = "2b4d6f8193a5b7c9dbedff11335577990badcafe";
const DAY: i64 = 24 * 3600;

struct TestSite {
    clock: Clock,
    site: Arc<Site>,
    queues: Arc<Queues>,
    sync: SiteSync,
}

impl TestSite {
    fn new(database: &TestDatabase) -> Self {
        let clock = Clock::start();
        let (site, queues) = (Site::new(), Arc::new(Queues::new(clock, &Bounds::default())));
        let sync = SiteSync::new(database.backend.clone(), Arc::clone(&site), Arc::clone(&queues));
        Self { clock, site, queues, sync }
    }

    fn tracker(&self) -> Tracker {
        let tracker = Tracker::new(Swarms::new(0), &Published::new(Policy::default()), 7);
        tracker.with_site(Arc::clone(&self.site)).with_queues(Arc::clone(&self.queues))
    }

    fn reload(&mut self) {
        self.sync.reload_sets(&self.clock, &AtomicBool::new(false));
    }

    fn is_live(&self, info_hash: &str) -> bool {
        self.site.explain(1, &info_hash.parse().unwrap()).contains(": live,")
    }

    /// Writes the queued records to the store.
    fn write(&self, database: &TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        let paths =
            SpillPaths { spill_dir: folder.path().join("spill"), dead_letter: folder.path().join("letters") };
        let (backend, settings) = (database.backend.clone(), Published::new(WriterSettings::default()));
        let opener = Box::new(move || backend.open());
        OpenedStore::new(&self.queues, self.clock, &settings, &paths, opener)
            .unwrap()
            .start()
            .unwrap()
            .stop();
    }
}

fn announce(info_hash: &str, uploaded: u64) -> Announce {
    Announce {
        info_hash: info_hash.parse().unwrap(),
        peer_id: PeerId(*b"-TR2940-000000000001"),
        address: [45, 0, 0, 7].into(),
        port: 2001,
        uploaded,
        downloaded: 0,
        left: 0,
        event: Event::None,
        num_want: 0,
    }
}

fn apply_announce(tracker: &mut Tracker, second: u32, announce: &Announce) {
    tracker.refresh();
    let user = tracker.find_user(PLAIN.as_bytes()).unwrap();
    let mut handout = Handout::new(&mut [], &mut []);
    tracker.announce_user(Now::at(second), user, announce, None, &mut handout).unwrap();
}

#[test]
fn a_torrent_that_is_seeded_again_stays_live_until_the_store_knows_it() {
    on_both(&|database| {
        let mut test_site = TestSite::new(database);
        test_site.sync.load_sets(&test_site.clock).unwrap();
        assert!(!test_site.is_live(PRUNED));
        apply_announce(&mut test_site.tracker(), 0, &announce(PRUNED, 0));
        assert!(test_site.is_live(PRUNED));
        test_site.reload();
        assert!(test_site.is_live(PRUNED), "the reload brings back what the store still says");
        let TestSite { clock, site, queues, sync } = test_site;
        let sync = sync.start(Arc::new(AtomicU64::new(3600)), clock, &Board::default()).unwrap();
        let change = TorrentChange { up: Some(2.0), ..TorrentChange::default() };
        let command = AdminCommand::UpdateTorrent(PRUNED.parse().unwrap(), change);
        let outcome = sync.admin_queue().run_command(command, "a test").unwrap();
        assert_eq!(outcome.word, "changed");
        let text = site.explain(1, &PRUNED.parse().unwrap());
        assert!(text.contains(": live, up x2,"), "{text}");
        drop(sync);
        let sync = SiteSync::new(database.backend.clone(), Arc::clone(&site), Arc::clone(&queues));
        let mut test_site = TestSite { clock, site, queues, sync };
        test_site.write(database);
        assert_eq!(database.sql("SELECT Status FROM torrents WHERE ID = 1"), "0");
        // From now on the site's own changes apply.
        database.sql("UPDATE torrents SET Status = 1 WHERE ID = 1");
        test_site.reload();
        assert!(!test_site.is_live(PRUNED));
    });
}

#[test]
fn what_was_read_beside_a_predecessor_is_read_again_when_the_site_sync_starts() {
    on_both(&|database| {
        let mut test_site = TestSite::new(database);
        test_site.sync.load_sets_early(&test_site.clock).unwrap();
        database.sql("UPDATE torrents SET Status = 0 WHERE ID = 1");
        assert!(!test_site.is_live(PRUNED));
        let TestSite { clock, site, queues, sync } = test_site;
        let sync = sync.start(Arc::new(AtomicU64::new(1 << 30)), clock, &Board::default()).unwrap();
        let deadline = clock.uptime() + Duration::from_secs(60);
        while !site.explain(1, &PRUNED.parse().unwrap()).contains(": live,") {
            assert!(clock.uptime() < deadline, "it does not read by itself");
            std::thread::sleep(Duration::from_millis(1));
        }
        drop((sync, queues));
    });
}

fn kept(id: u32, info_hash: &str, seeders: u8) -> Kept {
    let peer = |number| SitePeer {
        user: 1,
        peer_id: PeerId([number; 20]),
        role: Role::Seeder,
        v4: Some(SeenEndpoint { address: [45, 0, 0, 7].into(), port: 2001, seen_at: 7 }),
        v6: None,
        uploaded: 0,
        downloaded: 0,
        left: 0,
        started_at: 7,
        announced_at: 7,
        client: 1,
    };
    Kept::Torrent(SiteTorrent {
        info_hash: info_hash.parse().unwrap(),
        id,
        group: Group { type_name: "music".into(), id: 1 },
        snatched: 0,
        status: 0,
        last_action: 0,
        multipliers: Multipliers::default(),
        peers: (0..seeders).map(peer).collect(),
    })
}

#[test]
fn counts_of_an_earlier_run_are_put_right_at_the_start() {
    on_both(&|database| {
        database.sql("UPDATE torrents SET Seeders = 13, Leechers = 17 WHERE ID = 1");
        database.sql("UPDATE torrents SET Seeders = 3 WHERE ID = 2");
        database.sql("UPDATE torrents SET Leechers = -1 WHERE ID = 3");
        let mut test_site = TestSite::new(database);
        SiteRestore::new(&test_site.site.torrents, Now::at(0)).restore_record(kept(2, MUSIC, 3));
        test_site.sync.load_sets(&test_site.clock).unwrap();
        assert_eq!(test_site.queues.rows(Channel::Torrents), 2, "that of torrent 2 is right");
        test_site.write(database);
        let rows = "SELECT ID, Seeders, Leechers, Snatched, Status FROM torrents ORDER BY ID";
        assert_eq!(database.sql(rows), "1\t0\t0\t2\t1\n2\t3\t0\t0\t0\n3\t0\t0\t0\t0");
        let action = "SELECT last_action FROM torrents WHERE ID = 1";
        assert_eq!(database.sql(action), "1585955952", "nothing has happened there");
        // Only once: later the queues are more accurate.
        database.sql("UPDATE torrents SET Seeders = 13 WHERE ID = 1");
        test_site.reload();
        assert_eq!(test_site.queues.rows(Channel::Torrents), 0);
    });
}

#[test]
fn what_nobody_believes_is_in_the_audit_once_for_each_user() {
    on_both(&|database| {
        let mut test_site = TestSite::new(database);
        test_site.sync.load_sets(&test_site.clock).unwrap();
        let mut tracker = test_site.tracker();
        apply_announce(&mut tracker, 0, &announce(MUSIC, 0));
        for second in 1..100 {
            apply_announce(&mut tracker, 300 * second, &announce(MUSIC, u64::from(second) << 50));
        }
        test_site.reload();
        test_site.reload();
        let rows = "SELECT verb, target, outcome, source FROM hayate_audit";
        let target = format!("user 1 torrent 2: up {} down 0 in 300 s, 99 such claims", 1_u64 << 50);
        assert_eq!(database.sql(rows), format!("announce\t{target}\tnot credited\tthe tracker"));
    });
}

/// Rows of the three tables: the audit, deletions, passkeys.
fn rows(database: &TestDatabase) -> String {
    let count = |table| format!("(SELECT count(*) FROM hayate_{table})");
    database.sql(&format!("SELECT {}, {}, {}", count("audit"), count("deletions"), count("passkeys")))
}

fn fill(database: &TestDatabase, old: usize, ages: [i64; 2]) {
    let now = i64::try_from(Clock::start().now().unix_seconds).unwrap();
    for (age, rows) in [(ages[0], old), (ages[1], 7)] {
        let at = now - age;
        let each = |row: &dyn Fn(usize) -> String| (0..rows).map(row).collect::<Vec<_>>().join(", ");
        let audit = each(&|_| format!("({at}, 'a', 'b', 'c', 'd')"));
        database.sql(&format!("INSERT INTO hayate_audit (at, verb, target, outcome, source) VALUES {audit}"));
        let hash = |number| {
            format!("X'{}'", InfoHash([0; 20]).to_string().replacen("00000000", &format!("{number:08x}"), 1))
        };
        let deletions = each(&|number| format!("({}, 'why', {at})", hash(number + rows * 1000)));
        database
            .sql(&format!("INSERT INTO hayate_deletions (info_hash, reason, deleted_at) VALUES {deletions}"));
        let passkeys = each(&|number| format!("('{at}-{number}', 7, {at})"));
        database.sql(&format!("INSERT INTO hayate_passkeys (passkey, uid, good_until) VALUES {passkeys}"));
    }
}

#[test]
fn old_rows_of_hayates_own_tables_go_slice_by_slice() {
    on_both(&|database| {
        fill(database, 1100, [11 * DAY, 9 * DAY]);
        let mut test_site = TestSite::new(database);
        test_site.reload();
        assert_eq!(rows(database), "1107\t1107\t1107", "0 is for ever");
        let TestSite { clock, site, queues, sync } = test_site;
        let mut test_site =
            TestSite { sync: sync.with_retention(u32::try_from(10 * DAY).unwrap()), clock, site, queues };
        for left in ["607\t607\t607", "107\t107\t107", "7\t7\t7", "7\t7\t7"] {
            test_site.reload();
            assert_eq!(rows(database), left);
        }
    });
}
