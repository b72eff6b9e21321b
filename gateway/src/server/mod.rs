//! The only layer that touches sockets: hyper on a tokio runtime, on one thread of its own.

mod gate;
mod open;
mod post;
mod stream;
mod watch;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;
use std::time::Duration;

use hayate_state::actor::Inbox;
use hayate_state::{Board, Clock, Policy, Published};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, oneshot};
use tokio::task::spawn_local;

pub use open::OpenError;
pub use post::Asker;

use crate::config::{DoorConfig, ListenConfig};
use crate::engine::Engine;
use crate::pages::{Health, Pages};
use gate::{Gate, Role};
use open::UnixDoor;
use post::Post;
use stream::Listener;
use watch::Crowd;

/// Time beyond the timeouts that connections get to finish when the door stops.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// The open sockets, before anything is accepted.
#[derive(Debug)]
pub struct Door {
    tcp: Vec<TcpListener>,
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
            tcp: open::tcp(&config.addresses)?,
            unix: config.unix_socket.as_deref().map(UnixDoor::open).transpose()?,
            metrics: open::tcp(&config.metrics_addresses)?,
        })
    }

    /// The addresses of the gateway, with the ports the system chose.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.tcp.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// The addresses of the operator's pages, with the ports the system chose.
    #[must_use]
    pub fn metrics_addresses(&self) -> Vec<SocketAddr> {
        self.metrics.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Starts serving on a thread of its own. `health` says whether the whole process serves.
    ///
    /// # Errors
    /// When a route cannot be served, or the system gives no thread or no poller.
    pub fn start(
        self,
        config: &Arc<Published<DoorConfig>>,
        policy: &Arc<Published<Policy>>,
        inbox: Inbox<Asker>,
        clock: Clock,
        board: Arc<Board>,
        health: Health,
    ) -> io::Result<Running> {
        let engine = Engine::new(config.subscribe(), policy.subscribe())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        if self.unix.is_some() && engine.config().proxy_header.is_none() {
            log::warn!("http: without proxy_header no announce through the unix socket can be answered");
        }
        engine.stats().list(&board);
        let beats = Arc::new(AtomicU64::new(0));
        let room = Room { engine, inbox, pages: Pages { board, health }, clock, beats: Arc::clone(&beats) };
        let (stop, stopped) = oneshot::channel();
        let (ready, readiness) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name("http".into()).spawn(move || {
            if let Err(error) = room.run(self, stopped, &ready) {
                // The starter waits for exactly one word.
                let _ = ready.send(Err(error));
            }
        })?;
        readiness.recv().unwrap_or_else(|_| Err(io::Error::other("the thread of the gateway ended")))?;
        Ok(Running { thread, stop, beats })
    }
}

/// A door that serves. Dropping it stops the door without waiting for it.
#[derive(Debug)]
pub struct Running {
    thread: JoinHandle<()>,
    stop: oneshot::Sender<()>,
    beats: Arc<AtomicU64>,
}

impl Running {
    /// Still serving? False only after a panic.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Grows, at least once a second, as long as the door is alive.
    #[must_use]
    pub fn beats(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.beats)
    }

    /// Stops accepting, answers the requests in flight with `Connection: close`, and waits for that no longer
    /// than the timeouts allow. The sender of the state actor's inbox is gone afterwards.
    pub fn stop(self) {
        // A thread that has ended needs no word.
        let _ = self.stop.send(());
        if self.thread.join().is_err() {
            log::error!("the gateway ended with a panic");
        }
    }
}

/// What goes to the thread.
struct Room {
    engine: Engine,
    inbox: Inbox<Asker>,
    pages: Pages,
    clock: Clock,
    beats: Arc<AtomicU64>,
}

type Ready = std::sync::mpsc::SyncSender<io::Result<()>>;

impl Room {
    fn run(self, door: Door, stopped: oneshot::Receiver<()>, ready: &Ready) -> io::Result<()> {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
        runtime.block_on(async {
            let gate = self.gate(!door.metrics.is_empty());
            gate.beat();
            let mut loops = Vec::new();
            let mut open = |role, listener| loops.push(spawn_local(Rc::clone(&gate).accept(role, listener)));
            for listener in door.tcp {
                open(Role::Gateway, Listener::Tcp(tokio::net::TcpListener::from_std(listener)?));
            }
            for listener in door.metrics {
                open(Role::Operator, Listener::Tcp(tokio::net::TcpListener::from_std(listener)?));
            }
            let (unix, file) = door.unix.map(UnixDoor::into_parts).unzip();
            if let Some(listener) = unix {
                open(Role::Gateway, Listener::Unix(tokio::net::UnixListener::from_std(listener)?));
            }
            spawn_local(Rc::clone(&gate).watch());
            spawn_local(Rc::clone(&gate.post).deliver());
            // The starter waits for this word, so it is there to hear it.
            let _ = ready.send(Ok(()));
            // A sender that was dropped means stop too.
            let _ = stopped.await;
            drop(file);
            for accepting in loops {
                accepting.abort();
                // Only when the task is gone its socket is closed.
                let _ = accepting.await;
            }
            let longest = {
                let engine = gate.engine.borrow();
                engine.config().read_timeout + engine.config().write_timeout + STOP_GRACE
            };
            gate.finish(longest).await;
            Ok(())
        })
    }

    fn gate(self, metrics_apart: bool) -> Rc<Gate> {
        let stats = Arc::clone(self.engine.stats());
        Rc::new(Gate {
            engine: RefCell::new(self.engine),
            stats,
            inbox: self.inbox,
            post: Rc::new(Post::default()),
            pages: self.pages,
            clock: self.clock,
            metrics_apart,
            beats: self.beats,
            crowds: [Crowd::default(), Crowd::default()],
            emptied: Notify::new(),
            complained: Cell::new(None),
        })
    }
}

#[cfg(test)]
mod tests;
