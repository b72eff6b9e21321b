//! The only layer that touches sockets: hyper on a tokio runtime, on one thread of its own.

mod connection;
mod connections;
mod head;
mod listeners;
mod replies;
mod shared;
mod sockets;
mod stream;
mod timeouts;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hayate_state::actor::Inbox;
use hayate_state::private::Register;
use hayate_state::{Clock, Policy, Published};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::spawn_local;

pub use replies::Asker;
pub use sockets::OpenError;

use crate::config::{DoorConfig, ListenConfig};
use crate::engine::Engine;
use crate::engine::stats::Stats;
use crate::operator::Pages;
use connections::Crowd;
use listeners::Entries;
use replies::Post;
use shared::{Gate, Role};
use sockets::UnixDoor;

/// Time beyond the timeouts that connections get to finish when a successor goes on.
const STOP_GRACE: Duration = Duration::from_secs(3);
/// Time that requests in flight get when the tracker stops: whoever asks it to waits no longer than ten
/// seconds, as a rule, and what lasts has to be written in them too.
const REQUESTS_MAX: Duration = Duration::from_secs(2);
/// The same for requests for the operator's pages.
const PAGES_MAX: Duration = Duration::from_millis(500);
/// How long [`Running::stop`] takes at most.
pub const STOP_MAX: Duration =
    shared::NEWCOMERS_GRACE.saturating_mul(2).saturating_add(REQUESTS_MAX).saturating_add(PAGES_MAX);

/// The open sockets, before anything is accepted.
#[derive(Debug)]
pub struct Door {
    tcp: Vec<TcpListener>,
    tls: Vec<TcpListener>,
    unix: Option<UnixDoor>,
    metrics: Vec<TcpListener>,
}

impl Door {
    /// Opens every socket, or none.
    ///
    /// # Errors
    /// The first address that cannot be listened on, and why.
    pub fn open(config: &ListenConfig) -> Result<Self, OpenError> {
        Ok(Self {
            tcp: sockets::tcp(&config.addresses)?,
            tls: sockets::tcp(&config.https_addresses)?,
            unix: sockets::unix(config)?,
            metrics: sockets::tcp(&config.metrics_addresses)?,
        })
    }

    /// Opens the unix socket as well. [`open`](Self::open) does so too, where the configuration names one; a
    /// process that changes its user opens it afterwards, by the rights of the user in whose folder it is.
    ///
    /// # Errors
    /// When it cannot be made, or somebody answers there.
    pub fn open_unix(&mut self, config: &ListenConfig) -> Result<(), OpenError> {
        self.unix = sockets::unix(config)?;
        Ok(())
    }

    /// Takes over listeners that a predecessor has opened by the same configuration.
    ///
    /// # Errors
    /// When they are not those of `config`.
    pub fn adopt(config: &ListenConfig, handed: Handed) -> Result<Self, OpenError> {
        Ok(Self {
            tcp: sockets::adopted(&config.addresses, handed.tcp)?,
            tls: sockets::adopted(&config.https_addresses, handed.tls)?,
            unix: sockets::adopted_unix(config.unix_socket.as_deref(), handed.unix)?,
            metrics: sockets::adopted(&config.metrics_addresses, handed.metrics)?,
        })
    }

    /// The same listeners once more, to be handed to a successor while these are in use.
    ///
    /// # Errors
    /// When no more files may be open.
    pub fn share(&self) -> io::Result<Handed> {
        Ok(Handed {
            tcp: copies(&self.tcp)?,
            tls: copies(&self.tls)?,
            unix: self.unix.as_ref().map(UnixDoor::share).transpose()?,
            metrics: copies(&self.metrics)?,
        })
    }

