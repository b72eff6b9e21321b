//! [`ClusterLog`]: what the links have to say, as log lines: each change of state once for all of them.

use std::collections::BTreeMap;
use std::mem;
use std::time::Duration;

use log::Level;

use crate::cluster::bus::BusError;
use crate::cluster::link::events::{LinkCounts, LinkEvent};

/// A trouble that goes on is said again after so long.
const AGAIN_AFTER: Duration = Duration::from_secs(600);
/// What several links say within so long is one event.
const TOGETHER: Duration = Duration::from_secs(60);

/// Log lines about all links of a node.
#[derive(Debug, Default)]
pub(super) struct ClusterLog {
    streams: usize,
    /// Links that cannot use the server.
    away: BTreeMap<usize, BusError>,
    said_away: Option<mem::Discriminant<BusError>>,
    away_longest: Duration,
    republished: u64,
    /// Links that have not caught up yet, as far as this node writes to their streams.
    catching_up: usize,
    entries: u64,
    caught_up_longest: Duration,
    said_gap: Option<Duration>,
    said_flush: Option<Duration>,
    said_lost: Option<Duration>,
    said_sealed: Option<Duration>,
    said_retention: Option<Duration>,
    streams_seen: usize,
    /// What was said last about each node.
    nodes: BTreeMap<String, NodeSaid>,
    /// Entries that did not open, by stream.
    refused_sealed: BTreeMap<usize, u64>,
}

type Line = (Level, String);

/// What was said about a node.
#[derive(Debug, Default)]
struct NodeSaid {
    presence: Option<String>,
    /// Values that differ from this node's, by what they are.
    differences: BTreeMap<&'static str, String>,
    same_id: Option<Duration>,
    clock: Option<Duration>,
}

impl ClusterLog {
    /// Makes the log of a node that writes to so many streams.
    pub(super) fn new(streams: usize) -> Self {
        Self { streams, catching_up: streams, ..Self::default() }
    }

    /// Logs what an event means, if it is new.
    pub(super) fn take_event(&mut self, uptime: Duration, stream: usize, event: &LinkEvent) {
        if let Some((level, line)) = self.line(uptime, stream, event) {
            log::log!(level, "cluster: {line}");
        }
    }

    /// Logs what counts mean, if it is new.
    pub(super) fn take_counts(&mut self, uptime: Duration, key: &str, stream: usize, counts: &LinkCounts) {
        if let Some((level, line)) = self.counts_line(uptime, key, stream, counts) {
            log::log!(level, "cluster: {line}");
        }
    }

    fn line(&mut self, uptime: Duration, stream: usize, event: &LinkEvent) -> Option<Line> {
        match event {
            LinkEvent::Away(error) => {
                self.away.insert(stream, error.clone());
                let kind = mem::discriminant(error);
                let is_new = self.said_away.replace(kind) != Some(kind);
                let level = if matches!(error, BusError::Away(_) | BusError::OutOfMemory(_)) {
                    Level::Warn
                } else {
                    Level::Error
                };
                is_new.then(|| (level, format!("Redis is away: {error}; this node serves alone")))
            }
            LinkEvent::Back { after, republished } => {
                self.away.remove(&stream);
                self.away_longest = self.away_longest.max(*after);
                self.republished += republished;
                if !self.away.is_empty() {
                    return None;
                }
                self.said_away = None;
                let after = mem::take(&mut self.away_longest).as_secs_f64();
                let republished = mem::take(&mut self.republished);
                let line =
                    format!("Redis is back after {after:.1} s; {republished} peers are published again");
                Some((Level::Info, line))
            }
            LinkEvent::CaughtUp { entries, after } => {
                self.entries += entries;
                self.caught_up_longest = self.caught_up_longest.max(*after);
                if stream >= self.streams {
                    return None;
                }
                self.catching_up = self.catching_up.saturating_sub(1);
                let (entries, after) = (self.entries, self.caught_up_longest.as_secs_f64());
                let line = || (Level::Info, format!("caught up, {entries} entries in {after:.1} s"));
                (self.catching_up == 0).then(line)
            }
            LinkEvent::HistoryGap => is_due(&mut self.said_gap, uptime, TOGETHER).then(|| {
                let line = "entries were dropped before they were read here; peers of other nodes may be \
                            missing \
                            until they announce again";
                (Level::Warn, line.to_owned())
            }),
            LinkEvent::Flushed => is_due(&mut self.said_flush, uptime, TOGETHER).then(|| {
                let line = "Redis has lost its streams; each node publishes a share of the peers again";
                (Level::Warn, line.to_owned())
            }),
            LinkEvent::EntriesLost { entries } => is_due(&mut self.said_lost, uptime, TOGETHER).then(|| {
                let line = format!("Redis has lost {entries} entries; their peers are published again");
                (Level::Info, line)
            }),
            LinkEvent::RetentionShortened(retention) => is_due(&mut self.said_retention, uptime, TOGETHER)
                .then(|| {
                    let seconds = retention.as_secs();
                    let line = format!("the memory of Redis is full: it keeps {seconds} s of history now");
                    (Level::Warn, line)
                }),
            LinkEvent::MoreStreams(streams) => {
                let is_new = *streams > self.streams_seen;
                self.streams_seen = self.streams_seen.max(*streams);
                let line =
                    || (Level::Info, format!("another node writes to {streams} streams; all are read"));
                is_new.then(line)
            }
            about_node => self.node_line(uptime, about_node),
        }
    }

