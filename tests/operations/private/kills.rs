//! Killed again and again under load, at whatever moment that is, the database now and then too: what every
//! user and each of their torrents is credited in the end is what their clients have reported, to the octet.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpStream;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::{Daemon, Folder, PATIENCE, UdpClient, ask, get};
use crate::kit::site_database::Base;
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

/// A client as it sees itself. Each has a user and a torrent that no other client has together.
struct Session {
    number: u32,
    /// The totals of its last announce.
    last_told: [u64; 2],
    /// The totals of the first announce that the tracker knows, as far as that is durable.
    base: Option<[u64; 2]>,
    /// The tracker was killed since, so it is unknown whether that is durable.
    is_sure: bool,
    /// It has announced `stopped`, and ends when that is durable.
    stops: bool,
}

impl Session {
    fn new(number: u32) -> Self {
        Self { number, last_told: [0; 2], base: None, is_sure: false, stops: false }
    }

    /// Row of `transfer_history`.
    fn pair(&self) -> (u32, u32) {
        (FIRST + self.number % USERS, FIRST + self.number / USERS)
    }

    fn credit(&self) -> [u64; 2] {
        let base = self.base.unwrap_or(self.last_told);
        [self.last_told[0] - base[0], self.last_told[1] - base[1]]
    }

    /// Lets some time pass.
    fn go_on(&mut self, random: &mut fastrand::Rng) {
        self.last_told = self.last_told.map(|total| total + random.u64(..50_000));
        self.stops = random.u8(..40) == 0;
    }

    /// Makes its next announce, which is the first for a tracker that does not know it.
    fn announce(&mut self) -> SentAnnounce {
        self.base.get_or_insert(self.last_told);
        let (user, torrent) = self.pair();
        SentAnnounce {
            passkey: passkey(user),
            hash: hash(torrent),
            id: self.number,
            told: self.last_told,
            stops: self.stops,
        }
    }
}

/// One announce.
struct SentAnnounce {
    passkey: String,
    hash: [u8; 20],
    id: u32,
    told: [u64; 2],
    stops: bool,
}

impl SentAnnounce {
    fn datagram(&self, udp: &UdpClient) -> Vec<u8> {
        let event = if self.stops { 3 } else { 0 };
        udp.request(1, &over_udp(&self.passkey, &self.hash, self.id, self.told, 5, event))
    }

