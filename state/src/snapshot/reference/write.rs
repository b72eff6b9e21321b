//! Writes the cache files of the reference tracker, and counts what they have no room for.

use std::io::{self, Write};

use super::{TORRENTS_VERSION, TYPE_NAME_MAX, USERS_VERSION};
use crate::snapshot::site::{Multipliers, Role, SitePeer, SiteSnapshot, SiteTorrent, UserAccount};

/// What was lost in the export to the reference tracker, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExportLosses {
    /// Peers without an IPv4 address, which are left out.
    pub peers_without_v4: u64,
    /// IPv6 endpoints of peers that have both families.
    pub v6_endpoints: u64,
    /// Snatched counts above 65535, which are capped.
    pub snatched: u64,
    /// Client ids over 16 bits, which became 0.
    pub clients: u64,
    /// Statuses below 0 or above 255, which became 255.
    pub statuses: u64,
    /// Type names of more than 8 octets, which are cut.
    pub type_names: u64,
    /// Un-prunes that were not yet in the database.
    pub unprunes: u64,
}

impl ExportLosses {
    /// Returns every kind of loss with its count and a text for people.
    #[must_use]
    pub fn kinds(&self) -> [(u64, &'static str); 7] {
        [
            (self.peers_without_v4, "peers without an IPv4 address left out"),
            (self.v6_endpoints, "IPv6 addresses of peers that also have IPv4 left out"),
            (self.snatched, "snatched counts above 65535 became 65535"),
            (self.clients, "client ids over 16 bits became 0"),
            (self.statuses, "statuses outside of 0 to 255 became 255"),
            (self.type_names, "type names over 8 octets cut"),
            (self.unprunes, "un-prunes that were not yet in the database left out"),
        ]
    }
}

/// Writes `torrent-cache.bin` of version 3.
///
/// # Errors
/// Fails when `to` does.
pub fn write_torrents(to: &mut (impl Write + ?Sized), site: &SiteSnapshot) -> io::Result<ExportLosses> {
    let mut losses = ExportLosses { unprunes: site.unprunes.len() as u64, ..ExportLosses::default() };
    put_uvarint(to, TORRENTS_VERSION)?;
    put_uvarint(to, site.torrents.len() as u64)?;
    site.torrents.iter().try_for_each(|torrent| put_torrent(to, torrent, &mut losses))?;
    Ok(losses)
}

/// Writes `user-cache.bin` of version 1; nothing about users is lost.
///
/// # Errors
/// Fails when `to` does.
pub fn write_users(to: &mut (impl Write + ?Sized), users: &[UserAccount]) -> io::Result<()> {
    put_uvarint(to, USERS_VERSION)?;
    put_uvarint(to, users.len() as u64)?;
    for user in users {
        put_uvarint(to, user.passkey.len() as u64)?;
        to.write_all(&user.passkey)?;
        to.write_all(&user.id.to_le_bytes())?;
        to.write_all(&[user.disable_download.into(), user.tracker_hide.into()])?;
        put_multipliers(to, user.multipliers)?;
    }
    Ok(())
}

fn put_torrent(
    to: &mut (impl Write + ?Sized),
    torrent: &SiteTorrent,
    losses: &mut ExportLosses,
) -> io::Result<()> {
    to.write_all(&torrent.info_hash.0)?;
    for role in [Role::Seeder, Role::Leecher] {
        let of_role = || torrent.peers.iter().filter(|peer| peer.role == role);
        let count = of_role().filter(|peer| peer.v4.is_some()).count();
        put_uvarint(to, count as u64)?;
        of_role().try_for_each(|peer| put_entry(to, torrent.id, peer, losses))?;
    }
    to.write_all(&type_name(&torrent.group.type_name, losses))?;
    to.write_all(&torrent.group.id.to_le_bytes())?;
    to.write_all(&torrent.id.to_le_bytes())?;
    let snatched = u16::try_from(torrent.snatched).unwrap_or(u16::MAX);
    losses.snatched += u64::from(u32::from(snatched) != torrent.snatched);
    to.write_all(&snatched.to_le_bytes())?;
    let status = u8::try_from(torrent.status).unwrap_or(u8::MAX);
    losses.statuses += u64::from(i32::from(status) != torrent.status);
    to.write_all(&[status])?;
    to.write_all(&torrent.last_action.to_le_bytes())?;
    put_multipliers(to, torrent.multipliers)
}

fn put_entry(
    to: &mut (impl Write + ?Sized),
    torrent: u32,
    peer: &SitePeer,
    losses: &mut ExportLosses,
) -> io::Result<()> {
    let Some(v4) = peer.v4 else {
        losses.peers_without_v4 += 1;
        return Ok(());
    };
    losses.v6_endpoints += u64::from(peer.v6.is_some());
    let client = u16::try_from(peer.client).unwrap_or(0);
    losses.clients += u64::from(u32::from(client) != peer.client);
    to.write_all(&peer.key())?;
    to.write_all(&peer.peer_id.0)?;
    to.write_all(&v4.address.octets())?;
    to.write_all(&v4.port.to_be_bytes())?;
    for total in [peer.uploaded, peer.downloaded, peer.left] {
        to.write_all(&total.to_le_bytes())?;
    }
    to.write_all(&peer.started_at.to_le_bytes())?;
    to.write_all(&peer.announced_at.to_le_bytes())?;
    to.write_all(&torrent.to_le_bytes())?;
    to.write_all(&peer.user.to_le_bytes())?;
    to.write_all(&client.to_le_bytes())?;
    to.write_all(&[(peer.role == Role::Seeder).into()])
}

/// Cut at a character boundary, so that it stays text.
fn type_name(name: &str, losses: &mut ExportLosses) -> [u8; TYPE_NAME_MAX] {
    let fitting = name.floor_char_boundary(TYPE_NAME_MAX);
    losses.type_names += u64::from(fitting < name.len());
    let mut padded = [0; TYPE_NAME_MAX];
    padded.iter_mut().zip(name.bytes().take(fitting)).for_each(|(to, from)| *to = from);
    padded
}

fn put_multipliers(to: &mut (impl Write + ?Sized), multipliers: Multipliers) -> io::Result<()> {
    to.write_all(&multipliers.up.to_le_bytes())?;
    to.write_all(&multipliers.down.to_le_bytes())
}

fn put_uvarint(to: &mut (impl Write + ?Sized), mut value: u64) -> io::Result<()> {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            return to.write_all(&[low & 0x7f]);
        }
        to.write_all(&[low | 0x80])?;
    }
}
