//! The state of a site that both servers, the tracker and the site sync share.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::admin::SiteChange;
use super::cow_map::CowMap;
use super::event_log::EventLog;
use super::refusal::Refused;
use super::site_data::SiteData;
use super::torrents::{TorrentInfo, Torrents};
use crate::announce::Announce;
use crate::clock::Now;
use crate::ids::InfoHash;
use crate::metrics::histogram::Histogram;
use crate::published::Published;
use crate::snapshot::site::UserAccount;
use crate::store::SiteReading;

/// Refusals of one thread that are remembered for `hayate explain`; the oldest are dropped first.
const REFUSALS_MAX: usize = 4096;
/// Threads whose refusals are remembered. A reload may start new threads in place of others.
const LOGS_MAX: usize = 256;

/// A site in memory.
#[derive(Debug)]
pub struct Site {
    /// Registered torrents with their peers.
    pub torrents: Arc<Torrents>,
    /// Everything else that the store says about the site.
    pub site_data: Arc<Published<SiteData>>,
    /// Enabled users by passkey, for the snapshot: `Users` keeps no passkeys.
    accounts: Mutex<CowMap<Box<[u8]>, UserAccount>>,
    /// One log for each thread that refuses, so that none waits for another.
    refusal_logs: Mutex<Vec<Arc<RefusalLog>>>,
    /// Durations of the rounds of [`PeerExpiry`](super::PeerExpiry).
    pub(super) expiry_durations: Arc<Histogram>,
    /// The log of announces, if they are recorded.
    event_log: OnceLock<EventLog>,
}

/// The last refusals of one thread. Only explanations take its lock besides that thread.
#[derive(Debug, Default)]
pub(crate) struct RefusalLog(Mutex<VecDeque<RefusedAnnounce>>);

impl RefusalLog {
    /// Remembers a refusal.
    pub(crate) fn record_refusal(&self, now: Now, user: u32, announce: &Announce, refused: &Refused) {
        let mut refusals = self.0.lock();
        if refusals.len() == REFUSALS_MAX {
            refusals.pop_front();
        }
        let refused = refused.clone();
        refusals.push_back(RefusedAnnounce { at: now.unix_seconds, user, announce: *announce, refused });
    }

    fn refusals_of(&self, user: u32) -> Vec<RefusedAnnounce> {
        self.0.lock().iter().filter(|refused_announce| refused_announce.user == user).cloned().collect()
    }
}

/// A refused announce of a user.
#[derive(Clone, Debug)]
pub struct RefusedAnnounce {
    /// Time of the announce, in Unix seconds.
    pub at: u64,
    /// Id of the user.
    pub user: u32,
    /// The announce.
    pub announce: Announce,
    /// Why it was refused.
    pub refused: Refused,
}

impl Default for Site {
    fn default() -> Self {
        Self {
            torrents: Torrents::new(),
            site_data: Published::new(SiteData::default()),
            accounts: Mutex::default(),
            refusal_logs: Mutex::default(),
            expiry_durations: Arc::new(Histogram::seconds()),
            event_log: OnceLock::new(),
        }
    }
}

impl Site {
    /// Returns a site about which nothing is known yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Changes one set of the site data, and publishes the whole.
    pub fn update(&self, update_data: impl FnOnce(&mut SiteData)) {
        let mut site_data = SiteData::clone(&self.site_data.current());
        update_data(&mut site_data);
        self.site_data.publish(site_data);
    }

    /// Records announces in this log from now on. Called once.
    pub fn set_event_log(&self, events: EventLog) {
        // A second log would be a mistake of this program; the first one stays.
        let _ = self.event_log.set(events);
    }

    pub(crate) fn expiry_durations(&self) -> Arc<Histogram> {
        Arc::clone(&self.expiry_durations)
    }

    pub(crate) fn event_log(&self) -> Option<&EventLog> {
        self.event_log.get()
    }

    /// Returns the enabled users by passkey as they are now: later changes do not affect this copy and do not
    /// wait for its readers.
    #[must_use]
    pub fn accounts(&self) -> CowMap<Box<[u8]>, UserAccount> {
        self.accounts.lock().clone()
    }

    /// Returns the enabled user with this id.
    #[must_use]
    pub fn account(&self, id: u32) -> Option<UserAccount> {
        self.accounts().values().find(|user| user.id == id).cloned()
    }

    /// Replaces all users.
    pub fn replace_accounts(&self, users: CowMap<Box<[u8]>, UserAccount>) {
        *self.accounts.lock() = users;
    }

