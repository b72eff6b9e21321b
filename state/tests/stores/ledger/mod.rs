//! An hour of a site in virtual time: 200 users, 500 torrents, thousands of clients that start, finish, stop,
//! fall silent, restart and move. A naive ledger works out what the tables must hold, and they hold exactly
//! that, although the database is killed twice in the middle.

mod naive;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hayate_state::private::{PeerExpiry, Site, SiteSync};
use hayate_state::store::{Backend, Bounds, OpenedStore, Queues, Recorder, SpillPaths, WriterSettings};
use hayate_state::{Announce, Clock, Event, Handout, Now, PeerId, Policy, Published, Swarms, Tracker};

use crate::servers::Server;
use crate::{backend, test_info_hash, test_passkey};
use naive::{Naive, NaiveAnnounce, Torrent, User};

const USERS: u32 = 200;
const TORRENTS: u32 = 500;
const CLIENTS: usize = 3000;
const SECONDS: u32 = 3600;
const INACTIVITY: u32 = 700;
const MULTIPLIERS: [f64; 6] = [1.0, 1.0, 0.5, 2.0, 0.0, 0.1];

/// One client of a user on one torrent.
struct Client {
    user: u32,
    torrent: u32,
    number: u32,
    peer_id: [u8; 20],
    address: IpAddr,
    port: u16,
    size: u64,
    uploaded: u64,
    downloaded: u64,
    left: u64,
    next: u32,
    /// It announces once over each family.
    both: bool,
    fresh: bool,
}

fn choose(random: &mut fastrand::Rng) -> f64 {
    MULTIPLIERS[random.usize(..MULTIPLIERS.len())]
}

/// A random site, as the model has it, and as SQL.
fn found(random: &mut fastrand::Rng) -> (Naive, Vec<String>) {
    let mut naive = Naive::default();
    naive.inactivity = i64::from(INACTIVITY);
    let mut sql = vec![
        "INSERT INTO approved_clients (id, peer_id, archived) VALUES (1, '-TR2', 0), (3, '-DE13', 0)".into(),
        "INSERT INTO mod_core (mod_option, mod_setting) VALUES ('global_freeleech', 0)".into(),
        "INSERT INTO torrent_group_freeleech (GroupID, Type, DownMultiplier, UpMultiplier)
         VALUES (2, 'anime', 0, 2), (3, 'anime', 0.5, 1), (4, 'music', 0, 0)"
            .to_owned(),
    ];
    // The torrents are of type anime, so the group of type music applies to none.
    naive.groups = [(2, (2.0, 0.0)), (3, (1.0, 0.5))].into();
    for id in 1..=USERS {
        let (up, down) = (choose(random), choose(random));
        let (restricted, hidden) = (id % 20 == 0, id % 9 == 0);
        naive.users.insert(id, User { up, down, restricted, hidden });
        sql.push(format!(
            "INSERT INTO users_main (ID, Enabled, torrent_pass, UpMultiplier, DownMultiplier, \
             DisableDownload, TrackerHide) VALUES ({id}, '1', '{}', {up}, {down}, {}, {})",
            test_passkey(id),
            u8::from(restricted),
            u8::from(hidden)
        ));
    }
    for id in 1..=TORRENTS {
        let (up, down, group) = (choose(random), choose(random), id % 6);
        let status = match id % 50 {
            0 => 1,
            1 => 2,
            _ => 0,
        };
        naive.torrents.insert(id, Torrent { up, down, group, status });
        sql.push(format!(
            "INSERT INTO torrents (ID, GroupID, TorrentType, info_hash, UpMultiplier, DownMultiplier, \
             Status) VALUES ({id}, {group}, 'anime', X'{}', {up}, {down}, {status})",
            test_info_hash(id)
        ));
    }
    (naive, sql)
}

fn peer_id(random: &mut fastrand::Rng) -> ([u8; 20], u32) {
    let mut peer_id = *b"-TR2940-000000000000";
    let number = random.bool();
    if number {
        peer_id[..5].copy_from_slice(b"-DE13");
    }
    peer_id[8..].iter_mut().for_each(|octet| *octet = random.alphanumeric() as u8);
    (peer_id, if number { 3 } else { 1 })
}

fn v4(random: &mut fastrand::Rng) -> IpAddr {
    Ipv4Addr::from(random.u32(0x2d00_0000..0x2d00_0fff)).into()
}

fn v6(random: &mut fastrand::Rng) -> IpAddr {
    let [.., a, b] = random.u32(..).to_be_bytes();
    Ipv6Addr::from([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b]).into()
}

impl Client {
    fn new(random: &mut fastrand::Rng) -> Self {
        let size = random.u64(1..1 << 40);
        let ((peer_id, number), seeds) = (peer_id(random), random.u8(..3) == 0);
        let address = if random.u8(..4) == 0 { v6(random) } else { v4(random) };
        Self {
            user: random.u32(1..=USERS),
            torrent: random.u32(1..=TORRENTS),
            number,
            peer_id,
            address,
            port: random.u16(1..),
            size,
            uploaded: 0,
            downloaded: 0,
            left: if seeds { 0 } else { size },
            next: random.u32(..SECONDS / 2),
            both: random.u8(..5) == 0,
            fresh: true,
        }
    }

