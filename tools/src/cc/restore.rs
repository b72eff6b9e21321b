//! Reads a site from JSON, torrent by torrent. Every key must be known, so that nothing is left out because
//! it is misspelt. What JSON says twice about a peer is read once: its list tells whether it seeds, its key
//! tells its user.

use std::fmt;
use std::io::Read;
use std::marker::PhantomData;
use std::net::{SocketAddrV4, SocketAddrV6};

use hayate_state::snapshot::site::{
    Group, KEY_LEN, Multipliers, Role, SeenEndpoint, SitePeer, SiteSnapshot, SiteTorrent, UserAccount,
};
use hayate_state::{InfoHash, PeerId};
use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::json::{octets_of, unhex};

/// Reads torrents, their peers and pending un-prunes; `step` is called after each torrent.
///
/// # Errors
/// Fails when the document cannot be read, or has another structure; with line and column.
pub fn restore_torrents(
    from: impl Read,
    site: &mut SiteSnapshot,
    step: &mut dyn FnMut(),
) -> serde_json::Result<()> {
    document(from, |key: &str, value: TopLevelValue| {
        match value {
            TopLevelValue::Unprunes(ids) if key == "UnprunePending" => site.unprunes.extend(ids),
            TopLevelValue::Unprunes(_) => return Err("a list where a torrent should be".into()),
            TopLevelValue::Torrent(entry) => {
                site.unprunes.extend(entry.unprune_pending.then_some(entry.id));
                let info_hash = key.parse().map_err(|error| format!("{error}"))?;
                site.torrents.push(entry.torrent(info_hash)?);
                step();
            }
        }
        Ok(())
    })
}

/// Reads users; `step` is called after each.
///
/// # Errors
/// Fails when the document cannot be read, or has another structure; with line and column.
pub fn restore_users(
    from: impl Read,
    site: &mut SiteSnapshot,
    step: &mut dyn FnMut(),
) -> serde_json::Result<()> {
    document(from, |key: &str, entry: UserEntry| {
        let passkey = octets_of(key).ok_or("a passkey that is not hexadecimal after \\u0000hex:")?;
        site.users.push(UserAccount {
            passkey: passkey.into(),
            id: entry.id,
            disable_download: entry.disable_download,
            tracker_hide: entry.tracker_hide,
            multipliers: Multipliers { up: entry.up_multiplier, down: entry.down_multiplier },
        });
        step();
        Ok(())
    })
}

/// Reads an object that fills the whole text.
pub(super) fn document<'de, E: Deserialize<'de>>(
    from: impl Read,
    on_entry: impl FnMut(&str, E) -> Result<(), String>,
) -> serde_json::Result<()> {
    let mut deserializer = serde_json::Deserializer::from_reader(from);
    EntriesVisitor(on_entry, PhantomData).deserialize(&mut deserializer)?;
    deserializer.end()
}

/// Reads an object, and passes its entries to a function one by one.
struct EntriesVisitor<E, F>(F, PhantomData<E>);

