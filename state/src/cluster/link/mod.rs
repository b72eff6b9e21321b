//! [`Link`]: the engine of one stream. It has no socket, thread or clock: its owner calls [`Link::turn`] and
//! waits as long as it says.
//!
//! | module | what is in it |
//! |---|---|
//! | [`events`] | what a link says and counts |
//! | `history` | how much history a stream keeps, and what is missing in it |
//! | `news` | what is said about other nodes |
//! | `nodes` | the nodes that are there |
//! | `own` | own records that others may not have |
//! | `publish` | what is appended in a turn |
//! | `recovery` | what is done at a connect, and with entries that are lost |
//! | `receive` | what is done with entries that were read |
//! | `sequences` | the last entry of each incarnation |
//! | `server_time` | the server's clock |
//!
//! A link is in one of three phases. It is *disconnected* until the state of the stream was read; it *catches
//! up*, and appends nothing, until it has read what was there then; after that it publishes and reads in each
//! turn. An error of the server disconnects it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Tick;
use crate::cluster::bus::{Bus, BusError, EntryId, Exchange};
use crate::cluster::codec::{EntryCodec, Incarnation};
use crate::cluster::record::PeerKey;
use crate::cluster::replica::{OwnRecord, Replica};

pub mod events;
mod history;
mod news;
mod nodes;
mod own;
mod publish;
mod receive;
mod recovery;
mod sequences;
mod server_time;

use events::{LinkCounts, LinkEvent, NodeStatus};
use history::Retention;
use news::NodeNews;
use nodes::NodesHeard;
use own::{OwnRecords, SentEntry};
use sequences::Sequences;
use server_time::ServerTime;

/// Entries that one exchange reads at most.
const READ_MAX: usize = 64;
/// A node says hello, and looks at the state of the stream, this often.
const HELLO_PERIOD: Duration = Duration::from_secs(5);
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A refused login is mended by a person.
const DENIED_PAUSE: Duration = Duration::from_secs(30);
/// Events that wait to be taken at most.
const EVENTS_MAX: usize = 256;
/// Clocks of nodes differ by as many seconds as a walk begins earlier.
const WALK_SLACK_SECONDS: i64 = 2;

/// What a link is told once.
#[derive(Clone, Debug)]
pub struct LinkSettings {
    /// The stream's key.
    pub key: String,
    /// The configured id of this node.
    pub node_id: String,
    /// The number of streams that this node writes to.
    pub streams: usize,
    /// Only reads: a stream of nodes that write to more streams.
    pub read_only: bool,
    /// Time between two turns.
    pub batch_delay: Duration,
    /// How long history is kept.
    pub retention: Duration,
    /// Entries that a stream keeps at most.
    pub entries_max: u64,
    /// Peers that a walk publishes for each second, at this link.
    pub walk_rate: u32,
    /// What was saved with the swarms before the last stop.
    pub saved: SavedLink,
    /// For the jitter of pauses after errors.
    pub seed: u64,
}

/// What is saved of a link together with the swarms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedLink {
    /// `None` where the link had not caught up.
    pub position: Option<LinkPosition>,
    /// Since when changes may be unknown to the other nodes, in ticks of this process; `None` where they have
    /// everything.
    pub unpublished_since: Option<i64>,
}

/// Up to where a stream was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkPosition {
    /// All entries up to it are applied.
    pub read_to: EntryId,
    /// The last number that was read of each incarnation: an entry that reaches the stream late must not be
    /// taken for a new one after a restart.
    pub sequences: Vec<(Incarnation, u64)>,
}

/// When the next turn is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// After this time.
    For(Duration),
    /// Never: the link has finished.
    Finished,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Disconnected,
    CatchingUp { target: EntryId },
    Steady,
}

/// Why the server cannot be used, and since when.
#[derive(Debug)]
struct ServerOutage {
    error: BusError,
    since: Duration,
}

/// What is done at a stop.
#[derive(Clone, Copy, Debug)]
struct Finishing {
    until: Duration,
    said_bye: bool,
}

/// The engine of one stream, owned by the thread that drives it.
pub struct Link<B: Bus, C: EntryCodec, R: Replica> {
    settings: LinkSettings,
    bus: B,
    codec: C,
    replica: R,
    phase: Phase,
    /// Whether it may append.
    serving: bool,
    /// The last entry that was read; entries behind it come next.
    position: EntryId,
    /// Up to where entries were read before the position went back.
    read_to: EntryId,
    /// The position at the last look at the stream.
    checked_to: EntryId,
    has_connected: bool,
    is_caught_up: bool,
    entries_read: u64,
    first_turn: Option<Duration>,
    time: ServerTime,
    /// Of the last exchange.
    round_trip: Duration,
    retention: Retention,
    sequences: Sequences,
    last_own: u64,
    nodes: NodesHeard,
    news: NodeNews,
    streams_seen: usize,
    own: OwnRecords,
    /// Entries in flight, in their order.
    sent: VecDeque<SentEntry>,
    /// Entries that were read back lately: a fail-over may lose them after all.
    delivered: VecDeque<SentEntry>,
    walks: VecDeque<R::Walk>,
    walk_allowance: Duration,
    walked_at: Duration,
    share_at: Option<Duration>,
    /// Since when changes are missing because an outbox was full.
    since: Option<i64>,
    /// The same of the walks that have begun.
    walking_since: Option<i64>,
    hello_at: Duration,
    inspect_at: Duration,
    trim_at: Duration,
    retry_at: Duration,
    failures: u32,
    outage: Option<ServerOutage>,
    republished: u64,
    finishing: Option<Finishing>,
    random: fastrand::Rng,
    counts: LinkCounts,
    events: Vec<LinkEvent>,
}

