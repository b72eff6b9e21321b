//! The part of the snapshot that mode private keeps: torrents with their peers, users, pending un-prunes; and
//! back.

use std::cell::RefCell;
use std::io;
use std::net::Ipv6Addr;
use std::sync::Arc;

use super::Site;
use super::peer::{Credit, NOWHERE, Peer, Seconds, Session, V4, V6, wire};
use super::torrents::{Row, SHARDS, Torrent, Torrents};
use crate::announce::{PEER_V4_LEN, PEER_V6_LEN};
use crate::clock::Now;
use crate::snapshot::container::{Blocks, SnapshotError};
use crate::snapshot::keeper::{Pace, Section};
use crate::snapshot::load::Part;
use crate::snapshot::site::{self, Decoder, Endpoint, Group, Record, Role, SiteWriter};
use crate::store::Queues;

/// Users that are written between two pauses.
const USERS_SLICE: usize = 500;

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
            for torrent in self.site.torrents.copies(shard) {
                peers += torrent.peers.len() as u64;
                writer.torrent(&torrent)?;
            }
            pace.pause()?;
        }
        let users = self.site.users();
        for some in users.chunks(USERS_SLICE) {
            some.iter().try_for_each(|user| writer.user(user))?;
            pace.pause()?;
        }
        self.queues.unprunes().into_iter().try_for_each(|id| writer.unprune(id))?;
        writer.finish()?;
        Ok(peers)
    }

    fn peers(&self) -> u64 {
        let peers = self.site.torrents.peers();
        (peers.seeders + peers.leechers) as u64
    }
}

/// Restores torrents and their peers. Users and everything else come from the store.
#[derive(Debug)]
pub struct SiteRestore<'s> {
    torrents: &'s Torrents,
    decoder: Decoder,
    checker: RefCell<Decoder>,
    unprunes: Vec<u32>,
    counts: (usize, usize),
}

impl<'s> SiteRestore<'s> {
    /// Restores to these torrents.
    #[must_use]
    pub fn new(torrents: &'s Torrents) -> Self {
        Self {
            torrents,
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
                self.torrents.restore(&torrent);
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

impl Torrents {
    /// All torrents of one shard, as they are kept.
    fn copies(&self, shard: usize) -> Vec<site::Torrent> {
        let mut copies = Vec::new();
        self.retain(shard, |torrent| {
            copies.push(self.copy(torrent));
            true
        });
        copies
    }

    fn copy(&self, torrent: &Torrent) -> site::Torrent {
        let Row { info_hash, id, kind, group, snatched, status, multipliers } = torrent.row;
        let type_name = (*self.kinds().name(kind)).into();
        let peers = torrent.swarm.iter().flat_map(|swarm| swarm.peers());
        site::Torrent {
            info_hash,
            id,
            group: Group { type_name, id: group },
            snatched,
            status,
            last_action: torrent.last_action.into(),
            multipliers,
            peers: peers.map(|(role, peer)| kept(role, &peer)).collect(),
        }
    }

    /// Registers a torrent with its peers, as it was kept.
    pub(super) fn restore(&self, torrent: &site::Torrent) {
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
                swarm.add(&self.keys, peer.role, restored(peer));
            }
        });
    }
}

fn kept(role: Role, peer: &Peer) -> site::Peer {
    let Peer { user, v4, v6, session } = peer;
    site::Peer {
        user: *user,
        peer_id: session.peer_id,
        role,
        v4: (*v4 != NOWHERE).then(|| endpoint(v4, session.v4_seen)),
        v6: v6.as_ref().map(|v6| endpoint(&v6.wire, v6.seen)),
        uploaded: session.uploaded,
        downloaded: session.downloaded,
        left: session.left,
        started_at: session.started.into(),
        announced_at: session.announced.into(),
        client: session.client,
    }
}

fn restored(peer: &site::Peer) -> Peer {
    let v4 = peer.v4.map(|v4| (wire(v4.address.octets(), v4.port), seconds(v4.seen_at)));
    let (v4, v4_seen): (V4, Seconds) = v4.unwrap_or((NOWHERE, 0));
    let v6 = |v6: Endpoint<Ipv6Addr>| {
        Box::new(V6 { wire: wire(v6.address.octets(), v6.port), seen: seconds(v6.seen_at) })
    };
    let session = Session {
        peer_id: peer.peer_id,
        client: peer.client,
        uploaded: peer.uploaded,
        downloaded: peer.downloaded,
        left: peer.left,
        started: seconds(peer.started_at),
        announced: seconds(peer.announced_at),
        v4_seen,
        last: Credit::default(),
    };
    Peer { user: peer.user, v4, v6: peer.v6.map(v6), session }
}

fn endpoint<const ADDRESS: usize, const LEN: usize, A: From<[u8; ADDRESS]>>(
    wire: &[u8; LEN],
    seen: Seconds,
) -> Endpoint<A> {
    const { assert!(ADDRESS + 2 == LEN && (LEN == PEER_V4_LEN || LEN == PEER_V6_LEN)) };
    let (address, port) = wire.split_at(ADDRESS);
    let address: [u8; ADDRESS] = address.first_chunk().copied().unwrap_or([0; ADDRESS]);
    let port = port.first_chunk().copied().map_or(0, u16::from_be_bytes);
    Endpoint { address: address.into(), port, seen_at: seen.into() }
}

fn seconds(time: i64) -> Seconds {
    Seconds::try_from(time.max(0)).unwrap_or(Seconds::MAX)
}