    /// True if nobody is listened to.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tcp.is_empty() && self.tls.is_empty() && self.unix.is_none() && self.metrics.is_empty()
    }

    /// The addresses of the gateway, with the ports the system chose.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.tcp.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// The addresses of the gateway with TLS, with the ports the system chose.
    #[must_use]
    pub fn https_addresses(&self) -> Vec<SocketAddr> {
        self.tls.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// The addresses of the operator's pages, with the ports the system chose.
    #[must_use]
    pub fn metrics_addresses(&self) -> Vec<SocketAddr> {
        self.metrics.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Starts serving on a thread of its own, in mode private the members of `register`.
    ///
    /// # Errors
    /// When a route cannot be served, or the system gives no thread or no poller.
    pub fn start(
        self,
        config: &Arc<Published<DoorConfig>>,
        policy: &Arc<Published<Policy>>,
        register: Option<&Arc<Published<Register>>>,
        inbox: Inbox<Asker>,
        clock: Clock,
        pages: Pages,
    ) -> io::Result<Running> {
        let engine = Engine::new(config.subscribe(), policy.subscribe())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let engine = match register {
            Some(register) => engine.private(register.subscribe()),
            None => engine,
        };
        let stats = Arc::clone(engine.stats());
        stats.list(&pages.board);
        let room = Room { engine, inbox, pages, clock };
        let (stop, stopped) = oneshot::channel();
        let (change, changes) = mpsc::unbounded_channel();
        let (ready, readiness) = std::sync::mpsc::sync_channel(1);
        let thread = thread::Builder::new().name("http".into()).spawn(move || {
            if let Err(error) = room.run(self, stopped, changes, &ready) {
                // The starter waits for exactly one word.
                let _ = ready.send(Err(error));
            }
        })?;
        readiness.recv().unwrap_or_else(|_| Err(io::Error::other("the thread of the gateway ended")))?;
        Ok(Running { thread, stop, change, stats })
    }
}

/// Listeners on their way from a tracker to its successor.
#[derive(Debug, Default)]
pub struct Handed {
    /// Of the gateway.
    pub tcp: Vec<TcpListener>,
    /// Of the gateway, with TLS.
    pub tls: Vec<TcpListener>,
    /// Of the gateway, on a unix socket.
    pub unix: Option<UnixListener>,
    /// Of the operator's pages.
    pub metrics: Vec<TcpListener>,
}

/// A door that serves. Dropping it stops the door without waiting for it.
#[derive(Debug)]
pub struct Running {
    thread: thread::JoinHandle<()>,
    stop: oneshot::Sender<Reason>,
    change: mpsc::UnboundedSender<Change>,
    stats: Arc<Stats>,
}

/// Listeners that take the place of others while a door serves; `None` where nothing changes.
#[derive(Debug, Default)]
pub struct Change {
    tcp: Option<Vec<TcpListener>>,
    tls: Option<Vec<TcpListener>>,
    unix: Option<Option<UnixDoor>>,
    metrics: Option<Vec<TcpListener>>,
}

impl Change {
    /// Opens what `new` has and `old` has not; the same addresses keep their sockets.
    ///
    /// # Errors
    /// The first address that cannot be listened on, and why.
    pub fn open(old: &ListenConfig, new: &ListenConfig) -> Result<Self, OpenError> {
        let tcp = |old: &Vec<SocketAddr>, new: &Vec<SocketAddr>| {
            (old != new).then(|| sockets::tcp(new)).transpose()
        };
        Ok(Self {
            tcp: tcp(&old.addresses, &new.addresses)?,
            tls: tcp(&old.https_addresses, &new.https_addresses)?,
            unix: (old.unix_socket != new.unix_socket).then(|| sockets::unix(new)).transpose()?,
            metrics: tcp(&old.metrics_addresses, &new.metrics_addresses)?,
        })
    }

    /// Puts copies of the new listeners in the place of the old ones among those for a successor.
    ///
    /// # Errors
    /// When no more files may be open.
    pub fn share(&self, handed: &mut Handed) -> io::Result<()> {
        for (new, old) in
            [(&self.tcp, &mut handed.tcp), (&self.tls, &mut handed.tls), (&self.metrics, &mut handed.metrics)]
        {
            if let Some(new) = new {
                *old = copies(new)?;
            }
        }
        if let Some(new) = &self.unix {
            handed.unix = new.as_ref().map(UnixDoor::share).transpose()?;
        }
        Ok(())
    }
}

fn copies(listeners: &[TcpListener]) -> io::Result<Vec<TcpListener>> {
    listeners.iter().map(TcpListener::try_clone).collect()
}

impl Running {
    /// Still serving? False only after a panic.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Open connections, those of the operator included.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.stats.connections()
    }

    /// Has the door listen to what is new, and no more to what that replaces. Who is connected stays so.
    pub fn change(&self, change: Change) {
        // A thread that has ended is noticed by others.
        let _ = self.change.send(change);
    }

    /// Stops accepting, answers the requests in flight with `Connection: close`, and waits for that, but not
    /// longer than [`STOP_MAX`]; until then the operator's pages are there. The sender of the state actor's
    /// inbox is gone afterwards.
    pub fn stop(self) {
        self.end(Reason::Stop);
    }

    /// The same, but a successor goes on with the listeners: the file of the unix socket stays, and requests
    /// in flight have as long as the timeouts allow.
    pub fn stop_for_successor(self) {
        self.end(Reason::Successor { waits: false });
    }

    /// The same, but the successor does not serve before this is done, so that requests in flight have no
    /// longer than at a [`stop`](Self::stop).
    pub fn stop_for_waiting_successor(self) {
        self.end(Reason::Successor { waits: true });
    }

    fn end(self, reason: Reason) {
        // A thread that has ended needs no word.
        let _ = self.stop.send(reason);
        if self.thread.join().is_err() {
            log::error!("the gateway ended with a panic");
        }
    }
}

