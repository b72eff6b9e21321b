//! Start, serve, stop. In this order: configuration, sockets, privileges, key, state, servers; and back.
//!
//! | module | what is in it |
//! |---|---|
//! | `startup` | the three ways to start; the factory of trackers |
//! | [`listeners`] | the sockets of both servers, and their start |
//! | [`storage`](mod@storage) | what lasts: store, snapshot, and their threads |
//! | `cluster` | the links of a node of a cluster |
//! | [`signals`] | reload, orderly stop, stop at once |
//! | [`reload`], [`live_settings`] | a new configuration for a running daemon, or a refusal |
//! | [`upgrade`], `handover`, `private_handover` | a successor takes over |
//! | [`health`] | whether the process serves, and its own metrics |
//! | [`registered_torrents`] | the registered torrents, read periodically |
//! | [`jwk_fetch`] | the keys for tokens, fetched over HTTP |

mod cluster;
mod handover;
pub(crate) mod health;
pub(crate) mod jwk_fetch;
pub(crate) mod listeners;
pub(crate) mod live_settings;
mod private_handover;
pub(crate) mod registered_torrents;
pub(crate) mod reload;
pub(crate) mod signals;
mod startup;
pub(crate) mod storage;
pub(crate) mod upgrade;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail};
use hayate_gateway::ReplyTo;
use hayate_state::actor::{Actor, Inbox};
use hayate_state::cluster::running::Cluster;
use hayate_state::snapshot::thread::Ending;
use hayate_state::{Board, Clock, Policy};
use hayate_udp::Server as UdpServer;
use sd_notify::NotifyState;

use crate::commands::cli::OutputOptions;
use crate::config::{Config, Document, NOT_READ, Settings, Source};
use crate::daemon::health::{ProcessHealth, ReloadMetrics, register_daemon_metrics, register_policy_metrics};
use crate::daemon::jwk_fetch::JwkSets;
use crate::daemon::listeners::{Listening, NewSockets, joined, start_http, start_udp};
use crate::daemon::live_settings::LiveSettings;
use crate::daemon::reload::{ReloadInputs, ReloadOutcome, RunningReload};
use crate::daemon::signals::{FlushSlot, MainEvent, MainEvents};
use crate::daemon::storage::{DATABASE_MAX, Storage};
use crate::daemon::upgrade::{Inherited, ServingSuccessor, Sockets, StartingSuccessor};
use crate::process::malloc_trim::MemoryTrimmer;
use crate::process::{connection_id_key, file_limit, logging, privileges, systemd};
use cluster::{CLUSTER_MIN, start_links};
use handover::Deferred;
use private_handover::PrivateHandover;
use startup::{StartFrom, load_state, new_storage, open_servers, tracker_factory};

/// Time between two checks of the main thread whether all threads live.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Serves until a signal ends it.
///
/// # Errors
/// Fails when the configuration is not accepted, a socket cannot be opened, or a part of the tracker dies.
pub(crate) fn serve(source: &Source, output: &OutputOptions) -> anyhow::Result<()> {
    signals::block_signals().context("blocking signals")?;
    let flush_slot = FlushSlot::default();
    let jwk_sets = JwkSets::default();
    let config = source.read_config().context(NOT_READ)?;
    // Before any other thread is started: each thread has privileges of its own.
    let sealed = privileges::seal_privileges(&config.document.privileges);
    let (sender, main_events) = signals::start_listening(&flush_slot).context("listening to signals")?;
    let inherited = Inherited::receive(config.remembered())?;
    let mut settings = config.read_settings(&jwk_sets).context(NOT_READ)?;
    settings.warn_of_unreadable_files(&config);
    settings.warnings.extend(sealed.err().map(|error| error.to_string()));
    logging::start_in_thread(output, &config.document.log).context("starting the log")?;
    log::info!("hayate {}", env!("CARGO_PKG_VERSION"));
    settings.log_warnings();
    let files_max = file_limit::raise_limit();
    file_limit::lower_connections(&mut settings, files_max);
    let origin = inherited.map_or(StartFrom::Scratch, StartFrom::Predecessor);
    let mut daemon =
        Daemon::start(source.clone(), config, settings, files_max, (sender, flush_slot), jwk_sets, origin)?;
    loop {
        daemon.main_events.set_ready();
        match daemon.event_loop(&main_events) {
            Ok(StopReason::Handover(successor)) => return daemon.stop_after_handover(*successor),
            Ok(StopReason::Signal) => return daemon.stop(),
            Ok(StopReason::PrivateHandover(handover)) => match daemon.hand_over_private(*handover)? {
                Some(restarted) => daemon = restarted,
                None => return Ok(()),
            },
            Err(error) => {
                // Its own errors are in the log; why the process ends is more important.
                let _ = daemon.stop();
                return Err(error);
            }
        }
    }
}

