//! Reads the cache files of the reference tracker.

use super::{ReferenceError, TORRENTS_VERSION, TYPE_NAME_MAX, USERS_VERSION};
use crate::ids::{ID_LEN, InfoHash, PeerId};
use crate::snapshot::octets::OctetReader;
use crate::snapshot::site::{
    Group, KEY_LEN, Multipliers, Role, SeenEndpoint, SitePeer, SiteSnapshot, SiteTorrent, UserAccount,
};

/// Octets of an IPv4 endpoint.
const ENDPOINT_LEN: usize = 6;
/// Octets of a peer after its endpoint.
const PEER_REST_LEN: usize = 5 * 8 + 2 * 4 + 2 + 1;
/// The least octets of a key and a peer, whatever the version.
const ENTRY_MIN: usize = KEY_LEN + ID_LEN + ENDPOINT_LEN + PEER_REST_LEN;
/// The least octets of a torrent: no peers, no type name.
const TORRENT_MIN: usize = ID_LEN + 2 + 1 + 4 + 4 + 2 + 1 + 8 + 16;
/// The least octets of a user: no passkey.
const USER_MIN: usize = 1 + 4 + 2 + 16;

/// Reads a `torrent-cache.bin` of version 1, 2 or 3. The list decides who is a seeder, the key in it whose
/// peer it is; of two peers with one key the later announce wins. In a type name that is not UTF-8, as when
/// the reference tracker cut one, invalid octets are replaced.
///
/// # Errors
/// Fails when it is not such a file.
pub fn read_torrents(file: &[u8]) -> Result<Vec<SiteTorrent>, ReferenceError> {
    let mut reader = ReferenceReader { octets: OctetReader::new(file), version: 0 };
    reader.version = reader.read_uvarint()?;
    if !(1..=TORRENTS_VERSION).contains(&reader.version) {
        return Err(ReferenceError::Version(reader.version));
    }
    let count = reader.read_count(TORRENT_MIN)?;
    let torrents = (0..count).map(|_| reader.read_torrent()).collect::<Result<_, _>>()?;
    let mut site = SiteSnapshot { torrents, ..SiteSnapshot::default() };
    site.sort_and_dedup();
    Ok(site.torrents)
}

/// Reads a `user-cache.bin` of version 1.
///
/// # Errors
/// Fails when it is not such a file.
pub fn read_users(file: &[u8]) -> Result<Vec<UserAccount>, ReferenceError> {
    let mut reader = ReferenceReader { octets: OctetReader::new(file), version: 0 };
    reader.version = reader.read_uvarint()?;
    if reader.version != USERS_VERSION {
        return Err(ReferenceError::Version(reader.version));
    }
    let count = reader.read_count(USER_MIN)?;
    let users = (0..count).map(|_| reader.read_user()).collect::<Result<_, _>>()?;
    let mut site = SiteSnapshot { users, ..SiteSnapshot::default() };
    site.sort_and_dedup();
    Ok(site.users)
}

struct ReferenceReader<'f> {
    octets: OctetReader<'f>,
    version: u64,
}

impl<'f> ReferenceReader<'f> {
    fn read_torrent(&mut self) -> Result<SiteTorrent, ReferenceError> {
        let info_hash = InfoHash(self.read_array()?);
        let mut peers = Vec::new();
        for role in [Role::Seeder, Role::Leecher] {
            let count = self.read_count(ENTRY_MIN)?;
            peers.reserve(count);
            for _ in 0..count {
                peers.push(self.read_entry(role)?);
            }
        }
        let group = Group { type_name: self.read_type_name()?, id: self.read_number(OctetReader::u32)? };
        Ok(SiteTorrent {
            info_hash,
            group,
            id: self.read_number(OctetReader::u32)?,
            snatched: self.read_number(OctetReader::u16)?.into(),
            status: self.read_number(OctetReader::u8)?.into(),
            last_action: self.read_number(OctetReader::i64)?,
            multipliers: self.read_multipliers()?,
            peers,
        })
    }