    /// Chooses the next event of the client, and updates it.
    fn go_on(&mut self, random: &mut fastrand::Rng) -> Event {
        self.next += random.u32(60..400);
        if std::mem::take(&mut self.fresh) {
            return Event::Started;
        }
        self.uploaded += random.u64(..1 << 32);
        let before = self.left;
        self.left -= random.u64(..=self.left).min(1 << 38);
        if random.u8(..4) == 0 {
            self.left = 0;
        }
        self.downloaded += before - self.left;
        match random.u8(..40) {
            0 => {
                // It is gone, and another client replaces it.
                *self = Self { next: self.next, ..Self::new(random) };
                Event::None
            }
            1 => {
                // It restarts: totals begin again, the files are there.
                (self.uploaded, self.downloaded) = (random.u64(..7), 0);
                Event::Started
            }
            2 => {
                self.address = if self.address.is_ipv4() { v4(random) } else { v6(random) };
                self.port = random.u16(1..);
                Event::None
            }
            3 => {
                // It is silent for longer than the inactivity limit.
                self.next += INACTIVITY + random.u32(..400);
                Event::None
            }
            4 => {
                // The files are checked again and found incomplete.
                self.left = random.u64(..self.size);
                Event::None
            }
            5 | 6 => {
                self.fresh = true;
                Event::Stopped
            }
            7 => Event::Completed,
            _ if before > 0 && self.left == 0 => Event::Completed,
            _ => Event::None,
        }
    }
}

/// A tracker on a database.
struct TestSite {
    site: Arc<Site>,
    queues: Arc<Queues>,
    tracker: Tracker,
    expiry: PeerExpiry,
    policy: Policy,
    recorder: Recorder,
}

impl TestSite {
    fn new(backend: &Backend, folder: &Path) -> Self {
        let clock = Clock::start();
        let bounds = Bounds {
            torrents: 100,
            users: 50,
            transfer_history: 500,
            transfer_ips: 500,
            ..Bounds::default()
        };
        let queues = Arc::new(Queues::accounting(clock, &bounds));
        let settings =
            Published::new(WriterSettings { flush: Duration::from_millis(30), ..WriterSettings::default() });
        let paths =
            SpillPaths { spill_dir: folder.join("spill"), dead_letter: folder.join("dead-letter.jsonl") };
        let opening = backend.clone();
        let opened =
            OpenedStore::new(&queues, clock, &settings, &paths, Box::new(move || opening.open())).unwrap();
        let site = Site::new();
        SiteSync::new(backend.clone(), Arc::clone(&site), Arc::clone(&queues)).load_sets(&clock).unwrap();
        let policy = Policy { peer_inactivity_seconds: INACTIVITY, ..Policy::default() };
        let tracker = Tracker::new(Swarms::new(0), &Published::new(policy.clone()), 7);
        let tracker = tracker.with_site(Arc::clone(&site)).with_queues(Arc::clone(&queues));
        let expiry = PeerExpiry::new(Arc::clone(&site.torrents), Some(Arc::clone(&queues)));
        Self { site, queues, tracker, expiry, policy, recorder: opened.start().unwrap() }
    }

    fn announce(&mut self, now: Now, user: u32, announce: &Announce) -> Result<(usize, usize), &'static str> {
        let user = self.tracker.find_user(test_passkey(user).as_bytes()).unwrap();
        let (mut v4, mut v6) = ([0; 300], [0; 900]);
        let answer =
            self.tracker.announce_user(now, user, announce, None, &mut Handout::new(&mut v4, &mut v6));
        match answer {
            Ok(answer) => Ok((answer.tally.seeders as usize, answer.tally.leechers as usize)),
            Err(denial) => Err(match denial.refusal {
                hayate_state::Refusal::UnavailableTorrent => "unavailable",
                hayate_state::Refusal::DownloadDisabled => "restricted",
                _ => "unexpected",
            }),
        }
    }
}