/// The running tracker.
struct Daemon {
    source: Source,
    config: Config,
    files_max: Option<usize>,
    live_settings: LiveSettings,
    running_reload: Option<RunningReload>,
    jwk_sets: JwkSets,
    listening: Listening,
    health: Arc<ProcessHealth>,
    reload_metrics: ReloadMetrics,
    actor: Actor,
    clock: Clock,
    board: Arc<Board>,
    storage: Storage,
    /// The links to the other nodes; `None` without a cluster.
    cluster: Option<Arc<Cluster>>,
    memory_trimmer: MemoryTrimmer,
    inbox: Arc<Mutex<Option<Inbox<ReplyTo>>>>,
    http: hayate_gateway::RunningServer,
    udp: Option<hayate_udp::RunningServer>,
    /// The path of the program file when this process started, for a successor.
    program: PathBuf,
    sockets: Arc<Mutex<Sockets>>,
    main_events: MainEvents,
    flush_slot: FlushSlot,
    /// A successor that is starting.
    starting: Option<StartingSuccessor>,
    /// Requests that wait.
    deferred: Deferred,
}

/// Logs the rules by which the tracker will decide.
fn log_start(document: &Document, policy: &Policy) {
    log::info!(
        "starting tracker logic: mode {}, access {}, hooks {}",
        config_word(&document.mode),
        config_word(&document.access.mode),
        joined(&policy.hooks.names().collect::<Vec<_>>()),
    );
}

fn log_metrics_server(addresses: &[SocketAddr]) {
    if !addresses.is_empty() {
        log::info!("starting metrics server on {}", joined(addresses));
    }
}

/// Why the daemon stops serving.
enum StopReason {
    /// A signal asked for it.
    Signal,
    /// A successor serves.
    Handover(Box<ServingSuccessor>),
    /// In mode private: a successor serves as soon as this process has put everything on the disk.
    PrivateHandover(Box<PrivateHandover>),
}

impl Daemon {
    fn start(
        source: Source,
        config: Config,
        mut settings: Settings,
        files_max: Option<usize>,
        (main_events, flush_slot): (MainEvents, FlushSlot),
        jwk_sets: JwkSets,
        origin: StartFrom,
    ) -> anyhow::Result<Self> {
        let program = match &origin {
            // Another file may be in its place by now.
            StartFrom::OwnSockets(_, _, program) => program.clone(),
            _ => std::env::current_exe().context("the path of this program")?,
        };
        let (servers, lock, predecessor) = open_servers(&settings, config.document.mode, origin)?;
        let sockets = servers.share().context("sharing the sockets")?;
        connection_id_key::provide_key(&mut settings).context("the key of the UDP connection ids")?;
        log_metrics_server(&servers.http.metrics_addresses());
        let listening = Listening::from_settings(&settings);
        let document = &config.document;
        let (clock, board) = (Clock::start(), Arc::new(Board::default()));
        let mut storage = new_storage(&settings, document, lock, clock, &board)?;
        let delta_stream = load_state(&mut storage, &mut settings.policy, predecessor, clock, &main_events)?;
        log::info!("started storage");
        let udp_config = settings.udp.map(|(_, config)| config);
        let live_settings = LiveSettings::new(settings.policy, udp_config, settings.http);
        log_start(document, &live_settings.policy.current());
        let tracker = tracker_factory(&storage, &live_settings.policy)?;
        let (actor, inbox) = Actor::start(tracker(0), clock).context("starting the state actor")?;
        let policy = &live_settings.policy;
        let is_upgrade = delta_stream.is_some();
        let cluster = start_links(settings.cluster, &mut storage, policy, (clock, &board), is_upgrade)?;
        let health = Arc::new(ProcessHealth::new(clock, actor.turn_counter(), &flush_slot));
        let reload_metrics = ReloadMetrics::register_metrics(&board);
        let kept_inbox = Arc::new(Mutex::new(Some(inbox.clone())));
        register_daemon_metrics(&board, clock, &kept_inbox);
        register_policy_metrics(&board, &live_settings.policy);
        let unix_socket = settings.listen.unix_socket.as_deref();
        let admin_api = storage.admin_api(settings.admin_token.as_ref(), document, &live_settings.policy);
        let pages = health.pages(admin_api, &board);
        let site_data = storage.site.as_ref().map(|site| &site.site_data);
        let http = start_http(servers.http, unix_socket, &live_settings, site_data, inbox, clock, pages)?;
        let udp = start_udp(servers.udp, document, &live_settings, clock, &board, tracker)?;
        health.set_udp(udp.as_ref());
        health.serving.store(true, Ordering::Relaxed);
        if delta_stream.is_none() || storage.site.is_some() {
            storage.start(&board, &main_events, &flush_slot)?;
        }
        if let Some(delta_stream) = delta_stream {
            delta_stream.start_receiving(&storage, live_settings.policy.current(), clock, &main_events)?;
        }
        log::info!("serving");
        systemd::notify(NotifyState::Ready);
        let (inbox, memory_trimmer) = (kept_inbox, MemoryTrimmer::default());
        Ok(Self {
            source,
            config,
            files_max,
            live_settings,
            running_reload: None,
            jwk_sets,
            listening,
            health,
            reload_metrics,
            actor,
            clock,
            board,
            storage,
            cluster,
            memory_trimmer,
            inbox,
            http,
            udp,
            program,
            sockets: Arc::new(Mutex::new(sockets)),
            main_events,
            flush_slot,
            starting: None,
            deferred: Deferred::default(),
        })
    }

