//! Sends a hundred thousand datagrams to each mode, in windows. Each window ends with a connect: a datagram
//! that was not answered before the connect never will be, because a single worker answers in order.

use std::collections::{HashSet, VecDeque};
use std::fmt::Debug;
use std::net::{IpAddr, UdpSocket};
use std::ops::Range;

use fastrand::Rng;
use serde_json::json;

use super::datagram::DatagramGenerator;
use super::model::{Announced, Expected, MAGIC, Oracle, Swarms};
use super::open::OpenSwarms;
use super::site::Site;
use crate::fixture::{DISABLED, FREE, HIDDEN, MUSIC, PLAIN, PRUNED};
use crate::harness::{Daemon, TIMEOUT, udp_socket};
use crate::kit::site_database::SiteDatabase;

/// Datagrams of a window: few enough that all windows sent ahead fit into the socket buffers of both ends.
const WINDOW: usize = 50;
/// Windows that are sent ahead, so that the tracker is busy while the replies are read.
const WINDOWS_AHEAD: usize = 3;
/// Windows of one family in a row.
const ROW: usize = 8;

/// An address that announces.
struct Source {
    socket: UdpSocket,
    address: IpAddr,
    /// The last connection id that it was given.
    id: [u8; 8],
}

/// The datagrams that each source has sent, each with the expected reply.
type Window = Vec<Vec<(Vec<u8>, Expected)>>;

/// The addresses that announce, and the oracle that knows what they have announced.
struct Run<S> {
    oracle: Oracle<S>,
    generator: DatagramGenerator,
    /// The last one announces over IPv6.
    sources: Vec<Source>,
    sent: usize,
    /// Replies of each action, by that action.
    replies: [usize; 5],
    /// Peers that were handed out.
    peers: usize,
}

impl<S: Swarms> Run<S> {
    fn new(daemon: &Daemon, swarms: S, generator: DatagramGenerator) -> Self {
        let source = |address: &str| {
            let address: IpAddr = address.parse().unwrap();
            let tracker = if address.is_ipv4() { daemon.v4() } else { daemon.v6() };
            let socket = udp_socket(&address.to_string(), tracker);
            socket.set_read_timeout(Some(TIMEOUT)).unwrap();
            socket2::SockRef::from(&socket).set_recv_buffer_size(1 << 20).unwrap();
            Source { socket, address, id: [0; 8] }
        };
        let sources = ["127.0.0.1", "127.0.0.2", "127.0.0.3", "::1"].map(source).into();
        Self { oracle: Oracle::new(swarms), generator, sources, sent: 0, replies: [0; 5], peers: 0 }
    }

    fn send(&mut self, datagrams: usize) {
        let (v4, v6) = (0..self.sources.len() - 1, self.sources.len() - 1..self.sources.len());
        // The connects at the ends of these windows give all sources an id.
        self.windows(&v4, 1, 0);
        self.windows(&v6, 1, 0);
        while self.sent < datagrams {
            // Of one family, because the tracker answers in order only within one socket.
            let family = if self.generator.random.u8(..4) > 0 { &v4 } else { &v6 };
            self.windows(family, ROW, WINDOW);
        }
        // Every kind of reply must have been frequent enough.
        let silence = self.sent - self.replies.iter().sum::<usize>().min(self.sent);
        let (replies, peers) = (self.replies, self.peers);
        println!("{silence} times silence, replies by action {replies:?}, {peers} peers");
        assert!(silence > datagrams / 20 && peers > datagrams, "{silence}, {peers}");
        assert!([0, 1, 3, 4].iter().all(|action| replies[*action] > datagrams / 50), "{replies:?}");
    }

    /// Sends windows of `len` datagrams, some ahead of what is read.
    fn windows(&mut self, family: &Range<usize>, windows: usize, len: usize) {
        let mut ahead = VecDeque::new();
        for _ in 0..windows {
            ahead.push_back(self.window(family, len));
            if ahead.len() == WINDOWS_AHEAD {
                self.read_window(ahead.pop_front());
            }
        }
        while !ahead.is_empty() {
            self.read_window(ahead.pop_front());
        }
    }

