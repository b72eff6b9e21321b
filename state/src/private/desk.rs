//! One announce of a member, from the check of its torrent to the peers it is handed: one atomic step under
//! the lock of its torrent (`private-tracker.md` 7 to 11).

use hashbrown::HashSet;

use super::denial::Denial;
use super::ledger::{AMOUNT_MAX, Progress, Terms, ip_columns};
use super::member::Member;
use super::peer::{Credit, NOWHERE, Peer, Seconds, Session};
use super::register::Register;
use super::swarm::{Spot, Swarm};
use super::torrents::{LIVE, PRUNED, Row, Torrent, Torrents};
use crate::announce::{Announce, Event, Handout, Refusal, Tally};
use crate::clock::Now;
use crate::ids::InfoHash;
use crate::policy::Policy;
use crate::snapshot::site::{Multipliers, Role};
use crate::store::record::{SnatchRow, TorrentRow, TransferIpRow, TransferRow, UserRow};
use crate::store::total::{SessionKey, Standing};
use crate::store::{Queues, Record};

/// What an announce is decided by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) now: Now,
    pub(crate) policy: &'a Policy,
    pub(crate) register: &'a Register,
    pub(crate) member: Member,
    /// The approved client.
    pub(crate) client: u32,
    pub(crate) announce: &'a Announce,
}

/// What chooses peers.
#[derive(Debug)]
pub(crate) struct Chooser {
    pub(crate) random: fastrand::Rng,
    /// Users of whom a peer was handed out; kept, so that nothing is allocated.
    users: HashSet<u32>,
}

impl Chooser {
    pub(crate) fn new(random: fastrand::Rng) -> Self {
        Self { random, users: HashSet::with_capacity(256) }
    }
}

/// What has changed by one announce, for its records.
struct Change {
    id: u32,
    standing: Standing,
    credit: Credit,
    snatched: u32,
}

impl Torrents {
    /// Checks rows 14 to 16, changes the swarm, queues records, and hands out peers. Gives the torrent's id.
    ///
    /// # Errors
    /// Why the member is refused; then nothing has changed.
    pub(crate) fn announce(
        &self,
        asked: &Asked<'_>,
        records: Option<&Queues>,
        chooser: &mut Chooser,
        handout: &mut Handout<'_>,
    ) -> Result<(u32, Tally), Denial> {
        let info_hash = &asked.announce.info_hash;
        let step = self.with(info_hash, |torrent| {
            asked.check(&torrent.row)?;
            let unpruned = torrent.row.status == PRUNED;
            torrent.row.status = LIVE;
            let change = self.change(asked, torrent);
            if let Some(records) = records {
                asked.record(records, &change, torrent, unpruned);
            }
            let tally = torrent.tally();
            self.hand_out(asked, torrent, chooser, handout);
            Ok((torrent.row.id, tally, unpruned))
        });
        let (id, tally, unpruned) = step.unwrap_or_else(|| Err(asked.register.unknown(info_hash)))?;
        if unpruned {
            log::info!("torrent {id} is seeded again and no longer pruned");
        }
        Ok((id, tally))
    }

    /// Checks rows 14 to 16 and hands out peers, but changes nothing.
    ///
    /// # Errors
    /// Why the member is refused.
    pub(crate) fn show(
        &self,
        asked: &Asked<'_>,
        chooser: &mut Chooser,
        handout: &mut Handout<'_>,
    ) -> Result<Tally, Denial> {
        let info_hash = &asked.announce.info_hash;
        let step = self.with(info_hash, |torrent| {
            asked.check(&torrent.row)?;
            self.hand_out(asked, torrent, chooser, handout);
            Ok(torrent.tally())
        });
        step.unwrap_or_else(|| Err(asked.register.unknown(info_hash)))
    }

    /// How a swarm stands for a scrape of this member (`private-tracker.md` 12.2).
    pub(crate) fn scrape(&self, register: &Register, member: &Member, info_hash: &InfoHash) -> Option<Tally> {
        self.with(info_hash, |torrent| {
            let shown = torrent.row.status == LIVE && register.may_download(member, torrent.row.id);
            shown.then(|| torrent.tally())
        })?
    }

    /// Rows 8 and 9 of the spec's sections: the peer, then what it is credited.
    fn change(&self, asked: &Asked<'_>, torrent: &mut Torrent) -> Change {
        let Torrent { row, last_action, swarm, .. } = torrent;
        let (announce, now) = (asked.announce, asked.seconds());
        let (user, role) = (asked.member.id, asked.role());
        let swarm = swarm.get_or_insert_default();
        let completes = announce.event == Event::Completed && role == Role::Seeder;
        let snatched = u32::from(completes && !swarm.has_seeder(user));
        if role == Role::Seeder {
            *last_action = now;
        }
        let found = swarm.find(&self.keys, user, &announce.peer_id);
        let (standing, credit) = match found.or_else(|| self.recall(asked, row.id, swarm)) {
            Some(spot) => {
                let terms = asked.terms(row);
                let told = swarm.change(spot, |peer| asked.tell(peer, &terms)).unwrap_or_default();
                if announce.event == Event::Stopped {
                    swarm.take(&self.keys, spot);
                } else if spot.role != role
                    && let Some(peer) = swarm.take(&self.keys, spot)
                {
                    swarm.add(&self.keys, role, peer);
                }
                told
            }
            None => {
                let peer = asked.new_peer();
                let standing = peer.session.standing();
                if announce.event != Event::Stopped {
                    swarm.add(&self.keys, role, peer);
                }
                (standing, Credit::default())
            }
        };
        let standing = Standing { is_gone: announce.event == Event::Stopped, ..standing };
        if swarm.len() == 0 {
            torrent.swarm = None;
        }
        Change { id: row.id, standing, credit, snatched }
    }

