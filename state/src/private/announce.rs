//! One announce of a user, from the check of its torrent to the peers it is handed: one atomic step under
//! the lock of its torrent (`rules/private.md#announces`).

use hashbrown::HashSet;

use super::accounting::{AMOUNT_MAX, CreditTerms, TotalsProgress, ip_columns};
use super::anomalies::Anomaly;
use super::columns::UserPeerPos;
use super::peer::{Credit, Moment, NO_V4, Session, UnixSeconds, UserPeer, moment};
use super::refusal::Refused;
use super::site_data::SiteData;
use super::swarm::Swarm;
use super::torrents::{AnnounceEffects, LIVE, PRUNED, TorrentInfo, TorrentState, Torrents};
use super::users::User;
use crate::admission::Policy;
use crate::announce::{Announce, Event, Handout, Refusal, Tally};
use crate::clock::Now;
use crate::ids::InfoHash;
use crate::snapshot::site::{Multipliers, Role};
use crate::store::record::{SnatchRow, TorrentRow, TransferIpRow, TransferRow, UserRow};
use crate::store::total::{SessionKey, SessionTotals};
use crate::store::{Queues, Record};
use crate::table::keyed_hash::KeyedHash;

/// One announce of a user and the settings and site data that decide it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UserAnnounce<'a> {
    pub(crate) now: Now,
    pub(crate) policy: &'a Policy,
    pub(crate) site_data: &'a SiteData,
    pub(crate) user: User,
    /// The approved client.
    pub(crate) client: u32,
    pub(crate) announce: &'a Announce,
}

/// The choice of peers of one thread: its random numbers and a set that is used again for every announce.
#[derive(Debug)]
pub(crate) struct PeerPicker {
    pub(crate) random: fastrand::Rng,
    /// Users of whom a peer has been handed out; kept between announces, so that nothing is allocated.
    users: HashSet<u32>,
}

impl PeerPicker {
    pub(crate) fn new(random: fastrand::Rng) -> Self {
        Self { random, users: HashSet::with_capacity(256) }
    }
}

/// The result of an announce that was not refused.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UserAnswer {
    /// The torrent's id.
    pub(crate) torrent: u32,
    pub(crate) tally: Tally,
    /// Whether the peer was left out because the memory budget is used up.
    pub(crate) full: bool,
}

/// What one announce has changed, for its records.
struct AnnounceChange {
    id: u32,
    totals: SessionTotals,
    credit: Credit,
    snatched: u32,
    /// The role of the peer now, or the last one if it has left.
    role: Role,
    left: u64,
    anomaly: Option<Anomaly>,
}

/// What an announce has changed about a known peer.
#[derive(Clone, Copy, Default)]
struct PeerUpdate {
    totals: SessionTotals,
    left: u64,
    credit: Credit,
    anomaly: Option<Anomaly>,
}

impl Torrents {
    /// Checks rows 14 to 16 of `rules/private.md#failures`, changes the swarm, queues records, and hands out
    /// peers. If there is no memory for the peer, nothing changes and no peers are handed out.
    ///
    /// # Errors
    /// Fails with the refusal for the user; nothing has changed then.
    pub(crate) fn announce(
        &self,
        request: &UserAnnounce<'_>,
        records: Option<&Queues>,
        peer_picker: &mut PeerPicker,
        handout: &mut Handout<'_>,
    ) -> Result<UserAnswer, Refused> {
        let info_hash = &request.announce.info_hash;
        let may_grow = self.may_grow(request.policy.memory_max);
        let step = self.with_torrent_for_announce(info_hash, |torrent, effects| {
            request.check_torrent(&torrent.info)?;
            if !may_grow && request.adds_peer(self.hasher(), torrent) {
                effects.full = true;
                let done = UserAnswer { torrent: torrent.info.id, tally: torrent.tally(), full: true };
                return Ok((done, false, None));
            }
            // A peer that leaves does not bring a torrent back to life.
            let unpruned = torrent.info.status == PRUNED && request.announce.event != Event::Stopped;
            if unpruned {
                torrent.info.status = LIVE;
            }
            let change = self.apply_announce(request, torrent, effects);
            if let Some(records) = records {
                request.queue_records(records, &change, torrent, unpruned);
            }
            let tally = torrent.tally();
            self.hand_out(request, torrent, peer_picker, handout);
            Ok((UserAnswer { torrent: torrent.info.id, tally, full: false }, unpruned, change.anomaly))
        });
        let (done, unpruned, anomaly) =
            step.unwrap_or_else(|| Err(request.site_data.unknown_torrent(info_hash)))?;
        if unpruned {
            log::info!("torrent {} is seeded again and no longer pruned", done.torrent);
        }
        if let Some(anomaly) = anomaly {
            self.anomalies.record_anomaly(request.user.id, done.torrent, anomaly);
        }
        Ok(done)
    }

