//! Why the last announces of a user were accepted or refused, and what was credited, as text for people.

use std::fmt::Write as _;
use std::net::SocketAddr;

use jiff::Timestamp;

use super::peer::{NO_V4, UserPeer};
use super::site::Site;
use crate::ids::InfoHash;
use crate::snapshot::site::Role;

/// Stands for the address of a user whose addresses are kept out of the records.
const HIDDEN: &str = "a hidden address";

impl Site {
    /// Returns what is known about a user and a torrent: the rights of the user, the state of the torrent,
    /// the user's peers in it with their addresses and what their last announces were credited, and the
    /// user's last refusals. Amounts are in octets.
    #[must_use]
    pub fn explain(&self, user: u32, info_hash: &InfoHash) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_explanation(&mut text, user, info_hash);
        text
    }

    fn write_explanation(&self, to: &mut String, user: u32, info_hash: &InfoHash) -> std::fmt::Result {
        let site_data = self.site_data.current();
        let known = self.account(user);
        match &known {
            None => writeln!(to, "user {user}: not enabled, or unknown; refused by the passkey")?,
            Some(known) => {
                let (up, down) = (known.multipliers.up, known.multipliers.down);
                let (may, hidden) = (!known.disable_download, known.tracker_hide);
                writeln!(
                    to,
                    "user {user}: enabled, download {may}, hidden {hidden}, up x{up}, down x{down}"
                )?;
            }
        }
        let shown = self.torrents.with_torrent(info_hash, |torrent| {
            let (row, tally) = (torrent.info, torrent.tally());
            let mine: Vec<(Role, UserPeer)> = torrent
                .swarm
                .iter()
                .flat_map(|swarm| swarm.peers_of_user(self.torrents.hasher(), user))
                .collect();
            (row, tally, mine)
        });
        let Some((row, tally, mine)) = shown else {
            let reason = site_data.deletions.get(info_hash);
            let reason = reason.map_or_else(String::new, |reason| format!(", deleted: {reason}"));
            writeln!(to, "torrent {info_hash}: not registered{reason}; refused")?;
            return self.write_refusals(to, user, info_hash);
        };
        let (type_name, group) = (self.torrents.torrent_types().name(row.torrent_type), row.group);
        let status = match row.status {
            0 => "live",
            1 => "pruned, only seeders are accepted",
            _ => "unavailable, refused",
        };
        let (up, down) = (row.multipliers.up, row.multipliers.down);
        writeln!(
            to,
            "torrent {} {info_hash}: {status}, up x{up}, down x{down}, seeders {}, leechers {}, snatched {}",
            row.id, tally.seeders, tally.leechers, tally.completed
        )?;
        if let Some(group_of) = site_data.group_multipliers.get(&(row.torrent_type, group)) {
            writeln!(to, "group {type_name} {group}: up x{}, down x{}", group_of.up, group_of.down)?;
        }
        if site_data.global_freeleech {
            writeln!(to, "global freeleech: no download is credited")?;
        }
        if site_data.tokens.contains(&(user, row.id)) {
            writeln!(to, "token: downloads of this torrent are not credited")?;
        }
        if site_data.hit_and_runs.contains(&(user, row.id)) {
            writeln!(to, "hit-and-run: they may download this torrent to seed it")?;
        }
        if mine.is_empty() {
            writeln!(to, "no peer of this user in the swarm")?;
        }
        let hidden = known.is_some_and(|known| known.tracker_hide);
        for (role, peer) in mine {
            write_peer(to, role, &peer, hidden)?;
        }
        self.write_refusals(to, user, info_hash)
    }

    fn write_refusals(&self, to: &mut String, user: u32, info_hash: &InfoHash) -> std::fmt::Result {
        let hidden = self.account(user).is_some_and(|known| known.tracker_hide);
        for refused in self.refusals(user).iter().filter(|refused| refused.announce.info_hash == *info_hash) {
            let (at, announce) = (timestamp(refused.at), &refused.announce);
            let from = match hidden {
                true => HIDDEN.to_owned(),
                false => SocketAddr::new(announce.address, announce.port).to_string(),
            };
            writeln!(
                to,
                "{at} refused: {} (status {}, peer_id {:?}, from {from}, left {})",
                refused.refused, refused.refused.status, announce.peer_id, announce.left
            )?;
        }
        Ok(())
    }
}

fn write_peer(to: &mut String, role: Role, peer: &UserPeer, hidden: bool) -> std::fmt::Result {
    let role = if role == Role::Seeder { "seeder" } else { "leecher" };
    let (session, last) = (&peer.session, peer.session.last);
    write!(to, "{} accepted: {role} {:?}", timestamp(session.announced.into()), session.peer_id)?;
    if hidden {
        write!(to, " at {HIDDEN}")?;
    }
    if peer.v4 != NO_V4 && !hidden {
        let [a, b, c, d, high, low] = peer.v4;
        write!(to, " at {}", SocketAddr::from(([a, b, c, d], u16::from_be_bytes([high, low]))))?;
    }
    if let Some(v6) = peer.v6.as_ref().filter(|_| !hidden) {
        let address: [u8; 16] = v6.wire.first_chunk().copied().unwrap_or_default();
        let port = v6.wire.last_chunk().copied().map_or(0, u16::from_be_bytes);
        write!(to, " at {}", SocketAddr::from((address, port)))?;
    }
    writeln!(
        to,
        ", client {}, since {}, totals up {} down {} left {}; last announce: up {} \
         credited {}, down {} credited {}, {} s active",
        session.client,
        timestamp(session.started.into()),
        session.uploaded,
        session.downloaded,
        session.left,
        last.raw_up,
        last.up,
        last.raw_down,
        last.down,
        last.active_seconds
    )
}

/// A time in UTC, for people.
fn timestamp(unix_seconds: u64) -> Timestamp {
    let second = i64::try_from(unix_seconds).unwrap_or(i64::MAX);
    Timestamp::from_second(second).unwrap_or(Timestamp::MAX)
}
