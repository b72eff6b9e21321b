//! The tracker is killed repeatedly under load, at random moments, and now and then the database too: in the
//! end every user and each of their torrents is credited what their clients have reported, to the octet.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpStream;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::{Daemon, Folder, TIMEOUT, UdpClient, ask, get};
use crate::kit::site_database::SiteDatabase;
use crate::kit::site_database::{fetch_text, over_udp, stop, target};

/// Number of times that each tracker is killed.
const VARIABLE: &str = "HAYATE_KILLS";
const KILLS: u32 = 100;
const USERS: u32 = 25;
const TORRENTS: u32 = 400;
/// Numbers above those of the fixture.
const FIRST: u32 = 1000;
/// The database is killed once in this number of rounds.
const OUTAGE: u32 = 12;
/// Approximate number of sessions at a time.
const SESSIONS: usize = 60;

/// A client. No two clients have both the same user and the same torrent.
struct Session {
    number: u32,
    /// The totals of its last announce.
    last_totals: [u64; 2],
    /// The totals of the first announce that the tracker knows, if that announce may be durable.
    baseline: Option<[u64; 2]>,
    /// Whether its first announce is known to be durable: the database had it after a kill.
    is_durable: bool,
    /// It has announced `stopped`, and ends when that is durable.
    stops: bool,
}

impl Session {
    fn new(number: u32) -> Self {
        Self { number, last_totals: [0; 2], baseline: None, is_durable: false, stops: false }
    }

    /// Returns user and torrent, the key of its row in `transfer_history`.
    fn pair(&self) -> (u32, u32) {
        (FIRST + self.number % USERS, FIRST + self.number / USERS)
    }

    fn credit(&self) -> [u64; 2] {
        let baseline = self.baseline.unwrap_or(self.last_totals);
        [self.last_totals[0] - baseline[0], self.last_totals[1] - baseline[1]]
    }

    /// Transfers some octets, and perhaps stops.
    fn transfer(&mut self, random: &mut fastrand::Rng) {
        self.last_totals = self.last_totals.map(|total| total + random.u64(..50_000));
        self.stops = random.u8(..40) == 0;
    }

    /// Returns its next announce, which is the first one for a tracker that does not know the client.
    fn announce(&mut self) -> SentAnnounce {
        self.baseline.get_or_insert(self.last_totals);
        let (user, torrent) = self.pair();
        SentAnnounce {
            passkey: passkey(user),
            hash: hash(torrent),
            id: self.number,
            totals: self.last_totals,
            stops: self.stops,
        }
    }
}

/// One announce.
struct SentAnnounce {
    passkey: String,
    hash: [u8; 20],
    id: u32,
    totals: [u64; 2],
    stops: bool,
}

impl SentAnnounce {
    fn datagram(&self, udp: &UdpClient) -> Vec<u8> {
        let event = if self.stops { 3 } else { 0 };
        udp.request(1, &over_udp(&self.passkey, &self.hash, self.id, self.totals, 5, event))
    }

    fn target(&self) -> String {
        let event = if self.stops { "&event=stopped" } else { "" };
        let [up, down] = self.totals;
        let more = format!("&left=5&uploaded={up}&downloaded={down}{event}");
        target(&self.passkey, &self.hash, self.id, &more)
    }
}

fn passkey(user: u32) -> String {
    format!("passkey-of-{user:021}")
}

fn hash(torrent: u32) -> [u8; 20] {
    let mut octets = [7; 20];
    octets[..4].copy_from_slice(&torrent.to_be_bytes());
    octets
}

pub(super) fn fill_database(database: &SiteDatabase) {
    let users = (FIRST..FIRST + USERS).map(|id| format!("({id}, '1', '{}', 1, 1)", passkey(id)));
    let users = users.collect::<Vec<_>>().join(", ");
    let columns = "ID, Enabled, torrent_pass, UpMultiplier, DownMultiplier";
    database.execute(&format!("INSERT INTO users_main ({columns}) VALUES {users}"));
    let hex = |id| hash(id).map(|octet| format!("{octet:02x}")).concat();
    let torrents =
        (FIRST..FIRST + TORRENTS).map(|id| format!("({id}, 99, 'music', X'{}', 1, 1, 0)", hex(id)));
    let torrents = torrents.collect::<Vec<_>>().join(", ");
    let columns = "ID, GroupID, TorrentType, info_hash, UpMultiplier, DownMultiplier, Status";
    database.execute(&format!("INSERT INTO torrents ({columns}) VALUES {torrents}"));
}

