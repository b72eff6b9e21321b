//! The snapshot of mode private: torrents with their peers, users, pending un-prunes; written and restored.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io;
use std::net::Ipv6Addr;
use std::sync::Arc;

use super::Site;
use super::peer::{
    Credit, EndpointV4, EndpointV6, Moment, NO_V4, Session, UnixSeconds, UserPeer, moment_from_unix,
    unix_from_moment, wire_endpoint,
};
use super::swarm::ClassCursor;
use super::torrents::{SHARDS, ShardWalk, TorrentInfo, TorrentState, Torrents};
use crate::announce::{PEER_V4_LEN, PEER_V6_LEN};
use crate::clock::Now;
use crate::snapshot::container::{BlockSink, SnapshotError};
use crate::snapshot::load::RestoreTarget;
use crate::snapshot::site::{self, Group, Role, SeenEndpoint, SiteDecoder, SiteRecord, SiteWriter};
use crate::snapshot::thread::{Pace, Section};
use crate::store::total::SessionKey;
use crate::store::{DurableTotals, Queues, SnapshotOrigin};

/// Users that are written between two pauses.
const USERS_SLICE: usize = 500;
/// Walks through a large swarm, at most. A walk may miss a seeder that becomes a leecher meanwhile, so
/// another follows; only a peer that does so all the time can be missed by all of them.
const WALKS_MAX: u32 = 3;

/// The part of a snapshot that holds a site.
#[derive(Debug)]
pub struct SiteSection {
    site: Arc<Site>,
    queues: Arc<Queues>,
}

impl SiteSection {
    /// Returns the section for this site; `queues` knows which un-prunes are pending.
    #[must_use]
    pub fn new(site: Arc<Site>, queues: Arc<Queues>) -> Self {
        Self { site, queues }
    }
}

impl Section for SiteSection {
    fn write(&mut self, to: &mut dyn BlockSink, pace: &mut Pace<'_>) -> io::Result<u64> {
        let mut peers = 0;
        let mut writer = SiteWriter::new(to);
        for shard in 0..SHARDS {
            let mut copies = TorrentCopier::for_shard(&self.site.torrents, shard);
            while let Some(torrents) = copies.next_torrents(pace.now()) {
                for torrent in torrents {
                    peers += torrent.peers.len() as u64;
                    writer.write_torrent(&torrent)?;
                }
                pace.pause_if_due()?;
            }
            pace.pause_if_due()?;
        }
        for (number, user) in self.site.accounts().values().enumerate() {
            writer.write_user(user)?;
            if number % USERS_SLICE == 0 {
                pace.pause_if_due()?;
            }
        }
        self.queues.unprunes().into_iter().try_for_each(|id| writer.write_unprune(id))?;
        writer.finish()?;
        Ok(peers)
    }

    fn peers(&self) -> u64 {
        let peers = self.site.torrents.peers();
        (peers.seeders + peers.leechers) as u64
    }
}

/// A restore in progress: torrents and their peers. Users and everything else come from the store.
#[derive(Debug)]
pub struct SiteRestore<'s> {
    torrents: &'s Torrents,
    /// The time of the restore, for the ages of peers.
    now: Now,
    decoder: SiteDecoder,
    checker: RefCell<SiteDecoder>,
    unprunes: Vec<u32>,
    counts: (usize, usize),
    durable: DurableTotals,
    origin: SnapshotOrigin,
}

impl<'s> SiteRestore<'s> {
    /// Returns a restore into these torrents at the time `now`.
    #[must_use]
    pub fn new(torrents: &'s Torrents, now: Now) -> Self {
        Self {
            torrents,
            now,
            decoder: SiteDecoder::default(),
            checker: RefCell::default(),
            unprunes: Vec::new(),
            counts: (0, 0),
            durable: DurableTotals::default(),
            origin: SnapshotOrigin::ThisTracker,
        }
    }

    /// Adds the durable totals of sessions: they take precedence over those in the snapshot.
    #[must_use]
    pub fn with_durable(self, known: DurableTotals) -> Self {
        Self { durable: known, ..self }
    }

    /// Declares that the records come from the cache of another tracker.
    pub fn set_other_tracker(&mut self) {
        self.origin = SnapshotOrigin::OtherTracker;
    }