    /// Makes the same checks and hands out peers, but changes nothing.
    ///
    /// # Errors
    /// Fails with the refusal for the user.
    pub(crate) fn hand_out_only(
        &self,
        request: &UserAnnounce<'_>,
        peer_picker: &mut PeerPicker,
        handout: &mut Handout<'_>,
    ) -> Result<Tally, Refused> {
        let info_hash = &request.announce.info_hash;
        let step = self.with_torrent(info_hash, |torrent| {
            request.check_torrent(&torrent.info)?;
            self.hand_out(request, torrent, peer_picker, handout);
            Ok(torrent.tally())
        });
        step.unwrap_or_else(|| Err(request.site_data.unknown_torrent(info_hash)))
    }

    /// Returns the counts that a scrape shows this user (`rules/private.md#user-scrapes`), if it shows any.
    pub(crate) fn scrape(&self, site_data: &SiteData, user: &User, info_hash: &InfoHash) -> Option<Tally> {
        self.with_torrent(info_hash, |torrent| {
            let shown = torrent.info.status == LIVE && site_data.may_download(user, torrent.info.id);
            shown.then(|| torrent.tally())
        })?
    }

    /// Updates the peer (`rules/private.md#session`), then credits it (`rules/private-accounting.md#credit`).
    fn apply_announce(
        &self,
        request: &UserAnnounce<'_>,
        torrent: &mut TorrentState,
        effects: &mut AnnounceEffects,
    ) -> AnnounceChange {
        let TorrentState { info: row, last_action, swarm, .. } = torrent;
        let (announce, now) = (request.announce, request.unix_seconds());
        let (user, role) = (request.user.id, request.role());
        let swarm = swarm.get_or_insert_default();
        let completes = announce.event == Event::Completed && role == Role::Seeder;
        let snatched = u32::from(completes && !swarm.has_seeder(self.hasher(), user));
        let found = swarm.find(self.hasher(), user, &announce.peer_id);
        let update = match found.or_else(|| self.resume_session(request, row.id, swarm, effects)) {
            Some(pos) => {
                let terms = request.terms(row);
                let update = swarm.update(pos, |peer| request.update_peer(peer, &terms)).unwrap_or_default();
                if announce.event == Event::Stopped {
                    swarm.remove(self.hasher(), pos);
                } else {
                    swarm.move_to_class(self.hasher(), pos, role_for_left(update.left));
                }
                update
            }
            None => {
                let peer = request.new_peer();
                let totals = peer.session.totals();
                if announce.event != Event::Stopped {
                    effects.replaced = swarm.add(self.hasher(), role, peer);
                }
                PeerUpdate { totals, left: announce.left, ..PeerUpdate::default() }
            }
        };
        let PeerUpdate { totals, left, credit, anomaly } = update;
        let totals = SessionTotals { is_gone: announce.event == Event::Stopped, ..totals };
        let role = role_for_left(left);
        if role == Role::Seeder {
            *last_action = now;
        }
        if swarm.len() == 0 {
            torrent.swarm = None;
        }
        AnnounceChange { id: row.id, totals, credit, snatched, role, left, anomaly }
    }