    /// Applies a change that was made in the store.
    pub(super) fn apply_change(&self, change: SiteChange, generation: u32, reading: &SiteReading<'_>) {
        match change {
            SiteChange::UpsertUser(user) => {
                self.update(|site_data| _ = Arc::make_mut(&mut site_data.users).insert(&user));
                self.accounts.lock().insert(user.passkey.clone(), user);
            }
            SiteChange::RemovePasskey(passkey) => {
                self.update(|site_data| _ = Arc::make_mut(&mut site_data.users).remove(&passkey));
                self.accounts.lock().remove(&passkey);
            }
            SiteChange::UpsertTorrent(torrent) => {
                let row = TorrentInfo::from_store(&torrent, self.torrents.torrent_types());
                let shard = self.torrents.shard_of(&torrent.info_hash);
                self.torrents.put_all(shard, &[row], generation, &|id| reading.is_unpruned(id));
                self.put_deletion(torrent.info_hash, None);
            }
            SiteChange::RemoveTorrent(info_hash, reason) => {
                let shard = self.torrents.shard_of(&info_hash);
                self.torrents.retain(shard, |torrent| torrent.info.info_hash != info_hash);
                self.put_deletion(info_hash, reason);
            }
            SiteChange::AddToken(uid, fid) => {
                self.update(|site_data| _ = Arc::make_mut(&mut site_data.tokens).insert((uid, fid), ()));
            }
            SiteChange::RemoveToken(uid, fid) => {
                self.update(|site_data| _ = Arc::make_mut(&mut site_data.tokens).remove(&(uid, fid)));
            }
            SiteChange::AddHitAndRun(uid, fid) => {
                self.update(|site_data| {
                    _ = Arc::make_mut(&mut site_data.hit_and_runs).insert((uid, fid), ())
                });
            }
            SiteChange::RemoveHitAndRun(uid, fid) => {
                self.update(|site_data| _ = Arc::make_mut(&mut site_data.hit_and_runs).remove(&(uid, fid)));
            }
            SiteChange::GroupMultipliers(group, multipliers) => {
                let key = (self.torrents.torrent_types().intern(&group.type_name), group.id);
                self.update(|site_data| {
                    let groups = Arc::make_mut(&mut site_data.group_multipliers);
                    match multipliers {
                        Some(multipliers) => groups.insert(key, multipliers),
                        None => groups.remove(&key),
                    };
                });
            }
            SiteChange::GlobalFreeleech(wanted) => {
                self.update(|site_data| site_data.global_freeleech = wanted)
            }
            // The site sync reads the clients anew: of several rows with one prefix the next one may count
            // now.
            SiteChange::UpsertClient(..) | SiteChange::RemoveClient(_) => {}
        }
    }

    fn put_deletion(&self, info_hash: InfoHash, reason: Option<Arc<str>>) {
        if reason.is_none() && !self.site_data.current().deletions.contains(&info_hash) {
            return;
        }
        self.update(|site_data| {
            let deletions = Arc::make_mut(&mut site_data.deletions);
            match reason {
                Some(reason) => deletions.insert(info_hash, reason),
                None => deletions.remove(&info_hash),
            };
        });
    }

    /// Returns a new log for the refusals of one thread.
    pub(crate) fn new_refusal_log(&self) -> Arc<RefusalLog> {
        let log = Arc::new(RefusalLog::default());
        let mut logs = self.refusal_logs.lock();
        if logs.len() == LOGS_MAX {
            // Replaces the log of a thread that has ended, if there is one.
            let ended = logs.iter().position(|log| Arc::strong_count(log) == 1);
            logs.remove(ended.unwrap_or(0));
        }
        logs.push(Arc::clone(&log));
        log
    }

    /// Returns the last refusals of a user, the latest last.
    #[must_use]
    pub fn refusals(&self, user: u32) -> Vec<RefusedAnnounce> {
        let logs = self.refusal_logs.lock().clone();
        let mut refusals: Vec<_> = logs.iter().flat_map(|log| log.refusals_of(user)).collect();
        refusals.sort_by_key(|refused_announce| refused_announce.at);
        refusals
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
    fn threads_log_refusals_independently_and_they_are_listed_together() {
        let site = Site::new();
        let (first, second) = (site.new_refusal_log(), site.new_refusal_log());
        let refused = Refused::from(Refusal::ClientNotApproved);
        // A held log, or a held list of all logs, does not keep other threads from logging refusals.
        let (_busy, _all) = (first.0.lock(), site.refusal_logs.lock());
        second.record_refusal(Now::at(3), 7, &announce(3), &refused);
        drop((_busy, _all));
        first.record_refusal(Now::at(2), 7, &announce(2), &refused);
        first.record_refusal(Now::at(5), 7, &announce(5), &refused);
        first.record_refusal(Now::at(4), 8, &announce(4), &refused);
        let ports = |user| {
            site.refusals(user)
                .iter()
                .map(|refused_announce| refused_announce.announce.port)
                .collect::<Vec<_>>()
        };
        assert_eq!((ports(7), ports(8)), (vec![2, 3, 5], vec![4]));
        (0..=REFUSALS_MAX).for_each(|_| second.record_refusal(Now::at(9), 9, &announce(9), &refused));
        assert_eq!((ports(9).len(), ports(7)), (REFUSALS_MAX, vec![2, 5]));
        drop(second);
        (0..LOGS_MAX).for_each(|_| _ = site.new_refusal_log());
        let logs = site.refusal_logs.lock().len();
        assert_eq!((logs, ports(9).len(), ports(8)), (LOGS_MAX, 0, vec![4]));
    }
}
