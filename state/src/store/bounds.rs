//! How many rows each queue may hold.

use super::record::Channel;

/// Bounds of the queues, in rows (`channels.*`).
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The bound of [`Channel::Torrents`].
    pub torrents: usize,
    /// The bound of [`Channel::Users`].
    pub users: usize,
    /// The bound of [`Channel::TransferHistory`].
    pub transfer_history: usize,
    /// The bound of [`Channel::TransferIps`].
    pub transfer_ips: usize,
    /// The bound of [`Channel::Snatches`].
    pub snatches: usize,
    /// The bound of [`Channel::Completed`].
    pub completed: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            torrents: 5000,
            users: 5000,
            transfer_history: 5000,
            transfer_ips: 5000,
            snatches: 25,
            completed: 5000,
        }
    }
}

impl Bounds {
    pub(super) fn rows_max(&self, channel: Channel) -> usize {
        match channel {
            Channel::Torrents => self.torrents,
            Channel::Users => self.users,
            Channel::TransferHistory => self.transfer_history,
            Channel::TransferIps => self.transfer_ips,
            Channel::Snatches => self.snatches,
            Channel::Completed => self.completed,
        }
    }
}
