//! A site as JSON: the keys, their order and the form of the numbers are those of the reference tracker.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::net::{SocketAddrV4, SocketAddrV6};

use hayate_state::snapshot::site::{Role, SitePeer, SiteSnapshot, SiteTorrent, UserAccount};

use crate::json::{Container, Float, Writer, hex, text_of};

/// Writes torrents, their peers and pending un-prunes, in their present order; `step` is called after each
/// torrent.
///
/// # Errors
/// Fails when `to` fails.
pub fn dump_torrents(to: &mut dyn Write, site: &SiteSnapshot, step: &mut dyn FnMut()) -> io::Result<()> {
    let mut unprunes: BTreeSet<u32> = site.unprunes.iter().copied().collect();
    let pending = unprunes.clone();
    let mut writer = Writer::new(to);
    writer.container(Container::Object, |writer| {
        for torrent in &site.torrents {
            unprunes.remove(&torrent.id);
            write_torrent(writer, torrent, pending.contains(&torrent.id))?;
            step();
        }
        if unprunes.is_empty() {
            return Ok(());
        }
        writer.container_at("UnprunePending", Container::List, |writer| {
            unprunes.iter().try_for_each(|id| {
                writer.item()?;
                writer.literal(id)
            })
        })
    })?;
    writer.finish().map(drop)
}

/// Writes users in the order of their passkeys as text.
///
/// # Errors
/// Fails when `to` fails.
pub fn dump_users(to: &mut dyn Write, users: &[UserAccount]) -> io::Result<()> {
    let users: BTreeMap<_, _> = users.iter().map(|user| (text_of(&user.passkey), user)).collect();
    let mut writer = Writer::new(to);
    writer.container(Container::Object, |writer| {
        users.iter().try_for_each(|(passkey, user)| {
            writer.container_at(passkey, Container::Object, |writer| {
                writer.literal_at("DisableDownload", user.disable_download)?;
                writer.literal_at("DownMultiplier", Float(user.multipliers.down))?;
                writer.literal_at("ID", user.id)?;
                writer.literal_at("TrackerHide", user.tracker_hide)?;
                writer.literal_at("UpMultiplier", Float(user.multipliers.up))
            })
        })
    })?;
    writer.finish().map(drop)
}

fn write_torrent<W: Write>(
    to: &mut Writer<W>,
    torrent: &SiteTorrent,
    unprune_pending: bool,
) -> io::Result<()> {
    to.container_at(&torrent.info_hash.to_string(), Container::Object, |to| {
        to.literal_at("DownMultiplier", Float(torrent.multipliers.down))?;
        to.container_at("Group", Container::Object, |to| {
            to.literal_at("GroupID", torrent.group.id)?;
            to.text_at("TorrentType", &text_of(torrent.group.type_name.as_bytes()))
        })?;
        to.literal_at("ID", torrent.id)?;
        to.literal_at("LastAction", torrent.last_action)?;
        for (key, role) in [("Leechers", Role::Leecher), ("Seeders", Role::Seeder)] {
            let mut peers = torrent.peers.iter().filter(|peer| peer.role == role);
            to.container_at(key, Container::Object, |to| {
                peers.try_for_each(|peer| write_peer(to, torrent.id, peer))
            })?;
        }
        to.literal_at("Snatched", torrent.snatched)?;
        to.literal_at("Status", torrent.status)?;
        if unprune_pending {
            to.literal_at("UnprunePending", true)?;
        }
        to.literal_at("UpMultiplier", Float(torrent.multipliers.up))
    })
}

fn write_peer<W: Write>(to: &mut Writer<W>, torrent: u32, peer: &SitePeer) -> io::Result<()> {
    to.container_at(&hex(&peer.key()), Container::Object, |to| {
        let v4 = peer.v4.map(|v4| (SocketAddrV4::new(v4.address, v4.port).to_string(), v4.seen_at));
        let v6 = peer.v6.map(|v6| (SocketAddrV6::new(v6.address, v6.port, 0, 0).to_string(), v6.seen_at));
        for (endpoint, key, seen_key) in
            [(v4, "Addr", "AddrLastAnnounce"), (v6, "Addr6", "Addr6LastAnnounce")]
        {
            let Some((address, seen_at)) = endpoint else { continue };
            to.text_at(key, &address)?;
            if seen_at != peer.announced_at {
                to.literal_at(seen_key, seen_at)?;
            }
        }
        to.literal_at("Uploaded", peer.uploaded)?;
        to.literal_at("Downloaded", peer.downloaded)?;
        to.literal_at("Left", peer.left)?;
        to.literal_at("StartTime", peer.started_at)?;
        to.literal_at("LastAnnounce", peer.announced_at)?;
        to.literal_at("TorrentID", torrent)?;
        to.literal_at("UserID", peer.user)?;
        to.text_at("ID", &hex(&peer.peer_id.0))?;
        to.literal_at("ClientID", peer.client)?;
        to.literal_at("Seeding", peer.role == Role::Seeder)
    })
}
