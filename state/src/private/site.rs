//! What both doors, the tracker and the clerk share of a site.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::admin::Change;
use super::event_log::Events;
use super::parts::Parts;
use super::refusal::Denial;
use super::site_data::Register;
use super::sync::loading::row_of;
use super::torrents::Torrents;
use crate::announce::Announce;
use crate::clock::Now;
use crate::ids::InfoHash;
use crate::metrics::histogram::Histogram;
use crate::published::Published;
use crate::snapshot::site::User;
use crate::store::Reading;

/// Denials of one thread that are remembered for `hayate explain`; the oldest go first.
const DENIALS_MAX: usize = 4096;
/// Threads whose denials are remembered. A reload may start others in their place.
const LOGS_MAX: usize = 256;

/// A site in memory.
#[derive(Debug)]
pub struct Site {
    /// Registered torrents with their peers.
    pub torrents: Arc<Torrents>,
    /// Everything else that the store says.
    pub register: Arc<Published<Register>>,
    /// Enabled users by passkey, for the snapshot: what finds members knows no passkeys.
    users: Mutex<Parts<Box<[u8]>, User>>,
    /// One log for each thread that denies, so that none waits for another.
    denials: Mutex<Vec<Arc<DenialLog>>>,
    /// How long purges worked.
    pub(super) purges: Arc<Histogram>,
    /// Where announces are recorded, if they are; gone when the tracker stops.
    events: OnceLock<Events>,
}

/// The last denials of one thread. Nobody else takes its lock but who asks for an explanation.
#[derive(Debug, Default)]
pub(crate) struct DenialLog(Mutex<VecDeque<Denied>>);

impl DenialLog {
    /// Remembers a denial.
    pub(crate) fn deny(&self, now: Now, user: u32, announce: &Announce, denial: &Denial) {
        let mut denials = self.0.lock();
        if denials.len() == DENIALS_MAX {
            denials.pop_front();
        }
        let denial = denial.clone();
        denials.push_back(Denied { at: now.unix_seconds, user, announce: *announce, denial });
    }

    fn of(&self, user: u32) -> Vec<Denied> {
        self.0.lock().iter().filter(|denied| denied.user == user).cloned().collect()
    }
}

/// A denial that a member was told.
#[derive(Clone, Debug)]
pub struct Denied {
    /// When, in Unix seconds.
    pub at: u64,
    /// Who.
    pub user: u32,
    /// What he announced.
    pub announce: Announce,
    /// Why not.
    pub denial: Denial,
}

impl Default for Site {
    fn default() -> Self {
        Self {
            torrents: Torrents::new(),
            register: Published::new(Register::default()),
            users: Mutex::default(),
            denials: Mutex::default(),
            purges: Arc::new(Histogram::seconds()),
            events: OnceLock::new(),
        }
    }
}

impl Site {
    /// Nothing known yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Changes one set of the register, and publishes it whole.
    pub fn change(&self, change: impl FnOnce(&mut Register)) {
        let mut register = Register::clone(&self.register.current());
        change(&mut register);
        self.register.publish(register);
    }

    /// From now on announces are recorded there; it is said once.
    pub fn record(&self, events: Events) {
        // A second recorder would be a mistake of ours; the first one stays.
        let _ = self.events.set(events);
    }

    pub(crate) fn purges(&self) -> Arc<Histogram> {
        Arc::clone(&self.purges)
    }

    pub(crate) fn events(&self) -> Option<&Events> {
        self.events.get()
    }

    /// Enabled users by passkey, as they are now: what changes later is not seen, and waits for nobody who
    /// goes through them.
    #[must_use]
    pub fn users(&self) -> Parts<Box<[u8]>, User> {
        self.users.lock().clone()
    }

    /// An enabled user.
    #[must_use]
    pub fn user(&self, id: u32) -> Option<User> {
        self.users().values().find(|user| user.id == id).cloned()
    }

    /// Replaces all users.
    pub fn enroll(&self, users: Parts<Box<[u8]>, User>) {
        *self.users.lock() = users;
    }