    /// Adds the peer of a session that is durable but not in memory, so that it continues from its last
    /// totals.
    fn resume_session(
        &self,
        request: &UserAnnounce<'_>,
        torrent: u32,
        swarm: &mut Swarm,
        effects: &mut AnnounceEffects,
    ) -> Option<UserPeerPos> {
        let (totals, heard) = self.dormant.take_session(&request.session(torrent), request.stale_before())?;
        let mut peer = request.new_peer();
        peer.session.resume(totals, request.now);
        peer.session.heard = heard;
        effects.replaced = swarm.add(self.hasher(), request.role(), peer);
        swarm.find(self.hasher(), request.user.id, &request.announce.peer_id)
    }

    fn hand_out(
        &self,
        request: &UserAnnounce<'_>,
        torrent: &TorrentState,
        peer_picker: &mut PeerPicker,
        handout: &mut Handout<'_>,
    ) {
        let Some(swarm) = torrent.swarm.as_deref() else { return };
        if request.announce.event == Event::Stopped || request.announce.num_want == 0 {
            return;
        }
        let PeerPicker { random, users } = peer_picker;
        let num_want = usize::from(request.announce.num_want);
        Swarm::hand_out(swarm, request.user.id, request.role(), num_want, random, users, handout);
    }
}

fn role_for_left(left: u64) -> Role {
    if left == 0 { Role::Seeder } else { Role::Leecher }
}

