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
use crate::store::total::SessionKey;
use crate::store::{Known, Queues, Witness};

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
        for (number, user) in self.site.users().values().enumerate() {
            writer.user(user)?;
            if number % USERS_SLICE == 0 {
                pace.breathe()?;
            }
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
    /// When peers are restored, for their ages.
    now: Now,
    decoder: Decoder,
    checker: RefCell<Decoder>,
    unprunes: Vec<u32>,
    counts: (usize, usize),
    known: Known,
    witness: Witness,
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
            known: Known::default(),
            witness: Witness::Snapshot,
        }
    }

    /// With what is durable of the sessions: it counts, whatever the snapshot says of them.
    #[must_use]
    pub fn knowing(self, known: Known) -> Self {
        Self { known, ..self }
    }

    /// What comes now is from the cache of another tracker.
    pub fn hear_of_another(&mut self) {
        self.witness = Witness::Other;
    }

    /// Takes one record.
    pub fn record(&mut self, record: Record) {
        match record {
            Record::Torrent(torrent) => {
                self.counts.0 += 1;
                let Self { known, witness, now, .. } = self;
                self.counts.1 += self.torrents.restore(&torrent, known, *witness, *now);
            }
            Record::Unprune(id) => self.unprunes.push(id),
            Record::User(_) => {}
        }
    }

    /// Ends: durable sessions that were not restored wait for their next announce. Gives the torrents whose
    /// un-prune was pending.
    pub fn finish(self) -> Vec<u32> {
        self.torrents.strays.put(self.known.into_rest(), self.now);
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

    /// Registers a torrent with its peers, as it was kept, but for what is `known` to be durable of them.
    /// Gives how many peers there are then.
    pub(super) fn restore(
        &self,
        torrent: &site::Torrent,
        known: &mut Known,
        witness: Witness,
        now: Now,
    ) -> usize {
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
        let restored = self.with(&row.info_hash, |registered| {
            registered.last_action = seconds(torrent.last_action);
            let mut swarm = registered.swarm.take().unwrap_or_default();
            for peer in &torrent.peers {
                // Of two with one key the one that announced later stays.
                let spot = swarm.find(&self.keys, peer.user, &peer.peer_id);
                let later = |known: &Session| known.announced > seconds(peer.announced_at);
                if spot.and_then(|spot| swarm.session(spot)).is_some_and(later) {
                    continue;
                }
                let (key, role, mut peer) = (key(torrent.id, peer), peer.role, restored(peer, now));
                let Some(standing) = known.settle(&key, peer.session.standing(), witness) else { continue };
                peer.session.stand(standing, now);
                if let Some(spot) = spot {
                    swarm.take(&self.keys, spot);
                }
                swarm.add(&self.keys, role, peer);
            }
            let peers = swarm.len();
            registered.swarm = Some(swarm).filter(|_| peers > 0);
            peers
        });
        restored.unwrap_or(0)
    }
}

fn key(torrent: u32, peer: &site::Peer) -> SessionKey {
    SessionKey { torrent, user: peer.user, peer_id: peer.peer_id }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{InfoHash, PeerId};
    use crate::snapshot::site::{Group, Multipliers};
    use crate::store::total::Standing;

    const HASH: InfoHash = InfoHash([3; 20]);

    fn peer(user: u32, uploaded: u64, announced_at: i64) -> site::Peer {
        site::Peer {
            user,
            peer_id: PeerId([7; 20]),
            role: Role::Leecher,
            v4: None,
            v6: None,
            uploaded,
            downloaded: 1,
            left: 9,
            started_at: 1,
            announced_at,
            client: 1,
        }
    }

    fn torrent(peers: Vec<site::Peer>) -> Record {
        Record::Torrent(site::Torrent {
            info_hash: HASH,
            id: 3,
            group: Group { type_name: "music".into(), id: 1 },
            snatched: 0,
            status: 0,
            last_action: 0,
            multipliers: Multipliers::default(),
            peers,
        })
    }

    /// Users and what they are credited from next.
    fn baselines(torrents: &Torrents) -> Vec<(u32, u64)> {
        let all = torrents.with(&HASH, |torrent| {
            let mut all = Vec::new();
            let swarm = torrent.swarm.as_deref();
            let each = |_, peer: Peer| all.push((peer.user, peer.session.uploaded));
            swarm.map(|swarm| swarm.visit(&mut Some(Walk::default()), usize::MAX, each));
            all
        });
        let mut all: Vec<_> = all.unwrap();
        all.sort_unstable();
        all
    }

    #[test]
    fn of_two_sessions_with_one_key_the_later_one_is_restored() {
        let (earlier, later) = (peer(1, 700, 100), peer(1, 1100, 200));
        for peers in [vec![earlier.clone(), later.clone()], vec![later, earlier]] {
            let torrents = Torrents::new();
            SiteRestore::new(&torrents, Now::at(0)).record(torrent(peers));
            assert_eq!(baselines(&torrents), [(1, 1100)]);
        }
    }

    /// What is durable: users 1 to 3 have told 500 at 150, but user 2 is gone; 4 and 5 nothing since 100.
    fn known() -> Known {
        let key = |user| SessionKey { torrent: 3, user, peer_id: PeerId([7; 20]) };
        let standing = |is_gone| Standing { uploaded: 500, announced: 150, is_gone, ..Standing::default() };
        Known {
            sessions: [(key(1), standing(false)), (key(2), standing(true)), (key(3), standing(false))].into(),
            since: Some(100),
            until: 150,
        }
    }

    #[test]
    fn what_is_durable_counts_whatever_a_snapshot_says() {
        let peers = vec![peer(1, 700, 170), peer(2, 700, 140), peer(4, 700, 120), peer(5, 700, 90)];
        let torrents = Torrents::new();
        let mut restore = SiteRestore::new(&torrents, Now::at(0)).knowing(known());
        restore.record(torrent(peers));
        assert_eq!(restore.counts, (1, 2));
        restore.finish();
        // 4 has announced since everything is known, and yet is not: it is no session.
        assert_eq!(baselines(&torrents), [(1, 500), (5, 700)]);
        let stray = |user| SessionKey { torrent: 3, user, peer_id: PeerId([7; 20]) };
        let strays = [1, 2, 3].map(|user| torrents.strays.take(&stray(user), 0).map(|(it, _)| it.uploaded));
        assert_eq!(strays, [None, None, Some(500)]);
    }

    #[test]
    fn of_another_tracker_counts_what_is_later_than_what_is_durable() {
        let peers = vec![
            peer(1, 700, 170),
            peer(2, 700, 170),
            peer(3, 400, 140),
            peer(4, 700, 170),
            peer(5, 700, 120),
            peer(6, 700, 90),
        ];
        let torrents = Torrents::new();
        let mut restore = SiteRestore::new(&torrents, Now::at(0)).knowing(known());
        restore.hear_of_another();
        restore.record(torrent(peers));
        assert_eq!(baselines(&torrents), [(1, 700), (2, 700), (3, 500), (4, 700), (6, 700)]);
    }
}
