//! [`NodesHeard`]: the nodes that said hello lately, for the share of each.

use std::collections::BTreeMap;
use std::time::Duration;

/// A node that was not heard for so long is not there.
const SILENT_AFTER: Duration = Duration::from_secs(60);
/// Nodes that are remembered. Only nodes with the secret get here.
const NODES_MAX: usize = 1024;

/// When each node was heard last.
#[derive(Debug, Default)]
pub(super) struct NodesHeard(BTreeMap<String, Duration>);

impl NodesHeard {
    pub(super) fn hear(&mut self, uptime: Duration, node_id: &str, leaving: bool) {
        if leaving {
            self.0.remove(node_id);
        } else if self.0.len() < NODES_MAX || self.0.contains_key(node_id) {
            self.0.insert(node_id.to_owned(), uptime);
        }
    }

    /// Returns the place of a node among those that are there, and their number.
    pub(super) fn share(&mut self, uptime: Duration, node_id: &str) -> (usize, usize) {
        self.0.retain(|_, heard| uptime.saturating_sub(*heard) < SILENT_AFTER);
        self.0.insert(node_id.to_owned(), uptime);
        let place = self.0.keys().position(|other| other == node_id).unwrap_or_default();
        (place, self.0.len())
    }
}
