//! Start, serve, stop. In this order: configuration, sockets, key, privileges, state, doors; and back.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail};
use hayate_gateway::Asker;
use hayate_state::actor::{Actor, Inbox};
use hayate_state::snapshot::keeper::Ending;
use hayate_state::{Board, Clock, Policy, Swarms};
use sd_notify::NotifyState;

use crate::cli::Look;
use crate::config::{Config, Document, Settings, Source};
use crate::handover::{Estate, Inheritance, Reception, Successor};
use crate::keyrings::JwkSets;
use crate::listeners::{Listening, NewSockets, Sockets, joined, start_http, start_udp, trackers};
use crate::lock::StateLock;
use crate::memory::Returner;
use crate::reload::{self, Levers};
use crate::signals::{self, Boat, Wish, Wishes};
use crate::storage::Storage;
use crate::vitals::{Reloads, Vitals, list_own, list_policy};
use crate::{commands, files, key, logging};

/// How often the main thread looks whether everything lives.
const LOOK_ROUND: Duration = Duration::from_secs(1);
/// Serves until a signal ends it.
///
/// # Errors
/// When the configuration is not accepted, a socket cannot be opened, or a part of the tracker dies.
pub(crate) fn serve(source: &Source, look: &Look) -> anyhow::Result<()> {
    let boat = Boat::default();
    let (sender, wishes) = signals::listen(&boat).context("listening to signals")?;
    let keyrings = JwkSets::default();
    let (config, mut settings) = commands::read(source, &keyrings)?;
    logging::start(look, &config.document.log);
    log::info!("hayate {}", env!("CARGO_PKG_VERSION"));
    for warning in &settings.warnings {
        log::warn!("{warning}");
    }
    let files_max = files::raise_limit();
    files::fit(&mut settings, files_max);
    let inheritance = Inheritance::receive()?;
    let mut daemon =
        Daemon::start(source.clone(), config, settings, files_max, (sender, boat), keyrings, inheritance)?;
    match daemon.attend(&wishes) {
        Ok(End::Succession(successor)) => daemon.make_way(*successor),
        Ok(End::Stop) => {
            daemon.stop();
            Ok(())
        }
        Err(error) => {
            daemon.stop();
            Err(error)
        }
    }
}

/// The running tracker.
struct Daemon {
    source: Source,
    config: Config,
    files_max: Option<usize>,
    levers: Levers,
    keyrings: JwkSets,
    listening: Listening,
    vitals: Arc<Vitals>,
    reloads: Reloads,
    actor: Actor,
    clock: Clock,
    board: Arc<Board>,
    storage: Storage,
    returner: Returner,
    inbox: Arc<Mutex<Option<Inbox<Asker>>>>,
    http: hayate_gateway::Running,
    udp: Option<hayate_udp::Running>,
    /// The program file as it was called when this process started, for a successor.
    program: PathBuf,
    estate: Estate,
    wishes: Wishes,
    boat: Boat,
}

/// Tells the operator what the tracker will decide by.
fn say_what_starts(document: &Document, policy: &Policy) {
    log::info!(
        "starting tracker logic: mode {}, access {}, hooks {}",
        word(&document.mode),
        word(&document.access.mode),
        joined(&policy.hooks.names().collect::<Vec<_>>()),
    );
}

/// Why the daemon ceases to serve.
enum End {
    /// A signal asked for it.
    Stop,
    /// A successor is ready.
    Succession(Box<Successor>),
}

