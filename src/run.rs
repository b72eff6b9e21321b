//! Start, serve, stop. In this order: configuration, sockets, key, privileges, state, doors; and back.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use anyhow::{Context, bail};
use hayate_gateway::{Asker, Door as HttpDoor};
use hayate_state::actor::{Actor, Inbox};
use hayate_state::counters::{Kind, Series};
use hayate_state::{Board, Clock, Counter, Policy, Published, Swarms, Tracker};
use hayate_udp::Door as UdpDoor;
use ring::rand::{SecureRandom, SystemRandom};

use crate::cli::Look;
use crate::config::knob::duration_text;
use crate::config::{Config, Document, Settings, Source};
use crate::memory::Returner;
use crate::reload::{self, Levers};
use crate::signals::{self, Wish};
use crate::{commands, files, key, logging};

/// How often the main thread looks whether everything lives.
const LOOK_ROUND: Duration = Duration::from_secs(1);
/// The state actor is thought dead when it stands still for so long.
const ACTOR_STILL_MAX: Duration = Duration::from_secs(10);

/// Serves until a signal ends it.
///
/// # Errors
/// When the configuration is not accepted, a socket cannot be opened, or a part of the tracker dies.
pub(crate) fn serve(source: &Source, look: &Look) -> anyhow::Result<()> {
    let wishes = signals::listen().context("listening to signals")?;
    let (config, mut settings) = commands::read(source)?;
    logging::start(look, &config.document.log);
    log::info!("hayate {}", env!("CARGO_PKG_VERSION"));
    for warning in &settings.warnings {
        log::warn!("{warning}");
    }
    let files_max = files::raise_limit();
    files::fit(&mut settings, files_max);
    let mut daemon = Daemon::start(source.clone(), config, settings, files_max)?;
    let end = daemon.attend(&wishes);
    daemon.stop();
    end
}

/// Open sockets, before anything is served.
struct Sockets {
    http: Option<HttpDoor>,
    udp: Option<UdpDoor>,
}

impl Sockets {
    fn open(settings: &Settings) -> anyhow::Result<Self> {
        let listen = &settings.listen;
        let wanted = !listen.addresses.is_empty()
            || !listen.metrics_addresses.is_empty()
            || listen.unix_socket.is_some();
        let http = wanted.then(|| HttpDoor::open(listen)).transpose()?;
        let udp = settings.udp.as_ref().map(|(sockets, _)| UdpDoor::open(sockets)).transpose()?;
        Ok(Self { http, udp })
    }
}

/// The running tracker.
struct Daemon {
    source: Source,
    config: Config,
    files_max: Option<usize>,
    levers: Levers,
    vitals: Arc<Vitals>,
    reloads: Reloads,
    actor: Actor,
    swarms: Arc<Swarms>,
    returner: Returner,
    inbox: Arc<Mutex<Option<Inbox<Asker>>>>,
    http: Option<hayate_gateway::Running>,
    udp: Option<hayate_udp::Running>,
}

impl Daemon {
    fn start(
        source: Source,
        config: Config,
        mut settings: Settings,
        files_max: Option<usize>,
    ) -> anyhow::Result<Self> {
        let sockets = Sockets::open(&settings)?;
        key::settle(&mut settings).context("the key of the UDP connection ids")?;
        drop_privileges(&settings)?;
        if let Some(door) = sockets.http.as_ref().filter(|door| !door.metrics_addresses().is_empty()) {
            log::info!("starting metrics server on {}", joined(&door.metrics_addresses()));
        }
        let document = &config.document;
        let (clock, board) = (Clock::start(), Arc::new(Board::default()));
        let levers = Levers::new(settings.policy, settings.udp.map(|(_, door)| door), settings.http);
        let swarms = start_storage(document, &board);
        log::info!(
            "starting tracker logic: mode {}, access {}",
            word(&document.mode),
            word(&document.access.mode)
        );
        let tracker = trackers(&swarms, &levers.policy)?;
        let (actor, inbox) = Actor::start(tracker(0), clock).context("starting the state actor")?;
        let vitals = Arc::new(Vitals::new(clock, actor.beats(), document));
        let reloads = Reloads::list_on(&board);
        let kept_inbox = Arc::new(Mutex::new(Some(inbox.clone())));
        list_own(&board, clock, &kept_inbox);
        let listen = &settings.listen;
        let http =
            start_http(sockets.http, listen.unix_socket.as_deref(), &levers, inbox, clock, &board, &vitals)?;
        let udp = start_udp(sockets.udp, document, &levers, clock, &board, tracker)?;
        if let Some(udp) = &udp {
            // It is set here and nowhere else.
            let _ = vitals.udp.set(udp.pulse());
        }
        vitals.serving.store(true, Ordering::Relaxed);
        log::info!("serving");
        let (inbox, returner) = (kept_inbox, Returner::default());
        Ok(Self {
            source,
            config,
            files_max,
            levers,
            vitals,
            reloads,
            actor,
            swarms,
            returner,
            inbox,
            http,
            udp,
        })
    }

