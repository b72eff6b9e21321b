//! Start, serve, stop. In this order: configuration, sockets, privileges, key, state, doors; and back.
//!
//! | module | what is in it |
//! |---|---|
//! | `origin` | the three ways to begin |
//! | [`listeners`] | the sockets of both doors |
//! | [`mod@storage`] | what lasts: store, snapshot, and their threads |
//! | [`signals`] | reload, orderly stop, stop at once |
//! | [`reload`] | a new configuration for a running daemon, or a refusal |
//! | [`upgrade`], `succession`, `rest` | a successor takes over |
//! | [`health`] | whether the process serves, and its own numbers |
//! | [`registered_torrents`] | the registered torrents, read again and again |
//! | [`jwk_fetch`] | the keys of tokens, fetched over HTTP |

pub(crate) mod health;
pub(crate) mod jwk_fetch;
pub(crate) mod listeners;
mod origin;
pub(crate) mod registered_torrents;
pub(crate) mod reload;
mod rest;
pub(crate) mod signals;
pub(crate) mod storage;
mod succession;
pub(crate) mod upgrade;

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail};
use hayate_gateway::Asker;
use hayate_state::actor::{Actor, Inbox};
use hayate_state::snapshot::keeper::Ending;
use hayate_state::{Board, Clock, Policy};
use hayate_udp::Door as UdpDoor;
use sd_notify::NotifyState;

use crate::commands;
use crate::commands::cli::Look;
use crate::config::{Config, Document, Settings, Source};
use crate::daemon::health::{Reloads, Vitals, list_own, list_policy};
use crate::daemon::jwk_fetch::JwkSets;
use crate::daemon::listeners::{Listening, NewSockets, joined, start_http, start_udp, trackers};
use crate::daemon::reload::{Basis, Levers, Planned, Reloading};
use crate::daemon::signals::{Boat, Wish, Wishes};
use crate::daemon::storage::{DATABASE_MAX, Storage};
use crate::daemon::upgrade::{Estate, Heir, Inheritance, Raising};
use crate::process::malloc_trim::Returner;
use crate::process::{connection_id_key, file_limit, logging, privileges, systemd};
use origin::{Origin, know, open, storage};
use rest::Rest;
use succession::Due;

/// How often the main thread looks whether everything lives.
const LOOK_ROUND: Duration = Duration::from_secs(1);

