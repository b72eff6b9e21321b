//! The only layer that touches sockets: hyper on a tokio runtime, on one thread of its own.
//!
//! | module | what is in it |
//! |---|---|
//! | `sockets` | opening and inheriting listening sockets |
//! | `listeners` | the listeners of a running server |
//! | `accept` | accepting connections, and refusing them when there is no room |
//! | `stream` | TCP, TLS and unix streams as one type |
//! | `connection` | one connection: handshake, requests, end |
//! | `connections` | all open connections of one role |
//! | `timeouts` | the time each connection has |
//! | `head` | the head of a request as hyper hands it over |
//! | `shared` | what the connections share, and the tasks beside them |
//! | `replies` | replies of the state actor on their way to those who wait |
//! | `operator` | answers to the operator's requests |

mod accept;
mod connection;
mod connections;
mod head;
mod listeners;
mod operator;
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
use hayate_state::private::SiteData;
use hayate_state::{Clock, Policy, Published};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::spawn_local;

pub use replies::ReplyTo;
pub use sockets::OpenError;

use crate::config::{HttpConfig, ListenConfig};
use crate::engine::Engine;
use crate::engine::metrics::Metrics;
use crate::operator::OperatorPages;
use connections::Connections;
use listeners::Listeners;
use replies::PendingReplies;
use shared::{ListenerRole, Shared};
use sockets::UnixSocket;

/// Time beyond the timeouts that connections get to finish when a successor takes over.
const STOP_GRACE: Duration = Duration::from_secs(3);
/// Time that requests in flight get when the tracker stops: a supervisor usually waits no longer than ten
/// seconds, in which the state must be stored as well.
const REQUESTS_MAX: Duration = Duration::from_secs(2);
/// Time that requests for the operator's pages get when the tracker stops.
const PAGES_MAX: Duration = Duration::from_millis(500);
/// The longest time that [`RunningServer::stop`] takes.
pub const STOP_MAX: Duration =
    shared::NEW_CONNECTION_GRACE.saturating_mul(2).saturating_add(REQUESTS_MAX).saturating_add(PAGES_MAX);

/// The open sockets of the gateway, before anything is accepted. [`start`](Self::start) consumes them.
#[derive(Debug)]
pub struct Server {
    tcp: Vec<TcpListener>,
    tls: Vec<TcpListener>,
    unix: Option<UnixSocket>,
    operator: Vec<TcpListener>,
}

impl Server {
    /// Opens every socket, or none.
    ///
    /// # Errors
    /// The first address that cannot be listened on, and the reason.
    pub fn open(config: &ListenConfig) -> Result<Self, OpenError> {
        Ok(Self {
            tcp: sockets::open_tcp(&config.addresses)?,
            tls: sockets::open_tcp(&config.https_addresses)?,
            unix: sockets::open_unix(config)?,
            operator: sockets::open_tcp(&config.metrics_addresses)?,
        })
    }

    /// Opens the unix socket as well. [`open`](Self::open) does so too, where the configuration names one; a
    /// process that changes its user opens it afterwards, with the rights of the user that owns its folder.
    ///
    /// # Errors
    /// Fails when the socket cannot be made, or another process answers there.
    pub fn open_unix(&mut self, config: &ListenConfig) -> Result<(), OpenError> {
        self.unix = sockets::open_unix(config)?;
        Ok(())
    }

    /// Adopts listeners that a predecessor has opened by the same configuration.
    ///
    /// # Errors
    /// Fails when the listeners are not those of `config`.
    pub fn adopt(config: &ListenConfig, inherited: InheritedSockets) -> Result<Self, OpenError> {
        Ok(Self {
            tcp: sockets::adopt_tcp(&config.addresses, inherited.tcp)?,
            tls: sockets::adopt_tcp(&config.https_addresses, inherited.tls)?,
            unix: sockets::adopt_unix(config.unix_socket.as_deref(), inherited.unix)?,
            operator: sockets::adopt_tcp(&config.metrics_addresses, inherited.operator)?,
        })
    }

    /// Duplicates the listeners, to be handed to a successor while these are in use.
    ///
    /// # Errors
    /// Fails when the process may open no more files.
    pub fn clone_sockets(&self) -> io::Result<InheritedSockets> {
        Ok(InheritedSockets {
            tcp: clone_listeners(&self.tcp)?,
            tls: clone_listeners(&self.tls)?,
            unix: self.unix.as_ref().map(UnixSocket::try_clone_listener).transpose()?,
            operator: clone_listeners(&self.operator)?,
        })
    }

