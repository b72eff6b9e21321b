//! What links say about the nodes of their cluster, each line once.

use std::time::Duration;

use hayate_state::cluster::hello::Hello;
use hayate_state::cluster::link::SavedLink;
use hayate_state::cluster::link::events::{LinkEvent, NodeStatus};

use super::links::{LEECHER, Links, SEEDER, key};
use super::simulation::make_link;
use super::toy_codec::toy_hello;

impl Links {
    /// Takes what a node has said about nodes.
    fn news(&mut self, node: usize) -> Vec<LinkEvent> {
        let mut events = self.links[node].take_events();
        events.retain(|event| {
            !matches!(event, LinkEvent::CaughtUp { .. } | LinkEvent::Away(_) | LinkEvent::Back { .. })
        });
        events
    }

    fn change_hello(&self, node: usize, change: impl FnOnce(&mut Hello)) {
        change(&mut self.shared.lock().hellos[node]);
    }

    fn statuses(&self, node: usize) -> Vec<NodeStatus> {
        let uptime = Duration::from_millis(self.shared.lock().now);
        self.links[node].nodes(uptime)
    }

    /// A node is killed and starts again, as another incarnation.
    fn restart(&mut self, node: usize, incarnation: u8) {
        self.links[node] = make_link(&self.shared, node, incarnation, SavedLink::default());
        self.links[node].serve();
    }
}

fn here(node: usize) -> LinkEvent {
    LinkEvent::NodeHere { id: format!("node{node}"), version: "1".to_owned() }
}

fn differs(what: &'static str, theirs: &str, ours: &str) -> LinkEvent {
    let (theirs, ours) = (theirs.to_owned(), ours.to_owned());
    LinkEvent::NodeDiffers { id: "node1".to_owned(), what, theirs, ours }
}

#[test]
fn a_node_is_here_until_it_says_goodbye() {
    let mut links = Links::new(3, 0);
    links.run(3, 30_000);
    assert_eq!(links.news(0), [here(1), here(2)]);
    assert_eq!(links.news(2), [here(0), here(1)]);
    assert_eq!(links.links[0].counts().nodes, 3);
    let statuses = links.statuses(0);
    assert_eq!(statuses.iter().map(|status| &*status.id).collect::<Vec<_>>(), ["node0", "node1", "node2"]);
    assert!(statuses.iter().all(|status| status.heard_ago <= Duration::from_millis(5250)), "{statuses:?}");
    let until = Duration::from_millis(links.shared.lock().now + 5000);
    links.links[2].finish(until);
    links.run(3, 30_000);
    assert_eq!(links.news(0), [LinkEvent::NodeStopped("node2".to_owned())]);
    assert_eq!(links.news(2), []);
    assert_eq!(links.links[0].counts().nodes, 2);
}

#[test]
fn a_node_that_was_not_heard_for_a_minute_is_silent_until_it_is_heard_again() {
    let mut links = Links::new(2, 0);
    links.run(2, 10_000);
    assert_eq!(links.news(0), [here(1)]);
    links.run(1, 58_000);
    assert_eq!(links.news(0), []);
    assert!(links.statuses(0)[1].heard_ago >= Duration::from_secs(58));
    links.run(1, 12_000);
    assert_eq!(links.news(0), [LinkEvent::NodeSilent("node1".to_owned())]);
    links.run(2, 30_000);
    assert_eq!(links.news(0), [here(1)]);
}

#[test]
fn an_outage_of_the_server_makes_nobody_silent() {
    let mut links = Links::new(3, 0);
    links.run(3, 10_000);
    (0..3).for_each(|node| _ = links.news(node));
    let now = links.shared.lock().now;
    links.shared.lock().server.away_until = now + 300_000;
    links.run(3, 400_000);
    for node in 0..3 {
        assert_eq!(links.news(node), [], "node {node}");
        assert_eq!(links.links[node].counts().nodes, 3);
    }
}

#[test]
fn history_does_not_say_that_those_are_here_who_have_long_gone() {
    let mut links = Links::new(4, 1);
    links.run(3, 10_000);
    let until = Duration::from_millis(links.shared.lock().now + 5000);
    links.links[2].finish(until);
    links.run(3, 1000);
    // Node 1 is not heard from now on, and node 2 is back after its goodbye.
    links.links.swap(1, 2);
    links.links[1] = make_link(&links.shared, 2, 20, SavedLink::default());
    links.links[1].serve();
    links.run(2, 62_000);
    links.links[3].serve();
    links.run(4, 0);
    links.turn(3);
    links.turn(3);
    links.turn(3);
    assert!(links.links[3].is_caught_up());
    assert_eq!(links.news(3), [here(0), here(2)]);
}

#[test]
fn nothing_is_said_before_all_history_is_read() {
    let mut links = Links::new(3, 1);
    links.run(2, 10_000);
    // More entries than one exchange reads.
    for role in [LEECHER, SEEDER] {
        (0..200).for_each(|peer| links.announce(0, key(peer), role, false));
        links.run(2, 4000);
    }
    assert!(links.shared.lock().server.entries.len() > 80);
    let until = Duration::from_millis(links.shared.lock().now + 5000);
    links.links[1].finish(until);
    links.run(2, 1000);
    (0..4).for_each(|_| _ = links.turn(2));
    assert!(links.links[2].is_caught_up());
    assert_eq!(links.news(2), [here(0)]);
}

#[test]
fn a_goodbye_that_is_followed_by_a_start_in_history_is_no_news() {
    let mut links = Links::new(3, 1);
    links.run(2, 10_000);
    let until = Duration::from_millis(links.shared.lock().now + 5000);
    links.links[1].finish(until);
    links.run(2, 1000);
    links.restart(1, 20);
    links.run(2, 3000);
    assert_eq!(links.news(0), [here(1), LinkEvent::NodeStopped("node1".to_owned()), here(1)]);
    (0..3).for_each(|_| _ = links.turn(2));
    assert!(links.links[2].is_caught_up());
    assert_eq!(links.news(2), [here(0), here(1)]);
}

