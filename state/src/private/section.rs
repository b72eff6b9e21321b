//! The part of the snapshot that mode private keeps: torrents with their peers, users, pending un-prunes; and
//! back.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io;
use std::net::Ipv6Addr;
use std::sync::Arc;

use super::Site;
use super::peer::{Credit, Moment, NOWHERE, Peer, Seconds, Session, V4, V6, moment_of, unix_of, wire};
use super::swarm::Walk;
use super::torrents::{Round, Row, SHARDS, Torrent, Torrents};
use crate::announce::{PEER_V4_LEN, PEER_V6_LEN};
use crate::clock::Now;
use crate::snapshot::container::{Blocks, SnapshotError};
use crate::snapshot::keeper::{Pace, Section};
use crate::snapshot::load::Part;
use crate::snapshot::site::{self, Decoder, Endpoint, Group, Record, Role, SiteWriter};
use crate::store::Queues;

/// Users that are written between two pauses.
const USERS_SLICE: usize = 500;
/// Walks through a large swarm, at most. A seeder that becomes a leecher meanwhile may be missed by one, so
/// that there is another; one who does so all the time can be missed himself, and nobody else.
const WALKS_MOST: u32 = 3;

/// Writes what there is of a site.
#[derive(Debug)]
pub struct SiteSection {
    site: Arc<Site>,
    queues: Arc<Queues>,
}

impl SiteSection {
    /// Of this site; `queues` know which un-prunes are pending.
    #[must_use]
    pub fn new(site: Arc<Site>, queues: Arc<Queues>) -> Self {
        Self { site, queues }
    }
}

impl Section for SiteSection {
    fn write(&mut self, to: &mut dyn Blocks, pace: &mut Pace<'_>) -> io::Result<u64> {
        let mut peers = 0;
        let mut writer = SiteWriter::new(to);
        for shard in 0..SHARDS {
            let mut copies = Copies::of(&self.site.torrents, shard);
            while let Some(torrents) = copies.next(pace.now()) {
                for torrent in torrents {
                    peers += torrent.peers.len() as u64;
                    writer.torrent(&torrent)?;
                }
                pace.breathe()?;
            }
            pace.breathe()?;
        }
        let users = self.site.users();
        for some in users.chunks(USERS_SLICE) {
            some.iter().try_for_each(|user| writer.user(user))?;
            pace.breathe()?;
        }
        self.queues.unprunes().into_iter().try_for_each(|id| writer.unprune(id))?;
        writer.finish()?;
        Ok(peers)
    }
}

/// Restores torrents and their peers. Users and everything else come from the store.
#[derive(Debug)]
pub struct SiteRestore<'s> {
    torrents: &'s Torrents,
    /// When peers are restored, for their ages.
    now: Now,
    decoder: Decoder,
    checker: RefCell<Decoder>,
    unprunes: Vec<u32>,
    counts: (usize, usize),
}

impl<'s> SiteRestore<'s> {
    /// Restores to these torrents; it is `now`.
    #[must_use]
    pub fn new(torrents: &'s Torrents, now: Now) -> Self {
        Self {
            torrents,
            now,
            decoder: Decoder::default(),
            checker: RefCell::default(),
            unprunes: Vec::new(),
            counts: (0, 0),
        }
    }

    /// Takes one record.
    pub fn record(&mut self, record: Record) {
        match record {
            Record::Torrent(torrent) => {
                self.counts.0 += 1;
                self.counts.1 += torrent.peers.len();
                self.torrents.restore(&torrent, self.now);
            }
            Record::Unprune(id) => self.unprunes.push(id),
            Record::User(_) => {}
        }
    }

    /// Torrents whose un-prune was pending.
    #[must_use]
    pub fn into_unprunes(self) -> Vec<u32> {
        self.unprunes
    }
}

impl Part for SiteRestore<'_> {
    fn check(&self, tag: u8, payload: &[u8]) -> Result<(), SnapshotError> {
        self.checker.borrow_mut().block(tag, payload, &mut drop).map(drop)
    }

    fn restore(&mut self, _: Now, _: i64, tag: u8, payload: &[u8]) -> Result<(), SnapshotError> {
        let mut decoder = std::mem::take(&mut self.decoder);
        let result = decoder.block(tag, payload, &mut |record| self.record(record));
        self.decoder = decoder;
        result.map(drop)
    }

    fn summary(&self) -> String {
        let (torrents, peers) = self.counts;
        format!("{torrents} registered torrents, {peers} peers of users")
    }
}

/// The torrents of one shard as they are kept, some at a time, for each of which one lock is held.
pub(super) struct Copies<'t> {
    torrents: &'t Torrents,
    round: Option<Round>,
    /// A large swarm that is not copied to its end.
    pub(super) begun: Option<Begun>,
}

pub(super) struct Begun {
    copy: site::Torrent,
    /// Seeders that became leechers before the walk began.
    turned_back: u32,
    walks: u32,
}

impl<'t> Copies<'t> {
    pub(super) fn of(torrents: &'t Torrents, shard: usize) -> Self {
        Self { torrents, round: Some(torrents.round(shard, true)), begun: None }
    }

