//! The content of a cache: the site of mode private, the swarms of the open modes, or both.

use std::fmt;
use std::io;
use std::path::Path;

use hayate_state::Clock;
use hayate_state::snapshot::container::{self, SnapshotError, SnapshotReader, SnapshotWriter};
use hayate_state::snapshot::plain::{self, PlainTorrent};
use hayate_state::snapshot::site::{
    SiteDecoder, SiteSnapshot, SiteWriter, TAG_SITE_TORRENTS, TAG_SITE_UNPRUNES, TAG_SITE_USERS,
};
use hayate_state::snapshot::swarms::TAG_SWARMS;

/// The content of a cache: a site, swarms, or both. An empty cache is an empty site, unless it has an empty
/// block of swarms.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Content {
    /// Everything of mode private.
    pub(super) site: Option<SiteSnapshot>,
    /// Swarms of the open modes, sorted and without duplicates.
    pub(super) swarms: Option<Vec<PlainTorrent>>,
    /// Number of blocks of unknown kinds.
    pub(super) unknown_blocks: u64,
}

impl Content {
    /// Makes a content that is a site only.
    pub(super) fn of_site(site: SiteSnapshot) -> Self {
        Self { site: Some(site), swarms: None, unknown_blocks: 0 }
    }

    /// Reads a whole cache, after checking every checksum in it.
    pub(super) fn read_file(path: &Path) -> Result<Self, SnapshotError> {
        let mut reader = SnapshotReader::open(path)?;
        let (mut site, mut decoder) = (SiteSnapshot::default(), SiteDecoder::default());
        let (mut swarms, mut unknown_blocks) = (None::<Vec<PlainTorrent>>, 0);
        let written_at = reader.written_at();
        while let Some((tag, payload)) = reader.next_block()? {
            if tag == TAG_SWARMS {
                let swarms = swarms.get_or_insert_default();
                plain::read_block(written_at, payload, |torrent| swarms.push(torrent))?;
            } else if !decoder.decode_block(tag, payload, &mut |record| site.add_record(record))? {
                unknown_blocks += 1;
            }
        }
        decoder.finish()?;
        site.sort_and_dedup();
        swarms.iter_mut().for_each(|swarms| _ = plain::merge_torrents(swarms));
        let swarms = swarms.filter(|swarms| !swarms.is_empty() || site.is_empty());
        let site = (swarms.is_none() || !site.is_empty()).then_some(site);
        Ok(Self { site, swarms, unknown_blocks })
    }

    /// Writes a whole cache, replacing the one that is there.
    pub(super) fn write_file(&self, path: &Path) -> io::Result<()> {
        let written_at = self.swarms.as_deref().and_then(plain::written_at).unwrap_or_else(now);
        container::replace_file(path, |to| {
            let mut to = SnapshotWriter::new(to, written_at)?;
            if let Some(site) = &self.site {
                let mut writer = SiteWriter::new(&mut to);
                writer.write_site(site)?;
                writer.finish()?;
            }
            if let Some(swarms) = &self.swarms {
                plain::write_torrents(swarms, written_at, &mut to)?;
            }
            to.finish().map(drop)
        })
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(site) = &self.site {
            let (torrents, peers, users) = (site.torrents.len(), site.peers(), site.users.len());
            write!(f, "{torrents} torrents, {peers} peers, {users} users")?;
        }
        let Some(swarms) = &self.swarms else { return Ok(()) };
        if self.site.is_some() {
            f.write_str(", and swarms: ")?;
        }
        let peers: usize = swarms.iter().map(|torrent| torrent.peers.len()).sum();
        write!(f, "{} torrents, {peers} peers", swarms.len())
    }
}

/// Which kinds of content a cache has.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ContentKinds {
    /// A site.
    pub(super) site: bool,
    /// Swarms.
    pub(super) swarms: bool,
    /// Number of blocks of unknown kinds.
    pub(super) unknown_blocks: u64,
}

impl ContentKinds {
    /// Reads the kinds of a file; none if it cannot be read, for such a cache is of no use.
    pub(super) fn of_file(path: &Path) -> Self {
        Self::read_kinds(path).unwrap_or_default()
    }

    fn read_kinds(path: &Path) -> Result<Self, SnapshotError> {
        let (mut reader, mut kinds) = (SnapshotReader::open(path)?, Self::default());
        while let Some((tag, payload)) = reader.next_block()? {
            match tag {
                // Every block has a base.
                TAG_SWARMS => kinds.swarms |= payload.len() > size_of::<u32>(),
                TAG_SITE_TORRENTS | TAG_SITE_USERS | TAG_SITE_UNPRUNES => kinds.site = true,
                _ => kinds.unknown_blocks += 1,
            }
        }
        Ok(kinds)
    }
}

fn now() -> i64 {
    Clock::start().now().unix_seconds.cast_signed()
}
