//! The settings that change while the daemon runs.

use std::sync::Arc;

use hayate_gateway::config::HttpConfig;
use hayate_state::admission::access::TorrentList;
use hayate_state::{Policy, Published};
use hayate_udp::config::UdpConfig;

use crate::config::Settings;

/// The settings that the rooms look at, and what it takes to change them.
#[derive(Debug)]
pub(crate) struct LiveSettings {
    /// Decisions about announces.
    pub(crate) policy: Arc<Published<Policy>>,
    /// The UDP door, if it is on.
    pub(crate) udp: Option<Arc<Published<UdpConfig>>>,
    /// The gateway.
    pub(crate) http: Arc<Published<HttpConfig>>,
}

impl LiveSettings {
    /// The first settings.
    pub(crate) fn new(policy: Policy, udp: Option<UdpConfig>, http: HttpConfig) -> Self {
        Self { policy: Published::new(policy), udp: udp.map(Published::new), http: Published::new(http) }
    }

    /// The registered torrents of the store are these from now on.
    pub(crate) fn set_registered(&self, list: Arc<TorrentList>) {
        self.policy.change(|policy| Policy { registered: Some(list), ..policy.clone() });
    }

    /// Changes everything that `settings` changes. Ids made with an old key stay good until they expire.
    pub(crate) fn apply(&mut self, settings: Settings) {
        let old = self.policy.current();
        let mut policy = Policy { registered: old.registered.clone(), ..settings.policy };
        if let (Some(old), Some(new)) = (&old.rate_limit, &mut policy.rate_limit)
            && old.limiter.limit() == new.limiter.limit()
        {
            // It knows who has asked how often.
            new.limiter = Arc::clone(&old.limiter);
        }
        if let (Some(old), Some(new)) = (&old.client_stats, &mut policy.client_stats) {
            *new = Arc::clone(old);
        }
        self.policy.publish(policy);
        self.http.publish(settings.http);
        match (&self.udp, settings.udp) {
            (Some(udp), Some((_, door))) => udp.publish(door),
            (None, Some((_, door))) => self.udp = Some(Published::new(door)),
            (_, None) => {}
        }
    }
}