    /// Handles events until one asks to stop or a successor serves.
    fn event_loop(&mut self, main_events: &Receiver<MainEvent>) -> anyhow::Result<StopReason> {
        loop {
            let event = main_events.recv_timeout(CHECK_INTERVAL);
            if matches!(event, Ok(MainEvent::Reload)) {
                self.main_events.reload_received();
            }
            match event {
                Ok(MainEvent::Reload) if self.starting.is_some() => self.deferred.reload = true,
                Ok(MainEvent::Reload) => self.begin_reload(),
                Ok(MainEvent::ReloadRead(planned)) => self.finish_reload(*planned),
                Ok(MainEvent::Registered(list)) => self.live_settings.set_registered(list),
                Ok(MainEvent::Upgrade) => self.upgrade(),
                Ok(MainEvent::PredecessorEnded) => self.predecessor_ended(),
                Ok(MainEvent::StoreOpened(opened)) => {
                    if self.take_over_store(*opened)? {
                        return Ok(StopReason::Signal);
                    }
                }
                Ok(MainEvent::Stop) if self.storage.is_started() => return Ok(StopReason::Signal),
                Ok(MainEvent::Stop) => {
                    log::info!("stopping as soon as the predecessor has ended");
                    self.deferred.stop_at = Some(self.clock.uptime() + DATABASE_MAX);
                }
                Ok(MainEvent::SuccessorStarted) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("the thread that takes signals has ended"),
            }
            if let Some(starting) = self.starting.take_if(|starting| starting.is_done()) {
                match self.hand_over(starting, main_events) {
                    Ok(Some(reason)) => return Ok(reason),
                    Ok(None) => {}
                    Err(error) => return Err(error),
                }
            }
            if self.deferred.stop_at.is_some_and(|at| at <= self.clock.uptime()) {
                return Ok(StopReason::Signal);
            }
            self.check_threads()?;
            self.memory_trimmer
                .trim_if_shrunk(self.storage.reporter.source().memory(), self.http.connections());
        }
    }

    fn check_threads(&mut self) -> anyhow::Result<()> {
        if self.running_reload.as_ref().is_some_and(RunningReload::has_failed) {
            self.running_reload = None;
            self.reload_metrics.refused.add(1);
            log::error!("reload refused: its thread ended with a panic");
        }
        if !self.actor.is_alive() {
            bail!("the state actor has ended");
        }
        if self.udp.as_ref().is_some_and(|udp| !udp.is_serving()) {
            bail!("a worker of the UDP server has ended");
        }
        if !self.http.is_serving() {
            bail!("the HTTP gateway has ended");
        }
        // `/health` reports stalled threads; here only the time is noted.
        self.health.all_threads_move();
        if !self.storage.is_alive() {
            bail!("a thread of the storage has ended");
        }
        if self.cluster.as_ref().is_some_and(|cluster| !cluster.is_alive()) {
            bail!("a link of the cluster has ended");
        }
        Ok(())
    }

    /// Takes over what only one process may do.
    fn predecessor_ended(&mut self) {
        if let Some(cluster) = &self.cluster {
            cluster.serve();
        }
        if !self.storage.is_started() {
            self.storage.open_late(&self.main_events);
        }
    }

