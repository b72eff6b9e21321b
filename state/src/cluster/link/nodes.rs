//! [`NodesHeard`]: the nodes that said hello lately, and which of them are there.
//!
//! Times are uptimes of this process. A hello has the time when it was sealed, not the one when it was read:
//! several are read at once after an outage.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::HELLO_PERIOD;
use super::events::NodeStatus;
use crate::cluster::codec::Incarnation;
use crate::cluster::hello::Hello;

/// A node that was not heard for longer is not there, and a hello that is older says nothing about who is.
const SILENT_AFTER: Duration = Duration::from_secs(60);
/// Incarnations that are remembered; the one that was not heard for longest makes room. Only nodes with the
/// secret get here.
const INCARNATIONS_MAX: usize = 1024;

/// One start of a node, by its last hello.
#[derive(Debug)]
pub(super) struct HeardNode {
    pub(super) hello: Hello,
    /// When its first hello was sealed.
    pub(super) first: Duration,
    /// When its last hello was sealed.
    pub(super) last: Duration,
    /// Milliseconds that its own clock is ahead of the server's.
    pub(super) clock_ahead: i64,
    /// [`NodesHeard::listened`] when its last hello was read.
    heard_at: Duration,
}

/// The nodes that said hello lately.
#[derive(Debug, Default)]
pub(super) struct NodesHeard {
    /// Also those that have stopped, until no hello that they said before can arrive.
    heard: BTreeMap<Incarnation, HeardNode>,
    /// How long other nodes could have been heard: time that passes while own hellos are read back. In an
    /// outage of the server nobody is heard, and nobody has become silent.
    listened: Duration,
    /// When the last own hello was read back.
    listened_at: Option<Duration>,
    has_changed: bool,
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

impl NodesHeard {
    /// Notes a hello. `sealed_at` and `server_time`, that of the exchange that has read it, are times of the
    /// server's clock.
    pub(super) fn hear(
        &mut self,
        uptime: Duration,
        incarnation: Incarnation,
        hello: Hello,
        sealed_at: Duration,
        server_time: Duration,
    ) {
        let age = server_time.saturating_sub(sealed_at);
        let before = self.heard.get(&incarnation);
        // What comes after its goodbye was sealed before it.
        if age > SILENT_AFTER || before.is_some_and(|node| node.hello.leaving) {
            return;
        }
        let last = uptime.saturating_sub(age);
        let first = before.map_or(last, |node| node.first);
        if before.is_none()
            && self.heard.len() >= INCARNATIONS_MAX
            && let Some(oldest) =
                self.heard.iter().min_by_key(|(_, node)| node.last).map(|(oldest, _)| *oldest)
        {
            self.heard.remove(&oldest);
        }
        let unix = milliseconds(Duration::from_secs(hello.unix_seconds));
        let clock_ahead = unix.saturating_sub(milliseconds(sealed_at));
        let node = HeardNode { hello, first, last, clock_ahead, heard_at: self.listened };
        self.heard.insert(incarnation, node);
        self.has_changed = true;
    }

    /// Notes that an own hello was read back, and forgets those who are silent.
    pub(super) fn listen(&mut self, uptime: Duration) {
        let since = self.listened_at.map_or(Duration::ZERO, |before| uptime.saturating_sub(before));
        self.listened_at = Some(uptime);
        // A longer time was an outage, but for this much.
        self.listened += since.min(HELLO_PERIOD);
        let listened = self.listened;
        self.heard.retain(|_, node| {
            let silent_for = if node.hello.leaving {
                uptime.saturating_sub(node.last)
            } else {
                listened.saturating_sub(node.heard_at)
            };
            silent_for <= SILENT_AFTER
        });
        self.has_changed = true;
    }

    /// Whether anything was heard, or somebody has become silent, since the last call.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.has_changed)
    }

    fn here(&self) -> impl Iterator<Item = (&Incarnation, &HeardNode)> {
        self.heard.iter().filter(|(_, node)| !node.hello.leaving)
    }

    /// Returns the nodes that are there by their ids, each with its incarnations from the first to the last.
    pub(super) fn by_id(&self) -> BTreeMap<&str, Vec<(&Incarnation, &HeardNode)>> {
        let mut ids: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for (incarnation, node) in self.here() {
            ids.entry(&node.hello.node_id).or_default().push((incarnation, node));
        }
        ids.values_mut().for_each(|starts| starts.sort_by_key(|(_, node)| node.first));
        ids
    }

    /// Whether a node with this id has said goodbye a moment ago.
    pub(super) fn has_stopped(&self, node_id: &str) -> bool {
        self.heard.values().any(|node| node.hello.leaving && node.hello.node_id == node_id)
    }

    /// Returns the place of a node among those that were heard lately, and their number. Here an outage
    /// counts as silence: each node is heard in time after it, and the share of one that is not would be
    /// nobody's.
    pub(super) fn share(&self, uptime: Duration, node_id: &str) -> (usize, usize) {
        let is_recent = |node: &HeardNode| uptime.saturating_sub(node.last) <= SILENT_AFTER;
        let recent = self.here().filter(|(_, node)| is_recent(node));
        let mut ids: BTreeSet<&str> = recent.map(|(_, node)| node.hello.node_id.as_str()).collect();
        ids.insert(node_id);
        (ids.range(..node_id).count(), ids.len())
    }

    /// Returns the newest format that all nodes read that are there; `None` while nobody is.
    pub(super) fn newest_format(&self) -> Option<u8> {
        self.here().map(|(_, node)| node.hello.newest_format).min()
    }

