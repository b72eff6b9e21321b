//! Upgrades, as the main thread sees them: when a successor is raised, who serves, and what waits until that
//! is known.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use anyhow::{Context, bail};
use hayate_state::snapshot::keeper::Ending;
use hayate_state::store::Opened;
use sd_notify::NotifyState;

use super::{Daemon, End, Rest, drop_inbox};
use crate::daemon::signals::{Wish, Wishes};
use crate::daemon::upgrade::{Heir, Nest, Raising, Successor};
use crate::process::lock::StateLock;
use crate::process::systemd;

/// What was asked for, and cannot be done yet.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// Until it is known whether there will be a successor, who would reload in the place of this process.
    pub(super) reload: bool,
    /// Until the predecessor has ended.
    pub(super) upgrade: bool,
    /// Likewise, for what lasts cannot be written before; but not later than at this uptime.
    pub(super) stop_at: Option<Duration>,
}

impl Daemon {
    /// Starts a successor, if there can be one.
    pub(super) fn upgrade(&mut self) {
        if self.raising.is_some() {
            // Whoever asks again hears what becomes of it.
            return;
        }
        if let Some(reloading) = &mut self.reloading {
            log::info!("the upgrade waits for the reload that is under way");
            reloading.upgrade = true;
            return;
        }
        if !self.storage.is_settled() {
            self.due.upgrade = true;
            return;
        }
        if !self.storage.book.close() {
            return self.refuse_upgrade("the list of torrents is being changed");
        }
        log::info!("upgrading: starting {}", self.program.display());
        let nest = Nest {
            program: self.program.clone(),
            estate: Arc::clone(&self.estate),
            lock: Arc::clone(&self.storage.lock),
            swarms: Arc::clone(&self.storage.swarms),
            config: self.config.clone(),
            keyrings: self.storage.site.as_ref().map(|_| self.keyrings.clone()),
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

    pub(super) fn refuse_upgrade(&self, refusal: &str) {
        refuse(&self.storage.lock, refusal);
    }

    /// The predecessor has ended, and the store that it had was opened. True if this process stops now.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn inherit(&mut self, opened: Option<Opened>) -> anyhow::Result<bool> {
        self.storage.start_late(opened, &self.board, &self.wishes, &self.boat)?;
        if self.due.stop_at.is_some() {
            return Ok(true);
        }
        if std::mem::take(&mut self.due.upgrade) {
            self.upgrade();
        }
        Ok(false)
    }

    /// Lets the successor serve, if there is one; `None` if not, and this process serves on.
    ///
    /// # Errors
    /// When this process cannot serve on.
    pub(super) fn hand_over(
        &mut self,
        raising: Raising,
        wishes: &Receiver<Wish>,
    ) -> anyhow::Result<Option<End>> {
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
                Wish::Reload => {
                    self.wishes.reload_is_taken();
                    self.due.reload = true;
                }
                Wish::Registered(list) => self.levers.register(list),
                // None of these comes while a successor is raised, but for what is known without it.
                Wish::Stop
                | Wish::Upgrade
                | Wish::Inherited
                | Wish::Raised
                | Wish::Planned(_)
                | Wish::Opened(_) => {}
            }
        }
        if self.wishes.stop_is_asked() {
            self.wishes.share_with(None);
            return Ok(Some(End::Stop));
        }
        if let Some(again) = successor.take_again() {
            return Ok(Some(End::Rest(Box::new(Rest { successor, again }))));
        }
        let gone = successor.catch_up().and_then(|()| self.go(successor));
        match gone {
            Ok(heir) => {
                tell(&self.wishes, &self.due, &heir);
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

    /// Tells the successor what it does not know yet, and ends.
    pub(super) fn leave(self, heir: Heir) -> anyhow::Result<()> {
        self.storage.survey.stop();
        self.vitals.serving.store(false, Ordering::Relaxed);
        self.http.stop_for_successor();
        drop_inbox(&self.inbox);
        self.actor.join();
        let farewell = heir.finish();
        let kept = self.storage.stop(Ending::Leave);
        log::info!("stopped");
        farewell.map(drop).context("the successor was not told the last changes").and(kept)
    }
}

/// Tells who has to know that the successor serves, and the successor what was asked of this process.
pub(super) fn tell(wishes: &Wishes, due: &Due, heir: &Heir) {
    systemd::notify(NotifyState::MainPid(heir.pid));
    if due.reload {
        wishes.hand_on_reload();
    }
    if wishes.stop_is_asked() {
        wishes.hand_on_stop();
    }
}

/// Says why there is no successor.
pub(super) fn refuse(lock: &StateLock, refusal: &str) {
    // First: whoever has read the log finds it there.
    if let Err(error) = lock.refuse(refusal) {
        log::warn!("the lock file: {error}");
    }
    log::error!("upgrade refused: {refusal}");
}