/// Returns the totals in the database, by user and torrent.
fn credited(database: &SiteDatabase) -> BTreeMap<(u32, u32), [u64; 2]> {
    let rows = database.query(&format!(
        "SELECT uid, fid, uploaded, downloaded FROM transfer_history WHERE uid >= {FIRST} ORDER BY uid, fid"
    ));
    let row = |line: &str| {
        let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().unwrap()).collect();
        let id = |at: usize| u32::try_from(numbers[at]).unwrap();
        ((id(0), id(1)), [numbers[2], numbers[3]])
    };
    rows.lines().map(row).collect()
}

/// All clients, and the totals that must be in the database in the end.
pub(super) struct Sessions {
    pub(super) random: fastrand::Rng,
    live: Vec<Session>,
    ended: BTreeMap<(u32, u32), [u64; 2]>,
    next: u32,
}

impl Sessions {
    pub(super) fn new() -> Self {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let random = fastrand::Rng::with_seed(seed);
        Self { random, live: Vec::new(), ended: BTreeMap::new(), next: 0 }
    }

    /// Has a random client announce over either server and receive the reply.
    pub(super) fn announce_one(&mut self, daemon: &Daemon, udp: &UdpClient) {
        if self.live.len() < SESSIONS && self.next < USERS * TORRENTS {
            self.live.push(Session::new(self.next));
            self.next += 1;
        }
        let at = self.random.usize(..self.live.len());
        let session = &mut self.live[at];
        if !session.stops {
            session.transfer(&mut self.random);
        }
        let announce = session.announce();
        if self.random.bool() {
            let reply = ask(&udp.socket, &announce.datagram(udp)).expect("a reply");
            assert_eq!(reply[..4], [0, 0, 0, 1], "{}", reply.escape_ascii());
        } else {
            let reply = fetch_text(daemon.v4(), &announce.target());
            assert!(reply.contains("incompletei"), "{reply}");
        }
    }

    /// Ends the clients that have announced `stopped`, if no tracker was killed that might have forgotten it.
    pub(super) fn forget_stopped(&mut self) {
        let ended = self.live.extract_if(.., |session| session.stops);
        self.ended.extend(ended.map(|session| (session.pair(), session.credit())));
    }

    /// Has some clients announce without waiting for the reply, and kills the tracker.
    fn burst(&mut self, daemon: &Daemon, udp: &UdpClient) {
        self.announce_unanswered(daemon, udp);
        daemon.signal(Signal::SIGKILL);
    }

    /// Has some clients announce without waiting for the reply.
    pub(super) fn announce_unanswered(&mut self, daemon: &Daemon, udp: &UdpClient) {
        let mut streams = Vec::new();
        for session in &mut self.live {
            if self.random.u8(..4) > 0 {
                continue;
            }
            if !session.stops {
                session.transfer(&mut self.random);
            }
            let announce = session.announce();
            if self.random.bool() {
                udp.socket.send(&announce.datagram(udp)).unwrap();
            } else {
                let mut stream = TcpStream::connect(daemon.v4()).unwrap();
                stream.write_all(get(&announce.target()).as_bytes()).unwrap();
                streams.push(stream);
            }
        }
    }