/// Why a door stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// The tracker ends.
    Stop,
    /// Another process goes on with the listeners, as soon as this one is done if it `waits`.
    Successor { waits: bool },
}

/// What goes to the thread.
struct Room {
    engine: Engine,
    inbox: Inbox<Asker>,
    pages: Pages,
    clock: Clock,
}

type Ready = std::sync::mpsc::SyncSender<io::Result<()>>;

impl Room {
    fn run(
        self,
        door: Door,
        stopped: oneshot::Receiver<Reason>,
        mut changes: mpsc::UnboundedReceiver<Change>,
        ready: &Ready,
    ) -> io::Result<()> {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
        let ended = runtime.block_on(async {
            let gate = self.gate();
            gate.beat();
            let mut entries = Entries::open(&gate, door)?;
            spawn_local(Rc::clone(&gate).watch());
            spawn_local(Rc::clone(&gate).call());
            spawn_local(Rc::clone(&gate.post).deliver());
            // The starter waits for this word, so it is there to hear it.
            let _ = ready.send(Ok(()));
            let mut stopped = pin!(stopped);
            let reason = loop {
                tokio::select! {
                    reason = &mut stopped => break reason,
                    Some(change) = changes.recv() => {
                        if let Err(error) = entries.change(&gate, change).await {
                            log::error!("http: some listeners could not be changed: {error}");
                        }
                    }
                }
            };
            // A sender that was dropped means stop too.
            if matches!(reason, Ok(Reason::Successor { .. })) {
                entries.keep_file();
            }
            let longest = if reason == Ok(Reason::Successor { waits: false }) {
                let engine = gate.engine.borrow();
                engine.config().read_timeout + engine.config().write_timeout + STOP_GRACE
            } else {
                REQUESTS_MAX
            };
            let operator = entries.close_gateway(&gate).await;
            gate.finish(Role::Gateway, longest).await;
            // Not before: `/health` tells that the tracker is stopping for as long as that takes.
            operator.close(&gate).await;
            gate.finish(Role::Operator, PAGES_MAX).await;
            Ok(())
        });
        // A profile may go on for a minute, and nobody waits for it any more.
        runtime.shutdown_background();
        ended
    }

    fn gate(self) -> Rc<Gate> {
        let stats = Arc::clone(self.engine.stats());
        Rc::new(Gate {
            engine: RefCell::new(self.engine),
            stats,
            inbox: self.inbox,
            unheard: Cell::new(0),
            turn_ends: Notify::new(),
            post: Rc::new(Post::default()),
            pages: self.pages,
            clock: self.clock,
            pages_apart: Cell::new(false),
            crowds: [Crowd::default(), Crowd::default()],
            emptied: Notify::new(),
            complained: Cell::new(None),
        })
    }
}

#[cfg(test)]
mod tests;
