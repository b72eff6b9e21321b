//! Upgrades, as the main thread sees them: when a successor is started, which process serves, and what waits
//! until that is known.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use anyhow::{Context, bail};
use hayate_state::snapshot::thread::Ending;
use hayate_state::store::OpenedStore;
use sd_notify::NotifyState;

use super::cluster::CLUSTER_MIN;
use super::{Daemon, PrivateHandover, StopReason, drop_inbox};
use crate::daemon::signals::{MainEvent, MainEvents};
use crate::daemon::upgrade::{ServingSuccessor, StartingSuccessor, Successor, SuccessorInputs};
use crate::process::lock::StateLock;
use crate::process::systemd;

/// Requests that cannot be carried out yet.
#[derive(Debug, Default)]
pub(super) struct Deferred {
    /// A reload, until it is known whether there will be a successor, which would reload instead.
    pub(super) reload: bool,
    /// An upgrade, until the predecessor has ended.
    pub(super) upgrade: bool,
    /// A stop, until the predecessor has ended, for nothing can be written to the store before; but not later
    /// than at this uptime.
    pub(super) stop_at: Option<Duration>,
}

impl Daemon {
    /// Starts a successor, if there can be one.
    pub(super) fn upgrade(&mut self) {
        if self.starting.is_some() {
            // A second request gets the outcome of the upgrade that is under way.
            return;
        }
        if let Some(reloading) = &mut self.running_reload {
            log::info!("the upgrade waits for the reload that is under way");
            reloading.upgrade = true;
            return;
        }
        if !self.storage.is_started() {
            self.deferred.upgrade = true;
            return;
        }
        if !self.storage.access_list.close_for_upgrade() {
            return self.refuse_upgrade("the list of torrents is being changed");
        }
        log::info!("upgrading: starting {}", self.program.display());
        let inputs = SuccessorInputs {
            program: self.program.clone(),
            sockets: Arc::clone(&self.sockets),
            lock: Arc::clone(&self.storage.lock),
            swarms: Arc::clone(&self.storage.swarms),
            config: self.config.clone(),
            is_private: self.storage.site.is_some(),
            jwk_sets: self.jwk_sets.clone(),
            clock: self.clock,
            cluster: self.cluster.clone(),
        };
        match StartingSuccessor::begin(inputs, &self.main_events) {
            Ok(starting) => self.starting = Some(starting),
            Err(error) => self.keep_serving(&error),
        }
    }

    /// Keeps serving after an upgrade has failed.
    fn keep_serving(&mut self, error: &anyhow::Error) {
        self.storage.access_list.reopen();
        self.refuse_upgrade(&format!("{error:#}"));
        if std::mem::take(&mut self.deferred.reload) {
            self.begin_reload();
        }
    }

    pub(super) fn refuse_upgrade(&self, refusal: &str) {
        log_refusal(&self.storage.lock, refusal);
    }

    /// Takes over the store after the predecessor has ended and released it. Returns true if this process is
    /// to stop now.
    ///
    /// # Errors
    /// Fails when the thread cannot be started.
    pub(super) fn take_over_store(&mut self, opened: Option<OpenedStore>) -> anyhow::Result<bool> {
        self.storage.start_late(opened, &self.board, &self.main_events, &self.flush_slot)?;
        if self.deferred.stop_at.is_some() {
            return Ok(true);
        }
        if std::mem::take(&mut self.deferred.upgrade) {
            self.upgrade();
        }
        Ok(false)
    }