    /// Does what signals ask for, until one asks to stop.
    fn attend(&mut self, wishes: &Receiver<Wish>) -> anyhow::Result<()> {
        loop {
            match wishes.recv_timeout(LOOK_ROUND) {
                Ok(Wish::Reload) => self.reload(),
                Ok(Wish::Stop) => return Ok(()),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("the thread that takes signals has ended"),
            }
            self.look_round()?;
            self.returner.look(&self.swarms);
        }
    }

    fn look_round(&self) -> anyhow::Result<()> {
        if !self.actor.is_alive() {
            bail!("the state actor has ended");
        }
        if self.udp.as_ref().is_some_and(|udp| !udp.alive()) {
            bail!("a worker of the UDP frontend has ended");
        }
        if self.http.as_ref().is_some_and(|http| !http.is_serving()) {
            bail!("the HTTP frontend has ended");
        }
        Ok(())
    }

    fn reload(&mut self) {
        match reload::plan(&self.config, &self.source) {
            Err(error) => {
                self.reloads.refused.add(1);
                log::error!("reload refused: {error}");
            }
            Ok(mut plan) => {
                for warning in &plan.settings.warnings {
                    log::warn!("{warning}");
                }
                if !plan.waiting.is_empty() {
                    log::warn!("changed, but waiting for a restart: {}", plan.waiting.join(", "));
                }
                files::fit(&mut plan.settings, self.files_max);
                self.config = plan.config;
                self.levers.pull(plan.settings);
                self.reloads.ok.add(1);
                log::info!("reloaded");
            }
        }
    }

    /// Stops accepting, answers what is in flight, and waits for the state actor.
    fn stop(self) {
        self.vitals.serving.store(false, Ordering::Relaxed);
        log::info!("stopping");
        if let Some(http) = self.http {
            http.stop();
        }
        if let Some(udp) = self.udp {
            udp.stop();
        }
        if let Ok(mut inbox) = self.inbox.lock() {
            // The last sender: the actor ends when it is gone.
            inbox.take();
        }
        self.actor.join();
        log::info!("stopped");
    }
}

fn drop_privileges(settings: &Settings) -> anyhow::Result<()> {
    let Some(identity) = settings.identity.as_ref().filter(|identity| !identity.is_current()) else {
        return Ok(());
    };
    if settings.udp.is_some() && settings.key.is_none() {
        identity.own(&settings.key_file)?;
    }
    if let Some(socket) = &settings.listen.unix_socket {
        identity.own(socket)?;
    }
    identity.assume()?;
    log::info!("running as {identity}");
    Ok(())
}

fn start_storage(document: &Document, board: &Board) -> Arc<Swarms> {
    let (intervals, memory) = (&document.intervals, &document.memory);
    let memory = if memory.max.octets() == 0 { "unlimited".into() } else { memory.max.to_string() };
    log::info!(
        "starting storage: swarms in memory ({memory}), peer_inactivity {}, purge_inactive_peers {}",
        intervals.peer_inactivity,
        intervals.purge_inactive_peers,
    );
    let swarms = Swarms::new(document.announce.peers_per_address.as_u16());
    swarms.list_on(board);
    log::info!("started storage");
    swarms
}

/// Makes trackers on the same swarms; each chooses peers by a seed of its own.
fn trackers(
    swarms: &Arc<Swarms>,
    policy: &Arc<Published<Policy>>,
) -> anyhow::Result<impl Fn(usize) -> Tracker + use<>> {
    let mut seed = [0; 8];
    if SystemRandom::new().fill(&mut seed).is_err() {
        bail!("the system gives no random numbers");
    }
    let (swarms, policy, seed) = (Arc::clone(swarms), Arc::clone(policy), u64::from_ne_bytes(seed));
    Ok(move |number: usize| Tracker::new(Arc::clone(&swarms), &policy, seed.wrapping_add(number as u64)))
}