    /// Adds the peer of a session that nobody here knows, but that is durable: it goes on where it was.
    fn recall(&self, asked: &Asked<'_>, torrent: u32, swarm: &mut Swarm) -> Option<Spot> {
        let standing = self.strays.take(&asked.session(torrent), asked.limit())?;
        let mut peer = asked.new_peer();
        peer.session.stand(standing);
        swarm.add(&self.keys, asked.role(), peer);
        swarm.find(&self.keys, asked.member.id, &asked.announce.peer_id)
    }

    fn hand_out(
        &self,
        asked: &Asked<'_>,
        torrent: &Torrent,
        chooser: &mut Chooser,
        handout: &mut Handout<'_>,
    ) {
        let Some(swarm) = torrent.swarm.as_deref() else { return };
        if asked.announce.event == Event::Stopped || asked.announce.num_want == 0 {
            return;
        }
        let Chooser { random, users } = chooser;
        let num_want = usize::from(asked.announce.num_want);
        Swarm::hand_out(swarm, asked.member.id, asked.role(), num_want, random, users, handout);
    }
}

impl Asked<'_> {
    /// Rows 15 and 16.
    fn check(&self, row: &Row) -> Result<(), Denial> {
        let left = self.announce.left;
        if row.status != LIVE && !(row.status == PRUNED && left == 0) {
            return Err(Denial { status: row.status, ..Refusal::UnavailableTorrent.into() });
        }
        if left > 0 && !self.register.may_download(&self.member, row.id) {
            return Err(Refusal::DownloadDisabled.into());
        }
        Ok(())
    }

    fn role(&self) -> Role {
        if self.announce.left == 0 { Role::Seeder } else { Role::Leecher }
    }

    fn seconds(&self) -> Seconds {
        Seconds::try_from(self.now.unix_seconds).unwrap_or(Seconds::MAX)
    }

    /// Addresses that were not heard of since then are forgotten.
    fn limit(&self) -> Seconds {
        self.seconds().saturating_sub(self.policy.peer_inactivity_seconds)
    }

    fn terms(&self, row: &Row) -> Terms {
        let group = self.register.freeleech.get(&(row.kind, row.group)).copied();
        let tokens = &self.register.tokens;
        Terms {
            multipliers: [
                self.member.multipliers,
                group.unwrap_or(Multipliers { up: 1.0, down: 1.0 }),
                row.multipliers,
            ],
            free: self.register.global_freeleech
                || !tokens.is_empty() && tokens.contains(&(self.member.id, row.id)),
        }
    }

    fn new_peer(&self) -> Peer {
        let announce = self.announce;
        let now = self.seconds();
        let session = Session {
            peer_id: announce.peer_id,
            client: self.client,
            uploaded: announce.uploaded,
            downloaded: announce.downloaded,
            left: announce.left,
            started: now,
            announced: now,
            v4_seen: 0,
            last: Credit::default(),
        };
        let mut peer = Peer { user: self.member.id, v4: NOWHERE, v6: None, session };
        peer.seen(announce.address, announce.port, now, self.limit());
        peer
    }

    /// Names the session.
    fn session(&self, torrent: u32) -> SessionKey {
        SessionKey { torrent, user: self.member.id, peer_id: self.announce.peer_id }
    }

    /// Has a peer that is known say what it says now; gives how it stands then, and its credit.
    fn tell(&self, peer: &mut Peer, terms: &Terms) -> (Standing, Credit) {
        let (announce, now) = (self.announce, self.seconds());
        peer.seen(announce.address, announce.port, now, self.limit());
        let session = &mut peer.session;
        let progress = Progress {
            uploaded: (session.uploaded, announce.uploaded),
            downloaded: (session.downloaded, announce.downloaded),
            announced: (session.announced, now),
            inactivity: self.policy.peer_inactivity_seconds,
        };
        let credit = progress.credit(terms);
        (session.uploaded, session.downloaded) = (announce.uploaded, announce.downloaded);
        (session.left, session.announced, session.client) = (announce.left, now, self.client);
        session.last = credit;
        (session.standing(), credit)
    }

    /// Queues what an announce has changed (`private-tracker.md` 9.4).
    fn record(&self, records: &Queues, change: &Change, torrent: &Torrent, unprune: bool) {
        let (announce, member) = (self.announce, &self.member);
        let (uid, fid, now) = (member.id, change.id, i64::from(self.seconds()));
        let (start_time, seeding) = (i64::from(change.standing.started), self.role() == Role::Seeder);
        let Credit { raw_up, raw_down, up, down, active_seconds } = change.credit;
        let active_time = i64::from(active_seconds);
        let torrent = Record::Torrent(TorrentRow {
            snatched: change.snatched,
            last_action: if seeding { now } else { 0 },
            unprune,
            ..torrent.counts()
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
            remaining: i64::try_from(announce.left.min(AMOUNT_MAX)).unwrap_or(i64::MAX),
        });
        let (ip, ip6) = ip_columns(announce.address, member.tracker_hide);
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
        let total = (self.session(fid), change.standing);
        records.put_all(&[Some(torrent), user, Some(transfer), Some(address), snatch], Some(total));
    }
}
