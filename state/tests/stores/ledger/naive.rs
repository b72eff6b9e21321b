//! What the tables of a site must hold, worked out from `rules/private-accounting.md` as plainly as possible.
//! Shares no code with the tracker.
#![expect(clippy::cast_possible_truncation, reason = "amounts of the test are far below 2^63")]

use std::collections::BTreeMap;
use std::net::IpAddr;

use hayate_state::admission::OCTETS_PER_SECOND_MAX;

/// A user as the site has them.
pub(crate) struct User {
    pub(crate) up: f64,
    pub(crate) down: f64,
    pub(crate) restricted: bool,
    pub(crate) hidden: bool,
}

/// A torrent as the site has it.
pub(crate) struct Torrent {
    pub(crate) up: f64,
    pub(crate) down: f64,
    pub(crate) group: u32,
    pub(crate) status: i32,
}

/// One announce.
pub(crate) struct NaiveAnnounce {
    pub(crate) now: i64,
    pub(crate) user: u32,
    pub(crate) torrent: u32,
    pub(crate) peer_id: [u8; 20],
    pub(crate) client: u32,
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    pub(crate) uploaded: u64,
    pub(crate) downloaded: u64,
    pub(crate) left: u64,
    pub(crate) event: &'static str,
}

struct Peer {
    uploaded: u64,
    downloaded: u64,
    started: i64,
    last: i64,
    seeds: bool,
}

/// The site and its ledger. Everything is numbered, from 1.
#[derive(Default)]
pub(crate) struct Naive {
    pub(crate) users: BTreeMap<u32, User>,
    pub(crate) torrents: BTreeMap<u32, Torrent>,
    /// Multipliers of groups: up and down.
    pub(crate) groups: BTreeMap<u32, (f64, f64)>,
    pub(crate) free: bool,
    pub(crate) inactivity: i64,
    /// By torrent, user and peer id.
    peers: BTreeMap<(u32, u32, [u8; 20]), Peer>,
    amounts: BTreeMap<u32, [u128; 4]>,
    counts: BTreeMap<u32, [i64; 4]>,
    history: BTreeMap<(u32, u32), [i128; 11]>,
    addresses: BTreeMap<(u32, u32, u32, u32), [i128; 5]>,
    /// Start of the session with the first snatch, by user and torrent.
    snatched: BTreeMap<(u32, u32), i64>,
}