fn tick(uptime: Duration) -> Tick {
    Tick(u32::try_from(uptime.as_secs()).unwrap_or(u32::MAX))
}

impl<B: Bus, C: EntryCodec, R: Replica> Link<B, C, R> {
    /// Makes a link that reads, and appends nothing before [`serve`](Self::serve).
    pub fn new(settings: LinkSettings, bus: B, codec: C, replica: R) -> Self {
        Self {
            bus,
            codec,
            replica,
            phase: Phase::Disconnected,
            serving: false,
            position: EntryId::default(),
            read_to: EntryId::default(),
            checked_to: EntryId::default(),
            has_connected: false,
            is_caught_up: false,
            entries_read: 0,
            first_turn: None,
            time: ServerTime::default(),
            round_trip: Duration::ZERO,
            retention: Retention::new(settings.retention),
            sequences: settings
                .saved
                .position
                .as_ref()
                .map_or_else(Sequences::default, |position| Sequences::restore(&position.sequences)),
            last_own: 0,
            nodes: NodesHeard::default(),
            news: NodeNews::default(),
            streams_seen: settings.streams,
            own: OwnRecords::default(),
            sent: VecDeque::new(),
            delivered: VecDeque::new(),
            walks: VecDeque::new(),
            walk_allowance: Duration::ZERO,
            walked_at: Duration::ZERO,
            share_at: None,
            since: settings.saved.unpublished_since,
            walking_since: None,
            hello_at: Duration::ZERO,
            inspect_at: Duration::ZERO,
            trim_at: Duration::ZERO,
            retry_at: Duration::ZERO,
            failures: 0,
            outage: None,
            republished: 0,
            finishing: None,
            random: fastrand::Rng::with_seed(settings.seed),
            counts: LinkCounts::default(),
            events: Vec::new(),
            settings,
        }
    }

    /// Does one turn: collects, appends, reads, and applies. `uptime` is that of [`Clock`](crate::Clock),
    /// whose whole seconds are the ticks of announces.
    pub fn turn(&mut self, uptime: Duration) -> Pause {
        self.first_turn.get_or_insert(uptime);
        if self.finishing.is_some_and(|finishing| uptime >= finishing.until || self.settings.read_only) {
            self.close(tick(uptime));
            return Pause::Finished;
        }
        let longest = self.finishing.map_or(Duration::MAX, |finishing| finishing.until - uptime);
        if uptime < self.retry_at {
            return Pause::For((self.retry_at - uptime).min(longest));
        }
        let pause = match self.try_turn(uptime) {
            Ok(pause) => pause,
            Err(error) => Pause::For(self.fail(uptime, error).min(longest)),
        };
        self.counts.up = u64::from(self.outage.is_none() && self.has_connected);
        self.counts.backlog_records = self.own.len() as u64;
        self.counts.retention_seconds = self.retention.get().as_secs();
        pause
    }

    /// Lets the link append, from the next turn on. Until then it is in replay: counts of finished downloads
    /// are only raised to what records say.
    pub fn serve(&mut self) {
        self.serving = true;
    }