    fn said(&mut self, id: &str) -> &mut NodeSaid {
        self.nodes.entry(id.to_owned()).or_default()
    }

    /// What is said of a node on one stream is said on all others, too.
    fn node_line(&mut self, uptime: Duration, event: &LinkEvent) -> Option<Line> {
        let presence = |said: &mut NodeSaid, level, text: String| {
            let is_new = said.presence.replace(text.clone()).as_ref() != Some(&text);
            is_new.then_some((level, text))
        };
        match event {
            LinkEvent::NodeHere { id, version } => {
                presence(self.said(id), Level::Info, format!("node {id} is here ({version})"))
            }
            LinkEvent::NodeStopped(id) => {
                presence(self.said(id), Level::Info, format!("node {id} has stopped"))
            }
            LinkEvent::NodeSilent(id) => presence(self.said(id), Level::Warn, format!("node {id} is silent")),
            LinkEvent::NodeDiffers { id, what, theirs, ours } => {
                let text = format!("node {id} differs: {what} is {theirs} there and {ours} here");
                let before = self.said(id).differences.insert(what, text.clone());
                (before.as_ref() != Some(&text)).then_some((Level::Warn, text))
            }
            LinkEvent::SameId(id) => is_due(&mut self.said(id).same_id, uptime, AGAIN_AFTER)
                .then(|| (Level::Warn, format!("two nodes call themselves {id}"))),
            LinkEvent::ClockOff { id, seconds } => {
                let whose = id.as_ref().map_or_else(|| "this node".into(), |id| format!("node {id}"));
                let said = self.said(id.as_deref().unwrap_or_default());
                if !is_due(&mut said.clock, uptime, AGAIN_AFTER) {
                    return None;
                }
                let text = format!(
                    "the clock of {whose} is {seconds} s ahead of that of Redis: connection ids may not be \
                     valid on all nodes"
                );
                Some((Level::Warn, text))
            }
            _ => None,
        }
    }

    fn counts_line(
        &mut self,
        uptime: Duration,
        key: &str,
        stream: usize,
        counts: &LinkCounts,
    ) -> Option<Line> {
        let known = self.refused_sealed.entry(stream).or_default();
        if counts.refused_sealed <= mem::replace(known, counts.refused_sealed) {
            return None;
        }
        is_due(&mut self.said_sealed, uptime, AGAIN_AFTER).then(|| {
            let line = format!("entries that cannot be opened in {key}: another secret, or another program");
            (Level::Warn, line)
        })
    }
}

