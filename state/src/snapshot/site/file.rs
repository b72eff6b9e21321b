//! [`SiteSnapshot`] in blocks of a [`container`].
//!
//! ```text
//! TAG_SITE_TORRENTS  records: u8 1, then a torrent, or u8 2, then a peer of the last torrent
//!   torrent          20 info_hash  u32 id  u32 group  u16 length, type name in UTF-8  u32 snatched
//!                    i32 status  i64 last action  f64 up  f64 down  u32 peers that follow
//!   peer             u32 user  20 peer_id  u8 flags: 1 seeder, 2 IPv4, 4 IPv6
//!                    4 IPv4, u16 port, i64 seen, if it has one  16 IPv6, u16 port, i64 seen, if it has one
//!                    u64 uploaded  u64 downloaded  u64 left  i64 start  i64 last announce  u32 client
//! TAG_SITE_USERS     records: u16 length, passkey  u32 id  u8 flags: 1 disable download, 2 hide
//!                    f64 up  f64 down
//! TAG_SITE_UNPRUNES  records: u32 torrent id
//! ```
//! All numbers are little-endian. A record is never cut, but the peers of a torrent may continue in a later
//! block of the same tag: so a block has a bounded length however large the swarm.

use std::io::{self, Read};
use std::path::Path;

use super::{Group, Multipliers, Role, SeenEndpoint, SitePeer, SiteSnapshot, SiteTorrent, UserAccount};
use crate::ids::{InfoHash, PeerId};
use crate::snapshot::container::{self, BLOCK_MAX, BlockSink, SnapshotError, SnapshotReader, SnapshotWriter};
use crate::snapshot::octets::OctetReader;

/// Blocks with torrents and peers.
pub const TAG_SITE_TORRENTS: u8 = 16;
/// Blocks with users.
pub const TAG_SITE_USERS: u8 = 17;
/// Blocks with pending un-prunes.
pub const TAG_SITE_UNPRUNES: u8 = 18;

/// Length above which a block is written.
const BLOCK_TARGET: usize = 256 << 10;
/// Longer than any record: 65535 octets of text, and a few numbers.
const RECORD_MAX: usize = (64 << 10) + 256;
const _: () = assert!(BLOCK_TARGET + RECORD_MAX <= BLOCK_MAX);

const TORRENT_RECORD: u8 = 1;
const PEER_RECORD: u8 = 2;
const SEEDER: u8 = 1;
const HAS_V4: u8 = 2;
const HAS_V6: u8 = 4;
const DISABLE_DOWNLOAD: u8 = 1;
const TRACKER_HIDE: u8 = 2;

/// A record of a [`SiteSnapshot`].
#[derive(Clone, Debug, PartialEq)]
pub enum SiteRecord {
    /// A torrent with all its peers.
    Torrent(SiteTorrent),
    /// A user.
    User(UserAccount),
    /// The id of a torrent whose un-prune is pending.
    Unprune(u32),
}

/// Writes the snapshot of a site record by record, in any order.
#[expect(missing_debug_implementations, reason = "what it writes to has none")]
pub struct SiteWriter<'w> {
    to: &'w mut dyn BlockSink,
    torrents: Vec<u8>,
    users: Vec<u8>,
    unprunes: Vec<u8>,
}

impl<'w> SiteWriter<'w> {
    /// Returns a writer to this container.
    pub fn new(to: &'w mut dyn BlockSink) -> Self {
        Self { to, torrents: Vec::new(), users: Vec::new(), unprunes: Vec::new() }
    }

    /// Writes a whole site.
    ///
    /// # Errors
    /// Fails when the container, [`write_torrent`](Self::write_torrent) or [`write_user`](Self::write_user)
    /// does.
    pub fn write_site(&mut self, site: &SiteSnapshot) -> io::Result<()> {
        site.torrents.iter().try_for_each(|torrent| self.write_torrent(torrent))?;
        site.users.iter().try_for_each(|user| self.write_user(user))?;
        site.unprunes.iter().try_for_each(|&id| self.write_unprune(id))
    }

    /// Writes a torrent and its peers.
    ///
    /// # Errors
    /// Fails when the container does, when the type name is longer than 65535 octets, or when there are 2^32
    /// peers.
    pub fn write_torrent(&mut self, torrent: &SiteTorrent) -> io::Result<()> {
        let peers = u32::try_from(torrent.peers.len()).map_err(io::Error::other)?;
        put_torrent(&mut self.torrents, torrent, peers)?;
        for peer in &torrent.peers {
            put_peer(&mut self.torrents, peer);
            flush_block(self.to, TAG_SITE_TORRENTS, &mut self.torrents, BLOCK_TARGET)?;
        }
        flush_block(self.to, TAG_SITE_TORRENTS, &mut self.torrents, BLOCK_TARGET)
    }