/// Runs the hour; `trouble` is called each second.
fn live(
    test_site: &mut TestSite,
    naive: &mut Naive,
    random: &mut fastrand::Rng,
    trouble: &mut dyn FnMut(u32),
) {
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| Client::new(random)).collect();
    let (mut announces, mut refused) = (0, 0);
    for second in 0..SECONDS {
        trouble(second);
        let now = Now::at(second);
        let unix = i64::try_from(now.unix_seconds).unwrap();
        if second % 120 == 119 {
            test_site.expiry.run_round(now, &test_site.policy);
            naive.purge(unix);
        }
        if second % 600 == 300 {
            naive.free = !naive.free;
            test_site.site.update(|site_data| site_data.global_freeleech = naive.free);
            test_site.tracker.refresh();
        }
        for client in clients.iter_mut().filter(|client| client.next <= second) {
            let event = client.go_on(random);
            let other = if client.address.is_ipv4() { v6(random) } else { v4(random) };
            let families = [Some(client.address), client.both.then_some(other)];
            for (at, address) in families.into_iter().flatten().enumerate() {
                let naive_announce = NaiveAnnounce {
                    now: unix,
                    user: client.user,
                    torrent: client.torrent,
                    peer_id: client.peer_id,
                    client: client.number,
                    address,
                    port: client.port,
                    // A little more was transferred between the two.
                    uploaded: client.uploaded + at as u64,
                    downloaded: client.downloaded,
                    left: client.left,
                    event: match event {
                        Event::Started => "started",
                        Event::Stopped => "stopped",
                        Event::Completed => "completed",
                        _ => "",
                    },
                };
                let announce = Announce {
                    info_hash: test_info_hash(naive_announce.torrent),
                    peer_id: PeerId(naive_announce.peer_id),
                    address,
                    port: naive_announce.port,
                    uploaded: naive_announce.uploaded,
                    downloaded: naive_announce.downloaded,
                    left: naive_announce.left,
                    event,
                    num_want: random.u16(..60),
                };
                let expected = naive.announce(&naive_announce);
                assert_eq!(test_site.announce(now, naive_announce.user, &announce), expected, "at {second}");
                announces += 1;
                refused += usize::from(expected.is_err());
            }
        }
    }
    eprintln!("{announces} announces, {refused} of them refused");
    assert!(announces > 20_000 && refused > 100);
}

fn compare(naive: &Naive, query: &dyn Fn(&str) -> String) {
    let same = |table: &str, expected: &str, found: &str| {
        let lines = || expected.lines().zip(found.lines());
        if let Some((expected, found)) = lines().find(|(expected, found)| expected != found) {
            panic!("{table}: expected {expected:?}, found {found:?}");
        }
        assert_eq!(expected.lines().count(), found.lines().count(), "{table}");
    };
    let users = query("SELECT ID, Uploaded, Downloaded, rawup, rawdl FROM users_main ORDER BY ID");
    same("users_main", &naive.users_table(), &users);
    let torrents =
        query("SELECT ID, Snatched, Seeders, Leechers, last_action, Status FROM torrents ORDER BY ID");
    same("torrents", &naive.torrents_table(), &torrents);
    let history = query(
        "SELECT uid, fid, uploaded, downloaded, seeding, seedtime, activetime, remaining, active, starttime, \
         last_announce, snatched, snatched_time FROM transfer_history ORDER BY uid, fid",
    );
    let history: Vec<_> = history.lines().map(|row| naive.as_if_in_order(row)).collect();
    same("transfer_history", &naive.history_table(), &history.join("\n"));
    let addresses = query(
        "SELECT uid, fid, ip, ifnull(hex(ip6), ''), client_id, uploaded, downloaded, port + 0, starttime, \
         last_announce FROM transfer_ips",
    );
    let translated = addresses.lines().map(|line| {
        let mut columns: Vec<_> = line.split('\t').map(str::to_owned).collect();
        let ip6 = columns.remove(3);
        if !ip6.is_empty() {
            columns[2] = (0xf000_0000 | u32::from_str_radix(&ip6[24..], 16).unwrap()).to_string();
        }
        columns.join("\t")
    });
    let mut translated: Vec<_> = translated.collect();
    let mut expected = naive.addresses_table();
    translated.sort_unstable();
    expected.sort_unstable();
    same("transfer_ips", &expected.join("\n"), &translated.join("\n"));
}

fn seed() -> u64 {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    seed
}

#[test]
fn an_hour_of_a_site_is_in_sqlite_to_the_octet() {
    let mut random = fastrand::Rng::with_seed(seed());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("site.db");
    let backend = backend(&format!("sqlite:{}", path.display()));
    backend.migrate().unwrap();
    let connection = rusqlite::Connection::open(&path).unwrap();
    let (mut naive, sql) = found(&mut random);
    connection.execute_batch(&format!("BEGIN; {}; COMMIT", sql.join(";"))).unwrap();
    let mut test_site = TestSite::new(&backend, folder.path());
    live(&mut test_site, &mut naive, &mut random, &mut |_| {});
    test_site.recorder.stop();
    assert!(test_site.queues.unprunes().is_empty());
    compare(&naive, &|sql| crate::query_sqlite(&connection, sql));
}

#[test]
fn an_hour_of_a_site_is_in_mariadb_to_the_octet_although_that_is_killed_twice() {
    let mut random = fastrand::Rng::with_seed(seed());
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::new();
    let backend = backend(&server.database("site"));
    backend.migrate().unwrap();
    let (mut naive, sql) = found(&mut random);
    server.sql_in("site", &sql.join(";"));
    let mut test_site = TestSite::new(&backend, folder.path());
    live(&mut test_site, &mut naive, &mut random, &mut |second| match second {
        1200 | 2400 => server.kill9(),
        1500 | 2500 => server.start(),
        _ => {}
    });
    test_site.recorder.stop();
    compare(&naive, &|sql| server.sql_in("site", sql));
}