/// Whether a line that was said last at `said` is due again; notes that it is said.
fn is_due(said: &mut Option<Duration>, uptime: Duration, period: Duration) -> bool {
    let is_due = said.is_none_or(|said| uptime.saturating_sub(said) >= period);
    if is_due {
        *said = Some(uptime);
    }
    is_due
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn away(text: &str) -> LinkEvent {
        LinkEvent::Away(BusError::Away(text.into()))
    }

    fn back(seconds: u32, republished: u64) -> LinkEvent {
        LinkEvent::Back { after: SECOND * seconds, republished }
    }

    fn lines(log: &mut ClusterLog, events: &[(u32, usize, LinkEvent)]) -> Vec<String> {
        let line = |(at, stream, event): &(u32, usize, LinkEvent)| log.line(SECOND * *at, *stream, event);
        events.iter().filter_map(line).map(|(level, line)| format!("{level} {line}")).collect()
    }

    #[test]
    fn an_outage_is_said_once_for_all_links_and_again_when_its_kind_changes() {
        let mut log = ClusterLog::new(2);
        let denied = LinkEvent::Away(BusError::Denied("WRONGPASS".into()));
        let events = [
            (1, 0, away("refused")),
            (1, 1, away("refused")),
            (2, 1, denied),
            (9, 0, back(8, 5)),
            (9, 1, back(7, 6)),
        ];
        assert_eq!(
            lines(&mut log, &events),
            [
                "WARN Redis is away: refused; this node serves alone",
                "ERROR Redis is away: it refuses this login: WRONGPASS; this node serves alone",
                "INFO Redis is back after 8.0 s; 11 peers are published again",
            ]
        );
        assert_eq!(lines(&mut log, &[(20, 1, away("refused")), (21, 1, back(1, 0))]).len(), 2);
    }

    #[test]
    fn all_links_have_caught_up_when_the_last_one_has() {
        let mut log = ClusterLog::new(2);
        let caught_up = |entries, seconds| LinkEvent::CaughtUp { entries, after: SECOND * seconds };
        let events = [(1, 0, caught_up(7, 1)), (1, 5, caught_up(1, 1)), (3, 1, caught_up(3, 3))];
        assert_eq!(lines(&mut log, &events), ["INFO caught up, 11 entries in 3.0 s"]);
    }

    #[test]
    fn what_several_links_notice_together_is_said_once() {
        let mut log = ClusterLog::new(2);
        let events = [
            (1, 0, LinkEvent::Flushed),
            (2, 1, LinkEvent::Flushed),
            (2, 0, LinkEvent::EntriesLost { entries: 7 }),
            (3, 1, LinkEvent::EntriesLost { entries: 1 }),
            (90, 1, LinkEvent::Flushed),
            (91, 0, LinkEvent::HistoryGap),
            (91, 1, LinkEvent::HistoryGap),
            (92, 1, LinkEvent::RetentionShortened(SECOND * 60)),
            (93, 1, LinkEvent::MoreStreams(8)),
            (93, 0, LinkEvent::MoreStreams(8)),
        ];
        assert_eq!(lines(&mut log, &events).len(), 6);
    }

    #[test]
    fn what_all_links_say_of_a_node_is_said_once() {
        let mut log = ClusterLog::new(2);
        let here = |version: &str| LinkEvent::NodeHere { id: "b".into(), version: version.into() };
        let differs = |theirs: &str| LinkEvent::NodeDiffers {
            id: "b".into(),
            what: "keep_peer_ids",
            theirs: theirs.into(),
            ours: "false".into(),
        };
        let off = |id: Option<&str>| LinkEvent::ClockOff { id: id.map(str::to_owned), seconds: -9 };
        let mut events = Vec::new();
        for event in [here("1"), differs("true"), off(None), off(Some("b")), LinkEvent::SameId("b".into())] {
            events.extend([(1, 0, event.clone()), (2, 1, event)]);
        }
        let silent = LinkEvent::NodeSilent("b".into());
        events.extend([(70, 0, silent.clone()), (71, 1, silent), (80, 0, here("2")), (80, 1, here("2"))]);
        let stopped = LinkEvent::NodeStopped("b".into());
        events.extend([(90, 1, stopped.clone()), (90, 0, stopped), (99, 0, here("2"))]);
        assert_eq!(
            lines(&mut log, &events),
            [
                "INFO node b is here (1)",
                "WARN node b differs: keep_peer_ids is true there and false here",
                "WARN the clock of this node is -9 s ahead of that of Redis: connection ids may not be \
                 valid on all nodes",
                "WARN the clock of node b is -9 s ahead of that of Redis: connection ids may not be \
                 valid on all nodes",
                "WARN two nodes call themselves b",
                "WARN node b is silent",
                "INFO node b is here (2)",
                "INFO node b has stopped",
                "INFO node b is here (2)",
            ]
        );
    }

    #[test]
    fn entries_that_do_not_open_are_said_once_in_ten_minutes() {
        let mut log = ClusterLog::new(1);
        let counts = |refused_sealed| LinkCounts { refused_sealed, ..LinkCounts::default() };
        let mut said =
            |at, refused| log.counts_line(SECOND * at, "hayate:{0}", 0, &counts(refused)).is_some();
        assert_eq!(
            [said(1, 0), said(2, 1), said(3, 1), said(4, 9), said(700, 9), said(701, 10)],
            [false, true, false, false, false, true]
        );
    }
}