    /// Writes a user.
    ///
    /// # Errors
    /// Fails when the container does, or when the passkey is longer than 65535 octets.
    pub fn write_user(&mut self, user: &UserAccount) -> io::Result<()> {
        let flags = flag(user.disable_download, DISABLE_DOWNLOAD) | flag(user.tracker_hide, TRACKER_HIDE);
        put_text(&mut self.users, &user.passkey)?;
        self.users.extend(user.id.to_le_bytes());
        self.users.push(flags);
        put_multipliers(&mut self.users, user.multipliers);
        flush_block(self.to, TAG_SITE_USERS, &mut self.users, BLOCK_TARGET)
    }

    /// Writes a pending un-prune.
    ///
    /// # Errors
    /// Fails when the container does.
    pub fn write_unprune(&mut self, id: u32) -> io::Result<()> {
        self.unprunes.extend(id.to_le_bytes());
        flush_block(self.to, TAG_SITE_UNPRUNES, &mut self.unprunes, BLOCK_TARGET)
    }

    /// Writes what is still buffered; without it that is lost.
    ///
    /// # Errors
    /// Fails when the container does.
    pub fn finish(mut self) -> io::Result<()> {
        flush_block(self.to, TAG_SITE_TORRENTS, &mut self.torrents, 0)?;
        flush_block(self.to, TAG_SITE_USERS, &mut self.users, 0)?;
        flush_block(self.to, TAG_SITE_UNPRUNES, &mut self.unprunes, 0)
    }
}

/// Writes a block if it is longer than `kept`.
fn flush_block(to: &mut dyn BlockSink, tag: u8, block: &mut Vec<u8>, kept: usize) -> io::Result<()> {
    if block.len() <= kept {
        return Ok(());
    }
    to.write_block(tag, block)?;
    block.clear();
    Ok(())
}

fn put_torrent(block: &mut Vec<u8>, torrent: &SiteTorrent, peers: u32) -> io::Result<()> {
    let len = text_len(torrent.group.type_name.as_bytes())?;
    block.push(TORRENT_RECORD);
    block.extend(torrent.info_hash.0);
    block.extend(torrent.id.to_le_bytes());
    block.extend(torrent.group.id.to_le_bytes());
    block.extend(len.to_le_bytes());
    block.extend(torrent.group.type_name.as_bytes());
    block.extend(torrent.snatched.to_le_bytes());
    block.extend(torrent.status.to_le_bytes());
    block.extend(torrent.last_action.to_le_bytes());
    put_multipliers(block, torrent.multipliers);
    block.extend(peers.to_le_bytes());
    Ok(())
}

fn put_peer(block: &mut Vec<u8>, peer: &SitePeer) {
    block.push(PEER_RECORD);
    block.extend(peer.user.to_le_bytes());
    block.extend(peer.peer_id.0);
    let families = flag(peer.v4.is_some(), HAS_V4) | flag(peer.v6.is_some(), HAS_V6);
    block.push(flag(peer.role == Role::Seeder, SEEDER) | families);
    if let Some(v4) = peer.v4 {
        put_endpoint(block, &v4.address.octets(), v4.port, v4.seen_at);
    }
    if let Some(v6) = peer.v6 {
        put_endpoint(block, &v6.address.octets(), v6.port, v6.seen_at);
    }
    for total in [peer.uploaded, peer.downloaded, peer.left] {
        block.extend(total.to_le_bytes());
    }
    block.extend(peer.started_at.to_le_bytes());
    block.extend(peer.announced_at.to_le_bytes());
    block.extend(peer.client.to_le_bytes());
}

fn put_endpoint(block: &mut Vec<u8>, address: &[u8], port: u16, seen_at: i64) {
    block.extend(address);
    block.extend(port.to_le_bytes());
    block.extend(seen_at.to_le_bytes());
}

fn put_multipliers(block: &mut Vec<u8>, multipliers: Multipliers) {
    block.extend(multipliers.up.to_le_bytes());
    block.extend(multipliers.down.to_le_bytes());
}

fn put_text(block: &mut Vec<u8>, text: &[u8]) -> io::Result<()> {
    block.extend(text_len(text)?.to_le_bytes());
    block.extend(text);
    Ok(())
}

