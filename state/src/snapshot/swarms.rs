//! The swarms in a snapshot: blocks with the tag [`TAG_SWARMS`], each of some torrents.
//!
//! ```text
//! block    u32 base, seconds from the head's "written at" to the time at which the ages hold
//!          torrents, up to the end of the block
//! torrent  20 octets info_hash
//!          u8 flags: 1 IPv4 seeders, 2 IPv4 leechers, 4 IPv6 seeders, 8 IPv6 leechers,
//!                    16 with peer ids, 32 with a completed count
//!          number completed, if flag 32
//!          number peers, for each of the flags 1, 2, 4, 8 that is set
//!          peers, for each of the flags 1, 2, 4, 8 that is set
//! peers    their octets as they go on the wire: 6 or 18 each
//!          their ages in seconds, u16 each; the highest bit: partial seed (BEP 21), leechers only
//!          their peer ids, 20 octets each, if flag 16
//! number   above 0, below 2^32; seven bits an octet, the lowest first; the highest bit: more follows
//! ```
//! All other numbers are little-endian. A torrent may come several times, each time with other peers; a peer
//! may come twice, and then the first counts. A torrent without peers has a completed count.

use crate::clock::Tick;
use crate::snapshot::container::BlockSink;
use crate::snapshot::entry::BLOCK_OCTETS;
pub use crate::snapshot::entry::TAG_SWARMS;
pub use crate::snapshot::restore::{CompletedFrom, Restore, Summary, check_swarms, restore_all};
pub use crate::snapshot::walk::Walk;

/// Writes the rest of a walk. `now` is called before each slice, and `pause` after each: there the thread may
/// sleep, or abandon the walk.
///
/// # Errors
/// Fails when `to` or `pause` does.
pub fn write_swarms(
    walk: &mut Walk,
    to: &mut dyn BlockSink,
    mut now: impl FnMut() -> Tick,
    mut pause: impl FnMut() -> std::io::Result<()>,
) -> std::io::Result<()> {
    let mut payload = Vec::with_capacity(2 * BLOCK_OCTETS);
    loop {
        let more = walk.copy_slice(now(), &mut payload);
        if payload.len() >= BLOCK_OCTETS || !more {
            to.write_block(TAG_SWARMS, &payload)?;
            payload.clear();
        }
        if !more {
            return Ok(());
        }
        pause()?;
    }
}
