//! One announce of a user of a private site whose peer is known: credit, records, choice of peers. The
//! records are taken out of the queues now and then, which is not timed. Many small swarms; one large one;
//! and the same with peers that are not handed out, because they have a well-known port.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::Criterion;
use hayate_state::clock::Now;
use hayate_state::private::snapshot::SiteRestore;
use hayate_state::private::{Site, User, Users};
use hayate_state::snapshot::site::{Group, Multipliers, SiteRecord, SiteTorrent, UserAccount};
use hayate_state::store::{Bounds, OpenedStore, Queues, Recorder, SpillPaths, Store, WriterSettings};
use hayate_state::{Announce, Clock, Event, Handout, PeerId, Policy, Published, Swarms, Tracker};

use crate::double::{OverriddenStore, StoreOverrides};
use crate::kit::{self, NUM_WANT};

/// Name, users, torrents, and how many of a thousand users have a well-known port.
const SITES: [(&str, u32, u32, u32); 4] = [
    ("announce", 10_000, 1000, 0),
    ("announce-large", 100_000, 1, 0),
    ("announce-large-90%-hidden", 100_000, 1, 900),
    ("announce-large-99.9%-hidden", 100_000, 1, 999),
];

/// Announces between two times that the queues are emptied.
const ROUND: u64 = 5000;

/// A store that keeps nothing.
struct DiscardingStore;

impl StoreOverrides for DiscardingStore {}

/// A tracker of a site whose users seed and leech one torrent each.
pub(crate) struct BenchSite {
    pub(crate) site: Arc<Site>,
    tracker: Tracker,
    announces: Vec<(User, Announce)>,
    pub(crate) recorder: Recorder,
    _folder: tempfile::TempDir,
}

impl BenchSite {
    /// Makes the tracker; no peer is there yet.
    pub(crate) fn new(count: u32, torrents: u32, hidden: u32) -> Self {
        let site = Site::new();
        let mut users = Users::default();
        for id in 0..count {
            let (passkey, multipliers) = (passkey(id).into_bytes().into(), Multipliers::default());
            users.insert(&UserAccount {
                passkey,
                id,
                disable_download: false,
                tracker_hide: false,
                multipliers,
            });
        }
        site.update(|site_data| {
            site_data.users = Arc::new(users);
            site_data.clients = Arc::new([(1, "-XX0")].into_iter().collect());
        });
        for id in 0..torrents {
            SiteRestore::new(&site.torrents, Now::at(0)).restore_record(SiteRecord::Torrent(SiteTorrent {
                info_hash: kit::info_hash(id),
                id,
                group: Group { type_name: "music".into(), id: 1 },
                snatched: 0,
                status: 0,
                last_action: 0,
                multipliers: Multipliers::default(),
                peers: Vec::new(),
            }));
        }
        // Wide, so that no thread is woken meanwhile.
        let rows = 1 << 20;
        let bounds = Bounds {
            torrents: rows,
            users: rows,
            transfer_history: rows,
            transfer_ips: rows,
            ..Bounds::default()
        };
        let (clock, folder) = (Clock::start(), tempfile::tempdir().unwrap());
        let queues = Arc::new(Queues::accounting(clock, &bounds));
        let paths = SpillPaths {
            spill_dir: folder.path().join("spill"),
            dead_letter: folder.path().join("dead-letter"),
        };
        let settings =
            Published::new(WriterSettings { flush: Duration::from_secs(3600), ..WriterSettings::default() });
        let opener = Box::new(|| Ok(Box::new(OverriddenStore(DiscardingStore)) as Box<dyn Store>));
        let recorder = OpenedStore::new(&queues, clock, &settings, &paths, opener).unwrap().start().unwrap();
        let tracker = Tracker::new(Swarms::new(0), &Published::new(Policy::default()), 7);
        let tracker = tracker.with_site(Arc::clone(&site)).with_queues(queues);
        let announce = |id: u32| {
            let peer_id = PeerId(format!("-XX0001-{id:012}").into_bytes().try_into().unwrap());
            let user = tracker.find_user(passkey(id).as_bytes()).unwrap();
            let port = if id % 1000 < hidden { 80 } else { 6881 };
            (user, Announce { peer_id, port, ..kit::announce_of_peer(torrents, id, NUM_WANT) })
        };
        let announces = (0..count).map(announce).collect();
        Self { site, tracker, announces, recorder, _folder: folder }
    }

    /// Makes the tracker with the peers of all users.
    fn filled(users: u32, torrents: u32, hidden: u32) -> Self {
        let mut bench = Self::new(users, torrents, hidden);
        for id in 0..users {
            bench.announce(id, 0);
            if u64::from(id) % ROUND == 0 {
                bench.recorder.emergency_flush().flush_to_disk();
            }
        }
        bench.recorder.emergency_flush().flush_to_disk();
        bench
    }

    pub(crate) fn announce(&mut self, id: u32, total: u64) {
        self.announce_event(id, total, Event::None);
    }

    pub(crate) fn announce_event(&mut self, id: u32, total: u64, event: Event) {
        let (user, announce) = self.announces[id as usize];
        let announce = Announce { uploaded: total, downloaded: total / 2, event, ..announce };
        let (mut v4, mut v6) = ([0; 6 * NUM_WANT as usize], [0; 18 * NUM_WANT as usize]);
        let mut handout = Handout::new(&mut v4, &mut v6);
        let answer = self.tracker.announce_user(Now::at(1), user, &announce, None, &mut handout);
        black_box((answer.unwrap(), handout.v4.used()));
    }
}

fn passkey(id: u32) -> String {
    format!("passkey-of-{id:021}")
}

pub(crate) fn announces(criterion: &mut Criterion) {
    for (name, users, torrents, hidden) in SITES {
        // Built by the first call of the closure only: the filter of the command line may leave it out.
        let (mut built, clock, mut total) = (None, Clock::start(), 0);
        criterion.bench_function(&format!("user/{name}"), |bencher| {
            let bench = built.get_or_insert_with(|| BenchSite::filled(users, torrents, hidden));
            let mut random = fastrand::Rng::with_seed(11);
            bencher.iter_custom(|announces| {
                let mut worked = Duration::ZERO;
                for begin in (0..announces).step_by(usize::try_from(ROUND).unwrap()) {
                    let start = clock.uptime();
                    for _ in begin..announces.min(begin + ROUND) {
                        total += 1000;
                        bench.announce(random.u32(..users), total);
                    }
                    worked += clock.uptime() - start;
                    bench.recorder.emergency_flush().flush_to_disk();
                }
                worked
            });
        });
        if let Some(bench) = built {
            bench.recorder.stop();
        }
    }
}