    /// After the tracker has come back, and the database has all that is durable: a client that is not in it
    /// is new, and its totals there are never above what it has announced.
    pub(super) fn compare(&mut self, database: &SiteDatabase) {
        let credited = credited(database);
        for session in &mut self.live {
            match credited.get(&session.pair()) {
                Some(credit) => {
                    session.is_durable = true;
                    let max = session.credit();
                    assert!(credit[0] <= max[0] && credit[1] <= max[1], "{credit:?}, at most {max:?}");
                }
                None => {
                    assert!(!session.is_durable, "what was durable is gone");
                    session.baseline = None;
                }
            }
        }
        let ends = |session: &Session| {
            session.stops
                && credited.get(&session.pair()) == Some(&session.credit())
                && session.baseline.is_some()
        };
        let (ended, live) = std::mem::take(&mut self.live).into_iter().partition(ends);
        self.live = live;
        self.ended.extend(Vec::into_iter(ended).map(|session: Session| (session.pair(), session.credit())));
        for (pair, credit) in &self.ended {
            assert_eq!(credited.get(pair), Some(credit), "{pair:?}");
        }
    }

    /// Has every client announce for the last time.
    pub(super) fn stop_all(&mut self, udp: &UdpClient) {
        for session in &mut self.live {
            let announce = session.announce();
            let reply = ask(&udp.socket, &announce.datagram(udp)).expect("a reply");
            assert_eq!(reply[..4], [0, 0, 0, 1], "{}", reply.escape_ascii());
        }
        let live = std::mem::take(&mut self.live);
        self.ended.extend(live.into_iter().map(|session| (session.pair(), session.credit())));
    }

    /// After the last announces and the end of the tracker: every client is credited once what it has
    /// announced.
    pub(super) fn check_totals(&self, database: &SiteDatabase) {
        let credited = credited(database);
        assert_eq!(credited, self.ended);
        let users = database.query(&format!(
            "SELECT ID, Uploaded, Downloaded, rawup, rawdl FROM users_main WHERE ID >= {FIRST} ORDER BY ID"
        ));
        let expected = (FIRST..FIRST + USERS).map(|id| {
            let of_user = credited.iter().filter(|((user, _), _)| *user == id);
            let [up, down] =
                of_user.fold([0; 2], |sum, (_, credit)| [sum[0] + credit[0], sum[1] + credit[1]]);
            format!("{id} {up} {down} {up} {down}")
        });
        assert_eq!(users, expected.collect::<Vec<_>>().join("\n"));
        println!(
            "{} sessions, {} octets uploaded",
            self.ended.len(),
            credited.values().map(|it| it[0]).sum::<u64>()
        );
    }
}

/// Returns a client with a long timeout.
pub(super) fn client(daemon: &Daemon) -> UdpClient {
    let client = UdpClient::connect("127.0.0.1", daemon.v4());
    client.socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    client
}

fn kill_again_and_again(mut database: SiteDatabase) {
    let kills = std::env::var(VARIABLE).ok().map_or(KILLS, |text| text.parse().unwrap());
    println!("{kills} kills");
    fill_database(&database);
    let mut sessions = Sessions::new();
    // Queues so small that a cut is made every few announces, and snapshots of all ages.
    let changes =
        || json!({"channels": {"users": 16, "transfer_history": 40}, "intervals": {"database_serialize": 1}});
    let mut daemon = database.daemon(changes());
    for kill in 0..kills {
        let udp = client(&daemon);
        for _ in 0..sessions.random.u32(..150) {
            sessions.announce_one(&daemon, &udp);
        }
        if let Some(server) = database.server.as_mut().filter(|_| kill % OUTAGE == OUTAGE - 1) {
            server.kill9();
            for _ in 0..sessions.random.u32(..100) {
                sessions.announce_one(&daemon, &udp);
            }
        }
        sessions.burst(&daemon, &udp);
        daemon.wait();
        if let Some(server) = database.server.as_mut().filter(|_| kill % OUTAGE == OUTAGE - 1) {
            server.start();
        }
        let folder = std::mem::replace(&mut daemon.folder, Folder::new());
        daemon = database.daemon_in(folder, changes());
        sessions.compare(&database);
    }
    sessions.stop_all(&client(&daemon));
    stop(&mut daemon);
    sessions.check_totals(&database);
}

#[test]
fn killed_again_and_again_on_sqlite_every_octet_is_credited_once() {
    kill_again_and_again(SiteDatabase::sqlite());
}

#[test]
fn killed_again_and_again_on_mariadb_every_octet_is_credited_once() {
    kill_again_and_again(SiteDatabase::mariadb());
}