    /// Sends one window. Returns the replies that each source awaits.
    fn window(&mut self, family: &Range<usize>, len: usize) -> Window {
        let mut awaited: Window = self.sources.iter().map(|_| Vec::new()).collect();
        for _ in 0..len {
            let at = self.generator.random.usize(family.clone());
            let foreign = self.sources[(at + 1) % self.sources.len()].id;
            let source = &self.sources[at];
            let datagram = self.generator.datagram(source.id, foreign);
            if let Some(expected) = self.oracle.expect(source.address, &datagram) {
                source.socket.send(&datagram).unwrap();
                awaited[at].push((datagram, expected));
                self.sent += 1;
            }
        }
        for at in family.clone() {
            let last = [&MAGIC[..], b"\0\0\0\0last"].concat();
            self.sources[at].socket.send(&last).unwrap();
            awaited[at].push((last, Expected::Connected));
        }
        awaited
    }

    fn read_window(&mut self, window: Option<Window>) {
        window.iter().flatten().enumerate().for_each(|(at, awaited)| self.read(at, awaited));
    }

    /// Reads the replies to all that one source sent.
    fn read(&mut self, at: usize, awaited: &[(Vec<u8>, Expected)]) {
        let source = &mut self.sources[at];
        for (datagram, expected) in awaited {
            if matches!(expected, Expected::Silence) {
                continue;
            }
            let mut buffer = [0; 4096];
            let len = source.socket.recv(&mut buffer);
            let reply = len.map(|len| &buffer[..len]);
            let checked = reply.as_ref().map_err(ToString::to_string).and_then(|reply| {
                check_reply(datagram, expected, reply)?;
                Ok(*reply)
            });
            let reply = checked.unwrap_or_else(|error| {
                let (datagram, address) = (datagram.escape_ascii(), source.address);
                panic!("{error}\n{address} sent {datagram}\nexpected {expected:?}\ngot {reply:02x?}")
            });
            self.replies[usize::from(reply[3])] += 1;
            if let Expected::Announced(announced) = expected {
                self.peers += announced.peers;
            }
            if matches!(expected, Expected::Connected) {
                source.id = reply[8..].try_into().unwrap();
                self.oracle.issue(source.address, source.id);
            }
        }
    }
}

/// Compares a reply with the expected one.
fn check_reply(datagram: &[u8], expected: &Expected, reply: &[u8]) -> Result<(), String> {
    if reply.len() < 8 {
        return Err(format!("{} octets", reply.len()));
    }
    expect_equal("transaction id", &reply[4..8], &datagram[12..16])?;
    let words = || reply.chunks_exact(4).map(|word| u32::from_be_bytes(word.try_into().unwrap()));
    let action = words().next().unwrap();
    match expected {
        Expected::Silence => Err("an answer".to_owned()),
        Expected::Connected => expect_equal("action and length", (action, reply.len()), (0, 16)),
        Expected::Error(text) => {
            expect_equal("action", action, 3)?;
            expect_equal("text", String::from_utf8_lossy(&reply[8..]).as_ref(), *text)
        }
        Expected::Scraped(rows) => {
            expect_equal("action and length", (action, reply.len()), (2, 8 + 12 * rows.len()))?;
            expect_equal("rows", &words().skip(2).collect::<Vec<_>>()[..], rows.as_flattened())
        }
        Expected::Announced(announced) => check_announce(announced, action, reply),
    }
}

fn check_announce(announced: &Announced, action: u32, reply: &[u8]) -> Result<(), String> {
    expect_equal("action", action, announced.action)?;
    let stride = announced.among.iter().next().map_or(6, Vec::len);
    expect_equal("length", reply.len(), 20 + stride * announced.peers)?;
    let word = |at: usize| u32::from_be_bytes(reply[at..at + 4].try_into().unwrap());
    if !announced.interval.contains(&word(8)) {
        return Err(format!("an interval of {} s", word(8)));
    }
    expect_equal("leechers", word(12) as usize, announced.leechers)?;
    expect_equal("seeders", word(16) as usize, announced.seeders)?;
    let peers: Vec<&[u8]> = reply[20..].chunks(stride).collect();
    if let Some(unexpected) = peers.iter().find(|peer| !announced.among.contains(**peer)) {
        return Err(format!("{unexpected:?} must not be handed out"));
    }
    let distinct = peers.iter().collect::<HashSet<_>>().len();
    if announced.distinct { expect_equal("different peers", distinct, peers.len()) } else { Ok(()) }
}

fn expect_equal<T: PartialEq + Debug>(what: &str, actual: T, expected: T) -> Result<(), String> {
    if actual == expected { Ok(()) } else { Err(format!("{what} is {actual:?}, not {expected:?}")) }
}

fn random() -> Rng {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    Rng::with_seed(seed)
}

fn peer_ids(random: &mut Rng, prefixes: &[&str]) -> Vec<[u8; 20]> {
    let mut id = |number: usize| {
        let prefix = prefixes[number % prefixes.len()];
        let text = format!("{prefix:-<8}{:012}", random.u32(..));
        text.into_bytes().try_into().unwrap()
    };
    (0..12).map(&mut id).collect()
}