    /// Reads a key and its peer.
    fn read_entry(&mut self, role: Role) -> Result<SitePeer, ReferenceError> {
        let user = self.read_number(OctetReader::u32)?;
        let peer_id = PeerId(self.read_array()?);
        // The peer repeats its id, and further below its torrent, its user and whether it seeds.
        self.read_slice(ID_LEN)?;
        let (address, port) = self.read_endpoint()?;
        let (uploaded, downloaded) =
            (self.read_number(OctetReader::u64)?, self.read_number(OctetReader::u64)?);
        let left = self.read_number(OctetReader::u64)?;
        let (started_at, announced_at) =
            (self.read_number(OctetReader::i64)?, self.read_number(OctetReader::i64)?);
        self.read_slice(4 + 4)?;
        let client = self.read_number(OctetReader::u16)?.into();
        self.read_slice(1)?;
        let v4 = Some(SeenEndpoint { address: address.into(), port, seen_at: announced_at });
        Ok(SitePeer {
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

    fn read_endpoint(&mut self) -> Result<([u8; 4], u16), ReferenceError> {
        if self.version == 1 {
            self.read_prefixed(u64::MAX)?;
            let at = self.octets.at();
            let len = self.read_uvarint()?;
            if len != ENDPOINT_LEN as u64 {
                return Err(ReferenceError::Length { at, len });
            }
        }
        let endpoint = (self.read_array()?, u16::from_be_bytes(self.read_array()?));
        if self.version == 1 {
            self.read_slice(ENDPOINT_LEN)?;
        }
        Ok(endpoint)
    }

    fn read_type_name(&mut self) -> Result<Box<str>, ReferenceError> {
        let padded = if self.version < 3 {
            self.read_prefixed(TYPE_NAME_MAX as u64)?
        } else {
            self.read_slice(TYPE_NAME_MAX)?
        };
        let padding = padded.iter().rev().take_while(|&&octet| octet == 0).count();
        let octets = padded.get(..padded.len() - padding).unwrap_or_default();
        Ok(String::from_utf8_lossy(octets).into())
    }

    fn read_user(&mut self) -> Result<UserAccount, ReferenceError> {
        Ok(UserAccount {
            passkey: self.read_prefixed(u64::MAX)?.into(),
            id: self.read_number(OctetReader::u32)?,
            disable_download: self.read_number(OctetReader::u8)? != 0,
            tracker_hide: self.read_number(OctetReader::u8)? != 0,
            multipliers: self.read_multipliers()?,
        })
    }

    fn read_multipliers(&mut self) -> Result<Multipliers, ReferenceError> {
        let (up, down) = (self.read_number(OctetReader::f64)?, self.read_number(OctetReader::f64)?);
        if up.is_finite() && down.is_finite() {
            Ok(Multipliers { up, down })
        } else {
            Err(ReferenceError::Multiplier(self.octets.at()))
        }
    }

    /// Reads the number of records that follow; there must be at least `least` octets for each, so that a
    /// wrong count reserves no memory.
    fn read_count(&mut self, least: usize) -> Result<usize, ReferenceError> {
        let at = self.octets.at();
        let count = self.read_uvarint()?;
        let good = usize::try_from(count).ok().filter(|&count| count <= self.octets.len() / least);
        good.ok_or(ReferenceError::Count { at, count })
    }

    /// Reads a length of at most `most`, and as many octets.
    fn read_prefixed(&mut self, most: u64) -> Result<&'f [u8], ReferenceError> {
        let at = self.octets.at();
        let len = self.read_uvarint()?;
        let good = usize::try_from(len).ok().filter(|_| len <= most);
        self.read_slice(good.ok_or(ReferenceError::Length { at, len })?)
    }

    fn read_uvarint(&mut self) -> Result<u64, ReferenceError> {
        let at = self.octets.at();
        let mut value = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let octet = u64::from(self.read_number(OctetReader::u8)?);
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

    fn read_number<N>(
        &mut self,
        take: impl FnOnce(&mut OctetReader<'f>) -> Option<N>,
    ) -> Result<N, ReferenceError> {
        take(&mut self.octets).ok_or(ReferenceError::Short(self.octets.at()))
    }

    fn read_array<const LEN: usize>(&mut self) -> Result<[u8; LEN], ReferenceError> {
        self.read_number(OctetReader::array)
    }

    fn read_slice(&mut self, len: usize) -> Result<&'f [u8], ReferenceError> {
        self.read_number(|octets| octets.slice(len))
    }
}