    /// Restores one record.
    pub fn restore_record(&mut self, record: SiteRecord) {
        match record {
            SiteRecord::Torrent(torrent) => {
                self.counts.0 += 1;
                let Self { durable: known, origin, now, .. } = self;
                self.counts.1 += self.torrents.restore_torrent(&torrent, known, *origin, *now);
            }
            SiteRecord::Unprune(id) => self.unprunes.push(id),
            SiteRecord::User(_) => {}
        }
    }

    /// Finishes: durable sessions that were not restored wait for their next announce. Returns the torrents
    /// whose un-prune was pending.
    pub fn finish(self) -> Vec<u32> {
        self.torrents.dormant.replace_all(self.durable.into_unresolved(), self.now);
        self.unprunes
    }
}

impl RestoreTarget for SiteRestore<'_> {
    fn check_block(&self, tag: u8, payload: &[u8]) -> Result<(), SnapshotError> {
        self.checker.borrow_mut().decode_block(tag, payload, &mut drop).map(drop)
    }

    fn restore_block(&mut self, _: Now, _: i64, tag: u8, payload: &[u8]) -> Result<(), SnapshotError> {
        let mut decoder = std::mem::take(&mut self.decoder);
        let result = decoder.decode_block(tag, payload, &mut |record| self.restore_record(record));
        self.decoder = decoder;
        result.map(drop)
    }

    fn summary(&self) -> String {
        let (torrents, peers) = self.counts;
        format!("{torrents} registered torrents, {peers} peers of users")
    }
}

/// Copies the torrents of one shard for a snapshot, in slices, each under one lock.
pub(super) struct TorrentCopier<'t> {
    torrents: &'t Torrents,
    walk: Option<ShardWalk>,
    /// A large swarm of which a part is copied.
    pub(super) unfinished: Option<UnfinishedCopy>,
}

pub(super) struct UnfinishedCopy {
    copy: site::SiteTorrent,
    /// The swarm's `moved_back` when the walk began.
    moved_back: u32,
    walks: u32,
}

impl<'t> TorrentCopier<'t> {
    pub(super) fn for_shard(torrents: &'t Torrents, shard: usize) -> Self {
        Self { torrents, walk: Some(torrents.walk_shard(shard, true)), unfinished: None }
    }

    /// Returns the torrents that are complete; `None` at the end.
    pub(super) fn next_torrents(&mut self, now: Now) -> Option<Vec<site::SiteTorrent>> {
        let (torrents, begun) = (self.torrents, &mut self.unfinished);
        let round = self.walk.as_mut()?;
        let mut ready = Vec::new();
        let more = torrents.walk_slice(round, |torrent, cursor, most| {
            let is_same = |begun: &mut UnfinishedCopy| begun.copy.info_hash == torrent.info.info_hash;
            let mut begun_now = begun.take_if(is_same).unwrap_or_else(|| UnfinishedCopy {
                copy: torrents.copy_torrent(torrent),
                moved_back: torrent.swarm.as_ref().map_or(0, |swarm| swarm.moved_back()),
                walks: 1,
            });
            let Some(swarm) = &torrent.swarm else {
                *cursor = None;
                ready.push(begun_now.copy);
                return 0;
            };
            let peers = &mut begun_now.copy.peers;
            let looked_at =
                swarm.visit_peers(cursor, most, |role, peer| peers.push(to_site_peer(role, &peer, now)));
            if cursor.is_none() && begun_now.moved_back != swarm.moved_back() && begun_now.walks < WALKS_MAX {
                (begun_now.moved_back, begun_now.walks) = (swarm.moved_back(), begun_now.walks + 1);
                *cursor = Some(ClassCursor::default());
            }
            match cursor {
                None => ready.push(begun_now.copy),
                Some(_) => *begun = Some(begun_now),
            }
            looked_at
        });
        self.walk = self.walk.take_if(|_| more);
        ready.iter_mut().for_each(dedup_peers);
        Some(ready)
    }
}

