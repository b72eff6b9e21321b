//! [`Cluster`]: the threads of all links, each of which drives one.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;

use crate::admission::Policy;
use crate::clock::Clock;
use crate::cluster::bus::Bus;
use crate::cluster::codec::Incarnation;
use crate::cluster::hello::{Hello, KeyTag, NodeSettings};
use crate::cluster::link::events::{LinkCounts, LinkEvent};
use crate::cluster::link::{Link, LinkSettings, Pause, SavedLink};
use crate::cluster::report::ClusterLog;
use crate::cluster::saved::{SavedCluster, TAG_CLUSTER};
use crate::cluster::sealed::{ClusterSecret, FORMAT, HelloSource, SealedCodec, new_incarnation};
use crate::cluster::swarm_replica::SwarmReplica;
use crate::published::Published;
use crate::snapshot::container::BlockSink;
use crate::snapshot::thread::{Pace, Section};
use crate::store::Queues;
use crate::swarm::Swarms;

/// Peers that all walks of a node publish in a second.
const WALK_RATE: usize = 20_000;
/// A start does not wait longer for a server that cannot be reached.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// Time between two looks at the links while somebody waits for them.
const WAIT_STEP: Duration = Duration::from_millis(10);

/// What the links of a node are told once.
#[derive(Clone, Debug)]
pub struct ClusterSettings {
    /// The configured id of this node.
    pub node_id: String,
    /// The secret of all nodes.
    pub secret: ClusterSecret,
    /// What the key of a stream begins with.
    pub key_prefix: String,
    /// The streams that this node writes to: a power of two, at most
    /// [`STREAMS_MAX`](crate::cluster::hello::STREAMS_MAX).
    pub streams: usize,
    /// Time between two turns of a link.
    pub batch_delay: Duration,
    /// How long history is kept in the streams.
    pub retention: Duration,
    /// Entries that a stream keeps at most.
    pub entries_max: u64,
    /// The server, as the log is to name it: without its password.
    pub server: String,
    /// The mode, as the other nodes are told it.
    pub mode: &'static str,
    /// The kind of the store: `none`, `sqlite` or `mariadb`.
    pub store: &'static str,
    /// The tag of the key of the connection ids; `None` if this node does not serve UDP.
    pub udp_key_tag: Option<KeyTag>,
}

/// Makes the connection of one link.
pub type BusFactory = Box<dyn Fn() -> Box<dyn Bus> + Send + Sync>;

/// What the links work with.
pub struct ClusterParts {
    /// The swarms of this node.
    pub swarms: Arc<Swarms>,
    /// The rules by which records are applied.
    pub policy: Arc<Published<Policy>>,
    /// Where finished downloads of other nodes wait for a store that no other node writes to.
    pub queues: Option<Arc<Queues>>,
    /// The clock of the tracker.
    pub clock: Clock,
    /// What the last run saved.
    pub saved: SavedCluster,
    /// Makes the connections.
    pub make_bus: BusFactory,
}

/// The running links. Dropped without a [`stop`](Self::stop), they go on until the process ends.
pub struct Cluster(Arc<Shared>);

/// The part of a snapshot that holds the positions. Written before the swarms: a position must not be ahead
/// of them.
#[derive(Debug)]
pub struct ClusterSection(pub Arc<Cluster>);

impl Section for ClusterSection {
    fn write(&mut self, to: &mut dyn BlockSink, pace: &mut Pace<'_>) -> io::Result<u64> {
        to.write_block(TAG_CLUSTER, &self.0.saved().to_block(pace.now().tick))?;
        Ok(0)
    }
}

/// What the threads share.
struct Shared {
    settings: ClusterSettings,
    /// The name of this start of the node.
    incarnation: Incarnation,
    parts: ClusterParts,
    serving: AtomicBool,
    finish_at: Mutex<Option<Duration>>,
    log: Mutex<ClusterLog>,
    links: Mutex<Vec<LinkThread>>,
}

/// One link, as others see it.
struct LinkThread {
    stream: usize,
    state: Arc<Mutex<LinkState>>,
    thread: JoinHandle<()>,
}

/// A link as it was after its last turn.
#[derive(Clone, Debug, Default)]
struct LinkState {
    saved: SavedLink,
    counts: LinkCounts,
    is_caught_up: bool,
    has_connected: bool,
    /// When the turn began that is under way, in ticks. It may wait long for the server, and what peers
    /// announce meanwhile is not published.
    turn_since: Option<i64>,
}

