//! Sockets, batches and threads: the only layer that touches the system. Linux only.
//!
//! | module | what is in it |
//! |---|---|
//! | `socket` | opening the sockets, or taking them over |
//! | `worker` | one thread: waits, has the engine decide, sends |
//! | `batch`, `layout` | many datagrams with one system call, and what lies beside them in memory |

#[expect(unsafe_code, reason = "system calls that take pointers; each block has its proof")]
mod batch;
mod layout;
mod socket;
mod worker;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use hayate_state::metrics::{Series, SeriesKind};
use hayate_state::{Board, Clock, Published, Tracker};
use mio::Waker;

use self::socket::{GrantedBuffers, Listener};
pub use self::socket::{InheritedSockets, OpenError};
use self::worker::Worker;
use crate::config::{SocketConfig, UdpConfig};
use crate::engine::Engine;

/// Time for which a busy worker waits for more datagrams, unless [`Server::coalescing`] sets another.
pub const COALESCE: Duration = Duration::from_millis(2);

/// Open sockets. Datagrams wait in them until [`Server::start`].
#[derive(Debug)]
pub struct Server {
    listeners: Vec<Listener>,
    workers: usize,
    coalesce: Duration,
}

impl Server {
    /// Opens all sockets. Nothing needs privileges after this.
    ///
    /// # Errors
    /// Fails when an address is taken or cannot be listened on; the error names it.
    pub fn open(config: &SocketConfig) -> Result<Self, OpenError> {
        let listeners = socket::open_sockets(config)?;
        Ok(Self { listeners, workers: config.workers.max(1), coalesce: COALESCE })
    }

    /// Takes over sockets that a predecessor has opened by the same configuration.
    ///
    /// # Errors
    /// Fails when the sockets are not those of `config`: an address is missing or superfluous, or has sockets
    /// for another number of workers.
    pub fn adopt(config: &SocketConfig, inherited: Vec<InheritedSockets>) -> Result<Self, OpenError> {
        let listeners = socket::adopt_sockets(config, inherited)?;
        Ok(Self { listeners, workers: config.workers.max(1), coalesce: COALESCE })
    }

    /// Duplicates the sockets, for a successor that takes them over while these are in use.
    ///
    /// # Errors
    /// Fails when the limit of open files is reached.
    pub fn clone_sockets(&self) -> io::Result<Vec<InheritedSockets>> {
        self.listeners.iter().map(Listener::clone_sockets).collect()
    }

    /// Sets the time for which a worker that is busy but not saturated waits for more datagrams, so that one
    /// wake-up serves many; zero = it never waits. More than a few milliseconds make no sense: every reply
    /// may be that late.
    #[must_use]
    pub fn coalescing(self, wait: Duration) -> Self {
        Self { coalesce: wait, ..self }
    }

    /// Returns the addresses listened on, in the order of the configuration, with the ports that the system
    /// chose.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|listener| listener.address).collect()
    }

    /// Starts the workers; `tracker` is called once for each, with its number from 0.
    ///
    /// # Errors
    /// Fails when a thread cannot be started or a poller cannot be made.
    pub fn start(
        self,
        config: &Arc<Published<UdpConfig>>,
        clock: Clock,
        board: &Board,
        tracker: impl Fn(usize) -> Tracker,
    ) -> io::Result<RunningServer> {
        let own: Arc<[SocketAddr]> = self.addresses().into();
        let buffers = Arc::new(socket::granted_buffers(&self.listeners));
        let stop = Arc::new(AtomicBool::new(false));
        let mut sockets: Vec<_> = self.listeners.into_iter().map(|l| l.sockets.into_iter()).collect();
        register_buffers(board, &buffers);
        let mut running = RunningServer::new(Arc::clone(&stop), self.workers, buffers);
        for number in 0..self.workers {
            let engine = Engine::new(tracker(number), config.subscribe());
            let metrics = Arc::clone(engine.metrics());
            let sockets = sockets.iter_mut().filter_map(Iterator::next).collect();
            let own = Arc::clone(&own);
            let (worker, waker) = Worker::new(engine, clock, sockets, own, self.coalesce, Arc::clone(&stop))?;
            running.liveness.turns.push(worker.turn_counter());
            running.spawn(number, worker, waker)?;
            metrics.register_metrics(board);
        }
        Ok(running)
    }
}

