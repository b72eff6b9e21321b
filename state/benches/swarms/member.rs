//! One announce of a member of a private site whose peer is known: credit, records, hand-out. What it records
//! is taken out of the queues now and then, which is not timed.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::Criterion;
use hayate_state::clock::Now;
use hayate_state::private::section::SiteRestore;
use hayate_state::private::{Member, Members, Site};
use hayate_state::snapshot::site::{Group, Multipliers, Record, Torrent, User};
use hayate_state::store::{Bounds, Opened, Pace, Places, Queues, Recorder, Store};
use hayate_state::{Announce, Clock, Handout, PeerId, Policy, Published, Swarms, Tracker};

use crate::double::{Double, Doubled};
use crate::kit::{self, NUM_WANT};

const MEMBERS: u32 = 10_000;
const TORRENTS: u32 = 1000;

/// Announces between two times that the queues are emptied.
const ROUND: u64 = 5000;

/// A store that keeps nothing.
struct Nowhere;

impl Double for Nowhere {}

/// A tracker of a site whose members seed and leech one torrent each.
struct House {
    tracker: Tracker,
    members: Vec<(Member, Announce)>,
    recorder: Recorder,
    _folder: tempfile::TempDir,
}

impl House {
    fn new() -> Self {
        let site = Site::new();
        let mut members = Members::default();
        for id in 0..MEMBERS {
            let (passkey, multipliers) = (passkey(id).into_bytes().into(), Multipliers::default());
            members.put(&User { passkey, id, disable_download: false, tracker_hide: false, multipliers });
        }
        site.change(|register| {
            register.members = Arc::new(members);
            register.clients = Arc::new([(1, "-XX0")].into_iter().collect());
        });
        for id in 0..TORRENTS {
            SiteRestore::new(&site.torrents, Now::at(0)).record(Record::Torrent(Torrent {
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
        let places =
            Places { spill_dir: folder.path().join("spill"), dead_letter: folder.path().join("dead-letter") };
        let pace = Published::new(Pace { flush: Duration::from_secs(3600), ..Pace::default() });
        let opener = Box::new(|| Ok(Box::new(Doubled(Nowhere)) as Box<dyn Store>));
        let recorder = Opened::new(&queues, clock, &pace, &places, opener).unwrap().start().unwrap();
        let tracker = Tracker::new(Swarms::new(0), &Published::new(Policy::default()), 7);
        let tracker = tracker.private(site).recording(queues);
        let member = |id: u32| {
            let peer_id = PeerId(format!("-XX0001-{id:012}").into_bytes().try_into().unwrap());
            let member = tracker.member(passkey(id).as_bytes()).unwrap();
            (member, Announce { peer_id, ..kit::of_peer(TORRENTS, id, NUM_WANT) })
        };
        let members = (0..MEMBERS).map(member).collect();
        Self { tracker, members, recorder, _folder: folder }
    }

    fn announce(&mut self, id: u32, total: u64) {
        let (member, announce) = self.members[id as usize];
        let announce = Announce { uploaded: total, downloaded: total / 2, ..announce };
        let (mut v4, mut v6) = ([0; 6 * NUM_WANT as usize], [0; 18 * NUM_WANT as usize]);
        let mut handout = Handout::new(&mut v4, &mut v6);
        let answer = self.tracker.announce_member(Now::at(1), member, &announce, None, &mut handout);
        black_box((answer.unwrap(), handout.v4.used()));
    }
}

fn passkey(id: u32) -> String {
    format!("passkey-of-{id:021}")
}

pub(crate) fn announces(criterion: &mut Criterion) {
    let mut house = House::new();
    let (clock, mut total) = (Clock::start(), 0);
    criterion.bench_function("member/announce", |bencher| {
        let mut random = fastrand::Rng::with_seed(11);
        bencher.iter_custom(|announces| {
            let mut worked = Duration::ZERO;
            for begin in (0..announces).step_by(usize::try_from(ROUND).unwrap()) {
                let start = clock.uptime();
                for _ in begin..announces.min(begin + ROUND) {
                    total += 1000;
                    house.announce(random.u32(..MEMBERS), total);
                }
                worked += clock.uptime() - start;
                house.recorder.lifeboat().save();
            }
            worked
        });
    });
    house.recorder.stop();
}