impl Naive {
    /// Returns the swarm after the announce, seeders and leechers, or the refusal.
    pub(crate) fn announce(&mut self, announce: &NaiveAnnounce) -> Result<(usize, usize), &'static str> {
        let (user, torrent) =
            (&self.users[&announce.user], self.torrents.get_mut(&announce.torrent).unwrap());
        if torrent.status != 0 && !(torrent.status == 1 && announce.left == 0) {
            return Err("unavailable");
        }
        if announce.left > 0 && user.restricted {
            return Err("restricted");
        }
        if announce.event != "stopped" {
            torrent.status = 0;
        }
        let seeds = announce.left == 0;
        let seeded = self
            .peers
            .iter()
            .any(|((t, u, _), peer)| (*t, *u, peer.seeds) == (announce.torrent, announce.user, true));
        let snatched = i64::from(announce.event == "completed" && seeds && !seeded);
        let key = (announce.torrent, announce.user, announce.peer_id);
        let before = self.peers.remove(&key);
        let (mut up, mut down, mut active, mut started) = (0, 0, 0, announce.now);
        if let Some(peer) = &before {
            up = announce.uploaded.saturating_sub(peer.uploaded);
            down = announce.downloaded.saturating_sub(peer.downloaded);
            active = announce.now - peer.last;
            let most = OCTETS_PER_SECOND_MAX * active.max(60).unsigned_abs();
            up = if up > most { 0 } else { up };
            down = if down > most { 0 } else { down };
            if active > self.inactivity {
                active = 0;
            }
            started = peer.started;
        }
        if announce.event != "stopped" {
            let (uploaded, downloaded) = (announce.uploaded, announce.downloaded);
            self.peers.insert(key, Peer { uploaded, downloaded, started, last: announce.now, seeds });
        }
        let group = self.groups.get(&torrent.group).copied().unwrap_or((1.0, 1.0));
        let credited_up = (up as f64 * user.up.abs() * group.0.abs() * torrent.up.abs()).trunc() as u128;
        let credited_down = match self.free {
            true => 0,
            false => (down as f64 * user.down.abs() * group.1.abs() * torrent.down.abs()).trunc() as u128,
        };
        let amounts = self.amounts.entry(announce.user).or_default();
        for (amount, more) in
            amounts.iter_mut().zip([credited_up, credited_down, u128::from(up), u128::from(down)])
        {
            *amount += more;
        }
        let hidden = user.hidden;
        self.write(announce, snatched, (up, down, active, started), hidden);
        Ok(self.count(announce.torrent))
    }

    fn write(&mut self, announce: &NaiveAnnounce, snatched: i64, change: (u64, u64, i64, i64), hidden: bool) {
        let (up, down, active, started) = change;
        let seeds = announce.left == 0;
        let (seeders, leechers) = self.count(announce.torrent);
        let counts = self.counts.entry(announce.torrent).or_default();
        *counts = [
            counts[0] + snatched,
            i64::try_from(seeders).unwrap(),
            i64::try_from(leechers).unwrap(),
            if seeds { announce.now } else { counts[3] },
        ];
        let row = self.history.entry((announce.user, announce.torrent));
        let row = row.or_insert_with(|| {
            let mut row = [0; 11];
            row[7] = i128::from(started);
            row
        });
        row[0] += i128::from(up);
        row[1] += i128::from(down);
        row[2] = i128::from(seeds);
        row[3] += if seeds { i128::from(active) } else { 0 };
        row[4] += i128::from(active);
        row[5] = i128::from(announce.left.min(i64::MAX as u64));
        row[6] = i128::from(announce.event != "stopped");
        row[8] = i128::from(announce.now);
        row[9] += i128::from(snatched);
        if snatched > 0 && row[10] == 0 {
            self.snatched.insert((announce.user, announce.torrent), started);
            row[10] = i128::from(announce.now);
        }
        let (ip, v6) = match announce.address {
            _ if hidden => (2_130_706_433, false),
            IpAddr::V4(v4) => (u32::from(v4), false),
            // The test uses addresses whose number is in their last octets.
            IpAddr::V6(v6) => (u32::from_be_bytes(v6.octets()[12..].try_into().unwrap()), true),
        };
        // Here IPv6 addresses have numbers of their own; the test translates those in the table.
        let ip = if v6 { 0xf000_0000 | ip } else { ip };
        let row = self.addresses.entry((announce.user, announce.torrent, ip, announce.client));
        let row = row.or_insert([0, 0, i128::from(announce.port), i128::from(started), 0]);
        row[0] += i128::from(up);
        row[1] += i128::from(down);
        row[2] = i128::from(announce.port);
        row[4] = i128::from(announce.now);
    }

    fn count(&self, torrent: u32) -> (usize, usize) {
        let all = self.peers.range((torrent, 0, [0; 20])..(torrent + 1, 0, [0; 20]));
        all.fold((0, 0), |(seeders, leechers), (_, peer)| match peer.seeds {
            true => (seeders + 1, leechers),
            false => (seeders, leechers + 1),
        })
    }

    pub(crate) fn purge(&mut self, now: i64) {
        let limit = now - self.inactivity;
        let gone: Vec<_> =
            self.peers.iter().filter(|(_, peer)| peer.last < limit).map(|(key, _)| *key).collect();
        for key in &gone {
            self.peers.remove(key);
        }
        for (torrent, _, _) in gone {
            let (seeders, leechers) = self.count(torrent);
            let counts = self.counts.entry(torrent).or_default();
            (counts[1], counts[2]) = (i64::try_from(seeders).unwrap(), i64::try_from(leechers).unwrap());
        }
        for row in self.history.values_mut().filter(|row| row[8] < i128::from(limit)) {
            row[6] = 0;
        }
    }

    /// `ID, Uploaded, Downloaded, rawup, rawdl`.
    pub(crate) fn users_table(&self) -> String {
        let row = |id: &u32| {
            let amounts = self.amounts.get(id).copied().unwrap_or_default();
            format!("{id}\t{}", amounts.map(|amount| amount.to_string()).join("\t"))
        };
        self.users.keys().map(row).collect::<Vec<_>>().join("\n")
    }

    /// `ID, Snatched, Seeders, Leechers, last_action, Status`.
    pub(crate) fn torrents_table(&self) -> String {
        let row = |(id, torrent): (&u32, &Torrent)| {
            let counts = self.counts.get(id).copied().unwrap_or_default();
            format!("{id}\t{}\t{}", counts.map(|count| count.to_string()).join("\t"), torrent.status)
        };
        self.torrents.iter().map(row).collect::<Vec<_>>().join("\n")
    }

    /// `uid, fid, uploaded, downloaded, seeding, seedtime, activetime, remaining, active, starttime,
    /// last_announce, snatched, snatched_time`.
    pub(crate) fn history_table(&self) -> String {
        let row = |((user, torrent), row): (&(u32, u32), &[i128; 11])| {
            format!("{user}\t{torrent}\t{}", row.map(|value| value.to_string()).join("\t"))
        };
        self.history.iter().map(row).collect::<Vec<_>>().join("\n")
    }

    /// Returns a row of the table with the `starttime` of the first session. Queues are written separately:
    /// where the row of a snatch overtakes those of `transfer_history`, as after an outage, it brings the
    /// `starttime` of its own session (`rules/private-accounting.md#missing-rows`), which stays.
    pub(crate) fn as_if_in_order(&self, row: &str) -> String {
        let mut columns: Vec<_> = row.split('\t').map(str::to_owned).collect();
        let pair = (columns[0].parse().unwrap(), columns[1].parse().unwrap());
        if self.snatched.get(&pair).is_some_and(|started| started.to_string() == columns[9]) {
            columns[9] = self.history[&pair][7].to_string();
        }
        columns.join("\t")
    }

    /// `uid, fid, ip or the last octets of ip6, client_id, uploaded, downloaded, port, starttime,
    /// last_announce`.
    pub(crate) fn addresses_table(&self) -> Vec<String> {
        let row = |((user, torrent, ip, client), row): (&(u32, u32, u32, u32), &[i128; 5])| {
            format!("{user}\t{torrent}\t{ip}\t{client}\t{}", row.map(|value| value.to_string()).join("\t"))
        };
        self.addresses.iter().map(row).collect()
    }
}