#[test]
fn a_node_with_another_setting_differs_once_for_each_value() {
    let mut links = Links::new(2, 0);
    links.change_hello(0, |hello| hello.udp_key_tag = Some(*b"\0key of0"));
    links.run(2, 10_000);
    assert_eq!(links.news(0), [here(1)], "a node without UDP has no key");
    links.change_hello(1, |hello| {
        hello.settings.mode = "listed".to_owned();
        hello.settings.peer_inactivity_seconds = 3600;
        hello.settings.renew_after_seconds = 7;
        hello.settings.keep_peer_ids = false;
        hello.udp_key_tag = Some([0xab; 8]);
        // What may differ.
        hello.store = "sqlite".to_owned();
        hello.uptime_seconds = 77;
    });
    links.run(2, 30_000);
    let expected = [
        differs("mode", "listed", "open"),
        differs("peer_inactivity", "3600 s", "3000 s"),
        differs("the age of renewals", "7 s", "0 s"),
        differs("keep_peer_ids", "false", "true"),
        differs("udp.private_key", "abababababababab", "006b6579206f6630"),
    ];
    assert_eq!(links.news(0), expected);
    links.change_hello(1, |hello| {
        hello.settings.peer_inactivity_seconds = 4000;
        hello.settings.mode = "open".to_owned();
    });
    links.run(2, 30_000);
    assert_eq!(links.news(0), [differs("peer_inactivity", "4000 s", "3000 s")]);
    links.change_hello(1, |hello| hello.settings.mode = "listed".to_owned());
    links.run(2, 30_000);
    assert_eq!(links.news(0), [differs("mode", "listed", "open")], "it was the same meanwhile");
}

#[test]
fn a_restart_is_no_second_node_and_says_its_version_if_that_is_new() {
    let mut links = Links::new(2, 0);
    links.run(2, 20_000);
    assert_eq!(links.news(0), [here(1)]);
    links.restart(1, 20);
    links.run(2, 90_000);
    assert_eq!(links.news(0), [], "the older start becomes silent, and the node does not");
    assert_eq!(links.news(1), [here(0)], "its own older start is no other node");
    // The latest start speaks for a node, also while the one before it is not silent yet.
    links.change_hello(1, |hello| hello.version = "2".to_owned());
    links.restart(1, 10);
    links.run(2, 10_000);
    assert_eq!(links.news(0), [LinkEvent::NodeHere { id: "node1".to_owned(), version: "2".to_owned() }]);
    links.run(2, 90_000);
    assert_eq!(links.news(0), []);
}

#[test]
fn two_nodes_with_one_id_are_told_from_a_restart() {
    let mut links = Links::new(3, 1);
    links.run(2, 20_000);
    assert_eq!(links.news(0), [here(1)]);
    // The third node calls itself as the second does.
    links.change_hello(2, |hello| hello.node_id = "node1".to_owned());
    links.links[2].serve();
    links.run(3, 14_000);
    assert_eq!(links.news(0), [], "it may be a restart");
    links.run(3, 90_000);
    let same = LinkEvent::SameId("node1".to_owned());
    assert_eq!(links.news(0), std::slice::from_ref(&same));
    assert!(links.news(1).contains(&same), "the one that has the id says it, too");
    assert_eq!(links.links[0].counts().nodes, 2);
    // It is gone, and comes back.
    links.run(2, 90_000);
    assert_eq!(links.news(0), []);
    links.run(3, 30_000);
    assert_eq!(links.news(0), [same]);
}

#[test]
fn a_clock_that_is_off_is_said_once_here_and_elsewhere() {
    let mut links = Links::new(2, 0);
    links.shared.lock().clocks_ahead = vec![5, -4];
    links.run(2, 20_000);
    assert_eq!((links.news(0), links.news(1)), (vec![here(1)], vec![here(0)]), "within five seconds");
    links.shared.lock().clocks_ahead[1] = -7;
    links.run(2, 20_000);
    assert_eq!(links.news(0), [LinkEvent::ClockOff { id: Some("node1".to_owned()), seconds: -7 }]);
    assert_eq!(links.news(1), [LinkEvent::ClockOff { id: None, seconds: -7 }]);
    // It is not right yet.
    for ahead in [-4, -9] {
        links.shared.lock().clocks_ahead[1] = ahead;
        links.run(2, 20_000);
        assert_eq!((links.news(0), links.news(1)), (vec![], vec![]));
    }
    for (ahead, seconds) in [(0, None), (-8, Some(-8))] {
        links.shared.lock().clocks_ahead[1] = ahead;
        links.run(2, 20_000);
        let id = Some("node1".to_owned());
        let off = seconds.map(|seconds| LinkEvent::ClockOff { id, seconds });
        assert_eq!(links.news(0), Vec::from_iter(off));
    }
}

#[test]
fn what_all_nodes_read_may_be_written() {
    let mut links = Links::new(3, 0);
    links.run(3, 10_000);
    assert_eq!(links.links[0].newest_common_format(), 1);
    (0..3).for_each(|node| links.change_hello(node, |hello| hello.newest_format = 2));
    links.change_hello(1, |hello| *hello = toy_hello(1));
    links.run(3, 10_000);
    assert_eq!(links.links[0].newest_common_format(), 1);
    links.change_hello(1, |hello| hello.newest_format = 3);
    links.run(3, 10_000);
    assert_eq!(links.links[0].newest_common_format(), 2);
}