impl UserAnnounce<'_> {
    /// Checks rows 15 and 16 of `rules/private.md#failures`.
    fn check_torrent(&self, row: &TorrentInfo) -> Result<(), Refused> {
        let left = self.announce.left;
        if row.status != LIVE && !(row.status == PRUNED && left == 0) {
            return Err(Refused { status: row.status, ..Refusal::UnavailableTorrent.into() });
        }
        if left > 0 && !self.site_data.may_download(&self.user, row.id) {
            return Err(Refusal::DownloadDisabled.into());
        }
        Ok(())
    }

    /// Whether the announce would add a peer.
    fn adds_peer(&self, hasher: &KeyedHash, torrent: &TorrentState) -> bool {
        let knows = |swarm: &Swarm| swarm.find(hasher, self.user.id, &self.announce.peer_id).is_some();
        self.announce.event != Event::Stopped && !torrent.swarm.as_deref().is_some_and(knows)
    }

    fn role(&self) -> Role {
        role_for_left(self.announce.left)
    }

    fn unix_seconds(&self) -> UnixSeconds {
        UnixSeconds::try_from(self.now.unix_seconds).unwrap_or(UnixSeconds::MAX)
    }

    fn moment(&self) -> Moment {
        moment(self.now.tick)
    }

    /// Addresses last heard from before this moment are forgotten.
    fn stale_before(&self) -> Moment {
        self.moment().saturating_sub(self.policy.peer_inactivity_seconds)
    }

    fn terms(&self, row: &TorrentInfo) -> CreditTerms {
        let group = self.site_data.group_multipliers.get(&(row.torrent_type, row.group)).copied();
        let tokens = &self.site_data.tokens;
        CreditTerms {
            multipliers: [
                self.user.multipliers,
                group.unwrap_or(Multipliers { up: 1.0, down: 1.0 }),
                row.multipliers,
            ],
            downloads_are_free: self.site_data.global_freeleech
                || !tokens.is_empty() && tokens.contains(&(self.user.id, row.id)),
        }
    }

    fn new_peer(&self) -> UserPeer {
        let announce = self.announce;
        let now = self.unix_seconds();
        let session = Session {
            peer_id: announce.peer_id,
            client: self.client,
            uploaded: announce.uploaded,
            downloaded: announce.downloaded,
            left: announce.left,
            started: now,
            announced: now,
            heard: self.moment(),
            v4_seen: 0,
            last: Credit::default(),
        };
        let mut peer = UserPeer { user: self.user.id, v4: NO_V4, v6: None, session };
        peer.note_address(announce.address, announce.port, self.moment(), self.stale_before());
        peer
    }

    /// The key of the session on this torrent.
    fn session(&self, torrent: u32) -> SessionKey {
        SessionKey { torrent, user: self.user.id, peer_id: self.announce.peer_id }
    }

    /// Applies the announce to a known peer. Late totals do not become the new baseline, because what comes
    /// next would then be credited twice; a lower `left` in a late announce may still be news.
    fn update_peer(&self, peer: &mut UserPeer, terms: &CreditTerms) -> PeerUpdate {
        let (announce, now) = (self.announce, self.unix_seconds());
        peer.note_address(announce.address, announce.port, self.moment(), self.stale_before());
        let session = &mut peer.session;
        let before = session.announced;
        let progress = TotalsProgress {
            uploaded: (session.uploaded, announce.uploaded),
            downloaded: (session.downloaded, announce.downloaded),
            announced: (session.heard, self.moment()),
            inactivity: self.policy.peer_inactivity_seconds,
            octets_per_second_max: self.policy.octets_per_second_max,
        };
        session.client = self.client;
        if announce.event != Event::Started && progress.is_late() {
            session.left = session.left.min(announce.left);
            let anomaly = Some(Anomaly::Late);
            return PeerUpdate {
                totals: session.totals(),
                left: session.left,
                anomaly,
                ..PeerUpdate::default()
            };
        }
        let credit = progress.credit(terms);
        (session.uploaded, session.downloaded) = (announce.uploaded, announce.downloaded);
        (session.left, session.announced, session.heard) = (announce.left, now, self.moment());
        session.last = credit;
        let anomaly = match progress.implausible() {
            [0, 0] => None,
            [up, down] => Some(Anomaly::Implausible { up, down, seconds: now.saturating_sub(before) }),
        };
        PeerUpdate { totals: session.totals(), left: announce.left, credit, anomaly }
    }

    /// Queues the records of what an announce has changed
    /// (`rules/private-accounting.md#rows-of-an-announce`).
    fn queue_records(
        &self,
        records: &Queues,
        change: &AnnounceChange,
        torrent: &TorrentState,
        unprune: bool,
    ) {
        let announce = self.announce;
        let (uid, fid, now) = (self.user.id, change.id, i64::from(self.unix_seconds()));
        let (start_time, seeding) = (i64::from(change.totals.started), change.role == Role::Seeder);
        let Credit { raw_up, raw_down, up, down, active_seconds } = change.credit;
        let active_time = i64::from(active_seconds);
        let torrent = Record::Torrent(TorrentRow {
            snatched: change.snatched,
            last_action: if seeding { now } else { 0 },
            unprune,
            ..torrent.counts_row()
        });
        let user = UserRow { id: uid, uploaded: up, downloaded: down, raw_up, raw_down };
        let user = ([raw_up, raw_down, up, down] != [0; 4]).then_some(Record::User(user));
        let transfer = Record::Transfer(TransferRow {
            uid,
            fid,
            raw_up,
            raw_down,
            seeding,
            start_time,
            last_announce: now,
            active_time,
            seed_time: if seeding { active_time } else { 0 },
            active: announce.event != Event::Stopped,
            snatched: change.snatched,
            remaining: i64::try_from(change.left.min(AMOUNT_MAX)).unwrap_or(i64::MAX),
        });
        let (ip, ip6) = ip_columns(announce.address, self.user.tracker_hide);
        let address = Record::TransferIp(TransferIpRow {
            uid,
            fid,
            client_id: self.client,
            ip,
            ip6,
            port: announce.port,
            raw_up,
            raw_down,
            start_time,
            last_announce: now,
        });
        let snatch = SnatchRow { uid, fid, time: now, start_time };
        let snatch = (change.snatched > 0).then_some(Record::Snatch(snatch));
        let total = (self.session(fid), change.totals);
        records.put_all(&[Some(torrent), user, Some(transfer), Some(address), snatch], Some(total));
    }
}
