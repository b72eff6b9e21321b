//! What the store says about a site, except for its torrents, which are kept with their peers. Each set is
//! built apart and swapped as a whole; a change by a command copies the affected part of a set.

use std::sync::Arc;

use super::approved_clients::ApprovedClients;
use super::cow_map::CowMap;
use super::refusal::Refused;
use super::torrent_type::TorrentType;
use super::users::{User, Users};
use crate::announce::Refusal;
use crate::ids::InfoHash;
use crate::snapshot::site::Multipliers;

/// All sets of the site, as both servers and the tracker see them.
#[derive(Clone, Debug, Default)]
pub struct SiteData {
    /// Enabled users.
    pub users: Arc<Users>,
    /// Pairs of a user and a torrent that the user has not seeded enough.
    pub hit_and_runs: Arc<CowMap<(u32, u32)>>,
    /// Multipliers of torrent groups, by type and id.
    pub group_multipliers: Arc<CowMap<(TorrentType, u32), Multipliers>>,
    /// Whether no download of the site is credited (global freeleech).
    pub global_freeleech: bool,
    /// Approved clients.
    pub clients: Arc<ApprovedClients>,
    /// Pairs of a user and a torrent whose download is not credited, because of a token.
    pub tokens: Arc<CowMap<(u32, u32)>>,
    /// Why torrents were deleted, by info_hash.
    pub deletions: Arc<CowMap<InfoHash, Arc<str>>>,
}

impl SiteData {
    /// Returns the user with this passkey.
    #[must_use]
    pub fn find_user(&self, passkey: &[u8]) -> Option<User> {
        self.users.find(passkey)
    }

    /// Whether this user may download this torrent.
    #[must_use]
    pub fn may_download(&self, user: &User, torrent: u32) -> bool {
        !user.disable_download || self.hit_and_runs.contains(&(user.id, torrent))
    }

    /// Returns the refusal for a torrent that is not registered.
    pub(super) fn unknown_torrent(&self, info_hash: &InfoHash) -> Refused {
        Refused { reason: self.deletions.get(info_hash).cloned(), ..Refusal::UnknownTorrent.into() }
    }
}
