//! Counts of peers by family and role, and the counts of one torrent as reports show them.

use crate::ids::InfoHash;

/// The numbers of peers of each family and role, in a swarm, a shard, or all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerCounts {
    /// IPv4 peers with `left` = 0.
    pub v4_seeders: u32,
    /// All other IPv4 peers.
    pub v4_leechers: u32,
    /// IPv6 peers with `left` = 0.
    pub v6_seeders: u32,
    /// All other IPv6 peers.
    pub v6_leechers: u32,
}

impl PeerCounts {
    /// Returns the number of peers of both families and roles.
    #[must_use]
    pub fn total(self) -> u32 {
        self.v4_seeders + self.v4_leechers + self.v6_seeders + self.v6_leechers
    }

    /// Replaces the part of the counts that one swarm contributes: `before` by `after`.
    pub(crate) fn replace(&mut self, before: Self, after: Self) {
        self.v4_seeders = self.v4_seeders + after.v4_seeders - before.v4_seeders;
        self.v4_leechers = self.v4_leechers + after.v4_leechers - before.v4_leechers;
        self.v6_seeders = self.v6_seeders + after.v6_seeders - before.v6_seeders;
        self.v6_leechers = self.v6_leechers + after.v6_leechers - before.v6_leechers;
    }
}

/// The counts of one torrent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReportRow {
    /// The torrent.
    pub info_hash: InfoHash,
    /// Its peers. In mode private a peer that is reached over both families counts in both.
    pub peers: PeerCounts,
    /// Finished downloads.
    pub completed: u32,
}

impl ReportRow {
    /// Whether any count is above zero.
    pub(crate) fn has_counts(&self) -> bool {
        self.peers.total() > 0 || self.completed > 0
    }
}
