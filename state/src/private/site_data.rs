//! What the store says about a site, but for its torrents, which the swarms hold. Each set is built apart and
//! swapped whole; a change by a command copies the part of a set that it is in.

use std::sync::Arc;

use super::approved_clients::ApprovedClients;
use super::cow_map::CowMap;
use super::refusal::Refused;
use super::torrent_type::TorrentType;
use super::users::{User, Users};
use crate::announce::Refusal;
use crate::ids::InfoHash;
use crate::snapshot::site::Multipliers;

/// All sets as both servers and the tracker see them.
#[derive(Clone, Debug, Default)]
pub struct SiteData {
    /// Enabled users.
    pub users: Arc<Users>,
    /// Users and torrents that they have not seeded enough.
    pub hit_and_runs: Arc<CowMap<(u32, u32)>>,
    /// Multipliers of torrent groups, by type and id.
    pub freeleech: Arc<CowMap<(TorrentType, u32), Multipliers>>,
    /// Nothing that is downloaded is credited.
    pub global_freeleech: bool,
    /// Approved clients.
    pub clients: Arc<ApprovedClients>,
    /// Users and torrents whose downloads are not credited, by a token.
    pub tokens: Arc<CowMap<(u32, u32)>>,
    /// Why torrents were deleted.
    pub deletions: Arc<CowMap<InfoHash, Arc<str>>>,
}

impl SiteData {
    /// Whose passkey this is.
    #[must_use]
    pub fn find_user(&self, passkey: &[u8]) -> Option<User> {
        self.users.find(passkey)
    }

    /// May this user download this torrent?
    #[must_use]
    pub fn may_download(&self, user: &User, torrent: u32) -> bool {
        !user.disable_download || self.hit_and_runs.contains(&(user.id, torrent))
    }

    /// The refusal of a torrent that is not registered.
    pub(super) fn unknown_torrent(&self, info_hash: &InfoHash) -> Refused {
        Refused { reason: self.deletions.get(info_hash).cloned(), ..Refusal::UnknownTorrent.into() }
    }
}
