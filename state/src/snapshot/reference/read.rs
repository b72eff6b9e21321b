//! Reads what the reference tracker wrote.

use super::{ReferenceError, TORRENTS_VERSION, TYPE_NAME_MAX, USERS_VERSION};
use crate::ids::{ID_LEN, InfoHash, PeerId};
use crate::snapshot::octets::Octets;
use crate::snapshot::site::{Endpoint, Group, KEY_LEN, Multipliers, Peer, Role, Site, Torrent, User};

/// Octets of an IPv4 endpoint.
const ENDPOINT_LEN: usize = 6;
/// Octets of a peer after its endpoint.
const PEER_REST_LEN: usize = 5 * 8 + 2 * 4 + 2 + 1;
/// The least a key and a peer take, whatever the version.
const ENTRY_LEAST: usize = KEY_LEN + ID_LEN + ENDPOINT_LEN + PEER_REST_LEN;
/// The least a torrent takes: no peers, no type name.
const TORRENT_LEAST: usize = ID_LEN + 2 + 1 + 4 + 4 + 2 + 1 + 8 + 16;
/// The least a user takes: no passkey.
const USER_LEAST: usize = 1 + 4 + 2 + 16;

/// Reads a `torrent-cache.bin` of version 1, 2 or 3. The list decides who is a seeder, the key in it whose
/// peer it is; of two peers with one key the later announce wins. A type name that is not UTF-8, as where
/// the reference tracker cut one, gets replacement characters.
///
/// # Errors
/// When it is not such a file.
pub fn read_torrents(file: &[u8]) -> Result<Vec<Torrent>, ReferenceError> {
    let mut reader = Reader { octets: Octets::new(file), version: 0 };
    reader.version = reader.uvarint()?;
    if !(1..=TORRENTS_VERSION).contains(&reader.version) {
        return Err(ReferenceError::Version(reader.version));
    }
    let count = reader.count(TORRENT_LEAST)?;
    let torrents = (0..count).map(|_| reader.torrent()).collect::<Result<_, _>>()?;
    let mut site = Site { torrents, ..Site::default() };
    site.settle();
    Ok(site.torrents)
}

/// Reads a `user-cache.bin` of version 1.
///
/// # Errors
/// When it is not such a file.
pub fn read_users(file: &[u8]) -> Result<Vec<User>, ReferenceError> {
    let mut reader = Reader { octets: Octets::new(file), version: 0 };
    reader.version = reader.uvarint()?;
    if reader.version != USERS_VERSION {
        return Err(ReferenceError::Version(reader.version));
    }
    let count = reader.count(USER_LEAST)?;
    let users = (0..count).map(|_| reader.user()).collect::<Result<_, _>>()?;
    let mut site = Site { users, ..Site::default() };
    site.settle();
    Ok(site.users)
}

struct Reader<'f> {
    octets: Octets<'f>,
    version: u64,
}

impl<'f> Reader<'f> {
    fn torrent(&mut self) -> Result<Torrent, ReferenceError> {
        let info_hash = InfoHash(self.array()?);
        let mut peers = Vec::new();
        for role in [Role::Seeder, Role::Leecher] {
            let count = self.count(ENTRY_LEAST)?;
            peers.reserve(count);
            for _ in 0..count {
                peers.push(self.entry(role)?);
            }
        }
        let group = Group { type_name: self.type_name()?, id: self.number(Octets::u32)? };
        Ok(Torrent {
            info_hash,
            group,
            id: self.number(Octets::u32)?,
            snatched: self.number(Octets::u16)?.into(),
            status: self.number(Octets::u8)?.into(),
            last_action: self.number(Octets::i64)?,
            multipliers: self.multipliers()?,
            peers,
        })
    }