impl Daemon {
    fn start(
        source: Source,
        config: Config,
        mut settings: Settings,
        files_max: Option<usize>,
        (wishes, boat): (Wishes, Boat),
        keyrings: JwkSets,
        inheritance: Option<Inheritance>,
    ) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("the path of this program")?;
        let (sockets, legacy) = match inheritance {
            None => (Sockets::open(&settings)?, None),
            Some(inheritance) => {
                let (udp, http, lock, stream) = inheritance.into_parts();
                (Sockets::adopt(&settings, udp, http)?, Some((lock, stream)))
            }
        };
        let estate = sockets.share().context("sharing the sockets")?;
        key::settle(&mut settings).context("the key of the UDP connection ids")?;
        drop_privileges(&settings)?;
        let metrics = sockets.http.metrics_addresses();
        if !metrics.is_empty() {
            log::info!("starting metrics server on {}", joined(&metrics));
        }
        let listening = Listening::of(&settings);
        let document = &config.document;
        let (clock, board) = (Clock::start(), Arc::new(Board::default()));
        let (mut storage, stream) = storage(&settings, document, legacy, clock, &board)?;
        let reception = know(&mut storage, &mut settings.policy, stream, clock)?;
        log::info!("started storage");
        let levers = Levers::new(settings.policy, settings.udp.map(|(_, door)| door), settings.http);
        say_what_starts(document, &levers.policy.current());
        let tracker = trackers(&storage, &levers.policy)?;
        let (actor, inbox) = Actor::start(tracker(0), clock).context("starting the state actor")?;
        let (vitals, reloads) = (Arc::new(Vitals::new(clock, actor.beats())), Reloads::list_on(&board));
        let kept_inbox = Arc::new(Mutex::new(Some(inbox.clone())));
        list_own(&board, clock, &kept_inbox);
        list_policy(&board, &levers.policy);
        let unix_socket = settings.listen.unix_socket.as_deref();
        let desk = storage.desk(settings.admin_token.as_ref(), document, &levers.policy);
        let pages = vitals.pages(desk, &board);
        let register = storage.site.as_ref().map(|site| &site.register);
        let http = start_http(sockets.http, unix_socket, &levers, register, inbox, clock, pages)?;
        let udp = start_udp(sockets.udp, document, &levers, clock, &board, tracker)?;
        vitals.watch_udp(udp.as_ref());
        vitals.serving.store(true, Ordering::Relaxed);
        match reception {
            None => storage.start(&board, &wishes, &boat)?,
            Some(reception) => reception.go_on(&storage, levers.policy.current(), clock, &wishes)?,
        }
        log::info!("serving");
        notify(&[NotifyState::Ready]);
        let (inbox, returner) = (kept_inbox, Returner::default());
        Ok(Self {
            source,
            config,
            files_max,
            levers,
            keyrings,
            listening,
            vitals,
            reloads,
            actor,
            clock,
            board,
            storage,
            returner,
            inbox,
            http,
            udp,
            program,
            estate,
            wishes,
            boat,
        })
    }

    /// Does what signals ask for, until one asks to stop.
    fn attend(&mut self, wishes: &Receiver<Wish>) -> anyhow::Result<End> {
        loop {
            match wishes.recv_timeout(LOOK_ROUND) {
                Ok(Wish::Reload) => self.reload(),
                Ok(Wish::Registered(list)) => self.levers.register(list),
                Ok(Wish::Upgrade) => {
                    if let Some(successor) = self.raise_successor() {
                        return Ok(End::Succession(Box::new(successor)));
                    }
                }
                Ok(Wish::Inherited) => {
                    self.storage.start_late(&self.board, &self.wishes, &self.boat);
                }
                Ok(Wish::Stop) => return Ok(End::Stop),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("the thread that takes signals has ended"),
            }
            self.look_round()?;
            self.returner.look(self.storage.survey.place().memory());
        }
    }

    fn look_round(&self) -> anyhow::Result<()> {
        if !self.actor.is_alive() {
            bail!("the state actor has ended");
        }
        if self.udp.as_ref().is_some_and(|udp| !udp.alive()) {
            bail!("a worker of the UDP frontend has ended");
        }
        if !self.http.is_serving() {
            bail!("the HTTP frontend has ended");
        }
        if !self.storage.is_alive() {
            bail!("a thread of the storage has ended");
        }
        Ok(())
    }

    fn reload(&mut self) {
        // What the desk changes meanwhile would be neither in what was read nor in what is published.
        let book = Arc::clone(&self.storage.book);
        let _turn = book.turn();
        match reload::plan(&self.config, &self.source, &self.keyrings, &self.listening) {
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
                self.storage.reload(&plan.settings.keep);
                self.listening = Listening::of(&plan.settings);
                self.levers.pull(plan.settings);
                self.listen(plan.sockets);
                self.reloads.ok.add(1);
                log::info!("reloaded");
            }
        }
    }

    /// Serves at sockets that a reload has opened, and then no more at those that they replace.
    fn listen(&mut self, sockets: NewSockets) {
        if let Err(error) = sockets.share(&mut self.estate) {
            log::warn!("an upgrade will not have the new sockets: {error}");
        }
        self.http.change(sockets.http);
        let Some(door) = sockets.udp else { return };
        let document = &self.config.document;
        let started = trackers(&self.storage, &self.levers.policy)
            .and_then(|tracker| start_udp(door, document, &self.levers, self.clock, &self.board, tracker));
        match started {
            Ok(new) => {
                self.vitals.watch_udp(new.as_ref());
                if let Some(old) = std::mem::replace(&mut self.udp, new) {
                    old.stop();
                }
            }
            Err(error) => log::error!("the UDP frontend stays where it was: {error:#}"),
        }
    }

    /// Starts a successor and tells it all; `None` if that did not succeed, and this process serves on.
    fn raise_successor(&self) -> Option<Successor> {
        log::info!("upgrading: starting {}", self.program.display());
        let Storage { swarms, lock, .. } = &self.storage;
        let refusal = if self.storage.site.is_some() {
            "in mode private there is no successor: a restart keeps all peers".into()
        } else if self.storage.is_settled() {
            self.storage.book.close();
            match Successor::raise(&self.program, &self.estate, lock, swarms, self.clock) {
                Ok(successor) => return Some(successor),
                Err(error) => {
                    self.storage.book.open();
                    format!("{error:#}")
                }
            }
        } else {
            "this process has not yet taken over from its predecessor".into()
        };
        log::error!("upgrade refused: {refusal}");
        if let Err(error) = lock.sign(&refusal) {
            log::warn!("the lock file: {error}");
        }
        None
    }

    /// Stops accepting, answers what is in flight, and waits for the state actor.
    fn stop(self) {
        self.vitals.serving.store(false, Ordering::Relaxed);
        log::info!("stopping");
        self.storage.survey.stop();
        notify(&[NotifyState::Stopping]);
        self.http.stop();
        if let Some(udp) = self.udp {
            udp.stop();
        }
        drop_inbox(&self.inbox);
        self.actor.join();
        self.storage.stop(Ending::Write);
        log::info!("stopped");
    }

    /// Lets a successor serve, and ends.
    fn make_way(self, mut successor: Successor) -> anyhow::Result<()> {
        log::info!("process {} takes over", successor.pid());
        self.storage.survey.stop();
        if let Some(udp) = self.udp {
            udp.stop();
        }
        let gone = successor.go();
        if gone.is_ok() {
            // Else the end of this process would be the end of the service.
            notify(&[NotifyState::MainPid(successor.pid())]);
        }
        self.vitals.serving.store(false, Ordering::Relaxed);
        self.http.stop_for_successor();
        drop_inbox(&self.inbox);
        self.actor.join();
        // Without a successor the swarms are only here.
        let ending = if gone.is_ok() { Ending::Leave } else { Ending::Write };
        let farewell = gone.and_then(|()| successor.finish());
        self.storage.stop(ending);
        log::info!("stopped");
        farewell.map(drop).context("the upgrade failed halfway, and the tracker has stopped")
    }
}