impl LinkState {
    /// Returns what is to be saved of the link now.
    fn saved(&self) -> SavedLink {
        let since = self.saved.unpublished_since.into_iter().chain(self.turn_since).min();
        SavedLink { unpublished_since: since, ..self.saved.clone() }
    }
}

/// The link of the real parts.
type SwarmLink = Link<Box<dyn Bus>, SealedCodec, SwarmReplica>;

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("settings", &self.0.settings).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Starts the links. They read, and publish nothing before [`serve`](Self::serve).
    ///
    /// # Errors
    /// Fails when a thread cannot be started, or the system provides no random numbers.
    pub fn start(settings: ClusterSettings, parts: ClusterParts) -> io::Result<Self> {
        let incarnation = new_incarnation().ok_or_else(|| io::Error::other("no random numbers"))?;
        let ClusterSettings { node_id, streams, server, .. } = &settings;
        log::info!("cluster: node {node_id}, {streams} streams at {server}");
        let shared = Arc::new(Shared {
            log: Mutex::new(ClusterLog::new(settings.streams)),
            settings,
            incarnation,
            parts,
            serving: AtomicBool::new(false),
            finish_at: Mutex::new(None),
            links: Mutex::default(),
        });
        (0..shared.settings.streams).try_for_each(|stream| shared.start_link(stream))?;
        Ok(Self(shared))
    }

    /// Waits until all links have caught up, at most for `longest`, and not for a server that cannot be
    /// reached.
    pub fn warm_up(&self, longest: Duration) {
        let clock = self.0.parts.clock;
        let start = clock.uptime();
        loop {
            let waited = clock.uptime().saturating_sub(start);
            let states = self.0.states();
            let is_unreachable =
                waited >= CONNECT_MAX && !states.iter().any(|(_, state)| state.has_connected);
            if waited >= longest || is_unreachable || states.iter().all(|(_, state)| state.is_caught_up) {
                return;
            }
            thread::sleep(WAIT_STEP);
        }
    }

    /// Lets the links publish.
    pub fn serve(&self) {
        self.0.serving.store(true, Ordering::Release);
        self.0.wake_all();
    }

    /// Publishes what waits, and stops the links; those that are not done at the uptime `until` are left.
    pub fn stop(&self, until: Duration) {
        *self.0.finish_at.lock() = Some(until);
        self.0.wake_all();
        let clock = self.0.parts.clock;
        let is_running = |link: &LinkThread| !link.thread.is_finished();
        while self.0.links.lock().iter().any(is_running) && clock.uptime() < until + WAIT_STEP {
            thread::sleep(WAIT_STEP);
        }
    }

    /// Returns what is to be saved in a snapshot whose swarms are copied later.
    #[must_use]
    pub fn saved(&self) -> SavedCluster {
        let links = self.0.states().into_iter().map(|(stream, state)| (stream, state.saved())).collect();
        SavedCluster { key_prefix: self.0.settings.key_prefix.clone(), links }
    }

    /// Returns the counts of each link, with the number of its stream.
    #[must_use]
    pub fn counts(&self) -> Vec<(usize, LinkCounts)> {
        self.0.states().into_iter().map(|(stream, state)| (stream, state.counts)).collect()
    }

    /// The streams that this node writes to.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.0.settings.streams
    }

    /// Leaves and finished downloads for which an outbox had no room.
    #[must_use]
    pub fn dropped_total(&self) -> u64 {
        self.0.parts.swarms.outbox_dropped_total()
    }

    /// Whether no thread has ended by itself, which takes a panic.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.0.finish_at.lock().is_some() || self.0.links.lock().iter().all(|link| !link.thread.is_finished())
    }
}

impl Shared {
    fn states(&self) -> Vec<(usize, LinkState)> {
        self.links.lock().iter().map(|link| (link.stream, link.state.lock().clone())).collect()
    }

    fn wake_all(&self) {
        self.links.lock().iter().for_each(|link| link.thread.thread().unpark());
    }

    /// Starts the link of a stream, unless it runs.
    fn start_link(self: &Arc<Self>, stream: usize) -> io::Result<()> {
        let mut links = self.links.lock();
        if links.iter().any(|link| link.stream == stream) {
            return Ok(());
        }
        let link = self.make_link(stream)?;
        let state = Arc::new(Mutex::new(LinkState { saved: link.saved(), ..LinkState::default() }));
        let (shared, published) = (Arc::clone(self), Arc::clone(&state));
        let thread = thread::Builder::new()
            .name(format!("cluster {stream}"))
            .spawn(move || shared.drive(stream, link, &published))?;
        links.push(LinkThread { stream, state, thread });
        Ok(())
    }