fn start_http(
    door: Option<HttpDoor>,
    unix_socket: Option<&std::path::Path>,
    levers: &Levers,
    inbox: Inbox<Asker>,
    clock: Clock,
    board: &Arc<Board>,
    vitals: &Arc<Vitals>,
) -> anyhow::Result<Option<hayate_gateway::Running>> {
    let Some(door) = door else { return Ok(None) };
    let mut places: Vec<String> = door.addresses().iter().map(ToString::to_string).collect();
    places.extend(unix_socket.map(|path| path.display().to_string()));
    if !places.is_empty() {
        let config = levers.http.current();
        log::info!(
            "starting HTTP frontend on {}, announces at {}, scrapes at {}, at most {} connections",
            places.join(", "),
            joined(&config.announce_routes),
            joined(&config.scrape_routes),
            config.max_connections,
        );
    }
    let vitals = Arc::clone(vitals);
    let health = Arc::new(move || vitals.are_good());
    let running = door.start(&levers.http, &levers.policy, inbox, clock, Arc::clone(board), health);
    running.map(Some).context("starting the HTTP frontend")
}

fn start_udp(
    door: Option<UdpDoor>,
    document: &Document,
    levers: &Levers,
    clock: Clock,
    board: &Board,
    tracker: impl Fn(usize) -> Tracker,
) -> anyhow::Result<Option<hayate_udp::Running>> {
    let (Some(door), Some(config)) = (door, &levers.udp) else { return Ok(None) };
    let coalesce = document.udp.coalesce.duration();
    log::info!(
        "starting UDP frontend on {}, {} workers, connection ids live {}, buffers {} and {}, coalesce {}",
        joined(&door.addresses()),
        crate::config::settings::workers(document),
        document.udp.connection_id_lifetime,
        document.udp.receive_buffer,
        document.udp.send_buffer,
        duration_text(coalesce),
    );
    // Number 0 is the state actor's.
    let running = door.coalescing(coalesce).start(config, clock, board, |worker| tracker(worker + 1));
    running.map(Some).context("starting the UDP frontend")
}

/// Whether the whole process serves, for `/health`.
struct Vitals {
    serving: AtomicBool,
    clock: Clock,
    udp_is_on: bool,
    udp: OnceLock<hayate_udp::Pulse>,
    actor: Arc<AtomicU64>,
    /// Beats of the actor when they were last seen to grow, and when that was.
    seen: Mutex<(u64, Duration)>,
}

impl Vitals {
    fn new(clock: Clock, actor: Arc<AtomicU64>, document: &Document) -> Self {
        Self {
            serving: AtomicBool::new(false),
            clock,
            udp_is_on: !document.udp.addr.is_off(),
            udp: OnceLock::new(),
            actor,
            seen: Mutex::new((0, Duration::ZERO)),
        }
    }

    fn are_good(&self) -> bool {
        let udp = !self.udp_is_on || self.udp.get().is_some_and(hayate_udp::Pulse::alive);
        self.serving.load(Ordering::Relaxed) && udp && self.actor_beats()
    }

    fn actor_beats(&self) -> bool {
        let (beats, now) = (self.actor.load(Ordering::Relaxed), self.clock.uptime());
        let Ok(mut seen) = self.seen.lock() else { return false };
        if beats != seen.0 {
            *seen = (beats, now);
        }
        now.saturating_sub(seen.1) < ACTOR_STILL_MAX
    }
}

/// Counters of reloads.
struct Reloads {
    ok: Arc<Counter>,
    refused: Arc<Counter>,
}

impl Reloads {
    fn list_on(board: &Board) -> Self {
        let counter = |result| {
            let counter = Arc::new(Counter::default());
            let read = Arc::clone(&counter);
            board.list(Series {
                name: "reloads_total",
                help: "Reloads of the configuration, by result.",
                kind: Kind::Counter,
                labels: vec![("result", result)],
                read: Box::new(move || read.value()),
            });
            counter
        };
        Self { ok: counter("ok"), refused: counter("refused") }
    }
}

/// Lists the daemon's own gauges.
fn list_own(board: &Board, clock: Clock, inbox: &Arc<Mutex<Option<Inbox<Asker>>>>) {
    let gauge =
        |name, help, read| board.list(Series { name, help, kind: Kind::Gauge, labels: Vec::new(), read });
    gauge("uptime_seconds", "Seconds since the start.", Box::new(move || clock.uptime().as_secs()));
    let inbox = Arc::clone(inbox);
    let depth = move || {
        let inbox = inbox.lock().ok();
        inbox.and_then(|inbox| inbox.as_ref().map(Inbox::depth)).unwrap_or(0) as u64
    };
    gauge("inbox_depth", "Questions of the HTTP gateway that wait for the state actor.", Box::new(depth));
}

fn joined<T: Display>(items: &[T]) -> String {
    if items.is_empty() {
        return "none".into();
    }
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A choice of the configuration, as it is written there.
fn word(choice: &impl serde::Serialize) -> String {
    serde_json::to_value(choice).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}