    /// A key and its peer.
    fn entry(&mut self, role: Role) -> Result<Peer, ReferenceError> {
        let user = self.number(Octets::u32)?;
        let peer_id = PeerId(self.array()?);
        // The peer says its id again, and below its torrent, its user and whether it seeds.
        self.slice(ID_LEN)?;
        let (address, port) = self.endpoint()?;
        let (uploaded, downloaded) = (self.number(Octets::u64)?, self.number(Octets::u64)?);
        let left = self.number(Octets::u64)?;
        let (started_at, announced_at) = (self.number(Octets::i64)?, self.number(Octets::i64)?);
        self.slice(4 + 4)?;
        let client = self.number(Octets::u16)?.into();
        self.slice(1)?;
        let v4 = Some(Endpoint { address: address.into(), port, seen_at: announced_at });
        Ok(Peer {
            user,
            peer_id,
            role,
            v4,
            v6: None,
            uploaded,
            downloaded,
            left,
            started_at,
            announced_at,
            client,
        })
    }

    fn endpoint(&mut self) -> Result<([u8; 4], u16), ReferenceError> {
        if self.version == 1 {
            self.prefixed(u64::MAX)?;
            let at = self.octets.at();
            let len = self.uvarint()?;
            if len != ENDPOINT_LEN as u64 {
                return Err(ReferenceError::Length { at, len });
            }
        }
        let endpoint = (self.array()?, u16::from_be_bytes(self.array()?));
        if self.version == 1 {
            self.slice(ENDPOINT_LEN)?;
        }
        Ok(endpoint)
    }

    fn type_name(&mut self) -> Result<Box<str>, ReferenceError> {
        let padded =
            if self.version < 3 { self.prefixed(TYPE_NAME_MAX as u64)? } else { self.slice(TYPE_NAME_MAX)? };
        let padding = padded.iter().rev().take_while(|&&octet| octet == 0).count();
        let octets = padded.get(..padded.len() - padding).unwrap_or_default();
        Ok(String::from_utf8_lossy(octets).into())
    }

    fn user(&mut self) -> Result<User, ReferenceError> {
        Ok(User {
            passkey: self.prefixed(u64::MAX)?.into(),
            id: self.number(Octets::u32)?,
            disable_download: self.number(Octets::u8)? != 0,
            tracker_hide: self.number(Octets::u8)? != 0,
            multipliers: self.multipliers()?,
        })
    }

    fn multipliers(&mut self) -> Result<Multipliers, ReferenceError> {
        let (up, down) = (self.number(Octets::f64)?, self.number(Octets::f64)?);
        if up.is_finite() && down.is_finite() {
            Ok(Multipliers { up, down })
        } else {
            Err(ReferenceError::Multiplier(self.octets.at()))
        }
    }

    /// How many records follow; so many of `least` octets must be there, or nothing is set aside for them.
    fn count(&mut self, least: usize) -> Result<usize, ReferenceError> {
        let at = self.octets.at();
        let count = self.uvarint()?;
        let good = usize::try_from(count).ok().filter(|&count| count <= self.octets.len() / least);
        good.ok_or(ReferenceError::Count { at, count })
    }

    /// A length of at most `most`, and as many octets.
    fn prefixed(&mut self, most: u64) -> Result<&'f [u8], ReferenceError> {
        let at = self.octets.at();
        let len = self.uvarint()?;
        let good = usize::try_from(len).ok().filter(|_| len <= most);
        self.slice(good.ok_or(ReferenceError::Length { at, len })?)
    }

    fn uvarint(&mut self) -> Result<u64, ReferenceError> {
        let at = self.octets.at();
        let mut value = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let octet = u64::from(self.number(Octets::u8)?);
            let bits = octet & 0x7f;
            if bits << shift >> shift != bits {
                break;
            }
            value |= bits << shift;
            if octet == bits {
                return Ok(value);
            }
        }
        Err(ReferenceError::Number(at))
    }

    fn number<N>(&mut self, take: impl FnOnce(&mut Octets<'f>) -> Option<N>) -> Result<N, ReferenceError> {
        take(&mut self.octets).ok_or(ReferenceError::Short(self.octets.at()))
    }

    fn array<const LEN: usize>(&mut self) -> Result<[u8; LEN], ReferenceError> {
        self.number(Octets::array)
    }

    fn slice(&mut self, len: usize) -> Result<&'f [u8], ReferenceError> {
        self.number(|octets| octets.slice(len))
    }
}