    /// Lets the successor serve, if there is one. Returns `None` if there is none and this process
    /// keeps serving.
    ///
    /// # Errors
    /// Fails when this process cannot keep serving.
    pub(super) fn hand_over(
        &mut self,
        starting: StartingSuccessor,
        main_events: &Receiver<MainEvent>,
    ) -> anyhow::Result<Option<StopReason>> {
        let mut successor = match starting.finish() {
            Ok(successor) => successor,
            Err(error) => {
                self.keep_serving(&error);
                return Ok(None);
            }
        };
        log::info!("process {} takes over", successor.pid());
        // From here on every signal is forwarded to the successor. Those that came before are taken below.
        self.main_events.forward_to(successor.signal_stream().ok());
        while let Ok(event) = main_events.try_recv() {
            match event {
                MainEvent::Reload => {
                    self.main_events.reload_received();
                    self.deferred.reload = true;
                }
                MainEvent::Registered(list) => self.live_settings.set_registered(list),
                // None of these comes while a successor starts, except those that this process learns in
                // other ways.
                MainEvent::Stop
                | MainEvent::Upgrade
                | MainEvent::PredecessorEnded
                | MainEvent::SuccessorStarted
                | MainEvent::ReloadRead(_)
                | MainEvent::StoreOpened(_) => {}
            }
        }
        if self.main_events.stop_requested() {
            self.main_events.forward_to(None);
            return Ok(Some(StopReason::Signal));
        }
        if let Some(restart_settings) = successor.take_restart_settings() {
            let handover = PrivateHandover { successor, restart_settings };
            return Ok(Some(StopReason::PrivateHandover(Box::new(handover))));
        }
        let handed_over = successor.send_changes().and_then(|()| self.let_successor_serve(successor));
        match handed_over {
            Ok(successor) => {
                announce_handover(&self.main_events, &self.deferred, &successor);
                Ok(Some(StopReason::Handover(Box::new(successor))))
            }
            Err(error) => {
                self.main_events.forward_to(None);
                self.resume_serving()?;
                self.keep_serving(&error);
                Ok(self.main_events.stop_requested().then_some(StopReason::Signal))
            }
        }
    }

    /// Stops the UDP workers and lets the successor serve.
    fn let_successor_serve(&mut self, successor: Successor) -> anyhow::Result<ServingSuccessor> {
        // No datagram is lost: they wait in the sockets for the successor.
        self.health.set_udp(None);
        if let Some(udp) = self.udp.take() {
            udp.stop();
        }
        self.storage.lock.unmark_serving().context("the lock on state_dir")?;
        successor.start_serving()
    }

    /// Resumes service after a successor has failed to serve.
    fn resume_serving(&mut self) -> anyhow::Result<()> {
        if let Err(error) = self.storage.lock.mark_serving() {
            log::warn!("the lock on state_dir does not show this process: {error}");
        }
        if self.udp.is_none() {
            let server = match self.sockets.lock() {
                Ok(sockets) => self.listening.reopen_udp(&sockets)?,
                Err(_) => bail!("a thread has panicked"),
            };
            self.serve_udp(server).context("resuming service after the failed upgrade")?;
        }
        Ok(())
    }

    /// Sends the successor the last changes, and ends.
    pub(super) fn stop_after_handover(self, successor: ServingSuccessor) -> anyhow::Result<()> {
        let links_until = self.clock.uptime() + hayate_gateway::STOP_MAX + CLUSTER_MIN;
        self.storage.reporter.stop();
        self.health.serving.store(false, Ordering::Relaxed);
        self.http.stop_for_successor();
        drop_inbox(&self.inbox);
        self.actor.join();
        let store_hold = successor.send_last_changes();
        self.cluster.inspect(|cluster| cluster.stop(links_until));
        let stopped = self.storage.stop(Ending::Leave);
        log::info!("stopped");
        store_hold.map(drop).context("the successor did not receive the last changes").and(stopped)
    }
}

/// Tells systemd that the successor serves, and forwards to the successor the reload or stop that this
/// process was asked for.
pub(super) fn announce_handover(main_events: &MainEvents, deferred: &Deferred, successor: &ServingSuccessor) {
    systemd::notify(NotifyState::MainPid(successor.pid));
    if deferred.reload {
        main_events.forward_reload();
    }
    if main_events.stop_requested() {
        main_events.forward_stop();
    }
}

/// Records and logs why there is no successor.
pub(super) fn log_refusal(lock: &StateLock, refusal: &str) {
    // Before the log line: a reader of that line must find the refusal in the lock file.
    if let Err(error) = lock.record_refusal(refusal) {
        log::warn!("the lock file: {error}");
    }
    log::error!("upgrade refused: {refusal}");
}