impl<'de, E: Deserialize<'de>, F: FnMut(&str, E) -> Result<(), String>> DeserializeSeed<'de>
    for EntriesVisitor<E, F>
{
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, E: Deserialize<'de>, F: FnMut(&str, E) -> Result<(), String>> Visitor<'de>
    for EntriesVisitor<E, F>
{
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some((key, entry)) = map.next_entry::<String, E>()? {
            self.0(&key, entry).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}

/// A value of the outermost object, with its key.
enum TopLevelValue {
    Torrent(TorrentEntry),
    Unprunes(Vec<u32>),
}

impl<'de> Deserialize<'de> for TopLevelValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TopLevelVisitor;
        impl<'de> Visitor<'de> for TopLevelVisitor {
            type Value = TopLevelValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a torrent")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<TopLevelValue, A::Error> {
                Deserialize::deserialize(MapAccessDeserializer::new(map)).map(TopLevelValue::Torrent)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<TopLevelValue, A::Error> {
                Deserialize::deserialize(SeqAccessDeserializer::new(seq)).map(TopLevelValue::Unprunes)
            }
        }
        deserializer.deserialize_any(TopLevelVisitor)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct TorrentEntry {
    down_multiplier: f64,
    group: GroupEntry,
    #[serde(rename = "ID")]
    id: u32,
    last_action: i64,
    leechers: Peers,
    seeders: Peers,
    snatched: u32,
    status: i32,
    #[serde(default)]
    unprune_pending: bool,
    up_multiplier: f64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct GroupEntry {
    #[serde(rename = "GroupID")]
    id: u32,
    torrent_type: String,
}

impl TorrentEntry {
    fn torrent(self, info_hash: InfoHash) -> Result<SiteTorrent, String> {
        let type_name = octets_of(&self.group.torrent_type).map(|name| String::from_utf8(name.into_owned()));
        let Some(Ok(type_name)) = type_name else { return Err("a TorrentType that is not UTF-8".into()) };
        let mut peers = self.seeders.0;
        peers.iter_mut().for_each(|peer| peer.role = Role::Seeder);
        peers.extend(self.leechers.0);
        Ok(SiteTorrent {
            info_hash,
            id: self.id,
            group: Group { type_name: type_name.into(), id: self.group.id },
            snatched: self.snatched,
            status: self.status,
            last_action: self.last_action,
            multipliers: Multipliers { up: self.up_multiplier, down: self.down_multiplier },
            peers,
        })
    }
}

/// The peers of one list, read as if all were leechers.
struct Peers(Vec<SitePeer>);

impl<'de> Deserialize<'de> for Peers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut peers = Vec::new();
        let push_peer = |key: &str, entry: PeerEntry| {
            peers.push(entry.peer(key).ok_or("a key of a peer that is not 48 hexadecimal digits")?);
            Ok(())
        };
        EntriesVisitor(push_peer, PhantomData).deserialize(deserializer)?;
        Ok(Self(peers))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct PeerEntry {
    addr: Option<SocketAddrV4>,
    addr_last_announce: Option<i64>,
    addr6: Option<SocketAddrV6>,
    #[serde(rename = "Addr6LastAnnounce")]
    addr6_last_announce: Option<i64>,
    uploaded: u64,
    downloaded: u64,
    left: u64,
    start_time: i64,
    last_announce: i64,
    #[serde(rename = "TorrentID", default)]
    _torrent: IgnoredAny,
    #[serde(rename = "UserID", default)]
    _user: IgnoredAny,
    #[serde(rename = "ID", default)]
    _peer_id: IgnoredAny,
    #[serde(rename = "ClientID")]
    client: u32,
    #[serde(rename = "Seeding", default)]
    _seeding: IgnoredAny,
}

impl PeerEntry {
    fn peer(self, key: &str) -> Option<SitePeer> {
        let key: [u8; KEY_LEN] = unhex(key)?.try_into().ok()?;
        let (user, peer_id) = key.split_first_chunk()?;
        let seen = |at: Option<i64>| at.unwrap_or(self.last_announce);
        Some(SitePeer {
            user: u32::from_le_bytes(*user),
            peer_id: PeerId(peer_id.try_into().ok()?),
            role: Role::Leecher,
            v4: self.addr.map(|addr| SeenEndpoint {
                address: *addr.ip(),
                port: addr.port(),
                seen_at: seen(self.addr_last_announce),
            }),
            v6: self.addr6.map(|addr| SeenEndpoint {
                address: *addr.ip(),
                port: addr.port(),
                seen_at: seen(self.addr6_last_announce),
            }),
            uploaded: self.uploaded,
            downloaded: self.downloaded,
            left: self.left,
            started_at: self.start_time,
            announced_at: self.last_announce,
            client: self.client,
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct UserEntry {
    disable_download: bool,
    down_multiplier: f64,
    #[serde(rename = "ID")]
    id: u32,
    tracker_hide: bool,
    up_multiplier: f64,
}