    fn target(&self) -> String {
        let event = if self.stops { "&event=stopped" } else { "" };
        let [up, down] = self.told;
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

pub(super) fn fill_database(base: &Base) {
    let users = (FIRST..FIRST + USERS).map(|id| format!("({id}, '1', '{}', 1, 1)", passkey(id)));
    let users = users.collect::<Vec<_>>().join(", ");
    let columns = "ID, Enabled, torrent_pass, UpMultiplier, DownMultiplier";
    base.run(&format!("INSERT INTO users_main ({columns}) VALUES {users}"));
    let hex = |id| hash(id).map(|octet| format!("{octet:02x}")).concat();
    let torrents =
        (FIRST..FIRST + TORRENTS).map(|id| format!("({id}, 99, 'music', X'{}', 1, 1, 0)", hex(id)));
    let torrents = torrents.collect::<Vec<_>>().join(", ");
    let columns = "ID, GroupID, TorrentType, info_hash, UpMultiplier, DownMultiplier, Status";
    base.run(&format!("INSERT INTO torrents ({columns}) VALUES {torrents}"));
}

/// The totals in the database, by user and torrent.
fn credited(base: &Base) -> BTreeMap<(u32, u32), [u64; 2]> {
    let rows = base.ask(&format!(
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

    /// A random client announces, over either server, and receives the answer.
    pub(super) fn announce_one(&mut self, daemon: &Daemon, udp: &UdpClient) {
        if self.live.len() < SESSIONS && self.next < USERS * TORRENTS {
            self.live.push(Session::new(self.next));
            self.next += 1;
        }
        let at = self.random.usize(..self.live.len());
        let session = &mut self.live[at];
        if !session.stops {
            session.go_on(&mut self.random);
        }
        let said = session.announce();
        if self.random.bool() {
            let reply = ask(&udp.socket, &said.datagram(udp)).expect("a reply");
            assert_eq!(reply[..4], [0, 0, 0, 1], "{}", reply.escape_ascii());
        } else {
            let reply = fetch_text(daemon.v4(), &said.target());
            assert!(reply.contains("incompletei"), "{reply}");
        }
    }

    /// Ends clients that have announced `stopped`: no tracker was killed that might have forgotten it.
    pub(super) fn forget_stopped(&mut self) {
        let ended = self.live.extract_if(.., |session| session.stops);
        self.ended.extend(ended.map(|session| (session.pair(), session.credit())));
    }

    /// Some clients announce without waiting for the reply, for the tracker is killed at that moment.
    fn burst(&mut self, daemon: &Daemon, udp: &UdpClient) {
        self.announce_unanswered(daemon, udp);
        daemon.signal(Signal::SIGKILL);
    }

    /// Some clients announce without waiting for the reply.
    pub(super) fn announce_unanswered(&mut self, daemon: &Daemon, udp: &UdpClient) {
        let mut streams = Vec::new();
        for session in &mut self.live {
            if self.random.u8(..4) > 0 {
                continue;
            }
            if !session.stops {
                session.go_on(&mut self.random);
            }
            let said = session.announce();
            if self.random.bool() {
                udp.socket.send(&said.datagram(udp)).unwrap();
            } else {
                let mut stream = TcpStream::connect(daemon.v4()).unwrap();
                stream.write_all(get(&said.target()).as_bytes()).unwrap();
                streams.push(stream);
            }
        }
    }

    /// After the tracker has come back, and the database has all that is durable: a client that is not in it
    /// is new, and its totals there are never above what it has announced.
    pub(super) fn compare(&mut self, base: &Base) {
        let credited = credited(base);
        for session in &mut self.live {
            match credited.get(&session.pair()) {
                Some(credit) => {
                    session.is_sure = true;
                    let most = session.credit();
                    assert!(credit[0] <= most[0] && credit[1] <= most[1], "{credit:?}, at most {most:?}");
                }
                None => {
                    assert!(!session.is_sure, "what was durable is gone");
                    session.base = None;
                }
            }
        }
        let ends = |session: &Session| {
            session.stops
                && credited.get(&session.pair()) == Some(&session.credit())
                && session.base.is_some()
        };
        let (ended, live) = std::mem::take(&mut self.live).into_iter().partition(ends);
        self.live = live;
        self.ended.extend(Vec::into_iter(ended).map(|session: Session| (session.pair(), session.credit())));
        for (pair, credit) in &self.ended {
            assert_eq!(credited.get(pair), Some(credit), "{pair:?}");
        }
    }

    /// Every client announces a last time.
    pub(super) fn stop_all(&mut self, udp: &UdpClient) {
        for session in &mut self.live {
            let said = session.announce();
            let reply = ask(&udp.socket, &said.datagram(udp)).expect("a reply");
            assert_eq!(reply[..4], [0, 0, 0, 1], "{}", reply.escape_ascii());
        }
        let live = std::mem::take(&mut self.live);
        self.ended.extend(live.into_iter().map(|session| (session.pair(), session.credit())));
    }

    /// After the last announces and the end of the tracker: every client is credited once what it has
    /// announced.
    pub(super) fn check_totals(&self, base: &Base) {
        let credited = credited(base);
        assert_eq!(credited, self.ended);
        let users = base.ask(&format!(
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

/// A client that waits for an answer as long as it takes.
pub(super) fn client(daemon: &Daemon) -> UdpClient {
    let client = UdpClient::connect("127.0.0.1", daemon.v4());
    client.socket.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

fn kill_again_and_again(mut base: Base) {
    let kills = std::env::var(VARIABLE).ok().map_or(KILLS, |text| text.parse().unwrap());
    println!("{kills} kills");
    fill_database(&base);
    let mut sessions = Sessions::new();
    // Queues so small that a cut is made every few announces, and snapshots of all ages.
    let changes =
        || json!({"channels": {"users": 16, "transfer_history": 40}, "intervals": {"database_serialize": 1}});
    let mut daemon = base.daemon(changes());
    for kill in 0..kills {
        let udp = client(&daemon);
        for _ in 0..sessions.random.u32(..150) {
            sessions.announce_one(&daemon, &udp);
        }
        if let Some(server) = base.server.as_mut().filter(|_| kill % OUTAGE == OUTAGE - 1) {
            server.kill9();
            for _ in 0..sessions.random.u32(..100) {
                sessions.announce_one(&daemon, &udp);
            }
        }
        sessions.burst(&daemon, &udp);
        daemon.wait();
        if let Some(server) = base.server.as_mut().filter(|_| kill % OUTAGE == OUTAGE - 1) {
            server.start();
        }
        let folder = std::mem::replace(&mut daemon.folder, Folder::new());
        daemon = base.daemon_in(folder, changes());
        sessions.compare(&base);
    }
    sessions.stop_all(&client(&daemon));
    stop(&mut daemon);
    sessions.check_totals(&base);
}

#[test]
fn killed_again_and_again_on_sqlite_every_octet_is_credited_once() {
    kill_again_and_again(Base::sqlite());
}

#[test]
fn killed_again_and_again_on_mariadb_every_octet_is_credited_once() {
    kill_again_and_again(Base::mariadb());
}