    /// Whether there is no listener.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tcp.is_empty() && self.tls.is_empty() && self.unix.is_none() && self.operator.is_empty()
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
        self.operator.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Starts serving on a thread of its own; in mode private, only the users of `site_data`.
    ///
    /// # Errors
    /// Fails when a route cannot be served, or the system grants no thread or no poller.
    pub fn start(
        self,
        config: &Arc<Published<HttpConfig>>,
        policy: &Arc<Published<Policy>>,
        site_data: Option<&Arc<Published<SiteData>>>,
        inbox: Inbox<ReplyTo>,
        clock: Clock,
        pages: OperatorPages,
    ) -> io::Result<RunningServer> {
        let engine = Engine::new(config.subscribe(), policy.subscribe())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let engine = match site_data {
            Some(site_data) => engine.private(site_data.subscribe()),
            None => engine,
        };
        let metrics = Arc::clone(engine.metrics());
        metrics.register_metrics(&pages.board);
        let server_thread = ServerThread { engine, inbox, pages, clock };
        let (stop, stopped) = oneshot::channel();
        let (change, changes) = mpsc::unbounded_channel();
        let (ready, readiness) = std::sync::mpsc::sync_channel(1);
        let thread = thread::Builder::new().name("http".into()).spawn(move || {
            if let Err(error) = server_thread.run(self, stopped, changes, &ready) {
                // The starter waits for exactly one message.
                let _ = ready.send(Err(error));
            }
        })?;
        readiness.recv().unwrap_or_else(|_| Err(io::Error::other("the thread of the gateway ended")))?;
        Ok(RunningServer { thread, stop, change, metrics })
    }
}

/// Listeners on their way from a tracker to its successor.
#[derive(Debug, Default)]
pub struct InheritedSockets {
    /// Of the gateway.
    pub tcp: Vec<TcpListener>,
    /// Of the gateway, with TLS.
    pub tls: Vec<TcpListener>,
    /// Of the gateway, on a unix socket.
    pub unix: Option<UnixListener>,
    /// Of the operator's pages.
    pub operator: Vec<TcpListener>,
}

/// A running server. Dropping it stops the server without waiting for it.
#[derive(Debug)]
pub struct RunningServer {
    thread: thread::JoinHandle<()>,
    stop: oneshot::Sender<StopReason>,
    change: mpsc::UnboundedSender<ListenerChange>,
    metrics: Arc<Metrics>,
}

/// Listeners that take the place of others while a server runs; `None` where nothing changes.
#[derive(Debug, Default)]
pub struct ListenerChange {
    tcp: Option<Vec<TcpListener>>,
    tls: Option<Vec<TcpListener>>,
    unix: Option<Option<UnixSocket>>,
    operator: Option<Vec<TcpListener>>,
}

impl ListenerChange {
    /// Opens what `new` has and `old` has not; the same addresses keep their sockets.
    ///
    /// # Errors
    /// The first address that cannot be listened on, and the reason.
    pub fn open(old: &ListenConfig, new: &ListenConfig) -> Result<Self, OpenError> {
        let tcp = |old: &Vec<SocketAddr>, new: &Vec<SocketAddr>| {
            (old != new).then(|| sockets::open_tcp(new)).transpose()
        };
        Ok(Self {
            tcp: tcp(&old.addresses, &new.addresses)?,
            tls: tcp(&old.https_addresses, &new.https_addresses)?,
            unix: (old.unix_socket != new.unix_socket).then(|| sockets::open_unix(new)).transpose()?,
            operator: tcp(&old.metrics_addresses, &new.metrics_addresses)?,
        })
    }

    /// Puts copies of the new listeners in the place of the old ones among those for a successor.
    ///
    /// # Errors
    /// Fails when the process may open no more files.
    pub fn clone_sockets_into(&self, inherited: &mut InheritedSockets) -> io::Result<()> {
        for (new, old) in [
            (&self.tcp, &mut inherited.tcp),
            (&self.tls, &mut inherited.tls),
            (&self.operator, &mut inherited.operator),
        ] {
            if let Some(new) = new {
                *old = clone_listeners(new)?;
            }
        }
        if let Some(new) = &self.unix {
            inherited.unix = new.as_ref().map(UnixSocket::try_clone_listener).transpose()?;
        }
        Ok(())
    }
}

fn clone_listeners(listeners: &[TcpListener]) -> io::Result<Vec<TcpListener>> {
    listeners.iter().map(TcpListener::try_clone).collect()
}