    /// Returns the key of a stream. The braces let a Redis Cluster put each key into a slot of its own.
    fn stream_key(&self, stream: usize) -> String {
        format!("{}:{{{stream}}}", self.settings.key_prefix)
    }

    /// Returns what makes this node's hellos.
    fn hello_source(&self) -> HelloSource {
        let (settings, clock) = (self.settings.clone(), self.parts.clock);
        let policy = Arc::clone(&self.parts.policy);
        Box::new(move || {
            let policy = policy.current();
            Hello {
                node_id: settings.node_id.clone(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                store: settings.store.to_owned(),
                newest_format: FORMAT,
                streams: u32::try_from(settings.streams).unwrap_or(u32::MAX),
                settings: NodeSettings {
                    mode: settings.mode.to_owned(),
                    peer_inactivity_seconds: policy.peer_inactivity_seconds,
                    renew_after_seconds: policy.renew_after_seconds,
                    keep_peer_ids: policy.keep_peer_ids,
                },
                udp_key_tag: settings.udp_key_tag,
                unix_seconds: clock.now().unix_seconds,
                uptime_seconds: clock.now().tick.0,
                leaving: false,
            }
        })
    }

    fn make_link(&self, stream: usize) -> io::Result<SwarmLink> {
        let (settings, parts) = (&self.settings, &self.parts);
        let ClusterSettings { node_id, secret, key_prefix, streams, .. } = settings;
        let key = self.stream_key(stream);
        let read_only = stream >= *streams;
        let codec = SealedCodec::new(secret, &key, self.incarnation, self.hello_source())
            .ok_or_else(|| io::Error::other("no key can be derived from the secret of the cluster"))?;
        let replica =
            SwarmReplica::new(Arc::clone(&parts.swarms), parts.policy.subscribe(), stream, *streams);
        let replica = match &parts.queues {
            Some(queues) => replica.with_queues(Arc::clone(queues)),
            None => replica,
        };
        let walk_rate = u32::try_from(WALK_RATE / (*streams).max(1)).unwrap_or(u32::MAX);
        let [first, ..] = self.incarnation;
        let link_settings = LinkSettings {
            key,
            node_id: node_id.clone(),
            streams: *streams,
            read_only,
            batch_delay: settings.batch_delay,
            retention: settings.retention,
            entries_max: settings.entries_max,
            walk_rate,
            saved: parts.saved.link(key_prefix, stream),
            seed: u64::from(first) << 8 | stream as u64,
        };
        Ok(Link::new(link_settings, (parts.make_bus)(), codec, replica))
    }

    /// What the thread of a link does.
    fn drive(self: Arc<Self>, stream: usize, mut link: SwarmLink, published: &Mutex<LinkState>) {
        let clock = self.parts.clock;
        let key = self.stream_key(stream);
        loop {
            if self.serving.load(Ordering::Acquire) {
                link.serve();
            }
            if let Some(until) = *self.finish_at.lock() {
                link.finish(until);
            }
            published.lock().turn_since = Some(i64::from(clock.now().tick.0));
            let pause = link.turn(clock.uptime());
            for event in link.take_events() {
                if let LinkEvent::MoreStreams(streams) = event {
                    self.read_more(streams);
                }
                self.log.lock().take_event(clock.uptime(), stream, &event);
            }
            let counts = link.counts();
            self.log.lock().take_counts(clock.uptime(), &key, stream, &counts);
            *published.lock() = LinkState {
                saved: link.saved(),
                counts,
                is_caught_up: link.is_caught_up(),
                has_connected: link.has_connected(),
                turn_since: None,
            };
            match pause {
                Pause::Finished => return,
                Pause::For(pause) if pause.is_zero() => {}
                // Woken early, it takes a turn early, which does no harm.
                Pause::For(pause) => thread::park_timeout(pause),
            }
        }
    }

    /// Reads the streams that other nodes write to and this one does not.
    fn read_more(self: &Arc<Self>, streams: usize) {
        for stream in self.settings.streams..streams {
            if let Err(error) = self.start_link(stream) {
                log::error!("cluster: stream {stream} is not read: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_while_a_turn_waits_for_the_server_is_unpublished_since_the_turn_began() {
        let saved = |unpublished_since, turn_since| {
            let saved = SavedLink { unpublished_since, ..SavedLink::default() };
            LinkState { saved, turn_since, ..LinkState::default() }.saved().unpublished_since
        };
        assert_eq!(
            [saved(None, None), saved(None, Some(7)), saved(Some(5), Some(7))],
            [None, Some(7), Some(5)]
        );
    }
}
