//! [`NodeNews`]: what there is to say about the other nodes, once for each change.

use std::collections::BTreeMap;
use std::time::Duration;

use super::events::LinkEvent;
use super::nodes::{HeardNode, NodesHeard};
use crate::cluster::codec::Incarnation;
use crate::cluster::hello::{Hello, KeyTag};

/// Two starts of one id are a restart, unless the older one is heard this long after the younger one's first
/// hello: what a node said before it was killed may arrive a little later.
const RESTART_OVERLAP: Duration = Duration::from_secs(15);
/// Milliseconds that a clock may be off: connection ids of one node must be good at the others.
const CLOCK_OFF_MAX: u64 = 5000;
/// A clock that was off is right again below this, so that one at the limit is no news each time.
const CLOCK_RIGHT_MAX: u64 = 3000;

/// A setting that should be the same here and at another node.
#[derive(Clone, Debug, PartialEq, Eq)]
struct NodeDifference {
    what: &'static str,
    theirs: String,
    ours: String,
}

/// What was said about an id.
#[derive(Debug, Default)]
struct SaidNode {
    version: String,
    differences: Vec<NodeDifference>,
    clock_is_off: bool,
    has_same_id: bool,
}

/// What was said about the nodes that are there, by their ids.
#[derive(Debug, Default)]
pub(super) struct NodeNews(BTreeMap<String, SaidNode>);

fn hexadecimal(tag: &KeyTag) -> String {
    format!("{:016x}", u64::from_be_bytes(*tag))
}

fn differences(theirs: &Hello, ours: &Hello) -> Vec<NodeDifference> {
    let settings = |hello: &Hello| {
        let settings = &hello.settings;
        [
            ("mode", settings.mode.clone()),
            ("peer_inactivity", format!("{} s", settings.peer_inactivity_seconds)),
            ("the age of renewals", format!("{} s", settings.renew_after_seconds)),
            ("keep_peer_ids", settings.keep_peer_ids.to_string()),
        ]
    };
    // A node without UDP has no such key.
    let tags = theirs.udp_key_tag.iter().zip(&ours.udp_key_tag);
    let keys = tags.map(|(theirs, ours)| (("udp.private_key", hexadecimal(theirs)), hexadecimal(ours)));
    let pairs = settings(theirs).into_iter().zip(settings(ours).map(|(_, value)| value)).chain(keys);
    let differ = pairs.filter(|((_, theirs), ours)| theirs != ours);
    differ.map(|((what, theirs), ours)| NodeDifference { what, theirs, ours }).collect()
}

/// Whether two starts of one id, given in their order, are there at the same time.
fn are_two(starts: &[(&Incarnation, &HeardNode)]) -> bool {
    let mut older = None;
    starts.iter().any(|(_, node)| {
        let is_second = older.is_some_and(|last| last >= node.first + RESTART_OVERLAP);
        older = older.max(Some(node.last));
        is_second
    })
}

impl NodeNews {
    /// Returns what has changed since the last call. `ours` is what this node says, and `own` its
    /// incarnation.
    pub(super) fn update(&mut self, nodes: &NodesHeard, own: Incarnation, ours: &Hello) -> Vec<LinkEvent> {
        let mut events = Vec::new();
        let here = nodes.by_id();
        self.0.retain(|id, _| {
            let is_here = here.contains_key(id.as_str());
            if !is_here && *id != ours.node_id {
                let id = id.clone();
                let has_stopped = nodes.has_stopped(&id);
                events.push(if has_stopped { LinkEvent::NodeStopped(id) } else { LinkEvent::NodeSilent(id) });
            }
            is_here
        });
        for (id, starts) in here {
            let said = self.0.entry(id.to_owned()).or_default();
            let has_same_id = are_two(&starts);
            if has_same_id && !said.has_same_id {
                events.push(LinkEvent::SameId(id.to_owned()));
            }
            said.has_same_id = has_same_id;
            if id != ours.node_id {
                // The latest start speaks for the node.
                let Some((_, node)) = starts.last() else { continue };
                said.add_version(id, node, &mut events);
                said.add_differences(id, differences(&node.hello, ours), &mut events);
                said.add_clock(Some(id), node, &mut events);
            } else if let Some((_, node)) = starts.iter().find(|(incarnation, _)| **incarnation == own) {
                said.add_clock(None, node, &mut events);
            }
        }
        events
    }
}

impl SaidNode {
    fn add_version(&mut self, id: &str, node: &HeardNode, events: &mut Vec<LinkEvent>) {
        let version = &node.hello.version;
        if self.version != *version {
            self.version.clone_from(version);
            events.push(LinkEvent::NodeHere { id: id.to_owned(), version: version.clone() });
        }
    }

    fn add_differences(&mut self, id: &str, now: Vec<NodeDifference>, events: &mut Vec<LinkEvent>) {
        for difference in now.iter().filter(|difference| !self.differences.contains(difference)) {
            let NodeDifference { what, theirs, ours } = difference.clone();
            events.push(LinkEvent::NodeDiffers { id: id.to_owned(), what, theirs, ours });
        }
        self.differences = now;
    }

    fn add_clock(&mut self, id: Option<&str>, node: &HeardNode, events: &mut Vec<LinkEvent>) {
        let most = if self.clock_is_off { CLOCK_RIGHT_MAX } else { CLOCK_OFF_MAX };
        let is_off = node.clock_ahead.unsigned_abs() > most;
        if is_off && !self.clock_is_off {
            let seconds = node.clock_ahead / 1000;
            events.push(LinkEvent::ClockOff { id: id.map(str::to_owned), seconds });
        }
        self.clock_is_off = is_off;
    }
}
