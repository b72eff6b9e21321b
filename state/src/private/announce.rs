//! One announce of a member, from the check of its torrent to the peers it is handed: one atomic step under
//! the lock of its torrent (`rules/private.md#announces`).

use hashbrown::HashSet;

use super::accounting::{AMOUNT_MAX, Progress, Terms, ip_columns};
use super::peer::{Credit, Moment, NOWHERE, Peer, Seconds, Session, moment};
use super::refusal::Denial;
use super::remarks::Remark;
use super::site_data::Register;
use super::swarm::{Spot, Swarm};
use super::torrents::{Came, LIVE, PRUNED, Row, Torrent, Torrents};
use super::users::Member;
use crate::admission::Policy;
use crate::announce::{Announce, Event, Handout, Refusal, Tally};
use crate::clock::Now;
use crate::ids::InfoHash;
use crate::snapshot::site::{Multipliers, Role};
use crate::store::record::{SnatchRow, TorrentRow, TransferIpRow, TransferRow, UserRow};
use crate::store::total::{SessionKey, Standing};
use crate::store::{Queues, Record};
use crate::table::keyed_hash::Keys;

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

/// What became of an announce.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    /// The torrent's id.
    pub(crate) torrent: u32,
    pub(crate) tally: Tally,
    /// There was no memory for the peer.
    pub(crate) full: bool,
}

/// What has changed by one announce, for its records.
struct Change {
    id: u32,
    standing: Standing,
    credit: Credit,
    snatched: u32,
    /// How the peer stands now, or stood last.
    role: Role,
    left: u64,
    remark: Option<Remark>,
}

/// What a peer that is known has said.
#[derive(Clone, Copy, Default)]
struct Told {
    standing: Standing,
    left: u64,
    credit: Credit,
    remark: Option<Remark>,
}

impl Torrents {
    /// Checks rows 14 to 16 of `rules/private.md#failures`, changes the swarm, queues records, and hands out
    /// peers. Where there is no memory for a peer, nothing changes and nobody is handed out.
    ///
    /// # Errors
    /// Why the member is refused; then nothing has changed.
    pub(crate) fn announce(
        &self,
        asked: &Asked<'_>,
        records: Option<&Queues>,
        chooser: &mut Chooser,
        handout: &mut Handout<'_>,
    ) -> Result<Done, Denial> {
        let info_hash = &asked.announce.info_hash;
        let may_grow = self.may_grow(asked.policy.memory_max);
        let step = self.change_one(info_hash, |torrent, came| {
            asked.check(&torrent.row)?;
            if !may_grow && asked.adds(&self.keys, torrent) {
                came.full = true;
                let done = Done { torrent: torrent.row.id, tally: torrent.tally(), full: true };
                return Ok((done, false, None));
            }
            // Whoever leaves brings nothing back to life.
            let unpruned = torrent.row.status == PRUNED && asked.announce.event != Event::Stopped;
            if unpruned {
                torrent.row.status = LIVE;
            }
            let change = self.change(asked, torrent, came);
            if let Some(records) = records {
                asked.record(records, &change, torrent, unpruned);
            }
            let tally = torrent.tally();
            self.hand_out(asked, torrent, chooser, handout);
            Ok((Done { torrent: torrent.row.id, tally, full: false }, unpruned, change.remark))
        });
        let (done, unpruned, remark) = step.unwrap_or_else(|| Err(asked.register.unknown(info_hash)))?;
        if unpruned {
            log::info!("torrent {} is seeded again and no longer pruned", done.torrent);
        }
        if let Some(remark) = remark {
            self.remarks.note(asked.member.id, done.torrent, remark);
        }
        Ok(done)
    }

    /// Checks the same rows and hands out peers, but changes nothing.
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

    /// How a swarm stands for a scrape of this member (`rules/private.md#member-scrapes`).
    pub(crate) fn scrape(&self, register: &Register, member: &Member, info_hash: &InfoHash) -> Option<Tally> {
        self.with(info_hash, |torrent| {
            let shown = torrent.row.status == LIVE && register.may_download(member, torrent.row.id);
            shown.then(|| torrent.tally())
        })?
    }

