//! The only layer that touches sockets: hyper on a tokio runtime, on one thread of its own.
//!
//! | module | what is in it |
//! |---|---|
//! | `sockets` | opening and adopting single sockets |
//! | `socket_set` | all sockets of a server: opened, adopted, duplicated, exchanged |
//! | `listeners` | the listeners of a running server |
//! | `accept` | accepting connections, and refusing them when there is no room |
//! | `stream` | TCP, TLS and unix streams as one type |
//! | `connection` | one connection: handshake, requests, end |
//! | `connections` | all open connections of one role |
//! | `timeouts` | the timeouts of every connection |
//! | `head` | the head of a request as hyper hands it over |
//! | `shared` | what the connections share, and the tasks beside them |
//! | `replies` | replies of the state actor on their way to the requests that wait for them |
//! | `operator` | answers to the operator's requests |

mod accept;
mod connection;
mod connections;
mod head;
mod listeners;
mod operator;
mod replies;
mod shared;
mod socket_set;
mod sockets;
mod stream;
mod timeouts;

use std::cell::{Cell, RefCell};
use std::io;
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
pub use socket_set::{InheritedSockets, ListenerChange, Server};
pub use sockets::OpenError;

use crate::config::HttpConfig;
use crate::engine::Engine;
use crate::engine::metrics::Metrics;
use crate::operator::OperatorPages;
use connections::Connections;
use listeners::Listeners;
use replies::PendingReplies;
use shared::{ListenerRole, Shared};

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

impl Server {
    /// Starts serving on a thread of its own; in mode private, only the users of `site_data`.
    ///
    /// # Errors
    /// Fails when a route cannot be served, the thread cannot be started, or the poller cannot be made.
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

/// A running server. Dropping it stops the server without waiting for it.
#[derive(Debug)]
pub struct RunningServer {
    thread: thread::JoinHandle<()>,
    stop: oneshot::Sender<StopReason>,
    change: mpsc::UnboundedSender<ListenerChange>,
    metrics: Arc<Metrics>,
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

    /// Stops as [`stop`](Self::stop) does, but for a successor that continues with the listeners: the file of
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
    /// Another process continues with the listeners; if it `waits`, as soon as this one is done.
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
            // Not before: until then `/health` shows that the tracker is stopping.
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