#[test]
fn a_naive_model_predicts_every_reply_of_the_open_mode() {
    for keep_peer_ids in [false, true] {
        let mut random = random();
        let info_hashes = (0..16).map(|_| std::array::from_fn(|_| random.u8(..))).collect();
        let peer_ids = peer_ids(&mut random, &["-TR2940-"]);
        let options = vec![
            vec![],
            vec![0, 0],
            b"\x02\x09/announce".to_vec(),
            [1; 1000].to_vec(),
            b"\x07\x02xx\x02\xff/cut".to_vec(),
        ];
        let daemon = Daemon::start(json!({
            "udp": {"workers": 1}, "announce": {"keep_peer_ids": keep_peer_ids}
        }));
        let generator = DatagramGenerator { random, info_hashes, peer_ids, options, last_total: 0 };
        Run::new(&daemon, OpenSwarms::new(keep_peer_ids), generator).send(50_000);
    }
}

/// Returns the options of an announce whose URL is `path`, in one piece, or in several with others between.
fn url(random: &mut Rng, path: &[u8]) -> Vec<u8> {
    let (first, second) = path.split_at(random.usize(..=path.len()));
    let piece = |piece: &[u8]| [&[2, u8::try_from(piece.len()).unwrap()], piece].concat();
    match random.u8(..4) {
        0 => [piece(first), vec![9, 1, 7, 1], piece(second), vec![0], piece(b"/more")].concat(),
        1 => [piece(first), piece(second)].concat(),
        _ => piece(path),
    }
}

#[test]
fn a_naive_model_predicts_every_reply_of_a_private_site() {
    let (database, mut random, mut site) = (SiteDatabase::sqlite(), random(), Site::default());
    site.client(b"-TR2");
    site.client(b"-DE13");
    let mut info_hashes = vec![FREE, MUSIC, PRUNED];
    for (hash, status, allowed) in [(FREE, 0, &[][..]), (MUSIC, 0, &[2]), (PRUNED, 1, &[])] {
        site.torrent(hash, status, allowed);
    }
    for id in 11..19 {
        let hash: [u8; 20] = std::array::from_fn(|_| random.u8(..));
        let status = [0, 0, 0, 0, 1, 1, 2, -1][id - 11];
        let hex: String = hash.iter().map(|octet| format!("{octet:02x}")).collect();
        database.execute(&format!(
            "INSERT INTO torrents (ID, GroupID, TorrentType, info_hash, Status) \
             VALUES ({id}, 7, 'music', X'{hex}', {status})"
        ));
        site.torrent(hash, status, &[]);
        info_hashes.push(hash);
    }
    let mut passkeys = vec![PLAIN.to_owned(), HIDDEN.to_owned(), DISABLED.to_owned(), "x".repeat(32)];
    site.user(1, PLAIN.as_bytes(), true);
    site.user(2, HIDDEN.as_bytes(), false);
    for id in 11..17 {
        let passkey = format!("{id:032}");
        database.execute(&format!(
            "INSERT INTO users_main (ID, Enabled, torrent_pass) VALUES ({id}, '1', '{passkey}')"
        ));
        site.user(id, passkey.as_bytes(), true);
        passkeys.push(passkey);
    }
    let options = passkeys.iter().flat_map(|passkey| {
        let path = format!("/{passkey}/announce");
        let odd = [
            path.clone(),
            path.clone(),
            path.clone(),
            path.clone(),
            path.clone(),
            format!("{path}?x=/announce"),
            format!("//a/.././{passkey}//announce"),
            format!("/%{:02x}{}/announc%65", passkey.as_bytes()[0], &passkey[1..]),
            format!("/{passkey}/scrape"),
            format!("/{passkey}/announce/"),
            format!("/{passkey}"),
        ];
        odd.map(|path| url(&mut random, path.as_bytes()))
    });
    let options = options.collect();
    let peer_ids = peer_ids(&mut random, &["-TR2940-", "-DE1300-", "-TR2", "-TR2930-", "-qB4250-"]);
    // Nothing but the announces changes what the tracker knows.
    let daemon = database.daemon(json!({
        "udp": {"workers": 1}, "intervals": {"announce_drift": 300, "database_reload": 3600}
    }));
    let generator = DatagramGenerator { random, info_hashes, peer_ids, options, last_total: 0 };
    Run::new(&daemon, site, generator).send(100_000);
}