impl RunningServer {
    /// Whether the server is still serving; false only after a panic.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        !self.thread.is_finished()
    }

    /// The number of open connections, those of the operator included.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.metrics.connections()
    }

    /// Makes the server listen on the new sockets, and no longer on those that they replace. Open
    /// connections stay.
    pub fn change_listeners(&self, change: ListenerChange) {
        // A thread that has ended is noticed elsewhere.
        let _ = self.change.send(change);
    }

    /// Stops accepting, answers the requests in flight with `Connection: close`, and waits for that, but not
    /// longer than [`STOP_MAX`]; until then the operator's pages are served. Afterwards the sender of the
    /// state actor's inbox is gone.
    pub fn stop(self) {
        self.end(StopReason::Stop);
    }

    /// Stops as [`stop`](Self::stop) does, but for a successor that goes on with the listeners: the file of
    /// the unix socket stays, and requests in flight have as long as the timeouts allow.
    pub fn stop_for_successor(self) {
        self.end(StopReason::Successor { waits: false });
    }

    /// Stops for a successor that does not serve before this is done, so that requests in flight have no
    /// longer than at a [`stop`](Self::stop).
    pub fn stop_for_waiting_successor(self) {
        self.end(StopReason::Successor { waits: true });
    }

    fn end(self, reason: StopReason) {
        // A thread that has ended needs no message.
        let _ = self.stop.send(reason);
        if self.thread.join().is_err() {
            log::error!("the gateway ended with a panic");
        }
    }
}

/// Why a server stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StopReason {
    /// The tracker ends.
    Stop,
    /// Another process goes on with the listeners; if it `waits`, as soon as this one is done.
    Successor { waits: bool },
}

/// What the server's thread owns when it starts.
struct ServerThread {
    engine: Engine,
    inbox: Inbox<ReplyTo>,
    pages: OperatorPages,
    clock: Clock,
}

type ReadySender = std::sync::mpsc::SyncSender<io::Result<()>>;

impl ServerThread {
    fn run(
        self,
        server: Server,
        stopped: oneshot::Receiver<StopReason>,
        mut changes: mpsc::UnboundedReceiver<ListenerChange>,
        ready: &ReadySender,
    ) -> io::Result<()> {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
        let ended = runtime.block_on(async {
            let shared = self.into_shared();
            shared.check_timeouts();
            let mut listeners = Listeners::open(&shared, server)?;
            spawn_local(Rc::clone(&shared).run_timer());
            spawn_local(Rc::clone(&shared).wake_actor_each_turn());
            spawn_local(Rc::clone(&shared.replies).deliver_replies());
            // The starter waits for this message, so the channel is open.
            let _ = ready.send(Ok(()));
            let mut stopped = pin!(stopped);
            let reason = loop {
                tokio::select! {
                    reason = &mut stopped => break reason,
                    Some(change) = changes.recv() => {
                        if let Err(error) = listeners.apply_change(&shared, change).await {
                            log::error!("http: some listeners could not be changed: {error}");
                        }
                    }
                }
            };
            // A dropped sender means stop as well.
            if matches!(reason, Ok(StopReason::Successor { .. })) {
                listeners.keep_file();
            }
            let longest = if reason == Ok(StopReason::Successor { waits: false }) {
                let engine = shared.engine.borrow();
                engine.config().read_timeout + engine.config().write_timeout + STOP_GRACE
            } else {
                REQUESTS_MAX
            };
            let operator = listeners.close_gateway(&shared).await;
            shared.finish_connections(ListenerRole::Gateway, longest).await;
            // Not before: until then `/health` tells that the tracker is stopping.
            operator.close(&shared).await;
            shared.finish_connections(ListenerRole::Operator, PAGES_MAX).await;
            Ok(())
        });
        // A profile may take a minute, and no client waits for it any more.
        runtime.shutdown_background();
        ended
    }

    fn into_shared(self) -> Rc<Shared> {
        let metrics = Arc::clone(self.engine.metrics());
        Rc::new(Shared {
            engine: RefCell::new(self.engine),
            metrics,
            inbox: self.inbox,
            unwoken_questions: Cell::new(0),
            turn_ends: Notify::new(),
            replies: Rc::new(PendingReplies::default()),
            pages: self.pages,
            clock: self.clock,
            has_operator_listeners: Cell::new(false),
            connections: [Connections::default(), Connections::default()],
            last_one_closed: Notify::new(),
            last_accept_warning: Cell::new(None),
        })
    }
}

#[cfg(test)]
mod tests;
