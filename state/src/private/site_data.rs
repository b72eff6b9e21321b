//! What the store says about a site, but for its torrents, which the swarms hold. Each set is built apart and
//! swapped whole; a change by a verb copies the part of a set that it is in.

use std::sync::Arc;

use super::approved_clients::Clients;
use super::parts::Parts;
use super::refusal::Denial;
use super::torrent_type::Kind;
use super::users::{Member, Members};
use crate::announce::Refusal;
use crate::ids::InfoHash;
use crate::snapshot::site::Multipliers;

/// All sets as both doors and the tracker see them.
#[derive(Clone, Debug, Default)]
pub struct Register {
    /// Enabled users.
    pub members: Arc<Members>,
    /// Users and torrents that they have not seeded enough.
    pub hit_and_runs: Arc<Parts<(u32, u32)>>,
    /// Multipliers of torrent groups, by type and id.
    pub freeleech: Arc<Parts<(Kind, u32), Multipliers>>,
    /// Nothing that is downloaded is credited.
    pub global_freeleech: bool,
    /// Approved clients.
    pub clients: Arc<Clients>,
    /// Users and torrents whose downloads are not credited, by a token.
    pub tokens: Arc<Parts<(u32, u32)>>,
    /// Why torrents were deleted.
    pub deletions: Arc<Parts<InfoHash, Arc<str>>>,
}

impl Register {
    /// Whose passkey this is.
    #[must_use]
    pub fn member(&self, passkey: &[u8]) -> Option<Member> {
        self.members.find(passkey)
    }

    /// May this user download this torrent?
    #[must_use]
    pub fn may_download(&self, member: &Member, torrent: u32) -> bool {
        !member.disable_download || self.hit_and_runs.contains(&(member.id, torrent))
    }

    /// The denial of a torrent that is not registered.
    pub(super) fn unknown(&self, info_hash: &InfoHash) -> Denial {
        Denial { reason: self.deletions.get(info_hash).cloned(), ..Refusal::UnknownTorrent.into() }
    }
}