/// Serves until a signal ends it.
///
/// # Errors
/// When the configuration is not accepted, a socket cannot be opened, or a part of the tracker dies.
pub(crate) fn serve(source: &Source, look: &Look) -> anyhow::Result<()> {
    signals::hold().context("blocking signals")?;
    let boat = Boat::default();
    let keyrings = JwkSets::default();
    let config = commands::document(source)?;
    // Before there is a thread, for each has what is taken away here for itself.
    let sealed = privileges::seal(&config.document.privileges);
    let (sender, wishes) = signals::listen(&boat).context("listening to signals")?;
    let inheritance = Inheritance::receive(config.kept())?;
    let mut settings = commands::settings(&config, &keyrings)?;
    commands::foresee(&config, &mut settings);
    settings.warnings.extend(sealed.err().map(|error| error.to_string()));
    logging::start_beside(look, &config.document.log).context("starting the log")?;
    log::info!("hayate {}", env!("CARGO_PKG_VERSION"));
    settings.say_what_was_read();
    let files_max = file_limit::raise_limit();
    file_limit::fit(&mut settings, files_max);
    let origin = inheritance.map_or(Origin::Nothing, Origin::Predecessor);
    let mut daemon =
        Daemon::start(source.clone(), config, settings, files_max, (sender, boat), keyrings, origin)?;
    loop {
        daemon.wishes.are_attended();
        match daemon.attend(&wishes) {
            Ok(End::Succession(heir)) => return daemon.leave(*heir),
            Ok(End::Stop) => return daemon.stop(),
            Ok(End::Rest(rest)) => match daemon.rest(*rest)? {
                Some(again) => daemon = again,
                None => return Ok(()),
            },
            Err(error) => {
                // What it says is in the log; why the process ends is more important.
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
    estate: Arc<Mutex<Estate>>,
    wishes: Wishes,
    boat: Boat,
    /// A successor on its way.
    raising: Option<Raising>,
    /// What was asked for, and waits.
    due: Due,
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
    /// In mode private: a successor serves as soon as this process has put everything on the disk.
    Rest(Box<Rest>),
}

impl Daemon {
    fn start(
        source: Source,
        config: Config,
        mut settings: Settings,
        files_max: Option<usize>,
        (wishes, boat): (Wishes, Boat),
        keyrings: JwkSets,
        origin: Origin,
    ) -> anyhow::Result<Self> {
        let program = match &origin {
            // By now another file may be in its place.
            Origin::Itself(_, _, program) => program.clone(),
            _ => std::env::current_exe().context("the path of this program")?,
        };
        let (sockets, lock, voice) = open(&settings, config.document.mode, origin)?;
        let estate = sockets.share().context("sharing the sockets")?;
        connection_id_key::settle(&mut settings).context("the key of the UDP connection ids")?;
        let metrics = sockets.http.metrics_addresses();
        if !metrics.is_empty() {
            log::info!("starting metrics server on {}", joined(&metrics));
        }
        let listening = Listening::of(&settings);
        let document = &config.document;
        let (clock, board) = (Clock::start(), Arc::new(Board::default()));
        let mut storage = storage(&settings, document, lock, clock, &board)?;
        let reception = know(&mut storage, &mut settings.policy, voice, clock, &wishes)?;
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
        if reception.is_none() || storage.site.is_some() {
            storage.start(&board, &wishes, &boat)?;
        }
        if let Some(reception) = reception {
            reception.go_on(&storage, levers.policy.current(), clock, &wishes)?;
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
            let wish = wishes.recv_timeout(LOOK_ROUND);
            if matches!(wish, Ok(Wish::Reload)) {
                self.wishes.reload_is_taken();
            }
            match wish {
                Ok(Wish::Reload) if self.raising.is_some() => self.due.reload = true,
                Ok(Wish::Reload) => self.reload(),
                Ok(Wish::Planned(planned)) => self.reloaded(*planned),
                Ok(Wish::Registered(list)) => self.levers.register(list),
                Ok(Wish::Upgrade) => self.upgrade(),
                Ok(Wish::Inherited) if self.storage.is_settled() => {}
                Ok(Wish::Inherited) => self.storage.open_late(&self.wishes),
                Ok(Wish::Opened(opened)) => {
                    if self.inherit(*opened)? {
                        return Ok(End::Stop);
                    }
                }
                Ok(Wish::Stop) if self.storage.is_settled() => return Ok(End::Stop),
                Ok(Wish::Stop) => {
                    log::info!("stopping as soon as the predecessor has ended");
                    self.due.stop_at = Some(self.clock.uptime() + DATABASE_MAX);
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
            if self.due.stop_at.is_some_and(|at| at <= self.clock.uptime()) {
                return Ok(End::Stop);
            }
            self.look_round()?;
            self.returner.look(self.storage.survey.place().memory(), self.http.connections());
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
        // Who stands still is for `/health` to tell; here only the time is taken.
        self.vitals.all_move();
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
    fn reloaded(&mut self, planned: Planned) {
        self.carry_out(planned);
        let Some(Reloading { again, upgrade, .. }) = self.reloading.take() else { return };
        if upgrade {
            self.upgrade();
        }
        if again {
            match self.raising {
                Some(_) => self.due.reload = true,
                None => self.reload(),
            }
        }
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
                file_limit::fit(&mut plan.settings, self.files_max);
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

    /// Stops accepting, answers what is in flight, and waits for the state actor. Every wait is bounded.
    fn stop(mut self) -> anyhow::Result<()> {
        self.vitals.serving.store(false, Ordering::Relaxed);
        log::info!("stopping");
        self.storage.save();
        if let Some(raising) = self.raising.take() {
            raising.give_up();
            self.refuse_upgrade("the tracker is stopping");
        }
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
}

fn drop_inbox(inbox: &Mutex<Option<Inbox<Asker>>>) {
    if let Ok(mut inbox) = inbox.lock() {
        // The last sender: the actor ends when it is gone.
        inbox.take();
    }
}

/// A choice of the configuration, as it is written there.
fn word(choice: &impl serde::Serialize) -> String {
    serde_json::to_value(choice).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_waits_of_a_stop_are_less_than_the_eight_seconds_that_it_may_take() {
        let waits = [systemd::NOTIFY_MAX, hayate_gateway::STOP_MAX, DATABASE_MAX, logging::LAST_LINES];
        // The rest is for the disk.
        assert!(waits.iter().sum::<Duration>() <= Duration::from_millis(7500), "{waits:?}");
    }
}