fn text_len(text: &[u8]) -> io::Result<u16> {
    u16::try_from(text.len()).map_err(|_| io::Error::other("a passkey or type name over 65535 octets"))
}

fn flag(is_set: bool, flag: u8) -> u8 {
    if is_set { flag } else { 0 }
}

/// Decodes the blocks of a site, and passes on record by record.
#[derive(Debug, Default)]
pub struct SiteDecoder {
    /// A torrent whose peers are still to come, and their number.
    open: Option<(SiteTorrent, u32)>,
}

impl SiteDecoder {
    /// Decodes a block; returns false if it does not belong to a site.
    ///
    /// # Errors
    /// Fails when the block is not as this program writes it.
    pub fn decode_block(
        &mut self,
        tag: u8,
        payload: &[u8],
        sink: &mut impl FnMut(SiteRecord),
    ) -> Result<bool, SnapshotError> {
        let mut octets = OctetReader::new(payload);
        match tag {
            TAG_SITE_TORRENTS => {
                while octets.len() > 0 {
                    self.torrent_or_peer(&mut octets, sink)?;
                }
            }
            TAG_SITE_USERS => {
                while octets.len() > 0 {
                    sink(SiteRecord::User(take_user(&mut octets)?));
                }
            }
            TAG_SITE_UNPRUNES => {
                while octets.len() > 0 {
                    sink(SiteRecord::Unprune(octets.u32().ok_or(CUT_RECORD)?));
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Checks that the last torrent has all its peers.
    ///
    /// # Errors
    /// Fails when it does not.
    pub fn finish(self) -> Result<(), SnapshotError> {
        if self.open.is_none() { Ok(()) } else { Err(SnapshotError::Damaged("peers are missing")) }
    }

    fn torrent_or_peer(
        &mut self,
        octets: &mut OctetReader<'_>,
        sink: &mut impl FnMut(SiteRecord),
    ) -> Result<(), SnapshotError> {
        let (torrent, missing) = match (octets.u8(), self.open.take()) {
            (Some(TORRENT_RECORD), None) => take_torrent(octets)?,
            (Some(PEER_RECORD), Some((mut torrent, missing))) => {
                torrent.peers.push(take_peer(octets)?);
                (torrent, missing - 1)
            }
            (Some(TORRENT_RECORD), Some(_)) => return Err(SnapshotError::Damaged("peers are missing")),
            (Some(PEER_RECORD), None) => return Err(SnapshotError::Damaged("a peer without a torrent")),
            _ => return Err(SnapshotError::Damaged("a record that is neither a torrent nor a peer")),
        };
        if missing == 0 {
            sink(SiteRecord::Torrent(torrent));
        } else {
            self.open = Some((torrent, missing));
        }
        Ok(())
    }
}

const CUT_RECORD: SnapshotError = SnapshotError::Damaged("a record is cut off");

/// Takes a torrent, and the number of peers that follow.
fn take_torrent(octets: &mut OctetReader<'_>) -> Result<(SiteTorrent, u32), SnapshotError> {
    let info_hash = InfoHash(octets.array().ok_or(CUT_RECORD)?);
    let id = octets.u32().ok_or(CUT_RECORD)?;
    let group = octets.u32().ok_or(CUT_RECORD)?;
    let type_name = std::str::from_utf8(take_text(octets)?)
        .map_err(|_| SnapshotError::Damaged("a type name is not UTF-8"))?;
    let torrent = SiteTorrent {
        info_hash,
        id,
        group: Group { type_name: type_name.into(), id: group },
        snatched: octets.u32().ok_or(CUT_RECORD)?,
        status: octets.i32().ok_or(CUT_RECORD)?,
        last_action: octets.i64().ok_or(CUT_RECORD)?,
        multipliers: take_multipliers(octets)?,
        peers: Vec::new(),
    };
    Ok((torrent, octets.u32().ok_or(CUT_RECORD)?))
}

fn take_peer(octets: &mut OctetReader<'_>) -> Result<SitePeer, SnapshotError> {
    let user = octets.u32().ok_or(CUT_RECORD)?;
    let peer_id = PeerId(octets.array().ok_or(CUT_RECORD)?);
    let flags = octets.u8().ok_or(CUT_RECORD)?;
    if flags & !(SEEDER | HAS_V4 | HAS_V6) != 0 {
        return Err(SnapshotError::Damaged("unknown flags of a peer"));
    }
    Ok(SitePeer {
        user,
        peer_id,
        role: if flags & SEEDER == 0 { Role::Leecher } else { Role::Seeder },
        v4: if flags & HAS_V4 == 0 { None } else { Some(take_endpoint::<4, _>(octets)?) },
        v6: if flags & HAS_V6 == 0 { None } else { Some(take_endpoint::<16, _>(octets)?) },
        uploaded: octets.u64().ok_or(CUT_RECORD)?,
        downloaded: octets.u64().ok_or(CUT_RECORD)?,
        left: octets.u64().ok_or(CUT_RECORD)?,
        started_at: octets.i64().ok_or(CUT_RECORD)?,
        announced_at: octets.i64().ok_or(CUT_RECORD)?,
        client: octets.u32().ok_or(CUT_RECORD)?,
    })
}

fn take_endpoint<const LEN: usize, A: From<[u8; LEN]>>(
    octets: &mut OctetReader<'_>,
) -> Result<SeenEndpoint<A>, SnapshotError> {
    let address: [u8; LEN] = octets.array().ok_or(CUT_RECORD)?;
    let port = octets.u16().ok_or(CUT_RECORD)?;
    Ok(SeenEndpoint { address: address.into(), port, seen_at: octets.i64().ok_or(CUT_RECORD)? })
}

fn take_user(octets: &mut OctetReader<'_>) -> Result<UserAccount, SnapshotError> {
    let passkey = take_text(octets)?.into();
    let id = octets.u32().ok_or(CUT_RECORD)?;
    let flags = octets.u8().ok_or(CUT_RECORD)?;
    if flags & !(DISABLE_DOWNLOAD | TRACKER_HIDE) != 0 {
        return Err(SnapshotError::Damaged("unknown flags of a user"));
    }
    Ok(UserAccount {
        passkey,
        id,
        disable_download: flags & DISABLE_DOWNLOAD != 0,
        tracker_hide: flags & TRACKER_HIDE != 0,
        multipliers: take_multipliers(octets)?,
    })
}

fn take_multipliers(octets: &mut OctetReader<'_>) -> Result<Multipliers, SnapshotError> {
    let (up, down) = (octets.f64().ok_or(CUT_RECORD)?, octets.f64().ok_or(CUT_RECORD)?);
    if up.is_finite() && down.is_finite() {
        Ok(Multipliers { up, down })
    } else {
        Err(SnapshotError::Damaged("a multiplier is not a number"))
    }
}

fn take_text<'o>(octets: &mut OctetReader<'o>) -> Result<&'o [u8], SnapshotError> {
    let len = octets.u16().ok_or(CUT_RECORD)?;
    octets.slice(usize::from(len)).ok_or(CUT_RECORD)
}

/// The contents of a file.
#[derive(Clone, Debug, Default)]
pub struct LoadedSite {
    /// When the file was written, in Unix seconds.
    pub written_at: i64,
    /// The records of all its blocks of a site.
    pub site: SiteSnapshot,
    /// The number of other blocks, such as those of the swarms of the open modes.
    pub other_blocks: u64,
}

/// Reads a whole file after verifying every checksum in it.
///
/// # Errors
/// Fails when the file is missing, or not a good snapshot.
pub fn read_file(path: &Path) -> Result<LoadedSite, SnapshotError> {
    read_blocks(SnapshotReader::open(path)?)
}

/// Reads the rest of a container.
///
/// # Errors
/// Fails when it is damaged.
pub fn read_blocks<R: Read>(mut reader: SnapshotReader<R>) -> Result<LoadedSite, SnapshotError> {
    let mut loaded = LoadedSite { written_at: reader.written_at(), ..LoadedSite::default() };
    let mut decoder = SiteDecoder::default();
    while let Some((tag, payload)) = reader.next_block()? {
        let is_ours = decoder.decode_block(tag, payload, &mut |record| loaded.site.add_record(record))?;
        loaded.other_blocks += u64::from(!is_ours);
    }
    decoder.finish()?;
    Ok(loaded)
}

/// Writes a whole file, replacing the present one.
///
/// # Errors
/// Fails when the disk or [`SiteWriter`] does; the old file stays then.
pub fn write_file(path: &Path, site: &SiteSnapshot, written_at: i64) -> io::Result<()> {
    container::replace_file(path, |to| {
        let mut container = SnapshotWriter::new(to, written_at)?;
        let mut writer = SiteWriter::new(&mut container);
        writer.write_site(site)?;
        writer.finish()?;
        container.finish().map(drop)
    })
}