    /// The peer (`rules/private.md#session`), then what is credited (`rules/private-accounting.md#credit`).
    fn change(&self, asked: &Asked<'_>, torrent: &mut Torrent, came: &mut Came) -> Change {
        let Torrent { row, last_action, swarm, .. } = torrent;
        let (announce, now) = (asked.announce, asked.seconds());
        let (user, role) = (asked.member.id, asked.role());
        let swarm = swarm.get_or_insert_default();
        let completes = announce.event == Event::Completed && role == Role::Seeder;
        let snatched = u32::from(completes && !swarm.has_seeder(&self.keys, user));
        let found = swarm.find(&self.keys, user, &announce.peer_id);
        let told = match found.or_else(|| self.recall(asked, row.id, swarm, came)) {
            Some(spot) => {
                let terms = asked.terms(row);
                let told = swarm.change(spot, |peer| asked.tell(peer, &terms)).unwrap_or_default();
                if announce.event == Event::Stopped {
                    swarm.take(&self.keys, spot);
                } else {
                    swarm.settle(&self.keys, spot, role_of(told.left));
                }
                told
            }
            None => {
                let peer = asked.new_peer();
                let standing = peer.session.standing();
                if announce.event != Event::Stopped {
                    came.replaced = swarm.add(&self.keys, role, peer);
                }
                Told { standing, left: announce.left, ..Told::default() }
            }
        };
        let Told { standing, left, credit, remark } = told;
        let standing = Standing { is_gone: announce.event == Event::Stopped, ..standing };
        let role = role_of(left);
        if role == Role::Seeder {
            *last_action = now;
        }
        if swarm.len() == 0 {
            torrent.swarm = None;
        }
        Change { id: row.id, standing, credit, snatched, role, left, remark }
    }

    /// Adds the peer of a session that nobody here knows, but that is durable: it goes on where it was.
    fn recall(&self, asked: &Asked<'_>, torrent: u32, swarm: &mut Swarm, came: &mut Came) -> Option<Spot> {
        let (standing, heard) = self.strays.take(&asked.session(torrent), asked.limit())?;
        let mut peer = asked.new_peer();
        peer.session.stand(standing, asked.now);
        peer.session.heard = heard;
        came.replaced = swarm.add(&self.keys, asked.role(), peer);
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

fn role_of(left: u64) -> Role {
    if left == 0 { Role::Seeder } else { Role::Leecher }
}

impl Asked<'_> {
    /// Rows 15 and 16 of `rules/private.md#failures`.
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

    /// Would it add a peer?
    fn adds(&self, keys: &Keys, torrent: &Torrent) -> bool {
        let knows = |swarm: &Swarm| swarm.find(keys, self.member.id, &self.announce.peer_id).is_some();
        self.announce.event != Event::Stopped && !torrent.swarm.as_deref().is_some_and(knows)
    }

    fn role(&self) -> Role {
        role_of(self.announce.left)
    }

    fn seconds(&self) -> Seconds {
        Seconds::try_from(self.now.unix_seconds).unwrap_or(Seconds::MAX)
    }

    fn moment(&self) -> Moment {
        moment(self.now.tick)
    }

    /// Addresses that were not heard of since then are forgotten.
    fn limit(&self) -> Moment {
        self.moment().saturating_sub(self.policy.peer_inactivity_seconds)
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
            heard: self.moment(),
            v4_seen: 0,
            last: Credit::default(),
        };
        let mut peer = Peer { user: self.member.id, v4: NOWHERE, v6: None, session };
        peer.seen(announce.address, announce.port, self.moment(), self.limit());
        peer
    }

    /// Names the session.
    fn session(&self, torrent: u32) -> SessionKey {
        SessionKey { torrent, user: self.member.id, peer_id: self.announce.peer_id }
    }

    /// Has a peer that is known say what it says now. Totals that are late are no new baseline: what comes
    /// next would be credited twice. What a late announce still misses may be news nevertheless.
    fn tell(&self, peer: &mut Peer, terms: &Terms) -> Told {
        let (announce, now) = (self.announce, self.seconds());
        peer.seen(announce.address, announce.port, self.moment(), self.limit());
        let session = &mut peer.session;
        let before = session.announced;
        let progress = Progress {
            uploaded: (session.uploaded, announce.uploaded),
            downloaded: (session.downloaded, announce.downloaded),
            announced: (session.heard, self.moment()),
            inactivity: self.policy.peer_inactivity_seconds,
            octets_per_second_max: self.policy.octets_per_second_max,
        };
        session.client = self.client;
        if announce.event != Event::Started && progress.is_late() {
            session.left = session.left.min(announce.left);
            let remark = Some(Remark::Late);
            return Told { standing: session.standing(), left: session.left, remark, ..Told::default() };
        }
        let credit = progress.credit(terms);
        (session.uploaded, session.downloaded) = (announce.uploaded, announce.downloaded);
        (session.left, session.announced, session.heard) = (announce.left, now, self.moment());
        session.last = credit;
        let remark = match progress.implausible() {
            [0, 0] => None,
            [up, down] => Some(Remark::Implausible { up, down, seconds: now.saturating_sub(before) }),
        };
        Told { standing: session.standing(), left: announce.left, credit, remark }
    }

    /// Queues what an announce has changed (`rules/private-accounting.md#rows-of-an-announce`).
    fn record(&self, records: &Queues, change: &Change, torrent: &Torrent, unprune: bool) {
        let (announce, member) = (self.announce, &self.member);
        let (uid, fid, now) = (member.id, change.id, i64::from(self.seconds()));
        let (start_time, seeding) = (i64::from(change.standing.started), change.role == Role::Seeder);
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
            remaining: i64::try_from(change.left.min(AMOUNT_MAX)).unwrap_or(i64::MAX),
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
