//! The swarms of a private site over UDP, as a naive model.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::model::{Announced, Expected, STARTED, STOPPED, Swarms, VerifiedAnnounce, compact, wanted};

/// Most peers of a user in one torrent.
const SESSIONS_MAX: usize = 16;

/// A peer is a client of a user.
type Key = (u32, [u8; 20]);

#[derive(Default)]
struct Peer {
    seeder: bool,
    totals: [u64; 2],
    /// The last endpoint of each family.
    v4: Option<(IpAddr, u16)>,
    v6: Option<(IpAddr, u16)>,
}

#[derive(Default)]
struct Torrent {
    status: i32,
    /// Users without the right to download who may still download this torrent.
    allowed: HashSet<u32>,
    peers: HashMap<Key, Peer>,
}

#[derive(Clone, Copy)]
struct User {
    id: u32,
    may_download: bool,
}

/// A site with the data of its database.
#[derive(Default)]
pub(super) struct Site {
    users: HashMap<Vec<u8>, User>,
    clients: Vec<&'static [u8]>,
    torrents: HashMap<[u8; 20], Torrent>,
}

impl Site {
    pub(super) fn user(&mut self, id: u32, passkey: &[u8], may_download: bool) {
        self.users.insert(passkey.to_vec(), User { id, may_download });
    }

    pub(super) fn client(&mut self, prefix: &'static [u8]) {
        self.clients.push(prefix);
    }

    pub(super) fn torrent(&mut self, info_hash: [u8; 20], status: i32, allowed: &[u32]) {
        let allowed = allowed.iter().copied().collect();
        self.torrents.insert(info_hash, Torrent { status, allowed, ..Torrent::default() });
    }

    fn find_user(&self, options: &[u8]) -> Option<User> {
        let url = url(options)?;
        let path = url.split(|&octet| octet == b'?').next().unwrap();
        self.users.get(&passkey(path)?).copied()
    }
}

impl Swarms for Site {
    fn announce(&mut self, announce: &VerifiedAnnounce<'_>) -> Option<Expected> {
        let Some(user) = self.find_user(announce.options) else {
            return Some(Expected::Error("Your passkey is invalid"));
        };
        if !self.clients.iter().any(|prefix| announce.peer_id.starts_with(prefix)) {
            return Some(Expected::Error("Your client is not approved"));
        }
        let Some(torrent) = self.torrents.get_mut(&announce.info_hash) else {
            return Some(Expected::Error("This torrent does not exist"));
        };
        if torrent.status != 0 && !(torrent.status == 1 && announce.seeder) {
            return Some(Expected::Error("This torrent does not exist"));
        }
        if !announce.seeder && !user.may_download && !torrent.allowed.contains(&user.id) {
            return Some(Expected::Error("Your download privileges are disabled"));
        }
        if torrent.status == 1 && announce.event == STOPPED {
            // Whether a peer that leaves unprunes a torrent is not tested here.
            return None;
        }
        let known = torrent.peers.get(&(user.id, announce.peer_id));
        let sessions = torrent.peers.keys().filter(|(other, _)| *other == user.id).count();
        if known.is_none() && announce.event != STOPPED && sessions >= SESSIONS_MAX {
            // Which of them is replaced depends on the second in which each announced last.
            return None;
        }
        if known.is_some_and(|peer| announce.event != STARTED && is_older(announce.totals, peer.totals)) {
            // Within a minute the announce counts as late, after that as the restart of a client.
            return None;
        }
        torrent.status = 0;
        torrent.change(user.id, announce);
        Some(torrent.reply(user.id, announce))
    }

    fn scrape(&self, _: &[[u8; 20]]) -> Expected {
        Expected::Error("Your passkey is invalid")
    }
}

impl Torrent {
    fn change(&mut self, user: u32, announce: &VerifiedAnnounce<'_>) {
        let key = (user, announce.peer_id);
        if announce.event == STOPPED {
            self.peers.remove(&key);
            return;
        }
        let peer = self.peers.entry(key).or_default();
        (peer.seeder, peer.totals) = (announce.seeder, announce.totals);
        let endpoint = if announce.source.is_ipv4() { &mut peer.v4 } else { &mut peer.v6 };
        *endpoint = Some((announce.source, announce.port));
    }

    /// Predicts the reply: a leecher gets one seeder of each other user, and every client the leechers of
    /// other users.
    fn reply(&self, user: u32, announce: &VerifiedAnnounce<'_>) -> Expected {
        let endpoint = |peer: &Peer| {
            let endpoint = if announce.source.is_ipv4() { peer.v4 } else { peer.v6 };
            endpoint.filter(|(_, port)| *port >= 1024)
        };
        let others = self.peers.iter().filter(|((other, _), _)| *other != user);
        let reachable = others.filter_map(|((other, _), peer)| Some((*other, peer.seeder, endpoint(peer)?)));
        let candidates: Vec<_> = reachable.filter(|(_, seeder, _)| !(*seeder && announce.seeder)).collect();
        let users: HashSet<u32> =
            candidates.iter().filter(|(_, seeder, _)| *seeder).map(|(user, ..)| *user).collect();
        let leechers = candidates.iter().filter(|(_, seeder, _)| !seeder).count();
        let seeders = self.peers.values().filter(|peer| peer.seeder).count();
        Expected::Announced(Announced {
            action: announce.action,
            interval: 1800..=2099,
            leechers: self.peers.len() - seeders,
            seeders,
            peers: (users.len() + leechers).min(wanted(announce, 25, 50)),
            among: candidates.iter().map(|(_, _, (address, port))| compact(*address, *port)).collect(),
            // Two clients may announce one endpoint.
            distinct: false,
        })
    }
}

/// Whether one of these totals is lower than before, and none is higher.
fn is_older(totals: [u64; 2], before: [u64; 2]) -> bool {
    let pairs = || totals.into_iter().zip(before);
    pairs().any(|(now, before)| now < before) && pairs().all(|(now, before)| now <= before)
}

/// Returns the URL in the options after an announce (BEP 41), `None` if there is none, or not the whole of
/// it.
fn url(options: &[u8]) -> Option<Vec<u8>> {
    let (mut url, mut at) = (None, 0);
    while at < options.len() && options[at] != 0 {
        if options[at] == 1 {
            at += 1;
            continue;
        }
        let end = at + 2 + usize::from(*options.get(at + 1)?);
        let data = options.get(at + 2..end)?;
        if options[at] == 2 {
            url.get_or_insert_with(Vec::new).extend(data);
        }
        at = end;
    }
    url
}

/// Returns the passkey of `/<passkey>/announce`, decoded once, with slashes that count as one, and dots
/// resolved.
fn passkey(path: &[u8]) -> Option<Vec<u8>> {
    let (mut decoded, mut at) = (Vec::new(), 0);
    while at < path.len() {
        let digits = path.get(at + 1..at + 3).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        match digits.filter(|_| path[at] == b'%') {
            Some(digits) => {
                decoded.push(u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap());
                at += 3;
            }
            None => {
                decoded.push(path[at]);
                at += 1;
            }
        }
    }
    let mut segments = Vec::new();
    let parts: Vec<_> = decoded.split(|&octet| octet == b'/').collect();
    let (leaf, folders) = parts.split_last().unwrap();
    for folder in folders {
        match *folder {
            b"" | b"." => {}
            b".." => _ = segments.pop(),
            folder => segments.push(folder.to_vec()),
        }
    }
    if *leaf == b"announce" { segments.pop() } else { None }
}