/// Registers gauges that end with their server: the board sums over servers, also over closed ones.
fn register_buffers(board: &Board, buffers: &Arc<GrantedBuffers>) {
    let register = |name, help, octets: fn(&GrantedBuffers) -> u64| {
        let buffers = Arc::downgrade(buffers);
        let read = Box::new(move || buffers.upgrade().map_or(0, |buffers| octets(&buffers)));
        board.register(Series { name, help, kind: SeriesKind::Gauge, labels: Vec::new(), read });
    };
    let help = "Receive buffer that the kernel granted to all sockets together.";
    register("udp_receive_buffer_bytes", help, |buffers| buffers.receive);
    let help = "Send buffer that the kernel granted to all sockets together.";
    register("udp_send_buffer_bytes", help, |buffers| buffers.send);
}

/// The running workers of a server. Dropping it stops them.
#[derive(Debug)]
pub struct RunningServer {
    stop: Arc<AtomicBool>,
    wakers: Vec<Waker>,
    threads: Vec<JoinHandle<()>>,
    liveness: WorkerLiveness,
    /// `/metrics` shows these as long as they exist.
    _buffers: Arc<GrantedBuffers>,
}

impl RunningServer {
    fn new(stop: Arc<AtomicBool>, expected: usize, buffers: Arc<GrantedBuffers>) -> Self {
        let liveness = WorkerLiveness { living: Arc::new(AtomicUsize::new(0)), expected, turns: Vec::new() };
        Self { stop, wakers: Vec::new(), threads: Vec::new(), liveness, _buffers: buffers }
    }

    fn spawn(&mut self, number: usize, worker: Worker, waker: Waker) -> io::Result<()> {
        let alive = AliveGuard::new(&self.liveness.living);
        let thread = std::thread::Builder::new().name(format!("udp-{number}")).spawn(move || {
            let _alive = alive;
            worker.run();
        })?;
        self.wakers.push(waker);
        self.threads.push(thread);
        Ok(())
    }

    /// Returns a handle by which other threads see whether the workers are alive.
    #[must_use]
    pub fn liveness(&self) -> WorkerLiveness {
        self.liveness.clone()
    }

    /// Whether every worker is serving.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.liveness.is_serving()
    }

    /// Ends all workers after their current batch, and waits for them.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Release);
        for waker in &self.wakers {
            if let Err(error) = waker.wake() {
                log::warn!("udp: a worker could not be woken, it ends within a second: {error}");
            }
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                log::error!("udp: a worker ended with a panic");
            }
        }
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        self.end();
    }
}

/// A handle that tells whether the workers of a server are alive, for `/health`.
#[derive(Clone, Debug)]
pub struct WorkerLiveness {
    living: Arc<AtomicUsize>,
    expected: usize,
    turns: Vec<Arc<AtomicU64>>,
}

impl WorkerLiveness {
    /// Whether every worker is serving: false once one has ended, also by a panic.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.living.load(Ordering::Acquire) == self.expected
    }

    /// Iterates over the turns of each worker so far. A worker that serves or waits for datagrams makes at
    /// least one turn a second.
    pub fn turns(&self) -> impl Iterator<Item = u64> {
        self.turns.iter().map(|turns| turns.load(Ordering::Relaxed))
    }
}

/// Counts one worker as alive for as long as the guard exists.
struct AliveGuard(Arc<AtomicUsize>);

impl AliveGuard {
    fn new(living: &Arc<AtomicUsize>) -> Self {
        living.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(living))
    }
}

impl Drop for AliveGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
