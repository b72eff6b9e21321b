//! Start, serve, stop. In this order: configuration, sockets, key, privileges, state, doors; and back.

use std::fs::File;
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
use hayate_udp::Door as UdpDoor;
use sd_notify::NotifyState;

use crate::cli::Look;
use crate::config::{Config, Document, Settings, Source};
use crate::handover::{Estate, Heir, Inheritance, Nest, Raising, Reception, Successor, Voice};
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
    signals::hold().context("blocking signals")?;
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
        Ok(End::Succession(heir)) => daemon.leave(*heir),
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
    estate: Arc<Mutex<Estate>>,
    wishes: Wishes,
    boat: Boat,
    /// A successor on its way.
    raising: Option<Raising>,
    /// What was asked for, and waits.
    due: Due,
}

/// What was asked for, and cannot be done yet.
#[derive(Debug, Default)]
struct Due {
    /// Until it is known whether there will be a successor, who would reload in the place of this process.
    reload: bool,
    /// Until the predecessor has ended.
    upgrade: bool,
    /// Likewise: what lasts cannot be written before.
    stop: bool,
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
    /// A successor serves.
    Succession(Box<Heir>),
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
                let Inheritance { udp, http, lock, voice } = inheritance;
                (Sockets::adopt(&settings, udp, http)?, Some((lock, voice)))
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
        let (mut storage, voice) = storage(&settings, document, legacy, clock, &board)?;
        let reception = know(&mut storage, &mut settings.policy, voice, clock, &wishes)?;
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
            estate: Arc::new(Mutex::new(estate)),
            wishes,
            boat,
            raising: None,
            due: Due::default(),
        })
    }

    /// Does what signals ask for, until one asks to stop or a successor serves.
    fn attend(&mut self, wishes: &Receiver<Wish>) -> anyhow::Result<End> {
        loop {
            match wishes.recv_timeout(LOOK_ROUND) {
                Ok(Wish::Reload) if self.raising.is_some() => self.due.reload = true,
                Ok(Wish::Reload) => self.reload(),
                Ok(Wish::Registered(list)) => self.levers.register(list),
                Ok(Wish::Upgrade) => self.upgrade(),
                Ok(Wish::Inherited) => {
                    if self.inherit() {
                        return Ok(End::Stop);
                    }
                }
                Ok(Wish::Stop) if self.storage.is_settled() => return Ok(End::Stop),
                Ok(Wish::Stop) => {
                    log::info!("stopping as soon as the predecessor has ended");
                    self.due.stop = true;
                }
                Ok(Wish::Raised) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("the thread that takes signals has ended"),
            }
            if let Some(raising) = self.raising.take_if(|raising| raising.is_done()) {
                match self.hand_over(raising, wishes) {
                    Ok(Some(end)) => return Ok(end),
                    Ok(None) => {}
                    Err(error) => return Err(error),
                }
            }
            self.look_round()?;
            self.returner.look(self.storage.survey.place().memory(), self.http.connections());
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
        // Who stands still is for `/health` to tell; here only the time is taken.
        self.vitals.all_move();
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
        if let Ok(mut estate) = self.estate.lock()
            && let Err(error) = sockets.share(&mut estate)
        {
            log::warn!("an upgrade will not have the new sockets: {error}");
        }
        self.http.change(sockets.http);
        let Some(door) = sockets.udp else { return };
        if let Err(error) = self.serve_udp(door) {
            log::error!("the UDP frontend stays where it was: {error:#}");
        }
    }

    /// Serves UDP behind this door, and then no more behind the one before.
    fn serve_udp(&mut self, door: Option<UdpDoor>) -> anyhow::Result<()> {
        let document = &self.config.document;
        let tracker = trackers(&self.storage, &self.levers.policy)?;
        let new = start_udp(door, document, &self.levers, self.clock, &self.board, tracker)?;
        self.vitals.watch_udp(new.as_ref());
        if let Some(old) = std::mem::replace(&mut self.udp, new) {
            old.stop();
        }
        Ok(())
    }

    /// Starts a successor, if there can be one.
    fn upgrade(&mut self) {
        if self.raising.is_some() {
            // Whoever asks again hears what becomes of it.
            return;
        }
        if self.storage.site.is_some() {
            return self.refuse_upgrade("in mode private there is no successor: a restart keeps all peers");
        }
        if !self.storage.is_settled() {
            self.due.upgrade = true;
            return;
        }
        log::info!("upgrading: starting {}", self.program.display());
        self.storage.book.close();
        let nest = Nest {
            program: self.program.clone(),
            estate: Arc::clone(&self.estate),
            lock: Arc::clone(&self.storage.lock),
            swarms: Arc::clone(&self.storage.swarms),
            clock: self.clock,
        };
        match Raising::begin(nest, &self.wishes) {
            Ok(raising) => self.raising = Some(raising),
            Err(error) => self.serve_on(&error),
        }
    }

    /// There will be no successor.
    fn serve_on(&mut self, error: &anyhow::Error) {
        self.storage.book.open();
        self.refuse_upgrade(&format!("{error:#}"));
        if std::mem::take(&mut self.due.reload) {
            self.reload();
        }
    }

    fn refuse_upgrade(&self, refusal: &str) {
        log::error!("upgrade refused: {refusal}");
        if let Err(error) = self.storage.lock.refuse(refusal) {
            log::warn!("the lock file: {error}");
        }
    }

    /// The predecessor has ended: what it had is this process's. True if it stops now.
    fn inherit(&mut self) -> bool {
        self.storage.start_late(&self.board, &self.wishes, &self.boat);
        if self.due.stop {
            return true;
        }
        if std::mem::take(&mut self.due.upgrade) {
            if self.storage.is_settled() {
                self.upgrade();
            } else {
                self.refuse_upgrade("the database that the predecessor had cannot be opened");
            }
        }
        false
    }

    /// Lets the successor serve, if there is one; `None` if not, and this process serves on.
    ///
    /// # Errors
    /// When this process cannot serve on.
    fn hand_over(&mut self, raising: Raising, wishes: &Receiver<Wish>) -> anyhow::Result<Option<End>> {
        let mut successor = match raising.finish() {
            Ok(successor) => successor,
            Err(error) => {
                self.serve_on(&error);
                return Ok(None);
            }
        };
        log::info!("process {} takes over", successor.pid());
        // From here on the successor hears of every signal. What came before is known below.
        self.wishes.share_with(successor.ear().ok());
        while let Ok(wish) = wishes.try_recv() {
            match wish {
                Wish::Reload => self.due.reload = true,
                Wish::Registered(list) => self.levers.register(list),
                Wish::Stop | Wish::Upgrade | Wish::Inherited | Wish::Raised => {}
            }
        }
        if self.wishes.stop_is_asked() {
            self.wishes.share_with(None);
            return Ok(Some(End::Stop));
        }
        let gone = successor.catch_up().and_then(|()| self.go(successor));
        match gone {
            Ok(heir) => {
                self.tell(&heir);
                Ok(Some(End::Succession(Box::new(heir))))
            }
            Err(error) => {
                self.wishes.share_with(None);
                self.take_back()?;
                self.serve_on(&error);
                Ok(self.wishes.stop_is_asked().then_some(End::Stop))
            }
        }
    }

    /// Stops the UDP workers and lets the successor serve.
    fn go(&mut self, successor: Successor) -> anyhow::Result<Heir> {
        // Nobody is missed: they wait in the sockets for the successor.
        self.vitals.watch_udp(None);
        if let Some(udp) = self.udp.take() {
            udp.stop();
        }
        self.storage.lock.let_go().context("the lock on state_dir")?;
        successor.go()
    }

    /// Serves on where a successor did not.
    fn take_back(&mut self) -> anyhow::Result<()> {
        if let Err(error) = self.storage.lock.hold() {
            log::warn!("the lock on state_dir does not show this process: {error}");
        }
        if self.udp.is_none() {
            let door = match self.estate.lock() {
                Ok(estate) => self.listening.udp_again(&estate)?,
                Err(_) => bail!("a thread has panicked"),
            };
            self.serve_udp(door).context("serving on after the upgrade has failed")?;
        }
        Ok(())
    }

    /// Tells who has to know that the successor serves, and the successor what was asked of this process.
    fn tell(&self, heir: &Heir) {
        notify(&[NotifyState::MainPid(heir.pid)]);
        if self.due.reload {
            self.wishes.hand_on_reload();
        }
        if self.wishes.stop_is_asked() {
            self.wishes.hand_on_stop();
        }
    }

    /// Stops accepting, answers what is in flight, and waits for the state actor.
    fn stop(self) {
        self.vitals.serving.store(false, Ordering::Relaxed);
        log::info!("stopping");
        if let Some(raising) = self.raising {
            raising.give_up();
        }
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

    /// Tells the successor what it does not know yet, and ends.
    fn leave(self, heir: Heir) -> anyhow::Result<()> {
        self.storage.survey.stop();
        self.vitals.serving.store(false, Ordering::Relaxed);
        self.http.stop_for_successor();
        drop_inbox(&self.inbox);
        self.actor.join();
        let farewell = heir.finish();
        self.storage.stop(Ending::Leave);
        log::info!("stopped");
        farewell.map(drop).context("the successor was not told the last changes")
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
    predecessor: Option<Voice>,
    clock: Clock,
    wishes: &Wishes,
) -> anyhow::Result<Option<Reception>> {
    let Some(voice) = predecessor else {
        storage.load(policy)?;
        policy.registered = storage.registered()?;
        return Ok(None);
    };
    if storage.site.is_some() {
        bail!("the running tracker is not in mode private; a restart changes that");
    }
    policy.registered = storage.registered()?;
    voice.take_in(&storage.swarms, policy, clock, wishes).map(Some).context("taking over")
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

/// What lasts, and the voice of a predecessor, if there is one.
fn storage(
    settings: &Settings,
    document: &Document,
    legacy: Option<(File, Voice)>,
    clock: Clock,
    board: &Board,
) -> anyhow::Result<(Storage, Option<Voice>)> {
    let (intervals, memory) = (&document.intervals, &document.memory);
    let memory = if memory.max.octets() == 0 { "unlimited".into() } else { memory.max.to_string() };
    log::info!(
        "starting storage: swarms in memory ({memory}), peer_inactivity {}, purge_inactive_peers {}",
        intervals.peer_inactivity,
        intervals.purge_inactive_peers,
    );
    let swarms = Swarms::new(document.announce.peers_per_address.as_u16());
    let (lock, voice) = match legacy {
        None => (StateLock::take(&settings.keep.state_dir)?, None),
        Some((lock, voice)) => (StateLock::inherit(lock), Some(voice)),
    };
    let storage = Storage::new(settings.keep.clone(), document.mode, lock, swarms, clock);
    storage.survey.place().list_on(board);
    Ok((storage, voice))
}

/// A choice of the configuration, as it is written there.
fn word(choice: &impl serde::Serialize) -> String {
    serde_json::to_value(choice).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}
