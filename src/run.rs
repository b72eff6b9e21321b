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
use crate::reload::{Basis, Levers, Planned, Reloading};
use crate::signals::{self, Attention, Boat, Wish, Wishes};
use crate::storage::Storage;
use crate::vitals::{Reloads, Vitals, list_own, list_policy};
use crate::{commands, files, key, logging, ownership, systemd};

/// How often the main thread looks whether everything lives.
const LOOK_ROUND: Duration = Duration::from_secs(1);

/// Serves until a signal ends it.
///
/// # Errors
/// When the configuration is not accepted, a socket cannot be opened, or a part of the tracker dies.
pub(crate) fn serve(source: &Source, look: &Look) -> anyhow::Result<()> {
    let (boat, attention) = (Boat::default(), Attention::default());
    let (sender, wishes) = signals::listen(&boat, &attention).context("listening to signals")?;
    let keyrings = JwkSets::default();
    let (config, mut settings) = commands::read(source, &keyrings)?;
    logging::start_beside(look, &config.document.log).context("starting the log")?;
    log::info!("hayate {}", env!("CARGO_PKG_VERSION"));
    settings.say_what_was_read();
    let files_max = files::raise_limit();
    files::fit(&mut settings, files_max);
    let inheritance = Inheritance::receive()?;
    let mut daemon =
        Daemon::start(source.clone(), config, settings, files_max, (sender, boat), keyrings, inheritance)?;
    attention.attends();
    daemon.attention = attention;
    match daemon.attend(&wishes) {
        Ok(End::Succession(successor)) => daemon.make_way(*successor),
        Ok(End::Stop) => daemon.stop(),
        Err(error) => {
            // What it says is in the log; why the process ends is more important.
            let _ = daemon.stop();
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
    reloading: Option<Reloading>,
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
    attention: Attention,
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
        let (vitals, reloads) =
            (Arc::new(Vitals::new(clock, actor.beats(), &boat)), Reloads::list_on(&board));
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
        systemd::notify(NotifyState::Ready);
        let (inbox, returner) = (kept_inbox, Returner::default());
        Ok(Self {
            source,
            config,
            files_max,
            levers,
            reloading: None,
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
            attention: Attention::default(),
        })
    }

    /// Does what signals ask for, until one asks to stop.
    fn attend(&mut self, wishes: &Receiver<Wish>) -> anyhow::Result<End> {
        loop {
            match wishes.recv_timeout(LOOK_ROUND) {
                Ok(Wish::Reload) => self.reload(),
                Ok(Wish::Planned(planned)) => {
                    if let Some(successor) = self.reloaded(*planned) {
                        return Ok(End::Succession(Box::new(successor)));
                    }
                }
                Ok(Wish::Registered(list)) => self.levers.register(list),
                Ok(Wish::Upgrade) => {
                    if let Some(successor) = self.upgrade() {
                        return Ok(End::Succession(Box::new(successor)));
                    }
                }
                Ok(Wish::Inherited) => self.storage.open_late(&self.wishes),
                Ok(Wish::Opened(opened)) => {
                    self.storage.start_late(*opened, &self.board, &self.wishes, &self.boat)?;
                }
                Ok(Wish::Stop) => return Ok(End::Stop),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("the thread that takes signals has ended"),
            }
            self.look_round()?;
            self.returner.look(&self.storage.swarms);
        }
    }

    fn look_round(&mut self) -> anyhow::Result<()> {
        if self.reloading.as_ref().is_some_and(Reloading::has_failed) {
            self.reloading = None;
            self.reloads.refused.add(1);
            log::error!("reload refused: its thread ended with a panic");
        }
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

    /// Begins a reload, or notes that another one is due when the one under way is done.
    fn reload(&mut self) {
        if let Some(reloading) = &mut self.reloading {
            reloading.again = true;
            return;
        }
        let basis = Basis {
            running: self.config.clone(),
            source: self.source.clone(),
            keyrings: self.keyrings.clone(),
            listening: self.listening.clone(),
            book: Arc::clone(&self.storage.book),
        };
        match Reloading::begin(basis, self.wishes.clone()) {
            Ok(reloading) => self.reloading = Some(reloading),
            Err(error) => {
                self.reloads.refused.add(1);
                log::error!("reload refused: no thread for it: {error}");
            }
        }
    }

    /// Carries out what a reload has read, and then what has waited for it.
    fn reloaded(&mut self, planned: Planned) -> Option<Successor> {
        self.carry_out(planned);
        let Reloading { again, upgrade, .. } = self.reloading.take()?;
        let successor = if upgrade { self.raise_successor() } else { None };
        if successor.is_none() && again {
            self.reload();
        }
        successor
    }

    fn carry_out(&mut self, planned: Planned) {
        match planned.plan {
            Err(error) => {
                self.reloads.refused.add(1);
                log::error!("reload refused: {error}");
            }
            Ok(mut plan) => {
                plan.settings.say_what_was_read();
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

    /// Starts a successor, or notes that one is due when the reload under way is done.
    fn upgrade(&mut self) -> Option<Successor> {
        let Some(reloading) = &mut self.reloading else { return self.raise_successor() };
        log::info!("the upgrade waits for the reload that is under way");
        reloading.upgrade = true;
        None
    }

    /// Starts a successor and tells it all; `None` if that did not succeed, and this process serves on.
    fn raise_successor(&self) -> Option<Successor> {
        log::info!("upgrading: starting {}", self.program.display());
        let Storage { swarms, lock, .. } = &self.storage;
        let refusal = if self.storage.site.is_some() {
            "in mode private there is no successor: a restart keeps all peers".into()
        } else if !self.storage.is_settled() {
            "this process has not yet taken over from its predecessor".into()
        } else if !self.storage.book.close() {
            "the list of torrents is being changed".into()
        } else {
            let Self { program, estate, clock, attention, .. } = self;
            match Successor::raise(program, estate, lock, swarms, *clock, attention) {
                Ok(successor) => return Some(successor),
                Err(error) => {
                    self.storage.book.open();
                    if attention.has_waited() {
                        format!("{error:#}")
                    } else {
                        "the tracker is stopping".into()
                    }
                }
            }
        };
        // First: whoever has read the log finds it there.
        if let Err(error) = lock.sign(&refusal) {
            log::warn!("the lock file: {error}");
        }
        log::error!("upgrade refused: {refusal}");
        None
    }

    /// Stops accepting, answers what is in flight, and waits for the state actor. Every wait is bounded.
    fn stop(self) -> anyhow::Result<()> {
        self.vitals.serving.store(false, Ordering::Relaxed);
        log::info!("stopping");
        self.storage.save();
        self.storage.survey.stop();
        systemd::notify(NotifyState::Stopping);
        self.http.stop();
        if let Some(udp) = self.udp {
            udp.stop();
        }
        drop_inbox(&self.inbox);
        self.actor.join();
        let kept = self.storage.stop(Ending::Write);
        log::info!("stopped");
        kept
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
            systemd::notify(NotifyState::MainPid(successor.pid()));
        }
        self.vitals.serving.store(false, Ordering::Relaxed);
        self.http.stop_for_successor();
        drop_inbox(&self.inbox);
        self.actor.join();
        // Without a successor the swarms are only here.
        let ending = if gone.is_ok() { Ending::Leave } else { Ending::Write };
        let farewell = gone.and_then(|()| successor.finish());
        let kept = self.storage.stop(ending);
        log::info!("stopped");
        farewell.map(drop).context("the upgrade failed halfway, and the tracker has stopped").and(kept)
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
    let (intervals, memory) = (&document.intervals, &document.memory);
    let memory = if memory.max.octets() == 0 { "unlimited".into() } else { memory.max.to_string() };
    log::info!(
        "starting storage: swarms in memory ({memory}), peer_inactivity {}, purge_inactive_peers {}",
        intervals.peer_inactivity,
        intervals.purge_inactive_peers,
    );
    let swarms = Swarms::new(document.announce.peers_per_address.as_u16());
    swarms.list_on(board);
    ownership::check(&settings.keep.state_dir)?;
    let (lock, stream) = match legacy {
        None => (StateLock::take(&settings.keep.state_dir)?, None),
        Some((lock, stream)) => (StateLock::inherit(lock), Some(stream)),
    };
    Ok((Storage::new(settings.keep.clone(), document.mode, lock, swarms, clock), stream))
}

/// A choice of the configuration, as it is written there.
fn word(choice: &impl serde::Serialize) -> String {
    serde_json::to_value(choice).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::DATABASE_MAX;

    #[test]
    fn all_waits_of_a_stop_are_less_than_the_eight_seconds_that_it_may_take() {
        let waits = [systemd::NOTIFY_MAX, hayate_gateway::STOP_MAX, DATABASE_MAX, logging::LAST_LINES];
        // The rest is for the disk.
        assert!(waits.iter().sum::<Duration>() <= Duration::from_millis(7500), "{waits:?}");
    }
}
