//! Swarms of the open modes to JSON and back. Keys that the JSON of a site also has mean the same here.

use std::io::{self, Read, Write};
use std::net::SocketAddr;

use hayate_state::PeerId;
use hayate_state::snapshot::plain::{PlainPeer, PlainTorrent, Role};
use serde::{Deserialize, Deserializer, de};

use super::restore::document;
use crate::json::{Container, Writer, hex, unhex};

/// Writes torrents and their peers, in their present order; `step` is called after each torrent.
///
/// # Errors
/// Fails when `to` fails.
pub fn dump_swarms(to: &mut dyn Write, torrents: &[PlainTorrent], step: &mut dyn FnMut()) -> io::Result<()> {
    let mut writer = Writer::new(to);
    writer.container(Container::Object, |writer| {
        torrents.iter().try_for_each(|torrent| {
            write_torrent(writer, torrent)?;
            step();
            Ok(())
        })
    })?;
    writer.finish().map(drop)
}

fn write_torrent<W: Write>(to: &mut Writer<W>, torrent: &PlainTorrent) -> io::Result<()> {
    to.container_at(&torrent.info_hash.to_string(), Container::Object, |to| {
        to.literal_at("Completed", torrent.completed)?;
        [("Leechers", Role::Leecher), ("Seeders", Role::Seeder)].into_iter().try_for_each(|(key, role)| {
            let mut peers = torrent.peers.iter().filter(|peer| peer.role == role);
            to.container_at(key, Container::List, |to| peers.try_for_each(|peer| write_peer(to, peer)))
        })
    })
}

fn write_peer<W: Write>(to: &mut Writer<W>, peer: &PlainPeer) -> io::Result<()> {
    to.item()?;
    to.container(Container::Object, |to| {
        to.text_at("Addr", &peer.address.to_string())?;
        to.literal_at("LastAnnounce", peer.announced_at)?;
        if peer.paused {
            to.literal_at("Paused", true)?;
        }
        peer.peer_id.map_or(Ok(()), |id| to.text_at("PeerID", &hex(&id.0)))
    })
}

/// Reads torrents and their peers; `step` is called after each torrent.
///
/// # Errors
/// Fails when the document cannot be read, or has another structure; with line and column.
pub fn restore_swarms(
    from: impl Read,
    torrents: &mut Vec<PlainTorrent>,
    step: &mut dyn FnMut(),
) -> serde_json::Result<()> {
    document(from, |key: &str, entry: SwarmEntry| {
        let info_hash = key.parse().map_err(|error| format!("{error}"))?;
        let seeders = entry.seeders.into_iter().map(|peer| peer.peer(Role::Seeder));
        let leechers = entry.leechers.into_iter().map(|peer| peer.peer(Role::Leecher));
        let peers = seeders.chain(leechers).collect::<Result<_, _>>()?;
        torrents.push(PlainTorrent { info_hash, completed: entry.completed, peers });
        step();
        Ok(())
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct SwarmEntry {
    completed: u32,
    leechers: Vec<SwarmPeerEntry>,
    seeders: Vec<SwarmPeerEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct SwarmPeerEntry {
    addr: SocketAddr,
    last_announce: i64,
    #[serde(default)]
    paused: bool,
    #[serde(rename = "PeerID", default, deserialize_with = "peer_id")]
    peer_id: Option<PeerId>,
}

impl SwarmPeerEntry {
    fn peer(self, role: Role) -> Result<PlainPeer, String> {
        let Self { addr: address, last_announce: announced_at, paused, peer_id } = self;
        let peer = PlainPeer { address, role, paused, announced_at, peer_id };
        peer.check_peer().map_err(|error| error.to_string())?;
        Ok(peer)
    }
}

fn peer_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PeerId>, D::Error> {
    let digits = String::deserialize(deserializer)?;
    let octets = unhex(&digits).and_then(|octets| octets.try_into().ok());
    let octets = octets.ok_or_else(|| de::Error::custom("a PeerID that is not 40 hexadecimal digits"))?;
    Ok(Some(PeerId(octets)))
}