    /// Returns the nodes that are there, in the order of their ids.
    pub(super) fn statuses(&self, uptime: Duration) -> Vec<NodeStatus> {
        let mut statuses = Vec::new();
        for (id, starts) in self.by_id() {
            let Some((_, latest)) = starts.last() else { continue };
            let last = starts.iter().map(|(_, node)| node.last).max().unwrap_or_default();
            statuses.push(NodeStatus {
                id: id.to_owned(),
                version: latest.hello.version.clone(),
                heard_ago: uptime.saturating_sub(last),
            });
        }
        statuses
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::hello::tests::hello;

    const SERVER: Duration = Duration::from_secs(1_796_045_633);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A node that was heard at an uptime in seconds.
    fn hear(nodes: &mut NodesHeard, at: u64, incarnation: u16, id: &str) {
        hear_old(nodes, at, 0, incarnation, hello(id));
    }

    fn hear_old(nodes: &mut NodesHeard, at: u64, age: u64, incarnation: u16, hello: Hello) {
        let server_time = SERVER + seconds(at);
        let mut name = Incarnation::default();
        name[..2].copy_from_slice(&incarnation.to_be_bytes());
        nodes.hear(seconds(at), name, hello, server_time - seconds(age), server_time);
    }

    fn ids(nodes: &NodesHeard) -> Vec<&str> {
        nodes.by_id().into_keys().collect()
    }

    #[test]
    fn a_hello_that_was_said_more_than_a_minute_ago_is_ignored() {
        let mut nodes = NodesHeard::default();
        hear_old(&mut nodes, 500, 61, 1, hello("a"));
        hear_old(&mut nodes, 500, 60, 2, hello("b"));
        assert_eq!(ids(&nodes), ["b"]);
        let status = NodeStatus { id: "b".to_owned(), version: "0.1.0".to_owned(), heard_ago: seconds(67) };
        assert_eq!(nodes.statuses(seconds(507)), [status]);
    }

    #[test]
    fn a_node_is_silent_after_a_minute_in_which_own_hellos_are_read_back() {
        let mut nodes = NodesHeard::default();
        hear(&mut nodes, 100, 1, "a");
        nodes.listen(seconds(100));
        // The server is away: only one period of it counts.
        nodes.listen(seconds(900));
        for at in 1..=11 {
            nodes.listen(seconds(900 + 5 * at));
        }
        assert_eq!(ids(&nodes), ["a"]);
        nodes.listen(seconds(960));
        assert!(ids(&nodes).is_empty());
        hear(&mut nodes, 961, 1, "a");
        assert_eq!(ids(&nodes), ["a"], "it is heard again");
    }

    #[test]
    fn what_arrives_after_a_goodbye_is_ignored() {
        let mut nodes = NodesHeard::default();
        hear(&mut nodes, 100, 1, "a");
        hear_old(&mut nodes, 101, 0, 1, Hello { leaving: true, ..hello("a") });
        assert!(ids(&nodes).is_empty() && nodes.has_stopped("a"));
        hear_old(&mut nodes, 102, 3, 1, hello("a"));
        assert!(ids(&nodes).is_empty());
        hear(&mut nodes, 103, 2, "a");
        assert_eq!(ids(&nodes), ["a"], "it has started again");
        (20..=33).for_each(|at| nodes.listen(seconds(5 * at)));
        assert!(!nodes.has_stopped("a"), "it is forgotten");
    }

    #[test]
    fn each_node_has_one_place_whatever_its_starts() {
        let mut nodes = NodesHeard::default();
        assert_eq!(nodes.share(seconds(100), "b"), (0, 1), "oneself, though not read back");
        for (incarnation, id) in [(1, "c"), (2, "a"), (3, "c"), (4, "b")] {
            hear(&mut nodes, 100, incarnation, id);
        }
        let places = |nodes: &NodesHeard, at| ["a", "b", "c"].map(|id| nodes.share(seconds(at), id));
        assert_eq!(places(&nodes, 160), [(0, 3), (1, 3), (2, 3)]);
        hear(&mut nodes, 161, 4, "b");
        assert_eq!(nodes.share(seconds(161), "b"), (0, 1), "the others were not heard for a minute");
    }

    #[test]
    fn what_all_nodes_read_may_be_written() {
        let mut nodes = NodesHeard::default();
        assert_eq!(nodes.newest_format(), None);
        hear_old(&mut nodes, 100, 0, 1, Hello { newest_format: 3, ..hello("a") });
        hear_old(&mut nodes, 100, 0, 2, Hello { newest_format: 2, ..hello("b") });
        assert_eq!(nodes.newest_format(), Some(2));
        hear_old(&mut nodes, 101, 0, 2, Hello { leaving: true, newest_format: 2, ..hello("b") });
        assert_eq!(nodes.newest_format(), Some(3));
    }

    #[test]
    fn of_too_many_starts_the_one_that_was_not_heard_for_longest_is_forgotten() {
        let mut nodes = NodesHeard::default();
        let count = u16::try_from(INCARNATIONS_MAX).unwrap();
        (0..count).for_each(|incarnation| hear(&mut nodes, 100, incarnation, &format!("n{incarnation}")));
        hear(&mut nodes, 101, 0, "n0");
        hear(&mut nodes, 102, count, "new");
        assert_eq!(nodes.heard.len(), INCARNATIONS_MAX);
        let ids = nodes.by_id();
        assert!(ids.contains_key("new") && ids.contains_key("n0") && !ids.contains_key("n1"));
    }
}