/// Keeps the last copy of a peer that was visited several times, and releases the memory of those removed.
fn dedup_peers(torrent: &mut site::SiteTorrent) {
    let mut seen = HashSet::with_capacity(torrent.peers.len());
    torrent.peers.reverse();
    torrent.peers.retain(|peer| seen.insert((peer.user, peer.peer_id)));
}

impl Torrents {
    /// Copies a torrent without its peers.
    fn copy_torrent(&self, torrent: &TorrentState) -> site::SiteTorrent {
        let TorrentInfo { info_hash, id, torrent_type, group, snatched, status, multipliers } = torrent.info;
        let type_name = (*self.torrent_types().name(torrent_type)).into();
        site::SiteTorrent {
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

    /// Registers a torrent of a snapshot with its peers; what is `known` to be durable about them takes
    /// precedence. Returns the number of peers it has then.
    pub(super) fn restore_torrent(
        &self,
        torrent: &site::SiteTorrent,
        durable: &mut DurableTotals,
        origin: SnapshotOrigin,
        now: Now,
    ) -> usize {
        let row = TorrentInfo {
            info_hash: torrent.info_hash,
            id: torrent.id,
            torrent_type: self.torrent_types().intern(&torrent.group.type_name),
            group: torrent.group.id,
            snatched: torrent.snatched,
            status: torrent.status,
            multipliers: torrent.multipliers,
        };
        self.put_all(self.shard_of(&row.info_hash), &[row], 0, &|_| false);
        let restored = self.with_torrent(&row.info_hash, |registered| {
            registered.last_action = unix_seconds(torrent.last_action);
            let mut swarm = registered.swarm.take().unwrap_or_default();
            for peer in &torrent.peers {
                // Of two with the same key the one that announced later stays.
                let pos = swarm.find(self.hasher(), peer.user, &peer.peer_id);
                let later = |known: &Session| known.announced > unix_seconds(peer.announced_at);
                if pos.and_then(|pos| swarm.session(pos)).is_some_and(later) {
                    continue;
                }
                let (key, role, mut peer) =
                    (session_key(torrent.id, peer), peer.role, from_site_peer(peer, now));
                let Some(totals) = durable.resolve_session(&key, peer.session.totals(), origin) else {
                    continue;
                };
                peer.session.resume(totals, now);
                if let Some(pos) = pos {
                    swarm.remove(self.hasher(), pos);
                }
                swarm.add(self.hasher(), role, peer);
            }
            let peers = swarm.len();
            registered.swarm = Some(swarm).filter(|_| peers > 0);
            peers
        });
        restored.unwrap_or(0)
    }
}

fn session_key(torrent: u32, peer: &site::SitePeer) -> SessionKey {
    SessionKey { torrent, user: peer.user, peer_id: peer.peer_id }
}

fn to_site_peer(role: Role, peer: &UserPeer, now: Now) -> site::SitePeer {
    let UserPeer { user, v4, v6, session } = peer;
    site::SitePeer {
        user: *user,
        peer_id: session.peer_id,
        role,
        v4: (*v4 != NO_V4).then(|| seen_endpoint(v4, unix_from_moment(session.v4_seen, now))),
        v6: v6.as_ref().map(|v6| seen_endpoint(&v6.wire, unix_from_moment(v6.seen, now))),
        uploaded: session.uploaded,
        downloaded: session.downloaded,
        left: session.left,
        started_at: session.started.into(),
        announced_at: session.announced.into(),
        client: session.client,
    }
}

fn from_site_peer(peer: &site::SitePeer, now: Now) -> UserPeer {
    let v4 =
        peer.v4.map(|v4| (wire_endpoint(v4.address.octets(), v4.port), moment_from_unix(v4.seen_at, now)));
    let (v4, v4_seen): (EndpointV4, Moment) = v4.unwrap_or((NO_V4, 0));
    let v6 = |v6: SeenEndpoint<Ipv6Addr>| {
        Box::new(EndpointV6 {
            wire: wire_endpoint(v6.address.octets(), v6.port),
            seen: moment_from_unix(v6.seen_at, now),
        })
    };
    let session = Session {
        peer_id: peer.peer_id,
        client: peer.client,
        uploaded: peer.uploaded,
        downloaded: peer.downloaded,
        left: peer.left,
        started: unix_seconds(peer.started_at),
        announced: unix_seconds(peer.announced_at),
        heard: moment_from_unix(peer.announced_at, now),
        v4_seen,
        last: Credit::default(),
    };
    UserPeer { user: peer.user, v4, v6: peer.v6.map(v6), session }
}

fn seen_endpoint<const ADDRESS: usize, const LEN: usize, A: From<[u8; ADDRESS]>>(
    wire: &[u8; LEN],
    seen_at: i64,
) -> SeenEndpoint<A> {
    const { assert!(ADDRESS + 2 == LEN && (LEN == PEER_V4_LEN || LEN == PEER_V6_LEN)) };
    let (address, port) = wire.split_at(ADDRESS);
    let address: [u8; ADDRESS] = address.first_chunk().copied().unwrap_or([0; ADDRESS]);
    let port = port.first_chunk().copied().map_or(0, u16::from_be_bytes);
    SeenEndpoint { address: address.into(), port, seen_at }
}

fn unix_seconds(time: i64) -> UnixSeconds {
    UnixSeconds::try_from(time.max(0)).unwrap_or(UnixSeconds::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{InfoHash, PeerId};
    use crate::snapshot::site::{Group, Multipliers};
    use crate::store::total::SessionTotals;

    const HASH: InfoHash = InfoHash([3; 20]);

    fn peer(user: u32, uploaded: u64, announced_at: i64) -> site::SitePeer {
        site::SitePeer {
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

    fn torrent(peers: Vec<site::SitePeer>) -> SiteRecord {
        SiteRecord::Torrent(site::SiteTorrent {
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

    /// Users and the totals from which they are credited next.
    fn baselines(torrents: &Torrents) -> Vec<(u32, u64)> {
        let all = torrents.with_torrent(&HASH, |torrent| {
            let mut all = Vec::new();
            let swarm = torrent.swarm.as_deref();
            let each = |_, peer: UserPeer| all.push((peer.user, peer.session.uploaded));
            swarm.map(|swarm| swarm.visit_peers(&mut Some(ClassCursor::default()), usize::MAX, each));
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
            SiteRestore::new(&torrents, Now::at(0)).restore_record(torrent(peers));
            assert_eq!(baselines(&torrents), [(1, 1100)]);
        }
    }

    /// The durable totals: users 1 to 3 reported 500 at 150, but user 2 is gone; 4 and 5 have nothing since
    /// 100.
    fn known() -> DurableTotals {
        let key = |user| SessionKey { torrent: 3, user, peer_id: PeerId([7; 20]) };
        let totals =
            |is_gone| SessionTotals { uploaded: 500, announced: 150, is_gone, ..SessionTotals::default() };
        DurableTotals {
            sessions: [(key(1), totals(false)), (key(2), totals(true)), (key(3), totals(false))].into(),
            since: Some(100),
            until: 150,
        }
    }

    #[test]
    fn what_is_durable_counts_whatever_a_snapshot_says() {
        let peers = vec![peer(1, 700, 170), peer(2, 700, 140), peer(4, 700, 120), peer(5, 700, 90)];
        let torrents = Torrents::new();
        let mut restore = SiteRestore::new(&torrents, Now::at(0)).with_durable(known());
        restore.restore_record(torrent(peers));
        assert_eq!(restore.counts, (1, 2));
        restore.finish();
        // User 4 announced at a time for which all sessions are known, but is not among them: there is no
        // such session.
        assert_eq!(baselines(&torrents), [(1, 500), (5, 700)]);
        let dormant_key = |user| SessionKey { torrent: 3, user, peer_id: PeerId([7; 20]) };
        let dormant = [1, 2, 3]
            .map(|user| torrents.dormant.take_session(&dormant_key(user), 0).map(|(it, _)| it.uploaded));
        assert_eq!(dormant, [None, None, Some(500)]);
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
        let mut restore = SiteRestore::new(&torrents, Now::at(0)).with_durable(known());
        restore.set_other_tracker();
        restore.restore_record(torrent(peers));
        assert_eq!(baselines(&torrents), [(1, 700), (2, 700), (3, 500), (4, 700), (6, 700)]);
    }
}