    /// Starts a reload, or notes that another one is due after the one that is under way.
    fn begin_reload(&mut self) {
        if let Some(reloading) = &mut self.running_reload {
            reloading.again = true;
            return;
        }
        let inputs = ReloadInputs {
            running: self.config.clone(),
            source: self.source.clone(),
            jwk_sets: self.jwk_sets.clone(),
            listening: self.listening.clone(),
            access_list: Arc::clone(&self.storage.access_list),
        };
        let main_events = self.main_events.clone();
        let send = move |outcome| main_events.send(MainEvent::ReloadRead(Box::new(outcome)));
        match RunningReload::begin(inputs, send) {
            Ok(reloading) => self.running_reload = Some(reloading),
            Err(error) => {
                self.reload_metrics.refused.add(1);
                log::error!("reload refused: its thread cannot be started: {error}");
            }
        }
    }

    /// Applies what a reload has read, and then carries out what has waited for it.
    fn finish_reload(&mut self, planned: ReloadOutcome) {
        self.apply_reload(planned);
        let Some(RunningReload { again, upgrade, .. }) = self.running_reload.take() else { return };
        if upgrade {
            self.upgrade();
        }
        if again {
            match self.starting {
                Some(_) => self.deferred.reload = true,
                None => self.begin_reload(),
            }
        }
    }

    fn apply_reload(&mut self, planned: ReloadOutcome) {
        match planned.plan {
            Err(error) => {
                self.reload_metrics.refused.add(1);
                log::error!("reload refused: {error}");
            }
            Ok(mut plan) => {
                plan.settings.log_warnings();
                if !plan.restart_keys.is_empty() {
                    log::warn!("changed, but waiting for a restart: {}", plan.restart_keys.join(", "));
                }
                file_limit::lower_connections(&mut plan.settings, self.files_max);
                self.config = plan.config;
                self.storage.reload(&plan.settings.storage);
                self.listening = Listening::from_settings(&plan.settings);
                self.live_settings.apply(plan.settings);
                self.switch_sockets(plan.sockets);
                self.reload_metrics.ok.add(1);
                log::info!("reloaded");
            }
        }
    }

    /// Serves on sockets that a reload has opened, and then stops serving on those that they replace.
    fn switch_sockets(&mut self, new: NewSockets) {
        if let Ok(mut sockets) = self.sockets.lock()
            && let Err(error) = new.share(&mut sockets)
        {
            log::warn!("an upgrade will not have the new sockets: {error}");
        }
        self.http.change_listeners(new.http);
        let Some(server) = new.udp else { return };
        if let Err(error) = self.serve_udp(server) {
            log::error!("the UDP server keeps its old addresses: {error:#}");
        }
    }

    /// Starts this UDP server, and then stops the one before.
    fn serve_udp(&mut self, server: Option<UdpServer>) -> anyhow::Result<()> {
        let document = &self.config.document;
        let tracker = tracker_factory(&self.storage, &self.live_settings.policy)?;
        let new = start_udp(server, document, &self.live_settings, self.clock, &self.board, tracker)?;
        self.health.set_udp(new.as_ref());
        if let Some(old) = std::mem::replace(&mut self.udp, new) {
            old.stop();
        }
        Ok(())
    }

    /// Stops accepting, answers what is in flight, and waits for the state actor. Every wait is bounded.
    fn stop(mut self) -> anyhow::Result<()> {
        self.health.serving.store(false, Ordering::Relaxed);
        log::info!("stopping");
        let links_until = self.clock.uptime() + hayate_gateway::STOP_MAX + CLUSTER_MIN;
        self.storage.save();
        if let Some(starting) = self.starting.take() {
            starting.give_up();
            self.refuse_upgrade("the tracker is stopping");
        }
        self.storage.reporter.stop();
        systemd::notify(NotifyState::Stopping);
        self.http.stop();
        if let Some(udp) = self.udp {
            udp.stop();
        }
        drop_inbox(&self.inbox);
        self.actor.join();
        self.cluster.inspect(|cluster| cluster.stop(links_until));
        let stopped = self.storage.stop(Ending::Write);
        log::info!("stopped");
        stopped
    }
}

fn drop_inbox(inbox: &Mutex<Option<Inbox<ReplyTo>>>) {
    if let Ok(mut inbox) = inbox.lock() {
        // The last sender: the actor ends when it is gone.
        inbox.take();
    }
}

/// Returns a choice of the configuration as it is spelled there.
fn config_word(choice: &impl serde::Serialize) -> String {
    serde_json::to_value(choice).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_waits_of_a_stop_are_less_than_the_eight_seconds_that_it_may_take() {
        let waits =
            [systemd::NOTIFY_MAX, hayate_gateway::STOP_MAX, CLUSTER_MIN, DATABASE_MAX, logging::FLUSH_MAX];
        // The rest is for the disk.
        assert!(waits.iter().sum::<Duration>() <= Duration::from_millis(7500), "{waits:?}");
    }
}