    /// Takes over what was changed in the store.
    pub(super) fn take_over(&self, change: Change, generation: u32, reading: &Reading<'_>) {
        match change {
            Change::PutUser(user) => {
                self.change(|register| _ = Arc::make_mut(&mut register.members).put(&user));
                self.users.lock().put(user.passkey.clone(), user);
            }
            Change::DropPasskey(passkey) => {
                self.change(|register| _ = Arc::make_mut(&mut register.members).remove(&passkey));
                self.users.lock().remove(&passkey);
            }
            Change::PutTorrent(torrent) => {
                let (row, shard) = (row_of(&torrent, self), self.torrents.shard_of(&torrent.info_hash));
                self.torrents.put_all(shard, &[row], generation, &|id| reading.is_unpruned(id));
                self.tell_deletion(torrent.info_hash, None);
            }
            Change::DropTorrent(info_hash, reason) => {
                let shard = self.torrents.shard_of(&info_hash);
                self.torrents.retain(shard, |torrent| torrent.row.info_hash != info_hash);
                self.tell_deletion(info_hash, reason);
            }
            Change::PutToken(uid, fid) => {
                self.change(|register| Arc::make_mut(&mut register.tokens).put((uid, fid), ()));
            }
            Change::DropToken(uid, fid) => {
                self.change(|register| Arc::make_mut(&mut register.tokens).remove(&(uid, fid)));
            }
            Change::PutHitAndRun(uid, fid) => {
                self.change(|register| Arc::make_mut(&mut register.hit_and_runs).put((uid, fid), ()));
            }
            Change::DropHitAndRun(uid, fid) => {
                self.change(|register| Arc::make_mut(&mut register.hit_and_runs).remove(&(uid, fid)));
            }
            Change::Freeleech(group, multipliers) => {
                let key = (self.torrents.kinds().of(&group.type_name), group.id);
                self.change(|register| {
                    let groups = Arc::make_mut(&mut register.freeleech);
                    match multipliers {
                        Some(multipliers) => groups.put(key, multipliers),
                        None => groups.remove(&key),
                    }
                });
            }
            Change::GlobalFreeleech(wanted) => self.change(|register| register.global_freeleech = wanted),
            // The clerk reads them anew: of several rows with one prefix the next one may count then.
            Change::PutClient(..) | Change::DropClient(_) => {}
        }
    }

    fn tell_deletion(&self, info_hash: InfoHash, reason: Option<Arc<str>>) {
        if reason.is_none() && !self.register.current().deletions.contains(&info_hash) {
            return;
        }
        self.change(|register| {
            let deletions = Arc::make_mut(&mut register.deletions);
            match reason {
                Some(reason) => deletions.put(info_hash, reason),
                None => deletions.remove(&info_hash),
            }
        });
    }

    /// A log for the denials of one thread.
    pub(crate) fn denial_log(&self) -> Arc<DenialLog> {
        let log = Arc::new(DenialLog::default());
        let mut logs = self.denials.lock();
        if logs.len() == LOGS_MAX {
            // Rather those of a thread that has ended.
            let ended = logs.iter().position(|log| Arc::strong_count(log) == 1);
            logs.remove(ended.unwrap_or(0));
        }
        logs.push(Arc::clone(&log));
        log
    }

    /// The last denials of a user, the latest last.
    #[must_use]
    pub fn denials(&self, user: u32) -> Vec<Denied> {
        let logs = self.denials.lock().clone();
        let mut denials: Vec<_> = logs.iter().flat_map(|log| log.of(user)).collect();
        denials.sort_by_key(|denied| denied.at);
        denials
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::announce::{Event, Refusal};
    use crate::ids::PeerId;

    fn announce(port: u16) -> Announce {
        Announce {
            info_hash: InfoHash([7; 20]),
            peer_id: PeerId([11; 20]),
            address: [192, 0, 2, 7].into(),
            port,
            uploaded: 0,
            downloaded: 0,
            left: 13,
            event: Event::None,
            num_want: 0,
        }
    }

    #[test]
    fn threads_deny_without_each_other_and_are_remembered_together() {
        let site = Site::new();
        let (first, second) = (site.denial_log(), site.denial_log());
        let denial = Denial::from(Refusal::ClientNotApproved);
        // Whoever holds one log, or the list of all, keeps nobody from denying into another.
        let (_busy, _all) = (first.0.lock(), site.denials.lock());
        second.deny(Now::at(3), 7, &announce(3), &denial);
        drop((_busy, _all));
        first.deny(Now::at(2), 7, &announce(2), &denial);
        first.deny(Now::at(5), 7, &announce(5), &denial);
        first.deny(Now::at(4), 8, &announce(4), &denial);
        let ports = |user| site.denials(user).iter().map(|denied| denied.announce.port).collect::<Vec<_>>();
        assert_eq!((ports(7), ports(8)), (vec![2, 3, 5], vec![4]));
        (0..=DENIALS_MAX).for_each(|_| second.deny(Now::at(9), 9, &announce(9), &denial));
        assert_eq!((ports(9).len(), ports(7)), (DENIALS_MAX, vec![2, 5]));
        drop(second);
        (0..LOGS_MAX).for_each(|_| _ = site.denial_log());
        let logs = site.denials.lock().len();
        assert_eq!((logs, ports(9).len(), ports(8)), (LOGS_MAX, 0, vec![4]));
    }
}