    /// Those that are ready; `None` at the end.
    pub(super) fn next(&mut self, now: Now) -> Option<Vec<site::Torrent>> {
        let (torrents, begun) = (self.torrents, &mut self.begun);
        let round = self.round.as_mut()?;
        let mut ready = Vec::new();
        let more = torrents.go_on(round, |torrent, walk, most| {
            let is_same = |begun: &mut Begun| begun.copy.info_hash == torrent.row.info_hash;
            let mut begun_now = begun.take_if(is_same).unwrap_or_else(|| Begun {
                copy: torrents.copy(torrent),
                turned_back: torrent.swarm.as_ref().map_or(0, |swarm| swarm.turned_back()),
                walks: 1,
            });
            let Some(swarm) = &torrent.swarm else {
                *walk = None;
                ready.push(begun_now.copy);
                return 0;
            };
            let peers = &mut begun_now.copy.peers;
            let looked_at = swarm.visit(walk, most, |role, peer| peers.push(kept(role, &peer, now)));
            if walk.is_none() && begun_now.turned_back != swarm.turned_back() && begun_now.walks < WALKS_MOST
            {
                (begun_now.turned_back, begun_now.walks) = (swarm.turned_back(), begun_now.walks + 1);
                *walk = Some(Walk::default());
            }
            match walk {
                None => ready.push(begun_now.copy),
                Some(_) => *begun = Some(begun_now),
            }
            looked_at
        });
        self.round = self.round.take_if(|_| more);
        ready.iter_mut().for_each(only_once);
        Some(ready)
    }
}

/// Of a peer that was met several times the last one counts, and that of a torrent that is gone is let go.
fn only_once(torrent: &mut site::Torrent) {
    let mut seen = HashSet::with_capacity(torrent.peers.len());
    torrent.peers.reverse();
    torrent.peers.retain(|peer| seen.insert((peer.user, peer.peer_id)));
}

impl Torrents {
    /// A torrent as it is kept, without its peers.
    fn copy(&self, torrent: &Torrent) -> site::Torrent {
        let Row { info_hash, id, kind, group, snatched, status, multipliers } = torrent.row;
        let type_name = (*self.kinds().name(kind)).into();
        site::Torrent {
            info_hash,
            id,
            group: Group { type_name, id: group },
            snatched,
            status,
            last_action: torrent.last_action.into(),
            multipliers,
            peers: Vec::new(),
        }
    }

    /// Registers a torrent with its peers, as it was kept.
    pub(super) fn restore(&self, torrent: &site::Torrent, now: Now) {
        let row = Row {
            info_hash: torrent.info_hash,
            id: torrent.id,
            kind: self.kinds().of(&torrent.group.type_name),
            group: torrent.group.id,
            snatched: torrent.snatched,
            status: torrent.status,
            multipliers: torrent.multipliers,
        };
        self.put_all(self.shard_of(&row.info_hash), &[row], 0, &|_| false);
        self.with(&row.info_hash, |known| {
            known.last_action = seconds(torrent.last_action);
            if torrent.peers.is_empty() {
                return;
            }
            let swarm = known.swarm.get_or_insert_default();
            for peer in &torrent.peers {
                // Of two with one key the one that announced later stays.
                if let Some(spot) = swarm.find(&self.keys, peer.user, &peer.peer_id) {
                    let later = |known: &Session| known.announced > seconds(peer.announced_at);
                    if swarm.session(spot).is_some_and(later) {
                        continue;
                    }
                    swarm.take(&self.keys, spot);
                }
                swarm.add(&self.keys, peer.role, restored(peer, now));
            }
        });
    }
}

fn kept(role: Role, peer: &Peer, now: Now) -> site::Peer {
    let Peer { user, v4, v6, session } = peer;
    site::Peer {
        user: *user,
        peer_id: session.peer_id,
        role,
        v4: (*v4 != NOWHERE).then(|| endpoint(v4, unix_of(session.v4_seen, now))),
        v6: v6.as_ref().map(|v6| endpoint(&v6.wire, unix_of(v6.seen, now))),
        uploaded: session.uploaded,
        downloaded: session.downloaded,
        left: session.left,
        started_at: session.started.into(),
        announced_at: session.announced.into(),
        client: session.client,
    }
}

fn restored(peer: &site::Peer, now: Now) -> Peer {
    let v4 = peer.v4.map(|v4| (wire(v4.address.octets(), v4.port), moment_of(v4.seen_at, now)));
    let (v4, v4_seen): (V4, Moment) = v4.unwrap_or((NOWHERE, 0));
    let v6 = |v6: Endpoint<Ipv6Addr>| {
        Box::new(V6 { wire: wire(v6.address.octets(), v6.port), seen: moment_of(v6.seen_at, now) })
    };
    let session = Session {
        peer_id: peer.peer_id,
        client: peer.client,
        uploaded: peer.uploaded,
        downloaded: peer.downloaded,
        left: peer.left,
        started: seconds(peer.started_at),
        announced: seconds(peer.announced_at),
        heard: moment_of(peer.announced_at, now),
        v4_seen,
        last: Credit::default(),
    };
    Peer { user: peer.user, v4, v6: peer.v6.map(v6), session }
}

fn endpoint<const ADDRESS: usize, const LEN: usize, A: From<[u8; ADDRESS]>>(
    wire: &[u8; LEN],
    seen_at: i64,
) -> Endpoint<A> {
    const { assert!(ADDRESS + 2 == LEN && (LEN == PEER_V4_LEN || LEN == PEER_V6_LEN)) };
    let (address, port) = wire.split_at(ADDRESS);
    let address: [u8; ADDRESS] = address.first_chunk().copied().unwrap_or([0; ADDRESS]);
    let port = port.first_chunk().copied().map_or(0, u16::from_be_bytes);
    Endpoint { address: address.into(), port, seen_at }
}

fn seconds(time: i64) -> Seconds {
    Seconds::try_from(time.max(0)).unwrap_or(Seconds::MAX)
}
