//! Upgrades, as the main thread sees them: when a successor is raised, who serves, and what waits until that
//! is known.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;

use anyhow::{Context, bail};
use hayate_state::snapshot::keeper::Ending;
use sd_notify::NotifyState;

use super::{Daemon, End, drop_inbox, notify};
use crate::handover::{Heir, Nest, Raising, Successor};
use crate::signals::Wish;

/// What was asked for, and cannot be done yet.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// Until it is known whether there will be a successor, who would reload in the place of this process.
    pub(super) reload: bool,
    /// Until the predecessor has ended.
    pub(super) upgrade: bool,
    /// Likewise: what lasts cannot be written before.
    pub(super) stop: bool,
}

impl Daemon {
    /// Starts a successor, if there can be one.
    pub(super) fn upgrade(&mut self) {
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
    pub(super) fn inherit(&mut self) -> bool {
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

    /// Tells the successor what it does not know yet, and ends.
    pub(super) fn leave(self, heir: Heir) -> anyhow::Result<()> {
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