    /// Whether everything has been read that was in the stream at the connect.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        self.is_caught_up
    }

    /// Whether the server was reached.
    #[must_use]
    pub fn has_connected(&self) -> bool {
        self.has_connected
    }

    /// Returns what is to be saved. Taken before the swarms are copied, it is never ahead of them.
    #[must_use]
    pub fn saved(&self) -> SavedLink {
        let position = self.is_caught_up.then(|| {
            let mut sequences = self.sequences.saved();
            // The next start has another incarnation, and reads the entries of this one like foreign ones.
            sequences.push((self.codec.incarnation(), self.last_own));
            LinkPosition { read_to: self.position, sequences }
        });
        let since = [self.own.earliest(), self.since, self.walking_since];
        SavedLink { position, unpublished_since: since.into_iter().flatten().min() }
    }

    /// Publishes what waits, says goodbye, and finishes; at the latest at `until`.
    pub fn finish(&mut self, until: Duration) {
        self.finishing.get_or_insert(Finishing { until, said_bye: false });
    }

    /// Returns the counts.
    #[must_use]
    pub fn counts(&self) -> LinkCounts {
        self.counts
    }

    /// Returns the nodes that are there, in the order of their ids. This one is among them once its first
    /// hello was read back. On a stream that is only read nobody becomes silent: nothing is read back.
    #[must_use]
    pub fn nodes(&self, uptime: Duration) -> Vec<NodeStatus> {
        self.nodes.statuses(uptime)
    }

    /// Returns the newest format of entries that this node and all that are there can read: no newer one may
    /// be written.
    #[must_use]
    pub fn newest_common_format(&self) -> u8 {
        let own = self.codec.hello().newest_format;
        self.nodes.newest_format().map_or(own, |newest| newest.min(own))
    }

    /// Takes the events since the last call.
    pub fn take_events(&mut self) -> Vec<LinkEvent> {
        std::mem::take(&mut self.events)
    }

    fn say(&mut self, event: LinkEvent) {
        if self.events.len() < EVENTS_MAX {
            self.events.push(event);
        }
    }

    fn try_turn(&mut self, uptime: Duration) -> Result<Pause, BusError> {
        if self.phase == Phase::Disconnected {
            self.connect(uptime)?;
            // A connect takes time, and the next exchange is compared with the server's clock.
            return Ok(Pause::For(Duration::ZERO));
        }
        if self.phase == Phase::Steady {
            self.inspect(uptime)?;
        }
        let publishes = self.phase == Phase::Steady && self.serving && !self.settings.read_only;
        let entries = if publishes { self.write_entries(uptime) } else { Vec::new() };
        let exchanged = self.bus.exchange(&Exchange {
            key: &self.settings.key,
            append: &entries,
            oldest: self.retention.oldest(self.time.at(uptime)),
            position: self.position,
            read_max: READ_MAX,
        })?;
        self.time.sample(uptime, exchanged.server_time, exchanged.round_trip);
        self.counts.octets_out += entries.iter().map(|entry| entry.len() as u64).sum::<u64>();
        let is_tail = exchanged.entries.len() < READ_MAX;
        let was_steady = self.phase == Phase::Steady;
        self.receive(uptime, exchanged);
        match self.phase {
            Phase::CatchingUp { target } if is_tail || self.position >= target => self.caught_up(uptime),
            Phase::Steady if is_tail => self.lose_overdue(uptime),
            _ => {}
        }
        if was_steady {
            self.recovered(uptime);
        }
        if self.phase == Phase::Steady {
            self.say_news();
        }
        if self.has_finished() {
            self.close(tick(uptime));
            return Ok(Pause::Finished);
        }
        let at_once = !is_tail || (!was_steady && self.phase == Phase::Steady);
        Ok(Pause::For(if at_once { Duration::ZERO } else { self.settings.batch_delay }))
    }

    /// Says what has changed about the nodes. Not while it catches up: what is behind in the stream may undo
    /// it.
    fn say_news(&mut self) {
        if self.nodes.take_changed() {
            let ours = self.codec.hello();
            let news = self.news.update(&self.nodes, self.codec.incarnation(), &ours);
            news.into_iter().for_each(|event| self.say(event));
            self.counts.nodes = self.nodes.by_id().len() as u64;
        }
    }

    fn has_finished(&self) -> bool {
        let Some(finishing) = self.finishing else { return false };
        !self.serving || (finishing.said_bye && self.sent.is_empty())
    }

    /// Leaves the swarms as they are to be saved: what is not published yet will be republished after the
    /// next start, and what was passed over meanwhile is what all others have.
    fn close(&mut self, now: Tick) {
        if !self.settings.read_only {
            self.collect_all();
        }
        let kept = self.own.take_all_kept();
        let own = |key: &PeerKey| Some(OwnRecord { republished: true, ..self.own.get(key)? });
        self.replica.apply(now, &kept, &own, &mut Vec::new());
    }

    /// The server answers, also to what is appended.
    fn recovered(&mut self, uptime: Duration) {
        self.failures = 0;
        self.retention.recover(uptime);
        if let Some(outage) = self.outage.take() {
            let after = uptime.saturating_sub(outage.since);
            self.say(LinkEvent::Back { after, republished: self.republished });
        }
    }

    /// Notes an error; returns the time to the next attempt.
    fn fail(&mut self, uptime: Duration, error: BusError) -> Duration {
        self.phase = Phase::Disconnected;
        self.counts.add_error(&error);
        if matches!(error, BusError::OutOfMemory(_)) {
            let before = self.retention.get();
            self.retention.shorten(uptime);
            if self.retention.get() < before {
                self.say(LinkEvent::RetentionShortened(self.retention.get()));
            }
        }
        let pause = if matches!(error, BusError::Denied(_)) {
            DENIED_PAUSE
        } else {
            let longest = (BACKOFF_MIN * (1 << self.failures.min(6))).min(BACKOFF_MAX);
            longest.mul_f64(0.5 + 0.5 * self.random.f64())
        };
        self.failures = self.failures.saturating_add(1);
        self.retry_at = uptime + pause;
        let since = self.outage.as_ref().map_or(uptime, |outage| outage.since);
        let is_new = self
            .outage
            .as_ref()
            .is_none_or(|outage| std::mem::discriminant(&outage.error) != std::mem::discriminant(&error));
        if is_new {
            self.say(LinkEvent::Away(error.clone()));
        }
        self.outage = Some(ServerOutage { error, since });
        pause
    }
}