/// Tells systemd, if it waits for it (`Type=notify`).
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::warn!("systemd was not told {states:?}: {error}");
    }
}

fn drop_inbox(inbox: &Mutex<Option<Inbox<Asker>>>) {
    if let Ok(mut inbox) = inbox.lock() {
        // The last sender: the actor ends when it is gone.
        inbox.take();
    }
}

/// Brings back what the last run knew, or takes it in from a predecessor, who has more to tell then.
fn know(
    storage: &mut Storage,
    policy: &mut Policy,
    predecessor: Option<UnixStream>,
    clock: Clock,
) -> anyhow::Result<Option<Reception>> {
    let Some(stream) = predecessor else {
        storage.load(policy)?;
        policy.registered = storage.registered()?;
        return Ok(None);
    };
    if storage.site.is_some() {
        bail!("the running tracker is not in mode private; a restart changes that");
    }
    policy.registered = storage.registered()?;
    Inheritance::take_in(stream, &storage.swarms, policy, clock).map(Some).context("taking over")
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

/// What lasts, and the stream of a predecessor, if there is one.
fn storage(
    settings: &Settings,
    document: &Document,
    legacy: Option<(File, UnixStream)>,
    clock: Clock,
    board: &Board,
) -> anyhow::Result<(Storage, Option<UnixStream>)> {
    let (intervals, octets) = (&document.intervals, settings.policy.memory_max);
    let memory = if octets == 0 { "unlimited".into() } else { format!("at most {} MiB", octets >> 20) };
    log::info!(
        "starting storage: swarms in memory ({memory}), peer_inactivity {}, purge_inactive_peers {}",
        intervals.peer_inactivity,
        intervals.purge_inactive_peers,
    );
    let swarms = Swarms::new(document.announce.peers_per_address.as_u16());
    let (lock, stream) = match legacy {
        None => (StateLock::take(&settings.keep.state_dir)?, None),
        Some((lock, stream)) => (StateLock::inherit(lock), Some(stream)),
    };
    let storage = Storage::new(settings.keep.clone(), document.mode, lock, swarms, clock);
    storage.survey.place().list_on(board);
    Ok((storage, stream))
}

/// A choice of the configuration, as it is written there.
fn word(choice: &impl serde::Serialize) -> String {
    serde_json::to_value(choice).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}
